"""The energy widget in a real browser: on a static page, and as a notebook would run it."""

from __future__ import annotations

import gzip
import re

import pytest

from qkvtheory.widgets import FOLDER, energy, static_html
from tests.widgets.page_checks import (
    check_axe,
    check_cells,
    check_cleanup,
    check_contrast,
    check_print,
    check_swipe,
    check_times,
    check_width,
    colors_from,
    colors_of,
    luminance,
    open_in_notebook,
    press_left_and_right,
)

SIX = [[1.6, 0.7], [-0.4, 1.2], [-1.3, -0.9], [0.7, -0.6], [-1.6, 0.4], [0.3, -1.7]]
MANY = {"K": SIX, "Q": [[0.5, 1.9], [-1.9, 0.3], [1.9, -0.4]]}
FAR = {"K": [[2.0, -2.0], [-2.0, 2.0], [2.0, 2.0]], "V": [[-2.0, -2.0], [2.0, -2.0], [-2.0, 2.0]], "alpha": 4}


@pytest.fixture
def widget(open_page, site):
    driver = open_page().open(site.widget("energy.html", "energy"))
    yield driver
    assert driver.said == []


def points(page, part):
    """The points of a drawn line."""
    d = page.part(part).get_attribute("d")
    return [[int(v) for v in pair] for pair in re.findall(r"[ML](-?\d+) (-?\d+)", d)]


def another(state):
    """A state with as many points and everything else different: nothing in its picture may stay."""
    turned = {name: [[-0.9 * y - 0.1, 0.8 * x - 0.2] for x, y in state[name]] for name in "KQV"}
    return energy.check_state(**turned, alpha=0.3 if state["alpha"] > 1 else 3.8, tied=not state["tied"])


def test_script_repaints_exactly_what_the_server_painted(open_page, site):
    snapshot = """() => { const el = document.querySelector('.qkv-widget').cloneNode(true);
      for (const n of el.querySelectorAll('[tabindex]')) n.removeAttribute('tabindex');
      for (const n of el.querySelectorAll('input')) for (const a of ['value', 'checked']) n.removeAttribute(a);
      el.querySelector('fieldset').removeAttribute('disabled');
      return [el.innerHTML, ...[...document.querySelectorAll('input')].map((n) => n.value + n.checked)]; }"""
    states = [
        {},
        {"tied": False},
        {"alpha": 0.2, "K": SIX[:3], "Q": [[0.0, 0.0]]},
        {**MANY, "alpha": 3.3},
        {**MANY, "alpha": 4, "tied": False},
        {"K": [[0.5, 0.5]] * 3, "Q": [[0.5, 0.5], [2.0, -2.0]]},
        {"K": [[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]], "tied": False},
        {**FAR, "tied": False},
    ]
    still, live = open_page(), open_page()
    still.page.route("**/*.mjs", lambda route: route.abort())
    mount = '<script type="module" src="mount.mjs"></script>'
    for name, given in enumerate(states):
        state = energy.check_state(**given)
        painted = static_html("energy", **state)
        still.page.goto(site.page(f"energy-{name}.html", painted + mount))
        # The script starts from the picture of another state, so that every part has to be painted.
        body = painted.replace(energy.still(state), energy.still(another(state)))
        live.open(site.page(f"energy-{name}-live.html", body + mount))
        live.part("details").evaluate("e => { e.open = true; }")
        live.page.wait_for_timeout(450)
        live.part("details").evaluate("e => { e.open = false; }")
        expected = still.page.evaluate(snapshot)
        assert live.page.evaluate(snapshot) == expected, given
        live.part("query 0").press("ArrowUp")
        live.part("alpha").press("ArrowLeft" if state["alpha"] > 1 else "ArrowRight")
        live.part("tied").click()
        assert live.page.evaluate(snapshot) != expected
        live.page.keyboard.press("Escape")
        live.page.wait_for_timeout(450)
        assert live.page.evaluate(snapshot) == expected, given


