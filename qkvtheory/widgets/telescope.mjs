// Telescope: a stack of three layers in which every layer's basis slides into the next.
// The markup, with the weights, comes from telescope.py; this file moves it. Same numbers, same text.
import {
  attention, figure, html, inverse, listed, map, matmul, maxAbs, num, put, rmsNorm, rotation, sci, subtract, transpose,
  write,
} from "./qkv.mjs";

const SWITCHES = ["attention_skip", "mlp_skip", "norm", "tied", "shared", "singular"];
const REPAIRS = ["norm_repair", "tied_repair", "singular_repair"];
const CHOICES = ["linear", "spare units", "layer 1", "layer 2", "layer 3"];
const KEYS = [...SWITCHES, "mlp_repair", ...REPAIRS];
const LAYERS = [0, 1, 2], SIZE = 4, SPARE = 16, TOLERANCE = 1e-9;
const PLACES = ["X\u2081", "Y\u2081", "X\u2082", "Y\u2082", "X\u2083", "Y\u2083", "X\u2084", "logits"];
const one = [[1, 0], [0, 1]];

// --- which basis goes where ---

// A basis for every state, by the name of its matrix: "Q2" is W_Q of layer 2, "Q2r" its rotation, "" is I.
export function plan(state) {
  const on = (name) => state[name] && state[name + "_repair"];
  const bad = !state.singular ? [] : state.shared ? [1, 2, 3] : [2];
  const joined = state.attention_skip && state.mlp_skip;
  const own = [1, 2, 3].map((layer) => "Q" + (state.shared ? 1 : layer));
  let x = own.map((key, i) => (bad.includes(i + 1) && on("singular") ? "K" + (i + 1) : key));
  if (joined && state.mlp_repair.startsWith("layer")) x = Array(3).fill(x[state.mlp_repair.at(-1) - 1]);
  const same = new Set(x).size === 1;
  // With one basis for all, the tie asks of it what a norm does: to be a rotation. Else it asks for I at both ends.
  if (on("norm") || (on("tied") && joined && same)) x = x.map((key) => key + "r");
  x.push(same ? x[0] : "");
  if (on("tied") && !(joined && same)) x[0] = x[3] = "";
  const refused = Number(x.find((key) => bad.some((layer) => key === "Q" + layer))?.[1] ?? 0);
  if (refused) x.fill("");
  const y = LAYERS.map((i) => (state.attention_skip ? x[i] : state.mlp_skip ? x[i + 1] : ""));
  const keys = [...LAYERS.flatMap((i) => [x[i], y[i]]), x[3]];

  const repair = LAYERS.map((i) => (joined && y[i] !== x[i + 1] ? state.mlp_repair : "none"));
  const skips = repair.map((mend) => (mend === "linear" ? mend : state.mlp_skip)), spare = repair.map((mend) => mend === "spare units");
  const form = (i, name) => (x[i] === name ? "I" : x[i] === name + "r" ? "T" : x[i] + name);
  const W_Q = own.map((name, i) => form(i, name)), W_K = LAYERS.map((i) => form(i, "K" + (i + 1)));
  // Stored is nothing for I, three numbers for a triangular matrix, four for any other, and one matrix if it is shared.
  const size = (forms) => forms.reduce((sum, f) => sum + ({ I: 0, T: 3 }[f] ?? SIZE), 0);
  const kept = state.shared ? [...new Set(W_Q)] : W_Q, before = state.shared ? 1 : 3;
  const saved = SIZE * (before + 3 - count(skips, "linear")) - SPARE * count(spare, true) - size(kept) - size(W_K);
  const left = kept.length - count(kept, "I");
  return { keys, refused, causes: causes(state, keys, skips, spare), W_Q, W_K, skips, spare, before, left, saved };
}

const count = (list, what) => list.filter((other) => other === what).length;

