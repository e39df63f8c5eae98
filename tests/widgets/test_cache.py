"""The cache widget: its state, its still, and the bytes of the page against the package."""

from __future__ import annotations

import itertools
import re
from html import unescape

import pytest

from qkvtheory import count, published, widgets
from qkvtheory.variants import Variant, parse
from qkvtheory.widgets import bundle, cache, cache_picture, static_html

BAD = [
    ({"model": "gpt-9"}, "model must be one of three-projections-300m, .*, not 'gpt-9'"),
    ({"model": "bert-base"}, "model must be one of"),
    ({"tokens": 1023}, "tokens must be a whole number from 1024 to 1048576, not 1023"),
    ({"tokens": 2048.0}, "tokens must be a whole number from 1024 to 1048576, not 2048.0"),
    ({"batch": 0}, "batch must be a whole number from 1 to 256, not 0"),
    ({"batch": True}, "batch must be a whole number"),
    ({"number": "int4"}, "number must be one of fp32, bf16, fp8, not 'int4'"),
    ({"variant": "KV"}, "means Q=K-V in some places"),
    ({"variant": "GQQ-4"}, "there is no variant called 'GQQ-4'; did you mean"),
    ({"variant": "QV-Ka"}, "variant must be of one of the kinds QKV, .*, not 'QV-Ka'"),
    ({"variant": "(Q=K-V)+"}, "variant must be of one of the kinds"),
    ({"variant": 4}, "variant must be a name such as Q-K=V or GQA-4, not 4"),
    ({"memory": 81}, r"memory must be one of 24, 80, 141 \(GB\), not 81"),
    ({"memory": [80]}, r"memory must be one of 24, 80, 141 \(GB\)"),
    ({"context": 2048}, "unknown: context; the state has model, tokens"),
]


@pytest.mark.parametrize(("given", "message"), BAD)
def test_a_bad_state_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        static_html("cache", **given)


def states():
    """Every variant of every model once, lengths, batches and formats in turn, and the limits."""
    kinds = itertools.cycle(itertools.product(cache.TOKEN_STOPS, cache.BATCH_STOPS, cache.BYTES, cache.MEMORIES))
    for name in cache.models():
        for entry, (tokens, batch, number, memory) in zip(
            cache.model(name).entries, itertools.islice(kinds, 0, None, 37), strict=False
        ):
            given = {"tokens": tokens, "batch": batch, "number": number, "memory": memory}
            yield cache.check_state(model=name, variant=entry.name, **given)
        yield cache.check_state(model=name, variant="QKV", tokens=2**20, batch=256, number="fp32", memory=24)
    yield cache.check_state(tokens=99_999, batch=3)
    yield cache.check_state(variant="GQA-16")
    yield cache.check_state(variant="GTA")
    yield cache.check_state(model="gemma-7b", variant="slim")
    yield cache.check_state(model="gpt2", variant="Q-GQA-5")


ALL = list(states())


def said(**given):
    return cache.sentence(cache.facts(cache.check_state(**given)))


# --- what the package counts, and the widget shows ---


@pytest.mark.parametrize("name", cache.models())
def test_bytes_are_those_of_the_package(name):
    config = count.preset(name)
    f = cache.facts(cache.check_state(model=name, tokens=32768, batch=3, number="fp32", variant="QKV"))
    for entry in f.model.entries:
        variant = parse(entry.name)
        if variant.kind in ("QKV", "Q-K=V"):  # the kinds that a model with groups of its own can be counted with
            variant = Variant(variant.kind, variant.groups or config.heads)
        elif config.groups != config.heads and variant.kind in ("Q=K-V", "Q=K=V", "slim"):
            continue
        assert f.cache(entry) == count.cache_bytes(config, variant, 32768, batch=3, bytes_per_number=4), entry.name
        assert f.weights(entry) == 4 * count.parameters(config, variant).total, entry.name


@pytest.mark.parametrize("name", cache.models())
def test_every_divisor_of_the_heads_is_there_and_what_was_released(name):
    found, config = cache.model(name), count.preset(name)
    names = [entry.name for entry in found.entries]
    assert len(names) == len(set(names)) and names[0] == "QKV"
    shared = [g for g in range(1, config.heads) if config.heads % g == 0]
    expected = {Variant(kind, g).name for kind in ("QKV", "Q-K=V", "GTA") for g in shared}
    single = {"QKV", "Q=K-V", "Q-K=V", "Q=K=V", "MLA"} | ({"slim"} if config.query_width == config.width else set())
    assert set(names) == expected | single
    own = found.find(found.own)
    assert own is not None
    assert (own.numbers, own.weights) == (count.cache_per_token(config), count.parameters(config).total)
    sizes = [bar[0].numbers for bar in found.bars]
    assert sizes == sorted(set(sizes), reverse=True)


