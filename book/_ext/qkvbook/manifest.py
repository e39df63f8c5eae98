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
from typing import TYPE_CHECKING, Any

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util import logging

from .build import build_of

if TYPE_CHECKING:
    from qkvtheory.claims.model import Claim

logger = logging.getLogger(__name__)

MARKS = {"pass": "✓", "fail": "✗", "not-run": "–", "rejected": "✓", "accepted": "✗"}
WORDS = {"pass": "pass", "fail": "fail", "not-run": "not run here"}


class Manifest:
    """Claims by id, with what can be computed from them.

    >>> Manifest({"claims": [], "left_out": [], "meta": {}}).claims
    {}
    """

    def __init__(self, data: dict[str, Any], path: Path | None = None) -> None:
        self.path, self.stored = path, data
        self.meta: dict[str, Any] = data["meta"]
        self.left_out: list[dict[str, str]] = data.get("left_out", [])
        self.claims: dict[str, dict[str, Any]] = {claim["id"]: claim for claim in data["claims"]}
        self.data = {"meta": self.meta, "claims": self.claims, "left_out": self.left_out}

    def used_by(self, identifier: str) -> list[str]:
        """Ids of the claims that list this one in `uses`."""
        return [other for other, claim in self.claims.items() if identifier in claim["uses"]]

    def problems(self) -> list[str]:
        """What is wrong with the manifest in itself, and where it is not the manifest of the package that is here."""
        return [*self.faults(), *self.strays()]

    def faults(self) -> list[str]:
        """One line for each thing that is red, was passed without a comparison, or has not been tried at all."""
        return [line for claim in self.claims.values() for line in self._faults(claim)]

    def _faults(self, claim: dict[str, Any]) -> list[str]:
        name = claim["id"]
        dropped = {control["hypothesis"] for control in claim["controls"] if control["status"] == "rejected"}
        wrong = {lane: bad(lane, result) for lane, result in claim["lanes"].items()}
        lines = [f"claim {name}: the {lane} lane {said}" for lane, said in wrong.items() if said]
        lines += [
            f"claim {name}: the control {control['what']!r} was accepted"
            for control in claim["controls"]
            if control["status"] == "accepted"
        ]
        lines += [
            f"claim {name}: hypothesis {h['id']} has no control that was rejected"
            for h in claim["hypotheses"]
            if h["id"] not in dropped and not waits(claim, h["id"])
        ]
        lines += [
            f"claim {name}: uses {used!r}, which is no claim" for used in claim["uses"] if used not in self.claims
        ]
        if claim["status"] != status(claim):
            lines.append(f"claim {name}: stored as {claim['status']!r}, but its lanes say {status(claim)!r}")
        return lines

    def strays(self) -> list[str]:
        """Where the manifest is not what a whole run of the package here would write."""
        from qkvtheory.claims.register import register

        here = register()
        lines = [f"the manifest: {doubt}; run `make check`" for doubt in _doubts(self.stored)]
        if [claim["id"] for claim in self.stored["claims"]] != list(here):
            different = ", ".join(sorted(here.keys() ^ self.claims.keys())) or "their order or number"
            lines.append(f"the manifest: its claims are not those of the register ({different}); run `make check`")
        return lines + [
            line for name, claim in self.claims.items() if name in here for line in _strays(claim, here[name])
        ]


def waits(claim: dict[str, Any], hypothesis: str) -> bool:
    """Do all controls of this hypothesis need runs that are not stored here?"""
    return {control["status"] for control in claim["controls"] if control["hypothesis"] == hypothesis} == {
        "not-run"
    } and any(claim["lanes"].get(lane, {}).get("status") == "not-run" for lane in MAY_BE_MISSING)


MAY_BE_MISSING = ("formal", "experiment")  # lanes that need another program, or runs that were stored


def bad(lane: str, result: dict[str, Any]) -> str:
    """What is wrong with a lane of a claim, if anything. Some lanes may be missing on a machine.

    >>> bad("formal", {"status": "not-run"}), bad("exact", {"status": "pass", "comparisons": 0})
    ('', 'passes without a comparison')
    """
    if result["status"] == "not-run":
        return "" if lane in MAY_BE_MISSING else "was not run"
    if result["status"] != "pass":
        return "fails"
    return "" if result["comparisons"] > 0 else "passes without a comparison"


def _strays(entry: dict[str, Any], claim: Claim) -> list[str]:
    """Where an entry is not about the claim of its name."""
    from qkvtheory.lanes.report import described, lanes_of

    lines = [f"another {part}" for part, text in described(claim).items() if entry.get(part) != text]
    if set(entry["lanes"]) != set(lanes_of(claim)):
        lines.append(f"lanes {list(entry['lanes'])} in place of {list(lanes_of(claim))}")
    tried = {(control["hypothesis"], control["what"]) for control in entry["controls"]}
    lines += [f"no control {c.what!r}" for c in claim.controls if (c.hypothesis, c.what) not in tried]
    return [f"claim {claim.id}: not as in the register: {line}" for line in lines]


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
    for line in manifest.problems() if app.config.qkv_check_sources else manifest.faults():
        logger.warning(line, type="qkv", subtype="claim")


def _make(path: Path, app: Sphinx) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "qkvtheory", "check", "--json", str(path)]
    done = subprocess.run(command, cwd=app.srcdir, capture_output=True, text=True)
    if not path.is_file():
        raise ExtensionError(f"no manifest: `python -m qkvtheory check` wrote none\n{done.stdout}{done.stderr}")


def _doubts(stored: dict[str, Any]) -> list[str]:
    from qkvtheory.lanes.report import doubts

    return doubts(stored)


def setup(app: Sphinx) -> None:
    app.add_config_value("qkv_manifest", "_build/claims.json", "env")
    app.add_config_value("qkv_check_sources", True, "env")
    app.connect("builder-inited", load)
