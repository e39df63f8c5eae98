"""The cache widget in a real browser: on a static page, and as a notebook would run it."""

from __future__ import annotations

import gzip

import pytest

from qkvtheory.widgets import FOLDER, cache, static_html
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

LARGE = {"model": "gpt-neox-20b", "tokens": 2**20, "batch": 256, "number": "fp32", "memory": 24}  # the longest numbers


@pytest.fixture
def widget(open_page, site):
    driver = open_page().open(site.widget("cache.html", "cache"))
    yield driver
    assert driver.said == []


def chosen(page):
    """The variants that are pressed, and how many bars are marked."""
    pressed = page.page.locator('.qkv-names [aria-pressed="true"]').all()
    return [button.get_attribute("data-variant") for button in pressed]


def variant(page, name):
    return page.page.locator(f'[data-variant="{name}"]').first


def sizes(page, name):
    return variant(page, name).locator("xpath=ancestor::div[@data-chosen]").locator(".qkv-size span").all_inner_texts()


def test_script_repaints_exactly_what_the_server_painted(open_page, site):
    snapshot = """() => { const el = document.querySelector('.qkv-widget').cloneNode(true);
      for (const n of el.querySelectorAll('fieldset')) n.removeAttribute('disabled');
      for (const n of el.querySelectorAll('[selected]')) n.removeAttribute('selected');
      return [el.innerHTML, document.querySelector('select').value]; }"""
    states = [
        {},
        {"model": "three-projections-1.2b", "variant": "Q-MQA", "tokens": 32000, "batch": 3, "memory": 141},
        {"model": "llama-3-8b", "variant": "Q-GQA-8", "number": "fp8"},
        {"model": "gemma-7b", "variant": "slim"},
        {"model": "gpt2-xl", "variant": "GTA-5"},
        LARGE,
    ]
    still, live = open_page(), open_page()
    still.page.route("**/*.mjs", lambda route: route.abort())
    for name, state in enumerate(states):
        address = site.widget(f"cache-{name}.html", "cache", **state)
        still.page.goto(address)
        live.open(address)
        # The script starts from another picture, so that every part has to be painted.
        live.part("model").select_option("olmo-2-7b")
        live.part("number fp32" if state.get("number") != "fp32" else "number fp8").click()
        live.part("memory 24" if state.get("memory") != 24 else "memory 80").click()
        live.part("tokens").press("ArrowRight" if state.get("tokens") != 2**20 else "ArrowLeft")
        live.part("batch").press("ArrowRight" if state.get("batch") != 256 else "ArrowLeft")
        variant(live, "Q-GQA-4").click()
        live.part("details").evaluate("e => { e.open = true; }")
        assert live.page.evaluate(snapshot) != still.page.evaluate(snapshot)
        live.page.keyboard.press("Escape")
        live.page.wait_for_timeout(450)
        live.part("details").evaluate("e => { e.open = false; }")
        assert live.page.evaluate(snapshot) == still.page.evaluate(snapshot)


def test_a_variant_is_chosen_on_its_bar(widget):
    assert chosen(widget) == ["Q-K=V"] and sizes(widget, "Q-K=V") == ["1.34 GB", "1.25 GiB", "50%", "1.68%"]
    assert sizes(widget, "GQA-8") == sizes(widget, "Q-K=V")
    variant(widget, "GQA-4").click()
    assert chosen(widget) == ["GQA-4"]
    assert widget.page.locator('.qkv-bar[data-chosen="true"] button').all_inner_texts() == ["GQA-4", "Q-GQA-8"]
    widget.announced("It keeps a key and a value for 4 of 16 heads.")
    assert widget.page.locator('[data-point][data-chosen="true"]').get_attribute("data-point") == "GQA-4"
    variant(widget, "GTA-2").click()  # no table has it
    assert widget.page.locator('[data-point][data-chosen="true"]').count() == 0
    widget.part("reset").click()
    assert chosen(widget) == ["Q-K=V"]


