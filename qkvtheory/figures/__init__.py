"""The charts of the book: each from one set of numbers, as an interactive plotly figure and as still pictures.

    interactive, still, alt = FIGURES["error-ladder"]
    interactive()       # a plotly figure as plain data: {"data": [...], "layout": {...}}
    still("dark")       # SVG text; theme "light" (also for print) or "dark"
    alt                 # what the chart says, in words, written from its numbers

The numbers come from ``book/results/``, where ``qkvtheory.experiments`` stores them. Only ``still`` needs matplotlib.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

from qkvtheory.evidence import RESULTS, stored

__all__ = ["FIGURES", "RESULTS", "Figure", "Figures", "picture", "stored"]


class Figure(NamedTuple):
    """One chart: ``interactive()`` and ``still(theme)`` draw the same numbers, ``alt`` says them."""

    interactive: Callable[[], dict[str, Any]]
    still: Callable[[str], str]
    alt: str


class Figures(Mapping[str, Figure]):
    """Name -> Figure. A figure's module and numbers are read when it is asked for, not when the names are listed."""

    sources: ClassVar = {
        "error-ladder": "ladder",
        "error-depth": "depth",
        "pretrained-conditions": "pretrained",
        "slim": "slim",
        "absorb": "absorb",
        "decode": "decode",
        "sharing": "sharing",
        "identity": "identity",
        "rates": "rates",
        "synthetic": "synthetic",
        "pair-bound": "pair_bound",
        "recall": "recall",
        "digits": "digits",
        "posthoc": "posthoc",
        "padding": "padding",
        "overfitting": "overfitting",
    }

    def __getitem__(self, name: str) -> Figure:
        source = self.sources[name]
        module, data = importlib.import_module(f"qkvtheory.figures.{source}"), stored(source)
        return Figure(
            lambda: module.interactive(data),
            lambda theme: module.still(data, theme),
            module.alt(data),
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self.sources)

    def __len__(self) -> int:
        return len(self.sources)


FIGURES = Figures()
# Modules with html(): drawings that take their colors from the page.
PICTURES = ("projections_left", "query_in_the_plane")


def picture(name: str) -> str:
    """The drawing ``name`` (with dashes) as HTML. Raises ValueError for a name that is none."""
    module = name.replace("-", "_")
    if module not in PICTURES:
        raise ValueError(f"no picture is called {name!r}; there are: {', '.join(PICTURES).replace('_', '-')}")
    return importlib.import_module(f"qkvtheory.figures.{module}").html()
