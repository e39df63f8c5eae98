"""The published nonlinear query: its size, and the half in its scale."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from qkvtheory import queries
from qkvtheory.attention import rms_norm
from qkvtheory.claims.degrees_of_freedom.common import bare
from qkvtheory.claims.kv_cache.common import printed_so
from qkvtheory.claims.model import AtMost, Claim, Control, Hypothesis, Pairs, Source, call
from qkvtheory.claims.nonlinear_queries.common import (
    CHAPTER,
    CODE,
    NUMBERS,
    PAPER,
    query,
    sublayer,
    wrong,
)
from qkvtheory.claims.where_it_stops.norms import layer_norm, rms
from qkvtheory.count.config import Config
from qkvtheory.count.formulas import parameters
from qkvtheory.lanes.settings import Setting, square_keys
from qkvtheory.published_training import CONTEXT, HEADS, IDENTITY, LAYERS, VOCABULARY

SHAPE, EPS = IDENTITY["original"], 1e-5  # of the model that was trained
WIDTH = SHAPE.d
SMALL = Config(
    layers=LAYERS,
    width=WIDTH,
    heads=HEADS,
    groups=HEADS,
    head_width=SHAPE.head_width,
    hidden=int(SHAPE.mlp * WIDTH),
    vocabulary=VOCABULARY,
    positions=CONTEXT,
    norm="rms",  # a gain and no bias: what its LayerNorms hold
)

# -- nonlinear-query-form ----------------------------------------------------------------------------------------------


def built(d: int, width: int | None = None) -> int:
    """The numbers held by a query that is really made."""
    W_1 = np.zeros((d, width or d // 2))
    q = queries.published_query(np.tanh, W_1, W_1.T, np.ones(d), np.ones(d))
    return sum(array.size for array in (q.W_1, q.W_2, q.inner_norm.gain, q.outer_norm.gain))  # type: ignore[union-attr]


def without_embeddings(config: Config = SMALL) -> int:
    total = parameters(config)
    return total.total - total.embeddings


def more() -> int:
    """Parameters that the published query has more than a square W_Q, in all layers."""
    return LAYERS * (queries.query_parameters(WIDTH) - WIDTH**2)


def sizes_counted(_: Any) -> Pairs:
    pairs = [(queries.query_parameters(d), built(d)) for d in (4, 10, WIDTH)]
    pairs += [(queries.query_parameters(d, r), built(d, r)) for d, r in ((6, 2), (6, 6))]
    pairs += [(d * d, queries.query_parameters(d, gains=False)) for d in (4, 10, WIDTH)]
    pairs += [(18_432, more()), (2 * WIDTH * LAYERS, more())]
    return [*pairs, (True, printed_so(without_embeddings() / 10**6, SHAPE.body)), (True, printed_so(share(), "0.02%"))]


def share() -> float:
    return more() / without_embeddings()


def published(w: Any) -> tuple[Any, Any, Any]:
    """The published query in this world, and its two norms."""
    q, inner, outer = query(w), rms(w, eps=EPS), layer_norm(w, eps=EPS)
    made: Any = queries.published_query(q.act, q.W_1, q.W_2)
    norms = {name: replace(getattr(made, name), scale=inner.scale) for name in ("inner_norm", "outer_norm")}
    return replace(made, **norms), inner, outer


def scale_of(w: Any) -> Any:
    """The scale of the setting's scores: 1 in exact numbers, 1/sqrt(d_h) in floats."""
    return w.number(1) if w.lane == "exact" else (w.setting.d // w.setting.heads) ** -0.5


def halved(w: Any, **features: Any) -> Pairs:
    """Half the scale, or half the query, (x + f(x)) / 2; and the form of the query, written out."""
    q, inner, outer = published(w)
    old, x, scale = sublayer(w, q), w.matrix("X", "n", "d"), scale_of(w)
    small = replace(old, core=w.setting.core(scale=scale / 2, **features))
    whole = replace(old, query=lambda x: q(x) / 2, core=w.setting.core(scale=scale, **features))
    return [(call(small, x), call(whole, x)), (q(x), x + outer(q.act(inner(x) @ q.W_1) @ q.W_2))]


def with_query_norm(w: Any) -> Pairs:
    """QK-norm takes the half off the query again, and not off the scale."""
    norm = rms_norm(eps=0.0)
    return halved(w, norm_q=norm)


def of_width_d(_: Any) -> Pairs:
    return [(d * d, queries.query_parameters(d, d, gains=False)) for d in (4, WIDTH)]


def with_biases(_: Any) -> Pairs:
    """A bias for each of r hidden numbers and for each of d outputs, as in a model with biases."""
    return [(2 * WIDTH, queries.query_parameters(WIDTH) + WIDTH // 2 + WIDTH - WIDTH**2)]


def without_gains(_: Any) -> Pairs:
    return [(more(), LAYERS * (queries.query_parameters(WIDTH, gains=False) - WIDTH**2))]


def no_norms(s: Setting) -> bool:
    return square_keys(s) and "norm_q" not in s.features(s)


NONLINEAR_QUERY_FORM = Claim(
    id="nonlinear-query-form",
    rank="remark",
    chapter=CHAPTER,
    title="The published nonlinear query has the size of $W_Q$",
    statement=(
        "The published query is $Q(X)=X+f_\\theta(X)$ with a bottleneck of $d^2+O(d)$ parameters. In the code $q=x+\\mathrm{LN}(\\mathrm{GELU}(\\mathrm{RMSNorm}(x)W_1)W_2)$ on the output $x$ of the "
        "LayerNorm before attention, with $W_1\\in\\mathbb R^{d\\times r}$, $W_2\\in\\mathbb R^{r\\times d}$, $r=d/2$, $\\varepsilon=10^{-5}$ and no biases; keys and values stay linear. The matrices hold $2dr=d^2$ numbers, as many as $W_Q$, the two gains $2d$: "
        f"{more():,} more in {LAYERS} layers at $d={WIDTH}$, {100 * share():.2f}% of {without_embeddings() / 1e6:.2f}M parameters without embeddings. The scale is $1/(2\\sqrt{{d_h}})$; that is the same function as the query $(X+f_\\theta(X))/2$ at the usual scale."
    ),
    hypotheses=(
        Hypothesis("H1", "the width of the bottleneck", "$r=d/2$"),
        Hypothesis("H2", "no biases", "the bottleneck and its norms have no biases, and each norm has a gain"),
        Hypothesis("H3", "no QK-norm", "for the half: no norm stands between the query and its scores"),
    ),
    sources=(
        PAPER,
        CODE,
        Source("reported", "karbevski2026nonlinear", note="descriptions with $(X+f(X))/2$"),
        Source("derived", note="the count; that both halves are one"),
    ),
    uses=("param-count-formula",),
    lanes=("exact", "numeric", "count"),
    sides=halved,
    special={"count": sizes_counted},
    settings=no_norms,
    kind="count",
    controls=(
        wrong("H1", "$r=d$: the matrices hold $2d^2$", of_width_d),
        wrong("H2", "biases beside both matrices", with_biases),
        wrong("H2", "norms without gains", without_gains),
        Control("H3", "a norm of the queries", with_query_norm, lanes=("numeric",)),
    ),
)

# -- query-scale-half --------------------------------------------------------------------------------------------------

SIGMA, UNIT_WIDTH = 0.02, 2500  # of the initialization; the width at which sigma sqrt(d) = 1


def ratio(d: int = WIDTH, sigma: float = SIGMA) -> float:
    """How many times longer a query block of W_Q = I is, at the start, than one of a random W_Q."""
    return 1 / (sigma * math.sqrt(d))


def signs(w: Any) -> Any:
    """All columns of d signs: together they are independent, with mean 0 and variance 1."""
    d = w.sizes["d"]
    columns = (np.arange(2**d)[None] >> np.arange(d)[:, None] & 1) * 2 - 1
    return np.frompyfunc(lambda s: w.number(int(s)), 1, 1)(columns) if w.lane == "exact" else 1.0 * columns


def normalized_tokens(w: Any) -> Any:
    """Tokens with |x|^2 = d: signs in exact numbers, RMSNorm of any others in floats."""
    if w.lane == "numeric":
        return rms_norm(eps=0.0)(w.matrix("X", "n", "d"))
    return signs(w)[:, 1 : 1 + w.sizes["n"]].T


def lengths(x: Any) -> Any:
    """Squared lengths of the rows, as a column."""
    return (x * x).sum(axis=1, keepdims=True)


def mean_length(x: Any, columns: Any, width: int, variance: Any) -> Any:
    """The mean squared length of a block of ``width`` columns, each sigma times one of these, all equally likely."""
    return variance * width * lengths(x @ columns) / columns.shape[1]


def expected(w: Any, x: Any = None, columns: Any = None) -> Pairs:
    """The mean over random matrices; the mean over the heads of the identity; and their ratio, 1 / (sigma^2 d)."""
    x, columns = normalized_tokens(w) if x is None else x, signs(w) if columns is None else columns
    d, width = w.sizes["d"], w.sizes["h"]
    variance = w.number(1) / 4 if w.lane == "exact" else 0.25
    each = (x.reshape(len(x), -1, width) ** 2).sum(axis=2)  # tokens x heads
    own, drawn = each.sum(axis=1, keepdims=True) / each.shape[1], mean_length(x, columns, width, variance)
    one = lengths(x) * 0 + 1
    return [(drawn, variance * d * width * one), (own, width * one), (own * variance * d, drawn)]


def drawn_too(w: Any) -> Pairs:
    """In floats also with the Gaussian matrix of one layer at the published width, up to a twentieth."""
    if w.lane != "numeric":
        return []
    rng = w.rng("W_Q")
    x, W = rms_norm(eps=0.0)(rng.normal(size=(8, WIDTH))), SIGMA * rng.normal(size=(WIDTH, WIDTH))
    found = math.sqrt(lengths(x).mean() / lengths(x @ W).mean())
    return [AtMost(np.array([[abs(found / ratio() - 1)]]), np.array([[0.05]]))]


def all_entries_equal(w: Any) -> Pairs:
    """Every column all plus or all minus: the same variance, and no independence."""
    columns = signs(w)[:, [0, -1]]
    return expected(w, columns=columns)


def with_a_mean(w: Any) -> Pairs:
    """Entries 0 and 2, each as likely as the other: the variance is that of signs, and the mean is 1."""
    return expected(w, columns=signs(w) + 1)


def longer_tokens(w: Any) -> Pairs:
    return expected(w, x=2 * normalized_tokens(w))


def halves(_: Any) -> Pairs:
    return [
        (180, round(100 * ratio())),
        (90, round(100 * ratio() / 2)),
        (100, round(100 * ratio(UNIT_WIDTH))),
        (UNIT_WIDTH, round(SIGMA**-2)),
    ]


def at_width(d: int, of: Callable[[float], float] = lambda r: r) -> Callable[[Any], Pairs]:
    return lambda _: [(180, round(100 * of(ratio(d))))]


QUERY_SCALE_HALF = Claim(
    id="query-scale-half",
    rank="remark",
    chapter=CHAPTER,
    title="Why the scale of the scores is halved",
    statement=(
        "Let $\\|x\\|^2=d$, as behind a LayerNorm at the start. With $W_Q=I$ the squared norm of a query block is $d_h$ on average over the heads; with independent entries of mean $0$ and variance "
        "$\\sigma^2$ it is $\\sigma^2d\\,d_h$ on average over $W_Q$. The ratio of the norms is $1/(\\sigma\\sqrt d)$: "
        f"{ratio():.2f} for $\\sigma={SIGMA}$ and $d={WIDTH}$. The scale $1/(2\\sqrt{{d_h}})$ takes it back to {ratio() / 2:.2f}. At $d={UNIT_WIDTH}$ it is {ratio(UNIT_WIDTH):.0f}, and no half is needed."
    ),
    hypotheses=(
        Hypothesis("H1", "a random $W_Q$", "its entries are independent, with mean $0$ and variance $\\sigma^2$"),
        Hypothesis("H2", "normalized tokens", "$\\|x\\|^2=d$: LayerNorm or RMSNorm without gain, $\\varepsilon=0$"),
        Hypothesis("H3", "the published size", f"for the half: $\\sigma={SIGMA}$ and $d={WIDTH}$"),
    ),
    sources=(CODE, Source("derived", note="the explanation")),
    lanes=("exact", "numeric", "count"),
    sides=expected,
    also=drawn_too,
    special={"count": halves},
    settings=lambda s: bare(s) and s.d <= 8 and s.name in ("multi-head attention", "one head"),
    kind="count",
    controls=(
        Control("H1", "entries that are all equal", all_entries_equal, lanes=NUMBERS),
        Control("H1", "entries with mean $\\sigma$", with_a_mean, lanes=NUMBERS),
        Control("H2", "tokens twice as long", longer_tokens, lanes=NUMBERS),
        wrong("H3", f"$d={UNIT_WIDTH}$, where nothing has to be halved", at_width(UNIT_WIDTH)),
        wrong("construction", "the ratio of the squared norms", at_width(WIDTH, lambda r: r * r)),
    ),
)
