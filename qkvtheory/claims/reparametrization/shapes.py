"""Shapes: grouped keys, selected columns, wide queries."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from qkvtheory import gauge
from qkvtheory.claims.model import Claim, Control, Hypothesis, Pairs, Source, call
from qkvtheory.claims.reparametrization.lemma import (
    CHAPTER,
    OURS,
    eliminated,
    refused_projection,
    with_reads,
)
from qkvtheory.lanes.settings import Setting, grouped, plain_scores, square_keys
from qkvtheory.network import Attention

# -- shapes: grouped keys, columns, wide queries -----------------------------------------------------------------------


def key_elimination_works(w: Any) -> Pairs:
    return eliminated(w, "K")


def shapes_counted(_: Any) -> Pairs:
    """For every number of groups: is W_K square, and does the construction take it?"""
    pairs = []
    for heads, groups in ((h, g) for h in (1, 2, 4, 8) for g in (1, 2, 4, 8) if h % g == 0):
        s = Setting("", heads=heads, groups=groups, d=16)
        W_Q, W_K, W_V = (np.eye(16)[:, : s.sizes[size]] for size in "pkv")
        a = Attention(s.core(), W_Q, W_K, W_V, np.eye(16))
        pairs.append((int(groups == heads), int(taken(a, "K"))))
        pairs.append((1, int(taken(a, "Q"))))
    return pairs


def taken(a: Attention, which: str) -> bool:
    try:
        gauge.reparametrize(a, which)
    except gauge.HypothesisError:
        return False
    return True


GQA_ONLY_Q = Claim(
    id="gqa-only-q",
    rank="remark",
    chapter=CHAPTER,
    title="With grouped keys only the query projection can become the identity",
    statement=(
        "With $g<H$ key/value heads, as wide as the query heads, and $Hd_h=d$, no $\\Theta$ makes $W_K$ or $W_V$ the identity: they are $d\\times gd_h$ with $gd_h<d$. "
        "Eliminating $W_Q$ works as before."
    ),
    hypotheses=(
        Hypothesis("H1", "grouped keys", "$g<H$: fewer key/value heads than query heads"),
        Hypothesis("H2", "invertible query projection", "$W_Q$ is square and invertible"),
    ),
    sources=(Source("reported", "karbevski2026nonlinear", note="for grouped queries"), Source("paper", "graef2024kv")),
    uses=("reparam-lemma", "eliminate-q"),
    lanes=("symbolic", "exact", "numeric", "count"),
    sides=lambda w: eliminated(w, "Q"),
    also=lambda w: eliminated(w, "Q", biases=True),
    special={"count": shapes_counted},
    settings=grouped,
    controls=(
        Control(
            "H1",
            "as many key heads as query heads: $W_K$ can be eliminated after all",
            witness=key_elimination_works,
            settings=square_keys,
        ),
        Control(
            "H2",
            "asking to eliminate a singular $W_Q$",
            lambda w: refused_projection(w, "Q"),
            settings=plain_scores,
            refused="invertible",
        ),
    ),
)


def selected(w: Any, which: str = "K") -> Pairs:
    a, x = w.attention(), w.matrix("X", "n", "d")
    theta, new = gauge.select_columns(a, which)
    one = w.identity("d")
    width, start, units = [getattr(a, f"W_{c}").shape[1] for c in which], 0, []
    for c, columns in zip(which, width, strict=True):
        units.append((getattr(new, f"W_{c}"), one[:, start : start + columns]))
        start += columns
    if w.lane == "numeric":  # theta is not prescribed here, so its own condition number sets the tolerance
        w.cond = max(w.cond, float(np.linalg.cond(theta, 1)))
    return [(call(new, x @ theta), call(a, x)), *units]


def columns_in_words(w: Any) -> Pairs:
    """[U | U'] is theta, and J its first columns of the identity: W_K = theta J becomes J."""
    x, theta, J = w.matrix("X", "n", "d"), w.invertible("Theta", "d", "H1"), w.matrix("J", "d", "k")
    a = w.attention(W_K=theta @ J)
    new = gauge.change_basis(a, theta)
    return [(new.W_K, J), (call(new, x @ theta), call(a, x))]


def columns_counted(_: Any) -> Pairs:
    """Zeros and ones in place of d g d_h learned numbers, for every grouping."""
    pairs = []
    rng = np.random.default_rng(0)
    for heads, groups in ((4, 1), (4, 2), (8, 2)):
        s = Setting("", heads=heads, groups=groups, d=16)
        W_Q, W_K, W_V = (rng.normal(size=(16, s.sizes[size])) for size in "pkv")
        a = Attention(s.core(), W_Q, W_K, W_V, np.eye(16))
        _, new = gauge.select_columns(a, "KV")
        free = sum(int((weight != np.round(weight)).sum()) for weight in (new.W_K, new.W_V))
        pairs += [(0, free), (2 * groups * 16 // heads, int(new.W_K.sum() + new.W_V.sum()))]
    return pairs


def dependent_columns(w: Any) -> Pairs:
    W = w.matrix("W_K", "d", "k")
    theta, _ = gauge.select_columns(w.attention(W_K=W, W_V=W), "KV")
    return [(theta, theta)]


COLUMN_SELECTION = Claim(
    id="column-selection",
    rank="remark",
    chapter=CHAPTER,
    title="Any $d$ independent columns can be made unit vectors",
    statement=(
        "Let $U$ be $s\\le d$ independent columns of the reads of one stream. With $\\Theta=[U\\mid U']$ invertible, $\\Theta^{-1}U$ is the first "
        "$s$ unit vectors: these columns become a selection of coordinates and cost no parameters. So grouped keys can be read off "
        "the first $gd_h$ coordinates, and keys and values together off $2gd_h\\le d$ of them. The saving is $sd\\le d^2$ for each free "
        "basis: no choice saves more than a square $W_Q$."
    ),
    hypotheses=(Hypothesis("H1", "independent columns", "the chosen columns are linearly independent"),),
    sources=(OURS,),
    uses=("r-products",),
    lanes=("symbolic", "exact", "numeric", "count"),
    sides=columns_in_words,
    special={
        "exact": lambda w: [*selected(w, "K"), *selected(w, "V"), *selected(w, "KV")],
        "numeric": lambda w: [*selected(w, "K"), *selected(w, "V"), *selected(w, "KV")],
        "count": columns_counted,
    },
    settings=grouped,
    constructions=("select_columns", "change_basis", "reads"),
    controls=(
        Control(
            "H1",
            "the same columns for keys and for values",
            dependent_columns,
            lanes=("exact", "numeric"),
            refused="independent columns",
        ),
    ),
)


def wide(w: Any) -> Pairs:
    x, W_Q = w.matrix("X", "n", "d"), w.full_row_rank("W_Q", "d", "wide", "H2")
    a = w.attention(W_Q=W_Q, core=wide_core(w))
    theta, new = gauge.reparametrize(a, "Q")
    return [(call(new, x @ theta), call(a, x)), (new.W_Q, w.identity("wide"))]


def wide_with_biases(w: Any) -> Pairs:
    x, W_Q = w.matrix("X", "n", "d"), w.full_row_rank("W_Q", "d", "wide", "H2")
    sizes = {"b_Q": "wide", "b_K": "k", "b_V": "v", "b_O": "d"}
    a = w.attention(W_Q=W_Q, core=wide_core(w), **{name: w.matrix(name, "1", size) for name, size in sizes.items()})
    theta, new = gauge.reparametrize(a, "Q")
    return [(call(new, x @ theta), call(a, x))]


def wide_core(w: Any) -> Any:
    """Queries wider than keys: any function of the three products, such as heads that read part of the query."""
    if w.lane in ("symbolic", "re-evaluation"):
        return w.core()
    inner, keep = w.core(), w.sizes["p"]
    return lambda q, k, v: inner(q[:, :keep] + q[:, -keep:], k, v)


def another_right_inverse(w: Any) -> Pairs:
    """R + (I - R W_Q) M is a right inverse too, and works as well."""
    x, W_Q = w.matrix("X", "n", "d"), w.full_row_rank("W_Q", "d", "wide", "H2")
    a = w.attention(W_Q=W_Q, core=wide_core(w))
    R = gauge.right_inverse(W_Q)
    one = w.identity("wide")
    other = R + (one - R @ W_Q) @ w.matrix("M", "wide", "d")
    new = replace(with_reads(a, lambda read: other @ read), W_Q=one)
    return [(call(new, x @ W_Q), call(a, x))]


def left_inverse(w: Any) -> Pairs:
    """p < d: a left inverse in the place of a right inverse."""
    x, W_Q = w.matrix("X", "n", "d"), w.matrix("W_Q", "d", "s")
    gram = W_Q.mT @ W_Q
    back = gauge.inverse(gram) @ W_Q.mT
    reads = [w.matrix(name, "d", "k") for name in ("W_K", "W_V")]
    return [(x @ W_Q @ (back @ read), x @ read) for read in reads]


def rank_deficient(w: Any) -> Pairs:
    """A wide W_Q of rank d - 1, with its generalized inverse."""
    singular, back = w.singular("B", "d")
    J = w.full_row_rank("J", "d", "wide", "H2")
    x, W_Q, read = w.matrix("X", "n", "d"), singular @ J, w.matrix("W_K", "d", "k")
    return [(x @ W_Q @ (gauge.right_inverse(J) @ back @ read), x @ read)]


def widths_counted(_: Any) -> Pairs:
    """The stream and everything that reads it grow from d to p; what is saved is d p, what is paid (p - d) a column read."""
    pairs = []
    for d, p in ((4, 6), (8, 8), (8, 24)):
        rng = np.random.default_rng(p)
        W_Q, W_K, W_V = (rng.normal(size=(d, width)) for width in (p, d, d))
        _, new = gauge.reparametrize(Attention(lambda q, k, v: v, W_Q, W_K, W_V, np.eye(d)), "Q")
        pairs += [(p, len(new.W_K)), (p, len(new.W_V)), (W_K.size + (p - d) * d, new.W_K.size)]
    return pairs


WIDE_QUERY = Claim(
    id="wide-query",
    rank="remark",
    chapter=CHAPTER,
    title="A wide query projection widens the stream",
    statement=(
        "If $W_Q$ is $d\\times p$ with $p\\ge d$ and has a right inverse $R$, $W_QR=I_d$, then on the input $XW_Q$ (now $p$ wide) the same function "
        "is computed with $\\tilde W_Q=I_p$, $\\tilde W_K=RW_K$, $\\tilde W_V=RW_V$. Every right inverse works. All other reads and writes of "
        "the stream grow from $d$ to $p$."
    ),
    hypotheses=(
        Hypothesis("H1", "wide", "$p\\ge d$ (H2 implies it; it is what fails most often)"),
        Hypothesis("H2", "full row rank", "$W_Q$ has a right inverse"),
    ),
    sources=(OURS,),
    uses=("three-products",),
    lanes=("symbolic", "exact", "numeric", "count"),
    sides=lambda w: [*wide(w), *another_right_inverse(w)],
    also=wide_with_biases,
    special={"count": widths_counted},
    settings=lambda s: not s.biases,
    constructions=("reparametrize", "reads"),
    controls=(
        Control(
            "H1",
            "a narrow $W_Q$, with a left inverse in place of the right inverse",
            left_inverse,
            lanes=("exact", "numeric"),
        ),
        Control("H2", "a wide $W_Q$ of rank $d-1$, with a generalized inverse", rank_deficient),
    ),
)