def test_another_model_has_other_bars(widget):
    widget.part("model").select_option("llama-3-8b")
    assert variant(widget, "GQA-8").inner_text() == "GQA-8 (as released)" and chosen(widget) == ["Q-K=V"]
    assert widget.part("own").text_content().startswith("As released this model is GQA-8")
    assert not widget.part("legend").is_visible()
    fronts = [f"front {name}" for name in cache.TABLES]
    assert [widget.part(name).is_visible() for name in fronts] == [False, False]
    widget.part("model").select_option("three-projections-1.2b")
    assert [widget.part(name).is_visible() for name in fronts] == [False, True] and widget.part("legend").is_visible()
    crossed = [b.get_attribute("data-variant") for b in widget.page.locator(".qkv-names button:has-text('✗')").all()]
    assert crossed == ["Q-K=V", "Q-GQA-8"]
    variant(widget, "GQA-8").click()
    widget.part("model").select_option("gpt2")
    widget.announced("There is no GQA-8 of this model: 8 groups do not make its 12 query heads share.")
    assert chosen(widget) == [] and widget.part("fit said").text_content() == "Nothing to show."


def test_length_batch_and_format_multiply(widget):
    before = sizes(widget, "QKV")[1]
    assert before == "2.50 GiB"
    widget.part("tokens").press("End")
    assert widget.part("tokens said").text_content() == "1,048,576 tokens" and sizes(widget, "QKV")[1] == "80.0 GiB"
    widget.part("batch").press("ArrowRight")
    assert widget.part("batch").get_attribute("aria-valuetext") == "2 sequences"
    assert sizes(widget, "QKV")[1] == "160 GiB" and widget.part("fit").get_attribute("data-over") == "true"
    widget.announced("it does not fit in 80 GB: at most")
    widget.part("number fp8").click()
    assert sizes(widget, "QKV")[1] == "80.0 GiB" and widget.part("fit").get_attribute("data-over") == "false"
    widget.part("memory 24").click()
    assert (
        widget.part("fit").get_attribute("data-over") == "true"
        and widget.part("of memory").text_content() == "of 24 GB"
    )
    assert widget.page.locator('.qkv-choice [aria-pressed="true"]').all_inner_texts() == ["fp8", "24"]


def test_the_bar_of_weights_and_cache_is_as_long_as_it_says(open_page, site):
    page = open_page().open(site.widget("cache-fit.html", "cache", model="gpt-neox-20b", tokens=131072))
    f = cache.facts(cache.check_state(model="gpt-neox-20b", tokens=131072))
    whole, weights, cached, end = page.part("fit").evaluate(
        "e => [e, ...e.querySelectorAll('span')].map((b) => b.getBoundingClientRect().width)"
        ".concat(e.querySelector('i').getBoundingClientRect().left - e.getBoundingClientRect().left)"
    )
    need = f.need(f.chosen)
    parts = [f.weights(f.chosen), f.cache(f.chosen), f.memory]
    assert need > f.memory
    assert [weights / whole, cached / whole, end / whole] == pytest.approx([part / need for part in parts], abs=2e-3)


def test_keyboard(widget):
    press = widget.page.keyboard.press
    order = widget.tab(12)
    assert order[:5] == ["model", "number fp32", "number bf16", "number fp8", "tokens"]
    assert order[5:10] == ["batch", "memory 24", "memory 80", "memory 141", "reset"] and order[10:] == [None, None]
    focused = "document.activeElement.dataset.variant"
    assert widget.page.evaluate(focused) == "Q=K-V"
    press("Space")
    assert chosen(widget) == ["Q=K-V"] and widget.page.evaluate(focused) == "Q=K-V"  # the focus stays where it is
    outline = variant(widget, "Q=K-V").evaluate("e => getComputedStyle(e).outlineStyle")
    assert outline == "solid"
    widget.announced("Queries are never cached")
    widget.part("tokens").focus()
    press("ArrowLeft")
    assert widget.part("tokens").get_attribute("aria-valuetext") == "24,576 tokens"
    press("Escape")
    assert chosen(widget) == ["Q-K=V"] and widget.part("tokens").get_attribute("aria-valuetext") == "32,768 tokens"


