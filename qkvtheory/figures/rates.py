"""Learning rates: the loss of short trainings, by kind of query and by weight decay; where runs diverge.

All functions take the stored result of ``qkvtheory.experiments.rates``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from qkvtheory.evidence import Run, best, by_seed, largest_stable_rate, summary, where
from qkvtheory.figures import intervals
from qkvtheory.figures.intervals import (
    SEED,
    Axis,
    Chart,
    Look,
    Mark,
    Panel,
    Series,
    nats,
    plain,
    present,
    reach,
    said,
    ticks,
)

LOOKS = {
    "linear": Look("q", "circle", "o"),
    "linear + QK-norm": Look("q", "square", "s"),
    "linear, half scale": Look("q", "triangle-left", "<"),
    "identity": Look("rank", "pentagon", "p"),
    "identity, half scale": Look("rank", "triangle-down", "v"),
    "nonlinear": Look("fail", "diamond", "D"),
    "bottleneck": Look("k", "triangle-up", "^"),
}
USUAL = 0.1  # the weight decay that all models were given
DASHES = {0.03125: "dash", 0.0: "dot"}  # of the other decays
DASHED = {"dash": "dashed", "dot": "dotted"}
RATE, LOSS, DIVERGED, LEFT = "learning rate", "loss, nats per byte", "diverged", "another seed diverged"
STEP = 0.035  # powers of ten between models at one rate, so that they do not hide each other


def named(model: str, decay: float) -> str:
    return model if decay == USUAL else f"{model}, decay {plain(decay)}"


def place(model: str, rate: float) -> float:
    """Where a model stands at a rate: a little beside it."""
    names = list(LOOKS)
    return rate * 10 ** (STEP * (names.index(model) - (len(names) - 1) / 2))


def line(runs: list[Run], model: str, decay: float) -> Series:
    """The mean loss at every rate where no run diverged."""
    here, marks = where(runs, model=model, weight_decay=decay), []
    for rate in sorted({run["rate"] for run in here}):
        found = summary(by_seed(where(here, rate=rate), model).values())
        if math.isfinite(found.mean):
            told = f"{named(model, decay)}, rate {plain(rate)}: {said(found, nats)}"
            marks.append(Mark(place(model, rate), found.mean, told, intervals.ends(found)))
    return Series(named(model, decay), LOOKS[model], marks, DASHES.get(decay, "solid"), 8, listed=decay == USUAL)


def broken(runs: list[Run], top: float, step: float) -> Series:
    """Runs that diverged, from the top edge down."""
    marks = []
    for cell in cells(runs):
        for i, run in enumerate(run for run in cell if run.get("diverged")):
            marks.append(Mark(place(run["model"], run["rate"]), top - i * step, f"{whole_name(run)}: diverged"))
    return Series(DIVERGED, Look("muted", "x", "X"), marks, size=7, listed=True)


def left(runs: list[Run]) -> Series:
    """Runs that ended well where another seed diverged, so that no mean is drawn."""
    some = [cell for cell in cells(runs) if any(run.get("diverged") for run in cell)]
    marks = [
        Mark(place(run["model"], run["rate"]), run["loss"], f"{whole_name(run)}: {nats(run['loss'])}")
        for cell in some
        for run in cell
        if not run.get("diverged")
    ]
    return Series(LEFT, SEED, marks, size=5, listed=True)


def whole_name(run: Run) -> str:
    return f"{named(run['model'], run['weight_decay'])}, rate {plain(run['rate'])}, seed {run['seed']}"


def cells(runs: list[Run]) -> list[list[Run]]:
    """The runs that differ in their seeds only."""
    found: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        found.setdefault((run["model"], run["weight_decay"], run["rate"]), []).append(run)
    return list(found.values())


def panels(data: Mapping[str, Any]) -> dict[str, list[Run]]:
    """The runs at the usual decay, and those at the others; each only if it is there."""
    runs = [run for run in present(data["runs"], "rates") if run["model"] in LOOKS]
    others = [run for run in runs if run["weight_decay"] != USUAL]
    told = ", ".join(f"{plain(decay)} {DASHED[dash]}" for decay, dash in DASHES.items())
    found = {f"weight decay {plain(USUAL)}": where(runs, weight_decay=USUAL), f"weight decay {told}": others}
    return {heading: part for heading, part in found.items() if part}


def lines(runs: list[Run]) -> list[Series]:
    """One for each model and decay, in the order of LOOKS."""
    order = sorted({(list(LOOKS).index(run["model"]), -run["weight_decay"]) for run in runs})
    return [line(runs, list(LOOKS)[i], -decay) for i, decay in order]


def panel(heading: str, runs: list[Run], heights: tuple[float, float]) -> Panel:
    rates, high = sorted({run["rate"] for run in runs}), heights[1] - heights[0]
    x = Axis(RATE, (min(rates) / 1.8, max(rates) * 1.8), {rate: plain(rate) for rate in rates}, log=True)
    y = Axis(LOSS, heights, ticks(heights, plain))
    drawn = [*lines(runs), left(runs), broken(runs, heights[1] - 0.04 * high, 0.05 * high)]
    return Panel(x, y, [series for series in drawn if series.marks], along="y", heading=heading)


def chart(data: Mapping[str, Any]) -> Chart:
    found = panels(data)
    losses = [run["loss"] for runs in found.values() for run in runs if not run.get("diverged")]
    heights = reach(losses or [0.0, math.log(256)], high=0.2)
    drawn = [panel(heading, runs, heights) for heading, runs in found.items()]
    return Chart(intervals.stacked(drawn), 2.0 + 2.4 * len(found))


def alt(data: Mapping[str, Any]) -> str:
    """The chart in words."""
    found = panels(data)
    usual = next(iter(found.values()))
    told = []
    for model, at in best(usual).items():
        edge = largest_stable_rate(usual, model)
        stable = f"stable up to {plain(edge)}" if edge else "never stable"
        told.append(f"{model} {nats(at.loss.mean)} at {plain(at.at['rate'])}, {stable}")
    count = sum(bool(run.get("diverged")) for runs in found.values() for run in runs)
    total = sum(len(runs) for runs in found.values())
    return (
        "Final loss against the learning rate on a log scale, one line for each kind of query, at "
        f"{', and below at '.join(found)}; runs that diverged stand at the top edge ({count} of {total}). Lowest mean "
        f"loss, its rate, and the largest rate up to which no run diverged: {'; '.join(told)}."
    )


def interactive(data: Mapping[str, Any]) -> dict[str, Any]:
    """The chart as plotly data; hover shows the numbers."""
    return intervals.interactive(chart(data))


def still(data: Mapping[str, Any], theme: str) -> str:
    """The chart as SVG text."""
    return intervals.still(chart(data), theme)
