"""The variants of attention as sublayers under a causal mask: each holds the weights it learns and nothing else, and a
cache that keeps of a token only what the variant needs.

``stored(x)`` is what the cache keeps of the tokens x, ``recalled(stored)`` makes keys and values of it, ``decode`` goes
on from a cache, and ``attention(n)`` is the plain ``Attention`` that computes the same on n tokens, with every
projection written out: what a tie means, and what cached decoding is compared with. Shapes: x is n x d; weights act on
the right; heads are consecutive blocks of columns. Names of the variants: ``qkvtheory.variants``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
from array_api_compat import array_namespace

from qkvtheory.attention import Heads, merge, softmax, split
from qkvtheory.errors import HypothesisError
from qkvtheory.linalg import agree, described
from qkvtheory.network import Attention, affine, check_read
from qkvtheory.positions import Correction, Rope, separable_channels
from qkvtheory.variants import Variant, parse, weight_shapes

Stored = tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class CausalHeads:
    """Heads under a causal mask, for contexts of any length. Arguments as for ``Heads``, but what depends on the
    number of tokens is a function of it: ``rotate`` n -> Rope. What has a row for each query is asked for the last
    ``rows`` of n tokens only, so that a step of decoding costs no n x n table: ``bias`` (n, rows) -> (rows, n) or
    (heads, rows, n), ``correction`` (n, rows) -> Correction with a table (rows, n, channels).

    >>> from qkvtheory.positions import alibi
    >>> core = CausalHeads(2, bias=lambda n, rows: alibi(n, 2, last=rows))
    >>> core.at(5, last=1)(np.ones((1, 4)), np.ones((5, 4)), np.ones((5, 4))).shape
    (1, 4)
    """

    heads: int
    groups: int | None = None
    scale: Any = None
    pattern: Callable[[Any, Any], Any] = softmax
    rotate: Callable[[int], Rope] | None = None
    bias: Callable[[int, int], Any] | None = None
    correction: Callable[[int, int], Correction] | None = None

    def __post_init__(self) -> None:
        for name in ("rotate", "bias", "correction"):
            given = getattr(self, name)
            if isinstance(given, Rope | Correction) or not (given is None or callable(given)):
                raise TypeError(f"{name} must be a function of the number of tokens, not a {type(given).__name__}")

    @property
    def kv_heads(self) -> int:
        return self.heads if self.groups is None else self.groups

    def at(self, n: int, last: int | None = None) -> Heads:
        """The core for n tokens, whose queries are the ``last`` of them (all by default)."""
        rows = n if last is None else last
        return Heads(
            self.heads,
            self.groups,
            mask=np.arange(n)[None, :] <= np.arange(n - rows, n)[:, None],
            scale=self.scale,
            pattern=self.pattern,
            rotate=None if self.rotate is None else partial(turn_last, self.rotate(n)),
            bias=None if self.bias is None else self.bias(n, rows),
            correction=None if self.correction is None else self.correction(n, rows),
        )


def turn_last(table: Rope, z: Any) -> Any:
    """Rotate (heads, rows, width) as the last rows of the table: new queries and all keys stand in one context."""
    start, turned = len(table.cos) - z.shape[-2], 2 * table.cos.shape[-1]
    if turned > z.shape[-1]:
        raise HypothesisError("shapes agree", f"the rotary table turns {turned} coordinates, a head has {z.shape[-1]}")
    return Rope(table.cos[start:], table.sin[start:], table.layout)(z)


# -- the variants ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, kw_only=True)
class Sublayer(ABC):
    """What all variants have: a core, W_O, optional biases; subclasses say what is learned, stored and recalled."""

    core: CausalHeads
    W_O: Any
    b_O: Any = None

    def __post_init__(self) -> None:
        if isinstance(self.core, Heads):
            raise TypeError("the core must fit contexts of any length: pass CausalHeads(...), not Heads(...)")

    @abstractmethod
    def queries(self, x: Any) -> Any:
        """(n, heads * key width)."""

    @abstractmethod
    def stored(self, x: Any) -> Stored:
        """What the cache keeps of these tokens: arrays with n rows."""

    @abstractmethod
    def recalled(self, stored: Stored) -> tuple[Any, Any]:
        """Keys and values of the stored tokens: (n, kv heads * key width), (n, kv heads * value width)."""

    @abstractmethod
    def attention(self, n: int) -> Attention:
        """The plain sublayer with the same function on n tokens: every projection written out as a weight."""

    def mixed(self, core: Heads, q: Any, stored: Stored) -> Any:
        """What the heads write: the values, averaged by each head's map. (new tokens, heads * value width)."""
        return core(q, *self.recalled(stored))

    def decode(self, x: Any, cache: Stored = ()) -> tuple[Any, Stored]:
        """Outputs for new tokens x (rows, d) that follow the cached ones, and the longer cache.

        Raises HypothesisError for tokens that are none ("matrix") or of another width ("shapes agree"), and for a cache
        that is not of this sublayer ("shapes agree") or of other numbers ("one kind of number"); TypeError for a cache
        that is no tuple of arrays.

        >>> layer = build("Q-K=V", 4, 2)
        >>> x = np.ones((3, 4))
        >>> first, cache = layer.decode(x[:2])
        >>> last, cache = layer.decode(x[2:], cache)
        >>> bool(np.allclose(last, layer.attention(3)(x)[2:])), cache_bytes(cache)
        (True, 96)
        """
        if not hasattr(x, "shape"):
            raise TypeError(f"x must be a matrix, tokens x width, not a {type(x).__name__}")
        reads = "W_Q" if hasattr(self, "W_Q") else "W_Z"
        check_read("x", x, **{reads: getattr(self, reads)})
        if x.shape[0] == 0:
            raise HypothesisError("matrix", "x has no tokens; decode at least one at a time")
        new = self.stored(x)
        check_cache(cache, new)
        stored = tuple(map(longer, cache, new)) if cache else new
        core = self.core.at(stored[0].shape[0], x.shape[0])
        return affine(self.mixed(core, self.queries(x), stored), self.W_O, self.b_O), stored

    def weights(self) -> dict[str, Any]:
        """Every learned array by name; those of the correction, where there is one, included."""
        held = {f.name: getattr(self, f.name) for f in fields(self) if f.name[:2] in ("W_", "b_")}
        if self.core.correction is not None:
            made = self.core.correction(1, 1)
            held |= {"correction weights": made.weights, "correction bias": np.asarray(made.bias)}
        return {name: array for name, array in held.items() if array is not None}


