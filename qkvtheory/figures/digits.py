"""Sharing projections in a small vision transformer: accuracy on digits, and two controls apart from the rest.

All functions take the stored result of ``qkvtheory.experiments.digits``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from qkvtheory.figures import intervals
from qkvtheory.figures.intervals import LOOKS as COMMON
from qkvtheory.figures.intervals import (
    Chart,
    Look,
    Printed,
    Row,
    accuracy,
    inches,
    model_rows,
    plain,
    present,
    rows_panel,
)

VARIANTS = {name: COMMON[name] for name in ("QKV", "Q-K=V", "Q=K-V", "Q=K=V", "(Q=K-V)+", "(Q=K=V)+", "identity")}
CONTROLS = {
    "uniform attention": Look("muted", "x", "X"),
    "shuffled labels": Look("muted", "cross", "P"),
}
TITLE = "accuracy on 8 x 8 digits"
SAME, APART = "sharing variants", "controls, on another axis"


def rows(data: Mapping[str, Any]) -> list[Row]:
    """The variants, each beside what is published for MNIST."""
    runs, printed = present(data["runs"], "digits"), data["published"]["mnist"]
    return [
        replace(row, printed=[Printed(printed[row.name], of="MNIST")] if row.name in printed else [])
        for row in model_rows(runs, "accuracy", VARIANTS)
    ]


def controls(data: Mapping[str, Any]) -> list[Row]:
    return model_rows(data["runs"], "accuracy", CONTROLS)


def chart(data: Mapping[str, Any]) -> Chart:
    found, apart = rows(data), controls(data)
    panels = [rows_panel(found, TITLE, accuracy, plain, heading=SAME)]
    if apart:
        panels.append(rows_panel(apart, TITLE, accuracy, plain, heading=APART, reached=(0.0, 1.02)))
    return Chart(intervals.stacked(panels), inches(len(found) + len(apart), len(panels)))


def alt(data: Mapping[str, Any]) -> str:
    """The chart in words."""
    found, apart = rows(data), controls(data)
    below = f" Below, on an axis from 0 to 1, the controls: {intervals.spoken_rows(apart, accuracy)}." if apart else ""
    printed = [p.value for row in found for p in row.printed]
    return (
        "Accuracy on 8 x 8 digits, one row for each variant, with the mean over the seeds, its 95% interval and every "
        f"seed. Means over {intervals.up_to(found)}: {told(found)}. Published for MNIST: {accuracy(min(printed))} to "
        f"{accuracy(max(printed))}.{below}"
    )


def told(found: list[Row]) -> str:
    return intervals.spoken_rows([replace(row, printed=()) for row in found], accuracy)


def interactive(data: Mapping[str, Any]) -> dict[str, Any]:
    """The chart as plotly data; hover shows the numbers."""
    return intervals.interactive(chart(data))


def still(data: Mapping[str, Any], theme: str) -> str:
    """The chart as SVG text."""
    return intervals.still(chart(data), theme)
