"""The picture of the trained-model widget, as HTML: the answer, the forms to choose from, a map and pair sums per head.

``trained_model.py`` runs the models; here they are drawn. ``trained_model.mjs`` finds the parts by their data-part
names and moves them; it reads the weights from the page, where ``weights`` puts them.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from qkvtheory.widgets.state import State
from qkvtheory.widgets.text import fixed, num, shade
from qkvtheory.widgets.trained_model import LENGTH, PAIRS, Facts, Trained, facts, models, note, sentence, stored

MOST = max(model.heads for model in models())
SUM = "<i>A<sub>ij</sub></i> + <i>A<sub>ji</sub></i>"
LEFT, ONE, TOP, DOWN = 40, 104, 12, 27  # the chart of pair sums: its left side, the length of 1, first row, next row


def still(state: State) -> str:
    """The inside of the widget for a state of ``check_state``, as HTML."""
    f = facts(state)
    return (
        '<p class="qkv-lead"><b>Can one head exchange two symbols?</b> A trained layer of attention reverses eight '
        "digits. Type your own; then choose which projections it has.</p>"
        f'<div class="qkv-pair">{controls(f)}<div class="qkv-column">{answer(f)}</div></div>'
        + forms(f)
        + f'<p class="qkv-live qkv-reversed" aria-live="polite" data-part="live">{sentence(f)}</p>'
        + "".join(head(f, h) for h in range(MOST))
        + f'<p class="qkv-note qkv-bound" data-part="bound">{about_bound(f)}</p>'
        + twin(f)
        + f'<script type="text/plain" data-part="weights">{weights()}</script>'
    )


def weights() -> str:
    """All that the script knows of the models, as JSON: no number of theirs is written twice."""
    kept = {given["name"]: given["weights"] for given in stored()["models"]}
    data = [
        {"name": m.name, "heads": m.heads, "skip": m.skip, "temperature": m.temperature, "bias": m.key_bias.tolist(),
         "bounded": m.bounded, "note": note(m), "weights": kept[m.name]}
        for m in models()
    ]  # fmt: skip
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def flag(on: bool) -> str:
    return str(on).lower()


def state_of(on: bool) -> str:
    return "yes" if on else "no"


# --- the sequence and the answer ---


def controls(f: Facts) -> str:
    digits = "".join(
        f'<input type="text" inputmode="numeric" autocomplete="off" aria-label="digit {i + 1} of {LENGTH}" '
        f'data-part="digit {i}" value="{c}">'
        for i, c in enumerate(f.sequence)
    )
    return (
        '<fieldset class="qkv-controls" data-part="controls" disabled><legend>Eight digits to reverse</legend>'
        f'<div class="qkv-digits">{digits}</div><div class="qkv-last">'
        '<button type="button" data-part="random">Random</button>'
        '<button type="button" data-part="mirror">Mirror</button>'
        '<button type="button" data-part="reset">Start again <kbd>Esc</kbd></button></div></fieldset>'
    )


def answer(f: Facts) -> str:
    """What was asked and what came, as a table: it is its own twin."""
    rows = [
        ("sequence", "sequence", list(f.sequence), []),
        ("wanted", "wanted", list(f.wanted), []),
        ("answer", "answer", [f"{a} {'✓' if ok else '✗'}" for a, ok in zip(f.answer, f.right, strict=True)], f.right),
        ("sure, in %", "sure", [fixed(100 * p, 0) for p in f.chances], []),
    ]
    places = "".join(f'<th scope="col">{i + 1}</th>' for i in range(LENGTH))
    body = "".join(
        f'<tr data-part="{part}"><th scope="row">{title}</th>{cells(texts, right)}</tr>'
        for title, part, texts, right in rows
    )
    return (
        f'<table class="qkv-answer"><thead><tr><th scope="col">position</th>{places}</tr></thead>'
        f"<tbody>{body}</tbody></table>"
    )


def cells(texts: list[str], right: list[bool]) -> str:
    states = [f' data-state="{state_of(ok)}"' for ok in right] or [""] * len(texts)
    return "".join(f"<td{state}>{text}</td>" for state, text in zip(states, texts, strict=True))


# --- the forms, with what was measured ---


def forms(f: Facts) -> str:
    rows = "".join(
        f'<div class="qkv-form" data-chosen="{flag(m is f.model)}"><button type="button" data-variant="{m.name}" '
        f'aria-pressed="{flag(m is f.model)}">{m.name}</button>'
        f'<div class="qkv-track"><span style="--w:{percent(m, 2)}%"></span></div>'
        f"<b>{percent(m, 1)}%</b><span>{num(mean(m.seen('partners')))}</span></div>"
        for m in models()
    )
    return (
        '<div class="qkv-form qkv-titles"><p class="qkv-title">Which projections it has</p>'
        f"<span>symbols right, on test sequences</span><span>{SUM}</span></div>"
        f'<fieldset class="qkv-bars" aria-label="Which projections it has" data-part="forms" disabled>{rows}</fieldset>'
        f'<p class="qkv-note">{measured()}</p>'
    )


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def percent(model: Trained, digits: int) -> str:
    return fixed(100 * mean(model.seen("accuracy")), digits)


def measured() -> str:
    """Where the numbers come from."""
    first = models()[0]
    apart = max(max(m.seen("accuracy")) - min(m.seen("accuracy")) for m in models())
    sizes = sorted(m.parameters for m in models())
    return (
        f"Means over {len(first.runs)} trainings of each form, tested on {stored()['setting']['tested']:,} sequences; "
        f"trainings of a form differ by {fixed(100 * apart, 2)} points at most. The sum is that of the head where it "
        f"is largest. The page runs the first training of each form, with {sizes[0]:,} to {sizes[-1]:,} parameters. "
        "No MLP, no norm, and no skip except in the last form: attention is all there is."
    )


# --- the heads ---


def head(f: Facts, h: int) -> str:
    """A map and the sums of its pairs; the place of a second head is there, but hidden, where there is one head."""
    there = h < f.model.heads
    a = f.maps[h] if there else np.zeros((LENGTH, LENGTH))
    pairs = f.pairs[h] if there else [(0.0, 0.0)] * PAIRS
    title = f'<span data-part="title {h}">{title_of(f.model.heads, h)}</span>'
    return (
        f'<div class="qkv-pair qkv-head" data-part="head {h}"{"" if there else " hidden"}>'
        f'<div class="qkv-column"><p class="qkv-title">{title}: who looks at whom</p>{heat(f, a, h)}</div>'
        f'<div class="qkv-column"><p class="qkv-title">Partners <i>i</i>, <i>j</i>: {SUM}</p>'
        f"{sums(pairs, h)}</div></div>"
    )


def title_of(heads: int, h: int) -> str:
    return f"Head {h + 1} of {heads}" if heads > 1 else "The head"


def heat(f: Facts, a: np.ndarray, h: int) -> str:
    """The map with the symbols at its sides; where a position must look is outlined."""
    names = "".join(f"<span>{c}</span>" for c in f.sequence)
    inside = "".join(
        f'<span style="{shade(float(x), 1)}" class="{"partner" if i + j == LENGTH - 1 else ""}">{num(float(x))}</span>'
        for (i, j), x in np.ndenumerate(a)
    )
    return (
        f'<div class="qkv-matrix qkv-heat" style="--n:{LENGTH}">'
        f'<div class="qkv-over" aria-hidden="true" data-part="over {h}">{names}</div>'
        f'<div class="qkv-aside" aria-hidden="true" data-part="aside {h}">{names}</div>'
        f'<div role="img" class="qkv-map" data-part="map {h}" aria-label="Attention map of head {h + 1}, {LENGTH} by '
        f'{LENGTH}; every number is in the table below">{inside}</div></div>'
    )


def sums(pairs: list[tuple[float, float]], h: int) -> str:
    """For each pair what one sends to the other and what comes back, side by side, against the bound."""
    bottom = TOP + DOWN * PAIRS
    ticks = "".join(f'<text class="mid" x="{LEFT + ONE * x}" y="{bottom + 15}">{x}</text>' for x in (0, 1, 2))
    rows = "".join(row(a, b, h, i) for i, (a, b) in enumerate(pairs))
    return (
        f'<svg class="qkv-sums" viewBox="0 0 300 {bottom + 20}" role="img" aria-label="What partners send each other, '
        f'for {PAIRS} pairs, against 1; the numbers are in the table below">'
        f'<path class="axis" d="M{LEFT} {TOP - 4}V{bottom}H{LEFT + 2 * ONE}"/>{ticks}{rows}'
        f'<path class="line" d="M{LEFT + ONE} {TOP - 8}V{bottom}"/></svg>'
    )


def row(a: float, b: float, h: int, i: int) -> str:
    y, (start, near, far) = TOP + DOWN * i, lengths(a, b)
    return (
        f'<text class="end" x="{LEFT - 7}" y="{y + 15}">{i + 1}, {LENGTH - i}</text>'
        f'<rect class="near" data-part="near {h} {i}" x="{LEFT}" y="{y}" width="{near}" height="20"/>'
        f'<rect class="far" data-part="far {h} {i}" x="{start}" y="{y}" width="{far}" height="20"/>'
        f'<text class="end sum" data-part="sum {h} {i}" x="296" y="{y + 15}">{num(a + b)}</text>'
    )


def lengths(a: float, b: float) -> tuple[str, str, str]:
    """Where the second bar starts, and the lengths of both."""
    return fixed(LEFT + ONE * a, 1), fixed(ONE * a, 1), fixed(ONE * b, 1)


def about_bound(f: Facts) -> str:
    """The same text as in trained_model.mjs."""
    limit = "Dashed: 1, the bound where queries are keys." if f.model.bounded else "Dashed: 1, which is no bound here."
    return (
        "Row i of a map: what position i looks at; outlined: its partner, where the answer is. Bars: full color from "
        f"the first of a pair to the second, pale the way back. {limit}"
    )


# --- the table twin; trained_model.mjs writes the same cells ---


def twin(f: Facts) -> str:
    return (
        '<details class="qkv-twin" data-part="details"><summary>All numbers as a table</summary>'
        "<p>For each position what it looks at, and the sum with its partner's look back.</p>"
        + "".join(grid(f, h) for h in range(MOST))
        + "</details>"
    )


def grid(f: Facts, h: int) -> str:
    there = h < f.model.heads
    columns = "".join(f'<th scope="col">{j + 1}</th>' for j in range(LENGTH))
    rows = "".join(f'<tr><th scope="row">{i + 1}</th>{numbers(f, h, i)}</tr>' for i in range(LENGTH))
    return (
        f'<table class="qkv-looks" data-part="twin {h}"{"" if there else " hidden"}><thead><tr>'
        f'<th scope="col">head {h + 1}</th>{columns}<th scope="col">sum</th></tr></thead><tbody>{rows}</tbody></table>'
    )


def numbers(f: Facts, h: int, i: int) -> str:
    values: list[Any] = [0.0] * (LENGTH + 1)
    if h < f.model.heads:
        a = f.maps[h]
        values = [*a[i], a[i, -1 - i] + a[-1 - i, i]]
    return "".join(f"<td>{num(float(x))}</td>" for x in values)
