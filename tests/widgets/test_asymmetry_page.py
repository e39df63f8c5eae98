"""The asymmetry widget in a real browser: on a static page, and as a notebook would run it."""

from __future__ import annotations

import gzip
import json
import statistics
from pathlib import Path

import pytest

from qkvtheory.widgets import FOLDER, asymmetry, bundle, static_html, styles

AXE = Path(__file__).parents[2] / "node_modules" / "axe-core" / "axe.min.js"
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
    x, y = widget.center("token 3")
    widget.page.mouse.move(x, y)
    widget.page.mouse.down()
    widget.page.mouse.move(x + 30, y - 40, steps=4)
    widget.page.mouse.up()
    new = widget.center("token 3")
    assert abs(new[0] - x - 30) < 2 and abs(new[1] - y + 40) < 2
    assert widget.numbers("map") != old and seen(widget)["cycles"] == "yes"


def test_keyboard(widget):
    press = widget.page.keyboard.press
    order = []
    for _ in range(14):
        press("Tab")
        order.append(widget.page.evaluate("document.activeElement.dataset.part"))
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
    x, y = phone.center("token 1")
    session = phone.page.context.new_cdp_session(phone.page)

    def touch(kind, *points):
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": a, "y": b} for a, b in points]})

    scrolled = phone.page.evaluate("scrollY")
    touch("touchStart", (x + 12, y + 12))
    for step in range(1, 5):
        touch("touchMove", (x + 12 - 6 * step, y + 12 + 9 * step))
    touch("touchEnd")
    new = phone.center("token 1")
    assert phone.page.evaluate("scrollY") == scrolled
    assert abs(new[0] - x + 24) < 3 and abs(new[1] - y - 36) < 3
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
    free = page.page.evaluate("""() => [...document.querySelectorAll('.qkv-matrix [role=img] span')].map((e) => {
      const text = document.createRange();
      text.selectNodeContents(e);
      return [e.getBoundingClientRect().width - text.getBoundingClientRect().width, e.textContent]; })""")
    assert max(len(text) for _, text in free) == 5, "there is a long number to look at"
    assert min(free)[0] > 1, min(free)


@pytest.mark.parametrize("tokens", [3, 4, 6])
def test_phone_width(open_page, site, tokens):
    page = open_page(viewport={"width": 360, "height": 740})
    page.open(site.widget("asymmetry-phone.html", "asymmetry", tokens=SIX[:tokens], correction="key-bias"))
    page.part("details").locator("summary").click()
    assert page.page.evaluate("document.documentElement.scrollWidth") == 360
    wide = page.page.evaluate(
        "(() => { const right = (e) => e.getBoundingClientRect().right, el = document.querySelector('.qkv-widget');"
        " return [...el.querySelectorAll('*')].filter((e) => !e.closest('svg') && right(e) > right(el)).length; })()"
    )
    assert wide == 0
    small = page.page.evaluate(
        "[...document.querySelectorAll('.hit, .qkv-switch, .qkv-range, .qkv-widget button, .qkv-widget summary')]"
        ".filter((e) => e.getBoundingClientRect().height < 44).map((e) => e.outerHTML)"
    )
    assert small == []


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


def luminance(color):
    channels = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color]
    return 0.2126 * channels[0] + 0.7152 * channels[1] + 0.0722 * channels[2]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_numbers_can_be_read_in_light_and_dark(open_page, site, theme):
    page = open_page(color_scheme=theme, reduced_motion="reduce")
    page.open(site.widget("asymmetry-theme.html", "asymmetry", mode="qkv", temperature=3, causal=True))
    colors = page.page.evaluate("""() => {
      const c = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
      const rgb = (color) => {
        c.fillStyle = color; c.fillRect(0, 0, 1, 1);
        return [...c.getImageData(0, 0, 1, 1).data].slice(0, 3).map((v) => v / 255); };
      return [...document.querySelectorAll('.qkv-matrix [role=img] span, .qkv-choice button')]
        .map((e) => getComputedStyle(e)).map((s) => [rgb(s.color), rgb(s.backgroundColor)]); }""")
    assert len(colors) == 48 + 7
    for text, ground in colors:
        low, high = sorted((luminance(text), luminance(ground)))
        assert (high + 0.05) / (low + 0.05) >= 4.5
    assert (luminance(colors[0][0]) > 0.5) is (theme == "dark")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe(open_page, site, theme):
    if not AXE.exists():
        pytest.skip("axe-core is not installed (npm ci)")
    page = open_page(color_scheme=theme, reduced_motion="reduce")
    page.open(site.widget("asymmetry-axe.html", "asymmetry", mode="qkv", correction="key-bias"))
    page.part("details").locator("summary").click()
    page.page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    assert len(found["passes"]) > 10
    assert [(v["id"], [n["html"][:200] for n in v["nodes"]][:3]) for v in found["violations"]] == []


def test_print_is_a_light_still(open_page, site):
    page = open_page(color_scheme="dark").open(site.widget("asymmetry-print.html", "asymmetry", mode="qkv"))
    page.page.emulate_media(media="print", color_scheme="dark")
    assert page.part("map").is_visible() and not page.part("controls").is_visible()
    assert page.page.locator(".qkv-formula").is_visible()
    assert page.page.evaluate("getComputedStyle(document.querySelector('.qkv-live')).color") == "rgb(36, 38, 43)"


NOTEBOOK = """<div id="out"></div><script type="module">
const data = %s;
window.listeners = {};
window.model = {
  get: (k) => data[k],
  set(k, v) { data[k] = v; for (const call of listeners["change:" + k] ?? []) call(); },
  save_changes() {},
  on: (e, f) => (listeners[e] ??= []).push(f),
  off: (e, f) => { listeners[e] = (listeners[e] ?? []).filter((g) => g !== f); },
};
const module = await import(URL.createObjectURL(new Blob([data._esm], { type: "text/javascript" })));
window.cleanup = await module.default.render({ model: window.model, el: document.getElementById("out") });
document.getElementById("out").dataset.mounted = "yes";
</script>"""


def test_as_a_notebook_runs_it(open_page, site):
    state = asymmetry.check_state()
    data = {**state, "still": asymmetry.still(state), "_esm": bundle("asymmetry")}
    page = open_page()
    body = NOTEBOOK % json.dumps(data).replace("<", "\\u003c")
    page.open(site.page("asymmetry-notebook.html", body, head=f"<style>{styles()}</style>"))
    page.page.evaluate("model.set('temperature', -2)")  # a linked slider
    assert page.part("temperature").input_value() == "-2" and seen(page)["pairs"] == "no"
    page.part("mode qkv").click()
    assert page.page.evaluate("model.get('mode')") == "qkv"
    page.page.evaluate("cleanup()")
    assert page.page.evaluate("Object.values(listeners).flat().length") == 0
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
    times = page.page.evaluate("""async () => {
      const hand = document.querySelector('[data-part="token 0"]'), times = [];
      for (let i = 0; i < 60; i++) {
        const key = i % 2 ? 'ArrowLeft' : 'ArrowRight', from = performance.now();
        hand.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true, cancelable: true }));
        await null;
        times.push(performance.now() - from); }
      return times; }""")
    median, worst = statistics.median(times), max(times)
    print(f"\nscript time of one input: median {median:.2f} ms, worst {worst:.2f} ms; budget 4 ms")
    assert len(times) == 60 and min(times) > 0
