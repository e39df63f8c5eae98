"""The map of where the eliminations stop: ``{boundary-map}``.

What a row says comes from ``qkvtheory.claims.where_it_stops.boundaries``; how large the counterexample was, and that it
was rejected, from the manifest. A row whose control is missing there, was accepted, or measured nothing, is a warning,
hence a failed build under ``-W``; so is a repair that no claim of the manifest proves, or that fails.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from .build import build_of
from .elements import el, element
from .links import links
from .manifest import Manifest, number, status
from .text import inline

logger = logging.getLogger(__name__)
COLUMNS = ("Where it stops", "What happens", "Error when tried anyway", "What is exact", "Its price")


class BoundaryMap(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        from qkvtheory.claims.where_it_stops.boundaries import BOUNDARIES

        manifest: Manifest = build_of(self.env.app).manifest
        if manifest.path:
            self.env.note_dependency(str(manifest.path))
        for boundary in BOUNDARIES:
            for line in faults(boundary, manifest.claims):
                logger.warning(line, location=self.get_location())
        return [drawn(BOUNDARIES, manifest.claims)]


def tried(boundary: Any, claims: dict[str, Any]) -> dict[str, Any]:
    """The control of a boundary as the manifest has it; nothing if it is not there."""
    name, what = boundary.broken
    controls = claims.get(name, {}).get("controls", [])
    return next((control for control in controls if control["what"] == what), {})


def faults(boundary: Any, claims: dict[str, Any]) -> list[str]:
    """What is wrong with a row: one line each."""
    (name, what), control = boundary.broken, tried(boundary, claims)
    if not control:
        lines = [f"claim {name} has no control {what!r} in the manifest"]
    elif control["status"] != "rejected":
        lines = [f"the control {what!r} of claim {name} is {control['status']}"]
    else:
        lines = [] if (control["size"] or 0) > 0 else [f"the control {what!r} of claim {name} has no size"]
    lines += [f"no claim {repair!r} in the manifest" for repair in boundary.by if repair not in claims]
    lines += [
        f"claim {repair} fails" for repair in boundary.by if repair in claims and status(claims[repair]) == "fail"
    ]
    return [f"the boundary {boundary.name!r}: {line}" for line in lines]


def drawn(boundaries: Iterable[Any], claims: dict[str, Any]) -> element:
    head = el("thead", el("tr", *(el("th", title, scope="col") for title in COLUMNS)))
    caption = el("caption", "Where each elimination stops, and what repairs it", class_="visually-hidden")
    body = el("tbody", *(row(boundary, claims) for boundary in boundaries))
    return el("div", el("table", caption, head, body, class_="boundaries"), class_="scroll")


def row(boundary: Any, claims: dict[str, Any]) -> element:
    """Every cell knows its title: on a narrow screen a row is a card, and the titles stand in it."""
    size = tried(boundary, claims).get("size")
    said = (
        [*inline(boundary.says), *linked([boundary.broken[0]], claims)],
        [nodes.Text(number(size))],
        [*inline(boundary.repair), *linked(boundary.by, claims)],
        inline(boundary.price),
    )
    cells = [el("td", *content, data_title=title) for title, content in zip(COLUMNS[1:], said, strict=True)]
    cells[1]["html"]["class"] = "number"
    return el("tr", el("th", *inline(boundary.name), scope="row"), *cells)


def linked(ids: Iterable[str], claims: dict[str, Any]) -> list[nodes.Node]:
    """Links to claims of the manifest, small and on lines of their own."""
    known = [name for name in ids if name in claims]
    return [el("small", *links(known))] if known else []


def setup(app: Sphinx) -> None:
    app.add_directive("boundary-map", BoundaryMap)
