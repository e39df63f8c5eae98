"""Interactive figures: ``{widget}`` puts a still and its data on the page, and one module brings them to life."""

from __future__ import annotations

import shutil
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from .build import build_of

logger = logging.getLogger(__name__)
MARK = "data-widget="


class Widget(SphinxDirective):
    """``{widget} basis-change``"""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        from qkvtheory.widgets import FOLDER, static_html

        for file in (*FOLDER.glob("*.py"), *FOLDER.glob("*.mjs")):
            self.env.note_dependency(str(file))
        try:
            html = static_html(self.arguments[0], style=False)
        except ValueError as error:
            logger.warning("%s", error, location=self.get_location())
            return []
        return [nodes.raw("", html, format="html")]


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
    app.connect("build-finished", copy_modules)
