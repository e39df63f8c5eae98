"""The widget in a real browser: on a static page, and as a notebook would run it."""

from __future__ import annotations

import gzip

import pytest

from qkvtheory.widgets import FOLDER, basis_change, static_html, styles
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

STAY = "Score matrix, attention map and output stay put."


@pytest.fixture
def widget(open_page, site):
    driver = open_page().open(site.widget("default.html"))
    yield driver
    assert driver.said == []


def test_script_repaints_exactly_what_the_server_painted(browser, open_page, site):
    snapshot = """() => { const el = document.querySelector('.qkv-widget').cloneNode(true);
      for (const n of el.querySelectorAll('[data-noise]')) {
        n.textContent = ''; n.removeAttribute('points'); n.removeAttribute('transform'); }
      for (const n of el.querySelectorAll('[tabindex]')) n.removeAttribute('tabindex');
      el.querySelector('fieldset').removeAttribute('disabled'); return el.innerHTML; }"""
    tokens = [[1.0, 0.2], [-0.4, 1.3], [-1.0, -0.5], [0.6, -1.5]]
    states = [
        {},
        {"forget_k": True, "tokens": tokens},
        {"forget_v": True, "squeeze": 5.0},
        {"squeeze": 10.0, "theta": [[-1.0, 2.0], [1.7, 0.3]]},
        {"forget_k": True, "forget_v": True, "tokens": [[1.0, 0.5]] * 3},  # equal tokens: only the uniform map stays
    ]
    for name, state in enumerate(states):
        address = site.widget(f"{name}.html", **state)
        still = open_page()
        still.page.route("**/*.mjs", lambda route: route.abort())
        still.page.goto(address)
        live = open_page().open(address)
        live.part("details").evaluate("e => { e.open = true; }")
        live.page.wait_for_timeout(500)
        live.part("details").evaluate("e => { e.open = false; }")
        assert live.page.evaluate(snapshot) == still.page.evaluate(snapshot)


def test_mouse(widget):
    before = widget.numbers("before pattern"), widget.numbers("after pattern")
    x, y = widget.drag("basis 0", 20, -30)
    assert widget.value("basis 0") != basis_change.DEFAULT["theta"][0]
    assert (widget.numbers("before pattern"), widget.numbers("after pattern")) == before
    assert widget.states() == ["stays"] * 3
    new = widget.center("basis 0")
    assert abs(new[0] - x - 20) < 2 and abs(new[1] - y + 30) < 2  # the handle is where the pointer let go
    widget.page.mouse.move(x - 50, y)
    assert widget.center("basis 0") == new  # and stays there


def test_a_token_takes_the_map_with_it_on_both_sides(widget):
    before = widget.numbers("before pattern")
    widget.drag("token 0", 40, 60)
    assert widget.numbers("before pattern") != before
    assert widget.numbers("after pattern") == widget.numbers("before pattern")


def test_keyboard(widget):
    press = widget.page.keyboard.press
    widget.page.keyboard.press("Tab")
    assert widget.page.evaluate("document.activeElement.dataset.part") == "token 0"
    (x, y), hand = basis_change.DEFAULT["tokens"][0], widget.part("token 0")
    press("ArrowRight")
    press("ArrowDown")
    assert widget.value("token 0") == pytest.approx([x + 0.1, y - 0.1])
    press("Shift+ArrowLeft")
    assert widget.value("token 0") == pytest.approx([x - 0.4, y - 0.1])
    assert hand.get_attribute("aria-valuenow") == f"{x - 0.4:.2f}"
    for key, expected in (("Home", [-2, y - 0.1]), ("PageUp", [-2, 2]), ("End", [2, 2]), ("PageDown", [2, -2])):
        press(key)
        assert widget.value("token 0") == pytest.approx(expected)
    ring = hand.locator(".ring").evaluate("e => getComputedStyle(e).stroke")
    assert ring != "none"
    press("Escape")
    assert widget.value("token 0") == [x, y]
    assert widget.tab(8) == ["token 1", "token 2", "basis 0", "basis 1", "squeeze", "forget_k", "forget_v", "reset"]


def test_touch(open_page, site):
    phone = open_page(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True).open(
        site.widget("touch.html")
    )
    phone.part("basis 1").scroll_into_view_if_needed()
    check_swipe(phone, "basis 1", (-6, -9), start=15)  # beside the knob, inside the 44 px target
    assert phone.value("basis 1") != basis_change.DEFAULT["theta"][1]
    assert phone.states() == ["stays"] * 3
    assert phone.said == []


def test_forgetting_an_inverse_shows_what_moves(widget):
    old = widget.numbers("after pattern")
    widget.part("forget_k").check()
    assert widget.states() == ["moves"] * 3
    assert widget.numbers("after pattern") != old == widget.numbers("before pattern")
    assert widget.part("weight W_K").get_attribute("data-forgot") == "true"
    widget.announced("Inverse forgotten on W_K. Score matrix moves by ")
    widget.part("forget_k").uncheck()
    widget.part("forget_v").check()
    assert widget.states() == ["stays", "stays", "moves"]
    assert widget.numbers("after pattern") == old
    widget.announced("Inverse forgotten on W_V. Score matrix and attention map stay put. Output moves by ")
    error = widget.part("error 64").text_content()
    assert float(error) > 0.1
    widget.part("reset").click()
    widget.announced(STAY)
    assert widget.states() == ["stays"] * 3 and not widget.part("forget_v").is_checked()