def longer(old: Any, more: Any) -> Any:
    """The rows of the cache, then those of the new tokens."""
    return array_namespace(old, more).concat([old, more], axis=0)


def check_cache(cache: Stored, new: Stored) -> None:
    """A cache of this sublayer holds the arrays that it stores, equally wide, of equally many tokens, of one kind.

    An empty one holds nothing yet.
    """
    if not isinstance(cache, tuple | list) or not all(hasattr(a, "shape") and hasattr(a, "dtype") for a in cache):
        raise TypeError(
            f"the cache must be the tuple of arrays that decode returned, or () to begin, not {described(cache)}"
        )
    if not cache:
        return
    shapes, needed = [tuple(a.shape) for a in cache], [a.shape[1] for a in new]
    if [s[-1] for s in shapes] != needed or any(len(s) != 2 or s[0] != shapes[0][0] for s in shapes):
        raise HypothesisError(
            "shapes agree",
            f"the cache holds arrays of shapes {shapes}; this sublayer stores {len(needed)}, with widths {needed} and "
            "one row for each token: pass the cache that it returned",
        )
    held = {f"array {i} of the cache": a for i, a in enumerate(cache) if a.shape[0]}
    agree(**held, **{"what is stored of x": new[0]})


def cache_bytes(cache: Stored) -> int:
    """How many bytes the arrays of a cache take."""
    return sum(int(a.nbytes) for a in cache)


class Projections(Sublayer):
    """Variants that differ in which roles share a projection. ``roles``: whose W and b serve as queries, keys, values.

    What is shared by keys and values is stored once; queries never are.
    """

    roles: ClassVar[tuple[str, str, str]]

    def projected(self, x: Any, role: str) -> Any:
        return affine(x, getattr(self, f"W_{role}"), getattr(self, f"b_{role}"))

    def queries(self, x: Any) -> Any:
        return self.projected(x, self.roles[0])

    def stored(self, x: Any) -> Stored:
        return tuple(self.projected(x, role) for role in dict.fromkeys(self.roles[1:]))

    def recalled(self, stored: Stored) -> tuple[Any, Any]:
        return stored[0], stored[-1]

    def attention(self, n: int) -> Attention:
        W_Q, W_K, W_V = (getattr(self, f"W_{role}") for role in self.roles)
        b_Q, b_K, b_V = (getattr(self, f"b_{role}") for role in self.roles)
        return Attention(self.core.at(n), W_Q, W_K, W_V, self.W_O, b_Q, b_K, b_V, self.b_O)


