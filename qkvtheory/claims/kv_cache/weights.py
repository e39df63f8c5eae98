"""Parameters of a whole model, and the share of them that attention has."""

from __future__ import annotations

from fractions import Fraction
from math import prod
from typing import Any

from qkvtheory.claims.kv_cache.common import OURS, TABLES, TINY, config, counted, printed_so, wrong
from qkvtheory.claims.kv_cache.costs import AUTHORS_CODE
from qkvtheory.claims.kv_cache.decoder import decoder
from qkvtheory.claims.model import Hypothesis, Pairs, Source
from qkvtheory.count import formulas
from qkvtheory.published import LANGUAGE, PARAMETERS, Model
from qkvtheory.variants import parse, weight_shapes

# Projections of the input: how many are d x d, and how many as wide as the groups of heads.
WIDTHS = {
    "QKV": (3, 0), "Q-K=V": (2, 0), "Q=K-V": (2, 0), "Q=K=V": (1, 0), "GQA": (1, 2), "MQA": (1, 2), "Q-GQA": (1, 1), "Q-MQA": (1, 1),
}  # fmt: skip


# -- param-count-formula -----------------------------------------------------------------------------------------------


def written(model: Model, variant: str, biases: int = 1, positions: int = 1) -> int:
    """The formula of the statement; ``biases`` and ``positions`` 0 forget them."""
    v = parse(variant)
    d, m, shared = model.d, model.mlp, (v.groups or model.heads) * (model.d // model.heads)
    full, narrow = WIDTHS[v.name.rstrip("-0123456789")]
    attention = (full + 1) * (d**2 + biases * d) + narrow * (d * shared + biases * shared)
    each = attention + 2 * d * m + biases * (m + d) + 4 * d
    return model.layers * each + 2 * d + (model.vocabulary + positions * model.context) * d


def by_shape(model: Model, variant: str) -> int:
    """The parameters of attention in all layers, from the shapes that such a sublayer is built with."""
    shapes = weight_shapes(parse(variant), model.d, model.heads, biases=True)
    return model.layers * sum(prod(shape) for shape in shapes.values())


def built_variants(model: Model) -> tuple[str, ...]:
    groups = model.heads // 2
    return ("QKV", "Q-K=V", "Q=K-V", "Q=K=V", f"GQA-{groups}", "MQA", f"Q-GQA-{groups}", "Q-MQA")


def parameters_counted(_: Any) -> Pairs:
    """The formula: against every array of a small decoder, what the authors' code prints, and the tables' shapes."""
    pairs = [(written(TINY, v), decoder(TINY, v).learned()) for v in built_variants(TINY)]
    pairs += [(written(LANGUAGE["300M"], v), number) for v, number in PARAMETERS.items()]
    for model in LANGUAGE.values():
        for row in model.rows:
            found = formulas.parameters(config(model), row.variant)
            pairs += [(written(model, row.variant), found.total), (by_shape(model, row.variant), found.attention)]
    return pairs


def forgetting(what: str) -> Any:
    def pairs(_: Any) -> Pairs:
        return [(written(LANGUAGE["300M"], v, **{what: 0}), number) for v, number in PARAMETERS.items()]

    return pairs


def separate_readout(_: Any) -> Pairs:
    return [(written(TINY, "QKV") + TINY.vocabulary * TINY.d, decoder(TINY, "QKV").learned())]


PARAM_COUNT = counted(
    parameters_counted,
    id="param-count-formula",
    title="Parameters of a whole model",
    statement=(
        "A decoder with biases, learned positions and a tied readout, whose layers have $p_f$ input projections $d\\times d$ and $p_g$ of "
        "width $gd_h$, has $L\\,(p_f(d^2+d)+p_g(dgd_h+gd_h)+d^2+d+2dm+m+d+4d)+2d+(v+T)d$ parameters: projections, $W_O$, MLP, norms, the "
        f"last norm, embedding and positions. At the 300M shape: {', '.join(f'{n:,} for {v}' for v, n in PARAMETERS.items())}, which is "
        "what the authors' code prints."
    ),
    hypotheses=(
        Hypothesis("H1", "biases", "every projection and both maps of the MLP have a bias; norms have gain and bias"),
        Hypothesis("H2", "learned positions", "a table of $T$ positions is learned"),
        Hypothesis("H3", "tied readout", "the readout is the embedding, transposed"),
    ),
    sources=(Source("derived", note="the formula"), AUTHORS_CODE),
    controls=(
        wrong("H1", "biases forgotten", forgetting("biases")),
        wrong("H2", "positions forgotten", forgetting("positions")),
        wrong("H3", "a readout with weights of its own", separate_readout),
    ),
)


# -- projection-share --------------------------------------------------------------------------------------------------

SHARES = {"300M": ("27.5%", "20.6%"), "1.2B": ("30.4%", "22.8%")}  # of attention with W_O, and of W_Q, W_K, W_V
SLIDE = "30%"


def share(model: Model, output: bool = True, embeddings: bool = True) -> Fraction:
    """The part of the parameters of three projections that attention has."""
    shapes = weight_shapes(parse("QKV"), model.d, model.heads, biases=True)
    here = model.layers * sum(prod(shape) for name, shape in shapes.items() if output or not name.endswith("_O"))
    apart = 0 if embeddings else (model.vocabulary + model.context) * model.d
    return Fraction(here, written(model, "QKV") - apart)


def shares_counted(_: Any) -> Pairs:
    pairs: list[Any] = []
    for name, (all_four, inputs) in SHARES.items():
        model = LANGUAGE[name]
        parts = formulas.parameters(config(model), "QKV")
        pairs += [(True, printed_so(share(model), all_four)), (True, printed_so(share(model, output=False), inputs))]
        pairs += [(share(model), Fraction(parts.attention, parts.total))]
    return [*pairs, (True, share(LANGUAGE["300M"]) < Fraction(SLIDE[:-1]) / 100 < share(LANGUAGE["1.2B"]))]


def without_embeddings(_: Any) -> Pairs:
    return [(True, printed_so(share(LANGUAGE[name], embeddings=False), texts[0])) for name, texts in SHARES.items()]


def inputs_alone(_: Any) -> Pairs:
    """The projections that a variant can drop, called the whole share."""
    return [(True, printed_so(share(LANGUAGE[name], output=False), texts[0])) for name, texts in SHARES.items()]


PROJECTION_SHARE = counted(
    shares_counted,
    id="projection-share",
    title="How much of a model is attention",
    statement=(
        f"With $W_O$, attention has {SHARES['300M'][0]} of the parameters of the 300M model and "
        f"{SHARES['1.2B'][0]} of those of the 1.2B model; $W_Q,W_K,W_V$ alone have "
        f"{SHARES['300M'][1]} and {SHARES['1.2B'][1]}. A figure of about "
        f"{SLIDE} counts $W_O$, which no variant drops."
    ),
    hypotheses=(
        Hypothesis("H1", "of the whole model", "embeddings and positions are among the parameters"),
        Hypothesis("H2", "with the output", "$W_O$ is counted as attention"),
    ),
    sources=(TABLES, OURS),
    uses=("param-count-formula",),
    controls=(
        wrong("H1", "embeddings left out of the whole", without_embeddings),
        wrong("H2", "$W_Q,W_K,W_V$ alone", inputs_alone),
    ),
)
