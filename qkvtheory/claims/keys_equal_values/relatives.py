"""Relatives of keys equal to values: keys made of values, shared latents, a recurrence."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, cast

import numpy as np

from qkvtheory import lossless, tying, variants
from qkvtheory.attention import Heads, causal
from qkvtheory.claims.degrees_of_freedom.common import (
    kernel,
    number,
    rank_of,
)
from qkvtheory.claims.keys_equal_values.common import (
    CHAPTER,
    beside,
    causal_heads,
    plainest,
)
from qkvtheory.claims.keys_equal_values.positions import table
from qkvtheory.claims.model import AtMost, Claim, Control, Hypothesis, Pairs, Source, call

NUMBERS = ("exact", "numeric")

# -- qv-ka-count -------------------------------------------------------------------------------------------------------

SIZES = ((1024, 64, 16), (512, 64, 8), (64, 16, 4), (16, 4, 2), (32, 32, 1), (6, 2, 3))  # d, d_h, H


def for_keys(d: int, width: int, context: int, sharing: int = 1) -> int:
    """Weights for the keys of ``sharing`` heads: W_K of each, and one W_ctx."""
    return sharing * (context + width) * width + d * context


def counted(_: Any) -> Pairs:
    """The built layer against the formula; never fewer with a context of its own; sometimes with a shared one."""
    pairs: list[Any] = []
    for d, width, heads in SIZES:
        pairs.append((for_keys(d, width, width, heads), of_keys(d, width, heads)))
        pairs.append((0, sum(for_keys(d, width, c) < d * width for c in (width, 2 * width))))
    layer = tying.build("QV-Ka", 16, 2, 4).weights()
    built = sum(layer[name].size for name in ("W_C", "W_KC", "W_KV"))
    pairs.append((for_keys(16, 4, 4, 2), built))
    predicted = [for_keys(d, h, h, heads) < heads * d * h for d, h, heads in SIZES]
    fewer = [of_keys(d, h, heads) < sized("QKV", d, h, heads, "W_K") for d, h, heads in SIZES]
    return [*pairs, *zip(map(int, predicted), map(int, fewer), strict=True), *example()]


def sized(name: str, d: int, width: int, heads: int, *weights: str) -> int:
    """Numbers in these weights of a layer."""
    shapes = variants.weight_shapes(variants.parse(name), d, heads, width)
    return sum(int(np.prod(shapes[weight])) for weight in weights)


def of_keys(d: int, width: int, heads: int) -> int:
    """Numbers that make the keys in the layer of the package, whose heads share one context, a head wide."""
    return sized("QV-Ka", d, width, heads, "W_C", "W_KC", "W_KV")


def example() -> Pairs:
    """d = 1024, d_h = 64, H = 16: per head with a context of its own, with a shared one, and a key projection."""
    d, width, heads = SIZES[0]
    return [
        (73728, for_keys(d, width, width)),
        (12288 * heads, for_keys(d, width, width, heads)),
        (65536, d * width),
    ]


QV_KA = Claim(
    id="qv-ka-count",
    rank="remark",
    chapter=CHAPTER,
    title="Keys derived from values and context",
    statement=(
        "QV-Ka makes the keys of $V=xW_V$ and a context $G=\\mathrm{ctx}\\,W_{ctx}$: $K=[G\\mid V]W_K$, with $d_{ctx}=d_h$ or $2d_h$. Per head "
        "it has fewer weights than a key projection if and only if $(d_{ctx}+d_h)d_h+d\\,d_{ctx}<d\\,d_h$: never if every head has a "
        "$W_{ctx}$ of its own with $d_{ctx}\\ge d_h$, only if heads share it. For $d=1024$, $d_h=64$, $H=16$: 73,728 against 65,536 per head; "
        "shared, 12,288."
    ),
    hypotheses=(
        Hypothesis("H1", "counted", "$W_{ctx}$ is counted, once for all heads that share it"),
        Hypothesis("H2", "wide context", "$d_{ctx}\\ge d_h$"),
    ),
    sources=(
        Source("reported", "zhang2026qv", name="QV-Ka", note="key after value and context"),
        Source("derived", note="the count"),
    ),
    lanes=("count",),
    sides=lambda _: [],
    special={"count": counted},
    controls=(
        Control(
            "H1",
            "$W_{ctx}$ counted as free: then even a context of its own would save",
            lambda _: [(0, sum(for_keys(d, h, h) - d * h < d * h for d, h, _ in SIZES))],
            ("count",),
        ),
        Control(
            "H2",
            "a context a quarter as wide as the head",
            lambda _: [(0, sum(for_keys(d, h, h // 4) < d * h for d, h, _ in SIZES if h >= 4))],
            ("count",),
        ),
    ),
)


# -- mla-is-kv-on-latent -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class One:
    """One head that does not mind how many tokens there are."""

    head: Any
    heads: int = 1

    def at(self, n: Any) -> Any:
        return self.head


def latent_head(w: Any) -> tying.Latent:
    """One head on a latent as wide as s, without a rotary part."""
    shapes = {"W_Q": "dh", "W_C": "ds", "W_UK": "sh", "W_UV": "sh", "W_O": "hd"}
    core: Any = One(w.head)
    return tying.Latent(core=core, **{name: w.integers(name, *shape) for name, shape in shapes.items()})


def absorbed_head(w: Any) -> Pairs:
    layer, x = latent_head(w), w.integers("X", "n", "d")
    inside = lossless.absorbed(layer, 0)
    return [
        (call(inside, x), call(layer.attention(0), x)),
        (inside.W_Q @ inside.W_K.mT, layer.W_Q @ (layer.W_C @ layer.W_UK).mT),
        (inside.W_K, inside.W_V),
    ]


def absorbed_layer(w: Any) -> Pairs:
    """All heads of the setting on one latent, without and with a rotary key beside it; and the rank of the scores."""
    pairs, x = [*absorbed_head(w)], w.matrix("X", "n", "d")
    for layer in (latents(w), latents(w, rotary=True)):
        inside = lossless.absorbed(layer, len(x))
        y, cache = layer.decode(x)
        one_for_all = inside.W_K.shape[1] - (0 if layer.W_R is None else layer.W_R.shape[1])
        pairs += [
            (call(inside, x), call(layer.attention(len(x)), x)),
            (y, inside(x)),
            (beside(*cache[::-1]), x @ inside.W_K),
            (inside.W_K[:, -one_for_all:], inside.W_V),
        ]
        pairs.append((number(w, cast(Heads, inside.core).kv_heads), number(w, 1)))
    M = latent_head(w)
    return [*pairs, AtMost(number(w, rank_of(M.W_Q @ M.W_UK.mT)), number(w, w.sizes["h"]))]


def latents(w: Any, rotary: bool = False, turned: bool = False) -> tying.Latent:
    """MLA with the setting's heads; ``rotary``: with a rotary key; ``turned``: with rotations, whatever there is."""
    names = ("W_Q", "W_Qr")[: 1 + rotary]
    queries = [w.matrix(f"{name}^{h}", "d", "h") for h in range(w.setting.heads) for name in names[::-1]]
    shapes = {"W_C": "ds", "W_UK": "sp", "W_UV": "sp", "W_O": "od"} | ({"W_R": "dh"} if rotary else {})
    core = replace(causal_heads(w), groups=None, rotate=table(w) if rotary or turned else None)
    return tying.Latent(core=core, W_Q=beside(*queries), **{name: w.matrix(name, *s) for name, s in shapes.items()})


