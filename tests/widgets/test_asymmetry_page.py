"""The asymmetry widget in a real browser: on a static page, and as a notebook would run it."""

from __future__ import annotations

import gzip

import pytest

from qkvtheory.widgets import FOLDER, asymmetry, static_html
from tests.widgets.page_checks import (
    check_axe,
    check_cells,
    check_cleanup,
    check_contrast,
    check_print,
    check_swipe,
    check_times,
    check_width,
    colors_of,
    luminance,
    open_in_notebook,
    press_left_and_right,
)

SIX = [[1.6, 0.7], [-0.4, 1.2], [-1.3, -0.9], [0.7, -0.6], [-1.6, 0.4], [0.3, -1.7]]
FAR = [[2.0, -2.0], [-2.0, 2.0], [2.0, 2.0], [-2.0, -2.0], [2.0, -1.9], [-2.0, 1.9]]
LOUD = {"W_Q": [[-2.0, 2.0], [-2.0, -2.0]], "W_K": [[2.0, 2.0], [-2.0, 2.0]], "temperature": -3, "mode": "qkv"}


@pytest.fixture
def widget(open_page, site):
    driver = open_page().open(site.widget("asymmetry.html", "asymmetry"))
    yield driver
    assert driver.said == []


def seen(page):
    names = ["scores", "map", "skew", "cycles", "eigenvalues", "pairs"]
    return dict(zip(names, page.states(), strict=True))


def turns(page):
    return [el.get_attribute("data-turn") for el in page.page.locator('[data-part^="cycle "]').all()]


def arrows(page):
    return [el.get_attribute("d") for el in page.page.locator(".flow").all() if el.get_attribute("d")]


def test_script_repaints_exactly_what_the_server_painted(open_page, site):
    snapshot = """() => { const el = document.querySelector('.qkv-widget').cloneNode(true);
      for (const n of el.querySelectorAll('[data-noise]')) {
        for (const a of ['cx', 'cy', 'transform']) n.removeAttribute(a); }
      for (const n of el.querySelectorAll('[tabindex]')) n.removeAttribute('tabindex');
      el.querySelector('fieldset').removeAttribute('disabled'); return el.innerHTML; }"""
    states = [
        {},
        {"mode": "qkv"},
        {"correction": "key-bias", "temperature": -1.5, "tokens": SIX},
        {"mode": "qkv", "correction": "rope", "causal": True},
        {"correction": "cubic", "tokens": SIX[:3]},
        {"mode": "qkv", "correction": "linear", "temperature": 2.2, "tokens": SIX[:5]},
        {"temperature": 0, "tokens": [[0.5, 0.5]] * 3},
        {"tokens": FAR, **LOUD},
    ]
    still, live = open_page(), open_page()
    still.page.route("**/*.mjs", lambda route: route.abort())
    for name, state in enumerate(states):
        address = site.widget(f"asymmetry-{name}.html", "asymmetry", **state)
        still.page.goto(address)
        live.open(address)
        # The script starts from another picture, so that every part has to be painted.
        live.part("correction rope" if state.get("correction") != "rope" else "correction cubic").click()
        live.part("causal").click()
        live.part("token 0").press("ArrowUp")
        live.part("details").evaluate("e => { e.open = true; }")
        live.page.keyboard.press("Escape")
        live.page.wait_for_timeout(450)
        live.part("details").evaluate("e => { e.open = false; }")
        assert live.page.evaluate(snapshot) == still.page.evaluate(snapshot)


def test_two_projections_break_the_balance_and_one_keeps_it(widget):
    kept = {"scores": "yes", "map": "no", "skew": "no", "cycles": "yes", "eigenvalues": "yes", "pairs": "yes"}
    assert seen(widget) == kept and turns(widget) == ["balanced"] * 4 and arrows(widget) == []
    widget.announced("The map is reversible: every round is as likely as its way back")
    widget.part("mode qkv").click()
    assert set(seen(widget).values()) == {"no"} and turns(widget) == ["forth"] * 4 and len(arrows(widget)) == 6
    widget.announced("the round 1 → 2 → 3 → 1 is likelier than its way back")
    assert widget.part("mode qkv").get_attribute("aria-pressed") == "true"
    assert widget.part("term q").is_visible() and not widget.part("term k").is_visible()
    widget.part("mode q=k").click()
    assert seen(widget) == kept


def test_corrections(widget):
    expected = {"key-bias": "balanced", "rope": "balanced", "linear": "balanced", "cubic": "back", "none": "balanced"}
    for name, turn in expected.items():
        widget.part(f"correction {name}").click()
        assert set(turns(widget)) == {turn}, name
        for other in ("rope", "key-bias", "linear", "cubic"):
            assert widget.part(f"term {other}").is_visible() is (other == name)
        assert [b.get_attribute("data-part") for b in widget.page.locator('[aria-pressed="true"]').all()] == [
            "mode q=k",
            f"correction {name}",
        ]


