"""Two heads over the field of three elements: for every W_Q, all rewritings with identity queries, tried one by one.

Tokens and weights have entries 0, 1, 2. This field has no exponential. Kernel and maps lie in the field of nine
elements a + b i instead, where three values exist of which no two, nor one taken twice, add up to zero: that is what
positive is needed for. d = 2 and W_K = W_V = I; a rewriting is Theta with K = Theta W_K' and V = Theta W_V'.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from itertools import product
from typing import Any

import numpy as np

INJECTIVE = (1, 1j, 1 + 1j)  # the kernel at the scores 0, 1, 2
CONSTANT = (1, 1, 1)
COLUMNS = np.array(list(product(range(3), repeat=2)))  # every column of two entries
UNITS = (3, 1)  # the numbers of (1, 0) and (0, 1) among them


def reduced(z: Any) -> Any:
    """a + b i with a and b modulo 3."""
    return z.real % 3 + 1j * (z.imag % 3)


@cache
def every_head(kernel: tuple[complex, ...], tokens: int) -> tuple[Any, Any]:
    """What a head of width one returns to each token of each input: (numerator, denominator).

    Axes: its columns of W_Q, of W_K and of W_V (9 each), then all tokens of all inputs.
    """
    X = np.array(list(product(COLUMNS, repeat=tokens)))
    q = k = v = X @ COLUMNS.T % 3  # inputs x tokens x 9
    weights = np.array(kernel)[np.einsum("xiq,xjk->qkxij", q, k) % 3]
    top = reduced(np.einsum("qkxij,xjv->qkvxi", weights, v)).reshape(9, 9, 9, -1)
    return top, reduced(weights.sum(axis=-1)).reshape(9, 9, 1, -1)


@cache
def rewritings(query: int, unit: int, kernel: tuple[complex, ...], tokens: int) -> list[tuple[int, ...]]:
    """All columns (of Theta, K, V) that return on every input what the head with this column of W_Q returns."""
    top, bottom = every_head(kernel, tokens)
    same = reduced(top * bottom[query, unit]) == reduced(top[query, unit, unit] * bottom)
    return [tuple(map(int, columns)) for columns in np.argwhere(same.all(axis=-1))]


@cache
def eliminable(queries: tuple[int, ...], kernel: tuple[complex, ...] = INJECTIVE, tokens: int = 2) -> bool:
    """Is there one Theta for both heads, with K and V in its column space?"""
    heads = (rewritings(query, unit, kernel, tokens) for query, unit in zip(queries, UNITS, strict=True))
    pairs = (tuple(zip(*both, strict=True)) for both in product(*heads))
    return any({*keys, *values} <= span(theta) for theta, keys, values in pairs)


@cache
def span(theta: tuple[int, int]) -> frozenset[int]:
    """The numbers of all columns Theta w."""
    reached = COLUMNS @ COLUMNS[list(theta)] % 3  # row w gives w_1 theta_1 + w_2 theta_2
    return frozenset(numbers(reached))


def numbers(columns: Any) -> Iterable[int]:
    return map(int, columns @ (3, 1))


def parallel(queries: tuple[int, ...]) -> bool:
    """Two columns, neither of them zero, of which one is a multiple of the other."""
    first, second = COLUMNS[list(queries)]
    return bool(first.any() and second.any() and (first[0] * second[1] - first[1] * second[0]) % 3 == 0)


def impossible(kernel: tuple[complex, ...] = INJECTIVE, tokens: int = 2) -> int:
    """For how many of the 81 matrices W_Q there is no rewriting."""
    return sum(not eliminable(queries, kernel, tokens) for queries in product(range(9), repeat=2))


def disagreements(kernel: tuple[complex, ...] = INJECTIVE, tokens: int = 2) -> int:
    """For how many of them the prediction fails: none exactly for parallel columns."""
    return sum(parallel(queries) == eliminable(queries, kernel, tokens) for queries in product(range(9), repeat=2))
