"""What positive definiteness forbids in one head: the pair bound, its consequence for swaps, and keys of equal length."""

from __future__ import annotations

from typing import Any

import numpy as np

from qkvtheory import symmetric
from qkvtheory.attention import rms_norm, softmax
from qkvtheory.claims.model import AtMost, Claim, Control, Hypothesis, Pairs, Source
from qkvtheory.claims.queries_equal_keys.common import (
    CHAPTER,
    OURS,
    gram_scores,
    keys,
    map_of,
    number,
    real_maps,
)
from qkvtheory.lanes.settings import Setting, plain_scores

UNMASKED = Hypothesis(
    "H1", "queries are keys, no mask", "$S=\\alpha KK^{\\top}$ with $\\alpha>0$, and every token sees every token"
)


def bare(s: Setting) -> bool:
    return plain_scores(s) and gram_scores(s)


# -- pair-bound --------------------------------------------------------------------------------------------------------


def distance_is_a_square(w: Any) -> Pairs:
    """Two keys: |k_i|^2 + |k_j|^2 - k_i k_j^T - k_j k_i^T is a square, so 2 S_ij is at most S_ii + S_jj."""
    k, other = w.matrix("k_i", "1", "h"), w.matrix("k_j", "1", "h")
    gap = k - other
    return [(k @ k.mT + other @ other.mT - k @ other.mT - other @ k.mT, gap @ gap.mT)]


def pairs_bounded(w: Any) -> Pairs:
    """The certificate, both bounds on maps of several scales, and two equal keys: the first bound is attained beside
    a third token too, the second without one.
    """
    k = keys(w)
    scales = (1, 2) if w.lane == "exact" else (0.3, 1, 3)
    maps = [map_of(scale * scale * (k @ k.mT)) for scale in scales]
    if w.lane == "numeric":
        maps += list(real_maps(w))
    drawn = [many_maps(w)] if w.lane == "numeric" else []
    twins, beside = (map_of(k[chosen] @ k[chosen].mT) for chosen in ([0, 0], [0, 0, 1]))
    return [
        *distance_is_a_square(w),
        *(bound for A in maps for bound in bounds(w, A)),
        *(AtMost((A + A.mT) * (1 - w.identity("n")), A * 0 + 1) for A in drawn),
        *((number(w, A[0, 1] * A[1, 0]), number(w, A[0, 0] * A[1, 1])) for A in (twins, beside)),
        (number(w, symmetric.pair_sums(twins).max()), w.identity("1")),
    ]


def many_maps(w: Any, draws: int = 500) -> Any:
    """Maps of random keys of width 3, at four scales: (draws, n, n)."""
    k = w.rng("draws").normal(size=(draws, w.sizes["n"], 3)) * np.resize([0.3, 1, 3, 10], (draws, 1, 1))
    return softmax(k @ k.mT)


def bounds(w: Any, A: Any) -> Pairs:
    own = np.diag(A)[:, None]
    return [AtMost(A * A.T, own * own.T), AtMost(symmetric.pair_sums(A), A * 0 + 1)]


def beside_a_third(w: Any) -> Pairs:
    """Two equal keys and a third one: the third token gets some of the attention."""
    k = keys(w)[[0, 0, 1]]
    return [(number(w, symmetric.pair_sums(map_of(k @ k.mT)).max()), w.identity("1"))]


def two_projections(w: Any) -> Pairs:
    q, p = w.matrix("q_i", "1", "h"), w.matrix("q_j", "1", "h")
    k, other = w.matrix("k_i", "1", "h"), w.matrix("k_j", "1", "h")
    gap = k - other
    return [(q @ k.mT + p @ other.mT - q @ other.mT - p @ k.mT, gap @ gap.mT)]


def swapped_queries(w: Any) -> Pairs:
    """Every token asks with the key of its partner: the pair sum comes near 2."""
    k = 6 * w.identity("n")
    return bounds(w, map_of(partner_first(w) @ k @ k.mT))


def partner_first(w: Any) -> Any:
    """The permutation that swaps tokens 0 and 1, 2 and 3, ..."""
    n = w.sizes["n"]
    order = [i + 1 - 2 * (i % 2) if i + 1 - 2 * (i % 2) < n else i for i in range(n)]
    return w.identity("n")[order]


def antipodal_keys(w: Any) -> Pairs:
    """The scale -1, and two keys that point in opposite directions: each is the other's favorite."""
    k = w.identity("1")
    k = np.concatenate([k, -k])
    return bounds(w, map_of(-(k @ k.mT)))


def indefinite_form(w: Any) -> Pairs:
    """Symmetric scores X M X^T with eigenvalues of both signs."""
    return bounds(w, map_of(indefinite_scores(w)))


def indefinite_scores(w: Any) -> Any:
    """X M X^T with two tokens e_1, e_2 and zeros, M six times the swap of e_1 and e_2: eigenvalues 6 and -6."""
    x = w.integers("X", "n", "d") * 0
    x[0, 0], x[1, 1] = 1, 1
    return x @ indefinite(w) @ x.mT


