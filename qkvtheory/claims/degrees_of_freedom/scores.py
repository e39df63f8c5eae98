"""What is left of the freedom inside a head when something acts between the projections and the scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any, cast

import numpy as np

from qkvtheory import gauge
from qkvtheory.attention import Heads, rms_norm
from qkvtheory.claims.degrees_of_freedom.common import (
    CHAPTER,
    OURS,
    in_words,
    layer_redundancy,
    narrow,
    on_diagonal,
    one_head,
)
from qkvtheory.claims.degrees_of_freedom.heads import between, turning_refused
from qkvtheory.claims.model import Claim, Control, Hypothesis, Pairs, Source, call
from qkvtheory.lanes.settings import Setting
from qkvtheory.linalg import rank
from qkvtheory.network import Attention
from qkvtheory.positions import Rope, rational_rope, rope

# -- rope-commutant ----------------------------------------------------------------------------------------------------


def defect(w: Any) -> Pairs:
    """What a turned head adds to the scores at one offset, whose rotation is R."""
    x, a, R = w.matrix("X", "n", "d"), one_head(w), w.matrix("R_t", "h", "h")
    G = w.invertible("G", "h")
    new = gauge.turn_heads(a, keys=G)
    turned, old = ((x @ b.W_Q) @ R @ (x @ b.W_K).mT for b in (new, a))
    return [(turned, old + (x @ a.W_Q) @ (G @ R - R @ G) @ gauge.inverse(G) @ (x @ a.W_K).mT)]


def real_heads(w: Any) -> Pairs:
    """In numbers: the setting's heads, and one head of many planes, turned plane by plane."""
    if in_words(w):
        return []
    wide, x = with_many_planes(w), w.matrix("X", "n", "d")
    pairs = [(call(gauge.turn_heads(a, keys=plane_by_plane(w, a)), x), call(a, x)) for a in (w.attention(), wide)]
    free = on_diagonal([w.invertible(f"J^{h}", "h") for h in range(w.setting.kv_heads)])
    return [*pairs, (call(gauge.turn_heads(w.attention(), values=free), x), call(w.attention(), x))]


