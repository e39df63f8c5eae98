"""Residues modulo the prime 2^521 - 1: exact arithmetic that does not grow, for arrays of dtype object."""

from __future__ import annotations

from typing import Any

P = 2**521 - 1


class Residue:
    """An element of GF(P). Two different rational functions of degree D agree at a random point with probability
    <= D / P.
    """

    __slots__ = ("value",)

    def __init__(self, value: int):
        self.value = value % P

    def __add__(self, other: Any) -> Residue:
        return Residue(self.value + integer(other))

    __radd__ = __add__

    def __sub__(self, other: Any) -> Residue:
        return Residue(self.value - integer(other))

    def __rsub__(self, other: Any) -> Residue:
        return Residue(integer(other) - self.value)

    def __neg__(self) -> Residue:
        return Residue(-self.value)

    def __mul__(self, other: Any) -> Residue:
        return Residue(self.value * integer(other))

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Residue:
        return Residue(self.value * pow(integer(other), -1, P))

    def __rtruediv__(self, other: Any) -> Residue:
        return Residue(integer(other) * pow(self.value, -1, P))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, int | Residue) and (self.value - integer(other)) % P == 0

    def __hash__(self) -> int:
        return hash(self.value)

    def __repr__(self) -> str:
        return f"Residue({self.value})"


def integer(x: Any) -> int:
    return x.value if isinstance(x, Residue) else int(x)
