"""Functional dimension: known ranks, and the refusal of what cannot be read off."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from qkvtheory import Attention, activations, exact_rank, freedom, redundancy
from qkvtheory.attention import Heads, causal, rms_norm, softmax
from qkvtheory.freedom import CASES, LAYERS, Architecture, Layer, layer_redundancy
from qkvtheory.positions import rope
from qkvtheory.redundancy import functional_dimension


def drawn(*shapes):
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape) / np.sqrt(shape[0]) for shape in shapes]


INPUTS = np.random.default_rng(1).normal(size=(60, 4))


@pytest.mark.parametrize("d", [1, 2, 3])
def test_a_product_has_as_many_dimensions_as_matrices_of_that_rank(d):
    found = functional_dimension(lambda a, b: INPUTS @ a @ b, drawn((4, d), (d, 5)))
    assert found.rank == d * (4 + 5 - d)
    assert found.gap > 1e9


def test_all_parameters_may_count():
    found = functional_dimension(lambda a: np.tanh(INPUTS @ a), drawn((4, 3)))
    assert found.rank == 12
    assert found.gap > redundancy.CLEAR


def test_a_parameter_that_does_nothing_does_not_count():
    assert functional_dimension(lambda a, b: INPUTS @ a + 0 * b.sum(), drawn((4, 2), (3, 3))).rank == 8
    assert functional_dimension(lambda a: 0 * (INPUTS @ a), drawn((4, 2))).rank == 0


def test_units_of_the_parameters_do_not_matter():
    a, b = drawn((4, 2), (2, 5))
    for scale in (1e-9, 1e9):
        assert functional_dimension(lambda a, b: INPUTS @ a @ b, [a * scale, b]).rank == 2 * (4 + 5 - 2)


def test_the_scale_of_a_relu_neuron_is_redundant():
    shapes = (4, 3), (3, 2)
    assert functional_dimension(lambda a, b: activations.relu(INPUTS @ a) @ b, drawn(*shapes)).rank == 18 - 3
    assert functional_dimension(lambda a, b: np.tanh(INPUTS @ a) @ b, drawn(*shapes)).rank == 18


def test_the_rank_is_read_off_the_largest_gap():
    """What stands far above rounding, but far below the rest, is noise of the function and does not count."""
    slope = np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0], [0.0, 0.0, 1e-11]])
    found = functional_dimension(lambda a: slope @ a, [np.ones(3)])
    assert found.rank == 2
    assert 1e10 < found.gap < 1e12


def test_too_few_outputs_are_refused():
    with pytest.raises(ValueError, match="give the function more inputs"):
        functional_dimension(lambda a: INPUTS[:2] @ a, drawn((4, 2)))


def test_a_rank_that_is_not_clear_is_refused():
    slope = np.logspace(0, -15, 12)
    with pytest.raises(ValueError, match="rank is not clear"):
        functional_dimension(lambda a: np.vander(slope, 12) @ a, [np.ones(12)])


@pytest.mark.parametrize("wrong", [
    lambda a: np.abs(INPUTS @ a),
    lambda a: (INPUTS @ a).real,
    lambda a: (INPUTS @ a) / 0,
])  # fmt: skip
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_functions_that_lose_the_imaginary_part_are_refused(wrong):
    with pytest.raises(ValueError, match="carry complex numbers"):
        functional_dimension(wrong, drawn((4, 2)))


@pytest.mark.parametrize("wrong", [
    lambda a: INPUTS @ a.conj(),
    lambda a: np.abs(INPUTS @ a) + 0j * a.sum(),
])  # fmt: skip
def test_functions_that_are_not_analytic_are_refused(wrong):
    with pytest.raises(ValueError, match="not analytic"):
        functional_dimension(wrong, drawn((4, 2)))


@pytest.mark.parametrize("parameter", [np.ones((4, 2), np.float32), np.full((4, 2), np.nan), [[1.0]]])
def test_parameters_are_float64_and_finite(parameter):
    with pytest.raises(ValueError, match="parameter 0 must be a float64"):
        functional_dimension(lambda a: INPUTS @ a, [parameter])


def test_the_functions_agree_with_the_usual_ones_on_real_numbers():
    z = np.random.default_rng(2).normal(size=(2, 6, 4))
    positive = np.maximum(z, 0)
    assert np.allclose(redundancy.analytic_softmax(z), softmax(z), rtol=1e-14)
    assert np.array_equal(activations.relu(z), positive)
    assert np.array_equal(activations.relu_squared(z), positive**2)
    assert np.array_equal(activations.reglu(z), positive[..., :2] * z[..., 2:])
    assert np.allclose(redundancy.analytic_rms_norm(z), rms_norm(eps=0.0)(z), rtol=1e-14)
    assert np.allclose(activations.gelu_tanh(np.array([-9.0, 0, 1, 9])), [0, 0, 0.8411919906, 9], atol=1e-9)


def test_a_mask_goes_through_the_softmax():
    q, k, v = np.random.default_rng(3).normal(size=(3, 5, 4))
    usual, analytic = (Heads(2, mask=causal(5), pattern=p)(q, k, v) for p in (softmax, redundancy.analytic_softmax))
    assert np.allclose(usual, analytic, rtol=1e-13)


def test_rounding_does_not_count_as_rank():
    """A key bias moves all scores of a row alike: its column is rounding, unless brought to length one."""
    a = Layer(4, 2, 2, biases=True)
    function, weights = redundancy.layer_function(a)
    slopes = redundancy.jacobian(function, [*weights.values()])
    right, wrong = (redundancy.dimension(redundancy.singular_values(slopes, noise)) for noise in (redundancy.NOISE, 0))
    assert a.parameters - right.rank == layer_redundancy(a) == 24
    assert wrong.rank == right.rank + 4


# -- layers and networks -----------------------------------------------------------------------------------------------


def test_sequences_stand_alone():
    x, core = np.random.default_rng(4).normal(size=(12, 8)), Heads(4, groups=2, mask=causal(3), rotate=rope(3, 2))
    q, k, v = x, x[:, :4], x[:, 4:]
    together = redundancy.Sequences(core, 3)(q, k, v)
    for start in range(0, 12, 3):
        here = slice(start, start + 3)
        np.testing.assert_allclose(together[here], core(q[here], k[here], v[here]), rtol=1e-13)


def test_sequences_refuse_what_they_cannot_cut():
    x = np.ones((5, 2))
    with pytest.raises(ValueError, match="5 tokens are no whole number of sequences of 3"):
        redundancy.Sequences(Heads(1), 3)(x, x, x)
    with pytest.raises(ValueError, match="a table for each head"):
        redundancy.Sequences(Heads(1, bias=np.zeros((5, 5))), 5)(x, x, x)


@pytest.mark.parametrize("name", ["multi-head, heads of width 2", "biases and RoPE", "QK-norm, eps > 0"])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_rank_of_a_layer_is_that_of_generic_weights_and_enough_inputs(name, seed):
    a = LAYERS[name]
    for found in (redundancy.layer_dimension(a, seed=seed), redundancy.layer_dimension(a, sequences=40, length=5)):
        assert a.parameters - found.rank == layer_redundancy(a)
        assert found.gap > 1e9


def test_a_mask_does_not_change_the_rank():
    a = Layer(4, 2, 2)
    _, weights = redundancy.layer_function(a)
    core = redundancy.Sequences(Heads(2, mask=causal(4), pattern=redundancy.analytic_softmax), 4)
    x = np.random.default_rng(5).normal(size=(60, 4))
    found = functional_dimension(lambda *w: Attention(core, *w)(x), [*weights.values()])
    assert found.rank == a.parameters - 16


@pytest.mark.parametrize("name", ["no norm, TM, L = 1", "LayerNorm, T0, L = 1", "RoPE, no norm, T2, L = 1"])
def test_more_inputs_and_another_point_do_not_change_the_rank_of_a_network(name):
    a = CASES[name]
    assert redundancy.network_dimension(a, sequences=80, seed=3).rank == freedom.dimension(a)


def test_the_network_that_is_measured_is_the_packages():
    """Token by token against layers called one sequence at a time, with the usual softmax, GELU aside."""
    a = Architecture(layers=2, norm="LayerNorm", gains=True, groups=1, positions="RoPE")
    function, weights = redundancy.network_function(a, sequences=3)
    assert list(weights) == list(redundancy.network_shapes(a))
    tokens = redundancy.inputs_for(a, 3, 2.0, redundancy.SEED)[1]
    x = tokens @ weights["E"]

    def norm(z, gain):
        z = z - z.mean(-1, keepdims=True)
        return z / np.sqrt((z * z).mean(-1, keepdims=True) + redundancy.EPS) * gain

    core = Heads(2, 1, mask=causal(4), rotate=redundancy.turning(4, (1,)))
    for layer in range(2):
        attention = Attention(core, *(weights[f"W_{c}^{layer}"] for c in "QKVO"))
        read = norm(x, weights[f"gain^{2 * layer}"])
        x = x + np.concatenate([attention(sequence) for sequence in np.split(read, 3)])
        hidden = activations.gelu_tanh(norm(x, weights[f"gain^{2 * layer + 1}"]) @ weights[f"W_up^{layer}"])
        x = x + hidden @ weights[f"W_down^{layer}"]
    np.testing.assert_allclose(function(*weights.values()), norm(x, weights["gain^4"]) @ weights["D"], rtol=1e-10)


def test_queries_that_are_the_identity_are_no_parameters():
    a = Architecture(queries="identity")
    assert "W_Q^0" not in redundancy.network_shapes(a)
    assert redundancy.network_dimension(a).rank == 124


def test_a_relu_neuron_must_be_on_and_off():
    """Why the seed is what it is: at another one few tokens leave a neuron on, or off, at all of them."""
    a = CASES["ReLU, no norm, T2, L = 1"]
    assert redundancy.network_dimension(a).rank == freedom.dimension(a)
    assert redundancy.network_dimension(a, seed=5).rank < freedom.dimension(a)
    assert redundancy.network_dimension(a, sequences=200, seed=5).rank == freedom.dimension(a)


def test_the_products_of_one_head_only():
    with pytest.raises(ValueError, match="one head without biases"):
        redundancy.head_dimension(Layer(4, 2, 2))
    assert redundancy.head_dimension(Layer(5, 1, 2), query_rank=1).rank < redundancy.head_dimension(Layer(5, 1, 2)).rank


# -- without floats ----------------------------------------------------------------------------------------------------


def test_dual_numbers_know_the_rules_of_derivatives():
    x, y = exact_rank.Dual(3, np.array([1, 0])), exact_rank.Dual(5, np.array([0, 1]))
    p = exact_rank.PRIME

    def both(z):
        return z.value, z.slope.tolist()

    assert both(x * y) == (15, [5, 3])
    assert both(x - y) == (p - 2, [1, p - 1])
    assert both(2 - x * x + 1) == (p - 6, [p - 6, 0])
    assert both(x * Fraction(1, 2) * 2) == (3, [1, 0])
    quotient = 1 / (x * y)
    assert quotient.value * 15 % p == 1
    assert (quotient.slope * 15 * 15 % p).tolist() == [p - 5, p - 3]


def test_the_rank_modulo_a_prime():
    rng = np.random.default_rng(6)
    a, b = (rng.integers(0, 1000, shape) for shape in ((9, 3), (3, 7)))
    assert exact_rank.rank_modulo(a @ b) == 3
    assert exact_rank.rank_modulo(np.zeros((3, 2), dtype=np.int64)) == 0
    assert exact_rank.rank_modulo(np.array([[1, 2], [exact_rank.PRIME - 1, exact_rank.PRIME - 2]])) == 1


def test_both_ways_find_the_same_rank():
    inputs = np.random.default_rng(7).integers(-5, 6, (40, 4))

    def function(a, b):
        z = inputs @ a
        return (z * z * z) @ b  # like ReLU it keeps one scale for each neuron

    assert (
        exact_rank.exact_dimension(function, [(4, 3), (3, 2)])
        == functional_dimension(function, drawn((4, 3), (3, 2))).rank
    )


def test_what_has_no_rational_stand_in_is_refused():
    for a in (CASES["biases everywhere, no norm, T2, L = 1"], CASES["RMSNorm, eps 0, T2, L = 1"]):
        with pytest.raises(ValueError, match="no rational stand-in"):
            exact_rank.exact_network_dimension(a)