def rotated_inside(w: Any) -> Pairs:
    """Rotations on queries and on the keys read from the latent, moved to the latent."""
    a, x = latent_head(w), w.integers("X", "n", "d")
    c = x @ a.W_C
    read = kernel(w, w.rotate(x @ a.W_Q) @ w.rotate(c @ a.W_UK).mT) @ c
    moved = kernel(w, w.rotate(x @ a.W_Q @ a.W_UK.mT) @ w.rotate(c).mT) @ c
    return [(moved, read)]


def rotated_refused(w: Any) -> Pairs:
    layer = latents(w, turned=True)
    return [(lossless.absorbed(layer, w.sizes["n"]).W_K, layer.W_C)]


def two_latents(w: Any) -> Pairs:
    """Keys and values read from latents of their own: no one latent is scored and summed."""
    a, x, other = latent_head(w), w.integers("X", "n", "d"), w.integers("W_C'", "d", "s")
    return [(w.head(x @ a.W_Q, x @ a.W_C @ a.W_UK, x @ a.W_C), w.head(x @ a.W_Q, x @ a.W_C @ a.W_UK, x @ other))]


def without_transpose(w: Any) -> Pairs:
    """W_Q W_UV^T in the place of W_Q W_UK^T."""
    a, x = latent_head(w), w.integers("X", "n", "d")
    c = x @ a.W_C
    return [(w.head(x @ a.W_Q @ a.W_UV.mT, c, c), w.head(x @ a.W_Q, c @ a.W_UK, c))]


