"""Short documents: the cost of K = V on real tokens, with padding scored, and as a share of padding predicts it.

All functions take the stored result of ``qkvtheory.experiments.padding``.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from qkvtheory.evidence import NoRuns, paired, summary, where
from qkvtheory.figures import intervals
from qkvtheory.figures.intervals import (
    Chart,
    Line,
    Look,
    Printed,
    Row,
    difference,
    inches,
    nats,
    plain,
    present,
    rows_panel,
)

# what counts in training, what is scored, how it is drawn; a model that never learned padding is not asked for it
CELLS = {
    "trained on real, scored on real": ("real", "loss", Look("q", "circle", "o")),
    "trained on all, scored on real": ("all", "loss", Look("k", "square", "s")),
    "trained on all, scored on all": ("all", "loss_with_padding", Look("k", "triangle-up", "^")),
}
HIDDEN = "trained on all, scored on all"
TITLE = "loss of Q-K=V less that of QKV, nats"


def rows(data: Mapping[str, Any]) -> list[Row]:
    """One for each way of training and scoring that has runs; the last with its prediction."""
    runs, found = present(data["runs"], "padding"), []
    for name, (trained, metric, drawn) in CELLS.items():
        try:
            pair = paired(where(runs, scored=trained), "Q-K=V", "QKV", metric)
        except NoRuns:
            continue
        printed = [Printed(predicted(data), "predicted")] if name == HIDDEN else []
        found.append(difference(name, pair, drawn, printed=printed))
    if not found:
        raise NoRuns("book/results/padding.json has no runs of both models with the same seed yet")
    return found


def share(data: Mapping[str, Any]) -> float:
    """The share of targets that are padding."""
    return fmean(run["share_of_padding"] for run in data["runs"])


def predicted(data: Mapping[str, Any]) -> float:
    """The cost on real tokens times 1 - f: what is left of it if padding costs nothing."""
    real = paired(where(data["runs"], scored="all"), "Q-K=V", "QKV")
    return (1 - share(data)) * summary(real.values).mean


def chart(data: Mapping[str, Any]) -> Chart:
    found = rows(data)
    return Chart((rows_panel(found, TITLE, nats, plain, lines=[Line("x", 0.0)]),), inches(len(found)))


def alt(data: Mapping[str, Any]) -> str:
    """The chart in words."""
    found = rows(data)
    return (
        "What K=V costs in language models of short documents: loss of Q-K=V less that of QKV in nats, one row for "
        "each way of training and scoring, with the mean over the seeds, its 95% interval and every seed. Means over "
        f"{intervals.up_to(found)}: {intervals.spoken_rows(found, nats)}. The share of padding is f = "
        f"{share(data):.2f}; the prediction is the cost on real tokens times 1 - f."
    )


def interactive(data: Mapping[str, Any]) -> dict[str, Any]:
    """The chart as plotly data; hover shows the numbers."""
    return intervals.interactive(chart(data))


def still(data: Mapping[str, Any], theme: str) -> str:
    """The chart as SVG text."""
    return intervals.still(chart(data), theme)
