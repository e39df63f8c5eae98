"""Rotating the states of networks with norms: what W_Q becomes, that the function stays, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qkvtheory import MLP, Attention, Block, Heads, HypothesisError, Network, norms, rotations, stacks
from qkvtheory.attention import rms_norm
from qkvtheory.norms import LayerNorm, RMSNorm
from qkvtheory.positions import rope
from qkvtheory.rotations import Factors
from tests.stack_makers import T0, T2, TA, TM, D, block, decoder, matrix, network, tokens, with_attention, with_block

FORMS = {
    "triangular": rotations.to_triangular,
    "symmetric": rotations.to_symmetric,
    "block triangular": rotations.to_block_triangular,
}
HEADS = 2


def normed(net: Network, make: Any = RMSNorm) -> Network:
    blocks = [replace(b, attention_norm=make(), mlp_norm=make()) for b in net.blocks]
    return replace(net, blocks=blocks, norm=make())


def turn(rng: np.random.Generator) -> np.ndarray:
    return np.linalg.qr(rng.normal(size=(D, D)))[0]


def assert_same(new: Network, old: Network, rng: np.random.Generator, memory: Any = None) -> None:
    given = tokens(rng)
    np.testing.assert_allclose(new(given, memory), old(given, memory), rtol=1e-10, atol=1e-10)


def has_form(W: np.ndarray, form: str) -> bool:
    if form == "symmetric":
        return bool((W == W.T).all() and np.linalg.eigvalsh(W).min() > -1e-12)
    lower = np.tril(W, -1) == 0
    if form == "triangular":
        return bool(lower.all() and (np.diag(W) >= 0).all())
    own = rotations.same_head(len(W), HEADS)
    return bool(lower.all() and (W[own] == np.eye(len(W))[own]).all())


# -- the forms ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("topology", [T0, TA, TM])
def test_every_query_takes_the_form_where_a_skip_is_missing(form, topology, rng):
    old = normed(network(rng, topology, topology, topology))
    new = FORMS[form](old)
    assert_same(new, old, rng)
    assert all(has_form(b.attention.W_Q, form) for b in new.blocks)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_one_query_takes_the_form_beside_both_skips(form, layer, rng):
    old = normed(network(rng, T2, T2, T2))
    new = FORMS[form](old, [layer])
    assert_same(new, old, rng)
    assert [has_form(b.attention.W_Q, form) for b in new.blocks] == [k == layer for k in range(3)]


@settings(max_examples=12)
@given(
    seed=st.integers(0, 999),
    form=st.sampled_from(sorted(FORMS)),
    mixture=st.lists(st.sampled_from([T0, TA, TM]), min_size=1, max_size=3),
)
def test_any_mixture_of_skips(seed, form, mixture):
    rng = np.random.default_rng(seed)
    old = normed(network(rng, *mixture))
    new = FORMS[form](old)
    assert_same(new, old, rng)
    assert all(has_form(b.attention.W_Q, form) for b in new.blocks)


@pytest.mark.parametrize("form", FORMS)
def test_from_a_layer_norm_with_gain_and_bias_to_the_form(form, rng):
    """The way of a real model: fold, center, rotate."""
    old = normed(network(rng, T2, T2), lambda: LayerNorm(rng.uniform(0.5, 2, D), rng.normal(size=D)))
    new = FORMS[form](norms.center(norms.fold_gains(old)), [1])
    assert_same(new, old, rng)
    assert has_form(new.blocks[1].attention.W_Q, form)


def trained(rng: np.random.Generator, torch: Any, dtype: Any) -> Network:
    """A PyTorch network of two blocks with causal GQA and RoPE, RMSNorms with gains."""
    keep = np.tril(np.ones((5, 5), dtype=bool))

    def weight(*shape: int) -> Any:
        return torch.nn.Parameter(torch.tensor(rng.normal(size=shape) / np.sqrt(shape[0]), dtype=dtype))

    def norm() -> RMSNorm:
        return RMSNorm(torch.nn.Parameter(torch.tensor(rng.uniform(0.5, 2, D), dtype=dtype)))

    def one() -> Block:
        core = Heads(4, 2, mask=torch.tensor(keep), rotate=rope(5, 2))
        attention = Attention(core, weight(D, D), weight(D, D // 2), weight(D, D // 2), weight(D, D))
        return Block(attention, MLP(torch.tanh, weight(D, 11), weight(11, D)), *T2, norm(), norm())

    return Network(weight(7, D), [one(), one()], weight(D, 3), norm=norm())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("form", ["triangular", "symmetric"])
def test_pytorch_models(form, dtype, rng):
    torch = pytest.importorskip("torch")
    kind = getattr(torch, dtype)
    old = trained(rng, torch, kind)
    new = FORMS[form](norms.fold_gains(old), [0])
    given = torch.tensor(tokens(rng), dtype=kind)
    torch.testing.assert_close(new(given), old(given), rtol=1e-4 if dtype == "float32" else 1e-11, atol=1e-5)
    assert new.blocks[0].attention.W_Q.dtype == kind
    assert has_form(new.blocks[0].attention.W_Q.detach().numpy(), form)


def test_the_forms_of_one_matrix():
    W = np.array([[0.0, -2.0], [3.0, 4.0]])
    attention = Attention(Heads(1), W, W, W, W)
    part = rotations.triangular(attention, "W_Q")
    np.testing.assert_allclose(part.basis @ part.query, W, atol=1e-15)
    np.testing.assert_allclose(part.query, [[3, 4], [0, 2]], atol=1e-15)
    part = rotations.polar(attention, "W_Q")
    np.testing.assert_allclose(part.basis @ part.query, W, atol=1e-15)
    np.testing.assert_allclose(part.query @ part.query, W.T @ W, atol=1e-14)
    part = rotations.block_triangular(attention, "W_Q")
    np.testing.assert_array_equal(part.query, np.eye(2))


def test_a_query_that_is_singular_or_not_square_becomes_triangular(rng):
    for shape in ((D, D), (D, 12), (D, 4)):
        W_Q, W_K = matrix(rng, *shape), matrix(rng, *shape)
        W_Q[:, 0] = 0
        old = normed(with_attention(network(rng, TA), W_Q=W_Q, W_K=W_K, b_Q=None, b_K=None))
        new = rotations.to_triangular(old)
        assert_same(new, old, rng)
        assert (np.tril(new.blocks[0].attention.W_Q, -1) == 0).all()


def test_heads_that_span_orthogonal_spaces_become_the_identity(rng):
    heads = np.kron(np.eye(HEADS), np.ones((D // HEADS, D // HEADS))) * (rng.normal(size=(D, D)) + 4 * np.eye(D))
    old = normed(with_attention(network(rng, TA), W_Q=turn(rng) @ heads))
    new = rotations.to_block_triangular(old)
    np.testing.assert_allclose(new.blocks[0].attention.W_Q, np.eye(D), atol=1e-12)
    assert_same(new, old, rng)


def test_layers_that_share_their_query_take_the_form_together(rng):
    first = block(rng, T2)
    second = block(rng, T2)
    second = replace(second, attention=replace(second.attention, W_Q=first.attention.W_Q))
    old = normed(replace(network(rng), blocks=[first, second]))
    new = rotations.to_triangular(old)
    assert_same(new, old, rng)
    assert all(has_form(b.attention.W_Q, "triangular") for b in new.blocks)


def test_a_looped_block_stays_one_block(rng):
    old = normed(network(rng, T2))
    looped = replace(old, blocks=[old.blocks[0]] * 3)
    new = rotations.to_symmetric(looped)
    assert new.blocks[0] is new.blocks[2]
    assert_same(new, looped, rng)


def test_a_tied_readout_stays_tied_beside_both_skips(rng):
    old = normed(network(rng, T2, tied=True))
    new = rotations.to_triangular(old)
    assert new.readout is None
    assert_same(new, old, rng)


# -- rotate ------------------------------------------------------------------------------------------------------------


def test_any_rotation_of_every_state(rng):
    old = normed(network(rng, T2, T2))
    assert_same(rotations.rotate(old, turn(rng)), old, rng)
    apart = normed(network(rng, T0))
    assert_same(rotations.rotate(apart, [turn(rng), None, turn(rng)]), apart, rng)
    parallel = normed(network(rng, (True, False), parallel=True))
    assert_same(rotations.rotate(parallel, turn(rng)), parallel, rng)


def test_the_memory_of_a_decoder_turns_too(rng):
    old, memory = normed(decoder(rng, T2)), rng.normal(size=(4, D + 3))
    around = np.linalg.qr(rng.normal(size=(D + 3, D + 3)))[0]
    new, given = rotations.rotate(old, turn(rng), around), tokens(rng)
    np.testing.assert_allclose(new(given, memory @ around), old(given, memory), rtol=1e-11, atol=1e-11)


def test_nothing_is_inverted(rng, monkeypatch):
    def refuse(*_):
        raise AssertionError("an inverse was computed")

    monkeypatch.setattr(np.linalg, "inv", refuse)
    old = normed(network(rng, T2))
    rotations.rotate(old, turn(rng))
    rotations.to_symmetric(old)


def fixing(rng: np.random.Generator) -> np.ndarray:
    """A cyclic permutation: it fixes the all-ones row."""
    return np.eye(D)[[*range(1, D), 0]]


def test_layer_norms_may_stay_beside_a_basis_that_fixes_the_ones(rng):
    old = normed(network(rng, T2), LayerNorm)
    assert_same(rotations.rotate(old, fixing(rng)), old, rng)
    assert_same(rotations.rotate(old, -fixing(rng)), old, rng)


REFUSED: dict[str, tuple[str, Any]] = {
    "any basis": ("orthogonal", lambda n, r: rotations.rotate(n, matrix(r))),
    "a basis that is nearly orthogonal": ("orthogonal", lambda n, r: rotations.rotate(n, turn(r) * (1 + 1e-9))),
    "a memory that is stretched": ("orthogonal", lambda n, r: rotations.rotate(n, turn(r), 2 * np.eye(D))),
    "a rectangle": ("square", lambda n, r: rotations.rotate(n, matrix(r, D, D - 1))),
    "gains": ("gains folded", lambda n, r: rotations.to_triangular(with_block(n, mlp_norm=RMSNorm(np.ones(D))))),
    "gains at the end": ("gains folded", lambda n, r: rotations.to_triangular(replace(n, norm=RMSNorm(np.ones(D))))),
    "LayerNorms": ("the mean stays", lambda n, r: rotations.to_symmetric(normed(n, LayerNorm))),
    "a function": ("known norm", lambda n, r: rotations.to_triangular(with_block(n, attention_norm=rms_norm()))),
    "two layers beside both skips": (
        "one choice per segment",
        lambda n, r: rotations.to_triangular(normed(network(r, T2, T2))),
    ),
    "two bases beside a skip": ("one basis", lambda n, r: rotations.rotate(n, [turn(r), turn(r), turn(r)])),
    "a tied readout, turned on one side": (
        "untied readout",
        lambda n, r: rotations.to_triangular(normed(network(r, TA, tied=True))),
    ),
    "RoPE": (
        "bare scores",
        lambda n, r: rotations.to_block_triangular(with_attention(n, core=Heads(2, rotate=rope(5, 4)))),
    ),
    "a QK-norm": (
        "bare scores",
        lambda n, r: rotations.to_block_triangular(
            with_attention(n, core=Heads(2, norm_q=RMSNorm(), norm_k=RMSNorm()))
        ),
    ),
    "grouped keys": (
        "multi-head attention",
        lambda n, r: rotations.to_block_triangular(
            with_attention(n, core=Heads(2, 1), W_K=matrix(r, D, 4), W_V=matrix(r, D, 4), b_K=None, b_V=None)
        ),
    ),
    "a head that is singular": (
        "invertible",
        lambda n, r: rotations.to_block_triangular(with_attention(n, W_Q=matrix(r) * (np.arange(D) != 1))),
    ),
    "a wide query made symmetric": (
        "square",
        lambda n, r: rotations.to_symmetric(with_attention(n, W_Q=matrix(r, D, 12), W_K=matrix(r, D, 12))),
    ),
    "a wide query in blocks": (
        "square",
        lambda n, r: rotations.to_block_triangular(with_attention(n, W_Q=matrix(r, D, 12), W_K=matrix(r, D, 12))),
    ),
    "heads that nobody knows": (
        "factors",
        lambda n, r: rotations.to_block_triangular(with_attention(n, core=lambda q, k, v: v)),
    ),
    "not a number": ("finite", lambda n, r: rotations.to_triangular(with_attention(n, W_Q=np.full((D, D), np.nan)))),
    "letters without factors": ("factors", lambda n, r: stacks.explain(rotations.to_triangular, n)),
    "factors of another matrix": (
        "factors",
        lambda n, r: rotations.to_triangular(n, factors={0: Factors(turn(r), np.eye(D))}),
    ),
    "factors of another shape": (
        "factors",
        lambda n, r: rotations.to_triangular(n, factors={0: Factors(turn(r), np.eye(D)[:, 1:])}),
    ),
    "factors for another layer": ("factors", lambda n, r: rotations.to_triangular(n, [0], {})),
}


@pytest.mark.parametrize(("name", "ask"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_and_why(name, ask, rng):
    with pytest.raises(HypothesisError) as refusal:
        ask(normed(network(rng, T2)), rng)
    assert refusal.value.hypothesis == name


def test_factors_that_are_given_are_used(rng):
    old = normed(network(rng, TA))
    W_Q = old.blocks[0].attention.W_Q
    basis = turn(rng)
    new = rotations.to_triangular(old, factors={0: Factors(basis, basis.T @ W_Q)})
    np.testing.assert_array_equal(new.blocks[0].attention.W_Q, basis.T @ W_Q)
    assert_same(new, old, rng)


def test_senseless_calls(rng):
    old = normed(network(rng, T2))
    with pytest.raises(TypeError, match="the network must be of type Network"):
        rotations.rotate(None, np.eye(D))
    with pytest.raises(ValueError, match="3 states, not 2"):
        rotations.rotate(old, [np.eye(D)] * 2)
    with pytest.raises(ValueError, match="there is no layer 1"):
        rotations.to_triangular(old, [1])


def test_factors_that_are_off_are_refused(rng):
    old = normed(network(rng, T0))
    basis, query = np.linalg.qr(old.blocks[0].attention.W_Q)
    with pytest.raises(HypothesisError, match="do not multiply"):
        rotations.to_triangular(old, factors={0: Factors(basis, query + 1e-9)})
