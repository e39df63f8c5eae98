"""Kolmogorov's cycles: how to see from a map alone whether it is reversible."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

from qkvtheory import gauge, symmetric
from qkvtheory.claims.model import Claim, Control, Hypothesis, Pairs
from qkvtheory.claims.queries_equal_keys.common import (
    CHAPTER,
    CLASSICAL,
    OURS,
    flag,
    full_map,
    map_of,
    number,
    queries_and_keys,
    random_map,
)
from qkvtheory.lanes.settings import Setting, plain_scores


def one_map(s: Setting) -> bool:
    """Statements about a single map: no heads, no biases; only the number of tokens matters."""
    return plain_scores(s) and full_map(s)


def round_trips(a: Any) -> tuple[Any, Any]:
    """(A_ij A_jk A_ki, A_ik A_kj A_ji) for all tokens, each n x n x n."""
    forth = a[:, :, None] * a[None] * a.T[:, None, :]
    return forth, a[:, None, :] * a.T[None] * a.T[:, :, None]


def score_cycles(s: Any) -> tuple[Any, Any]:
    """(S_ij + S_jk + S_ki, S_ik + S_kj + S_ji) for all tokens."""
    forth = s[:, :, None] + s[None] + s.T[:, None, :]
    return forth, s[:, None, :] + s.T[None] + s.T[:, :, None]


def reversible_scores(w: Any) -> Any:
    """Symmetric scores, a bias on the keys, constants along rows: what the scores of a reversible map look like."""
    one = w.ones("n")
    return w.symmetric("S", "n") + w.integers("r", "n", "1") @ one.mT + one @ w.integers("c", "n", "1").mT


# -- kolmogorov-necessary ----------------------------------------------------------------------------------------------


def turned_around(w: Any) -> Pairs:
    """Reversible, D A = F with F symmetric: then A^T = D A D^-1, and the same with every power of A."""
    D, A = in_balance(w)
    back = gauge.inverse(D)
    return [(A.mT, D @ A @ back), ((A @ A @ A).mT, D @ A @ A @ A @ back)]


def in_balance(w: Any) -> tuple[Any, Any]:
    """(D, A) with D = diag(pi) for any positive law pi, and D A symmetric because of H1."""
    D = w.diagonal(w.kernel(w.integers("p", "n", "1")))
    return D, gauge.inverse(D) @ w.symmetric("F", "n", "H1")


def both_ways_alike(w: Any) -> Pairs:
    S = reversible_scores(w)
    return [*turned_around(w), round_trips(map_of(S)), score_cycles(S)]


def separate_cycles(w: Any) -> Pairs:
    q, k = queries_and_keys(w)
    return [round_trips(map_of(q @ k.mT))]


def separate_flow(w: Any) -> Pairs:
    D = w.diagonal(w.kernel(w.integers("p", "n", "1")))
    A = gauge.inverse(D) @ w.integers("F", "n", "n")
    return [(A.mT, D @ A @ gauge.inverse(D))]


NECESSARY = Claim(
    id="kolmogorov-necessary",
    rank="remark",
    chapter=CHAPTER,
    title="In a reversible map every cycle runs both ways alike",
    statement=(
        "If some positive law $\\pi$ balances $A$, then $A^{\\top}=DAD^{-1}$ with $D=\\operatorname{diag}(\\pi)$, and "
        "$A_{ij}A_{jk}A_{ki}=A_{ik}A_{kj}A_{ji}$ for all triples: the law cancels around a cycle. For a softmax map the criterion reads "
        "$S_{ij}+S_{jk}+S_{ki}=S_{ik}+S_{kj}+S_{ji}$."
    ),
    hypotheses=(
        Hypothesis("H1", "reversible", "some positive law $\\pi$ balances the map: $\\pi_iA_{ij}=\\pi_jA_{ji}$"),
    ),
    sources=(CLASSICAL,),
    uses=("detailed-balance",),
    sides=turned_around,
    special={"exact": both_ways_alike, "numeric": both_ways_alike},
    settings=one_map,
    controls=(
        Control("H1", "a flow $\\pi_iA_{ij}$ that is not symmetric", separate_flow),
        Control("H1", "separate projections $W_Q\\ne W_K$", separate_cycles, lanes=("exact", "numeric")),
    ),
)


# -- kolmogorov-converse -----------------------------------------------------------------------------------------------


def balanced_by_one_row(w: Any) -> Pairs:
    """Maps that pass the test are balanced by A_0i / A_i0; and for any positive map the gap is that of the cycles at 0."""
    A, B = map_of(reversible_scores(w)), random_map(w)
    law, ratio = symmetric.reversing_law(A)[:, None], (B[0] / B[:, 0])[:, None]
    to, back = B[:1].T, B[:, :1]  # A_0i and A_i0
    cycles = to * B * back.T - (to * B * back.T).T
    return [
        ((law * A).T, law * A),
        (ratio * B - (ratio * B).T, cycles / (back * back.T)),
        (flag(w, symmetric.is_reversible(A)), w.identity("1")),
        (flag(w, not symmetric.is_reversible(B)), w.identity("1")),
    ]


def ring_of_four(w: Any, along: Fraction = Fraction(2, 3)) -> Any:
    """Four tokens on a ring: two thirds of the attention to the next, one third to the one before, none elsewhere."""
    forth = np.roll(np.eye(4, dtype=int), 1, axis=1)
    ring = (forth * along + forth.T * (1 - along)).astype(object)
    return ring if w.lane == "exact" else ring.astype(float)


def ring_passes(w: Any) -> Pairs:
    return [round_trips(ring_of_four(w))]


def ring_in_balance(w: Any) -> Pairs:
    """The only stationary law of the ring is uniform."""
    flow = ring_of_four(w) / 4
    return [(flow.T, flow)]


def ring_refused(w: Any) -> Pairs:
    return [(flag(w, symmetric.is_reversible(ring_of_four(w))), w.identity("1"))]


def law_upside_down(w: Any) -> Pairs:
    A = map_of(reversible_scores(w))
    law = (A[:, 0] / A[0])[:, None]
    return [((law * A).T, law * A)]


CONVERSE = Claim(
    id="kolmogorov-converse",
    rank="remark",
    chapter=CHAPTER,
    title="For positive maps cycles of three tokens decide",
    statement=(
        "If all entries of $A$ are positive and $A_{ij}A_{jk}A_{ki}=A_{ik}A_{kj}A_{ji}$ for all triples, then $A$ is reversible, and "
        "$\\pi_i\\propto A_{0i}/A_{i0}$ balances it. For any positive map that law leaves the gap "
        "$\\pi_iA_{ij}-\\pi_jA_{ji}=(A_{0i}A_{ij}A_{j0}-A_{0j}A_{ji}A_{i0})/(A_{i0}A_{j0})$."
    ),
    hypotheses=(Hypothesis("H1", "positive map", "all $A_{ij}>0$"),),
    sources=(CLASSICAL,),
    kind="condition",
    lanes=("exact", "numeric"),
    sides=balanced_by_one_row,
    settings=one_map,
    controls=(
        Control(
            "H1",
            "four tokens on a ring: no cycle of three, and not reversible",
            ring_in_balance,
            lanes=("exact", "numeric"),
            witness=ring_passes,
        ),
        Control(
            "H1", "asking whether the ring is reversible", ring_refused, lanes=("exact", "numeric"), refused="positive"
        ),
        Control("construction", "the law $A_{i0}/A_{0i}$", law_upside_down, lanes=("exact", "numeric")),
    ),
)


# -- general-not-reversible --------------------------------------------------------------------------------------------


def around_the_shift(w: Any, kernel: Any = None) -> Pairs:
    """X = W_Q = I, W_K the cyclic shift of three tokens: the scores are 1 from each token to the next, and 0."""
    x = w.identity("1") * np.eye(3, dtype=int)
    q, k = x, x @ np.roll(x, -1, axis=1)
    pairs = []
    for phi in [kernel] if kernel else [w.exp, lambda s: s + 2, lambda s: 5 - 3 * s]:
        weights = phi(q @ k.mT)
        A, zero, one = weights / weights.sum(axis=1, keepdims=True), weights[0, 0], weights[0, 1]
        ratio = abs(one**3 - zero**3) / (one + 2 * zero) ** 3
        pairs += [
            (number(w, symmetric.cycle_defect(A)), number(w, ratio)),
            (flag(w, not symmetric.is_reversible(A)), w.identity("1")),
        ]
    return pairs


GENERAL = Claim(
    id="general-not-reversible",
    rank="remark",
    chapter=CHAPTER,
    title="Separate queries and keys need not be reversible",
    statement=(
        "Three tokens, $X=W_Q=I_3$, $W_K$ the cyclic shift, any positive kernel with $\\varphi(0)\\ne\\varphi(1)$: the two directions of the "
        "cycle differ by $\\big(\\varphi(1)^3-\\varphi(0)^3\\big)/\\big(\\varphi(1)+2\\varphi(0)\\big)^3\\ne0$, so the map is not reversible."
    ),
    hypotheses=(Hypothesis("H1", "a kernel that tells 0 from 1", "$\\varphi>0$ and $\\varphi(0)\\ne\\varphi(1)$"),),
    sources=(OURS,),
    uses=("kolmogorov-necessary",),
    kind="counterexample",
    lanes=("exact", "numeric"),
    sides=around_the_shift,
    settings=one_map,
    constructions=("cycle_defect",),
    controls=(
        Control(
            "H1", "a constant kernel", lambda w: around_the_shift(w, lambda s: s * 0 + 1), lanes=("exact", "numeric")
        ),
    ),
)
