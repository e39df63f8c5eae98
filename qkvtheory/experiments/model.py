"""One small transformer whose attention is any variant of the book: what the experiments train.

A decoder (``causal``) or an encoder, pre-norm or without norms, with skips around attention only, both or none. The
weights have the names and the orientation of the package: ``blocks.0.attention.W_Q`` is d x p and acts on the right.
``to_network`` hands a model over to the package, in float64; the tests compare the two. PyTorch is needed.

>>> config = Config(vocab=5, context=4, layers=1, d=8, heads=2, variant="Q-K=V")
>>> model = Model(config)
>>> model(torch.zeros(3, 4, dtype=torch.long)).shape
torch.Size([3, 4, 5])
>>> tuple(model.blocks[0].attention.W_Z.shape), parameters(model)
((8, 8), 800)
"""

from __future__ import annotations

import json
import math
import sys
import zlib
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from qkvtheory.experiments import Missing
from qkvtheory.positions import relative_channels, rope, separable_channels
from qkvtheory.tying import CHANNELS
from qkvtheory.variants import Variant, check_size, parse, weight_shapes

try:
    import torch
    import torch.nn.functional as F
    from torch import nn
except ImportError:
    raise Missing("the experiments train with PyTorch; install it with: pip install torch safetensors") from None

CHOICES = {
    "query": ("linear", "identity", "nonlinear", "bottleneck"),
    "norm": ("layernorm", "rmsnorm", "none"),
    "skips": ("both", "attention", "none"),
    "positions": ("learned", "rope", "none"),
    "correction": ("separable", "relative"),
}
NOT_TRAINED = {  # variants that make a cache smaller after training, or whose sizes are those of large models
    "slim": "slim attention is made from a trained QKV layer (qkvtheory.lossless.slim)",
    "MLA": "MLA is counted and decoded in this book (qkvtheory.tying), not trained",
    "GTA": "GTA is counted and decoded in this book (qkvtheory.tying), not trained",
}
WEIGHTS, CONFIG = "model.safetensors", "config.json"
EPS = 1e-5  # of the norms
LARGEST = 2**24  # size: a matrix of two such has a number of bytes that PyTorch can still count
NANOGPT = 0.02 * 768**0.5  # the deviation 0.02 of nanoGPT at its width of 768, in units of 1/sqrt(d)


