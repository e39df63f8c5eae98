"""The skeleton of a transformer: which matrix multiplies what, and where the skips are.

The skeleton uses only ``@``, ``+`` and the functions it holds, so the same lines run on floats, on exact numbers and on
words. What is not linear (heads, masks, positions, softmax; the activation) is a value the layers hold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Number
from typing import Any

from qkvtheory.errors import HypothesisError
from qkvtheory.linalg import symbolic


@dataclass(frozen=True, eq=False)
class Attention:
    """An attention sublayer without skip and norm: core(x W_Q, m W_K, m W_V) W_O, with m = memory, or x itself.

    Shapes: x is n x d, memory n' x d_z, W_Q d x p, W_K and W_V with d (d_z) rows, W_O with d columns; biases are 1 x
    width. Symbols and shapes as on the book's page Notation.

    Raises TypeError at construction if ``core`` is not a function. A call raises HypothesisError unless x and memory
    are matrices with as many columns as the weights that read them have rows.

    >>> import numpy as np
    >>> a = Attention(lambda q, k, v: q + k - v, *np.eye(2)[None].repeat(4, 0))
    >>> a(np.ones((1, 2))).tolist()
    [[1.0, 1.0]]
    """

    core: Callable[[Any, Any, Any], Any]
    W_Q: Any
    W_K: Any
    W_V: Any
    W_O: Any
    b_Q: Any = None
    b_K: Any = None
    b_V: Any = None
    b_O: Any = None

    def __new__(cls, *arguments: Any, **named: Any) -> Attention:
        """Looks at the core before Python counts the arguments: it would report a forgotten core as a missing W_O."""
        given = {"core": arguments[0]} if arguments else named
        if "core" in given and not callable(given["core"]):
            raise TypeError("the first argument is the core, for example Heads(8)")
        return object.__new__(cls)

    def __call__(self, x: Any, memory: Any = None) -> Any:
        m, source = (x, "x") if memory is None else (memory, "memory")
        check_read("x", x, W_Q=self.W_Q)
        check_read(source, m, W_K=self.W_K, W_V=self.W_V)
        q, k, v = affine(x, self.W_Q, self.b_Q), affine(m, self.W_K, self.b_K), affine(m, self.W_V, self.b_V)
        return affine(self.core(q, k, v), self.W_O, self.b_O)


@dataclass(frozen=True, eq=False)
class MLP:
    """act(y W_up + b_up) W_down + b_down. A gated MLP (GLU) holds both its inputs side by side in W_up."""

    act: Callable[[Any], Any]
    W_up: Any
    W_down: Any
    b_up: Any = None
    b_down: Any = None

    def __call__(self, y: Any) -> Any:
        return affine(self.act(affine(y, self.W_up, self.b_up)), self.W_down, self.b_down)


@dataclass(frozen=True, eq=False)
class Block:
    """Attention, then MLP, each with or without a skip: the topologies T0, TA, TM, T2 of the book's notation.

    A skip is True (the identity), False (none) or a d x d matrix A (a learned linear skip, x A + ...).
    ``attention_norm`` and ``mlp_norm``: functions applied to what a sublayer reads (pre-norm), with their gains inside.
    ``parallel``: attention and MLP both read x, and their writes are added: [x +] attention(x) + mlp(x); the skip is
    ``attention_skip``. ``cross``: a cross-attention sublayer between the two, with the same kind of skip as attention.

    Raises TypeError at construction for a skip that is a number or None, ValueError for a parallel block with a skip
    around its MLP or with cross-attention: there is no state between its sublayers.
    """

    attention: Attention
    mlp: MLP
    attention_skip: Any = True
    mlp_skip: Any = False
    attention_norm: Callable[[Any], Any] | None = None
    mlp_norm: Callable[[Any], Any] | None = None
    parallel: bool = False
    cross: Attention | None = None

    def __post_init__(self) -> None:
        check_skip("attention_skip", self.attention_skip)
        check_skip("mlp_skip", self.mlp_skip)
        if self.parallel and self.mlp_skip is not False:
            raise ValueError("a parallel block has one skip, attention_skip; leave mlp_skip False")
        if self.parallel and self.cross is not None:
            raise ValueError("a parallel block has no state that cross-attention could read; leave cross None")

    def __call__(self, x: Any, memory: Any = None) -> Any:
        z = self.attention(normed(self.attention_norm, x))
        if self.parallel:
            return past(self.attention_skip, x, z + self.mlp(normed(self.mlp_norm, x)))
        y = past(self.attention_skip, x, z)
        if self.cross is not None:
            y = past(self.attention_skip, y, self.cross(normed(self.attention_norm, y), memory))
        return past(self.mlp_skip, y, self.mlp(normed(self.mlp_norm, y)))


@dataclass(frozen=True, eq=False)
class Network:
    """tokens E (+ P), the blocks in order, then the readout. ``tokens`` is n x v, one row per token (one-hot, or
    any rows).

    ``readout`` None ties it to the embedding: D = E^T. ``norm`` is the norm before the readout, ``readout_bias`` a row
    added after it. ``memory`` is what the cross-attention sublayers read, where there are any.
    """

    embedding: Any
    blocks: Sequence[Block]
    readout: Any = None
    positions: Any = None
    norm: Callable[[Any], Any] | None = None
    readout_bias: Any = None

    def __call__(self, tokens: Any, memory: Any = None) -> Any:
        x = normed(self.norm, self.stream(tokens, memory))
        return affine(x, self.embedding.mT if self.readout is None else self.readout, self.readout_bias)

    def stream(self, tokens: Any, memory: Any = None) -> Any:
        """The hidden state after the last block, before norm and readout."""
        x = tokens @ self.embedding
        if self.positions is not None:
            x = x + self.positions
        for block in self.blocks:
            x = block(x) if memory is None else block(x, memory)
        return x


def past(skip: Any, x: Any, update: Any) -> Any:
    """What leaves a sublayer: its update alone, beside x, or beside x A for a learned skip A."""
    if skip is False:
        return update
    return (x if skip is True else x @ skip) + update


def check_skip(name: str, skip: Any) -> None:
    """Refuse numbers, also those that equal True (1, np.True_): they would pass for no skip, or for a learned one."""
    number = skip is None or isinstance(skip, Number) or getattr(skip, "shape", None) == ()
    if number and not isinstance(skip, bool):
        raise TypeError(f"{name} must be True, False or a d x d matrix, not {skip!r}")


def normed(norm: Callable[[Any], Any] | None, x: Any) -> Any:
    return x if norm is None else norm(x)


def check_read(name: str, x: Any, **weights: Any) -> None:
    """Tokens are a matrix, as wide as the weights that read it are tall. (Words look at their sizes themselves.)"""
    if symbolic(x) or not hasattr(x, "shape"):
        return
    if len(x.shape) != 2:
        raise HypothesisError(
            "matrix",
            f"{name} must be a matrix, tokens x width, not an array of shape {tuple(x.shape)}; "
            "call the sublayer once for each sequence",
        )
    for reader, weight in weights.items():
        if x.shape[1] != weight.shape[0]:
            size = " x ".join(map(str, x.shape))
            raise HypothesisError("shapes agree", f"{name} is {size} but {reader} has {weight.shape[0]} rows")


def affine(x: Any, weight: Any, bias: Any = None) -> Any:
    return x @ weight if bias is None else x @ weight + bias
