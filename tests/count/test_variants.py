"""Counts of the variants against the sublayers of ``qkvtheory.tying``: what they hold, store and do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qkvtheory import count, tying
from qkvtheory.count import Config, ConfigError
from qkvtheory.count.config import NORMS
from qkvtheory.variants import CORRECTED, GROUPED, KINDS, Variant

EVERY = [Variant(kind) for kind in KINDS] + [Variant(kind, corrected=True) for kind in CORRECTED]
EVERY += [Variant(kind, groups) for kind in GROUPED for groups in (1, 2, 4)]
NAMES = [v.name for v in EVERY]
DENSE = [n for n in count.names() if count.preset(n).mla is None]


def model(**changes: Any) -> Config:
    sizes = {"layers": 3, "width": 32, "heads": 4, "groups": 4, "head_width": 8, "hidden": 20, "vocabulary": 11}
    return Config(**{**sizes, **changes})


# -- what a model holds ------------------------------------------------------------------------------------------------


def whole(config: Config, variant: Variant) -> Iterator[tuple[str, np.ndarray]]:
    """Every array of a model with this variant, by the part it belongs to; zero-stride, so of any size for nothing."""
    d, v = config.width, config.vocabulary

    def arrays(part: str, *shapes: tuple[int, ...]) -> Iterator[tuple[str, np.ndarray]]:
        yield from ((part, np.broadcast_to(np.float32(0), shape)) for shape in shapes)

    def norm(*widths: int) -> Iterator[tuple[str, np.ndarray]]:
        yield from arrays("norms", *[(w,) for w in widths] * NORMS[config.norm])

    def mlp(hidden: int) -> Iterator[tuple[str, np.ndarray]]:
        ups = [(d, hidden)] * (1 + config.gated)
        yield from arrays("mlp", *ups, (hidden, d), *([(hidden,)] * len(ups) + [(d,)] if config.mlp_bias else []))

    def queries_and_keys() -> Iterator[tuple[str, np.ndarray]]:
        heads, groups = (1, 1) if config.qk_norm == "head" else (config.heads, variant.groups or config.heads)
        if config.qk_norm and variant.kind != "MLA":
            shared = variant.kind in ("Q=K-V", "Q=K=V")  # queries that are the keys
            yield from norm(heads * config.head_width, *([] if shared else [groups * config.head_width]))

    yield from arrays("embeddings", (v, d), (config.positions, d), (config.segments, d))
    for layer in range(config.layers):
        sublayer = held(config, variant)
        yield from (("attention", array) for array in sublayer.weights().values())
        yield from norm(*[d] * config.norms)
        yield from queries_and_keys()
        experts = config.experts
        if experts is None or layer < experts.dense_layers:
            yield from mlp(config.hidden)
        else:
            yield from arrays("mlp", (d, experts.number))
            for _ in range(experts.number):
                yield from mlp(experts.width)
    yield from norm(*[d] * (config.other_norms + config.transform))
    yield from arrays("readout", *([] if config.tied else [(d, v)]), *([(v,)] if config.readout_bias else []))
    yield from arrays("readout", *([(d, d), (d,)] if config.transform else []))


def held(config: Config, variant: Variant) -> tying.Sublayer:
    """The sublayer as ``tying.build`` makes it, with arrays of zero stride in place of random numbers."""
    shapes = tying.weight_shapes(variant, config.width, config.heads, config.head_width, config.qkv_bias)
    if not config.output_bias:
        shapes.pop("b_O", None)
    if variant.kind == "slim":
        shapes = {name.replace("_V", "_KV"): shape for name, shape in shapes.items()}
    arrays = {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
    made = tying.CausalHeads(config.heads, variant.groups)
    if variant.corrected:  # ten channels and a bias, whatever the width
        made = tying.build(replace(variant, groups=None), 4, 4).core
    return {**tying.CLASSES, "slim": tying.Slim}[variant.kind](core=made, **arrays)


@pytest.mark.parametrize("name", DENSE)
def test_a_preset_with_any_variant_has_as_many_numbers_as_the_arrays_of_the_model(name):
    config = count.preset(name)
    tried = 0
    for asked in [None, *EVERY]:
        try:
            variant = count.resolve(config, asked)
        except ConfigError:
            continue
        parts = dict.fromkeys(count.parameters(config).parts(), 0)
        for part, array in whole(config, variant):
            parts[part] += array.size
        assert count.parameters(config, asked).parts() == parts
        assert count.parameters(config, asked).total == sum(parts.values())
        tried += 1
    assert tried >= 10


@pytest.mark.parametrize("variant", EVERY, ids=NAMES)
@pytest.mark.parametrize("bias", [False, True], ids=["without biases", "with biases"])
def test_a_sublayer_that_is_built_holds_the_projections_that_are_counted(variant, bias):
    config = model(qkv_bias=bias, output_bias=bias)
    layer = tying.build(variant, config.width, config.heads, config.head_width, biases=bias)
    correction = config.channels + 1 if variant.corrected else 0
    learned = sum(w.size for w in layer.weights().values())
    assert learned == sum(w.parameters for w in count.projections(config, variant)) + correction
    assert learned * config.layers == count.parameters(config, variant).attention


@pytest.mark.parametrize("variant", EVERY, ids=NAMES)
def test_its_cache_keeps_the_numbers_that_are_counted(variant):
    config = model(layers=1)
    layer = tying.build(variant, config.width, config.heads, config.head_width)
    _, cache = layer.decode(np.ones((5, config.width)))
    assert sum(prod(array.shape[1:]) for array in cache) == count.cache_per_token(config, variant)
    assert tying.cache_bytes(cache) == count.cache_bytes(config, variant, 5, bytes_per_number=8)


# -- what a model does -------------------------------------------------------------------------------------------------


WRITTEN_OUT = ("MLA", "QV-Ka")  # our sublayers write keys and values of these out, where the count does not


def operations(config: Config, variant: Variant, n: int, cached: int) -> int:
    """What PyTorch counts while the sublayer reads the last of n tokens, ``cached`` being stored."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: its counter of operations is not asked")
    from torch.utils.flop_counter import FlopCounterMode

    layer = tying.build(variant, config.width, config.heads, config.head_width)
    layer = replace(layer, **{name: torch.as_tensor(w) for name, w in layer.weights().items()})
    x = torch.ones((n, config.width), dtype=torch.float64)
    cache = layer.decode(x[:cached])[1] if cached else ()
    with FlopCounterMode(display=False) as counter:
        layer.decode(x[cached:], cache)
    # For queries that are the keys, our sublayers make the same product twice.
    again = (n - cached) * config.width * config.query_width if variant.kind in ("Q=K-V", "Q=K=V") else 0
    return counter.get_total_flops() - 2 * again


