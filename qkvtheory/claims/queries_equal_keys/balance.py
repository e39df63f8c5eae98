"""Detailed balance: attention with queries equal to keys is a reversible Markov chain."""

from __future__ import annotations

from typing import Any

import numpy as np

from qkvtheory import symmetric
from qkvtheory.claims.model import Claim, Control, Hypothesis, Pairs, Source
from qkvtheory.claims.queries_equal_keys.common import (
    CHAPTER,
    OURS,
    flag,
    full_map,
    keys,
    map_of,
    normalized,
    number,
    queries_and_keys,
    real_maps,
    shared_core,
)
from qkvtheory.lanes.settings import plain_scores

SYMMETRIC_WEIGHTS = Hypothesis(
    "H1", "symmetric positive weights", "$E=E^{\\top}$ and $E_{ij}>0$, as when queries are keys and nothing is masked"
)


# -- detailed-balance --------------------------------------------------------------------------------------------------


def balanced(w: Any) -> Pairs:
    D, A = normalized(w, w.kernel(w.symmetric("S", "n", "H1")))
    one = w.ones("n")
    return [((D @ A).mT, D @ A), (one.mT @ D @ A, one.mT @ D)]


def balanced_heads(w: Any) -> Pairs:
    """The setting's own heads with queries equal to keys: the law of the row sums balances them and does not move."""
    core, k = shared_core(w)
    pairs = [*balanced(w)]
    for A, scores in zip(core.maps(k, k), core.scores(k, k), strict=True):
        law = symmetric.law_of_row_sums(w.kernel(scores))[:, None]
        pairs += [((law * A).T, law * A), (law.T @ A, law.T)]
    return pairs


def unbalanced(w: Any) -> Pairs:
    q, k = queries_and_keys(w)
    D, A = normalized(w, w.kernel(q @ k.mT))
    return [((D @ A).mT, D @ A)]


def other_law(w: Any) -> Pairs:
    """Balance with the uniform law, which only a symmetric map has."""
    _, A = normalized(w, w.kernel(w.symmetric("S", "n", "H1")))
    return [(A.mT, A)]


DETAILED_BALANCE = Claim(
    id="detailed-balance",
    rank="theorem",
    chapter=CHAPTER,
    title="Queries equal to keys: a reversible Markov chain",
    statement=(
        "Let the weights $E$ be symmetric and positive, $Z_i=\\sum_jE_{ij}$ their row sums, $A=D^{-1}E$ with "
        "$D=\\operatorname{diag}(Z)$. With the law $\\pi_i=Z_i$ the map is in detailed balance, $\\pi_iA_{ij}=\\pi_jA_{ji}$, and the law is "
        "stationary, $\\pi A=\\pi$. So one head with queries equal to keys sends, in the long run, as much attention from $i$ to $j$ as "
        "back."
    ),
    hypotheses=(SYMMETRIC_WEIGHTS,),
    sources=(OURS,),
    uses=("qk-symmetric-scores", "row-stochastic"),
    sides=balanced,
    special={"exact": balanced_heads, "numeric": balanced_heads},
    settings=full_map,
    controls=(
        Control("H1", "separate projections $W_Q\\ne W_K$", unbalanced),
        Control("construction", "the uniform law in the place of the row sums", other_law),
    ),
)


# -- balance-iff-symmetric ---------------------------------------------------------------------------------------------


def balance_gap(w: Any) -> Pairs:
    """D A - (D A)^T = E - E^T for any weights: with the law of the row sums the one vanishes with the other."""
    E = w.kernel(w.integers("S", "n", "n"))
    D, A = normalized(w, E)
    return [(D @ A - (D @ A).mT, E - E.mT)]


def another_law(w: Any) -> Pairs:
    """The gap that any other law leaves is not E - E^T."""
    E = w.kernel(w.integers("S", "n", "n"))
    D, A = w.diagonal(w.kernel(w.integers("p", "n", "1")), "row-stochastic"), normalized(w, E)[1]
    return [(D @ A - (D @ A).mT, E - E.mT)]


def biased_keys(w: Any) -> tuple[Any, Any, Any]:
    """Symmetric scores and a bias on the keys: (E, D' = diag(Z_i e^c_i), A)."""
    S, c, one = w.symmetric("S", "n"), w.integers("c", "n", "1"), w.ones("n")
    E = w.exp(S + one @ c.mT)
    D, A = normalized(w, E)
    return E, D @ w.diagonal(w.exp(c)), A


