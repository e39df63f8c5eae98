"""How near an MLP comes to absorbing its own skip: a trained skipless MLP against the best linear map.

The teacher is an MLP half-block of a residual network in other bases before and after it, so with a basis-transformed
skip: y = x A + GELU(x U + b) V + c, where A = Theta_1^T Theta_2 for random rotations Theta_1 and Theta_2 (U and V are
turned with them). The student is a GELU MLP of the same width without a skip. Exactly it cannot succeed (claim
almost-sure-failure); here is how near it comes, beside the best linear and the best affine map.

    python -m qkvtheory.experiments.absorb --out book/results/absorb.json

The set-up is ours: the published figure (arXiv 2510.23912, Figures 1 and 2 of an early version) does not give its own.
Weights of the teacher uniform in +-1/sqrt(fan-in), width 4h; tokens standard normal, fresh in every step; Adam, batch
512, linear warm-up, then cosine decay to zero. Needs PyTorch. A run takes from two minutes (h = 64) to an hour
(h = 768) on a processor; every finished run is written to --out at once, and a run found there is not repeated.
``--device cuda`` runs the same on an accelerator, ``--steps`` sets another length for all runs.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qkvtheory.claims.absorbing_skips import figures
from qkvtheory.experiments import Missing, provenance, rounded, store

BATCH, WARMUP, TIMES = 512, 200, 4  # tokens in a step, steps of warm-up, hidden units for each coordinate
TEST, FIT = 4096, 65536  # tokens for measuring, tokens for the least-squares maps
POINTS = 20  # how often a run is measured on its way


@dataclass(frozen=True)
class Run:
    """One training: width of the stream, steps, peak learning rate, seed."""

    h: int
    steps: int
    rate: float
    seed: int = 0


RUNS = (
    Run(64, 20000, 2e-3),
    Run(128, 20000, 2e-3),
    Run(256, 16000, 4e-3),
    Run(512, 8000, 4e-3),
    Run(768, 4000, 4e-3),
)
PUBLISHED = {  # as reported of Figures 1 and 2 in an early version of arXiv 2510.23912: relative error, mean cosine
    "widths": [256, 512, 768],
    "student": {"error": [0.04, 0.05], "cosine": 0.999},
    "linear": {"error": [0.09, 0.10], "cosine": 0.995},
}


def torch_or_missing() -> Any:
    try:
        import torch
    except ImportError:
        raise Missing("this experiment trains with PyTorch; install it with: pip install torch") from None
    return torch


@dataclass(frozen=True, eq=False)
class Half:
    """y = x A + GELU(x U + b) V + c, with A = None for no skip."""

    A: Any
    U: Any
    b: Any
    V: Any
    c: Any

    def __call__(self, x: Any) -> Any:
        gelu = torch_or_missing().nn.functional.gelu
        z = gelu(x @ self.U + self.b) @ self.V + self.c
        return z if self.A is None else x @ self.A + z


def drawn(h: int, generator: Any, device: str, skip: bool) -> Half:
    """Weights uniform in +-1/sqrt(fan-in). With a skip, everything in other bases, by two random rotations."""
    torch, m = torch_or_missing(), TIMES * h

    def uniform(fan_in: int, *shape: int) -> Any:
        return ((2 * torch.rand(*shape, generator=generator) - 1) / fan_in**0.5).to(device)

    U, b, V, c = uniform(h, h, m), uniform(h, m), uniform(m, m, h), uniform(m, h)
    if not skip:
        return Half(None, U, b, V, c)
    before, after = (
        torch.linalg.qr(torch.randn(h, h, generator=generator, dtype=torch.float64))[0].to(device, torch.float32)
        for _ in range(2)
    )
    return Half(before.T @ after, before.T @ U, b, V @ after, c @ after)


def errors(found: Any, expected: Any) -> dict[str, float]:
    """Means over the tokens of |found - expected| / |expected| and of the cosine between the two."""
    cosine = torch_or_missing().nn.functional.cosine_similarity(found, expected, dim=1)
    relative = (found - expected).norm(dim=1) / expected.norm(dim=1)
    return {"error": rounded(float(relative.mean())), "cosine": rounded(float(cosine.mean()), 6)}


def least_squares(teacher: Half, x: Any, test: Any) -> dict[str, dict[str, float]]:
    """The best linear and the best affine map, found on many tokens and measured on others."""
    torch = torch_or_missing()
    y, expected, found = teacher(x), teacher(test), {}
    for name, with_one in (("linear", False), ("affine", True)):
        inputs, others = (torch.cat([z, torch.ones_like(z[:, :1])], 1) if with_one else z for z in (x, test))
        a = inputs.double()
        W = torch.linalg.solve(a.T @ a, a.T @ y.double()).float()
        found[name] = errors(others @ W, expected)
    return found


def train(run: Run, device: str = "cpu", show: bool = False) -> dict[str, Any]:
    """One run: the baselines, then the student's error on its way. The same seed gives the same draws."""
    torch = torch_or_missing()
    generator = torch.Generator().manual_seed(1000 * run.h + run.seed)
    teacher, student = (drawn(run.h, generator, device, skip) for skip in (True, False))
    fit, test = (torch.randn(size, run.h, generator=generator).to(device) for size in (FIT, TEST))
    result: dict[str, Any] = asdict(run) | least_squares(teacher, fit, test)
    weights = [w.requires_grad_() for w in (student.U, student.b, student.V, student.c)]
    optimizer = torch.optim.Adam(weights, lr=run.rate)
    tokens = torch.Generator(device).manual_seed(run.seed)
    curve, start, every = [], time.perf_counter(), max(1, run.steps // POINTS)
    for step in range(1, run.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = run.rate * schedule(step, run.steps)
        x = torch.randn(BATCH, run.h, generator=tokens, device=device)
        with torch.no_grad():
            y = teacher(x)
        loss = (student(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % every == 0 or step == run.steps:
            with torch.no_grad():
                curve.append({"step": step} | errors(student(test), teacher(test)))
            if show:
                gone = time.perf_counter() - start
                print(
                    f"h = {run.h}: step {step} of {run.steps}, error {curve[-1]['error']:.2%}, {gone:.0f} s", flush=True
                )
    student_now = {name: curve[-1][name] for name in ("error", "cosine")}
    return result | {"student": student_now, "curve": curve, "seconds": round(time.perf_counter() - start)}


def schedule(step: int, steps: int) -> float:
    """The share of the peak rate: up linearly, then down by a cosine to zero at the end.

    >>> schedule(100, 1000), schedule(1000, 1000)
    (0.5, 0.0)
    """
    warm = min(WARMUP, steps // 2)
    if step <= warm:
        return step / warm
    return (1 + math.cos(math.pi * (step - warm) / (steps - warm))) / 2


def predicted(h: int) -> dict[str, float]:
    """The errors of the best linear and the best affine map, from the claim mlp-vs-linear-baseline: nothing is drawn.

    >>> predicted(256)["affine"] < predicted(256)["linear"] < 0.12
    True
    """
    return {name: rounded(figures.predicted(h, name == "affine")) for name in ("linear", "affine")}


# -- storing -----------------------------------------------------------------------------------------------------------


def measure(runs: Sequence[Run], device: str = "cpu", out: str | None = None, show: bool = True) -> dict[str, Any]:
    """All runs; those already in ``out`` are taken from there, and every new one is written there at once."""
    done = {key(row): row for row in earlier(out)}
    for run in runs:
        if key(asdict(run)) not in done:
            done[key(asdict(run))] = train(run, device, show) | {"device": described(device)}
            if out:
                store(result(list(done.values())), out)
    return result(list(done.values()))


def key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("h", "steps", "rate", "seed"))


def earlier(out: str | None) -> list[dict[str, Any]]:
    if out is None or not Path(out).is_file():
        return []
    try:
        return list(json.loads(Path(out).read_text("utf8"))["runs"])
    except (ValueError, KeyError, TypeError):
        raise Missing(f"{out} holds something else than runs of this experiment; give --out another file") from None


def described(device: str) -> str:
    return "processor" if device == "cpu" else str(torch_or_missing().cuda.get_device_name(device))


def result(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    ordered = sorted(rows, key=key)
    return {
        "what": "A skipless GELU MLP trained to be an MLP with a basis-transformed skip, and the best linear maps.",
        "provenance": provenance(
            "python -m qkvtheory.experiments.absorb --out book/results/absorb.json", ("torch", "numpy")
        ),
        "setting": {"batch": BATCH, "warmup": WARMUP, "hidden": TIMES, "test": TEST, "fit": FIT},
        "published": PUBLISHED,
        "predicted": [{"h": h} | predicted(h) for h in sorted({row["h"] for row in ordered})],
        "runs": ordered,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    module = "python -m qkvtheory.experiments.absorb"
    parser = argparse.ArgumentParser(
        prog=module,
        description="Train MLPs to absorb a skip.",
        epilog=f"example: {module} --widths 64 128 --out book/results/absorb.json",
    )
    parser.add_argument("--out", metavar="FILE", help="write every finished run here; without it, print at the end")
    parser.add_argument("--widths", type=int, nargs="+", metavar="H", help="only these of 64, 128, 256, 512, 768")
    parser.add_argument("--steps", type=int, metavar="N", help="this many steps in every run")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    asked = parser.parse_args(arguments)
    if unknown := sorted(set(asked.widths or ()) - {run.h for run in RUNS}):
        parser.error(f"--widths: no run is planned for {unknown}; there are {[run.h for run in RUNS]}")
    if asked.steps is not None and asked.steps < 2:
        parser.error("--steps must be at least 2")
    runs = [run for run in RUNS if not asked.widths or run.h in asked.widths]
    runs = [Run(run.h, asked.steps or run.steps, run.rate, run.seed) for run in runs]
    try:
        found = measure(runs, asked.device, asked.out, show=asked.out is not None)
        if asked.out is None:
            store(found, None)
    except (Missing, RuntimeError) as reason:
        print(reason, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"cannot write {asked.out}: {error.strerror}; give --out a file in an existing folder", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
