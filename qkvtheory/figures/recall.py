"""Associative recall: accuracy by heads, QKV beside K = V, and what is published.

All functions take the stored result of ``qkvtheory.experiments.recall``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qkvtheory.evidence import where
from qkvtheory.figures import intervals
from qkvtheory.figures.intervals import (
    LOOKS,
    Chart,
    Row,
    accuracy,
    groups_panel,
    inches,
    model_rows,
    plain,
    present,
    printed_row,
    spoken_rows,
    up_to,
)

MODELS = {name: LOOKS[name] for name in ("QKV", "Q-K=V")}
TITLE = "accuracy"


def measured(data: Mapping[str, Any]) -> dict[str, list[Row]]:
    """The rows of each setting, by what stands beside it: few keys first, narrow heads first."""
    runs = present(data["runs"], "recall")
    cells = sorted({(run["keys"], run["d"], -run["heads"]) for run in runs})
    return {
        f"{keys} keys, {heads(-h)} of {d // -h}": model_rows(where(runs, keys=keys, d=d, heads=-h), "accuracy", MODELS)
        for keys, d, h in cells
    }


def heads(number: int) -> str:
    return f"{number} head{'s' * (number != 1)}"


def published(data: Mapping[str, Any]) -> dict[str, list[Row]]:
    """What others found; a name is a model and, where it matters, its heads."""
    found: dict[str, list[Row]] = {}
    for name, values in data["published"]["accuracy"].items():
        model, _, of = name.partition(", ")
        found.setdefault(f"published, {of or 'QKV'}", []).append(printed_row(model, values))
    return found


def chart(data: Mapping[str, Any]) -> Chart:
    groups = measured(data) | published(data)
    panel = groups_panel(groups, TITLE, accuracy, plain, along="x", reached=(0.0, 1.03))
    return Chart((panel,), inches(len(groups) + 2))


def alt(data: Mapping[str, Any]) -> str:
    """The chart in words."""
    ours, seeds = measured(data), up_to(row for rows in measured(data).values() for row in rows)
    theirs = ", ".join(
        f"{row.name} {' to '.join(accuracy(p.value) for p in row.printed)} ({name.removeprefix('published, ')})"
        for name, rows in published(data).items()
        for row in rows
    )
    return (
        "Accuracy in associative recall with one layer, by the number of keys and by number and width of the heads: "
        "QKV beside Q-K=V, with the mean over the seeds, its 95% interval and every seed. Means over "
        f"{seeds}. {'. '.join(f'{name}: {spoken_rows(rows, accuracy)}' for name, rows in ours.items())}. Published "
        f"for another model: {theirs}."
    )


def interactive(data: Mapping[str, Any]) -> dict[str, Any]:
    """The chart as plotly data; hover shows the numbers."""
    return intervals.interactive(chart(data))


def still(data: Mapping[str, Any], theme: str) -> str:
    """The chart as SVG text."""
    return intervals.still(chart(data), theme)
