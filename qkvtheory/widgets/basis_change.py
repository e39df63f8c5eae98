"""The still of the basis-change widget: X becomes X Theta, each weight W becomes Theta^-1 W, and the scores stay.

The numbers come from the package's own ``change_basis`` and ``Heads``. ``basis_change.mjs`` moves the picture written
here; it finds its parts by their data-part names and prints numbers in the same format.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import Any

import numpy as np

from qkvtheory.attention import Heads
from qkvtheory.errors import ConditionWarning, HypothesisError
from qkvtheory.gauge import change_basis
from qkvtheory.network import Attention
from qkvtheory.widgets.state import State, check_flag, check_number, check_rows, complete
from qkvtheory.widgets.text import UNIT, column, fixed, handle, listed, matrix, num, pixel, plane, sci

DEFAULT: State = {
    "tokens": [[0.6, 1.3], [-1.3, 0.5], [0.4, -1.2]],
    "theta": [[1.5, 0.5], [-0.8, 1.1]],
    "squeeze": 0.0,
    "forget_k": False,
    "forget_v": False,
    "W_Q": [[1.2, -0.5], [0.4, 1.1]],
    "W_K": [[0.9, 0.6], [-0.7, 1.0]],
    "W_V": [[0.8, -0.3], [0.5, 1.0]],
}
EDGE, STEPS, SQUEEZE = 2.9, 24, 12
LIMIT = {"scores": 3, "pattern": 1, "output": 3, "W_Q": 3, "W_K": 3, "W_V": 3}
NAMES = {"scores": "Score matrix", "pattern": "Attention map", "output": "Output"}
EPS64, EPS32 = 2.0**-52, 2.0**-23


def check_state(**given: Any) -> State:
    """The full state, with defaults for what was not given, as JSON values.

    ``tokens`` 3 or 4 rows of 2 numbers; ``theta``, ``W_Q``, ``W_K``, ``W_V`` 2 x 2, theta with condition number below
    1e12; ``squeeze`` from 0 to 12, in powers of ten; ``forget_k``, ``forget_v`` booleans: leave that weight in its old
    basis. Raises ValueError naming what is wrong.

    >>> check_state(squeeze=3)["squeeze"]
    3.0
    """
    state = complete(DEFAULT, given)
    for name in ("theta", "W_Q", "W_K", "W_V"):
        state[name] = check_rows(name, state[name], (2,))
    state["tokens"] = check_rows("tokens", state["tokens"], (3, 4))
    if not (size := cond2(np.array(state["theta"]))) < 1e12:
        raise ValueError(f"theta must be invertible; its condition number is {size:.1e}")
    state["squeeze"] = check_number("squeeze", state["squeeze"], 0, SQUEEZE)
    for name in ("forget_k", "forget_v"):
        state[name] = check_flag(name, state[name])
    return state


# --- the mathematics ---


def cond2(a: np.ndarray) -> float:
    """The 2-norm condition number of a 2 x 2 matrix, infinite if it is singular."""
    (p, q), (r, s) = a.tolist()
    largest = (math.hypot(p + s, q - r) + math.hypot(p - s, q + r)) / 2
    det = abs(p * s - q * r)
    return largest * largest / det if det else math.inf


def squeezed(theta: np.ndarray, squeeze: float) -> np.ndarray:
    """Theta, its second row squeezed on to the line of the first by 10^-squeeze, while floats know the difference."""
    shrink = 10 ** -max(0.0, min(squeeze, 12.5 - math.log10(cond2(theta))))
    if shrink == 1:
        return theta
    u, w = theta
    along = (u @ w) / (u @ u) * u
    return np.array([u, along + shrink * (w - along)])


def run(attention: Attention, x: np.ndarray) -> dict[str, np.ndarray]:
    core: Heads = attention.core  # type: ignore[assignment]
    q, k = x @ attention.W_Q, x @ attention.W_K
    inside = {"scores": core.scores(q, k)[0], "pattern": core.maps(q, k)[0], "output": attention(x)}
    return {"tokens": x, **{name: getattr(attention, name) for name in ("W_Q", "W_K", "W_V")}, **inside}


def before(state: State, dtype: Any = np.float64) -> tuple[Attention, np.ndarray]:
    weights = {name: np.array(state[name], dtype) for name in ("W_Q", "W_K", "W_V")}
    return Attention(Heads(1), **weights, W_O=np.eye(2, dtype=dtype)), np.array(state["tokens"], dtype)


def after(state: State, theta: np.ndarray, dtype: Any = np.float64) -> dict[str, np.ndarray]:
    old, x = before(state, dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConditionWarning)  # near-singular bases are the subject of the picture
        new = change_basis(old, theta.astype(dtype))
    kept = {name: getattr(old, name) for name, key in (("W_K", "forget_k"), ("W_V", "forget_v")) if state[key]}
    return run(replace(new, **kept), x @ theta.astype(dtype))


def relative(got: np.ndarray, reference: np.ndarray) -> float:
    return float(np.abs(got - reference).max() / np.abs(reference).max())


def error(state: State, theta: np.ndarray, dtype: Any) -> float:
    """The larger of the relative errors of scores and output; infinite where Theta has no inverse in this precision."""
    reference = run(*before(state))
    try:
        got = after(state, theta, dtype)
    except HypothesisError:
        return math.inf
    return max(relative(got[name], reference[name]) for name in ("scores", "output"))


def verdict(got: np.ndarray, reference: np.ndarray, cond: float) -> str:
    """A comparison decides only while rounding, 64 eps cond, is far below what a mistake would show."""
    tolerance = 64 * EPS64 * cond
    if not relative(got, reference) <= tolerance:
        return "moves"
    return "stays" if tolerance <= 1e-6 else "blurred"


# --- the same text as basis_change.mjs ---


def reading(err: float, bits: str) -> str:
    """An infinite error is one that nobody can compute: say why."""
    return sci(err) if math.isfinite(err) else f"cannot be computed: Θ has no inverse in float{bits}"


def chart_x(cond: float) -> str:
    return fixed(44 + 20 * min(13.5, math.log10(cond)), 1)


def chart_y(err: float) -> str:
    power = 2.0 if math.isinf(err) else -17.0 if err == 0 else math.log10(err)
    return fixed(186 - 9 * (17 + max(-17.0, min(2.0, power))), 1)


def sentence(state: State, cond: float, verdicts: dict[str, str], differences: dict[str, float]) -> str:
    names = {v: [NAMES[k].lower() for k in NAMES if verdicts[k] == v] for v in ("stays", "moves", "blurred")}
    by = [f"by {num(differences[k])}" for k in NAMES if verdicts[k] == "moves"]
    moves = [f"{n}{'' if i else ' moves'} {size}" for i, (n, size) in enumerate(zip(names["moves"], by, strict=True))]
    forgotten = [name for name, key in (("W_K", "forget_k"), ("W_V", "forget_v")) if state[key]]
    told = [
        (forgotten, "Inverse forgotten on {}."),
        (names["stays"], "{} stay put." if names["stays"][1:] else "{} stays put."),
        (moves, "{}."),
        (names["blurred"], "{} cannot be judged: rounding is too large."),
    ]
    said = [text.format(listed(what)) for what, text in told if what] + [f"cond(Θ) = {sci(cond)}."]
    return " ".join(line if line.startswith("cond") else line[0].upper() + line[1:] for line in said)


# --- the picture ---

W = {name: f'<i class="s{name.lower()}">W<sub>{name}</sub></i>' for name in "QKV"}
X, THETA, BACK = '<i class="sx">X</i>', '<i class="st">Θ</i>', '<i class="st">Θ<sup>−1</sup></i>'


def still(state: State) -> str:
    """The inside of the widget for a state of ``check_state``, as HTML."""
    theta = squeezed(np.array(state["theta"]), state["squeeze"])
    cond, reference, got = cond2(theta), run(*before(state)), after(state, theta)
    verdicts = {name: verdict(got[name], reference[name], cond) for name in NAMES}
    differences = {name: float(np.abs(got[name] - reference[name]).max()) for name in NAMES}
    weights = [f"W_{name}" for name in "QKV"]
    forgot = {"W_K": state["forget_k"], "W_V": state["forget_v"]}

    def world(side: str, values: dict[str, np.ndarray]) -> tuple[str, str]:
        changed = side == "after"
        first = "".join(
            compared(f"{side} {w}", caption(w, changed, forgot.get(w, False)), values[w], LIMIT[w]) for w in weights
        )
        second = "".join(
            compared(
                f"{side} {name}",
                f"<b>{NAMES[name]}</b>",
                values[name],
                LIMIT[name],
                tag(name, verdicts[name], differences[name]) if changed else "",
                reference[name] if changed and verdicts[name] == "moves" else None,
            )
            for name in NAMES
        )
        return first, second

    (old_weights, old_maps), (new_weights, new_maps) = world("before", reference), world("after", got)
    row = f'qkv-row" style="--columns:{2 * len(state["tokens"]) + 2}'
    live = f'<p class="qkv-live" aria-live="polite" data-part="live">{sentence(state, cond, verdicts, differences)}</p>'
    return (
        '<p class="qkv-lead"><b>Move the plane, watch the map.</b> Drag a token on the left, or a basis vector '
        "θ<sub>1</sub>, θ<sub>2</sub> on the right (or focus one and use the arrow keys).</p>"
        '<div class="qkv-pair">'
        + column(f"Before: tokens {X}", "qkv-plane", plane_before(state))
        + column(f"After: the same tokens as {X}{THETA}", "qkv-plane", plane_after(state, theta, got["tokens"]))
        + column("Weights", "qkv-row qkv-weights", old_weights)
        + column("Weights in the new basis", "qkv-row qkv-weights", new_weights)
        + column(f"Computed from {X} and the weights", row, old_maps)
        + column(f"Computed from {X}{THETA} and the new weights", row, new_maps)
        + f'</div>{live}<div class="qkv-pair">{controls(state, cond)}{chart(state, theta, cond)}</div>'
        + table(state, reference, got)
    )


def caption(name: str, changed: bool, forgot: bool) -> str:
    if not changed:
        return W[name[-1]]
    back = f'<i class="qkv-back">{BACK}</i>'
    return f'<span data-part="weight {name}" data-forgot="{str(forgot).lower()}">{back}{W[name[-1]]}</span>'


def compared(
    part: str, title: str, a: np.ndarray, limit: float, below: str = "", reference: np.ndarray | None = None
) -> str:
    """One matrix; with a ``reference``, the cells that differ from it are marked."""
    side, name = part.split()
    moved = np.zeros(a.shape, bool) if reference is None else np.abs(a - reference) > 1e-6 * np.abs(reference).max()
    label = f"{NAMES.get(name, name)} {side}, {a.shape[0]} by {a.shape[1]}; every number is in the table below"
    kind = "map" if name == "pattern" else "signed"
    return matrix(part, title, label, kind, a, limit, below, np.where(moved, "moved", ""))


def tag(name: str, state: str, difference: float) -> str:
    word = {"stays": "✓ stays", "moves": "✗ moves", "blurred": "? blurred"}[state]
    size = f"<span data-noise>{off(state, difference)}</span>"
    return f'<p class="qkv-tag" data-part="tag {name}" data-state="{state}"><b>{word}</b> {size}</p>'


def off(state: str, difference: float) -> str:
    return f"{'by' if state == 'moves' else 'differs by'} {sci(difference)}"


LINES = "".join(f"M-6 {i}H6M{i} -6V6" for i in range(-6, 7))


def plane_before(state: State) -> str:
    grid = (
        f'<g transform="scale({UNIT} -{UNIT})"><path class="cell" d="M0 0H1V1H0Z"/><path class="grid" d="{LINES}"/></g>'
    )
    unit = f'<path class="unit" d="M0 0H{UNIT}M0 0V-{UNIT}"/>'
    unit += f'<text x="{UNIT - 4}" y="16">e₁</text><text x="-14" y="{8 - UNIT}">e₂</text>'
    tokens = (handle("token", i, row, f"token {i + 1}", str(i + 1)) for i, row in enumerate(state["tokens"]))
    return plane("Plane before: tokens to move", grid + unit + "".join(tokens))


def plane_after(state: State, theta: np.ndarray, moved: np.ndarray) -> str:
    # A thousandth of a cell is one line to the eye; a browser draws nothing at all for much less.
    drawn = squeezed(np.array(state["theta"]), min(state["squeeze"], 3.0))
    numbers = " ".join(fixed(float(x), 4) for x in drawn.flat)
    grid = (
        f'<g transform="scale({UNIT} -{UNIT})"><g data-part="grid" transform="matrix({numbers} 0 0)">'
        f'<path class="cell" d="M0 0H1V1H0Z"/><path class="grid" d="{LINES}"/></g></g>'
    )
    images, traces = "", ""
    for i, (row, there) in enumerate(zip(state["tokens"], moved.clip(-EDGE, EDGE).tolist(), strict=True)):
        traces += f'<circle class="ghost" data-part="ghost {i}" r="7" transform="translate({pixel(row)})"/>'
        traces += f'<path class="trace" data-part="trace {i}" d="M{pixel(row)}L{pixel(there)}"/>'
        images += (
            f'<g class="image" data-part="image {i}" transform="translate({pixel(there)})">'
            f'<circle r="10"/><text dy="4">{i + 1}</text></g>'
        )
    rows = theta.tolist()
    arrows = "".join(f'<path class="arrow" data-part="arrow {i}" d="M0 0L{pixel(row)}"/>' for i, row in enumerate(rows))
    tips = (handle("basis", i, row, f"basis vector theta {i + 1}", "θ" + "₁₂"[i]) for i, row in enumerate(rows))
    return plane("Plane after: basis vectors to move", grid + traces + arrows + images + "".join(tips))


def controls(state: State, cond: float) -> str:
    def switch(key: str, name: str) -> str:
        on = " checked" if state[key] else ""
        return (
            f'<label class="qkv-switch"><input type="checkbox" role="switch" data-part="{key}"{on}>'
            f"<span>forget {BACK} on {W[name]}</span></label>"
        )

    return (
        '<fieldset class="qkv-controls" data-part="controls" disabled><legend>Try to break it</legend>'
        f'<label class="qkv-range"><span>squeeze {THETA} toward singular</span>'
        f'<input type="range" min="0" max="{SQUEEZE}" step="0.1" value="{state["squeeze"]:g}" data-part="squeeze" '
        f'aria-valuetext="condition number {sci(cond)}"></label>'
        + switch("forget_k", "K")
        + switch("forget_v", "V")
        + '<button type="button" data-part="reset">Start again <kbd>Esc</kbd></button></fieldset>'
    )


def chart(state: State, theta: np.ndarray, cond: float) -> str:
    """Error against cond(Theta), both axes in powers of ten: 20 units per decade across, 9 per decade up."""
    sweep = [squeezed(np.array(state["theta"]), SQUEEZE * i / STEPS) for i in range(STEPS + 1)]
    grid = (
        "".join(
            f'<path class="axis" d="M44 {chart_y(10.0**p)}H314"/><text x="40" y="{float(chart_y(10.0**p)) + 3.5:.1f}" '
            f'class="end">{ten(p)}</text>'
            for p in (-16, -12, -8, -4, 0)
        )
        + '<text x="40" y="18.5" class="end">≥10²</text>'
        + "".join(f'<text x="{chart_x(10.0**p)}" y="201" class="mid">{ten(p)}</text>' for p in (0, 4, 8, 12))
    )
    lines, read = "", ""
    for bits, dtype, eps in (("64", np.float64, EPS64), ("32", np.float32, EPS32)):
        points = " ".join(f"{chart_x(cond2(t))},{chart_y(error(state, t, dtype))}" for t in sweep)
        now = error(state, theta, dtype)
        # The prediction, eps cond, meets an error of 1 where the precision ends.
        lines += (
            f'<g class="f{bits}"><path class="predicted" d="M44 {chart_y(eps)}L{chart_x(min(1 / eps, 10**13.5))} '
            f'{chart_y(min(1.0, eps * 10**13.5))}"/><polyline data-part="curve {bits}" data-noise points="{points}"/>'
            f'<g data-part="dot {bits}" data-noise transform="translate({chart_x(cond)} {chart_y(now)})">'
            '<circle r="5"/></g></g>'
        )
        said = f'<b data-part="error {bits}" data-noise>{reading(now, bits)}</b>'
        read += f'<span class="f{bits}">float{bits} error {said}</span>'
    return (
        '<div class="qkv-chart"><p class="qkv-title">What rounding does as Θ is squeezed</p>'
        '<svg viewBox="0 0 320 216" role="img" aria-label="Relative error of scores and output against the condition '
        'number of Theta, in float32 and float64, with the prediction eps times cond; the values now are below">'
        f'{grid}<path class="now" data-part="now" transform="translate({chart_x(cond)} 0)" d="M0 15V186"/>{lines}'
        '<text x="48" y="12">relative error</text><text x="314" y="214" class="end">cond(Θ)</text>'
        '<text x="128" y="76" class="name f32">float32</text><text x="178" y="138" class="name f64">float64</text>'
        '<text x="312" y="171" class="end">dashed: eps · cond(Θ)</text></svg>'
        f'<p class="qkv-read"><span>cond(Θ) <b data-part="cond">{sci(cond)}</b></span>{read}</p></div>'
    )


def ten(power: int) -> str:
    return "1" if power == 0 else "10" + str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def table(state: State, reference: dict[str, np.ndarray], got: dict[str, np.ndarray]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{title} {at[0] + 1}, {at[1] + 1}</th>'
        f"<td>{num(float(old))}</td><td>{num(float(got[name][at]))}</td>"
        f"<td{' data-noise' if name in NAMES else ''}>{sci(abs(float(got[name][at] - old)))}</td></tr>"
        for name, title in (("tokens", "Token"), ("W_Q", "W_Q"), ("W_K", "W_K"), ("W_V", "W_V"), *NAMES.items())
        for at, old in np.ndenumerate(reference[name])
    )
    return (
        '<details class="qkv-twin" data-part="details"><summary>All numbers as a table</summary>'
        "<p>Rows and columns are counted from 1. Colors: attention from 0 to 1, the other matrices from −3 to 3.</p>"
        '<table><thead><tr><th scope="col">entry</th><th scope="col">before</th><th scope="col">after</th>'
        f'<th scope="col">difference</th></tr></thead><tbody data-part="twin">{rows}</tbody></table></details>'
    )
