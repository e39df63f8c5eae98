"""What the freedom makes meaningless, and what it leaves alone: numbers about weights, and paths of training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from qkvtheory import gauge, redundancy, similarity, stacks
from qkvtheory.attention import Heads
from qkvtheory.claims.degrees_of_freedom.common import CHAPTER, OURS, narrow, number, one_head, rank_of
from qkvtheory.claims.model import AtMost, Claim, Control, Hypothesis, Pairs, Statement, call
from qkvtheory.network import MLP, Attention, Block, Network

# -- gauge-dependent-numbers -------------------------------------------------------------------------------------------


def products_stay(w: Any) -> Pairs:
    """The score matrix and the value matrix stay; G = -I turns the keys, and so their cosine with the values, around."""
    a, x = one_head(w), w.integers("X", "n", "d")
    new = gauge.turn_heads(a, w.invertible("G", "h", "H1"), w.invertible("J", "h", "H1"))
    back = gauge.turn_heads(a, keys=-1 * w.identity("h"))
    return [
        (new.W_Q @ new.W_K.mT, a.W_Q @ a.W_K.mT),
        (new.W_V @ new.W_O, a.W_V @ a.W_O),
        (x @ back.W_K, -1 * (x @ a.W_K)),
    ]


def ranks_survive(w: Any) -> Pairs:
    """Exactly: in any basis of the stream the products keep their ranks, though not their entries."""
    a, new = other_stream(w)
    moved = zip(products_of(new), products_of(a), strict=True)
    ranks = ((number(w, rank_of(there)), number(w, rank_of(here))) for there, here in moved)
    return [*products_stay(w), *ranks, *keys_and_values_stay(w)]


def products_of(a: Attention) -> tuple[Any, Any]:
    """M and N."""
    return a.W_Q @ a.W_K.mT, a.W_V @ a.W_O


def keys_and_values_stay(w: Any) -> Pairs:
    """K and V of the same tokens, in any basis of the stream."""
    (a, new), x = other_stream(w), w.integers("X", "n", "d")
    there = x @ w.invertible("Theta", "d", "H2")
    return [(there @ new.W_K, x @ a.W_K), (there @ new.W_V, x @ a.W_V)]


def measured(w: Any) -> Pairs:
    """The package's own measures: what moves, by how much at least, and what stays."""
    a, x = one_head(w), w.matrix("X", "n", "d")
    new = gauge.turn_heads(a, w.invertible("G", "h", "H1"), w.invertible("J", "h", "H1"))
    K, V = x @ a.W_K, x @ a.W_V
    toward = gauge.turn_heads(
        a, keys=gauge.inverse(np.linalg.lstsq(K, V)[0].T)
    )  # keys as near the values as G can bring them
    away = gauge.turn_heads(toward, keys=-1 * w.identity("h"))
    like, unlike = (similarity.cosine(x @ b.W_K, V) for b in (toward, away))
    stretched = gauge.turn_heads(a, keys=np.diag(np.logspace(0, 2, len(new.W_O))))
    rank, alike = similarity.effective_rank, similarity.linear_cka
    orthogonal = np.linalg.qr(w.matrix("O", "h", "h"))[0]
    return [
        *products_stay(w),
        at_least(w, 0.3, like),
        (number(w, unlike), number(w, -like)),
        at_least(w, 0.1, abs(rank(stretched.W_K) - rank(a.W_K))),
        at_least(w, 0.1, abs(rank(x @ stretched.W_K) - rank(K))),
        at_least(w, 0.01, abs(alike(x @ stretched.W_K, V) - alike(K, V))),
        (number(w, alike(3 * K @ orthogonal, V)), number(w, alike(K, V))),
        (angles(new), angles(a)),
        *keys_and_values_stay(w),
        *sizes_in_streams(w),
    ]


def sizes_in_streams(w: Any) -> Pairs:
    """Norms, singular values and angles: the same in a turned stream, others in a stretched one, where ranks stay."""
    a, d = one_head(w), w.sizes["d"]
    turned = gauge.change_basis(a, np.linalg.qr(w.matrix("T", "d", "d"))[0])
    stretched = gauge.change_basis(a, np.diag(np.logspace(0, 1, d)))
    pairs: list[Any] = [(angles(turned), angles(a)), at_least(w, 1e-3, abs(angles(stretched) - angles(a)).max())]
    for here, there, elsewhere in zip(*map(products_of, (a, turned, stretched)), strict=True):
        sizes, same, other = (np.linalg.svd(M, compute_uv=False)[None] for M in (here, there, elsewhere))
        pairs += [
            (same, sizes),
            at_least(w, 0.01, abs(other - sizes).max() / sizes.max()),
            at_least(w, 0.01, abs(float(np.linalg.norm(other) / np.linalg.norm(sizes)) - 1)),
            (number(w, rank_of(elsewhere)), number(w, rank_of(here))),
        ]
    return pairs


def at_least(w: Any, least: float, value: float) -> Any:
    return AtMost(number(w, least), number(w, value))


