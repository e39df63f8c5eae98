// Shared arithmetic of the widgets. A matrix is an array of rows; tokens are rows, weights act on the right.
// The last argument rounds the result of every single operation: `float64` leaves it alone, `float32` is Math.fround,
// which reproduces IEEE single precision bit for bit in + - * / and sqrt (exp is rounded once, at its end).

export const float64 = (x) => x;
export const float32 = Math.fround;
export const EPS64 = 2 ** -52;
export const EPS32 = 2 ** -23;

export const map = (f, ...ms) => ms[0].map((row, i) => row.map((_, j) => f(...ms.map((m) => m[i][j]))));
export const transpose = (a) => a[0].map((_, j) => a.map((row) => row[j]));
export const maxAbs = (a) => a.reduce((best, row) => row.reduce((b, x) => (Math.abs(x) <= b ? b : Math.abs(x)), best), 0);
export const subtract = (a, b, round = float64) => map((x, y) => round(x - y), a, b);

export function matmul(a, b, round = float64) {
  return a.map((row) => b[0].map((_, j) => {
    let sum = round(row[0] * b[0][j]);
    for (let k = 1; k < row.length; k++) sum = round(sum + round(row[k] * b[k][j]));
    return sum;
  }));
}

// Gauss-Jordan elimination with partial pivoting. Throws a RangeError when a pivot is zero in this precision.
export function inverse(a, round = float64) {
  const n = a.length;
  const rows = a.map((row, i) => [...row, ...row.map((_, j) => (i === j ? 1 : 0))]);
  for (let c = 0; c < n; c++) {
    let p = c;
    for (let i = c + 1; i < n; i++) if (Math.abs(rows[i][c]) > Math.abs(rows[p][c])) p = i;
    const pivot = rows[p][c];
    if (!(Math.abs(pivot) > 0)) throw new RangeError("the matrix is singular in this precision");
    [rows[c], rows[p]] = [rows[p], rows[c]];
    rows[c] = rows[c].map((x) => round(x / pivot));
    for (let i = 0; i < n; i++) {
      if (i === c) continue;
      const factor = rows[i][c];
      rows[i] = rows[i].map((x, j) => round(x - round(factor * rows[c][j])));
    }
  }
  return rows.map((row) => row.slice(n));
}

// Condition number of a 2 x 2 matrix in the 2-norm; Infinity when it is singular.
export function cond2([[a, b], [c, d]]) {
  const largest = (Math.hypot(a + d, b - c) + Math.hypot(a - d, b + c)) / 2;
  return (largest * largest) / Math.abs(a * d - b * c);
}

// Row-wise softmax. `mask` (booleans, optional) says which entries take part; a row with none becomes zeros.
export function softmaxRows(scores, mask = null, round = float64) {
  return scores.map((row, i) => {
    const kept = row.map((_, j) => !mask || mask[i][j]);
    const top = Math.max(...row.filter((_, j) => kept[j]));
    const e = row.map((x, j) => (kept[j] ? round(Math.exp(round(x - top))) : 0));
    const sum = e.reduce((s, x) => round(s + x));
    return e.map((x) => (sum > 0 || sum !== sum ? round(x / sum) : 0));
  });
}

export function scores(q, k, round = float64) {
  const root = round(Math.sqrt(k[0].length));
  return map((x) => round(x / root), matmul(q, transpose(k), round));
}

// One head of attention from its three products: the score matrix, the attention map, the output.
export function attention(q, k, v, mask = null, round = float64) {
  const s = scores(q, k, round);
  const pattern = softmaxRows(s, mask, round);
  return { scores: s, pattern, output: matmul(pattern, v, round) };
}

// RMSNorm of each row, without gain.
export const rmsNorm = (x, eps = 1e-6) => x.map((row) => {
  const size = Math.sqrt(row.reduce((sum, v) => sum + v * v, 0) / row.length + eps);
  return row.map((v) => v / size);
});

// The rotation O in A = O T, with T upper triangular and its first entry positive; A is 2 x 2 and may be singular.
export function rotation([[a], [c]]) {
  const r = Math.hypot(a, c);
  return [[a / r, -c / r], [c / r, a / r]];
}

