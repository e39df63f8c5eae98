"""Does it apply? Every elimination of the book tried on one network: what works, and which hypothesis stops the others.

    from qkvtheory.verdicts import verdict
    for outcome in verdict(network, tokens, "Q"):
        print(outcome)

Nothing is looked up: each construction is run on the weights, and what it returns is compared with the network it was
given. So the answer is about these weights, at this precision. Claim feature-map.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qkvtheory import gauge, norms, rotations, stacks
from qkvtheory.attention import Heads
from qkvtheory.checks import of_network
from qkvtheory.errors import HypothesisError
from qkvtheory.linalg import right_inverse
from qkvtheory.network import Block, Network

FORMS = {  # the best first
    "I": "the identity",
    "S": "a selection of coordinates",
    "R": "triangular, by a rotation",
    "W": "the identity, in a wider stream",
    "no": "stays as it is",
}
AGREES = 1e-8  # of functions, relative to the largest output: rounding stays below in float64, up to conditions of 1e5
Layers = list[int]


@dataclass(frozen=True)
class Outcome:
    """One construction tried. ``form``: a key of FORMS, "no" if it was refused or changed the function.

    ``layers``: in how many layers the projection got that form. ``refused``: the hypothesis that fails, by the name the
    construction gives it, with its ``reason``. ``error``: the largest difference of the functions, relative to the
    largest output.
    """

    claim: str
    form: str
    layers: int = 0
    refused: str = ""
    reason: str = ""
    error: float = 0.0

    def __str__(self) -> str:
        if self.form != "no":
            many = f"{self.layers} layer" + "s" * (self.layers != 1)
            return f"{self.claim}: {FORMS[self.form]}, in {many}, off by {self.error:.0e}"
        if self.refused:
            return f"{self.claim}: no, hypothesis {self.refused!r} fails"
        return f"{self.claim}: no, another function by {self.error:.0e}"


@dataclass(frozen=True)
class Attempt:
    """A construction of the book: its claim, the form it gives, the layers it is asked for, and when to try it."""

    claim: str
    form: str
    run: Callable[[Network, str, Layers], Network]
    layers: Callable[[Network], Layers]
    fits: Callable[[Network, str], bool]


def verdict(network: Network, tokens: Any, which: str = "Q") -> list[Outcome]:
    """Every construction for this projection that speaks of networks of this shape, the best outcome first.

    ``tokens``: n x vocabulary, the rows on which the two networks are compared; ``which``: "Q", "K" or "V". The order
    of forms is that of FORMS, and more layers come before fewer. Use float64: AGREES is meant for it.
    Raises ValueError for another letter, TypeError for what is no network.

    >>> from qkvtheory import MLP, Attention, Block, Heads
    >>> rng = np.random.default_rng(0)
    >>> block = Block(Attention(Heads(2), *rng.normal(size=(4, 4, 4))), MLP(np.tanh, *rng.normal(size=(2, 4, 4))))
    >>> print(verdict(Network(np.eye(4), [block], np.eye(4)), np.eye(4))[0].claim)
    attn-skip-elimination
    """
    of_network(network)
    if which not in ("Q", "K", "V"):
        raise ValueError(f"which must be 'Q', 'K' or 'V', not {which!r}")
    expected = network(tokens)
    outcomes = [
        tried(attempt, network, tokens, expected, which) for attempt in ATTEMPTS if attempt.fits(network, which)
    ]
    return sorted(outcomes, key=lambda outcome: (list(FORMS).index(outcome.form), -outcome.layers))


def tried(attempt: Attempt, network: Network, tokens: Any, expected: Any, which: str) -> Outcome:
    layers = attempt.layers(network)
    try:
        new = attempt.run(network, which, layers)
    except HypothesisError as refusal:
        return Outcome(attempt.claim, "no", refused=refusal.hypothesis, reason=str(refusal))
    error = float(abs(new(tokens) - expected).max()) / (float(abs(expected).max()) or 1.0)
    formed = all(has_form(weight(new, layer, f"W_{which}"), attempt.form) for layer in layers)
    if not error <= AGREES or not formed:  # also where the error is no number
        return Outcome(attempt.claim, "no", error=error)
    return Outcome(attempt.claim, attempt.form, len(layers), error=error)


def has_form(W: Any, form: str) -> bool:
    """Is this what FORMS says? A selection of coordinates has one 1 in every column, in different rows."""
    if form == "R":
        return bool((abs(W - np.triu(W)) <= AGREES * abs(W).max()).all())
    if form == "S":
        return bool(((W == 0) | (W == 1)).all() and (W.sum(axis=0) == 1).all() and (W.sum(axis=1) <= 1).all())
    return W.shape[0] == W.shape[1] and bool((np.eye(len(W)) == W).all())


# -- the constructions that ``stacks`` and ``rotations`` do not hold by themselves -------------------------------------


def eliminated(network: Network, which: str, layers: Layers) -> Network:
    return stacks.eliminate(network, which, layers)


def merged(network: Network, which: str, layers: Layers) -> Network:
    """One head: queries and values become the hidden state itself."""
    blocks = [replace(block, attention=gauge.merge_single_head(block.attention)) for block in network.blocks]
    return replace(network, blocks=blocks)


def selected(network: Network, which: str, layers: Layers) -> Network:
    """The columns of one layer's projection become unit vectors, in the basis they span with others."""
    basis, _ = gauge.select_columns(network.blocks[layers[0]].attention, which)
    new = stacks.conjugate(network, basis)
    return with_weight(new, layers[0], which, np.round(weight(new, layers[0], f"W_{which}")))  # unit vectors, exactly


