"""Norms after the addition, and norms on what a sublayer writes: there a gain cannot go into a read."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import cache
from itertools import permutations, product
from typing import Any

import numpy as np

from qkvtheory import gauge, norms
from qkvtheory.claims.model import Claim, Control, Hypothesis, Pairs
from qkvtheory.claims.where_it_stops.layernorm import solutions
from qkvtheory.claims.where_it_stops.norms import CHAPTER, NUMBERS, OURS, a_few, gain, rms, verdicts
from qkvtheory.linalg import identity

FREE = "rmsnorm-orthogonal-only"

# -- post-norm-gain ----------------------------------------------------------------------------------------------------


def sublayer(w: Any, theta: Any = None) -> Callable[[Any], Any]:
    """A sublayer f that reads and writes in the orthogonal basis theta."""
    W, V, phi = w.matrix("W_up", "d", "hidden"), w.matrix("W_down", "hidden", "d"), w.function("phi")
    (read,) = gauge.reads(None if theta is None else theta.mT, W)
    return lambda h: phi(h @ read) @ gauge.carried(V, theta)


def post_norm(w: Any, theta: Any = None, gains: Any = None) -> Callable[[Any], Any]:
    """h' = N(h + f(h)) * gain, with f in the basis theta."""
    f, N = sublayer(w, theta), rms(w, gain=gains)
    return lambda h: N(h + f(h))


def output_norm(w: Any, theta: Any = None, gains: Any = None) -> Callable[[Any], Any]:
    """h' = h + N(f(h)) * gain, the norm on what the sublayer writes, as in OLMo 2."""
    f, N = sublayer(w, theta), rms(w, gain=gains)
    return lambda h: h + N(f(h))


def before_the_norm(w: Any) -> Pairs:
    """The sum that the norm reads is rotated with the state; and without gain the norm lets the rotation through."""
    x, z, turn, N = w.matrix("X", "n", "d"), w.matrix("Z", "n", "d"), w.orthogonal("O", "d", FREE), rms(w)
    sums = [sublayer(w, basis)(state) for basis, state in ((turn, x @ turn), (None, x))]
    return [(x @ turn + sums[0], (x + sums[1]) @ turn), (N(z @ turn), N(z) @ turn)]


def without_gain(w: Any) -> Pairs:
    """One global rotation, for both places of the norm."""
    x, turn = w.matrix("X", "n", "d"), w.orthogonal("O", "d", FREE)
    return [(block(w, turn)(x @ turn), block(w)(x) @ turn) for block in (post_norm, output_norm)]


def signs(w: Any) -> Any:
    ones = w.identity("d")
    ones[::2] = -ones[::2]
    return ones


def cycle(w: Any) -> Any:
    """A permutation with no fixed coordinate, beside signs."""
    d = w.sizes["d"]
    return signs(w)[[*range(1, d), 0]]


def with_gain(w: Any) -> Pairs:
    """Numbers: signs pass a gain as it is, a permutation moves it; and which rotations commute with one at all."""
    x, gamma, pairs = w.matrix("X", "n", "d"), distinct_gain(w), []
    for block, basis in product((post_norm, output_norm), (signs(w), cycle(w))):
        moved = np.abs(gamma @ basis) if w.lane == "numeric" else gamma @ (basis * basis)
        pairs.append((block(w, basis, moved)(x @ basis), block(w, None, gamma)(x) @ basis))
    return [*pairs, *which_pass(w)]


def distinct_gain(w: Any) -> Any:
    """1, 2, 3, ...: a gain without equal entries."""
    return (np.arange(w.sizes["d"]) + 1)[None] * w.identity("1")[0, 0]


@cache
def commuting(question: str) -> tuple[bool, ...]:
    """Asked of orthogonal 3 x 3 matrices O, once: signs, permutations, and these times a rotation of one plane.

    N(z O) diag(gamma') = N(z) diag(gamma) O for all z says O diag(gamma') = diag(gamma) O.
    """
    one = identity(3, np.array([Fraction(1)], dtype=object))
    gamma, plane = one * [1, 2, 3], one + 0
    plane[:2, :2] = [[Fraction(3, 5), Fraction(4, 5)], [Fraction(-4, 5), Fraction(3, 5)]]
    signed = product(permutations(range(3)), product((1, -1), repeat=3))
    boxes = [one[list(order)] * np.array(flips)[:, None] for order, flips in signed]
    cases = [*boxes, *(box @ plane for box in boxes), *(plane @ box @ plane for box in boxes)]
    ask: dict[str, Callable[[Any], Any]] = {
        "keeps the gain": lambda turn: turn @ gamma == gamma @ turn,
        "makes another gain": lambda turn: turn.T @ gamma @ turn == (turn.T @ gamma @ turn) * one,
        "is a matrix of signs": lambda turn: turn * turn == one,
        "is a permutation with signs": lambda turn: (turn == 0) | (turn * turn == 1),
    }
    return tuple(bool(ask[question](turn).all()) for turn in cases)


