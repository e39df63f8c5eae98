// Asymmetry: what a map loses when queries are keys, and which corrections give it back.
// The markup comes from asymmetry.py (in the page, or in model.get("still")); this file moves it. Same numbers, same format.
import {
  EPS64, affinity, bySize, cells, eigenvalues, figure, map, matmul, maxAbs, movable, num, pixel, put, putHandle, rope, softmaxRows,
  stationary, subtract, transpose, write,
} from "./qkv.mjs";

const KEYS = ["tokens", "mode", "correction", "temperature", "causal", "W_Q", "W_K"];
const KEY_BIAS = [1.5, -0.5, 0, -1, 1, 0.5], LINEAR = 0.5, CUBIC = 0.05, WEAK = 0.002;
const LIMIT = { scores: 4, map: 1, skew: 1 };

// --- the mathematics ---

const BIAS = {
  "key-bias": (i, j) => KEY_BIAS[j],
  linear: (i, j) => LINEAR * (j - i),
  cubic: (i, j) => CUBIC * (j - i) ** 3,
};
export const choose = (n, k, from = 0) => (k === 0 ? [[]]
  : Array.from({ length: n - from }, (_, i) => from + i).flatMap((i) => choose(n, k - 1, i + 1).map((rest) => [i, ...rest])));
// The first of those that rounding cannot tell from the largest.
const firstLargest = (items, size) => items.reduce((best, item) => (size(item) > size(best) + 1e-12 ? item : best));
export const crosses = ([, a, b]) => a + b > 1 + 64 * EPS64;

// Everything the picture shows; see Facts in asymmetry.py.
export function facts(state) {
  const { tokens, causal } = state, n = tokens.length;
  const turn = state.correction === "rope" ? rope : (rows) => rows;
  const keys = matmul(tokens, state.W_K), queries = state.mode === "q=k" ? keys : matmul(tokens, state.W_Q);
  const bias = BIAS[state.correction] ?? (() => 0), scale = state.temperature / Math.sqrt(2);
  const scores = matmul(turn(queries), transpose(turn(keys))).map((row, i) => row.map((x, j) => scale * x + bias(i, j)));
  const a = softmaxRows(scores, causal ? scores.map((row, i) => row.map((_, j) => j <= i)) : null);
  const tolerance = 64 * EPS64 * (1 + maxAbs(scores)), skew = subtract(a, transpose(a));
  const logs = map(Math.log, a);
  const cycles = choose(n, 3).map((at) => [at, causal ? NaN : affinity(logs, ...at)]);
  const strongest = firstLargest(cycles, ([, size]) => Math.abs(size));
  const reversible = !causal && Math.abs(strongest[1]) <= tolerance;
  const pairs = choose(n, 2).map(([i, j]) => [[i, j], a[i][j], a[j][i]]);
  const values = spectrum(a, causal, reversible);
  // What rounding may do to an eigenvalue; see Facts.blur in asymmetry.py.
  const blur = causal || reversible ? 64 * EPS64 : (64 * EPS64) ** (1 / (n - 1));
  const contains = ([x, y]) => Math.abs(y) <= blur && x >= -blur && x <= 1 + blur;
  return {
    scores, map: a, skew, causal, tolerance, cycles, strongest, reversible, pairs, eigenvalues: values,
    flow: causal ? null : flow(a),
    largest: firstLargest(pairs, ([, a, b]) => a + b),
    symmetricScores: maxAbs(subtract(scores, transpose(scores))) <= tolerance,
    symmetricMap: maxAbs(skew) <= tolerance,
    complex: values.filter(([, y]) => Math.abs(y) > blur).length,
    inside: values.every(contains), contains,
  };
}

function flow(a) {
  const law = stationary(a), out = a.map((row, i) => row.map((x) => law[i] * x));
  return subtract(out, transpose(out));
}

// A triangular map has its diagonal; a reversible one is similar to the symmetric matrix of the roots of A_ij A_ji.
export function spectrum(a, triangular, reversible) {
  if (triangular) return bySize(a.map((row, i) => [row[i], 0]));
  return reversible ? eigenvalues(map((x, y) => Math.sqrt(x * y), a, transpose(a))).map(([x]) => [x, 0]) : eigenvalues(a);
}

// --- the same text as asymmetry.py ---

const one = (t) => t + 1;
const round = (at, size) => {
  const [i, j, k] = at.map(one);
  return size > 0 ? `${i} \u2192 ${j} \u2192 ${k} \u2192 ${i}` : `${i} \u2192 ${k} \u2192 ${j} \u2192 ${i}`;
};
const signed = (x) => x.toFixed(1).replace("-", "\u2212");

