"""What positive definiteness forbids: the pair bound, equal norms, and which maps are maps of queries equal to keys."""

from __future__ import annotations

from typing import Any

import numpy as np

from qkvtheory import symmetric
from qkvtheory.attention import Heads, causal, rms_norm, softmax
from qkvtheory.claims.model import AtMost, Claim, Control, Hypothesis, Pairs, Source
from qkvtheory.claims.queries_equal_keys.common import (
    CHAPTER,
    OURS,
    gram_scores,
    keys,
    map_of,
    normalized,
    number,
    queries_and_keys,
    real_maps,
)
from qkvtheory.lanes.settings import Setting, plain_scores
from qkvtheory.linalg import rank

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
    one = w.ones("n") @ w.ones("n").mT
    own = np.diag(A)[:, None]
    return [AtMost(A * A.T, own * own.T), AtMost(symmetric.pair_sums(A), one)]


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


def diagonal_first(w: Any, q: Any = None, k: Any = None) -> Pairs:
    """2 (S_ii - S_ij) = |k_i - k_j|^2 where all norms agree; so no entry of a row exceeds its diagonal one."""
    k = equal_norms(w) if k is None else k
    S = (k if q is None else q) @ k.mT
    own, gaps = np.diag(S)[:, None], ((k[:, None] - k[None]) ** 2).sum(axis=-1)
    A, one = map_of(S), w.ones("n") @ w.ones("n").mT
    return [(2 * (own - S), gaps), AtMost(S, own * one), AtMost(A, np.diag(A)[:, None] * one)]


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
        Control("H2", "one key made longer", one_key_doubled, lanes=("exact", "numeric")),
        Control("H2", "a shared gain after the norm", shared_gain, lanes=("exact", "numeric")),
    ),
)


# -- gram-restriction --------------------------------------------------------------------------------------------------


def factored_forms(w: Any) -> Pairs:
    """M = W W^T is symmetric and a square on every row; M = W D W^T is symmetric."""
    x, W = w.matrix("x", "1", "d"), w.matrix("W", "d", "h")
    D = w.diagonal(w.matrix("a", "h", "1"))
    M, N = W @ W.mT, W @ D @ W.mT
    return [(M.mT, M), (x @ M @ x.mT, (x @ W) @ (x @ W).mT), (N.mT, N)]


def found_forms(w: Any) -> Pairs:
    """And back: a semidefinite M of rank d_h as W W^T, a symmetric one as W D W^T, any one as W_Q W_K^T."""
    W, V, signs = w.matrix("W", "d", "h"), w.matrix("V", "d", "h"), np.where(np.arange(w.sizes["h"]) % 2, -1.0, 1.0)
    M, N, P = W @ W.mT, (W * signs) @ W.mT, W @ V.mT
    root, basis, values = gram_factor(M, w.sizes["h"]), *symmetric_factor(N, w.sizes["h"])
    left, size, right = np.linalg.svd(P)
    h = w.sizes["h"]
    return [
        *factored_forms(w),
        (root @ root.mT, M),
        ((basis * values) @ basis.mT, N),
        ((left[:, :h] * size[:h]) @ right[:h], P),
    ]


def symmetric_factor(M: Any, width: int) -> tuple[Any, Any]:
    """d x d_h columns and d_h values with M = W diag(values) W^T, for a symmetric M of rank d_h."""
    values, basis = np.linalg.eigh(M)
    largest = np.argsort(-abs(values))[:width]
    return basis[:, largest], values[largest]


def gram_factor(M: Any, width: int) -> Any:
    basis, values = symmetric_factor(M, width)
    return basis * np.sqrt(np.maximum(values, 0))


