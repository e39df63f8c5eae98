"""Attention with keys as values rolls downhill: its read-out is a gradient, and reading again lowers an energy.

Queries are rows of length d, one of shape (d,) or several of shape (m, d); keys are n x d, values n x p; ``scale`` is
the factor alpha of the scores q k_j^T, 1/sqrt(d) in a usual head. Real floats; a query may also be complex, so that a
derivative can be taken by a complex step, without rounding. Other input is refused with a HypothesisError, and so are
numbers so large that a score, an energy or a derivative overflows ("finite").

The energy is that of the modern Hopfield network, up to a constant: Ramsauer et al. 2020 (2008.02217), who store the
keys as memories and retrieve them by exactly this read-out. Claims kv-gradient-map, kv-energy-descent, kv-convex-hull.
"""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import numpy as np

from qkvtheory.errors import HypothesisError
from qkvtheory.linalg import check_finite, check_matrix, described


def attention_row(q: Any, keys: Any, scale: float) -> Any:
    """softmax(alpha q k_j^T): how much of each key a query reads, shape (n,) or (m, n), with sum 1.

    >>> attention_row(np.zeros(2), np.eye(2), 1.0).tolist()
    [0.5, 0.5]
    """
    weights, _ = exponentials(q, keys, scale)
    return weights / weights.sum(axis=-1, keepdims=True)


def read_out(q: Any, keys: Any, values: Any, scale: float) -> Any:
    """y(q) = sum_j A_j(q) v_j, one head's output before W_O; shape (p,) or (m, p).

    With ``values`` equal to ``keys`` it is the gradient of (1/alpha) log sum_j exp(alpha q k_j^T), and lies in the
    convex hull of the keys (claims kv-gradient-map, kv-convex-hull). Raises HypothesisError if the shapes do not agree.

    >>> keys = np.array([[1.0, 0.0], [-1.0, 0.0]])
    >>> read_out(np.array([0.5, 2.0]), keys, keys, 2.0).round(4).tolist()
    [0.7616, 0.0]
    """
    return attention_row(q, keys, scale) @ matching(values, keys)


def energy(q: Any, keys: Any, scale: float) -> Any:
    """E(q) = -(1/alpha) log sum_j exp(alpha q k_j^T) + q q^T / 2; a number, or shape (m,).

    Its gradient is q - y(q), where y is the read-out with the keys as values. If alpha is positive then
    E(q) - E(y(q)) >= |q - y(q)|^2 / 2: reading again never raises it (claim kv-energy-descent). Source: Ramsauer et al.
    2020 (2008.02217), without its constants. Raises HypothesisError for ``scale`` 0.

    >>> keys = np.array([[1.0, 0.0], [-1.0, 0.0]])
    >>> round(float(energy(np.array([0.5, 0.0]), keys, 2.0)), 4)
    -0.4385
    """
    if scale == 0:
        raise HypothesisError("scale", "the energy divides by the scale, which is 0")
    weights, top = exponentials(q, keys, scale)
    q = np.asarray(q)
    with np.errstate(over="ignore", invalid="ignore"):  # refused here, by name
        return finite((q * q).sum(axis=-1) / 2 - (top[..., 0] + np.log(weights.sum(axis=-1))) / scale, "the energy")


def jacobian(q: Any, keys: Any, values: Any, scale: float) -> Any:
    """dy/dq = alpha Cov_A(v, k): entry (a, b) says how y_a moves with q_b; shape (p, d) or (m, p, d).

    With ``values`` equal to ``keys`` it is alpha times a covariance, hence symmetric with no eigenvalue of the other
    sign; with separate values it is neither (claim kv-gradient-map). Raises HypothesisError if shapes do not agree.

    >>> keys = np.array([[1.0, 0.0], [-1.0, 0.0]])
    >>> jacobian(np.zeros(2), keys, keys, 2.0).tolist()
    [[2.0, 0.0], [0.0, 0.0]]
    """
    a = attention_row(q, keys, scale)
    k, v = centered(a, keys), centered(a, matching(values, keys))
    with np.errstate(over="ignore", invalid="ignore"):  # refused here, by name
        return finite(scale * np.swapaxes(v, -1, -2) @ (a[..., None] * k), "the derivative")


