"""The 2D correction of the scores: what it computes, and how little of it softmax sees when its table is separable."""

from __future__ import annotations

from itertools import product
from math import sqrt
from typing import Any

import numpy as np

from qkvtheory import positions, symmetric
from qkvtheory.claims.model import AtMost, Claim, Control, Hypothesis, Pairs, Source
from qkvtheory.claims.queries_equal_keys.bound import bare
from qkvtheory.claims.queries_equal_keys.common import OURS, keys, map_of, number
from qkvtheory.claims.queries_equal_keys.forms import as_fractions
from qkvtheory.claims.restoring_direction.common import (
    BORJI,
    CHANNELS,
    CHAPTER,
    CORRECTED,
    SEPARABLE,
    corrected,
    correction,
    drawn,
    heads_of,
    relative_too,
    separable,
    separable_table,
    softmax_heads,
    softmax_of_scores,
    uncapped,
)
from qkvtheory.linalg import rank

CODE = Source("code", "kayyam2026three", note="the released class computes this closed form")


# -- broadcast-conv-form -----------------------------------------------------------------------------------------------


def letters(w: Any) -> tuple[Any, ...]:
    """The score map as a column of N entries, a table for each entry and channel, the weights, the bias; two columns of ones."""
    shapes = (("s", "n", "1"), ("P", "n", "m"), ("w", "m", "1"), ("b", "1", "1"))
    return (*(w.integers(*shape) for shape in shapes), w.ones("n"), w.ones("m"))


def conv_form(w: Any) -> Pairs:
    """One row for each entry of the score map: copied to the channels, added to the table, weighed together."""
    s, P, weights, b, one, every = letters(w)
    return [((s @ every.mT + P) @ weights + one @ b, s @ (every.mT @ weights) + P @ weights + one @ b)]


def conv_form_of_heads(w: Any) -> Pairs:
    """The package's correction in the setting's heads: channel by channel, in closed form, and for the last token only."""
    core, q, k = heads_of(w)
    n = w.sizes["n"]
    by = correction(w, drawn(w, "table", n, n, CHANNELS))
    plain, changed = core.scores(q, k), corrected(core, by).scores(q, k)
    one_by_one = sum(by.weights[c] * (plain + by.table[:, :, c]) for c in range(CHANNELS)) + by.bias
    return [
        *conv_form(w),
        (changed, one_by_one),
        (changed, plain * by.temperature + by.added),
        (by.last(1, n)(plain[:, -1:]), changed[:, -1:]),
        (by(plain[:, :2, :2]), changed[:, :2, :2]),
    ]


def one_channel_only(w: Any) -> Pairs:
    """Copies of the scores of different size, s a^T in the place of s 1^T."""
    s, P, weights, b, one, every = letters(w)
    a = w.integers("a", "m", "1")
    return [((s @ a.mT + P) @ weights + one @ b, s @ (every.mT @ weights) + P @ weights + one @ b)]


def something_between(w: Any) -> Pairs:
    """A function of the channels before they are weighed together."""
    s, P, weights, b, one, every = letters(w)
    f = w.function("f")
    return [(f(s @ every.mT + P) @ weights + one @ b, s @ (every.mT @ weights) + P @ weights + one @ b)]


def temperature_forgotten(w: Any) -> Pairs:
    s, P, weights, b, one, every = letters(w)
    return [((s @ every.mT + P) @ weights + one @ b, s + P @ weights + one @ b)]


