"""Stacks put together from the modules of ``transformers``: our networks agree with them, and hand weights back.

The attention and MLP modules of GPT-2, BERT, Llama and GPT-NeoX in float64, with random weights and nothing downloaded.
Their norms are left out and the skips are ours to choose, since the theorems are about stacks without norms. Weights go
both ways: from their modules into our network (NumPy), and, after an elimination, back into the very same modules.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest

from qkvtheory import MLP, Attention, Block, Heads, HypothesisError, Network, causal, eliminate
from qkvtheory.positions import Rope
from tests.layers import EPS, SLACK, error

torch = pytest.importorskip("torch", reason="PyTorch is not installed: no modules of transformers are tried here")
transformers = pytest.importorskip("transformers", reason="transformers is not installed: its modules are not tried")
pytestmark = pytest.mark.torch

LAYERS, WIDTH, HEADS, GROUPS, HIDDEN, TOKENS, VOCABULARY = 3, 16, 4, 2, 24, 6, 11
EPS32 = float(np.finfo(np.float32).eps)
WEIGHTS = [f"{kind}_{letter}" for kind in "Wb" for letter in "QKVO"]
SKIPS = {"no skip": (False, False), "around attention": (True, False), "around the MLP": (False, True)}
EVERY = {**SKIPS, "both skips": (True, True)}
# A matrix of ours is one or several blocks of columns of theirs: [in, out], each a view into the module's parameter.
Views = dict[str, list[Any]]


class Family(NamedTuple):
    """One kind of model: its modules for one layer, where its weights are, and its core and activation in our words."""

    modules: Callable[[int], Any]
    attend: Callable[[Any, Any], Any]
    mlp: Callable[[Any, Any], Any]
    views: Callable[[Any], Views]
    core: Heads
    act: Callable[[Any], Any]
    parallel: bool = False
    eps: float = EPS


# -- their modules -----------------------------------------------------------------------------------------------------


MASK = torch.full((TOKENS, TOKENS), -torch.inf).double().triu(1)[None, None]
HEAD = WIDTH // HEADS


def linear(*modules: Any) -> tuple[list[Any], list[Any]]:
    """Weights and biases of ``Linear`` modules side by side; they keep [out, in], so ours is the transpose."""
    return [m.weight.data.mT for m in modules], [m.bias.data[None] for m in modules]


def conv1d(module: Any, parts: int = 1) -> list[tuple[list[Any], list[Any]]]:
    """GPT-2's ``Conv1D`` keeps [in, out] already, and queries, keys and values side by side in one matrix."""
    weights, biases = module.weight.data.chunk(parts, 1), module.bias.data[None].chunk(parts, 1)
    return [([w], [b]) for w, b in zip(weights, biases, strict=True)]


def named(*pairs: tuple[list[Any], list[Any]]) -> Views:
    names = ("Q", "K", "V", "O", "up", "down")
    return {
        f"{kind}_{name}": v for name, pair in zip(names, pairs, strict=True) for kind, v in zip("Wb", pair, strict=True)
    }


def gelu(x: np.ndarray) -> np.ndarray:
    return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


def gelu_by_tanh(x: np.ndarray) -> np.ndarray:
    return x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


def gated_silu(x: np.ndarray) -> np.ndarray:
    gate, up = np.split(x, 2, axis=1)
    return gate / (1 + np.exp(-gate)) * up


def rotation(module: Any) -> tuple[tuple[Any, Any], Rope]:
    """Their table of angles (of float32 precision), and the same table for our core."""
    cos, sin = module(torch.zeros(1, dtype=torch.float64), torch.arange(TOKENS)[None])
    planes = cos.shape[-1] // 2
    return (cos, sin), Rope(cos[0, :, :planes].numpy(), sin[0, :, :planes].numpy(), "half")


