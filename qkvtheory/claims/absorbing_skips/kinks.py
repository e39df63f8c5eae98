"""When an MLP of the same width absorbs a map: read off from where the function has its kinks.

A ReLU block is linear on each side of the hyperplanes x u_i = 0, and its derivative jumps by u_i w_i there. ``Kinks``
reads these jumps from values of the function alone. A block of the same width with the same jumps has its units on the
same hyperplanes, so up to the sizes of the units it is one of 2^m: each of them turned one way or the other. Every one
is compared with the function. Over fractions this decides exactly whether an absorbing block exists, and knows nothing
of the sets S.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache, cached_property
from typing import Any

import numpy as np

from qkvtheory import absorption
from qkvtheory.claims.absorbing_skips.common import (
    CHAPTER,
    NUMBERS,
    OURS,
    an_mlp,
    column,
    gelu,
    leading,
    relu,
    silu,
    softplus,
    split,
    tokens,
)
from qkvtheory.claims.absorbing_skips.flips import SIGN_FLIP, absorbing, one
from qkvtheory.claims.model import AtMost, Claim, Control, Hypothesis, Pairs, Source
from qkvtheory.lanes.settings import Setting
from qkvtheory.linalg import identity, inverse
from qkvtheory.network import MLP
from qkvtheory.words import Word

CLOSE = 1e-9  # floats: a smaller relative difference between two functions is rounding
FAR = 2.0**60  # how far out an activation is looked at to see the ReLU in it
Function = Callable[[Any], Any]


# -- reading a piecewise linear function -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kinks:
    """A function that is linear between the hyperplanes x u_i = 0, known by its values. ``U``: the columns u_i."""

    f: Function
    U: Any

    def derivative(self, q: Any) -> Any:
        """J with f(x) = x J near q, from d points on the same side of every hyperplane."""
        d = len(self.U)
        reach = abs(q @ self.U).min() / (2 * abs(self.U).max())
        points = q + reach * identity(d, self.U)
        if len(absorption.pivots(points)) < d:
            points = q - reach * identity(d, self.U)
        return inverse(points) @ self.f(points)

    def jump(self, i: int) -> Any:
        """How far the derivative jumps where x u_i turns positive."""
        u, others = self.U[:, i], np.delete(self.U, i, axis=1)
        point = self.on(i)
        step = 1 * (u @ u) / (u @ u)
        if others.size:
            step = abs(point @ others).min() / (2 * abs(u @ others).max() + abs(u @ u))
        return self.derivative(point + step * u) - self.derivative(point - step * u)

    def on(self, i: int) -> Any:
        """A point on hyperplane i and on no other."""
        u, rng = self.U[:, i], np.random.default_rng(i)
        for _ in range(100):
            r = rng.integers(-9, 10, len(u))
            point = r - (r @ u) / (u @ u) * u
            if len(u) == 1 or abs(point @ np.delete(self.U, i, axis=1)).min() > abs(u).max() / 100:
                return point
        raise ValueError("two hyperplanes coincide: units are collinear")

    @cached_property
    def writes(self) -> Any:
        """The rows w_i: the jumps are u_i w_i."""
        return np.array([self.U[:, i] @ self.jump(i) / (self.U[:, i] @ self.U[:, i]) for i in range(self.U.shape[1])])

    @cached_property
    def left_over(self) -> dict[tuple[int, ...], Any]:
        """For each set of units turned around, the linear map L that is missing: f(x) = B'(x) + x L."""
        found, d, rng = {}, len(self.U), np.random.default_rng(5)
        points = rng.integers(-9, 10, (d, d)) + 20 * identity(d, self.U)
        points = np.concatenate([points, rng.integers(-30, 31, (2 * d, d))])
        back = inverse(points[:d])
        for turned in itertools.product((False, True), repeat=self.U.shape[1]):
            candidate = MLP(relu, np.where(turned, -self.U, self.U), self.writes)
            gap = self.f(points) - candidate(points)
            L = back @ gap[:d]
            if not negligible(gap - points @ L, gap):
                raise ValueError("the function has kinks elsewhere, or other ones")
            found[tuple(np.flatnonzero(turned).tolist())] = L
        return found

    def absorbed(self) -> bool:
        """Does a block of this width compute the function?"""
        return any(negligible(gap, self.writes) for gap in self.left_over.values())

    def absorbed_with_one_more(self) -> bool:
        """And of one unit more? It must share a hyperplane; there x u_i v comes free with it, for any v."""
        return any(
            negligible(gap - np.outer(u, u @ gap) / (u @ u), self.writes)
            for gap in self.left_over.values()
            for u in self.U.T
        )


