"""The trained-model widget in a real browser: on a static page, and as a notebook would run it."""

from __future__ import annotations

import gzip

import pytest

from qkvtheory.widgets import FOLDER, static_html, trained_model
from tests.widgets.page_checks import (
    check_axe,
    check_cleanup,
    check_contrast,
    check_print,
    check_times,
    check_width,
    colors_from,
    colors_of,
    luminance,
    open_in_notebook,
)

NAME = "trained-model"
MOUNT = '<script type="module" src="mount.mjs"></script>'


@pytest.fixture
def widget(open_page, site):
    driver = open_page().open(site.widget("trained.html", NAME))
    yield driver
    assert driver.said == []


def typed(page):
    return "".join(page.part(f"digit {i}").input_value() for i in range(8))


def row(page, name):
    return page.part(name).locator("td").all_inner_texts()


def answer(page):
    """The digits of the answer, and which of them are marked as right."""
    return "".join(cell.split()[0] for cell in row(page, "answer")), [
        cell.split()[1] == "✓" for cell in row(page, "answer")
    ]


def choose(page, name):
    page.page.locator(f'[data-variant="{name}"]').click()


def chosen(page):
    return [b.get_attribute("data-variant") for b in page.page.locator('[data-variant][aria-pressed="true"]').all()]


def test_script_repaints_exactly_what_the_server_painted(open_page, site):
    snapshot = """() => { const el = document.querySelector('.qkv-widget').cloneNode(true);
      for (const n of el.querySelectorAll('input')) n.removeAttribute('value');
      for (const n of el.querySelectorAll('fieldset')) n.removeAttribute('disabled');
      return [el.innerHTML, ...[...document.querySelectorAll('input')].map((n) => n.value)]; }"""
    still, live = open_page(), open_page()
    still.page.route("**/*.mjs", lambda route: route.abort())
    states = [{"variant": name, "sequence": s} for name, s in zip(NAMES, SEQUENCES, strict=True)]
    for i, given in enumerate([{}, *states]):
        state = trained_model.check_state(**given)
        painted = static_html(NAME, **state)
        still.page.goto(site.page(f"trained-{i}.html", painted + MOUNT))
        # The script starts from the picture of another state, so that every part has to be painted.
        other = trained_model.check_state(sequence="80808080", variant=NAMES[i % 5 - 3])
        body = painted.replace(trained_model.still(state), trained_model.still(other))
        live.open(site.page(f"trained-{i}-live.html", body + MOUNT))
        live.part("details").evaluate("e => { e.open = true; }")
        live.page.wait_for_timeout(450)
        live.part("details").evaluate("e => { e.open = false; }")
        expected = still.page.evaluate(snapshot)
        assert live.page.evaluate(snapshot) == expected, given
        live.part("mirror").click()
        choose(live, NAMES[i % 5 - 2])
        assert live.page.evaluate(snapshot) != expected
        live.page.keyboard.press("Escape")
        live.page.wait_for_timeout(450)
        assert live.page.evaluate(snapshot) == expected, given


NAMES = [m.name for m in trained_model.models()]
SEQUENCES = ["00000000", "12344321", "98765432", "10101010", "27182818"]


def test_the_answer_changes_with_the_form_and_the_sequence_stays(widget):
    assert answer(widget)[1].count(True) == 4 and chosen(widget) == ["Q=K"]
    assert answer(widget)[0] == answer(widget)[0][::-1], "both ends of a pair say the same"
    widget.announced("In 4 of 4 pairs both ends get the same answer")
    for name in ("QKV", "Q=K, 2 heads", "(Q=K)+", "Q=K, skip"):
        choose(widget, name)
        assert chosen(widget) == [name] and typed(widget) == "31415926"
        assert answer(widget) == ("62951413", [True] * 8)
        widget.announced(f"{name}: 8 of 8 symbols right")
    choose(widget, "Q=K")
    assert answer(widget)[1].count(True) == 4


def test_a_second_head_is_shown_where_there_is_one(widget):
    for name in NAMES:
        choose(widget, name)
        assert widget.part("head 1").is_visible() is (name == "Q=K, 2 heads")
        assert widget.part("head 0").is_visible()


def test_no_bar_passes_the_bound_and_without_it_they_do(widget):
    def ends():
        boxes = [widget.part(f"far 0 {i}").bounding_box() for i in range(4)]
        return [box["x"] + box["width"] for box in boxes]

    line = widget.page.locator(".qkv-sums .line").first.bounding_box()["x"]
    assert all(line - 8 < x <= line + 1 for x in ends()), "half and half: just below"
    for name in ("QKV", "(Q=K)+"):
        choose(widget, name)
        assert all(x > line + 80 for x in ends())
        assert "no bound here" in widget.part("bound").inner_text()


