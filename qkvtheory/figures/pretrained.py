"""A trained encoder: how well conditioned its projections are, and what rounding does to the lemma there.

All functions take the stored result of ``qkvtheory.experiments.pretrained``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import log10
from typing import Any

from qkvtheory.figures.style import BOTH, canvas, label, layout, spoken, to_svg

LETTERS = {"Q": ("q", "circle", "o", -0.2), "K": ("k", "square", "s", 0.0), "V": ("v", "triangle-up", "^", 0.2)}
DTYPES = ("float64", "float32")
COND_RANGE, ERROR_RANGE = (2.8, 5.2), (-14.5, -1.5)  # powers of ten
ERROR_TICKS = range(-12, 0, 3)
BARS = "eps × cond"
LEGEND = {"orientation": "h", "xref": "container", "yref": "container", "x": 0, "y": 0, "yanchor": "bottom"}
COND_LABEL, ERROR_LABEL = "condition number", "relative error"


def column(data: Mapping[str, Any], letter: str, key: str) -> list[float]:
    """One number for every layer."""
    return [layer[letter][key] for layer in data["layers"]]


def predicted(data: Mapping[str, Any], letter: str, dtype: str) -> list[float]:
    """eps * cond, layer by layer: the stored tolerance without its slack."""
    return [tolerance / data["setting"]["slack"] for tolerance in column(data, letter, f"{dtype}_tolerance")]


def places(data: Mapping[str, Any], letter: str) -> list[float]:
    """Layers are counted from 1; Q, K and V stand side by side."""
    return [layer + LETTERS[letter][3] for layer in range(1, len(data["layers"]) + 1)]


def name_height(data: Mapping[str, Any], dtype: str) -> float:
    """Where a precision's name stands, as a power of ten: in the middle of the last layer's errors."""
    return sum(log10(data["layers"][-1][letter][dtype]) for letter in LETTERS) / len(LETTERS)


def alt(data: Mapping[str, Any]) -> str:
    """The chart in words."""
    s = data["summary"]
    low, high = (spoken(s["cond"][end]) for end in ("min", "max"))
    worst = {dtype: s[f"{dtype}_per_eps_cond"]["max"] for dtype in DTYPES}
    return (
        f"Two panels over the {len(data['layers'])} layers of a trained encoder. Above: condition numbers of "
        f"the query, key and value matrices, all between {low} and {high}. "
        "Below: relative errors of the rewritten sublayers, in "
        f"float64 from {spoken(s['float64']['min'])} to {spoken(s['float64']['max'])}, in float32 from "
        f"{spoken(s['float32']['min'])} to {spoken(s['float32']['max'])}. "
        "A short bar marks eps times the condition number; the errors reach at most "
        f"{spoken(worst['float64'])} of it in float64 and {spoken(worst['float32'])} in float32."
    )


def interactive(data: Mapping[str, Any]) -> dict[str, Any]:
    """The chart as plotly data: two panels over one axis of layers."""
    shared = {"type": "log", "exponentformat": "power", "showline": True, "zeroline": False, "automargin": True}
    error, cond, layer = ({"text": text, "standoff": 5} for text in (ERROR_LABEL, COND_LABEL, "layer"))
    below = {**shared, "title": error, "domain": [0, 0.56], "range": list(ERROR_RANGE), "dtick": 3}
    above = {**shared, "title": cond, "domain": [0.64, 1], "range": list(COND_RANGE), "dtick": 1}
    ends = [0.5, len(data["layers"]) + 0.5]
    x = {"title": layer, "dtick": 1, "range": ends, "anchor": "y2", "zeroline": False, "automargin": True}
    names = [label(dtype, 1.01, name_height(data, dtype), xref="paper", yref="y2") for dtype in DTYPES]
    more = {"yaxis2": below, "annotations": names, "showlegend": True, "legend": LEGEND}
    return {"data": list(traces(data)), "layout": layout(x, above, right=54, **more)}


def traces(data: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for letter, (tint, symbol, _, _) in LETTERS.items():
        common = {"type": "scatter", "mode": "markers", "x": places(data, letter), "legendgroup": letter}
        marker = {"symbol": symbol, "size": 9, "color": BOTH[tint]}
        hover = f"W<sub>{letter}</sub>, layer %{{customdata}}<br>"
        layers = list(range(1, len(data["layers"]) + 1))
        yield {
            **common, "y": column(data, letter, "cond"), "name": f"W<sub>{letter}</sub>", "marker": marker,
            "customdata": layers, "hovertemplate": f"{hover}condition number %{{y:.2e}}<extra></extra>",
        }  # fmt: skip
        for dtype in DTYPES:
            yield {
                **common, "y": column(data, letter, dtype), "yaxis": "y2", "name": f"{letter}, {dtype}",
                "showlegend": False, "marker": marker, "customdata": layers,
                "hovertemplate": f"{hover}{dtype}: error %{{y:.1e}}<extra></extra>",
            }  # fmt: skip
            bar = {"symbol": "line-ew", "size": 12, "line": {"color": BOTH["muted"], "width": 2}}
            yield {
                **common, "y": predicted(data, letter, dtype), "yaxis": "y2", "name": BARS, "marker": bar,
                "legendgroup": "bar", "showlegend": (letter, dtype) == ("V", DTYPES[-1]), "customdata": layers,
                "hovertemplate": f"{hover}{dtype}: {BARS} %{{y:.1e}}<extra></extra>",
            }  # fmt: skip


def still(data: Mapping[str, Any], theme: str) -> str:
    """The chart as SVG text."""
    with canvas(theme, height=5.4, nrows=2, sharex=True, height_ratios=(2, 3)) as (figure, (above, below), color):
        for letter, (tint, _, marker, _) in LETTERS.items():
            look = {"ls": "none", "marker": marker, "ms": 5, "color": color[tint]}
            above.plot(places(data, letter), column(data, letter, "cond"), label=f"$W_{letter}$", **look)
            for dtype in DTYPES:
                below.plot(places(data, letter), column(data, letter, dtype), **look)
                bars = {"ls": "none", "marker": "_", "ms": 8, "mew": 1.5, "color": color["muted"]}
                drawn = below.plot(places(data, letter), predicted(data, letter, dtype), **bars)
        above.set(yscale="log", ylabel=COND_LABEL, ylim=[10.0**e for e in COND_RANGE])
        below.set(yscale="log", ylabel=ERROR_LABEL, ylim=[10.0**e for e in ERROR_RANGE], xlabel="layer")
        below.set_yticks([10.0**e for e in ERROR_TICKS])
        drawn[0].set_label(BARS)
        figure.legend(loc="outside lower center", ncols=4, handletextpad=0.1, borderpad=0.4)
        for dtype in DTYPES:
            below.text(len(data["layers"]) + 0.5, 10.0 ** name_height(data, dtype), dtype, va="center")
        return to_svg(figure, theme)
