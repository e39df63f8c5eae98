// Energy: queries that read again and again, in the landscape whose valleys are the keys.
// The markup comes from energy.py (in the page, or in model.get("still")); this file moves it. Same numbers, same format.
import { EPS64, UNIT, cells, descend, energy, figure, jacobian, listed, maxAbs, movable, num, put, putHandle, write } from "./qkv.mjs";

const KEYS = ["K", "Q", "V", "alpha", "tied"];
const STEPS = 8, RISE = 1e-9, RIM = 1e-9;
const HALF = 160, MESH = 8, SIDE = (2 * HALF) / MESH + 1, WALL = 1e9;
const LEVELS = Array.from({ length: 16 }, (_, i) => 0.02 * (i + 1) * (i + 1)).reverse();
const LEFT = 44, ACROSS = 31, TOP = 14, DOWN = 130;

// --- the mathematics ---

// Everything the picture shows; see Facts and Descent in energy.py.
export function facts(state) {
  const { K: keys, alpha, tied } = state, values = tied ? keys : state.V;
  return { values, tied, hull: hull(values), descents: state.Q.map((q) => descent(q, keys, values, alpha)) };
}

function descent(q, keys, values, alpha) {
  const path = descend(q, keys, values, alpha, STEPS), energies = path.map((p) => energy(p, keys, alpha));
  const drops = energies.slice(1).map((e, t) => energies[t] - e);
  const bounds = path.slice(1).map(([x, y], t) => ((x - path[t][0]) ** 2 + (y - path[t][1]) ** 2) / 2);
  const j = jacobian(q, keys, values, alpha), skew = Math.abs(j[0][1] - j[1][0]);
  return {
    path, energies, drops, bounds, jacobian: j, skew,
    rises: drops.flatMap((drop, t) => (drop < -RISE ? [t + 1] : [])),
    enough: drops[0] >= bounds[0] - RISE,
    rests: bounds[0] <= RISE ** 2,
    symmetric: skew <= 64 * EPS64 * (1 + maxAbs(j)),
  };
}

// The eigenvalues of a symmetric 2 x 2 matrix, the largest first.
export function eigenvalues2([[a, b], [, d]]) {
  const middle = (a + d) / 2, apart = Math.hypot((a - d) / 2, b);
  return [middle + apart, middle - apart];
}

// The corners of the convex hull, in order (Andrew 1979).
export function hull(points) {
  const rows = points.map((row) => [...row]).sort(([a, b], [c, d]) => a - c || b - d);
  return [...half(rows), ...half(rows.reverse())];
}
const turn = (a, b, c) => (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]);
function half(rows) {
  const found = [];
  for (const row of rows) {
    while (found.length > 1 && turn(found.at(-2), found.at(-1), row) <= 0) found.pop();
    found.push(row);
  }
  return found.slice(0, -1);
}

// --- the landscape ---

// The energy on a square mesh, with a wall around it: rows of SIDE + 2 samples, one after the other.
function samples({ K: keys, alpha }) {
  const width = SIDE + 2, mesh = new Float64Array(width * width).fill(WALL);
  const scores = new Float64Array(keys.length);
  for (let r = 0; r < SIDE; r++) {
    const y = -(r * MESH - HALF) / UNIT;
    for (let c = 0; c < SIDE; c++) {
      const x = (c * MESH - HALF) / UNIT;
      let top = -Infinity, sum = 0;
      keys.forEach(([a, b], j) => {
        scores[j] = alpha * (x * a + y * b);
        if (scores[j] > top) top = scores[j];
      });
      for (const s of scores) sum += Math.exp(s - top);
      mesh[(r + 1) * width + c + 1] = (x * x + y * y) / 2 - (top + Math.log(sum)) / alpha;
    }
  }
  return mesh;
}

// For each level the region below it; see contours in energy_picture.py. A side of the mesh is 2 * sample, + 1 if it goes down.
export function contours(state) {
  const mesh = samples(state), lowest = mesh.reduce((a, b) => Math.min(a, b));
  return LEVELS.map((level) => region(mesh, lowest + level));
}

