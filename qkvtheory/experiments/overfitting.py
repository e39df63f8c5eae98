"""Do models without keys of their own overfit less? A small text, read many times.

    python -m qkvtheory.experiments.overfitting --out book/results/overfitting.json

Gao and Xu 2026 (arXiv 2606.21848) report smaller gaps between training and validation for keyless models. Here 32 kB
are read about thirty times. Two comparisons keep the question fair: K = V with as many parameters as QKV, and QKV with
more weight decay. About five minutes on one processor core.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from qkvtheory.experiments import data, runs
from qkvtheory.experiments.language import BATCH, CONTEXT, SHAPE, STEPS, evaluate, setting, text
from qkvtheory.experiments.model import Config, Model, parameters
from qkvtheory.experiments.runs import Job, Plan, Row, finite
from qkvtheory.experiments.training import Recipe, fit

BYTES, SEEDS = 32768, (0, 1, 2)
MODELS: dict[str, tuple[dict[str, Any], float]] = {  # shape, weight decay
    "QKV": ({}, 0.1),
    "Q-K=V": ({"variant": "Q-K=V"}, 0.1),
    "Q-K=V wide": ({"variant": "Q-K=V", "mlp": 4.5}, 0.1),
    "QKV, more decay": ({}, 1.0),
}
RECIPE = Recipe(steps=STEPS, batch=BATCH, warmup=50, rate=8e-3)
PUBLISHED = {"source": "gao2026keyless", "gap": {"QKV": 0.8404, "Q-K=V": 0.6866}}  # nats, GPT-2 with 36 layers


def run(config: Config, recipe: Recipe) -> Row:
    model, small = Model(config, recipe.seed), text().train[:BYTES]
    fit(model, lambda step: data.draw(small, recipe.batch, CONTEXT, recipe.seed, step), recipe)
    loss, train_loss = evaluate(model, text().val), evaluate(model, small)
    return {
        "loss": finite(loss),
        "train_loss": finite(train_loss),
        "gap": finite(loss - train_loss),
        "parameters": parameters(model),
    }


def jobs(rows: Mapping[str, list[Row]]) -> list[Job]:
    found = []
    for seed in SEEDS:
        for model, (shape, decay) in MODELS.items():
            recipe = Recipe(**{**vars(RECIPE), "weight_decay": decay, "seed": seed})
            found.append(Job({"model": model, "seed": seed}, partial(run, Config(**SHAPE | shape), recipe)))
    return found


def plan() -> Plan:
    what = "Byte-level language models on a text so small that they learn it by heart."
    shared = setting(RECIPE) | {"bytes": BYTES}
    return Plan("overfitting", what, shared, PUBLISHED, (jobs,), {"corpus": text().info})


def main(arguments: Sequence[str] | None = None) -> int:
    return runs.main(plan, arguments)


if __name__ == "__main__":
    sys.exit(main())
