"""Functional dimension: known ranks, and the refusal of what cannot be read off."""

from __future__ import annotations

import numpy as np
import pytest

from qkvtheory import redundancy
from qkvtheory.attention import Heads, causal, rms_norm, softmax
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
    assert functional_dimension(lambda a, b: redundancy.relu(INPUTS @ a) @ b, drawn(*shapes)).rank == 18 - 3
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
    assert np.array_equal(redundancy.relu(z), positive)
    assert np.array_equal(redundancy.relu_squared(z), positive**2)
    assert np.array_equal(redundancy.reglu(z), positive[..., :2] * z[..., 2:])
    assert np.allclose(redundancy.analytic_rms_norm(z), rms_norm(eps=0.0)(z), rtol=1e-14)
    assert np.allclose(redundancy.gelu_tanh(np.array([-9.0, 0, 1, 9])), [0, 0, 0.8411919906, 9], atol=1e-9)


def test_a_mask_goes_through_the_softmax():
    q, k, v = np.random.default_rng(3).normal(size=(3, 5, 4))
    usual, analytic = (Heads(2, mask=causal(5), pattern=p)(q, k, v) for p in (softmax, redundancy.analytic_softmax))
    assert np.allclose(usual, analytic, rtol=1e-13)
