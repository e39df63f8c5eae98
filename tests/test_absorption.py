"""Flipped and spare units: what they compute, on which numbers, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from qkvtheory import MLP, Attention, Block, Heads, HypothesisError, Network, absorption, words
from qkvtheory.attention import rms_norm

RNG = np.random.default_rng(0)


def relu(z):
    return z * (z > 0)


def gelu(z):
    return z * (1 + np.vectorize(math.erf, otypes=[float])(z / 2**0.5)) / 2


def silu(z):
    return z * (1 + np.tanh(z / 2)) / 2


def softplus(z):
    return np.logaddexp(z, 0)


def leaky(z):
    return np.where(z > 0, z, 0.1 * z)


def glu(z):
    a, b = np.split(z, 2, axis=-1)
    return relu(a) * b


ODD_PART = [(relu, 1), (gelu, 1), (silu, 1), (softplus, 1), (leaky, 1.1), (lambda z: z, 2)]
D, M = 3, 5


def an_mlp(act=gelu, d=D, m=M, biases=True):
    rows = [RNG.normal(size=m), RNG.normal(size=d)] if biases else []
    return MLP(act, RNG.normal(size=(d, m)), RNG.normal(size=(m, d)), *rows)


def network(layers=2, d=4, act=relu, **options):
    options = {"mlp_skip": True, **options}
    blocks = [
        Block(Attention(Heads(2), *RNG.normal(size=(4, d, d))), an_mlp(act, d, 6), **options) for _ in range(layers)
    ]
    return Network(RNG.normal(size=(5, d)), blocks, RNG.normal(size=(d, 5)))


def refused(name):
    return pytest.raises(HypothesisError, match=f"hypothesis '{name}'".replace("(", r"\(").replace(")", r"\)"))


# -- what they compute -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("act", "c"), ODD_PART)
def test_the_constant_is_measured(act, c):
    assert absorption.odd_slope(an_mlp(act)) == pytest.approx(c, rel=1e-14)


@pytest.mark.parametrize(("act", "c"), ODD_PART)
@pytest.mark.parametrize("biases", [True, False])
def test_every_construction_keeps_its_promise(act, c, biases):
    mlp, x, A = an_mlp(act, biases=biases), RNG.normal(size=(7, D)), RNG.normal(size=(D, D))
    S = [0, 3]
    lost = c * x @ mlp.W_up[:, S] @ mlp.W_down[S]
    assert np.allclose(absorption.flip(mlp, S)(x), mlp(x) - lost, rtol=0, atol=1e-12)
    wider, sharp = absorption.spare_units(mlp, A), absorption.spare_units_sharp(mlp, A)
    for new, more in ((wider, 2 * D), (sharp, D)):
        assert np.allclose(new(x), x @ A + mlp(x), rtol=0, atol=1e-11)
        assert new.W_up.shape == (D, M + more)
        assert new.act is act


def test_the_wider_mlp_keeps_its_old_units():
    mlp, A = an_mlp(), RNG.normal(size=(D, D))
    assert (absorption.spare_units(mlp, A).W_up[:, :M] == mlp.W_up).all()
    assert (absorption.spare_units_sharp(mlp, A).W_up[:, :M] == mlp.W_up).all()


@pytest.mark.parametrize("rank", range(D + 1))
def test_as_many_units_as_twice_the_rank(rank):
    mlp, x = an_mlp(), RNG.normal(size=(7, D))
    A = RNG.normal(size=(D, rank)) @ RNG.normal(size=(rank, D))
    new = absorption.spare_units(mlp, A)
    assert new.W_up.shape[1] == M + 2 * rank
    assert np.allclose(new(x), x @ A + mlp(x))


def test_a_map_to_another_width():
    mlp = MLP(relu, RNG.normal(size=(3, 4)), RNG.normal(size=(4, 2)))
    A, x = RNG.normal(size=(3, 2)), RNG.normal(size=(5, 3))
    for new in (absorption.spare_units(mlp, A), absorption.spare_units_sharp(mlp, A)):
        assert np.allclose(new(x), x @ A + mlp(x))
    assert absorption.spare_units(mlp, A).W_up.shape[1] == 4 + 2 * 2


def test_exact_numbers_stay_exact():
    U, W, A = ([[Fraction(int(k)) for k in row] for row in RNG.integers(-5, 6, s)] for s in ((2, 3), (3, 2), (2, 2)))
    mlp, A = MLP(relu, np.array(U), np.array(W)), np.array(A)
    x = RNG.integers(-9, 10, (6, 2)) * Fraction(1, 3)
    for new in (absorption.spare_units(mlp, A), absorption.spare_units_sharp(mlp, A)):
        assert (new(x) == x @ A + mlp(x)).all()
    flipped = absorption.flip(mlp, [1])
    assert (flipped(x) == mlp(x) - x @ mlp.W_up[:, [1]] @ mlp.W_down[[1]]).all()
    planted = -(mlp.W_up[:, [0, 2]] @ mlp.W_down[[0, 2]])
    assert absorption.absorbing_set(mlp, planted) == (0, 2)
    assert absorption.absorbing_set(mlp, planted + Fraction(1, 10**30)) is None


def test_single_precision_stays_single():
    mlp = MLP(relu, *(RNG.normal(size=s).astype(np.float32) for s in ((3, 5), (5, 3), (5,), (3,))))
    A = RNG.normal(size=(3, 3)).astype(np.float32)
    made = [absorption.flip(mlp, [1]), absorption.spare_units(mlp, A), absorption.spare_units_sharp(mlp, A)]
    for new in made:
        assert {getattr(new, name).dtype for name in ("W_up", "W_down", "b_up", "b_down")} == {np.dtype(np.float32)}


def test_torch_tensors():
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(0)
    U, W, b, o, x, A = (torch.randn(s, generator=generator, dtype=torch.float64) for s in (
        (3, 5), (5, 3), (5,), (3,), (7, 3), (3, 3)))  # fmt: skip
    mlp = MLP(torch.nn.functional.gelu, U.requires_grad_(), W, b, o)
    for new in (absorption.spare_units(mlp, A), absorption.spare_units_sharp(mlp, A)):
        assert torch.allclose(new(x), x @ A + mlp(x))
        assert new.W_up.requires_grad
    planted = -(U[:, [1, 4]] @ W[[1, 4]])
    assert absorption.absorbing_set(mlp, planted.detach()) == (1, 4)
    assert torch.allclose(absorption.flip(mlp, [1, 4])(x), x @ planted + mlp(x))


def test_the_smallest_set_is_found():
    mlp = an_mlp()
    assert absorption.absorbing_set(mlp, np.zeros((D, D))) == ()
    assert absorption.absorbing_set(mlp, -(mlp.W_up @ mlp.W_down)) == tuple(range(M))
    assert absorption.absorbing_set(mlp, np.eye(D)) is None
    twins = replace(mlp, W_up=mlp.W_up[:, [0, 0, 1, 2, 3]], W_down=mlp.W_down[[0, 0, 1, 2, 3]])
    assert absorption.absorbing_set(twins, -np.outer(twins.W_up[:, 1], twins.W_down[1])) == (0,)


@pytest.mark.parametrize("sharp", [True, False])
@pytest.mark.parametrize("attention_skip", [True, False])
def test_networks_lose_their_query_matrices(sharp, attention_skip):
    """Without a skip around attention the last MLP reads and writes in its old basis, and has nothing to absorb."""
    old = network(3, attention_skip=attention_skip)
    new, tokens = absorption.eliminate_with_spare_units(old, sharp=sharp), np.eye(5)
    assert np.allclose(new(tokens), old(tokens), rtol=1e-6, atol=1e-6 * abs(old(tokens)).max())
    for layer, block in enumerate(new.blocks):
        more = (4 if sharp else 8) if attention_skip or layer < 2 else 0
        assert np.array_equal(block.attention.W_Q, np.eye(4))
        assert block.mlp_skip is True
        assert block.mlp.W_up.shape[1] == 6 + more


def test_a_block_in_two_places_stays_one_block():
    one = network(1)
    old = replace(one, blocks=[*one.blocks, *one.blocks])
    skip = replace(old.blocks[0], mlp_skip=RNG.normal(size=(4, 4)))
    new = absorption.absorb_skips(replace(old, blocks=[skip, skip, old.blocks[0]]))
    assert new.blocks[0] is new.blocks[1]
    assert new.blocks[2] is old.blocks[0]


def test_learned_skips_are_absorbed_even_singular_ones():
    old = network(1, mlp_skip=np.diag([1.0, 2.0, 0.0, 0.0]))
    new = absorption.absorb_skips(old)
    assert new.blocks[0].mlp.W_up.shape[1] == 6 + 2 * 3  # A - I = diag(0, 1, -1, -1)
    assert np.allclose(new(np.eye(5)), old(np.eye(5)))


def test_pivots_are_independent_and_span():
    for shape, rank in (((4, 6), 3), ((6, 4), 2), ((3, 3), 3)):
        a = RNG.normal(size=(shape[0], rank)) @ RNG.normal(size=(rank, shape[1]))
        chosen = absorption.pivots(a)
        assert len(chosen) == rank == np.linalg.matrix_rank(a[:, chosen])
    whole = np.array([[0, 1, 2], [0, 2, 4]], dtype=object)
    assert absorption.pivots(whole) == [1]


def test_groups_of_units_are_for_words():
    U, V = words.symbol("U", "d", "r"), words.symbol("V", "r", "d")
    branch = absorption.linear_units(words.opaque("phi"), U, V, 1)
    assert str(branch(words.symbol("X", "n", "d"))) == "-phi(-X U) V + phi(X U) V"
    with pytest.raises(TypeError, match="side by side"):
        absorption.Groups(relu, np.eye(2), np.eye(2))


# -- what is refused ---------------------------------------------------------------------------------------------------

NOT_ODD = {
    "tanh": np.tanh,
    "ReLU squared": lambda z: relu(z) ** 2,
    "Mish": lambda z: z * np.tanh(softplus(z)),
    "absolute value": abs,
    "a constant": lambda z: 0 * z + 1,
    "sum over units": lambda z: z.sum(),
}


@pytest.mark.parametrize("act", NOT_ODD.values(), ids=NOT_ODD.keys())
def test_activations_without_the_law(act):
    for ask in (lambda m: absorption.flip(m), lambda m: absorption.spare_units(m, np.eye(D))):
        with refused(absorption.LAW):
            ask(an_mlp(act))
    assert absorption.flip(an_mlp(np.tanh), c=1) is not None  # c given: whoever gives it vouches


REFUSALS = {
    "a gate": (lambda: absorption.flip(MLP(glu, np.eye(4), np.ones((2, 4)))), "no gate"),
    "M of another size": (lambda: absorption.spare_units(an_mlp(), np.eye(2)), "shapes agree"),
    "mixed kinds": (lambda: absorption.spare_units(an_mlp(), np.eye(D, dtype=np.float32)), "one kind of number"),
    "M not finite": (lambda: absorption.spare_units(an_mlp(), np.full((D, D), np.nan)), "finite"),
    "a bias of another width": (lambda: absorption.flip(replace(an_mlp(), b_up=np.ones(2))), "shapes agree"),
    "c = 0": (lambda: absorption.flip(an_mlp(), c=0), absorption.LAW),
    "dependent columns": (
        lambda: absorption.spare_units_sharp(replace(an_mlp(), W_up=np.ones((D, M))), np.eye(D)),
        "independent columns",
    ),
    "fewer units than d": (lambda: absorption.spare_units_sharp(an_mlp(m=2), np.eye(D)), "independent columns"),
    "a singular M": (lambda: absorption.onto_identity(an_mlp(), np.ones((D, D))), "invertible"),
    "a gated network": (lambda: absorption.eliminate_with_spare_units(gated_network()), "no gate"),
    "norms": (lambda: absorption.eliminate_with_spare_units(network(mlp_norm=rms_norm())), "no norm"),
    "a learned skip past a norm": (
        lambda: absorption.absorb_skips(network(mlp_norm=rms_norm(), mlp_skip=np.eye(4))),
        "no norm",
    ),
    "a tied readout": (
        lambda: absorption.eliminate_with_spare_units(replace(network(), readout=None)),
        "untied readout",
    ),
    "a singular W_Q": (lambda: absorption.eliminate_with_spare_units(singular_query()), "invertible"),
}


def gated_network():
    old = network(1)
    return replace(old, blocks=[replace(old.blocks[0], mlp=MLP(glu, np.ones((4, 6)), np.ones((3, 4))))])


def singular_query():
    old = network(1)
    attention = replace(old.blocks[0].attention, W_Q=np.ones((4, 4)))
    return replace(old, blocks=[replace(old.blocks[0], attention=attention)])


@pytest.mark.parametrize(("ask", "name"), REFUSALS.values(), ids=REFUSALS.keys())
def test_what_fails_is_named(ask, name):
    with refused(name):
        ask()


@pytest.mark.parametrize("units", [[0, 0], [5], [-1]])
def test_units_the_mlp_does_not_have(units):
    with pytest.raises(ValueError, match="different numbers from 0 to 4"):
        absorption.flip(an_mlp(), units)


def test_misuse():
    with pytest.raises(TypeError):
        absorption.flip(an_mlp(), [0.5])
    with pytest.raises(TypeError, match="must be of type MLP"):
        absorption.flip(np.eye(3))
    with pytest.raises(ValueError, match="at most 16 units"):
        absorption.absorbing_set(an_mlp(m=17), np.eye(D))
    mlp = MLP(words.opaque("phi"), words.symbol("U", "d", "m"), words.symbol("W", "m", "d"))
    with refused(absorption.LAW):
        absorption.flip(mlp)
    with refused("numbers"):
        absorption.flip(mlp, [0], c=1)
    with refused("numbers"):
        absorption.absorbing_set(mlp, words.identity("d"), c=1)


def test_the_smallest_set_of_units_is_found():
    mlp = MLP(relu, np.array([[1.0, 1.0, 1.0]]), np.array([[1.0], [2.0], [3.0]]))
    assert absorption.absorbing_set(mlp, np.array([[-3.0]])) == (2,)  # 0 and 1 would do too
    assert absorption.absorbing_set(an_mlp(m=16), np.eye(D)) is None


def test_a_large_unit_does_not_hide_that_a_set_misses():
    mlp = MLP(relu, np.array([[1e8, 1.0]]), np.array([[1e8], [1.0]]))
    assert absorption.absorbing_set(mlp, np.array([[-1.0]])) == (1,)
    assert absorption.absorbing_set(mlp, np.array([[-1.3]])) is None


def test_a_law_that_ends_beyond_one_is_none():
    with refused(absorption.LAW):
        absorption.flip(MLP(lambda z: np.clip(z, 0, 6), np.eye(2), np.eye(2)))


def test_a_map_of_almost_lower_rank_is_absorbed_to_rounding(rng):
    U, V = (np.linalg.qr(rng.normal(size=(D, D)))[0] for _ in range(2))
    M = U @ np.diag([1.0] * (D - 2) + [1e-10, 0]) @ V
    mlp, x = an_mlp(), rng.normal(size=(5, D))
    np.testing.assert_allclose(absorption.spare_units(mlp, M)(x), x @ M + mlp(x), atol=1e-12)
