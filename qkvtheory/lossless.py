"""What a cache can do without while the function stays: constructions on the weights of one attention sublayer.

``slim`` keeps the keys and rebuilds the values; ``keys_in_values`` ties the keys to the values, where that is possible;
``absorbed`` scores the latents of MLA themselves. They use only ``@``, ``.mT`` and inverses, so the same lines run on
floats, on exact numbers and on words.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from qkvtheory.attention import Heads
from qkvtheory.checks import check, of
from qkvtheory.errors import ConditionWarning, HypothesisError
from qkvtheory.gauge import largest
from qkvtheory.linalg import check_finite, concat, inverse, outside, right_inverse, symbolic
from qkvtheory.network import Attention
from qkvtheory.positions import Rope
from qkvtheory.tying import CausalHeads, Latent, Separate, Slim


def values_from_keys(attention: Attention) -> tuple[Any, Any]:
    """(W, b) with values = keys W + b on every stream: W = W_K^-1 W_V, b = b_V - b_K W (None without biases).

    W_K must be square and invertible: one key head for each query head, p = d (claim slim-exact). In floats the rebuilt
    values are off by at most about the rounding unit times cond(W_K), and usually by far less. Source: Graef and
    Wasielewski 2025 (2503.05840); the biases are ours.
    """
    check(attention)
    W = inverse(attention.W_K, "W_K") @ attention.W_V
    if attention.b_K is None:
        return W, attention.b_V
    moved = -(attention.b_K @ W)
    return W, moved if attention.b_V is None else attention.b_V + moved


def slim(layer: Separate) -> Slim:
    """The same sublayer with a cache of keys alone: half of the bytes of multi-head attention (claim slim-exact).

    Raises HypothesisError unless there are as many key heads as query heads and W_K is square and invertible, TypeError
    for a layer that is no ``Separate``.

    >>> import numpy as np
    >>> from qkvtheory.tying import build, cache_bytes
    >>> layer, x = build("QKV", 4, 2), np.eye(3, 4)
    >>> (y, kept), (_, full) = slim(layer).decode(x), layer.decode(x)
    >>> bool(np.allclose(y, layer.attention(3)(x))), cache_bytes(kept) / cache_bytes(full)
    (True, 0.5)
    """
    of(Separate, layer, "the layer")
    if layer.core.kv_heads != layer.core.heads:
        raise HypothesisError(
            "multi-head attention", "grouped keys are narrower than the stream, so they do not determine it"
        )
    W_KV, b_KV = values_from_keys(layer.attention(1))
    held = {name: getattr(layer, name) for name in ("core", "W_Q", "W_K", "W_O", "b_Q", "b_K", "b_O")}
    return Slim(**held, W_KV=W_KV, b_KV=b_KV)


def keys_in_values(attention: Attention) -> Attention:
    """The same function with keys equal to values: W_K becomes W_V, and W_Q becomes W_Q B^T where W_K = W_V B.

    Head by head (claim kv-lossless-iff): what the queries of a head see of W_K must lie in the span of the columns of
    W_V of that head, and these must be independent. So it always works for one head of full width with invertible W_V
    (claim kv-single-head-lossless), and for narrow heads almost never. Judged by W_Q W_K^T (and b_Q W_K^T), which does
    not depend on the basis of the head; in floats up to the rounding of the new product itself. No RoPE, no QK-norm, no
    key or value bias (fold them first: claims key-bias-invisible and value-bias-folds). A core other than ``Heads``
    counts as one head; whoever passes one vouches for bare scores.

    Raises HypothesisError naming what fails ("keys in the span of the values", "bare scores", "no biases", "full row
    rank" of W_V^T). Warns with ConditionWarning where half of the digits are lost. Sources: sufficient for the
    function, reported of Gao and Xu 2026 (2606.21848); head by head, and that it is necessary, ours.

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> a = Attention(Heads(1), *rng.normal(size=(4, 3, 3)))
    >>> tied, x = keys_in_values(a), rng.normal(size=(5, 3))
    >>> tied.W_K is tied.W_V, bool(np.allclose(tied(x), a(x)))
    (True, True)
    """
    check(attention)
    core = attention.core
    heads, groups = (core.heads, core.kv_heads) if isinstance(core, Heads) else (1, 1)
    if isinstance(core, Heads) and (core.rotate or core.norm_q or core.norm_k):
        raise HypothesisError("bare scores", "RoPE or QK-norm stands between the keys and their scores")
    if attention.b_K is not None or attention.b_V is not None:
        raise HypothesisError("no biases", "drop the key bias and fold the value bias into b_O first")
    keys, values = columns(attention.W_K, groups), columns(attention.W_V, groups)
    within = [coefficients(k, v, head) for head, (k, v) in enumerate(zip(keys, values, strict=True))]
    shared = [h * groups // heads for h in range(heads)]
    for reads in (attention.W_Q, attention.b_Q):
        for q, g in zip(blocks(reads, heads), shared, strict=False):
            check_scores(q, keys[g], values[g], within[g], g)
    turn = [within[g].mT for g in shared]
    with np.errstate(over="ignore"):  # what overflows is refused, by name
        W_Q, b_Q = turned(attention.W_Q, turn), turned(attention.b_Q, turn)
    for name, new in (("the new W_Q", W_Q), ("the new b_Q", b_Q)):
        if new is not None:
            check_finite(new, name)
    return replace(attention, core=same_scale(core, attention), W_Q=W_Q, W_K=attention.W_V, b_Q=b_Q)


def turned(reads: Any, turn: list[Any]) -> Any:
    """The block of each head of a weight, or of its bias, times the matrix of that head."""
    if reads is None:
        return None
    return side_by_side([block @ t for block, t in zip(blocks(reads, len(turn)), turn, strict=True)])


def blocks(reads: Any, heads: int) -> list[Any]:
    """The columns of each head of a weight or of its bias, as matrices; nothing for no bias."""
    if reads is None:
        return []
    return columns(reads if reads.ndim == 2 else reads[None], heads)


def same_scale(core: Any, attention: Attention) -> Any:
    """The default scale follows the width of the keys, which may change: here it is what it was."""
    if not isinstance(core, Heads) or core.scale is not None or symbolic(attention.W_Q):
        return core
    return replace(core, scale=(attention.W_Q.shape[1] // core.heads) ** -0.5)


def coefficients(keys: Any, values: Any, head: int) -> Any:
    """B such that values B is as near to the keys as it can be, for values with independent columns."""
    B = right_inverse(values.mT, f"the transposed values of head {head}").mT @ keys
    return B if symbolic(keys) or keys.dtype == object else B + nearest(keys - values @ B, values)


def nearest(keys: Any, values: Any) -> Any:
    """Least squares in floats: what the inverse of nearly dependent columns has cost is won back."""
    xp = array_namespace(keys)
    k, v = (xp.astype(a, xp.float64) for a in (keys, values))
    Q, R = xp.linalg.qr(v)
    return xp.astype(xp.linalg.solve(R, Q.mT @ k), keys.dtype)


def check_scores(queries: Any, keys: Any, values: Any, B: Any, head: int) -> None:
    """Refuse B if (queries B^T) values^T is not queries keys^T: exactly, or for floats up to what it rounds.

    Words are not looked at: there a B that does not do makes an equation that does not hold.
    """
    if symbolic(keys):
        return
    leaves = f"head {head} of W_K leaves the span of W_V"
    if keys.dtype == object:
        if (queries @ (values @ B - keys).mT != 0).any():
            raise HypothesisError("keys in the span of the values", leaves)
        return
    size = largest(keys) or 1.0
    queries, keys, B = queries / (largest(queries) or 1.0), keys / size, B / size  # so that nothing overflows
    scores, tied = queries @ keys.mT, queries @ B.mT @ values.mT
    missed, full = largest(tied - scores), max(largest(scores), largest(tied))
    eps = float(array_namespace(keys).finfo(keys.dtype).eps)
    rounds = eps * largest(abs(queries) @ abs(B).mT @ abs(values).mT)
    if not missed <= 4 * rounds:
        raise HypothesisError(
            "keys in the span of the values",
            f"{leaves}: a part of its scores, {missed / full:.2g} of their size, is left over",
        )
    if rounds > eps**0.5 * full > 0:
        warnings.warn(
            f"head {head}: queries, keys and values nearly cancel; expect a relative error of up to about "
            f"{rounds / full:.1e} in its scores",
            ConditionWarning,
            stacklevel=outside(),
        )


def absorbed(layer: Latent, n: int) -> Attention:
    """MLA as attention on the latents: every head scores, and sums, the same c (claim mla-is-kv-on-latent).

    Head h reads x W_Q^h W_UK^hT against c and writes (A c) W_UV^h W_O^h: one key/value head with keys equal to values,
    d_c wide, but for the rotary key beside them. Function of n tokens, equal to ``layer.attention(n)``. Another core
    than ``CausalHeads`` needs ``heads`` and ``at``; whoever passes one vouches that it turns only the rotary key.

    Raises HypothesisError "rotary key apart" if positions turn more of a key than the rotary key: a matrix between the
    two factors of a score differs from pair to pair, and no weight absorbs it; TypeError for a layer that is no
    ``Latent``, and for positions that are no ``Rope``.

    >>> import numpy as np
    >>> from qkvtheory.tying import build
    >>> layer, x = build("MLA", 8, 2), np.eye(5, 8)
    >>> inside = absorbed(layer, 5)
    >>> inside.core.kv_heads, bool(np.allclose(inside(x), layer.attention(5)(x)))
    (1, True)
    """
    of(Latent, layer, "the layer")
    heads = layer.core.heads
    rotary = [] if layer.W_R is None else [layer.W_R]
    up_keys, up_values = columns(layer.W_UK, heads), columns(layer.W_UV, heads)
    queries = [latent_queries(q, up, rotary) for q, up in zip(columns(layer.W_Q, heads), up_keys, strict=True)]
    outputs = [up @ o for up, o in zip(up_values, rows(layer.W_O, heads), strict=True)]
    core = one_key_head(layer, n)
    keys = concat([*rotary, layer.W_C]) if rotary else layer.W_C
    return Attention(core, side_by_side(queries), keys, layer.W_C, stacked(outputs), b_O=layer.b_O)


def latent_queries(q: Any, up: Any, rotary: list[Any]) -> Any:
    """[rotary part | the rest, carried to the latent] of one head's query weight."""
    if not rotary:
        return q @ up.mT
    width = rotary[0].shape[1]
    return concat([q[:, :width], q[:, width:] @ up.mT])


def one_key_head(layer: Latent, n: int) -> Any:
    """The core of n tokens, with one key/value head and the scale of the old key width."""
    core = layer.core
    if not isinstance(core, CausalHeads):
        return core.at(n)
    turns = 0
    if core.rotate is not None:
        table = core.rotate(n)
        of(Rope, table, f"what rotate gives for {n} tokens")
        turns = 2 * table.cos.shape[-1]
    apart = 0 if layer.W_R is None else layer.W_R.shape[1]
    if turns > apart:
        raise HypothesisError(
            "rotary key apart", f"positions turn {turns} coordinates of a key, the rotary key {apart}"
        )
    scale = (layer.W_Q.shape[1] // core.heads) ** -0.5 if core.scale is None else core.scale
    return replace(core, groups=1, scale=scale).at(n)


def columns(weight: Any, heads: int) -> list[Any]:
    """The column blocks of the heads."""
    if heads == 1:
        return [weight]
    width = weight.shape[1] // heads
    return [weight[:, h * width : (h + 1) * width] for h in range(heads)]


def rows(weight: Any, heads: int) -> list[Any]:
    """The row blocks of the heads."""
    return [weight] if heads == 1 else [block.mT for block in columns(weight.mT, heads)]


def side_by_side(blocks: list[Any]) -> Any:
    return blocks[0] if len(blocks) == 1 else concat(blocks)


def stacked(blocks: list[Any]) -> Any:
    return blocks[0] if len(blocks) == 1 else side_by_side([block.mT for block in blocks]).mT
