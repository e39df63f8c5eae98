"""Words from and to SymPy: statements enter and leave as SymPy expressions, the hypotheses come along as assumptions.

SymPy cancels ``A.I * A`` for every ``A``, and inverts a symbol of symbolic shape a x b, because it does not ask whether
an inverse exists. Here an inverse needs ``Q.invertible`` or ``Q.orthogonal`` of the letter. SymPy cancels as soon as a
product is written with ``*``, before anyone can ask; ``MatMul(A.I, A)`` keeps it as written, so that it can be refused.

>>> from sympy import MatMul, MatrixSymbol, Q, symbols
>>> n, d, p = symbols("n d p", integer=True, positive=True)
>>> X, A, W = MatrixSymbol("X", n, d), MatrixSymbol("A", d, d), MatrixSymbol("W", d, p)
>>> X * A * A.I * W                                                       # for every A, even A = 0
X*W
>>> from_sympy(MatMul(X, A, A.I, W), Q.invertible(A))
X W
>>> from_sympy(MatMul(X, A, A.I, W))
Traceback (most recent call last):
    ...
qkvtheory.errors.HypothesisError: hypothesis 'invertible' fails: nothing declares A invertible...

SymPy is imported by this module only, so ``import qkvtheory`` does not wait for it.
Source: the assumptions are those of ``sympy.assumptions``; facts SymPy has no name for are predicates of the same name.
"""

from __future__ import annotations

from fractions import Fraction
from functools import reduce
from operator import add, matmul
from typing import Any

import sympy
from sympy import (
    And,
    Identity,
    Integer,
    MatAdd,
    MatMul,
    MatPow,
    MatrixSymbol,
    OneMatrix,
    Predicate,
    Q,
    Symbol,
    ZeroMatrix,
)
from sympy.assumptions.assume import AppliedPredicate
from sympy.matrices.expressions import Inverse, MatrixExpr, Transpose

from qkvtheory import words
from qkvtheory.errors import HypothesisError
from qkvtheory.words import FACTS, OF_COLUMN, Annihilates, Letter, Word

KNOWN = {
    "invertible": Q.invertible,
    "orthogonal": Q.orthogonal,
    "symmetric": Q.symmetric,
    "diagonal": Q.diagonal,
    "full row rank": Q.fullrank,
}
FACT_OF = {predicate: fact for fact, predicate in KNOWN.items()} | {
    Predicate(f): f for f in (FACTS | OF_COLUMN) - set(KNOWN)
}
ANNIHILATES = Predicate("annihilates")


class Opaque(MatrixExpr):
    """An unknown function of matrices, with a name and a shape: the SymPy face of ``words.opaque``.

    Arguments: name, rows, cols, how many of the matrices stand before the semicolon, and the matrices.

    >>> Opaque(Symbol("g"), Symbol("n"), Symbol("o"), Integer(0), MatrixSymbol("Q", 2, 2)).shape
    (n, o)
    """

    shape = property(lambda self: (self.args[1], self.args[2]))

    def _sympystr(self, printer: Any) -> str:
        return f"{self.args[0]}({', '.join(map(printer._print, self.args[4:]))})"

    def _latex(self, printer: Any) -> str:
        arguments = [printer._print(a) for a in self.args[4:]]
        return words.latex_call(str(self.args[0]), arguments, int(self.args[3]))


class RightInverse(MatrixExpr):
    """R with W R = I, for a letter W assumed of full row rank. SymPy's own inverse is for square matrices only."""

    shape = property(lambda self: self.args[0].shape[::-1])

    def _sympystr(self, printer: Any) -> str:
        return f"{printer._print(self.args[0])}**R"

    def _latex(self, printer: Any) -> str:
        return f"{printer.parenthesize(self.args[0], 1000, strict=True)}^{{R}}"


# -- out ---------------------------------------------------------------------------------------------------------------


def to_sympy(word: Word) -> MatrixExpr:
    """The SymPy expression of a word, product by product as it stands; nothing is evaluated inside a product.

    Sizes become positive integer symbols. What was declared about the letters is in ``assumptions(word)``, so that
    ``from_sympy(to_sympy(word), *assumptions(word)) == word``. Raises ValueError if two different letters share a name,
    which SymPy could not tell apart.

    >>> X, Theta = words.symbol("X", "n", "d"), words.symbol("Theta", "d", "d", invertible=True)
    >>> to_sympy(2 * X @ Theta.inverse() - X)
    -X + 2*X*Theta**(-1)
    """
    named: dict[str, Letter] = {}
    for letter in bases(word):
        if letter.args:
            continue
        if named.setdefault(letter.name, letter) is not letter:
            raise ValueError(f"two different letters are called {letter.name}; SymPy would take them for one")
    return expression(word)


