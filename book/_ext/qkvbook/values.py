"""Numbers in prose are computed: ``{value}`claims.reparam-lemma.controls.0.size|.1e` ``.

The path starts with ``claims.``, ``meta.`` or ``left_out`` in the manifest, or with the name of a file in
``book/results/``. After a bar stands a Python format.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxRole

from .build import build_of
from .manifest import lookup, number

logger = logging.getLogger(__name__)


def read(text: str, manifest: dict[str, Any], results: Path) -> str:
    """The value in print. Raises KeyError or ValueError.

    >>> read("meta.n|.1e", {"meta": {"n": 1200}}, Path())
    '1.2e+03'
    """
    path, _, spec = text.partition("|")
    first, _, rest = path.partition(".")
    if first in manifest:
        found = lookup(manifest, path)
    elif (stored := results / f"{first}.json").is_file():
        found = lookup(json.loads(stored.read_text("utf8")), rest)
    else:
        raise KeyError(f"{first!r} is neither in the manifest nor a file of book/results/")
    return format(found, spec) if spec else number(found)


NO_BREAK = "\u00a0"


def spoken(text: str) -> list[nodes.Node]:
    """A number as nodes: 1.2e-13 becomes 1.2 × 10 to the −13, with spaces at which no line breaks.

    >>> [node.astext().replace(NO_BREAK, " ") for node in spoken("1.2e-13")]
    ['1.2 × 10', '−13']
    """
    mantissa, _, exponent = text.partition("e")
    if not exponent or not exponent.lstrip("+-").isdigit():
        return [nodes.Text(text)]
    power = str(int(exponent)).replace("-", "−")
    return [nodes.Text(f"{mantissa}{NO_BREAK}×{NO_BREAK}10"), nodes.superscript("", power)]


class Value(SphinxRole):
    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        app = self.env.app
        results = Path(app.srcdir) / "book" / "results"
        manifest = build_of(app).manifest
        first = self.text.split(".")[0]
        self.env.note_dependency(str(manifest.path if first in manifest.data else results / f"{first}.json"))
        try:
            return spoken(read(self.text, manifest.data, results)), []
        except (KeyError, ValueError, TypeError) as error:
            logger.warning("no value %r: %s", self.text, error, location=self.get_location())
            return [nodes.literal(self.text, self.text)], []


def setup(app: Sphinx) -> None:
    app.add_role("value", Value())
