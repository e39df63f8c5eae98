// Trained model: attention layers that were trained to reverse eight digits, run on the reader's own digits.
// The markup and the weights come from trained_model.py (in the page, or in model.get("still")); this file runs and moves them.
import { cells, figure, map, matmul, num, put, scores, softmaxRows, write } from "./qkv.mjs";

const KEYS = ["sequence", "variant"];
const LENGTH = 8, PAIRS = LENGTH / 2, SCALE = 1000, MOST = 2;
const LEFT = 40, ONE = 104;

// --- the mathematics ---

// The models out of the text that trained_model_picture.py puts on the page; a row of thousandths is a row of weights.
export const models = (text) => JSON.parse(text).map((m) => ({ ...m, weights: Object.fromEntries(Object.entries(m.weights)
  .map(([name, rows]) => [name, rows.map((row) => row.split(" ").map((x) => Number(x) / SCALE))])) }));

const columns = (matrix, h, heads) => {
  const width = matrix[0].length / heads;
  return matrix.map((row) => row.slice(h * width, (h + 1) * width));
};
const sum = (a, b) => map((x, y) => x + y, a, b);

// The forward pass: the map of every head, and the logits of every position.
export function run({ heads, skip, temperature, bias, weights: w }, sequence) {
  const x = [...sequence].map((c, i) => w.E[Number(c)].map((e, j) => e + w.P[i][j]));
  const [q, k, v] = [w.W_Q ?? w.W_Z, w.W_K ?? w.W_Z, w.W_V].map((weight) => matmul(x, weight));
  const own = (z, h) => columns(z, h, heads), all = Array.from({ length: heads }, (_, h) => h);
  const maps = all.map((h) => softmaxRows(scores(own(q, h), own(k, h)).map((row) => row.map((s, j) => temperature * s + bias[j]))));
  const read = all.map((h) => matmul(maps[h], own(v, h)));
  const written = matmul(x.map((_, i) => read.flatMap((rows) => rows[i])), w.W_O);
  return { maps, logits: matmul(skip ? sum(x, written) : written, w.D) };
}

// Everything the picture shows; see Facts in trained_model.py.
export function facts(model, sequence) {
  const { maps, logits } = run(model, sequence), wanted = [...sequence].reverse().join("");
  const best = logits.map((row) => row.indexOf(Math.max(...row)));
  const answer = best.join(""), ends = Array.from({ length: PAIRS }, (_, i) => [i, LENGTH - 1 - i]);
  const pairs = maps.map((a) => ends.map(([i, j]) => [a[i][j], a[j][i]]));
  return {
    model, sequence, maps, logits, answer, wanted, pairs,
    chances: softmaxRows(logits).map((row, i) => row[best[i]]),
    right: [...answer].map((c, i) => c === wanted[i]),
    same: ends.filter(([i, j]) => sequence[i] !== sequence[j] && answer[i] === answer[j]).length,
    largest: Math.max(...pairs.flat().map(([a, b]) => a + b)),
  };
}

// --- the same text as trained_model.py ---

export function sentence({ model, right, same, largest }) {
  const limit = model.bounded ? "it is never more than 1." : "nothing keeps it below 1.";
  const twice = same ? ` In ${same} of ${PAIRS} pairs both ends get the same answer.` : "";
  const told = `Largest sum of two partners: ${num(largest)}; ${limit}`;
  return `${model.name}: ${right.filter(Boolean).length} of ${LENGTH} symbols right.${twice} ${told} ${model.note}`;
}

const aboutBound = ({ model }) => "Row i of a map: what position i looks at; outlined: its partner, where the answer is. Bars: full "
  + `color from the first of a pair to the second, pale the way back. Dashed: 1, ${model.bounded ? "the bound where queries are keys." : "which is no bound here."}`;

// --- the picture ---

const EMPTY = Array.from({ length: LENGTH }, () => Array(LENGTH).fill(0)), NONE = Array(PAIRS).fill([0, 0]);
const partner = (i, j) => (i + j === LENGTH - 1 ? "partner" : "");

