"""How rounding grows with depth: stacks of 1 to 48 layers, all W_Q eliminated, against the stacks they came from.

Without rounding the two would be equal. Every layer adds an error of about c * eps * cond, as the error ladder
measures; the layers above carry it on as they carry any other disturbance. How much they enlarge or shrink it is a
property of the old network alone. It is measured on that network, by disturbing the stream after each layer a little.
From it follows a prediction of the error at every depth, which knows nothing of the eliminated network beyond depth 1.

What is found: the prediction holds within a factor of two. The errors of the layers do not pile up, which would make
the total grow like L; they add like random numbers, like the root of L, as long as the network itself does not enlarge
them. Where it does, the error grows as fast as any other disturbance would, elimination or not.

    python -m qkvtheory.experiments.depth --out book/results/depth.json

Two kinds of stacks, both with a skip around attention only and without norms: in "calm" ones a disturbance neither
grows nor dies for long, in "steep" ones it grows from layer to layer. NumPy only.
Sources: Higham 2002, chapters 3 and 14, for errors proportional to eps * cond and for errors of steps that add like
random numbers; stacks, constants and the comparison are ours.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from qkvtheory.attention import Heads, causal
from qkvtheory.experiments import command, nearly_singular_on_purpose, provenance, relative_error, rounded
from qkvtheory.experiments.ladder import EPS, matrix_with_condition
from qkvtheory.network import MLP, Attention, Block, Network
from qkvtheory.stacks import eliminate_queries

DEPTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48)
SEEDS = range(5)
TOKENS, WIDTH, HEADS, HIDDEN = 16, 32, 4, 64
KINDS = {"calm": (0.5, 2.0), "steep": (1.0, 2.0)}  # the scales of W_up and W_down
NOISE = 2.0**-26  # a disturbance far above rounding and far below what would bend a straight line
LINES = (
    ("calm", "float64", 1.0), ("calm", "float64", 1e2), ("calm", "float64", 1e4),
    ("calm", "float32", 1.0), ("calm", "float32", 1e2),
    ("steep", "float64", 1e2),
)  # fmt: skip


def stack(kind: str, cond: float, layers: int, seed: int) -> Network:
    """A random causal network without norms, skips around attention only, cond_2(W_Q) = cond in every layer; float64.

    tanh bounds the stream, so that its size stays near 1 at every depth and only the slope decides what grows. The
    embedding is the stream itself: one row for each of the tokens.

    >>> stack("calm", 10.0, layers=2, seed=0)(np.eye(TOKENS)).shape
    (16, 32)
    """
    rng = np.random.default_rng(seed)
    up, down = KINDS[kind]

    def draw(rows: int, cols: int, scale: float = 1.0) -> np.ndarray:
        return rng.normal(size=(rows, cols)) * (scale / rows**0.5)

    def block() -> Block:
        W_Q, W_K, W_V = matrix_with_condition(cond, WIDTH, rng), draw(WIDTH, WIDTH), draw(WIDTH, WIDTH)
        attention = Attention(Heads(HEADS, mask=causal(TOKENS)), W_Q, W_K, W_V, draw(WIDTH, WIDTH, 0.5))
        return Block(attention, MLP(np.tanh, draw(WIDTH, HIDDEN, up), draw(HIDDEN, WIDTH, down)))

    return Network(rng.normal(size=(TOKENS, WIDTH)), [block() for _ in range(layers)], draw(WIDTH, WIDTH))


def shallower(network: Network, layers: int) -> Network:
    """The first layers of a network, with its readout."""
    return replace(network, blocks=network.blocks[:layers])


def stored_as(network: Network, dtype: str) -> Network:
    """Every matrix rounded to the given precision."""

    def cast(layer: Any) -> Any:
        return replace(layer, **{k: m.astype(dtype) for k, m in vars(layer).items() if isinstance(m, np.ndarray)})

    blocks = [replace(block, attention=cast(block.attention), mlp=cast(block.mlp)) for block in network.blocks]
    return cast(replace(network, blocks=blocks))


def error(network: Network) -> float:
    """The relative error of the network with W_Q = I in every layer, in the network's own precision."""
    tokens = np.eye(TOKENS, dtype=network.embedding.dtype)
    with nearly_singular_on_purpose():
        return relative_error(eliminate_queries(network)(tokens), network(tokens))


def gains(network: Network, seed: int = 0) -> np.ndarray:
    """gains[k, l]: what a disturbance after layer k + 1 has become after layer l + 1, as a factor; L x L, 0 for l < k.

    Both are relative to the stream where they stand, in the Frobenius norm.
    """
    rng, layers = np.random.default_rng(seed), len(network.blocks)
    streams = [network.embedding]
    for block in network.blocks:
        streams.append(block(streams[-1]))
    found = np.zeros((layers, layers))
    for k, start in enumerate(streams[1:]):
        noise = rng.normal(size=start.shape)
        x = start + NOISE * size(start) / size(noise) * noise
        for later in range(k, layers):
            x = x if later == k else network.blocks[later](x)
            found[k, later] = size(x - streams[later + 1]) / size(streams[later + 1]) / NOISE
    return found


