"""All W_Q = I with every skip, when the layers share W_Q: exactly, only W_Q, or up to the basis of each head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from qkvtheory import gauge, stacks
from qkvtheory.attention import Heads, causal
from qkvtheory.claims.every_skip.conjugation import (
    BOTH,
    DEPTHS,
    NO_NORM,
    OURS,
    TALL,
    generalized_inverse,
    in_numbers,
    in_setting,
    norm,
    norms_everywhere,
    quiet,
    same_function,
    some_block,
    tied_end,
    unbiased,
)
from qkvtheory.claims.every_skip.conjugation import normed as normed_block
from qkvtheory.claims.model import Claim, Control, Hypothesis, Pairs, Source, Statement, call
from qkvtheory.lanes.settings import plain_scores
from qkvtheory.network import Network

CHAPTER = "shared-queries"

# -- shared-wq-elimination and only-wq-shared --------------------------------------------------------------------------


def shared_query(w: Any) -> Any:
    return w.invertible("W_Q", "d", "H2")


def one_query(w: Any, layers: int, **options: Any) -> Network:
    """A network in which W_Q is the same matrix in every layer, and nothing else is."""
    return w.network(layers, **{"topology": BOTH, "W_Q": shared_query(w), "biases": True, **options})


def without_queries(w: Any, old: Network) -> Pairs:
    new = stacks.eliminate_queries(old)
    one = w.identity("d")
    return [same_function(new, old, w), *((block.attention.W_Q, one) for block in new.blocks)]


def shared_step(w: Any) -> Pairs:
    """Any block that reads by the shared W_Q; the tokens; the readout."""
    W_Q, x, tokens = shared_query(w), w.matrix("X", "n", "d"), w.tokens()
    E, D = w.matrix("E", "vocab", "d"), w.matrix("D", "d", "s")
    block = some_block(w, W_Q=W_Q)
    new = gauge.rebase(block, W_Q, W_Q, W_Q)
    (readout,) = gauge.reads(gauge.inverse(W_Q), D)
    return [
        (call(new, x @ W_Q, name="block"), block(x) @ W_Q),
        (new.attention.W_Q, w.identity("d")),
        (tokens @ gauge.carried(E, W_Q), (tokens @ E) @ W_Q),
        ((x @ W_Q) @ readout, x @ D),
    ]


def shared_blocks(w: Any) -> Pairs:
    """The real loop; where whole blocks are shared they stay shared."""
    looped = w.network(1, BOTH, biases=in_numbers(w), W_Q=shared_query(w))
    looped = replace(looped, blocks=list(looped.blocks) * 2)
    pairs = without_queries(w, looped)
    if len({id(block) for block in stacks.eliminate_queries(looped).blocks}) != 1:
        raise ValueError("the shared blocks came apart")
    if in_setting(w, DEPTHS):
        pairs = [*pairs, *(pair for layers in (1, 2, 3) for pair in without_queries(w, one_query(w, layers)))]
    if in_setting(w, DEPTHS) and w.lane == "numeric":
        old = one_query(w, TALL)
        pairs = [*pairs, *without_queries(w, replace(old, blocks=[quiet(block, TALL) for block in old.blocks]))]
    return pairs


def two_queries(w: Any) -> Pairs:
    """Two different W_Q: conjugated by the first, the second becomes W_1^-1 W_2."""
    old = w.network(2, BOTH, hypothesis="H2")
    new = stacks.conjugate(old, old.blocks[0].attention.W_Q)
    return [(new.blocks[1].attention.W_Q, w.identity("d"))]


def both_forced(w: Any) -> Pairs:
    old = w.network(2, BOTH, hypothesis="H2")
    new = stacks.conjugate(old, old.blocks[0].attention.W_Q)
    forced = [stacks.with_identity(block, "W_Q") for block in new.blocks]
    return [(replace(new, blocks=forced)(w.tokens()), old(w.tokens()))]


def tied_readout(w: Any) -> Pairs:
    old = one_query(w, 2, tied=True)
    new = stacks.eliminate_queries(replace(old, readout=old.embedding.mT))
    return [(replace(new, readout=None)(w.tokens()), old(w.tokens()))]


def asked(make: Callable[[Any], Network]) -> Statement:
    """Asking for the elimination of all queries of the network that ``make`` makes."""
    return lambda w: [(stacks.eliminate_queries(make(w)), None)]


SHARED = (
    NO_NORM,
    Hypothesis("H2", "one shared query matrix", "all attention sublayers have the same invertible $W_Q=W$"),
    Hypothesis("H3", "untied readout", "the readout is a matrix of its own, not the transposed embedding"),
)
NORMS = (
    Control("H1", "RMSNorm before the sublayers", lambda w: normed_block(w, hypothesis="H2")),
    Control(
        "H1",
        "asking for it with norms in the network",
        asked(lambda w: norms_everywhere(one_query(w, 2), norm(w))),
        refused="no norm",
    ),
)
TIED = (
    Control("H3", "a readout tied to the embedding", lambda w: tied_end(w, "H2")),
    Control("H3", "a whole network with a tied readout", tied_readout),
    Control(
        "H3",
        "asking for it with a tied readout",
        asked(lambda w: one_query(w, 2, tied=True)),
        refused="untied readout",
    ),
)
SINGULAR = (
    Control("H2", "a generalized inverse of a singular shared $W_Q$", generalized_inverse),
    Control(
        "H2",
        "asking for it with a singular shared $W_Q$",
        asked(lambda w: w.network(2, BOTH, W_Q=w.singular("W_Q", "d")[0])),
        refused="invertible",
    ),
)

SHARED_WQ = Claim(
    id="shared-wq-elimination",
    rank="theorem",
    chapter=CHAPTER,
    title="Layers that share the query matrix lose it all at once",
    statement=(
        "If every attention sublayer has the same invertible $W_Q=W$, the one basis $\\Theta=W$ makes **all** $W_Q=I$, with a skip around "
        "every sublayer, for any number of layers. Blocks that are shared as a whole stay shared."
    ),
    hypotheses=SHARED,
    sources=(
        Source(
            "paper, early version, as excerpted",
            "karbevski2025kv",
            "v1-v2",
            "Weight-Shared Query Elimination",
            "for weight-shared stacks",
        ),
        Source("derived", note="that only $W_Q$ need be shared"),
    ),
    uses=("r-products", "one-layer-free"),
    sides=shared_step,
    also=shared_blocks,
    settings=unbiased,
    deep=True,
    constructions=("read_out", "chosen_bases", "exactly"),
    controls=(
        *NORMS,
        Control("H2", "two different $W_Q$: the second becomes $W_1^{-1}W_2$, not $I$", two_queries),
        Control("H2", "two different $W_Q$, both set to $I$", both_forced),
        Control(
            "H2",
            "asking for it with two different $W_Q$",
            asked(lambda w: w.network(2, BOTH, hypothesis="H2")),
            refused="one choice per segment",
        ),
        *SINGULAR,
        *TIED,
    ),
)


def two_layers(w: Any) -> Pairs:
    """The blocks of two layers that have W_Q in common and nothing else, in the one basis W_Q."""
    W_Q, x, pairs = shared_query(w), w.matrix("X", "n", "d"), []
    for label in ("^1", "^2"):
        block = w.block(topology=BOTH, W_Q=W_Q, label=label)
        new = gauge.rebase(block, W_Q, W_Q, W_Q)
        pairs.append((call(new, x @ W_Q, name="block"), block(x) @ W_Q))
    return [*pairs, (new.attention.W_Q, w.identity("d"))]


def nothing_else_shared(w: Any) -> Pairs:
    """Two layers that have W_Q in common and nothing else, not even the kind of heads or the activation."""
    old = one_query(w, 2, biases=False)
    first, second = old.blocks
    core = other_core(w)
    second = replace(
        second, attention=replace(second.attention, core=core), mlp=replace(second.mlp, act=w.function("psi"))
    )
    return without_queries(w, replace(old, blocks=[first, second]))


def other_core(w: Any) -> Callable[[Any, Any, Any], Any]:
    """Other heads than those of the setting, for weights of the same shapes."""
    if not isinstance(w.core(), Heads):
        return w.function("k", "o")
    return replace(w.core(), mask=causal(w.sizes["n"]), scale=2)


def shared_keys(w: Any) -> Pairs:
    """W_K shared in place of W_Q; the basis W_K gives W_K = I, not W_Q = I."""
    W_K = w.invertible("W_K", "d", "H2")
    old = w.network(2, BOTH, W_K=W_K, hypothesis="H2")
    new = stacks.conjugate(old, W_K)
    return [(block.attention.W_Q, w.identity("d")) for block in new.blocks]


ONLY_WQ = Claim(
    id="only-wq-shared",
    rank="remark",
    chapter=CHAPTER,
    title="Nothing but the query matrix need be shared",
    statement=(
        "The theorem asks that $W_Q$ be shared, and nothing else: $W_K$, $W_V$, $W_O$, the MLPs, even the kind of heads may differ from layer "
        "to layer."
    ),
    hypotheses=(
        SHARED[0],
        Hypothesis(
            "H2", "a shared query matrix", "all attention sublayers have the same invertible $W_Q$; all else may differ"
        ),
        SHARED[2],
    ),
    sources=(OURS,),
    uses=("r-products", "shared-wq-elimination"),
    sides=two_layers,
    also=nothing_else_shared,
    settings=plain_scores,
    deep=True,
    constructions=("read_out", "chosen_bases"),
    controls=(*NORMS[:1], Control("H2", "$W_K$ shared in place of $W_Q$", shared_keys), *SINGULAR, *TIED[:1]),
)