def test_touch(open_page, site):
    phone = open_page(viewport={"width": 390, "height": 740}, has_touch=True, is_mobile=True)
    phone.open(site.widget("cache-touch.html", "cache"))
    variant(phone, "Q-MQA").tap()
    phone.part("number fp32").tap()
    assert chosen(phone) == ["Q-MQA"] and sizes(phone, "Q-MQA")[1] == "160 MiB" and phone.said == []


def test_table_twin_has_the_bytes(widget):
    widget.part("details").locator("summary").click()
    rows = [row.split("\t") for row in widget.part("twin").locator("tr").all_inner_texts()]
    f = cache.facts(cache.check_state())
    assert [(name, int(size.replace(",", ""))) for name, _, size in rows] == [
        (e.name, f.cache(e)) for e in f.model.entries
    ]
    rows = [row.split("\t") for row in widget.part("shares").locator("tr").all_inner_texts()]
    assert {name: loss for name, _, loss in rows if loss != "none"} == cache.measured(f.model.name)
    widget.part("model").select_option("gpt2-xl")  # an open table follows
    names = [row.split("\t")[0] for row in widget.part("shares").locator("tr").all_inner_texts()]
    assert names == [e.name for e in cache.model("gpt2-xl").entries]


@pytest.mark.parametrize("state", [{}, LARGE], ids=["start", "large"])
def test_phone_width(open_page, site, state):
    page = open_page(viewport={"width": 360, "height": 740})
    page.open(site.widget("cache-phone.html", "cache", **state))
    page.part("details").locator("summary").click()
    check_width(page, 360, ".qkv-range, .qkv-widget select, .qkv-widget button, .qkv-widget summary")


@pytest.mark.parametrize("width", [360, 700, 1280])
def test_numbers_beside_the_bars_do_not_touch(open_page, site, width):
    page = open_page(viewport={"width": width, "height": 900})
    page.open(site.widget("cache-numbers.html", "cache", **LARGE))
    gaps = page.page.evaluate("""() => [...document.querySelectorAll('.qkv-size')].map((line) => {
      const boxes = [...line.children].map((e) => { const text = document.createRange();
        text.selectNodeContents(e); return text.getBoundingClientRect(); });
      return Math.min(...boxes.slice(1).map((box, i) => box.left - boxes[i].right)); })""")
    assert len(gaps) > 10 and min(gaps) > 3


def test_pictures_stand_still_when_the_sentence_changes(open_page, site):
    for width in (360, 390, 1280):
        page = open_page(viewport={"width": width, "height": 900})
        page.open(site.widget("cache-shift.html", "cache", tokens=2**20, batch=256, number="fp32", memory=141))
        tops = set()
        for name in ("slim", "Q=K-V", "Q-MQA", "GTA-1", "QKV"):
            variant(page, name).click()
            page.page.wait_for_timeout(400)
            tops.add(page.part("bars").evaluate("e => e.getBoundingClientRect().top + scrollY"))
        for name in ("llama-3-8b", "gpt2-xl", "three-projections-1.2b"):
            page.part("model").select_option(name)
            page.page.wait_for_timeout(400)
            tops.add(page.part("bars").evaluate("e => e.getBoundingClientRect().top + scrollY"))
        assert len(tops) == 1, (width, tops)


