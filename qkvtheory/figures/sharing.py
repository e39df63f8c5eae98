"""Sharing projections in language models: the change of perplexity against QKV, ours beside what is published.

All functions take the stored result of ``qkvtheory.experiments.sharing``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from qkvtheory.evidence import by_model, paired
from qkvtheory.figures import intervals
from qkvtheory.figures.intervals import (
    Band,
    Chart,
    Line,
    Printed,
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
OTHER_NAMES = {"GQA-2": "GQA-4", "Q-GQA-2": "Q-GQA-4"}  # published under another name, since there are more heads there
TITLE = "change of perplexity against QKV"


def published(data: Mapping[str, Any], model: str) -> list[Printed]:
    """The published relative change of perplexity."""
    printed, name = data["published"]["perplexity"], OTHER_NAMES.get(model, model)
    return [Printed(printed[name] / printed[BASELINE] - 1, of=name * (name != model))] if name in printed else []


def rows(data: Mapping[str, Any]) -> list[Row]:
    """One for each variant that has a run of the same seed as one of QKV."""
    runs = present(data["runs"], "sharing")
    have = {run["seed"] for run in runs if run["model"] == BASELINE}
    models = dict.fromkeys(run["model"] for run in runs if run["seed"] in have and run["model"] != BASELINE)
    return [
        difference(model, paired(runs, model, BASELINE), change=math.expm1, printed=published(data, model))
        for model in models
    ]


def spread(data: Mapping[str, Any]) -> list[Band]:
    """One standard deviation of QKV itself over the seeds, on both sides of zero."""
    deviation = by_model(data["runs"])[BASELINE].deviation
    if not math.isfinite(deviation):
        return []
    return [Band("x", (math.expm1(-deviation), math.expm1(deviation)), "QKV itself")]


def chart(data: Mapping[str, Any]) -> Chart:
    found = rows(data)
    panel = rows_panel(found, TITLE, percent, round_percent, lines=[Line("x", 0.0)], bands=spread(data))
    return Chart((panel,), inches(len(found)))


def alt(data: Mapping[str, Any]) -> str:
    """The chart in words."""
    found = rows(data)
    return (
        "Change of perplexity against QKV, one row for each variant, with the mean over the seeds, its 95% interval, "
        f"every seed, and what is published for models of 300 million parameters. Means over {up_to(found)}: "
        f"{spoken_rows(found, percent)}. A band around zero shows how far QKV itself moves from seed to seed."
    )


def interactive(data: Mapping[str, Any]) -> dict[str, Any]:
    """The chart as plotly data; hover shows the numbers."""
    return intervals.interactive(chart(data))


def still(data: Mapping[str, Any], theme: str) -> str:
    """The chart as SVG text."""
    return intervals.still(chart(data), theme)
