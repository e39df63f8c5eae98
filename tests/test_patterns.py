"""A head for a given map."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qkvtheory import Heads, HypothesisError
from qkvtheory.attention import base_two
from qkvtheory.patterns import head_for, resized


@given(st.integers(1, 6), st.integers(0, 3), st.integers(0, 2), st.integers(0, 99))
def test_any_positive_map_is_the_map_of_a_head_of_width_n_minus_one(n, more_columns, more_width, seed):
    rng = np.random.default_rng(seed)
    target = rng.dirichlet(np.ones(n), size=n) + 1e-3
    target /= target.sum(1, keepdims=True)
    x, width = rng.normal(size=(n, n + more_columns)), max(n - 1, 1) + more_width
    W_Q, W_K = head_for(np.log(target), x, width)
    assert W_Q.shape == W_K.shape == (n + more_columns, width)
    np.testing.assert_allclose(Heads(1, scale=1).maps(x @ W_Q, x @ W_K)[0], target, rtol=1e-6, atol=1e-9)


def test_exactly_over_fractions():
    logs = np.array([[Fraction(k) for k in row] for row in ((0, 1, 2), (1, 0, 3), (-2, 0, 0))], dtype=object)
    x = np.array([[Fraction(k) for k in row] for row in ((1, 2, 0), (0, 1, 0), (3, 0, 1))], dtype=object)
    W_Q, W_K = head_for(logs, x, 2)
    assert (Heads(1, scale=1, pattern=base_two).maps(x @ W_Q, x @ W_K)[0] == base_two(logs)).all()


def test_refusals():
    with pytest.raises(HypothesisError, match="width 2, not 1") as refusal:
        head_for(np.zeros((3, 3)), np.eye(3), 1)
    assert refusal.value.hypothesis == "head width at least n - 1"
    with pytest.raises(HypothesisError, match="the tokens x"):
        head_for(np.zeros((3, 3)), np.ones((3, 3)), 2)
    with pytest.raises(HypothesisError, match="the tokens x") as refusal:
        head_for(np.zeros((3, 3)), np.ones((3, 2)), 2)
    assert refusal.value.hypothesis == "full row rank"


def test_resized():
    assert resized(np.ones((2, 2)), 3).tolist() == [[1, 0, 0], [1, 0, 0]]
