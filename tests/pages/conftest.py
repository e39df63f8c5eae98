"""The built book, served from this machine and read in a real browser.

One visit per page collects what most tests ask about (`survey`), so that the whole folder stays fast.
"""

from __future__ import annotations

import functools
import gzip
import http.server
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).parents[2]
HTML = ROOT / "_build" / "html"
AXE = ROOT / "node_modules" / "axe-core" / "axe.min.js"
NO_BOOK = "(no book)"
PAGES = sorted(page.relative_to(HTML).as_posix() for page in HTML.rglob("*.html")) or [NO_BOOK]
SHIFTS = """window.shifts = 0; new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifts += entry.value;
}).observe({type: "layout-shift", buffered: true});"""
SCROLL = """async () => {
  for (let y = 0; y < document.documentElement.scrollHeight; y += innerHeight / 2) {
    scrollTo({top: y, behavior: "instant"}); await new Promise((done) => setTimeout(done, 15));
  }
}"""


WORDS = """() => { const copy = document.body.cloneNode(true);
  copy.querySelectorAll("code, pre, script, style").forEach((part) => part.remove()); return copy.textContent; }"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        return None


@dataclass
class Survey:
    """What one visit saw: requests and their gzip sizes, console lines, duplicate ids, layout shift, axe findings."""

    page: str
    elsewhere: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    console: list[str] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    duplicates: list[str] = field(default_factory=list)
    shift: float = 0.0
    overflow: int = 0
    text: str = ""
    axe: dict[str, list[str]] = field(default_factory=dict)


@pytest.fixture(scope="session")
def site() -> Iterator[str]:
    """The address of the served book."""
    if not (HTML / "index.html").is_file():
        pytest.fail("there is no built book: run `make book` first")
    handler = functools.partial(Quiet, directory=str(HTML))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture
def open_page(browser: Any, site: str) -> Iterator[Any]:
    """A function that opens a page of the book: open_page("book/register.html", width=360)."""
    contexts = []

    def opened(page: str, width: int = 1280, **options: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": 800}, **options)
        contexts.append(context)
        tab = context.new_page()
        tab.goto(site + page, wait_until="load")
        return tab

    yield opened
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def survey(browser: Any, site: str) -> Any:
    """What a visit to a page saw; each page is visited once."""
    return functools.cache(lambda page: visit(browser, site, page))


def visit(browser: Any, site: str, page: str) -> Survey:
    seen = Survey(page)
    context = browser.new_context(
        viewport={"width": 1280, "height": 800}, color_scheme="light", reduced_motion="reduce"
    )
    context.add_init_script(SHIFTS)
    context.route("**/*", lambda route: admit(route, site, seen))
    tab = context.new_page()
    tab.on("console", lambda message: seen.console.append(message.text))
    tab.on("pageerror", lambda error: seen.console.append(str(error)))
    tab.on("response", lambda answer: weigh(answer, seen))
    tab.goto(site + page, wait_until="load")
    tab.evaluate(SCROLL)
    tab.wait_for_load_state("networkidle")
    seen.shift = tab.evaluate("window.shifts")
    seen.duplicates = tab.evaluate(
        "() => { const ids = [...document.querySelectorAll('[id]')].map((e) => e.id);"
        " return ids.filter((id, at) => ids.indexOf(id) !== at); }"
    )
    seen.text = tab.evaluate(WORDS)
    tab.add_script_tag(path=str(AXE))
    for theme in ("light", "dark"):
        tab.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
        seen.axe[theme] = findings(tab)
    tab.set_viewport_size({"width": 360, "height": 740})
    seen.overflow = tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    context.close()
    return seen


def admit(route: Any, site: str, seen: Survey) -> None:
    """Let requests to the book pass; note and stop every other."""
    if route.request.url.startswith((site, "data:", "blob:")):
        route.continue_()
    else:
        seen.elsewhere.append(route.request.url)
        route.abort()


def weigh(answer: Any, seen: Survey) -> None:
    """Note the size of a file as a server with gzip would send it."""
    file = HTML / urlsplit(answer.url).path.lstrip("/")
    if file.is_file():
        seen.sizes[file.name] = len(gzip.compress(file.read_bytes(), 6))
    else:
        seen.failed.append(f"{answer.status} {answer.url}")


def findings(tab: Any) -> list[str]:
    """Serious and critical axe findings, one line each."""
    result = tab.evaluate("() => axe.run({resultTypes: ['violations']})")
    return [
        f"{rule['id']}: {node['target']} {node['html'][:120]}"
        for rule in result["violations"]
        if rule["impact"] in ("serious", "critical")
        for node in rule["nodes"]
    ]
