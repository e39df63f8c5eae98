"""Residues: a field."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qkvtheory.lanes.field import P, Residue

numbers = st.one_of(st.integers(-9, 9), st.integers(0, P - 1)).map(Residue)


@given(numbers, numbers, numbers)
def test_the_laws_of_a_field(a, b, c):
    assert a + b == b + a
    assert a * (b + c) == a * b + a * c
    assert (a + b) + c == a + (b + c)
    assert (a * b) * c == a * (b * c)
    assert a - b + b == a
    assert a + -a == 0
    if b != 0:
        assert a / b * b == a
        assert 1 / b * b == 1


@given(st.integers(), numbers)
def test_integers_mix_in(k, a):
    assert a + k == k + a == Residue(k) + a
    assert a * k == k * a == Residue(k) * a
    assert k - a == -(a - k)
    assert Residue(k) == k


def test_a_residue_has_no_hash():
    """It equals numbers of different hashes, so in a set or as a key it would be lost."""
    assert Residue(P - 1) == -1 != P - 1 == Residue(-1)
    with pytest.raises(TypeError, match="unhashable"):
        hash(Residue(1))


@given(st.fractions(max_denominator=99), numbers)
def test_fractions_mix_in_as_what_they_are(q, a):
    """A fraction is not cut to a whole number: q times its denominator is its numerator."""
    assert (a * q) * q.denominator == a * q.numerator
    assert a + q - q == a
    assert (a * 0 + q) * q.denominator == q.numerator


def test_a_float_is_refused():
    with pytest.raises(TypeError, match="float, which has no residue"):
        Residue(1) * 0.5


def test_zero_has_no_inverse_and_other_things_are_not_numbers():
    for divide in (
        lambda: Residue(1) / Residue(P),
        lambda: Residue(1) / 0,
        lambda: 1 / Residue(0),
        lambda: Residue(1) * Fraction(1, P),
    ):
        with pytest.raises(ZeroDivisionError, match="modulo"):
            divide()
    assert Residue(1) != "1"
    assert Residue(P - 1) == -1
    assert repr(Residue(3)) == "Residue(3)"


def test_p_is_prime_by_lucas_and_lehmer():
    s = 4
    for _ in range(519):
        s = (s * s - 2) % P
    assert s == 0
