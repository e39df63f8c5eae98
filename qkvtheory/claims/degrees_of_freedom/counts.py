"""What an eliminated projection saves, counted: of attention, and of a block."""

from __future__ import annotations

from typing import Any

import numpy as np

from qkvtheory import gauge, stacks
from qkvtheory.attention import Heads
from qkvtheory.claims.degrees_of_freedom.common import CHAPTER
from qkvtheory.claims.degrees_of_freedom.stream import numbers_left
from qkvtheory.claims.model import Claim, Control, Hypothesis, Pairs, Source, Statement
from qkvtheory.count import Config, parameters, preset, projections
from qkvtheory.network import MLP, Attention, Block, Network

PAPER = "karbevski2025kv"
GROUPED = {"d": 2048, "heads": 32, "groups": 4, "width": 64, "hidden": 5632, "gated": True}


def config(d: int, heads: int, groups: int | None = None, width: int | None = None, **more: Any) -> Config:
    """A model as far as counting goes: H d_h = d, one layer, and an MLP of 4 d, unless given."""
    sizes = {"layers": 1, "hidden": 4 * d, "vocabulary": 1, **more}
    return Config(width=d, heads=heads, groups=groups or heads, head_width=width or d // heads, **sizes)


# -- count-25-percent --------------------------------------------------------------------------------------------------


def query_and_attention(c: Config) -> tuple[int, int]:
    """Numbers of W_Q, and of attention with its biases, in all layers."""
    (W_Q,) = (projection for projection in projections(c) if projection.name == "Q")
    return c.layers * W_Q.weights, parameters(c).attention


def built(d: int, heads: int, groups: int | None, which: str) -> tuple[int, int]:
    """Of a layer of arrays: numbers that become those of an identity, and all."""
    rng, k = np.random.default_rng(0), (groups or heads) * d // heads
    layer = Attention(Heads(heads, groups), *(rng.normal(size=shape) for shape in ((d, d), (d, k), (d, k), (d, d))))
    _, new = gauge.reparametrize(layer, which)
    weights = [getattr(new, f"W_{c}") for c in "QKVO"]
    gone = sum(weight.size for weight in weights if weight.shape == (d, d) and (weight == np.eye(d)).all())
    return gone, sum(weight.size for weight in weights)


def quarter(saved: int, total: int) -> tuple[int, int]:
    return 4 * saved, total


def quarters(_: Any) -> Pairs:
    """A quarter for multi-head attention, built and by formula; then the general share, cross-multiplied."""
    pairs = [quarter(*built(8, heads, None, which)) for heads in (1, 2, 4) for which in "QKV"]
    pairs += [quarter(*query_and_attention(config(d, heads, layers=12))) for d, heads in ((64, 4), (768, 12))]
    for c in (config(8, 4, 2), config(8, 4, 1), config(2048, 32, 4, 64), config(16, 2, None, 16), config(16, 4, 2, 8)):
        saved, total = query_and_attention(c)
        d, p, k = c.width, c.query_width, c.groups * c.head_width
        pairs.append((saved * (d * p + 2 * d * k + p * d), d * p * total))
    saved, total = built(8, 4, 2, "Q")
    pairs.append((saved * (8 * 8 + 2 * 8 * 4 + 8 * 8), 8 * 8 * total))
    saved, total = query_and_attention(config(2048, 32, 4, 64))
    return [*pairs, (9 * saved, 4 * total)]


def claimed(share: Any, *arguments: Any, **named: Any) -> Statement:
    """The share of multi-head attention claimed for this model."""
    return lambda _: [share(config(*arguments, **named))]


def a_quarter_of(c: Config) -> tuple[int, int]:
    return quarter(*query_and_attention(c))


QUARTER = Claim(
    id="count-25-percent",
    rank="remark",
    chapter=CHAPTER,
    title="A quarter of attention",
    statement=(
        "In multi-head attention with $Hd_h=d$ and without biases, an eliminated $W_Q$, $W_K$ or $W_V$ saves $d^2$ of $4d^2$ parameters: exactly "
        "25%. In general an eliminated $W_Q$ saves $\\frac{dp}{dp+2dgd_h+pd}$, more than a quarter if keys are grouped: $\\frac49$ for $d=2048$, $H=32$, "
        "$g=4$, $d_h=64$."
    ),
    hypotheses=(
        Hypothesis(
            "H1", "multi-head attention, no biases", "as many key/value heads as query heads, $Hd_h=d$, no biases"
        ),
    ),
    sources=(
        Source("paper", PAPER, "v3-v7", note="25% of the attention parameters of a layer"),
        Source("derived", note="the general share"),
    ),
    kind="count",
    lanes=("count",),
    sides=quarters,
    special={"count": quarters},
    controls=(
        Control(
            "H1", "grouped keys (GQA): 25% claimed all the same", claimed(a_quarter_of, 2048, 32, 4), lanes=("count",)
        ),
        Control(
            "H1", "one key head (MQA): 25% claimed all the same", claimed(a_quarter_of, 2048, 32, 1), lanes=("count",)
        ),
        Control(
            "H1",
            "grouped keys, in a layer that was built",
            lambda _: [quarter(*built(8, 4, 2, "Q"))],
            lanes=("count",),
        ),
        Control(
            "H1",
            "biases on all projections: 25% claimed all the same",
            claimed(a_quarter_of, 64, 4, qkv_bias=True, output_bias=True),
            lanes=("count",),
        ),
        Control(
            "construction",
            "an eliminated $W_K$ of grouped heads counted like $W_Q$",
            lambda _: [(next(m.weights for m in projections(config(64, 4, 2)) if m.name == "K"), 64**2)],
            lanes=("count",),
        ),
    ),
)


# -- count-8-percent ---------------------------------------------------------------------------------------------------


def query_and_block(c: Config) -> tuple[int, int]:
    """Numbers of W_Q, and of attention and MLP, in all layers."""
    saved, attention = query_and_attention(c)
    return saved, attention + parameters(c).mlp


def built_block(d: int, heads: int, layers: int) -> tuple[int, int]:
    """Of a network of arrays with a skip around attention: numbers that go, and all but embedding and readout."""
    rng, vocabulary = np.random.default_rng(0), 6

    def block() -> Block:
        attention = Attention(Heads(heads), *rng.normal(size=(4, d, d)))
        return Block(attention, MLP(np.tanh, rng.normal(size=(d, 4 * d)), rng.normal(size=(4 * d, d))), True, False)

    old = Network(rng.normal(size=(vocabulary, d)), [block() for _ in range(layers)], rng.normal(size=(d, vocabulary)))
    before = numbers_left(old)
    return before - numbers_left(stacks.eliminate(old)), before - 2 * vocabulary * d


def twelfth(saved: int, total: int) -> tuple[int, int]:
    return 12 * saved, total


def a_twelfth_of(c: Config) -> tuple[int, int]:
    return twelfth(*query_and_block(c))


def twelfths(_: Any) -> Pairs:
    """One twelfth, built and by formula; then the general share, cross-multiplied; more than 8%."""
    pairs = [twelfth(*built_block(8, heads, layers)) for heads in (1, 4) for layers in (1, 3)]
    pairs += [a_twelfth_of(config(d, heads, layers=12)) for d, heads in ((64, 4), (768, 12))]
    for c in (config(64, 4, 2, hidden=100), config(64, 4, gated=True), config(64, 8, 2, 16), config(**GROUPED)):
        saved, total = query_and_block(c)
        d, p, k, m = c.width, c.query_width, c.groups * c.head_width, c.hidden
        pairs.append((saved * (d * p + 2 * d * k + p * d + (3 if c.gated else 2) * d * m), d * p * total))
    saved, total = query_and_block(config(**GROUPED))
    return [*pairs, (21 * saved, 2 * total)]


def with_embeddings(_: Any) -> Pairs:
    """One twelfth of all parameters of a published model, its embeddings among them."""
    c = preset("gpt2")
    return [(12 * query_and_attention(c)[0], parameters(c).total)]


def with_norms(_: Any) -> Pairs:
    c = config(64, 4)
    saved, total = query_and_block(c)
    return [twelfth(saved, total + parameters(c).norms)]


TWELFTH = Claim(
    id="count-8-percent",
    rank="remark",
    chapter=CHAPTER,
    title="One twelfth of a block",
    statement=(
        "With an ungated MLP of hidden width $4d$ besides, that is $d^2$ of $4d^2+8d^2$: one twelfth of a block, 8.33%, embeddings and norms not counted. In "
        "general $\\frac{dp}{A+2dm}$, or $\\frac{dp}{A+3dm}$ for a gated MLP, with the attention $A=dp+2dgd_h+pd$: $\\frac2{21}$, 9.52%, for "
        "$d=2048$, $H=32$, $g=4$, $d_h=64$ and a gated MLP with $m=5632$."
    ),
    hypotheses=(
        Hypothesis(
            "H1", "multi-head attention, no biases", "as many key/value heads as query heads, $Hd_h=d$, no biases"
        ),
        Hypothesis(
            "H2",
            "ungated MLP of 4 d, nothing else counted",
            "$m=4d$ without a gate; norms and embeddings are not counted",
        ),
    ),
    sources=(
        Source("paper", PAPER, "v1-v2", note="over 8% of the parameters without embeddings and head"),
        Source("derived", note="the general share"),
    ),
    uses=("count-25-percent",),
    kind="count",
    lanes=("count",),
    sides=twelfths,
    special={"count": twelfths},
    controls=(
        Control(
            "H1", "grouped keys: one twelfth claimed all the same", claimed(a_twelfth_of, 2048, 32, 4), lanes=("count",)
        ),
        Control(
            "H1",
            "biases on all projections",
            claimed(a_twelfth_of, 64, 4, qkv_bias=True, output_bias=True),
            lanes=("count",),
        ),
        Control("H2", "a gated MLP of $4d$", claimed(a_twelfth_of, 64, 4, gated=True), lanes=("count",)),
        Control("H2", "an MLP of $3d$", claimed(a_twelfth_of, 64, 4, hidden=192), lanes=("count",)),
        Control("H2", "embeddings counted too", with_embeddings, lanes=("count",)),
        Control("H2", "norms counted too", with_norms, lanes=("count",)),
    ),
)
