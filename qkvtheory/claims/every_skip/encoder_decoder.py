"""Encoder-decoder models: one basis for each half."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from qkvtheory import gauge, stacks
from qkvtheory.claims.every_skip.conjugation import (
    BOTH,
    CHAPTER,
    OURS,
    in_numbers,
    in_setting,
    norm,
    some_block,
    with_norms,
)
from qkvtheory.claims.model import Claim, Control, Hypothesis, Pairs, call
from qkvtheory.claims.reparametrization.streams import unmasked
from qkvtheory.lanes.settings import Setting, square_keys
from qkvtheory.network import Attention, Block, Network

DEPTHS = "soft-capping"  # the setting in which two decoder layers read the encoder


def decoder_block(w: Any) -> Block:
    """A block that also reads a memory of a width of its own."""
    return replace(some_block(w), cross=w.attention(memory=True, label="^c"))


def halves(w: Any) -> tuple[Network, Network, Any]:
    """Encoder, decoder, the encoder's tokens. The first cross-attention has invertible W_Q, W_K, W_V."""
    encoder = w.network(1, BOTH, biases=in_numbers(w), hypothesis="H3")
    encoder = replace(encoder, embedding=w.matrix("F", "vocab", "d"))
    decoder = w.network(2 if in_setting(w, DEPTHS) else 1, BOTH, W_Q=w.weight("W_Q", "d", "p"))
    square = {f"W_{c}": w.invertible(f"W_{c}^c", "d", "H3") for c in "QKV"}
    crosses = [w.attention(label="^c", **square), w.attention(label="^e")]
    blocks = [replace(block, cross=cross) for block, cross in zip(decoder.blocks, crosses, strict=False)]
    return encoder, replace(decoder, blocks=blocks), w.matrix("Z", "n", "vocab")


def both_moved(encoder: Network, decoder: Network, theta: Any, phi: Any) -> tuple[Network, Network]:
    return stacks.conjugate(encoder, phi), stacks.conjugate(decoder, theta, memory=phi)


def output(encoder: Network, decoder: Network, source: Any, tokens: Any) -> Any:
    return decoder(tokens, encoder.stream(source))


def bases(w: Any) -> tuple[Any, Any]:
    return w.invertible("Theta", "d", "H3"), w.invertible("Phi", "z", "H3")


def two_bases(w: Any) -> Pairs:
    """Cross-attention between the two; and what becomes of two projections chosen for them."""
    (theta, phi), y, memory = bases(w), w.matrix("Y", "n", "d"), w.matrix("Z", "m", "z")
    old = w.attention(memory=True)
    new = gauge.moved(old, gauge.inverse(theta), gauge.inverse(phi), theta)
    W_Q, W_V = w.invertible("W_Q", "d", "H3"), w.invertible("W_V", "z", "H3")
    identities = [(gauge.reads(gauge.inverse(W), W)[0], w.identity(size)) for W, size in ((W_Q, "d"), (W_V, "z"))]
    return [(call(new, y @ theta, memory @ phi), old(y, memory) @ theta), *identities]


def one_block(w: Any) -> Pairs:
    """A decoder block around it, with its skips."""
    (theta, phi), x, memory = bases(w), w.matrix("X", "n", "d"), w.matrix("Z", "m", "z")
    block = decoder_block(w)
    new = gauge.rebase(block, theta, theta, memory=phi)
    return [(call(new, x @ theta, memory @ phi, name="block"), block(x, memory) @ theta)]


def whole_models(w: Any) -> Pairs:
    """A cross-attention's W_Q, and at once its W_V, its W_K, or the encoder's W_Q."""
    encoder, decoder, source = halves(w)
    tokens, one, query = w.tokens(), w.identity("d"), encoder.blocks[0].attention.W_Q
    old, cross = output(encoder, decoder, source, tokens), crossing(decoder)
    pairs, choices = [], {"W_V": cross.W_V, "W_K": cross.W_K, "the encoder's W_Q": query}
    for name, phi in list(choices.items())[: None if not in_numbers(w) or in_setting(w, DEPTHS) else 1]:
        moved, new = both_moved(encoder, decoder, cross.W_Q, phi)
        gone = getattr(crossing(new), name, moved.blocks[0].attention.W_Q)
        pairs += [(output(moved, new, source, tokens), old), (crossing(new).W_Q, one), (gone, one)]
    return pairs


def crossing(decoder: Network) -> Attention:
    cross = decoder.blocks[0].cross
    assert cross is not None
    return cross