def size(a: np.ndarray) -> float:
    return float(np.linalg.norm(a))


def amplification(found: np.ndarray, depth: int) -> float:
    """By how much the error of ``depth`` layers exceeds that of one, if every layer adds an independent error.

    The root of the sum of squares of the gains: sqrt(depth) where all gains are 1.

    >>> amplification(np.triu(np.ones((9, 9))), 9)
    3.0
    """
    return float(np.sqrt((found[:depth, depth - 1] ** 2).sum()))


def runs(kind: str, dtype: str, cond: float, depths: Sequence[int], seed: int) -> list[dict[str, float]]:
    """One network: for each depth the error, the amplification its layers promise, and what plain rounding does to it.

    ``rerun``: the old network in ``dtype`` against the old network in float64, no elimination anywhere; 0 for float64.
    """
    exact = stack(kind, cond, max(depths), seed)
    network, found, tokens = stored_as(exact, dtype), gains(exact, seed), np.eye(TOKENS)
    rows = []
    for depth in depths:
        same, wide = (shallower(n, depth)(tokens.astype(n.embedding.dtype)) for n in (network, exact))
        rows.append(
            {
                "error": error(shallower(network, depth)),
                "amplification": amplification(found, depth),
                "rerun": relative_error(same, wide),
            }
        )
    return rows


def line(
    kind: str, dtype: str, cond: float, depths: Sequence[int] = DEPTHS, seeds: Iterable[int] = SEEDS
) -> list[dict[str, float]]:
    """One row per depth: medians over the seeds, and the prediction, which is the error at depth 1 times amplification.

    >>> [row["error"] < 1e-12 for row in line("calm", "float64", 10.0, [1, 3], [0])]
    [True, True]
    """
    measured = [runs(kind, dtype, cond, depths, seed) for seed in seeds]
    rows = []
    for depth, at_depth in zip(depths, zip(*measured, strict=True), strict=True):
        row = {name: float(np.median([run[name] for run in at_depth])) for name in at_depth[0]}
        row |= {"worst": max(run["error"] for run in at_depth)}
        rows.append({"depth": depth} | row)
    for row in rows:
        row["predicted"] = rows[0]["error"] * row["amplification"] / rows[0]["amplification"]
    return [{name: value if name == "depth" else rounded(value) for name, value in row.items()} for row in rows]


def exponent(rows: Sequence[dict[str, float]]) -> float:
    """p in error = c * depth^p, by least squares on logarithms.

    1/2 if the errors of the layers add like random numbers, 1 if they pile up.
    """
    return rounded(fit(rows, np.log), 3)


def factor_per_layer(rows: Sequence[dict[str, float]]) -> float:
    """r in error = c * r^depth, by least squares on the logarithm of the error: 1 without growth."""
    return rounded(float(np.exp(fit(rows, np.asarray))), 4)


def fit(rows: Sequence[dict[str, float]], of_depth: Callable[[Any], Any]) -> float:
    depths, errors = (np.array([row[name] for row in rows], dtype=float) for name in ("depth", "error"))
    return float(np.polyfit(of_depth(depths), np.log(errors), 1)[0])


def furthest(rows: Sequence[dict[str, float]]) -> float:
    """The largest factor between error and prediction, either way."""
    ratios = [row["error"] / row["predicted"] for row in rows]
    return rounded(max(max(r, 1 / r) for r in ratios), 3)


def measure() -> dict[str, Any]:
    """All lines with their provenance; about half a minute."""
    found = []
    for kind, dtype, cond in LINES:
        rows = line(kind, dtype, cond)
        fits = {"exponent": exponent(rows), "factor_per_layer": factor_per_layer(rows), "furthest": furthest(rows)}
        found.append({"kind": kind, "dtype": dtype, "cond": cond, "eps": EPS[dtype], **fits, "rows": rows})
    return {
        "what": "Relative error of a stack with W_Q = I in every layer, against its depth.",
        "provenance": provenance(
            "python -m qkvtheory.experiments.depth --out book/results/depth.json", ("numpy",), seeds=list(SEEDS)
        ),
        "setting": {
            "tokens": TOKENS, "width": WIDTH, "heads": HEADS, "hidden": HIDDEN, "noise": NOISE,
            "scales of W_up and W_down": {kind: list(scales) for kind, scales in KINDS.items()},
        },
        "lines": found,
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    return command("depth", "Measure how rounding grows with depth.", lambda: measure(), arguments)


if __name__ == "__main__":
    sys.exit(main())
