"""The one dispatched operation: what it computes, what it refuses, when it warns."""

from __future__ import annotations

import warnings
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from qkvtheory import ConditionWarning, HypothesisError, condition, inverse, right_inverse
from qkvtheory.lanes.field import Residue
from qkvtheory.linalg import agree, complete_basis, concat, gauss_jordan, identity, rank
from qkvtheory.words import symbol

EPS = np.finfo(np.float64).eps


def conditioned(cond: float, d: int = 6, seed: int = 0) -> np.ndarray:
    """A d x d matrix with cond_2 as given."""
    u, _, v = np.linalg.svd(np.random.default_rng(seed).normal(size=(d, d)))
    return (u * np.logspace(0, -np.log10(cond), d)) @ v


@st.composite
def exact_matrices(draw, wide=False):
    rows = draw(st.integers(1, 4))
    cols = rows + (draw(st.integers(1, 3)) if wide else 0)
    number = draw(st.sampled_from([Fraction, Residue]))
    values = draw(st.lists(st.integers(-9, 9), min_size=rows * cols, max_size=rows * cols))
    return np.array([number(x) for x in values], dtype=object).reshape(rows, cols)


# -- what it computes --------------------------------------------------------------------------------------------------


@given(exact_matrices())
def test_the_inverse_over_a_field_is_exact(a):
    assume(rank(a) == len(a))
    one = identity(len(a), a)
    assert (a @ inverse(a) == one).all()
    assert (inverse(a) @ a == one).all()


@given(exact_matrices(), st.integers(-2, 2))
def test_a_singular_matrix_over_a_field_is_refused(a, multiple):
    a[-1] = multiple * a[0] if len(a) > 1 else a[0] * 0
    with pytest.raises(HypothesisError, match="singular") as refusal:
        inverse(a)
    assert refusal.value.hypothesis == "invertible"


@given(exact_matrices(wide=True))
def test_the_right_inverse_of_fractions_is_exact(a):
    assume(isinstance(a.flat[0], Fraction) and rank(a) == len(a))
    assert (a @ right_inverse(a) == identity(len(a), a)).all()


@given(st.integers(1, 8), st.floats(0, 6), st.integers(0, 9))
def test_the_inverse_of_floats(d, digits, seed):
    a = conditioned(10**digits, d, seed)
    gap = np.abs(a @ inverse(a) - np.eye(d)).max()
    assert gap <= 64 * d * np.finfo(float).eps * condition(a)


def test_float32_is_inverted_in_float64_and_rounded_once():
    a = conditioned(1e3).astype(np.float32)
    expected = np.linalg.inv(a.astype(np.float64)).astype(np.float32)
    assert inverse(a).dtype == np.float32
    assert (inverse(a) == expected).all()
    wide = a[:4]
    expected = np.linalg.pinv(wide.astype(np.float64)).astype(np.float32)
    assert (right_inverse(wide) == expected).all()
    assert (np.linalg.pinv(wide) != expected).any(), "float32 arithmetic would differ, so the test can tell"


def test_half_precision_keeps_its_dtype():
    assert inverse(np.eye(2, dtype=np.float16) * 2).tolist() == [[0.5, 0], [0, 0.5]]
    assert inverse(np.eye(2, dtype=np.float16)).dtype == np.float16


def test_strides_do_not_matter():
    a = conditioned(10.0)[::-1, ::2][:3]
    assert (inverse(a) == inverse(a.copy())).all()


def test_the_input_is_left_alone():
    for a in (conditioned(10.0), np.array([[Fraction(0), Fraction(1)], [Fraction(1), Fraction(2)]], dtype=object)):
        before = a.copy()
        inverse(a)
        assert (a == before).all()


def test_right_inverse_of_floats(rng):
    a = rng.normal(size=(3, 5))
    np.testing.assert_allclose(a @ right_inverse(a), np.eye(3), atol=1e-13)
    np.testing.assert_allclose(right_inverse(a), np.linalg.pinv(a))
    assert (right_inverse(a[:, :3]) == inverse(a[:, :3])).all()