def which_pass(w: Any) -> Pairs:
    """For three different gains."""
    questions = [("keeps the gain", "is a matrix of signs"), ("makes another gain", "is a permutation with signs")]
    return [(verdicts(w, commuting(left)), verdicts(w, commuting(right))) for left, right in questions]


def generic_gain(w: Any, block: Callable[..., Any] = post_norm) -> Pairs:
    x, turn, gamma = w.matrix("X", "n", "d"), w.orthogonal("O", "d", "H2"), gain(w)
    return [(block(w, turn, gamma)(x @ turn), block(w, None, gamma)(x) @ turn)]


def gain_folded_after_all(w: Any) -> Pairs:
    """As in a pre-norm network: the gain goes into the next read. But the skip carries the state on without it."""
    x, gamma, W = w.matrix("X", "n", "d"), gain(w), w.matrix("W", "d", "d")
    norm = rms(w, gain=gamma)
    state, free = norm(x), norms.gainless(norm)(x)
    weight, _ = norms.into(norm, W, None, "W")
    f = w.function("f")
    return [(free + f(free @ weight), state + f(state @ W))]


def gain_not_permuted(w: Any) -> Pairs:
    x, gamma, basis = w.matrix("X", "n", "d"), distinct_gain(w), cycle(w)
    return [(post_norm(w, basis, gamma)(x @ basis), post_norm(w, None, gamma)(x) @ basis)]


def directions_left(_: Any) -> Pairs:
    """Skew K with K diag(gamma) = diag(gamma) K: k (k - 1) / 2 for every k equal gains, none if all differ."""
    cases = {(1, 2, 3, 4): 0, (1, 1, 2, 3): 1, (1, 1, 1, 2): 3, (1, 1, 2, 2): 2, (1, 1, 1, 1): 6}
    return [(left, commutant(gains)) for gains, left in cases.items()]


def commutant(gains: tuple[int, ...]) -> int:
    return solutions(len(gains), lambda K: K * np.array(gains) - np.array(gains)[:, None] * K)


POST_NORM_GAIN = Claim(
    id="post-norm-gain",
    rank="remark",
    chapter=CHAPTER,
    title="After the addition a gain stops every rotation",
    statement=(
        "Post-norm: $h'=N(h+f(h))\\operatorname{diag}(\\gamma)$. With $\\gamma=\\mathbf1$ one rotation $\\Theta$ of all states is exact: "
        "reads $\\Theta^{\\top}W$, writes $W\\Theta$. With a gain it is exact just when $\\Theta$ commutes with "
        "$\\operatorname{diag}(\\gamma)$; if the gains may change to $\\gamma'$, when $\\Theta\\operatorname{diag}(\\gamma')="
        "\\operatorname{diag}(\\gamma)\\Theta$. For $d$ different gains these are sign flips, and permutations that permute $\\gamma$ too: "
        "no continuous freedom is left. A norm on what a sublayer writes, $h'=h+N(f(h))\\operatorname{diag}(\\gamma)$, behaves the same."
    ),
    hypotheses=(
        Hypothesis(
            "H1", "the norm after the addition", "what leaves the norm is the next state, which a skip carries on"
        ),
        Hypothesis("H2", "no gain, or one that commutes", "$\\gamma=\\mathbf1$, or $\\Theta$ as in the statement"),
    ),
    sources=(OURS,),
    uses=("rmsnorm-orthogonal-only",),
    lanes=("symbolic", "exact", "numeric", "count"),
    sides=before_the_norm,
    also=lambda w: [*without_gain(w), *(with_gain(w) if w.lane in NUMBERS else ())],
    special={"count": directions_left},
    settings=a_few,
    deep=True,
    constructions=("reads", "carried"),
    controls=(
        Control("H1", "the gain folded into the next read, as in a pre-norm network", gain_folded_after_all),
        Control("H2", "any gain and any rotation", generic_gain),
        Control("H2", "the norm on the output of the sublayer, any gain", lambda w: generic_gain(w, output_norm)),
        Control("H2", "a permutation that leaves the gains in place", gain_not_permuted, lanes=NUMBERS),
        Control(
            "construction",
            "one direction left with four different gains",
            lambda _: [(1, commutant((1, 2, 3, 4)))],
            lanes=("count",),
        ),
    ),
)
