"""The skeleton: where the skips are, what the biases do, what a network computes."""

from __future__ import annotations

import copy
import pickle
import re
from dataclasses import replace

import numpy as np
import pytest

from qkvtheory import MLP, Attention, Block, Heads, HypothesisError, Network
from qkvtheory.network import affine
from qkvtheory.words import opaque, symbol


@pytest.fixture
def parts(rng, layer):
    b = {f"b_{c}": rng.normal(size=(1, 4)) for c in "QKVO"}
    mlp = MLP(
        np.tanh, rng.normal(size=(4, 6)), rng.normal(size=(6, 4)), rng.normal(size=(1, 6)), rng.normal(size=(1, 4))
    )
    return layer(**b), mlp, rng.normal(size=(3, 4))


def test_attention_is_the_core_of_three_affine_products(parts):
    a, _, x = parts
    expected = a.core(x @ a.W_Q + a.b_Q, x @ a.W_K + a.b_K, x @ a.W_V + a.b_V) @ a.W_O + a.b_O
    np.testing.assert_array_equal(a(x), expected)
    assert np.abs(replace(a, b_O=None)(x) + a.b_O - expected).max() < 1e-14


def test_keys_and_values_read_the_memory(parts, rng):
    a, _, x = parts
    memory = rng.normal(size=(5, 4))
    expected = a.core(x @ a.W_Q + a.b_Q, memory @ a.W_K + a.b_K, memory @ a.W_V + a.b_V) @ a.W_O + a.b_O
    np.testing.assert_array_equal(a(x, memory), expected)
    np.testing.assert_array_equal(a(x, x), a(x))


def test_mlp(parts):
    _, mlp, x = parts
    expected = np.tanh(x @ mlp.W_up + mlp.b_up) @ mlp.W_down + mlp.b_down
    np.testing.assert_array_equal(mlp(x), expected)


@pytest.mark.parametrize("attention_skip", [True, False])
@pytest.mark.parametrize("mlp_skip", [True, False])
def test_the_four_topologies(attention_skip, mlp_skip, parts):
    a, mlp, x = parts
    y = a(x) + (x if attention_skip else 0)
    z = mlp(y) + (y if mlp_skip else 0)
    np.testing.assert_array_equal(Block(a, mlp, attention_skip, mlp_skip)(x), z)


def test_the_default_is_a_skip_around_attention_only(parts):
    a, mlp, x = parts
    np.testing.assert_array_equal(Block(a, mlp)(x), mlp(x + a(x)))


def test_a_learned_skip_acts_on_the_right(parts, rng):
    a, mlp, x = parts
    A, B = rng.normal(size=(2, 4, 4))
    y = x @ A + a(x)
    np.testing.assert_array_equal(Block(a, mlp, A, B)(x), y @ B + mlp(y))


@pytest.mark.parametrize("skip", [True, False])
def test_parallel_sublayers_read_one_input(skip, parts):
    """Each through its own norm."""
    a, mlp, x = parts
    b = Block(a, mlp, skip, attention_norm=lambda x: 2 * x, mlp_norm=lambda x: x - 1, parallel=True)
    np.testing.assert_array_equal(b(x), (x if skip else 0) + (a(2 * x) + mlp(x - 1)))


def test_cross_attention_reads_the_memory_between_the_two(parts, layer, rng):
    a, mlp, x = parts
    far, memory = replace(a, b_O=None), rng.normal(size=(5, 4))
    b = Block(a, mlp, True, True, attention_norm=lambda x: 2 * x, mlp_norm=lambda y: y - 1, cross=far)
    y = x + a(2 * x)
    y = y + far(2 * y, memory)
    np.testing.assert_array_equal(b(x, memory), y + mlp(y - 1))
    np.testing.assert_array_equal(
        replace(b, attention_skip=False, mlp_skip=False)(x, memory), mlp(far(2 * a(2 * x), memory) - 1)
    )


@pytest.mark.parametrize("skip", [1, 0, 1.0, None, np.True_, np.float64(1), np.array(True)], ids=repr)
@pytest.mark.parametrize("name", ["attention_skip", "mlp_skip"])
def test_a_skip_that_only_equals_true_is_refused(name, skip, parts):
    with pytest.raises(TypeError, match=f"{name} must be True, False or a d x d matrix, not"):
        Block(*parts[:2], **{name: skip})


def test_parallel_blocks_have_no_state_between(parts):
    a, mlp, _ = parts
    for skip in (True, np.eye(4)):
        with pytest.raises(ValueError, match="one skip, attention_skip"):
            Block(a, mlp, True, skip, parallel=True)
    with pytest.raises(ValueError, match="cross"):
        Block(a, mlp, parallel=True, cross=a)


