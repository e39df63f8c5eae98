"""Slim attention: values rebuilt from cached keys, and what that costs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from qkvtheory import lossless, tying
from qkvtheory.attention import Heads, rational
from qkvtheory.claims.kv_cache.common import CHAPTER, config, counted, layer, one_token, tokens, wrong
from qkvtheory.claims.model import Call, Claim, Control, Hypothesis, Pairs, Source, call
from qkvtheory.count import formulas
from qkvtheory.lanes.counting import macs
from qkvtheory.lanes.settings import Setting, plain_scores, square_keys
from qkvtheory.network import Attention, affine
from qkvtheory.positions import rational_rope, rope
from qkvtheory.published import Model

PAPER = Source("paper", "graef2025slim", note="the rewriting, and its number of operations")
NUMBERS = ("exact", "numeric")


@dataclass(frozen=True, eq=False)
class Fixed:
    """A core for one number of tokens, where the sublayers of the cache expect one for any."""

    core: Any
    heads: int = 1
    kv_heads: int = 1

    def at(self, n: int, last: int | None = None) -> Any:
        return self.core


# -- slim-exact --------------------------------------------------------------------------------------------------------


def separate(w: Any, biases: bool = False, **given: Any) -> tying.Separate:
    """A sublayer with three projections of full width in this world; W_K is invertible by H2."""
    given.setdefault("W_K", w.invertible("W_K", "d", "H2"))
    a: Attention = w.attention(square=True, biases=biases, **given)
    core = Fixed(a.core, a.core.heads, a.core.kv_heads) if isinstance(a.core, Heads) else Fixed(a.core)
    weights = {name: value for name, value in vars(a).items() if name != "core"}
    return tying.Separate(core=cast(Any, core), **weights)


def same_sublayer(w: Any, old: tying.Separate) -> tuple[Call, Call]:
    x = w.matrix("X", "n", "d")
    return call(lossless.slim(old).attention(len_of(w)), x), call(old.attention(len_of(w)), x)


def len_of(w: Any) -> int:
    return w.sizes["n"] if hasattr(w, "sizes") else 1


def values_rebuilt(w: Any, old: tying.Separate) -> tuple[Any, Any]:
    """(V from the cached keys, V from the stream)."""
    x = w.matrix("X", "n", "d")
    W, b = lossless.values_from_keys(old.attention(len_of(w)))
    return affine(affine(x, old.W_K, old.b_K), W, b), affine(x, old.W_V, old.b_V)


def rebuilt(w: Any) -> Pairs:
    old = separate(w)
    return [values_rebuilt(w, old), same_sublayer(w, old)]


def rebuilt_with_biases(w: Any) -> Pairs:
    """Biases on keys and values, on either alone; and where numbers run, decoding from a cache."""
    both = separate(w, biases=True)
    pairs = [same_sublayer(w, both)]
    pairs += [values_rebuilt(w, old) for old in (both, replace(both, b_V=None), replace(both, b_K=None))]
    if w.lane not in NUMBERS:
        return pairs
    return [*pairs, *in_another_order(w), *(decoded(w) if plain_scores(w.setting) else ())]


def in_another_order(w: Any) -> Pairs:
    """What decoding does: each head sums keys of full width, and W_K^-1 W_V comes after the sum. Also for a pattern
    whose rows do not sum to one.
    """
    old, x = separate(w, biases=True), w.matrix("X", "n", "d")
    slim, core = lossless.slim(old), old.core.at(len_of(w))
    unnormalized = Heads(w.setting.heads, scale=1, pattern=lambda scores, keep: scores * scores)
    return [
        (slim.mixed(by, slim.queries(x), slim.stored(x)), by(old.queries(x), *old.stored(x)))
        for by in (core, unnormalized)
    ]


def decoded(w: Any) -> Pairs:
    """Under a causal mask: token by token from a cache of keys, against all tokens at once with the three projections."""
    old, x = separate(w, biases=True), w.matrix("X", "n", "d")
    exact: dict[str, Any] = {"pattern": rational, "scale": 1} if w.lane == "exact" else {}
    old = replace(old, core=tying.CausalHeads(w.setting.heads, **exact))
    slim, rows, cache = lossless.slim(old), [], ()
    for row in x:
        y, cache = slim.decode(row[None], cache)
        rows.append(y)
    return [(np.concatenate(rows), old.attention(len_of(w))(x))]


def wrong_values(w: Any, W: Any, biases: bool = False, **given: Any) -> Pairs:
    """Values from keys by another matrix."""
    old, x = separate(w, biases, **given), w.matrix("X", "n", "d")
    return [(affine(x, old.W_K, old.b_K) @ W(old), affine(x, old.W_V, old.b_V))]


def generalized_inverse(w: Any) -> Pairs:
    W_K, back = w.singular("W_K", "d")
    return wrong_values(w, lambda old: back @ old.W_V, W_K=W_K)


def singular_refused(w: Any) -> Pairs:
    W_K, _ = w.singular("W_K", "d")
    old = separate(w, W_K=W_K)
    return [same_sublayer(w, old)]


def grouped_layer(w: Any) -> tying.Separate:
    """One key head for all query heads: keys and values are a head wide."""
    core: Any = replace(w.setting.core(groups=1))
    given = {"W_K": w.matrix("W_K", "d", "h"), "W_V": w.matrix("W_V", "d", "h")}
    return tying.Separate(
        core=cast(Any, Fixed(core, core.heads, 1)),
        W_Q=w.matrix("W_Q", "d", "d"),
        W_O=w.matrix("W_O", "d", "d"),
        **given,
    )


def grouped_refused(w: Any) -> Pairs:
    return [same_sublayer(w, grouped_layer(w))]


def narrow_refused(w: Any) -> Pairs:
    """Keys that are narrower than the stream."""
    a = w.attention(core=w.function("g", "o"), W_K=w.matrix("W_K", "d", "h"))
    W, _ = lossless.values_from_keys(a)
    return [(a.W_K @ W, a.W_V)]


def narrow_solved(w: Any) -> Pairs:
    """The best that can be done with narrow keys: no matrix turns them into the values."""
    old, x = grouped_layer(w), w.matrix("X", "n", "d")
    keys, values = old.stored(x)
    return [(keys @ np.linalg.lstsq(keys, values, rcond=None)[0], values)]


def rotated(w: Any, z: Any) -> Any:
    """All heads of the keys, turned by their positions."""
    heads, (n, d) = w.setting.heads, z.shape
    turn = rope(n, d // heads) if w.lane == "numeric" else rational_rope(n, d // heads // 2)
    return turn(z.reshape(n, heads, -1).swapaxes(0, 1)).swapaxes(0, 1).reshape(n, d)


def rotated_keys(w: Any) -> Pairs:
    """Keys cached after their rotation, and values rebuilt from these."""
    old, x = separate(w), w.matrix("X", "n", "d")
    W, b = lossless.values_from_keys(old.attention(len_of(w)))
    keys, values = old.stored(x)
    return [(affine(rotated(w, keys), W, b), values)]


def biases_forgotten(w: Any) -> Pairs:
    """W_K^-1 W_V and b_V, as if the keys had no bias."""
    old, x = separate(w, biases=True), w.matrix("X", "n", "d")
    W, _ = lossless.values_from_keys(old.attention(len_of(w)))
    return [(affine(affine(x, old.W_K, old.b_K), W, old.b_V), affine(x, old.W_V, old.b_V))]


def wrong_side(w: Any) -> Pairs:
    return wrong_values(w, lambda old: old.W_V @ old.W_K)


def heads_of_width_two(s: Setting) -> bool:
    return square_keys(s) and s.d // s.heads >= 2


SLIM_EXACT = Claim(
    id="slim-exact",
    rank="remark",
    chapter=CHAPTER,
    title="Keys are enough, in exact arithmetic",
    statement=(
        "With a square, invertible $W_K$ the keys determine the stream, $X=(K-\\mathbf 1b_K)W_K^{-1}$, so the values need not be cached: "
        "$V=KW+\\mathbf 1(b_V-b_KW)$ with $W=W_K^{-1}W_V$. A cache of keys alone gives the same attention with half of the bytes, for any "
        "mask, pattern and positions; with RoPE the cache holds the keys before their rotation. The QKV models of the three-projections "
        "paper have this shape; that their $W_K$ are invertible is not known to us."
    ),
    hypotheses=(
        Hypothesis("H1", "multi-head attention", "there is a key head for each query head, and $W_K$ is square"),
        Hypothesis("H2", "invertible", "$W_K$ is invertible"),
        Hypothesis("H3", "raw keys", "the cache holds the keys as $W_K$ made them: not yet rotated, not normalized"),
    ),
    sources=(PAPER, Source("derived", note="biases, and any core")),
    sides=rebuilt,
    also=rebuilt_with_biases,
    settings=square_keys,
    constructions=("slim", "values_from_keys"),
    controls=(
        Control("H1", "keys that are narrower than the stream", narrow_refused, refused="square"),
        Control(
            "H1",
            "asking for it with one key head for all query heads",
            grouped_refused,
            lanes=NUMBERS,
            refused="multi-head attention",
        ),
        Control("H1", "the best fit of values to the keys of one head", narrow_solved, lanes=("numeric",)),
        Control("H2", "a generalized inverse of a singular $W_K$", generalized_inverse),
        Control("H2", "asking for it with a singular $W_K$", singular_refused, refused="invertible"),
        Control("H3", "keys cached after their rotation", rotated_keys, lanes=NUMBERS, settings=heads_of_width_two),
        Control("construction", "the bias of the keys forgotten", biases_forgotten),
        Control("construction", "$W_VW_K$ in the place of $W_K^{-1}W_V$", wrong_side),
    ),
)


# -- slim-op-count -----------------------------------------------------------------------------------------------------

CONTEXTS = (2, 5, 40)  # tokens in the cache, the new one among them


def standard(d: int, n: int) -> int:
    """Operations, two for each multiply-accumulate."""
    return 8 * d**2 + 4 * n * d


def by_keys(d: int, heads: int, n: int) -> int:
    return 8 * d**2 + 2 * n * d * (heads + 1)


def operations_counted(_: Any) -> Pairs:
    pairs: list[Any] = []
    for d, heads in ((8, 4), (8, 2), (12, 3)):
        plain = config(Model("", 1, d, heads, 1, (), vocabulary=1, context=1))
        old, new = layer("QKV", d, heads), layer("slim", d, heads)
        for n in CONTEXTS:
            counts = formulas.decode_macs(plain, "QKV", n), formulas.decode_macs(plain, "slim", n)
            pairs += [(standard(d, n), 2 * one_token(old, n, d)), (by_keys(d, heads, n), 2 * one_token(new, n, d))]
            pairs += [
                (standard(d, n), 2 * (counts[0].projections + counts[0].scores)),
                (by_keys(d, heads, n), 2 * (counts[1].projections + counts[1].scores)),
                (2 * n * d**2 - 2 * d**2, values_first(new, n, d) - standard(d, n)),
            ]
    return pairs


def values_first(slim: tying.Sublayer, n: int, d: int) -> int:
    """Operations when W_K^-1 W_V is applied to every cached key before anything is summed."""
    x = tokens(n, d)
    stored = slim.stored(x)
    keys, W_KV = stored[0], cast(tying.Slim, slim).W_KV
    rebuilding = macs(lambda k: k @ W_KV, keys)
    values = keys @ W_KV
    core = slim.core.at(n, 1)

    def decode(last: Any) -> Any:
        cached = np.concatenate([keys[:-1], slim.stored(last)[0]])
        return core(slim.queries(last), cached, values) @ slim.W_O

    return 2 * (rebuilding + macs(decode, x[-1:]))


def in_the_dear_order(_: Any) -> Pairs:
    """Operations of the dear order, where the formula is for the cheap one."""
    d, heads, n = 8, 4, 40
    return [(by_keys(d, heads, n), values_first(layer("slim", d, heads), n, d))]


def one_head_wide(_: Any) -> Pairs:
    """As if a head summed its own columns of the keys only, as it does with values."""
    return [(standard(8, n), 2 * one_token(layer("slim", 8, 4), n, 8)) for n in CONTEXTS]


SLIM_OP_COUNT = counted(
    operations_counted,
    id="slim-op-count",
    title="What Slim attention pays for its cache",
    statement=(
        "For one new token, with $n$ tokens in the cache, attention does $8d^2+4nd$ operations, and Slim attention $8d^2+2nd(H+1)$: every "
        "head sums keys of full width, $2Hnd$, and $W_K^{-1}W_V$ comes after the sums, $2d^2$. Applied to all cached keys first, it would "
        "cost $2nd^2$ in the place of the new value's $2d^2$."
    ),
    hypotheses=(
        Hypothesis("H1", "sums first", "the heads sum keys, and the sums are multiplied by $W_K^{-1}W_V$"),
        Hypothesis("H2", "full width", "every head sums all $d$ columns of the keys"),
    ),
    sources=(PAPER, Source("derived", note="counted in a run")),
    uses=("slim-exact",),
    controls=(
        wrong("H1", "$W_K^{-1}W_V$ applied to all cached keys first", in_the_dear_order),
        wrong("H2", "the keys summed a head's width at a time, as values are", one_head_wide),
    ),
)