export function sentence(f) {
  return [aboutScores(f), aboutFlow(f), aboutEigenvalues(f), aboutPairs(f)].join(" ");
}

function aboutScores(f) {
  if (f.causal) {
    return `The map is one-sided; before the mask the scores are ${f.symmetricScores ? "" : "not "}symmetric.`;
  }
  const by = num(maxAbs(f.skew));
  if (f.symmetricScores) return f.symmetricMap ? "The scores and the map are symmetric." : `The scores are symmetric, the map is not (by ${by}).`;
  return f.symmetricMap ? "The scores are not symmetric, yet the map is." : `Neither the scores nor the map is symmetric (the map by ${by}).`;
}

function aboutFlow(f) {
  if (f.causal) return "The map is not reversible: no round has a way back, and so no cycle affinity.";
  if (f.reversible) return "The map is reversible: every round is as likely as its way back (cycle affinity 0, up to rounding).";
  const [at, size] = f.strongest;
  return `The map is not reversible: the round ${round(at, size)} is likelier than its way back (cycle affinity ${num(Math.abs(size))}).`;
}

function aboutEigenvalues(f) {
  if (f.complex) return `${f.complex === 2 ? "Two" : "Four"} of its eigenvalues are complex.`;
  if (f.inside) return `Its eigenvalues are real and in [0, 1]${f.causal ? ", on its diagonal" : ""}.`;
  return `Its eigenvalues are real, but the smallest is ${num(Math.min(...f.eigenvalues.map(([x]) => x)))}.`;
}

function aboutPairs(f) {
  const [[i, j], a, b] = f.largest, where = `tokens ${one(i)} and ${one(j)}, with pair sum ${num(a + b)}`;
  return crosses(f.largest) ? `Across the line: ${where}.` : `No pair crosses the line; closest are ${where}.`;
}

export function verdicts(f) {
  const over = f.pairs.filter(crosses).length, one = (holds, yes, no) => (holds ? ["yes", yes] : ["no", no]);
  return {
    scores: one(f.symmetricScores, "\u2713 symmetric", "\u2717 not symmetric"),
    map: one(f.symmetricMap, "\u2713 symmetric", f.causal ? "\u2717 one-sided" : "\u2717 not symmetric"),
    skew: one(f.symmetricMap, "\u2713 zero", `largest ${num(maxAbs(f.skew))}`),
    cycles: one(f.reversible, "\u2713 balanced: reversible", f.causal ? "\u2014 no way back: not reversible" : "\u2717 not reversible"),
    eigenvalues: one(f.inside, "\u2713 real, in [0, 1]", f.complex ? `\u2717 ${f.complex} are complex` : "\u2717 real, but below 0"),
    pairs: f.causal ? ["none", "\u2013 one-sided: the bound says nothing here"] : one(!over, "\u2713 no pair crosses", over === 1 ? "\u2717 1 pair crosses" : `\u2717 ${over} pairs cross`),
  };
}

// --- the picture ---

// The net flow pi_i A_ij - pi_j A_ji as an arrow between two tokens, from where to where it goes: its path and its weight.
function stream(f, points, i, j) {
  const size = f.causal || f.reversible ? 0 : f.flow[i][j];
  const [start, end] = size > 0 ? [points[i], points[j]] : [points[j], points[i]];
  const dx = end[0] - start[0], dy = end[1] - start[1], length = Math.sqrt(dx * dx + dy * dy);
  if (Math.abs(size) < WEAK || length < 0.8) return ["", "0.00"]; // nothing to draw, or no room between the knobs
  const ux = dx / length, uy = dy / length;
  const a = [start[0] + 0.3 * ux, start[1] + 0.3 * uy], b = [end[0] - 0.34 * ux, end[1] - 0.34 * uy];
  const [left, right] = [0.09, -0.09].map((side) => [b[0] - 0.16 * ux + side * uy, b[1] - 0.16 * uy - side * ux]);
  return [`M${pixel(a)}L${pixel(b)}M${pixel(left)}L${pixel(b)}L${pixel(right)}`, Math.min(1, 10 * Math.abs(size)).toFixed(2)];
}

function flowNote(f) {
  if (f.causal) return "No arrows: a reader who follows the attention ends at token 1.";
  if (f.reversible) return "No arrows: as much attention flows from each token to any other as flows back.";
  return "Arrows: more flows this way than back, for a reader who follows the attention.";
}

