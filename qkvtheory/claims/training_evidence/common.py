"""What the claims of this chapter share: the lane "experiment", its second computation, and runs made wrong on purpose."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from qkvtheory import evidence
from qkvtheory.claims.model import Claim, Control, Hypothesis, Pairs, Source, Statement
from qkvtheory.evidence import CANNOT_TELL, MINIMUM, NOT_REPRODUCED, NOT_RUN, REPRODUCED, Question, Run, Sample
from qkvtheory.published import interval
from qkvtheory.questions import QUESTIONS

CHAPTER = "training-evidence"
OURS = Source("derived", note="our own small runs, their intervals and the arithmetic")
BY_ID = {question.id: question for question in QUESTIONS}
Change = Callable[[list[Run]], list[Run]]

# Student's t at 97.5 %, by degrees of freedom, as in printed tables: a second source beside ``evidence.quantile``.
TABLE = {
    **{2: "4.302653", 3: "3.182446", 4: "2.776445", 5: "2.570582", 6: "2.446912", 7: "2.364624", 8: "2.306004"},
    **{9: "2.262157", 10: "2.228139", 11: "2.200985", 14: "2.144787", 19: "2.093024"},
}

SEEDS = Hypothesis(
    "H1", "several seeds", f"every difference is seen on at least {MINIMUM} seeds, and its interval is shown"
)
PAIRS = Hypothesis("H2", "the same data", "models that are compared saw the same data in the same order, seed by seed")
TUNED = Hypothesis("H3", "tuned alike", "each model stands at its own best learning rate, of one grid given to all")
AS_PRINTED = Hypothesis(
    "H1", "as printed", "each figure is compared with the one it is printed beside, within rounding"
)


# -- the lane ----------------------------------------------------------------------------------------------------------


def experiment(id: str, statement: str, more: Sequence[Statement] = ()) -> Statement:
    """What must hold of the stored runs for the claim to say what it says. Raises NoRuns if none is here."""

    def sides(_: Any) -> Pairs:
        found = evidence.findings(id)
        here = [finding for finding in found if finding.verdict.word != NOT_RUN]
        if not here:
            raise evidence.NoRuns(found[0].verdict.reason)
        pairs: list[Any] = [(True, tally(id) in statement)]
        for finding in here:
            pairs += followed(finding)
        return [*pairs, *(pair for part in more for pair in where_stored(part))]

    return sides


def where_stored(more: Statement) -> Pairs:
    """What else must hold, as far as the runs it needs are here."""
    try:
        return more(None)
    except evidence.NoRuns:
        return []


def followed(finding: evidence.Finding) -> list[Any]:
    """A finding against the runs it comes from: where they are from, the numbers, and the verdict by another route."""
    if finding.fault:
        return [("", finding.fault)]
    question = BY_ID[finding.id]
    data = evidence.stored(question.file)
    samples = question.samples(list(data["runs"]))
    pairs: list[Any] = [((), tuple(missing(data["provenance"])))]
    words = [again(sample, question.sign, question.margin) for sample in samples.values()]
    pairs.append((combined(words), finding.verdict.word))
    for name, sample in samples.items():
        seen = finding.verdict.numbers.get(name)
        if seen is not None:
            pairs.append((len(sample.values), seen.n))
            if all(map(math.isfinite, sample.values)):  # a run that diverged leaves no mean to compare
                mean = sum(map(Fraction, sample.values)) / len(sample.values)
                pairs.append((round(float(mean), 9), round(seen.mean, 9)))
    return pairs


def missing(provenance: Mapping[str, Any]) -> list[str]:
    """What a stored result does not say of itself."""
    lacking = [name for name in evidence.PROVENANCE if not provenance.get(name)]
    dated = re.fullmatch(r"\d{4}-\d\d-\d\d", str(provenance.get("date", "")))
    return lacking if dated else [*lacking, "a date as in 2026-01-31"]


def again(sample: Sample, sign: str, margin: float) -> str:
    """The verdict in exact fractions, from squares and a printed table, without an interval: the second opinion."""
    values = sample.values
    if sample.void or len(values) < MINIMUM or (sample.rates is not None and sample.rates < 2):
        return CANNOT_TELL
    if not all(map(math.isfinite, values)):
        return CANNOT_TELL
    exact = [Fraction(x) for x in values]
    n = len(exact)
    mean = sum(exact, Fraction(0)) / n
    spread = sum((x - mean) ** 2 for x in exact) / (n - 1) * Fraction(TABLE[n - 1]) ** 2 / n

    def clear(distance: Fraction) -> bool:
        return distance > 0 and distance**2 > spread

    side = {"lower": -mean, "higher": mean, "equal": Fraction(margin) - abs(mean)}[sign]
    return REPRODUCED if clear(side) else NOT_REPRODUCED if clear(-side) else CANNOT_TELL


def combined(words: Iterable[str]) -> str:
    found = set(words)
    if NOT_REPRODUCED in found:
        return NOT_REPRODUCED
    return REPRODUCED if found == {REPRODUCED} else CANNOT_TELL


def tally(id: str) -> str:
    """How the questions of a claim came out, in one sentence."""
    words = [finding.verdict.word for finding in evidence.findings(id)]
    if set(words) == {NOT_RUN}:
        return f"Our own runs on this: {NOT_RUN}."
    counts = [(word, words.count(word)) for word in (REPRODUCED, NOT_REPRODUCED, CANNOT_TELL, NOT_RUN)]
    said = ", ".join(f"{number} {word}" for word, number in counts if number)
    many = f"{len(words)} questions" if len(words) > 1 else "one question"
    return f"Our own small runs speak to {many} on this: {said}."


def fact(file: str, says: Callable[[list[Run]], str]) -> str:
    """A sentence with numbers from stored runs; nothing where they are not here or not as agreed."""
    try:
        return " " + says(list(evidence.stored(file)["runs"]))
    except (FileNotFoundError, *evidence.BAD):
        return ""


# -- claims ------------------------------------------------------------------------------------------------------------


def trained(
    id: str,
    *,
    published: str,
    facts: str = "",
    counts: Statement | None = None,
    more: Sequence[Statement] = (),
    **described: Any,
) -> Claim:
    """A claim with runs of ours: what is printed, what came out here, and the arithmetic of what is printed."""
    statement = f"{published} {tally(id)}{facts}"
    special = {"experiment": experiment(id, statement, more)} | ({"count": counts} if counts else {})
    return Claim(
        id=id,
        rank="remark",
        chapter=CHAPTER,
        kind="experiment",
        statement=statement,
        sides=special["experiment"],
        special=special,
        lanes=tuple(special),
        **described,
    )


def counted(id: str, counts: Statement, **described: Any) -> Claim:
    """A claim on printed figures alone."""
    return Claim(
        id=id,
        rank="remark",
        chapter=CHAPTER,
        kind="count",
        sides=counts,
        special={"count": counts},
        lanes=("count",),
        **described,
    )


def wrong(hypothesis: str, what: str, sides: Statement, lane: str = "experiment") -> Control:
    return Control(hypothesis, what, sides, lanes=(lane,))


# -- runs made wrong on purpose ----------------------------------------------------------------------------------------


def decided(id: str, change: Change) -> Statement:
    """That a verdict is drawn even from these runs, which the rule must refuse."""
    question = BY_ID[id]
    return lambda _: [(True, question.judged(change(evidence.runs_of(question.file))).decided)]


def one_seed(id: str) -> Control:
    def first(runs: list[Run]) -> list[Run]:
        return [run for run in runs if run["seed"] == min(run["seed"] for run in runs)]

    return wrong("H1", "a verdict from one seed", decided(id, first))


def one_rate(id: str) -> Control:
    def smallest(runs: list[Run]) -> list[Run]:
        return [run for run in runs if run["rate"] == min(run["rate"] for run in runs)]

    return wrong("H3", "a verdict from one learning rate", decided(id, smallest))


def exchanged(file: str, one: str, other: str, metric: str = "loss") -> Control:
    """The two models under each other's name."""
    names = {one: other, other: one}

    def sides(_: Any) -> Pairs:
        runs = evidence.runs_of(file, one, other)
        swapped: list[Run] = [{**run, "model": names.get(run["model"], run["model"])} for run in runs]
        return [(totals(runs, metric), totals(swapped, metric))]

    return wrong("H2", f"{one} and {other} under each other's name", sides)


