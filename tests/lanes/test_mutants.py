"""Mutants: generated from the source, enough of them, each really different, and gone afterwards."""

from __future__ import annotations

import numpy as np
import pytest

from qkvtheory import gauge
from qkvtheory.claims.register import register
from qkvtheory.lanes.check import CRASHED, KILLED, SAME, fate, observed, world_for_mutants
from qkvtheory.lanes.mutants import mutants, planted

AT_LEAST = {
    "reads": 4, "change_basis": 8, "reparametrize": 8, "reparametrize_cross": 1, "rebase": 8, "merge_single_head": 8,
    "carried": 4, "moved": 8, "moved_mlp": 4, "carry": 4, "align_heads": 4, "conjugate": 1, "remove_learned_skips": 3,
}  # fmt: skip


@pytest.mark.parametrize(("name", "least"), AT_LEAST.items(), ids=AT_LEAST)
def test_enough_mutants_are_made(name, least):
    made = list(mutants(name))
    assert len(made) >= least
    assert all(m.construction == name and m.damage for m in made)


def test_what_a_person_would_get_wrong_is_among_them():
    damages = " | ".join(str(m) for name in AT_LEAST for m in mutants(name))
    for damage in (
        "in the other order",
        "without its inverse",
        "left as it was",
        "swapped",
        "twice",
        "only the left factor",
        "not transposed",
        "the other branch",
        "in the other order",
        "without the basis",
        "turned around",
        "W_V for W_K",
        "the other end of bases",
        "one further",
        "not reversed",
        "without the memory",
    ):
        assert damage in damages
    assert "leave for enter" in damages


def test_a_comparison_is_turned_around():
    """One that decides where a basis goes, so that the mutant is another construction."""
    (mutant,) = [m for m in mutants("carried") if "basis is None turned around" in m.damage]
    assert mutant.function(2, 3) == 2 and gauge.carried(np.eye(2), 2 * np.eye(2))[0, 0] == 2
    damages = {m.damage for m in mutants("chosen_bases")}
    assert {"2 * layer in group turned around (line 5)"} <= damages


def test_a_mutant_is_planted_and_taken_out_again():
    original, mutant = gauge.reads, mutants("reads")[0]
    with planted(mutant):
        assert gauge.reads is mutant.function
    assert gauge.reads is original
    with pytest.raises(RuntimeError), planted(mutant):
        raise RuntimeError
    assert gauge.reads is original


CLAIMS = [c for c in register().values() if c.constructions]


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda c: c.id)
def test_one_mutant_at_a_time_is_noticed_in_every_lane(claim):
    """The same loop as the check's, seen from outside: not one survives, and each construction is really used."""
    killed = set()
    for lane in sorted(set(claim.lanes) & {"symbolic", "exact", "numeric"}):
        new_world = world_for_mutants(claim, lane)
        before = observed(claim, lane, new_world())
        fates = {m: fate(claim, m, lane, before, new_world) for name in claim.constructions for m in mutants(name)}
        assert {str(m) for m, what in fates.items() if what not in (KILLED, CRASHED, SAME)} == set()
        killed |= {m.construction for m, what in fates.items() if what in (KILLED, CRASHED)}
    assert killed == set(claim.constructions), f"{claim.id} names constructions it does not depend on"
