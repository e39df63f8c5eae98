"""With keys as values the read-out stays among the keys, is a gradient, and rolls downhill."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from qkvtheory import energy
from qkvtheory.claims.keys_equal_values.common import CHAPTER, OURS
from qkvtheory.claims.model import AtMost, Claim, Control, Hypothesis, Pairs, Source
from qkvtheory.lanes.settings import Setting, square_keys
from qkvtheory.redundancy import STEP

HOPFIELD = Source("paper", "ramsauer2020hopfield", note="the energy, without its constants, and the descent")
TIED = Hypothesis("H1", "keys are values", "$v_j=k_j$, and the keys stay as they are while $q$ moves")
SCALE = Hypothesis(
    "H2", "softmax", "the weights are $A_j(q)=\\operatorname{softmax}_j(\\alpha qk_j^{\\top})$ with $\\alpha>0$"
)


def plainest(s: Setting) -> bool:
    """One setting for each size: nothing else of it is used."""
    return square_keys(s) and not s.biases and not set(s.features(s)) - {"pattern", "scale"}


def head_of(w: Any) -> tuple[Any, Any, Any, float]:
    """Queries, keys and other values of one head, and its scale."""
    q, k, v = (w.matrix(name, "n", "h") for name in ("Xq", "Xk", "Xv"))
    return q, k, v, w.sizes["h"] ** -0.5


# -- kv-convex-hull ----------------------------------------------------------------------------------------------------


def weights_of_keys(w: Any) -> tuple[Any, Any]:
    """A stochastic map, and the keys."""
    A = w.softmax(w.integers("S", "n", "n"), rows="H1")
    return A, w.integers("X", "n", "d") @ w.integers("W_Z", "d", "h")


def affine_in_keys(w: Any) -> Pairs:
    """The weights sum to one; so keys moved by one row c move every output by c, as means do."""
    A, Z = weights_of_keys(w)
    one, c = w.ones("n"), w.integers("c", "1", "h")
    return [(A @ one, one), (A @ (Z + one @ c), A @ Z + one @ c)]


def inside_hull(w: Any) -> Pairs:
    """Also: no weight is negative, and in no direction does an output go further than the furthest key."""
    A, Z = weights_of_keys(w)
    return [*affine_in_keys(w), AtMost(A * 0, A), *no_further(w, A @ Z, Z)]


def no_further(w: Any, outputs: Any, points: Any) -> Pairs:
    """The outputs against the points in both senses of the axes and of other directions."""
    U = w.integers("directions", "h", "d")
    U = np.concatenate([U, -U, w.identity("h"), -w.identity("h")], axis=1)
    furthest = (points @ U).max(axis=0, keepdims=True)
    return [AtMost(outputs @ U, np.repeat(furthest, len(outputs), axis=0))]


def hull_in_floats(w: Any) -> Pairs:
    """And the package's own read-out, one head with keys as values."""
    q, k, _, scale = head_of(w)
    a = energy.attention_row(q, k, scale)
    return [
        *inside_hull(w),
        (energy.read_out(q, k, k, scale), a @ k),
        *no_further(w, energy.read_out(q, k, k, scale), k),
    ]


def unnormalized(w: Any) -> Pairs:
    """Linear attention (q k^T) v without a denominator."""
    _, Z = weights_of_keys(w)
    q = w.integers("Q", "n", "h")
    return no_further(w, (q @ Z.mT) @ Z, Z)


def unnormalized_sums(w: Any) -> Pairs:
    Z, q, one, c = w.integers("Z", "n", "h"), w.integers("Q", "n", "h"), w.ones("n"), w.integers("c", "1", "h")
    A = q @ w.integers("K", "n", "h").mT
    return [(A @ (Z + one @ c), A @ Z + one @ c)]


def separate_hull(w: Any) -> Pairs:
    """Separate values: outputs lie among the values, not among the keys."""
    A, Z = weights_of_keys(w)
    return no_further(w, A @ (3 * w.integers("V", "n", "h")), Z)


def stream_hull(w: Any) -> Pairs:
    """The stream after a skip, x + A x."""
    A, x = weights_of_keys(w)
    return no_further(w, x + A @ x, x)


