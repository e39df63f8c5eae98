"""Words as Rocq terms: how a matrix expression is written for MathComp."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction

from qkvtheory.words import Letter, Scalar, Word


def rocq(word: Word, names: Mapping[str, str]) -> str:
    """A word as a MathComp term. ``names`` says what each letter is called there; an unknown letter is a KeyError.

    >>> from qkvtheory.words import symbol
    >>> X, W = symbol("X", "n", "d"), symbol("W", "d", "d", invertible=True)
    >>> rocq(X @ W.inverse() + X, {"X": "X", "W": "W_Q a"})
    'X + X *m invmx (W_Q a)'
    """
    text = ""
    for letters, k in sorted(word.terms, key=reading_order):
        product = " *m ".join(factor(letter, names) for letter in letters) or "1%:M"
        text += (" - " if k < 0 else " + ") if text else "- " if k < 0 else ""
        text += scaled(product, k)
    return text or "0"


def reading_order(term: tuple[tuple[Letter, ...], Scalar]) -> tuple[bool, int, int, str]:
    """Inputs before what is computed from them, biases last, oldest first: the order of the definitions."""
    letters, _ = term
    if letters and letters[0].name == "ones":
        return True, 0, -len(letters), str(letters)
    return False, depth(letters), len(letters), str(letters)


def depth(letters: tuple[Letter, ...]) -> int:
    return max((1 + depth(word) for a in letters for x in a.args for word, _ in x.terms), default=0)


def scaled(product: str, k: Scalar) -> str:
    if Fraction(k).denominator != 1:
        raise ValueError(f"the coefficient {k} is not an integer: the proofs hold over any commutative ring")
    return product if abs(k) == 1 else f"({product}) *+ {abs(int(k))}"


def factor(letter: Letter, names: Mapping[str, str]) -> str:
    right = letter.inverted and "full row rank" in letter.facts
    text = names[letter.name + "^R" if right else letter.name]
    text = " ".join([text, *(atom(rocq(argument, names)) for argument in letter.args)])
    if letter.inverted and not right:
        text = f"invmx {atom(text)}"
    return f"{atom(text)}^T" if letter.transposed else text


def atom(text: str) -> str:
    return f"({text})" if " " in text else text


class Term:
    """A matrix that only writes itself down, as a MathComp term: what a forward pass computes, in its own order.

    ``row``: a bias, which is added to every row, as arrays broadcast it.

    >>> x, w, b = Term("X"), Term("W_Q a"), Term("b", row=True)
    >>> print(x @ w + b)
    (X *m (W_Q a)) + (ones *m b)
    """

    def __init__(self, text: str, row: bool = False):
        self.text, self.row = text, row

    def __str__(self) -> str:
        return self.text

    def __matmul__(self, other: Term) -> Term:
        return Term(f"{atom(self.text)} *m {atom(other.text)}")

    def __add__(self, other: Term) -> Term:
        return Term(f"({self.text}) + ({f'ones *m {other.text}' if other.row else other.text})")

    @property
    def mT(self) -> Term:
        return Term(f"{atom(self.text)}^T")

    @staticmethod
    def function(name: str) -> Callable[..., Term]:
        """An unknown function, by its name."""
        return lambda *inputs: Term(" ".join([name, *(f"({x})" for x in inputs)]))