CONV_FORM = Claim(
    id="broadcast-conv-form",
    rank="remark",
    chapter=CHAPTER,
    title="What the 2D correction computes",
    statement=(
        "Copy the scores to $m'$ channels, add a fixed table $P_{ijc}$, and let a $1\\times1$ convolution with weights $w_c$ and bias $b$ "
        "weigh the channels together: $S'_{ij}=s\\,S_{ij}+\\sum_cw_cP_{ijc}+b$ with $s=\\sum_cw_c$. In the equation every entry of the score map is one "
        "row. So the correction is one number for all scores, the temperature $s$, and a fixed table that is added."
    ),
    hypotheses=(
        Hypothesis("H1", "equal copies", "every channel gets the same scores"),
        Hypothesis("H2", "nothing between", "the channels are weighed together as they are, with no function between"),
    ),
    sources=(CORRECTED, BORJI, CODE, Source("derived", note="reading the sum of the weights as a temperature")),
    sides=conv_form,
    special={"exact": conv_form_of_heads, "numeric": conv_form_of_heads},
    settings=uncapped,
    controls=(
        Control("H1", "copies of different sizes, $sa^{\\top}$", one_channel_only),
        Control("H2", "a function of the channels before they are summed", something_between),
        Control(
            "construction",
            "the temperature forgotten: the table added to the scores as they are",
            temperature_forgotten,
        ),
    ),
)


# -- separable-plus-is-temperature -------------------------------------------------------------------------------------

LAWS = "row-constants-invisible"


def separable_letters(w: Any) -> tuple[Any, Any, Any]:
    """(s, what the rows get, the key bias) for tables R and C of row and column channels, each with its weights."""
    one, every = w.ones("n"), w.ones("m")
    R, C, b = w.integers("R", "n", "m"), w.integers("C", "n", "m"), w.integers("b", "1", "1")
    on_rows, on_columns = w.integers("w_R", "m", "1"), w.integers("w_C", "m", "1")
    s = every.mT @ on_rows + every.mT @ on_columns
    return s, R @ on_rows + one @ b, C @ on_columns


def scores_and_parts(w: Any) -> tuple[Any, Any, Any, Any]:
    """(S, s S, r 1^T, 1 c^T): s S is S times s on a diagonal."""
    S, one, (s, rows, per_key) = w.integers("S", "n", "n"), w.ones("n"), separable_letters(w)
    return S, S @ w.diagonal(one @ s, "broadcast-conv-form"), rows @ one.mT, one @ per_key.mT


def softmaxes(w: Any, left: Any, right: Any) -> Pairs:
    return [(w.softmax(left, LAWS), w.softmax(right, LAWS))]


def only_temperature_and_key_bias(w: Any) -> Pairs:
    _, scaled, rows, per_key = scores_and_parts(w)
    return softmaxes(w, scaled + rows + per_key, scaled + per_key)


def temperature_in_heads(w: Any) -> Pairs:
    """The package's correction with a separable table, in the setting's heads."""
    by = separable(w)
    rows, per_key = by.separable()
    return [
        *only_temperature_and_key_bias(w),
        (rows[:, None] + per_key, by.added),
        *maps_by(w, by, by.temperature, per_key),
    ]


def maps_by(w: Any, by: positions.Correction, temperature: Any, per_key: Any) -> Pairs:
    """The corrected maps, and those of the scores with a temperature and a key bias."""
    core, q, k = softmax_heads(w)
    return [(corrected(core, by).maps(q, k), core.pattern(core.scores(q, k) * temperature + per_key, core.mask))]


def channel_of_both(w: Any) -> Pairs:
    _, scaled, rows, per_key = scores_and_parts(w)
    return softmaxes(w, scaled + rows + per_key + w.integers("B", "n", "n"), scaled + per_key)


def best_key_bias(w: Any) -> Pairs:
    """Channels of the distance as well, and as key bias the mean over the rows of all that is added."""
    by = relative_too(w)
    return maps_by(w, by, by.temperature, by.added.mean(axis=0))


def distance_called_separable(w: Any) -> Pairs:
    return [relative_too(w).separable()]


def capped_after(w: Any) -> Pairs:
    """A function of the scores after the correction, such as a soft cap."""
    (_, scaled, rows, per_key), f = scores_and_parts(w), w.function("f")
    return softmaxes(w, f(scaled + rows + per_key), f(scaled + per_key))