@dataclass(frozen=True, eq=False, kw_only=True)
class Separate(Projections):
    """QKV, and with groups GQA and MQA: keys and values are stored.

    W_Q d x p, W_K and W_V d x (kv heads * head width), W_O p x d. Sources: Vaswani and others 2017 (1706.03762);
    Shazeer 2019 (1911.02150); Ainslie and others 2023 (2305.13245).
    """

    roles = ("Q", "K", "V")
    W_Q: Any
    W_K: Any
    W_V: Any
    b_Q: Any = None
    b_K: Any = None
    b_V: Any = None


@dataclass(frozen=True, eq=False, kw_only=True)
class KeysAreValues(Projections):
    """Q-K=V, and with groups Q-GQA and Q-MQA: one array serves as keys and as values, and is stored once.

    W_Q d x p, W_Z d x (kv heads * head width), W_O p x d. With ``rotate`` the cache holds the unrotated array: keys are
    turned when they are read, values are not (claim kv-rope). Sources: Kayyam, Madan Gopal and Lewis 2026 (2606.04032);
    QV of Zhang 2026 (2603.15665); Keyless Attention, Gao and Xu 2026 (2606.21848).
    """

    roles = ("Q", "Z", "Z")
    W_Q: Any
    W_Z: Any
    b_Q: Any = None
    b_Z: Any = None


@dataclass(frozen=True, eq=False, kw_only=True)
class QueriesAreKeys(Projections):
    """Q=K-V: queries are the keys. Keys and values are stored as before: queries never are, so nothing is saved.

    W_Z and W_V d x p, W_O p x d. Sources: Kitaev, Kaiser and Levskaya 2020 (2001.04451), with keys made unit vectors;
    Borji 2023 (2305.19129); Kayyam, Madan Gopal and Lewis 2026 (2606.04032).
    """

    roles = ("Z", "Z", "V")
    W_Z: Any
    W_V: Any
    b_Z: Any = None
    b_V: Any = None


@dataclass(frozen=True, eq=False, kw_only=True)
class AllEqual(Projections):
    """Q=K=V: one projection for everything, stored once. W_Z d x p, W_O p x d. Source: 2606.04032."""

    roles = ("Z", "Z", "Z")
    W_Z: Any
    b_Z: Any = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Latent(Sublayer):
    """MLA: keys and values are read from a latent c = x W_C, and one rotary key k = x W_R serves all heads.

    W_Q d x heads (d_R + d_h), in each head the rotary part first; W_C d x d_c; W_UK, W_UV d_c x heads d_h; W_R d x d_R;
    W_O heads d_h x d. Stored: c and k, d_c + d_R numbers. The core's ``rotate`` turns the first d_R coordinates. Norms
    on the latent and a latent for queries are left out. Source: DeepSeek-AI 2024 (2405.04434).
    """

    W_Q: Any
    W_C: Any
    W_UK: Any
    W_UV: Any
    W_R: Any = None

    def queries(self, x: Any) -> Any:
        return x @ self.W_Q

    def stored(self, x: Any) -> Stored:
        return (x @ self.W_C,) if self.W_R is None else (x @ self.W_C, x @ self.W_R)

    def recalled(self, stored: Stored) -> tuple[Any, Any]:
        c, *rotary = stored
        return in_every_head(rotary, c @ self.W_UK, self.core.heads), c @ self.W_UV

    def attention(self, n: int) -> Attention:
        rotary = [] if self.W_R is None else [self.W_R]
        keys = in_every_head(rotary, self.W_C @ self.W_UK, self.core.heads)
        return Attention(self.core.at(n), self.W_Q, keys, self.W_C @ self.W_UV, self.W_O, b_O=self.b_O)


@dataclass(frozen=True, eq=False, kw_only=True)
class HalfTied(Sublayer):
    """GTA, half tying: z = x W_Z is the values; the keys are its last columns in each head, beside a rotary key that
    all heads share and that takes the place of the first ones.

    W_Q d x p, W_Z d x (kv heads * head width), W_R d x rotary width, W_O p x d. Stored: z and the rotary key. Source:
    Zadouri, Strauss and Dao 2025 (2505.21487), Grouped-Tied Attention.
    """

    W_Q: Any
    W_Z: Any
    W_R: Any

    def queries(self, x: Any) -> Any:
        return x @ self.W_Q

    def stored(self, x: Any) -> Stored:
        return x @ self.W_Z, x @ self.W_R

    def recalled(self, stored: Stored) -> tuple[Any, Any]:
        z, rotary = stored
        return self.half(z, rotary), z

    def half(self, z: Any, rotary: Any) -> Any:
        """Keys from the tied array and the rotary key; works on their weights as well."""
        heads = self.core.kv_heads
        return in_every_head([rotary], merge(split(z, heads, "values")[..., rotary.shape[1] :]), heads)

    def attention(self, n: int) -> Attention:
        keys = self.half(self.W_Z, self.W_R)
        return Attention(self.core.at(n), self.W_Q, keys, self.W_Z, self.W_O, b_O=self.b_O)


