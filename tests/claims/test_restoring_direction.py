"""Chapter 11: every claim is green in every lane that runs anywhere, and every wrong variant is rejected."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qkvtheory import attention, positions, symmetric
from qkvtheory.claims.restoring_direction import CLAIMS
from qkvtheory.lanes.check import run_lane
from qkvtheory.positions import Correction
from tests.claims.chapter import (  # noqa: F401
    test_a_statement_with_a_control_in_its_place_is_red,
    test_claim,
    test_controls,
    test_mutants,
)

CHAPTER = "restoring-direction"
BY_ID = {claim.id: claim for claim in CLAIMS}


def scaled(function, factor=2):
    return lambda *args: factor * function(*args)


def without_temperature(self, scores):
    return scores + self.added


def swapped_parts(self, original=Correction.separable):
    return original(self)[::-1]


def first_rows(self, rows, n):
    return replace(self, table=self.table[:rows, :n])


def four_times_as_wide(table, seed, original=positions.initial_correction):
    return original(table, seed, deviation=0.08)


def correct_before_the_bias(self, q, k, original=attention.Heads.scores):
    plain = original(replace(self, bias=None), q, k)
    return plain if self.bias is None else plain + self.bias


def never_zero(scores, original=symmetric.mean_asymmetry):
    """Right, but for symmetric scores."""
    return max(original(scores), type(scores.flat[0])(1) / 100)


DAMAGE = (  # whose function of the package, its name, a wrong one in its place, and a claim that must notice in a lane
    (Correction, "__call__", without_temperature, "broadcast-conv-form", "exact"),
    (Correction, "__call__", without_temperature, "separable-plus-is-temperature", "numeric"),
    (Correction, "temperature", property(lambda self: self.weights[0]), "broadcast-conv-form", "exact"),
    (Correction, "temperature", property(lambda self: 1), "separable-plus-is-temperature", "exact"),
    (Correction, "temperature", property(lambda self: np.ptp(self.weights)), "init-temperature", "numeric"),
    (Correction, "added", property(lambda self: self.table @ self.weights), "broadcast-conv-form", "numeric"),
    (Correction, "separable", swapped_parts, "separable-plus-is-temperature", "exact"),
    (Correction, "separable", swapped_parts, "separable-rank-two", "exact"),
    (Correction, "separable", swapped_parts, "plus-reversible", "exact"),
    (Correction, "last", first_rows, "broadcast-conv-form", "exact"),
    (attention.Heads, "scores", correct_before_the_bias, "broadcast-conv-form", "numeric"),
    (positions, "separable_channels", positions.relative_channels, "separable-plus-is-temperature", "numeric"),
    (positions, "initial_correction", four_times_as_wide, "init-temperature", "numeric"),
    (
        symmetric,
        "keys_for_involution",
        lambda partner, length: np.ones((len(partner), 2)),
        "negative-temperature-involution",
        "numeric",
    ),
    (symmetric, "pair_sums", lambda a: 2 * (a + a.T), "plus-pair-bound-sign", "numeric"),
    (symmetric, "keys_for_map", scaled(symmetric.keys_for_map), "plus-reversible", "numeric"),
    (symmetric, "is_reversible", lambda a: False, "plus-reversible", "exact"),
    (symmetric, "mean_asymmetry", lambda s: abs(s).sum(), "separable-rank-two", "exact"),
    (symmetric, "mean_asymmetry", never_zero, "separable-rank-two", "exact"),
    (symmetric, "mean_asymmetry", never_zero, "separable-rank-two", "numeric"),
    (symmetric, "is_reversible", lambda a: True, "relative-bias-criterion", "exact"),
    (symmetric, "cycle_affinity", lambda a: float(np.abs(np.log(a)).max()), "asymmetry-measures", "numeric"),
    (symmetric, "entropy_production", lambda a: 1.0, "asymmetry-measures", "numeric"),
    (symmetric, "mean_asymmetry", lambda s: abs(s).sum() * abs(s).sum(), "asymmetry-measures", "exact"),
    (symmetric, "asymmetry", lambda a: float(abs(a).sum()), "asymmetry-measures", "numeric"),
    (symmetric, "centered", lambda scores: scores, "centred-skew-ratio", "exact"),
    (symmetric, "skew_share", scaled(symmetric.skew_share), "centred-skew-ratio", "exact"),
    (symmetric, "weight_symmetry", scaled(symmetric.weight_symmetry), "weight-symmetry-score", "exact"),
    (
        symmetric,
        "directionality",
        lambda W_Q, W_K, deviations: abs(W_Q).sum() - abs(W_K).sum(),
        "asymmetry-measures",
        "numeric",
    ),
)


@pytest.mark.parametrize(
    ("home", "name", "wrong", "id", "lane"), DAMAGE, ids=[f"{name}-{id}-{lane}" for _, name, _, id, lane in DAMAGE]
)
def test_a_damaged_function_of_the_package_turns_its_claims_red(home, name, wrong, id, lane, monkeypatch):
    """The claims check the functions that users call, not copies of them."""
    assert run_lane(BY_ID[id], lane).status == "pass"
    monkeypatch.setattr(home, name, wrong)
    assert run_lane(BY_ID[id], lane).status == "fail"
