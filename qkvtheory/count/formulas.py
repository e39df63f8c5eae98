"""The formulas: parameters, multiply-accumulates and KV cache of a model with any variant of attention, in integers.

Every variant is a list of projections; parameters and operations are sums over it, so they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

from qkvtheory.count.config import NORMS, Config, ConfigError, Latent, check_size
from qkvtheory.variants import GROUPED, Variant, parse

UNBIASED = ("GTA", "QV-Ka")  # published without biases, and so is MLA
GROUPS_KEY, HEADS_KEY, WIDTH_KEY = "num_key_value_heads", "num_attention_heads", "head_dim"


@dataclass(frozen=True)
class Projection:
    """``copies`` matrices of ``rows`` x ``columns`` that act on every token, each with a bias if ``bias``."""

    name: str
    rows: int
    columns: int
    bias: bool = False
    copies: int = 1

    @property
    def weights(self) -> int:
        """Numbers in the matrices: the multiply-accumulates for one token."""
        return self.rows * self.columns * self.copies

    @property
    def parameters(self) -> int:
        return self.weights + (self.columns * self.copies if self.bias else 0)


class Sum:
    """A breakdown: the fields are the parts, and nothing else is in the total."""

    def parts(self) -> dict[str, int]:
        return {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]

    @property
    def total(self) -> int:
        return sum(self.parts().values())


@dataclass(frozen=True)
class Parameters(Sum):
    """Learned numbers. ``attention``: projections with their biases, and corrections. ``mlp``: routers too.
    ``embeddings``: tokens, positions, token types. ``norms``: every gain and bias of a norm. ``readout``: 0 if tied
    and without bias.
    """

    attention: int
    mlp: int
    embeddings: int
    norms: int
    readout: int


@dataclass(frozen=True)
class Macs(Sum):
    """Multiply-accumulates; a profiler that counts operations reports twice as many. ``projections``: the products
    with the weights of attention. ``scores``: scores, and sums of values. ``mlp``, ``readout``: as named.
    """

    projections: int
    scores: int
    mlp: int
    readout: int


# -- variants ----------------------------------------------------------------------------------------------------------


def resolve(config: Config, variant: Variant | str | None = None) -> Variant:
    """The variant that is meant for this model; None: as the model is published.

    A kind without groups keeps the model's own, which are then written out: "Q-K=V" on a model with 8 key/value heads
    is Q-GQA-8. "MHA" always means one key/value head for each query head.

    Raises ConfigError, naming the key of the configuration, if the model cannot take the variant; ValueError if there
    is no such variant.

    >>> from qkvtheory.count import preset
    >>> [resolve(preset("llama-3-8b"), name).name for name in ("Q-K=V", "GQA-2", "MHA")]
    ['Q-GQA-8', 'GQA-2', 'GQA-32']
    """
    if variant is None:
        variant = Variant("MLA") if config.mla else Variant("QKV")
    elif isinstance(variant, str):
        every = variant.upper().strip("()+ ") == "MHA"
        variant = parse(variant)
        variant = Variant("QKV", config.heads, variant.corrected) if every else variant
    own = config.heads if config.mla else config.groups
    groups = variant.groups or own
    check(config, variant, groups)
    # Written out except where nothing is shared and nothing else could be meant, so resolving again changes nothing.
    explicit = variant.kind in GROUPED and not groups == own == config.heads
    return Variant(variant.kind, groups if explicit else None, variant.corrected)


def label(config: Config, variant: Variant | str | None = None) -> str:
    """The name of the variant on this model: one key/value head for each query head is no grouping.

    >>> from qkvtheory.count import preset
    >>> label(preset("llama-3-8b")), label(preset("llama-3-8b"), "MHA")
    ('GQA-8', 'QKV')
    """
    variant = resolve(config, variant)
    return (replace(variant, groups=None) if variant.groups == config.heads else variant).name


def check(config: Config, variant: Variant, groups: int) -> None:
    kind, name, heads = variant.kind, variant.name, config.heads
    if config.mla and kind != "MLA" and (kind != "QKV" or groups != heads):
        raise ConfigError(
            "kv_lora_rank", f"this model has latent attention; count it as MLA or, for comparison, QKV, not as {name}"
        )
    if heads % groups:
        raise ConfigError(GROUPS_KEY, f"{name} needs {groups} groups, which do not divide {HEADS_KEY} = {heads}")
    if kind not in (*GROUPED, "MLA") and groups != heads:
        raise ConfigError(
            GROUPS_KEY, f"{name} needs a key head for each of the {heads} query heads, but this model has {groups}"
        )
    if kind == "slim" and config.query_width != config.width:
        raise ConfigError(
            WIDTH_KEY,
            f"slim rebuilds values by the inverse of W_K, which must be square; here it is {config.width} x "
            f"{config.query_width}",
        )
    if kind in ("GTA", "MLA") and not config.mla and config.head_width % 2:
        raise ConfigError(WIDTH_KEY, f"{name} needs an even head width for its rotary half, not {config.head_width}")


def latent_sizes(config: Config) -> Latent:
    """The model's own, or else DeepSeek-V2's proportions (2405.04434): d_c = 4 d_h and d_R = d_h / 2.

    >>> from qkvtheory.count import preset
    >>> latent_sizes(preset("gpt2"))
    Latent(latent=256, rotary=32, key=64, value=64, query=None, normed=False)
    """
    d_h = config.head_width
    return config.mla or Latent(latent=4 * d_h, rotary=d_h // 2, key=d_h, value=d_h)


def projections(config: Config, variant: Variant | str | None = None) -> list[Projection]:
    """The learned matrices of one attention sublayer.

    >>> from qkvtheory.count import preset
    >>> [(w.name, w.rows, w.columns) for w in projections(preset("gpt2"), "Q-K=V")]
    [('Q', 768, 768), ('K=V', 768, 768), ('O', 768, 768)]
    """
    variant = resolve(config, variant)
    d, d_h, heads = config.width, config.head_width, config.heads
    p, shared = heads * d_h, (variant.groups or heads) * d_h
    if variant.kind == "MLA":
        return latent_projections(config)
    biased = variant.kind not in UNBIASED
    reads: dict[str, int] = {
        "QKV": {"Q": p, "K": shared, "V": shared},
        "Q-K=V": {"Q": p, "K=V": shared},
        "Q=K-V": {"Q=K": p, "V": p},
        "Q=K=V": {"Q=K=V": p},
        "GTA": {"Q": p, "V": shared, "rotary K": d_h // 2},
        "QV-Ka": {"Q": p, "V": p},
        "slim": {"Q": p, "K": p, "V": p},  # V as a map of the keys, W_K^-1 W_V: as many numbers
    }[variant.kind]
    found = [Projection(name, d, columns, config.qkv_bias and biased) for name, columns in reads.items()]
    if variant.kind == "QV-Ka":
        found.append(Projection("context", d, key_context(config)))
        found.append(Projection("K", key_context(config) + d_h, d_h, copies=heads))
    return [*found, Projection("O", p, d, config.output_bias and biased)]


def latent_projections(config: Config) -> list[Projection]:
    """MLA as in its authors' code: of the maps from the stream only the narrow ones may have a bias, and the output."""
    mla, d, heads = latent_sizes(config), config.width, config.heads
    bias, output_bias = config.qkv_bias and config.mla is not None, config.output_bias and config.mla is not None
    queries = heads * (mla.key + mla.rotary)
    down = [Projection("Q down", d, mla.query, bias)] if mla.query else []
    return [
        *down,
        Projection("Q", mla.query or d, queries),
        Projection("KV down", d, mla.latent + mla.rotary, bias),
        Projection("K", mla.latent, heads * mla.key),
        Projection("V", mla.latent, heads * mla.value),
        Projection("O", heads * mla.value, d, output_bias),
    ]


