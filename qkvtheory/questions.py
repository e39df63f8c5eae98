"""The published sentences that our stored trainings speak to, one ``Question`` each, by the rule of ``evidence``.

A question says in advance what is published, how it is judged and from which runs. Where a paper reports a factor that
we cannot afford, the sign is what we try to find again, not the size. Margins for "equal":

- ``PARITY``: one percent of the baseline's loss (differences of a few tenths of a percent are published as parity);
- ``POINTS``: two points of accuracy (differences below one point are published on small tasks);
- ``HALF_GAP``: half of the 2.40% by which the nonlinear query is published to be lower.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from statistics import fmean
from typing import Any

from qkvtheory.evidence import (
    NoRuns,
    Paired,
    Question,
    Run,
    Sample,
    best,
    by_seed,
    comparable,
    diverged,
    largest_stable_rate,
    paired,
    relative,
    signed,
    where,
)
from qkvtheory.published import LANGUAGE, MASKED, exact
from qkvtheory.published_training import (
    DECAYS,
    GAPS,
    IDENTITY_HIGHER,
    IDENTITY_LOWER,
    NONLINEAR_V3,
    RECALL,
    SYNTHETIC,
    TASKS,
    TIMES_LOWER,
    TUNING,
)

PARITY, POINTS, HALF_GAP = 0.01, 0.02, float(exact(NONLINEAR_V3["loss"])) / 2
GRID = ("rate", "weight_decay")
ROUTING = ("REVERSE", "SWAP")
AVERAGED = "6430"  # perplexity of a trained language model, tied by the average: a follow-up of 2606.04032
RECALL_CELLS = ((32, 4), (32, 1), (64, 16), (64, 8), (64, 1))  # keys and heads of all that was planned
SOLVED = 0.95  # accuracy from which a task counts as learned
IMPROVED = tuple(name for name in SYNTHETIC if name != "QKV")
Samples = Callable[[list[Run]], Mapping[str, Sample]]


def one(values: Iterable[float], **more: Any) -> dict[str, Sample]:
    """A question about one number: its sample has no name."""
    return {"": Sample(tuple(values), **more)}


# -- how numbers are taken from runs -----------------------------------------------------------------------------------


def against(
    model: str, baseline: str, change: Callable[..., Paired] = paired, metric: Any = "loss", **factors: Any
) -> Samples:
    """Differences of two models, seed by seed, at these levels of other factors."""
    return lambda runs: one(change(where(runs, **factors), model, baseline, metric).values)


def gap(run: Run) -> float:
    """Validation less training loss: how much a model overfits."""
    return float(run["loss"]) - float(run["train_loss"])


def tuned(runs: list[Run], *models: str) -> tuple[list[list[Run]], int]:
    """The runs of each model where it does best on the grid that all were given, and how many rates that grid has."""
    same = comparable(runs, models, GRID)
    if not same:
        raise NoRuns(f"{' and '.join(models)} have no stored runs of the same rate and seed")
    chosen = best(same, GRID)
    return [where(same, model=model, **chosen[model].at) for model in models], len({run["rate"] for run in same})


def at_best(model: str, baseline: str) -> Samples:
    """Relative differences of loss, each model at its own best rate and weight decay."""

    def samples(runs: list[Run]) -> dict[str, Sample]:
        (ours, theirs), rates = tuned(runs, model, baseline)
        return one(relative([*ours, *theirs], model, baseline).values, rates=rates)

    return samples


def shrinking(model: str, baseline: str) -> Samples:
    """The lead at the best rates less half of the lead at the smallest rate: below zero if tuning takes most of it."""

    def samples(runs: list[Run]) -> dict[str, Sample]:
        (ours, theirs), rates = tuned(runs, model, baseline)
        same = comparable(runs, (model, baseline), GRID)
        small = where(same, rate=min(run["rate"] for run in same))
        at_small = [where(small, model=name, **best(small, GRID)[name].at) for name in (model, baseline)]
        untuned, lead = (paired([*a, *b], baseline, model) for a, b in (at_small, (ours, theirs)))
        first = dict(zip(untuned.seeds, untuned.values, strict=True))
        seeds = [seed for seed in lead.seeds if seed in first]
        left = [x - first[seed] / 2 for seed, x in zip(lead.seeds, lead.values, strict=True) if seed in seeds]
        behind = bool(seeds) and fmean(first[seed] for seed in seeds) <= 0
        return one(left, rates=rates, void=f"at the smallest rate {model} does not lead here" if behind else "")

    return samples


def edges(model: str, baselines: Mapping[str, str]) -> Samples:
    """How many times larger the largest stable rate is than that of each baseline, as a logarithm to base two: for each
    seed the mean over the weight decays. ``baselines``: what each is called -> its label.
    """

    def samples(runs: list[Run]) -> dict[str, Sample]:
        return {name: edge(comparable(runs, (model, label), GRID), model, label) for name, label in baselines.items()}

    return samples


def edge(runs: list[Run], model: str, baseline: str) -> Sample:
    rates, void = at_edge(runs, model, baseline)
    ratios = {} if void else edge_ratios(runs, model, baseline)
    return Sample(tuple(map(fmean, ratios.values())), rates, void)


def at_edge(runs: list[Run], model: str, baseline: str) -> tuple[int, str]:
    """How many rates these runs have, and why they show no edge, if so."""
    if not runs:
        raise NoRuns(f"{model} and {baseline} have no stored runs of the same rate, decay and seed")
    smallest, rates = min(run["rate"] for run in runs), len({run["rate"] for run in runs})
    if not any(map(diverged, runs)):
        return rates, "nothing diverged, so these rates do not reach the edge"
    return rates, "even the smallest rate diverged" if any(map(diverged, where(runs, rate=smallest))) else ""


def edge_ratios(runs: list[Run], model: str, baseline: str) -> dict[int, list[float]]:
    """Seed -> for each weight decay the logarithm of the ratio of the largest stable rates."""
    found: dict[int, list[float]] = {}
    for seed, decay in dict.fromkeys((run["seed"], run["weight_decay"]) for run in runs):
        cell = where(runs, seed=seed, weight_decay=decay)
        ours, theirs = (largest_stable_rate(cell, name) or math.nan for name in (model, baseline))
        found.setdefault(seed, []).append(math.log2(ours / theirs))
    return found


def more_stable_at_low_decay(model: str, baseline: str, usual: float, low: Callable[[float], bool]) -> Samples:
    """The same logarithm at low weight decays less that at the usual one: what is gained at every decay is not gained
    by lowering it. Here every edge must lie within the grid, since a difference of bounds is no bound.
    """

    def samples(runs: list[Run]) -> dict[str, Sample]:
        same = comparable(runs, (model, baseline), GRID)
        lower, there = [run for run in same if low(run["weight_decay"])], where(same, weight_decay=usual)
        (rates, void), (_, beside) = (at_edge(part, model, baseline) for part in (lower, there))
        void = void or beside or ("" if all_broke([*lower, *there]) else "an edge lies beyond the largest rate tried")
        if void:
            return one((), rates=rates, void=void)
        gained, always = (edge_ratios(part, model, baseline) for part in (lower, there))
        return one((fmean(gained[s]) - fmean(always[s]) for s in gained if s in always), rates=rates)

    return samples


def all_broke(runs: list[Run]) -> bool:
    """Whether each model diverged somewhere, for each weight decay and seed."""
    places = {(run["model"], run["weight_decay"], run["seed"]): False for run in runs}
    for run in runs:
        places[run["model"], run["weight_decay"], run["seed"]] |= diverged(run)
    return all(places.values())


def over_tasks(model: str, baseline: str, tasks: tuple[str, ...], metric: str = "accuracy", **factors: Any) -> Samples:
    """Differences of accuracy, for each seed the mean over the tasks, at these levels of other factors."""

    def samples(runs: list[Run]) -> dict[str, Sample]:
        found = [paired(where(runs, task=task, **factors), model, baseline, metric) for task in tasks]
        by_task = [dict(zip(pair.seeds, pair.values, strict=True)) for pair in found]
        seeds = [seed for seed in by_task[0] if all(seed in values for values in by_task)]
        return one(fmean(values[seed] for values in by_task) for seed in seeds)

    return samples


def all_against(baseline: str, models: tuple[str, ...]) -> Samples:
    """Each of the models, by name. All of them must have been run: the sentence is about all."""

    def samples(runs: list[Run]) -> dict[str, Sample]:
        here = {run["model"] for run in runs}
        lacking = [model for model in (baseline, *models) if model not in here]
        if lacking:
            raise NoRuns(f"there are no stored runs of {', '.join(lacking)}")
        return {name: Sample(paired(runs, name, baseline, "accuracy").values) for name in models}

    return samples


def cells(runs: list[Run]) -> dict[tuple[int, int], list[Run]]:
    """The runs of a recall experiment by numbers of keys and of heads."""
    found: dict[tuple[int, int], list[Run]] = {}
    for run in runs:
        found.setdefault((run["keys"], run["heads"]), []).append(run)
    return found


def all_cells(runs: list[Run]) -> dict[tuple[int, int], list[Run]]:
    """The same, of an experiment that is finished: which heads are the narrowest depends on those that are there."""
    found = cells(runs)
    lacking = [
        f"{model} with {keys} keys and {heads} heads"
        for keys, heads in RECALL_CELLS
        for model in ("QKV", "Q-K=V")
        if not where(found.get((keys, heads), []), model=model)
    ]
    if lacking:
        raise NoRuns(f"there are no stored runs of {', '.join(lacking)}")
    return found


def against_solved(runs: list[Run]) -> Sample:
    """Differences that decide only where QKV learns the task in the time it is given."""
    void = "" if solves(runs, "QKV") else "QKV does not solve the task either"
    return Sample(paired(runs, "Q-K=V", "QKV", "accuracy").values, void=void)


def narrow(runs: list[Run]) -> dict[str, Sample]:
    """For each number of keys the narrowest heads with which QKV still solves the task: there K=V may not."""
    found: dict[str, Sample] = {}
    for keys in dict.fromkeys(keys for keys, _ in RECALL_CELLS):
        several = [here for cell, here in all_cells(runs).items() if cell[0] == keys and cell[1] > 1]
        solved = [here for here in several if solves(here, "QKV")]
        if not solved:
            why = "QKV does not solve the task with several heads, so the budget is measured, not the sharing"
            return one((), void=why)
        narrowest = min(solved, key=lambda here: here[0]["d"] / here[0]["heads"])
        found[f"{keys} keys"] = against_solved(narrowest)
    return found


def wide(runs: list[Run]) -> dict[str, Sample]:
    """One head as wide as the stream, for each number of keys."""
    return {f"{keys} keys": against_solved(here) for (keys, heads), here in all_cells(runs).items() if heads == 1}


def solves(runs: list[Run], model: str) -> bool:
    accuracies = by_seed(runs, model, "accuracy").values()
    return bool(accuracies) and fmean(accuracies) >= SOLVED


def padding_hides(runs: list[Run]) -> dict[str, Sample]:
    """The cost of K=V where padding is scored in training and after it, less its cost where it is masked in both."""
    masked = paired(where(runs, scored="real"), "Q-K=V", "QKV", "loss")
    scored = paired(where(runs, scored="all"), "Q-K=V", "QKV", "loss_with_padding")
    costs = dict(zip(masked.seeds, masked.values, strict=True))
    return one(cost - costs[seed] for seed, cost in zip(scored.seeds, scored.values, strict=True) if seed in costs)


# -- what is printed ---------------------------------------------------------------------------------------------------

LM = LANGUAGE["300M"]


def changed(variant: str) -> str:
    return f"{LM.row(variant).change} perplexity at 300M"


def compared(first: str, second: str) -> str:
    return f"perplexity {LM.row(first).perplexity} against {LM.row(second).perplexity} at 300M"


def printed(variant: str, baseline: str, tasks: tuple[str, ...] = TASKS) -> str:
    """The change of accuracy that the tables imply, in the paper and in the authors' later run."""
    at = [TASKS.index(task) for task in tasks]
    means = [
        sum(exact(SYNTHETIC[variant][run][i]) - exact(SYNTHETIC[baseline][run][i]) for i in at) / len(at)
        for run in (0, 1)
    ]
    said = [signed(f"{100 * float(x):+.1f} points") for x in means]
    return " in the paper, ".join(said) + " in a later run of its authors"


