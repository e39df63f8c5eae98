"""The still of the asymmetry widget: what a map loses when queries are keys, and which corrections give it back.

The numbers come from the package's own ``Heads`` and ``symmetric``. ``asymmetry.mjs`` moves the picture written here;
it finds its parts by their data-part names and writes the same text.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from itertools import combinations
from typing import Any

import numpy as np

from qkvtheory.attention import Heads, causal
from qkvtheory.positions import relative_bias, rope
from qkvtheory.symmetric import spectrum, stationary_law
from qkvtheory.widgets.state import State, check_choice, check_flag, check_number, check_rows, complete
from qkvtheory.widgets.text import REACH, fixed, handle, listed, matrix, num, pixel, plane

DEFAULT: State = {
    "tokens": [[1.6, 0.7], [-0.4, 1.2], [-1.3, -0.9], [0.7, -0.6]],
    "mode": "q=k",
    "correction": "none",
    "temperature": 1.0,
    "causal": False,
    "W_Q": [[-1.1, 0.4], [-0.1, -1.0]],
    "W_K": [[1.1, 0.2], [-0.3, 0.9]],
}
MODES = {"q=k": "same", "qkv": "different"}
CORRECTIONS = {
    "none": "none",
    "key-bias": "key bias",
    "rope": "RoPE",
    "linear": "relative, linear",
    "cubic": "relative, cubic",
}
# One number per key, and b(j - i) with an odd part that is linear or is not.
KEY_BIAS = (1.5, -0.5, 0.0, -1.0, 1.0, 0.5)
LINEAR, CUBIC = 0.5, 0.05
HOT = 3
TOKENS = (3, 4, 5, 6)
EPS64 = 2.0**-52
WEAK = 0.002  # a flow below this is not drawn


def check_state(**given: Any) -> State:
    """The full state, with defaults for what was not given, as JSON values.

    ``tokens`` 3 to 6 rows of 2 numbers; ``mode`` "q=k" (queries are keys, x W_K) or "qkv"; ``correction`` "none",
    "key-bias", "rope", "linear" or "cubic" (a relative bias); ``temperature`` from -3 to 3, the scale s of the scores:
    it multiplies them before the correction; ``causal`` a boolean; ``W_Q``, ``W_K`` 2 x 2. Entries of tokens and
    weights lie between -2 and 2, so that no attention underflows. Raises ValueError naming what is wrong.

    >>> check_state(mode="qkv")["mode"]
    'qkv'
    """
    state = complete(DEFAULT, given)
    for name, rows in (("tokens", TOKENS), ("W_Q", (2,)), ("W_K", (2,))):
        state[name] = check_rows(name, state[name], rows)
        if (size := np.abs(state[name]).max()) > REACH:
            raise ValueError(f"{name} must have entries from {-REACH} to {REACH}; the largest here is {size:g}")
    state["mode"] = check_choice("mode", state["mode"], tuple(MODES))
    state["correction"] = check_choice("correction", state["correction"], tuple(CORRECTIONS))
    state["temperature"] = check_number("temperature", state["temperature"], -HOT, HOT)
    state["causal"] = check_flag("causal", state["causal"])
    return state


# --- the mathematics ---


@dataclass(frozen=True)
class Facts:
    """Everything the picture shows. Tokens are counted from 0; a cycle is (i, j, k) and its affinity, i to j to k
    minus the way back; a pair is (i, j), A_ij and A_ji; ``tolerance`` is what rounding may do to a score.
    """

    scores: np.ndarray
    map: np.ndarray
    skew: np.ndarray
    flow: np.ndarray
    cycles: list[tuple[tuple[int, ...], float]]
    eigenvalues: list[tuple[float, float]]
    pairs: list[tuple[tuple[int, ...], float, float]]
    tolerance: float
    causal: bool

    @property
    def symmetric_scores(self) -> bool:
        return float(np.abs(self.scores - self.scores.T).max()) <= self.tolerance

    @property
    def symmetric_map(self) -> bool:
        return float(np.abs(self.skew).max()) <= self.tolerance

    @property
    def strongest(self) -> tuple[tuple[int, ...], float]:
        return first_largest(self.cycles, lambda cycle: abs(cycle[1]))

    @property
    def reversible(self) -> bool:
        return not self.causal and abs(self.strongest[1]) <= self.tolerance

    @property
    def blur(self) -> float:
        """What rounding may do to an eigenvalue: of the order of eps if the map is triangular or similar to a symmetric
        one. Otherwise, at worst, n - 1 eigenvalues coincide and share one eigenvector: the (n - 1)-th root of eps.
        """
        sure = self.causal or self.reversible
        return 64 * EPS64 if sure else float((64 * EPS64) ** (1 / (len(self.map) - 1)))

    def contains(self, value: tuple[float, float]) -> bool:
        """Real and in [0, 1], up to rounding."""
        x, y = value
        return abs(y) <= self.blur and -self.blur <= x <= 1 + self.blur

    @property
    def complex(self) -> int:
        return sum(abs(y) > self.blur for _, y in self.eigenvalues)

    @property
    def inside(self) -> bool:
        return all(map(self.contains, self.eigenvalues))

    @property
    def largest(self) -> tuple[tuple[int, ...], float, float]:
        return first_largest(self.pairs, lambda pair: pair[1] + pair[2])


def first_largest(items: list[Any], size: Callable[[Any], float]) -> Any:
    """The first of those that rounding cannot tell from the largest."""
    return reduce(lambda best, item: item if size(item) > size(best) + 1e-12 else best, items)


def crosses(a: float, b: float) -> bool:
    return a + b > 1 + 64 * EPS64


def correction(name: str, n: int) -> np.ndarray | None:
    if name == "key-bias":
        return np.tile(KEY_BIAS[:n], (n, 1))
    steps = np.arange(1.0 - n, n)
    return {"linear": relative_bias(LINEAR * steps, n), "cubic": relative_bias(CUBIC * steps**3, n)}.get(name)


def facts(state: State) -> Facts:
    x, n = np.array(state["tokens"]), len(state["tokens"])
    core = Heads(
        1,
        scale=state["temperature"] / math.sqrt(2),
        bias=correction(state["correction"], n),
        rotate=rope(n, 2) if state["correction"] == "rope" else None,
        mask=causal(n) if state["causal"] else None,
    )
    keys = x @ np.array(state["W_K"])
    queries = keys if state["mode"] == "q=k" else x @ np.array(state["W_Q"])
    s, a = core.scores(queries, keys)[0], core.maps(queries, keys)[0]
    logs = None if state["causal"] else np.log(a)
    tolerance = 64 * EPS64 * (1 + float(np.abs(s).max()))
    flow = np.zeros_like(a) if logs is None else stationary_law(a)[:, None] * a
    return Facts(
        scores=s,
        map=a,
        skew=a - a.T,
        flow=flow - flow.T,
        cycles=[(at, math.nan if logs is None else affinity(logs, *at)) for at in combinations(range(n), 3)],
        eigenvalues=eigenvalues(a, state["causal"]),
        pairs=[((i, j), float(a[i, j]), float(a[j, i])) for i, j in combinations(range(n), 2)],
        tolerance=tolerance,
        causal=state["causal"],
    )


def affinity(logs: np.ndarray, i: int, j: int, k: int) -> float:
    """log (A_ij A_jk A_ki) / (A_ik A_kj A_ji): positive if i, j, k is the likelier way round."""
    return float(logs[i, j] + logs[j, k] + logs[k, i] - logs[i, k] - logs[k, j] - logs[j, i])


def eigenvalues(a: np.ndarray, triangular: bool) -> list[tuple[float, float]]:
    """(real, imaginary), the largest real part first; real parts that only rounding tells apart count as equal."""
    values = [(float(v.real), float(v.imag)) for v in (a.diagonal() if triangular else spectrum(a))]
    return sorted(values, key=lambda v: (-math.floor(1e9 * v[0] + 0.5), v[1]))


# --- the same text as asymmetry.mjs ---


COUNT = {2: "Two", 4: "Four"}  # 1 is an eigenvalue, so of 6 at most 4 are complex


def way(at: tuple[int, ...], size: float) -> str:
    """The likelier way round a triangle."""
    i, j, k = (t + 1 for t in at)
    return f"{i} → {j} → {k} → {i}" if size > 0 else f"{i} → {k} → {j} → {i}"


def sentence(f: Facts) -> str:
    return " ".join((about_scores(f), about_flow(f), about_eigenvalues(f), about_pairs(f)))


def about_scores(f: Facts) -> str:
    if f.causal:
        return f"The map is one-sided; before the mask the scores are {'' if f.symmetric_scores else 'not '}symmetric."
    by = num(float(np.abs(f.skew).max()))
    return {
        (True, True): "The scores and the map are symmetric.",
        (True, False): f"The scores are symmetric, the map is not (by {by}).",
        (False, True): "The scores are not symmetric, yet the map is.",
        (False, False): f"Neither the scores nor the map is symmetric (the map by {by}).",
    }[f.symmetric_scores, f.symmetric_map]


def about_flow(f: Facts) -> str:
    if f.causal:
        return "The map is not reversible: no round has a way back, and so no cycle affinity."
    at, size = f.strongest
    if f.reversible:
        return "The map is reversible: every round is as likely as its way back (cycle affinity 0, up to rounding)."
    return (
        f"The map is not reversible: the round {way(at, size)} is likelier than its way back (cycle affinity "
        f"{num(abs(size))})."
    )


def about_eigenvalues(f: Facts) -> str:
    if f.complex:
        return f"{COUNT[f.complex]} of its eigenvalues are complex."
    if f.inside:
        return f"Its eigenvalues are real and in [0, 1]{', on its diagonal' if f.causal else ''}."
    return f"Its eigenvalues are real, but the smallest is {num(min(x for x, _ in f.eigenvalues))}."


def about_pairs(f: Facts) -> str:
    (i, j), a, b = f.largest
    where = f"tokens {i + 1} and {j + 1}, with pair sum {num(a + b)}"
    return f"Across the line: {where}." if crosses(a, b) else f"No pair crosses the line; closest are {where}."


def verdicts(f: Facts) -> dict[str, tuple[str, str]]:
    """Under each picture: does it show what queries equal to keys entail ("yes", "no", "none": no say), in words."""
    over = [pair for pair in f.pairs if crosses(*pair[1:])]
    skew = num(float(np.abs(f.skew).max()))
    if f.causal:
        flow = "— no way back: not reversible"
    else:
        flow = "✓ balanced: reversible" if f.reversible else "✗ not reversible"
    values = "✓ real, in [0, 1]" if f.inside else f"✗ {f.complex} are complex" if f.complex else "✗ real, but below 0"
    apart = "✓ no pair crosses" if not over else "✗ 1 pair crosses" if len(over) == 1 else f"✗ {len(over)} pairs cross"
    return {
        "scores": mark(f.symmetric_scores, "✓ symmetric", "✗ not symmetric"),
        "map": mark(f.symmetric_map, "✓ symmetric", "✗ one-sided" if f.causal else "✗ not symmetric"),
        "skew": mark(f.symmetric_map, "✓ zero", f"largest {skew}"),
        "cycles": mark(f.reversible, flow, flow),
        "eigenvalues": mark(f.inside, values, values),
        "pairs": ("none", "– one-sided: the bound says nothing here") if f.causal else mark(not over, apart, apart),
    }


def mark(holds: bool, yes: str, no: str) -> tuple[str, str]:
    return ("yes", yes) if holds else ("no", no)


# --- the picture ---

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
