"""The pages around the text: our own layout in place of the theme's, with nothing that leaves this site.

The theme and the extensions that Jupyter Book loads register scripts, styles and icon fonts, some on other hosts.
The layout of this book names the few files it uses, so none of those are ever loaded; what they wrote into the output
folder is removed at the end (`prune`).
"""

from __future__ import annotations

import posixpath
import re
import shutil
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util import logging

from .build import build_of
from .claims import switch_rules
from .elements import el
from .math import glyph_sheet

logger = logging.getLogger(__name__)
TEMPLATES = Path(__file__).with_name("templates")
ASSETS = Path(__file__).parents[2] / "assets"
ICONS = {
    "menu": "M3 6h18v2H3zm0 5h18v2H3zm0 5h18v2H3z",
    "search": "M10 3a7 7 0 0 1 5.6 11.2l5.1 5.1-1.4 1.4-5.1-5.1A7 7 0 1 1 10 3zm0 2a5 5 0 1 0 0 10 5 5 0 0 0 0-10z",
    "theme": "M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18zm0 2v14a7 7 0 0 1 0-14z",
}
USED = {
    "pygments.css", "documentation_options.js", "doctools.js", "sphinx_highlight.js", "searchtools.js",
    "language_data.js", "sphinx-design.min.css", "plotly.min.js", "plots", "widgets",
}  # fmt: skip


def use_templates(app: Sphinx, config: Config) -> None:
    """Our templates come before the theme's; indices nobody asked for are not made."""
    config.templates_path = [str(TEMPLATES), *config.templates_path]
    config.html_use_index = False
    config.html_domain_indices = False


def fold(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Boxes marked ``dropdown`` become native <details>: they fold without a script, and print open."""
    for box in list(doctree.findall(nodes.Element)):
        if not isinstance(box, nodes.Admonition) or "dropdown" not in box["classes"]:
            continue
        title = box.children[0]
        for link in list(title.findall(nodes.reference)):  # a summary is a button; it can hold no link
            link.replace_self(link.children)
        summary = el("summary", *title.children)
        details = el("details", summary, *box.children[1:], class_=" ".join(["folded", *box["classes"]]))
        details["ids"] = box["ids"]
        box.replace_self(details)


def require_alt(app: Sphinx, doctree: nodes.document) -> None:
    """Every picture says in words what it shows."""
    for image in doctree.findall(nodes.image):
        if not image.get("alt"):
            logger.warning("image %s has no alternative text", image.get("uri"), location=image)


def dress(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """What the layout needs to know about one page."""
    body = context.get("body", "")
    context["body"] = mend(body) + glyph_sheet(body, build_of(app).tex.glyphs)
    context["qkv_rules"] = switch_rules(body)
    context["qkv_icons"] = ICONS
    context["qkv_styles"] = [
        "pygments.css",
        "site.css",
        *(file for mark, file in build_of(app).sheets.items() if mark in body),
    ]
    context["qkv_modules"] = [file for mark, file in build_of(app).modules.items() if mark in body]
    context["qkv_title"] = window_title(context) if pagename != "search" else f"Search – {context['docstitle']}"
    context["qkv_description"] = description(doctree)
    context["qkv_toc"] = inner_toc(context.get("toc", ""))
    context["body"] = context["body"].replace("</h1>", f"</h1>{folded_toc(context['qkv_toc'])}", 1)
    context["qkv_colophon"] = colophon(app)


def mend(body: str) -> str:
    """Markup of others: tables scroll in our boxes, a bibliography is no list (its entries have their own role), and
    the button of a folded cell holds words, not paragraphs, and is called by them.
    """
    body = body.replace('class="pst-scrollable-table-container"', 'class="scroll"')
    body = body.replace('<div role="list" class="citation-list">', '<div class="citation-list">')
    body = body.replace('<summary aria-label="Toggle hidden content">', "<summary>")
    return re.sub(r'<p class="(collapsed|expanded) admonition-title">(.*?)</p>', r'<span class="\1">\2</span>', body)


def window_title(context: dict[str, Any]) -> str:
    """Page title and book title as plain text."""
    page = re.sub(r"<[^>]+>", "", context.get("title") or "")
    return page if page == context["docstitle"] or not page else f"{page} – {context['docstitle']}"


def description(doctree: nodes.document | None) -> str:
    """The first paragraph, cut at a word, for search engines and link previews."""
    first = next(iter(doctree.findall(nodes.paragraph)), None) if doctree else None
    text = " ".join(first.astext().split()) if first else ""
    return text if len(text) <= 160 else text[:157].rsplit(" ", 1)[0] + "…"


def inner_toc(toc: str) -> str:
    """Sphinx lists the page itself first; the sections below it are what a reader wants."""
    inner = re.search(r"<ul>.*?</a>\s*(<ul>.*</ul>)\s*</li>\s*</ul>", toc, re.S)
    return inner[1] if inner else ""


def folded_toc(toc: str) -> str:
    """The sections of a page under its title, folded, for screens without a third column."""
    return f'<details class="toc-here"><summary>On this page</summary>{toc}</details>' if toc else ""


def colophon(app: Sphinx) -> str:
    """When and with what the checks on these pages ran."""
    meta = build_of(app).manifest.meta
    versions = ", ".join(f"{name} {version}" for name, version in meta["versions"].items())
    return f"© {app.config.copyright}. Checks run {meta['time'][:16].replace('T', ' ')} UTC with {versions}."


LINK = re.compile(r'\b(href|src|action|data-content_root)="([^"#:]+)')


def enter(app: Sphinx, error: Exception | None) -> None:
    """The front door: the first page lies in a folder; index.html is the same page, its links seen from the root."""
    first = app.builder.get_target_uri(app.config.root_doc)
    if error or first == "index.html":
        return
    folder = posixpath.dirname(first)
    page = Path(app.outdir, first).read_text("utf8")
    front = LINK.sub(lambda link: f'{link[1]}="{seen_from_root(folder, link[2])}', page)
    Path(app.outdir, "index.html").write_text(front, "utf8")


def seen_from_root(folder: str, link: str) -> str:
    """A relative link of a page in ``folder``, as a page at the root must write it.

    >>> [seen_from_root("book", link) for link in ("../_static/site.css", "part-1/x.html", "../")]
    ['_static/site.css', 'book/part-1/x.html', './']
    """
    path = posixpath.normpath(posixpath.join(folder, link))
    return path + "/" if link.endswith("/") else path


def prune(app: Sphinx, error: Exception | None) -> None:
    """Remove the files of the theme and its extensions that no page loads."""
    ours = {file.name for file in ASSETS.iterdir()}
    for path in (app.outdir / "_static").iterdir() if error is None else ():
        if path.name not in USED | ours:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def setup(app: Sphinx) -> None:
    app.connect("config-inited", use_templates, priority=999)
    app.connect("doctree-read", require_alt)
    app.connect("doctree-resolved", fold, priority=900)
    app.connect("html-page-context", dress, priority=999)
    app.connect("build-finished", enter, priority=999)
    app.connect("build-finished", prune, priority=999)