def test_with_keys_as_values_the_energy_falls_and_without_it_rises(widget):
    assert widget.states() == ["yes"] * 4
    assert all(widget.part(f"{part} {i}").get_attribute("d") == "" for part in ("climb", "rise") for i in (0, 1))
    falls = [y for _, y in points(widget, "curve 0")]
    assert falls == sorted(falls) and len(falls) == 9, "down is a larger y"
    bars = [y for _, y in points(widget, "bound 0")]
    assert all(low >= bar for low, bar in zip(falls[1:], bars, strict=True))
    widget.announced("no step raises the energy")
    widget.part("tied").uncheck()
    assert widget.states() == ["no"] * 4
    risen = points(widget, "rise 0")
    assert risen and all(b[1] < a[1] for a, b in zip(risen[::2], risen[1::2], strict=True))
    assert len(points(widget, "climb 0")) == len(risen) and widget.part("bound 0").get_attribute("d") == ""
    widget.announced("no function has this read-out as its gradient")
    widget.part("tied").check()
    assert widget.states() == ["yes"] * 4


def test_what_is_in_use_is_shown(widget):
    for tied in (False, True):
        widget.part("tied").set_checked(tied)
        for name in ("of", "term", "bars"):
            assert widget.part(f"{name} tied").is_visible() is tied
            assert widget.part(f"{name} untied").is_visible() is not tied
        assert widget.part("value 0").is_visible() is not tied and widget.part("ties").is_visible() is not tied


def test_the_landscape_changes_with_keys_and_sharpness_and_not_with_queries(widget):
    def ground():
        return [el.get_attribute("d") for el in widget.page.locator(".level").all()]

    start = ground()
    widget.part("query 0").press("ArrowLeft")
    assert ground() == start
    widget.part("key 0").press("ArrowLeft")
    assert sum(a != b for a, b in zip(ground(), start, strict=True)) > 8
    widget.part("reset").click()
    assert ground() == start
    slider = widget.part("alpha")
    slider.focus()
    widget.page.keyboard.press("Home")
    assert slider.get_attribute("aria-valuetext") == "0.2" == widget.part("size").text_content()
    assert ground() != start and len(widget.part("level 15").get_attribute("d").split("z")) == 2, "one valley"
    widget.page.keyboard.press("End")
    assert widget.part("size").text_content() == "4.0"
    assert len(widget.part("level 13").get_attribute("d").split("z")) > 2, "several"


def test_mouse(widget):
    old = widget.part("track 0").get_attribute("d")
    x, y = widget.drag("query 0", 30, 40)
    new = widget.center("query 0")
    assert abs(new[0] - x - 30) < 2 and abs(new[1] - y - 40) < 2
    assert widget.part("track 0").get_attribute("d") != old
    hull = widget.part("hull").get_attribute("d")
    widget.drag("key 0", 20, 20)
    assert widget.part("hull").get_attribute("d") != hull


def test_a_value_is_dragged_where_values_are_not_keys(widget):
    widget.part("tied").uncheck()
    old = widget.part("hull").get_attribute("d"), widget.part("ties").get_attribute("d")
    x, y = widget.drag("value 2", -24, -30)
    new = widget.center("value 2")
    assert abs(new[0] - x + 24) < 2 and abs(new[1] - y + 30) < 2
    now = widget.part("hull").get_attribute("d"), widget.part("ties").get_attribute("d")
    assert now[0] != old[0] and now[1] != old[1]


