"""Charts: a still picture on the page, and a plotly figure over it once a script runs and the chart comes into view.

    ```{plot} error-ladder
    An optional caption.
    ```

The name is a key of ``qkvtheory.figures.FIGURES``, whose values are
``(interactive() -> plotly dict, still(theme) -> svg, alternative text)``.
Plotly output of notebook cells is drawn in the same way (`notebooks`).

plotly.js comes from the plotly wheel and is loaded from this site, once, by the first chart that comes near the view.
"""

from __future__ import annotations

import json
import re
import shutil
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from .build import build_of
from .elements import el

logger = logging.getLogger(__name__)
MARK = "data-plot"


def live(figure: dict[str, Any], label: str) -> nodes.raw:
    """The place of a plotly figure and its data. The template is left out: the page brings its own colors."""
    layout = {key: value for key, value in figure.get("layout", {}).items() if key != "template"}
    kept = {"data": figure["data"], "layout": layout, "frames": figure.get("frames", [])}
    data = json.dumps(kept, separators=(",", ":")).replace("<", "\\u003c")
    start = f'<div class="plot-live" {MARK} role="group" aria-label="{escape(label)}">'
    return nodes.raw("", f'{start}<script type="application/json">{data}</script></div>', format="html")


class Plot(SphinxDirective):
    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        from qkvtheory.figures import FIGURES, RESULTS

        for file in RESULTS.glob("*.json"):
            self.env.note_dependency(str(file))
        name = self.arguments[0]
        if name not in FIGURES:
            logger.warning("no figure %r; there are: %s", name, ", ".join(FIGURES), location=self.get_location())
            return []
        interactive, still, alt = FIGURES[name]
        folder = Path(self.env.app.outdir) / "_static" / "plots"
        folder.mkdir(parents=True, exist_ok=True)
        for stored in sorted(Path(self.env.srcdir, "book", "results").glob("*.json")):
            self.env.note_dependency(str(stored))  # a figure may draw from any of them
        pictures = [self.picture(folder, name, theme, still(theme), alt) for theme in ("light", "dark")]
        caption = [el("figcaption", *self.parse_content_to_nodes()[0].children)] if self.content else []
        return [
            el("figure", el("div", *pictures, live(interactive(), alt), class_="plot-frame"), *caption, class_="plot")
        ]

    def picture(self, folder: Path, name: str, theme: str, svg: str, alt: str) -> nodes.Node:
        file = folder / f"{name}-{theme}.svg"
        file.write_text(svg, "utf8")
        _, _, width, height = re.findall(r"[-\d.]+", re.search(r'viewBox="([^"]+)"', svg)[1])  # type: ignore[index]
        root = "../" * self.env.docname.count("/")
        return el(
            "img",
            src=f"{root}_static/plots/{file.name}",
            alt=alt,
            width=round(float(width)),
            height=round(float(height)),
            loading="lazy",
            class_=f"still-{theme}",
        )


def host_plotly(app: Sphinx, error: Exception | None) -> None:
    """Copy plotly.js into the site if a page has a chart."""
    if error or not any(MARK in page.read_text("utf8") for page in Path(app.outdir).rglob("*.html")):
        return
    import plotly

    target = Path(app.outdir) / "_static" / "plotly.min.js"
    shutil.copyfile(Path(plotly.__file__).parent / "package_data" / "plotly.min.js", target)


def setup(app: Sphinx) -> None:
    build_of(app).modules[f" {MARK} "] = "plots.js"
    app.add_directive("plot", Plot)
    app.connect("build-finished", host_plotly)