def gpt2() -> Family:
    from transformers.models.gpt2.modeling_gpt2 import GPT2MLP, GPT2Attention

    config = transformers.GPT2Config(n_embd=WIDTH, n_head=HEADS, n_positions=TOKENS, attn_implementation="eager")
    return Family(
        lambda layer: (GPT2Attention(config, layer_idx=layer), GPT2MLP(HIDDEN, config)),
        lambda m, x: m[0](x, attention_mask=MASK)[0],
        lambda m, y: m[1](y),
        lambda m: named(*conv1d(m[0].c_attn, 3), *conv1d(m[0].c_proj), *conv1d(m[1].c_fc), *conv1d(m[1].c_proj)),
        Heads(HEADS, mask=causal(TOKENS)),
        gelu_by_tanh,
    )


def bert() -> Family:
    """BERT adds its skips and norms inside ``BertSelfOutput`` and ``BertOutput``; of these only the matrix is taken."""
    from transformers.models.bert.modeling_bert import BertIntermediate, BertOutput, BertSelfAttention, BertSelfOutput

    sizes = {"hidden_size": WIDTH, "num_attention_heads": HEADS, "intermediate_size": HIDDEN}
    config = transformers.BertConfig(**sizes, attn_implementation="eager")
    kinds = (BertSelfAttention, BertSelfOutput, BertIntermediate, BertOutput)
    return Family(
        lambda layer: tuple(kind(config) for kind in kinds),
        lambda m, x: m[1].dense(m[0](x)[0]),
        lambda m, y: m[3].dense(m[2](y)),
        lambda m: named(*map(linear, (m[0].query, m[0].key, m[0].value, m[1].dense, m[2].dense, m[3].dense))),
        Heads(HEADS),
        gelu,
    )


def llama(implementation: str) -> Family:
    """RoPE, grouped keys, gated MLP. Their "eager" takes softmax in float32, whatever the weights; "sdpa" does not."""
    from transformers.models.llama.modeling_llama import LlamaAttention, LlamaMLP, LlamaRotaryEmbedding

    sizes = {"hidden_size": WIDTH, "num_attention_heads": HEADS, "num_key_value_heads": GROUPS, "head_dim": HEAD}
    config = transformers.LlamaConfig(
        **sizes, intermediate_size=HIDDEN, attention_bias=True, mlp_bias=True, attn_implementation=implementation
    )
    places, rotate = rotation(LlamaRotaryEmbedding(config))

    def views(m: Any) -> Views:
        a, mlp = m
        single = map(linear, (a.q_proj, a.k_proj, a.v_proj, a.o_proj))
        return named(*single, linear(mlp.gate_proj, mlp.up_proj), linear(mlp.down_proj))

    return Family(
        lambda layer: (LlamaAttention(config, layer_idx=layer), LlamaMLP(config)),
        lambda m, x: m[0](x, position_embeddings=places, attention_mask=MASK)[0],
        lambda m, y: m[1](y),
        views,
        Heads(HEADS, GROUPS, mask=causal(TOKENS), rotate=rotate),
        gated_silu,
        eps=EPS32 if implementation == "eager" else EPS,
    )


def gpt_neox() -> Family:
    """Parallel attention and MLP, RoPE on half of each head. One matrix holds q, k, v of head 1, then of head 2, ..."""
    from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXAttention, GPTNeoXMLP, GPTNeoXRotaryEmbedding

    config = transformers.GPTNeoXConfig(
        hidden_size=WIDTH, num_attention_heads=HEADS, intermediate_size=HIDDEN, rotary_pct=0.5,
        attn_implementation="sdpa",
    )  # fmt: skip
    places, rotate = rotation(GPTNeoXRotaryEmbedding(config))

    def views(m: Any) -> Views:
        weights, biases = linear(m[0].query_key_value)
        parts = [(weights[0].split(HEAD, 1)[i::3], biases[0].split(HEAD, 1)[i::3]) for i in range(3)]
        return named(*parts, *map(linear, (m[0].dense, m[1].dense_h_to_4h, m[1].dense_4h_to_h)))

    return Family(
        lambda layer: (GPTNeoXAttention(config, layer_idx=layer), GPTNeoXMLP(config)),
        lambda m, x: m[0](x, attention_mask=MASK, position_embeddings=places)[0],
        lambda m, y: m[1](y),
        views,
        Heads(HEADS, mask=causal(TOKENS), rotate=rotate),
        gelu,
        parallel=True,
    )


