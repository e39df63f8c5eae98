"""Chapter 10: every claim is green in every lane that runs anywhere, and every wrong variant is rejected."""

from __future__ import annotations

import numpy as np
import pytest

from qkvtheory import symmetric
from qkvtheory.claims.queries_equal_keys import CLAIMS
from qkvtheory.lanes.check import run_lane
from tests.claims.chapter import (  # noqa: F401
    test_a_statement_with_a_control_in_its_place_is_red,
    test_claim,
    test_controls,
    test_mutants,
)

CHAPTER = "queries-equal-keys"
BY_ID = {claim.id: claim for claim in CLAIMS}


def scaled(function, factor=2):
    return lambda *args: factor * function(*args)


def mirrored(partner, length, original=symmetric.two_head_keys):
    return original(partner, length)[::-1]


DAMAGE = (  # a function of the package, a wrong one in its place, and a claim that must notice in a lane
    ("law_of_row_sums", lambda weights: weights[0] / weights[0].sum(), "detailed-balance", "exact"),
    ("stationary_law", lambda a: a[0], "two-tokens-reversible", "exact"),
    ("reversing_law", lambda a: a[:, 0] / a[0] / (a[:, 0] / a[0]).sum(), "kolmogorov-converse", "exact"),
    ("is_reversible", lambda a: True, "kolmogorov-converse", "exact"),
    ("is_reversible", lambda a: False, "two-tokens-reversible", "numeric"),
    ("balance_defect", lambda a, law=None: 0.0, "causal-not-reversible", "numeric"),
    ("cycle_defect", lambda a: a.max() * 0, "general-not-reversible", "exact"),
    ("pair_sums", lambda a: 2 * (a + a.T), "pair-bound", "numeric"),
    ("spectrum", lambda a: -np.linalg.eigvals(a), "spectrum-unit-interval", "numeric"),
    ("keys_for_map", scaled(symmetric.keys_for_map), "qk-pattern-characterisation", "numeric"),
    ("keys_for_causal_map", scaled(symmetric.keys_for_causal_map), "causal-qk-universal", "numeric"),
    ("causal_gram", scaled(symmetric.causal_gram), "causal-qk-universal", "exact"),
    ("causal_gram", lambda logs: logs + logs.T, "causal-norm-growth", "exact"),
    ("two_head_keys", mirrored, "reverse-swap-consequence", "exact"),
)


@pytest.mark.parametrize(("name", "wrong", "id", "lane"), DAMAGE, ids=[f"{name}-{id}" for name, _, id, _ in DAMAGE])
def test_a_damaged_function_of_the_package_turns_its_claims_red(name, wrong, id, lane, monkeypatch):
    """The claims check the functions that users call, not copies of them."""
    assert run_lane(BY_ID[id], lane).status == "pass"
    monkeypatch.setattr(symmetric, name, wrong)
    assert run_lane(BY_ID[id], lane).status == "fail"
