"""What a causal mask changes: no reversibility, no forbidden map, and a condition on the norms."""

from __future__ import annotations

from typing import Any

import numpy as np

from qkvtheory import gauge, symmetric
from qkvtheory.attention import Heads, causal
from qkvtheory.claims.model import AtMost, Claim, Control, Hypothesis, Pairs
from qkvtheory.claims.queries_equal_keys.balance import pivots
from qkvtheory.claims.queries_equal_keys.bound import bare
from qkvtheory.claims.queries_equal_keys.common import (
    CHAPTER,
    OURS,
    flag,
    keys,
    map_of,
)

VISIBLE = 1e-9  # a defect that floats can tell from rounding


# -- causal-not-reversible ---------------------------------------------------------------------------------------------


def any_law(w: Any) -> Any:
    law = w.kernel(w.integers("p", "n", "1"))
    return law / law.sum()


def broken_balance(w: Any, A: Any, law: Any) -> tuple[Any, Any]:
    """Is the balance with this law broken?"""
    slack = 0 if w.lane == "exact" else VISIBLE
    return flag(w, symmetric.balance_defect(A, law[:, 0]) > slack), w.identity("1")


def one_way_flow(w: Any) -> Pairs:
    """Under a causal mask the flow runs one way: what is missing to balance is the whole flow, for every law."""
    A = map_of(w.integers("S", "n", "n"), causal(w.sizes["n"]))
    flow = any_law(w) * A
    down = flow * (1 - w.identity("n"))
    return [(abs(flow - flow.T), down + down.T), broken_balance(w, A, any_law(w))]


def banded(w: Any) -> Any:
    """Every token sees itself and its two neighbors."""
    n = w.sizes["n"]
    return abs(np.arange(n)[:, None] - np.arange(n)[None, :]) < 2


def symmetric_mask(w: Any) -> Pairs:
    k = keys(w)
    weights = w.exp(k @ k.mT) * banded(w)
    sums = weights.sum(axis=1, keepdims=True)
    return [broken_balance(w, weights / sums, sums / sums.sum())]


ONE_WAY = Claim(
    id="causal-not-reversible",
    rank="remark",
    chapter=CHAPTER,
    title="A causal map is never reversible",
    statement=(
        "If $A_{ij}=0$ and $A_{ji}\\ne0$ for some pair, no positive law balances $A$: what is missing is all of $\\pi_jA_{ji}$. So no causal "
        "map of two or more tokens is reversible, whatever its projections share."
    ),
    hypotheses=(
        Hypothesis("H1", "a one-way pair", "some token sees another that does not see it, as under a causal mask"),
    ),
    sources=(OURS,),
    kind="condition",
    lanes=("exact", "numeric"),
    sides=one_way_flow,
    settings=bare,
    controls=(
        Control("H1", "a symmetric mask with queries equal to keys", symmetric_mask, lanes=("exact", "numeric")),
    ),
)


# -- causal-norm-growth ------------------------------------------------------------------------------------------------


def norms_by_scores(w: Any) -> Pairs:
    """|k_j|^2 - |k_i|^2 = |k_j - k_i|^2 + 2 (k_i k_j^T - |k_i|^2), the last bracket once for each order."""
    k, other = w.matrix("k_i", "1", "h"), w.matrix("k_j", "1", "h")
    gap = other - k
    return [(other @ other.mT - k @ k.mT, gap @ gap.mT + (k @ other.mT - k @ k.mT) + (other @ k.mT - k @ k.mT))]


def norms_grow(w: Any) -> Pairs:
    """For all pairs at once; and keys with which every token looks at the one before have ever smaller norms."""
    k = keys(w)
    size = np.diag(symmetric.causal_gram(look_back(w)))[:, None]
    return [
        *norms_by_scores(w),
        growth(k, k),
        (flag(w, (size[1:] < size[:-1]).all()), w.identity("1")),
        AtMost(size[1:] + 2 * 2, size[:-1]),
    ]


def look_back(w: Any) -> Any:
    """Scores above the own one: 2 for the token before, -1 for those further back."""
    n = w.sizes["n"]
    distance = np.arange(n)[:, None] - np.arange(n)[None, :]
    return np.where(distance == 1, 2, -1) * (w.ones("n") @ w.ones("n").mT)


def growth(q: Any, k: Any) -> Any:
    """2 (S_ij - S_ii) is at most |k_j|^2 - |k_i|^2."""
    S, size = q @ k.mT, (k * k).sum(axis=1)
    return AtMost(2 * (S - np.diag(S)[:, None]), size - size[:, None])


def free_queries(w: Any) -> Pairs:
    """Keys of one length, and every token asks with the key of the one before."""
    k = w.identity("n")
    return [growth(np.roll(k, 1, axis=0), k)]


def square_of_queries(w: Any) -> Pairs:
    q, k, other = w.matrix("q_i", "1", "h"), w.matrix("k_i", "1", "h"), w.matrix("k_j", "1", "h")
    gap = other - k
    return [(other @ other.mT - k @ k.mT, gap @ gap.mT + (q @ other.mT - q @ k.mT) + (other @ q.mT - k @ q.mT))]


