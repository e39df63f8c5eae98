"""What attention with queries equal to keys is: laws, cycles, bounds, measures, and keys for a given map."""

from __future__ import annotations

from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qkvtheory import Heads, HypothesisError, causal, symmetric
from qkvtheory.attention import softmax
from qkvtheory.linalg import right_inverse
from qkvtheory.positions import relative_bias

LEANING = np.array([[0.2, 0.7, 0.1], [0.1, 0.2, 0.7], [0.7, 0.1, 0.2]])  # doubly stochastic, runs one way round
seeds, sizes = st.integers(0, 999), st.integers(2, 6)


def exact(rows) -> np.ndarray:
    return np.array([[Fraction(x) for x in row] for row in rows], dtype=object)


def random_map(seed: int, n: int, scale: float = 1.0) -> np.ndarray:
    return softmax(scale * np.random.default_rng(seed).normal(size=(n, n)))


def shared_map(seed: int, n: int, scale: float = 1.0, width: int | None = None) -> np.ndarray:
    k = scale * np.random.default_rng(seed).normal(size=(n, width or n))
    return softmax(k @ k.T)


# -- laws and balance --------------------------------------------------------------------------------------------------


@given(seeds, sizes)
def test_the_stationary_law_does_not_move(seed, n):
    a = random_map(seed, n, 3.0)
    law = symmetric.stationary_law(a)
    assert law.sum() == pytest.approx(1, abs=1e-14)
    np.testing.assert_allclose(law @ a, law, rtol=1e-12)
    assert (law > 0).all()


def test_the_stationary_law_of_fractions_is_exact():
    a = exact([["1/2", "1/4", "1/4"], ["1/3", "1/3", "1/3"], ["1/6", "1/6", "2/3"]])
    law = symmetric.stationary_law(a)
    assert (law @ a == law).all() and law.sum() == 1
    assert all(isinstance(x, Fraction) for x in law)


def test_the_stationary_law_leaves_its_argument_alone():
    a = LEANING.copy()
    symmetric.stationary_law(a)
    assert (a == LEANING).all()


def test_the_stationary_law_of_a_map_that_hardly_leaves_a_token():
    """Two tokens that leave themselves with 1e-200 and 3e-200: nothing is subtracted, so nothing is lost."""
    a = np.array([[1.0, 1e-200], [3e-200, 1.0]])
    np.testing.assert_allclose(symmetric.stationary_law(a), [0.75, 0.25], rtol=1e-14)


@given(seeds, sizes)
def test_queries_equal_to_keys_are_balanced_by_the_row_sums(seed, n):
    k = np.random.default_rng(seed).normal(size=(n, 3))
    law = symmetric.law_of_row_sums(np.exp(k @ k.T))
    a = softmax(k @ k.T)
    np.testing.assert_allclose(symmetric.stationary_law(a), law, rtol=1e-10)
    np.testing.assert_allclose(symmetric.reversing_law(a), law, rtol=1e-10)
    assert symmetric.balance_defect(a) < 1e-14
    assert symmetric.balance_defect(a, law) < 1e-14


def test_the_balance_defect_by_hand():
    assert symmetric.balance_defect(LEANING) == pytest.approx(0.2, abs=1e-15)
    assert symmetric.balance_defect(exact([["1/2", "1/2"], ["1/4", "3/4"]]), [Fraction(1, 2)] * 2) == Fraction(1, 8)
    assert symmetric.balance_defect(exact([["1/2", "1/2"], ["1/4", "3/4"]])) == 0


@given(seeds, st.integers(3, 6))
def test_reversible_or_not(seed, n):
    rng = np.random.default_rng(seed)
    s, c = rng.normal(size=(n, n)), rng.normal(size=n)
    assert symmetric.is_reversible(softmax(s + s.T + c))
    assert not symmetric.is_reversible(softmax(s))


def test_exact_maps_are_decided_exactly():
    near = exact([["1/3", "1/3", "1/3"]] * 3)
    assert symmetric.is_reversible(near)
    tiny = Fraction(1, 10**30)
    near[0] = [Fraction(1, 3), Fraction(1, 3) + tiny, Fraction(1, 3) - tiny]
    assert not symmetric.is_reversible(near)
    assert symmetric.is_reversible(near.astype(float))  # floats cannot tell


def test_two_tokens_are_always_reversible():
    assert all(symmetric.is_reversible(random_map(seed, 2, 5.0)) for seed in range(20))


