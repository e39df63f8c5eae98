"""The basis freedom that an identity beside the query leaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from qkvtheory import gauge, queries, redundancy
from qkvtheory.attention import Heads
from qkvtheory.claims.degrees_of_freedom.common import bare_heads, in_words
from qkvtheory.claims.model import Claim, Control, Hypothesis, Pairs, call
from qkvtheory.claims.nonlinear_queries.common import CHAPTER, NUMBERS, OURS, blocks, query, sublayer
from qkvtheory.claims.where_it_stops.norms import layer_norm, rms
from qkvtheory.lanes.settings import Setting, square_keys
from qkvtheory.norms import RMSNorm


def basis(w: Any) -> Any:
    return blocks(w, lambda name, size: w.invertible(name, size, "H2"))


def turns(w: Any) -> Any:
    """Rotations, which an RMSNorm lets through."""
    return blocks(w, lambda name, size: w.orthogonal(name, size, "H1"))


def turns_that_fix_ones(w: Any) -> Any:
    """What a LayerNorm lets through, too."""
    return blocks(w, lambda name, size: w.fixing_ones(name, size, "H1", "H1"))


def rebased(w: Any, q: Any, theta: Any, biases: bool = False) -> tuple[Any, Any, Any]:
    """Both sublayers as calls, and the pair of their key biases if they have some."""
    old, x = sublayer(w, q, biases), w.matrix("X", "n", "d")
    new = queries.rebase_query(old, theta)
    return call(new, x @ theta), call(old, x), (new, old)


def carried_along(w: Any) -> Pairs:
    """The sublayer, and the query alone: q(x Theta) = q(x) Theta."""
    theta, x = basis(w), w.matrix("X", "n", "d")
    new, old, (moved, before) = rebased(w, query(w), theta)
    return [(new, old), (moved.query(x @ theta), before.query(x) @ theta)]


def past_norms(w: Any) -> Pairs:
    """Biases; and norms inside the query, with the bases that they let through (words know no LayerNorm of a product).

    Softmax would not miss a key bias, so it is looked at.
    """
    theta = basis(w)
    new, old, (moved, before) = rebased(w, query(w), theta, biases=True)
    pairs = [(new, old), (moved.b_K @ theta.mT, before.b_K), rebased(w, query(w, inner_norm=rms(w)), turns(w))[:2]]
    if not in_words(w):
        pairs.append(rebased(w, query(w, inner_norm=rms(w), outer_norm=layer_norm(w)), turns_that_fix_ones(w))[:2])
    return pairs


def forced(w: Any, q: Any, theta: Any, back: Any = None) -> Pairs:
    """The weights of the construction with whatever basis, and nobody asks whether it may be."""
    old, x = sublayer(w, q), w.matrix("X", "n", "d")
    back = gauge.inverse(theta) if back is None else back
    W_K, W_V = gauge.reads(back, old.W_K, old.W_V)
    new = replace(old, query=queries.moved_query(q, back, theta), W_K=W_K @ back.mT, W_V=W_V)
    return [(new(x @ theta), old(x))]


def refused(w: Any, q: Any, theta: Any) -> Pairs:
    return [(queries.rebase_query(sublayer(w, q), theta).W_K, sublayer(w, q).W_K)]


def one_head(w: Any, between: Callable[[Any], Any]) -> Pairs:
    """The scores of one head as wide as the stream, with a function between queries or keys and the scores."""
    x, q, theta = w.matrix("X", "n", "d"), query(w), w.invertible("Theta", "d", "H2")
    old = replace(sublayer(w, q), core=lambda q, k, v: between(q) @ between(k).mT @ v)
    new = queries.rebase_query(old, theta)
    return [(new(x @ theta), old(x))]


def behind_a_norm(w: Any) -> Pairs:
    """RMSNorm on the stream, in front of queries, keys and values."""
    x, theta, N = w.matrix("X", "n", "d"), basis(w), rms(w)
    old = sublayer(w, query(w))
    return [(queries.rebase_query(old, theta)(N(x @ theta)), old(N(x)))]


def keys_not_transposed(w: Any) -> Pairs:
    theta, x, old = basis(w), w.matrix("X", "n", "d"), sublayer(w, query(w))
    new = queries.rebase_query(old, theta)
    return [(replace(new, W_K=new.W_K @ theta.mT @ gauge.inverse(theta))(x @ theta), old(x))]


def outputs_not_carried(w: Any) -> Pairs:
    """f writes as before, and the identity beside it is in the new basis."""
    theta, x, q = basis(w), w.matrix("X", "n", "d"), query(w)
    old = sublayer(w, q)
    new: Any = queries.rebase_query(old, theta)
    return [(replace(new, query=replace(new.query, W_2=q.W_2))(x @ theta), old(x))]


def bare_mild(s: Setting) -> bool:
    """The keys hold the inverse of Theta twice, so the error is that of the square of its condition number."""
    return bare_heads(s) and s.cond <= 1e2


MEASURED, UNITS = 4, 2  # width of the stream and of the bottleneck where ranks are measured


@cache
def redundancy_of(heads: int, normed: bool = False) -> int:
    """Parameters less dimension of embedding and sublayer, with a tanh inside the query and outputs seen as they are."""
    d, vocabulary, rows = MEASURED, 5, 40  # of the rows, four at a time are a sequence
    rng, sequence = np.random.default_rng(0), np.arange(rows) // 4
    shapes = [(vocabulary, d), (d, UNITS), (UNITS, d), (d, d), (d, d)]
    weights = [2 * rng.normal(size=shape) / np.sqrt(shape[0]) for shape in shapes]
    tokens, norm = rng.normal(size=(rows, vocabulary)), RMSNorm(eps=0.1) if normed else None
    core = Heads(heads, mask=sequence[:, None] == sequence[None, :], pattern=redundancy.analytic_softmax)

    def run(E: Any, W_1: Any, W_2: Any, W_K: Any, W_V: Any) -> Any:
        query = queries.ResidualQuery(np.tanh, W_1, W_2, norm)
        return queries.QueryAttention(core, query, W_K, W_V, np.eye(d))(tokens @ E)

    return sum(weight.size for weight in weights) - redundancy.functional_dimension(run, weights).rank


def bases_measured(_: Any) -> Pairs:
    """One square block for each head; under a norm one rotation for each."""
    d, pairs = MEASURED, []
    for heads in (1, 2, 4):
        width = d // heads
        pairs += [(d * width, redundancy_of(heads)), (d * (width - 1) // 2, redundancy_of(heads, normed=True))]
    return pairs


def several(s: Setting) -> bool:
    return bare_mild(s) and s.heads > 1


def rotated(s: Setting) -> bool:
    return square_keys(s) and "rotate" in s.features(s)


NONLINEAR_QUERY_GAUGE = Claim(
    id="nonlinear-query-gauge",
    rank="remark",
    chapter=CHAPTER,
    title="What an identity beside the query leaves of the basis freedom",
    statement=(
        "Let $q(x)=x+\\varphi(xW_1)W_2$ ask in the place of $xW_Q$. In the basis $\\Theta$ of the stream the query "
        "$x+\\varphi(x\\,\\Theta^{-1}W_1)\\,W_2\\Theta$ gives $q(x)\\Theta$ on $x\\Theta$, and with the keys $\\Theta^{-1}W_K\\Theta^{-\\top}$ and the "
        "values $\\Theta^{-1}W_V$ the sublayer is the same function. The identity carries $\\Theta$ into the heads. If every head is to keep its scores, with an invertible $W_K$, it must be "
        "$\\operatorname{diag}(G_1,\\dots,G_H)$, with one block for each head: of the $d^2$ dimensions of bases $Hd_h^2=dd_h$ are left. An RMSNorm inside "
        "the query lets orthogonal blocks through only, $d\\frac{d_h-1}2$ dimensions (both measured as ranks for small sizes); a LayerNorm behind $W_2$, as in the published form, only those that fix the all-ones direction too "
        "and leave its gain alone, which no weight reads."
    ),
    hypotheses=(
        Hypothesis(
            "H1",
            "no norm that sees the basis",
            "no norm stands inside the query or before the sublayer (or it lets $\\Theta$ through)",
        ),
        Hypothesis("H2", "invertible", "$\\Theta$ is invertible"),
        Hypothesis("H3", "inside the heads", "$\\Theta$ has one block for each head on its diagonal"),
        Hypothesis("H4", "bare scores", "there is no RoPE, no QK-norm, and no key head serves two query heads"),
    ),
    sources=(OURS,),
    uses=("r-products", "head-gauge", "rmsnorm-orthogonal-only", "layernorm-fixes-ones", "post-norm-gain"),
    lanes=("symbolic", "exact", "numeric", "rank"),
    sides=carried_along,
    also=past_norms,
    special={"rank": bases_measured},
    settings=bare_mild,
    deep=True,
    constructions=("rebase_query", "moved_query"),
    controls=(
        Control(
            "H1",
            "RMSNorm inside the query, and a $\\Theta$ that is not orthogonal",
            lambda w: forced(w, query(w, inner_norm=rms(w)), basis(w)),
        ),
        Control(
            "H1",
            "asking for it with an RMSNorm inside the query",
            lambda w: refused(w, query(w, inner_norm=rms(w)), basis(w)),
            refused="no norm",
        ),
        Control(
            "H1",
            "LayerNorm behind $W_2$, and a rotation that moves the all-ones direction",
            lambda w: forced(w, query(w, outer_norm=layer_norm(w)), turns(w), turns(w).mT),
        ),
        Control(
            "H1",
            "asking for it with a LayerNorm behind $W_2$",
            lambda w: refused(w, query(w, outer_norm=layer_norm(w)), turns(w)),
            refused="no norm",
        ),
        Control("H1", "RMSNorm on the stream", behind_a_norm),
        Control(
            "H1",
            "RMSNorm inside the query: a square block for each head predicted all the same",
            lambda _: [(MEASURED * MEASURED // 2, redundancy_of(2, normed=True))],
            lanes=("rank",),
        ),
        Control(
            "H2",
            "a generalized inverse of a singular $\\Theta$",
            lambda w: forced(w, query(w), *w.singular("Theta", "d")),
            settings=lambda s: bare_mild(s) and s.heads == 1,
        ),
        Control(
            "H2",
            "asking for it with a singular $\\Theta$",
            lambda w: refused(w, query(w), w.singular("Theta", "d")[0]),
            refused="invertible",
        ),
        Control(
            "H3",
            "one invertible matrix across the heads",
            lambda w: forced(w, query(w), w.invertible("Theta", "d")),
            lanes=NUMBERS,
            settings=several,
        ),
        Control(
            "H3",
            "asking for one matrix across the heads",
            lambda w: refused(w, query(w), w.invertible("Theta", "d")),
            lanes=NUMBERS,
            refused="same head spaces",
            settings=several,
        ),
        Control(
            "H3",
            "all $d^2$ dimensions of bases predicted for two heads",
            lambda _: [(MEASURED**2, redundancy_of(2))],
            lanes=("rank",),
        ),
        Control("H4", "RoPE between queries and scores", lambda w: one_head(w, w.rotate)),
        Control("H4", "a norm between queries and scores", lambda w: one_head(w, w.function("N"))),
        Control(
            "H4",
            "asking for it with RoPE",
            lambda w: refused(w, query(w), basis(w)),
            lanes=NUMBERS,
            refused="bare scores",
            settings=rotated,
        ),
        Control("construction", "$W_K\\Theta^{-1}$ in the place of $W_K\\Theta^{-\\top}$", keys_not_transposed),
        Control("construction", "$W_2$ left as it was", outputs_not_carried),
    ),
)
