"""Positions: rotations that depend on the distance only, biases, tables, and the 2D correction of the scores."""

from __future__ import annotations

from fractions import Fraction
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qkvtheory import Heads, HypothesisError, causal
from qkvtheory.attention import base_two, rational, softmax
from qkvtheory.positions import (
    Correction,
    Rope,
    alibi,
    initial_correction,
    rational_rope,
    relative_bias,
    relative_channels,
    rope,
    separable_channels,
    sinusoidal,
    sinusoids,
)


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


def test_an_odd_table_leaves_the_last_cosine_out():
    table = sinusoidal(3, 3)
    assert table[0].tolist() == [0, 1, 0]
    np.testing.assert_allclose(table[2], [np.sin(2), np.cos(2), np.sin(2 * 10000 ** (-2 / 3))])


def test_sinusoids_of_any_positions():
    t = np.array([[0, 1], [-1, 0]])
    assert sinusoids(t, 5).shape == (2, 2, 5)
    np.testing.assert_array_equal(sinusoids(t, 4)[0, 1], sinusoidal(2, 4)[1])


def test_exact_rotations_run_in_an_exact_core():
    q = np.array([[1, 2], [3, 4]], dtype=int).astype(object)
    scores = Heads(1, scale=1, pattern=rational, rotate=rational_rope(2, 1)).scores(q, q)[0]
    assert scores[0, 0] == 5  # a rotation keeps lengths
    assert scores[1, 1] == 25


# -- the 2D correction -------------------------------------------------------------------------------------------------


def random_correction(rng, n=5, channels=3, keys=None):
    return Correction(rng.normal(size=(n, keys or n, channels)), rng.normal(size=channels), rng.normal())


def by_loops(correction, scores):
    """Channel by channel and entry by entry, from the definition."""
    heads, rows, cols = scores.shape
    out = np.empty(scores.shape, dtype=scores.dtype)
    for h, i, j in np.ndindex(heads, rows, cols):
        channels = [scores[h, i, j] + p for p in correction.table[i, j]]
        out[h, i, j] = sum(w * c for w, c in zip(correction.weights, channels, strict=True)) + correction.bias
    return out


@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 5), st.integers(0, 2**32))
def test_a_correction_is_copy_add_and_collapse(heads, n, channels, seed):
    rng = np.random.default_rng(seed)
    correction, scores = random_correction(rng, n, channels), rng.normal(size=(heads, n, n))
    np.testing.assert_allclose(correction(scores), by_loops(correction, scores), rtol=1e-12, atol=1e-12)
    closed = correction.temperature * scores + correction.added
    np.testing.assert_allclose(correction(scores), closed, rtol=1e-12, atol=1e-12)


def test_a_correction_of_exact_numbers_is_exact(rng):
    def fractions(*shape):
        return np.frompyfunc(lambda x: Fraction(int(x), 7), 1, 1)(rng.integers(-9, 10, shape))

    scores = fractions(2, 3, 3)
    correction = Correction(fractions(3, 3, 4), fractions(4), Fraction(1, 3))
    assert (correction(scores) == by_loops(correction, scores)).all()
    assert (correction(scores) == correction.temperature * scores + correction.added).all()
    assert all(isinstance(x, Fraction) for x in correction(scores).ravel())


def test_the_table_follows_the_precision_of_the_scores(rng):
    correction, scores = random_correction(rng), rng.normal(size=(2, 5, 5))
    single = correction(scores.astype(np.float32))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, correction(scores), rtol=1e-4, atol=1e-5)


def test_fewer_tokens_take_the_first_rows_and_columns(rng):
    correction, scores = random_correction(rng), rng.normal(size=(2, 5, 5))
    np.testing.assert_allclose(correction(scores[:, :3, :3]), correction(scores)[:, :3, :3], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("rows", "n"), [(1, 5), (1, 3), (2, 4), (5, 5), (1, 1)])
def test_the_last_rows_are_those_of_the_whole(rows, n, rng):
    correction, scores = random_correction(rng), rng.normal(size=(2, 5, 5))
    whole = correction(scores)[:, n - rows : n, :n]
    found = correction.last(rows, n)(scores[:, n - rows : n, :n])
    np.testing.assert_allclose(found, whole, rtol=1e-12, atol=1e-14)


def test_decoding_token_by_token_is_the_causal_map(rng):
    q, k, v = rng.normal(size=(3, 5, 4))
    correction = random_correction(rng)
    whole = Heads(2, mask=causal(5), correction=correction)(q, k, v)
    steps = [Heads(2, correction=correction.last(1, t + 1))(q[t : t + 1], k[: t + 1], v[: t + 1]) for t in range(5)]
    np.testing.assert_allclose(np.concatenate(steps), whole, rtol=1e-12, atol=1e-14)


