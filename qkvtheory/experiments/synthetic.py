"""Sharing on tasks that move symbols about: REVERSE, SORT, SWAP, SUB and COPY, and the sign of the temperature.

    python -m qkvtheory.experiments.synthetic --out book/results/synthetic.json

The tasks and the recipe follow Kayyam, Madan Gopal and Lewis 2026 (arXiv 2606.04032): encoders, 20,480 sequences in
all (as many as two epochs of their 10,000), Adam at 1e-3. With so few steps the tasks are not finished, so what is
compared is how fast a variant learns. The 2D correction multiplies all scores by the sum of its weights: that number is
stored for every layer, and in three controls it is frozen at 1 or at -1, or the table is one of distances. About
twenty minutes on one processor core.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from qkvtheory.experiments import runs
from qkvtheory.experiments.language import temperatures
from qkvtheory.experiments.model import Config, Model, parameters, torch
from qkvtheory.experiments.runs import Job, Plan, Row, finite
from qkvtheory.experiments.tasks import Task, accuracy
from qkvtheory.experiments.training import Recipe, fit

TASKS, LENGTH, SEEDS = ("reverse", "sort", "swap", "sub", "copy"), 32, (0, 1, 2, 3, 4)
SHAPE: dict[str, Any] = {
    "vocab": 10, "context": LENGTH, "layers": 2, "d": 32, "heads": 4, "causal": False, "tied": False,
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    name: {"variant": name} for name in ("QKV", "Q-K=V", "Q=K-V", "Q=K=V", "(Q=K-V)+", "(Q=K=V)+")
}
CONTROLS: dict[str, dict[str, Any]] = {
    "(Q=K=V)+ frozen -1": {"variant": "(Q=K=V)+", "temperature": -1.0},
    "(Q=K=V)+ frozen +1": {"variant": "(Q=K=V)+", "temperature": 1.0},
    "(Q=K=V)+ relative": {"variant": "(Q=K=V)+", "correction": "relative"},
}
CONTROLLED = ("reverse", "swap")
RECIPE = Recipe(steps=320, batch=64, rate=1e-3, warmup=30, final=0.0, weight_decay=0.0, beta2=0.999, clip=5.0)
TEST, POINTS = 500, 8
PUBLISHED = {  # mean accuracy over widths, depths, heads and lengths
    "source": "kayyam2026three",
    "tasks": ["reverse", "sort", "sub", "swap", "copy"],
    "paper": {
        "QKV": [0.698, 0.971, 1, 0.588, 1], "Q=K-V": [0.705, 0.967, 1, 0.597, 1],
        "(Q=K-V)+": [0.718, 0.963, 1, 0.671, 1], "Q-K=V": [0.701, 0.958, 1, 0.590, 1],
        "Q=K=V": [0.514, 0.939, 1, 0.446, 1], "(Q=K=V)+": [0.581, 0.957, 1, 0.576, 1],
    },
    "rerun": {
        "QKV": [0.529, 0.753, 0.992, 0.524, 0.991], "Q=K-V": [0.475, 0.691, 0.991, 0.471, 0.994],
        "(Q=K-V)+": [0.522, 0.770, 0.993, 0.530, 0.991], "Q-K=V": [0.510, 0.747, 0.992, 0.511, 0.994],
        "Q=K=V": [0.295, 0.671, 0.991, 0.307, 0.992], "(Q=K=V)+": [0.370, 0.770, 0.990, 0.382, 0.990],
    },
}  # fmt: skip


def run(config: Config, name: str, recipe: Recipe) -> Row:
    """Train on a task; the accuracy on the test set, at the end and on the way."""
    task, model = Task(name, length=LENGTH), Model(config, recipe.seed)
    tokens, targets = task.test(TEST)

    @torch.no_grad()
    def right() -> float:
        return accuracy(model(torch.as_tensor(tokens)).argmax(-1).numpy(), targets)

    def measure() -> dict[str, float]:
        return {"accuracy": right()}

    log = fit(model, lambda step: task.draw(recipe.batch, recipe.seed, step), recipe, measure, recipe.steps // POINTS)
    curve = [[point["step"], finite(point["accuracy"])] for point in log.measured]
    found: Row = {"accuracy": finite(right()), "parameters": parameters(model), "curve": curve}
    return found | ({"temperature": temperatures(model)} if temperatures(model) else {})


def job(task: str, model: str, seed: int) -> Job:
    config = Config(**SHAPE | (MODELS | CONTROLS)[model])
    recipe = Recipe(**{**vars(RECIPE), "seed": seed})
    return Job({"task": task, "model": model, "seed": seed}, partial(run, config, task, recipe))


def jobs(rows: Mapping[str, list[Row]]) -> list[Job]:
    return [
        job(task, model, seed)
        for seed in SEEDS
        for task in TASKS
        for model in [*MODELS, *(CONTROLS if task in CONTROLLED else {})]
    ]


def plan() -> Plan:
    shared = {name: value for name, value in asdict(RECIPE).items() if name != "seed"}
    setting = {"model": asdict(Config(**SHAPE)), "recipe": shared, "length": LENGTH, "test": TEST}
    what = "Encoders of every sharing variant on five tasks that move symbols about, with few training steps."
    return Plan("synthetic", what, setting, PUBLISHED, (jobs,))


def main(arguments: Sequence[str] | None = None) -> int:
    return runs.main(plan, arguments)


if __name__ == "__main__":
    sys.exit(main())
