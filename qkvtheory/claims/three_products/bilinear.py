"""What scores and output depend on."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from qkvtheory import gauge
from qkvtheory.attention import Heads
from qkvtheory.claims.model import Claim, Control, Hypothesis, Pairs, Source, call, matrices
from qkvtheory.claims.three_products.reads import CHAPTER
from qkvtheory.lanes import slow
from qkvtheory.lanes.settings import Setting
from qkvtheory.network import Attention

ELHAGE = Source("paper", "elhage2021framework", name="QK and OV circuits", note="for one head, in column convention")


# -- scores-bilinear ---------------------------------------------------------------------------------------------------


def one_head_weights(w: Any) -> list[Any]:
    return matrices(w, {"X": "nd", "W_Q": "dh", "W_K": "dh"})


def scores_bilinear(w: Any) -> Pairs:
    x, W_Q, W_K = one_head_weights(w)
    return [((x @ W_Q) @ (x @ W_K).mT, x @ (W_Q @ W_K.mT) @ x.mT)]


def scores_in_numbers(w: Any) -> Pairs:
    """Every head of the real core: x_i W_Q R_(i-j) W_K^T x_j^T, plus the bias on the scores."""
    a, x = w.attention(), w.matrix("X", "n", "d")
    scores = a.core.scores(x @ a.W_Q, x @ a.W_K)
    return [(scores[h], predicted_scores(a, x, h)) for h in range(a.core.heads)]


def predicted_scores(a: Attention, x: Any, h: int) -> Any:
    core, n = cast(Heads, a.core), len(x)
    width, group = a.W_Q.shape[1] // core.heads, h * core.kv_heads // core.heads
    W_Q, W_K = a.W_Q[:, h * width : (h + 1) * width], a.W_K[:, group * width : (group + 1) * width]
    scale = width**-0.5 if core.scale is None else core.scale
    turned = {t: W_Q @ offset_rotation(core, t, x, width) @ W_K.mT for t in range(1 - n, n)}
    rows = [[scale * (x[i] @ turned[i - j] @ x[j]) for j in range(n)] for i in range(n)]
    return np.array(rows, dtype=x.dtype) + (
        0 if core.bias is None else core.bias[h] if core.bias.ndim == 3 else core.bias
    )


def offset_rotation(core: Heads, t: int, x: Any, width: int) -> Any:
    """R_t for any offset: R_0 is the identity and R_(-t) is the transpose of R_t."""
    like = np.zeros((len(x), width), dtype=x.dtype) + x.flat[0] * 0
    if core.rotate is None:
        return np.eye(width, dtype=int).astype(x.dtype)
    return slow.rotation(core, t, like) if t >= 0 else slow.rotation(core, -t, like).mT


def hidden_by_a_norm(w: Any) -> Pairs:
    x, W_Q, W_K = one_head_weights(w)
    norm, (left, right) = w.function("N"), rescaled(w, W_Q, W_K)
    return [(norm(x @ left) @ norm(x @ right).mT, norm(x @ W_Q) @ norm(x @ W_K).mT)]


def same_product(w: Any) -> Pairs:
    _, W_Q, W_K = one_head_weights(w)
    left, right = rescaled(w, W_Q, W_K)
    return [(left @ right.mT, W_Q @ W_K.mT)]


def rescaled(w: Any, W_Q: Any, W_K: Any) -> tuple[Any, Any]:
    change = w.invertible("G", "h", "H1")
    return W_Q @ change, W_K @ gauge.inverse(change).mT


def with_key_bias(w: Any) -> Pairs:
    x, W_Q, W_K = one_head_weights(w)
    return [((x @ W_Q) @ (x @ W_K + w.matrix("b_K", "1", "h")).mT, x @ (W_Q @ W_K.mT) @ x.mT)]


def bare_scores(s: Setting) -> bool:
    return not s.biases and not set(s.features(s)) & {"norm_q", "norm_k", "softcap"}


SCORES_BILINEAR = Claim(
    id="scores-bilinear",
    rank="remark",
    chapter=CHAPTER,
    title="What the scores depend on",
    statement=(
        "Without rotary positions the scores of head $h$ are $\\alpha XM_hX^{\\top}+B$ with $M_h=W_Q^hW_K^{h\\top}$; with RoPE they are "
        "$S_{ij}=\\alpha\\,x_iW_Q^hR_{i-j}W_K^{h\\top}x_j^{\\top}+B_{ij}$. So the weights enter the scores only through $M_h$, or through the "
        "family $W_Q^hR_tW_K^{h\\top}$. The symbolic lane checks the first half; the others check both, with rotations written out."
    ),
    hypotheses=(
        Hypothesis("H1", "bare scores", "there is no QK-norm, no soft-capping, and no bias on queries or keys"),
    ),
    sources=(ELHAGE, Source("derived", note="the half on RoPE")),
    sides=scores_bilinear,
    special={"exact": scores_in_numbers, "numeric": scores_in_numbers},
    settings=bare_scores,
    controls=(
        Control("H1", "a norm on queries and keys: same $M_h$, other scores", hidden_by_a_norm, witness=same_product),
        Control("H1", "a bias on the keys", with_key_bias),
    ),
)


# -- value-path-bilinear -----------------------------------------------------------------------------------------------


def two_heads(w: Any) -> tuple[Any, list[Any], list[Any], list[Any]]:
    names = ("1", "2")
    maps = [
        w.softmax(w.matrix(f"S^{i}", "n", "n")) if w.lane == "symbolic" else w.matrix(f"S^{i}", "n", "n") for i in names
    ]
    values, outputs = ([w.matrix(f"W_{c}^{i}", *s) for i in names] for c, s in (("V", "dh"), ("O", "hd")))
    return w.matrix("X", "n", "d"), maps, values, outputs


def value_path(w: Any) -> Pairs:
    x, (A, B), (V, U), (P, R) = two_heads(w)
    return [((A @ (x @ V)) @ P + (B @ (x @ U)) @ R, A @ x @ (V @ P) + B @ x @ (U @ R))]


def value_path_in_numbers(w: Any) -> Pairs:
    a, x = w.attention(), w.matrix("X", "n", "d")
    maps = a.core.maps(x @ a.W_Q, x @ a.W_K)
    return [
        (
            call(a, x),
            sum((maps[h] @ x @ value_matrix(a, h) for h in range(1, len(maps))), maps[0] @ x @ value_matrix(a, 0)),
        )
    ]


def value_matrix(a: Attention, h: int) -> Any:
    """N_h = W_V^h W_O^h, with the value block of the head's group."""
    core = cast(Heads, a.core)
    group, width = h * core.kv_heads // core.heads, a.W_V.shape[1] // core.kv_heads
    return a.W_V[:, group * width : (group + 1) * width] @ a.W_O[h * width : (h + 1) * width]


def heads_permuted(w: Any) -> Pairs:
    x, (A, B), (V, U), (P, R) = two_heads(w)
    return [((A @ (x @ V)) @ P + (B @ (x @ U)) @ R, A @ x @ (U @ R) + B @ x @ (V @ P))]


VALUE_PATH = Claim(
    id="value-path-bilinear",
    rank="remark",
    chapter=CHAPTER,
    title="What the output depends on",
    statement=(
        "Given the attention maps $A_h$, values and output projection enter only through $N_h=W_V^hW_O^h$: the sublayer is "
        "$\\sum_hA_hXN_h$."
    ),
    hypotheses=(
        Hypothesis(
            "H1", "own map", "every $N_h$ is applied with the map $A_h$ of its own head; values and output have no bias"
        ),
    ),
    sources=(ELHAGE,),
    sides=value_path,
    special={"exact": value_path_in_numbers, "numeric": value_path_in_numbers},
    settings=lambda s: not s.biases,
    controls=(Control("H1", "$N_h$ applied with the maps of two heads swapped", heads_permuted),),
)
