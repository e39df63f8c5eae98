"""The folder of a training run: what it is, its log, its checkpoints; every file whole or not there.

    run.json           what is trained, on what, how: a run goes on only where these agree
    log.jsonl          provenance first, then a line for every few steps, for validation, for every new start
    checkpoints/       the last two, safetensors with the state as JSON in the header: nothing in them is ever executed
    model.safetensors, config.json, result.json    at the end

A file is written beside its place and then moved there, so that a crash at any point leaves the one before.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

RUN, LOG, RESULT, CHECKPOINTS = "run.json", "log.jsonl", "result.json", "checkpoints"
OURS = (RESULT, "model.safetensors", "config.json", CHECKPOINTS, LOG, RUN)  # in the order in which they are removed
UNFINISHED = ".part"
KEPT = 2  # checkpoints
COMPARED = ("config", "recipe", "data")


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Let ``write`` fill a file, then put it at ``path`` in one move."""
    part = path.with_name(path.name + UNFINISHED)
    write(part)
    with open(part, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(part, path)


def write_json(path: Path, content: Any) -> None:
    text = json.dumps(content, indent=1) + "\n"
    write_whole(path, lambda part: part.write_text(text, "utf8"))


def read_json(path: Path) -> dict[str, Any]:
    """Raises ValueError for what is no JSON object."""
    try:
        found = json.loads(path.read_text("utf8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}); was it edited? Start anew with --fresh") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} does not hold an object; was it edited? Start anew with --fresh")
    return found


# -- whose folder ------------------------------------------------------------------------------------------------------


def named(out: str) -> Path:
    """The folder that --out names. An empty name, which would be the current folder, is refused with ValueError."""
    if not out or "\0" in out:
        raise ValueError(f"{out!r} is no name of a folder; give --out one (. is the current folder)")
    return Path(out)


def claim(folder: Path, run: Mapping[str, Any], fresh: bool = False) -> bool:
    """Make the folder this run's own; True if it already was.

    ``run``: the contents of run.json, of which ``COMPARED`` must agree. ``fresh``: remove what an earlier run left.
    Raises ValueError, and changes nothing, where the folder holds something else.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give --out a folder")
    inside = {p.name for p in folder.iterdir() if p.suffix != UNFINISHED} if folder.exists() else set()
    if inside and RUN not in inside:
        raise ValueError(
            f"{folder} is not empty and holds no training run ({', '.join(sorted(inside)[:3])}); nothing was changed: "
            f"give --out a new or an empty folder"
        )
    if RUN in inside and not fresh:
        if different := differences(read_json(folder / RUN), run):
            raise ValueError(
                f"{folder} holds another run; nothing was changed. {'; '.join(different[:5])}"
                f"{' ...' if len(different) > 5 else ''}. Give another --out, the same options to go on, or --fresh "
                f"to remove that run and start anew"
            )
        return True
    for name in OURS if inside else ():
        remove(folder / name)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / RUN, run)
    return False


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """
    >>> differences({"recipe": {"steps": 5, "seed": 0}}, {"recipe": {"steps": 6, "seed": 0}})
    ['steps is 5 there and 6 here']
    """
    found = []
    for part in COMPARED:
        a, b = (json.loads(json.dumps(run.get(part) or {})) for run in (there, here))
        found += [
            f"{name} is {a.get(name, 'not given')} there and {b.get(name, 'not given')} here"
            for name in dict.fromkeys([*a, *b])
            if a.get(name) != b.get(name)
        ]
    return found


# -- the log -----------------------------------------------------------------------------------------------------------


def append(folder: Path, line: Mapping[str, Any]) -> None:
    """Add a line to the log; a half line that a crash left gets its end first."""
    with open(folder / LOG, "ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write((json.dumps(line) + "\n").encode())


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The lines of the log that count: without half lines, and without what was done again after a new start."""
    kept: list[dict[str, Any]] = []
    for line in lines(folder / LOG):
        if line.get("event") == "resumed":
            kept = [earlier for earlier in kept if earlier.get("step", 0) <= line["step"]]
        kept.append(line)
    return kept


def lines(path: Path) -> Iterator[dict[str, Any]]:
    for text in path.read_text("utf8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue  # cut off by a crash
        if isinstance(line, dict):
            yield line


# -- checkpoints -------------------------------------------------------------------------------------------------------


def checkpoints(folder: Path) -> list[Path]:
    """From the first to the last."""
    return sorted((folder / CHECKPOINTS).glob("*.safetensors"))


def write_checkpoint(folder: Path, tensors: Mapping[str, Any], state: Mapping[str, Any]) -> Path:
    """Write tensors and a state (JSON, with its "step"), then remove all but the last two."""
    from safetensors.torch import save_file

    path = folder / CHECKPOINTS / f"{state['step']:08}.safetensors"
    path.parent.mkdir(exist_ok=True)
    for old in path.parent.glob(f"*{UNFINISHED}"):
        old.unlink()
    whole = {name: t.detach().contiguous() for name, t in tensors.items()}
    write_whole(path, lambda part: save_file(whole, part, {"state": json.dumps(state)}))
    for old in checkpoints(folder)[:-KEPT]:
        old.unlink()
    return path


def read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tensors, on the processor, and the state. Raises ValueError, saying what to do, for a damaged file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            state = json.loads(file.metadata()["state"])
            return {name: file.get_tensor(name) for name in file.keys()}, state  # noqa: SIM118 (it is no dictionary)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(damaged(path, str(error))) from None


def damaged(path: Path, why: str) -> str:
    others = [p for p in checkpoints(path.parents[1]) if p < path]
    instead = f"training then goes on from {others[-1].name}" if others else "training then starts from the beginning"
    return f"the checkpoint {path} cannot be read ({why}); it may be cut short. Delete it: {instead}"