function region(mesh, level) {
  const width = SIDE + 2, after = new Int32Array(2 * mesh.length).fill(-1), starts = [];
  for (let r = 0; r + 1 < width; r++) {
    for (let c = 0; c + 1 < width; c++) {
      const p = r * width + c, a = mesh[p] < level, b = mesh[p + 1] < level;
      const d = mesh[p + width] < level, e = mesh[p + width + 1] < level;
      if (a === b && a === d && a === e) continue;
      const low = [a, b, e, d], sides = [2 * p, 2 * p + 3, 2 * (p + width), 2 * p + 1];
      for (let k = 0; k < 4; k++) {
        if (!low[k] || low[(k + 1) % 4]) continue;
        let m = (k + 3) % 4;
        while (low[m]) m = (m + 3) % 4;
        after[sides[k]] = sides[m];
        starts.push(sides[k]);
      }
    }
  }
  return starts.map((start) => loop(mesh, level, after, start)).join("");
}

function loop(mesh, level, after, start) {
  if (after[start] < 0) return "";
  let [x, y] = crossing(mesh, level, start);
  const head = `M${x} ${y}l`, steps = [];
  let side = after[start];
  for (after[start] = -1; side !== start; ) {
    const [a, b] = crossing(mesh, level, side), next = after[side];
    steps.push(a - x, b - y);
    [x, y] = [a, b];
    after[side] = -1;
    side = next;
  }
  return `${head}${steps.join(" ")}z`;
}

function crossing(mesh, level, side) {
  const width = SIDE + 2, p = side >> 1, down = side & 1, c = (p % width) - 1, r = Math.floor(p / width) - 1;
  const t = (level - mesh[p]) / (mesh[p + (down ? width : 1)] - mesh[p]);
  return [Math.round(10 * (MESH * (down ? c : c + t) - HALF)), Math.round(10 * (MESH * (down ? r + t : r) - HALF))];
}

// --- the same text as energy.py ---

export function sentence(f) {
  return [aboutHypothesis(f), ...f.descents.map(about), aboutJacobian(f)].join(" ");
}

const aboutHypothesis = ({ tied }) => (tied
  ? "Values are keys: no step raises the energy, and each lowers it by half the square of its length or more."
  : "Values are not keys: a step may go up or down.");

function about(d, i) {
  const name = `Query ${i + 1}`;
  if (d.rests) return `${name} rests: reading again leaves it where it is.`;
  const ends = `${name}: from ${num(d.energies[0])} to ${num(d.energies.at(-1))} in ${STEPS} steps`;
  if (!d.rises.length) {
    return `${ends}; the first lowers it by ${num(d.drops[0])}, ${d.enough ? "at least" : "less than"} the bound ${num(d.bounds[0])}.`;
  }
  const many = d.rises.length > 1, most = num(-Math.min(...d.drops));
  return `${ends}, but it rises at step${many ? "s" : ""} ${listed(d.rises.map(String))} (by ${many ? "up to " : ""}${most}).`;
}

function aboutJacobian({ tied, descents }) {
  if (tied) return "The Jacobian of the read-out is \u03b1 times a covariance: symmetric, no eigenvalue below 0.";
  if (descents.every((d) => d.symmetric)) return "Here the Jacobian of the read-out happens to be symmetric.";
  const by = num(Math.max(...descents.map((d) => d.skew)));
  return `The Jacobian of the read-out is not symmetric (by ${by}): no function has this read-out as its gradient.`;
}

export function verdicts(d) {
  const [drop] = d.drops, bound = num(d.bounds[0]);
  const first = d.rests ? ["yes", "\u2713 at rest"]
    : d.enough ? ["yes", `\u2713 falls by ${num(drop)} \u2265 ${bound}`]
    : ["no", drop < -RISE ? `\u2717 rises by ${num(-drop)}` : `\u2717 falls by ${num(drop)} < ${bound}`];
  return {
    first,
    jacobian: d.symmetric ? ["yes", `\u2713 symmetric, eigenvalues ${listed(eigenvalues2(d.jacobian).map(num))}`]
      : ["no", `\u2717 not symmetric, by ${num(d.skew)}`],
  };
}

// --- the picture ---

const tenths = ([x, y]) => `${Math.round(10 * UNIT * x)} ${Math.round(-10 * UNIT * y)}`;
const line = (points) => "M" + points.map(tenths).join("L");

function span({ descents }) {
  const all = descents.flatMap((d) => d.energies);
  const low = Math.floor(2 * Math.min(...all) + RIM) / 2, high = Math.ceil(2 * Math.max(...all) - RIM) / 2;
  return [low, Math.max(high, low + 0.5)];
}

