"""A small text read many times: the gap between validation and training loss, model by model.

All functions take the stored result of ``qkvtheory.experiments.overfitting``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from qkvtheory.figures import intervals
from qkvtheory.figures.intervals import LOOKS as COMMON
from qkvtheory.figures.intervals import (
    Chart,
    Line,
    Look,
    Printed,
    Row,
    inches,
    model_rows,
    nats,
    plain,
    present,
    rows_panel,
)

LOOKS = {name: COMMON[name] for name in ("QKV", "Q-K=V", "Q-K=V wide")} | {
    "QKV, more decay": Look("q", "triangle-left", "<"),
}
TITLE = "validation less training loss, nats per byte"


def rows(data: Mapping[str, Any]) -> list[Row]:
    """The gap of every model, beside the published one."""
    printed = data["published"]["gap"]
    return [
        replace(row, printed=[Printed(printed[row.name])] if row.name in printed else [])
        for row in model_rows(present(data["runs"], "overfitting"), "gap", LOOKS)
    ]


def chart(data: Mapping[str, Any]) -> Chart:
    found = rows(data)
    return Chart((rows_panel(found, TITLE, nats, plain, lines=[Line("x", 0.0)]),), inches(len(found)))


def alt(data: Mapping[str, Any]) -> str:
    """The chart in words."""
    found = rows(data)
    return (
        "How much each model overfits: validation less training loss, in nats, one row for each model, with the mean "
        "over the seeds, its 95% interval, every seed, and what is published for language models of 36 layers (nats "
        f"per token). Means over {intervals.up_to(found)}: {intervals.spoken_rows(found, nats)}."
    )


def interactive(data: Mapping[str, Any]) -> dict[str, Any]:
    """The chart as plotly data; hover shows the numbers."""
    return intervals.interactive(chart(data))


def still(data: Mapping[str, Any], theme: str) -> str:
    """The chart as SVG text."""
    return intervals.still(chart(data), theme)
