"""How many dimensions the two products of one head have."""

from __future__ import annotations

from functools import cache
from typing import Any

from qkvtheory import freedom, redundancy
from qkvtheory.claims.degrees_of_freedom.common import CHAPTER
from qkvtheory.claims.degrees_of_freedom.dimensions import Row, compared
from qkvtheory.claims.model import Claim, Control, Hypothesis, Pairs, Source
from qkvtheory.freedom import Layer

SIZES = ((5, 2), (6, 3), (4, 4), (7, 1))  # d, d_h
ROTARY = ((5, 2), (6, 4), (4, 4))


@cache
def measured(a: Layer, query_rank: int | None = None) -> int:
    return redundancy.head_dimension(a, query_rank).rank


def head_rows() -> list[Row]:
    """Dimensions, not redundancies, of one head in every variant, without and with RoPE."""
    cases = [(d, width, variant, False) for d, width in SIZES for variant in freedom.VARIANTS]
    cases += [(d, width, variant, True) for d, width in ROTARY for variant in freedom.VARIANTS]
    rows = []
    for d, width, variant, rope in cases:
        head = freedom.one_head(variant, d, width, rope)
        found = redundancy.head_dimension(head)
        name = f"{variant}{', RoPE' if rope else ''}, d = {d}, d_h = {width}"
        expected = freedom.head_dimension(variant, d, width, rope)
        rows.append(Row(name, head.parameters, expected, found.rank, found.gap))
    return rows


def closed_form(variant: str, d: int, width: int, rope: bool = False) -> int:
    """The formulas of the table, written out."""
    full, rigid = width**2, width * (width - 1) // 2
    if rope:
        return {
            "QKV": 4 * d * width - width - full,
            "K=V": 3 * d * width - width,
            "Q=K": 3 * d * width - width // 2 - full,
            "Q=K=V": 2 * d * width - width // 2,
        }[variant]
    return {
        "QKV": 4 * d * width - 2 * full,
        "K=V": 3 * d * width - full,
        "Q=K": 3 * d * width - full - rigid,
        "Q=K=V": 2 * d * width - rigid,
    }[variant]


def lost(variant: str, d: int, width: int) -> int:
    """Against a head with three projections, without RoPE."""
    apart, rigid = width * (d - width), width * (width - 1) // 2
    return {"QKV": 0, "K=V": apart, "Q=K": apart + rigid, "Q=K=V": 2 * apart + rigid}[variant]


def counted(_: Any) -> Pairs:
    """Closed forms against sums of named parts, up to the sizes of a real head; and what a tie loses."""
    sizes = (*SIZES, (64, 16), (768, 64), (4096, 128))
    forms = [(closed_form(v, *s), freedom.head_dimension(v, *s)) for s in sizes for v in freedom.VARIANTS]
    forms += [
        (closed_form(v, *s, rope=True), freedom.head_dimension(v, *s, rope=True))
        for s in (*ROTARY, (768, 64))
        for v in freedom.VARIANTS
    ]
    losses = [
        (lost(v, *s), freedom.head_dimension("QKV", *s) - freedom.head_dimension(v, *s))
        for s in sizes
        for v in freedom.VARIANTS
    ]
    return [*forms, *losses]


PER_HEAD = Claim(
    id="dim-per-head",
    rank="remark",
    chapter=CHAPTER,
    title="How many numbers a head really has",
    statement=(
        "The pairs $(M_h,N_h)$ of a head, $M_h=W_Q^hW_K^{h\\top}$ and $N_h=W_V^hW_O^h$, have these dimensions: parameters less what a basis "
        "of the head can change, $GL(d_h)$ for a pair of matrices, $O(d_h)$ where $W_Q=W_K$. Separate: $4dd_h-2d_h^2$. K=V: $3dd_h-d_h^2$, "
        "a loss of $d_h(d-d_h)$. Q=K: $3dd_h-d_h^2-\\frac{d_h(d_h-1)}2$, a loss of $d_h(d-d_h)+\\frac{d_h(d_h-1)}2$. Q=K=V: "
        "$2dd_h-\\frac{d_h(d_h-1)}2$. With RoPE, for all $W_Q^hR_tW_K^{h\\top}$ together: $4dd_h-d_h-d_h^2$, and $3dd_h-d_h$ with K=V; "
        "$3dd_h-\\frac{d_h}2-d_h^2$ with Q=K, $2dd_h-\\frac{d_h}2$ with Q=K=V. (Measured as ranks.)"
    ),
    hypotheses=(
        Hypothesis("H1", "generic weights", "the weights are generic: every matrix has full rank"),
        Hypothesis("H2", "no wider than the stream", "$d_h\\le d$"),
        Hypothesis("H3", "distinct frequencies", "with RoPE: the planes of the head turn at frequencies of their own"),
    ),
    sources=(Source("derived", note="predicted from the symmetries, measured as ranks"),),
    uses=("head-gauge", "rope-commutant"),
    lanes=("count", "rank"),
    sides=counted,
    special={"count": counted, "rank": lambda _: compared(head_rows())},
    controls=(
        Control(
            "H1",
            "the dimension predicted all the same where $W_Q$ has rank one of two",
            lambda _: [(freedom.head_dimension("QKV", 5, 2), measured(Layer(5, 1, 2), 1))],
            lanes=("rank",),
        ),
        Control(
            "H2",
            "a head wider than the stream: $2d_h^2$ redundant dimensions all the same",
            lambda _: [(closed_form("QKV", 2, 3), measured(Layer(2, 1, 3)))],
            lanes=("rank",),
        ),
        Control(
            "H3",
            "two planes of one frequency: the dimension for distinct ones",
            lambda _: [(freedom.head_dimension("QKV", 6, 4, rope=True), measured(Layer(6, 1, 4, planes=(2,))))],
            lanes=("rank",),
        ),
        Control(
            "construction",
            "one basis for a head with separate projections: $4dd_h-d_h^2$",
            lambda _: [(4 * d * h - h * h, freedom.head_dimension("QKV", d, h)) for d, h in SIZES],
            lanes=("count",),
        ),
        Control(
            "construction",
            "the same against the measured rank",
            lambda _: [(4 * 5 * 2 - 4, measured(Layer(5, 1, 2)))],
            lanes=("rank",),
        ),
        Control(
            "construction",
            "all of $GL(d_h)$ where $W_Q=W_K$",
            lambda _: [(3 * 5 * 2 - 2 * 4, measured(Layer(5, 1, 2, variant="Q=K")))],
            lanes=("rank",),
        ),
    ),
)
