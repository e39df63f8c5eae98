"""What a projection costs: multiply-accumulates and parameters, of one sublayer and of a whole model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from qkvtheory import tying
from qkvtheory.claims.kv_cache.common import (
    SIZES,
    TABLES,
    TINY,
    TOKENS,
    config,
    counted,
    layer,
    learned,
    tokens,
    wrong,
)
from qkvtheory.claims.kv_cache.decoder import decoder
from qkvtheory.claims.model import Hypothesis, Pairs, Source
from qkvtheory.count import formulas
from qkvtheory.lanes.counting import macs
from qkvtheory.published import LANGUAGE, MACS

AUTHORS_CODE = Source("reported", "kayyam2026three", note="figures that the authors' code prints")
INPUTS = {"QKV": 3, "Q-K=V": 2, "Q=K-V": 2, "Q=K=V": 1}  # projections of the input
LONG = (5, 9)  # numbers of tokens


# -- projection-cost ---------------------------------------------------------------------------------------------------


def reads(variant: str, n: int) -> int:
    """Multiply-accumulates of the projections of n tokens, W_O apart."""
    sublayer = layer(variant)
    return macs(lambda x: (sublayer.queries(x), sublayer.stored(x)), tokens(n))


def whole(variant: str, n: int) -> int:
    return macs(layer(variant).decode, tokens(n))


def projections_counted(_: Any) -> Pairs:
    """Products of a run, and numbers in the weights; then what the correction adds to both."""
    pairs = [pair for variant, p in INPUTS.items() for pair in (*products(variant, p), *numbers(variant, p))]
    return pairs + [(n**2 * tying.CHANNELS, once(n)) for n in LONG]


def products(variant: str, p: int) -> Pairs:
    d, heads = SIZES
    projections = [(p * n * d**2, reads(variant, n)) for n in LONG]
    whole_layer = [((p + 1) * n * d**2 + 2 * n**2 * d, whole(variant, n)) for n in LONG]
    return [*projections, *whole_layer, *((heads * n**2 * tying.CHANNELS, extra(variant, n)) for n in LONG)]


def numbers(variant: str, p: int) -> Pairs:
    d, name = SIZES[0], f"({variant})+"
    plain, corrected, biased = layer(variant), layer(name), layer(name, biases=True)
    return [
        (p * d**2, learned(plain) - plain.W_O.size),
        (d**2, plain.W_O.size),
        (tying.CHANNELS + 1, learned(corrected) - learned(plain)),
        (formulas.parameters(config(TINY), name).attention, TINY.layers * learned(biased)),
    ]


def extra(variant: str, n: int) -> int:
    """What the correction adds, channel by channel, in every head."""
    return whole(f"({variant})+", n) - whole(variant, n)


def once(n: int) -> int:
    """The added term of the correction in closed form, which all heads share."""
    made = tying.corrected(n, n, tokens(1, tying.CHANNELS)[0])
    return macs(lambda weights: replace(made, weights=weights).added, made.weights)


def without_output(_: Any) -> Pairs:
    d, n = SIZES[0], TOKENS
    return [(p * n * d**2 + 2 * n**2 * d, whole(variant, n)) for variant, p in INPUTS.items()]


def narrow_keys(_: Any) -> Pairs:
    d, n = SIZES[0], TOKENS
    return [(3 * n * d**2, reads("GQA-2", n))]


def formed_twice(_: Any) -> Pairs:
    """Q=K-V that multiplies by the shared matrix once for the queries and once for the keys."""
    sublayer, d, n = layer("Q=K-V"), SIZES[0], TOKENS
    return [(2 * n * d**2, macs(sublayer.queries, tokens(n)) + macs(sublayer.stored, tokens(n)))]


PROJECTION_COST = counted(
    projections_counted,
    id="projection-cost",
    title="What a projection costs",
    statement=(
        "The projections of $n$ tokens cost $3nd^2$ multiply-accumulates with three of them, $2nd^2$ with two, $nd^2$ with one, and have "
        "$3d^2$, $2d^2$, $d^2$ parameters; the scores and the sums of values, $2n^2d$, are the same for all. $W_O$ is kept by every "
        "variant: $nd^2$ and $d^2$ more. The 2D correction with $m'$ channels adds $n^2m'$ in closed form, where one table serves all "
        "heads, and $H$ times as much where every head sums its own channels; it learns $m'$ weights and, in its authors' code, a bias."
    ),
    hypotheses=(
        Hypothesis("H1", "full width", "every projection is $d\\times d$: as many key heads as query heads, $Hd_h=d$"),
        Hypothesis("H2", "the output counts", "$W_O$ is there in every variant, and is counted"),
        Hypothesis("H3", "formed once", "a product that two roles share is formed once"),
    ),
    sources=(TABLES, Source("derived", note="the two ways of counting the correction")),
    controls=(
        wrong("H1", "grouped keys, whose projections are narrower", narrow_keys),
        wrong("H2", "$W_O$ counted as removed", without_output),
        wrong("H3", "queries equal to keys, multiplied out once for each role", formed_twice),
    ),
)


# -- mac-formula -------------------------------------------------------------------------------------------------------


def written(model: Any, p: int, T: int) -> int:
    """The formula of the statement."""
    d, m = model.d, model.mlp
    return model.layers * ((p + 1) * T * d**2 + 2 * T**2 * d + 2 * T * d * m) + T * d * model.vocabulary


def run(variant: str, n: int) -> int:
    """Multiply-accumulates of a whole small decoder, run on n embedded tokens."""
    return macs(decoder(TINY, variant), tokens(n))


def products_counted(_: Any) -> Pairs:
    shape = LANGUAGE["300M"]
    pairs = [(written(shape, INPUTS[variant], shape.context), number) for variant, number in MACS.items()]
    for model in LANGUAGE.values():
        pairs += [
            (written(model, p, T), formulas.macs(config(model), v, T).total)
            for v, p in INPUTS.items()
            for T in (512, 2048)
        ]
    return pairs + [(written(TINY, p, n), run(variant, n)) for variant, p in INPUTS.items() for n in (3, TOKENS)]


def operations(_: Any) -> Pairs:
    return [(2 * written(TINY, p, TOKENS), run(variant, TOKENS)) for variant, p in INPUTS.items()]


def causal_half(_: Any) -> Pairs:
    saved = TINY.layers * (2 * TOKENS**2 - TOKENS * (TOKENS + 1)) * TINY.d
    return [(written(TINY, 3, TOKENS) - saved, run("QKV", TOKENS))]


def embedding_multiplied(_: Any) -> Pairs:
    """The embedding as a product with one-hot rows, which no program forms."""
    return [(written(TINY, 3, TOKENS) + TOKENS * TINY.vocabulary * TINY.d, run("QKV", TOKENS))]


MAC_FORMULA = counted(
    products_counted,
    id="mac-formula",
    title="Multiply-accumulates of a whole model",
    statement=(
        "A decoder with $p$ projections of its input in each layer costs, for one text of $T$ tokens, "
        "$L\\,((p+1)Td^2+2T^2d+2Tdm)+Tdv$ multiply-accumulates: projections with $W_O$, scores and sums, MLP, readout. At the 300M shape and "
        f"$T={LANGUAGE['300M'].context}$: {', '.join(f'{n:,} for {v}' for v, n in MACS.items())}, which is what the authors' code prints."
    ),
    hypotheses=(
        Hypothesis(
            "H1", "products only", "a multiplication and its addition count once; sums, norms and softmax cost nothing"
        ),
        Hypothesis("H2", "all pairs", "all $T^2$ scores are formed: the half that a causal mask hides is not left out"),
        Hypothesis("H3", "embeddings are looked up", "reading a row of the embedding is no product"),
    ),
    sources=(AUTHORS_CODE, Source("derived", note="the products, one by one")),
    uses=("projection-cost",),
    controls=(
        wrong("H1", "a profiler that counts operations, two for each multiply-accumulate", operations),
        wrong("H2", "only the visible half of the scores", causal_half),
        wrong("H3", "the embedding counted as a product with one-hot rows", embedding_multiplied),
    ),
)
