"""The identity in place of the query projection, in a language model with norms and both skips, where no theorem says
that it loses nothing.

    python -m qkvtheory.experiments.identity --out book/results/identity.json

The comparison is that of Karbevski and Mijoski (arXiv 2510.23912): the original, W_Q = I with the full and with the
halved score scale, W_Q = I with the saved weights spent on the MLP, and the original with an MLP as much smaller.

Beside them models for which the theorem does hold: no norms, skips around attention only, a readout of their own. A
trained one is carried over to W_Q = I by the construction of the theorem, and its loss is measured again. About twenty
minutes on one processor core.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from qkvtheory import eliminate_queries
from qkvtheory.experiments import runs
from qkvtheory.experiments.language import BATCH, CONTEXT, SHAPE, STEPS, evaluate, setting, text, train
from qkvtheory.experiments.model import Config, Model, parameters, to_network, torch
from qkvtheory.experiments.runs import Job, Plan, Row
from qkvtheory.experiments.training import Recipe

COVERED: dict[str, Any] = {"norm": "none", "skips": "attention", "tied": False}  # the theorem's hypotheses
MODELS: dict[str, dict[str, Any]] = {
    "QKV": {},
    "identity": {"query": "identity"},
    "identity, half scale": {"query": "identity", "score_scale": 0.5},
    "identity, larger MLP": {"query": "identity", "score_scale": 0.5, "mlp": 4.5},
    "QKV, smaller MLP": {"mlp": 3.5},
    "without norms, QKV": COVERED,
    "without norms, identity": COVERED | {"query": "identity"},
}
CARRIED = "without norms, QKV carried over"
RATES, SEEDS = (4e-3, 8e-3, 16e-3, 32e-3), (0, 1, 2, 3, 4)
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


@torch.no_grad()
def carried_over(model: Model) -> Model:
    """The model with W_Q = I in every layer that computes the same, in float64: ``eliminate_queries``, copied back."""
    network = eliminate_queries(to_network(model, CONTEXT))
    other: Any = Model(Config(**vars(model.config) | {"query": "identity"})).double()
    pairs = [(other.embedding, network.embedding), (other.positions, network.positions)]
    pairs += [(other.readout, network.readout)]
    for block, new in zip(other.blocks, network.blocks, strict=True):
        pairs += [(getattr(block.attention, name), getattr(new.attention, name)) for name in ("W_K", "W_V", "W_O")]
        pairs += [(block.mlp.W_up, new.mlp.W_up), (block.mlp.W_down, new.mlp.W_down)]
    for weight, found in pairs:
        weight.copy_(torch.as_tensor(found))
    return other


def carry(config: Config, recipe: Recipe) -> Row:
    """The losses in float64 of a trained model, and of the model it is carried over to, before any further step."""
    model, _ = train(config, recipe, curve=False)
    other = carried_over(model)
    before, after = (evaluate(m, text().val) for m in (model.double(), other))
    return {"loss": after, "loss_before": before, "change": abs(after - before), "parameters": parameters(other)}


def carries(rows: Mapping[str, list[Row]]) -> list[Job]:
    found = []
    for seed in SEEDS:
        rate = next((r["rate"] for r in rows["runs"] if r["model"] == "without norms, QKV" and r["seed"] == seed), None)
        if rate is not None:
            recipe = Recipe(**{**vars(RECIPE), "rate": rate, "seed": seed})
            key = {"model": CARRIED, "rate": rate, "seed": seed}
            found.append(Job(key, partial(carry, Config(**SHAPE | COVERED), recipe)))
    return found


def tune(rows: Mapping[str, list[Row]]) -> list[Job]:
    return [job(model, rate, 0, tuning=True) for model in MODELS for rate in RATES]


def repeat(rows: Mapping[str, list[Row]]) -> list[Job]:
    return runs.tuned(rows, job, MODELS, SEEDS)


def plan() -> Plan:
    what = "Byte-level language models with and without a query projection, each at the best of four learning rates."
    return Plan("identity", what, setting(RECIPE), PUBLISHED, (tune, repeat, carries), {"corpus": text().info})


def main(arguments: Sequence[str] | None = None) -> int:
    return runs.main(plan, arguments)


if __name__ == "__main__":
    sys.exit(main())
