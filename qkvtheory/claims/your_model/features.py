"""The features of an architecture, each as a small random network that has it, and what is expected of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from qkvtheory.activations import swiglu
from qkvtheory.attention import Heads, causal, rms_norm, sliding_window
from qkvtheory.network import MLP, Attention, Block, Network
from qkvtheory.norms import LayerNorm, RMSNorm
from qkvtheory.positions import alibi, relative_bias, rope
from qkvtheory.verdicts import Outcome, verdict

D, HEADS, HIDDEN, VOCAB, LAYERS = 8, 4, 12, 6, 3  # tokens are the VOCAB unit vectors, in order
ALL, ONE = LAYERS, 1  # layers


@dataclass(frozen=True)
class Feature:
    """``build``: a network of this kind from a source of random numbers. ``expected``: for Q, K and V a form of
    ``verdicts.FORMS`` and a number of layers. ``claims``: where the reasons are.
    """

    name: str
    build: Callable[[np.random.Generator], Network]
    expected: Mapping[str, tuple[str, int]]
    claims: tuple[str, ...]
    says: str = ""


def same(form: str, layers: int) -> dict[str, tuple[str, int]]:
    """The same for all three projections."""
    return dict.fromkeys("QKV", (form, layers))


def untied(net: Network) -> Network:
    """The same function with a readout of its own, a copy of the embedding: as many numbers more."""
    return replace(net, readout=net.embedding.mT) if net.readout is None else net


@dataclass(frozen=True)
class Kind:
    """Options of the small network: everything but the one feature is plain."""

    skips: tuple[bool, bool] = (True, True)
    width: int = D  # of all query heads together
    heads: int = HEADS
    groups: int | None = None
    norm: Callable[[np.random.Generator], Any] | None = None
    tied: bool = False
    parallel: bool = False
    shared: bool = False
    looped: bool = False
    biases: bool = False
    gated: bool = False
    cross: bool = False
    positions: bool = False
    core: Callable[[], Mapping[str, Any]] = field(default=dict)


def drawn(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.normal(size=shape) / shape[0] ** 0.5


def network(rng: np.random.Generator, kind: Kind) -> Network:
    blocks = [block(rng, kind) for _ in range(LAYERS)]
    if kind.looped:
        blocks = blocks[:1] * LAYERS
    if kind.shared:
        W_Q = blocks[0].attention.W_Q
        blocks = [replace(b, attention=replace(b.attention, W_Q=W_Q)) for b in blocks]
    positions = drawn(rng, VOCAB, D) if kind.positions else None
    readout = None if kind.tied else drawn(rng, D, VOCAB)
    return Network(drawn(rng, VOCAB, D), blocks, readout, positions, kind.norm and kind.norm(rng))


def block(rng: np.random.Generator, kind: Kind) -> Block:
    attention_norm, mlp_norm = (kind.norm and kind.norm(rng) for _ in range(2))
    hidden = 2 * HIDDEN if kind.gated else HIDDEN
    biases = {"b_up": drawn(rng, 1, hidden), "b_down": drawn(rng, 1, D)} if kind.biases else {}
    mlp = MLP(swiglu if kind.gated else np.tanh, drawn(rng, D, hidden), drawn(rng, HIDDEN, D), **biases)
    cross = attention(rng, kind) if kind.cross else None
    return Block(attention(rng, kind), mlp, *kind.skips, attention_norm, mlp_norm, kind.parallel, cross)


def attention(rng: np.random.Generator, kind: Kind) -> Attention:
    p = kind.width
    k = p // kind.heads * (kind.groups or kind.heads)
    biases = {f"b_{c}": drawn(rng, 1, w) for c, w in zip("QKVO", (p, k, k, D), strict=True)} if kind.biases else {}
    weights = drawn(rng, D, p), drawn(rng, D, k), drawn(rng, D, k), drawn(rng, p, D)
    return Attention(Heads(kind.heads, groups=kind.groups, **kind.core()), *weights, **biases)


def rms(rng: np.random.Generator) -> RMSNorm:
    return RMSNorm(rng.uniform(0.5, 2, D))


def layer_norm(rng: np.random.Generator) -> LayerNorm:
    return LayerNorm(rng.uniform(0.5, 2, D), drawn(rng, D))


def feature(
    name: str, kind: Kind, expected: Mapping[str, tuple[str, int]], claims: Sequence[str], says: str = ""
) -> Feature:
    return Feature(name, lambda rng: network(rng, kind), expected, tuple(claims), says)


GROUPED = {"Q": ("I", ONE), "K": ("S", ONE), "V": ("S", ONE)}
ROTATED = same("R", ONE)
IN_SCORES = ("lemma-position-schemes", "one-layer-free")

FEATURES = (
    feature("no skips, no norm", Kind((False, False)), same("I", ALL), ["skipless-elimination", "graef-table"]),
    feature("a skip around attention only, no norm", Kind((True, False)), same("I", ALL), ["attn-skip-elimination"]),
    feature("a skip around the MLP only, no norm", Kind((False, True)), same("I", ALL), ["mlp-skip-only-elimination"]),
    feature("both skips, no norm", Kind(), same("I", ONE), ["one-layer-free", "global-basis-only"]),
    feature(
        "parallel block with a skip, no norm", Kind((True, False), parallel=True), same("I", ONE), ["parallel-global"]
    ),
    feature(
        "the query matrix shared by all layers",
        Kind(shared=True),
        {"Q": ("I", ALL), "K": ("I", ONE), "V": ("I", ONE)},
        ["shared-wq-elimination", "only-wq-shared"],
    ),
    feature("one block looped", Kind(looped=True), same("I", ALL), ["shared-wq-elimination", "looped-block"]),
    feature("RMSNorm before each sublayer, both skips", Kind(norm=rms), ROTATED, ["gain-folding", "rms-triangular"]),
    feature(
        "RMSNorm before each sublayer, a skip around attention only",
        Kind((True, False), norm=rms),
        same("R", ALL),
        ["rms-triangular", "rms-spd", "rms-block-triangular"],
    ),
    feature(
        "LayerNorm before each sublayer, both skips",
        Kind(norm=layer_norm),
        ROTATED,
        ["layernorm-centring", "rms-triangular"],
    ),
    feature("tied embedding, both skips", Kind(tied=True), ROTATED, ["tied-readout-orthogonal"]),
    feature(
        "tied embedding, a skip around attention only",
        Kind((True, False), tied=True),
        same("I", ALL - 1),
        ["attn-skip-tied", "tied-readout-orthogonal"],
        "all layers but the first",
    ),
    feature(
        "tied embedding, RMSNorm with gains, both skips",
        Kind(tied=True, norm=rms),
        same("no", 0),
        ["tied-readout-orthogonal", "gain-folding"],
        "the last gain stands before the tied readout, and cannot go into it",
    ),
    feature(
        "tied embedding, RMSNorm without gains, both skips",
        Kind(tied=True, norm=lambda rng: RMSNorm()),
        ROTATED,
        ["tied-readout-orthogonal", "rms-triangular"],
    ),
    feature(
        "grouped keys and values (GQA)", Kind(groups=2), GROUPED, ["gqa-only-q", "column-selection", "gqa-kv-stop"]
    ),
    feature("one key head (MQA)", Kind(groups=1), GROUPED, ["gqa-only-q", "column-selection", "gqa-kv-stop"]),
    feature(
        "heads wider in all than the stream",
        Kind(width=2 * D),
        ROTATED,
        ["wide-query", "rms-triangular"],
        "or the identity, in a stream as wide as the heads",
    ),
    feature("heads narrower in all than the stream", Kind(width=D // 2), same("S", ONE), ["column-selection"]),
    feature(
        "one head",
        Kind(heads=1),
        {"Q": ("I", ALL), "K": ("I", ONE), "V": ("I", ALL)},
        ["single-head-merge"],
        "without a change of basis",
    ),
    feature("biases everywhere", Kind(biases=True), same("I", ONE), ["lemma-biases-qknorm", "one-layer-free"]),
    feature("RoPE", Kind(core=lambda: {"rotate": rope(VOCAB, D // HEADS)}), same("I", ONE), IN_SCORES),
    feature("ALiBi", Kind(core=lambda: {"bias": alibi(VOCAB, HEADS)}), same("I", ONE), IN_SCORES),
    feature(
        "relative position biases",
        Kind(core=lambda: {"bias": relative_bias(np.linspace(-1, 1, 2 * VOCAB - 1) ** 3, VOCAB)}),
        same("I", ONE),
        IN_SCORES,
    ),
    feature("learned absolute positions", Kind(positions=True), same("I", ONE), IN_SCORES, "the table changes too"),
    feature(
        "QK-norm",
        Kind(core=lambda: {"norm_q": rms_norm(), "norm_k": rms_norm()}),
        same("I", ONE),
        ["lemma-biases-qknorm", "one-layer-free"],
    ),
    feature("soft-capped scores", Kind(core=lambda: {"softcap": 1.5}), same("I", ONE), ["lemma-biases-qknorm"]),
    feature("causal mask", Kind(core=lambda: {"mask": causal(VOCAB)}), same("I", ONE), ["lemma-any-mask"]),
    feature(
        "sliding window", Kind(core=lambda: {"mask": sliding_window(VOCAB, 3)}), same("I", ONE), ["lemma-any-mask"]
    ),
    feature("gated MLP (SwiGLU)", Kind(gated=True), same("I", ONE), ["one-layer-free"], "both its inputs are reads"),
    feature(
        "RMSNorm, grouped keys, RoPE, SwiGLU, both skips",
        Kind(norm=rms, groups=2, gated=True, core=lambda: {"rotate": rope(VOCAB, D // HEADS), "mask": causal(VOCAB)}),
        ROTATED,
        ["rms-triangular", "gqa-kv-stop"],
        "as in Llama and Mistral",
    ),
    feature(
        "LayerNorm, biases, learned positions, tied, both skips",
        Kind(norm=layer_norm, biases=True, tied=True, positions=True, core=lambda: {"mask": causal(VOCAB)}),
        same("no", 0),
        ["tied-readout-orthogonal", "layernorm-centring"],
        "as in GPT-2; a readout of its own, a copy of the embedding, makes it triangular",
    ),
)


@dataclass(frozen=True)
class Remark:
    """A feature that no ``Network`` here can have: the claim that settles it, with its control if the answer is no."""

    name: str
    form: str
    claims: tuple[str, ...]
    says: str


REMARKS = (
    Remark("norm after the sublayer, with gains", "no", ("post-norm-gain",), "only signs and permutations are left"),
    Remark(
        "a skip gated by the input, coordinate by coordinate",
        "no",
        ("one-layer-free",),
        "a skip must carry the state on unchanged",
    ),
    Remark("cross-attention", "I", ("cross-attention-two-gauges",), "two bases, so two of its three matrices"),
    Remark("encoder and decoder", "I", ("encoder-decoder-two-bases",), "one layer in each half, no norm"),
    Remark(
        "multi-head latent attention",
        "no",
        ("mla-is-kv-on-latent",),
        "no square $W_Q$; the statements are about the latent",
    ),
    Remark("low precision", "I", ("conditioning",), "rounding grows with the condition number of what is inverted"),
    Remark("a singular query matrix", "no", ("singular-wq-counterexample",), "except with one head, or by a rotation"),
)


def measured(feature: Feature, which: str, seed: int = 0) -> list[Outcome]:
    """All constructions tried on the feature's network, the best first."""
    return verdict(feature.build(np.random.default_rng(seed)), np.eye(VOCAB), which)
