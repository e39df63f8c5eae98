"""The map: every place where the eliminations stop, the counterexample that says so, and what repairs it exactly.

A boundary is no text of its own: it points to a control that ran and was rejected, and to the claims whose
construction goes past it. ``resolve`` finds them, and refuses what does not exist.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qkvtheory.claims.model import Claim, Control


@dataclass(frozen=True)
class Boundary:
    """One place where a construction stops.

    name: what the network has. says: what goes wrong there. broken: (claim, control), the counterexample by the id of
    its claim and the words of its control. repair: what is exact there, in words; by: the claims that prove it, none if
    nothing does. price: what the repair costs, or what is lost. Formulas in dollars, as in the texts of claims.
    """

    name: str
    says: str
    broken: tuple[str, str]
    repair: str
    by: tuple[str, ...]
    price: str


def resolve(boundary: Boundary, claims: Mapping[str, Claim]) -> tuple[Claim, Control]:
    """The claim and the control of the counterexample. Raises ValueError where one of them, or a repair, is missing, and
    where the control only asks and is refused: that has no size.

    >>> from qkvtheory.claims.register import register
    >>> claim, control = resolve(BOUNDARIES[0], register())
    >>> claim.id, control in claim.controls
    ('mlp-skip-defect', True)
    """
    name, what = boundary.broken
    missing = [id for id in (name, *boundary.by) if id not in claims]
    if missing:
        raise ValueError(f"the boundary {boundary.name!r} names claims that do not exist: {', '.join(missing)}")
    control = next((control for control in claims[name].controls if control.what == what), None)
    if control is None:
        raise ValueError(f"the boundary {boundary.name!r}: {name} has no control {what!r}; name one of its controls")
    if control.sides is None or control.refused or not {"numeric", "exact"} & set(control.lanes):
        raise ValueError(f"the boundary {boundary.name!r}: the control {what!r} measures nothing; name one that does")
    return claims[name], control


NO_REPAIR = "None known that is exact."

BOUNDARIES: tuple[Boundary, ...] = (
    Boundary(
        "An identity skip around the MLP too",
        "Every $W_Q$ would need a basis of its own, and the skip leaves $Y(\\Theta_l-\\Theta_{l+1})$ over.",
        ("mlp-skip-defect", "every $W_Q=I$ by the weights for a skip around attention only"),
        "One layer of the network; or in every layer the linear skip $\\Theta_l^{-1}\\Theta_{l+1}$; or hidden units that do its work.",
        ("one-layer-free", "basis-skip-repair", "spare-units", "spare-units-sharp"),
        "All layers but one keep $W_Q$; or $d^2$ for each skip, all that was saved; or $d$ to $2d$ more hidden units a layer, which weigh at least as much.",
    ),
    Boundary(
        "Different $W_Q$ in shared layers",
        "One basis makes one of them $I$ and turns the others into $W_1^{-1}W_2$.",
        ("shared-wq-elimination", "two different $W_Q$, both set to $I$"),
        "Share $W_Q$ between the layers.",
        ("shared-wq-elimination", "only-wq-shared"),
        "The layers lose their own queries.",
    ),
    Boundary(
        "Learned linear skips",
        "They join no bases; but they are worth no more than a choice of basis, if they are invertible.",
        ("learned-skip-removal", "a generalized inverse of a singular $A$"),
        "Reduce them to identity skips, and go on from there.",
        ("learned-skip-removal", "one-layer-free"),
        "Nothing; every $A$ must be invertible.",
    ),
    Boundary(
        "Skips gated coordinate by coordinate",
        "A gate that differs from coordinate to coordinate is no fixed matrix, so no basis passes through it.",
        ("learned-skip-removal", "a skip that depends on the input"),
        NO_REPAIR,
        (),
        "All $W_Q$ stay.",
    ),
    Boundary(
        "A long skip",
        "It joins states that were free of each other, so there are fewer bases.",
        ("basis-segments", "a long skip from the first state to the last, past two segments"),
        "One basis for all states that skips join.",
        ("basis-segments",),
        "One $W_Q$ less for each basis that is lost.",
    ),
    Boundary(
        "RMSNorm",
        "It sees lengths, so only rotations pass, and $W_Q$ keeps its singular values.",
        ("rmsnorm-orthogonal-only", "the basis $W_Q$ of an elimination"),
        "A rotation makes $W_Q$ triangular or symmetric; with bases inside the heads, block triangular.",
        ("rms-triangular", "rms-spd", "rms-block-triangular"),
        "$\\frac{d(d-1)}2$ numbers saved, or $\\frac{d(d+d_h)}2$ with the heads, where $W_Q=I$ saves $d^2$.",
    ),
    Boundary(
        "Gains in the norms",
        "A gain stretches some coordinates, and a rotation mixes them.",
        ("gain-folding", "rotated without folding the gains"),
        "Multiply the gains into the weights that read the norm.",
        ("gain-folding",),
        "Nothing; but a tied readout cannot take the last gain.",
    ),
    Boundary(
        "LayerNorm",
        "It takes the mean off, and a rotation carries the mean elsewhere.",
        ("layernorm-centring", "the LayerNorms kept, the means too, and any rotation"),
        "Center what is written, and LayerNorm is RMSNorm; or keep it, with rotations that fix the all-ones direction.",
        ("layernorm-centring", "layernorm-fixes-ones"),
        "Nothing for centering; keeping it leaves $\\frac{(d-1)(d-2)}2$ dimensions of rotations.",
    ),
    Boundary(
        "A gain after the addition (post-norm)",
        "The gain stands on the stream itself, skip included, so no weight can take it in.",
        ("post-norm-gain", "any gain and any rotation"),
        "Rotations that commute with the gain: for different gains sign flips, which spare nothing.",
        ("post-norm-gain",),
        "All $W_Q$ stay.",
    ),
    Boundary(
        "A tied readout",
        "The embedding becomes $E\\Theta$ and the readout $\\Theta^{-1}E^{\\top}$, which are not each other's transpose.",
        ("tied-readout-orthogonal", "$\\Theta=W_Q$, with the embedding and its transpose for the readout"),
        "Rotations only; with a skip around attention only, every layer but the first.",
        ("tied-readout-orthogonal", "attn-skip-tied"),
        "A triangular $W_Q$ in place of $I$: $\\frac{d(d-1)}2$ saved instead of $d^2$; or one layer.",
    ),
    Boundary(
        "A singular $W_Q$, several heads",
        "$W_Q$ forgets what keys and values still read. There are examples that no basis helps.",
        ("singular-wq-counterexample", "a generalized inverse of a singular $W_Q$"),
        "None for $W_Q$; $W_K$ or $W_V$ in its place, where these are invertible.",
        ("eliminate-k-or-v",),
        "Another projection goes; next to a singular matrix, $\\operatorname{cond}(\\Theta)$ grows without bound.",
    ),
    Boundary(
        "A singular $W_Q$, one head",
        "The basis does not exist here either.",
        ("eliminate-q", "a generalized inverse of a singular $W_Q$"),
        "No basis is needed: $W_Q$ goes into $W_K$.",
        ("single-head-merge",),
        "$W_K$ becomes $d\\times d$; no RoPE and no QK-norm.",
    ),
    Boundary(
        "A narrow $W_Q$ ($p<d$)",
        "It has no right inverse: queries see less than keys and values do.",
        ("wide-query", "a narrow $W_Q$, with a left inverse in place of the right inverse"),
        "Only where the columns of $W_K$ and $W_V$ lie in the column space of $W_Q$.",
        ("eliminable-iff",),
        "A condition that random weights do not meet.",
    ),
    Boundary(
        "A wide $W_Q$ ($p>d$)",
        "The new stream is $XW_Q$, $p$ wide; it needs all $d$ rows of $W_Q$ to be independent.",
        ("wide-query", "a wide $W_Q$ of rank $d-1$, with a generalized inverse"),
        "A right inverse in place of the inverse.",
        ("wide-query",),
        "The stream, and all that reads it, grows from $d$ to $p$.",
    ),
    Boundary(
        "Grouped keys and values, for $W_K$ and $W_V$",
        "They are $d\\times gd_h$ with $gd_h<d$: in no basis the identity.",
        ("gqa-kv-stop", "keys read off the first coordinates in any basis"),
        "$W_Q$ as before; or a basis in which keys are coordinates of the stream.",
        ("gqa-only-q", "column-selection"),
        "$dgd_h$ saved by coordinates of the keys, where $W_Q=I$ saves $d^2$.",
    ),
    Boundary(
        "Two projections at once",
        "The basis has $d^2$ numbers, and each matrix needs them all.",
        ("not-two-at-once", "both set to $I$ for independent $W_Q$ and $W_K$"),
        "In cross-attention, which has two bases.",
        ("cross-attention-two-gauges",),
        "Self-attention keeps two of its three projections, if it has more than one head.",
    ),
    Boundary(
        "Few digits, or a $W_Q$ that is nearly singular",
        "The rewriting is exact in real numbers and off by about $c\\,u\\,\\kappa$ in the machine's.",
        ("conditioning", "half precision, $\\kappa=10^3$: equal only up to $c\\,u\\,\\kappa$"),
        "None for a given precision: rewrite in float64, and round once.",
        (),
        "The digits of $\\kappa=\\operatorname{cond}(W_Q)$.",
    ),
)
