"""The error ladder: what rounding does to a rewritten sublayer, against what a mistake does.

All functions take the stored result of ``qkvtheory.experiments.ladder``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log10
from typing import Any

from qkvtheory.figures.style import BOTH, canvas, label, layout, log_axis, spoken, to_svg

DECIDES = 1e4  # the numeric lane decides up to this condition number
LOOK = {  # color, plotly marker, matplotlib marker
    "float64": ("link", "circle", "o"),
    "float32": ("rank", "square", "s"),
    "bfloat16": ("pass", "triangle-up", "^"),
    "forgotten": ("fail", "x-thin", "x"),
    "bug": ("fail", "diamond-open", "d"),
}
NAMES = {"forgotten": "inverse<br>forgotten", "bug": "0.1 % bug"}
X_LABEL, Y_LABEL = "condition number of the inverted matrix", "relative error"
X_RANGE, Y_RANGE = (-0.4, 12.4), (-16.6, 3.9)


def series(data: Mapping[str, Any]) -> dict[str, Sequence[Mapping[str, float]]]:
    """What is drawn: one line per precision, and the two mistakes as float64 sees them."""
    lines = {name: sorted(part["rungs"], key=lambda row: row["cond"]) for name, part in data["dtypes"].items()}
    exact = lines["float64"]
    return lines | {name: [{**row, "error": row[name]} for row in exact] for name in NAMES}


def prediction(data: Mapping[str, Any], name: str) -> tuple[list[float], list[float]]:
    """The line c * eps * cond of one precision, from cond 1 to where it was measured."""
    part = data["dtypes"][name]
    ends = [1.0, max(row["cond"] for row in part["rungs"])]
    return ends, [part["constant"] * part["eps"] * x for x in ends]


def zone(data: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """Corners of the region the numeric lane accepts: float64, cond up to 1e4, error up to slack * eps * cond."""
    per_cond = data["setting"]["slack"] * data["dtypes"]["float64"]["eps"]
    return [1.0, 1.0, DECIDES, DECIDES], [10.0 ** Y_RANGE[0], per_cond, per_cond * DECIDES, 10.0 ** Y_RANGE[0]]


def alt(data: Mapping[str, Any]) -> str:
    """The chart in words."""
    f64, f32 = data["dtypes"]["float64"], data["dtypes"]["float32"]
    first, last = f64["rungs"][0], f64["rungs"][-1]
    bugs = [row["bug"] for row in f64["rungs"]]
    bfloat16 = data["dtypes"].get("bfloat16")
    start = f", in bfloat16 from {spoken(bfloat16['rungs'][0]['error'])}" if bfloat16 else ""
    return (
        "Relative error of a rewritten attention sublayer against the condition number of the inverted matrix, both on "
        f"log scales. In float64 it climbs in a straight line from {spoken(first['error'])} at condition number 1 to "
        f"{spoken(last['error'])} at {spoken(last['cond'])}, in float32 from "
        f"{spoken(f32['rungs'][0]['error'])}{start}. "
        f"A forgotten inverse never falls below {spoken(min(row['forgotten'] for row in f64['rungs']))}, and a bug of "
        f"0.1 % in one column lies flat near {spoken(sorted(bugs)[len(bugs) // 2])}. "
        "Up to condition number 10,000 a shaded zone far below both marks what the numeric check accepts in float64."
    )


def interactive(data: Mapping[str, Any]) -> dict[str, Any]:
    """The chart as plotly data; hover shows the numbers."""
    lines = [trace(name, rows) for name, rows in series(data).items()]
    predictions = [dotted(*prediction(data, name), BOTH[LOOK[name][0]]) for name in data["dtypes"]]
    x, y = zone(data)
    shaded = {
        "x": x, "y": y, "type": "scatter", "mode": "lines", "fill": "toself", "fillcolor": "rgba(47,145,86,0.18)",
        "line": {"color": BOTH["pass"], "width": 1}, "hoverinfo": "skip", "name": "the numeric check accepts",
    }  # fmt: skip
    axes = log_axis(X_LABEL, *X_RANGE, 2), log_axis(Y_LABEL, *Y_RANGE, 4)
    names = [label(text, log10(x), log10(y), side, yanchor=rise) for text, x, y, _, side, rise in labels(data)]
    return {"data": [shaded, *predictions, *lines], "layout": layout(*axes, right=58, annotations=names)}


def dotted(x: Sequence[float], y: Sequence[float], color: str) -> dict[str, Any]:
    return {
        "type": "scatter", "mode": "lines", "name": "c × eps × cond", "hoverinfo": "skip",
        "x": list(x), "y": list(y), "line": {"color": color, "dash": "dot", "width": 1.2},
    }  # fmt: skip


def trace(name: str, rows: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    color, symbol, _ = LOOK[name]
    mode = "lines+markers" if name in NAMES else "markers"
    ratio = "" if name in NAMES else "<br>error / (eps × cond) %{customdata:.2g}"
    told = NAMES.get(name, name).replace("<br>", " ")
    return {
        "type": "scatter", "mode": mode, "name": told,
        "x": [row["cond"] for row in rows], "y": [row["error"] for row in rows],
        "customdata": [row["per_eps_cond"] for row in rows],
        "marker": {"symbol": symbol, "size": 8, "color": BOTH[color], "line": {"color": BOTH[color], "width": 1.5}},
        "line": {"color": BOTH[color], "width": 1, "dash": "dash"},
        "hovertemplate": f"{told}<br>cond %{{x:.1e}}<br>error %{{y:.1e}}{ratio}<extra></extra>",
    }  # fmt: skip


def still(data: Mapping[str, Any], theme: str) -> str:
    """The chart as SVG text, labels beside the lines."""
    with canvas(theme) as (figure, axes, color):
        axes.fill(*zone(data), color=color["pass"], alpha=0.16, lw=0)
        for name, rows in series(data).items():
            tint, _, marker = LOOK[name]
            style = {"ls": "--", "lw": 0.8} if name in NAMES else {"ls": "none"}
            hollow = {"mfc": "none"} if name in NAMES else {}
            axes.plot(*points(rows), marker=marker, ms=4.5, color=color[tint], **hollow, **style)
            if name in data["dtypes"]:
                axes.plot(*prediction(data, name), color=color[tint], ls=":", lw=1.2)
        for text, x, y, tint, side, rise in labels(data):
            height = rise.replace("middle", "center")  # plotly's word and matplotlib's
            axes.text(x, y, text.replace("<br>", "\n"), color=color[tint], ha=side, va=height)
        axes.set(xscale="log", yscale="log", xlabel=X_LABEL, ylabel=Y_LABEL)
        axes.set(xlim=[10.0**x for x in X_RANGE], ylim=[10.0**y for y in Y_RANGE])
        axes.set_xticks([10.0**x for x in range(0, 13, 2)])
        axes.set_yticks([10.0**y for y in range(-16, 4, 4)])
        return to_svg(figure, theme)


# A line's name stands at its right end: beside its last point, or over or under it where two lines end close together.
RISE = {"float64": "top", "float32": "middle", "bfloat16": "bottom", "forgotten": "middle", "bug": "bottom"}
GAP = 10**0.35


def labels(data: Mapping[str, Any]) -> list[tuple[str, float, float, str, str, str]]:
    """All words inside the chart: text, place, color, and which side and height of the text stand at the place."""
    ends = {name: rows[-1] for name, rows in series(data).items()}
    lines = [
        (NAMES.get(name, name), GAP * end["cond"], end["error"], LOOK[name][0], "left", RISE[name])
        for name, end in ends.items()
    ]
    zone_name = ("the numeric<br>check accepts", 1.1, 1e-9, "pass", "left", "middle")
    return [*lines, zone_name, ("dotted: c × eps × cond", 2e12, 1e-14, "muted", "right", "middle")]


def points(rows: Sequence[Mapping[str, float]]) -> tuple[list[float], list[float]]:
    return [row["cond"] for row in rows], [row["error"] for row in rows]