def widened(network: Network, which: str, layers: Layers) -> Network:
    """The stream in the wider basis W_Q of one layer: writes times W_Q, reads after its right inverse."""
    theta = weight(network, layers[0], f"W_{which}")
    if normed(network):
        raise HypothesisError("no norm", "a norm sees other lengths in the wider stream")
    back = right_inverse(theta, f"W_{which}")
    blocks = [in_wider(block, theta, back) for block in network.blocks]
    E, P, D = network.embedding, network.positions, network.readout
    (readout,) = gauge.reads(back, E.mT if D is None else D)
    new = replace(
        network,
        embedding=gauge.carried(E, theta),
        blocks=blocks,
        readout=readout,
        positions=gauge.carried(P, theta),
    )
    return with_weight(new, layers[0], which, np.eye(theta.shape[1]))


def in_wider(block: Block, theta: Any, back: Any) -> Block:
    attention = gauge.moved(block.attention, back, back, theta)
    return replace(block, attention=attention, mlp=gauge.moved_mlp(block.mlp, back, theta))


def turned(network: Network, which: str, layers: Layers) -> Network:
    """Upper triangular by rotations of the stream, after means and gains are out of the way."""
    network = prepared(network)
    if which == "Q":
        return rotations.to_triangular(network, layers)
    bases: list[Any] = [None] * (2 * len(network.blocks) + 1)
    for states in stacks.segments(network):
        here = [layer for layer in layers if 2 * layer in states]
        for layer in here[1:]:
            if not gauge.same(*(weight(network, k, f"W_{which}") for k in (here[0], layer))):
                raise HypothesisError("one choice per segment", f"layers {here[0]} and {layer} share one rotation")
        if here:
            basis, _ = np.linalg.qr(weight(network, here[0], f"W_{which}"), mode="complete")
            bases = [basis if state in states else old for state, old in enumerate(bases)]
    return rotations.rotate(network, bases)


def prepared(network: Network) -> Network:
    """LayerNorms become RMSNorms, gains go into the weights that read the norm."""
    centered = any(isinstance(norm, norms.LayerNorm) for norm in norms_of(network))
    return norms.fold_gains(norms.center(norms.fold_gains(network)) if centered else network)


# -- what a network is like --------------------------------------------------------------------------------------------


def weight(network: Network, layer: int, name: str) -> Any:
    return getattr(network.blocks[layer].attention, name)


def with_weight(network: Network, layer: int, which: str, value: Any) -> Network:
    made: dict[str, Any] = {f"W_{which}": value}
    blocks = list(network.blocks)
    blocks[layer] = replace(blocks[layer], attention=replace(blocks[layer].attention, **made))
    return replace(network, blocks=blocks)


def norms_of(network: Network) -> list[Any]:
    """All norms that there are, each once for every place it stands in."""
    found = [norm for block in network.blocks for norm in (block.attention_norm, block.mlp_norm)]
    return [norm for norm in (*found, network.norm) if norm is not None]


def normed(network: Network) -> bool:
    return bool(norms_of(network))


def skips(*both: bool) -> Callable[[Network, str], bool]:
    """Is this the pattern of skips, around attention and around the MLP, of every block?"""
    return lambda network, which: all(
        (block.attention_skip, block.mlp_skip) == both and not block.parallel for block in network.blocks
    )


def parallel(network: Network, which: str = "Q") -> bool:
    return all(block.parallel for block in network.blocks)


def shares(network: Network, which: str) -> bool:
    """Several layers, and one array for this projection in all of them."""
    arrays = {id(weight(network, layer, f"W_{which}")) for layer in every(network)}
    return len(network.blocks) > 1 and len(arrays) == 1


def one_head(network: Network, which: str) -> bool:
    cores = [block.attention.core for block in network.blocks]
    return which in "QV" and all(isinstance(core, Heads) and core.heads == 1 for core in cores)


def shape(network: Network, which: str) -> tuple[int, int]:
    rows, cols = weight(network, -1, f"W_{which}").shape
    return rows, cols


def square(network: Network, which: str) -> bool:
    rows, cols = shape(network, which)
    return rows == cols


def every(network: Network) -> Layers:
    return list(range(len(network.blocks)))


def but_first(network: Network) -> Layers:
    return every(network)[1:]


def last(network: Network) -> Layers:
    return every(network)[-1:]


def only_if(*conditions: Callable[[Network, str], bool]) -> Callable[[Network, str], bool]:
    return lambda network, which: all(condition(network, which) for condition in conditions)


ATTEMPTS = (
    Attempt("skipless-elimination", "I", eliminated, every, skips(False, False)),
    Attempt("attn-skip-elimination", "I", eliminated, every, skips(True, False)),
    Attempt("mlp-skip-only-elimination", "I", eliminated, every, skips(False, True)),
    Attempt("shared-wq-elimination", "I", eliminated, every, shares),
    Attempt("attn-skip-tied", "I", eliminated, but_first, only_if(skips(True, False), lambda n, _: n.readout is None)),
    Attempt("one-layer-free", "I", eliminated, last, skips(True, True)),
    Attempt("parallel-global", "I", eliminated, last, parallel),
    Attempt("single-head-merge", "I", merged, every, one_head),
    Attempt("column-selection", "S", selected, last, lambda n, which: shape(n, which)[0] > shape(n, which)[1]),
    Attempt("wide-query", "W", widened, last, lambda n, which: shape(n, which)[0] < shape(n, which)[1]),
    Attempt("rms-triangular", "R", turned, every, lambda n, which: True),
    Attempt("rms-triangular", "R", turned, last, lambda n, which: True),
)