FAMILIES = {
    "gpt2": gpt2,
    "bert": bert,
    "llama": lambda: llama("sdpa"),
    "llama, softmax in float32": lambda: llama("eager"),
}


# -- stacks of them ----------------------------------------------------------------------------------------------------


class Stack:
    """Their modules, one tuple a layer, between an embedding and a readout of theirs, with the skips asked for."""

    def __init__(self, family: Family, skips: tuple[bool, bool], seed: int = 0):
        torch.manual_seed(seed)
        self.family, self.skips = family, skips
        self.embedding, self.readout = torch.nn.Embedding(VOCABULARY, WIDTH), torch.nn.Linear(WIDTH, VOCABULARY, False)
        self.layers = [family.modules(layer) for layer in range(LAYERS)]
        for module in (self.embedding, self.readout, *(m for layer in self.layers for m in layer)):
            module.double().eval()
        rng = np.random.default_rng(seed)  # the libraries would start biases at zero, which hides mistakes
        self.views = [family.views(layer) for layer in self.layers]
        for views in self.views:
            for name, blocks in views.items():
                for block in blocks:
                    scale = len(block) ** -0.5 if name.startswith("W") else 0.5
                    block.copy_(torch.from_numpy(rng.normal(size=tuple(block.shape)) * scale))

    def __call__(self, ids: list[int]) -> np.ndarray:
        around_attention, around_mlp = self.skips
        with torch.no_grad():
            x = self.embedding(torch.tensor([ids]))
            for layer in self.layers:
                y = self.family.attend(layer, x)
                if self.family.parallel:
                    y = y + self.family.mlp(layer, x)
                    x = x + y if around_attention else y
                    continue
                y = x + y if around_attention else y
                z = self.family.mlp(layer, y)
                x = y + z if around_mlp else z
            return self.readout(x)[0].numpy()

    def ours(self) -> Network:
        """The same stack as our network, in NumPy."""
        blocks = []
        for views in self.views:
            w = {name: torch.cat(blocks, 1).numpy().copy() for name, blocks in views.items()}
            mlp = MLP(self.family.act, w["W_up"], w["W_down"], w["b_up"], w["b_down"])
            attention = Attention(self.family.core, *(w[name] for name in WEIGHTS))
            blocks.append(Block(attention, mlp, *self.skips, parallel=self.family.parallel))
        return Network(self.embedding.weight.data.numpy().copy(), blocks, self.readout.weight.data.mT.numpy().copy())

    def take(self, network: Network) -> None:
        """Write the weights of our network into their modules."""
        self.embedding.weight.data.copy_(torch.from_numpy(network.embedding))
        self.readout.weight.data.copy_(torch.from_numpy(network.readout.mT))
        for views, block in zip(self.views, network.blocks, strict=True):
            for name, places in views.items():
                layer = block.mlp if name.endswith(("up", "down")) else block.attention
                parts = np.split(getattr(layer, name), np.cumsum([p.shape[1] for p in places])[:-1], axis=1)
                for place, part in zip(places, parts, strict=True):
                    place.copy_(torch.from_numpy(part))


IDS = [3, 1, 4, 1, 5, 9]


def tokens() -> np.ndarray:
    return np.eye(VOCABULARY)[IDS]


def tolerance(network: Network, layers: Any, eps: float) -> float:
    """What rounding may do: EPS for each condition number of what is eliminated, and ``eps`` for their softmax."""
    cond = max(np.linalg.cond(network.blocks[layer].attention.W_Q) for layer in layers)
    return SLACK * (EPS * cond + eps)