NORM_GROWTH = Claim(
    id="causal-norm-growth",
    rank="remark",
    chapter=CHAPTER,
    title="To look away from itself a token needs a shorter key",
    statement=(
        "Under a causal mask the scores $(i,j)$ and $(j,i)$ are never both used. What remains of symmetry is a condition on norms, "
        "$2(S_{ij}-S_{ii})\\le\\|k_j\\|^2-\\|k_i\\|^2$ (for $\\alpha=1$): a token that prefers another to itself has a shorter key than its "
        "target. If each token prefers the one before it, the norms strictly decrease along the sequence."
    ),
    hypotheses=(Hypothesis("H1", "queries are keys", "$S=KK^{\\top}$, under a causal mask"),),
    sources=(OURS,),
    sides=norms_by_scores,
    special={"exact": norms_grow, "numeric": norms_grow},
    settings=bare,
    controls=(
        Control("H1", "the identity with separate queries", square_of_queries),
        Control(
            "H1", "keys of one length, queries that are the previous key", free_queries, lanes=("exact", "numeric")
        ),
    ),
)


# -- causal-qk-universal -----------------------------------------------------------------------------------------------


def keys_from_tokens(w: Any) -> Pairs:
    """From tokens with independent rows any keys are read: X (X^R K) = K."""
    x, K = w.full_row_rank("X", "n", "d", "H1"), w.matrix("K", "n", "h")
    W = gauge.right_inverse(x) @ K
    return [((x @ W) @ (x @ W).mT, K @ K.mT)]


def chosen_logs(w: Any) -> Any:
    """Logarithms of a random causal map, less those of its diagonal."""
    logs = w.integers("L", "n", "n")
    return logs - np.diag(logs)[:, None]


def causal_map(w: Any) -> Any:
    return map_of(chosen_logs(w), causal(w.sizes["n"]))


def gram_found(w: Any) -> Pairs:
    """Exactly: a Gram matrix with the wanted differences below the diagonal, all of whose pivots are positive."""
    t = chosen_logs(w)
    G = symmetric.causal_gram(t)
    own = np.diag(G)[:, None]
    found = pivots(G)
    seen = causal(len(t)) & ~np.eye(len(t), dtype=bool)
    return [
        (np.where(seen, G - own, 1), np.where(seen, t, 1)),
        (map_of(G - own, causal(len(t))), causal_map(w)),
        (abs(found), found),
        (flag(w, found.size == len(t)), w.identity("1")),
    ]


def keys_found(w: Any) -> Pairs:
    """In floats: keys, projections that read them from the tokens, and the masked map of the head."""
    A, x = causal_map(w), w.full_row_rank("X", "n", "d", "H1")
    K = symmetric.keys_for_causal_map(A)
    w.cond *= float((K * K).sum(axis=1).max())  # the scores are that large, and a softmax sees their absolute error
    k = x @ (gauge.right_inverse(x) @ K)
    return [(Heads(1, scale=1, mask=causal(len(A))).maps(k, k)[0], A)]


def unmasked(w: Any) -> Pairs:
    A = causal_map(w)
    K = symmetric.keys_for_causal_map(A)
    return [(Heads(1, scale=1).maps(K, K)[0], A)]


def narrow(w: Any) -> Pairs:
    """The same keys in their n - 2 largest directions."""
    A = causal_map(w)
    u, s, _ = np.linalg.svd(symmetric.keys_for_causal_map(A))
    k = (u * s)[:, : len(A) - 2]
    return [(Heads(1, scale=1, mask=causal(len(A))).maps(k, k)[0], A)]


def repeated_token(w: Any) -> Pairs:
    """The first token twice, and the projection of least error."""
    A = causal_map(w)
    x = w.matrix("X", "n", "d")
    x = np.concatenate([x[:1], x[:-1]])
    k = x @ (np.linalg.pinv(x) @ symmetric.keys_for_causal_map(A))
    return [(Heads(1, scale=1, mask=causal(len(A))).maps(k, k)[0], A)]


def full_map_refused(w: Any) -> Pairs:
    K = symmetric.keys_for_causal_map(map_of(w.matrix("S", "n", "n")))
    return [(K, K)]


UNIVERSAL = Claim(
    id="causal-qk-universal",
    rank="remark",
    chapter=CHAPTER,
    title="Under a causal mask no single map is out of reach",
    statement=(
        "Every lower-triangular map with positive entries on and below its diagonal is the masked map of some keys used as queries. With "
        "$t_{ij}=\\log A_{ij}-\\log A_{ii}$ one needs $k_ik_j^{\\top}-\\|k_i\\|^2=t_{ij}$ for $j<i$: the first key is chosen long enough, and "
        "each further one finds its place. Tokens with independent rows can read any keys, $X(X^{R}K)=K$."
    ),
    hypotheses=(
        Hypothesis(
            "H1",
            "causal mask, free keys",
            "queries are keys, the mask is causal, the rows of $X$ are independent, and the head is at least $n$ wide",
        ),
    ),
    sources=(OURS,),
    uses=("row-constants-invisible",),
    sides=keys_from_tokens,
    special={"exact": gram_found, "numeric": keys_found},
    settings=lambda s: bare(s) and s.n <= s.d,
    controls=(
        Control("H1", "the same keys without a mask", unmasked, lanes=("numeric",)),
        Control("H1", "a head of width $n-2$", narrow, lanes=("numeric",)),
        Control("H1", "the first token twice", repeated_token, lanes=("numeric",)),
        Control(
            "construction",
            "asking for keys of a map without mask",
            full_map_refused,
            lanes=("numeric",),
            refused="causal",
        ),
    ),
)
