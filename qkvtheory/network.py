"""The skeleton of a transformer: which matrix multiplies what, and where the skips are.

The skeleton uses only ``@``, ``+`` and the functions it holds, so the same lines run on floats, on exact numbers and on
words. What is not linear (heads, masks, positions, softmax; the activation) is a value the layers hold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, eq=False)
class Attention:
    """An attention sublayer without skip and norm: core(x W_Q, m W_K, m W_V) W_O, with m = memory, or x itself.

    Shapes: x is n x d, memory n' x d_z, W_Q d x p, W_K and W_V with d (d_z) rows, W_O with d columns; biases are 1 x
    width.
    Definitions 1.2, 1.3, 1.6 and 1.12 of the book's notation.
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

    def __call__(self, x: Any, memory: Any = None) -> Any:
        m = x if memory is None else memory
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
    """Attention, then MLP, each with or without a skip: the topologies T0, TA, TM, T2 of the book's notation."""

    attention: Attention
    mlp: MLP
    attention_skip: bool = True
    mlp_skip: bool = False

    def __call__(self, x: Any) -> Any:
        y = x + self.attention(x) if self.attention_skip else self.attention(x)
        z = self.mlp(y)
        return y + z if self.mlp_skip else z


@dataclass(frozen=True, eq=False)
class Network:
    """tokens E (+ P), the blocks in order, then the readout. ``tokens`` is n x v, one row per token (one-hot, or
    any rows).
    """

    embedding: Any
    blocks: Sequence[Block]
    readout: Any
    positions: Any = None

    def __call__(self, tokens: Any) -> Any:
        x = tokens @ self.embedding
        if self.positions is not None:
            x = x + self.positions
        for block in self.blocks:
            x = block(x)
        return x @ self.readout


def affine(x: Any, weight: Any, bias: Any = None) -> Any:
    return x @ weight if bias is None else x @ weight + bias
