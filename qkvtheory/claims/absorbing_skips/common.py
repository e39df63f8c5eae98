"""What the claims about absorption share: activations with their laws, small MLPs, derivatives carried along."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from qkvtheory.activations import relu, silu
from qkvtheory.claims.model import Source
from qkvtheory.lanes.settings import Setting, plain_scores
from qkvtheory.network import MLP
from qkvtheory.words import Word

CHAPTER = "absorbing-skips"
OURS = Source("derived")
PAPER = Source("paper", "mijoski2026absorb")
NUMBERS = ("exact", "numeric")
PRIME = "^\\prime"  # the label of the weights of B'
BARE = ("multi-head attention", "one head")


def bare(s: Setting) -> bool:
    """No attention here, so only the width of a setting counts: two of them."""
    return plain_scores(s) and s.name in BARE


# -- activations -------------------------------------------------------------------------------------------------------


def gelu(z: Any) -> Any:
    """z Phi(z), with the normal distribution function Phi."""
    return z * (1 + np.vectorize(math.erf, otypes=[float])(z / math.sqrt(2))) / 2


def softplus(z: Any) -> Any:
    return np.logaddexp(z, 0)


def leaky_relu(z: Any, slope: float = 0.25) -> Any:
    return np.where(z > 0, z, slope * z)


def mish(z: Any) -> Any:
    return z * np.tanh(softplus(z))


LINEAR_ODD_PART: tuple[tuple[Callable[[Any], Any], float], ...] = (
    (relu, 1),
    (gelu, 1),
    (silu, 1),
    (softplus, 1),
    (leaky_relu, 1.25),
)


def split(w: Any, c: Any = 1, hypothesis: str = "H1") -> Callable[[Any], Any]:
    """An activation of which only phi(z) - phi(-z) = c z is known, because of ``hypothesis``.

    Words: an unknown function in which a sign is turned by the law. Exact numbers: an unknown even function and c z / 2.
    Floats: GELU times c.
    """
    if w.lane == "symbolic":
        phi = w.function("phi_c" if c == 1 else "phi")
        return (lambda z: turned(phi, z, c)) if w.holds(hypothesis, w.apply if c == 1 else w.assume) else phi
    if w.lane == "numeric":
        return lambda z: c * gelu(z)
    return lambda z: w.kernel(z) + w.kernel(-z) + z * (w.identity("1")[0, 0] * c / 2)


def turned(phi: Callable[[Any], Any], z: Any, c: Any) -> Any:
    """phi(-z) = phi(z) - c z, for one of z and -z."""
    return phi(-z) + c * z if isinstance(z, Word) and leading(z) < 0 else phi(z)


def leading(z: Word) -> Any:
    """The coefficient of the first term; 1 of zero."""
    terms = z.sorted_terms()
    return terms[0][1] if terms else 1


# -- MLPs --------------------------------------------------------------------------------------------------------------


def tokens(w: Any) -> Any:
    return w.matrix("X", "n", "d")


def an_mlp(w: Any, act: Any, biases: bool = False, label: str = "", hidden: str = "hidden") -> MLP:
    """Any weights, with biases if wanted."""
    W_up, W_down = w.matrix(f"W_up{label}", "d", hidden), w.matrix(f"W_down{label}", hidden, "d")
    if not biases:
        return MLP(act, W_up, W_down)
    return MLP(act, W_up, W_down, w.matrix(f"b_up{label}", "1", hidden), w.matrix(f"b_down{label}", "1", "d"))


def column(w: Any, numbers: Any) -> Any:
    """Whole numbers, or truth values, as a column of this world's numbers."""
    one = w.identity("1")[0, 0]
    return np.array([[one * int(x)] for x in numbers])


# -- derivatives carried along -----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Dual:
    """f(0 + t x) to first order in t > 0: what it is at t = 0, and its slope there."""

    value: Any
    slope: Any

    def __matmul__(self, weight: Any) -> Dual:
        return Dual(self.value @ weight, self.slope @ weight)

    def __add__(self, other: Any) -> Dual:
        if isinstance(other, Dual):
            return Dual(self.value + other.value, self.slope + other.slope)
        return Dual(self.value + other, self.slope)

    def __sub__(self, other: Dual) -> Dual:
        return Dual(self.value - other.value, self.slope - other.slope)


def slope_at_zero(f: Callable[[Any], Any], x: Any) -> Any:
    """The derivative of f at 0 in the direction x."""
    return f(Dual(0 * x, x)).slope
