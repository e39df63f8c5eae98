"""Byte-level language models on the reference documentation of Python: what the experiments on text share.

Two layers, 64 wide: small enough for a processor core to train one in a quarter of a minute, large enough that the
loss falls from 5.5 to about 2 nats per byte. Text and order are the same for all models with the same seed.
"""

from __future__ import annotations

import functools
import math
from dataclasses import asdict
from typing import Any

import numpy as np

from qkvtheory.experiments import data
from qkvtheory.experiments.model import Config, Model, parameters, torch
from qkvtheory.experiments.runs import finite
from qkvtheory.experiments.training import Recipe, fit, mean_loss

CONTEXT = 64
SHAPE: dict[str, Any] = {"vocab": 256, "context": CONTEXT, "layers": 2, "d": 64, "heads": 4}
STEPS, BATCH = 500, 32
POINTS = 10  # measurements on the way


@functools.cache
def text() -> data.Corpus:
    return data.corpus("reference")


def setting(recipe: Recipe) -> dict[str, Any]:
    """What all runs have in common, for the stored result."""
    shared = {name: value for name, value in asdict(recipe).items() if name not in ("rate", "seed")}
    return {"model": asdict(Config(**SHAPE)), "recipe": shared}


def train(config: Config, recipe: Recipe, curve: bool = True) -> tuple[Model, dict[str, Any]]:
    """A trained model and its row: losses in nats per byte of the validation text and of as much training text."""
    model = Model(config, recipe.seed)

    def batch(step: int) -> Any:
        return data.draw(text().train, recipe.batch, CONTEXT, recipe.seed, step)

    def measure() -> dict[str, float]:
        return {"loss": evaluate(model, text().val)}

    log = fit(model, batch, recipe, measure, recipe.steps // POINTS if curve else 0)
    loss = evaluate(model, text().val)
    row: dict[str, Any] = {
        "loss": finite(loss),
        "train_loss": finite(evaluate(model, text().train[: len(text().val)])),
        "parameters": parameters(model),
        "diverged": log.diverged or not math.isfinite(loss),
    }
    if curve:
        row["curve"] = [[point["step"], finite(point["loss"])] for point in log.measured]
    if temperatures(model):
        row["temperature"] = temperatures(model)
    return model, row | {"minimum": finite(log.minimum), "last": finite(log.last)}


def evaluate(model: Model, tokens: np.ndarray) -> float:
    return mean_loss(model, data.windows(tokens, 128, CONTEXT))


def temperatures(model: Any) -> list[float]:
    """The factor of the 2D correction on the scores, layer by layer; empty for models without one."""
    attentions = [block.attention for block in model.blocks]
    found = [float(torch.as_tensor(a.temperature).detach()) for a in attentions if a.variant.corrected]
    return [round(s, 4) for s in found]