def negligible(gap: Any, scale: Any) -> bool:
    return bool(abs(gap).max() <= (0 if gap.dtype == object else CLOSE * (1 + abs(scale).max())))


def beside(mlp: MLP, M: Any) -> Function:
    """x M + B(x)"""
    return lambda x: x @ M + mlp(x)


# -- instances ---------------------------------------------------------------------------------------------------------


def drawn(lane: str, label: str, d: int, m: int) -> MLP:
    """A non-degenerate ReLU block of small whole numbers."""
    rng = np.random.default_rng(zlib.crc32(label.encode()))
    number: Any = 1.0 if lane == "numeric" else Fraction(1)
    while True:
        U, W = rng.integers(-9, 10, (d, m)), rng.integers(-9, 10, (m, d))
        collinear = (np.linalg.matrix_rank(U[:, pair]) < 2 for pair in itertools.combinations(range(m), 2))
        if (W != 0).any(axis=1).all() and not any(collinear):
            return MLP(relu, number * U, number * W)


def planted(mlp: MLP, S: list[int]) -> Any:
    """The M that turning the units in S absorbs."""
    return -(mlp.W_up[:, S] @ mlp.W_down[S])


def planted_identity(mlp: MLP) -> MLP:
    """W_down changed so that turning the first d units absorbs I."""
    d = len(mlp.W_up)
    down = 1 * mlp.W_down
    down[:d] = -inverse(mlp.W_up[:, :d])
    return replace(mlp, W_down=down)


@cache
def instances(lane: str) -> list[tuple[MLP, Any, bool]]:
    """(B, M, is it absorbable?): planted sets, a planted identity, and maps that have nothing to do with B."""
    d, m = (2, 3) if lane == "exact" else (3, 5)
    blocks = [drawn(lane, str(i), d, m) for i in range(4)]
    sets = ([0, 2], [0, 1, 2], [1], [0, 1])
    cases = [(mlp, planted(mlp, S), True) for mlp, S in zip(blocks, sets, strict=True)]
    regular = next(mlp for mlp in blocks if len(absorption.pivots(mlp.W_up[:, :d])) == d)
    cases.append((planted_identity(regular), one(regular), True))
    cases += [(mlp, M, False) for mlp in blocks[:3] for M in (one(mlp), planted(mlp, [0, 2]) + one(mlp))]
    cases += [(mlp, -planted(mlp, [0, 2]), False) for mlp in blocks[:1]]
    return cases


def decided(w: Any, act: Any = relu, reach: float = 0) -> Pairs:
    """The verdict read off the kinks, against the search for S, and against how the instance was made."""
    cases, verdicts = instances(w.lane), column(w, verdicts_of(w.lane, act, reach))
    return [
        (verdicts, column(w, [absorbing(replace(mlp, act=act), M) for mlp, M, _ in cases])),
        (verdicts, column(w, [known for *_, known in cases])),
    ]


@cache
def verdicts_of(lane: str, act: Any, reach: float) -> list[bool]:
    return [read(replace(mlp, act=act), M, reach).absorbed() for mlp, M, _ in instances(lane)]


def read(mlp: MLP, M: Any, reach: float = 0) -> Kinks:
    """The kinks of x M + B(x); with ``reach`` those of its limit along rays."""
    f = beside(mlp, M)
    return Kinks((lambda x: f(reach * x) / reach) if reach else f, mlp.W_up)