# -- parameters --------------------------------------------------------------------------------------------------------


def parameters(config: Config, variant: Variant | str | None = None) -> Parameters:
    """Learned numbers of the whole model, by part. Raises ConfigError as ``resolve``.

    >>> from qkvtheory.count import preset
    >>> parameters(preset("three-projections-300m"), "Q-K=V").total
    284542976
    """
    variant = resolve(config, variant)
    attention = sum(w.parameters for w in projections(config, variant))
    attention += config.channels + 1 if variant.corrected else 0  # its weights, and one bias as in the authors' code
    width = config.embedding_width or config.width
    embeddings = (config.vocabulary + config.segments) * width + config.positions * config.width
    if config.embedding_width:
        embeddings += 2 * width * config.width
    return Parameters(
        attention=config.layers * attention,
        mlp=sum(w.parameters for _, w in mlps(config)),
        embeddings=embeddings,
        norms=norms(config, variant),
        readout=readout(config),
    )


def norms(config: Config, variant: Variant) -> int:
    each = NORMS[config.norm]
    here = (config.layers * config.norms + config.other_norms + config.transform) * each * config.width
    if variant.kind == "MLA":
        mla = latent_sizes(config)
        return here + config.layers * (mla.latent + (mla.query or 0) if mla.normed else 0)
    queries, keys = config.heads, variant.groups or config.heads
    if config.qk_norm == "head":
        queries = keys = 1
    if not config.qk_norm:
        queries = keys = 0
    if variant.kind.startswith("Q=K"):  # queries that are the keys have their norm too
        keys = 0
    return here + config.layers * (queries + keys) * each * config.head_width


