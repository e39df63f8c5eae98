"""Measures of asymmetry: what each of them sees."""

from __future__ import annotations

from typing import Any

import numpy as np

from qkvtheory import gauge, symmetric
from qkvtheory.attention import causal
from qkvtheory.claims.model import AtMost, Claim, Control, Hypothesis, Pairs, Source
from qkvtheory.claims.queries_equal_keys.bound import bare
from qkvtheory.claims.queries_equal_keys.common import OURS, in_words, map_of, number
from qkvtheory.claims.queries_equal_keys.cycles import score_cycles
from qkvtheory.claims.restoring_direction.common import CHAPTER
from qkvtheory.claims.restoring_direction.positions import relative
from qkvtheory.words import Word

SAPONATI = Source("code", "saponati2025structures", name="symmetry and directionality scores")


# -- asymmetry-measures ------------------------------------------------------------------------------------------------


def added(w: Any, scores: Any) -> Any:
    """The scores with constants along rows and a bias on the keys."""
    one = w.ones("n")
    return scores + w.integers("r", "n", "1") @ one.mT + one @ w.integers("c", "n", "1").mT


def skew_inside(w: Any, scores: Any) -> Any:
    C = w.centering("n")
    return C @ (scores - scores.mT) @ C


def unseen(w: Any) -> Pairs:
    """Centering removes row constants and key biases; the gauge of a head leaves W_Q W_K^T alone; a basis keeps symmetry."""
    S = w.integers("S", "n", "n")
    Q, K = w.matrix("W_Q", "d", "h"), w.matrix("W_K", "d", "h")
    N, back = w.invertible("N", "h", "H2"), gauge.inverse(w.invertible("Theta", "d", "H2"))
    M = K @ K.mT
    return [
        (skew_inside(w, added(w, S)), skew_inside(w, S)),
        ((Q @ N) @ (K @ gauge.inverse(N).mT).mT, Q @ K.mT),
        ((back @ M @ back.mT).mT, back @ M @ back.mT),
    ]


def unseen_exactly(w: Any) -> Pairs:
    """The functions of the package, on fractions."""
    S, Q, K = w.integers("S", "n", "n"), w.matrix("W_Q", "d", "h"), w.matrix("W_K", "d", "h")
    score = symmetric.weight_symmetry(Q, K)
    return [
        *unseen(w),
        *same_numbers(w, symmetric.skew_share, S, added(w, S), -3 * S),
        (number(w, symmetric.mean_asymmetry(-3 * S)), number(w, 3 * symmetric.mean_asymmetry(S))),
        (number(w, symmetric.weight_symmetry(-3 * Q, K)), number(w, score)),
        (number(w, symmetric.weight_symmetry(signed_permutation(w) @ Q, signed_permutation(w) @ K)), number(w, score)),
    ]


def unseen_in_floats(w: Any) -> Pairs:
    """And those that need roots and logarithms: the rows of the table."""
    S, constant = w.integers("S", "n", "n"), w.integers("r", "n", "1") @ w.ones("n").mT
    A = map_of(S)
    affinity, kappa = symmetric.cycle_affinity(A), symmetric.centered_skew_ratio(S)
    return [
        *unseen_exactly(w),
        *same_numbers(w, symmetric.asymmetry, S, -3 * S),
        *same_numbers(w, symmetric.asymmetry, A, map_of(S + constant)),
        *same_numbers(w, symmetric.cycle_affinity, A, map_of(added(w, S))),
        *same_numbers(w, symmetric.centered_skew_ratio, S, added(w, S), -3 * S, np.log(A)),
        *same_numbers(w, symmetric.entropy_production, A, map_of(S + constant)),
        (number(w, symmetric.cycle_affinity(map_of(-S / 2))), number(w, affinity / 2)),
        AtMost(number(w, kappa), w.identity("1")),
        (what_is_seen(w), BLIND),
        *direction_of_weights(w),
    ]


