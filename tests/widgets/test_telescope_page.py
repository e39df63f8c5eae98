"""The telescope in a real browser."""

from __future__ import annotations

import gzip

import pytest

from qkvtheory.widgets import FOLDER, bundle, telescope_picture
from tests.widgets.page_checks import (
    check_axe,
    check_cleanup,
    check_contrast,
    check_print,
    check_times,
    check_width,
    colors_from,
    open_in_notebook,
)


@pytest.fixture
def address(site):
    """A page with the telescope in this state."""

    def write(**state):
        name = "-".join(["telescope", *(f"{k}.{v}".replace(" ", "") for k, v in state.items())]) + ".html"
        return site.widget(name, "telescope", **state)

    return write


@pytest.fixture
def widget(open_page, address):
    driver = open_page().open(address())
    yield driver
    assert driver.said == []


def states(page):
    return [page.part(f"state {place}").get_attribute("data-state") for place in range(8)]


def broken_from(place):
    return ["holds"] * place + ["broken"] * (8 - place)


def happens(page, name):
    return page.part(f"happens {name}").text_content()


def counted(page):
    return page.part("left").text_content(), page.part("saved").text_content()


def heard(page):
    return [page.part(f"void {name}").text_content() for name in ("left", "saved")]


SNAPSHOT = """() => { const el = document.querySelector('.qkv-widget').cloneNode(true);
  for (const n of el.querySelectorAll('[data-noise]')) n.textContent = '';
  el.querySelector('fieldset').removeAttribute('disabled'); return el.innerHTML; }"""


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"attention_skip": False, "shared": True},
        {"mlp_skip": True, "norm": True},
        {"mlp_skip": True, "mlp_repair": "linear", "tied": True, "tied_repair": True},
        {"mlp_skip": True, "mlp_repair": "layer 2", "norm": True, "norm_repair": True},
        {"mlp_skip": True, "mlp_repair": "spare units"},
        {"mlp_skip": True, "mlp_repair": "spare units", "norm": True, "norm_repair": True},
        {"attention_skip": False, "mlp_skip": True, "tied": True},
        {"singular": True},
        {"singular": True, "singular_repair": True, "norm": True, "norm_repair": True},
    ],
)
def test_script_repaints_exactly_what_the_server_painted(open_page, address, state):
    still = open_page()
    still.page.route("**/*.mjs", lambda route: route.abort())
    still.page.goto(address(**state))
    live = open_page().open(address(**state))
    live.part("details").evaluate("e => { e.open = true; }")
    live.page.wait_for_timeout(450)
    live.part("details").evaluate("e => { e.open = false; }")
    assert live.page.evaluate(SNAPSHOT) == still.page.evaluate(SNAPSHOT)


def test_from_any_setting_to_any_other_the_picture_is_that_of_the_server(widget, open_page, address):
    """What was painted before leaves no trace."""
    tour = [("mlp_skip", "linear"), ("norm", "norm_repair"), ("tied", "tied_repair"), ("singular", "singular_repair")]
    state = {}
    for switch, repair in tour:
        widget.part(switch).check()
        widget.part(f"repair {repair}").click()
        state |= {switch: True, **({"mlp_repair": repair} if repair == "linear" else {repair: True})}
    widget.part("attention_skip").uncheck()
    widget.part("attention_skip").check()
    widget.part("shared").check()
    widget.part("details").locator("summary").click()
    widget.page.wait_for_timeout(450)
    widget.part("details").evaluate("e => { e.open = false; }")
    fresh = open_page()
    fresh.page.route("**/*.mjs", lambda route: route.abort())
    fresh.page.goto(address(shared=True, **state))
    strip = f"() => ({SNAPSHOT})().replaceAll(' checked=\"\"', '').replace(/<script.*?script>/s, '')"
    assert widget.page.evaluate(strip) == fresh.page.evaluate(strip)
    assert all(widget.part(name).is_checked() for name in ("mlp_skip", "norm", "tied", "singular", "shared"))


