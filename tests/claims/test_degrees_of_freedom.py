"""Chapter 3: every claim is green in every lane that runs anywhere, and every wrong variant is rejected."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qkvtheory import Attention, Heads, activations, count, freedom, gauge, redundancy, similarity, stacks
from qkvtheory.claims.degrees_of_freedom import (
    CLAIMS,
    counts,
    dimensions,
    identity_queries,
    meaning,
    networks,
    per_head,
    scores,
    units,
)
from qkvtheory.claims.degrees_of_freedom.common import layer_dimension
from qkvtheory.errors import HypothesisError
from qkvtheory.lanes.check import run_lane
from qkvtheory.lanes.settings import FLOAT
from qkvtheory.lanes.worlds import Floats
from qkvtheory.positions import Rope, rope
from tests.claims.chapter import (  # noqa: F401
    test_a_statement_with_a_control_in_its_place_is_red,
    test_claim,
    test_controls,
    test_mutants,
)

CHAPTER = "degrees-of-freedom"
BY_ID = {claim.id: claim for claim in CLAIMS}

THREE = (scores.QUARTER, scores.SMALLER, scores.THIRD)
TURN, CARRY, SHIFT, TRANSLATE, RESCALE = (
    gauge.turn_heads,
    stacks.carry,
    gauge.shift_biases,
    gauge.translate,
    gauge.rescale_units,
)


def untransposed(attention, keys=None, values=None):
    """The keys of a turned sublayer as W_K G^-1."""
    new = TURN(attention, keys, values)
    return new if keys is None else replace(new, W_K=attention.W_K @ gauge.inverse(keys))


def in_stretched_heads(attention, theta, original=gauge.change_basis):
    """A change of the stream's basis that turns the heads too: M and N are right, the keys of a token are not."""
    return gauge.turn_heads(original(attention, theta), keys=2 * np.eye(attention.W_K.shape[1]))


def first_block_only(basis, core):
    """The basis of the first key/value head for every query head."""
    width = basis.shape[0] // core.kv_heads
    return np.kron(np.eye(core.heads, dtype=int), basis[:width, :width])


def last_state_left(network, bases, memory=None, invert=None):
    return CARRY(network, [*bases[:-1], None], memory, invert)


def values_only(attention, keys=None, values=None):
    """b_O as it was."""
    return replace(SHIFT(attention, keys, values), b_O=attention.b_O)


def tied_by_skips(block, enter=None, leave=None, middle=None):
    """One shift for all states."""
    return TRANSLATE(block, enter, enter, None if block.parallel else enter)


def with_wide_queries(config):
    """One row more in W_Q."""
    queries, *others = count.projections(config)
    return [replace(queries, rows=queries.rows + 1), *others]


def constant_slopes(function, weights):
    return np.ones((88, sum(weight.size for weight in weights))) / 100


def of_degree_one(mlp, scale, degree=1):
    return RESCALE(mlp, scale)


DAMAGE = (  # a module, one of its functions, a wrong one in its place, and a claim that must notice in a lane
    (gauge, "turn_heads", untransposed, "head-gauge", "exact"),
    (gauge, "turn_heads", untransposed, "gqa-gauge", "numeric"),
    (gauge, "turn_heads", untransposed, "rope-commutant", "symbolic"),
    (gauge, "moved", lambda attention, back, back_memory, leave=None: attention, "stream-gauge", "exact"),
    (gauge, "over_groups", first_block_only, "gqa-gauge", "numeric"),
    (stacks, "carry", last_state_left, "stream-gauge", "numeric"),
    (stacks, "carry", lambda network, *_: network, "one-block-per-hidden-state", "exact"),
    (stacks, "carry", lambda network, *_: network, "one-block-per-hidden-state", "count"),
    (stacks, "segments", lambda network: [[k] for k in range(3)], "one-block-per-hidden-state", "count"),
    (stacks, "free_bases", lambda network: 1, "stream-gauge", "rank"),
    (stacks, "conjugate", lambda network, theta: replace(network, positions=None), "no-product-of-blocks", "exact"),
    (gauge, "shift_biases", values_only, "bias-gauge", "numeric"),
    (gauge, "shift_biases", lambda a, keys=None, values=None: a, "bias-gauge", "symbolic"),
    (gauge, "translate", tied_by_skips, "bias-gauge", "symbolic"),
    (gauge, "rescale_units", of_degree_one, "activation-gauge", "exact"),
    (gauge, "reparametrize", lambda attention, which: (None, attention), "count-25-percent", "count"),
    (counts, "projections", with_wide_queries, "count-25-percent", "count"),
    (stacks, "eliminate", lambda network: network, "count-8-percent", "count"),
    (counts, "parameters", lambda c: replace(count.parameters(c), mlp=0), "count-8-percent", "count"),
    (gauge, "change_basis", lambda attention, theta: attention, "gauge-dependent-numbers", "exact"),
    (gauge, "change_basis", in_stretched_heads, "gauge-dependent-numbers", "numeric"),
    (similarity, "cosine", lambda a, b: 0.1, "gauge-dependent-numbers", "numeric"),
    (similarity, "effective_rank", np.linalg.matrix_rank, "gauge-dependent-numbers", "numeric"),
    (similarity, "linear_cka", lambda a, b: 0.5, "gauge-dependent-numbers", "numeric"),
    (similarity, "principal_angles", lambda a, b: (a * b).sum(axis=0), "gauge-dependent-numbers", "numeric"),
    (redundancy, "jacobian", constant_slopes, "function-class-is-not-training", "numeric"),
    (
        gauge,
        "turn_heads",
        lambda attention, G, J: replace(attention, W_Q=attention.W_Q @ G),
        "function-class-is-not-training",
        "numeric",
    ),
)


