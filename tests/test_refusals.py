"""What the constructions refuse, each with the hypothesis it names, and when they warn."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qkvtheory import (
    ConditionWarning,
    Heads,
    HypothesisError,
    Network,
    change_basis,
    condition,
    gauge,
    rebase,
    reparametrize,
    stacks,
)
from qkvtheory.attention import rms_norm
from qkvtheory.positions import rope
from qkvtheory.words import symbol
from tests.layers import EPS, SLACK, block, conditioned, error

NARROW = {"core": Heads(2, 1), "W_K": np.ones((4, 2)), "W_V": np.ones((4, 2))}
BASIS = np.diag([1.0, 2.0, 3.0, 4.0])
REFUSED = {
    "singular theta": ({}, np.ones((4, 4)), "invertible"),
    "theta not square": ({}, np.ones((3, 4)), "square"),
    "theta of another size": ({}, np.eye(3), "shapes agree"),
    "W_K reads another stream": ({"W_K": np.ones((5, 4))}, BASIS, "shapes agree"),
    "NaN in theta": ({}, BASIS * np.nan, "finite"),
    "infinity in W_V": ({"W_V": np.full((4, 4), np.inf)}, BASIS, "finite"),
    "integer theta": ({}, np.eye(4, dtype=int), "real numbers"),
    "integers everywhere": ({f"W_{c}": np.eye(4, dtype=int) for c in "QKVO"}, np.eye(4, dtype=int), "real numbers"),
    "float32 theta": ({}, BASIS.astype(np.float32), "one kind of number"),
    "float32 W_O": ({"W_O": BASIS.astype(np.float32)}, BASIS, "one kind of number"),
    "a float32 bias": ({"b_Q": np.ones((1, 4), dtype=np.float32)}, BASIS, "one kind of number"),
    "NaN in a bias": ({"b_K": np.full((1, 4), np.nan)}, BASIS, "finite"),
    "a symbolic theta": ({}, symbol("Theta", "d", "d", invertible=True), "one kind of number"),
    "theta is a list": ({}, BASIS.tolist(), "matrix"),
    "W_K is a list": ({"W_K": BASIS.tolist()}, BASIS, "matrix"),
    "W_K is a row": ({"W_K": np.ones(4)}, BASIS, "matrix"),
    "no W_V": ({"W_V": None}, BASIS, "matrix"),
    "no theta": ({}, None, "matrix"),
    "boolean theta": ({}, np.eye(4, dtype=bool), "real numbers"),
    "complex theta": ({}, BASIS * 1j, "real numbers"),
    "complex everywhere": ({f"W_{c}": np.eye(4) * 1j for c in "QKVO"}, BASIS * 1j, "real numbers"),
    "infinity in theta": ({}, np.diag([1.0, 1, 1, np.inf]), "finite"),
    "NaN in W_O, which is only carried along": ({"W_O": BASIS * np.nan}, BASIS, "finite"),
    "infinity in a bias": ({"b_O": np.full(4, np.inf)}, BASIS, "finite"),
    "floats in an object array": ({}, BASIS.astype(object), "real numbers"),
    "floats in object arrays everywhere": (
        {f"W_{c}": BASIS.astype(object) for c in "QKVO"},
        BASIS.astype(object),
        "real numbers",
    ),
    "exact theta, float weights": ({}, np.array(np.diag([1, 2, 3, 4]).tolist(), dtype=object), "one kind of number"),
    "theta is masked": ({}, np.ma.masked_array(BASIS, mask=BASIS > 2), "matrix"),
    "theta is np.matrix": ({}, BASIS.view(np.matrix), "matrix"),
    "W_K is masked": ({"W_K": np.ma.masked_array(BASIS)}, BASIS, "matrix"),
    "a masked bias": ({"b_K": np.ma.masked_array(np.ones(4))}, BASIS, "matrix"),
    "theta is empty": ({}, np.zeros((0, 0)), "matrix"),
    "theta is a row": ({}, np.ones(4), "matrix"),
    "a bias is a list": ({"b_V": [1.0] * 4}, BASIS, "matrix"),
    "an integer bias": ({"b_V": np.ones(4, dtype=int)}, BASIS, "real numbers"),
    "b_Q too wide": ({"b_Q": np.ones((1, 5))}, BASIS, "shapes agree"),
    "b_K of width 1, which would be broadcast": ({"b_K": np.ones(1)}, BASIS, "shapes agree"),
    "b_V in a column": ({"b_V": np.ones((4, 1))}, BASIS, "shapes agree"),
    "b_O for every token": ({"b_O": np.ones((5, 4))}, BASIS, "shapes agree"),
    "W_V reads another stream": ({"W_V": np.ones((5, 4))}, BASIS, "shapes agree"),
    "W_O for wider heads": ({"W_O": np.ones((6, 4))}, BASIS, "shapes agree"),
    "values that do not split into heads": ({"W_V": np.ones((4, 3)), "W_O": np.ones((3, 4))}, BASIS, "shapes agree"),
}


@pytest.mark.parametrize(("changes", "theta", "hypothesis"), REFUSED.values(), ids=REFUSED)
def test_change_basis_refuses_and_names_the_hypothesis(changes, theta, hypothesis, layer):
    with pytest.raises(HypothesisError) as refusal:
        change_basis(layer(**changes), theta)
    assert refusal.value.hypothesis == hypothesis


REPARAM_REFUSED = {
    "singular W_Q": ("Q", {"W_Q": np.ones((4, 4))}, "invertible"),
    "singular W_K": ("K", {"W_K": np.ones((4, 4))}, "invertible"),
    "singular W_V": ("V", {"W_V": np.zeros((4, 4))}, "invertible"),
    "narrow W_Q": ("Q", {"W_Q": np.ones((4, 2)), "W_K": np.ones((4, 2))}, "full row rank"),
    "wide W_Q with dependent rows": ("Q", {"W_Q": np.ones((4, 6)), "W_K": np.ones((4, 6))}, "invertible"),
    "W_K under grouped keys": ("K", NARROW, "square"),
    "W_V under grouped keys": ("V", NARROW, "square"),
    "W_K reads another stream": ("Q", {"W_K": np.ones((5, 4))}, "shapes agree"),
    "NaN": ("Q", {"W_Q": BASIS * np.nan}, "finite"),
    "integers": ("Q", {f"W_{c}": np.eye(4, dtype=int) for c in "QKVO"}, "real numbers"),
    "mixed dtypes": ("Q", {"W_K": BASIS.astype(np.float32)}, "one kind of number"),
    "W_V reads another stream": ("V", {"W_V": np.ones((5, 4))}, "shapes agree"),
    "cross-attention": ("K", {"W_K": np.ones((6, 4)), "W_V": np.ones((6, 4))}, "shapes agree"),
    "a bias too wide": ("Q", {"b_Q": np.ones(6)}, "shapes agree"),
    "floats in object arrays": ("Q", {f"W_{c}": BASIS.astype(object) for c in "QKVO"}, "real numbers"),
    "W_Q is a list": ("Q", {"W_Q": BASIS.tolist()}, "matrix"),
    "no W_Q": ("Q", {"W_Q": None}, "matrix"),
}


@pytest.mark.parametrize(("which", "changes", "hypothesis"), REPARAM_REFUSED.values(), ids=REPARAM_REFUSED)
def test_reparametrize_refuses_and_names_the_hypothesis(which, changes, hypothesis, layer):
    with pytest.raises(HypothesisError) as refusal:
        reparametrize(layer(**changes), which)
    assert refusal.value.hypothesis == hypothesis


@pytest.mark.parametrize(("changes", "hint"), [
    ({}, '; try "K" or "V"'), ({"W_V": np.ones((4, 2)), "W_O": np.ones((2, 4))}, '; try "K"'),
    (NARROW, ""),  # under grouped keys nothing else can become the identity
])  # fmt: skip
def test_the_refusal_of_a_singular_query_projection_says_what_to_try(changes, hint, layer):
    with pytest.raises(HypothesisError, match=re.escape("(condition number infinite)" + hint) + "$") as refusal:
        reparametrize(layer(W_Q=np.zeros((4, 4)), **changes))
    assert refusal.value.hypothesis == "invertible"
    with pytest.raises(HypothesisError, match=r"condition number infinite\)$"):
        reparametrize(layer(W_K=np.zeros((4, 4))), "K")


@pytest.mark.parametrize("which", ["K", "V"])
def test_the_refusal_under_grouped_keys_says_what_works_instead(which, layer):
    with pytest.raises(HypothesisError, match=r"only W_Q can become the identity.*select_columns"):
        reparametrize(layer(**NARROW), which)


@pytest.mark.parametrize("which", ["Q", "K", "V"])
def test_the_refusal_of_cross_attention_says_what_works_instead(which, layer):
    two_streams = {"W_K": np.ones((6, 4)), "W_V": np.ones((6, 4))}
    with pytest.raises(HypothesisError, match=r"W_Q is 4 x 4 but W_K is 6 x 4.*reparametrize_cross"):
        reparametrize(layer(**two_streams), which)
    with pytest.raises(HypothesisError, match="reparametrize_cross"):
        gauge.select_columns(layer(**two_streams), which)
    with pytest.raises(HypothesisError, match="two bases"):
        change_basis(layer(**two_streams), BASIS)


@pytest.mark.parametrize("which", ["X", "", None, "QK"])
def test_reparametrize_knows_three_projections(which, layer):
    with pytest.raises(ValueError, match="must be 'Q', 'K' or 'V'"):
        reparametrize(layer(), which)
    with pytest.raises(ValueError, match="must be 'K' or 'V'"):
        gauge.reparametrize_cross(layer(), which)


def test_cross_attention_refuses(layer):
    with pytest.raises(HypothesisError) as refusal:
        change_basis(layer(), BASIS, np.eye(3))
    assert refusal.value.hypothesis == "shapes agree"
    with pytest.raises(HypothesisError) as refusal:
        change_basis(layer(), BASIS, np.ones((4, 4)))
    assert refusal.value.hypothesis == "invertible"


CROSS_REFUSED = {
    "wide W_Q": ("K", {"W_Q": np.ones((4, 6))}, "square", "W_Q is 4 x 6"),
    "W_K under grouped keys": ("K", NARROW, "square", "W_K is 4 x 2"),
    "W_V under grouped keys": ("V", NARROW, "square", "W_V is 4 x 2"),
    "W_Q is a list": ("K", {"W_Q": BASIS.tolist()}, "matrix", "W_Q must be"),
    "singular W_V": ("V", {"W_V": np.ones((4, 4))}, "invertible", "singular"),
    "NaN": ("V", {"W_O": BASIS * np.nan}, "finite", "W_O contains NaN"),
    "mixed dtypes": ("K", {"W_V": BASIS.astype(np.float32)}, "one kind of number", "W_V is numpy float32"),
}


@pytest.mark.parametrize(("which", "changes", "hypothesis", "says"), CROSS_REFUSED.values(), ids=CROSS_REFUSED)
def test_reparametrize_cross_refuses(which, changes, hypothesis, says, layer):
    with pytest.raises(HypothesisError, match=says) as refusal:
        gauge.reparametrize_cross(layer(**changes), which)
    assert refusal.value.hypothesis == hypothesis


@pytest.mark.parametrize(("which", "changes", "hypothesis"), [
    ("KV", {}, "independent columns"),  # eight columns of length four
    ("K", NARROW, "independent columns"),
])  # fmt: skip
def test_select_columns_refuses(which, changes, hypothesis, layer):
    with pytest.raises(HypothesisError) as refusal:
        gauge.select_columns(layer(**changes), which)
    assert refusal.value.hypothesis == hypothesis


@pytest.mark.parametrize("which", ["", "X", "Q Z"])
def test_select_columns_knows_three_projections(which, layer):
    with pytest.raises(ValueError, match="which"):
        gauge.select_columns(layer(), which)


@pytest.mark.parametrize(("core", "hypothesis"), [
    (Heads(2), "one head"), (Heads(1, rotate=rope(3, 4)), "bare scores"), (Heads(1, norm_q=rms_norm()), "bare scores"),
    (Heads(1, norm_k=rms_norm()), "bare scores"),
])  # fmt: skip
def test_merging_refuses(core, hypothesis, layer):
    with pytest.raises(HypothesisError) as refusal:
        gauge.merge_single_head(layer(core=core))
    assert refusal.value.hypothesis == hypothesis


MERGE_REFUSED = {
    "NaN": ({"W_Q": BASIS * np.nan}, "finite"),
    "infinity in b_O": ({"b_O": np.full(4, np.inf)}, "finite"),
    "mixed dtypes": ({"W_V": BASIS.astype(np.float32)}, "one kind of number"),
    "integers": ({f"W_{c}": np.eye(4, dtype=int) for c in "QKVO"}, "real numbers"),
    "a list": ({"W_K": BASIS.tolist()}, "matrix"),
    "W_Q is a list": ({"W_Q": BASIS.tolist()}, "matrix"),
    "W_Q is a row": ({"W_Q": np.ones(4)}, "matrix"),
    "a mask": ({"W_K": np.ma.masked_array(BASIS)}, "matrix"),
    "keys of another width": ({"W_K": np.ones((4, 3))}, "shapes agree"),
    "values that W_O does not read": ({"W_V": np.ones((4, 3))}, "shapes agree"),
    "keys and values of two memories": ({"W_K": np.ones((5, 4))}, "shapes agree"),
    "b_O too wide": ({"b_O": np.ones(5)}, "shapes agree"),
}


@pytest.mark.parametrize("core", [Heads(1), lambda q, k, v: (q @ k.mT) @ v], ids=["Heads", "another core"])
@pytest.mark.parametrize(("changes", "hypothesis"), MERGE_REFUSED.values(), ids=MERGE_REFUSED)
def test_merging_looks_at_the_weights(changes, hypothesis, core, layer):
    with pytest.raises(HypothesisError) as refusal:
        gauge.merge_single_head(layer(core=core, **changes))
    assert refusal.value.hypothesis == hypothesis


@pytest.mark.parametrize("bias", ["b_Q", "b_K", "b_V"])
def test_merging_refuses_biases(bias, layer):
    with pytest.raises(HypothesisError) as refusal:
        gauge.merge_single_head(layer(core=Heads(1), **{bias: np.ones((1, 4))}))
    assert refusal.value.hypothesis == "no biases"


def test_rebase_refuses(rng):
    with pytest.raises(HypothesisError, match="around the MLP") as refusal:
        rebase(block(rng, mlp_skip=True), BASIS, 2 * BASIS)
    assert refusal.value.hypothesis == "one basis"
    with pytest.raises(HypothesisError, match="around attention") as refusal:
        rebase(block(rng), BASIS, BASIS, middle=2 * BASIS)
    assert refusal.value.hypothesis == "one basis"
    with pytest.raises(HypothesisError) as refusal:
        rebase(block(rng), np.ones((4, 4)), BASIS)
    assert refusal.value.hypothesis == "invertible"


@pytest.mark.parametrize(("leave", "hypothesis"), [
    (np.eye(3), "shapes agree"), (BASIS.astype(np.float32), "one kind of number"), (BASIS * np.nan, "finite"),
])  # fmt: skip
def test_rebase_refuses_a_bad_basis_at_the_exit(leave, hypothesis, rng):
    with pytest.raises(HypothesisError) as refusal:
        rebase(block(rng), BASIS, leave)
    assert refusal.value.hypothesis == hypothesis


REBASE_REFUSED = {
    "a wide basis": ({}, {}, np.ones((4, 6)), "square"),
    "a basis of another size": ({}, {}, np.eye(3), "shapes agree"),
    "a list": ({}, {}, BASIS.tolist(), "matrix"),
    "W_up reads another stream": ({}, {"W_up": np.ones((5, 6))}, BASIS, "shapes agree"),
    "b_up too narrow": ({}, {"b_up": np.ones((1, 5))}, BASIS, "shapes agree"),
    "b_down for every token": ({}, {"b_down": np.ones((3, 4))}, BASIS, "shapes agree"),
    "NaN in b_down": ({}, {"b_down": np.full((1, 4), np.nan)}, BASIS, "finite"),
    "float32 W_down": ({}, {"W_down": np.ones((6, 4), dtype=np.float32)}, BASIS, "one kind of number"),
    "W_O writes another stream": ({"W_O": np.ones((4, 5)), "b_O": None}, {}, BASIS, "shapes agree"),
    "NaN in W_K": ({"W_K": BASIS * np.nan}, {}, BASIS, "finite"),
}


@pytest.mark.parametrize(("attention", "mlp", "enter", "hypothesis"), REBASE_REFUSED.values(), ids=REBASE_REFUSED)
def test_rebase_looks_at_every_matrix(attention, mlp, enter, hypothesis, rng):
    b = block(rng)
    b = replace(b, attention=replace(b.attention, **attention), mlp=replace(b.mlp, **mlp))
    with pytest.raises(HypothesisError) as refusal:
        rebase(b, enter, BASIS)
    assert refusal.value.hypothesis == hypothesis


NETWORK_REFUSED = {
    "float32 positions": ({"positions": np.ones((3, 4), dtype=np.float32)}, {}, "one kind of number"),
    "float32 embedding": ({"embedding": np.ones((7, 4), dtype=np.float32)}, {}, "one kind of number"),
    "NaN in the readout": ({"readout": np.full((4, 7), np.nan)}, {}, "finite"),
    "positions too wide": ({"positions": np.ones((3, 5))}, {}, "shapes agree"),
    "embedding too narrow": ({"embedding": np.ones((7, 3))}, {}, "shapes agree"),
    "a readout of another stream": ({"readout": np.ones((5, 7))}, {}, "shapes agree"),
    "a wide W_Q": ({}, {"W_Q": np.ones((4, 6)), "W_K": np.ones((4, 6))}, "square"),
    "a singular W_Q": ({}, {"W_Q": np.ones((4, 4))}, "invertible"),
    "W_Q is a list": ({}, {"W_Q": BASIS.tolist()}, "matrix"),
    "a float32 block": ({}, {"W_Q": BASIS.astype(np.float32)}, "one kind of number"),
}


@pytest.mark.parametrize(("changes", "attention", "hypothesis"), NETWORK_REFUSED.values(), ids=NETWORK_REFUSED)
def test_eliminating_queries_looks_at_the_whole_network(changes, attention, hypothesis, rng):
    first, last = block(rng), block(rng)
    last = replace(last, attention=replace(last.attention, **attention))
    parts = {"embedding": np.ones((7, 4)), "readout": np.ones((4, 7)), "positions": np.ones((3, 4))} | changes
    with pytest.raises(HypothesisError) as refusal:
        stacks.eliminate_queries(Network(blocks=[first, last], **parts))
    assert refusal.value.hypothesis == hypothesis


ALIGN_REFUSED = {
    "grouped keys": (NARROW, "multi-head attention", "share a key head"),
    "RoPE": ({"core": Heads(2, rotate=rope(3, 2))}, "bare scores", "RoPE"),
    "a norm of queries": ({"core": Heads(2, norm_q=rms_norm())}, "bare scores", "QK-norm"),
    "a norm of keys": ({"core": Heads(2, norm_k=rms_norm())}, "bare scores", "QK-norm"),
    "a bias on queries": ({"b_Q": np.ones((1, 4))}, "bare scores", "a bias on queries or keys"),
    "a bias on keys": ({"b_K": np.ones((1, 4))}, "bare scores", "a bias on queries or keys"),
    "a wide W_Q": ({"W_Q": np.ones((4, 6)), "W_K": np.ones((4, 6))}, "square", "W_Q is 4 x 6"),
    "a narrow W_Q": ({"W_Q": np.ones((4, 2)), "W_K": np.ones((4, 2))}, "square", "W_Q is 4 x 2"),
    "other spaces": ({}, "same head spaces", "leaves the space"),
    "NaN in W_K": ({"W_K": BASIS * np.nan}, "finite", "W_K"),
    "float32 W_Q": ({"W_Q": BASIS.astype(np.float32)}, "one kind of number", "W_Q"),
}


@pytest.mark.parametrize(("changes", "hypothesis", "says"), ALIGN_REFUSED.values(), ids=ALIGN_REFUSED)
def test_aligning_heads_refuses(changes, hypothesis, says, layer):
    """Every W_Q but that of other spaces is one that would do."""
    fitting = {"W_Q": BASIS} if hypothesis != "same head spaces" else {}
    with pytest.raises(HypothesisError, match=says) as refusal:
        gauge.align_heads(layer(**fitting | changes), BASIS)
    assert refusal.value.hypothesis == hypothesis


@pytest.mark.parametrize("parallel", [False, True])
def test_a_norm_before_the_mlp_sees_what_the_mlp_reads(parallel, rng):
    """Of a parallel block that is the state it enters, whatever it writes in."""
    b = block(rng, attention_skip=False, parallel=parallel, mlp_norm=rms_norm())
    entered = dict(enter=BASIS, leave=None)
    for bases in (entered, {"enter": None, "leave": BASIS}):
        if parallel and bases is entered:
            with pytest.raises(HypothesisError, match="a norm stands before the MLP") as refusal:
                rebase(b, **bases)
            assert refusal.value.hypothesis == "no norm"
        else:
            rebase(b, **bases)


def test_a_parallel_block_with_a_skip_has_one_basis(rng):
    b = block(rng, parallel=True)
    with pytest.raises(HypothesisError, match="attention and MLP") as refusal:
        rebase(b, BASIS, 2 * BASIS)
    assert refusal.value.hypothesis == "one basis"
    assert rebase(b, BASIS, BASIS.copy()).attention_skip is True


def test_constructions_take_layers(rng):
    b = block(rng)
    for ask, says in (
        (lambda: rebase(b.attention, BASIS, BASIS), "the block must be of type Block, not Attention"),
        (lambda: rebase(replace(b, mlp=None), BASIS, BASIS), "the MLP of the block must be of type MLP"),
        (lambda: change_basis(b, BASIS), "the sublayer must be of type Attention, not Block"),
        (lambda: gauge.align_heads(None, BASIS), "the sublayer must be of type Attention, not NoneType"),
    ):
        with pytest.raises(TypeError, match=says):
            ask()


def test_eliminating_queries_refuses_two_queries_joined_by_skips(rng):
    with pytest.raises(HypothesisError) as refusal:
        stacks.eliminate_queries(Network(np.eye(4), [block(rng, mlp_skip=True), block(rng)], np.eye(4)))
    assert refusal.value.hypothesis == "one choice per segment"


# -- when it warns -----------------------------------------------------------------------------------------------------

NEARLY = np.diag([1.0, 1, 1, 1e-9])
WARNED = {
    "change_basis": lambda a, b: change_basis(a, NEARLY),
    "reparametrize": lambda a, b: reparametrize(a),
    "reparametrize_cross": lambda a, b: gauge.reparametrize_cross(a),
    "rebase": lambda a, b: rebase(b, NEARLY, BASIS),
    "eliminate_queries": lambda a, b: stacks.eliminate_queries(Network(BASIS, [replace(b, attention=a)], BASIS)),
}


@pytest.mark.parametrize("name", WARNED)
def test_a_warning_points_at_the_line_that_asked(name, layer, rng):
    with pytest.warns(
        ConditionWarning, match=r"is nearly singular: condition number 1\.0e\+09; .* 2\.2e-07 in"
    ) as caught:
        WARNED[name](layer(W_Q=NEARLY), block(rng))
    lines = Path(__file__).read_text().splitlines()
    assert {w.filename for w in caught} == {__file__}
    assert all(f'"{name}": lambda' in lines[w.lineno - 1] for w in caught)


def test_a_nearly_singular_projection_warns_and_still_works(layer, rng):
    a, x = layer(W_Q=conditioned(rng, 4, 1e9)), rng.normal(size=(3, 4))
    with pytest.warns(ConditionWarning, match="W_Q is nearly singular: condition number"):
        theta, new = reparametrize(a)
    assert error(new(x @ theta), a(x)) < SLACK * EPS * condition(theta)


def test_a_well_conditioned_projection_does_not_warn(layer, no_condition_warnings):
    reparametrize(layer())
    with pytest.raises(ConditionWarning):
        reparametrize(layer(W_Q=np.diag([1.0, 1, 1, 1e-9])))