def indefinite(w: Any) -> Any:
    M = w.identity("d") * 0
    M[0, 1], M[1, 0] = 6, 6
    return M


def partner_masked_in(w: Any) -> Pairs:
    """A symmetric mask under which every token sees its partner only."""
    P = partner_first(w)
    return bounds(w, P)


PAIR_BOUND = Claim(
    id="pair-bound",
    rank="theorem",
    chapter=CHAPTER,
    title="Two tokens cannot both look mainly at each other",
    statement=(
        "With queries equal to keys and no mask, for any two tokens $A_{ij}A_{ji}\\le A_{ii}A_{jj}$ and $A_{ij}+A_{ji}\\le1$: two tokens "
        "cannot both look mainly at each other. The reason is the square "
        "$\\|k_i\\|^2+\\|k_j\\|^2-2k_ik_j^{\\top}=\\|k_i-k_j\\|^2\\ge0$. Two equal keys attain the first bound always, the second when "
        "there is no third token."
    ),
    hypotheses=(UNMASKED,),
    sources=(OURS,),
    uses=("row-stochastic",),
    sides=distance_is_a_square,
    special={"exact": pairs_bounded, "numeric": pairs_bounded},
    settings=gram_scores,
    controls=(
        Control("H1", "the square with separate queries", two_projections),
        Control("H1", "queries that are the partner's keys", swapped_queries, lanes=("exact", "numeric")),
        Control("H1", "the scale $-1$ and opposite keys", antipodal_keys, lanes=("exact", "numeric")),
        Control(
            "H1", "symmetric scores $XMX^{\\top}$ with an indefinite $M$", indefinite_form, lanes=("exact", "numeric")
        ),
        Control("H1", "a symmetric mask that leaves only the partner", partner_masked_in, lanes=("exact", "numeric")),
        Control(
            "construction",
            "the second bound called attained by two equal keys beside a third token",
            beside_a_third,
            lanes=("exact", "numeric"),
        ),
    ),
)


# -- reverse-swap-consequence ------------------------------------------------------------------------------------------

LENGTH = 4


