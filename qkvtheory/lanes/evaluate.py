"""Words with numbers for letters: every step of a calculation is also compared at random points of a prime field.

The normal form decides whether two expressions are equal. This is a second opinion on each step that a page prints, by
another route: letters become matrices, unknown functions become hashes, and nothing is rewritten.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from qkvtheory.chains import Chain
from qkvtheory.lanes.field import Residue
from qkvtheory.lanes.worlds import Hashes, left_null_space
from qkvtheory.linalg import gauss_jordan, identity, right_inverse
from qkvtheory.words import Annihilates, Letter, Word

LAYERS = {"MHA", "block", "network"}  # names for what running a layer gave: a definition, not a function of its own


def evaluate(word: Word, world: Hashes) -> np.ndarray:
    """The expression with the world's matrices for its letters: small integers, as exponents need them."""
    one = np.array([Residue(1)], dtype=object)
    total = np.full((world.sizes[word.rows], world.sizes[word.cols]), Residue(0), dtype=object)
    for letters, coefficient in word.terms:
        product = identity(world.sizes[word.rows], one)
        for letter in letters:
            product = product @ value(letter, world)
        total = total + product * (Residue(coefficient.numerator) / Residue(coefficient.denominator))
    return total


def value(letter: Letter, world: Hashes) -> np.ndarray:
    """The matrix of a letter, found once in a world: states of a network stand in those of every later layer."""
    if letter not in world.values:
        world.values[letter] = found(letter, world)
    return world.values[letter]


def found(letter: Letter, world: Hashes) -> np.ndarray:
    base = letter.turned(inverted=False, transposed=False)
    matrix = applied(base, world) if base.args else drawn(base, world)
    if letter.inverted:
        matrix = right_inverse(matrix) if "full row rank" in base.facts else gauss_jordan(matrix)
    return matrix.T if letter.transposed else matrix


def applied(letter: Letter, world: Hashes) -> np.ndarray:
    """A function at its arguments: the three with laws by name, any other as a hash."""
    arguments = [evaluate(a, world) for a in letter.args]
    laws: dict[str, Any] = {"softmax": world.softmax, "exp": world.exp, "diag": world.diagonal}
    if "entrywise" in letter.facts:
        laws["phi"] = world.kernel
    function = laws.get(letter.name) or world.function(letter.name, letter.cols, letter.rows)
    return function(*arguments)


def drawn(letter: Letter, world: Hashes) -> np.ndarray:
    """A matrix of whole numbers for a plain letter, with the declared facts."""
    rows, cols = letter.rows, letter.cols
    if letter.name == "ones":
        return world.ones(rows)
    for fact in letter.facts:
        if isinstance(fact, Annihilates):
            if letter.name == "C":
                return world.centering(rows)
            return left_null_space(value(fact.of, world), world.sizes[rows])
    if "orthogonal" in letter.facts:
        return world.orthogonal(letter.name, rows)
    if letter.facts & {"invertible", "full row rank"}:
        attempts = (world.integers(f"{letter.name}{i or ''}", rows, cols) for i in range(100))
        return next(a for a in attempts if regular(a))
    return (
        world.symmetric(letter.name, rows) if "symmetric" in letter.facts else world.integers(letter.name, rows, cols)
    )


def regular(a: np.ndarray) -> bool:
    try:
        right_inverse(a)
    except ValueError:
        return False
    return True


def broken_steps(chain: Chain, world: Hashes) -> list[int]:
    """The steps whose expression does not have the value of the one before it."""
    shown = [(i, step.shown) for i, step in enumerate(chain.steps) if not names_a_layer(step.shown)]
    values = [(i, evaluate(word, world)) for i, word in shown]
    return [i for (_, a), (i, b) in pairwise(values) if a.shape != b.shape or (a != b).any()]


def names_a_layer(word: Word) -> bool:
    letters = [letter for letters, _ in word.terms for letter in letters]
    return len(letters) == 1 and letters[0].name in LAYERS
