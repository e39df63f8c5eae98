"""What stays of reversibility under a separable correction, and what the sign of the temperature decides."""

from __future__ import annotations

from typing import Any

import numpy as np

from qkvtheory import symmetric
from qkvtheory.attention import Heads, softmax
from qkvtheory.claims.model import AtMost, Claim, Control, Hypothesis, Pairs
from qkvtheory.claims.queries_equal_keys.bound import (
    bare,
    bounds,
    exact_or_float,
    indefinite_scores,
    mass,
    reversal,
    two_projections,
)
from qkvtheory.claims.queries_equal_keys.common import OURS, flag, full_map, map_of, normalized, number
from qkvtheory.claims.queries_equal_keys.cycles import round_trips
from qkvtheory.claims.queries_equal_keys.forms import wide_keys
from qkvtheory.claims.restoring_direction.common import (
    CHAPTER,
    SEPARABLE,
    corrected,
    one_exact_head,
    relative_too,
    separable,
    softmax_heads,
    softmax_of_scores,
    symmetric_heads,
)
from qkvtheory.lanes.settings import Setting
from qkvtheory.positions import Correction

IS_SEPARABLE = Hypothesis("H2", "separable", SEPARABLE)


def symmetric_softmax(s: Setting) -> bool:
    return full_map(s) and softmax_of_scores(s)


# -- plus-reversible ---------------------------------------------------------------------------------------------------


def key_biased(w: Any, S: Any) -> Pairs:
    """E = phi(S) diag(e^c) with phi(t) = e^(st), A = D^-1 E with D = diag(E 1): diag(e^c) D A is symmetric with S."""
    e = w.diagonal(w.exp(w.integers("c", "n", "1")), "row-stochastic")
    D, A = normalized(w, w.kernel(S) @ e)
    return [((e @ D @ A).mT, e @ D @ A)]


def balanced_by_key_bias(w: Any) -> Pairs:
    return key_biased(w, w.symmetric("S", "n", "H1"))


def balanced_heads(w: Any) -> Pairs:
    """The corrected heads are balanced by Z_i e^(c_i), with a temperature of either sign."""
    core, k = symmetric_heads(w)
    pairs = [*balanced_by_key_bias(w)]
    for temperature in (1, -1):
        by = separable(w, temperature)
        per_key = by.separable()[1]
        weights = w.exp(temperature * core.scores(k, k) + per_key)
        for A, E in zip(corrected(core, by).maps(k, k), weights, strict=True):
            pairs += in_balance(w, A, E.sum(axis=1) * w.exp(per_key))
    return pairs


def in_balance(w: Any, A: Any, law: Any) -> Pairs:
    law = (law / law.sum())[:, None]
    return [((law * A).T, law * A), (law.T @ A, law.T), (flag(w, symmetric.is_reversible(A)), w.identity("1"))]


def balanced_and_plain(w: Any) -> Pairs:
    """And for wide keys and a positive temperature: keys whose plain map it is."""
    k, by = wide_keys(w), separable(w, 1)
    A = Heads(1, scale=1, correction=by).maps(k, k)[0]
    found = symmetric.keys_for_map(A)
    return [*balanced_heads(w), (Heads(1, scale=1).maps(found, found)[0], A)]


def separate_queries(w: Any) -> Pairs:
    core, q, k = softmax_heads(w)
    return [round_trips(corrected(core, separable(w, 1)).maps(q, k)[0])]


def scores_without_symmetry(w: Any) -> Pairs:
    return key_biased(w, w.integers("S", "n", "n"))


def distance_channels(w: Any) -> Pairs:
    core, k = symmetric_heads(w)
    return [round_trips(corrected(core, relative_too(w)).maps(k, k)[0])]


def law_without_key_bias(w: Any) -> Pairs:
    """The row sums alone, which balance the map without the correction."""
    core, k = symmetric_heads(w)
    by = separable(w, 1)
    scores = core.scores(k, k)[0] + by.separable()[1]
    return in_balance(w, map_of(scores), w.exp(scores).sum(axis=1))[:1]


