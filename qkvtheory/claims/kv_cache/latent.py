"""The caches of latent attention and of half-tied attention."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np

from qkvtheory.attention import Heads
from qkvtheory.claims.kv_cache.common import counted, kept, layer, printed_so, tokens, wrong
from qkvtheory.claims.model import Hypothesis, Pairs, Source
from qkvtheory.count import formulas
from qkvtheory.count.presets import preset
from qkvtheory.lanes.counting import macs
from qkvtheory.published import DEEPSEEK_SAVED, GTA, exact
from qkvtheory.tying import cache_bytes

DEEPSEEK = Source("paper", "deepseek2024v2", note="latent attention, its usual sizes, and the printed saving")
HARDWARE = Source("paper", "zadouri2025gta", note="half tying, the bytes, and the perplexities")
WIDE = ((8, 2), (16, 4), (24, 6))  # widths and heads: d_h = 4


# -- mla-cache ---------------------------------------------------------------------------------------------------------

IN_HEADS = Fraction(9, 2)  # head widths that the cache of latent attention keeps


def latents_counted(_: Any) -> Pairs:
    """Built layers; then DeepSeek-V2, as its configuration says, beside heads of the same shape."""
    pairs: list[Any] = [(IN_HEADS * (d // H), kept(layer("MLA", d, H), d)) for d, H in WIDE]
    groups = IN_HEADS / 2  # whose keys and values are as many numbers
    pairs += [(groups * kept(layer("MQA", d, H), d), kept(layer("MLA", d, H), d)) for d, H in WIDE]
    model = preset("deepseek-v2")
    numbers, whole = formulas.cache_per_token(model), formulas.cache_per_token(model, "MHA")
    assert model.mla is not None
    return [
        *pairs,
        (model.mla.latent + model.mla.rotary, numbers),
        (IN_HEADS * model.mla.key, numbers),
        (2 * model.heads * model.mla.key, whole),
        (True, printed_so(1 - Fraction(numbers, whole), SAME_SHAPE)),
    ]


SAME_SHAPE = "98.24%"


def without_rotary(_: Any) -> Pairs:
    """A layer without the rotary key, as if it were the one that is published."""
    made: Any = layer("MLA", *WIDE[1])
    d = made.W_O.shape[1]
    bare = replace(made, W_Q=np.ones((d, made.W_UK.shape[1])), W_R=None, core=replace(made.core, rotate=None))
    return [(IN_HEADS * (made.W_UK.shape[1] // made.core.heads), kept(bare, d))]


def printed_as_same_shape(_: Any) -> Pairs:
    """The printed saving, taken for one against heads of the same shape."""
    model = preset("deepseek-v2")
    share = Fraction(formulas.cache_per_token(model), formulas.cache_per_token(model, "MHA"))
    return [(True, printed_so(1 - share, DEEPSEEK_SAVED))]


MLA_CACHE = counted(
    latents_counted,
    id="mla-cache",
    title="The cache of latent attention",
    statement=(
        "MLA with a latent of $d_c=4d_h$ and a rotary key of $d_R=d_h/2$ keeps $4.5\\,d_h$ numbers for each token and layer, as many as GQA "
        f"with 2.25 groups. DeepSeek-V2 saves {SAME_SHAPE} of the cache of multi-head attention of its own shape; the "
        f"{DEEPSEEK_SAVED} that are printed compare it with an earlier model of another shape."
    ),
    hypotheses=(
        Hypothesis("H1", "the usual sizes", "$d_c=4d_h$ and $d_R=d_h/2$, both cached"),
        Hypothesis("H2", "one shape", "the comparison is with multi-head attention that has the same heads"),
    ),
    sources=(DEEPSEEK, Source("derived", note="2.25 groups, and the comparison within one shape")),
    uses=("mla-is-kv-on-latent",),
    controls=(
        wrong("H1", "the rotary key forgotten", without_rotary),
        wrong("H2", "the printed saving, which is against another model", printed_as_same_shape),
    ),
)


# -- gta-cache ---------------------------------------------------------------------------------------------------------


def formula(tied: bool, tokens_: int, heads: int, per_group: int, d_h: int, size: int = 8) -> int:
    """m_kv times tokens, groups, head width and bytes for a number."""
    return (1 if tied else 2) * tokens_ * (heads // per_group) * d_h * size


def filled(variant: str, heads: int, d_h: int, n: int) -> int:
    """Bytes in the cache after n tokens."""
    _, cache = layer(variant, heads * d_h, heads).decode(tokens(n, heads * d_h))
    return cache_bytes(cache)


def half_tied_counted(_: Any) -> Pairs:
    pairs: list[Any] = []
    for H, r, d_h, n in ((4, 2, 4, 3), (8, 2, 4, 5), (8, 8, 6, 2)):
        g = H // r
        rotary = n * (d_h // 2) * 8
        pairs += [(formula(True, n, H, r, d_h) + rotary, filled(f"GTA-{g}", H, d_h, n))]
        pairs += [(formula(False, n, H, r, d_h), filled(f"GQA-{g}", H, d_h, n))]
        pairs += [
            (Fraction(2 * r, 2), intensity(f"GQA-{g}", H, d_h)),
            (tied_intensity(g, r), intensity(f"GTA-{g}", H, d_h)),
        ]
    return [*pairs, *better_than_all_heads(), *better_than_groups(sorted(GTA, key=size_in_millions)[1:])]


def intensity(variant: str, heads: int, d_h: int, n: int = 7) -> Fraction:
    """Operations on the cache for one new token, by the bytes of a cache of two-byte numbers."""
    core: Any = Heads(heads, parse_groups(variant))
    made, x = layer(variant, heads * d_h, heads), tokens(n, heads * d_h)
    stored = made.stored(x)
    keys, values = made.recalled(stored)
    products = macs(lambda q: core(q, keys, values), made.queries(x[-1:]))
    return Fraction(2 * products, 2 * sum(a.size for a in stored))


def parse_groups(variant: str) -> int:
    return int(variant.rpartition("-")[2])


def tied_intensity(g: int, r: int) -> Fraction:
    """2r for the tied numbers alone; the rotary half-head, half of one of g + 1/2 heads, is read as well."""
    return Fraction(2 * r * 2 * g, 2 * g + 1)


def better_than_all_heads() -> Pairs:
    """Half tying has less perplexity than three projections of all heads, at every size."""
    return [(True, exact(tied) < exact(every)) for tied, _, every in GTA.values()]


def better_than_groups(sizes: Iterable[str]) -> Pairs:
    """Half tying has less perplexity than grouped heads at these sizes."""
    return [(True, exact(GTA[size][0]) < exact(GTA[size][1])) for size in sizes]


def size_in_millions(name: str) -> Fraction:
    return Fraction(name[:-1]) * (1000 if name.endswith("B") else 1)


def rotary_forgotten(_: Any) -> Pairs:
    return [(formula(True, 3, 4, 2, 4), filled("GTA-2", 4, 4, 3))]


def counted_as_untied(_: Any) -> Pairs:
    return [(formula(False, 3, 4, 2, 4) + 3 * 2 * 8, filled("GTA-2", 4, 4, 3))]


def always_better(_: Any) -> Pairs:
    """Half tying said to beat grouped heads as well: at the smallest size it does not."""
    return better_than_groups(GTA)


GTA_CACHE = counted(
    half_tied_counted,
    id="gta-cache",
    title="The cache of half-tied attention",
    statement=(
        "GTA keeps $m_{kv}\\,n\\,(H/r)\\,d_h\\,s$ bytes of a text of $n$ tokens in each layer, for $r$ query heads in a group and $s$ bytes "
        "for a number, with $m_{kv}=1$ tied and $m_{kv}=2$ untied; beside them the tied form keeps the rotary key that all heads share, $n\\,(d_h/2)\\,s$. "
        "With two-byte numbers one new token does $2r/m_{kv}$ operations (two for each multiply-accumulate) for each byte that it reads of the cache; the rotary key lowers "
        "that of the tied form to $2r\\cdot 2g/(2g+1)$. In the paper's table GTA-4 has a lower perplexity than all heads untied at each of the four "
        "sizes, and than GQA-4 at the three larger ones."
    ),
    hypotheses=(
        Hypothesis(
            "H1",
            "half tied",
            "the values are the tied array, and the keys take their unrotated half from it: $m_{kv}=1$",
        ),
        Hypothesis(
            "H2",
            "the rotary half",
            "the rotary half of the keys is one array of $d_h/2$ columns for all heads, and is cached",
        ),
        Hypothesis("H3", "as printed", "perplexities are the paper's, one run for each model"),
    ),
    sources=(HARDWARE, Source("derived", note="the rotary key in the number of operations for each byte")),
    uses=("kv-rope",),
    controls=(
        wrong("H1", "$m_{kv}=2$ for the tied form", counted_as_untied),
        wrong("H2", "the rotary half-head forgotten", rotary_forgotten),
        wrong("H3", "said to be better than GQA-4 at every size", always_better),
    ),
)
