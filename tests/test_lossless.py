"""What a cache can do without while the function stays: on random layers, and everything that is refused."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qkvtheory import Attention, ConditionWarning, Heads, HypothesisError, causal, lossless, tying
from qkvtheory.attention import rational, rms_norm
from qkvtheory.positions import alibi, rope
from tests.layers import EPS, conditioned, error

SEEDS = st.integers(0, 999)


def tokens(rng: np.random.Generator, n: int = 6, d: int = 12) -> np.ndarray:
    return rng.normal(size=(n, d))


# -- keys in the span of the values ------------------------------------------------------------------------------------


def tieable(rng: np.random.Generator, heads: int, groups: int, width: int, values: int, **core: Any) -> Attention:
    """A layer of width 12 whose keys lie in the span of the values, head by head; ``values``: width of a value head."""
    d = 12
    W_V = [rng.normal(size=(d, values)) for _ in range(groups)]
    W_K = [v @ rng.normal(size=(values, width)) / 4 for v in W_V]
    W_Q, W_O = rng.normal(size=(d, heads * width)) / 4, rng.normal(size=(heads * values, d)) / 4
    return Attention(Heads(heads, groups, **core), W_Q, np.concatenate(W_K, 1), np.concatenate(W_V, 1) / 4, W_O)


@given(st.sampled_from([(1, 1), (2, 2), (4, 2), (4, 1)]), st.integers(1, 4), st.integers(0, 2), st.booleans(), SEEDS)
def test_keys_in_the_span_of_the_values_are_tied(sizes, width, more, biased, seed):
    """Grouped or not, value heads as wide as key heads or wider, any mask and bias, a bias on queries and outputs."""
    rng, (heads, groups), n = np.random.default_rng(seed), sizes, 6
    a = tieable(rng, heads, groups, width, width + more, mask=causal(n), bias=alibi(n, heads))
    if biased:
        a = replace(a, b_Q=rng.normal(size=(1, heads * width)), b_O=rng.normal(size=(1, 12)))
    tied, x = lossless.keys_in_values(a), tokens(rng)
    assert tied.W_K is tied.W_V and tied.W_V is a.W_V and tied.W_O is a.W_O
    assert error(tied(x), a(x)) < 1e-10


def test_a_bias_of_one_dimension_is_turned_too(rng):
    a = tieable(rng, 2, 2, 3, 3)
    bias, x = rng.normal(size=6), tokens(rng)
    row, flat = (lossless.keys_in_values(replace(a, b_Q=b)) for b in (bias[None], bias))
    assert error(flat(x), replace(a, b_Q=bias)(x)) < 1e-12
    assert (flat.b_Q == row.b_Q).all()


@given(st.floats(0, 6), SEEDS)
def test_one_full_head_is_always_tied(log_cond, seed):
    rng = np.random.default_rng(seed)
    W_Q, W_K, W_O = rng.normal(size=(3, 12, 12)) / 12**0.5
    a = Attention(Heads(1), W_Q, W_K, conditioned(rng, 12, 10**log_cond), W_O)
    tied, x = lossless.keys_in_values(a), tokens(rng)
    assert error(tied(x), a(x)) < 1e-11 * 10**log_cond
    assert error(tied.W_Q @ tied.W_K.T, W_Q @ W_K.T) < 1e-11 * 10**log_cond


@given(SEEDS)
def test_generic_narrow_heads_are_refused(seed):
    a = Attention(Heads(3), *np.random.default_rng(seed).normal(size=(4, 12, 12)))
    with pytest.raises(
        HypothesisError, match=r"head 0 of W_K leaves the span of W_V: a part of its scores, [\d.]+ of their size"
    ):
        lossless.keys_in_values(a)


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_a_key_that_leaves_the_span_by_more_than_rounding_is_refused(scale, rng):
    a = tieable(rng, 2, 2, 3, 3)
    a = replace(a, W_K=scale * a.W_K)
    for share, fine in ((1e-15, True), (1e-9, False)):
        W_K = a.W_K.copy()
        W_K[0, 4] += share * np.abs(W_K).max()
        if fine:
            assert lossless.keys_in_values(replace(a, W_K=W_K)).W_K is a.W_V
            continue
        with pytest.raises(HypothesisError, match="head 1 of W_K") as refusal:
            lossless.keys_in_values(replace(a, W_K=W_K))
        assert refusal.value.hypothesis == "keys in the span of the values"


def nearly_tieable(rng: np.random.Generator, apart: float, off: float, dtype: str) -> Attention:
    """One head, 8 wide: two columns of the values this far apart, and keys this far off their span."""
    W_V = rng.normal(size=(8, 2))
    W_V[:, 1] = W_V[:, 0] + apart * W_V[:, 1]
    W_K = W_V @ rng.normal(size=(2, 2)) + off * rng.normal(size=(8, 2))
    weights = rng.normal(size=(8, 2)), W_K, W_V, rng.normal(size=(2, 8))
    return Attention(Heads(1), *(W.astype(dtype) for W in weights))


@pytest.mark.filterwarnings("ignore:the transposed values")
@pytest.mark.parametrize(("apart", "off", "dtype"), [
    (1e-2, 1e-3, "f4"), (1e-3, 1e-2, "f4"), (1.0, 1e-4, "f4"), (1e-4, 1e-7, "f8"), (1e-6, 1e-9, "f8"),
])  # fmt: skip
def test_nearly_dependent_values_excuse_no_more_than_rounding(apart, off, dtype, rng):
    """Judged by the square of their condition number, all of these passed, in silence."""
    for _ in range(20):
        with pytest.raises(HypothesisError, match="leaves the span of W_V"):
            lossless.keys_in_values(nearly_tieable(rng, apart, off, dtype))
        a = nearly_tieable(rng, apart, 0, dtype)  # may warn, but does not refuse
        assert lossless.keys_in_values(a).W_K is a.W_V


@pytest.mark.parametrize("apart", [1e-8, 1e-10, 1e-12, 1e-14])
def test_keys_made_of_nearly_dependent_values_are_tied_to_rounding(apart, rng):
    """By the inverse alone they would be off by cond times the rounding unit."""
    for _ in range(10):
        a, x = nearly_tieable(rng, apart, 0, "f8"), tokens(rng, d=8)
        with pytest.warns(ConditionWarning, match="transposed values of head 0"):
            tied = lossless.keys_in_values(a)
        assert error(tied(x), a(x)) < 1e-13


@given(st.sampled_from(["f4", "f8"]), st.integers(-100, 100), SEEDS)
def test_the_basis_of_a_head_does_not_matter(dtype, exponent, seed):
    """diag(1, t) turns a head, which its function does not notice: a column of keys tiny, and read as much more."""
    rng, t = np.random.default_rng(seed), 2.0 ** (exponent if dtype == "f8" else exponent / 4)
    a = nearly_tieable(rng, 1, 0, dtype)
    turn = np.array([1, t]).astype(dtype)
    turned = replace(a, W_Q=a.W_Q / turn, W_K=a.W_K * turn)
    x = tokens(rng, d=8).astype(dtype)
    assert error(lossless.keys_in_values(turned)(x), a(x)) < 300 * np.finfo(dtype).eps
    outside = a.W_K.copy()
    outside[:, 1] = tokens(rng, 1, 8)
    with pytest.raises(HypothesisError, match="leaves the span of W_V"):
        lossless.keys_in_values(replace(turned, W_K=outside * turn))


def test_what_only_a_query_bias_sees_is_looked_at(rng):
    """The queries do not read the second column of the keys; their bias does."""
    a = nearly_tieable(rng, 1, 0, "f8")
    W_Q, W_K = a.W_Q * [1, 0], a.W_K.copy()
    W_K[:, 1] = rng.normal(size=8)
    blind, x = replace(a, W_Q=W_Q, W_K=W_K), tokens(rng, d=8)
    assert error(lossless.keys_in_values(blind)(x), blind(x)) < 1e-13
    for bias in (np.array([[0.0, 1.0]]), np.array([0.0, 1.0])):
        with pytest.raises(HypothesisError, match="leaves the span of W_V"):
            lossless.keys_in_values(replace(blind, b_Q=bias))


@pytest.mark.parametrize("dtype", ["f8", object])
def test_keys_and_queries_that_are_zero_are_tied(dtype, rng):
    """Zero is in every span."""
    W_V = rng.integers(-3, 4, (4, 4))
    W_V[:, :2], W_V[:, 2:] = np.eye(4, 2, dtype=int), np.eye(4, 2, -2, dtype=int)
    W = [rng.integers(-3, 4, (4, 4)), np.zeros((4, 4), dtype=int), W_V, rng.integers(-3, 4, (4, 4))]
    W = [w.astype(float) if dtype == "f8" else np.frompyfunc(Fraction, 1, 1)(w.astype(object)) for w in W]
    a = Attention(Heads(2, scale=1, pattern=rational), *W)
    for b in (a, replace(a, W_Q=W[1], W_K=W[0])):
        assert (lossless.keys_in_values(b)(W[3]) == b(W[3])).all()


def test_sizes_far_from_one(rng):
    a = tieable(rng, 2, 2, 3, 3)
    x, keys = tokens(rng), rng.normal(size=(12, 6))
    for size in (1e-200, 1e200):
        far = replace(a, W_Q=a.W_Q / size, W_K=a.W_K * size)
        assert error(lossless.keys_in_values(far)(x), a(x)) < 1e-12
        with pytest.raises(HypothesisError, match="leaves the span of W_V"):
            lossless.keys_in_values(replace(a, W_Q=size * a.W_Q, W_K=size * keys))
    with pytest.raises(HypothesisError, match="the new W_Q contains NaN or infinity"):
        lossless.keys_in_values(replace(a, W_Q=a.W_Q * 1e200, W_K=a.W_K * 1e200))


@pytest.mark.filterwarnings("ignore:head 0. queries")
def test_queries_and_keys_that_cancel_are_tied():
    """No score is left, so none can be wrong."""
    q, k = np.arange(1.0, 4.0), np.array([1.0, -2.0, 5.0])
    W_Q, W_K = np.stack([q, q], axis=1), np.stack([k, -k], axis=1)
    W_V = np.stack([k, np.array([0.0, 1.0, 1.0])], axis=1)
    a = Attention(Heads(1), W_Q, W_K, W_V, np.eye(2, 3))
    x = np.eye(3)
    assert error(lossless.keys_in_values(a)(x), a(x)) < 1e-14


def test_queries_and_keys_that_nearly_cancel_warn(rng):
    """A basis of the head in which both are huge: their product has lost its digits before."""
    a = nearly_tieable(rng, 1, 0, "f8")
    shear = np.array([[1, 1e9], [0, 1]])
    turned = replace(a, W_Q=a.W_Q @ shear, W_K=a.W_K @ np.linalg.inv(shear).T)
    with pytest.warns(ConditionWarning, match="head 0: queries, keys and values nearly cancel"):
        lossless.keys_in_values(turned)


def whole(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return np.frompyfunc(Fraction, 1, 1)(rng.integers(-3, 4, shape).astype(object))


def test_exact_keys_are_compared_exactly(rng):
    W_V, B = np.array([[1, 0], [2, 1], [0, 3]], dtype=object), np.array([[2, 1], [1, 1]], dtype=object)
    a = Attention(Heads(1, pattern=rational, scale=1), whole(rng, 3, 2), W_V @ B, W_V, whole(rng, 2, 3))
    x = whole(rng, 4, 3)
    assert (lossless.keys_in_values(a)(x) == a(x)).all()
    W_K = a.W_K + Fraction(1, 10**40) * np.array([[1, 0], [0, 0], [0, 0]], dtype=object)
    with pytest.raises(HypothesisError, match=r"leaves the span of W_V$"):
        lossless.keys_in_values(replace(a, W_K=W_K))


REFUSED = {  # the core, other weights, and what is refused
    "RoPE": ({"rotate": rope(6, 3)}, {}, "bare scores"),
    "QK-norm": ({"norm_q": rms_norm(), "norm_k": rms_norm()}, {}, "bare scores"),
    "a norm on the keys alone": ({"norm_k": rms_norm()}, {}, "bare scores"),
    "a key bias": ({}, {"b_K": np.ones((1, 6))}, "no biases"),
    "a value bias": ({}, {"b_V": np.ones((1, 6))}, "no biases"),
    "dependent values": ({}, {"W_V": np.ones((12, 6))}, "invertible"),
    "NaN": ({}, {"W_V": np.full((12, 6), np.nan)}, "finite"),
    "float32 keys": ({}, {"W_K": np.ones((12, 6), dtype=np.float32)}, "one kind of number"),
    "another stream": ({}, {"W_K": np.ones((11, 6))}, "shapes agree"),
}


@pytest.mark.parametrize(("core", "weights", "hypothesis"), REFUSED.values(), ids=list(REFUSED))
def test_what_is_not_tied(core, weights, hypothesis, rng):
    with pytest.raises(HypothesisError) as refusal:
        lossless.keys_in_values(replace(tieable(rng, 2, 2, 3, 3, **core), **weights))
    assert refusal.value.hypothesis == hypothesis


def test_heads_wider_than_the_stream_cannot_have_independent_values(rng):
    a = Attention(Heads(1), *rng.normal(size=(3, 2, 3)), rng.normal(size=(3, 2)))
    with pytest.raises(HypothesisError) as refusal:
        lossless.keys_in_values(a)
    assert refusal.value.hypothesis == "full row rank"


@pytest.mark.filterwarnings("ignore:head 0. queries")
def test_nearly_dependent_values_warn(rng):
    W_V = conditioned(rng, 12, 1e10)
    with pytest.warns(ConditionWarning, match="transposed values of head 0"):
        lossless.keys_in_values(Attention(Heads(1), *rng.normal(size=(2, 12, 12)), W_V, np.eye(12)))


# -- slim --------------------------------------------------------------------------------------------------------------


def separate(rng: np.random.Generator, log_cond: float = 1, biases: str = "", **core: Any) -> tying.Separate:
    """A layer of four heads, 12 wide, with W_K of this condition number and the biases named."""
    W = {f"W_{c}": rng.normal(size=(12, 12)) / 12**0.5 for c in "QVO"} | {"W_K": conditioned(rng, 12, 10**log_cond)}
    rows = {f"b_{c}": rng.normal(size=(1, 12)) for c in biases}
    return tying.Separate(core=tying.CausalHeads(4, **core), **W, **rows)


@given(st.floats(0, 6), st.sampled_from(["", "K", "V", "KV", "QKVO"]), st.booleans(), SEEDS)
def test_slim_computes_the_same_from_the_keys(log_cond, biases, rotary, seed):
    rng = np.random.default_rng(seed)
    layer = separate(rng, log_cond, biases, rotate=(lambda n: rope(n, 3, fraction=0.7)) if rotary else None)
    slim, x = lossless.slim(layer), tokens(rng)
    y, cache = slim.decode(x[:4])
    rest, cache = slim.decode(x[4:], cache)
    tolerance = 1e-12 * 10**log_cond
    assert error(np.concatenate([y, rest]), layer.attention(6)(x)) < tolerance
    assert error(slim.attention(6)(x), layer.attention(6)(x)) < tolerance
    keys, values = layer.recalled(layer.stored(x))
    assert error(slim.recalled(cache)[1], values) < tolerance
    assert len(cache) == 1 and error(cache[0], keys) < 1e-12


@given(st.floats(0, 6), st.sampled_from(["", "K", "V", "KV"]), SEEDS)
def test_values_are_read_from_keys(log_cond, biases, seed):
    rng = np.random.default_rng(seed)
    layer, x = separate(rng, log_cond, biases), tokens(rng)
    W, b = lossless.values_from_keys(layer.attention(1))
    keys, values = layer.stored(x)
    assert error(keys @ W + (0 if b is None else b), values) < 1e-12 * 10**log_cond
    assert (b is None) == (not biases)


@pytest.mark.parametrize("groups", [1, 2])
def test_grouped_keys_do_not_fix_the_stream(groups):
    with pytest.raises(HypothesisError, match="narrower than the stream") as refusal:
        lossless.slim(tying.build(f"GQA-{groups}", 12, 4))
    assert refusal.value.hypothesis == "multi-head attention"


def test_singular_and_narrow_keys_are_refused(rng):
    layer = separate(rng)
    with pytest.raises(HypothesisError, match="W_K is singular") as refusal:
        lossless.slim(replace(layer, W_K=np.ones((12, 12))))
    assert refusal.value.hypothesis == "invertible"
    with pytest.raises(HypothesisError, match="only a square matrix has an inverse") as refusal:
        lossless.slim(tying.build("QKV", 12, 4, 2))
    assert refusal.value.hypothesis == "square"


def test_nearly_singular_keys_warn(rng):
    with pytest.warns(ConditionWarning, match="W_K is nearly singular"):
        lossless.slim(separate(rng, 10))


# -- the latent --------------------------------------------------------------------------------------------------------


@given(st.sampled_from([1, 2, 4]), st.integers(1, 3), st.integers(1, 9), st.sampled_from([0, 2, 4]), SEEDS)
def test_heads_score_and_sum_the_latent(heads, width, latent, rotary, seed):
    """Latents narrower and wider than the heads, without a rotary key and with one that turns in full or in part."""
    rng, d, n = np.random.default_rng(seed), 12, 6
    shapes = {
        "W_Q": (d, heads * (rotary + width)),
        "W_C": (d, latent),
        "W_UK": (latent, heads * width),
        "W_UV": (latent, heads * width),
        "W_O": (heads * width, d),
    } | ({"W_R": (d, rotary)} if rotary else {})
    rotate = (lambda n: rope(n, 2)) if rotary else None
    weights: dict[str, Any] = {name: rng.normal(size=shape) / 3 for name, shape in shapes.items()}
    layer = tying.Latent(core=tying.CausalHeads(heads, rotate=rotate), **weights, b_O=rng.normal(size=(1, d)))
    inside, x = lossless.absorbed(layer, n), tokens(rng)
    assert error(inside(x), layer.attention(n)(x)) < 1e-12
    assert isinstance(inside.core, Heads) and inside.core.kv_heads == 1
    assert inside.W_V is layer.W_C and (inside.W_K[:, rotary:] == layer.W_C).all()
    assert error(np.concatenate(layer.stored(x)[::-1], axis=1), x @ inside.W_K) < EPS * 64


def test_a_latent_that_is_rotated_is_not_absorbed(rng):
    layer: Any = tying.build("MLA", 16, 4, rotate=lambda n: rope(n, 6))  # of the 2 + 4 coordinates of a key
    with pytest.raises(HypothesisError, match="turn 6 coordinates of a key, the rotary key 2") as refusal:
        lossless.absorbed(layer, 5)
    assert refusal.value.hypothesis == "rotary key apart"
    bare = tying.Latent(
        core=tying.CausalHeads(1, rotate=lambda n: rope(n, 2)),
        W_Q=np.ones((4, 2)),
        W_C=np.ones((4, 3)),
        W_UK=np.ones((3, 2)),
        W_UV=np.ones((3, 2)),
        W_O=np.ones((2, 4)),
    )
    with pytest.raises(HypothesisError, match="turn 2 coordinates of a key, the rotary key 0"):
        lossless.absorbed(bare, 5)


def test_layers_of_another_kind_are_refused(rng):
    tied = tying.build("Q-K=V", 12, 4)
    for construct, needed, layer in (
        (lossless.slim, "Separate", tied),
        (lossless.slim, "Separate", tying.build("GTA-2", 12, 2)),
        (lossless.slim, "Separate", tieable(rng, 2, 2, 3, 3)),
        (lossless.keys_in_values, "Attention", tied),
        (partial(lossless.absorbed, n=3), "Latent", tied),
    ):
        with pytest.raises(TypeError, match=f"must be of type {needed}, not {type(layer).__name__}"):
            construct(layer)


def test_positions_of_another_kind_are_not_absorbed():
    layer: Any = tying.build("MLA", 12, 2, rotate=lambda n: lambda z: z)
    with pytest.raises(TypeError, match="what rotate gives for 3 tokens must be of type Rope, not function"):
        lossless.absorbed(layer, 3)


# -- PyTorch -----------------------------------------------------------------------------------------------------------


@pytest.mark.torch
def test_the_constructions_run_on_tensors(rng):
    torch = pytest.importorskip("torch")

    def tensors(part: Any) -> Any:
        held = {name: getattr(part, name) for name in part.__dataclass_fields__ if name[:2] in ("W_", "b_")}
        return replace(part, **{name: torch.from_numpy(a.copy()) for name, a in held.items() if a is not None})

    x = tokens(rng)
    a = tieable(rng, 2, 1, 3, 4)
    pairs = [(lossless.keys_in_values(tensors(a)), lossless.keys_in_values(a))]
    layer = separate(rng, 1, "QKVO")
    pairs.append((lossless.slim(tensors(layer)).attention(6), lossless.slim(layer).attention(6)))
    latent: Any = tying.build("MLA", 12, 2, rotate=lambda n: rope(n, 2))
    pairs.append((lossless.absorbed(tensors(latent), 6), lossless.absorbed(latent, 6)))
    for theirs, ours in pairs:
        assert error(theirs(torch.from_numpy(x)).numpy(), ours(x)) < 1e-11
