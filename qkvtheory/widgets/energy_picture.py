"""The picture of the energy widget, as HTML: the landscape with keys and paths, the falling energies, a table.

``energy.py`` says what is true in a state; here it is drawn. ``energy.mjs`` finds the parts by their data-part names
and moves them. Paths are drawn in tenths of a pixel, as whole numbers: short, and free of rounding noise.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np

from qkvtheory.energy import energy
from qkvtheory.widgets.energy import BLUNT, SHARP, STEPS, Descent, Facts, facts, sentence, verdicts
from qkvtheory.widgets.state import State
from qkvtheory.widgets.text import UNIT, fixed, handle, matrix, num, plane

Point = tuple[float, float]
HALF, MESH = 160, 8  # half the plane's width and the distance of two samples of the landscape, in pixels
SIDE = 2 * HALF // MESH + 1
LEVELS = [0.02 * i * i for i in range(1, 17)]  # above the lowest sample; close together where the valleys are
WALL = 1e9  # around the samples, so that every contour closes


def still(state: State) -> str:
    """The inside of the widget for a state of ``check_state``, as HTML."""
    f = facts(state)
    return (
        '<p class="qkv-lead"><b>Keys as values: does reading again roll downhill?</b> Drag a query or a key (or focus '
        "one and use the arrow keys); then let values be something else than keys.</p>"
        '<div class="qkv-pair"><div class="qkv-column">'
        '<p class="qkv-title">Landscape, keys and paths</p>'
        f'<div class="qkv-plane qkv-energy" data-part="plane" data-tied="{flag(f.tied)}">{landscape(state, f)}</div>'
        f'{note(f)}</div><div class="qkv-column">{controls(state)}{chart(f)}</div></div>'
        f'<p class="qkv-live qkv-downhill" aria-live="polite" data-part="live">{sentence(f)}</p>'
        f'<div class="qkv-cards">{"".join(card(d, i) for i, d in enumerate(f.descents))}</div>' + table(state, f)
    )


def flag(on: bool) -> str:
    return str(on).lower()


# --- the landscape ---


def landscape(state: State, f: Facts) -> str:
    levels = "".join(
        f'<path class="level" data-part="level {i}" d="{d}"/>' for i, d in enumerate(contours(samples(state)))
    )
    tracks = "".join(
        f'<path class="track" data-part="track {i}" d="{line(d.path)}"/>'
        f'<path class="climb" data-part="climb {i}" d="{climbs(d.path, d)}"/>'
        f'<path class="stops" data-part="stops {i}" d="{stops(d.path[1:])}"/>'
        for i, d in enumerate(f.descents)
    )
    knobs = [
        handle(kind, i, row, f"{kind} {i + 1}", f"{kind[0]}{i + 1}")
        for kind, rows in (("key", state["K"]), ("value", state["V"]), ("query", state["Q"]))
        for i, row in enumerate(rows)
    ]
    drawn = (
        f'<g transform="scale(0.1)">{levels}<path class="hull" data-part="hull" d="{line(f.hull)}z"/>'
        f'<path class="ties" data-part="ties" d="{ties(state)}"/>{tracks}</g>'
    )
    return plane("Plane of the keys and queries to move, on the landscape of the energy", drawn + "".join(knobs))


def samples(state: State) -> np.ndarray:
    """The energy on a square mesh, from the upper left, with a wall around it."""
    across = (np.arange(SIDE) * MESH - HALF) / UNIT
    x, y = np.meshgrid(across, -across)
    mesh = np.stack([x.ravel(), y.ravel()], axis=1)
    return np.pad(energy(mesh, np.array(state["K"]), state["alpha"]).reshape(SIDE, SIDE), 1, constant_values=WALL)


def contours(mesh: np.ndarray) -> list[str]:
    """For each level the region below it, as the closed lines around it; the highest first, to be drawn one on another.

    Marching squares: where a side of a cell is crossed, a line leaves the cell or comes in; low ground is on its right.
    """
    rows = mesh.tolist()
    lowest = float(mesh.min())
    return [region(rows, lowest + level) for level in reversed(LEVELS)]


def region(mesh: list[list[float]], level: float) -> str:
    after: dict[tuple[int, int, int], tuple[int, int, int]] = {}
    for r, (upper, lower) in enumerate(pairwise(mesh)):
        for c in range(len(upper) - 1):
            low = [x < level for x in (upper[c], upper[c + 1], lower[c + 1], lower[c])]
            if any(low) and not all(low):
                sides = ((r, c, 0), (r, c + 1, 1), (r + 1, c, 0), (r, c, 1))  # row, column, 0 across or 1 down
                for k in range(4):
                    if low[k] and not low[k - 3]:
                        after[sides[k]] = sides[entry(low, k)]
    return "".join(loops(mesh, level, after))


def entry(low: list[bool], k: int) -> int:
    """The side by which the line that leaves the cell through side k has come in."""
    k = k - 1
    while low[k]:
        k = k - 1
    return k


def loops(mesh: list[list[float]], level: float, after: dict) -> Iterable[str]:
    while after:
        at = next(iter(after))
        points = []
        while at in after:
            points.append(crossing(mesh, level, *at))
            at = after.pop(at)
        steps = (f"{b[0] - a[0]} {b[1] - a[1]}" for a, b in pairwise(points))
        yield f"M{points[0][0]} {points[0][1]}l{' '.join(steps)}z"


def crossing(mesh: list[list[float]], level: float, r: int, c: int, down: int) -> tuple[int, int]:
    """Where the side of the mesh from (r, c) is at the level, in tenths of a pixel."""
    start, end = mesh[r][c], mesh[r + down][c + 1 - down]
    t = (level - start) / (end - start)
    x, y = (c - 1 + t, r - 1) if down == 0 else (c - 1, r - 1 + t)
    return whole(10 * (MESH * x - HALF)), whole(10 * (MESH * y - HALF))


def whole(x: float) -> int:
    """JavaScript's Math.round."""
    return math.floor(x + 0.5)


