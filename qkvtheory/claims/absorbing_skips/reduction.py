"""From a change of basis to a linear map that an MLP would have to absorb."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from qkvtheory import absorption, gauge
from qkvtheory.claims.absorbing_skips.common import CHAPTER, OURS, PAPER, PRIME, an_mlp, bare, tokens
from qkvtheory.claims.every_skip.conjugation import norm
from qkvtheory.claims.model import Claim, Control, Hypothesis, Pairs
from qkvtheory.network import MLP, Block


def both(w: Any) -> tuple[MLP, MLP]:
    """B, and the B' that is to absorb: of the same kind."""
    phi = w.function("phi")
    return an_mlp(w, phi), an_mlp(w, phi, label=PRIME)


def equivalent(w: Any) -> Pairs:
    """What is left over for the identity, times M, is what is left over for M; so one vanishes with the other."""
    x, M, (old, new) = tokens(w), w.invertible("M", "d", "H1"), both(w)
    easier = absorption.onto_identity(old, M)
    return [((x + easier(x) - new(x)) @ M, x @ M + old(x) - written_through(new, M)(x))]


def written_through(mlp: MLP, M: Any) -> MLP:
    return replace(mlp, W_down=mlp.W_down @ M, b_down=gauge.carried(mlp.b_down, M))


def other_basis(w: Any, hypothesis: str = "H1") -> tuple[Block, Any, Any]:
    """A block with both skips, and its weights in a basis for what enters and one for what leaves."""
    theta, after = w.invertible("Theta_l", "d", hypothesis), w.matrix("Theta_+", "d", "d")
    block = w.block(topology=(True, True), W_Q=theta)
    return block, theta, after


def to_be_absorbed(w: Any) -> Pairs:
    """The half-block with identity skip is exact in the new bases if its MLP also writes y M_l."""
    y, (block, theta, after) = w.matrix("Y", "n", "d"), other_basis(w)
    return half(w, y, block, theta, after)


def half(w: Any, y: Any, block: Block, theta: Any, after: Any, normed: Callable[[Any], Any] = lambda y: y) -> Pairs:
    new = gauge.rebase(replace(block, mlp_skip=False), theta, after).mlp
    M, state = gauge.inverse(theta) @ after - w.identity("d"), y @ theta
    return [(state + (state @ M + new(normed(state))), (y + block.mlp(normed(y))) @ after)]


def further(w: Any) -> Pairs:
    """With biases; and the half-block."""
    x, M, phi = tokens(w), w.invertible("M", "d", "H1"), w.function("phi")
    old = an_mlp(w, phi, biases=True)
    return [((x + absorption.onto_identity(old, M)(x)) @ M, x @ M + old(x)), *to_be_absorbed(w)]


def singular(w: Any) -> Pairs:
    """A generalized inverse of a singular M."""
    x, (M, back), (old, new) = tokens(w), w.singular("M", "d"), both(w)
    easier = replace(old, W_down=old.W_down @ back)
    return [((x + easier(x) - new(x)) @ M, x @ M + old(x) - written_through(new, M)(x))]


def asked_singular(w: Any) -> Pairs:
    old, _ = both(w)
    new = absorption.onto_identity(old, w.singular("M", "d")[0])
    return [(new(tokens(w)), old(tokens(w)))]


def normed_half(w: Any) -> Pairs:
    y, (block, theta, after) = w.matrix("Y", "n", "d"), other_basis(w)
    return half(w, y, block, theta, after, norm(w))


def nothing_absorbed(w: Any) -> Pairs:
    y, (block, theta, after) = w.matrix("Y", "n", "d"), other_basis(w)
    new = gauge.rebase(replace(block, mlp_skip=False), theta, after).mlp
    return [(y @ theta + new(y @ theta), (y + block.mlp(y)) @ after)]


REDUCTION = Claim(
    id="absorb-reduction",
    rank="remark",
    chapter=CHAPTER,
    title="Absorbing a map is absorbing the identity",
    statement=(
        "$B'$ absorbs $M$ if $xM+B(x)=B'(x)$ for all $x$. (a) For invertible $M$, absorbing $M$ beside $B$ is the same problem as "
        "absorbing $I$ beside the block with $W_{down}M^{-1}$ in the place of $W_{down}$: what one attempt leaves over is what the other "
        "leaves over, times $M$. (b) To have $W_Q=I$ in every layer with both skips kept, layer by layer, the MLP of layer $l$ must "
        "absorb $M_l=\\Theta_l^{-1}\\Theta_{l+1}-I$."
    ),
    hypotheses=(
        Hypothesis(
            "H1", "invertible map", "$M$ is invertible, and so is the basis $\\Theta_l$ in which the layer reads"
        ),
        Hypothesis("H2", "both skips, no norm", "in (b): identity skips around attention and MLP, and no norms"),
    ),
    sources=(PAPER, OURS),
    uses=("basis-skip-repair",),
    sides=equivalent,
    also=further,
    settings=bare,
    constructions=("onto_identity",),
    controls=(
        Control("H1", "a generalized inverse of a singular $M$", singular),
        Control("H1", "asking for it with a singular $M$", asked_singular, refused="invertible"),
        Control("H2", "a norm before the MLP", normed_half),
        Control("H2", "an identity skip, and an MLP that absorbs nothing", nothing_absorbed),
    ),
)
