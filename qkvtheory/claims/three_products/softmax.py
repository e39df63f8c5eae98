"""What softmax cannot see: row constants, key biases, value biases; and which maps it can make."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any, cast

import numpy as np

from qkvtheory import gauge
from qkvtheory.attention import Heads, base_two, causal, softmax
from qkvtheory.claims.model import Claim, Control, Hypothesis, Pairs, Source, call
from qkvtheory.claims.three_products.reads import CHAPTER, OURS
from qkvtheory.lanes.settings import plain_scores, square_keys, without_rotation
from qkvtheory.linalg import rank
from qkvtheory.network import Attention
from qkvtheory.patterns import head_for

FOLKLORE = Source("derived", note="folklore; the wording is ours")


# -- row-constants-invisible -------------------------------------------------------------------------------------------


def softmax_by_definition(w: Any, scores: Any) -> Any:
    """softmax(S) = diag(exp(S) 1)^-1 exp(S)."""
    weights = w.exp(scores)
    return gauge.inverse(w.diagonal(weights @ w.ones("n"))) @ weights


def shifted(w: Any, along: str = "rows") -> tuple[Any, Any]:
    s, r, one = w.integers("S", "n", "n"), w.integers("r", "n", "1"), w.ones("n")
    return s, s + (r @ one.mT if along == "rows" else one @ r.mT)


def row_constants(w: Any) -> Pairs:
    s, moved = shifted(w)
    return [(softmax_by_definition(w, moved), softmax_by_definition(w, s))]


def row_constants_in_floats(w: Any) -> Pairs:
    """The package's own softmax, and the converse: scores with the same softmax differ by row constants."""
    s, moved = shifted(w)
    other = np.log(w.softmax(s))  # another score matrix with the same softmax
    gap = moved - other
    return [(w.softmax(moved), w.softmax(s)), (w.softmax(other), w.softmax(s)), (gap, gap[:, :1] @ w.ones("n").mT)]


def column_constants(w: Any) -> Pairs:
    s, moved = shifted(w, "columns")
    return [(softmax_by_definition(w, moved), softmax_by_definition(w, s))]


def other_pattern(w: Any) -> Pairs:
    (s, moved), f = shifted(w), w.function("phi")

    def normalized(scores: Any) -> Any:
        weights = f(scores) if w.lane == "symbolic" else 1 + scores * scores
        return gauge.inverse(w.diagonal(weights @ w.ones("n"))) @ weights

    return [(normalized(moved), normalized(s))]


ROW_CONSTANTS = Claim(
    id="row-constants-invisible",
    rank="remark",
    chapter=CHAPTER,
    title="Softmax ignores row constants",
    statement=(
        "$\\operatorname{softmax}(S+r\\mathbf1^{\\top})=\\operatorname{softmax}(S)$ for every column $r$. Conversely, two finite score "
        "matrices with the same softmax differ by such an $r\\mathbf1^{\\top}$ (checked in the numeric lane, proved in the formal one)."
    ),
    hypotheses=(
        Hypothesis("H1", "exponential", "the row pattern is built from an exponential: positive, and $e^{s+t}=e^se^t$"),
        Hypothesis("H2", "constant along rows", "what is added is the same in every column of a row"),
    ),
    sources=(FOLKLORE,),
    sides=row_constants,
    special={"numeric": row_constants_in_floats},
    controls=(
        Control("H1", "the row pattern $1+s^2$ in place of $e^s$", other_pattern),
        Control("H2", "a constant for each column, $\\mathbf1c^{\\top}$", column_constants),
    ),
)


# -- key-bias-invisible ------------------------------------------------------------------------------------------------


def one_head(w: Any) -> list[Any]:
    shapes = {"X": "nd", "W_Q": "dh", "W_K": "dh", "W_V": "dh", "b_K": "1h", "b_Q": "1h"}
    return [w.integers(name, *shape) for name, shape in shapes.items()]