# -- cycles ------------------------------------------------------------------------------------------------------------


def test_cycles_against_three_loops():
    a = random_map(3, 4, 2.0)
    triples = list(permutations(range(4), 3))
    products = [(a[i, j] * a[j, k] * a[k, i], a[i, k] * a[k, j] * a[j, i]) for i, j, k in triples]
    assert symmetric.cycle_defect(a) == pytest.approx(max(abs(x - y) for x, y in products), rel=1e-12)
    assert symmetric.cycle_affinity(a) == pytest.approx(max(abs(np.log(x / y)) for x, y in products), rel=1e-12)


def test_cycles_of_a_leaning_map_by_hand():
    assert symmetric.cycle_defect(LEANING) == pytest.approx(0.7**3 - 0.1**3, rel=1e-14)
    assert symmetric.cycle_affinity(LEANING) == pytest.approx(3 * np.log(7), rel=1e-14)
    assert symmetric.entropy_production(LEANING) == pytest.approx(0.6 * np.log(7), rel=1e-14)


def test_the_cycle_defect_of_a_causal_map_is_zero_though_no_law_balances_it():
    a = np.where(causal(3), 1.0, 0.0) / np.arange(1, 4)[:, None]
    assert symmetric.cycle_defect(a) == 0
    assert symmetric.balance_defect(a, [0.2, 0.3, 0.5]) > 0.1


@given(seeds, st.integers(3, 6))
def test_entropy_production_from_its_definition(seed, n):
    a = random_map(seed, n)
    flow = symmetric.stationary_law(a)[:, None] * a
    assert symmetric.entropy_production(a) == pytest.approx((flow * np.log(flow / flow.T)).sum(), rel=1e-9, abs=1e-14)
    assert symmetric.entropy_production(a) > 0
    assert symmetric.entropy_production(shared_map(seed, n)) < 1e-12


def test_cycles_of_a_relative_bias_are_those_of_its_odd_part():
    table = np.arange(-3.0, 4.0) ** 3 / 9
    affinity = symmetric.cycle_affinity(softmax(relative_bias(table, 4)))
    beta = {t: 2 * t**3 / 9 for t in range(-3, 4)}
    expected = max(abs(beta[j - i] + beta[k - j] - beta[k - i]) for i, j, k in permutations(range(4), 3))
    assert affinity == pytest.approx(expected, rel=1e-12)


# -- pairs and eigenvalues ---------------------------------------------------------------------------------------------


@given(seeds, sizes, st.sampled_from([0.1, 1.0, 3.0, 8.0]))
def test_the_pair_bound(seed, n, scale):
    a = shared_map(seed, n, scale, width=2)
    assert symmetric.pair_sums(a).max() <= 1 + 1e-14
    assert (np.diag(symmetric.pair_sums(a)) == 0).all()


def test_the_pair_bound_is_attained_and_broken():
    twins = softmax(np.zeros((2, 2)))
    assert symmetric.pair_sums(twins)[0, 1] == 1
    assert symmetric.pair_sums(softmax(9 * np.eye(4)[[1, 0, 3, 2]])).max() > 1.99
    assert symmetric.pair_sums(exact([["1/2", "1/2"], ["1/4", "3/4"]]))[1, 0] == Fraction(3, 4)


@given(seeds, sizes, st.integers(1, 4))
def test_the_spectrum_lies_between_zero_and_one(seed, n, width):
    values = symmetric.spectrum(shared_map(seed, n, 1.0, width))
    assert values.dtype == np.float64
    assert values[0] == pytest.approx(1, abs=1e-12)
    assert values.min() > -1e-12
    assert (np.diff(values) <= 0).all()


def test_the_spectrum_of_other_maps():
    assert symmetric.spectrum(np.array([[0.1, 0.9], [0.9, 0.1]])).tolist() == pytest.approx([1, -0.8])
    leaning = symmetric.spectrum(LEANING)
    assert np.iscomplexobj(leaning) and abs(leaning.imag).max() > 0.5
    masked = symmetric.spectrum(np.array([[1.0, 0.0], [0.5, 0.5]]))
    assert masked.tolist() == [1.0, 0.5]


def test_antipodal_keys_at_negative_temperature():
    k = 3 * np.array([[1.0, 0.0], [-1.0, 0.0]])
    assert symmetric.spectrum(softmax(-k @ k.T))[1] == pytest.approx(-1, abs=1e-6)


# -- measures ----------------------------------------------------------------------------------------------------------


