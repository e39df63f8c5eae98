// Gauge counter: which parameters of a small network matter, and which a change of basis can turn into 0 or 1.
// The markup comes from gauge_counter.py; this file moves it. Same numbers, same cells, same text; everything is a whole number.
import { figure, html, put, write } from "./qkv.mjs";

const CHOICES = ["topology", "norm", "queries", "layers", "groups", "positions", "activation"], FLAGS = ["gains", "biases", "tied"];
const KEYS = [...CHOICES, ...FLAGS, "show"];
const D = 4, WIDTH = 2, HIDDEN = 5, ROWS = 5, CONTEXT = 4; // of stream, head, MLP, E and D, P; two heads
const PARTS = ["stream", "positions", "heads", "gains", "invisible to LayerNorm", "activation", "biases"];
const LETTERS = Object.fromEntries(PARTS.map((part, i) => [part, "sphgiab"[i]]));
const sum = (numbers) => numbers.reduce((all, n) => all + n, 0);

// --- what the switches mean ---

function network(state) {
  const a = { ...state, gains: state.gains && state.norm !== "none", rope: state.positions === "RoPE", own: state.queries === "own" };
  a.kv = state.groups === "one" ? 1 : 2;
  a.inputs = (state.activation === "SwiGLU" ? 2 : 1) * HIDDEN;
  a.states = 2 * a.layers + 1;
  a.free = { T0: a.states, TA: a.layers + 1, TM: a.layers + 1, T2: 1 }[a.topology];
  a.read = a.topology === "T2" ? 1 : a.layers; // bases of states that attention reads
  a.ln = a.norm === "LayerNorm";
  a.seen = a.ln ? D - 1 : D;
  a.turn = a.tied || a.norm !== "none"; // rotations only
  return a;
}

// Which of the combinations that no formula covers this is, counted from 1; or 0.
function uncovered(a) {
  const normed = a.norm !== "none", past = a.topology === "TA" || a.topology === "T2";
  return 1 + [
    !past && a.kv === 1, !past && a.rope && normed,
    a.biases && normed, a.biases && !a.own, a.biases && a.tied,
    a.tied && a.topology !== "T2", a.tied && a.ln, a.tied && (a.gains || !a.own),
    a.queries === "shared" && (a.topology !== "T2" || normed), a.queries === "identity" && a.gains,
  ].indexOf(true);
}

function count(a) {
  const rotations = (n) => (n * (n - 1)) / 2, pair = a.rope ? WIDTH : WIDTH * WIDTH;
  const each = a.turn ? rotations(a.seen) : D * D, kept = a.kv * (a.ln ? 0 : a.turn ? 1 : pair);
  const scores = { own: a.layers, shared: 1, identity: 0 }[a.queries] * a.kv * pair;
  const reads = a.layers * ((a.queries === "identity" ? 0 : 2 * WIDTH) + 2 * a.kv * WIDTH + a.inputs) + ROWS;
  const writes = a.layers * (2 * WIDTH + HIDDEN) + ROWS + (a.rope ? 0 : CONTEXT);
  return {
    stream: a.queries === "identity" ? a.read * kept + (a.free - a.read) * each : a.free * each,
    positions: a.rope || a.tied ? 0 : a.seen,
    heads: scores + a.layers * a.kv * WIDTH * WIDTH,
    gains: a.gains ? D * a.states : 0,
    "invisible to LayerNorm": a.ln ? reads + writes : 0,
    activation: a.activation === "GELU" ? 0 : a.layers * HIDDEN,
    biases: a.biases ? a.layers * a.kv * WIDTH * (a.rope ? 1 : 2) + a.states * D : 0,
  };
}

// --- the normal form ---

