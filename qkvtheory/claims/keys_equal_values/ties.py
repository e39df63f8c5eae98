"""One projection for keys and values: when it costs nothing, and what it costs otherwise."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from qkvtheory import gauge, linalg, lossless
from qkvtheory.claims.degrees_of_freedom.common import (
    bare,
    kernel,
    kernel_head,
    layer_dimension,
    narrow,
    number,
    one_head,
    rank_of,
)
from qkvtheory.claims.keys_equal_values.common import (
    CHAPTER,
    KEYLESS,
    OURS,
    beside,
    head_dimension,
    size_of,
)
from qkvtheory.claims.keys_equal_values.small_fields import disagreements, disagreements_of_queries, over_small_fields
from qkvtheory.claims.model import AtMost, Claim, Control, Hypothesis, Pairs, Source, call
from qkvtheory.lanes.settings import Setting
from qkvtheory.network import Attention

# -- kv-lossless-iff ---------------------------------------------------------------------------------------------------


def head_with_keys_in_values(w: Any) -> tuple[Attention, Any]:
    """One head with W_V = U^T of full column rank and W_K = W_V B, and B."""
    W_V, B = w.full_row_rank("U", "h", "d", "H2").mT, w.integers("B", "h", "h")
    return one_head(w, W_V=W_V, W_K=W_V @ B), B


def tied_head(w: Any) -> Pairs:
    """The construction: the same function, score matrix and value matrix, with keys equal to values."""
    (a, B), x = head_with_keys_in_values(w), w.integers("X", "n", "d")
    new = lossless.keys_in_values(a)
    return [
        (call(new, x), call(a, x)),
        (new.W_Q @ new.W_V.mT, a.W_Q @ a.W_K.mT),
        (new.W_Q, a.W_Q @ B.mT),
        (new.W_K, a.W_V),
    ]


def tied_heads(w: Any) -> Pairs:
    """In numbers: all heads of the setting, groups and masks included, and the criterion as ranks, in both directions."""
    x, bias = w.matrix("X", "n", "d"), {"b_Q": w.matrix("b_Q", "1", "p"), "b_O": w.matrix("b_O", "1", "d")}
    labels = [f"^{h}" for h in range(w.setting.kv_heads)]
    values = [w.full_row_rank("U" + head, "h", "d", "H2").mT for head in labels]
    keys = [v @ w.matrix("B" + head, "h", "h") for v, head in zip(values, labels, strict=True)]
    a = w.attention(W_K=beside(*keys), W_V=beside(*values), **bias)
    new = lossless.keys_in_values(a)
    return [*tied_head(w), (call(new, x), call(a, x)), (new.W_K, a.W_V), *criteria(w)]


def criteria(w: Any) -> Pairs:
    """rank [W_V | M^T] = rank [W_V | W_K]: d_h for keys in the values, and more for others if d_h < d."""
    tied, _ = head_with_keys_in_values(w)
    apart = replace(tied, W_Q=w.full_row_rank("P", "h", "d", "H5").mT, W_K=w.integers("W_K", "d", "h"))
    h, more = w.sizes["h"], min(w.sizes["h"] + 1, w.sizes["d"])
    pairs = [(number(w, h), number(w, found)) for found in spaces(tied)]
    by_scores, by_keys = (number(w, found) for found in spaces(apart))
    return [*pairs, (by_scores, by_keys), AtMost(number(w, more), by_scores)]


def spaces(a: Attention) -> tuple[int, int]:
    """The dimensions of the columns of W_V together with the rows of M, and with the columns of W_K."""
    return rank_of(beside(a.W_V, (a.W_Q @ a.W_K.mT).mT)), rank_of(beside(a.W_V, a.W_K))


def merged_heads(w: Any) -> Pairs:
    """W_V invertible as a whole, heads narrow: B takes the keys of a head from the values of all."""
    x, W_V, W_K = w.matrix("X", "n", "d"), w.invertible("W_V", "d"), w.matrix("W_K", "d", "d")
    a = w.attention(square=True, W_K=W_K, W_V=W_V)
    return [(replace(a, W_Q=a.W_Q @ (gauge.inverse(W_V) @ W_K).mT, W_K=W_V)(x), a(x))]


def merged_refused(w: Any) -> Pairs:
    a = w.attention(square=True, W_V=w.invertible("W_V", "d"))
    return [(lossless.keys_in_values(a).W_Q, a.W_Q)]


def dropping(w: Any) -> tuple[Any, Any]:
    """diag(1, ..., 1, 0) of the head's width, and I minus it."""
    keep = w.identity("h") * 1
    keep[-1, -1] = keep[-1, -1] * 0
    return keep, w.identity("h") - keep


