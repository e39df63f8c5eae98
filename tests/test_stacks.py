"""Whole networks: every topology and mixtures of them, ties, sharing, memory, other number types, and every refusal."""

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

D, TOKENS, VOCABULARY, COND = 8, 5, 7, 10.0
T0, TA, TM, T2 = (False, False), (True, False), (False, True), (True, True)
TOPOLOGIES = {"no skips": T0, "around attention": TA, "around the MLP": TM, "both": T2}
ELIMINABLE = {name: skips for name, skips in TOPOLOGIES.items() if skips != T2}
CLOSE = 1e-12


def matrix(rng: np.random.Generator, rows: int = D, cols: int = D) -> np.ndarray:
    return rng.normal(size=(rows, cols)) / np.sqrt(rows)


def basis(rng: np.random.Generator) -> np.ndarray:
    return conditioned(rng, D, COND)


def block(rng: np.random.Generator, topology: tuple[Any, Any] = TA, heads: Any = None, **options: Any) -> Block:
    """A block with all biases and well-conditioned W_Q, W_K, W_V."""
    biases = {f"b_{name}": rng.normal(size=(1, D)) for name in "QKVO"}
    attention = Attention(heads or Heads(2), basis(rng), basis(rng), basis(rng), matrix(rng), **biases)
    mlp = MLP(np.tanh, matrix(rng, D, 11), matrix(rng, 11, D), rng.normal(size=(1, 11)), rng.normal(size=(1, D)))
    return Block(attention, mlp, *topology, **options)


def network(rng: np.random.Generator, *topologies: tuple[Any, Any], tied: bool = False, **options: Any) -> Network:
    """One block for each topology."""
    readout = None if tied else matrix(rng, D, 3)
    blocks = [block(rng, topology, **options) for topology in topologies]
    return Network(matrix(rng, VOCABULARY, D), blocks, readout, matrix(rng, TOKENS, D))


def tokens(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(TOKENS, VOCABULARY))


def is_identity(weight: np.ndarray) -> bool:
    return bool((weight == np.eye(len(weight))).all())


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


def decoder(rng: np.random.Generator, topology: tuple[Any, Any] = TA, **options: Any) -> Network:
    """Two blocks with cross-attention to a memory that is wider than the stream."""
    wide = {name: matrix(rng, D + 3) for name in ("W_K", "W_V")}
    blocks = [block(rng, topology, cross=replace(block(rng).attention, **wide), **options) for _ in range(2)]
    return replace(network(rng), blocks=blocks)


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


# -- refusals ----------------------------------------------------------------------------------------------------------


def with_block(net: Network, **changes: Any) -> Network:
    return replace(net, blocks=[replace(net.blocks[0], **changes), *net.blocks[1:]])


def with_attention(net: Network, **changes: Any) -> Network:
    return with_block(net, attention=replace(net.blocks[0].attention, **changes))