PLUS_REVERSIBLE = Claim(
    id="plus-reversible",
    rank="remark",
    chapter=CHAPTER,
    title="With a separable correction the map stays reversible",
    statement=(
        "Let $S$ be symmetric and the correction separable, with temperature $s$ of either sign and key bias $c$; $E_{ij}=e^{sS_{ij}+c_j}$ "
        "and $Z_i=\\sum_jE_{ij}$ (in the equation $\\varphi(t)=e^{st}$). The corrected map is in detailed balance with "
        "$\\pi_i\\propto Z_ie^{c_i}$, because $e^{c_i}e^{sS_{ij}}e^{c_j}$ is symmetric. If $s>0$ and $vSv^{\\top}>0$ for every row $v\\ne0$ "
        "whose entries sum to 0, it is even the plain map of queries equal to other, wider keys."
    ),
    hypotheses=(
        Hypothesis("H1", "symmetric scores", "$S=S^{\\top}$ before the correction, and nothing is masked"),
        IS_SEPARABLE,
    ),
    sources=(OURS,),
    uses=("separable-plus-is-temperature", "row-stochastic", "detailed-balance", "qk-pattern-characterisation"),
    sides=balanced_by_key_bias,
    special={"exact": balanced_heads, "numeric": balanced_and_plain},
    settings=symmetric_softmax,
    controls=(
        Control("H1", "scores without symmetry", scores_without_symmetry),
        Control("H1", "separate projections, corrected", separate_queries, lanes=("exact", "numeric")),
        Control("H2", "channels of the distance $j-i$ as well", distance_channels, lanes=("exact", "numeric")),
        Control("construction", "the row sums without $e^{c_i}$", law_without_key_bias, lanes=("exact", "numeric")),
    ),
)


# -- plus-pair-bound-sign ----------------------------------------------------------------------------------------------


def scalars(w: Any, *names: str) -> list[Any]:
    return [w.integers(name, "1", "1") for name in names]


def certificate(w: Any, keys: tuple[Any, Any], extra: Any = None) -> Pairs:
    """S'_ii + S'_jj - S'_ij - S'_ji is s |k_i - k_j|^2: what rows and keys get cancels."""
    (k, other), (s, r_i, r_j, c_i, c_j) = keys, scalars(w, "s", "r_i", "r_j", "c_i", "c_j")
    own, theirs = s @ k @ k.mT + r_i + c_i, s @ other @ other.mT + r_j + c_j
    to, back = s @ k @ other.mT + r_i + c_j, s @ other @ k.mT + r_j + c_i
    to = to if extra is None else to + extra
    gap = k - other
    return [(own + theirs - to - back, s @ gap @ gap.mT)]


def two_keys(w: Any) -> tuple[Any, Any]:
    return w.integers("k_i", "1", "h"), w.integers("k_j", "1", "h")


def distance_cancels(w: Any) -> Pairs:
    return certificate(w, two_keys(w))


def bounded_by_sign(w: Any) -> Pairs:
    """The certificate, and both bounds in corrected heads of temperatures that are not negative."""
    core, k = symmetric_heads(w)
    maps = [A for s in (0, 1, 2) for A in corrected(core, separable(w, s)).maps(k, k)]
    pairs = [*distance_cancels(w), *(bound for A in maps for bound in bounds(w, A))]
    if w.lane == "numeric":
        drawn = many_corrected(w)
        pairs.append(AtMost((drawn + drawn.mT) * (1 - w.identity("n")), drawn * 0 + 1))
    return pairs


def many_corrected(w: Any, draws: int = 300) -> Any:
    """Maps of random keys of width 3, random temperatures that are not negative and random key biases: (draws, n, n)."""
    rng, n = w.rng("draws"), w.sizes["n"]
    k = rng.normal(size=(draws, n, 3)) * np.resize([0.3, 1, 3], (draws, 1, 1))
    return softmax(rng.exponential(size=(draws, 1, 1)) * (k @ k.mT) + 3 * rng.normal(size=(draws, 1, n)))


def unequal_extra(w: Any) -> Pairs:
    return certificate(w, two_keys(w), w.integers("p", "1", "1"))


def separate_certificate(w: Any) -> Pairs:
    return two_projections(w)


def indefinite_corrected(w: Any) -> Pairs:
    """Temperature 1 on symmetric scores that are no Gram matrix."""
    return bounds(w, map_of(separable(w, 1)(indefinite_scores(w)[None])[0]))


