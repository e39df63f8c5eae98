"""Every head over a field of a few elements: when it is one with keys equal to values, decided by trying all of them."""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import Any

import numpy as np

from qkvtheory.claims.model import Pairs


@cache
def heads_over(q: int, d: int, h: int) -> tuple[Any, Any, Any, Any]:
    """All d x h matrices T over the field of q elements: which of them have rank h; the products T_a T_b^T, each as one
    whole number; for each value matrix N the score matrices M that tied heads have beside it; and whether the columns
    of T_b lie in the span of those of T_a.
    """
    tall = np.array(list(product(range(q), repeat=d * h))).reshape(-1, d, h)
    combinations = np.array(list(product(range(q), repeat=h))).T
    P = np.stack([coded(t @ tall.transpose(0, 2, 1), q) for t in tall])
    spanned = [{*coded((t @ combinations).T, q).tolist()} for t in tall]
    columns = [coded(t.T, q).tolist() for t in tall]
    within = np.array([[all(column in span for column in of_b) for of_b in columns] for span in spanned])
    reached: dict[int, set[int]] = {}
    for z in range(len(tall)):
        scores = set(P[:, z].tolist())
        for N in set(P[z].tolist()):
            reached.setdefault(N, set()).update(scores)
    full = np.array([len(span) == q**h for span in spanned])
    return full, P, reached, within


def coded(a: Any, q: int) -> Any:
    """Each matrix as one whole number."""
    flat = (a % q).reshape(len(a), -1)
    return flat @ q ** np.arange(flat.shape[1])


def decided(q: int, d: int, h: int, values: bool = True, outputs: bool = True) -> tuple[int, int, int]:
    """Over all heads whose W_V (``values``) and W_O (``outputs``) have rank h, or else have not: how many pairs (M, N)
    the criterion gives, how many tied heads reach, and for how many heads the two disagree.
    """
    full, P, reached, _ = heads_over(q, d, h)
    predicted = found = wrong = 0
    for v, o in product(np.flatnonzero(full == values), np.flatnonzero(full == outputs)):
        inside, there = set(P[:, v].tolist()), reached[P[v, o]]  # W W_V^T for all W: all M with rows in the span
        predicted, found, wrong = predicted + len(inside), found + len(there), wrong + (inside != there)
    return predicted, found, wrong


def decided_by_keys(q: int, d: int, h: int, queries: bool = True) -> tuple[int, int]:
    """The same by the columns of W_K, for all heads whose W_V and W_O have rank h, and W_Q (``queries``) too, or else
    has not: how many heads a tied one equals, and for how many the criterion says otherwise.
    """
    full, P, reached, within = heads_over(q, d, h)
    equalled = wrong = 0
    for v, o in product(np.flatnonzero(full), repeat=2):
        tied = np.isin(P[full == queries], list(reached[P[v, o]]))
        equalled, wrong = equalled + int(tied.sum()), wrong + int((tied != within[v]).sum())
    return equalled, wrong


SMALL = ((2, 2, 1), (3, 2, 1), (5, 2, 1), (2, 3, 1), (3, 3, 1), (2, 3, 2), (2, 2, 2))  # field, width, head width


def over_small_fields(_: Any) -> Pairs:
    """Every head over a small field, and every tied head: the criterion decides all of them."""
    counts = [decided(*sizes) for sizes in SMALL]
    pairs = [pair for predicted, found, wrong in counts for pair in ((predicted, found), (0, wrong))]
    return pairs + [(0, decided_by_keys(*sizes)[1]) for sizes in SMALL]


def disagreements(full: tuple[bool, bool], _: Any) -> Pairs:
    """None predicted for heads of this kind over the field of two elements."""
    return [(0, decided(2, 3, 2, *full)[2])]


def disagreements_of_queries(_: Any) -> Pairs:
    return [(0, decided_by_keys(2, 3, 2, queries=False)[1])]