def assumptions(word: Word) -> tuple[Any, ...]:
    """What was declared about the letters of a word, as SymPy assumptions.

    >>> assumptions(words.symbol("R", "d", "d", orthogonal=True))
    (Q.orthogonal(R),)
    """
    declared = {(fact, letter) for letter in bases(word) for fact in letter.facts}
    ordered = sorted(declared, key=lambda pair: (str(pair[1]), str(pair[0])))
    return tuple(assumed(fact, plain(letter)) for fact, letter in ordered)


def assumed(fact: Any, matrix: MatrixExpr) -> Any:
    if isinstance(fact, Annihilates):
        return AppliedPredicate(ANNIHILATES, matrix, factor(fact.of))
    return KNOWN.get(fact, Predicate(fact))(matrix)


def bases(word: Word) -> set[Letter]:
    """The letters of a word without their exponents, and the letters that they annihilate, but no column of ones."""
    found: set[Letter] = set()
    queue = word.letters()
    while queue:
        letter = base(queue.pop())
        if letter in found or letter is words.ones_letter(letter.rows, letter.cols):
            continue
        found.add(letter)
        for fact in letter.facts:
            if isinstance(fact, Annihilates):
                queue |= Word(fact.of.rows, fact.of.cols, [((fact.of,), 1)]).letters()
    return found


def expression(word: Word) -> MatrixExpr:
    terms = [product(factors, coefficient, word.rows) for factors, coefficient in word.sorted_terms()]
    if not terms:
        return ZeroMatrix(size(word.rows), size(word.cols))
    return terms[0] if len(terms) == 1 else MatAdd(*terms).doit(deep=False)


def product(factors: tuple[Letter, ...], coefficient: words.Scalar, rows: str) -> MatrixExpr:
    matrices = [factor(letter) for letter in factors] or [Identity(size(rows))]
    if coefficient != 1:
        matrices = [sympy.Rational(coefficient.numerator, coefficient.denominator), *matrices]
    return matrices[0] if len(matrices) == 1 else MatMul(*matrices)


def factor(letter: Letter) -> MatrixExpr:
    if letter is words.ones_letter(letter.rows, letter.cols):
        return OneMatrix(size(letter.rows), size(letter.cols))
    matrix = plain(base(letter))
    if letter.inverted:
        matrix = RightInverse(matrix) if "full row rank" in letter.facts else Inverse(matrix)
    return Transpose(matrix) if letter.transposed else matrix


def base(letter: Letter) -> Letter:
    """The letter without its exponents."""
    return letter.turned(inverted=False, transposed=False)


def plain(letter: Letter) -> MatrixExpr:
    rows, cols = size(letter.rows), size(letter.cols)
    if not letter.args:
        return MatrixSymbol(letter.name, rows, cols)
    return Opaque(Symbol(letter.name), rows, cols, Integer(letter.inputs), *(expression(a) for a in letter.args))


def size(name: str) -> Any:
    return Integer(name) if name.isdigit() else Symbol(name, integer=True, positive=True)


# -- in ----------------------------------------------------------------------------------------------------------------


def from_sympy(expr: Any, *assumed: Any) -> Word:
    """The word of a SymPy matrix expression, under the assumptions given and no others.

    Reads MatrixSymbol, Identity, ZeroMatrix, OneMatrix, sums, products, whole powers, transposes, inverses, and what
    ``to_sympy`` writes; scalars must be rational numbers. ``assumed``: Q.invertible, Q.orthogonal, Q.symmetric,
    Q.diagonal and Q.fullrank (read as: has a ``RightInverse``) of letters, alone or joined by ``&``.

    Raises HypothesisError for the inverse of a letter not assumed invertible ("invertible"), for an inverse or a power
    of a matrix that is not square ("square"), and for shapes that do not fit; ValueError for anything it cannot read,
    and for a letter called "ones", which could be taken for ``OneMatrix``.

    >>> R = MatrixSymbol("R", Symbol("d"), Symbol("d"))
    >>> from_sympy(R.T * R), from_sympy(R.T * R, Q.orthogonal(R))
    (R^T R, I)
    """
    return Reader(assumed).read(expr)


