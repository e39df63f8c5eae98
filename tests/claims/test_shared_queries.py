"""Chapter 7: every claim is green in every lane that runs anywhere, and every wrong variant is rejected."""

from __future__ import annotations

import pytest

from qkvtheory import stacks
from qkvtheory.claims.shared_queries import LOOPED_BLOCK, SHARED_WQ, loops, sharing
from qkvtheory.lanes.check import run_lane
from qkvtheory.lanes.settings import FLOAT
from qkvtheory.lanes.worlds import Floats, Words
from tests.claims.chapter import test_claim, test_controls, test_mutants  # noqa: F401

CHAPTER = "shared-queries"


def test_three_layers_in_words():
    pairs = sharing.without_queries(Words(), sharing.one_query(Words(), 3, biases=False))
    assert len(pairs) == 4
    assert pairs[0][0].value == pairs[0][1].value
    assert all(left == right for left, right in pairs[1:])


def first_layer_only(network):
    return stacks.replace(network, blocks=[stacks.with_identity(network.blocks[0], "W_Q"), *network.blocks[1:]])


@pytest.mark.parametrize("wrong", [lambda network: network, first_layer_only])
def test_a_wrong_elimination_turns_the_theorem_red(wrong, monkeypatch):
    monkeypatch.setattr(stacks, "eliminate_queries", wrong)
    for lane in ("symbolic", "exact", "numeric"):
        assert run_lane(SHARED_WQ, lane).status == "fail"


@pytest.mark.parametrize("lane", ["exact", "numeric"])
def test_blocks_that_come_apart_are_noticed(lane, monkeypatch):
    def apart(network):
        new = some(network)
        return stacks.replace(new, blocks=[stacks.replace(block) for block in new.blocks])

    some = stacks.eliminate_queries
    monkeypatch.setattr(stacks, "eliminate_queries", apart)
    result = run_lane(SHARED_WQ, lane)
    assert result.status == "fail"
    assert "came apart" in result.reason


def test_many_loops_are_run_and_stay_of_order_one():
    w = Floats(next(s for s in FLOAT if s.name == loops.DEPTHS))
    *_, (_, last) = LOOPED_BLOCK.sides_in("numeric")(w)
    assert len(last.layer.blocks) == loops.LOOPS
    assert 0.1 < abs(last.layer.stream(*last.inputs)).max() < 100
