"""Printed figures that we do not train again: translation, identity values, neighbors."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from qkvtheory.claims.model import Hypothesis, Pairs, Source
from qkvtheory.claims.training_evidence.common import AS_PRINTED, change, counted, meets, printed_so, wrong
from qkvtheory.published import GTA, LANGUAGE, MASKED, TRANSLATION, exact
from qkvtheory.published_training import (
    IMAGENET,
    KEYLESS,
    KEYLESS_CHANGES,
    NEIGHBORS,
    SKIPLESS,
    SKIPLESS_SAVED,
    TRANSLATION_CHANGES,
)

ARITHMETIC = Source("derived", note="the arithmetic")

# -- train-qv-translation ----------------------------------------------------------------------------------------------


def translated(_: Any) -> Pairs:
    """Printed differences against QKV with the same positions."""
    pairs = [("QV", "sinusoidal"), ("QV", "relative"), ("QV-Ka, context 2", "relative")]
    texts = [TRANSLATION_CHANGES[name] for name in ("sinusoidal", "relative", "QV-Ka, context 2")]
    return [
        (exact(text), exact(TRANSLATION[row]) - exact(TRANSLATION["QKV", row[1]]))
        for row, text in zip(pairs, texts, strict=True)
    ]


def across_positions(_: Any) -> Pairs:
    """QV with relative positions against QKV with sinusoids."""
    return [
        (
            exact(TRANSLATION_CHANGES["relative"]),
            exact(TRANSLATION["QV", "relative"]) - exact(TRANSLATION["QKV", "sinusoidal"]),
        )
    ]


TRANSLATED = counted(
    "train-qv-translation",
    translated,
    title="Queries and values in a translation model, as published",
    statement=(
        "Zhang trains a small translation model (WMT17 English to German, one run for each row). Without keys of its own (QV, here K=V) its token accuracy changes by "
        f"{TRANSLATION_CHANGES['sinusoidal']} points with sinusoidal positions and by {TRANSLATION_CHANGES['relative']} with relative ones; with keys computed from values and a context of "
        f"two head widths by {TRANSLATION_CHANGES['QV-Ka, context 2']}. With one run each, differences of this size do not rank the variants. We did not train this again."
    ),
    hypotheses=(Hypothesis("H1", "the same positions", "a variant is compared with QKV with the same positions"),),
    sources=(Source("reported", "zhang2026qv"), ARITHMETIC),
    uses=("qv-ka-count",),
    controls=(wrong("H1", "relative positions against sinusoids", across_positions, "count"),),
)

# -- train-skipless-values ---------------------------------------------------------------------------------------------


def skipless(_: Any) -> Pairs:
    """Fewer parameters by the printed part, and a lower loss."""
    (loss, size), (learned, whole) = SKIPLESS["identity"], SKIPLESS["learned"]
    low, high = change(size, whole)
    return [(True, meets(-high, -low, SKIPLESS_SAVED)), (True, exact(loss) < exact(learned))]


def of_the_smaller(_: Any) -> Pairs:
    """The saved part of the smaller model, not of the larger."""
    return [(True, printed_so(exact(SKIPLESS["learned"][1]) / exact(SKIPLESS["identity"][1]) - 1, SKIPLESS_SAVED))]


SKIPLESS_VALUES = counted(
    "train-skipless-values",
    skipless,
    title="Identity values without skips, as published",
    statement=(
        "He and Hofmann train 18 skipless blocks with shaped attention. With $W_V=W_O=I$ the evaluation loss is "
        f"{SKIPLESS['identity'][0]}, with learned ones {SKIPLESS['learned'][0]}, and {SKIPLESS_SAVED} of the parameters are saved ({SKIPLESS['identity'][1]}M in place of "
        f"{SKIPLESS['learned'][1]}M). With the attention skip restored the order turns. We did not train this again: shaped attention needs a long run."
    ),
    hypotheses=(AS_PRINTED,),
    sources=(Source("paper", "he2023simplifying"), ARITHMETIC),
    uses=("values-identity-as-gauge",),
    controls=(wrong("H1", "the saving as a part of the smaller model", of_the_smaller, "count"),),
)

# -- train-other-evidence ----------------------------------------------------------------------------------------------

POINTS_SAID = {"sinusoidal": "-.52", "relative": "-.21"}
GTA_CHANGES = ("-1.1%", "+0.2%")


def one_place(_: Any) -> Pairs:
    """Every figure on K=V, from the numbers it was printed beside."""
    pairs: list[Any] = []
    for model, text in (("300M", "+3.1%"), ("1.2B", "+2.5%")):
        rows = LANGUAGE[model]
        pairs.append((True, meets(*change(rows.row("Q-K=V").perplexity, rows.row("QKV").perplexity), text)))
    pairs.append((True, meets(*change(MASKED["Q-K=V"], MASKED["QKV"]), "+2.2%")))
    pairs += [(True, printed_so(exact(TRANSLATION_CHANGES[name]), text)) for name, text in POINTS_SAID.items()]
    pairs.append((exact("-2.71"), exact(IMAGENET["Q-K=V"][0]) - exact(IMAGENET["QKV"][0])))
    tied = sorted(exact(row[0]) / exact(row[1]) - 1 for row in GTA.values())
    pairs += [(True, printed_so(end, text)) for end, text in zip((tied[0], tied[-1]), GTA_CHANGES, strict=True)]
    better, worse = NEIGHBORS["symmetric dot product, GLUE"]
    many, few = NEIGHBORS["more heads at one width, SQuAD F1"][::-1]
    return [*pairs, (True, exact(better) > exact(worse)), (True, exact(many) < exact(few))]


def one_metric(_: Any) -> Pairs:
    """More is worse in perplexity and better in accuracy: the sum of all changes is no change of anything."""
    perplexity = [change(*row)[0] for row in KEYLESS.values()]
    accuracy = [exact(text) / 100 for text in TRANSLATION_CHANGES.values()]
    return [(True, all(x > 0 for x in (*perplexity, *accuracy)) or all(x < 0 for x in (*perplexity, *accuracy)))]


def part_of_the_model() -> Fraction:
    """What part of the parameters attention's projections are, from the two printed savings."""
    attention, whole = map(exact, NEIGHBORS["shared weights, attention and all"])
    return whole / attention


