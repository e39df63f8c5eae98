"""Layers that several test files use."""

from __future__ import annotations

import numpy as np

from qkvtheory import MLP, Attention, Block, Heads


def block(rng: np.random.Generator, d: int = 4, **topology: bool) -> Block:
    """A block of width d with biases; a skip around attention only, unless ``topology`` says otherwise."""
    a = Attention(Heads(2), *(rng.normal(size=(d, d)) for _ in range(4)), b_O=rng.normal(size=(1, d)))
    mlp = MLP(
        np.tanh, rng.normal(size=(d, 6)), rng.normal(size=(6, d)), rng.normal(size=(1, 6)), rng.normal(size=(1, d))
    )
    return Block(a, mlp, **topology)