def test_condition():
    assert condition(np.diag([1.0, 1e-3])) == 1000
    assert condition(np.ones((2, 2))) == np.inf
    a = conditioned(1e4)
    assert condition(a) == pytest.approx(np.linalg.cond(a, 1))


@pytest.mark.parametrize("like", [np.zeros((1, 1), dtype=np.float32), np.array([[Fraction(1)]], dtype=object)])
def test_identity_is_of_the_same_kind(like):
    one = identity(3, like)
    assert one.dtype == like.dtype
    assert type(one[0, 0]) is type(like[0, 0])
    assert (one == np.eye(3)).all()


def test_rank_and_concat():
    a = np.array([[Fraction(x) for x in row] for row in ((1, 2, 3), (2, 4, 6), (0, 1, 1))], dtype=object)
    assert rank(a) == 2
    assert rank(a[:1]) == 1
    assert rank(a * 0) == 0
    assert concat([a, a]).shape == (3, 6)
    assert concat([np.eye(2), np.ones((2, 1))]).tolist() == [[1, 0, 1], [0, 1, 1]]


@pytest.mark.parametrize("exact", [False, True])
def test_complete_basis_keeps_the_columns_and_is_invertible(exact, rng):
    columns = rng.integers(-5, 6, size=(5, 2)).astype(float)
    if exact:
        columns = np.array([[Fraction(int(x)) for x in row] for row in columns], dtype=object)
    basis = complete_basis(columns)
    assert basis.shape == (5, 5)
    assert (basis[:, :2] == columns).all()
    back = gauss_jordan(basis) if exact else inverse(basis)
    np.testing.assert_allclose((back @ basis).astype(float), np.eye(5), atol=1e-12)


def test_complete_basis_of_a_whole_basis(rng):
    a = rng.normal(size=(3, 3))
    assert (complete_basis(a) == a).all()


def test_whole_numbers_become_fractions():
    a = np.array([[2, 1], [1, 1]], dtype=object)
    back = inverse(a)
    assert back.tolist() == [[1, -1], [-1, 2]]
    assert {type(x) for x in back.flat} == {Fraction}
    assert inverse(np.array([[3]], dtype=object)).tolist() == [[Fraction(1, 3)]]
    assert a.tolist() == [[2, 1], [1, 1]]
    wide = np.array([[1, 2, Fraction(1, 2)]], dtype=object)
    assert (wide @ right_inverse(wide)).tolist() == [[1]]
    assert rank(np.array([[3, 1], [9, 3]], dtype=object)) == 1  # in floats 9 - 3 * (9 / 3) need not be 0


@pytest.mark.parametrize("digits", [3, 9, 13, 15])
def test_the_right_inverse_keeps_every_singular_value_it_accepts(digits, rng):
    """pinv has a cut-off of its own, which must not drop what was not refused."""
    u, _, v = np.linalg.svd(rng.normal(size=(8, 512)), full_matrices=False)
    a, cond = (u * np.logspace(0, -digits, 8)) @ v, 10.0**digits
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        back = right_inverse(a)
    assert [w.category for w in caught] == ([ConditionWarning] if digits > 8 else [])
    assert np.abs(a @ back - np.eye(8)).max() <= EPS * cond
    if digits >= 13:  # the control: with the cut-off, one direction is lost
        assert np.abs(a @ np.linalg.pinv(a, rcond=512 * EPS) - np.eye(8)).max() > 0.1


def test_a_small_singular_value_is_kept():
    a = np.array([[1.0, 0, 0], [0, 5e-16, 0]])
    with pytest.warns(ConditionWarning):
        assert (a @ right_inverse(a)).tolist() == [[1, 0], [0, 1]]


# -- what it refuses ---------------------------------------------------------------------------------------------------


class NotAnArray:
    ndim, shape, dtype = 2, (2, 2), np.dtype(float)


def entries(*four: object) -> np.ndarray:
    return np.array(four, dtype=object).reshape(2, 2)


