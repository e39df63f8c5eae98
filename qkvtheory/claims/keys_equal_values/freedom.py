"""The freedom inside a head, and which numbers about keys and values it makes meaningless."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from qkvtheory import gauge, similarity, tying
from qkvtheory.claims.keys_equal_values.common import (
    CHAPTER,
    OURS,
    bare_heads,
    in_words,
    kernel,
    kernel_head,
    layer_dimension,
    narrow,
    number,
    of_heads,
    on_diagonal,
    one_head,
    rank_of,
)
from qkvtheory.claims.model import AtMost, Claim, Control, Hypothesis, Pairs, Source, call
from qkvtheory.lanes.settings import Setting, grouped, square_keys
from qkvtheory.network import Attention

# -- head-gauge --------------------------------------------------------------------------------------------------------


def sublayer(w: Any, biases: bool = False) -> Attention:
    """The setting's heads; in words one head."""
    if not in_words(w):
        return w.attention(biases=biases)
    return one_head(w, **{f"b_{c}": w.matrix(f"b_{c}", "1", "d" if c == "O" else "h") for c in "QKVO" if biases})


def basis(w: Any, name: str, hypothesis: str = "H2") -> Any:
    """An invertible matrix for each head, on the diagonal."""
    return on_diagonal(of_heads(w, lambda head: w.invertible(name + head, "h", hypothesis)))


def heads_turned(w: Any) -> Pairs:
    a, x = sublayer(w), w.matrix("X", "n", "d")
    G, J = basis(w, "G"), basis(w, "J")
    return [(call(gauge.turn_heads(a, G, J), x), call(a, x))]


def one_pair_turned(w: Any) -> Pairs:
    """With biases; queries and keys alone, or values and outputs. Softmax would not miss a key bias: it is looked at."""
    a, x = sublayer(w, biases=True), w.matrix("X", "n", "d")
    G, J = basis(w, "G"), basis(w, "J")
    keys, values = gauge.turn_heads(a, keys=G), gauge.turn_heads(a, values=J)
    return [(call(keys, x), call(a, x)), (keys.b_K @ G.mT, a.b_K), (call(values, x), call(a, x))]


def without_transpose(w: Any) -> Pairs:
    """W_K G^-1 in the place of W_K G^-T."""
    a, x, G = one_head(w, core=kernel_head(w)), w.matrix("X", "n", "d"), w.invertible("G", "h")
    return [(replace(a, W_Q=a.W_Q @ G, W_K=a.W_K @ gauge.inverse(G))(x), a(x))]


def between(w: Any, function: Any) -> Pairs:
    """A function between the projections and the scores, such as a rotation or a norm."""
    x, a, G = w.matrix("X", "n", "d"), one_head(w), w.invertible("G", "h")
    new = gauge.turn_heads(a, keys=G)
    return [
        (
            kernel(w, function(x @ new.W_Q) @ function(x @ new.W_K).mT) @ (x @ a.W_V),
            kernel(w, function(x @ a.W_Q) @ function(x @ a.W_K).mT) @ (x @ a.W_V),
        )
    ]


def turning_refused(w: Any) -> Pairs:
    return [(gauge.turn_heads(w.attention(), keys=basis(w, "G")).W_K, w.attention().W_K)]


def apart_in_a_group(w: Any) -> Pairs:
    """Two query heads on one key head: each in a basis of its own, and the key in that of the first."""
    x, a, other = w.matrix("X", "n", "d"), one_head(w), w.integers("W_Q'", "d", "h")
    G, L = w.invertible("G", "h"), w.invertible("L", "h")
    new = gauge.turn_heads(a, keys=G)
    return [((x @ other @ L) @ (x @ new.W_K).mT, (x @ other) @ (x @ a.W_K).mT)]


def singular_basis(w: Any) -> Pairs:
    x, a, (G, back) = w.matrix("X", "n", "d"), one_head(w, core=kernel_head(w)), w.singular("G", "h")
    return [(replace(a, W_Q=a.W_Q @ G, W_K=a.W_K @ back.mT)(x), a(x))]


def singular_refused(w: Any) -> Pairs:
    a, (G, _) = one_head(w), w.singular("G", "h")
    return [(gauge.turn_heads(a, keys=G).W_Q, a.W_Q)]


