"""Queries that are functions: what they compute, on which numbers, in which bases, and what is refused."""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from qkvtheory import Attention, Block, Heads, HypothesisError, LayerNorm, Network, RMSNorm, words
from qkvtheory.gauge import change_basis
from qkvtheory.network import MLP
from qkvtheory.norms import rational_scale
from qkvtheory.positions import rope
from qkvtheory.queries import (
    QueryAttention,
    ResidualQuery,
    fold_query_gain,
    published_query,
    query_parameters,
    rebase_query,
)
from qkvtheory.stacks import conjugate

N, D, R, H = 5, 8, 4, 2


def draw(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def query(**norms):
    return ResidualQuery(np.tanh, draw(D, R), draw(R, D), **norms)


def sublayer(q=None, core=None, **biases):
    return QueryAttention(core or Heads(H), q or query(), *(draw(D, D, seed=s) for s in range(3)), **biases)


def on_diagonal(*blocks):
    whole = np.zeros((D, D))
    for h, block in enumerate(blocks):
        at = slice(h * len(block), (h + 1) * len(block))
        whole[at, at] = block
    return whole


def blocks(make=lambda a: a):
    return on_diagonal(*(make(draw(D // H, D // H, seed=7 + h)) for h in range(H)))


def turn(a):
    return np.linalg.qr(a)[0]


def fixing_ones(a):
    """An orthogonal matrix that keeps the all-ones row."""
    basis = np.linalg.qr(np.column_stack([np.ones(len(a)), a[:, 1:]]))[0]
    inner = np.eye(len(a))
    inner[1:, 1:] = turn(a[1:, 1:])
    return basis @ inner @ basis.T


X = draw(N, D)


# -- what is computed --------------------------------------------------------------------------------------------------


def test_a_query_is_the_identity_and_a_bottleneck():
    q = query()
    assert np.array_equal(q(X), X + np.tanh(X @ q.W_1) @ q.W_2)
    assert np.array_equal(q(X), X + q.added(X))


def test_without_its_bottleneck_the_sublayer_has_the_identity_for_its_query():
    a = sublayer(replace(query(), W_2=np.zeros((R, D))))
    assert np.array_equal(a(X), Attention(a.core, np.eye(D), a.W_K, a.W_V, a.W_O)(X))


def test_a_linear_query_is_an_attention():
    a, W_Q = sublayer(b_K=draw(1, D), b_V=draw(1, D), b_O=draw(1, D)), draw(D, D, seed=9)
    linear = Attention(a.core, W_Q, a.W_K, a.W_V, a.W_O, None, a.b_K, a.b_V, a.b_O)
    assert np.array_equal(replace(a, query=lambda x: x @ W_Q)(X), linear(X))


def test_keys_and_values_may_come_from_a_memory():
    a, memory = sublayer(), draw(N + 2, D, seed=3)
    expected = Heads(H)(a.query(X), memory @ a.W_K, memory @ a.W_V) @ a.W_O
    assert np.array_equal(a(X, memory), expected)


def test_it_stands_in_a_block():
    block = Block(sublayer(), MLP(np.tanh, draw(D, D), draw(D, D)), attention_norm=LayerNorm())
    y = X + block.attention(LayerNorm()(X))
    assert np.array_equal(block(X), np.tanh(y @ draw(D, D)) @ draw(D, D))


def test_the_published_form_agrees_with_torch():
    torch = pytest.importorskip("torch")
    gains = np.abs(draw(2, D)) + 0.5
    ours = published_query(np.tanh, draw(D, R), draw(R, D), gains[0], gains[1])
    x, W_1, W_2, inner, outer = (torch.tensor(a) for a in (X, draw(D, R), draw(R, D), gains[0], gains[1]))
    hidden = torch.tanh(torch.nn.functional.rms_norm(x, (D,), inner, 1e-5) @ W_1) @ W_2
    theirs = x + torch.nn.functional.layer_norm(hidden, (D,), outer, None, 1e-5)
    assert np.abs(ours(X) - theirs.numpy()).max() < 1e-13


@pytest.mark.parametrize(("d", "width", "expected"), [(4, None, 24), (768, None, 591_360), (6, 2, 36), (5, 1, 20)])
def test_parameters_are_counted(d, width, expected):
    assert query_parameters(d, width) == expected
    assert query_parameters(d, width, gains=False) == expected - 2 * d


@pytest.mark.parametrize(("d", "width", "message"), [(5, None, "odd"), (0, 1, "at least 1"), (4, 0, "at least 1")])
def test_sizes_that_make_no_query_are_refused(d, width, message):
    with pytest.raises(ValueError, match=message):
        query_parameters(d, width)


# -- other numbers -----------------------------------------------------------------------------------------------------


def test_exact_numbers_and_words():
    whole = np.array([[Fraction(i - j) for j in range(4)] for i in range(4)], dtype=object)
    q = ResidualQuery(lambda z: z * z, whole[:, :2], whole[:2], inner_norm=RMSNorm(scale=rational_scale))
    assert all(isinstance(entry, Fraction) for entry in q(whole).flat)
    x, W_1, W_2 = words.symbol("X", "n", "d"), words.symbol("W_1", "d", "r"), words.symbol("W_2", "r", "d")
    assert str(ResidualQuery(words.opaque("phi"), W_1, W_2)(x)) == "X + phi(X W_1) W_2"


def test_tensors():
    torch = pytest.importorskip("torch")
    q = query()
    theirs = ResidualQuery(torch.tanh, torch.tensor(q.W_1), torch.tensor(q.W_2))(torch.tensor(X))
    assert np.abs(theirs.numpy() - q(X)).max() < 1e-14


# -- another basis -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("q", "theta"), [
    (query(), blocks()),
    (query(inner_norm=RMSNorm()), blocks(turn)),
    (query(inner_norm=RMSNorm(), outer_norm=LayerNorm()), blocks(fixing_ones)),
])  # fmt: skip
@pytest.mark.parametrize("biases", [{}, {name: draw(1, D) for name in ("b_K", "b_V", "b_O")}])
def test_another_basis_keeps_the_function(q, theta, biases):
    old = sublayer(q, **biases)
    new = rebase_query(old, theta)
    assert np.abs(new.query(X @ theta) - old.query(X) @ theta).max() < 1e-10
    assert np.abs(new(X @ theta) - old(X)).max() < 1e-10
    assert np.abs(new.W_K - old.W_K).max() > 0.1 and np.abs(new.query.W_1 - q.W_1).max() > 0.1


def test_under_rope_rotations_of_its_planes_pass():
    c, s = np.cos(0.7), np.sin(0.7)
    theta = np.kron(np.eye(D // 2), np.array([[c, s], [-s, c]]))
    old = sublayer(core=Heads(H, rotate=rope(N, D // H)))
    assert np.abs(rebase_query(old, theta)(X @ theta) - old(X)).max() < 1e-10


def test_a_whole_block_between_its_skips_goes_along():
    """The sublayer writes as before: with W_O theta it stands in a network whose whole stream has the basis."""
    theta, a = blocks(), sublayer()
    new = replace(rebase_query(a, theta), W_O=a.W_O @ theta)
    assert np.abs((X @ theta + new(X @ theta)) - (X + a(X)) @ theta).max() < 1e-10


def test_the_inner_gain_folds_and_then_rotations_pass():
    q = query(inner_norm=RMSNorm(gain=np.arange(1.0, D + 1)))
    folded = fold_query_gain(q)
    assert folded.inner_norm.gain is None
    assert np.abs(folded(X) - q(X)).max() < 1e-12
    old, theta = sublayer(folded), blocks(turn)
    assert np.abs(rebase_query(old, theta)(X @ theta) - sublayer(q)(X)).max() < 1e-10


@pytest.mark.parametrize("q", [query(), query(inner_norm=RMSNorm()), query(inner_norm=LayerNorm())])
def test_a_query_without_such_a_gain_is_left_alone(q):
    assert fold_query_gain(q) is q


def general():
    return draw(D, D, seed=11)


@pytest.mark.parametrize(("a", "theta", "hypothesis"), [
    (sublayer(), general(), "same head spaces"),
    (sublayer(), np.ones((D, D)), "invertible"),
    (sublayer(), np.eye(D)[:, :4], "square"),
    (sublayer(), np.eye(D - 1), "shapes agree"),
    (sublayer(), np.full((D, D), np.nan), "finite"),
    (sublayer(), np.eye(D, dtype=np.float32), "one kind of number"),
    (sublayer(replace(query(), W_2=draw(R + 1, D))), blocks(), "shapes agree"),
    (sublayer(replace(query(), W_2=draw(R, D + 1))), blocks(), "shapes agree"),
    (sublayer(query(inner_norm=RMSNorm())), blocks(), "no norm"),
    (sublayer(query(inner_norm=RMSNorm(gain=np.ones(D)))), blocks(turn), "no norm"),
    (sublayer(query(inner_norm=np.tanh)), blocks(turn), "no norm"),
    (sublayer(query(outer_norm=LayerNorm())), blocks(turn), "no norm"),
    (sublayer(query(outer_norm=LayerNorm(gain=np.ones(D)))), blocks(fixing_ones), "no norm"),
    (sublayer(core=Heads(H, norm_k=RMSNorm())), blocks(), "bare scores"),
    (sublayer(core=Heads(H, rotate=rope(N, D // H))), blocks(), "bare scores"),
])  # fmt: skip
def test_a_basis_that_does_not_pass_is_refused_by_name(a, theta, hypothesis):
    with pytest.raises(HypothesisError) as refusal:
        rebase_query(a, theta)
    assert refusal.value.hypothesis == hypothesis


def test_heads_that_share_keys_are_refused():
    a = QueryAttention(Heads(H, groups=1), query(), draw(D, D // H), draw(D, D // H), draw(D, D))
    with pytest.raises(HypothesisError) as refusal:
        rebase_query(a, blocks())
    assert refusal.value.hypothesis == "multi-head attention"


def test_the_refusal_says_what_the_heads_are_turned_by():
    with pytest.raises(HypothesisError, match="here keys is theta"):
        rebase_query(sublayer(), general())


def test_what_a_general_basis_would_do():
    """The weights made all the same: the error is of the size of the output."""
    a, theta = sublayer(core=Heads(1)), general()
    as_if = replace(rebase_query(a, theta), core=Heads(H))
    assert np.abs(rebase_query(a, theta)(X @ theta) - a(X)).max() < 1e-9
    assert np.abs(as_if(X @ theta) - sublayer()(X)).max() > 0.1


# -- misuse ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("act", "message"), [
    (lambda: rebase_query(Attention(Heads(1), *np.eye(D)[None].repeat(4, 0)), blocks()), "must be of type QueryAtt"),
    (lambda: rebase_query(sublayer(np.tanh), blocks()), "must be of type ResidualQuery"),
    (lambda: fold_query_gain(np.tanh), "must be of type ResidualQuery"),
    (lambda: change_basis(sublayer(), blocks()), "must be of type Attention"),
])  # fmt: skip
def test_another_kind_of_layer_is_refused(act, message):
    with pytest.raises(TypeError, match=re.escape(message)):
        act()


def test_constructions_on_networks_refuse_a_sublayer_without_a_matrix_for_its_query():
    network = Network(draw(6, D), [Block(sublayer(), MLP(np.tanh, draw(D, D), draw(D, D)))], draw(D, 6))
    with pytest.raises(TypeError, match="must be of type Attention, not QueryAttention"):
        conjugate(network, blocks())


@pytest.mark.parametrize("call", [query(), sublayer()])
@pytest.mark.parametrize("x", [draw(N, D - 1), draw(D), draw(2, N, D)])
def test_tokens_that_do_not_fit_are_refused(call, x):
    with pytest.raises(HypothesisError):
        call(x)
