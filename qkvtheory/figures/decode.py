"""Decoding: the time of a token against the context, and how much of a smaller cache arrives as speed.

All functions take the stored result of ``python -m qkvtheory decode --measure``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log10
from typing import Any

from qkvtheory.figures.style import BOTH, canvas, label, layout, log_axis, spoken, to_svg

# One color for each number of key heads; filled where keys and values are two, hollow where they are one.
LOOK = {  # color, plotly marker, matplotlib marker, hollow
    "QKV": ("q", "circle", "o", False),
    "slim": ("fail", "x-thin", "x", False),
    "Q-K=V": ("q", "circle", "o", True),
    "GQA-4": ("rank", "square", "s", False),
    "Q-GQA-4": ("rank", "square", "s", True),
    "MQA": ("pass", "diamond", "D", False),
    "Q-MQA": ("pass", "diamond", "D", True),
}
OTHER = ("muted", "triangle-up", "^", False)
TIME, CONTEXT = "milliseconds per token", "tokens in the cache"
SPEED, SHARE = "speed, QKV = 1", "cache that stays, QKV = 100%"
BARS = "if time were bytes read"
MARGIN = 0.12  # of an axis, in powers of ten, beyond the outer points
NEAREST = 11  # names fit one above the other in the upper panel

Row = Mapping[str, Any]


def lines(data: Mapping[str, Any]) -> dict[str, list[Row]]:
    """The rows of each variant, by context."""
    found: dict[str, list[Row]] = {}
    for row in sorted(data["runs"], key=lambda row: row["context"]):
        found.setdefault(row["model"], []).append(row)
    return found


def longest(data: Mapping[str, Any]) -> list[Row]:
    """The row of each variant at the longest context, QKV first."""
    return [rows[-1] for rows in lines(data).values()]


def milliseconds(rows: Sequence[Row]) -> list[float]:
    return [1e3 * row["seconds_per_token"] for row in rows]


def share(data: Mapping[str, Any], row: Row) -> float:
    """Bytes of the cache over those of QKV at the same context."""
    return row["cache_bytes"] / longest(data)[0]["cache_bytes"]


def by_bytes(data: Mapping[str, Any], row: Row) -> float:
    """The speed if a step took as long as its bytes take to read: all weights once, and the cache once."""
    qkv = longest(data)[0]
    return (qkv["weight_bytes"] + qkv["cache_bytes"]) / (row["weight_bytes"] + row["cache_bytes"])


def look(name: str) -> tuple[str, str, str, bool]:
    return LOOK.get(name, OTHER)


def reach(values: Sequence[float], low: float = MARGIN, high: float = MARGIN) -> tuple[float, float]:
    """An axis that holds these values, as exponents of ten."""
    return log10(min(values)) - low, log10(max(values)) + high


def ranges(data: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Exponents of ten where each axis begins and ends. The shares fall from left to right."""
    rows, last = [row for rows in lines(data).values() for row in rows], longest(data)
    shares = reach([share(data, row) for row in last], 0.2, 0.2)
    return {
        "context": reach([row["context"] for row in rows]),
        "time": reach(milliseconds(rows)),
        "share": shares[::-1],
        "speed": reach([f for row in last for f in (row["ratio_to_qkv"], by_bytes(data, row))], 0.45, 0.15),
    }


def names(data: Mapping[str, Any]) -> list[tuple[str, float]]:
    """The names beside the lines: text, and its height as an exponent of ten, moved apart where lines come close."""
    ends = sorted((log10(1e3 * row["seconds_per_token"]), row["model"]) for row in longest(data))
    low, high = ranges(data)["time"]
    return list(zip([name for _, name in ends], apart([y for y, _ in ends], (high - low) / NEAREST), strict=True))


def apart(heights: Sequence[float], gap: float) -> list[float]:
    """Rising heights, pushed apart from both sides until neighbors are about ``gap`` from each other.

    >>> [round(y, 2) for y in apart([0.0, 3.0, 3.0], 1.0)]
    [0.0, 2.5, 3.5]
    """
    moved = list(heights)
    for _ in range(200):
        for i in range(len(moved) - 1):
            lacking = max(0.0, gap - (moved[i + 1] - moved[i])) / 2
            moved[i], moved[i + 1] = moved[i] - lacking, moved[i + 1] + lacking
    return moved