def no_temperature(w: Any) -> Pairs:
    S, scaled, rows, per_key = scores_and_parts(w)
    return softmaxes(w, scaled + rows + per_key, S + per_key)


def rows_for_keys(w: Any) -> Pairs:
    """The row channels taken for the key bias."""
    _, scaled, rows, per_key = scores_and_parts(w)
    return softmaxes(w, scaled + rows + per_key, scaled + rows.mT)


TEMPERATURE = Claim(
    id="separable-plus-is-temperature",
    rank="theorem",
    chapter=CHAPTER,
    title="A separable 2D encoding is a temperature and a bias on the keys",
    statement=(
        "Let every channel of the table depend on $i$ only or on $j$ only: $R$ holds the row channels, with weights $w_R$, and $C$ the "
        "column channels, with weights $w_C$. Then $\\operatorname{softmax}(S')=\\operatorname{softmax}(s\\,S+\\mathbf1c^{\\top})$ with the "
        "temperature $s$, the sum of all weights, and the key bias $c=Cw_C$ (in the equation the diagonal matrix multiplies by $s$). The row "
        "channels and the convolution's bias are constant along rows, and softmax does not see them. So the published correction is one "
        "scalar and one number for each key position, whatever the sharing, the mask and the other positions are."
    ),
    hypotheses=(
        Hypothesis("H1", "separable", SEPARABLE),
        Hypothesis(
            "H2", "softmax next", "softmax reads the corrected scores themselves: no cap and nothing else comes between"
        ),
    ),
    sources=(
        Source("derived", note="the encoding is that of Borji and of Kayyam, Madan Gopal and Lewis"),
        Source("code", "kayyam2026three", note="the released table, which is separable"),
    ),
    uses=("broadcast-conv-form", "row-constants-invisible"),
    sides=only_temperature_and_key_bias,
    special={"exact": temperature_in_heads, "numeric": temperature_in_heads},
    settings=softmax_of_scores,
    controls=(
        Control("H1", "one more channel that depends on $i$ and $j$", channel_of_both),
        Control(
            "H1",
            "channels of the distance $j-i$, and the mean over the rows as key bias",
            best_key_bias,
            lanes=("numeric",),
        ),
        Control(
            "H1",
            "asking for the key bias of channels of the distance",
            distance_called_separable,
            lanes=("exact", "numeric"),
            refused="separable",
        ),
        Control("H2", "a function of the corrected scores before softmax, such as a cap", capped_after),
        Control("construction", "the temperature forgotten", no_temperature),
        Control("construction", "the row channels taken for the key bias", rows_for_keys),
    ),
)


# -- separable-rank-two ------------------------------------------------------------------------------------------------


def asymmetry_of(w: Any, S: Any) -> Pairs:
    """S' - S'^T = u 1^T - 1 u^T with u = r - c. The letter S stands for s S, which is symmetric with S."""
    one, rows, per_key = w.ones("n"), w.integers("r", "n", "1"), w.integers("c", "n", "1")
    changed, u = S + rows @ one.mT + one @ per_key.mT, rows - per_key
    return [(changed - changed.mT, u @ one.mT - one @ u.mT)]


def asymmetry_added(w: Any) -> Pairs:
    return asymmetry_of(w, w.symmetric("S", "n", "H1"))


def asymmetry_of_separate(w: Any) -> Pairs:
    return asymmetry_of(w, w.integers("S", "n", "n"))


def asymmetry_with_distance(w: Any) -> Pairs:
    """A further channel that depends on both tokens."""
    return asymmetry_of(w, w.symmetric("S", "n", "H1") + w.integers("B", "n", "n"))


