"""``python -m qkvtheory train``: the options, the presets, and what is said at the end.

    python -m qkvtheory train --preset tiny --variant Q-K=V --out runs/tiny

Needs PyTorch, which is imported only when a run begins. The same settings, by the same names, stand in the grid file of
``python -m qkvtheory sweep``.
"""

from __future__ import annotations

import argparse
import difflib
import os
import shlex
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from qkvtheory.experiments import Missing, folder
from qkvtheory.experiments.tasks import TASKS, Task
from qkvtheory.variants import EXAMPLES

EXAMPLE = "python -m qkvtheory train --preset tiny --variant Q-K=V --out runs/tiny"
INSTALL = "pip install torch safetensors"
INTERRUPTED, FAILED = 130, 1

# Sizes and recipe; "gpt2" is the shape of GPT-2 and GPT-3 small with the recipe of nanoGPT, for a GPU.
PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {
        **{"layers": 2, "d": 64, "heads": 4, "context": 64},
        **{"steps": 600, "batch": 32, "rate": 3e-3, "warmup": 50, "every": 100, "validation": 512},
    },
    "small": {
        **{"layers": 4, "d": 128, "heads": 4, "context": 128},
        **{"steps": 4000, "batch": 32, "rate": 2e-3, "warmup": 100, "every": 250, "validation": 512},
    },
    "gpt2": {
        **{"layers": 12, "d": 768, "heads": 12, "context": 1024, "precision": "bfloat16"},
        **{"steps": 20000, "batch": 32, "accumulate": 15, "rate": 6e-4, "warmup": 700, "every": 250, "validation": 512},
    },
}
FOR_TASKS = {"causal": False, "tied": False}  # one answer for each token, from all tokens

# Setting -> what it takes and what it means; a setting that is not given keeps the default of Config or Recipe.
MODEL: dict[str, tuple[type, str]] = {
    "vocab": (int, "tokens there are in token files (text is bytes: 256)"),
    "layers": (int, "layers"),
    "d": (int, "width of the stream"),
    "heads": (int, "heads of a layer"),
    "context": (int, "tokens of a sequence"),
    "variant": (str, f"which projections there are: {EXAMPLES}"),
    "query": (str, "linear, identity, nonlinear or bottleneck"),
    "score_scale": (float, "factor on the usual scale of the scores"),
    "qk_norm": (bool, "RMSNorm of each head's queries and keys"),
    "norm": (str, "layernorm, rmsnorm or none"),
    "skips": (str, "both, attention (around attention only) or none"),
    "positions": (str, "learned, rope or none"),
    "tied": (bool, "the readout is the embedding"),
    "mlp": (float, "hidden units of the MLP, as a multiple of d"),
    "causal": (bool, "a token sees the tokens before it only"),
    "correction": (str, "table of the 2D correction: separable or relative"),
    "temperature": (float, "freeze the factor of the 2D correction on the scores at this"),
    "init": (float, "deviation of initial weights, in units of 1/sqrt(d)"),
}
RECIPE: dict[str, tuple[type, str]] = {
    "steps": (int, "steps of the optimizer"),
    "batch": (int, "sequences of a forward pass, those of all processes together"),
    "accumulate": (int, "batches of a step"),
    "rate": (float, "peak of the learning rate"),
    "final": (float, "the rate at the end, as a share of the peak"),
    "warmup": (int, "steps up to the peak"),
    "weight_decay": (float, "of matrices"),
    "beta1": (float, "of AdamW"),
    "beta2": (float, "of AdamW"),
    "clip": (float, "longest gradient"),
    "precision": (str, "float32 or bfloat16"),
    "seed": (int, "of initial weights and data"),
}
TASK: dict[str, tuple[type, str]] = {
    "length": (int, "symbols, or pairs, of a sequence"),
    "symbols": (int, "different symbols"),
    "keys": (int, "different keys (recall)"),
    "values": (int, "different values (recall)"),
}
RUNNING: dict[str, tuple[type, str]] = {
    "preset": (str, f"{', '.join(PRESETS)} (tiny by default)"),
    "data": (str, "python, reference, a text file, a folder of texts, or one with train.bin and val.bin"),
    "task": (str, f"a generated task in place of text: {', '.join(TASKS)}"),
    "device": (str, "auto, cpu or cuda"),
    "every": (int, "steps between validations, each with a checkpoint"),
    "log_every": (int, "steps between two lines of the log"),
    "validation": (int, "windows of text to validate on"),
    "compile": (bool, "compile the model with torch.compile"),
}
GROUPS = {"what to train": RUNNING, "model": MODEL, "recipe": RECIPE, "task": TASK}
SETTINGS = {name: kind for group in GROUPS.values() for name, (kind, _) in group.items()}


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the run; one that is there goes on")
    parser.add_argument("--fresh", action="store_true", help="remove the run that is in DIR and start anew")
    for title, group in GROUPS.items():
        section = parser.add_argument_group(title)
        for name, (kind, meaning) in group.items():
            flags = [flag(name), *(["--d"] if name == "d" else [])]
            if kind is bool:
                section.add_argument(
                    *flags, dest=name, action=argparse.BooleanOptionalAction, default=None, help=meaning
                )
            else:
                section.add_argument(*flags, dest=name, type=kind, metavar=name.upper(), help=meaning)
    parser.add_argument("--untied", dest="tied", action="store_const", const=False, help="the same as --no-tied")


