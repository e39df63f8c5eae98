"""The manifest: its fields, its hash of the sources, and how it is written."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from qkvtheory import cli
from qkvtheory.claims.register import left_out, register
from qkvtheory.lanes import report
from qkvtheory.lanes.results import ControlResult, LaneResult
from qkvtheory.words import opaque, symbol

IDS = ["r-products", "reparam-lemma", "gqa-only-q"]


@pytest.fixture(scope="module")
def reports() -> list[report.ClaimReport]:
    return report.run(IDS, ("symbolic", "exact", "numeric", "count"))


@pytest.fixture(scope="module")
def manifest(reports) -> dict[str, Any]:
    return json.loads(json.dumps(report.manifest(reports, 1.234)))


def found(reports: list[report.ClaimReport]) -> list[Any]:
    """Everything but the seconds."""
    lanes = [{name: replace(r, seconds=0) for name, r in one.lanes.items()} for one in reports]
    return [(one.claim.id, here, one.controls) for one, here in zip(reports, lanes, strict=True)]


def test_processes_that_share_the_claims_find_what_one_finds():
    ids, seen = list(register())[: report.FEW + 2], []
    shared = report.run(ids, ("symbolic", "count"), lambda r: seen.append((r.claim.id, os.getpid())), workers=2)
    assert seen == [(id, os.getpid()) for id in ids]
    assert found(shared) == found(report.run(ids, ("symbolic", "count")))


def test_a_process_that_read_other_sources_finds_nothing(monkeypatch, capsys):
    monkeypatch.setattr(report, "LOADED", "another hash")
    monkeypatch.setattr(cli.os, "cpu_count", lambda: 2)
    ids = list(register())[: report.FEW + 1]
    with pytest.raises(report.SourcesChanged):
        report.run(ids, ("count",), workers=2)
    assert cli.main(["check", *ids, "--lane", "symbolic"]) == 1
    assert "sources changed during the run" in capsys.readouterr().err


def test_few_claims_are_not_shared(monkeypatch):
    def pool(*_: Any, **__: Any) -> Any:
        raise AssertionError("a process was started")

    monkeypatch.setattr(report, "ProcessPoolExecutor", pool)
    assert [r.claim.id for r in report.run(IDS, ("symbolic",), workers=2)] == IDS
    with pytest.raises(AssertionError, match="process"):
        report.run(list(register())[: report.FEW + 1], ("symbolic",), workers=2)


NUMBER, OPTIONAL = (int, float), (int, float, type(None))
CLAIM = {
    "id": str, "rank": str, "kind": str, "title": str, "chapter": str, "statement": str, "command": str, "status": str,
    "equations": list, "sources": list, "hypotheses": list, "uses": list, "steps": list, "controls": list,
    "breaks": dict, "lanes": dict,
}  # fmt: skip
SCHEMA = {
    "lane": {
        "status": str, "comparisons": int, "worst": NUMBER, "tolerance": NUMBER, "seconds": NUMBER, "opaque": list,
        "reason": str,
    },
    "control": {"hypothesis": str, "what": str, "status": str, "size": OPTIONAL, "lane": str, "reason": str},
    "step": {"latex": str, "reason": str, "needs": list},
    "source": {"key": str, "version": str, "name": str, "provenance": str, "note": str},
    "hypothesis": {"id": str, "name": str, "sentence": str},
}  # fmt: skip


def fits(value: dict[str, Any], schema: dict[str, Any]) -> None:
    assert set(schema) <= set(value)
    for name, kind in schema.items():
        assert isinstance(value[name], kind), (name, value[name])


def test_the_manifest_has_the_promised_fields(manifest):
    assert set(manifest) == {"meta", "claims", "left_out"}
    fits(manifest["meta"], {"versions": dict, "time": str, "sources_sha256": str, "seconds": NUMBER})
    assert datetime.fromisoformat(manifest["meta"]["time"]).tzinfo is not None
    assert {"python", "numpy", "sympy", "qkvtheory"} <= set(manifest["meta"]["versions"])
    assert [c["id"] for c in manifest["claims"]] == IDS
    assert {e["id"] for e in manifest["left_out"]} == set(left_out())
    for claim in manifest["claims"]:
        fits(claim, CLAIM)
        lists = {"controls": "control", "steps": "step", "sources": "source", "hypotheses": "hypothesis"}
        for name, schema in lists.items():
            assert claim[name], (claim["id"], name)
            for entry in claim[name]:
                fits(entry, SCHEMA[schema])
        for lane, result in claim["lanes"].items():
            assert lane in report.LANES
            fits(result, SCHEMA["lane"])
            assert result["status"] in ("pass", "fail", "not-run")
        assert {c["status"] for c in claim["controls"]} <= {"rejected", "accepted", "not-run"}
        assert set(claim["breaks"]) == {h["id"] for h in claim["hypotheses"]}
        for found in claim["breaks"].values():
            fits(found, {"step": (int, type(None)), "message": str, "latex": str})
        assert claim["command"] == f"python -m qkvtheory check {claim['id']}"


@pytest.mark.parametrize("claim", register().values(), ids=lambda c: c.id)
def test_the_printed_steps_run_from_the_left_side_to_the_right(claim):
    written = report.both_sides(claim) if "symbolic" in claim.lanes else []
    for number, (left, right) in enumerate(written):
        steps = report.proof_steps(claim, number)
        assert steps[0] == {"latex": left, "reason": "", "needs": []}
        assert steps[-1]["latex"] == right
        assert all(step["reason"] for step in steps[1:])
    for found in report.breaks(claim).values():
        assert found["message"]


def test_the_difference_of_whole_networks_is_said_in_words_and_a_short_one_as_a_formula():
    claims = register()
    long, short = (report.counterexample(claims[id], "H1") for id in ("no-product-of-blocks", "one-layer-free"))
    assert "more than a page can print" in long["message"] and not long["latex"]
    assert short["message"].endswith("differ by") and 0 < len(short["latex"]) < 1000


def test_the_written_size_counts_letters_inside_letters():
    x, f = symbol("X", "n", "d"), opaque("f")
    inner = f(x @ symbol("A", "d", "d") + x)
    assert report.written_size(x, {}) == 1
    assert report.written_size(inner, {}) == 4
    assert report.written_size(f(inner) + inner, {}) == 9


def test_switching_a_hypothesis_off_points_at_a_step(manifest):
    lemma = next(c for c in manifest["claims"] if c["id"] == "reparam-lemma")
    broken = lemma["breaks"]["H2"]
    assert "H2" in lemma["steps"][broken["step"]]["needs"]
    assert re.search(r"nothing declares \S*Theta\S* invertible", broken["message"])


def test_red_and_green():
    claim = register()["r-products"]
    green, red = LaneResult(), LaneResult()
    red.fail("first")
    red.fail("second")
    assert red.reason == "first"
    rejected = ControlResult("H1", "x", {"exact": "rejected", "numeric": "rejected"})
    accepted = ControlResult("H1", "x", {"exact": "rejected", "numeric": "accepted"})
    assert not report.ClaimReport(claim, {"exact": green}, [rejected]).red
    assert report.ClaimReport(claim, {"exact": green, "numeric": red}, [rejected]).red
    assert report.ClaimReport(claim, {"exact": green}, [rejected, accepted]).red
    assert report.claim_entry(report.ClaimReport(claim, {"exact": green}, [accepted]))["status"] == "fail"


def test_what_did_not_run_is_not_a_pass():
    claim, absent = register()["r-products"], LaneResult("not-run")
    for lanes, status in (({}, "not-run"), ({"formal": absent}, "not-run"), ({"a": LaneResult(), "b": absent}, "pass")):
        assert report.claim_entry(report.ClaimReport(claim, lanes, []))["status"] == status


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """A small package of our own in the place of the real one."""
    package, proofs = tmp_path / "qkvtheory", tmp_path / "proofs"
    for folder in (package / "figures", proofs, tmp_path / "book" / "results"):
        folder.mkdir(parents=True)
    for name in ("gauge.py", "figures/ladder.py"):
        (package / name).write_text("x = 1\n")
    (proofs / "A.v").write_text("Lemma a.\n")
    monkeypatch.setattr(report, "PACKAGE", package)
    monkeypatch.setattr(report, "PROOFS", proofs)
    return tmp_path


@pytest.mark.parametrize(("file", "matters"), [
    ("qkvtheory/gauge.py", True), ("proofs/A.v", True), ("qkvtheory/new.py", True), ("proofs/controls.toml", True),
    ("qkvtheory/figures/ladder.py", False), ("qkvtheory/notes.txt", False), ("book/results/a.json", True),
])  # fmt: skip
def test_the_hash_changes_when_a_source_changes(file, matters, sources):
    before = report.sources_sha256()
    assert report.sources_sha256() == before
    (sources / file).write_text("x = 2\n")
    assert (report.sources_sha256() != before) == matters


def test_a_renamed_source_changes_the_hash(sources):
    before = report.sources_sha256()
    (sources / "qkvtheory/gauge.py").rename(sources / "qkvtheory/other.py")
    assert report.sources_sha256() != before


def test_writing_is_atomic(reports, tmp_path, monkeypatch):
    target = tmp_path / "deep" / "claims.json"
    report.write(target, reports, 1.0)
    before = target.read_text()
    assert [c["id"] for c in json.loads(before)["claims"]] == IDS
    assert [p.name for p in target.parent.iterdir()] == ["claims.json"]
    monkeypatch.setattr(report, "manifest", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        report.write(target, reports, 1.0)
    assert target.read_text() == before


def test_a_stale_result_is_called_stale(reports, tmp_path, monkeypatch, capsys):
    report.write(tmp_path / "_build/claims.json", reports, 1.0)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(report, "sources_sha256", lambda: report.LOADED)
    cli.print_last("reparam-lemma")
    assert "run the check again" not in capsys.readouterr().out
    monkeypatch.setattr(report, "sources_sha256", lambda: "another")
    cli.print_last("reparam-lemma")
    assert "run the check again: the sources changed since it was made" in capsys.readouterr().out


def test_an_edit_by_hand_is_called_one(reports, tmp_path, monkeypatch, capsys):
    target = tmp_path / "_build/claims.json"
    report.write(target, reports, 1.0)
    stored = json.loads(target.read_text())
    stored["claims"][1]["lanes"]["formal"] = {"status": "pass", "comparisons": 0}
    target.write_text(json.dumps(stored))
    monkeypatch.chdir(tmp_path)
    cli.print_last("reparam-lemma")
    assert "its entries were edited after it was made" in capsys.readouterr().out


def test_doubts(manifest, monkeypatch):
    monkeypatch.setattr(report, "sources_sha256", lambda: report.LOADED)
    assert report.doubts(manifest) == []
    (line,) = report.doubts(manifest | {"claims": manifest["claims"][:2]})
    assert "edited" in line
    older = manifest["meta"] | {"versions": manifest["meta"]["versions"] | {"qkvtheory": "0.0"}}
    (line,) = report.doubts(manifest | {"meta": older})
    assert "made with qkvtheory 0.0" in line


def test_the_manifest_carries_the_hash_of_the_sources_that_were_loaded(sources, reports):
    """The files in place of the package have another hash: they are not what ran."""
    assert report.sources_sha256() != report.LOADED
    assert report.edited_since_loaded()
    assert report.manifest(reports, 1.0)["meta"]["sources_sha256"] == report.LOADED


def test_progress_is_told_claim_by_claim():
    seen: list[str] = []
    report.run(IDS[:2], ("symbolic",), lambda r: seen.append(r.claim.id))
    assert seen == IDS[:2]


def test_lanes_are_listed_in_their_order():
    claim = register()["gqa-only-q"]
    assert list(report.lanes_of(claim)) == [lane for lane in report.LANES if lane in report.lanes_of(claim)]
    assert report.lanes_of(replace(claim, id="not-proved", lanes=("numeric", "exact"))) == ("exact", "numeric")


def test_the_names_in_a_refusal_become_formulas():
    told = report.in_formulas("nothing declares W_O^1 invertible, nor Theta_1, Pi and G; Gain stays")
    assert told == r"nothing declares $W_O^{1}$ invertible, nor $\Theta_1$, $\Pi$ and $G$; Gain stays"
