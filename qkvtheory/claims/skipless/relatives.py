"""Two relatives of the skipless stack: parallel sublayers, and residual networks that come close to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from qkvtheory import gauge
from qkvtheory.claims.model import AtMost, Claim, Control, Hypothesis, Pairs, Source, call
from qkvtheory.claims.skipless.layers import GRAEF, T0, a_norm, eliminated, is_first, moved_down, smallest
from qkvtheory.network import Block, Network

CHAPTER = "skipless"


# -- parallel sublayers ------------------------------------------------------------------------------------------------


def side_by_side(w: Any, **options: Any) -> tuple[Any, Block, Any, Block]:
    x, after = w.matrix("X", "n", "d"), w.matrix("Theta_+", "d", "d")
    block = w.block(topology=T0, parallel=True, hypothesis="H2", **options)
    return x, block, after, gauge.rebase(block, block.attention.W_Q, after)


def parallel(w: Any, **options: Any) -> Pairs:
    x, block, after, new = side_by_side(w, **options)
    value = call(new, x @ block.attention.W_Q, name="block")
    return [(value, block(x) @ after), (new.attention.W_Q, w.identity("d"))]


def parallel_stack(w: Any) -> Pairs:
    """Two layers with all biases."""
    stack = [] if is_first(w) else eliminated(w, w.network(2, T0, parallel=True, biases=True, hypothesis="H2"))
    return [*parallel(w, biases=True)[:1], *stack]


def one_write_only(w: Any) -> Pairs:
    x, block, after, new = side_by_side(w)
    return [(moved_down(new, block.mlp.W_down)(x @ block.attention.W_Q), block(x) @ after)]


def parallel_with(w: Any, **changes: Any) -> Pairs:
    x, block, after, new = side_by_side(w)
    return [(replace(new, **changes)(x @ block.attention.W_Q), replace(block, **changes)(x) @ after)]


def parallel_asked(w: Any) -> Pairs:
    _, block, after, _ = side_by_side(w)
    return [(gauge.rebase(replace(block, mlp_norm=a_norm(w)), block.attention.W_Q, after).mlp.W_up, block.mlp.W_up)]


def parallel_singular(w: Any) -> Pairs:
    W_Q, back = w.singular("W_Q", "d")
    x, block, after = w.matrix("X", "n", "d"), w.block(topology=T0, parallel=True, W_Q=W_Q), w.matrix("T", "d", "d")
    new = gauge.rebase(block, W_Q, after, invert=lambda basis, name: None if basis is None else back)
    new = replace(new, attention=replace(new.attention, W_Q=w.identity("d")))
    return [(new(x @ W_Q), block(x) @ after)]


def parallel_singular_asked(w: Any) -> Pairs:
    W_Q, _ = w.singular("W_Q", "d")
    block = w.block(topology=T0, parallel=True, W_Q=W_Q)
    return [(gauge.rebase(block, W_Q, None).mlp.W_up, block.mlp.W_up)]


PARALLEL = Claim(
    id="skipless-parallel",
    rank="remark",
    chapter=CHAPTER,
    title="Parallel sublayers without skip",
    statement=(
        "For $X'=\\mathrm{MHA}(X)+\\mathrm{MLP}(X)$ take $\\Theta_l=W_Q^{(l)}$: all reads become $\\Theta_l^{-1}W$, and both writes $W_O$ and "
        "$W_{down}$, with $b_O$ and $b_{down}$, become $W\\Theta_{l+1}$. Then all $W_Q=I$."
    ),
    hypotheses=(
        Hypothesis("H1", "parallel sublayers, no skip, no norm", "$X'=\\mathrm{MHA}(X)+\\mathrm{MLP}(X)$"),
        Hypothesis("H2", "invertible query projections", "every $W_Q^{(l)}$ is $d\\times d$ and invertible"),
    ),
    sources=(GRAEF, Source("derived", note="biases, arbitrary cores")),
    uses=("r-products",),
    sides=parallel,
    also=parallel_stack,
    deep=True,
    settings=smallest,
    constructions=("rebase",),
    controls=(
        Control("H1", "the same weights with a skip beside both", lambda w: parallel_with(w, attention_skip=True)),
        Control("H1", "a norm before attention", lambda w: parallel_with(w, attention_norm=a_norm(w))),
        Control("H1", "asking for it with a norm before the MLP", parallel_asked, refused="no norm"),
        Control("H2", "a generalized inverse of a singular $W_Q$", parallel_singular),
        Control("H2", "asking for a singular $W_Q$", parallel_singular_asked, refused="invertible"),
        Control("construction", "only one of the two writes transformed", one_write_only),
    ),
)


# -- residual networks that come close ---------------------------------------------------------------------------------

Change = Callable[[Any, float], Any]
FACTORS = (1e2, 1e3, 1e4, 1e5)
NEAR_ONE = 0.05  # how far the measured slope may lie from -1


def residual(network: Network, t: float, bias: Change = lambda b, factor: b) -> Network:
    """With both skips in every layer, the k-th sublayer reading t^(1-k) R_k and writing t^k S_k, and D / t^K at the end.

    ``bias(b, t^k)``: what becomes of the bias of a write.
    """

    def times(layer: Any, read: float, write: float, reads: str, writes: str) -> Any:
        changes = {f"W_{name}": read * getattr(layer, f"W_{name}") for name in reads.split()}
        b = getattr(layer, f"b_{writes}")
        return replace(
            layer,
            **changes,
            **{f"W_{writes}": write * getattr(layer, f"W_{writes}"), f"b_{writes}": b if b is None else bias(b, write)},
        )

    blocks = [
        replace(
            block,
            attention=times(block.attention, t ** (-2 * layer), t ** (2 * layer + 1), "Q K V", "O"),
            mlp=times(block.mlp, t ** (-2 * layer - 1), t ** (2 * layer + 2), "up", "down"),
            attention_skip=True,
            mlp_skip=True,
        )
        for layer, block in enumerate(network.blocks)
    ]
    return replace(network, blocks=blocks, readout=t ** (-2 * len(blocks)) * network.readout)


def slopes(old: Network, tokens: Any, family: Callable[[float], Network]) -> Pairs:
    """log10 of the error falls by 1 when t grows tenfold: the measured fall, within NEAR_ONE of 1."""
    errors = [np.abs(family(t)(tokens) - old(tokens)).max() for t in FACTORS]
    falls = [np.log10(before / after) for before, after in pairwise(errors)]
    return [AtMost(np.full((1, 1), abs(fall - 1)), np.full((1, 1), NEAR_ONE)) for fall in falls]


def limit(w: Any, bias: Change | None = None, **options: Any) -> Pairs:
    """Two layers without biases; with ``bias``, with biases and what it makes of those of the writes."""
    old = w.network(2, T0, biases=bias is not None, hypothesis="H1", **options)
    return slopes(old, w.tokens(), lambda t: residual(old, t, bias or (lambda b, factor: b)))


def limit_before_a_norm(w: Any) -> Pairs:
    """A norm in front of every sublayer undoes the factors that the reads count on."""
    old = w.network(2, T0, hypothesis="H1")
    old = replace(old, blocks=[replace(b, attention_norm=a_norm(w), mlp_norm=a_norm(w)) for b in old.blocks])
    return slopes(old, w.tokens(), lambda t: residual(old, t))


LIMIT = Claim(
    id="skipless-limit-of-residual",
    rank="remark",
    chapter=CHAPTER,
    title="Every skipless network is a limit of residual networks",
    statement=(
        "Number the sublayers $k=1,\\dots,K$, with reads $R_k$ and writes $S_k$. The residual network with reads $t^{1-k}R_k$, writes $t^kS_k$ "
        "and readout $t^{-K}D$ converges to the skipless network as $t$ grows, with error $O(1/t)$. The lane measures the slope: ten times "
        "the $t$, a tenth of the error. (With biases it holds if those of the writes are multiplied by $t^k$ too.)"
    ),
    hypotheses=(
        Hypothesis(
            "H1",
            "no norm, no biases",
            "sublayers read the state through their weights alone, and write nothing constant",
        ),
    ),
    sources=(Source("paper", "karbevski2026skips"), Source("derived", note="biases of the writes")),
    kind="limit",
    lanes=("numeric",),
    sides=limit,
    also=lambda w: limit(w, lambda b, factor: factor * b),
    settings=lambda s: not s.biases and s.cond < 1e3,
    controls=(
        Control(
            "H1", "the biases of the writes kept unscaled", lambda w: limit(w, lambda b, factor: b), lanes=("numeric",)
        ),
        Control("H1", "a norm before every sublayer", limit_before_a_norm, lanes=("numeric",)),
    ),
)
