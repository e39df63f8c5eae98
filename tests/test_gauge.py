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
    MLP,
    Attention,
    Block,
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


def grouped(rng, groups, per_group, width, d=6, biased=False, **core):
    """A sublayer whose query heads share key/value heads, and a generator of bases: a block for each key/value head."""
    p, k = groups * per_group * width, groups * width
    W = {name: rng.normal(size=shape) for name, shape in zip("QKVO", ((d, p), (d, k), (d, k), (p, d)), strict=True)}
    biases = {f"b_{name}": rng.normal(size=(1, w.shape[1])) for name, w in W.items()} if biased else {}
    a = Attention(Heads(groups * per_group, groups, **core), **{f"W_{name}": w for name, w in W.items()}, **biases)

    def basis():
        whole = np.zeros((k, k))
        for at in range(0, k, width):
            whole[at : at + width, at : at + width] = conditioned(rng, width, 10)
        return whole

    return a, basis


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.booleans(), st.integers(0, 999))
def test_grouped_heads_turn_together(groups, per_group, width, biased, seed):
    rng = np.random.default_rng(seed)
    a, basis = grouped(rng, groups, per_group, width, biased=biased, mask=causal(5))
    G, J, x = basis(), basis(), rng.normal(size=(5, 6))
    for bases in ({"keys": G}, {"values": J}, {"keys": G, "values": J}):
        assert error(gauge.turn_heads(a, **bases)(x), a(x)) < 1e-10
    new = gauge.turn_heads(a, G, J)
    assert error(new.W_K @ G.T, a.W_K) < 1e-10
    for h in range(groups * per_group):
        of = h // per_group * width
        block, at = G[of : of + width, of : of + width], slice(h * width, (h + 1) * width)
        assert error(new.W_Q[:, at], a.W_Q[:, at] @ block) < 1e-12


def test_grouped_heads_turn_in_exact_numbers_and_in_torch():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    a, basis = grouped(rng, 2, 2, 2, biased=True)
    G, x = basis(), rng.normal(size=(5, 6))
    names = [f"{kind}_{c}" for kind in "Wb" for c in "QKVO"]
    tensors = replace(a, **{name: torch.tensor(getattr(a, name)) for name in names})
    new = gauge.turn_heads(tensors, torch.tensor(G), torch.tensor(G))
    assert error(new(torch.tensor(x)).numpy(), a(x)) < 1e-12
    whole = np.vectorize(Fraction, otypes=[object])(rng.integers(-3, 4, (4, 4)))
    exact = Attention(Heads(2, 1, pattern=rational, scale=1), whole + 5, whole[:, :2] + 1, whole[:, 2:], whole + 2)
    turn, z = np.array([[2, 1], [5, 3]], dtype=object) * Fraction(1), whole[:3] + 1
    new = gauge.turn_heads(exact, turn, turn.T)
    assert (new(z) == exact(z)).all() and (new.W_Q != exact.W_Q).any() and (new.W_O != exact.W_O).any()


def in_planes(width, planes, layout, rng):
    """A multiple of a rotation in each rotated plane, anything on the rest."""
    block = np.zeros((width, width))
    block[2 * planes :, 2 * planes :] = conditioned(rng, width - 2 * planes, 5) if width > 2 * planes else 0
    for c in range(planes):
        i, j = (c, c + planes) if layout == "half" else (2 * c, 2 * c + 1)
        a, b = rng.uniform(0.5, 2, 2)
        block[[i, i, j, j], [i, j, i, j]] = [a, b, -b, a]
    return block


@pytest.mark.parametrize("fraction", [1.0, 0.5])
@pytest.mark.parametrize("layout", ["half", "interleaved"])
@pytest.mark.parametrize("groups", [1, 2])
def test_rope_lets_keys_turn_in_their_planes(layout, fraction, groups):
    rng, width = np.random.default_rng(0), 4
    table = rope(5, width, 100.0, layout, fraction)
    a, basis = grouped(rng, groups, 2, width, biased=True, rotate=table)
    G, x = np.zeros((groups * width,) * 2), rng.normal(size=(5, 6))
    for at in range(0, groups * width, width):
        G[at : at + width, at : at + width] = in_planes(width, table.cos.shape[1], layout, rng)
    new = gauge.turn_heads(a, keys=G)
    assert error(new(x), a(x)) < 1e-12
    assert error(new.W_K, a.W_K) > 0.1
    other = {"half": "interleaved", "interleaved": "half"}[layout]
    wrong = replace(a, core=replace(a.core, rotate=rope(5, width, 100.0, other)))
    for attention, keys in ((a, basis()), (wrong, G)):
        with pytest.raises(HypothesisError, match="does not commute") as refusal:
            gauge.turn_heads(attention, keys=keys)
        assert refusal.value.hypothesis == "bare scores"