def shared_start(w: Any) -> Pairs:
    """One embedding for both halves: written in the decoder's basis, it starts the encoder in the wrong one."""
    theta, phi, E = w.invertible("Theta", "d", "H3"), w.invertible("Phi", "d", "H3"), w.matrix("E", "vocab", "d")
    source = w.matrix("Z", "n", "vocab")
    return [(source @ gauge.carried(E, theta), (source @ E) @ phi)]


def shared_embedding(w: Any) -> Pairs:
    """The same in a whole model."""
    encoder, decoder, source = halves(w)
    encoder, tokens = replace(encoder, embedding=decoder.embedding), w.tokens()
    moved, new = both_moved(encoder, decoder, w.invertible("Theta", "d"), w.invertible("Phi", "d"))
    moved = replace(moved, embedding=new.embedding)
    return [(output(moved, new, source, tokens), output(encoder, decoder, source, tokens))]


def memory_forgotten(w: Any) -> Pairs:
    encoder, decoder, source = halves(w)
    new, tokens = stacks.conjugate(decoder, w.invertible("Theta", "d")), w.tokens()
    moved = stacks.conjugate(encoder, w.invertible("Phi", "d"))
    return [(output(moved, new, source, tokens), output(encoder, decoder, source, tokens))]


def normed_half(w: Any) -> Pairs:
    x, memory = w.matrix("X", "n", "d"), w.matrix("Z", "m", "z")
    theta, phi, block = w.invertible("Theta", "d"), w.invertible("Phi", "z"), decoder_block(w)
    new = with_norms(gauge.rebase(block, theta, theta, memory=phi), norm(w))
    return [(new(x @ theta, memory @ phi), with_norms(block, norm(w))(x, memory) @ theta)]


def singular_memory(w: Any) -> Pairs:
    x, memory, theta = w.matrix("X", "n", "d"), w.matrix("Z", "m", "z"), w.invertible("Theta", "d")
    phi, back = w.singular("Phi", "z")
    block = decoder_block(w)
    new = gauge.rebase(
        block, theta, theta, memory=phi, invert=lambda basis, name: back if name == "memory" else gauge.inverse(basis)
    )
    return [(new(x @ theta, memory @ phi), block(x, memory) @ theta)]


def asked_singular(w: Any) -> Pairs:
    _, decoder, _ = halves(w)
    return [(stacks.conjugate(decoder, w.invertible("Theta", "d"), memory=w.singular("Phi", "d")[0]), None)]


def models(s: Setting) -> bool:
    return unmasked(s) and square_keys(s)


ENCODER_DECODER = Claim(
    id="encoder-decoder-two-bases",
    rank="remark",
    chapter=CHAPTER,
    title="An encoder and a decoder have a basis each",
    statement=(
        "Without norms, with all skips: one basis $\\Phi$ for the encoder and one $\\Theta$ for the decoder, chosen independently. The encoder "
        "is conjugated by $\\Phi$, the decoder by $\\Theta$, and cross-attention reads the encoder by $\\Phi^{-1}W_K$, $\\Phi^{-1}W_V$. So one "
        "matrix in each half becomes $I$: say a $W_Q$ of the decoder, and a $W_Q$ of the encoder or a $W_K$ or $W_V$ of cross-attention."
    ),
    hypotheses=(
        Hypothesis("H1", "no norm", "no norm stands before a sublayer of either half, nor on the encoder's output"),
        Hypothesis(
            "H2", "two halves", "encoder and decoder share no embedding, so that each stream is written by its own half"
        ),
        Hypothesis("H3", "invertible bases", "$\\Theta$ and $\\Phi$ are invertible"),
    ),
    sources=(OURS,),
    uses=("cross-attention-two-gauges", "one-layer-free"),
    sides=two_bases,
    also=lambda w: [*one_block(w), *whole_models(w)],
    settings=models,
    deep=True,
    constructions=("moved",),
    controls=(
        Control("H1", "RMSNorm before the sublayers", normed_half),
        Control("H2", "one embedding shared by the two halves", shared_start),
        Control("H2", "a whole model with one embedding for both halves", shared_embedding),
        Control("H3", "a generalized inverse of a singular $\\Phi$", singular_memory),
        Control("H3", "asking for a singular $\\Phi$", asked_singular, refused="invertible"),
        Control("construction", "cross-attention left reading the old basis", memory_forgotten),
    ),
)