def test_measures_by_hand():
    s = np.array([[1.0, 2.0], [0.0, 2.0]])
    assert symmetric.mean_asymmetry(s) == 1
    assert symmetric.asymmetry(s) == pytest.approx(np.sqrt(8 / 9))
    assert symmetric.asymmetry(np.zeros((2, 2))) == 0
    assert symmetric.mean_asymmetry(exact([[1, 2], [0, 2]])) == 1


def test_centering_by_the_matrix():
    s = np.random.default_rng(0).normal(size=(5, 5))
    c = np.eye(5) - np.full((5, 5), 1 / 5)
    np.testing.assert_allclose(symmetric.centered(s), c @ s @ c, atol=1e-15)
    whole = exact([[1, 5, 2], [0, 2, 2], [7, 1, 1]])
    assert not symmetric.centered(whole).sum(axis=0).any() and not symmetric.centered(whole).sum(axis=1).any()


@given(seeds, st.integers(3, 6))
def test_the_centered_skew_ratio(seed, n):
    rng = np.random.default_rng(seed)
    s, r, c = rng.normal(size=(n, n)), rng.normal(size=(n, 1)), rng.normal(size=n)
    kappa = symmetric.centered_skew_ratio(s)
    assert 0 < kappa < 1
    for other in (s + r, s + c, -2.5 * s, np.log(softmax(s)), s.T):
        assert symmetric.centered_skew_ratio(other) == pytest.approx(kappa, rel=1e-10)
    assert symmetric.centered_skew_ratio(s + s.T + r + c) < 1e-14
    assert symmetric.centered_skew_ratio(s - s.T + r + c) == pytest.approx(1, abs=1e-12)


def test_the_skew_share_of_fractions_and_of_nothing():
    assert symmetric.skew_share(exact([[0, 1, 0], [0, 0, 1], [1, 0, 0]])) == Fraction(3, 4)
    for separable in (exact([[1, 2], [3, 4]]), np.array([[0.1, 0.2], [0.3, 0.4]]), np.zeros((3, 3))):
        assert symmetric.skew_share(separable) == 0


def test_the_zero_of_the_skew_ratio_is_that_of_the_cycles():
    a = random_map(1, 5)
    assert symmetric.cycle_affinity(a) > 1 and symmetric.centered_skew_ratio(np.log(a)) > 0.1
    b = shared_map(1, 5)
    assert symmetric.cycle_affinity(b) < 1e-13 and symmetric.centered_skew_ratio(np.log(b)) < 1e-13


@given(seeds, st.integers(2, 6), st.integers(1, 6))
def test_weight_symmetry_against_its_definition(seed, d, width):
    W_Q, W_K = np.random.default_rng(seed).normal(size=(2, d, width))
    m = W_Q @ W_K.T
    expected = (((m + m.T) / 2) ** 2).sum() / (m**2).sum()
    assert symmetric.weight_symmetry(W_Q, W_K) == pytest.approx(expected, abs=1e-12)
    assert symmetric.weight_symmetry(W_Q, W_Q) == pytest.approx(1, abs=1e-12)
    gauge = np.random.default_rng(seed + 1).normal(size=(width, width)) + 3 * np.eye(width)
    moved = symmetric.weight_symmetry(W_Q @ gauge, W_K @ np.linalg.inv(gauge).T)
    assert moved == pytest.approx(expected, abs=1e-7)


def test_weight_symmetry_of_random_weights_is_about_one_half():
    weights = np.random.default_rng(0).normal(size=(50, 2, 64, 16))
    assert np.mean([symmetric.weight_symmetry(*pair) for pair in weights]) == pytest.approx(0.5, abs=0.01)
    assert symmetric.weight_symmetry(exact([[1], [2]]), exact([[2], [1]])) == Fraction(41, 50)


def test_directionality_by_hand():
    """Ten rows of length 1 but one of length 5; the columns of M = W_Q W_K^T are then all alike."""
    W_Q, W_K = np.ones((10, 1)), np.ones((10, 1))
    W_Q[0] = 5.0
    assert symmetric.directionality(W_Q, W_K) == -1
    assert symmetric.directionality(W_K, W_Q) == 1
    assert symmetric.directionality(W_K, W_K) == 0
    assert symmetric.directionality(W_Q, W_Q) == 0  # rows and columns stand out alike
    rows = np.sqrt(10) * np.array([5.0] + [1.0] * 9)
    threshold = rows.mean() + 2 * rows.std(ddof=1)
    assert symmetric.excess(rows, 2.0) == pytest.approx(rows[0] - threshold, rel=1e-12)
    assert symmetric.excess(rows, 3.0) == 0


