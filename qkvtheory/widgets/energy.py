"""The energy widget: queries that read again and again, in the landscape whose valleys are the keys.

The numbers come from the package's own ``qkvtheory.energy``. ``energy.mjs`` computes the same on the page and writes
the same text; the picture that it moves is drawn in ``energy_picture.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from qkvtheory.energy import descend, energy, jacobian
from qkvtheory.widgets.state import State, check_flag, check_number, check_rows, complete
from qkvtheory.widgets.text import REACH, listed, num

DEFAULT: State = {
    "K": [[1.5, 0.6], [-0.7, 1.4], [-1.4, -0.9], [0.8, -1.3]],
    "Q": [[0.5, 1.9], [-1.9, 0.3]],
    "V": [[0.63, 1.47], [-1.47, 0.49], [-0.35, -1.61], [1.47, -0.35]],
    "alpha": 2.0,
    "tied": True,
}
KEYS, QUERIES = (3, 4, 5, 6), (1, 2, 3)
BLUNT, SHARP = 0.2, 4.0
STEPS = 8
RISE = 1e-9  # far above rounding, far below what can be seen
EPS64 = 2.0**-52


def check_state(**given: Any) -> State:
    """The full state, with defaults for what was not given, as JSON values.

    ``K`` the keys, 3 to 6 rows of 2 numbers; ``Q`` the queries, 1 to 3 rows; ``V`` the values, a row for each key, by
    default the keys after an eighth of a turn; all entries between -2 and 2. ``tied`` True if values are keys (then
    ``V`` is not in use). ``alpha`` from 0.2 to 4, the factor of the scores. Raises ValueError naming what is wrong.

    >>> check_state(alpha=1)["alpha"]
    1.0
    """
    state = complete(DEFAULT, given)
    for name, rows in (("K", KEYS), ("Q", QUERIES), ("V", KEYS)):
        if name == "V" and "K" in given and "V" not in given:
            state[name] = turned(state["K"])
        state[name] = check_rows(name, state[name], rows)
        if (size := np.abs(state[name]).max()) > REACH:
            raise ValueError(f"{name} must have entries from {-REACH} to {REACH}; the largest here is {size:g}")
    if (count := len(state["V"])) != (needed := len(state["K"])):
        raise ValueError(f"V must have a row for each of the {needed} keys, not {count} rows")
    state["alpha"] = check_number("alpha", state["alpha"], BLUNT, SHARP)
    state["tied"] = check_flag("tied", state["tied"])
    return state


def turned(rows: list[list[float]]) -> list[list[float]]:
    """The rows after an eighth of a turn, kept within reach: values that are not keys."""
    points = np.array(rows) @ np.array([[0.7, 0.7], [-0.7, 0.7]])
    return (np.clip(points, -REACH, REACH).round(2) + 0.0).tolist()


# --- the mathematics ---


@dataclass(frozen=True)
class Descent:
    """One query: its path q, y(q), y(y(q)), ..., the energies on it, and the Jacobian of the read-out where it starts.

    ``drops`` says how much lower each step ends, ``bounds`` half the square of its length.
    """

    path: np.ndarray
    energies: np.ndarray
    jacobian: np.ndarray

    @property
    def drops(self) -> np.ndarray:
        return self.energies[:-1] - self.energies[1:]

    @property
    def bounds(self) -> np.ndarray:
        return (np.diff(self.path, axis=0) ** 2).sum(axis=1) / 2

    @property
    def rises(self) -> list[int]:
        """The steps that go up, counted from 1."""
        return [t + 1 for t, drop in enumerate(self.drops) if drop < -RISE]

    @property
    def enough(self) -> bool:
        """The first step keeps the bound."""
        return bool(self.drops[0] >= self.bounds[0] - RISE)

    @property
    def rests(self) -> bool:
        return bool(self.bounds[0] <= RISE**2)

    @property
    def skew(self) -> float:
        """By how much the Jacobian is not symmetric."""
        return abs(float(self.jacobian[0, 1] - self.jacobian[1, 0]))

    @property
    def symmetric(self) -> bool:
        return self.skew <= 64 * EPS64 * (1 + float(np.abs(self.jacobian).max()))

    @property
    def eigenvalues(self) -> list[float]:
        """Of a symmetric Jacobian, the largest first."""
        return [float(x) for x in np.linalg.eigvalsh(self.jacobian)[::-1]]


@dataclass(frozen=True)
class Facts:
    """Everything the picture shows; ``values`` are those in use, ``hull`` the corners of the hull around them."""

    values: np.ndarray
    hull: list[tuple[float, float]]
    descents: list[Descent]
    tied: bool


def facts(state: State) -> Facts:
    keys, alpha = np.array(state["K"]), state["alpha"]
    values = keys if state["tied"] else np.array(state["V"])
    descents = []
    for q in np.array(state["Q"]):
        path = descend(q, keys, values, alpha, STEPS)
        descents.append(Descent(path, energy(path, keys, alpha), jacobian(q, keys, values, alpha)))
    return Facts(values, hull(values), descents, state["tied"])


def hull(points: np.ndarray) -> list[tuple[float, float]]:
    """The corners of the convex hull, in order (Andrew 1979).

    >>> hull(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.2, 0.2]]))
    [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0)]
    """
    rows = sorted((float(x), float(y)) for x, y in points)
    return half(rows) + half(rows[::-1])


def half(rows: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """One half of the hull of sorted points, without its last corner."""
    found: list[tuple[float, float]] = []
    for row in rows:
        while len(found) > 1 and turn(found[-2], found[-1], row) <= 0:
            found.pop()
        found.append(row)
    return found[:-1]


def turn(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> float:
    """Positive if a, b, c turn to the left."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