// A matrix: "." for a cell that matters, otherwise the letter of its part, small for 0 and large for 1. One with a note is no parameter.
const sheet = (name, place, rows, columns, note = "") => ({ name, place, rows, columns, note, cells: note ? [] : Array(rows * columns).fill(".") });
const fix = (s, part, i, j, one = false) => void (s.cells[i * s.columns + j] = one ? LETTERS[part].toUpperCase() : LETTERS[part]);
const row = (s, part, i, columns, one = false) => { for (let j = 0; j < columns; j++) fix(s, part, i, j, one); };
const unit = (s, part, left, size) => { for (let i = 0; i < size * size; i++) fix(s, part, Math.floor(i / size), left + (i % size), i % (size + 1) === 0); };
const lower = (s, part, size) => { for (let i = 0; i < size; i++) row(s, part, i, i); };
const upper = (s, part, size) => { for (let i = 0; i < size; i++) for (let j = i + 1; j < size; j++) fix(s, part, i, j); };

function blank(a) {
  const made = [sheet("E", 0, ROWS, D)], k = a.kv * WIDTH, end = a.layers + 1;
  if (!a.rope) made.push(sheet("P", 0, CONTEXT, D));
  for (let layer = 1; layer < end; layer++) {
    const queries = { own: "", shared: layer > 1 ? "as in layer 1" : "", identity: "= I" }[a.queries];
    for (const [name, rows, columns, note] of [["W_Q", D, D, queries], ["W_K", D, k], ["W_V", D, k], ["W_O", D, D], ["W_up", D, a.inputs], ["W_down", HIDDEN, D]]) {
      if (a.gains && (name === "W_Q" || name === "W_up")) made.push(sheet("\u03b3", layer, 1, D));
      made.push(sheet(name, layer, rows, columns, note));
      if (a.biases) made.push(sheet(name.replace("W", "b"), layer, 1, columns));
    }
  }
  if (a.gains) made.push(sheet("\u03b3", end, 1, D));
  made.push(sheet("D", end, D, ROWS, a.tied ? "= E\u1d40" : ""));
  if (a.biases) made.push(sheet("b_D", end, 1, ROWS));
  return made;
}

function normalForm(a) {
  const sheets = blank(a), at = (name, place) => sheets.find((s) => s.name === name && s.place === place);
  const spend = (s, read) => (a.norm === "none" ? unit(s, "stream", 0, D) : (read ? lower : upper)(s, "stream", a.seen));
  for (let layer = 1; layer <= a.layers; layer++) {
    for (let head = 0; head < a.kv; head++) unit(at("W_V", layer), "heads", head * WIDTH, WIDTH);
    if (layer === 1 || a.topology !== "T2") fixQueries(a, at("W_Q", layer), layer > 1 ? at(a.topology === "TM" ? "W_O" : "W_down", layer - 1) : at("E", 0));
    else if (a.own) fixHeads(a, at("W_K", layer), "heads", WIDTH);
    if (a.topology === "T0") spend(at("W_O", layer), false);
    if (a.activation !== "GELU") for (let j = a.inputs - HIDDEN; j < a.inputs; j++) fix(at("W_up", layer), "activation", 0, j, true);
  }
  if (a.topology !== "T2") spend(at("D", a.layers + 1), true);
  if (!a.rope && !a.tied) row(at("P", 0), "positions", 0, a.seen);
  sheets.forEach((s) => fixVectors(a, s));
  return sheets;
}

// The first rows of each key/value head: I, or 1, 0 if RoPE leaves a turn and a scale.
function fixHeads(a, s, part, step, first = 0) {
  for (let j = first * step; j < a.kv * step; j += step) {
    if (!a.rope) unit(s, part, j, WIDTH);
    else for (const k of [0, 1]) fix(s, part, 0, j + k, k === 0);
  }
}

function fixQueries(a, s, write) {
  const step = 4 / a.kv, part = a.queries === "identity" ? "stream" : "heads";
  if (!a.turn) {
    if (part === "heads") unit(s, "stream", 0, D);
    fixHeads(a, write, part, step);
  }
  if (a.turn && a.own) {
    lower(s, "stream", a.seen);
    fixDiagonal(a, s, step);
  }
  if (a.turn && !a.ln && !(a.rope && a.own)) for (let head = 0; head < a.kv; head++) fix(write, part, 0, head * step + 1);
}

function fixDiagonal(a, s, step) {
  for (let i = 0; i < (a.ln ? 1 : a.kv * step); i += step) {
    fix(s, "heads", i, i, true);
    fix(s, "heads", i, i + 1);
    if (!a.rope) fix(s, "heads", i + 1, i + 1, true);
  }
  if (a.ln && !a.rope) fix(s, "heads", 2, 2);
  if (a.ln) fixHeads(a, s, "heads", step, 1);
}

