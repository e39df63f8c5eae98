"""What the claims of this chapter share: one head in any world, the bases of its heads, and measured dimensions."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from qkvtheory import redundancy, tying
from qkvtheory.attention import rational, softmax
from qkvtheory.claims.model import Source
from qkvtheory.freedom import Layer
from qkvtheory.lanes.settings import Setting

CHAPTER = "keys-equal-values"
OURS = Source("derived")
TIED = Source("paper", "kayyam2026three", note="the variant Q-K=V and its cache")
KEYLESS = "gao2026keyless"


def plainest(s: Setting) -> bool:
    """Heads, grouped or not, with a row pattern that heeds a mask, and nothing else."""
    pattern = s.features(s).get("pattern", softmax)
    return not s.biases and not set(s.features(s)) - {"pattern", "scale"} and pattern in (softmax, rational)


def causal_heads(w: Any, **features: Any) -> tying.CausalHeads:
    """The setting's heads and row pattern under a causal mask, for the sublayers with a cache."""
    given = w.setting.features(w.setting)
    plain = {name: given[name] for name in ("pattern", "scale") if name in given}
    return tying.CausalHeads(w.setting.heads, w.setting.groups, **plain, **features)


def tied_layer(w: Any, **features: Any) -> tying.KeysAreValues:
    """Q-K=V with the setting's heads."""
    shapes = {"W_Q": "dp", "W_Z": "dk", "W_O": "od"}
    weights = {name: w.weight(name, *shape) for name, shape in shapes.items()}
    return tying.KeysAreValues(core=causal_heads(w, **features), **weights)


def beside(*matrices: Any) -> Any:
    return np.concatenate(matrices, axis=1)


# -- dimensions, measured ----------------------------------------------------------------------------------------------


@cache
def head_dimension(d: int, width: int, tied: bool, query_rank: int | None = None) -> int:
    """Of the set of pairs (W_Q W_K^T, W_V W_O) of one head, near random weights: the rank of the derivative.

    ``tied``: W_K = W_V. ``query_rank``: of the point's W_Q, full unless given.
    """
    return redundancy.head_dimension(Layer(d, 1, width, variant="K=V" if tied else "QKV"), query_rank).rank


@cache
def layer_dimension(d: int, heads: int, width: int, tied: bool = False) -> int:
    """Of the functions that a layer of softmax heads computes, near random weights, on random sequences of 4 tokens."""
    return redundancy.layer_dimension(Layer(d, heads, width, variant="K=V" if tied else "QKV")).rank


def size_of(name: str, d: int = 12, heads: int = 4, width: int | None = None) -> int:
    """The number of weights of a layer that was built."""
    return sum(a.size for a in tying.build(name, d, heads, width).weights().values())
