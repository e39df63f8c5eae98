"""What a construction looks at before it computes: plain arrays of one kind, finite, with shapes that fit, no norm.

Every function returns nothing, or raises a HypothesisError that names what was wrong and with which matrix.
"""

from __future__ import annotations

from typing import Any

from qkvtheory.attention import Heads
from qkvtheory.errors import HypothesisError
from qkvtheory.linalg import agree, check_array, check_finite, symbolic
from qkvtheory.network import MLP, Attention, Block, Network


def check(attention: Attention, theta: Any = None, phi: Any = None, cross: bool = False) -> None:
    """Matrices of finite numbers, all of one kind, with shapes that fit: before anything is computed.

    ``cross``: the cross-attention of a block, whose memory keeps its basis if ``phi`` is None.
    """
    of(Attention, attention, "the sublayer")
    first, second = ("middle", "memory") if cross else ("theta", "phi")
    weights = {f"W_{name}": getattr(attention, f"W_{name}") for name in "QKVO"}
    bases = {name: basis for name, basis in ((first, theta), (second, phi)) if basis is not None}
    biases = {name: b for name in ("b_Q", "b_K", "b_V", "b_O") if (b := getattr(attention, name)) is not None}
    sound({**weights, **bases}, biases)
    for name, bias in biases.items():
        beside(name, bias, f"W_{name[2:]}", weights[f"W_{name[2:]}"])
    if weights["W_K"].shape[0] != weights["W_V"].shape[0]:
        raise unlike(weights, "W_K", "W_V", "they read one stream, so they need equally many rows")
    if first in bases and second not in bases and not cross:
        one_stream(attention)
    stream = ("W_Q",) if cross or phi is not None else ("W_Q", "W_K", "W_V")
    for name, readers in ((first, stream), (second, ("W_K", "W_V"))):
        if name in bases:
            square(name, bases[name])
            for reader in readers:
                fits(name, bases[name], reader, weights[reader])
    if isinstance(attention.core, Heads) and not symbolic(weights["W_Q"]):
        wide = attention.core.width(weights["W_V"].shape[1])
        if wide != weights["W_O"].shape[0]:
            raise HypothesisError("shapes agree", f"the heads write {wide} columns but W_O is {show(weights['W_O'])}")


def check_block(block: Block, **bases: Any) -> None:
    """A block whose weights are sound and fit, and bases that fit it and that no norm forbids."""
    of_block(block)
    mlp, given = block.mlp, {name: b for name, b in bases.items() if b is not None}
    skips = {name: s for name in ("attention_skip", "mlp_skip") if not isinstance(s := getattr(block, name), bool)}
    rows = {name: b for name in ("b_up", "b_down") if (b := getattr(mlp, name)) is not None}
    sound({**given, **skips, "W_up": mlp.W_up, "W_down": mlp.W_down}, rows)
    for name, bias in rows.items():
        beside(name, bias, f"W_{name[2:]}", getattr(mlp, f"W_{name[2:]}"))
    enter, middle, leave, memory = (bases[name] for name in ("enter", "middle", "leave", "memory"))
    check(block.attention, theta=enter)
    if block.cross is not None:
        check(block.cross, theta=middle, phi=memory, cross=True)
    norms = [("attention", block.attention_norm, enter)]
    if block.cross is not None:
        norms.append(("cross-attention", block.attention_norm, middle))
    norms.append(("the MLP", block.mlp_norm, enter if block.parallel else middle))
    for what, norm, basis in norms:
        past_norm(what, norm, basis)
    after, before = ("leave", "enter") if block.parallel else ("middle", "middle")
    for name, basis in given.items():
        square(name, basis)
    for first, a, second, b in (
        (before, bases[before], "W_up", mlp.W_up),
        ("W_O", block.attention.W_O, after, bases[after]),
        ("W_down", mlp.W_down, "leave", leave),
    ):
        if a is not None and b is not None:
            fits(first, a, second, b)


def past_norm(what: str, norm: Any, basis: Any) -> None:
    """Refuse a basis that a norm does not let through. A norm that is just some function lets none through.

    ``norms.RMSNorm`` and ``norms.LayerNorm`` say what they forbid, and what to do about it.
    """
    if norm is None or basis is None:
        return
    forbids = getattr(norm, "forbids", None)
    if forbids is None:
        why = "it sees the lengths of another basis; give it as norms.RMSNorm or norms.LayerNorm to rotate past it"
        raise HypothesisError("no norm", f"a norm stands before {what}, and {why}")
    refusal = forbids(basis)
    if refusal is not None:
        raise HypothesisError("no norm", f"a norm stands before {what}, and {refusal[1]}")


def of(kind: type, part: Any, name: str) -> None:
    """Misuse, such as a block where a network is expected, or None for a part that is needed."""
    if not isinstance(part, kind):
        raise TypeError(f"{name} must be of type {kind.__name__}, not {type(part).__name__}")


def of_block(block: Any, name: str = "the block") -> None:
    """A block with both its sublayers: one without serves only to count states."""
    of(Block, block, name)
    of(Attention, block.attention, f"the attention of {name}")
    of(MLP, block.mlp, f"the MLP of {name}")


def of_network(network: Any) -> None:
    of(Network, network, "the network")
    for layer, block in enumerate(network.blocks):
        of_block(block, f"block {layer}")


def one_stream(attention: Attention) -> None:
    """Queries, keys and values are read from one stream: one basis is to serve all three."""
    weights = {name: getattr(attention, name) for name in ("W_Q", "W_K")}
    if weights["W_Q"].shape[0] != weights["W_K"].shape[0]:
        raise unlike(weights, "W_Q", "W_K", "they read two streams, which take two bases (see reparametrize_cross)")


def sound(matrices: dict[str, Any], biases: dict[str, Any]) -> None:
    """Plain arrays of real numbers, then of one kind, then finite: the first question that fails is the one named."""
    everything = {**matrices, **biases}
    for name, a in everything.items():
        check_array(a, name, row=name in biases)
    agree(**everything)
    for name, a in everything.items():
        check_finite(a, name)


def square(name: str, basis: Any) -> None:
    if basis.shape[0] != basis.shape[1]:
        raise HypothesisError("square", f"{name} is {show(basis)}; a change of basis is square")


def fits(first: str, a: Any, second: str, b: Any) -> None:
    """The product a @ b must exist."""
    if a.shape[1] != b.shape[0]:
        raise unlike({first: a, second: b}, first, second, "the columns of the one are not the rows of the other")


def beside(name: str, bias: Any, weight_name: str, weight: Any) -> None:
    """A bias is one row, as wide as its weight. (Words look at their sizes themselves, when they are added.)"""
    if symbolic(bias):
        return
    if bias.shape[-1] != weight.shape[1] or (bias.ndim == 2 and bias.shape[0] != 1):
        raise unlike({name: bias, weight_name: weight}, name, weight_name, "a bias is one row, as wide as its weight")


def unlike(matrices: dict[str, Any], first: str, second: str, why: str) -> HypothesisError:
    shapes = f"{first} is {show(matrices[first])} but {second} is {show(matrices[second])}"
    return HypothesisError("shapes agree", f"{shapes}: {why}")


def show(a: Any) -> str:
    return " x ".join(map(str, a.shape))