def test_squeezing_with_the_keyboard_loses_digits_and_then_the_verdict(widget):
    def errors():
        return [widget.part(f"error {bits}").text_content() for bits in (64, 32)]

    def number(text):
        return float("inf") if text.startswith("cannot be computed") else float(text.replace("−", "-"))

    start = [number(e) for e in errors()]
    widget.part("squeeze").focus()
    for _ in range(30):
        widget.page.keyboard.press("ArrowRight")
    assert all(number(e) > 30 * s for e, s in zip(errors(), start, strict=True))
    assert widget.states() == ["stays"] * 3
    widget.page.keyboard.press("End")
    assert "e12" in widget.part("cond").text_content()
    assert widget.states() == ["blurred"] * 3 and number(errors()[1]) > 0.1
    widget.announced("cannot be judged")
    widget.page.keyboard.press("Escape")
    assert widget.part("squeeze").input_value() == "0" and widget.states() == ["stays"] * 3


def test_at_full_squeeze_still_and_script_say_why_there_is_no_float32_error(open_page, site):
    address = site.widget("full.html", squeeze=12)
    still = open_page()
    still.page.route("**/*.mjs", lambda route: route.abort())
    still.page.goto(address)
    live = open_page().open(address)
    for page in (still, live):
        assert page.part("error 32").text_content() == "cannot be computed: Θ has no inverse in float32"
        assert page.part("error 64").text_content()[0].isdigit()
        assert page.part("tag scores").locator("span").text_content().startswith("differs by ")
    live.part("squeeze").press("Home")
    assert live.part("error 32").text_content()[0].isdigit()


@pytest.mark.parametrize("width", [360, 390, 760])
@pytest.mark.parametrize("tokens", [3, 4])
def test_numbers_of_neighboring_cells_do_not_touch(open_page, site, width, tokens):
    page = open_page(viewport={"width": width, "height": 900})
    far = [[2.0, -2.0], [-2.0, 2.0], [2.0, 2.0], [1.0, -2.0]][:tokens]
    for name, state in (("full", {"squeeze": 12}), ("large", {"forget_k": True, "theta": [[-2.0, 2.0], [2.0, 1.9]]})):
        page.open(site.widget(f"cells-{name}.html", tokens=far, **state))
        check_cells(page)


def test_moving_a_squeezed_basis_starts_from_what_is_seen(widget):
    widget.part("squeeze").evaluate("e => { e.value = 6; e.dispatchEvent(new Event('input', { bubbles: true })); }")
    seen = widget.value("basis 1")
    widget.part("basis 1").focus()
    widget.page.keyboard.press("ArrowUp")
    assert widget.value("basis 1") == pytest.approx([seen[0], seen[1] + 0.1], abs=0.011)
    assert widget.part("squeeze").input_value() == "0"


def test_a_singular_basis_is_refused_and_the_keyboard_steps_over_it(open_page, site):
    page = open_page().open(site.widget("line.html", theta=[[1.0, 0.0], [1.0, 0.1]]))
    page.part("basis 1").focus()
    page.page.keyboard.press("ArrowDown")
    assert page.value("basis 1") == [1.0, -0.1]
    page.page.keyboard.press("Home")
    assert page.value("basis 1") == [-2.0, -0.1]
    x, y = page.center("basis 1")
    page.page.mouse.move(x, y)
    page.page.mouse.down()
    page.page.mouse.move(x, page.center("basis 0")[1])  # on to the line of the first vector
    page.announced("Refused: on one line")
    assert page.value("basis 1")[1] != 0
    page.page.mouse.up()
    assert page.said == []


def test_table_twin_has_the_numbers(widget):
    widget.part("forget_k").check()
    widget.part("details").locator("summary").click()
    rows = widget.part("twin").locator("tr").all_inner_texts()
    cells = {row.split("\t")[0]: row.split("\t")[1:] for row in rows}
    assert len(cells) == len(rows) == 6 + 12 + 9 + 9 + 6
    shown = [f"{v:.2f}".replace("-", "−") for v in widget.numbers("after scores")]
    assert [cells[f"Score matrix {i}, {j}"][1] for i in (1, 2, 3) for j in (1, 2, 3)] == shown
    old, new, difference = (float(v.replace("−", "-")) for v in cells["Attention map 1, 1"])
    assert abs(abs(new - old) - difference) < 0.06
    widget.part("forget_k").uncheck()  # an open table follows
    now = widget.part("twin").locator("tr", has_text="Score matrix 1, 1").inner_text().split("\t")
    assert now[2] == now[1] == f"{widget.numbers('before scores')[0]:.2f}".replace("-", "−")