function fixVectors(a, s) {
  const { name, columns } = s, invisible = "invisible to LayerNorm";
  if (name === "\u03b3") row(s, "gains", 0, D, true);
  if (["b_V", "b_O", "b_down"].includes(name) || (name === "b_K" && !a.rope)) row(s, "biases", 0, columns);
  if (name === "E" && a.biases) row(s, "biases", ROWS - 1, D);
  if (!a.ln) return;
  if (["W_Q", "W_K", "W_V", "W_up", "D"].includes(name) && s.cells.length) row(s, invisible, D - 1, columns);
  if (["E", "P", "W_O", "W_down"].includes(name)) for (let i = 0; i < s.rows; i++) fix(s, invisible, i, columns - 1);
}

// --- the account ---

export function account(state) {
  const a = network(state), refused = uncovered(a), sheets = refused ? blank(a) : normalForm(a);
  const parts = refused ? Object.fromEntries(PARTS.map((part) => [part, 0])) : count(a);
  const parameters = sum(sheets.map((s) => s.cells.length)), redundant = sum(Object.values(parts));
  return { a, refused, sheets, parts, parameters, redundant, dimension: parameters - redundant };
}

// --- what is said: the words come from the page ---

const fill = (text, values) => text.replace(/\{(\w+)\}/g, (_, name) => values[name]);

export function sentence(found, words) {
  const { a, refused } = found;
  if (refused) return fill(words.refused, { ...found, what: words.uncovered[refused - 1].replace("W_Q", "W<sub>Q</sub>") });
  const own = a.queries === "identity" && account({ ...a, queries: "own" }).dimension;
  const where = words.where[a.topology !== "T2" ? 0 : a.layers > 1 ? 2 : 1];
  return fill(words.covered, { ...found, queries: fill(words.queries[a.queries], { form: a.turn ? "triangular" : "I", where, own }) });
}

export function about({ a, refused, parts }, part, words) {
  if (refused || part === "all") return refused ? words.nothing : words.all;
  if (!parts[part]) return fill(words.empty, { part });
  if (part === "stream") {
    const how = words.basis[a.tied ? "RMSNorm" : a.norm];
    return `${fill(words.stream[a.topology], a)} ${how}${a.queries === "identity" ? words.kept : ""}`;
  }
  if (part === "activation") return words.notes[a.activation];
  if (part === "heads" && a.queries === "identity") return words.notes["heads identity"];
  return (a.rope && words.notes[`${part} RoPE`]) || words.notes[part];
}

// --- the same markup as gauge_counter_picture.py ---

const SYMBOLS = { Q: "sq", K: "sk", V: "sv" };
function symbol({ name, note, columns }) {
  const [letter, index] = name.split("_");
  if (name === "W_up" && columns > D + 1) return `<i>W<sub>gate</sub></i>, ${symbol({ name })}`;
  return `<i class="${SYMBOLS[index] ?? ""}">${letter}${index ? `<sub>${index}</sub>` : ""}</i>${note ? ` ${note}` : ""}`;
}
const place = (s, layers) => (s.place === 0 ? "embedding" : s.place > layers ? "readout" : `layer ${s.place}`);
const isBias = (s) => s?.name.startsWith("b_");

function net({ sheets, a, refused }, show) {
  return Array.from({ length: a.layers + 2 }, (_, at) => {
    const here = sheets.filter((s) => s.place === at);
    const boxes = here.map((s, i) => (isBias(s) ? "" : box(s, isBias(here[i + 1]) ? here[i + 1] : null, refused, show))).join("");
    return `<div class="qkv-layer"><p>${place(here[0], a.layers)}</p><div>${boxes}</div></div>`;
  }).join("");
}

