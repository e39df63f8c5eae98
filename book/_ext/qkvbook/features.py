"""The table of what applies to which architecture: ``{feature-map}``.

Nothing in it is typed: for each row a small random network with that feature is made, every construction is tried on
it, and the best outcome is printed with what stopped the better ones. A row whose outcome is not the one that the claim
``feature-map`` expects is a warning, hence a failed build under ``-W``.
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
from .text import claim_link, inline

logger = logging.getLogger(__name__)
COLUMNS = ("Feature", "$W_Q$", "$W_K$", "$W_V$", "What stops more", "Why, and what to do")


class FeatureMap(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        from qkvtheory.claims.your_model.features import FEATURES, REMARKS, measured

        claims = build_of(self.env.app).manifest.claims
        rows = []
        for feature in FEATURES:
            found = {which: measured(feature, which) for which in "QKV"}
            for line in faults(feature, found, claims):
                logger.warning(line, location=self.get_location())
            rows.append(row(feature, found, claims))
        for remark in REMARKS:
            for name in sorted(set(remark.claims) - set(claims)):
                logger.warning(f"the row {remark.name!r} names no claim: {name!r}", location=self.get_location())
        return [table(COLUMNS, rows), table(("Feature", "Answer"), [passing(remark, claims) for remark in REMARKS])]


def faults(feature: Any, found: dict[str, list[Any]], claims: dict[str, Any]) -> list[str]:
    """What is wrong with a row: one line each."""
    lines = [f"names no claim: {name!r}" for name in feature.claims if name not in claims]
    for which, outcomes in found.items():
        best = (outcomes[0].form, outcomes[0].layers)
        if best != feature.expected[which]:
            lines.append(f"W_{which} becomes {best}, and {feature.expected[which]} was expected")
    return [f"the row {feature.name!r}: {line}" for line in lines]


def table(columns: Iterable[str], rows: list[element]) -> element:
    head = el("thead", el("tr", *(heading(title) for title in columns)))
    return el("div", el("table", head, el("tbody", *rows), class_="boundaries"), class_="scroll")


def heading(title: str) -> element:
    """A formula in a heading has a name as well, for whoever hears the table."""
    return el("th", *inline(title), scope="col", aria_label=title.strip("$") if title.startswith("$") else None)


def row(feature: Any, found: dict[str, list[Any]], claims: dict[str, Any]) -> element:
    """Every cell knows its title: on a narrow screen a row is a card, and the titles stand in it."""
    cells = [el("td", said(found[which][0]), data_title=f"W_{which}") for which in "QKV"]
    stops = el("td", *stopped(found["Q"], claims), data_title="what stops more")
    why = [*inline(feature.says), el("small", *links([name for name in feature.claims if name in claims]))]
    return el("tr", el("th", feature.name, scope="row"), *cells, stops, el("td", *why, data_title="why"))


def said(best: Any) -> nodes.Node:
    """The verdict as a letter, and in how many of the layers of the small network."""
    if best.form == "no":
        return nodes.Text("no")
    from qkvtheory.claims.your_model.features import LAYERS

    layers = {LAYERS: "every layer", LAYERS - 1: "all layers but one", 1: "one layer"}[best.layers]
    return el("span", el("b", best.form), f" in {layers}")


def stopped(outcomes: list[Any], claims: dict[str, Any]) -> list[nodes.Node]:
    """The hypotheses that fail for $W_Q$, each once, with the claim whose construction names them."""
    reasons: dict[str, str] = {}
    for outcome in outcomes:
        if outcome.refused:
            reasons.setdefault(outcome.refused, outcome.claim)
    content: list[nodes.Node] = []
    for hypothesis, name in reasons.items():
        content += [nodes.Text("; ")] if content else []
        content += [nodes.Text(f"{hypothesis} ("), claim_link(claim=name, words="which?"), nodes.Text(")")]
    return content or [nodes.Text("nothing")]


def passing(remark: Any, claims: dict[str, Any]) -> element:
    answer = [*inline(remark.says), el("small", *links([name for name in remark.claims if name in claims]))]
    return el("tr", el("th", remark.name, scope="row"), el("td", *answer, data_title="answer"))


def setup(app: Sphinx) -> None:
    app.add_directive("feature-map", FeatureMap)