def run(args: argparse.Namespace) -> int:
    """Train, and say how it ended. Raises ValueError, OSError or Missing, with a message for people."""
    given = {name: value for name in SETTINGS if (value := getattr(args, name)) is not None}
    words = [word for name, value in given.items() for word in option(name, value)]
    command = shlex.join([*launcher(), "qkvtheory", "train", *words, "--out", args.out])
    check(given)
    out, trainer = folder.named(args.out), needed()
    try:
        result = trainer.train(plan(given), out, args.fresh, command)
    except trainer.Followed:
        return 2
    except trainer.OutOfMemory as reason:
        raise ValueError(str(reason)) from None
    except trainer.Diverged as reason:
        print(reason)
        return FAILED
    except trainer.Stopped as reason:
        print(reason)
        return INTERRUPTED
    except KeyboardInterrupt:
        print(f"stopped at once; the same command goes on from the last checkpoint: {command}")
        return INTERRUPTED
    if result:
        print("\n".join(report(result, args.out)))
    return 0


def needed() -> Any:
    """The module that trains. Raises Missing where PyTorch or safetensors is not installed."""
    try:
        import safetensors  # noqa: F401 (to know before hours of work, not after)
    except ImportError:
        raise Missing(f"checkpoints are safetensors; install what training needs with: {INSTALL}") from None
    from qkvtheory.experiments import trainer

    return trainer


def flag(name: str) -> str:
    """The option of a setting. That of d is longer: torchrun takes --d for the beginning of an option of its own.

    >>> flag("score_scale"), flag("d")
    ('--score-scale', '--width')
    """
    return f"--{'width' if name == 'd' else name.replace('_', '-')}"


def option(name: str, value: Any) -> list[str]:
    """
    >>> option("score_scale", 0.5), option("tied", False)
    (['--score-scale', '0.5'], ['--no-tied'])
    """
    if SETTINGS[name] is bool:
        return [flag(name) if value else flag(name).replace("--", "--no-", 1)]
    return [flag(name), str(value)]


def launcher() -> list[str]:
    """How this process was started."""
    processes = os.environ.get("LOCAL_WORLD_SIZE") if "TORCHELASTIC_RUN_ID" in os.environ else None
    return ["torchrun", f"--nproc_per_node={processes}", "-m"] if processes else ["python", "-m"]


# -- from settings to a plan -------------------------------------------------------------------------------------------