@pytest.mark.parametrize("name", cache.models())
def test_half_as_many_groups_cache_as_little_as_tying(name):
    """Theory: tying is a factor of 1/2, g of H heads one of g/H, and they multiply."""
    found = cache.model(name)
    whole = found.entries[0].numbers
    for entry in found.entries:
        variant = parse(entry.name)
        if variant.kind in ("QKV", "Q-K=V"):
            tied = 2 if variant.kind == "Q-K=V" else 1
            assert entry.numbers * found.heads * tied == whole * (variant.groups or found.heads)
    if found.heads % 2 == 0:
        half = next(bar for bar in found.bars if bar[0].numbers * 2 == whole)
        assert {"Q-K=V", "Q=K=V", f"GQA-{found.heads // 2}"} <= {entry.name for entry in half}


def test_presets_that_do_not_cache_every_token_in_every_layer_are_left_out():
    left = set(count.names()) - set(cache.models())
    assert {"bert-base", "mistral-7b", "gemma-2-9b", "deepseek-v2"} <= left
    assert {"llama-3-8b", "mixtral-8x7b", *cache.TABLES} <= set(cache.models())


def test_the_largest_size_is_exact_in_a_float():
    largest = [cache.facts(s) for s in ALL if s["number"] == "fp32" and s["tokens"] == 2**20 and s["batch"] == 256]
    assert len(largest) >= len(cache.models())
    assert 2**49 < max(f.need(f.model.entries[0]) for f in largest) < 2**53


def test_sizes_in_two_units_that_are_never_mixed():
    assert [cache.gb(n) for n in (0, 999, 1000, 5_905_580_032, 10**15)] == [
        "0 bytes", "999 bytes", "1.00 kB", "5.91 GB", "1.00 PB",
    ]  # fmt: skip
    assert [cache.gib(n) for n in (1023, 1024, 5_905_580_032, 2**50)] == [
        "1023 bytes",
        "1.00 KiB",
        "5.50 GiB",
        "1.00 PiB",
    ]
    assert [cache.percent(*x) for x in ((1, 3), (1, 10), (2, 1), (0, 1), (1234, 1))] == [
        "33.3%", "10%", "200%", "0%", "123,400%",
    ]  # fmt: skip
    assert "5,905,580,032 bytes" in (line := said(model="three-projections-1.2b", variant="QKV"))
    assert "(5.91 GB, which is 5.50 GiB)" in line


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "GQA-8 stores the same without tying, and fewer groups store less."),
        ({}, "perplexity is 5.27; GQA-4 (5.15) and MQA (5.19) store no more and lose less."),
        ({"variant": "Q-GQA-4"}, "perplexity is 5.32; MQA (5.19) stores no more and loses less."),
        ({"variant": "GQA-4"}, "It keeps a key and a value for 4 of 16 heads. Its published perplexity is 5.15."),
        ({"variant": "Q-MQA"}, "does not come down to this: tying halves what MQA leaves."),
        ({"variant": "Q-GQA-2"}, "MQA stores the same without tying. With"),
        ({"variant": "Q=K"}, "100% of QKV"),
        ({"variant": "Q=K"}, "Queries are never cached"),
        ({"variant": "MLA"}, "caches 288 numbers per token and layer, 14.1% of QKV"),
        ({"variant": "GTA-4"}, "caches 288 numbers per token"),
        ({"model": "gpt2-xl"}, "GQA-5 stores less without tying, and fewer groups store less."),
        ({"model": "gpt2-xl", "variant": "Q-GQA-5"}, "MQA stores less without tying."),
        ({"model": "llama-3-70b", "memory": 24}, "it does not fit in 24 GB: the weights leave no room."),
        ({"variant": "GQA-16"}, "There is no GQA-16 of this model: 16 groups do not make its 16 query heads share."),
        ({"variant": "GTA"}, "There is no GTA of this model: the number of groups is missing."),
        ({"model": "gemma-7b", "variant": "slim"}, "the key projection is not square here."),
    ],
)  # fmt: skip
def test_what_is_said(given, expected):
    assert expected in said(**given)


def test_the_room_that_is_left_is_used_to_the_last_token():
    state = cache.check_state(model="llama-2-7b", tokens=2**20, batch=2, variant="QKV")
    f = cache.facts(state)
    room = int(re.search(r"at most ([\d,]+) tokens each would", cache.sentence(f))[1].replace(",", ""))
    fits = [f.weights(f.chosen) + f.per_token(f.chosen) * tokens <= f.memory for tokens in (room, room + 1)]
    assert fits == [True, False]


