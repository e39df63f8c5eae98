"""The trained models that run in the page: attention alone, asked to reverse eight digits, in five forms.

    python -m qkvtheory.experiments.live --out qkvtheory/widgets/trained_model.json

To reverse a sequence, positions i and n + 1 - i must exchange their symbols. One head whose queries are its keys
cannot do that by attention mass: A_ij + A_ji <= 1 (claim pair-bound). Mass is not accuracy, so the models are built
such that mass is all they have: one attention layer between embedding and readout, without norm and MLP, and without a
skip around it, except in the last form, which shows what a skip changes. All forms share task, recipe and seeds.

Two heads succeed, but not as in the claim reverse-swap-consequence, where each head routes one half of the positions:
there the other half looks at itself, so both ends of a pair hear the same from both heads, and one linear readout
cannot tell them apart. What they learn is a mixture in one head and the own symbol in the other, which is taken away
from it; a skip allows the same to one head.

Weights are rounded to thousandths before anything is measured, so that the numbers stored with them are their own.
The task is that of Kayyam, Madan Gopal and Lewis 2026 (arXiv 2606.04032); models, sizes and measurements are ours.
PyTorch is needed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from qkvtheory.experiments import command, provenance, rounded
from qkvtheory.widgets.trained_model import LENGTH, SCALE, SYMBOLS, Trained, read, written

FORMS: tuple[tuple[str, str, int, bool], ...] = (  # name on the page, variant, heads, skip around attention
    ("QKV", "QKV", 1, False),
    ("Q=K", "Q=K-V", 1, False),
    ("Q=K, 2 heads", "Q=K-V", 2, False),
    ("(Q=K)+", "(Q=K-V)+", 1, False),
    ("Q=K, skip", "Q=K-V", 1, True),
)
SEEDS = tuple(range(8))
SHOWN = 0  # the seed whose weights go to the page, whatever came of it
SHAPE: dict[str, Any] = {
    "vocab": SYMBOLS, "context": LENGTH, "layers": 1, "d": 16, "norm": "none", "mlp": 0, "tied": False, "causal": False,
    "init": 2.0,
}  # fmt: skip
RECIPE: dict[str, Any] = {"steps": 2000, "batch": 64, "rate": 1e-2, "weight_decay": 0.0}
TESTED = 1000  # sequences
NAMES = {"embedding": "E", "positions": "P", "readout": "D"}  # in the file; the rest keeps the last part of its name


def encoder(variant: str, heads: int, skip: bool, seed: int) -> Any:
    """One attention layer between embedding and readout; an MLP of no units adds nothing."""
    from qkvtheory.experiments.model import Config, Model

    model: Any = Model(Config(variant=variant, heads=heads, skips="both", **SHAPE), seed)
    model.blocks[0].attention_skip = skip
    return model


def train(model: Any, seed: int, steps: int = RECIPE["steps"]) -> Any:
    """Trained in place and rounded; the log of the training."""
    from qkvtheory.experiments.model import torch
    from qkvtheory.experiments.tasks import Task
    from qkvtheory.experiments.training import Recipe, fit

    task, recipe = Task("reverse", LENGTH, SYMBOLS), Recipe(**{**RECIPE, "steps": steps}, seed=seed)
    log = fit(model, lambda step: task.draw(recipe.batch, recipe.seed, step), recipe)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_((weight.double() * SCALE).round() / SCALE)
    return log


def measure(model: Any, size: int = TESTED) -> dict[str, float]:
    """On the test set: the share of right symbols, of sequences without an error, and the mean of A_ij + A_ji over
    pairs of partners, of the head where it is largest.
    """
    from qkvtheory.experiments.model import torch
    from qkvtheory.experiments.tasks import Task, accuracy, solved

    tokens, targets = Task("reverse", LENGTH, SYMBOLS).test(size)
    with torch.no_grad():
        found = model(torch.as_tensor(tokens)).argmax(-1).numpy()
        maps = attention_maps(model, torch.as_tensor(tokens)).numpy()
    across = maps[..., np.arange(LENGTH), LENGTH - 1 - np.arange(LENGTH)]
    return {
        "accuracy": accuracy(found, targets),
        "solved": solved(found, targets),
        "partners": rounded(float(2 * across.mean(axis=(0, 2)).max())),
    }


def attention_maps(model: Any, tokens: Any) -> Any:
    """The maps of the first layer, (batch, heads, n, n)."""
    from qkvtheory.experiments.model import split

    attention = model.blocks[0].attention
    q, stored = attention.project(model.embedded(tokens))
    q, k = (split(z, model.config.heads) for z in (q, attention.recall(stored)[0]))
    scores = attention.scale * q @ k.mT
    if attention.variant.corrected:
        scores = attention.temperature * scores + attention.added(tokens.shape[-1], causal=False)
    return scores.softmax(-1)


def weights(model: Any) -> dict[str, list[str]]:
    """All matrices with their names in the book, as ``trained_model.written`` writes them."""
    named = {name.rsplit(".", 1)[-1]: p.detach().numpy() for name, p in model.named_parameters() if p.numel()}
    return {NAMES.get(name, name): written(np.atleast_2d(a)) for name, a in named.items()}


def form(name: str, variant: str, heads: int, skip: bool, seeds: Iterable[int] = SEEDS, **options: int) -> dict:
    """One form with all its runs; the weights are those of the seed SHOWN. ``options``: of ``train``."""
    from qkvtheory.experiments.model import parameters

    found: dict[str, Any] = {"name": name, "variant": variant, "heads": heads, "skip": skip, "shown": SHOWN, "runs": []}
    for seed in seeds:
        model = encoder(variant, heads, skip, seed)
        log = train(model, seed, **options)
        kept = weights(model)
        run = {"seed": seed, "loss": rounded(log.last), **measure(model), **traits(found, kept)}
        print(f"{name}, seed {seed}: {run['accuracy']:.1%} of the symbols right", file=sys.stderr)
        found["runs"].append(run)
        if seed == SHOWN:
            found |= {"parameters": parameters(model), "weights": kept}
    return found


def traits(given: Mapping[str, Any], kept: Mapping[str, list[str]]) -> dict[str, float | None]:
    """What the weights alone say: the temperature, and how opposite two ways write (see ``Trained``)."""
    same = {name: given[name] for name in ("name", "variant", "heads", "skip", "shown")}
    model = Trained(**same, parameters=0, runs=(), weights={name: read(rows) for name, rows in kept.items()})
    return {
        "temperature": rounded(model.temperature),
        "opposed": None if model.opposed is None else rounded(model.opposed),
    }


def result() -> Mapping[str, Any]:
    from qkvtheory.experiments.model import torch
    from qkvtheory.experiments.runs import commit

    torch.set_num_threads(1)  # small products; and the same sums on every machine
    setting = {
        "task": {"name": "reverse", "length": LENGTH, "symbols": SYMBOLS},
        "model": {**SHAPE, "skips": "around attention where skip is true, else none"},
        "recipe": RECIPE,
        "tested": TESTED,
        "scale": SCALE,
    }
    return {
        "what": "small trained attention layers that run in the page; weights in thousandths, one row a line",
        "provenance": provenance("python -m qkvtheory.experiments.live", ("numpy", "torch"), commit=commit()),
        "setting": setting,
        "models": [form(*given) for given in FORMS],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    return command("live", "Train the small models that run in the page (two minutes on one core).", result, arguments)


if __name__ == "__main__":
    sys.exit(main())
