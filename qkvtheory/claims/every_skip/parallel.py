"""Parallel blocks: attention and MLP side by side."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from qkvtheory import gauge, stacks
from qkvtheory.claims.every_skip.conjugation import (
    CHAPTER,
    DEPTHS,
    OURS,
    a_few,
    generalized_inverse,
    in_numbers,
    in_setting,
    norm,
    norms_everywhere,
    same_function,
    some_block,
    with_norms,
)
from qkvtheory.claims.model import Claim, Control, Hypothesis, Pairs, call


def parallel(w: Any, **options: Any) -> list[tuple[Any, Any]]:
    theta, x = w.invertible("Theta", "d", "H2"), w.matrix("X", "n", "d")
    block = some_block(w, topology=(True, False), parallel=True, **options)
    W_Q = w.invertible("W_Q", "d", "H2")
    freed = gauge.rebase(replace(block, attention=replace(block.attention, W_Q=W_Q)), W_Q, W_Q)
    return [
        (call(gauge.rebase(block, theta, theta), x @ theta, name="block"), block(x) @ theta),
        (freed.attention.W_Q, w.identity("d")),
    ]


def parallel_stack(w: Any) -> Pairs:
    """With biases; and two layers, of which the second one's query goes."""
    pairs = parallel(w, biases=True)[:1]
    if w.lane == "symbolic" or in_setting(w, DEPTHS):
        old = w.network(2, biases=in_numbers(w), parallel=True)
        new = stacks.eliminate(old, layers=[1])
        pairs += [same_function(new, old, w), (new.blocks[1].attention.W_Q, w.identity("d"))]
    return pairs


def parallel_normed(w: Any) -> Pairs:
    theta, x = w.invertible("W_Q", "d"), w.matrix("X", "n", "d")
    old = w.block(parallel=True, W_Q=theta)
    new, old = (with_norms(b, norm(w)) for b in (gauge.rebase(old, theta, theta), old))
    return [(new(x @ theta), old(x) @ theta)]


def one_write_forgotten(w: Any) -> Pairs:
    theta, x = w.invertible("W_Q", "d"), w.matrix("X", "n", "d")
    old = w.block(parallel=True, W_Q=theta)
    new = gauge.rebase(old, theta, theta)
    return [(replace(new, mlp=replace(new.mlp, W_down=old.mlp.W_down))(x @ theta), old(x) @ theta)]


PARALLEL_GLOBAL = Claim(
    id="parallel-global",
    rank="remark",
    chapter=CHAPTER,
    title="Parallel blocks with a skip",
    statement=(
        "If attention and MLP both read the block's input and both are added to it, $X'=X+\\mathrm{MHA}(X)+\\mathrm{MLP}(X)$, the theorem "
        "applies unchanged: one basis for the network, and one layer with $W_Q=I$."
    ),
    hypotheses=(
        Hypothesis("H1", "parallel, no norm", "$X'=X+\\mathrm{MHA}(X)+\\mathrm{MLP}(X)$ without norms"),
        Hypothesis("H2", "invertible basis", "$\\Theta$ is invertible"),
    ),
    sources=(OURS,),
    uses=("r-products", "one-layer-free"),
    sides=parallel,
    also=parallel_stack,
    settings=a_few,
    deep=True,
    constructions=("moved_mlp",),
    controls=(
        Control("H1", "RMSNorm before both", parallel_normed),
        Control(
            "H1",
            "asking for it with a norm",
            lambda w: [(stacks.eliminate(norms_everywhere(w.network(1, parallel=True), norm(w))), None)],
            refused="no norm",
        ),
        Control("H1", "one of the two writes ($W_{down}$) left as it was", one_write_forgotten),
        Control(
            "H2",
            "a generalized inverse of a singular $\\Theta$",
            lambda w: generalized_inverse(w, "Theta", topology=(True, False), parallel=True),
        ),
        Control(
            "H2",
            "asking for a singular basis",
            lambda w: [(stacks.conjugate(w.network(1, parallel=True), w.singular("Theta", "d")[0]), None)],
            refused="invertible",
        ),
    ),
)
