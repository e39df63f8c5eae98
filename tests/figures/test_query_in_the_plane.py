"""The picture of a query in the plane: its drawings say what they show, and one of them is seen at a time."""

import re
import xml.etree.ElementTree as ET
from itertools import product

import numpy as np
import pytest

from qkvtheory.figures import PICTURES, RESULTS, picture
from qkvtheory.figures import query_in_the_plane as plane
from qkvtheory.figures.style import PALETTES

STATES = [plane.State(*choice) for choice in product(*plane.CHOICES.values())]
STRAIGHT = [s for s in STATES if s.strength == "0" or s.activation == "none"]
BENT = [s for s in STATES if s not in STRAIGHT]


@pytest.fixture(scope="module")
def html():
    return picture("query-in-the-plane")


def test_the_buttons_name_every_drawing_once(html):
    root = ET.fromstring(re.sub(r"(<input [^>]*)>", r"\1/>", html.replace(" checked", ' checked=""')))
    drawn = [node.get("class").split()[1:] for node in root.iter("div") if "query-plane-state" in node.get("class")]
    assert len(drawn) == len({tuple(d) for d in drawn}) == len(STATES)
    buttons = {f"{b.get('name').removeprefix('query-plane-')}-{b.get('value')}" for b in root.iter("input")}
    assert buttons == {name for d in drawn for name in d}
    assert sum("checked" in b.attrib for b in root.iter("input")) == len(plane.CHOICES)


def test_the_style_sheet_has_a_rule_for_every_button(html):
    css = (RESULTS.parent / "assets" / "site.css").read_text("utf8")
    for name, value in re.findall(r'name="query-plane-(\w+)" value="(\d)"', html):
        rule = f'[name$="{name}"][value="{value}"]:checked) .query-plane-state:not(.{name}-{value})'
        assert css.count(rule) == 1, rule


@pytest.mark.parametrize("state", STRAIGHT)
def test_a_linear_query_keeps_lines_and_sums(state):
    q = plane.query(state)
    assert plane.apart(q) < 1e-12
    for line in plane.grid(q):
        assert np.linalg.matrix_rank(line - line[0], tol=1e-9) <= 1
    if state.basis != plane.FIRST.basis:
        assert np.allclose(q(plane.TOKENS), plane.TOKENS)


@pytest.mark.parametrize("state", BENT)
def test_a_query_that_is_not_linear_keeps_neither_in_any_basis(state):
    q = plane.query(state)
    assert plane.apart(q) > 0.2 and f"{plane.apart(q):.2f} apart" in plane.said(state)
    assert any(np.linalg.matrix_rank(line - line[0], tol=1e-2) == 2 for line in plane.grid(q))


def test_the_basis_takes_over_the_slope_at_the_origin():
    q = plane.query(plane.FIRST._replace(basis=plane.BASES[1]))
    assert np.allclose(q(1e-6 * np.eye(2)), 1e-6 * np.eye(2), atol=1e-15)


@pytest.mark.parametrize("state", STATES)
def test_what_is_compared_lies_inside_the_picture(state):
    q = plane.query(state)
    sums = [q(plane.TOKENS).sum(axis=0), q(plane.TOKENS.sum(axis=0, keepdims=True))]
    assert max(abs(at).max() for at in sums) < plane.VIEW - 0.3


def test_its_colors_are_those_of_the_page(html):
    used = set(re.findall(r"var\(--qkv-(\w+)", html))
    assert used and used <= PALETTES["light"].keys()


def test_it_is_small_and_no_number_is_missing(html):
    assert len(html) < 60_000 and "nan" not in html


def test_a_query_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"n x 2 for n x 2, not \(2, 1\)"):
        plane.drawing(lambda x: x[:, :1])
    with pytest.raises(ValueError, match="query-in-the-plane"):
        picture("query in the plane")
    assert "query_in_the_plane" in PICTURES