def mixed_heads(w: Any) -> Pairs:
    """A basis that mixes the coordinates of different heads."""
    x, a, G = w.matrix("X", "n", "d"), w.attention(), w.invertible("G", "p")
    return [(replace(a, W_Q=a.W_Q @ G, W_K=a.W_K @ gauge.inverse(G).mT)(x), a(x))]


def mixed_refused(w: Any) -> Pairs:
    a = w.attention()
    return [(gauge.turn_heads(a, values=w.invertible("J", "p")).W_V, a.W_V)]


def redundancy_of_a_layer(_: Any) -> Pairs:
    """(d, H, d_h): parameters less 2 H d_h^2 is the dimension of the functions of the layer."""
    return [
        (4 * d * heads * width - 2 * heads * width**2, layer_dimension(d, heads, width))
        for d, heads, width in ((3, 1, 3), (3, 1, 2), (4, 2, 2), (3, 2, 2))  # in the last, heads wider in all than d
    ]


def rotated(s: Setting) -> bool:
    return square_keys(s) and "rotate" in s.features(s)


HEAD_GAUGE = Claim(
    id="head-gauge",
    rank="remark",
    chapter=CHAPTER,
    title="Every head has two bases of its own",
    statement=(
        "For invertible $G_h,J_h$ the weights $W_Q^hG_h,\\ W_K^hG_h^{-\\top},\\ W_V^hJ_h,\\ J_h^{-1}W_O^h$ give the same function as "
        "$W_Q^h,W_K^h,W_V^h,W_O^h$; biases transform with their matrix. These are $2Hd_h^2$ dimensions, and near generic weights of heads no "
        "wider than the stream there are no others: the functions of the layer have as many dimensions less than its weights (measured as a rank for small sizes)."
    ),
    hypotheses=(
        Hypothesis("H1", "bare heads", "there is no RoPE, no QK-norm, and no key head serves two query heads"),
        Hypothesis("H2", "invertible", "$G_h$ and $J_h$ are invertible"),
        Hypothesis("H3", "inside the head", "each head is turned by a matrix of its own; heads do not mix"),
        Hypothesis("H4", "no wider than the stream", "for there being no others: $d_h\\le d$, and generic weights"),
    ),
    sources=(
        Source("paper", "wang2025gauge"),
        Source("paper", "tran2025equivariant"),
        Source("paper", "nierop2024gauge"),
        Source("derived", note="the ranks of small layers"),
    ),
    uses=("scores-bilinear", "value-path-bilinear"),
    lanes=("symbolic", "exact", "numeric", "rank"),
    sides=heads_turned,
    also=one_pair_turned,
    special={"rank": redundancy_of_a_layer},
    settings=bare_heads,
    constructions=("turn_heads",),
    controls=(
        Control("H1", "RoPE between keys and scores", lambda w: between(w, w.rotate)),
        Control("H1", "a norm between keys and scores", lambda w: between(w, w.function("N"))),
        Control(
            "H1",
            "asking for it with RoPE",
            turning_refused,
            lanes=("exact", "numeric"),
            refused="bare scores",
            settings=rotated,
        ),
        Control("H1", "two query heads of one group turned apart", apart_in_a_group),
        Control(
            "H1",
            "asking for it with grouped keys",
            turning_refused,
            lanes=("exact", "numeric"),
            refused="multi-head attention",
            settings=grouped,
        ),
        Control("H2", "a generalized inverse of a singular $G$", singular_basis),
        Control("H2", "asking for it with a singular $G$", singular_refused, refused="invertible"),
        Control("H3", "one invertible matrix across the heads", mixed_heads, lanes=("exact", "numeric")),
        Control(
            "H3",
            "asking for one matrix across the heads",
            mixed_refused,
            lanes=("exact", "numeric"),
            refused="same head spaces",
        ),
        Control(
            "H4",
            "a head wider than the stream: $2Hd_h^2$ redundant dimensions predicted all the same",
            lambda _: [(4 * 2 * 3 - 2 * 9, layer_dimension(2, 1, 3))],
            lanes=("rank",),
        ),
        Control("construction", "$W_KG^{-1}$ in the place of $W_KG^{-\\top}$", without_transpose),
        Control(
            "construction",
            "the freedom of queries and keys counted alone, $Hd_h^2$",
            lambda _: [(4 * 3 * 3 - 9, layer_dimension(3, 1, 3))],
            lanes=("rank",),
        ),
    ),
)


