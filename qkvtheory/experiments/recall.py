"""Associative recall with keys equal to values: what narrow heads cannot keep apart, one full head can.

    python -m qkvtheory.experiments.recall --out book/results/recall.json

Sixteen tokens carry a key and a value each, a seventeenth asks for the value of one key. One layer, no positions, no
mask. The question comes from a follow-up by the authors of arXiv 2606.04032 and from Gao and Xu 2026 (2606.21848): four
heads fail where one head succeeds. Here the heads are made narrow by a narrow stream. About a quarter of an hour on one
processor core.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from qkvtheory.experiments import runs
from qkvtheory.experiments.model import Config, Model, parameters, torch
from qkvtheory.experiments.runs import Job, Plan, Row, finite
from qkvtheory.experiments.tasks import Task, accuracy
from qkvtheory.experiments.training import Recipe, fit

SETTINGS = (  # symbols, width, heads, steps, rate: narrow heads learn slowly, and get more steps
    (32, 8, 4, 5000, 1e-2),
    (32, 8, 1, 1500, 1e-2),
    (64, 32, 16, 5000, 3e-3),
    (64, 32, 8, 2000, 3e-3),
    (64, 32, 1, 2000, 3e-3),
)
MODELS, SEEDS = ("QKV", "Q-K=V"), (0, 1, 2)
RECIPE = Recipe(batch=128, warmup=100, final=0.0, weight_decay=0.0, beta2=0.999)
TEST, POINTS = 1000, 10
PUBLISHED = {  # two-layer encoder, width 128: the authors' own follow-up
    "source": "kayyam2026three",
    "accuracy": {"QKV": [0.9995], "Q-K=V, 4 heads": [0.34, 0.37], "Q-K=V, 1 head": [1.0]},
}


def shape(symbols: int, d: int, heads: int) -> dict[str, Any]:
    task = Task("recall", keys=symbols, values=symbols)
    return {
        "vocab": task.vocab, "outputs": task.outputs, "context": task.positions, "layers": 1, "d": d, "heads": heads,
        "causal": False, "tied": False, "positions": "none", "init": 1.0,
    }  # fmt: skip


def run(config: Config, symbols: int, recipe: Recipe) -> Row:
    task, model = Task("recall", keys=symbols, values=symbols), Model(config, recipe.seed)
    tokens, targets = task.test(TEST)

    @torch.no_grad()
    def measure() -> dict[str, float]:
        return {"accuracy": accuracy(model(torch.as_tensor(tokens)).argmax(-1).numpy(), targets)}

    log = fit(model, lambda step: task.draw(recipe.batch, recipe.seed, step), recipe, measure, recipe.steps // POINTS)
    curve = [[point["step"], finite(point["accuracy"])] for point in log.measured]
    return {"accuracy": finite(measure()["accuracy"]), "parameters": parameters(model), "curve": curve}


def job(symbols: int, d: int, heads: int, steps: int, rate: float, model: str, seed: int) -> Job:
    recipe = Recipe(**{**vars(RECIPE), "steps": steps, "rate": rate, "seed": seed})
    key = {"keys": symbols, "values": symbols, "d": d, "heads": heads, "steps": steps, "model": model, "seed": seed}
    return Job(key, partial(run, Config(**shape(symbols, d, heads) | {"variant": model}), symbols, recipe))


def jobs(rows: Mapping[str, list[Row]]) -> list[Job]:
    return [job(*setting, model, seed) for seed in SEEDS for setting in SETTINGS for model in MODELS]


def plan() -> Plan:
    shared = {name: value for name, value in asdict(RECIPE).items() if name not in ("seed", "steps", "rate")}
    what = "Associative recall in one layer: QKV and K = V, with narrow heads and with one head."
    setting = {"recipe": shared, "settings": [list(s) for s in SETTINGS], "pairs": Task("recall").length, "test": TEST}
    return Plan("recall", what, setting, PUBLISHED, (jobs,))


def main(arguments: Sequence[str] | None = None) -> int:
    return runs.main(plan, arguments)


if __name__ == "__main__":
    sys.exit(main())
