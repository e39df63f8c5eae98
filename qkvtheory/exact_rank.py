"""The same dimensions without floats: dual numbers over a prime field, and a rank that needs no gap.

Softmax, activation and norm have rational stand-ins of the same symmetries, so ``exact_network_dimension`` is an
independent measurement of what ``redundancy.network_dimension`` reads off singular values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from qkvtheory import positions
from qkvtheory.attention import rational
from qkvtheory.freedom import Architecture
from qkvtheory.redundancy import Functions, built_network, inputs_for, network_shapes, shaped

PRIME = 2**31 - 1  # two products of residues fit into 64 bits


class Dual:
    """value + slope * epsilon modulo 2^31 - 1, epsilon^2 = 0: a number and its derivatives, ``slope`` an int64 array.

    Ring operations, division, and whole numbers and fractions beside it; for arrays of dtype object.
    """

    __slots__ = ("slope", "value")

    def __init__(self, value: int, slope: Any):
        self.value, self.slope = value, slope

    def __add__(self, other: Any) -> Dual:
        if other.__class__ is Dual:
            return Dual((self.value + other.value) % PRIME, (self.slope + other.slope) % PRIME)
        return Dual((self.value + residue(other)) % PRIME, self.slope)

    __radd__ = __add__

    def __neg__(self) -> Dual:
        return Dual(-self.value % PRIME, -self.slope % PRIME)

    def __sub__(self, other: Any) -> Dual:
        return self + -other

    def __rsub__(self, other: Any) -> Dual:
        return -self + other

    def __mul__(self, other: Any) -> Dual:
        if other.__class__ is Dual:
            slope = (self.value * other.slope + other.value * self.slope) % PRIME
            return Dual(self.value * other.value % PRIME, slope)
        number = residue(other)
        return Dual(self.value * number % PRIME, number * self.slope % PRIME)

    __rmul__ = __mul__

    def __rtruediv__(self, other: Any) -> Dual:
        inverse = pow(self.value, -1, PRIME)
        return Dual(inverse, -(inverse * inverse % PRIME) * self.slope % PRIME) * other


def residue(number: Any) -> int:
    """What a whole number or a fraction stands for modulo the prime."""
    numerator, denominator = Fraction(number).as_integer_ratio()
    return numerator * pow(denominator, -1, PRIME) % PRIME


def exact_dimension(function: Callable[..., Any], shapes: Sequence[tuple[int, ...]], seed: int = 0) -> int:
    """The rank of the Jacobian at a random point of a prime field: exact, and read off without any gap.

    ``function`` as for ``functional_dimension``, of arrays of dtype object with these ``shapes``, by +, -, *, / and @
    alone. The rank at generic real points is at least this; it is more only with a small probability, the degree
    of a minor over 2^31. (From few inputs it is too small, as with floats.)

    >>> exact_dimension(lambda a, b: a @ b, [(4, 1), (1, 3)])
    6
    """
    rng, count = np.random.default_rng(seed), sum(int(np.prod(shape)) for shape in shapes)
    units = np.eye(count, dtype=np.int64)
    point = np.array([Dual(int(v), unit) for v, unit in zip(rng.integers(1, PRIME, count), units, strict=True)])
    outputs = function(*shaped(point, [np.empty(shape) for shape in shapes]))
    return rank_modulo(np.stack([output.slope for output in outputs.ravel()]))


def rank_modulo(a: np.ndarray) -> int:
    """The rank of an int64 matrix of residues, by elimination."""
    a, rank = a.copy(), 0
    for column in range(a.shape[1]):
        pivots = np.flatnonzero(a[rank:, column])
        if not len(pivots):
            continue
        first = rank + pivots[0]
        a[[rank, first]] = a[[first, rank]]
        row = a[rank] * pow(int(a[rank, column]), -1, PRIME) % PRIME
        below = rank + pivots[pivots > 0]
        factors = a[below, column]
        a[below] = (a[below] - factors[:, None] * row % PRIME) % PRIME
        rank += 1
    return rank


def squared_length_norm(center: bool) -> Callable[[Any], Callable[[Any], Any]]:
    """x / (1 + |x|^2) in the place of x / sqrt(|x|^2 / d + eps): it has the same symmetries, and no root."""

    def norm(gain: Any) -> Callable[[Any], Any]:
        def apply(z: Any) -> Any:
            z = z - z.sum(axis=-1, keepdims=True) * Fraction(1, z.shape[-1]) if center else z
            z = z * (1 / (1 + (z * z).sum(axis=-1, keepdims=True)))
            return z if gain is None else z * gain

        return apply

    return norm


def cubic(z: Any) -> Any:
    return z * z + z * z * z


def cubic_gated(z: Any) -> Any:
    a, b = np.split(z, 2, axis=-1)
    return cubic(a) * b


RATIONAL = Functions(
    rational,
    {"GELU": cubic, "tanh": cubic, "ReLU": lambda z: z * z * z, "SwiGLU": cubic_gated},
    {"none": lambda gain: None, "RMSNorm": squared_length_norm(False), "LayerNorm": squared_length_norm(True)},
    lambda n, planes: positions.rational_rope(n, len(planes)),
    scale=1,
)


def exact_network_dimension(a: Architecture, sequences: int | None = None, seed: int = 0) -> int:
    """As ``network_dimension``, over a prime field, with rational functions of the same symmetries in the place of
    softmax, activation and norm: (1 + s^2) / sum, z^2 + z^3 (z^3 for ReLU, to keep the scales), x / (1 + |x|^2).

    Raises ValueError for biases, since the row pattern, unlike softmax, sees a key bias, and for norms with eps 0.

    >>> exact_network_dimension(Architecture())
    124
    """
    if a.biases or a.norm == "RMSNorm, eps 0":
        raise ValueError("biases and norms with eps 0 have no rational stand-in of the same symmetries; measure floats")
    shapes = network_shapes(a)
    count, tokens = inputs_for(a, sequences, 1.5, seed)
    whole = (tokens if a.heads else np.rint(100 * tokens)).astype(int).astype(object)
    return exact_dimension(
        lambda *given: built_network(a, dict(zip(shapes, given, strict=True)), count, RATIONAL)(whole),
        [*shapes.values()],
        seed,
    )
