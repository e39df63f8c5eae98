"""Predicted and measured redundancy, side by side: what the rank lanes of this chapter compare, and its page shows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from qkvtheory import freedom, redundancy
from qkvtheory.claims.model import Pairs
from qkvtheory.freedom import Architecture, Layer


class Row(NamedTuple):
    """Redundant parameters of one case. ``gap``: between the singular values that count and those that do not."""

    case: str
    parameters: int
    predicted: int
    measured: int
    gap: float


@cache
def layer_dimension(a: Layer) -> redundancy.Dimension:
    return redundancy.layer_dimension(a)


@cache
def network_dimension(a: Architecture) -> redundancy.Dimension:
    return redundancy.network_dimension(a)


def layer_rows(cases: Mapping[str, Layer] = freedom.LAYERS) -> list[Row]:
    """Of attention layers as functions of X. Raises ValueError where no gap of 1e6 tells a rank."""
    rows = []
    for name, a in cases.items():
        found = layer_dimension(a)
        rows.append(Row(name, a.parameters, freedom.layer_redundancy(a), a.parameters - found.rank, found.gap))
    return rows


def network_rows(cases: Mapping[str, Architecture] = freedom.CASES) -> list[Row]:
    """Of whole networks as functions of their tokens. Raises ValueError where no gap of 1e6 tells a rank."""
    rows = []
    for name, a in cases.items():
        found, size = network_dimension(a), freedom.parameters(a)
        rows.append(Row(name, size, sum(freedom.redundancy(a).values()), size - found.rank, found.gap))
    return rows


def smallest_gap(rows: Iterable[Row]) -> float:
    return min(row.gap for row in rows)


def compared(rows: Iterable[Row]) -> Pairs:
    return [(row.predicted, row.measured) for row in rows]


def predicted(a: Architecture) -> int:
    """The formulas, also where their hypotheses fail."""
    return sum(freedom.parts(a).values())


def measured(a: Architecture) -> int:
    return freedom.parameters(a) - network_dimension(a).rank


Change = Callable[[dict[str, np.ndarray]], None]  # of the weights of a point, in place


def measured_at(point: redundancy.Point, change: Change) -> int:
    """Parameters less rank at another point."""
    function, weights = point
    change(weights)
    size = sum(weight.size for weight in weights.values())
    return size - redundancy.functional_dimension(function, [*weights.values()]).rank


def repeated(point: redundancy.Point, times: int) -> redundancy.Point:
    """The same few outputs over and over: enough of them for a rank to be taken, and not enough for it to be right."""
    function, weights = point

    def many(*given: Any) -> Any:
        return np.concatenate([function(*given)] * times)

    return many, weights
