"""Random words, and words with numbers for letters: the meaning that every rewriting of a word must keep."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from qkvtheory.lanes.field import Residue
from qkvtheory.lanes.worlds import hashed
from qkvtheory.linalg import gauss_jordan, identity, right_inverse
from qkvtheory.words import Letter, Word, ones_letter, opaque, symbol

SIZES = {"1": 1, "n": 3, "d": 2, "p": 3, "q": 2}
ONE = np.array([Residue(1)], dtype=object)


def evaluate(word: Word, sizes: dict[str, int] = SIZES) -> np.ndarray:
    """The word at a random point of a prime field; unknown functions are hashes of their arguments."""
    total = np.full((sizes[word.rows], sizes[word.cols]), Residue(0), dtype=object)
    for letters, coefficient in word.terms:
        product = identity(sizes[word.rows], ONE)
        for letter in letters:
            product = product @ value(letter, sizes)
        total = total + product * (Residue(coefficient.numerator) / Residue(coefficient.denominator))
    return total


def value(letter: Letter, sizes: dict[str, int]) -> np.ndarray:
    if letter is ones_letter(letter.rows, letter.cols):
        return np.full((sizes[letter.rows], sizes[letter.cols]), Residue(1), dtype=object)
    base = letter.turned(inverted=False, transposed=False)
    if base.name == "diag":
        return evaluate(base.args[0], sizes) * identity(sizes[base.rows], ONE)
    if "entrywise" in base.facts:
        entries = evaluate(base.args[0], sizes)
        return np.frompyfunc(lambda x: hashed(f"{base.name} {x.value}", 1, 1)[0, 0], 1, 1)(entries)
    key = " ".join([base.name, *(str(x.value) for a in base.args for x in evaluate(a, sizes).ravel())])
    matrix = with_facts(hashed(key, sizes[base.rows], sizes[base.cols]), base.facts)
    if letter.inverted:
        matrix = right_inverse(matrix) if "full row rank" in base.facts else gauss_jordan(matrix)
    return matrix.T if letter.transposed else matrix


def with_facts(matrix: np.ndarray, facts: frozenset[str]) -> np.ndarray:
    """A random matrix changed so that what was declared of the letter holds."""
    one: Any = identity(len(matrix), ONE)
    if "symmetric" in facts:
        matrix = matrix + matrix.T
    if "diagonal" in facts:
        matrix = matrix * one
    if "orthogonal" in facts:  # Cayley: (I - S)(I + S)^-1 for a skew S
        skew = matrix - matrix.T
        matrix = (one - skew) @ gauss_jordan(one + skew)
    if "rows sum to one" in facts:
        matrix = matrix / matrix.sum(axis=1, keepdims=True)
    return matrix


def same(left: Word, right: Word) -> bool:
    return bool((evaluate(left) == evaluate(right)).all())


# -- random words ------------------------------------------------------------------------------------------------------

FACTS = [{}, {"invertible": True}, {"orthogonal": True}, {"symmetric": True}, {"symmetric": True, "invertible": True}]


@st.composite
def letters(draw, rows: str, cols: str) -> Word:
    if rows == cols and draw(st.booleans()):
        index = draw(st.integers(0, len(FACTS) - 1))
        letter = symbol(f"S_{index}", rows, rows, **FACTS[index])
        invertible = {"invertible", "orthogonal"} & set(FACTS[index])
        letter = letter.inverse() if invertible and draw(st.booleans()) else letter
    else:
        letter = symbol(f"M_{rows}{cols}{draw(st.integers(1, 2))}", rows, cols)
    return letter


@st.composite
def expressions(draw, rows: str = "n", cols: str = "d", depth: int = 3) -> Word:
    """A random sum of products of letters, transposes, inverses and unknown functions."""
    kinds = ["letter", "product", "sum", "scaled", "transpose", "function"] if depth else ["letter"]
    kind = draw(st.sampled_from(kinds))
    if kind == "letter":
        return draw(letters(rows, cols))
    if kind == "product":
        middle = draw(st.sampled_from(["n", "d", "p"]))
        return draw(expressions(rows, middle, depth - 1)) @ draw(expressions(middle, cols, depth - 1))
    if kind == "sum":
        return draw(expressions(rows, cols, depth - 1)) + draw(expressions(rows, cols, depth - 1))
    if kind == "scaled":
        return draw(st.integers(-2, 3)) * draw(expressions(rows, cols, depth - 1))
    if kind == "transpose":
        return draw(expressions(cols, rows, depth - 1)).mT
    return opaque("f", cols, rows)(draw(expressions(depth=depth - 1)))
