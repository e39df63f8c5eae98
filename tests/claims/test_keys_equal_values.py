"""Chapter 12: every claim is green in every lane that runs anywhere, and every wrong variant is rejected."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from qkvtheory import energy, linalg, lossless, tying, variants
from qkvtheory.claims.keys_equal_values import CLAIMS, ties
from qkvtheory.claims.keys_equal_values.small_fields import decided, decided_by_keys
from qkvtheory.lanes.check import run_lane
from tests.claims.chapter import (  # noqa: F401
    test_a_statement_with_a_control_in_its_place_is_red,
    test_claim,
    test_controls,
    test_mutants,
)

CHAPTER = "keys-equal-values"
BY_ID = {claim.id: claim for claim in CLAIMS}


def without_queries(attention, original=lossless.keys_in_values):
    """Keys tied, and queries left as they were."""
    return replace(original(attention), W_Q=attention.W_Q)


one = np.eye(1)
DAMAGE = (  # a module, one of its functions, a wrong one in its place, and a claim that must notice in a lane
    (lossless, "keys_in_values", without_queries, "kv-lossless-iff", "numeric"),
    (lossless, "coefficients", lambda keys, values, head: values.mT @ keys, "kv-single-head-lossless", "exact"),
    (lossless, "same_scale", lambda core, attention: replace(core, scale=0.3), "kv-lossless-iff", "numeric"),
    (lossless, "rows", lambda weight, heads: list(weight[::-1]), "mla-is-kv-on-latent", "exact"),
    (lossless, "one_key_head", lambda layer, n: layer.core.at(n), "mla-is-kv-on-latent", "numeric"),
    (tying, "in_every_head", lambda shared, own, heads: own, "kv-rope", "numeric"),
    (tying, "longer", lambda old, more: np.concatenate([more, old]), "kv-names-equal", "exact"),
    (tying, "turn_last", lambda table, z: table(z) if len(table.cos) == z.shape[1] else z, "kv-rope", "numeric"),
    (tying, "tied_recurrence", lambda features, z: z, "tied-recurrence", "exact"),
    (tying, "tie_after", lambda attention, keep: attention, "posthoc-tying", "exact"),
    (tying.KeysAreValues, "recalled", lambda self, stored: (stored[0], -stored[0]), "kv-names-equal", "exact"),
    (tying.KeysAreValues, "stored", lambda self, x: (x @ self.W_Q,), "kv-names-equal", "numeric"),
    (tying.KeysAreValues, "stored", lambda self, x: (x[:, :3],), "kv-names-equal", "count"),
    (tying.KeysAreValues, "weights", lambda self: {"W": self.W_O}, "kv-names-equal", "count"),
    (tying.KeysAreValues, "decode", lambda self, x, cache=(): (x @ self.W_O, (x,)), "kv-rope", "exact"),
    (tying.HalfTied, "half", lambda self, z, rotary: z, "kv-rope", "exact"),
    (tying.Latent, "recalled", lambda self, stored: (stored[0] @ self.W_UV,) * 2, "mla-is-kv-on-latent", "numeric"),
    (
        tying,
        "build",
        lambda *_, **__: tying.KeysAreValues(core=None, W_Q=one, W_Z=one, W_O=one),
        "qv-ka-count",
        "count",
    ),
    (
        variants,
        "weight_shapes",
        lambda *_, **__: {"W_C": (1, 1), "W_KC": (1, 1), "W_KV": (1, 1)},
        "qv-ka-count",
        "count",
    ),
    (energy, "energy", lambda q, keys, scale: 0 * q.sum(axis=-1), "kv-energy-descent", "numeric"),
    (energy, "energy", lambda q, keys, scale: (q * q).sum(axis=-1) / 2, "kv-gradient-map", "numeric"),
    (energy, "jacobian", lambda q, k, v, s: np.stack([np.eye(q.shape[1])] * len(q)), "kv-gradient-map", "numeric"),
    (energy, "read_out", lambda q, keys, values, scale: 2 * q, "kv-convex-hull", "numeric"),
    (energy, "descend", lambda q, k, v, scale, steps: np.stack([q] * (steps + 1)), "kv-energy-descent", "numeric"),
)


@pytest.mark.parametrize(
    ("module", "name", "wrong", "id", "lane"),
    DAMAGE,
    ids=[f"{name}-{id}-{i}" for i, (_, name, _, id, _) in enumerate(DAMAGE)],
)
def test_a_damaged_function_of_the_package_turns_its_claims_red(module, name, wrong, id, lane, monkeypatch):
    """The claims check the functions that users call, not copies of them."""
    assert run_lane(BY_ID[id], lane).status == "pass"
    monkeypatch.setattr(module, name, wrong)
    assert run_lane(BY_ID[id], lane).status == "fail"


# -- what other words of a statement would say wrongly -----------------------------------------------------------------


def test_the_scores_of_one_token_have_rank_one():
    rng = np.random.default_rng(0)
    x, W_Z, R_Q, R_V = (rng.normal(size=shape) for shape in ((1, 4), (4, 2), (2, 2), (2, 2)))
    assert np.linalg.matrix_rank(x @ W_Z @ R_Q @ R_V.T @ W_Z.T @ x.T) == 1
    assert "\\min(n,d,d_z,d_h,d_v)" in BY_ID["keyless-rank-bound"].statement


def test_the_gauge_that_was_removed_is_measured(monkeypatch):
    """With another measured dimension the count of gauge weights is another."""
    measure = ties.head_dimension
    monkeypatch.setattr(ties, "head_dimension", lambda d, h, tied, **named: measure(d, h, tied, **named) + tied)
    assert run_lane(BY_ID["kv-dimension-lost"], "count").status == "fail"


# -- kv-lossless-iff over small fields ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("q", "d", "h"), [(2, 2, 1), (3, 2, 1), (2, 2, 2)])
def test_the_criterion_agrees_with_a_search_that_knows_nothing(q, d, h):
    """Every tied head tried for every head: loops, straight from the statement."""
    tall = [np.array(e).reshape(d, h) for e in product(range(q), repeat=d * h)]

    def key(M, N):
        return (*(M % q).ravel(), *(N % q).ravel())

    def rank(*blocks):
        """By the number of different combinations of the columns."""
        a = np.concatenate(blocks, axis=1)
        found = {tuple((a @ c) % q) for c in product(range(q), repeat=a.shape[1])}
        return round(np.log(len(found)) / np.log(q))

    tied = {key(Q @ Z.T, Z @ Y.T) for Q, Z, Y in product(tall, repeat=3)}
    full = [t for t in tall if rank(t) == h]
    scores = {tuple(((Q @ K.T) % q).ravel()): Q @ K.T for Q, K in product(tall, repeat=2)}
    for Q, K, V, Y in product(full, tall, full, full):
        assert (key(Q @ K.T, V @ Y.T) in tied) == (rank(V, K) == h)
    assert decided_by_keys(q, d, h)[1] == 0
    count = 0
    for M, V, Y in product(scores.values(), full, full):
        assert (key(M, V @ Y.T) in tied) == (rank(V, M.T) == h)
        count += rank(V, M.T) == h
    assert decided(q, d, h) == (count, count, 0)


def test_dependent_values_or_outputs_break_the_criterion_somewhere():
    assert decided(2, 3, 2, values=False)[2] > 0
    assert decided(2, 3, 2, outputs=False)[2] > 0
    assert decided_by_keys(2, 3, 2, queries=False)[1] > 0


def test_generic_narrow_heads_are_far_from_a_tie():
    """The relative residual of the score matrix, for many draws."""
    for seed in range(20):
        W_Q, W_K, W_V = np.random.default_rng(seed).normal(size=(3, 8, 2))
        M, B = W_Q @ W_K.T, linalg.right_inverse(W_V.T).T @ W_K
        assert np.abs(W_Q @ B.T @ W_V.T - M).max() > 0.1 * np.abs(M).max()
