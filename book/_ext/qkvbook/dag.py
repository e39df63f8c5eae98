"""Who uses whom, drawn in columns: a claim stands to the right of every claim it uses.

An arrow that follows from others is left out: where c uses b and b uses a, no line runs from a to c.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from html import escape
from typing import Any

WIDTH, HEIGHT, ACROSS, DOWN = 164, 30, 193, 42


def layers(uses: dict[str, list[str]]) -> list[list[str]]:
    """Names by depth. Raises RecursionError where claims use each other in a circle.

    >>> layers({"a": [], "b": ["a"], "c": ["a", "b"]})
    [['a'], ['b'], ['c']]
    """

    @cache
    def depth(name: str) -> int:
        return 1 + max((depth(used) for used in uses[name]), default=-1)

    rows: list[list[str]] = []
    for name in uses:
        rows += [[] for _ in range(depth(name) + 1 - len(rows))]
        rows[depth(name)].append(name)
    return rows


def direct(uses: dict[str, list[str]]) -> dict[str, list[str]]:
    """The uses that do not follow from others.

    >>> direct({"a": [], "b": ["a"], "c": ["a", "b"]})["c"]
    ['b']
    """

    @cache
    def below(name: str) -> frozenset[str]:
        return frozenset(uses[name]).union(*(below(used) for used in uses[name]))

    return {
        name: [used for used in used_by if not any(used in below(other) for other in used_by)]
        for name, used_by in uses.items()
    }


def places(uses: dict[str, list[str]]) -> dict[str, tuple[float, float]]:
    """The upper left corner of each box; within a column, boxes stand in the order of what they use."""
    spots: dict[str, tuple[float, float]] = {}
    columns = layers(uses)
    tallest = max(map(len, columns), default=0)
    for depth, column in enumerate(columns):
        column = sorted(column, key=lambda name: sum(spots[used][1] for used in uses[name]) / max(1, len(uses[name])))
        top = (tallest - len(column)) * DOWN / 2 + 2
        spots |= {name: (depth * ACROSS + 2.0, top + at * DOWN) for at, name in enumerate(column)}
    return spots


def drawing(claims: dict[str, dict[str, Any]], address: Callable[[str], str]) -> str:
    """The drawing as inline SVG; every box is a link."""
    uses = direct({name: [used for used in claim["uses"] if used in claims] for name, claim in claims.items()})
    spots = places(uses)
    width = max((x for x, _ in spots.values()), default=0) + WIDTH + 2
    height = max((y for _, y in spots.values()), default=0) + HEIGHT + 2
    edges = "".join(_edge(spots[used], spots[name]) for name in uses for used in uses[name])
    boxes = "".join(_box(name, spots[name], claims[name]["rank"], address(name)) for name in uses)
    label = f"{len(uses)} claims and what each uses; the list below says the same in words"
    size = f'viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}"'
    return f'<div class="scroll dag"><svg {size} role="group" aria-label="{label}">{edges}{boxes}</svg></div>'


def _edge(used: tuple[float, float], user: tuple[float, float]) -> str:
    (x1, y1), (x2, y2) = (used[0] + WIDTH, used[1] + HEIGHT / 2), (user[0], user[1] + HEIGHT / 2)
    bend = (x2 - x1) / 2
    return f'<path d="M{x1:g} {y1:g}C{x1 + bend:g} {y1:g} {x2 - bend:g} {y2:g} {x2:g} {y2:g}"/>'


def _box(name: str, spot: tuple[float, float], rank: str, href: str) -> str:
    x, y = spot
    text = f'<text x="{x + WIDTH / 2:g}" y="{y + HEIGHT / 2 + 4:g}" text-anchor="middle">{escape(name)}</text>'
    frame = f'<rect x="{x:g}" y="{y:g}" width="{WIDTH}" height="{HEIGHT}" rx="6"/>'
    return f'<a href="{escape(href)}" class="{rank}">{frame}{text}</a>'