def test_keyboard(widget):
    press = widget.page.keyboard.press
    assert widget.tab(11) == [*(f"digit {i}" for i in range(8)), "random", "mirror", "reset"]
    widget.part("digit 0").focus()
    widget.page.keyboard.type("27182818")
    assert typed(widget) == "27182818" == "".join(row(widget, "sequence"))
    widget.page.keyboard.type("9x")
    assert typed(widget) == "27182819", "in the last place a new digit replaces the old one, and a letter does nothing"
    press("Home")
    press("ArrowUp")
    press("ArrowRight")
    press("ArrowDown")
    press("ArrowDown")
    assert typed(widget) == "35182819"
    press("Delete")
    assert typed(widget) == "35182819", "a place is never empty"
    press("Backspace")
    press("ArrowDown")
    assert typed(widget) == "25182819"
    widget.page.locator('[data-variant="QKV"]').focus()
    press("Enter")
    assert chosen(widget) == ["QKV"] and answer(widget)[0] == "91828152"
    press("Escape")
    assert typed(widget) == "31415926" and chosen(widget) == ["Q=K"]


def test_a_sequence_is_pasted(widget):
    paste = """(e, text) => { const data = new DataTransfer(); data.setData('text', text);
      e.dispatchEvent(new ClipboardEvent('paste', { clipboardData: data, bubbles: true, cancelable: true })); }"""
    widget.part("digit 0").evaluate(paste, "1 6 1 8 0 3 3 9 8 8")
    assert typed(widget) == "16180339"
    widget.part("digit 6").evaluate(paste, "777")
    assert typed(widget) == "16180377"
    widget.part("digit 2").evaluate(paste, "none")
    assert typed(widget) == "16180377"


def test_random_and_mirrored_sequences(widget):
    seen = set()
    for _ in range(6):
        widget.part("random").click()
        seen.add(typed(widget))
    assert len(seen) > 4 and all(len(s) == 8 and s.isdigit() for s in seen)
    widget.part("mirror").click()
    assert typed(widget) == typed(widget)[::-1] and answer(widget)[1] == [True] * 8
    widget.part("reset").click()
    assert typed(widget) == "31415926"


def test_touch(open_page, site):
    phone = open_page(viewport={"width": 390, "height": 740}, has_touch=True, is_mobile=True)
    phone.open(site.widget("trained-touch.html", NAME))
    phone.part("digit 2").tap()
    phone.page.keyboard.type("77")
    assert typed(phone) == "31775926"
    phone.page.locator('[data-variant="QKV"]').tap()
    assert chosen(phone) == ["QKV"] and answer(phone)[1] == [True] * 8
    assert phone.part("digit 0").get_attribute("inputmode") == "numeric" and phone.said == []


def test_table_twin_has_the_numbers(widget):
    choose(widget, "Q=K, 2 heads")
    widget.part("details").locator("summary").click()
    for h in (0, 1):
        rows = [r.split("\t") for r in widget.part(f"twin {h}").locator("tbody tr").all_inner_texts()]
        assert [r[0] for r in rows] == [str(i + 1) for i in range(8)]
        assert [float(x) for r in rows for x in r[1:9]] == widget.numbers(f"map {h}")
        assert [r[9] for r in rows[:4]] == [widget.part(f"sum {h} {i}").text_content() for i in range(4)]
    choose(widget, "QKV")  # an open table follows
    assert not widget.part("twin 1").is_visible()
    assert all(float(x) > 1.9 for x in widget.part("twin 0").locator("tbody td:last-child").all_inner_texts())


@pytest.mark.parametrize("width", [360, 390])
def test_phone_width(open_page, site, width):
    page = open_page(viewport={"width": width, "height": 740})
    page.open(site.widget("trained-phone.html", NAME, variant="Q=K, 2 heads"))
    page.part("details").locator("summary").click()
    check_width(page, width, ".qkv-widget :is(button, input, summary)")


