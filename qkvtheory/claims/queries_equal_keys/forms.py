"""Which forms a head can read, and which maps are maps of queries equal to keys."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

from qkvtheory import symmetric
from qkvtheory.attention import Heads, causal, softmax
from qkvtheory.claims.model import AtMost, Claim, Control, Hypothesis, Pairs, Source
from qkvtheory.claims.queries_equal_keys.bound import bare, bounds, indefinite, indefinite_scores
from qkvtheory.claims.queries_equal_keys.common import (
    CHAPTER,
    OURS,
    keys,
    map_of,
    normalized,
    number,
    queries_and_keys,
)
from qkvtheory.linalg import rank

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