# -- gauge-dependent-numbers -------------------------------------------------------------------------------------------


def products_stay(w: Any) -> Pairs:
    """The score matrix and the value matrix stay; G = -I turns the keys, and so their cosine with the values, around."""
    a, x = one_head(w), w.integers("X", "n", "d")
    new = gauge.turn_heads(a, w.invertible("G", "h", "H1"), w.invertible("J", "h", "H1"))
    back = gauge.turn_heads(a, keys=-1 * w.identity("h"))
    return [
        (new.W_Q @ new.W_K.mT, a.W_Q @ a.W_K.mT),
        (new.W_V @ new.W_O, a.W_V @ a.W_O),
        (x @ back.W_K, -1 * (x @ a.W_K)),
    ]


def ranks_survive(w: Any) -> Pairs:
    """Exactly: in any basis of the stream the products keep their ranks, though not their entries."""
    a, new = other_stream(w)
    moved = zip(products_of(new), products_of(a), strict=True)
    ranks = ((number(w, rank_of(there)), number(w, rank_of(here))) for there, here in moved)
    return [*products_stay(w), *ranks, *keys_and_values_stay(w)]


def products_of(a: Attention) -> tuple[Any, Any]:
    """M and N."""
    return a.W_Q @ a.W_K.mT, a.W_V @ a.W_O


def keys_and_values_stay(w: Any) -> Pairs:
    """K and V of the same tokens, in any basis of the stream."""
    (a, new), x = other_stream(w), w.integers("X", "n", "d")
    there = x @ w.invertible("Theta", "d", "H2")
    return [(there @ new.W_K, x @ a.W_K), (there @ new.W_V, x @ a.W_V)]


def measured(w: Any) -> Pairs:
    """The package's own measures: what moves, by how much at least, and what stays."""
    a, x = one_head(w), w.matrix("X", "n", "d")
    new = gauge.turn_heads(a, w.invertible("G", "h", "H1"), w.invertible("J", "h", "H1"))
    K, V = x @ a.W_K, x @ a.W_V
    toward = gauge.turn_heads(
        a, keys=gauge.inverse(np.linalg.lstsq(K, V)[0].T)
    )  # keys as near the values as G can bring them
    away = gauge.turn_heads(toward, keys=-1 * w.identity("h"))
    like, unlike = (similarity.cosine(x @ b.W_K, V) for b in (toward, away))
    stretched = gauge.turn_heads(a, keys=np.diag(np.logspace(0, 2, len(new.W_O))))
    rank, alike = similarity.effective_rank, similarity.linear_cka
    orthogonal = np.linalg.qr(w.matrix("O", "h", "h"))[0]
    return [
        *products_stay(w),
        at_least(w, 0.3, like),
        (number(w, unlike), number(w, -like)),
        at_least(w, 0.1, abs(rank(stretched.W_K) - rank(a.W_K))),
        at_least(w, 0.1, abs(rank(x @ stretched.W_K) - rank(K))),
        at_least(w, 0.01, abs(alike(x @ stretched.W_K, V) - alike(K, V))),
        (number(w, alike(3 * K @ orthogonal, V)), number(w, alike(K, V))),
        (angles(new), angles(a)),
        *keys_and_values_stay(w),
        *sizes_in_streams(w),
    ]


def sizes_in_streams(w: Any) -> Pairs:
    """Norms, singular values and angles: the same in a turned stream, others in a stretched one, where ranks stay."""
    a, d = one_head(w), w.sizes["d"]
    turned = gauge.change_basis(a, np.linalg.qr(w.matrix("T", "d", "d"))[0])
    stretched = gauge.change_basis(a, np.diag(np.logspace(0, 1, d)))
    pairs: list[Any] = [(angles(turned), angles(a)), at_least(w, 1e-3, abs(angles(stretched) - angles(a)).max())]
    for here, there, elsewhere in zip(*map(products_of, (a, turned, stretched)), strict=True):
        sizes, same, other = (np.linalg.svd(M, compute_uv=False)[None] for M in (here, there, elsewhere))
        pairs += [
            (same, sizes),
            at_least(w, 0.01, abs(other - sizes).max() / sizes.max()),
            at_least(w, 0.01, abs(float(np.linalg.norm(other) / np.linalg.norm(sizes)) - 1)),
            (number(w, rank_of(elsewhere)), number(w, rank_of(here))),
        ]
    return pairs