def percent(x: float) -> str:
    """
    >>> percent(1), percent(0.0625), percent(0.03125)
    ('100%', '6.25%', '3.125%')
    """
    return f"{100 * x:.4g}%"


def counted(number: int) -> str:
    """
    >>> counted(512), counted(32768)
    ('512', '32k')
    """
    return str(number) if number % 1024 or number < 1024 else f"{number // 1024}k"


def ticks(data: Mapping[str, Any]) -> tuple[list[int], list[float]]:
    """Contexts and shares to name on the axes."""
    contexts = sorted({row["context"] for row in data["runs"]})
    return contexts, sorted({share(data, row) for row in longest(data)})


def times(exponents: tuple[float, float]) -> list[float]:
    """1, 2, 5, 10, ... inside an axis.

    >>> times((0.2, 1.4))
    [2, 5, 10, 20]
    """
    inside = [m * 10.0**e for e in range(-4, 7) for m in (1, 2, 5)]
    return [int(x) if x >= 1 else x for x in inside if exponents[0] <= log10(x) <= exponents[1]]


def where(data: Mapping[str, Any]) -> str:
    return "one processor core" if data["setting"]["device"] == "cpu" else data["provenance"]["machine"]


def alt(data: Mapping[str, Any]) -> str:
    """The chart in words."""
    last, s = longest(data), data["setting"]
    first = lines(data)["QKV"][0]
    told = [
        f"{row['model']} {spoken(row['ratio_to_qkv'])} with {percent(share(data, row))} of the cache (by bytes "
        f"{spoken(by_bytes(data, row))})"
        for row in last[1:]
    ]
    return (
        f"Two panels, measured on {where(data)} in {s['dtype']}, {s['layers']} layers of width {s['d']}, "
        f"{s['heads']} heads. Above, milliseconds per token against tokens in the cache, log scales: QKV goes from "
        f"{spoken(milliseconds([first])[0])} at {first['context']} tokens to {spoken(milliseconds(last[:1])[0])} at "
        f"{last[0]['context']}. Below, speed at the longest context, QKV being 1: {', '.join(told)}."
    )


def interactive(data: Mapping[str, Any]) -> dict[str, Any]:
    """The chart as plotly data; hover shows the numbers."""
    reaches, (contexts, shares) = ranges(data), ticks(data)
    x = log_axis(CONTEXT, *reaches["context"], 1) | {"tickvals": contexts, "ticktext": [counted(n) for n in contexts]}
    y = ticked(TIME, reaches["time"]) | {"domain": [0.54, 1]}
    x2 = log_axis(SHARE, *reaches["share"], 1) | {"tickvals": shares, "ticktext": [percent(s) for s in shares]}
    y2 = ticked(SPEED, reaches["speed"]) | {"domain": [0, 0.4], "anchor": "x2"}
    beside = [label(text, 1.01, height, xref="paper", yanchor="middle") for text, height in names(data)]
    under = [
        label(row["model"], log10(share(data, row)), log10(row["ratio_to_qkv"]), "center", xref="x2", yref="y2",
              yanchor="top", yshift=-5, font={"size": 10})
        for row in longest(data)
    ]  # fmt: skip
    said = label(f"bars: {BARS}", 0.02, 0.99, xref="x2 domain", yref="y2 domain", yanchor="top")
    more = {"xaxis2": x2 | {"anchor": "y2"}, "yaxis2": y2, "annotations": [*beside, *under, said]}
    drawn = (
        [trace(name, rows) for name, rows in lines(data).items()] + bars(data) + [speed(data, r) for r in longest(data)]
    )
    return {"data": drawn, "layout": layout(x | {"anchor": "y"}, y, right=56, **more)}


def ticked(title: str, exponents: tuple[float, float]) -> dict[str, Any]:
    found = times(exponents)
    return log_axis(title, *exponents, 1) | {"tickvals": found, "ticktext": [f"{x:g}" for x in found]}


def marker(name: str) -> dict[str, Any]:
    color, symbol, _, hollow = look(name)
    line = {"color": BOTH[color], "width": 1.8}
    return {"symbol": symbol + "-open" * hollow, "size": 8, "color": BOTH[color], "line": line}