CONVEX_HULL = Claim(
    id="kv-convex-hull",
    rank="remark",
    chapter=CHAPTER,
    title="Outputs stay in the convex hull of the keys",
    statement=(
        "With $v_j=k_j$ every head output $\\sum_jA_{ij}k_j$ lies in the convex hull of the keys: the weights are nonnegative and sum to 1. "
        "This is so before $W_O$ and before the skip. With separate values it says the same of the values, and nothing of the keys."
    ),
    hypotheses=(
        Hypothesis("H1", "stochastic rows", "the rows of $A$ are nonnegative and sum to 1"),
        Hypothesis("H2", "keys are values", "$v_j=k_j$"),
        Hypothesis("H3", "before the skip", "the output is that of a head, before $W_O$ and the skip"),
    ),
    sources=(Source("code", "kayyam2026three", note="Proposition 1 of the authors' follow-up notes"),),
    uses=("row-stochastic",),
    sides=affine_in_keys,
    special={"exact": inside_hull, "numeric": hull_in_floats},
    settings=plainest,
    controls=(
        Control("H1", "linear attention without a denominator", unnormalized, ("exact", "numeric")),
        Control("H1", "linear attention without a denominator: its weights do not sum to 1", unnormalized_sums),
        Control("H2", "separate values", separate_hull, ("exact", "numeric")),
        Control("H3", "the stream after the skip", stream_hull, ("exact", "numeric")),
    ),
)


# -- kv-gradient-map ---------------------------------------------------------------------------------------------------


def covariance(w: Any, separate: bool = False) -> tuple[Any, Any, Any, Any]:
    """One row of attention A, diag(A), keys, and values."""
    A, K = w.softmax(w.integers("S", "1", "n"), rows="H2"), w.integers("K", "n", "h")
    return A, w.diagonal(A.mT, "H2"), K, w.integers("V", "n", "h") if separate else K


def spread(A: Any, D: Any, K: Any, V: Any) -> Any:
    """The covariance of values and keys under A: sum_j A_j v_j^T k_j - (A V)^T (A K)."""
    return V.mT @ D @ K - (A @ V).mT @ (A @ K)


def symmetric_jacobian(w: Any) -> Pairs:
    """Symmetric, and B^T D B for the centered keys B, with D positive: so positive semidefinite."""
    A, D, K, V = covariance(w)
    J, B = spread(A, D, K, V), K - w.ones("n") @ (A @ K)
    return [(J.mT, J), (J, B.mT @ D @ B)]


def derivative(function: Any, q: Any) -> Any:
    """d function / dq at each row of q, by a complex step; (m, d), or (m, p, d)."""
    return np.stack([function(q + 1j * STEP * unit).imag / STEP for unit in np.eye(q.shape[1])], axis=-1)


def gradient_and_jacobian(w: Any) -> Pairs:
    """The package's energy, read-out and Jacobian, against derivatives by a complex step; then what is claimed of them."""
    q, k, v, scale = head_of(w)
    gradient = q - derivative(
        lambda z: energy.energy(z, k, scale), q
    )  # of (1/alpha) log sum exp: |q|^2/2 has gradient q
    pairs = [(energy.read_out(q, k, k, scale), gradient)]
    for values in (k, v):
        slope = derivative(partial(read, k, values, scale), q)
        A = energy.attention_row(q, k, scale)
        covariances = np.stack([spread(a[None], np.diag(a), k, values) for a in A])
        pairs += [(energy.jacobian(q, k, values, scale), slope), (scale * covariances, slope)]
    J = energy.jacobian(q, k, k, scale)
    return [*symmetric_jacobian(w), *pairs, (J.mT, J), no_negative(J)]


def read(keys: Any, values: Any, scale: float, q: Any) -> Any:
    return energy.read_out(q, keys, values, scale)


def no_negative(J: Any) -> AtMost:
    """No eigenvalue of these symmetric matrices is negative."""
    return AtMost(-np.linalg.eigvalsh(J), J[..., 0] * 0)


def separate_values(w: Any) -> Pairs:
    J = spread(*covariance(w, separate=True))
    return [(J.mT, J)]


