"""The directive that prints the map of boundaries: what it shows, and what fails a build."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sphinx")

from qkvbook.boundaries import COLUMNS, faults

from qkvtheory.claims.where_it_stops import boundaries
from qkvtheory.claims.where_it_stops.boundaries import BOUNDARIES, Boundary
from tests.test_ext import SINGULAR, build, claim, manifest

ROW = Boundary(
    "A singular $W_Q$",
    "It forgets what keys read.",
    ("first", "a singular basis"),
    "One head.",
    ("second",),
    "Nothing.",
)
PAGES = {
    "one": "# One\n\n```{claim} first\n```\n\n```{claim} second\n```\n",
    "map": "# Map\n\n```{boundary-map}\n```\n",
}


def data(**control: Any) -> dict[str, Any]:
    second = claim(id="second", title="One head needs no basis", chapter="one")
    return manifest(claim(controls=[{**SINGULAR, "reason": "", **control}]), second)


def built(
    folder: Path, monkeypatch: pytest.MonkeyPatch, stored: dict[str, Any], row: Boundary = ROW
) -> tuple[str, str]:
    monkeypatch.setattr(boundaries, "BOUNDARIES", (row,))
    warnings, out = build(folder, PAGES, stored)
    return warnings, (out / "map.html").read_text("utf8")


def test_a_row_shows_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warnings, page = built(tmp_path, monkeypatch, data(size=0.873))
    assert warnings == ""
    assert '<td data-title="Error when tried anyway" class="number">0.87</td>' in page
    assert all(f">{title}</th>" in page for title in COLUMNS)
    assert 'href="one.html#first"' in page and 'href="one.html#second"' in page
    assert "It forgets what keys read." in page and "sym-q" in page


def test_a_row_without_its_evidence_fails_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warnings, _ = built(tmp_path, monkeypatch, data(what="another"))
    said = f"the boundary {ROW.name!r}: claim first has no control 'a singular basis' in the manifest"
    assert re.search(rf"map.md:\d+: WARNING: {re.escape(said)}", warnings)


@pytest.mark.parametrize(
    ("stored", "row", "said"),
    [
        (data(), ROW, ""),
        (data(what="another"), ROW, "claim first has no control 'a singular basis' in the manifest"),
        (data(), replace(ROW, broken=("third", "a singular basis")), "claim third has no control"),
        (data(status="not-run"), ROW, "the control 'a singular basis' of claim first is not-run"),
        (data(status="accepted"), ROW, "the control 'a singular basis' of claim first is accepted"),
        (data(size=None), ROW, "has no size"),
        (data(size=0.0), ROW, "has no size"),
        (data(), replace(ROW, by=("third",)), "no claim 'third' in the manifest"),
        (
            data(status="accepted"),
            replace(ROW, broken=("second", "a singular basis"), by=("first",)),
            "claim first fails",
        ),
    ],
)
def test_what_is_missing_is_named(stored: dict[str, Any], row: Boundary, said: str) -> None:
    lines = faults(row, {entry["id"]: entry for entry in stored["claims"]})
    assert len(lines) == bool(said)
    assert all(said in line for line in lines)


def test_every_row_of_the_real_map_needs_its_control() -> None:
    for boundary in BOUNDARIES:
        assert any("has no control" in line for line in faults(boundary, {}))
