"""The gauge counter in a real browser."""

from __future__ import annotations

import gzip

import pytest

from qkvtheory.widgets import FOLDER, bundle, gauge_counter, gauge_counter_picture, static_html
from tests.widgets.page_checks import (
    check_axe,
    check_cleanup,
    check_contrast,
    check_print,
    check_times,
    check_width,
    colors_of,
    luminance,
    open_in_notebook,
)

FULL = {"topology": "T0", "norm": "LayerNorm", "gains": True, "activation": "SwiGLU", "layers": 3, "show": "heads"}


@pytest.fixture
def widget(open_page, site):
    driver = open_page().open(site.widget("gauge-counter.html", "gauge-counter"))
    yield driver
    assert driver.said == []


def numbers(page):
    """The account: what is shown, and how large."""
    return [tuple(row.split("\n")) for row in page.page.locator(".qkv-count:visible").all_inner_texts()]


def press(page, part):
    page.page.locator(f'[data-variant="{part}"]').click()


def cells(page, kind):
    return page.page.locator(f".qkv-sheet path.{kind}").evaluate_all(
        "paths => paths.reduce((n, p) => n + p.getAttribute('d').split('h8v8').length - 1, 0)"
    )


SNAPSHOT = """() => { const el = document.querySelector('.qkv-widget').cloneNode(true);
  for (const n of el.querySelectorAll('fieldset')) n.removeAttribute('disabled');
  for (const n of el.querySelectorAll('[checked]')) n.removeAttribute('checked');
  return [el.innerHTML, [...document.querySelectorAll('input')].map((i) => i.checked)]; }"""


def test_script_repaints_exactly_what_the_server_painted(open_page, site):
    states = [
        {},
        FULL,
        {"biases": True, "activation": "ReLU", "positions": "RoPE", "show": "biases"},
        {"norm": "RMSNorm", "tied": True, "groups": "one", "show": "stream"},
        {"queries": "shared", "layers": 3},
        {"biases": True, "activation": "SwiGLU", "show": "activation"},
        {"queries": "identity", "topology": "TA"},
        {"norm": "RMSNorm", "biases": True},
    ]
    still, live = open_page(), open_page()
    still.page.route("**/*.mjs", lambda route: route.abort())
    for name, state in enumerate(states):
        address = site.widget(f"gauge-counter-{name}.html", "gauge-counter", **state)
        still.page.goto(address)
        live.open(address)
        # The script starts from another picture, so that every part has to be painted.
        live.part("norm none").click()
        live.part("topology TM").click()
        live.part("layers 1").click()
        live.part("tied").click()
        live.part("details").evaluate("e => { e.open = true; }")
        assert live.page.evaluate(SNAPSHOT) != still.page.evaluate(SNAPSHOT)
        live.page.keyboard.press("Escape")
        live.page.wait_for_timeout(450)
        live.part("details").evaluate("e => { e.open = false; }")
        assert live.page.evaluate(SNAPSHOT) == still.page.evaluate(SNAPSHOT), state


def test_skips_and_norms_take_bases_away(widget):
    assert numbers(widget)[1] == ("stream", "16") and numbers(widget)[-1] == ("functional dimension", "212")
    widget.part("topology T0").click()
    assert numbers(widget)[1] == ("stream", "80") and numbers(widget)[-1] == ("functional dimension", "148")
    widget.announced("WQ can be I in every layer.")
    widget.part("norm RMSNorm").click()
    assert numbers(widget)[1] == ("stream", "30")
    widget.announced("WQ can be triangular in every layer.")
    widget.part("topology T2").click()
    widget.part("norm LayerNorm").click()
    assert numbers(widget)[1] == ("stream", "3") and ("invisible to LayerNorm", "66") in numbers(widget)
    widget.part("gains").check()
    assert ("gains", "20") in numbers(widget)
    widget.part("norm none").click()
    assert widget.part("gains").is_disabled() and numbers(widget)[-1] == ("functional dimension", "212")
    widget.part("reset").click()
    assert not widget.part("gains").is_checked()


def test_squares_are_as_many_as_the_account_says(widget):
    widget.part("topology TM").click()
    widget.part("activation ReLU").click()
    sizes = {name: int(size) for name, size in numbers(widget)}
    assert cells(widget, "full") == sizes.pop("functional dimension")
    assert cells(widget, "full") + cells(widget, "pale") == sizes.pop("parameters")
    assert cells(widget, "pale") == sum(sizes.values()) and cells(widget, "lit") == 0
    for part, size in sizes.items():
        press(widget, part)
        assert cells(widget, "lit") == size
    press(widget, part)  # once more puts it out
    assert cells(widget, "lit") == 0 and widget.part("about").text_content() == "Press a part to see its cells."