def least_tuned() -> str:
    normed = min(loss for runs in TUNING["linear + QK-norm"].values() for loss in runs)
    (nonlinear,) = TUNING["nonlinear"].values()
    return f"{min(nonlinear)} at its only rate, against {normed} at the best rate, in an independent tuning"


HALF, USUAL = "identity, half scale", float(DECAYS["original"])

QUESTIONS: tuple[Question, ...] = (
    Question(
        "identity-parity",
        "train-identity-query",
        "Does a model with $W_Q=I$ train as well as the original, with fewer parameters?",
        "karbevski2025kv",
        f"parity; by {' to '.join(IDENTITY_LOWER)} lower in long runs, by {' to '.join(IDENTITY_HIGHER)} higher in "
        "shorter ones",
        "equal",
        "Loss of the identity query with halved scale against the original",
        "loss",
        "identity",
        against(HALF, "QKV", relative),
        PARITY,
    ),
    Question(
        "identity-larger-mlp",
        "train-identity-query",
        "Is it better when the saved weights go to the MLP?",
        "karbevski2025kv",
        "lower at equal size",
        "lower",
        "Loss of the identity query with a larger MLP against the original of the same size",
        "loss",
        "identity",
        against("identity, larger MLP", "QKV", relative),
    ),
    Question(
        "identity-stability",
        "train-weight-decay",
        "Is the identity query stable at weight decays at which the original is not?",
        "karbevski2025kv",
        f"stable at {DECAYS['identity']} in place of {DECAYS['original']}, over {TIMES_LOWER} times lower",
        "higher",
        "Largest stable rate of the identity query with halved scale, against the original: how much more the ratio is "
        f"at weight decays at least {TIMES_LOWER} times below {DECAYS['original']} than at {DECAYS['original']}",
        "times",
        "rates",
        more_stable_at_low_decay(HALF, "linear", USUAL, lambda decay: decay * TIMES_LOWER <= USUAL),
    ),
    Question(
        "nonlinear-tuned",
        "train-nonlinear-query",
        "Is a nonlinear query better than a linear one, each at its best learning rate?",
        "karbevski2026nonlinear",
        f"loss lower by {NONLINEAR_V3['loss']}",
        "lower",
        "Loss of the nonlinear query against the linear one, each at its best rate",
        "loss",
        "rates",
        at_best("nonlinear", "linear"),
    ),
    Question(
        "nonlinear-recipe",
        "train-nonlinear-query",
        "Does a linear query with QK-norm and a tuned rate come equally far?",
        "sang2026tuning",
        least_tuned(),
        "equal",
        "Loss of the nonlinear query against the linear one with QK-norm, each at its best rate",
        "loss",
        "rates",
        at_best("nonlinear", "linear + QK-norm"),
        HALF_GAP,
    ),
    Question(
        "nonlinear-shrinks",
        "train-nonlinear-query",
        "Does tuning the rate take more than half of the lead?",
        "sang2026tuning",
        "most of the lead comes from the recipe",
        "lower",
        "Lead over the linear query at the best rates, less half of the lead at the smallest rate",
        "nats",
        "rates",
        shrinking("nonlinear", "linear"),
    ),
    Question(
        "nonlinear-stability",
        "train-nonlinear-query",
        "Does the nonlinear query tolerate larger learning rates?",
        "sang2026tuning",
        "it trains at rates at which the plain model diverges",
        "higher",
        "Largest stable rate of the nonlinear query, whose scale is half, against the linear one with the whole scale "
        "and with half of it",
        "times",
        "rates",
        edges("nonlinear", {"whole scale": "linear", "half scale": "linear, half scale"}),
    ),
    *(
        Question(
            f"lm-{variant.lower().replace('=', '')}",
            "train-sharing-lm",
            f"Does {name} cost perplexity?",
            "kayyam2026three",
            changed(variant),
            "higher",
            f"Perplexity of {variant} against QKV",
            "perplexity",
            "sharing",
            against(variant, "QKV"),
        )
        for variant, name in (("Q-K=V", "K=V"), ("Q=K-V", "Q=K"), ("Q=K=V", "Q=K=V"))
    ),
    Question(
        "lm-order",
        "train-sharing-lm",
        "Does Q=K cost more than K=V?",
        "kayyam2026three",
        compared("Q=K-V", "Q-K=V"),
        "higher",
        "Perplexity of Q=K-V against Q-K=V",
        "perplexity",
        "sharing",
        against("Q=K-V", "Q-K=V"),
    ),
    *(
        Question(
            f"lm-{ours.lower()}",
            "train-sharing-lm",
            f"Does {name} cost less than K=V?",
            "kayyam2026three",
            compared(theirs, "Q-K=V"),
            "lower",
            f"Perplexity of {ours} against Q-K=V",
            "perplexity",
            "sharing",
            against(ours, "Q-K=V"),
        )
        for ours, theirs, name in (
            ("GQA-2", "GQA-4", "sharing keys and values in groups"),
            ("MQA", "MQA", "one key head"),
        )
    ),
    Question(
        "lm-masked",
        "train-sharing-lm",
        "Does K=V cost perplexity on real tokens, with padding masked?",
        "kayyam2026three",
        f"perplexity {MASKED['Q-K=V']} against {MASKED['QKV']}",
        "higher",
        "Perplexity of Q-K=V against QKV, tokens of padding not scored",
        "perplexity",
        "padding",
        against("Q-K=V", "QKV", scored="real"),
    ),
    Question(
        "lm-padding",
        "train-sharing-lm",
        "Does scoring the padding make the cost of K=V look smaller?",
        "kayyam2026three",
        "a later run of the authors masks the padding, for this reason",
        "lower",
        "Cost of Q-K=V with padding scored, less that on real tokens (largely arithmetic: a mean that includes "
        "padding shrinks any cost)",
        "nats",
        "padding",
        padding_hides,
    ),
    Question(
        "lm-tied-afterwards",
        "train-sharing-lm",
        "Is tying keys and values after training worse than training them tied?",
        "kayyam2026three",
        f"perplexity {AVERAGED} after tying by the average, {MASKED['Q-K=V']} trained tied, on FineWeb",
        "higher",
        "Loss after tying by the average, against training tied",
        "nats",
        "posthoc",
        against("tied afterwards, average", "trained tied"),
    ),
    Question(
        "synthetic-kv",
        "train-sharing-synthetic",
        "Is K=V close to QKV on synthetic tasks?",
        "kayyam2026three",
        printed("Q-K=V", "QKV"),
        "equal",
        "Accuracy of Q-K=V against QKV, mean of the five tasks",
        "points",
        "synthetic",
        over_tasks("Q-K=V", "QKV", tuple(task.lower() for task in TASKS)),
        POINTS,
    ),
    Question(
        "synthetic-qk",
        "train-sharing-synthetic",
        "Does Q=K cost accuracy on synthetic tasks, as in the authors' later run?",
        "kayyam2026three",
        printed("Q=K-V", "QKV"),
        "lower",
        "Accuracy of Q=K-V against QKV, mean of the five tasks",
        "points",
        "synthetic",
        over_tasks("Q=K-V", "QKV", tuple(task.lower() for task in TASKS)),
    ),
    Question(
        "synthetic-qkv",
        "train-sharing-synthetic",
        "Is one projection for all worse where tokens must be routed?",
        "kayyam2026three",
        printed("Q=K=V", "QKV", ROUTING),
        "lower",
        "Accuracy of Q=K=V against QKV, mean of REVERSE and SWAP",
        "points",
        "synthetic",
        over_tasks("Q=K=V", "QKV", tuple(task.lower() for task in ROUTING)),
    ),
    Question(
        "synthetic-plus",
        "train-sharing-synthetic",
        "Does the 2D correction help Q=K=V there?",
        "kayyam2026three",
        printed("(Q=K=V)+", "Q=K=V", ROUTING),
        "higher",
        "Accuracy of (Q=K=V)+ against Q=K=V, mean of REVERSE and SWAP",
        "points",
        "synthetic",
        over_tasks("(Q=K=V)+", "Q=K=V", tuple(task.lower() for task in ROUTING)),
    ),
    Question(
        "pair-mass",
        "train-sharing-synthetic",
        "Does training keep one tied head from swapping a pair?",
        "",
        "at most 1 there and back together, and up to 2 with free queries (our own theorem)",
        "lower",
        "Largest mass of one Q=K head over a pair and back, against QKV",
        "mass",
        "pair_bound",
        over_tasks("Q=K-V", "QKV", ("reverse", "swap"), "largest_pair_mass", heads=1, skips="none"),
    ),
    Question(
        "digits",
        "train-digits",
        "Are all variants within two points of QKV on a small vision task?",
        "kayyam2026three",
        "within about a point on small vision tasks",
        "equal",
        "Accuracy against QKV",
        "points",
        "digits",
        all_against("QKV", (*IMPROVED, "identity")),
        POINTS,
    ),
    Question(
        "keyless-gap",
        "train-keyless-lm",
        "Does K=V overfit less than QKV?",
        "gao2026keyless",
        f"gap of validation and training loss {GAPS['keyless']} against {GAPS['QKV']}",
        "lower",
        "Gap of Q-K=V less that of QKV",
        "nats",
        "sharing",
        against("Q-K=V", "QKV", metric=gap),
    ),
    *(
        Question(
            id,
            "train-keyless-lm",
            question,
            "gao2026keyless",
            f"gap {GAPS['keyless']} against {GAPS['QKV']}, 30M tokens of WikiText-103",
            "lower",
            f"Gap of {model} less that of QKV, on a text so small that it is learned by heart",
            "nats",
            "overfitting",
            against(model, "QKV", metric=gap),
        )
        for id, model, question in (
            ("keyless-by-heart", "Q-K=V", "And on a text that is learned by heart?"),
            ("keyless-by-heart-wide", "Q-K=V wide", "And there with as many parameters as QKV?"),
        )
    ),
    Question(
        "recall-narrow",
        "train-recall-demo",
        "Does K=V lose associative recall when heads are narrow?",
        "",
        "yes: a narrow head cannot hold address and content at once",
        "lower",
        "Accuracy of Q-K=V against QKV, with the narrowest heads with which QKV solves the task",
        "points",
        "recall",
        narrow,
    ),
    Question(
        "recall-wide",
        "kv-associative-recall",
        "Does K=V lose nothing with one head as wide as the stream?",
        "kayyam2026three",
        f"accuracy {RECALL['keyless, 1 head'][0]}, as good as QKV",
        "equal",
        "Accuracy of Q-K=V against QKV, one head",
        "points",
        "recall",
        wide,
        POINTS,
    ),
)