function causes(state, keys, skips, spare) {
  const found = [];
  for (let place = 1; place < 7; place++) {
    const [before, after] = [keys[place - 1], keys[place]];
    if (state.norm && before && !before.endsWith("r")) found.push(["norm", place]);
    if (place % 2) continue;
    if (!spare[place / 2 - 1]) { if (skips[place / 2 - 1] === true && before !== after) found.push(["mlp_skip", place]); }
    else if (state.norm) found.push(["spare", place]); // spare units stand behind the norm, the skip does not
  }
  if (state.tied && (keys[0] !== keys[6] || (keys[0] && !keys[0].endsWith("r")))) found.push(["tied", 7]);
  return found;
}

// --- the mathematics ---

function original(state, weights) {
  const layers = weights.layers.map((layer, i) => ({
    ...layer, skip: state.mlp_skip,
    W_Q: state.singular && (state.shared || i === 1) ? weights.singular : weights.layers[state.shared ? 0 : i].W_Q,
  }));
  return { E: weights.E, D: state.tied ? transpose(weights.E) : weights.D, layers };
}

function bases({ layers }, keys) {
  const made = { "": null };
  for (const key of keys) {
    if (key in made) continue;
    const weight = layers[key[1] - 1]["W_" + key[0]];
    made[key] = key.endsWith("r") ? rotation(weight) : weight;
  }
  return keys.map((key) => made[key]);
}

// All weights in the bases of the plan, as if there were no skip around the MLP, no norm and no tie; they stay as they are.
function rewritten(old, state, { keys, W_Q, W_K, skips, spare }) {
  const basis = bases(old, keys), back = basis.map((theta) => theta && inverse(theta));
  const reads = (at, w) => (back[at] ? matmul(back[at], w) : w);
  const writes = (w, at) => (basis[at] ? matmul(w, basis[at]) : w);
  const E = writes(old.E, 0);
  const layers = old.layers.map((w, i) => {
    const x = 2 * i, y = x + 1, after = x + 2, turn = writes(reads(y, one), after), M = subtract(turn, one);
    const up = reads(y, w.W_up), down = writes(w.W_down, after), minus = (a) => map((s) => -s, a);
    return {
      W_Q: W_Q[i] === "I" ? one : reads(x, w.W_Q), W_K: W_K[i] === "I" ? one : reads(x, w.W_K),
      W_V: reads(x, w.W_V), W_O: writes(w.W_O, y), skip: skips[i] === "linear" ? turn : state.mlp_skip,
      W_up: spare[i] ? up.map((row, j) => [...row, ...one[j], ...minus(one)[j]]) : up, W_down: spare[i] ? [...down, ...M, ...minus(M)] : down,
    };
  });
  return { E, D: state.tied ? transpose(E) : reads(6, old.D), layers };
}

// Its two sides differ by z: gelu(z) - gelu(-z) = z, which is what spare units need.
const gelu = (z) => (z / 2) * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (z + 0.044715 * z ** 3)));

// The hidden states X_1, Y_1, ..., X_4 and the logits, for the three tokens of the vocabulary.
function run({ E, D, layers }, state) {
  const normed = state.norm ? rmsNorm : (x) => x, add = (a, b) => map((s, t) => s + t, a, b);
  const states = [E];
  for (const w of layers) {
    const x = states.at(-1), r = normed(x);
    const z = matmul(attention(matmul(r, w.W_Q), matmul(r, w.W_K), matmul(r, w.W_V)).output, w.W_O);
    const y = state.attention_skip ? add(x, z) : z;
    const u = matmul(map(gelu, matmul(normed(y), w.W_up)), w.W_down);
    states.push(y, w.skip === true ? add(y, u) : w.skip ? add(matmul(y, w.skip), u) : u);
  }
  return [...states, matmul(states.at(-1), D)];
}

export function view(state, weights) {
  const chosen = plan(state), old = original(state, weights), reference = run(old, state);
  if (chosen.refused) return { plan: chosen, wanted: reference, got: null, errors: null, first: 8 };
  const wanted = [...bases(old, chosen.keys), null].map((theta, i) => (theta ? matmul(reference[i], theta) : reference[i]));
  const got = run(rewritten(old, state, chosen), state);
  const errors = got.map((a, i) => maxAbs(subtract(a, wanted[i])) / maxAbs(wanted[i]));
  const first = errors.findIndex((e) => !(e <= TOLERANCE));
  return { plan: chosen, wanted, got, errors, first: first < 0 ? 8 : first };
}