def at_least(w: Any, least: float, value: float) -> Any:
    return AtMost(number(w, least), number(w, value))


def angles(a: Attention) -> Any:
    return similarity.principal_angles(a.W_K, a.W_V)[None]


def turned_number(measure: Any) -> Any:
    """The claim that this number of keys and values belongs to the function."""

    def sides(w: Any) -> Pairs:
        a, x = one_head(w), w.matrix("X", "n", "d")
        new = gauge.turn_heads(a, keys=w.invertible("G", "h", "H1"))
        return [(number(w, measure(x @ new.W_K, x @ a.W_V)), number(w, measure(x @ a.W_K, x @ a.W_V)))]

    return sides


def same_function(w: Any) -> Pairs:
    a, x = one_head(w), w.matrix("X", "n", "d")
    return [(gauge.turn_heads(a, keys=w.invertible("G", "h", "H1"))(x), a(x))]


def products_of_singular(w: Any) -> Pairs:
    a, (G, back) = one_head(w), w.singular("G", "h")
    return [(a.W_Q @ G @ (a.W_K @ back.mT).mT, a.W_Q @ a.W_K.mT)]


def other_stream(w: Any) -> tuple[Attention, Attention]:
    a = one_head(w)
    return a, gauge.change_basis(a, w.invertible("Theta", "d", "H2"))


def products_elsewhere(w: Any) -> Pairs:
    a, new = other_stream(w)
    return [(new.W_Q @ new.W_K.mT, a.W_Q @ a.W_K.mT)]


def angles_elsewhere(w: Any) -> Pairs:
    a, new = other_stream(w)
    return [(angles(new), angles(a))]


DEPENDENT = Claim(
    id="gauge-dependent-numbers",
    rank="remark",
    chapter=CHAPTER,
    title="How alike keys and values look is not a property of the function",
    statement=(
        "The cosine of $K$ and $V$, the effective rank of $K$ or of $W_K$, and the linear CKA of $K$ and $V$ change when a head is written "
        "in another basis; $G=-I$ turns the cosine around. Linear CKA stays only under rotations and scalings. What stays in a fixed basis "
        "of the stream: $M_h$ and $N_h$ themselves, and the principal angles between the spaces of the columns of $W_K^h$ and $W_V^h$. In a "
        "basis of the stream that is not orthogonal their entries, norms and singular values and the angles change; their ranks stay. $K$ and $V$ "
        "themselves do not notice a basis of the stream."
    ),
    hypotheses=(
        Hypothesis("H1", "a basis of the head", "the head is turned by invertible $G$ and $J$"),
        Hypothesis("H2", "fixed stream", "the basis of the stream stays: for $M_h$, $N_h$ and the angles"),
    ),
    sources=(OURS,),
    uses=("head-gauge",),
    sides=products_stay,
    special={"exact": ranks_survive, "numeric": measured},
    settings=narrow,
    controls=(
        Control("H1", "a generalized inverse of a singular $G$", products_of_singular),
        Control("H2", "another basis of the stream: the score matrix is another", products_elsewhere),
        Control("H2", "another basis of the stream: other principal angles", angles_elsewhere, lanes=("numeric",)),
        *(
            Control(
                "construction",
                f"{what} taken for a property of the function",
                turned_number(measure),
                lanes=("numeric",),
                witness=same_function,
            )
            for what, measure in (
                ("the cosine of keys and values", similarity.cosine),
                ("linear CKA", similarity.linear_cka),
                ("the effective rank of the keys", lambda keys, _: similarity.effective_rank(keys)),
            )
        ),
    ),
)


# -- posthoc-tying -----------------------------------------------------------------------------------------------------


def tied_after_turning(w: Any) -> Pairs:
    """Keys kept: G^-T J^-1 stands before W_O. Values kept: G J^T stands after W_Q."""
    a, x = one_head(w), w.integers("X", "n", "d")
    G, J = w.invertible("G", "h"), w.invertible("J", "h")
    new = gauge.turn_heads(a, G, J)
    inserted = gauge.inverse(G).mT @ gauge.inverse(J)
    keys_kept = replace(a, W_V=a.W_K, W_O=inserted @ a.W_O)
    values_kept = replace(a, W_K=a.W_V, W_Q=a.W_Q @ G @ J.mT)
    return [
        (call(tying.tie_after(new, "K"), x), call(keys_kept, x)),
        (call(tying.tie_after(new, "V"), x), call(values_kept, x)),
    ]


