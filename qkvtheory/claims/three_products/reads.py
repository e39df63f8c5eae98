"""What the sublayer reads: three products, or any number of linear reads."""

from __future__ import annotations

from typing import Any

from qkvtheory import gauge
from qkvtheory.claims.model import Claim, Control, Hypothesis, Pairs, Source, call
from qkvtheory.lanes import slow
from qkvtheory.network import Attention

CHAPTER = "three-products"
OURS = Source("derived")


# -- three-products ----------------------------------------------------------------------------------------------------


def factored(w: Any) -> tuple[Attention, Any, Any, Any]:
    """A sublayer whose three projections all start with P, the tokens, and a Z with Z P = 0: invisible to all three."""
    p, x = w.matrix("P", "d", "s"), w.matrix("X", "n", "d")
    reads = {f"W_{c}": p @ w.matrix(f"A_{c}", "s", size) for c, size in zip("QKV", "pkv", strict=True)}
    return w.attention(**reads), x, w.annihilator("Z", "n", p), p


def three_products(w: Any) -> Pairs:
    a, x = w.attention(), w.matrix("X", "n", "d")
    q, k, v = (product(x, a, c) for c in "QKV")
    out = a.core(q, k, v) @ a.W_O
    layer, tokens, hidden, _ = factored(w)
    return [(call(a, x), out if a.b_O is None else out + a.b_O), (call(layer, tokens + hidden), call(layer, tokens))]


def product(x: Any, a: Attention, c: str) -> Any:
    bias = getattr(a, f"b_{c}")
    return x @ getattr(a, f"W_{c}") if bias is None else x @ getattr(a, f"W_{c}") + bias


def three_products_in_numbers(w: Any) -> Pairs:
    """In numbers the code must also equal attention written as loops over heads and pairs of tokens."""
    a, x = w.attention(), w.matrix("X", "n", "d")
    return [(slow.attention(a, x), call(a, x)), three_products(w)[1]]


def adds_its_input(w: Any) -> Pairs:
    a, x, hidden, _ = factored(w)
    return [(a(x + hidden) + (x + hidden), a(x) + x)]


def normalizes_its_input(w: Any) -> Pairs:
    a, x, hidden, _ = factored(w)
    norm = w.function("N")

    def layer(z: Any) -> Any:
        return a.core(norm(z) @ a.W_Q, z @ a.W_K, z @ a.W_V) @ a.W_O

    return [(layer(x + hidden), layer(x))]


THREE_PRODUCTS = Claim(
    id="three-products",
    rank="remark",
    chapter=CHAPTER,
    title="Attention is a function of $XW_Q$, $XW_K$, $XW_V$",
    statement=(
        "There is a function $g$, independent of $W_Q$, $W_K$, $W_V$, such that the attention sublayer is "
        "$g(XW_Q,\\,XW_K,\\,XW_V)\\,W_O$, plus $b_O$ if there is one. Heads, masks, rotary positions, the other biases, QK-norm, "
        "softmax, soft-capping and dropout masks are all inside $g$. So a change $Z$ of the tokens that all three projections "
        "send to zero cannot be seen."
    ),
    hypotheses=(
        Hypothesis(
            "H1",
            "linear reads",
            "queries, keys and values are linear (affine) in $X$, and nothing else in the sublayer reads $X$",
        ),
    ),
    sources=(
        Source("paper", "karbevski2026nonlinear", "v1-v3", "abstract and introduction", "the observation"),
        Source(
            "paper, early version, as excerpted",
            "karbevski2025kv",
            "v1-v2",
            "Reparametrization Lemma",
            "arbitrary $g$, as its hypothesis",
        ),
        Source("derived", note="rectangular products, biases, and the list of what lies inside $g$"),
    ),
    sides=three_products,
    special={"exact": three_products_in_numbers, "numeric": three_products_in_numbers},
    controls=(
        Control("H1", "a sublayer that also adds $X$ itself", adds_its_input),
        Control("H1", "a sublayer that normalizes $X$ for the queries only", normalizes_its_input),
    ),
)


# -- r-products --------------------------------------------------------------------------------------------------------


def four_reads(w: Any) -> tuple[Any, Any, list[Any], Any]:
    x, theta = w.matrix("X", "n", "d"), w.invertible("Theta", "d", "H2")
    return x, theta, [w.matrix(f"W_{i}", "d", "p") for i in range(1, 5)], w.function("F")


def r_products(w: Any) -> Pairs:
    x, theta, reads, f = four_reads(w)
    new = gauge.reads(gauge.inverse(theta), *reads)
    return [(f(*(x @ theta @ r for r in new)), f(*(x @ r for r in reads)))]


def one_read_forgotten(w: Any) -> Pairs:
    x, theta, reads, f = four_reads(w)
    new = (*gauge.reads(gauge.inverse(theta), *reads[:3]), reads[3])
    return [(f(*(x @ theta @ r for r in new)), f(*(x @ r for r in reads)))]


def singular_basis(w: Any) -> Pairs:
    x, _, reads, f = four_reads(w)
    theta, back = w.singular("Theta", "d")
    return [(f(*(x @ theta @ (back @ r) for r in reads)), f(*(x @ r for r in reads)))]


R_PRODUCTS = Claim(
    id="r-products",
    rank="remark",
    chapter=CHAPTER,
    title="Any number of linear reads",
    statement=(
        "If a layer is $F(XW_1,\\dots,XW_r)$, then for every invertible $\\Theta$ it computes the same from $X\\Theta$ with the "
        "weights $\\Theta^{-1}W_1,\\dots,\\Theta^{-1}W_r$. This covers gated attention (a fourth read), MLP and GLU inputs, "
        "routers and latent down-projections. Shown for $r=4$; the proof is the same for every $r$."
    ),
    hypotheses=(
        Hypothesis("H1", "linear reads", "the layer is $F(XW_1,\\dots,XW_r)$ and every read is changed"),
        Hypothesis("H2", "invertible basis", "$\\Theta$ is invertible"),
    ),
    sources=(OURS,),
    sides=r_products,
    constructions=("reads",),
    controls=(
        Control("H1", "one of the four reads (a gate) left as it was", one_read_forgotten),
        Control("H2", "a generalized inverse of a singular $\\Theta$", singular_basis),
    ),
)
