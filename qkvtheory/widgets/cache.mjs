// Cache: what every variant of attention keeps in memory, in bytes.
// The markup comes from cache.py (in the page, or in model.get("still")); this file moves it. What it knows of a model it reads from
// the model's option. Every size is an integer below 2^53, and so exact.
import { figure, html, listed, put, write } from "./qkv.mjs";

const KEYS = ["model", "tokens", "batch", "number", "variant", "memory"];
const BYTES = { fp32: 4, bf16: 2, fp8: 1 };
export const TOKEN_STOPS = Array.from({ length: 21 }, (_, i) => (i % 2 ? 1536 : 1024) * 2 ** Math.floor(i / 2));
export const BATCH_STOPS = Array.from({ length: 9 }, (_, i) => 2 ** i);
const STOPS = { tokens: TOKEN_STOPS, batch: BATCH_STOPS };

// --- the mathematics ---

// A model from the data of its option: its variants, the largest cache first.
export function read({ layers, heads, own, entries }, name) {
  const found = entries.split(";").map((row) => {
    const [name, numbers, weights, perplexity = "", beaten = ""] = row.split(" ");
    return { name, numbers: Number(numbers), weights: Number(weights), perplexity, beaten: beaten ? beaten.split(",") : [] };
  });
  const bars = [...new Set(found.map((e) => e.numbers))].map((numbers) => found.filter((e) => e.numbers === numbers));
  return { name, layers: Number(layers), heads: Number(heads), own, entries: found, bars };
}

const find = (model, name) => model.entries.find((e) => e.name === name);
const sharesHeads = (e) => /^(GQA-|MQA)/.test(e.name);
const groupsOf = (name) => (/MQA$/.test(name) ? 1 : Number(name.match(/-(\d+)$/)?.[1] ?? 0));
const largestShared = (model, numbers) => model.entries.find((e) => sharesHeads(e) && e.numbers <= numbers);

export function facts(model, state) {
  const perToken = (e) => e.numbers * model.layers * state.batch * BYTES[state.number];
  const cache = (e) => perToken(e) * state.tokens, weights = (e) => e.weights * BYTES[state.number];
  return {
    model, state, perToken, cache, weights, chosen: find(model, state.variant),
    memory: state.memory * 1e9, need: (e) => weights(e) + cache(e), share: (e) => percent(e.numbers, model.entries[0].numbers),
  };
}

// --- the same text as cache.py ---

const DECIMAL = ["bytes", "kB", "MB", "GB", "TB", "PB"], BINARY = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB"];
const digits = (x) => (x < 9.995 ? 2 : x < 99.95 ? 1 : 0);
function scaled(size, base, names) {
  let at = 0;
  while (size >= base ** (at + 1)) at += 1;
  const x = size / base ** at;
  return `${x.toFixed(at === 0 ? 0 : digits(x))} ${names[at]}`;
}
export const gb = (size) => scaled(size, 1000, DECIMAL);
export const gib = (size) => scaled(size, 1024, BINARY);
export const grouped = (n) => String(n).replace(/\B(?=(\d{3})+$)/g, ",");
export function percent(part, whole) {
  const x = (part / whole) * 100, text = x.toFixed(digits(x));
  return `${text.includes(".") ? text.replace(/\.?0+$/, "") : grouped(text)}%`;
}
export function mega(size, base) {
  const [whole, rest] = (size / base ** 2).toFixed(1).split(".");
  return `${grouped(whole)}.${rest}`;
}
const batched = (batch) => (batch === 1 ? "one sequence" : `${batch} sequences`);

export function aboutModel(model) {
  const { own, heads, entries } = model;
  if (own !== "QKV") {
    return `As released this model is ${own}, with ${groupsOf(own)} key/value for ${heads} query heads. Tying starts from there: Q-${own} halves `
      + "its cache once more.";
  }
  const start = `This model has ${heads} key/value heads, one for each query head.`, half = entries[0].numbers / 2;
  const other = largestShared(model, half);
  if (!other) return start;
  return `${start} ${other.name} ${other.numbers === half ? "caches as little as" : "caches less than"} tying keys to values does`
    + `${other.name === "MQA" ? "" : ", and fewer groups cache less"}.`;
}