def test_the_mlp_skip_and_its_two_repairs(widget):
    assert states(widget) == broken_from(8) and counted(widget) == ("0 of 3", "12")
    repair = widget.part("repair linear")
    assert repair.is_disabled() and repair.get_attribute("title") == "waits until there is something to repair"
    border = "e => [getComputedStyle(e).borderTopWidth, getComputedStyle(e).borderTopColor]"
    assert repair.evaluate(border)[0] == "1px" and "rgba(0, 0, 0, 0)" not in repair.evaluate(border)
    assert heard(widget) == ["", ""]
    widget.part("mlp_skip").check()
    assert heard(widget) == [" does not count: the function has changed"] * 2
    assert repair.get_attribute("title") == "press to repair"
    assert states(widget) == broken_from(2) and happens(widget, "mlp_skip") == "breaks"
    assert widget.part("mark 2").text_content().startswith("✗ breaks here: ")
    assert [widget.part(f"arc {i}").get_attribute("data-bad") for i in (0, 1, 5)] == ["false", "true", "true"]
    widget.announced("the MLP skip brings Y₁Θ₁ where Y₁Θ₂ belongs")
    widget.part("repair linear").click()
    assert repair.get_attribute("title") == "press again to undo" and heard(widget) == ["", ""]
    assert states(widget) == broken_from(8) and counted(widget) == ("0 of 3", "0")
    assert widget.part("arc 1").locator("b").is_visible() and not widget.part("arc 0").locator("b").is_visible()
    widget.part("repair layer 2").click()
    assert states(widget) == broken_from(8) and counted(widget) == ("2 of 3", "4")
    assert widget.part("tile W_Q 1").text_content() == "WQ = I" and widget.part("tile W_Q 0").text_content() == "Θ⁻¹WQ"
    widget.announced("WQ = I in layer 2. One basis passes every skip.")
    widget.part("repair layer 2").click()
    assert states(widget) == broken_from(2)
    widget.part("repair spare units").click()
    assert states(widget) == broken_from(8) and counted(widget) == ("0 of 3", "−36")
    assert widget.part("tile W_up 0").text_content() == "Θ₁⁻¹Wup | Θ₁⁻¹Θ₂ − I"
    widget.announced("The spare units cost 48 parameters.")
    assert "after |: what the spare units add" in widget.part("legend").text_content()
    widget.part("repair spare units").click()
    widget.part("shared").check()
    assert states(widget) == broken_from(8) and happens(widget, "mlp_skip") == "harmless"
    widget.part("shared").uncheck()
    widget.part("attention_skip").uncheck()
    assert states(widget) == broken_from(8) and happens(widget, "mlp_skip") == "harmless"
    assert widget.part("repair linear").is_disabled()


def test_norm_tie_and_singular_matrix(widget):
    widget.part("norm").check()
    assert states(widget) == broken_from(1) and widget.part("norm 0").is_visible()
    widget.part("repair norm_repair").click()
    assert states(widget) == broken_from(8) and counted(widget) == ("3 of 3", "3")
    assert widget.part("zeros").text_content() == " (zeros of triangular matrices)"
    assert happens(widget, "norm") == "repaired"
    widget.part("norm").uncheck()
    assert widget.part("zeros").text_content() == ""
    widget.part("tied").check()
    assert states(widget) == broken_from(7)
    widget.part("repair tied_repair").click()
    assert states(widget) == broken_from(8) and counted(widget) == ("1 of 3", "8")
    widget.part("tied").uncheck()
    widget.part("singular").check()
    assert states(widget) == ["refused"] * 8 and counted(widget) == ("3 of 3", "0")
    assert widget.part("tile W_K 1").text_content() == "WK"
    widget.announced("Refused: WQ of layer 2 is singular")
    widget.part("repair singular_repair").click()
    assert states(widget) == broken_from(8) and widget.part("tile W_K 1").text_content() == "WK = I"


def test_keyboard(widget):
    press = widget.page.keyboard.press
    assert widget.tab(7) == [*telescope_picture.SWITCHES, "reset"]  # a repair waits until there is something to repair
    widget.part("norm").focus()
    press("Space")
    assert states(widget) == broken_from(1)
    press("Tab")
    assert widget.page.evaluate("document.activeElement.dataset.part") == "repair norm_repair"
    press("Enter")
    assert states(widget) == broken_from(8)
    assert widget.part("repair norm_repair").get_attribute("aria-pressed") == "true"
    press("Escape")
    assert not widget.part("norm").is_checked() and counted(widget) == ("0 of 3", "12")


def test_reset_returns_to_the_figure_of_the_text(open_page, address):
    page = open_page().open(address(mlp_skip=True))
    page.part("repair linear").click()
    page.part("tied").check()
    page.part("reset").click()
    assert states(page) == broken_from(2) and not page.part("tied").is_checked()