def separate_jacobian(w: Any) -> Pairs:
    q, k, v, scale = head_of(w)
    J = energy.jacobian(q, k, v, scale)
    return [(J.mT, J)]


def moving_keys(w: Any) -> Pairs:
    """A token that is query, key and value: its own key moves with it, and the Jacobian of fixed keys is not all."""
    q, k, _, scale = head_of(w)

    def read_itself(z: Any) -> Any:
        return energy.read_out(z, np.concatenate([k, z]), np.concatenate([k, z]), scale)

    q, h = q[:1], 1e-5
    slope = np.stack([(read_itself(q + h * e) - read_itself(q - h * e)) / (2 * h) for e in np.eye(q.shape[1])], axis=-1)
    own = np.concatenate([k, q])
    return [(energy.jacobian(q, own, own, scale), slope)]


def unnormalized_row(w: Any) -> Pairs:
    """Weights that do not sum to one: the covariance is no B^T D B."""
    A, K = w.integers("A", "1", "n"), w.integers("K", "n", "h")
    D, B = w.diagonal(A.mT), K - w.ones("n") @ (A @ K)
    return [(spread(A, D, K, K), B.mT @ D @ B)]


def negative_scale(w: Any) -> Pairs:
    q, k, _, scale = head_of(w)
    return [no_negative(energy.jacobian(q, k, k, -scale))]


GRADIENT_MAP = Claim(
    id="kv-gradient-map",
    rank="remark",
    chapter=CHAPTER,
    title="The read-out is a gradient",
    statement=(
        "With keys as values, $y(q)=\\sum_jA_j(q)k_j=\\nabla_q\\frac1\\alpha\\log\\sum_je^{\\alpha qk_j^{\\top}}$, and its "
        "derivative is $\\alpha$ times the covariance of the keys under $A(q)$: symmetric, and positive semidefinite. With separate values "
        "it is $\\alpha$ times the covariance of values and keys, which is neither. The symbolic lane checks the covariance; the numeric one "
        "the derivatives too, by a complex step."
    ),
    hypotheses=(TIED, SCALE),
    sources=(OURS, HOPFIELD),
    uses=("row-stochastic",),
    sides=symmetric_jacobian,
    special={"numeric": gradient_and_jacobian},
    settings=plainest,
    controls=(
        Control("H1", "separate values: the covariance is not symmetric", separate_values),
        Control("H1", "separate values: the package's Jacobian is not symmetric", separate_jacobian, ("numeric",)),
        Control("H1", "a token that reads itself: its key moves with it", moving_keys, ("numeric",)),
        Control("H2", "weights that do not sum to 1", unnormalized_row),
        Control("H2", "a negative scale: the eigenvalues have the other sign", negative_scale, ("numeric",)),
    ),
)


# -- kv-energy-descent -------------------------------------------------------------------------------------------------


def inserted(w: Any, separate: bool = False) -> Pairs:
    """Convexity leaves y (p - q)^T + (q q^T - p p^T) / 2 at least; at p = y(q) that is |q - p|^2 / 2. Both sides twice.

    Numbers take the read-outs of keys and of values; for letters, they are letters.
    """
    q = w.integers("q", "1", "h")
    y, of_values = read_outs(w, q) if w.lane in ("exact", "numeric") else (w.matrix(name, "1", "h") for name in "yv")
    p = of_values if separate else y
    return [(y @ (p - q).mT + (p - q) @ y.mT + q @ q.mT - p @ p.mT, (q - p) @ (q - p).mT)]


def read_outs(w: Any, q: Any) -> tuple[Any, Any]:
    K, V = w.integers("K", "n", "h"), w.integers("V", "n", "h")
    A = w.softmax(q @ K.mT)
    return A @ K, A @ V


def draws(w: Any) -> tuple[Any, Any, Any]:
    """Many queries, far and near, beside one set of keys and of values."""
    rng, width = w.rng("draws"), w.sizes["h"]
    q = rng.normal(size=(250, width)) * rng.uniform(0, 5, (250, 1))
    return q, 1.5 * rng.normal(size=(w.sizes["n"], width)), rng.normal(size=(w.sizes["n"], width))


