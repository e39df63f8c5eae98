"""Changes of basis that keep the function: the constructions behind the theorems of the book.

Each takes a layer and gives a layer of the same kind with other weights. They use only ``@`` and ``inverse``, so the
very functions below run on a user's float matrices, on exact numbers and on words; the symbolic and formal checks are
about them.

Before anything is computed every weight, bias and basis is looked at: plain arrays of finite real numbers, all of one
library, dtype and device, with sizes that fit. What does not is refused with a HypothesisError.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from qkvtheory.attention import Heads
from qkvtheory.errors import HypothesisError
from qkvtheory.linalg import (
    agree,
    check_array,
    check_finite,
    complete_basis,
    concat,
    identity,
    inverse,
    right_inverse,
    symbolic,
)
from qkvtheory.network import Attention, Block, Network


def reads(back: Any, *weights: Any) -> tuple[Any, ...]:
    """The weights that read x @ theta as ``weights`` read x, when theta @ back = I. Claim r-products."""
    return tuple(back @ weight for weight in weights)


def change_basis(attention: Attention, theta: Any, phi: Any = None) -> Attention:
    """The sublayer that reads x @ theta (and memory @ phi) where ``attention`` read x (and memory).

    The Reparametrization Lemma (arXiv 2510.23912): ``change_basis(a, theta)(x @ theta) == a(x)`` for every core, mask
    and bias.

    Parameters: ``theta`` d x d invertible; ``phi`` d_z x d_z invertible, for cross-attention (claim cross-attention-
    two-gauges).
    Returns an Attention with the same W_O and biases. Raises HypothesisError naming the hypothesis that fails.

    >>> import numpy as np
    >>> from qkvtheory.attention import Heads
    >>> a = Attention(Heads(1), *np.eye(2)[None].repeat(4, 0))
    >>> change_basis(a, np.diag([1.0, 2.0])).W_K.tolist()
    [[1.0, 0.0], [0.0, 0.5]]
    """
    check(attention, theta=theta, phi=phi)
    back = inverse(theta, "theta")
    back_memory = back if phi is None else inverse(phi, "phi")
    (W_Q,) = reads(back, attention.W_Q)
    W_K, W_V = reads(back_memory, attention.W_K, attention.W_V)
    return replace(attention, W_Q=W_Q, W_K=W_K, W_V=W_V)


def reparametrize(attention: Attention, which: str = "Q") -> tuple[Any, Attention]:
    """Make one projection the identity: (theta, new) with new.W_which = I and ``new(x @ theta) == attention(x)``.

    ``which`` is "Q", "K" or "V"; the named matrix must be square and invertible. A wide W_Q (d x p, p > d, of full row
    rank) is allowed too: its right inverse takes the place of the inverse, and the stream x @ theta becomes p wide
    (claim wide-query). Under grouped keys (GQA, MQA) only W_Q is square: W_K and W_V are refused (claim gqa-only-q; see
    ``select_columns``).

    Source: arXiv 2510.23912, Reparametrization Lemma, for square W_K and W_V; Graef, arXiv 2404.12362, for stacks
    without skips.

    >>> import numpy as np
    >>> from qkvtheory.attention import Heads
    >>> rng = np.random.default_rng(0)
    >>> a = Attention(Heads(2), *rng.normal(size=(4, 4, 4)))
    >>> theta, new = reparametrize(a, "K")
    >>> x = rng.normal(size=(3, 4))
    >>> bool(np.allclose(new(x @ theta), a(x)))
    True
    """
    if which not in ("Q", "K", "V"):
        raise ValueError(f"which must be 'Q', 'K' or 'V', not {which!r}")
    check(attention)
    one_stream(attention)
    theta, name = getattr(attention, f"W_{which}"), f"W_{which}"
    rows, cols = theta.shape
    if which != "Q" and rows != cols:
        raise HypothesisError(
            "square",
            f"{name} is {rows} x {cols}: under grouped keys only W_Q can become the identity (claim gqa-only-q); "
            "select_columns does what is possible for W_K and W_V",
        )
    try:
        back = right_inverse(theta, name) if which == "Q" else inverse(theta, name)
    except HypothesisError as refusal:
        if which == "Q":
            add_hint(refusal, attention)
        raise
    W_Q, W_K, W_V = reads(back, attention.W_Q, attention.W_K, attention.W_V)
    new = replace(attention, W_Q=W_Q, W_K=W_K, W_V=W_V)
    return theta, replace(new, **{name: identity(cols, theta)})  # exact, where back @ theta would be rounded


def add_hint(refusal: HypothesisError, attention: Attention) -> None:
    """To the refusal of a singular W_Q: which of the other projections are square, so that they may do instead."""
    others = [f'"{c}"' for c in "KV" if len(set(getattr(attention, f"W_{c}").shape)) == 1]
    if refusal.hypothesis == "invertible" and others:
        refusal.args = (f"{refusal}; try {' or '.join(others)}",)


def reparametrize_cross(attention: Attention, which: str = "K") -> tuple[Any, Any, Attention]:
    """Cross-attention has two bases, so two projections become the identity: W_Q, and W_K or W_V.

    Returns (theta, phi, new) with ``new(x @ theta, memory @ phi) == attention(x, memory)``. Both named matrices must be
    square and invertible.
    """
    if which not in ("K", "V"):
        raise ValueError(f"which must be 'K' or 'V', not {which!r}")
    check(attention)
    theta, phi = attention.W_Q, getattr(attention, f"W_{which}")
    square("W_Q", theta)
    square(f"W_{which}", phi)
    new = change_basis(attention, theta, phi)
    return theta, phi, replace(new, W_Q=identity(theta.shape[1], theta), **{f"W_{which}": identity(phi.shape[1], phi)})


def select_columns(attention: Attention, which: str = "K") -> tuple[Any, Attention]:
    """Turn the columns of the named projections ("K", "V", "KV", ...) into unit vectors: (theta, new).

    With grouped keys W_K is d x g d_h with g d_h < d, so it cannot become the identity; but with theta = [W_K | U'] it
    becomes "the first g d_h coordinates" and costs no parameters (claim column-selection). At most d columns in all,
    and they must be independent. U' is an orthonormal complement for floats, unit vectors for exact numbers.
    """
    if not which or set(which) - set("QKV") or len(set(which)) < len(which):
        raise ValueError(f"which must name some of Q, K, V once each, such as 'K' or 'KV', not {which!r}")
    check(attention)
    one_stream(attention)
    names = [f"W_{letter}" for letter in which]
    columns = concat([getattr(attention, name) for name in names])
    theta = complete_basis(columns, " and ".join(names))
    new = change_basis(attention, theta)
    one, start = identity(theta.shape[0], theta), 0
    for name in names:
        stop = start + getattr(attention, name).shape[1]
        new = replace(new, **{name: one[:, start:stop]})
        start = stop
    return theta, new


def merge_single_head(attention: Attention) -> Attention:
    """One head, no RoPE, no QK-norm, no query or key bias: W_Q and W_V become I without any change of basis.

    W_K becomes W_K W_Q^T and W_O becomes W_V W_O; no matrix need be invertible (claim single-head-merge). The scale of
    the scores stays that of the old head width. The memory of a cross-attention may have a width of its own.

    A core other than ``Heads`` cannot be looked into: whoever passes one vouches that it reads queries and keys only
    through q k^T and multiplies the values from the left.
    """
    core = attention.core
    if isinstance(core, Heads):
        if core.heads > 1:
            raise HypothesisError("one head", f"{core.heads} heads would need {core.heads} merged matrices, not one")
        if core.rotate is not None or core.norm_q is not None or core.norm_k is not None:
            raise HypothesisError("bare scores", "RoPE or QK-norm stands between the two factors, so they do not merge")
    if any(b is not None for b in (attention.b_Q, attention.b_K, attention.b_V)):
        raise HypothesisError("no biases", "a bias on queries, keys or values does not merge; fold it first")
    check(attention)
    W_Q, W_K, W_V, W_O = attention.W_Q, attention.W_K, attention.W_V, attention.W_O
    if isinstance(core, Heads) and core.scale is None:
        core = replace(core, scale=W_Q.shape[1] ** -0.5)
    fits("W_K", W_K, "the transpose of W_Q", W_Q.mT)
    fits("W_V", W_V, "W_O", W_O)
    reads_x, reads_memory = identity(W_Q.shape[0], W_Q), identity(W_V.shape[0], W_V)
    return replace(attention, core=core, W_Q=reads_x, W_K=W_K @ W_Q.mT, W_V=reads_memory, W_O=W_V @ W_O)


def rebase(block: Block, enter: Any, leave: Any) -> Block:
    """The block that reads x @ enter where ``block`` read x, and writes z @ leave where it wrote z.

    The block must have a skip around attention and none around the MLP: the MLP's write is the free place for a new
    basis (claim where-theta-goes). ``enter`` must be invertible; ``leave`` need not be.
    """
    if block.mlp_skip or not block.attention_skip:
        raise HypothesisError(
            "skip around attention only", "rebase carries one basis in and another out through the MLP"
        )
    mlp = block.mlp
    rows = {name: b for name in ("b_up", "b_down") if (b := getattr(mlp, name)) is not None}
    sound({"enter": enter, "leave": leave, "W_up": mlp.W_up, "W_down": mlp.W_down}, rows)
    for name, bias in rows.items():
        beside(name, bias, f"W_{name[2:]}", getattr(mlp, f"W_{name[2:]}"))
    check(block.attention, theta=enter)
    fits("enter", enter, "W_up", mlp.W_up)
    fits("W_O", block.attention.W_O, "enter", enter)
    fits("W_down", mlp.W_down, "leave", leave)
    back = inverse(enter, "enter")
    (W_up,) = reads(back, mlp.W_up)
    mlp = replace(mlp, W_up=W_up, W_down=mlp.W_down @ leave, b_down=carried(mlp.b_down, leave))
    inner = change_basis(block.attention, enter)
    return replace(block, attention=replace(inner, W_O=inner.W_O @ enter, b_O=carried(inner.b_O, enter)), mlp=mlp)


def eliminate_queries(network: Network, one: Any = None) -> Network:
    """All W_Q = I in a network with skips around attention only and no norm: the basis entering each block is its W_Q.

    arXiv 2510.23912, "Attention-Skip-Only Query Weight Elimination". ``one``: the identity basis at the readout.
    Every W_Q must be square and invertible. Raises HypothesisError also where ``rebase`` does.
    """
    if not network.blocks:
        raise ValueError("the network has no blocks, so it has no queries to eliminate")
    bases = [block.attention.W_Q for block in network.blocks]
    named = {f"W_Q of block {i}": basis for i, basis in enumerate(bases)}
    ends = {"embedding": network.embedding, "positions": network.positions, "readout": network.readout}
    sound({name: m for name, m in (ends | named).items() if m is not None}, {})
    for name, basis in named.items():
        square(name, basis)
    for name in ("embedding", "positions"):
        if ends[name] is not None:
            fits(name, ends[name], "W_Q of block 0", bases[0])
    leave = [*bases[1:], identity(bases[-1].shape[1], bases[-1]) if one is None else one]
    fits("the basis at the readout", leave[-1], "readout", network.readout)
    blocks = [without_queries(*triple) for triple in zip(network.blocks, bases, leave, strict=True)]
    return replace(
        network,
        embedding=network.embedding @ bases[0],
        blocks=blocks,
        positions=carried(network.positions, bases[0]),
    )


def without_queries(block: Block, enter: Any, leave: Any) -> Block:
    """``rebase`` with the block's own W_Q at the entrance: its new W_Q is I, set exactly instead of rounded."""
    new = rebase(block, enter, leave)
    return replace(new, attention=replace(new.attention, W_Q=identity(enter.shape[1], enter)))


def carried(row: Any, basis: Any) -> Any:
    return None if row is None else row @ basis


def check(attention: Attention, theta: Any = None, phi: Any = None) -> None:
    """Matrices of finite numbers, all of one kind, with shapes that fit: before anything is computed."""
    weights = {f"W_{name}": getattr(attention, f"W_{name}") for name in "QKVO"}
    bases = {name: basis for name, basis in (("theta", theta), ("phi", phi)) if basis is not None}
    biases = {name: b for name in ("b_Q", "b_K", "b_V", "b_O") if (b := getattr(attention, name)) is not None}
    sound({**weights, **bases}, biases)
    for name, bias in biases.items():
        beside(name, bias, f"W_{name[2:]}", weights[f"W_{name[2:]}"])
    if weights["W_K"].shape[0] != weights["W_V"].shape[0]:
        raise unlike(weights, "W_K", "W_V", "they read one stream, so they need equally many rows")
    if "theta" in bases and "phi" not in bases:
        one_stream(attention)
    stream = ("W_Q",) if phi is not None else ("W_Q", "W_K", "W_V")
    for name, readers in (("theta", stream), ("phi", ("W_K", "W_V"))):
        if name in bases:
            square(name, bases[name])
            for reader in readers:
                fits(name, bases[name], reader, weights[reader])
    if isinstance(attention.core, Heads) and not symbolic(weights["W_Q"]):
        wide = attention.core.width(weights["W_V"].shape[1])
        if wide != weights["W_O"].shape[0]:
            raise HypothesisError("shapes agree", f"the heads write {wide} columns but W_O is {show(weights['W_O'])}")


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
