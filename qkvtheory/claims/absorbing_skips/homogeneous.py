"""MLPs without a linear part: homogeneous and gated ones absorb nothing, at any width and any depth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce
from operator import mul
from typing import Any

import numpy as np

from qkvtheory.claims.absorbing_skips.common import (
    CHAPTER,
    NUMBERS,
    PAPER,
    PRIME,
    Dual,
    an_mlp,
    bare,
    gelu,
    leading,
    relu,
    silu,
    slope_at_zero,
    tokens,
)
from qkvtheory.claims.model import AtMost, Claim, Control, Hypothesis, Pairs, Source, call
from qkvtheory.network import MLP, affine
from qkvtheory.words import Word


@dataclass(frozen=True, eq=False)
class Difference:
    """D(x) = x M + B(x) - B'(x): zero for all x if B' absorbs M."""

    M: Any
    old: Callable[[Any], Any]
    new: Callable[[Any], Any]

    def __call__(self, x: Any) -> Any:
        return x @ self.M + self.old(x) - self.new(x)


# -- homogeneous-no-absorption -----------------------------------------------------------------------------------------


def homogeneous(w: Any, k: int, hypothesis: str = "H1") -> Callable[[Any], Any]:
    """An activation with rho(t z) = t^k rho(z) for t > 0, because of ``hypothesis``: ReLU^k in numbers that have an
    order.
    """
    if w.lane == "symbolic":
        rho = w.function(f"rho_{k}")
        return (lambda z: scaled_out(rho, z, k)) if w.holds(hypothesis, w.apply) else rho
    return lambda z: to_power(cut(w, z), k)


def cut(w: Any, z: Any) -> Any:
    """ReLU where numbers have an order."""
    return z if w.lane == "re-evaluation" else relu(z)


def to_power(z: Any, k: int) -> Any:
    return reduce(mul, [z] * k)


def scaled_out(rho: Callable[[Any], Any], z: Any, k: int) -> Any:
    """t^k rho(z / t) for the positive t that leaves the first term of z with the coefficient 1 or -1."""
    if not isinstance(z, Word):
        return rho(z)
    t = Fraction(abs(leading(z)))
    return t**k * rho(1 / t * z)


def a_difference(w: Any, act: Any, biases: bool = False) -> Difference:
    """Two MLPs of one kind, the second one of another width, and a map M."""
    return Difference(w.matrix("M", "d", "d"), an_mlp(w, act, biases), an_mlp(w, act, biases, PRIME, "wide"))


def scaled(w: Any, D: Callable[[Any], Any], M: Any, t: int, k: int) -> tuple[Any, Any]:
    """D(t x) - t^k D(x) against (t - t^k) x M."""
    x = tokens(w)
    return D(t * x) - t**k * D(x), (t - t**k) * (x @ M)


def two_radii(w: Any) -> Pairs:
    D = a_difference(w, homogeneous(w, 2))
    return [scaled(w, D, D.M, 2, 2)]


def further_degrees(w: Any) -> Pairs:
    """Other radii and degrees; in numbers ReGLU; in floats what is left after the best fit of 300 wide units."""
    pairs = []
    for t, k in ((3, 2), (2, 3)):
        D = a_difference(w, homogeneous(w, k))
        pairs.append(scaled(w, D, D.M, t, k))
    if w.lane in NUMBERS:
        D = gated_difference(w, relu)
        pairs.append(scaled(w, D, D.M, 2, 2))
    return [*pairs, *(best_fit(w, 2) if w.lane == "numeric" else [])]


def best_fit(w: Any, power: int) -> Pairs:
    """B' of width 300 with random input weights and the best W_down, on tokens x and 2 x: 4 |D(x)| + |D(2 x)| is still
    2 |x M|.
    """
    x, M, act = tokens(w), w.matrix("M", "d", "d"), lambda z: relu(z) ** power
    both, up = np.concatenate([x, 2 * x]), w.rng("wide").normal(size=(x.shape[1], 300))
    old = an_mlp(w, act)
    down = np.linalg.lstsq(act(both @ up), both @ M + old(both), rcond=None)[0]
    D = Difference(M, old, MLP(act, up, down))
    return [AtMost(2 * abs(x @ M), abs(D(2 * x)) + 4 * abs(D(x)))]


def degree_one(w: Any) -> Pairs:
    """ReLU, as if its degree were 2."""
    D = a_difference(w, homogeneous(w, 1))
    return [scaled(w, D, D.M, 2, 2)]


def with_biases(w: Any) -> Pairs:
    D = a_difference(w, homogeneous(w, 2), biases=True)
    return [scaled(w, D, D.M, 2, 2)]


def four_units(w: Any) -> Pairs:
    """rho(z + b) + rho(-z - b) - rho(z - b) - rho(-z + b) = 4 b z for ReLU squared: with biases x M can be added."""
    one, x, M = w.identity("d"), tokens(w), w.matrix("M", "d", "d")
    b = w.ones("d").T * one[0, 0]
    up, bias = np.concatenate([one, -one, one, -one], axis=1), np.concatenate([b, -b, -b, b], axis=1)
    down = np.concatenate([M, M, -M, -M]) / (4 * one[0, 0])
    return [(MLP(lambda z: relu(z) ** 2, up, down, bias)(x), x @ M)]


HOMOGENEOUS = Claim(
    id="homogeneous-no-absorption",
    rank="remark",
    chapter=CHAPTER,
    title="Squared ReLU and ReGLU absorb nothing",
    statement=(
        "If $B(tx)=t^kB(x)$ for all $t>0$ and all blocks of the kind, with $k>0$ and $k\\ne1$, no $M\\ne0$ is absorbable, at any width. "
        "Put $D(x)=xM+B(x)-B'(x)$; then $D(tx)-t^kD(x)=(t-t^k)\\,xM$, so $D$ cannot vanish at both $x$ and $tx$ unless $xM=0$. ReLU$^2$ "
        "and ReGLU without biases have $k=2$. The equation is for $t=k=2$, and $\\rho_2$ is any activation of degree 2."
    ),
    hypotheses=(
        Hypothesis(
            "H1",
            "homogeneous, not of degree one",
            "$B(tx)=t^kB(x)$ for $t>0$ and every block of the kind, $k>0$, $k\\ne1$; so no biases",
        ),
    ),
    sources=(PAPER, Source("derived", note="the four units that do it once there are biases")),
    sides=two_radii,
    also=further_degrees,
    settings=bare,
    controls=(
        Control("H1", "ReLU, of degree $k=1$, taken for degree 2", degree_one),
        Control("H1", "ReLU, fitted at two radii as ReLU$^2$ was", lambda w: best_fit(w, 1), lanes=("numeric",)),
        Control("H1", "ReLU$^2$ with biases", with_biases),
        Control(
            "H1",
            "ReLU$^2$ with biases: four spare units for each direction compute any $xM$",
            lanes=NUMBERS,
            witness=four_units,
        ),
    ),
)


# -- gated-no-absorption -----------------------------------------------------------------------------------------------


Join = Callable[[Any, Any], Any]


def join(w: Any) -> Join:
    """The product entry by entry; in words an unknown function, of which only 0 o b = a o 0 = 0 is used."""
    if w.lane != "symbolic":
        return lambda a, b: a * b
    prod = w.function("prod")
    return lambda a, b: a if vanishes(a) else b if vanishes(b) else prod(a, b)


def vanishes(z: Any) -> bool:
    return isinstance(z, Word) and not z.terms


@dataclass(frozen=True, eq=False)
class Smooth:
    """An entrywise function that knows its derivative."""

    value: Callable[[Any], Any]
    derivative: Callable[[Any], Any]
    times: Join

    def __call__(self, z: Any) -> Any:
        if isinstance(z, Dual):
            return Dual(self.value(z.value), self.times(self.derivative(z.value), z.slope))
        return self.value(z)


@dataclass(frozen=True, eq=False)
class Gated:
    """B(x) = (sigma(x W_g + b_g) o x W_u) W_d."""

    sigma: Any
    times: Join
    W_g: Any
    W_u: Any
    W_d: Any
    b_g: Any = None

    def __call__(self, x: Any) -> Any:
        gate, up = self.sigma(affine(x, self.W_g, self.b_g)), x @ self.W_u
        if isinstance(x, Dual):
            return Dual(self.times(gate.value, up.value), self.product_rule(gate, up)) @ self.W_d
        return self.times(gate, up) @ self.W_d

    def product_rule(self, a: Dual, b: Dual) -> Any:
        return self.times(a.slope, b.value) + self.times(a.value, b.slope)


@dataclass(frozen=True, eq=False)
class AtZero:
    """The derivative at 0 of a function, in the direction x."""

    function: Any

    def __call__(self, x: Any) -> Any:
        return slope_at_zero(self.function, x)


def gate(w: Any, hypothesis: str = "H1") -> Smooth:
    """sigma with sigma(0) = 0 because of ``hypothesis``: SiLU in floats."""
    if w.lane == "numeric":
        return Smooth(silu, lambda z: (1 + z * (1 - sigmoid(z))) * sigmoid(z), join(w))
    if w.lane != "symbolic":
        return Smooth(lambda z: z + z * z * z, lambda z: 1 + 3 * z * z, join(w))
    sigma, slope = w.function("sigma"), w.function("sigma'")
    at_zero = w.holds(hypothesis, w.assume)
    return Smooth(lambda z: z if at_zero and vanishes(z) else sigma(z), slope, join(w))


def sigmoid(z: Any) -> Any:
    return 1 / (1 + np.exp(-z))


def a_gated(w: Any, sigma: Any, label: str = "", hidden: str = "hidden", bias: bool = False) -> Gated:
    W_g, W_u = w.matrix(f"W_g{label}", "d", hidden), w.matrix(f"W_u{label}", "d", hidden)
    b_g = w.matrix(f"b_g{label}", "1", hidden) if bias else None
    return Gated(sigma, join(w), W_g, W_u, w.matrix(f"W_d{label}", hidden, "d"), b_g)


def gated_difference(w: Any, sigma: Any, bias: bool = False) -> Difference:
    new = a_gated(w, sigma, PRIME, "wide", bias)
    return Difference(w.matrix("M", "d", "d"), a_gated(w, sigma, bias=bias), new)


def derivative(w: Any) -> Pairs:
    D, x = gated_difference(w, gate(w)), tokens(w)
    return [(call(AtZero(D), x, name="dD"), x @ D.M)]


def tiny_input(w: Any) -> Pairs:
    """In floats without derivatives: D(h x) / h at h = 1e-30, for SiLU, GELU and ReLU gates."""
    if w.lane != "numeric":
        return []
    x, h = tokens(w), 1e-30
    differences = [gated_difference(w, sigma) for sigma in (silu, gelu, relu)]
    return [(D(h * x) / h, x @ D.M) for D in differences]


def gate_bias(w: Any) -> Pairs:
    D, x = gated_difference(w, gate(w), bias=True), tokens(w)
    return [(AtZero(D)(x), x @ D.M)]


def gate_not_zero(w: Any) -> Pairs:
    """sigma(0) != 0: an unknown sigma, the logistic function in floats."""
    if w.lane == "symbolic":
        sigma = gate(type(w)(assume=()))
    elif w.lane == "numeric":
        sigma = Smooth(sigmoid, lambda z: sigmoid(z) * sigmoid(-z), join(w))
    else:
        sigma = Smooth(lambda z: 1 + z, lambda z: 1 + 0 * z, join(w))
    D, x = gated_difference(w, sigma), tokens(w)
    return [(AtZero(D)(x), x @ D.M)]


def linear_branch(w: Any) -> Pairs:
    """d more units with W_g = 0 and a gate bias c: (sigma(c) o x) M / sigma(c) = x M, an exact linear branch."""
    x, M, one = tokens(w), w.matrix("M", "d", "d"), w.identity("d")
    sigma = gate(w)
    c = w.ones("d").T * one[0, 0]
    branch = Gated(sigma, join(w), 0 * one, one, M / sigma(c)[0, 0], c)
    old = a_gated(w, sigma)
    wider = Gated(
        sigma,
        join(w),
        np.concatenate([old.W_g, branch.W_g], axis=1),
        np.concatenate([old.W_u, branch.W_u], axis=1),
        np.concatenate([old.W_d, branch.W_d]),
        np.concatenate([0 * old.W_g[:1], c], axis=1),
    )
    return [(wider(x), x @ M + old(x))]


GATED = Claim(
    id="gated-no-absorption",
    rank="remark",
    chapter=CHAPTER,
    title="SwiGLU and GeGLU absorb nothing",
    statement=(
        "Let $B(x)=(\\sigma(xW_g)\\odot xW_u)W_d$ with $\\sigma$ differentiable at 0 and $\\sigma(0)=0$, and no biases. Then no $M\\ne0$ is "
        "absorbable, at any width. The derivative of $D(x)=xM+B(x)-B'(x)$ at 0 is $M$, whatever $B$ and $B'$ are (the equation "
        "writes it $\\mathrm{dD}$, in the direction $X$), so $D$ does not vanish near 0."
    ),
    hypotheses=(
        Hypothesis(
            "H1",
            "gated, no biases",
            "$B(x)=(\\sigma(xW_g)\\odot xW_u)W_d$ with $\\sigma$ differentiable at 0 and $\\sigma(0)=0$",
        ),
    ),
    sources=(PAPER, Source("derived", note="the linear branch that a gate bias opens")),
    sides=derivative,
    also=tiny_input,
    settings=bare,
    controls=(
        Control("H1", "a bias in the gate", gate_bias),
        Control("H1", "a gate with $\\sigma(0)\\ne0$, such as the logistic function", gate_not_zero),
        Control(
            "H1",
            "a bias in the gate: $d$ more units compute any $xM$ beside $B(x)$",
            lanes=NUMBERS,
            witness=linear_branch,
        ),
    ),
)


# -- deep-no-absorption ------------------------------------------------------------------------------------------------


def power(w: Any, k: int, hypothesis: str = "H1") -> Smooth:
    """rho(t z) = t^k rho(z) with k > 1, because of ``hypothesis``: zero at zero, and so is its slope."""
    if w.lane != "symbolic":
        return Smooth(lambda z: to_power(cut(w, z), k), lambda z: k * to_power(cut(w, z), k - 1), join(w))
    rho, slope = w.function("rho"), w.function("rho'")
    flat = w.holds(hypothesis, w.assume)

    def at_zero(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return lambda z: z if flat and vanishes(z) else f(z)

    return Smooth(at_zero(rho), at_zero(slope), join(w))


def kinds(w: Any) -> tuple[Callable[[str, str], Any], ...]:
    """Makers of one block: gated, and homogeneous of degree 2."""
    return (
        lambda label, hidden: a_gated(w, gate(w), label, hidden),
        lambda label, hidden: an_mlp(w, power(w, 2), label=label, hidden=hidden),
    )


@dataclass(frozen=True, eq=False)
class Stacks:
    """A stack of residual blocks minus a stack of blocks without skips."""

    residual: Sequence[Any]
    skipless: Sequence[Any]

    def __call__(self, x: Any) -> Any:
        y = z = x
        for block in self.residual:
            y = y + block(y)
        for block in self.skipless:
            z = block(z)
        return y - z


def stacks_of(w: Any, make: Callable[[str, str], Any], depth: int) -> Any:
    labels = [f"^{i}" for i in range(1, depth + 1)]
    old, new = [make(label, "hidden") for label in labels], [make(f"{label}'", "wide") for label in labels]
    return call(AtZero(Stacks(old, new)), tokens(w), name="dD")


def two_layers(w: Any) -> Pairs:
    return [(stacks_of(w, make, 2), tokens(w)) for make in kinds(w)]


def one_and_three_layers(w: Any) -> Pairs:
    return [(stacks_of(w, make, depth), tokens(w)) for depth in (1, 3) for make in kinds(w)]


def relu_layers(w: Any) -> Pairs:
    """ReLU: to first order phi(t z) = t phi(z), which does not vanish."""
    phi = relu if w.lane in NUMBERS else w.function("phi")

    def act(z: Any) -> Any:
        return Dual(z.value, phi(z.slope))

    def make(label: str, hidden: str) -> Any:
        return an_mlp(w, act, label=label, hidden=hidden)

    return [(stacks_of(w, make, 2), tokens(w))]


def biased_gates(w: Any) -> Pairs:
    def make(label: str, hidden: str) -> Any:
        return a_gated(w, gate(w), label, hidden, bias=True)

    return [(stacks_of(w, make, 2), tokens(w))]


DEEP = Claim(
    id="deep-no-absorption",
    rank="remark",
    chapter=CHAPTER,
    title="More layers do not help them",
    statement=(
        "For homogeneous blocks of degree $k>1$ or gated blocks, both without biases, no composition of $L$ residual blocks "
        "$x\\mapsto x+B_l(x)$ equals a composition of $L$ blocks $B'_l$ without skips. At 0 the derivative of the first is the identity, "
        "of the second it is 0: each block is $o(\\|x\\|)$. The equations print the derivative of their difference, in the direction "
        "$X$, for two layers of each kind; one layer is the step of the induction. For ReLU and GELU stacks the question is open."
    ),
    hypotheses=(
        Hypothesis(
            "H1",
            "no linear part",
            "all blocks are homogeneous of one degree $k>1$, or all are gated with $\\sigma(0)=0$ and no biases",
        ),
    ),
    sources=(PAPER, Source("derived", note="this proof, by derivatives at 0")),
    uses=("homogeneous-no-absorption", "gated-no-absorption"),
    sides=two_layers,
    also=one_and_three_layers,
    settings=bare,
    controls=(
        Control("H1", "ReLU, whose blocks have a part of first order", relu_layers),
        Control("H1", "gates with biases", biased_gates),
    ),
)
