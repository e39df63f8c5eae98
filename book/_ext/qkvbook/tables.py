"""Statuses, and the tables of what the checks and the controls found."""

from __future__ import annotations

from typing import Any

from docutils import nodes

from qkvtheory.words import latex_name

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


def verdict_badge(word: str) -> element:
    """What runs say to a published sentence, in words; only a clear answer has a color.

    >>> verdict_badge("cannot tell").astext()
    'cannot tell'
    """
    return el("span", word, class_=f"verdict {word.split(' at ')[0].replace(' ', '-')}")


def controls_table(controls: list[dict[str, Any]], with_hypothesis: bool = True) -> nodes.Node:
    """The deliberately wrong runs: what was tried, where, how large the error was, and whether it was rejected.

    The result comes second, so that a narrow screen shows it.
    """

    def arranged(dropped: element, cells: list[element]) -> list[element]:
        result, tried, *rest = cells
        return [dropped, result, tried, *rest] if with_hypothesis else [tried, result, *rest]

    titles = [el("th", name, scope="col") for name in ("Result", "Tried instead", "Error", "Lane")]
    rows = []
    for control in controls:
        cells = [
            el("td", badge(control["status"])),
            el("td", *inline(control["what"])),
            el("td", number(control["size"]), class_="number"),
            el("td", control["lane"]),
        ]
        named = control["hypothesis"] != "construction"
        dropped = control["hypothesis"] if named else "none (wrong construction)"
        rows.append(el("tr", *arranged(el("td", dropped), cells)))
    table = el(
        "table",
        el("thead", el("tr", *arranged(el("th", "Dropped", scope="col"), titles))),
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
    words = {"pass": " pass", "fail": " fail", "not-run": ": not run here"}
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
    measured = ran and name != "formal"  # a proof assistant measures nothing
    figures = [number(lane[key]) if measured else "–" for key in ("comparisons", "worst", "tolerance")]
    opaque = f"opaque: {', '.join(f'${latex_name(letter)}$' for letter in lane['opaque'])}" if lane["opaque"] else ""
    remarks = "; ".join(part for part in (opaque, lane["reason"]) if part)
    return el(
        "tr",
        el("th", name, el("small", f" {LANES.get(name, '')}"), scope="row"),
        el("td", badge(lane["status"])),
        *(el("td", figure, class_="number") for figure in figures),
        el("td", *inline(remarks)),
    )