def mlps(config: Config) -> Iterator[tuple[int, Projection]]:
    """The matrices of all MLPs, and how many copies of each one token uses."""
    yield from mlp(config, config.hidden, dense_layers(config))
    if config.experts:
        e, layers = config.experts, config.layers - config.experts.dense_layers
        yield layers, Projection("router", config.width, e.number, copies=layers)
        for used, w in mlp(config, e.width, layers * e.number):
            yield used // e.number * e.active, w
        if e.shared:
            yield from mlp(config, e.shared, layers)


def dense_layers(config: Config) -> int:
    return config.experts.dense_layers if config.experts else config.layers


def mlp(config: Config, hidden: int, copies: int) -> Iterator[tuple[int, Projection]]:
    up = copies * (2 if config.gated else 1)
    yield up, Projection("up", config.width, hidden, config.mlp_bias, up)
    yield copies, Projection("down", hidden, config.width, config.mlp_bias, copies)


def readout(config: Config) -> int:
    bias = config.vocabulary if config.readout_bias else 0
    matrix = 0 if config.tied else config.vocabulary * (config.embedding_width or config.width)
    return matrix + bias + (config.width * (config.width + 1) if config.transform else 0)


# -- operations --------------------------------------------------------------------------------------------------------


def macs(config: Config, variant: Variant | str | None = None, context: int = 2048) -> Macs:
    """Multiply-accumulates for one text of ``context`` tokens, every token read out.

    All ``context`` squared scores are counted: neither the causal half nor a sliding window is made use of. Embeddings
    are looked up, norms, softmax and activations are not products of matrices, so they cost nothing here. Raises
    ConfigError as ``resolve``, and for a ``context`` that is not a whole number from 0.

    >>> from qkvtheory.count import preset
    >>> macs(preset("three-projections-300m"), "Q=K=V", 2048).total
    706790555648
    """
    check_size("context", context, least=0)
    variant = resolve(config, variant)
    width = config.query_width
    keys, values = width, width
    if variant.kind == "MLA":
        mla = latent_sizes(config)
        keys, values = config.heads * (mla.key + mla.rotary), config.heads * mla.value
    correction = config.channels if variant.corrected else 0
    return per_token(config, variant, context, config.layers * context**2 * (keys + values + correction))