def test_directionality_weighs_one_excess_against_the_other():
    W_Q, W_K = np.ones((12, 1)), np.ones((12, 1))
    W_Q[0], W_K[0] = 4.0, 9.0
    value = symmetric.directionality(W_Q, W_K)
    assert 0 < value < 1
    assert symmetric.directionality(W_K, W_Q) == pytest.approx(-value, rel=1e-12)


# -- keys for a given map ----------------------------------------------------------------------------------------------


@given(seeds, st.integers(1, 7), st.sampled_from([0.3, 1.0, 2.0]))
def test_keys_for_a_map_give_it_back(seed, n, scale):
    k = scale * (np.eye(n) + np.random.default_rng(seed).normal(size=(n, n)) / (4 * n))
    a = softmax(k @ k.T)
    found = symmetric.keys_for_map(a)
    assert found.shape == (n, n)
    np.testing.assert_allclose(Heads(1, scale=1).maps(found, found)[0], a, rtol=1e-9)


def test_keys_for_a_map_of_key_biases():
    """A key bias keeps a map reversible; if it is small against the keys the map is one of other keys."""
    k = 2 * np.eye(3)
    a = softmax(k @ k.T + np.array([0.0, 0.5, 1.0]))
    found = symmetric.keys_for_map(a)
    np.testing.assert_allclose(softmax(found @ found.T), a, rtol=1e-10)


@pytest.mark.parametrize(("a", "hypothesis"), [
    (np.array([[0.1, 0.9], [0.9, 0.1]]), "conditionally positive definite"),
    (np.full((3, 3), 1 / 3), "conditionally positive definite"),
    (LEANING, "reversible"),
    (np.array([[1.0, 0.0], [0.5, 0.5]]), "positive"),
    (np.array([[0.5, 0.6], [0.5, 0.5]]), "rows sum to one"),
    (np.array([[1.5, -0.5], [0.5, 0.5]]), "rows sum to one"),
    (np.ones((2, 3)) / 3, "square"),
    ([[1.0]], "matrix"),
    (np.array([[np.nan]]), "finite"),
])  # fmt: skip
def test_a_map_without_such_keys_is_refused(a, hypothesis):
    with pytest.raises(HypothesisError) as refusal:
        symmetric.keys_for_map(a)
    assert refusal.value.hypothesis == hypothesis


@pytest.mark.parametrize("seed", range(20))
def test_keys_of_too_few_dimensions_are_too_close_to_call(seed):
    """In exact numbers these potentials have an eigenvalue 0, so in floats one of either sign: no keys n x n."""
    k = np.random.default_rng(seed).normal(size=(4, 2))
    with pytest.raises(HypothesisError) as refusal:
        symmetric.keys_for_map(softmax(k @ k.T))
    assert refusal.value.hypothesis == "conditionally positive definite"


@given(seeds, st.integers(1, 9))
def test_keys_for_a_causal_map_give_it_back(seed, n):
    a = softmax(2 * np.random.default_rng(seed).normal(size=(n, n)), causal(n))
    k = symmetric.keys_for_causal_map(a)
    np.testing.assert_allclose(Heads(1, scale=1, mask=causal(n)).maps(k, k)[0], a, atol=1e-9)


def test_keys_for_a_causal_map_through_tokens():
    rng = np.random.default_rng(5)
    x, a = rng.normal(size=(4, 6)), softmax(rng.normal(size=(4, 4)), causal(4))
    W = right_inverse(x) @ symmetric.keys_for_causal_map(a)
    np.testing.assert_allclose(Heads(1, scale=1, mask=causal(4)).maps(x @ W, x @ W)[0], a, atol=1e-9)


@given(seeds, st.integers(2, 6))
def test_the_causal_gram_of_whole_numbers_is_exact(seed, n):
    logs = exact(np.random.default_rng(seed).integers(-5, 6, (n, n)).tolist())
    gram = symmetric.causal_gram(logs)
    assert (gram == gram.T).all()
    below = np.tril_indices(n, -1)
    assert ((gram - np.diag(gram)[:, None])[below] == logs[below]).all()
    assert np.linalg.eigvalsh(gram.astype(float)).min() > 0


