"""The variants as sublayers: decoding from a cache equals the plain layer, and the cache holds what it should."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
import pytest

from qkvtheory import Attention, Heads, HypothesisError, causal, lossless, tying, variants
from qkvtheory.attention import rational
from qkvtheory.lanes import slow
from qkvtheory.positions import Correction, alibi, rational_rope, relative_channels, rope
from tests.layers import error

D, HEADS, WIDTH, TOKENS = 16, 4, 4, 7
NAMES = (
    "QKV",
    "GQA-2",
    "MQA",
    "Q-K=V",
    "Q-GQA-2",
    "Q-MQA",
    "Q=K-V",
    "Q=K=V",
    "MLA",
    "GTA-1",
    "GTA-2",
    "GTA-4",
    "QV-Ka",
    "slim",
)
CORRECTED = ("(QKV)+", "(Q-K=V)+", "(Q-GQA-2)+", "(Q=K-V)+", "(Q=K=V)+")
BIASED = ("QKV", "GQA-2", "Q-K=V", "Q-MQA", "Q=K-V", "Q=K=V", "slim")
NUMBERS_PER_TOKEN = {  # of D = 16, four heads of width 4, by hand
    "QKV": 32,
    "GQA-2": 16,
    "MQA": 8,
    "Q-K=V": 16,
    "Q-GQA-2": 8,
    "Q-MQA": 4,
    "Q=K-V": 32,
    "Q=K=V": 16,
    "MLA": 18,
    "GTA-1": 6,
    "GTA-2": 10,
    "GTA-4": 18,
    "QV-Ka": 20,
    "slim": 16,
}


def turning(name: str) -> Any:
    """Rotary positions that fit this variant: of half a head where only a part of the key is rotary."""
    width = WIDTH // 2 if name.startswith(("MLA", "GTA")) else WIDTH
    return partial(rope, head_width=width)


def slopes(n: int, rows: int) -> np.ndarray:
    return alibi(n, HEADS, last=rows)


def relative(n: int, rows: int) -> Correction:
    return Correction(relative_channels(n, 3, rows), np.array([0.4, -0.3, 0.5]), 0.2)


def cases():
    for name in (*NAMES, *CORRECTED):
        yield pytest.param(tying.build(name, D, HEADS, rng=np.random.default_rng(1)), id=name)
    for name in NAMES:
        layer = tying.build(name, D, HEADS, rng=np.random.default_rng(2), rotate=turning(name))
        yield pytest.param(layer, id=f"{name} RoPE")
        layer = tying.build(name, D, HEADS, rng=np.random.default_rng(3))
        yield pytest.param(replace(layer, core=replace(layer.core, bias=slopes)), id=f"{name} ALiBi")
        yield pytest.param(replace(layer, core=replace(layer.core, correction=relative)), id=f"{name} correction")
    for name in BIASED:
        for kind, rotate in (("", None), (" RoPE", turning(name))):
            layer = tying.build(name, D, HEADS, rng=np.random.default_rng(4), biases=True, rotate=rotate)
            yield pytest.param(layer, id=f"{name} biases{kind}")
    for name in ("QKV", "Q-GQA-2", "MLA", "QV-Ka"):  # heads that are together wider than the stream
        yield pytest.param(tying.build(name, 10, HEADS, WIDTH), id=f"{name} wide")


def tokens(layer: Any, n: int = TOKENS) -> np.ndarray:
    return np.random.default_rng(5).normal(size=(n, layer.W_O.shape[1]))


def in_chunks(layer: Any, x: Any, *sizes: int) -> tuple[Any, Any]:
    """Outputs and cache when the tokens come in chunks of these sizes."""
    outputs, cache, start = [], (), 0
    for size in sizes:
        y, cache = layer.decode(x[start : start + size], cache)
        outputs.append(y)
        start += size
    assert start == len(x)
    return np.concatenate(outputs), cache


CASES = list(cases())


@pytest.mark.parametrize("layer", CASES)
def test_decoding_equals_the_plain_layer(layer):
    """Token by token, in chunks and at once."""
    x = tokens(layer)
    plain = layer.attention(TOKENS)(x)
    for sizes in ([1] * TOKENS, (2, 4, 1), (3, 1, 1, 2), (TOKENS,)):
        y, cache = in_chunks(layer, x, *sizes)
        assert error(y, plain) < 1e-12
        for kept, again in zip(cache, layer.stored(x), strict=True):
            assert error(kept, again) < 1e-12


@pytest.mark.parametrize("layer", [case for case in CASES if case.values[0].core.correction is None])
def test_the_plain_layer_equals_loops_over_heads_and_pairs(layer):
    x = tokens(layer)
    assert error(layer.attention(TOKENS)(x), slow.attention(layer.attention(TOKENS), x)) < 1e-12


@pytest.mark.parametrize("layer", CASES)
def test_what_is_recalled_are_the_keys_and_values_of_the_plain_layer(layer):
    x, plain = tokens(layer), layer.attention(TOKENS)
    keys, values = layer.recalled(layer.stored(x))
    for made, weight, bias in ((keys, plain.W_K, plain.b_K), (values, plain.W_V, plain.b_V)):
        assert error(made, x @ weight + (0 if bias is None else bias)) < 1e-12


@pytest.mark.parametrize("row", [False, True], ids=["1d", "row"])
def test_slim_keeps_the_function_of_a_pattern_whose_rows_do_not_sum_to_one(row):
    """Linear attention without a normalization: the bias of the values comes in as often as the weights say."""
    layer: Any = tying.build("QKV", D, HEADS, rng=np.random.default_rng(4), biases=True)
    layer = replace(layer, core=replace(layer.core, pattern=lambda s, keep: np.where(keep, s, 0)))
    layer = layer if row else replace(layer, b_K=layer.b_K[0], b_V=layer.b_V[0])
    slim, x = lossless.slim(layer), tokens(layer)
    y, _ = in_chunks(slim, x, 3, 1, 3)
    assert error(y, layer.attention(TOKENS)(x)) < 1e-11
    assert error(slim.attention(TOKENS)(x), layer.attention(TOKENS)(x)) < 1e-11


# -- textbook forms, written out plainly -------------------------------------------------------------------------------


def textbook(q, k, v, W_O):
    """Causal attention as it stands in many a repository: reshape, transpose, mask with -inf, softmax."""
    T, p = q.shape
    q, k, v = (z.reshape(T, HEADS, p // HEADS).transpose(1, 0, 2) for z in (q, k, v))
    att = (q @ k.transpose(0, 2, 1)) / np.sqrt(p // HEADS)
    att = np.where(np.tril(np.ones((T, T))) == 0, -np.inf, att)
    att = np.exp(att - att.max(-1, keepdims=True))
    att = att / att.sum(-1, keepdims=True)
    return (att @ v).transpose(1, 0, 2).reshape(T, p) @ W_O


def test_the_four_variants_against_their_textbook_forms():
    for name in ("QKV", "Q-K=V", "Q=K-V", "Q=K=V"):
        layer: Any = tying.build(name, D, HEADS, rng=np.random.default_rng(6), biases=True)
        x = tokens(layer)
        if name == "QKV":
            q, k, v = x @ layer.W_Q + layer.b_Q, x @ layer.W_K + layer.b_K, x @ layer.W_V + layer.b_V
        elif name == "Q-K=V":
            q = x @ layer.W_Q + layer.b_Q
            k = v = x @ layer.W_Z + layer.b_Z
        elif name == "Q=K-V":
            q = k = x @ layer.W_Z + layer.b_Z
            v = x @ layer.W_V + layer.b_V
        else:
            q = k = v = x @ layer.W_Z + layer.b_Z
        y, _ = in_chunks(layer, x, *[1] * TOKENS)
        assert error(y, textbook(q, k, v, layer.W_O) + layer.b_O) < 1e-12


def rotated(z, width):
    """Row t of (n, width), plane by plane, turned by t times the usual frequencies."""
    out = z.copy()
    for t in range(len(z)):
        for c in range(width // 2):
            angle = t * 10000.0 ** (-2 * c / width)
            a, b = z[t, 2 * c], z[t, 2 * c + 1]
            out[t, 2 * c] = a * np.cos(angle) - b * np.sin(angle)
            out[t, 2 * c + 1] = a * np.sin(angle) + b * np.cos(angle)
    return out


def one_head_at_a_time(x, W_O, queries, keys, values):
    """Causal softmax heads given as functions h -> (n, width), scaled by the root of the key's width."""
    out = []
    for h in range(HEADS):
        q, k, v = queries(h), keys(h), values(h)
        rows = []
        for i in range(len(x)):
            s = np.array([q[i] @ k[j] for j in range(i + 1)]) / np.sqrt(q.shape[1])
            a = np.exp(s - s.max())
            rows.append((a / a.sum()) @ v[: i + 1])
        out.append(np.stack(rows))
    return np.concatenate(out, axis=1) @ W_O


