"""Which projections may be shared in a language model: every variant trained, at its best learning rate.

    python -m qkvtheory.experiments.sharing --out book/results/sharing.json

The question and the variants are those of Kayyam, Madan Gopal and Lewis 2026 (arXiv 2606.04032); the models are about
three thousand times smaller than theirs. "Q-K=V wide" spends the weights that K=V saves on a wider MLP. About half an
hour on one processor core.
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
    "Q-K=V": {"variant": "Q-K=V"},
    "Q=K-V": {"variant": "Q=K-V"},
    "Q=K=V": {"variant": "Q=K=V"},
    "Q-K=V wide": {"variant": "Q-K=V", "mlp": 4.5},
    "MQA": {"variant": "MQA"},
    "GQA-2": {"variant": "GQA-2"},
    "Q-MQA": {"variant": "Q-MQA"},
    "Q-GQA-2": {"variant": "Q-GQA-2"},
    "(Q=K-V)+": {"variant": "(Q=K-V)+"},
    "(Q=K=V)+": {"variant": "(Q=K=V)+"},
    "QV-Ka": {"variant": "QV-Ka"},
}
RATES, SEEDS = (4e-3, 8e-3, 16e-3, 32e-3), (0, 1, 2, 3, 4)
RECIPE = Recipe(steps=STEPS, batch=BATCH, warmup=50)
PUBLISHED = {  # validation perplexity, 300M parameters, SlimPajama: the authors' slides on 2606.04032
    "source": "kayyam2026three",
    "perplexity": {
        "QKV": 5.11, "Q-K=V": 5.27, "Q=K-V": 5.36, "Q=K=V": 6.41,
        "GQA-4": 5.15, "MQA": 5.19, "Q-GQA-4": 5.32, "Q-MQA": 5.36,
    },
}  # fmt: skip


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
    what = "Byte-level language models of every variant, each at the best of four learning rates."
    return Plan("sharing", what, setting(RECIPE), PUBLISHED, (tune, repeat), {"corpus": text().info})


def main(arguments: Sequence[str] | None = None) -> int:
    return runs.main(plan, arguments)


if __name__ == "__main__":
    sys.exit(main())