def test_heads_correct_after_the_bias_and_before_the_cap(rng):
    q, k = rng.normal(size=(2, 3, 4))
    bias, correction = rng.normal(size=(2, 3, 3)), random_correction(rng, 3)
    found = Heads(2, bias=bias, softcap=1.5, correction=correction).scores(q, k)
    np.testing.assert_array_equal(found, 1.5 * np.tanh(correction(Heads(2, bias=bias).scores(q, k)) / 1.5))
    other = correction(Heads(2).scores(q, k)) + bias
    assert np.abs(found - 1.5 * np.tanh(other / 1.5)).max() > 1e-3


def test_a_correction_sees_what_the_mask_hides_but_not_the_other_way_round(rng):
    q, correction = rng.normal(size=(3, 4)), random_correction(rng, 3)
    core = Heads(2, mask=causal(3), correction=correction)
    np.testing.assert_array_equal(core.maps(q, q), softmax(Heads(2, correction=correction).scores(q, q), causal(3)))


def test_the_published_table_is_separable():
    table = separable_channels(6)
    assert table.shape == (6, 6, 10)
    for j in range(6):
        np.testing.assert_array_equal(table[:, j, :5], sinusoidal(6, 5))  # the rows
        np.testing.assert_array_equal(table[j, :, 5:], sinusoidal(6, 5))  # the columns
    assert separable_channels(4, 3).shape == (4, 4, 3)
    assert (separable_channels(4, 3)[:, :, 0] == sinusoidal(4, 1)).all()  # 1 on the rows, 2 on the columns


@pytest.mark.parametrize("channels", [1, 2, 3, 10])
def test_separable_parts_add_up_to_what_is_added(channels, rng):
    correction = Correction(separable_channels(5, channels), rng.normal(size=channels), 0.7)
    rows, keys = correction.separable()
    assert rows.shape == keys.shape == (5,)
    np.testing.assert_allclose(rows[:, None] + keys, correction.added, atol=1e-15)
    half = channels // 2
    np.testing.assert_allclose(keys, correction.table[0, :, half:] @ correction.weights[half:], atol=1e-15)


def test_a_constant_channel_belongs_to_the_rows():
    rows, keys = Correction(np.ones((3, 3, 1)), np.array([2.0]), 1.0).separable()
    assert rows.tolist() == [3, 3, 3]
    assert keys.tolist() == [0, 0, 0]


def test_softmax_sees_a_temperature_and_a_key_bias_only(rng):
    q, k = rng.normal(size=(2, 6, 8))
    correction = Correction(separable_channels(6), rng.normal(size=10), 3.0)
    plain = Heads(2).scores(q, k)
    corrected = Heads(2, correction=correction).maps(q, k)
    np.testing.assert_allclose(
        corrected, softmax(correction.temperature * plain + correction.separable()[1]), atol=1e-14
    )
    assert np.abs(corrected - softmax(plain)).max() > 1e-2


def test_relative_channels_depend_on_the_distance_and_are_not_separable():
    table = relative_channels(5)
    assert table.shape == (5, 5, 10)
    for t in range(-4, 5):
        along = np.diagonal(table, t).T
        np.testing.assert_array_equal(along, np.broadcast_to(sinusoids(t, 10), along.shape))
    odd = table - table.swapaxes(0, 1)
    assert np.abs(odd[0, 2, ::2] - 2 * odd[0, 1, ::2]).max() > 0.1  # not linear in the distance
    assert (odd[:, :, 1::2] == 0).all()
    with pytest.raises(HypothesisError, match=r"channels \[0, 1, 2\]") as refusal:
        Correction(relative_channels(5, 3), np.ones(3)).separable()
    assert refusal.value.hypothesis == "separable"


def test_one_mixed_channel_is_named(rng):
    table = np.concatenate([separable_channels(4, 2), relative_channels(4, 1)], axis=-1)
    with pytest.raises(HypothesisError, match=r"channels \[2\] of the table depend on both"):
        Correction(table, rng.normal(size=3)).separable()


def test_initial_weights_are_small_and_random():
    weights = np.stack([initial_correction(separable_channels(2), seed).weights for seed in range(500)])
    assert weights.std() == pytest.approx(0.02, rel=0.05)
    assert abs(weights.mean()) < 1e-3
    assert (weights[0] != weights[1]).all()
    first = initial_correction(separable_channels(2))
    np.testing.assert_array_equal(first.weights, weights[0])
    assert first.bias == 0


def test_exact_scores_run_in_an_exact_core():
    one = np.array([[1, 2], [3, 4]], dtype=int).astype(object)
    correction = Correction(np.ones((2, 2, 2), dtype=int).astype(object), np.array([1, -2], dtype=object), 5)
    core = Heads(1, scale=1, pattern=base_two, correction=correction)
    assert core.scores(one, one)[0].tolist() == [[-1, -7], [-7, -21]]


