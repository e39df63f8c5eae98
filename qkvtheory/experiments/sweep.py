"""``python -m qkvtheory sweep``: train a grid of settings, and one table of them all.

    {"preset": "tiny", "data": "reference", "variant": ["QKV", "Q-K=V"], "rate": [1e-3, 3e-3], "seeds": [0, 1, 2]}

Every list is swept, everything else is fixed; the settings are the options of ``train``, with "_" for "-" in them, and
"seeds" is another word for "seed". JSON or TOML. Every run has its own folder, as ``train`` makes it: a sweep that was
stopped goes on, and a grid that has grown trains what is new. A run that fails is recorded and the others go on.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import statistics
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qkvtheory.experiments import Missing, provenance
from qkvtheory.experiments.folder import UNFINISHED, named, write_json
from qkvtheory.experiments.train import FAILED, INTERRUPTED, check, needed, plan

EXAMPLE = "python -m qkvtheory sweep grid.json --out runs/sweep"
GRID, SUMMARY = "grid.json", "summary.json"
SCORES = {"loss": "loss", "bits_per_byte": "bits per byte", "accuracy": "accuracy", "solved": "solved"}
SHAPE = ("parameters", "cache_bytes_per_token")  # the same in all seeds


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("grid", metavar="GRID", help="a .json or .toml file: lists are swept, the rest is fixed")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the sweep; one that is there goes on")


def run(args: argparse.Namespace) -> int:
    """Train what is not trained yet, print and store the table. Raises ValueError, OSError or Missing."""
    grid, out = read(Path(args.grid)), named(args.out)
    trials = expanded(grid)
    trainer = needed()
    if trainer.torch.distributed.is_torchelastic_launched():
        raise ValueError("a sweep is one process; for several GPUs run each training under torchrun")
    own(out, grid)
    done: list[dict[str, Any]] = []
    for number, (name, settings) in enumerate(trials, 1):
        try:
            done.append(trial(trainer, out, name, settings))
        except (trainer.Stopped, KeyboardInterrupt):
            print(f"stopped in {name}; the same command goes on: python -m qkvtheory sweep {args.grid} --out {out}")
            return INTERRUPTED
        print(f"[{number}/{len(trials)}] {name}: {told(done[-1])}", flush=True)
    summary = summarized(grid, done, f"python -m qkvtheory sweep {args.grid} --out {args.out}")
    write_json(out / SUMMARY, summary)
    print("\n".join(["", *table(summary["groups"]), "", f"stored in {out / SUMMARY}"]))
    return FAILED if any("reason" in row for row in done) else 0


def trial(trainer: Any, out: Path, name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """One run: its result, or the reason why there is none."""
    row: dict[str, Any] = {"run": name, "settings": dict(settings)}
    try:
        return row | trainer.train(plan(settings), out / name, command=f"sweep: {name}", quiet=True, name=name)
    except (ValueError, OSError, Missing, trainer.OutOfMemory, trainer.Diverged) as reason:
        return row | {"reason": str(reason)}


def told(row: Mapping[str, Any]) -> str:
    """
    >>> told({"loss": 1.5, "bits_per_byte": 2.164, "seconds": 60.2})
    'loss 1.5, bits per byte 2.164, 60 s'
    """
    if "reason" in row:
        return f"FAILED: {row['reason']}"
    scores = ", ".join(f"{words} {row[score]:.4g}" for score, words in SCORES.items() if score in row)
    return f"{scores}, {row['seconds']:.0f} s"


# -- the grid ----------------------------------------------------------------------------------------------------------


def read(path: Path) -> dict[str, Any]:
    """The grid in a file. Raises ValueError."""
    if not path.is_file():
        raise ValueError(f"there is no grid file {path}; give a .json or .toml file")
    try:
        text = path.read_text("utf8")
        grid = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not {'TOML' if path.suffix == '.toml' else 'JSON'}: {error}") from None
    if not isinstance(grid, dict) or not grid:
        raise ValueError(f'{path} must hold settings, such as {{"preset": "tiny", "variant": ["QKV", "Q-K=V"]}}')
    if {"seed", "seeds"} <= grid.keys():
        raise ValueError(f'{path} has both "seed" and "seeds", which mean the same; keep one')
    return {"seed" if name == "seeds" else name: value for name, value in grid.items()}


def expanded(grid: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """All runs of a grid, each with a name that says what is swept. Raises ValueError for settings that are none.

    >>> [name for name, settings in expanded({"d": 64, "variant": ["QKV", "Q-K=V"], "seed": [0]})]
    ['variant-QKV_seed-0', 'variant-Q-K=V_seed-0']
    """
    swept = {name: value for name, value in grid.items() if isinstance(value, list)}
    for name, values in swept.items():
        if not values:
            raise ValueError(f'the list of "{name}" is empty; give at least one value')
    fixed = {name: value for name, value in grid.items() if name not in swept}
    found = []
    for point in itertools.product(*swept.values()):
        chosen = dict(zip(swept, point, strict=True))
        check(fixed | chosen)
        found.append(("_".join(map(part, chosen, point)) or "run", fixed | chosen))
    names = [name for name, _ in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two runs would be called {twice[0]}; does a list hold the same value twice?")
    return found


def part(name: str, value: Any) -> str:
    """A setting as a part of a folder's name."""
    return f"{name}-{re.sub(r'[^A-Za-z0-9.=+()-]', '-', str(value))}"


