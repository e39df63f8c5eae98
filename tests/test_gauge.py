"""The constructions on floats: the lemma for any shape, mask and conditioning, and every refusal."""

from __future__ import annotations

from dataclasses import replace
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
)
from qkvtheory.attention import rms_norm
from qkvtheory.positions import alibi, rope
from qkvtheory.words import symbol

EPS = np.finfo(np.float64).eps
SLACK = 256


def conditioned(rng: np.random.Generator, d: int, cond: float) -> np.ndarray:
    u, _, v = np.linalg.svd(rng.normal(size=(d, d)))
    return (u * np.logspace(0, -np.log10(cond), d)) @ v


def error(left: np.ndarray, right: np.ndarray) -> float:
    return float(np.abs(left - right).max() / np.abs(right).max())


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


def block(rng: np.random.Generator, d: int = 4, **topology: bool) -> Block:
    a = Attention(Heads(2), *(rng.normal(size=(d, d)) for _ in range(4)), b_O=rng.normal(size=(1, d)))
    mlp = MLP(
        np.tanh, rng.normal(size=(d, 6)), rng.normal(size=(6, d)), rng.normal(size=(1, 6)), rng.normal(size=(1, d))
    )
    return Block(a, mlp, **topology)


def test_rebase_carries_one_basis_in_and_another_out(rng):
    b, x, enter, leave = block(rng), rng.normal(size=(3, 4)), rng.normal(size=(4, 4)), rng.normal(size=(4, 4))
    assert error(rebase(b, enter, leave)(x @ enter), b(x) @ leave) < 1e-11


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_all_query_projections_of_a_network_become_the_identity(layers, rng):
    embedding, positions, readout = (rng.normal(size=s) for s in ((7, 4), (3, 4), (4, 7)))
    old = Network(embedding, [block(rng) for _ in range(layers)], readout, positions)
    new = gauge.eliminate_queries(old)
    tokens = np.eye(7)[[1, 5, 2]]
    assert error(new(tokens), old(tokens)) < 1e-9
    for b in new.blocks:
        np.testing.assert_allclose(b.attention.W_Q, np.eye(4), atol=1e-10)
    assert new.readout is old.readout


# -- what is refused ---------------------------------------------------------------------------------------------------

NARROW = {"core": Heads(2, 1), "W_K": np.ones((4, 2)), "W_V": np.ones((4, 2))}
BASIS = np.diag([1.0, 2.0, 3.0, 4.0])
REFUSED = {
    "singular theta": ({}, np.ones((4, 4)), "invertible"),
    "theta not square": ({}, np.ones((3, 4)), "square"),
    "theta of another size": ({}, np.eye(3), "shapes agree"),
    "W_K reads another stream": ({"W_K": np.ones((5, 4))}, BASIS, "shapes agree"),
    "NaN in theta": ({}, BASIS * np.nan, "finite"),
    "infinity in W_V": ({"W_V": np.full((4, 4), np.inf)}, BASIS, "finite"),
    "integer theta": ({}, np.eye(4, dtype=int), "real numbers"),
    "integers everywhere": ({f"W_{c}": np.eye(4, dtype=int) for c in "QKVO"}, np.eye(4, dtype=int), "real numbers"),
    "float32 theta": ({}, BASIS.astype(np.float32), "one kind of number"),
    "float32 W_O": ({"W_O": BASIS.astype(np.float32)}, BASIS, "one kind of number"),
    "a float32 bias": ({"b_Q": np.ones((1, 4), dtype=np.float32)}, BASIS, "one kind of number"),
    "NaN in a bias": ({"b_K": np.full((1, 4), np.nan)}, BASIS, "finite"),
    "a symbolic theta": ({}, symbol("Theta", "d", "d", invertible=True), "one kind of number"),
    "theta is a list": ({}, BASIS.tolist(), "matrix"),
    "W_K is a list": ({"W_K": BASIS.tolist()}, BASIS, "matrix"),
    "W_K is a row": ({"W_K": np.ones(4)}, BASIS, "matrix"),
    "no W_V": ({"W_V": None}, BASIS, "matrix"),
    "no theta": ({}, None, "matrix"),
}


@pytest.mark.parametrize(("changes", "theta", "hypothesis"), REFUSED.values(), ids=REFUSED)
def test_change_basis_refuses_and_names_the_hypothesis(changes, theta, hypothesis, layer):
    with pytest.raises(HypothesisError) as refusal:
        change_basis(layer(**changes), theta)
    assert refusal.value.hypothesis == hypothesis


REPARAM_REFUSED = {
    "singular W_Q": ("Q", {"W_Q": np.ones((4, 4))}, "invertible"),
    "singular W_K": ("K", {"W_K": np.ones((4, 4))}, "invertible"),
    "singular W_V": ("V", {"W_V": np.zeros((4, 4))}, "invertible"),
    "narrow W_Q": ("Q", {"W_Q": np.ones((4, 2)), "W_K": np.ones((4, 2))}, "full row rank"),
    "wide W_Q with dependent rows": ("Q", {"W_Q": np.ones((4, 6)), "W_K": np.ones((4, 6))}, "invertible"),
    "W_K under grouped keys": ("K", NARROW, "square"),
    "W_V under grouped keys": ("V", NARROW, "square"),
    "W_K reads another stream": ("Q", {"W_K": np.ones((5, 4))}, "shapes agree"),
    "NaN": ("Q", {"W_Q": BASIS * np.nan}, "finite"),
    "integers": ("Q", {f"W_{c}": np.eye(4, dtype=int) for c in "QKVO"}, "real numbers"),
    "mixed dtypes": ("Q", {"W_K": BASIS.astype(np.float32)}, "one kind of number"),
}