@pytest.mark.parametrize(
    ("table", "weights", "message"),
    [
        (np.ones((3, 3)), np.ones(3), "n x n x channels, not an array of shape (3, 3)"),
        ([[[1.0]]], np.ones(1), "n x n x channels, not a list"),
        (np.ones((3, 3, 2)), np.ones(3), "2 channels needs an array of 2 weights, not an array of shape (3,)"),
        (np.ones((3, 3, 2)), np.ones((1, 2)), "not an array of shape (1, 2)"),
        (np.ones((3, 3, 2)), [1.0, 2.0], "not a list"),
    ],
)
def test_a_table_or_weights_of_another_shape_are_refused(table, weights, message):
    with pytest.raises(ValueError) as refusal:
        Correction(table, weights)
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("rows", "cols", "advice"),
    [(1, 4, r"pass correction\.last\(1, 4\)"), (4, 4, "make another"), (3, 4, "make another"), (3, 2, "make another")],
)
def test_scores_that_the_table_does_not_cover_are_refused(rows, cols, advice, rng):
    n = 4 if rows == 1 else 3
    with pytest.raises(HypothesisError, match=advice) as refusal:
        random_correction(rng, n)(rng.normal(size=(2, rows, cols)))
    assert refusal.value.hypothesis == "shapes agree"
    assert f"for {n} queries and {n} keys, the scores are of {rows} and {cols}" in str(refusal.value)


@pytest.mark.parametrize(("rows", "n"), [(0, 3), (4, 3), (1, 6), (-1, 3)])
def test_there_are_no_last_tokens_beyond_the_table(rows, n, rng):
    with pytest.raises(ValueError, match=rf"a table for 5 tokens has no last {rows} of {n}"):
        random_correction(rng).last(rows, n)


@pytest.mark.parametrize("make", [
    partial(alibi, heads=2), partial(separable_channels, channels=5), partial(relative_channels, channels=3)
])  # fmt: skip
def test_the_rows_of_the_last_tokens_are_those_of_the_whole_table(make):
    whole = make(6)
    for rows in (1, 2, 6):
        cut = whole[:, 6 - rows :] if make.func is alibi else whole[6 - rows :]
        assert (make(6, last=rows) == cut).all()
    for rows in (0, 7, -1):
        with pytest.raises(ValueError, match=f"6 tokens have no last {rows}; choose 1 <= last <= 6"):
            make(6, last=rows)


@pytest.mark.parametrize("maker", [separable_channels, relative_channels])
@pytest.mark.parametrize("arguments", [(0, 4), (3, 0)])
def test_a_table_needs_a_token_and_a_channel(maker, arguments):
    with pytest.raises(ValueError, match="at least one token and one channel"):
        maker(*arguments)


# -- the 2D correction in PyTorch --------------------------------------------------------------------------------------


@pytest.mark.torch
@pytest.mark.parametrize("table", [separable_channels(6), relative_channels(6)], ids=["separable", "relative"])
def test_a_correction_is_a_broadcast_an_addition_and_a_1x1_convolution(table, rng):
    """With PyTorch's own convolution, on channels first as it wants them."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    convolution = torch.nn.Conv2d(10, 1, kernel_size=1).double()
    scores = torch.from_numpy(rng.normal(size=(3, 6, 6)))
    channels = scores[:, None].expand(3, 10, 6, 6) + torch.from_numpy(table).permute(2, 0, 1)
    theirs = convolution(channels)[:, 0]
    weights, bias = convolution.weight[0, :, 0, 0], convolution.bias[0]
    ours = Correction(table, weights, bias)(scores)
    np.testing.assert_allclose(ours.detach(), theirs.detach(), rtol=1e-13, atol=1e-14)
    closed = Correction(table, weights.detach().numpy(), bias.item())
    np.testing.assert_allclose(closed(scores.numpy()), theirs.detach(), rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(
        closed.temperature * scores.numpy() + closed.added, theirs.detach(), rtol=1e-12, atol=1e-13
    )


@pytest.mark.torch
@pytest.mark.filterwarnings("error")
def test_what_is_learned_gets_its_gradient():
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 5, 8, generator=generator)
    start = initial_correction(separable_channels(7))
    weights, bias = torch.nn.Parameter(torch.tensor(start.weights)), torch.nn.Parameter(torch.zeros(1))
    correction = Correction(start.table, weights, bias)
    out = Heads(2, correction=correction)(q, k, v)
    assert out.dtype == torch.float32
    (out * torch.arange(8)).sum().backward()
    assert weights.grad.shape == (10,)
    assert weights.grad.abs().min() > 0
    assert abs(bias.grad.item()) < 1e-4 * weights.grad.abs().max()  # softmax does not see the bias
    rows, keys = correction.separable()
    assert rows.requires_grad
    assert keys.requires_grad
    np.testing.assert_allclose((rows[:, None] + keys).detach(), correction.added.detach(), atol=1e-14)


@pytest.mark.torch
def test_a_correction_in_torch_equals_numpy(rng):
    torch = pytest.importorskip("torch")
    q, k, v = rng.normal(size=(3, 6, 8))
    core = Heads(2, mask=causal(6), correction=initial_correction(relative_channels(9), seed=3, deviation=1.0))
    found = core(*(torch.from_numpy(z) for z in (q, k, v)))
    np.testing.assert_allclose(found, core(q, k, v), rtol=1e-12, atol=1e-13)