PLAIN = [v for v in EVERY if v.kind not in WRITTEN_OUT and not v.corrected]


@pytest.mark.torch
@pytest.mark.parametrize("variant", PLAIN, ids=[v.name for v in PLAIN])
def test_decoding_costs_as_many_operations(variant):
    config, n = model(layers=1), 9
    macs = count.decode_macs(config, variant, n)
    assert operations(config, variant, n, n - 1) == 2 * (macs.projections + macs.scores)


@pytest.mark.torch
@pytest.mark.parametrize("variant", PLAIN, ids=[v.name for v in PLAIN])
def test_a_whole_text_costs_as_many_operations(variant):
    config, n = model(layers=1), 6
    macs = count.macs(config, variant, n)
    # Our slim sums whole keys in each head; for a whole text values from W_V are cheaper, and that is counted.
    wider = n**2 * config.width * (config.heads - 1) if variant.kind == "slim" else 0
    assert operations(config, variant, n, 0) == 2 * (macs.projections + macs.scores + wider)


def by_latents(layer: Any, x: Any, cache: Any) -> Any:
    """A new token through MLA with keys and values never written out: each head scores and sums the latents."""
    c, rotary = cache
    queries = (x @ layer.W_Q).reshape(layer.core.heads, -1)
    turned, plain = queries[:, : rotary.shape[1]], queries[:, rotary.shape[1] :]
    up_keys, up_values = (w.reshape(c.shape[1], layer.core.heads, -1) for w in (layer.W_UK, layer.W_UV))
    on_latent = (plain[:, None] @ up_keys.permute(1, 2, 0))[:, 0]
    maps = ((on_latent @ c.mT + turned @ rotary.mT) / queries.shape[1] ** 0.5).softmax(-1)
    values = (maps @ c)[:, None] @ up_values.permute(1, 0, 2)
    return values.reshape(1, -1) @ layer.W_O