def own(out: Path, grid: Mapping[str, Any]) -> None:
    """Take the folder; raises ValueError where something else is in it."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; give --out a folder")
    inside = {p.name for p in out.iterdir() if p.suffix != UNFINISHED} if out.exists() else set()
    if inside and GRID not in inside:
        raise ValueError(f"{out} is not empty and holds no sweep; nothing was changed: give --out a new folder")
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / GRID, grid)


# -- the table ---------------------------------------------------------------------------------------------------------


def summarized(grid: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], command: str) -> dict[str, Any]:
    """What is stored: every run, and for every point of the grid the mean and the spread over its seeds."""
    swept = [name for name, value in grid.items() if isinstance(value, list) and name != "seed"]
    points: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        points.setdefault(tuple(row["settings"][name] for name in swept), []).append(row)
    groups = [dict(zip(swept, point, strict=True)) | over_seeds(found) for point, found in points.items()]
    return {
        "what": "A sweep: mean and sample standard deviation over seeds for every point of a grid, and every run.",
        "provenance": provenance(command, ("torch", "numpy")),
        "grid": dict(grid),
        "groups": groups,
        "runs": [dict(row) for row in rows],
    }


def over_seeds(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """
    >>> over_seeds([{"loss": 1.0}, {"loss": 3.0}, {"reason": "diverged"}])
    {'runs': 2, 'failed': 1, 'loss': {'mean': 2.0, 'spread': 1.4142135623730951}}
    """
    good = [row for row in rows if "reason" not in row]
    found: dict[str, Any] = {"runs": len(good), "failed": len(rows) - len(good)}
    found |= {name: good[0][name] for name in SHAPE if good and name in good[0]}
    for score in SCORES:
        if values := [row[score] for row in good if score in row]:
            spread = statistics.stdev(values) if len(values) > 1 else None
            found[score] = {"mean": statistics.fmean(values), "spread": spread}
    return found


def table(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    """Aligned columns: the swept settings, runs, and each score as mean +- spread (one standard deviation)."""
    columns = list(dict.fromkeys(name for group in groups for name in group))
    if not any(group["failed"] for group in groups):
        columns.remove("failed")
    headings = [SCORES.get(name, name.replace("_", " ")) for name in columns]
    cells = [headings, *([cell(group.get(name, "-")) for name in columns] for group in groups)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    return ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells]


def cell(value: Any) -> str:
    if isinstance(value, Mapping):
        spread = "" if value["spread"] is None else f" +- {value['spread']:.4f}"
        return f"{value['mean']:.4f}{spread}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