class Reader:
    """Reads SymPy expressions under a fixed set of assumptions."""

    def __init__(self, assumed: tuple[Any, ...]):
        self.facts: dict[Any, set[Any]] = {}
        self.annihilated: dict[Any, list[MatrixExpr]] = {}  # read with their letter, when every assumption is known
        for single in (part for a in assumed for part in And.make_args(a)):
            places = 2 if getattr(single, "function", None) == ANNIHILATES else 1
            if not isinstance(single, AppliedPredicate) or len(single.arguments) != places:
                raise ValueError(f"an assumption is something like Q.invertible(A), not {single}")
            letter, *of = single.arguments
            if not isinstance(letter, MatrixSymbol | Opaque):
                raise ValueError(f"assumptions are about letters, but {single} is about {letter}")
            if of:
                self.annihilated.setdefault(letter, []).extend(of)
            else:
                self.facts.setdefault(letter, set()).add(fact_named(single.function))

    def read(self, expr: Any) -> Word:
        for kind, reader in self.readers.items():
            if isinstance(expr, kind):
                return reader(self, expr)
        raise ValueError(f"cannot read {expr} ({type(expr).__name__}) as a sum of products of matrices")

    def letter(self, expr: Any) -> Word:
        rows, cols = shape(expr)
        killed = {Annihilates(words.single_letter(self.read(of))) for of in self.annihilated.get(expr, ())}
        facts = self.facts.get(expr, set()) | killed
        name, inputs = str(expr.args[0]), 0
        args: tuple[Word, ...] = ()
        if isinstance(expr, Opaque):
            args, inputs = tuple(map(self.read, expr.args[4:])), int(expr.args[3])
        return Word(rows, cols, [((Letter(name, rows, cols, args, facts, inputs=inputs),), 1)])

    def ones(self, expr: Any) -> Word:
        rows, cols = shape(expr)
        if rows == "1" and cols != "1":
            return words.ones(cols).mT
        return words.ones(rows) if cols == "1" else words.ones(rows) @ words.ones(cols).mT

    def product(self, expr: Any) -> Word:
        scalar, matrices = expr.as_coeff_matrices()
        if not scalar.is_Rational:
            raise ValueError(f"the scalar {scalar} in {expr} is not a rational number")
        coefficient = Fraction(int(scalar.p), int(scalar.q))
        return coefficient * reduce(matmul, [self.read(m) for m in matrices])

    def power(self, expr: Any) -> Word:
        body, exponent = square(self.read(expr.base)), expr.exp
        if not exponent.is_Integer:
            raise ValueError(f"the power {exponent} in {expr} is not a whole number")
        factors = [body.inverse() if exponent < 0 else body] * abs(int(exponent))
        return reduce(matmul, factors) if factors else words.identity(body.rows)

    readers = {  # noqa: RUF012  the order matters: an Inverse is also a MatPow, and Identity is no MatrixSymbol
        Identity: lambda self, e: words.identity(shape(e)[0]),
        ZeroMatrix: lambda self, e: words.zero(*shape(e)),
        OneMatrix: ones,
        MatrixSymbol: letter,
        Opaque: letter,
        Transpose: lambda self, e: self.read(e.arg).mT,
        Inverse: lambda self, e: inverted(self.read(e.arg)),
        RightInverse: lambda self, e: self.read(e.args[0]).right_inverse(),
        MatPow: power,
        MatMul: product,
        MatAdd: lambda self, e: reduce(add, [self.read(a) for a in e.args]),
    }


def inverted(word: Word) -> Word:
    return square(word).inverse()


def square(word: Word) -> Word:
    """The word, if it is square: SymPy writes inverses and powers of any matrix of symbolic shape."""
    if word.rows != word.cols:
        raise HypothesisError("square", f"{word} is {word.rows} x {word.cols}: it has neither powers nor an inverse")
    return word


def shape(expr: Any) -> tuple[str, str]:
    rows, cols = map(str, expr.shape)
    return rows, cols


def fact_named(predicate: Any) -> str:
    """The words' name of a SymPy predicate."""
    if predicate not in FACT_OF:
        known = ", ".join(map(str, FACT_OF))
        raise ValueError(f"nothing here uses the assumption {predicate}; expected one of {known}")
    return FACT_OF[predicate]
