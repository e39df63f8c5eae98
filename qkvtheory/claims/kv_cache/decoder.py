"""A decoder that is really built: every array that it learns, and a run from embedded tokens to scores of words."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from qkvtheory.claims.kv_cache.common import layer
from qkvtheory.network import MLP
from qkvtheory.published import Model
from qkvtheory.tying import Sublayer


@dataclass(frozen=True, eq=False)
class Norm:
    """LayerNorm with gain and bias."""

    gain: Any
    bias: Any

    def __call__(self, x: Any) -> Any:
        centered = x - x.mean(-1, keepdims=True)
        return centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-5) * self.gain + self.bias


@dataclass(frozen=True, eq=False)
class Decoder:
    """Pre-norm, both skips, tied readout, learned positions."""

    embedding: Any
    positions: Any
    layers: tuple[tuple[Norm, Sublayer, Norm, MLP], ...]
    norm: Norm

    def __call__(self, x: Any) -> Any:
        """Scores of the words, (n, v), from embedded tokens."""
        x = x + self.positions[: len(x)]
        for before, attention, between, mlp in self.layers:
            x = x + attention.decode(before(x))[0]
            x = x + mlp(between(x))
        return self.norm(x) @ self.embedding.mT

    def learned(self) -> int:
        """Numbers in all arrays."""
        return sum(a.size for a in (self.embedding, self.positions, *arrays(self.norm))) + sum(
            a.size for parts in self.layers for part in parts for a in arrays(part)
        )


def arrays(part: Any) -> list[Any]:
    if isinstance(part, Sublayer):
        return list(part.weights().values())
    return [a for a in (getattr(part, f.name) for f in fields(part)) if isinstance(a, np.ndarray)]


def decoder(model: Model, variant: str) -> Decoder:
    """The decoder of this shape and variant, with biases and random weights."""
    rng, d, m = np.random.default_rng(2), model.d, model.mlp

    def one_layer() -> tuple[Norm, Sublayer, Norm, MLP]:
        mlp = MLP(np.tanh, *(rng.normal(size=s) for s in ((d, m), (m, d), (1, m), (1, d))))
        return norm(d), layer(variant, d, model.heads, biases=True), norm(d), mlp

    embedding, positions = rng.normal(size=(model.vocabulary, d)), rng.normal(size=(model.context, d))
    return Decoder(embedding, positions, tuple(one_layer() for _ in range(model.layers)), norm(d))


def norm(d: int) -> Norm:
    return Norm(np.ones((1, d)), np.zeros((1, d)))
