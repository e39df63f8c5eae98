"""Whole networks: every topology and mixtures of them, ties, sharing, memory and other number types."""

from __future__ import annotations

import copy
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qkvtheory import MLP, Attention, Block, Heads, HypothesisError, Network, causal, rebase, stacks
from qkvtheory.attention import rational, rms_norm
from qkvtheory.positions import rope
from tests.layers import EPS, conditioned, error
from tests.stack_makers import (
    COND,
    T0,
    T2,
    TA,
    TM,
    TOKENS,
    TOPOLOGIES,
    D,
    basis,
    block,
    decoder,
    is_identity,
    network,
    tokens,
)

ELIMINABLE = {name: skips for name, skips in TOPOLOGIES.items() if skips != T2}
CLOSE = 1e-12


# -- elimination -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [1, 2, 5])
@pytest.mark.parametrize("topology", ELIMINABLE.values(), ids=ELIMINABLE)
@pytest.mark.parametrize("which", "QKV")
def test_a_projection_of_every_layer_becomes_the_identity(which, topology, layers, rng):
    old, t = network(rng, *[topology] * layers), tokens(rng)
    new = stacks.eliminate(old, which)
    assert error(new(t), old(t)) < CLOSE
    assert all(is_identity(getattr(b.attention, f"W_{which}")) for b in new.blocks)
    assert new.readout is old.readout
    assert not is_identity(old.blocks[0].attention.W_Q), "the old network is left alone"


def test_what_each_topology_moves(rng):
    """Between attention and the MLP: nothing without skips, with a skip the basis of the state that it joins to it."""
    for topology, expected in ((T0, None), (TA, 0), (TM, 1)):
        old = network(rng, topology, topology)
        new = stacks.eliminate(old)
        write, read = old.blocks[0].attention.W_O, old.blocks[0].mlp.W_up
        if expected is not None:
            theta = old.blocks[expected].attention.W_Q
            write, read = write @ theta, np.linalg.inv(theta) @ read
        np.testing.assert_allclose(new.blocks[0].attention.W_O, write, atol=1e-12)
        np.testing.assert_allclose(new.blocks[0].mlp.W_up, read, atol=1e-12)
        assert new.blocks[0].mlp.b_up is old.blocks[0].mlp.b_up


def test_a_letter_for_each_layer(rng):
    old, t = network(rng, T0, TA, TM, TA), tokens(rng)
    new = stacks.eliminate(old, ["K", "V", "Q", "K"])
    assert error(new(t), old(t)) < CLOSE
    for b, letter in zip(new.blocks, "KVQK", strict=True):
        assert [is_identity(getattr(b.attention, f"W_{c}")) for c in "QKV"] == [c == letter for c in "QKV"]


def test_chosen_layers_only(rng):
    old, t = network(rng, TA, TA, TA), tokens(rng)
    new = stacks.eliminate(old, "Q", layers=[1])
    assert error(new(t), old(t)) < CLOSE
    assert [is_identity(b.attention.W_Q) for b in new.blocks] == [False, True, False]
    assert new.blocks[2].attention.W_K is old.blocks[2].attention.W_K, "a layer that nothing touches keeps its weights"
    assert new.embedding is old.embedding


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_one_layer_with_every_skip(layer, rng):
    old, t = network(rng, T2, T2, T2), tokens(rng)
    new = stacks.eliminate(old, layers=[layer])
    assert error(new(t), old(t)) < CLOSE
    assert [is_identity(b.attention.W_Q) for b in new.blocks] == [i == layer for i in range(3)]


def test_no_layer_chosen_changes_nothing(rng):
    old = network(rng, T2, T2)
    new = stacks.eliminate(old, layers=[])
    assert new.embedding is old.embedding and new.blocks[1].attention.W_Q is old.blocks[1].attention.W_Q


