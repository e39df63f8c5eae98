"""The error ladder: how far rounding moves a rewritten sublayer as its W_Q gets closer to singular.

One rung per decade of cond(W_Q) and per precision. On a rung a sublayer and its rewriting by ``reparametrize(...,
"Q")`` read the same tokens; without rounding the two outputs would be equal. Beside them stand two wrong
constructions and one small bug.

    python -m qkvtheory.experiments.ladder --out book/results/ladder.json

Rows where PyTorch is missing are left out (bfloat16); float64 and float32 need NumPy only.
Sources: Higham 2002, chapters 3 and 14, for errors proportional to eps * cond; the constants are our measurement.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from qkvtheory.attention import Heads
from qkvtheory.experiments import command, nearly_singular_on_purpose, provenance, relative_error, rounded
from qkvtheory.gauge import reparametrize
from qkvtheory.lanes.worlds import SLACK
from qkvtheory.linalg import inverse
from qkvtheory.network import Attention

EPS = {"float64": 2.0**-52, "float32": 2.0**-23, "bfloat16": 2.0**-7}  # spacing of the numbers just above 1
DECADES = range(13)
SEEDS = range(5)
TOKENS, WIDTH, HEADS = 32, 64, 8
FLAT = 1e-3  # a tolerance that looks careful
BUG = 1e-3  # one column of W_K, too large by this much


def matrix_with_condition(cond: float, size: int, rng: np.random.Generator) -> np.ndarray:
    """size x size, singular values evenly spaced on a log scale, their squares summing to size; cond_2 as asked.

    >>> a = matrix_with_condition(100.0, 8, np.random.default_rng(0))
    >>> round(float(np.linalg.cond(a)))
    100
    """
    u, v = (np.linalg.qr(rng.normal(size=(size, size))).Q for _ in range(2))
    values = np.logspace(0, -np.log10(cond), size)
    return (u * values) @ v * np.sqrt(size / (values**2).sum())


def draw(cond: float, seed: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Tokens X (n x d) and four weights (d x d) in float64; scores are of order 1: saturated maps hide errors."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(TOKENS, WIDTH))
    w_q = matrix_with_condition(cond, WIDTH, rng)
    w_k, w_v, w_o = rng.normal(size=(3, WIDTH, WIDTH)) / np.sqrt(WIDTH)
    w_k = w_k / Heads(HEADS).scores(x @ w_q, x @ w_k).std()
    return x, [w_q, w_k, w_v, w_o]


def store_as(a: np.ndarray, dtype: str) -> Any:
    """The matrix rounded to the given precision; bfloat16 exists in PyTorch only."""
    if dtype != "bfloat16":
        return a.astype(dtype)
    import torch

    return torch.from_numpy(a).to(torch.bfloat16)


def wide(a: Any) -> np.ndarray:
    return a.astype(np.float64) if isinstance(a, np.ndarray) else a.double().numpy()


def rung(cond: float, dtype: str, seed: int) -> dict[str, float]:
    """One measurement: the relative errors of the rewriting, of two wrong ones, and of the right one with a small bug.

    Everything, the original included, is stored and multiplied in ``dtype``, as in a check that a user would write.
    ``cond`` of the result is cond_2 of W_Q as stored: once eps * cond passes 1, rounding the entries decides the
    smallest singular value.
    """
    x, weights = draw(cond, seed)
    x, (w_q, w_k, w_v, w_o) = store_as(x, dtype), [store_as(w, dtype) for w in weights]
    a = Attention(Heads(HEADS), w_q, w_k, w_v, w_o)
    with nearly_singular_on_purpose():
        theta, new = reparametrize(a, "Q")
        back = inverse(theta)
    expected, moved = wide(a(x)), x @ theta
    variants = {
        "error": new,
        "forgotten": replace(new, W_K=w_k, W_V=w_v),
        "transposed": replace(new, W_K=back.mT @ w_k, W_V=back.mT @ w_v),
        "bug": replace(new, W_K=scale_first_column(new.W_K, 1 + BUG)),
    }
    errors = {name: relative_error(wide(variant(moved)), expected) for name, variant in variants.items()}
    return {"cond": float(np.linalg.cond(wide(theta))), **errors}


def scale_first_column(w: Any, factor: float) -> Any:
    """The same matrix with one column scaled, in the matrix's own precision."""
    factors = np.ones(w.shape[1])
    factors[0] = factor
    return w * store_as(factors, str(w.dtype).removeprefix("torch."))


def climb(dtype: str, decades: Iterable[int] = DECADES, seeds: Sequence[int] = SEEDS) -> list[dict[str, float]]:
    """One row per decade: medians over the seeds, the worst error, and the tolerance SLACK * eps * cond.

    >>> [row["error"] < row["tolerance"] for row in climb("float64", [0, 4], [0])]
    [True, True]
    """
    rows = []
    for decade in decades:
        runs = [rung(10.0**decade, dtype, seed) for seed in seeds]
        row = {name: float(np.median([run[name] for run in runs])) for name in runs[0]}
        row |= {"worst": max(run["error"] for run in runs), "tolerance": SLACK * EPS[dtype] * row["cond"]}
        row["per_eps_cond"] = row["error"] / (EPS[dtype] * row["cond"])
        rows.append({"asked": 10.0**decade} | {name: rounded(value) for name, value in row.items()})
    return rows


def constant(rows: Sequence[dict[str, float]]) -> float:
    """c in error = c * eps * cond: the median over the rungs beyond the floor, from cond 100 on."""
    return rounded(float(np.median([row["per_eps_cond"] for row in beyond_floor(rows)])), 2)


def slope(rows: Sequence[dict[str, float]]) -> float:
    """The slope of log error against log cond over the same rungs; 1 means proportional."""
    points = [(row["cond"], row["error"]) for row in beyond_floor(rows)]
    x, y = np.log10(points).T
    return rounded(float(np.polyfit(x, y, 1)[0]), 3)


def beyond_floor(rows: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    return [row for row in rows if row["asked"] >= 100]


def has_torch() -> bool:
    try:
        import torch  # noqa: F401
    except ImportError:
        return False
    return True


def measure() -> dict[str, Any]:
    """The whole ladder with its provenance; about ten seconds."""
    found: dict[str, Any] = {}
    for dtype in EPS:
        if dtype == "bfloat16" and not has_torch():
            continue
        rows = climb(dtype)
        found[dtype] = {"eps": EPS[dtype], "constant": constant(rows), "slope": slope(rows), "rungs": rows}
    pair = found["float32"]["rungs"], found["float64"]["rungs"]
    return {
        "what": "Relative error of an attention sublayer rewritten so that W_Q = I, against cond(W_Q).",
        "provenance": provenance(
            "python -m qkvtheory.experiments.ladder --out book/results/ladder.json",
            ("numpy", "torch"),
            seeds=list(SEEDS),
        ),
        "setting": {"tokens": TOKENS, "width": WIDTH, "heads": HEADS, "slack": SLACK, "flat": FLAT, "bug": BUG},
        "dtypes": found,
        "rerun": [rounded(a["error"] / b["error"], 2) for a, b in zip(*pair, strict=True)],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    return command("ladder", "Measure the error ladder.", lambda: measure(), arguments)


if __name__ == "__main__":
    sys.exit(main())
