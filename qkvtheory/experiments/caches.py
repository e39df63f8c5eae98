"""Decoding with real caches: arrays of a size fixed in advance that hold of each token what its variant stores.

Tokens are read one at a time or many at once; what is stored of them is written in place, and the logits are those of
the whole text. An array is (batch, heads, capacity, head width), so that a head's tokens are one piece of memory.
Three things decide the time of a step:

- Query heads that share a key head are rows of one product with it. Nothing that is cached is copied or expanded.
- Keys that are not values too are normalized and rotated once, when they are written. Keys that are values have to
  stay as they are (claim kv-rope) and are turned when they are read: piece by piece, so that what is turned never
  leaves the processor's own cache.
- Where keys are values, scores and sums are taken in one pass (PyTorch's fused attention), or what is stored once would
  be read twice.

>>> from qkvtheory.experiments.model import Model
>>> model = Model(Config(vocab=5, context=8, layers=1, d=8, heads=2, variant="Q-K=V"))
>>> tokens, decoder = torch.tensor([[0, 3, 1, 4]]), Decoder(model, capacity=4)
>>> first, last = decoder(tokens[:, :3]), decoder(tokens[:, 3:])
>>> torch.allclose(last, model(tokens)[:, 3:], atol=1e-6), decoder.nbytes  # 4 tokens, 8 numbers, 4 bytes
(True, 128)
"""

from __future__ import annotations

import math
from typing import Any

from qkvtheory.experiments.model import EPS, Config, F, split, torch, turned

PIECE = 2**22  # bytes of stored keys that are turned at a time: they stay in a processor's own cache


class Decoder:
    """A model that remembers what it has read, for ``batch`` texts of up to ``capacity`` tokens.

    ``slim``: of a QKV model only the keys are stored, and values are rebuilt from them (claim slim-exact). Raises
    ValueError for a model that is no decoder, a capacity beyond the model's context, and keys that determine no values.
    ``length``: tokens read so far; it may be set back, and what was read after that is forgotten.
    """

    def __init__(self, model: Any, capacity: int, batch: int = 1, slim: bool = False):
        check(model.config, capacity, slim)
        self.model, self.capacity, self.length = model, capacity, 0
        make = SlimLayer if slim else Layer
        self.layers = [make(block.attention, capacity, batch) for block in model.blocks]

    @property
    def nbytes(self) -> int:
        """Bytes of all that is allocated for the cache."""
        return sum(part.numel() * part.element_size() for layer in self.layers for part in layer.parts)

    @torch.inference_mode()
    def __call__(self, tokens: Any) -> Any:
        """Logits (batch, new tokens, classes) of the next tokens (batch, new tokens), which are remembered.

        Raises ValueError where they do not fit.
        """
        rows, start = tokens.shape[1], self.length
        if not 1 <= rows <= self.capacity - start:
            raise ValueError(
                f"the cache holds {start} of {self.capacity} tokens; {rows} more were given, from 1 to "
                f"{self.capacity - start} fit"
            )
        x = self.model.embedded(tokens, start)
        for block, layer in zip(self.model.blocks, self.layers, strict=True):
            x = block.after(x, layer(block.attention_norm(x), start))
        self.length += rows
        return self.model.read(x)


def check(config: Config, capacity: int, slim: bool) -> None:
    """Whether a model of this shape can be decoded with such a cache."""
    if not config.causal or config.pool:
        raise ValueError("this model reads a whole text at once (causal=False or pool=True); decoding needs a decoder")
    if not 1 <= capacity <= config.context:
        raise ValueError(f"the model's context is {config.context} tokens; a cache of {capacity} does not fit")
    if slim and (config.variant != "QKV" or config.query != "linear"):
        raise ValueError(f"slim attention is made from QKV, not from {config.variant} with query={config.query!r}")


