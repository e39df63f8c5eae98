"""Spare units: how many more let an MLP absorb any linear map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np

from qkvtheory import absorption
from qkvtheory.claims.absorbing_skips.common import (
    CHAPTER,
    LINEAR_ODD_PART,
    NUMBERS,
    OURS,
    an_mlp,
    bare,
    column,
    split,
    tokens,
)
from qkvtheory.claims.absorbing_skips.flips import LAW, SIGN_FLIP, one
from qkvtheory.claims.absorbing_skips.kinks import Kinks, beside, drawn, negligible, planted, points
from qkvtheory.claims.every_skip.conjugation import in_numbers, norm, norms_everywhere, same_function
from qkvtheory.claims.model import Claim, Control, Hypothesis, Pairs, Source, call
from qkvtheory.lanes.settings import FLOAT
from qkvtheory.lanes.worlds import Floats
from qkvtheory.network import MLP, Network

BOTH = (True, True)


# -- spare-units -------------------------------------------------------------------------------------------------------


def linear_branch(w: Any) -> Pairs:
    """The new units alone, for a map given in factors; and beside B."""
    x, phi = tokens(w), split(w)
    U, W, M, mlp = w.matrix("U", "d", "s"), w.matrix("W", "s", "d"), w.matrix("M", "d", "d"), an_mlp(w, phi)
    return [
        (call(absorption.linear_units(phi, U, W, 1), x, name="MLP"), x @ U @ W),
        (absorption.spare_units(mlp, M, 1)(x), x @ M + mlp(x)),
    ]


def further_units(w: Any) -> Pairs:
    """Another c, and biases; whole networks; and in numbers maps of lower rank, and c measured."""
    x, c = tokens(w), 1.5 if w.lane == "numeric" else Fraction(3, 2)
    mlp, M = an_mlp(w, split(w, c), biases=True), w.matrix("M", "d", "d")
    pairs = [(absorption.spare_units(mlp, M, c)(x), x @ M + mlp(x)), *eliminated(w, 2)]
    if in_numbers(w):
        pairs += lower_rank(w)
    if w.lane == "numeric":
        for act, _ in LINEAR_ODD_PART:
            mlp = an_mlp(w, act, biases=True)
            pairs.append((absorption.spare_units(mlp, M)(x), x @ M + mlp(x)))
    return pairs


def lower_rank(w: Any) -> Pairs:
    """Rank one less than d, rank one, and zero: 2 rank M more units."""
    x, mlp = tokens(w), an_mlp(w, split(w))
    maps = [w.singular("M", "d")[0], w.matrix("u", "d", "1") @ w.matrix("v", "1", "d"), 0 * w.matrix("M", "d", "d")]
    new = [absorption.spare_units(mlp, M, 1) for M in maps]
    more = [wider.W_up.shape[1] - mlp.W_up.shape[1] for wider in new]
    d = w.sizes["d"]
    return [
        *((wider(x), x @ M + mlp(x)) for wider, M in zip(new, maps, strict=True)),
        (column(w, more), column(w, [2 * (d - 1), 2, 0])),
    ]


def stack(w: Any, layers: int, act: Any = None, **options: Any) -> Network:
    """A network with both skips whose MLPs have an activation that obeys the law."""
    old, act = w.network(layers, BOTH, **{"biases": in_numbers(w), **options}), act or split(w)
    return replace(old, blocks=[replace(block, mlp=replace(block.mlp, act=act)) for block in old.blocks])


def eliminated(w: Any, layers: int, sharp: bool = False) -> list[tuple[Any, Any]]:
    old = stack(w, layers)
    new = absorption.eliminate_with_spare_units(old, c=1, sharp=sharp)
    freed = [(block.attention.W_Q, w.identity("d")) for block in new.blocks]
    skips = [(skip_of(w, block), w.identity("d")) for block in new.blocks]
    if in_numbers(w):
        units = layers * w.sizes["d"] * (1 if sharp else 2)
        skips.append((column(w, [hidden(new) - hidden(old)]), column(w, [units])))
    return [same_function(new, old, w), *freed, *skips]


def skip_of(w: Any, block: Any) -> Any:
    """The skip around the MLP as a matrix."""
    return w.identity("d") if block.mlp_skip is True else block.mlp_skip


def prices(_: Any) -> Pairs:
    """Per layer: hidden units and their weights that come, and weights of W_Q that go."""
    w = Floats(next(s for s in FLOAT if bare(s)))
    layers, d, old = 3, w.sizes["d"], stack(w, 3)
    pairs = []
    for sharp, units in ((False, 2 * d), (True, d)):
        new = absorption.eliminate_with_spare_units(old, sharp=sharp)
        pairs += [
            (layers * units, hidden(new) - hidden(old)),
            (layers * units * 2 * d, matrices(new) - matrices(old)),
            (layers * d * d, query_weights(old) - query_weights(new)),
        ]
    return pairs


def hidden(network: Network) -> int:
    return sum(block.mlp.W_up.shape[1] for block in network.blocks)


def matrices(network: Network) -> int:
    return sum(block.mlp.W_up.size + block.mlp.W_down.size for block in network.blocks)


def query_weights(network: Network) -> int:
    """Those that are not the identity: it need not be stored."""
    W_Qs = [block.attention.W_Q for block in network.blocks]
    return sum(W_Q.size for W_Q in W_Qs if not np.array_equal(W_Q, np.eye(len(W_Q))))


def nothing_saved(_: Any) -> Pairs:
    """The price taken for what is saved."""
    _, (weights, _), (saved, _) = prices(None)[:3]
    return [(weights, saved)]


def unknown_activation(w: Any) -> Pairs:
    x, mlp, M = tokens(w), an_mlp(w, w.function("phi")), w.matrix("M", "d", "d")
    return [(absorption.spare_units(mlp, M, 1)(x), x @ M + mlp(x))]


def asked_tanh(w: Any) -> Pairs:
    return [(absorption.spare_units(an_mlp(w, np.tanh), w.matrix("M", "d", "d"))(tokens(w)), tokens(w))]


def half_forgotten(w: Any) -> Pairs:
    """d units with inputs I and outputs M, without those with inputs -I."""
    x, phi, M = tokens(w), split(w), w.matrix("M", "d", "d")
    return [(MLP(phi, w.identity("d"), M)(x), x @ M)]


def asked_normed(w: Any) -> Pairs:
    old = norms_everywhere(stack(w, 1), norm(w))
    return [same_function(absorption.eliminate_with_spare_units(old, 1), old, w)]


def normed(w: Any) -> Pairs:
    """The units that serve without norms, in a network with them."""
    old = stack(w, 2)
    new = absorption.eliminate_with_spare_units(old, 1)
    return [same_function(norms_everywhere(new, norm(w)), norms_everywhere(old, norm(w)), w)]


def asked_singular(w: Any) -> Pairs:
    old = stack(w, 1, W_Q=w.singular("W_Q", "d")[0])
    return [same_function(absorption.eliminate_with_spare_units(old, 1), old, w)]


SPARE = Claim(
    id="spare-units",
    rank="remark",
    chapter=CHAPTER,
    title="Twice the rank of the map in spare units always suffices",
    statement=(
        "Let $\\phi(z)-\\phi(-z)=cz$. Hidden units with inputs $[I,-I]$ and outputs $\\frac1c[M;-M]$ compute $xM$, so $2d$ more units "
        "absorb any $M$; with $M=UW$, inputs $[U,-U]$ and outputs $\\frac1c[W;-W]$, $2\\operatorname{rank}M$ do. Hence every network "
        "without norms, with both skips and invertible $W_Q$'s, can be rewritten with all $W_Q=I$ and the skips kept: its MLPs absorb "
        "$M_l=\\Theta_l^{-1}\\Theta_{l+1}-I$. The price is $2d$ hidden units in each layer, $4d^2$ weights, where $d^2$ were to be saved. "
        "The first equation prints the new units for $c=1$."
    ),
    hypotheses=(
        LAW,
        Hypothesis(
            "H2", "both skips, no norm", "for networks: identity skips, no norms, and every $W_Q$ square and invertible"
        ),
    ),
    sources=(
        Source("paper", "karbevski2026skips", note="2d units"),
        Source("derived", note="as many as twice the rank"),
    ),
    uses=(SIGN_FLIP.id, "basis-skip-repair"),
    lanes=("symbolic", "exact", "numeric", "count"),
    sides=linear_branch,
    also=further_units,
    special={"count": prices},
    settings=bare,
    deep=True,
    constructions=("spare_units", "absorb_skips", "absorbed_skip"),
    controls=(
        Control("H1", "an activation of which nothing is known (tanh)", unknown_activation),
        Control("H1", "asking for it with tanh", asked_tanh, lanes=("numeric",), refused=absorption.LAW),
        Control("H2", "RMSNorm put into both networks", normed),
        Control("H2", "asking for it with norms", asked_normed, refused="no norm"),
        Control("H2", "asking for it with a singular $W_Q$", asked_singular, refused="invertible"),
        Control("construction", "the units with inputs $-I$ forgotten", half_forgotten),
        Control("construction", "the price taken for what is saved", nothing_saved, lanes=("count",)),
    ),
)


# -- spare-units-sharp -------------------------------------------------------------------------------------------------


def independent(w: Any, act: Any, biases: bool = True) -> MLP:
    """In words a group of d units with an invertible W_up."""
    if in_numbers(w):
        return an_mlp(w, act, biases)
    rows = [w.matrix("b_up", "1", "d"), w.matrix("b_down", "1", "d")] if biases else []
    return MLP(act, w.invertible("W_up", "d", "H2"), w.matrix("W_down", "d", "d"), *rows)


def sharp(w: Any) -> Pairs:
    x, M, mlp = tokens(w), w.matrix("M", "d", "d"), independent(w, split(w))
    return [(call(absorption.spare_units_sharp(mlp, M, 1), x, name="MLP"), x @ M + mlp(x))]


def further_sharp(w: Any) -> Pairs:
    """Another c; without biases; in numbers c measured, and how few units do; in floats the network."""
    x, M, c = tokens(w), w.matrix("M", "d", "d"), 1.5 if w.lane == "numeric" else Fraction(3, 2)
    mlp = independent(w, split(w, c))
    some = (mlp, replace(mlp, b_up=None), replace(mlp, b_down=None), replace(mlp, b_up=None, b_down=None))
    pairs = [(absorption.spare_units_sharp(m, M, c)(x), x @ M + m(x)) for m in some]
    if w.lane in NUMBERS:
        acts = LINEAR_ODD_PART if w.lane == "numeric" else ((split(w), 1),)
        pairs += [(absorption.spare_units_sharp(m, M)(x), x @ M + m(x)) for m in (an_mlp(w, a, True) for a, _ in acts)]
        pairs += [*cheapest(w), *fewest(w), *(eliminated(w, 2, sharp=True) if w.lane == "numeric" else [])]
    return pairs


def cheapest(w: Any) -> Pairs:
    """min(d, 2 rank M) units: for each rank from 0 to d the cheaper of the two ways."""
    mlp, d = an_mlp(w, split(w)), w.sizes["d"]
    maps = [w.identity("d") * (np.arange(d) < r) for r in range(d + 1)]
    counts = []
    for M in maps:
        ways = (absorption.spare_units(mlp, M, 1), absorption.spare_units_sharp(mlp, M, 1))
        counts.append(min(new.W_up.shape[1] for new in ways) - mlp.W_up.shape[1])
    return [(column(w, counts), column(w, [min(d, 2 * r) for r in range(d + 1)]))]


@cache
def cases(lane: str) -> Sequence[tuple[MLP, Any, bool]]:
    """d = 2, ReLU: (B, M, does one unit more suffice?). Generic maps; maps u_i v; planted ones."""
    blocks = [drawn(lane, str(i), 2, 3) for i in range(3)]
    maps = [(mlp, M) for mlp in blocks for M in (one(mlp), planted(blocks[0], [0]) + one(mlp))]
    rank_one = [(mlp, np.outer(mlp.W_up[:, 1], mlp.W_down[0]), True) for mlp in blocks[:2]]
    return [*((mlp, M, False) for mlp, M in maps), *rank_one, (blocks[0], planted(blocks[0], [0, 2]), True)]


@cache
def shown_by_kinks(lane: str) -> list[bool]:
    """Does one unit more suffice, as far as the values of x M + B(x) tell?"""
    return [Kinks(beside(mlp, M), mlp.W_up).absorbed_with_one_more() for mlp, M, _ in cases(lane)]


@cache
def least_ranks(lane: str) -> list[int]:
    return [least_rank(mlp, M) for mlp, M, _ in cases(lane)]


def fewest(w: Any) -> Pairs:
    """With one unit more, so d - 1: what the kinks show, and what was predicted; two units more always do."""
    known = cases(w.lane)
    return [
        (column(w, shown_by_kinks(w.lane)), column(w, [suffices for *_, suffices in known])),
        (column(w, [rank < 2 for rank in least_ranks(w.lane)]), column(w, [suffices for *_, suffices in known])),
        *((absorption.spare_units_sharp(mlp, M, 1)(points(2)), beside(mlp, M)(points(2))) for mlp, M, _ in known),
    ]


def least_rank(mlp: MLP, M: Any) -> int:
    """The smallest rank of M + W_up[:, S] W_down[S, :]."""
    m = mlp.W_up.shape[1]
    sets = [[i for i in range(m) if number >> i & 1] for number in range(2**m)]
    gaps = [M - planted(mlp, S) for S in sets]
    return min(0 if negligible(gap, M) else len(absorption.pivots(gap)) for gap in gaps)


def unknown_sharp(w: Any) -> Pairs:
    x, M, mlp = tokens(w), w.matrix("M", "d", "d"), independent(w, w.function("phi"))
    return [(absorption.spare_units_sharp(mlp, M, 1)(x), x @ M + mlp(x))]


def dependent(w: Any) -> Pairs:
    """Columns of W_up that span less than all d directions."""
    M, phi = w.matrix("M", "d", "d"), split(w)
    W_up = w.singular("W_up", "d")[0]
    return [(absorption.spare_units_sharp(MLP(phi, W_up, w.matrix("W_down", "d", "d")), M, 1)(tokens(w)), tokens(w))]


def pseudo(w: Any) -> Pairs:
    """s from a generalized inverse of dependent columns."""
    x, M, phi = tokens(w), w.matrix("M", "d", "d"), split(w)
    (up, back), down = w.singular("W_up", "d"), w.matrix("W_down", "d", "d")
    s = back @ M
    return [(MLP(phi, up, down + s)(x) - MLP(phi, -up, s)(x), x @ M + MLP(phi, up, down)(x))]


def called_too_few(w: Any, rank: int) -> Pairs:
    """Maps of rank one along a unit, or planted ones of rank two, for which one unit more is said not to suffice."""
    chosen = [
        shown
        for (_, M, suffices), shown in zip(cases(w.lane), shown_by_kinks(w.lane), strict=True)
        if suffices and len(absorption.pivots(M)) == rank
    ]
    return [(column(w, chosen), column(w, [False] * len(chosen)))]


SHARP = Claim(
    id="spare-units-sharp",
    rank="remark",
    chapter=CHAPTER,
    title="d spare units suffice, and for ReLU no fewer",
    statement=(
        "Let $\\phi(z)-\\phi(-z)=cz$, and let the columns $u_i$, $i\\in I$, of $W_{up}$ be $d$ linearly independent ones. Put "
        "$s=\\frac1cW_{up}[:,I]^{-1}M$. Adding $d$ units with inputs $-u_i$ (bias $-b_i$) and outputs $-s_i$, and changing $w_i$ to "
        "$w_i+s_i$ and $b_{down}$ to $b_{down}-c\\,b_Is$, absorbs $M$. So $\\min(d,2\\operatorname{rank}M)$ more units always suffice. "
        "For ReLU without biases, $d\\ge2$, $\\operatorname{rank}M=d$ and generic weights, fewer than $d$ never do: $k$ more units only "
        "help if $\\operatorname{rank}(M+W_{up}[:,S]W_{down}[S,:])\\le k$ for some $S$. The new input vectors are old ones turned "
        "around; the new numbers are the $d\\times d$ matrix $s$, as many as eliminating $W_Q$ had saved. The equation prints the "
        "units of $I$ as an MLP of their own, for $c=1$; the lower bound is decided from the kinks, as in the theorem on ReLU blocks, at $d=2$."
    ),
    hypotheses=(
        LAW,
        Hypothesis("H2", "independent columns", "$m\\ge d$, and $d$ columns of $W_{up}$ are linearly independent"),
        Hypothesis(
            "H3",
            "ReLU and generic, for the lower bound",
            "for 'no fewer': ReLU without biases, $d\\ge2$, $\\operatorname{rank}M=d$, and weights outside an exceptional set",
        ),
    ),
    sources=(OURS,),
    uses=(SIGN_FLIP.id, "relu-absorption-iff"),
    sides=sharp,
    also=further_sharp,
    settings=bare,
    constructions=("spare_units_sharp", "basis_units", "side_by_side"),
    controls=(
        Control("H1", "an activation of which nothing is known (tanh)", unknown_sharp),
        Control("H2", "asking for it with dependent columns", dependent, lanes=("symbolic",), refused="invertible"),
        Control("H2", "asking for it with dependent columns", dependent, lanes=NUMBERS, refused="independent columns"),
        Control("H2", "$s$ from a generalized inverse of dependent columns", pseudo),
        Control("H3", "$M=u_iv$ of rank one: one unit more is enough", lambda w: called_too_few(w, 1), lanes=NUMBERS),
        Control("H3", "$M$ planted: no unit more is needed", lambda w: called_too_few(w, 2), lanes=NUMBERS),
    ),
)
