"""The charts: one set of numbers in every form, letters as letters, readable on light and dark, described in words."""

import gzip
import json
import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from qkvtheory.figures import FIGURES, RESULTS, stored
from qkvtheory.figures import ladder as ladder_figure
from qkvtheory.figures import pretrained as pretrained_figure
from qkvtheory.figures.style import BOTH, PALETTES

plotly = pytest.importorskip("plotly")
pytest.importorskip("matplotlib")
TRAININGS = {  # name -> words that its still must show
    "decode": ("tokens", "milliseconds"),
    "sharing": ("perplexity", "Q-K=V"),
    "identity": ("change of loss", "identity"),
    "rates": ("learning rate", "weight decay"),
    "synthetic": ("REVERSE", "temperature"),
    "pair-bound": ("mass over a pair", "bound"),
    "recall": ("accuracy", "heads of"),
    "digits": ("digits", "controls"),
    "posthoc": ("validation loss", "tied afterwards"),
    "padding": ("loss of Q-K=V", "predicted"),
    "overfitting": ("training loss", "published"),
}


def is_here(name: str) -> bool:
    """Trainings take hours, so a checkout may lack their results; all others must be here."""
    if name not in TRAININGS:
        return True
    try:
        return bool(stored(FIGURES.sources[name])["runs"])
    except FileNotFoundError:
        return False


NAMES = sorted(filter(is_here, FIGURES))
THEMES = sorted(PALETTES)
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def stills():
    return {(name, theme): FIGURES[name].still(theme) for name in NAMES for theme in THEMES}


@pytest.mark.parametrize("name", NAMES)
def test_plotly_accepts_the_figure(name):
    figure = FIGURES[name].interactive()
    shown = plotly.graph_objects.Figure(figure)
    assert len(shown.data) == len(figure["data"]) > 3
    with pytest.raises(ValueError):  # the validation is on
        plotly.graph_objects.Figure({"data": [{**figure["data"][0], "nonsense": 1}]})


@pytest.mark.parametrize("name", NAMES)
def test_the_figure_is_plain_finite_data(name):
    text = json.dumps(FIGURES[name].interactive(), allow_nan=False)
    assert 1000 < len(text) < 40_000


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("name", NAMES)
def test_the_still_is_small_svg_with_letters(stills, name, theme):
    svg = stills[name, theme]
    root = ET.fromstring(svg)
    assert root.tag == f"{SVG}svg" and len(root.get("viewBox").split()) == 4
    words = " ".join("".join(text.itertext()) for text in root.iter(f"{SVG}text"))
    if name in TRAININGS:
        assert all(said in words for said in TRAININGS[name])
    else:
        assert ("float" in words or "linear map" in words) and "relative error" in words
    assert len(gzip.compress(svg.encode())) < 12_000
    assert not re.search(r"https?://(?!www\.w3\.org)", svg), "a still refers to no other host"


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("name", NAMES)
def test_every_color_is_a_variable_with_the_color_of_the_theme(stills, name, theme):
    svg = stills[name, theme]
    used = dict(re.findall(r"var\(--qkv-(\w+), (#[0-9a-f]{6})\)", svg))
    assert used and used.items() <= PALETTES[theme].items()
    loose = set(re.findall(r"#[0-9a-f]{6}\b", re.sub(r"var\([^)]*\)", "", svg)))
    assert loose <= {"#000000"}, loose


@pytest.mark.parametrize("name", NAMES)
def test_light_and_dark_differ_in_colors_only(stills, name):
    def bare(svg):
        return re.sub(r"\bm[0-9a-f]{10}\b", "id", re.sub(r"(var\(--qkv-)\w+, #[0-9a-f]{6}\)", r"\1)", svg))

    light, dark = (bare(stills[name, theme]) for theme in ("light", "dark"))
    assert light == dark
    assert stills[name, "light"] != stills[name, "dark"]


