"""Which attention maps one head can produce (chapter 1): building a head for a given map."""

from __future__ import annotations

from typing import Any

from qkvtheory.errors import HypothesisError
from qkvtheory.linalg import concat, identity, right_inverse


def head_for(log_map: Any, x: Any, head_width: int) -> tuple[Any, Any]:
    """(W_Q, W_K), each d x head_width, with scores x W_Q (x W_K)^T equal to ``log_map`` up to row constants.

    log_map: n x n, the entrywise logarithm (in the base of the row pattern) of a positive map; x: n x d of rank n.
    Since softmax ignores row constants, subtracting the last column loses nothing and leaves n - 1 columns: a head of
    width n - 1 is enough. Raises HypothesisError if head_width < n - 1 or the tokens are linearly dependent.

    >>> import numpy as np
    >>> W_Q, W_K = head_for(np.log([[0.9, 0.1], [0.5, 0.5]]), np.eye(2), 1)
    >>> W_Q.shape
    (2, 1)
    """
    n = len(log_map)
    if head_width < max(n - 1, 1):
        raise HypothesisError(
            "head width at least n - 1", f"{n} tokens in general need a head of width {n - 1}, not {head_width}"
        )
    back = right_inverse(x, "the tokens x")
    one = identity(n, log_map)
    queries, keys = log_map - log_map[:, -1:], one
    return back @ resized(queries, head_width), back @ resized(keys, head_width)


def resized(columns: Any, width: int) -> Any:
    """The first n - 1 of n columns, and columns of zeros up to ``width``."""
    zero = columns[:, :1] * 0
    kept = columns.shape[1] - 1
    return concat([columns[:, :kept], *[zero] * (width - kept)])
