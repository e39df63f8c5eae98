"""The Sphinx extension: formulas, colors, claims, values, and what makes a build fail."""

from __future__ import annotations

import copy
import doctest
import importlib
import io
import json
import pkgutil
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sphinx")

import qkvbook
from qkvbook.dag import direct, drawing, layers
from qkvbook.manifest import Manifest, number, status
from qkvbook.math import TexError, Typesetter, glyph_sheet
from qkvbook.plain import plain
from qkvbook.symbols import color
from qkvbook.values import read

from qkvtheory.claims.register import register
from qkvtheory.lanes import report
from qkvtheory.lanes.results import ControlResult, LaneResult

ROOT = Path(__file__).parents[1]
STYLE = (ROOT / "book" / "assets" / "site.css").read_text("utf8")
MODULES = [info.name for info in pkgutil.iter_modules(qkvbook.__path__, "qkvbook.")]

LANE = {
    "status": "pass",
    "comparisons": 3,
    "worst": 1e-13,
    "tolerance": 1e-10,
    "seconds": 0.1,
    "opaque": ["phi"],
    "reason": "",
}
SINGULAR = {"hypothesis": "H1", "what": "a singular basis", "lane": "numeric", "status": "rejected", "size": 0.9}
FIRST: dict[str, Any] = {
    "id": "first",
    "rank": "remark",
    "kind": "identity",
    "title": "What $W_Q$ sees",
    "chapter": "one",
    "statement": "The product $XW_Q$.",
    "equations": ["X = X"],
    "sources": [{"key": "", "version": "", "name": "", "provenance": "derived", "note": "small"}],
    "hypotheses": [{"id": "H1", "name": "invertible basis", "sentence": "$\\Theta$ is invertible"}],
    "uses": [],
    "steps": [{"latex": "X", "reason": "", "needs": []}, {"latex": "X", "reason": "a reason", "needs": ["H1"]}],
    "breaks": {"H1": {"step": 1, "message": "nothing cancels", "latex": "\\Theta"}},
    "lanes": {"numeric": LANE},
    "controls": [{**SINGULAR, "reason": ""}],
    "command": "python -m qkvtheory check first",
}
PAGE = "# One\n\n```{claim} first\n```\n\n```{proof-steps} first\n```\n"


def manifest(*claims: dict[str, Any], sources: str = "0") -> dict[str, Any]:
    meta = {
        "versions": {"python": "3.11"},
        "time": "2026-01-01T00:00:00+00:00",
        "sources_sha256": sources,
        "seconds": 1.0,
    }
    return {"meta": meta, "claims": list(claims), "left_out": []}


def claim(**changes: Any) -> dict[str, Any]:
    made = {**copy.deepcopy(FIRST), **changes}
    return {"status": status(made), **made}


def build(folder: Path, pages: dict[str, str], data: dict[str, Any], **options: Any) -> tuple[str, Path]:
    """Build a small book; its warnings and its folder of pages."""
    from sphinx.application import Sphinx
    from sphinx.util.docutils import docutils_namespace, patch_docutils

    (folder / "_build").mkdir()
    (folder / "_build" / "claims.json").write_text(json.dumps(data), "utf8")
    for name, text in pages.items():
        (folder / f"{name}.md").write_text(text, "utf8")
    listed = "\n".join(pages)
    (folder / "index.md").write_text(f"# A book\n\n```{{toctree}}\n{listed}\n```\n", "utf8")
    (folder / "refs.bib").write_text("@book{a, title={A}, author={B. C}, year=2000, publisher={D}}\n", "utf8")
    settings = {
        "extensions": ["myst_nb", "sphinxcontrib.bibtex", "qkvbook"], "html_title": "A book", "html_theme": "basic",
        "html_math_renderer": "qkv", "html_static_path": [str(ROOT / "book" / "assets")],
        "myst_enable_extensions": ["dollarmath"],
        "bibtex_bibfiles": ["refs.bib"], "qkv_check_sources": False, "nb_execution_mode": "off", **options,
    }  # fmt: skip
    warnings = io.StringIO()
    out = folder / "_build" / "html"
    with patch_docutils(), docutils_namespace():
        app = Sphinx(folder, None, out, folder / "_build" / "doctrees", "html", settings, io.StringIO(), warnings)
        app.build()
    return re.sub(r"\x1b\[[\d;]*m", "", warnings.getvalue()), out


