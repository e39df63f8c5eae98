// Basis change: X becomes X Theta, each weight W becomes Theta^-1 W, and the score matrix stays.
// The markup comes from basis_change.py (in the page, or in model.get("still")); this file moves it. Same numbers, same format.
import { EPS64, attention, cond2, float32, float64, inverse, map, matmul, maxAbs, subtract } from "./qkv.mjs";

const KEYS = ["tokens", "theta", "squeeze", "forget_k", "forget_v", "W_Q", "W_K", "W_V"];
const UNIT = 52, EDGE = 2.9, REACH = 2, STEPS = 24, SQUEEZE = 12;
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

const minus = (text) => text.replaceAll("-", "\u2212");
export function num(x) {
  const size = Math.abs(x);
  if (!Number.isFinite(x)) return "\u221e";
  if (size < 0.005) return "0.00";
  return minus(size < 9999.5 ? x.toFixed(size < 9.995 ? 2 : size < 99.95 ? 1 : 0) : x.toExponential(0).replace("+", ""));
}
export const sci = (x) => (x === 0 ? "0" : !Number.isFinite(x) ? "\u221e"
  : minus(x >= 0.1 && x < 1000 ? x.toFixed(1) : x.toExponential(1).replace("+", "")));
export const reading = (err, bits) =>
  (Number.isFinite(err) ? sci(err) : `cannot be computed: \u0398 has no inverse in float${bits}`);
const where = ([x, y]) => `${num(x)}, ${num(y)}`;
const pixel = ([x, y]) => `${(UNIT * x).toFixed(1)} ${(-UNIT * y).toFixed(1)}`;
const inside = (point) => point.map((v) => Math.max(-EDGE, Math.min(EDGE, v)));
const shade = (x, limit) => {
  const style = "--v:" + Math.min(1, Math.abs(x) / limit).toFixed(2);
  return x < 0 ? style + ";--hi:var(--cell-neg)" : style;
};
const chartX = (cond) => (44 + 20 * Math.min(13.5, Math.log10(cond))).toFixed(1);
const chartY = (err) => (186 - 9 * (17 + Math.max(-17, Math.min(2, Math.log10(err))))).toFixed(1);

const listed = (names) => [names.slice(0, -1).join(", "), names.at(-1)].filter(Boolean).join(" and ");
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

const put = (el, attribute, value) => void (el.getAttribute(attribute) !== value && el.setAttribute(attribute, value));
const write = (el, text) => void (el.textContent !== text && (el.textContent = text));

