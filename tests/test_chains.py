"""Calculations: every step is checked, a broken one is named; induction over layers, and the real loop."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from qkvtheory import MLP, Attention, Block, Network, gauge, stacks
from qkvtheory.chains import BrokenStep, Chain, Sides, broken_without, calculate, induction
from qkvtheory.lanes.worlds import Words
from qkvtheory.words import Word, identity, opaque, symbol

X, W, V = symbol("X", "n", "d"), symbol("W", "d", "p"), symbol("V", "d", "p")
T = symbol("Theta", "d", "d", invertible=True)


def test_a_good_chain():
    chain = Chain(X @ T @ (T.inverse() @ W)).then(X @ W, "H2", needs=["H2"]).then(X @ (W + V) - X @ V, "distribute")
    assert [step.reason for step in chain.steps] == ["", "H2", "distribute"]
    assert chain.steps[1].needs == ("H2",)


def test_a_broken_step_is_named_and_shows_what_is_left_over():
    with pytest.raises(BrokenStep, match=r"step 2 \(wishful thinking\) does not follow: left over") as broken:
        Chain(X @ W).then(X @ W, "nothing").then(X @ V, "wishful thinking")
    assert (broken.value.step, broken.value.reason) == (2, "wishful thinking")
    assert broken.value.residual == X @ W - X @ V


def test_a_step_of_another_shape_is_named():
    with pytest.raises(BrokenStep, match="X W is n x p, W is d x p"):
        Chain(X @ W).then(W, "shape")


def run(applied: frozenset[str]) -> Sides:
    """X Theta Theta^-1 W = X W, where the inverse cancels only once H2 may be used."""
    formal = not {"H2", "*"} & applied
    theta = symbol("Theta", "d", "d", invertible=True, formal=formal)
    left = X @ theta @ (theta.inverse() @ W)
    return Sides(left, X @ W, opaque("f", "p")(X), X @ W)


def test_calculate_finds_the_step_where_a_hypothesis_is_used():
    chain = calculate(run, [("H1", "not needed"), ("H2", "Theta is invertible")])
    assert [(str(s.shown), s.reason) for s in chain.steps] == [
        ("f(X)", ""),
        ("X Theta Theta^-1 W", "definition"),
        ("X W", "Theta is invertible"),
    ]
    assert chain.steps[2].needs == ("H2",)


def test_calculate_refuses_an_equation_that_does_not_hold():
    with pytest.raises(BrokenStep, match="the two sides"):
        calculate(run, [("H1", "not needed")])


def test_broken_without():
    kept = Sides(X @ W, X @ V, X @ W, X @ V)
    assert broken_without(lambda: kept) == X @ W - X @ V
    with pytest.raises(ValueError, match="holds without this hypothesis"):
        broken_without(lambda: run(frozenset({"*"})))
    assert "nothing declares B invertible" in str(broken_without(lambda: symbol("B", "d", "d").inverse()))


# -- layers ------------------------------------------------------------------------------------------------------------


def network(depth: int) -> Network:
    """A network with skips around attention only, of letters; every W_Q is invertible."""
    blocks = []
    for i in range(depth):
        letters = {c: symbol(f"W_{c}^{i}", *shape) for c, shape in SHAPES.items()}
        query = symbol(f"W_Q^{i}", "d", "d", invertible=True)
        attention = Attention(opaque(f"g^{i}", "o"), query, letters["K"], letters["V"], letters["O"])
        blocks.append(Block(attention, MLP(opaque(f"phi^{i}"), letters["up"], letters["down"])))
    E, U, P = symbol("E", "vocab", "d"), symbol("U", "d", "vocab"), symbol("P", "n", "d")
    return Network(E, blocks, U, P)


SHAPES = {"K": ("d", "k"), "V": ("d", "k"), "O": ("o", "d"), "up": ("d", "hidden"), "down": ("hidden", "d")}
TOKENS = symbol("T", "n", "vocab")


def one_layer(damage: Any = None) -> tuple[Word, Word]:
    w = Words()
    b, enter, leave = w.block(), w.invertible("Theta", "d"), w.invertible("Phi", "d")
    new = gauge.rebase(b, enter, leave)
    return (damage(new, b) if damage else new)(X @ enter), b(X) @ leave


def base() -> tuple[Word, Word]:
    E, P, enter = symbol("E", "vocab", "d"), symbol("P", "n", "d"), T
    return TOKENS @ (E @ enter) + P @ enter, (TOKENS @ E + P) @ enter


def test_induction_over_layers():
    assert induction(base(), [one_layer()]) == 2


DAMAGE = {
    "W_O as it was": lambda new, b: replace(new, attention=replace(new.attention, W_O=b.attention.W_O)),
    "W_K as it was": lambda new, b: replace(new, attention=replace(new.attention, W_K=b.attention.W_K)),
    "W_up as it was": lambda new, b: replace(new, mlp=replace(new.mlp, W_up=b.mlp.W_up)),
    "W_down as it was": lambda new, b: replace(new, mlp=replace(new.mlp, W_down=b.mlp.W_down)),
    "no skip": lambda new, b: replace(new, attention_skip=False),
    "W_K and W_V swapped": lambda new, b: replace(
        new, attention=replace(new.attention, W_K=new.attention.W_V, W_V=new.attention.W_K)
    ),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_step_is_caught(damage):
    with pytest.raises(BrokenStep, match="induction step") as broken:
        induction(base(), [one_layer(), one_layer(damage)])
    assert broken.value.step == 2


def test_a_damaged_base_is_caught():
    new, old = base()
    with pytest.raises(BrokenStep, match="base"):
        induction((new + TOKENS @ symbol("E", "vocab", "d"), old), [one_layer()])


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_real_loop(depth):
    old = network(depth)
    new = stacks.eliminate_queries(old)
    assert new(TOKENS) == old(TOKENS)
    assert all(identity("d") == b.attention.W_Q for b in new.blocks)


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_the_real_loop_with_a_damaged_layer(depth, damage):
    old = network(depth)
    new = stacks.eliminate_queries(old)
    damaged = [damage(new.blocks[0], old.blocks[0]), *new.blocks[1:]]
    same = replace(new, blocks=damaged)(TOKENS) == old(TOKENS)
    # The last block writes in the basis of the readout, so its W_down is what it was.
    assert same == (damage is DAMAGE["W_down as it was"] and depth == 1)


def test_a_broken_step_in_a_deep_network_is_reported_at_once():
    def stream(name: str) -> Word:
        x = symbol(name, "n", "d")
        for i in range(1000):
            x = opaque("phi")(x + opaque("g")(x @ symbol(f"W_{i}", "d", "d")))
        return x

    with pytest.raises(BrokenStep, match="oops") as broken:
        Chain(stream("X")).then(stream("Y"), "oops")
    assert len(str(broken.value)) < 10_000
