"""What every widget has to stand in a browser; each function is given a page with one widget."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest

from qkvtheory.widgets import WIDGETS, bundle, styles

AXE = Path(__file__).parents[2] / "node_modules" / "axe-core" / "axe.min.js"

NOTEBOOK = """<div id="out"></div><script type="module">
const data = %s;
window.listeners = {};
window.model = {
  get: (k) => data[k],
  set(k, v) {
    const same = JSON.stringify(data[k]) === JSON.stringify(v);
    data[k] = v;
    if (!same) for (const call of listeners["change:" + k] ?? []) call();
  },
  save_changes() { window.saved = (window.saved ?? 0) + 1; },
  on: (e, f) => (listeners[e] ??= []).push(f),
  off: (e, f) => { listeners[e] = (listeners[e] ?? []).filter((g) => g !== f); },
};
const module = await import(URL.createObjectURL(new Blob([data._esm], { type: "text/javascript" })));
window.cleanup = await module.default.render({ model: window.model, el: document.getElementById("out") });
document.getElementById("out").dataset.mounted = "yes";
</script>"""


def open_in_notebook(page, site, name):
    """Open the widget as a notebook would run it, from one module and a model; ``model`` is known to the page."""
    state = WIDGETS[name].check_state()
    data = {**state, "still": WIDGETS[name].still(state), "_esm": bundle(name)}
    body = NOTEBOOK % json.dumps(data).replace("<", "\\u003c")
    return page.open(site.page(f"{name}-notebook.html", body, head=f"<style>{styles()}</style>"))


def check_cleanup(page):
    """A closed figure of a notebook listens to nothing."""
    page.page.evaluate("cleanup()")
    assert page.page.evaluate("Object.values(listeners).flat().length") == 0


def check_axe(page):
    if not AXE.exists():
        pytest.skip("axe-core is not installed (npm ci)")
    page.part("details").locator("summary").click()
    page.page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    assert len(found["passes"]) > 10
    assert [(v["id"], [n["html"][:200] for n in v["nodes"]][:3]) for v in found["violations"]] == []


def check_print(page, picture):
    """On paper the part ``picture`` is there, the controls are not, and the ink is dark."""
    page.page.emulate_media(media="print", color_scheme="dark")
    assert page.part(picture).is_visible() and not page.part("controls").is_visible()
    ink = page.page.evaluate("getComputedStyle(document.querySelector('.qkv-live')).color")
    assert ink == "rgb(36, 38, 43)"


def check_width(page, width, targets):
    """Nothing is wider than the phone, and what a finger has to hit (a CSS selector) is 44 pixels high."""
    assert page.page.evaluate("document.documentElement.scrollWidth") == width
    wide = page.page.evaluate("""() => {
      const right = (e) => e.getBoundingClientRect().right, el = document.querySelector('.qkv-widget');
      return [...el.querySelectorAll('*')]
        .filter((e) => !e.closest('svg') && right(e) > right(el)).map((e) => e.outerHTML); }""")
    assert wide == []
    small = page.page.evaluate(
        "targets => [...document.querySelectorAll(targets)]"
        ".filter((e) => e.getBoundingClientRect().height < 44).map((e) => e.outerHTML)",
        targets,
    )
    assert small == []


def check_cells(page):
    """The numbers in neighboring cells of a matrix do not touch, and there is a long one among them."""
    free = page.page.evaluate("""() => [...document.querySelectorAll('.qkv-matrix [role=img] span')].map((e) => {
      const text = document.createRange();
      text.selectNodeContents(e);
      return [e.getBoundingClientRect().width - text.getBoundingClientRect().width, e.textContent]; })""")
    assert max(len(text) for _, text in free) == 5, "there is a long number to look at"
    assert min(free)[0] > 1, min(free)


# A canvas turns every CSS color into plain sRGB.
COLORS = """() => {
  const c = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const rgb = (color) => {
    c.fillStyle = color; c.fillRect(0, 0, 1, 1);
    return [...c.getImageData(0, 0, 1, 1).data].slice(0, 3).map((v) => v / 255); };
  return (%s).map((colors) => colors.map(rgb)); }"""


def colors_from(page, pairs):
    """Pairs of CSS colors, which this JavaScript expression gives, as sRGB."""
    return page.page.evaluate(COLORS % pairs)


def colors_of(page, selector):
    """The color of the text and of its ground, as sRGB, for all elements of a CSS selector."""
    found = f"[...document.querySelectorAll({json.dumps(selector)})].map((e) => getComputedStyle(e))"
    return colors_from(page, f"{found}.map((s) => [s.color, s.backgroundColor])")


def luminance(color):
    channels = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color]
    return 0.2126 * channels[0] + 0.7152 * channels[1] + 0.0722 * channels[2]


def check_contrast(colors):
    for text, ground in colors:
        low, high = sorted((luminance(text), luminance(ground)))
        assert (high + 0.05) / (low + 0.05) >= 4.5


def check_swipe(phone, name, step, start):
    """A finger that comes down ``start`` pixels beside a knob and makes four steps takes it along; nothing scrolls."""
    (x, y), (dx, dy) = phone.center(name), step
    session = phone.page.context.new_cdp_session(phone.page)

    def touch(kind, *points):
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": a, "y": b} for a, b in points]})

    scrolled = phone.page.evaluate("scrollY")
    touch("touchStart", (x + start, y + start))
    for i in range(1, 5):
        touch("touchMove", (x + start + dx * i, y + start + dy * i))
    touch("touchEnd")
    new = phone.center(name)
    assert phone.page.evaluate("scrollY") == scrolled
    assert abs(new[0] - x - 4 * dx) < 3 and abs(new[1] - y - 4 * dy) < 3


def press_left_and_right(name):
    """The script of an input for ``check_times``: an arrow key for this part, to and fro."""
    return f"""((hand) => (i) => {{
        const key = i % 2 ? 'ArrowLeft' : 'ArrowRight';
        hand.dispatchEvent(new KeyboardEvent('keydown', {{ key, bubbles: true, cancelable: true }}));
      }})(document.querySelector('[data-part="{name}"]'))"""


def check_times(page, act, count=60):
    """Report how long the script takes for an input; ``act`` is a JavaScript function of the number of the input."""
    times = page.page.evaluate(
        f"""async () => {{
      const act = {act}, times = [];
      for (let i = 0; i < {count}; i++) {{
        const from = performance.now();
        act(i);
        await null;
        times.push(performance.now() - from); }}
      return times; }}"""
    )
    median, worst = statistics.median(times), max(times)
    print(f"\nscript time of one input: median {median:.2f} ms, worst {worst:.2f} ms; budget 4 ms")
    assert len(times) == count and min(times) > 0
