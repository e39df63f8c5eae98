"""What the claims about stacks share: one step of the induction, networks of several depths, and their wrong variants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from qkvtheory import gauge, stacks
from qkvtheory.attention import Heads, rms_norm
from qkvtheory.claims.model import Control, Hypothesis, Pairs, Source, call, weights_of
from qkvtheory.lanes.settings import EXACT, Setting
from qkvtheory.network import MLP, Attention, Block, Network

T0, TA, TM, T2 = (False, False), (True, False), (False, True), (True, True)
OURS = Source("derived")
GRAEF = Source("paper", "graef2024kv", name="removing Q, K or V in skipless stacks")
NOTE = Source("paper", "karbevski2026skips", note="one group of basis changes for each hidden state")
NO_NORM = Hypothesis("H2", "no norm", "nothing stands between a state and the weights that read it")
INVERTIBLE = Hypothesis("H3", "invertible query projections", "every $W_Q^{(l)}$ is $d\\times d$ and invertible")
OTHERS = ("W_K", "W_V", "W_O", "W_up", "W_down")
Edit = Callable[[Block], Block]


# -- one layer: the step of the induction ------------------------------------------------------------------------------


def parts(w: Any, topology: tuple[Any, Any], **options: Any) -> tuple[Any, Block, Any]:
    """A state X, a block whose W_Q is invertible by H3, and the basis of the state after it."""
    after = w.invertible("Theta_+", "d", "H3") if topology[1] is True else w.matrix("Theta_+", "d", "d")
    options.setdefault("hypothesis", "H3")
    return w.matrix("X", "n", "d"), w.block(topology=topology, **options), after


def step(w: Any, topology: tuple[Any, Any], change: Edit = lambda b: b, **options: Any) -> Pairs:
    """If the state before the block is X W_Q, the new block makes the state after it times Theta_+; and its W_Q is I."""
    x, block, after = parts(w, topology, **options)
    block = change(block)
    new = gauge.rebase(block, block.attention.W_Q, after)
    return [
        (call(new, x @ block.attention.W_Q, name="block"), block(x) @ after),
        (new.attention.W_Q, w.identity("d")),
    ]


def start(w: Any) -> Pairs:
    """The start of the induction: embedding and positions put the first state into its basis."""
    tokens, theta = w.tokens(), w.invertible("Theta_1", "d", "H3")
    old = w.network(0)
    new = stacks.carry(old, [theta])
    return [(new.stream(tokens), (tokens @ old.embedding + old.positions) @ theta)]


def last(w: Any, topology: tuple[Any, Any]) -> Pairs:
    """The end: the last block hands on no basis, so the readout stays."""
    x, block, _ = parts(w, topology)
    new = gauge.rebase(block, block.attention.W_Q, None)
    return [(call(new, x @ block.attention.W_Q, name="block"), call(block, x, name="block"))]


def gated(w: Any) -> Edit:
    """The block with a gated MLP: both inputs side by side in W_up, and the activation multiplies them."""
    activation = w.function("phi", "s")

    def halves(z: Any) -> Any:
        half = z.shape[1] // 2
        return w.function("phi")(z[:, :half]) * z[:, half:]

    biases = {"b_up": w.matrix("b_up", "1", "d"), "b_down": w.matrix("b_down", "1", "d")}
    act = halves if w.lane in ("exact", "numeric") else activation
    mlp = MLP(act, w.matrix("W_up", "d", "d"), w.matrix("W_down", "s", "d"), **biases)
    return lambda block: replace(block, mlp=mlp)


def with_biases(w: Any, topology: tuple[Any, Any]) -> Pairs:
    """The same step with every bias, and a gated MLP."""
    return step(w, topology, gated(w), biases=True)[:1]


# -- wrong variants of a step ------------------------------------------------------------------------------------------


def wrong(w: Any, topology: tuple[Any, Any], edit: Callable[[Block, Block, Any], Block], **options: Any) -> Pairs:
    """A step in which ``edit(new, old, basis after)`` has damaged the new block."""
    x, block, after = parts(w, topology, **options)
    new = edit(gauge.rebase(block, block.attention.W_Q, after), block, after)
    return [(new(x @ block.attention.W_Q), block(x) @ after)]


def both_changed(w: Any, topology: tuple[Any, Any], **changes: Any) -> Pairs:
    """The same weights in a block of another kind: what the statement says of this one must fail for that one."""
    x, block, after = parts(w, topology)
    new = gauge.rebase(block, block.attention.W_Q, after)
    return [(replace(new, **changes)(x @ block.attention.W_Q), replace(block, **changes)(x) @ after)]


def a_norm(w: Any) -> Callable[[Any], Any]:
    return rms_norm() if w.lane == "numeric" else w.function("N")


def singular_query(w: Any, topology: tuple[Any, Any]) -> Pairs:
    """A generalized inverse where W_Q is singular: what is left when nothing refuses."""
    W_Q, back = w.singular("W_Q", "d")
    x, block, after = parts(w, topology, W_Q=W_Q)
    known = gauge.remembered()

    def generalized(basis: Any, name: str) -> Any:
        return back if basis is W_Q else known(basis, name)

    new = gauge.rebase(block, W_Q, after, invert=generalized)
    new = replace(new, attention=replace(new.attention, W_Q=w.identity("d")))
    return [(new(x @ W_Q), block(x) @ after)]


def forgotten_positions(w: Any, topology: tuple[Any, Any]) -> Pairs:
    old = w.network(1, topology, hypothesis="H3")
    new = replace(stacks.eliminate(old), positions=old.positions)
    return [(new(w.tokens()), old(w.tokens()))]


def moved_down(new: Block, weight: Any) -> Block:
    return replace(new, mlp=replace(new.mlp, W_down=weight))


def asked(topology: tuple[Any, Any], **changes: Any) -> Callable[[Any], Pairs]:
    """Eliminating in a network that does not allow it; ``changes`` are made to every block."""

    def sides(w: Any) -> Pairs:
        old = w.network(2, topology, hypothesis="H3")
        old = replace(old, blocks=[replace(block, **changes) for block in old.blocks])
        return [(stacks.eliminate(old).embedding, old.embedding)]

    return sides


def asked_with_norm(topology: tuple[Any, Any]) -> Callable[[Any], Pairs]:
    return lambda w: asked(topology, attention_norm=a_norm(w))(w)


def asked_singular(topology: tuple[Any, Any]) -> Callable[[Any], Pairs]:
    def sides(w: Any) -> Pairs:
        old = w.network(1, topology, W_Q=w.singular("W_Q", "d")[0])
        return [(stacks.eliminate(old).embedding, old.embedding)]

    return sides


def norm_and_singular(topology: tuple[Any, Any]) -> tuple[Control, ...]:
    """The controls for H2 and H3, the same in every topology."""
    return (
        Control("H2", "a norm before attention", lambda w: both_changed(w, topology, attention_norm=a_norm(w))),
        Control("H2", "a norm before the MLP", lambda w: both_changed(w, topology, mlp_norm=a_norm(w)))
        if topology != T0
        else Control("H2", "a norm before both sublayers", lambda w: two_norms(w)),
        Control("H2", "asking for it with norms", asked_with_norm(topology), refused="no norm"),
        Control("H3", "a generalized inverse of a singular $W_Q$", lambda w: singular_query(w, topology)),
        Control("H3", "asking for it with a singular $W_Q$", asked_singular(topology), refused="invertible"),
    )


def two_norms(w: Any) -> Pairs:
    return both_changed(w, T0, attention_norm=a_norm(w), mlp_norm=a_norm(w))


# -- whole networks ----------------------------------------------------------------------------------------------------


def eliminated(w: Any, old: Network, which: Any = "Q", layers: Any = None) -> Pairs:
    """The network without its query projections computes what the old one computes."""
    new, tokens = stacks.eliminate(old, which, layers), w.tokens()
    return [(call(new, tokens, name="network"), call(old, tokens, name="network"))]


def networks(w: Any, topology: tuple[Any, Any], in_words: tuple[int, ...] = (1, 2, 3)) -> Pairs:
    """The loop itself: one to three layers in words, two in exact numbers, up to four in floats, and once 48."""
    olds = [w.network(depth, topology, biases=True, hypothesis="H3") for depth in depths(w, in_words)]
    olds += [deep_network(w, topology)] if w.lane == "numeric" and w.setting.name == "causal mask" else []
    return [pair for old in olds for pair in eliminated(w, old)]


def depths(w: Any, in_words: tuple[int, ...]) -> tuple[int, ...]:
    """How many layers a network gets here: few where numbers are slow, or where the mutants run."""
    if w.lane == "exact":
        return (2,) if w.sizes["d"] == 2 or "causal" in w.setting.name else ()
    if w.lane == "numeric":
        return (2,) if is_first(w) else (1, 3, 4)
    return in_words


def is_first(w: Any) -> bool:
    """Is this the large setting in which the mutants run?"""
    return w.lane in ("exact", "numeric") and bool(w.setting.name == "multi-head attention")


def smallest(s: Setting) -> bool:
    """In exact numbers one head of width two only: enough to see a difference, and many times faster."""
    return s not in EXACT or s.d == 2


def deep_network(w: Any, topology: tuple[Any, Any], depth: int = 48) -> Network:
    """Many layers in which tokens stay apart and states keep their size, so that a comparison at the end decides.

    Every token looks mostly at itself, and all weights but W_Q are orthogonal.
    """
    core = w.setting.core(bias=8 * w.identity("n"))
    strength = 0.3 if topology[1] is True else 1.0  # what a skip carries on adds up

    def block(label: str) -> Block:
        weights = {name: np.linalg.qr(w.rng(name + label).normal(size=(w.sizes["d"],) * 2))[0] for name in OTHERS}
        down = strength * weights.pop("W_down")
        mlp = MLP(np.tanh, weights.pop("W_up"), down)
        return Block(Attention(core, w.invertible("W_Q" + label, "d", "H3"), **weights), mlp, *topology)

    return replace(w.network(0), blocks=[block(f"^{layer}") for layer in range(1, depth + 1)])


# -- counting ----------------------------------------------------------------------------------------------------------


def arrays(layers: int, topology: tuple[Any, Any], d: int = 8, seed: int = 0) -> Network:
    """A network of float matrices, for counting."""
    rng = np.random.default_rng(seed)

    def one() -> Block:
        mlp = MLP(np.tanh, rng.normal(size=(d, 4 * d)), rng.normal(size=(4 * d, d)))
        return Block(Attention(Heads(2), *rng.normal(size=(4, d, d))), mlp, *topology)

    return Network(rng.normal(size=(5, d)), [one() for _ in range(layers)], rng.normal(size=(d, 5)))


def learned(network: Network) -> int:
    """How many numbers a network has to learn: all its matrices that are not the identity."""
    found = weights_of(network, np.ndarray)
    return sum(a.size for a in found if not (a.shape[0] == a.shape[1] and (a == np.eye(len(a))).all()))


def saved(topology: tuple[Any, Any]) -> Callable[[Any], Pairs]:
    """Numbers to learn before and after: d^2 fewer for every layer."""

    def counted(_: Any) -> Pairs:
        cases = [(layers, d, arrays(layers, topology, d)) for layers, d in ((1, 8), (3, 8), (4, 4))]
        return [(learned(old) - layers * d * d, learned(stacks.eliminate(old))) for layers, d, old in cases]

    return counted
