"""How each kind of query stands high learning rates and low weight decay: a grid of short trainings.

    python -m qkvtheory.experiments.rates --out book/results/rates.json

Two questions share the grid. Is the identity query stable where the original is not (arXiv 2510.23912, v3)? And does a
nonlinear query (arXiv 2603.13381) beat a linear one whose learning rate was tuned, or that has QK-norm? A run diverges
when its loss is not finite or ends at more than twice its minimum. About half an hour on one processor core.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from qkvtheory.experiments import data, runs
from qkvtheory.experiments.language import BATCH, CONTEXT, SHAPE, setting, text, train
from qkvtheory.experiments.model import Config, split, torch, written_out
from qkvtheory.experiments.runs import Job, Plan, Row, finite
from qkvtheory.experiments.training import Recipe

MODELS: dict[str, dict[str, Any]] = {
    "linear": {},
    "linear + QK-norm": {"qk_norm": True},
    "identity": {"query": "identity"},
    "identity, half scale": {"query": "identity", "score_scale": 0.5},
    "linear, half scale": {"score_scale": 0.5},
    "nonlinear": {"query": "nonlinear", "score_scale": 0.5},
    "bottleneck": {"query": "bottleneck", "score_scale": 0.5},
}
DECAYS: dict[str, tuple[float, ...]] = {  # where more than one is tried
    "linear": (0.1, 0.03125, 0.0),
    "linear + QK-norm": (0.1, 0.0),
    "identity": (0.1, 0.0),
    "identity, half scale": (0.1, 0.03125, 0.0),
}
DECAY, RATES, SEEDS = 0.1, (3e-3, 1e-2, 3e-2, 1e-1, 3e-1), (0, 1, 2)
RECIPE = Recipe(steps=200, batch=BATCH, warmup=20)
PUBLISHED = {  # validation losses of a later independent tuning at the GPT-3-Large shape (Sang 2026, public fork)
    "source": "sang2026tuning",
    "loss": {"linear": 2.5504, "linear + QK-norm": 2.5403, "nonlinear": 2.5464},
    "first": {"linear": 2.956, "nonlinear": 2.919},  # v1 of 2603.13381, one learning rate each
}


def run(config: Config, recipe: Recipe) -> Row:
    model, row = train(config, recipe, curve=False)
    return row | sizes(model)


@torch.no_grad()
def sizes(model: Any) -> Row:
    """The largest score on a batch of validation text, and the norm of W_Q W_K^T, averaged over the layers."""
    x, norms, largest = model.embedded(torch.as_tensor(next(iter(batch()))[0])), [], 0.0
    for block in model.blocks:
        attention, read = block.attention, block.attention_norm(x)
        q, stored = attention.project(read)
        q, k = (split(z, model.config.heads) for z in (q, attention.recall(stored)[0]))
        if model.config.qk_norm:
            q, k = attention.normed(q, k)
        largest = max(largest, float((attention.scale * q @ k.mT).abs().max()))
        if model.config.query != "nonlinear":
            W_Q, W_K, *_ = written_out(attention)
            norms.append(float((W_Q @ W_K.mT).norm()))
        x = block(x)
    found: Row = {"largest_score": finite(largest)}
    return found | ({"query_key_norm": finite(sum(norms) / len(norms))} if norms else {})


def batch() -> Any:
    return data.windows(text().val, 32, CONTEXT, 32)


def job(model: str, decay: float, rate: float, seed: int) -> Job:
    recipe = Recipe(**{**vars(RECIPE), "rate": rate, "weight_decay": decay, "seed": seed})
    key = {"model": model, "weight_decay": decay, "rate": rate, "seed": seed}
    return Job(key, partial(run, Config(**SHAPE | MODELS[model]), recipe))


def jobs(rows: Mapping[str, list[Row]]) -> list[Job]:
    grid = [(model, decay) for model in MODELS for decay in DECAYS.get(model, (DECAY,))]
    first, others = ([cell for cell in grid if (cell[1] == DECAY) is usual] for usual in (True, False))
    return [job(*cell, rate, seed) for cells in (first, others) for seed in SEEDS for cell in cells for rate in RATES]


def plan() -> Plan:
    what = "Short trainings of byte-level language models over learning rates and weight decays, by kind of query."
    return Plan("rates", what, setting(RECIPE), PUBLISHED, (jobs,), {"corpus": text().info})


def main(arguments: Sequence[str] | None = None) -> int:
    return runs.main(plan, arguments)


if __name__ == "__main__":
    sys.exit(main())