def trace(name: str, rows: Sequence[Row]) -> dict[str, Any]:
    return {
        "type": "scatter", "mode": "lines+markers", "name": name, "marker": marker(name),
        "line": {"color": BOTH[look(name)[0]], "width": 1.2},
        "x": [row["context"] for row in rows], "y": milliseconds(rows),
        "customdata": [[row["tokens_per_second"], row["ratio_to_qkv"], row["cache_bytes"] / 1e6] for row in rows],
        "hovertemplate": f"{name}, %{{x}} tokens in the cache<br>%{{y:.3g}} ms per token, %{{customdata[0]:.0f}} "
        "tokens/s<br>%{customdata[1]:.2f} times the speed of QKV<br>cache %{customdata[2]:.1f} MB<extra></extra>",
    }  # fmt: skip


def speed(data: Mapping[str, Any], row: Row) -> dict[str, Any]:
    return {
        "type": "scatter", "mode": "markers", "name": row["model"], "xaxis": "x2", "yaxis": "y2",
        "x": [share(data, row)], "y": [row["ratio_to_qkv"]], "marker": marker(row["model"]),
        "hovertemplate": f"{row['model']}: {percent(share(data, row))} of the cache, %{{y:.2f}} times the speed"
        "<extra></extra>",
    }  # fmt: skip


def bars(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    last = longest(data)
    return [{
        "type": "scatter", "mode": "markers", "name": BARS, "xaxis": "x2", "yaxis": "y2",
        "x": [share(data, row) for row in last], "y": [by_bytes(data, row) for row in last],
        "marker": {"symbol": "line-ew", "size": 14, "line": {"color": BOTH["muted"], "width": 2}},
        "hovertemplate": f"{BARS}: %{{y:.2f}}<extra></extra>",
    }]  # fmt: skip


def still(data: Mapping[str, Any], theme: str) -> str:
    """The chart as SVG text, names beside the lines and under the points."""
    reaches, (contexts, shares), last = ranges(data), ticks(data), longest(data)
    with canvas(theme, height=6.2, nrows=2, height_ratios=(5, 4)) as (figure, (above, below), color):
        for name, rows in lines(data).items():
            style = drawn_as(name, color)
            above.plot([row["context"] for row in rows], milliseconds(rows), lw=1.2, **style)
            end = rows[-1]
            below.plot([share(data, end)], [end["ratio_to_qkv"]], ls="none", **style)
            below.annotate(name, (share(data, end), end["ratio_to_qkv"]), (0, -6), textcoords="offset points",
                           ha="center", va="top", color=color[look(name)[0]], fontsize=9)  # fmt: skip
        below.plot([share(data, row) for row in last], [by_bytes(data, row) for row in last], ls="none", marker="_",
                   ms=12, mew=1.5, color=color["muted"])  # fmt: skip
        below.text(0.02, 0.98, f"bars: {BARS}", transform=below.transAxes, va="top", color=color["muted"], fontsize=9)
        right = 1.15 * 10.0 ** reaches["context"][1]
        for name, height in names(data):
            above.text(right, 10.0**height, name, color=color[look(name)[0]], va="center", fontsize=9)
        for axes, x, y in ((above, "context", "time"), (below, "share", "speed")):
            axes.set(xscale="log", yscale="log")
            axes.minorticks_off()
            axes.set(xlim=[10.0**e for e in reaches[x]], ylim=[10.0**e for e in reaches[y]])
            axes.set_yticks(times(reaches[y]), [f"{t:g}" for t in times(reaches[y])])
        above.set_xticks(contexts, [counted(n) for n in contexts])
        below.set_xticks(shares, [percent(s) for s in shares])
        above.set(xlabel=CONTEXT, ylabel=TIME)
        below.set(xlabel=SHARE, ylabel=SPEED)
        return to_svg(figure, theme)


def drawn_as(name: str, color: Mapping[str, str]) -> dict[str, Any]:
    tint, _, marker, hollow = look(name)
    return {"color": color[tint], "marker": marker, "ms": 5} | ({"mfc": "none"} if hollow else {})