// --- the same text as telescope.py ---

const sub = (i) => "\u2081\u2082\u2083"[i];
const percent = (error) => `${num(100 * error)}%`;

function basis(key, { keys }) {
  if (!key) return "";
  return new Set(keys.filter(Boolean)).size === 1 ? "\u0398" : "\u0398" + sub(key[1] - 1);
}

const layers = (numbers) =>
  (numbers.length === 3 ? "every layer" : `layer${numbers.length > 1 ? "s" : ""} ${listed(numbers)}`);

export function sentence(state, seen) {
  const { plan: chosen } = seen;
  if (!chosen.refused) return chosen.causes.length ? broken(seen) : whole(state, chosen);
  const which = state.shared ? "the shared W<sub>Q</sub>" : `W<sub>Q</sub> of layer ${chosen.refused}`;
  return `Refused: ${which} is singular, it has no inverse, so nothing is rewritten.`;
}

function broken({ plan: chosen, errors }) {
  const [kind, place] = chosen.causes[0], at = PLACES[place], before = PLACES[place - 1];
  const from = basis(chosen.keys[place - 1], chosen), to = basis(chosen.keys[place], chosen) || "I";
  const why = {
    norm: `${at} breaks first: lengths change with ${from}, so N(${before}${from}) \u2260 N(${before})${from}.`,
    mlp_skip: `${at} breaks first: the MLP skip brings ${before}${from} where ${before}${to} belongs. `
      + `The error is ${before}(${from || "I"} \u2212 ${to}).`,
    spare: `${at} breaks first: the spare units read N(${before}), which does not give back ${before}.`,
    tied: "Every equality of the states holds, but the tied readout breaks: "
      + `${before}${from}(E${basis(chosen.keys[0], chosen)})\u1d40 \u2260 ${before}E\u1d40.`,
  }[kind];
  const names = { norm: "the norm", mlp_skip: "the MLP skip", spare: "the spare units", tied: "the tie" };
  const others = Object.keys(names).filter((other) => other !== kind && chosen.causes.some(([what]) => what === other));
  const also = others.length ? ` T${listed(others.map((other) => names[other])).slice(1)} would break it too.` : "";
  return `${why} The logits are off by ${percent(errors[7])}.${also}`;
}

function whole(state, chosen) {
  const said = [], linear = count(chosen.skips, "linear"), spare = count(chosen.spare, true);
  for (const [form, what] of [["I", " = I"], ["T", " is triangular (\u25e5)"]]) {
    for (const name of ["W_Q", "W_K"]) {
      const where = [1, 2, 3].filter((layer) => chosen[name][layer - 1] === form);
      if (where.length) said.push(`W<sub>${name[2]}</sub>${what} in ${layers(where)}.`);
    }
  }
  if (linear) said.push(`The linear skips cost ${SIZE * linear} parameters.`);
  else if (spare) said.push(`The spare units cost ${SPARE * spare} parameters.`);
  else if (state.attention_skip && state.mlp_skip) said.push("One basis passes every skip.");
  else if (state.mlp_skip) said.push("The MLP skip is harmless: attention already writes in the next basis.");
  if (state.norm) said.push("Rotations keep lengths, so the norms do not notice.");
  if (state.tied) said.push(chosen.keys[0] ? "A rotation keeps the tie." : "E stays, and so does its tie.");
  return ["Every equality holds, and the logits are the same.", ...said].join(" ");
}

// What a repair waits for.
export const hint = (pressed, possible) =>
  (!possible ? "waits until there is something to repair" : pressed ? "press again to undo" : "press to repair");