def angles(a: Attention) -> Any:
    return similarity.principal_angles(a.W_K, a.W_V)[None]


def turned_number(measure: Any) -> Any:
    """The claim that this number of keys and values belongs to the function."""

    def sides(w: Any) -> Pairs:
        a, x = one_head(w), w.matrix("X", "n", "d")
        new = gauge.turn_heads(a, keys=w.invertible("G", "h", "H1"))
        return [(number(w, measure(x @ new.W_K, x @ a.W_V)), number(w, measure(x @ a.W_K, x @ a.W_V)))]

    return sides


def same_function(w: Any) -> Pairs:
    a, x = one_head(w), w.matrix("X", "n", "d")
    return [(gauge.turn_heads(a, keys=w.invertible("G", "h", "H1"))(x), a(x))]


def products_of_singular(w: Any) -> Pairs:
    a, (G, back) = one_head(w), w.singular("G", "h")
    return [(a.W_Q @ G @ (a.W_K @ back.mT).mT, a.W_Q @ a.W_K.mT)]


def other_stream(w: Any) -> tuple[Attention, Attention]:
    a = one_head(w)
    return a, gauge.change_basis(a, w.invertible("Theta", "d", "H2"))


def products_elsewhere(w: Any) -> Pairs:
    a, new = other_stream(w)
    return [(new.W_Q @ new.W_K.mT, a.W_Q @ a.W_K.mT)]


def angles_elsewhere(w: Any) -> Pairs:
    a, new = other_stream(w)
    return [(angles(new), angles(a))]


DEPENDENT = Claim(
    id="gauge-dependent-numbers",
    rank="remark",
    chapter=CHAPTER,
    title="How alike keys and values look is not a property of the function",
    statement=(
        "The cosine of $K$ and $V$, the effective rank of $K$ or of $W_K$, and the linear CKA of $K$ and $V$ change when a head is written "
        "in another basis; $G=-I$ turns the cosine around. Linear CKA stays only under rotations and scalings. What stays in a fixed basis "
        "of the stream: $M_h$ and $N_h$ themselves, and the principal angles between the spaces of the columns of $W_K^h$ and $W_V^h$. In a "
        "basis of the stream that is not orthogonal their entries, norms and singular values and the angles change; their ranks stay. $K$ and $V$ "
        "themselves do not notice a basis of the stream."
    ),
    hypotheses=(
        Hypothesis("H1", "a basis of the head", "the head is turned by invertible $G$ and $J$"),
        Hypothesis("H2", "fixed stream", "the basis of the stream stays: for $M_h$, $N_h$ and the angles"),
    ),
    sources=(OURS,),
    uses=("head-gauge",),
    sides=products_stay,
    special={"exact": ranks_survive, "numeric": measured},
    settings=narrow,
    controls=(
        Control("H1", "a generalized inverse of a singular $G$", products_of_singular),
        Control("H2", "another basis of the stream: the score matrix is another", products_elsewhere),
        Control("H2", "another basis of the stream: other principal angles", angles_elsewhere, lanes=("numeric",)),
        *(
            Control(
                "construction",
                f"{what} taken for a property of the function",
                turned_number(measure),
                lanes=("numeric",),
                witness=same_function,
            )
            for what, measure in (
                ("the cosine of keys and values", similarity.cosine),
                ("linear CKA", similarity.linear_cka),
                ("the effective rank of the keys", lambda keys, _: similarity.effective_rank(keys)),
            )
        ),
    ),
)


# -- function-class-is-not-training ------------------------------------------------------------------------------------

RATE, STEPS = 0.05, 2
SHAPES = {"E": (5, 3), **{f"W_{c}": (3, 3) for c in "QKVO"}, "W_up": (3, 4), "W_down": (4, 3), "D": (3, 2)}
Rule = Callable[[np.ndarray], np.ndarray]


def small_network(w: Any) -> Network:
    """One block with both skips, of weights whose shapes are in SHAPES."""
    drawn = [w.rng(name).normal(size=shape) / shape[0] ** 0.5 for name, shape in SHAPES.items()]
    return network_of(drawn)


def network_of(weights: Sequence[np.ndarray]) -> Network:
    E, W_Q, W_K, W_V, W_O, W_up, W_down, readout = weights
    core = redundancy.Sequences(Heads(1, pattern=redundancy.analytic_softmax), 4)
    block = Block(Attention(core, W_Q, W_K, W_V, W_O), MLP(np.tanh, W_up, W_down), True, True)
    return Network(E, [block], readout)


def weights_of(network: Network) -> list[np.ndarray]:
    (block,) = network.blocks
    a, mlp = block.attention, block.mlp
    return [network.embedding, a.W_Q, a.W_K, a.W_V, a.W_O, mlp.W_up, mlp.W_down, network.readout]


def data(w: Any) -> tuple[np.ndarray, np.ndarray]:
    """Tokens, four of them a sequence, and what the network should give; more numbers than it has weights."""
    return w.rng("tokens").normal(size=(44, 5)), w.rng("targets").normal(size=(44, 2))