def reversal(w: Any) -> list[int]:
    """An even number of tokens in reverse order."""
    n = 2 * (w.sizes["n"] // 2) + 2
    return list(range(n))[::-1]


def mass(A: Any, partner: list[int]) -> Any:
    """What every token sends to its partner, as a column."""
    return A[range(len(partner)), partner][:, None]


def exact_or_float(w: Any, a: Any) -> Any:
    return np.frompyfunc(lambda x: w.number(int(x)), 1, 1)(a) if w.lane == "exact" else a


def at_most_half(w: Any) -> Pairs:
    """One head: on average at most one half to the partners. Two heads: all of it, up to what the others still get."""
    partner = reversal(w)
    n = len(partner)
    x = np.concatenate([keys(w), keys(w, "W'")])[:n]
    x = np.concatenate([x, x[: n - len(x)]])
    sent = mass(map_of(x @ x.mT), partner)
    one = sent * 0 + 1
    first, second = (map_of(k @ k.mT) for k in heads_for(w, partner))
    routed = np.where(np.arange(n)[:, None] < n // 2, mass(first, partner), mass(second, partner))
    base = 2 if w.lane == "exact" else np.e
    own, to = (base ** (factor * LENGTH**2) for factor in (1, 2))  # e^<k_i, k_i> and e^<k_i, k_partner>
    return [
        AtMost(sent + sent[partner], one),
        (routed, one * (one[0, 0] * to / (own + to + n - 2))),
        AtMost(one - routed, one * n / own),
    ]


def heads_for(w: Any, partner: list[int]) -> list[Any]:
    return [exact_or_float(w, k) for k in symmetric.two_head_keys(partner, LENGTH)]


def separate_head(w: Any) -> Pairs:
    """Queries that are the partner's keys, long ones: all the mass arrives at both ends."""
    partner = reversal(w)
    k = exact_or_float(w, LENGTH * np.eye(len(partner)))
    sent = mass(map_of(k[partner] @ k.mT), partner)
    return [AtMost(sent + sent[partner], sent * 0 + 1)]


def two_heads_together(w: Any) -> Pairs:
    partner = reversal(w)
    n = len(partner)
    first, second = (mass(map_of(k @ k.mT), partner) for k in heads_for(w, partner))
    routed = np.where(np.arange(n)[:, None] < n // 2, first, second)
    return [AtMost(routed + routed[partner], routed * 0 + 1)]


def not_an_involution(w: Any) -> Pairs:
    first, second = symmetric.two_head_keys([1, 2, 0], LENGTH)
    return [(first, second)]


REVERSE_SWAP = Claim(
    id="reverse-swap-consequence",
    rank="remark",
    chapter=CHAPTER,
    title="Reversing or swapping takes two heads",
    statement=(
        "Let $\\sigma$ be an involution of the positions without fixed points, such as reversal. One head with queries equal to keys "
        "sends at most one half of its attention, on average, to the right places: $A_{i\\sigma(i)}+A_{\\sigma(i)i}\\le1$. Two such heads "
        "suffice. Keys $\\lambda u_i$ for one half of the tokens and $2\\lambda u_i$ for their partners ($u_i$ orthonormal) route the first "
        "half, with mass $e^{2\\lambda^2}/(e^{\\lambda^2}+e^{2\\lambda^2}+n-2)$; a second head, its mirror image, routes the other. The "
        "bound is on attention mass, not on accuracy."
    ),
    hypotheses=(
        Hypothesis(
            "H1", "one head, one sublayer", "one attention sublayer with one head, queries equal to keys, no mask"
        ),
    ),
    sources=(OURS,),
    uses=("pair-bound",),
    lanes=("exact", "numeric"),
    sides=at_most_half,
    settings=bare,
    controls=(
        Control("H1", "separate queries: the partner's keys", separate_head, lanes=("exact", "numeric")),
        Control("H1", "two heads, each for one half", two_heads_together, lanes=("exact", "numeric")),
        Control(
            "construction",
            "asking for keys of a cycle of three",
            not_an_involution,
            lanes=("exact", "numeric"),
            refused="involution",
        ),
    ),
)


# -- equal-norm-diagonal -----------------------------------------------------------------------------------------------


def equal_norms(w: Any) -> Any:
    """n keys of one length: exactly, one row permuted and with other signs; in floats by QK-norm without gain."""
    k = keys(w)
    if w.lane == "numeric":
        return rms_norm(eps=0.0)(k)
    width = k.shape[1]
    signs = np.array([[-1 if (i >> c) & 1 else 1 for c in range(width)] for i in range(len(k))])
    return np.array([np.roll(np.arange(1, width + 1), i) for i in range(len(k))]) * signs * w.identity("1")[0, 0]


def diagonal_first(w: Any, q: Any = None, k: Any = None, scales: tuple[int, ...] = (1, 3)) -> Pairs:
    """2 (S_ii - S_ij) = alpha |k_i - k_j|^2 where all norms agree; so no entry of a row exceeds its diagonal one."""
    k = equal_norms(w) if k is None else k
    scores, one = (k if q is None else q) @ k.mT, w.ones("n") @ w.ones("n").mT
    gaps, pairs = ((k[:, None] - k[None]) ** 2).sum(axis=-1), []
    for scale in scales:
        S = scale * scores
        own, A = np.diag(S)[:, None], map_of(S)
        pairs += [(2 * (own - S), scale * gaps), AtMost(S, own * one), AtMost(A, np.diag(A)[:, None] * one)]
    return pairs


def negative_scale(w: Any) -> Pairs:
    return diagonal_first(w, scales=(-1,))


def one_key_doubled(w: Any) -> Pairs:
    k = equal_norms(w)
    longer = np.concatenate([2 * k[:1] + k[1:2] * 2, k[1:]])
    return diagonal_first(w, k=longer)


def shared_gain(w: Any) -> Pairs:
    """A gain after the norm stretches some directions: the norms differ again."""
    k = equal_norms(w)
    return diagonal_first(w, k=k * (np.arange(k.shape[1]) + 1))


def separate_norms(w: Any) -> Pairs:
    k = equal_norms(w)
    return diagonal_first(w, q=k[::-1], k=k)


EQUAL_NORMS = Claim(
    id="equal-norm-diagonal",
    rank="remark",
    chapter=CHAPTER,
    title="Keys of equal length look at themselves",
    statement=(
        "If queries are keys and all $\\|k_i\\|$ are equal, then $2(S_{ii}-S_{ij})=\\alpha\\|k_i-k_j\\|^2\\ge0$: in every row of the map the "
        "diagonal entry is the largest. QK-norm without gain makes all norms equal."
    ),
    hypotheses=(
        Hypothesis("H1", "queries are keys", "$S=\\alpha KK^{\\top}$ with $\\alpha>0$"),
        Hypothesis("H2", "equal norms", "all keys have the same length"),
    ),
    sources=(
        Source(
            "derived",
            note="Cauchy and Schwarz; an argument from the dominance of the diagonal is reported of 2606.04032",
        ),
    ),
    lanes=("exact", "numeric"),
    sides=diagonal_first,
    settings=lambda s: bare(s) and s.d // s.heads > 1,
    controls=(
        Control(
            "H1", "queries that are other tokens' keys, of the same length", separate_norms, lanes=("exact", "numeric")
        ),
        Control("H1", "a negative scale, $\\alpha=-1$", negative_scale, lanes=("exact", "numeric")),
        Control("H2", "one key made longer", one_key_doubled, lanes=("exact", "numeric")),
        Control("H2", "a shared gain after the norm", shared_gain, lanes=("exact", "numeric")),
    ),
)