def far_first(w: Any) -> Pairs:
    """Temperature 1, one channel of the distance: 8 |j - i| on keys that are all zero."""
    n = w.sizes["n"]
    apart = abs(np.arange(n)[None, :] - np.arange(n)[:, None])
    table = np.stack([apart * 0, apart], axis=-1) * w.identity("1")[0, 0]
    by = Correction(table, np.array([-7, 8]) * w.identity("1")[0, 0])
    return bounds(w, map_of(by((w.identity("n") * 0)[None])[0]))


def opposite_keys(w: Any) -> Pairs:
    """Temperature -1, two tokens with opposite keys."""
    k = 3 * w.identity("1")
    k = np.concatenate([k, -k])
    by = Correction(np.ones((2, 2, 1), dtype=int) * k[0, 0], -w.identity("1")[0])
    return bounds(w, map_of(by((k @ k.T)[None])[0]))


PAIR_SIGN = Claim(
    id="plus-pair-bound-sign",
    rank="remark",
    chapter=CHAPTER,
    title="The sign of the temperature decides",
    statement=(
        "Let $S=\\alpha KK^{\\top}$ with a separable correction. What the rows and the keys get cancels in "
        "$S'_{ii}+S'_{jj}-S'_{ij}-S'_{ji}=s\\|k_i-k_j\\|^2$ (here $\\alpha=1$). So for $s\\ge0$ the pair bound holds as without a "
        "correction: $A_{ij}A_{ji}\\le A_{ii}A_{jj}$ and $A_{ij}+A_{ji}\\le1$. For $s<0$ both can fail: two tokens with opposite keys look at "
        "each other only."
    ),
    hypotheses=(
        Hypothesis("H1", "queries are keys, no mask", "$S=\\alpha KK^{\\top}$ with $\\alpha>0$, and nothing is masked"),
        IS_SEPARABLE,
        Hypothesis("H3", "no negative temperature", "$s\\ge0$"),
    ),
    sources=(OURS,),
    uses=("separable-plus-is-temperature", "pair-bound"),
    sides=distance_cancels,
    special={"exact": bounded_by_sign, "numeric": bounded_by_sign},
    settings=lambda s: bare(s) and softmax_of_scores(s),
    controls=(
        Control("H1", "the square with separate queries", separate_certificate),
        Control(
            "H1",
            "symmetric scores $XMX^{\\top}$ with an indefinite $M$, $s=1$",
            indefinite_corrected,
            lanes=("exact", "numeric"),
        ),
        Control("H2", "something added to $S_{ij}$ alone", unequal_extra),
        Control("H2", "a channel $|j-i|$, $s=1$", far_first, lanes=("exact", "numeric")),
        Control("H3", "$s=-1$ and two opposite keys", opposite_keys, lanes=("exact", "numeric")),
    ),
)


# -- negative-temperature-involution -----------------------------------------------------------------------------------

CIRCLE = ((5, 0), (4, 3), (3, 4), (0, 5), (-3, 4), (-4, 3))  # points of one length on a half circle, in whole numbers


def opposite_first(w: Any) -> Pairs:
    """For keys of one length twice what the partner is ahead of j by is |k_i + k_j|^2: zero at the opposite key only."""
    k, other = two_keys(w)
    both = k + other
    return [(k @ k.mT + other @ other.mT + k @ other.mT + other @ k.mT, both @ both.mT)]


