"""With a skip around one of the two sublayers only, every query projection still becomes the identity."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from qkvtheory import gauge, stacks
from qkvtheory.claims.model import Claim, Control, Hypothesis, Pairs, Source, call
from qkvtheory.claims.skipless.layers import (
    INVERTIBLE,
    NO_NORM,
    OURS,
    T2,
    TA,
    TM,
    asked,
    both_changed,
    forgotten_positions,
    is_first,
    last,
    moved_down,
    networks,
    norm_and_singular,
    parts,
    saved,
    smallest,
    start,
    step,
    with_biases,
    wrong,
)
from qkvtheory.network import Block

CHAPTER = "attention-skip"


def with_output(new: Block, weight: Any) -> Block:
    return replace(new, attention=replace(new.attention, W_O=weight))


def tied_although(w: Any) -> Pairs:
    """The weights for an untied network, with the readout tied to the embedding before and after."""
    old = w.network(1, TA, hypothesis="H3")
    new = stacks.eliminate(old)
    return [(replace(new, readout=None)(w.tokens()), replace(old, readout=None)(w.tokens()))]


def tied_asked(w: Any) -> Pairs:
    old = w.network(2, TA, tied=True, hypothesis="H3")
    return [(stacks.eliminate(old).embedding, old.embedding)]


def ends(w: Any) -> Pairs:
    """Embedding, positions and readout in one basis, with nothing between them."""
    old = w.network(0)
    new = stacks.carry(old, [w.invertible("Theta_1", "d", "H3")])
    return [(call(new, w.tokens(), name="network"), call(old, w.tokens(), name="network"))]


def whole(w: Any, topology: tuple[Any, Any]) -> Pairs:
    """Networks of several depths, and in the last one every W_Q."""
    new = stacks.eliminate(w.network(2, topology, hypothesis="H3"))
    ones = [(block.attention.W_Q, w.identity("d")) for block in new.blocks[1:]]
    return [*ends(w), *with_biases(w, topology), *networks(w, topology), *ones]


ELIMINATION = Claim(
    id="attn-skip-elimination",
    rank="theorem",
    chapter=CHAPTER,
    title="A skip around attention only leaves every query projection removable",
    statement=(
        "Put $\\Theta_l=W_Q^{(l)}$ and $\\Theta_{L+1}=I$. With $\\tilde E=E\\Theta_1$, $\\tilde P=P\\Theta_1$; $\\tilde W_Q=I$, "
        "$\\tilde W_K=\\Theta_l^{-1}W_K$, $\\tilde W_V=\\Theta_l^{-1}W_V$, $\\tilde W_O=W_O\\Theta_l$, $\\tilde b_O=b_O\\Theta_l$; "
        "$\\tilde W_{up}=\\Theta_l^{-1}W_{up}$ (in a gated MLP both inputs), $\\tilde W_{down}=W_{down}\\Theta_{l+1}$, "
        "$\\tilde b_{down}=b_{down}\\Theta_{l+1}$, and $b_Q$, $b_K$, $b_V$, $b_{up}$ and the readout unchanged, the network computes the same "
        "function, for every number $L$ of layers, and has $Ld^2$ numbers fewer to learn."
    ),
    hypotheses=(
        Hypothesis(
            "H1", "a skip around attention only", "$Y=X+\\mathrm{MHA}(X)$ and $X'=\\mathrm{MLP}(Y)$ in every layer"
        ),
        NO_NORM,
        INVERTIBLE,
        Hypothesis("H4", "untied readout", "the readout is a matrix of its own, not $E^{\\top}$"),
    ),
    sources=(
        Source(
            "paper, early version, as excerpted",
            "karbevski2025kv",
            "v1-v2",
            "Attention-Skip-Only Query Weight Elimination",
            "its exact hypotheses are not in the excerpt",
        ),
        Source("derived", note="the formula for every weight; biases, gated MLPs, grouped keys"),
    ),
    uses=("eliminate-q", "reparam-lemma"),
    lanes=("symbolic", "exact", "numeric", "count"),
    sides=lambda w: [*step(w, TA), *start(w), *last(w, TA)],
    also=lambda w: whole(w, TA),
    special={"count": saved(TA)},
    deep=True,
    constructions=("carry", "chosen_bases", "read_out"),
    controls=(
        Control("H1", "the same weights with a skip around the MLP too", lambda w: both_changed(w, TA, mlp_skip=True)),
        Control("H1", "asking for it with both skips", asked(T2), refused="one choice per segment"),
        *norm_and_singular(TA),
        Control("H4", "the readout tied to the embedding, with $\\Theta_1=W_Q^{(1)}$", tied_although),
        Control("H4", "asking for all layers with a tied readout", tied_asked, refused="untied readout"),
        Control(
            "construction",
            "$W_O$ as it was, as in a stack without skips",
            lambda w: wrong(w, TA, lambda new, b, _: with_output(new, b.attention.W_O)),
        ),
        Control(
            "construction",
            "$\\Theta_l$ in place of $\\Theta_{l+1}$ on $W_{down}$",
            lambda w: wrong(w, TA, lambda new, b, _: moved_down(new, b.mlp.W_down @ b.attention.W_Q)),
        ),
        Control(
            "construction",
            "$b_O$ forgotten",
            lambda w: wrong(
                w,
                TA,
                lambda new, b, _: replace(new, attention=replace(new.attention, b_O=b.attention.b_O)),
                biases=True,
            ),
        ),
        Control("construction", "the positions $P$ forgotten", lambda w: forgotten_positions(w, TA)),
    ),
)


# -- a tied readout ----------------------------------------------------------------------------------------------------


def first_block(w: Any) -> Pairs:
    """The first block reads the state as it is and hands on the basis of the second."""
    x, block, after = parts(w, TA, hypothesis="H1")
    return [(call(gauge.rebase(block, None, after), x, name="block"), block(x) @ after)]


def all_but_the_first(w: Any) -> Pairs:
    """Networks of two and three layers, the embedding and the readout as they were."""
    pairs: list[Any] = []
    for layers in (2, 3) if w.lane == "numeric" and not is_first(w) else (2,):
        old = w.network(layers, TA, tied=True, hypothesis="H1", biases=layers == 3)
        new = stacks.eliminate(old, layers=range(1, layers))
        pairs += [(call(new, w.tokens(), name="network"), call(old, w.tokens(), name="network"))]
    return [*pairs, (new.embedding, old.embedding), (new.blocks[-1].attention.W_Q, w.identity("d"))]


def first_too(w: Any) -> Pairs:
    """The first basis W_Q^1, and a readout that follows the embedding: E W_Q^1 and its transpose."""
    old = w.network(2, TA, tied=True, hypothesis="H1")
    new = stacks.eliminate(replace(old, readout=old.embedding.mT))
    return [(replace(new, readout=None)(w.tokens()), old(w.tokens()))]


def first_asked(w: Any) -> Pairs:
    old = w.network(2, TA, tied=True, hypothesis="H1")
    return [(stacks.eliminate(old, layers=[0]).embedding, old.embedding)]


def tied_with_skip(w: Any) -> Pairs:
    old = w.network(2, TA, tied=True, hypothesis="H1")
    new = stacks.eliminate(old, layers=[1])
    old, new = (replace(a, blocks=[replace(b, mlp_skip=True) for b in a.blocks]) for a in (old, new))
    return [(new(w.tokens()), old(w.tokens()))]


TIED = Claim(
    id="attn-skip-tied",
    rank="remark",
    chapter=CHAPTER,
    title="Tied embeddings cost one layer",
    statement=(
        "With a skip around attention only, no norm, invertible $W_Q^{(l)}$ and a readout $D=E^{\\top}$, take $\\Theta_1=I$ and "
        "$\\Theta_l=W_Q^{(l)}$ for $l\\ge2$: the embedding and the readout stay as they are, and $W_Q^{(l)}=I$ for $l=2,\\dots,L$."
    ),
    hypotheses=(
        Hypothesis(
            "H1",
            "as with an untied readout, but $D=E^{\\top}$",
            "a skip around attention only, no norm, invertible $W_Q^{(l)}$",
        ),
    ),
    sources=(OURS,),
    uses=("attn-skip-elimination",),
    sides=lambda w: [*first_block(w), *step(w, TA, hypothesis="H1")],
    also=all_but_the_first,
    deep=True,
    settings=lambda s: smallest(s) and not s.biases,
    constructions=("carry",),
    controls=(
        Control("H1", "the first basis $W_Q^{(1)}$ with a tied readout", first_too),
        Control("H1", "asking for layer 1 with a tied readout", first_asked, refused="untied readout"),
        Control("H1", "the same weights with a skip around the MLP too", tied_with_skip),
    ),
)


# -- a skip around the MLP only ----------------------------------------------------------------------------------------


def mlp_basis_before(w: Any) -> Pairs:
    """The basis before the layer where the one after it belongs: on W_O and W_up."""

    def edit(new: Block, old: Block, _: Any) -> Block:
        enter = old.attention.W_Q
        (W_up,) = gauge.reads(gauge.inverse(enter), old.mlp.W_up)
        return replace(with_output(new, old.attention.W_O @ enter), mlp=replace(new.mlp, W_up=W_up))

    return wrong(w, TM, edit)


MLP_SKIP = Claim(
    id="mlp-skip-only-elimination",
    rank="remark",
    chapter=CHAPTER,
    title="A skip around the MLP only works as well",
    statement=(
        "Put $\\Theta_l=W_Q^{(l)}$ and $\\Theta_{L+1}=I$. With $\\tilde E=E\\Theta_1$; $\\tilde W_Q=I$, $\\tilde W_K=\\Theta_l^{-1}W_K$, "
        "$\\tilde W_V=\\Theta_l^{-1}W_V$; $\\tilde W_O=W_O\\Theta_{l+1}$, $\\tilde b_O=b_O\\Theta_{l+1}$; $\\tilde W_{up}=\\Theta_{l+1}^{-1}W_{up}$, "
        "$\\tilde W_{down}=W_{down}\\Theta_{l+1}$, $\\tilde b_{down}=b_{down}\\Theta_{l+1}$ the network computes the same function, and all "
        "$W_Q=I$."
    ),
    hypotheses=(
        Hypothesis(
            "H1", "a skip around the MLP only", "$Y=\\mathrm{MHA}(X)$ and $X'=Y+\\mathrm{MLP}(Y)$ in every layer"
        ),
        NO_NORM,
        INVERTIBLE,
    ),
    sources=(OURS,),
    uses=("eliminate-q",),
    sides=lambda w: [*step(w, TM), *start(w), *last(w, TM)],
    also=lambda w: [*with_biases(w, TM), *([] if is_first(w) else networks(w, TM, (2,)))],
    deep=True,
    settings=smallest,
    constructions=("between", "moved_mlp"),
    controls=(
        Control(
            "H1",
            "the same weights with a skip around attention too",
            lambda w: both_changed(w, TM, attention_skip=True),
        ),
        Control("H1", "asking for it with both skips", asked(T2), refused="one choice per segment"),
        *norm_and_singular(TM),
        Control("construction", "$\\Theta_l$ in place of $\\Theta_{l+1}$ on $W_O$ and $W_{up}$", mlp_basis_before),
    ),
)
