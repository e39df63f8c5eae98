"""The identity in place of the query projection: the change of loss against the original, beside published parity.

All functions take the stored result of ``qkvtheory.experiments.identity``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from qkvtheory.evidence import by_model, relative
from qkvtheory.figures import intervals
from qkvtheory.figures.intervals import (
    Band,
    Chart,
    Line,
    Look,
    Row,
    difference,
    inches,
    percent,
    present,
    round_percent,
    rows_panel,
    spoken_rows,
    up_to,
)

BASELINE = "QKV"
COVERED = "without norms, "  # models of an architecture in which the identity loses nothing: a group of their own
TITLE = "change of loss against QKV"
PARITY = "published"
HEADINGS = ("with norms and both skips", "without norms, QKV too")
OTHERS = {
    f"{COVERED}identity": Look("rank", "pentagon", "p"),
    f"{COVERED}QKV carried over": Look("k", "square", "s"),
}


def rows(data: Mapping[str, Any], group: str = "") -> list[Row]:
    """One for each model of a group that has a run of the same seed as the original of that group."""
    runs = [run for run in present(data["runs"], "identity") if run["model"].startswith(COVERED) == bool(group)]
    original = group + BASELINE
    have = {run["seed"] for run in runs if run["model"] == original}
    models = dict.fromkeys(run["model"] for run in runs if run["seed"] in have and run["model"] != original)
    return [
        difference(model.removeprefix(group), relative(runs, model, original), OTHERS.get(model)) for model in models
    ]


def bands(data: Mapping[str, Any]) -> list[Band]:
    """What is published, from the lowest to the highest change; and one standard deviation of QKV over the seeds."""
    low, high = data["published"]["change"]
    found, own = [Band("x", (low, high), PARITY, "link")], by_model(data["runs"])[BASELINE]
    if math.isfinite(own.deviation):
        share = own.deviation / own.mean
        found.append(Band("x", (-share, share), "QKV itself"))
    return found


def chart(data: Mapping[str, Any]) -> Chart:
    found, covered = rows(data), rows(data, COVERED)
    zero = [Line("x", 0.0)]
    panels = [rows_panel(found, TITLE, percent, round_percent, lines=zero, bands=bands(data), heading=HEADINGS[0])]
    if covered:
        panels.append(rows_panel(covered, TITLE, percent, round_percent, lines=zero, heading=HEADINGS[1]))
    return Chart(intervals.stacked(panels), inches(len(found) + len(covered), len(panels)))


def alt(data: Mapping[str, Any]) -> str:
    """The chart in words."""
    found, (low, high) = rows(data), data["published"]["change"]
    covered = rows(data, COVERED)
    below = (
        f" Below, models without norms against QKV without norms: {spoken_rows(covered, percent)}." if covered else ""
    )
    return (
        "Relative change of validation loss against QKV, one row for each model, with the mean over the seeds, its "
        f"95% interval and every seed. Means over {up_to(found)}: {spoken_rows(found, percent)}. One band shows the "
        f"changes published for the identity query, {percent(low)} to {percent(high)}; the other how far QKV itself "
        f"moves from seed to seed.{below}"
    )


def interactive(data: Mapping[str, Any]) -> dict[str, Any]:
    """The chart as plotly data; hover shows the numbers."""
    return intervals.interactive(chart(data))


def still(data: Mapping[str, Any], theme: str) -> str:
    """The chart as SVG text."""
    return intervals.still(chart(data), theme)
