"""The claim box, the chain of its proof, and what breaks it.

    ```{claim} reparam-lemma
    ```
    ```{proof-steps} reparam-lemma
    ```
    ```{break-it} reparam-lemma
    ```

Hypotheses are switches: native checkboxes, on at first. What appears when one is off is marked with
``data-off="<claim>-<hypothesis>"`` and shown by a style rule of the page (`switch_rules`), so no script is needed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, cast

from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.domains.std import StandardDomain
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from qkvtheory.lanes.written import folded

from .build import boxes_of, build_of
from .elements import el, element
from .links import links
from .manifest import Manifest, status
from .tables import badge, controls_table, lanes, verdict_badge
from .text import display, inline

logger = logging.getLogger(__name__)
LEFT_OVER = "The two sides then differ by"  # ends a message of the manifest where a formula follows


class ClaimDirective(SphinxDirective):
    """What the three directives share: one argument, the id of a claim in the manifest."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        manifest: Manifest = build_of(self.env.app).manifest
        if manifest.path:
            self.env.note_dependency(str(manifest.path))
        claim = manifest.claims.get(self.arguments[0])
        if claim is None:
            logger.warning("no claim %r in the manifest", self.arguments[0], location=self.get_location())
            return []
        return self.draw(claim, manifest)

    def draw(self, claim: dict[str, Any], manifest: Manifest) -> list[nodes.Node]:
        raise NotImplementedError

    def myst(self, text: str) -> list[nodes.Node]:
        """Nodes of a MyST text of the manifest."""
        holder = nodes.Element()
        self.state.nested_parse(StringList(text.splitlines(), source=self.get_source_info()[0]), 0, holder)
        return holder.children


class Claim(ClaimDirective):
    """The claim box."""

    def draw(self, claim: dict[str, Any], manifest: Manifest) -> list[nodes.Node]:
        name = claim["id"]
        boxes = boxes_of(self.env)
        if name in boxes:
            logger.warning(
                "claim %r has a second box; the first is in %s", name, boxes[name], location=self.get_location()
            )
        boxes.setdefault(name, self.env.docname)
        title = re.sub(r"[$`]", "", claim["title"])
        cast(StandardDomain, self.env.get_domain("std")).note_hyperlink_target(name, self.env.docname, name, title)
        equations = map(display, dict.fromkeys(claim["equations"]))  # two parts of a claim may print the same
        box = el(
            "article",
            self.head(claim),
            el("div", *self.myst(claim["statement"]), *equations, class_="claim-statement"),
            *answers(claim),
            *hypotheses(claim),
            lanes(claim),
            self.foot(claim, manifest),
            class_=f"claim {claim['rank']} {status(claim)}", aria_labelledby=f"{name}-title",
        )  # fmt: skip
        box["ids"] = [name]
        return [box]

    def head(self, claim: dict[str, Any]) -> element:
        """Rank, title, and a verdict that turns when a hypothesis is off."""
        name = claim["id"]
        every = switches(claim, (h["id"] for h in claim["hypotheses"]))
        return el(
            "header",
            el("span", claim["rank"].capitalize(), class_="claim-rank"),
            el("h3", *inline(claim["title"]), id=f"{name}-title", class_="claim-title"),
            el("span", badge(status(claim)), class_="while-on", data_on=every),
            el("span", badge("fail", {"fail": "a hypothesis is off"}), class_="when-off", data_off=every),
        )

    def foot(self, claim: dict[str, Any], manifest: Manifest) -> element:
        rows = [("Source", source) for source in self.sources(claim)]
        rows += [
            (label, links(ids))
            for label, ids in (("Uses", claim["uses"]), ("Used by", manifest.used_by(claim["id"])))
            if ids
        ]
        rows.append(("Run it", [el("code", claim["command"], class_="copy", tabindex="0")]))
        pairs = [part for label, content in rows for part in (el("dt", label), el("dd", *content))]
        return el("footer", el("dl", *pairs))

    def sources(self, claim: dict[str, Any]) -> Iterable[list[nodes.Node]]:
        """One line per source: the citation, its version, how the paper names the claim, and what it states."""
        for source in claim["sources"]:
            if not source["key"]:
                yield [el("strong", "Our own statement"), *inline(f": {source['note']}" if source.get("note") else "")]
                continue
            cited, _ = self.state.inline_text(f"{{cite}}`{source['key']}`", self.lineno)
            where = ", ".join(part for part in (source.get("version"), source.get("name")) if part)
            said = "; ".join(
                part for part in (source.get("note"), source.get("provenance")) if part and part != "paper"
            )
            yield [*cited, *inline(f" {where}" if where else ""), *inline(f" ({said})" if said else "")]