@pytest.mark.parametrize("name", NAMES)
def test_a_still_is_the_same_every_time(stills, name):
    assert FIGURES[name].still("light") == stills[name, "light"]


def luminance(color: str) -> float:
    channels = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_measured():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)


@pytest.mark.parametrize("theme", THEMES)
def test_marks_stand_out_on_both_grounds(theme):
    ground = PALETTES[theme]["page"]
    assert min(contrast(color, ground) for color in BOTH.values()) >= 3
    assert min(contrast(c, ground) for name, c in PALETTES[theme].items() if name not in ("page", "line")) >= 4.5


def test_the_palettes_are_the_colors_of_the_site():
    css = (RESULTS.parent / "assets" / "site.css").read_text("utf8")
    for name in PALETTES["light"]:
        pair = re.search(rf"--qkv-{name}: light-dark\((#\w+), (#\w+)\)", css)
        assert pair, f"the site has no color --qkv-{name}"
        assert pair.groups() == (PALETTES["light"][name], PALETTES["dark"][name])


@pytest.mark.parametrize("name", NAMES)
def test_series_differ_in_more_than_color(name):
    """A color-blind reader tells the series apart by marker, dash or place."""
    looks: dict[str, set] = {}
    for trace in FIGURES[name].interactive()["data"]:
        if "markers" in trace["mode"]:
            marker = trace["marker"]
            looks.setdefault(marker["symbol"], set()).add(marker.get("color") or marker["line"]["color"])
    assert len(looks) >= 4 and all(len(colors) == 1 for colors in looks.values())


@pytest.mark.parametrize("name", NAMES)
def test_alternative_text_says_the_numbers(name):
    alt = FIGURES[name].alt
    assert 150 < len(alt) < 700
    assert not re.search(r"[<>\"]|nan|None", alt)


def test_the_alternative_text_follows_the_data():
    data = stored("ladder")
    before = ladder_figure.alt(data)
    data["dtypes"]["float64"]["rungs"][0]["error"] = 7.7e-3
    assert "0.0077" in ladder_figure.alt(data) and ladder_figure.alt(data) != before


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_the_ladder_chart_shows_the_stored_numbers(dtype):
    data = stored("ladder")
    trace = next(t for t in ladder_figure.interactive(data)["data"] if t["name"] == dtype)
    rungs = data["dtypes"][dtype]["rungs"]
    assert sorted(zip(trace["x"], trace["y"], strict=True)) == sorted((row["cond"], row["error"]) for row in rungs)
    assert trace["x"] == sorted(trace["x"])


def test_still_and_interactive_show_the_same_points():
    """In the still, a precision's markers are as many as its points, and all lie inside the axes."""
    data = stored("ladder")
    (x_low, x_high), (y_low, y_high) = ladder_figure.X_RANGE, ladder_figure.Y_RANGE
    for rows in ladder_figure.series(data).values():
        assert all(
            x_low < math.log10(row["cond"]) < x_high and y_low < math.log10(row["error"]) < y_high for row in rows
        )
    root = ET.fromstring(ladder_figure.still(data, "light"))
    markers = sum(1 for use in root.iter(f"{SVG}use") if float(use.get("y", 0)) != 0)
    assert markers >= sum(len(rows) for rows in ladder_figure.series(data).values())


def test_names_stand_at_the_right_end_of_their_series():
    data = stored("ladder")
    placed = {text: (x, y) for text, x, y, *_ in ladder_figure.labels(data)}
    for name, rows in ladder_figure.series(data).items():
        x, y = placed[ladder_figure.NAMES.get(name, name)]
        assert y == rows[-1]["error"] and 0 < math.log10(x / max(row["cond"] for row in rows)) < 0.5
    data = stored("pretrained")
    names = pretrained_figure.interactive(data)["layout"]["annotations"]
    for place, dtype in zip(names, pretrained_figure.DTYPES, strict=True):
        last = [math.log10(data["layers"][-1][letter][dtype]) for letter in "QKV"]
        assert place["text"] == dtype and place["x"] > 1 and min(last) < place["y"] < max(last)