def constructed(w: Any) -> Pairs:
    """Where S exists, flipping it does it; and the set that the kinks show has the size that a rank demands."""
    pairs, sizes, ranks = [], [], []
    for mlp, M, known in instances(w.lane):
        if known:
            S = absorption.absorbing_set(mlp, M, 1) or ()
            x = np.random.default_rng(7).integers(-9, 10, (4, len(M)))
            pairs.append((absorption.flip(mlp, S, 1)(x), beside(mlp, M)(x)))
            sizes.append(len(S))
            ranks.append(len(absorption.pivots(M)))
    mlp, M, _ = instances(w.lane)[0]
    kinks = read(mlp, M)
    jumps = [(kinks.jump(i), np.outer(mlp.W_up[:, i], mlp.W_down[i])) for i in range(mlp.W_up.shape[1])]
    return [*pairs, AtMost(column(w, ranks), column(w, sizes)), *(jumps if w.lane == "exact" else [])]


# -- relu-absorption-iff -----------------------------------------------------------------------------------------------


def relu_in(w: Any, hypothesis: str = "H2") -> Any:
    """Words: phi(t z) = t phi(z) for t > 0 and phi(z) - phi(-z) = z, because of ``hypothesis``. Numbers without an
    order: z / 2, which has both laws.
    """
    if w.lane == "symbolic":
        phi = w.function("phi_+")
        return (lambda z: ray(phi, z)) if w.holds(hypothesis, w.apply) else phi
    return relu if w.lane in NUMBERS else (lambda z: z / 2)


def ray(phi: Function, z: Any) -> Any:
    if not isinstance(z, Word):
        return phi(z)
    t = Fraction(leading(z))
    return abs(t) * phi(1 / t * z) + (z if t < 0 else 0 * z)


def resized(w: Any) -> Pairs:
    """Units of another size, those of S turned: u' = -3 u and w' = w / 3, the others u' = 2 u and w' = w / 2."""
    x, phi = tokens(w), relu_in(w)
    inside, rest = an_mlp(w, phi, label="^S"), an_mlp(w, phi, label="^R", hidden="wide")
    third, half = (Fraction(1, k) if w.lane != "numeric" else 1 / k for k in (3, 2))
    turned = MLP(phi, -3 * inside.W_up, third * inside.W_down)
    longer = MLP(phi, 2 * rest.W_up, half * rest.W_down)
    return [(turned(x) + longer(x), inside(x) + rest(x) - x @ inside.W_up @ inside.W_down)]


def both_directions(w: Any) -> Pairs:
    return [*resized(w), *constructed(w), *decided(w)]


def turned_group(w: Any) -> Pairs:
    """The units of S as an MLP, and M = - W_up W_down."""
    x, mlp = tokens(w), an_mlp(w, relu_in(w))
    return [(absorption.flip(mlp, c=1)(x), x @ -(mlp.W_up @ mlp.W_down) + mlp(x))]


def verdict(w: Any, exists: bool, S: bool) -> Pairs:
    """Does an absorbing block exist, and does a set S?"""
    return [(column(w, [exists]), column(w, [S]))]


def collinear_pairs(w: Any) -> tuple[MLP, Any]:
    """Units in pairs (u, -u), 2 d of them, for d = 2."""
    first = drawn(w.lane, "pairs", 2, 2)
    down = drawn(w.lane, "pairs down", 2, 4).W_down
    return MLP(relu, np.concatenate([first.W_up, -first.W_up], axis=1), down), one(first)


def collinear_absorb(w: Any, act: Any = relu) -> Pairs:
    """W_down + [s; -s] with s = U^-1 M absorbs M."""
    mlp, M = collinear_pairs(w)
    s = inverse(mlp.W_up[:, :2]) @ M
    new = MLP(act, mlp.W_up, mlp.W_down + np.concatenate([s, -s]))
    return [(new(points(2)), beside(replace(mlp, act=act), M)(points(2)))]


def points(d: int) -> Any:
    return np.random.default_rng(3).integers(-9, 10, (6, d))


def no_set(w: Any, mlp: MLP, M: Any) -> Pairs:
    """Absorbable, says the witness; so a set S should exist."""
    return verdict(w, True, absorbing(mlp, M))


def dead_units(w: Any) -> tuple[MLP, MLP, Any]:
    """d = 2: two units, and two more that write nothing; and the block that uses them to absorb I."""
    first = drawn(w.lane, "live", 2, 2)
    M, up = one(first), drawn(w.lane, "dead", 2, 2).W_up
    old = MLP(relu, np.concatenate([first.W_up, up], axis=1), np.concatenate([first.W_down, 0 * first.W_down]))
    return old, absorption.spare_units_sharp(first, M, 1), M