def tenths(point: Iterable[float]) -> str:
    x, y = point
    return f"{whole(10 * UNIT * x)} {whole(-10 * UNIT * y)}"


def line(points: Iterable[Iterable[float]]) -> str:
    return "M" + "L".join(map(tenths, points))


def climbs(points: np.ndarray, d: Descent) -> str:
    """The steps that go up."""
    return "".join(line(points[t - 1 : t + 1]) for t in d.rises)


def stops(points: np.ndarray) -> str:
    """Lines without length: their round ends are dots."""
    return "".join(f"M{tenths(p)}h0" for p in points)


def ties(state: State) -> str:
    """From every key to its value."""
    return "".join(line(pair) for pair in zip(state["K"], state["V"], strict=True))


def note(f: Facts) -> str:
    what = either("of", f.tied, '<i class="sk">keys</i>', '<i class="sv">values</i>')
    return (
        f'<p class="qkv-note">Stronger color: lower ground. Dashed: the hull of the {what}; every read-out lies in it. '
        "A step that climbs is thick and red.</p>"
    )


def either(part: str, tied: bool, yes: str, no: str) -> str:
    """What stands there while values are keys, and while they are not; one of the two is hidden."""
    return "".join(
        f'<span data-part="{part} {name}"{"" if shown else " hidden"}>{text}</span>'
        for name, shown, text in (("tied", tied, yes), ("untied", not tied, no))
    )


# --- the controls and the chart ---


def controls(state: State) -> str:
    size, on = fixed(state["alpha"], 1), " checked" if state["tied"] else ""
    return (
        '<fieldset class="qkv-controls" data-part="controls" disabled><legend>How queries read</legend>'
        f'<label class="qkv-switch"><input type="checkbox" role="switch" data-part="tied"{on}>'
        "<span>values are keys</span></label>"
        f'<label class="qkv-range"><span>sharpness <i>α</i> = <b data-part="size">{size}</b></span>'
        f'<input type="range" min="{BLUNT:g}" max="{SHARP:g}" step="0.1" value="{state["alpha"]:g}" data-part="alpha" '
        f'aria-valuetext="{size}"></label>'
        '<button type="button" data-part="reset">Start again <kbd>Esc</kbd></button></fieldset>' + formula(state)
    )


