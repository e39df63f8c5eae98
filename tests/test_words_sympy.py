"""SymPy in and out: an exact round trip, and what SymPy wrongly accepts is refused."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction

import pytest
import sympy
from hypothesis import given
from sympy import Identity, MatMul, MatPow, MatrixSymbol, OneMatrix, Q, Rational, ZeroMatrix, latex, symbols
from sympy.assumptions.assume import AppliedPredicate
from sympy.matrices.expressions import Inverse, Transpose

from qkvtheory import HypothesisError, words
from qkvtheory.claims.model import value_of
from qkvtheory.claims.register import register
from qkvtheory.lanes.worlds import Words
from qkvtheory.words_sympy import Opaque, RightInverse, assumptions, from_sympy, to_sympy
from tests.evaluate import expressions

n, d, p = symbols("n d p", integer=True, positive=True)
X, A, B, W = MatrixSymbol("X", n, d), MatrixSymbol("A", d, d), MatrixSymbol("B", d, d), MatrixSymbol("W", d, p)


def there_and_back(word: words.Word) -> words.Word:
    return from_sympy(to_sympy(word), *assumptions(word))


@given(expressions())
def test_the_round_trip_of_random_expressions_is_exact(word):
    assert there_and_back(word) == word
    assert there_and_back(word.mT) == word.mT


SYMBOLIC = [claim for claim in register().values() if "symbolic" in claim.lanes]


@pytest.mark.parametrize("claim", SYMBOLIC, ids=lambda c: c.id)
def test_every_statement_of_the_book_survives_the_round_trip(claim):
    for pair in claim.sides_in("symbolic")(Words()):
        for side in map(value_of, pair):
            assert there_and_back(side) == side


def test_special_words_survive():
    theta, one = words.symbol("Theta", "d", "d", invertible=True, formal=True), words.ones("n")
    wide = words.symbol("W", "d", "p", full_row_rank=True)
    right = wide.right_inverse()
    scores = one @ one.mT + words.symbol("S", "n", "n")
    special = [theta @ theta.inverse(), right @ wide, (right @ wide).mT, one @ one.mT, one.mT @ one]
    special += [words.zero("n", "d"), words.identity("d"), Fraction(3, 2) * words.identity("d") - theta.mT]
    special += [words.opaque("g", "o", inputs=1)(theta, theta.inverse()), words.softmax(scores)]
    for word in special:
        assert there_and_back(word) == word


def test_what_annihilates_a_letter_survives():
    """Not only by the letter's text: a letter called P^T is not the transpose of P."""
    P = words.symbol("P", "s", "d", full_row_rank=True)
    for of in (P, P.mT, P.right_inverse(), words.symbol("P^T", "d", "s"), words.opaque("f", "q")(P)):
        Z = words.annihilator("Z", "n", of)
        assert there_and_back(Z) == Z
        assert there_and_back(words.annihilator("Y", "m", Z)) @ Z == words.zero("m", Z.cols)
        assert from_sympy(to_sympy(Z), *assumptions(Z)) @ of == words.zero("n", of.cols)
        assert from_sympy(to_sympy(Z)) @ of != words.zero("n", of.cols)
    assert there_and_back(words.annihilator("Z", "n", P.mT)) @ words.symbol("P^T", "d", "s") != words.zero("n", "s")


def test_an_annihilated_letter_counts_among_the_letters_of_one_name():
    Z = words.annihilator("Z", "n", words.symbol("P", "s", "d", full_row_rank=True))
    with pytest.raises(ValueError, match="two different letters are called P"):
        to_sympy(Z @ words.symbol("P", "s", "d"))


def test_diagonal_letters():
    w = words.symbol("w", "d", "1")
    D = from_sympy(A, Q.diagonal(A))
    assert D.mT == D
    assert words.diagonal(D @ w) == D @ words.diagonal(w)
    with pytest.raises(HypothesisError, match="cannot be diagonal") as refusal:
        from_sympy(X, Q.diagonal(X))
    assert refusal.value.hypothesis == "square"


READ = {
    "a product": (X * A * W, "X A W"),
    "a sum": (X * A - 2 * X, "-2 X + X A"),
    "a fraction": (Rational(1, 2) * A, "1/2 A"),
    "a transpose": ((X * A).T, "A^T X^T"),
    "a power": (A**3, "A A A"),
    "power zero, kept": (MatPow(A, 0), "I"),
    "identity": (Identity(d) * A, "A"),
    "zero": (ZeroMatrix(n, d), "0"),
    "ones": (OneMatrix(n, p), "1 1^T"),
    "a row of ones": (OneMatrix(1, n), "1^T"),
}


@pytest.mark.parametrize(("expr", "text"), READ.values(), ids=READ)
def test_reading(expr, text):
    assert str(from_sympy(expr)) == text


def test_assumptions_cancel_what_they_allow_and_no_more():
    kept = MatMul(X, A, A.I, W)
    assert from_sympy(kept, Q.invertible(A)) == from_sympy(X * W)
    assert from_sympy(A.T * A, Q.orthogonal(A)) == words.identity("d")
    assert from_sympy(A.T - A, Q.symmetric(A)) == words.zero("d", "d")
    both = Q.invertible(A) & Q.invertible(B)
    assert from_sympy(MatMul(A.I, B.I), both) == from_sympy(Inverse(B * A), Q.invertible(A), Q.invertible(B))
    assert from_sympy(A.T * A) != words.identity("d")
    assert from_sympy(MatPow(A, -2), Q.invertible(A)) @ from_sympy(A**2, Q.invertible(A)) == words.identity("d")
    assert from_sympy(MatMul(W, RightInverse(W)), Q.fullrank(W)) == words.identity("d")


