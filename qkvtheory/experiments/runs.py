"""What the experiments of the chapter on training have in common: a plan of runs, done one by one and kept.

A plan lists its runs in stages, since a later stage may need the earlier ones: first learning rates are tried, then
every model runs at its best one with all seeds. A finished run is written at once, and a run found in the file is not
repeated, so an experiment can be stopped and started at will.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qkvtheory.experiments import Missing, provenance, rounded, store

Row = dict[str, Any]
LISTS = ("tuning", "runs")


@dataclass(frozen=True)
class Job:
    """One run: ``key`` tells it from the others (model, seed and what else varies), ``run`` does it and gives numbers.
    ``tuning``: it only serves to choose, and is kept apart.
    """

    key: Mapping[str, Any]
    run: Callable[[], Row]
    tuning: bool = False


@dataclass(frozen=True)
class Plan:
    """An experiment. ``stages``: functions from the rows so far, by list, to the jobs that follow."""

    name: str
    what: str
    setting: Mapping[str, Any]
    published: Mapping[str, Any]
    stages: Sequence[Callable[[Mapping[str, list[Row]]], Iterable[Job]]]
    source: Mapping[str, Any] = field(default_factory=dict)  # of the data, for the provenance

    @property
    def command(self) -> str:
        return f"python -m qkvtheory.experiments.{self.name} --out book/results/{self.name}.json"


def measure(plan: Plan, out: str | None = None, wanted: Callable[[Mapping[str, Any]], bool] = lambda key: True) -> Row:
    """All runs of the plan that are wanted; those already in ``out`` are taken from there. Raises Missing where they
    were made in another setting.
    """
    rows = earlier(out, plan)
    for stage in plan.stages:
        for job in [job for job in stage(rows) if wanted(job.key)]:
            name = "tuning" if job.tuning else "runs"
            if any(same(row, job.key) for row in rows[name]):
                continue
            start = time.perf_counter()
            row = dict(job.key) | job.run()
            rows[name].append({"seconds": rounded(time.perf_counter() - start, 3)} | row)
            if out:
                store(result(plan, rows), out, quiet=True)
                print(f"{plan.name}: {told(rows[name][-1])}", flush=True)
    return result(plan, rows)


def same(row: Mapping[str, Any], key: Mapping[str, Any]) -> bool:
    return all(row.get(name) == value for name, value in key.items())


def told(row: Mapping[str, Any]) -> str:
    """A row in one line: numbers and names, no curves."""
    return ", ".join(f"{name} {value}" for name, value in row.items() if isinstance(value, str | int | float))


def earlier(out: str | None, plan: Plan) -> dict[str, list[Row]]:
    """The rows in the file, by list."""
    if out is None or not Path(out).is_file():
        return {name: [] for name in LISTS}
    try:
        found = json.loads(Path(out).read_text("utf8"))
        rows = {name: list(found.get(name, [])) if name == "tuning" else list(found[name]) for name in LISTS}
        setting = found["setting"]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Missing(f"{out} holds something else than runs of this experiment; give --out another file") from None
    if setting != json.loads(json.dumps(plan.setting)):
        raise Missing(f"{out} was made in another setting than this script's; give --out another file")
    return rows


def result(plan: Plan, rows: Mapping[str, list[Row]]) -> Row:
    lists = {name: rows[name] for name in LISTS if rows[name] or name == "runs"}
    return {
        "what": plan.what,
        "provenance": provenance(plan.command, ("torch", "numpy"), commit=commit(), threads=1, **plan.source),
        "setting": dict(plan.setting),
        "published": dict(plan.published),
        **lists,
    }


def commit() -> str | None:
    """The commit these sources stand at, where git knows."""
    here = Path(__file__).resolve().parent
    try:
        found = subprocess.run(["git", "-C", here, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    except OSError:
        return None
    return found.stdout.strip() or None


def best_rate(rows: Iterable[Mapping[str, Any]], **model: Any) -> float:
    """The rate of the lowest loss among these rows of a model; runs that diverged are the last choice."""
    own = [row for row in rows if same(row, model)]
    return min(own, key=lambda row: math.inf if row.get("diverged") or row["loss"] is None else row["loss"])["rate"]


def tuned(
    rows: Mapping[str, list[Row]], job: Callable[..., Job], models: Iterable[str], seeds: Sequence[int]
) -> list[Job]:
    """Every model at its best rate with all seeds. What was run while tuning is taken over."""

    def taken_over(made: Job) -> Job:
        old = next((row for row in rows["tuning"] if same(row, made.key)), None)
        return made if old is None else Job(made.key, lambda: dict(old))

    tried = [model for model in models if any(row["model"] == model for row in rows["tuning"])]
    best = {model: best_rate(rows["tuning"], model=model) for model in tried}
    return [taken_over(job(model, best[model], seed)) for seed in seeds for model in tried]


def finite(x: float) -> float | None:
    """JSON knows no infinity."""
    return rounded(x, 6) if math.isfinite(x) else None


def main(plan: Callable[[], Plan], arguments: Sequence[str] | None = None) -> int:
    """The command line of an experiment of training."""
    from qkvtheory.experiments.model import torch

    made = plan()
    module = f"python -m qkvtheory.experiments.{made.name}"
    parser = argparse.ArgumentParser(prog=module, description=made.what, epilog=f"example: {made.command}")
    parser.add_argument("--out", metavar="FILE", help="write every finished run here; without it, print at the end")
    parser.add_argument("--models", nargs="+", metavar="NAME", help="only runs of these models")
    parser.add_argument("--seeds", type=int, nargs="+", metavar="N", help="only runs with these seeds")
    asked = parser.parse_args(arguments)

    def wanted(key: Mapping[str, Any]) -> bool:
        named = not asked.models or key["model"] in asked.models
        return named and (not asked.seeds or key["seed"] in asked.seeds)

    torch.set_num_threads(1)  # so that a run gives the same numbers beside others
    try:
        found = measure(made, asked.out, wanted)
        if asked.out is None:
            store(found, None)
    except Missing as reason:
        print(reason, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"cannot write {asked.out}: {error.strerror}; give --out a file in an existing folder", file=sys.stderr)
        return 2
    return 0