def check_number(name: str, value: Any, least: float = -math.inf) -> None:
    """Raises ValueError for what is no finite number, or one below ``least``.

    >>> check_number("rate", float("nan"))
    Traceback (most recent call last):
    ValueError: rate must be a finite number, not nan
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        raise ValueError(f"{name} must be a finite number, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least:g}, not {value}")


@dataclass(frozen=True)
class Config:
    """The shape of a model.

    vocab: symbols that are read; outputs: classes that are predicted, vocab unless given. inputs: instead of symbols,
    so many real numbers a token. context: the longest sequence. mlp: hidden units, as a multiple of d; 0: no MLP.
    variant: a name of ``qkvtheory.variants``. query: "linear" (W_Q), "identity" (x), "nonlinear" (x + f(x) as
    published, arXiv 2603.13381) or "bottleneck" (x + x W_1 W_2, its linear control of equal size). score_scale: a
    factor on 1/sqrt(head width); 0 makes attention uniform. qk_norm: RMSNorm of each head's queries and keys.
    correction: the table of the 2D correction of (...)+ variants; temperature: the factor on their scores if it is not
    learned. pool: one prediction for a sequence, from the mean of the stream. tied: the readout is the embedding.
    init: the deviation of initial weights, in units of 1/sqrt(d).

    Raises ValueError for sizes and names that mean nothing together.
    """

    vocab: int = 256
    context: int = 128
    layers: int = 2
    d: int = 64
    heads: int = 4
    variant: str = "QKV"
    query: str = "linear"
    score_scale: float = 1.0
    qk_norm: bool = False
    norm: str = "layernorm"
    skips: str = "both"
    positions: str = "learned"
    tied: bool = True
    mlp: float = 4.0
    causal: bool = True
    outputs: int | None = None
    inputs: int | None = None
    pool: bool = False
    correction: str = "separable"
    temperature: float | None = None
    init: float = NANOGPT

    def __post_init__(self) -> None:
        given = (name for name in ("outputs", "inputs") if getattr(self, name) is not None)
        for name in ("vocab", "context", "layers", "d", "heads", *given):
            check_size(name, getattr(self, name))
            if getattr(self, name) > LARGEST:
                raise ValueError(f"{name} must be at most {LARGEST}, not {getattr(self, name)}")
        for name in ("qk_norm", "tied", "causal", "pool"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be true or false, not {getattr(self, name)!r}")
        for name, least in (("score_scale", -math.inf), ("mlp", 0), ("init", 0)):
            check_number(name, getattr(self, name), least)
        if self.temperature is not None:
            check_number("temperature", self.temperature)
        if self.mlp and not 1 <= (hidden := float(self.mlp) * self.d) <= LARGEST:
            raise ValueError(
                f"mlp={self.mlp:g} makes {hidden:g} hidden units; expected 1 to {LARGEST}, or mlp=0 for none"
            )
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, not {getattr(self, name)!r}")
        variant = parse(self.variant)
        if variant.kind in NOT_TRAINED:
            raise ValueError(f"the variant {variant.name} is not for training: {NOT_TRAINED[variant.kind]}")
        if self.query != "linear" and variant.kind not in ("QKV", "Q-K=V"):
            raise ValueError(f"query={self.query!r} needs a query of its own; in {variant.name} it is tied")
        if self.tied and (self.inputs is not None or self.classes != self.vocab):
            raise ValueError("a tied readout needs as many outputs as symbols; pass tied=False")
        if self.positions == "rope" and self.head_width % 2:
            raise ValueError(f"rotary positions need an even head width, not {self.head_width}")
        weight_shapes(variant, self.d, self.heads)  # refuses widths and groups that do not fit

    @property
    def classes(self) -> int:
        return self.vocab if self.outputs is None else self.outputs

    @property
    def head_width(self) -> int:
        return self.d // self.heads

    @property
    def hidden(self) -> int:
        return round(self.mlp * self.d)

    @property
    def kind(self) -> Variant:
        return parse(self.variant)


class Attention(nn.Module):
    """An attention sublayer: the weights its variant learns, and nothing else."""

    W_O: Any
    w: Any  # of the 2D correction
    table: Any
    cos: Any  # of the rotary positions
    sin: Any

    def __init__(self, config: Config):
        super().__init__()
        self.config, self.variant = config, config.kind
        d, heads = config.d, config.heads
        shapes = weight_shapes(self.variant, d, heads)
        if config.query != "linear":
            del shapes["W_Q"]
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.empty(shape)))
        if config.query in ("nonlinear", "bottleneck"):
            self.W_1, self.W_2 = (nn.Parameter(torch.empty(shape)) for shape in ((d, d // 2), (d // 2, d)))
        if config.query == "nonlinear":
            self.gain_inner, self.gain_outer = nn.Parameter(torch.ones(d)), nn.Parameter(torch.ones(d))
        if config.qk_norm:
            self.gain_Q, self.gain_K = (nn.Parameter(torch.ones(config.head_width)) for _ in range(2))
        if self.variant.corrected:
            self.w = nn.Parameter(torch.empty(CHANNELS))
            make = {"separable": separable_channels, "relative": relative_channels}[config.correction]
            self.register_buffer("table", torch.tensor(make(config.context, CHANNELS)), persistent=False)
        if config.positions == "rope":
            angles = rope(config.context, config.head_width)
            self.register_buffer("cos", torch.tensor(angles.cos), persistent=False)
            self.register_buffer("sin", torch.tensor(angles.sin), persistent=False)

    def forward(self, x: Any) -> Any:
        q, stored = self.project(x)
        return self.mix(q, *self.recall(stored), causal=self.config.causal)

    def project(self, x: Any) -> tuple[Any, tuple[Any, ...]]:
        """Queries (..., n, p), and what a cache keeps of the tokens (see ``qkvtheory.tying``)."""
        kind = self.variant.kind
        if kind in ("Q=K-V", "Q=K=V"):
            z = x @ self.W_Z
            return z, (z, x @ self.W_V) if kind == "Q=K-V" else (z,)
        if kind == "QV-Ka":
            return x @ self.W_Q, (x @ self.W_V, x @ self.W_C)
        return self.queries(x), (x @ self.W_K, x @ self.W_V) if kind == "QKV" else (x @ self.W_Z,)

    def queries(self, x: Any) -> Any:
        """x W_Q, or what stands in its place."""
        if self.config.query == "linear":
            return x @ self.W_Q
        if self.config.query == "identity":
            return x
        if self.config.query == "bottleneck":
            return x + x @ self.W_1 @ self.W_2
        hidden = F.gelu(F.rms_norm(x, x.shape[-1:], self.gain_inner, EPS) @ self.W_1, approximate="tanh")
        return x + F.layer_norm(hidden @ self.W_2, x.shape[-1:], self.gain_outer, None, EPS)

    def recall(self, stored: tuple[Any, ...]) -> tuple[Any, Any]:
        """Keys and values, from what is stored of the tokens."""
        if self.variant.kind == "QV-Ka":
            values, context = stored
            heads = values.unflatten(-1, (self.config.heads, -1))
            own = torch.einsum("...hi,hij->...hj", heads, self.W_KV).flatten(-2)
            return context @ self.W_KC + own, values
        return stored[0], stored[-1]

    def mix(self, q: Any, k: Any, v: Any, causal: bool, last: int | None = None) -> Any:
        """The heads and W_O: (batch, queries, p), keys and values (batch, n, ...) to (batch, queries, d).

        ``last``: the queries are the last of the n tokens, as when decoding.
        """
        c, n = self.config, k.shape[-2]
        groups = self.variant.groups or c.heads
        q, k, v = split(q, c.heads), split(k, groups), split(v, groups)
        if c.qk_norm:
            q, k = self.normed(q, k)
        if c.positions == "rope":
            cos, sin = (table[:n].to(q.dtype) for table in (self.cos, self.sin))
            q, k = (turned(z, cos[n - z.shape[-2] :], sin[n - z.shape[-2] :]) for z in (q, k))
        if groups != c.heads:
            k, v = (z.repeat_interleave(c.heads // groups, dim=1) for z in (k, v))
        mask = None
        if self.variant.corrected:
            q, mask = q * self.temperature, self.added(n, causal)[n - q.shape[-2] :]
        elif causal and last is not None and last > 1:
            mask = causal_mask(n, q.device)[n - last :]
        fused = causal and mask is None and last is None
        heads = F.scaled_dot_product_attention(q, k, v, mask, is_causal=fused, scale=self.scale)
        return heads.transpose(-2, -3).flatten(-2) @ self.W_O

    def normed(self, q: Any, k: Any) -> tuple[Any, Any]:
        """QK-norm: RMSNorm of each head's queries and keys, (..., head width)."""
        q, k = (F.rms_norm(z, z.shape[-1:], g, EPS) for z, g in ((q, self.gain_Q), (k, self.gain_K)))
        return q, k

    @property
    def scale(self) -> float:
        return self.config.score_scale / self.config.head_width**0.5

    @property
    def temperature(self) -> Any:
        """The factor of the 2D correction on the scores: the sum of its weights, or what it is frozen at."""
        return self.w.sum() if self.config.temperature is None else self.config.temperature

    def added(self, n: int, causal: bool) -> Any:
        """What the 2D correction adds to the scores, n x n, with the causal mask where there is one."""
        bias = self.table[:n, :n].to(self.w.dtype) @ self.w
        return bias.masked_fill(~causal_mask(n, bias.device), -math.inf) if causal else bias