def test_an_unknown_function_may_be_assumed_invertible():
    f = to_sympy(words.opaque("f")(words.symbol("B", "d", "d")))
    assert from_sympy(MatMul(Inverse(f), f), Q.invertible(f)) == words.identity("d")
    with pytest.raises(HypothesisError):
        from_sympy(MatMul(Inverse(f), f))


# -- what SymPy accepts ------------------------------------------------------------------------------------------------


def test_sympy_cancels_an_inverse_that_may_not_exist_and_we_refuse():
    assert A * A.I * X.T == X.T, "SymPy has changed: say so in the book"
    with pytest.raises(HypothesisError) as refusal:
        from_sympy(MatMul(A, A.I, X.T))
    assert refusal.value.hypothesis == "invertible"
    with pytest.raises(HypothesisError):
        from_sympy(MatMul(A, A.I, X.T), Q.invertible(B))


def test_sympy_inverts_a_rectangle_and_we_refuse():
    assert X.I.shape == (n, d), "SymPy has changed: say so in the book"
    for expr in (X.I, Inverse(X), MatPow(X, -1), MatPow(X, 2), MatPow(X, 0)):
        with pytest.raises(HypothesisError) as refusal:
            from_sympy(expr)
        assert refusal.value.hypothesis == "square"
    for predicate in (Q.invertible, Q.orthogonal, Q.symmetric):
        with pytest.raises(HypothesisError) as refusal:
            from_sympy(X, predicate(X))
        assert refusal.value.hypothesis == "square"


REFUSED = {
    "a sum's inverse": (lambda: from_sympy(Inverse(A + B), Q.invertible(A), Q.invertible(B)), "invertible"),
    "a right inverse nobody assumed": (lambda: from_sympy(RightInverse(W)), "full row rank"),
    "a symbolic scalar": (lambda: from_sympy(d * A), "not a rational number"),
    "a float": (lambda: from_sympy(0.5 * A), "not a rational number"),
    "a symbolic power": (lambda: from_sympy(A**d), "not a whole number"),
    "a fractional power": (lambda: from_sympy(A ** Rational(1, 2)), "not a whole number"),
    "a trace": (lambda: from_sympy(sympy.Trace(A)), "cannot read"),
    "a Hadamard product": (lambda: from_sympy(sympy.HadamardProduct(A, B)), "cannot read"),
    "a number": (lambda: from_sympy(3), "cannot read"),
    "an assumption about a product": (lambda: from_sympy(A, Q.invertible(A * B)), "about letters"),
    "an unused assumption": (lambda: from_sympy(A, Q.triangular(A)), "triangular"),
    "a negated assumption": (lambda: from_sympy(A, ~Q.invertible(A)), "an assumption is something like"),
    "no assumption": (lambda: from_sympy(A, True), "an assumption is something like"),
    "a letter called ones": (lambda: from_sympy(MatrixSymbol("ones", n, 1)), "'ones' is the column of ones"),
    "a function called ones": (
        lambda: from_sympy(Opaque(sympy.Symbol("ones"), n, sympy.Integer(1), sympy.Integer(0))),
        "'ones' is the column of ones",
    ),
    "an annihilated product": (
        lambda: from_sympy(X, AppliedPredicate(sympy.Predicate("annihilates"), X, A * W)),
        "only a single letter",
    ),
    "an annihilator of nothing": (
        lambda: from_sympy(X, sympy.Predicate("annihilates")(X)),
        "an assumption is something",
    ),
    "two letters of one name": (
        lambda: to_sympy(words.symbol("A", "d", "d") + words.symbol("A", "d", "d", invertible=True)),
        "two different letters are called A",
    ),
}


@pytest.mark.parametrize(("act", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_read_is_refused(act, message):
    with pytest.raises(ValueError, match=message):
        act()


# -- printing and import -----------------------------------------------------------------------------------------------


def test_latex_of_unknown_functions():
    g = to_sympy(words.opaque("g", "o", inputs=1)(words.symbol("X", "n", "d"), words.symbol("W_Q", "d", "d")))
    assert isinstance(g, Opaque)
    assert latex(g) == r"g(X;\, W_{Q})"
    assert str(g) == "g(X, W_Q)"
    assert latex(RightInverse(W)) == "W^{R}"
    assert latex(Transpose(RightInverse(W))) == r"\left(W^{R}\right)^{T}"


def test_explicit_matrices_can_be_put_in():
    """A statement that left as SymPy can be evaluated there, with matrices of numbers."""
    theta = words.symbol("Theta", "d", "d", invertible=True)
    expr = to_sympy(2 * words.symbol("X", "n", "d") @ theta.inverse())
    small = expr.subs({n: 1, d: 2})
    x, t = MatrixSymbol("X", 1, 2), MatrixSymbol("Theta", 2, 2)
    put = {x: sympy.ImmutableMatrix([[1, 2]]), t: sympy.ImmutableMatrix([[2, 0], [0, 4]])}
    assert small.subs(put).doit() == sympy.Matrix([[1, 1]])


def test_importing_the_package_does_not_import_sympy():
    code = "import sys, qkvtheory, qkvtheory.words, qkvtheory.chains, qkvtheory.gauge; sys.exit('sympy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
