"""What the claims of this chapter share: a residual query in any world, sublayers that ask with it, and counted claims."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from qkvtheory import queries
from qkvtheory.claims.degrees_of_freedom.common import in_words, of_heads, on_diagonal
from qkvtheory.claims.model import Claim, Control, Source, Statement

CHAPTER = "nonlinear-queries"
OURS = Source("derived")
PAPER = Source("paper", "karbevski2026nonlinear")
CODE = Source("code", "karbevski2026nonlinear", note="the public code")
NUMBERS = ("exact", "numeric")


def query(w: Any, **norms: Any) -> queries.ResidualQuery:
    """x + act(x W_1) W_2 with an unknown activation; ``norms``: inner_norm, outer_norm."""
    return queries.ResidualQuery(w.function("phi"), w.matrix("W_1", "d", "s"), w.matrix("W_2", "s", "d"), **norms)


def bare_query(w: Any) -> queries.ResidualQuery:
    """The query of the identity alone: f = 0."""
    q = query(w)
    return replace(q, W_2=q.W_2 - q.W_2)


def sublayer(w: Any, q: Any, biases: bool = False) -> queries.QueryAttention:
    """The setting's heads behind this query; in words one softmax head as wide as the stream."""
    core = w.head if in_words(w) else w.core()
    weights = {name: w.integers(name, "d", "d") for name in ("W_K", "W_V", "W_O")}
    rows = {f"b_{c}": w.matrix(f"b_{c}", "1", "d") for c in "KVO" if biases}
    return queries.QueryAttention(core, q, **weights, **rows)


def blocks(w: Any, make: Any) -> Any:
    """A matrix of the stream with one block for each head; in words, where there is one head, one block.

    ``make``: of a name and a size.
    """
    return make("Theta", "d") if in_words(w) else on_diagonal(of_heads(w, lambda head: make("Theta" + head, "h")))


def verdict(w: Any, *answers: Any) -> Any:
    """Answers as a column of ones and zeros."""
    return np.array([[w.identity("1")[0, 0] * int(bool(answer))] for answer in answers])


def counted(sides: Statement, **described: Any) -> Claim:
    """A claim that is counted, and checked nowhere else."""
    lanes: dict[str, Any] = {"lanes": ("count",), "special": {"count": sides}}
    return Claim(rank="remark", chapter=CHAPTER, kind="count", sides=sides, **lanes, **described)


def wrong(hypothesis: str, what: str, sides: Statement) -> Control:
    return Control(hypothesis, what, sides, lanes=("count",))
