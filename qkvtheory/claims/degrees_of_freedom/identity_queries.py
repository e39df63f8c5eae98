"""What it costs to make every W_Q the identity."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from qkvtheory import freedom
from qkvtheory.claims.degrees_of_freedom.common import CHAPTER
from qkvtheory.claims.degrees_of_freedom.dimensions import Row, compared, network_dimension
from qkvtheory.claims.model import Claim, Control, Hypothesis, Pairs, Source
from qkvtheory.freedom import GPT2_SMALL, Architecture

WIDE = Architecture(d=6, hidden=7, vocab=7, outputs=7)
SMALL = Architecture()


def grid() -> dict[str, Architecture]:
    """The networks in which the cost is measured, by name."""
    found = {f"no norm, T2, L = {L}": replace(SMALL, layers=L) for L in (1, 2, 3)}
    for topology in ("T0", "TA", "TM"):
        for norm in ("none", "RMSNorm"):
            name = f"{norm}, {topology}".replace("none", "no norm")
            found |= {f"{name}, L = {L}": replace(SMALL, layers=L, topology=topology, norm=norm) for L in (1, 2)}
    for norm in ("RMSNorm", "LayerNorm"):
        found |= {f"{norm}, T2, L = {L}": replace(SMALL, layers=L, norm=norm) for L in (1, 2)}
    for norm, heads, layers in (("RMSNorm", 2, 1), ("RMSNorm", 3, 2), ("LayerNorm", 2, 1), ("LayerNorm", 3, 1)):
        a = replace(WIDE, norm=norm, heads=heads, head_width=6 // heads, layers=layers)
        found[f"{norm}, T2, d = 6, H = {heads}, L = {layers}"] = a
    found |= {f"RoPE, no norm, T2, L = {L}": replace(SMALL, layers=L, positions="RoPE") for L in (1, 2)}
    found["RoPE, RMSNorm, T2, L = 2"] = replace(SMALL, layers=2, positions="RoPE", norm="RMSNorm")
    found["RoPE, RMSNorm, TA, L = 1"] = replace(SMALL, positions="RoPE", norm="RMSNorm", topology="TA")
    found["LayerNorm, TA, L = 2"] = replace(SMALL, layers=2, norm="LayerNorm", topology="TA")
    return found


def cost_rows() -> list[Row]:
    """Functional dimensions lost, and the smaller of the two gaps; ``parameters``: of the network with its queries."""
    rows = []
    for name, a in grid().items():
        own, fixed = network_dimension(a), network_dimension(replace(a, queries="identity"))
        cost = freedom.query_identity_cost(a)
        rows.append(Row(name, freedom.parameters(a), cost, own.rank - fixed.rank, min(own.gap, fixed.gap)))
    return rows


def closed_form(a: Architecture) -> int:
    """The formulas of the table, written out, for as many key heads as query heads."""
    d, L, H, h = a.d, a.layers, a.heads, a.head_width
    turned, kept = d * (d - 1) // 2, d * (h - 1) // 2
    centered, kept_centered = (d - 1) * (d - 2) // 2, H * (h - 1) * (h - 2) // 2
    skips = a.topology == "T2"
    if a.norm == "none" and not skips:
        return 0
    if a.norm == "none":
        return (L - 1) * (d * d - (d if a.positions == "RoPE" else d * h))
    if a.norm == "RMSNorm" and a.positions == "RoPE":
        return L * d * d - (turned + L * d - d // 2) if skips else L * d * d // 2
    if a.norm == "RMSNorm":
        return L * d * d - (turned + L * d * h - kept) if skips else L * d * (d - h) // 2
    one_or_each = 1 if skips else L
    return L * d * (d - 1) - (one_or_each * (centered - kept_centered) + L * d * h)


def counted(_: Any) -> Pairs:
    """Closed forms against differences of sums of parts; and GPT-2 small."""
    cases = [*grid().values(), GPT2_SMALL]
    cases += [
        replace(GPT2_SMALL, norm=norm, topology=t) for norm in ("none", "RMSNorm", "LayerNorm") for t in ("T2", "TA")
    ]
    cases += [replace(GPT2_SMALL, norm=norm, positions="RoPE") for norm in ("none", "RMSNorm")]
    removed = GPT2_SMALL.layers * GPT2_SMALL.d**2
    return [
        *((closed_form(a), freedom.query_identity_cost(a)) for a in cases),
        (6_208_523, freedom.query_identity_cost(GPT2_SMALL)),
        (7_077_888, removed),
        (877, round(1000 * freedom.query_identity_cost(GPT2_SMALL) / removed)),
    ]


def cost(a: Architecture) -> int:
    """Measured."""
    return network_dimension(a).rank - network_dimension(replace(a, queries="identity")).rank


def head_gauge_forgotten(measured: bool) -> Any:
    """(L - 1) d^2, wrong by (L - 1) d d_h."""
    a = replace(SMALL, layers=2)
    return lambda _: [((a.layers - 1) * a.d**2, cost(a) if measured else freedom.query_identity_cost(a))]


def formula_of(wrong: Architecture, a: Architecture) -> Any:
    return lambda _: [(closed_form(wrong), cost(a))]


TWO = replace(SMALL, layers=2)
BARE = replace(SMALL, norm="RMSNorm", topology="T0", positions="none")

COST = Claim(
    id="wq-identity-cost",
    rank="remark",
    chapter=CHAPTER,
    title="What it costs to make every $W_Q$ the identity",
    statement=(
        "Let $Hd_h=d$, with as many key/value heads. Setting $W_Q=I$ in all $L$ layers takes so many functional dimensions. Without norm: none in a network without skips or "
        "with one kind of skip; with both $(L-1)(d^2-dd_h)$, with RoPE $(L-1)(d^2-d)$. RMSNorm, $\\varepsilon>0$: with both skips "
        "$Ld^2-[\\frac{d(d-1)}2+Ldd_h-\\frac{d(d_h-1)}2]$, and under RoPE $Ld^2-[\\frac{d(d-1)}2+Ld-\\frac d2]$; otherwise "
        "$L\\,\\frac{d(d-d_h)}2$, and under RoPE $L\\,\\frac{d^2}2$. LayerNorm with both skips: $Ld(d-1)-[\\frac{(d-1)(d-2)}2+Ldd_h-\\frac{H(d_h-1)(d_h-2)}2]$. It is the "
        "dimension of all $W_Q$ less that of the orbit of $(I,\\dots,I)$ under the bases of stream and heads. (Measured as ranks at $d\\le6$. "
        f"For a network of the sizes of GPT-2 small the formula gives {freedom.query_identity_cost(GPT2_SMALL):,} of "
        f"{GPT2_SMALL.layers * GPT2_SMALL.d**2:,}.)"
    ),
    hypotheses=(
        Hypothesis(
            "H1", "positions that leave the heads alone", "additive or no positions; with RoPE its own formulas hold"
        ),
        Hypothesis(
            "H2", "where the sum for networks holds", "generic remaining weights, and the hypotheses of that sum"
        ),
    ),
    sources=(Source("derived", note="dimension of an orbit; measured as differences of ranks"),),
    uses=("dim-network", "head-gauge"),
    lanes=("count", "rank"),
    sides=counted,
    special={"count": counted, "rank": lambda _: compared(cost_rows())},
    controls=(
        Control(
            "H1",
            "RoPE: the loss without RoPE predicted all the same",
            formula_of(TWO, replace(TWO, positions="RoPE")),
            lanes=("rank",),
        ),
        Control(
            "H2",
            "RMSNorm on bare embeddings, with no skip past it",
            lambda _: [(closed_form(BARE), cost(BARE))],
            lanes=("rank",),
        ),
        Control(
            "construction", "the bases of the heads forgotten: $(L-1)d^2$", head_gauge_forgotten(True), lanes=("rank",)
        ),
        Control("construction", "the same, counted", head_gauge_forgotten(False), lanes=("count",)),
        Control(
            "construction",
            "nothing lost under RMSNorm either",
            formula_of(replace(SMALL, topology="TA"), replace(SMALL, topology="TA", norm="RMSNorm")),
            lanes=("rank",),
        ),
        Control(
            "construction",
            "LayerNorm taken for RMSNorm",
            formula_of(replace(TWO, norm="RMSNorm"), replace(TWO, norm="LayerNorm")),
            lanes=("rank",),
        ),
    ),
)
