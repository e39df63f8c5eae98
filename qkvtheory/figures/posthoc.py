"""Keys and values tied after training, or trained tied: what it costs in loss.

All functions take the stored result of ``qkvtheory.experiments.posthoc``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qkvtheory.figures import intervals
from qkvtheory.figures.intervals import Chart, Look, Row, inches, model_rows, nats, plain, present, rows_panel

LOOKS = {
    "untied": Look("q", "circle", "o"),
    "trained tied": Look("k", "square", "s"),
    "tied afterwards, keys": Look("fail", "triangle-up", "^"),
    "tied afterwards, values": Look("fail", "triangle-down", "v"),
    "tied afterwards, average": Look("fail", "diamond", "D"),
}
TITLE = "validation loss, nats per byte"


def rows(data: Mapping[str, Any]) -> list[Row]:
    return model_rows(present(data["runs"], "posthoc"), "loss", LOOKS)


def chart(data: Mapping[str, Any]) -> Chart:
    found = rows(data)
    return Chart((rows_panel(found, TITLE, nats, plain),), inches(len(found)))


def alt(data: Mapping[str, Any]) -> str:
    """The chart in words."""
    found = rows(data)
    return (
        "Validation loss of byte-level language models in nats per byte, one row for each way to keys that equal "
        f"values, with the mean over the seeds, its 95% interval and every seed. Means over {intervals.up_to(found)}: "
        f"{intervals.spoken_rows(found, nats)}."
    )


def interactive(data: Mapping[str, Any]) -> dict[str, Any]:
    """The chart as plotly data; hover shows the numbers."""
    return intervals.interactive(chart(data))


def still(data: Mapping[str, Any], theme: str) -> str:
    """The chart as SVG text."""
    return intervals.still(chart(data), theme)
