// Basis change: X becomes X Theta, each weight W becomes Theta^-1 W, and the score matrix stays.
// The markup comes from basis_change.py (in the page, or in model.get("still")); this file moves it. Same numbers, same format.
import {
  EPS64, attention, cells, cond2, figure, float32, float64, inverse, listed, map, matmul, maxAbs, movable, num, pixel, put, putHandle,
  sci, subtract, write,
} from "./qkv.mjs";

const KEYS = ["tokens", "theta", "squeeze", "forget_k", "forget_v", "W_Q", "W_K", "W_V"];
const EDGE = 2.9, STEPS = 24, SQUEEZE = 12;
const LIMIT = { scores: 3, pattern: 1, output: 3, W_Q: 3, W_K: 3, W_V: 3 };
const NAMES = { scores: "Score matrix", pattern: "Attention map", output: "Output" };

// --- the mathematics ---

// Theta with its second row squeezed on to the line of the first by 10^-squeeze, as far as floats still know the difference.
export function squeezed([u, w], squeeze) {
  const shrink = 10 ** -Math.max(0, Math.min(squeeze, 12.5 - Math.log10(cond2([u, w]))));
  if (shrink === 1) return [u, w];
  const along = (u[0] * w[0] + u[1] * w[1]) / (u[0] * u[0] + u[1] * u[1]);
  return [u, u.map((x, j) => along * x + shrink * (w[j] - along * x))];
}

export function before(state) {
  const { tokens, W_Q, W_K, W_V } = state;
  return { W_Q, W_K, W_V, ...attention(matmul(tokens, W_Q), matmul(tokens, W_K), matmul(tokens, W_V)) };
}

export function after(state, theta, round = float64) {
  const cast = (m) => map(round, m);
  const [x, t] = [cast(state.tokens), cast(theta)];
  const moved = matmul(x, t, round), back = inverse(t, round);
  const weight = (name, forget) => (forget ? cast(state[name]) : matmul(back, cast(state[name]), round));
  const [W_Q, W_K, W_V] = [weight("W_Q"), weight("W_K", state.forget_k), weight("W_V", state.forget_v)];
  return { tokens: moved, W_Q, W_K, W_V,
    ...attention(matmul(moved, W_Q, round), matmul(moved, W_K, round), matmul(moved, W_V, round), null, round) };
}

const relative = (a, b) => maxAbs(subtract(a, b)) / maxAbs(b);

// The larger of the relative errors of scores and output; Infinity where Theta has no inverse in this precision.
export function error(state, theta, round, reference = before(state)) {
  try {
    const got = after(state, theta, round);
    const worst = Math.max(relative(got.scores, reference.scores), relative(got.output, reference.output));
    return Number.isNaN(worst) ? Infinity : worst;
  } catch (e) {
    if (e instanceof RangeError) return Infinity;
    throw e;
  }
}

// A comparison decides only while rounding, 64 eps cond, is far below what a mistake would show.
export function verdict(got, reference, cond) {
  const tolerance = 64 * EPS64 * cond;
  if (!(relative(got, reference) <= tolerance)) return "moves";
  return tolerance <= 1e-6 ? "stays" : "blurred";
}

// --- the same text as basis_change.py ---

export const reading = (err, bits) =>
  (Number.isFinite(err) ? sci(err) : `cannot be computed: \u0398 has no inverse in float${bits}`);
const inside = (point) => point.map((v) => Math.max(-EDGE, Math.min(EDGE, v)));
const chartX = (cond) => (44 + 20 * Math.min(13.5, Math.log10(cond))).toFixed(1);
const chartY = (err) => (186 - 9 * (17 + Math.max(-17, Math.min(2, Math.log10(err))))).toFixed(1);

function sentence(state, cond, verdicts, differences) {
  const names = (kind) => Object.keys(NAMES).filter((k) => verdicts[k] === kind);
  const moves = names("moves").map((k, i) => `${NAMES[k].toLowerCase()}${i ? "" : " moves"} by ${num(differences[k])}`);
  const [stay, blurred] = ["stays", "blurred"].map((kind) => names(kind).map((k) => NAMES[k].toLowerCase()));
  const told = [
    [["forget_k", "forget_v"].filter((k) => state[k]).map((k) => "W_" + k.at(-1).toUpperCase()), "Inverse forgotten on ", "."],
    [stay, "", stay.length > 1 ? " stay put." : " stays put."],
    [moves, "", "."],
    [blurred, "", " cannot be judged: rounding is too large."],
  ];
  const said = told.filter(([what]) => what.length).map(([what, start, end]) => start + listed(what) + end);
  return [...said.map((line) => line[0].toUpperCase() + line.slice(1)), `cond(\u0398) = ${sci(cond)}.`].join(" ");
}

// --- the picture ---

