"""Shared projections in language models and on synthetic tasks: what was published, and what our runs say."""

from __future__ import annotations

import math
from fractions import Fraction
from statistics import fmean
from typing import Any

from qkvtheory import evidence
from qkvtheory.claims.model import Pairs, Source
from qkvtheory.claims.training_evidence.common import (
    BY_ID,
    OURS,
    PAIRS,
    SEEDS,
    change,
    exchanged,
    fact,
    means,
    meets,
    one_seed,
    printed_so,
    ranked_with_itself,
    trained,
    wrong,
)
from qkvtheory.evidence import Run, by_model, paired, where
from qkvtheory.published import LANGUAGE, MASKED, exact
from qkvtheory.published_training import GAPS, KEYLESS, KEYLESS_CACHE, KEYLESS_CHANGES, SYNTHETIC, SYNTHETIC_RUNS, TASKS
from qkvtheory.questions import gap

SLIDES = Source("reported", "kayyam2026three", note="tables on the authors' slides, one run for each variant")
SYNTHETIC_SOURCE = Source("reported", "kayyam2026three", note="the paper's table and a later run of the authors")
SMALL, LARGE = LANGUAGE["300M"], LANGUAGE["1.2B"]

# -- train-sharing-lm --------------------------------------------------------------------------------------------------


def order(_: Any) -> Pairs:
    """The printed order of perplexities, and the costs in percent."""
    pairs: list[Any] = []
    for table, grouped in ((SMALL, "GQA-4"), (LARGE, "GQA-8")):
        ranked = [exact(table.row(name).perplexity) for name in ("QKV", grouped, "MQA", "Q-K=V")]
        pairs.append((sorted(ranked), ranked))
    ranked = [exact(SMALL.row(name).perplexity) for name in ("QKV", "Q-K=V", "Q=K-V", "Q=K=V")]
    masked = change(MASKED["Q-K=V"], MASKED["QKV"])
    return [*pairs, (sorted(ranked), ranked), (True, meets(*masked, COSTS[2]))]


COSTS = (str(SMALL.row("Q-K=V").change), str(LARGE.row("Q-K=V").change), "+2.2%")


def tying_first(_: Any) -> Pairs:
    """As if tying were cheaper than sharing heads."""
    ranked = [exact(SMALL.row(name).perplexity) for name in ("QKV", "Q-K=V", "GQA-4", "MQA")]
    return [(sorted(ranked), ranked)]


def mixed(_: Any) -> Pairs:
    """The loss with padding of one model against the loss on real tokens of the other."""
    question = BY_ID["lm-masked"]
    runs = evidence.runs_of(question.file)
    mistaken = [{**run, "loss": run["loss_with_padding"]} if run["model"] == "Q-K=V" else run for run in runs]
    return [(means(question, runs), means(question, mistaken))]


def wider(runs: list[Run]) -> str:
    found = paired(runs, "Q-K=V wide", "QKV").summary
    apart = [
        parameters(runs, "Q-K=V wide") - parameters(runs, "QKV"),
        parameters(runs, "Q-K=V") - parameters(runs, "QKV"),
    ]
    return (
        f"With the saved weights in a wider MLP ({apart[0]:+,} parameters against QKV in place of {apart[1]:+,}), the perplexity of Q-K=V against "
        f"QKV is {evidence.spread(found, 'perplexity')}."
    )


def parameters(runs: list[Run], model: str) -> int:
    (found,) = {int(run["parameters"]) for run in where(runs, model=model)}
    return found


def saved_alike(_: Any) -> Pairs:
    """Sharing one projection more saves as many parameters again; the wide model has as many as QKV, within 1 %."""
    models = ("QKV", "Q-K=V", "Q=K-V", "Q=K=V", "Q-K=V wide")
    runs = evidence.runs_of("sharing", *models)
    whole, *sizes, wide = (parameters(runs, model) for model in models)
    one = whole - sizes[0]
    return [(one, whole - sizes[1]), (2 * one, whole - sizes[2]), (True, abs(wide / whole - 1) < 0.01)]


