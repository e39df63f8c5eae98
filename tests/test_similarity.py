"""Measures of likeness: against their definitions, what they do not see, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qkvtheory import HypothesisError, similarity

SEEDS = st.integers(0, 999)
SIZES = st.integers(1, 4)


def pair(seed: int, n: int, p: int, q: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, p)), rng.normal(size=(n, q))


def rotation(seed: int, size: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0]


@given(SEEDS, SIZES, SIZES)
def test_cosine(seed, n, p):
    a, b = pair(seed, n, p, p)
    assert np.isclose(similarity.cosine(a, b), a.ravel() @ b.ravel() / np.sqrt((a**2).sum() * (b**2).sum()))
    assert np.isclose(similarity.cosine(a, a), 1) and np.isclose(similarity.cosine(-a, b), -similarity.cosine(a, b))
    assert np.isclose(similarity.cosine(3 * a, b), similarity.cosine(a, b))


@given(SEEDS, st.integers(3, 8), SIZES, SIZES)
def test_cka_by_gram_matrices(seed, n, p, q):
    """HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) of the centered Gram matrices."""
    a, b = pair(seed, n, p, q)
    C = np.eye(n) - 1 / n
    K, L = C @ a @ a.T @ C, C @ b @ b.T @ C
    expected = np.trace(K @ L) / np.sqrt(np.trace(K @ K) * np.trace(L @ L))
    found = similarity.linear_cka(a, b)
    assert np.isclose(found, expected) and 0 <= found <= 1 + 1e-12
    assert np.isclose(found, similarity.linear_cka(b, a))
    assert np.isclose(found, similarity.linear_cka(2 * a @ rotation(seed, p) + 5, b))


def test_cka_sees_another_basis():
    a, b = pair(0, 8, 3, 3)
    assert abs(similarity.linear_cka(a @ np.diag([1.0, 1.0, 50.0]), b) - similarity.linear_cka(a, b)) > 0.01


@given(SEEDS, SIZES, SIZES)
def test_effective_rank_lies_between_one_and_the_rank(seed, n, p):
    a, _ = pair(seed, n, p, p)
    found = similarity.effective_rank(a)
    assert 1 - 1e-12 <= found <= min(n, p) + 1e-12
    assert np.isclose(found, similarity.effective_rank(-7 * rotation(seed, n) @ a))


def test_effective_rank_of_known_singular_values():
    assert np.isclose(similarity.effective_rank(rotation(0, 4)), 4)
    share = np.array([0.5, 0.25, 0.25])
    assert np.isclose(similarity.effective_rank(np.diag(8 * share)), np.prod(share**-share))
    assert np.isclose(similarity.effective_rank(np.outer([1.0, 2, 3], [4.0, 5])), 1)


@given(st.lists(st.floats(0, np.pi / 2), min_size=1, max_size=3), SEEDS)
def test_principal_angles_that_were_put_there(wanted, seed):
    """Two spaces in 6 dimensions with these angles, in any bases."""
    wanted, m = np.sort(wanted), len(wanted)
    Q, rng = rotation(seed, 6), np.random.default_rng(seed)
    first = Q[:, :m]
    second = first * np.cos(wanted) + Q[:, 3 : 3 + m] * np.sin(wanted)
    turns = [np.eye(m) + rng.uniform(0, 0.3, (m, m)) for _ in "ab"]
    found = similarity.principal_angles(first @ turns[0], second @ turns[1])
    assert np.abs(found - wanted).max() < 1e-12


@given(SEEDS, st.integers(1, 3), st.integers(1, 3))
def test_principal_angles_are_symmetric_and_blind_to_bases(seed, p, q):
    a, b = pair(seed, 6, p, q)
    found = similarity.principal_angles(a, b)
    assert found.shape == (min(p, q),) and (np.diff(found) >= 0).all()
    assert np.allclose(found, similarity.principal_angles(b, a), atol=1e-12)
    turn = np.triu(np.ones((p, p)))
    assert np.allclose(found, similarity.principal_angles(a @ turn, b), atol=1e-10)


def test_small_angles_are_accurate():
    """By cosines alone an angle of 1e-9 would come out as 0."""
    line = np.array([[1.0], [0.0]])
    assert np.isclose(similarity.principal_angles(line, line + np.array([[0.0], [1e-9]]))[0], 1e-9, rtol=1e-6, atol=0)


def test_angles_near_a_right_one_are_accurate():
    """By sines alone an angle that misses a right one by 1e-9 would come out as a right one."""
    line, near = np.array([[1.0], [0.0]]), np.array([[1e-9], [1.0]])
    assert np.isclose(np.pi / 2 - similarity.principal_angles(line, near)[0], 1e-9, rtol=1e-6, atol=0)


def test_tensors_are_refused_by_name():
    torch = pytest.importorskip("torch")
    with pytest.raises(HypothesisError, match="NumPy matrices"):
        similarity.cosine(torch.ones(2, 2), torch.ones(2, 2))


@pytest.mark.parametrize("scale", [1e-310, 1e-200, 1e-100, 1e100, 1e200, 1e307])
def test_the_scale_does_not_matter(scale):
    a, b = pair(3, 5, 2, 2)
    rank = similarity.effective_rank(a)
    assert np.isclose(similarity.cosine(scale * a, b), similarity.cosine(a, b), rtol=1e-9)
    assert np.isclose(similarity.linear_cka(scale * a, scale * b), similarity.linear_cka(a, b), rtol=1e-9)
    assert np.isclose(similarity.effective_rank(scale * a), rank, rtol=1e-9)
    angles = similarity.principal_angles(scale * a, b)
    assert np.allclose(angles, similarity.principal_angles(a, b), rtol=1e-9)


MEASURES = (similarity.cosine, similarity.linear_cka, similarity.principal_angles)
WRONG = {
    "a vector": (np.ones(3), np.ones((3, 1)), "matrix"),
    "integers": (np.ones((3, 1), dtype=int), np.ones((3, 1)), "matrix"),
    "a list": ([[1.0]], np.ones((1, 1)), "matrix"),
    "zeros": (np.zeros((3, 1)), np.ones((3, 1)), "matrix"),
    "NaN": (np.full((3, 1), np.nan), np.ones((3, 1)), "matrix"),
    "other rows": (np.ones((3, 1)), np.ones((4, 1)), "shapes agree"),
}


@pytest.mark.parametrize("measure", MEASURES, ids=lambda m: m.__name__)
@pytest.mark.parametrize(("a", "b", "hypothesis"), WRONG.values(), ids=list(WRONG))
def test_what_has_no_likeness_is_refused(measure, a, b, hypothesis):
    with pytest.raises(HypothesisError) as refusal:
        measure(a, b)
    assert refusal.value.hypothesis == hypothesis


def test_particular_refusals():
    with pytest.raises(HypothesisError, match=r"matrices of one shape, not \(3, 2\) and \(3, 1\)"):
        similarity.cosine(np.ones((3, 2)), np.ones((3, 1)))
    with pytest.raises(HypothesisError, match="columns of the second matrix depend"):
        similarity.principal_angles(np.eye(3)[:, :1], np.ones((3, 2)))
    with pytest.raises(HypothesisError, match="zero or not finite"):
        similarity.effective_rank(np.zeros((2, 2)))
    with pytest.raises(HypothesisError, match="equal rows"):
        similarity.linear_cka(np.ones((3, 2)), np.eye(3))