@dataclass(frozen=True, eq=False, kw_only=True)
class KeysFromValues(Sublayer):
    """QV-Ka: the key of a head is computed from its value and a context c = x W_C that the heads share.

    W_Q, W_V d x p; W_C d x d_ctx; W_KC d_ctx x p and W_KV (heads, d_h, d_h) are the two parts of the paper's W_K; W_O
    p x d. Stored: values and context. As reported, the context may be any vector at hand when a token is read; here it
    is a projection of the token's own hidden state. Source: Zhang 2026 (2603.15665), "key after value and context".
    """

    W_Q: Any
    W_V: Any
    W_C: Any
    W_KC: Any
    W_KV: Any

    def queries(self, x: Any) -> Any:
        return x @ self.W_Q

    def stored(self, x: Any) -> Stored:
        return x @ self.W_V, x @ self.W_C

    def recalled(self, stored: Stored) -> tuple[Any, Any]:
        values, context = stored
        return self.keys(values, context), values

    def keys(self, values: Any, context: Any) -> Any:
        """Keys from values and context; works on their weights as well."""
        return context @ self.W_KC + merge(split(values, self.core.heads, "values") @ self.W_KV)

    def attention(self, n: int) -> Attention:
        keys = self.keys(self.W_V, self.W_C)
        return Attention(self.core.at(n), self.W_Q, keys, self.W_V, self.W_O, b_O=self.b_O)


@dataclass(frozen=True, eq=False, kw_only=True)
class Slim(Sublayer):
    """Slim attention: only the keys are stored, and values are k W_KV + b_KV. Made by ``slim``.

    W_Q, W_K, W_KV d x d, W_O d x d. With ``rotate`` the stored keys are the unrotated ones. The heads sum keys first
    and multiply by W_KV after that, as in the paper: the other order would redo it for every cached token. Source:
    Graef and Wasielewski 2025 (2503.05840).
    """

    W_Q: Any
    W_K: Any
    W_KV: Any
    b_Q: Any = None
    b_K: Any = None
    b_KV: Any = None

    def queries(self, x: Any) -> Any:
        return affine(x, self.W_Q, self.b_Q)

    def stored(self, x: Any) -> Stored:
        return (affine(x, self.W_K, self.b_K),)

    def recalled(self, stored: Stored) -> tuple[Any, Any]:
        (keys,) = stored
        return keys, affine(keys, self.W_KV, self.b_KV)

    def mixed(self, core: Heads, q: Any, stored: Stored) -> Any:
        (keys,) = stored
        maps = core.maps(q, keys)
        sums = maps @ keys  # of full width: (heads, new tokens, d)
        values = merge(sums @ split(self.W_KV, core.heads, "values"))
        if self.b_KV is None:
            return values
        once = array_namespace(maps).sum(maps, axis=-1, keepdims=True)  # the sum of a row, which need not be one
        return values + merge(once * split(self.b_KV[None] if self.b_KV.ndim == 1 else self.b_KV, core.heads, "values"))

    def attention(self, n: int) -> Attention:
        b_V = self.b_KV if self.b_K is None else affine(self.b_K, self.W_KV, self.b_KV)
        biases = {"b_Q": self.b_Q, "b_K": self.b_K, "b_V": b_V, "b_O": self.b_O}
        return Attention(self.core.at(n), self.W_Q, self.W_K, self.W_K @ self.W_KV, self.W_O, **biases)


def in_every_head(shared: Any, own: Any, heads: int) -> Any:
    """[shared | own] in each head: arrays of n rows beside the columns of every head. ``shared``: a list, or empty."""
    if not shared:
        return own
    columns = split(own, heads, "keys")
    xp = array_namespace(columns)
    every = [xp.broadcast_to(a[None], (heads, *a.shape)) for a in shared]
    return merge(xp.concat([*every, columns], axis=-1))


# -- made from names, and from trained layers --------------------------------------------------------------------------