def decode_macs(config: Config, variant: Variant | str | None = None, context: int = 2048) -> Macs:
    """Multiply-accumulates for one new token, with ``context`` tokens in the cache, the new one among them.

    What is made from the cache is never written out: MLA scores and sums the latents, QV-Ka scores contexts and
    values, and slim sums the keys of all heads in each head, then maps the sum (2503.05840). Raises ConfigError as
    ``resolve``, and for a ``context`` that is not a whole number from 1.

    >>> from qkvtheory.count import preset
    >>> gpt2 = preset("gpt2")
    >>> decode_macs(gpt2, "slim", 1000).scores / decode_macs(gpt2, "QKV", 1000).scores      # (H + 1) / 2
    6.5
    """
    check_size("context", context)
    variant = resolve(config, variant)
    each = for_cached_token(config, variant) + (config.channels if variant.corrected else 0)
    return per_token(config, variant, 1, tokens_kept(config, context) * each)


def for_cached_token(config: Config, variant: Variant) -> int:
    """Products with each cached token in one layer: those of the scores and those of the sums."""
    heads, width = config.heads, config.query_width
    if variant.kind == "MLA":
        mla = latent_sizes(config)
        return heads * (2 * mla.latent + mla.rotary)
    if variant.kind == "QV-Ka":
        return heads * (key_context(config) + config.head_width) + width
    if variant.kind == "slim":
        return width + heads * config.width
    return 2 * width


def per_token(config: Config, variant: Variant, tokens: int, scores: int) -> Macs:
    read = config.vocabulary * (config.embedding_width or config.width) + config.width**2 * config.transform
    between = 2 * config.width * config.embedding_width if config.embedding_width else 0
    return Macs(
        projections=tokens * config.layers * sum(w.weights for w in projections(config, variant)),
        scores=scores,
        mlp=tokens * sum(used * w.rows * w.columns for used, w in mlps(config)),
        readout=tokens * (read + between),
    )


# -- cache -------------------------------------------------------------------------------------------------------------


def cache_per_token(config: Config, variant: Variant | str | None = None) -> int:
    """Numbers that the cache keeps for each token in each layer; 0 for an encoder.

    >>> from qkvtheory.count import preset
    >>> cache_per_token(preset("deepseek-v2")), cache_per_token(preset("three-projections-300m"), "Q-GQA-4")
    (576, 256)
    """
    variant = resolve(config, variant)
    if not config.decoder:
        return 0
    if variant.kind == "MLA":
        mla = latent_sizes(config)
        return mla.latent + mla.rotary
    d_h = config.head_width
    shared = (variant.groups or config.heads) * d_h
    return {
        "QKV": 2 * shared,
        "Q=K-V": 2 * shared,  # queries are never cached, so sharing them saves nothing
        "Q-K=V": shared,
        "Q=K=V": shared,
        "GTA": shared + d_h // 2,
        "QV-Ka": shared + key_context(config),
        "slim": shared,
    }[variant.kind]


def key_context(config: Config) -> int:
    """d_ctx of QV-Ka: what the configuration says, or as wide as a head."""
    return config.key_context or config.head_width


def cache_bytes(
    config: Config, variant: Variant | str | None = None, context: int = 2048, batch: int = 1, bytes_per_number: int = 2
) -> int:
    """Bytes of the whole cache for ``batch`` texts of ``context`` tokens. Raises ConfigError as ``resolve``, and for
    sizes that are not whole numbers, from 0 for ``context`` and from 1 for the others.

    >>> from qkvtheory.count import preset
    >>> cache_bytes(preset("three-projections-300m"), "QKV", context=1)
    81920
    """
    check_size("batch", batch)
    check_size("bytes_per_number", bytes_per_number)
    return tokens_kept(config, context) * cache_per_token(config, variant) * batch * bytes_per_number


def tokens_kept(config: Config, context: int) -> int:
    """Tokens in the caches of all layers together; a layer with a sliding window keeps no more than it can see."""
    check_size("context", context, least=0)
    seen = min(context, config.window or context)
    return (config.layers - config.windowed) * context + config.windowed * seen


def saved(config: Config, variant: Variant | str | None = None) -> float:
    """The part of the cache that this variant saves, against three projections with all heads of the same shape.

    >>> from qkvtheory.count import preset
    >>> saved(preset("three-projections-300m"), "Q-MQA")
    0.96875
    """
    whole = cache_per_token(config, "MHA")
    return 1 - cache_per_token(config, variant) / whole if whole else 0.0