FLAT = np.diag([1.0] * (D - 1) + [0.0])
REFUSED: dict[str, tuple[str, Any]] = {
    "both skips": ("one choice per segment", lambda n, r: stacks.eliminate(network(r, T2, T2))),
    "a skip too many in one layer": ("one choice per segment", lambda n, r: stacks.eliminate(network(r, TA, T2, TA))),
    "a norm before attention": ("no norm", lambda n, r: stacks.eliminate(with_block(n, attention_norm=rms_norm()))),
    "a norm before the MLP": ("no norm", lambda n, r: stacks.eliminate(with_block(n, mlp_norm=rms_norm()))),
    "a norm before the readout": ("no norm", lambda n, r: stacks.conjugate(replace(n, norm=rms_norm()), basis(r))),
    "a tied readout": ("untied readout", lambda n, r: stacks.eliminate(replace(n, readout=None))),
    "a tied readout in one basis": (
        "untied readout",
        lambda n, r: stacks.conjugate(replace(n, readout=None), basis(r)),
    ),
    "a singular W_Q": ("invertible", lambda n, r: stacks.eliminate(with_attention(n, W_Q=FLAT))),
    "a singular W_V": ("invertible", lambda n, r: stacks.eliminate(with_attention(n, W_V=FLAT), "V")),
    "a singular basis": ("invertible", lambda n, r: stacks.conjugate(n, FLAT)),
    "a wide W_Q": (
        "square",
        lambda n, r: stacks.eliminate(
            with_attention(n, W_Q=matrix(r, D, 12), W_K=matrix(r, D, 12), b_Q=None, b_K=None)
        ),
    ),
    "grouped keys": (
        "square",
        lambda n, r: stacks.eliminate(
            with_attention(n, core=Heads(2, 1), W_K=matrix(r, D, 4), W_V=matrix(r, D, 4), b_K=None, b_V=None), "K"
        ),
    ),
    "two bases beside a skip": ("one basis", lambda n, r: stacks.carry(n, [basis(r) for _ in range(5)])),
    "a basis for one side of a skip": ("one basis", lambda n, r: stacks.carry(n, [None, basis(r), None, None, None])),
    "a basis of another size": ("shapes agree", lambda n, r: stacks.conjugate(n, np.eye(D + 1))),
    "a basis that is not square": ("square", lambda n, r: stacks.conjugate(n, matrix(r, D, D - 1))),
    "not a number in the embedding": (
        "finite",
        lambda n, r: stacks.eliminate(replace(n, embedding=np.full((VOCABULARY, D), np.nan))),
    ),
    "infinity in W_Q": ("finite", lambda n, r: stacks.eliminate(with_attention(n, W_Q=np.full((D, D), np.inf)))),
    "an embedding of another width": (
        "shapes agree",
        lambda n, r: stacks.eliminate(replace(n, embedding=matrix(r, 4, D + 1), positions=None)),
    ),
    "a readout of another height": (
        "shapes agree",
        lambda n, r: stacks.eliminate(replace(n, readout=matrix(r, D + 1, 3))),
    ),
    "outputs merged beside a skip": ("no skip", lambda n, r: stacks.merge_outputs(n)),
    "outputs merged in parallel blocks": (
        "no skip",
        lambda n, r: stacks.merge_outputs(network(r, T0, parallel=True)),
    ),
    "outputs merged before cross-attention": (
        "no skip",
        lambda n, r: stacks.merge_outputs(with_block(network(r, T0), cross=block(r).attention)),
    ),
    "outputs merged before a norm": (
        "no norm",
        lambda n, r: stacks.merge_outputs(with_block(network(r, T0), mlp_norm=rms_norm())),
    ),
    "outputs merged beside a learned skip": (
        "no skip",
        lambda n, r: stacks.merge_outputs(network(r, (basis(r), False))),
    ),
    "outputs merged before a learned skip": (
        "no skip",
        lambda n, r: stacks.merge_outputs(network(r, (False, basis(r)))),
    ),
    "not a number in a merged W_O": (
        "finite",
        lambda n, r: stacks.merge_outputs(with_attention(network(r, T0), W_O=np.full((D, D), np.nan))),
    ),
    "integers in a merged W_O": (
        "real numbers",
        lambda n, r: stacks.merge_outputs(with_attention(network(r, T0), W_O=np.eye(D, dtype=int))),
    ),
    "a bias of another width in a merged block": (
        "shapes agree",
        lambda n, r: stacks.merge_outputs(with_attention(network(r, T0), b_O=np.ones((1, 1)))),
    ),
    "a norm before cross-attention, Y in another basis": (
        "no norm",
        lambda n, r: stacks.eliminate(
            replace(n, blocks=[block(r, TM, attention_norm=rms_norm(), cross=block(r).attention), block(r, TM)]),
            layers=[1],
        ),
    ),
    "a norm before cross-attention, Y alone in another basis": (
        "no norm",
        lambda n, r: stacks.carry(
            replace(n, blocks=[block(r, T0, attention_norm=rms_norm(), cross=block(r).attention)]),
            [None, basis(r), None],
        ),
    ),
    "a norm before the MLP of a parallel block": (
        "no norm",
        lambda n, r: stacks.eliminate(network(r, T0, parallel=True, mlp_norm=rms_norm())),
    ),
    "two bases beside the skip of a parallel block": (
        "one basis",
        lambda n, r: stacks.carry(network(r, TA, parallel=True), [basis(r), None, basis(r)]),
    ),
    "one learned skip around two sublayers": (
        "one basis",
        lambda n, r: stacks.carry(
            with_block(network(r, (basis(r), False)), cross=block(r).attention), [basis(r), basis(r), None]
        ),
    ),
    "a singular basis of the memory": (
        "invertible",
        lambda n, r: stacks.conjugate(decoder(r), basis(r), np.diag([1.0] * (D + 2) + [0.0])),
    ),
    "a singular basis of a memory that nothing reads": ("invertible", lambda n, r: stacks.conjugate(n, basis(r), FLAT)),
    "a singular learned skip": ("invertible", lambda n, r: stacks.remove_learned_skips(network(r, (FLAT, True), T0))),
}