def freer_heads(w: Any, where: str) -> tuple[Attention, Attention]:
    """A head whose W_V or W_O has one rank less, with keys outside the span of the values; and a tied one equal to it.

    The direction that the values do not use is free to be one of the keys.
    """
    keep, rest = dropping(w)
    V, W_O = w.full_row_rank("U", "h", "d", "H2").mT, w.full_row_rank("W_O", "h", "d", "H3")
    Z, B = V @ keep + w.integers("K", "d", "h") @ rest, w.integers("B", "h", "h")
    given = {"W_V": V @ keep, "W_O": W_O} if where == "values" else {"W_V": V, "W_O": keep @ W_O}
    a = one_head(w, W_K=Z @ B, **given)
    return a, replace(a, W_Q=a.W_Q @ B.mT, W_K=Z, W_V=Z, W_O=keep @ W_O)


def criterion_denied(where: str) -> Any:
    def sides(w: Any) -> Pairs:
        a, _ = freer_heads(w, where)
        return [(number(w, spaces(a)[0]), number(w, rank_of(a.W_V)))]

    return sides


def tied_all_the_same(where: str) -> Any:
    def sides(w: Any) -> Pairs:
        (a, tied), x = freer_heads(w, where), w.integers("X", "n", "d")
        return [(tied.W_Q @ tied.W_V.mT, a.W_Q @ a.W_K.mT), (tied.W_V @ tied.W_O, a.W_V @ a.W_O), (tied(x), a(x))]

    return sides


def generic_head(w: Any) -> Attention:
    V, W_O = w.full_row_rank("U", "h", "d", "H2").mT, w.full_row_rank("W_O", "h", "d", "H3")
    return one_head(w, W_K=w.full_row_rank("K", "h", "d").mT, W_V=V, W_O=W_O)


def criterion_at_any_width(w: Any) -> Pairs:
    """Of a generic head the criterion says that there is none."""
    a = generic_head(w)
    return [(number(w, spaces(a)[0]), number(w, rank_of(a.W_V)))]


def tied_at_twice_the_width(w: Any) -> Pairs:
    """Z = [W_V | W_K] holds the two side by side: half of it is scored, and the other half is passed on."""
    a = generic_head(w)
    Z, nothing = np.concatenate([a.W_V, a.W_K], axis=1), a.W_Q * 0
    W_Q, W_O = np.concatenate([nothing, a.W_Q], axis=1), np.concatenate([a.W_O, nothing.mT])
    return [(W_Q @ Z.mT, a.W_Q @ a.W_K.mT), (Z @ W_O, a.W_V @ a.W_O)]


def narrow_queries(w: Any) -> tuple[Attention, Any]:
    """W_Q does not read the one column of W_K that leaves the span of the values."""
    keep, rest = dropping(w)
    (a, B), outside = head_with_keys_in_values(w), w.integers("K", "d", "h")
    return replace(a, W_Q=a.W_Q @ keep, W_K=a.W_V @ B @ keep + outside @ rest), keep @ B.mT


def keys_outside(w: Any) -> Pairs:
    a, _ = narrow_queries(w)
    return [(number(w, spaces(a)[1]), number(w, w.sizes["h"]))]


def scores_inside(w: Any) -> Pairs:
    (a, _), W_Q = narrow_queries(w), w.integers("W_Q", "d", "h")
    keep, B = dropping(w)[0], head_with_keys_in_values(w)[1]
    return [(W_Q @ keep @ B.mT @ a.W_V.mT, a.W_Q @ a.W_K.mT), (number(w, spaces(a)[0]), number(w, w.sizes["h"]))]


def tied_under_rotation(w: Any) -> Pairs:
    (a, B), x = head_with_keys_in_values(w), w.integers("X", "n", "d")
    tied, given = ((q, k) for q, k in ((a.W_Q @ B.mT, a.W_V), (a.W_Q, a.W_K)))
    return [tuple(kernel(w, w.rotate(x @ q) @ w.rotate(x @ k).mT) @ (x @ a.W_V) for q, k in (tied, given))]


