"""What is tested of every claim of a chapter. A file that imports these tests says in CHAPTER which chapter."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qkvtheory.lanes.check import COUNTED, run_lane
from tests.claims.conftest import LANES


def test_claim(checked):
    assert not checked.red, checked.reasons
    assert set(checked.lanes) == set(checked.claim.lanes) & set(LANES)
    for name, result in checked.lanes.items():
        assert result.status == "pass", (name, result.reason)
        assert result.comparisons > 0
        assert result.worst <= result.tolerance
        assert result.tolerance <= 1e-6


def test_controls(checked):
    assert len(checked.controls) == len(checked.claim.controls)
    for control in checked.controls:
        assert control.status == "rejected", control
        assert set(control.lanes.values()) == {"rejected"}


def test_mutants(checked):
    for name in set(checked.lanes) - set(COUNTED):
        mutants = checked.lanes[name].mutants
        assert mutants["survived"] == 0
        assert mutants["killed"] >= bool(checked.claim.constructions), (name, mutants)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # outside their settings controls may overflow
def test_a_statement_with_a_control_in_its_place_is_red(checked):
    claim = checked.claim
    for control in claim.controls:
        if control.refused or control.sides is None:
            continue
        for lane in set(control.lanes) & {"exact", "numeric"} & set(claim.lanes):
            settings = control.settings or claim.settings
            wrong = replace(claim, sides=control.sides, special={}, also=None, constructions=(), settings=settings)
            assert run_lane(wrong, lane).status == "fail", (control.what, lane)
