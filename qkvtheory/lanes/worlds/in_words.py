"""Letters of symbolic size: what holds here holds for all sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from qkvtheory import words
from qkvtheory.lanes.worlds.world import Comparison, World
from qkvtheory.network import Attention

EVERYTHING = frozenset({"*"})


class Words(World):
    """Letters of symbolic size. ``assume``: hypotheses that are declared; ``apply``: those that may cancel anything."""

    lane = "symbolic"

    def __init__(self, assume: Iterable[str] = EVERYTHING, apply: Iterable[str] = EVERYTHING):
        self.assume, self.apply = frozenset(assume), frozenset(apply)

    def holds(self, hypothesis: str, among: frozenset[str]) -> bool:
        return among is EVERYTHING or hypothesis in among or "*" in among

    def matrix(self, name: str, rows: str, cols: str) -> words.Word:
        return words.symbol(name, rows, cols)

    def invertible(self, name: str, size: str, hypothesis: str = "H2") -> words.Word:
        declared = self.holds(hypothesis, self.assume)
        return words.symbol(
            name, size, size, invertible=declared, formal=declared and not self.holds(hypothesis, self.apply)
        )

    def orthogonal(self, name: str, size: str, hypothesis: str = "H1") -> words.Word:
        declared = self.holds(hypothesis, self.assume)
        return words.symbol(
            name, size, size, orthogonal=declared, formal=declared and not self.holds(hypothesis, self.apply)
        )

    def fixing_ones(self, name: str, size: str, hypothesis: str = "H1", fixes: str = "H2") -> words.Word:
        facts = {"orthogonal": self.holds(hypothesis, self.assume), "rows_sum_to_one": self.holds(fixes, self.assume)}
        applied = self.holds(hypothesis, self.apply) and self.holds(fixes, self.apply)
        return words.symbol(name, size, size, **facts, formal=any(facts.values()) and not applied)

    def full_row_rank(self, name: str, rows: str, cols: str, hypothesis: str = "H2") -> words.Word:
        declared = self.holds(hypothesis, self.assume)
        return words.symbol(
            name, rows, cols, full_row_rank=declared, formal=declared and not self.holds(hypothesis, self.apply)
        )

    def singular(self, name: str, size: str) -> tuple[words.Word, words.Word]:
        return words.symbol(name, size, size), words.symbol(f"{name}^+", size, size)

    def annihilator(self, name: str, rows: str, of: words.Word) -> words.Word:
        return words.annihilator(name, rows, of)

    def identity(self, size: str) -> words.Word:
        return words.identity(size)

    def ones(self, size: str) -> words.Word:
        return words.ones(size)

    def function(self, name: str, cols: str | None = None, rows: str | None = None) -> Callable[..., words.Word]:
        return words.opaque(name, cols, rows)

    def core(self) -> Callable[..., words.Word]:
        return words.opaque("g", "o")

    def attention(self, *, square: bool = False, **given: Any) -> Attention:
        if square:
            given.setdefault("core", words.opaque("g", "d"))
        return super().attention(square=square, **given)

    def softmax(self, scores: Any, law: str = "row-constants-invisible", rows: str = "rows sum to one") -> words.Word:
        if self.holds(law, self.apply):
            scores = words.softmax(scores).sorted_terms()[0][0][0].args[0]
        return words.opaque("softmax", rows_sum_to_one=self.holds(rows, self.apply))(scores)

    def exp(self, scores: words.Word, law: str = "H1") -> words.Word:
        return words.exponential(scores) if self.holds(law, self.apply) else words.opaque("exp", entrywise=True)(scores)

    def kernel(self, scores: words.Word) -> words.Word:
        return words.opaque("phi", entrywise=True)(scores)

    def symmetric(self, name: str, size: str, hypothesis: str = "H1") -> words.Word:
        declared = self.holds(hypothesis, self.assume)
        formal = declared and not self.holds(hypothesis, self.apply)
        return words.symbol(name, size, size, symmetric=declared, formal=formal)

    def centering(self, size: str) -> words.Word:
        return words.centering(size)

    def diagonal(self, v: words.Word, hypothesis: str = "H1") -> words.Word:
        declared = self.holds(hypothesis, self.assume)
        return words.diagonal(v, invertible=declared, formal=declared and not self.holds(hypothesis, self.apply))

    def rotate(self, z: words.Word) -> words.Word:
        return words.opaque("R")(z)

    def compare(self, left: words.Word, right: words.Word) -> Comparison:
        equal = left == right
        return Comparison(equal, 1, 0.0 if equal else 1.0)
