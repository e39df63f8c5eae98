"""Links to claims, and the record of which page has whose box.

The role `{claim}` says that a chapter leans on a claim: one of the chapter's own claims must list it in `uses`.
`{claim-link}` is the same link, mentioned in passing.
"""

from __future__ import annotations

import re
from itertools import chain, count

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.docutils import SphinxRole

from .build import boxes_of, build_of, leans_of
from .elements import el, element
from .manifest import MARKS, WORDS, status
from .text import claim_link, inline

logger = logging.getLogger(__name__)


def links(ids: list[str]) -> list[nodes.Node]:
    """Links to claims, separated by commas."""
    found: list[nodes.Node] = []
    for name in ids:
        found += [nodes.Text(", ")] if found else []
        found.append(claim_link(claim=name))
    return found


class ClaimRole(SphinxRole):
    """``{claim}`` and ``{claim-link}``."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        explicit = re.fullmatch(r"(.*?)\s*<([^<>]+)>", self.text, re.S)
        words, name = explicit.groups() if explicit else (None, self.text)
        if name not in build_of(self.env.app).manifest.claims:
            logger.warning("no claim %r in the manifest", name, location=self.get_location())
            return [nodes.literal(name, name)], []
        if self.name == "claim":
            leans_of(self.env).setdefault(self.env.docname, []).append((name, self.lineno))
        return [claim_link(claim=name, words=words)], []


def fill_links(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Turn every claim_link into a link to the claim's box, with its title and status."""
    for node in list(doctree.findall(claim_link)):
        claim = build_of(app).manifest.claims.get(node["claim"])
        home = boxes_of(app.env).get(node["claim"])
        if claim is None:
            logger.warning("no claim %r in the manifest", node["claim"], location=docname)
        if claim is None or home is None:
            node.replace_self(nodes.literal(node["claim"], node["claim"]))
            continue
        uri = app.builder.get_relative_uri(docname, home) if home != docname else ""
        state = status(claim)
        mark = el("span", MARKS[state], class_=f"mark {state}", title=WORDS[state])
        said = el("span", f" ({WORDS[state]})", class_="visually-hidden")
        words = inline(node.get("words") or claim["title"])
        start, end = split_last_word(words)
        ending = el("span", el("span", *end, class_="words"), " ", mark, class_="together")
        node.replace_self(
            el("a", el("span", *start, class_="words"), ending, said, href=f"{uri}#{claim['id']}", class_="claim-link")
        )


def split_last_word(words: list[nodes.Node]) -> tuple[list[nodes.Node], list[nodes.Node]]:
    """Nodes before the last word, and the last word: a mark after it stays on its line.

    >>> [[part.astext() for part in half] for half in split_last_word([nodes.Text("one small claim")])]
    [['one small '], ['claim']]
    """
    *start, last = words
    if not isinstance(last, nodes.Text) or " " not in last:
        return start, [last]
    at = last.rindex(" ") + 1
    return [*start, nodes.Text(last[:at])], [nodes.Text(last[at:])]


def check_boxes(app: Sphinx, env: BuildEnvironment) -> None:
    """Warn where a chapter lacks the box of its claim, or leans on a claim that none of its own claims uses.

    The pages right below a chapter belong to it.
    """
    manifest = build_of(app).manifest
    for name, claim in manifest.claims.items():
        home = boxes_of(env).get(name, "")
        above = [page for page, below in env.toctree_includes.items() if home in below]
        if claim["chapter"] not in {page.rsplit("/", 1)[-1] for page in [home, *above]}:
            logger.warning("claim %r has no box in its chapter %r", name, claim["chapter"])
    for docname, leans in leans_of(env).items():
        chapter = docname.rsplit("/", 1)[-1]
        own = [claim for claim in manifest.claims.values() if claim["chapter"] == chapter]
        allowed = {claim["id"] for claim in own} | {used for claim in own for used in claim["uses"]}
        for name, line in leans if own else []:
            if name not in allowed:
                logger.warning(
                    "leans on claim %r, which no claim of this chapter lists in `uses`", name, location=(docname, line)
                )


def free_ids(app: Sphinx, doctree: nodes.document) -> None:
    """Every id once: a claim's id is its own, and bodies of exercises, which all get the same, are numbered."""
    claims = build_of(app).manifest.claims
    seen: set[str] = set()
    for section in doctree.findall(nodes.section):
        section["ids"] = [free(name, seen | claims.keys()) for name in section["ids"]]
        seen.update(section["ids"])


def free(name: str, taken: set[str]) -> str:
    """The name, or the first of name-2, name-3, ... that is not taken.

    >>> free("body", {"body", "body-2"})
    'body-3'
    """
    return next(tried for tried in chain([name], (f"{name}-{at}" for at in count(2))) if tried not in taken)


def fit_headings(app: Sphinx, doctree: nodes.document) -> None:
    """A claim's title is one level below the section it stands in."""
    for title in doctree.findall(element):
        if title["html"].get("class") == "claim-title":
            depth, above = 1, title.parent
            while above is not None:
                depth += isinstance(above, nodes.section)
                above = above.parent
            title["tag"] = f"h{min(6, depth)}"


def _purge(app: Sphinx, env: BuildEnvironment, docname: str) -> None:
    boxes = boxes_of(env)
    for name in [name for name, home in boxes.items() if home == docname]:
        del boxes[name]
    leans_of(env).pop(docname, None)


def setup(app: Sphinx) -> None:
    app.add_node(claim_link)
    app.add_role("claim", ClaimRole())
    app.add_role("claim-link", ClaimRole())
    app.connect("env-purge-doc", _purge)
    app.connect("doctree-read", free_ids, priority=100)
    app.connect("doctree-read", fit_headings)
    app.connect("env-updated", check_boxes)
    app.connect("doctree-resolved", fill_links)
