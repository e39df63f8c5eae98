"""The benchmark runs, and its peers do the same work; no time is asserted anywhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from qkvtheory.stacks import eliminate_queries
from tests.bench import lines
from tests.bench.sympy_peer import block, settled, sympy_step

ROOT = Path(__file__).parents[2]


def test_sympy_proves_the_same_step():
    sympy_step()


def test_the_peer_can_fail():
    import sympy

    n, d = sympy.symbols("n d", integer=True, positive=True)
    weights = {name: sympy.MatrixSymbol(name, d, d) for name in "QKVOUD"}
    x = sympy.MatrixSymbol("X", n, d)
    assert settled(block(weights, x)) != settled(block(weights | {"K": weights["V"]}, x))


@pytest.mark.parametrize("line", [lines.induction_step, lines.unrolled], ids=lambda line: line.__name__)
def test_a_line_gives_rows(line):
    rows = list(line())
    assert rows and all(row.what and row.ours for row in rows)


def test_bare_lapack_makes_the_matrices_that_elimination_makes():
    old = lines.stack(3, 64, 96, 10)
    new = eliminate_queries(old)
    ours = [new.embedding]
    for layer in new.blocks:
        a, mlp = layer.attention, layer.mlp
        ours += [a.W_K, a.W_V, a.W_O, mlp.W_up, mlp.W_down]
    assert all(np.allclose(*pair, rtol=1e-12) for pair in zip(ours, lines.bare_elimination(old), strict=True))


def test_memory_counts_every_matrix_of_both_networks():
    layers, d, hidden, words = 2, 64, 96, 10
    assert lines.held(lines.stack(layers, d, hidden, words)) == 8 * (
        layers * (4 * d * d + 2 * d * hidden) + 2 * d * words
    )
    time, memory = lines.network_elimination(layers, d, hidden, words)
    assert time.ratio > 0 and memory.ratio > 1  # both networks are held at the end


@pytest.mark.torch
def test_the_training_peer_has_our_shape_and_both_learn():
    """Biases are all that the peer has more; a step of either lowers its loss."""
    pytest.importorskip("torch"), pytest.importorskip("transformers")
    layers, d, heads, n = 2, 16, 2, 8
    models = lines.our_model(layers, d, heads, n), lines.hf_gpt2(layers, d, heads, n)
    ours, peer = (sum(p.numel() for p in model.parameters()) for model in models)
    assert peer - ours == 9 * d * layers + d * (2 * layers + 1)
    for model in models:
        step = lines.training_step(model, n, batch=2)
        first, second = (float(step()[0][0]) for _ in range(2))
        assert second < first
    (row,) = lines.training(layers, d, heads, n, batch=2, rounds=1)
    assert row.ratio > 0 and row.ours != "not run here"


def test_ratio_is_ours_over_peer():
    _, _, ratio = lines.in_turn(lambda: sum(range(200_000)), lambda: None, rounds=3)
    assert ratio > 1


def test_unknown_line_is_bad_input():
    run = subprocess.run(
        [sys.executable, "-m", "tests.bench", "--only", "nothing"], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 2
    assert "no line matches" in run.stderr and "Traceback" not in run.stderr
