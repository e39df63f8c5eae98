"""Exact conditions: when every core must agree."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from qkvtheory import gauge
from qkvtheory.attention import Heads
from qkvtheory.claims.model import Claim, Control, Hypothesis, Pairs, Source, call
from qkvtheory.claims.reparametrization.lemma import (
    CHAPTER,
    OURS,
)
from qkvtheory.claims.reparametrization.streams import single_head
from qkvtheory.lanes.settings import plain_scores, square_keys
from qkvtheory.network import Attention

# -- exact conditions --------------------------------------------------------------------------------------------------


def both_identities(w: Any) -> Pairs:
    """W_K = W_Q invertible: one basis makes both the identity."""
    x, W = w.matrix("X", "n", "d"), w.invertible("W_Q", "d", "H2")
    a = w.attention(square=True, W_Q=W, W_K=W)
    theta, new = gauge.reparametrize(a, "Q")
    return [(call(new, x @ theta), call(a, x)), (new.W_K, w.identity("d")), (new.W_Q, w.identity("d"))]


def both_forced(w: Any) -> Pairs:
    x = w.matrix("X", "n", "d")
    a = w.attention(square=True, W_Q=w.invertible("W_Q", "d", "H2"))
    theta, new = gauge.reparametrize(a, "Q")
    return [(replace(new, W_K=w.identity("d"))(x @ theta), a(x))]


def positive_definite_pair(w: Any) -> tuple[Any, ...]:
    """W_Q W_K^T = Theta Theta^T with W_Q and W_K different."""
    x, theta, W_Q = w.matrix("X", "n", "d"), w.invertible("Theta", "d", "H2"), w.invertible("W_Q", "d", "H2")
    return x, theta, W_Q, theta @ theta.mT @ gauge.inverse(W_Q).mT


def same_scores(w: Any) -> Pairs:
    x, theta, W_Q, W_K = positive_definite_pair(w)
    return [((x @ theta) @ (x @ theta).mT, (x @ W_Q) @ (x @ W_K).mT)]


def not_equal_projections(w: Any) -> Pairs:
    _, _, W_Q, W_K = positive_definite_pair(w)
    return [(W_K, W_Q)]


def numbers_counted(_: Any) -> Pairs:
    """A basis has d^2 numbers to choose; two identities ask for 2 d^2."""
    pairs = []
    for d in (2, 8, 16):
        W_Q, W_K, W_V, W_O = np.random.default_rng(d).normal(size=(4, d, d))
        theta, new = gauge.reparametrize(Attention(Heads(2), W_Q, W_K, W_V, W_O), "Q")
        fixed = sum(int((weight == np.eye(d)).all()) * weight.size for weight in (new.W_Q, new.W_K))
        pairs += [(d * d, theta.size), (theta.size, fixed), (2 * d * d, W_Q.size + W_K.size)]
    return pairs


NOT_TWO = Claim(
    id="not-two-at-once",
    rank="remark",
    chapter=CHAPTER,
    title="One basis buys one matrix",
    statement=(
        "With an invertible $\\Theta$ and equality demanded for every $g$, $\\tilde W_Q=I$ and $\\tilde W_K=I$ together are possible if and "
        "only if $W_Q=W_K$ and this matrix is invertible; likewise for the other pairs. The basis has $d^2$ numbers, and each matrix needs them all."
    ),
    hypotheses=(
        Hypothesis("H1", "every core", "the rewritten sublayer must agree for every $g$, not for one fixed $g$"),
        Hypothesis("H2", "equal and invertible", "$W_Q=W_K$ is invertible"),
    ),
    sources=(
        Source(
            "derived",
            note="that $\\Theta$ be invertible is stated, since a singular $W_Q=W_K$ may also work",
        ),
    ),
    uses=("reparam-lemma", "eliminable-iff", "eliminate-q"),
    kind="condition",
    lanes=("symbolic", "exact", "numeric", "count"),
    sides=both_identities,
    special={"count": numbers_counted},
    settings=square_keys,
    controls=(
        Control("H2", "both set to $I$ for independent $W_Q$ and $W_K$", both_forced, settings=plain_scores),
        Control(
            "H1",
            "one softmax head: both can be $I$ when $W_QW_K^{\\top}$ is symmetric positive definite, though $W_Q\\ne W_K$",
            not_equal_projections,
            witness=same_scores,
            settings=plain_scores,
        ),
    ),
)


def in_the_span(w: Any) -> Pairs:
    """W_K = W_Q A and W_V = W_Q B, for any W_Q at all: Theta = W_Q, and A, B are the new projections."""
    x, W_Q = w.matrix("X", "n", "d"), w.matrix("W_Q", "d", "p")
    A, B = w.matrix("A", "p", "k"), w.matrix("B", "p", "v")
    a = w.attention(W_Q=W_Q, W_K=W_Q @ A, W_V=W_Q @ B)
    new = replace(a, W_Q=w.identity("p"), W_K=A, W_V=B)
    return [(call(new, x @ W_Q), call(a, x))]


def narrow(w: Any) -> tuple[Any, Any, Any]:
    """A singular W_Q = P A, a Z with Z W_Q = 0, and a W_K outside its column space."""
    P = w.matrix("P", "d", "s")
    return P @ w.matrix("A_Q", "s", "d"), w.annihilator("Z", "n", P), w.matrix("W_K", "d", "d")


def outside_the_span(w: Any) -> Pairs:
    """If W_K were W_Q A, then Z W_K would be zero with Z W_Q."""
    W_Q, Z, W_K = narrow(w)
    return [(Z @ W_Q, Z @ W_K)]


def merged_although_singular(w: Any) -> Pairs:
    W_Q, _, W_K = narrow(w)
    x, a = w.matrix("X", "n", "d"), single_head(w, W_Q=W_Q, W_K=W_K)
    return [(gauge.merge_single_head(a)(x), a(x))]


ELIMINABLE_IFF = Claim(
    id="eliminable-iff",
    rank="remark",
    chapter=CHAPTER,
    title="The exact condition when every core must agree",
    statement=(
        "There are $\\Theta$, $\\tilde W_K$, $\\tilde W_V$ with $g(XW_Q,XW_K,XW_V)=g(X\\Theta,X\\Theta\\tilde W_K,X\\Theta\\tilde W_V)$ for all $g$ and $X$ "
        "**if and only if** $W_K=W_QA$ and $W_V=W_QB$ for some $A$, $B$. If $W_Q$ is square and $W_K$ or $W_V$ is square and "
        "invertible, this says that $W_Q$ is invertible. The lanes check the construction; that the condition is necessary is "
        "proved in the formal lane (take for $g$ the triple itself)."
    ),
    hypotheses=(
        Hypothesis("H1", "every core", "equality is demanded for all $g$ and all $X$ with at least one row"),
        Hypothesis("H2", "column spaces", "the columns of $W_K$ and $W_V$ lie in the column space of $W_Q$"),
    ),
    sources=(OURS,),
    uses=("three-products",),
    kind="condition",
    sides=in_the_span,
    controls=(
        Control(
            "H2", "a $W_Q$ with $ZW_Q=0$ and a $W_K$ outside its column space, so that $ZW_K\\ne0$", outside_the_span
        ),
        Control(
            "H1",
            "one softmax head: $\\tilde W_Q=I$ is possible although $ZW_Q=0$ and $ZW_K\\ne0$",
            outside_the_span,
            witness=merged_although_singular,
        ),
    ),
)