BLIND = np.array(
    [  # row constants, key bias, temperature
        [0, 0, 0],  # mean |S - S^T|
        [0, 0, 1],  # |S - S^T| / |S|
        [1, 0, 0],  # |A - A^T| / |A|
        [1, 0, 0],  # entropy production
        [1, 1, 0],  # cycle affinity
        [1, 1, 1],  # centered skew ratio
    ]
)


def what_is_seen(w: Any) -> Any:
    """The table once more, from the functions: 1 where a change of the scores leaves the measure as it was."""
    S, one = w.integers("S", "n", "n"), w.ones("n")
    changes = (S + w.integers("r", "n", "1") @ one.mT, S + one @ w.integers("c", "n", "1").mT, 3 * S)
    of_map = (symmetric.asymmetry, symmetric.entropy_production, symmetric.cycle_affinity)
    measures = [symmetric.mean_asymmetry, symmetric.asymmetry, *(after_softmax(f) for f in of_map)]
    measures.append(symmetric.centered_skew_ratio)
    return np.array([[int(np.isclose(f(T), f(S), rtol=1e-9, atol=0)) for T in changes] for f in measures])


def after_softmax(measure: Any) -> Any:
    return lambda scores: measure(map_of(scores))


def direction(W_Q: Any, W_K: Any) -> float:
    """The directionality score with half a standard deviation, so that small matrices too have rows that stand out."""
    return symmetric.directionality(W_Q, W_K, 0.5)


def direction_of_weights(w: Any) -> Pairs:
    """It is that of M up to a factor and up to the order and signs of coordinates; M^T has the opposite one."""
    Q, K, N, P = *both(w), w.invertible("N", "h", "H2"), signed_permutation(w)
    score = direction(Q, K)
    moved = (direction(-3 * Q, K), direction(Q @ N, K @ gauge.inverse(N).mT), direction(P @ Q, P @ K), -direction(K, Q))
    return [(number(w, value), number(w, score)) for value in moved]


def direction_turned(w: Any) -> Pairs:
    """In a rotated stream other rows and columns stand out."""
    Q, K = both(w)
    turn = np.linalg.qr(w.matrix("Theta", "d", "d"))[0]
    return [(number(w, direction(turn @ Q, turn @ K)), number(w, direction(Q, K)))]


def same_numbers(w: Any, measure: Any, first: Any, *others: Any) -> Pairs:
    return [(number(w, measure(other)), number(w, measure(first))) for other in others]


def signed_permutation(w: Any) -> Any:
    """An orthogonal basis with whole entries."""
    signs = np.array([1 if i % 2 else -1 for i in range(w.sizes["d"])])
    return np.roll(w.identity("d"), 1, axis=0) * signs


def relative_bias_added(w: Any) -> Pairs:
    """A bias b(j - i) is neither a row constant nor a key bias."""
    S = w.integers("S", "n", "n")
    B = w.matrix("B", "n", "n") if in_words(w) else relative(w)
    return [(skew_inside(w, S + B), skew_inside(w, S))]


def score_gap_with_key_bias(w: Any) -> Pairs:
    """S - S^T without centering, for queries equal to keys and a key bias: it reports an asymmetry."""
    S = w.symmetric("S", "n") + w.ones("n") @ w.integers("c", "n", "1").mT
    return [(number(w, symmetric.mean_asymmetry(S)), number(w, 0))]


def key_bias_is_reversible(w: Any) -> Pairs:
    S = w.symmetric("S", "n") + w.ones("n") @ w.integers("c", "n", "1").mT
    return [score_cycles(S), (number(w, symmetric.skew_share(S)), number(w, 0))]


def singular_gauge(w: Any) -> Pairs:
    Q, K = w.matrix("W_Q", "d", "h"), w.matrix("W_K", "d", "h")
    N, back = w.singular("N", "h")
    return [((Q @ N) @ (K @ back.mT).mT, Q @ K.mT)]