def balanced_by_another_law(w: Any) -> Pairs:
    _, D, A = biased_keys(w)
    return [((D @ A).mT, D @ A)]


def still_not_symmetric(w: Any) -> Pairs:
    E, D, A = biased_keys(w)
    return [(D @ A - (D @ A).mT, E - E.mT)]


BALANCE_IFF = Claim(
    id="balance-iff-symmetric",
    rank="remark",
    chapter=CHAPTER,
    title="The row sums balance symmetric weights and no others",
    statement=(
        "With $\\pi_i=Z_i$: $\\pi_iA_{ij}-\\pi_jA_{ji}=E_{ij}-E_{ji}$ for all weights. So detailed balance *with the row sums* holds if and "
        "only if $E$ is symmetric."
    ),
    hypotheses=(Hypothesis("H1", "the law of the row sums", "$\\pi_i=Z_i$"),),
    sources=(OURS,),
    kind="condition",
    sides=balance_gap,
    settings=lambda s: plain_scores(s) and full_map(s),
    uses=("row-stochastic",),
    controls=(
        Control("H1", "any other law", another_law),
        Control(
            "H1",
            "another law that balances: a bias on the keys is balanced by $\\pi_i=Z_ie^{c_i}$, though $E$ is not symmetric",
            still_not_symmetric,
            lanes=("exact", "numeric"),
            witness=balanced_by_another_law,
        ),
    ),
)


# -- two-tokens-reversible ---------------------------------------------------------------------------------------------


def two_by_two(w: Any) -> Pairs:
    A = map_of(w.integers("S", "n", "n")[:2, :2])
    law = np.array([[A[1, 0], A[0, 1]]])
    law = law / law.sum()
    return [
        ((law.T * A).T, law.T * A),
        (law @ A, law),
        (symmetric.reversing_law(A)[None], law),
        (symmetric.stationary_law(A)[None], law),
        (flag(w, symmetric.is_reversible(A)), w.identity("1")),
    ]


def three_by_three(w: Any) -> Pairs:
    A = map_of(w.integers("S", "n", "n")[:3, :3])
    law = symmetric.stationary_law(A)[:, None]
    return [((law * A).T, law * A)]


def one_way(w: Any) -> Pairs:
    """The first of two tokens sees only itself: the stationary law sits on it, and no positive law balances."""
    A = map_of(w.integers("S", "n", "n")[:2, :2])
    A[0] = [A[0, 0] * 0 + 1, A[0, 0] * 0]
    law = np.array([[A[1, 1]], [A[0, 0] - A[1, 1]]])
    return [((law * A).T, law * A)]


TWO_TOKENS = Claim(
    id="two-tokens-reversible",
    rank="remark",
    chapter=CHAPTER,
    title="Two tokens say nothing",
    statement=(
        "Every positive $2\\times2$ map is reversible, with $\\pi\\propto(A_{21},A_{12})$. The first obstruction needs three tokens: a test "
        "of reversibility on two tokens cannot fail."
    ),
    hypotheses=(Hypothesis("H1", "two tokens", "there are two tokens, and both see each other"),),
    sources=(OURS,),
    lanes=("exact", "numeric"),
    sides=two_by_two,
    settings=lambda s: plain_scores(s) and full_map(s),
    constructions=("stationary_law", "reversing_law"),
    controls=(
        Control("H1", "three tokens", three_by_three, lanes=("exact", "numeric")),
        Control("H1", "two tokens of which the first sees only itself", one_way, lanes=("exact", "numeric")),
    ),
)


# -- spectrum-unit-interval --------------------------------------------------------------------------------------------


def eigenvalues_in_place(w: Any) -> Pairs:
    """Eigenvalues cut off at 0 and 1 are the eigenvalues; for two tokens they are 1 and 1 - A_12 - A_21."""
    k = keys(w)
    pairs = [pair for A in (*real_maps(w), map_of(k @ k.mT)) for pair in spectrum_in_place(A)]
    A = map_of(k[:2] @ k[:2].mT)
    return [*pairs, (symmetric.spectrum(A)[None], np.array([[1, 1 - A[0, 1] - A[1, 0]]]))]