def block(a, h, width):
    return a[:, h * width : (h + 1) * width]


def test_tied_keys_under_rope_are_turned_as_keys_and_not_as_values():
    layer: Any = tying.build("Q-K=V", D, HEADS, rng=np.random.default_rng(7), rotate=turning("Q-K=V"))
    x = tokens(layer)
    q, z = x @ layer.W_Q, x @ layer.W_Z
    expected = one_head_at_a_time(
        x,
        layer.W_O,
        lambda h: rotated(block(q, h, WIDTH), WIDTH),
        lambda h: rotated(block(z, h, WIDTH), WIDTH),
        lambda h: block(z, h, WIDTH),
    )
    assert error(in_chunks(layer, x, 3, 1, 3)[0], expected) < 1e-12


def test_latent_attention_against_its_definition():
    layer: Any = tying.build("MLA", D, HEADS, rng=np.random.default_rng(8), rotate=turning("MLA"))
    x, r = tokens(layer), WIDTH // 2
    q, c, shared = x @ layer.W_Q, x @ layer.W_C, rotated(x @ layer.W_R, r)

    def queries(h):
        own = block(q, h, r + WIDTH)
        return np.concatenate([rotated(own[:, :r], r), own[:, r:]], axis=1)

    def keys(h):
        return np.concatenate([shared, c @ block(layer.W_UK, h, WIDTH)], axis=1)

    expected = one_head_at_a_time(x, layer.W_O, queries, keys, lambda h: c @ block(layer.W_UV, h, WIDTH))
    assert error(in_chunks(layer, x, 3, 1, 3)[0], expected) < 1e-12


