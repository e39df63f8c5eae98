"""Positions: rotations that depend on the distance only, biases, tables."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qkvtheory import Heads
from qkvtheory.attention import rational
from qkvtheory.positions import Rope, alibi, rational_rope, relative_bias, rope, sinusoidal


def matrices(table: Rope, n: int, width: int) -> np.ndarray:
    """R_t for every t: rows of the identity turned at position t."""
    like = np.eye(width) if table.cos.dtype != object else np.eye(width, dtype=int).astype(object)
    return np.stack(
        [np.concatenate([table(np.stack([row] * n)[None])[0, t : t + 1] for row in like]) for t in range(n)]
    )


tables = st.tuples(
    st.integers(2, 8), st.sampled_from(["interleaved", "half"]), st.sampled_from([1.0, 0.5]), st.floats(2, 1e5)
)


@given(tables)
def test_rotations_are_orthogonal_and_depend_on_the_distance(case):
    planes, layout, fraction, base = case
    n, width = 4, 2 * planes
    R = matrices(rope(n, width, base, layout, fraction), n, width)
    np.testing.assert_allclose(R[0], np.eye(width), atol=1e-15)
    for i in range(n):
        np.testing.assert_allclose(R[i] @ R[i].T, np.eye(width), atol=1e-12)
        for j in range(i + 1):
            np.testing.assert_allclose(R[i] @ R[j].T, R[i - j], atol=1e-12)
            np.testing.assert_allclose(R[j] @ R[i].T, R[i - j].T, atol=1e-12)
    assert np.abs(R[1] - R[0]).max() > 0.1


def test_rational_rotations_obey_the_law_exactly():
    R = matrices(rational_rope(4, 2), 4, 4)
    for i in range(4):
        for j in range(i + 1):
            assert (R[i] @ R[j].T == R[i - j]).all()
    assert (R[1] != R[0]).any()


@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_the_two_layouts_are_one_up_to_a_permutation(fraction, rng):
    n, width = 5, 8
    turned = int(width * fraction)
    order = np.r_[0:turned:2, 1:turned:2, turned:width]  # even coordinates, odd coordinates, the rest
    z = rng.normal(size=(2, n, width))
    interleaved, half = (rope(n, width, layout=layout, fraction=fraction) for layout in ("interleaved", "half"))
    np.testing.assert_allclose(interleaved(z)[..., order], half(z[..., order]))
    assert np.abs(interleaved(z) - half(z)).max() > 0.1


def test_the_unrotated_part_is_left_alone(rng):
    z = rng.normal(size=(1, 3, 8))
    assert (rope(3, 8, fraction=0.5)(z)[..., 4:] == z[..., 4:]).all()


def test_rope_by_hand():
    turned = rope(2, 4, 100.0)(np.array([[[1.0, 0, 1, 0]] * 2]))[0, 1]
    np.testing.assert_allclose(turned, [np.cos(1), np.sin(1), np.cos(0.1), np.sin(0.1)])


def test_scores_under_rope_are_invariant_under_a_shift_of_all_positions(rng):
    q, k = rng.normal(size=(1, 4)), rng.normal(size=(1, 4))
    scores = Heads(1, rotate=rope(6, 4)).scores(np.repeat(q, 6, 0), np.repeat(k, 6, 0))[0]
    for t in range(-5, 6):
        np.testing.assert_allclose(np.diag(scores, t), np.diag(scores, t)[0])
    assert np.abs(np.diff(scores[0])).min() > 1e-3


def test_rope_refuses_bad_arguments():
    with pytest.raises(ValueError, match="layout"):
        rope(3, 4, layout="spiral")
    with pytest.raises(ValueError, match="no plane to rotate"):
        rope(3, 1)
    with pytest.raises(ValueError, match="no plane to rotate"):
        rope(3, 4, fraction=0.25)


def test_alibi_by_hand():
    bias = alibi(3, 2)
    assert bias.shape == (2, 3, 3)
    assert bias[0, 0].tolist() == [0, -1 / 16, -2 / 16]
    assert bias[1, 2].tolist() == [-2 / 256, -1 / 256, 0]
    assert (alibi(3, 2, slopes=[1, 2])[1] == 2 * alibi(3, 2, slopes=[1, 2])[0]).all()


def test_alibi_slopes_of_the_paper_for_eight_heads():
    assert (-alibi(2, 8)[:, 0, 1]).tolist() == [2.0**-h for h in range(1, 9)]


def test_relative_bias_depends_on_the_offset_only():
    b = np.arange(5.0)
    assert relative_bias(b, 3).tolist() == [[2, 3, 4], [1, 2, 3], [0, 1, 2]]
    per_head = relative_bias(np.stack([b, -b]), 3)
    assert per_head.shape == (2, 3, 3)
    assert (per_head[1] == -per_head[0]).all()
    with pytest.raises(ValueError, match="5 entries, not 4"):
        relative_bias(np.arange(4.0), 3)


def test_a_relative_bias_reaches_the_scores(rng):
    q, b = rng.normal(size=(3, 4)), rng.normal(size=5)
    added = Heads(2, bias=relative_bias(b, 3)).scores(q, q) - Heads(2).scores(q, q)
    np.testing.assert_allclose(added, np.stack([relative_bias(b, 3)] * 2), atol=1e-14)


def test_sinusoidal_table():
    table = sinusoidal(3, 4)
    assert table[0].tolist() == [0, 1, 0, 1]
    np.testing.assert_allclose(table[2], [np.sin(2), np.cos(2), np.sin(0.02), np.cos(0.02)])


def test_exact_rotations_run_in_an_exact_core():
    q = np.array([[1, 2], [3, 4]], dtype=int).astype(object)
    scores = Heads(1, scale=1, pattern=rational, rotate=rational_rope(2, 1)).scores(q, q)[0]
    assert scores[0, 0] == 5  # a rotation keeps lengths
    assert scores[1, 1] == 25
