"""What other positions do to symmetric scores: relative biases that restore direction or do not, and RoPE, which does
not.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qkvtheory import symmetric
from qkvtheory.claims.model import AtMost, Claim, Control, Hypothesis, Pairs
from qkvtheory.claims.queries_equal_keys.balance import spectrum_in_place
from qkvtheory.claims.queries_equal_keys.bound import bare, bounds
from qkvtheory.claims.queries_equal_keys.common import OURS, flag, in_words, keys, map_of, queries_and_keys
from qkvtheory.claims.queries_equal_keys.cycles import one_map, round_trips, score_cycles
from qkvtheory.claims.restoring_direction.common import CHAPTER
from qkvtheory.lanes.settings import Setting

# -- relative-bias-criterion -------------------------------------------------------------------------------------------


def offsets(w: Any) -> Any:
    n = w.sizes["n"]
    return np.arange(n)[None, :] - np.arange(n)[:, None]


def relative(w: Any, name: str = "b") -> Any:
    """A bias b(j - i) with a table of its own for every offset."""
    n = w.sizes["n"]
    table = np.concatenate([w.integers(f"{name}{part}", "n", "1")[:, 0] for part in (1, 2)])[: 2 * n - 1]
    return table[offsets(w) + n - 1]


def odd_part(b: Any) -> Any:
    """beta(t) = b(t) - b(-t), as a table over (i, j) with t = j - i."""
    return b - b.T


def linear_bias(w: Any, slope: int = 2) -> Any:
    """An even bias plus a slope: b(t) - b(-t) = 2 slope t."""
    b = relative(w)
    return b + b.T + slope * offsets(w)


def biased_cycles(w: Any) -> Pairs:
    """The cycles of S + b(j - i) see b only through beta; a linear beta is balanced."""
    S, b = w.symmetric("S", "n"), relative(w)
    forth, back = score_cycles(S + b)
    beta = odd_part(b)
    around = beta[:, :, None] + beta[None] - beta[:, None, :]
    pairs = [(forth - back, around)]
    for biased, step in ((S + linear_bias(w), 4), (S + one_sided_alibi(w), 1)):
        pairs += balanced_by_slope(w, biased, step)
    A = map_of(S + b)
    return [*pairs, (flag(w, not symmetric.is_reversible(A)), w.identity("1"))]


def one_sided_alibi(w: Any) -> Any:
    """-max(i - j, 0), as causal models use it: its odd part is t."""
    return -np.maximum(-offsets(w), 0)


def balanced_by_slope(w: Any, scores: Any, step: int) -> Pairs:
    """pi_i = Z_i e^(beta(1) i), with beta(1) = ``step``."""
    weights = w.exp(scores)
    A = weights / weights.sum(axis=1, keepdims=True)
    growth = w.exp(w.ones("n") * (step * np.arange(w.sizes["n"]))[:, None])
    law = weights.sum(axis=1, keepdims=True) * growth
    law = law / law.sum()
    return [((law * A).T, law * A), (law.T @ A, law.T)]


def cubic_bias(w: Any) -> Pairs:
    A = map_of(w.symmetric("S", "n") + offsets(w) ** 3)
    return [round_trips(A)]


def even_bias_on_separate(w: Any) -> Pairs:
    q, k = queries_and_keys(w)
    b = relative(w)
    return [round_trips(map_of(q @ k.mT + b + b.T))]


def defect_on_separate(w: Any) -> Pairs:
    b = relative(w)
    forth, back = score_cycles(w.integers("S", "n", "n") + b)
    beta = odd_part(b)
    return [(forth - back, beta[:, :, None] + beta[None] - beta[:, None, :])]


RELATIVE_BIAS = Claim(
    id="relative-bias-criterion",
    rank="remark",
    chapter=CHAPTER,
    title="Which relative biases restore direction",
    statement=(
        "Let $S'_{ij}=S_{ij}+b(j-i)$ with symmetric $S$ and no mask, and $\\beta(t)=b(t)-b(-t)$. Around a cycle the two directions of $S'$ "
        "differ by $\\beta(j-i)+\\beta(k-j)-\\beta(k-i)$. So the map is reversible if and only if $\\beta$ is linear: an even bias, an even "
        "bias plus a slope, and one-sided ALiBi change nothing (the law is $Z_ie^{\\beta(1)i}$); a general bias restores direction."
    ),
    hypotheses=(
        Hypothesis(
            "H1",
            "symmetric scores, no mask",
            "$S=S^{\\top}$ before the bias, every token sees every token, and $n\\ge3$",
        ),
    ),
    sources=(OURS,),
    uses=("kolmogorov-necessary", "kolmogorov-converse"),
    kind="condition",
    lanes=("exact", "numeric"),
    sides=biased_cycles,
    settings=one_map,
    controls=(
        Control(
            "H1",
            "an even bias on the scores of separate queries and keys",
            even_bias_on_separate,
            lanes=("exact", "numeric"),
        ),
        Control("H1", "the defect of scores that are not symmetric", defect_on_separate, lanes=("exact", "numeric")),
        Control(
            "construction", "a bias with another odd part, called reversible", cubic_bias, lanes=("exact", "numeric")
        ),
    ),
)


# -- rope-changes-nothing ----------------------------------------------------------------------------------------------


def even_width(s: Setting) -> bool:
    return bare(s) and (s.d // s.heads) % 2 == 0


def rotated_gram(w: Any) -> Pairs:
    """The scores are the Gram matrix of the rotated keys: symmetric, and a square on every row."""
    k, u = w.rotate(keys(w)), w.matrix("u", "1", "n")
    S = k @ k.mT
    return [(S.mT, S), (u @ S @ u.mT, (u @ k) @ (u @ k).mT)]


def rotated_keys(w: Any) -> Pairs:
    """And the norms stay, so the balance, the pair bound and the spectrum are those of other keys."""
    plain = keys(w)
    k = w.rotate(plain)
    S, own = k @ k.mT, (k * k).sum(axis=1, keepdims=True)
    pairs = [*rotated_gram(w), (own, (plain * plain).sum(axis=1, keepdims=True)), AtMost(S + S.T, own + own.T)]
    if w.lane == "exact":
        return pairs
    A, law = map_of(S), symmetric.law_of_row_sums(w.exp(S))[:, None]
    return [*pairs, ((law * A).T, law * A), *bounds(w, A), *spectrum_in_place(A)]


def one_step_ahead(w: Any) -> Pairs:
    """Queries rotated by R_(i+1), keys by R_j."""
    k = keys(w)
    q = w.function("R'")(k) if in_words(w) else w.rotate(np.concatenate([k[:1], k]))[1:]
    S = q @ w.rotate(k).mT
    return [(S.mT, S)]


ROPE = Claim(
    id="rope-changes-nothing",
    rank="remark",
    chapter=CHAPTER,
    title="RoPE does not restore direction",
    statement=(
        "With queries equal to keys and RoPE the scores are the Gram matrix of the rotated keys $k_iR_i$, whose norms are those of the "
        "$k_i$. So they are symmetric and positive semidefinite, and detailed balance, the spectrum in $[0,1]$, the pair bound and the "
        "diagonal of keys of equal length hold word for word."
    ),
    hypotheses=(
        Hypothesis("H1", "queries are keys, one rotation", "queries and keys are equal and rotated by the same $R_i$"),
    ),
    sources=(OURS,),
    uses=("qk-symmetric-scores", "detailed-balance", "spectrum-unit-interval", "pair-bound", "equal-norm-diagonal"),
    sides=rotated_gram,
    special={"exact": rotated_keys, "numeric": rotated_keys},
    settings=even_width,
    controls=(Control("H1", "queries rotated one step further than keys", one_step_ahead),),
)
