"""What the claims of this chapter share: one head in any world, the bases of its heads, and measured dimensions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from qkvtheory import redundancy
from qkvtheory.claims.model import Source
from qkvtheory.freedom import Architecture, Layer, parameters
from qkvtheory.lanes.settings import Setting, square_keys
from qkvtheory.linalg import rank
from qkvtheory.network import Attention

CHAPTER = "degrees-of-freedom"
OURS = Source("derived")


def in_words(w: Any) -> bool:
    """Words, or their re-evaluation: one head of unknown width stands for all."""
    return w.lane in ("symbolic", "re-evaluation")


def one_head(w: Any, **given: Any) -> Attention:
    """One softmax head of width h, without scale; ``given`` replaces weights, or adds biases."""
    shapes = {"W_Q": "dh", "W_K": "dh", "W_V": "dh", "W_O": "hd"}
    drawn = {name: w.integers(name, *shape) for name, shape in shapes.items() if name not in given}
    return Attention(**{"core": w.head, **drawn, **given})


def kernel(w: Any, scores: Any) -> Any:
    """Softmax in floats. Elsewhere some function of each score: powers of two are rational for whole scores only."""
    return w.softmax(scores) if w.lane == "numeric" else w.kernel(scores)


def kernel_head(w: Any) -> Callable[[Any, Any, Any], Any]:
    """A head with that in the place of softmax, so that exact numbers can have any scores."""
    return lambda q, k, v: kernel(w, q @ k.mT) @ v


def of_heads(w: Any, make: Callable[[str], Any]) -> list[Any]:
    """What ``make`` gives for the label of each head; in words for the one head there is."""
    return [make(label) for label in ([""] if in_words(w) else [f"^{h + 1}" for h in range(w.setting.heads)])]


def on_diagonal(blocks: Sequence[Any]) -> Any:
    """One block for each head on the diagonal."""
    if len(blocks) == 1:
        return blocks[0]
    width = len(blocks[0])
    whole = np.concatenate([np.concatenate(blocks, axis=1)] * len(blocks)) * 0
    for h, block in enumerate(blocks):
        whole[h * width : (h + 1) * width, h * width : (h + 1) * width] = block
    return whole


def bare(s: Setting) -> bool:
    """Nothing stands between a head's queries and keys and their scores; groups of heads are allowed."""
    return not set(s.features(s)) & {"rotate", "norm_q", "norm_k"}


def bare_heads(s: Setting) -> bool:
    return square_keys(s) and bare(s)


def narrow(s: Setting) -> bool:
    """Plain heads narrower than the stream, and nothing that does not matter to one head without a core."""
    return bare_heads(s) and s.heads > 1 and not s.biases and not set(s.features(s)) - {"pattern", "scale"}


def number(w: Any, value: Any) -> Any:
    """A number as a 1 x 1 matrix."""
    return w.identity("1") * value


def rank_of(a: Any) -> int:
    """Of exact numbers by elimination, of floats by singular values."""
    return rank(a) if a.dtype == object else int(np.linalg.matrix_rank(a))


# -- dimensions, measured ----------------------------------------------------------------------------------------------


@cache
def layer_dimension(d: int, heads: int, width: int, tied: bool = False, **shape: Any) -> int:
    """Of the functions that a layer of softmax heads computes, near random weights. ``tied``: W_K = W_V; ``shape``:
    further fields of ``freedom.Layer``.
    """
    return redundancy.layer_dimension(Layer(d, heads, width, variant="K=V" if tied else "QKV", **shape)).rank


@cache
def layer_redundancy(d: int, heads: int, width: int, **shape: Any) -> int:
    """How many more parameters the layer has."""
    return Layer(d, heads, width, **shape).parameters - layer_dimension(d, heads, width, **shape)


@cache
def network_redundancy(**shape: Any) -> int:
    """Parameters less dimension of a small network, near random weights: d = 2, one head of width 2, three neurons.
    ``shape``: fields of ``freedom.Architecture``.
    """
    small = {"d": 2, "heads": 1, "head_width": 2, "hidden": 3, "vocab": 5, "outputs": 3, "context": 3}
    network = Architecture(**(small | shape))
    return parameters(network) - redundancy.network_dimension(network).rank