function paint(part, state) {
  const theta = squeezed(state.theta, state.squeeze), cond = cond2(theta);
  const reference = before(state), got = after(state, theta);

  state.tokens.forEach((row, i) => {
    const there = inside(got.tokens[i]);
    handle(part("token", i), row);
    put(part("ghost", i), "transform", `translate(${pixel(row)})`);
    put(part("image", i), "transform", `translate(${pixel(there)})`);
    put(part("trace", i), "d", `M${pixel(row)}L${pixel(there)}`);
  });
  theta.forEach((row, i) => {
    handle(part("basis", i), row);
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
    cells(part("after", name), got[name], LIMIT[name], compared && verdicts[name] === "moves"
      && ((i, j) => Math.abs(got[name][i][j] - reference[name][i][j]) > floor));
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

function handle(el, row) {
  put(el, "transform", `translate(${pixel(row)})`);
  put(el, "aria-valuenow", row[0].toFixed(2));
  put(el, "aria-valuetext", where(row));
}

function cells(el, matrix, limit, moved = null) {
  matrix.flat().forEach((x, at) => {
    const cell = el.children[at], columns = matrix[0].length;
    put(cell, "style", shade(x, limit));
    put(cell, "class", moved && moved(Math.floor(at / columns), at % columns) ? "moved" : "");
    write(cell, num(x));
  });
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

function render({ model, el }) {
  el.classList.add("qkv-widget");
  el.dataset.lmSuppressShortcuts = "true"; // JupyterLab's name for: its shortcuts rest while the focus is in here
  if (!el.querySelector("[data-part]")) el.innerHTML = model.get("still");
  const parts = new Map([...el.querySelectorAll("[data-part]")].map((node) => [node.dataset.part, node]));
  const part = (...name) => parts.get(name.join(" "));
  const read = () => Object.fromEntries(KEYS.map((key) => [key, model.get(key)]));
  const start = structuredClone(read());
  const end = new AbortController();
  const listen = (node, type, call) => node.addEventListener(type, call, { signal: end.signal });
  let last, speech, queued = false;

  function show() {
    queued = false;
    if (end.signal.aborted) return;
    const state = read();
    last = paint(part, state);
    if (part("details").open) fillTable(part, state, last);
    say(last.line);
  }
  // One paint per input, however many values it changed.
  const changed = () => void (queued || ((queued = true), queueMicrotask(show)));
  function say(line, wait = 350) {
    clearTimeout(speech);
    speech = setTimeout(() => write(part("live"), line), wait);
  }
  function set(values) {
    for (const [key, value] of Object.entries(values)) model.set(key, value);
    model.save_changes();
  }

  // Moves a handle; false when the two basis vectors would fall on one line.
  function place(kind, index, point) {
    const row = point.map((v) => Math.round(100 * Math.max(-REACH, Math.min(REACH, v))) / 100);
    const swap = (m) => m.map((old, i) => (i === index ? row : old));
    if (kind === "token") return set({ tokens: swap(model.get("tokens")) }), true;
    const theta = swap(squeezed(model.get("theta"), model.get("squeeze")));
    if (!(cond2(theta) < 1e12)) {
      queueMicrotask(() => say("Refused: on one line the two vectors are no basis, and \u0398 has no inverse.", 0));
      return false;
    }
    return set({ theta, squeeze: 0 }), true;
  }
  const position = (kind, index) =>
    (kind === "token" ? model.get("tokens") : squeezed(model.get("theta"), model.get("squeeze")))[index];

  for (const [name, node] of parts) {
    const [kind, at] = name.split(" "), index = Number(at);
    if (kind !== "token" && kind !== "basis") continue;
    node.setAttribute("tabindex", "0");
    let grab = null;
    // touch-action alone does not reach shapes inside SVG: without this the page scrolls away under the finger.
    node.addEventListener("touchstart", (e) => e.preventDefault(), { passive: false, signal: end.signal });
    listen(node, "pointerdown", (e) => {
      if (e.button !== 0) return;
      const scale = UNIT * (node.ownerSVGElement.getBoundingClientRect().width / 320);
      grab = { x: e.clientX, y: e.clientY, from: position(kind, index), scale };
      node.setPointerCapture(e.pointerId);
      node.focus({ preventScroll: true });
      e.preventDefault();
    });
    listen(node, "pointermove", (e) => {
      if (!grab) return;
      place(kind, index, [grab.from[0] + (e.clientX - grab.x) / grab.scale, grab.from[1] - (e.clientY - grab.y) / grab.scale]);
    });
    for (const type of ["pointerup", "pointercancel", "lostpointercapture"]) listen(node, type, () => void (grab = null));
    listen(node, "keydown", (e) => {
      const [x, y] = position(kind, index), step = e.shiftKey ? 0.5 : 0.1;
      const arrow = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[e.key];
      const jump = { Home: [-REACH, y], End: [REACH, y], PageUp: [x, REACH], PageDown: [x, -REACH] }[e.key];
      if (!arrow && !jump) return;
      e.preventDefault();
      if (jump) return void place(kind, index, jump);
      // A step that would land on a singular Theta is taken twice: the keyboard must not get stuck in front of it.
      for (let n = 1; n < 4 && !place(kind, index, [x + n * step * arrow[0], y + n * step * arrow[1]]); n++);
    });
  }
  const reset = () => set(structuredClone(start));
  listen(part("squeeze"), "input", (e) => set({ squeeze: Number(e.target.value) }));
  for (const key of ["forget_k", "forget_v"]) listen(part(key), "change", (e) => set({ [key]: e.target.checked }));
  listen(part("reset"), "click", reset);
  listen(el, "keydown", (e) => {
    if (e.key === "Escape") reset();
    if (/^(Arrow|Page|Home|End|Escape)/.test(e.key)) e.stopPropagation(); // a notebook around us would take them for itself
  });
  listen(part("details"), "toggle", () => part("details").open && fillTable(part, read(), last));
  for (const key of KEYS) model.on("change:" + key, changed);

  part("controls").disabled = false;
  show();
  return () => {
    end.abort();
    clearTimeout(speech);
    for (const key of KEYS) model.off("change:" + key, changed);
  };
}

export default { render };