def one_dimension(w: Any, act: Any = relu) -> tuple[MLP, MLP, Any]:
    """d = 1, units +1 and -1: writes w_1 + M and w_2 - M absorb M."""
    number = w.identity("1")[0, 0]
    up, down = number * np.array([[1, -1]]), number * np.array([[5], [11]])
    M = number * np.array([[2]])
    return MLP(act, up, down), MLP(act, up, down + np.concatenate([M, -M])), M


def linear_activation(w: Any) -> tuple[MLP, MLP, Any]:
    """phi(z) = z: any M is absorbed by W_down + s."""
    old = replace(drawn(w.lane, "linear", 2, 3), act=lambda z: 1 * z)
    M = one(old)
    s = inverse(old.W_up[:, [0, 1]]) @ M
    return old, replace(old, W_down=old.W_down + np.concatenate([s, 0 * s[:1]])), M


def same(old: MLP, new: MLP, M: Any) -> Pairs:
    x = points(len(M))
    return [(new(x), beside(old, M)(x))]


def tanh_planted(w: Any) -> Pairs:
    mlp = replace(drawn(w.lane, "0", 3, 5), act=np.tanh)
    M = planted(mlp, [0, 2])
    x = points(3) / 9
    return [(absorption.flip(mlp, [0, 2], 1)(x), beside(mlp, M)(x))]


def unknown_phi(w: Any) -> Pairs:
    """A flipped group of units of which nothing is known."""
    x, mlp = tokens(w), an_mlp(w, w.function("phi"))
    return [(absorption.flip(mlp, c=1)(x), mlp(x) - x @ mlp.W_up @ mlp.W_down)]


def wrong_sign(w: Any) -> Pairs:
    """W_up[:, S] W_down[S, :] = + M instead of - M."""
    cases = [(mlp, -planted(mlp, [0, 2])) for mlp in (drawn(w.lane, "0", 2, 3),)]
    return [(column(w, [read(mlp, M).absorbed() for mlp, M in cases]), column(w, [True]))]


def narrow(s: Setting) -> bool:
    """The instances bring their own sizes."""
    return s.name == "one head"


WIDE_ENOUGH = Hypothesis("H1", "at least two dimensions", "$d\\ge2$")
GENERIC = Hypothesis(
    "H3",
    "non-degenerate",
    "the columns of $W_{up}$ are non-zero and pairwise non-collinear, and the rows of $W_{down}$ are non-zero",
)
COLLINEAR = "units in collinear pairs $(u,-u)$, $m=2d$: always absorbable, though no $S$ exists"

RELU_IFF = Claim(
    id="relu-absorption-iff",
    rank="theorem",
    chapter=CHAPTER,
    title="When a ReLU block absorbs a map",
    statement=(
        "Let $d\\ge2$, and let a ReLU block without biases be non-degenerate. $M$ is absorbable at the same width if and only if "
        "$W_{up}[:,S]W_{down}[S,:]=-M$ for some set $S$ of hidden units, which are then flipped. So $|S|\\ge\\operatorname{rank}M$, and "
        "$|S|\\ge d$ for $M=I$. The derivative of $xM+B(x)$ jumps across the $m$ hyperplanes $xu_i=0$, by $u_iw_i$; a block with the "
        "same jumps has units $c_ju_j$ that write $w_j/|c_j|$, and those with $c_j<0$ leave a linear map behind. The equation prints "
        "this last step, for units $-3u$ (the set $S$) and $2u$ (the rest $R$); of $\\phi_+$ it uses $\\phi(tz)=t\\phi(z)$ and "
        "$\\phi(z)-\\phi(-z)=z$. The exact lane reads the jumps from values of the function "
        "and tries all signs, in both directions: with planted sets and without."
    ),
    hypotheses=(
        WIDE_ENOUGH,
        Hypothesis("H2", "ReLU, no biases", "$\\phi(z)=\\max(z,0)$, and no biases"),
        GENERIC,
    ),
    sources=(
        Source("paper", "mijoski2026absorb", name="Theorem 8", note="for M = I, generic weights"),
        Source("derived", note="the proof by jumps of the derivative, and general M"),
    ),
    uses=(SIGN_FLIP.id,),
    sides=resized,
    also=turned_group,
    special={"exact": both_directions, "numeric": both_directions},
    settings=narrow,
    constructions=("flip", "absorbing_set"),
    controls=(
        Control(
            "H1",
            "$d=1$, two units $u=\\pm1$: absorbable, though no $S$ exists",
            lambda w: no_set(w, one_dimension(w)[0], one_dimension(w)[2]),
            lanes=NUMBERS,
            witness=lambda w: same(*one_dimension(w)),
        ),
        Control("H2", "an activation of which nothing is known", unknown_phi),
        Control("H2", "tanh, with a planted $S$: flipping it does not absorb $M$", tanh_planted, lanes=("numeric",)),
        Control(
            "H2",
            "$\\phi(z)=z$: absorbable, though no $S$ exists",
            lambda w: no_set(w, linear_activation(w)[0], linear_activation(w)[2]),
            lanes=NUMBERS,
            witness=lambda w: same(*linear_activation(w)),
        ),
        Control("H3", COLLINEAR, lambda w: no_set(w, *collinear_pairs(w)), lanes=NUMBERS, witness=collinear_absorb),
        Control(
            "H3",
            "$d$ units that write nothing: absorbable, though no $S$ exists",
            lambda w: no_set(w, dead_units(w)[0], dead_units(w)[2]),
            lanes=NUMBERS,
            witness=lambda w: same(*dead_units(w)),
        ),
        Control("construction", "the condition with $+M$ in the place of $-M$", wrong_sign, lanes=NUMBERS),
    ),
)


