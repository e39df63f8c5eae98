"""The one operation that matrices of floats, of exact numbers and of symbols do not already share: the inverse.

Everything else a construction needs is ``@``, ``+`` and ``.mT``.

- floats (NumPy, PyTorch, any array of the array API standard): LAPACK in float64, rounded once to the input's dtype;
- exact numbers (NumPy arrays of dtype object: whole numbers and fractions, or residues modulo a prime): Gauss-Jordan
  elimination, which needs no pivoting where nothing is rounded; floats inside such arrays are refused;
- words (``qkvtheory.words``): a declared letter, or a refusal.

What cannot be inverted is refused with the hypothesis that fails; what nearly cannot is done with a warning.
"""

from __future__ import annotations

import math
import sys
import warnings
from fractions import Fraction
from numbers import Number, Rational
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device

from qkvtheory.errors import ConditionWarning, HypothesisError

__all__ = ["ConditionWarning", "HypothesisError", "condition", "identity", "inverse", "right_inverse"]

SINGULAR = 1 / np.finfo(np.float64).eps


def inverse(a: Any, name: str = "the matrix") -> Any:
    """The inverse of a square matrix.

    Parameters: ``a``, d x d, floats of any precision, exact numbers (dtype object) or a Word; ``name`` for messages.
    Raises HypothesisError if ``a`` is not a plain array (masked arrays, ``np.matrix`` and sparse tensors are refused,
    not converted), not square, not of finite real numbers, or singular (for floats: singular to float64).
    Warns with ConditionWarning when eps(dtype) * cond_1 exceeds the square root of eps: half of the digits are lost.
    Source: Higham 2002, chapter 14 (error of a computed inverse).

    >>> inverse(np.array([[2.0, 0.0], [0.0, 4.0]])).tolist()
    [[0.5, 0.0], [0.0, 0.25]]
    """
    if symbolic(a):
        return a.inverse()
    check_matrix(a, name)
    if a.shape[0] != a.shape[1]:
        raise HypothesisError(
            "square",
            f"{name} is {a.shape[0]} x {a.shape[1]}; only a square matrix has an inverse (wide: see right_inverse)",
        )
    if a.dtype == object:
        return gauss_jordan(a, name)
    xp = array_namespace(a)
    wide = xp.astype(a, xp.float64)
    try:
        with np.errstate(all="ignore"):  # what overflows is refused below, by name
            back = xp.linalg.inv(wide)
            cond = scalar(norm1(wide) * norm1(back))
    except Exception as error:  # LinAlgError of the namespace at hand
        raise singular(name, math.inf) from error
    warn_if_near_singular(a, cond, name)
    return rounded(back, a, name)


def right_inverse(a: Any, name: str = "the matrix") -> Any:
    """R of shape p x d with a @ R = I, for a of shape d x p and rank d <= p; the inverse when p = d.

    Floats: the Moore-Penrose inverse, with every singular value kept. Exact numbers: a^T (a a^T)^-1. Words: a letter
    declared of full row rank. Raises HypothesisError if p < d or the rows are dependent, and as ``inverse`` does.
    """
    if symbolic(a):
        return a.right_inverse()
    check_matrix(a, name)
    rows, cols = a.shape
    if cols < rows:
        raise HypothesisError(
            "full row rank", f"{name} is {rows} x {cols}: narrower than tall, so it has no right inverse"
        )
    if rows == cols:
        return inverse(a, name)
    if a.dtype == object:
        return a.mT @ gauss_jordan(a @ a.mT, f"{name} times its transpose")
    xp = array_namespace(a)
    wide = xp.astype(a, xp.float64)
    singular_values = xp.linalg.svdvals(wide)
    smallest = scalar(singular_values[-1])
    warn_if_near_singular(a, scalar(singular_values[0]) / smallest if smallest > 0 else math.inf, name)
    return rounded(xp.linalg.pinv(wide, rtol=0.0), a, name)  # no cut-off: what it would drop was refused above


def rounded(back: Any, a: Any, name: str) -> Any:
    """An inverse of ``a``, found in float64, in the dtype of ``a``."""
    xp = array_namespace(a)
    with np.errstate(over="ignore"):  # what overflows is refused below, by name
        result = xp.astype(back, a.dtype)
    if not bool(xp.all(xp.isfinite(result))):
        raise HypothesisError("finite", f"the inverse of {name} overflows {a.dtype}; use a wider dtype")
    return result


def identity(size: Any, like: Any) -> Any:
    """The identity of the given size, of the same kind (words, exact numbers, dtype, device) as ``like``."""
    if symbolic(like):
        return like.identity(size)
    if like.dtype == object:
        zero = like.flat[0] * 0
        eye = np.full((size, size), zero, dtype=object)
        eye[range(size), range(size)] = zero + 1
        return eye
    xp = array_namespace(like)
    return xp.eye(size, dtype=like.dtype, device=device(like))