def answers(claim: dict[str, Any]) -> list[nodes.Node]:
    """What our own runs say to the claim: a verdict in words for each question, with its numbers."""
    items = [
        el(
            "li",
            verdict_badge(found["verdict"]["word"]),
            " ",
            *inline(found["question"]),
            el("small", *inline(measured(found))),
        )
        for found in claim.get("findings", [])
    ]
    return [el("ul", *items, class_="answers")] if items else []


def measured(found: dict[str, Any]) -> str:
    """The numbers of a verdict, and why it is none.

    >>> measured({"ours": "+1.0%", "source": "a", "published": "+3.1%", "verdict": {"reason": "only 1 seed"}})
    'Here +1.0%. Published: +3.1%. Only 1 seed.'
    """
    reason = found["verdict"]["reason"]
    here = (f"Here {found['ours']}. " if found["ours"] else "") + ("Published" if found["source"] else "Expected")
    return f"{here}: {sentence(found['published'])}" + (
        f" {sentence(reason[0].upper() + reason[1:])}" if reason else ""
    )


def hypotheses(claim: dict[str, Any]) -> list[nodes.Node]:
    """The switches, each followed by what appears when it is off."""
    if not claim["hypotheses"]:
        return []
    return [
        el(
            "fieldset",
            el("legend", "Holds when"),
            *(part for h in claim["hypotheses"] for part in switch(claim, h)),
            class_="hypotheses",
        )
    ]


def switch(claim: dict[str, Any], hypothesis: dict[str, str]) -> list[nodes.Node]:
    name = f"{claim['id']}-{hypothesis['id']}"
    box = el("input", type="checkbox", role="switch", checked=True, id=name, aria_describedby=f"{name}-says")
    label = el(
        "label",
        box,
        el("span", hypothesis["id"], class_="tag"),
        " ",
        el("span", *inline(hypothesis["name"]), class_="name"),
        for_=name,
    )
    says = el("p", *inline(sentence(hypothesis["sentence"])), id=f"{name}-says")
    return [
        el("div", label, says, class_="switch"),
        el("div", *consequences(claim, hypothesis["id"]), class_="when-off broken", data_off=name),
    ]


def sentence(text: str) -> str:
    """A full stop at the end, if there is none.

    >>> sentence("the basis is invertible")
    'the basis is invertible.'
    """
    return text if text.endswith((".", "!", "?")) else f"{text}."


def consequences(claim: dict[str, Any], hypothesis: str) -> Iterable[nodes.Node]:
    """What the algebra says with this hypothesis off, and what its controls measured."""
    broken = claim["breaks"].get(hypothesis, {"message": "", "latex": ""})
    says = f"{broken['message']}:" if broken["latex"] else sentence(broken["message"])
    yield el("p", el("strong", f"Without {hypothesis}"), *inline(f": {says}" if broken["message"] else "."))
    if broken["latex"]:
        yield display(folded(broken["latex"]))
    yield controls_table([c for c in claim["controls"] if c["hypothesis"] == hypothesis], with_hypothesis=False)


