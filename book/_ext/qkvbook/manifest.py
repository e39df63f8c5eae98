"""The manifest of the checks, `_build/claims.json`: the one interface between what was checked and what a page says.

Everything a page says about a claim comes from here. What is red, stale or incomplete in it is a warning, hence a
failed build under ``-W``.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import reduce
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util import logging

from .build import build_of

logger = logging.getLogger(__name__)

MARKS = {"pass": "✓", "fail": "✗", "not-run": "–", "rejected": "✓", "accepted": "✗"}
WORDS = {"pass": "passes", "fail": "fails", "not-run": "not run here"}


class Manifest:
    """Claims by id, with what can be computed from them.

    >>> Manifest({"claims": [], "left_out": [], "meta": {}}).claims
    {}
    """

    def __init__(self, data: dict[str, Any], path: Path | None = None) -> None:
        self.path = path
        self.meta: dict[str, Any] = data["meta"]
        self.left_out: list[dict[str, str]] = data.get("left_out", [])
        self.claims: dict[str, dict[str, Any]] = {claim["id"]: claim for claim in data["claims"]}
        self.data = {"meta": self.meta, "claims": self.claims, "left_out": self.left_out}

    def used_by(self, identifier: str) -> list[str]:
        """Ids of the claims that list this one in `uses`."""
        return [other for other, claim in self.claims.items() if identifier in claim["uses"]]

    def problems(self) -> list[str]:
        """One line for each claim that is red, uses what is not there, or has a hypothesis nobody tried to drop."""
        return [line for claim in self.claims.values() for line in self._problems(claim)]

    def _problems(self, claim: dict[str, Any]) -> list[str]:
        name, controlled = claim["id"], {control["hypothesis"] for control in claim["controls"]}
        lines = [
            f"claim {name}: the {lane} lane fails" for lane, it in claim["lanes"].items() if it["status"] == "fail"
        ]
        lines += [
            f"claim {name}: the control {control['what']!r} was accepted"
            for control in claim["controls"]
            if control["status"] == "accepted"
        ]
        lines += [
            f"claim {name}: hypothesis {h['id']} has no control"
            for h in claim["hypotheses"]
            if h["id"] not in controlled
        ]
        lines += [
            f"claim {name}: uses {used!r}, which is no claim" for used in claim["uses"] if used not in self.claims
        ]
        return lines


def status(claim: dict[str, Any]) -> str:
    """The verdict on one claim: fail beats pass beats not-run, and an accepted control is a failure.

    >>> status({"lanes": {"numeric": {"status": "pass"}}, "controls": [{"status": "accepted"}]})
    'fail'
    """
    lanes = {lane["status"] for lane in claim["lanes"].values()}
    if "fail" in lanes or any(control["status"] == "accepted" for control in claim["controls"]):
        return "fail"
    return "pass" if "pass" in lanes else "not-run"


def lookup(data: Any, path: str) -> Any:
    """A value by its dotted path; numbers index lists. Raises KeyError, naming the part that is missing.

    >>> lookup({"layers": [{"cond": 2.5}]}, "layers.0.cond")
    2.5
    """

    def step(value: Any, part: str) -> Any:
        try:
            return value[int(part)] if isinstance(value, list) else value[part]
        except (KeyError, IndexError, ValueError, TypeError):
            raise KeyError(f"no {part!r} in {path!r}") from None

    return reduce(step, path.split("."), data)


def number(value: Any) -> str:
    """A measured number in print: integers whole, the rest to two digits.

    >>> number(0), number(1200), number(3.14e-15), number(None)
    ('0', '1,200', '3.1e-15', '')
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if value == int(value) and abs(value) < 1e6:
        return f"{int(value):,}"
    return f"{value:.2g}"


def load(app: Sphinx) -> None:
    """Read the manifest, making it first when it is missing; what is wrong with it is warned about on every build."""
    path = Path(app.srcdir) / app.config.qkv_manifest
    if not path.is_file():
        _make(path, app)
    manifest = Manifest(json.loads(path.read_text("utf8")), path)
    build_of(app).manifest = manifest
    for line in manifest.problems():
        logger.warning(line, type="qkv", subtype="claim")
    if app.config.qkv_check_sources and manifest.meta["sources_sha256"] != _sources():
        logger.warning("%s is stale: the sources changed since it was made; run `make check`", app.config.qkv_manifest)


def _make(path: Path, app: Sphinx) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "qkvtheory", "check", "--json", str(path)]
    done = subprocess.run(command, cwd=app.srcdir, capture_output=True, text=True)
    if not path.is_file():
        raise ExtensionError(f"no manifest: `python -m qkvtheory check` wrote none\n{done.stdout}{done.stderr}")


def _sources() -> str:
    from qkvtheory.lanes.report import sources_sha256

    return sources_sha256()


def setup(app: Sphinx) -> None:
    app.add_config_value("qkv_manifest", "_build/claims.json", "env")
    app.add_config_value("qkv_check_sources", True, "env")
    app.connect("builder-inited", load)
