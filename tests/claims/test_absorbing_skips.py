"""Chapter 9: every claim is green in every lane that runs anywhere, and every wrong variant is rejected."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from qkvtheory import absorption, words
from qkvtheory.claims.absorbing_skips import RELU_IFF, SHARP, SIGN_FLIP, SPARE, figures, flips, homogeneous, kinks
from qkvtheory.claims.absorbing_skips.common import Dual, relu
from qkvtheory.lanes.check import run_lane
from qkvtheory.lanes.evaluate import evaluate
from qkvtheory.lanes.settings import EXACT
from qkvtheory.lanes.worlds import Fractions, Hashes
from qkvtheory.network import MLP
from tests.claims.chapter import (  # noqa: F401
    test_a_statement_with_a_control_in_its_place_is_red,
    test_claim,
    test_controls,
    test_mutants,
)

CHAPTER = "absorbing-skips"
LANES = ("exact", "numeric")
FLIP, SEARCH = absorption.flip, absorption.absorbing_set


# -- the theorem can fail in both directions ---------------------------------------------------------------------------


def finds_everything(mlp, M, c=None):
    return SEARCH(mlp, M, c) or (0,)


def finds_nothing(mlp, M, c=None):
    return None


def finds_the_other_sign(mlp, M, c=None):
    return SEARCH(mlp, -M, c)


@pytest.mark.parametrize("wrong", [finds_everything, finds_nothing, finds_the_other_sign])
def test_a_wrong_search_for_the_set_is_red(wrong, monkeypatch):
    monkeypatch.setattr(absorption, "absorbing_set", wrong)
    for lane in LANES:
        assert run_lane(RELU_IFF, lane).status == "fail"


@pytest.mark.parametrize("verdict", [True, False])
def test_a_verdict_that_does_not_depend_on_the_function_is_red(verdict, monkeypatch):
    monkeypatch.setattr(kinks.Kinks, "absorbed", lambda self: verdict)
    kinks.verdicts_of.cache_clear()
    try:
        for lane in LANES:
            assert run_lane(RELU_IFF, lane).status == "fail"
    finally:
        kinks.verdicts_of.cache_clear()


def test_both_verdicts_occur():
    for lane in LANES:
        known = [known for *_, known in kinks.instances(lane)]
        assert sorted(set(known)) == [False, True]
        assert kinks.verdicts_of(lane, relu, 0) == known


def test_the_exact_certificate_is_about_fractions():
    for mlp, M, known in kinks.instances("exact"):
        found = kinks.read(mlp, M)
        assert mlp.W_up.shape == (2, 3)
        assert all(isinstance(x, Fraction) for gap in found.left_over.values() for x in gap.ravel())
        assert len(found.left_over) == 2**3
        smallest = min(abs(gap).max() for gap in found.left_over.values())
        assert (smallest == 0) == known


def test_the_jumps_are_read_from_values_alone():
    mlp, M, _ = kinks.instances("exact")[0]
    found = kinks.read(mlp, M)
    assert (found.writes == mlp.W_down).all()


def test_a_function_with_other_kinks_is_refused():
    mlp, M, _ = kinks.instances("exact")[0]
    other = replace(mlp, act=lambda z: relu(z) ** 2)
    with pytest.raises(ValueError, match="kinks elsewhere"):
        kinks.read(other, M).absorbed()
    with pytest.raises(ValueError, match="collinear"):
        kinks.Kinks(mlp, np.concatenate([mlp.W_up, mlp.W_up], axis=1)).jump(0)


# -- wrong constructions -----------------------------------------------------------------------------------------------


def flipped_without_biases(mlp, units=None, c=None):
    return replace(FLIP(replace(mlp, b_up=None), units, c), b_up=mlp.b_up)


def outputs_flipped_too(mlp, units=None, c=None):
    new = FLIP(mlp, units, c)
    return replace(new, W_down=-1 * new.W_down)


@pytest.mark.parametrize("wrong", [flipped_without_biases, outputs_flipped_too])
def test_a_wrong_flip_is_red(wrong, monkeypatch):
    monkeypatch.setattr(absorption, "flip", wrong)
    for lane in ("symbolic", *LANES):
        assert run_lane(SIGN_FLIP, lane).status == "fail"


def test_units_that_are_never_added_are_red(monkeypatch):
    monkeypatch.setattr(absorption, "side_by_side", lambda mlp, more: mlp)
    for claim in (SPARE, SHARP):
        for lane in ("symbolic", *LANES):
            assert run_lane(claim, lane).status == "fail"


def test_an_elimination_that_changes_nothing_is_red(monkeypatch):
    monkeypatch.setattr(absorption, "eliminate_with_spare_units", lambda network, c=None, sharp=False: network)
    for lane in ("symbolic", *LANES, "count"):
        assert run_lane(SPARE, lane).status == "fail"


# -- pieces ------------------------------------------------------------------------------------------------------------


def test_duals_carry_the_derivative():
    rng = np.random.default_rng(0)
    w = Fractions(next(s for s in EXACT if s.name == "multi-head attention"))
    block = homogeneous.a_gated(w, homogeneous.gate(w), bias=True)
    x, h = rng.integers(-3, 4, (2, w.sizes["d"])) * Fraction(1), Fraction(1, 10**9)
    slope = block(Dual(0 * x, x)).slope
    quotient = (block(h * x) - block(-h * x)) / (2 * h)
    assert abs(slope - quotient).max() < Fraction(1, 10**9)


def test_the_activations_of_the_re_evaluation_have_their_laws_and_no_others():
    world = Hashes(next(s for s in EXACT if s.name == "multi-head attention"))
    x = words.symbol("X", "n", "d")

    def vanishes(word):
        return not (evaluate(word, world) != 0).any()

    odd, degree_one, square = (words.opaque(name) for name in ("phi_c", "phi_+", "rho_2"))
    for phi in (odd, degree_one):
        assert vanishes(phi(x) - phi(-x) - x)
        assert not vanishes(phi(x) + phi(-x)) or phi is degree_one
    assert vanishes(degree_one(2 * x) - 2 * degree_one(x))
    assert not vanishes(odd(2 * x) - 2 * odd(x))
    assert vanishes(square(3 * x) - 9 * square(x))
    assert not vanishes(square(3 * x) - 3 * square(x))


def test_smallest_gaps_are_those_of_the_search():
    """The same number, by the search of the package: the set closest to it is found once the gap is taken off."""
    gaps = flips.smallest_gaps()
    assert len(gaps) == 20
    assert gaps.min() > 0.1
    rng = np.random.default_rng(0)
    U, W = rng.normal(size=(2, 8)) / 2**0.5, rng.normal(size=(8, 2)) / 8**0.5
    best = min(abs(U[:, S] @ W[S] + np.eye(2)).max() for S in ([i for i in range(8) if k >> i & 1] for k in range(256)))
    assert best == pytest.approx(gaps[0])
    assert absorption.absorbing_set(MLP(relu, U, W), np.eye(2)) is None


def test_the_prediction_at_large_width_is_the_published_size():
    assert 0.10 < figures.predicted(256, affine=False) < 0.11
    assert 0.08 < figures.predicted(256, affine=True) < 0.083
    assert figures.degrees(0.095) == pytest.approx(5.45, abs=0.01)