# -- gelu-absorption-iff -----------------------------------------------------------------------------------------------

SMOOTH = (gelu, silu, softplus)


def flipped_smooth(w: Any) -> Pairs:
    x, phi = tokens(w), split(w, hypothesis="H2")
    mlp = an_mlp(w, phi, biases=True)
    M = -1 * (mlp.W_up @ mlp.W_down)
    return [(absorption.flip(mlp, c=1)(x), x @ M + mlp(x))]


def along_rays(w: Any) -> Pairs:
    """phi(t z) / t is within log 2 / t of ReLU, for all three; so f(t x) / t has the kinks of the ReLU block, with
    biases too.
    """
    z, pairs = np.linspace(-9, 9, 181)[:, None], [*flipped_smooth(w)]
    for act in SMOOTH:
        for t in (1.0, 1e2, 1e4):
            pairs.append(AtMost(abs(act(t * z) / t - relu(z)), np.full_like(z, np.log(2) / t)))
        pairs += decided(w, act, FAR)
    return pairs


def tanh_along_rays(w: Any) -> Pairs:
    z, t = np.linspace(-9, 9, 181)[:, None], 1e4
    return [AtMost(abs(np.tanh(t * z) / t - relu(z)), np.full_like(z, np.log(2) / t))]


def unknown_smooth(w: Any) -> Pairs:
    x, mlp = tokens(w), an_mlp(w, w.function("phi"), biases=True)
    return [(absorption.flip(mlp, c=1)(x), x @ -(mlp.W_up @ mlp.W_down) + mlp(x))]


