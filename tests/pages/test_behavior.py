"""What a reader does: switch a hypothesis off, filter, search, change the theme, print, read without script."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import HTML

pytestmark = pytest.mark.pages
REGISTER = "book/register.html"
CHAPTER = "book/part-1/reparametrization.html"
FREEDOM = "book/part-1/degrees-of-freedom.html"
SKIPS = "book/part-2/every-skip.html"
KEYS = "book/part-3/queries-equal-keys.html"
DIRECTION = "book/part-3/restoring-direction.html"
VALUES = "book/part-3/keys-equal-values.html"
CACHE = "book/part-3/kv-cache.html"
FIGURES = [FREEDOM, SKIPS, KEYS, DIRECTION, VALUES, CACHE]  # pages with an interactive figure
RAIL = "e => getComputedStyle(e.matches('li') ? e : e.querySelector('li')).borderLeftColor"  # of a step, or of all
SWITCH = "#reparam-lemma [role=switch]"


@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
def test_switch_by_keyboard(open_page: Any, script: bool) -> None:
    """Off, by the space bar, a hypothesis opens its controls and marks the failing step; on, all is as before."""
    tab = open_page(CHAPTER, java_script_enabled=script)
    switches = tab.locator(SWITCH)
    assert switches.count() >= 2
    for at in range(switches.count()):
        switch = switches.nth(at)
        name = switch.get_attribute("id")
        shown = tab.locator(f'[data-off~="{name}"]')
        failing = tab.locator(f'[data-fails~="{name}"]')
        calm = tab.locator("#reparam-lemma").evaluate("e => getComputedStyle(e).borderTopStyle")
        assert not any(part.is_visible() for part in shown.all())
        step_before = failing.first.evaluate(RAIL)
        switch.focus()
        tab.keyboard.press("Space")
        assert not switch.is_checked()
        assert all(part.is_visible() for part in shown.all())
        assert tab.locator("#reparam-lemma").evaluate("e => getComputedStyle(e).borderTopStyle") != calm
        assert failing.first.evaluate(RAIL) != step_before
        tab.keyboard.press("Space")
        assert not any(part.is_visible() for part in shown.all())


def test_switches_are_named_and_described(open_page: Any) -> None:
    tab = open_page(CHAPTER)
    for switch in tab.locator(".claim [role=switch]").all():
        assert switch.evaluate("e => e.labels[0].textContent.trim()")
        described = switch.get_attribute("aria-describedby")
        assert tab.locator(f"#{described}").text_content().strip()


def test_a_status_is_never_color_alone(open_page: Any) -> None:
    tab = open_page(CHAPTER)
    states = tab.locator(".status").all()
    assert states
    for state in states:
        sign, words = state.evaluate("e => [e.firstElementChild.textContent, e.textContent.slice(1).trim()]")
        assert sign in "✓✗–" and words
        if "not-run" in state.get_attribute("class"):
            assert "not run" in words and sign == "–"


def test_register_filters_without_script(open_page: Any) -> None:
    tab = open_page(REGISTER, java_script_enabled=False)
    rows = tab.locator(".register tbody tr")
    everything = sum(row.is_visible() for row in rows.all())
    for kind in ("theorem", "remark"):
        tab.locator(f"#show-{kind}").check()
        shown = [row.get_attribute("class") for row in rows.all() if row.is_visible()]
        assert shown and all(kind in names for names in shown) and len(shown) < everything


def test_register_filters_by_words(open_page: Any) -> None:
    tab = open_page(REGISTER)
    tab.locator("#register-words").fill("reparam-lemma")
    shown = [row.text_content() for row in tab.locator(".register tbody tr").all() if row.is_visible()]
    assert shown and all("reparam-lemma" in text for text in shown)
    tab.locator("#register-words").fill("no claim says this")
    assert not any(row.is_visible() for row in tab.locator(".register tbody tr").all())


def test_register_draws_every_claim(open_page: Any) -> None:
    tab = open_page(REGISTER)
    assert tab.locator(".dag a").count() == tab.locator(".register tbody tr").count()


def test_print_shows_what_is_folded(open_page: Any) -> None:
    """On paper every box of a claim, proof and solution is open, without any script."""
    tab = open_page(CHAPTER, java_script_enabled=False)
    folded = tab.locator(":is(details.lanes, details.proof, details.folded):not([open]) > :not(summary)").all()
    assert folded and not any(part.is_visible() for part in folded)
    tab.emulate_media(media="print")
    for part in folded:
        assert part.evaluate("e => e.checkVisibility({visibilityProperty: true}) && e.offsetHeight > 0")
    assert all(part.is_visible() for part in tab.locator("article.claim .broken").all())
    assert not tab.locator("#site-nav").is_visible()


@pytest.mark.parametrize("page", [CHAPTER, *FIGURES])
def test_paper_shows_every_formula_whole(open_page: Any, page: str) -> None:
    """What scrolls on a screen is set smaller on paper."""
    tab = open_page(page, width=700)
    tab.emulate_media(media="print")
    beyond = "all => all.filter((e) => e.getBoundingClientRect().right > innerWidth + 1).length"
    assert tab.locator("main .math svg").evaluate_all(beyond) == 0


def test_theme_switch_is_remembered(open_page: Any) -> None:
    tab = open_page(CHAPTER, color_scheme="light")
    before = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    tab.locator(".theme-switch").click()
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") != before
    tab.reload()
    assert tab.evaluate("document.documentElement.dataset.theme") == "dark"


def test_dark_without_script(open_page: Any) -> None:
    light = open_page(CHAPTER, java_script_enabled=False, color_scheme="light")
    dark = open_page(CHAPTER, java_script_enabled=False, color_scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    assert light.evaluate(ground) != dark.evaluate(ground)


def test_contents_open_on_a_phone(open_page: Any) -> None:
    tab = open_page(CHAPTER, width=360, java_script_enabled=False)
    assert not tab.locator("#site-nav").is_visible()
    tab.get_by_role("button", name="Contents").click()
    assert tab.locator("#site-nav").is_visible()
    tab.keyboard.press("Escape")
    assert not tab.locator("#site-nav").is_visible()


def test_the_front_door_is_the_first_page(open_page: Any) -> None:
    """index.html shows the computed statuses itself, and its links lead on from the root."""
    tab = open_page("index.html")
    assert "pass" in tab.locator("main").inner_text()
    tab.locator("main a[href$='reparametrization.html']").first.click()
    tab.wait_for_url("**/book/part-1/reparametrization.html", timeout=5000)


def test_search_finds_a_chapter(open_page: Any) -> None:
    tab = open_page("search.html?q=reparametrization")
    tab.locator("#search-results li a").first.wait_for(timeout=5000)
    found = [link.get_attribute("href") for link in tab.locator("#search-results li a").all()]
    assert any("reparametrization" in link for link in found)


def test_wide_boxes_scroll_by_keyboard(open_page: Any) -> None:
    tab = open_page(CHAPTER, width=360)
    overflowing = ".filter((box) => box.scrollWidth > box.clientWidth + 1).map((box) => box.tabIndex)"
    wide = tab.evaluate(f"[...document.querySelectorAll('.scroll')]{overflowing}")
    assert wide and set(wide) == {0}


def test_formulas_are_read_aloud(open_page: Any) -> None:
    """Beside every picture of a formula stands MathML, and the picture itself is silent."""
    tab = open_page(CHAPTER)
    pictures = tab.locator(".math > svg, .math .scroll > svg")
    assert pictures.count() > 20
    silent = (
        "e => e.ariaHidden === 'true' && !!(e.closest('.lines') ?? e.parentElement).querySelector('.mathml > math')"
    )
    assert all(picture.evaluate(silent) for picture in pictures.all())


SIZES = """pictures => pictures.filter((e) => e.getBoundingClientRect().width).map(
  (e) => e.getBoundingClientRect().width / e.viewBox.baseVal.width / parseFloat(getComputedStyle(e).fontSize))"""


@pytest.mark.parametrize("width", [390, 1280])
def test_no_formula_is_shrunk(open_page: Any, width: int) -> None:
    """Beside the text around it every formula is about equally large, also in the cells of a table."""
    for page in (CHAPTER, "book/notation.html"):
        sizes = open_page(page, width=width).locator("main .math svg").evaluate_all(SIZES)
        assert len(sizes) > 50 and min(sizes) > 0.85 * max(sizes)


def test_a_long_equation_breaks_on_a_phone(open_page: Any) -> None:
    for width, lines in ((390, 2), (1280, 1)):
        sides = open_page(CHAPTER, width=width).locator("#reparam-lemma .claim-statement .display svg")
        tops = [side.bounding_box()["y"] for side in sides.all()]
        assert len(tops) == 2 and (max(tops) - min(tops) > 12) == (lines == 2)


@pytest.mark.parametrize("page", [CHAPTER, "book/notation.html", *FIGURES])
def test_marks_and_commas_stay_on_their_line(open_page: Any, page: str) -> None:
    """A status stands beside the last word of its link, and a comma beside its formula."""
    joined = open_page(page, width=390).locator("main .together:not(:has(.wide))")
    lines = joined.evaluate_all("all => all.map((e) => new Set([...e.getClientRects()].map((r) => r.top)).size)")
    assert len(lines) > 20 and max(lines) == 1


def test_more_to_see_fades(open_page: Any) -> None:
    """A box that goes on to the right fades there, until it is scrolled to its end."""
    tab = open_page(CHAPTER, width=360)
    box = tab.locator(".scroll.more").first
    mask = "e => getComputedStyle(e).maskImage"
    assert "gradient" in box.evaluate(mask)
    box = box.element_handle()
    box.evaluate("e => { e.scrollLeft = e.scrollWidth; }")
    tab.wait_for_function("e => !e.classList.contains('more')", arg=box, timeout=5000)
    assert box.evaluate(mask) == "none"


def test_sections_are_listed_on_every_screen(open_page: Any) -> None:
    """In a third column where there is room, else folded under the title; without a script, too."""
    wide = open_page(CHAPTER, width=1500, java_script_enabled=False)
    assert wide.locator(".page-toc").is_visible() and not wide.locator(".toc-here").is_visible()
    for width in (390, 1280):
        tab = open_page(CHAPTER, width=width, java_script_enabled=False)
        assert not tab.locator(".page-toc").is_visible()
        link = tab.locator(".toc-here a").first
        assert not link.is_visible()
        tab.locator(".toc-here summary").click()
        link.click()
        assert tab.url.endswith(link.get_attribute("href"))


def test_chapters_and_exercises_are_numbered(open_page: Any) -> None:
    tab = open_page(CHAPTER)
    assert tab.locator("h1").inner_text().startswith("2. ")
    assert tab.locator("#site-nav a.current").first.inner_text().startswith("2. ")
    titles = tab.locator(".exercise > .admonition-title").all_inner_texts()
    assert titles
    assert all(title.startswith(f"Exercise 2.{at}") for at, title in enumerate(titles, 1))


def test_printed_sentences_wrap(open_page: Any) -> None:
    printed = open_page(CHAPTER, width=390).locator(".cell_output .prose pre")
    wide = printed.evaluate_all("all => all.map((e) => e.scrollWidth > e.clientWidth + 1)")
    assert wide and not any(wide)


def test_the_table_of_claims_shows_a_status_on_a_phone(open_page: Any) -> None:
    tab = open_page(REGISTER, width=390)
    box = tab.locator(".register tbody .status").first.bounding_box()
    assert box["x"] + box["width"] < 390
    assert not tab.locator(".register .chapter").first.is_visible()


def test_one_color_per_symbol(open_page: Any) -> None:
    tab = open_page(CHAPTER)
    colors = {
        name: tab.locator(f".math .sym-{name}").first.evaluate("e => getComputedStyle(e).fill")
        for name in ("q", "k", "v", "x", "theta")
    }
    assert len(set(colors.values())) == 5


def test_a_chart_is_drawn_over_its_still(open_page: Any) -> None:
    charts = [
        page.relative_to(HTML).as_posix() for page in HTML.rglob("*.html") if " data-plot " in page.read_text("utf8")
    ]
    if not charts:
        pytest.skip("no page of this book has a chart")
    tab = open_page(charts[0])
    tab.locator("[data-plot]").first.scroll_into_view_if_needed()
    tab.locator(".plot-live.drawn .main-svg").first.wait_for(timeout=20000)


# --- interactive figures on their pages ---

LIVE = "text => document.querySelector('[data-part=live]').textContent.includes(text)"


def test_a_figure_starts_in_the_state_its_page_asks_for(open_page: Any) -> None:
    """Also without script: the still is that of the state in the body of the directive."""
    for script in (True, False):
        tab = open_page(SKIPS, java_script_enabled=script)
        assert tab.locator("[data-part=mlp_skip]").is_checked()
        assert tab.locator("[data-part='repair layer 2']").get_attribute("aria-pressed") == "true"
        assert "WQ = I in layer 2. One basis passes every skip." in tab.locator("[data-part=live]").text_content()


def test_the_telescope_answers_on_its_page(open_page: Any) -> None:
    tab = open_page(SKIPS)
    tab.locator("[data-part='repair layer 2']").click()
    tab.wait_for_function(LIVE, arg="X₂ breaks first")
    tab.locator("[data-part='repair layer 3']").click()
    tab.wait_for_function(LIVE, arg="WQ = I in layer 3.")
    tab.locator("[data-part='repair spare units']").click()
    tab.wait_for_function(LIVE, arg="The spare units cost 48 parameters.")
    tab.locator("[data-part=reset]").click()
    tab.wait_for_function(LIVE, arg="WQ = I in layer 2.")


def test_the_claims_behind_a_figure_are_linked_below_it(open_page: Any) -> None:
    tab = open_page(SKIPS, java_script_enabled=False)
    below = tab.locator("p", has_text="The claims behind this figure:")
    ids = [link.get_attribute("href").partition("#")[2] for link in below.locator("a.claim-link").all()]
    assert "spare-units" in ids and "rms-triangular" in ids


def test_the_gauge_counter_answers_on_its_page(open_page: Any) -> None:
    """Skips take bases away; what no formula covers gets no number."""
    tab = open_page(FREEDOM)
    stream = tab.locator("[data-part='row stream'] b")
    tab.locator("[data-part='topology T0']").click()
    tab.locator("[data-part='layers 1']").click()
    tab.wait_for_function(LIVE, arg="in every layer")
    assert stream.text_content() == "48"
    tab.locator("[data-part='topology T2']").click()
    tab.wait_for_function(LIVE, arg="in its one layer")
    assert stream.text_content() == "16"
    tab.locator("[data-part=tied]").click()
    tab.locator("[data-part='norm LayerNorm']").click()
    tab.wait_for_function(LIVE, arg="a tied readout with LayerNorm")
    assert not stream.is_visible()


def test_the_asymmetry_figure_answers_on_its_page(open_page: Any) -> None:
    tab = open_page(KEYS)
    scores = tab.locator("[data-part='tag scores']")
    assert scores.get_attribute("data-state") == "yes"
    tab.locator("[data-part='mode qkv']").click()
    tab.wait_for_function("document.querySelector('[data-part=\"tag scores\"]').dataset.state === 'no'")
    tab.locator("[data-part=reset]").click()
    tab.wait_for_function("document.querySelector('[data-part=\"tag scores\"]').dataset.state === 'yes'")


def test_the_figure_about_direction_starts_at_a_negative_temperature(open_page: Any) -> None:
    """There two pairs look at each other, all rounds balanced; a cubic bias sets a flow in motion."""
    tab = open_page(DIRECTION)
    live = tab.locator("[data-part=live]")
    assert "the smallest is −" in live.text_content() and "Across the line: tokens 1 and 4" in live.text_content()
    tab.locator("[data-part='correction cubic']").click()
    tab.wait_for_function(LIVE, arg="not reversible")


def test_the_energy_figure_answers_on_its_page(open_page: Any) -> None:
    """With keys as values no step climbs, and the matrices are symmetric; not so with other values."""
    tab = open_page(VALUES)
    jacobian = tab.locator("[data-part='tag jacobian 0']")
    assert jacobian.get_attribute("data-state") == "yes"
    assert "no step raises the energy" in tab.locator("[data-part=live]").text_content()
    tab.locator("[data-part=tied]").click()
    tab.wait_for_function("document.querySelector('[data-part=\"tag jacobian 0\"]').dataset.state === 'no'")
    tab.locator("[data-part=reset]").click()
    tab.wait_for_function(LIVE, arg="no step raises the energy")


def test_the_cache_figure_answers_on_its_page(open_page: Any) -> None:
    """Queries equal to keys save no cache, keys equal to values half of it."""
    tab = open_page(CACHE)
    live = tab.locator("[data-part=live]")
    assert "Q-K=V caches 1,024 numbers per token and layer, 50% of QKV" in live.text_content()
    tab.locator("[data-variant='Q=K-V']").click()
    tab.wait_for_function(LIVE, arg="100% of QKV")
    tab.locator("[data-part=reset]").click()
    tab.wait_for_function(LIVE, arg="50% of QKV")


@pytest.mark.parametrize("page", FIGURES)
def test_a_figure_is_printed_without_its_controls(open_page: Any, page: str) -> None:
    """The names of the bars are buttons too, and stay."""
    tab = open_page(page)
    tab.emulate_media(media="print")
    assert tab.locator("[data-part=live]").first.is_visible()
    controls = tab.locator("[data-widget] :is(button, input, select):not([data-variant])")
    assert controls.count() and not any(part.is_visible() for part in controls.all())


@pytest.mark.parametrize("page", [KEYS, "index.html"])
def test_a_picture_is_named_and_follows_the_theme(open_page: Any, page: str) -> None:
    """A drawing has a name for those who hear it, and takes its colors from the page."""
    ink = "e => [getComputedStyle(e).stroke, getComputedStyle(e.closest('figure')).color]"
    seen = []
    for scheme in ("light", "dark"):
        picture = open_page(page, color_scheme=scheme).locator("main figure > .picture")
        assert picture.is_visible() and len(picture.get_attribute("aria-label")) > 40
        assert picture.get_attribute("role") == "img" and picture.locator("xpath=..").locator("figcaption").count() == 1
        seen.append(picture.locator("rect").first.evaluate(ink))
    assert all(light != dark for light, dark in zip(*seen, strict=True))


def test_ranks_are_a_lane_of_their_own(open_page: Any) -> None:
    """The table of a claim names every lane in words, and says what its exactness is worth."""
    box = open_page(SKIPS).locator("#skip-gain-one-block details.lanes")
    box.locator("summary").click()
    assert "rank pass" in box.locator("summary").text_content()
    assert box.locator("th", has_text="rank Jacobian rank").is_visible()
    assert not any("^" in words for words in box.locator("tbody td").all_text_contents())


def test_a_step_links_the_claim_it_is_taken_from(open_page: Any) -> None:
    tab = open_page(KEYS)
    leads = tab.locator(".steps .reason a.claim-link").evaluate_all("all => all.map((e) => e.getAttribute('href'))")
    assert "#row-stochastic" in leads and not tab.get_by_text("{claim}").count()