function box(s, bias, refused, show) {
  const drawn = squares(s, refused, show) + (bias ? squares(bias, refused, show, 10 * s.rows + 5) : "");
  return `<div class="qkv-sheet ${SYMBOLS[s.name.slice(2)] ?? ""}" style="--n:${s.columns}"><p>${symbol(s)}${bias ? `, ${symbol(bias)}` : ""}</p>`
    + `<svg viewBox="0 0 ${10 * s.columns} ${10 * s.rows + (bias ? 15 : 0)}" aria-hidden="true">${drawn}</svg></div>`;
}

function squares({ rows, columns, cells }, refused, show, top = 0) {
  if (!cells.length) return `<path class="ghost" d="M1 1H${10 * columns - 1}V${10 * rows - 1}H1Z"></path>`;
  const full = refused ? "open" : "full", drawn = { [full]: "", pale: "", lit: "", digit: "" };
  cells.forEach((cell, at) => {
    const x = 10 * (at % columns), y = 10 * Math.floor(at / columns) + top;
    drawn[cell === "." ? full : cell.toLowerCase() === LETTERS[show] ? "lit" : "pale"] += `M${x + 1} ${y + 1}h8v8h-8z`;
    if (cell !== ".") drawn.digit += cell < "a" ? `M${x + 5} ${y + 3}v4` : `M${x + 4} ${y + 5}a1 2 0 1 0 2 0a1 2 0 1 0 -2 0`;
  });
  return Object.entries(drawn).map(([name, d]) => (d ? `<path class="${name}" d="${d}"></path>` : "")).join("");
}

function rows({ sheets, a, refused, parameters, redundant }) {
  const line = (name, size, all, fixed) => `<tr><th scope="row">${name}</th>${[size, ...(refused ? ["unknown", "unknown"] : [fixed, all - fixed])]
    .map((text) => `<td>${text}</td>`).join("")}</tr>`;
  return sheets.filter((s) => s.cells.length).map((s) => line(`${symbol(s)}, ${place(s, a.layers)}`, `${s.rows} \u00d7 ${s.columns}`,
    s.cells.length, s.cells.filter((cell) => cell !== ".").length)).join("") + line("all", parameters, parameters, redundant);
}

// --- the picture ---

function paint(part, state) {
  const found = account(state), whole = found.parameters, words = JSON.parse(part("net").dataset.words);
  html(part("net"), net(found, state.show));
  let end = whole;
  const bar = (key, start, size, hidden) => {
    const line = part("row", key);
    put(line, "style", `--from:${((100 * start) / whole).toFixed(2)}%;--w:${((100 * size) / whole).toFixed(2)}%`);
    line.toggleAttribute("hidden", hidden);
    write(line.lastChild, String(size));
  };
  bar("parameters", 0, whole, false);
  for (const name of PARTS) {
    bar(name, (end -= found.parts[name]), found.parts[name], !found.parts[name]);
    put(part("row", name).querySelector("button"), "aria-pressed", String(name === state.show));
  }
  bar("dimension", 0, found.refused ? 0 : found.dimension, Boolean(found.refused));
  html(part("about"), about(found, state.show, words));
  controls(part, state);
  return { line: sentence(found, words), found };
}

function controls(part, state) {
  for (const key of CHOICES) {
    const chosen = part(key, state[key]);
    for (const button of chosen.parentElement.querySelectorAll("button")) put(button, "aria-pressed", String(button === chosen));
  }
  for (const name of FLAGS) part(name).checked = state[name];
  const off = state.norm === "none";
  part("gains").disabled = off;
  put(part("label", "gains"), "title", off ? "a norm is needed first" : "");
}

const fillTable = (part, state, { found }) => html(part("twin"), rows(found));

// --- the hands ---

function render(el) {
  const { part, parts, read, set, listen, begin } = figure(el, KEYS, paint, fillTable);
  for (const [name, node] of parts) {
    const [key, value] = name.split(" ");
    if (CHOICES.includes(key)) listen(node, "click", () => set({ [key]: key === "layers" ? Number(value) : value }));
  }
  for (const name of FLAGS) listen(part(name), "change", (e) => set({ [name]: e.target.checked }));
  listen(part("account"), "click", (e) => {
    const show = e.target.closest("[data-variant]")?.dataset.variant;
    if (show) set({ show: read().show === show ? "all" : show });
  });
  part("account").disabled = false;
  return begin();
}

export default { render };
