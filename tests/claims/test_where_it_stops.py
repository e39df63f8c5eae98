"""Where the eliminations stop: every claim is green in every lane that runs anywhere, and every wrong variant is
rejected.
"""

from __future__ import annotations

import numpy as np
import pytest

from qkvtheory import norms, rotations
from qkvtheory.claims.where_it_stops import norms as claims
from qkvtheory.claims.where_it_stops.layernorm import LAYERNORM_CENTRING, LAYERNORM_FIXES_ONES, solutions
from qkvtheory.claims.where_it_stops.post_norm import commuting
from qkvtheory.claims.where_it_stops.triangles import RMS_BLOCK_TRIANGULAR, RMS_SPD, RMS_TRIANGULAR
from qkvtheory.lanes.check import run_lane
from qkvtheory.norms import RMSNorm
from tests.claims.chapter import test_claim, test_controls, test_mutants  # noqa: F401

CHAPTER = "where-it-stops"


# -- the converse can fail ---------------------------------------------------------------------------------------------


def test_the_probes_find_exactly_the_signed_permutations_among_small_matrices():
    found = [G for G, passes in zip(claims.small_matrices(), claims.answers("passes"), strict=True) if passes]
    assert len(found) == 8
    assert all((abs(G).sum(axis=0) == 1).all() and (abs(G).sum(axis=1) == 1).all() for G in found)


@pytest.mark.parametrize("scale", [
    lambda gram: np.eye(len(gram), dtype=int).astype(object),  # no norm at all: every matrix passes
    lambda gram: norms.rational_scale(0 * gram),  # one that forgets the lengths
])  # fmt: skip
def test_a_norm_that_ignores_lengths_turns_the_theorem_red(scale, monkeypatch):
    monkeypatch.setattr(norms, "rational_scale", scale)
    claims.answers.cache_clear()
    try:
        assert run_lane(claims.RMSNORM_ORTHOGONAL_ONLY, "exact").status == "fail"
    finally:
        claims.answers.cache_clear()


def test_a_wrong_verdict_about_rotations_turns_the_theorem_red(monkeypatch):
    claims.answers.cache_clear()
    monkeypatch.setattr(claims, "rotation", lambda G, multiple=False: True)
    try:
        for lane in ("exact", "numeric"):
            assert run_lane(claims.RMSNORM_ORTHOGONAL_ONLY, lane).status == "fail"
    finally:
        claims.answers.cache_clear()


def test_the_probes_agree_with_many_random_rows(rng):
    """What passes the probes passes on random rows, with the only possible matrix; what does not fails there too."""
    x = rng.normal(size=(200, 3))
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    for eps in (0.0, 0.3):
        norm = RMSNorm(eps=eps)
        for G in (turn, 2 * turn, rng.normal(size=(3, 3)), np.diag([1.0, 1.0, -1.0]), np.diag([1.0, 2.0, 1.0])):
            everywhere = np.abs(norm(x @ G) - norm(x) @ claims.only_matrix(norm, G)).max() < 1e-9
            assert everywhere == claims.passes(norm, G)


# -- damaged constructions ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("claim", "module", "name", "wrong"), [
    (claims.GAIN_FOLDING, norms, "stretched", lambda gain, weight: weight),
    (claims.GAIN_FOLDING, norms, "gainless", lambda norm: norm),
    (LAYERNORM_CENTRING, norms, "write", lambda weight, name: weight),
    (RMS_TRIANGULAR, rotations, "transposed", lambda basis, name: basis),
    (RMS_SPD, rotations, "transposed", lambda basis, name: basis),
    (RMS_BLOCK_TRIANGULAR, rotations, "transposed", lambda basis, name: basis),
    (LAYERNORM_FIXES_ONES, rotations, "transposed", lambda basis, name: basis),
])  # fmt: skip
def test_a_damaged_construction_turns_its_claim_red(claim, module, name, wrong, monkeypatch):
    monkeypatch.setattr(module, name, wrong)
    for lane in ("symbolic", "exact", "numeric"):
        assert run_lane(claim, lane).status == "fail", lane


def test_a_triangle_that_is_none_is_red(monkeypatch):
    """It keeps the function, of course; but W_Q is not triangular."""
    monkeypatch.setattr(rotations, "to_triangular", lambda network, layers=None, factors=None: network)
    for lane in ("symbolic", "exact", "numeric", "count"):
        assert run_lane(RMS_TRIANGULAR, lane).status == "fail"


# -- counts ------------------------------------------------------------------------------------------------------------


def test_directions_of_groups_of_rotations():
    assert solutions(5, lambda K: 0 * K) == 10
    assert solutions(5, lambda K: K[0]) == 6


def test_some_orthogonal_matrices_make_another_gain_and_some_none():
    kept, moved = commuting("keeps the gain"), commuting("makes another gain")
    assert 0 < sum(kept) < sum(moved) < len(moved)
