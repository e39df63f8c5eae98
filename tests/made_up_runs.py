"""Stored results that nobody trained: what the real files look like, with effects that are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from qkvtheory.evidence import command

SEEDS = (0, 1, 2, 3)
MODELS = ("QKV", "Q-K=V", "Q=K-V", "Q=K=V", "(Q=K-V)+", "(Q=K=V)+")
Row = dict[str, Any]


def noise(seed: int, size: float, *what: Any) -> float:
    """The same for the same seed and place."""
    place = [seed, *"|".join(map(str, what)).encode()]
    return float(size * np.random.default_rng(place).normal())


def row(model: str, seed: int, loss: float, spread: float = 0.002, **more: Any) -> Row:
    """A row of a language model: seeds differ much, models of one seed alike."""
    common = noise(seed, 0.05, "data")
    return {"model": model, "seed": seed, "loss": loss + common + noise(seed, spread, model, more), **more}


def sharing() -> list[Row]:
    costs = {"QKV": 0.0, "Q-K=V": 0.03, "Q=K-V": 0.05, "Q=K=V": 0.2, "GQA-2": 0.005, "MQA": 0.01, "Q-K=V wide": 0.02}
    sizes = {"QKV": 3, "Q-K=V": 2, "Q=K-V": 2, "Q=K=V": 1, "GQA-2": 2, "MQA": 2, "Q-K=V wide": 3}
    rows = [row(m, s, 1.5 + cost, parameters=100_000 + 8192 * sizes[m]) for s in SEEDS for m, cost in costs.items()]
    gaps = {"QKV": 0.08}
    return [
        {**r, "train_loss": r["loss"] - gaps.get(r["model"], 0.05) + noise(r["seed"], 0.002, r["model"])} for r in rows
    ]


def identity() -> list[Row]:
    costs = {
        "QKV": 0.0,
        "identity": 0.01,
        "identity, half scale": 0.001,
        "identity, larger MLP": -0.02,
        "QKV, smaller MLP": 0.02,
        "without norms, QKV": 0.1,
        "without norms, identity": 0.15,
    }
    rows = [row(m, s, 1.5 + cost, parameters=100_000) for s in SEEDS for m, cost in costs.items()]
    before = [run for run in rows if run["model"] == "without norms, QKV"]
    carried = {"model": "without norms, QKV carried over", "change": 1e-14}
    return rows + [run | carried | {"loss_before": run["loss"]} for run in before]


def rates() -> list[Row]:
    """Loss rises with the distance from a best rate, steeply without a normed or nonlinear query; beyond its edge a
    model diverges.
    """
    models = {  # gain, steepness, edge at low decay
        "linear": (0.0, 0.2, 0.01), "linear + QK-norm": (-0.05, 0.01, 0.1), "identity": (0.0, 0.2, 0.03),
        "identity, half scale": (0.0, 0.2, 0.03), "linear, half scale": (0.0, 0.2, 0.03),
        "nonlinear": (-0.05, 0.01, 0.1),
    }  # fmt: skip
    rows = []
    for model, (gain, steep, edge) in models.items():
        for decay in (0.1, 0.03125, 0.0):
            for rate in (0.001, 0.003, 0.01, 0.03, 0.1):
                loss = 1.5 + gain + steep * abs(np.log(rate / (edge / 3)))
                found = [row(model, s, loss, rate=rate, weight_decay=decay) for s in SEEDS]
                broken = rate > (0.03 if model == "linear" and decay == 0.1 else edge)
                rows += [run | {"diverged": broken} for run in found]
    return rows


def synthetic() -> list[Row]:
    routed = {"QKV": 0.7, "Q-K=V": 0.7, "Q=K-V": 0.6, "Q=K=V": 0.4, "(Q=K-V)+": 0.7, "(Q=K=V)+": 0.5}
    rows = []
    for task in ("reverse", "sort", "swap", "sub", "copy"):
        for model, accuracy in routed.items():
            level = accuracy if task in ("reverse", "swap") else 0.95
            for seed in SEEDS:
                found = {
                    "task": task,
                    "model": model,
                    "seed": seed,
                    "accuracy": level + noise(seed, 0.004, task, model),
                }
                rows.append(found | ({"temperature": [-0.5, 1.0]} if model.endswith("+") else {}))
    return rows


def pair_bound() -> list[Row]:
    masses = {("QKV", 1): 1.9, ("Q=K-V", 1): 0.98, ("Q=K-V", 2): 0.97, ("(Q=K-V)+", 1): 1.8}
    return [
        {"task": task, "skips": skips, "model": m, "heads": h, "seed": s, "accuracy": 0.9}
        | {"largest_pair_mass": mass - abs(noise(s, 0.01, m, h, task, skips))}
        | ({"temperature": [-1.0]} if m.endswith("+") else {})
        for s in SEEDS
        for task in ("reverse", "swap")
        for skips in ("none", "both")
        for (m, h), mass in masses.items()
    ]


def recall() -> list[Row]:
    cells = {(32, 8, 4): (0.99, 0.5), (32, 8, 1): (1.0, 1.0), (64, 32, 16): (0.98, 0.3), (64, 32, 8): (1.0, 0.9),
             (64, 32, 1): (1.0, 1.0)}  # fmt: skip
    return [
        {
            "keys": k,
            "values": k,
            "d": d,
            "heads": h,
            "model": m,
            "seed": s,
            "accuracy": level - abs(noise(s, 0.003, k, h, m)),
        }
        for s in SEEDS
        for (k, d, h), levels in cells.items()
        for m, level in zip(("QKV", "Q-K=V"), levels, strict=True)
    ]


def posthoc() -> list[Row]:
    costs = {
        "untied": 0.0,
        "trained tied": 0.03,
        **{f"tied afterwards, {how}": 2.0 for how in ("keys", "values", "average")},
    }
    return [row(m, s, 1.5 + cost) for s in SEEDS for m, cost in costs.items()]


def digits() -> list[Row]:
    levels = {
        "QKV": 0.97,
        **dict.fromkeys((*MODELS[1:], "identity"), 0.968),
        "uniform attention": 0.9,
        "shuffled labels": 0.11,
    }
    sizes = {"Q-K=V": 2, "Q=K-V": 2, "(Q=K-V)+": 2, "Q=K=V": 1, "(Q=K=V)+": 1}
    return [
        {"model": m, "seed": s, "accuracy": level + noise(s, 0.003, m), "parameters": 20_000 + 2048 * sizes.get(m, 3)}
        for s in SEEDS
        for m, level in levels.items()
    ]


def padding() -> list[Row]:
    rows = [
        row(m, s, 1.5 + cost, scored=scored)
        for s in SEEDS
        for scored in ("real", "all")
        for m, cost in (("QKV", 0.0), ("Q-K=V", 0.03))
    ]
    return [r | {"loss_with_padding": 0.6 * r["loss"], "share_of_padding": 0.4} for r in rows]


def overfitting() -> list[Row]:
    gaps = {"QKV": 2.0, "Q-K=V": 1.5, "Q-K=V wide": 1.7, "QKV, more decay": 1.6}
    rows = [row(m, s, 3.0) for s in SEEDS for m in gaps]
    return [r | {"train_loss": r["loss"] - gaps[r["model"]] + noise(r["seed"], 0.01, r["model"])} for r in rows]


def decode() -> list[Row]:
    return [{"model": "QKV", "context": n, "cache_bytes": 1024 * n, "formula_bytes": 1024 * n} for n in (16, 32)]


FILES = {
    make.__name__: make
    for make in (sharing, identity, rates, synthetic, pair_bound, recall, posthoc, digits, padding, overfitting, decode)
}


def result(name: str, runs: list[Row] | None = None, **provenance: Any) -> dict[str, Any]:
    """What a stored file of this name holds."""
    where = {
        "command": command(name), "date": "2026-01-31", "machine": "a machine that nobody has", "commit": "abc1234",
        "versions": {"python": "3.11"}, **provenance,
    }  # fmt: skip
    return {"what": "made up", "provenance": where, "setting": {}, "runs": FILES[name]() if runs is None else runs}


def write(folder: Path, **changed: list[Row]) -> None:
    """All files, those named here with other runs."""
    for name in FILES:
        (folder / f"{name}.json").write_text(json.dumps(result(name, changed.get(name))), "utf8")
