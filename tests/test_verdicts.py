"""Every elimination tried on one network: what works, what stops the others, and that nothing is believed unseen."""

from dataclasses import replace

import numpy as np
import pytest

from qkvtheory import gauge, verdicts
from qkvtheory.claims.your_model.features import FEATURES, VOCAB, measured, untied
from qkvtheory.lanes.worlds import Words
from qkvtheory.verdicts import FORMS, verdict

TOKENS = np.eye(VOCAB)
ROWS = {feature.name: feature for feature in FEATURES}
BOTH, NORMED = "both skips, no norm", "RMSNorm before each sublayer, both skips"
every_feature = pytest.mark.parametrize("feature", FEATURES, ids=lambda f: f.name)


def built(name, seed=0):
    return ROWS[name].build(np.random.default_rng(seed))


@every_feature
@pytest.mark.parametrize("seed", [1, 2])
def test_the_table_holds_for_other_weights_too(feature, seed):
    for which in "QKV":
        best = measured(feature, which, seed)[0]
        assert (best.form, best.layers) == feature.expected[which], (which, best)


@every_feature
def test_every_outcome_has_an_error_or_a_reason(feature):
    for outcome in measured(feature, "Q"):
        if outcome.form == "no":
            assert (outcome.refused and outcome.refused in outcome.reason) or outcome.error > verdicts.AGREES
        else:
            assert outcome.layers and 0 <= outcome.error < verdicts.AGREES
        assert outcome.claim in str(outcome)


def test_the_best_comes_first():
    outcomes = verdict(built(BOTH), TOKENS)
    order = [(list(FORMS).index(outcome.form), -outcome.layers) for outcome in outcomes]
    assert order == sorted(order) and len(outcomes) > 2


def test_what_stops_more_is_named():
    refused = {outcome.claim: outcome.refused for outcome in verdict(built(NORMED), TOKENS)}
    assert refused["one-layer-free"] == "no norm"
    grouped = {outcome.claim: outcome.refused for outcome in verdict(built("one key head (MQA)"), TOKENS, "K")}
    assert grouped["one-layer-free"] == "square"


def test_a_construction_that_changes_the_function_is_not_believed(monkeypatch):
    net = built(BOTH)
    before = verdict(net, TOKENS)[0]
    monkeypatch.setattr(gauge, "carried", lambda write, basis: write)  # nothing that writes is moved
    after = next(outcome for outcome in verdict(net, TOKENS) if outcome.claim == before.claim)
    assert before.form == "I" and after.form == "no" and after.error > 0.01


def test_a_construction_that_leaves_the_matrix_is_not_believed(monkeypatch):
    net = built(BOTH)
    monkeypatch.setattr(verdicts.stacks, "eliminate", lambda network, which, layers: network)
    (outcome,) = (o for o in verdict(net, TOKENS) if o.claim == "one-layer-free")
    assert outcome.form == "no" and outcome.error == 0


def test_a_copy_of_the_embedding_as_readout_keeps_the_function():
    net = built("tied embedding, RMSNorm with gains, both skips")
    other = untied(net)
    assert np.allclose(other(TOKENS), net(TOKENS), rtol=1e-12) and untied(other) is other
    assert verdict(net, TOKENS)[0].form == "no" and verdict(other, TOKENS)[0].form == "R"


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_verdict_does_not_depend_on_the_size_of_the_logits(scale):
    net = built(BOTH)
    assert verdict(replace(net, readout=scale * net.readout), TOKENS)[0].form == "I"


@pytest.mark.parametrize("matrix", [np.eye(3), np.eye(3)[:, :2], np.eye(3)[:, [2, 0]], 2 * np.eye(3), np.ones((3, 3))])
def test_forms(matrix):
    square = matrix.shape == (3, 3)
    one = square and (matrix == np.eye(3)).all()
    assert verdicts.has_form(matrix, "I") == one
    assert verdicts.has_form(matrix, "S") == bool((matrix.sum(0) == 1).all() and (matrix <= 1).all())
    assert verdicts.has_form(matrix, "R") == bool((matrix == np.triu(matrix)).all())


@pytest.mark.parametrize("which", ["X", "QK", "", None])
def test_an_unknown_projection_is_refused(which):
    with pytest.raises(ValueError, match="which must be 'Q', 'K' or 'V'"):
        verdict(built(BOTH), TOKENS, which)


def test_something_else_than_a_network_is_refused():
    with pytest.raises(TypeError, match="Network"):
        verdict(Words(), TOKENS)


def test_no_outputs_to_compare_are_no_proof_and_no_error():
    net = FEATURES[0].build(np.random.default_rng(0))
    assert verdict(net, np.zeros((3, VOCAB)))[0].error == 0
    assert verdict(net, np.full((3, VOCAB), np.nan))[0].form == "no"


def test_a_bias_of_the_readout_is_kept_in_a_wider_stream():
    net = next(feature for feature in FEATURES if feature.name.startswith("heads wider")).build(
        np.random.default_rng(0)
    )
    net = replace(net, readout_bias=np.ones((1, VOCAB)))
    assert "W" in {outcome.form for outcome in verdict(net, np.eye(VOCAB))}


def test_a_selection_takes_every_coordinate_once():
    assert not verdicts.has_form(np.array([[1.0, 1.0], [0.0, 0.0]]), "S")
