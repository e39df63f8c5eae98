"""One training run in a folder: resumable at any point, on one processor, one GPU, or several under ``torchrun``.

What ``python -m qkvtheory train`` does once it has read its options. The loop is that of ``training.fit`` with the same
numbers; a run that was stopped and went on has the same losses, to the last bit on a processor.
"""

from __future__ import annotations

import math
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from qkvtheory.count import Config as Counted
from qkvtheory.count import cache_bytes
from qkvtheory.experiments import data as text
from qkvtheory.experiments import folder as files
from qkvtheory.experiments import provenance, tasks
from qkvtheory.experiments.model import Config, Model, parameters, save, torch
from qkvtheory.experiments.training import Recipe, descend, mean_loss, optimizer, precision, rate

LIBRARIES = ("torch", "numpy", "safetensors")
ROOT = Path(__file__).parents[2]
SECONDS_BETWEEN_LINES = 5.0  # where there is no terminal to draw a bar on
ACCURACY_BATCH = 250
SIZES = {"float32": 4, "bfloat16": 2}  # bytes of a number in the cache
NORMS = {"layernorm": "layer", "rmsnorm": "rms", "none": "plain"}  # as qkvtheory.count has them


class Stopped(Exception):
    """The run was asked to stop and has written a checkpoint; the message says how to go on."""


class Diverged(Exception):
    """The loss is no longer a number."""


class OutOfMemory(Exception):
    """The message says which options need less."""


class Followed(Exception):
    """Raised beside the first of several processes, which says what happened."""


@dataclass(frozen=True)
class Source:
    """What is trained on. ``draw(i)`` is batch i; ``measure(model, device)`` scores a model. ``identity`` must be the
    same for a run to go on; ``info`` goes into the log.
    """

    draw: Callable[[int], tuple[np.ndarray, np.ndarray]]
    measure: Callable[[Any, Any], dict[str, float]]
    identity: dict[str, Any]
    info: dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """A run: the model, the recipe, the source and how often what happens.

    every: steps between two validations, each with a checkpoint; log_every: between two lines of the log.
    """

    config: Config
    recipe: Recipe
    source: Source
    every: int = 100
    log_every: int = 10
    device: str = "auto"
    compile: bool = False


def of_text(corpus: text.Corpus, config: Config, recipe: Recipe, windows: int) -> Source:
    """A language model's source; validated on so many windows of the other part of the text, evenly spread."""

    def draw(i: int) -> tuple[np.ndarray, np.ndarray]:
        return text.draw(corpus.train, recipe.batch, config.context, recipe.seed, i, corpus.vocab)

    def measure(model: Any, device: Any) -> dict[str, float]:
        parts = np.array_split(starts, math.ceil(len(starts) / recipe.batch))
        batches = (text.taken(corpus.val, part, config.context, corpus.vocab) for part in parts)
        nats = mean_loss(model, batches, device)
        per_byte = {"bits_per_byte": text.bits_per_byte(nats)} if corpus.train.dtype == np.uint8 else {}
        return {"loss": nats} | per_byte

    for part in (corpus.train, corpus.val):
        text.long_enough(part, recipe.batch, config.context)
    starts = spread(len(corpus.val), config.context, windows)
    identity = {f"the text ({part}, SHA-256)": sha[:16] for part, sha in corpus.info["sha256"].items()}
    return Source(draw, measure, identity | {"vocabulary": corpus.vocab}, corpus.info)


def spread(size: int, context: int, windows: int) -> np.ndarray:
    """Where windows begin that share no target and lie evenly over a text; fewer if there are not so many.

    >>> spread(101, context=10, windows=4).tolist()
    [0, 30, 60, 90]
    """
    if windows < 1:
        raise ValueError(f"validation must be at least 1 window, not {windows}")
    there = (size - 1) // context
    return context * np.linspace(0, there - 1, min(windows, there)).astype(int)