def test_keyboard(widget):
    press = widget.page.keyboard.press
    keys, values, queries = ([f"{kind} {i}" for i in range(n)] for kind, n in (("key", 4), ("value", 4), ("query", 2)))
    assert widget.tab(9) == [*keys, *queries, "tied", "alpha", "reset"], "hidden values are passed over"
    widget.part("tied").focus()
    press("Space")
    assert widget.states() == ["no"] * 4
    widget.part("key 3").focus()
    assert widget.tab(5) == [*values, "query 0"]
    press("ArrowRight")
    press("PageDown")
    assert widget.value("query 0") == pytest.approx([0.6, -2])
    press("Escape")
    assert widget.value("query 0") == [0.5, 1.9] and widget.states() == ["yes"] * 4


def test_touch(open_page, site):
    phone = open_page(viewport={"width": 390, "height": 740}, has_touch=True, is_mobile=True)
    phone.open(site.widget("energy-touch.html", "energy"))
    check_swipe(phone, "query 0", (-6, 9), start=12)
    check_swipe(phone, "key 3", (5, -6), start=-8)
    phone.part("tied").tap()
    assert "no" in phone.states() and phone.said == []


def test_table_twin_has_the_numbers(widget):
    widget.part("tied").uncheck()
    widget.part("details").locator("summary").click()
    tables = widget.part("twin").locator("table")
    rows = [[row.split("\t") for row in t.locator("tbody tr").all_inner_texts()] for t in tables.all()]
    assert [len(r) for r in rows] == [8, 9, 9, 4]
    number = [[float(v.replace("−", "-")) for v in row[1:]] for row in rows[1][1:]]
    assert [float(v.replace("−", "-")) for v in rows[1][0][1:3]] == widget.value("query 0")
    assert rows[1][0][4:] == ["–", "–"] and any(row[3] < 0 for row in number)
    numbers = [float(v.replace("−", "-")) for row in rows[3][:2] for v in row[1:]]
    assert numbers == widget.numbers("jacobian 0")
    widget.part("tied").check()  # an open table follows
    drops = tables.nth(1).locator("tbody tr td:nth-child(5)").all_inner_texts()
    assert drops[0] == "–" and all(float(v) >= 0 for v in drops[1:])


@pytest.mark.parametrize("width", [360, 390, 760])
def test_numbers_of_neighboring_cells_do_not_touch(open_page, site, width):
    page = open_page(viewport={"width": width, "height": 900})
    queries = [[0.0, 0.0], [0.1, 0.2], [-0.1, 0.0]]
    page.open(site.widget("energy-cells.html", "energy", **FAR, Q=queries, tied=False))
    check_cells(page)


@pytest.mark.parametrize("tied", [True, False])
def test_phone_width(open_page, site, tied):
    page = open_page(viewport={"width": 360, "height": 740})
    page.open(site.widget("energy-phone.html", "energy", **MANY, tied=tied))
    page.part("details").locator("summary").click()
    shown = ".qkv-handle:not(.value)" if tied else ".qkv-handle"
    check_width(page, 360, f"{shown} .hit, .qkv-switch, .qkv-range, .qkv-widget button, .qkv-widget summary")


def test_pictures_stand_still_when_the_sentence_changes(open_page, site):
    """Neither the start of the script nor a longer sentence moves what one is looking at."""
    for width in (360, 390, 1280):
        page = open_page(viewport={"width": width, "height": 900})
        page.open(site.widget("energy-shift.html", "energy"))
        places = set()
        for name, key in (("tied", "Space"), ("alpha", "Home"), ("alpha", "End"), ("tied", "Space"), ("alpha", "Home")):
            page.part(name).press(key)
            page.page.wait_for_timeout(400)
            tops = [
                page.part(p).evaluate("e => e.getBoundingClientRect().top + scrollY") for p in ("jacobian 0", "details")
            ]
            places.add(tuple(tops))
        assert len(places) == 1, (width, places)