def formula(state: State) -> str:
    q, k = '<i class="sq">q</i>', '<i class="sk">k<sub>j</sub></i>'
    read = either("term", state["tied"], k, '<i class="sv">v<sub>j</sub></i>')
    scores = f"<i>α</i> {q} {k}<sup>T</sup>"
    return (
        f'<p class="qkv-formula">A step: {q}⁺ = <i>y</i>({q}) = Σ<sub><i>j</i></sub> <i>A<sub>j</sub></i>({q}) '
        f'{read}, <i>α</i> = <b data-part="term size">{fixed(state["alpha"], 1)}</b><br>'
        f"<i>E</i>({q}) = −(1/<i>α</i>) log Σ<sub><i>j</i></sub> exp({scores}) + ½|{q}|²</p>"
    )


def span(f: Facts) -> tuple[float, float]:
    """The energies at the bottom and at the top of the chart: multiples of a half."""
    all_of = np.array([d.energies for d in f.descents])
    low, high = math.floor(2 * all_of.min() + RIM) / 2, math.ceil(2 * all_of.max() - RIM) / 2
    return low, max(high, low + 0.5)


RIM = 1e-9  # rounding must not add half a unit
LEFT, ACROSS, TOP, DOWN = 44, 31, 14, 130  # the chart: its left side, one step, its upper side, its height


def at(t: float, e: float, scale: tuple[float, float]) -> str:
    """Step t and energy e in the chart, in tenths of a pixel."""
    return f"{whole(10 * (LEFT + ACROSS * t))} {height(e, scale)}"


def height(e: float, scale: tuple[float, float]) -> int:
    low, high = scale
    return whole(10 * (TOP + DOWN * (high - e) / (high - low)))


def spread(heights: list[int]) -> list[str]:
    """The heights of the names in the chart, moved down where one would cover another."""
    free, made = -math.inf, {}
    for i in sorted(range(len(heights)), key=heights.__getitem__):
        made[i] = fixed(max(heights[i], free) / 10 + 4, 1)
        free = max(heights[i], free) + 120
    return [made[i] for i in range(len(heights))]


BARS = "Bars: each step must fall at least to here, by half the square of its length."
NO_BARS = "No bars: nothing says how far down a step must go, or whether it goes down at all."


def chart(f: Facts) -> str:
    scale = span(f)
    right, bottom = LEFT + ACROSS * STEPS, TOP + DOWN
    lines = "".join(
        f'<path class="track" data-part="curve {i}" d="{curve(d, scale)}"/>'
        f'<path class="bound" data-part="bound {i}" d="{bound(d, scale) if f.tied else ""}"/>'
        f'<path class="climb" data-part="rise {i}" d="{rises(d, scale)}"/>'
        f'<path class="stops" data-part="marks {i}" d="{marks(d, scale)}"/>'
        for i, d in enumerate(f.descents)
    )
    names = "".join(
        f'<text class="name" data-part="name {i}" x="{right + 12}" y="{y}">q{i + 1}</text>'
        for i, y in enumerate(spread([height(d.energies[-1], scale) for d in f.descents]))
    )
    steps = "".join(
        f'<text x="{LEFT + ACROSS * t}" y="{bottom + 16}" class="mid">{t}</text>' for t in range(0, STEPS + 1, 2)
    )
    return (
        '<p class="qkv-title">The energy, step by step</p>'
        '<svg class="qkv-chart qkv-energy" viewBox="0 0 320 180" role="img" aria-label="The energy of every query at '
        f'steps 0 to {STEPS}; the numbers are in the table below">'
        f'<path class="axis" d="M{LEFT} {TOP}H{right}M{LEFT} {bottom}H{right}"/>'
        f'<text x="{LEFT - 5}" y="{TOP + 4}" class="end" data-part="high">{num(scale[1])}</text>'
        f'<text x="{LEFT - 5}" y="{bottom + 4}" class="end" data-part="low">{num(scale[0])}</text>{steps}'
        f'<text x="{right}" y="{bottom + 31}" class="end">step</text>'
        f'<g transform="scale(0.1)">{lines}</g>{names}</svg>'
        f'<p class="qkv-note">{either("bars", f.tied, BARS, NO_BARS)}</p>'
    )


