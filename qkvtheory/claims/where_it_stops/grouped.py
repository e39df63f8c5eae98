"""Grouped keys and values: too narrow to become the identity."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from qkvtheory import gauge, lossless, tying
from qkvtheory.attention import Heads
from qkvtheory.claims.kv_cache.slim import grouped_refused, narrow_solved
from qkvtheory.claims.model import Claim, Control, Hypothesis, Pairs, Source, call
from qkvtheory.claims.reparametrization.shapes import key_elimination_works, selected, taken
from qkvtheory.claims.where_it_stops.skips import CHAPTER
from qkvtheory.errors import HypothesisError
from qkvtheory.lanes.settings import grouped, square_keys
from qkvtheory.network import Attention

D = 8
GROUPED = tuple((heads, groups) for heads in (2, 4, 8) for groups in (1, 2, 4) if groups < heads)


def layer(heads: int, groups: int, head_width: int) -> Attention:
    """A sublayer of these sizes, the stream D wide."""
    rng, (p, k) = np.random.default_rng(heads), (heads * head_width, groups * head_width)
    W_Q, W_K, W_V = (rng.normal(size=(D, width)) for width in (p, k, k))
    return Attention(Heads(heads, groups), W_Q, W_K, W_V, rng.normal(size=(p, D)))


def slim_works(heads: int, groups: int) -> bool:
    """Can the cache of values be left out?"""
    try:
        lossless.slim(tying.build("QKV" if groups == heads else f"GQA-{groups}", D, heads))  # type: ignore[arg-type]
    except HypothesisError:
        return False
    return True


def narrow(_: Any) -> Pairs:
    """In every basis keys and values have rank g d_h < d, so neither can be I; and values cannot be made from keys."""
    pairs: list[tuple[int, int]] = []
    for heads, groups in GROUPED:
        a, width = layer(heads, groups, D // heads), groups * D // heads
        basis = np.random.default_rng(groups).normal(size=(D, D))
        pairs += [(width, int(np.linalg.matrix_rank(read))) for read in gauge.reads(basis, a.W_K, a.W_V)]
        pairs += [(0, int(taken(a, which))) for which in "KV"] + [(0, int(slim_works(heads, groups)))]
    return pairs


def as_many_key_heads(_: Any) -> Pairs:
    return [(0, int(taken(layer(4, 4, D // 4), "K"))), (0, int(slim_works(4, 4)))]


def wide_heads(_: Any) -> Pairs:
    """Heads twice as wide: g d_h = d, so W_K is square although it is grouped."""
    return [(0, int(taken(layer(4, 2, D // 2), "K")))]


def wide_keys_eliminated(w: Any) -> Pairs:
    """Heads so wide that g d_h = d: W_K is square although it is grouped, and a basis makes it the identity."""
    core, x, W_K, W_V = w.core(), w.matrix("X", "n", "d"), w.invertible("W_K", "d", "H2"), w.matrix("W_V", "d", "d")
    parts = range(core.heads // core.kv_heads)  # W_Q and W_O are this many times as wide as the stream
    W_Q = np.concatenate([w.matrix(f"W_Q^{part}", "d", "d") for part in parts], axis=1)
    W_O = np.concatenate([w.matrix(f"W_O^{part}", "d", "d") for part in parts], axis=0)
    a = Attention(core, W_Q, W_K, W_V, W_O)
    theta, new = gauge.reparametrize(a, "K")
    return [(call(new, x @ theta), call(a, x)), (new.W_K, w.identity("d"))]


def first_coordinates(w: Any) -> Pairs:
    """Keys read off the first coordinates in a basis that was not made for it."""
    x, a, theta = w.matrix("X", "n", "d"), w.attention(), w.invertible("Theta", "d")
    new = gauge.change_basis(a, theta)
    return [(replace(new, W_K=w.identity("d")[:, : a.W_K.shape[1]])(x @ theta), a(x))]


def identity_asked(w: Any) -> Pairs:
    theta, _ = gauge.reparametrize(w.attention(), "K")
    return [(theta, theta)]


GQA_KV_STOP = Claim(
    id="gqa-kv-stop",
    rank="remark",
    chapter=CHAPTER,
    title="Grouped keys and values cannot be the identity",
    statement=(
        "With $g<H$ key/value heads and $Hd_h=d$, the matrices $W_K$ and $W_V$ are $d\\times gd_h$ with $gd_h<d$. In every basis their rank is at "
        "most $gd_h$, so neither becomes $I$, and the keys of generic weights do not determine the values. What remains, where the columns are independent: a basis in which they read off "
        "coordinates of the stream, keys, values, or, where $2gd_h\\le d$, both."
    ),
    hypotheses=(
        Hypothesis("H1", "grouped keys", "there are fewer key/value heads than query heads, $g<H$"),
        Hypothesis("H2", "heads as wide as the stream allows", "$Hd_h=d$, so that $gd_h<d$"),
    ),
    sources=(Source("derived"),),
    uses=("gqa-only-q", "column-selection", "slim-exact"),
    lanes=("exact", "numeric", "count"),
    sides=lambda w: [*selected(w, "K"), *selected(w, "V"), *selected(w, "KV")],
    special={"count": narrow},
    settings=grouped,
    constructions=("select_columns", "change_basis"),
    controls=(
        Control(
            "H1",
            "as many key heads as query heads: $W_K$ becomes $I$",
            witness=key_elimination_works,
            lanes=("exact", "numeric"),
            settings=square_keys,
        ),
        Control(
            "H1",
            "as many key heads as query heads: no elimination predicted all the same",
            as_many_key_heads,
            lanes=("count",),
        ),
        Control(
            "H2",
            "wider heads, $gd_h=d$: a grouped $W_K$ becomes $I$",
            witness=wide_keys_eliminated,
            lanes=("exact", "numeric"),
        ),
        Control("H2", "wider heads: no elimination predicted all the same", wide_heads, lanes=("count",)),
        Control(
            "construction",
            "keys read off the first coordinates in any basis",
            first_coordinates,
            lanes=("exact", "numeric"),
        ),
        Control("construction", "asking for $W_K=I$", identity_asked, lanes=("exact", "numeric"), refused="square"),
        Control(
            "construction",
            "values made from grouped keys, as well as least squares can",
            narrow_solved,
            lanes=("numeric",),
            settings=square_keys,
        ),
        Control(
            "construction",
            "asking for values from grouped keys",
            grouped_refused,
            lanes=("exact", "numeric"),
            refused="multi-head attention",
        ),
    ),
)
