"""Forms with two projections: three names of one, a third matrix that adds nothing, and the general one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from qkvtheory import linalg, tying
from qkvtheory.claims.degrees_of_freedom.common import (
    kernel_head,
    narrow,
    number,
    one_head,
    rank_of,
)
from qkvtheory.claims.keys_equal_values.common import (
    CHAPTER,
    KEYLESS,
    OURS,
    TIED,
    beside,
    plainest,
    size_of,
    tied_layer,
)
from qkvtheory.claims.model import AtMost, Claim, Control, Hypothesis, Pairs, Source, call
from qkvtheory.lanes import slow
from qkvtheory.network import Attention

NUMBERS = ("exact", "numeric")

# -- kv-names-equal ----------------------------------------------------------------------------------------------------


def three_names(w: Any) -> Pairs:
    """Q-K=V; QV: softmax(Q V^T) V; keyless: the scores X W_Q W_V^T X^T in the space of the values."""
    x, W_Q, Z = w.integers("X", "n", "d"), w.integers("W_Q", "d", "h"), w.integers("W_Z", "d", "h")
    tied = one_head(w, W_Q=W_Q, W_K=Z, W_V=Z)
    q, v = x @ W_Q, x @ Z
    qv = w.softmax(q @ v.mT) @ v @ tied.W_O
    keyless = w.softmax(x @ (W_Q @ Z.mT) @ x.mT) @ (x @ Z) @ tied.W_O
    return [(call(tied, x), qv), (call(tied, x), keyless)]


def three_names_in_numbers(w: Any) -> Pairs:
    """The package's layer, from a cache and at once, against loops over heads and pairs of tokens."""
    layer, x = tied_layer(w), w.matrix("X", "n", "d")
    n, plain = len(x), layer.attention(len(x))
    first, cache = layer.decode(x[: n // 2])
    rest, _ = layer.decode(x[n // 2 :], cache)
    written = slow.attention(Attention(plain.core, layer.W_Q, layer.W_Z, layer.W_Z, layer.W_O), x)
    return [(plain(x), written), (np.concatenate([first, rest]), written)]


def names_counted(_: Any) -> Pairs:
    """Under every name a layer is built with three square matrices, W_O among them, and stores one vector of a token."""
    pairs: list[Any] = []
    for name in ("Q-K=V", "QV", "keyless", "QVV(2)", "K=V"):
        (stored,) = tying.build(name, 12, 4).stored(np.ones((1, 12)))
        pairs += [(3 * 12**2, size_of(name)), (12, stored.size)]
    return pairs


def keys_are_queries(w: Any) -> Pairs:
    """What Borji 2023 calls KV: the keys are read as queries, and the values are on their own."""
    x, Z, W_Q = w.integers("X", "n", "d"), w.integers("W_Z", "d", "h"), w.integers("W_Q", "d", "h")
    other, core = one_head(w, core=kernel_head(w), W_Q=Z, W_K=Z), kernel_head(w)
    return [(one_head(w, core=core, W_Q=W_Q, W_K=Z, W_V=Z)(x), other(x))]


def two_projections(w: Any) -> Pairs:
    x, a = w.integers("X", "n", "d"), one_head(w, core=kernel_head(w))
    return [(a(x), replace(a, W_V=a.W_K)(x))]


NAMES_EQUAL = Claim(
    id="kv-names-equal",
    rank="remark",
    chapter=CHAPTER,
    title="One object, three names",
    statement=(
        "Q-K=V, QV and keyless QVV(2) are the same function: $\\operatorname{softmax}(\\alpha QZ^{\\top})Z$ with $Z=XW_Z$. Keyless attention "
        "writes its scores as $XW_QW_V^{\\top}X^{\\top}$."
    ),
    hypotheses=(Hypothesis("H1", "one projection", "keys and values are one projection, $W_K=W_V=W_Z$"),),
    sources=(
        TIED,
        Source("paper", "zhang2026qv", name="QV"),
        Source("reported", KEYLESS, name="QVV(2)"),
        Source("code", "kayyam2026three", note="the authors note that keyless attention is their Q-K=V"),
    ),
    lanes=("symbolic", "exact", "numeric", "count"),
    sides=three_names,
    special={"exact": three_names_in_numbers, "numeric": three_names_in_numbers, "count": names_counted},
    settings=plainest,
    deep=True,
    controls=(
        Control("H1", "separate keys and values", two_projections),
        Control("construction", "the other meaning of 'KV': queries equal to keys", keys_are_queries),
        Control(
            "construction",
            "the weights of Q=K-V in the count, with grouped keys",
            lambda _: [(size_of("Q-GQA-2"), size_of("Q=K-V"))],
            lanes=("count",),
        ),
    ),
)


# -- qvv3-equals-qvv2 --------------------------------------------------------------------------------------------------


def keyless(w: Any, W_Q: Any, core: Any = None) -> Attention:
    """QVV(2): keys are values."""
    V = w.integers("W_V", "d", "h")
    return one_head(w, core=core or w.head, W_Q=W_Q, W_K=V, W_V=V)


def with_factor(w: Any, W_Q: Any, W_R: Any, core: Any = None) -> Any:
    """QVV(3): the scores X W_Q W_R W_V^T X^T."""
    x, a = w.integers("X", "n", "d"), keyless(w, W_Q)
    return (core or w.head)((x @ W_Q) @ W_R, x @ a.W_V, x @ a.W_V) @ a.W_O


def one_class(w: Any) -> Pairs:
    """Every QVV(3) is the QVV(2) of the product, and every QVV(2) the QVV(3) with W_R = I."""
    x, W_Q, W_R = w.integers("X", "n", "d"), w.integers("W_Q", "d", "h"), w.integers("W_R", "h", "h")
    return [
        (with_factor(w, W_Q, W_R), call(keyless(w, W_Q @ W_R), x)),
        (with_factor(w, W_Q, w.identity("h")), call(keyless(w, W_Q), x)),
    ]


def singular_factor(w: Any) -> Pairs:
    """W_R of one rank less, held fixed: the best W_Q before it does not reach every QVV(2)."""
    (W_R, back), W_Q, core = w.singular("W_R", "h"), w.integers("W_Q", "d", "h"), kernel_head(w)
    return [(with_factor(w, W_Q @ back, W_R, core), keyless(w, W_Q, core)(w.integers("X", "n", "d")))]


def transposed_factor(w: Any) -> Pairs:
    x, W_Q, W_R = w.integers("X", "n", "d"), w.integers("W_Q", "d", "h"), w.integers("W_R", "h", "h")
    return [(with_factor(w, W_Q, W_R), keyless(w, W_Q @ W_R.mT)(x))]


QVV3 = Claim(
    id="qvv3-equals-qvv2",
    rank="remark",
    chapter=CHAPTER,
    title="A third matrix for the queries adds nothing",
    statement=(
        "QVV(3), with the scores $XW^QW^R(W^V)^{\\top}X^{\\top}$, has the function class of QVV(2): $W^QW^R$ ranges over all $d\\times d_h$ "
        "matrices, as $W^R=I$ shows. It differs in its weights and in training."
    ),
    hypotheses=(Hypothesis("H1", "square and free", "$W^R$ is a free $d_h\\times d_h$ matrix"),),
    sources=(Source("reported", KEYLESS, note="both forms"), OURS),
    uses=("kv-names-equal",),
    sides=one_class,
    settings=plainest,
    controls=(
        Control("H1", "$W^R$ held fixed at a rank below $d_h$", singular_factor),
        Control("construction", "$W^{R\\top}$ in the place of $W^R$", transposed_factor),
    ),
)


# -- keyless-rank-bound ------------------------------------------------------------------------------------------------

FORMS = (  # n, d, d_z, d_h, d_v: each of them is once the smallest
    (1, 3, 2, 2, 2),
    (3, 1, 2, 2, 2),
    (3, 3, 1, 2, 2),
    (3, 3, 2, 1, 2),
    (3, 3, 2, 2, 1),
    (3, 3, 2, 2, 2),
)


def general_form(w: Any, n: int, d: int, z: int, h: int, v: int) -> Any:
    """X W_Z R_Q W_R R_V^T W_Z^T X^T for these sizes."""
    names = {"X": (n, d), "W_Z": (d, z), "R_Q": (z, h), "W_R": (h, v), "R_V": (z, v)}
    X, W_Z, R_Q, W_R, R_V = (w.matrix(name, "d", "d")[:rows, :cols] for name, (rows, cols) in names.items())
    return X @ W_Z @ R_Q @ W_R @ R_V.mT @ W_Z.mT @ X.mT


def ranks(w: Any, bound: Any) -> Pairs:
    return [(number(w, rank_of(general_form(w, *sizes))), number(w, bound(sizes))) for sizes in FORMS]


def widths_alone(w: Any) -> Pairs:
    """min(d_z, d_h, d_v), whatever the numbers of tokens and of the stream's coordinates are."""
    return ranks(w, lambda sizes: min(sizes[2:]))


def rank_and_blocks(w: Any) -> Pairs:
    """The bound, which generic floats reach (small whole numbers need not be generic); and the construction by blocks."""
    bounds = ranks(w, min)
    x, a = w.matrix("X", "n", "d"), one_head(w)
    W_Z, R_Q, R_V = blocks(w, a)
    seen = (x @ W_Z @ R_Q) @ (x @ W_Z @ R_V).mT
    reached = bounds if w.lane == "numeric" else []
    return [*(AtMost(*b) for b in bounds), *reached, (seen, (x @ a.W_Q) @ (x @ a.W_V).mT), (x @ W_Z @ R_V, x @ a.W_V)]


def blocks(w: Any, a: Attention) -> tuple[Any, Any, Any]:
    """W_Z = [W_Q | W_V], and the matrices that take its two halves."""
    one = w.identity("h")
    return beside(a.W_Q, a.W_V), np.concatenate([one, one * 0]), np.concatenate([one * 0, one])


def one_column_less(w: Any) -> Pairs:
    """d_z = d_h + d_v - 1: the values, brought as near as that allows."""
    a = one_head(w)
    W_Z = beside(a.W_Q, a.W_V)[:, :-1]
    return [(W_Z @ (linalg.right_inverse(W_Z.mT).mT @ a.W_V), a.W_V)]


def cache_widths(_: Any) -> Pairs:
    """Numbers per token: Z = [Q | V] against a cache of keys and values, for whole layers of any number of heads."""
    pairs = []
    for d, heads in ((8, 1), (8, 2), (12, 4)):
        layer, x = tying.build("QKV", d, heads), np.ones((1, d))
        W_Z = beside(layer.weights()["W_Q"], layer.weights()["W_V"])
        pairs.append((sum(a.shape[1] for a in layer.stored(x)), W_Z.shape[1]))
    return pairs


def saving_claimed(_: Any) -> Pairs:
    (kept,) = tying.build("Q-K=V", 8, 2).stored(np.ones((1, 8)))
    return [(kept.shape[1], predicted) for predicted, _ in cache_widths(None)[1:2]]


KEYLESS_BOUND = Claim(
    id="keyless-rank-bound",
    rank="remark",
    chapter=CHAPTER,
    title="General forms with two projections",
    statement=(
        "Scores $XW_ZR_Q\\,W_R\\,R_V^{\\top}W_Z^{\\top}X^{\\top}$ have rank at most $\\min(n,d,d_z,d_h,d_v)$, and generic ones have it. With "
        "$d_z\\ge d_h+d_v$, $W_Z=[W_Q\\mid W_V]$ expresses any form with two projections; but then the cached $Z=XW_Z$ is as wide as keys and "
        "values together, and nothing is saved."
    ),
    hypotheses=(Hypothesis("H1", "wide", "for the construction: $d_z\\ge d_h+d_v$"),),
    sources=(
        Source("code", "kayyam2026three", note="the bound, in the authors' notes"),
        Source("derived", note="what it does to the cache"),
    ),
    lanes=("exact", "numeric", "count"),
    sides=rank_and_blocks,
    special={"count": cache_widths},
    settings=narrow,
    controls=(
        Control("H1", "$d_z=d_h+d_v-1$, as near as that allows", one_column_less, NUMBERS),
        Control(
            "construction",
            "the rank $\\min(d_z,d_h,d_v)$ also of fewer tokens, or of a narrower stream",
            widths_alone,
            NUMBERS,
        ),
        Control("construction", "a cache as small as with keys equal to values", saving_claimed, ("count",)),
    ),
)