def test_tying_starts_from_the_groups_that_a_model_has():
    found = cache.model("llama-3-8b")
    assert found.own == "GQA-8" and 2 * found.find("Q-GQA-8").numbers == found.find("GQA-8").numbers
    assert "Tying starts from there: Q-GQA-8 halves its cache once more." in cache.about_model(found)
    assert "GQA-16 caches as little as tying keys to values does" in cache.about_model(cache.model("llama-2-7b"))
    assert "GQA-5 caches less than tying" in cache.about_model(cache.model("gpt2-xl"))


# --- the published losses ---


@pytest.mark.parametrize(("name", "table"), cache.TABLES.items())
def test_the_published_losses_are_those_of_the_table(name, table):
    rows, found = published.LANGUAGE[table], cache.model(name)
    config = count.preset(name)
    assert (config.layers, config.width, config.heads, config.hidden) == (rows.layers, rows.d, rows.heads, rows.mlp)
    assert (config.vocabulary, config.positions) == (rows.vocabulary, rows.context)
    assert {e.name: e.perplexity for e in found.entries if e.perplexity} == {r.variant: r.perplexity for r in rows.rows}
    beaten = {entry.name for entry in found.entries if entry.beaten}
    tied = {"300M": {"Q-K=V", "Q=K-V", "Q=K=V", "Q-GQA-4"}, "1.2B": {"Q-K=V", "Q-GQA-8"}}
    assert beaten == tied[table]
    for entry in found.entries:
        for other in map(found.find, entry.beaten):
            assert other.numbers <= entry.numbers
            assert published.exact(other.perplexity) < published.exact(entry.perplexity)


@pytest.mark.parametrize("name", cache.TABLES)
def test_the_picture_puts_beaten_points_inside_the_shade(name):
    html = static_html("cache", style=False, model=name)
    plot = re.search(f'data-part="front {name}">(.*?)</svg>', html)[1]
    outline = re.search(r'class="line" d="([^"]+)"', plot)[1]
    corners = [(float(x), float(y)) for x, y in re.findall(r"(?:M|H)([\d.]+)(?: [\d.]+)?V([\d.]+)", outline)]
    points = re.findall(r'data-point="([^"]+)" data-state="(\w+)".*?cx="([\d.]+)" cy="([\d.]+)"', plot)
    assert len(points) == len(published.LANGUAGE[cache.TABLES[name]].rows)
    for variant, state, x, y in points:
        at = float(x), float(y)
        better = [corner for corner in corners if corner[0] <= at[0] and corner[1] >= at[1] and corner != at]
        assert (state == "no") is bool(better), variant
    assert [p[0] for p in points if p[1] == "yes"] == [
        "QKV",
        {"300M": "GQA-4", "1.2B": "GQA-8"}[cache.TABLES[name]],
        "MQA",
        "Q-MQA",
    ]


def test_the_end_of_head_sharing_is_computed_from_the_table():
    ends = [cache_picture.about_last(cache.model(name)) for name in cache.TABLES]
    assert [re.search(r"for ([\d.]+)%", end)[1] for end in ends] == ["3.3", "3.1"]


def test_other_models_have_bytes_only():
    html = static_html("cache", style=False, model="llama-3-8b")
    assert (
        html.count('<div class="qkv-front" data-part="front')
        == html.count('" hidden><p class="qkv-title">What it')
        == 2
    )
    assert 'data-part="legend" hidden' in html and "✗</button>" not in html and "perplexity is" not in html
    assert html.count("GQA-8 (as released)</button>") == 1
    assert static_html("cache", style=False).count("✗</button>") == 4


# --- the page computes the same ---

WIDGET = "const w = await import(folder + 'cache.mjs');\n"
SHAPES = {
    name: dict(re.findall(r'data-(\w+)="([^"]*)"', unescape(cache_picture.data(cache.model(name)))))
    for name in cache.models()
}


