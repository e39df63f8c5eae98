"""The identity skip around the MLP: the defect it leaves between two bases, and the linear skip that takes its place."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from qkvtheory import gauge, stacks
from qkvtheory.claims.every_skip.bases import NOTE
from qkvtheory.claims.every_skip.conjugation import DEPTHS, in_setting, normed, same_function
from qkvtheory.claims.model import Claim, Control, Hypothesis, Pairs, Source, Statement, call
from qkvtheory.claims.skipless.layers import OURS, T2, TA, a_norm, arrays, asked, learned, smallest
from qkvtheory.network import Block, Network

CHAPTER = "where-it-stops"


# -- mlp-skip-defect ---------------------------------------------------------------------------------------------------


def carried(block: Block, enter: Any, leave: Any) -> Block:
    """The weights that carry ``enter`` into ``leave`` where nothing goes around the MLP, and the skip put back."""
    return replace(gauge.rebase(replace(block, mlp_skip=False), enter, leave), mlp_skip=True)


def bases(w: Any) -> tuple[Any, Any]:
    return w.invertible("Theta_l", "d", "H2"), w.matrix("Theta_l+1", "d", "d")


def half(block: Block) -> Any:
    """The MLP of a block and the skip around it, as a function of the state Y before them."""
    return lambda y: y + block.mlp(y)


def defect(w: Any) -> Pairs:
    """What the half-block makes of a state Y in its basis: what it should, and Y times the difference of the bases."""
    y, block, (theta, after) = w.matrix("Y", "n", "d"), w.block(topology=T2), bases(w)
    new = carried(block, theta, after)
    return [(half(new)(y @ theta), half(block)(y) @ after + y @ (theta - after))]


def defect_itself(w: Any) -> Pairs:
    """For Y = I, so for d tokens, the defect is the difference of the bases: it vanishes for all Y only with that."""
    y, block, (theta, after) = w.identity("d"), w.block(topology=T2), bases(w)
    new = carried(block, theta, after)
    return [(half(new)(y @ theta) - half(block)(y) @ after, theta - after)]


def whole_blocks(w: Any) -> Pairs:
    """The whole block leaves the same defect, at its state after attention; and with equal bases it leaves none."""
    x, block, (theta, after) = w.matrix("X", "n", "d"), w.block(topology=T2, biases=True), bases(w)
    y = x + block.attention(x)
    return [
        (carried(block, theta, after)(x @ theta), block(x) @ after + y @ (theta - after)),
        (call(carried(block, theta, theta), x @ theta, name="block"), block(x) @ theta),
    ]


def bases_differ(w: Any) -> Pairs:
    return [bases(w)]


def without_the_skip(w: Any) -> Pairs:
    x, block, (theta, after) = w.matrix("X", "n", "d"), w.block(topology=TA), bases(w)
    return [(gauge.rebase(block, theta, after)(x @ theta), block(x) @ after)]


def singular_basis(w: Any) -> Pairs:
    """Equal bases, but a singular one, with a generalized inverse: now something is left over all the same."""
    theta, back = w.singular("Theta_l", "d")
    x, block = w.matrix("X", "n", "d"), w.block(topology=T2)
    return [(gauge.rebase(block, theta, theta, theta, invert=lambda *_: back)(x @ theta), block(x) @ theta)]


def chosen_states(w: Any) -> tuple[Any, Any, Any]:
    """(Y, Theta_l, Theta_+) with Y Theta_l = Y Theta_+: the second basis is the first one plus what Y does not see."""
    hidden = w.matrix("P", "d", "s")
    theta = w.invertible("Theta_l", "d", "H2")
    return w.annihilator("Y", "n", hidden), theta, theta + hidden @ w.matrix("B", "s", "d")


def exact_on_chosen_states(w: Any) -> Pairs:
    y, theta, after = chosen_states(w)
    block = w.block(topology=T2)
    return [(half(carried(block, theta, after))(y @ theta), half(block)(y) @ after)]


def apart(new: Network, old: Network, w: Any) -> Pairs:
    return [(new(w.tokens()), old(w.tokens()))]


def all_layers(w: Any) -> Pairs:
    """All W_Q = I by the weights for a skip around attention only, in a network with both skips."""
    old = w.network(2, T2)
    opened = replace(old, blocks=[replace(block, mlp_skip=False) for block in old.blocks])
    new = stacks.eliminate(opened)
    return apart(replace(new, blocks=[replace(block, mlp_skip=True) for block in new.blocks]), old, w)


def two_bases_asked(w: Any) -> Pairs:
    return [(gauge.rebase(w.block(topology=T2), *bases(w)).mlp.W_down, w.matrix("Theta_l+1", "d", "d"))]


MLP_SKIP_DEFECT = Claim(
    id="mlp-skip-defect",
    rank="remark",
    chapter=CHAPTER,
    title="What the skip around the MLP leaves over",
    statement=(
        "Let a block have an identity skip around its MLP, $Y\\mapsto Y+f(Y)$, and rewrite the weights as if it had none, so that $f$ reads "
        "$Y\\Theta_l$ and writes $f(Y)\\Theta_{l+1}$. Then $Y\\Theta_l$ goes to $(Y+f(Y))\\Theta_{l+1}+Y(\\Theta_l-\\Theta_{l+1})$. The last term "
        "is the defect. It vanishes for all $Y$ **if and only if** $\\Theta_l=\\Theta_{l+1}$; so with $\\Theta_l=W_Q^{(l)}$ in every layer only "
        "networks survive whose $W_Q^{(l)}$ are all equal."
    ),
    hypotheses=(
        Hypothesis(
            "H1", "an identity skip, no norm", "the skip around the MLP is the identity, and no norm stands before it"
        ),
        Hypothesis("H2", "invertible basis", "$\\Theta_l$, in which the MLP reads, is invertible"),
        Hypothesis("H3", "every state", "the rewritten block must be right for all $Y$, not only for some"),
    ),
    sources=(OURS, Source("paper", "karbevski2026skips", note="the formula of the defect")),
    uses=("r-products",),
    kind="condition",
    sides=defect,
    also=lambda w: [*defect_itself(w), *whole_blocks(w)],
    deep=True,
    settings=smallest,
    constructions=("moved_mlp", "moved"),
    controls=(
        Control(
            "H1",
            "no skip around the MLP: two different bases keep the function",
            bases_differ,
            witness=without_the_skip,
        ),
        Control("H1", "RMSNorm before the sublayers: equal bases do not keep it", lambda w: normed(w, hypothesis="H2")),
        Control("H2", "equal bases, but a singular one, with a generalized inverse", singular_basis),
        Control(
            "H3",
            "states on which two different bases agree",
            lambda w: [chosen_states(w)[1:]],
            witness=exact_on_chosen_states,
        ),
        Control("construction", "every $W_Q=I$ by the weights for a skip around attention only", all_layers),
        Control("construction", "asking for two bases around the skip", two_bases_asked, refused="one basis"),
        Control("construction", "asking for every layer with both skips", asked(T2), refused="one choice per segment"),
    ),
)


# -- basis-skip-repair -------------------------------------------------------------------------------------------------


def repaired(old: Network) -> Network:
    """Every W_Q = I, with the skips around the MLPs learned."""
    return stacks.eliminate(stacks.learned_skips(old))


def skip_repaired(w: Any) -> Pairs:
    """At the skip: A = Theta^-1 Theta_+ carries the state over; beside the identity, X M with M = A - I would have to."""
    y, block = w.matrix("Y", "n", "d"), w.block(topology=T2)
    theta, after = w.invertible("Theta_l", "d", "H3"), w.matrix("Theta_l+1", "d", "d")
    back, one = gauge.inverse(theta), w.identity("d")
    written = gauge.moved_mlp(block.mlp, back, after)(y @ theta)
    A, meant = gauge.linear(one, back, after), half(block)(y) @ after
    return [((y @ theta) @ A + written, meant), (y @ theta + written + (y @ theta) @ (A - one), meant)]


def one_layer(w: Any) -> Pairs:
    """The whole block: its W_Q is I, and Theta^-1 Theta_+ is its skip."""
    x, block, after = w.matrix("X", "n", "d"), w.block(topology=T2, hypothesis="H3"), w.matrix("Theta_l+1", "d", "d")
    theta = block.attention.W_Q
    (old,) = stacks.learned_skips(Network(None, [block])).blocks
    new = gauge.rebase(old, theta, after)
    made = [(new.attention.W_Q, w.identity("d")), (new.mlp_skip, gauge.inverse(theta) @ after)]
    return [(call(new, x @ theta, name="block"), block(x) @ after), *made]


def whole_networks(w: Any) -> Pairs:
    """The real loop: with biases, every W_Q = I."""
    old = w.network(2, T2, biases=True, hypothesis="H3")
    new = repaired(old)
    pairs = [same_function(new, old, w), *((block.attention.W_Q, w.identity("d")) for block in new.blocks)]
    return [*pairs, *(way_back(w, old, new) if w.lane != "numeric" or in_setting(w, DEPTHS) else ())]


def way_back(w: Any, old: Network, new: Network) -> Pairs:
    """The learned skips reduced to identity skips: the old network again, weight by weight."""
    back, tokens = stacks.remove_learned_skips(new), w.tokens()
    if not all(skip is True for block in back.blocks for skip in (block.attention_skip, block.mlp_skip)):
        raise ValueError("a learned skip is left")
    weights = [(b.attention.W_Q, o.attention.W_Q) for b, o in zip(back.blocks, old.blocks, strict=True)]
    return [(call(back, tokens, name="network"), call(old, tokens, name="network")), *weights]


def nothing_saved(_: Any) -> Pairs:
    """Numbers to learn, with every W_Q = I and the skips that pay for it: as many as before, d^2 a layer each way."""
    pairs = []
    for layers, d in ((1, 8), (3, 8), (4, 4)):
        old = arrays(layers, T2, d)
        new = repaired(old)
        skips = sum(block.mlp_skip.size for block in new.blocks)
        pairs += [(learned(old), learned(new)), (layers * d * d, skips)]
    return pairs


def saved_all_the_same(_: Any) -> Pairs:
    old = arrays(3, T2)
    return [(learned(old) - 3 * 8 * 8, learned(repaired(old)))]


def with_skip(edit: Any) -> Statement:
    """The rewritten network with another matrix for the skip of its first layer."""

    def sides(w: Any) -> Pairs:
        old = w.network(2, T2, hypothesis="H3")
        first, *rest = repaired(old).blocks
        skip = edit(*(block.attention.W_Q for block in old.blocks))
        new = replace(repaired(old), blocks=[replace(first, mlp_skip=skip), *rest])
        return apart(new, old, w)

    return sides


def repair_with_norm(w: Any) -> Pairs:
    old = w.network(2, T2, hypothesis="H3")
    new, old = (
        replace(net, blocks=[replace(block, mlp_norm=a_norm(w)) for block in net.blocks])
        for net in (repaired(old), old)
    )
    return apart(new, old, w)


def repair_asked(w: Any, **options: Any) -> Pairs:
    old = w.network(2, T2, **{"hypothesis": "H3", **options})
    return apart(repaired(old), old, w)


def repair_asked_with_norm(w: Any) -> Pairs:
    old = w.network(2, T2, hypothesis="H3")
    old = replace(old, blocks=[replace(block, mlp_norm=a_norm(w)) for block in old.blocks])
    return apart(repaired(old), old, w)


BASIS_SKIP_REPAIR = Claim(
    id="basis-skip-repair",
    rank="remark",
    chapter=CHAPTER,
    title="The missing piece is a linear skip, and it costs what was saved",
    statement=(
        "Take a network with both skips, $\\Theta_l=W_Q^{(l)}$ and $\\Theta_{L+1}=I$. With the weights for a skip around attention only, and "
        "the linear skip $A_l=\\Theta_l^{-1}\\Theta_{l+1}$ in place of the identity around each MLP, it computes the same function and every "
        "$W_Q=I$. If the identity is kept, the MLP would have to add $YM_l$ with $M_l=A_l-I$. Each $A_l$ has $d^2$ numbers, as many as $W_Q$ "
        "had: nothing is saved. Reducing these skips to identity skips gives the old weights back."
    ),
    hypotheses=(
        Hypothesis("H1", "a linear skip around the MLP", "the skip around each MLP may be any matrix"),
        Hypothesis("H2", "no norm", "nothing stands between a state and the weights that read it"),
        Hypothesis("H3", "invertible query projections", "every $W_Q^{(l)}$ is $d\\times d$ and invertible"),
        Hypothesis("H4", "untied readout", "the readout is a matrix of its own, not $E^{\\top}$"),
    ),
    sources=(OURS, NOTE),
    uses=("attn-skip-elimination", "r-products", "learned-skip-removal"),
    lanes=("symbolic", "exact", "numeric", "count"),
    sides=skip_repaired,
    also=lambda w: [*one_layer(w), *whole_networks(w)],
    special={"count": nothing_saved},
    deep=True,
    settings=lambda s: (
        smallest(s) and not s.biases and s.cond <= 1e2
    ),  # two learned skips in a row double the digits lost
    constructions=("learned_skips", "with_learned_skips", "linear", "moved_mlp"),
    controls=(
        Control("H1", "the identity skip kept", with_skip(lambda *_: True)),
        Control("H1", "asking for it with the identity skips kept", asked(T2), refused="one choice per segment"),
        Control("H2", "a norm before the MLP", repair_with_norm),
        Control("H2", "asking for it with a norm", repair_asked_with_norm, refused="no norm"),
        Control(
            "H3",
            "asking for it with a singular $W_Q$",
            lambda w: repair_asked(w, W_Q=w.singular("W_Q", "d")[0]),
            refused="invertible",
        ),
        Control(
            "H4", "asking for it with a tied readout", lambda w: repair_asked(w, tied=True), refused="untied readout"
        ),
        Control(
            "construction",
            "$A_l=\\Theta_{l+1}\\Theta_l^{-1}$: the two factors in the wrong order",
            with_skip(lambda here, after: after @ gauge.inverse(here)),
        ),
        Control("construction", "a saving of $d^2$ a layer counted all the same", saved_all_the_same, lanes=("count",)),
    ),
)
