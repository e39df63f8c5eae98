"""Scales of hidden units: the continuous freedom inside an MLP."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from qkvtheory import activations, gauge, redundancy
from qkvtheory.claims.degrees_of_freedom.common import CHAPTER, OURS
from qkvtheory.claims.model import Claim, Control, Hypothesis, Pairs, Statement, call
from qkvtheory.lanes.settings import Setting
from qkvtheory.network import MLP

Activation = Callable[[Any], Any]


def leaky(z: Any) -> Any:
    return np.where(z > 0, z, z / 8)


def squared(z: Any) -> Any:
    return activations.relu(z) ** 2


def gated(gate: Activation) -> Activation:
    """gate(a) b for z = [a | b]."""

    def act(z: Any) -> Any:
        a, b = z[:, : z.shape[1] // 2], z[:, z.shape[1] // 2 :]
        return gate(a) * b

    return act


def some_mlp(w: Any, act: Activation, double: bool = False, label: str = "") -> MLP:
    """With biases. ``double``: gate and value side by side in W_up."""
    up = [w.matrix(f"W_up{label}{half}", "d", "hidden") for half in range(1 + double)]
    b_up = [w.matrix(f"b_up{label}{half}", "1", "hidden") for half in range(1 + double)]
    rest = {"W_down": w.matrix("W_down" + label, "hidden", "d"), "b_down": w.matrix("b_down" + label, "1", "d")}
    return MLP(act, np.concatenate(up, axis=1), b_up=np.concatenate(b_up, axis=1), **rest)


def scales(w: Any) -> Any:
    """A positive number for each unit."""
    return 2 * w.identity("1")[0, 0] + np.arange(w.sizes["hidden"]) % 3


def rescaled(w: Any, act: Activation, double: bool = False, degree: int = 1) -> tuple[Any, Any]:
    mlp, x = some_mlp(w, act, double), w.matrix("X", "n", "d")
    return call(gauge.rescale_units(mlp, scales(w), degree), x, name="MLP"), call(mlp, x, name="MLP")


def units_rescaled(w: Any) -> Pairs:
    """ReLU, leaky ReLU and the square of ReLU; any gate, whose linear half is scaled."""
    gate = gated(np.tanh) if w.lane == "numeric" else gated(lambda a: a * a * a - a)
    return [
        rescaled(w, activations.relu),
        rescaled(w, leaky),
        rescaled(w, squared, degree=2),
        rescaled(w, gate, double=True),
    ]


def curved(w: Any) -> Activation:
    """An activation that is not homogeneous: GELU in floats, a polynomial elsewhere."""
    return activations.gelu_tanh if w.lane == "numeric" else lambda z: z * z * z + z


def negative(w: Any) -> Pairs:
    """What would be the construction, with the scale -2 for every unit."""
    mlp, x = some_mlp(w, activations.relu), w.matrix("X", "n", "d")
    new = MLP(activations.relu, -2 * mlp.W_up, mlp.W_down / -2, -2 * mlp.b_up, mlp.b_down)
    return [(new(x), mlp(x))]


def negative_refused(w: Any) -> Pairs:
    mlp = some_mlp(w, activations.relu)
    return [(gauge.rescale_units(mlp, -1 * scales(w)).W_up, mlp.W_up)]


def gate_scaled(w: Any) -> Pairs:
    """The gate's half of W_up in the place of the linear one."""
    mlp, x, c = some_mlp(w, gated(curved(w)), double=True), w.matrix("X", "n", "d"), scales(w)
    both = np.concatenate([c, 0 * c + 1])
    new = MLP(mlp.act, mlp.W_up * both, mlp.W_down / c[:, None], mlp.b_up * both, mlp.b_down)
    return [(new(x), mlp(x))]


D, UNITS, INPUTS = 2, 4, 60


@cache
def unit_redundancy(act: Activation, double: bool = False) -> int:
    """Numbers less dimension of an MLP, near random weights. For units with a kink both its sides need inputs."""
    rng = np.random.default_rng(1)
    weights = [rng.normal(size=(D, UNITS * (1 + double))), rng.normal(size=(UNITS, D))]
    x = rng.normal(size=(INPUTS, D))
    rank = redundancy.functional_dimension(lambda up, down: MLP(act, up, down)(x), weights).rank
    return sum(weight.size for weight in weights) - rank


def units_measured(_: Any) -> Pairs:
    scales_of = {
        (activations.relu, False): 1,
        (activations.relu_squared, False): 1,
        (activations.swiglu, True): 1,
        (activations.reglu, True): 2,
        (activations.gelu_tanh, False): 0,
        (activations.silu, False): 0,
        (np.tanh, False): 0,
    }
    return [(each * UNITS, unit_redundancy(act, double)) for (act, double), each in scales_of.items()]


def predicted(each: int, act: Activation, double: bool = False) -> Statement:
    return lambda _: [(each * UNITS, unit_redundancy(act, double))]


def two_settings(s: Setting) -> bool:
    return s.heads == s.kv_heads > 1 and not s.biases and set(s.features(s)) <= {"pattern", "scale"}


ACTIVATION_GAUGE = Claim(
    id="activation-gauge",
    rank="remark",
    chapter=CHAPTER,
    title="Scales of hidden units",
    statement=(
        "Where $\\phi(cz)=c^k\\phi(z)$ for $c>0$, as for ReLU and leaky ReLU ($k=1$) and ReLU$^2$ ($k=2$), every hidden unit has a scale: its column of $W_{up}$ (and "
        "its entry of $b_{up}$) times $c$, its row of $W_{down}$ over $c^k$. That is $m$ dimensions. In a gated MLP every unit has one between "
        "the linear half of $W_{up}$ and $W_{down}$, whatever the gate, and a second one if the gate is a ReLU. GELU, SiLU and tanh without a gate leave no continuous "
        "freedom; units may still trade places, and under an odd $\\phi$ change sign. (Measured as ranks of small MLPs.)"
    ),
    hypotheses=(
        Hypothesis(
            "H1",
            "homogeneous, or the linear half of a gate",
            "$\\phi(cz)=c^k\\phi(z)$, or the scaled half of $W_{up}$ is linear",
        ),
        Hypothesis("H2", "positive scales", "$c>0$ for every unit"),
    ),
    sources=(OURS,),
    lanes=("exact", "numeric", "rank"),
    sides=units_rescaled,
    special={"rank": units_measured},
    settings=two_settings,
    constructions=("rescale_units",),
    controls=(
        Control(
            "H1",
            "a unit of GELU (a cubic in exact numbers)",
            lambda w: [rescaled(w, curved(w))],
            lanes=("exact", "numeric"),
        ),
        Control("H1", "the half of the gate scaled, a gate of GELU", gate_scaled, lanes=("exact", "numeric")),
        Control(
            "H1", "GELU: $m$ dimensions predicted all the same", predicted(1, activations.gelu_tanh), lanes=("rank",)
        ),
        Control("H2", "a negative scale under ReLU", negative, lanes=("exact", "numeric")),
        Control("H2", "asking for a negative scale", negative_refused, lanes=("exact", "numeric"), refused="positive"),
        Control(
            "construction",
            "ReLU$^2$ with $W_{down}$ over $c$",
            lambda w: [rescaled(w, squared)],
            lanes=("exact", "numeric"),
        ),
        Control(
            "construction", "one scale counted for a ReLU gate", predicted(1, activations.reglu, True), lanes=("rank",)
        ),
    ),
)
