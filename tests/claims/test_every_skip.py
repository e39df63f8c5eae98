"""Chapter 6: every claim is green in every lane that runs anywhere, and every wrong variant is rejected."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qkvtheory import stacks
from qkvtheory.claims.every_skip import LEARNED_SKIP_REMOVAL, ONE_LAYER_FREE, conjugation, gain
from qkvtheory.lanes.check import run_control, run_lane
from qkvtheory.lanes.settings import FLOAT
from qkvtheory.lanes.worlds import Floats, Words
from tests.claims.chapter import test_claim, test_controls, test_mutants  # noqa: F401

CHAPTER = "every-skip"


@pytest.mark.parametrize("chosen", range(3))
def test_three_layers_in_words(chosen):
    (new, old), _ = conjugation.freed(Words(), 3, chosen)
    assert new.value == old.value


def readout_forgotten(network, theta, memory=None):
    return stacks.replace(CONJUGATE(network, theta, memory), readout=network.readout)


def positions_forgotten(network, theta, memory=None):
    return stacks.replace(CONJUGATE(network, theta, memory), positions=network.positions)


def last_state_forgotten(network, theta, memory=None):
    return stacks.carry(network, [*[theta] * (2 * len(network.blocks)), None], memory)


CONJUGATE = stacks.conjugate


@pytest.mark.parametrize("wrong", [readout_forgotten, positions_forgotten, last_state_forgotten])
def test_a_wrong_conjugation_turns_the_theorem_red(wrong, monkeypatch):
    monkeypatch.setattr(stacks, "conjugate", wrong)
    for lane in ("symbolic", "exact", "numeric"):
        assert run_lane(ONE_LAYER_FREE, lane).status == "fail"


def test_an_elimination_that_changes_nothing_turns_the_theorem_red(monkeypatch):
    """It keeps the function, of course; but no W_Q is I."""
    monkeypatch.setattr(stacks, "eliminate", lambda network, layers: network)
    for lane in ("symbolic", "exact", "numeric"):
        assert run_lane(ONE_LAYER_FREE, lane).status == "fail"


@pytest.mark.parametrize(("name", "wrong"), [
    ("with_identity_skips", lambda block: block),
    ("skips_of", lambda block: (block.mlp_skip, block.attention_skip)),
])  # fmt: skip
def test_a_wrong_removal_of_skips_is_red(name, wrong, monkeypatch):
    monkeypatch.setattr(stacks, name, wrong)
    for lane in ("symbolic", "exact", "numeric"):
        assert run_lane(LEARNED_SKIP_REMOVAL, lane).status == "fail"


def test_a_tall_stack_is_run_and_stays_of_order_one():
    w = Floats(next(s for s in FLOAT if s.name == conjugation.DEPTHS))
    ((new, old),) = conjugation.tall(w)
    assert len(new.layer.blocks) == conjugation.TALL
    assert 0.1 < abs(old.layer.stream(*old.inputs)).max() < 100


def test_a_rank_that_is_predicted_wrongly_is_red():
    wrong = replace(gain.SKIP_GAIN, special={"rank": gain.parameter_count})
    result = run_lane(wrong, "rank")
    assert result.status == "fail"
    assert "predicted" in result.reason


def test_a_control_of_a_counted_lane_is_accepted_when_its_numbers_agree():
    control = replace(gain.SKIP_GAIN.controls[0], sides=lambda _: [(1, 1)])
    assert run_control(gain.SKIP_GAIN, control, ("rank",)).lanes == {"rank": "accepted"}


@pytest.mark.parametrize("skip", [True, False])
def test_more_inputs_do_not_raise_the_rank(skip, monkeypatch):
    """A ReLU neuron that is on, or off, at every input would look redundant."""
    with_few = gain.dimension("ReLU", skip)
    monkeypatch.setattr(gain, "INPUTS", 4 * gain.INPUTS)
    assert gain.dimension.__wrapped__("ReLU", skip) == with_few
