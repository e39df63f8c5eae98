"""Symmetric scores, and the map that softmax makes of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from qkvtheory.attention import causal
from qkvtheory.claims.model import Claim, Control, Hypothesis, Pairs, Source
from qkvtheory.claims.queries_equal_keys.common import (
    CHAPTER,
    OURS,
    keys,
    map_of,
    normalized,
    queries_and_keys,
    random_map,
    real_maps,
    shared_core,
    symmetric_core,
)

VARIANTS = Source("paper", "kayyam2026three", note="the variant Q=K-V and its symmetric scores")
BORJI = Source("paper", "borji2023kv", note="keys in the place of queries")
SAME = Hypothesis("H1", "queries are keys", "$W_Q=W_K$, with equal biases (or none)")
SYMMETRIC_SCORES = Hypothesis(
    "H1", "symmetric scores", "$S=S^{\\top}$, as when queries are keys and the mask is symmetric"
)


# -- qk-symmetric-scores -----------------------------------------------------------------------------------------------


def symmetric_scores(w: Any) -> Pairs:
    k = keys(w)
    rotated = w.rotate(k)
    S, turned = k @ k.mT, rotated @ rotated.mT
    return [(S.mT, S), (turned.mT, turned), (w.kernel(S).mT, w.kernel(S))]


def symmetric_bias(w: Any) -> Pairs:
    """A symmetric table, as b(|i - j|) is one, on the scores."""
    k, B = keys(w), w.symmetric("B", "n", "H2")
    biased = k @ k.mT + B
    return [(biased.mT, biased), (w.kernel(biased).mT, w.kernel(biased))]


def symmetric_scores_of_heads(w: Any) -> Pairs:
    """The scores and the unnormalized weights of the setting's own heads, biases, positions and mask included."""
    core, k = shared_core(w)
    scores = core.scores(k, k)
    seen = np.broadcast_to(True if core.mask is None else core.mask, scores.shape)
    weights = np.where(seen, w.kernel(scores), w.kernel(scores) * 0)
    return [(scores.mT, scores), (weights.mT, weights)]


def separate_biases(w: Any) -> Pairs:
    k, b, c = keys(w), w.integers("b_Q", "1", "h"), w.integers("b_K", "1", "h")
    S = (k + b) @ (k + c).mT
    return [(S.mT, S)]


def separate_projections(w: Any) -> Pairs:
    q, k = queries_and_keys(w)
    return [((q @ k.mT).mT, q @ k.mT)]


def one_sided_bias(w: Any) -> Pairs:
    k = keys(w)
    biased = k @ k.mT + w.integers("B", "n", "n")
    return [(biased.mT, biased)]


def one_sided(w: Any) -> Pairs:
    k = keys(w)
    weights = w.kernel(k @ k.mT) * causal(len(k))
    return [(weights.mT, weights)]


QK_SYMMETRIC = Claim(
    id="qk-symmetric-scores",
    rank="remark",
    chapter=CHAPTER,
    title="Queries equal to keys make the scores symmetric",
    statement=(
        "$S=\\alpha KK^{\\top}$ is symmetric. It stays so under RoPE, where it is the Gram matrix of the rotated keys $k_iR_i$, and with "
        "any bias $b(|i-j|)$. So are the weights $E_{ij}=\\varphi(S_{ij})$, for any function $\\varphi$ of each entry."
    ),
    hypotheses=(
        SAME,
        Hypothesis("H2", "nothing one-sided", "there is no mask, or a symmetric one; and so for a bias on the scores"),
    ),
    sources=(VARIANTS, BORJI, Source("derived", note="RoPE, biases on the scores, masks")),
    sides=symmetric_scores,
    also=symmetric_bias,
    special={"exact": symmetric_scores_of_heads, "numeric": symmetric_scores_of_heads},
    settings=symmetric_core,
    controls=(
        Control("H1", "separate biases, $b_Q\\ne b_K$", separate_biases),
        Control("H1", "separate projections", separate_projections),
        Control("H2", "a causal mask on the weights", one_sided, lanes=("exact", "numeric")),
        Control("H2", "a bias on the scores that is not symmetric", one_sided_bias),
    ),
)


# -- softmax-not-symmetric ---------------------------------------------------------------------------------------------


def gap_by_row_sums(w: Any) -> Pairs:
    """D (A - A^T) D = E D - D E: entry by entry, Z_i Z_j (A_ij - A_ji) = E_ij (Z_j - Z_i)."""
    E = w.kernel(w.symmetric("S", "n", "H1"))
    D, A = normalized(w, E)
    return [(D @ (A - A.mT) @ D, E @ D - D @ E)]


def gap_and_polygon(w: Any) -> Pairs:
    """With numbers also keys at the corners of a regular polygon: all row sums agree, and the map is symmetric."""
    A = map_of(ring_scores(w))
    if w.lane == "numeric":
        angles = 2 * np.pi * np.arange(w.sizes["n"])[:, None] / w.sizes["n"]
        corners = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
        A = map_of(corners @ corners.mT)
    return [*gap_by_row_sums(w), (A.mT, A)]


