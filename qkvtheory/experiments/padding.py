"""What scoring the padding does to a comparison: short documents, with the padding in the loss and without.

    python -m qkvtheory.experiments.padding --out book/results/padding.json

The authors of arXiv 2606.04032 found and fixed this themselves: in their first runs padding was scored, and the model
card gives the masked numbers. A share f of trivial targets shrinks differences of log-perplexity by 1 - f (claim
published-tables). Here lines of at most 64 bytes are padded to 64. About four minutes on one processor core.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Any

import numpy as np

from qkvtheory.experiments import data, runs
from qkvtheory.experiments.language import BATCH, CONTEXT, SHAPE, setting, text
from qkvtheory.experiments.model import Config, Model, parameters
from qkvtheory.experiments.runs import Job, Plan, Row, finite
from qkvtheory.experiments.training import Recipe, fit, mean_loss

PAD, MODELS, SEEDS = 0, ("QKV", "Q-K=V"), (0, 1, 2)
SCORED = ("real", "all")  # targets that count while training
RECIPE = Recipe(steps=400, batch=BATCH, warmup=50, rate=8e-3)
PUBLISHED = {"source": "kayyam2026three", "perplexity": {"QKV": 20.82, "Q-K=V": 21.28}}  # masked, FineWeb-Edu


@cache
def documents(part: str) -> list[np.ndarray]:
    return data.lines(getattr(text(), part), CONTEXT)


def batch(part: str, step: int, seed: int, scored: str) -> tuple[np.ndarray, np.ndarray]:
    x, y, real = data.draw_documents(documents(part), BATCH, CONTEXT, seed, step, PAD)
    return x, y if scored == "all" else np.where(real, y, -100)


def validation(scored: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The same forty batches for every model."""
    return (batch("val", step, 0, scored) for step in range(40))


def share_of_padding() -> float:
    scored = [(y != -100).mean() for _, y in validation("real")]
    return 1 - float(np.mean(scored))


def run(config: Config, scored: str, recipe: Recipe) -> Row:
    model = Model(config, recipe.seed)
    fit(model, lambda step: batch("train", step, recipe.seed, scored), recipe)
    return {
        "loss": finite(mean_loss(model, validation("real"))),
        "loss_with_padding": finite(mean_loss(model, validation("all"))),
        "share_of_padding": finite(share_of_padding()),
        "parameters": parameters(model),
    }


def job(model: str, scored: str, seed: int) -> Job:
    config = Config(**SHAPE | {"variant": model})
    key = {"model": model, "scored": scored, "seed": seed}
    return Job(key, partial(run, config, scored, Recipe(**{**vars(RECIPE), "seed": seed})))


def jobs(rows: Mapping[str, list[Row]]) -> list[Job]:
    return [job(model, scored, seed) for seed in SEEDS for scored in SCORED for model in MODELS]


def plan() -> Plan:
    what = "Byte-level language models on short documents, with and without the padding in the loss."
    shared: dict[str, Any] = setting(RECIPE) | {"longest": CONTEXT}
    return Plan("padding", what, shared, PUBLISHED, (jobs,), {"corpus": text().info})


def main(arguments: Sequence[str] | None = None) -> int:
    return runs.main(plan, arguments)


if __name__ == "__main__":
    sys.exit(main())
