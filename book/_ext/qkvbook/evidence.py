"""The table of what trainings say: ``{evidence-table}``.

Every row is a finding of ``qkvtheory.evidence``: a published sentence, our numbers and the verdict; under the table
stand the commands that make the numbers again, and the machines. A row that names no claim of the manifest, whose
stored file is not as agreed, or whose verdict is another one than the manifest has, is a warning, hence a failed build
under ``-W``. What was not run here says so.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from qkvtheory import evidence

from .build import build_of
from .elements import el, element
from .manifest import Manifest
from .tables import verdict_badge
from .text import claim_link, inline

logger = logging.getLogger(__name__)
COLUMNS = ("Question", "Verdict", "Here", "Published", "Runs")


class EvidenceTable(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        manifest: Manifest = build_of(self.env.app).manifest
        found = evidence.findings()
        for name in {stem(finding) for finding in found}:
            self.env.note_dependency(str(evidence.RESULTS / f"{name}.json"))
        if manifest.path:
            self.env.note_dependency(str(manifest.path))
        for finding in found:
            for line in faults(finding, manifest.claims):
                logger.warning(line, location=self.get_location())
        head = el("thead", el("tr", *(el("th", title, scope="col") for title in COLUMNS)))
        caption = el("caption", "Published sentences, and what our own runs say", class_="visually-hidden")
        body = el("tbody", *(self.row(finding, manifest.claims) for finding in found))
        table = el("div", el("table", caption, head, body, class_="boundaries"), class_="scroll")
        return [table, el("p", "To make these runs again:"), commands(found)]

    def row(self, finding: Any, claims: dict[str, Any]) -> element:
        """Every cell knows its title: on a narrow screen a row is a card, and the titles stand in it."""
        question = [*inline(finding.question), *linked(finding.claim, claims)]
        said = (
            [verdict_badge(finding.verdict.word)],
            here(finding),
            [*inline(finding.published), el("small", *self.cited(finding.source))],
            [el("code", stem(finding))],
        )
        cells = [el("td", *content, data_title=title) for title, content in zip(COLUMNS[1:], said, strict=True)]
        return el("tr", el("th", *question, scope="row"), *cells)

    def cited(self, key: str) -> list[nodes.Node]:
        if not key:
            return [nodes.Text("our own statement")]
        found, _ = self.state.inline_text(f"{{cite}}`{key}`", self.lineno)
        return list(found)


def stem(finding: Any) -> str:
    """The stored file of a finding, by its short name.

    >>> from types import SimpleNamespace
    >>> stem(SimpleNamespace(source_file="book/results/rates.json"))
    'rates'
    """
    return Path(finding.source_file).stem


def commands(found: Iterable[Any]) -> element:
    """Each file once, with the command that makes it, and the machine on which that was done."""
    pairs: list[element] = []
    for name, finding in {stem(finding): finding for finding in found}.items():
        said = [el("code", as_typed(finding.command), class_="copy", tabindex="0")]
        where = [el("small", finding.machine or evidence.NOT_RUN)]
        pairs += [el("dt", name), el("dd", *said, " ", *where)]
    return el("dl", *pairs, class_="facts")


def as_typed(text: str) -> nodes.Node:
    """Two dashes of an option stay two dashes; in a text they would become one long one."""
    return nodes.raw("", escape(text), format="html")


def here(finding: Any) -> list[nodes.Node]:
    """Our numbers; and where they decide nothing, why."""
    numbers = [nodes.Text(finding.ours)] if finding.ours else []
    return [*numbers, el("small", *inline(finding.verdict.reason))] if finding.verdict.reason else numbers


def linked(claim: str, claims: dict[str, Any]) -> list[nodes.Node]:
    return [el("small", claim_link(claim=claim))] if claim in claims else []


def faults(finding: Any, claims: dict[str, Any]) -> Iterable[str]:
    """What is wrong with a row: one line each."""
    name = f"the finding {finding.id!r}"
    if finding.claim not in claims:
        yield f"{name}: no claim {finding.claim!r} in the manifest"
        return
    if finding.fault:
        yield f"{name}: {finding.fault}"
    known = {found["id"]: found["verdict"]["word"] for found in claims[finding.claim].get("findings", [])}
    if known.get(finding.id) != finding.verdict.word:
        yield f"{name}: the manifest says {known.get(finding.id)!r}, the stored runs {finding.verdict.word!r}"


def setup(app: Sphinx) -> None:
    app.add_directive("evidence-table", EvidenceTable)
