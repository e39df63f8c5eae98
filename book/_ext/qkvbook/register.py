"""The page of all claims: filters, a table, who uses whom, what was left out, and with what the checks ran.

The filters are radio buttons and style rules, so they need neither mouse nor script; the text filter is an extra that
the page's script switches on.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from .build import boxes_of, build_of
from .dag import drawing
from .elements import el, element
from .links import claim_link, links
from .manifest import Manifest, status
from .tables import badge
from .text import inline

FILTERS = {
    "all": "all",
    "theorem": "theorems",
    "remark": "remarks",
    "pass": "pass",
    "fail": "fail",
    "not-run": "not run everywhere",
}


class drawn(nodes.General, nodes.Element):
    """The drawing of who uses whom; made when every page is known, because its boxes are links."""


class Register(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        manifest: Manifest = build_of(self.env.app).manifest
        if manifest.path:
            self.env.note_dependency(str(manifest.path))
        lanes = list(dict.fromkeys(lane for claim in manifest.claims.values() for lane in claim["lanes"]))
        return [
            el(
                "div",
                filters(),
                el("div", table(manifest.claims, lanes, "Every claim and what each check said"), class_="scroll"),
                class_="register",
            ),
            *part("What uses what", drawn(), uses(manifest)),
            *part("Left out", left_out(manifest)),
            *part("The run", run(manifest)),
        ]


class Summary(SphinxDirective):
    """``{register-summary}``: the theorems with their statuses, for the front page."""

    def run(self) -> list[nodes.Node]:
        manifest: Manifest = build_of(self.env.app).manifest
        if manifest.path:
            self.env.note_dependency(str(manifest.path))
        theorems = {name: claim for name, claim in manifest.claims.items() if claim["rank"] == "theorem"}
        lanes = list(dict.fromkeys(lane for claim in theorems.values() for lane in claim["lanes"]))
        return [el("div", table(theorems, lanes, "The theorems and what each check said"), class_="scroll register")]


def part(title: str, *content: nodes.Node) -> list[nodes.Node]:
    return [el("h2", title), *content]


def filters() -> element:
    buttons = []
    for name, words in FILTERS.items():
        box = el("input", type="radio", name="show", id=f"show-{name}", checked=name == "all")
        buttons.append(el("label", box, f" {words}", for_=f"show-{name}"))
    words_filter = el(
        "label",
        "with the words ",
        el("input", type="search", id="register-words"),
        for_="register-words",
        class_="needs-script",
        hidden=True,
    )
    return el("fieldset", el("legend", "Show"), *buttons, words_filter, class_="filters")


def table(claims: dict[str, Any], lanes: list[str], caption: str) -> element:
    columns = [("Claim", None), ("Chapter", "chapter"), *((lane, None) for lane in lanes)]
    head = el("tr", *(el("th", text, scope="col", class_=kind) for text, kind in columns))
    rows = [row(claim, lanes) for claim in claims.values()]
    return el("table", el("caption", caption, class_="visually-hidden"), el("thead", head), el("tbody", *rows))


def row(claim: dict[str, Any], lanes: list[str]) -> element:
    states = {lane["status"] for lane in claim["lanes"].values()}
    kinds = {claim["rank"], status(claim)} | ({"not-run"} & states)
    cells = [el("td", lane_cell(claim["lanes"].get(lane))) for lane in lanes]
    known = el("small", el("code", claim["id"]), f" {claim['rank']}")
    name = el("th", claim_link(claim=claim["id"]), known, scope="row")
    return el(
        "tr",
        name,
        el("td", claim["chapter"].replace("-", " "), class_="chapter"),
        *cells,
        class_=" ".join(sorted(kinds)),
    )


def lane_cell(lane: dict[str, Any] | None) -> element:
    return badge(lane["status"]) if lane else el("span", "not claimed", class_="muted")


def uses(manifest: Manifest) -> element:
    """The same as the drawing, as a list."""
    items = []
    for name, claim in manifest.claims.items():
        says = [" uses ", *links(claim["uses"])] if claim["uses"] else [" stands on its own"]
        items.append(el("li", claim_link(claim=name), *says))
    return el("ul", *items)


def left_out(manifest: Manifest) -> element:
    if not manifest.left_out:
        return el("p", "Nothing: every statement that was planned for these chapters is in the table.")
    return el("ul", *(el("li", el("code", item["id"]), ": ", *inline(item["reason"])) for item in manifest.left_out))


def run(manifest: Manifest) -> element:
    meta = manifest.meta
    facts = {
        "time": meta["time"],
        "seconds, all checks": f"{meta['seconds']:.1f}",
        **meta["versions"],
        "hash of the sources": meta["sources_sha256"][:16],
    }
    pairs = [cell for name, value in facts.items() for cell in (el("dt", name), el("dd", el("code", str(value))))]
    return el("dl", *pairs, class_="facts")


def draw(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Put the drawing in its place."""
    claims = build_of(app).manifest.claims

    def address(name: str) -> str:
        home = boxes_of(app.env).get(name, docname)
        return (app.builder.get_relative_uri(docname, home) if home != docname else "") + f"#{name}"

    for place in list(doctree.findall(drawn)):
        place.replace_self(nodes.raw("", drawing(claims, address), format="html"))


def setup(app: Sphinx) -> None:
    app.add_node(drawn)
    app.add_directive("register", Register)
    app.add_directive("register-summary", Summary)
    app.connect("doctree-resolved", draw, priority=400)
