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

# Names for what running a layer gave: a definition, not a function of its own.
LAYERS = {"MHA", "MLP", "block", "dD", "network"}
HALF = Residue(1) / Residue(2)


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
    """A function at its arguments: those with laws by name, any other as a hash."""
    arguments = [evaluate(a, world) for a in letter.args]
    laws: dict[str, Any] = {"softmax": world.softmax, "exp": world.exp, "diag": world.diagonal}
    # activations with a law of their own: a linear odd part, that and degree one, degrees two and three
    laws |= {"phi_c": lambda z: world.kernel(z) + world.kernel(-z) + z * HALF, "phi_+": lambda z: z * HALF}
    laws |= {"rho_2": lambda z: z * z, "rho_3": lambda z: z * z * z}
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
        make = world.fixing_ones if "rows sum to one" in letter.facts else world.orthogonal
        return make(letter.name, rows)
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