def with_many_planes(w: Any) -> Attention:
    """One head as wide as the stream."""
    s = w.setting
    table = rope(s.n, s.d) if w.lane == "numeric" else rational_rope(s.n, s.d // 2)
    core = replace(s.core(), heads=1, groups=None, rotate=table)
    return w.attention(core=core, W_K=w.weight("W_K", "d", "p"), W_V=w.weight("W_V", "d", "p"), b_K=None, b_V=None)


def plane_by_plane(w: Any, a: Attention, reflected: bool = False) -> Any:
    """For each key head: in plane c, [[2 + c, 1], [-1, 2 + c]] times a number of the head; on the rest, a triangle.

    ``reflected``: with [[2 + c, 1], [1, -2 - c]] in the planes.
    """
    core = cast(Heads, a.core)
    table, width = cast(Rope, core.rotate), a.W_K.shape[1] // core.kv_heads
    planes = table.cos.shape[1]
    block = np.tril(np.ones((width, width), dtype=int)) * (np.arange(width) >= 2 * planes)
    for c in range(planes):
        i, j = (c, c + planes) if table.layout == "half" else (2 * c, 2 * c + 1)
        block[[i, i, j, j], [i, j, i, j]] = [2 + c, 1, 1, -2 - c] if reflected else [2 + c, 1, -1, 2 + c]
    one = w.identity("1")[0, 0]
    return on_diagonal([block * one * (h + 1) for h in range(core.kv_heads)])


def reflected_planes(w: Any) -> Pairs:
    """Like a rotation it keeps every plane, but it does not commute with one."""
    a, x = w.attention(), w.matrix("X", "n", "d")
    G = plane_by_plane(w, a, reflected=True)
    unrotated = replace(a, core=replace(cast(Heads, a.core), rotate=None))
    new = replace(gauge.turn_heads(unrotated, keys=G), core=a.core)
    return [(new(x), a(x))]


def commutant(*planes: tuple[Fraction, Fraction], rest: int = 0) -> int:
    """The dimension of all matrices that commute with this rotation, from the linear equations G R = R G.

    ``planes``: cosine and sine of each; ``rest``: how many coordinates do not turn.
    """
    cos, sin = (np.array([[plane[part] for plane in planes]], dtype=object) for part in (0, 1))
    one = np.eye(2 * len(planes) + rest, dtype=int).astype(object)
    R = Rope(cos, sin)(one[:, None])[:, 0]
    return len(one) ** 2 - rank(np.kron(one, R.T) - np.kron(R, one))


QUARTER, SMALLER = (Fraction(3, 5), Fraction(4, 5)), (Fraction(12, 13), Fraction(5, 13))
THIRD, HALF_TURN = (Fraction(-8, 17), Fraction(15, 17)), (Fraction(-1), Fraction(0))


def what_commutes(_: Any) -> Pairs:
    """Solved exactly, and measured on layers: a plane of its own 2, k planes alike 2 k^2, k unrotated coordinates k^2."""
    solved = [
        (2 * 2, commutant(QUARTER, SMALLER)),
        (2 * 3, commutant(QUARTER, SMALLER, THIRD)),
        (2 * 2**2, commutant(QUARTER, QUARTER)),
        (2 * 2**2 + 2, commutant(QUARTER, QUARTER, SMALLER)),
        (2 + 2**2, commutant(QUARTER, rest=2)),
        (2 + 3**2, commutant(SMALLER, rest=3)),
    ]
    values = 4**2  # J is as free as without RoPE
    measured = [
        (kept + values, layer_redundancy(4, 1, 4, planes=planes))
        for kept, planes in ((4, (1, 1)), (8, (2,)), (2 + 4, (1,)))
    ]
    return [*solved, *measured, (2 * (2 + 2**2), layer_redundancy(4, 2, 2, planes=(1,)))]


def predicted_rank(redundancy: int, **shape: Any) -> Any:
    """A wrong prediction of the redundancy of one head of width 4 on a stream of width 4."""
    return lambda _: [(redundancy, layer_redundancy(4, 1, 4, **shape))]


def rotates(s: Setting) -> bool:
    return "rotate" in s.features(s)


ROPE_COMMUTANT = Claim(
    id="rope-commutant",
    rank="remark",
    chapter=CHAPTER,
    title="What RoPE leaves of the freedom inside a head",
    statement=(
        "At offset $t$ the scores of a head with RoPE are $\\alpha\\,x_iW_Q^hR_tW_K^{h\\top}x_j^{\\top}$. Turning the head by $G_h$ adds "
        "$\\alpha\\,x_iW_Q^h(G_hR_t-R_tG_h)G_h^{-1}W_K^{h\\top}x_j^{\\top}$, so it keeps them *for all weights* **if and only if** $G_h$ "
        "commutes with every $R_t$. With distinct frequencies that leaves one multiple of a rotation for each plane, "
        "$G_h=\\bigoplus_cs_cR(\\varphi_c)$: $d_h$ dimensions in place of $d_h^2$. If $k$ planes share a frequency their block is "
        "$GL(k,\\mathbb C)$, $2k^2$ dimensions; $k_0$ unrotated coordinates have $GL(k_0,\\mathbb R)$. $J_h$ stays free, and so does every "
        "basis of the stream. (The dimensions are solved for exactly, and measured as ranks of small layers.)"
    ),
    hypotheses=(
        Hypothesis("H1", "distinct frequencies", "the $d_h/2$ planes turn by pairwise distinct angles in $(0,\\pi)$"),
        Hypothesis("H2", "invertible, and commutes", "$G_h$ is invertible and commutes with every $R_t$"),
    ),
    sources=(
        Source("paper", "wang2025gauge"),
        Source("paper", "functionalequiv2026", note="RoPE shrinks the group, sinusoidal positions do not"),
        Source("derived", note="equal frequencies and unrotated coordinates; the ranks"),
    ),
    uses=("head-gauge", "scores-bilinear"),
    kind="condition",
    lanes=("symbolic", "exact", "numeric", "rank"),
    sides=defect,
    also=real_heads,
    special={"rank": what_commutes},
    settings=rotates,
    constructions=("turn_heads",),
    controls=(
        Control(
            "H1",
            "two equal frequencies: $d_h$ dimensions predicted all the same",
            predicted_rank(4 + 16, planes=(2,)),
            lanes=("rank",),
        ),
        Control(
            "H1",
            "one plane of two rotates: $d_h$ dimensions predicted all the same",
            predicted_rank(4 + 16, planes=(1,)),
            lanes=("rank",),
        ),
        Control("H1", "a plane that makes half a turn", lambda _: [(2, commutant(HALF_TURN))], lanes=("rank",)),
        Control("H2", "any invertible $G$", lambda w: between(w, w.rotate)),
        Control(
            "H2", "asking for any invertible $G$", turning_refused, lanes=("exact", "numeric"), refused="bare scores"
        ),
        Control("H2", "a reflection in every plane", reflected_planes, lanes=("exact", "numeric")),
        Control(
            "construction",
            "all of $GL(d_h)$ counted, $d_h^2$",
            predicted_rank(16 + 16, planes=(1, 1)),
            lanes=("rank",),
        ),
    ),
)


# -- qk-norm-gauge -----------------------------------------------------------------------------------------------------


def root(w: Any) -> Any:
    """An RMSNorm in words: rho(q q^T) q, with a function rho of all inner products of which nothing else is known."""
    rho = w.function("rho", "n", "n")
    return lambda q: rho(q @ q.mT) @ q


def normed_scores(w: Any, turn_q: Any, turn_k: Any, after: Any = None) -> tuple[Any, Any]:
    """Scores of normed queries and keys, turned and as they were. ``after``: what acts after the norm."""
    x, a, N = w.matrix("X", "n", "d"), one_head(w), root(w)

    def scores(W_Q: Any, W_K: Any) -> Any:
        q, k = N(x @ W_Q), N(x @ W_K)
        return q @ k.mT if after is None else after(q) @ after(k).mT

    return scores(a.W_Q @ turn_q, a.W_K @ turn_k), scores(a.W_Q, a.W_K)


def rotated_heads(w: Any) -> Pairs:
    turn = w.orthogonal("O", "h", "H2")
    return [normed_scores(w, turn, turn)]


def normed_heads(w: Any, **features: Any) -> Attention:
    return w.attention(core=w.setting.core(**features))


def scaled(w: Any, eps: float) -> Pairs:
    """Queries times 3 and keys times 5, in every head."""
    x, a = w.matrix("X", "n", "d"), normed_heads(w, norm_q=rms_norm(eps=eps), norm_k=rms_norm(eps=eps))
    return [(call(replace(a, W_Q=3 * a.W_Q, W_K=5 * a.W_K), x), call(a, x))]


def orthogonal_heads(w: Any, a: Attention) -> Attention:
    """Every head turned by an orthogonal matrix of its own."""
    turn = on_diagonal([w.orthogonal(f"O^{h}", "h", "H2") for h in range(w.setting.heads)])
    return replace(a, W_Q=a.W_Q @ turn, W_K=a.W_K @ turn)


def gains_traded(w: Any) -> Pairs:
    """Gains shared by the heads: only their products matter."""
    x, width = w.matrix("X", "n", "d"), w.sizes["h"]
    gains, c = w.rng("gains").uniform(0.5, 2, (2, width)), np.linspace(2, 3, width)
    old, new = (
        normed_heads(w, norm_q=rms_norm(q, 0.0), norm_k=rms_norm(k, 0.0))
        for q, k in (gains, (gains[0] * c, gains[1] / c))
    )
    return [(call(new, x), call(old, x))]


def normed_and_rotated(w: Any) -> Pairs:
    """With RoPE as well: a rotation in each plane, and the two scales."""
    x, width = w.matrix("X", "n", "d"), w.sizes["h"]
    a = normed_heads(w, norm_q=rms_norm(eps=0.0), norm_k=rms_norm(eps=0.0), rotate=rope(w.sizes["n"], width))
    turn = np.kron(np.eye(w.setting.heads * width // 2), [[0.6, 0.8], [-0.8, 0.6]])
    return [(call(replace(a, W_Q=3 * a.W_Q @ turn, W_K=5 * a.W_K @ turn), x), call(a, x))]


def in_floats(w: Any) -> Pairs:
    """The package's own heads and norms."""
    x, a = w.matrix("X", "n", "d"), normed_heads(w, norm_q=rms_norm(eps=0.1), norm_k=rms_norm(eps=0.1))
    turned = (call(orthogonal_heads(w, a), x), call(a, x))
    return [*rotated_heads(w), turned, *scaled(w, 0.0), *gains_traded(w), *normed_and_rotated(w)]


def any_basis(w: Any) -> Pairs:
    G = w.invertible("G", "h")
    return [normed_scores(w, G, gauge.inverse(G).mT)]


def orthogonal_and(w: Any, after: Any) -> Pairs:
    """In numbers a reflection: heads of one plane would not show that rotations and RoPE do not commute."""
    turn = w.orthogonal("O", "h", "H2") if in_words(w) else w.identity("h")[::-1]
    return [normed_scores(w, turn, turn, after)]


def gain(w: Any) -> Any:
    G = w.diagonal(w.matrix("gamma", "h", "1"))
    return lambda q: q @ G


def norms_counted(_: Any) -> Pairs:
    """(what is left for queries and keys in all, d_h, H, the layer); d_h^2 for the values of each head is added."""
    cases: Sequence[tuple[int, int, int, dict[str, Any]]] = (
        (6 + 2, 4, 1, {"qk_norm": "eps 0"}),
        (6, 4, 1, {"qk_norm": "eps > 0"}),
        (2 + 4, 4, 1, {"qk_norm": "gains"}),
        (2 + 2, 4, 1, {"qk_norm": "eps 0", "planes": (1, 1)}),
        (2 * (1 + 2), 2, 2, {"qk_norm": "eps 0"}),
        (2 * 2 + 2, 2, 2, {"qk_norm": "gains"}),
    )
    return [
        (left + heads * width**2, layer_redundancy(4, heads, width, **shape)) for left, width, heads, shape in cases
    ]


QK_NORM_GAUGE = Claim(
    id="qk-norm-gauge",
    rank="remark",
    chapter=CHAPTER,
    title="What QK-norm leaves of it",
    statement=(
        "Put an RMSNorm on the queries and keys of each head, $d_h\\ge2$, without RoPE. Without gain, $W_Q^hO_h,\\ W_K^hO_h$ with an orthogonal $O_h$ give "
        "the same scores: $\\frac{d_h(d_h-1)}2$ dimensions. With $\\varepsilon=0$ inside the norm the scales of $W_Q^h$ and of $W_K^h$ are free as well: "
        "$\\frac{d_h(d_h-1)}2+2$ for each head. Gains $\\gamma_q,\\gamma_k$ that all heads share break the rotations, and only their products "
        "$\\gamma_q\\odot\\gamma_k$ matter: with $\\varepsilon=0$, two scales for each head and $d_h$ dimensions in all. With RoPE at distinct frequencies, "
        "without gain, $\\varepsilon=0$: $\\frac{d_h}2+2$ for each head. $J_h$ stays free. (That there is no more is measured as a rank for small sizes.)"
    ),
    hypotheses=(
        Hypothesis("H1", "no RoPE", "nothing stands between the norm and the scores"),
        Hypothesis("H2", "orthogonal", "the head is turned by an orthogonal matrix, the same for queries and keys"),
        Hypothesis("H3", "no gain", "for the rotations: the norms have no gain"),
        Hypothesis("H4", "no $\\varepsilon$", "for the scales: $\\varepsilon=0$ inside the norm"),
    ),
    sources=(OURS,),
    uses=("head-gauge", "rope-commutant", "rmsnorm-orthogonal-only"),
    lanes=("symbolic", "exact", "numeric", "rank"),
    sides=rotated_heads,
    special={"numeric": in_floats, "rank": norms_counted},
    settings=narrow,
    controls=(
        Control("H1", "RoPE after the norm", lambda w: orthogonal_and(w, w.rotate)),
        Control(
            "H1",
            "RoPE: all of $O(d_h)$ counted all the same",
            predicted_rank(6 + 2 + 16, qk_norm="eps 0", planes=(1, 1)),
            lanes=("rank",),
        ),
        Control("H2", "any invertible $G$, and $G^{-\\top}$ for the keys", any_basis),
        Control(
            "H2",
            "$\\varepsilon=0$: all of $GL(d_h)$ counted, 16 at $d_h=4$",
            predicted_rank(16 + 16, qk_norm="eps 0"),
            lanes=("rank",),
        ),
        Control(
            "H2",
            "$\\varepsilon>0$: all of $GL(d_h)$ counted, 16 at $d_h=4$",
            predicted_rank(16 + 16, qk_norm="eps > 0"),
            lanes=("rank",),
        ),
        Control("H3", "a gain after the norm", lambda w: orthogonal_and(w, gain(w))),
        Control(
            "H3", "gains: rotations counted all the same", predicted_rank(6 + 2 + 16, qk_norm="gains"), lanes=("rank",)
        ),
        Control("H4", "scales with $\\varepsilon>0$", lambda w: scaled(w, 0.1), lanes=("numeric",)),
        Control(
            "H4",
            "$\\varepsilon>0$: two scales counted all the same",
            predicted_rank(6 + 2 + 16, qk_norm="eps > 0"),
            lanes=("rank",),
        ),
    ),
)
