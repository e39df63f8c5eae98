"""The core: equal to attention written as loops, for any shapes, masks, groups, positions."""

from __future__ import annotations

import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qkvtheory import Attention, Heads, HypothesisError, causal, prefix, sliding_window
from qkvtheory.attention import base_two, merge, rational, repeat, rms_norm, softmax, split
from qkvtheory.lanes import slow
from qkvtheory.positions import Correction, rope


@st.composite
def layers(draw):
    """A random attention sublayer with its input."""
    groups, per_group, width, n = (draw(st.integers(1, 3)) for _ in range(4))
    heads, value_width, d = groups * per_group, draw(st.integers(1, 3)), draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    mask = draw(st.sampled_from([None, (n, n), (heads, n, n)]))
    bias = draw(st.sampled_from([None, (n, n), (heads, n, n)]))
    core = Heads(
        heads,
        groups=draw(st.sampled_from([groups, None])) if per_group == 1 else groups,
        mask=None if mask is None else (rng.random(mask) < 0.5) | np.eye(n, dtype=bool),
        scale=draw(st.sampled_from([None, 1.0, 0.3])),
        pattern=draw(st.sampled_from([softmax, rational])),
        rotate=rope(n, width) if width > 1 and draw(st.booleans()) else None,
        bias=None if bias is None else rng.normal(size=bias),
        norm_q=rms_norm(rng.uniform(1, 2, width)) if draw(st.booleans()) else None,
        norm_k=rms_norm() if draw(st.booleans()) else None,
        softcap=draw(st.sampled_from([None, 1.5])),
        correction=Correction(rng.normal(size=(n, n, 3)), rng.normal(size=3), 0.5) if draw(st.booleans()) else None,
    )
    sizes = {"Q": (d, heads * width), "K": (d, groups * width), "V": (d, groups * value_width)}
    W = {f"W_{c}": rng.normal(size=s) for c, s in (sizes | {"O": (heads * value_width, d)}).items()}
    with_biases = draw(st.booleans())
    b = {f"b_{c[-1]}": rng.normal(size=(1, w.shape[1])) for c, w in W.items()} if with_biases else {}
    return Attention(core, **W, **b), rng.normal(size=(n, d))


@given(layers())
def test_heads_equal_the_loops(case):
    layer, x = case
    np.testing.assert_allclose(layer(x), slow.attention(layer, x), rtol=1e-10, atol=1e-12)


@given(layers())
def test_rows_of_every_map_sum_to_one_and_respect_the_mask(case):
    layer, x = case
    maps = layer.core.maps(x @ layer.W_Q, x @ layer.W_K)
    assert maps.shape == (layer.core.heads, len(x), len(x))
    assert (maps >= 0).all()
    np.testing.assert_allclose(maps.sum(-1), 1)
    if layer.core.mask is not None:
        assert (maps[~np.broadcast_to(layer.core.mask, maps.shape)] == 0).all()


def test_softmax_by_hand():
    scores = np.array([[0.0, np.log(3)], [1000.0, 1000.0]])
    np.testing.assert_allclose(softmax(scores), [[0.25, 0.75], [0.5, 0.5]])
    np.testing.assert_allclose(softmax(scores, np.array([[True, False], [True, True]])), [[1, 0], [0.5, 0.5]])


def test_exact_patterns_by_hand():
    assert rational(np.array([[0, 1, 2]], dtype=object))[0].tolist() == [1 / 8, 2 / 8, 5 / 8]
    scores = np.array([[Fraction(0), Fraction(1), Fraction(-1)]], dtype=object)
    assert base_two(scores)[0].tolist() == [Fraction(2, 7), Fraction(4, 7), Fraction(1, 7)]
    assert base_two(scores, np.array([[True, True, False]]))[0].tolist() == [Fraction(1, 3), Fraction(2, 3), 0]
    for wrong in (Fraction(1, 2), Fraction(-14, 5), 0.5):
        with pytest.raises(ValueError, match="whole scores only"):
            base_two(np.array([[Fraction(1), wrong]], dtype=object))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_dtype_is_kept(dtype, rng):
    x = rng.normal(size=(3, 4)).astype(dtype)
    assert Heads(2, mask=causal(3))(x, x, x).dtype == dtype


def test_masks_entry_by_entry():
    for n, p, w in ((1, 1, 1), (4, 2, 3), (5, 0, 2)):
        seen = [(causal(n), prefix(n, p), sliding_window(n, w))]
        for i in range(n):
            for j in range(n):
                ((c, pre, s),) = seen
                assert c[i, j] == (j <= i)
                assert pre[i, j] == (j <= i or j < p)
                assert s[i, j] == (i - w < j <= i)
        assert all(m.shape == (n, n) and m.dtype == bool for m in seen[0])


def test_split_and_merge_are_inverse_and_blocks_are_consecutive(rng):
    z = rng.normal(size=(3, 6))
    assert (split(z, 2, "z")[1] == z[:, 3:]).all()
    assert (merge(split(z, 3, "z")) == z).all()