def test_names_of_points_do_not_cover_each_other(open_page, site):
    for name in cache.TABLES:
        page = open_page(viewport={"width": 360, "height": 900})
        page.open(site.widget("cache-names.html", "cache", model=name))
        boxes = page.part(f"front {name}").evaluate(
            "e => [...e.querySelectorAll('svg text, svg circle')].map((t) => { const b = t.getBoundingClientRect();"
            " return [b.left, b.top, b.right, b.bottom]; })"
        )
        assert len(boxes) > 12
        for i, a in enumerate(boxes):
            for b in boxes[:i]:
                apart = a[0] >= b[2] or b[0] >= a[2] or a[1] >= b[3] - 3 or b[1] >= a[3] - 3
                assert apart, (name, a, b)


def test_two_widgets_on_a_page_do_not_meet(open_page, site):
    both = static_html("cache") + static_html("cache", variant="MQA") + static_html("basis-change")
    page = open_page().open(site.page("cache-two.html", both + '<script type="module" src="mount.mjs"></script>'))
    page.page.wait_for_function("document.querySelectorAll('[data-mounted=yes]').length === 3")
    variant(page, "QKV").click()
    assert chosen(page) == ["QKV", "MQA"] and page.said == []


def test_a_failure_or_no_script_leaves_the_picture(open_page, site):
    address = site.widget("cache-broken.html", "cache", variant="GQA-4")
    broken = open_page()
    broken.page.route("**/cache.mjs", lambda route: route.abort())
    broken.page.goto(address)
    broken.page.wait_for_selector('[data-mounted="failed"]')
    assert broken.part("model").is_disabled() and variant(broken, "MQA").is_disabled() and chosen(broken) == ["GQA-4"]
    without = open_page(java_script_enabled=False)
    without.page.goto(address)
    assert without.part("bars").is_visible() and without.page.locator(".qkv-front svg").first.is_visible()
    assert not without.part("tokens").is_visible()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_names_can_be_read_in_light_and_dark(open_page, site, theme):
    page = open_page(color_scheme=theme, reduced_motion="reduce")
    page.open(site.widget("cache-theme.html", "cache"))
    colors = colors_of(page, ".qkv-names button, .qkv-choice button, .qkv-widget select")
    assert len(colors) == len(cache.model(cache.DEFAULT["model"]).entries) + 6 + 1
    check_contrast(colors)
    assert (luminance(colors[0][0]) > 0.5) is (theme == "dark")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe(open_page, site, theme):
    page = open_page(color_scheme=theme, reduced_motion="reduce")
    page.open(site.widget("cache-axe.html", "cache", variant="Q-GQA-4"))
    check_axe(page)


def test_print_is_a_light_still(open_page, site):
    page = open_page(color_scheme="dark").open(site.widget("cache-print.html", "cache"))
    check_print(page, "bars")
    assert page.page.locator(".qkv-front svg").first.is_visible() and page.part("fit").is_visible()


def test_as_a_notebook_runs_it(open_page, site):
    page = open_in_notebook(open_page(), site, "cache")
    page.page.evaluate("model.set('tokens', 65536)")  # a linked slider
    assert page.part("tokens").get_attribute("aria-valuetext") == "65,536 tokens"
    variant(page, "MQA").click()
    assert page.page.evaluate("[model.get('variant'), saved]") == ["MQA", 1]
    check_cleanup(page)
    assert page.said == []


def test_size_of_the_script():
    names = ("qkv.mjs", "cache.mjs", "mount.mjs")
    size = len(gzip.compress(b"".join((FOLDER / name).read_bytes() for name in names), 9))
    own = (FOLDER / "cache.mjs").stat().st_size
    print(f"\nscript, gzip: {size} bytes of 15000; cache.mjs alone, as it is: {own} bytes of 16384")
    assert size < 15_000 and own < 16_384


def test_time_of_an_input_is_reported(open_page, site):
    page = open_page().open(site.widget("cache-time.html", "cache", model="gpt-neox-20b"))
    other = """((pick) => (i) => { pick.value = i % 2 ? 'gpt-neox-20b' : 'llama-3-8b';
      pick.dispatchEvent(new Event('change', { bubbles: true })); })(document.querySelector('select'))"""
    check_times(page, other)  # another model makes other bars: the most there is to do