LATENT = Claim(
    id="mla-is-kv-on-latent",
    rank="remark",
    chapter=CHAPTER,
    title="MLA is keys equal to values on the latent",
    statement=(
        "Without its rotary part, MLA scores and sums one latent $c=xW_C$ in every head: "
        "$x_iW_Q^h(c_jW_{UK}^h)^{\\top}=(x_iW_Q^hW_{UK}^{h\\top})c_j^{\\top}$ and $\\sum_jA_{ij}c_jW_{UV}^hW_O^h=(Ac)_i(W_{UV}^hW_O^h)$. "
        "So it is K=V with one key/value head for all, as wide as the latent, with score matrices of rank at most $d_h$, and a rotary key "
        "beside it that is not tied."
    ),
    hypotheses=(
        Hypothesis("H1", "rotary key apart", "what is rotated is not read from the latent"),
        Hypothesis("H2", "one latent", "keys and values are read from the same latent"),
    ),
    sources=(
        Source("paper", "deepseek2024v2", name="MLA, absorption"),
        Source("derived", note="as a form of K=V; it bears out the reading of MLA by Zhang 2026 in this sense"),
    ),
    sides=absorbed_head,
    special={"exact": absorbed_layer, "numeric": absorbed_layer},
    settings=plainest,
    constructions=("absorbed",),
    controls=(
        Control("H1", "rotations between the latent and the scores", rotated_inside),
        Control("H1", "asking for it with rotated keys", rotated_refused, NUMBERS, refused="rotary key apart"),
        Control("H2", "a latent for the keys and one for the values", two_latents),
        Control("construction", "$W_{UV}$ in the place of $W_{UK}$", without_transpose),
    ),
)


# -- tied-recurrence ---------------------------------------------------------------------------------------------------


def three_tokens(w: Any, separate: bool = False) -> tuple[Any, Any]:
    """Rows phi(z_t) and z_t of three tokens; ``separate``: other values."""
    rows = [w.matrix(f"f^{t}", "1", "s") for t in (1, 2, 3)]
    return rows, [w.matrix(("v" if separate else "z") + f"^{t}", "1", "d") for t in (1, 2, 3)]


def sums_of_attention(features: Any, z: Any) -> tuple[Any, Any]:
    """sum_j phi(z_t) phi(z_j)^T z_j and sum_j phi(z_t) phi(z_j)^T of the last of these tokens."""
    weights = [features[-1] @ f.mT for f in features]
    *_, total = accumulate(a @ row for a, row in zip(weights, z, strict=True))
    *_, norm = accumulate(weights)
    return total, norm


def recurrence(w: Any) -> Pairs:
    """Numerator and denominator of every token."""
    features, z = three_tokens(w)
    found = list(tying.tied_sums(zip(features, z, strict=True)))
    wanted = [sums_of_attention(features[:t], z[:t]) for t in (1, 2, 3)]
    return [pair for a, b in zip(found, wanted, strict=True) for pair in zip(a, b, strict=True)]


def positive_features(w: Any, z: Any) -> Any:
    """phi(z) = (1, z_1^2, z_2^2, ...)."""
    return beside(w.ones("n"), z * z)


def recurrence_of_attention(w: Any) -> Pairs:
    """The package's recurrence against causal attention with the map of the kernel."""
    z = w.matrix("Z", "n", "h")
    f = positive_features(w, z)
    return [*recurrence(w), (tying.tied_recurrence(f, z), by_map(f @ f.mT, z))]


def by_map(weights: Any, z: Any, mask: bool = True) -> Any:
    weights = weights * causal(len(z)) if mask else weights
    return weights @ z * (1 / weights.sum(axis=1, keepdims=True))