const height = (e, [low, high]) => Math.round(10 * (TOP + (DOWN * (high - e)) / (high - low)));
// The heights of the names in the chart, moved down where one would cover another.
function spread(heights) {
  let free = -Infinity;
  const out = [];
  for (const i of heights.map((_, i) => i).sort((a, b) => heights[a] - heights[b])) {
    out[i] = (Math.max(heights[i], free) / 10 + 4).toFixed(1);
    free = Math.max(heights[i], free) + 120;
  }
  return out;
}

// What is drawn of one query, on the plane and in the chart.
function drawn(d, tied, scale) {
  const at = (t, e) => `${Math.round(10 * (LEFT + ACROSS * t))} ${height(e, scale)}`;
  const on = (t) => at(t, d.energies[t]);
  return {
    track: line(d.path),
    climb: d.rises.map((t) => line(d.path.slice(t - 1, t + 1))).join(""),
    stops: d.path.slice(1).map((p) => `M${tenths(p)}h0`).join(""),
    curve: "M" + d.energies.map((_, t) => on(t)).join("L"),
    bound: tied ? d.bounds.map((b, t) => `M${at(t + 0.75, d.energies[t] - b)}h${5 * ACROSS}`).join("") : "",
    rise: d.rises.map((t) => `M${on(t - 1)}L${on(t)}`).join(""),
    marks: d.energies.map((_, t) => `M${on(t)}h0`).join(""),
  };
}

function paint(part, state) {
  const f = facts(state), scale = span(f), names = spread(f.descents.map((d) => height(d.energies.at(-1), scale)));
  contours(state).forEach((d, i) => put(part("level", i), "d", d));
  for (const [kind, rows] of [["key", state.K], ["value", state.V], ["query", state.Q]]) {
    rows.forEach((row, i) => putHandle(part(kind, i), row));
  }
  put(part("plane"), "data-tied", String(f.tied));
  put(part("hull"), "d", line(f.hull) + "z");
  put(part("ties"), "d", state.K.map((k, i) => line([k, state.V[i]])).join(""));
  f.descents.forEach((d, i) => {
    for (const [key, path] of Object.entries(drawn(d, f.tied, scale))) put(part(key, i), "d", path);
    put(part("name", i), "y", names[i]);
    cells(part("jacobian", i), d.jacobian, 2);
    for (const [key, [holds, text]] of Object.entries(verdicts(d))) {
      put(part("tag", key, i), "data-state", holds);
      write(part("tag", key, i).firstElementChild, text);
    }
  });
  write(part("low"), num(scale[0]));
  write(part("high"), num(scale[1]));
  controls(part, state);
  return { line: sentence(f), f };
}

function controls(part, { alpha, tied }) {
  const size = alpha.toFixed(1);
  part("alpha").value = alpha;
  put(part("alpha"), "aria-valuetext", size);
  write(part("size"), size);
  write(part("term size"), size);
  part("tied").checked = tied;
  for (const name of ["of", "term", "bars"]) {
    part(name, "tied").toggleAttribute("hidden", !tied);
    part(name, "untied").toggleAttribute("hidden", tied);
  }
}

function fillTable(part, state, { f }) {
  const walk = (d) => d.path.flatMap((p, t) => [...p, d.energies[t], t ? d.drops[t - 1] : NaN, t ? d.bounds[t - 1] : NaN]);
  const numbers = [
    ...state.K.flat(), ...state.V.flat(), ...f.descents.flatMap(walk), ...f.descents.flatMap((d) => d.jacobian.flat()),
  ];
  part("twin").querySelectorAll("td").forEach((cell, i) => write(cell, Number.isNaN(numbers[i]) ? "\u2013" : num(numbers[i])));
}

// --- the hands ---

function render(place) {
  const { part, read, set, listen, begin } = figure(place, KEYS, paint, fillTable);
  for (const [kind, key] of [["key", "K"], ["value", "V"], ["query", "Q"]]) {
    read()[key].forEach((_, index) => movable(listen, part(kind, index), () => read()[key][index],
      (row) => (set({ [key]: read()[key].map((old, i) => (i === index ? row : old)) }), true)));
  }
  listen(part("alpha"), "input", (e) => set({ alpha: Number(e.target.value) }));
  listen(part("tied"), "change", (e) => set({ tied: e.target.checked }));
  return begin();
}

export default { render };