function paint(part, state, all) {
  const f = facts(all.find((m) => m.name === state.variant), state.sequence);
  [...state.sequence].forEach((c, i) => show(part("digit", i), c));
  fill(part("sequence"), [...f.sequence]);
  fill(part("wanted"), [...f.wanted]);
  fill(part("answer"), [...f.answer].map((c, i) => `${c} ${f.right[i] ? "\u2713" : "\u2717"}`));
  fill(part("sure"), f.chances.map((p) => (100 * p).toFixed(0)));
  f.right.forEach((ok, i) => put(part("answer").children[i + 1], "data-state", ok ? "yes" : "no"));
  for (const row of part("forms").children) {
    const chosen = String(row.firstElementChild.dataset.variant === state.variant);
    put(row, "data-chosen", chosen);
    put(row.firstElementChild, "aria-pressed", chosen);
  }
  for (let h = 0; h < MOST; h++) paintHead(part, f, h);
  write(part("bound"), aboutBound(f));
  return { line: sentence(f), f };
}

// The cells of a table's row, behind its title.
const fill = (row, texts) => texts.forEach((text, i) => write(row.children[i + 1], text));

function paintHead(part, f, h) {
  const { heads } = f.model, there = h < heads;
  part("head", h).toggleAttribute("hidden", !there);
  write(part("title", h), heads > 1 ? `Head ${h + 1} of ${heads}` : "The head");
  for (const side of ["over", "aside"]) [...f.sequence].forEach((c, i) => write(part(side, h).children[i], c));
  cells(part("map", h), there ? f.maps[h] : EMPTY, 1, partner);
  (there ? f.pairs[h] : NONE).forEach(([a, b], i) => {
    put(part("near", h, i), "width", (ONE * a).toFixed(1));
    put(part("far", h, i), "x", (LEFT + ONE * a).toFixed(1));
    put(part("far", h, i), "width", (ONE * b).toFixed(1));
    write(part("sum", h, i), num(a + b));
  });
}

function fillTable(part, state, { f }) {
  for (let h = 0; h < MOST; h++) {
    const a = f.maps[h] ?? EMPTY, table = part("twin", h);
    table.toggleAttribute("hidden", h >= f.model.heads);
    const numbers = a.flatMap((row, i) => [...row, row[LENGTH - 1 - i] + a[LENGTH - 1 - i][i]]);
    table.querySelectorAll("td").forEach((cell, i) => write(cell, num(numbers[i])));
  }
}

// --- the hands ---

const only = (text) => (text ?? "").replace(/\D/g, "");
const show = (input, text) => void (input.value !== text && (input.value = text));

function render(place) {
  let all; // the weights are read once, when the markup is there
  const paintAll = (part, state) => paint(part, state, (all ??= models(part("weights").textContent)));
  const { part, read, set, listen, begin } = figure(place, KEYS, paintAll, fillTable);
  const inputs = Array.from({ length: LENGTH }, (_, i) => part("digit", i));
  const go = (i) => inputs[Math.max(0, Math.min(LENGTH - 1, i))].focus();
  // Digits from place i on; the rest of the sequence stays, and what was typed beside it goes.
  function enter(i, digits) {
    const old = read().sequence, sequence = (old.slice(0, i) + digits + old.slice(i + digits.length)).slice(0, LENGTH);
    inputs.forEach((input, j) => show(input, sequence[j]));
    set({ sequence });
  }
  const type = (i, digits) => {
    enter(i, digits);
    if (digits) go(i + digits.length);
  };
  const turn = (i, by) => enter(i, String((Number(read().sequence[i]) + by + 10) % 10));
  inputs.forEach((input, i) => {
    listen(input, "focus", () => input.select());
    listen(input, "input", (e) => type(i, only(e.data ?? input.value).slice(-1)));
    listen(input, "paste", (e) => {
      e.preventDefault();
      type(i, only(e.clipboardData.getData("text")));
    });
    listen(input, "keydown", (e) => {
      const act = {
        ArrowLeft: () => go(i - 1), ArrowRight: () => go(i + 1), Backspace: () => go(i - 1), Home: () => go(0), End: () => go(LENGTH - 1),
        ArrowUp: () => turn(i, 1), ArrowDown: () => turn(i, -1),
      }[e.key];
      if (!act || e.ctrlKey || e.metaKey || e.altKey) return;
      e.preventDefault();
      act();
    });
  });
  listen(part("random"), "click", () => set({ sequence: inputs.map(() => Math.floor(10 * Math.random())).join("") }));
  listen(part("mirror"), "click", () => {
    const half = read().sequence.slice(0, PAIRS);
    set({ sequence: half + [...half].reverse().join("") });
  });
  listen(part("forms"), "click", (e) => {
    const { variant } = e.target.closest("[data-variant]")?.dataset ?? {};
    if (variant) set({ variant });
  });
  part("forms").disabled = false;
  return begin();
}

export default { render };
