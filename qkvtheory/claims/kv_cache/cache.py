"""What the cache keeps of a token, in every variant: counted in caches that decoding really filled."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from qkvtheory import lossless, tying
from qkvtheory.claims.kv_cache.common import TABLES, config, counted, kept, layer, meets, wrong
from qkvtheory.claims.model import Hypothesis, Pairs, Source
from qkvtheory.count import formulas
from qkvtheory.errors import HypothesisError
from qkvtheory.positions import rope
from qkvtheory.published import LANGUAGE, Model, interval
from qkvtheory.variants import parse

HEAD = 4  # the head width d_h of the layers that are built
SHAPES = ((16, 4), (32, 8))  # heads and groups of the tables
GROUPED = Source("paper", "ainslie2023gqa", note="grouped heads")
ONE_HEAD = Source("paper", "shazeer2019mqa", note="one key head")


def numbers(variant: str, heads: int, d_h: int = HEAD) -> int:
    """The formula of the statement: numbers for each token and layer."""
    v = parse(variant)
    shared = (v.groups or heads) * d_h
    both = {"QKV": 2, "Q=K-V": 2, "Q-K=V": 1, "Q=K=V": 1, "slim": 1}
    return 4 * d_h + d_h // 2 if v.kind == "MLA" else both[v.kind] * shared


def measured(variant: str, heads: int, **options: Any) -> Fraction:
    return kept(layer(variant, heads * HEAD, heads, **options), heads * HEAD)


def shape(heads: int) -> Model:
    return Model("", 1, heads * HEAD, heads, 1, (), vocabulary=1, context=1)


def saving(variant: str, heads: int) -> Fraction:
    """The part of the cache that is saved, against three projections of all heads."""
    return 1 - measured(variant, heads) / measured("QKV", heads)


# -- kv-cache-formula --------------------------------------------------------------------------------------------------


def caches_counted(_: Any) -> Pairs:
    pairs: list[Any] = []
    for H, g in SHAPES:
        names = ("QKV", "Q=K-V", "Q-K=V", "Q=K=V", "MLA", "MQA", "Q-MQA", f"GQA-{g}", f"Q-GQA-{g}")
        for name in names:
            found = measured(name, H)
            pairs += [(numbers(name, H), found), (formulas.cache_per_token(config(shape(H)), name), found)]
        share = Fraction(g, H)
        reductions = {
            f"GQA-{g}": 1 - share,
            "MQA": 1 - Fraction(1, H),
            f"Q-GQA-{g}": 1 - share / 2,
            "Q-MQA": 1 - Fraction(1, 2 * H),
        }
        pairs += [(part, saving(name, H)) for name, part in reductions.items()]
    with_positions = measured("Q-K=V", 4, rotate=lambda n: rope(n, HEAD))
    return [*pairs, (numbers("slim", 4), measured("slim", 4)), (numbers("Q-K=V", 4), with_positions), *as_printed()]


def as_printed() -> Pairs:
    """The savings printed in the 300M table."""
    model = LANGUAGE["300M"]
    parts = [(formulas.saved(config(model), row.variant), row.saved) for row in model.rows if row.saved]
    return [(True, meets((part, part), interval(text))) for part, text in parts]


def queries_shared(_: Any) -> Pairs:
    """Queries equal to keys, as if a token then left one array in the cache."""
    return [(H * HEAD, measured("Q=K-V", H)) for H, _ in SHAPES]


@dataclass(frozen=True, eq=False, kw_only=True)
class BothWritten(tying.KeysAreValues):
    """Keys equal to values, with a cache that is written as usual: an entry for keys and an entry for values."""

    def stored(self, x: Any) -> tuple[Any, ...]:
        return 2 * super().stored(x)

    def recalled(self, stored: tuple[Any, ...]) -> tuple[Any, Any]:
        return stored[0], stored[1]


def both_written(_: Any) -> Pairs:
    tied = layer("Q-K=V")
    layer_as_usual = BothWritten(**vars(tied))
    d = tied.W_O.shape[0]
    return [(Fraction(d), kept(layer_as_usual, d))]


KV_CACHE = counted(
    caches_counted,
    id="kv-cache-formula",
    title="What the cache keeps of a token",
    statement=(
        "Numbers in the cache for each token and layer: $2d$ for QKV and for Q=K-V, $2gd_h$ for GQA, $2d_h$ for MQA; $d$ for Q-K=V and for "
        "Q=K=V, $gd_h$ for Q-K=V with GQA, $d_h$ with MQA; $d_c+d_R$ for MLA; $d$ for Slim attention. So GQA saves $1-g/H$ of the cache, "
        "MQA $1-1/H$; with keys equal to values GQA saves $1-g/2H$ and MQA $1-1/2H$. Queries equal to keys save nothing: queries are "
        "never cached."
    ),
    hypotheses=(
        Hypothesis(
            "H1", "what later tokens need", "the cache keeps what later tokens read: keys and values, never queries"
        ),
        Hypothesis("H2", "stored once", "an array that is both keys and values is written once, before any rotation"),
    ),
    sources=(TABLES, GROUPED, ONE_HEAD, Source("derived", note="counted in the arrays of real caches")),
    controls=(
        wrong("H1", "queries equal to keys, as if that halved the cache", queries_shared),
        wrong(
            "H2",
            "keys equal to values, written twice, as a common implementation does (`attention_k_eq_v` of Gemma 4)",
            both_written,
        ),
    ),
)


# -- cache-composition -------------------------------------------------------------------------------------------------


def factor(variant: str, heads: int) -> Fraction:
    return 1 - saving(variant, heads)


def factors_multiply(_: Any) -> Pairs:
    pairs: list[Any] = []
    for H, groups in ((4, (1, 2)), (16, (1, 4)), (6, (3,))):
        for g in groups:
            tied, grouped = factor("Q-K=V", H), factor(f"GQA-{g}", H)
            pairs += [(Fraction(1, 2), tied), (Fraction(g, H), grouped), (tied * grouped, factor(f"Q-GQA-{g}", H))]
    return pairs


def queries_with_groups(_: Any) -> Pairs:
    """Sharing queries with keys in the place of keys with values."""
    return [(Fraction(1, 2), factor("Q=K-V", H)) for H in (4, 16)]


def slim_with_groups(_: Any) -> Pairs:
    """The cache of grouped heads after Slim attention has been asked for: where that is refused, the one it had."""
    grouped = layer("GQA-2")
    d, heads = grouped.W_O.shape[0], grouped.core.heads
    try:
        slim: tying.Sublayer = lossless.slim(grouped)  # type: ignore[arg-type]
    except HypothesisError as refusal:
        if refusal.hypothesis != "multi-head attention":
            raise
        slim = grouped
    return [(Fraction(2, 2 * heads), kept(slim, d) / kept(layer("QKV"), d))]


CACHE_COMPOSITION = counted(
    factors_multiply,
    id="cache-composition",
    title="Tying and grouping multiply",
    statement=(
        "Tying keys with values halves the cache, and $g$ groups in the place of $H$ heads leave $g/H$ of it; both together leave $g/2H$. "
        "One says which projections there are, the other how many heads they have."
    ),
    hypotheses=(
        Hypothesis("H1", "keys with values", "the projections that are tied are those of the keys and of the values"),
        Hypothesis(
            "H2", "one array", "keys and values are one array, whatever its width: not rebuilt from one another"
        ),
    ),
    sources=(TABLES, Source("derived", note="the control with Slim attention")),
    uses=("kv-cache-formula",),
    controls=(
        wrong("H1", "queries tied with keys", queries_with_groups),
        wrong("H2", "Slim attention on grouped heads, whose narrow keys do not determine the values", slim_with_groups),
    ),
)