def test_two_widgets_on_a_page_do_not_meet(open_page, site):
    both = static_html("basis-change") + static_html("basis-change", forget_v=True)
    page = open_page().open(site.page("two.html", both + '<script type="module" src="mount.mjs"></script>'))
    page.page.wait_for_function("document.querySelectorAll('[data-mounted=yes]').length === 2")
    page.part("forget_k").check()
    tags = page.page.locator('[data-part="tag scores"]')
    assert [tags.nth(i).get_attribute("data-state") for i in (0, 1)] == ["moves", "stays"]
    assert page.page.evaluate("Object.keys(window).filter((k) => /qkv|widget|mount|model/i.test(k))") == []


def test_a_failure_leaves_the_picture(open_page, site):
    page = open_page()
    page.page.route("**/basis_change.mjs", lambda route: route.abort())
    page.page.goto(site.widget("broken.html"))
    page.page.wait_for_selector('[data-mounted="failed"]')
    assert page.states() == ["stays"] * 3 and page.part("live").text_content().startswith(STAY)
    assert page.part("forget_k").is_disabled()
    assert any("stays a still picture" in text for text in page.said)


def test_without_script_there_is_a_picture_and_no_dead_control(open_page, site):
    page = open_page(java_script_enabled=False)
    page.page.goto(site.widget("noscript.html"))
    assert page.part("after pattern").is_visible() and page.part("curve 32").is_visible()
    assert not page.part("squeeze").is_visible()


def test_layout_does_not_shift_when_the_script_starts(open_page, site):
    page = open_page()
    page.page.add_init_script(
        "window.shift = 0; new PerformanceObserver((l) => { for (const e of l.getEntries()) window.shift += e.value; })"
        ".observe({ type: 'layout-shift', buffered: true });"
    )
    page.open(site.widget("shift.html", squeeze=2, forget_k=True))
    page.page.wait_for_timeout(600)
    assert page.page.evaluate("window.shift") < 0.02


@pytest.mark.parametrize("tokens", [3, 4])
def test_phone_width(open_page, site, tokens):
    rows = [*basis_change.DEFAULT["tokens"], [1.0, -0.4]][:tokens]
    page = open_page(viewport={"width": 360, "height": 740}).open(site.widget("phone.html", tokens=rows, forget_k=True))
    page.part("details").locator("summary").click()
    check_width(page, 360, ".hit, .qkv-switch, .qkv-range input, .qkv-widget button, .qkv-widget summary")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("by", ["system", "site"])
def test_numbers_can_be_read_in_light_and_dark(open_page, site, theme, by):
    system = theme if by == "system" else {"light": "dark", "dark": "light"}[theme]
    page = open_page(color_scheme=system, reduced_motion="reduce")
    page.open(site.widget("theme.html", squeeze=8, forget_k=True))
    if by == "site":
        page.page.evaluate("t => { document.documentElement.dataset.theme = t; }", theme)
    colors = colors_of(page, ".qkv-matrix [role=img] span")
    assert len(colors) == 24 + 48
    check_contrast(colors)
    assert (luminance(colors[0][0]) > 0.5) is (theme == "dark")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe(open_page, site, theme):
    page = open_page(color_scheme=theme, reduced_motion="reduce").open(site.widget("axe.html", forget_k=True))
    check_axe(page)


def test_reduced_motion(open_page, site):
    cell = "getComputedStyle(document.querySelector('[data-part=\"after pattern\"] span')).transitionDuration"
    moving = open_page(reduced_motion="no-preference").open(site.widget("motion.html"))
    still = open_page(reduced_motion="reduce").open(site.widget("motion.html"))
    assert (moving.page.evaluate(cell), still.page.evaluate(cell)) == ("0.12s, 0.12s", "0s")


def test_print_is_a_light_still(open_page, site):
    page = open_page(color_scheme="dark").open(site.widget("print.html"))
    check_print(page, "after pattern")


def test_as_a_notebook_runs_it(open_page, site):
    page = open_in_notebook(open_page(), site, "basis-change")
    page.page.evaluate("model.set('squeeze', 3)")  # a linked slider
    assert page.part("squeeze").input_value() == "3"
    page.part("forget_v").check()
    assert page.page.evaluate("[model.get('forget_v'), saved]") == [True, 1]
    assert page.states() == ["stays", "stays", "moves"]
    # A notebook has other plans for these keys; the slider must get them first.
    page.page.evaluate("document.addEventListener('keydown', (e) => e.preventDefault())")
    page.part("squeeze").press("ArrowRight")
    assert page.part("squeeze").input_value() == "3.1"
    check_cleanup(page)
    page.page.evaluate("model.set('forget_v', false)")
    page.part("token 0").press("ArrowUp")
    assert page.states() == ["stays", "stays", "moves"]  # nobody listens any more
    assert page.said == []


def test_size_of_the_script():
    code = b"".join((FOLDER / name).read_bytes() for name in ("qkv.mjs", "basis_change.mjs", "mount.mjs"))
    size = len(gzip.compress(code, 9))
    print(f"\nscript, gzip: {size} bytes of 15000; style sheet: {len(gzip.compress(styles().encode(), 9))}")
    assert size < 15_000


def test_time_of_an_input_is_reported(widget):
    check_times(widget, press_left_and_right("basis 0"))
