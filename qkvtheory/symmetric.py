"""What attention with queries equal to keys is: a reversible Markov chain, and how far another head is from one.

The functions take the scores (n x n) or the map (n x n, rows that sum to 1) of one head as a NumPy array. They run on
floats, and on exact numbers (dtype object) wherever no square root, logarithm or eigenvalue is needed. Tokens are rows
and are counted from 0. Input that is no such matrix is refused with a HypothesisError.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from qkvtheory.errors import HypothesisError
from qkvtheory.linalg import check_matrix, fractions, identity, inverse

SLACK = 64  # roundings that the cycle affinity of a reversible map may show
ROUNDING = 1e-5  # by how much a row of floats, perhaps once of single precision, may miss the sum 1


# -- laws and balance --------------------------------------------------------------------------------------------------


def stationary_law(attention_map: Any) -> Any:
    """pi with pi A = pi and sum 1, for a positive map A (n x n); shape (n,). Exact numbers stay exact.

    Raises HypothesisError unless A is a positive map. Nothing is subtracted, so floats keep every entry to nearly full
    precision. Source: Grassmann, Taksar and Heyman 1985.

    >>> stationary_law(np.array([[0.5, 0.5], [0.25, 0.75]])).round(4).tolist()
    [0.3333, 0.6667]
    """
    a, n = positive_map(attention_map).copy(), len(attention_map)
    for k in range(n - 1, 0, -1):  # watch the chain only while it is at tokens before k
        a[:k, k] = a[:k, k] / a[k, :k].sum()
        a[:k, :k] = a[:k, :k] + a[:k, k, None] * a[k, :k]
    law = a[:, 0] * 0 + 1
    for k in range(1, n):
        law[k] = law[:k] @ a[:k, k]
    return law / law.sum()


def law_of_row_sums(weights: Any) -> Any:
    """Z / sum(Z) with Z the row sums of positive weights E (n x n); shape (n,). For symmetric E it is the stationary
    law of the map E / Z (claim detailed-balance).

    >>> law_of_row_sums(np.array([[1.0, 2.0], [2.0, 5.0]])).tolist()
    [0.3, 0.7]
    """
    z = entries_positive(square(weights, "the weights"), "the weights").sum(axis=1)
    return z / z.sum()


def reversing_law(attention_map: Any) -> Any:
    """pi_i = A_0i / A_i0, with sum 1: the only law for which a positive map can be in balance; shape (n,).

    Claim kolmogorov-converse. Raises HypothesisError unless A is a positive map.

    >>> reversing_law(np.array([[0.5, 0.5], [0.25, 0.75]])).round(4).tolist()
    [0.3333, 0.6667]
    """
    a = positive_map(attention_map)
    law = a[0] / a[:, 0]
    return law / law.sum()


def balance_defect(attention_map: Any, law: Any = None) -> Any:
    """max |pi_i A_ij - pi_j A_ji|: zero if and only if A is in detailed balance with pi (``law``, shape (n,)).

    ``law``: by default the stationary law; then the map must be positive, and the defect is zero if and only if the map
    is reversible. Raises HypothesisError for a law of another length or with an entry not positive and finite.

    >>> float(balance_defect(np.array([[0.5, 0.5], [0.25, 0.75]]), [0.5, 0.5]))
    0.125
    """
    a = stochastic(attention_map)
    pi = stationary_law(a) if law is None else as_law(law, len(a))
    flow = pi[:, None] * a
    return abs(flow - flow.mT).max()


def is_reversible(attention_map: Any, tolerance: float | None = None) -> bool:
    """Is there a positive law in detailed balance with this positive map? Decided by Kolmogorov's three-cycles.

    Exact numbers are decided exactly. For floats the largest cycle affinity may be ``tolerance``; if none is given,
    what rounding may do to the logarithms (``rounding_of_logs``). A map of scores with large constants along its rows
    has lost more before, and needs a tolerance. Two tokens are always reversible, so a test of reversibility needs
    three. Raises HypothesisError unless the map is positive: with zeros three-cycles do not decide (claim kolmogorov-
    converse), and a zero facing a positive entry alone excludes reversibility (claim causal-not-reversible).

    >>> is_reversible(np.array([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.25, 0.25, 0.5]]))
    True
    >>> is_reversible(np.array([[0.2, 0.7, 0.1], [0.1, 0.2, 0.7], [0.7, 0.1, 0.2]]))
    False
    """
    a = positive_map(attention_map)
    if a.dtype == object:
        return bool(cycle_defect(a) == 0)
    return cycle_affinity(a) <= (rounding_of_logs(a) if tolerance is None else tolerance)


def rounding_of_logs(a: np.ndarray) -> float:
    """64 times what rounding does to log A: to the score behind it, and to what is left of a subnormal entry."""
    limits = np.finfo(a.dtype)
    return SLACK * float(limits.eps * (1 + abs(np.log(a)).max()) + limits.smallest_subnormal / a.min())


# -- cycles ------------------------------------------------------------------------------------------------------------


def cycle_defect(attention_map: Any) -> Any:
    """max |A_ij A_jk A_ki - A_ik A_kj A_ji| over all tokens i, j, k; exact for exact numbers. Zero for every reversible
    map (claim kolmogorov-necessary).

    >>> from fractions import Fraction
    >>> quarter = np.full((3, 3), Fraction(1, 4), dtype=object)
    >>> shift = np.roll(np.eye(3, dtype=int), 1, axis=1)
    >>> print(cycle_defect(quarter * (1 + shift)))
    7/64
    """
    a = stochastic(attention_map)
    around = (abs(row[:, None] * a * a[:, i] - row * a.mT * a[:, i][:, None]).max() for i, row in enumerate(a))
    return max(around)


def cycle_affinity(attention_map: Any) -> float:
    """max |log (A_ij A_jk A_ki) / (A_ik A_kj A_ji)| over all tokens, for a positive map; in nats.

    Zero if and only if the map is reversible. It does not see row constants and key biases of the scores, and a
    temperature scales it (claim asymmetry-measures). Source: Kolmogorov 1936; "affinity" after Schnakenberg 1976.

    >>> cycle_affinity(np.array([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.25, 0.25, 0.5]]))
    0.0
    """
    logs = log_map(attention_map)
    skew = logs - logs.mT
    return float(max(abs(row[:, None] + skew - row).max() for row in skew))


def entropy_production(attention_map: Any) -> float:
    """sum pi_i A_ij log(pi_i A_ij / (pi_j A_ji)) >= 0, in nats a step, with pi the stationary law of a positive map.

    Zero if and only if the map is reversible; what it adds to the cycle affinity is how often the cycles are run.
    Source: Schnakenberg 1976.

    >>> entropy_production(np.array([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.25, 0.25, 0.5]]))
    0.0
    """
    logs = log_map(attention_map)
    flow = stationary_law(np.exp(logs))[:, None] * np.exp(logs)
    # The logarithms of pi cancel, because the flow has equal row and column sums.
    return float(((flow - flow.mT) * (logs - logs.mT)).sum() / 2)


# -- pairs and eigenvalues ---------------------------------------------------------------------------------------------


def pair_sums(attention_map: Any) -> Any:
    """A_ij + A_ji for every two tokens (n x n, zeros on the diagonal). At most 1 where queries are keys and there is no
    mask (claim pair-bound).

    >>> pair_sums(np.array([[0.5, 0.5], [0.25, 0.75]])).tolist()
    [[0.0, 0.75], [0.75, 0.0]]
    """
    a = stochastic(attention_map)
    return (a + a.mT) * (1 - identity(len(a), a))


def spectrum(attention_map: Any) -> np.ndarray:
    """The eigenvalues of a map of floats, the largest real part first; shape (n,), real if the map is reversible.

    A reversible map is similar to a symmetric matrix, whose eigenvalues are found to full precision; for another map
    they may be complex. In [0, 1] where queries are keys and there is no mask (claim spectrum-unit-interval).

    >>> spectrum(np.array([[0.75, 0.25], [0.25, 0.75]])).round(12).tolist()
    [1.0, 0.5]
    """
    a = stochastic(floats(attention_map, "the map"))
    if (a > 0).all() and is_reversible(a):
        root = np.sqrt(reversing_law(a))
        similar = root[:, None] * a / root
        return np.linalg.eigvalsh((similar + similar.mT) / 2)[::-1]
    values = np.linalg.eigvals(a)
    return np.asarray(values[np.lexsort((values.imag, -values.real))])


# -- measures of asymmetry ---------------------------------------------------------------------------------------------


def mean_asymmetry(scores: Any) -> Any:
    """The mean of |S_ij - S_ji| (n x n scores): the measure of the code of arXiv 2606.04032. It grows with the scores,
    and a key bias changes it though the map stays reversible (claim asymmetry-measures).

    >>> float(mean_asymmetry(np.array([[0.0, 1.0], [0.0, 0.0]])))
    0.5
    """
    s = square(scores, "the scores")
    return abs(s - s.mT).sum() / s.size


def asymmetry(a: Any) -> float:
    """||a - a^T|| / ||a|| in the Frobenius norm, of scores or of a map (n x n); between 0 and 2.

    Zero if and only if ``a`` is symmetric, which the map of a head with queries equal to keys is not. 0 for a = 0.

    >>> asymmetry(np.array([[0.0, 1.0], [-1.0, 0.0]]))
    2.0
    """
    m = square(a, "the matrix")
    whole = squares(m)
    return math.sqrt(squares(m - m.mT) / whole) if whole else 0.0


def skew_share(scores: Any) -> Any:
    """The squared centered skew ratio, ||C(S - S^T)C||^2 / (4 ||CSC||^2) in [0, 1], C the centering matrix (n x n).

    Exact for exact numbers. 0 where CSC = 0: such scores are a row constant plus a key bias. See
    ``centered_skew_ratio``.

    >>> round(float(skew_share(np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]))), 12)
    0.75
    """
    s = square(scores, "the scores")
    inner = centered(s)
    whole = squares(inner)
    rounding = 0 if s.dtype == object else squares(s) * (len(s) * np.finfo(s.dtype).eps) ** 2
    return squares(inner - inner.mT) / (4 * whole) if whole > rounding else whole * 0


def centered_skew_ratio(scores: Any) -> float:
    """kappa = ||C(S - S^T)C|| / (2 ||CSC||) in [0, 1], of scores S or of the logarithm of a map (n x n).

    kappa(log A) = kappa(S): row constants, key biases and temperature are invisible to it. It is 0 if and only if the
    map is reversible, and 1 if and only if CSC is skew (claim centred-skew-ratio; ours). Use the full map or a block of
    it without mask: the logarithm of 0 is refused as not finite.

    >>> centered_skew_ratio(np.array([[0.0, 1.0, -1.0], [-1.0, 0.0, 1.0], [1.0, -1.0, 0.0]]))
    1.0
    """
    return math.sqrt(skew_share(scores))


def centered(scores: Any) -> Any:
    """C S C with C = I - 11^T/n: row means and column means taken off, the mean put back. n x n, exact if S is.

    >>> centered(np.array([[1.0, 2.0], [3.0, 4.0]])).tolist()
    [[0.0, 0.0], [0.0, 0.0]]
    """
    s = square(scores, "the scores")
    n = len(s)
    rows, columns = s.sum(axis=1, keepdims=True) / n, s.sum(axis=0, keepdims=True) / n
    return s - rows - columns + rows.sum() / n


def weight_symmetry(W_Q: Any, W_K: Any) -> Any:
    """||(M + M^T)/2||^2 / ||M||^2 of M = W_Q W_K^T, from d_h x d_h products only (W_Q, W_K: d x d_h, one head).

    1 if M is symmetric, 0 if it is skew, about one half for independent random weights. Exact for exact numbers. The
    plots of the source show 2s - 1. Source: Saponati et al., arXiv 2502.10927, symmetry score; their fast formula.

    >>> W = np.eye(3)[:, :2]
    >>> float(weight_symmetry(W, W)), float(weight_symmetry(W, W @ np.array([[0.0, -1.0], [1.0, 0.0]])))
    (1.0, 0.0)
    """
    query, key = same_shape(W_Q, W_K)
    both, mixed = (query.mT @ query) @ (key.mT @ key), key.mT @ query
    whole = both.trace()
    if whole == 0:
        raise HypothesisError("nonzero", "W_Q W_K^T is zero, so it is as symmetric as it is skew")
    return (1 + (mixed @ mixed).trace() / whole) / 2


def directionality(W_Q: Any, W_K: Any, deviations: float = 2.0) -> float:
    """(c - r) / (c + r) in [-1, 1] for M = W_Q W_K^T (floats, d x d_h each): do columns or rows of M stand out?

    r is the sum, over the rows of M whose norm exceeds a threshold, of the excess; the threshold is the mean of all row
    norms plus ``deviations`` times their standard deviation (with d - 1 in its denominator). c is the same for the
    columns. 0 if no row and no column stands out. This is the formula of the published code of Saponati et al., arXiv
    2502.10927 (matteosaponati/attention-geometry), with its two standard deviations.

    >>> key = np.ones((16, 1)); key[0] = 9.0        # one key direction far larger than the others
    >>> directionality(np.ones((16, 1)), key)
    1.0
    """
    query, key = same_shape(floats(W_Q, "W_Q"), floats(W_K, "W_K"))
    m = query @ key.mT
    if len(m) < 2:
        raise HypothesisError("two rows", "a standard deviation needs at least two rows and columns")
    r, c = (excess(np.linalg.norm(m, axis=axis), deviations) for axis in (1, 0))
    return 0.0 if r + c == 0 else (c - r) / (c + r)


def excess(norms: np.ndarray, deviations: float) -> float:
    """How far, in sum, the norms above mean + deviations * standard deviation exceed it."""
    threshold = norms.mean() + deviations * norms.std(ddof=1)
    return float(np.maximum(norms - threshold, 0).sum())


# -- keys for a given map ----------------------------------------------------------------------------------------------


def keys_for_map(attention_map: Any) -> np.ndarray:
    """Keys K (n x n, floats) with softmax(K K^T) = A, for a positive reversible map A that queries equal to keys allow.

    With pi the reversing law and T_ij = log(pi_i A_ij), A must be strictly conditionally positive definite: v T v^T > 0
    for every row v != 0 whose entries sum to 0. Then T + c 11^T is positive definite for large c, and K is its Cholesky
    factor (claim qk-pattern-characterisation; ours). Raises HypothesisError "positive", "reversible" or "conditionally
    positive definite" for other maps.

    >>> A = np.array([[0.6, 0.4], [0.3, 0.7]])
    >>> E = np.exp((K := keys_for_map(A)) @ K.mT)
    >>> bool(np.allclose(E / E.sum(1, keepdims=True), A))
    True
    """
    a = floats(attention_map, "the map")
    if not is_reversible(a):
        size = cycle_affinity(a)
        raise HypothesisError(
            "reversible", f"the cycle affinity is {size:.2g}, and 0 for every map with queries = keys"
        )
    potential = np.log(reversing_law(a))[:, None] + np.log(a)
    potential = (potential + potential.mT) / 2
    n, basis = len(a), centered_basis(len(a))
    inner = basis.mT @ potential @ basis
    smallest = np.linalg.eigvalsh(inner).min(initial=np.inf)
    if not smallest > n * np.finfo(float).eps * abs(potential).max():
        raise HypothesisError(
            "conditionally positive definite",
            f"some v with entries that sum to 0 has v T v^T = {smallest:.2g} for |v| = 1 and T = log(pi A); it must be "
            "positive",
        )
    beside = basis.mT @ potential.mean(axis=1)  # T 1/n seen from the basis
    needed = n * (beside @ np.linalg.solve(inner, beside)) - potential.mean() * n
    return np.linalg.cholesky(potential + (needed + typical(inner)) / n)


def typical(inner: np.ndarray) -> float:
    """A positive number of the size of the eigenvalues of a positive definite matrix (which may be 0 x 0)."""
    return float(np.trace(inner)) / len(inner) if len(inner) else 1.0


def centered_basis(n: int) -> np.ndarray:
    """n x (n - 1), orthonormal columns with entries that sum to 0."""
    ones_first = np.column_stack([np.ones(n), np.eye(n)[:, : n - 1]])
    return np.linalg.qr(ones_first)[0][:, 1:]


def keys_for_causal_map(attention_map: Any) -> np.ndarray:
    """Keys K (n x n, floats) whose scores K K^T, masked causally, give the lower-triangular map A.

    Every lower-triangular map with positive entries on and below its diagonal has such keys (claim causal-qk-universal;
    ours). The first key is as long as needed, and each squared norm is about half the one before. The scores are as
    large as these norms, so floats lose that factor. Raises HypothesisError "causal" or "positive" for other maps.

    >>> A = np.array([[1.0, 0.0], [0.9, 0.1]])
    >>> E = np.tril(np.exp((K := keys_for_causal_map(A)) @ K.mT - (K**2).sum(1, keepdims=True)))
    >>> bool(np.allclose(E / E.sum(1, keepdims=True), A))
    True
    """
    a = stochastic(floats(attention_map, "the map"))
    if np.triu(a, 1).any():
        raise HypothesisError("causal", "the map has an entry above the diagonal; see keys_for_map for full maps")
    if not (a[np.tril_indices(len(a))] > 0).all():
        raise HypothesisError("positive", "an entry on or below the diagonal is zero, and a softmax is never zero")
    logs = np.log(np.where(a > 0, a, 1))
    return np.linalg.cholesky(causal_gram(logs - np.diag(logs)[:, None]))


def causal_gram(logs: Any) -> Any:
    """A positive definite G (n x n) with G_ij - G_ii = logs_ij for j < i: the scores of keys for a causal map.

    ``logs``: n x n, only the part below the diagonal is read. Exact numbers give an exact G. The first squared norm is
    a power of four, the smallest for which every later key finds its place: for r = G_ii the orthogonal part of key i
    has the squared length r - u G^-1 u^T with u = logs_i + r, a parabola in r whose top is taken.

    >>> causal_gram(np.array([[0.0, 0.0], [1.0, 0.0]])).tolist()
    [[16.0, 8.0], [8.0, 7.0]]
    """
    logs = square(logs, "the logarithms")
    one = identity(1, logs)
    for power in range(256):
        gram = grown(4**power * one, logs)
        if gram is not None:
            return gram
    raise HypothesisError("finite", "the logarithms are too large: no first key up to 4^255 serves")


def grown(gram: Any, logs: Any) -> Any:
    """The Gram matrix with a key for each further row of ``logs``, or None if one finds no place."""
    for i in range(1, len(logs)):
        back, t = inverse(gram, "the Gram matrix"), logs[i, :i]
        a, b, c = back.sum(), (t @ back).sum(), t @ back @ t
        r = (1 - 2 * b) / (2 * a)
        if not (
            2 * b < 1 and 4 * (c + 2 * b * r + a * r * r) < 3 * r
        ):  # a quarter of the squared norm stays orthogonal
            return None
        beside = (t + r)[:, None]
        gram = np.block([[gram, beside], [beside.mT, np.array([[r]], dtype=logs.dtype)]])
    return gram


def two_head_keys(partner: Any, length: float) -> tuple[np.ndarray, np.ndarray]:
    """Keys (n x n/2) of two heads with queries equal to keys that together swap i and partner[i], as length grows.

    ``partner``: an involution without fixed points, such as [3, 2, 1, 0]. In the first head the smaller of the two
    tokens has the key length * u and its partner 2 * length * u, with a unit vector u of their own: it attends to its
    partner. The second head is the mirror image (claim reverse-swap-consequence; ours). Raises HypothesisError
    "involution" for another ``partner``, ValueError for a ``length`` that is not finite.

    >>> first, second = two_head_keys([1, 0], 3.0)
    >>> first.tolist(), second.tolist()
    ([[3.0], [6.0]], [[6.0], [3.0]])
    """
    smaller, pair = pairs_of(partner, length)
    directions = np.eye(len(pair) // 2)[pair]
    lengths = np.where(smaller, 1.0, 2.0)
    return tuple(length * along[:, None] * directions for along in (lengths, 3 - lengths))


def keys_for_involution(partner: Any, length: float) -> np.ndarray:
    """Keys (n x 2) of one head that swaps i and partner[i] at a negative temperature s, as |s| length^2 grows.

    ``partner``: an involution without fixed points, such as [3, 2, 1, 0]. The smaller token of each pair has a
    direction of its own on a half circle, equally spaced, and its partner the opposite one. With queries equal to keys
    the score s k_i k_j^T is largest at the partner, by |s| length^2 (1 - cos(2 pi / n)) (claim negative-temperature-
    involution; ours). Raises HypothesisError "involution" for another ``partner``, ValueError for a ``length`` that is
    not finite.

    >>> keys_for_involution([1, 0, 3, 2], 2.0).round(9).tolist()
    [[2.0, 0.0], [-2.0, -0.0], [0.0, 2.0], [-0.0, -2.0]]
    """
    smaller, pair = pairs_of(partner, length)
    angles = 2 * np.pi * pair / len(pair)
    signs = np.where(smaller, length, -length)
    return signs[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def pairs_of(partner: Any, length: float) -> tuple[np.ndarray, np.ndarray]:
    """Which tokens are the smaller one of their pair, and the number of the pair of each token; shape (n,) both."""
    if not math.isfinite(length):
        raise ValueError(f"length must be a finite number, not {length}")
    to = np.asarray(partner)
    n = to.size
    if not is_pairing(to):
        raise HypothesisError(
            "involution", f"{to.tolist()} is not an involution of 0, ..., n - 1 without fixed points, such as [1, 0]"
        )
    smaller = np.arange(n) < to
    pair = np.zeros(n, dtype=int)
    pair[smaller] = np.arange(n // 2)
    pair[to[smaller]] = np.arange(n // 2)
    return smaller, pair


def is_pairing(to: np.ndarray) -> bool:
    """Whole numbers, each the partner of its partner, and none its own."""
    tokens = np.arange(to.size)
    if to.ndim != 1 or to.dtype.kind not in "iu" or sorted(to.tolist()) != tokens.tolist():
        return False
    return bool((to[to] == tokens).all() and (to != tokens).all())


# -- what is refused ---------------------------------------------------------------------------------------------------


def square(a: Any, name: str) -> Any:
    if not isinstance(a, np.ndarray):
        raise HypothesisError("matrix", f"{name} must be a NumPy array, not a {type(a).__name__}")
    check_matrix(a, name)
    if a.shape[0] != a.shape[1]:
        raise HypothesisError("square", f"{name} must be n x n for n tokens, not {a.shape[0]} x {a.shape[1]}")
    return fractions(a) if a.dtype == object else a


def stochastic(attention_map: Any) -> Any:
    """A square matrix without negative entries whose rows sum to 1, exactly for exact numbers."""
    a = square(attention_map, "the map")
    if (a < 0).any() or (abs(a.sum(axis=1) - 1) > (0 if a.dtype == object else ROUNDING)).any():
        raise HypothesisError("rows sum to one", "a map has entries of at least 0 and rows that sum to 1")
    return a


def entries_positive(a: Any, name: str) -> Any:
    if not (a > 0).all():
        raise HypothesisError(
            "positive", f"{name} must be positive everywhere: no mask, no weight that underflows to 0"
        )
    return a


def positive_map(attention_map: Any) -> Any:
    return entries_positive(stochastic(attention_map), "the map")


def log_map(attention_map: Any) -> np.ndarray:
    return np.log(positive_map(floats(attention_map, "the map")))


def floats(a: Any, name: str) -> np.ndarray:
    """Float64: logarithms, roots and eigenvalues are no business of exact numbers."""
    if not isinstance(a, np.ndarray):
        raise HypothesisError("matrix", f"{name} must be a NumPy array, not a {type(a).__name__}")
    check_matrix(a, name)
    return np.asarray(a, dtype=np.float64)


def as_law(law: Any, n: int) -> Any:
    pi = np.asarray(law)
    if pi.shape != (n,) or not ((pi > 0) & (pi < np.inf)).all():
        raise HypothesisError("law", f"a law of {n} tokens has {n} positive entries, not those of {described(pi)}")
    return pi


def described(pi: np.ndarray) -> str:
    return f"an array of shape {pi.shape}" if pi.ndim != 1 else str(pi.tolist())


def same_shape(W_Q: Any, W_K: Any) -> tuple[Any, Any]:
    for name, weight in (("W_Q", W_Q), ("W_K", W_K)):
        if not isinstance(weight, np.ndarray):
            raise HypothesisError("matrix", f"{name} must be a NumPy array, not a {type(weight).__name__}")
        check_matrix(weight, name)
    if W_Q.shape != W_K.shape:
        raise HypothesisError("shapes agree", f"W_Q is {W_Q.shape} but W_K is {W_K.shape}: one head at a time")
    return W_Q, W_K


def squares(a: Any) -> Any:
    return (a * a).sum()