REFUSED = {
    "singular": (np.ones((3, 3)), "invertible"),
    "zero": (np.zeros((2, 2)), "invertible"),
    "singular to rounding": (conditioned(1e17), "invertible"),
    "not square": (np.ones((2, 3)), "square"),
    "NaN": (np.full((2, 2), np.nan), "finite"),
    "infinity": (np.array([[np.inf, 0.0], [0.0, 1.0]]), "finite"),
    "integers": (np.eye(3, dtype=int), "real numbers"),
    "booleans": (np.eye(3, dtype=bool), "real numbers"),
    "complex": (np.eye(3) * 1j, "real numbers"),
    "a row": (np.ones(3), "matrix"),
    "a stack": (np.ones((2, 3, 3)), "matrix"),
    "a list": ([[1.0, 0.0], [0.0, 1.0]], "matrix"),
    "a number": (2.0, "matrix"),
    "nothing": (None, "matrix"),
    "empty": (np.zeros((0, 0)), "matrix"),
    "empty, exact": (np.zeros((0, 0), dtype=object), "matrix"),
    "a mask that would be ignored": (np.ma.masked_array(np.eye(2), mask=np.eye(2)), "matrix"),
    "np.matrix": (np.eye(2).view(np.matrix), "matrix"),
    "not an array of any library": (NotAnArray(), "matrix"),
    "letters": (np.array([["a", "b"], ["c", "d"]]), "real numbers"),
    "exact: floats": (entries(1e-20, 1.0, 1.0, 1.0), "real numbers"),
    "exact: one float": (entries(Fraction(1), 0, 0, 0.5), "real numbers"),
    "exact: NaN": (entries(Fraction(1), 0, 0, float("nan")), "real numbers"),
    "exact: complex": (entries(1, 0, 0, 1j), "real numbers"),
    "exact: a decimal": (entries(1, 0, 0, Decimal(2)), "real numbers"),
    "exact: a NumPy float": (entries(1, 0, 0, np.float64(2)), "real numbers"),
    "exact: a NumPy integer, which overflows": (entries(1, 0, 0, np.int64(2)), "real numbers"),
    "exact: booleans": (entries(True, False, False, True), "real numbers"),
    "exact: None": (entries(1, 0, 0, None), "real numbers"),
    "exact: fractions and residues": (entries(Fraction(1), 0, 0, Residue(2)), "one kind of number"),
    "overflow of the inverse": (np.eye(2, dtype=np.float16) * np.float16(1e-6), "finite"),
}


@pytest.mark.parametrize(("bad", "hypothesis"), REFUSED.values(), ids=REFUSED)
def test_inverse_refuses_and_names_the_hypothesis(bad, hypothesis):
    with pytest.raises(HypothesisError) as refusal:
        inverse(bad, "Theta")
    assert refusal.value.hypothesis == hypothesis
    assert f"hypothesis '{hypothesis}' fails: " in str(refusal.value)
    assert "Theta" in str(refusal.value)


RIGHT_REFUSED = {
    "tall": (np.ones((3, 2)), "full row rank"),
    "dependent rows": (np.ones((2, 3)), "invertible"),
    "dependent rows, exact": (np.full((2, 3), Fraction(1), dtype=object), "invertible"),
    "integers": (np.ones((2, 3), dtype=int), "real numbers"),
    "NaN": (np.full((2, 3), np.nan), "finite"),
    "a list": ([[1.0, 2.0]], "matrix"),
    "empty": (np.zeros((0, 3)), "matrix"),
    "a mask": (np.ma.masked_array(np.eye(3)[:2]), "matrix"),
    "np.matrix": (np.eye(3)[:2].view(np.matrix), "matrix"),
    "floats in an exact array": (np.eye(3)[:2].astype(object), "real numbers"),
    "overflow": (np.eye(3, dtype=np.float16)[:2] * np.float16(1e-6), "finite"),
    "singular to rounding": (np.diag([1.0, 1e-16, 1.0])[:2], "invertible"),
}


@pytest.mark.parametrize(("bad", "hypothesis"), RIGHT_REFUSED.values(), ids=RIGHT_REFUSED)
def test_right_inverse_refuses(bad, hypothesis):
    with pytest.raises(HypothesisError) as refusal:
        right_inverse(bad)
    assert refusal.value.hypothesis == hypothesis


