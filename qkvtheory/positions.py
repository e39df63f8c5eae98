"""Position schemes. Those that act after the projections are arguments of ``Heads``; an additive table is part of
the stream.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from qkvtheory.attention import like


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


def alibi(n: int, heads: int, slopes: Any = None) -> np.ndarray:
    """ALiBi: bias -m_h |i - j| with slopes m_h = 2^(-8 (h + 1) / heads), shape (heads, n, n). Press et al. 2021
    (2108.12409).
    """
    m = 2.0 ** (-8.0 * np.arange(1, heads + 1) / heads) if slopes is None else np.asarray(slopes)
    distance = np.abs(np.arange(n)[:, None] - np.arange(n)[None, :])
    return -m[:, None, None] * distance


def relative_bias(b: Any, n: int) -> np.ndarray:
    """The bias b[j - i + n - 1] on score (i, j); ``b`` has 2n - 1 entries on its last axis. Raffel et al. 2020 (T5)."""
    b = np.asarray(b)
    if b.shape[-1] != 2 * n - 1:
        raise ValueError(f"a relative bias for {n} tokens has {2 * n - 1} entries, not {b.shape[-1]}")
    offsets = np.arange(n)[None, :] - np.arange(n)[:, None] + n - 1
    return b[..., offsets]


def sinusoidal(n: int, d: int) -> np.ndarray:
    """The fixed additive table of Vaswani et al. 2017 (1706.03762), shape (n, d), d even."""
    angles = np.arange(n)[:, None] * 10000.0 ** (-np.arange(0, d, 2) / d)
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(n, d)