def ranks_of_forms(_: Any) -> Pairs:
    """Random whole matrices: the rank of each form is d_h; how many of its eigenvalues are negative (Sylvester)."""
    pairs, rng = [], np.random.default_rng(0)
    for d, width in ((4, 1), (4, 2), (5, 3)):
        W, V = (as_fractions(rng.integers(-4, 5, (d, width))) for _ in "WV")
        signs = np.array([-1 if c % 2 else 1 for c in range(width)])
        pairs += [(width, rank(W @ W.T)), (width, rank((W * signs) @ W.T)), (width, rank(W @ V.T))]
        pairs += [(0, negative(W @ W.T)), (width // 2, negative((W * signs) @ W.T))]
    return pairs


def as_fractions(a: Any) -> Any:
    from fractions import Fraction

    return np.frompyfunc(Fraction, 1, 1)(a.astype(object))


def negative(M: Any) -> int:
    """How many eigenvalues are negative, from the signs of floats far from zero."""
    return int((np.linalg.eigvalsh(M.astype(float)) < -1e-9).sum())


def symmetric_but_indefinite(w: Any) -> Pairs:
    """Its own factor W of the nearest Gram matrix does not give the form back."""
    M = indefinite(w)
    if w.lane == "exact":
        return bounds(w, map_of(indefinite_scores(w)))
    root = gram_factor(M, w.sizes["d"])
    return [(root @ root.mT, M)]


def indefinite_is_balanced(w: Any) -> Pairs:
    D, A = normalized(w, w.exp(indefinite_scores(w)))
    return [((D @ A).mT, D @ A)]


def separate_form(w: Any) -> Pairs:
    M = w.matrix("W_Q", "d", "h") @ w.matrix("W_K", "d", "h").mT
    return [(M.mT, M)]


GRAM = Claim(
    id="gram-restriction",
    rank="remark",
    chapter=CHAPTER,
    title="Three nested classes of scores",
    statement=(
        "A head reads $S=XMX^{\\top}$. Queries equal to keys give exactly the symmetric positive semidefinite $M$ of rank at most $d_h$, "
        "$M=WW^{\\top}$; a diagonal between two equal projections, $M=WDW^{\\top}$, exactly the symmetric ones of rank at most $d_h$; separate projections all "
        "of rank at most $d_h$. Symmetric is enough for detailed balance; the spectrum and the pair bound need semidefinite."
    ),
    hypotheses=(
        Hypothesis("H1", "queries are keys", "one projection $W$ serves both, with nothing between the factors"),
    ),
    sources=(
        Source("paper", "kowsher2025shared", note="the form with a diagonal between shared projections"),
        Source("derived", note="the three classes and what they imply"),
    ),
    uses=("detailed-balance",),
    kind="condition",
    lanes=("symbolic", "exact", "numeric", "count"),
    sides=factored_forms,
    special={"numeric": found_forms, "count": ranks_of_forms},
    settings=bare,
    controls=(
        Control("H1", "separate projections", separate_form),
        Control(
            "H1",
            "a symmetric indefinite $M$: in detailed balance, and still no $WW^{\\top}$",
            symmetric_but_indefinite,
            lanes=("exact", "numeric"),
            witness=indefinite_is_balanced,
        ),
    ),
)


# -- qk-pattern-characterisation ---------------------------------------------------------------------------------------


def potential_is_gram(w: Any) -> Pairs:
    """T = S + c 1 1^T: the same map, and v T v^T = |v K|^2 for every row v whose entries sum to 0."""
    k, c, one = keys(w), w.integers("c", "1", "1"), w.ones("n")
    S, T = k @ k.mT, k @ k.mT + one @ c @ one.mT
    v = w.annihilator("v", "1", one)

    def softmax_of(scores: Any) -> Any:
        return normalized(w, w.exp(scores, "row-constants-invisible"), "row-constants-invisible")[1]

    return [
        (softmax_of(T), softmax_of(S)),
        (v @ T @ v.mT, (v @ k) @ (v @ k).mT),
    ]


def keys_found(w: Any) -> Pairs:
    """From the map of random keys: T up to what centering removes, and keys that give the map back."""
    k, C = wide_keys(w), w.centering("n")
    A = map_of(k @ k.mT)
    T = np.log(symmetric.reversing_law(A))[:, None] + np.log(A)
    found = symmetric.keys_for_map(A)
    return [
        *potential_is_gram(w),
        (C @ T @ C, C @ k @ k.mT @ C),
        (Heads(1, scale=1).maps(found, found)[0], A),
    ]


def wide_keys(w: Any) -> Any:
    """n keys of width n, in general position."""
    return w.identity("n") + w.integers("K", "n", "n") / 4


def asked_for(w: Any, A: Any) -> Pairs:
    found = symmetric.keys_for_map(A)
    return [(map_of(found @ found.mT), A)]


def swap_map(w: Any) -> Any:
    return np.array([[0.1, 0.9], [0.9, 0.1]])


def swap_is_balanced(w: Any) -> Pairs:
    A = swap_map(w)
    return [(A.T, A)]


def swap_bounded(w: Any) -> Pairs:
    """The necessary condition for v = e_1 - e_2."""
    A = swap_map(w)
    return [AtMost(number(w, A[0, 1] * A[1, 0]), number(w, A[0, 0] * A[1, 1]))]


def narrow_keys(w: Any) -> Pairs:
    """The best keys of width n - 2 for the map of n independent keys, by dropping the smallest directions."""
    k = wide_keys(w)
    A = map_of(k @ k.mT)
    values, basis = np.linalg.eigh(w.centering("n") @ k @ k.mT @ w.centering("n"))
    narrow = (basis * np.sqrt(np.maximum(values, 0)))[:, 2 - w.sizes["n"] :]
    return [(map_of(narrow @ narrow.mT), A)]


def masked_keys(w: Any) -> Pairs:
    k = wide_keys(w)
    return [(softmax(k @ k.mT, causal(len(k))), map_of(k @ k.mT))]


PATTERNS = Claim(
    id="qk-pattern-characterisation",
    rank="remark",
    chapter=CHAPTER,
    title="Which maps have queries equal to keys",
    statement=(
        "If a positive $A$ is the map of queries equal to keys, it is reversible and $T_{ij}=\\log(\\pi_iA_{ij})$ is conditionally positive "
        "semidefinite: $vTv^{\\top}\\ge0$ for every row $v$ whose entries sum to 0. Conversely, if $A$ is reversible and $vTv^{\\top}>0$ for "
        "all such $v\\ne0$, then $T+c\\mathbf1\\mathbf1^{\\top}=KK^{\\top}$ for large $c$, and $A$ is the map of the keys $K$. The row "
        "$v=e_i-e_j$ gives $A_{ij}A_{ji}\\le A_{ii}A_{jj}$."
    ),
    hypotheses=(
        Hypothesis(
            "H1",
            "free keys, no mask",
            "nothing is masked, the keys may be chosen freely, and the head is at least $n$ wide",
        ),
    ),
    sources=(OURS,),
    uses=("detailed-balance", "row-constants-invisible"),
    kind="condition",
    lanes=("symbolic", "exact", "numeric"),
    sides=potential_is_gram,
    special={"numeric": keys_found},
    settings=lambda s: bare(s) and s.d // 2 < s.n,
    controls=(
        Control("H1", "a head of width $n-2$", narrow_keys, lanes=("numeric",)),
        Control("H1", "a causal mask on the same keys", masked_keys, lanes=("numeric",)),
        Control(
            "construction",
            "a reversible map that swaps two tokens",
            swap_bounded,
            lanes=("numeric",),
            witness=swap_is_balanced,
        ),
        Control(
            "construction",
            "asking for keys of that map",
            lambda w: asked_for(w, swap_map(w)),
            lanes=("numeric",),
            refused="conditionally positive definite",
        ),
        Control(
            "construction",
            "asking for keys of the map of separate queries and keys",
            lambda w: asked_for(w, map_of(queries_and_keys(w)[0] @ queries_and_keys(w)[1].mT)),
            lanes=("numeric",),
            refused="reversible",
        ),
    ),
)
