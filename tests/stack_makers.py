"""Networks of every topology and the weights they are made of, for the test files about stacks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from qkvtheory import MLP, Attention, Block, Heads, Network
from tests.layers import conditioned

D, TOKENS, VOCABULARY, COND = 8, 5, 7, 10.0
T0, TA, TM, T2 = (False, False), (True, False), (False, True), (True, True)
TOPOLOGIES = {"no skips": T0, "around attention": TA, "around the MLP": TM, "both": T2}
FLAT = np.diag([1.0] * (D - 1) + [0.0])


def matrix(rng: np.random.Generator, rows: int = D, cols: int = D) -> np.ndarray:
    return rng.normal(size=(rows, cols)) / np.sqrt(rows)


def basis(rng: np.random.Generator) -> np.ndarray:
    return conditioned(rng, D, COND)


def block(rng: np.random.Generator, topology: tuple[Any, Any] = TA, heads: Any = None, **options: Any) -> Block:
    """A block with all biases and well-conditioned W_Q, W_K, W_V."""
    biases = {f"b_{name}": rng.normal(size=(1, D)) for name in "QKVO"}
    attention = Attention(heads or Heads(2), basis(rng), basis(rng), basis(rng), matrix(rng), **biases)
    mlp = MLP(np.tanh, matrix(rng, D, 11), matrix(rng, 11, D), rng.normal(size=(1, 11)), rng.normal(size=(1, D)))
    return Block(attention, mlp, *topology, **options)


def network(rng: np.random.Generator, *topologies: tuple[Any, Any], tied: bool = False, **options: Any) -> Network:
    """One block for each topology."""
    readout = None if tied else matrix(rng, D, 3)
    blocks = [block(rng, topology, **options) for topology in topologies]
    return Network(matrix(rng, VOCABULARY, D), blocks, readout, matrix(rng, TOKENS, D))


def tokens(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(TOKENS, VOCABULARY))


def is_identity(weight: np.ndarray) -> bool:
    return bool((weight == np.eye(len(weight))).all())


def decoder(rng: np.random.Generator, topology: tuple[Any, Any] = TA, **options: Any) -> Network:
    """Two blocks with cross-attention to a memory that is wider than the stream."""
    wide = {name: matrix(rng, D + 3) for name in ("W_K", "W_V")}
    blocks = [block(rng, topology, cross=replace(block(rng).attention, **wide), **options) for _ in range(2)]
    return replace(network(rng), blocks=blocks)


def with_block(net: Network, **changes: Any) -> Network:
    return replace(net, blocks=[replace(net.blocks[0], **changes), *net.blocks[1:]])


def with_attention(net: Network, **changes: Any) -> Network:
    return with_block(net, attention=replace(net.blocks[0].attention, **changes))
