"""What a construction does to each weight, told in letters."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from qkvtheory import MLP, Attention, Block, Heads, HypothesisError, Network, stacks
from tests.stack_makers import T0, T2, TA, D, basis, block, network, with_attention, with_block


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