def test_what_is_not_covered_shows_no_number(widget):
    widget.part("norm RMSNorm").click()
    widget.part("biases").check()
    widget.announced("what they do not cover: biases with a norm.")
    assert numbers(widget) == [("parameters", "319")]
    assert cells(widget, "open") == 319 and cells(widget, "full") + cells(widget, "pale") == 0
    widget.part("norm none").click()
    assert cells(widget, "open") == 0 and cells(widget, "full") > 200


def test_keyboard(widget):
    order = widget.tab(3)
    assert order == ["topology T0", "topology TA", "topology TM"]
    widget.page.keyboard.press("Enter")
    assert numbers(widget)[1] == ("stream", "48") and widget.part("topology TM").get_attribute("aria-pressed") == "true"
    stream = widget.page.locator('[data-variant="stream"]')
    stream.focus()
    widget.page.keyboard.press("Space")
    assert widget.page.evaluate("document.activeElement.dataset.variant") == "stream"  # the focus stays where it is
    assert stream.get_attribute("aria-pressed") == "true" and cells(widget, "lit") == 48
    widget.page.keyboard.press("Escape")
    assert cells(widget, "lit") == 0 and numbers(widget)[1] == ("stream", "16")


def test_touch(open_page, site):
    phone = open_page(viewport={"width": 390, "height": 740}, has_touch=True, is_mobile=True)
    phone.open(site.widget("gauge-counter-touch.html", "gauge-counter"))
    phone.part("topology TA").tap()
    phone.page.locator('[data-variant="heads"]').tap()
    assert numbers(phone)[1] == ("stream", "48") and cells(phone, "lit") == 32 and phone.said == []


def test_table_twin(widget):
    widget.part("details").locator("summary").click()
    widget.part("queries identity").click()  # an open table follows
    rows = [row.split("\t") for row in widget.part("twin").locator("tr").all_inner_texts()]
    found = gauge_counter.account(gauge_counter.check_state(queries="identity"))
    assert len(rows) == sum(bool(sheet.cells) for sheet in found.sheets) + 1
    assert rows[0] == ["E, embedding", "5 × 4", "8", "12"] and rows[-1][1:] == ["232", "28", "204"]
    assert sum(int(row[2]) for row in rows[:-1]) == 28
    widget.part("norm RMSNorm").click()
    widget.part("tied").check()
    rows = [row.split("\t") for row in widget.part("twin").locator("tr").all_inner_texts()]
    assert {cell for row in rows for cell in row[2:]} == {"unknown"}


@pytest.mark.parametrize("state", [{}, FULL, {"biases": True}], ids=["start", "full", "biases"])
@pytest.mark.parametrize("width", [360, 390])
def test_phone_width(open_page, site, state, width):
    page = open_page(viewport={"width": width, "height": 740})
    page.open(site.widget("gauge-counter-phone.html", "gauge-counter", **state))
    page.part("details").locator("summary").click()
    check_width(page, width, ".qkv-switch, .qkv-widget button:not([hidden] *), .qkv-widget summary")


@pytest.mark.parametrize("width", [360, 700, 1280])
def test_matrices_and_their_names_do_not_touch(open_page, site, width):
    page = open_page(viewport={"width": width, "height": 900})
    for name, state in (("full", FULL), ("biases", {"biases": True, "activation": "SwiGLU"})):
        page.open(site.widget(f"gauge-counter-{name}.html", "gauge-counter", **state))
        meets = page.page.evaluate("""() => [...document.querySelectorAll('.qkv-layer')].flatMap((layer) => {
          const parts = [...layer.querySelectorAll('.qkv-sheet p, .qkv-sheet svg')], found = [];
          const box = (e) => { if (e.tagName === 'svg') return e.getBoundingClientRect();
            const text = document.createRange(); text.selectNodeContents(e); return text.getBoundingClientRect(); };
          parts.forEach((a, i) => parts.slice(i + 1).forEach((b) => { const [p, q] = [box(a), box(b)];
            if (p.left < q.right - 1 && q.left < p.right - 1 && p.top < q.bottom - 2 && q.top < p.bottom - 2) {
              found.push([a.textContent, b.textContent]); } }));
          return found; })""")
        assert meets == []