function turning(f, size) {
  if (f.causal) return ["none", "\u2014", "0.00"];
  if (Math.abs(size) <= f.tolerance) return ["balanced", "0", "0.00"];
  return [size > 0 ? "forth" : "back", num(Math.abs(size)), Math.min(1, Math.abs(size) / 4).toFixed(2)];
}

function dot(el, holds, x, y) {
  put(el, "data-state", holds);
  put(el, "cx", x);
  put(el, "cy", y);
}

function paint(part, state) {
  const f = facts(state), said = verdicts(f);
  state.tokens.forEach((row, i) => putHandle(part("token", i), row));
  for (const [[i, j]] of f.pairs) {
    const [d, weight] = stream(f, state.tokens, i, j), arrow = part("flow", i, j);
    put(arrow, "d", d);
    put(arrow, "style", `--w:${weight}`);
  }
  write(part("flow note"), flowNote(f));
  for (const name of Object.keys(LIMIT)) {
    cells(part(name), f[name], LIMIT[name], (i, j) => (name !== "skew" && state.causal && j > i ? "masked" : ""));
  }
  for (const [name, [holds, text]] of Object.entries(said)) {
    put(part("tag", name), "data-state", holds);
    write(part("tag", name).firstElementChild, text);
  }
  for (const [at, size] of f.cycles) {
    const el = part("cycle", ...at), [turn, text, weight] = turning(f, size);
    put(el, "data-turn", turn);
    put(el, "style", `--w:${weight}`);
    write(el.lastElementChild, text);
  }
  f.eigenvalues.forEach((value, i) => {
    dot(part("eigenvalue", i), f.contains(value) ? "yes" : "no", (110 + 90 * value[0]).toFixed(1), (110 - 90 * value[1]).toFixed(1));
  });
  const square = ([, a, b]) => [(30 + 180 * a).toFixed(1), (190 - 180 * b).toFixed(1)];
  for (const pair of f.pairs) {
    dot(part("pair", ...pair[0]), f.causal ? "none" : crosses(pair) ? "no" : "yes", ...square(pair));
  }
  const [pair, a, b] = f.largest, name = part("pair name");
  put(name, "transform", `translate(${(30 + 180 * a + (a < 0.5 ? 9 : -9)).toFixed(1)} ${(194 - 180 * b).toFixed(1)})`);
  put(name, "class", a < 0.5 ? "name " : "name end");
  write(name, pair.map(one).join(", "));
  controls(part, state);
  return { line: sentence(f), f };
}

function controls(part, state) {
  for (const key of ["mode", "correction"]) {
    const group = part(key, state[key]).parentElement;
    for (const button of group.querySelectorAll("button")) put(button, "aria-pressed", String(button === part(key, state[key])));
  }
  const slider = part("temperature"), size = signed(state.temperature);
  slider.value = state.temperature;
  put(slider, "aria-valuetext", size);
  write(part("size"), size);
  write(part("term size"), size);
  part("causal").checked = state.causal;
  const terms = { k: state.mode === "q=k", q: state.mode !== "q=k" };
  for (const name of ["rope", ...Object.keys(BIAS)]) terms[name] = state.correction === name;
  for (const [name, shown] of Object.entries(terms)) part("term", name).toggleAttribute("hidden", !shown);
}

function fillTable(part, state, { f }) {
  const numbers = [
    ...state.tokens.flat(),
    ...f.map.flatMap((row, i) => row.flatMap((x, j) => [f.scores[i][j], x, f.skew[i][j]])),
    ...f.pairs.map(([, a, b]) => a + b),
    ...f.cycles.map(([, size]) => size),
    ...f.eigenvalues.flat(),
  ];
  part("twin").querySelectorAll("td").forEach((cell, i) => write(cell, Number.isNaN(numbers[i]) ? "none" : num(numbers[i])));
}

// --- the hands ---

function render(place) {
  const { part, parts, read, set, listen, begin } = figure(place, KEYS, paint, fillTable);
  read().tokens.forEach((_, index) => movable(listen, part("token", index), () => read().tokens[index],
    (row) => (set({ tokens: read().tokens.map((old, i) => (i === index ? row : old)) }), true)));
  for (const [name, node] of parts) {
    const [key, value] = name.split(" ");
    if (key === "mode" || key === "correction") listen(node, "click", () => set({ [key]: value }));
  }
  listen(part("temperature"), "input", (e) => set({ temperature: Number(e.target.value) }));
  listen(part("causal"), "change", (e) => set({ causal: e.target.checked }));
  return begin();
}

export default { render };
