"""Residues modulo the prime 2^521 - 1: exact arithmetic that does not grow, for arrays of dtype object."""

from __future__ import annotations

from numbers import Rational
from typing import Any

P = 2**521 - 1


class Residue:
    """An element of GF(P). Two different rational functions of degree D agree at a random point with probability
    <= D / P.

    A residue equals every number that it stands for (P - 1 equals -1), and those have different hashes: so it has none.
    """

    __slots__ = ("value",)

    def __init__(self, value: int):
        self.value = value % P

    def __add__(self, other: Any) -> Residue:
        return made((self.value + integer(other)) % P)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Residue:
        return made((self.value - integer(other)) % P)

    def __rsub__(self, other: Any) -> Residue:
        return made((integer(other) - self.value) % P)

    def __neg__(self) -> Residue:
        return made(-self.value % P)

    def __mul__(self, other: Any) -> Residue:
        return made(self.value * integer(other) % P)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Residue:
        return made(self.value * reciprocal(integer(other)) % P)

    def __rtruediv__(self, other: Any) -> Residue:
        return made(integer(other) * reciprocal(self.value) % P)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rational | Residue) and (self.value - integer(other)) % P == 0

    def __repr__(self) -> str:
        return f"Residue({self.value})"


def integer(x: Any) -> int:
    """What a number stands for modulo P. A fraction is numerator / denominator there; a float is no exact number."""
    if x.__class__ is Residue:
        return x.value
    if isinstance(x, Rational):
        return int(x.numerator) if x.denominator == 1 else int(x.numerator) * reciprocal(int(x.denominator))
    raise TypeError(f"{x!r} is a {type(x).__name__}, which has no residue")


def made(value: int) -> Residue:
    """A residue from a value that is reduced already: these are made by the million."""
    residue = Residue.__new__(Residue)
    residue.value = value
    return residue


def reciprocal(value: int) -> int:
    if value % P == 0:
        raise ZeroDivisionError("division by a residue that is zero modulo 2^521 - 1")
    return pow(value, -1, P)