@given(seeds, st.integers(2, 6), st.sampled_from([0.5, 2.0, 6.0]))
def test_every_causal_key_keeps_a_quarter_of_its_own(seed, n, scale):
    """At least a quarter of its squared length is orthogonal to the keys before it, so the keys stay independent."""
    logs = scale * np.random.default_rng(seed).normal(size=(n, n))
    gram = symmetric.causal_gram(logs)
    assert (np.diag(np.linalg.cholesky(gram)) ** 2 > (1 / 4 - 1e-9) * np.diag(gram)).all()


@given(seeds, st.integers(2, 6), st.sampled_from([0.0, 0.1, 1.0, 10.0]))
def test_the_first_causal_key_is_no_longer_than_needed(seed, n, scale):
    """The next smaller power of four does not serve; where nothing is asked of the keys the smallest serves at once."""
    logs = exact(np.rint(scale * np.random.default_rng(seed).normal(size=(n, n))).astype(int).tolist())
    first = symmetric.causal_gram(logs)[0, 0]
    if first > 1:
        assert symmetric.grown(exact([[first / 4]]), logs) is None
    if not logs.any():
        assert first == symmetric.causal_gram(exact([[0] * n] * n))[0, 0]


def test_looking_back_needs_ever_shorter_keys():
    logs = np.where(np.eye(6, k=-1) > 0, 3.0, 0.0)
    norms = np.diag(symmetric.causal_gram(logs))
    assert (norms[:-1] - norms[1:] > 6).all()


@pytest.mark.parametrize(("a", "hypothesis"), [
    (np.array([[0.5, 0.5], [0.5, 0.5]]), "causal"),
    (np.array([[1.0, 0.0], [1.0, 0.0]]), "positive"),
    (np.array([[1.0, 0.0], [0.5, 0.6]]), "rows sum to one"),
])  # fmt: skip
def test_a_map_that_is_not_causal_is_refused(a, hypothesis):
    with pytest.raises(HypothesisError) as refusal:
        symmetric.keys_for_causal_map(a)
    assert refusal.value.hypothesis == hypothesis


def test_a_causal_gram_of_absurd_logarithms_is_refused():
    with pytest.raises(HypothesisError, match="too large") as refusal:
        symmetric.causal_gram(np.array([[0.0, 0.0], [1e154, 0.0]]))
    assert refusal.value.hypothesis == "finite"


@pytest.mark.parametrize("partner", [[3, 2, 1, 0], [2, 3, 0, 1], [1, 0]])
def test_two_heads_swap_what_one_cannot(partner):
    n = len(partner)
    first, second = (softmax(k @ k.T) for k in symmetric.two_head_keys(partner, 6.0))
    smaller = np.arange(n) < partner
    sent = np.where(smaller, first[range(n), partner], second[range(n), partner])
    assert sent.min() > 1 - 1e-9
    assert first[range(n), partner][~smaller].max() < 1e-9  # one head leaves the other half alone
    assert max(symmetric.pair_sums(a).max() for a in (first, second)) <= 1 + 1e-14