def test_grouped_heads_share_consecutive_keys():
    z = np.arange(2.0)[:, None, None]
    assert repeat(z, 4)[:, 0, 0].tolist() == [0, 0, 1, 1]
    assert repeat(z, 2) is z


def test_memory_of_another_length(rng):
    q, k, v = rng.normal(size=(2, 4)), rng.normal(size=(5, 4)), rng.normal(size=(5, 6))
    assert Heads(2)(q, k, v).shape == (2, 6)
    assert Heads(2).maps(q, k).shape == (2, 2, 5)


def test_scale_bias_and_softcap_by_hand():
    q = np.array([[2.0, 0.0]])
    assert Heads(1).scores(q, q).item() == pytest.approx(4 / np.sqrt(2))
    assert Heads(1, scale=3, bias=np.array([[1.0]])).scores(q, q).item() == 13
    assert Heads(1, scale=3, softcap=2.0).scores(q, q).item() == pytest.approx(2 * np.tanh(6))


def test_rms_norm_by_hand():
    z = np.array([[3.0, 4.0]])
    np.testing.assert_allclose(rms_norm(eps=0)(z), z / np.sqrt(12.5))
    np.testing.assert_allclose(rms_norm(np.array([2.0, 0.0]), eps=0)(z), [[6 / np.sqrt(12.5), 0]])


@pytest.mark.parametrize("arguments", [(0,), (-1,), (3, 2), (2, 4), (2, 0)])
def test_head_counts_that_do_not_fit_are_refused(arguments):
    with pytest.raises(ValueError, match="must divide heads"):
        Heads(*arguments)


def test_a_row_that_may_attend_to_nothing_is_refused():
    with pytest.raises(ValueError, match="every row"):
        Heads(1, mask=np.array([[True, False], [False, False]]))


@pytest.mark.parametrize(("heads", "q", "k", "words"), [
    (3, 4, 4, "queries of width 4 cannot be split into 3 heads"),
    (2, 4, 5, "keys of width 5 cannot be split into 2 heads"),
    (2, 4, 6, "query heads are 2 wide, key heads 3"),
])  # fmt: skip
def test_widths_that_do_not_fit_are_refused(heads, q, k, words):
    with pytest.raises(HypothesisError, match=words) as refusal:
        Heads(heads)(np.ones((2, q)), np.ones((2, k)), np.ones((2, 4)))
    assert refusal.value.hypothesis == "shapes agree"


@pytest.mark.parametrize(("heads", "groups", "width", "keys", "hint"), [
    (8, None, 64, 16, "pass Heads(8, groups=2)"),
    (12, None, 24, 8, "keys of width 8 cannot be split into 12 heads; for grouped heads pass Heads(12, groups=4)"),
    (8, 4, 64, 16, "pass Heads(8, groups=2)"),
    (8, None, 64, 24, "key heads 3"),  # 3 groups do not divide 8 heads
    (8, None, 64, 20, "keys of width 20 cannot be split into 8 heads"),  # two groups and a half
    (8, 2, 64, 40, "key heads 20"),  # 5 groups do not, either
])  # fmt: skip
def test_narrow_keys_are_taken_for_forgotten_groups(heads, groups, width, keys, hint):
    with pytest.raises(HypothesisError, match=re.escape(hint) + "$"):
        Heads(heads, groups)(np.ones((2, width)), np.ones((2, keys)), np.ones((2, keys)))


TABLES = {
    "for half the tokens": (5, 5, "is 5 x 5 but there are 10 queries and 7 keys"),
    "for queries only": (10, 10, "is 10 x 10 but there are 10 queries and 7 keys"),
    "for other heads": (3, 10, 7, "is 3 x 10 x 7 but there are 2 heads, 10 queries and 7 keys"),
    "for a batch": (1, 2, 10, 7, "is 1 x 2 x 10 x 7 but there are 2 heads, 10 queries and 7 keys"),
}


@pytest.mark.parametrize("case", TABLES.values(), ids=TABLES)
@pytest.mark.parametrize("table", ["mask", "bias"])
def test_a_mask_or_bias_of_another_size_is_named(table, case):
    *shape, says = case
    core = Heads(2, **{table: np.ones(shape, dtype=bool if table == "mask" else float)})
    with pytest.raises(HypothesisError, match=f"the {table} {says}$") as refusal:
        core(np.ones((10, 4)), np.ones((7, 4)), np.ones((7, 4)))
    assert refusal.value.hypothesis == "shapes agree"


@pytest.mark.parametrize("shape", [(10, 7), (2, 10, 7), (1, 10, 7), (1, 7), (10, 1)])
def test_a_mask_or_bias_may_repeat_along_an_axis(shape, rng):
    q, k = rng.normal(size=(10, 4)), rng.normal(size=(7, 4))
    mask, bias = np.ones(shape, dtype=bool), rng.normal(size=shape)
    full = Heads(2, mask=np.ones((10, 7), dtype=bool), bias=np.broadcast_to(bias, (2, 10, 7)))
    np.testing.assert_array_equal(Heads(2, mask=mask, bias=bias)(q, k, k), full(q, k, k))