// What a strike-through says to those who do not see it.
export const voided = (seen) => (kind(seen, 7) === "broken" ? " does not count: the function has changed" : "");
// Where the saved parameters come from, if no matrix became I.
export const zeros = ({ saved, W_Q, W_K }) =>
  (saved > 0 && [...W_Q, ...W_K].includes("T") ? " (zeros of triangular matrices)" : "");

// --- the picture ---

const theta = (key, chosen, back = "") => (key ? `<i class="st">${basis(key, chosen)}${back}</i>` : "");
const KINDS = { Q: "sq", K: "sk", V: "sv" };
function word(left, name, right, chosen) {
  const weight = name[1] ? `${name[0]}<sub>${name.slice(2)}</sub>` : name;
  return `${theta(left, chosen, "\u207b\u00b9")}<i class="${KINDS[name.slice(2)] ?? ""}">${weight}</i>${theta(right, chosen)}`;
}

export function tiles(state, chosen) {
  const { keys } = chosen, made = { E: word("", "E", keys[0], chosen) };
  for (const i of LAYERS) {
    const [x, y, after] = keys.slice(2 * i);
    for (const name of ["W_Q", "W_K", "W_V"]) {
      const form = chosen[name]?.[i];
      made[`${name} ${i}`] = form === "I" ? `${word("", name, "", chosen)} = I`
        : word(x, name, "", chosen) + (form === "T" ? " \u25e5" : "");
    }
    made[`W_O ${i}`] = word("", "W_O", y, chosen);
    const spare = ` | ${theta(y, chosen, "\u207b\u00b9")}${theta(after, chosen)} \u2212 I`;
    made[`W_up ${i}`] = word(y, "W_up", "", chosen) + (chosen.spare[i] ? spare : "");
    made[`W_down ${i}`] = word("", "W_down", after, chosen);
  }
  made.D = !state.tied ? word(keys[6], "D", "", chosen) : keys[0] ? `(${made.E})\u1d40` : `${made.E}\u1d40`;
  return made;
}

const kind = ({ plan: { refused }, first }, place) => (refused ? "refused" : place >= first ? "broken" : "holds");
function mark({ errors, first }, place) {
  if (!errors) return "\u2013 not rewritten";
  const error = errors[place];
  if (!(error <= TOLERANCE)) return `\u2717 ${place === first ? "breaks here:" : "off by"} ${percent(error)}`;
  return error ? `\u2713 holds to ${sci(error)}` : "\u2713 holds exactly";
}

// What every switch that is on does to the equality.
export function happens(state, { refused, causes: blamed }) {
  const mended = { ...state, mlp_skip_repair: state.attention_skip && state.mlp_repair !== "none" };
  return Object.fromEntries(SWITCHES.map((name) => {
    if (refused) return [name, name === "singular" ? "refused" : ""];
    if (!state[name] || name === "attention_skip" || name === "shared") return [name, ""];
    const breaks = blamed.some(([what]) => what === name || (what === "spare" && name === "mlp_skip"));
    return [name, breaks ? "breaks" : mended[name + "_repair"] ? "repaired" : "harmless"];
  }));
}

export function legend(state, chosen) {
  if (chosen.refused) return "Nothing is rewritten.";
  const x = chosen.keys.filter((key, i) => key && i % 2 === 0), said = [];
  for (const which of ["Q", "K"]) {
    const keys = [...new Set(x)].filter((key) => key[0] === which), shared = state.shared && which === "Q";
    if (!keys.length) continue;
    const where = shared ? "all layers" : `layer${keys.length > 1 ? "s" : ""} ${keys.map((key) => key[1]).join(", ")}`;
    const turned = keys[0].endsWith("r") ? "the rotation in " : "";
    said.push(`${keys.map((key) => theta(key, chosen)).join(", ")} = ${turned}${word("", "W_" + which, "", chosen)} of ${where}`);
  }
  for (const [at, name] of [[0, "\u2081"], [6, "\u2084"]]) if (!chosen.keys[at]) said.push(`<i class="st">\u0398${name}</i> = I`);
  if (chosen.spare.includes(true)) said.push("after |: what the spare units add");
  return said.join("; ") + ".";
}