def test_the_page_says_what_the_package_says(node):
    script = """const result = data.states.map((state) => {
      const f = w.facts(w.read(data.shapes[state.model], state.model), state);
      return { said: w.sentence(f), own: w.aboutModel(f.model), lengths: w.lengths(f), fit: w.aboutLengths(f),
        bytes: f.model.entries.map((e) => [f.cache(e), f.weights(e), f.need(e)]),
        bars: f.model.bars.map((same) => [same.map((e) => e.name), w.sizes(f, same[0])]),
        table: f.model.entries.map((e) => [w.mega(f.cache(e), 1000), w.mega(f.cache(e), 1024)]) }; });"""
    for state, got in zip(ALL, node(WIDGET + script, {"states": ALL, "shapes": SHAPES}), strict=True):
        f = cache.facts(state)
        assert got["said"] == cache.sentence(f), state
        assert got["own"] == cache.about_model(f.model)
        assert tuple(got["lengths"]) == cache.lengths(f) and got["fit"] == cache.about_lengths(f)
        assert got["bytes"] == [[f.cache(e), f.weights(e), f.need(e)] for e in f.model.entries]
        assert got["bars"] == [[[e.name for e in bar], list(cache.sizes(f, bar[0]))] for bar in f.model.bars]
        assert [tuple(row) for row in got["table"]] == [cache_picture.measures(f, e) for e in f.model.entries]


def test_the_bundle_is_one_module(node):
    code = bundle("cache")
    assert not re.search(r"^\s*import\b", code, re.M) and code.count("export default") == 1
    script = """const { writeFileSync, mkdtempSync, rmSync } = await import("node:fs");
    const { tmpdir } = await import("node:os");
    const at = mkdtempSync(tmpdir() + "/w"); writeFileSync(at + "/b.mjs", data.code);
    const one = await import("file://" + at + "/b.mjs"), two = await import(folder + "cache.mjs");
    rmSync(at, { recursive: true });
    const result = [one, two].map((m) => [Object.keys(m), m.sentence(m.facts(m.read(data.shape, "x"), data.state))]);"""
    state = cache.check_state()
    ours, theirs = node(script, {"code": code, "state": state, "shape": SHAPES[state["model"]]})
    assert ours == theirs and ours[1] == said()


# --- the still ---


def test_the_still_shows_what_the_package_computes():
    html = static_html("cache", variant="gqa-4", tokens=2048, batch=2, number="fp32")
    f = cache.facts(cache.check_state(variant="GQA-4", tokens=2048, batch=2, number="fp32"))
    assert re.findall(r'data-variant="([^"]+)" aria-pressed="true"', html) == ["GQA-4"]
    widths = [float(w) for w in re.findall(r'<span style="--w:([\d.]+)%">', html)]
    assert widths == pytest.approx([100 * bar[0].numbers / 2048 for bar in f.model.bars], abs=1e-3)
    for entry in f.model.entries:
        size = 2 * 4 * 2048 * 20 * entry.numbers
        assert f'<tr><th scope="row">{entry.name}</th><td>{entry.numbers:,}</td><td>{size:,}</td></tr>' in html
    assert '<option value="three-projections-300m" selected' in html and 'aria-valuetext="2,048 tokens"' in html


def test_a_length_between_two_stops_is_kept():
    html = static_html("cache", style=False, tokens=32000, batch=3)
    assert f'value="{cache.TOKEN_STOPS.index(24576)}" data-part="tokens" aria-valuetext="32,000 tokens"' in html
    assert 'value="1" data-part="batch" aria-valuetext="3 sequences"' in html
    assert "32,000 tokens (2.62 GB, which is 2.44 GiB)" in said(tokens=32000, variant="QKV")


# --- in a notebook ---


@pytest.fixture
def figure():
    pytest.importorskip("anywidget")
    return widgets.Cache(model="llama-3-8b", variant="K=V+GQA-8", tokens=4096)


def test_the_notebook_widget_holds_the_state(figure):
    expected = {**cache.DEFAULT, "model": "llama-3-8b", "variant": "Q-GQA-8", "tokens": 4096}
    assert {key: getattr(figure, key) for key in cache.DEFAULT} == expected
    assert figure.still == cache.still(expected) and figure._esm == bundle("cache")
    figure.variant = "Q-GQA-12"  # another model could have it; this one says that it has not
    data, _ = figure._repr_mimebundle_()
    assert data["text/html"] == static_html("cache", **{**expected, "variant": "Q-GQA-12"})
    assert "There is no Q-GQA-12 of this model" in data["text/html"]


@pytest.mark.parametrize(("given", "message"), BAD[:-1])
def test_the_notebook_widget_refuses_too(figure, given, message):
    from traitlets import TraitError

    with pytest.raises(TraitError, match=message):
        widgets.Cache(**given)
    [(name, value)] = given.items()
    old = getattr(figure, name)
    if isinstance(value, bool | float):
        return  # traitlets itself turns True and 2048.0 into whole numbers
    with pytest.raises(TraitError):
        setattr(figure, name, value)
    assert getattr(figure, name) == old
