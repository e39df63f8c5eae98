"""The identity in place of the query projection, in a language model with norms and both skips, where no theorem says
that it loses nothing.

    python -m qkvtheory.experiments.identity --out book/results/identity.json

The comparison is that of Karbevski and Mijoski (arXiv 2510.23912): the original, W_Q = I with the full and with the
halved score scale, W_Q = I with the saved weights spent on the MLP, and the original with an MLP as much smaller. About
a quarter of an hour on one processor core.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from qkvtheory.experiments import runs
from qkvtheory.experiments.language import BATCH, SHAPE, STEPS, setting, text, train
from qkvtheory.experiments.model import Config
from qkvtheory.experiments.runs import Job, Plan, Row
from qkvtheory.experiments.training import Recipe

MODELS: dict[str, dict[str, Any]] = {
    "QKV": {},
    "identity": {"query": "identity"},
    "identity, half scale": {"query": "identity", "score_scale": 0.5},
    "identity, larger MLP": {"query": "identity", "score_scale": 0.5, "mlp": 4.5},
    "QKV, smaller MLP": {"mlp": 3.5},
}
RATES, SEEDS = (4e-3, 8e-3, 16e-3), (0, 1, 2, 3, 4)
RECIPE = Recipe(steps=STEPS, batch=BATCH, warmup=50)
PUBLISHED = {  # the authors' longer untied runs: validation losses, and how much lower (-) or higher the reduced one is
    "source": "karbevski2025kv",
    "loss": {"QKV": [2.861, 2.895], "identity, half scale": [2.851, 2.882]},
    "change": [-0.0045, 0.0039],
}


def job(model: str, rate: float, seed: int, tuning: bool = False) -> Job:
    recipe = Recipe(**{**vars(RECIPE), "rate": rate, "seed": seed})
    key = {"model": model, "rate": rate, "seed": seed}
    return Job(key, partial(run, Config(**SHAPE | MODELS[model]), recipe), tuning)


def run(config: Config, recipe: Recipe) -> Row:
    return train(config, recipe)[1]


def tune(rows: Mapping[str, list[Row]]) -> list[Job]:
    return [job(model, rate, 0, tuning=True) for model in MODELS for rate in RATES]


def repeat(rows: Mapping[str, list[Row]]) -> list[Job]:
    return runs.tuned(rows, job, MODELS, SEEDS)


def plan() -> Plan:
    what = "Byte-level language models with and without a query projection, each at the best of three learning rates."
    return Plan("identity", what, setting(RECIPE), PUBLISHED, (tune, repeat), {"corpus": text().info})


def main(arguments: Sequence[str] | None = None) -> int:
    return runs.main(plan, arguments)


if __name__ == "__main__":
    sys.exit(main())
