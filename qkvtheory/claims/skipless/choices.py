"""Queries, keys or values: what can go in a stack without skips, and what goes with it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from qkvtheory import gauge, stacks
from qkvtheory.claims.model import Claim, Control, Hypothesis, Pairs, Source, call
from qkvtheory.claims.skipless.layers import (
    GRAEF,
    OURS,
    T0,
    T2,
    TA,
    TM,
    a_norm,
    arrays,
    eliminated,
    is_first,
    learned,
    smallest,
)
from qkvtheory.lanes.settings import square_keys
from qkvtheory.network import Block, Network

CHAPTER = "skipless"


def square_block(w: Any, which: str, topology: tuple[Any, Any] = T0, hypothesis: str = "H2", **options: Any) -> Block:
    """A block whose W_which is invertible by ``hypothesis``, and nothing is known of the two others."""
    label = options.get("label", "")
    given = {"W_Q": w.matrix("W_Q" + label, "d", "d"), which: w.invertible(which + label, "d", hypothesis)}
    return w.block(topology=topology, square=True, **given, **options)


# -- Graef's table -----------------------------------------------------------------------------------------------------


def merged_step(w: Any, which: str, hypothesis: str = "H2", **options: Any) -> tuple[Any, Block, Any, Block]:
    """X, a block without skips, the next basis, and the block without W_which and W_O."""
    x, after = w.matrix("X", "n", "d"), w.matrix("Theta_+", "d", "d")
    block = square_block(w, which, hypothesis=hypothesis, **options)
    return x, block, after, stacks.merged_output(gauge.rebase(block, getattr(block.attention, which), after))


def without(w: Any, which: str, hypothesis: str = "H2", **options: Any) -> Pairs:
    x, block, after, new = merged_step(w, which, hypothesis, **options)
    return [
        (call(new, x @ getattr(block.attention, which), name="block"), block(x) @ after),
        (getattr(new.attention, which), w.identity("d")),
    ]


def output_merged(w: Any) -> Pairs:
    """W_O into W_up: nothing else changes, and nothing need be invertible."""
    x, block = w.matrix("X", "n", "d"), w.block(topology=T0)
    new = stacks.merged_output(block)
    return [(call(new, x, name="block"), call(block, x, name="block")), (new.attention.W_O, w.identity("o"))]


def table(w: Any) -> Pairs:
    return [*output_merged(w), *without(w, "W_Q"), *without(w, "W_K"), *without(w, "W_V")]


def table_with_biases(w: Any) -> Pairs:
    """All biases, b_O alone, and a network of two layers."""
    x, block = w.matrix("X", "n", "d"), square_block(w, "W_Q", biases=True)
    only_output = replace(block, mlp=replace(block.mlp, b_up=None))
    pairs = [(call(stacks.merged_output(b), x, name="block"), call(b, x, name="block")) for b in (block, only_output)]
    old = Network(w.matrix("E", "vocab", "d"), [block, only_output], w.matrix("D", "d", "s"))
    new, tokens = stacks.eliminate(stacks.merge_outputs(old)), w.tokens()
    whole = (call(new, tokens, name="network"), call(old, tokens, name="network"))
    return [*pairs, whole, (new.blocks[0].attention.W_O, w.identity("d"))]


def merged_beside_a_skip(w: Any) -> Pairs:
    x, block = w.matrix("X", "n", "d"), w.block(topology=T0, square=True)
    new = stacks.merged_output(block)
    return [(replace(new, attention_skip=True)(x), replace(block, attention_skip=True)(x))]


def merged_before_a_norm(w: Any) -> Pairs:
    x, block, norm = w.matrix("X", "n", "d"), w.block(topology=T0, square=True), a_norm(w)
    return [(replace(stacks.merged_output(block), mlp_norm=norm)(x), replace(block, mlp_norm=norm)(x))]


def merge_asked(**changes: Any) -> Any:
    def sides(w: Any) -> Pairs:
        old = replace(w.block(topology=T0), **{name: made(w) for name, made in changes.items()})
        return [(stacks.merged_output(old).mlp.W_down, old.mlp.W_down)]

    return sides


def singular_instead(w: Any, which: str, hypothesis: str = "H2") -> Pairs:
    """A generalized inverse of a singular W_which."""
    weight, back = w.singular(which, "d")
    x, block, after = w.matrix("X", "n", "d"), square_block(w, "W_Q", hypothesis=hypothesis), w.matrix("T", "d", "d")
    block = replace(block, attention=replace(block.attention, **{which: weight}))
    new = gauge.rebase(block, weight, after, invert=lambda basis, name: None if basis is None else back)
    new = replace(new, attention=replace(new.attention, **{which: w.identity("d")}))
    return [(new(x @ weight), block(x) @ after)]


def singular_asked(which: str, topology: tuple[Any, Any] = T0) -> Any:
    def sides(w: Any) -> Pairs:
        old = w.network(1, topology, W_Q=w.matrix("W_Q", "d", "d"), **{which: w.singular(which, "d")[0]})
        return [(stacks.eliminate(old, which[-1]).embedding, old.embedding)]

    return sides if which != "W_Q" else lambda w: singular_query_asked(w, topology)


def singular_query_asked(w: Any, topology: tuple[Any, Any]) -> Pairs:
    old = w.network(1, topology, W_Q=w.singular("W_Q", "d")[0])
    return [(stacks.eliminate(old).embedding, old.embedding)]


def table_counted(_: Any) -> Pairs:
    """2 d^2 fewer numbers to learn for each block: W_O, and one of Q, K, V."""
    cases = [(layers, d, which, arrays(layers, T0, d)) for layers, d in ((1, 8), (3, 4)) for which in "QKV"]
    return [
        (learned(old) - 2 * layers * d * d, learned(stacks.eliminate(stacks.merge_outputs(old), which)))
        for layers, d, which, old in cases
    ]


TABLE = Claim(
    id="graef-table",
    rank="remark",
    chapter=CHAPTER,
    title="One of Q, K, V goes, and the output projection too",
    statement=(
        "Write $Q_i,K_i,V_i$ for the projections of block $i$, $P_i$ for its output projection, $M_i$ and $O_i$ for the two matrices of its "
        "MLP. Then $M_i^*=P_iM_i$ removes $P_i$. In addition $O_{i-1}^*=O_{i-1}Q_i$, $K_i^*=Q_i^{-1}K_i$, $V_i^*=Q_i^{-1}V_i$ removes $Q_i$; or, "
        "with as many key heads as query heads, $O_{i-1}^*=O_{i-1}K_i$, $Q_i^*=K_i^{-1}Q_i$, $V_i^*=K_i^{-1}V_i$ removes $K_i$; or the same with "
        "$V_i$. In the first block the embedding plays $O_0$. Each block has $2d^2$ numbers fewer to learn."
    ),
    hypotheses=(
        Hypothesis(
            "H1", "no skips, no norm", "attention and MLP one after the other, with nothing beside or between them"
        ),
        Hypothesis(
            "H2",
            "invertible projection",
            "the one of $Q_i,K_i,V_i$ that goes is $d\\times d$ and invertible; $P_i$ may be anything",
        ),
    ),
    sources=(GRAEF, Source("derived", note="biases; $P_i$ of any shape and rank")),
    uses=("skipless-elimination", "eliminate-k-or-v"),
    lanes=("symbolic", "exact", "numeric", "count"),
    sides=table,
    also=table_with_biases,
    special={"count": table_counted},
    deep=True,
    settings=lambda s: smallest(s) and square_keys(s),
    constructions=("merge_outputs", "merged_output"),
    controls=(
        Control("H1", "$P_i$ removed although a skip passes attention", merged_beside_a_skip),
        Control("H1", "$P_i$ removed although a norm follows it", merged_before_a_norm),
        Control("H1", "asking for it beside a skip", merge_asked(attention_skip=lambda w: True), refused="no skip"),
        Control("H1", "asking for it before a norm", merge_asked(mlp_norm=a_norm), refused="no norm"),
        Control("H2", "a generalized inverse of a singular $K_i$", lambda w: singular_instead(w, "W_K")),
        Control("H2", "asking for it with a singular $Q_i$", singular_asked("W_Q"), refused="invertible"),
    ),
)


# -- a choice for every layer ------------------------------------------------------------------------------------------


def mixed_network(w: Any, topology: tuple[Any, Any], order: str) -> Network:
    """A layer for each letter, in which that projection is invertible."""
    blocks = [
        square_block(w, f"W_{letter}", topology, label=f"^{layer}") for layer, letter in enumerate(order, start=1)
    ]
    return Network(w.matrix("E", "vocab", "d"), blocks, w.matrix("D", "d", "s"), w.matrix("P", "n", "d"))


def one_choice(w: Any, which: str) -> Pairs:
    """The step of the induction with W_which as the basis."""
    x, after, block = w.matrix("X", "n", "d"), w.matrix("Theta_+", "d", "d"), square_block(w, which)
    theta = getattr(block.attention, which)
    new = gauge.rebase(block, theta, after)
    return [(call(new, x @ theta, name="block"), block(x) @ after), (getattr(new.attention, which), w.identity("d"))]


def mixed(w: Any, topology: tuple[Any, Any], order: str) -> Pairs:
    old = mixed_network(w, topology, order)
    return eliminated(w, old, list(order))


def in_other_topologies(w: Any) -> Pairs:
    """Beside one skip; and in numbers a d x d block of W_up, which reads the same state beside a skip around attention."""
    pairs = [*mixed(w, TA, "KV"), *mixed(w, TM, "VQ")]
    if w.lane in ("exact", "numeric"):
        pairs += mixed(w, T0, "QKV")
        x, block, after = w.matrix("X", "n", "d"), w.block(topology=TA), w.matrix("Theta_+", "d", "d")
        start = w.invertible("U", "d", "H2")
        W_up = block.mlp.W_up.copy()
        W_up[:, : len(start)] = start
        block = replace(block, mlp=replace(block.mlp, W_up=W_up))
        new = gauge.rebase(block, start, after)
        pairs += [(new(x @ start), block(x) @ after), (new.mlp.W_up[:, : len(start)], w.identity("d"))]
    return pairs


def two_in_one_layer(w: Any) -> Pairs:
    """W_Q and W_K of one layer both set to I."""
    old = mixed_network(w, T0, "Q")
    (block,) = stacks.eliminate(old).blocks
    both = replace(block, attention=replace(block.attention, W_K=w.identity("d")))
    return [(replace(stacks.eliminate(old), blocks=[both])(w.tokens()), old(w.tokens()))]


def two_in_one_segment(w: Any) -> Pairs:
    old = mixed_network(w, T2, "QK")
    return [(stacks.eliminate(old, list("QK")).embedding, old.embedding)]


MIXED = Claim(
    id="skipless-mixed-choice",
    rank="remark",
    chapter=CHAPTER,
    title="A different choice in every layer",
    statement=(
        "Without skips, or with a skip around attention only, or around the MLP only, each $\\Theta_l$ may be any invertible one of "
        "$W_Q^{(l)}$, $W_K^{(l)}$, $W_V^{(l)}$, or an invertible $d\\times d$ block of another weight that reads the same state: the named "
        "matrix becomes $I$."
    ),
    hypotheses=(
        Hypothesis(
            "H1", "one choice per layer", "one matrix is named in each layer, and at most one kind of skip is there"
        ),
        Hypothesis("H2", "invertible choice", "the named matrix is $d\\times d$ and invertible"),
    ),
    sources=(OURS,),
    uses=("skipless-elimination", "attn-skip-elimination"),
    sides=lambda w: [*one_choice(w, "W_Q"), *one_choice(w, "W_K"), *one_choice(w, "W_V")],
    also=lambda w: [*mixed(w, T0, "VK"), *([] if is_first(w) else in_other_topologies(w))],
    deep=True,
    settings=lambda s: smallest(s) and square_keys(s),
    constructions=("choices", "chosen_bases"),
    controls=(
        Control("H1", "two choices, $W_Q$ and $W_K$, in one layer", two_in_one_layer),
        Control(
            "H1",
            "asking for $W_Q^{(1)}$ and $W_K^{(2)}$ with both skips",
            two_in_one_segment,
            refused="one choice per segment",
        ),
        Control("H2", "a generalized inverse of a singular $W_V$", lambda w: singular_instead(w, "W_V")),
        Control("H2", "asking for a singular $W_K$", singular_asked("W_K", TA), refused="invertible"),
    ),
)


# -- values and output projection --------------------------------------------------------------------------------------


def values_and_output(w: Any, **options: Any) -> Pairs:
    _, _, _, new = merged_step(w, "W_V", "H1", **options)
    return [*without(w, "W_V", "H1", **options), (new.attention.W_O, w.identity("d"))]


def identity_beside_a_skip(w: Any) -> Pairs:
    """W_V = W_O = I and the skip kept."""
    x, block, after, new = merged_step(w, "W_V", "H1")
    return [
        (replace(new, attention_skip=True)(x @ block.attention.W_V), replace(block, attention_skip=True)(x) @ after)
    ]


def output_asked_beside_a_skip(w: Any) -> Pairs:
    """W_V = I, as beside a skip around attention; W_O = I is one wish too many."""
    block = square_block(w, "W_V", TA, "H1")
    new = gauge.rebase(block, block.attention.W_V, None)
    return [(stacks.merged_output(new).mlp.W_up, block.mlp.W_up)]


def two_norms_there(w: Any) -> Pairs:
    x, block, after, new = merged_step(w, "W_V", "H1")
    norm = a_norm(w)
    return [
        (replace(new, attention_norm=norm)(x @ block.attention.W_V), replace(block, attention_norm=norm)(x) @ after)
    ]


VALUES = Claim(
    id="values-identity-as-gauge",
    rank="remark",
    chapter=CHAPTER,
    title="Identity values and output projections: free without the skip",
    statement=(
        "Without skips and norms and with invertible $W_V$, the choice $\\Theta_l=W_V^{(l)}$ and $W_{up}^*=W_OW_{up}$ give "
        "$\\tilde W_V=\\tilde W_O=I$ and the same function. With a skip around attention $W_V=W_O=I$ is a constraint: the skip gives $X_l$ and "
        "$Y_l$ one basis."
    ),
    hypotheses=(
        Hypothesis(
            "H1",
            "no skips, no norm, invertible values",
            "nothing beside or between attention and MLP, and $W_V$ is $d\\times d$ and invertible",
        ),
    ),
    sources=(
        OURS,
        Source("paper", "karbevski2026skips", note="free without the skip, a constraint with it"),
        Source("paper", "he2023simplifying", note="trained models with identity values and output projections"),
    ),
    uses=("graef-table",),
    sides=values_and_output,
    also=lambda w: values_and_output(w, biases=True)[:1],
    deep=True,
    settings=lambda s: smallest(s) and square_keys(s),
    constructions=("merged_output",),
    controls=(
        Control("H1", "the same weights with a skip around attention", identity_beside_a_skip),
        Control("H1", "asking for $W_O=I$ beside that skip", output_asked_beside_a_skip, refused="no skip"),
        Control("H1", "a norm before attention", two_norms_there),
        Control("H1", "a generalized inverse of a singular $W_V$", lambda w: singular_instead(w, "W_V", "H1")),
        Control("H1", "asking for a singular $W_V$", singular_asked("W_V"), refused="invertible"),
    ),
)
