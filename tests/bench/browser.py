"""Visit a built page in a real browser and count what it cost."""

from __future__ import annotations

import functools
import gzip
import http.server
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
SHIFT = """
window.shift = 0;
const count = entries => { for (const e of entries.getEntries()) if (!e.hadRecentInput) window.shift += e.value; };
new PerformanceObserver(count).observe({type: "layout-shift", buffered: true});
"""


@dataclass(frozen=True)
class Visit:
    """``kilobytes``: everything transferred, as gzip would send it; ``foreign``: requests to other hosts."""

    kilobytes: float
    without_plotly: float
    foreign: int
    messages: int
    shift: float


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


def visit(folder: Path, page: str) -> Visit:
    """Load the page, scroll to its end, and wait until nothing is asked for any more."""
    from playwright.sync_api import sync_playwright

    sizes: dict[str, float] = {}
    foreign: list[str] = []
    messages: list[str] = []
    with served(folder) as address, sync_playwright() as p:
        browser = p.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        tab = browser.new_page()
        tab.add_init_script(SHIFT)
        tab.on("console", lambda message: messages.append(message.text))
        tab.on("response", lambda r: sizes.setdefault(r.url, len(gzip.compress(r.body())) / 1e3 if r.ok else 0))
        tab.on(
            "request", lambda r: foreign.append(r.url) if not r.url.startswith((address, "data:", "blob:")) else None
        )
        tab.goto(f"{address}/{page}", wait_until="networkidle")
        for _ in range(200):
            if tab.evaluate("(scrollBy(0, 600), scrollY + innerHeight >= document.documentElement.scrollHeight - 2)"):
                break
            tab.wait_for_timeout(30)
        tab.wait_for_load_state("networkidle")
        shift = float(tab.evaluate("window.shift"))
        browser.close()
    plotly = sum(size for url, size in sizes.items() if "plotly" in url)
    total = sum(sizes.values())
    return Visit(total, total - plotly, len(foreign), len(messages), shift)
