"""Rounding and depth: the stored run is that of today's code, and its prediction is one that can fail."""

from dataclasses import replace

import numpy as np
import pytest

from qkvtheory.experiments import depth, relative_error
from qkvtheory.figures import stored
from qkvtheory.network import MLP
from qkvtheory.stacks import eliminate_queries

LINES = stored("depth")["lines"]
IDS = [f"{line['kind']} {line['dtype']} {line['cond']:g}" for line in LINES]


@pytest.mark.parametrize("kept", LINES, ids=IDS)
def test_the_stored_lines_are_reproduced(kept):
    """Three depths and one network of five: another machine adds in another order."""
    depths = [1, 4, 12]
    rows = {row["depth"]: row for row in kept["rows"]}
    found = depth.line(kept["kind"], kept["dtype"], kept["cond"], depths, [0])
    for row in found:
        assert 1 / 5 < row["error"] / rows[row["depth"]]["error"] < 5
        assert 1 / 3 < row["amplification"] / rows[row["depth"]]["amplification"] < 3
        assert row["predicted"] == pytest.approx(found[0]["error"] * row["amplification"], rel=2e-3)


def test_the_stored_run_is_the_one_the_module_describes():
    data = stored("depth")
    assert [(line["kind"], line["dtype"], line["cond"]) for line in LINES] == list(depth.LINES)
    assert data["provenance"]["seeds"] == list(depth.SEEDS)
    for line in LINES:
        rows = line["rows"]
        assert [row["depth"] for row in rows] == list(depth.DEPTHS)
        assert line["exponent"] == depth.exponent(rows) and line["furthest"] == depth.furthest(rows)
        assert line["factor_per_layer"] == depth.factor_per_layer(rows)
        assert all(row["error"] <= row["worst"] for row in rows)
        assert all((row["rerun"] > 0) == (line["dtype"] == "float32") for row in rows)


@pytest.mark.parametrize("line", LINES, ids=IDS)
def test_every_stored_error_lies_near_its_prediction(line):
    """The sensitivity of the old network decides; a prediction of plain linear growth would be far off."""
    assert line["furthest"] < 3
    first, last = line["rows"][0], line["rows"][-1]
    linear = first["error"] * last["depth"] / last["error"]
    assert linear > 3 or linear < 1 / 3


def test_what_the_stored_run_shows():
    calm = [line for line in LINES if line["kind"] == "calm"]
    (steep,) = (line for line in LINES if line["kind"] == "steep")
    assert all(0.3 < line["exponent"] < 0.7 for line in calm)
    assert steep["factor_per_layer"] > 1.15 > max(line["factor_per_layer"] for line in calm)
    errors = {line["cond"]: line["rows"][-1]["error"] for line in calm if line["dtype"] == "float64"}
    assert errors[1.0] < errors[1e2] / 5 < errors[1e4] / 50


def test_the_new_network_has_no_query_matrices():
    network = eliminate_queries(depth.stack("calm", 10.0, 3, 0))
    assert all((np.eye(depth.WIDTH) == block.attention.W_Q).all() for block in network.blocks)


def test_the_stream_keeps_its_size():
    """Otherwise the error would grow or shrink with the stream, and the depth would not be what is measured."""
    for kind in depth.KINDS:
        tokens = np.eye(depth.TOKENS)
        sizes = [depth.shallower(depth.stack(kind, 1e2, 24, 0), n).stream(tokens).std() for n in (1, 8, 24)]
        assert min(sizes) > 0.3 and max(sizes) < 3


def test_gains_of_a_network_known_by_hand():
    """Without attention, and with weights this small, a layer is linear: it halves any disturbance, as the stream."""
    network = depth.stack("calm", 1.0, 3, 0)
    one = np.eye(depth.WIDTH)
    blocks = []
    for block in network.blocks:
        silent = replace(block.attention, W_O=0 * one)
        blocks.append(replace(block, attention=silent, mlp=MLP(lambda y: y, one, 0.5 * one)))
    found = depth.gains(replace(network, blocks=blocks))
    assert np.allclose(found, np.triu(np.ones((3, 3))), rtol=1e-6)


def test_gains_see_a_layer_that_enlarges_a_disturbance():
    """A bias that does not shrink keeps the stream large while a disturbance is doubled by every layer."""
    network = depth.stack("calm", 1.0, 3, 0)
    one, far = np.eye(depth.WIDTH), np.full((1, depth.WIDTH), 1e3)
    blocks = []
    for block in network.blocks:
        silent = replace(block.attention, W_O=0 * one)
        blocks.append(replace(block, attention=silent, mlp=MLP(lambda y: y - far, one, 2 * one, None, far)))
    start = replace(network, embedding=network.embedding * 1e-3 + far, blocks=blocks)
    found = depth.gains(start)
    assert found[0, 2] == pytest.approx(4, rel=1e-3) and found[1, 2] == pytest.approx(2, rel=1e-3)
    assert depth.amplification(found, 3) == pytest.approx((1 + 4 + 16) ** 0.5, rel=1e-3)


def test_fits_of_lines_known_by_hand():
    powers = [{"depth": n, "error": 3e-15 * n**0.5, "predicted": 6e-15 * n**0.5} for n in depth.DEPTHS]
    assert depth.exponent(powers) == pytest.approx(0.5) and depth.furthest(powers) == pytest.approx(2)
    assert depth.factor_per_layer([{"depth": n, "error": 1e-15 * 1.2**n} for n in depth.DEPTHS]) == pytest.approx(1.2)


def test_float32_networks_are_float32_throughout():
    exact = depth.stack("calm", 10.0, 2, 0)
    network = depth.stored_as(exact, "float32")
    out = network(np.eye(depth.TOKENS, dtype=np.float32))
    assert out.dtype == np.float32
    assert 1e-9 < relative_error(out, exact(np.eye(depth.TOKENS))) < 1e-5
