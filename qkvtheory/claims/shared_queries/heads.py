"""Sharing up to the basis of each head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from qkvtheory import gauge, stacks
from qkvtheory.attention import Heads, rms_norm
from qkvtheory.claims.every_skip.conjugation import BOTH, OURS, same_function, some_block
from qkvtheory.claims.model import Claim, Control, Hypothesis, Pairs, Statement, call
from qkvtheory.claims.shared_queries.sharing import CHAPTER
from qkvtheory.lanes.settings import plain_scores
from qkvtheory.network import Attention
from qkvtheory.positions import rational_rope, rope


def heads_core(w: Any, **changes: Any) -> Any:
    """In words one softmax head; in numbers the setting's heads."""
    return replace(w.core(), **changes) if isinstance(w.core(), Heads) else w.head


def turned(w: Any, label: str) -> Any:
    """B, which turns the coordinates inside every head; nothing says that it is invertible."""
    if not isinstance(w.core(), Heads):
        return w.matrix(f"B{label}", "d", "d")
    head = np.arange(w.sizes["d"]) // w.sizes["h"]
    return w.matrix(f"B{label}", "d", "d") * (head[:, None] == head[None, :]).astype(int)


def turned_attention(w: Any, label: str = "", **given: Any) -> Attention:
    """An attention sublayer with W_Q = W B, W the shared matrix."""
    W_Q = w.invertible("W", "d", "H2") @ turned(w, label)
    return w.attention(**{"square": True, "core": heads_core(w), "label": label, "W_Q": W_Q, **given})


def head_step(w: Any) -> tuple[Any, Any]:
    """One head: what is turned in its queries is turned back in its keys."""
    x, W, B, K = (
        w.matrix("X", "n", "d"),
        w.matrix("W_h", "d", "h"),
        w.matrix("B_h", "h", "h"),
        w.matrix("K_h", "d", "h"),
    )
    return (x @ (W @ B)) @ (x @ K).mT, (x @ W) @ (x @ (K @ B.mT)).mT


def aligned_step(w: Any) -> Pairs:
    """One head; the sublayer with its W_Q replaced by W; the block that holds it in the basis W."""
    x, W = w.matrix("X", "n", "d"), w.invertible("W", "d", "H2")
    a = turned_attention(w)
    aligned = gauge.align_heads(a, W)
    new = gauge.rebase(replace(some_block(w), attention=aligned), W, W, W)
    return [head_step(w), (call(aligned, x), call(a, x)), (aligned.W_Q, W), (new.attention.W_Q, w.identity("d"))]


def aligned_network(w: Any) -> Pairs:
    """Two layers (in words one) whose heads span the same spaces: aligned, then all queries eliminated."""
    W = w.invertible("W", "d", "H2")
    old = w.network(2 if isinstance(w.core(), Heads) else 1, BOTH)
    blocks = [
        replace(block, attention=turned_attention(w, f"^{layer}")) for layer, block in enumerate(old.blocks, start=1)
    ]
    old = replace(old, blocks=blocks)
    aligned = [replace(block, attention=gauge.align_heads(block.attention, W)) for block in blocks]
    new = stacks.eliminate_queries(replace(old, blocks=aligned))
    return [same_function(new, old, w), *((block.attention.W_Q, w.identity("d")) for block in new.blocks)]


def keys_forgotten(w: Any) -> Pairs:
    x, a = w.matrix("X", "n", "d"), turned_attention(w)
    return [(replace(gauge.align_heads(a, w.invertible("W", "d", "H2")), W_K=a.W_K)(x), a(x))]


