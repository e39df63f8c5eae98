"""The freedom inside a head: bases that the function does not notice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from qkvtheory import gauge
from qkvtheory.claims.degrees_of_freedom.common import (
    CHAPTER,
    bare,
    bare_heads,
    in_words,
    kernel,
    kernel_head,
    layer_dimension,
    layer_redundancy,
    of_heads,
    on_diagonal,
    one_head,
)
from qkvtheory.claims.model import Claim, Control, Hypothesis, Pairs, Source, call
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


# -- gqa-gauge ---------------------------------------------------------------------------------------------------------


def group_turned(w: Any) -> Pairs:
    """Two query heads of one group; in numbers the setting's heads."""
    x = w.matrix("X", "n", "d")
    if not in_words(w):
        return [turned(w, w.attention(), x)]
    pairs, (G, J) = [], (w.invertible(name, "h") for name in "GJ")
    for label in ("", "'"):
        a = one_head(w, W_Q=w.matrix("W_Q" + label, "d", "h"), W_O=w.matrix("W_O" + label, "h", "d"))
        pairs.append((call(gauge.turn_heads(a, G, J), x), call(a, x)))
    return pairs


def turned(w: Any, a: Attention, x: Any) -> tuple[Any, Any]:
    G, J = group_bases(w, "G"), group_bases(w, "J")
    return call(gauge.turn_heads(a, G, J), x), call(a, x)


def group_bases(w: Any, name: str) -> Any:
    """An invertible matrix for each key/value head, on the diagonal."""
    return on_diagonal([w.invertible(f"{name}^{j + 1}", "h") for j in range(w.setting.kv_heads)])


def biased_groups(w: Any) -> Pairs:
    """With biases, which turn with their matrices; the key bias is looked at, because softmax would not miss it."""
    if in_words(w):
        return []
    a, x = w.attention(biases=True), w.matrix("X", "n", "d")
    G = group_bases(w, "G")
    new = gauge.turn_heads(a, keys=G)
    return [turned(w, a, x), (call(new, x), call(a, x)), (new.b_K @ G.mT, a.b_K)]


def a_basis_for_each_query_head(w: Any) -> Pairs:
    a = w.attention()
    G = on_diagonal([w.invertible(f"G^{h + 1}", "h") for h in range(w.setting.heads)])
    return [(gauge.turn_heads(a, keys=G).W_Q, a.W_Q)]


def values_apart_in_a_group(w: Any) -> Pairs:
    """Two query heads on one value head: each output in a basis of its own, and the values in that of the first."""
    x, a, other = w.matrix("X", "n", "d"), one_head(w), w.integers("W_O'", "h", "d")
    J, L = w.invertible("J", "h"), w.invertible("L", "h")
    return [((x @ gauge.turn_heads(a, values=J).W_V) @ (gauge.inverse(L) @ other), (x @ a.W_V) @ other)]


def redundancy_of_groups(_: Any) -> Pairs:
    """(d, H, d_h, g): parameters less dimension is 2 g d_h^2."""
    cases = ((4, 2, 2, 1), (4, 4, 2, 2), (4, 4, 2, 1), (3, 3, 2, 1))
    return [(2 * g * width**2, layer_redundancy(d, heads, width, groups=g)) for d, heads, width, g in cases]


def bare_groups(s: Setting) -> bool:
    return grouped(s) and bare(s)


GQA_GAUGE = Claim(
    id="gqa-gauge",
    rank="remark",
    chapter=CHAPTER,
    title="Heads that share keys and values turn together",
    statement=(
        "With grouped heads there is one $G$ and one $J$ for each *key/value* head: every query head $h$ of its group becomes $W_Q^hG$ and "
        "$J^{-1}W_O^h$, the shared projections become $W_KG^{-\\top}$ and $W_VJ$, and the function stays. Where heads are no wider than the stream, at generic weights, the redundancy is $2gd_h^2$ "
        "in place of $2Hd_h^2$: sharing keys and values takes freedom away together with weights (measured as a rank for small sizes)."
    ),
    hypotheses=(
        Hypothesis("H1", "one basis for a group", "all query heads of a group turn with their key/value head"),
        Hypothesis("H2", "invertible", "$G$ and $J$ are invertible, one block for each key/value head"),
        Hypothesis("H3", "bare scores", "for $G$ there is no RoPE and no QK-norm"),
    ),
    sources=(Source("derived", note="the form for groups, and the ranks of small layers"),),
    uses=("head-gauge",),
    lanes=("symbolic", "exact", "numeric", "rank"),
    sides=group_turned,
    also=biased_groups,
    special={"rank": redundancy_of_groups},
    settings=bare_groups,
    constructions=("turn_heads", "over_groups"),
    controls=(
        Control("H1", "two query heads of one group turned apart", apart_in_a_group),
        Control("H1", "two outputs of one group turned apart", values_apart_in_a_group),
        Control(
            "H1",
            "asking for a basis for each query head",
            a_basis_for_each_query_head,
            lanes=("exact", "numeric"),
            refused="multi-head attention",
        ),
        Control(
            "H1",
            "a basis for each query head counted, $2Hd_h^2$",
            lambda _: [(2 * 2 * 2**2, layer_redundancy(4, 2, 2, groups=1))],
            lanes=("rank",),
        ),
        Control("H2", "a generalized inverse of a singular $G$", singular_basis),
        Control("H2", "asking for it with a singular $G$", singular_refused, refused="invertible"),
        Control("H3", "RoPE between keys and scores", lambda w: between(w, w.rotate)),
        Control("H3", "a norm between keys and scores", lambda w: between(w, w.function("N"))),
        Control("construction", "$W_KG^{-1}$ in the place of $W_KG^{-\\top}$", without_transpose),
    ),
)