def totals(runs: list[Run], metric: str) -> dict[tuple[str, int], float]:
    """What was measured, summed for each model and seed over everything else; diverged runs apart."""
    found: dict[tuple[str, int], float] = {}
    for run in runs:
        if not evidence.diverged(run):
            key = (run["model"], run["seed"])
            found[key] = found.get(key, 0.0) + float(run[metric])
    return found


def means(question: Question, runs: list[Run]) -> dict[str, float]:
    return {name: sum(sample.values) / len(sample.values) for name, sample in question.samples(runs).items()}


def ranked_with_itself(id: str, model: str, baseline: str) -> Control:
    """The baseline against itself, each seed with the next: nothing but spread, and no ranking may come of it."""

    def change(runs: list[Run]) -> list[Run]:
        mine = [run for run in runs if run["model"] == baseline]
        seeds = sorted({run["seed"] for run in mine})
        after = dict(zip(seeds, [*seeds[1:], seeds[0]], strict=True))
        others = [run for run in runs if run["model"] != model]
        return [*others, *({**run, "model": model, "seed": after[run["seed"]]} for run in mine)]

    question = BY_ID[id]

    def sides(_: Any) -> Pairs:
        samples = question.samples(change(evidence.runs_of(question.file, baseline)))
        return [(True, evidence.judge(samples[model if model in samples else ""], "higher").decided)]

    return wrong("construction", f"a ranking of {baseline} against {baseline} of other seeds", sides)


def printed_so(number: Fraction | float, text: str) -> bool:
    """Does the number round to what is printed?"""
    low, high = interval(text)
    return low <= number <= high


def meets(low: Any, high: Any, text: str) -> bool:
    """Does the interval from low to high hold a number that rounds to what is printed?"""
    least, most = interval(text)
    return max(low, least) <= min(high, most)


def change(ours: str, theirs: str) -> tuple[Fraction, Fraction]:
    """The relative changes that two rounded figures allow, from the least to the most."""
    (low, high), (least, most) = interval(ours), interval(theirs)
    return low / most - 1, high / least - 1
