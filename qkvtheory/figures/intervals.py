"""What the charts of the trainings share: marks with 95% intervals, every seed beside them, and what others published.

A chart is described once, as panels of series of marks; ``interactive`` and ``still`` draw the same description. Means
and intervals are those of ``qkvtheory.evidence``. A mean over fewer than ``MINIMUM`` seeds is drawn without an
interval, since nothing is decided from it; a mean with a diverged run is not drawn at all.

    chart = Chart((rows_panel([row("MQA", by_seed(runs, "MQA"))], "loss", nats),))
    interactive(chart)    # plain data for plotly
    still(chart, "dark")  # SVG text
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from qkvtheory.evidence import MINIMUM, Metric, NoRuns, Paired, Run, Summary, by_seed, signed, summary
from qkvtheory.figures.style import BOTH, canvas, label, layout, to_svg

Show = Callable[[float], str]
LEGEND = {
    "orientation": "h", "xref": "container", "yref": "container", "x": 0, "y": 0, "yanchor": "bottom",
    "entrywidth": 0, "font": {"size": 10}, "tracegroupgap": 0,
}  # fmt: skip
OTHER = {"x": "y", "y": "x"}
DASHES = {"solid": "-", "dash": "--", "dot": ":"}  # plotly: matplotlib
SEEDS_AT, PRINTED_AT = 0.3, -0.3  # beside a mean, in rows
LARGER = {"*": 1.5}  # markers that matplotlib draws smaller than others
MARGIN = 0.06  # of an axis, beyond what is drawn


class Look(NamedTuple):
    """A color of the style, and the same marker for plotly and for matplotlib. What others published is hollow."""

    color: str
    symbol: str
    marker: str
    hollow: bool = False


LOOKS = {
    "QKV": Look("q", "circle", "o"),
    "Q-K=V": Look("k", "square", "s"),
    "Q-K=V wide": Look("k", "cross", "P"),
    "Q=K-V": Look("v", "triangle-up", "^"),
    "(Q=K-V)+": Look("v", "triangle-down", "v"),
    "Q=K=V": Look("fail", "diamond", "D"),
    "(Q=K=V)+": Look("fail", "star", "*"),
    "MQA": Look("rank", "triangle-left", "<"),
    "GQA-2": Look("rank", "triangle-right", ">"),
    "Q-MQA": Look("rank", "pentagon", "p"),
    "Q-GQA-2": Look("rank", "hexagon", "h"),
    "QV-Ka": Look("k", "x", "X"),
    "identity": Look("rank", "pentagon", "p"),
    "identity, half scale": Look("rank", "hexagon", "h"),
    "identity, larger MLP": Look("rank", "triangle-right", ">"),
    "QKV, smaller MLP": Look("q", "triangle-left", "<"),
}
SEED = Look("muted", "octagon", "8")
PAPER = Look("muted", "diamond-tall", "d", True)
RERUN = Look("muted", "square", "s", True)


def look(model: str) -> Look:
    """How a model is drawn; one without a look of its own is drawn like a variant of MQA."""
    return LOOKS.get(model, LOOKS["MQA"])


# -- the description of a chart ----------------------------------------------------------------------------------------


class Mark(NamedTuple):
    """A point, what hovering over it says, and the ends of its interval, if it has one."""

    x: float
    y: float
    told: str
    ends: tuple[float, float] | None = None


@dataclass(frozen=True)
class Series:
    """Marks of one look. ``dash``: the line that joins them, if any; ``listed``: whether the legend names it."""

    name: str
    look: Look
    marks: Sequence[Mark]
    dash: str = ""
    size: float = 9
    faint: bool = False
    listed: bool = False


class Axis(NamedTuple):
    """``ends``: from left to right or from bottom to top; ``ticks``: place -> text."""

    title: str
    ends: tuple[float, float]
    ticks: Mapping[float, str]
    log: bool = False
    grid: bool = True


class Line(NamedTuple):
    """A line across the panel at a value of one axis ("x" or "y"); named in the legend if it has a name."""

    axis: str
    at: float
    name: str = ""


class Band(NamedTuple):
    """A shaded strip across the panel between two values of one axis."""

    axis: str
    ends: tuple[float, float]
    name: str
    color: str = "muted"


@dataclass(frozen=True)
class Panel:
    """One pair of axes. ``along``: the axis that intervals run along; ``height``: its share of the chart."""

    x: Axis
    y: Axis
    series: Sequence[Series]
    lines: Sequence[Line] = ()
    bands: Sequence[Band] = ()
    along: str = "x"
    heading: str = ""
    height: float = 1.0

    def across(self, thing: Line | Band, values: tuple[float, float]) -> dict[str, tuple[float, float]]:
        """Where a line or a band begins and ends on both axes."""
        return {thing.axis: values, OTHER[thing.axis]: getattr(self, OTHER[thing.axis]).ends}


def stacked(panels: Sequence[Panel]) -> list[Panel]:
    """Panels over one axis, whose title stands below the last."""
    return [replace(panel, x=panel.x._replace(title="")) for panel in panels[:-1]] + list(panels[-1:])


@dataclass(frozen=True)
class Chart:
    """Panels one above the other, and the height of all in inches, of five that they are wide."""

    panels: Sequence[Panel]
    height: float = 4.2


# -- numbers -----------------------------------------------------------------------------------------------------------


def percent(x: float) -> str:
    """
    >>> percent(0.031), percent(-0.0045)
    ('+3.1%', '−0.45%')
    """
    return signed(f"{round(100 * x, 2) + 0.0:+.{1 if abs(x) >= 0.01 else 2}f}%")


def round_percent(x: float) -> str:
    """
    >>> round_percent(0.2), round_percent(0)
    ('+20%', '0')
    """
    return signed(f"{100 * x:+.6g}%") if x else "0"


def accuracy(x: float) -> str:
    """
    >>> accuracy(0.9995), accuracy(1)
    ('0.9995', '1')
    """
    return f"{x:.4g}"


def nats(x: float) -> str:
    """
    >>> nats(1.52444), nats(-0.1)
    ('1.524', '−0.100')
    """
    return signed(f"{x:.3f}")


def plain(x: float) -> str:
    """
    >>> plain(0.5), plain(-2.0)
    ('0.5', '−2')
    """
    return signed(f"{x:.6g}")


def said(found: Summary, show: Show) -> str:
    """A mean with its interval in words.

    >>> said(summary([0.01, 0.02, 0.03]), percent), said(summary([0.5, 0.5]), accuracy)
    ('+2.0% (−0.48% to +4.5%; 3 seeds)', '0.5 (2 seeds)')
    """
    seeds = f"{found.n} seed{'s' * (found.n != 1)}"
    if not math.isfinite(found.mean):
        return f"diverged ({seeds})"
    if ends(found) is None:
        return f"{show(found.mean)} ({seeds})"
    return f"{show(found.mean)} ({show(found.low)} to {show(found.high)}; {seeds})"


def ends(found: Summary, change: Callable[[float], float] = float) -> tuple[float, float] | None:
    """The interval to draw: none where nothing is decided."""
    if found.n < MINIMUM or not math.isfinite(found.low + found.high):
        return None
    return change(found.low), change(found.high)


def reach(values: Iterable[float], low: float = MARGIN, high: float = MARGIN) -> tuple[float, float]:
    """An axis that holds these values and a little more.

    >>> reach([0.0, 1.0], 0.5, 0)
    (-0.5, 1.0)
    """
    found = [value for value in values if math.isfinite(value)]
    least, most = min(found), max(found)
    room = most - least or abs(most) or 1.0
    return least - low * room, most + high * room


def ticks(reached: tuple[float, float], show: Show, most: int = 6) -> dict[float, str]:
    """Round numbers inside an axis, at most so many.

    >>> list(ticks((-0.3, 2.2), str))
    [0.0, 0.5, 1.0, 1.5, 2.0]
    """
    low, high = sorted(reached)
    exponent = math.floor(math.log10(high - low)) - 1
    steps = (factor * 10.0**e for e in (exponent, exponent + 1) for factor in (1, 2, 5))
    step = next(s for s in (*steps, high - low) if math.floor(high / s) - math.ceil(low / s) < most)
    return {
        round(i * step, 12): show(round(i * step, 12))
        for i in range(math.ceil(low / step), math.floor(high / step) + 1)
    }


def present(runs: Iterable[Run], file: str) -> list[Run]:
    """The stored runs. Raises NoRuns if there is none yet."""
    found = list(runs)
    if not found:
        raise NoRuns(f"book/results/{file}.json has no runs yet; run: python -m qkvtheory.experiments.{file} --out "
                     f"book/results/{file}.json")  # fmt: skip
    return found


# -- rows: a model each, what was measured along one axis --------------------------------------------------------------


class Printed(NamedTuple):
    """A number that was not measured here. ``kind``: a key of HOLLOW; ``of``: what it is about, if not just the row."""

    value: float
    kind: str = "published"
    of: str = ""

    @property
    def name(self) -> str:
        return f"{self.kind}, {self.of}" if self.of else self.kind


HOLLOW = {"published": PAPER, "the paper": PAPER, "its re-run": RERUN, "predicted": PAPER}


NOTHING = Summary(0, math.inf, math.nan, -math.inf, math.inf)  # nothing was measured


@dataclass(frozen=True)
class Row:
    """A model: what each seed gave, mean and interval, and what is printed or predicted.

    ``change``: from the unit in which means are taken to the unit of the chart.
    """

    name: str
    look: Look
    seeds: Mapping[int, float]
    found: Summary
    change: Callable[[float], float] = float
    printed: Sequence[Printed] = ()

    @property
    def mean(self) -> float:
        return self.change(self.found.mean) if math.isfinite(self.found.mean) else math.inf

    @property
    def ends(self) -> tuple[float, float] | None:
        return ends(self.found, self.change)

    @property
    def each(self) -> dict[int, float]:
        """What each seed gave, in the unit of the chart; without those that diverged."""
        return {seed: self.change(value) for seed, value in self.seeds.items() if math.isfinite(value)}

    def values(self) -> list[float]:
        """Everything drawn in this row."""
        drawn = [self.mean, *self.each.values(), *(self.ends or ()), *(printed.value for printed in self.printed)]
        return [value for value in drawn if math.isfinite(value)]

    def said(self, show: Show) -> str:
        return said(self.found, lambda x: show(self.change(x)))


def row(name: str, seeds: Mapping[int, float], drawn: Look | None = None, **more: Any) -> Row:
    """A row from what each seed gave."""
    return Row(name, drawn or look(name), seeds, summary(seeds.values()), **more)


def printed_row(name: str, values: Iterable[float], kind: str = "published") -> Row:
    """A row of numbers that were not measured here."""
    return Row(name, look(name), {}, NOTHING, printed=[Printed(value, kind) for value in values])


def difference(name: str, pair: Paired, drawn: Look | None = None, **more: Any) -> Row:
    """A row of differences, seed by seed."""
    return row(name, dict(zip(pair.seeds, pair.values, strict=True)), drawn, **more)


def model_rows(runs: Iterable[Run], metric: Metric, looks: Mapping[str, Look]) -> list[Row]:
    """One row for each of these models that was run."""
    runs = list(runs)
    here = {run["model"] for run in runs}
    return [row(model, by_seed(runs, model, metric), drawn) for model, drawn in looks.items() if model in here]


@dataclass(frozen=True)
class Placed:
    """A row and where it stands on the other axis; ``pitch``: how far it is from the next one."""

    row: Row
    at: float
    pitch: float = 1.0


def rows_panel(rows: Sequence[Row], title: str, show: Show, tick: Show, **more: Any) -> Panel:
    """Rows from top to bottom, what was measured from left to right."""
    placed = [Placed(row, i) for i, row in enumerate(rows)]
    reached = more.pop("reached", None) or reach([*inside(rows), *beyond(more)])
    names = Axis("", (len(rows) - 0.4, -0.6), {i: row.name for i, row in enumerate(rows)})
    series = drawn_rows(placed, show, "x")
    return Panel(Axis(title, reached, ticks(reached, tick)), names, series, height=len(rows) + 1, **more)


def groups_panel(
    groups: Mapping[str, Sequence[Row]], title: str, show: Show, tick: Show, along: str = "y", **more: Any
) -> Panel:
    """Groups one after the other, the rows of a group beside each other, what was measured along ``along``."""
    placed = [place for i, rows in enumerate(groups.values()) for place in side_by_side(rows, i)]
    reached = more.pop("reached", None) or reach([*inside(place.row for place in placed), *beyond(more)])
    series = drawn_rows(placed, show, along, True, more.pop("seeds", True))
    names: dict[float, str] = dict(enumerate(groups))
    values = Axis(title, reached, ticks(reached, tick))
    if along == "x":
        return Panel(values, Axis("", (len(groups) - 0.5, -0.5), names, grid=False), series, **more)
    return Panel(Axis("", (-0.5, len(groups) - 0.5), names, grid=False), values, series, along="y", **more)


def side_by_side(rows: Sequence[Row], center: float, width: float = 0.8) -> list[Placed]:
    """Rows at equal distances around a place."""
    pitch = width / max(len(rows), 1)
    return [Placed(row, center + pitch * (i - (len(rows) - 1) / 2), pitch) for i, row in enumerate(rows)]


def inside(rows: Iterable[Row]) -> list[float]:
    return [value for row in rows for value in row.values()]


def beyond(more: Mapping[str, Any]) -> list[float]:
    """What else an axis must hold: bands and lines."""
    return [x for band in more.get("bands", ()) for x in band.ends] + [line.at for line in more.get("lines", ())]


def drawn_rows(
    placed: Sequence[Placed], show: Show, along: str, listed: bool = False, seeds: bool = True
) -> list[Series]:
    """What is printed, hollow; the seeds, faint; the means with their intervals, one series for each model."""

    def mark(value: float, at: float, told: str, interval: tuple[float, float] | None = None) -> Mark:
        return Mark(value, at, told, interval) if along == "x" else Mark(at, value, told, interval)

    found = []
    for kind, drawn in HOLLOW.items():
        marks = [
            mark(p.value, place.at + PRINTED_AT * place.pitch, f"{place.row.name}, {p.name}: {show(p.value)}")
            for place in placed
            for p in place.row.printed
            if p.kind == kind
        ]
        found.append(Series(kind, drawn, marks, listed=True))
    marks = [
        mark(value, place.at + SEEDS_AT * place.pitch, f"{place.row.name}, seed {seed}: {show(value)}")
        for place in placed
        for seed, value in place.row.each.items()
        if seeds
    ]
    found.append(Series("one seed", SEED, marks, size=5, faint=True, listed=True))
    for name, drawn in {place.row.name: place.row.look for place in placed}.items():
        marks = [
            mark(place.row.mean, place.at, f"{name}: {place.row.said(show)}", place.row.ends)
            for place in placed
            if place.row.name == name and math.isfinite(place.row.mean)
        ]
        found.append(Series(name, drawn, marks, listed=listed))
    return [series for series in found if series.marks]


def spoken_rows(rows: Iterable[Row], show: Show) -> str:
    """The means in words, with what is published: for the alternative text."""
    told = []
    for row in rows:
        beside = ", ".join(f"{printed.name} {show(printed.value)}" for printed in row.printed)
        mean = show(row.mean) if math.isfinite(row.mean) else "diverged"
        told.append(f"{row.name} {mean}" + (f" ({beside})" if beside else ""))
    return "; ".join(told)


def up_to(rows: Iterable[Row]) -> str:
    """
    >>> up_to([row("QKV", {0: 1.5})]), up_to([row("QKV", {0: 1.5, 1: 1.6}), row("MQA", {0: 1.7})])
    ('one seed', 'up to 2 seeds')
    """
    most = max(row.found.n for row in rows)
    return "one seed" if most == 1 else f"up to {most} seeds"


def inches(rows: int, panels: int = 1) -> float:
    """The height of a chart of rows: on a phone, axes and legend need as much room as on a large screen."""
    return 0.8 + 0.3 * rows + 0.8 * panels


# -- plotly ------------------------------------------------------------------------------------------------------------


def interactive(chart: Chart) -> dict[str, Any]:
    """The chart as plotly data."""
    drawn: list[dict[str, Any]] = []
    axes: dict[str, Any] = {}
    names: list[dict[str, Any]] = []
    for i, (panel, domain) in enumerate(zip(chart.panels, domains(chart), strict=True)):
        n = str(i + 1) if i else ""
        ref = {"xaxis": f"x{n}", "yaxis": f"y{n}"}
        drawn += [trace | ref for trace in once(traces(panel), {trace["name"] for trace in drawn})]
        axes[f"xaxis{n}"] = plotly_axis(panel.x) | {"anchor": f"y{n}"}
        axes[f"yaxis{n}"] = plotly_axis(panel.y) | {"anchor": f"x{n}", "domain": domain}
        if panel.heading:
            place: dict[str, Any] = {
                "xref": f"x{n} domain",
                "yref": f"y{n} domain",
                "yanchor": "bottom",
                "font": {"size": 12},
            }
            names.append(label(panel.heading, 0, 1, **place))
    x, y = axes.pop("xaxis"), axes.pop("yaxis")
    return {
        "data": drawn,
        "layout": layout(x, y, 12, **axes, annotations=names, showlegend=True, legend=LEGEND),
    }


def once(traces: Sequence[dict[str, Any]], named: Iterable[str]) -> list[dict[str, Any]]:
    """A name stands in the legend once."""
    known = set(named)
    return [trace | {"showlegend": trace["showlegend"] and trace["name"] not in known} for trace in traces]


def domains(chart: Chart) -> list[list[float]]:
    """Where each panel begins and ends, as shares of the height, from the first, which is on top."""
    gap = 0.75 / (chart.height - 1.7)  # inches for the end of an axis and the heading that follows, of those inside
    scale = (1 - gap * (len(chart.panels) - 1)) / sum(panel.height for panel in chart.panels)
    found, top = [], 1.0
    for panel in chart.panels:
        bottom = top - scale * panel.height
        found.append([max(0.0, round(bottom, 4)), round(top, 4)])
        top = bottom - gap
    return found


def plotly_axis(axis: Axis) -> dict[str, Any]:
    return {
        "type": "log" if axis.log else "linear", "title": {"text": axis.title, "standoff": 6},
        "range": [math.log10(x) for x in axis.ends] if axis.log else list(axis.ends),
        "tickvals": list(axis.ticks), "ticktext": [text.replace("\n", "<br>") for text in axis.ticks.values()],
        "showline": True, "zeroline": False, "automargin": True, "showgrid": axis.grid,
    }  # fmt: skip


def traces(panel: Panel) -> list[dict[str, Any]]:
    """Bands and lines first, so that marks lie over them."""
    found: list[dict[str, Any]] = []
    for band in panel.bands:
        (x0, x1), (y0, y1) = (panel.across(band, band.ends)[axis] for axis in "xy")
        found.append(
            {
                "type": "scatter", "mode": "lines", "name": band.name, "x": [x0, x1, x1, x0], "y": [y0, y0, y1, y1],
                "fill": "toself", "fillcolor": BOTH[band.color], "opacity": 0.25, "line": {"width": 0},
                "hoverinfo": "skip", "showlegend": bool(band.name),
            }
        )  # fmt: skip
    for line in panel.lines:
        place = panel.across(line, (line.at, line.at))
        found.append(
            {
                "type": "scatter", "mode": "lines", "name": line.name or "zero", "showlegend": bool(line.name),
                "x": list(place["x"]), "y": list(place["y"]), "hoverinfo": "skip",
                "line": {"color": BOTH["muted"], "width": 1.3, "dash": "dash" if line.name else "solid"},
            }
        )  # fmt: skip
    return found + [trace(series, panel.along) for series in panel.series]


def trace(series: Series, along: str) -> dict[str, Any]:
    color, symbol, _, hollow = series.look
    found: dict[str, Any] = {
        "type": "scatter", "mode": "lines+markers" if series.dash else "markers", "name": series.name,
        "showlegend": series.listed, "x": [m.x for m in series.marks], "y": [m.y for m in series.marks],
        "text": [m.told for m in series.marks], "hovertemplate": "%{text}<extra></extra>",
        "marker": {
            "symbol": symbol + "-open" * hollow, "size": series.size, "color": BOTH[color],
            "line": {"color": BOTH[color], "width": 1.5 if hollow else 0},
        },
    }  # fmt: skip
    if series.dash:
        found["line"] = {"color": BOTH[color], "width": 1.2, "dash": series.dash}
    if series.faint:
        found["opacity"] = 0.5
    if any(m.ends for m in series.marks):
        found[f"error_{along}"] = bars(series, along)
    return found


def bars(series: Series, along: str) -> dict[str, Any]:
    """Intervals as distances from the mean, upward and downward."""
    at = [getattr(m, along) for m in series.marks]
    pairs = [m.ends or (x, x) for m, x in zip(series.marks, at, strict=True)]
    return {
        "type": "data", "symmetric": False, "thickness": 1.5, "width": 3, "color": BOTH[series.look.color],
        "array": [high - x for (_, high), x in zip(pairs, at, strict=True)],
        "arrayminus": [x - low for (low, _), x in zip(pairs, at, strict=True)],
    }  # fmt: skip


# -- matplotlib --------------------------------------------------------------------------------------------------------


def still(chart: Chart, theme: str) -> str:
    """The chart as SVG text."""
    grid: dict[str, Any] = {
        "nrows": len(chart.panels),
        "squeeze": False,
        "height_ratios": [panel.height for panel in chart.panels],
    }
    with canvas(theme, height=chart.height, **grid) as (figure, axes, color):
        for panel, place in zip(chart.panels, axes[:, 0], strict=True):
            fill(place, panel, color)
        handles = {
            text: handle
            for place in axes[:, 0]
            for handle, text in zip(*place.get_legend_handles_labels(), strict=True)
        }
        figure.legend(handles.values(), handles.keys(), loc="outside lower left", ncols=columns(handles), fontsize=9,
                      handletextpad=0.4, columnspacing=1.2, borderpad=0.3)  # fmt: skip
        return to_svg(figure, theme)


def columns(names: Iterable[str]) -> int:
    """As many columns as fit side by side."""
    return max(1, int(350 / (4.8 * max(map(len, names), default=1) + 34)))


def fill(place: Any, panel: Panel, color: Mapping[str, str]) -> None:
    """Draw a panel into the axes of matplotlib."""
    for band in panel.bands:
        span = place.axvspan if band.axis == "x" else place.axhspan
        span(*band.ends, color=color[band.color], alpha=0.22, lw=0, label=band.name or None)
    for line in panel.lines:
        draw = place.axvline if line.axis == "x" else place.axhline
        draw(line.at, color=color["muted"], lw=1.2, ls="--" if line.name else "-", label=line.name or None)
    for series in panel.series:
        put(place, series, panel.along, color)
    for name, axis in (("x", panel.x), ("y", panel.y)):
        place.set(**{f"{name}scale": "log" if axis.log else "linear"})
        place.set(**{f"{name}lim": axis.ends, f"{name}label": axis.title})
        getattr(place, f"set_{name}ticks")(list(axis.ticks), list(axis.ticks.values()))
        place.grid(axis.grid, axis=name)
    place.minorticks_off()
    if panel.heading:
        place.set_title(panel.heading, loc="left", fontsize=10)


def put(place: Any, series: Series, along: str, color: Mapping[str, str]) -> None:
    tint, _, marker, hollow = series.look
    tone, size = color[tint], 0.7 * series.size * LARGER.get(marker, 1.0)
    shape = {"marker": marker, "ms": size, "color": tone, "ls": DASHES.get(series.dash, "none"), "lw": 1.1}
    if hollow:
        shape |= {"mfc": "none"}
    drawn = place.plot([m.x for m in series.marks], [m.y for m in series.marks], **shape,
                       alpha=0.5 if series.faint else None, label=series.name if series.listed else None)  # fmt: skip
    drawn[0].set_markeredgewidth(1.0 if hollow else 0.0)
    spans = [(getattr(mark, OTHER[along]), mark.ends) for mark in series.marks if mark.ends]
    level = [x for at, _ in spans for x in (at, at, math.nan)]  # one path for all intervals keeps the picture small
    span = [x for _, (low, high) in spans for x in (low, high, math.nan)]
    if spans:
        place.plot(*((span, level) if along == "x" else (level, span)), color=tone, lw=1.4)