def condition(a: Any) -> float:
    """cond_1 = |a|_1 |a^-1|_1 of a square matrix of floats, in float64; infinite if it is singular.

    >>> condition(np.diag([1.0, 1e-3]))
    1000.0
    """
    check_matrix(a, "the matrix")
    if symbolic(a) or a.dtype == object:
        raise HypothesisError("real numbers", "cond_1 measures rounding; words and exact numbers do not round")
    if a.shape[0] != a.shape[1]:
        raise HypothesisError("square", f"the matrix is {a.shape[0]} x {a.shape[1]}; cond_1 is for square ones")
    xp = array_namespace(a)
    wide = xp.astype(a, xp.float64)
    try:
        with np.errstate(all="ignore"):
            return scalar(norm1(wide) * norm1(xp.linalg.inv(wide)))
    except Exception:  # LinAlgError of the namespace at hand
        return math.inf


def orthogonal(a: Any) -> bool:
    """Is a a^T = I? Exactly for words and exact numbers, up to rounding for floats.

    >>> orthogonal(np.array([[0.6, 0.8], [-0.8, 0.6]])), orthogonal(np.diag([1.0, 2.0]))
    (True, False)
    """
    if a.shape[0] != a.shape[1]:
        return False
    if symbolic(a):
        return inverse_is_transpose(a)
    gap = a @ a.mT - identity(a.shape[0], a)
    if a.dtype == object:
        return not (gap != 0).any()
    xp = array_namespace(a)
    return scalar(xp.max(xp.abs(gap))) <= 8 * a.shape[0] * float(xp.finfo(a.dtype).eps)


def inverse_is_transpose(a: Any) -> bool:
    """Of a word; also where the letters are formal, so that nothing cancels."""
    try:
        return bool(a.inverse() == a.mT)
    except HypothesisError:
        return False


def symbolic(a: Any) -> bool:
    """Words, and expressions that only write themselves down, know their own inverses."""
    return hasattr(a, "right_inverse")


def agree(**matrices: Any) -> None:
    """Refuse matrices of mixed kinds: floats with words, float32 with float64, CPU with GPU, NumPy with PyTorch."""
    kinds = {name: kind(m) for name, m in matrices.items() if m is not None}
    if len(set(kinds.values())) > 1:
        shown = ", ".join(f"{name} is {k}" for name, k in kinds.items())
        raise HypothesisError("one kind of number", f"all matrices must share library, dtype and device, but {shown}")


def kind(a: Any) -> str:
    if symbolic(a):
        return "symbolic"
    if a.dtype == object:
        return f"numpy object, {entry_kind(a.flat[0])}"
    if isinstance(a, np.ndarray):  # subclasses too
        return f"numpy {a.dtype}"
    return f"{type(a).__module__.split('.')[0]} {a.dtype} on {device(a)}"


def concat(matrices: list[Any]) -> Any:
    """Matrices side by side."""
    if matrices[0].dtype == object:
        return np.concatenate(matrices, axis=1)
    return array_namespace(*matrices).concat(matrices, axis=1)


def complete_basis(columns: Any, name: str = "the columns") -> Any:
    """An invertible d x d matrix whose first columns are the given s <= d independent ones (d x s)."""
    check_matrix(columns, name)
    d, s = columns.shape
    if s > d:
        raise HypothesisError("independent columns", f"{name}: {s} columns of length {d} cannot be independent")
    if columns.dtype != object:
        xp = array_namespace(columns)
        wide = xp.astype(columns, xp.float64)
        values = xp.linalg.svdvals(wide)
        if not scalar(values[-1]) > scalar(values[0]) * d / SINGULAR:
            raise HypothesisError("independent columns", f"{name} are linearly dependent to working precision")
        full = xp.linalg.qr(wide, mode="complete").Q
        return xp.astype(xp.concat([wide, full[:, s:]], axis=1), columns.dtype)
    if rank(columns) < s:
        raise HypothesisError("independent columns", f"{name} are linearly dependent")
    basis, one = columns, identity(d, columns)
    for i in range(d):
        extended = np.concatenate([basis, one[:, i : i + 1]], axis=1)
        if basis.shape[1] < d and rank(extended) == extended.shape[1]:
            basis = extended
    return basis


def rank(a: np.ndarray) -> int:
    """The rank of a matrix of exact numbers."""
    rows, found = fractions(a), 0
    for column in range(a.shape[1]):
        pivot = next((r for r in range(found, len(rows)) if rows[r, column] != 0), None)
        if pivot is None:
            continue
        rows[[found, pivot]] = rows[[pivot, found]]
        rows[found] = rows[found] * (1 / rows[found, column])
        for r in range(found + 1, len(rows)):
            rows[r] = rows[r] - rows[found] * rows[r, column]
        found += 1
    return found


def check_matrix(a: Any, name: str, row: bool = False) -> None:
    """Refuse what is not a matrix of finite real numbers; ``row``: a bias, which may have one dimension."""
    check_array(a, name, row)
    check_finite(a, name)