def descend(q: Any, keys: Any, values: Any, scale: float, steps: int) -> Any:
    """The path q, y(q), y(y(q)), ... of reading again, ``steps`` times; shape (steps + 1, d) or (steps + 1, m, d).

    With ``values`` equal to ``keys`` the energy falls along it; with separate values it may rise. Raises
    HypothesisError if values are not as wide as keys, ValueError if ``steps`` is no whole number from 0.

    >>> keys = np.array([[1.0, 0.0], [-1.0, 0.0]])
    >>> path = descend(np.array([0.1, 1.0]), keys, keys, 2.0, 8)
    >>> path[:, 0].round(2).tolist()
    [0.1, 0.2, 0.38, 0.64, 0.85, 0.94, 0.95, 0.96, 0.96]
    >>> bool((np.diff(energy(path, keys, 2.0)) < 0).all())
    True
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
        raise ValueError(f"steps must be a whole number from 0, not {steps!r}")
    path = [np.asarray(q)]
    for _ in range(steps):
        path.append(read_out(path[-1], keys, values, scale))
        if path[-1].shape != path[0].shape:
            shapes = f"values are {described(values)} but keys {described(keys)}"
            raise HypothesisError("shapes agree", f"a read-out is to be the next query, so equally wide: {shapes}")
    return np.stack(path)


# -- what they share ---------------------------------------------------------------------------------------------------


def exponentials(q: Any, keys: Any, scale: float) -> tuple[Any, Any]:
    """exp(scores - top) and top, the largest score of each query, which keeps every exponential at most 1.

    top is taken from the real parts, so that a complex step in q does not meet max, which has no derivative.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # refused here, by name
        scores = finite(checked_scale(scale) * (checked_query(q, keys) @ keys.T), "a score")
        top = scores.real.max(axis=-1, keepdims=True)
        return np.exp(scores - top), top


def finite(a: Any, what: str) -> Any:
    if not np.isfinite(a).all():
        raise HypothesisError("finite", f"{what} overflows {np.asarray(a).dtype}; scale queries, keys and values down")
    return a


def centered(a: Any, points: Any) -> Any:
    """The points minus their mean under each row a; shape (n, d) or (m, n, d)."""
    return points - (a @ points)[..., None, :]


def checked_query(q: Any, keys: Any) -> Any:
    check_matrix(keys, "keys")
    if not isinstance(q, np.ndarray):
        raise HypothesisError("matrix", f"the query must be a NumPy array, not {described(q)}")
    if q.ndim not in (1, 2) or 0 in q.shape:
        raise HypothesisError("matrix", f"the query must be a row or rows, not {described(q)}")
    if not np.issubdtype(q.dtype, np.inexact):
        raise HypothesisError("real numbers", f"the query has dtype {q.dtype}; convert it to a floating dtype first")
    check_finite(q, "the query")
    if q.shape[-1] != keys.shape[1]:
        raise HypothesisError("shapes agree", f"queries are {q.shape[-1]} wide but keys {keys.shape[1]}")
    return q


def matching(values: Any, keys: Any) -> Any:
    """The values, one for each key."""
    check_matrix(values, "values")
    if len(values) != len(keys):
        raise HypothesisError("shapes agree", f"there are {len(keys)} keys but {len(values)} values")
    return values


def checked_scale(scale: Any) -> float:
    if isinstance(scale, bool) or not isinstance(scale, Real) or not math.isfinite(scale):
        raise HypothesisError("scale", f"the scale must be a finite real number, not {scale!r}")
    return float(scale)