class ProofSteps(ClaimDirective):
    """The chain that the symbolic lane checked, as an ordered list."""

    option_spec = {"folded": directives.flag}  # noqa: RUF012 (docutils' own interface)

    def draw(self, claim: dict[str, Any], manifest: Manifest) -> list[nodes.Node]:
        found = [failures(claim, at, step) for at, step in enumerate(claim["steps"])]
        steps = [self.step(claim, at, failing) for at, failing in enumerate(found)]
        marked = {name for failing in found for name in failing}
        apart = [name for name in claim["breaks"] if name not in marked]
        notes = [note(claim, name, outside(claim, name)) for name in apart]
        chain = el("ol", *steps, class_="steps", data_fails=switches(claim, apart))
        summary = el("summary", "Proof, step by step")
        return [el("details", summary, *notes, chain, class_="proof", open="folded" not in self.options)]

    def step(self, claim: dict[str, Any], at: int, failing: dict[str, str]) -> element:
        step = claim["steps"][at]
        parts: list[nodes.Node] = [display(folded(step["latex"], "{}= " if at else ""))]
        unnamed = [needed for needed in step["needs"] if not step["reason"].startswith(f"{needed}:")]
        tags = [part for needed in unnamed for part in (nodes.Text(" "), el("span", needed, class_="tag"))]
        if step["reason"] or tags:
            parts.append(el("p", *inline(step["reason"]), *tags, class_="reason"))
        parts += [note(claim, name, says) for name, says in failing.items()]
        return el("li", *parts, data_fails=switches(claim, failing))


def switches(claim: dict[str, Any], hypotheses: Iterable[str]) -> str | None:
    """The ids of the switches of some hypotheses, as a value of data-off or data-fails."""
    return " ".join(f"{claim['id']}-{name}" for name in hypotheses) or None


def note(claim: dict[str, Any], hypothesis: str, says: str) -> element:
    """What a proof says when a hypothesis is off."""
    cross = el("span", "✗ ", aria_hidden="true")
    return el("p", cross, *inline(says), class_="when-off fails", data_off=switches(claim, [hypothesis]))


def outside(claim: dict[str, Any], hypothesis: str) -> str:
    """What to say where no single step fails: the chain is then about something else."""
    return f"Without {hypothesis} the chain does not apply: {in_words(claim['breaks'][hypothesis])}"


def in_words(broken: dict[str, Any]) -> str:
    """What is wrong, where the formula of what is left over is not shown.

    >>> in_words({"message": "Take a norm. The two sides then differ by", "latex": "X"})
    'take a norm.'
    >>> in_words({"message": "The two sides then differ by", "latex": "X"})
    'the two sides then differ.'
    """
    taken = broken["message"].removesuffix(LEFT_OVER).strip() or LEFT_OVER.removesuffix(" by")
    start = taken[0].lower() if taken.startswith(("Take ", "The ")) else taken[0]
    return sentence(start + taken[1:])


def failures(claim: dict[str, Any], at: int, step: dict[str, Any]) -> dict[str, str]:
    """Hypothesis -> what is wrong with this step without it: the algebra refused it, or it leans on the hypothesis."""
    found: dict[str, str] = {}
    for name, broken in claim["breaks"].items():
        if broken["step"] == at:
            found[name] = f"Without {name} this step fails: {in_words(broken)}"
        elif broken["step"] is None and name in step["needs"]:
            found[name] = f"This step needs {name}."
    return found


class BreakIt(ClaimDirective):
    """All controls of a claim."""

    def draw(self, claim: dict[str, Any], manifest: Manifest) -> list[nodes.Node]:
        return [controls_table(claim["controls"])]


def switch_rules(page: str) -> str:
    """Style rules for the switches on a page: what each one shows, hides and marks when it is off.

    >>> 'main:has(#a-H1:not(:checked)) [data-off~="a-H1"]' in switch_rules('<input role="switch" id="a-H1">')
    True
    """
    names = [
        m[1]
        for tag in re.findall(r"<input [^>]*>", page)
        if 'role="switch"' in tag and (m := re.search(r' id="([^"]+)"', tag))
    ]
    rules = []
    for name in names:
        off = f"main:has(#{name}:not(:checked)) "
        rules.append(f'{off}[data-off~="{name}"]{{display:revert}}{off}[data-on~="{name}"]{{display:none}}')
        rules.append(
            f'{off}[data-fails~="{name}"]{{--step:var(--qkv-fail)}}{off}[data-fails~="{name}"]~li{{border-left-style:dotted}}'
        )
    return "".join(rules)


def setup(app: Sphinx) -> None:
    app.add_directive("claim", Claim)
    app.add_directive("proof-steps", ProofSteps)
    app.add_directive("break-it", BreakIt)
