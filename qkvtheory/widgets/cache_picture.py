"""The picture of the cache widget, as HTML: bars of bytes, the memory they share with the weights, published losses.

``cache.py`` counts; here it is drawn. ``cache.mjs`` finds the parts by their data-part names and moves them; what it
knows of a model it reads from the model's option.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from math import log2

from qkvtheory import published
from qkvtheory.widgets.cache import (
    BATCH_STOPS,
    BYTES,
    MEMORIES,
    TABLES,
    TOKEN_STOPS,
    Entry,
    Facts,
    Model,
    about_lengths,
    about_model,
    batched,
    facts,
    grouped,
    lengths,
    mega,
    model,
    models,
    percent,
    position,
    sentence,
    sizes,
)
from qkvtheory.widgets.state import State
from qkvtheory.widgets.text import fixed


def still(state: State) -> str:
    """The inside of the widget for a state of ``check_state``, as HTML."""
    f = facts(state)
    return (
        '<p class="qkv-lead"><b>How much memory does attention keep while it writes?</b> Choose a model and a length, '
        "then a variant. Variants on one bar cache exactly as much.</p>"
        + controls(state)
        + f'<p class="qkv-note qkv-own" data-part="own">{about_model(f.model)}</p>'
        + f'<p class="qkv-live qkv-said" aria-live="polite" data-part="live">{sentence(f)}</p>'
        + heads(f)
        + f'<fieldset class="qkv-bars" aria-label="Variants" data-part="bars" data-model="{f.model.name}" disabled>'
        + f"{bars(f)}</fieldset>"
        + f'<p class="qkv-note" data-part="legend"{hidden(f.model.name in TABLES)}>{LEGEND}</p>'
        + fit(f)
        + "".join(front(name, f) for name in TABLES)
        + twin(f)
    )


LEGEND = "✗: in the published table below, sharing heads alone stores no more and has the smaller perplexity."


def hidden(shown: bool) -> str:
    return "" if shown else " hidden"


# --- the controls ---


def controls(state: State) -> str:
    return (
        '<fieldset class="qkv-controls qkv-asked" data-part="controls" disabled><legend>What is cached</legend>'
        + '<label class="qkv-pick"><span>model</span>'
        + f'<select data-part="model">{options(state["model"])}</select></label>'
        + choice("number format of cache and weights", "number", tuple(BYTES), state["number"])
        + slider(
            "tokens", "context", TOKEN_STOPS, state["tokens"], f"{grouped(state['tokens'])} tokens", ("1k", "32k", "1M")
        )
        + slider("batch", "at a time", BATCH_STOPS, state["batch"], batched(state["batch"]), ("1", "16", "256"))
        + choice("memory of the accelerator, in GB", "memory", MEMORIES, state["memory"])
        + '<div class="qkv-last"><button type="button" data-part="reset">Start again <kbd>Esc</kbd></button></div>'
        + "</fieldset>"
    )


def options(chosen: str) -> str:
    return "".join(
        f'<option value="{name}"{" selected" if name == chosen else ""} {data(model(name))}>{name}</option>'
        for name in models()
    )


def data(found: Model) -> str:
    """All that the script knows of a model, as attributes: name, numbers, parameters, perplexity, beaten by."""
    rows = ";".join(
        " ".join([e.name, str(e.numbers), str(e.weights), e.perplexity, ",".join(e.beaten)]).rstrip()
        for e in found.entries
    )
    return (
        f'data-layers="{found.layers}" data-heads="{found.heads}" data-own="{found.own}" data-entries="{escape(rows)}"'
    )


def choice(title: str, key: str, values: tuple[object, ...], chosen: object) -> str:
    buttons = "".join(
        f'<button type="button" data-part="{key} {value}" aria-pressed="{pressed(value == chosen)}">{value}</button>'
        for value in values
    )
    return f'<div class="qkv-choice" role="group" aria-label="{title}"><span>{title}</span>{buttons}</div>'


def slider(key: str, title: str, stops: tuple[int, ...], value: int, text: str, ticks: tuple[str, ...]) -> str:
    marks = "".join(f"<span>{tick}</span>" for tick in ticks)
    return (
        f'<label class="qkv-range"><span>{title}: <b data-part="{key} said">{text}</b></span>'
        f'<input type="range" min="0" max="{len(stops) - 1}" step="1" value="{position(stops, value)}" '
        f'data-part="{key}" aria-valuetext="{text}">'
        f'<span class="qkv-ticks" aria-hidden="true">{marks}</span></label>'
    )


def pressed(on: bool) -> str:
    return str(on).lower()


# --- the bars; cache.mjs writes the same ---


def heads(f: Facts) -> str:
    columns = ("decimal", "binary", "of QKV", f"of {f.state['memory']} GB")
    named = (*("",) * 3, ' data-part="of memory"')
    return (
        '<div class="qkv-bar qkv-heads"><p class="qkv-title">Cache of every variant</p><p class="qkv-size">'
        + "".join(f"<span{part}>{text}</span>" for text, part in zip(columns, named, strict=True))
        + "</p></div>"
    )


def bars(f: Facts) -> str:
    return "".join(bar(f, same) for same in f.model.bars)


def bar(f: Facts, same: list[Entry]) -> str:
    chosen = pressed(f.chosen in same)
    numbers = "".join(f"<span>{text}</span>" for text in sizes(f, same[0]))
    return (
        f'<div class="qkv-bar" data-chosen="{chosen}"><div class="qkv-names">{"".join(chip(f, e) for e in same)}</div>'
        f'<div class="qkv-track"><span style="--w:{width(same[0], f.model)}%"></span></div>'
        f'<p class="qkv-size">{numbers}</p></div>'
    )


def chip(f: Facts, entry: Entry) -> str:
    text = entry.name + " ✗" * bool(entry.beaten) + " (as released)" * (entry.name == f.model.own != "QKV")
    return (
        f'<button type="button" data-variant="{entry.name}" aria-pressed="{pressed(entry is f.chosen)}">{text}</button>'
    )


def width(entry: Entry, found: Model) -> str:
    return fixed(100 * (entry.numbers / found.entries[0].numbers), 3)


# --- the memory of the accelerator ---


def fit(f: Facts) -> str:
    """Weights and cache of the chosen variant side by side, and where the memory ends."""
    weights, cached, end = lengths(f)
    return (
        '<p class="qkv-title">Weights and cache must fit</p>'
        f'<div class="qkv-fit" data-part="fit" data-over="{pressed(end != "100.00")}" style="--weights:{weights}%;'
        f'--cache:{cached}%;--end:{end}%" aria-hidden="true"><span></span><span></span><i></i></div>'
        f'<p class="qkv-note" data-part="fit said">{about_lengths(f)}</p>'
    )


# --- the published losses ---

LEFT, RIGHT, TOP, BOTTOM = 26, 334, 22, 196  # of the picture's 350 x 232
ROOM = 0.07  # of the perplexities shown, left free above and below them
NAMES = 2.8  # halvings, left free for names beside the smallest cache
FAR = 1.1  # a perplexity this much above the smallest is drawn at the top edge, with its number


def front(name: str, f: Facts) -> str:
    """Published perplexity against cache, both best when small: the front, and the variants that it beats."""
    found, table = model(name), published.LANGUAGE[TABLES[name]]
    title = f"What it costs in perplexity: the {table.name} models of Kayyam, Madan Gopal and Lewis 2026"
    return (
        f'<div class="qkv-front" data-part="front {name}"{hidden(f.model.name == name)}>'
        f'<p class="qkv-title">{title}</p>{plot(found, f)}'
        f'<p class="qkv-note">One run per variant, numbers as printed ({published.SOURCE} and the authors\' slides). '
        "Shaded: another variant stores no more and loses no more. "
        f"{about_last(found)}</p></div>"
    )


def about_last(found: Model) -> str:
    """What tying buys where nothing else is left."""
    mqa, tied = found.find("MQA"), found.find("Q-MQA")
    assert mqa and tied
    more = published.exact(tied.perplexity) / published.exact(mqa.perplexity) - 1
    return (
        "Tying pays where head sharing has come to its end: from MQA to Q-MQA the cache halves again, for "
        f"{fixed(float(100 * more), 1)}% more perplexity."
    )


@dataclass(frozen=True)
class Axes:
    """Cache to the right, every halving one step; perplexity up, a far one at the top edge: points bear numbers."""

    whole: int  # numbers that QKV caches
    least: int
    low: float
    high: float

    @classmethod
    def of(cls, entries: list[Entry]) -> Axes:
        values = [float(e.perplexity) for e in entries]
        near = [v for v in values if v < FAR * min(values)]
        return cls(entries[0].numbers, entries[-1].numbers, min(near), max(near))

    @property
    def halvings(self) -> float:
        return log2(self.whole / self.least)

    def x(self, numbers: float) -> float:
        return RIGHT - (RIGHT - LEFT) * log2(self.whole / numbers) / (self.halvings + NAMES)

    def y(self, value: float) -> float:
        up = (value - self.low) / (self.high - self.low)
        return TOP if value > self.high else BOTTOM - (BOTTOM - TOP - 24) * (up + ROOM) / (1 + 2 * ROOM)

    def at(self, entry: Entry) -> tuple[float, float]:
        return self.x(entry.numbers), self.y(float(entry.perplexity))


def plot(found: Model, f: Facts) -> str:
    entries = [e for e in found.entries if e.perplexity]
    axes = Axes.of(entries)
    beaten = published.dominated({e.name: (published.exact(e.perplexity), e.numbers) for e in entries})
    across, up = fixed((LEFT + RIGHT) / 2, 1), fixed((TOP + BOTTOM) / 2, 1)
    return (
        f'<svg viewBox="0 0 350 232" role="img" aria-label="Perplexity against cache of {len(entries)} variants; the '
        'numbers are in the table below">'
        + staircase([axes.at(e) for e in entries if not beaten[e.name]])
        + f'<path class="axis" d="M{LEFT} {TOP - 8}V{BOTTOM}H{RIGHT + 8}"/>'
        + "".join(tick(axes.x(axes.whole / 2**k), k) for k in range(0, int(axes.halvings) + 1, 2))
        + f'<text class="mid" x="{across}" y="226">cache, share of QKV (each mark: times four)</text>'
        + f'<text class="mid" transform="translate(12 {up}) rotate(-90)">validation perplexity</text>'
        + "".join(point(e, axes, not beaten[e.name], e is f.chosen) for e in entries)
        + "</svg>"
    )


def staircase(corners: list[tuple[float, float]]) -> str:
    """The region where a point of the front stores no more and loses no more."""
    steps = "".join(f"H{fixed(x, 1)}V{fixed(y, 1)}" for x, y in reversed(corners))
    first = corners[-1]
    outline = f"M{fixed(first[0], 1)} {TOP - 8}V{fixed(first[1], 1)}{steps}H{RIGHT + 8}"
    return f'<path class="beyond" d="{outline}V{TOP - 8}Z"/><path class="line" d="{outline}"/>'


def tick(x: float, halvings: int) -> str:
    at, text = fixed(x, 1), percent(1, 2**halvings)
    return f'<path class="axis" d="M{at} {BOTTOM}v5"/><text class="mid" x="{at}" y="{BOTTOM + 16}">{text}</text>'


def point(entry: Entry, axes: Axes, best: bool, chosen: bool) -> str:
    x, y = axes.at(entry)
    left = best or x > RIGHT - 95  # to the left of the front there is nothing to cross, beyond the right no room
    text = f"{entry.name} {entry.perplexity}" + " ↑" * (float(entry.perplexity) > axes.high)
    side = f'class="{"end" if left else "start"}" x="{fixed(x + (-11 if left else 11), 1)}" y="{fixed(y + 4, 1)}"'
    return (
        f'<g class="point" data-point="{entry.name}" data-state="{"yes" if best else "no"}" '
        f'data-chosen="{pressed(chosen)}"><circle cx="{fixed(x, 1)}" cy="{fixed(y, 1)}" r="5"/>'
        f"<text {side}>{text}</text></g>"
    )


# --- the table twin; cache.mjs writes the same rows ---


def twin(f: Facts) -> str:
    return (
        '<details class="qkv-twin" data-part="details"><summary>All numbers as a table</summary>'
        "<p>Numbers are counted per token and layer. A MB is 10⁶ bytes, a MiB 2²⁰ bytes. Perplexities are published "
        "ones, for models that were trained with these variants. The length may be more than a model was trained for: "
        "memory is all that is counted here.</p>"
        + grid(("variant", "numbers", "bytes"), "twin", rows(f, counted))
        + grid(("variant", "MB", "MiB"), "units", rows(f, measures))
        + grid(("variant", "of QKV", "perplexity"), "shares", rows(f, shares))
        + "</details>"
    )


def grid(names: tuple[str, ...], part: str, body: str) -> str:
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    return f'<table><thead><tr>{head}</tr></thead><tbody data-part="{part}">{body}</tbody></table>'


def rows(f: Facts, cells: Callable[[Facts, Entry], tuple[str, ...]]) -> str:
    return "".join(
        f'<tr><th scope="row">{e.name}</th>{"".join(f"<td>{text}</td>" for text in cells(f, e))}</tr>'
        for e in f.model.entries
    )


def counted(f: Facts, entry: Entry) -> tuple[str, ...]:
    return grouped(entry.numbers), grouped(f.cache(entry))


def measures(f: Facts, entry: Entry) -> tuple[str, ...]:
    return mega(f.cache(entry), 1000), mega(f.cache(entry), 1024)


def shares(f: Facts, entry: Entry) -> tuple[str, ...]:
    return f.share(entry), entry.perplexity or "none"