def key_bias(w: Any) -> Pairs:
    x, Q, K, V, b, c = one_head(w)
    per_key = w.ones("n") @ (c @ (x @ K).mT)
    return [
        (w.head(x @ Q, x @ K + b, x @ V), w.head(x @ Q, x @ K, x @ V)),
        ((x @ Q + c) @ (x @ K).mT, (x @ Q) @ (x @ K).mT + per_key),
    ]


def key_bias_in_floats(w: Any) -> Pairs:
    a, x = w.attention(biases=True), w.matrix("X", "n", "d")
    return [(call(a, x), call(replace(a, b_K=None), x)), *query_bias_per_key(a, x)]


def query_bias_per_key(a: Attention, x: Any) -> Pairs:
    """On the scores of the real core: what b_Q adds is the same in every row, alpha b_Q^h k_j^T."""
    core, k = cast(Heads, a.core), x @ a.W_K
    added = core.scores(x @ a.W_Q + a.b_Q, k) - core.scores(x @ a.W_Q, k)
    width = a.W_Q.shape[1] // core.heads
    keys = np.repeat(k.reshape(len(x), core.kv_heads, width), core.heads // core.kv_heads, axis=1)
    per_key = np.einsum("hc,jhc->hj", a.b_Q.reshape(core.heads, width), keys) * width**-0.5
    return [(added, np.broadcast_to(per_key[:, None], added.shape))]


def rotated_keys(w: Any) -> Pairs:
    x, Q, K, V, b, _ = one_head(w)
    return [(w.head(w.rotate(x @ Q), w.rotate(x @ K + b), x @ V), w.head(w.rotate(x @ Q), w.rotate(x @ K), x @ V))]


def capped_scores(w: Any) -> Pairs:
    x, Q, K, V, b, _ = one_head(w)
    cap = w.function("cap")
    return [(w.softmax(cap((x @ Q) @ (x @ K + b).mT)) @ (x @ V), w.softmax(cap((x @ Q) @ (x @ K).mT)) @ (x @ V))]


def query_bias_dropped(w: Any) -> Pairs:
    x, Q, K, V, _, c = one_head(w)
    return [(w.head(x @ Q + c, x @ K, x @ V), w.head(x @ Q, x @ K, x @ V))]


def keys_are_values(w: Any) -> Pairs:
    x, Q, K, _, b, _ = one_head(w)
    return [(w.head(x @ Q, x @ K + b, x @ K + b), w.head(x @ Q, x @ K, x @ K))]


KEY_BIAS = Claim(
    id="key-bias-invisible",
    rank="remark",
    chapter=CHAPTER,
    title="A key bias does nothing without rotation",
    statement=(
        "A bias $b_K$ on the keys has no effect on the sublayer. A bias $b_Q$ on the queries acts as a bias "
        "$\\alpha\\,b_Q^hk_j^{\\top}$ on each key."
    ),
    hypotheses=(
        Hypothesis(
            "H1",
            "bare keys",
            "nothing acts between the keys and a softmax of the scores: no RoPE, no QK-norm, no soft-capping",
        ),
        Hypothesis("H2", "keys feed only the scores", "the biased keys are used for the scores and nothing else"),
    ),
    sources=(OURS,),
    uses=("row-constants-invisible",),
    sides=key_bias,
    special={"numeric": key_bias_in_floats},
    settings=lambda s: without_rotation(s) or s.d == 4,
    lanes=("symbolic", "numeric"),
    controls=(
        Control("H1", "rotary positions act on the biased keys", rotated_keys, lanes=("symbolic", "numeric")),
        Control("H1", "soft-capping of the scores", capped_scores, lanes=("symbolic", "numeric")),
        Control("H2", "K=V: the biased keys are also the values", keys_are_values, lanes=("symbolic", "numeric")),
        Control("construction", "the query bias dropped instead", query_bias_dropped, lanes=("symbolic", "numeric")),
    ),
)


# -- value-bias-folds --------------------------------------------------------------------------------------------------


def value_bias_parts(w: Any) -> tuple[Any, ...]:
    shapes = {"S": "nn", "V": "nh", "b_V": "1h", "W_O": "hd", "b_O": "1d"}
    return tuple(w.integers(name, *shape) for name, shape in shapes.items())


def value_bias(w: Any) -> Pairs:
    s, v, b, P, c = value_bias_parts(w)
    A = w.softmax(s, rows="H1")
    return [(A @ (v + b) @ P + c, A @ v @ P + (c + b @ P))]


def value_bias_in_floats(w: Any) -> Pairs:
    a, x = w.attention(biases=True), w.matrix("X", "n", "d")
    return [(call(a, x), call(replace(a, b_V=None, b_O=a.b_O + a.b_V @ a.W_O), x))]


def rows_below_one(w: Any) -> Pairs:
    """Softmax with an extra 1 in the denominator: the rows sum to less than 1."""
    s, v, b, P, c = value_bias_parts(w)
    if w.lane == "symbolic":
        A = w.function("sink")(s)
    else:
        weights = w.exp(s)
        A = gauge.inverse(w.diagonal(weights @ w.ones("n") + 1)) @ weights
    return [(A @ (v + b) @ P + c, A @ v @ P + (c + b @ P))]


VALUE_BIAS = Claim(
    id="value-bias-folds",
    rank="remark",
    chapter=CHAPTER,
    title="A value bias is an output bias",
    statement="A bias $b_V$ on the values may be removed if the output bias becomes $b_O+b_VW_O$ (as many value heads as query heads).",
    hypotheses=(
        Hypothesis(
            "H1", "rows sum to one", "the rows of every map sum to 1: no attention dropout, no sink outside the sum"
        ),
    ),
    sources=(OURS,),
    sides=value_bias,
    special={"numeric": value_bias_in_floats},
    settings=square_keys,
    controls=(Control("H1", "a softmax with an extra 1 in its denominator", rows_below_one),),
)


# -- pattern-rank-threshold --------------------------------------------------------------------------------------------


def tokens_with_independent_rows(w: Any) -> Any:
    return w.full_row_rank("X", "n", "d", "H1")


def realized(w: Any) -> Pairs:
    x = tokens_with_independent_rows(w)
    back = gauge.right_inverse(x)
    U, Y = w.matrix("U", "n", "h"), w.matrix("Y", "n", "h")
    return [((x @ (back @ U)) @ (x @ (back @ Y)).mT, U @ Y.mT)]


def chosen_map(w: Any) -> tuple[Any, Any]:
    """(log A, A) for a random positive row-stochastic A; whole logarithms in base 2 where arithmetic is exact."""
    logs = w.integers("L", "n", "n")
    A = w.softmax(logs)
    return (logs, A) if w.lane == "exact" else (np.log(A), A)


def realized_in_numbers(w: Any) -> Pairs:
    logs, A = chosen_map(w)
    x = tokens_with_independent_rows(w)
    W_Q, W_K = head_for(logs, x, w.sizes["n"] - 1)
    return [(single_map(w, x @ W_Q, x @ W_K), A)]


def single_map(w: Any, q: Any, k: Any, mask: Any = None) -> Any:
    pattern = base_two if w.lane == "exact" else softmax
    return Heads(1, scale=1, mask=mask, pattern=pattern).maps(q, k)[0]


def narrower_head(w: Any) -> Pairs:
    """The best scores of rank n - 2 for a random map (Eckart-Young), and the map they give."""
    logs, A = chosen_map(w)
    u, s, v = np.linalg.svd(logs - logs.mean(1, keepdims=True))
    keep = w.sizes["n"] - 2
    return [(w.softmax((u[:, :keep] * s[:keep]) @ v[:keep]), A)]


def refused_head(w: Any) -> Pairs:
    logs, _ = chosen_map(w)
    return [(head_for(logs, tokens_with_independent_rows(w), w.sizes["n"] - 2)[0], logs)]


def repeated_token(w: Any) -> Pairs:
    logs, A = chosen_map(w)
    x = tokens_with_independent_rows(w)
    x = np.concatenate([x[:1], x[:-1]])  # the first token twice
    n = w.sizes["n"]
    U, K = (logs - logs[:, -1:])[:, :-1], np.eye(n)[:, :-1]
    back = np.linalg.pinv(x)
    return [(single_map(w, x @ back @ U, x @ back @ K), A)]


def masked_map(w: Any) -> Pairs:
    logs, A = chosen_map(w)
    x = tokens_with_independent_rows(w)
    W_Q, W_K = head_for(logs, x, w.sizes["n"] - 1)
    return [(single_map(w, x @ W_Q, x @ W_K, causal(w.sizes["n"])), A)]


def ranks_counted(_: Any) -> Pairs:
    """The rank of (log A) C for generic A is n - 1; for the map of a head of width w it is at most w, and w for a generic head."""
    pairs, rng = [], np.random.default_rng(0)
    for n in (3, 4, 5):
        centering = np.eye(n, dtype=int).astype(object) - np.full((n, n), Fraction(1, n), dtype=object)
        logs = fractions(rng, n, n)
        pairs.append((n - 1, rank(logs @ centering)))
        for width in range(1, n - 1):
            row_constants = fractions(rng, n, 1) @ np.full((1, n), Fraction(1), dtype=object)
            log_map = fractions(rng, n, width) @ fractions(rng, width, n) + row_constants
            pairs.append((width, rank(log_map @ centering)))
    return pairs


def fractions(rng: np.random.Generator, rows: int, cols: int) -> Any:
    return np.array([[Fraction(int(x)) for x in row] for row in rng.integers(-9, 10, (rows, cols))], dtype=object)


PATTERN_RANK = Claim(
    id="pattern-rank-threshold",
    rank="remark",
    chapter=CHAPTER,
    title="Which attention maps one head can produce",
    statement=(
        "(a) A head of width $d_h\\ge n-1$ can have any entrywise positive row-stochastic $A$ as its map. (b) In general $A$ is the map of "
        "a head of width $d_h$ if and only if $\\operatorname{rank}\\big((\\log A)C\\big)\\le d_h$, with $C$ the centering matrix; for a generic "
        "$A$ that rank is $n-1$. The lanes check (a), and the ranks in (b); the argument for (b) is on the page."
    ),
    hypotheses=(
        Hypothesis("H1", "independent tokens", "the rows of $X$ are linearly independent, so $n\\le d$"),
        Hypothesis(
            "H2",
            "no mask, bare scores",
            "every token may attend to every token, and the scores are $\\alpha qk^{\\top}$: no norm, no cap",
        ),
        Hypothesis("H3", "wide head", "for (a): the head is at least $n-1$ wide"),
    ),
    sources=(
        Source(
            "paper",
            "bhojanapalli2020lowrank",
            name="low-rank bottleneck",
            note="head width at least $n$ suffices; below $n$ some maps are unreachable",
        ),
        Source("derived", note="the threshold $n-1$ for independent tokens: softmax ignores one constant per row"),
    ),
    uses=("row-constants-invisible", "scores-bilinear"),
    kind="condition",
    lanes=("symbolic", "exact", "numeric", "count"),
    sides=realized,
    special={"exact": realized_in_numbers, "numeric": realized_in_numbers, "count": ranks_counted},
    settings=lambda s: plain_scores(s) and s.n <= s.d,
    controls=(
        Control("H1", "the first token twice: two rows of the map must agree", repeated_token, lanes=("numeric",)),
        Control("H2", "a causal mask on the same head", masked_map, lanes=("exact", "numeric")),
        Control("H3", "the best head of width $n-2$", narrower_head, lanes=("numeric",)),
        Control(
            "H3",
            "asking for a head of width $n-2$",
            refused_head,
            lanes=("exact", "numeric"),
            refused="head width at least n - 1",
        ),
    ),
)
