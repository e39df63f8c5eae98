"""Slim attention in low precision: how far off values are that were rebuilt from rounded keys.

A cache of keys alone gives the values back as K W_K^-1 W_V, exactly where nothing is rounded (claim slim-exact). A
cache is kept in bfloat16 or float16, so K is rounded, and the inverse enlarges what rounding did. Beside the rebuilt
values stand values cached plainly in the same precision, and values made from a cached stream, X W_V, which needs no
inverse and has the size of the keys.

What is found: for tokens with independent normal entries the error is c * u * spread(W_K), with the rounding unit u,
one c for all widths, spectra and precisions, and spread = rms of the singular values times rms of their inverses. Other
tokens have another c: along the first singular direction of W_K keys are large, and so is what rounding takes from
them; along the last it is the other way round. u * cond(W_K) is above it everywhere, by a factor that grows with the
width: rounding points everywhere, and few directions are enlarged by the whole condition number.

    python -m qkvtheory.experiments.slim --out book/results/slim.json

Only the cache is rounded; weights and products are in float64. NumPy only: bfloat16 is imitated by rounding to 8 bits.
Sources: Graef and Wasielewski 2025 (2503.05840) for the rewriting; Edelman 1988 for the condition of Gaussian matrices;
the law and its constant are our measurement.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from qkvtheory.attention import Heads
from qkvtheory.experiments import command, provenance, rounded
from qkvtheory.experiments.ladder import matrix_with_condition
from qkvtheory.lossless import values_from_keys
from qkvtheory.network import Attention

BITS = {"bfloat16": 8, "float16": 11, "float32": 24}  # of the significand; the rounding unit is 2^-bits
WIDTHS = (64, 128, 256, 512, 1024)  # of Gaussian weights
CONDS, WIDTH = (1.0, 10.0, 1e2, 1e3, 1e4), 256  # prescribed conditions, all at one width
SEEDS = range(11)
TOKENS = 256
CACHES = ("keys", "values", "stream")  # what is cached; of "keys" and "stream" the values are made when they are read


def unit(dtype: str) -> float:
    """The largest relative error of one rounding.

    >>> unit("bfloat16")
    0.00390625
    """
    return 2.0 ** -BITS[dtype]


def kept_as(a: np.ndarray, dtype: str) -> np.ndarray:
    """The nearest numbers of the precision, as float64; ties to even. bfloat16 without limits on its exponent.

    >>> kept_as(np.array([1.01, 3.14159]), "bfloat16").tolist()
    [1.0078125, 3.140625]
    """
    if dtype != "bfloat16":
        return a.astype(dtype).astype(np.float64)
    significand, exponent = np.frexp(a)
    steps = 2.0 ** BITS[dtype]
    return np.ldexp(np.rint(significand * steps) / steps, exponent)


def spread(w: np.ndarray, back: np.ndarray) -> float:
    """rms of the singular values times rms of their inverses, from a matrix and its inverse; 1 if it is orthogonal.

    >>> spread(2 * np.eye(4), np.eye(4) / 2)
    1.0
    """
    return float(np.linalg.norm(w) * np.linalg.norm(back) / len(w))


def off(found: np.ndarray, expected: np.ndarray) -> float:
    """The relative error, root of the sum of squares: one bad entry does not decide it."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def weights(width: int, cond: float | None, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens (n x d), W_K and W_V (d x d) in float64; W_K Gaussian if ``cond`` is None."""
    rng = np.random.default_rng([seed, width])
    x, (w_k, w_v) = rng.normal(size=(TOKENS, width)), rng.normal(size=(2, width, width)) / width**0.5
    return x, w_k if cond is None else matrix_with_condition(cond, width, rng), w_v


def measured(width: int, cond: float | None, seed: int) -> dict[str, dict[str, float]]:
    """One pair of weights: for every precision the condition of W_K, and the error of the values for each cache."""
    x, w_k, w_v = weights(width, cond, seed)
    beside = np.concatenate([w_v, np.eye(width)], axis=1)  # the inverse itself, from the same call
    back, inverse = np.split(values_from_keys(Attention(Heads(1), w_k, w_k, beside, beside.T))[0], 2, axis=1)
    about = {"cond": float(np.linalg.cond(w_k)), "spread": spread(w_k, inverse)}
    keys, values = x @ w_k, x @ w_v
    return {
        dtype: about
        | {
            "keys": off(kept_as(keys, dtype) @ back, values),
            "values": off(kept_as(values, dtype), values),
            "stream": off(kept_as(x, dtype) @ w_v, values),
        }
        for dtype in BITS
    }


def row(width: int, cond: float | None, seeds: Iterable[int] = SEEDS) -> dict[str, dict[str, float]]:
    """For every precision, over the seeds: medians, the best and the worst error of the keys, and the error in units of
    u * cond and of u * spread.

    >>> 0.3 < row(16, 10.0, [0])["float16"]["per_u_spread"] < 0.6
    True
    """
    runs, rows = [measured(width, cond, seed) for seed in seeds], {}
    for dtype in BITS:
        these = [run[dtype] for run in runs]
        found = {name: float(np.median([run[name] for run in these])) for name in these[0]}
        found |= {"best": min(run["keys"] for run in these), "worst": max(run["keys"] for run in these)}
        for name in ("cond", "spread"):
            found[f"per_u_{name}"] = float(np.median([run["keys"] / (unit(dtype) * run[name]) for run in these]))
        asked = {"width": width} | ({} if cond is None else {"asked": cond})
        rows[dtype] = asked | {name: rounded(number) for name, number in found.items()}
    return rows


def constant(rows: Sequence[dict[str, float]]) -> float:
    """c in error = c * u * spread: the median over the rows."""
    return rounded(float(np.median([row["per_u_spread"] for row in rows])), 3)


def band(rows: Sequence[dict[str, float]], name: str) -> list[float]:
    """The smallest and the largest of error / (u * cond) or error / (u * spread)."""
    ratios = [row[f"per_u_{name}"] for row in rows]
    return [min(ratios), max(ratios)]


def measure() -> dict[str, Any]:
    """All rows with their provenance; about a minute."""
    rows = {
        "gaussian": [row(width, None) for width in WIDTHS],
        "prescribed": [row(WIDTH, cond) for cond in CONDS],
    }
    lines = []
    for dtype in BITS:
        found = {kind: [each[dtype] for each in rows[kind]] for kind in rows}
        every = [*found["gaussian"], *found["prescribed"]]
        lines.append(
            {"dtype": dtype, "unit": unit(dtype), "constant": constant(every)}
            | {f"band_{name}": band(every, name) for name in ("cond", "spread")}
            | found
        )
    return {
        "what": "Relative error of values rebuilt from cached keys, K W_K^-1 W_V, by the precision of the cache.",
        "provenance": provenance(
            "python -m qkvtheory.experiments.slim --out book/results/slim.json", ("numpy",), seeds=list(SEEDS)
        ),
        "setting": {"tokens": TOKENS, "widths": list(WIDTHS), "conds": list(CONDS), "width": WIDTH},
        "dtypes": lines,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    return command("slim", "Measure Slim attention in low precision.", lambda: measure(), arguments)


if __name__ == "__main__":
    sys.exit(main())
