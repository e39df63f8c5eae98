"""What stored trainings say: means and intervals over seeds, and whether a published sign is found again.

    from qkvtheory.evidence import findings
    for finding in findings():
        print(finding.sentence)

Trainings are run once and stored in ``book/results/``; no verdict is stored with them. Here they are read, and each
question that a published sentence leaves us with is answered by one rule.

**The rule.** All variants see the same data in the same order for one seed, so differences are taken seed by seed.
Their mean has a 95% interval by Student's t. A published sign is "lower", "higher", or "equal" within a margin named
in advance.

- *reproduced*: the whole interval lies on the published side (for "equal": inside the margin);
- *not reproduced at our scale*: the whole interval lies on the other side (for "equal": outside the margin);
- *cannot tell*: anything else. Always so with fewer than ``MINIMUM`` seeds; with a run that diverged among those
  compared; and, where the question is about tuning, with fewer than two learning rates.

Only the standard library is used. The questions themselves are in ``qkvtheory.questions``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

RESULTS = Path(__file__).resolve().parents[1] / "book" / "results"
MINIMUM = 3  # seeds
LEVEL = 0.95
PROVENANCE = ("command", "date", "machine", "commit", "versions")  # what every stored training says of itself

REPRODUCED, NOT_REPRODUCED, CANNOT_TELL = "reproduced", "not reproduced at our scale", "cannot tell"
NOT_RUN = "not run here"
SIGNS = ("lower", "higher", "equal")

Run = Mapping[str, Any]
Metric = str | Callable[[Run], float]


class NoRuns(FileNotFoundError):
    """What is asked is not among the stored runs: they are not here, or not all of them yet."""


# -- reading -----------------------------------------------------------------------------------------------------------


def command(name: str) -> str:
    """The command that makes a stored result anew."""
    return f"python -m qkvtheory.experiments.{name} --out book/results/{name}.json"


def stored(name: str) -> dict[str, Any]:
    """The stored result of an experiment.

    Raises NoRuns (a FileNotFoundError), saying how to make it, and ValueError for a file that is no JSON object.
    """
    file = RESULTS / f"{name}.json"
    if not file.is_file():
        raise NoRuns(f"book/results/{name}.json is not here; in a checkout of the book, run: {command(name)}")
    try:
        found = json.loads(file.read_text("utf8"))
    except ValueError as error:
        raise ValueError(f"book/results/{name}.json is not JSON ({error}); make it anew: {command(name)}") from None
    if not isinstance(found, dict):
        raise ValueError(f"book/results/{name}.json should hold an object with a list of runs, not {found!r:.40}")
    return found


# -- means and intervals -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Summary:
    """``n`` numbers: their mean, their standard deviation, and the 95% interval of the mean from ``low`` to ``high``.

    One number has no interval, and numbers that are not all finite have none either: it is then the whole line.
    """

    n: int
    mean: float
    deviation: float
    low: float
    high: float


def summary(values: Iterable[float]) -> Summary:
    """Mean and interval of some numbers, by Student's t. Raises ValueError if there are none.

    >>> found = summary([1.0, 2.0, 3.0])
    >>> found.n, found.mean, found.deviation, round(found.high - found.mean, 3)
    (3, 2.0, 1.0, 2.484)
    >>> summary([5.0]).high
    inf
    """
    numbers = [float(value) for value in values]
    if not numbers:
        raise ValueError("no runs to summarize; expected at least one number")
    n = len(numbers)
    if n == 1 or not all(map(math.isfinite, numbers)):
        return Summary(n, sum(numbers) / n, math.nan, -math.inf, math.inf)  # fmean refuses inf beside -inf
    mean, deviation = fmean(numbers), stdev(numbers)
    half = quantile(n - 1) * deviation / math.sqrt(n)
    return Summary(n, mean, deviation, mean - half, mean + half)


@cache
def quantile(freedom: int, level: float = LEVEL) -> float:
    """The t below which |T| stays with this probability, T of Student's distribution with so many degrees of freedom.

    By halving an interval, from the finite sums of Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3
    and 26.7.4. Raises ValueError for fewer than one degree of freedom.

    >>> [round(quantile(n), 3) for n in (1, 2, 4, 30)]
    [12.706, 4.303, 2.776, 2.042]
    """
    if freedom < 1:
        raise ValueError(f"an interval needs at least one degree of freedom, so two numbers, not {freedom}")
    low, high = 0.0, 1.0
    while within(high, freedom) < level:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle, freedom) < level else (low, middle)
    return (low + high) / 2


def within(t: float, freedom: int) -> float:
    """The probability of |T| <= t.

    >>> round(within(1.0, 1), 12), round(within(2.0, 2), 6)
    (0.5, 0.816497)
    """
    angle = math.atan(t / math.sqrt(freedom))
    cosine = math.cos(angle)
    term = total = cosine if freedom % 2 else 1.0
    for k in range(2 + freedom % 2, freedom - 1, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    if freedom % 2 == 0:
        return math.sin(angle) * total
    return 2 / math.pi * (angle + (math.sin(angle) * total if freedom > 1 else 0.0))


def by_model(runs: Iterable[Run], metric: Metric = "loss") -> dict[str, Summary]:
    """The summary of each model over its seeds, in the order in which models first appear.

    >>> by_model([{"model": "QKV", "seed": s, "loss": 1 + s / 4} for s in range(3)])["QKV"].mean
    1.25
    """
    runs = list(runs)
    models = dict.fromkeys(run["model"] for run in runs)
    return {model: summary(by_seed(runs, model, metric).values()) for model in models}


def diverged(run: Run) -> bool:
    """Whether a run broke: it says so, or its loss is no finite number.

    >>> [diverged(run) for run in ({"loss": 1.5}, {"loss": None}, {"loss": 1.5, "diverged": True}, {"accuracy": 0.9})]
    [False, True, True, False]
    """
    loss = run.get("loss", 0.0)
    return bool(run.get("diverged")) or loss is None or not math.isfinite(loss)


def value(run: Run, metric: Metric) -> float:
    """What was measured; infinite for a run that diverged."""
    if diverged(run):
        return math.inf
    found = metric(run) if callable(metric) else run[metric]
    return math.inf if found is None else float(found)


def by_seed(runs: Iterable[Run], model: str, metric: Metric = "loss") -> dict[int, float]:
    """Seed -> what was measured. Raises ValueError if one seed has two runs: then a factor is not fixed."""
    found: dict[int, float] = {}
    for run in runs:
        if run["model"] == model:
            if run["seed"] in found:
                raise ValueError(
                    f"{model} has two runs of seed {run['seed']}; choose one level of every other factor first"
                )
            found[run["seed"]] = value(run, metric)
    return found


def runs_of(file: str, *models: str) -> list[Run]:
    """The runs of a stored result. Raises NoRuns if it is not here, or if one of these models has none in it."""
    runs: list[Run] = list(stored(file)["runs"])
    lacking = [model for model in models if all(run["model"] != model for run in runs)]
    if lacking:
        raise NoRuns(f"book/results/{file}.json has no runs of {', '.join(lacking)}; run: {command(file)}")
    return runs


def where(runs: Iterable[Run], **factors: Any) -> list[Run]:
    """The runs with these levels of these factors.

    >>> len(where([{"task": "SORT"}, {"task": "COPY"}], task="COPY"))
    1
    """
    return [run for run in runs if all(run.get(name) == level for name, level in factors.items())]


# -- differences -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Paired:
    """Differences of two models, seed by seed: ``values[i]`` belongs to ``seeds[i]``."""

    seeds: tuple[int, ...]
    values: tuple[float, ...]

    @property
    def summary(self) -> Summary:
        return summary(self.values)

    @property
    def perplexity(self) -> tuple[float, float, float]:
        """Of losses in nats: the relative change of perplexity, from the low end over the mean to the high end."""
        found = self.summary
        low, mean, high = (math.inf if x > 700 else math.expm1(x) for x in (found.low, found.mean, found.high))
        return low, mean, high


def paired(runs: Iterable[Run], model: str, baseline: str, metric: Metric = "loss") -> Paired:
    """Model minus baseline for each seed that both have. Raises NoRuns if there is none.

    >>> runs = [{"model": m, "seed": s, "loss": x + s} for s in (0, 1, 2) for m, x in (("QKV", 1.5), ("MQA", 1.75))]
    >>> found = paired(runs, "MQA", "QKV")
    >>> found.seeds, found.values, round(found.perplexity[1], 3)
    ((0, 1, 2), (0.25, 0.25, 0.25), 0.284)
    """
    return differences(runs, model, baseline, metric, lambda ours, theirs: ours - theirs)


def relative(runs: Iterable[Run], model: str, baseline: str, metric: Metric = "loss") -> Paired:
    """The same as ratios less one: 0.01 is one percent more than the baseline."""
    return differences(runs, model, baseline, metric, lambda ours, theirs: ours / theirs - 1)


def differences(
    runs: Iterable[Run], model: str, baseline: str, metric: Metric, change: Callable[[float, float], float]
) -> Paired:
    """The change for each seed that both have; no number (nan) where one of the two diverged, whichever it is."""
    runs = list(runs)
    ours, theirs = (by_seed(runs, name, metric) for name in (model, baseline))
    seeds = tuple(seed for seed in ours if seed in theirs)
    if not seeds:
        raise NoRuns(f"{model} and {baseline} have no stored runs of the same seed")
    both = [(ours[seed], theirs[seed]) for seed in seeds]
    return Paired(seeds, tuple(change(*pair) if all(map(math.isfinite, pair)) else math.nan for pair in both))


# -- tuning ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Best:
    """Where a model does best: the levels of the factors, and its loss there over the seeds."""

    at: Mapping[str, Any]
    loss: Summary


Factors = str | Sequence[str]


def best(runs: Iterable[Run], by: Factors = "rate") -> dict[str, Best]:
    """For each model the level (or levels) of ``by`` with the lowest mean loss over seeds; a diverged run is infinite.

    >>> runs = [{"model": "linear", "rate": r, "seed": 0, "loss": x} for r, x in ((1e-3, 2.0), (3e-3, 1.5))]
    >>> best([*runs, {"model": "linear", "rate": 1e-2, "seed": 0, "loss": 0.1, "diverged": True}])["linear"].at
    {'rate': 0.003}
    """
    runs, names = list(runs), factors(by)
    found: dict[str, Best] = {}
    for model, level in dict.fromkeys((run["model"], levels(run, names)) for run in runs):
        at = dict(zip(names, level, strict=True))
        seen = Best(at, summary(by_seed(where(runs, **at), model).values()))
        if model not in found or seen.loss.mean < found[model].loss.mean:
            found[model] = seen
    return found


def factors(by: Factors) -> tuple[str, ...]:
    return (by,) if isinstance(by, str) else tuple(by)


def levels(run: Run, names: Iterable[str]) -> tuple[Any, ...]:
    return tuple(run.get(name) for name in names)


def comparable(runs: Iterable[Run], models: Sequence[str], by: Factors = "rate") -> list[Run]:
    """The runs of these models at levels of ``by`` that all of them have with the same seeds: the same grid for each.

    A model that was given more tries would look better for it.
    """
    runs, names = [run for run in runs if run["model"] in models], factors(by)
    tried = [{(*levels(run, names), run["seed"]) for run in runs if run["model"] == model} for model in models]
    common = set.intersection(*tried)
    return [run for run in runs if (*levels(run, names), run["seed"]) in common]


def largest_stable_rate(runs: Iterable[Run], model: str) -> float | None:
    """The largest learning rate up to which no run of the model diverged; None if the smallest did.

    >>> runs = [{"model": "linear", "rate": r, "diverged": r > 2e-3} for r in (1e-3, 2e-3, 4e-3, 8e-3)]
    >>> largest_stable_rate(runs, "linear")
    0.002
    """
    mine = [run for run in runs if run["model"] == model]
    broken = min((run["rate"] for run in mine if diverged(run)), default=math.inf)
    return max((run["rate"] for run in mine if run["rate"] < broken), default=None)


# -- verdicts ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sample:
    """What one question is decided from: differences, one for each seed.

    ``rates``: how many learning rates every model was given, where the question is about tuning. ``void``: why these
    numbers decide nothing, if so.
    """

    values: tuple[float, ...]
    rates: int | None = None
    void: str = ""


@dataclass(frozen=True)
class Verdict:
    """``word``: REPRODUCED, NOT_REPRODUCED, CANNOT_TELL or NOT_RUN; ``reason``: why not, where it is not the interval
    that decides; ``numbers``: what it comes from, by name where several things are compared.
    """

    word: str
    reason: str = ""
    numbers: Mapping[str, Summary] = field(default_factory=dict)

    @property
    def decided(self) -> bool:
        return self.word in (REPRODUCED, NOT_REPRODUCED)


def judge(sample: Sample, sign: str, margin: float = 0.0, name: str = "") -> Verdict:
    """The rule of this module. ``sign``: what is published, one of SIGNS; ``margin``: for "equal", in the unit of the
    numbers.

    >>> judge(Sample((0.1, 0.12, 0.11)), "higher").word, judge(Sample((0.1, 0.12, 0.11)), "lower").word
    ('reproduced', 'not reproduced at our scale')
    >>> judge(Sample((0.1, -0.1, 0.0)), "higher").word, judge(Sample((0.1, 0.12)), "higher").reason
    ('cannot tell', 'only 2 seeds, and 3 are needed')

    Raises ValueError for another sign, and for "equal" without a margin.
    """
    if sign not in SIGNS:
        raise ValueError(f"a published sign is one of {', '.join(SIGNS)}, not {sign!r}")
    if (sign == "equal") != (margin > 0):
        raise ValueError(
            f"a margin goes with 'equal' and is above zero; here the sign is {sign!r}, the margin {margin}"
        )
    reason = sample.void or doubt(sample)
    if not sample.values:
        return Verdict(CANNOT_TELL, reason)
    found = summary(sample.values)
    if reason:
        return Verdict(CANNOT_TELL, reason, {name: found})
    return Verdict(decision(found, sign, margin), "", {name: found})


def doubt(sample: Sample) -> str:
    """Why no interval of these numbers decides anything, if so."""
    n = len(sample.values)
    if n < MINIMUM:
        return f"only {n} seed{'s' * (n != 1)}, and {MINIMUM} are needed"
    if sample.rates is not None and sample.rates < 2:
        return "only one learning rate, and the question is about tuning"
    return "" if all(map(math.isfinite, sample.values)) else "a run that is compared diverged"


def decision(found: Summary, sign: str, margin: float) -> str:
    low, high = (-found.high, -found.low) if sign == "lower" else (found.low, found.high)
    if sign == "equal":
        yes, no = -margin < low and high < margin, high < -margin or margin < low
    else:
        yes, no = low > 0, high < 0
    return REPRODUCED if yes else NOT_REPRODUCED if no else CANNOT_TELL


def together(verdicts: Sequence[Verdict]) -> Verdict:
    """One verdict on a sentence about several models: reproduced if all are, not reproduced if one is not.

    >>> together([Verdict(REPRODUCED), Verdict(CANNOT_TELL, "only 1 seed")]).word
    'cannot tell'
    """
    numbers = {name: found for verdict in verdicts for name, found in verdict.numbers.items()}
    words = {verdict.word for verdict in verdicts}
    if words == {REPRODUCED} or NOT_REPRODUCED in words:
        return Verdict(NOT_REPRODUCED if NOT_REPRODUCED in words else REPRODUCED, "", numbers)
    return Verdict(CANNOT_TELL, next((v.reason for v in verdicts if v.reason), ""), numbers)


# -- questions and findings --------------------------------------------------------------------------------------------


def signed(text: str) -> str:
    return text.replace("-", "\N{MINUS SIGN}")


UNITS: dict[str, Callable[[float], str]] = {
    "perplexity": lambda x: signed(f"{100 * math.expm1(min(x, 700)):+.1f}%"),  # of differences of loss, in nats
    "loss": lambda x: signed(f"{100 * x:+.2f}%"),  # of ratios less one
    "points": lambda x: signed(f"{100 * x:+.1f} points"),  # of accuracy
    "nats": lambda x: signed(f"{x:+.3f} nats"),
    "mass": lambda x: signed(f"{x:+.2f} of mass"),  # of attention
    "times": lambda x: f"{2.0 ** max(min(x, 1000), -1000):.3g} times",  # of logarithms to base two
}


@dataclass(frozen=True)
class Question:
    """A published sentence that our runs speak to.

    ``source``: its key in the bibliography; ``published``: what is printed there, in short; ``sign`` and ``margin``:
    how it is judged; ``subject``: what is measured, in words, in ``unit`` (a key of UNITS); ``file``: the stored
    result; ``samples``: from its runs, the numbers to judge, by the name of what they are about (one name, "", where
    there is only one).
    """

    id: str
    claim: str
    question: str
    source: str
    published: str
    sign: str
    subject: str
    unit: str
    file: str
    samples: Callable[[list[Run]], Mapping[str, Sample]]
    margin: float = 0.0

    def judged(self, runs: list[Run]) -> Verdict:
        return together([judge(sample, self.sign, self.margin, name) for name, sample in self.samples(runs).items()])


@dataclass(frozen=True)
class Finding:
    """A question with its answer. ``ours``: mean and interval in print; ``fault``: what is wrong with the file."""

    id: str
    claim: str
    question: str
    source: str
    published: str
    ours: str
    verdict: Verdict
    sentence: str
    source_file: str
    command: str
    machine: str = ""
    fault: str = ""

    def as_dict(self) -> dict[str, Any]:
        """As plain data; an end of an interval that is not finite is None, which JSON can say."""
        numbers = {
            name: {key: x if math.isfinite(x) else None for key, x in asdict(found).items()}
            for name, found in self.verdict.numbers.items()
        }
        return {
            **asdict(self),
            "verdict": {"word": self.verdict.word, "reason": self.verdict.reason, "numbers": numbers},
        }


BAD = (KeyError, TypeError, ValueError, AttributeError, ArithmeticError)  # what a file that is not as agreed leads to


def answer(question: Question, read: Callable[[str], Mapping[str, Any]] = stored) -> Finding:
    """The finding of a question. Never raises for a file that is missing or not as agreed: the finding says so."""
    machine = ours = fault = ""
    how = command(question.file)
    try:
        data = read(question.file)
        verdict = question.judged(list(data["runs"]))
        ours = in_print(verdict, question.unit)
        machine, how = str(data["provenance"]["machine"]), str(data["provenance"]["command"])
    except NoRuns as missing:
        verdict = Verdict(NOT_RUN, str(missing))
    except BAD as error:
        fault = f"book/results/{question.file}.json: {type(error).__name__}: {error}"
        verdict = Verdict(CANNOT_TELL, fault)
    return Finding(
        *(question.id, question.claim, question.question, question.source, question.published, ours, verdict),
        sentence=sentence(question, verdict, ours),
        source_file=f"book/results/{question.file}.json",
        command=how,
        machine=machine,
        fault=fault,
    )


def in_print(verdict: Verdict, unit: str) -> str:
    """Mean and interval of everything compared.

    >>> in_print(Verdict(REPRODUCED, "", {"": summary([0.01, 0.02, 0.03])}), "points")
    '+2.0 points (−0.5 to +4.5; 3 seeds)'
    """
    return ", ".join(f"{name} {spread(found, unit)}".strip() for name, found in verdict.numbers.items())


def spread(found: Summary, unit: str) -> str:
    show, seeds = UNITS[unit], f"{found.n} seed{'s' * (found.n != 1)}"
    if not math.isfinite(found.mean):
        return f"diverged ({seeds})"
    if not (math.isfinite(found.low) and math.isfinite(found.high)):
        return f"{show(found.mean)} (no interval; {seeds})"
    return f"{show(found.mean)} ({show(found.low).partition(' ')[0]} to {show(found.high).partition(' ')[0]}; {seeds})"


def whose(source: str) -> str:
    """What a sentence that we try to find again is: printed by others, or expected by us."""
    return "Published" if source else "Expected"


def sentence(question: Question, verdict: Verdict, ours: str) -> str:
    """The verdict with the numbers it comes from."""
    if verdict.word == NOT_RUN:
        return "Not run here."
    because = f": {verdict.reason}" if verdict.reason else ""
    measured = f"{question.subject}: {ours}. " if ours else ""
    word = verdict.word[0].upper() + verdict.word[1:]
    return f"{measured}{whose(question.source)}: {question.published}. {word}{because}."


def findings(claim: str = "", read: Callable[[str], Mapping[str, Any]] = stored) -> list[Finding]:
    """Every question answered, or those of one claim. ``read``: how a stored result is found by its name.

    >>> all(finding.verdict.word != REPRODUCED for finding in findings(read=lambda name: {"runs": []}))
    True
    """
    from qkvtheory.questions import QUESTIONS

    return [answer(question, read) for question in QUESTIONS if claim in ("", question.claim)]
