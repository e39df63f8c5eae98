"""Sharing on tasks that move symbols: accuracy by task and variant, and the sign of the learned temperature.

All functions take the stored result of ``qkvtheory.experiments.synthetic``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from statistics import median
from typing import Any

from qkvtheory.evidence import Run, where
from qkvtheory.figures import intervals
from qkvtheory.figures.intervals import (
    LOOKS as COMMON,
)
from qkvtheory.figures.intervals import (
    Axis,
    Chart,
    Line,
    Look,
    Mark,
    Panel,
    Printed,
    Row,
    Series,
    accuracy,
    groups_panel,
    model_rows,
    plain,
    present,
    reach,
    ticks,
    up_to,
)

VARIANTS = {name: COMMON[name] for name in ("QKV", "Q-K=V", "Q=K-V", "(Q=K-V)+", "Q=K=V", "(Q=K=V)+")}
CONTROLS = {
    "(Q=K=V)+ frozen -1": Look("link", "triangle-left", "<"),
    "(Q=K=V)+ frozen +1": Look("link", "triangle-right", ">"),
    "(Q=K=V)+ relative": Look("link", "cross", "P"),
}
LEARNED = ("(Q=K-V)+", "(Q=K=V)+")
RUNS = {"paper": "the paper", "rerun": "its re-run"}
ACCURACY, TEMPERATURE = "accuracy", "learned temperature"
SMALL = 7


def tasks(data: Mapping[str, Any]) -> list[str]:
    """The tasks that have runs, in the order of the experiment."""
    return list(dict.fromkeys(run["task"] for run in present(data["runs"], "synthetic")))


def printed(data: Mapping[str, Any], task: str, model: str) -> list[Printed]:
    """The accuracy in the paper and in the authors' later run."""
    tables, at = data["published"], data["published"]["tasks"].index(task)
    return [Printed(tables[name][model][at], kind) for name, kind in RUNS.items() if model in tables[name]]


def rows(data: Mapping[str, Any]) -> dict[str, list[Row]]:
    """The variants of each task, then the controls where there are any."""
    return {
        task: [
            replace(row, printed=printed(data, task, row.name))
            for row in model_rows(where(data["runs"], task=task), "accuracy", VARIANTS | CONTROLS)
        ]
        for task in tasks(data)
    }


def learned(data: Mapping[str, Any], task: str, model: str) -> list[Run]:
    return [run for run in where(data["runs"], task=task, model=model) if "temperature" in run]


def temperatures(data: Mapping[str, Any]) -> Panel | None:
    """Every learned temperature: tasks from left to right, their layers side by side, one mark for each seed."""
    names = tasks(data)
    layers = max((len(run["temperature"]) for run in data["runs"] if run["model"] in LEARNED), default=0)
    if not layers:
        return None
    found, values = [], [0.0]
    for j, model in enumerate(LEARNED):
        marks = []
        for i, task in enumerate(names):
            for run in learned(data, task, model):
                for layer, s in enumerate(run["temperature"]):
                    at = i + column(layer, layers) + (j - 0.5) * 0.14 + (run["seed"] - 2) * 0.012
                    marks.append(
                        Mark(at, s, f"{model}, {task.upper()}, layer {layer + 1}, seed {run['seed']}: {factor(s)}")
                    )
                    values.append(s)
        if marks:
            found.append(Series(model, VARIANTS[model], marks, size=SMALL))
    places = {i + column(k, layers): f"{k + 1}" for i in range(len(names)) for k in range(layers)}
    under = {i: f"\n{task.upper()}" for i, task in enumerate(names)}
    reached = reach(values)
    x = Axis("layer and task", (-0.5, len(names) - 0.5), places | under, grid=False)
    return Panel(x, Axis(TEMPERATURE, reached, ticks(reached, plain)), found, [Line("y", 0.0)], height=1.0)


def column(layer: int, layers: int) -> float:
    return 0.44 * (layer - (layers - 1) / 2)


def factor(x: float) -> str:
    return intervals.signed(f"{x:.2f}")


def chart(data: Mapping[str, Any]) -> Chart:
    groups = {task.upper(): found for task, found in rows(data).items()}
    above = groups_panel(groups, ACCURACY, accuracy, plain, seeds=False, reached=(0.0, 1.05), height=1.4)
    below = temperatures(data)
    return Chart((above, below), 6.6) if below else Chart((above,))


def alt(data: Mapping[str, Any]) -> str:
    """The chart in words."""
    found = rows(data)
    means = []
    for task, measured in found.items():
        ordered = sorted((row for row in measured if row.name in VARIANTS), key=lambda row: row.mean)
        low, high = ordered[0], ordered[-1]
        means.append(f"{task.upper()} from {low.mean:.2f} ({low.name}) to {high.mean:.2f} ({high.name})")
    lowest = []
    for task in found:
        each = [min(run["temperature"]) for model in LEARNED for run in learned(data, task, model)]
        if each:
            lowest.append(f"{task.upper()} {factor(median(each))}")
    return (
        "Above, accuracy by task and variant with 95% intervals, beside the published values of the paper and of its "
        f"re-run. Means over {up_to(row for rows in found.values() for row in rows)}, lowest and highest variant: "
        f"{', '.join(means)}. Below, the learned temperature of the 2D correction by task and layer, with a line at "
        f"zero. The lower one of the layers, median of the runs: {', '.join(lowest) or 'none yet'}."
    )


def interactive(data: Mapping[str, Any]) -> dict[str, Any]:
    """The chart as plotly data; hover shows the numbers."""
    return intervals.interactive(chart(data))


def still(data: Mapping[str, Any], theme: str) -> str:
    """The chart as SVG text."""
    return intervals.still(chart(data), theme)