function paint(part, state) {
  const seen = view(state, JSON.parse(part("pipe").dataset.weights)), chosen = seen.plan;
  for (const [name, text] of Object.entries(tiles(state, chosen))) {
    const tile = part("tile", name);
    html(tile, text);
    put(tile, "class", text.endsWith("= I") ? "gone" : "");
  }
  let deep = 0;
  for (let place = 0; place < 8; place++) {
    const stands = kind(seen, place), row = part("state", place), said = part("mark", place);
    put(row, "data-state", stands);
    write(said, mark(seen, place));
    said.toggleAttribute("data-noise", stands === "holds");
    if (place === 7) break;
    const starts = place === 0 || chosen.keys[place] !== chosen.keys[place - 1];
    deep += place > 0 && starts;
    put(row, "data-starts", String(starts));
    for (const el of place < 6 ? [row, part("sub", place)] : [row]) {
      put(el, "data-state", stands);
      put(el, "style", `--g:${deep}`);
      put(el, "data-basis", chosen.keys[place] ? "\u0398" : "I");
    }
    html(part("name", place), `<i class="sx">${PLACES[place]}</i>${theta(chosen.keys[place], chosen)}`);
    if (place < 6) sublayer(part, state, chosen, place);
  }
  const said = happens(state, chosen);
  for (const name of SWITCHES) {
    part(name).checked = state[name];
    put(part("row", name), "data-happens", said[name]);
    write(part("happens", name), said[name]);
  }
  for (const name of REPAIRS) button(part("repair", name), state[name], state[name.slice(0, -7)]);
  for (const choice of CHOICES) button(part("repair", choice), state.mlp_repair === choice, state.attention_skip && state.mlp_skip);
  put(part("counts"), "data-state", kind(seen, 7));
  html(part("legend"), legend(state, chosen));
  write(part("left"), `${chosen.left} of ${chosen.before}`);
  write(part("saved"), String(chosen.saved).replace("-", "\u2212"));
  write(part("zeros"), zeros(chosen));
  for (const name of ["left", "saved"]) write(part("void", name), voided(seen));
  return { line: sentence(state, seen), seen };
}

function sublayer(part, state, { skips, causes: blamed }, place) {
  const arc = part("arc", place), norm = part("norm", place), layer = Math.floor(place / 2);
  const skip = place % 2 ? skips[layer] : state.attention_skip;
  put(arc, "data-skip", skip === "linear" ? skip : skip ? "identity" : "none");
  put(arc, "data-bad", String(blamed.some(([what, at]) => (what === "mlp_skip" || what === "spare") && at === place + 1)));
  norm.hidden = !state.norm;
  put(norm, "data-bad", String(blamed.some(([what, at]) => what === "norm" && at === place + 1)));
}

function button(el, pressed, possible) {
  put(el, "aria-pressed", String(pressed));
  put(el, "title", hint(pressed, possible));
  el.disabled = !possible;
}

function fillTable(part, state, { seen: { wanted, got } }) {
  const rows = part("twin").rows;
  let at = 0;
  wanted.forEach((matrix, place) => matrix.forEach((row, i) => row.forEach((old, j) => {
    const [, should, is, difference] = rows[at++].children;
    write(should, num(old));
    write(is, got ? num(got[place][i][j]) : "");
    write(difference, got ? sci(Math.abs(got[place][i][j] - old)) : "");
  })));
}

// --- the hands ---

function render(place) {
  const { part, read, set, listen, begin } = figure(place, KEYS, paint, fillTable);
  for (const name of SWITCHES) listen(part(name), "change", (e) => set({ [name]: e.target.checked }));
  for (const name of REPAIRS) listen(part("repair", name), "click", () => set({ [name]: !read()[name] }));
  for (const choice of CHOICES) {
    listen(part("repair", choice), "click", () => set({ mlp_repair: read().mlp_repair === choice ? "none" : choice }));
  }
  return begin();
}

export default { render };