def test_pictures_stand_still_when_the_sentence_changes(open_page, site):
    for width in (360, 1280):
        page = open_page(viewport={"width": width, "height": 900})
        page.open(site.widget("gauge-counter-shift.html", "gauge-counter"))
        tops = set()
        for name in ("norm RMSNorm", "tied", "queries identity", "tied", "topology T0", "biases"):
            page.part(name).click()
            page.page.wait_for_timeout(400)
            tops.add(page.part("net").evaluate("e => e.getBoundingClientRect().top + scrollY"))
        assert len(tops) == 1, (width, tops)


def test_two_widgets_on_a_page_do_not_meet(open_page, site):
    both = static_html("gauge-counter") + static_html("gauge-counter", layers=1)
    page = open_page().open(site.page("gauge-two.html", both + '<script type="module" src="mount.mjs"></script>'))
    page.page.wait_for_function("document.querySelectorAll('[data-mounted=yes]').length === 2")
    page.part("topology T0").click()
    stream = page.page.locator('[data-part="row stream"] b')
    assert stream.all_inner_texts() == ["80", "16"] and page.said == []


def test_a_failure_or_no_script_leaves_the_picture(open_page, site):
    address = site.widget("gauge-counter-broken.html", "gauge-counter", topology="TA")
    broken = open_page()
    broken.page.route("**/gauge_counter.mjs", lambda route: route.abort())
    broken.page.goto(address)
    broken.page.wait_for_selector('[data-mounted="failed"]')
    assert broken.part("tied").is_disabled() and numbers(broken)[1] == ("stream", "48")
    assert broken.page.locator('[data-variant="stream"]').is_disabled()
    without = open_page(java_script_enabled=False)
    without.page.goto(address)
    assert without.part("net").is_visible() and not without.part("tied").is_visible()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_squares_and_names_can_be_told_apart_in_light_and_dark(open_page, site, theme):
    page = open_page(color_scheme=theme, reduced_motion="reduce")
    page.open(site.widget("gauge-counter-theme.html", "gauge-counter", show="heads"))
    colors = colors_of(page, ".qkv-choice button, .qkv-count:not([hidden]) button")
    assert len(colors) == sum(len(names) for _, names in gauge_counter_picture.NAMES.values()) + 3
    check_contrast(colors)
    squares = page.page.evaluate("""() => { const c = document.createElement('canvas').getContext('2d');
      return ['full', 'pale', 'lit'].map((name) => { const path = document.querySelector('.qkv-sheet path.' + name);
        c.fillStyle = getComputedStyle(path).fill; c.fillRect(0, 0, 1, 1);
        return [...c.getImageData(0, 0, 1, 1).data].slice(0, 3).map((v) => v / 255); }); }""")
    full, pale, lit = map(luminance, squares)
    for other in (pale, lit):
        low, high = sorted((full, other))
        assert (high + 0.05) / (low + 0.05) > 3
    assert (pale > full) is (theme == "light")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe(open_page, site, theme):
    page = open_page(color_scheme=theme, reduced_motion="reduce")
    page.open(site.widget("gauge-counter-axe.html", "gauge-counter", norm="RMSNorm", show="stream"))
    check_axe(page)


def test_print_is_a_light_still(open_page, site):
    page = open_page(color_scheme="dark").open(site.widget("gauge-counter-print.html", "gauge-counter"))
    check_print(page, "net")
    assert page.page.locator('[data-variant="stream"]').is_visible()


def test_as_a_notebook_runs_it(open_page, site):
    page = open_in_notebook(open_page(), site, "gauge-counter")
    page.page.evaluate("model.set('layers', 3)")  # a linked slider
    assert page.part("layers 3").get_attribute("aria-pressed") == "true"
    page.part("topology TA").click()
    assert page.page.evaluate("[model.get('topology'), saved]") == ["TA", 1]
    check_cleanup(page)
    assert page.said == []


def test_size_of_the_script():
    own, whole = (FOLDER / "gauge_counter.mjs").read_bytes(), len(gzip.compress(bundle("gauge-counter").encode(), 9))
    print(f"\ngauge_counter.mjs: {len(own)} bytes of 14336; {whole} of 15000 with gzip and with qkv.mjs")
    assert len(own) < 14_336 and whole < 15_000


def test_time_of_an_input_is_reported(open_page, site):
    page = open_page().open(site.widget("gauge-counter-time.html", "gauge-counter", **FULL))
    act = """((names) => (i) => document.querySelector(`[data-part="${names[i % 4]}"]`).click())(
      ['topology TM', 'activation ReLU', 'activation SwiGLU', 'topology T0'])"""
    check_times(page, act, count=80)