def check_array(a: Any, name: str, row: bool = False) -> None:
    """Refuse what is not a plain, nonempty, two-dimensional array of real or exact numbers."""
    if symbolic(a):
        return
    if isinstance(a, np.matrix | np.ma.MaskedArray):
        raise HypothesisError(
            "matrix", f"{name} is {described(a)}, with rules of its own; make it a plain array (np.asarray, filled)"
        )
    if getattr(a, "ndim", None) not in ((1, 2) if row else (2,)):
        raise HypothesisError("matrix", f"{name} must be a two-dimensional array, not {described(a)}")
    if 0 in a.shape:
        raise HypothesisError("matrix", f"{name} is empty: {described(a)}")
    if isinstance(a, np.ndarray) and a.dtype == object:
        return check_exact(a, name)
    if "sparse" in str(getattr(a, "layout", "")):
        raise HypothesisError("matrix", f"{name} is sparse; call .to_dense() first")
    try:
        xp = array_namespace(a)
    except TypeError as error:
        raise HypothesisError("matrix", f"{name} must be an array, not {described(a)}") from error
    if not xp.isdtype(a.dtype, "real floating"):
        raise HypothesisError("real numbers", f"{name} has dtype {a.dtype}; convert it to a floating dtype first")


def check_exact(a: np.ndarray, name: str) -> None:
    """Refuse an array of dtype object unless its entries are all rational, or all of one other exact type."""
    kinds = {entry_kind(entry): entry for entry in a.flat}
    for k, entry in kinds.items():
        if isinstance(entry, bool | np.generic) or not hasattr(entry, "__truediv__"):
            raise HypothesisError("real numbers", f"{name} has dtype object and an entry of type {k}")
        if isinstance(entry, Number) and not isinstance(entry, Rational):
            raise HypothesisError(
                "real numbers",
                f"{name} has dtype object, which is for exact numbers, but an entry of type {k}; "
                "use a floating dtype, or make every entry a Fraction",
            )
    if len(kinds) > 1:
        raise HypothesisError("one kind of number", f"the entries of {name} are {' and '.join(sorted(kinds))}")


def entry_kind(x: Any) -> str:
    """int and Fraction are one kind: the rational numbers."""
    exact = isinstance(x, Rational) and not isinstance(x, bool | np.generic)
    return "rational" if exact else type(x).__name__


def check_finite(a: Any, name: str) -> None:
    if symbolic(a) or a.dtype == object:
        return
    if str(device(a)) == "meta":
        raise HypothesisError("real numbers", f"{name} is on the device meta: it has a shape and no numbers")
    xp = array_namespace(a)
    if not bool(xp.all(xp.isfinite(a))):
        raise HypothesisError("finite", f"{name} contains NaN or infinity")


def described(a: Any) -> str:
    shape = getattr(a, "shape", None)
    return f"a {type(a).__name__}" + ("" if shape is None else f" of shape {tuple(shape)}")


def scalar(x: Any) -> float:
    """A 0-dimensional array as a number for messages and decisions; of a tensor, without its gradient."""
    return float(x.detach() if hasattr(x, "detach") else x)


def norm1(a: Any) -> Any:
    xp = array_namespace(a)
    return xp.max(xp.sum(xp.abs(a), axis=0))


def warn_if_near_singular(a: Any, cond: float, name: str) -> None:
    if not cond < SINGULAR:
        raise singular(name, cond)
    eps = float(array_namespace(a).finfo(a.dtype).eps)
    if cond > eps**-0.5:
        warnings.warn(
            f"{name} is nearly singular: condition number {cond:.1e}; "
            f"expect a relative error of up to about {eps * cond:.1e} in {a.dtype}",
            ConditionWarning,
            stacklevel=outside(),
        )


def outside() -> int:
    """The stack level of the first caller that is not this package: that is the line a warning should name."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("qkvtheory."):
        frame, level = frame.f_back, level + 1
    return level


def singular(name: str, cond: float) -> HypothesisError:
    size = "infinite" if math.isinf(cond) or math.isnan(cond) else f"{cond:.1e}"
    return HypothesisError("invertible", f"{name} is singular to working precision (condition number {size})")


def gauss_jordan(a: np.ndarray, name: str = "the matrix") -> np.ndarray:
    """The inverse over any field, by elimination: entries need +, -, *, / and comparison with 0."""
    size, a = len(a), fractions(a)
    rows = np.concatenate([a, identity(size, a)], axis=1)
    for i in range(size):
        pivot = next((r for r in range(i, size) if rows[r, i] != 0), None)
        if pivot is None:
            raise HypothesisError("invertible", f"{name} is singular")
        rows[[i, pivot]] = rows[[pivot, i]]
        rows[i] = rows[i] * (1 / rows[i, i])
        for r in range(size):
            if r != i and rows[r, i] != 0:
                rows[r] = rows[r] - rows[i] * rows[r, i]
    return rows[:, size:]


def fractions(a: np.ndarray) -> np.ndarray:
    """A copy with Fractions for whole numbers, because int / int would be a float; other entries as they are."""
    return np.frompyfunc(lambda x: Fraction(x) if isinstance(x, int) else x, 1, 1)(a)