export function sentence(f) {
  if (!f.chosen) return aboutNone(f.state.variant, f.model.heads);
  return [aboutSize, aboutKind, aboutLoss, aboutFit].map((about) => about(f, f.chosen)).filter(Boolean).join(" ");
}

function aboutNone(name, heads) {
  const start = `There is no ${name} of this model:`, groups = groupsOf(name);
  if (name === "slim") return `${start} values are computed from keys by an inverse, and the key projection is not square here.`;
  return groups ? `${start} ${groups} groups do not make its ${heads} query heads share.` : `${start} the number of groups is missing.`;
}

function aboutSize(f, e) {
  const size = f.cache(e);
  return `${e.name} caches ${grouped(e.numbers)} numbers per token and layer, ${f.share(e)} of QKV: ${grouped(size)} bytes for `
    + `${batched(f.state.batch)} of ${grouped(f.state.tokens)} tokens (${gb(size)}, which is ${gib(size)}).`;
}

const NOTES = {
  QKV: "It keeps a key and a value for every head.",
  "Q=K-V": "Queries are never cached: making them the keys saves nothing here.",
  slim: "It is QKV with its values computed anew from the keys: the same function in exact arithmetic, for more operations, and with "
    + "rounding that low precision may show.",
  MLA: "The latent is four heads wide here, the rotary key half a head.",
  GTA: "It keeps one vector per group for values and half of the keys, and half a rotary head for all.",
};

function aboutKind(f, e) {
  const note = NOTES[e.name.startsWith("GTA") ? "GTA" : e.name];
  if (note) return note;
  if (sharesHeads(e)) return `It keeps a key and a value for ${groupsOf(e.name)} of ${f.model.heads} heads.`;
  const other = largestShared(f.model, e.numbers);
  if (!other) return "Head sharing alone does not come down to this: tying halves what MQA leaves.";
  const much = other.numbers === e.numbers ? "the same" : "less";
  return `${other.name} stores ${much} without tying${other.name === "MQA" ? "" : ", and fewer groups store less"}.`;
}

function aboutLoss({ model }, e) {
  if (!e.perplexity) return "";
  const start = `Its published perplexity is ${e.perplexity}`;
  if (!e.beaten.length) return `${start}.`;
  const better = listed(e.beaten.map((name) => `${name} (${find(model, name).perplexity})`));
  return `${start}; ${better} ${e.beaten.length === 1 ? "stores no more and loses" : "store no more and lose"} less.`;
}

function aboutFit(f, e) {
  const need = f.need(e), weights = f.weights(e), start = `With the weights (${gb(weights)}) it`;
  if (need <= f.memory) return `${start} takes ${percent(need, f.memory)} of ${f.state.memory} GB.`;
  const each = f.state.batch > 1 ? " each" : "", room = Math.floor(Math.max(0, f.memory - weights) / f.perToken(e));
  return `${start} does not fit in ${f.state.memory} GB: ${room ? `at most ${grouped(room)} tokens${each} would` : "the weights leave no room"}.`;
}

export function sizes(f, e) {
  const size = f.cache(e);
  return [gb(size), gib(size), f.share(e), percent(size, f.memory)];
}

export function lengths(f) {
  if (!f.chosen) return ["0.00", "0.00", "100.00"];
  const need = f.need(f.chosen), whole = Math.max(f.memory, need);
  return [f.weights(f.chosen), f.cache(f.chosen), f.memory].map((part) => (100 * (part / whole)).toFixed(2));
}

export function aboutLengths(f) {
  if (!f.chosen) return "Nothing to show.";
  const free = f.memory - f.need(f.chosen), rest = free >= 0 ? `free: ${gb(free)}` : `too much by ${gb(-free)}`;
  return `${f.chosen.name} of ${f.model.name}: weights ${gb(f.weights(f.chosen))}, cache ${gb(f.cache(f.chosen))}; ${rest} of `
    + `${f.state.memory} GB (a GB is 10\u2079 bytes).`;
}

// --- the same markup as cache_picture.py ---

const width = (e, model) => (100 * (e.numbers / model.entries[0].numbers)).toFixed(3);

function chip(f, e) {
  const own = e.name === f.model.own && e.name !== "QKV" ? " (as released)" : "";
  return `<button type="button" data-variant="${e.name}" aria-pressed="${e === f.chosen}">${e.name}${e.beaten.length ? " \u2717" : ""}${own}</button>`;
}

