"""Short texts of the manifest as docutils nodes: words, $formulas$ and `code`."""

from __future__ import annotations

import re

from docutils import nodes

PIECE = re.compile(r"\$([^$]+)\$|`([^`]+)`")


def inline(text: str) -> list[nodes.Node]:
    """Nodes of one line in which $...$ is a formula and `...` is code.

    >>> [type(node).__name__ for node in inline("the basis $Theta$ of `x`")]
    ['Text', 'math', 'Text', 'literal']
    """
    found: list[nodes.Node] = []
    at = 0
    for piece in PIECE.finditer(text):
        if piece.start() > at:
            found.append(nodes.Text(text[at : piece.start()]))
        tex, code = piece.groups()
        found.append(nodes.math(tex, tex) if tex else nodes.literal(code, code))
        at = piece.end()
    if at < len(text):
        found.append(nodes.Text(text[at:]))
    return found


def display(tex: str) -> nodes.math_block:
    """A displayed formula without a number."""
    return nodes.math_block(tex, tex, nowrap=True, number=None, label=None)
