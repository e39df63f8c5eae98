"""A linear query buys no functions where the stream can take it over; one that is not linear does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from qkvtheory import freedom, gauge, redundancy
from qkvtheory.claims.degrees_of_freedom.dimensions import network_dimension
from qkvtheory.claims.degrees_of_freedom.identity_queries import SMALL
from qkvtheory.claims.model import Claim, Control, Hypothesis, Pairs, Source, call
from qkvtheory.claims.nonlinear_queries.common import (
    CHAPTER,
    NUMBERS,
    OURS,
    PAPER,
    bare_query,
    query,
    sublayer,
    verdict,
)
from qkvtheory.freedom import GPT2_SMALL, Architecture
from qkvtheory.queries import ResidualQuery, with_matrix

# -- linear-query-adds-nothing -----------------------------------------------------------------------------------------

FREE = {
    f"{topology}, L = {L}": replace(SMALL, layers=L, topology=topology)
    for topology in ("T0", "TA", "TM")
    for L in (1, 2)
}
FREE["T2, L = 1"] = SMALL
TWO = replace(SMALL, layers=2)


def lost(a: Architecture, own: str = "own") -> int:
    """Functional dimensions that a network loses with its queries, measured; ``own``: what its queries are."""
    return network_dimension(replace(a, queries=own)).rank - network_dimension(replace(a, queries="identity")).rank


def nothing_lost(_: Any) -> Pairs:
    """The networks that can take their queries over; and one W_Q for both layers."""
    return [*((0, lost(a)) for a in FREE.values()), (0, lost(TWO, "shared"))]


def nothing_counted(_: Any) -> Pairs:
    """By the formulas, there and at the sizes of GPT-2 small."""
    large = [replace(GPT2_SMALL, norm="none", topology=topology) for topology in ("T0", "TA", "TM")]
    large.append(replace(GPT2_SMALL, norm="none", layers=1))
    return [(0, freedom.query_identity_cost(a)) for a in (*FREE.values(), *large)]


def said_of(a: Architecture) -> Callable[[Any], Pairs]:
    return lambda _: [(0, lost(a))]


def lost_with_a_nonlinear_query(_: Any) -> Pairs:
    """Said of the scores of one head whose query is x + tanh(x W_1) W_2, with f and without it."""
    rng = np.random.default_rng(0)
    x, *weights = (rng.normal(size=shape) for shape in ((6, 2), (2, 2), (2, 1), (1, 2)))

    def scores(W_K: Any, W_1: Any, W_2: Any) -> Any:
        return ResidualQuery(np.tanh, W_1, W_2)(x) @ (x @ W_K).T

    def without(W_K: Any) -> Any:
        return scores(W_K, *(0 * weight for weight in weights[1:]))

    own, fixed = redundancy.functional_dimension(scores, weights), redundancy.functional_dimension(without, weights[:1])
    return [(0, own.rank - fixed.rank)]


LINEAR_QUERY_ADDS_NOTHING = Claim(
    id="linear-query-adds-nothing",
    rank="remark",
    chapter=CHAPTER,
    title="Where the stream takes it over, a linear query adds no functions",
    statement=(
        "Every network without norms and with at most one kind of skip, of one layer with both, or with one $W_Q$ for all layers, and with invertible $W_Q$, equals one with "
        "$W_Q=I$ in every layer: there a linear query buys a parametrization and no functions. The functional dimension, measured with free $W_Q$ and with $W_Q=I$, is the same."
    ),
    hypotheses=(
        Hypothesis(
            "H1",
            "a setting that absorbs $W_Q$",
            "no norm, and at most one kind of skip, or one layer, or one $W_Q$ shared by all layers",
        ),
        Hypothesis("H2", "a linear query", "the query is $xW_Q$ with an invertible $W_Q$, as generic ones are"),
    ),
    sources=(
        Source("paper", "karbevski2026nonlinear", note="the motivation of nonlinear queries"),
        Source("derived", note="the exact scope, and the ranks"),
    ),
    uses=(
        "eliminate-q",
        "skipless-elimination",
        "attn-skip-elimination",
        "mlp-skip-only-elimination",
        "one-layer-free",
        "shared-wq-elimination",
        "wq-identity-cost",
    ),
    lanes=("count", "rank"),
    kind="count",
    sides=nothing_counted,
    special={"count": nothing_counted, "rank": nothing_lost},
    controls=(
        Control("H1", "both skips, and a $W_Q$ for each of two layers", said_of(TWO), lanes=("rank",)),
        *(
            Control("H1", f"both skips and {norm}", said_of(replace(SMALL, norm=norm)), lanes=("rank",))
            for norm in ("RMSNorm", "LayerNorm")
        ),
        Control(
            "H1",
            "RMSNorm beside one kind of skip",
            said_of(replace(SMALL, topology="TA", norm="RMSNorm")),
            lanes=("rank",),
        ),
        Control("H2", "the query $x+\\tanh(xW_1)W_2$", lost_with_a_nonlinear_query, lanes=("rank",)),
        Control(
            "H1",
            "GPT-2 small as it is",
            lambda _: [(0, freedom.query_identity_cost(GPT2_SMALL))],
            lanes=("count",),
        ),
    ),
)


# -- nonlinear-query-beyond-orbit --------------------------------------------------------------------------------------

Map = Callable[[Any], Any]


def not_additive(q: Map, x: Any, y: Any) -> Any:
    """What a linear map makes zero."""
    return q(x + y) - q(x) - q(y)


def not_homogeneous(q: Map, x: Any) -> Any:
    return q(2 * x) - 2 * q(x)


def between(q: Map, theta: Any, phi: Any) -> Map:
    """The query in other bases of the stream and of what it gives: x -> q(x Theta) Phi."""
    return lambda x: q(x @ theta) @ phi


def two_tokens(w: Any) -> tuple[Any, Any]:
    return w.matrix("X", "n", "d"), w.matrix("X'", "n", "d")


def defect_kept(w: Any) -> Pairs:
    """What q lacks of linearity is f's; bases carry it along, and their inverses carry it back."""
    (x, y), q = two_tokens(w), query(w)
    theta, phi = (w.invertible(name, "d", "H2") for name in ("Theta", "Phi"))
    new, back, off = between(q, theta, phi), gauge.inverse(theta), gauge.inverse(phi)
    return [
        (not_additive(new, x @ back, y @ back) @ off, not_additive(q, x, y)),
        (not_homogeneous(new, x @ back) @ off, not_homogeneous(q, x)),
        (not_additive(q, x, y), not_additive(q.added, x, y)),
        (not_homogeneous(q, x), not_homogeneous(q.added, x)),
    ]


