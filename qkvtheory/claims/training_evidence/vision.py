"""Shared projections on images: published tables, and 8x8 digits."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from typing import Any

from qkvtheory.claims.model import Hypothesis, Pairs, Source
from qkvtheory.claims.training_evidence.common import (
    AS_PRINTED,
    OURS,
    PAIRS,
    SEEDS,
    counted,
    exchanged,
    fact,
    one_seed,
    ranked_with_itself,
    trained,
    wrong,
)
from qkvtheory.evidence import CANNOT_TELL, REPRODUCED, Run, Sample, by_model, judge, paired, runs_of, spread
from qkvtheory.published import exact, interval
from qkvtheory.published_training import IMAGENET, IMAGENET_SHAPE, VISION
from qkvtheory.questions import POINTS
from qkvtheory.variants import parse, weight_shapes

TABLES = Source(
    "reported", "kayyam2026three", note="the paper's vision table, a later run, and a follow-up on ImageNet"
)

# -- train-sharing-vision ----------------------------------------------------------------------------------------------


def projection() -> int:
    """Parameters of one projection with bias, in all layers of the ImageNet model."""
    layers, d = IMAGENET_SHAPE
    learned = [
        sum(rows * cols for rows, cols in weight_shapes(parse(name), d, 6, biases=True).values())
        for name in ("QKV", "Q-K=V")
    ]
    return layers * (learned[0] - learned[1])


def steps(counted_step: int) -> list[tuple[bool, bool]]:
    """The printed sizes differ by one projection, from QKV to K=V and from K=V to Q=K=V."""
    sizes = [interval(millions) for _, millions in IMAGENET.values()]
    lows_highs = [(one[0] - two[1], one[1] - two[0]) for one, two in pairwise(sizes)]
    return [(True, low <= Fraction(counted_step, 10**6) <= high) for low, high in lows_highs]


def furthest() -> Fraction:
    """The largest difference from QKV of means over the four small tasks, in the paper and in the later run."""
    means = {name: [sum(map(exact, row), Fraction(0)) / len(row) for row in rows] for name, rows in VISION.items()}
    return max(abs(mean[run] - means["QKV"][run]) for mean in means.values() for run in (0, 1))


def vision_tables(_: Any) -> Pairs:
    return [*steps(projection()), (True, 0 < below("Q-K=V") < below("(Q=K=V)+")), (True, furthest() < POINTS)]


def below(variant: str) -> float:
    """Points of accuracy on ImageNet below QKV."""
    return float(exact(IMAGENET["QKV"][0]) - exact(IMAGENET[variant][0]))


def two_projections(_: Any) -> Pairs:
    return steps(2 * projection())


SHARING_VISION = counted(
    "train-sharing-vision",
    vision_tables,
    title="Shared projections on images, as published",
    statement=(
        "On MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100 the means of all variants of Kayyam, Madan Gopal and Lewis lie within "
        f"{100 * float(furthest()):.1f} points of QKV, in the paper and in their later run. On ImageNet, in a follow-up of theirs with one run for each, K=V is "
        f"{below('Q-K=V'):.2f} points below QKV and $(Q{{=}}K{{=}}V)^+$ {below('(Q=K=V)+'):.2f} points. "
        f"Each projection is {projection():,} parameters there, as the printed sizes say. A small version is {{claim}}`train-digits`."
    ),
    hypotheses=(AS_PRINTED,),
    sources=(TABLES, Source("derived", note="the arithmetic")),
    controls=(wrong("H1", "two projections for each step of the printed sizes", two_projections, "count"),),
)

# -- train-digits ------------------------------------------------------------------------------------------------------

CHANCE, NEAR = 0.1, 0.05  # of ten classes; 360 test images alone spread by 0.016
LEARNED = Hypothesis("H3", "labels that mean something", "the labels are those of the images")


def shapes(_: Any) -> Pairs:
    """p projections of d x d in a layer, and W_O."""
    d = 32
    counts = {name: sum(a * b for a, b in weight_shapes(parse(name), d, 4).values()) for name in PROJECTIONS}
    return [((p + 1) * d**2, counts[name]) for name, p in PROJECTIONS.items()]


PROJECTIONS = {"QKV": 3, "Q-K=V": 2, "Q=K-V": 2, "Q=K=V": 1}


def no_output(_: Any) -> Pairs:
    d = 32
    return [
        (p * d**2, sum(a * b for a, b in weight_shapes(parse(name), d, 4).values())) for name, p in PROJECTIONS.items()
    ]


def shuffled(_: Any) -> Pairs:
    """With shuffled labels nothing is learned; and one projection is as many parameters each time."""
    runs = runs_of("digits", "QKV", "Q-K=V", "Q=K-V", "Q=K=V", "shuffled labels")
    found = by_model(runs, "accuracy")
    sizes = {run["model"]: int(run["parameters"]) for run in runs}
    one = sizes["QKV"] - sizes["Q-K=V"]
    pairs: list[Any] = [(one, sizes["QKV"] - sizes["Q=K-V"]), (2 * one, sizes["QKV"] - sizes["Q=K=V"])]
    return [*pairs, (True, abs(found["shuffled labels"].mean - CHANCE) < NEAR)]


def learned_from_nothing(_: Any) -> Pairs:
    """The accuracy with shuffled labels taken for that of QKV."""
    found = by_model(runs_of("digits", "QKV"), "accuracy")
    return [(True, abs(found["QKV"].mean - CHANCE) < NEAR)]


def routing(runs: list[Run]) -> str:
    """Does the task need attention at all?"""
    pair = paired(runs, "uniform attention", "QKV", "accuracy")
    word = judge(Sample(pair.values), "equal", POINTS).word
    verdict = {
        REPRODUCED: "so this task does not need routing",
        CANNOT_TELL: "so it is not clear that this task needs routing",
    }
    said = verdict.get(word, "so this task needs routing")
    base = by_model(runs, "accuracy")["QKV"]
    return (
        f"QKV reaches {100 * base.mean:.1f}%. With every score set to zero the accuracy changes by {spread(pair.summary, 'points')}, {said}; with shuffled "
        f"labels it is {100 * by_model(runs, 'accuracy')['shuffled labels'].mean:.1f}%."
    )


DIGITS = trained(
    "train-digits",
    title="Shared projections on 8x8 digits",
    published=(
        "On small vision tasks Kayyam, Madan Gopal and Lewis find all variants within about a point. We train on the 8x8 digits of scikit-learn, cut into 16 "
        f"patches, and call two variants equal where the interval lies within {100 * POINTS:.0f} points. Nothing inside an interval is ranked."
    ),
    facts=fact("digits", routing),
    counts=shapes,
    more=(shuffled,),
    hypotheses=(SEEDS, PAIRS, LEARNED),
    sources=(TABLES, OURS),
    uses=("train-sharing-vision",),
    controls=(
        one_seed("digits"),
        exchanged("digits", "Q=K=V", "QKV", "accuracy"),
        wrong("H3", "images with their labels taken for shuffled ones", learned_from_nothing),
        ranked_with_itself("digits", "Q-K=V", "QKV"),
        wrong("construction", "projections counted without $W_O$", no_output, "count"),
    ),
)
