"""The text and the markup that the stills of all widgets share; ``qkv.mjs`` writes the same text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import numpy as np

# --- numbers ---


def fixed(x: float, digits: int) -> str:
    """JavaScript's toFixed: decimal places, ties away from zero, no sign on a true zero.

    >>> fixed(0.125, 2), fixed(-0.0, 1)
    ('0.13', '0.0')
    """
    return str(Decimal(x or 0.0).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP))


def power(x: float, digits: int) -> str:
    mantissa, exponent = f"{x:.{digits}e}".split("e")
    return f"{mantissa}e{int(exponent)}".replace("-", "−")


def num(x: float) -> str:
    """At most five signs, so that the numbers of neighboring cells do not touch.

    >>> num(-12.345), num(-0.004), num(2e5)
    ('−12.3', '0.00', '2e5')
    """
    size = abs(x)
    if not math.isfinite(x):
        return "∞"
    if size < 0.005:
        return "0.00"
    if size < 9999.5:
        return fixed(x, 2 if size < 9.995 else 1 if size < 99.95 else 0).replace("-", "−")
    return power(x, 0)


def sci(x: float) -> str:
    """A size, from the smallest to the largest: plain around one, else in powers of ten.

    >>> sci(12.34), sci(2.2e-16)
    ('12.3', '2.2e−16')
    """
    if x == 0 or not math.isfinite(x):
        return "0" if x == 0 else "∞"
    return fixed(x, 1) if 0.1 <= x < 1000 else power(x, 1)


def listed(names: Sequence[str]) -> str:
    """
    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join([", ".join(names[:-1])] * (len(names) > 1) + list(names[-1:]))


# --- markup ---


UNIT, REACH = 52, 2  # the length 1 of a plane in its picture, and how far from its center a handle goes


def pixel(point: Iterable[float]) -> str:
    """A point of the plane in its picture, where the y axis points down."""
    x, y = point
    return f"{fixed(UNIT * x, 1)} {fixed(-UNIT * y, 1)}"


def shade(x: float, limit: float) -> str:
    """The color of a cell: white at 0, full at ``limit``, another color below zero."""
    size = fixed(min(1.0, abs(x) / limit), 2)
    return f"--v:{size};--hi:var(--cell-neg)" if x < 0 and size != "0.00" else f"--v:{size}"


def matrix(part: str, title: str, label: str, kind: str, a: np.ndarray, limit: float, below: str, marks: Any) -> str:
    """One matrix as colored cells. ``kind`` is "map" (0 to ``limit``) or "signed"; ``marks`` names a class per cell."""
    cells = "".join(
        f'<span style="{shade(float(x), limit)}" class="{marks[at]}">{num(float(x))}</span>'
        for at, x in np.ndenumerate(a)
    )
    return (
        f'<div class="qkv-matrix" style="--n:{a.shape[1]}"><p>{title}</p>'
        f'<div role="img" aria-label="{label}" class="qkv-{kind}" data-part="{part}">{cells}</div>{below}</div>'
    )


def column(title: str, kind: str, inside: str) -> str:
    return f'<div class="qkv-column"><p class="qkv-title">{title}</p><div class="{kind}">{inside}</div></div>'


def plane(label: str, inside: str) -> str:
    return f'<svg viewBox="-160 -160 320 320" role="group" aria-label="{label}">{inside}</svg>'


def handle(kind: str, index: int, row: Iterable[float], label: str, text: str) -> str:
    """A knob to drag, at a point of the plane; it is a slider to those who do not see it."""
    x, y = row
    return (
        f'<g class="qkv-handle {kind}" data-part="{kind} {index}" role="slider" aria-label="{label}" '
        f'aria-valuemin="-{REACH}" aria-valuemax="{REACH}" aria-valuenow="{fixed(x, 2)}" '
        f'aria-valuetext="{num(x)}, {num(y)}" transform="translate({pixel((x, y))})">'
        f'<circle class="hit" r="24"/><circle class="ring" r="15"/><circle class="knob" r="11"/>'
        f'<text dy="4">{text}</text></g>'
    )
