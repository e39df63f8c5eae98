"""Outputs of notebook cells that myst-nb cannot show by itself: plotly figures and widgets."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

from .elements import el
from .plots import live

PLOTLY = "application/vnd.plotly.v1+json"
WIDGET = "application/vnd.jupyter.widget-view+json"


class PlotlyOutput:
    """Plotly output of a notebook cell, for myst-nb."""

    mime_priority_overrides = (("html", PLOTLY, 5),)

    @staticmethod
    def handle_mime(_renderer: Any, data: Any, _inline: bool) -> list[nodes.Element] | None:
        if data.mime_type != PLOTLY:
            return None
        figure = data.content if isinstance(data.content, dict) else json.loads(data.content)
        title = figure.get("layout", {}).get("title", {})
        label = (
            title.get("text") if isinstance(title, dict) else title
        ) or "Interactive chart; its numbers are in the cell above"
        return [live(figure, re.sub(r"<[^>]+>", "", label))]


class WidgetOutput:
    """A widget needs a running notebook. Ours carry their static twin as HTML, which is preferred (the widget's own
    priority in myst-nb is 10); for any other the page says so instead of leaving a gap."""

    mime_priority_overrides = (("html", "text/html", 8),)

    @staticmethod
    def handle_mime(_renderer: Any, data: Any, _inline: bool) -> list[nodes.Element] | None:
        if data.mime_type != WIDGET:
            return None
        return [el("p", "An interactive widget stands here when the notebook runs.", class_="muted widget-place")]


def whole_streams(outputs: list[Any]) -> list[Any]:
    """Outputs in which each stream is one: what a kernel sent in pieces is put together as it was printed.

    myst-nb would begin a new line with every piece, and where a piece ends depends on how busy the machine is.
    """
    first: dict[str, Any] = {}
    kept = []
    for output in outputs:
        name = output["name"] if output["output_type"] == "stream" else None
        if name in first:
            first[name]["text"] += output["text"]
            continue
        kept.append(output)
        if name:
            first[name] = output
    return kept


def let_prose_wrap(app: Sphinx, doctree: nodes.document) -> None:
    """Printed sentences may wrap; what is set in columns may not."""
    for output in doctree.findall(nodes.container):
        for block in output.findall(nodes.literal_block) if "cell_output" in output["classes"] else ():
            if not re.search(r"\S {3,}\S", block.astext()):
                block["classes"].append("prose")


def setup(app: Sphinx) -> None:
    """Give myst-nb our renderers without an entry point: they are looked up by this one function."""
    from myst_nb.core import render

    ours = [PlotlyOutput, WidgetOutput]
    others = [renderer for renderer in render.load_mime_renders() if renderer not in ours]
    render.load_mime_renders = cache(lambda: [*others, *ours])
    joined = render.coalesce_streams
    render.coalesce_streams = lambda outputs: joined(whole_streams(outputs))
    app.connect("doctree-read", let_prose_wrap)