def spectrum_in_place(A: Any) -> Pairs:
    values = symmetric.spectrum(A)[None]
    return [(np.clip(values.real, 0, 1), values)]


def pivots_in_place(w: Any) -> Pairs:
    """Exactly: E and D - E are positive semidefinite (no pivot is negative), so A = D^-1 E has its eigenvalues in [0, 1]."""
    k = keys(w)
    E = w.exp(k @ k.mT)
    D, _ = normalized(w, E)
    A = map_of(k[:2] @ k[:2].mT)
    second = A[0, 0] * A[1, 1] - A[0, 1] * A[1, 0]  # the determinant: the product of 1 and the second eigenvalue
    return [
        *((abs(pivots(m)), pivots(m)) for m in (E, D - E)),
        (number(w, second), number(w, 1 - A[0, 1] - A[1, 0])),
    ]


def pivots(a: Any) -> Any:
    """The pivots of symmetric elimination, as a row; a zero pivot must stand in a zero row, and is skipped."""
    a, found = a.copy(), []
    for i in range(len(a)):
        pivot = a[i, i]
        if pivot == 0:
            if any(a[i, i:] != 0):
                return np.array([[-(pivot + 1)]])  # indefinite
            continue
        found.append(pivot)
        a = a - a[:, i : i + 1] * a[i] / pivot
    return np.array([found])


def of_indefinite_form(w: Any, one: Any = None) -> Any:
    """Scores X M X^T for a symmetric M with eigenvalues of both signs: diag(1, -1, ...)."""
    x = w.integers("X", "n", "d")
    M = w.identity("d") * np.array([1, -1] * (x.shape[1] // 2))
    return x @ M @ x.mT


def verdict(w: Any, scores: Any) -> Pairs:
    """The statement for these scores: by pivots where arithmetic is exact, by eigenvalues in floats."""
    if w.lane == "exact":
        p = pivots(w.exp(scores))
        return [(abs(p), p)]
    return spectrum_in_place(map_of(scores))


def others_only(w: Any) -> Pairs:
    """Every token sees all others and not itself: a symmetric mask, and a map whose trace is 0."""
    k = keys(w)
    E = w.exp(k @ k.mT) * (1 - w.identity("n"))
    if w.lane == "exact":
        return [(abs(pivots(E)), pivots(E))]
    values = np.linalg.eigvals(E / E.sum(axis=1, keepdims=True))[None]
    return [(np.clip(values.real, 0, 1), values)]


SPECTRUM = Claim(
    id="spectrum-unit-interval",
    rank="remark",
    chapter=CHAPTER,
    title="The eigenvalues lie between 0 and 1",
    statement=(
        "With queries equal to keys $E=\\exp(S)$ is positive semidefinite, so all eigenvalues of the map are real and lie in $[0,1]$. For "
        "two tokens they are $1$ and $1-A_{12}-A_{21}$. Fractions check it by the pivots of $E$ and of $D-E$ (powers of two in the place "
        "of powers of $e$), floats by the eigenvalues."
    ),
    hypotheses=(
        Hypothesis(
            "H1",
            "a Gram matrix of scores, and exp",
            "queries are keys (RoPE allowed) at a positive scale, nothing is masked, the kernel is $\\exp$",
        ),
    ),
    sources=(Source("derived", note="the entrywise exponential of a positive semidefinite matrix is one (Schur)"),),
    uses=("qk-symmetric-scores", "detailed-balance"),
    lanes=("exact", "numeric"),
    sides=eigenvalues_in_place,
    special={"exact": pivots_in_place},
    settings=lambda s: full_map(s) and not set(s.features(s)) & {"bias", "softcap"},
    controls=(
        Control(
            "H1",
            "symmetric scores $XMX^{\\top}$ with an indefinite $M$",
            lambda w: verdict(w, of_indefinite_form(w)),
            lanes=("exact", "numeric"),
        ),
        Control("H1", "the kernel $e^{-s}$", lambda w: verdict(w, -(keys(w) @ keys(w).mT)), lanes=("exact", "numeric")),
        Control(
            "H1",
            "a symmetric mask: every token sees the others and not itself",
            others_only,
            lanes=("exact", "numeric"),
        ),
    ),
)
