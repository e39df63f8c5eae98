"""Every built page: nothing from elsewhere, a silent console, valid links, light, still, readable and narrow enough."""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from .conftest import HTML, PAGES, ROOT

pytestmark = pytest.mark.pages
each_page = pytest.mark.parametrize("page", PAGES)
BUDGET = 220_000  # bytes with gzip, everything first-party but plotly
APART = {"plotly.min.js", "searchindex.js"}
VNU = ROOT / "node_modules" / "vnu-jar" / "build" / "dist" / "vnu.jar"


class Anchors(HTMLParser):
    """The ids of a page and what its links and sources point at."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value:
                self.ids.add(value)
            elif name in ("href", "src") and value and tag != "use":
                self.links.append(value)


@cache
def anchors(page: Path) -> Anchors:
    return Anchors(page.read_text("utf8"))


@each_page
def test_nothing_comes_from_another_host(page: str, survey: Any) -> None:
    assert survey(page).elsewhere == []


@each_page
def test_every_file_asked_for_is_there(page: str, survey: Any) -> None:
    assert survey(page).failed == []


@each_page
def test_console_is_silent(page: str, survey: Any) -> None:
    assert survey(page).console == []


@each_page
def test_ids_are_unique(page: str, survey: Any) -> None:
    assert survey(page).duplicates == []


@each_page
def test_weight(page: str, survey: Any) -> None:
    sizes = {name: size for name, size in survey(page).sizes.items() if name not in APART}
    assert sum(sizes.values()) <= BUDGET, sizes


@each_page
def test_nothing_jumps(page: str, survey: Any) -> None:
    assert survey(page).shift < 0.02


@each_page
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_accessible(page: str, theme: str, survey: Any) -> None:
    assert survey(page).axe[theme] == []


@each_page
def test_fits_a_phone(page: str, survey: Any) -> None:
    assert survey(page).overflow <= 0


@each_page
def test_links_lead_somewhere(page: str, site: str) -> None:
    """Every link inside the book names a file that exists, and an id on it."""
    here = HTML / page
    broken = []
    for link in anchors(here).links:
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            continue
        target = (here.parent / unquote(parts.path)).resolve() if parts.path else here
        if not target.is_file() or (
            target.suffix == ".html" and parts.fragment and unquote(parts.fragment) not in anchors(target).ids
        ):
            broken.append(link)
    assert broken == []


@each_page
def test_formulas_find_their_glyphs(page: str, site: str) -> None:
    text = (HTML / page).read_text("utf8")
    used = set(re.findall(r'<use href="#([^"]+)"', text))
    assert used <= anchors(HTML / page).ids


def test_some_page_has_formulas(site: str) -> None:
    assert any('<use href="#g-' in (HTML / page).read_text("utf8") for page in PAGES)


@each_page
def test_no_raw_tex_is_left(page: str, survey: Any) -> None:
    assert not re.search(r"\\\(|\\\[|\$\$|\\(mathrm|Theta|frac|begin)", survey(page).text)


@pytest.mark.skipif(not shutil.which("java"), reason="no java: the HTML checker does not run here")
def test_html_is_valid(site: str) -> None:
    if not VNU.is_file():
        pytest.skip("the npm package vnu-jar is not installed: the HTML checker does not run here")
    files = [str(HTML / page) for page in PAGES]
    done = subprocess.run(
        ["java", "-jar", str(VNU), "--errors-only", "--format", "gnu", *files], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