@pytest.mark.parametrize("partner", [[3, 2, 1, 0], [2, 3, 0, 1], [1, 0], [5, 4, 3, 2, 1, 0], [1, 0, 3, 2, 5, 4, 7, 6]])
def test_one_head_swaps_everything_at_a_negative_temperature(partner):
    n = len(partner)
    keys = symmetric.keys_for_involution(partner, 1.0)
    assert keys.shape == (n, 2)
    np.testing.assert_allclose(np.linalg.norm(keys, axis=1), 1)
    np.testing.assert_array_equal(keys[partner], -keys)
    scores = -keys @ keys.T
    ahead = np.sort(scores, axis=1)
    np.testing.assert_allclose(ahead[:, -1], scores[range(n), partner])
    np.testing.assert_allclose(ahead[:, -1] - ahead[:, -2], 1 - np.cos(np.pi / (n // 2)))
    sent = softmax(100 * scores)[range(n), partner]
    assert sent.min() > 1 - 1e-9
    assert softmax(-100 * scores)[range(n), partner].max() < 0.5  # at a positive temperature it is the other way round


@pytest.mark.parametrize(
    "partner", [[0, 1], [1, 2, 0], [1, 1], [1, 0, 2], [], [1.0, 0.0], [True, False], [[1, 0]], 1, ["b", "a"], None]
)
def test_swaps_need_an_involution(partner):
    for make in (symmetric.two_head_keys, symmetric.keys_for_involution):
        with pytest.raises(HypothesisError, match="involution"):
            make(partner, 1.0)


@pytest.mark.parametrize("length", [np.nan, np.inf, -np.inf])
def test_keys_have_a_finite_length(length):
    for make in (symmetric.two_head_keys, symmetric.keys_for_involution):
        with pytest.raises(ValueError, match="length must be a finite number"):
            make([1, 0], length)


# -- what is refused ---------------------------------------------------------------------------------------------------

OF_A_MAP = (
    symmetric.stationary_law,
    symmetric.reversing_law,
    symmetric.balance_defect,
    symmetric.is_reversible,
    symmetric.cycle_defect,
    symmetric.cycle_affinity,
    symmetric.entropy_production,
    symmetric.pair_sums,
    symmetric.spectrum,
)
NEED_POSITIVE = (
    symmetric.stationary_law,
    symmetric.reversing_law,
    symmetric.balance_defect,
    symmetric.is_reversible,
    symmetric.cycle_affinity,
    symmetric.entropy_production,
)
OF_SCORES = (symmetric.mean_asymmetry, symmetric.asymmetry, symmetric.skew_share, symmetric.centered)


@pytest.mark.parametrize("function", OF_A_MAP, ids=lambda f: f.__name__)
@pytest.mark.parametrize(("a", "hypothesis"), [
    (np.ones((2, 2)), "rows sum to one"),
    (np.ones((3, 2)) / 2, "square"),
    (np.ones((1, 2, 2)) / 2, "matrix"),
    ("a map", "matrix"),
])  # fmt: skip
def test_what_is_no_map_is_refused(function, a, hypothesis):
    with pytest.raises(HypothesisError) as refusal:
        function(a)
    assert refusal.value.hypothesis == hypothesis


@pytest.mark.parametrize("function", NEED_POSITIVE, ids=lambda f: f.__name__)
def test_zeros_are_refused_where_they_would_mislead(function):
    with pytest.raises(HypothesisError, match="no mask") as refusal:
        function(np.array([[1.0, 0.0], [0.5, 0.5]]))
    assert refusal.value.hypothesis == "positive"


@pytest.mark.parametrize("function", OF_SCORES, ids=lambda f: f.__name__)
def test_scores_are_square_and_finite(function):
    with pytest.raises(HypothesisError, match="n x n"):
        function(np.ones((2, 3)))
    with pytest.raises(HypothesisError, match="NaN or infinity"):
        function(np.array([[0.0, -np.inf], [0.0, 0.0]]))


@pytest.mark.parametrize("law", [[0.5, 0.5, 0.5], [1.0, 0.0], 0.5, [[0.5, 0.5]], [np.inf, 1.0], [np.nan, 1.0]])
def test_a_law_has_a_positive_entry_for_every_token(law):
    with pytest.raises(HypothesisError, match="2 positive entries"):
        symmetric.balance_defect(np.full((2, 2), 0.5), law)


def test_weights_of_two_shapes_or_of_no_size_are_refused():
    with pytest.raises(HypothesisError, match="one head at a time"):
        symmetric.weight_symmetry(np.ones((3, 2)), np.ones((3, 1)))
    with pytest.raises(HypothesisError, match="is zero"):
        symmetric.weight_symmetry(np.zeros((3, 2)), np.ones((3, 2)))
    with pytest.raises(HypothesisError, match="at least two rows"):
        symmetric.directionality(np.ones((1, 1)), np.ones((1, 1)))
    with pytest.raises(HypothesisError, match="NumPy array"):
        symmetric.weight_symmetry([[1.0]], np.ones((1, 1)))
    with pytest.raises(HypothesisError, match="positive everywhere"):
        symmetric.law_of_row_sums(np.array([[1.0, 0.0], [0.0, 1.0]]))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_tolerance_of_reversibility_follows_the_precision(dtype):
    """A leaning hundreds of roundings strong is seen in each precision, and in the wider one a far weaker one."""
    eps = np.finfo(dtype).eps
    for seed in range(20):
        s = np.random.default_rng(seed).normal(size=(4, 4))
        lean = np.zeros((4, 4))
        lean[0, 1] = 1
        assert symmetric.is_reversible(softmax(s + s.T).astype(dtype))
        assert not symmetric.is_reversible(softmax(s + s.T + 2e3 * eps * lean).astype(dtype))


def test_single_precision_maps_are_maps():
    a = shared_map(0, 4).astype(np.float32)
    assert symmetric.is_reversible(a)
    assert symmetric.balance_defect(a) < 1e-6