def stretched_stream(w: Any) -> Pairs:
    """M to Theta^-1 M Theta^-T with an invertible Theta that is not orthogonal: the score changes."""
    Q, K = w.matrix("W_Q", "d", "h"), w.matrix("W_K", "d", "h")
    stretch = w.identity("d") * (np.arange(w.sizes["d"]) + 1)
    return same_numbers(w, lambda t: symmetric.weight_symmetry(t @ Q, t @ K), w.identity("d"), stretch)


MEASURES = Claim(
    id="asymmetry-measures",
    rank="remark",
    chapter=CHAPTER,
    title="What each measure of asymmetry sees",
    statement=(
        "Only the cycle affinity and the centered skew ratio $\\kappa$ see neither row constants (which softmax ignores) nor key biases "
        "(which keep a map reversible); a temperature $s$ multiplies the affinity by $|s|$ and leaves $\\kappa$. Mean $|S-S^{\\top}|$ sees "
        "all three, $\\|S-S^{\\top}\\|/\\|S\\|$ the first two, $\\|A-A^{\\top}\\|/\\|A\\|$ and the entropy production the last two. All "
        "are blind to the gauge of a head, $W_QN\\,(W_KN^{-\\top})^{\\top}=W_QW_K^{\\top}$. A change of the stream's basis keeps a symmetric "
        "$M$ symmetric; the symmetry *score* of the weights survives orthogonal changes, not all others; the directionality score, which "
        "changes sign with $M^{\\top}$, survives permutations and signs of the coordinates, not rotations."
    ),
    hypotheses=(
        Hypothesis(
            "H1",
            "row constants, key biases",
            "what is added to the scores is $r\\mathbf1^{\\top}$ or $\\mathbf1c^{\\top}$",
        ),
        Hypothesis("H2", "invertible gauge", "$N$ and $\\Theta$ are invertible"),
        Hypothesis("H3", "orthogonal basis", "for the symmetry score of the weights: $\\Theta$ is orthogonal"),
    ),
    sources=(
        Source("code", "kayyam2026three", note="mean of $|S-S^{\\top}|$"),
        SAPONATI,
        Source("derived", note="the invariances, and the centered skew ratio"),
    ),
    kind="condition",
    sides=unseen,
    special={"exact": unseen_exactly, "numeric": unseen_in_floats},
    settings=lambda s: bare(s) and s.d // s.heads > 1,
    controls=(
        Control("H1", "a relative bias $b(j-i)$", relative_bias_added),
        Control("H2", "a generalized inverse of a singular $N$", singular_gauge),
        Control("H3", "the symmetry score in a stretched basis", stretched_stream, lanes=("exact", "numeric")),
        Control("construction", "the directionality score in a rotated stream", direction_turned, lanes=("numeric",)),
        Control(
            "construction",
            "mean $|S-S^{\\top}|$ taken for a measure of irreversibility: symmetric scores with a key bias",
            score_gap_with_key_bias,
            lanes=("exact", "numeric"),
            witness=key_bias_is_reversible,
        ),
    ),
)


# -- centred-skew-ratio ------------------------------------------------------------------------------------------------


def logs_for_scores(w: Any) -> Pairs:
    """log A = S - (log Z) 1^T centers to what S centers to; and reversible scores center to a symmetric matrix."""
    S, one, C = w.integers("S", "n", "n"), w.ones("n"), w.centering("n")
    logs = S - w.integers("z", "n", "1") @ one.mT
    R = added(w, w.symmetric("F", "n", "kolmogorov-converse"))
    return [(C @ logs @ C, C @ S @ C), ((C @ R @ C).mT, C @ R @ C)]


def mean_cycle(w: Any) -> Pairs:
    """C (S - S^T) C at (i, j) is the mean over k of the cycles S_ij + S_jk + S_ki - S_ik - S_kj - S_ji."""
    S = w.integers("S", "n", "n")
    forth, back = score_cycles(S)
    skew = S - S.mT
    return [
        *logs_for_scores(w),
        (skew_inside(w, S), (forth - back).sum(axis=2) / len(S)),
        (number(w, symmetric.skew_share(added(w, skew))), w.identity("1")),
        (number(w, 1 - symmetric.skew_share(added(w, S + S.mT))), w.identity("1")),
        *same_numbers(w, symmetric.skew_share, S, added(w, S)),
    ]