def bytes_as_counted(_: Any) -> Pairs:
    """What a cache holds while a model decodes is what the formula says, to the byte."""
    return [(run["formula_bytes"], run["cache_bytes"]) for run in evidence.runs_of("decode")]


SHARING_LM = trained(
    "train-sharing-lm",
    title="Shared projections in language models",
    published=(
        f"Kayyam, Madan Gopal and Lewis train causal models on SlimPajama, one run for each variant. K=V changes perplexity by {COSTS[0]} at 300M and by "
        f"{COSTS[1]} at 1.2B, Q=K by {SMALL.row('Q=K-V').change}, Q=K=V by {SMALL.row('Q=K=V').change}; GQA-4 by {SMALL.row('GQA-4').change} and MQA by "
        f"{SMALL.row('MQA').change}, and they save more cache. With padding masked, on another text, K=V changes it by {COSTS[2]}. Ours is perplexity for each "
        "byte, of much smaller models: signs can be compared, sizes not."
    ),
    facts=fact("sharing", wider),
    counts=order,
    more=(saved_alike, bytes_as_counted),
    hypotheses=(SEEDS, PAIRS),
    sources=(SLIDES, OURS),
    uses=("published-tables", "gqa-dominates-tying", "posthoc-tying"),
    controls=(
        one_seed("lm-q-kv"),
        exchanged("sharing", "Q=K=V", "QKV"),
        ranked_with_itself("lm-q-kv", "Q-K=V", "QKV"),
        wrong("H2", "a loss with padding against a loss without", mixed),
        wrong("construction", "tying cheaper than sharing heads", tying_first, "count"),
    ),
)

# -- train-sharing-synthetic -------------------------------------------------------------------------------------------


def synthetic_tables(_: Any) -> Pairs:
    """The printed means are those of the cells; the numbers of runs are products; and Q=K changes its sign."""
    rows = [row for both in SYNTHETIC.values() for row in both]
    pairs: list[Any] = [(True, printed_so(mean_of(row[:-1]), row[-1])) for row in rows]
    widths, layers, heads, lengths, seeds = 3, 2, 2, 3, 3
    cell = widths * layers * heads * lengths * seeds
    signs = [mean_of(SYNTHETIC["Q=K-V"][run][:-1]) > mean_of(SYNTHETIC["QKV"][run][:-1]) for run in (0, 1)]
    return [*pairs, (SYNTHETIC_RUNS, (cell, cell * len(SYNTHETIC) * len(TASKS))), ([True, False], signs)]


def mean_of(cells: Any) -> Fraction:
    return sum(map(exact, cells), Fraction(0)) / len(cells)


def without_copying(_: Any) -> Pairs:
    """The printed means against the cells of four tasks: COPY left out."""
    return [(True, printed_so(mean_of(row[:-2]), row[-1])) for both in SYNTHETIC.values() for row in both]


def bounded(_: Any) -> Pairs:
    """No trained tied head sends more than 1 over a pair and back, whatever it learned: a theorem, up to rounding. It
    holds with the 2D correction as well, unless its temperature is negative.
    """
    runs = evidence.runs_of("pair_bound", "Q=K-V")
    return [at_most_one(run) for run in runs if run["model"] != "QKV" and min(run.get("temperature", [1])) >= 0]


def at_most_one(run: Run) -> tuple[bool, bool]:
    return True, float(run["largest_pair_mass"]) <= 1 + 1e-5


def free_heads(_: Any) -> Pairs:
    """The same bound asked of heads with free queries."""
    return [at_most_one(run) for run in where(evidence.runs_of("pair_bound", "QKV"), model="QKV")]


