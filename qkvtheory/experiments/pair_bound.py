"""One symmetric head cannot swap a pair: the bound, in training.

    python -m qkvtheory.experiments.pair_bound --out book/results/pair_bound.json

REVERSE and SWAP exchange pairs of positions. Where queries equal keys, one head gives a pair at most mass 1 in both
directions together (claim pair-bound), so half of what is needed. One layer is trained, with one head or two, with the
skips and without: without them everything must pass through the maps, and the accuracy shows what they can do. With the
2D correction the scores have a factor of their own, and a negative one lifts the bound: its sign is stored. About five
minutes on one processor core.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np

from qkvtheory.experiments import runs
from qkvtheory.experiments.language import temperatures
from qkvtheory.experiments.model import Config, Model, parameters, split, torch
from qkvtheory.experiments.runs import Job, Plan, Row, finite
from qkvtheory.experiments.tasks import Task, accuracy
from qkvtheory.experiments.training import Recipe, fit

LENGTH, SEEDS, TEST = 8, (0, 1, 2, 3, 4), 500
PARTNERS = {"reverse": np.arange(LENGTH)[::-1], "swap": np.roll(np.arange(LENGTH), LENGTH // 2)}
MODELS: dict[str, dict[str, Any]] = {
    "QKV": {"variant": "QKV"},
    "Q=K-V": {"variant": "Q=K-V"},
    "(Q=K-V)+": {"variant": "(Q=K-V)+"},
    "(Q=K-V)+ frozen +1": {"variant": "(Q=K-V)+", "temperature": 1.0},
    "(Q=K-V)+ frozen -1": {"variant": "(Q=K-V)+", "temperature": -1.0},
}
HEADS = {"Q=K-V": (1, 2)}  # one head, where nothing else is said
SHAPE: dict[str, Any] = {
    "vocab": 10, "context": LENGTH, "layers": 1, "d": 32, "mlp": 2.0, "causal": False, "tied": False,
}  # fmt: skip
RECIPE = Recipe(steps=600, batch=64, rate=3e-3, warmup=50, final=0.0, weight_decay=0.0, beta2=0.99)
PUBLISHED = {"source": "", "bound": 1.0}  # the bound is ours: claim pair-bound


@torch.no_grad()
def maps(model: Any, tokens: Any) -> Any:
    """The attention maps of the first layer, (sequences, heads, n, n)."""
    attention, x = model.blocks[0].attention, model.embedded(torch.as_tensor(tokens))
    q, stored = attention.project(model.blocks[0].attention_norm(x))
    q, k = (split(z, model.config.heads) for z in (q, attention.recall(stored)[0]))
    scores = attention.scale * q @ k.mT
    if attention.variant.corrected:
        scores = attention.temperature * scores + attention.added(tokens.shape[1], causal=False)
    return scores.softmax(-1).numpy()


def pair_mass(found: Any, partner: np.ndarray) -> np.ndarray:
    """A_ij + A_ji for every position i and its partner j: (sequences, heads, n)."""
    i = np.arange(len(partner))
    return found[:, :, i, partner] + found[:, :, partner, i]


def run(config: Config, name: str, recipe: Recipe) -> Row:
    task, model = Task(name, length=LENGTH), Model(config, recipe.seed)
    tokens, targets = task.test(TEST)
    fit(model, lambda step: task.draw(recipe.batch, recipe.seed, step), recipe)
    with torch.no_grad():
        found = model(torch.as_tensor(tokens)).argmax(-1).numpy()
    mass = pair_mass(maps(model, tokens), PARTNERS[name])
    row: Row = {
        "accuracy": finite(accuracy(found, targets)),
        "largest_pair_mass": finite(float(mass.max())),
        "mean_pair_mass": [finite(float(m)) for m in mass.mean((0, 2))],
        "parameters": parameters(model),
    }
    return row | ({"temperature": temperatures(model)} if temperatures(model) else {})


def job(task: str, skips: str, model: str, heads: int, seed: int) -> Job:
    config = Config(**SHAPE | MODELS[model] | {"heads": heads, "skips": skips})
    key = {"task": task, "skips": skips, "model": model, "heads": heads, "seed": seed}
    return Job(key, partial(run, config, task, Recipe(**{**vars(RECIPE), "seed": seed})))


def jobs(rows: Mapping[str, list[Row]]) -> list[Job]:
    return [
        job(task, skips, model, heads, seed)
        for seed in SEEDS
        for skips in ("none", "both")
        for task in PARTNERS
        for model in MODELS
        for heads in HEADS.get(model, (1,))
    ]


def plan() -> Plan:
    shared = {name: value for name, value in asdict(RECIPE).items() if name != "seed"}
    setting = {"model": SHAPE, "recipe": shared, "length": LENGTH, "test": TEST}
    what = "One layer that must exchange pairs of positions, with symmetric attention of one head and of two."
    return Plan("pair_bound", what, setting, PUBLISHED, (jobs,))


def main(arguments: Sequence[str] | None = None) -> int:
    return runs.main(plan, arguments)


if __name__ == "__main__":
    sys.exit(main())