def identity_recovered(w: Any) -> Pairs:
    """f = 0 is W_Q = I; and in numbers the verdicts: new before and after a change of basis, in its scores too."""
    x, nothing = w.matrix("X", "n", "d"), sublayer(w, bare_query(w))
    pairs = [(call(nothing, x), call(with_matrix(nothing, w.identity("d")), x))]
    if w.lane not in NUMBERS:
        return pairs
    theta, phi, q = w.invertible("Theta", "d", "H2"), w.invertible("Phi", "d", "H2"), query(w)
    seen = seen_as_new(w, q) + seen_as_new(w, between(q, theta, phi))
    return [*pairs, (verdict(w, *seen), verdict(w, *[True] * len(seen)))]


def seen_as_new(w: Any, q: Map) -> list[bool]:
    """Is it seen not to be linear: its values, and the scores of one head as functions of the asking token?"""
    (x, y), keys = two_tokens(w), w.matrix("K", "n", "d")

    def scores(x: Any) -> Any:
        return q(x) @ keys.mT

    return [visible(w, not_additive(function, x, y)) for function in (q, scores)]


def visible(w: Any, defect: Any) -> bool:
    return bool((defect != 0).any() if w.lane == "exact" else abs(defect).max() > 1e-3)


def linear_query(w: Any, M: Any) -> ResidualQuery:
    """x + f(x) = x M, with the linear f(x) = x (M - I)."""
    return ResidualQuery(lambda z: z, w.identity("d"), M - w.identity("d"))


def linear_eliminated(w: Any) -> Pairs:
    """Its basis: q(x M^-1) = x."""
    M, x = w.invertible("M", "d", "H2"), w.matrix("X", "n", "d")
    return [(between(linear_query(w, M), gauge.inverse(M), w.identity("d"))(x), x)]


def linear_called_new(w: Any) -> Pairs:
    seen = seen_as_new(w, linear_query(w, w.matrix("M", "d", "d")))
    return [(verdict(w, *seen), verdict(w, *[True] * len(seen)))]


def nothing_arrives(w: Any) -> Pairs:
    """Phi = 0 makes every query linear."""
    (x, y), q, zero = two_tokens(w), query(w), 0 * w.identity("d")
    return [(not_additive(between(q, w.identity("d"), zero), x, y), 0 * x)]


def singular_bases(w: Any) -> Pairs:
    """Generalized inverses do not carry the defect back."""
    (x, y), q, ((theta, back), (phi, off)) = (
        two_tokens(w),
        query(w),
        (w.singular(name, "d") for name in ("Theta", "Phi")),
    )
    return [(not_additive(between(q, theta, phi), x @ back, y @ back) @ off, not_additive(q, x, y))]


NONLINEAR_QUERY_BEYOND_ORBIT = Claim(
    id="nonlinear-query-beyond-orbit",
    rank="remark",
    chapter=CHAPTER,
    title="A nonlinear query is new",
    statement=(
        "Let $q(x)=x+f(x)$ with $f$ not linear. No change of basis makes it linear: for invertible $\\Theta,\\Phi$ the map $x\\mapsto q(x\\Theta)\\Phi$ is linear "
        "**if and only if** $q$ is, because $q(x+y)-q(x)-q(y)$ is carried along, and it is that of $f$. With $f=0$ the query is $W_Q=I$. Generically the "
        "scores of a head are then outside the family that is bilinear in the tokens (checked on random instances)."
    ),
    hypotheses=(
        Hypothesis("H1", "not linear", "$f$ is not linear"),
        Hypothesis("H2", "invertible bases", "$\\Theta$ and $\\Phi$ are invertible"),
    ),
    sources=(PAPER, OURS),
    uses=("scores-bilinear",),
    sides=defect_kept,
    also=identity_recovered,
    kind="condition",
    settings=lambda s: s.cond <= 1e2 and s.name in ("multi-head attention", "one head", "causal mask"),
    controls=(
        Control("H1", "a linear $f$, $q(x)=xM$: back on the orbit, $q(xM^{-1})=x$", witness=linear_eliminated),
        Control("H1", "a linear $f$ called new", linear_called_new, lanes=NUMBERS),
        Control("H2", "generalized inverses of singular $\\Theta$, $\\Phi$", singular_bases),
        Control("H2", "$\\Phi=0$ makes every query linear", witness=nothing_arrives),
    ),
)
