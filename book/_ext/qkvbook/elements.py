"""One docutils node for any HTML element, so that a directive can build markup around parsed content."""

from __future__ import annotations

from html import escape
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

VOID = {"input", "img", "br", "hr"}


class element(nodes.General, nodes.Inline, nodes.TextElement):
    """``<tag attributes>children</tag>``; other builders print the children alone."""


def el(tag: str, *children: nodes.Node | str, **attributes: Any) -> element:
    """An element. A trailing underscore and inner underscores in attribute names become nothing and dashes.

    >>> el("p", "hello", class_="lead", data_id="x").astext()
    'hello'
    """
    named = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
    node = element(tag=tag, html=named)
    node += [nodes.Text(child) if isinstance(child, str) else child for child in children]
    return node


def start_tag(tag: str, attributes: dict[str, Any]) -> str:
    """An opening tag; True is a bare attribute, None and False are left out."""
    parts = [tag]
    for name, value in attributes.items():
        if value is True:
            parts.append(name)
        elif value is not None and value is not False:
            parts.append(f'{name}="{escape(str(value))}"')
    return f"<{' '.join(parts)}>"


def _visit(self: Any, node: element) -> None:
    attributes = dict(node["html"])
    if node["ids"]:
        attributes["id"] = node["ids"][0]
    self.body.append(start_tag(node["tag"], attributes))
    if node["tag"] in VOID:
        raise nodes.SkipNode


def _depart(self: Any, node: element) -> None:
    self.body.append(f"</{node['tag']}>")


def _nothing(self: Any, node: element) -> None:
    return None


def setup(app: Sphinx) -> None:
    silent = (_nothing, _nothing)
    app.add_node(element, html=(_visit, _depart), latex=silent, text=silent, man=silent, texinfo=silent)
