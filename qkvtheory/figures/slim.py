"""Slim attention in low precision: what rounding the cached keys does to the values that are rebuilt from them.

All functions take the stored result of ``qkvtheory.experiments.slim``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log10
from typing import Any

from qkvtheory.figures.style import BOTH, canvas, label, layout, log_axis, spoken, to_svg

LOOK = {  # color, plotly marker, matplotlib marker
    "bfloat16": ("pass", "triangle-up", "^"),
    "float16": ("link", "circle", "o"),
    "float32": ("rank", "square", "s"),
    "values": ("muted", "line-ew-open", "_"),
}
KINDS = {"gaussian": "Gaussian", "prescribed": "prescribed spectrum"}
X_LABEL, Y_LABEL = "spread of the singular values of W_K", "relative error of the values"
X_RANGE, Y_RANGE = (-0.2, 4.1), (-8.3, 0.7)


def rows(line: Mapping[str, Any], *kinds: str) -> list[Mapping[str, Any]]:
    """All measurements of one precision, by spread."""
    return sorted((row for kind in kinds or KINDS for row in line[kind]), key=lambda row: row["spread"])


def prediction(line: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """The line c * u * spread of one precision, from spread 1 to where it was measured."""
    ends = [1.0, rows(line)[-1]["spread"]]
    return ends, [line["constant"] * line["unit"] * x for x in ends]


def alt(data: Mapping[str, Any]) -> str:
    """The chart in words."""
    ends = []
    for line in data["dtypes"]:
        last = rows(line)[-1]
        ends.append(f"{line['dtype']} from {spoken(rows(line)[0]['keys'])} to {spoken(last['keys'])}")
    wide = data["dtypes"][0]["gaussian"][-1]
    return (
        "Relative error of values rebuilt from cached keys against the spread of the singular values of W_K, both on "
        f"log scales, one straight line for each precision of the cache: {', '.join(ends)}. Values that are cached "
        "themselves stay where these lines start, whatever the spread. Gaussian weights and weights with a prescribed "
        f"spectrum lie on the same lines. At width {wide['width']} a Gaussian W_K gives "
        f"{spoken(wide['keys'])} in {data['dtypes'][0]['dtype']}, where values cached themselves are off by "
        f"{spoken(wide['values'])}."
    )


def interactive(data: Mapping[str, Any]) -> dict[str, Any]:
    """The chart as plotly data; hover shows the numbers."""
    traces = []
    for line in data["dtypes"]:
        x, y = prediction(line)
        color = BOTH[LOOK[line["dtype"]][0]]
        dotted = {"color": color, "dash": "dot", "width": 1.2}
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "x": x,
                "y": y,
                "line": dotted,
                "hoverinfo": "skip",
                "name": "c × u × spread",
            }
        )
        traces += [trace(line, kind) for kind in KINDS]
        traces.append(plain(line))
    axes = log_axis(X_LABEL, *X_RANGE, 1), log_axis(Y_LABEL, *Y_RANGE, 2)
    names = [label(text, log10(x), log10(y)) for text, x, y, _ in labels(data)]
    return {"data": traces, "layout": layout(*axes, right=16, annotations=names)}


def trace(line: Mapping[str, Any], kind: str) -> dict[str, Any]:
    color, symbol, _ = LOOK[line["dtype"]]
    filled = "" if kind == "gaussian" else "-open"
    return {
        "type": "scatter", "mode": "markers", "name": f"{line['dtype']}, {KINDS[kind]}",
        "x": [row["spread"] for row in line[kind]], "y": [row["keys"] for row in line[kind]],
        "customdata": [[row["width"], row["cond"], row["per_u_cond"], row["worst"]] for row in line[kind]],
        "marker": marker(symbol + filled, BOTH[color]),
        "hovertemplate": f"{line['dtype']}, {KINDS[kind]}, width %{{customdata[0]}}<br>error %{{y:.1e}}, at worst "
        "%{customdata[3]:.1e}<br>cond %{customdata[1]:.1e}, spread %{x:.1f}<br>error / (u × cond) %{customdata[2]:.2g}"
        "<extra></extra>",
    }  # fmt: skip


def marker(symbol: str, color: str) -> dict[str, Any]:
    return {"symbol": symbol, "size": 8, "color": color, "line": {"color": color, "width": 1.5}}


def plain(line: Mapping[str, Any]) -> dict[str, Any]:
    """Values cached themselves."""
    found = rows(line)
    return {
        "type": "scatter", "mode": "markers", "name": f"{line['dtype']}, values cached",
        "x": [row["spread"] for row in found], "y": [row["values"] for row in found],
        "marker": marker(LOOK["values"][1], BOTH["muted"]),
        "hovertemplate": f"{line['dtype']}, values cached<br>error %{{y:.1e}}<extra></extra>",
    }  # fmt: skip


def still(data: Mapping[str, Any], theme: str) -> str:
    """The chart as SVG text, labels beside the lines."""
    with canvas(theme) as (figure, axes, color):
        for line in data["dtypes"]:
            tint, _, marker = LOOK[line["dtype"]]
            axes.plot(*prediction(line), color=color[tint], ls=":", lw=1.2)
            for kind in KINDS:
                hollow = {} if kind == "gaussian" else {"mfc": "none"}
                axes.plot(*points(line[kind], "keys"), marker=marker, ms=4.5, ls="none", color=color[tint], **hollow)
            axes.plot(*points(rows(line), "values"), marker=LOOK["values"][2], ms=5, ls="none", color=color["muted"])
        for text, x, y, tint in labels(data):
            axes.text(x, y, text, color=color[tint], ha="left", va="center")
        axes.set(xscale="log", yscale="log", xlabel=X_LABEL, ylabel=Y_LABEL)
        axes.set(xlim=[10.0**x for x in X_RANGE], ylim=[10.0**y for y in Y_RANGE])
        axes.set_xticks([10.0**x for x in range(4)])
        axes.set_yticks([10.0**y for y in range(-8, 1, 2)])
        return to_svg(figure, theme)


GAP = 10**0.12


def labels(data: Mapping[str, Any]) -> list[tuple[str, float, float, str]]:
    """The names beside the lines: text, place, color."""
    found = []
    for line in data["dtypes"]:
        last = rows(line)[-1]
        found += [
            (line["dtype"], GAP * last["spread"], last["keys"], LOOK[line["dtype"]][0]),
            ("values cached", GAP * last["spread"], last["values"], LOOK["values"][0]),
        ]
    return found


def points(found: Sequence[Mapping[str, float]], name: str) -> tuple[list[float], list[float]]:
    return [row["spread"] for row in found], [row[name] for row in found]
