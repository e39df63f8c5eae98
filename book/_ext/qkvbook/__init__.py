"""The Sphinx extension of this book: claims, formulas, figures and pages, all made while the book is built."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

from . import (
    boundaries,
    claims,
    elements,
    evidence,
    features,
    links,
    manifest,
    math,
    notebooks,
    plots,
    register,
    site,
    values,
    widgets,
)


def setup(app: Sphinx) -> dict[str, Any]:
    for part in (
        elements,
        manifest,
        math,
        links,
        claims,
        values,
        register,
        boundaries,
        features,
        evidence,
        site,
        plots,
        widgets,
        notebooks,
    ):
        part.setup(app)
    return {"version": "1", "env_version": fingerprint(), "parallel_read_safe": False, "parallel_write_safe": False}


def fingerprint() -> int:
    """A number that changes with this code, so that pages made by an older extension are made anew."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return int(sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12], 16)
