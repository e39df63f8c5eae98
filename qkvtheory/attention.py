"""Attention cores: what happens to queries, keys and values after the projections and before W_O.

A *core* is any function core(q, k, v) of the three products. ``Heads`` is the usual one: heads or groups of heads,
scale,
mask, positions, norms, row pattern. It runs on any arrays of the array API standard, and on exact numbers (dtype
object)
with a rational row pattern in place of softmax. No in-place operations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device

from qkvtheory.errors import HypothesisError


def softmax(scores: Any, keep: Any = None) -> Any:
    """Row softmax of scores (..., n, n'); entries where ``keep`` is False get weight zero.

    >>> softmax(np.zeros((1, 2))).tolist()
    [[0.5, 0.5]]
    """
    xp = array_namespace(scores)
    if keep is not None:
        scores = xp.where(keep, scores, xp.asarray(-xp.inf, dtype=scores.dtype, device=device(scores)))
    weights = xp.exp(scores - xp.max(scores, axis=-1, keepdims=True))
    return weights / xp.sum(weights, axis=-1, keepdims=True)


def rational(scores: Any, keep: Any = None) -> Any:
    """The positive rational row pattern (1 + s^2) / sum: softmax's stand-in for exact arithmetic."""
    return normalized_rows(1 + scores * scores, keep)


def base_two(scores: Any, keep: Any = None) -> Any:
    """The row pattern 2^s / sum: exactly rational for integer scores, and a true exponential.

    Raises ValueError for scores that are not whole.
    """
    return normalized_rows(np.frompyfunc(lambda s: (s * 0 + 2) ** whole(s), 1, 1)(scores), keep)


def whole(score: Any) -> int:
    if score != int(score):
        raise ValueError(f"powers of two are rational for whole scores only, not for {score}; choose integers")
    return int(score)


def normalized_rows(weights: Any, keep: Any = None) -> Any:
    if keep is not None:
        weights = np.where(keep, weights, weights * 0)
    return weights * (1 / weights.sum(axis=-1, keepdims=True))  # one division a row: they are the dear ones in a field


def causal(n: int) -> np.ndarray:
    """Token i sees tokens j <= i. Boolean n x n, True where attention is allowed."""
    return np.tril(np.ones((n, n), dtype=bool))


def prefix(n: int, length: int) -> np.ndarray:
    """Causal, but the first ``length`` tokens are seen by all (prefix-LM)."""
    return causal(n) | (np.arange(n) < length)[None, :]


def sliding_window(n: int, width: int) -> np.ndarray:
    """Causal, and at most the last ``width`` tokens."""
    return causal(n) & ~np.tril(np.ones((n, n), dtype=bool), -width)


def rms_norm(gain: Any = None, eps: float = 1e-6) -> Callable[[Any], Any]:
    """RMSNorm over the last axis, with optional gain. As a QK-norm it acts on each head's queries or keys."""

    def norm(z: Any) -> Any:
        xp = array_namespace(z)
        z = z / xp.sqrt(xp.mean(z * z, axis=-1, keepdims=True) + eps)
        return z if gain is None else z * like(gain, z)

    return norm


@dataclass(frozen=True, eq=False)
class Heads:
    """Multi-head attention between the projections: core(q, k, v) -> (n, heads * value head width).

    heads, groups: query heads and key/value heads (GQA; groups=1 is MQA); query head h uses group h * groups // heads.
    mask: boolean (n, n') or (heads, n, n'), True where attention is allowed; every row needs one True.
    scale: factor on q k^T, 1/sqrt(head width) unless given. pattern: softmax(scores, keep) or another row pattern.
    rotate: positions as a function of (heads, n, head width), applied to queries and keys (RoPE).
    bias: array (n, n') or (heads, n, n') added to the scores (ALiBi, relative bias). norm_q, norm_k: QK-norm.
    correction: a function of all scores (heads, n, n'), after the bias and before the cap (``positions.Correction``).
    softcap: tau, for tau * tanh(scores / tau).

    >>> core = Heads(2, mask=causal(3))
    >>> core(*np.ones((3, 3, 4))).shape
    (3, 4)
    """

    heads: int
    groups: int | None = None
    mask: Any = None
    scale: Any = None
    pattern: Callable[[Any, Any], Any] = softmax
    rotate: Callable[[Any], Any] | None = None
    bias: Any = None
    norm_q: Callable[[Any], Any] | None = None
    norm_k: Callable[[Any], Any] | None = None
    softcap: float | None = None
    correction: Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        if self.heads < 1 or self.kv_heads < 1 or self.heads % self.kv_heads:
            raise ValueError(f"groups ({self.kv_heads}) must divide heads ({self.heads}), both at least 1")
        if self.mask is None:
            return
        if not str(getattr(self.mask, "dtype", "")).endswith("bool"):
            raise ValueError("mask must be a boolean array, True where attention is allowed")
        if not bool(self.mask.any(-1).all()):
            raise ValueError("mask: every row needs at least one position it may attend to")

    @property
    def kv_heads(self) -> int:
        return self.heads if self.groups is None else self.groups

    def width(self, values: int) -> int:
        """How wide the heads write, for values of this width. Raises HypothesisError if it does not split."""
        return self.heads * head_width(values, self.kv_heads, "values")

    def __call__(self, q: Any, k: Any, v: Any) -> Any:
        return merge(self.maps(q, k) @ repeat(split(v, self.kv_heads, "values"), self.heads))

    def maps(self, q: Any, k: Any) -> Any:
        """The attention maps, (heads, n, n'): every row sums to 1."""
        scores = self.scores(q, k)
        check_cover("mask", self.mask, scores)
        return self.pattern(scores, like(self.mask, q))

    def scores(self, q: Any, k: Any) -> Any:
        """The scores before the row pattern, (heads, n, n')."""
        q = split(q, self.heads, "queries")
        hint = self.groups_hint(q.shape[-1], k.shape[-1])
        k = split(k, self.kv_heads, "keys", hint)
        if q.shape[-1] != k.shape[-1]:
            raise HypothesisError("shapes agree", f"query heads are {q.shape[-1]} wide, key heads {k.shape[-1]}{hint}")
        q, k = (norm(z) if norm else z for norm, z in ((self.norm_q, q), (self.norm_k, k)))
        q, k = (self.rotate(z) if self.rotate else z for z in (q, k))
        scale = q.shape[-1] ** -0.5 if self.scale is None else self.scale
        s = scale * (q @ repeat(k, self.heads).mT)
        if self.bias is not None:
            check_cover("bias", self.bias, s)
            s = s + like(self.bias, s)
        s = self.correction(s) if self.correction else s
        return s if self.softcap is None else self.softcap * array_namespace(s).tanh(s / self.softcap)

    def groups_hint(self, width: int, keys: int) -> str:
        """What to pass when keys are refused, if their width is right for some number of groups; otherwise empty."""
        groups = keys // width if width else 0
        fits = groups and keys == groups * width and self.heads % groups == 0
        return f"; for grouped heads pass Heads({self.heads}, groups={groups})" if fits else ""


def check_cover(name: str, table: Any, scores: Any) -> None:
    """A mask or bias has an entry for every score, or one to repeat along an axis."""
    given, needed = getattr(table, "shape", ()), scores.shape
    if len(given) <= 3 and all(size in (1, full) for size, full in zip(given[::-1], needed[::-1], strict=False)):
        return
    heads = f"{needed[0]} heads, " if len(given) > 2 else ""
    size = " x ".join(map(str, given))
    raise HypothesisError(
        "shapes agree", f"the {name} is {size} but there are {heads}{needed[1]} queries and {needed[2]} keys"
    )


def split(z: Any, heads: int, what: str, hint: str = "") -> Any:
    """(n, heads * width) -> (heads, n, width): consecutive column blocks are the heads."""
    n, width = z.shape
    xp = array_namespace(z)
    return xp.permute_dims(xp.reshape(z, (n, heads, head_width(width, heads, what, hint))), (1, 0, 2))


def head_width(width: int, heads: int, what: str, hint: str = "") -> int:
    if width % heads:
        raise HypothesisError("shapes agree", f"{what} of width {width} cannot be split into {heads} heads{hint}")
    return width // heads


def merge(z: Any) -> Any:
    """(heads, n, width) -> (n, heads * width)."""
    xp = array_namespace(z)
    heads, n, width = z.shape
    return xp.reshape(xp.permute_dims(z, (1, 0, 2)), (n, heads * width))


def repeat(z: Any, heads: int) -> Any:
    """Give every query head its key/value head: (groups, n, width) -> (heads, n, width)."""
    groups = z.shape[0]
    return z if groups == heads else array_namespace(z).repeat(z, heads // groups, axis=0)


def like(a: Any, z: Any) -> Any:
    """A mask, bias or table in z's library, on its device; numbers take z's precision, masks stay boolean."""
    if a is None or z.dtype == object:
        return a
    xp = array_namespace(z)
    if library(a) != library(z) or device(a) != device(z):  # what fits is taken as it is, with its gradient
        a = xp.asarray(a, device=device(z))
    return xp.astype(a, z.dtype) if xp.isdtype(a.dtype, "real floating") else a


def library(a: Any) -> str:
    """The package that an array, or a subclass of one, comes from."""
    return type(a).__module__.partition(".")[0]
