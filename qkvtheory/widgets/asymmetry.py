"""The asymmetry widget: what a map loses when queries are keys, and which corrections give it back.

The numbers come from the package's own ``Heads`` and ``symmetric``. ``asymmetry.mjs`` computes the same on the
page and writes the same text; the picture that it moves is drawn in ``asymmetry_picture.py``.
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
from qkvtheory.widgets.text import REACH, num

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


def still(state: State) -> str:
    """The inside of the widget for a state of ``check_state``, as HTML."""
    from qkvtheory.widgets import asymmetry_picture  # it needs the mathematics above

    return asymmetry_picture.still(state)