@pytest.mark.parametrize(("hypothesis", "ask"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_done_is_refused_by_name(hypothesis, ask, rng):
    with pytest.raises(HypothesisError) as refusal:
        ask(network(rng, TA, TA), rng)
    assert refusal.value.hypothesis == hypothesis
    assert len(str(refusal.value)) > len(f"hypothesis '{hypothesis}' fails: "), "it says what was wrong"


BAD_CALLS: dict[str, tuple[str, Any]] = {
    "an unknown letter": ("which must be 'Q', 'K' or 'V'", lambda n: stacks.eliminate(n, "O")),
    "letters as one word": ("which must be", lambda n: stacks.eliminate(n, "QK")),
    "a letter too few": ("2 layers need as many letters", lambda n: stacks.eliminate(n, ["Q"])),
    "a layer that is not there": ("there is no layer 2", lambda n: stacks.eliminate(n, layers=[2])),
    "a negative layer": ("there is no layer -1", lambda n: stacks.eliminate(n, layers=[-1])),
    "no blocks": ("no blocks", lambda n: stacks.eliminate(replace(n, blocks=[]))),
    "no letters": ("which must be", lambda n: stacks.eliminate(n, None)),
    "a number for a letter": ("which must be", lambda n: stacks.eliminate(n, [0, 1])),
    "two choices for one layer": (
        "layer 0 is chosen twice",
        lambda n: stacks.eliminate(n, ["Q", "K"], layers=[0, 0]),
    ),
    "a basis too few": ("2 blocks have 5 states, not 4", lambda n: stacks.carry(n, [None] * 4)),
}


@pytest.mark.parametrize(("says", "ask"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_a_call_that_makes_no_sense_is_named(says, ask, rng):
    with pytest.raises(ValueError, match=says):
        ask(network(rng, TA, TA))


@pytest.mark.parametrize("layers", [1, "01", [0.0], [True, False], [None], ["0"], np.array([0.0])])
def test_layers_are_whole_numbers(layers, rng):
    with pytest.raises(TypeError, match=r"layers must be whole numbers, such as \[0, 2\], not"):
        stacks.eliminate(network(rng, TA, TA), layers=layers)


@pytest.mark.parametrize("layers", [[1], (1,), {1}, range(1, 2), np.array([1]), iter([1])])
def test_layers_in_any_collection(layers, rng):
    new = stacks.eliminate(network(rng, TA, TA), layers=layers)
    assert [is_identity(b.attention.W_Q) for b in new.blocks] == [False, True]


CONSTRUCTIONS: dict[str, Any] = {
    "carry": lambda n: stacks.carry(n, [None] * 3),
    "conjugate": lambda n: stacks.conjugate(n, np.eye(D)),
    "eliminate": stacks.eliminate,
    "merge_outputs": stacks.merge_outputs,
    "remove_learned_skips": stacks.remove_learned_skips,
    "explain": lambda n: stacks.explain(stacks.eliminate, n),
}


@pytest.mark.parametrize("construction", CONSTRUCTIONS.values(), ids=CONSTRUCTIONS)
def test_what_is_no_network_is_named(construction, rng):
    whole = block(rng, T0)
    for layer, says in (
        (None, "block 0 must be of type Block, not NoneType"),
        (whole.attention, "block 0 must be of type Block, not Attention"),
        (replace(whole, attention=None), "the attention of block 0 must be of type Attention, not NoneType"),
        (replace(whole, mlp=None), "the MLP of block 0 must be of type MLP, not NoneType"),
    ):
        with pytest.raises(TypeError, match=says):
            construction(replace(network(rng), blocks=[layer]))
    if construction is not CONSTRUCTIONS["conjugate"]:  # that counts the blocks first
        for wrong in (whole, None):
            with pytest.raises(TypeError, match="the network must be of type Network, not"):
                construction(wrong)


@pytest.mark.parametrize("layer", [0, 1])
def test_the_refusal_of_a_singular_projection_names_its_block(layer, rng):
    old = network(rng, TA, TA)
    blocks = list(old.blocks)
    blocks[layer] = replace(blocks[layer], attention=replace(blocks[layer].attention, W_K=FLAT))
    with pytest.raises(HypothesisError, match=f"W_K of block {layer} is singular"):
        stacks.eliminate(replace(old, blocks=blocks), "K")


def test_a_basis_of_the_memory_is_named_as_such(rng):
    with pytest.raises(HypothesisError, match="memory is 8 x 8 but W_K is 11 x 8"):
        stacks.conjugate(decoder(rng), basis(rng), np.eye(D))
    with pytest.raises(HypothesisError, match="middle is 9 x 9 but W_Q is 8 x 8"):
        stacks.carry(decoder(rng, T0), [None, np.eye(D + 1), None, None, None])


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


# -- explain -----------------------------------------------------------------------------------------------------------


def told(construction: Any, net: Network) -> dict[str, str]:
    return {move.weight: move.becomes for move in stacks.explain(construction, net)}


def plain(rng: np.random.Generator, *topologies: tuple[Any, Any]) -> Network:
    """Without biases and positions."""
    net = replace(network(rng, *topologies), positions=None)
    drop = dict.fromkeys(("b_Q", "b_K", "b_V", "b_O"))
    blocks = [
        replace(b, attention=replace(b.attention, **drop), mlp=replace(b.mlp, b_up=None, b_down=None))
        for b in net.blocks
    ]
    return replace(net, blocks=blocks)


def test_explain_a_skip_around_attention(rng):
    moves = told(stacks.eliminate_queries, plain(rng, TA, TA))
    assert moves["E"] == "E W_Q^0" and moves["W_Q^0"] == "I" and moves["W_Q^1"] == "I"
    assert moves["W_O^0"] == "W_O^0 W_Q^0" and moves["W_up^0"] == "W_Q^0^-1 W_up^0"
    assert moves["W_down^0"] == "W_down^0 W_Q^1"
    assert "W_down^1" not in moves and "D" not in moves, "what stays is left out"


def test_explain_no_skips_and_biases(rng):
    moves = told(stacks.eliminate_queries, network(rng, T0, T0))
    assert moves["P"] == "P W_Q^0" and moves["b_down^0"] == "b_down^0 W_Q^1"
    assert not {"W_O^0", "W_up^0", "b_O^0", "b_Q^0", "b_up^0"} & set(moves)


def test_explain_latex(rng):
    (move,) = [m for m in stacks.explain(stacks.eliminate_queries, plain(rng, T0)) if m.weight == "W_K^0"]
    assert move.latex == "W_Q^{0,-1}W_K^{0}"
    assert str(move) == "W_K^0        -> W_Q^0^-1 W_K^0"


def test_explain_sees_sharing_and_learned_skips(rng):
    one, skip = block(rng, T2), basis(rng)
    shared = replace(network(rng), blocks=[one, one])
    assert told(stacks.eliminate_queries, shared)["W_Q^0"] == "I"
    learned = told(lambda n: stacks.conjugate(n, n.blocks[0].attention.W_Q), network(rng, (skip, False)))
    assert learned["A^0"] == "W_Q^0^-1 A^0 W_Q^0"
    crossed = with_block(network(rng, TA), cross=block(rng).attention)
    moves = told(stacks.eliminate_queries, crossed)
    assert moves["cross W_Q^0"] == "W_Q^0^-1 cross W_Q^0" and "cross W_K^0" not in moves


def test_explain_raises_what_the_construction_raises(rng):
    with pytest.raises(HypothesisError) as refusal:
        stacks.explain(stacks.eliminate_queries, network(rng, T2, T2))
    assert refusal.value.hypothesis == "one choice per segment"


def test_explain_takes_one_array_for_one_letter(rng):
    old = network(rng, T2, T2)
    copied = replace(old.blocks[1].attention, W_Q=old.blocks[0].attention.W_Q.copy())
    old = replace(old, blocks=[old.blocks[0], replace(old.blocks[1], attention=copied)])
    with pytest.raises(HypothesisError, match="their matrices are not one array"):
        stacks.explain(stacks.eliminate_queries, old)
    with pytest.raises(HypothesisError, match="their matrices differ"):
        stacks.eliminate_queries(network(rng, T2, T2))


def test_explain_takes_a_stream_of_width_one_for_rows():
    attention, mlp = Attention(Heads(1), *np.ones((4, 1, 1))), MLP(np.tanh, *np.ones((2, 1, 1)))
    with pytest.raises(HypothesisError) as refusal:
        stacks.explain(stacks.eliminate_queries, Network(np.ones((7, 1)), [Block(attention, mlp)], np.ones((1, 7))))
    assert refusal.value.hypothesis == "invertible"


def test_explain_needs_arrays_and_a_construction(rng):
    with pytest.raises(HypothesisError, match=r"W_K\^0 must be an array, not a list") as refusal:
        stacks.explain(stacks.eliminate_queries, with_attention(network(rng, T0), W_K=np.eye(D).tolist()))
    assert refusal.value.hypothesis == "matrix"
    with pytest.raises(TypeError, match="what the construction returns must be of type Network, not NoneType"):
        stacks.explain(lambda net: None, network(rng, T0))