def causal_mask(n: int, device: Any) -> Any:
    return torch.ones(n, n, dtype=torch.bool, device=device).tril()


def split(z: Any, heads: int) -> Any:
    """(batch, n, heads * width) -> (batch, heads, n, width)."""
    return z.unflatten(-1, (heads, -1)).transpose(-2, -3)


def turned(z: Any, cos: Any, sin: Any) -> Any:
    """Rotary positions, pairs (0, 1), (2, 3), ...; as ``qkvtheory.positions.Rope``."""
    a, b = z[..., ::2], z[..., 1::2]
    return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2)


class MLP(nn.Module):
    """GELU(y W_up) W_down, the GELU in its tanh form."""

    def __init__(self, config: Config):
        super().__init__()
        self.W_up = nn.Parameter(torch.empty(config.d, config.hidden))
        self.W_down = nn.Parameter(torch.empty(config.hidden, config.d))

    def forward(self, y: Any) -> Any:
        return F.gelu(y @ self.W_up, approximate="tanh") @ self.W_down


class Norm(nn.Module):
    """LayerNorm or RMSNorm with a gain and no bias; or nothing."""

    def __init__(self, config: Config):
        super().__init__()
        self.kind = config.norm
        if self.kind != "none":
            self.gain = nn.Parameter(torch.ones(config.d))

    def forward(self, x: Any) -> Any:
        if self.kind == "layernorm":
            return F.layer_norm(x, x.shape[-1:], self.gain, None, EPS)
        return F.rms_norm(x, x.shape[-1:], self.gain, EPS) if self.kind == "rmsnorm" else x