const bar = (f, same) => `<div class="qkv-bar" data-chosen="${same.includes(f.chosen)}"><div class="qkv-names">${same.map((e) => chip(f, e)).join("")}</div>`
  + `<div class="qkv-track"><span style="--w:${width(same[0], f.model)}%"></span></div>`
  + `<p class="qkv-size">${sizes(f, same[0]).map((text) => `<span>${text}</span>`).join("")}</p></div>`;

const rows = (f, cells) => f.model.entries.map((e) => `<tr><th scope="row">${e.name}</th>${cells(e).map((text) => `<td>${text}</td>`).join("")}</tr>`).join("");

// --- the picture ---

function paint(part, state) {
  const option = [...part("model").options].find((o) => o.value === state.model);
  const f = facts(read(option.dataset, state.model), state), { model } = f, line = sentence(f);
  paintBars(part("bars"), f);
  write(part("of memory"), `of ${state.memory} GB`);
  write(part("own"), aboutModel(model));
  const [weights, cache, end] = lengths(f), fit = part("fit");
  put(fit, "data-over", String(end !== "100.00"));
  put(fit, "style", `--weights:${weights}%;--cache:${cache}%;--end:${end}%`);
  write(part("fit said"), aboutLengths(f));
  for (const { value } of part("model").options) {
    const front = part("front", value), here = value === model.name;
    front?.toggleAttribute("hidden", !here);
    for (const point of front?.querySelectorAll("[data-point]") ?? []) {
      put(point, "data-chosen", String(here && point.dataset.point === f.chosen?.name));
    }
  }
  part("legend").toggleAttribute("hidden", !part("front", model.name));
  controls(part, state);
  return { line, f };
}

// Another model has other bars; otherwise the bars stay, and with them the focus.
function paintBars(box, f) {
  if (box.dataset.model !== f.model.name) {
    html(box, f.model.bars.map((same) => bar(f, same)).join(""));
    put(box, "data-model", f.model.name);
  }
  f.model.bars.forEach((same, i) => {
    const [names, , size] = box.children[i].children;
    put(box.children[i], "data-chosen", String(same.includes(f.chosen)));
    same.forEach((e, j) => put(names.children[j], "aria-pressed", String(e === f.chosen)));
    sizes(f, same[0]).forEach((text, j) => write(size.children[j], text));
  });
}

function controls(part, state) {
  part("model").value = state.model;
  for (const key of ["number", "memory"]) {
    for (const button of part(key, state[key]).parentElement.querySelectorAll("button")) {
      put(button, "aria-pressed", String(button === part(key, state[key])));
    }
  }
  const texts = { tokens: `${grouped(state.tokens)} tokens`, batch: batched(state.batch) };
  for (const [key, stops] of Object.entries(STOPS)) {
    part(key).value = stops.findLastIndex((stop) => stop <= state[key]);
    put(part(key), "aria-valuetext", texts[key]);
    write(part(key, "said"), texts[key]);
  }
}

function fillTable(part, state, { f }) {
  html(part("twin"), rows(f, (e) => [grouped(e.numbers), grouped(f.cache(e))]));
  html(part("units"), rows(f, (e) => [mega(f.cache(e), 1000), mega(f.cache(e), 1024)]));
  html(part("shares"), rows(f, (e) => [f.share(e), e.perplexity || "none"]));
}

// --- the hands ---

function render(place) {
  const { part, parts, set, listen, begin } = figure(place, KEYS, paint, fillTable);
  listen(part("model"), "change", (e) => set({ model: e.target.value }));
  for (const [key, stops] of Object.entries(STOPS)) listen(part(key), "input", (e) => set({ [key]: stops[Number(e.target.value)] }));
  for (const [name, node] of parts) {
    const [key, value] = name.split(" ");
    if (key === "number") listen(node, "click", () => set({ number: value }));
    if (key === "memory") listen(node, "click", () => set({ memory: Number(value) }));
  }
  listen(part("bars"), "click", (e) => {
    const variant = e.target.closest("[data-variant]")?.dataset.variant;
    if (variant) set({ variant });
  });
  part("bars").disabled = false;
  return begin();
}

export default { render };