def by_values_and_context(layer: Any, x: Any, cache: Any) -> Any:
    """A new token through QV-Ka with keys never written out: each head scores the context and its values."""
    values, context = cache
    heads = layer.core.heads
    queries = (x @ layer.W_Q).reshape(heads, 1, -1)
    values = values.reshape(len(values), heads, -1).permute(1, 0, 2)
    from_context = layer.W_KC.reshape(context.shape[1], heads, -1).permute(1, 2, 0)
    scores = (queries @ from_context)[:, 0] @ context.mT
    scores = scores + ((queries @ layer.W_KV.mT) @ values.mT)[:, 0]
    maps = (scores / queries.shape[-1] ** 0.5).softmax(-1)
    return (maps[:, None] @ values).reshape(1, -1) @ layer.W_O


@pytest.mark.torch
@pytest.mark.parametrize(("kind", "decode"), [("MLA", by_latents), ("QV-Ka", by_values_and_context)])
def test_what_is_made_from_the_cache_need_not_be_written_out(kind, decode):
    """Written by hand here, these give what our sublayers give, and cost what is counted."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: its counter of operations is not asked")
    from torch.utils.flop_counter import FlopCounterMode

    config, n = model(layers=1), 9
    layer = tying.build(kind, config.width, config.heads, config.head_width)
    layer = replace(layer, **{name: torch.as_tensor(w) for name, w in layer.weights().items()})
    x = torch.as_tensor(np.random.default_rng(0).normal(size=(n, config.width)))
    expected, _ = layer.decode(x[-1:], layer.stored(x[:-1]))
    cache = layer.stored(x)
    with FlopCounterMode(display=False) as counter:
        y = decode(layer, x[-1:], cache)
        layer.stored(x[-1:])
    assert torch.allclose(y, expected, rtol=1e-12, atol=1e-12)
    macs = count.decode_macs(config, kind, n)
    assert counter.get_total_flops() == 2 * (macs.projections + macs.scores)


@given(st.sampled_from(CORRECTED), st.integers(1, 50))
def test_a_correction_costs_its_channels_for_each_pair(kind, n):
    config = model()
    for counted, pairs in ((count.macs, n**2), (count.decode_macs, n)):
        difference = counted(config, f"({kind})+", n).scores - counted(config, kind, n).scores
        assert difference == config.layers * pairs * config.channels


@given(st.integers(1, 8), st.integers(1, 12), st.integers(1, 300))
def test_the_price_of_slim_is_the_published_one(heads, half, n):
    """Graef and Wasielewski 2025 (2503.05840): operations for a new token, per layer, for H d_h = d."""
    d = heads * 2 * half
    config = model(layers=1, width=d, heads=heads, groups=heads, head_width=2 * half)
    plain, slim = count.decode_macs(config, "QKV", n), count.decode_macs(config, "slim", n)
    assert 2 * (plain.projections + plain.scores) == 8 * d**2 + 4 * n * d
    assert 2 * (slim.projections + slim.scores) == 8 * d**2 + 2 * n * d * (heads + 1)


def test_multiply_accumulates_of_a_layer_as_the_formula_says():
    config, T = count.preset("three-projections-300m"), 100
    d, f, v = config.width, config.hidden, config.vocabulary
    for kind, p in (("QKV", 3), ("Q-K=V", 2), ("Q=K-V", 2), ("Q=K=V", 1)):
        layer = (p + 1) * T * d**2 + 2 * T**2 * d + 2 * T * d * f
        assert count.macs(config, kind, T).total == config.layers * layer + T * d * v


# -- published numbers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("variant", "total", "attention", "macs"), [
    ("QKV", 305_534_976, 83_968_000, 792_689_901_568),
    ("Q-K=V", 284_542_976, 62_976_000, 749_740_228_608),
    ("Q=K-V", 284_542_976, 62_976_000, 749_740_228_608),
    ("Q=K=V", 263_550_976, 41_984_000, 706_790_555_648),
])  # fmt: skip
def test_the_model_of_three_hundred_million(variant, total, attention, macs):
    config = count.preset("three-projections-300m")
    counted = count.parameters(config, variant)
    assert (counted.total, counted.attention) == (total, attention)
    assert (counted.mlp, counted.embeddings, counted.norms) == (167_874_560, 53_608_448, 83_968)
    assert count.macs(config, variant, 2048).total == macs


def test_published_caches():
    small, large = count.preset("three-projections-300m"), count.preset("three-projections-1.2b")
    assert count.cache_bytes(small, "QKV", 1) == 81_920
    assert count.cache_bytes(large, "QKV", 32_768) == 5_905_580_032
    assert [count.saved(small, v) for v in ("GQA-4", "MQA", "Q-GQA-4", "Q-MQA")] == [0.75, 0.9375, 0.875, 0.96875]
    assert [count.saved(large, v) for v in ("GQA-8", "MQA", "Q-GQA-8", "Q-MQA")] == [0.75, 0.96875, 0.875, 0.984375]
    assert [count.saved(small, v) for v in ("Q=K-V", "Q-K=V", "Q=K=V", "slim")] == [0, 0.5, 0.5, 0.5]
    deepseek = count.preset("deepseek-v2")
    assert count.cache_per_token(deepseek) == 576
    assert round(100 * count.saved(deepseek), 2) == 98.24
    assert Fraction(count.cache_per_token(small, "MLA"), 2 * small.head_width) == Fraction(
        9, 4
    )  # as GQA with 2.25 groups


def test_shares_of_attention():
    shares = []
    for name in ("three-projections-300m", "three-projections-1.2b"):
        config = count.preset(name)
        counted = count.parameters(config)
        outputs = config.layers * count.projections(config)[-1].parameters
        shares += [counted.attention / counted.total, (counted.attention - outputs) / counted.total]
    assert [round(100 * share, 1) for share in shares] == [27.5, 20.6, 30.4, 22.8]


# -- properties --------------------------------------------------------------------------------------------------------


@st.composite
def configs(draw: Any) -> Config:
    groups, queries, half = draw(st.integers(1, 4)), draw(st.integers(1, 4)), draw(st.integers(1, 6))
    layers = draw(st.integers(1, 6))
    window = draw(st.none() | st.integers(1, 20))
    return Config(
        layers=layers,
        width=draw(st.integers(1, 40)),
        heads=groups * queries,
        groups=groups,
        head_width=2 * half,
        hidden=draw(st.integers(1, 40)),
        vocabulary=draw(st.integers(1, 60)),
        gated=draw(st.booleans()),
        tied=draw(st.booleans()),
        positions=draw(st.integers(0, 30)),
        qkv_bias=draw(st.booleans()),
        output_bias=draw(st.booleans()),
        norm=draw(st.sampled_from(list(NORMS))),
        qk_norm=draw(st.sampled_from(["", "head", "all"])),
        window=window,
        windowed=draw(st.integers(0, layers)) if window else 0,
    )


@settings(deadline=None, max_examples=60)
@given(configs(), st.integers(1, 40))
def test_tying_halves_the_cache_and_grouping_divides_it(config, context):
    h, g = config.heads, config.groups
    whole, tied, grouped, both = (
        count.cache_bytes(config, v, context) for v in ("MHA", Variant("Q-K=V", h), Variant("QKV", g), "Q-K=V")
    )
    assert Fraction(tied, whole) == Fraction(1, 2)
    assert Fraction(grouped, whole) == Fraction(g, h)
    assert Fraction(both, whole) == Fraction(g, 2 * h)


@settings(deadline=None, max_examples=60)
@given(configs(), st.sampled_from(EVERY), st.integers(1, 40), st.integers(1, 5), st.integers(1, 8))
def test_counts_are_integers_that_add_up(config, variant, context, batch, size):
    try:
        variant = count.resolve(config, variant)
    except ConfigError:
        return
    for counted in (
        count.parameters(config, variant),
        count.macs(config, variant, context),
        count.decode_macs(config, variant, context),
    ):
        assert all(isinstance(part, int) and part >= 0 for part in counted.parts().values())
        assert counted.total == sum(counted.parts().values())
    assert count.resolve(config, variant) == variant
    once = count.cache_bytes(config, variant, context)
    assert count.cache_bytes(config, variant, context, batch, 2 * size) == once * batch * size
    assert once <= count.cache_bytes(config, variant, context + 1)
    assert count.cache_bytes(config, variant, 1) == 2 * config.layers * count.cache_per_token(config, variant)


def test_a_window_bounds_the_cache():
    config = model(window=4, windowed=2)
    assert [count.tokens_kept(config, n) for n in (1, 4, 10)] == [3, 12, 18]


def test_experts_cost_what_a_token_uses():
    experts = count.Experts(number=5, active=2, width=7, shared=3, dense_layers=1)
    config = model(experts=experts, gated=True)
    d = config.width
    one, moe = 3 * d * config.hidden, d * 5 + 3 * d * 3
    assert count.parameters(config).mlp == one + 2 * (moe + 5 * 3 * d * 7)
    assert count.macs(config, None, 10).mlp == 10 * (one + 2 * (moe + 2 * 3 * d * 7))


@pytest.mark.parametrize("size", [-1, 2.5, True, "8", None, 2**41])
def test_sizes_that_cannot_be_counted_are_refused_by_name(size):
    config = model()
    for formula in (count.macs, count.decode_macs, count.cache_bytes):
        with pytest.raises(ValueError, match=r"^context: expected a "):
            formula(config, "QKV", size)
    with pytest.raises(ValueError, match=r"^context: expected a "):
        count.tokens_kept(config, size)
    with pytest.raises(ValueError, match=r"^batch: expected a "):
        count.cache_bytes(config, batch=size)
    with pytest.raises(ValueError, match=r"^bytes_per_number: expected a "):
        count.cache_bytes(config, bytes_per_number=size)


def test_no_token_costs_nothing_but_a_new_one_is_a_token():
    assert count.macs(model(), context=0).total == count.cache_bytes(model(), context=0) == 0
    with pytest.raises(ValueError, match="context: expected a number from 1"):
        count.decode_macs(model(), context=0)


# -- what a model cannot take ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("changes", "variant", "key", "message"), [
    ({}, "GQA-3", "num_key_value_heads", "3 groups, which do not divide num_attention_heads = 4"),
    ({"groups": 2}, "Q=K-V", "num_key_value_heads", "a key head for each of the 4 query heads, but this model has 2"),
    ({"groups": 2}, "slim", "num_key_value_heads", "slim needs a key head"),
    ({"head_width": 6}, "slim", "head_dim", "it is 32 x 24"),
    ({"head_width": 7}, "GTA-4", "head_dim", "an even head width"),
    ({"head_width": 7}, "MLA", "head_dim", "an even head width"),
    ({"mla": count.Latent(8, 2, 4, 4)}, "GQA-2", "kv_lora_rank", "count it as MLA"),
    ({"mla": count.Latent(8, 2, 4, 4)}, "slim", "kv_lora_rank", "not as slim"),
])  # fmt: skip
def test_a_variant_that_does_not_fit_is_refused_by_the_key(changes, variant, key, message):
    with pytest.raises(ConfigError, match=key) as refused:
        count.parameters(model(**changes), variant)
    assert refused.value.key == key
    assert message in str(refused.value)


@pytest.mark.parametrize(("changes", "message"), [
    ({"layers": 0}, "layers: expected a number from 1"),
    ({"layers": True}, "layers: expected a whole number"),
    ({"width": 32.0}, "width: expected a whole number"),
    ({"positions": -1}, "positions: expected a number from 0"),
    ({"groups": 3}, "groups: 3 key/value heads do not divide 4"),
    ({"tied": 1}, "tied: expected True or False"),
    ({"norm": "batch"}, "norm: expected one of"),
    ({"qk_norm": "half"}, "qk_norm: expected one of"),
    ({"windowed": 1}, "windowed: 1 of 3 layers"),
    ({"window": 4, "windowed": 4}, "windowed: 4 of 3 layers"),
    ({"window": 0}, "window: expected a number from 1"),
    ({"experts": count.Experts(2, 1, 4, dense_layers=4)}, "dense_layers: 4 of 3 layers"),
])  # fmt: skip
def test_a_configuration_that_makes_no_sense_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        model(**changes)


def test_parts_that_make_no_sense_are_refused():
    with pytest.raises(ConfigError, match="active: a token cannot use 3 of 2"):
        count.Experts(2, 3, 4)
    with pytest.raises(ConfigError, match="rotary: expected"):
        count.Latent(8, 0, 4, 4)
    with pytest.raises(ConfigError, match="query: expected"):
        count.Latent(8, 2, 4, 4, query=0)


def test_names_of_variants():
    llama = count.preset("llama-3-8b")
    assert [count.resolve(llama, v).name for v in (None, "QKV", "MHA", "GQA-32", "keyless", "(MHA)+")] == [
        "GQA-8", "GQA-8", "GQA-32", "GQA-32", "Q-GQA-8", "(GQA-32)+",
    ]  # fmt: skip
    assert [count.label(llama, v) for v in (None, "MHA", "K=V+GQA-32", "GTA-32")] == ["GQA-8", "QKV", "Q-K=V", "GTA"]
    assert count.label(count.preset("deepseek-v2")) == "MLA"


def test_all_heads_are_all_heads_on_a_model_with_fewer():
    llama = count.preset("llama-3-8b")
    full, ungrouped = count.resolve(llama, "MHA"), replace(llama, groups=llama.heads)
    assert count.parameters(llama, full) == count.parameters(llama, "MHA") == count.parameters(ungrouped)
    assert count.cache_per_token(llama, full) == 2 * llama.query_width