def ring_scores(w: Any, lean: int = 0) -> Any:
    """Scores that depend on the distance around a ring of tokens; with ``lean`` one way round counts more."""
    n = w.sizes["n"]
    distance = (np.arange(n)[None, :] - np.arange(n)[:, None]) % n
    steps = np.minimum(distance, n - distance) + lean * (distance == 1)
    return (w.ones("n") @ w.ones("n").mT) * -steps


def map_claimed_symmetric(w: Any) -> Pairs:
    A = normalized(w, w.kernel(w.symmetric("S", "n")))[1]
    return [(A.mT, A)]


def gap_of_separate(w: Any) -> Pairs:
    E = w.kernel(w.integers("S", "n", "n"))
    D, A = normalized(w, E)
    return [(D @ (A - A.mT) @ D, E @ D - D @ E)]


def equal_row_sums(w: Any) -> Pairs:
    weights = w.exp(ring_scores(w, lean=1))
    sums = weights @ w.ones("n")
    return [(sums, w.ones("n") * sums[0, 0])]


def leaning_ring(w: Any) -> Pairs:
    A = map_of(ring_scores(w, lean=1))
    return [(A.mT, A)]


NOT_SYMMETRIC = Claim(
    id="softmax-not-symmetric",
    rank="remark",
    chapter=CHAPTER,
    title="The map itself is symmetric only if all row sums agree",
    statement=(
        "With $Z_i=\\sum_jE_{ij}$, $D=\\operatorname{diag}(Z)$ and $A=D^{-1}E$: $Z_iZ_j(A_{ij}-A_{ji})=E_{ij}(Z_j-Z_i)$. So $A=A^{\\top}$ if "
        "and only if all $Z_i$ are equal, as for keys at the corners of a regular polygon. In general symmetric scores do not make a "
        "symmetric map."
    ),
    hypotheses=(SYMMETRIC_SCORES,),
    sources=(
        OURS,
        Source("paper", "kayyam2026three", note="measures the symmetry of the scores, before the softmax"),
    ),
    uses=("qk-symmetric-scores", "row-stochastic"),
    kind="condition",
    sides=gap_by_row_sums,
    special={"exact": gap_and_polygon, "numeric": gap_and_polygon},
    settings=lambda s: symmetric_core(s) and not s.biases,
    controls=(
        Control("H1", "scores without symmetry", gap_of_separate),
        Control(
            "H1",
            "equal row sums, but scores that lean one way round a ring",
            leaning_ring,
            lanes=("exact", "numeric"),
            witness=equal_row_sums,
        ),
        Control("construction", "the map of symmetric scores called symmetric", map_claimed_symmetric),
    ),
)


# -- row-stochastic ----------------------------------------------------------------------------------------------------


def rows_sum_to_one(w: Any) -> Pairs:
    _, A = normalized(w, w.kernel(w.integers("S", "n", "n")), "H1")
    return [(A @ w.ones("n"), w.ones("n"))]


def rows_and_signs(w: Any) -> Pairs:
    """With numbers also the signs, for a made-up kernel and for the setting's own heads."""
    maps = [normalized(w, w.kernel(w.integers("S", "n", "n")))[1], random_map(w), *real_maps(w)]
    one = w.ones("n")
    return [pair for A in maps for pair in ((A @ one, one), (signs(A), one @ one.mT))]


def signs(a: Any) -> Any:
    return np.where(a > 0, 1, np.where(a < 0, -1, 0))


def signed_kernel(w: Any) -> Pairs:
    """s + 1/2 in the place of a positive kernel."""
    s = w.integers("S", "n", "n")
    weights = s + s + w.ones("n") @ w.ones("n").mT
    A = weights / weights.sum(axis=1, keepdims=True)
    return [(signs(A), w.ones("n") @ w.ones("n").mT)]


def empty_row(w: Any) -> Pairs:
    """A row in which everything is masked, filled with zeros as implementations do."""
    A = random_map(w) * (np.arange(w.sizes["n"]) > 0)[:, None]
    return [(A @ w.ones("n"), w.ones("n"))]


def undeclared_weights(w: Any) -> Pairs:
    """Row sums that nothing says are not zero."""
    weights = w.function("f")(w.integers("S", "n", "n"))
    D, _ = w.singular("D", "n")
    return [(D @ weights @ w.ones("n"), w.ones("n"))]


ROW_STOCHASTIC = Claim(
    id="row-stochastic",
    rank="remark",
    chapter=CHAPTER,
    title="An attention map is a Markov chain",
    statement=(
        "For any positive kernel $\\varphi$ in the place of $\\exp$, every $A_{ij}=\\varphi(S_{ij})/\\sum_k\\varphi(S_{ik})$ is positive and "
        "every row of $A$ sums to 1."
    ),
    hypotheses=(Hypothesis("H1", "positive kernel", "$\\varphi>0$, and nothing is masked"),),
    sources=(OURS,),
    sides=rows_sum_to_one,
    special={"exact": rows_and_signs, "numeric": rows_and_signs},
    settings=lambda s: symmetric_core(s) and not set(s.features(s)) & {"mask"} and not s.biases,
    controls=(
        Control("H1", "the kernel $2s+1$, which is not positive", signed_kernel, lanes=("exact", "numeric")),
        Control("H1", "a row in which every score is masked, filled with zeros", empty_row, lanes=("exact", "numeric")),
        Control("H1", "weights of which nothing is known", undeclared_weights, lanes=("symbolic",)),
    ),
)
