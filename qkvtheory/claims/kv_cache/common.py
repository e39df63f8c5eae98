"""What the claims of this chapter share: claims that are counted, layers that are really built, and the printed shapes."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

from qkvtheory import tying
from qkvtheory.claims.model import Claim, Control, Source, Statement
from qkvtheory.count.config import Config
from qkvtheory.lanes.counting import macs
from qkvtheory.positions import rope
from qkvtheory.published import Model, interval

CHAPTER = "kv-cache"
OURS = Source("derived")
TABLES = Source("reported", "kayyam2026three", note="the tables, as printed")
SIZES = (8, 4)  # width and heads of the layers that are built
TOKENS = 6
TINY = Model("tiny", 2, *SIZES, 12, (), vocabulary=10, context=TOKENS)


def counted(sides: Statement, **described: Any) -> Claim:
    """A claim that is counted, and checked nowhere else."""
    lanes: dict[str, Any] = {"lanes": ("count",), "special": {"count": sides}}
    return Claim(rank="remark", chapter=CHAPTER, kind="count", sides=sides, **lanes, **described)


def wrong(hypothesis: str, what: str, sides: Statement) -> Control:
    return Control(hypothesis, what, sides, lanes=("count",))


def layer(variant: str, d: int = SIZES[0], heads: int = SIZES[1], **options: Any) -> tying.Sublayer:
    """A sublayer with random weights; MLA and GTA with their rotary keys, which are half a head wide."""
    if variant == "MLA" or variant.startswith("GTA"):
        options.setdefault("rotate", lambda n: rope(n, d // heads // 2))
    return tying.build(variant, d, heads, rng=np.random.default_rng(0), **options)


def tokens(n: int = TOKENS, d: int = SIZES[0]) -> Any:
    return np.random.default_rng(1).normal(size=(n, d))


def kept(sublayer: tying.Sublayer, d: int, n: int = 3) -> Fraction:
    """Numbers that the cache holds for each token, after n tokens that were decoded one by one."""
    cache: tuple[Any, ...] = ()
    for row in tokens(n, d):
        _, cache = sublayer.decode(row[None], cache)
    return Fraction(tying.cache_bytes(cache), n * cache[0].itemsize)


def one_token(sublayer: tying.Sublayer, n: int, d: int) -> int:
    """Multiply-accumulates for the last of n tokens, when the others are cached."""
    x = tokens(n, d)
    _, cache = sublayer.decode(x[:-1])
    return macs(lambda last: sublayer.decode(last, cache), x[-1:])


def learned(sublayer: tying.Sublayer) -> int:
    """Numbers that a sublayer learns."""
    return sum(array.size for array in sublayer.weights().values())


def config(model: Model) -> Config:
    """A printed shape, as the formulas take it: biases everywhere, learned positions, a tied readout."""
    return Config(
        layers=model.layers,
        width=model.d,
        heads=model.heads,
        groups=model.heads,
        head_width=model.d // model.heads,
        hidden=model.mlp,
        vocabulary=model.vocabulary,
        positions=model.context,
        context=model.context,
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
    )


def printed_so(number: Fraction | float, text: str) -> bool:
    """Does the number round to what is printed?"""
    low, high = interval(text)
    return low <= number <= high


def meets(one: tuple[Any, Any], other: tuple[Any, Any]) -> bool:
    """Have two intervals a number in common?"""
    return max(one[0], other[0]) <= min(one[1], other[1])