def build(
    variant: Variant | str,
    d: int,
    heads: int,
    head_width: int | None = None,
    *,
    rng: np.random.Generator | None = None,
    biases: bool = False,
    rotate: Callable[[int], Rope] | None = None,
) -> Sublayer:
    """A sublayer of this variant with random weights, d wide; sizes as in ``weight_shapes``.

    ``rng``: of seed 0 unless given, so two calls give one layer. ``head_width``: d / heads unless given. ``rotate``:
    the rotary positions, n -> Rope; in MLA and GTA they are for the rotary keys, half a head wide. Raises ValueError
    for an unknown name and for sizes that do not fit.

    >>> build("Q-K=V", 8, 4).weights()["W_Z"].shape
    (8, 8)
    """
    v = parse(variant) if isinstance(variant, str) else variant
    rng = np.random.default_rng(0) if rng is None else rng
    shapes = weight_shapes(v, d, heads, head_width, biases)
    weights: dict[str, Any] = {name: rng.normal(size=shape) / shape[-2] ** 0.5 for name, shape in shapes.items()}
    correction = partial(corrected, weights=rng.normal(size=CHANNELS)) if v.corrected else None
    core = CausalHeads(heads, v.groups, rotate=rotate, correction=correction)
    if v.kind == "slim":
        from qkvtheory.lossless import slim  # it is made of these classes

        return slim(Separate(core=core, **weights))
    return CLASSES[v.kind](core=core, **weights)


CHANNELS = 10  # of the published 2D correction
CLASSES: dict[str, Callable[..., Sublayer]] = {
    "QKV": Separate,
    "Q-K=V": KeysAreValues,
    "Q=K-V": QueriesAreKeys,
    "Q=K=V": AllEqual,
    "MLA": Latent,
    "GTA": HalfTied,
    "QV-Ka": KeysFromValues,
}


def corrected(n: int, rows: int, weights: Any) -> Correction:
    """The published correction for the last ``rows`` of n tokens, with these weights of its channels."""
    return Correction(separable_channels(n, len(weights), rows), weights)


def tie_after(attention: Attention, keep: str = "K") -> Attention:
    """Keys equal to values, forced on a trained layer: both become its keys ("K"), its values ("V") or their "average".

    The function changes, and how much depends on the gauge in which the layer was given (claim posthoc-tying). W_K and
    W_V must have one shape. Studied by Kayyam, Madan Gopal and Lewis (their repository's notes on 2606.04032).
    """
    if keep not in ("K", "V", "average"):
        raise ValueError(f"keep must be 'K', 'V' or 'average', not {keep!r}")
    if attention.W_K.shape != attention.W_V.shape:
        raise HypothesisError("shapes agree", "keys and values can be tied only if W_K and W_V have one shape")
    if keep == "average":
        W, b = (attention.W_K + attention.W_V) / 2, halfway(attention.b_K, attention.b_V)
    else:
        W, b = getattr(attention, f"W_{keep}"), getattr(attention, f"b_{keep}")
    return replace(attention, W_K=W, W_V=W, b_K=b, b_V=b)


def halfway(a: Any, b: Any) -> Any:
    return b if a is None and b is None else ((a if a is not None else b * 0) + (b if b is not None else a * 0)) / 2


def tied_recurrence(features: Any, z: Any) -> Any:
    """Causal kernel attention with queries, keys and values all equal, as a recurrence; n x d.

    ``features``: phi(z), n x f, entries not negative and no row zero; ``z`` n x d. The state is f (d + 1) numbers
    however long the context is (claim tied-recurrence). Raises HypothesisError "positive features" where the weights of
    a token sum to 0, "shapes agree" for arrays of different length. Reported in an appendix of 2606.04032.

    >>> tied_recurrence(np.array([[1.0], [3.0]]), np.array([[4.0], [8.0]])).tolist()
    [[4.0], [7.0]]
    """
    if len(features) != len(z):
        raise HypothesisError("shapes agree", f"there are {len(features)} rows of features for {len(z)} tokens")
    tokens = ((features[t : t + 1], z[t : t + 1]) for t in range(len(z)))
    rows = []
    for t, (total, norm) in enumerate(tied_sums(tokens)):
        if bool((norm == 0).any()):
            raise HypothesisError("positive features", f"the weights of token {t} sum to 0")
        rows.append(total * (1 / norm))
    return array_namespace(z).concat(rows, axis=0)


def tied_sums(tokens: Iterable[tuple[Any, Any]]) -> Iterator[tuple[Any, Any]]:
    """phi(z_t) S_t and phi(z_t) N_t^T of each token: what its output is the quotient of.

    ``tokens``: pairs of rows phi(z_t), 1 x f, and z_t, 1 x d. Token t adds phi(z_t)^T z_t to S and phi(z_t) to N.
    """
    S, N = None, None
    for f, z in tokens:
        seen = f.mT @ z
        S, N = (seen, f) if S is None else (S + seen, N + f)
        yield f @ S, f @ N.mT
