"""What one skip adds, measured as a rank."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from qkvtheory import activations, gauge, redundancy
from qkvtheory.attention import Heads
from qkvtheory.claims.every_skip.bases import NOTE, sublayer
from qkvtheory.claims.every_skip.conjugation import CHAPTER, unbiased
from qkvtheory.claims.model import Claim, Control, Hypothesis, Pairs, Source
from qkvtheory.network import MLP, Attention, normed, past

D, VOCAB, HIDDEN, OUT = 3, 5, 7, 5  # width, inputs, neurons, outputs
INPUTS = 100  # rows: a rank on inputs is a lower bound, and ReLU neurons need some on both sides of their kink
Layer = tuple[Callable[..., Any], list[np.ndarray]]  # a sublayer as a function of its weights, and weights


def two_bases(w: Any) -> Pairs:
    """Without the skip the states before and after the sublayer have a basis each; with it they share one."""
    x, readout = w.matrix("X", "n", "d"), w.matrix("D", "d", "s")
    theta, phi = w.invertible("Theta", "d", "r-products"), w.invertible("Phi", "d", "r-products")
    f = sublayer(w, x, None, None)
    (one,), (other,) = (gauge.reads(gauge.inverse(basis), readout) for basis in (theta, phi))
    moved = sublayer(w, x @ theta, theta, theta)
    return [(sublayer(w, x @ theta, theta, phi) @ other, f @ readout), ((x @ theta + moved) @ one, (x + f) @ readout)]


def two_bases_with_skip(w: Any) -> Pairs:
    x, readout = w.matrix("X", "n", "d"), w.matrix("D", "d", "s")
    theta, phi = w.invertible("Theta", "d"), w.invertible("Phi", "d")
    (other,) = gauge.reads(gauge.inverse(phi), readout)
    return [((x @ theta + sublayer(w, x @ theta, theta, phi)) @ other, (x + sublayer(w, x, None, None)) @ readout)]


# -- one block between an embedding and a readout ----------------------------------------------------------------------


def drawn(*shapes: tuple[int, int]) -> list[np.ndarray]:
    """Weights at a generic point, of a size that keeps all states of order 1."""
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape) / np.sqrt(shape[0]) for shape in shapes]


def mlp_block(act: Callable[[Any], Any], wide: int = HIDDEN) -> Layer:
    """``wide``: neurons before the activation."""
    return lambda up, down: MLP(act, up, down), drawn((D, wide), (HIDDEN, D))


def attention_block() -> Layer:
    """Single-head attention; of the rows, four at a time are a sequence."""
    core = redundancy.Sequences(Heads(1, pattern=redundancy.analytic_softmax), 4)
    return lambda *weights: Attention(core, *weights), drawn(*[(D, D)] * 4)


BLOCKS: dict[str, Callable[[], Layer]] = {
    "tanh": lambda: mlp_block(np.tanh),
    "GELU (tanh form)": lambda: mlp_block(activations.gelu_tanh),
    "ReLU": lambda: mlp_block(activations.relu),
    "ReLU squared": lambda: mlp_block(activations.relu_squared),
    "ReGLU": lambda: mlp_block(activations.reglu, 2 * HIDDEN),
    "single-head attention": attention_block,
}


@cache
def dimension(name: str, skip: bool, norm: bool = False, ends: bool = True) -> int:
    """The functional dimension of X -> ([X +] f(X)) D on embedded inputs. ``ends``: are embedding and readout free?"""
    layer, weights = BLOCKS[name]()
    tokens = np.random.default_rng(1).normal(size=(INPUTS, VOCAB))
    embedding, readout = drawn((VOCAB, D), (D, OUT))
    root = redundancy.analytic_rms_norm if norm else None

    def run(E: Any, readout: Any, *parameters: Any) -> Any:
        x = tokens @ E
        return normed(root, past(skip, x, layer(*parameters)(normed(root, x)))) @ readout

    if not ends:
        return redundancy.functional_dimension(lambda *free: run(embedding, readout, *free), weights).rank
    return redundancy.functional_dimension(run, [embedding, readout, *weights]).rank


def gain(name: str, **options: bool) -> int:
    return dimension(name, True, **options) - dimension(name, False, **options)


def without_skip(name: str) -> int:
    """What is left without the skip, predicted: two products through a d-dimensional state, less one number for each
    ReLU neuron, whose size can move from one factor to the other; for attention the embedding and the readout.
    """
    if name == "single-head attention":
        return D * (VOCAB + OUT)
    inputs = 2 * HIDDEN if name == "ReGLU" else HIDDEN
    scales = {"tanh": 0, "GELU (tanh form)": 0, "ReGLU": 2}.get(name, 1) * HIDDEN
    return D * (VOCAB + inputs - D) + D * (HIDDEN + OUT - D) - scales


def gains(_: Any) -> Pairs:
    """d^2 for each block; and under RMSNorm at least the d (d - 1) / 2 numbers of a rotation."""
    pairs = [pair for name in BLOCKS for pair in ((without_skip(name), dimension(name, False)), (D * D, gain(name)))]
    rotation, under_norm = D * (D - 1) // 2, gain("tanh", norm=True)
    return [*pairs, (max(rotation, under_norm), under_norm)]


def parameter_count(_: Any) -> Pairs:
    _, weights = BLOCKS["tanh"]()
    return [(VOCAB * D + D * OUT + sum(weight.size for weight in weights), gain("tanh"))]


SKIP_GAIN = Claim(
    id="skip-gain-one-block",
    rank="remark",
    chapter=CHAPTER,
    title="What one skip adds",
    statement=(
        "Take one norm-free block between a free embedding and a free readout: an MLP with tanh, GELU, ReLU, ReLU$^2$ or ReGLU, or one "
        "attention sublayer, $d\\ge2$. The identity skip around it raises the functional dimension by exactly $d^2$: without it the states "
        "before and after have a basis each, with it they share one. Under RMSNorm it raises it by at least $\\frac{d(d-1)}2$. The lanes "
        "check the two bases, and the ranks at $d=3$; the proof is in the note. For deep networks it is a conjecture with known exceptions."
    ),
    hypotheses=(
        Hypothesis("H1", "one block without norm", "one sublayer, and no norm"),
        Hypothesis("H2", "free ends", "embedding and readout are free weights"),
    ),
    sources=(NOTE, Source("derived", note="the ranks; GELU in its tanh form, single-head attention")),
    uses=("r-products",),
    lanes=("symbolic", "exact", "numeric", "rank"),
    sides=two_bases,
    special={"rank": gains},
    settings=unbiased,
    constructions=("reads", "carried"),
    controls=(
        Control(
            "H1",
            "RMSNorm: a gain of $d^2$ predicted all the same",
            lambda _: [(D * D, gain("tanh", norm=True))],
            lanes=("rank",),
        ),
        Control(
            "H2",
            "embedding and readout held fixed: a gain of $d^2$ predicted all the same",
            lambda _: [(D * D, gain("tanh", ends=False))],
            lanes=("rank",),
        ),
        Control("construction", "a gain equal to the number of parameters", parameter_count, lanes=("rank",)),
        Control("construction", "a basis each, with the skip", two_bases_with_skip),
    ),
)