def asymmetry_of_heads(w: Any) -> Pairs:
    """The package's correction of symmetric scores; the published measure reports it, the centered skew ratio does not."""
    S, by = w.symmetric("S", "n"), separable(w)
    rows, per_key = by.separable()
    changed, u = by(S[None])[0], (rows - per_key)[:, None]
    gaps = abs(u - u.T)
    pairs = [
        *asymmetry_added(w),
        (changed - changed.T, u - u.T),
        (number(w, symmetric.mean_asymmetry(changed)), number(w, gaps.sum() / gaps.size)),
        (number(w, 1 - symmetric.mean_asymmetry(equal_parts(w)(S[None])[0])), w.identity("1")),
    ]
    return pairs if w.lane == "numeric" else [*pairs, (number(w, 1 - symmetric.skew_share(changed)), w.identity("1"))]


def equal_parts(w: Any) -> positions.Correction:
    """The columns get what the rows get: then u is constant."""
    n = w.sizes["n"]
    rows, weights = separable_table(w, n)[:, :, : CHANNELS // 2], drawn(w, "weights", CHANNELS // 2)
    return positions.Correction(np.concatenate([rows, rows.swapaxes(0, 1)], axis=-1), np.concatenate([weights] * 2))


def positive_for_every_u(w: Any) -> Pairs:
    changed = equal_parts(w)(w.symmetric("S", "n")[None])[0]
    return [AtMost(number(w, 1), 100 * number(w, symmetric.mean_asymmetry(changed)))]


def ranks_of_asymmetry(_: Any) -> Pairs:
    """Random whole numbers: the asymmetry of a separable correction has rank 2 for any number of tokens."""
    return [(2, rank(skew)) for skew in (whole_skew(n, True) for n in (3, 4, 6))]


def whole_skew(n: int, shared: bool) -> Any:
    """S' - S'^T for whole scores of n tokens, symmetric ones or not, and a separable correction of temperature 2."""
    rng = np.random.default_rng(n)
    S, rows, per_key = rng.integers(-3, 4, (n, n)), rng.integers(-3, 4, (n, 1)), rng.integers(-3, 4, (1, n))
    changed = 2 * (S + S.T if shared else S) + rows + per_key
    return as_fractions(changed - changed.T)


SKEW_RANK = Claim(
    id="separable-rank-two",
    rank="remark",
    chapter=CHAPTER,
    title="The asymmetry that a separable correction adds",
    statement=(
        "For symmetric $S$ and a separable correction with row part $r$ and key bias $c$: $S'-S'^{\\top}=u\\mathbf1^{\\top}-\\mathbf1u^{\\top}$ with "
        "$u=r-c$ (in the equation $S$ stands for $sS$). Its rank is at most 2, and mean $|S'-S'^{\\top}|$ is the mean of $|u_i-u_j|$: "
        "positive unless all entries of $u$ are equal, although nothing directional was added, for the centered skew ratio stays 0."
    ),
    hypotheses=(
        Hypothesis("H1", "symmetric scores", "$S=S^{\\top}$ before the correction"),
        Hypothesis("H2", "separable", SEPARABLE),
    ),
    sources=(OURS, Source("code", "kayyam2026three", note="mean of $|S-S^{\\top}|$")),
    uses=("broadcast-conv-form",),
    lanes=("symbolic", "exact", "numeric", "count"),
    sides=asymmetry_added,
    special={"exact": asymmetry_of_heads, "numeric": asymmetry_of_heads, "count": ranks_of_asymmetry},
    settings=bare,
    controls=(
        Control("H1", "scores of separate queries and keys", asymmetry_of_separate),
        Control(
            "H1",
            "the rank for scores without symmetry",
            lambda _: [(2, rank(whole_skew(n, False))) for n in (4, 6)],
            lanes=("count",),
        ),
        Control("H2", "one more channel that depends on $i$ and $j$", asymmetry_with_distance),
        Control(
            "construction",
            "an asymmetry above 0 also where columns get what rows get",
            positive_for_every_u,
            lanes=("exact", "numeric"),
        ),
    ),
)


# -- init-temperature --------------------------------------------------------------------------------------------------

DEVIATION, DRAWS = 0.02, 1000


def temperatures(channels: int, initial: Any = None) -> Any:
    """The temperature at the start of training, for as many seeds as there are draws."""
    table = positions.separable_channels(2, channels)
    made = initial or positions.initial_correction
    return np.array([made(table, seed).temperature for seed in range(DRAWS)])


def start(w: Any, initial: Any = None) -> Pairs:
    """Mean, deviation and signs over many seeds, each within five standard errors; and how far one map is from uniform."""
    pairs: list[Any] = []
    for channels in (4, 10):
        s, expected = temperatures(channels, initial), DEVIATION * sqrt(channels)
        pairs += [
            AtMost(number(w, abs(s.mean())), number(w, 5 * expected / sqrt(DRAWS))),
            AtMost(number(w, abs(s.var() / expected**2 - 1)), number(w, 5 * sqrt(2 / DRAWS))),
            AtMost(number(w, abs((s > 0).mean() - 0.5)), number(w, 2.5 / sqrt(DRAWS))),
        ]
    return [*pairs, *nearly_uniform(w)]


def nearly_uniform(w: Any) -> Pairs:
    """log(n A_ij) is at most the range of the corrected scores: |s| times that of S, and that of the key bias."""
    k = keys(w)
    S, n = k @ k.T, len(k)
    by = positions.initial_correction(positions.separable_channels(n))
    spread = abs(by.temperature) * np.ptp(S, axis=1, keepdims=True) + np.ptp(by.separable()[1])
    A = map_of(by(S[None])[0])
    return [AtMost(abs(np.log(n * A)), spread * np.ones((1, n)))]


def all_signs(_: Any) -> Pairs:
    """Over all signs of m' weights of size 1 the squared sum is m' on average, and half of the sums that are not 0 are positive."""
    pairs = []
    for channels in (1, 2, 5, 10):
        sums = [sum(signs) for signs in product((1, -1), repeat=channels)]
        pairs += [
            (channels * len(sums), sum(s * s for s in sums)),
            (sum(s > 0 for s in sums), sum(s < 0 for s in sums)),
        ]
    return pairs


def equal_signs(_: Any) -> Pairs:
    """All weights with one common sign: the squared sum is m'^2."""
    return [(channels, channels**2) for channels in (2, 10)]


def means_of_scores(table: Any, seed: int) -> positions.Correction:
    """The weights 1/m'."""
    channels = table.shape[-1]
    return positions.Correction(table, np.ones(channels) / channels)


INITIAL = Claim(
    id="init-temperature",
    rank="remark",
    chapter=CHAPTER,
    title="The temperature at the start of training",
    statement=(
        "With independent initial weights $w_c\\sim0.02\\,N(0,1)$ on $m'$ channels the temperature $s$ has mean 0, standard deviation "
        "$0.02\\sqrt{m'}$, and either sign with probability one half. And $|\\log nA_{ij}|$ is at most $|s|$ times the range of the "
        "scores in its row plus the range of the key bias: a corrected model starts with nearly uniform attention and a random sign of $s$. "
        "(For independent signs the variance is counted over all of them.)"
    ),
    hypotheses=(
        Hypothesis(
            "H1", "initial weights", "the $w_c$ are independent, symmetric about 0, and of standard deviation $0.02$"
        ),
    ),
    sources=(
        Source("code", "kayyam2026three", note="the initial weights"),
        Source(
            "code",
            "borji2023kv",
            note="starts from Xavier's uniform weights instead, of standard deviation $\\sqrt{2/(m'+1)}$: the sign of $s$ is as random, its size is near 1",
        ),
        Source("derived", note="the consequence"),
    ),
    uses=("separable-plus-is-temperature",),
    lanes=("numeric", "count"),
    sides=start,
    special={"count": all_signs},
    settings=lambda s: bare(s) and s.heads > 1 and s.d == 8,
    controls=(
        Control(
            "H1",
            "the weights $1/m'$: the temperature starts at 1",
            lambda w: start(w, means_of_scores),
            lanes=("numeric",),
        ),
        Control("H1", "weights with one common sign", equal_signs, lanes=("count",)),
    ),
)