@pytest.mark.parametrize("module", MODULES)
def test_examples_in_docstrings(module: str) -> None:
    assert doctest.testmod(importlib.import_module(module)).failed == 0


# --- formulas ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tex", "expected"),
    [
        (r"W_Q", r"{\class{sym-q}{W_Q}}"),
        (r"W_{K}^{(h)}", r"{\class{sym-k}{W_{K}^{(h)}}}"),
        (r"\widetilde{W}_V'", r"{\class{sym-v}{\widetilde{W}_V'}}"),
        (r"\Theta^{-1}", r"{\class{sym-theta}{\Theta^{-1}}}"),
        (r"\tilde\Theta_1", r"{\class{sym-theta}{\tilde\Theta_1}}"),
        (r"QK^\top", r"{\class{sym-q}{Q}}{\class{sym-k}{K^\top}}"),
        (r"e^{X}", r"e^{{\class{sym-x}{X}}}"),
        (r"G_K^{-1}", r"G_{\class{sym-k}{K}}^{-1}"),
        (r"W_Q e^X_1", r"{\class{sym-q}{W_Q}} e^{\class{sym-x}{X}}_1"),
        (r"\frac QK", r"\frac {\class{sym-q}{Q}}{\class{sym-k}{K}}"),
        (r"W_O", r"W_O"),
        (r"\mathrm{KV}", r"\mathrm{KV}"),
        (r"\text{if } V", r"\text{if } {\class{sym-v}{V}}"),
        (r"\mathcal{K}", r"\mathcal{K}"),
        (r"\begin{matrix}X\end{matrix}", r"\begin{matrix}{\class{sym-x}{X}}\end{matrix}"),
    ],
)
def test_symbols_get_their_color(tex: str, expected: str) -> None:
    assert color(tex) == expected