// Replaces a block of h, rows and columns k to k + v.length, so that the Householder reflection that sends v to a multiple of
// the first axis acts on both sides of h between lo and hi: a similarity, the eigenvalues stay.
function reflect(h, v, k, lo, hi) {
  const top = Math.max(...v.map(Math.abs));
  if (!(top > 0)) return;
  const u = v.map((x) => x / top), size = Math.hypot(...u);
  u[0] += u[0] < 0 ? -size : size;
  const twice = 2 / u.reduce((sum, x) => sum + x * x, 0);
  for (let j = lo; j <= hi; j++) {
    const along = twice * u.reduce((sum, x, i) => sum + x * h[k + i][j], 0);
    u.forEach((x, i) => void (h[k + i][j] -= along * x));
  }
  for (let i = lo; i <= hi; i++) {
    const along = twice * u.reduce((sum, x, j) => sum + h[i][k + j] * x, 0);
    u.forEach((x, j) => void (h[i][k + j] -= along * x));
  }
}

// One double-shift QR step (Francis 1961) on the rows and columns lo to hi of a Hessenberg matrix. Every tenth step in vain takes
// another shift: a permutation matrix would stay as it is forever.
function francis(h, lo, hi, step) {
  const [a, b, c, d] = [h[hi - 1][hi - 1], h[hi - 1][hi], h[hi][hi - 1], h[hi][hi]];
  const w = Math.abs(c) + Math.abs(h[hi - 1][hi - 2]), odd = step % 10 === 9;
  const sum = odd ? 1.5 * w : a + d, product = odd ? w * w : a * d - b * c;
  const [p, q, r] = [h[lo][lo], h[lo + 1][lo + 1], h[lo + 1][lo]];
  let v = [p * (p - sum) + h[lo][lo + 1] * r + product, r * (p + q - sum), r * h[lo + 2][lo + 1]];
  for (let k = lo; k < hi; k++) {
    reflect(h, v, k, lo, hi);
    v = [k + 1, k + 2, k + 3].filter((i) => i <= hi).map((i) => h[i][k]);
  }
}

// The eigenvalues [real, imaginary] of a small real matrix: Hessenberg form, then QR steps until it falls apart.
export function eigenvalues(matrix) {
  const h = matrix.map((row) => [...row]), n = h.length, size = maxAbs(h), found = [];
  for (let k = 1; k < n - 1; k++) reflect(h, h.slice(k).map((row) => row[k - 1]), k, 0, n - 1);
  const apart = (i) => Math.abs(h[i][i - 1]) <= EPS64 * (Math.abs(h[i][i]) + Math.abs(h[i - 1][i - 1]) || size);
  for (let hi = n - 1, steps = 0; hi >= 0; steps++) {
    if (steps > 300) throw new RangeError("no convergence: the matrix holds NaN or infinity");
    let lo = hi;
    while (lo > 0 && !apart(lo)) lo--;
    if (hi - lo > 1) francis(h, lo, hi, steps);
    else {
      found.push(...(lo === hi ? [[h[hi][hi], 0]] : twoEigenvalues(h[lo], h[hi], lo)));
      [hi, steps] = [lo - 1, 0];
    }
  }
  return bySize(found);
}

// The largest real part first; real parts that only rounding tells apart count as equal.
export const bySize = (values) => values.sort(([a, b], [c, d]) => Math.round(1e9 * c) - Math.round(1e9 * a) || b - d);

function twoEigenvalues(first, second, at) {
  const [a, b, c, d] = [first[at], first[at + 1], second[at], second[at + 1]];
  const half = (a - d) / 2, square = half * half + b * c, root = Math.sqrt(Math.abs(square));
  if (square < 0) return [[d + half, root], [d + half, -root]];
  const far = half + (half < 0 ? -root : root);
  return [[d + far, 0], [far === 0 ? d : d - (b * c) / far, 0]];
}

// The law pi with pi A = pi of a positive map, by the elimination that subtracts nothing (Grassmann, Taksar and Heyman 1985).
export function stationary(map) {
  const a = map.map((row) => [...row]), law = [1];
  for (let k = a.length - 1; k > 0; k--) {
    const out = a[k].slice(0, k).reduce((sum, x) => sum + x);
    for (let i = 0; i < k; i++) {
      a[i][k] /= out;
      for (let j = 0; j < k; j++) a[i][j] += a[i][k] * a[k][j];
    }
  }
  for (let k = 1; k < a.length; k++) law.push(law.reduce((sum, x, i) => sum + x * a[i][k], 0));
  const all = law.reduce((sum, x) => sum + x);
  return law.map((x) => x / all);
}