def test_axes_do_not_end_at_their_outer_ticks():
    for low, high in (pretrained_figure.COND_RANGE, pretrained_figure.ERROR_RANGE):
        assert low % 1 and high % 1


BOXES = """([words, marks]) => {
  const box = (e) => { const b = e.getBoundingClientRect(); return [b.left, b.right, b.top, b.bottom]; };
  const inside = (e) => e.closest("[clip-path], .points");  // not the ticks of an axis
  return [[...document.querySelectorAll(words)].map((e) => [e.textContent.trim(), box(e)]),
    [...document.querySelectorAll(marks)].filter(inside).map((e) => ["a marker", box(e)])]; }"""


def meet(one, other):
    (left, right, top, bottom), (x, to_x, y, to_y) = one[1], other[1]
    return left < to_x and x < right and top < to_y and y < bottom


@pytest.mark.parametrize("form", ["still", "interactive"])
@pytest.mark.parametrize("name", NAMES)
def test_on_a_phone_no_name_lies_on_a_marker_or_on_another_name(browser, stills, name, form):
    frame, selectors = 390 - 2 * 16, ["text", "use"]
    page = browser.new_page(viewport={"width": 390, "height": 844})
    height = frame * float(re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', stills[name, "light"])[2]) / 360
    style = f"<style>body {{ margin: 16px }} svg {{ max-width: 100%; }} #plot {{ height: {height}px }}</style>"
    page.set_content(style + (stills[name, "light"] if form == "still" else '<div id="plot"></div>'))
    if form == "interactive":
        page.add_script_tag(path=str(Path(plotly.__file__).parent / "package_data" / "plotly.min.js"))
        page.evaluate("figure => Plotly.newPlot('plot', figure)", FIGURES[name].interactive())
        selectors = [".annotation-text", ".points path"]
    words, marks = page.evaluate(BOXES, selectors)
    page.close()
    assert name in TRAININGS or (len(words) >= 2 and len(marks) > 40)
    assert marks
    pairs = [(word, thing) for i, word in enumerate(words) for thing in words[i + 1 :] + marks]
    assert [pair for pair in pairs if meet(*pair)] == []
    assert all(left >= 0 and right <= 390 for _, (left, right, *_) in words)


def test_the_pretrained_chart_shows_the_stored_numbers():
    data = stored("pretrained")
    traces = pretrained_figure.interactive(data)["data"]
    for letter in "QKV":
        shown = next(t["y"] for t in traces if t["name"] == f"W<sub>{letter}</sub>")
        assert shown == [layer[letter]["cond"] for layer in data["layers"]]
        low, high = (10.0**e for e in pretrained_figure.COND_RANGE)
        assert all(low < y < high for y in shown)
        low, high = (10.0**e for e in pretrained_figure.ERROR_RANGE)
        errors = [y for t in traces if t.get("yaxis") == "y2" for y in t["y"]]
        assert all(low < y < high for y in errors)


def test_the_predicted_error_is_eps_times_cond():
    data = stored("pretrained")
    found = pretrained_figure.predicted(data, "K", "float32")
    assert found == pytest.approx([2.0**-23 * layer["K"]["cond"] for layer in data["layers"]], rel=2e-3)


def test_without_bfloat16_the_ladder_is_drawn_without_it():
    data = stored("ladder")
    del data["dtypes"]["bfloat16"]
    assert "bfloat16" not in ladder_figure.still(data, "light") + ladder_figure.alt(data)


def test_bad_requests_are_refused():
    with pytest.raises(KeyError):
        FIGURES["no such figure"]
    with pytest.raises(ValueError, match="theme must be one of light, dark"):
        FIGURES["error-ladder"].still("sepia")
    with pytest.raises(FileNotFoundError, match=r"python -m qkvtheory\.experiments\.other"):
        stored("other")
