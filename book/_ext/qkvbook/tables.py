"""Statuses, and the tables of what the checks and the controls found."""

from __future__ import annotations

from typing import Any

from docutils import nodes

from .elements import el, element
from .manifest import MARKS, WORDS, number
from .text import inline

LANES = {
    "symbolic": "for all sizes, by algebra", "exact": "small sizes, no rounding", "numeric": "floating point",
    "formal": "proof assistant", "count": "integers", "rank": "Jacobian rank", "experiment": "trained and run",
}  # fmt: skip


def badge(state: str, words: dict[str, str] = WORDS) -> element:
    """A status as sign and words, never as color alone."""
    return el(
        "span", el("span", MARKS[state], aria_hidden="true"), f" {words.get(state, state)}", class_=f"status {state}"
    )


def controls_table(controls: list[dict[str, Any]], with_hypothesis: bool = True) -> nodes.Node:
    """The deliberately wrong runs: what was tried, where, how large the error was, and whether it was caught."""
    words = {"rejected": "caught", "accepted": "not caught", "not-run": "not run here"}
    head = (["Dropped"] if with_hypothesis else []) + ["Tried instead", "Lane", "Error", "Result"]
    rows = []
    for control in controls:
        cells = [
            el("td", *inline(control["what"])),
            el("td", control["lane"]),
            el("td", number(control["size"]), class_="number"),
            el("td", badge(control["status"], words)),
        ]
        rows.append(el("tr", *([el("td", control["hypothesis"] or "construction")] if with_hypothesis else []), *cells))
    table = el(
        "table",
        el("thead", el("tr", *(el("th", name, scope="col") for name in head))),
        el("tbody", *rows),
        class_="controls",
    )
    return el("div", table, class_="scroll")


def lanes(claim: dict[str, Any]) -> element:
    """The checks as a table: verdict, comparisons, worst error against its tolerance, what stayed opaque."""
    rows = [lane_row(name, lane) for name, lane in claim["lanes"].items()]
    head = el(
        "tr",
        *(
            el("th", text, scope="col")
            for text in ("Check", "Result", "Comparisons", "Worst error", "Allowed", "Remarks")
        ),
    )
    words = {"pass": "", "fail": " fails", "not-run": ": not run here"}
    chips = (
        badge(lane["status"], {state: name + said for state, said in words.items()})
        for name, lane in claim["lanes"].items()
    )
    summary = el("summary", *(part for chip in chips for part in (chip, nodes.Text(" "))))
    return el(
        "details",
        summary,
        el("div", el("table", el("thead", head), el("tbody", *rows), class_="lanes"), class_="scroll"),
        class_="lanes",
    )


def lane_row(name: str, lane: dict[str, Any]) -> element:
    ran = lane["status"] != "not-run"
    figures = (lane["comparisons"], lane["worst"], lane["tolerance"]) if ran else (None, None, None)
    opaque = f"opaque: {', '.join(f'${letter}$' for letter in lane['opaque'])}" if lane["opaque"] else ""
    remarks = "; ".join(part for part in (opaque, lane["reason"]) if part)
    return el(
        "tr",
        el("th", name, el("small", f" {LANES.get(name, '')}"), scope="row"),
        el("td", badge(lane["status"])),
        *(el("td", number(figure), class_="number") for figure in figures),
        el("td", *inline(remarks)),
    )
