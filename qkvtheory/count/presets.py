"""Published models by name, each a Hugging Face configuration with the place where it is published."""

from __future__ import annotations

import difflib
import json
from functools import cache
from importlib.resources import files
from typing import Any

from qkvtheory.count.config import Config
from qkvtheory.count.huggingface import read


@cache
def stored() -> dict[str, dict[str, Any]]:
    """Name -> {"source": ..., "config": ...}, as in ``presets.json``."""
    return json.loads(files(__package__).joinpath("presets.json").read_text(encoding="utf-8"))


def names() -> tuple[str, ...]:
    """
    >>> "gpt2" in names()
    True
    """
    return tuple(stored())


def source(name: str) -> str:
    """Where this model's sizes are published."""
    return entry(name)["source"]


def preset(name: str) -> Config:
    """The Config of a published model. Raises ValueError, with one that is near, for an unknown name.

    >>> preset("llama-3-8b").groups
    8
    """
    return read(entry(name)["config"], name)


def entry(name: str) -> dict[str, Any]:
    if name not in stored():
        near = difflib.get_close_matches(name.lower(), names(), 1, 0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"expected one of {', '.join(names())}"
        raise ValueError(f"there is no preset called '{name}'; {hint}")
    return stored()[name]
