"""What a count needs to know about a model: the sizes and the few choices that add or remove numbers."""

from __future__ import annotations

from dataclasses import dataclass, fields

NORMS = {"layer": 2, "rms": 1, "plain": 0}  # numbers per channel: gain and bias, gain alone, neither
QK_NORMS = ("", "head", "all")
LARGEST = 2**40  # no size of a model comes near; a larger one is a mistake or an attack


class ConfigError(ValueError):
    """A configuration, or a variant of it, that cannot be counted. ``key`` names what to look at."""

    def __init__(self, key: str, message: str):
        super().__init__(f"{key}: {message}")
        self.key, self.message = key, message


@dataclass(frozen=True)
class Latent:
    """Sizes of latent attention (MLA, DeepSeek-V2, 2405.04434): what the cache keeps, and what is made from it.

    ``latent``: d_c, the width of the latent of keys and values. ``rotary``: d_R, the rotary part of queries and of the
    one key that all heads share. ``key`` and ``value``: widths of a head's unrotated key and of its value. ``query``:
    the width of the latent of the queries, None if queries are read from the stream. ``normed``: an RMSNorm with gain
    on each latent.
    """

    latent: int
    rotary: int
    key: int
    value: int
    query: int | None = None
    normed: bool = False

    def __post_init__(self) -> None:
        for name in ("latent", "rotary", "key", "value"):
            check_size(name, getattr(self, name))
        if self.query is not None:
            check_size("query", self.query)


@dataclass(frozen=True)
class Experts:
    """A mixture of experts in place of the MLP. ``number`` experts of hidden width ``width``, of which a token uses
    ``active``; ``shared``: hidden width of the MLP that every token uses beside them; ``dense_layers``: the first
    layers, which have an ordinary MLP. The router is a d x ``number`` matrix.
    """

    number: int
    active: int
    width: int
    shared: int = 0
    dense_layers: int = 0

    def __post_init__(self) -> None:
        for name in ("number", "active", "width"):
            check_size(name, getattr(self, name))
        check_size("shared", self.shared, least=0)
        check_size("dense_layers", self.dense_layers, least=0)
        if self.active > self.number:
            raise ConfigError("active", f"a token cannot use {self.active} of {self.number} experts")


@dataclass(frozen=True)
class Config:
    """A transformer, as far as counting goes. Symbols as on the book's page Notation.

    ``layers`` L, ``width`` d, ``heads`` H, ``groups`` g (key/value heads), ``head_width`` d_h (H d_h need not be d),
    ``hidden`` m (hidden width of the MLP), ``vocabulary`` v.

    ``gated``: the MLP has a gate (GLU), three matrices in place of two.
    ``positions``: rows of a learned table of positions; 0 for rotary positions, ALiBi or none.
    ``tied``: the readout is the embedding transposed.
    ``qkv_bias``, ``output_bias``, ``mlp_bias``, ``readout_bias``: which maps have a bias.
    ``norm``: "layer" (gain and bias), "rms" (gain), "plain" (neither). ``norms``: how many in a layer, 2 as a rule,
    1 in some parallel blocks. ``other_norms``: how many outside the layers, usually the last one.
    ``qk_norm``: "" for none; "head": one norm of width d_h for the queries of all heads and one for their keys;
    "all": norms of width H d_h and g d_h.
    ``mla``: the sizes of latent attention, if the model has it. ``experts``: a mixture of experts, if it has one.
    ``window``: how many tokens a layer with a sliding window sees; ``windowed``: how many layers have one.
    ``context``: the length that the model is made for, where it is known.
    ``embedding_width``: width of the embedding where it is not d; two matrices lead in and out.
    ``segments``: rows of a table of token types. ``transform``: a d x d map with bias and a norm before the readout.
    ``decoder``: False for an encoder, which keeps no cache.
    ``key_context``: d_ctx of QV-Ka, d_h if None. ``channels``: m' of the 2D correction, 10 in its authors' code.

    Raises ConfigError, naming the field, for sizes that are not positive integers or do not fit together.

    >>> Config(layers=20, width=1024, heads=16, groups=16, head_width=64, hidden=4096, vocabulary=50304).query_width
    1024
    """

    layers: int
    width: int
    heads: int
    groups: int
    head_width: int
    hidden: int
    vocabulary: int
    gated: bool = False
    positions: int = 0
    tied: bool = True
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    readout_bias: bool = False
    norm: str = "layer"
    norms: int = 2
    other_norms: int = 1
    qk_norm: str = ""
    mla: Latent | None = None
    experts: Experts | None = None
    window: int | None = None
    windowed: int = 0
    context: int | None = None
    embedding_width: int | None = None
    segments: int = 0
    transform: bool = False
    decoder: bool = True
    key_context: int | None = None
    channels: int = 10
    name: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "int":
                check_size(field.name, value, least=1 if field.name in SIZES else 0)
            elif field.type == "int | None" and value is not None:
                check_size(field.name, value)
            elif field.type == "bool" and not isinstance(value, bool):
                raise ConfigError(field.name, f"expected True or False, not {value!r}")
        if self.heads % self.groups:
            raise ConfigError("groups", f"{self.groups} key/value heads do not divide {self.heads} query heads")
        if self.norm not in NORMS:
            raise ConfigError("norm", f"expected one of {', '.join(NORMS)}, not {self.norm!r}")
        if self.qk_norm not in QK_NORMS:
            raise ConfigError("qk_norm", f"expected one of {QK_NORMS}, not {self.qk_norm!r}")
        if self.windowed > self.layers or (self.windowed and self.window is None):
            raise ConfigError("windowed", f"{self.windowed} of {self.layers} layers with a window of {self.window}")
        if self.experts and self.experts.dense_layers > self.layers:
            raise ConfigError("dense_layers", f"{self.experts.dense_layers} of {self.layers} layers")

    @property
    def query_width(self) -> int:
        """H d_h, the p of the notation."""
        return self.heads * self.head_width


SIZES = ("layers", "width", "heads", "groups", "head_width", "hidden", "vocabulary", "channels")


def check_size(name: str, value: object, least: int = 1) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ConfigError(name, f"expected a whole number, not {shown(value)}")
    if not least <= value <= LARGEST:
        raise ConfigError(name, f"expected a number from {least} to {LARGEST}, not {shown(value)}")


def shown(value: object) -> str:
    """A value in a message: whole if it is short; a file may hold anything."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        return f"a {type(value).__name__} too large to print"
    return text if len(text) <= 60 else f"{text[:57]}..."


def printable(text: str) -> str:
    r"""A name from outside, with an escape for all that a terminal would obey or could not show.

    >>> printable("caf\u00e9 \x1b[31m")
    'café \\x1b[31m'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
