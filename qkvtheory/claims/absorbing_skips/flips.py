"""Flipped units: what they do for every activation with a linear odd part, and how rarely they absorb anything."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np

from qkvtheory import absorption
from qkvtheory.claims.absorbing_skips.common import (
    CHAPTER,
    LINEAR_ODD_PART,
    NUMBERS,
    PAPER,
    an_mlp,
    bare,
    column,
    mish,
    relu,
    split,
    tokens,
)
from qkvtheory.claims.model import AtMost, Claim, Control, Hypothesis, Pairs, Source, Statement, call
from qkvtheory.linalg import inverse
from qkvtheory.network import MLP

LAW = Hypothesis("H1", "a linear odd part", "$\\phi(z)-\\phi(-z)=cz$ for all $z$, with $c\\ne0$")


# -- sign-flip-identity ------------------------------------------------------------------------------------------------


def flipped(w: Any) -> Pairs:
    """In words a group of units; the others stay as they are."""
    x, mlp = tokens(w), an_mlp(w, split(w), biases=True)
    return [(call(absorption.flip(mlp, c=1), x, name="MLP"), mlp(x) - x @ mlp.W_up @ mlp.W_down)]


def further_flips(w: Any) -> Pairs:
    """Another c; no biases; one bias only; and in numbers some of the units, and c measured."""
    x, c = tokens(w), 1.5 if w.lane == "numeric" else Fraction(3, 2)
    mlp = an_mlp(w, split(w, c), biases=True)
    bare_ones = [replace(mlp, b_up=None), replace(mlp, b_down=None), replace(mlp, b_up=None, b_down=None)]
    pairs = [(absorption.flip(m, c=c)(x), m(x) - c * (x @ m.W_up @ m.W_down)) for m in (mlp, *bare_ones)]
    if w.lane in NUMBERS:
        acts = LINEAR_ODD_PART if w.lane == "numeric" else ((relu, 1), (split(w, c), c))
        pairs += [some_flipped(w, act, c, None) for act, c in acts]
        pairs += [planted(w, relu, 1)]
    return pairs


def some_flipped(w: Any, act: Any, c: Any, given: Any) -> tuple[Any, Any]:
    """Units 0, 2, 3 flipped."""
    x, mlp, S = tokens(w), an_mlp(w, act, biases=True), [0, 2, 3]
    return absorption.flip(mlp, S, given)(x), mlp(x) - c * (x @ mlp.W_up[:, S] @ mlp.W_down[S])


def planted(w: Any, act: Any, c: Any) -> tuple[Any, Any]:
    """M = - c W_up[:, S] W_down[S, :] is absorbed."""
    x, mlp, S = tokens(w), an_mlp(w, act, biases=True), [1, 2]
    M = -c * (mlp.W_up[:, S] @ mlp.W_down[S])
    return absorption.flip(mlp, S, c)(x), x @ M + mlp(x)


def other_activation(act: Any) -> Statement:
    return lambda w: [some_flipped(w, act, 1, 1)]


def unknown_activation(w: Any) -> Pairs:
    """Nothing is known of phi: tanh in floats, a square in exact numbers."""
    x, mlp = tokens(w), an_mlp(w, w.function("phi"), biases=True)
    return [(absorption.flip(mlp, c=1)(x), mlp(x) - x @ mlp.W_up @ mlp.W_down)]


def asked_tanh(w: Any) -> Pairs:
    mlp = an_mlp(w, np.tanh)
    return [(absorption.flip(mlp)(tokens(w)), mlp(tokens(w)))]


def bias_unrepaired(w: Any) -> Pairs:
    x, mlp = tokens(w), an_mlp(w, split(w), biases=True)
    new = replace(absorption.flip(mlp, c=1), b_down=mlp.b_down)
    return [(new(x), mlp(x) - x @ mlp.W_up @ mlp.W_down)]


SIGN_FLIP = Claim(
    id="sign-flip-identity",
    rank="remark",
    chapter=CHAPTER,
    title="A flipped unit differs by a linear map",
    statement=(
        "Let $\\phi(z)-\\phi(-z)=cz$ with $c\\ne0$: ReLU, GELU (exact or by tanh), SiLU and softplus with $c=1$, leaky ReLU of slope $a$ "
        "with $c=1+a$. Negating the input weights and biases of the units in a set $S$ changes the block by "
        "$-c\\,(x\\,W_{up}[:,S]W_{down}[S,:]+b_{up}[S]W_{down}[S,:])$. So if $c\\,W_{up}[:,S]W_{down}[S,:]=-M$, the flipped block with "
        "$b_{down}+c\\,b_{up}[S]W_{down}[S,:]$ computes $xM+B(x)$. The equation prints the units of $S$ as an MLP of their own, "
        "$\\phi_c$ for such an activation, and $c=1$."
    ),
    hypotheses=(LAW,),
    sources=(PAPER, Source("derived", note="biases, general M and c")),
    sides=flipped,
    also=further_flips,
    settings=bare,
    constructions=("flip",),
    controls=(
        Control("H1", "an activation of which nothing is known (tanh)", unknown_activation),
        Control("H1", "ReLU$^2$", other_activation(lambda z: relu(z) ** 2), lanes=NUMBERS),
        Control("H1", "Mish, which is close to having a linear odd part", other_activation(mish), lanes=("numeric",)),
        Control("H1", "asking for it with tanh", asked_tanh, lanes=("numeric",), refused=absorption.LAW),
        Control("construction", "the output bias not repaired", bias_unrepaired),
    ),
)


# -- almost-sure-failure -----------------------------------------------------------------------------------------------


def on_a_line(w: Any) -> Pairs:
    """F(t) = W_up t W_down + M on the line through W_down and 0: t F(1) - F(t) = (t - 1) M, so F vanishes once at most."""
    return [two_points(w, 2)]


def two_points(w: Any, t: int) -> tuple[Any, Any]:
    M, up, down = w.matrix("M", "d", "d"), w.matrix("W_up", "d", "hidden"), w.matrix("W_down", "hidden", "d")
    return t * (up @ down + M) - (up @ (t * down) + M), absorption.times(t - 1, M)


def searched(w: Any) -> Pairs:
    """Other points of the line; and sets of units searched for in drawn weights, where there are none."""
    pairs = [two_points(w, t) for t in (3, 5)]
    if w.lane == "exact":
        drawn = [small_mlp(w, str(i)) for i in range(10)]
        pairs.append((column(w, [absorbing(mlp, one(mlp)) for mlp in drawn] + [True]), column(w, [0] * 10 + [1])))
    if w.lane == "numeric":
        smallest = smallest_gaps()
        pairs += [AtMost(np.full_like(smallest, 0.01), smallest)]
    return pairs


def small_mlp(w: Any, label: str) -> MLP:
    """d = 2 and three ReLU units of whole numbers between -30 and 30."""
    rng, number = w.rng(f"small{label}"), w.identity("1")[0, 0]
    U, W = (number * rng.integers(-30, 31, shape) for shape in ((2, 3), (3, 2)))
    return MLP(relu, U, W)


def one(mlp: MLP) -> Any:
    return np.eye(mlp.W_up.shape[0], dtype=int) * (0 * mlp.W_up[0, 0] + 1)


def absorbing(mlp: MLP, M: Any) -> bool:
    return absorption.absorbing_set(mlp, M, 1) is not None


@cache
def smallest_gaps(draws: int = 20, d: int = 2, m: int = 8) -> np.ndarray:
    """For each draw of Gaussian weights (variance one over the number of inputs), the smallest
    max |W_up[:, S] W_down[S, :] + I| over all 2^m sets S.
    """
    rng, sets = np.random.default_rng(0), np.array([[k >> i & 1 for i in range(m)] for k in range(2**m)])
    smallest = []
    for _ in range(draws):
        U, W = rng.normal(size=(d, m)) / d**0.5, rng.normal(size=(m, d)) / m**0.5
        products = (U * sets[:, None, :]) @ W
        smallest.append(abs(products + np.eye(d)).max(axis=(1, 2)).min())
    return np.array(smallest)


def zero_map(w: Any) -> Pairs:
    """M = 0 is absorbed by flipping no unit."""
    mlp = small_mlp(w, "0")
    return [(column(w, [absorbing(mlp, 0 * one(mlp))]), column(w, [0]))]


def zero_map_on_a_line(w: Any) -> Pairs:
    """With M = 0 every point of the line through W_up W_down = 0 does."""
    M, up = w.matrix("M", "d", "d"), w.matrix("W_up", "d", "hidden")
    down = 0 * w.matrix("W_down", "hidden", "d")
    return [(up @ down, M)]


def planted_set(w: Any) -> Pairs:
    """Weights without a density: W_down chosen so that S = {0, 2} does it."""
    mlp = small_mlp(w, "0")
    S = [0, 2]
    down = 1 * mlp.W_down
    down[S] = -inverse(mlp.W_up[:, S])
    return [(column(w, [absorbing(replace(mlp, W_down=down), one(mlp))]), column(w, [0]))]


ALMOST_SURE = Claim(
    id="almost-sure-failure",
    rank="remark",
    chapter=CHAPTER,
    title="With random weights there is no such set of units",
    statement=(
        "For every fixed $M\\ne0$ and weights with a density, the probability that some set $S$ satisfies the condition is 0. For each "
        "of the $2^m$ sets put $F(t)=W_{up}[:,S]\\,tW_{down}[S,:]+M$; then $tF(1)-F(t)=(t-1)M\\ne0$, so on every line through "
        "$W_{down}=0$ the condition holds at one point at most. So for $d\\ge2$ MLPs of ReLU, GELU, SiLU or softplus "
        "with a skip and those without, of equal width, are disjoint classes but for exceptional weights."
    ),
    hypotheses=(
        Hypothesis("H1", "a map to absorb", "$M\\ne0$ is fixed"),
        Hypothesis("H2", "weights with a density", "the weights have a density, such as independent Gaussians"),
    ),
    sources=(
        PAPER,
        Source("reported", "karbevski2025kv", note="for ReLU, in an appendix"),
        Source("derived", note="this proof, line by line"),
    ),
    uses=("relu-absorption-iff",),
    sides=on_a_line,
    also=searched,
    settings=bare,
    controls=(
        Control("H1", "$M=0$, which flipping no unit absorbs", zero_map, lanes=NUMBERS),
        Control("H1", "$M=0$ taken for a map to absorb, at $W_{down}=0$", zero_map_on_a_line),
        Control("H2", "weights in which a set was planted", planted_set, lanes=NUMBERS),
    ),
)