// Rows turned by 0, 1, 2, ... radians: RoPE for heads of width 2.
export const rope = (rows) => rows.map(([x, y], t) => {
  const [c, s] = [Math.cos(t), Math.sin(t)];
  return [x * c - y * s, x * s + y * c];
});

// log (A_ij A_jk A_ki) / (A_ik A_kj A_ji) from the logarithms of a map: positive if i, j, k is the likelier way round.
export const affinity = (logs, i, j, k) =>
  logs[i][j] + logs[j][k] + logs[k][i] - logs[i][k] - logs[k][j] - logs[j][i];

// Reading with one query, a row; see qkvtheory/energy.py. The largest score is taken out, so that no exponential overflows.
const inner = (a, b) => a.reduce((sum, x, c) => sum + x * b[c], 0);
const mean = (row, points) => points[0].map((_, c) => row.reduce((sum, a, j) => sum + a * points[j][c], 0));
function weigh(q, keys, scale) {
  const s = keys.map((k) => scale * inner(q, k)), top = Math.max(...s), e = s.map((x) => Math.exp(x - top));
  const sum = e.reduce((all, x) => all + x);
  return { row: e.map((x) => x / sum), log: top + Math.log(sum) };
}
export const readOut = (q, keys, values, scale) => mean(weigh(q, keys, scale).row, values);
export const energy = (q, keys, scale) => inner(q, q) / 2 - weigh(q, keys, scale).log / scale;
export function jacobian(q, keys, values, scale) {
  const { row } = weigh(q, keys, scale), k = mean(row, keys), v = mean(row, values);
  return v.map((_, a) => k.map((_, b) => scale * row.reduce((sum, x, j) => sum + x * (values[j][a] - v[a]) * (keys[j][b] - k[b]), 0)));
}
export function descend(q, keys, values, scale, steps) {
  const path = [q];
  while (path.length <= steps) path.push(readOut(path.at(-1), keys, values, scale));
  return path;
}

// --- the same text as text.py ---

export const UNIT = 52, REACH = 2;
export const minus = (text) => text.replaceAll("-", "\u2212");
export function num(x) {
  const size = Math.abs(x);
  if (!Number.isFinite(x)) return "\u221e";
  if (size < 0.005) return "0.00";
  return minus(size < 9999.5 ? x.toFixed(size < 9.995 ? 2 : size < 99.95 ? 1 : 0) : x.toExponential(0).replace("+", ""));
}
export const sci = (x) => (x === 0 ? "0" : !Number.isFinite(x) ? "\u221e"
  : minus(x >= 0.1 && x < 1000 ? x.toFixed(1) : x.toExponential(1).replace("+", "")));
export const listed = (names) => [names.slice(0, -1).join(", "), names.at(-1)].filter(Boolean).join(" and ");
export const pixel = ([x, y]) => `${(UNIT * x).toFixed(1)} ${(-UNIT * y).toFixed(1)}`;
export const shade = (x, limit) => {
  const size = Math.min(1, Math.abs(x) / limit).toFixed(2);
  return x < 0 && size !== "0.00" ? `--v:${size};--hi:var(--cell-neg)` : `--v:${size}`;
};

// --- a figure on the page ---

export const put = (el, attribute, value) => void (el.getAttribute(attribute) !== value && el.setAttribute(attribute, value));
export const write = (el, text) => void (el.textContent !== text && (el.textContent = text));
export const html = (el, text) => void (el.innerHTML !== text && (el.innerHTML = text));

export function putHandle(el, row) {
  put(el, "transform", `translate(${pixel(row)})`);
  put(el, "aria-valuenow", row[0].toFixed(2));
  put(el, "aria-valuetext", row.map(num).join(", "));
}

// The cells of a matrix; mark(i, j) names the class of a cell.
export function cells(el, matrix, limit, mark = () => "") {
  const columns = matrix[0].length;
  matrix.flat().forEach((x, at) => {
    const cell = el.children[at];
    put(cell, "style", shade(x, limit));
    put(cell, "class", mark(Math.floor(at / columns), at % columns));
    write(cell, num(x));
  });
}