def trained(w: Any, network: Network, rule: Rule | None = None, steps: int = STEPS, decay: float = 0.0) -> Network:
    """After so many steps of gradient descent on half the mean square error; ``rule``: what is made of the gradient."""
    tokens, targets = data(w)
    for _ in range(steps):
        weights = weights_of(network)
        derivative = redundancy.jacobian(lambda *given: network_of(given)(tokens), weights)
        slope = derivative.T @ (network(tokens) - targets).ravel() / len(tokens)
        slopes = redundancy.shaped(slope if rule is None else rule(slope), weights)
        network = network_of([W - RATE * (g + decay * W) for W, g in zip(weights, slopes, strict=True)])
    return network


def first_adam(slope: np.ndarray) -> np.ndarray:
    """The first step of Adam: both its averages, corrected, are the gradient and its square. (1412.6980)"""
    return slope / (np.abs(slope) + 1e-8)


def in_basis(w: Any, orthogonal: bool = True) -> tuple[Network, Network]:
    """A network, and the same function with its stream in another basis."""
    old, draw = small_network(w), w.rng("Theta").normal(size=(3, 3))
    return stacks.conjugate(old, np.linalg.qr(draw)[0] if orthogonal else draw), old


def with_turned_heads(w: Any) -> tuple[Network, Network]:
    old = small_network(w)
    G, J = (np.linalg.qr(w.rng(name).normal(size=(3, 3)))[0] for name in "GJ")
    (block,) = old.blocks
    return replace(old, blocks=[replace(block, attention=gauge.turn_heads(block.attention, G, J))]), old


def after_training(w: Any, pair: tuple[Network, Network], **options: Any) -> tuple[Any, Any]:
    tokens, _ = data(w)
    new, old = (trained(w, network, **options) for network in pair)
    return call(new, tokens, name="network"), call(old, tokens, name="network")


def squares(w: Any, network: Network) -> Any:
    return number(w, sum(float((W * W).sum()) for W in weights_of(network)))


def descent_commutes(w: Any) -> Pairs:
    """Orthogonal bases of the stream and of the head: the same path of functions, and the same squares of weights."""
    stream, heads = in_basis(w), with_turned_heads(w)
    (new, old), tokens = in_basis(w, orthogonal=False), data(w)[0]
    grown = abs(float((squares(w, new) / squares(w, old))[0, 0]) - 1)
    moved = np.abs(trained(w, old)(tokens) - old(tokens)).max()
    return [
        after_training(w, stream),
        after_training(w, heads),
        after_training(w, stream, decay=0.1),
        (squares(w, stream[0]), squares(w, old)),
        at_least(w, 0.01, grown),  # another basis has other squares
        at_least(w, 0.01, moved),  # and training does move the function
    ]


def untrained(orthogonal: bool) -> Statement:
    """Before training the two networks are one function."""

    def same(w: Any) -> Pairs:
        new, old = in_basis(w, orthogonal)
        return [(new(data(w)[0]), old(data(w)[0]))]

    return same


def trained_with(orthogonal: bool = True, **options: Any) -> Statement:
    return lambda w: [after_training(w, in_basis(w, orthogonal), steps=1, **options)]


TRAINING = Claim(
    id="function-class-is-not-training",
    rank="remark",
    chapter=CHAPTER,
    title="The same function, and another path of training",
    statement=(
        "Two networks that differ by a gauge compute the same function. Plain gradient descent, with weight decay or without, keeps them the same function if the "
        "change of basis is *orthogonal*, of the stream or inside the heads. After one step from two points that differ by any other basis, the functions differ; and with steps that look at single "
        "coordinates, the sign of the gradient or the first step of Adam, they differ even for an orthogonal basis, unless that only permutes coordinates and flips signs. Sums of squared weights change as well, and with them what weight "
        "decay asks for. So equal classes of functions say nothing about the losses that training reaches. (Initial distributions and rounding also depend on the basis; "
        "no lane looks at those.)"
    ),
    hypotheses=(
        Hypothesis("H1", "orthogonal basis", "the two networks differ by orthogonal changes of basis"),
        Hypothesis("H2", "plain gradient step", "every weight moves by a multiple of its own gradient, and of itself"),
    ),
    sources=(OURS,),
    uses=("head-gauge", "stream-gauge"),
    lanes=("numeric",),
    sides=descent_commutes,
    settings=lambda s: s.name == "multi-head attention",
    controls=(
        Control(
            "H1", "one step in any invertible basis", trained_with(False), lanes=("numeric",), witness=untrained(False)
        ),
        Control(
            "H1",
            "the sum of squared weights taken for a property of the function",
            lambda w: [(squares(w, in_basis(w, False)[0]), squares(w, in_basis(w, False)[1]))],
            lanes=("numeric",),
            witness=untrained(False),
        ),
        Control(
            "H2",
            "one step along the sign of the gradient",
            trained_with(rule=np.sign),
            lanes=("numeric",),
            witness=untrained(True),
        ),
        Control(
            "H2", "the first step of Adam", trained_with(rule=first_adam), lanes=("numeric",), witness=untrained(True)
        ),
    ),
)