@pytest.mark.parametrize("width", [360, 390, 660, 760])
def test_numbers_of_neighboring_cells_do_not_touch(open_page, site, width):
    page = open_page(viewport={"width": width, "height": 900})
    page.open(site.widget("trained-cells.html", NAME, variant="Q=K, 2 heads"))
    free = page.page.evaluate("""() => {
      const all = document.querySelectorAll('.qkv-heat [role=img] span, .qkv-answer td');
      return [...all].map((e) => {
      const text = document.createRange();
      text.selectNodeContents(e);
      return e.getBoundingClientRect().width - text.getBoundingClientRect().width; }); }""")
    assert len(free) == 2 * 64 + 32 and min(free) > 1


def test_pictures_stand_still_when_the_sentence_changes(open_page, site):
    for width in (360, 390, 1280):
        page = open_page(viewport={"width": width, "height": 900})
        page.open(site.widget("trained-shift.html", NAME))
        places = set()
        for name in NAMES:
            choose(page, name)
            page.part("random").click()
            page.page.wait_for_timeout(400)
            places.add(page.part("map 0").evaluate("e => e.getBoundingClientRect().top + scrollY"))
        assert len(places) == 1, (width, places)


def test_two_widgets_on_a_page_do_not_meet(open_page, site):
    both = static_html(NAME) + static_html(NAME, variant="QKV") + static_html("energy")
    page = open_page().open(site.page("trained-two.html", both + MOUNT))
    page.page.wait_for_function("document.querySelectorAll('[data-mounted=yes]').length === 3")
    page.page.locator('[data-variant="(Q=K)+"]').first.click()
    assert chosen(page) == ["(Q=K)+", "QKV"] and page.said == []


def test_a_failure_or_no_script_leaves_the_picture(open_page, site):
    address = site.widget("trained-broken.html", NAME)
    broken = open_page()
    broken.page.route("**/trained_model.mjs", lambda route: route.abort())
    broken.page.goto(address)
    broken.page.wait_for_selector('[data-mounted="failed"]')
    assert broken.part("digit 0").is_disabled() and broken.page.locator("[data-variant]").first.is_disabled()
    without = open_page(java_script_enabled=False)
    without.page.goto(address)
    assert without.part("map 0").is_visible() and without.part("answer").is_visible()
    assert not without.part("digit 0").is_visible() and answer(without)[1].count(True) == 4


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_numbers_can_be_read_in_light_and_dark(open_page, site, theme):
    page = open_page(color_scheme=theme, reduced_motion="reduce")
    page.open(site.widget("trained-theme.html", NAME, variant="QKV"))
    colors = colors_of(page, ".qkv-heat [role=img] span")
    assert len(colors) == 2 * 64
    check_contrast(colors)
    check_contrast(colors_of(page, ".qkv-digits input, [data-variant]"))
    assert (luminance(colors[0][0]) > 0.5) is (theme == "dark")
    choose(page, "Q=K")
    marks = "[...document.querySelectorAll('.qkv-answer td')].map((e) => [getComputedStyle(e).color, "
    check_contrast(colors_from(page, marks + "getComputedStyle(e.closest('.qkv-widget')).backgroundColor])"))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe(open_page, site, theme):
    page = open_page(color_scheme=theme, reduced_motion="reduce")
    page.open(site.widget("trained-axe.html", NAME, variant="Q=K, 2 heads"))
    check_axe(page)


def test_print_is_a_light_still(open_page, site):
    page = open_page(color_scheme="dark").open(site.widget("trained-print.html", NAME))
    check_print(page, "map 0")
    assert page.part("answer").is_visible() and page.page.locator("[data-variant]").first.is_visible()


def test_as_a_notebook_runs_it(open_page, site):
    page = open_in_notebook(open_page(), site, NAME)
    page.page.evaluate("model.set('sequence', '99990000')")  # linked to something else
    assert typed(page) == "99990000"
    choose(page, "QKV")
    assert page.page.evaluate("[model.get('variant'), saved]") == ["QKV", 1] and answer(page)[0] == "00009999"
    check_cleanup(page)
    assert page.said == []


def test_size_of_the_script():
    names = ("qkv.mjs", "trained_model.mjs", "mount.mjs")
    size = len(gzip.compress(b"".join((FOLDER / name).read_bytes() for name in names), 9))
    print(f"\nscript, gzip: {size} bytes of 15000")
    assert size < 15_000


def test_time_of_an_input_is_reported(open_page, site):
    page = open_page().open(site.widget("trained-time.html", NAME, variant="Q=K, 2 heads"))  # the most there is to do
    check_times(
        page,
        """((hand) => (i) => {
        const key = i % 2 ? 'ArrowDown' : 'ArrowUp';
        hand.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true, cancelable: true }));
      })(document.querySelector('[data-part="digit 3"]'))""",
    )