NORM, BASES, FULL = freedom.stream_symmetries, freedom.free_bases, freedom.commutant
DAMAGE += (
    (freedom, "commutant", lambda width, planes=(): width, "dim-per-head", "count"),
    (freedom, "commutant", lambda width, planes=(): width**2, "dim-per-head", "rank"),
    (freedom, "orthogonal_commutant", FULL, "dim-per-layer", "rank"),
    (freedom, "unrotated", lambda width, planes: width, "dim-per-layer", "rank"),
    (freedom, "free_bases", lambda a: 1, "dim-network", "count"),
    (freedom, "stream_symmetries", lambda norm, d: NORM("none", d), "dim-network", "count"),
    (freedom, "invisible_part", lambda a: 0, "dim-network", "count"),
    (freedom, "kept_symmetries", lambda a: 0, "wq-identity-cost", "count"),
    (freedom, "kept_symmetries", lambda a: 0, "wq-identity-cost", "rank"),
    (redundancy, "CLEAR", 1e20, "dim-per-head", "rank"),
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


def test_more_than_ranks_survives_another_basis_of_the_stream():
    """So a statement that only the ranks are left would be wrong: M of full rank keeps the eigenvalues of M^-T M."""
    rng = np.random.default_rng(0)
    a = Attention(Heads(1), *rng.normal(size=(4, 3, 3)))
    M, moved = (b.W_Q @ b.W_K.T for b in (a, gauge.change_basis(a, rng.normal(size=(3, 3)))))
    spectra = [np.sort_complex(np.linalg.eigvals(np.linalg.inv(m.T) @ m)) for m in (M, moved)]
    np.testing.assert_allclose(*spectra, rtol=1e-9)
    assert "only the ranks" not in BY_ID["gauge-dependent-numbers"].statement


def test_a_head_wider_than_the_stream_has_less_redundancy_than_its_gauge():
    for d, heads, width in ((2, 1, 3), (3, 1, 4)):
        assert layer_dimension(d, heads, width) == 2 * heads * d**2 > 4 * d * heads * width - 2 * heads * width**2
    for d, heads, width in ((2, 2, 2), (3, 2, 2)):  # heads that are wider in all
        assert layer_dimension(d, heads, width) == 4 * d * heads * width - 2 * heads * width**2


def test_equal_frequencies_allow_more_than_rotations_of_planes():
    """Two planes of one frequency: a matrix that trades them commutes, and turn_heads takes it."""
    rng, angles = np.random.default_rng(0), np.arange(5)[:, None] * [0.7, 0.7]
    core = Heads(1, rotate=Rope(np.cos(angles), np.sin(angles)))
    a, x = Attention(core, *rng.normal(size=(4, 4, 4))), rng.normal(size=(5, 4))
    trade = np.kron([[1.0, 2.0], [3.0, -1.0]], [[0.6, 0.8], [-0.8, 0.6]])
    np.testing.assert_allclose(gauge.turn_heads(a, keys=trade)(x), a(x), rtol=1e-9, atol=1e-12)
    apart = replace(a, core=Heads(1, rotate=rope(5, 4)))
    with pytest.raises(HypothesisError) as refusal:
        gauge.turn_heads(apart, keys=trade)
    assert refusal.value.hypothesis == "bare scores"


def test_the_commutant_of_random_rotations_has_the_predicted_dimension():
    """Against a null space found by singular values."""
    rng = np.random.default_rng(0)
    for planes, rest in ((1, 0), (2, 1), (3, 0)):
        angles = rng.uniform(0.2, 3, (1, planes))
        one = np.eye(2 * planes + rest)
        R = Rope(np.cos(angles), np.sin(angles))(one[:, None])[:, 0]
        equations = np.kron(one, R.T) - np.kron(R, one)
        assert len(one) ** 2 - np.linalg.matrix_rank(equations) == 2 * planes + rest**2
        assert scores.commutant(*THREE[:planes], rest=rest) == 2 * planes + rest**2


def test_reflections_in_the_planes_do_not_commute():
    w = Floats(next(s for s in FLOAT if s.name == "RoPE"))
    a = w.attention()
    gauge.turn_heads(a, keys=scores.plane_by_plane(w, a))
    with pytest.raises(HypothesisError):
        gauge.turn_heads(a, keys=scores.plane_by_plane(w, a, reflected=True))


def test_gradients_are_those_of_the_loss():
    """Against difference quotients, weight by weight."""
    w = Floats(FLOAT[0])
    old, (tokens, targets) = meaning.small_network(w), meaning.data(w)
    (after, before), h = (meaning.weights_of(net) for net in (meaning.trained(w, old, steps=1), old)), 1e-6

    def loss(weights):
        return ((meaning.network_of(weights)(tokens) - targets) ** 2).sum() / 2 / len(tokens)

    for k, place in ((0, (1, 2)), (1, (0, 0)), (6, (3, 1)), (7, (2, 1))):
        up, down = ([weight.copy() for weight in before] for _ in "ud")
        up[k][place] += h
        down[k][place] -= h
        slope = (loss(up) - loss(down)) / (2 * h)
        assert (before[k] - after[k])[place] == pytest.approx(meaning.RATE * slope, rel=1e-5)


def test_more_inputs_do_not_raise_the_rank_of_units(monkeypatch):
    """A unit that is on, or off, at every input would look redundant."""
    few = [units.unit_redundancy(act, double) for act, double in ((activations.relu, False), (activations.reglu, True))]
    monkeypatch.setattr(units, "INPUTS", 4 * units.INPUTS)
    more = [units.unit_redundancy.__wrapped__(*case) for case in ((activations.relu, False), (activations.reglu, True))]
    assert few == more == [units.UNITS, 2 * units.UNITS]


def test_the_shares_of_the_published_example():
    c = counts.config(2048, 32, 4, 64, hidden=5632, gated=True)
    saved, attention = counts.query_and_attention(c)
    assert saved / attention == pytest.approx(4 / 9)
    assert saved / counts.query_and_block(c)[1] == pytest.approx(2 / 21)


# -- dimensions --------------------------------------------------------------------------------------------------------


def test_every_row_says_how_clear_its_rank_is():
    rows = [*per_head.head_rows(), *dimensions.layer_rows(), *dimensions.network_rows(), *identity_queries.cost_rows()]
    assert all(row.predicted == row.measured for row in rows)
    assert dimensions.smallest_gap(rows) > 1e9
    assert len({row.case for row in rows}) > 70


def test_a_network_that_is_predicted_wrongly_turns_its_rank_red(monkeypatch):
    one = {"small": networks.SMALL}
    assert all(a == b for a, b in dimensions.compared(dimensions.network_rows(one)))
    for name in ("stream_part", "heads_part"):
        with monkeypatch.context() as damaged:
            damaged.setattr(freedom, name, lambda a: 0)
            assert any(a != b for a, b in dimensions.compared(dimensions.network_rows(one)))


def test_a_rank_that_is_not_clear_is_red(monkeypatch):
    monkeypatch.setattr(redundancy, "CLEAR", 1e20)
    dimensions.layer_dimension.cache_clear()
    result = run_lane(BY_ID["dim-per-layer"], "rank")
    assert result.status == "fail"
    assert "the rank is not clear" in result.reason


def test_both_measurements_cover_most_of_the_grid():
    assert len(networks.stand_ins()) >= 35
    assert networks.exact(networks.SMALL) == dimensions.measured(networks.SMALL) == 36


def test_bare_embeddings_under_a_norm_are_more_redundant():
    """Of tokens that are seen through the first norm only any basis can be undone: d^2 in place of d (d - 1) / 2."""
    for topology in ("T0", "TM"):
        a = freedom.Architecture(norm="RMSNorm", topology=topology, positions="none")
        assert dimensions.measured(a) - dimensions.predicted(a) == 4**2 - 4 * 3 // 2
        within_norm = replace(a, norm="LayerNorm")
        assert dimensions.measured(within_norm) - dimensions.predicted(within_norm) == 3**2 - 3
