"""How alike are keys and values? Numbers that are often reported, and those that belong to the function.

Cosines, linear CKA and effective ranks change when a head is written in another basis, which its function does not
notice; the principal angles between the spaces that its columns span do not (claim gauge-dependent-numbers).
"""

from __future__ import annotations

import numpy as np

from qkvtheory.errors import HypothesisError


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """The cosine of two matrices of one shape, taken as vectors.

    >>> round(cosine(np.eye(2), -np.eye(2)), 12)
    -1.0
    """
    check_pair(a, b)
    if a.shape != b.shape:
        raise HypothesisError("shapes agree", f"a cosine compares matrices of one shape, not {a.shape} and {b.shape}")
    a, b = unit(a), unit(b)
    return float((a * b).sum() / (norm(a) * norm(b)))


def linear_cka(a: np.ndarray, b: np.ndarray) -> float:
    """Centered kernel alignment of two sets of rows (n x p, n x q) with the linear kernel, from 0 to 1.

    It does not change when one side is rotated or scaled. Source: Kornblith and others 2019 (1905.00414). Raises
    HypothesisError "spread" for a matrix whose rows are all equal.

    >>> a = np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 1.0]])
    >>> round(linear_cka(a, 2 * a @ np.array([[0.0, 1.0], [-1.0, 0.0]])), 12)
    1.0
    """
    check_pair(a, b)
    a, b = spread(a), spread(b)
    return float(norm(a.T @ b) ** 2 / (norm(a.T @ a) * norm(b.T @ b)))


def effective_rank(a: np.ndarray) -> float:
    """exp of the entropy of the singular values, made to sum to one: from 1 to the rank. Source: Roy and Vetterli 2007.

    >>> round(effective_rank(np.diag([1.0, 1.0, 0.0])), 12)
    2.0
    """
    check_pair(a, a)
    share = np.linalg.svd(unit(a), compute_uv=False)
    share = share[share > 0] / share.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def principal_angles(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The angles between the column spaces of a and b (equally many rows), in radians, smallest first.

    The columns of each must be independent. From sines where the angles are small, so small ones are accurate too.
    Source: Bjorck and Golub 1973.

    >>> principal_angles(np.eye(3)[:, :2], np.eye(3)[:, 1:]).round(12).tolist()
    [0.0, 1.570796326795]
    """
    check_pair(a, b)
    for name, matrix in (("first", a), ("second", b)):
        if np.linalg.matrix_rank(matrix) < matrix.shape[1]:
            raise HypothesisError("full column rank", f"the columns of the {name} matrix depend on each other")
    (p, _), (q, _) = np.linalg.qr(a), np.linalg.qr(b)
    if p.shape[1] < q.shape[1]:
        p, q = q, p
    cosines = np.linalg.svd(p.T @ q, compute_uv=False)
    sines = np.linalg.svd(q - p @ (p.T @ q), compute_uv=False)[::-1]
    return np.where(cosines**2 < 0.5, np.arccos(np.clip(cosines, 0, 1)), np.arcsin(np.clip(sines, 0, 1)))


def spread(a: np.ndarray) -> np.ndarray:
    """The rows less their mean, at a scale of their own."""
    a = unit(a)
    centered = a - a.mean(axis=0)
    if np.abs(centered).max() <= 8 * len(a) * np.finfo(a.dtype).eps * np.abs(a).max():
        raise HypothesisError("spread", "a matrix with equal rows has nothing that could be compared")
    return unit(centered)


def unit(a: np.ndarray) -> np.ndarray:
    """Over its largest entry: likeness does not depend on the scale, and squares shall neither overflow nor vanish."""
    return a / np.abs(a).max()


def norm(a: np.ndarray) -> float:
    return float(np.sqrt((a * a).sum()))


def check_pair(a: np.ndarray, b: np.ndarray) -> None:
    """Two matrices of floats with equally many rows, neither zero."""
    for matrix in (a, b):
        if not isinstance(matrix, np.ndarray) or matrix.ndim != 2 or not np.issubdtype(matrix.dtype, np.floating):
            raise HypothesisError(
                "matrix", "both arguments must be NumPy matrices of floats, tokens or stream coordinates x width"
            )
        if not np.isfinite(matrix).all() or not matrix.any():
            raise HypothesisError("matrix", "a matrix that is zero or not finite has no direction")
    if len(a) != len(b):
        raise HypothesisError(
            "shapes agree", f"the matrices have {len(a)} and {len(b)} rows; they must have equally many"
        )