def test_shared_matrices_are_one_choice(rng):
    """Equal W_Q in joined layers: allowed, be it the same array or a copy."""
    old, t = network(rng, T2, T2), tokens(rng)
    W_Q = old.blocks[0].attention.W_Q
    for twin in (W_Q, W_Q.copy()):
        last = replace(old.blocks[1], attention=replace(old.blocks[1].attention, W_Q=twin))
        shared = replace(old, blocks=[old.blocks[0], last])
        new = stacks.eliminate(shared)
        assert error(new(t), shared(t)) < CLOSE
        assert all(is_identity(b.attention.W_Q) for b in new.blocks)


@st.composite
def any_network(draw):
    """A network of mixed topologies, some blocks parallel (these have one skip), some skips learned."""
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    learned = basis(rng)
    skips = [st.sampled_from([True, False, "learned"])] * 2
    blocks = []
    for _ in range(draw(st.integers(1, 5))):
        topology = tuple(learned if s == "learned" else s for s in draw(st.tuples(*skips)))
        heads = Heads(2, **draw(st.sampled_from([{}, {"mask": causal(TOKENS)}, {"rotate": rope(TOKENS, D // 2)}])))
        parallel = draw(st.booleans())
        blocks.append(block(rng, (topology[0], False) if parallel else topology, heads, parallel=parallel))
    return replace(network(rng), blocks=blocks), rng


@given(any_network())
def test_every_segment_has_a_basis_of_its_own(case):
    old, rng = case
    bases: list[Any] = [None] * (2 * len(old.blocks) + 1)
    for group in stacks.segments(old):
        theta = basis(rng)
        for state in group:
            bases[state] = theta
    new, t = stacks.carry(old, bases), tokens(rng)
    assert error(new(t), old(t)) < 1e-10
    assert error(new.stream(t), old.stream(t) @ bases[-1]) < 1e-10


@given(any_network(), st.data())
def test_one_layer_of_every_segment_can_be_chosen(case, data):
    old, rng = case
    inputs = [[state // 2 for state in group if state % 2 == 0] for group in stacks.segments(old)]
    inputs = [[layer for layer in group if layer < len(old.blocks)] for group in inputs]
    layers = [data.draw(st.sampled_from(group)) for group in inputs if group]
    letters = [data.draw(st.sampled_from("QKV")) for _ in layers]
    new, t = stacks.eliminate(old, letters, layers), tokens(rng)
    assert error(new(t), old(t)) < 1e-10
    for layer, letter in zip(layers, letters, strict=True):
        assert is_identity(getattr(new.blocks[layer].attention, f"W_{letter}"))
    crowded = [group for group in inputs if len(group) > 1]
    if crowded:
        with pytest.raises(HypothesisError) as refusal:
            stacks.eliminate(old, "Q", crowded[0])
        assert refusal.value.hypothesis == "one choice per segment"


def test_grouped_keys(rng):
    old, t = network(rng, TA, TA, heads=Heads(4, 2)), tokens(rng)
    narrow = {name: getattr(old.blocks[0].attention, name)[:, : D // 2] for name in ("W_K", "W_V", "b_K", "b_V")}
    old = replace(old, blocks=[replace(b, attention=replace(b.attention, **narrow)) for b in old.blocks])
    assert error(stacks.eliminate(old)(t), old(t)) < CLOSE


@pytest.mark.parametrize("topology", ELIMINABLE.values(), ids=ELIMINABLE)
def test_forty_eight_layers(topology, rng):
    """Every token looks mostly at itself and the other weights are orthogonal, so tokens still differ at the end."""

    def turn() -> np.ndarray:
        return np.linalg.qr(rng.normal(size=(D, D)))[0]

    core = Heads(2, bias=8 * np.eye(TOKENS))
    strength = 0.3 if topology[1] else 1.0
    blocks = [
        Block(Attention(core, basis(rng), turn(), turn(), turn()), MLP(np.tanh, turn(), strength * turn()), *topology)
        for _ in range(48)
    ]
    old, t = replace(network(rng), blocks=blocks), tokens(rng)
    new = stacks.eliminate(old)
    spread = np.ptp(old(t), axis=0).max() / np.abs(old(t)).max()
    assert spread > 0.01, "tokens that had become equal would make the comparison empty"
    assert error(new(t), old(t)) < 64 * 48 * EPS * COND
    assert all(is_identity(b.attention.W_Q) for b in new.blocks)


# -- bases -------------------------------------------------------------------------------------------------------------


def test_a_state_without_a_basis_stays_as_it_is(rng):
    old, t = network(rng, T0, T0), tokens(rng)
    new = stacks.carry(old, [None, basis(rng), None, None, None])
    assert error(new(t), old(t)) < CLOSE
    assert new.embedding is old.embedding and new.readout is old.readout
    assert new.blocks[1].attention.W_Q is old.blocks[1].attention.W_Q
    assert not np.allclose(new.blocks[0].attention.W_O, old.blocks[0].attention.W_O)


def test_a_skip_around_attention_fills_in_the_state_between(rng):
    old, theta, t = network(rng, TA), basis(rng), tokens(rng)
    for bases in ([theta, None, None], [theta, theta, None]):
        new = stacks.carry(old, bases)
        assert error(new(t), old(t)) < CLOSE
        np.testing.assert_array_equal(new.blocks[0].attention.W_O, old.blocks[0].attention.W_O @ theta)


@pytest.mark.parametrize("topology", TOPOLOGIES.values(), ids=TOPOLOGIES)
def test_one_basis_everywhere(topology, rng):
    old, theta, t = network(rng, topology, topology), basis(rng), tokens(rng)
    new = stacks.conjugate(old, theta)
    assert error(new(t), old(t)) < CLOSE
    assert error(new.stream(t), old.stream(t) @ theta) < CLOSE


def test_the_last_state_may_lose_a_direction_when_nothing_reads_it(rng):
    """``leave`` of a block without a skip around its MLP is only written in, so it need not be invertible."""
    x, singular, theta = rng.normal(size=(TOKENS, D)), np.diag([1.0] * (D - 1) + [0.0]), basis(rng)
    for old in (block(rng, T0), block(rng, TA), block(rng, T0, parallel=True)):
        assert error(rebase(old, theta, singular)(x @ theta), old(x) @ singular) < CLOSE


def test_memory(rng):
    """Cross-attention in every layer reads one memory, which has one basis."""
    old = network(rng, TA, T2, T0)
    old = replace(old, blocks=[replace(b, cross=block(rng).attention) for b in old.blocks])
    memory, phi, t = rng.normal(size=(4, D)), basis(rng), tokens(rng)
    bases: list[Any] = [None] * 7
    for group in stacks.segments(old):
        theta = basis(rng)
        for state in group:
            bases[state] = theta
    new = stacks.carry(old, bases, phi)
    assert error(new(t, memory @ phi), old(t, memory)) < CLOSE
    assert error(new(t, memory), old(t, memory)) > 1e-3, "the memory must be in its basis"
    assert error(stacks.carry(old, bases)(t, memory), old(t, memory)) < CLOSE


@pytest.mark.parametrize("topology", ELIMINABLE.values(), ids=ELIMINABLE)
def test_a_memory_of_another_width(topology, rng):
    """It keeps its basis, or takes one of its own size."""
    old, t, memory, phi = (
        decoder(rng, topology),
        tokens(rng),
        rng.normal(size=(4, D + 3)),
        conditioned(rng, D + 3, COND),
    )
    new = stacks.eliminate(old)
    assert error(new(t, memory), old(t, memory)) < CLOSE
    assert new.blocks[0].cross.W_K is old.blocks[0].cross.W_K
    theta = basis(rng)
    assert error(stacks.conjugate(old, theta, phi)(t, memory @ phi), old(t, memory)) < CLOSE


def test_a_norm_may_stand_where_no_basis_changes(rng):
    """Before attention and cross-attention of one layer, while the MLP's state of another takes a basis."""
    normed = replace(block(rng, T0, attention_norm=rms_norm(), mlp_norm=rms_norm()), cross=block(rng).attention)
    old, t, memory = network(rng, T0, T0), tokens(rng), rng.normal(size=(4, D))
    old = replace(old, blocks=[normed, old.blocks[1]])
    for new in (stacks.carry(old, [None, None, basis(rng), None, None]), stacks.eliminate(old, layers=[1])):
        assert error(new(t, memory), old(t, memory)) < CLOSE


@pytest.mark.parametrize("topology", TOPOLOGIES.values(), ids=TOPOLOGIES)
def test_a_block_in_several_places_stays_one_object(topology, rng):
    one = block(rng, topology)
    old, t = replace(network(rng), blocks=[one, one, one]), tokens(rng)
    for new in (stacks.conjugate(old, basis(rng)), stacks.eliminate(old)):
        assert error(new(t), old(t)) < CLOSE
        assert new.blocks[0] is new.blocks[1]
    assert all(is_identity(b.attention.W_Q) for b in stacks.eliminate(old).blocks)


def test_one_block_in_two_bases_becomes_two(rng):
    one = block(rng, TA)
    old, t = replace(network(rng), blocks=[one, one]), tokens(rng)
    new = stacks.eliminate(old, ["Q", "K"])
    assert error(new(t), old(t)) < CLOSE
    assert new.blocks[0] is not new.blocks[1]


def test_one_block_with_two_bases_between_becomes_two(rng):
    """Alike where it is entered and left, different only between attention and MLP."""
    one, theta = block(rng, T0), basis(rng)
    old, t = replace(network(rng), blocks=[one, one]), tokens(rng)
    bases = [theta, basis(rng), theta, basis(rng), theta]
    new = stacks.carry(old, bases)
    assert error(new(t), old(t)) < CLOSE
    for b, middle in zip(new.blocks, bases[1::2], strict=True):
        np.testing.assert_array_equal(b.attention.W_O, one.attention.W_O @ middle)


# -- segments ----------------------------------------------------------------------------------------------------------

BESIDE = Block(None, None, True, False, parallel=True)  # type: ignore[arg-type]
SEGMENTS = {
    "no skips": ([T0, T0], [[0], [1], [2], [3], [4]]),
    "around attention": ([TA, TA], [[0, 1], [2, 3], [4]]),
    "around the MLP": ([TM, TM], [[0], [1, 2], [3, 4]]),
    "both": ([T2, T2], [[0, 1, 2, 3, 4]]),
    "one of each": ([TA, T2, T0], [[0, 1], [2, 3, 4], [5], [6]]),
    "learned": ([(np.eye(2), True)], [[0], [1, 2]]),
    "nothing": ([], [[0]]),
}


def skeleton(topologies: list[Any]) -> Network:
    return Network(None, [Block(None, None, *skips) for skips in topologies])  # type: ignore[arg-type]


@pytest.mark.parametrize(("topologies", "expected"), SEGMENTS.values(), ids=SEGMENTS)
def test_segments(topologies, expected):
    assert stacks.segments(skeleton(topologies)) == expected
    assert stacks.free_bases(skeleton(topologies)) == len(expected)


def test_parallel_blocks_have_no_state_between():
    assert stacks.segments(Network(None, [BESIDE, replace(BESIDE, attention_skip=False)])) == [[0, 2], [4]]


def test_long_skips_join_segments():
    net = skeleton([T0, T0])
    assert stacks.segments(net, [(0, 4)]) == [[0, 4], [1], [2], [3]]
    assert stacks.segments(net, [(0, 2), (2, 4), (1, 3)]) == [[0, 2, 4], [1, 3]]
    assert stacks.segments(net, [(1, 1)]) == stacks.segments(net)
    assert stacks.free_bases(skeleton([TA, TA]), [(0, 4)]) == 2


@pytest.mark.parametrize("pair", [(0, 5), (-1, 0), (7, 9), (0, "2")])
def test_a_long_skip_joins_states_that_exist(pair):
    with pytest.raises(ValueError, match="there is no state"):
        stacks.segments(skeleton([T0, T0]), [pair])
    with pytest.raises(ValueError, match="there is no state"):
        stacks.free_bases(skeleton([T0, T0]), [pair])


def test_a_parallel_block_has_no_state_to_join():
    with pytest.raises(ValueError, match="there is no state 1"):
        stacks.segments(Network(None, [BESIDE]), [(0, 1)])


# -- ties --------------------------------------------------------------------------------------------------------------


def test_a_tied_readout_costs_the_first_layer(rng):
    old, t = network(rng, TA, TA, TA, tied=True), tokens(rng)
    new = stacks.eliminate(old, layers=range(1, 3))
    assert error(new(t), old(t)) < CLOSE
    assert new.readout is None and new.embedding is old.embedding
    assert [is_identity(b.attention.W_Q) for b in new.blocks] == [False, True, True]


def test_a_tied_readout_follows_an_orthogonal_basis(rng):
    old, t = network(rng, T2, T2, tied=True), tokens(rng)
    turn = np.linalg.qr(rng.normal(size=(D, D)))[0]
    new = stacks.conjugate(old, turn)
    assert new.readout is None
    assert error(new(t), old(t)) < CLOSE
    for bases in ([turn] * 4 + [None], [None] * 4 + [turn]):
        with pytest.raises(HypothesisError, match="untied readout"):
            stacks.carry(replace(old, blocks=[block(rng, T0)] * 2), bases)


# -- identity skips written out ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [1, 3])
def test_every_query_goes_once_the_skips_around_the_mlps_are_learned(layers, rng):
    old, t = network(rng, *[T2] * layers), tokens(rng)
    written = stacks.learned_skips(old)
    new = stacks.eliminate(written)
    back = stacks.remove_learned_skips(new)
    assert all(is_identity(b.mlp_skip) and b.attention_skip is True for b in written.blocks)
    assert all(is_identity(b.attention.W_Q) and b.attention_skip is True for b in new.blocks)
    assert all(error(n(t), old(t)) < CLOSE for n in (written, new, back))
    assert all(b.mlp_skip is True for b in back.blocks)
    assert error(back.embedding, old.embedding) < CLOSE, "the way back leads to the old weights"


@pytest.mark.parametrize(("around", "bases"), [("attention", 3), ("mlp", 3), ("both", 5)])
def test_which_skips_are_written_out(around, bases, rng):
    old = network(rng, T2, T2)
    assert stacks.free_bases(old) == 1
    assert stacks.free_bases(stacks.learned_skips(old, around)) == bases


def test_what_is_no_identity_skip_stays(rng):
    learned = basis(rng)
    old = network(rng, T0, (learned, learned))
    new = stacks.learned_skips(old, "both")
    assert [(b.attention_skip, b.mlp_skip) for b in new.blocks] == [T0, (learned, learned)]
    parallel = network(rng, (True, False), parallel=True)
    assert is_identity(stacks.learned_skips(parallel, "attention").blocks[0].attention_skip)


def test_only_known_skips_are_written_out(rng):
    with pytest.raises(ValueError, match="'attention', 'mlp' or 'both', not 'MLP'"):
        stacks.learned_skips(network(rng, T2), "MLP")
    with pytest.raises(TypeError):
        stacks.learned_skips(network(rng, T2).blocks[0])


# -- learned skips and merged outputs ----------------------------------------------------------------------------------


def test_learned_skips_become_identities(rng):
    old, t = network(rng, (basis(rng), True), T0, (True, basis(rng)), (basis(rng), basis(rng))), tokens(rng)
    new = stacks.remove_learned_skips(old)
    assert error(new(t), old(t)) < CLOSE
    kinds = [(b.attention_skip, b.mlp_skip) for b in new.blocks]
    assert kinds == [(True, True), (False, False), (True, True), (True, True)]


def test_a_parallel_block_hands_on_the_learned_skips_after_it(rng):
    first = block(rng, (basis(rng), False), parallel=True)
    old, t = replace(network(rng), blocks=[first, block(rng, (basis(rng), True))]), tokens(rng)
    new = stacks.remove_learned_skips(old)
    assert error(new(t), old(t)) < CLOSE
    assert [(b.attention_skip, b.mlp_skip) for b in new.blocks] == [(True, False), (True, True)]


def test_states_before_a_missing_skip_stay_as_they_are(rng):
    old = network(rng, (False, True), (basis(rng), False))
    new = stacks.remove_learned_skips(old)
    assert new.embedding is old.embedding and new.blocks[0].attention.W_Q is old.blocks[0].attention.W_Q
    assert new.blocks[0].mlp.W_up is not old.blocks[0].mlp.W_up


def test_output_projections_go_into_the_mlp(rng):
    old, t = network(rng, T0, T0), tokens(rng)
    flat = np.zeros((D, D))
    blocks = [
        old.blocks[0],
        replace(
            old.blocks[1],
            attention=replace(old.blocks[1].attention, W_O=flat),  # nothing need be invertible
            mlp=replace(old.blocks[1].mlp, b_up=None),
        ),
    ]
    old = replace(old, blocks=blocks)
    new = stacks.merge_outputs(old)
    assert error(new(t), old(t)) < CLOSE
    assert all(is_identity(b.attention.W_O) and b.attention.b_O is None for b in new.blocks)
    both = stacks.eliminate(new, "V")
    assert error(both(t), old(t)) < CLOSE
    assert all(is_identity(b.attention.W_O) and is_identity(b.attention.W_V) for b in both.blocks)


# -- other numbers -----------------------------------------------------------------------------------------------------


def mapped(layer: Any, change: Any) -> Any:
    """A network with ``change`` made to every array it holds."""
    if isinstance(layer, Network | Block | Attention | MLP):
        twin = copy.copy(layer)
        for name, value in vars(layer).items():
            object.__setattr__(twin, name, mapped(value, change))
        return twin
    if isinstance(layer, list):
        return [mapped(each, change) for each in layer]
    return change(layer) if isinstance(layer, np.ndarray) else layer


@pytest.mark.parametrize("topology", ELIMINABLE.values(), ids=ELIMINABLE)
def test_float32(topology, rng):
    old, t = mapped(network(rng, topology, topology), lambda a: a.astype(np.float32)), tokens(rng).astype(np.float32)
    new = stacks.eliminate(old)
    assert {a.dtype for b in new.blocks for a in vars(b.attention).values() if isinstance(a, np.ndarray)} == {
        np.dtype(np.float32)
    }
    assert error(new(t), old(t)) < 256 * np.finfo(np.float32).eps * COND
    with pytest.raises(HypothesisError, match="one"):
        stacks.eliminate(replace(old, embedding=old.embedding.astype(np.float64)))


@pytest.mark.parametrize("topology", ELIMINABLE.values(), ids=ELIMINABLE)
def test_exact_numbers(topology, rng):
    """With fractions, a rational row pattern and a polynomial activation the two networks are equal, not close."""

    def exact(a: np.ndarray) -> np.ndarray:
        whole = [[Fraction(int(x)) for x in row] for row in np.rint(3 * a)]
        return np.array(whole, dtype=object)

    def square(weights: np.ndarray) -> np.ndarray:
        return exact(weights) + 7 * exact(np.eye(len(weights)) / 3) if weights.shape == (D, D) else exact(weights)

    core = Heads(2, scale=1, pattern=rational)
    old = mapped(network(rng, topology, heads=core), square)
    old = replace(old, blocks=[replace(b, mlp=replace(b.mlp, act=lambda y: y * y)) for b in old.blocks])
    new, t = stacks.eliminate(old), exact(tokens(rng))
    assert (new(t) == old(t)).all()
    assert is_identity(new.blocks[0].attention.W_Q)


@pytest.mark.torch
@pytest.mark.parametrize("topology", ELIMINABLE.values(), ids=ELIMINABLE)
def test_tensors(topology, rng):
    torch = pytest.importorskip("torch")
    numbers, t = network(rng, topology, topology), tokens(rng)
    old = mapped(numbers, torch.from_numpy)
    old = replace(old, blocks=[replace(b, mlp=replace(b.mlp, act=torch.tanh)) for b in old.blocks])
    new = stacks.eliminate(old)
    t = torch.from_numpy(t)
    assert isinstance(new.blocks[0].attention.W_Q, torch.Tensor)
    assert error(new(t).numpy(), old(t).numpy()) < CLOSE
    assert error(new(t).numpy(), stacks.eliminate(numbers)(t.numpy())) < CLOSE
    assert all(is_identity(b.attention.W_Q.numpy()) for b in new.blocks)