def of_task(task: tasks.Task, recipe: Recipe) -> Source:
    """A generated task's source; ``accuracy`` is that of symbols, ``solved`` that of whole sequences."""

    @torch.no_grad()
    def measure(model: Any, device: Any) -> dict[str, float]:
        tokens, targets = task.test()
        parts = range(0, len(tokens), ACCURACY_BATCH)
        found = [model(torch.as_tensor(tokens[i : i + ACCURACY_BATCH], device=device)).argmax(-1).cpu() for i in parts]
        predicted = np.concatenate([part.numpy() for part in found])
        scores = {"accuracy": tasks.accuracy(predicted, targets), "solved": tasks.solved(predicted, targets)}
        return {"loss": mean_loss(model, [(tokens, targets)], device)} | scores

    identity = {"task": task.name} | {name: size for name, size in asdict(task).items() if name != "name"}
    return Source(lambda i: task.draw(recipe.batch, recipe.seed, i), measure, identity, identity)


# -- machines ----------------------------------------------------------------------------------------------------------


def chosen_device(asked: str) -> Any:
    """Raises ValueError where a GPU is asked for and there is none."""
    if asked not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu or cuda, not {asked!r}")
    there = torch.cuda.is_available()
    if asked == "cuda" and not there:
        build = "this PyTorch is built without CUDA" if torch.version.cuda is None else "PyTorch finds no GPU here"
        raise ValueError(f"there is no GPU to train on ({build}); use --device cpu, or auto to take one where it is")
    if asked == "cpu" or not there:
        return torch.device("cpu")
    torch.set_float32_matmul_precision("high")  # TF32: three more digits than bfloat16, at its speed
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))


@dataclass(frozen=True)
class Team:
    """The processes that train together; alone, all of this does nothing."""

    rank: int = 0
    size: int = 1

    def share(self, batch: tuple[Any, Any]) -> tuple[Any, Any]:
        """The rows of this process."""
        rows = len(batch[0]) // self.size
        x, y = (a[self.rank * rows : (self.rank + 1) * rows] for a in batch)
        return x, y

    def heard(self, number: int, device: Any) -> int:
        """The number of the first process."""
        if self.size > 1:
            told = torch.tensor(number, device=device)
            torch.distributed.broadcast(told, 0)
            return int(told)
        return number

    def mean(self, number: Any) -> Any:
        if self.size > 1:
            torch.distributed.all_reduce(number)
        return number / self.size


@contextmanager
def joined(device: Any) -> Iterator[Team]:
    """The team that ``torchrun`` made of this process and others."""
    if not torch.distributed.is_available() or not torch.distributed.is_torchelastic_launched():
        yield Team()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Team(torch.distributed.get_rank(), torch.distributed.get_world_size())
    finally:
        torch.distributed.destroy_process_group()


class Scored(torch.nn.Module):
    """The loss as a module, which is what PyTorch can compile and distribute."""

    def __init__(self, model: Model):
        super().__init__()
        self.model = model

    def forward(self, x: Any, y: Any) -> Any:
        return self.model.loss(x, y)


def loss_of(model: Model, plan: Plan, team: Team, device: Any) -> Any:
    loss: Any = Scored(model)
    if plan.compile:
        loss = torch.compile(loss)
    if team.size > 1:
        ids = [device.index] if device.type == "cuda" else None
        parallel = torch.nn.parallel.DistributedDataParallel
        loss = parallel(loss, device_ids=ids, broadcast_buffers=False, gradient_as_bucket_view=True)
    return loss


# -- state -------------------------------------------------------------------------------------------------------------


@dataclass
class State:
    """Where a run is: steps done, seconds of training, and the losses since the last line of the log."""

    step: int = 0
    seconds: float = 0.0
    losses: list[Any] = field(default_factory=list)


MOMENTS = {"first": "exp_avg", "second": "exp_avg_sq"}  # ours, PyTorch's


def tensors_of(model: Model, adam: Any) -> dict[str, Any]:
    """All tensors of a checkpoint: weights, and AdamW's moments (zero for what has had no gradient yet)."""
    named = dict(model.named_parameters())
    moments = {
        f"{ours}/{name}": adam.state[p][theirs] if p in adam.state else torch.zeros_like(p)
        for ours, theirs in MOMENTS.items()
        for name, p in named.items()
    }
    return {f"weight/{name}": p for name, p in named.items()} | moments