def eliminated(stack: Stack, layers: Any) -> None:
    """Their modules, asked again after our elimination was written into them, say what they said before."""
    before, old = stack(IDS), stack.ours()
    assert error(old(tokens()), before) < SLACK * stack.family.eps
    new, allowed = eliminate(old, "Q", layers), tolerance(old, layers, stack.family.eps)
    assert allowed < 1e-4
    stack.take(new)
    for layer in layers:
        assert torch.equal(torch.cat(stack.views[layer]["W_Q"], 1), torch.eye(WIDTH, dtype=torch.float64))
    assert error(new(tokens()), before) < allowed
    assert error(stack(IDS), before) < allowed


@pytest.mark.parametrize("skips", SKIPS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_query_is_eliminated_inside_their_modules(family, skips):
    eliminated(Stack(FAMILIES[family](), SKIPS[skips]), range(LAYERS))


@pytest.mark.parametrize("layer", range(LAYERS))
@pytest.mark.parametrize("family", FAMILIES)
def test_with_both_skips_one_query_is_eliminated_inside_their_modules(family, layer):
    eliminated(Stack(FAMILIES[family](), EVERY["both skips"]), [layer])


@pytest.mark.parametrize(("skip", "layers"), [(False, range(LAYERS)), (True, [1])], ids=["no skip", "skip"])
def test_parallel_blocks_of_gpt_neox(skip, layers):
    eliminated(Stack(gpt_neox(), (skip, False)), layers)


def test_shared_queries_of_gpt2_are_eliminated_with_both_skips():
    stack = Stack(gpt2(), EVERY["both skips"])
    for views in stack.views[1:]:
        views["W_Q"][0].copy_(stack.views[0]["W_Q"][0])
    eliminated(stack, range(LAYERS))


# -- what must not agree -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["W_K", "W_V", "W_O", "W_up", "W_down", "b_O", "b_down"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_that_changes_must(family, name):
    """The eliminated weights with one of them as it was in one layer: another function, by far."""
    stack = Stack(FAMILIES[family](), EVERY["around attention"])
    before, old = stack(IDS), stack.ours()
    new = eliminate(old)
    stack.take(new)
    for place, kept in zip(stack.views[1][name], Stack(stack.family, stack.skips).views[1][name], strict=True):
        assert not torch.allclose(place, kept)
        place.copy_(kept)
    assert error(stack(IDS), before) > 1e-2


@pytest.mark.parametrize("family", FAMILIES)
def test_read_biases_stay(family):
    """Scores and activations read W x + b with b as it was; in another basis it would be another function."""
    old = Stack(FAMILIES[family](), EVERY["around attention"]).ours()
    for before, after in zip(old.blocks, eliminate(old).blocks, strict=True):
        assert all(getattr(after.attention, b) is getattr(before.attention, b) for b in ("b_Q", "b_K", "b_V"))
        assert after.mlp.b_up is before.mlp.b_up


@pytest.mark.parametrize("family", FAMILIES)
def test_a_second_skip_in_their_forward_is_seen(family):
    other = Stack(FAMILIES[family](), EVERY["both skips"])
    before, weights = other(IDS), other.ours()
    with pytest.raises(HypothesisError, match="one choice per segment"):
        eliminate(weights)
    other.take(eliminate(replace(weights, blocks=[replace(b, mlp_skip=False) for b in weights.blocks])))
    assert error(other(IDS), before) > 1e-2


def test_a_matrix_taken_without_transposing_is_seen():
    """Linear keeps [out, in] and Conv1D keeps [in, out]: whoever mixes them up reads another network."""
    stack = Stack(bert(), EVERY["around attention"])
    ours = stack.ours()
    wrong = [replace(b, attention=replace(b.attention, W_K=b.attention.W_K.mT)) for b in ours.blocks]
    assert error(replace(ours, blocks=wrong)(tokens()), stack(IDS)) > 1e-2