class Block(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.attention_norm, self.attention = Norm(config), Attention(config)
        self.mlp_norm, self.mlp = Norm(config), MLP(config)
        self.attention_skip, self.mlp_skip = config.skips != "none", config.skips == "both"

    def forward(self, x: Any) -> Any:
        return self.after(x, self.attention(self.attention_norm(x)))

    def after(self, x: Any, z: Any) -> Any:
        """The rest of the block, once its attention has written z."""
        y = x + z if self.attention_skip else z
        z = self.mlp(self.mlp_norm(y))
        return y + z if self.mlp_skip else z


class Model(nn.Module):
    """The transformer. ``seed``: of the initial weights; each is drawn by its own name, so that variants start from
    the same weights where they have the same ones.
    """

    def __init__(self, config: Config, seed: int = 0):
        super().__init__()
        self.config = config
        self.embedding = nn.Parameter(torch.empty(config.inputs or config.vocab, config.d))
        if config.positions == "learned":
            self.positions = nn.Parameter(torch.empty(config.context, config.d))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = Norm(config)
        if not config.tied:
            self.readout = nn.Parameter(torch.empty(config.d, config.classes))
        self.initialize(seed)

    @torch.no_grad()
    def initialize(self, seed: int) -> None:
        c = self.config
        for name, weight in self.named_parameters():
            if "gain" in name:
                continue
            deviation = 0.02 if name.endswith(".w") else c.init / c.d**0.5
            if name.endswith(("W_O", "W_down")):
                deviation /= (2 * c.layers) ** 0.5  # so that the stream does not grow with depth
            generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
            weight.copy_(torch.randn(weight.shape, generator=generator) * deviation)

    def forward(self, tokens: Any) -> Any:
        """Logits (batch, n, classes), or (batch, classes) with ``pool``.

        tokens: (batch, n) symbols; (batch, n, k) symbols whose embeddings are summed; or (batch, n, inputs) numbers.
        """
        x = self.embedded(tokens)
        for block in self.blocks:
            x = block(x)
        return self.read(x)

    def embedded(self, tokens: Any, start: int = 0) -> Any:
        """The stream before the first block, of tokens that begin at position ``start``."""
        if self.config.inputs:
            x = tokens @ self.embedding
        else:
            x = F.embedding(tokens, self.embedding)
            x = x.sum(-2) if tokens.ndim == 3 else x
        return x + self.positions[start : start + x.shape[-2]] if self.config.positions == "learned" else x

    def read(self, x: Any) -> Any:
        x = self.norm(x)
        if self.config.pool:
            x = x.mean(-2)
        return x @ (self.embedding.mT if self.config.tied else self.readout)

    def loss(self, tokens: Any, targets: Any) -> Any:
        """Mean cross-entropy in nats; targets of -100 are not scored."""
        return F.cross_entropy(self(tokens).flatten(0, -2), targets.flatten(), ignore_index=-100)


def parameters(model: nn.Module) -> int:
    """How many numbers the model learns."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


# -- files -------------------------------------------------------------------------------------------------------------


def save(model: Model, folder: str | Path) -> None:
    """Write ``model.safetensors`` and ``config.json`` into the folder, which is made if need be."""
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: p.detach().contiguous().cpu() for name, p in model.named_parameters()}, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(asdict(model.config), indent=1) + "\n", "utf8")


def load(folder: str | Path) -> Model:
    """The model in this folder. Raises FileNotFoundError and ValueError, saying what is missing or does not fit."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"there is no {name} in {folder}; a folder written by 'train --out' has both files")
    model = Model(config_of((folder / CONFIG).read_bytes(), str(folder / CONFIG)))
    try:
        found = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{folder / WEIGHTS} cannot be read as safetensors ({error}); it may be cut short") from None
    expected = dict(model.named_parameters())
    for name in sorted(expected.keys() ^ found.keys()):
        raise ValueError(
            f"{folder / WEIGHTS} {'lacks' if name in expected else 'has'} {name}; it does not fit {CONFIG}"
        )
    with torch.no_grad():
        for name, p in expected.items():
            if p.shape != found[name].shape:
                raise ValueError(f"{name} is {tuple(found[name].shape)} in {WEIGHTS}, {CONFIG} needs {tuple(p.shape)}")
            p.copy_(found[name])
    return model


def config_of(text: str | bytes, where: str) -> Config:
    """A Config from JSON. Raises ValueError naming what is not understood."""
    try:
        given = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not JSON: {error}") from None
    if not isinstance(given, dict):
        raise ValueError(f"{where} must hold an object with the fields of a model's shape")
    known = {f.name for f in fields(Config)}
    if unknown := sorted(set(given) - known):
        raise ValueError(f"{where}: unknown fields {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    try:
        return Config(**given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from None


# -- the same in the package -------------------------------------------------------------------------------------------


def to_network(model: Any, n: int) -> Any:
    """The model as a ``qkvtheory.Network`` in float64, for sequences of n tokens given as rows (one-hot, or numbers).

    The network gives a row of logits for each token; with ``pool`` the model's logits are their mean. A nonlinear query
    becomes a ``qkvtheory.queries.QueryAttention``.
    """
    import qkvtheory as package
    from qkvtheory.activations import gelu_tanh

    c = model.config

    def norm(module: Norm) -> Any:
        if module.kind == "none":
            return None
        kind = package.LayerNorm if module.kind == "layernorm" else package.RMSNorm
        return kind(gain=array(module.gain)[None], eps=EPS)

    blocks = []
    for block in model.blocks:
        attention = sublayer(block.attention, n)
        mlp = package.MLP(gelu_tanh, array(block.mlp.W_up), array(block.mlp.W_down))
        norms = norm(block.attention_norm), norm(block.mlp_norm)
        blocks.append(package.Block(attention, mlp, block.attention_skip, block.mlp_skip, *norms))
    positions = array(model.positions)[:n] if c.positions == "learned" else None
    readout = None if c.tied else array(model.readout)
    return package.Network(array(model.embedding), blocks, readout, positions, norm=norm(model.norm))


def array(weight: Any) -> Any:
    return weight.detach().double().cpu().numpy()


def sublayer(attention: Any, n: int) -> Any:
    """The attention sublayer in the package, every tie written out, for n tokens."""
    from qkvtheory.activations import gelu_tanh
    from qkvtheory.network import Attention as Projections
    from qkvtheory.queries import QueryAttention, published_query

    if attention.config.query != "nonlinear":
        return Projections(core(attention, n), *map(array, written_out(attention)))
    W_1, W_2, inner, outer = map(array, (attention.W_1, attention.W_2, attention.gain_inner, attention.gain_outer))
    W_K, W_V = keys_and_values(attention)
    query = published_query(gelu_tanh, W_1, W_2, inner[None], outer[None], EPS)
    return QueryAttention(core(attention, n), query, *map(array, (W_K, W_V, attention.W_O)))


def core(attention: Any, n: int) -> Any:
    """What happens between the projections and W_O, as ``qkvtheory.Heads`` in float64."""
    from qkvtheory.attention import Heads, causal, rms_norm

    c = attention.config
    gains = (attention.gain_Q, attention.gain_K) if c.qk_norm else ()
    norm_q, norm_k = [rms_norm(g.detach().double().numpy(), EPS) for g in gains] or (None, None)
    correction = None
    if attention.variant.corrected:
        s, added = (
            float(torch.as_tensor(attention.temperature, dtype=torch.float64).detach()),
            attention.added(n, causal=False).detach().double().numpy(),
        )

        def correction(scores: Any) -> Any:
            return s * scores + added

    return Heads(
        c.heads,
        attention.variant.groups,
        mask=causal(n) if c.causal else None,
        scale=attention.scale,
        rotate=rope(n, c.head_width) if c.positions == "rope" else None,
        norm_q=norm_q,
        norm_k=norm_k,
        correction=correction,
    )


def written_out(attention: Any) -> tuple[Any, Any, Any, Any]:
    """W_Q, W_K, W_V, W_O with every tie written out. Raises ValueError for a nonlinear query."""
    a, kind, query = attention, attention.variant.kind, attention.config.query
    if query == "nonlinear":
        raise ValueError("a nonlinear query is not a matrix; use sublayer(attention, n)")
    if kind in ("Q=K-V", "Q=K=V"):
        return a.W_Z, a.W_Z, a.W_V if kind == "Q=K-V" else a.W_Z, a.W_O
    eye = torch.eye(a.config.d, dtype=a.W_O.dtype, device=a.W_O.device)
    W_Q = a.W_Q if query == "linear" else eye if query == "identity" else eye + a.W_1 @ a.W_2
    return W_Q, *keys_and_values(a), a.W_O


def keys_and_values(a: Any) -> tuple[Any, Any]:
    """W_K and W_V of a sublayer with queries of its own."""
    if a.variant.kind == "QV-Ka":
        return a.recall((a.W_V, a.W_C))
    return (a.W_K, a.W_V) if a.variant.kind == "QKV" else (a.W_Z, a.W_Z)