def curve(d: Descent, scale: tuple[float, float]) -> str:
    return "M" + "L".join(at(t, e, scale) for t, e in enumerate(d.energies))


def bound(d: Descent, scale: tuple[float, float]) -> str:
    """A bar at every step: the energy before it less half the square of its length."""
    ends = d.energies[:-1] - d.bounds
    return "".join(f"M{at(t + 0.75, e, scale)}h{5 * ACROSS}" for t, e in enumerate(ends))


def rises(d: Descent, scale: tuple[float, float]) -> str:
    return "".join(f"M{at(t - 1, d.energies[t - 1], scale)}L{at(t, d.energies[t], scale)}" for t in d.rises)


def marks(d: Descent, scale: tuple[float, float]) -> str:
    return "".join(f"M{at(t, e, scale)}h0" for t, e in enumerate(d.energies))


# --- the cards and the table ---


def card(d: Descent, i: int) -> str:
    """One query: its first step, and the Jacobian of the read-out where it starts."""
    tags = {
        name: f'<p class="qkv-tag" data-part="tag {name} {i}" data-state="{state}"><b>{text}</b></p>'
        for name, (state, text) in verdicts(d).items()
    }
    label = f"Jacobian of the read-out at query {i + 1}, 2 by 2; every number is in the table below"
    cells = matrix(f"jacobian {i}", "∂<i>y</i>/∂<i>q</i> here", label, "signed", d.jacobian, 2, "", np.full((2, 2), ""))
    return (
        f'<div class="qkv-card" style="--cell:40px">{cells}<div><p class="qkv-title"><span class="sq">Query {i + 1}'
        f"</span></p><p>First step, bound ½|<i>q</i> − <i>q</i>⁺|²:</p>{tags['first']}<p>Jacobian:</p>"
        f"{tags['jacobian']}</div></div>"
    )


def table(state: State, f: Facts) -> str:
    """All numbers; ``energy.mjs`` writes the cells in the same order."""
    points = [(f"{kind} {i + 1}", row) for kind in ("key", "value") for i, row in enumerate(state[kind[0].upper()])]
    groups: list[tuple[str, tuple[str, ...], list[tuple[str, Any]]]] = [("point", ("x", "y"), points)]
    for i, d in enumerate(f.descents):
        groups.append((f"q{i + 1}", ("x", "y", "energy", "drop", "bound"), list(walk(d))))
    jacobians = [
        (f"query {i + 1}, {'xy'[r]} of read-out", d.jacobian[r]) for i, d in enumerate(f.descents) for r in (0, 1)
    ]
    groups.append(("Jacobian", ("by x", "by y"), jacobians))
    return (
        '<details class="qkv-twin" data-part="details"><summary>All numbers as a table</summary>'
        "<p>A row of q1 for each step, from 0. Drop: how much lower the step ends. Bound: half the square of its "
        "length, the least drop if values are keys. While values are keys, the values listed are not in use. Colors of "
        "a Jacobian: from −2 to 2.</p>"
        '<div data-part="twin">' + "".join(grid(*group) for group in groups) + "</div></details>"
    )


def walk(d: Descent) -> Iterable[tuple[str, list[float]]]:
    """A row for every step: where it ends, the energy there, by how much it fell, by how much it must."""
    drops, bounds = [math.nan, *d.drops], [math.nan, *d.bounds]
    for t, (point, *numbers) in enumerate(zip(d.path, d.energies, drops, bounds, strict=True)):
        yield str(t), [*point, *numbers]


def grid(kind: str, names: tuple[str, ...], rows: list[tuple[str, list[float]]]) -> str:
    head = "".join(f'<th scope="col">{name}</th>' for name in (kind, *names))
    body = "".join(
        f'<tr><th scope="row">{name}</th>{"".join(f"<td>{entry_of(float(x))}</td>" for x in row)}</tr>'
        for name, row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def entry_of(x: float) -> str:
    return "–" if math.isnan(x) else num(x)