def test_network(parts, rng):
    a, mlp, _ = parts
    E, P, U, tokens = (rng.normal(size=s) for s in ((7, 4), (3, 4), (4, 7), (3, 7)))
    b = Block(a, mlp)
    np.testing.assert_array_equal(Network(E, [b, b], U, P)(tokens), b(b(tokens @ E + P)) @ U)
    np.testing.assert_array_equal(Network(E, [], U)(tokens), tokens @ E @ U)
    np.testing.assert_array_equal(Network(E, [b])(tokens), b(tokens @ E) @ E.T)
    normed = Network(E, [b], U, norm=lambda x: x - 1)
    np.testing.assert_array_equal(normed(tokens), (b(tokens @ E) - 1) @ U)
    np.testing.assert_array_equal(normed.stream(tokens), b(tokens @ E))


def test_every_block_of_a_network_reads_the_memory(parts, rng):
    a, mlp, _ = parts
    E, U, tokens, memory = (rng.normal(size=s) for s in ((7, 4), (4, 7), (3, 7), (5, 4)))
    b = Block(a, mlp, cross=a)
    np.testing.assert_array_equal(Network(E, [b, b], U)(tokens, memory), b(b(tokens @ E, memory), memory) @ U)


def test_layers_are_immutable(parts):
    a, mlp, _ = parts
    for layer in (a, mlp, Block(a, mlp), a.core):
        with pytest.raises(AttributeError):
            layer.W_Q = layer.act = layer.attention = layer.heads = None


def test_affine_without_a_bias():
    assert affine(np.eye(2), np.ones((2, 2))).tolist() == [[1, 1], [1, 1]]
    assert affine(np.eye(2), np.ones((2, 2)), np.array([[1.0, 2.0]])).tolist() == [[2, 3], [2, 3]]


def test_an_attention_needs_no_particular_core():
    a = Attention(lambda q, k, v: q + k - v, *np.eye(2)[None].repeat(4, 0))
    assert a(np.ones((1, 2))).tolist() == [[1, 1]]


REFUSED = {
    "a batch": ((np.ones((1, 3, 4)),), "matrix", "x must be a matrix, tokens x width, not an array of shape (1, 3, 4)"),
    "one token as a row": ((np.ones(4),), "matrix", "not an array of shape (4,)"),
    "tokens of another width": ((np.ones((3, 2)),), "shapes agree", "x is 3 x 2 but W_Q has 4 rows"),
    "a batch of memories": ((np.ones((3, 4)), np.ones((1, 5, 4))), "matrix", "memory must be a matrix"),
    "a memory of another width": ((np.ones((3, 4)), np.ones((5, 2))), "shapes agree", "memory is 5 x 2 but W_K has 4"),
}


@pytest.mark.parametrize(("inputs", "hypothesis", "says"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("core", [Heads(2), lambda q, k, v: q], ids=["Heads", "another core"])
def test_inputs_that_do_not_fit_are_named(inputs, hypothesis, says, core, layer):
    with pytest.raises(HypothesisError, match=re.escape(says)) as refusal:
        layer(core=core)(*inputs)
    assert refusal.value.hypothesis == hypothesis


def test_a_memory_for_keys_and_values_of_another_width_must_be_given(layer):
    a = layer(W_K=np.ones((6, 4)), W_V=np.ones((6, 4)))
    with pytest.raises(HypothesisError, match="x is 3 x 4 but W_K has 6 rows"):
        a(np.ones((3, 4)))
    assert a(np.ones((3, 4)), np.ones((5, 6))).shape == (3, 4)


def test_words_look_at_their_sizes_themselves():
    x, wide = symbol("X", "n", "d"), symbol("Y", "n", "e")
    core = opaque("g", "p")
    a = Attention(core, *(symbol(f"W_{c}", "d", "p") for c in "QKV"), symbol("W_O", "p", "d"))
    assert a(x) == core(x @ a.W_Q, x @ a.W_K, x @ a.W_V) @ a.W_O
    with pytest.raises(HypothesisError, match="n x e @ d x p"):
        a(wide)


FOUR = np.eye(2)[None].repeat(4, 0)


@pytest.mark.parametrize("arguments", [(*FOUR,), (8, *FOUR), (None, *FOUR), (FOUR[0], *FOUR)])
def test_a_forgotten_core_is_named(arguments, layer):
    with pytest.raises(TypeError, match=r"the first argument is the core, for example Heads\(8\)"):
        Attention(*arguments)
    with pytest.raises(TypeError, match="the first argument is the core"):
        Attention(core=8, **dict(zip(("W_Q", "W_K", "W_V", "W_O"), FOUR, strict=True)))
    with pytest.raises(TypeError, match="the first argument is the core"):
        replace(layer(), core=8)
    with pytest.raises(TypeError, match=r"missing .*'core'"):
        Attention(W_Q=FOUR[0])


def test_layers_are_copied_and_pickled(layer):
    a, x = layer(), np.ones((3, 4))
    for twin in (copy.copy(a), copy.deepcopy(a), pickle.loads(pickle.dumps(a))):
        np.testing.assert_array_equal(twin(x), a(x))