@pytest.fixture(scope="module")
def typesetter(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made = Typesetter(tmp_path_factory.mktemp("tex") / "formulas.json")
    yield made
    made.close()


@pytest.mark.parametrize(
    "tex", [r"\frac QK", r"e^X", r"\sqrt X", r"\hat{Q}_i^2", r"W_Q'", r"\left(X\right)^{-1}", r"X\Theta\Theta^{-1}W_Q"]
)
def test_colored_formulas_are_still_tex(tex: str, typesetter: Typesetter) -> None:
    parts = typesetter.typeset(tex, display=False)
    assert parts["svg"].startswith("<svg") and "sym-" in parts["svg"] and parts["mathml"].startswith("<math")


def test_bad_tex_is_refused(typesetter: Typesetter) -> None:
    for bad in (r"\frac{a", r"\nosuchmacro", r"a^b^c"):
        with pytest.raises(TexError):
            typesetter.typeset(bad, display=False)


def test_each_outline_once(typesetter: Typesetter) -> None:
    page = "".join(typesetter.html(tex) for tex in ("X", "XX", "XY"))
    sheet = glyph_sheet(page, typesetter.glyphs)
    assert sheet.count("<path ") == 2
    assert glyph_sheet("<p>no formula</p>", typesetter.glyphs) == ""


def test_a_wide_formula_may_break_and_keeps_its_comma(tmp_path: Path) -> None:
    long = " + ".join("X W_Q W_K V" for _ in range(4))
    text = f"# One\n\n```{{claim}} first\n```\n\nSee (${long} = {long}$), and $X = X$.\n"
    warnings, out = build(tmp_path, {"one": text}, manifest(claim()))
    (said,) = re.findall(r"<p>See (.*?)</p>", (out / "one.html").read_text("utf8"), re.S)
    said = re.sub(r"<svg.*?</svg>", "~", re.sub(r'<span class="mathml">.*?</span>', "", said))
    assert warnings == ""
    wide, narrow = '<span class="math wide">~</span>', '<span class="math">~</span>'
    together = '<span class="together">{}</span>'.format
    lines = f'<span class="lines">{together("(" + wide)} {together(wide + "),")}</span>'
    assert said == f"{lines} and {together(narrow + '.')}"


def test_formulas_are_remembered(tmp_path: Path) -> None:
    store = tmp_path / "formulas.json"
    first = Typesetter(store)
    drawn = first.html("X+1")
    first.close()
    again = Typesetter(store)
    assert again.html("X+1") == drawn
    assert "process" not in vars(again)


@pytest.mark.parametrize(
    ("tex", "text"), [(r"W_Q^{-1}", "W_Q⁻¹"), (r"X\Theta", "XΘ"), (r"\mathrm{MHA}(X)", "MHA(X)"), (r"K^\top", "Kᵀ")]
)
def test_plain_text(tex: str, text: str) -> None:
    assert plain(tex) == text


# --- figures ----------------------------------------------------------------------------------------------------------


def test_a_figure_names_its_claims_below_it_each_with_a_link(tmp_path: Path) -> None:
    from qkvtheory.widgets import WIDGETS

    one = "# One\n\n```{widget} telescope\n```\n\n```{widget} cache\n```\n"
    names = list(WIDGETS["telescope"].CLAIMS.values())
    boxes = "# Two\n\n" + "".join(f"```{{claim}} {name}\n```\n\n" for name in names)
    data = manifest(*(claim(id=name, title=f"About {name}", chapter="two") for name in names))
    warnings, out = build(tmp_path, {"one": one, "two": boxes}, data)
    page = (out / "one.html").read_text("utf8")
    said = page[page.index("The claims behind this figure:") :].partition("</p>")[0]
    assert re.findall(r'href="two\.html#([\w-]+)" class="claim-link"', said) == names and len(names) == 6
    assert [f"{words}: " in said for words in WIDGETS["telescope"].CLAIMS] == [True] * 6
    assert page.count("The claims behind this figure") == 1 and warnings == ""  # the cache figure has none


def test_the_claims_of_all_figures_are_in_the_register() -> None:
    from qkvtheory.widgets import WIDGETS

    named = [name for module in WIDGETS.values() for name in getattr(module, "CLAIMS", {}).values()]
    assert len(named) > 10 and set(named) <= set(register())


# --- colors -----------------------------------------------------------------------------------------------------------


def pairs() -> dict[str, tuple[str, str]]:
    return {
        name: (light, dark) for name, light, dark in re.findall(r"--qkv-([\w-]+): light-dark\((#\w+), (#\w+)\)", STYLE)
    }


def luminance(hexadecimal: str) -> float:
    parts = [int(hexadecimal[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("name", ["q", "k", "v", "x", "theta", "text", "muted", "link", "pass", "fail", "rank"])
@pytest.mark.parametrize("ground", ["page", "surface"])
@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
def test_contrast(name: str, ground: str, mode: int) -> None:
    assert contrast(pairs()[name][mode], pairs()[ground][mode]) >= 4.5


def test_five_symbols_five_colors() -> None:
    for mode in (0, 1):
        assert len({pairs()[name][mode] for name in ("q", "k", "v", "x", "theta")}) == 5


def test_style_and_scripts_name_no_other_host() -> None:
    for file in (ROOT / "book" / "assets").iterdir():
        assert not re.search(r"https?://(?!www\.w3\.org)", file.read_text("utf8")), file


# --- the manifest -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lanes", "controls", "verdict"),
    [
        (["pass", "pass"], ["rejected"], "pass"),
        (["pass", "not-run"], ["rejected"], "pass"),
        (["not-run"], ["not-run"], "not-run"),
        (["pass", "fail"], ["rejected"], "fail"),
        (["pass"], ["rejected", "accepted"], "fail"),
    ],
)
def test_verdict(lanes: list[str], controls: list[str], verdict: str) -> None:
    states = {str(at): {"status": state} for at, state in enumerate(lanes)}
    assert status({"lanes": states, "controls": [{"status": state} for state in controls]}) == verdict


def test_problems_are_named() -> None:
    assert Manifest(manifest(claim())).faults() == []
    red = claim(lanes={"numeric": {**LANE, "status": "fail"}})
    fooled = claim(controls=[SINGULAR, {**SINGULAR, "status": "accepted"}])
    for bad, said in [
        (red, "numeric lane fails"),
        (fooled, "was accepted"),
        (claim(controls=[]), "no control that was rejected"),
        (claim(controls=[{**SINGULAR, "status": "not-run"}]), "no control that was rejected"),
        (claim(lanes={"numeric": LANE, "exact": {**LANE, "status": "not-run"}}), "exact lane was not run"),
        (claim(lanes={"formal": {**LANE, "comparisons": 0}}), "passes without a comparison"),
        (claim(status="fail"), "stored as 'fail'"),
        (claim(lanes={}, status="pass"), "stored as 'pass'"),
        (claim(uses=["x"]), "no claim"),
    ]:
        (line,) = Manifest(manifest(bad)).faults()
        assert said in line


def test_a_formal_lane_may_be_missing_on_a_machine() -> None:
    lanes = {"numeric": LANE, "formal": {**LANE, "status": "not-run", "comparisons": 0}}
    assert Manifest(manifest(claim(lanes=lanes))).faults() == []


@pytest.fixture(scope="module")
def whole() -> str:
    """A manifest of all claims as a whole run writes it, without the work of the run."""
    reports = []
    for one in register().values():
        lanes = report.lanes_of(one)
        controls = [ControlResult(c.hypothesis, c.what, dict.fromkeys(lanes, "rejected")) for c in one.controls]
        reports.append(report.ClaimReport(one, {lane: LaneResult(comparisons=1) for lane in lanes}, controls))
    return json.dumps(report.manifest(reports, 1.0))


def some(stored: dict[str, Any]) -> dict[str, Any]:
    return next(entry for entry in stored["claims"] if entry["id"] == "reparam-lemma")


DAMAGE = {
    "numeric only": (
        lambda it: some(it).update(lanes={"numeric": some(it)["lanes"]["numeric"]}),
        "reparam-lemma: not as in the register: lanes ['numeric'] in place of",
    ),
    "another statement": (lambda it: some(it).update(statement="$1=2$"), "another statement"),
    "hypotheses": (lambda it: some(it)["hypotheses"].pop(), "another hypotheses"),
    "no lanes": (lambda it: some(it).update(lanes={}), "lanes [] in place of"),
    "a control less": (lambda it: some(it)["controls"].pop(), "no control '"),
    "claims missing": (lambda it: it["claims"].__delitem__(slice(8, None)), "its claims are not those of the register"),
    "a claim twice": (lambda it: it["claims"].append(some(it)), "their order or number"),
    "an unknown claim": (lambda it: some(it).update(id="other"), "(other, reparam-lemma)"),
    "a number": (lambda it: some(it)["lanes"]["exact"].update(worst=1e-3), "entries were edited"),
    "sources": (lambda it: it["meta"].update(sources_sha256="0"), "the sources changed since it was made"),
    "python": (lambda it: it["meta"]["versions"].update(python="3.0"), "it was made with python 3.0, here is 3."),
    "numpy": (lambda it: it["meta"]["versions"].pop("numpy"), "it was made with numpy of no known version"),
    "a package": (lambda it: it["meta"]["versions"].update(other="1"), "it was made with other 1, here is none"),
    "no digest": (lambda it: it["meta"].pop("digest"), "entries were edited"),
}  # fmt: skip


def test_the_manifest_of_a_whole_run_has_no_problems(whole: str) -> None:
    assert Manifest(json.loads(whole)).problems() == []


@pytest.mark.parametrize(("damage", "said"), DAMAGE.values(), ids=DAMAGE)
def test_a_manifest_of_something_else_is_noticed(whole: str, damage: Any, said: str) -> None:
    stored = json.loads(whole)
    damage(stored)
    assert any(said in line for line in Manifest(stored).problems()), Manifest(stored).problems()


def test_only_the_digest_is_needed_for_a_small_edit(whole: str) -> None:
    stored = json.loads(whole)
    some(stored)["lanes"]["numeric"]["worst"] = 1e-3
    assert Manifest(stored).problems() == ["the manifest: its entries were edited after it was made; run `make check`"]


def test_values_are_read_by_path(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"rows": [{"cond": 2431.7}]}', "utf8")
    data = Manifest(manifest(claim())).data
    assert read("claims.first.controls.0.size|.1e", data, tmp_path) == "9.0e-01"
    assert read("run.rows.0.cond|.0f", data, tmp_path) == "2432"
    for bad in ("claims.none.title", "run.rows.7.cond", "nothing.at.all"):
        with pytest.raises(KeyError):
            read(bad, data, tmp_path)
    assert [number(value) for value in (0, 1200, 3.14e-15)] == ["0", "1,200", "3.1e-15"]


def test_layers_of_the_drawing() -> None:
    assert layers({"a": [], "b": ["a"], "c": ["a"], "d": ["b", "c"]}) == [["a"], ["b", "c"], ["d"]]
    assert direct({"a": [], "b": ["a"], "c": ["a", "b"]}) == {"a": [], "b": ["a"], "c": ["b"]}
    svg = drawing(
        {"a": {"uses": [], "rank": "theorem"}, "b": {"uses": ["a"], "rank": "remark"}}, lambda name: f"#{name}"
    )
    assert svg.count("<a ") == 2 and svg.count("<path ") == 1


# --- builds -----------------------------------------------------------------------------------------------------------


def test_a_good_book_builds_without_a_word(tmp_path: Path) -> None:
    pages = {
        "one": f"{PAGE}\nSee {{claim}}`first`, {{value}}`claims.first.controls.0.size|.2f`.\n",
        "all": "# All\n\n```{register}\n```\n",
    }
    warnings, out = build(tmp_path, pages, manifest(claim()))
    assert warnings == ""
    text = (out / "one.html").read_text("utf8")
    assert 'role="switch"' in text and 'id="first"' in text and "0.90" in text
    assert "<title>One – A book</title>" in text
    assert not re.search(r'(src|href)="(https?:)?//', text)
    assert '<a href="one.html#first"' in (out / "all.html").read_text("utf8")


def test_tables_of_checks_and_controls(tmp_path: Path) -> None:
    """A proof assistant measures no error; the result of a control stands second; a wrong construction is called so."""
    wrong = {**SINGULAR, "hypothesis": "construction", "what": "a wrong way", "reason": ""}
    data = claim(lanes={"numeric": LANE, "formal": LANE}, controls=[{**SINGULAR, "reason": ""}, wrong])
    _, out = build(tmp_path, {"one": f"{PAGE}\n```{{break-it}} first\n```\n"}, manifest(data))
    text = re.sub(r"<[^>]+>", " ", (out / "one.html").read_text("utf8").replace("</td>", "|"))
    rows = re.sub(r"\s+", " ", text.replace("|", " | "))
    assert re.search(r"floating point ✓ pass \| 3 \| 1e-13 \| 1e-10 \|", rows)
    assert re.search(r"opaque: (&#x3D5;|ϕ) ", rows), "a name is drawn as its symbol"
    assert re.search(r"proof assistant ✓ pass \| – \| – \| – \|", rows)
    assert re.search(r"H1 \| ✓ rejected \| a singular basis \| 0.9 \| numeric \|", rows)
    assert re.search(r"none \(wrong construction\) \| ✓ rejected \| a wrong way \|", rows)


@pytest.mark.parametrize(
    ("page", "data", "said"),
    [
        (f"{PAGE}\nBad $\\frac{{a$ here.\n", manifest(claim()), r"one\.md:9: WARNING: cannot typeset"),
        (f"{PAGE}\n$$\n\\nosuchmacro\n$$\n", manifest(claim()), r"one\.md:9: WARNING: cannot typeset"),
        (f"{PAGE}\n```{{claim}} second\n```\n", manifest(claim()), r"one\.md:9: WARNING: no claim 'second'"),
        (f"{PAGE}\n{{claim}}`second`\n", manifest(claim()), r"one\.md:9: WARNING: no claim 'second'"),
        (f"{PAGE}\n{{value}}`claims.second.x`\n", manifest(claim()), r"one\.md:9: WARNING: no value"),
        ("# One\n", manifest(claim()), "claim 'first' has no box in its chapter 'one'"),
        (
            f"{PAGE}\n```{{claim}} first\n```\n",
            manifest(claim()),
            r"one\.md:9: WARNING: claim 'first' has a second box",
        ),
        (PAGE, manifest(claim(lanes={"numeric": {**LANE, "status": "fail"}})), "the numeric lane fails"),
        (PAGE, manifest(claim(controls=[])), "hypothesis H1 has no control that was rejected"),
        (f"{PAGE}\n![](picture.svg)\n", manifest(claim()), "has no alternative text"),
    ],
    ids=["inline tex", "display tex", "box", "role", "value", "no box", "two boxes", "red", "no control", "no alt"],
)
def test_what_is_wrong_is_said(tmp_path: Path, page: str, data: dict[str, Any], said: str) -> None:
    (tmp_path / "picture.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>', "utf8")
    warnings, _ = build(tmp_path, {"one": page}, data)
    assert warnings and re.search(said, warnings), warnings


def test_leaning_on_a_claim_needs_uses(tmp_path: Path) -> None:
    second = claim(id="second", chapter="two")
    two = "# Two\n\n```{claim} second\n```\n\nBy {claim}`first`.\n"
    warnings, _ = build(tmp_path, {"one": PAGE, "two": two}, manifest(claim(), second))
    assert re.search(r"two\.md:6: WARNING: leans on claim 'first'", warnings)


@pytest.mark.parametrize("how", ["uses", "link"])
def test_leaning_openly_is_fine(tmp_path: Path, how: str) -> None:
    second = claim(id="second", chapter="two", uses=["first"] if how == "uses" else [])
    two = f"# Two\n\n```{{claim}} second\n```\n\nBy {{{'claim' if how == 'uses' else 'claim-link'}}}`first`.\n"
    warnings, _ = build(tmp_path, {"one": PAGE, "two": two}, manifest(claim(), second))
    assert warnings == ""


def test_what_is_left_over_follows_a_colon(tmp_path: Path) -> None:
    """Where the formula is not shown, the sentence that leads to it is not either."""
    left_over = {"step": None, "message": "Take a norm. The two sides then differ by", "latex": "X"}
    _, out = build(tmp_path, {"one": PAGE}, manifest(claim(breaks={"H1": left_over}, steps=FIRST["steps"][:1])))
    text = re.sub(r"<[^>]+>", "", (out / "one.html").read_text("utf8"))
    assert "Without H1: Take a norm. The two sides then differ by:" in text
    assert "Without H1 the chain does not apply: take a norm." in text and text.count("differ by") == 1


def test_a_reason_links_the_claim_it_leans_on(tmp_path: Path) -> None:
    """The link says "by" and the title, and needs no `uses`: the claim's own calculation named it, not the page."""
    by = {"latex": "X + X", "reason": "by {claim}`first`", "needs": []}
    second = claim(id="second", chapter="two", steps=[*FIRST["steps"], by])
    two = "# Two\n\n```{claim} second\n```\n\n```{proof-steps} second\n```\n"
    warnings, out = build(tmp_path, {"one": PAGE, "two": two}, manifest(claim(), second))
    text = (out / "two.html").read_text("utf8")
    assert warnings == ""
    assert re.search(r'class="reason">by <a href="one\.html#first" class="claim-link"', text) and "{claim}" not in text


def test_a_reason_that_names_no_claim_is_said(tmp_path: Path) -> None:
    data = claim(steps=[{"latex": "X", "reason": "by {claim}`other`", "needs": ["H1"]}])
    warnings, _ = build(tmp_path, {"one": PAGE}, manifest(data))
    assert "WARNING: no claim 'other' in the manifest" in warnings


def test_a_stale_manifest_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qkvbook.manifest._doubts", lambda stored: ["the sources changed"])
    warnings, out = build(tmp_path, {"one": PAGE}, manifest(claim()), qkv_check_sources=True)
    assert "WARNING: the manifest: the sources changed; run `make check`" in warnings
    assert "its claims are not those of the register" in warnings
    assert (out / "one.html").is_file()


def test_what_a_kernel_sent_in_pieces_stays_on_its_line():
    from qkvbook.notebooks import whole_streams

    def stream(name, text):
        return {"output_type": "stream", "name": name, "text": text}

    outputs = [stream("stdout", "a: "), {"output_type": "display_data"}, stream("stderr", "!"), stream("stdout", "1\n")]
    assert [o.get("text") for o in whole_streams(outputs)] == ["a: 1\n", None, "!"]
