"""A readout tied to the embedding: only rotations keep the tie."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from qkvtheory import gauge, redundancy, stacks
from qkvtheory.attention import Heads
from qkvtheory.claims.every_skip.bases import NOTE
from qkvtheory.claims.every_skip.conjugation import OURS, asked, same_function, tied_end, unbiased
from qkvtheory.claims.model import Claim, Control, Hypothesis, Pairs, call
from qkvtheory.claims.where_it_stops.skips import CHAPTER
from qkvtheory.network import MLP, Attention, Block, Network

T2 = (True, True)


def ends(E: Any, theta: Any) -> tuple[Any, Any]:
    """Embedding and readout in the basis theta, of a readout that was E^T."""
    (readout,) = gauge.reads(gauge.inverse(theta), E.mT)
    return gauge.carried(E, theta), readout


def missed(w: Any) -> Pairs:
    """By how much the new readout misses the transposed new embedding. E^T has a right inverse R, so all of it is seen:
    it is zero only with Theta Theta^T - I.
    """
    transposed, theta = w.full_row_rank("F", "d", "wide", "H2"), w.invertible("Theta", "d", "one-layer-free")
    R, one = gauge.right_inverse(transposed), w.identity("d")
    embedding, readout = ends(transposed.mT, theta)
    return [(theta @ (embedding.mT - readout) @ R, theta @ theta.mT - one)]


def kept(w: Any) -> Pairs:
    """A rotation keeps the tie, and so the logits; and in the basis O the query W_Q = O S is its other factor S."""
    x, E = w.matrix("X", "n", "d"), w.matrix("E", "vocab", "d")
    turn, rest = w.orthogonal("O", "d", "H3"), w.matrix("S", "d", "d")
    embedding, readout = ends(E, turn)
    (W_Q,) = gauge.reads(gauge.inverse(turn), turn @ rest)
    return [(embedding.mT, readout), ((x @ turn) @ embedding.mT, x @ E.mT), (W_Q, rest)]


def blocks(w: Any) -> Pairs:
    """A whole block, and in numbers whole networks."""
    turn, rest, x = w.orthogonal("O", "d", "H3"), w.matrix("S", "d", "d"), w.matrix("X", "n", "d")
    block = w.block(topology=T2, W_Q=turn @ rest, biases=True)
    new = gauge.rebase(block, turn, turn)
    return [(call(new, x @ turn, name="block"), block(x) @ turn), (new.attention.W_Q, rest), *tied_networks(w)]


def tied_networks(w: Any) -> Pairs:
    """In numbers whole networks, which stay tied; in words nobody would know that a letter is orthogonal."""
    if w.lane == "symbolic":
        return []
    turn, old = w.orthogonal("O", "d", "H3"), w.network(2, T2, tied=True)
    new = stacks.conjugate(old, turn)
    if new.readout is not None:
        raise ValueError("the readout is no longer tied")
    return [same_function(new, old, w), *(factored(w, old) if w.lane == "numeric" else ())]


def factored(w: Any, old: Network) -> Pairs:
    """The factors of a given W_Q, triangular by QR and symmetric by the polar form; its singular values stay."""
    W_Q, pairs = old.blocks[1].attention.W_Q, []
    left, values, right = np.linalg.svd(W_Q)
    for turn, part in ((np.linalg.qr(W_Q)[0], np.triu), (left @ right, lambda a: (a + a.T) / 2)):
        new = stacks.conjugate(old, turn)
        found = new.blocks[1].attention.W_Q
        pairs += [same_function(new, old, w), (found, part(found)), (np.linalg.svd(found)[1], values)]
    return pairs


def other_readout(w: Any) -> Pairs:
    """With a readout of its own any invertible basis keeps the function."""
    old = w.network(1, T2)
    return [same_function(stacks.conjugate(old, w.invertible("Theta", "d")), old, w)]


def not_orthogonal(w: Any) -> Pairs:
    theta = w.invertible("Theta", "d")
    return [(theta @ theta.mT, w.identity("d"))]


def outside(w: Any) -> tuple[Any, Any]:
    """(E, Theta): an embedding of lower rank, E N = 0, and a basis I + N N^T that differs from I only where E is blind."""
    N = w.matrix("N", "d", "s")
    return w.annihilator("E", "vocab", N), w.identity("d") + N @ N.mT


def unseen(w: Any) -> Pairs:
    """E Theta Theta^T = E: the tie holds in the basis Theta."""
    E, theta = outside(w)
    return [(gauge.carried(E, theta) @ theta.mT, E)]


def unseen_although(w: Any) -> Pairs:
    _, theta = outside(w)
    return [(theta @ theta.mT, w.identity("d"))]


def identity_asked(w: Any) -> Pairs:
    """W_Q = I by a rotation: its singular values would have to be 1."""
    turn, rest = w.orthogonal("O", "d"), w.matrix("S", "d", "d")
    old = w.network(1, T2, tied=True, W_Q=turn @ rest)
    return [(stacks.conjugate(old, turn).blocks[0].attention.W_Q, w.identity("d"))]


# -- the rank ----------------------------------------------------------------------------------------------------------

D, VOCAB, HIDDEN, ROWS = 2, 4, 3, 40


@cache
def lost(tied: bool) -> int:
    """Parameters of one block with every skip and one head, less those that count: measured."""
    rng = np.random.default_rng(0)
    shapes = [(VOCAB, D), *[(D, D)] * 4, (D, HIDDEN), (HIDDEN, D), *([] if tied else [(D, VOCAB)])]
    weights = [2 * rng.normal(size=shape) / np.sqrt(shape[0]) for shape in shapes]
    tokens, sequence = rng.normal(size=(ROWS, VOCAB)), np.arange(ROWS) // 4  # four rows at a time are a sequence
    core = Heads(1, mask=sequence[:, None] == sequence[None, :], pattern=redundancy.analytic_softmax)

    def run(E: Any, *parameters: Any) -> Any:
        attention, mlp = Attention(core, *parameters[:4]), MLP(np.tanh, *parameters[4:6])
        return Network(E, [Block(attention, mlp, *T2)], None if tied else parameters[6])(tokens)

    return sum(weight.size for weight in weights) - redundancy.functional_dimension(run, weights).rank


def rotations_left(_: Any) -> Pairs:
    """Inside the head 2 d^2 are lost in any case; of the d^2 of the stream a tie leaves the rotations."""
    return [(2 * D * D + D * D, lost(False)), (2 * D * D + D * (D - 1) // 2, lost(True))]


TIED_READOUT = Claim(
    id="tied-readout-orthogonal",
    rank="remark",
    chapter=CHAPTER,
    title="A tied readout leaves rotations",
    statement=(
        "Let the readout be the transposed embedding, $D=E^{\\top}$, and let $E$ have full column rank. In the basis $\\Theta$ the embedding is "
        "$E\\Theta$ and the readout $\\Theta^{-1}E^{\\top}$. They are still each other's transpose **if and only if** "
        "$\\Theta\\Theta^{\\top}=I$. So a tie leaves the rotations of the stream, $\\frac{d(d-1)}2$ dimensions of its $d^2$, even without a "
        "norm: one $W_Q$ becomes triangular (QR) or symmetric and positive semidefinite (polar form), and $I$, by the stream alone, only if it was orthogonal. (In the first formula $F=E^{\\top}$, with $FF^R=I$.)"
    ),
    hypotheses=(
        Hypothesis("H1", "tied readout", "the readout is the transposed embedding, $D=E^{\\top}$"),
        Hypothesis(
            "H2", "full column rank", "the columns of $E$ are linearly independent (for the condition to be necessary)"
        ),
        Hypothesis("H3", "a rotation", "$\\Theta\\Theta^{\\top}=I$ (for the condition to be sufficient)"),
    ),
    sources=(OURS, NOTE),
    uses=("one-layer-free",),
    kind="condition",
    lanes=("symbolic", "exact", "numeric", "rank"),
    sides=lambda w: [*missed(w), *kept(w)],
    also=blocks,
    special={"rank": rotations_left},
    settings=unbiased,
    deep=True,
    constructions=("reads", "carried", "read_out"),
    controls=(
        Control("H1", "an untied readout: any basis keeps the function", not_orthogonal, witness=other_readout),
        Control(
            "H1",
            "an untied readout: $d(d-1)/2$ predicted all the same",
            lambda _: [(2 * D * D + D * (D - 1) // 2, lost(False))],
            lanes=("rank",),
        ),
        Control("H2", "an $E$ of lower rank: another basis keeps the tie", unseen_although, witness=unseen),
        Control("H3", "$\\Theta=W_Q$, with the embedding and its transpose for the readout", tied_end),
        Control("H3", "asking for $W_Q=I$ with a tied readout", asked(tied=True), refused="untied readout"),
        Control("construction", "$W_Q=I$ by a rotation", identity_asked),
    ),
)