def from_the_map(w: Any) -> Pairs:
    """In floats: kappa of the logarithm of the map is kappa of the scores."""
    S = w.integers("S", "n", "n")
    return [*mean_cycle(w), *same_numbers(w, symmetric.centered_skew_ratio, S, np.log(map_of(S)))]


def not_centered(w: Any) -> Pairs:
    S, one = w.integers("S", "n", "n"), w.ones("n")
    logs = S - w.integers("z", "n", "1") @ one.mT
    return [(logs - logs.mT, S - S.mT)]


def masked_map(w: Any) -> Pairs:
    with np.errstate(divide="ignore"):
        logs = np.log(map_of(w.integers("S", "n", "n"), causal(w.sizes["n"])))
    return [
        (
            number(w, symmetric.centered_skew_ratio(logs)),
            number(w, symmetric.centered_skew_ratio(w.integers("S", "n", "n"))),
        )
    ]


def filled_logs(w: Any) -> Pairs:
    """A masked map whose zeros are given some large negative logarithm: the value follows the filling."""
    S, seen = w.integers("S", "n", "n"), causal(w.sizes["n"])
    return same_numbers(w, symmetric.skew_share, np.where(seen, S, S * 0 - 20), np.where(seen, S, S * 0 - 40))


SKEW_RATIO = Claim(
    id="centred-skew-ratio",
    rank="remark",
    chapter=CHAPTER,
    title="The centered skew ratio",
    statement=(
        "$\\kappa(S)=\\|C(S-S^{\\top})C\\|_F/(2\\|CSC\\|_F)\\in[0,1]$ can be computed from the map alone: $\\kappa(\\log A)=\\kappa(S)$. The entry "
        "$(i,j)$ of $C(S-S^{\\top})C$ is the mean over $k$ of the cycle defects of $(i,j,k)$. So for a positive map $\\kappa=0$ if and only "
        "if it is reversible; and $\\kappa=1$ if and only if $CSC\\ne0$ is skew. (If $CSC=0$, $\\kappa$ counts as 0.)"
    ),
    hypotheses=(
        Hypothesis(
            "H1",
            "positive map",
            "no entry of the map is zero: there is no mask, or a block without one is taken",
        ),
    ),
    sources=(OURS,),
    uses=("row-constants-invisible", "kolmogorov-converse"),
    sides=logs_for_scores,
    special={"exact": mean_cycle, "numeric": from_the_map},
    settings=bare,
    controls=(
        Control("H1", "a causal map: the logarithm of 0", masked_map, lanes=("numeric",), refused="finite"),
        Control(
            "H1",
            "a causal map whose zeros are filled with two different logarithms",
            filled_logs,
            lanes=("exact", "numeric"),
        ),
        Control("construction", "the same without centering", not_centered),
    ),
)


# -- weight-symmetry-score ---------------------------------------------------------------------------------------------


def trace(w: Any, a: Any) -> Any:
    """tr, 1 x 1. In words: linear, the same for all rotations of a product and for its transpose, and nothing else."""
    function = w.function("tr", "1", "1")
    if not isinstance(a, Word):
        return function(a) if w.lane == "symbolic" else np.array([[a.trace()]])
    total = w.ones("1") - w.ones("1")
    for letters, coefficient in a.terms:
        total = total + coefficient * function(first_rotation(letters))
    return total


def first_rotation(letters: tuple[Any, ...]) -> Word:
    """Of all rotations of a product of letters and of its transpose, the first in the order of their names."""
    turned = tuple(letter.mT for letter in reversed(letters))
    rotations = [product[i:] + product[:i] for product in (letters, turned) for i in range(len(letters))]
    first = min(rotations, key=str)
    return Word(first[0].rows, first[-1].cols, [(first, 1)])


