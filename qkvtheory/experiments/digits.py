"""Sharing on a small vision task: the 8x8 digits of scikit-learn, as sixteen patches of 2x2 pixels.

    python -m qkvtheory.experiments.digits --out book/results/digits.json

Kayyam, Madan Gopal and Lewis 2026 (arXiv 2606.04032) find all variants within about a point on small vision tasks. Two
controls say what such a result is worth: attention that looks everywhere alike, and labels that were shuffled. About
ten minutes on one processor core.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache, partial
from typing import Any

import numpy as np

from qkvtheory.experiments import runs, tasks
from qkvtheory.experiments.model import Config, Model, parameters, torch
from qkvtheory.experiments.runs import Job, Plan, Row, finite
from qkvtheory.experiments.training import Recipe, fit

MODELS: dict[str, dict[str, Any]] = {
    **{name: {"variant": name} for name in ("QKV", "Q-K=V", "Q=K-V", "Q=K=V", "(Q=K-V)+", "(Q=K=V)+")},
    "identity": {"query": "identity"},
    "uniform attention": {"score_scale": 0.0},
    "shuffled labels": {},
}
SEEDS, BATCH, EPOCHS = (0, 1, 2, 3, 4), 64, 40
SHAPE: dict[str, Any] = {
    "inputs": 4, "outputs": 10, "vocab": 10, "context": 16, "layers": 2, "d": 32, "heads": 4,
    "causal": False, "tied": False, "pool": True,
}  # fmt: skip
RECIPE = Recipe(steps=EPOCHS * -(-1437 // BATCH), batch=BATCH, rate=3e-3, warmup=50, final=0.0, weight_decay=0.05)
PUBLISHED = {  # accuracy on MNIST
    "source": "kayyam2026three",
    "mnist": {
        "QKV": 0.981, "Q=K-V": 0.981, "(Q=K-V)+": 0.982, "Q-K=V": 0.976, "Q=K=V": 0.978, "(Q=K=V)+": 0.977,
    },
}  # fmt: skip


@cache
def images() -> tasks.Digits:
    return tasks.digits()


def run(config: Config, shuffled: bool, recipe: Recipe) -> Row:
    """Train for EPOCHS passes; the accuracy on the 360 test images."""
    data, model = images(), Model(config, recipe.seed)
    labels = np.random.default_rng(recipe.seed).permutation(data.train_labels) if shuffled else data.train_labels
    batches = [rows for epoch in range(EPOCHS) for rows in tasks.epoch(len(labels), recipe.batch, recipe.seed, epoch)]
    fit(model, lambda step: (data.train_inputs[batches[step]], labels[batches[step]]), recipe)
    with torch.no_grad():
        found = model(torch.as_tensor(data.test_inputs)).argmax(-1).numpy()
    return {"accuracy": finite(tasks.accuracy(found, data.test_labels)), "parameters": parameters(model)}


def job(model: str, seed: int) -> Job:
    recipe = Recipe(**{**vars(RECIPE), "seed": seed})
    config = Config(**SHAPE | MODELS[model])
    return Job({"model": model, "seed": seed}, partial(run, config, model == "shuffled labels", recipe))


def jobs(rows: Mapping[str, list[Row]]) -> list[Job]:
    return [job(model, seed) for seed in SEEDS for model in MODELS]


def plan() -> Plan:
    shared = {name: value for name, value in asdict(RECIPE).items() if name != "seed"}
    what = "Small vision transformers of every sharing variant on 8x8 digits, with two controls."
    setting = {"model": asdict(Config(**SHAPE)), "recipe": shared, "train": 1437, "test": 360}
    return Plan("digits", what, setting, PUBLISHED, (jobs,))


def main(arguments: Sequence[str] | None = None) -> int:
    return runs.main(plan, arguments)


if __name__ == "__main__":
    sys.exit(main())
