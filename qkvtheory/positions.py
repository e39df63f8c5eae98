"""Position schemes. Those that act after the projections are arguments of ``Heads``; an additive table is part of
the stream. The 2D correction of the scores comes last, with the closed form of what it does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device, to_device

from qkvtheory.attention import like
from qkvtheory.errors import HypothesisError


@dataclass(frozen=True, eq=False)
class Rope:
    """Rotary positions: row t of (heads, n, head width) is turned by R_t, plane c by the angle with cosine cos[t, c].

    cos, sin: tables (n, planes), planes <= head width / 2; coordinates beyond 2 * planes stay unrotated (partial RoPE).
    layout: "interleaved" pairs coordinates (0, 1), (2, 3), ...; "half" pairs (0, planes), (1, planes + 1), ...
    Rows: R_t = [[cos, sin], [-sin, cos]] acts on the right, so R_i R_j^T = R_(i-j).
    Source: Su et al. 2021 (2104.09864).
    """

    cos: Any
    sin: Any
    layout: str = "interleaved"

    def __post_init__(self) -> None:
        if self.layout not in ("interleaved", "half"):
            raise ValueError(f"layout must be 'interleaved' or 'half', not {self.layout!r}")

    def __call__(self, z: Any) -> Any:
        xp = array_namespace(z)
        cos, sin = like(self.cos, z), like(self.sin, z)
        width = 2 * cos.shape[-1]
        turned, rest = z[..., :width], z[..., width:]
        if self.layout == "half":
            a, b = turned[..., : width // 2], turned[..., width // 2 :]
            turned = xp.concat([a * cos - b * sin, a * sin + b * cos], axis=-1)
        else:
            a, b = turned[..., ::2], turned[..., 1::2]
            turned = xp.reshape(xp.stack([a * cos - b * sin, a * sin + b * cos], axis=-1), turned.shape)
        return xp.concat([turned, rest], axis=-1) if rest.shape[-1] else turned


def rope(n: int, head_width: int, base: float = 10000.0, layout: str = "interleaved", fraction: float = 1.0) -> Rope:
    """RoPE with the usual frequencies base^(-2c/width) on the first ``fraction`` of the head's coordinates.

    >>> rope(3, 4)(np.ones((1, 3, 4))).shape
    (1, 3, 4)
    """
    planes = int(head_width * fraction) // 2
    if planes < 1:
        raise ValueError(f"a head of width {head_width} has no plane to rotate at fraction {fraction}")
    angles = np.arange(n)[:, None] * base ** (-np.arange(planes) / planes)
    return Rope(np.cos(angles), np.sin(angles), layout)


def rational_rope(n: int, planes: int) -> Rope:
    """Rotations with rational entries, for exact arithmetic: plane c turns by the angle with half-angle tangent
    1/(c + 2).
    """
    step = [complex_power(Fraction(1, c + 2), t) for t in range(n) for c in range(planes)]
    cos, sin = (np.array([z[part] for z in step], dtype=object).reshape(n, planes) for part in (0, 1))
    return Rope(cos, sin)


def complex_power(half_tangent: Fraction, power: int) -> tuple[Fraction, Fraction]:
    """(cos, sin) of ``power`` times the angle whose half has this tangent."""
    t = half_tangent
    c, s = (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)
    x, y = Fraction(1), Fraction(0)
    for _ in range(power):
        x, y = x * c - y * s, x * s + y * c
    return x, y


def alibi(n: int, heads: int, slopes: Any = None, last: int | None = None) -> np.ndarray:
    """ALiBi: bias -m_h |i - j| with slopes m_h = 2^(-8 (h + 1) / heads), shape (heads, n, n). Press et al. 2021
    (2108.12409). ``last``: the rows of so many last tokens only, (heads, last, n).
    """
    m = 2.0 ** (-8.0 * np.arange(1, heads + 1) / heads) if slopes is None else np.asarray(slopes)
    distance = np.abs(last_of(n, last)[:, None] - np.arange(n)[None, :])
    return -m[:, None, None] * distance


def relative_bias(b: Any, n: int) -> np.ndarray:
    """The bias b[j - i + n - 1] on score (i, j); ``b`` has 2n - 1 entries on its last axis. Raffel et al. 2020 (T5)."""
    b = np.asarray(b)
    if b.shape[-1] != 2 * n - 1:
        raise ValueError(f"a relative bias for {n} tokens has {2 * n - 1} entries, not {b.shape[-1]}")
    offsets = np.arange(n)[None, :] - np.arange(n)[:, None] + n - 1
    return b[..., offsets]


def sinusoids(positions: Any, width: int) -> np.ndarray:
    """sin, cos, sin, cos, ... of positions times 10000^(-2c/width): any shape (...) of positions to (..., width)."""
    angles = np.asarray(positions)[..., None] * 10000.0 ** (-np.arange(0, width, 2) / width)
    pairs = np.stack([np.sin(angles), np.cos(angles)], axis=-1)
    return pairs.reshape(*angles.shape[:-1], -1)[..., :width]


def sinusoidal(n: int, d: int) -> np.ndarray:
    """The fixed additive table of Vaswani et al. 2017 (1706.03762), shape (n, d); with odd d the last cosine is left
    out.
    """
    return sinusoids(np.arange(n), d)


# -- the 2D correction -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Correction:
    """The 2D correction of the scores, (...)^+: copy them to c channels, add a fixed table, sum the weighted channels.

    table: (n, n, c), fixed. weights: (c,), and bias, a number, are those of a 1 x 1 convolution from c channels to one,
    and are learned. Every head gets the same correction. Called on scores (heads, n, n'), it is an argument of
    ``Heads``; arrays of the array API standard, or exact numbers.

    In closed form it is scores * ``temperature`` + ``added`` (claim broadcast-conv-form). If every channel depends on
    the row only or on the column only, softmax sees no more than the temperature and a bias on the keys (claim
    separable-plus-is-temperature).

    Scores of fewer tokens take the first rows and columns of the table, as in the published code; scores of the last
    tokens only, as when earlier keys are cached, need ``last``. Raises ValueError for a table or weights of another
    shape, HypothesisError "shapes agree" for scores that the table does not cover.

    Sources: Borji 2023 (2305.19129); Kayyam, Madan Gopal and Lewis 2026 (2606.04032).

    >>> correction = Correction(np.array([[[0.0, 3.0], [0.0, 4.0]], [[1.0, 3.0], [1.0, 4.0]]]), np.array([2.0, -1.0]))
    >>> correction(np.array([[[10.0, 20.0], [30.0, 40.0]]])).tolist()
    [[[7.0, 16.0], [29.0, 38.0]]]
    >>> float(correction.temperature), correction.added.tolist()
    (1.0, [[-3.0, -4.0], [-1.0, -2.0]])
    """

    table: Any
    weights: Any
    bias: Any = 0

    def __post_init__(self) -> None:
        table, weights = shape_of(self.table), shape_of(self.weights)
        if len(table) != 3:
            raise ValueError(f"the table must be an array n x n x channels, not {described(self.table)}")
        if weights != table[2:]:
            raise ValueError(
                f"a table of {table[2]} channels needs an array of {table[2]} weights, not {described(self.weights)}"
            )

    def __call__(self, scores: Any) -> Any:
        table, weights = (numbers_like(a, scores) for a in (self.covering(scores).table, self.weights))
        bias = numbers_like(self.bias, scores) if hasattr(self.bias, "shape") else self.bias
        channels = scores[..., None] + table
        return channels @ weights + bias

    def covering(self, scores: Any) -> Correction:
        """This correction for scores (heads, n, n'): itself, or its first tokens."""
        rows, cols = scores.shape[-2:]
        given = tuple(self.table.shape[:2])
        if given == (rows, cols):
            return self
        if rows == cols <= given[0] == given[1]:
            return self.last(rows, rows)
        cached = rows < cols <= given[0] == given[1]
        advice = f"for the last {rows} of {cols} tokens pass correction.last({rows}, {cols})"
        raise HypothesisError(
            "shapes agree",
            f"the table of the correction is for {given[0]} queries and {given[1]} keys, the scores are of {rows} and "
            f"{cols}; {advice if cached else 'make another'}",
        )

    def last(self, rows: int, n: int) -> Correction:
        """The correction of the last ``rows`` of the first n tokens, for scores (heads, rows, n).

        Raises ValueError unless 1 <= rows <= n and the table is for at least n tokens.

        >>> initial_correction(separable_channels(8)).last(1, 5).table.shape
        (1, 5, 10)
        """
        tokens = min(self.table.shape[:2])
        if not 1 <= rows <= n <= tokens:
            raise ValueError(
                f"a table for {tokens} tokens has no last {rows} of {n}; choose 1 <= rows <= n <= {tokens}"
            )
        return replace(self, table=self.table[n - rows : n, :n, :])

    @property
    def temperature(self) -> Any:
        """The factor on the scores: the sum of the weights. A negative one turns the order of the scores around."""
        return self.weights.sum()

    @property
    def added(self) -> Any:
        """What is added to the scores, whatever they are: (n, n')."""
        return numbers_like(self.table, self.weights) @ self.weights + self.bias

    def separable(self) -> tuple[Any, Any]:
        """(r, c) with ``added`` = r 1^T + 1 c^T: what the rows get, bias included, (n,), and the key bias (n',).

        Softmax does not see r (claim row-constants-invisible). A channel that depends on neither index counts among the
        rows. Raises HypothesisError "separable" if a channel depends on both indices.

        >>> rows, keys = Correction(np.array([[[0, 3], [0, 4]], [[1, 3], [1, 4]]]), np.array([2, -1])).separable()
        >>> rows.tolist(), keys.tolist()
        ([0, 2], [-3, -4])
        """
        table, weights = numbers_like(self.table, self.weights), self.weights
        by_row, by_key = (constant_along(table, axis) for axis in (1, 0))
        if not bool((by_row | by_key).all()):
            mixed = [c for c, (row, key) in enumerate(zip(by_row, by_key, strict=True)) if not (row or key)]
            raise HypothesisError(
                "separable",
                f"channels {mixed} of the table depend on both tokens; every channel must depend on the row only or on "
                "the column only",
            )
        key_only = by_key & ~by_row
        rows, keys = table[:, 0, :][:, by_row] @ weights[by_row], table[0, :, :][:, key_only] @ weights[key_only]
        return rows + self.bias, keys


def constant_along(table: Any, axis: int) -> Any:
    """Which channels do not change along this axis: boolean, (c,)."""
    first = table[:, :1, :] if axis else table[:1, :, :]
    return (table == first).all(0).all(0)


def numbers_like(a: Any, z: Any) -> Any:
    """Numbers in z's library and on its device, in its precision if it holds floats; what is learned stays so."""
    if z.dtype == object:
        return a
    xp = array_namespace(z)
    a = to_device(a, device(z)) if isinstance(a, type(z)) else like(a, z)
    return xp.astype(a, z.dtype) if xp.isdtype(z.dtype, "real floating") else a


def shape_of(a: Any) -> tuple[int, ...]:
    return tuple(getattr(a, "shape", ()))


def described(a: Any) -> str:
    return f"an array of shape {shape_of(a)}" if hasattr(a, "shape") else f"a {type(a).__name__}"


def separable_channels(n: int, channels: int = 10, last: int | None = None) -> np.ndarray:
    """The published table, (n, n, channels): the first half of the channels are sinusoids of the row i, the others of
    the column j.

    So it is separable. Ten channels and this order are those of the code of Kayyam et al. 2026. In Borji's code the
    library that makes the table rounds up, so that of ten channels six follow the row; the rest is the same.
    ``last``: the rows of so many last tokens only, (last, n, channels).

    >>> table = separable_channels(3, 4)
    >>> bool((table[:, :1, :2] == table[:, 1:2, :2]).all()), bool((table[:1, :, 2:] == table[1:2, :, 2:]).all())
    (True, True)
    """
    check_channels(n, channels)
    half, queries = channels // 2, last_of(n, last)
    rows, columns = sinusoids(queries, half), sinusoids(np.arange(n), channels - half)
    shape = (len(queries), n)
    return np.concatenate(
        [np.broadcast_to(rows[:, None], (*shape, half)), np.broadcast_to(columns[None], (*shape, channels - half))],
        axis=-1,
    )


def relative_channels(n: int, channels: int = 10, last: int | None = None) -> np.ndarray:
    """A table that is not separable, (n, n, channels): sinusoids of the distance j - i. ``last`` as in
    ``separable_channels``.

    Its sines are odd in j - i and not linear, so with nearly all weights the corrected map of a symmetric head is no
    longer reversible (claim relative-bias-criterion; ours).

    >>> relative_channels(3, 2)[:, :, 1].round(2).tolist()      # cosines of the distance
    [[1.0, 0.54, -0.42], [0.54, 1.0, 0.54], [-0.42, 0.54, 1.0]]
    """
    check_channels(n, channels)
    return sinusoids(np.arange(n)[None, :] - last_of(n, last)[:, None], channels)


def last_of(n: int, last: int | None) -> np.ndarray:
    """The positions of the last tokens of n; all by default. Raises ValueError for more than there are, or none."""
    if last is not None and not 1 <= last <= n:
        raise ValueError(f"{n} tokens have no last {last}; choose 1 <= last <= {n}")
    return np.arange(0 if last is None else n - last, n)


def check_channels(n: int, channels: int) -> None:
    if n < 1 or channels < 1:
        raise ValueError(f"a table needs at least one token and one channel, not {n} and {channels}")


def initial_correction(table: Any, seed: int = 0, deviation: float = 0.02) -> Correction:
    """The correction as training starts it: normal weights of mean 0 and this deviation, bias 0.

    See claim init-temperature. The deviation 0.02 is that of the code of Kayyam et al. 2026. For a table of NumPy.

    >>> correction = initial_correction(relative_channels(5))
    >>> correction.weights.shape, bool(abs(correction.temperature) < 0.5)
    ((10,), True)
    """
    return Correction(table, np.random.default_rng(seed).normal(0.0, deviation, np.shape(table)[-1]))
