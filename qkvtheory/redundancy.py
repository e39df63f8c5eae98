"""How many parameters a function really has: the rank of its derivative with respect to them.

Parameters that move the function only together, or not at all, are redundant; a symmetry of d^2 dimensions lowers the
rank by d^2. The rank at a generic point is the *functional dimension*. Derivatives are taken by a complex step, exact
to rounding, so that the rank shows as a gap between singular values. On finitely many inputs the rank is a lower bound:
take more of them until it stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

STEP = 1e-30  # of the complex step: nothing is subtracted, so it can be as small as the floats allow
CLEAR = 1e6  # a rank is read off a gap between singular values of at least this factor


@dataclass(frozen=True)
class Dimension:
    """``rank`` of the derivative; ``gap``: the last singular value that counts over the first that does not."""

    rank: int
    gap: float


def functional_dimension(function: Callable[..., Any], parameters: Sequence[np.ndarray]) -> Dimension:
    """The rank of the Jacobian of parameters -> outputs at this point.

    Parameters: ``function`` takes the arrays in ``parameters`` (float64, any shapes) and gives an array of outputs, at
    least as many as there are parameters. It must be analytic near the point, and computed by operations that carry
    complex numbers through: no ``abs``, ``max``, or conversion to real (see ``analytic_softmax``).
    Raises ValueError for other parameters, for too few outputs, for a function that is not analytic there, and where
    no gap of a factor 1e6 tells the rank.

    Source of the complex step: W. Squire and G. Trapp, SIAM Review 40 (1998) 110.

    >>> functional_dimension(lambda a, b: np.outer(a, b), [np.array([1.0, 2.0]), np.array([3.0, 4.0])]).rank
    3
    """
    values = singular_values(jacobian(function, parameters))
    floor = float(np.finfo(np.float64).eps) * values[0]
    raised = np.maximum([*values, 0.0], floor)  # below the floor there is only rounding
    if not floor:
        return Dimension(0, np.inf)
    ratios = raised[:-1] / raised[1:]
    rank = int(np.argmax(ratios)) + 1
    if ratios[rank - 1] < CLEAR:
        raise ValueError(
            f"the singular values fall by at most a factor {ratios[rank - 1]:.1e}, so the rank is not clear; "
            "take another point, more outputs, or weights of like size"
        )
    return Dimension(rank, float(ratios[rank - 1]))


def jacobian(function: Callable[..., Any], parameters: Sequence[np.ndarray]) -> np.ndarray:
    """Outputs x parameters. Raises ValueError as ``functional_dimension`` does."""
    for number, parameter in enumerate(parameters):
        if getattr(parameter, "dtype", None) != np.float64 or not np.isfinite(parameter).all():
            raise ValueError(f"parameter {number} must be a float64 array of finite numbers")
    point = np.concatenate([parameter.ravel() for parameter in parameters])

    def along(step: np.ndarray) -> Any:
        return np.asarray(function(*shaped(point + step, parameters)))

    columns = [imaginary(along(1j * STEP * unit)) / STEP for unit in np.eye(len(point))]
    result = np.stack(columns, axis=1)
    if len(result) < len(point):
        raise ValueError(
            f"{len(result)} outputs cannot tell {len(point)} parameters apart; give the function more inputs"
        )
    check_analytic(along, result)
    return result


def shaped(point: np.ndarray, like: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The vector of all parameters cut into arrays of the old shapes."""
    ends = np.cumsum([parameter.size for parameter in like])
    return [part.reshape(p.shape) for part, p in zip(np.split(point, ends[:-1]), like, strict=True)]


def imaginary(values: np.ndarray) -> np.ndarray:
    if not np.iscomplexobj(values) or not np.isfinite(values).all():
        raise ValueError("the function must carry complex numbers through, and give finite ones")
    return values.imag.ravel()


def check_analytic(along: Callable[[np.ndarray], Any], derivative: np.ndarray) -> None:
    """The complex step agrees with a difference quotient in one direction; for functions not analytic it would not."""
    direction, h = np.random.default_rng(0).normal(size=(derivative.shape[1],)), 1e-6
    quotient = (along(h * direction) - along(-h * direction)).ravel() / (2 * h)
    expected = derivative @ direction
    if np.abs(quotient - expected).max() > 1e-4 * max(np.abs(expected).max(), np.abs(quotient).max()):
        raise ValueError(
            "the complex step and a difference quotient disagree: the function is not analytic here, or not computed "
            "so that complex numbers pass through"
        )


def singular_values(derivative: np.ndarray) -> np.ndarray:
    """Of the Jacobian with columns of length one, so that the sizes of the parameters do not matter."""
    lengths = np.linalg.norm(derivative, axis=0)
    triangle = np.linalg.qr(derivative / np.where(lengths == 0, 1, lengths), mode="r")  # small, with the same values
    return np.linalg.svd(triangle, compute_uv=False)


# -- functions that carry complex numbers through ----------------------------------------------------------------------


def analytic_softmax(scores: Any, keep: Any = None) -> Any:
    """Row softmax without subtracting the largest score, which is no analytic function. For scores of order 1."""
    weights = np.exp(scores)
    if keep is not None:
        weights = np.where(keep, weights, 0)
    return weights / weights.sum(axis=-1, keepdims=True)


def gelu_tanh(z: Any) -> Any:
    """GELU in its tanh form, z (1 + tanh(sqrt(2 / pi) (z + 0.044715 z^3))) / 2. Hendrycks and Gimpel (1606.08415)."""
    return 0.5 * z * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)))


def relu(z: Any) -> Any:
    """max(z, 0), by the sign of the real part: analytic where no entry is 0."""
    return np.where(z.real > 0, z, 0)


def relu_squared(z: Any) -> Any:
    """max(z, 0)^2, by the sign of the real part: analytic where no entry is 0."""
    return relu(z) ** 2


def reglu(z: Any) -> Any:
    """ReGLU of both inputs side by side: max(a, 0) b for z = [a | b]."""
    a, b = np.split(z, 2, axis=-1)
    return relu(a) * b


def analytic_rms_norm(z: Any) -> Any:
    """RMSNorm without gain and without the small constant under the root."""
    return z / np.sqrt((z * z).mean(axis=-1, keepdims=True))