def circle_keys(w: Any, partner: list[int]) -> Any:
    """The construction: in exact arithmetic with the whole points of a circle in the place of its directions."""
    if w.lane == "numeric":
        return symmetric.keys_for_involution(partner, 3.0)
    half = exact_or_float(w, np.array(CIRCLE)[: len(partner) // 2])
    return np.concatenate([half, -half[::-1]])  # reversal: token n - 1 - i is the partner of i


def little_elsewhere(w: Any, k: Any, temperature: int = -2) -> Pairs:
    """No more than (n - 1) e^(max c - min c - lead) goes elsewhere; the lead is that of the construction's own keys."""
    partner = reversal(w)
    n, own, by = len(partner), circle_keys(w, partner), separable(w, temperature, len(partner))
    per_key, core = by.separable()[1], one_exact_head() if w.lane == "exact" else Heads(1, scale=1)
    sent = mass(corrected(core, by).maps(k, k)[0], partner)
    behind = per_key.max() - per_key.min() - leads(-2 * own @ own.T, partner)
    return [AtMost(1 - sent, (n - 1) * w.exp(behind * w.identity("1")) * np.ones((n, 1), dtype=int))]


def leads(scores: Any, partner: list[int]) -> Any:
    """By how much, at least, a token scores its partner above all others."""
    others = [np.delete(row, to) for row, to in zip(scores, partner, strict=True)]
    return min(row[to] - rest.max() for row, to, rest in zip(scores, partner, others, strict=True))


def swapped(w: Any) -> Pairs:
    """And for the directions of the package the lead is |s| lambda^2 (1 - cos(2 pi / n))."""
    partner = reversal(w)
    pairs = [*opposite_first(w), *little_elsewhere(w, circle_keys(w, partner))]
    if w.lane == "exact":
        return pairs
    k = symmetric.keys_for_involution(partner, 3.0)
    lead = 2 * 3.0**2 * (1 - np.cos(2 * np.pi / len(partner)))
    return [*pairs, (number(w, leads(-2 * k @ k.T, partner)), number(w, lead))]


def positive_temperature(w: Any) -> Pairs:
    return little_elsewhere(w, circle_keys(w, reversal(w)), temperature=2)


def one_direction(w: Any) -> Pairs:
    """Keys of width 1: only two directions, so other tokens have the partner's key."""
    return little_elsewhere(w, circle_keys(w, reversal(w))[:, :1])


def one_pair_longer(w: Any) -> Pairs:
    k = circle_keys(w, reversal(w))
    factor = np.ones((len(k), 1), dtype=int)
    factor[[0, -1]] = 3
    return little_elsewhere(w, factor * k)


def keys_for_a_cycle(w: Any) -> Pairs:
    found = symmetric.keys_for_involution([1, 2, 0], 1.0)
    return [(found, found)]


def positive_square(w: Any) -> Pairs:
    """The certificate with the minus sign of a positive temperature."""
    k, other = two_keys(w)
    both = k + other
    return [(k @ k.mT + other @ other.mT - k @ other.mT - other @ k.mT, both @ both.mT)]


INVOLUTION = Claim(
    id="negative-temperature-involution",
    rank="remark",
    chapter=CHAPTER,
    title="At a negative temperature opposite keys solve every swap",
    statement=(
        "Let $\\sigma$ be an involution of $n=2m$ tokens without fixed points, and $s<0$. Give each pair a direction $u_i$ of its own on a half circle, "
        "equally spaced, and the keys $k_i=\\lambda u_i$, $k_{\\sigma(i)}=-\\lambda u_i$ (and $\\alpha=1$). For keys of one length "
        "$2s\\,(k_ik_{\\sigma(i)}^{\\top}-k_ik_j^{\\top})=|s|\\,\\|k_i+k_j\\|^2$, so the partner is ahead of every other token by at least "
        "$|s|\\lambda^2(1-\\cos(\\pi/m))$, and with key bias $c$ at most $(n-1)\\,e^{-|s|\\lambda^2(1-\\cos(\\pi/m))+\\max c-\\min c}$ of the attention goes elsewhere: "
        "one head with queries equal to keys and a published correction swaps all pairs."
    ),
    hypotheses=(
        Hypothesis("H1", "negative temperature", "$s<0$"),
        Hypothesis("H2", "two dimensions", "the head is at least two wide, $d_h\\ge2$"),
        Hypothesis("H3", "one length", "all keys have the same length"),
    ),
    sources=(OURS,),
    uses=("separable-plus-is-temperature",),
    sides=opposite_first,
    special={"exact": swapped, "numeric": swapped},
    settings=lambda s: bare(s) and softmax_of_scores(s),
    controls=(
        Control("H1", "the square at a positive temperature", positive_square),
        Control("H1", "$s=2$ with the same keys", positive_temperature, lanes=("exact", "numeric")),
        Control("H2", "keys of width 1", one_direction, lanes=("exact", "numeric")),
        Control("H3", "one pair with keys three times as long", one_pair_longer, lanes=("exact", "numeric")),
        Control(
            "construction",
            "asking for keys of a cycle of three",
            keys_for_a_cycle,
            lanes=("exact", "numeric"),
            refused="involution",
        ),
    ),
)