@pytest.mark.parametrize("bad", [np.ones((2, 3)), np.ones((3, 2)), np.full((3, 2), Fraction(1), dtype=object)])
def test_complete_basis_refuses_dependent_columns(bad):
    with pytest.raises(HypothesisError) as refusal:
        complete_basis(bad)
    assert refusal.value.hypothesis == "independent columns"


@pytest.mark.parametrize(("bad", "hypothesis"), [
    (np.ones((3, 1), dtype=int), "real numbers"), (np.full((3, 1), np.nan), "finite"), ([[1.0], [2.0]], "matrix"),
    (np.ones((3, 1)).astype(object), "real numbers"),
])  # fmt: skip
def test_complete_basis_refuses_what_is_not_a_matrix_of_floats(bad, hypothesis):
    with pytest.raises(HypothesisError) as refusal:
        complete_basis(bad)
    assert refusal.value.hypothesis == hypothesis


CONDITION_REFUSED = {
    "exact": (np.array([[Fraction(2)]], dtype=object), "real numbers"),
    "a word": (symbol("A", "d", "d"), "real numbers"),
    "wide": (np.ones((2, 3)), "square"),
    "NaN": (np.full((2, 2), np.nan), "finite"),
}


@pytest.mark.parametrize(("bad", "hypothesis"), CONDITION_REFUSED.values(), ids=CONDITION_REFUSED)
def test_condition_refuses(bad, hypothesis):
    with pytest.raises(HypothesisError) as refusal:
        condition(bad)
    assert refusal.value.hypothesis == hypothesis


@pytest.mark.parametrize("other", [np.eye(2, dtype=np.float32), np.eye(2, dtype=int), np.eye(2).astype(object)])
def test_mixed_kinds_are_refused(other):
    with pytest.raises(HypothesisError, match="A is numpy float64, B is numpy") as refusal:
        agree(A=np.eye(2), B=other)
    assert refusal.value.hypothesis == "one kind of number"
    agree(A=np.eye(2), B=None)


def test_exact_numbers_of_two_kinds_are_refused_and_whole_numbers_are_fractions():
    fractions, residues = entries(*map(Fraction, range(4))), entries(*map(Residue, range(4)))
    with pytest.raises(HypothesisError, match="A is numpy object, rational, B is numpy object, Residue") as refusal:
        agree(A=fractions, B=residues)
    assert refusal.value.hypothesis == "one kind of number"
    agree(A=fractions, B=entries(1, 2, 3, 4))


# -- when it warns -----------------------------------------------------------------------------------------------------


def test_a_nearly_singular_matrix_warns_with_the_error_to_expect():
    a = conditioned(1e10)
    with pytest.warns(ConditionWarning) as caught:
        back = inverse(a, "Theta")
    message = str(caught[0].message)
    cond = condition(a)
    assert f"Theta is nearly singular: condition number {cond:.1e}" in message
    assert f"relative error of up to about {np.finfo(float).eps * cond:.1e} in float64" in message
    assert np.abs(a @ back - np.eye(6)).max() < 1e-4


def test_the_warning_depends_on_the_precision():
    a = conditioned(1e5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        inverse(a)
    with pytest.warns(ConditionWarning, match="float32"):
        inverse(a.astype(np.float32))
    with pytest.warns(ConditionWarning, match="condition number"):
        right_inverse(np.diag([1.0, 1e-10, 1.0])[:2])


def test_a_refusal_says_how_large_the_condition_number_is():
    with pytest.raises(HypothesisError, match=r"condition number (infinite|\d\.\de\+1[5-9])"):
        inverse(conditioned(1e17))


@pytest.mark.parametrize("call", [inverse, right_inverse, lambda a: right_inverse(a[:, [0, 1, 2, 3, 4, 5, 5]])])
def test_the_warning_names_the_line_of_the_caller(call):
    with pytest.warns(ConditionWarning) as caught:
        call(conditioned(1e10))
    lines = Path(__file__).read_text().splitlines()
    assert [w.filename for w in caught] == [__file__]
    assert "call(" in lines[caught[0].lineno - 1] or "right_inverse(a[" in lines[caught[0].lineno - 1]
