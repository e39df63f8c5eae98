"""Tying keys and values after training, against training them tied.

    python -m qkvtheory.experiments.posthoc --out book/results/posthoc.json

A trained QKV model whose keys take the place of its values, or the other way around, or whose both become their mean,
is no longer the same function (claim posthoc-tying); a model trained with K = V learned to live with it. Studied by
Kayyam, Madan Gopal and Lewis in their notes on arXiv 2606.04032. About three minutes on one processor core.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from qkvtheory.experiments import runs
from qkvtheory.experiments.language import BATCH, SHAPE, STEPS, evaluate, setting, text, train
from qkvtheory.experiments.model import Config, Model, torch
from qkvtheory.experiments.runs import Job, Plan, Row, finite
from qkvtheory.experiments.training import Recipe

TIES = {
    "tied afterwards, keys": (1.0, 0.0),
    "tied afterwards, values": (0.0, 1.0),
    "tied afterwards, average": (0.5, 0.5),
}
RECIPE, SEEDS = Recipe(steps=STEPS, batch=BATCH, warmup=50, rate=8e-3), (0, 1, 2)
PUBLISHED = {"source": "kayyam2026three", "sign": "tying after training collapses; training tied does not"}


@torch.no_grad()
def tied(model: Model, keys: float, values: float) -> Any:
    """A copy in which keys and values are both this mixture of the trained keys and values."""
    other: Any = Model(model.config)
    other.load_state_dict(model.state_dict())
    for block in other.blocks:
        a = block.attention
        mixed = keys * a.W_K + values * a.W_V
        a.W_K.copy_(mixed)
        a.W_V.copy_(mixed)
    return other


def jobs(rows: Mapping[str, list[Row]]) -> list[Job]:
    models: dict[int, Model] = {}

    def trained(seed: int, variant: str) -> Row:
        recipe = Recipe(**{**vars(RECIPE), "seed": seed})
        model, row = train(Config(**SHAPE | {"variant": variant}), recipe)
        if variant == "QKV":
            models[seed] = model
        return row

    def afterwards(seed: int, name: str) -> Row:
        if seed not in models:  # its row was in the file: train the model once more
            trained(seed, "QKV")
        return {"loss": finite(evaluate(tied(models[seed], *TIES[name]), text().val))}

    found = []
    for seed in SEEDS:
        key = {"seed": seed, "rate": RECIPE.rate}
        found.append(Job({"model": "untied"} | key, partial(trained, seed, "QKV")))
        found.append(Job({"model": "trained tied"} | key, partial(trained, seed, "Q-K=V")))
        found += [Job({"model": name} | key, partial(afterwards, seed, name)) for name in TIES]
    return found


def plan() -> Plan:
    what = "Keys and values tied after training, and trained tied, in byte-level language models."
    return Plan("posthoc", what, setting(RECIPE), PUBLISHED, (jobs,), {"corpus": text().info})


def main(arguments: Sequence[str] | None = None) -> int:
    return runs.main(plan, arguments)


if __name__ == "__main__":
    sys.exit(main())