def nearest_tie(w: Any) -> Pairs:
    """Generic keys, brought as near to the values as B can: what is missing of the score matrix."""
    W_V, a = w.full_row_rank("U", "h", "d", "H2").mT, one_head(w)
    B = linalg.right_inverse(W_V.mT).mT @ a.W_K
    return [(a.W_Q @ B.mT @ W_V.mT, a.W_Q @ a.W_K.mT)]


def refused_for(w: Any, **given: Any) -> Pairs:
    a = w.attention(**given)
    return [(lossless.keys_in_values(a).W_Q, a.W_Q)]


def rotating(s: Setting) -> bool:
    return "rotate" in s.features(s) and not s.biases


BARE = "nothing stands between queries and keys and their scores: no RoPE, no QK-norm; biases on keys and values are folded first"
NUMBERS = ("exact", "numeric")
LOSSLESS = Claim(
    id="kv-lossless-iff",
    rank="theorem",
    chapter=CHAPTER,
    title="When tying keys to values costs nothing",
    statement=(
        "There are $W_Q'$, $Z$ and $W_O'$ of the head's own width $d_h$ with $W_Q'Z^{\\top}=M_h$ and $ZW_O'=N_h$ if and only if the rows of $M_h$ lie in the span of the columns of "
        "$W_V^h$; if $W_Q^h$ has full column rank too, if and only if the columns of $W_K^h$ lie in it. Then $W_K^h=W_V^hB$, and $Z=W_V^h$, "
        "$W_Q'=W_Q^hB^{\\top}$, $W_O'=W_O^h$ do it. The symbolic lane checks the construction, with $W_V=U^{\\top}$; the count lane both "
        "directions for every head over some small fields; the formal lane proves both."
    ),
    hypotheses=(
        Hypothesis("H1", "head by head", "one head, or each head for itself"),
        Hypothesis("H2", "independent values", "$W_V^h$ has full column rank"),
        Hypothesis("H3", "independent outputs", "$W_O^h$ has full row rank"),
        Hypothesis("H4", "bare scores", BARE),
        Hypothesis("H5", "independent queries", "for the criterion with $W_K^h$: $W_Q^h$ has full column rank"),
        Hypothesis("H6", "same width", "$Z$ has $d_h$ columns, as the head it replaces"),
    ),
    sources=(
        Source("reported", KEYLESS, note="sufficient, for several heads"),
        Source("derived", note="necessary, and the hypotheses on ranks"),
    ),
    uses=("head-gauge",),
    lanes=("symbolic", "exact", "numeric", "count"),
    sides=tied_head,
    special={"exact": tied_heads, "numeric": tied_heads, "count": over_small_fields},
    settings=lambda s: bare(s) and not s.biases,
    constructions=("keys_in_values", "turned", "coefficients"),
    controls=(
        Control("H1", "$W_V$ invertible as a whole, its heads narrow", merged_heads, NUMBERS, settings=narrow),
        Control(
            "H1",
            "asking for it where only the whole of $W_V$ spans the keys",
            merged_refused,
            NUMBERS,
            refused="keys in the span of the values",
            settings=narrow,
        ),
        *(
            Control(
                hypothesis,
                f"{what} of one rank less: a tied head exists, though the rows of $M_h$ leave the span of the values",
                criterion_denied(where),
                NUMBERS,
                witness=tied_all_the_same(where),
                settings=narrow,
            )
            for hypothesis, what, where in (("H2", "$W_V^h$", "values"), ("H3", "$W_O^h$", "outputs"))
        ),
        *(
            Control(
                hypothesis,
                f"the criterion for heads whose {what} has not full rank, over small fields",
                partial(disagreements, full),
                ("count",),
            )
            for hypothesis, what, full in (("H2", "$W_V$", (False, True)), ("H3", "$W_O$", (True, False)))
        ),
        Control(
            "H2",
            "asking for it with dependent columns of $W_V$",
            lambda w: refused_for(w, W_V=w.matrix("W_V", "d", "k") * 0 + 1),
            NUMBERS,
            refused="invertible",
            settings=narrow,
        ),
        Control(
            "H6",
            "$Z$ of twice the width: $[W_V^h\\mid W_K^h]$ always does, though the rows of $M_h$ leave the span of the values",
            criterion_at_any_width,
            NUMBERS,
            witness=tied_at_twice_the_width,
            settings=narrow,
        ),
        Control("H4", "RoPE between keys and scores", tied_under_rotation),
        Control("H4", "asking for it with RoPE", refused_for, NUMBERS, refused="bare scores", settings=rotating),
        Control(
            "H4",
            "asking for it with a bias on the values",
            lambda w: refused_for(w, b_V=w.matrix("b_V", "1", "k")),
            NUMBERS,
            refused="no biases",
        ),
        Control(
            "H5",
            "$W_Q^h$ of one rank less: the rows of $M_h$ lie in the span, though a column of $W_K^h$ does not",
            keys_outside,
            NUMBERS,
            witness=scores_inside,
            settings=narrow,
        ),
        Control(
            "H5",
            "the criterion with $W_K$ for heads whose $W_Q$ has not full rank, over small fields",
            disagreements_of_queries,
            ("count",),
        ),
        Control(
            "construction", "generic keys, as near to the values as $B$ can bring them", nearest_tie, settings=narrow
        ),
        Control(
            "construction",
            "asking for it with generic narrow heads",
            refused_for,
            NUMBERS,
            refused="keys in the span of the values",
            settings=narrow,
        ),
    ),
)


