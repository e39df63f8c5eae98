"""Reading with keys as values: a gradient, a symmetric Jacobian, an energy that falls, a hull that holds."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qkvtheory import Heads, HypothesisError, energy

STEP = 1e-30


def setting(seed: int, n: int = 5, d: int = 3, p: int | None = None):
    rng = np.random.default_rng(seed)
    return rng.normal(size=d), rng.normal(size=(n, d)), rng.normal(size=(n, p or d)), float(rng.uniform(0.2, 4))


def derivative(f, q):
    """The rows d f / d q_b by complex steps: exact to rounding, since nothing is subtracted."""
    return np.array([f(q + 1j * STEP * row).imag / STEP for row in np.eye(len(q))])


settings = st.tuples(st.integers(0, 10**6), st.integers(1, 7), st.integers(1, 5))


@given(settings)
def test_the_read_out_is_that_of_a_head(case):
    q, keys, values, alpha = setting(*case, p=4)
    expected = Heads(1, scale=alpha)(q[None], keys, values)[0]
    np.testing.assert_allclose(energy.read_out(q, keys, values, alpha), expected, atol=1e-13)
    assert energy.attention_row(q, keys, alpha).sum() == pytest.approx(1)


@given(settings)
def test_the_read_out_with_keys_as_values_is_a_gradient(case):
    q, keys, _, alpha = setting(*case)
    gradient = derivative(lambda z: energy.energy(z, keys, alpha), q)
    np.testing.assert_allclose(gradient, q - energy.read_out(q, keys, keys, alpha), atol=1e-13)


@given(settings)
def test_the_jacobian_is_the_derivative_and_symmetric_when_tied(case):
    q, keys, values, alpha = setting(*case)
    for v in (keys, values, values[:, :1]):
        jacobian = energy.jacobian(q, keys, v, alpha)
        np.testing.assert_allclose(
            jacobian, derivative(lambda z, v=v: energy.read_out(z, keys, v, alpha), q).T, atol=1e-12
        )
    tied = energy.jacobian(q, keys, keys, alpha)
    np.testing.assert_allclose(tied, tied.T, atol=1e-13)
    assert np.linalg.eigvalsh(tied).min() > -1e-13


@given(settings)
def test_reading_again_lowers_the_energy_by_at_least_half_the_square_of_the_step(case):
    q, keys, _, alpha = setting(*case)
    path = energy.descend(3 * q, keys, keys, alpha, 6)
    drops = -np.diff(energy.energy(path, keys, alpha))
    bounds = (np.diff(path, axis=0) ** 2).sum(axis=1) / 2
    assert (drops >= bounds - 1e-12).all()


def test_without_the_hypothesis_the_energy_rises_and_the_jacobian_is_not_symmetric():
    risen, skew = 0, 0.0
    for seed in range(50):
        q, keys, values, alpha = setting(seed)
        risen += np.diff(energy.energy(energy.descend(q, keys, values, alpha, 1), keys, alpha))[0] > 0.05
        jacobian = energy.jacobian(q, keys, values, alpha)
        skew = max(skew, np.abs(jacobian - jacobian.T).max())
    assert risen > 10 and skew > 0.5


def test_a_negative_scale_breaks_the_descent_and_not_the_gradient():
    q, keys, _, _ = setting(1)
    gradient = derivative(lambda z: energy.energy(z, keys, -1.5), q)
    np.testing.assert_allclose(gradient, q - energy.read_out(q, keys, keys, -1.5), atol=1e-13)
    rises = [
        np.diff(energy.energy(energy.descend(q, s[1], s[1], -1.5, 2), s[1], -1.5)).max() for s in map(setting, range(9))
    ]
    assert max(rises) > 0.1


def test_read_outs_lie_in_the_hull_of_the_keys():
    """In the plane the hull is known by its edges: no read-out lies beyond one."""
    _, keys, _, _ = setting(3, 3, 2)
    reads = energy.read_out(5 * np.random.default_rng(4).normal(size=(200, 2)), keys, keys, 2.0)
    corners = np.linalg.solve(np.c_[keys, np.ones(3)].T, np.c_[reads, np.ones(200)].T)
    assert corners.min() > -1e-13 and corners.max() > 0.9


def test_rows_of_queries_are_read_one_by_one():
    q, keys, values, alpha = setting(2, p=3)
    many = np.stack([q, -q, 2 * q])
    for f in (
        lambda z: energy.attention_row(z, keys, alpha),
        lambda z: energy.read_out(z, keys, values, alpha),
        lambda z: energy.energy(z, keys, alpha),
        lambda z: energy.jacobian(z, keys, values, alpha),
    ):
        np.testing.assert_allclose(f(many), np.stack([f(z) for z in many]), atol=1e-14)
    path = energy.descend(many, keys, values, alpha, 4)
    assert path.shape == (5, 3, 3)
    np.testing.assert_allclose(path[:, 1], energy.descend(-q, keys, values, alpha, 4), atol=1e-14)


def test_large_scores_do_not_overflow():
    q, keys = np.array([300.0, 0.0]), np.array([[5.0, 1.0], [-5.0, 0.0]])
    np.testing.assert_allclose(energy.read_out(q, keys, keys, 4.0), keys[0])
    assert energy.energy(q, keys, 4.0) == pytest.approx(300**2 / 2 - 1500)


def test_nothing_is_written_into_the_input():
    q, keys, values, alpha = setting(6)
    for a in (q, keys, values):
        a.flags.writeable = False
    path = energy.descend(q, keys, values, alpha, 2)
    energy.energy(q, keys, alpha), energy.jacobian(q, keys, values, alpha)
    assert (path[0] == q).all()


Q, K = np.ones(2), np.ones((3, 2))
BAD = [
    (lambda: energy.energy(np.ones(3), K, 1.0), "queries are 3 wide but keys 2"),
    (lambda: energy.energy([1.0, 2.0], K, 1.0), "the query must be a NumPy array, not a list"),
    (lambda: energy.energy(np.ones((1, 1, 2)), K, 1.0), r"a row or rows, not a ndarray of shape \(1, 1, 2\)"),
    (lambda: energy.energy(np.ones((0, 2)), K, 1.0), "a row or rows"),
    (lambda: energy.energy(np.ones(2, dtype=int), K, 1.0), "the query has dtype int64"),
    (lambda: energy.energy(np.array([1.0, np.nan]), K, 1.0), "the query contains NaN"),
    (lambda: energy.energy(Q, np.ones(2), 1.0), "keys must be a two-dimensional array"),
    (lambda: energy.energy(Q, K.astype(int), 1.0), "keys has dtype int64"),
    (lambda: energy.energy(Q, K, 0), "divides by the scale, which is 0"),
    (lambda: energy.energy(Q, K, np.inf), "must be a finite real number, not inf"),
    (lambda: energy.read_out(Q, K, K, "1"), "must be a finite real number, not '1'"),
    (lambda: energy.read_out(Q, K, K, True), "must be a finite real number, not True"),
    (lambda: energy.read_out(Q, K, K[:2], 1.0), "there are 3 keys but 2 values"),
    (lambda: energy.jacobian(Q, K, K[0], 1.0), "values must be a two-dimensional array"),
    (lambda: energy.energy(1e200 * Q, 1e200 * K, 1.0), "a score overflows float64; scale queries, keys and values"),
    (lambda: energy.attention_row(1e200 * Q, 1e200 * K, 1.0), "a score overflows float64"),
    (lambda: energy.read_out(1e200 * Q, 1e200 * K, K, 1.0), "a score overflows float64"),
    (lambda: energy.energy(1e200 * Q, K, 1.0), "the energy overflows float64"),
    (lambda: energy.energy(1e30 * np.ones(2, "f4"), np.ones((3, 2), "f4"), 1.0), "the energy overflows float32"),
    (lambda: energy.jacobian(0 * Q, 1e200 * np.eye(2), 1e200 * np.eye(2), 1.0), "the derivative overflows float64"),
    (lambda: energy.descend(Q, K, K[:, :1], 1.0, 2), r"values are a ndarray of shape \(3, 1\)"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_bad_input_is_refused(call, message):
    with pytest.raises(HypothesisError, match=message):
        call()


@pytest.mark.parametrize("steps", [-1, 1.0, True])
def test_steps_are_counted(steps):
    with pytest.raises(ValueError, match="steps must be a whole number from 0"):
        energy.descend(Q, K, K, 1.0, steps)


def test_examples_run():
    result = doctest.testmod(energy)
    assert result.attempted > 0 and result.failed == 0
