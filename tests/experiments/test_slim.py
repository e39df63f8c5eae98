"""Slim attention in low precision: the stored run is that of today's code, and its law is one that can fail."""

import numpy as np
import pytest

from qkvtheory.attention import Heads
from qkvtheory.experiments import slim
from qkvtheory.experiments.ladder import matrix_with_condition
from qkvtheory.figures import stored
from qkvtheory.lossless import values_from_keys
from qkvtheory.network import Attention

DATA = stored("slim")
LINES = DATA["dtypes"]
DTYPES = [line["dtype"] for line in LINES]
every_line = pytest.mark.parametrize("line", LINES, ids=DTYPES)
SEEN = [(64, None), (128, None)]


def all_rows(line):
    return [*line["gaussian"], *line["prescribed"]]


@pytest.mark.parametrize(("width", "cond"), SEEN)
def test_the_stored_rows_are_reproduced(width, cond):
    """The same draws on every machine; sums in another order move the last digits only."""
    found = slim.row(width, cond)
    for line in LINES:
        (kept,) = (row for row in line["gaussian"] if row["width"] == width)
        assert found[line["dtype"]] == pytest.approx(kept, rel=0.02)


def test_the_stored_run_is_the_one_the_module_describes():
    assert list(slim.BITS) == DTYPES and DATA["provenance"]["seeds"] == list(slim.SEEDS)
    for line in LINES:
        assert [row["width"] for row in line["gaussian"]] == list(slim.WIDTHS)
        assert [row["asked"] for row in line["prescribed"]] == list(slim.CONDS)
        rows = all_rows(line)
        assert line["unit"] == slim.unit(line["dtype"]) and line["constant"] == slim.constant(rows)
        assert all(line[f"band_{name}"] == slim.band(rows, name) for name in ("cond", "spread"))
        assert all(row["best"] <= row["keys"] <= row["worst"] for row in rows)


@every_line
def test_the_error_is_one_constant_times_unit_times_spread(line):
    low, high = line["band_spread"]
    assert 0.35 < low <= line["constant"] <= high < 0.5


@every_line
def test_the_whole_condition_number_is_an_upper_bound_and_far_off(line):
    low, high = line["band_cond"]
    assert high < 0.5 and high / low > 20


@every_line
def test_only_the_keys_feel_the_condition(line):
    """Values, and a stream of which values are made, cost the rounding of what is cached and nothing else."""
    for row in all_rows(line):
        assert row["values"] == pytest.approx(line["constant"] * line["unit"], rel=0.1)
        assert row["stream"] == pytest.approx(row["values"], rel=0.1)
    wide = line["gaussian"][-1]
    assert wide["width"] == 1024 and wide["keys"] > 30 * wide["values"]


@pytest.mark.parametrize("cond", [None, 1e2])
def test_the_constant_is_that_of_tokens_with_independent_entries(cond):
    """Tokens near one singular direction of W_K have another: above all of the measured ones, or far below them."""
    low, high = LINES[DTYPES.index("bfloat16")]["band_spread"]
    x, w_k, w_v = slim.weights(256, cond, 0)
    left, _, _ = np.linalg.svd(w_k)
    back = np.linalg.inv(w_k)
    amount = np.random.default_rng(0).normal(size=len(x))[:, None]

    def constant(stream):
        keys = stream @ w_k
        error = slim.off(slim.kept_as(keys, "bfloat16") @ back @ w_v, stream @ w_v)
        return error / (slim.unit("bfloat16") * slim.spread(w_k, back))

    assert low < constant(x) < high
    assert constant(amount * left[:, 0] + 0.1 * x) > 1.1 * high
    assert constant(amount * left[:, -1]) < 0.1 * low


def test_an_orthogonal_key_matrix_costs_nothing():
    row = slim.row(32, 1.0, [0])["bfloat16"]
    assert row["keys"] == pytest.approx(row["values"], rel=0.1) and row["spread"] == pytest.approx(1)


def test_the_law_sees_a_cache_that_keeps_one_bit_less(monkeypatch):
    before = slim.row(32, 10.0, [0])["bfloat16"]["per_u_spread"]
    monkeypatch.setattr(
        slim, "kept_as", lambda a, dtype, kept=slim.kept_as: np.float64(2**9) * np.rint(kept(a, dtype) / 2**9)
    )
    assert slim.row(32, 10.0, [0])["bfloat16"]["per_u_spread"] > 1.8 * before


def test_rounding_is_that_of_the_precision():
    a = np.random.default_rng(0).normal(size=1000)
    assert (slim.kept_as(a, "float16") == a.astype(np.float16)).all()
    assert (slim.kept_as(a, "float32") == a.astype(np.float32)).all()
    for dtype in slim.BITS:
        errors = np.abs(slim.kept_as(a, dtype) / a - 1)
        assert 0.9 * slim.unit(dtype) < errors.max() <= slim.unit(dtype)


def test_imitated_bfloat16_is_bfloat16():
    torch = pytest.importorskip("torch")
    a = np.random.default_rng(1).normal(size=1000).astype(np.float32)
    ties = np.float32([1 + 2.0**-8, 1 + 3 * 2.0**-8, -(1 + 2.0**-8)])
    for numbers in (a, ties):
        assert (
            slim.kept_as(numbers, "bfloat16") == torch.from_numpy(numbers).to(torch.bfloat16).double().numpy()
        ).all()


def test_spread_of_matrices_known_by_hand():
    diagonal = np.diag([1.0, 10.0])
    assert slim.spread(diagonal, np.linalg.inv(diagonal)) == pytest.approx((101 * 1.01) ** 0.5 / 2)
    w = matrix_with_condition(50.0, 6, np.random.default_rng(0))
    assert 1 < slim.spread(w, np.linalg.inv(w)) < np.linalg.cond(w)


def test_what_is_measured_is_the_construction_of_the_package():
    x, w_k, w_v = slim.weights(16, 20.0, 3)
    W, b = values_from_keys(Attention(Heads(1), w_k, w_k, w_v, w_v))
    assert b is None and slim.off(x @ w_k @ W, x @ w_v) < 1e-12
    found = slim.measured(16, 20.0, 3)["float16"]
    assert found["keys"] == pytest.approx(slim.off(slim.kept_as(x @ w_k, "float16") @ W, x @ w_v), rel=1e-6)
    assert found["cond"] == pytest.approx(20)
