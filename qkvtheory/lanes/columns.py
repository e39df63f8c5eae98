"""Words whose columns can be counted: what ``gauge.select_columns`` needs so that the bridge can run it unchanged."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from qkvtheory.words import Word, symbol


class Columns(Word):
    """A word whose columns can be counted, picked and set side by side, as ``select_columns`` does through the array
    API. Here the sizes are numbers; the printed lemma is for all sizes.
    """

    dtype = "word"

    def __init__(self, name: str, rows: Any, cols: Any):
        super().__init__(rows, cols, symbol(name, rows, cols, invertible=rows == cols).terms)
        self.name = name

    def __getitem__(self, key: tuple[slice, slice]) -> Columns:
        start, stop, _ = key[1].indices(int(self.cols))
        return Columns(f"{self.name}[{start}:{stop}]", self.rows, stop - start)

    def __array_namespace__(self, **_: Any) -> Any:
        return SideBySide

    @staticmethod
    def identity(size: Any) -> Columns:
        return Columns("I", size, size)


class SideBySide:
    """As much of the array API as it takes to complete independent columns to a basis."""

    float64 = None

    @staticmethod
    def astype(a: Columns, _: Any) -> Columns:
        return a

    @staticmethod
    def concat(parts: list[Columns], axis: int) -> Columns:
        return Columns(" | ".join(part.name for part in parts), parts[0].rows, sum(int(part.cols) for part in parts))

    class linalg:
        @staticmethod
        def svdvals(_: Columns) -> tuple[float]:
            return (1.0,)

        @staticmethod
        def qr(a: Columns, mode: str) -> Any:
            return SimpleNamespace(Q=Columns("U", a.rows, a.rows))