def test_positions_without_a_table_let_no_key_turn(layer):
    with pytest.raises(HypothesisError, match="without a table") as refusal:
        gauge.turn_heads(layer(core=Heads(2, rotate=lambda z: z)), keys=np.eye(4))
    assert refusal.value.hypothesis == "bare scores"


def test_a_block_for_each_query_head_is_refused_with_the_size_that_would_do():
    a, _ = grouped(np.random.default_rng(0), 2, 3, 2)
    with pytest.raises(HypothesisError, match="4 x 4") as refusal:
        gauge.turn_heads(a, keys=np.eye(12))
    assert refusal.value.hypothesis == "multi-head attention"


def test_a_mixing_basis_is_named(layer):
    with pytest.raises(HypothesisError, match="values mixes the coordinates of different heads"):
        gauge.turn_heads(layer(), values=MIXING)


# -- biases, shifts and scales -----------------------------------------------------------------------------------------


@given(st.integers(1, 3), st.integers(1, 3), st.booleans(), st.integers(0, 999))
def test_biases_that_softmax_does_not_see(groups, per_group, biased, seed):
    rng = np.random.default_rng(seed)
    a, _ = grouped(rng, groups, per_group, 2, biased=biased, mask=causal(5))
    keys, values, x = (rng.normal(size=shape) for shape in ((1, 2 * groups), (1, 2 * groups), (5, 6)))
    for rows in ({"keys": keys}, {"values": values}, {"keys": keys, "values": values}, {}):
        assert error(gauge.shift_biases(a, **rows)(x), a(x)) < 1e-11
    new = gauge.shift_biases(a, keys, values)
    old = [0 * keys if bias is None else bias for bias in (a.b_K, a.b_V)]
    assert error(new.b_K, old[0] + keys) == 0
    assert error(new.b_V, old[1] + values) == 0


CAPS: dict[str, Any] = {
    "RoPE": {"rotate": rope(5, 2)},
    "a norm on the keys": {"norm_k": rms_norm()},
    "a norm on the queries": {"norm_q": rms_norm()},
    "soft-capping": {"softcap": 2.0},
    "a correction": {"correction": lambda scores: scores**2},
    "another row pattern": {"pattern": rational},
}


@pytest.mark.parametrize("core", CAPS.values(), ids=list(CAPS))
def test_a_key_bias_that_is_seen_is_not_shifted(core):
    a, _ = grouped(np.random.default_rng(0), 1, 2, 2, **core)
    x, row = np.random.default_rng(1).normal(size=(5, 6)), np.ones((1, 2))
    with pytest.raises(HypothesisError) as refusal:
        gauge.shift_biases(a, keys=row)
    assert refusal.value.hypothesis == "bare scores"
    assert error(gauge.shift_biases(a, values=row)(x), a(x)) < 1e-12
    if "norm_q" not in core:
        assert error(replace(a, b_K=row)(x), a(x)) > 1e-4


def test_a_shift_of_another_width_is_refused(layer):
    for rows in ({"keys": np.ones((1, 3))}, {"values": np.ones((2, 4))}):
        with pytest.raises(HypothesisError) as refusal:
            gauge.shift_biases(layer(), **rows)
        assert refusal.value.hypothesis == "shapes agree"


LEARNED = np.diag([1.0, 2, 3, 4]) + 0.5
TRANSLATED: dict[str, Any] = {
    "no skips": {"attention_skip": False},
    "a skip around attention": {},
    "a skip around the MLP": {"attention_skip": False, "mlp_skip": True},
    "both skips": {"mlp_skip": True},
    "learned skips": {"attention_skip": LEARNED, "mlp_skip": LEARNED.T},
    "parallel": {"parallel": True},
    "parallel without a skip": {"parallel": True, "attention_skip": False},
}


