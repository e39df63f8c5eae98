"""What the freedom inside a head makes of tying after training."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from qkvtheory import gauge, tying
from qkvtheory.claims.degrees_of_freedom.common import kernel, narrow, one_head
from qkvtheory.claims.keys_equal_values.common import CHAPTER, OURS
from qkvtheory.claims.model import Claim, Control, Hypothesis, Pairs, Source, call
from qkvtheory.network import Attention

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
