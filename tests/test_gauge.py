"""The constructions on floats: the lemma for any shape, mask and conditioning, and every refusal."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qkvtheory import (
    Attention,
    ConditionWarning,
    Heads,
    HypothesisError,
    Network,
    causal,
    change_basis,
    condition,
    gauge,
    rebase,
    reparametrize,
    sliding_window,
    stacks,
)
from qkvtheory.attention import rational, rms_norm
from qkvtheory.positions import alibi, rope
from tests.layers import EPS, SLACK, block, conditioned, error


@st.composite
def cases(draw, square=False):
    """A sublayer whose W_Q is d x d with a prescribed condition number, its input, and the generator."""
    groups, per_group, width, n = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.integers(2, 4)), 5
    heads = groups * per_group
    groups = heads if square else groups
    d, rng = heads * width, np.random.default_rng(draw(st.integers(0, 999)))
    cond = 10 ** draw(st.floats(0, 6))
    masks = [None, causal(n), sliding_window(n, 2), (rng.random((heads, n, n)) < 0.5) | np.eye(n, dtype=bool)]
    features: dict[str, Any] = draw(
        st.sampled_from(
            [{}, {"rotate": rope(n, width)}, {"bias": alibi(n, heads)}, {"norm_q": rms_norm(), "norm_k": rms_norm()}]
        )
    )
    core = Heads(heads, groups, mask=masks[draw(st.integers(0, 3))], **features)
    sizes = {"W_Q": d, "W_K": groups * width, "W_V": groups * width, "W_O": d}
    W = {name: rng.normal(size=(d, cols)) / np.sqrt(d) for name, cols in sizes.items()}
    for name in ("W_Q", "W_K", "W_V") if square else ("W_Q",):
        W[name] = conditioned(rng, d, cond)
    biases = {f"b_{name[-1]}": rng.normal(size=(1, w.shape[1])) for name, w in W.items()} if draw(st.booleans()) else {}
    return Attention(core, **W, **biases), rng.normal(size=(n, d)), cond, rng


# -- the lemma ---------------------------------------------------------------------------------------------------------


@given(cases())
def test_the_lemma(case):
    a, x, cond, rng = case
    theta = conditioned(rng, x.shape[1], cond)
    new = change_basis(a, theta)
    assert error(new(x @ theta), a(x)) <= SLACK * EPS * condition(theta)
    assert new.W_O is a.W_O
    assert new.b_Q is a.b_Q


@given(cases())
def test_the_query_projection_becomes_the_identity(case):
    a, x, _, _ = case
    theta, new = reparametrize(a)
    assert (np.eye(x.shape[1]) == new.W_Q).all()
    assert error(new(x @ theta), a(x)) <= SLACK * EPS * condition(theta)


@given(cases(square=True), st.sampled_from("QKV"))
def test_any_one_projection_becomes_the_identity(case, which):
    a, x, _, _ = case
    theta, new = reparametrize(a, which)
    assert theta is getattr(a, f"W_{which}")
    assert (getattr(new, f"W_{which}") == np.eye(x.shape[1])).all()
    assert error(new(x @ theta), a(x)) <= SLACK * EPS * condition(theta)


@given(cases())
def test_there_and_back_again(case):
    a, x, cond, rng = case
    theta = conditioned(rng, x.shape[1], cond)
    there = change_basis(a, theta)
    back = change_basis(there, np.linalg.inv(theta))
    assert error(back(x), a(x)) <= SLACK * EPS * condition(theta)


def test_the_lemma_is_not_vacuous(layer, rng):
    a, x, theta = layer(), rng.normal(size=(3, 4)), rng.normal(size=(4, 4))
    new = change_basis(a, theta)
    assert error(new(x @ theta), a(x)) < 1e-12
    assert error(new(x), a(x)) > 1e-2
    assert error(a(x @ theta), a(x)) > 1e-2


def test_a_wide_query_projection_widens_the_stream(layer, rng):
    wide = {name: rng.normal(size=(4, 6)) for name in ("W_Q", "W_K", "W_V")}
    a, x = layer(**wide, W_O=rng.normal(size=(6, 4))), rng.normal(size=(3, 4))
    theta, new = reparametrize(a)
    assert (np.eye(6) == new.W_Q).all()
    assert new.W_K.shape == (6, 6)
    assert error(new(x @ theta), a(x)) < 1e-12


@pytest.mark.parametrize("which", ["K", "V", "KV"])
def test_select_columns(which, layer, rng):
    narrow = {name: rng.normal(size=(4, 2)) for name in ("W_K", "W_V")}
    a, x = layer(core=Heads(2, 1), **narrow), rng.normal(size=(3, 4))
    theta, new = gauge.select_columns(a, which)
    assert error(new(x @ theta), a(x)) < 1e-12
    units = np.concatenate([getattr(new, f"W_{c}") for c in which], axis=1)
    assert (units == np.eye(4)[:, : 2 * len(which)]).all()


@pytest.mark.parametrize("which", ["K", "V"])
def test_cross_attention_loses_two_projections(which, layer, rng):
    a, x, memory = layer(), rng.normal(size=(3, 4)), rng.normal(size=(6, 4))
    theta, phi, new = gauge.reparametrize_cross(a, which)
    assert (np.eye(4) == new.W_Q).all()
    assert (getattr(new, f"W_{which}") == np.eye(4)).all()
    assert error(new(x @ theta, memory @ phi), a(x, memory)) < 1e-12


def test_cross_attention_with_a_memory_of_another_width(layer, rng):
    a = layer(W_K=rng.normal(size=(6, 4)), W_V=rng.normal(size=(6, 4)))
    x, memory, theta, phi = (rng.normal(size=s) for s in ((3, 4), (5, 6), (4, 4), (6, 6)))
    new = change_basis(a, theta, phi)
    assert error(new(x @ theta, memory @ phi), a(x, memory)) < 1e-11


def test_one_head_merges_without_an_inverse(rng):
    a = Attention(Heads(1, mask=causal(3)), *(rng.normal(size=(4, 2)) for _ in range(3)), rng.normal(size=(2, 4)))
    a, x = replace(a, W_Q=a.W_Q * [1, 0]), rng.normal(size=(3, 4))  # singular, and it does not matter
    new = gauge.merge_single_head(a)
    assert (np.eye(4) == new.W_Q).all()
    assert (np.eye(4) == new.W_V).all()
    assert error(new(x), a(x)) < 1e-13
    given = replace(a, core=Heads(1, scale=0.5))
    assert error(gauge.merge_single_head(given)(x), given(x)) < 1e-13


def test_one_head_of_cross_attention_merges_with_a_memory_of_another_width(rng):
    W = {"W_Q": (4, 2), "W_K": (6, 2), "W_V": (6, 3), "W_O": (3, 5)}
    a = Attention(Heads(1), **{name: rng.normal(size=shape) for name, shape in W.items()}, b_O=rng.normal(size=5))
    new, x, memory = gauge.merge_single_head(a), rng.normal(size=(3, 4)), rng.normal(size=(7, 6))
    assert (new.W_Q.shape, new.W_K.shape, new.W_V.shape, new.W_O.shape) == ((4, 4), (6, 4), (6, 6), (6, 5))
    assert error(new(x, memory), a(x, memory)) < 1e-13


def test_whole_numbers_are_exact(layer):
    """An array of Python integers never becomes floats."""
    rows = [[2, 1, 0, 0], [1, 1, 0, 0], [0, 0, 3, 0], [0, 0, 0, 7]]
    whole = {f"W_{c}": np.array(rows, dtype=object) for c in "QKVO"}
    theta, new = reparametrize(layer(**whole))
    assert (theta @ new.W_K == whole["W_K"]).all()
    assert {type(x) for x in new.W_K.flat} == {Fraction}


def test_rebase_carries_one_basis_in_and_another_out(rng):
    b, x, enter, leave = block(rng), rng.normal(size=(3, 4)), rng.normal(size=(4, 4)), rng.normal(size=(4, 4))
    assert error(rebase(b, enter, leave)(x @ enter), b(x) @ leave) < 1e-11


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_all_query_projections_of_a_network_become_the_identity(layers, rng):
    embedding, positions, readout = (rng.normal(size=s) for s in ((7, 4), (3, 4), (4, 7)))
    old = Network(embedding, [block(rng) for _ in range(layers)], readout, positions)
    new = stacks.eliminate_queries(old)
    tokens = np.eye(7)[[1, 5, 2]]
    assert error(new(tokens), old(tokens)) < 1e-9
    for b in new.blocks:
        assert (np.eye(4) == b.attention.W_Q).all(), "exactly I, as reparametrize promises"
    assert new.readout is old.readout


# -- heads in one basis ------------------------------------------------------------------------------------------------


def blockwise(rng, d: int = 4, heads: int = 2) -> np.ndarray:
    """An invertible block for each head."""
    width = d // heads
    turn = np.zeros((d, d))
    for h in range(heads):
        turn[h * width : (h + 1) * width, h * width : (h + 1) * width] = conditioned(rng, width, 3)
    return turn


@pytest.mark.parametrize("cond", [1, 1e3, 1e6])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_heads_that_span_the_same_spaces_take_shared_queries(cond, dtype, layer, rng):
    cond = min(cond, np.finfo(dtype).eps ** -0.4)
    shared, x = conditioned(rng, 4, cond).astype(dtype), rng.normal(size=(3, 4)).astype(dtype)
    W = {f"W_{c}": rng.normal(size=(4, 4)).astype(dtype) for c in "KVO"}
    rows = {f"b_{c}": rng.normal(size=(1, 4)).astype(dtype) for c in "VO"}
    a = layer(W_Q=shared @ blockwise(rng).astype(dtype), **W, **rows)
    new = gauge.align_heads(a, shared)
    assert new.W_Q is shared
    assert error(new(x), a(x)) < SLACK * np.finfo(dtype).eps * cond
    assert new.b_O is a.b_O and new.b_V is a.b_V and new.W_O is a.W_O


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_head_that_leaves_its_space_by_more_than_rounding_is_refused(scale, layer, rng):
    """1e-12 of the largest entry is thousands of roundings, 1e-15 a few."""
    turn = blockwise(rng)
    for share, fine in ((1e-15, True), (1e-12, False)):
        mixed = turn.copy()
        mixed[0, 3] = share * np.abs(turn).max()
        a = layer(W_Q=scale * mixed)
        if fine:
            assert gauge.align_heads(a, np.eye(4)).b_O is None
            continue
        with pytest.raises(HypothesisError) as refusal:
            gauge.align_heads(a, np.eye(4))
        assert refusal.value.hypothesis == "same head spaces"


def test_nearly_singular_shared_queries_excuse_no_mixture(layer, rng):
    with pytest.warns(ConditionWarning), pytest.raises(HypothesisError, match="leaves the space"):
        gauge.align_heads(layer(), np.diag([1.0, 1, 1, 1e-15]))


def test_exact_heads_are_compared_exactly(layer):
    whole = {f"W_{c}": np.array([[2, 1, 0, 0], [1, 1, 0, 0], [0, 0, 3, 0], [0, 0, 0, 7]], dtype=object) for c in "QKVO"}
    shared = np.array([[1, 1, 1, 1], [0, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 1]], dtype=object)
    turned = gauge.align_heads(layer(**whole | {"W_Q": shared @ whole["W_Q"]}), shared)
    assert (whole["W_K"] @ whole["W_Q"].T == turned.W_K).all()
    mixed = whole["W_Q"].copy()
    mixed[3, 0] = Fraction(1, 10**30)
    with pytest.raises(HypothesisError, match="leaves the space"):
        gauge.align_heads(layer(**whole | {"W_Q": shared @ mixed}), shared)


# -- heads in other bases ----------------------------------------------------------------------------------------------


@given(st.integers(1, 4), st.integers(1, 4), st.booleans(), st.booleans(), st.floats(0, 5), st.integers(0, 999))
def test_heads_turned_compute_the_same(heads, width, biased, causal_mask, log_cond, seed):
    rng, n, p, d = np.random.default_rng(seed), 5, heads * width, 6
    G, J = (np.zeros((p, p)) for _ in "GJ")
    for h in range(heads):
        for turn in (G, J):
            turn[h * width : (h + 1) * width, h * width : (h + 1) * width] = conditioned(rng, width, 10**log_cond)
    W = [rng.normal(size=shape) / 2 for shape in ((d, p), (d, p), (d, p), (p, d))]
    rows = {f"b_{c}": rng.normal(size=(1, d if c == "O" else p)) for c in "QKVO"} if biased else {}
    a = Attention(Heads(heads, mask=causal(n) if causal_mask else None, bias=alibi(n, heads)), *W, **rows)
    x = rng.normal(size=(n, d))
    for given_bases in ({"keys": G}, {"values": J}, {"keys": G, "values": J}, {}):
        new = gauge.turn_heads(a, **given_bases)
        assert error(new(x), a(x)) < 16 * SLACK * EPS * 10**log_cond
        for h in range(heads):  # the products that the function depends on
            at = slice(h * width, (h + 1) * width)
            scores = error(new.W_Q[:, at] @ new.W_K[:, at].T, a.W_Q[:, at] @ a.W_K[:, at].T)
            values = error(new.W_V[:, at] @ new.W_O[at], a.W_V[:, at] @ a.W_O[at])
            assert max(scores, values) < 16 * SLACK * EPS * 10**log_cond
        assert new.b_O is a.b_O


def test_turned_heads_in_exact_numbers(layer):
    whole = np.array([[2, 1, 0, 0], [1, 1, 0, 0], [0, 0, 3, 0], [0, 0, 1, 7]], dtype=object) * Fraction(1)
    a = layer(core=Heads(2, pattern=rational, scale=1), **{f"W_{c}": whole + i for i, c in enumerate("QKVO")})
    x = np.array([[1, 2, 0, -1], [3, 0, 1, 1]], dtype=object)
    new = gauge.turn_heads(a, whole, whole.T)
    assert (new(x) == a(x)).all() and (new.W_K != a.W_K).any() and (new.W_O != a.W_O).any()


def test_rope_lets_the_values_turn(layer, rng):
    a, x = layer(core=Heads(2, rotate=rope(3, 2))), rng.normal(size=(3, 4))
    assert error(gauge.turn_heads(a, values=blockwise(rng))(x), a(x)) < 1e-12
    with pytest.raises(HypothesisError) as refusal:
        gauge.turn_heads(a, keys=blockwise(rng))
    assert refusal.value.hypothesis == "bare scores"


MIXING = np.eye(4) + np.eye(4)[::-1] / 2
TURNS = {  # the core, what is passed, and what is refused
    "a singular basis": ({}, {"keys": np.diag([1.0, 1, 0, 1])}, "invertible"),
    "a basis across heads": ({}, {"values": MIXING}, "same head spaces"),
    "a basis across heads for the keys": ({}, {"keys": MIXING}, "same head spaces"),
    "QK-norm": ({"norm_q": rms_norm(), "norm_k": rms_norm()}, {"keys": np.eye(4)}, "bare scores"),
    "a norm on the keys alone": ({"norm_k": rms_norm()}, {"keys": np.eye(4)}, "bare scores"),
    "grouped keys": ({"groups": 1}, {"keys": np.eye(4)}, "multi-head attention"),
    "a basis that is not square": ({}, {"keys": np.ones((4, 3))}, "square"),
    "a basis of another size": ({}, {"values": np.eye(2)}, "shapes agree"),
    "float32": ({}, {"values": np.eye(4, dtype=np.float32)}, "one kind of number"),
    "NaN": ({}, {"keys": np.eye(4) * np.nan}, "finite"),
    "a list": ({}, {"keys": np.eye(4).tolist()}, "matrix"),
}


@pytest.mark.parametrize(("core", "bases", "hypothesis"), TURNS.values(), ids=list(TURNS))
def test_turns_that_are_refused(core, bases, hypothesis, layer):
    narrow = {f"W_{c}": np.ones((4, 2)) for c in "KV"} if "groups" in core else {}
    with pytest.raises(HypothesisError) as refusal:
        gauge.turn_heads(layer(core=Heads(2, **core), **narrow), **bases)
    assert refusal.value.hypothesis == hypothesis


def test_a_mixing_basis_is_named(layer):
    with pytest.raises(HypothesisError, match="values mixes the coordinates of different heads"):
        gauge.turn_heads(layer(), values=MIXING)
