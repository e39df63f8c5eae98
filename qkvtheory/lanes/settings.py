"""The models on which a statement is run with numbers: sizes, heads, mask, positions, norms, conditioning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from qkvtheory.attention import Heads, causal, prefix, rational, rms_norm, sliding_window, softmax
from qkvtheory.positions import alibi, rational_rope, relative_bias, rope


def top_k(scores: Any, keep: Any = None, k: int = 2) -> Any:
    """Softmax over the k largest scores of each row: a mask that depends on the scores."""
    return softmax(scores, scores >= np.sort(scores, axis=-1)[..., -k, None])


@dataclass(frozen=True, eq=False)
class Setting:
    """One model: n tokens, width d, query heads, key/value groups; ``features`` are further arguments of ``Heads``."""

    name: str
    heads: int = 4
    groups: int | None = None
    n: int = 5
    d: int = 8
    cond: float = 1e2
    biases: bool = False
    features: Callable[[Setting], Mapping[str, Any]] = lambda s: {}

    @property
    def kv_heads(self) -> int:
        return self.groups or self.heads

    @property
    def sizes(self) -> dict[str, int]:
        """What the symbolic sizes of the statements stand for."""
        width = self.d // self.heads
        return {
            "1": 1,
            "n": self.n,
            "m": self.n + 2,
            "d": self.d,
            "z": self.d + 2,
            "p": self.d,
            "wide": self.d + self.heads,
            "k": self.kv_heads * width,
            "v": self.kv_heads * width,
            "o": self.d,
            "h": width,
            "s": self.d // 2,
            "hidden": self.d + 3,
            "vocab": self.n + 1,
        }

    def core(self, **changes: Any) -> Heads:
        return Heads(**({"heads": self.heads, "groups": self.groups, **self.features(self)} | changes))


def random_mask(s: Setting) -> Any:
    """A different random mask for every head; the diagonal is kept."""
    return (np.random.default_rng(1).random((s.heads, s.n, s.n)) < 0.5) | np.eye(s.n, dtype=bool)


def norms(s: Setting) -> Mapping[str, Any]:
    gains = np.random.default_rng(2).uniform(0.5, 2, (2, s.d // s.heads))
    return {"norm_q": rms_norm(gains[0]), "norm_k": rms_norm(gains[1])}


FLOAT = (
    Setting("multi-head attention"),
    Setting("one wide matrix, cond 1e4", n=7, d=16, cond=1e4),
    Setting("one head", heads=1),
    Setting("grouped keys (GQA)", groups=2),
    Setting("one key head (MQA)", groups=1),
    Setting("biases", biases=True),
    Setting("causal mask", features=lambda s: {"mask": causal(s.n)}),
    Setting("prefix mask", features=lambda s: {"mask": prefix(s.n, 2)}),
    Setting("sliding window", features=lambda s: {"mask": sliding_window(s.n, 3)}),
    Setting("a random mask per head", features=lambda s: {"mask": random_mask(s)}),
    Setting("top-2 attention", features=lambda s: {"pattern": top_k}),
    Setting("RoPE", features=lambda s: {"rotate": rope(s.n, s.d // s.heads)}),
    Setting("partial RoPE, half-split", d=16, features=lambda s: {"rotate": rope(s.n, 4, 100.0, "half", 0.5)}),
    Setting("ALiBi", features=lambda s: {"bias": alibi(s.n, s.heads)}),
    Setting("relative bias", features=lambda s: {"bias": relative_bias(np.linspace(-1, 1, 2 * s.n - 1) ** 3, s.n)}),
    Setting("QK-norm with gains", features=norms),
    Setting("soft-capping", features=lambda s: {"softcap": 1.5}),
    Setting(
        "GQA, causal, RoPE, biases",
        groups=2,
        biases=True,
        features=lambda s: {"mask": causal(s.n), "rotate": rope(s.n, s.d // s.heads)},
    ),
)

small = partial(Setting, heads=2, n=3, d=4)
EXACT = (
    small("multi-head attention", features=lambda s: {"pattern": rational, "scale": 1}),
    small("causal mask", features=lambda s: {"pattern": rational, "scale": 1, "mask": causal(s.n)}),
    small("one key head (MQA)", groups=1, features=lambda s: {"pattern": rational, "scale": 1}),
    small(
        "rotations with rational entries",
        features=lambda s: {"pattern": rational, "scale": 1, "rotate": rational_rope(3, 1)},
    ),
    small("biases", biases=True, features=lambda s: {"pattern": rational, "scale": 1}),
    small(
        "one key head, causal, biases",
        groups=1,
        biases=True,
        features=lambda s: {"pattern": rational, "scale": 1, "mask": causal(s.n)},
    ),
    small("one head", heads=1, d=2, features=lambda s: {"pattern": rational, "scale": 1}),
)


# -- which settings a statement speaks about ---------------------------------------------------------------------------


def any_setting(s: Setting) -> bool:
    return True


def square_keys(s: Setting) -> bool:
    """As many key/value heads as query heads: W_K and W_V are square."""
    return s.kv_heads == s.heads


def grouped(s: Setting) -> bool:
    return s.kv_heads < s.heads


def plain_scores(s: Setting) -> bool:
    """Scores are X M X^T and nothing else: no positions, no norms, no biases, no cap."""
    return square_keys(s) and not s.biases and not set(s.features(s)) - {"mask", "pattern", "scale"}


def without_rotation(s: Setting) -> bool:
    """No RoPE and no norm on keys, and a row pattern that is a softmax."""
    return not set(s.features(s)) & {"rotate", "norm_k", "softcap"} and s.features(s).get("pattern", softmax) is softmax