# -- kv-single-head-lossless -------------------------------------------------------------------------------------------


def full_head(w: Any, **given: Any) -> Attention:
    """One head as wide as the stream."""
    shapes = {name: w.integers(name, "d", "d") for name in ("W_Q", "W_K", "W_V", "W_O") if name not in given}
    return one_head(w, **shapes, **given)


def full_head_tied(w: Any) -> Pairs:
    a, x = full_head(w, W_V=w.invertible("W_V", "d", "H3")), w.integers("X", "n", "d")
    new = lossless.keys_in_values(a)
    return [(call(new, x), call(a, x)), (new.W_Q, a.W_Q @ a.W_K.mT @ gauge.inverse(a.W_V).mT), (new.W_K, a.W_V)]


def setting_head_tied(w: Any) -> Pairs:
    a, x = w.attention(square=True, W_V=w.invertible("W_V", "d", "H3")), w.matrix("X", "n", "d")
    return [*full_head_tied(w), (call(lossless.keys_in_values(a), x), call(a, x))]


def narrow_head_tied(w: Any) -> Pairs:
    """A generalized inverse of the narrow W_V in the place of the inverse."""
    W_V, x = w.full_row_rank("U", "h", "d", "H3").mT, w.integers("X", "n", "d")
    a = one_head(w, core=kernel_head(w), W_V=W_V)
    return [(replace(a, W_Q=a.W_Q @ a.W_K.mT @ linalg.right_inverse(W_V.mT), W_K=W_V)(x), a(x))]


def singular_values(w: Any) -> Pairs:
    (W_V, back), x = w.singular("W_V", "d"), w.integers("X", "n", "d")
    a = full_head(w, core=kernel_head(w), W_V=W_V)
    return [(replace(a, W_Q=a.W_Q @ a.W_K.mT @ back.mT, W_K=W_V)(x), a(x))]


def singular_values_refused(w: Any) -> Pairs:
    a = full_head(w, W_V=w.singular("W_V", "d")[0])
    return [(lossless.keys_in_values(a).W_Q, a.W_Q)]


def full_head_rotated(w: Any) -> Pairs:
    a, x = full_head(w, W_V=w.invertible("W_V", "d", "H3")), w.integers("X", "n", "d")
    tied = a.W_Q @ a.W_K.mT @ gauge.inverse(a.W_V).mT, a.W_V
    return [tuple(kernel(w, w.rotate(x @ q) @ w.rotate(x @ k).mT) @ (x @ a.W_V) for q, k in (tied, (a.W_Q, a.W_K)))]


def without_transpose(w: Any) -> Pairs:
    """W_V^-1 in the place of W_V^-T."""
    a, x = full_head(w, core=kernel_head(w), W_V=w.invertible("W_V", "d", "H3")), w.integers("X", "n", "d")
    return [(replace(a, W_Q=a.W_Q @ a.W_K.mT @ gauge.inverse(a.W_V), W_K=a.W_V)(x), a(x))]