def test_half_tying_against_its_definition():
    layer: Any = tying.build("GTA-2", D, HEADS, rng=np.random.default_rng(9), rotate=turning("GTA"))
    x, r = tokens(layer), WIDTH // 2
    q, z, shared = x @ layer.W_Q, x @ layer.W_Z, rotated(x @ layer.W_R, r)

    def queries(h):
        own = block(q, h, WIDTH)
        return np.concatenate([rotated(own[:, :r], r), own[:, r:]], axis=1)

    expected = one_head_at_a_time(
        x,
        layer.W_O,
        queries,
        lambda h: np.concatenate([shared, block(z, h // 2, WIDTH)[:, r:]], axis=1),
        lambda h: block(z, h // 2, WIDTH),
    )
    assert error(in_chunks(layer, x, 3, 1, 3)[0], expected) < 1e-12


def test_keys_from_values_and_context_against_their_definition():
    layer: Any = tying.build("QV-Ka", D, HEADS, rng=np.random.default_rng(10))
    x = tokens(layer)
    q, v, context = x @ layer.W_Q, x @ layer.W_V, x @ layer.W_C

    def keys(h):
        W_K = np.concatenate([block(layer.W_KC, h, WIDTH), layer.W_KV[h]])  # as published: [context | value] W_K
        return np.concatenate([context, block(v, h, WIDTH)], axis=1) @ W_K

    expected = one_head_at_a_time(x, layer.W_O, lambda h: block(q, h, WIDTH), keys, lambda h: block(v, h, WIDTH))
    assert error(in_chunks(layer, x, 3, 1, 3)[0], expected) < 1e-12


# -- exact numbers -----------------------------------------------------------------------------------------------------


def exactly(name: str, rotary: bool = False) -> Any:
    """A small layer of fractions with the rational row pattern."""
    variant, rng = variants.parse(name), np.random.default_rng(11)
    kind = "QKV" if name == "slim" else variant.kind
    shapes = variants.weight_shapes(variants.Variant(kind, variant.groups), 8, 2, 4)
    weights = {
        key: np.frompyfunc(Fraction, 1, 1)(rng.integers(-2, 3, shape).astype(object)) for key, shape in shapes.items()
    }
    planes = 1 if name.startswith(("MLA", "GTA")) else 2
    rotate = (lambda n: rational_rope(n, planes)) if rotary else None
    core = tying.CausalHeads(2, variant.groups, scale=1, pattern=rational, rotate=rotate)
    layer = tying.CLASSES[kind](core=core, **weights)
    return lossless.slim(layer) if name == "slim" else layer


@pytest.mark.parametrize("rotary", [False, True], ids=["", "rotations"])
@pytest.mark.parametrize("name", ["QKV", "MQA", "Q-K=V", "Q-MQA", "Q=K-V", "Q=K=V", "MLA", "GTA-1", "QV-Ka", "slim"])
def test_decoding_is_exact_on_fractions(name, rotary):
    layer = exactly(name, rotary)
    x = np.frompyfunc(Fraction, 1, 1)(np.random.default_rng(12).integers(-2, 3, (3, 8)).astype(object))
    y, _ = in_chunks(layer, x, 1, 1, 1)
    assert (y == layer.attention(3)(x)).all() and (y != 0).any()
    assert all(isinstance(entry, Fraction) for entry in y.flat)


# -- the cache ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_cache_takes_the_bytes_it_should(name):
    layer = tying.build(name, D, HEADS, biases=name in BIASED)
    for n in (1, TOKENS):
        _, cache = layer.decode(tokens(layer, n))
        assert tying.cache_bytes(cache) == 8 * n * NUMBERS_PER_TOKEN[name]
        assert all(a.shape[0] == n for a in cache)


@pytest.mark.parametrize("name", NAMES)
def test_a_cache_shares_no_memory_and_is_never_written_to(name):
    """Neither with the weights, nor with the tokens, nor with the cache it goes on from."""
    layer = tying.build(name, D, HEADS)
    x = tokens(layer)
    _, old = layer.decode(x[:3])
    before = [a.copy() for a in old]
    _, new = layer.decode(x[3:], old)
    for a in new:
        for other in (x, *old, *layer.weights().values()):
            assert not np.shares_memory(a, other)
    assert not any(np.shares_memory(a, b) for i, a in enumerate(new) for b in new[:i])
    assert all((a == b).all() for a, b in zip(old, before, strict=True))


@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_the_weights_held_are_those_counted(name, biases):
    shapes = variants.weight_shapes(variants.parse(name), D, HEADS, biases=biases)
    held = tying.build(name, D, HEADS, biases=biases).weights()
    assert sum(a.size for a in held.values()) == sum(int(np.prod(shape)) for shape in shapes.values())
    if name != "slim":  # whose W_KV takes the place of W_V
        assert {key: a.shape for key, a in held.items()} == shapes


def test_a_corrected_variant_also_holds_the_weights_of_the_correction():
    plain, corrected = (tying.build(name, D, HEADS).weights() for name in ("Q=K-V", "(Q=K-V)+"))
    added = {key: np.size(a) for key, a in corrected.items() if key not in plain}
    assert added == {"correction weights": 10, "correction bias": 1}


# -- tying after training, and the recurrence --------------------------------------------------------------------------


@pytest.mark.parametrize("biased", ["", "K", "V", "KV"])
def test_tying_after_training(biased, rng, layer):
    rows = {f"b_{c}": rng.normal(size=(1, 4)) for c in biased}
    a = layer(**rows)
    zero = np.zeros((1, 4))
    b_K, b_V = (zero if b is None else b for b in (a.b_K, a.b_V))
    for keep, W, b in (
        ("K", a.W_K, b_K),
        ("V", a.W_V, b_V),
        ("average", (a.W_K + a.W_V) / 2, (b_K + b_V) / 2),
    ):
        tied = tying.tie_after(a, keep)
        assert (tied.W_K == W).all() and tied.W_V is tied.W_K and tied.b_V is tied.b_K
        assert (b == (zero if tied.b_K is None else tied.b_K)).all()
        assert tied.W_Q is a.W_Q and tied.W_O is a.W_O and tied.core is a.core


def test_tying_after_training_refuses_what_it_cannot_do(layer):
    with pytest.raises(ValueError, match="keep must be 'K', 'V' or 'average', not 'Q'"):
        tying.tie_after(layer(), "Q")
    with pytest.raises(HypothesisError, match="one shape") as refusal:
        tying.tie_after(layer(W_V=np.ones((4, 6))))
    assert refusal.value.hypothesis == "shapes agree"


@pytest.mark.parametrize("features", [lambda z: z * z + 1, np.exp, lambda z: np.maximum(z, 0) + 0.1])
def test_the_recurrence_equals_causal_kernel_attention(features):
    z = np.random.default_rng(13).normal(size=(40, 3))
    f = features(z)
    weights = (f @ f.T) * causal(len(z))
    assert error(tying.tied_recurrence(f, z), weights @ z / weights.sum(axis=1, keepdims=True)) < 1e-12


def test_the_recurrence_refuses_what_it_cannot_do():
    with pytest.raises(HypothesisError, match="2 rows of features for 3 tokens"):
        tying.tied_recurrence(np.ones((2, 1)), np.ones((3, 2)))
    with pytest.raises(HypothesisError, match="token 1 sum to 0") as refusal:
        tying.tied_recurrence(np.array([[1.0], [-1.0]]), np.ones((2, 2)))
    assert refusal.value.hypothesis == "positive features"


# -- bad calls ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "arguments", "message"), [
    ("QKV", (10, 4), "a width of 10 does not split into 4 heads; pass head_width"),
    ("GQA-3", (16, 4), "GQA-3: 3 groups do not divide 4 heads"),
    ("KV", (16, 4), "'KV' means Q=K-V in some places"),
    ("Q-K-V", (16, 4), "did you mean"),
    ("slimm", (16, 4), "did you mean 'slim'"),
])  # fmt: skip
def test_a_layer_that_does_not_exist_is_not_built(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        tying.build(name, *arguments)


@pytest.mark.parametrize("name", NAMES)
def test_decoding_refuses_what_is_not_a_stream(name):
    layer = tying.build(name, D, HEADS)
    reader = "W_Z" if name in ("Q=K-V", "Q=K=V") else "W_Q"
    with pytest.raises(HypothesisError, match=f"x is 2 x {D + 1} but {reader} has {D} rows"):
        layer.decode(np.ones((2, D + 1)))
    with pytest.raises(HypothesisError, match="x must be a matrix, tokens x width"):
        layer.decode(np.ones(D))


@pytest.mark.parametrize("layer", CASES)
def test_a_step_of_decoding_costs_memory_for_its_own_rows_only(layer):
    """A boolean mask of all 2000 tokens by itself would take 4 MB."""
    n = 2000
    x = tokens(layer, n)
    cache = layer.stored(x[:-1])
    tracemalloc.start()
    layer.decode(x[-1:], cache)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2.5e6, f"{peak / 1e6:.1f} MB for one token"


@pytest.mark.parametrize("layer", CASES)
def test_a_chunk_without_tokens_is_refused(layer):
    x = tokens(layer)
    for cache in ((), layer.stored(x)):
        with pytest.raises(HypothesisError, match="x has no tokens; decode at least one at a time") as refusal:
            layer.decode(x[:0], cache)
        assert refusal.value.hypothesis == "matrix"


def test_decoding_refuses_a_cache_of_other_numbers():
    layer, x = tying.build("QKV", D, HEADS), np.ones((2, D))
    _, (keys, values) = layer.decode(x)
    for cache in ((keys.astype("f4"), values.astype("f4")), (keys, values.astype("f4"))):
        with pytest.raises(HypothesisError, match="of the cache is numpy float32") as refusal:
            layer.decode(x, cache)
        assert refusal.value.hypothesis == "one kind of number"


@pytest.mark.torch
def test_decoding_refuses_a_cache_of_another_library():
    torch = pytest.importorskip("torch")
    layer, x = tying.build("QKV", D, HEADS), np.ones((2, D))
    _, kept = layer.decode(x)
    with pytest.raises(HypothesisError, match=r"torch torch\.float64") as refusal:
        layer.decode(x, tuple(map(torch.from_numpy, kept)))
    assert refusal.value.hypothesis == "one kind of number"


@pytest.mark.parametrize("cache", [None, 3, "keys", np.ones((2, D)), ([[1.0]],), (None, None), {1: 2}])
def test_decoding_refuses_what_is_no_cache(cache):
    layer, x = tying.build("QKV", D, HEADS), np.ones((2, D))
    with pytest.raises(TypeError, match="the cache must be the tuple of arrays that decode returned, or"):
        layer.decode(x, cache)
    with pytest.raises(TypeError, match="not a generator"):
        layer.decode(x, (a for a in layer.stored(x)))


def test_decoding_refuses_a_cache_that_is_not_its_own():
    layer, x = tying.build("QKV", D, HEADS), np.ones((2, D))
    _, of_tied = tying.build("Q-K=V", D, HEADS).decode(x)
    _, of_grouped = tying.build("GQA-2", D, HEADS).decode(x)
    _, (keys, values) = layer.decode(x)
    for cache in (of_tied, of_grouped, (keys, values[:1]), (keys[0], values[0])):
        with pytest.raises(HypothesisError, match="pass the cache that it returned"):
            layer.decode(x, cache)


def test_heads_in_wrong_number_are_refused():
    with pytest.raises(ValueError, match=r"groups \(3\) must divide heads \(4\)"):
        tying.CausalHeads(4, 3).at(2)
    assert tying.CausalHeads(4).kv_heads == 4 and tying.CausalHeads(4, 2).kv_heads == 2


# -- PyTorch -----------------------------------------------------------------------------------------------------------


def in_torch(layer: Any, dtype: Any) -> Any:
    torch = pytest.importorskip("torch")
    weights = {name: torch.from_numpy(a.copy()).to(dtype) for name, a in layer.weights().items() if name[1] == "_"}
    return replace(layer, **weights)


@pytest.mark.torch
@pytest.mark.parametrize("layer", CASES)
def test_torch_agrees(layer):
    """In float64 to rounding; in float32 as far as that goes, with a cache of half the bytes and in float32."""
    torch = pytest.importorskip("torch")
    x = tokens(layer)
    plain, (_, kept) = layer.attention(TOKENS)(x), layer.decode(x)
    for dtype, tolerance, bytes_of_one in (
        (torch.float64, 1e-12, 8),
        (torch.float32, 2e-3 if isinstance(layer, tying.Slim) else 2e-5, 4),
    ):
        other = in_torch(layer, dtype)
        first, cache = other.decode(torch.from_numpy(x[:3]).to(dtype))
        rest, cache = other.decode(torch.from_numpy(x[3:]).to(dtype), cache)
        y = torch.cat([first, rest])
        assert y.dtype == dtype and all(a.dtype == dtype for a in cache)
        assert error(y.double().numpy(), plain) < tolerance
        assert 8 * tying.cache_bytes(cache) == bytes_of_one * tying.cache_bytes(kept)


@pytest.mark.torch
def test_the_recurrence_runs_on_tensors():
    torch = pytest.importorskip("torch")
    z = np.random.default_rng(14).normal(size=(6, 3))
    y = tying.tied_recurrence(torch.from_numpy(z * z), torch.from_numpy(z))
    assert error(y.numpy(), tying.tied_recurrence(z * z, z)) < 1e-13


def test_a_cut_prompt_of_attention_is_the_prompt_cut():
    """Causal: what comes later does not change what came before."""
    layer = tying.build("Q-GQA-2", D, HEADS)
    x = tokens(layer)
    assert error(layer.attention(4)(x[:4]), layer.attention(TOKENS)(x)[:4]) < 1e-13
    assert isinstance(layer.attention(4), Attention) and isinstance(layer.attention(4).core, Heads)


@pytest.mark.torch
@pytest.mark.parametrize("rotary", [False, True], ids=["", "rotary"])
def test_latent_attention_equals_the_module_of_transformers(rotary):
    """DeepseekV2Attention in float64, without its norm on the latent; it stores the rotary coordinates last, we first.

    It rotates in float32, whatever its weights are.
    """
    torch = pytest.importorskip("torch")
    deepseek = pytest.importorskip("transformers.models.deepseek_v2.modeling_deepseek_v2")
    layer: Any = tying.build("MLA", D, HEADS, rng=np.random.default_rng(15), rotate=turning("MLA") if rotary else None)
    r, latent = WIDTH // 2, layer.W_C.shape[1]
    config = deepseek.DeepseekV2Config(
        hidden_size=D,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        q_lora_rank=None,
        kv_lora_rank=latent,
        qk_rope_head_dim=r,
        qk_nope_head_dim=WIDTH,
        v_head_dim=WIDTH,
        attn_implementation="eager",
    )
    module = deepseek.DeepseekV2Attention(config, layer_idx=0).double()
    module.kv_a_layernorm = torch.nn.Identity()
    queries = [np.roll(block(layer.W_Q, h, r + WIDTH), -r, axis=1) for h in range(HEADS)]
    up = [block(W, h, WIDTH) for h in range(HEADS) for W in (layer.W_UK, layer.W_UV)]
    for linear, weight in (
        (module.q_proj, np.concatenate(queries, axis=1)),
        (module.kv_a_proj_with_mqa, np.concatenate([layer.W_C, layer.W_R], axis=1)),
        (module.kv_b_proj, np.concatenate(up, axis=1)),
        (module.o_proj, layer.W_O),
    ):
        assert linear.weight.shape == weight.T.shape
        linear.weight.data = torch.from_numpy(weight.T.copy())
    x, turns = tokens(layer), rope(TOKENS, r)
    table = turns.cos + 1j * turns.sin if rotary else np.ones((TOKENS, r // 2), dtype=complex)
    mask = torch.zeros(TOKENS, TOKENS, dtype=torch.float64).masked_fill(~torch.from_numpy(causal(TOKENS)), -torch.inf)
    with torch.no_grad():
        y, _ = module(torch.from_numpy(x)[None], mask[None, None], position_embeddings=torch.from_numpy(table)[None])
    assert error(in_chunks(layer, x, 4, 3)[0], y[0].numpy()) < (1e-5 if rotary else 1e-6)


@pytest.mark.parametrize("layout", ["interleaved", "half"])
def test_both_rotary_layouts_go_on_from_a_cache_over_many_tokens(rng, layout):
    layer = tying.build("GQA-2", D, HEADS, rotate=partial(rope, head_width=WIDTH, layout=layout))
    x = rng.normal(size=(130, D))
    cache, out = (), []
    for chunk in np.split(x, [100, 101, 102]):
        y, cache = layer.decode(chunk, cache)
        out.append(y)
    assert error(np.concatenate(out), slow.attention(layer.attention(len(x)), x)) < 1e-12


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: tying.CausalHeads(2, rotate=rope(3, 4)),
            "rotate must be a function of the number of tokens, not a Rope",
        ),
        (lambda: replace(tying.build("QKV", 4, 2), core=Heads(2)), "pass CausalHeads"),
        (lambda: tying.build("QKV", 4, 2).decode([[1.0, 2.0, 3.0, 4.0]]), "x must be a matrix, .* not a list"),
    ],
)
def test_what_is_no_layer_or_token_is_named(make, message):
    with pytest.raises(TypeError, match=message):
        make()


def test_a_rotary_table_wider_than_the_head_is_refused(rng):
    layer = tying.build("QKV", 8, 4, rotate=lambda n: rope(n, 4))
    with pytest.raises(HypothesisError, match="turns 4 coordinates, a head has 2"):
        layer.decode(rng.normal(size=(3, 8)))
