"""What the claims of this chapter share: one head in any world, the bases of its heads, and measured dimensions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from qkvtheory import redundancy, tying
from qkvtheory.attention import Heads, rational, softmax
from qkvtheory.claims.model import Source
from qkvtheory.lanes.settings import Setting, square_keys
from qkvtheory.linalg import rank
from qkvtheory.network import Attention

CHAPTER = "keys-equal-values"
OURS = Source("derived")
TIED = Source("paper", "kayyam2026three", note="the variant Q-K=V and its cache")
KEYLESS = "gao2026keyless"


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


def number(w: Any, value: Any) -> Any:
    """A number as a 1 x 1 matrix."""
    return w.identity("1") * value


def rank_of(a: Any) -> int:
    """Of exact numbers by elimination, of floats by singular values."""
    return rank(a) if a.dtype == object else int(np.linalg.matrix_rank(a))


def beside(*matrices: Any) -> Any:
    return np.concatenate(matrices, axis=1)


# -- dimensions, measured ----------------------------------------------------------------------------------------------


@cache
def head_dimension(d: int, width: int, tied: bool, query_rank: int | None = None) -> int:
    """Of the set of pairs (W_Q W_K^T, W_V W_O) of one head, near random weights: the rank of the derivative.

    ``tied``: W_K = W_V. ``query_rank``: of the point's W_Q, full unless given.
    """
    W_Q, W_K, W_V, W_O = np.random.default_rng(d).normal(size=(4, d, width))
    if query_rank is not None:
        W_Q[:, query_rank:] = 0

    def products(W_Q: Any, W_O: Any, W_V: Any, W_K: Any = None) -> Any:
        M, N = W_Q @ (W_V if W_K is None else W_K).mT, W_V @ W_O.mT
        return np.stack([M, N, M, N])  # twice: the derivative needs as many outputs as there are weights

    return redundancy.functional_dimension(products, [W_Q, W_O, W_V] if tied else [W_Q, W_O, W_V, W_K]).rank


@cache
def layer_dimension(d: int, heads: int, width: int, tied: bool = False) -> int:
    """Of the functions that a layer of softmax heads computes, near random weights, on random sequences of 4 tokens."""
    rng, p, rows = np.random.default_rng(0), heads * width, 4 * (d + 1) * heads * width
    shapes = {"W_Q": (d, p), "W_V": (d, p), "W_O": (p, d)} | ({} if tied else {"W_K": (d, p)})
    weights = [rng.normal(size=shape) / shape[0] ** 0.5 for shape in shapes.values()]
    x, sequence = rng.normal(size=(rows, d)), np.arange(rows) // 4
    core = Heads(heads, mask=sequence[:, None] == sequence[None, :], pattern=redundancy.analytic_softmax)

    def run(W_Q: Any, W_V: Any, W_O: Any, W_K: Any = None) -> Any:
        return Attention(core, W_Q, W_V if W_K is None else W_K, W_V, W_O)(x)

    return redundancy.functional_dimension(run, weights).rank


def size_of(name: str, d: int = 12, heads: int = 4, width: int | None = None) -> int:
    """The number of weights of a layer that was built."""
    return sum(a.size for a in tying.build(name, d, heads, width).weights().values())