GELU_IFF = Claim(
    id="gelu-absorption-iff",
    rank="remark",
    chapter=CHAPTER,
    title="GELU, SiLU and softplus: the same condition",
    statement=(
        "For GELU, SiLU and softplus the condition for ReLU is necessary and sufficient as well. Flipping $S$ is exact for "
        "them. Conversely $\\phi(tz)/t\\to\\max(z,0)$ as $t\\to\\infty$, so putting $tx$ for $x$ and dividing by $t$ turns an identity "
        "between their blocks into one between ReLU blocks with the same weights. Biases vanish in the limit: with them the condition "
        "on $W_{up},W_{down}$ stays necessary, and it is sufficient by flipping $S$. The equation prints the units of $S$ as an "
        "MLP of their own, with $M=-W_{up}W_{down}$."
    ),
    hypotheses=(
        WIDE_ENOUGH,
        Hypothesis("H2", "ReLU far out", "$\\phi(z)-\\phi(-z)=z$, and $\\phi(tz)/t\\to\\max(z,0)$ as $t\\to\\infty$"),
        GENERIC,
    ),
    sources=(
        Source("paper", "mijoski2026absorb", name="Theorem 10", note="for GELU"),
        Source("derived", note="this reduction; SiLU, softplus and biases"),
    ),
    uses=("relu-absorption-iff", SIGN_FLIP.id),
    lanes=("symbolic", "numeric"),
    sides=flipped_smooth,
    special={"numeric": along_rays},
    settings=narrow,
    constructions=("flip", "absorbing_set"),
    controls=(
        Control(
            "H1",
            "$d=1$, two GELU units $u=\\pm1$: absorbable, though no $S$ exists",
            lambda w: no_set(w, one_dimension(w, gelu)[0], one_dimension(w, gelu)[2]),
            lanes=("numeric",),
            witness=lambda w: same(*one_dimension(w, gelu)),
        ),
        Control("H2", "an activation of which nothing is known (tanh)", unknown_smooth, lanes=("symbolic", "numeric")),
        Control("H2", "tanh, which along rays vanishes", tanh_along_rays, lanes=("numeric",)),
        Control(
            "H3",
            COLLINEAR + " (GELU)",
            lambda w: no_set(w, *collinear_pairs(w)),
            lanes=("numeric",),
            witness=lambda w: collinear_absorb(w, gelu),
        ),
    ),
)


# -- small-relu-counterexample -----------------------------------------------------------------------------------------


def smallest_case(w: Any) -> Pairs:
    """y + 2 relu(y), in which M = T_2 / T_1 - 1 = 1 is to be absorbed: no with one unit, yes with two."""
    return [*witnesses(w), *decided_for(w, (1, 2)), *two_units(w)]


def small(w: Any, bases: tuple[int, int] = (1, 2)) -> tuple[MLP, Any]:
    """relu(y) between the bases T_1 and T_2, and the map left to absorb."""
    number = w.identity("1")[0, 0]
    first, second = bases
    return MLP(relu, np.array([[number / first]]), np.array([[number * second]])), np.array(
        [[number * second / first - number]]
    )


def decided_for(w: Any, bases: tuple[int, int]) -> Pairs:
    return [(column(w, [read(*small(w, bases)).absorbed(), True]), column(w, [False, True]))]


def two_units(w: Any) -> Pairs:
    mlp, M = small(w)
    wider, y = absorption.spare_units_sharp(mlp, M, 1), np.arange(-3, 4)[:, None]
    return [(wider(y), beside(mlp, M)(y)), (wider.W_down, column(w, [3, -1]))]


def witnesses(w: Any) -> Pairs:
    """What 2 (y + relu(y)) - y is at -1, where b relu(a y) vanishes for a >= 0, and at 1, where it does for a <= 0."""
    y = column(w, [-1, 1])
    return [(2 * (y + relu(y)) - y, column(w, [-1, 3]))]


SMALL = Claim(
    id="small-relu-counterexample",
    rank="remark",
    chapter=CHAPTER,
    title="The smallest case that cannot be repaired",
    statement=(
        "One token, $d=m=1$, ReLU, unit weights, $T_1=1$, $T_2=2$: there are no $a,b$ with "
        "$2(y+\\mathrm{relu}(y))=y+b\\,\\mathrm{relu}(ay)$ for all $y$. At $y=1$ the left side is 4, so $b\\,\\mathrm{relu}(a)=3$ and "
        "$a>0$; at $y=-1$ it is $-2$, and the right side then is $-1$. With two units it can be done: "
        "$y+3\\,\\mathrm{relu}(y)-\\mathrm{relu}(-y)$."
    ),
    hypotheses=(
        Hypothesis("H1", "one unit", "$m=d=1$, ReLU"),
        Hypothesis("H2", "two bases", "the bases before and after the MLP differ, $T_1=1$ and $T_2=2$"),
    ),
    sources=(OURS,),
    lanes=("exact",),
    sides=smallest_case,
    settings=narrow,
    controls=(
        Control(
            "H1",
            "two units: $y+3\\,\\mathrm{relu}(y)-\\mathrm{relu}(-y)$ is exact",
            lanes=("exact",),
            witness=two_units,
        ),
        Control("H2", "equal bases, $T_1=T_2=2$", lambda w: decided_for(w, (2, 2)), lanes=("exact",)),
    ),
)
