"""Norms as values: what they compute, which bases they let through, how gains, biases and means move out of them."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qkvtheory import Heads, HypothesisError, Network, norms, stacks
from qkvtheory.attention import rms_norm
from qkvtheory.norms import LayerNorm, RMSNorm
from qkvtheory.words import symbol
from tests.stack_makers import T0, T2, TA, TM, D, decoder, network, tokens, with_block

KINDS = {"RMSNorm": RMSNorm, "LayerNorm": LayerNorm}


def gains(rng: np.random.Generator, kind: str, bias: bool = True) -> Any:
    """A norm with a gain, and a bias where there is one."""
    rows = {"gain": rng.uniform(0.5, 2, D)}
    if bias and kind == "LayerNorm":
        rows["bias"] = rng.normal(size=D)
    return KINDS[kind](**rows, eps=1e-3)


def with_norms(net: Network, make: Any) -> Network:
    blocks = [replace(block, attention_norm=make(), mlp_norm=make()) for block in net.blocks]
    return replace(net, blocks=blocks, norm=make())


def assert_same(new: Network, old: Network, rng: np.random.Generator, memory: Any = None) -> None:
    given = tokens(rng)
    np.testing.assert_allclose(new(given, memory), old(given, memory), rtol=1e-11, atol=1e-11)


# -- the norms themselves ----------------------------------------------------------------------------------------------


def test_rms_norm_by_hand():
    z = np.array([[3.0, 4.0]])
    np.testing.assert_allclose(RMSNorm(eps=0)(z), z / np.sqrt(12.5))
    np.testing.assert_allclose(RMSNorm(np.array([2.0, 0.0]), eps=0)(z), [[6 / np.sqrt(12.5), 0]])
    np.testing.assert_allclose(RMSNorm(eps=12.5)(z), z / 5)


def test_layer_norm_by_hand():
    z, gain, bias = np.array([[1.0, 5.0, 3.0]]), np.array([2.0, 1.0, 1.0]), np.array([[1.0, 0.0, 0.0]])
    root = np.sqrt(8 / 3)
    np.testing.assert_allclose(LayerNorm(eps=0)(z), [[-2 / root, 2 / root, 0]], atol=1e-15)
    np.testing.assert_allclose(LayerNorm(gain, bias, eps=0)(z), [[1 - 4 / root, 2 / root, 0]], atol=1e-15)


@given(seed=st.integers(0, 99), kind=st.sampled_from(["float32", "float64"]))
def test_the_norms_are_those_of_pytorch(seed, kind):
    torch = pytest.importorskip("torch")
    dtype = getattr(torch, kind)
    z = torch.randn(5, D, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    gain, bias = torch.linspace(0.5, 2, D, dtype=dtype), torch.linspace(-1, 1, D, dtype=dtype)
    close = {"rtol": 1e-5 if kind == "float32" else 1e-12, "atol": 1e-6}
    torch.testing.assert_close(RMSNorm(gain)(z), torch.nn.functional.rms_norm(z, (D,), gain, 1e-6), **close)
    torch.testing.assert_close(
        LayerNorm(gain, bias)(z), torch.nn.functional.layer_norm(z, (D,), gain, bias, 1e-5), **close
    )


def test_a_gain_takes_the_precision_of_what_it_multiplies():
    z = np.ones((2, D), dtype=np.float32)
    assert RMSNorm(np.ones(D))(z).dtype == np.float32
    assert LayerNorm(np.ones(D), np.ones((1, D)))(z).dtype == np.float32


def test_heads_take_the_norms_as_their_qk_norm(rng):
    q, k, v = rng.normal(size=(3, 5, D))
    gain = rng.uniform(0.5, 2, D // 2)
    core = Heads(2, norm_q=RMSNorm(gain), norm_k=RMSNorm())
    np.testing.assert_array_equal(core(q, k, v), Heads(2, norm_q=rms_norm(gain), norm_k=rms_norm())(q, k, v))


@pytest.mark.parametrize(("make", "error", "message"), [
    (lambda: RMSNorm(eps=-1e-6), ValueError, "at least 0"),
    (lambda: LayerNorm(eps=float("nan")), ValueError, "at least 0"),
    (lambda: RMSNorm([1.0, 2.0]), HypothesisError, "an array, one row of numbers, not a list"),
    (lambda: RMSNorm(np.ones((2, 3))), HypothesisError, r"of shape \(2, 3\)"),
    (lambda: LayerNorm(bias=np.ones((3, 1))), HypothesisError, "the bias of a norm"),
])  # fmt: skip
def test_a_norm_that_makes_no_sense_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_exact_numbers_stay_exact():
    x = np.array([[Fraction(1), Fraction(2)], [Fraction(0), Fraction(-1)]])
    np.testing.assert_array_equal(norms.rational_scale(x @ x.T), [[Fraction(1, 6), 0], [0, Fraction(1, 2)]])
    np.testing.assert_array_equal(
        norms.centered(x), [[Fraction(-1, 2), Fraction(1, 2)]] * 1 + [[Fraction(1, 2), Fraction(-1, 2)]]
    )
    np.testing.assert_array_equal(norms.centered(np.array([[1, 2]], dtype=object)), [[Fraction(-1, 2), Fraction(1, 2)]])


# -- which bases pass --------------------------------------------------------------------------------------------------


def rotation(rng: np.random.Generator, fixes: bool = False) -> np.ndarray:
    """An orthogonal matrix, which fixes the all-ones row if asked to."""
    skew = rng.normal(size=(D, D))
    skew = skew - skew.T
    C = np.eye(D) - (1 / D if fixes else 0)
    skew = C @ skew @ C
    return (np.eye(D) - skew) @ np.linalg.inv(np.eye(D) + skew)


FORBIDDEN: dict[str, tuple[Any, Any, str]] = {
    "a gain": (RMSNorm(np.ones(D)), rotation, "gains folded"),
    "any matrix": (RMSNorm(), lambda r: r.normal(size=(D, D)), "orthogonal"),
    "twice a rotation, with eps = 0": (RMSNorm(eps=0), lambda r: 2 * rotation(r), "orthogonal"),
    "the gain of a LayerNorm": (LayerNorm(np.ones(D)), lambda r: rotation(r, True), "gains folded"),
    "the bias of a LayerNorm": (LayerNorm(bias=np.ones(D)), lambda r: rotation(r, True), "gains folded"),
    "any matrix past a LayerNorm": (LayerNorm(), lambda r: r.normal(size=(D, D)), "orthogonal"),
    "a rotation that moves the ones": (LayerNorm(), rotation, "the mean stays"),
}


@pytest.mark.parametrize(("norm", "basis", "name"), FORBIDDEN.values(), ids=FORBIDDEN)
def test_what_a_norm_forbids(norm, basis, name, rng):
    hypothesis, message = norm.forbids(basis(rng))
    assert hypothesis == name
    assert message


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_a_norm_lets_through(dtype, rng):
    x = rng.normal(size=(5, D)).astype(dtype)
    for norm, fixes in ((RMSNorm(), False), (RMSNorm(eps=0), False), (LayerNorm(), True)):
        for sign in (1, -1):
            basis = (sign * rotation(rng, fixes)).astype(dtype)
            assert norm.forbids(basis) is None
            np.testing.assert_allclose(norm(x @ basis), norm(x) @ basis, atol=64 * np.finfo(dtype).eps)


def test_words_pass_when_they_are_declared_to():
    turn, plain = symbol("O", "d", "d", orthogonal=True), symbol("A", "d", "d")
    assert RMSNorm().forbids(turn) is None
    assert RMSNorm().forbids(plain)[0] == "orthogonal"
    assert LayerNorm().forbids(turn)[0] == "the mean stays"
    fixing = symbol("O", "d", "d", orthogonal=True, rows_sum_to_one=True)
    assert LayerNorm().forbids(fixing) is None
    assert LayerNorm().forbids(-fixing) is None
    assert LayerNorm().forbids(2 * fixing)[0] == "orthogonal"


def test_gauge_and_stacks_let_through_what_is_exact(rng):
    """Rotations past an RMSNorm; nothing past a function; and the refusal says what to do."""
    old = with_norms(network(rng, T2), RMSNorm)
    assert_same(stacks.conjugate(old, rotation(rng)), old, rng)
    kept = with_norms(network(rng, T2), LayerNorm)
    assert_same(stacks.conjugate(kept, rotation(rng, True)), kept, rng)
    for make, basis, hint in (
        (lambda: RMSNorm(np.ones(D)), rotation(rng), "fold_gains"),
        (LayerNorm, rotation(rng), "center"),
        (rms_norm, rotation(rng), "give it as norms.RMSNorm"),
        (RMSNorm, rng.normal(size=(D, D)), "rotations"),
    ):
        with pytest.raises(HypothesisError, match=hint) as refusal:
            stacks.conjugate(with_norms(network(rng, T2), make), basis)
        assert refusal.value.hypothesis == "no norm"


@pytest.mark.parametrize("place", ["attention_norm", "mlp_norm", "norm"])
def test_one_norm_that_is_just_a_function_stops_everything(place, rng):
    old = with_norms(network(rng, T2), RMSNorm)
    wrong = replace(old, norm=lambda x: x) if place == "norm" else with_block(old, **{place: lambda x: x})
    with pytest.raises(HypothesisError, match="no norm"):
        stacks.conjugate(wrong, rotation(rng))


# -- folding -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("topology", [T0, TA, TM, T2])
def test_folded_gains_keep_the_function(kind, topology, rng):
    old = with_norms(network(rng, topology, topology), lambda: gains(rng, kind))
    new = norms.fold_gains(old)
    assert_same(new, old, rng)
    for block in new.blocks:
        for norm in (block.attention_norm, block.mlp_norm, new.norm):
            assert norm.gain is None
            assert getattr(norm, "bias", None) is None
            assert norm.eps == 1e-3


def test_gains_are_folded_into_parallel_blocks_and_the_queries_of_cross_attention(rng):
    old = with_norms(network(rng, (True, False), parallel=True), lambda: gains(rng, "LayerNorm"))
    assert_same(norms.fold_gains(old), old, rng)
    old = with_norms(decoder(rng), lambda: gains(rng, "LayerNorm"))
    assert_same(norms.fold_gains(old), old, rng, rng.normal(size=(4, D + 3)))


def test_a_block_in_several_places_stays_one_block(rng):
    old = with_norms(network(rng, T2), lambda: gains(rng, "LayerNorm"))
    looped = replace(old, blocks=[old.blocks[0]] * 3)
    for construct in (norms.fold_gains, lambda net: norms.center(norms.fold_gains(net))):
        new = construct(looped)
        assert new.blocks[0] is new.blocks[2]
        assert_same(new, looped, rng)


def test_what_is_bare_already_stays_as_it_is(rng):
    old = with_norms(network(rng, T2, tied=True), RMSNorm)
    new = norms.fold_gains(old)
    assert new.blocks[0].attention.W_Q is old.blocks[0].attention.W_Q
    assert new.readout is None
    without = network(rng, T2)
    assert norms.fold_gains(without).norm is None


def test_pytorch_networks_keep_their_function_and_their_gradients():
    """Weights that are trained are folded like others, and gradients reach the gain."""
    torch = pytest.importorskip("torch")
    norm = RMSNorm(torch.ones(4, requires_grad=True))
    weight, bias = norms.into(norm, torch.eye(4, requires_grad=True), None, "W")
    assert bias is None
    weight.sum().backward()
    assert norm.gain.grad.tolist() == [1.0] * 4


REFUSED: dict[str, tuple[str, Any]] = {
    "a function": ("known norm", lambda n, r: norms.fold_gains(with_block(n, attention_norm=rms_norm()))),
    "a function before the readout": ("known norm", lambda n, r: norms.fold_gains(replace(n, norm=rms_norm()))),
    "a tied readout": (
        "untied readout",
        lambda n, r: norms.fold_gains(replace(n, readout=None, norm=gains(r, "RMSNorm"))),
    ),
    "a gain of another width": (
        "shapes agree",
        lambda n, r: norms.fold_gains(with_block(n, mlp_norm=RMSNorm(np.ones(D + 1)))),
    ),
    "a gain of another precision": (
        "one kind of number",
        lambda n, r: norms.fold_gains(with_block(n, mlp_norm=RMSNorm(np.ones(D, dtype=np.float32)))),
    ),
    "a gain that is no number": (
        "finite",
        lambda n, r: norms.fold_gains(with_block(n, mlp_norm=RMSNorm(np.full(D, np.nan)))),
    ),
    "no LayerNorm to center": ("every read behind a LayerNorm", lambda n, r: norms.center(n)),
    "an RMSNorm to center": (
        "every read behind a LayerNorm",
        lambda n, r: norms.center(with_norms(n, RMSNorm)),
    ),
    "a learned skip to center": (
        "every read behind a LayerNorm",
        lambda n, r: norms.center(with_block(with_norms(n, LayerNorm), attention_skip=np.eye(D))),
    ),
    "a readout without norm to center": (
        "every read behind a LayerNorm",
        lambda n, r: norms.center(replace(with_norms(n, LayerNorm), norm=None)),
    ),
    "a bias to center past": (
        "gains folded",
        lambda n, r: norms.center(with_norms(n, lambda: gains(r, "LayerNorm"))),
    ),
    "a gain before a tied readout to center": (
        "untied readout",
        lambda n, r: norms.center(with_norms(replace(n, readout=None), lambda: gains(r, "LayerNorm", False))),
    ),
    "not a number to center": (
        "finite",
        lambda n, r: norms.center(replace(with_norms(n, LayerNorm), positions=np.full((5, D), np.inf))),
    ),
}


@pytest.mark.parametrize(("name", "ask"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_and_why(name, ask, rng):
    with pytest.raises(HypothesisError) as refusal:
        ask(network(rng, T2), rng)
    assert refusal.value.hypothesis == name


@pytest.mark.parametrize("construct", [norms.fold_gains, norms.center])
def test_what_is_no_network_is_refused(construct):
    with pytest.raises(TypeError, match="the network must be of type Network"):
        construct(None)


# -- centering ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("topology", [T0, TA, TM, T2])
def test_a_centered_network_has_no_means_and_the_same_function(topology, rng):
    old = with_norms(network(rng, topology, topology), lambda: gains(rng, "LayerNorm"))
    new = norms.center(norms.fold_gains(old))
    assert_same(new, old, rng)
    assert np.abs(new.stream(tokens(rng)).mean(axis=1)).max() < 1e-14
    assert isinstance(new.norm, RMSNorm)
    assert new.norm.eps == 1e-3


def test_cross_attention_and_a_tied_readout_are_centered_too(rng):
    old = with_norms(replace(decoder(rng), readout=None), lambda: LayerNorm(eps=1e-3))
    new = norms.center(old)
    assert new.readout is None
    assert_same(new, old, rng, rng.normal(size=(4, D + 3)))


def test_gains_may_stay_when_means_go(rng):
    old = with_norms(network(rng, T2), lambda: gains(rng, "LayerNorm", bias=False))
    assert_same(norms.center(old), old, rng)


# -- explained ---------------------------------------------------------------------------------------------------------


def test_folding_and_centering_are_explained_in_letters(rng):
    old = with_norms(network(rng, T2), lambda: gains(rng, "LayerNorm"))
    becomes = {move.weight: move.becomes for move in stacks.explain(norms.fold_gains, old)}
    assert becomes["W_V^0"] == "Gamma_1^0 W_V^0"
    assert becomes["b_Q^0"] == "b_Q^0 + c_1^0 W_Q^0"
    assert becomes["W_up^0"] == "Gamma_2^0 W_up^0"
    assert becomes["D"] == "Gamma D"
    assert "E" not in becomes
    centered = {m.weight: m.becomes for m in stacks.explain(lambda net: norms.center(norms.fold_gains(net)), old)}
    assert centered["E"] == "E C"
    assert centered["b_O^0"] == "b_O^0 C"


def test_the_bias_of_the_readout_is_added_and_kept(rng):
    old = replace(network(rng, T2), readout_bias=rng.normal(size=3))
    given = tokens(rng)
    np.testing.assert_allclose(old(given) - replace(old, readout_bias=None)(given), np.tile(old.readout_bias, (5, 1)))
    assert_same(stacks.conjugate(old, old.blocks[0].attention.W_Q), old, rng)
    with pytest.raises(HypothesisError, match="finite"):
        stacks.conjugate(replace(old, readout_bias=np.full(3, np.nan)), np.eye(D))


@pytest.mark.parametrize("kind", KINDS)
def test_the_bias_of_the_readout_stays_when_gains_are_folded(kind, rng):
    old = replace(with_norms(network(rng, T2), lambda: gains(rng, kind)), readout_bias=rng.normal(size=3))
    assert_same(norms.fold_gains(old), old, rng)
