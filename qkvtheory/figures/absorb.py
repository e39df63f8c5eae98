"""How near an MLP comes to absorbing its skip: the error of the trained student, step after step, and of the best maps.

All functions take the stored result of ``qkvtheory.experiments.absorb``.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import log10
from statistics import median
from typing import Any

from qkvtheory.figures.style import BOTH, canvas, label, layout, log_axis, to_svg

LOOK = {  # plotly marker, matplotlib marker
    64: ("circle", "o"),
    128: ("square", "s"),
    256: ("diamond", "D"),
    512: ("triangle-up", "^"),
    768: ("triangle-down", "v"),
}
MAPS = {"linear": ("fail", "best linear map"), "affine": ("rank", "best affine map")}
DASHES = {"linear": "--", "affine": "-."}
BANDS = {"linear": "published: linear", "student": "published: trained"}
X_LABEL, Y_LABEL = "training steps", "relative error per token"
X_RANGE, Y_RANGE = (2.0, 4.75), (-1.5, 0.1)
X_TICKS, Y_TICKS = (100, 1000, 10000), (0.04, 0.05, 0.08, 0.1, 0.2, 0.5, 1)
GAP = 10**0.05
LEGEND = {"x": 1, "xanchor": "right", "y": 1, "yanchor": "top", "bgcolor": "rgba(0,0,0,0)"}


def column(run: Mapping[str, Any], name: str) -> list[float]:
    return [point[name] for point in run["curve"]]


def levels(data: Mapping[str, Any]) -> dict[str, float]:
    """The error of the best linear and of the best affine map: the median over the widths, which hardly differ."""
    return {name: median(run[name]["error"] for run in data["runs"]) for name in MAPS}


def labels(data: Mapping[str, Any]) -> list[tuple[str, float, float, str]]:
    """The words inside the chart, beside the bands: text, place, color. Lines end close together and have a legend."""
    left = 10 ** X_RANGE[0] * GAP
    return [(text, left, (band(data, name)[0] * band(data, name)[1]) ** 0.5, "muted") for name, text in BANDS.items()]


def band(data: Mapping[str, Any], name: str) -> list[float]:
    return list(data["published"][name]["error"])


def percent(x: float) -> str:
    return f"{100 * x:.1f}%"


def alt(data: Mapping[str, Any]) -> str:
    """The chart in words."""
    ends = ", ".join(
        f"{percent(r['student']['error'])} at width {r['h']} after {r['steps']:,} steps" for r in data["runs"]
    )
    (low, high), (worse, worst) = band(data, "student"), band(data, "linear")
    level = levels(data)
    return (
        "Relative error per token of a GELU MLP without skip, trained to be an MLP with a basis-transformed skip, "
        f"against the training steps, both on log scales, one falling line for each width. They end at {ends}. Dashed "
        f"lines mark the best linear map at {percent(level['linear'])} and the best affine map at "
        f"{percent(level['affine'])}, which hardly depend on the width. Shaded bands mark what is published for widths "
        f"256, 512 and 768: {low:.0%} to {high:.0%} for the trained MLP, {worse:.0%} to {worst:.0%} for the linear map."
    )


def interactive(data: Mapping[str, Any]) -> dict[str, Any]:
    """The chart as plotly data; hover shows the numbers."""
    x = log_axis(X_LABEL, *X_RANGE, 1) | {"tickvals": list(X_TICKS), "ticktext": [f"{n:,}" for n in X_TICKS]}
    y = log_axis(Y_LABEL, *Y_RANGE, 1) | {"tickvals": list(Y_TICKS), "ticktext": [f"{t:.0%}" for t in Y_TICKS]}
    names = [label(text, log10(x), log10(y), yanchor="middle") for text, x, y, _ in labels(data)]
    shapes = [shaded(band(data, name)) for name in BANDS]
    drawn = [dashed(name, level) for name, level in levels(data).items()] + [trace(run) for run in data["runs"]]
    return {"data": drawn, "layout": layout(x, y, 12, annotations=names, shapes=shapes, showlegend=True, legend=LEGEND)}


def shaded(ends: list[float]) -> dict[str, Any]:
    return {
        "type": "rect", "xref": "paper", "x0": 0, "x1": 1, "y0": ends[0], "y1": ends[1],
        "fillcolor": BOTH["muted"], "opacity": 0.22, "line": {"width": 0}, "layer": "below",
    }  # fmt: skip


def dashed(name: str, level: float) -> dict[str, Any]:
    tint, told = MAPS[name]
    return {
        "type": "scatter", "mode": "lines", "name": told, "x": [10.0**x for x in X_RANGE], "y": [level, level],
        "line": {"color": BOTH[tint], "dash": {"--": "dash", "-.": "dashdot"}[DASHES[name]], "width": 1.4},
        "hovertemplate": f"{told} %{{y:.1%}}<extra></extra>",
    }  # fmt: skip


def trace(run: Mapping[str, Any]) -> dict[str, Any]:
    told = f"h = {run['h']}"
    return {
        "type": "scatter", "mode": "lines+markers", "name": told,
        "x": column(run, "step"), "y": column(run, "error"), "customdata": column(run, "cosine"),
        "line": {"color": BOTH["link"], "width": 1.2},
        "marker": {"symbol": LOOK[run["h"]][0], "size": 7, "color": BOTH["link"]},
        "hovertemplate": f"{told}, step %{{x:,}}<br>error %{{y:.1%}}, cosine %{{customdata:.4f}}<extra></extra>",
    }  # fmt: skip


def still(data: Mapping[str, Any], theme: str) -> str:
    """The chart as SVG text, labels beside the lines."""
    with canvas(theme) as (figure, axes, color):
        for name in BANDS:
            axes.axhspan(*band(data, name), color=color["muted"], alpha=0.22, lw=0)
        for name, level in levels(data).items():
            axes.axhline(level, color=color[MAPS[name][0]], ls=DASHES[name], lw=1.3, label=MAPS[name][1])
        for run in data["runs"]:
            curve = column(run, "step"), column(run, "error")
            axes.plot(*curve, marker=LOOK[run["h"]][1], ms=4, lw=1.1, color=color["link"], label=f"h = {run['h']}")
        for text, x, y, tint in labels(data):
            axes.text(x, y, text, color=color[tint], ha="left", va="center")
        axes.set(xscale="log", yscale="log", xlabel=X_LABEL, ylabel=Y_LABEL)
        axes.set(xlim=[10.0**x for x in X_RANGE], ylim=[10.0**y for y in Y_RANGE])
        axes.set_xticks(X_TICKS, [f"{n:,}" for n in X_TICKS])
        axes.set_yticks(Y_TICKS, [f"{t:.0%}" for t in Y_TICKS])
        axes.minorticks_off()
        axes.legend(loc="upper right", fontsize=9)
        return to_svg(figure, theme)