def test_two_widgets_on_a_page_do_not_meet(open_page, site):
    both = static_html("energy") + static_html("energy", tied=False) + static_html("basis-change")
    page = open_page().open(site.page("energy-two.html", both + '<script type="module" src="mount.mjs"></script>'))
    page.page.wait_for_function("document.querySelectorAll('[data-mounted=yes]').length === 3")
    page.part("tied").click()
    tags = page.page.locator('[data-part="tag first 0"]')
    assert [tags.nth(i).get_attribute("data-state") for i in range(2)] == ["no", "no"]
    page.part("tied").click()
    assert [tags.nth(i).get_attribute("data-state") for i in range(2)] == ["yes", "no"]
    assert page.said == []


def test_a_failure_or_no_script_leaves_the_picture(open_page, site):
    address = site.widget("energy-broken.html", "energy", tied=False)
    broken = open_page()
    broken.page.route("**/energy.mjs", lambda route: route.abort())
    broken.page.goto(address)
    broken.page.wait_for_selector('[data-mounted="failed"]')
    assert broken.part("alpha").is_disabled() and points(broken, "climb 0")
    without = open_page(java_script_enabled=False)
    without.page.goto(address)
    assert without.part("plane").is_visible() and points(without, "track 1") and without.part("value 0").is_visible()
    assert not without.part("alpha").is_visible()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_numbers_can_be_read_in_light_and_dark(open_page, site, theme):
    page = open_page(color_scheme=theme, reduced_motion="reduce")
    page.open(site.widget("energy-theme.html", "energy", **FAR, Q=[[0.0, 0.0]], tied=False))
    colors = colors_of(page, ".qkv-matrix [role=img] span")
    assert len(colors) == 4
    check_contrast(colors)
    assert (luminance(colors[0][0]) > 0.5) is (theme == "dark")
    knobs = "[...document.querySelectorAll('.qkv-handle')].map((e) => [getComputedStyle(e.querySelector('text')).fill, "
    check_contrast(colors_from(page, knobs + "getComputedStyle(e.querySelector('.knob')).fill])"))
    names = "[...document.querySelectorAll('.qkv-chart text')].map((e) => [getComputedStyle(e).fill, "
    check_contrast(colors_from(page, names + "getComputedStyle(e.closest('.qkv-widget')).backgroundColor])"))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe(open_page, site, theme):
    page = open_page(color_scheme=theme, reduced_motion="reduce")
    page.open(site.widget("energy-axe.html", "energy", tied=False))
    check_axe(page)


def test_print_is_a_light_still(open_page, site):
    page = open_page(color_scheme="dark").open(site.widget("energy-print.html", "energy", tied=False))
    check_print(page, "plane")
    assert page.page.locator(".qkv-formula").is_visible()


def test_as_a_notebook_runs_it(open_page, site):
    page = open_in_notebook(open_page(), site, "energy")
    page.page.evaluate("model.set('alpha', 0.7)")  # a linked slider
    assert page.part("alpha").input_value() == "0.7" and page.part("size").text_content() == "0.7"
    page.part("tied").click()
    assert page.page.evaluate("[model.get('tied'), saved]") == [False, 1]
    check_cleanup(page)
    assert page.said == []


def test_size_of_the_script():
    names = ("qkv.mjs", "energy.mjs", "mount.mjs")
    size = len(gzip.compress(b"".join((FOLDER / name).read_bytes() for name in names), 9))
    own = (FOLDER / "energy.mjs").stat().st_size
    print(f"\nscript, gzip: {size} bytes of 15000; energy.mjs alone, as it is: {own} bytes of 16384")
    assert size < 15_000 and own < 16_384


def test_size_of_the_still():
    """The landscape is the heaviest part of the page: short numbers keep it light."""
    size = len(gzip.compress(static_html("energy", style=False, **MANY).encode(), 9))
    print(f"\nstill, gzip: {size} bytes of 12000")
    assert size < 12_000


def test_time_of_an_input_is_reported(open_page, site):
    page = open_page().open(
        site.widget("energy-time.html", "energy", **MANY, tied=False)
    )  # the most there is to compute
    check_times(page, press_left_and_right("key 0"))