// What every figure does: one paint per input, a sentence spoken when things rest, Escape to start again, and an end.
// paint(part, state) moves the picture and returns at least { line }, the sentence as HTML; fill(part, state, painted) writes the table.
export function figure({ model, el }, keys, paint, fill) {
  el.classList.add("qkv-widget");
  el.dataset.lmSuppressShortcuts = "true"; // JupyterLab's name for: its shortcuts rest while the focus is in here
  if (!el.querySelector("[data-part]")) el.innerHTML = model.get("still");
  const parts = new Map([...el.querySelectorAll("[data-part]")].map((node) => [node.dataset.part, node]));
  const part = (...name) => parts.get(name.join(" "));
  const read = () => Object.fromEntries(keys.map((key) => [key, model.get(key)]));
  const start = structuredClone(read());
  const end = new AbortController();
  const listen = (node, type, call, options) => node.addEventListener(type, call, { ...options, signal: end.signal });
  let last, speech, queued = false;

  function show() {
    queued = false;
    if (end.signal.aborted) return;
    const state = read();
    last = paint(part, state);
    if (part("details").open) fill(part, state, last);
    say(last.line);
  }
  // One paint per input, however many values it changed.
  const changed = () => void (queued || ((queued = true), queueMicrotask(show)));
  function say(line, wait = 350) {
    clearTimeout(speech);
    speech = setTimeout(() => html(part("live"), line), wait);
  }
  function set(values) {
    for (const [key, value] of Object.entries(values)) model.set(key, value);
    model.save_changes();
  }
  const reset = () => set(structuredClone(start));

  listen(part("reset"), "click", reset);
  listen(el, "keydown", (e) => {
    if (e.key === "Escape") reset();
    if (/^(Arrow|Page|Home|End|Escape)/.test(e.key)) e.stopPropagation(); // a notebook around us would take them for itself
  });
  listen(part("details"), "toggle", () => part("details").open && fill(part, read(), last));
  return { part, parts, read, set, say, listen, begin };

  function begin() {
    for (const key of keys) model.on("change:" + key, changed);
    part("controls").disabled = false;
    show();
    return () => {
      end.abort();
      clearTimeout(speech);
      for (const key of keys) model.off("change:" + key, changed);
    };
  }
}

// A handle on a plane, moved by pointer, touch or keys. position() is its point; place(point) is false where it may not go.
export function movable(listen, node, position, place) {
  node.setAttribute("tabindex", "0");
  let grab = null;
  // touch-action alone does not reach shapes inside SVG: without this the page scrolls away under the finger.
  listen(node, "touchstart", (e) => e.preventDefault(), { passive: false });
  listen(node, "pointerdown", (e) => {
    if (e.button !== 0) return;
    const svg = node.ownerSVGElement, scale = UNIT * (svg.getBoundingClientRect().width / svg.viewBox.baseVal.width);
    grab = { x: e.clientX, y: e.clientY, from: position(), scale };
    node.setPointerCapture(e.pointerId);
    node.focus({ preventScroll: true });
    e.preventDefault();
  });
  listen(node, "pointermove", (e) => {
    if (!grab) return;
    place(inReach([grab.from[0] + (e.clientX - grab.x) / grab.scale, grab.from[1] - (e.clientY - grab.y) / grab.scale]));
  });
  for (const type of ["pointerup", "pointercancel", "lostpointercapture"]) listen(node, type, () => void (grab = null));
  listen(node, "keydown", (e) => {
    const [x, y] = position(), step = e.shiftKey ? 0.5 : 0.1;
    const arrow = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[e.key];
    const jump = { Home: [-REACH, y], End: [REACH, y], PageUp: [x, REACH], PageDown: [x, -REACH] }[e.key];
    if (!arrow && !jump) return;
    e.preventDefault();
    if (jump) return void place(inReach(jump));
    // A step that may not be taken is taken twice: the keyboard must not get stuck in front of one bad point.
    for (let n = 1; n < 4 && !place(inReach([x + n * step * arrow[0], y + n * step * arrow[1]])); n++);
  });
}
const inReach = (point) => point.map((v) => Math.round(100 * Math.max(-REACH, Math.min(REACH, v))) / 100);