class Layer:
    """The cache of one attention sublayer and attention over it.

    ``parts``: what is stored, each (batch, heads, capacity, head width): keys and values; the one array that is both;
    or values and the context of QV-Ka, as a single head.
    """

    def __init__(self, attention: Any, capacity: int, batch: int):
        self.attention, self.config = attention, attention.config
        self.groups = attention.variant.groups or self.config.heads
        self.as_read = not (self.config.qk_norm or self.config.positions == "rope")  # scores take keys as they are
        width = self.config.head_width
        self.parts = tuple(
            attention.W_O.new_zeros(batch, total // width, capacity, width) for total in self.stored_widths()
        )
        self.turns = turns(attention) if self.config.positions == "rope" else None

    def stored_widths(self) -> list[int]:
        """Numbers that are stored of a token, array by array: those of ``Attention.project``."""
        _, stored = self.project(self.attention.W_O.new_zeros(1, 1, self.config.d))
        return [part.shape[-1] for part in stored]

    def project(self, x: Any) -> tuple[Any, tuple[Any, ...]]:
        return self.attention.project(x)

    @property
    def keys_apart(self) -> bool:
        """Keys that are nothing else are stored as the scores need them."""
        return self.attention.variant.kind in ("QKV", "Q=K-V")

    def __call__(self, x: Any, start: int) -> Any:
        """Attention of new tokens (batch, rows, d) that follow ``start`` others."""
        q, stored = self.project(x)
        self.write(stored, start)
        end = start + x.shape[1]
        q = self.turned(split(q, self.config.heads), start, "gain_Q")
        if self.attention.variant.corrected:
            q = q * self.attention.temperature
        heads = self.mixed(q * self.attention.scale, tuple(part[:, :, :end] for part in self.parts))
        return heads.transpose(1, 2).flatten(-2) @ self.attention.W_O

    def write(self, stored: tuple[Any, ...], start: int) -> None:
        for i, (part, new) in enumerate(zip(self.parts, stored, strict=True)):
            new = split(new, part.shape[1])
            if i == 0 and self.keys_apart:
                new = self.turned(new, start, "gain_K")
            part[:, :, start : start + new.shape[2]] = new

    def turned(self, z: Any, start: int, gain: str, room: Any = None) -> Any:
        """Queries or keys (..., tokens, width) from position ``start`` on, normalized and rotated (into ``room``)."""
        if self.config.qk_norm:
            z = F.rms_norm(z, z.shape[-1:], getattr(self.attention, gain), EPS)
        return z if self.turns is None else rotated(z, self.turns[start : start + z.shape[-2]], room)

    def mixed(self, q: Any, seen: tuple[Any, ...]) -> Any:
        """What the heads write, (batch, heads, rows, width), for scaled queries and all that is stored up to them."""
        rows, mask = q.shape[2], self.mask(seen[0].shape[2], q.shape[2])
        q = q.unflatten(1, (self.groups, -1)).flatten(2, 3)  # the queries of a group are rows of one product
        if mask is not None:
            mask = mask.repeat(self.config.heads // self.groups, 1)
        if self.keys_apart or (self.as_read and len(seen) == 1):
            heads = attend(q, seen[0], seen[-1], mask)
        else:
            heads = softmax(self.scores(q, seen), mask) @ seen[0]
        return heads.unflatten(2, (-1, rows)).flatten(1, 2)

    def mask(self, n: int, rows: int) -> Any:
        """What is added to the scores of the last rows of n tokens: minus infinity for later tokens, and a correction.

        None where that is nothing.
        """
        a = self.attention
        if rows == 1 and not a.variant.corrected:
            return None
        later = a.W_O.new_full((rows, n), -math.inf).triu(n - rows + 1)
        return later + a.table[n - rows : n, :n].to(a.w.dtype) @ a.w if a.variant.corrected else later

    def scores(self, q: Any, seen: tuple[Any, ...]) -> Any:
        """Scores with keys that are made of what is stored: (batch, groups, rows, n)."""
        if len(seen) == 2 and self.as_read:
            return self.scores_unmade(q, *seen)
        first = seen[0]
        n, bytes_per_token = first.shape[2], first[:, :, :1].numel() * first.element_size()
        step = n if q.is_cuda else min(n, max(1, PIECE // bytes_per_token))
        room = q.new_empty(*q.shape[:2], step, q.shape[3])  # memory that is asked for again and again is slow
        scores = []
        for i in range(0, n, step):
            keys = self.keys([part[:, :, i : i + step] for part in seen])
            scores.append(q @ self.turned(keys, i, "gain_K", room[:, :, : keys.shape[2]]).mT)
        return torch.cat(scores, dim=-1)

    def keys(self, stored: Any) -> Any:
        """Keys of stored tokens, before norms and rotations."""
        if len(stored) == 1:
            return stored[0]
        values, context = stored
        return values @ self.attention.W_KV + context @ self.context_by_head

    def scores_unmade(self, q: Any, values: Any, context: Any) -> Any:
        """QV-Ka without making its keys: what a query asks of a key, it asks of the value and the context behind it."""
        asked = (q @ self.context_by_head.mT).flatten(1, 2)[:, None]  # all heads ask one context
        by_context = (asked @ context.mT)[:, 0].unflatten(1, q.shape[1:3])
        return (q @ self.attention.W_KV.mT) @ values.mT + by_context

    @property
    def context_by_head(self) -> Any:
        """W_KC as (heads, context width, head width)."""
        return self.attention.W_KC.unflatten(1, (self.config.heads, -1)).transpose(0, 1)


class SlimLayer(Layer):
    """Only the keys are stored. A head sums the keys of all heads by its map, and W_KV = W_K^-1 W_V, applied to the
    sum, makes it the sum of values. Source: Graef and Wasielewski 2025 (2503.05840).
    """

    keys_apart = False  # values are made of keys before norms and rotations

    def __init__(self, attention: Any, capacity: int, batch: int):
        super().__init__(attention, capacity, batch)
        W_K, W_V = (W.detach().double() for W in (attention.W_K, attention.W_V))
        try:
            W_KV = torch.linalg.solve(W_K, W_V)
        except RuntimeError as error:
            raise ValueError(f"W_K is singular, so its keys do not determine values ({error})") from None
        by_head = W_KV.unflatten(1, (self.config.heads, -1)).transpose(0, 1)
        self.W_KV = by_head.to(W_K.device, attention.W_K.dtype).contiguous()  # (heads, d, head width)

    def project(self, x: Any) -> tuple[Any, tuple[Any, ...]]:
        return self.attention.queries(x), (x @ self.attention.W_K,)

    def mixed(self, q: Any, seen: tuple[Any, ...]) -> Any:
        (keys,), (batch, heads, rows, _) = seen, q.shape
        scores = (keys @ q.mT).mT if self.as_read else self.scores(q, seen)
        maps = softmax(scores, self.mask(keys.shape[2], rows)).flatten(1, 2)
        # Text by text, since a product over all would copy the maps once for every head that is summed.
        sums = torch.stack([m @ k for m, k in zip(maps, keys, strict=True)])  # (batch, heads, heads x rows, width)
        sums = sums.unflatten(2, (heads, rows)).permute(2, 0, 3, 1, 4).reshape(heads, batch * rows, -1)
        return (sums @ self.W_KV).unflatten(1, (batch, rows)).transpose(0, 1)


def softmax(scores: Any, mask: Any) -> Any:
    return torch.softmax(scores if mask is None else scores + mask, dim=-1)


def attend(q: Any, k: Any, v: Any, mask: Any) -> Any:
    """Attention with scaled queries (batch, groups, rows, width).

    On a processor, for one row and keys apart from values, two products are quicker than PyTorch's fused attention.
    """
    if q.shape[2] == 1 and mask is None and k is not v and not q.is_cuda:
        return softmax((k @ q.mT).mT, None) @ v
    return F.scaled_dot_product_attention(q, k, v, mask, scale=1.0)


def turns(attention: Any) -> Any:
    """The rotations of all positions as complex numbers of absolute value 1, (context, head width / 2)."""
    exact = torch.float64 if attention.W_O.dtype == torch.float64 else torch.float32
    return torch.complex(attention.cos.to(exact), attention.sin.to(exact)).to(attention.W_O.device)


def rotated(z: Any, by: Any, room: Any = None) -> Any:
    """Rotary positions as one complex product, which PyTorch does many times as fast as two real ones and a stack."""
    if z.dtype not in (torch.float32, torch.float64):  # there are no complex numbers of half their size
        return turned(z, by.real.to(z.dtype), by.imag.to(z.dtype))
    made = torch.mul(in_pairs(z), by, out=None if room is None else in_pairs(room))
    return torch.view_as_real(made).flatten(-2)


def in_pairs(z: Any) -> Any:
    """(..., width) as (..., width / 2) complex numbers, of one memory."""
    return torch.view_as_complex(z.unflatten(-1, (-1, 2)))
