"""Short texts of the manifest as docutils nodes: words, $formulas$, `code` and links to claims."""

from __future__ import annotations

import re
from collections.abc import Callable

from docutils import nodes

PIECE = re.compile(r"\$(?P<tex>[^$]+)\$|\{claim\}`(?P<claim>[^`]+)`|`(?P<code>[^`]+)`")


class claim_link(nodes.Inline, nodes.TextElement):
    """A link to a claim, filled in when every page is read."""


MADE: dict[str, Callable[[str], nodes.Node]] = {
    "tex": lambda said: nodes.math(said, said),
    "claim": lambda said: claim_link(claim=said),
    "code": lambda said: nodes.literal(said, said),
}


def inline(text: str) -> list[nodes.Node]:
    """Nodes of one line in which $...$ is a formula, `...` is code and {claim}`...` a link to a claim.

    >>> [type(node).__name__ for node in inline("the basis $Theta$ of `x`, by {claim}`a-lemma`")]
    ['Text', 'math', 'Text', 'literal', 'Text', 'claim_link']
    """
    found: list[nodes.Node] = []
    at = 0
    for piece in PIECE.finditer(text):
        if piece.start() > at:
            found.append(nodes.Text(text[at : piece.start()]))
        kind = str(piece.lastgroup)
        found.append(MADE[kind](piece[kind]))
        at = piece.end()
    if at < len(text):
        found.append(nodes.Text(text[at:]))
    return found


def display(tex: str) -> nodes.math_block:
    """A displayed formula without a number."""
    return nodes.math_block(tex, tex, nowrap=True, number=None, label=None)