def taylor_for_softmax(w: Any) -> Pairs:
    """exp(s) replaced by 1 + s + s^2/2, which has finitely many features: (1, z, z z / sqrt 2)."""
    z = w.matrix("Z", "n", "h")
    second = (z[:, :, None] * z[:, None, :]).reshape(len(z), -1) / 2**0.5
    return [(tying.tied_recurrence(beside(w.ones("n"), z, second), z), by_map(w.exp(z @ z.mT), z))]


def more_features(w: Any) -> Pairs:
    """The kernel exp(s z z') of n numbers z has rank n, for every n: finitely many features give no more than they are."""
    z = w.ones("n") * np.arange(w.sizes["n"])[:, None]
    kernel = w.exp(z @ z.mT * (1 if w.lane == "exact" else 1 / w.sizes["n"]))
    return [(number(w, rank_of(kernel)), number(w, w.sizes["n"] - 1))]


def without_mask(w: Any) -> Pairs:
    z = w.matrix("Z", "n", "h")
    f = positive_features(w, z)
    return [(tying.tied_recurrence(f, z), by_map(f @ f.mT, z, mask=False))]


def without_mask_in_words(w: Any) -> Pairs:
    """The second token claimed to see the third."""
    features, z = three_tokens(w)
    _, second, _ = tying.tied_sums(zip(features, z, strict=True))
    ahead = [features[0], features[2], features[1]]
    return [(second[0], sums_of_attention(ahead, [z[0], z[2], z[1]])[0])]


def untied_values(w: Any) -> Pairs:
    """Values of their own: the state that sums phi(z)^T z does not hold them."""
    (features, z), (_, v) = three_tokens(w), three_tokens(w, separate=True)
    *_, last = tying.tied_sums(zip(features, z, strict=True))
    return [(last[0], sums_of_attention(features, v)[0])]


def cancelling_features(w: Any) -> Pairs:
    """Features of two signs whose weights sum to zero at the second token."""
    z = w.matrix("Z", "n", "h")
    signs = w.ones("n") * np.where(np.arange(len(z)) % 2, -1, 1)[:, None]
    return [(tying.tied_recurrence(signs, z), z)]


RECURRENCE = Claim(
    id="tied-recurrence",
    rank="remark",
    chapter=CHAPTER,
    title="Kernel attention with everything tied is a recurrence",
    statement=(
        "With a feature map $\\phi\\ge0$, $q=k=v=z$ and a causal mask, $S_t=S_{t-1}+\\phi(z_t)^{\\top}z_t$, $n_t=n_{t-1}+\\phi(z_t)$, and "
        "$y_t=\\phi(z_t)S_t/(\\phi(z_t)n_t^{\\top})$ is the output of attention. The symbolic lane compares numerators and denominators "
        "of three tokens; the others run the recurrence on whole sequences."
    ),
    hypotheses=(
        Hypothesis(
            "H1", "finite features", "the weights are $\\phi(z_i)\\phi(z_j)^{\\top}$ with finitely many features"
        ),
        Hypothesis("H2", "causal", "token $t$ sees the tokens up to $t$"),
        Hypothesis("H3", "everything tied", "$q=k=v=z$"),
        Hypothesis("H4", "nonnegative features", "$\\phi\\ge0$, and $\\phi(z)\\ne0$: no denominator vanishes"),
    ),
    sources=(Source("reported", "kayyam2026three", note="in an appendix"),),
    sides=recurrence,
    special={"exact": recurrence_of_attention, "numeric": recurrence_of_attention},
    settings=plainest,
    deep=True,
    constructions=("tied_sums",),
    controls=(
        Control(
            "H1", "softmax, with the features of its Taylor polynomial of degree 2", taylor_for_softmax, ("numeric",)
        ),
        Control("H1", "the kernel of softmax on $n$ tokens, claimed to have rank below $n$", more_features, NUMBERS),
        Control("H2", "every token sees all tokens", without_mask, NUMBERS),
        Control("H2", "a token that sees the next one", without_mask_in_words),
        Control("H3", "values of their own", untied_values),
        Control(
            "H4",
            "features of two signs that cancel",
            cancelling_features,
            NUMBERS,
            refused="positive features",
        ),
    ),
)
