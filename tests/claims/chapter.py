"""What is tested of every claim of a chapter. A file that imports these tests says in CHAPTER which chapter."""

from __future__ import annotations

from qkvtheory.lanes.check import COUNTED
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