SINGLE_HEAD = Claim(
    id="kv-single-head-lossless",
    rank="remark",
    chapter=CHAPTER,
    title="One head of full width loses nothing",
    statement=(
        "For one head with $d_h=d$ and invertible $W_V$: $W_Q'=W_QW_K^{\\top}W_V^{-\\top}$ and $Z=W_V$ give the same function with keys equal "
        "to values."
    ),
    hypotheses=(
        Hypothesis("H1", "one head", "there is one head"),
        Hypothesis("H2", "full width", "$d_h=d$"),
        Hypothesis("H3", "invertible", "$W_V$ is invertible"),
        Hypothesis("H4", "bare scores", BARE),
    ),
    sources=(Source("reported", KEYLESS, name="Theorem 1"),),
    uses=("kv-lossless-iff",),
    sides=full_head_tied,
    special={"exact": setting_head_tied, "numeric": setting_head_tied},
    settings=lambda s: bare(s) and s.heads == 1 and not s.biases,
    constructions=("keys_in_values", "turned", "coefficients"),
    controls=(
        Control("H1", "the same formula for several heads", merged_heads, NUMBERS, settings=narrow),
        Control(
            "H1",
            "asking for it with several heads",
            merged_refused,
            NUMBERS,
            refused="keys in the span of the values",
            settings=narrow,
        ),
        Control("H2", "a narrow head, with a generalized inverse of its $W_V$", narrow_head_tied, settings=narrow),
        Control("H3", "a generalized inverse of a singular $W_V$", singular_values),
        Control("H3", "asking for it with a singular $W_V$", singular_values_refused, refused="invertible"),
        Control("H4", "RoPE between keys and scores", full_head_rotated),
        Control("construction", "$W_V^{-1}$ in the place of $W_V^{-\\top}$", without_transpose),
    ),
)


# -- kv-dimension-lost -------------------------------------------------------------------------------------------------

CASES = ((5, 2), (6, 3), (4, 4), (7, 1))  # width, head width


def lost(d: int, width: int) -> int:
    return head_dimension(d, width, False) - head_dimension(d, width, True)


def dimensions_measured(_: Any) -> Pairs:
    """Of one head for each case, and of whole softmax layers with one and with two heads."""
    pairs = [
        pair
        for d, h in CASES
        for pair in (
            (4 * d * h - 2 * h * h, head_dimension(d, h, False)),
            (3 * d * h - h * h, head_dimension(d, h, True)),
            (h * (d - h), lost(d, h)),
        )
    ]
    layers = ((3, 1, 2), (3, 1, 3), (4, 2, 2))
    measured = ((layer_dimension(*sizes), layer_dimension(*sizes, tied=True)) for sizes in layers)
    return pairs + [(H * h * (d - h), a - b) for (d, H, h), (a, b) in zip(layers, measured, strict=True)]


def weights_counted(_: Any) -> Pairs:
    """Of the d d_h weights that a head no longer has, those that are no loss of measured dimensions: d_h^2, gauge."""
    return [pair for d, h in CASES for pair in ((d * h, removed(d, h)), (h * h, removed(d, h) - lost(d, h)))]


def removed(d: int, width: int) -> int:
    """Weights that one head of this width no longer has."""
    return size_of("QKV", d, 1, width) - size_of("Q-K=V", d, 1, width)


DIMENSION_LOST = Claim(
    id="kv-dimension-lost",
    rank="remark",
    chapter=CHAPTER,
    title="The price in dimensions",
    statement=(
        "Near generic weights the pairs $(M_h,N_h)$ have $4dd_h-2d_h^2$ dimensions, and with keys equal to values $3dd_h-d_h^2$. So the tie "
        "loses $d_h(d-d_h)$ dimensions per head, the dimension of the choice of a $d_h$-dimensional space in $\\mathbb R^d$, and none if "
        "$d_h=d$. It removes $dd_h$ weights: $d_h^2$ of them were gauge. Measured as ranks, also of whole softmax layers."
    ),
    hypotheses=(Hypothesis("H1", "generic", "the weights are generic, and $d_h\\le d$"),),
    sources=(OURS,),
    uses=("head-gauge", "kv-lossless-iff"),
    lanes=("rank", "count"),
    sides=lambda _: [],
    special={"rank": dimensions_measured, "count": weights_counted},
    controls=(
        Control(
            "H1",
            "queries of one rank less: $4dd_h-2d_h^2$ predicted all the same",
            lambda _: [(4 * 5 * 2 - 2 * 4, head_dimension(5, 2, False, query_rank=1))],
            ("rank",),
        ),
        Control(
            "construction",
            "a loss equal to the weights removed",
            lambda _: [(d * h, lost(d, h)) for d, h in CASES],
            ("rank",),
        ),
        Control(
            "construction",
            "none of the removed weights was gauge",
            lambda _: [(removed(d, h), lost(d, h)) for d, h in CASES],
            ("count",),
        ),
    ),
)
