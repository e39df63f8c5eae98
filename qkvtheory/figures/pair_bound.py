"""One symmetric head and a pair that must be exchanged: the mass it sends there and back, against the accuracy.

All functions take the stored result of ``qkvtheory.experiments.pair_bound``.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from qkvtheory.evidence import Run, where
from qkvtheory.figures import intervals
from qkvtheory.figures.intervals import Axis, Chart, Line, Look, Mark, Panel, Series, accuracy, plain, present, ticks

LOOKS = {  # model, heads
    ("QKV", 1): Look("q", "circle", "o"),
    ("Q=K-V", 1): Look("v", "triangle-up", "^"),
    ("Q=K-V", 2): Look("k", "square", "s"),
    ("(Q=K-V)+", 1): Look("fail", "diamond", "D"),
    ("(Q=K-V)+ frozen +1", 1): Look("rank", "triangle-right", ">"),
    ("(Q=K-V)+ frozen -1", 1): Look("rank", "triangle-left", "<"),
}
SKIPS = {"none": "without skips", "both": "with skips and MLP"}
MASS, ACCURACY = "mass over a pair and back, mean of a head", "accuracy"
REACH, HEIGHT = (0.0, 2.1), (0.0, 1.08)


def named(model: str, heads: int) -> str:
    """
    >>> named("Q=K-V", 2), named("QKV", 1)
    ('Q=K-V, 2 heads', 'QKV')
    """
    return model if heads == 1 else f"{model}, {heads} heads"


def mass(run: Run) -> float:
    """The mean over positions and sequences of A_ij + A_ji; of several heads, the one with the most."""
    return float(max(run["mean_pair_mass"]))


def series(runs: list[Run]) -> list[Series]:
    """One mark for each run; models differ in shape."""
    found = []
    for (model, heads), look in LOOKS.items():
        marks = [
            Mark(
                mass(run),
                run["accuracy"],
                f"{named(model, heads)}, {run['task']}, seed {run['seed']}: accuracy {accuracy(run['accuracy'])}, "
                f"mass {accuracy(mass(run))}",
            )
            for run in where(runs, model=model, heads=heads)
        ]
        if marks:
            found.append(Series(named(model, heads), look, marks, size=8, listed=True))
    return found


def chart(data: Mapping[str, Any]) -> Chart:
    runs, bound = present(data["runs"], "pair_bound"), data["published"]["bound"]
    x, y = Axis(MASS, REACH, ticks(REACH, plain)), Axis(ACCURACY, HEIGHT, ticks(HEIGHT, plain))
    panels = [
        Panel(x, y, series(where(runs, skips=skips)), [Line("x", bound, "bound")], heading=told)
        for skips, told in SKIPS.items()
        if where(runs, skips=skips)
    ]
    return Chart(intervals.stacked(panels), 1.7 + 2.2 * len(panels))


def alt(data: Mapping[str, Any]) -> str:
    """The chart in words."""
    told = []
    runs = present(data["runs"], "pair_bound")
    for skips, where_it_is in SKIPS.items():
        models = [
            f"{drawn.name} {fmean(m.x for m in drawn.marks):.2f} and {fmean(m.y for m in drawn.marks):.2f}"
            for drawn in series(where(runs, skips=skips))
        ]
        told += [f"{where_it_is[0].upper()}{where_it_is[1:]}: {', '.join(models)}."] if models else []
    return (
        "Accuracy on REVERSE and SWAP against the mean attention a head sends over a pair and back, one mark for each "
        f"run of one layer, with a line at the bound {plain(data['published']['bound'])}. Mean mass and mean accuracy "
        f"of each model. {' '.join(told)}"
    )


def interactive(data: Mapping[str, Any]) -> dict[str, Any]:
    """The chart as plotly data; hover shows the numbers."""
    return intervals.interactive(chart(data))


def still(data: Mapping[str, Any], theme: str) -> str:
    """The chart as SVG text."""
    return intervals.still(chart(data), theme)
