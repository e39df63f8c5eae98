"""The one dispatched operation: what it computes, what it refuses, when it warns."""

from __future__ import annotations

import warnings
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from qkvtheory import ConditionWarning, HypothesisError, condition, inverse, right_inverse
from qkvtheory.lanes.field import Residue
from qkvtheory.linalg import agree, complete_basis, concat, gauss_jordan, identity, rank


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


# -- what it refuses ---------------------------------------------------------------------------------------------------

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
}


@pytest.mark.parametrize(("bad", "hypothesis"), REFUSED.values(), ids=REFUSED)
def test_inverse_refuses_and_names_the_hypothesis(bad, hypothesis):
    with pytest.raises(HypothesisError) as refusal:
        inverse(bad, "Theta")
    assert refusal.value.hypothesis == hypothesis
    assert f"hypothesis '{hypothesis}' fails: Theta" in str(refusal.value)


RIGHT_REFUSED = {
    "tall": (np.ones((3, 2)), "full row rank"),
    "dependent rows": (np.ones((2, 3)), "invertible"),
    "dependent rows, exact": (np.full((2, 3), Fraction(1), dtype=object), "invertible"),
    "integers": (np.ones((2, 3), dtype=int), "real numbers"),
    "NaN": (np.full((2, 3), np.nan), "finite"),
    "a list": ([[1.0, 2.0]], "matrix"),
    "empty": (np.zeros((0, 3)), "matrix"),
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


@pytest.mark.parametrize("bad", [np.ones((3, 1), dtype=int), np.full((3, 1), np.nan), [[1.0], [2.0]]])
def test_complete_basis_refuses_what_is_not_a_matrix_of_floats(bad):
    with pytest.raises(HypothesisError):
        complete_basis(bad)


@pytest.mark.parametrize("other", [np.eye(2, dtype=np.float32), np.eye(2, dtype=int), np.eye(2).astype(object)])
def test_mixed_kinds_are_refused(other):
    with pytest.raises(HypothesisError, match="A is numpy float64, B is numpy") as refusal:
        agree(A=np.eye(2), B=other)
    assert refusal.value.hypothesis == "one kind of number"
    agree(A=np.eye(2), B=None)


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


def test_the_warning_names_the_line_of_the_caller():
    with pytest.warns(ConditionWarning) as caught:
        inverse(conditioned(1e10))
    assert caught[0].filename == __file__
