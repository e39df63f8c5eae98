"""The tiny language model: its gradients, its training, and what stays when its queries go."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest

from qkvtheory import HypothesisError, eliminate_queries
from qkvtheory.experiments import tiny
from qkvtheory.experiments.tiny import CONTEXT, LAYERS, WIDTH

GUESS = math.log(len(tiny.corpus()[1]))


@pytest.fixture(scope="module")
def trained():
    return tiny.train(steps=120)


@pytest.fixture(scope="module")
def without_queries(trained):
    return eliminate_queries(trained[0])


def a_batch(windows=3):
    tokens = tiny.numbers(tiny.corpus()[0])
    return np.array([tokens[i : i + CONTEXT + 1] for i in range(0, 50 * windows, 50)])


# -- gradients ---------------------------------------------------------------------------------------------------------


def slope_by_difference(weights, name, direction, batch, step=1e-5):
    costs = []
    for sign in (1, -1):
        moved = {**weights, name: weights[name] + sign * step * direction}
        costs.append(tiny.gradients(moved, batch)[0])
    return (costs[0] - costs[1]) / (2 * step)


@pytest.mark.parametrize("name", tiny.start(np.random.default_rng(0)))
def test_every_derivative_agrees_with_a_difference(name):
    """Along two random directions, for every weight of the model."""
    rng, batch = np.random.default_rng(1), a_batch()
    weights = tiny.start(rng)
    weights |= {name: w + 0.1 * rng.normal(size=w.shape) for name, w in weights.items() if name.startswith("b")}
    _, slopes = tiny.gradients(weights, batch)
    assert slopes.keys() == weights.keys() and slopes[name].shape == weights[name].shape
    for _ in range(2):
        direction = rng.normal(size=weights[name].shape)
        direction /= np.linalg.norm(direction)
        expected = slope_by_difference(weights, name, direction, batch)
        assert float((slopes[name] * direction).sum()) == pytest.approx(expected, rel=1e-4, abs=1e-8)
        assert abs(expected) > 1e-6  # there is something to compare


def test_the_check_of_derivatives_can_fail():
    """The derivative by one matrix is not the derivative by its neighbor."""
    rng, batch = np.random.default_rng(1), a_batch()
    weights = tiny.start(rng)
    _, slopes = tiny.gradients(weights, batch)
    direction = rng.normal(size=(WIDTH, WIDTH))
    expected = slope_by_difference(weights, "W_K1", direction / np.linalg.norm(direction), batch)
    for wrong in ("W_Q1", "W_V1", "W_O1", "W_K0", "W_K2"):
        found = float((slopes[wrong] * direction).sum()) / np.linalg.norm(direction)
        assert found != pytest.approx(expected, rel=1e-2)


def test_the_loss_that_is_trained_is_the_loss_of_the_network():
    """The batched forward pass for training and our own ``Network`` are one function."""
    weights, batch = tiny.start(np.random.default_rng(2)), a_batch()
    network = tiny.network_of(weights)
    costs = [-tiny.log_softmax(network(tiny.one_hot(w[:-1])))[range(CONTEXT), w[1:]] for w in batch]
    assert tiny.gradients(weights, batch)[0] == pytest.approx(np.mean(costs), rel=1e-12)


# -- training ----------------------------------------------------------------------------------------------------------


def test_the_loss_falls(trained):
    model, log = trained
    assert [step for step, _ in log] == list(range(1, 121))
    assert log[0][1] > 0.9 * GUESS > GUESS / 2 > np.mean([cost for _, cost in log[-10:]]) - 0.2
    assert tiny.loss(model) < 0.65 * GUESS


def test_a_longer_training_learns_more(trained):
    assert tiny.loss(tiny.train(steps=300)[0]) < tiny.loss(trained[0]) - 0.5


def test_the_same_seed_gives_the_same_model():
    one, other, third = (tiny.train(steps=3, seed=seed)[0] for seed in (0, 0, 1))
    assert (one.blocks[0].attention.W_Q == other.blocks[0].attention.W_Q).all()
    assert (one.blocks[0].attention.W_Q != third.blocks[0].attention.W_Q).any()


def test_progress_says_ten_losses(capsys):
    tiny.train(steps=20)
    assert capsys.readouterr().out == ""
    _, log = tiny.train(steps=20, progress=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"step     1   loss {log[0][1]:.3f}" and lines[-1] == f"step    20   loss {log[-1][1]:.3f}"
    assert len(lines) == 11


def test_a_step_is_clipped(monkeypatch):
    """However steep the slope, the first step of Adam is no longer than the rate, entry by entry."""
    weights = tiny.start(np.random.default_rng(0))
    before = copy.deepcopy(weights)
    adam = {name: (np.zeros_like(w), np.zeros_like(w)) for name, w in weights.items()}
    tiny.update(weights, {name: 1e9 * np.ones_like(w) for name, w in weights.items()}, adam, 1, 100)
    moves = [np.abs(weights[name] - before[name]).max() for name in weights]
    assert 0 < max(moves) <= tiny.RATE / tiny.WARMUP * 1.001
    assert sum(float((mean**2).sum()) for mean, _ in adam.values()) == pytest.approx((0.1 * tiny.CLIP) ** 2)


# -- without queries ---------------------------------------------------------------------------------------------------


def test_all_query_matrices_are_gone_and_nothing_has_changed(trained, without_queries):
    old, new = trained[0], without_queries
    assert all((np.eye(WIDTH) == block.attention.W_Q).all() for block in new.blocks)
    assert tiny.loss(new) == pytest.approx(tiny.loss(old), abs=1e-10)
    assert tiny.predicted(new) == tiny.predicted(old)
    assert tiny.continue_text(new, "Beautiful ", 40) == tiny.continue_text(old, "Beautiful ", 40)
    assert tiny.parameters(old) - tiny.parameters(new) == LAYERS * WIDTH**2


def test_dropping_the_queries_is_another_thing(trained):
    """W_Q = I without carrying its basis into the other weights: another model, and a worse one."""
    old = trained[0]
    blocks = [replace(block, attention=replace(block.attention, W_Q=np.eye(WIDTH))) for block in old.blocks]
    assert tiny.loss(replace(old, blocks=blocks)) > tiny.loss(old) + 0.1


def test_a_second_skip_forbids_it(trained):
    old = trained[0]
    with pytest.raises(HypothesisError, match="one choice per segment"):
        eliminate_queries(replace(old, blocks=[replace(block, mlp_skip=True) for block in old.blocks]))


# -- the pieces --------------------------------------------------------------------------------------------------------


def test_the_corpus_is_quiet_and_always_the_same(capsys):
    tiny.corpus.cache_clear()
    text, vocabulary = tiny.corpus()
    assert capsys.readouterr().out == ""
    assert len(text) == 856 and len(vocabulary) == len(set(text)) == 45
    assert "Explicit is better than implicit." in text and "Namespaces" in text.splitlines()[-1]
    assert (tiny.numbers(vocabulary) == range(45)).all()


def test_parameters_are_counted_and_an_identity_is_none(trained):
    words, hidden = len(tiny.corpus()[1]), tiny.HIDDEN
    layer = 4 * WIDTH**2 + 2 * WIDTH * hidden + hidden + WIDTH
    assert tiny.parameters(trained[0]) == 2 * words * WIDTH + CONTEXT * WIDTH + LAYERS * layer
    assert tiny.is_identity(np.eye(3)) and not tiny.is_identity(np.eye(3) * 2) and not tiny.is_identity(np.eye(3)[:2])


def test_what_fills_up_a_window_is_not_seen(trained):
    tokens = tiny.numbers("Simple is better")
    everything = tiny.logits(trained[0], tokens)
    assert everything.shape == (len(tokens), len(tiny.corpus()[1]))
    assert np.allclose(tiny.logits(trained[0], tokens[:5]), everything[:5], atol=1e-12)


def test_the_loss_covers_every_character_but_the_first():
    text, vocabulary = tiny.corpus()
    for length in (2, CONTEXT, CONTEXT + 1, CONTEXT + 2, 100):
        asked = [vocabulary[i] for window in tiny.windows(text[:length]) for i in window[1:]]
        assert "".join(asked) == text[1:length]
    assert len(tiny.predicted(tiny.train(steps=1)[0])) == len(text) - 1


def test_a_network_that_says_nothing_only_guesses(trained):
    old = trained[0]
    assert tiny.loss(replace(old, readout=0 * old.readout)) == pytest.approx(GUESS)


def test_text_is_continued_character_by_character(trained):
    model, prompt = trained[0], "Although practicality beats purity, and so on and on"
    said = tiny.continue_text(model, prompt, 5)
    assert said.startswith(prompt) and len(said) == len(prompt) + 5
    assert said[-1] == tiny.continue_text(model, said[:-1], 1)[-1]
    assert tiny.continue_text(model, prompt, 0) == prompt


def test_bad_requests_are_refused(trained):
    model = trained[0]
    with pytest.raises(ValueError, match="never seen the characters '#é'"):
        tiny.continue_text(model, "é#")
    with pytest.raises(ValueError, match="at least one character"):
        tiny.continue_text(model, "")
    with pytest.raises(ValueError, match="length must be 0 or more"):
        tiny.continue_text(model, "The ", -1)
    with pytest.raises(ValueError, match="at least two characters"):
        tiny.loss(model, "T")
    with pytest.raises(ValueError, match="steps must be at least 1"):
        tiny.train(steps=0)
