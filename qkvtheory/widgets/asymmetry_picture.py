"""The picture of the asymmetry widget, as HTML: tokens and flow, three matrices, rounds, eigenvalues, pairs, a table.

``asymmetry.py`` says what is true in a state; here it is drawn. ``asymmetry.mjs`` finds the parts by their data-part
names and moves them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from qkvtheory.attention import causal
from qkvtheory.widgets.asymmetry import (
    CORRECTIONS,
    CUBIC,
    HOT,
    KEY_BIAS,
    LINEAR,
    MODES,
    Facts,
    crosses,
    facts,
    sentence,
    verdicts,
    way,
)
from qkvtheory.widgets.state import State
from qkvtheory.widgets.text import fixed, handle, listed, matrix, num, pixel, plane

WEAK = 0.002  # a flow below this is not drawn
Q, K = '<i class="sq">q</i>', '<i class="sk">k</i>'
A = "<i>A</i>"


def still(state: State) -> str:
    """The inside of the widget for a state of ``check_state``, as HTML."""
    f = facts(state)
    said = verdicts(f)
    many = " qkv-many" if len(state["tokens"]) > 4 else ""
    n = len(state["tokens"])
    rows = f'qkv-row qkv-maps" style="--tokens:{n};--phone:{2 * n if n < 5 else n}'
    tags = {name: tag(name, *verdict) for name, verdict in said.items()}
    return (
        '<p class="qkv-lead"><b>Queries equal to keys: what is lost, and what brings it back?</b> Drag a token '
        "(or focus one and use the arrow keys), and choose how the scores are made.</p>"
        '<div class="qkv-pair">'
        + panel(
            "Tokens, and the net flow between them",
            f'<div class="qkv-plane">{tokens(state, f)}</div>',
            f'<p class="qkv-note" data-part="flow note">{flow_note(f)}</p>',
        )
        + f'<div class="qkv-column">{controls(state)}</div></div>'
        + f'<p class="qkv-live qkv-plain" aria-live="polite" data-part="live">{sentence(f)}</p>'
        + f'<div class="{rows}">{matrices(state, f, tags)}</div>'
        + f'<div class="qkv-trio{many}">{cycles(f, tags)}{eigen_plane(f, tags)}{pair_square(f, tags)}</div>'
        + table(state, f)
    )


def tag(name: str, state: str, text: str) -> str:
    return f'<p class="qkv-tag" data-part="tag {name}" data-state="{state}"><b>{text}</b></p>'


def tokens(state: State, f: Facts) -> str:
    points = state["tokens"]
    arrows = "".join(
        f'<path class="flow" data-part="flow {i} {j}" {stream(f, points, i, j)}/>' for (i, j), _, _ in f.pairs
    )
    cross = '<path class="grid" d="M-160 0H160M0 -160V160"/>'
    knobs = (handle("token", i, row, f"token {i + 1}", str(i + 1)) for i, row in enumerate(points))
    return plane("Plane of the tokens to move", cross + arrows + "".join(knobs))


def stream(f: Facts, points: list[list[float]], i: int, j: int) -> str:
    """The net flow pi_i A_ij - pi_j A_ji as an arrow between two tokens, from where to where it goes."""
    size = 0.0 if f.causal or f.reversible else float(f.flow[i, j])
    start, end = (points[i], points[j]) if size > 0 else (points[j], points[i])
    dx, dy = end[0] - start[0], end[1] - start[1]
    length = math.sqrt(dx * dx + dy * dy)
    if abs(size) < WEAK or length < 0.8:  # nothing to draw, or no room between the knobs
        return 'd="" style="--w:0.00"'
    ux, uy = dx / length, dy / length
    a, b = (start[0] + 0.3 * ux, start[1] + 0.3 * uy), (end[0] - 0.34 * ux, end[1] - 0.34 * uy)
    left, right = ((b[0] - 0.16 * ux + side * uy, b[1] - 0.16 * uy - side * ux) for side in (0.09, -0.09))
    line = f"M{pixel(a)}L{pixel(b)}M{pixel(left)}L{pixel(b)}L{pixel(right)}"
    return f'd="{line}" style="--w:{fixed(min(1.0, 10 * abs(size)), 2)}"'


def controls(state: State) -> str:
    def choice(title: str, key: str, options: dict[str, str]) -> str:
        buttons = "".join(
            f'<button type="button" data-part="{key} {value}" aria-pressed="{str(state[key] == value).lower()}">'
            f"{text}</button>"
            for value, text in options.items()
        )
        return f'<div class="qkv-choice" role="group" aria-label="{title}"><span>{title}</span>{buttons}</div>'

    on = " checked" if state["causal"] else ""
    return (
        '<fieldset class="qkv-controls" data-part="controls" disabled><legend>How the scores are made</legend>'
        + choice("queries and keys", "mode", MODES)
        + choice("correction", "correction", CORRECTIONS)
        + '<label class="qkv-range"><span>scale of the scores, <i>s</i> = '
        f'<b data-part="size">{signed(state["temperature"])}</b></span>'
        f'<input type="range" min="-{HOT}" max="{HOT}" step="0.1" '
        f'value="{state["temperature"]:g}" data-part="temperature" aria-valuetext="{signed(state["temperature"])}">'
        f'<span class="qkv-ticks" aria-hidden="true"><span>−{HOT}</span><span>0</span><span>{HOT}</span></span></label>'
        f'<div class="qkv-last"><label class="qkv-switch"><input type="checkbox" role="switch" data-part="causal"{on}>'
        "<span>causal mask</span></label>"
        '<button type="button" data-part="reset">Start again <kbd>Esc</kbd></button></div></fieldset>' + formula(state)
    )


def signed(x: float) -> str:
    return fixed(x, 1).replace("-", "−")


def formula(state: State) -> str:
    """The score in use; the parts that are not in use are there and hidden."""
    same, used = state["mode"] == "q=k", state["correction"]

    def part(name: str, shown: bool, text: str) -> str:
        return f'<span data-part="term {name}"{"" if shown else " hidden"}>{text}</span>'

    bias = ", ".join(map(signed, KEY_BIAS[: len(state["tokens"])]))
    return (
        '<p class="qkv-formula"><i>S<sub>ij</sub></i> = <i>s</i> · '
        + part("k", same, f"{K}<sub><i>i</i></sub>")
        + part("q", not same, f"{Q}<sub><i>i</i></sub>")
        + part("rope", used == "rope", " <i>R<sub>i−j</sub></i>")
        + f" {K}<sub><i>j</i></sub><sup>T</sup> / √2"
        + part("key-bias", used == "key-bias", f" + <i>c<sub>j</sub></i>, with <i>c</i> = ({bias})")
        + part("linear", used == "linear", f" + {LINEAR:g} (<i>j</i> − <i>i</i>)")
        + part("cubic", used == "cubic", f" + {CUBIC:g} (<i>j</i> − <i>i</i>)<sup>3</sup>")
        + f', <i>s</i> = <b data-part="term size">{signed(state["temperature"])}</b></p>'
    )


def flow_note(f: Facts) -> str:
    if f.causal:
        return "No arrows: a reader who follows the attention ends at token 1."
    if f.reversible:
        return "No arrows: as much attention flows from each token to any other as flows back."
    return "Arrows: more flows this way than back, for a reader who follows the attention."


SHOWN = {"scores": ("Scores <i>S</i>", "signed", 4), "map": (f"Map {A}", "map", 1)}
SHOWN["skew"] = (f"Difference {A} − {A}<sup>T</sup>", "signed", 1)
SAID = {"scores": "Scores", "map": "Attention map", "skew": "Difference of the map and its transpose"}


def matrices(state: State, f: Facts, tags: dict[str, str]) -> str:
    n = len(state["tokens"])
    masked = np.where(causal(n) | (not state["causal"]), "", "masked")
    return "".join(
        matrix(
            name,
            f"<b>{title}</b>",
            f"{SAID[name]}, {n} by {n}; every number is in the table below",
            kind,
            getattr(f, name),
            limit,
            tags[name],
            np.full((n, n), "") if name == "skew" else masked,
        )
        for name, (title, kind, limit) in SHOWN.items()
    )


TURN = "M8.9 -19A21 21 0 1 1 -8.9 -19M-17.7 -21L-8.9 -19L-13 -11"


def cycles(f: Facts, tags: dict[str, str]) -> str:
    """Every triangle as a round: an arrow the likelier way, and the cycle affinity inside."""
    rounds = "".join(cycle(f, at, size) for at, size in f.cycles)
    note = "Arrow: the likelier way round. Number: the logarithm of how much likelier."
    return panel("Rounds of three tokens", f'{noted(note)}<div class="qkv-rounds">{rounds}</div>', tags["cycles"])


def cycle(f: Facts, at: tuple[int, ...], size: float) -> str:
    turn, text, weight = turning(f, size)
    corners = "".join(
        f'<text x="{x}" y="{y}">{t + 1}</text>' for t, (x, y) in zip(at, ((0, -28), (30, 24), (-30, 24)), strict=True)
    )
    return (
        f'<svg viewBox="-40 -40 80 74" role="img" aria-label="tokens {listed([str(t + 1) for t in at])}" '
        f'data-part="cycle {" ".join(map(str, at))}" data-turn="{turn}" style="--w:{weight}">'
        f'<circle r="21"/><path d="{TURN}"/>{corners}<text y="4" class="size">{text}</text></svg>'
    )


def turning(f: Facts, size: float) -> tuple[str, str, str]:
    """Which way a round turns, its number, and how strong its arrow is."""
    if f.causal:
        return "none", "—", "0.00"
    if abs(size) <= f.tolerance:
        return "balanced", "0", "0.00"
    return "forth" if size > 0 else "back", num(abs(size)), fixed(min(1.0, abs(size) / 4), 2)


def noted(text: str) -> str:
    return f'<p class="qkv-note">{text}</p>'


def panel(title: str, inside: str, below: str) -> str:
    return f'<div class="qkv-column"><p class="qkv-title">{title}</p>{inside}{below}</div>'


def eigen_plane(f: Facts, tags: dict[str, str]) -> str:
    """The unit disk of the complex plane, 90 units wide, in the middle of 220 x 220."""
    dots = "".join(f'<circle {eigen_dot(f, i)} data-noise r="5"/>' for i in range(len(f.eigenvalues)))
    return panel(
        f"Eigenvalues of {A}",
        noted("One dot each, in the complex plane; the interval from 0 to 1 is marked.")
        + '<svg class="qkv-dots" viewBox="0 -2 220 224" role="img" aria-label="Eigenvalues of the attention map in the '
        'complex plane, with the interval from 0 to 1; the numbers are in the table below">'
        '<circle class="disk" cx="110" cy="110" r="90"/><path class="axis" d="M8 110H212M110 8V212"/>'
        '<path class="interval" d="M110 110H200"/><text x="102" y="124">0</text><text x="203" y="124">1</text>'
        f'<text x="5" y="124">−1</text><text x="115" y="14">imaginary</text>{dots}</svg>',
        tags["eigenvalues"],
    )


def eigen_dot(f: Facts, i: int) -> str:
    x, y = f.eigenvalues[i]
    state = "yes" if f.contains((x, y)) else "no"
    return (
        f'data-part="eigenvalue {i}" data-state="{state}" cx="{fixed(110 + 90 * x, 1)}" cy="{fixed(110 - 90 * y, 1)}"'
    )


def pair_square(f: Facts, tags: dict[str, str]) -> str:
    """The unit square, 180 units wide; the pairs of the two tokens i < j are dots at A_ij, A_ji."""
    dots = "".join(f'<circle {pair_dot(f, i)} data-noise r="5"/>' for i in range(len(f.pairs)))
    (i, j), a, b = f.largest
    side, anchor = (9, "") if a < 0.5 else (-9, "end")
    where = f"{fixed(30 + 180 * a + side, 1)} {fixed(194 - 180 * b, 1)}"
    return panel(
        "Pairs of tokens",
        noted("One dot each: how much the two look at each other; on the line, 1 in sum.")
        + '<svg class="qkv-dots" style="--c:var(--soft)" viewBox="0 -12 220 224" role="img" '
        'aria-label="Every pair of tokens i, j as a dot: '
        "attention from i to j across, from j to i up, with the line where the two add up to one; the numbers are in "
        'the table below"><path class="beyond" d="M30 10H210V190Z"/><path class="axis" d="M30 10V190H210"/>'
        '<path class="line" d="M30 10L210 190"/>'
        '<text x="26" y="18" class="end">1</text><text x="26" y="203" class="end">0</text>'
        '<text x="210" y="203" class="end">1</text><text x="120" y="208" class="mid">from i to j</text>'
        '<text transform="translate(20 100) rotate(-90)" class="mid">from j to i</text>'
        '<text x="210" y="3" class="end">sum above 1</text>'
        f"{dots}"
        f'<text data-part="pair name" data-noise transform="translate({where})" class="name {anchor}">{i + 1}, {j + 1}'
        "</text></svg>",
        tags["pairs"],
    )


def square(a: float, b: float) -> tuple[str, str]:
    return fixed(30 + 180 * a, 1), fixed(190 - 180 * b, 1)


def pair_dot(f: Facts, at: int) -> str:
    (i, j), a, b = f.pairs[at]
    x, y = square(a, b)
    state = "none" if f.causal else "no" if crosses(a, b) else "yes"
    return f'data-part="pair {i} {j}" data-state="{state}" cx="{x}" cy="{y}"'


def table(state: State, f: Facts) -> str:
    """All numbers; ``asymmetry.mjs`` writes the cells in the same order."""
    groups = (
        ("token", ("x", "y"), [(str(i + 1), row) for i, row in enumerate(state["tokens"])]),
        (
            "from i to j",
            ("score", "attention", "difference"),
            [(f"{i + 1}, {j + 1}", [f.scores[i, j], f.map[i, j], f.skew[i, j]]) for i, j in np.ndindex(*f.map.shape)],
        ),
        ("pair", ("sum",), [(f"{i + 1}, {j + 1}", [a + b]) for (i, j), a, b in f.pairs]),
        ("round", ("cycle affinity",), [(way(at, 1), [size]) for at, size in f.cycles]),
        ("eigenvalue", ("real", "imaginary"), [(str(i + 1), list(v)) for i, v in enumerate(f.eigenvalues)]),
    )
    return (
        '<details class="qkv-twin" data-part="details"><summary>All numbers as a table</summary>'
        "<p>Tokens are counted from 1. A positive cycle affinity: the round as written is likelier than its way back; "
        "its logarithm. Colors: the map from 0 to 1, scores from −4 to 4, the difference from −1 to 1.</p>"
        '<div data-part="twin">' + "".join(grid(*group) for group in groups) + "</div></details>"
    )


def grid(kind: str, names: tuple[str, ...], rows: list[tuple[str, Any]]) -> str:
    head = "".join(f'<th scope="col">{name}</th>' for name in (kind, *names))
    body = "".join(
        f'<tr><th scope="row">{name}</th>{"".join(f"<td>{entry(float(x))}</td>" for x in row)}</tr>'
        for name, row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def entry(x: float) -> str:
    return "none" if math.isnan(x) else num(x)
