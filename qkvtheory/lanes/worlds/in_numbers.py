"""Matrices of numbers: fractions, integers modulo a prime, keyed hashes in their place, and floats."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from numbers import Rational
from typing import Any

import numpy as np

from qkvtheory.attention import base_two, softmax, whole
from qkvtheory.lanes.field import P, Residue
from qkvtheory.lanes.settings import Setting
from qkvtheory.lanes.worlds.world import Comparison, World, check_shapes
from qkvtheory.linalg import gauss_jordan, identity, inverse, rank
from qkvtheory.positions import rational_rope, rope
from qkvtheory.words import Letter

SLACK = 64
DECIDES = 1e-6  # a comparison with a larger tolerance is no evidence
EXACT_NUMBERS = (Fraction, Residue, int)


class Arrays(World):
    """Matrices of numbers, drawn by name: the same name in the same world is the same matrix."""

    def __init__(self, setting: Setting, seed: int = 0):
        self.setting, self.seed = setting, seed
        self.has_biases = setting.biases
        self.sizes = setting.sizes

    def rng(self, name: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, zlib.crc32(name.encode())])

    def core(self) -> Callable[..., Any]:
        return self.setting.core()

    def ones(self, size: str) -> Any:
        return self.identity(size)[:, :1] * 0 + 1

    def diagonal(self, v: Any, hypothesis: str = "H1") -> Any:
        return v * identity(len(v), v)

    def symmetric(self, name: str, size: str, hypothesis: str = "H1") -> Any:
        a = self.integers(name, size, size)
        return a + a.T

    def centering(self, size: str) -> Any:
        one = self.ones(size)
        return self.identity(size) - one @ one.T / self.sizes[size]

    def fixing_ones(self, name: str, size: str, hypothesis: str = "H1", fixes: str = "H2") -> Any:
        C, one, draw = self.centering(size), self.identity(size), self.integers(name, size, size)
        skew = C @ (draw - draw.T) @ C  # it maps the ones to zero, so its Cayley transform fixes them
        return (one - skew) @ inverse(one + skew)

    def rotate(self, z: Any) -> Any:
        table = rope(len(z), z.shape[1]) if self.lane == "numeric" else rational_rope(len(z), z.shape[1] // 2)
        return table(z[None])[0]

    def annihilator(self, name: str, rows: str, of: Any) -> Any:
        return self.matrix(name, rows, "s") @ left_null_space(of, self.sizes["s"])


class Exact(Arrays):
    """Random matrices over a field; subclasses say which numbers."""

    lane = "exact"

    def number(self, integer: int) -> Any:
        raise NotImplementedError

    def draw(self, name: str, rows: int, cols: int) -> np.ndarray:
        integers = self.rng(name).integers(-3, 4, (rows, cols))
        return np.array([[self.number(int(x)) for x in row] for row in integers], dtype=object).reshape(rows, cols)

    def matrix(self, name: str, rows: str, cols: str) -> np.ndarray:
        return self.draw(name, self.sizes[rows], self.sizes[cols])

    def invertible(self, name: str, size: str, hypothesis: str = "H2") -> np.ndarray:
        return self.full_row_rank(name, size, size)

    def orthogonal(self, name: str, size: str, hypothesis: str = "H1") -> np.ndarray:
        skew = self.skew(name, size)
        one = self.identity(size)
        return (one - skew) @ gauss_jordan(one + skew)  # Cayley: orthogonal for every skew matrix

    def skew(self, name: str, size: str) -> np.ndarray:
        """A skew matrix S for which I + S has an inverse: always over the fractions, almost always modulo a prime."""
        draws = (self.integers(f"{name}{attempt or ''}", size, size) for attempt in range(100))
        return next(a - a.T for a in draws if rank(self.identity(size) + a - a.T) == len(a) and (a != a.T).any())

    def full_row_rank(self, name: str, rows: str, cols: str, hypothesis: str = "H2") -> np.ndarray:
        make: Any = type(self)
        return of_full_row_rank(make, self.setting, self.seed, name, self.sizes[rows], self.sizes[cols])

    def singular(self, name: str, size: str) -> tuple[np.ndarray, np.ndarray]:
        basis = self.invertible(name, size)
        drop = self.identity(size)
        drop[-1, -1] = drop[-1, -1] * 0
        projection = basis @ drop @ gauss_jordan(basis)
        return projection, projection  # a projection is a generalized inverse of itself

    def identity(self, size: str) -> np.ndarray:
        return identity(self.sizes[size], np.array([self.number(1)], dtype=object))

    def function(self, name: str, cols: str | None = None, rows: str | None = None) -> Callable[..., np.ndarray]:
        def polynomial(*args: np.ndarray) -> np.ndarray:
            total = args[0] * args[0]
            for i, argument in enumerate(args[1:], 2):
                total = total + i * argument * argument * argument
            return total

        return polynomial

    def softmax(self, scores: Any, law: str = "", rows: str = "") -> np.ndarray:
        return base_two(scores)

    def kernel(self, scores: Any) -> np.ndarray:
        return 1 + scores * scores

    def exp(self, scores: np.ndarray, law: str = "") -> np.ndarray:
        base = self.number(2)
        return np.frompyfunc(lambda s: power(base, s), 1, 1)(scores)

    def compare(self, left: np.ndarray, right: np.ndarray) -> Comparison:
        check_exact(left, right)
        return Comparison(bool((left == right).all()), int(left.size), 0.0)


@lru_cache(maxsize=1024)
def of_full_row_rank(make: Any, setting: Setting, seed: int, name: str, rows: int, cols: int) -> np.ndarray:
    """The first draw of this name that has full row rank."""
    draws = (make(setting, seed).draw(f"{name}{attempt or ''}", rows, cols) for attempt in range(100))
    return next(a for a in draws if rank(a) == rows)


class Fractions(Exact):
    """Rational numbers, with a rational row pattern in place of softmax."""

    def number(self, integer: int) -> Fraction:
        return Fraction(integer)

    def compare(self, left: np.ndarray, right: np.ndarray) -> Comparison:
        check_exact(left, right)
        gap = max(abs(x) for x in (left - right).ravel())
        scale = max(abs(x) for x in right.ravel()) or 1
        return Comparison(gap == 0, int(left.size), float(Fraction(gap) / Fraction(scale)))


class Residues(Exact):
    """Integers modulo the prime 2^521 - 1, drawn uniformly, with a rational row pattern: for statements about layers.

    An equation between rational functions of degree D that is false holds at a random point with probability at most
    D / 2^521 (Schwartz and Zippel), and the numbers do not grow from layer to layer.
    """

    bound = (
        "modulo the prime $2^{521}-1$; a false equality of degree $D$ would pass with probability at most $D/2^{521}$"
    )

    def number(self, integer: int) -> Residue:
        return Residue(integer)

    def draw(self, name: str, rows: int, cols: int) -> np.ndarray:
        return hashed(f"{self.seed} {name}", rows, cols)


class Hashes(Exact):
    """Uniform matrices over GF(2^521 - 1); every unknown function is a keyed hash of its arguments.

    Two expressions that differ as words give equal values here with probability at most degree / 2^521: a symbolic
    verdict, equal or unequal, is re-evaluated by running the same statement once more in this world.
    """

    lane = "re-evaluation"

    def __init__(self, setting: Setting, seed: int = 0):
        super().__init__(setting, seed)
        self.values: dict[Letter, np.ndarray] = {}  # what ``evaluate`` found

    def number(self, integer: int) -> Residue:
        return Residue(integer)

    def draw(self, name: str, rows: int, cols: int) -> np.ndarray:
        return hashed(f"{self.seed} {name}", rows, cols)

    def function(self, name: str, cols: str | None = None, rows: str | None = None) -> Callable[..., np.ndarray]:
        def apply(*args: np.ndarray) -> np.ndarray:
            shape = (self.sizes[rows] if rows else len(args[0]), self.sizes[cols] if cols else args[0].shape[1])
            return hashed(call_key(name, *args), *shape)

        return apply

    def integers(self, name: str, rows: str, cols: str) -> np.ndarray:
        return super().draw(name, self.sizes[rows], self.sizes[cols])

    def core(self) -> Callable[..., Any]:
        return self.function("g", "o")

    def rotate(self, z: np.ndarray) -> np.ndarray:
        return self.function("R")(z)

    def kernel(self, scores: Any) -> np.ndarray:
        return np.frompyfunc(lambda s: hashed(f"phi {s.value}", 1, 1)[0, 0], 1, 1)(scores)

    def softmax(self, scores: Any, law: str = "", rows: str = "") -> np.ndarray:
        visible = scores - scores[:, :1]  # the same for S and S + r 1^T
        raw = hashed(call_key("softmax", visible), *scores.shape)
        return raw / raw.sum(axis=1, keepdims=True)


def call_key(name: str, *args: np.ndarray) -> str:
    """Of different calls different keys: every argument comes with its shape, so a row is not taken for a column."""
    return " ".join([name, *(f"{a.shape} {' '.join(str(x.value) for x in a.ravel())}" for a in args)])


@lru_cache(maxsize=4096)
def hashed(key: str, rows: int, cols: int) -> np.ndarray:
    """Entries of GF(P) from a hash of the key and the shape."""
    digests = (hashlib.shake_256(f"{key} {rows} {cols} {i}".encode()).digest(66) for i in range(rows * cols))
    entries = np.array([Residue(int.from_bytes(d, "big") % P) for d in digests], dtype=object).reshape(rows, cols)
    entries.flags.writeable = False
    return entries


def check_exact(left: np.ndarray, right: np.ndarray) -> None:
    """Also, they hold exact numbers: a float proves nothing there, and one that is nan would equal anything."""
    check_shapes(left, right)
    for side in (left, right):
        wrong = next(
            (x for x in side.ravel() if x.__class__ not in EXACT_NUMBERS and not isinstance(x, Rational)), None
        )
        if wrong is not None:
            raise ValueError(f"an exact lane compares fractions or residues, not {wrong!r} ({type(wrong).__name__})")


def power(base: Any, exponent: Any) -> Any:
    """base^exponent for a whole exponent; a residue stands for the integer nearest zero."""
    if isinstance(exponent, Residue):
        k = exponent.value if exponent.value < P // 2 else exponent.value - P
    else:
        k = whole(exponent)
    return base**k if isinstance(base, Fraction) else Residue(pow(base.value, k, P))


class Floats(Arrays):
    """float64, with prescribed condition numbers. The tolerance is SLACK * eps * cond of what was inverted."""

    lane = "numeric"

    def __init__(self, setting: Setting, seed: int = 0):
        super().__init__(setting, seed)
        self.cond = 1.0

    def matrix(self, name: str, rows: str, cols: str) -> np.ndarray:
        r, c = self.sizes[rows], self.sizes[cols]
        scale = 1.0 if name.startswith(("X", "T", "Z")) or r == 1 else r**-0.5
        return scale * self.rng(name).normal(size=(r, c))

    def invertible(self, name: str, size: str, hypothesis: str = "H2") -> np.ndarray:
        return self.full_row_rank(name, size, size)

    def orthogonal(self, name: str, size: str, hypothesis: str = "H1") -> np.ndarray:
        return np.linalg.qr(self.rng(name).normal(size=(self.sizes[size],) * 2))[0]

    def full_row_rank(self, name: str, rows: str, cols: str, hypothesis: str = "H2") -> np.ndarray:
        """Singular values evenly spaced on a log scale, from 1 to 1/cond, then scaled to the norm of a Gaussian
        draw.
        """
        r, c = self.sizes[rows], self.sizes[cols]
        u, _, v = np.linalg.svd(self.rng(name).normal(size=(r, c)), full_matrices=False)
        values = np.logspace(0, -np.log10(self.setting.cond), r)
        self.cond = max(self.cond, self.setting.cond)
        return (u * values) @ v * np.sqrt(r / (values**2).sum())

    def singular(self, name: str, size: str) -> tuple[np.ndarray, np.ndarray]:
        d = self.sizes[size]
        a = self.rng(name).normal(size=(d, d - 1)) @ self.rng(name + "'").normal(size=(d - 1, d)) / d
        return a, np.linalg.pinv(a)

    def identity(self, size: str) -> np.ndarray:
        return np.eye(self.sizes[size])

    def function(self, name: str, cols: str | None = None, rows: str | None = None) -> Callable[..., np.ndarray]:
        return lambda *args: np.tanh(sum((i * a for i, a in enumerate(args[1:], 2)), args[0]))

    def softmax(self, scores: Any, law: str = "", rows: str = "") -> np.ndarray:
        return softmax(scores)

    def exp(self, scores: np.ndarray, law: str = "") -> np.ndarray:
        return np.exp(scores)

    def kernel(self, scores: np.ndarray) -> np.ndarray:
        return np.exp(scores)

    @property
    def tolerance(self) -> float:
        return SLACK * float(np.finfo(np.float64).eps) * self.cond

    def compare(self, left: np.ndarray, right: np.ndarray) -> Comparison:
        if self.tolerance > DECIDES:
            raise ValueError(f"a tolerance of {self.tolerance:.1e} decides nothing; it belongs in the error ladder")
        check_shapes(left, right)
        scale = float(np.abs(right).max()) or 1.0
        size = float(np.abs(left - right).max()) / scale
        return Comparison(size <= self.tolerance, int(right.size), size, self.tolerance)


def left_null_space(a: Any, wanted: int) -> Any:
    """``wanted`` rows spanning part of {z : z a = 0}; the matrix must have at least that many dependent rows."""
    if a.dtype != object:
        u, _, _ = np.linalg.svd(a)
        return u[:, -wanted:].T
    rows = np.concatenate([a, identity(len(a), a)], axis=1)
    found = 0
    for column in range(a.shape[1]):
        pivot = next((r for r in range(found, len(a)) if rows[r, column] != 0), None)
        if pivot is None:
            continue
        rows[[found, pivot]] = rows[[pivot, found]]
        for r in range(found + 1, len(a)):
            rows[r] = rows[r] - rows[found] * (rows[r, column] / rows[found, column])
        found += 1
    return rows[len(a) - wanted :, a.shape[1] :]