def any_matrix(w: Any) -> Pairs:
    """Whatever invertible T is wanted before W_O, J = T^-1 puts it there: with W_V = W_K T even the right one."""
    T, x = w.invertible("T", "h"), w.integers("X", "n", "d")
    a = one_head(w, W_V=w.integers("W_K", "d", "h") @ T)
    chosen = gauge.turn_heads(a, values=gauge.inverse(T))
    return [(call(tying.tie_after(chosen, "K"), x), call(a, x))]


def of_the_function(keep: str) -> Any:
    def sides(w: Any) -> Pairs:
        a, new, x = turned_pair(w)
        return [(tying.tie_after(new, keep)(x), tying.tie_after(a, keep)(x))]

    return sides


def turned_pair(w: Any) -> tuple[Attention, Attention, Any]:
    a = one_head(w)
    new = gauge.turn_heads(a, w.invertible("G", "h"), w.invertible("J", "h"))
    return a, new, w.integers("X", "n", "d")


def one_function(w: Any) -> Pairs:
    a, new, x = turned_pair(w)
    return [(new(x), a(x))]


def posthoc_rotated(w: Any) -> Pairs:
    """Rotations between keys and scores: the turned layer is another function before anything is tied."""
    a, x = one_head(w), w.integers("X", "n", "d")
    new = gauge.turn_heads(a, w.invertible("G", "h"), w.invertible("J", "h"))
    tied = tying.tie_after(new, "K")
    inserted = new.W_K @ tied.W_O

    def scored(b: Attention, out: Any) -> Any:
        return kernel(w, w.rotate(x @ b.W_Q) @ w.rotate(x @ b.W_K).mT) @ (x @ out)

    return [(scored(tied, inserted), scored(a, inserted))]


def posthoc_singular(w: Any) -> Pairs:
    """W_V = W_K T for a singular T: no basis of the values has T before W_O after keeping the keys; T^+ does not."""
    (T, back), x = w.singular("T", "h"), w.integers("X", "n", "d")
    a = one_head(w, W_V=w.integers("W_K", "d", "h") @ T)
    chosen = replace(a, W_V=a.W_V @ back, W_O=w.integers("W_O", "h", "d"))
    return [(tying.tie_after(chosen, "K")(x), a(x))]


POSTHOC = Claim(
    id="posthoc-tying",
    rank="remark",
    chapter=CHAPTER,
    title="Tying after training depends on the gauge",
    statement=(
        "Turn the heads of a trained layer by $(G,J)$, which changes nothing, and then replace its values by its keys: $G^{-\\top}J^{-1}$ "
        "now stands before $W_O$. Replace its keys by its values: $GJ^{\\top}$ now stands after $W_Q$. Since any invertible matrix can be "
        "put there, what tying after training gives is not a property of the trained function. Where $W_V=W_KT$ with invertible $T$, one "
        "gauge even makes it lossless."
    ),
    hypotheses=(
        Hypothesis("H1", "bare heads", "turning the heads changes nothing: no RoPE, no QK-norm, no shared key heads"),
        Hypothesis("H2", "invertible", "$G$, $J$ and $T$ are invertible"),
    ),
    sources=(
        OURS,
        Source("code", "kayyam2026three", note="what tying after training did in their experiments: on the page"),
    ),
    uses=("head-gauge", "gauge-dependent-numbers"),
    sides=tied_after_turning,
    also=any_matrix,
    settings=narrow,
    constructions=("tie_after", "turn_heads"),
    controls=(
        Control("H1", "RoPE between keys and scores", posthoc_rotated),
        Control("H2", "$W_V=W_KT$ with a singular $T$", posthoc_singular),
        *(
            Control(
                "construction",
                f"{what} taken for a property of the function",
                of_the_function(keep),
                lanes=lanes,
                witness=one_function,
            )
            for what, keep, lanes in (
                ("what keeping the keys gives", "K", ("symbolic", "exact", "numeric")),
                ("what keeping the values gives", "V", ("symbolic", "exact", "numeric")),
                ("what their average gives", "average", ("numeric",)),
            )
        ),
    ),
)
