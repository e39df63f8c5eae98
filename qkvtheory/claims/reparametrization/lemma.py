"""The lemma itself, and its forms for Q, K and V."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from qkvtheory import gauge
from qkvtheory.claims.model import Claim, Control, Hypothesis, Pairs, Source, call
from qkvtheory.lanes.settings import grouped, plain_scores, square_keys
from qkvtheory.network import Attention

CHAPTER = "reparametrization"
LEMMA = Source(
    "paper, early version, as excerpted",
    "karbevski2025kv",
    "v1-v2",
    "Reparametrization Lemma",
    "any set $\\Omega$, any $g$, invertible $W_Q$, square $W_K$ and $W_V$",
)
GRAEF = Source(
    "paper",
    "graef2024kv",
    name="removing Q, K or V in skipless stacks",
    note="the same algebra; invertibility is stated there",
)
OURS = Source("derived")
H1 = Hypothesis("H1", "three products", "the sublayer reads $X$ only through $XW_Q$, $XW_K$, $XW_V$")


def stream(w: Any) -> tuple[Any, Any]:
    return w.matrix("X", "n", "d"), w.invertible("Theta", "d", "H2")


def moved(w: Any, **options: Any) -> Pairs:
    """The lemma: the sublayer in the new basis equals the old one in the old basis."""
    x, theta = stream(w)
    a = w.attention(**options)
    return [(call(gauge.change_basis(a, theta), x @ theta), call(a, x))]


def moved_with_input(w: Any) -> Pairs:
    x, theta = stream(w)
    a = w.attention()
    return [(gauge.change_basis(a, theta)(x @ theta) + x @ theta, a(x) + x)]


def rewritten(w: Any, edit: Any) -> Pairs:
    """A wrong rewriting: ``edit(attention, theta, its inverse)`` in the place of the construction; all weights d x d."""
    x, theta = stream(w)
    a = w.attention(square=True)
    return [(edit(a, theta, gauge.inverse(theta))(x @ theta), a(x))]


def with_reads(a: Attention, change: Any) -> Attention:
    return replace(a, W_Q=change(a.W_Q), W_K=change(a.W_K), W_V=change(a.W_V))


def singular_basis(w: Any) -> Pairs:
    x, a = w.matrix("X", "n", "d"), w.attention()
    theta, back = w.singular("Theta", "d")
    return [(with_reads(a, lambda weight: back @ weight)(x @ theta), a(x))]


def undeclared_basis(w: Any) -> Pairs:
    theta, _ = w.singular("Theta", "d")
    a = w.attention()
    return [(call(gauge.change_basis(a, theta), w.matrix("X", "n", "d")), call(a, w.matrix("X", "n", "d")))]


WRONG_SIDE = Control(
    "construction",
    "$W\\Theta^{-1}$ in place of $\\Theta^{-1}W$",
    lambda w: rewritten(w, lambda a, theta, back: with_reads(a, lambda weight: weight @ back)),
    settings=plain_scores,
)
SINGULAR = (
    Control("H2", "a generalized inverse of a singular $\\Theta$", singular_basis),
    Control("H2", "asking for the rewriting with a singular $\\Theta$", undeclared_basis, refused="invertible"),
)
ADDS_INPUT = Control("H1", "a sublayer that also adds $X$ itself", moved_with_input)

REPARAM_LEMMA = Claim(
    id="reparam-lemma",
    rank="theorem",
    chapter=CHAPTER,
    title="Reparametrization Lemma",
    statement=(
        "Move the stream to another basis, $X\\mapsto X\\Theta$, and multiply the three projections by $\\Theta^{-1}$ from the left. "
        "Attention gives the same output, for every core $g$ (heads, mask, positions, softmax), with $W_O$ and all biases untouched."
    ),
    hypotheses=(H1, Hypothesis("H2", "invertible basis", "$\\Theta$ is invertible")),
    sources=(
        LEMMA,
        Source(
            "paper",
            "karbevski2026wkwv",
            note="the joint action of $GL(d)$ on $X$ and the three projections, with any mask",
        ),
        Source("derived", note="rectangular $W_K$, $W_V$ (grouped keys), biases written out, any commutative ring"),
    ),
    uses=("three-products", "r-products"),
    sides=moved,
    also=lambda w: moved(w, biases=True),
    constructions=("change_basis", "moved", "reads"),
    controls=(
        ADDS_INPUT,
        *SINGULAR,
        WRONG_SIDE,
        Control(
            "construction",
            "$\\Theta^{-\\top}W$ in place of $\\Theta^{-1}W$",
            lambda w: rewritten(w, lambda a, theta, back: with_reads(a, lambda weight: back.mT @ weight)),
            settings=plain_scores,
        ),
        Control(
            "construction",
            "$W_O$ transformed as well",
            lambda w: rewritten(w, lambda a, theta, back: replace(gauge.change_basis(a, theta), W_O=a.W_O @ theta)),
            settings=plain_scores,
        ),
    ),
)


# -- eliminating Q, K or V ---------------------------------------------------------------------------------------------


def eliminated(w: Any, which: str, **options: Any) -> Pairs:
    x, name = w.matrix("X", "n", "d"), f"W_{which}"
    a = w.attention(square=which != "Q", **{name: w.invertible(name, "d", "H2")}, **options)
    theta, new = gauge.reparametrize(a, which)
    return [(call(new, x @ theta), call(a, x)), (getattr(new, name), w.identity("d"))]


def eliminated_with_input(w: Any, which: str = "Q") -> Pairs:
    x, name = w.matrix("X", "n", "d"), f"W_{which}"
    a = w.attention(square=True, **{name: w.invertible(name, "d", "H2")})
    theta, new = gauge.reparametrize(a, which)
    return [(new(x @ theta) + x @ theta, a(x) + x)]


def input_kept(w: Any) -> Pairs:
    x, a = w.matrix("X", "n", "d"), w.attention(square=True, W_Q=w.invertible("W_Q", "d", "H2"))
    _, new = gauge.reparametrize(a, "Q")
    return [(new(x), a(x))]


def singular_projection(w: Any, which: str) -> Pairs:
    """A generalized inverse where W_which is singular: what is left when nothing refuses."""
    x, name = w.matrix("X", "n", "d"), f"W_{which}"
    weight, back = w.singular(name, "d")
    a = w.attention(square=True, **{name: weight})
    new = replace(with_reads(a, lambda read: back @ read), **{name: w.identity("d")})
    return [(new(x @ weight), a(x))]


def refused_projection(w: Any, which: str) -> Pairs:
    weight, _ = w.singular(f"W_{which}", "d")
    theta, _ = gauge.reparametrize(w.attention(square=True, **{f"W_{which}": weight}), which)
    return [(theta, weight)]


ELIMINATE_Q = Claim(
    id="eliminate-q",
    rank="theorem",
    chapter=CHAPTER,
    title="The query projection becomes the identity",
    statement=(
        "Take $\\Theta=W_Q$. On the input $XW_Q$ the same function is computed with $\\tilde W_Q=I$, $\\tilde W_K=W_Q^{-1}W_K$, "
        "$\\tilde W_V=W_Q^{-1}W_V$. $W_K$ and $W_V$ may have any number of columns, so grouped keys are included."
    ),
    hypotheses=(H1, Hypothesis("H2", "invertible query projection", "$W_Q$ is square ($p=d$) and invertible")),
    sources=(LEMMA, GRAEF, Source("derived", note="any number of columns in $W_K$, $W_V$")),
    uses=("reparam-lemma",),
    sides=lambda w: eliminated(w, "Q"),
    also=lambda w: eliminated(w, "Q", biases=True),
    constructions=("reparametrize", "reads"),
    controls=(
        Control("H1", "a sublayer that also adds $X$ itself", eliminated_with_input, settings=plain_scores),
        Control(
            "H2",
            "a generalized inverse of a singular $W_Q$",
            lambda w: singular_projection(w, "Q"),
            settings=plain_scores,
        ),
        Control(
            "H2",
            "asking to eliminate a singular $W_Q$",
            lambda w: refused_projection(w, "Q"),
            settings=plain_scores,
            refused="invertible",
        ),
        Control("construction", "the input $X$ kept in place of $XW_Q$", input_kept, settings=plain_scores),
    ),
)

ELIMINATE_K_OR_V = Claim(
    id="eliminate-k-or-v",
    rank="theorem",
    chapter=CHAPTER,
    title="The key or the value projection becomes the identity instead",
    statement=(
        "With $\\Theta=W_K$ the same function is computed with $\\tilde W_Q=W_K^{-1}W_Q$, $\\tilde W_K=I$, $\\tilde W_V=W_K^{-1}W_V$; "
        "with $\\Theta=W_V$, with $\\tilde W_Q=W_V^{-1}W_Q$, $\\tilde W_K=W_V^{-1}W_K$, $\\tilde W_V=I$."
    ),
    hypotheses=(H1, Hypothesis("H2", "invertible matrix", "the eliminated matrix is $d\\times d$ and invertible")),
    sources=(Source("paper", "karbevski2025kv", "v3 and later", note="any one of the three"), GRAEF),
    uses=("reparam-lemma",),
    sides=lambda w: [*eliminated(w, "K"), *eliminated(w, "V")],
    also=lambda w: [*eliminated(w, "K", biases=True), *eliminated(w, "V", biases=True)],
    settings=square_keys,
    constructions=("reparametrize", "reads"),
    controls=(
        Control("H1", "a sublayer that also adds $X$ itself", lambda w: eliminated_with_input(w, "K")),
        Control(
            "H2",
            "a generalized inverse of a singular $W_K$",
            lambda w: singular_projection(w, "K"),
            settings=plain_scores,
        ),
        Control(
            "H2",
            "asking to eliminate a singular $W_V$",
            lambda w: refused_projection(w, "V"),
            settings=plain_scores,
            refused="invertible",
        ),
        Control(
            "H2",
            "asking to eliminate $W_K$ with grouped keys",
            lambda w: [(gauge.reparametrize(w.attention(), "K")[0], None)],
            settings=grouped,
            refused="square",
        ),
    ),
)
