"""Experiments: measurements that are run once and stored, with everything needed to run them again.

    python -m qkvtheory.experiments.ladder --out book/results/ladder.json
    python -m qkvtheory.experiments.depth --out book/results/depth.json
    python -m qkvtheory.experiments.pretrained --out book/results/pretrained.json
    python -m qkvtheory.experiments.slim --out book/results/slim.json
    python -m qkvtheory.experiments.absorb --out book/results/absorb.json

PyTorch and other optional libraries are imported here only, and only when a measurement asks for them.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from qkvtheory.errors import ConditionWarning


def relative_error(found: Any, expected: Any) -> float:
    """The largest entry of |found - expected| over the largest entry of |expected|, both taken to float64 first."""
    found, expected = (np.asarray(a, dtype=np.float64) for a in (found, expected))
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@contextmanager
def nearly_singular_on_purpose() -> Iterator[None]:
    """Where conditioning is what is measured, the warning about it says nothing new."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConditionWarning)
        yield


def rounded(x: float, digits: int = 4) -> float:
    """Four digits are plenty for an error, and keep the stored files readable."""
    return float(f"{x:.{digits - 1}e}")


def provenance(command: str, libraries: tuple[str, ...], **more: Any) -> dict[str, Any]:
    """Where numbers come from: the command, the day, the versions and the kind of machine, in plain words."""
    return {
        "command": command,
        "date": datetime.date.today().isoformat(),
        "machine": f"{os.cpu_count()} {platform.machine()} processor cores, {platform.system()}, no accelerator used",
        "versions": {"python": platform.python_version()} | {name: version(name) for name in libraries},
        **more,
    }


def version(library: str) -> str | None:
    """The installed version, without its build label; None where it is not installed."""
    try:
        return importlib.metadata.version(library).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return None


def store(result: Mapping[str, Any], out: str | None, quiet: bool = False) -> None:
    """Write a result as JSON, or print it. Raises OSError when the file cannot be written.

    The old file is replaced at once by the new one: a run that is stopped leaves one of the two.
    """
    text = json.dumps(result, indent=1) + "\n"
    if out is None:
        print(text, end="")
        return
    part = Path(out).with_suffix(".part")
    part.write_text(text, "utf8")
    part.replace(out)
    if not quiet:
        print(f"wrote {out}")


class Missing(RuntimeError):
    """Something an experiment needs is not installed; the message says how to get it."""


def command(
    name: str, description: str, measure: Callable[[], Mapping[str, Any]], arguments: Sequence[str] | None
) -> int:
    """The command line of an experiment: measure, then store or print. Exit code 2 with a reason, never a traceback."""
    module = f"python -m qkvtheory.experiments.{name}"
    example = f"example: {module} --out book/results/{name}.json"
    parser = argparse.ArgumentParser(prog=module, description=description, epilog=example)
    parser.add_argument("--out", metavar="FILE", help="write the result here; without it, print")
    out = parser.parse_args(arguments).out
    try:
        store(measure(), out)
    except Missing as reason:
        print(reason, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"cannot write {out}: {error.strerror}; give --out a file in an existing folder", file=sys.stderr)
        return 2
    return 0