@pytest.mark.parametrize(("which", "changes", "hypothesis"), REPARAM_REFUSED.values(), ids=REPARAM_REFUSED)
def test_reparametrize_refuses_and_names_the_hypothesis(which, changes, hypothesis, layer):
    with pytest.raises(HypothesisError) as refusal:
        reparametrize(layer(**changes), which)
    assert refusal.value.hypothesis == hypothesis


def test_the_refusal_under_grouped_keys_says_what_works_instead(layer):
    with pytest.raises(HypothesisError, match=r"only W_Q can become the identity.*select_columns"):
        reparametrize(layer(**NARROW), "K")


@pytest.mark.parametrize("which", ["X", "", None, "QK"])
def test_reparametrize_knows_three_projections(which, layer):
    with pytest.raises(ValueError, match="must be 'Q', 'K' or 'V'"):
        reparametrize(layer(), which)
    with pytest.raises(ValueError, match="must be 'K' or 'V'"):
        gauge.reparametrize_cross(layer(), which)


def test_cross_attention_refuses(layer):
    with pytest.raises(HypothesisError) as refusal:
        change_basis(layer(), BASIS, np.eye(3))
    assert refusal.value.hypothesis == "shapes agree"
    with pytest.raises(HypothesisError) as refusal:
        change_basis(layer(), BASIS, np.ones((4, 4)))
    assert refusal.value.hypothesis == "invertible"
    with pytest.raises(HypothesisError):
        gauge.reparametrize_cross(layer(**NARROW))


@pytest.mark.parametrize(("which", "changes", "hypothesis"), [
    ("KV", {}, "independent columns"),  # eight columns of length four
    ("K", NARROW, "independent columns"),
])  # fmt: skip
def test_select_columns_refuses(which, changes, hypothesis, layer):
    with pytest.raises(HypothesisError) as refusal:
        gauge.select_columns(layer(**changes), which)
    assert refusal.value.hypothesis == hypothesis


@pytest.mark.parametrize("which", ["", "X", "Q Z"])
def test_select_columns_knows_three_projections(which, layer):
    with pytest.raises(ValueError, match="which"):
        gauge.select_columns(layer(), which)


@pytest.mark.parametrize(("core", "hypothesis"), [
    (Heads(2), "one head"), (Heads(1, rotate=rope(3, 4)), "bare scores"), (Heads(1, norm_q=rms_norm()), "bare scores"),
    (Heads(1, norm_k=rms_norm()), "bare scores"),
])  # fmt: skip
def test_merging_refuses(core, hypothesis, layer):
    with pytest.raises(HypothesisError) as refusal:
        gauge.merge_single_head(layer(core=core))
    assert refusal.value.hypothesis == hypothesis


@pytest.mark.parametrize("bias", ["b_Q", "b_K", "b_V"])
def test_merging_refuses_biases(bias, layer):
    with pytest.raises(HypothesisError) as refusal:
        gauge.merge_single_head(layer(core=Heads(1), **{bias: np.ones((1, 4))}))
    assert refusal.value.hypothesis == "no biases"


def test_rebase_refuses(rng):
    for topology in ({"mlp_skip": True}, {"attention_skip": False}):
        with pytest.raises(HypothesisError, match="skip around attention only"):
            rebase(block(rng, **topology), BASIS, BASIS)
    with pytest.raises(HypothesisError) as refusal:
        rebase(block(rng), np.ones((4, 4)), BASIS)
    assert refusal.value.hypothesis == "invertible"


@pytest.mark.parametrize(("leave", "hypothesis"), [
    (np.eye(3), "shapes agree"), (BASIS.astype(np.float32), "one kind of number"), (BASIS * np.nan, "finite"),
])  # fmt: skip
def test_rebase_refuses_a_bad_basis_at_the_exit(leave, hypothesis, rng):
    with pytest.raises(HypothesisError) as refusal:
        rebase(block(rng), BASIS, leave)
    assert refusal.value.hypothesis == hypothesis


def test_a_nearly_singular_projection_warns_and_still_works(layer, rng):
    a, x = layer(W_Q=conditioned(rng, 4, 1e9)), rng.normal(size=(3, 4))
    with pytest.warns(ConditionWarning, match="W_Q is nearly singular: condition number"):
        theta, new = reparametrize(a)
    assert error(new(x @ theta), a(x)) < SLACK * EPS * condition(theta)


def test_a_well_conditioned_projection_does_not_warn(layer, no_condition_warnings):
    reparametrize(layer())
    with pytest.raises(ConditionWarning):
        reparametrize(layer(W_Q=np.diag([1.0, 1, 1, 1e-9])))
