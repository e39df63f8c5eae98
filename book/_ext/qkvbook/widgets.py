"""Interactive figures: ``{widget}`` puts a still and its data on the page, and one module brings them to life."""

from __future__ import annotations

import shutil
from pathlib import Path

import yaml
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from .build import build_of
from .elements import el
from .text import claim_link

logger = logging.getLogger(__name__)
MARK = "data-widget="


class Widget(SphinxDirective):
    """``{widget} basis-change``; its body, if there is one, is the state to start in, as YAML (``squeeze: 3``)."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        from qkvtheory.widgets import FOLDER, WIDGETS, static_html

        for file in (*FOLDER.glob("*.py"), *FOLDER.glob("*.mjs")):
            self.env.note_dependency(str(file))
        try:
            state = yaml.safe_load("\n".join(self.content)) or {}
            html = static_html(self.arguments[0], style=False, **state)
        except (ValueError, TypeError, yaml.YAMLError) as error:
            logger.warning("%s", error, location=self.get_location())
            return []
        claims = getattr(WIDGETS[self.arguments[0]], "CLAIMS", {})
        return [nodes.raw("", html, format="html"), *claimed(claims)]


def claimed(claims: dict[str, str]) -> list[nodes.Node]:
    """The claims behind a figure, each a link; nothing for a figure without claims of its own."""
    if not claims:
        return []
    said: list[nodes.Node] = []
    for words, name in claims.items():
        said += [nodes.Text(f"{'; ' if said else 'The claims behind this figure: '}{words}: "), claim_link(claim=name)]
    return [el("p", *said, nodes.Text("."), class_="muted")]


class Picture(SphinxDirective):
    """``{picture} projections-left``: a drawing that needs no script; its body is the caption."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        from qkvtheory.figures import picture

        try:
            drawn = nodes.raw("", picture(self.arguments[0]), format="html")
        except ValueError as error:
            logger.warning("%s", error, location=self.get_location())
            return []
        caption = [el("figcaption", *self.parse_content_to_nodes()[0].children)] if self.content else []
        return [el("figure", drawn, *caption, class_="plot")]


def copy_modules(app: Sphinx, error: Exception | None) -> None:
    """The modules and their style sheet, as they are in the package."""
    if error or not any(MARK in page.read_text("utf8") for page in Path(app.outdir).rglob("*.html")):
        return
    from qkvtheory.widgets import FOLDER

    target = Path(app.outdir) / "_static" / "widgets"
    target.mkdir(parents=True, exist_ok=True)
    for file in (*FOLDER.glob("*.mjs"), FOLDER / "widgets.css"):
        shutil.copyfile(file, target / file.name)


def setup(app: Sphinx) -> None:
    build_of(app).modules[MARK] = "widgets/mount.mjs"
    build_of(app).sheets[MARK] = "widgets/widgets.css"
    app.add_directive("widget", Widget)
    app.add_directive("picture", Picture)
    app.connect("build-finished", copy_modules)
