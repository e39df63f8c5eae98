"""How many parameters of a whole network are redundant."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from qkvtheory import exact_rank, freedom, redundancy
from qkvtheory.claims.degrees_of_freedom.common import CHAPTER
from qkvtheory.claims.degrees_of_freedom.dimensions import (
    compared,
    measured,
    measured_at,
    network_rows,
    predicted,
    repeated,
)
from qkvtheory.claims.model import Claim, Control, Hypothesis, Pairs, Source
from qkvtheory.freedom import CASES, PUBLISHED, Architecture

SMALL, ATTENTION_SKIP = CASES["no norm, T2, L = 1"], CASES["no norm, TA, L = 1"]


@cache
def exact(a: Architecture) -> int:
    """Redundant parameters over a prime field, with rational functions in the place of softmax, GELU and norms."""
    return freedom.parameters(a) - exact_rank.exact_network_dimension(a)


def stand_ins() -> dict[str, Architecture]:
    """The cases that can be measured so: not biases, which the row pattern would see, and not eps 0, a root."""
    return {
        name: a
        for name, a in (CASES | PUBLISHED).items()
        if not a.biases and a.norm != "RMSNorm, eps 0" and freedom.parameters(a) < 300
    }


def exactly() -> Pairs:
    return [(predicted(a), exact(a)) for a in stand_ins().values()]


def bare_embeddings() -> Pairs:
    """Not under H5: a basis of d^2, with LayerNorm (d - 1)^2 dimensions before the first norm."""
    pairs = []
    for topology, norm, vocab, whole in (("T0", "RMSNorm", 7, 16), ("TM", "RMSNorm", 5, 16), ("T0", "LayerNorm", 5, 9)):
        a = Architecture(topology=topology, norm=norm, vocab=vocab, positions="none")
        pairs.append((predicted(a) + whole - freedom.stream_symmetries(norm, a.d), measured(a)))
    return pairs


def ranks(_: Any) -> Pairs:
    """In floats by a gap, and over a prime field without one."""
    return [*compared(network_rows(CASES | PUBLISHED)), *bare_embeddings(), *exactly()]


def counted(_: Any) -> Pairs:
    """The parameters of the arrays themselves; closed forms, and the published counts for any depth."""
    every = [*CASES.values(), *PUBLISHED.values()]
    sizes = [(size_of_arrays(a), freedom.parameters(a)) for a in every]
    return [*sizes, *closed_forms(), *published_counts()]


def size_of_arrays(a: Architecture) -> int:
    return sum(int(np.prod(shape)) for shape in redundancy.network_shapes(a).values())


def closed_forms() -> Pairs:
    """The whole redundancy with additive positions and MHA, written out for each topology and norm."""
    pairs = []
    for L, topology in ((L, topology) for L in (1, 2, 5) for topology in ("T0", "TA", "TM", "T2")):
        b = {"T0": 2 * L + 1, "TA": L + 1, "TM": L + 1, "T2": 1}[topology]
        for d, H, h, m, v, T in ((4, 2, 2, 5, 5, 4), (6, 3, 2, 7, 9, 8)):
            a = Architecture(d, H, h, None, L, m, v, v, T, topology)
            pairs += [
                (b * d * d + d + 2 * L * H * h * h, total(a)),
                (b * d * (d - 1) // 2 + d + 2 * L * H * h * h, total(replace(a, norm="RMSNorm"))),
                (
                    b * d * (d - 1) // 2 + d + 2 * L * H * h * h + d * (2 * L + 1),
                    total(replace(a, norm="RMSNorm", gains=True)),
                ),
                (
                    b * (d - 1) * (d - 2) // 2 + d - 1 + 2 * L * H * h * h + L * (4 * H * h + 2 * m) + 2 * v + T,
                    total(replace(a, norm="LayerNorm")),
                ),
            ]
    return pairs


def published_counts() -> Pairs:
    """Of the skips note, for N layers: with skips, and what every skip left out adds."""
    nano, normed = PUBLISHED["nanoGPT-like, no norm, T2"], PUBLISHED["nanoGPT-like, LayerNorm with gains, T2"]
    pairs = []
    for N in range(1, 13):
        pairs += [
            (32 * N + 72, total(replace(nano, layers=N))),
            (32 * N + 72 + 64 * 2 * N, total(replace(nano, layers=N, topology="T0"))),
            (144 * N + 60, total(replace(normed, layers=N))),
            (144 * N + 60 + 21 * 2 * N, total(replace(normed, layers=N, topology="T0"))),
        ]
    blocks = {"no norm, T0": 64, "no norm, T2": 16, "RMSNorm, T0": 24, "RMSNorm, T2": 6}
    tanh = {name: PUBLISHED[f"three tanh blocks, {name}"] for name in blocks}
    return [
        *pairs,
        *((240, freedom.parameters(a)) for a in tanh.values()),
        *((blocks[n], total(tanh[n])) for n in blocks),
    ]


def total(a: Architecture) -> int:
    return sum(freedom.redundancy(a).values())


# -- controls ----------------------------------------------------------------------------------------------------------


def mismatch(**shape: Any) -> Any:
    """The formulas against the measured rank of a network outside their hypotheses."""
    a = Architecture(**shape)
    return lambda _: [(predicted(a), measured(a))]


def without(part: str) -> Any:
    """A part forgotten."""
    return lambda _: [(predicted(SMALL) - freedom.parts(SMALL)[part], measured(SMALL))]


def equal_neurons(weights: dict[str, np.ndarray]) -> None:
    weights["W_up^0"][:, 1] = weights["W_up^0"][:, 0]


def at_equal_neurons(_: Any) -> Pairs:
    return [(predicted(SMALL), measured_at(redundancy.network_function(SMALL), equal_neurons))]


def on_few_sequences(_: Any) -> Pairs:
    point = repeated(redundancy.network_function(SMALL, sequences=4), 3)
    return [(predicted(SMALL), measured_at(point, lambda _: None))]


def one_basis(a: Architecture) -> int:
    """Predicted with one free basis, whatever the skips."""
    return predicted(a) - (freedom.free_bases(a) - 1) * freedom.stream_symmetries(a.norm, a.d)


NETWORKS = Claim(
    id="dim-network",
    rank="remark",
    chapter=CHAPTER,
    title="How many parameters of a network are redundant",
    statement=(
        "The redundancy of a network is a sum. *Stream*, for each free basis ($2L+1$ without skips, $L+1$ with one kind, $1$ with both): $d^2$; "
        "with RMSNorm $\\frac{d(d-1)}2$, and $1$ more for $\\varepsilon=0$; with LayerNorm $\\frac{(d-1)(d-2)}2$. *Positions* added to tokens: $d$, "
        "with LayerNorm $d-1$. *Heads*, per layer: as for a layer alone. *Gains*: $d$ for each of the $2L+1$ norms. *Invisible to LayerNorm*: "
        "$L((H+2g)d_h+m)+v'$ in reads, $L(Hd_h+m)+v+T$ in writes. *ReLU or SwiGLU*: $m$ per layer; the second input of a gated neuron is one more "
        "read. *Biases everywhere*, without norm: $2gd_h$ per layer, with $g$ key/value heads, without the keys' half under RoPE, and $(2L+1)d$. A tied readout, with "
        "both skips and no norm or RMSNorm, leaves $\\frac{d(d-1)}2$ of the stream and no translation; one $W_Q$ for all layers, with both "
        "skips and no norm, leaves one basis between queries and keys for all layers. (Measured as ranks, in floats by a gap and modulo a "
        "prime without one. Where the first norm, $\\varepsilon>0$, reads bare embeddings and no skip leads past it, the basis before it keeps $d^2$ "
        "dimensions, with LayerNorm $(d-1)^2$: the rows can take any basis of what the norm gives. That no further continuous symmetry exists is measured at small sizes, not proved.)"
    ),
    hypotheses=(
        Hypothesis(
            "H1", "generic weights", "the weights are generic; ReLU neurons are on for some inputs and off for others"
        ),
        Hypothesis(
            "H2",
            "as wide as the stream",
            "$m,v,v'\\ge d$; without a skip around attention the values of all heads are together at least as wide",
        ),
        Hypothesis("H3", "no wider than the stream", "$d_h\\le d$, with LayerNorm $d_h\\le d-1$"),
        Hypothesis(
            "H4",
            "enough tokens",
            "many more inputs than parameters; and without additive positions, or with a tied readout, $v>d$",
        ),
        Hypothesis(
            "H5",
            "tokens seen past the norm",
            "the first norm reads tokens and added positions, or a skip leads past it",
        ),
    ),
    sources=(
        Source(
            "paper", "karbevski2026skips", note="stacks with no skips and with every skip, and the published counts"
        ),
        Source(
            "derived", note="one kind of skip, RoPE, grouped heads, biases, ties, the parts of the constants, H3 to H5"
        ),
    ),
    uses=(
        "stream-gauge",
        "head-gauge",
        "rope-commutant",
        "gqa-gauge",
        "bias-gauge",
        "activation-gauge",
        "dim-per-layer",
    ),
    lanes=("count", "rank"),
    sides=counted,
    special={"count": counted, "rank": ranks},
    controls=(
        Control("H1", "two neurons with the same inputs", at_equal_neurons, lanes=("rank",)),
        Control(
            "H2", "an MLP of three neurons, $m<d$, and no skips", mismatch(hidden=3, topology="T0"), lanes=("rank",)
        ),
        Control("H2", "three outputs, $v'<d$", mismatch(outputs=3), lanes=("rank",)),
        Control("H2", "one head of width two and no skips", mismatch(heads=1, topology="T0"), lanes=("rank",)),
        Control(
            "H3",
            "one head of width $d$ on centered states",
            mismatch(heads=1, head_width=4, norm="LayerNorm"),
            lanes=("rank",),
        ),
        Control("H4", "four sequences", on_few_sequences, lanes=("rank",)),
        Control("H4", "as many tokens as $d$, and no positions", mismatch(vocab=4, positions="none"), lanes=("rank",)),
        Control(
            "H5",
            "RMSNorm on bare embeddings, with no skip past it",
            mismatch(norm="RMSNorm", topology="T0", positions="none"),
            lanes=("rank",),
        ),
        Control(
            "H5",
            "LayerNorm on bare embeddings under RoPE, a skip around the MLP only",
            mismatch(norm="LayerNorm", topology="TM", positions="RoPE"),
            lanes=("rank",),
        ),
        Control(
            "construction",
            "one free basis with a skip around attention only",
            lambda _: [(one_basis(ATTENTION_SKIP), measured(ATTENTION_SKIP))],
            lanes=("rank",),
        ),
        Control(
            "construction",
            "one free basis, counted",
            lambda _: [(one_basis(ATTENTION_SKIP), total(ATTENTION_SKIP))],
            lanes=("count",),
        ),
        Control(
            "construction",
            "the translation of tokens against positions forgotten",
            without("positions"),
            lanes=("rank",),
        ),
        Control("construction", "the bases of the heads forgotten", without("heads"), lanes=("rank",)),
        Control(
            "construction",
            "the norm forgotten: $d^2$ for a free basis under RMSNorm",
            lambda _: [(total(SMALL), measured(replace(SMALL, norm="RMSNorm")))],
            lanes=("rank",),
        ),
    ),
)
