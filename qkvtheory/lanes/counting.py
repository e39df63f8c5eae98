"""Multiply-accumulates, counted while a model runs: arrays that keep account of every matrix product they enter.

A formula for the cost of a sublayer is compared with what the sublayer does, product by product, on a small example.
Sums, masks and softmax are no products of matrices and cost nothing here, as in the formulas. Products are counted
where they are written with ``@``; in another form they are refused, so that none is left out of the account.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

# Functions of NumPy that multiply matrices out of sight of ``matmul``.
PRODUCTS = (
    *("dot", "vdot", "inner", "outer", "kron", "einsum", "tensordot", "convolve", "correlate", "cov", "corrcoef"),
    *("multi_dot", "inv", "pinv", "solve", "lstsq", "tensorinv", "tensorsolve"),
)


class Tally:
    """Multiply-accumulates so far. The same product of the same two arrays counts once: it need not be formed again,
    as when queries and keys share a projection.
    """

    def __init__(self) -> None:
        self.total = 0
        self.seen: dict[tuple[int, int], tuple[Any, Any]] = {}  # holds the arrays, so that no other takes their place

    def product(self, left: Any, right: Any, result: Any) -> None:
        pair = id(left), id(right)
        if pair not in self.seen:
            self.seen[pair] = left, right
            self.total += np.size(result) * left.shape[-1]


class Counted(np.ndarray):
    """An array whose matrix products, and those of all that is computed from it, are added to a tally.

    >>> tally = Tally()
    >>> x = counted(np.ones((3, 4)), tally)
    >>> y = np.where(True, x @ np.ones((4, 5)), 0) @ np.ones((5, 1))
    >>> y.tolist(), tally.total
    ([[20.0], [20.0], [20.0]], 75)

    Raises TypeError for a product in another form; only ``W.dot(x)`` of a plain W is out of its sight.
    """

    tally: Tally | None = None

    def __array_finalize__(self, parent: Any) -> None:
        self.tally = getattr(parent, "tally", None)

    def dot(self, *_: Any, **__: Any) -> Any:
        raise refused("dot")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        if method == "outer" or (ufunc.signature and ufunc is not np.matmul):
            raise refused(ufunc.__name__)
        if "out" in options:
            options["out"] = tuple(plain(a) for a in options["out"])
        result, tally = getattr(ufunc, method)(*(plain(a) for a in inputs), **options), tally_of(inputs)
        if ufunc is np.matmul:
            tally.product(inputs[0], inputs[1], result)
        return counted(result, tally)

    def __array_function__(self, function: Any, types: Any, arguments: Any, options: Any) -> Any:
        """What NumPy's functions make of counted arrays is counted too; several of them would forget it."""
        if function.__name__ in PRODUCTS:
            raise refused(function.__name__)
        result = super().__array_function__(function, (type(self), np.ndarray), arguments, options)
        return counted(result, self.tally) if type(result) is np.ndarray else result


def refused(name: str) -> TypeError:
    return TypeError(f"'{name}' is a product that is not counted; write it with @, so that it enters the account")


def counted(a: Any, tally: Tally | None) -> Any:
    """A view of the array that is counted."""
    view = np.asarray(a).view(Counted)
    view.tally = tally
    return view


def plain(a: Any) -> Any:
    return a.view(np.ndarray) if isinstance(a, Counted) else a


def tally_of(inputs: tuple[Any, ...]) -> Tally:
    return next(a.tally for a in inputs if isinstance(a, Counted) and a.tally is not None)


def macs(run: Callable[[Any], Any], x: Any) -> int:
    """Multiply-accumulates of ``run(x)``, a function of one array: those of products in which x has a part.

    >>> macs(lambda x: x @ (np.eye(4) @ np.ones((4, 2))), np.ones((3, 4)))      # the product of weights is not x's
    24
    """
    tally = Tally()
    run(counted(x, tally))
    return tally.total