def test_the_scale_of_the_scores_goes_through_zero_and_lets_pairs_cross(widget):
    slider = widget.part("temperature")
    slider.focus()
    for _ in range(10):
        widget.page.keyboard.press("ArrowLeft")
    assert slider.input_value() == "0" and widget.part("size").text_content() == "0.0"
    widget.announced("The scores and the map are symmetric.")
    assert set(widget.numbers("map")) == {0.25}
    widget.page.keyboard.press("Home")
    assert slider.get_attribute("aria-valuetext") == "−3.0"
    assert seen(widget)["cycles"] == "yes" and seen(widget)["eigenvalues"] == seen(widget)["pairs"] == "no"
    widget.announced("Across the line: tokens")
    assert widget.part("tag pairs").text_content().endswith("cross")
    widget.page.keyboard.press("Escape")
    assert slider.input_value() == "1" and seen(widget)["pairs"] == "yes"


def test_causal_mask(widget):
    widget.part("causal").check()
    assert turns(widget) == ["none"] * 4 and seen(widget)["cycles"] == "no" and seen(widget)["eigenvalues"] == "yes"
    assert seen(widget)["pairs"] == "none" and widget.part("pair 0 1").get_attribute("data-state") == "none"
    fills = [widget.part(name).evaluate("e => getComputedStyle(e).fill") for name in ("pair 0 1", "eigenvalue 0")]
    assert fills[0] != fills[1]  # neither green nor amber
    assert widget.page.locator(".masked").count() == 12
    assert widget.part("flow note").text_content().endswith("ends at token 1.")
    widget.announced("before the mask the scores are symmetric")
    widget.part("reset").click()
    assert turns(widget) == ["balanced"] * 4 and not widget.part("causal").is_checked()


def test_mouse(widget):
    old = widget.numbers("map")
    x, y = widget.drag("token 3", 30, -40)
    new = widget.center("token 3")
    assert abs(new[0] - x - 30) < 2 and abs(new[1] - y + 40) < 2
    assert widget.numbers("map") != old and seen(widget)["cycles"] == "yes"


def test_keyboard(widget):
    press = widget.page.keyboard.press
    order = widget.tab(14)
    tokens = [f"token {i}" for i in range(4)]
    buttons = ["mode q=k", "mode qkv", *(f"correction {name}" for name in asymmetry.CORRECTIONS)]
    assert order == [*tokens, *buttons, "temperature", "causal", "reset"]
    widget.part("mode qkv").focus()
    press("Space")
    assert seen(widget)["cycles"] == "no"
    outline = widget.part("mode qkv").evaluate("e => getComputedStyle(e).outlineStyle")
    assert outline == "solid"
    widget.part("token 0").focus()
    press("ArrowRight")
    press("PageDown")
    assert widget.value("token 0") == pytest.approx([1.7, -2])
    press("Escape")
    assert widget.value("token 0") == [1.6, 0.7] and seen(widget)["cycles"] == "yes"


def test_touch(open_page, site):
    phone = open_page(viewport={"width": 390, "height": 740}, has_touch=True, is_mobile=True)
    phone.open(site.widget("asymmetry-touch.html", "asymmetry"))
    check_swipe(phone, "token 1", (-6, 9), start=12)
    phone.part("mode qkv").tap()
    assert set(turns(phone)) != {"balanced"} and phone.said == []


def test_table_twin_has_the_numbers(widget):
    widget.part("mode qkv").click()
    widget.part("details").locator("summary").click()
    tables = widget.part("twin").locator("table")
    rows = [t.locator("tbody tr").all_inner_texts() for t in tables.all()]
    assert [len(r) for r in rows] == [4, 16, 6, 4, 4]
    cells = [[float(v.replace("−", "-")) for v in row.split("\t")[1:]] for row in rows[1]]
    assert [c[0] for c in cells] == widget.numbers("scores") and [c[1] for c in cells] == widget.numbers("map")
    assert [c[2] for c in cells] == widget.numbers("skew")
    assert rows[3][0].startswith("1 → 2 → 3 → 1\t3.")
    assert any(float(row.split("\t")[2].replace("−", "-")) > 0.1 for row in rows[4])
    widget.part("causal").check()  # an open table follows
    assert tables.nth(3).locator("td").all_inner_texts() == ["none"] * 4


@pytest.mark.parametrize("width", [360, 390, 760])
@pytest.mark.parametrize("tokens", [3, 4, 6])
def test_numbers_of_neighboring_cells_do_not_touch(open_page, site, width, tokens):
    page = open_page(viewport={"width": width, "height": 900})
    page.open(site.widget("asymmetry-cells.html", "asymmetry", tokens=FAR[:tokens], **LOUD))
    check_cells(page)