def check(settings: Mapping[str, Any]) -> None:
    """Raises ValueError for a name that is no setting, a value of another type, settings that exclude one another.

    >>> check({"rat": 1e-3})
    Traceback (most recent call last):
    ValueError: there is no setting 'rat'; did you mean 'rate'?
    """
    for name, value in settings.items():
        if name not in SETTINGS:
            raise ValueError(f"there is no setting '{name}'; {near(name, SETTINGS)}")
        kind = SETTINGS[name]
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (number if kind is float else type(value) is kind):
            what = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}[kind]
            raise ValueError(f"{name} must be {what}, not {value!r}")
        if kind is str and "\0" in value:
            raise ValueError(f"{name} must be a text without zero bytes, not {value!r}")
    if (preset := settings.get("preset", "tiny")) not in PRESETS:
        raise ValueError(f"there is no preset '{preset}'; {near(preset, PRESETS)}")
    if "task" in settings:
        for name in ("data", "vocab", "context", "validation"):
            if name in settings:
                raise ValueError(f"--{name} is for text; --task generates its own sequences: leave one of them out")
    elif chosen := [name for name in TASK if name in settings]:
        raise ValueError(f"--{chosen[0]} belongs to a generated task; give --task, or leave it out")


def near(name: str, known: Mapping[str, Any]) -> str:
    found = difflib.get_close_matches(name, known, 1, 0.5)
    return f"did you mean '{found[0]}'?" if found else f"expected one of {', '.join(known)}"


def plan(settings: Mapping[str, Any]) -> Any:
    """The ``trainer.Plan`` of these settings. Raises ValueError and OSError, Missing without PyTorch."""
    check(settings)
    trainer = needed()
    task = task_of(settings) if "task" in settings else None
    every = PRESETS[settings.get("preset", "tiny")] | (FOR_TASKS if task else {}) | dict(settings)
    recipe = trainer.Recipe(**{name: every[name] for name in RECIPE if name in every})
    shape = {name: every[name] for name in MODEL if name in every}
    if task:
        shape |= {"vocab": task.vocab, "outputs": task.outputs, "context": task.positions}
        config = trainer.Config(**shape)
        source = trainer.of_task(task, recipe)
    else:
        corpus = loaded(every.get("data", "python"), shape.pop("vocab", None))
        config = trainer.Config(**shape, vocab=corpus.vocab)
        source = trainer.of_text(corpus, config, recipe, every["validation"])
    chosen = {name: every[name] for name in ("every", "log_every", "device", "compile") if name in every}
    source.draw(0)  # what this refuses is refused before a folder is made
    return trainer.Plan(config, recipe, source, **chosen)


def task_of(settings: Mapping[str, Any]) -> Task:
    if settings["task"] not in TASKS:
        raise ValueError(f"there is no task '{settings['task']}'; {near(settings['task'], dict.fromkeys(TASKS))}")
    return Task(settings["task"], **{name: settings[name] for name in TASK if name in settings})


@lru_cache(maxsize=2)
def loaded(source: str, vocab: int | None) -> Any:
    """A corpus, kept for the next run of a sweep."""
    from qkvtheory.experiments.data import corpus

    return corpus(source, vocab)


# -- for people --------------------------------------------------------------------------------------------------------


def report(result: Mapping[str, Any], out: str) -> list[str]:
    """What is said at the end."""
    from qkvtheory.experiments.trainer import scored

    lines = [
        f"validation    {scored(dict(result))}",
        f"parameters    {result['parameters']:,} ({result['variant']})",
    ]
    if "cache_bytes_per_token" in result:
        each = result["bytes_per_number"]
        lines.append(f"cache         {result['cache_bytes_per_token']:,} bytes per token ({each} per number)")
    speed = f"{result['tokens_per_second']:,.0f} tokens/s"
    if "flops_per_second" in result:
        speed += (
            f", {result['flops_per_second'] / 1e12:.1f} Tflop/s, {result['peak_memory_bytes'] / 1e9:.1f} GB at most"
        )
    lines.append(f"time          {result['seconds']:,.0f} s of training, {speed}")
    return [*lines, f"files         {Path(out)}: model.safetensors, config.json, result.json, log.jsonl, checkpoints"]
