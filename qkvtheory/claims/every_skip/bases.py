"""With every skip there is one basis; learned skips carry one basis into the next."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from qkvtheory import gauge, redundancy, stacks
from qkvtheory.attention import Heads
from qkvtheory.claims.every_skip.conjugation import (
    BOTH,
    CHAPTER,
    DEPTHS,
    a_few,
    in_numbers,
    in_setting,
    norm,
    norms_everywhere,
    same_function,
    some_block,
    unbiased,
    with_norms,
)
from qkvtheory.claims.model import Claim, Control, Hypothesis, Pairs, Source, Statement, call
from qkvtheory.network import MLP, Attention, Block, Network

NOTE = Source("paper", "karbevski2026skips", note="one basis with every skip; learned skips that are products of bases")

# -- global-basis-only -------------------------------------------------------------------------------------------------


def sublayer(w: Any, x: Any, before: Any, after: Any) -> Any:
    """What one sublayer writes when it reads in the basis ``before`` and writes in the basis ``after``."""
    back = None if before is None else gauge.inverse(before)
    (R,) = gauge.reads(back, w.matrix("R", "d", "hidden"))
    return w.function("f")(x @ R) @ gauge.carried(w.matrix("S", "hidden", "d"), after)


def defects(w: Any) -> Pairs:
    """What unequal bases leave over: at a skip, where nothing writes, and where one sublayer writes."""
    x, D = w.matrix("X", "n", "d"), w.matrix("D", "d", "s")
    first, here, last = (w.invertible(f"G_{i}", "d", "H2") for i in ("0", "k", "K"))
    f = sublayer(w, x, None, None)
    (readout,), (late,) = (gauge.reads(gauge.inverse(basis), D) for basis in (first, last))
    moved = x @ first + sublayer(w, x @ first, first, here)
    return [
        (moved, (x + f) @ here + x @ (first - here)),
        ((x @ first) @ late, x @ D + (x @ (first - last)) @ late),
        (moved @ readout, (x + f) @ D + (f @ (here - first)) @ readout),
    ]


def one_for_all(w: Any) -> Pairs:
    """The converse: one basis everywhere keeps the function."""
    theta = w.invertible("Theta", "d", "H2")
    old = w.network(2 if in_setting(w, DEPTHS) else 1, BOTH, W_Q=w.weight("W_Q", "d", "p"))
    return [same_function(stacks.conjugate(old, theta), old, w)]


def unequal(w: Any) -> tuple[Any, Any, Any]:
    return w.invertible("Theta", "d"), w.invertible("Phi", "d"), w.matrix("X", "n", "d")


def one_skip_open(*topology: bool) -> Statement:
    """With a skip left out two different bases are exact."""

    def exact(w: Any) -> Pairs:
        theta, phi, x = unequal(w)
        block = some_block(w, topology=topology)
        return [(gauge.rebase(block, theta, phi)(x @ theta), block(x) @ phi)]

    return exact


def bases_differ(w: Any) -> Pairs:
    theta, phi, _ = unequal(w)
    return [(theta, phi)]


def unequal_with_every_skip(w: Any) -> Pairs:
    theta, phi, x = unequal(w)
    block = some_block(w, topology=(True, False))
    new = gauge.rebase(block, theta, phi)
    return [(replace(new, mlp_skip=True)(x @ theta), replace(block, mlp_skip=True)(x) @ phi)]


def silent(w: Any) -> Pairs:
    """Weights with W_down = 0: the basis after the sublayer never acts, so that one may differ."""
    theta, phi, x = unequal(w)
    block = some_block(w, topology=(True, False))
    zero = block.mlp.W_down - block.mlp.W_down
    block = replace(block, mlp=replace(block.mlp, W_down=zero))
    new = gauge.rebase(block, theta, phi)
    return [(replace(new, mlp_skip=True)(x @ theta), replace(block, mlp_skip=True)(x) @ theta)]


def bases_counted(_: Any) -> Pairs:
    """Bases without skips, and with every skip: 2L sublayers take 2L bases away, d^2 numbers each."""
    pairs = []
    for layers, d in ((1, 4), (3, 8), (12, 64)):
        free, fixed = (
            stacks.free_bases(Network(np.eye(d), [Block(None, None, skip, skip)] * layers))  # type: ignore[arg-type]
            for skip in (False, True)
        )
        pairs += [(1, fixed), (2 * layers * d * d, (free - fixed) * d * d)]
    return pairs


@cache
def dimension(attention_skip: bool, mlp_skip: bool) -> tuple[int, int]:
    """How many numbers a network of one block has, and how many of them count: its functional dimension."""
    d, vocab, hidden, out, rows = 2, 3, 4, 3, 40  # of the rows, four at a time are a sequence
    rng = np.random.default_rng(0)
    shapes = [(vocab, d), (d, out), *[(d, d)] * 4, (d, hidden), (hidden, d)]
    weights = [2 * rng.normal(size=shape) / np.sqrt(shape[0]) for shape in shapes]
    tokens, sequence = rng.normal(size=(rows, vocab)), np.arange(rows) // 4
    core = Heads(1, mask=sequence[:, None] == sequence[None, :], pattern=redundancy.analytic_softmax)

    def run(E: Any, D: Any, *parameters: Any) -> Any:
        block = Block(Attention(core, *parameters[:4]), MLP(np.tanh, *parameters[4:]), attention_skip, mlp_skip)
        return Network(E, [block], D)(tokens)

    return sum(weight.size for weight in weights), redundancy.functional_dimension(run, weights).rank


def bases_measured(_: Any) -> Pairs:
    """What does not count are d^2 numbers for each free basis, and as many inside the head for keys and for values."""
    pairs = []
    for topology in itertools.product((False, True), repeat=2):
        numbers, rank = dimension(*topology)
        free = stacks.free_bases(Network(np.eye(2), [Block(None, None, *topology)]))  # type: ignore[arg-type]
        pairs.append((numbers - (free + 2) * 2**2, rank))
    return [*pairs, (2 * 2**2, dimension(True, True)[1] - dimension(False, False)[1])]


def one_skip_measured(_: Any) -> Pairs:
    """With the skip around the MLP left out, the other one takes d^2 away, not 2 d^2."""
    return [(2 * 2**2, dimension(True, False)[1] - dimension(False, False)[1])]


GLOBAL_BASIS_ONLY = Claim(
    id="global-basis-only",
    rank="remark",
    chapter=CHAPTER,
    title="With every skip there is only one basis",
    statement=(
        "Give the states before, between and after the sublayers bases $G_0,\\dots,G_K$. With an identity skip around every sublayer the "
        "function stays the same *for all weights* **if and only if** $G_0=\\dots=G_K$. The defect is $h_{k-1}(G_{k-1}-G_k)$ at the $k$-th skip; "
        "with no sublayer writing it forces $G_0=G_K$, and with only the $k$-th writing, $G_k=G_0$. So skips around $K$ sublayers take "
        "$Kd^2$ dimensions of symmetry away (counted by the rule, and measured as ranks of one block at $d=2$). (The note also counts them under RMSNorm, $K\\frac{d(d-1)}2$, and under LayerNorm, "
        "$K\\frac{(d-1)(d-2)}2$; the lanes check the case without norms.)"
    ),
    hypotheses=(
        Hypothesis("H1", "identity skips, no norm", "an identity skip stands around every sublayer, and no norm"),
        Hypothesis(
            "H2", "invertible bases, all weights", "the bases are invertible, and keep the function for all weights"
        ),
    ),
    sources=(NOTE,),
    uses=("r-products", "one-layer-free"),
    kind="condition",
    lanes=("symbolic", "exact", "numeric", "count", "rank"),
    sides=defects,
    also=one_for_all,
    special={"count": bases_counted, "rank": bases_measured},
    settings=unbiased,
    deep=True,
    constructions=("reads", "carried", "read_out"),
    controls=(
        *(
            Control(
                "H1",
                f"{what}: two different bases keep the function",
                bases_differ,
                witness=one_skip_open(*topology),
            )
            for what, topology in (
                ("no skips", (False, False)),
                ("a skip around attention only", (True, False)),
                ("a skip around the MLP only", (False, True)),
            )
        ),
        Control(
            "H1",
            "a skip around attention only: as many dimensions fewer as with both skips",
            one_skip_measured,
            lanes=("rank",),
        ),
        Control(
            "H2",
            "special weights, $W_{down}=0$: different bases before and after the MLP keep the function",
            bases_differ,
            witness=silent,
        ),
        Control("construction", "different bases with every skip", unequal_with_every_skip),
        Control(
            "construction",
            "asking for different bases with every skip",
            lambda w: [(gauge.rebase(some_block(w), *unequal(w)[:2]), None)],
            refused="one basis",
        ),
    ),
)


# -- learned-skip-removal ----------------------------------------------------------------------------------------------


def skip(w: Any, name: str) -> Any:
    """An invertible skip. In floats its singular values lie between 1/2 and 1, so a product of six is no worse
    conditioned than the setting's matrices are.
    """
    drawn = w.invertible(name, "d", "H2")
    if w.lane != "numeric":
        return drawn
    u, values, v = np.linalg.svd(drawn)
    return u * np.linspace(1, 0.5, len(values)) @ v


def one_block(w: Any, **options: Any) -> Pairs:
    """A block with two learned skips A and B, and Lambda, the product of all later ones."""
    A, B, later, x = *(skip(w, name) for name in ("A", "B", "Lambda")), w.matrix("X", "n", "d")
    old = some_block(w, topology=(A, B), **options)
    middle = gauge.carried(B, later)
    enter = gauge.carried(A, middle)
    new = gauge.rebase(old, enter, later, middle)
    one = w.identity("d")
    identities = [(new.attention_skip, one), (new.mlp_skip, one)]
    return [(call(stacks.with_identity_skips(new), x @ enter, name="block"), old(x) @ later), *identities]


def learned(w: Any, skips: Sequence[tuple[Any, Any]], **options: Any) -> Network:
    """A network with these skips; a name stands for a learned one."""
    old = w.network(len(skips), W_Q=w.weight("W_Q", "d", "p"), **options)
    chosen = [[skip(w, s) if isinstance(s, str) else s for s in pair] for pair in skips]
    blocks = [replace(block, attention_skip=a, mlp_skip=m) for block, (a, m) in zip(old.blocks, chosen, strict=True)]
    return replace(old, blocks=blocks)


def removed(w: Any) -> Pairs:
    """Networks with learned skips only; and with some of them identities or left out; and in parallel blocks."""
    networks = [learned(w, [("A^1", "B^1"), ("A^2", False)], biases=in_numbers(w))]
    if in_setting(w, DEPTHS):
        networks.append(learned(w, [("A^1", True), (True, "B^2")]))
        networks.append(learned(w, [("A^1", False), ("A^2", False)], parallel=True))
    if in_setting(w, DEPTHS):
        networks.append(learned(w, [("A^1", "B^1"), ("A^2", "B^2"), ("A^3", "B^3")], biases=True))
    pairs = []
    for old in networks:
        new = stacks.remove_learned_skips(old)
        left = [s for block in new.blocks for s in (block.attention_skip, block.mlp_skip)]
        if not all(isinstance(s, bool) for s in left):
            raise ValueError("a learned skip is left")
        pairs.append(same_function(new, old, w))
    return [*one_block(w, biases=True)[:1], *pairs]


def wrong_order(w: Any) -> Pairs:
    """Lambda = A_K ... A_1 in place of A_1 ... A_K."""
    A, B, x = skip(w, "A"), skip(w, "B"), w.matrix("X", "n", "d")
    old = some_block(w, topology=(A, B))
    new = gauge.rebase(old, B @ A, None, B)
    return [(stacks.with_identity_skips(new)(x @ (B @ A)), old(x))]


def singular_skip(w: Any) -> Pairs:
    (A, back), B, x = w.singular("A", "d"), skip(w, "B"), w.matrix("X", "n", "d")
    old = some_block(w, topology=(A, B))
    pseudo = gauge.inverse(B) @ back
    new = gauge.rebase(
        old, A @ B, None, B, invert=lambda basis, name: {"enter": pseudo, "middle": gauge.inverse(B)}.get(name)
    )
    return [(stacks.with_identity_skips(new)(x @ (A @ B)), old(x))]


def input_dependent(w: Any) -> Pairs:
    """x s(x) in place of x A, removed as if s(x) were A at every x."""
    A, x, s = skip(w, "A"), w.matrix("X", "n", "d"), w.function("s")
    block = some_block(w, topology=(False, False))
    new = gauge.rebase(block, A, None)
    return [(x @ A + new(x @ A), s(x) + block(x))]


def crossed(w: Any) -> Pairs:
    """The skip is passed twice, with one state between, for which the construction has no basis."""
    old = learned(w, [("A", "B")])
    blocks = [replace(block, cross=w.attention(label="^c")) for block in old.blocks]
    return [(stacks.remove_learned_skips(replace(old, blocks=blocks)), None)]


def skips_under_norm(w: Any) -> Pairs:
    A, B, x = skip(w, "A"), skip(w, "B"), w.matrix("X", "n", "d")
    old = some_block(w, topology=(A, B))
    new = stacks.with_identity_skips(gauge.rebase(old, A @ B, None, B))
    return [(with_norms(new, norm(w))(x @ (A @ B)), with_norms(old, norm(w))(x))]


LEARNED_SKIP_REMOVAL = Claim(
    id="learned-skip-removal",
    rank="remark",
    chapter=CHAPTER,
    title="Invertible linear skips are a choice of basis",
    statement=(
        "Let sublayer $k=1,\\dots,K$ be $h_k=h_{k-1}A_k+f_k(h_{k-1}R_k)S_k$ with invertible $A_k$, and $\\Lambda_k=A_{k+1}\\cdots A_K$. Then "
        "$E\\Lambda_0$, $\\Lambda_{k-1}^{-1}R_k$, $S_k\\Lambda_k$, the old readout and *identity* skips give the same function. With "
        "$\\Lambda$ after a block whose skips are $A$ and $B$, its input has the basis $AB\\Lambda$ and its middle $B\\Lambda$."
    ),
    hypotheses=(
        Hypothesis("H1", "no norm", "no norm stands before a sublayer"),
        Hypothesis("H2", "invertible linear skips", "every skip is a fixed invertible matrix"),
    ),
    sources=(NOTE, Source("derived", note="with biases, parallel blocks, and skips of which some are left out")),
    uses=("r-products",),
    sides=one_block,
    also=removed,
    settings=a_few,
    deep=True,
    constructions=("remove_learned_skips", "skips_of", "linear"),
    controls=(
        Control("H1", "RMSNorm before the sublayers", skips_under_norm),
        Control(
            "H1",
            "asking for it with norms in the network",
            lambda w: [(stacks.remove_learned_skips(norms_everywhere(learned(w, [("A", "B")]), norm(w))), None)],
            refused="no norm",
        ),
        Control("H2", "a generalized inverse of a singular $A$", singular_skip),
        Control(
            "H2",
            "asking to remove a singular skip",
            lambda w: [(stacks.remove_learned_skips(learned(w, [(w.singular("A", "d")[0], True)])), None)],
            refused="invertible",
        ),
        Control("H2", "a skip that depends on the input", input_dependent),
        Control("construction", "$\\Lambda$ multiplied in the wrong order", wrong_order),
        Control(
            "construction",
            "asking for it where one learned skip serves self- and cross-attention",
            crossed,
            refused="one basis",
        ),
    ),
)
