"""Training: one recipe, one loop, for language models and for tasks alike.

``fit`` takes a model and a function step -> batch, which depends on nothing but the step: a run that was stopped goes
on with the very batches it would have seen, and all variants of one seed see the same ones.

>>> from qkvtheory.experiments.model import Config, Model
>>> from qkvtheory.experiments.tasks import Task
>>> task, recipe = Task("copy", length=4), Recipe(steps=3, batch=8)
>>> model = Model(Config(vocab=task.vocab, context=4, d=8, heads=2, causal=False))
>>> log = fit(model, lambda step: task.draw(recipe.batch, recipe.seed, step), recipe)
>>> len(log.losses), log.diverged
(3, False)
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from qkvtheory.experiments.model import check_number, torch

Batch = tuple[Any, Any]  # inputs and targets, as NumPy arrays
PRECISIONS = ("float32", "bfloat16")
SHORT = 100  # steps in which a model may not have learned anything yet


@dataclass(frozen=True)
class Recipe:
    """How to train. batch: sequences of one forward pass; a step adds up ``accumulate`` of them. rate: the peak,
    reached after ``warmup`` steps, then a cosine down to ``final`` times the peak. Decay is for matrices only.
    """

    steps: int = 1000
    batch: int = 32
    rate: float = 1e-3
    final: float = 0.1
    warmup: int = 100
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    clip: float = 1.0
    accumulate: int = 1
    precision: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "accumulate"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("rate", "clip", "final", "warmup", "weight_decay", "beta1", "beta2"):
            check_number(name, getattr(self, name), least=0)
        for name in ("rate", "clip"):
            if not getattr(self, name):
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        for name in ("beta1", "beta2"):
            if getattr(self, name) >= 1:
                raise ValueError(f"{name} must be below 1, not {getattr(self, name)}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, not {self.precision!r}")


@dataclass
class Log:
    """What happened: the loss of every step (nats), measurements on the way, seconds, and whether it diverged: a loss
    that is not finite, at the end more than twice its minimum, or after ``SHORT`` steps hardly below the first one: a
    model that has collapsed to guessing.
    """

    losses: list[float] = field(default_factory=list)
    measured: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def minimum(self) -> float:
        return min(self.losses)

    @property
    def last(self) -> float:
        """The mean loss of the last tenth of the steps."""
        tail = self.losses[-max(1, len(self.losses) // 10) :]
        return sum(tail) / len(tail)

    @property
    def diverged(self) -> bool:
        collapsed = len(self.losses) > SHORT and self.last > 0.95 * self.losses[0]
        return not math.isfinite(self.losses[-1]) or self.last > 2 * self.minimum or collapsed


def optimizer(model: Any, recipe: Recipe, fused: bool | None = None) -> Any:
    """AdamW; weight decay for matrices, not for gains and the weights of a correction. ``fused``: as in PyTorch."""
    weights = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in weights if p.ndim >= 2], "weight_decay": recipe.weight_decay},
        {"params": [p for p in weights if p.ndim < 2], "weight_decay": 0.0},
    ]
    betas = (recipe.beta1, recipe.beta2)
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=recipe.rate, betas=betas, fused=fused)


def rate(recipe: Recipe, step: int) -> float:
    """The learning rate of a step, counted from 0.

    >>> recipe = Recipe(steps=100, rate=1.0, warmup=10, final=0.1)
    >>> rate(recipe, 0), rate(recipe, 9), round(rate(recipe, 99), 2)
    (0.1, 1.0, 0.1)
    """
    warmup = min(recipe.warmup, recipe.steps // 2)
    if step < warmup:
        return recipe.rate * (step + 1) / warmup
    done = (step + 1 - warmup) / (recipe.steps - warmup)
    return recipe.rate * (recipe.final + (1 - recipe.final) * (1 + math.cos(math.pi * done)) / 2)


def tensors(batch: Batch, device: Any) -> Batch:
    """A batch on its device; numbers as float32."""
    x, y = (torch.as_tensor(a, device=device) for a in batch)
    return (x.float() if x.is_floating_point() else x), y


def update(model: Any, adam: Any, recipe: Recipe, step: int, batches: list[Batch], device: Any = "cpu") -> float:
    """One step of the optimizer on the mean of these batches; the loss before it."""
    losses, _ = descend(model, adam, recipe, step, batches, device)
    return sum(float(loss) for loss in losses)


def descend(
    model: Any, adam: Any, recipe: Recipe, step: int, batches: list[Batch], device: Any = "cpu", loss_of: Any = None
) -> tuple[list[Any], Any]:
    """``update`` without waiting for the device: the share of every batch in the loss, and the length of the gradient
    before clipping, as tensors.

    ``loss_of``: what to call for ``model.loss``. Where it is PyTorch's DistributedDataParallel, gradients are exchanged
    with the last batch only.
    """
    loss_of = model.loss if loss_of is None else loss_of
    for group in adam.param_groups:
        group["lr"] = rate(recipe, step)
    losses = []
    for left, batch in zip(reversed(range(len(batches))), batches, strict=True):
        alone = loss_of.no_sync() if left and hasattr(loss_of, "no_sync") else contextlib.nullcontext()
        with alone:
            with precision(recipe, device):
                loss = loss_of(*tensors(batch, device)) / len(batches)
            loss.backward()
        losses.append(loss.detach())
    length = torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
    adam.step()
    adam.zero_grad()
    return losses, length


def precision(recipe: Recipe, device: Any) -> Any:
    if recipe.precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16)


def fit(
    model: Any,
    draw: Callable[[int], Batch],
    recipe: Recipe,
    measure: Callable[[], dict[str, float]] | None = None,
    every: int = 0,
    device: Any = "cpu",
) -> Log:
    """Train in place. ``draw(i)`` is batch i; step s takes batches s * accumulate and on. ``measure`` is called every
    so many steps. A loss that is not finite ends the run.
    """
    log, adam, start = Log(), optimizer(model, recipe), time.perf_counter()
    for step in range(recipe.steps):
        first = step * recipe.accumulate
        batches = [draw(first + i) for i in range(recipe.accumulate)]
        log.losses.append(update(model, adam, recipe, step, batches, device))
        if not math.isfinite(log.losses[-1]):
            break
        if measure and every and (step + 1) % every == 0:
            log.measured.append({"step": step + 1} | measure())
    log.seconds = time.perf_counter() - start
    return log


@torch.no_grad()
def mean_loss(model: Any, batches: Any, device: Any = "cpu") -> float:
    """The mean loss over batches, each weighted by its scored targets."""
    total = count = 0.0
    for batch in batches:
        x, y = tensors(batch, device)
        scored = int((y != -100).sum())
        total, count = total + float(model.loss(x, y)) * scored, count + scored
    return total / count
