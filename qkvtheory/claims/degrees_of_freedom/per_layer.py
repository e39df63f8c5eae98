"""How many parameters of an attention layer are redundant."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from qkvtheory import freedom, redundancy
from qkvtheory.claims.degrees_of_freedom.common import CHAPTER
from qkvtheory.claims.degrees_of_freedom.dimensions import (
    compared,
    layer_dimension,
    layer_rows,
    measured_at,
    repeated,
)
from qkvtheory.claims.model import Claim, Control, Hypothesis, Pairs, Source
from qkvtheory.freedom import LAYERS, Layer

SMALL = Layer(6, 3, 2)


def first_head_twice(weights: dict[str, np.ndarray]) -> None:
    """The second head gets the weights of the first."""
    for name in ("W_Q", "W_K", "W_V"):
        weights[name][:, 2:4] = weights[name][:, :2]
    weights["W_O"][2:4] = weights["W_O"][:2]


def unchanged(_: dict[str, np.ndarray]) -> None: ...


def duplicated(_: Any) -> Pairs:
    return [(freedom.layer_redundancy(SMALL), measured_at(redundancy.layer_function(SMALL), first_head_twice))]


def few_inputs(_: Any) -> Pairs:
    """Four sequences, again and again."""
    point = repeated(redundancy.layer_function(SMALL, sequences=4), 2)
    return [(freedom.layer_redundancy(SMALL), measured_at(point, unchanged))]


def rounding_as_rank(_: Any) -> Pairs:
    """Columns of length one, also those that hold rounding only: of the key biases, which softmax does not see."""
    a = LAYERS["biases"]
    function, weights = redundancy.layer_function(a)
    values = redundancy.singular_values(redundancy.jacobian(function, [*weights.values()]), noise=0.0)
    return [(freedom.layer_redundancy(a), a.parameters - redundancy.dimension(values).rank)]


def key_biases_under_rope(_: Any) -> Pairs:
    a = LAYERS["biases and RoPE"]
    return [(freedom.layer_redundancy(a) + a.heads * a.head_width, a.parameters - layer_dimension(a).rank)]


def predicted_as(wrong: Layer, layer: Layer) -> Any:
    """The redundancy of another layer predicted for this one."""
    return lambda _: [(freedom.layer_redundancy(wrong), layer.parameters - layer_dimension(layer).rank)]


def layers_measured(_: Any) -> Pairs:
    return compared(layer_rows())


PER_LAYER = Claim(
    id="dim-per-layer",
    rank="remark",
    chapter=CHAPTER,
    title="How many parameters of an attention layer are redundant",
    statement=(
        "As a function of $X$ an attention layer has so many dimensions less than parameters: $2Hd_h^2$; with $g$ key/value heads "
        "$2gd_h^2$; with RoPE $H(d_h+d_h^2)$, where $k$ planes of one frequency count $2k^2$ and $k_0$ unrotated coordinates $k_0^2$ in the "
        "place of $d_h$; with QK-norm and $d_h\\ge2$ $H(\\frac{d_h(d_h-1)}2+d_h^2)$, and $2H$ more if its $\\varepsilon$ is $0$; with $\\varepsilon=0$ and "
        "gains that the heads share $H(2+d_h^2)+d_h$. All four biases add $2gd_h$, with RoPE $gd_h$. Q=K: $H(\\frac{d_h(d_h-1)}2+d_h^2)$; "
        "K=V: $Hd_h^2$; Q=K=V: $H\\frac{d_h(d_h-1)}2$. (Measured as ranks of softmax layers.)"
    ),
    hypotheses=(
        Hypothesis("H1", "generic weights", "the weights are generic"),
        Hypothesis("H2", "no wider than the stream", "$d_h\\le d$"),
        Hypothesis("H3", "enough inputs", "the function is known on sufficiently many inputs"),
    ),
    sources=(Source("derived", note="predicted from the symmetries, measured as ranks"),),
    uses=("head-gauge", "gqa-gauge", "rope-commutant", "qk-norm-gauge", "bias-gauge"),
    lanes=("rank",),
    sides=layers_measured,
    special={"rank": layers_measured},
    controls=(
        Control("H1", "two heads with the same weights", duplicated, lanes=("rank",)),
        Control(
            "H2",
            "a head wider than the stream: $2d_h^2$ all the same",
            lambda _: [(2 * 9, 4 * 2 * 3 - layer_dimension(Layer(2, 1, 3)).rank)],
            lanes=("rank",),
        ),
        Control("H3", "four sequences", few_inputs, lanes=("rank",)),
        Control(
            "construction",
            "columns brought to length one that hold nothing but rounding",
            rounding_as_rank,
            lanes=("rank",),
        ),
        Control(
            "construction",
            "the full basis of a head in spite of RoPE",
            predicted_as(Layer(8, 2, 4), LAYERS["RoPE, distinct frequencies"]),
            lanes=("rank",),
        ),
        Control(
            "construction",
            "the full basis of a head in spite of QK-norm",
            predicted_as(Layer(8, 2, 4), LAYERS["QK-norm, eps > 0"]),
            lanes=("rank",),
        ),
        Control(
            "construction",
            "a basis for each query head of a group",
            predicted_as(replace(LAYERS["grouped, one KV head"], groups=4), LAYERS["grouped, one KV head"]),
            lanes=("rank",),
        ),
        Control(
            "construction",
            "key biases counted as redundant in spite of RoPE",
            key_biases_under_rope,
            lanes=("rank",),
        ),
    ),
)