OTHER = counted(
    "train-other-evidence",
    one_place,
    title="Other published evidence, in one place",
    statement=(
        "**K=V.** Language models +3.1% (300M) and +2.5% (1.2B) perplexity, +2.2% with padding masked; translation -.52 and -.21 points; ImageNet -2.71 points; keyless models "
        f"{KEYLESS_CHANGES[0]} to {KEYLESS_CHANGES[1]}; half-tied GTA {GTA_CHANGES[0]} to {GTA_CHANGES[1]} against GQA-4. **Symmetric scores.** A BERT with symmetric dot products: GLUE "
        f"{' against '.join(NEIGHBORS['symmetric dot product, GLUE'])}. **Shared weights.** {NEIGHBORS['shared weights, attention and all'][0]} of the attention's parameters, {NEIGHBORS['shared weights, attention and all'][1]} of all: "
        f"so these were {100 * float(part_of_the_model()):.0f}% of the model. **Narrow heads.** More heads at one width end with a lower SQuAD F1, "
        f"{' to '.join(NEIGHBORS['more heads at one width, SQuAD F1'])}. Metrics are not averaged: lower is better in one, worse in another."
    ),
    hypotheses=(Hypothesis("H1", "one metric at a time", "only changes of one metric are compared"),),
    sources=(
        Source("reported", "kayyam2026three"),
        Source("reported", "zhang2026qv"),
        Source("reported", "gao2026keyless"),
        Source("paper", "zadouri2025gta"),
        Source("paper", "courtois2024symmetric"),
        Source("paper", "kowsher2025shared"),
        Source("paper", "bhojanapalli2020lowrank"),
        ARITHMETIC,
    ),
    uses=("published-tables", "gta-cache"),
    controls=(wrong("H1", "changes of perplexity and of accuracy taken for one", one_metric, "count"),),
)
