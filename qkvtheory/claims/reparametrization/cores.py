"""Masks, positions, biases: what lies inside the core does not matter."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np

from qkvtheory import gauge
from qkvtheory.attention import Heads, rms_norm
from qkvtheory.claims.model import Claim, Control, Hypothesis, Pairs, Source
from qkvtheory.claims.reparametrization.lemma import (
    CHAPTER,
    OURS,
    SINGULAR,
    moved,
    stream,
)
from qkvtheory.lanes.settings import square_keys, top_k
from qkvtheory.network import Attention, Network

# -- masks, positions, biases ------------------------------------------------------------------------------------------


def has(*features: str) -> Any:
    return lambda s: any(f in s.features(s) for f in features)


def masked_by_tokens(w: Any) -> Pairs:
    """A mask computed from X itself: a token sees only tokens that are not longer than itself."""
    x, theta = stream(w)
    a = w.attention()

    def layer(attention: Attention, z: Any) -> Any:
        q, k, v = z @ attention.W_Q, z @ attention.W_K, z @ attention.W_V
        if w.lane == "symbolic" or not hasattr(attention.core, "mask"):
            return w.function("g", "o")(q, k, v, z) @ attention.W_O
        squares = (z * z).sum(1)
        keep = np.array([[bool(other <= own) for other in squares] for own in squares])
        return replace(cast(Heads, attention.core), mask=keep)(q, k, v) @ attention.W_O

    return [(layer(gauge.change_basis(a, theta), x @ theta), layer(a, x))]


ANY_MASK = Claim(
    id="lemma-any-mask",
    rank="remark",
    chapter=CHAPTER,
    title="Masks do not matter",
    statement=(
        "The lemma holds for every mask: causal, prefix, sliding window, random, different for every head, and also masks that "
        "depend on the scores (top-$k$ attention). All of them are inside $g$."
    ),
    hypotheses=(
        Hypothesis("H1", "mask from the products", "the mask is fixed, or computed from the three products only"),
        Hypothesis("H2", "invertible basis", "$\\Theta$ is invertible"),
    ),
    sources=(
        Source("paper", "karbevski2026wkwv", note="arbitrary mask"),
        Source("derived", note="masks that depend on the scores"),
    ),
    uses=("reparam-lemma",),
    sides=moved,
    settings=lambda s: has("mask")(s) or s.features(s).get("pattern") is top_k,
    controls=(Control("H1", "a mask computed from $X$ itself: longer tokens are hidden", masked_by_tokens), *SINGULAR),
)


def network_stream(w: Any, table: Any, theta: Any = None) -> Any:
    """Tokens times embedding plus the position table, as the package's Network computes it, before any block."""
    E, one = w.matrix("E", "vocab", "d"), w.identity("d")
    if theta is None:
        return Network(E, (), one, table)
    return Network(E @ theta, (), one, gauge.carried(table, theta))


def position_schemes(w: Any) -> Pairs:
    tokens, P = w.matrix("T", "n", "vocab"), w.matrix("P", "n", "d")
    _, theta = stream(w)
    old, new = network_stream(w, P)(tokens), network_stream(w, P, theta)(tokens)
    return [(new, old @ theta), *moved(w)]


def table_kept(w: Any) -> Pairs:
    tokens, P, E = w.matrix("T", "n", "vocab"), w.matrix("P", "n", "d"), w.matrix("E", "vocab", "d")
    theta = w.invertible("Theta", "d", "H2")
    return [(tokens @ (E @ theta) + P, (tokens @ E + P) @ theta)]


def rotated_before(w: Any) -> Pairs:
    x, theta = stream(w)
    a = w.attention()
    return [(gauge.change_basis(a, theta)(w.rotate(x @ theta)), a(w.rotate(x)))]


POSITION_SCHEMES = Claim(
    id="lemma-position-schemes",
    rank="remark",
    chapter=CHAPTER,
    title="Positions do not matter, except where they are weights",
    statement=(
        "The lemma holds unchanged for RoPE (any frequencies, partial RoPE), ALiBi and relative biases, because they act after the "
        "projections. Additive positions are part of the stream: $P\\mapsto P\\Theta$. A fixed sinusoidal table must be replaced by "
        "the constant table $P\\Theta$."
    ),
    hypotheses=(
        Hypothesis(
            "H1",
            "positions after the projections, or in the stream",
            "what acts on $X$ before the projections is carried along",
        ),
        Hypothesis("H2", "invertible basis", "$\\Theta$ is invertible"),
    ),
    sources=(OURS,),
    uses=("reparam-lemma",),
    sides=position_schemes,
    settings=has("rotate", "bias"),
    constructions=("change_basis", "carried"),
    controls=(
        Control("H1", "the position table kept while $E$ becomes $E\\Theta$", table_kept),
        Control("H1", "rotary positions applied to $X$ before the projections", rotated_before),
        *SINGULAR,
    ),
)


def bias_transformed(w: Any) -> Pairs:
    x, theta = stream(w)
    a = w.attention(square=True, biases=True)
    new = gauge.change_basis(a, theta)
    return [(replace(new, b_Q=a.b_Q @ gauge.inverse(theta))(x @ theta), a(x))]


def norm_first(w: Any) -> Pairs:
    """RMSNorm on X before the projections."""
    x, theta = stream(w)
    a = w.attention()
    norm = rms_norm() if w.lane == "numeric" else w.function("N")
    return [(gauge.change_basis(a, theta)(norm(x @ theta)), a(norm(x)))]


BIASES_QKNORM = Claim(
    id="lemma-biases-qknorm",
    rank="remark",
    chapter=CHAPTER,
    title="Biases, QK-norm and soft-capping are untouched",
    statement=(
        "$b_Q$, $b_K$, $b_V$, $b_O$, QK-norm with gains, soft-capping and logit scaling stay as they are: they act on the products, "
        "or after $W_O$."
    ),
    hypotheses=(
        Hypothesis("H1", "no norm before the projections", "norms act after the projections, not on $X$"),
        Hypothesis("H2", "invertible basis", "$\\Theta$ is invertible"),
    ),
    sources=(OURS,),
    uses=("three-products", "reparam-lemma"),
    sides=lambda w: moved(w, biases=True),
    settings=lambda s: s.biases or has("norm_q", "softcap")(s),
    controls=(
        Control("H1", "RMSNorm on $X$ before the projections", norm_first),
        *SINGULAR,
        Control(
            "construction",
            "$b_Q$ multiplied by $\\Theta^{-1}$ too",
            bias_transformed,
            settings=lambda s: s.biases and square_keys(s),
        ),
    ),
)
