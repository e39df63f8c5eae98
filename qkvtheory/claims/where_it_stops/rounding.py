"""Rounding: the error of a rewritten sublayer is proportional to the condition number of its W_Q.

The whole ladder, with every decade and three precisions, is an experiment of its own (``experiments.ladder``); a lane
looks at the decades in which a difference in float64 is far from deciding nothing, in a small sublayer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from qkvtheory import gauge
from qkvtheory.attention import Heads
from qkvtheory.claims.model import AtMost, Claim, Control, Hypothesis, Pairs, Source
from qkvtheory.claims.queries_equal_keys.common import number
from qkvtheory.claims.where_it_stops.skips import CHAPTER
from qkvtheory.experiments import nearly_singular_on_purpose, relative_error
from qkvtheory.experiments.ladder import BUG, EPS, matrix_with_condition, scale_first_column
from qkvtheory.lanes.settings import FLOAT
from qkvtheory.network import Attention

TOKENS, WIDTH, HEADS, SEEDS = 16, 16, 4, 9
DECADES = (1e2, 1e3, 1e4)
BETWEEN = (0.05, 0.6)  # the error over u times cond
FLOOR = 30.0  # at cond 1 the error is below this many u
SLOPE = 0.2  # how far the slope over two decades may be from 1
GAUSSIAN = (3.0, 5.0)  # the median condition number of a Gaussian matrix over its size
Edit = Callable[[Attention], Attention]


@cache
def error(cond: float, dtype: str = "float64", scores: float = 1.0, edit: Edit = lambda new: new) -> float:
    """The relative error of a sublayer rewritten by ``reparametrize``, in units of u: the median over some seeds.

    ``scores``: their size. ``edit``: a change to the rewritten sublayer.
    """
    return float(np.median([one_error(cond, dtype, scores, edit, seed) for seed in range(SEEDS)])) / EPS[dtype]


def one_error(cond: float, dtype: str, scores: float, edit: Edit, seed: int) -> float:
    return relative_error(*outputs(cond, dtype, scores, edit, seed))


def outputs(cond: float, dtype: str, scores: float = 1.0, edit: Edit = lambda new: new, seed: int = 0) -> Any:
    """What the rewritten sublayer and the old one make of the same tokens, both computed in ``dtype``."""
    rng = np.random.default_rng(seed)
    x, W_Q = rng.normal(size=(TOKENS, WIDTH)), matrix_with_condition(cond, WIDTH, rng)
    W_K, W_V, W_O = rng.normal(size=(3, WIDTH, WIDTH)) / WIDTH**0.5
    W_K = W_K * scores / Heads(HEADS).scores(x @ W_Q, x @ W_K).std()
    x, *weights = (matrix.astype(dtype) for matrix in (x, W_Q, W_K, W_V, W_O))
    old = Attention(Heads(HEADS), *weights)
    with nearly_singular_on_purpose():
        theta, new = gauge.reparametrize(old, "Q")
    return edit(new)(x @ theta).astype(float), old(x).astype(float)


def between(w: Any, value: float, bounds: tuple[float, float]) -> Pairs:
    low, high = bounds
    return [AtMost(number(w, low), number(w, value)), AtMost(number(w, value), number(w, high))]


def proportional(w: Any, **options: Any) -> Pairs:
    """The error over u cond at three decades."""
    return [pair for cond in DECADES for pair in between(w, error(cond, **options) / cond, BETWEEN)]


def sides(w: Any) -> Pairs:
    """The decades; the slope over them; float32 in its own units; what is left at cond 1; and what cond is at random."""
    slope = float(np.polyfit(np.log10(DECADES), np.log10([error(cond) for cond in DECADES]), 1)[0])
    return [
        *proportional(w),
        *between(w, slope, (1 - SLOPE, 1 + SLOPE)),
        *between(w, error(DECADES[0], "float32") / DECADES[0], BETWEEN),
        AtMost(number(w, error(1.0)), number(w, FLOOR)),
        *(pair for size in (16, 64) for pair in between(w, gaussian(size) / size, GAUSSIAN)),
    ]


@cache
def gaussian(size: int) -> float:
    """The median condition number of Gaussian matrices."""
    return float(np.median(np.linalg.cond(np.random.default_rng(size).normal(size=(201, size, size)))))


def in_other_units(w: Any) -> Pairs:
    """float32, measured in the u of float64."""
    u = EPS["float32"] / EPS["float64"]
    return between(w, error(DECADES[0], "float32") * u / DECADES[0], BETWEEN)


def in_half_precision(w: Any) -> Pairs:
    """Ten bits after the point, and a condition number that Gaussian matrices of a few hundred rows have."""
    return [outputs(1e3, "float16")]


def small_bug(new: Attention) -> Attention:
    return replace(new, W_K=scale_first_column(new.W_K, 1 + BUG))


CONDITIONING = Claim(
    id="conditioning",
    rank="remark",
    chapter=CHAPTER,
    title="Rounding grows with the condition number",
    statement=(
        "Let $\\Theta=W_Q$ have condition number $\\kappa$ and compute with $u$, the distance from 1 to the next number of the precision. "
        "The relative error of the rewritten sublayer is about $c\\,u\\,\\kappa$ for $\\kappa\\ge10^2$, and a few $u$ for $\\kappa=1$. In a "
        f"sublayer ${WIDTH}$ wide, for $\\kappa=10^2,10^3,10^4$ and medians over {SEEDS} seeds, $c$ lies between ${BETWEEN[0]}$ and "
        f"${BETWEEN[1]}$. Gaussian matrices have a median $\\kappa$ of ${GAUSSIAN[0]:.0f}d$ to ${GAUSSIAN[1]:.0f}d$ (checked for $d=16$ and "
        "$d=64$). The decades beyond, and bfloat16, are measured by the error ladder."
    ),
    hypotheses=(
        Hypothesis("H1", "far from orthogonal", "$\\kappa\\ge10^2$: below that other roundings are as large"),
        Hypothesis("H2", "scores of order 1", "the scores are of order 1, so that the map is not saturated"),
        Hypothesis("H3", "one precision", "weights, products and $u$ are of one precision"),
    ),
    sources=(
        Source("paper", "higham2002accuracy", note="errors proportional to $u\\kappa$"),
        Source("paper", "edelman1988condition", note="the condition numbers of Gaussian matrices"),
        Source("derived", note="the constant"),
    ),
    uses=("eliminate-q",),
    kind="limit",
    lanes=("numeric",),
    sides=sides,
    settings=lambda s: s is FLOAT[0],
    controls=(
        Control(
            "H1",
            "an orthogonal $W_Q$: the error is not $c\\,u$ but a few $u$",
            lambda w: between(w, error(1.0), BETWEEN),
            lanes=("numeric",),
        ),
        Control("H2", "scores a hundred times as large", lambda w: proportional(w, scores=100.0), lanes=("numeric",)),
        Control("H3", "float32, measured in the $u$ of float64", in_other_units, lanes=("numeric",)),
        Control(
            "H3",
            "half precision, $\\kappa=10^3$: equal only up to $c\\,u\\,\\kappa$",
            in_half_precision,
            lanes=("numeric",),
        ),
        Control(
            "construction",
            f"one column of $W_K$ too large by ${BUG}$",
            lambda w: proportional(w, edit=small_bug),
            lanes=("numeric",),
        ),
    ),
)
