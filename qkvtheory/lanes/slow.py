"""Multi-head attention by loops, straight from definitions 1.1 to 1.5: the slow twin that ``attention.Heads`` must
equal.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from qkvtheory.attention import Heads
from qkvtheory.network import Attention, Block


def attention(layer: Attention, x: Any) -> np.ndarray:
    """layer(x), one head and one pair of tokens at a time. The core must be ``Heads``."""
    core = cast(Heads, layer.core)
    q, k, v = (plus(x @ getattr(layer, f"W_{c}"), getattr(layer, f"b_{c}")) for c in "QKV")
    width, value_width = q.shape[1] // core.heads, v.shape[1] // core.kv_heads
    out = []
    for h in range(core.heads):
        group = h * core.kv_heads // core.heads
        q_h, k_h = q[:, h * width : (h + 1) * width], k[:, group * width : (group + 1) * width]
        v_h = v[:, group * value_width : (group + 1) * value_width]
        out.append(head(core, h, q_h, k_h) @ v_h)
    return plus(np.concatenate(out, axis=1) @ layer.W_O, layer.b_O)


def head(core: Heads, h: int, q: Any, k: Any) -> np.ndarray:
    """The map of head h."""
    q, k = (norm(z) if norm else z for norm, z in ((core.norm_q, q), (core.norm_k, k)))
    if core.rotate is not None:
        q, k = (np.concatenate([z[i : i + 1] @ rotation(core, i, z) for i in range(len(z))]) for z in (q, k))
    scale = q.shape[1] ** -0.5 if core.scale is None else core.scale
    scores = np.empty((len(q), len(k)), dtype=q.dtype)
    for i in range(len(q)):
        for j in range(len(k)):
            scores[i, j] = scale * sum(q[i, c] * k[j, c] for c in range(q.shape[1]))
    for extra in (core.bias,):
        scores = scores if extra is None else scores + (extra if extra.ndim == 2 else extra[h])
    if core.correction is not None:
        scores = corrected(core.correction, scores)
    if core.softcap is not None:
        scores = core.softcap * np.tanh(scores / core.softcap)
    mask = core.mask if core.mask is None or core.mask.ndim == 2 else core.mask[h]
    return core.pattern(scores, mask)


def corrected(correction: Any, scores: Any) -> np.ndarray:
    """Every score by itself: copied to the channels, the table added, the weighted channels summed."""
    channels = range(len(correction.weights))
    out = np.empty_like(scores)
    for i, j in np.ndindex(*scores.shape):
        terms = ((scores[i, j] + correction.table[i, j, c]) * correction.weights[c] for c in channels)
        out[i, j] = sum(terms) + correction.bias
    return out


def block(layer: Block, x: Any) -> np.ndarray:
    """From definition 1.9, without norms: Y = [X +] MHA(X), then [Y +] MLP(Y); or, parallel, [X +] MHA(X) + MLP(X)."""
    y = attention(layer.attention, x) + skipped(layer.attention_skip, x)
    if layer.parallel:
        return y + transformed(layer, x)
    return transformed(layer, y) + skipped(layer.mlp_skip, y)


def transformed(layer: Block, y: Any) -> np.ndarray:
    """MLP(y)."""
    hidden = layer.mlp.act(plus(y @ layer.mlp.W_up, layer.mlp.b_up))
    return plus(hidden @ layer.mlp.W_down, layer.mlp.b_down)


def skipped(skip: Any, x: Any) -> np.ndarray:
    """What a skip adds: nothing, x, or x A."""
    return x @ skip if hasattr(skip, "shape") else x * int(skip)


def rotation(core: Heads, t: int, like: Any) -> np.ndarray:
    """The matrix R_t that acts on the row of token t: what the position scheme does to the unit vectors there."""
    assert core.rotate is not None
    width = like.shape[1]
    rows = []
    for c in range(width):
        unit = np.zeros((1, len(like), width), dtype=like.dtype) + like.flat[0] * 0
        unit[0, t, c] = unit[0, t, c] + 1
        rows.append(core.rotate(unit)[0, t])
    return np.stack(rows)


def plus(a: Any, bias: Any) -> Any:
    return a if bias is None else a + bias
