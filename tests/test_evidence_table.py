"""The table of evidence and the verdicts in claim boxes: what they show, and what fails a build."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sphinx")

from qkvbook.evidence import COLUMNS, faults
from qkvbook.manifest import Manifest

from qkvtheory import evidence
from qkvtheory.evidence import NOT_RUN, findings
from qkvtheory.questions import QUESTIONS
from tests import made_up_runs
from tests.test_ext import LANE, SINGULAR, build, claim, manifest

ROOT = Path(__file__).parents[1]
CLAIMS = tuple(dict.fromkeys(question.claim for question in QUESTIONS))
BOXES = "# One\n\n" + "\n".join(f"```{{claim}} {name}\n```\n" for name in CLAIMS)
PAGES = {"one": BOXES, "table": "# Table\n\n```{evidence-table}\n```\n\n```{bibliography}\n```\n"}
OPTIONS = {"bibtex_bibfiles": ["references.bib"]}


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "results"
    folder.mkdir()
    monkeypatch.setattr(evidence, "RESULTS", folder)
    return folder


def stored() -> dict[str, Any]:
    """A manifest with the findings of today in its claims."""
    entries = []
    for at, name in enumerate(CLAIMS):
        found = [finding.as_dict() for finding in findings(name)]
        entries.append(claim(id=name, title=f"Claim {at}", chapter="one", findings=found))
    return manifest(*entries)


def built(folder: Path, data: dict[str, Any]) -> tuple[str, str, str]:
    """The warnings of a build, the page of the boxes and the page of the table."""
    (folder / "references.bib").write_text((ROOT / "book" / "references.bib").read_text("utf8"), "utf8")
    warnings, out = build(folder, PAGES, data, **OPTIONS)
    return warnings, (out / "one.html").read_text("utf8"), (out / "table.html").read_text("utf8")


def test_every_finding_has_its_row_and_its_place_in_a_box(tmp_path: Path, results: Path) -> None:
    made_up_runs.write(results)
    warnings, boxes, table = built(tmp_path, stored())
    assert warnings == ""
    assert table.count("<tr>") == len(QUESTIONS) + 1
    assert all(f">{title}</th>" in table for title in COLUMNS)
    assert table.count('<span class="verdict reproduced">reproduced</span>') == len(QUESTIONS)
    assert boxes.count('<span class="verdict reproduced">reproduced</span>') == len(QUESTIONS)
    for finding in findings():
        assert finding.ours in table and finding.command in table
        assert f'href="one.html#{finding.claim}"' in table
    assert "a machine that nobody has" in table and "our own statement" in table


def test_what_is_not_decided_not_run_or_damaged_says_so(tmp_path: Path, results: Path) -> None:
    """One seed only, no file of recall, a damaged file of digits, and a manifest from before."""
    few = {name: [run for run in make() if run.get("seed", 0) == 0] for name, make in made_up_runs.FILES.items()}
    made_up_runs.write(results, **few)
    (results / "recall.json").unlink()
    (results / "digits.json").write_text('{"runs": 3}', "utf8")
    data = stored()
    warnings, boxes, table = built(tmp_path, data)
    assert warnings.count("WARNING") == 1 and "the finding 'digits': book/results/digits.json" in warnings
    recall = sum(question.file == "recall" for question in QUESTIONS)
    for page in (boxes, table):
        assert page.count('<span class="verdict not-run-here">not run here</span>') == recall
        assert page.count('<span class="verdict cannot-tell">cannot tell</span>') == len(QUESTIONS) - recall
        assert "nly 1 seed, and 3 are needed" in page and "verdict reproduced" not in page


def test_a_verdict_of_other_runs_is_a_fault(results: Path) -> None:
    before = Manifest(stored()).claims
    assert [line for finding in findings() for line in faults(finding, before)] == []
    made_up_runs.write(results)
    lines = [line for finding in findings() for line in faults(finding, before)]
    assert len(lines) == len(QUESTIONS)
    assert all("the manifest says 'not run here', the stored runs 'reproduced'" in line for line in lines)


def test_a_finding_without_its_claim_is_named() -> None:
    for finding in findings():
        assert list(faults(finding, {})) == [f"the finding {finding.id!r}: no claim {finding.claim!r} in the manifest"]


def test_runs_that_are_not_here_leave_hypotheses_untried_without_a_warning() -> None:
    absent = {**LANE, "status": "not-run", "comparisons": 0, "reason": "no file"}
    untried = {**SINGULAR, "status": "not-run"}
    lanes = {"count": LANE, "experiment": absent}
    assert Manifest(manifest(claim(lanes=lanes, controls=[untried]))).faults() == []
    for lanes, controls, said in (
        ({"count": LANE, "experiment": LANE}, [untried], "no control that was rejected"),
        ({"count": LANE, "experiment": absent}, [], "no control that was rejected"),
        ({"count": absent}, [SINGULAR], "count lane was not run"),
    ):
        (line,) = Manifest(manifest(claim(lanes=lanes, controls=controls))).faults()
        assert said in line


def test_the_findings_of_the_manifest_are_json(results: Path) -> None:
    made_up_runs.write(results)
    assert json.loads(json.dumps(stored(), allow_nan=False))["claims"][0]["findings"][0]["verdict"]["word"] != NOT_RUN