SCALES = (0.3, 1.0, 4.0)


def drops(w: Any) -> Pairs:
    """The bound for every draw and several scales; convexity, which it rests on; and all along a path."""
    q, k, _ = draws(w)
    pairs = [*inserted(w)]
    for scale in SCALES:
        y = energy.read_out(q, k, k, scale)
        pairs += [drop(q, y, k, scale), AtMost(*tangent(q, q[::-1], k, scale))]
        path = energy.descend(q, k, k, scale, 4)
        pairs += [(after, energy.read_out(before, k, k, scale)) for before, after in pairwise([q, *path[1:]])]
        pairs += [drop(before, after, k, scale) for before, after in pairwise(path)]
    return pairs


def drop(q: Any, after: Any, keys: Any, scale: float) -> AtMost:
    """|q - q^+|^2 / 2 is at most E(q) - E(q^+)."""
    fall = energy.energy(q, keys, scale) - energy.energy(after, keys, scale)
    return AtMost(((q - after) ** 2).sum(axis=-1, keepdims=True) / 2, fall[..., None])


def tangent(q: Any, p: Any, keys: Any, scale: float) -> tuple[Any, Any]:
    """F(q) + y(q) (p - q)^T and F(p), for F = (1/alpha) log sum exp."""
    F = [(z * z).sum(axis=-1) / 2 - energy.energy(z, keys, scale) for z in (q, p)]
    slope = (energy.read_out(q, keys, keys, scale) * (p - q)).sum(axis=-1)
    return (F[0] + slope)[:, None], F[1][:, None]


def rising(step: Any, scale: float = 1.0) -> Any:
    """Even the weaker claim that the energy does not rise."""

    def sides(w: Any) -> Pairs:
        q, k, v = draws(w)
        before, after = (energy.energy(z, k, scale)[:, None] for z in (q, step(q, k, v, scale)))
        return [AtMost(after, before)]

    return sides


def read_values(q: Any, keys: Any, values: Any, scale: float) -> Any:
    return energy.descend(q, keys, values, scale, 1)[-1]


def overshoot(q: Any, keys: Any, _: Any, scale: float) -> Any:
    """Five times the step."""
    return q + 5 * (energy.read_out(q, keys, keys, scale) - q)


def read_keys(q: Any, keys: Any, _: Any, scale: float) -> Any:
    return energy.read_out(q, keys, keys, scale)


ENERGY_DESCENT = Claim(
    id="kv-energy-descent",
    rank="remark",
    chapter=CHAPTER,
    title="Reading again lowers an energy",
    statement=(
        "Let $\\mathcal E(q)=-\\frac1\\alpha\\log\\sum_je^{\\alpha qk_j^{\\top}}+\\frac12\\lVert q\\rVert^2$ and $q^+=y(q)$, the read-out "
        "with keys as values. Then $\\mathcal E(q)-\\mathcal E(q^+)\\ge\\frac12\\lVert q-q^+\\rVert^2$. For "
        "$F(q)=\\frac1\\alpha\\log\\sum_je^{\\alpha qk_j^{\\top}}$ is convex with gradient $y(q)$, so "
        "$F(q^+)\\ge F(q)+y(q)(q^+-q)^{\\top}$, and $y(q)=q^+$; the symbolic lane checks what this leaves, the numeric one the inequality "
        "for many draws, near and far, and along paths."
    ),
    hypotheses=(
        TIED,
        SCALE,
        Hypothesis("H3", "the whole step", "$q^+=y(q)$: the read-out takes the place of the query"),
    ),
    sources=(OURS, HOPFIELD),
    uses=("kv-gradient-map",),
    sides=inserted,
    special={"numeric": drops},
    settings=plainest,
    controls=(
        Control("H1", "separate values: the step is not along the gradient", partial(inserted, separate=True)),
        Control("H1", "separate values: the energy can rise", rising(read_values), ("numeric",)),
        Control("H2", "a negative scale: the energy can rise", rising(read_keys, -4.0), ("numeric",)),
        Control("H3", "five times the step: the energy can rise", rising(overshoot), ("numeric",)),
    ),
)
