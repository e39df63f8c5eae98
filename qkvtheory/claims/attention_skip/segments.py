"""Which states share a basis: the general rule behind the eliminations in stacks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from qkvtheory import gauge, stacks
from qkvtheory.claims.model import Claim, Control, Hypothesis, Pairs, Source, call
from qkvtheory.claims.skipless.layers import OURS, T0, T2, TA, TM, a_norm, asked, is_first, smallest
from qkvtheory.network import Block, Network

CHAPTER = "attention-skip"


def joined(w: Any) -> Pairs:
    """A skip adds X G to a state that should be Y G_+: what is left over is X (G - G_+), zero for all X only if G = G_+."""
    x, a = w.matrix("X", "n", "d"), w.attention()
    before, after = w.invertible("G", "d", "H2"), w.matrix("G_+", "d", "d")
    back = gauge.inverse(before)
    new = gauge.moved(a, back, back, after)
    return [(x @ before + new(x @ before) - (x + a(x)) @ after, x @ (before - after))]


def one_basis_each(w: Any, old: Network) -> list[Any]:
    """A basis of its own for every group of joined states."""
    bases: list[Any] = [None] * (2 * len(old.blocks) + 1)
    for number, group in enumerate(stacks.segments(old), 1):
        basis = w.invertible(f"Theta_{number}", "d", "H2")
        bases = [basis if state in group else known for state, known in enumerate(bases)]
    return bases


def carried(w: Any, old: Network) -> Pairs:
    """One basis for each segment, all chosen freely: the same function, and the last state in the last basis."""
    bases, tokens = one_basis_each(w, old), w.tokens()
    new = stacks.carry(old, bases)
    return [
        (call(new, tokens, name="network"), call(old, tokens, name="network")),
        (new.stream(tokens), old.stream(tokens) @ bases[-1]),
    ]


def every_topology(w: Any) -> Pairs:
    """The other topologies, and two layers of different kinds; in floats also parallel sublayers."""
    olds = [w.network(1, topology, biases=True) for topology in (T0, TM, T2)]
    olds += [w.network(1, (w.matrix("A", "d", "d"), True))]
    two = w.network(2, TA)
    olds += [replace(two, blocks=[two.blocks[0], replace(two.blocks[1], mlp_skip=True)])]
    if w.lane == "numeric":
        olds += [w.network(1, topology, parallel=True) for topology in (T0, TA)]
    return [*mixed_stack(w), *(pair for old in olds for pair in carried(w, old)[:1])]


def mixed_stack(w: Any, shared: bool = True) -> Pairs:
    """Both skips, then two layers with the first only: the first two layers, which share a component, share W_Q."""
    queries = [w.invertible(f"W_Q^{layer}", "d", "H2") for layer in ((1, 1, 3) if shared else (1, 2, 3))]
    old = w.network(3, TA)
    blocks = [
        replace(block, mlp_skip=layer == 0, attention=replace(block.attention, W_Q=W_Q))
        for layer, (block, W_Q) in enumerate(zip(old.blocks, queries, strict=True))
    ]
    old, tokens = replace(old, blocks=blocks), w.tokens()
    new = stacks.eliminate(old)
    identities = [(block.attention.W_Q, w.identity("d")) for block in new.blocks]
    return [(call(new, tokens, name="network"), call(old, tokens, name="network")), *identities]


def long_skip(w: Any) -> Pairs:
    """The first state added to the last one, past two layers, in a network that has one basis for each of its segments."""
    old, tokens = w.network(2, TA), w.tokens()
    bases = one_basis_each(w, old)
    new = stacks.carry(old, bases)
    first = tokens @ old.embedding + old.positions
    return [(new.stream(tokens) + first @ bases[0], (old.stream(tokens) + first) @ bases[-1])]


def long_skip_counted(w: Any) -> Pairs:
    """The number of segments with the long skip, and without it."""
    old, one = w.network(2, TA), w.identity("1")
    return [(stacks.free_bases(old, [(0, 4)]) * one, stacks.free_bases(old) * one)]


def two_bases_asked(w: Any) -> Pairs:
    old = w.network(1, TA)
    bases = [w.invertible(f"Theta_{number}", "d", "H2") for number in (1, 2, 3)]
    return [(stacks.carry(old, bases).embedding, old.embedding)]


def a_norm_between(w: Any) -> Pairs:
    old = w.network(1, TA)
    new = stacks.carry(old, one_basis_each(w, old))
    new, old = (replace(a, blocks=[replace(b, attention_norm=a_norm(w)) for b in a.blocks]) for a in (new, old))
    return [(new(w.tokens()), old(w.tokens()))]


def singular_asked(w: Any) -> Pairs:
    old = w.network(1, TA)
    basis = w.singular("Theta_1", "d")[0]
    return [(stacks.carry(old, [basis, basis, None]).embedding, old.embedding)]


def counted(_: Any) -> Pairs:
    """The rule against its closed forms, for every depth up to five; learned and long skips."""
    pairs = []
    for L in range(6):
        predicted = {T0: 2 * L + 1, TA: L + 1, TM: L + 1, T2: 1}
        pairs += [(bases, stacks.free_bases(stack(L, topology))) for topology, bases in predicted.items()]
        pairs += [(1, stacks.free_bases(stack(L, TA, parallel=True)))]
        pairs += [(L + 1, stacks.free_bases(stack(L, T0, parallel=True)))]
        pairs += [(2 * L + 1, stacks.free_bases(stack(L, ("a learned skip", "another"))))]
        pairs += [(2 * L + 1 - (L > 0), stacks.free_bases(stack(L, T0), [(0, 2 * L)]))]  # first and last state joined
    dense = [(0, state) for state in range(1, 9)]
    return [*pairs, (1, stacks.free_bases(stack(4, T0), dense)), (3, stacks.free_bases(stack(4, TA), [(1, 7), (3, 5)]))]


def stack(layers: int, topology: tuple[Any, Any], parallel: bool = False) -> Network:
    """Only its skips matter here."""
    nothing: Any = None
    return Network(None, [Block(nothing, nothing, *topology, parallel=parallel)] * layers)


SEGMENTS = Claim(
    id="basis-segments",
    rank="remark",
    chapter=CHAPTER,
    title="One basis for all states that skips join",
    statement=(
        "Call two hidden states *joined* if an identity skip connects them. All states of a connected component share one basis, and the "
        "bases of different components are free: there are $2L+1$ of them without skips, $L+1$ with a skip around attention only or "
        "around the MLP only, and $1$ with both, or with parallel sublayers beside a skip. Every layer can have $W_Q=I$ if and only if each "
        "component contains the input of at most one attention sublayer, or the $W_Q$ inside a component agree (for bare scores, up to "
        'a change of basis inside each head). (The "only if" is about this construction; the bases are counted by the rule.)'
    ),
    hypotheses=(
        Hypothesis(
            "H1", "one basis for joined states", "states that an identity skip joins are moved to the same basis"
        ),
        Hypothesis("H2", "invertible bases, no norm", "every basis is invertible and no norm reads a state that moves"),
    ),
    sources=(OURS, Source("paper", "karbevski2026skips", note="no skips, and both skips")),
    uses=("global-basis-only", "skipless-elimination"),
    lanes=("symbolic", "exact", "numeric", "count"),
    sides=lambda w: [*joined(w), *carried(w, w.network(1, TA))],
    also=lambda w: [] if is_first(w) else every_topology(w),
    special={"count": counted},
    deep=True,
    settings=lambda s: smallest(s) and not s.biases,
    constructions=("segments", "carry"),
    controls=(
        Control("H1", "two bases on the two sides of a skip", two_bases_asked, refused="one basis"),
        Control("H1", "a long skip from the first state to the last, past two segments", long_skip),
        Control("H1", "segments counted without that long skip", long_skip_counted),
        Control("H1", "asking for every layer with both skips", asked(T2), refused="one choice per segment"),
        Control(
            "H1",
            "asking for every layer where two with different $W_Q$ share a component",
            lambda w: mixed_stack(w, shared=False),
            refused="one choice per segment",
        ),
        Control("H2", "a norm before attention", a_norm_between),
        Control("H2", "asking for a singular basis", singular_asked, refused="invertible"),
    ),
)
