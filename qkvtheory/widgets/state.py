"""What a widget checks about the state it is given. Every message names the value, what it is and what was expected."""

from __future__ import annotations

from typing import Any

import numpy as np

State = dict[str, Any]


def complete(default: State, given: State) -> State:
    """The state with defaults for what was not given. Raises ValueError for a name that it does not have."""
    unknown = set(given) - set(default)
    if unknown:
        raise ValueError(f"unknown: {', '.join(sorted(unknown))}; the state has {', '.join(default)}")
    return {**default, **given}


def check_rows(name: str, value: Any, rows: tuple[int, ...]) -> list[list[float]]:
    """Rows of two finite numbers, as JSON values."""
    counts = f"{rows[0]} to {rows[-1]}" if len(rows) > 2 else " or ".join(map(str, rows))
    wanted = f"{counts} rows of 2 finite numbers"
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be {wanted}") from error
    if array.ndim != 2 or array.shape[0] not in rows or array.shape[1] != 2:
        raise ValueError(f"{name} must be {wanted}, not of shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be {wanted}; it holds NaN or infinity")
    return array.tolist()


def check_number(name: str, value: Any, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ValueError(f"{name} must be a number from {low} to {high}, not {value!r}")
    return float(value)


def check_flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, not {value!r}")
    return value


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
    return str(value)
