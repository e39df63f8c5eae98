"""Parameters, multiply-accumulates and KV cache of a model with any variant of attention, in exact integers.

>>> from qkvtheory import count
>>> gpt2 = count.preset("gpt2")
>>> count.parameters(gpt2).total, count.parameters(gpt2, "Q-K=V").total
(124439808, 117352704)
>>> count.cache_bytes(gpt2, "Q-MQA", context=1024), count.cache_bytes(gpt2, context=1024)
(1572864, 37748736)
"""

from qkvtheory.count.config import Config, ConfigError, Experts, Latent
from qkvtheory.count.formulas import (
    Macs,
    Parameters,
    Projection,
    cache_bytes,
    cache_per_token,
    decode_macs,
    label,
    latent_sizes,
    macs,
    parameters,
    projections,
    resolve,
    saved,
    tokens_kept,
)
from qkvtheory.count.huggingface import FAMILIES, documented_keys, load, read
from qkvtheory.count.presets import names, preset, source

__all__ = [
    "FAMILIES",
    "Config",
    "ConfigError",
    "Experts",
    "Latent",
    "Macs",
    "Parameters",
    "Projection",
    "cache_bytes",
    "cache_per_token",
    "decode_macs",
    "documented_keys",
    "label",
    "latent_sizes",
    "load",
    "macs",
    "names",
    "parameters",
    "preset",
    "projections",
    "read",
    "resolve",
    "saved",
    "source",
    "tokens_kept",
]
