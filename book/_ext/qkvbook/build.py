"""What the parts of the extension share: the manifest and the typesetter of one run, and records kept between runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

if TYPE_CHECKING:
    from .manifest import Manifest
    from .math import Typesetter


@dataclass
class Build:
    """One run of Sphinx. The manifest and the typesetter are there from ``builder-inited`` on."""

    manifest: Manifest = field(init=False)
    tex: Typesetter = field(init=False)
    # A mark in the body of a page -> what a page with it loads beyond the common files.
    modules: dict[str, str] = field(default_factory=dict)
    sheets: dict[str, str] = field(default_factory=lambda: {'class="sd-': "sphinx-design.min.css"})


def build_of(app: Sphinx) -> Build:
    """The one Build of an application."""
    return vars(app).setdefault("qkv", Build())


def boxes_of(env: BuildEnvironment) -> dict[str, str]:
    """Id of a claim -> the page with its box. Kept between runs with everything else Sphinx has read."""
    return vars(env).setdefault("qkv_boxes", {})


def leans_of(env: BuildEnvironment) -> dict[str, list[tuple[str, int]]]:
    """Page -> the claims it leans on, with the line of each."""
    return vars(env).setdefault("qkv_leans", {})
