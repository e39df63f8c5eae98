"""Training evidence: claims on made-up runs with known effects, on damaged ones, and on what is stored here."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qkvtheory import evidence, published, published_training
from qkvtheory.claims import training_evidence as here
from qkvtheory.claims.register import register
from qkvtheory.evidence import CANNOT_TELL, NOT_RUN
from qkvtheory.lanes import report
from qkvtheory.lanes.check import run_control, run_lane
from qkvtheory.lanes.results import NOT_RUN as LANE_NOT_RUN
from qkvtheory.questions import QUESTIONS
from tests import made_up_runs

PACKAGE = "qkvtheory.claims.training_evidence"
TRAINED = {claim.id for claim in here.CLAIMS if "experiment" in claim.lanes}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stored results are looked for in an empty folder, and what is damaged in a test is whole again after it."""
    monkeypatch.setattr(evidence, "RESULTS", tmp_path)
    return tmp_path


def claims(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The claims as they are on the files of the folder: their statements are written when the package is read."""
    for name in [name for name in sys.modules if name.startswith(PACKAGE)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys.modules["qkvtheory.claims"], "training_evidence", here)  # put back at the end
    return {claim.id: claim for claim in importlib.import_module(PACKAGE).CLAIMS}


def lane_and_controls(claim: Any) -> tuple[Any, list[Any]]:
    return run_lane(claim, "experiment"), [run_control(claim, control, claim.lanes) for control in claim.controls]


def test_on_runs_with_known_effects_every_claim_holds_and_every_control_is_rejected(folder, monkeypatch):
    made_up_runs.write(folder)
    for id in TRAINED:
        claim = claims(monkeypatch)[id]
        result, controls = lane_and_controls(claim)
        assert result.status == "pass", (id, result.reason)
        assert result.comparisons > 4
        for control in controls:
            assert control.status == "rejected" and set(control.lanes.values()) == {"rejected"}, (id, control)


def test_without_runs_no_claim_is_red_and_none_is_green(folder, monkeypatch):
    for id in TRAINED:
        claim = claims(monkeypatch)[id]
        result, controls = lane_and_controls(claim)
        assert result.status == LANE_NOT_RUN and "python -m qkvtheory.experiments" in result.reason
        assert "accepted" not in {control.status for control in controls}
        assert NOT_RUN in claim.statement


def test_what_is_stored_in_this_checkout_says_what_the_claims_say():
    for id in TRAINED:
        result = run_lane(register()[id], "experiment")
        assert result.status in ("pass", LANE_NOT_RUN), (id, result.reason)


@pytest.mark.parametrize("claim", here.CLAIMS, ids=lambda claim: claim.id)
def test_printed_figures_agree_and_their_controls_do_not(claim):
    if "count" in claim.lanes:
        assert run_lane(claim, "count").status == "pass"
        for control in claim.controls:
            if "count" in control.lanes:
                assert run_control(claim, control, ("count",)).status == "rejected", control.what
                wrong = replace(claim, special={"count": control.sides})
                assert run_lane(wrong, "count").status == "fail", control.what


WRONG_TOTAL = published_training.IDENTITY["identity"]._replace(tied="117.31")
MISPRINTS = (  # a table, an entry, a misprint, and the claim that must notice
    (published_training.IDENTITY, "identity", WRONG_TOTAL, "train-identity-query"),
    (published_training.IDENTITY_RUNS, "full", ("2.861", "2.905"), "train-identity-query"),
    (published_training.DECAYS, "identity", "0.05", "train-weight-decay"),
    (published_training.NONLINEAR_V1, "nonlinear", "2.949", "train-nonlinear-query"),
    (published_training.TUNING, "linear + QK-norm", {"1.5e-3": ("2.5603",)}, "train-nonlinear-query"),
    (published_training.IMAGENET, "Q-K=V", ("71.67", "20.82"), "train-sharing-vision"),
    (published_training.KEYLESS, "Pythia-410M", ("39.22", "40.09"), "train-keyless-lm"),
    (published_training.RECALL, "keyless, 1 head", (".3400",), "kv-associative-recall"),
    (published_training.SKIPLESS, "identity", ("1.178", "164"), "train-skipless-values"),
    (published.TRANSLATION, ("QV", "relative"), "70.5189", "train-qv-translation"),
    (published.GTA, "433M", ("12.985", "12.922", "12.979"), "train-other-evidence"),
    (published.MASKED, "Q-K=V", "21.82", "train-other-evidence"),
)  # fmt: skip


@pytest.mark.parametrize(("table", "entry", "misprint", "id"), MISPRINTS, ids=[f"{r[3]}-{r[1]}" for r in MISPRINTS])
def test_a_misprint_is_noticed(table, entry, misprint, id, monkeypatch):
    monkeypatch.setitem(table, entry, misprint)
    assert run_lane(register()[id], "count").status == "fail"


def test_a_misprinted_accuracy_is_noticed(monkeypatch):
    for variant, tables in published_training.SYNTHETIC.items():
        damaged = ((".500", *tables[0][1:]), tables[1])
        with monkeypatch.context() as patch:
            patch.setitem(published_training.SYNTHETIC, variant, damaged)
            assert run_lane(register()["train-sharing-synthetic"], "count").status == "fail", variant


# -- what turns the lane red -------------------------------------------------------------------------------------------


def red(folder: Path, monkeypatch: pytest.MonkeyPatch, id: str, name: str, stored: dict[str, Any]) -> str:
    """Why a claim is red with this file among the made-up ones."""
    made_up_runs.write(folder)
    (folder / f"{name}.json").write_text(json.dumps(stored), "utf8")
    result = run_lane(claims(monkeypatch)[id], "experiment")
    assert result.status == "fail"
    return str(result.reason)


@pytest.mark.parametrize("part", evidence.PROVENANCE)
def test_runs_that_do_not_say_where_they_are_from(part, folder, monkeypatch):
    stored = made_up_runs.result("identity", **{part: ""})
    assert part in red(folder, monkeypatch, "train-identity-query", "identity", stored)


def test_a_run_without_its_loss(folder, monkeypatch):
    runs = [{k: v for k, v in run.items() if k != "loss"} for run in made_up_runs.identity()]
    assert "KeyError" in red(
        folder, monkeypatch, "train-identity-query", "identity", made_up_runs.result("identity", runs)
    )


def test_a_seed_that_is_there_twice(folder, monkeypatch):
    runs = made_up_runs.identity()
    said = red(
        folder, monkeypatch, "train-identity-query", "identity", made_up_runs.result("identity", [*runs, runs[0]])
    )
    assert "two runs of seed" in said


def test_a_tied_head_beyond_its_bound(folder, monkeypatch):
    """A theorem says that no training gets there: such a run shows a mistake in the code."""
    runs = made_up_runs.pair_bound()
    next(run for run in runs if run["model"] == "Q=K-V")["largest_pair_mass"] = 1.2
    red(folder, monkeypatch, "train-sharing-synthetic", "pair_bound", made_up_runs.result("pair_bound", runs))


def test_labels_that_were_not_shuffled(folder, monkeypatch):
    runs = [{**run, "accuracy": 0.97} for run in made_up_runs.digits()]
    red(folder, monkeypatch, "train-digits", "digits", made_up_runs.result("digits", runs))


def test_a_cache_that_is_not_what_the_formula_says(folder, monkeypatch):
    runs = [{**run, "cache_bytes": 7} for run in made_up_runs.decode()]
    red(folder, monkeypatch, "train-sharing-lm", "decode", made_up_runs.result("decode", runs))


def test_a_rule_that_decides_from_one_seed(folder, monkeypatch):
    """Then the lane and its control both notice."""
    made_up_runs.write(folder)
    made_up_runs_of_one_seed = [run for run in made_up_runs.identity() if run["seed"] in (0, 1)]
    (folder / "identity.json").write_text(json.dumps(made_up_runs.result("identity", made_up_runs_of_one_seed)), "utf8")
    claim = claims(monkeypatch)["train-identity-query"]
    assert "2 cannot tell" in claim.statement
    monkeypatch.setattr(evidence, "MINIMUM", 2)
    assert run_lane(claim, "experiment").status == "fail"


def test_runs_that_diverged_are_no_failure_of_the_claim(folder, monkeypatch):
    """One in each of two models that are compared: the verdict is open, and the lane agrees."""
    made_up_runs.write(folder)
    broken = {("QKV", 0), ("Q-K=V", 1)}
    for name in ("sharing", "identity"):
        runs = [
            run | ({"diverged": True, "loss": None} if (run["model"], run["seed"]) in broken else {})
            for run in made_up_runs.FILES[name]()
        ]
        (folder / f"{name}.json").write_text(json.dumps(made_up_runs.result(name, runs)), "utf8")
    for id in ("train-sharing-lm", "train-identity-query"):
        result = run_lane(claims(monkeypatch)[id], "experiment")
        assert result.status == "pass", result.reason
    (found,) = [finding for finding in evidence.findings() if finding.id == "lm-q-kv"]
    assert (found.verdict.word, found.verdict.reason) == (CANNOT_TELL, "a run that is compared diverged")


def test_both_scales_of_the_identity_are_in_the_statement(folder, monkeypatch):
    made_up_runs.write(folder)
    change = evidence.relative(made_up_runs.identity(), "identity", "QKV").summary
    said = f"with full scale the identity query ends {evidence.spread(change, 'loss')} in loss against the original"
    assert said in claims(monkeypatch)["train-identity-query"].statement


def test_runs_that_changed_since_the_statement_was_written(folder, monkeypatch):
    made_up_runs.write(folder)
    claim = claims(monkeypatch)["train-sharing-lm"]
    flat = [{**run, "loss": 1.5} for run in made_up_runs.sharing()]
    made_up_runs.write(folder, sharing=flat)
    assert run_lane(claim, "experiment").status == "fail"


def test_a_summary_that_is_not_that_of_the_runs(folder, monkeypatch):
    made_up_runs.write(folder)
    claim = claims(monkeypatch)["train-sharing-lm"]
    honest = evidence.summary
    monkeypatch.setattr(evidence, "summary", lambda values: replace(honest(values), mean=honest(values).mean + 0.01))
    assert run_lane(claim, "experiment").status == "fail"


def test_a_verdict_that_does_not_follow(folder, monkeypatch):
    made_up_runs.write(folder)
    claim = claims(monkeypatch)["train-sharing-lm"]
    monkeypatch.setattr(evidence, "decision", lambda found, sign, margin: evidence.NOT_REPRODUCED)
    assert run_lane(claim, "experiment").status == "fail"


def test_the_second_opinion_is_the_rule(folder):
    """Where the interval decides, exact fractions and a printed table decide alike."""
    common = importlib.import_module(f"{PACKAGE}.common")
    for sample in (evidence.Sample((x, x + 0.1, x - 0.1, x + 0.05)) for x in (-1, -0.15, -0.1, 0, 0.1, 0.13, 0.2, 1)):
        for sign, margin in (("lower", 0), ("higher", 0), ("equal", 0.3), ("equal", 0.05)):
            assert common.again(sample, sign, margin) == evidence.judge(sample, sign, margin).word, (sample, sign)


# -- questions and claims ----------------------------------------------------------------------------------------------


def test_every_question_belongs_to_a_trained_claim_and_every_trained_claim_has_one():
    assert {question.claim for question in QUESTIONS} == TRAINED
    assert len({question.id for question in QUESTIONS}) == len(QUESTIONS)
    bibliography = (evidence.RESULTS.parent / "references.bib").read_text("utf8")
    for question in QUESTIONS:
        assert not question.source or f"{{{question.source}," in bibliography


def test_the_effects_of_the_made_up_runs_are_found(folder):
    made_up_runs.write(folder)
    words = {finding.id: finding.verdict.word for finding in evidence.findings()}
    assert set(words.values()) == {evidence.REPRODUCED}, {
        id: word for id, word in words.items() if word != "reproduced"
    }


def test_the_opposite_effects_are_not(folder):
    """Each model with the numbers of QKV, and QKV with those of K=V."""
    names = {"QKV": "Q-K=V", "Q-K=V": "QKV"}
    swapped = [{**run, "model": names.get(run["model"], run["model"])} for run in made_up_runs.sharing()]
    made_up_runs.write(folder, sharing=swapped)
    words = {finding.id: finding.verdict.word for finding in evidence.findings()}
    assert words["lm-q-kv"] == words["keyless-gap"] == evidence.NOT_REPRODUCED


def test_when_nothing_diverges_stability_is_not_decided(folder):
    calm = [{**run, "diverged": False} for run in made_up_runs.rates()]
    made_up_runs.write(folder, rates=calm)
    found = {finding.id: finding.verdict for finding in evidence.findings("train-weight-decay")}
    assert found["identity-stability"].word == CANNOT_TELL
    assert "nothing diverged" in found["identity-stability"].reason


def test_recall_that_qkv_does_not_learn_decides_nothing(folder):
    weak = [{**run, "accuracy": run["accuracy"] / 2} for run in made_up_runs.recall()]
    made_up_runs.write(folder, recall=weak)
    for claim in ("train-recall-demo", "kv-associative-recall"):
        for finding in evidence.findings(claim):
            assert finding.verdict.word == CANNOT_TELL and "QKV does not solve" in finding.verdict.reason


def test_the_manifest_has_the_verdicts(folder):
    made_up_runs.write(folder)
    entry = report.claim_entry(report.ClaimReport(register()["train-sharing-lm"], {}, []))
    assert [found["id"] for found in entry["findings"]] == [q.id for q in QUESTIONS if q.claim == "train-sharing-lm"]
    assert all(found["verdict"]["word"] == evidence.REPRODUCED for found in entry["findings"])
    assert report.claim_entry(report.ClaimReport(register()["published-tables"], {}, []))["findings"] == []


def test_make_checks_anew_when_runs_change():
    makefile = (evidence.RESULTS.parents[1] / "Makefile").read_text("utf8")
    assert "$(wildcard book/results/*.json)" in makefile
