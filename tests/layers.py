"""Layers, ill-conditioned matrices and the error between results, for several test files."""

from __future__ import annotations

import numpy as np

from qkvtheory import MLP, Attention, Block, Heads

EPS = np.finfo(np.float64).eps
SLACK = 256


def conditioned(rng: np.random.Generator, d: int, cond: float) -> np.ndarray:
    u, _, v = np.linalg.svd(rng.normal(size=(d, d)))
    return (u * np.logspace(0, -np.log10(cond), d)) @ v


def error(left: np.ndarray, right: np.ndarray) -> float:
    return float(np.abs(left - right).max() / np.abs(right).max())


def block(rng: np.random.Generator, d: int = 4, **topology: bool) -> Block:
    """A block of width d with biases; a skip around attention only, unless ``topology`` says otherwise."""
    a = Attention(Heads(2), *(rng.normal(size=(d, d)) for _ in range(4)), b_O=rng.normal(size=(1, d)))
    mlp = MLP(
        np.tanh, rng.normal(size=(d, 6)), rng.normal(size=(6, d)), rng.normal(size=(1, 6)), rng.normal(size=(1, d))
    )
    return Block(a, mlp, **topology)
