"""Worlds: what the letters stand for has the properties that were asked for."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qkvtheory import HypothesisError, condition
from qkvtheory.lanes.evaluate import evaluate
from qkvtheory.lanes.field import P, Residue
from qkvtheory.lanes.settings import EXACT, FLOAT
from qkvtheory.lanes.worlds import Floats, Fractions, Hashes, Residues, Words, hashed, power
from qkvtheory.linalg import gauss_jordan, rank

NUMBERS = [Fractions(EXACT[0]), Hashes(EXACT[0], 3), Floats(FLOAT[0])]
names = pytest.mark.parametrize("world", NUMBERS, ids=lambda w: type(w).__name__)


def close(a, b) -> bool:
    return bool(np.allclose(a.astype(float), b.astype(float))) if a.dtype != object else bool((a == b).all())


@names
def test_the_same_name_is_the_same_matrix(world):
    assert (world.matrix("A", "n", "d") == world.matrix("A", "n", "d")).all()
    assert (world.matrix("A", "n", "d") != world.matrix("B", "n", "d")).any()
    other = type(world)(world.setting, seed=99)
    assert (world.matrix("A", "n", "d") != other.matrix("A", "n", "d")).any()
    assert world.matrix("A", "n", "d").shape == (world.sizes["n"], world.sizes["d"])


@names
def test_invertible_singular_and_annihilator(world):
    d = world.sizes["d"]
    a = world.invertible("A", "d")
    inverse = gauss_jordan(a) if a.dtype == object else np.linalg.inv(a)
    assert close(a @ inverse, world.identity("d"))
    s, back = world.singular("S", "d")
    assert (rank(s) if s.dtype == object else np.linalg.matrix_rank(s)) == d - 1
    assert close(s @ back @ s, s)
    column = world.matrix("P", "d", "s")
    z = world.annihilator("Z", "n", column)
    assert close(z @ column, 0 * z @ column)
    assert (z != 0).any()


@names
def test_orthogonal_matrices_move_every_coordinate(world):
    a = world.orthogonal("O", "d")
    assert close(a @ a.T, world.identity("d"))
    assert not close(a, world.identity("d"))
    assert not close(a @ a, world.identity("d"))


@names
def test_wide_matrices_have_full_row_rank(world):
    a = world.full_row_rank("W", "d", "wide")
    assert a.shape[1] > a.shape[0]
    assert (rank(a) if a.dtype == object else np.linalg.matrix_rank(a)) == len(a)


@names
def test_softmax_rows_sum_to_one_and_ignore_row_constants(world):
    s, r, one = world.integers("S", "n", "n"), world.integers("r", "n", "1"), world.ones("n")
    assert close(world.softmax(s) @ one, one)
    assert close(world.softmax(s + r @ one.T), world.softmax(s))
    assert not close(world.softmax(s + one @ r.T), world.softmax(s))


@names
def test_unknown_functions_are_functions_and_not_linear(world):
    f, a, b = world.function("f"), world.matrix("A", "n", "d"), world.matrix("B", "n", "d")
    assert (f(a) == f(a)).all()
    assert (f(a) != f(b)).any()
    assert not close(f(a + a), f(a) + f(a))
    assert not close(f(a, b), f(b, a))


@pytest.mark.parametrize("setting", FLOAT, ids=lambda s: s.name)
def test_floats_have_the_prescribed_condition_number(setting):
    world = Floats(setting)
    a = world.invertible("Theta", "d")
    assert np.linalg.cond(a) == pytest.approx(setting.cond)
    assert condition(a) < 1e6
    assert world.tolerance == pytest.approx(64 * np.finfo(float).eps * setting.cond)


@given(st.integers(0, 9), st.integers(-9, 9))
def test_comparisons_are_relative_and_exact_where_they_can_be(seed, k):
    exact, floats = Fractions(EXACT[0], seed), Floats(FLOAT[0], seed)
    a, b = exact.matrix("A", "n", "d"), floats.matrix("A", "n", "d")
    assert exact.compare(a, a).equal
    changed = a.copy()
    changed[0, 0] += Fraction(1, 10**30)
    assert not exact.compare(changed, a).equal
    assert exact.compare(changed, a).count == a.size
    assert floats.compare(b * (1 + 1e-15), b).equal
    assert not floats.compare(b * (1 + 1e-9), b).equal
    assert floats.compare(b * 1.5 * 10.0**k, b * 10.0**k).size == pytest.approx(0.5)


def test_a_comparison_with_nan_is_not_equal():
    world = Floats(FLOAT[0])
    a = world.matrix("A", "n", "d")
    assert not world.compare(a * np.nan, a).equal
    assert not world.compare(a, a * np.nan).equal


@names
def test_sides_of_different_shapes_are_refused_not_stretched(world):
    a = world.ones("n")
    for compare in (world.compare, world.at_most):
        for left, right in ((a, a[:1]), (a, a.T), (a[:, 0], a), (a[None], a)):
            with pytest.raises(ValueError, match="different shapes"):
                compare(left, right)
        with pytest.raises(ValueError, match="nothing to compare"):
            compare(a[:0], a[:0])
    assert world.compare(a, a).equal


@pytest.mark.parametrize("world", [*NUMBERS[:2], Residues(EXACT[0])], ids=lambda w: type(w).__name__)
@pytest.mark.parametrize("wrong", [np.nan, 0.5, np.float64(1), 1j, "1"], ids=str)
def test_exact_lanes_compare_exact_numbers_only(world, wrong):
    one = np.array([[world.number(1), 1, np.int64(1), True]], dtype=object)
    assert world.compare(one, one).equal
    assert world.compare(np.ones((1, 4), dtype=int), one).equal
    for place in range(4):
        damaged = one.copy()
        damaged[0, place] = wrong
        for left, right in ((damaged, one), (one, damaged), (damaged, damaged)):
            with pytest.raises(ValueError, match="fractions or residues"):
                world.compare(left, right)
    with pytest.raises(ValueError, match="fractions or residues"):
        world.compare(np.ones((1, 1)), np.ones((1, 1)))


def test_at_most():
    exact, floats = Fractions(EXACT[0]), Floats(FLOAT[0])
    half, one = (np.array([[Fraction(1, 2), Fraction(k, 2)]], dtype=object) for k in (1, 2))
    assert exact.at_most(half, one).equal
    assert not exact.at_most(one, half).equal
    assert exact.at_most(one, half).size == 1.0
    assert floats.at_most(half.astype(float), one.astype(float)).equal
    assert not floats.at_most(one.astype(float), half.astype(float)).equal
    for left, right in ((np.nan, 1.0), (1.0, np.nan), (np.nan, np.nan)):
        assert not floats.at_most(np.array([left]), np.array([right])).equal


def test_hashes():
    assert (hashed("key", 2, 3) == hashed("key", 2, 3)).all()
    assert (hashed("key", 2, 3) != hashed("other", 2, 3)).all()
    assert all(0 <= x.value < P for x in hashed("key", 5, 5).ravel())


def test_powers():
    assert power(Fraction(2), Fraction(-3)) == Fraction(1, 8)
    assert power(Residue(2), Residue(3)) == 8
    assert power(Residue(2), Residue(-3)) * 8 == 1
    with pytest.raises(ValueError, match="whole scores only, not for 1/2"):
        power(Fraction(2), Fraction(1, 2))
    with pytest.raises(ValueError, match="whole scores only"):
        Fractions(EXACT[0]).exp(np.array([[Fraction(7, 3)]], dtype=object))


def test_words_declare_what_they_may():
    assert str(Words().invertible("A", "d").inverse()) == "A^-1"
    with pytest.raises(HypothesisError):
        Words(assume=frozenset()).invertible("A", "d").inverse()
    kept = Words(apply=frozenset()).invertible("A", "d")
    assert kept @ kept.inverse() != Words().identity("d")
    applied = Words(apply=frozenset({"H2"})).invertible("A", "d")
    assert applied @ applied.inverse() == Words().identity("d")
    assert Words().softmax(Words().matrix("S", "n", "n")) @ Words().ones("n") == Words().ones("n")
    bare = Words(apply=frozenset())
    assert bare.softmax(bare.matrix("S", "n", "n"), rows="H1") @ bare.ones("n") != bare.ones("n")


def test_an_orthogonal_letter_is_so_under_its_hypothesis_only():
    o, x = Words().orthogonal("O", "d"), Words().matrix("X", "n", "d")
    assert x @ o @ o.mT == x
    unknown = Words(assume=frozenset()).orthogonal("O", "d")
    assert x @ unknown @ unknown.mT != x
    kept = Words(apply=frozenset()).orthogonal("O", "d")
    assert x @ kept @ kept.mT != x
    value = evaluate(o @ o.mT, Hashes(EXACT[0]))
    assert (value == Hashes(EXACT[0]).identity("d")).all()