@torch.no_grad()
def put_back(model: Model, adam: Any, tensors: dict[str, Any], step: int) -> None:
    """The reverse of ``tensors_of``, after so many steps. Raises ValueError where they do not fit the model."""
    expected = tensors_of(model, adam)
    for name in sorted(expected.keys() ^ tensors.keys()):
        raise ValueError(f"it {'lacks' if name in expected else 'has'} {name}, which does not fit this model")
    for name, tensor in expected.items():
        if tensor.shape != tensors[name].shape or tensor.dtype != tensors[name].dtype:
            raise ValueError(f"{name} has another shape or kind of number than in this model")
    names = {p: name for name, p in model.named_parameters()}
    for name, p in model.named_parameters():
        p.copy_(tensors[f"weight/{name}"])
    ordered = [names[p] for group in adam.param_groups for p in group["params"]]
    moments = {
        i: {"step": torch.tensor(float(step))} | {theirs: tensors[f"{ours}/{name}"] for ours, theirs in MOMENTS.items()}
        for i, name in enumerate(ordered)
    }
    adam.load_state_dict({"state": moments, "param_groups": adam.state_dict()["param_groups"]})


def restored(folder: Path, model: Model, adam: Any) -> State:
    """The state of the last checkpoint, put back into model and optimizer; the beginning where there is none."""
    found = files.checkpoints(folder)
    if not found:
        return State()
    tensors, state = files.read_checkpoint(found[-1])
    try:
        put_back(model, adam, tensors, state["step"])
        return State(state["step"], state["seconds"], state["losses"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(files.damaged(found[-1], str(error))) from None


def same_everywhere(model: Model, adam: Any, step: int, team: Team) -> None:
    """The first process' weights and moments for all: only it needs to see the folder."""
    if team.rank:
        zeros = {name: torch.zeros_like(t) for name, t in tensors_of(model, adam).items()}
        put_back(model, adam, zeros, step)
    for tensor in tensors_of(model, adam).values():
        torch.distributed.broadcast(tensor.data, 0)


# -- what is seen ------------------------------------------------------------------------------------------------------


class Show:
    """Progress: a bar on a terminal, plain lines elsewhere, nothing if ``quiet``."""

    def __init__(self, steps: int, step: int, quiet: bool = False, name: str = "", bar: bool = True):
        self.steps, self.quiet, self.bar, self.last = steps, quiet, None, time.monotonic()
        if bar and sys.stderr.isatty():
            try:
                from tqdm import tqdm  # type: ignore[import-untyped, unused-ignore]
            except ImportError:
                return  # plain lines then
            self.bar = tqdm(total=steps, initial=step, desc=name or None, unit="step", leave=not quiet)

    def stepped(self) -> None:
        if self.bar is not None:
            self.bar.update()

    def logged(self, line: dict[str, Any]) -> None:
        speed = f"{line['tokens_per_second']:,.0f} tokens/s"
        if self.bar is not None:
            self.bar.set_postfix_str(f"loss {line['loss']:.3f}, {speed}")
        elif time.monotonic() - self.last > SECONDS_BETWEEN_LINES:
            self.last = time.monotonic()
            self.say(f"step {line['step']:6} of {self.steps}   loss {line['loss']:.3f}   {speed}")

    def say(self, words: str) -> None:
        if self.quiet:
            return
        if self.bar is not None:
            self.bar.write(words)
        else:
            print(words, flush=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


class Interruption:
    """SIGINT and SIGTERM ask the run to stop after its step; a second one stops it at once."""

    asked = 0

    def __enter__(self) -> Interruption:
        self.before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            self.before = {s: signal.signal(s, self.ask) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def ask(self, number: int, frame: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = number

    def __exit__(self, *error: Any) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


def scored(line: dict[str, float]) -> str:
    """
    >>> scored({"loss": 1.5, "bits_per_byte": 2.164})
    'loss 1.5000, 2.1640 bits per byte'
    """
    words = {
        "loss": "loss {:.4f}",
        "bits_per_byte": "{:.4f} bits per byte",
        "accuracy": "{:.2%} of the symbols",
        "solved": "{:.2%} of the sequences right",
    }
    return ", ".join(form.format(line[name]) for name, form in words.items() if name in line)


# -- a run -------------------------------------------------------------------------------------------------------------


def train(
    plan: Plan, out: str | Path, fresh: bool = False, command: str = "", quiet: bool = False, name: str = ""
) -> dict[str, Any]:
    """Train, or go on with, the run in the folder ``out``, and return what is stored in its result.json.

    Raises ValueError (a folder with something else in it, a damaged checkpoint, no GPU), Stopped, Diverged,
    OutOfMemory; OSError where the folder cannot be written. The last checkpoint stays in all cases.
    """
    device, out = chosen_device(plan.device), Path(out)
    with joined(device) as team, memory_explained(plan):
        return Run(plan, out, device, team, command, quiet, name).go(fresh)


class Run:
    def __init__(self, plan: Plan, out: Path, device: Any, team: Team, command: str, quiet: bool, name: str):
        if plan.recipe.batch % team.size:
            raise ValueError(
                f"a batch of {plan.recipe.batch} does not split among {team.size} processes; change --batch"
            )
        for option, number in (("every", plan.every), ("log_every", plan.log_every)):
            if number < 1:
                raise ValueError(f"{option} must be at least 1, not {number}")
        self.plan, self.out, self.device, self.team = plan, out, device, team
        self.command, self.quiet, self.name = command, quiet or team.rank > 0, name
        self.model = Model(plan.config, plan.recipe.seed).to(device)
        self.adam = optimizer(self.model, plan.recipe, fused=True if device.type == "cuda" else None)
        self.state = State()
        self.result: dict[str, Any] | None = None
        self.validated: dict[str, float] | None = None

    def go(self, fresh: bool) -> dict[str, Any]:
        self.begin(fresh)
        if self.result is not None:
            return self.result
        if self.team.size > 1:
            self.state.step = self.team.heard(self.state.step, self.device)
            if self.state.step:
                same_everywhere(self.model, self.adam, self.state.step, self.team)
        show = Show(self.plan.recipe.steps, self.state.step, self.quiet, self.name, bar=self.team.rank == 0)
        try:
            self.steps(show)
        finally:
            show.close()
        return self.end()

    def begin(self, fresh: bool) -> None:
        """What the first process finds in the folder decides for all of them."""
        mistake: Exception | None = None
        if self.team.rank == 0:
            try:
                self.open(fresh)
            except (ValueError, OSError) as error:
                mistake = error
        if self.team.heard(int(mistake is not None), self.device):
            raise mistake or Followed
        if self.team.heard(int(self.result is not None), self.device) and self.team.rank:
            self.result = {}

    def open(self, fresh: bool) -> None:
        """Take the folder, and the state and result that are in it."""
        plan = self.plan
        run = {
            "config": asdict(plan.config),
            "recipe": asdict(plan.recipe),
            "data": plan.source.identity,
            "provenance": self.provenance(),
        }
        if files.claim(self.out, run, fresh):
            if (self.out / files.RESULT).is_file():
                self.result = files.read_json(self.out / files.RESULT)
                return
            self.state = restored(self.out, self.model, self.adam)
            say = (
                f"going on from step {self.state.step}" if self.state.step else "no checkpoint yet: from the beginning"
            )
            self.print(f"{self.out} holds this run; {say}")
            files.append(self.out, {"event": "resumed", "step": self.state.step} | run["provenance"])
            return
        started = {"event": "started"} | run | {"data": plan.source.info, "parameters": parameters(self.model)}
        files.append(self.out, started)

    def provenance(self) -> dict[str, Any]:
        found = provenance(self.command, LIBRARIES, commit=commit(), processes=self.team.size)
        if self.device.type == "cuda":
            card = torch.cuda.get_device_name(self.device)
            found["machine"] = f"{self.team.size} x {card}, {platform.system()}"
        return found

    def print(self, words: str) -> None:
        if not self.quiet:
            print(words, flush=True)

    def steps(self, show: Show) -> None:
        plan, recipe, state = self.plan, self.plan.recipe, self.state
        loss = loss_of(self.model, plan, self.team, self.device)
        with Interruption() as interruption:
            mark, since = time.perf_counter(), state.step
            while state.step < recipe.steps:
                first = state.step * recipe.accumulate
                batches = [self.batch(first + i) for i in range(recipe.accumulate)]
                shares, length = descend(self.model, self.adam, recipe, state.step, batches, self.device, loss)
                state.losses.append(sum(shares))
                state.step += 1
                show.stepped()
                logs = state.step % plan.log_every == 0 or state.step == recipe.steps
                validates = state.step % plan.every == 0 or state.step == recipe.steps
                stops = self.stops(interruption, logs)
                if logs or validates or stops:
                    self.settle(float(length))
                    gone = time.perf_counter() - mark
                    state.seconds += gone
                    if logs:
                        self.log(show, float(length), gone / (state.step - since))
                    if validates:
                        self.validate(show)
                    if validates or stops:
                        self.checkpoint()
                    if stops:
                        raise Followed if self.team.rank else Stopped(self.stopped())
                    mark, since = time.perf_counter(), state.step

    def batch(self, i: int) -> tuple[Any, Any]:
        """Batch i, this process' rows. To a GPU it travels while that still computes."""
        x, y = self.team.share(self.plan.source.draw(i))
        if self.device.type == "cpu":
            return x, y
        x, y = (torch.from_numpy(np.ascontiguousarray(a)).pin_memory() for a in (x, y))
        return x.to(self.device, non_blocking=True), y.to(self.device, non_blocking=True)

    def stops(self, interruption: Interruption, together: bool) -> bool:
        """Several processes look at one another's signals only where they wait for one another anyway."""
        if self.team.size == 1:
            return bool(interruption.asked)
        if not together:
            return False
        return float(self.team.mean(torch.tensor(float(interruption.asked), device=self.device))) > 0

    def settle(self, length: float) -> None:
        """Wait for the losses since the last line, and make them plain numbers, the same in all processes, as the
        length of the gradient is.
        """
        new = [loss for loss in self.state.losses if not isinstance(loss, float)]
        old = self.state.losses[: len(self.state.losses) - len(new)]
        if new:
            self.state.losses = old + self.team.mean(torch.stack(new).double()).tolist()
        if not all(map(math.isfinite, [*self.state.losses, length])):
            self.diverged()

    def diverged(self) -> NoReturn:
        """The end of a run, in all processes, before anything is written that is not a number."""
        if self.team.rank:
            raise Followed
        files.append(self.out, {"event": "diverged", "step": self.state.step})
        raise Diverged(
            f"the loss is not a number after step {self.state.step}; lower --rate or lengthen --warmup. "
            f"The last checkpoint, if there is one, is from before that"
        )

    def log(self, show: Show, length: float, seconds: float) -> None:
        recipe, state = self.plan.recipe, self.state
        line = {
            "step": state.step,
            "loss": sum(state.losses) / len(state.losses),
            "rate": rate(recipe, state.step - 1),
            "gradient": length,
            "tokens_per_second": round(self.tokens / seconds, 1),
        }
        state.losses = []
        if self.team.rank == 0:
            files.append(self.out, line)
        show.logged(line)

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return self.plan.recipe.batch * self.plan.recipe.accumulate * self.plan.config.context

    def measured(self) -> dict[str, float]:
        """The scores, which the first process takes; a run of any number of processes ends where one is no number."""
        found: dict[str, float] = {}
        if self.team.rank == 0:
            self.model.eval()
            with precision(self.plan.recipe, self.device):
                found = self.plan.source.measure(self.model, self.device)
            self.model.train()
        if self.team.heard(int(not all(map(math.isfinite, found.values()))), self.device):
            self.diverged()
        return found

    def validate(self, show: Show) -> None:
        self.validated = self.measured()
        if self.team.rank:
            return
        files.append(self.out, {"event": "validated", "step": self.state.step} | self.validated)
        show.say(f"step {self.state.step:6} of {self.plan.recipe.steps}   validation: {scored(self.validated)}")

    def checkpoint(self) -> None:
        if self.team.rank:
            return
        state = asdict(self.state) | {"config": asdict(self.plan.config), "recipe": asdict(self.plan.recipe)}
        files.write_checkpoint(self.out, tensors_of(self.model, self.adam), state)

    def stopped(self) -> str:
        step, steps = self.state.step, self.plan.recipe.steps
        files.append(self.out, {"event": "stopped", "step": step})
        again = f": {self.command}" if self.command else ""
        return f"stopped after step {step} of {steps}; a checkpoint is written. The same command goes on from it{again}"

    def end(self) -> dict[str, Any]:
        """Measure what a run that ended in the middle of its end has not, and store model and result."""
        scores = self.measured() if self.validated is None else self.validated
        if self.team.rank:
            return {}
        result = self.summary(scores)
        save(self.model, self.out)
        files.append(self.out, {"event": "finished"} | result)
        files.write_json(self.out / files.RESULT, result)
        return result

    def summary(self, scores: dict[str, float]) -> dict[str, Any]:
        config, recipe, seconds = self.plan.config, self.plan.recipe, self.state.seconds
        speed = self.tokens * recipe.steps / seconds
        result = {"step": recipe.steps, **scores, "parameters": parameters(self.model), "variant": config.kind.name}
        if config.causal:
            size = SIZES[recipe.precision]
            result |= {"cache_bytes_per_token": cache_per_token(config, size), "bytes_per_number": size}
        result |= {"seconds": round(seconds, 2), "tokens_per_second": round(speed, 1)}
        if self.device.type == "cuda":
            result["flops_per_second"] = round(speed * flops_per_token(self.model))
            result["peak_memory_bytes"] = torch.cuda.max_memory_allocated(self.device)
        return result


def cache_per_token(config: Config, bytes_per_number: int = 2) -> int:
    """Bytes that the cache of this model keeps for a token, all layers together.

    >>> [cache_per_token(Config(layers=2, d=64, heads=4, variant=name)) for name in ("QKV", "Q-MQA")]
    [512, 64]
    """
    counted = Counted(
        layers=config.layers,
        width=config.d,
        heads=config.heads,
        groups=config.heads,
        head_width=config.head_width,
        hidden=max(1, config.hidden),  # of which a cache keeps nothing; a model here may be without an MLP
        vocabulary=config.vocab,
        positions=config.context if config.positions == "learned" else 0,
        tied=config.tied,
        norm=NORMS[config.norm],
        qk_norm="head" if config.qk_norm else "",
        decoder=config.causal,
    )
    return cache_bytes(counted, config.kind, context=1, bytes_per_number=bytes_per_number)


def flops_per_token(model: Model) -> int:
    """Operations of training for a token: 6 for each weight and 12 L d n for the scores (Chowdhery and others 2022,
    arXiv 2204.02311, appendix B).
    """
    c = model.config
    table = c.context * c.d if c.positions == "learned" else 0
    return 6 * (parameters(model) - table) + 12 * c.layers * c.d * c.context


def commit() -> str | None:
    """The commit of the checkout that this package runs from, if it is one; "+" for files changed since."""
    if not (ROOT / ".git").exists():
        return None

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True).stdout

    try:
        changed = git("status", "--porcelain", "--untracked-files=no").strip()
        return git("rev-parse", "--short=12", "HEAD").strip() + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


@contextmanager
def memory_explained(plan: Plan) -> Iterator[None]:
    """Whatever says that memory is short, as OutOfMemory with the options that need less."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        words = str(error)
        on_processor = (
            isinstance(error, MemoryError) or "can't allocate memory" in words or "not enough memory" in words
        )
        if not (on_processor or isinstance(error, torch.cuda.OutOfMemoryError)):
            raise
        recipe = plan.recipe
        half = f"--batch {max(1, recipe.batch // 2)} --accumulate {recipe.accumulate * 2}"
        raise OutOfMemory(
            f"out of memory with --batch {recipe.batch} --accumulate {recipe.accumulate}. {half} trains on as many "
            f"tokens in a step with about half of it; a shorter --context or a smaller --d need less too. What was "
            f"written stays; a run with other options needs another --out, or --fresh"
        ) from None
