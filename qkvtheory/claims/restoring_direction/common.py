"""What the claims of this chapter share: corrections drawn at random, and the heads they act in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np

from qkvtheory import positions
from qkvtheory.attention import Heads, base_two, rational, softmax
from qkvtheory.claims.model import Source
from qkvtheory.claims.queries_equal_keys.common import keys, shared_core
from qkvtheory.lanes.settings import Setting

CHAPTER = "restoring-direction"
CORRECTED = Source("paper", "kayyam2026three", note="the variants $(\\cdot)^+$ and their 2D positions")
BORJI = Source("paper", "borji2023kv", note="2D positions added to the score map")
SEPARABLE = "every channel of the table depends on the row $i$ only or on the column $j$ only, as in the published one"
CHANNELS = 4


def drawn(w: Any, name: str, *shape: int) -> Any:
    """An array of any shape: small whole numbers where arithmetic is exact, normal floats of that size elsewhere."""
    if w.lane == "numeric":
        return w.rng(name).normal(size=shape) / 2
    return np.frompyfunc(lambda x: w.number(int(x)), 1, 1)(w.rng(name).integers(-2, 3, shape))


def separable_table(w: Any, n: int) -> Any:
    """Half of the channels on the rows and half on the columns: the published sinusoids, or whole numbers."""
    if w.lane == "numeric":
        return positions.separable_channels(n, CHANNELS)
    half, shape = CHANNELS // 2, (n, n, CHANNELS // 2)
    rows, columns = drawn(w, "rows", n, 1, half), drawn(w, "columns", 1, n, half)
    return np.concatenate([np.broadcast_to(part, shape) for part in (rows, columns)], axis=-1)


def relative_table(w: Any, n: int) -> Any:
    """Every channel depends on the distance: the sinusoids of the package, or the cube of it and a square."""
    if w.lane == "numeric":
        return positions.relative_channels(n, CHANNELS)
    t = np.arange(n)[None, :] - np.arange(n)[:, None]
    return np.stack([t**3, t**2] * (CHANNELS // 2), axis=-1) * w.identity("1")[0, 0]


def correction(w: Any, table: Any, temperature: Any = None) -> positions.Correction:
    """Random weights and bias on this table; the first weight is chosen if the temperature is given."""
    weights, bias = drawn(w, "weights", table.shape[-1]), drawn(w, "bias", 1)[0]
    if temperature is not None:
        weights = np.concatenate([[temperature - weights[1:].sum()], weights[1:]])
    return positions.Correction(table, weights, bias)


def separable(w: Any, temperature: Any = None, n: int | None = None) -> positions.Correction:
    return correction(w, separable_table(w, n or w.sizes["n"]), temperature)


def relative_too(w: Any, n: int | None = None) -> positions.Correction:
    """Separable channels and channels of the distance."""
    n = n or w.sizes["n"]
    return correction(w, np.concatenate([separable_table(w, n), relative_table(w, n)], axis=-1))


def heads_of(w: Any) -> tuple[Heads, Any, Any]:
    """(core, queries, keys): the setting's own heads, with their masks, positions, groups and biases."""
    a, x = w.attention(), w.matrix("X", "n", "d")
    q, k = (x @ W if b is None else x @ W + b for W, b in ((a.W_Q, a.b_Q), (a.W_K, a.b_K)))
    return cast(Heads, a.core), q, k


def one_exact_head(**changes: Any) -> Heads:
    """Powers of two of whole scores: a true exponential without rounding."""
    return Heads(1, scale=1, pattern=base_two, **changes)


def softmax_heads(w: Any) -> tuple[Heads, Any, Any]:
    """The setting's heads; where arithmetic is exact, one head that writes powers of two."""
    if w.lane == "numeric":
        return heads_of(w)
    return one_exact_head(mask=w.core().mask), keys(w, "W_Q"), keys(w, "W_K")


def symmetric_heads(w: Any) -> tuple[Heads, Any]:
    """The same with queries equal to keys."""
    return shared_core(w) if w.lane == "numeric" else (one_exact_head(), keys(w))


def corrected(core: Heads, by: positions.Correction) -> Heads:
    return replace(core, correction=by)


def uncapped(s: Setting) -> bool:
    return "softcap" not in s.features(s)


def softmax_of_scores(s: Setting) -> bool:
    """The corrected scores go to a softmax as they are (in exact arithmetic to powers of two)."""
    return uncapped(s) and s.features(s).get("pattern", softmax) in (softmax, rational)
