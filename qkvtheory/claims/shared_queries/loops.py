"""One block, looped: a dynamical system in another basis."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from qkvtheory import gauge, stacks
from qkvtheory.claims.every_skip.conjugation import (
    BOTH,
    DEPTHS,
    OURS,
    a_few,
    generalized_inverse,
    in_numbers,
    in_setting,
    normed,
    quiet,
    same_function,
    some_block,
)
from qkvtheory.claims.model import Claim, Control, Hypothesis, Pairs, call
from qkvtheory.claims.shared_queries.sharing import CHAPTER
from qkvtheory.network import Block

LOOPS = 50


def halted(w: Any, block: Callable[[Any], Any], x: Any, halt: Callable[[Any], Any], loops: int = 1) -> Any:
    """Adaptive halting: every state of the loop, weighted token by token by a number that depends on the state."""
    total = w.diagonal(halt(x)) @ x
    for _ in range(loops):
        x = block(x)
        total = total + w.diagonal(halt(x)) @ x
    return total


def pieces(w: Any) -> tuple[Any, Any, Block, Block]:
    """Input, basis, block, and the block in the basis."""
    theta, block = w.invertible("Theta", "d", "H2"), some_block(w)
    return w.matrix("X", "n", "d"), theta, block, gauge.rebase(block, theta, theta, theta)


def looped(w: Any) -> Pairs:
    """One loop from any state, and the number that tells a token to halt."""
    x, theta, block, new = pieces(w)
    R, p = w.matrix("R", "d", "1"), w.function("p")
    (read,) = gauge.reads(gauge.inverse(theta), R)
    halting = (w.diagonal(p((x @ theta) @ read)) @ (x @ theta), w.diagonal(p(x @ R)) @ x @ theta)
    return [(call(new, x @ theta, name="block"), block(x) @ theta), halting]


def loops(w: Any) -> Pairs:
    """Halting; and the real thing, one block standing in every place of a network."""
    x, theta, block, new = pieces(w)
    R, p = w.matrix("R", "d", "1"), w.function("p")
    (read,) = gauge.reads(gauge.inverse(theta), R)
    left = halted(w, new, x @ theta, lambda h: p(h @ read))
    pairs = [(left, halted(w, block, x, lambda h: p(h @ R)) @ theta)]
    old = w.network(1, BOTH, biases=in_numbers(w), W_Q=theta)
    (same,) = old.blocks
    many = [[same] * 2]
    if in_setting(w, DEPTHS) and w.lane == "numeric":
        many += [[quiet(same, LOOPS)] * count for count in range(1, LOOPS + 1)]
    for blocks in many:
        network = replace(old, blocks=blocks)
        pairs.append(same_function(stacks.conjugate(network, theta), network, w))
    return pairs


def halting_by_length(w: Any) -> Pairs:
    """How far a token goes depends on the length of its state, which another basis changes."""
    x, theta, block, new = pieces(w)

    def length(h: Any) -> Any:
        return w.function("l", "1")(h) if w.lane in ("symbolic", "re-evaluation") else (h * h) @ w.ones("d")

    return [(halted(w, new, x @ theta, length), halted(w, block, x, length) @ theta)]


LOOPED_BLOCK = Claim(
    id="looped-block",
    rank="remark",
    chapter=CHAPTER,
    title="A looped block is the same system in another basis",
    statement=(
        "For a norm-free block $F$ with its skips, looped, the conjugated block satisfies $\\tilde F(h\\Theta)=F(h)\\Theta$, hence "
        "$\\tilde F^k(h\\Theta)=F^k(h)\\Theta$ for every number $k$ of loops. This includes adaptive halting, as long as it sees $h$ only "
        "through reads $hR$."
    ),
    hypotheses=(
        Hypothesis("H1", "one block without norms", "the block $F$ is the same in every loop and has no norm"),
        Hypothesis("H2", "invertible basis", "$\\Theta$ is invertible"),
        Hypothesis("H3", "halting through reads", "what decides when to halt depends on $h$ through reads $hR$ only"),
    ),
    sources=(OURS,),
    uses=("r-products", "shared-wq-elimination"),
    sides=looped,
    also=loops,
    settings=a_few,
    deep=True,
    constructions=("moved_mlp",),
    controls=(
        Control("H1", "RMSNorm before the sublayers", lambda w: normed(w, hypothesis="H2")),
        Control("H2", "a generalized inverse of a singular $\\Theta$", lambda w: generalized_inverse(w, "Theta")),
        Control(
            "H2",
            "asking for a singular basis",
            lambda w: [(stacks.conjugate(w.network(1, BOTH), w.singular("Theta", "d")[0]), None)],
            refused="invertible",
        ),
        Control("H3", "halting by the length of $h$", halting_by_length),
    ),
)
