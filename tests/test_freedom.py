"""The predictions: known numbers, sums of parts, and the refusal of what no formula covers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qkvtheory import freedom, redundancy, stacks
from qkvtheory.errors import HypothesisError
from qkvtheory.freedom import CASES, GPT2_SMALL, LAYERS, PUBLISHED, Architecture, Layer

SMALL = Architecture()
KNOWN = {  # redundant, of so many parameters
    "no norm, T2, L = 1": (36, 160),
    "no norm, T0, L = 2": (116, 264),
    "no norm, TM, L = 2": (84, 264),
    "RMSNorm, TA, L = 2": (54, 264),
    "RMSNorm, eps 0, T0, L = 1": (41, 160),
    "LayerNorm, T2, L = 2": (104, 264),
    "LayerNorm with gains, T2, L = 1": (74, 172),
    "RoPE, RMSNorm with gains, T2, L = 2": (50, 268),
    "RoPE, RMSNorm with gains, SwiGLU, one KV head, T2, L = 1": (29, 160),
    "biases everywhere, no norm, T0, L = 1": (88, 190),
    "tied readout, RMSNorm, T2, L = 1": (22, 140),
    "shared W_Q, no norm, T2, L = 2": (44, 248),
    "all W_Q = I, no norm, T2, L = 2": (28, 232),
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_networks(name):
    a = CASES[name]
    assert (sum(freedom.redundancy(a).values()), freedom.parameters(a)) == KNOWN[name]


def test_parts_are_named_and_sum_up():
    for row in freedom.table(CASES | PUBLISHED):
        assert sum(row[part] for part in freedom.PARTS) == row["redundancy"] < row["parameters"]
    assert {row["name"] for row in freedom.table()} == set(CASES)


@pytest.mark.parametrize("a", [*CASES.values(), *PUBLISHED.values()], ids=[*CASES, *PUBLISHED])
def test_parameters_are_those_of_the_arrays(a):
    shapes = redundancy.network_shapes(a).values()
    assert freedom.parameters(a) == sum(int(np.prod(shape)) for shape in shapes)


@pytest.mark.parametrize("a", LAYERS.values(), ids=list(LAYERS))
def test_parameters_of_layers_are_those_of_the_arrays(a):
    assert a.parameters == sum(int(np.prod(shape)) for shape in redundancy.layer_shapes(a).values())


@pytest.mark.parametrize("topology", freedom.CHOICES["topology"])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_free_bases_are_the_segments_of_the_network(topology, layers):
    blocks = [stacks.Block(None, None, topology in ("TA", "T2"), topology in ("TM", "T2"))] * layers
    assert freedom.free_bases(Architecture(layers=layers, topology=topology)) == stacks.free_bases(
        stacks.Network(None, blocks)
    )


def test_the_commutant_is_that_of_the_rotations():
    """Against a null space: matrices G with G R = R G for rotations by angles of these multiplicities."""
    for width, planes in ((4, ()), (4, (1, 1)), (4, (2,)), (5, (1,)), (6, (2, 1))):
        R = (
            redundancy.turning(2, planes)(np.repeat(np.eye(width)[:, None], 2, axis=1))[:, 1]
            if planes
            else np.eye(width)
        )
        one = np.eye(width)
        same = np.kron(R, one) - np.kron(one, R.T)
        assert freedom.commutant(width, planes) == width**2 - np.linalg.matrix_rank(same, tol=1e-9)
        skew = np.kron(one, one).reshape(width, width, -1) + np.kron(one, one).reshape(width, width, -1).swapaxes(0, 1)
        both = np.concatenate([same, skew.reshape(width * width, -1)])
        assert freedom.orthogonal_commutant(width, planes) == width**2 - np.linalg.matrix_rank(both, tol=1e-9)


def test_the_dimension_never_exceeds_the_parameters_less_the_heads():
    for a in CASES.values():
        assert 0 < freedom.dimension(a) == freedom.parameters(a) - sum(freedom.parts(a).values())


def test_the_cost_of_identity_queries():
    assert freedom.query_identity_cost(GPT2_SMALL) == 6_208_523
    assert GPT2_SMALL.layers * GPT2_SMALL.d**2 == 7_077_888
    assert freedom.query_identity_cost(replace(SMALL, topology="TA", layers=3)) == 0
    assert freedom.query_identity_cost(replace(SMALL, queries="identity", layers=2)) == 8


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("choices", "message"), [
    ({"topology": "T1"}, "topology must be one of T0, TA, TM, T2"),
    ({"norm": "BatchNorm"}, "norm must be one of"),
    ({"d": 0}, "d must be at least 1"),
    ({"groups": 3}, r"groups \(3\) must divide heads \(2\)"),
    ({"positions": "RoPE", "head_width": 3}, "head_width must be even, not 3"),
    ({"gains": True}, "gains belong to a norm"),
    ({"tied": True, "outputs": 6}, r"as many outputs \(6\) as there are tokens \(5\)"),
    ({"queries": "identity", "heads": 3}, "heads \\* head_width is 6, d is 4"),
    ({"heads": 0}, "without attention"),
    ({"heads": 0, "positions": "none", "topology": "TA"}, "the topology is T0"),
])  # fmt: skip
def test_what_describes_no_network(choices, message):
    with pytest.raises(ValueError, match=message):
        Architecture(**choices)


@pytest.mark.parametrize("choices", [{"d": 4.0}, {"heads": True}, {"layers": "2"}])
def test_sizes_are_whole_numbers(choices):
    with pytest.raises(TypeError, match="must be a whole number"):
        Architecture(**choices)


@pytest.mark.parametrize(("choices", "hypothesis"), [
    ({"hidden": 3}, "as wide as the stream"),
    ({"vocab": 3}, "as wide as the stream"),
    ({"outputs": 3}, "as wide as the stream"),
    ({"heads": 1, "topology": "TM"}, "as wide as the stream"),
    ({"groups": 1, "topology": "T0"}, "as wide as the stream"),
    ({"head_width": 5}, "no wider than the stream"),
    ({"head_width": 4, "norm": "LayerNorm"}, "no wider than the stream"),
    ({"context": 1}, "enough tokens"),
    ({"vocab": 4, "positions": "none"}, "enough tokens"),
    ({"vocab": 4, "outputs": 4, "tied": True}, "enough tokens"),
    ({"context": 2, "norm": "RMSNorm", "topology": "T0"}, "enough tokens"),
    ({"norm": "RMSNorm", "topology": "T0", "positions": "RoPE"}, "tokens seen past the norm"),
    ({"norm": "LayerNorm", "topology": "TM", "positions": "none"}, "tokens seen past the norm"),
    ({"norm": "RMSNorm", "biases": True}, "covered by the formulas"),
    ({"tied": True, "topology": "TA"}, "covered by the formulas"),
    ({"queries": "shared", "norm": "RMSNorm"}, "covered by the formulas"),
    ({"queries": "identity", "norm": "RMSNorm", "gains": True}, "covered by the formulas"),
])  # fmt: skip
def test_what_no_formula_covers(choices, hypothesis):
    with pytest.raises(HypothesisError) as refusal:
        freedom.redundancy(Architecture(**choices))
    assert refusal.value.hypothesis == hypothesis


@pytest.mark.parametrize(("shape", "message"), [
    ({"heads": 0}, "heads must be at least 1"),
    ({"groups": 3}, "must divide"),
    ({"variant": "Q=V"}, "variant must be one of QKV"),
    ({"qk_norm": "gain"}, "qk_norm must be one of"),
    ({"planes": (1, 1, 1)}, "do not fit into a head of width 4"),
    ({"planes": (0,)}, "do not fit"),
    ({"groups": 1, "variant": "Q=K"}, "fewer keys than queries"),
])  # fmt: skip
def test_what_describes_no_layer(shape, message):
    with pytest.raises(ValueError, match=message):
        Layer(**{"d": 8, "heads": 2, "head_width": 4} | shape)


@pytest.mark.parametrize("shape", [
    {"qk_norm": "eps 0", "variant": "K=V"},
    {"qk_norm": "eps 0", "biases": True},
    {"qk_norm": "eps 0", "head_width": 1},
    {"qk_norm": "gains", "planes": (1, 1)},
    {"biases": True, "variant": "Q=K"},
])  # fmt: skip
def test_what_no_formula_of_a_layer_covers(shape):
    with pytest.raises(HypothesisError, match="nothing is predicted"):
        freedom.layer_redundancy(Layer(**{"d": 8, "heads": 2, "head_width": 4} | shape))


def test_a_head_is_no_wider_than_the_stream():
    with pytest.raises(HypothesisError, match="a head is 3 wide, the stream 2"):
        freedom.head_dimension("QKV", 2, 3)
    with pytest.raises(ValueError, match="must be even"):
        freedom.head_dimension("QKV", 7, 3, rope=True)