@pytest.mark.parametrize("tokens", [3, 4, 6])
def test_phone_width(open_page, site, tokens):
    page = open_page(viewport={"width": 360, "height": 740})
    page.open(site.widget("asymmetry-phone.html", "asymmetry", tokens=SIX[:tokens], correction="key-bias"))
    page.part("details").locator("summary").click()
    check_width(page, 360, ".hit, .qkv-switch, .qkv-range, .qkv-widget button, .qkv-widget summary")


def test_pictures_stand_still_when_the_sentence_changes(open_page, site):
    """Neither the start of the script nor a longer sentence moves the pictures that one is looking at."""
    for width in (360, 390, 1280):
        page = open_page(viewport={"width": width, "height": 900})
        page.open(site.widget("asymmetry-shift.html", "asymmetry"))
        tops = set()
        for name in ("mode qkv", "correction cubic", "correction key-bias", "causal", "mode q=k", "causal"):
            page.part(name).click()
            page.page.wait_for_timeout(400)
            tops.add(page.part("scores").evaluate("e => e.getBoundingClientRect().top + scrollY"))
        assert len(tops) == 1, (width, tops)


def test_two_widgets_on_a_page_do_not_meet(open_page, site):
    both = static_html("asymmetry") + static_html("asymmetry", causal=True) + static_html("basis-change")
    page = open_page().open(site.page("asymmetry-two.html", both + '<script type="module" src="mount.mjs"></script>'))
    page.page.wait_for_function("document.querySelectorAll('[data-mounted=yes]').length === 3")
    page.part("mode qkv").click()
    tags = page.page.locator('[data-part="tag scores"]')
    assert [tags.nth(i).get_attribute("data-state") for i in range(3)] == ["no", "yes", "stays"]
    assert page.said == []


def test_a_failure_or_no_script_leaves_the_picture(open_page, site):
    address = site.widget("asymmetry-broken.html", "asymmetry", mode="qkv")
    broken = open_page()
    broken.page.route("**/asymmetry.mjs", lambda route: route.abort())
    broken.page.goto(address)
    broken.page.wait_for_selector('[data-mounted="failed"]')
    assert broken.part("mode q=k").is_disabled() and turns(broken) == ["forth"] * 4
    without = open_page(java_script_enabled=False)
    without.page.goto(address)
    assert without.part("map").is_visible() and len(arrows(without)) == 6
    assert not without.part("temperature").is_visible()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_numbers_can_be_read_in_light_and_dark(open_page, site, theme):
    page = open_page(color_scheme=theme, reduced_motion="reduce")
    page.open(site.widget("asymmetry-theme.html", "asymmetry", mode="qkv", temperature=3, causal=True))
    colors = colors_of(page, ".qkv-matrix [role=img] span, .qkv-choice button")
    assert len(colors) == 48 + 7
    check_contrast(colors)
    assert (luminance(colors[0][0]) > 0.5) is (theme == "dark")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe(open_page, site, theme):
    page = open_page(color_scheme=theme, reduced_motion="reduce")
    page.open(site.widget("asymmetry-axe.html", "asymmetry", mode="qkv", correction="key-bias"))
    check_axe(page)


def test_print_is_a_light_still(open_page, site):
    page = open_page(color_scheme="dark").open(site.widget("asymmetry-print.html", "asymmetry", mode="qkv"))
    check_print(page, "map")
    assert page.page.locator(".qkv-formula").is_visible()


def test_as_a_notebook_runs_it(open_page, site):
    page = open_in_notebook(open_page(), site, "asymmetry")
    page.page.evaluate("model.set('temperature', -2)")  # a linked slider
    assert page.part("temperature").input_value() == "-2" and seen(page)["pairs"] == "no"
    page.part("mode qkv").click()
    assert page.page.evaluate("[model.get('mode'), saved]") == ["qkv", 1]
    check_cleanup(page)
    assert page.said == []


def test_size_of_the_script():
    names = ("qkv.mjs", "asymmetry.mjs", "mount.mjs")
    size = len(gzip.compress(b"".join((FOLDER / name).read_bytes() for name in names), 9))
    own = (FOLDER / "asymmetry.mjs").stat().st_size
    print(f"\nscript, gzip: {size} bytes of 15000; asymmetry.mjs alone, as it is: {own} bytes of 16384")
    assert size < 15_000 and own < 16_384


def test_time_of_an_input_is_reported(open_page, site):
    state = {"tokens": SIX, "mode": "qkv"}  # the most there is to compute: six tokens, complex eigenvalues, arrows
    page = open_page().open(site.widget("asymmetry-time.html", "asymmetry", **state))
    check_times(page, press_left_and_right("token 0"))
