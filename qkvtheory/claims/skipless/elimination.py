"""Without skips every query projection becomes the identity, and both states of a layer have a basis of their own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from qkvtheory import gauge
from qkvtheory.claims.model import Claim, Control, Hypothesis, Pairs, Source, call
from qkvtheory.claims.skipless.layers import (
    GRAEF,
    INVERTIBLE,
    NO_NORM,
    NOTE,
    T0,
    T2,
    TA,
    a_norm,
    asked,
    both_changed,
    forgotten_positions,
    is_first,
    last,
    moved_down,
    networks,
    norm_and_singular,
    parts,
    saved,
    smallest,
    start,
    step,
    with_biases,
    wrong,
)
from qkvtheory.lanes.settings import square_keys

CHAPTER = "skipless"
NO_SKIPS = Hypothesis(
    "H1", "no skips", "no layer adds its input to its output; cores, masks, activations are arbitrary"
)


def untouched(w: Any) -> Pairs:
    """Without skips nothing between attention and the MLP changes."""
    _, block, after = parts(w, T0)
    new = gauge.rebase(block, block.attention.W_Q, after)
    return [(new.attention.W_O, block.attention.W_O), (new.mlp.W_up, block.mlp.W_up)]


def further(w: Any) -> Pairs:
    """All biases and a gated MLP, and whole networks: but these not where the mutants run, since the step sees them."""
    return [*with_biases(w, T0), *([] if is_first(w) else networks(w, T0))]


ELIMINATION = Claim(
    id="skipless-elimination",
    rank="theorem",
    chapter=CHAPTER,
    title="Without skips every query projection becomes the identity",
    statement=(
        "Put $\\Theta_l=W_Q^{(l)}$ and $\\Theta_{L+1}=I$. With $\\tilde E=E\\Theta_1$ (and $\\tilde P=P\\Theta_1$), $\\tilde W_Q=I$, "
        "$\\tilde W_K=\\Theta_l^{-1}W_K$, $\\tilde W_V=\\Theta_l^{-1}W_V$, $\\tilde W_{down}=W_{down}\\Theta_{l+1}$, "
        "$\\tilde b_{down}=b_{down}\\Theta_{l+1}$ and all else unchanged ($W_O$, $W_{up}$, their biases, the readout) the network computes the "
        "same function, for every number $L$ of layers, and has $Ld^2$ numbers fewer to learn."
    ),
    hypotheses=(NO_SKIPS, NO_NORM, INVERTIBLE),
    sources=(GRAEF, Source("derived", note="arbitrary cores and activations, biases, gated MLPs")),
    uses=("eliminate-q",),
    lanes=("symbolic", "exact", "numeric", "count"),
    sides=lambda w: [*step(w, T0), *untouched(w), *start(w), *last(w, T0)],
    also=further,
    special={"count": saved(T0)},
    deep=True,
    constructions=("rebase", "reads", "carried", "remembered"),
    controls=(
        Control(
            "H1", "the same weights with a skip around attention", lambda w: both_changed(w, T0, attention_skip=True)
        ),
        Control("H1", "the same weights with a skip around the MLP", lambda w: both_changed(w, T0, mlp_skip=True)),
        Control("H1", "asking for it with both skips", asked(T2), refused="one choice per segment"),
        *norm_and_singular(T0),
        Control(
            "construction",
            "$\\Theta_l$ in place of $\\Theta_{l+1}$ on $W_{down}$",
            lambda w: wrong(w, T0, lambda new, b, _: moved_down(new, b.mlp.W_down @ b.attention.W_Q)),
        ),
        Control(
            "construction",
            "$b_{down}$ forgotten",
            lambda w: wrong(
                w, T0, lambda new, b, _: replace(new, mlp=replace(new.mlp, b_down=b.mlp.b_down)), biases=True
            ),
        ),
        Control("construction", "the positions $P$ forgotten", lambda w: forgotten_positions(w, T0)),
    ),
)


def both_junctions(w: Any, **options: Any) -> Pairs:
    x, block, after = parts(w, T0, **options)
    middle = w.invertible("Phi", "d", "H3")
    new = gauge.rebase(block, block.attention.W_Q, after, middle)
    value = call(new, x @ block.attention.W_Q, name="block")
    return [(value, block(x) @ after), (new.attention.W_O, block.attention.W_O @ middle)]


def output_projection(w: Any) -> Pairs:
    """Phi = W_O^-1 turns W_O itself into I."""
    x, block, after = parts(w, T0, square=True, W_O=w.invertible("W_O", "d", "H3"))
    new = gauge.rebase(block, block.attention.W_Q, after, gauge.inverse(block.attention.W_O, "W_O"))
    value = call(new, x @ block.attention.W_Q, name="block")
    return [(value, block(x) @ after), (new.attention.W_O, w.identity("d"))]


def in_the_middle(w: Any, *sublayers: str) -> Pairs:
    """Phi applied although skips join the states: the weights of a skipless block, then the skips."""
    x, block, after = parts(w, T0)
    skips: dict[str, Any] = dict.fromkeys(sublayers, True)
    new = gauge.rebase(block, block.attention.W_Q, after, w.invertible("Phi", "d", "H3"))
    return [(replace(new, **skips)(x @ block.attention.W_Q), replace(block, **skips)(x) @ after)]


def middle_asked(w: Any) -> Pairs:
    _, block, after = parts(w, TA)
    new = gauge.rebase(block, block.attention.W_Q, after, w.invertible("Phi", "d", "H3"))
    return [(new.attention.W_O, block.attention.W_O)]


def normed_middle(w: Any) -> Pairs:
    x, block, after = parts(w, T0)
    new = gauge.rebase(block, block.attention.W_Q, after, w.invertible("Phi", "d", "H3"))
    norm = a_norm(w)
    return [(replace(new, mlp_norm=norm)(x @ block.attention.W_Q), replace(block, mlp_norm=norm)(x) @ after)]


def singular_middle(w: Any) -> Pairs:
    x, block, after = parts(w, T0)
    phi, back = w.singular("Phi", "d")
    mlp = replace(block.mlp, W_up=back @ block.mlp.W_up, W_down=block.mlp.W_down @ after)
    new = replace(block, attention=replace(block.attention, W_O=block.attention.W_O @ phi), mlp=mlp)
    return [(new(x), block(x) @ after)]


def half_written(w: Any) -> Pairs:
    x, block, after = parts(w, T0)
    new = gauge.rebase(block, block.attention.W_Q, after, w.invertible("Phi", "d", "H3"))
    new = replace(new, attention=replace(new.attention, W_O=block.attention.W_O))
    return [(new(x @ block.attention.W_Q), block(x) @ after)]


FREE_BASES = Claim(
    id="skipless-free-bases",
    rank="remark",
    chapter=CHAPTER,
    title="The state between attention and MLP has a free basis too",
    statement=(
        "Without skips, any invertible $\\Phi_l$ after attention may be added: $\\tilde W_O=W_O\\Phi_l$, $\\tilde b_O=b_O\\Phi_l$, "
        "$\\tilde W_{up}=\\Phi_l^{-1}W_{up}$. So the stack has $2L+1$ free bases. $\\Phi_l=W_O^{-1}$, for example, turns $W_O$ itself into $I$."
    ),
    hypotheses=(
        NO_SKIPS,
        NO_NORM,
        Hypothesis("H3", "invertible bases", "every $\\Theta_l$ and every $\\Phi_l$ is invertible"),
    ),
    sources=(NOTE, Source("derived", note="the weights written out")),
    uses=("r-products", "skipless-elimination"),
    sides=lambda w: both_junctions(w),
    also=lambda w: [*both_junctions(w, biases=True)[:1], *([] if is_first(w) else output_projection(w))],
    deep=True,
    settings=lambda s: smallest(s) and square_keys(s),
    constructions=("moved", "moved_mlp", "between"),
    controls=(
        Control("H1", "the same weights with a skip around attention", lambda w: in_the_middle(w, "attention_skip")),
        Control("H1", "the same weights with a skip around the MLP", lambda w: in_the_middle(w, "mlp_skip")),
        Control(
            "H1", "asking for $\\Phi\\ne\\Theta$ beside a skip around attention", middle_asked, refused="one basis"
        ),
        Control("H2", "a norm between attention and the MLP", normed_middle),
        Control("H3", "a generalized inverse of a singular $\\Phi$", singular_middle),
        Control("construction", "$W_O$ left as it was", half_written),
    ),
)