def positions(w: Any) -> Any:
    """The setting's heads with rotary positions; in words a head that rotates queries and keys."""
    if not isinstance(w.core(), Heads):
        return lambda q, k, v: w.head(w.rotate(q), w.rotate(k), v)
    n, width = w.sizes["n"], w.sizes["h"]
    return heads_core(w, rotate=rope(n, width) if w.lane == "numeric" else rational_rope(n, width // 2))


def under_positions(w: Any) -> Pairs:
    """Aligned as if there were no rotary positions, and run with them."""
    x, a, core = w.matrix("X", "n", "d"), turned_attention(w), positions(w)
    new = gauge.align_heads(a, w.invertible("W", "d", "H2"))
    return [(replace(new, core=core)(x), replace(a, core=core)(x))]


def refused_core(core: Callable[[Any], Any], **given: Callable[[Any], Any]) -> Statement:
    """Asking to align a sublayer with this core, or with these further weights."""

    def ask(w: Any) -> Pairs:
        a = turned_attention(w, core=core(w), **{name: make(w) for name, make in given.items()})
        return [(gauge.align_heads(a, w.invertible("W", "d", "H2")).W_K, None)]

    return ask


def other_spaces(w: Any) -> Attention:
    """A W_Q whose heads span other spaces than those of W."""
    return turned_attention(w, W_Q=w.matrix("V", "d", "d"))


def mixed_heads(w: Any) -> Pairs:
    """Aligned although the heads span other spaces: the core is hidden, so nothing refuses."""
    x, a = w.matrix("X", "n", "d"), other_spaces(w)
    hidden = replace(a, core=lambda q, k, v: a.core(q, k, v))
    return [(gauge.align_heads(hidden, w.invertible("W", "d", "H2"))(x), a(x))]


NUMBERS = ("exact", "numeric")

HEAD_SPACES = Claim(
    id="shared-head-spaces",
    rank="remark",
    chapter=CHAPTER,
    title="It suffices that the heads share their spaces",
    statement=(
        "Let $W_Q^{(l)}=W\\,\\mathrm{diag}(B_1^{(l)},\\dots,B_H^{(l)})$: head $h$ of every layer has its queries in one space, in a basis of its "
        "own. Then $W_Q^{(l)}\\mapsto W$, $W_K^{(l)}\\mapsto W_K^{(l)}B^{(l)\\top}$ keeps every score, since "
        "$(XW_hB_h)(XK_h)^{\\top}=(XW_h)(XK_hB_h^{\\top})^{\\top}$. Now all layers share $W$, and $\\Theta=W$ makes all $W_Q=I$ with all skips. "
        "Only $W$ need be invertible, not the $B$."
    ),
    hypotheses=(
        Hypothesis(
            "H1",
            "bare scores, no norm",
            "no norm, no RoPE, no QK-norm, no bias on queries or keys, as many key heads as query heads",
        ),
        Hypothesis(
            "H2",
            "shared head spaces",
            "$W_Q^{(l)}=W\\,\\mathrm{diag}(B_1^{(l)},\\dots,B_H^{(l)})$ with an invertible $W$",
        ),
    ),
    sources=(OURS,),
    uses=("r-products", "shared-wq-elimination"),
    sides=aligned_step,
    also=aligned_network,
    settings=plain_scores,
    deep=True,
    constructions=("align_heads",),
    controls=(
        Control("H1", "rotary positions between $B$ and the scores", under_positions),
        Control("H1", "asking for it with RoPE", refused_core(positions), lanes=NUMBERS, refused="bare scores"),
        Control(
            "H1",
            "asking for it with QK-norm",
            refused_core(lambda w: heads_core(w, norm_q=rms_norm())),
            lanes=NUMBERS,
            refused="bare scores",
        ),
        Control(
            "H1",
            "asking for it with a bias on the queries",
            refused_core(heads_core, b_Q=lambda w: w.matrix("b_Q", "1", "d")),
            refused="bare scores",
        ),
        Control(
            "H1",
            "asking for it with a bias on the keys",
            refused_core(heads_core, b_K=lambda w: w.matrix("b_K", "1", "d")),
            refused="bare scores",
        ),
        Control(
            "H1",
            "asking for it with grouped keys",
            refused_core(
                lambda w: heads_core(w, groups=1),
                W_K=lambda w: w.matrix("W_K", "d", "h"),
                W_V=lambda w: w.matrix("W_V", "d", "h"),
            ),
            lanes=NUMBERS,
            refused="multi-head attention",
        ),
        Control("H2", "heads that span other spaces", mixed_heads, lanes=NUMBERS),
        Control(
            "H2",
            "asking for it with heads that span other spaces",
            lambda w: [(gauge.align_heads(other_spaces(w), w.invertible("W", "d", "H2")).W_K, None)],
            lanes=NUMBERS,
            refused="same head spaces",
        ),
        Control("construction", "$W_K$ left as it was", keys_forgotten),
    ),
)