function paint(part, state) {
  const theta = squeezed(state.theta, state.squeeze), cond = cond2(theta);
  const reference = before(state), got = after(state, theta);

  state.tokens.forEach((row, i) => {
    const there = inside(got.tokens[i]);
    putHandle(part("token", i), row);
    put(part("ghost", i), "transform", `translate(${pixel(row)})`);
    put(part("image", i), "transform", `translate(${pixel(there)})`);
    put(part("trace", i), "d", `M${pixel(row)}L${pixel(there)}`);
  });
  theta.forEach((row, i) => {
    putHandle(part("basis", i), row);
    put(part("arrow", i), "d", `M0 0L${pixel(row)}`);
  });
  // A thousandth of a cell is one line to the eye; a browser draws nothing at all for much less.
  const drawn = squeezed(state.theta, Math.min(state.squeeze, 3));
  put(part("grid"), "transform", `matrix(${drawn.flat().map((x) => x.toFixed(4)).join(" ")} 0 0)`);

  const verdicts = {}, differences = {};
  for (const name of Object.keys(LIMIT)) {
    const compared = name in NAMES;
    if (compared) {
      verdicts[name] = verdict(got[name], reference[name], cond);
      differences[name] = maxAbs(subtract(got[name], reference[name]));
      const tag = part("tag", name);
      put(tag, "data-state", verdicts[name]);
      write(tag.firstElementChild, { stays: "\u2713 stays", moves: "\u2717 moves", blurred: "? blurred" }[verdicts[name]]);
      write(tag.lastElementChild, `${verdicts[name] === "moves" ? "by" : "differs by"} ${sci(differences[name])}`);
    }
    const floor = 1e-6 * maxAbs(reference[name]);
    cells(part("before", name), reference[name], LIMIT[name]);
    cells(part("after", name), got[name], LIMIT[name], (i, j) =>
      (compared && verdicts[name] === "moves" && Math.abs(got[name][i][j] - reference[name][i][j]) > floor ? "moved" : ""));
  }
  for (const [name, key] of [["W_K", "forget_k"], ["W_V", "forget_v"]]) put(part("weight", name), "data-forgot", String(state[key]));

  for (const [bits, round] of [["64", float64], ["32", float32]]) {
    const line = [];
    for (let i = 0; i <= STEPS; i++) {
      const t = squeezed(state.theta, (SQUEEZE * i) / STEPS);
      line.push(`${chartX(cond2(t))},${chartY(error(state, t, round, reference))}`);
    }
    const now = error(state, theta, round, reference);
    put(part("curve", bits), "points", line.join(" "));
    put(part("dot", bits), "transform", `translate(${chartX(cond)} ${chartY(now)})`);
    write(part("error", bits), reading(now, bits));
  }
  put(part("now"), "transform", `translate(${chartX(cond)} 0)`);
  write(part("cond"), sci(cond));

  const slider = part("squeeze");
  slider.value = state.squeeze;
  put(slider, "aria-valuetext", `condition number ${sci(cond)}`);
  part("forget_k").checked = state.forget_k;
  part("forget_v").checked = state.forget_v;
  return { line: sentence(state, cond, verdicts, differences), reference, got };
}

function fillTable(part, state, { reference, got }) {
  const rows = part("twin").rows;
  let at = 0;
  for (const name of ["tokens", "W_Q", "W_K", "W_V", "scores", "pattern", "output"]) {
    const old = name === "tokens" ? state.tokens : reference[name];
    old.forEach((row, i) => row.forEach((x, j) => {
      const [, b, a, d] = rows[at++].children, y = got[name][i][j];
      write(b, num(x));
      write(a, num(y));
      write(d, sci(Math.abs(y - x)));
    }));
  }
}

// --- the hands ---

function render(place) {
  const { part, parts, read, set, say, listen, begin } = figure(place, KEYS, paint, fillTable);
  const basis = () => { const state = read(); return squeezed(state.theta, state.squeeze); };

  // Moves a handle; false when the two basis vectors would fall on one line.
  function move(kind, index, row) {
    const swap = (m) => m.map((old, i) => (i === index ? row : old));
    if (kind === "token") return set({ tokens: swap(read().tokens) }), true;
    const theta = swap(basis());
    if (!(cond2(theta) < 1e12)) {
      queueMicrotask(() => say("Refused: on one line the two vectors are no basis, and \u0398 has no inverse.", 0));
      return false;
    }
    return set({ theta, squeeze: 0 }), true;
  }

  for (const [name, node] of parts) {
    const [kind, at] = name.split(" "), index = Number(at);
    if (kind === "token") movable(listen, node, () => read().tokens[index], (row) => move(kind, index, row));
    if (kind === "basis") movable(listen, node, () => basis()[index], (row) => move(kind, index, row));
  }
  listen(part("squeeze"), "input", (e) => set({ squeeze: Number(e.target.value) }));
  for (const key of ["forget_k", "forget_v"]) listen(part(key), "change", (e) => set({ [key]: e.target.checked }));
  return begin();
}

export default { render };
