"""Ladders: how far rounding goes in float32 and bfloat16, and that mistakes stand above it where a check may decide."""

import numpy as np
import pytest

from qkvtheory.experiments.ladder import EPS, SLACK, climb, draw, matrix_with_condition, rung, store_as


@pytest.mark.parametrize("cond", [1.0, 1e2, 1e4, 1e6])
def test_float32_stays_within_slack_eps_cond(cond):
    found = rung(cond, "float32", seed=7)
    assert 0 < found["error"] <= SLACK * EPS["float32"] * found["cond"]


@pytest.mark.torch
@pytest.mark.parametrize("cond", [1.0, 10.0, 100.0, 1000.0])
def test_bfloat16_stays_within_slack_eps_cond(cond):
    pytest.importorskip("torch")
    found = rung(cond, "bfloat16", seed=7)
    assert 0 < found["error"] <= SLACK * EPS["bfloat16"] * found["cond"]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_error_is_proportional_to_cond(dtype):
    """A hundred times the condition number, a hundred times the error; up to the spread of one draw."""
    low, high = climb(dtype, [2, 4], seeds=[7, 8, 9])
    assert 20 < high["error"] / low["error"] < 500


def test_float32_is_a_rerun_of_float64_eight_or_nine_orders_up():
    single, double = (rung(1e3, dtype, seed=7)["error"] for dtype in ("float32", "float64"))
    assert 0.05 < (single / double) / (EPS["float32"] / EPS["float64"]) < 20


@pytest.mark.parametrize("mistake", ["forgotten", "transposed", "bug"])
def test_a_mistake_has_the_same_size_in_both_precisions(mistake):
    single, double = (rung(1.0, dtype, seed=7)[mistake] for dtype in ("float32", "float64"))
    assert single == pytest.approx(double, rel=0.05)


@pytest.mark.parametrize("cond", [1.0, 1e2, 1e4])
def test_where_float64_decides_every_mistake_is_seen(cond):
    found = rung(cond, "float64", seed=7)
    tolerance = SLACK * EPS["float64"] * found["cond"]
    assert found["error"] <= tolerance
    assert min(found["forgotten"], found["transposed"], found["bug"]) > 1e4 * tolerance


def test_float32_at_cond_1e7_would_accept_a_forgotten_inverse():
    """Not a wish but a fact the page tells: there the tolerance exceeds any error."""
    found = rung(1e7, "float32", seed=7)
    assert found["forgotten"] < SLACK * EPS["float32"] * found["cond"]


def test_scores_are_of_order_one():
    x, (w_q, w_k, _, _) = draw(1e6, seed=7)
    scores = (
        (x @ w_q).reshape(32, 8, 8).transpose(1, 0, 2) @ (x @ w_k).reshape(32, 8, 8).transpose(1, 2, 0) / np.sqrt(8)
    )
    assert scores.std() == pytest.approx(1.0)


def test_the_matrix_has_the_condition_number_asked_for():
    a = matrix_with_condition(1e5, 16, np.random.default_rng(7))
    assert np.linalg.cond(a) == pytest.approx(1e5, rel=1e-6)
    assert np.linalg.norm(a) == pytest.approx(4.0)


def test_rounding_to_float32_caps_the_condition_number():
    a = matrix_with_condition(1e12, 64, np.random.default_rng(7))
    assert np.linalg.cond(store_as(a, "float32").astype(float)) < 1e11 < np.linalg.cond(a)
