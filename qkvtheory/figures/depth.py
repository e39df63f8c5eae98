"""Rounding and depth: the error of a stack without query matrices, layer after layer, against its prediction.

All functions take the stored result of ``qkvtheory.experiments.depth``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log10
from typing import Any

from qkvtheory.figures.style import BOTH, canvas, label, layout, log_axis, spoken, to_svg

LOOK = {  # color, plotly marker, matplotlib marker
    ("calm", "float64", 1.0): ("link", "circle", "o"),
    ("calm", "float64", 1e2): ("link", "square", "s"),
    ("calm", "float64", 1e4): ("link", "diamond", "D"),
    ("steep", "float64", 1e2): ("fail", "x-thin", "x"),
    ("calm", "float32", 1.0): ("rank", "triangle-up", "^"),
    ("calm", "float32", 1e2): ("rank", "triangle-down", "v"),
}
X_LABEL, Y_LABEL, PREDICTED = "layers", "relative error", "predicted"
X_RANGE, Y_RANGE = (-0.06, 1.75), (-16.2, -3.8)
TICKS = (1, 2, 4, 8, 16, 32, 48)
GAP = 10**0.06


def key(line: Mapping[str, Any]) -> tuple[str, str, float]:
    return line["kind"], line["dtype"], line["cond"]


def column(line: Mapping[str, Any], name: str) -> list[float]:
    return [row[name] for row in line["rows"]]


def short(line: Mapping[str, Any]) -> str:
    """The name beside the line."""
    return f"{'steep, ' if line['kind'] == 'steep' else 'cond '}{line['cond']:,.0f}"


def labels(data: Mapping[str, Any]) -> list[tuple[str, float, float, str]]:
    """All words inside the chart: text, place and color; the text stands to the right of the place."""
    names = [(short(line), GAP * line["rows"][-1]["depth"], line["rows"][-1]["error"], line) for line in data["lines"]]
    over = {line["dtype"]: max(x["rows"][0]["error"] for x in data["lines"] if x["dtype"] == line["dtype"])
            for line in data["lines"]}  # fmt: skip
    heads = [(dtype, 0.95, 12 * highest, line_of(data, dtype)) for dtype, highest in over.items()]
    return [(text, x, y, LOOK[key(line)][0]) for text, x, y, line in names + heads]


def line_of(data: Mapping[str, Any], dtype: str) -> Mapping[str, Any]:
    return next(line for line in data["lines"] if line["dtype"] == dtype)


def alt(data: Mapping[str, Any]) -> str:
    """The chart in words."""
    calm = [line for line in data["lines"] if line["kind"] == "calm"]
    (steep,) = (line for line in data["lines"] if line["kind"] == "steep")
    low, high = (f(line["exponent"] for line in calm) for f in (min, max))
    first, last = steep["rows"][0], steep["rows"][-1]
    wide = next(line for line in calm if key(line) == ("calm", "float64", 1e2))["rows"][-1]
    furthest = max(line["furthest"] for line in data["lines"])
    return (
        "Relative error of stacks whose query matrices were all eliminated against their number of layers, from "
        f"{first['depth']} to {last['depth']}, both on log scales. In the calm stacks the error grows like the depth "
        f"to the power {spoken(low)} to {spoken(high)}, close to a square root, in float64 and in float32 and at every "
        f"condition number; in float64 at condition number 100 it ends at {spoken(wide['error'])}. In the steep stack "
        f"it climbs from {spoken(first['error'])} to {spoken(last['error'])}. Dotted lines mark the prediction from "
        f"one layer's error and the old network's own sensitivity; all points lie within a factor {spoken(furthest)}."
    )


def interactive(data: Mapping[str, Any]) -> dict[str, Any]:
    """The chart as plotly data; hover shows the numbers."""
    x = log_axis(X_LABEL, *X_RANGE, 1) | {"tickvals": list(TICKS), "ticktext": [str(n) for n in TICKS]}
    axes = x, log_axis(Y_LABEL, *Y_RANGE, 4)
    names = [label(text, log10(x), log10(y), yanchor="middle") for text, x, y, _ in labels(data)]
    drawn = [part(line) for part in (dotted, trace) for line in data["lines"]]
    return {"data": drawn, "layout": layout(*axes, right=64, annotations=names)}


def dotted(line: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "scatter", "mode": "lines", "name": PREDICTED, "hoverinfo": "skip",
        "x": column(line, "depth"), "y": column(line, "predicted"),
        "line": {"color": BOTH[LOOK[key(line)][0]], "dash": "dot", "width": 1.2},
    }  # fmt: skip


def trace(line: Mapping[str, Any]) -> dict[str, Any]:
    color, symbol, _ = LOOK[key(line)]
    told = f"{line['dtype']}, {line['kind']}, cond {line['cond']:,.0f}"
    return {
        "type": "scatter", "mode": "markers", "name": told,
        "x": column(line, "depth"), "y": column(line, "error"), "customdata": column(line, "predicted"),
        "marker": {"symbol": symbol, "size": 8, "color": BOTH[color], "line": {"color": BOTH[color], "width": 1.5}},
        "hovertemplate": f"{told}<br>%{{x}} layers<br>error %{{y:.1e}}<br>predicted %{{customdata:.1e}}<extra></extra>",
    }  # fmt: skip


def still(data: Mapping[str, Any], theme: str) -> str:
    """The chart as SVG text, labels beside the lines."""
    with canvas(theme) as (figure, axes, color):
        for line in data["lines"]:
            tint, _, marker = LOOK[key(line)]
            axes.plot(*points(line, "error"), ls="none", marker=marker, ms=4.5, color=color[tint])
            axes.plot(*points(line, "predicted"), color=color[tint], ls=":", lw=1.2)
        for text, x, y, tint in labels(data):
            axes.text(x, y, text, color=color[tint], ha="left", va="center")
        axes.set(xscale="log", yscale="log", xlabel=X_LABEL, ylabel=Y_LABEL)
        axes.set(xlim=[10.0**x for x in X_RANGE], ylim=[10.0**y for y in Y_RANGE])
        axes.set_xticks(TICKS, [str(n) for n in TICKS])
        axes.set_yticks([10.0**y for y in range(-16, -3, 4)])
        return to_svg(figure, theme)


def points(line: Mapping[str, Any], name: str) -> tuple[Sequence[float], Sequence[float]]:
    return column(line, "depth"), column(line, name)