def temperatures(runs: list[Run]) -> str:
    """How many of the learned temperatures are negative where tokens are routed, and what other corrections do there."""
    routed = [run for run in runs if run["task"] in ("reverse", "swap")]
    found = [s for run in routed if run["model"] in ("(Q=K-V)+", "(Q=K=V)+") for s in run["temperature"]]
    if not found:
        raise evidence.NoRuns("no temperatures")
    frozen = {run["model"]: [r["accuracy"] for r in routed if r["model"] == run["model"]] for run in routed}
    said = ", ".join(f"{100 * fmean(xs):.1f}% {name}" for name, xs in frozen.items() if name.startswith("(Q=K=V)+"))
    return (
        f"Of {len(found)} temperatures that the 2D correction learned on REVERSE and SWAP, one for each layer and run, {sum(s < 0 for s in found)} are "
        f"negative; the least is {min(found):.2f}, the largest {max(found):.2f}. Mean accuracy on the two: {said}."
    )


SYNTHETIC_TASKS = trained(
    "train-sharing-synthetic",
    title="Shared projections on synthetic tasks",
    published=(
        "Kayyam, Madan Gopal and Lewis train small encoders to reverse, sort, substitute, swap and copy. In the paper, and in their later run, "
        "K=V stays within a point of QKV on average, Q=K=V loses many points on REVERSE and SWAP, and the 2D correction gives back some of them. "
        "On Q=K the paper and the later run differ in sign."
    ),
    facts=fact("synthetic", temperatures),
    counts=synthetic_tables,
    more=(bounded,),
    hypotheses=(SEEDS, PAIRS),
    sources=(SYNTHETIC_SOURCE, OURS),
    uses=("pair-bound", "reverse-swap-consequence", "separable-plus-is-temperature"),
    controls=(
        one_seed("synthetic-qkv"),
        exchanged("synthetic", "Q=K=V", "QKV", "accuracy"),
        ranked_with_itself("synthetic-qkv", "Q=K=V", "QKV"),
        wrong("construction", "the bound on a pair asked of free queries", free_heads),
        wrong("construction", "means of four tasks for means of five", without_copying, "count"),
    ),
)

# -- train-keyless-lm --------------------------------------------------------------------------------------------------


def keyless_tables(_: Any) -> Pairs:
    """The least and the most printed change, from the rounded perplexities; and half the cache."""
    changes = sorted((change(*row) for row in KEYLESS.values()), key=lambda found: found[0])
    ends = zip((changes[0], changes[-1]), KEYLESS_CHANGES, strict=True)
    halves = exact(KEYLESS_CACHE["QKV"]), 2 * exact(KEYLESS_CACHE["keyless"])
    return [*((True, meets(*found, text)) for found, text in ends), halves]


def as_of_losses(_: Any) -> Pairs:
    """The changes of the logarithms of perplexity taken for changes of perplexity."""
    ours, theirs = (math.log(float(exact(text))) for text in KEYLESS["Pythia-410M"])
    return [(True, printed_so(ours / theirs - 1, KEYLESS_CHANGES[0]))]


def by_heart(runs: list[Run]) -> str:
    """Every model of the small text: with more decay, QKV is a control."""
    gaps, losses = by_model(runs, gap), by_model(runs)
    said = ", ".join(
        f"{model} {seen.mean:.2f} (validation loss {losses[model].mean:.2f})" for model, seen in gaps.items()
    )
    return f"Gaps on a small text that is learned by heart, in nats for each byte: {said}."


KEYLESS_LM = trained(
    "train-keyless-lm",
    title="Keyless models overfit less?",
    published=(
        f"Gao and Xu train keyless models (K=V) from scratch on a small text and report perplexities from {KEYLESS_CHANGES[0]} to {KEYLESS_CHANGES[1]} "
        f"against QKV, half the cache, and a gap of {GAPS['keyless']} between validation and training loss in place of {GAPS['QKV']}."
    ),
    facts=fact("overfitting", by_heart),
    counts=keyless_tables,
    hypotheses=(SEEDS, PAIRS),
    sources=(Source("reported", "gao2026keyless"), OURS),
    uses=("kv-names-equal",),
    controls=(
        one_seed("keyless-gap"),
        exchanged("sharing", "Q-K=V", "QKV"),
        wrong("construction", "changes of loss taken for changes of perplexity", as_of_losses, "count"),
    ),
)