def test_table_twin(widget):
    widget.part("details").locator("summary").click()
    rows = [row.split("\t") for row in widget.part("twin").locator("tr").all_inner_texts()]
    assert len(rows) == 7 * 6 + 9 and all(row[1] == row[2] for row in rows)
    widget.part("mlp_skip").check()
    rows = [row.split("\t") for row in widget.part("twin").locator("tr").all_inner_texts()]
    assert all(row[1] == row[2] for row in rows[:12]) and all(float(row[3]) > 1e-3 for row in rows[12:18])
    widget.part("singular").check()
    assert widget.part("twin").locator("tr").first.inner_text().split("\t")[2:] == ["", ""]


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"attention_skip": False, "norm": True},
        {"tied": True, "mlp_skip": True},
        {"mlp_skip": True, "mlp_repair": "spare units"},
        {"mlp_skip": True, "mlp_repair": "spare units", "norm": True, "norm_repair": True},
    ],
)
@pytest.mark.parametrize("width", [360, 390])
def test_phone_width(open_page, address, width, state):
    page = open_page(viewport={"width": width, "height": 740}, has_touch=True, is_mobile=True).open(address(**state))
    page.part("shared").tap()
    page.part("shared").tap()
    page.part("details").locator("summary").tap()
    check_width(page, width, ".qkv-switch, .qkv-widget button, .qkv-widget summary")
    meet = """() => { const meets = [], box = (e) => e.getBoundingClientRect();
      const text = [...document.querySelectorAll('.qkv-pipe [data-part^=tile], .qkv-pipe .qkv-mark, .qkv-state > b')];
      text.forEach((a, i) => text.slice(i + 1).forEach((b) => { const [p, q] = [box(a), box(b)];
        if (p.left < q.right && q.left < p.right && p.top < q.bottom - 1 && q.top < p.bottom - 1) {
          meets.push([a.textContent, b.textContent]); } }));
      return meets; }"""
    assert page.page.evaluate(meet) == []


def test_the_layout_keeps_its_height(widget):
    heights = set()
    for name in ("mlp_skip", "tied", "singular", "attention_skip"):
        widget.part(name).click()
        widget.page.wait_for_timeout(400)
        heights.add(round(widget.page.evaluate("document.querySelector('.qkv-pipe').getBoundingClientRect().top")))
    assert len(heights) == 1


def test_without_script_there_is_a_picture_and_no_dead_control(open_page, address):
    page = open_page(java_script_enabled=False)
    page.page.goto(address(mlp_skip=True))
    assert page.part("state 2").is_visible() and page.part("live").is_visible()
    assert not page.part("mlp_skip").is_visible()


def test_a_failure_leaves_the_picture(open_page, address):
    page = open_page()
    page.page.route("**/telescope.mjs", lambda route: route.abort())
    page.page.goto(address(norm=True))
    page.page.wait_for_selector('[data-mounted="failed"]')
    assert states(page) == broken_from(1) and page.part("norm").is_disabled()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("state", [{"mlp_skip": True, "tied": True}, {"attention_skip": False}, {"singular": True}])
def test_axe(open_page, address, theme, state):
    page = open_page(color_scheme=theme, reduced_motion="reduce").open(address(**state))
    check_axe(page)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_marks_can_be_read_on_their_tubes(open_page, address, theme):
    """axe does not look behind a pseudo-element: the tubes are painted there."""
    for state in ({"mlp_skip": True}, {"attention_skip": False}):
        page = open_page(color_scheme=theme).open(address(**state))
        pairs = """[...document.querySelectorAll('.qkv-state:not(.qkv-logits), .qkv-sub')].flatMap((li) =>
          [...li.querySelectorAll('.qkv-mark, .qkv-state > b i, small')].map((e) =>
            [getComputedStyle(e).color, getComputedStyle(li, '::before').backgroundColor]))"""
        colors = colors_from(page, pairs)
        assert len(colors) >= 7 + 7 + 6
        check_contrast(colors)


def test_reduced_motion(open_page, address):
    tube = "getComputedStyle(document.querySelector('.qkv-sub'), '::before').transitionDuration"
    moving = open_page(reduced_motion="no-preference").open(address())
    still = open_page(reduced_motion="reduce").open(address())
    assert set(moving.page.evaluate(tube).split(", ")) == {"0.25s"} and still.page.evaluate(tube) == "0s"


def test_print_is_a_light_still(open_page, address):
    page = open_page(color_scheme="dark").open(address())
    check_print(page, "pipe")


def test_as_a_notebook_runs_it(open_page, site):
    page = open_in_notebook(open_page(), site, "telescope")
    page.page.evaluate("model.set('mlp_skip', true)")
    assert states(page) == broken_from(2)
    page.part("repair linear").click()
    assert page.page.evaluate("[model.get('mlp_repair'), saved]") == ["linear", 1]
    check_cleanup(page)
    assert page.said == []


def test_size_of_the_script():
    own, whole = (FOLDER / "telescope.mjs").read_bytes(), len(gzip.compress(bundle("telescope").encode(), 9))
    print(f"\ntelescope.mjs: {len(own)} bytes, {len(gzip.compress(own, 9))} with gzip; {whole} of 15000 with qkv.mjs")
    assert whole < 15_000


def test_time_of_an_input_is_reported(widget):
    act = """((switches) => (i) => switches[i % 4].click())(
      ['mlp_skip', 'norm', 'tied', 'shared'].map((n) => document.querySelector(`[data-part="${n}"]`)))"""
    check_times(widget, act, count=80)
