"""Worlds: what the letters of a statement stand for.

A statement is a function of a world: it asks for matrices by name, shape and hypothesis and returns pairs that should
be equal. Run in ``Words`` it is about all sizes at once; in ``Fractions`` about exact numbers, in ``Residues`` about
integers modulo a prime; in ``Floats`` about the very floats a user has; in ``Hashes`` it re-evaluates a symbolic
verdict at a random point of a prime field, where an unknown function is a keyed hash. The same lines of code, so no
lane has its own copy of a theorem.
"""

from qkvtheory.lanes.worlds.in_numbers import (
    SLACK,
    Floats,
    Fractions,
    Hashes,
    Residues,
    hashed,
    left_null_space,
    power,
)
from qkvtheory.lanes.worlds.in_words import EVERYTHING, Words
from qkvtheory.lanes.worlds.world import Comparison, World

__all__ = [
    "EVERYTHING",
    "SLACK",
    "Comparison",
    "Floats",
    "Fractions",
    "Hashes",
    "Residues",
    "Words",
    "World",
    "hashed",
    "left_null_space",
    "power",
]