def both(w: Any) -> tuple[Any, Any]:
    return w.matrix("W_Q", "d", "h"), w.matrix("W_K", "d", "h")


def small_products(w: Any) -> Pairs:
    """tr (M + M^T)(M + M^T)^T = 2 tr AB + 2 tr CC: all from d_h x d_h products."""
    Q, K = both(w)
    M = Q @ K.mT
    A, B, mixed = Q.mT @ Q, K.mT @ K, K.mT @ Q
    large = trace(w, (M + M.mT) @ (M + M.mT).mT)
    small = trace(w, A @ B) + trace(w, mixed @ mixed)
    return [(trace(w, M @ M.mT), trace(w, A @ B)), (large, small + small)]


def scores_of_weights(w: Any) -> Pairs:
    """The function of the package against the definition; 1 for equal projections, 0 for a skew product."""
    Q, K = both(w)
    skew = np.concatenate([K[:, :1], K[:, 1:2]], axis=1), np.concatenate([-K[:, 1:2], K[:, :1]], axis=1)
    return [
        *small_products(w),
        (number(w, symmetric.weight_symmetry(Q, K)), number(w, by_definition(Q @ K.mT))),
        (number(w, symmetric.weight_symmetry(K, K)), w.identity("1")),
        (number(w, 1 - symmetric.weight_symmetry(*skew)), w.identity("1")),
    ]


def by_definition(M: Any) -> Any:
    half = (M + M.mT) / 2
    return (half * half).sum() / (M * M).sum()


def rotation_between(w: Any) -> Pairs:
    """Under RoPE the form at another distance is W_Q R W_K^T; the score is that of distance 0."""
    Q, K = both(w)
    if in_words(w):
        M, R = Q @ K.mT, w.matrix("R", "h", "h")
        N = Q @ R @ K.mT
        return [(trace(w, N @ N.mT), trace(w, M @ M.mT))]
    turned = np.concatenate([-Q[:, 1:2], Q[:, :1], Q[:, 2:]], axis=1)
    return [(number(w, by_definition(turned @ K.mT)), number(w, symmetric.weight_symmetry(Q, K)))]


def both_orders_alike(w: Any) -> Pairs:
    """tr CC^T in the place of tr CC."""
    Q, K = both(w)
    A, B, mixed = Q.mT @ Q, K.mT @ K, K.mT @ Q
    M = Q @ K.mT
    small = trace(w, A @ B) + trace(w, mixed @ mixed.mT)
    return [(trace(w, (M + M.mT) @ (M + M.mT).mT), small + small)]


WEIGHT_SYMMETRY = Claim(
    id="weight-symmetry-score",
    rank="remark",
    chapter=CHAPTER,
    title="The symmetry score of the weights, computed fast",
    statement=(
        "For $M=W_QW_K^{\\top}$: $\\|\\tfrac12(M+M^{\\top})\\|_F^2/\\|M\\|_F^2=\\tfrac12\\big(1+\\operatorname{tr}(CC)/\\operatorname{tr}(AB)\\big)$ "
        "with $A=W_Q^{\\top}W_Q$, $B=W_K^{\\top}W_K$, $C=W_K^{\\top}W_Q$, which are only $d_h\\times d_h$. The score $s$ is 1 for equal "
        "projections and 0 for a skew $M$; published plots show $2s-1$."
    ),
    hypotheses=(
        Hypothesis(
            "H1",
            "nothing between the factors",
            "the scores are $XMX^{\\top}$: no rotation and no norm stands between $W_Q$ and $W_K$",
        ),
    ),
    sources=(SAPONATI,),
    sides=small_products,
    special={"exact": scores_of_weights, "numeric": scores_of_weights},
    settings=lambda s: bare(s) and s.d // s.heads > 1,
    controls=(
        Control("H1", "a rotation between the two projections, as under RoPE at another distance", rotation_between),
        Control(
            "construction",
            "$\\operatorname{tr}(CC^{\\top})$ in the place of $\\operatorname{tr}(CC)$",
            both_orders_alike,
        ),
    ),
)