# --- the same text as energy.mjs ---


def sentence(f: Facts) -> str:
    return " ".join((about_hypothesis(f), *(about(f, i) for i in range(len(f.descents))), about_jacobian(f)))


def about_hypothesis(f: Facts) -> str:
    if f.tied:
        return (
            "Values are keys: no step raises the energy, and each lowers it by half the square of its length or more."
        )
    return "Values are not keys: a step may go up or down."


def about(f: Facts, i: int) -> str:
    d, name = f.descents[i], f"Query {i + 1}"
    if d.rests:
        return f"{name} rests: reading again leaves it where it is."
    ends = f"{name}: from {num(float(d.energies[0]))} to {num(float(d.energies[-1]))} in {STEPS} steps"
    if d.rises:
        most = num(float(-d.drops.min()))
        where = f"step{'s' * (len(d.rises) > 1)} {listed(list(map(str, d.rises)))}"
        return f"{ends}, but it rises at {where}{' (by up to ' if d.rises[1:] else ' (by '}{most})."
    bound = f"{'at least' if d.enough else 'less than'} the bound {num(float(d.bounds[0]))}"
    return f"{ends}; the first lowers it by {num(float(d.drops[0]))}, {bound}."


def about_jacobian(f: Facts) -> str:
    if f.tied:
        return "The Jacobian of the read-out is α times a covariance: symmetric, no eigenvalue below 0."
    if all(d.symmetric for d in f.descents):
        return "Here the Jacobian of the read-out happens to be symmetric."
    by = num(max(d.skew for d in f.descents))
    return f"The Jacobian of the read-out is not symmetric (by {by}): no function has this read-out as its gradient."


def verdicts(d: Descent) -> dict[str, tuple[str, str]]:
    """For one query: is the bound kept, is the Jacobian symmetric ("yes", "no"), and in words."""
    drop, bound = float(d.drops[0]), num(float(d.bounds[0]))
    if d.rests:
        first = ("yes", "✓ at rest")
    elif d.enough:
        first = ("yes", f"✓ falls by {num(drop)} ≥ {bound}")
    else:
        first = ("no", f"✗ rises by {num(-drop)}" if drop < -RISE else f"✗ falls by {num(drop)} < {bound}")
    return {"first": first, "jacobian": symmetry(d)}


def symmetry(d: Descent) -> tuple[str, str]:
    if d.symmetric:
        return "yes", f"✓ symmetric, eigenvalues {listed([num(x) for x in d.eigenvalues])}"
    return "no", f"✗ not symmetric, by {num(d.skew)}"


def still(state: State) -> str:
    """The inside of the widget for a state of ``check_state``, as HTML."""
    from qkvtheory.widgets import energy_picture  # it needs the mathematics above

    return energy_picture.still(state)