@pytest.mark.parametrize("options", TRANSLATED.values(), ids=list(TRANSLATED))
@pytest.mark.parametrize("biased", [True, False])
def test_states_are_translated(options, biased, layer, rng):
    biases = {f"b_{c}": rng.normal(size=(1, 4)) for c in "QKVO"} if biased else {}
    rows = {"b_up": rng.normal(size=(1, 5)), "b_down": rng.normal(size=(1, 4))} if biased else {}
    mlp = MLP(np.tanh, rng.normal(size=(4, 5)), rng.normal(size=(5, 4)), **rows)
    old, x = Block(layer(**biases), mlp, **options), rng.normal(size=(3, 4))
    enter, middle, leave = rng.normal(size=(3, 1, 4))
    between = None if old.parallel else middle
    for shifts in ((enter, leave, between), (enter, None, None), (None, leave, None), (None, None, between)):
        before, after = (0 if shift is None else shift for shift in shifts[:2])
        new = gauge.translate(old, *shifts)
        assert error(new(x + before), old(x) + after) < 1e-12
        assert new.attention.W_Q is old.attention.W_Q


def test_what_cannot_be_translated(layer):
    row, mlp = np.ones((1, 4)), MLP(np.tanh, np.ones((4, 5)), np.ones((5, 4)))
    cases = [
        ({"attention_norm": rms_norm()}, {"enter": row}, "no norm"),
        ({"mlp_norm": rms_norm()}, {"middle": row}, "no norm"),
        ({"mlp_norm": rms_norm(), "parallel": True}, {"enter": row}, "no norm"),
        ({"cross": layer()}, {"enter": row}, "no cross-attention"),
        ({}, {"leave": np.ones((1, 3))}, "shapes agree"),
        ({}, {"enter": row * np.nan}, "finite"),
        ({}, {"enter": row.astype(np.float32)}, "one kind of number"),
    ]
    for options, shifts, hypothesis in cases:
        with pytest.raises(HypothesisError) as refusal:
            gauge.translate(Block(layer(), mlp, **options), **shifts)
        assert refusal.value.hypothesis == hypothesis
    gauge.translate(Block(layer(), mlp, mlp_norm=rms_norm()), enter=row)  # the norm reads a state that stays
    with pytest.raises(ValueError, match="no state between"):
        gauge.translate(Block(layer(), mlp, parallel=True), middle=row)


def relu(z):
    return np.maximum(z, 0)


def gelu_gate(z):
    a, b = np.split(z, 2, axis=1)
    return a / (1 + np.exp(-a)) * b


@pytest.mark.parametrize(("act", "wide", "degree"), [(relu, 5, 1), (lambda z: relu(z) ** 2, 5, 2), (gelu_gate, 10, 1)])
@pytest.mark.parametrize("biased", [True, False])
def test_units_are_rescaled(act, wide, degree, biased, rng):
    old = MLP(act, rng.normal(size=(4, wide)), rng.normal(size=(5, 4)), rng.normal(size=(1, wide)) if biased else None)
    x, scale = rng.normal(size=(3, 4)), np.array([0.25, 0.5, 1, 3, 7])
    new = gauge.rescale_units(old, scale, degree)
    assert error(new(x), old(x)) < 1e-13
    assert error(new.W_down * scale[:, None] ** degree, old.W_down) < 1e-13
    assert error(new.W_up, old.W_up) > 0.1


def test_scales_that_are_refused(rng):
    mlp = MLP(relu, rng.normal(size=(4, 5)), rng.normal(size=(5, 4)))
    cases = [
        (mlp, np.array([1.0, 2, 3, 4, -1]), "positive"),
        (mlp, np.array([1.0, 2, 3, 4, 0]), "positive"),
        (mlp, np.ones(4), "shapes agree"),
        (mlp, np.ones((5, 1)), "shapes agree"),
        (replace(mlp, W_up=np.ones((4, 7))), np.ones(5), "shapes agree"),
        (mlp, np.ones(5, dtype=np.float32), "one kind of number"),
        (mlp, np.array([1.0, 2, 3, 4, np.inf]), "finite"),
    ]
    for given_mlp, scale, hypothesis in cases:
        with pytest.raises(HypothesisError) as refusal:
            gauge.rescale_units(given_mlp, scale)
        assert refusal.value.hypothesis == hypothesis
    with pytest.raises(TypeError):
        gauge.rescale_units(None, np.ones(5))  # type: ignore[arg-type]


def test_the_linear_half_of_a_gate_has_degree_one(rng):
    mlp = MLP(lambda z: np.maximum(z[..., :3], 0) ** 2 * z[..., 3:], rng.normal(size=(4, 6)), rng.normal(size=(3, 4)))
    with pytest.raises(ValueError, match="degree 1, not 2"):
        gauge.rescale_units(mlp, np.full(3, 2.0), degree=2)
