"""What cannot be done to a whole network: each refusal names its hypothesis, each senseless call what is wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from qkvtheory import Heads, HypothesisError, stacks
from qkvtheory.attention import rms_norm
from tests.stack_makers import (
    FLAT,
    T0,
    T2,
    TA,
    TM,
    VOCABULARY,
    D,
    basis,
    block,
    decoder,
    is_identity,
    matrix,
    network,
    with_attention,
    with_block,
)

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


def test_the_last_norm_looks_at_the_last_basis(rng):
    net = replace(network(rng, T0), norm=rms_norm())
    bases = [None] * (2 * len(net.blocks)) + [rng.normal(size=(D, D))]
    with pytest.raises(HypothesisError, match="before the readout"):
        stacks.carry(net, bases)
