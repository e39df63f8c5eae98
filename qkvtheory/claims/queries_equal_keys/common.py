"""What the claims of this chapter share: keys, positive weights, their maps, and the settings with symmetric scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from qkvtheory import gauge
from qkvtheory.attention import Heads, base_two, rational, softmax
from qkvtheory.claims.model import Source
from qkvtheory.lanes.settings import Setting, square_keys

CHAPTER = "queries-equal-keys"
OURS = Source("derived")
CLASSICAL = Source("derived", note="classical for Markov chains; for attention the wording is ours")


def keys(w: Any, name: str = "W") -> Any:
    """K = X W: what queries and keys both are."""
    return w.integers("X", "n", "d") @ w.integers(name, "d", "h")


def queries_and_keys(w: Any) -> tuple[Any, Any]:
    """Two projections: what every control with separate queries starts from."""
    return keys(w, "W_Q"), keys(w, "W_K")


def normalized(w: Any, weights: Any, positive: str = "row-stochastic") -> tuple[Any, Any]:
    """(D, A) with D = diag(E 1) and A = D^-1 E, for weights E that are positive because of the claim or hypothesis named."""
    D = w.diagonal(weights @ w.ones("n"), positive)
    return D, gauge.inverse(D) @ weights


def map_of(scores: Any, keep: Any = None) -> Any:
    """The map of a square matrix of scores: powers of two where arithmetic is exact, softmax in floats."""
    return (base_two if scores.dtype == object else softmax)(scores, keep)


def random_map(w: Any, name: str = "S") -> Any:
    """The map of random scores, without any symmetry."""
    return map_of(w.integers(name, "n", "n"))


def in_words(w: Any) -> bool:
    """Words, or their re-evaluation: a control may need another form where nothing is a number."""
    return w.lane in ("symbolic", "re-evaluation")


def flag(w: Any, holds: Any) -> Any:
    """1 or 0 as a 1 x 1 matrix: a verdict as one side of an equation."""
    return w.identity("1") * int(bool(holds))


def number(w: Any, value: Any) -> Any:
    """A number as a 1 x 1 matrix."""
    return w.identity("1") * value


def symmetric_table(table: Any) -> bool:
    return table is None or bool((table == table.swapaxes(-1, -2)).all())


def symmetric_features(s: Setting) -> Mapping[str, Any] | None:
    """The features of a setting whose scores and mask are symmetric once queries are keys; None for the others."""
    features = s.features(s)
    tables = symmetric_table(features.get("bias")) and symmetric_table(features.get("mask"))
    plain = features.get("pattern", softmax) in (softmax, rational) and "norm_k" not in features
    return features if square_keys(s) and tables and plain else None


def symmetric_core(s: Setting) -> bool:
    return symmetric_features(s) is not None


def full_map(s: Setting) -> bool:
    """Symmetric, and no mask at all."""
    features = symmetric_features(s)
    return features is not None and "mask" not in features


def gram_scores(s: Setting) -> bool:
    """The scores are a Gram matrix: no mask, no bias, no cap; RoPE is allowed."""
    return full_map(s) and not set(s.features(s)) & {"bias", "softcap"}


def shared_core(w: Any) -> tuple[Heads, Any]:
    """The setting's own heads, and keys for all of them."""
    a = w.attention()
    k = w.matrix("X", "n", "d") @ a.W_K
    return cast(Heads, a.core), k if a.b_K is None else k + a.b_K


def real_maps(w: Any) -> Any:
    """The maps of the setting's heads when queries are keys: (heads, n, n)."""
    core, k = shared_core(w)
    return core.maps(k, k)
