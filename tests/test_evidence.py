"""Means, intervals and verdicts over stored runs: the rule at its edges, and what it refuses."""

from __future__ import annotations

import json
import math
from statistics import fmean

import numpy as np
import pytest

from qkvtheory import evidence, figures
from qkvtheory.evidence import (
    CANNOT_TELL,
    MINIMUM,
    NOT_REPRODUCED,
    NOT_RUN,
    REPRODUCED,
    NoRuns,
    Sample,
    Verdict,
    best,
    by_model,
    comparable,
    findings,
    judge,
    largest_stable_rate,
    paired,
    quantile,
    relative,
    summary,
    together,
    where,
    within,
)
from qkvtheory.questions import QUESTIONS, RECALL_CELLS
from tests import made_up_runs

PRINTED = {1: 12.7062, 2: 4.30265, 3: 3.18245, 4: 2.77645, 9: 2.26216, 10: 2.22814, 29: 2.04523, 100: 1.98397}


def runs(losses, **more):
    """One run for each model and seed."""
    return [{"model": m, "seed": s, "loss": x, **more} for m, xs in losses.items() for s, x in enumerate(xs)]


# -- means and intervals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("freedom", "printed"), PRINTED.items())
def test_quantiles_are_those_of_printed_tables(freedom, printed):
    assert quantile(freedom) == pytest.approx(printed, rel=3e-6)
    assert within(quantile(freedom), freedom) == pytest.approx(0.95, abs=1e-12)


def test_many_degrees_of_freedom_are_nearly_normal():
    assert quantile(4000) == pytest.approx(1.9600, abs=1e-3)
    with pytest.raises(ValueError, match="at least one degree of freedom"):
        quantile(0)


def test_intervals_hold_the_mean_nineteen_times_in_twenty():
    """Simulated: 4 draws at a time from a normal distribution."""
    draws = np.random.default_rng(0).normal(3.0, 0.5, size=(2000, 4))
    held = sum(found.low <= 3.0 <= found.high for found in map(summary, draws))
    assert 0.94 < held / len(draws) < 0.96


def test_one_number_and_numbers_without_end_have_no_interval():
    for values in ([1.0], [1.0, math.inf], [math.nan, 1.0, 2.0]):
        found = summary(values)
        assert (found.low, found.high) == (-math.inf, math.inf) and math.isnan(found.deviation)
    with pytest.raises(ValueError, match="no runs to summarize"):
        summary([])


def test_models_are_summarized_in_their_order():
    found = by_model(runs({"QKV": [1.0, 2.0], "MQA": [3.0]}))
    assert list(found) == ["QKV", "MQA"] and found["QKV"].mean == 1.5 and found["MQA"].n == 1


def test_two_runs_of_one_seed_mean_that_a_factor_is_not_fixed():
    with pytest.raises(ValueError, match="QKV has two runs of seed 0; choose one level"):
        by_model([*runs({"QKV": [1.0]}, task="sort"), *runs({"QKV": [1.0]}, task="copy")])


# -- differences -------------------------------------------------------------------------------------------------------


def test_pairing_removes_what_seeds_have_in_common():
    """Seeds differ by whole units, models by a hundredth: unpaired nothing is seen, paired it is clear."""
    found = runs({"QKV": [1.0, 2.0, 3.0, 4.0], "K=V": [1.011, 2.009, 3.010, 4.012]})
    alone = by_model(found)
    assert alone["K=V"].low < alone["QKV"].mean < alone["K=V"].high
    assert paired(found, "K=V", "QKV").summary.low > 0.005


def test_only_seeds_of_both_are_paired_whatever_their_order():
    ours = [{"model": "a", "seed": s, "loss": float(s)} for s in (3, 1, 0)]
    theirs = [{"model": "b", "seed": s, "loss": 10.0 * s} for s in (0, 1, 2)]
    found = paired(ours + theirs, "a", "b")
    assert dict(zip(found.seeds, found.values, strict=True)) == {1: -9.0, 0: 0.0}
    with pytest.raises(NoRuns, match="a and c have no stored runs of the same seed"):
        paired(ours, "a", "c")


def test_perplexity_changes_by_the_exponential_of_the_difference():
    found = paired(runs({"QKV": [1.0, 1.0, 1.0], "K=V": [1.03, 1.03, 1.03]}), "K=V", "QKV")
    assert found.perplexity == pytest.approx((math.exp(0.03) - 1,) * 3)
    diverged = runs({"QKV": [1.0, 1.0]}) + runs({"K=V": [1.0, 1.0]}, diverged=True)
    assert paired(diverged, "K=V", "QKV").perplexity[2] == math.inf


def test_relative_changes_are_ratios():
    assert relative(runs({"QKV": [2.0], "K=V": [2.5]}), "K=V", "QKV").values == (0.25,)


@pytest.mark.parametrize("change", [paired, relative])
@pytest.mark.parametrize("broken", [("QKV",), ("K=V",), ("QKV", "K=V")])
def test_a_run_that_diverged_leaves_no_difference_whichever_side_it_is_on(change, broken):
    """A loss over an infinite one, less one, would be -1, and three of these a clear interval."""
    losses = {"QKV": [2.0, 2.1, 2.2], "K=V": [2.5, 2.4, 2.6]}
    found = [run | {"diverged": run["model"] in broken} for run in runs(losses)]
    values = change(found, "K=V", "QKV").values
    assert all(map(math.isnan, values))
    assert judge(Sample(values), "lower").reason == "a run that is compared diverged"


def test_one_run_of_each_model_may_have_diverged():
    losses = runs({"QKV": [2.0, None, 2.2, 2.1], "K=V": [None, 2.4, 2.6, 2.5]})
    assert judge(Sample(paired(losses, "K=V", "QKV").values), "higher").reason == "a run that is compared diverged"
    assert math.isnan(summary([math.inf, -math.inf]).mean)


# -- tuning ------------------------------------------------------------------------------------------------------------

LOSSES = {1e-3: 2.0, 3e-3: 1.5, 1e-2: 1.2, 3e-2: 0.1}
GRID = [
    {"model": "linear", "rate": rate, "seed": seed, "loss": loss + seed / 10, "diverged": rate > 1e-2}
    for rate, loss in LOSSES.items()
    for seed in (0, 1, 2)
]


def test_the_best_rate_is_the_best_on_average():
    assert best(GRID)["linear"].at == {"rate": 1e-2}
    assert best(GRID)["linear"].loss.mean == pytest.approx(1.3)


def test_a_rate_at_which_one_seed_diverges_is_not_the_best():
    broken = [{**run, "diverged": run["rate"] == 1e-2 and run["seed"] == 2} for run in GRID]
    assert best(broken)["linear"].at == {"rate": 3e-2}  # the lowest loss, now that it counts as trained
    assert best(where(broken, rate=1e-2))["linear"].loss.mean == math.inf
    assert largest_stable_rate(broken, "linear") == 3e-3


def test_a_loss_that_is_no_number_in_the_file_is_infinite():
    assert best([{"model": "a", "rate": r, "seed": 0, "loss": x} for r, x in ((1, None), (2, 5.0))])["a"].at == {
        "rate": 2
    }


def test_the_best_of_two_factors():
    both = [{**run, "weight_decay": d, "loss": run["loss"] - d} for run in GRID for d in (0.0, 0.1)]
    assert best(both, ("rate", "weight_decay"))["linear"].at == {"rate": 1e-2, "weight_decay": 0.1}


def test_the_largest_stable_rate_is_below_the_first_that_diverges():
    assert largest_stable_rate(GRID, "linear") == 1e-2
    assert largest_stable_rate([{**run, "diverged": True} for run in GRID], "linear") is None
    calm = [{**run, "diverged": False} for run in GRID]
    assert largest_stable_rate(calm, "linear") == 3e-2
    island = [{**run, "diverged": run["rate"] == 3e-3} for run in GRID]
    assert largest_stable_rate(island, "linear") == 1e-3  # what trains again beyond an edge is not stable


@pytest.mark.parametrize("loss", [None, math.inf, math.nan])
def test_a_run_without_a_finite_loss_is_not_stable(loss):
    broken = [{**run, "diverged": False, "loss": loss if run["rate"] > 3e-3 else 1.0} for run in GRID]
    assert largest_stable_rate(broken, "linear") == 3e-3


def test_models_are_tuned_on_the_grid_that_all_have():
    other = [{**run, "model": "nonlinear"} for run in GRID if run["rate"] < 1e-2]
    assert {run["rate"] for run in comparable([*GRID, *other], ("linear", "nonlinear"))} == {1e-3, 3e-3}


# -- verdicts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "sign", "margin", "word"),
    [
        ((1.0, 1.1, 0.9), "higher", 0, REPRODUCED),
        ((1.0, 1.1, 0.9), "lower", 0, NOT_REPRODUCED),
        ((-1.0, -1.1, -0.9), "lower", 0, REPRODUCED),
        ((-1.0, -1.1, -0.9), "higher", 0, NOT_REPRODUCED),
        ((1.0, -0.5, 0.2), "higher", 0, CANNOT_TELL),
        ((0.0, 0.0, 0.0), "higher", 0, CANNOT_TELL),
        ((0.0, 0.0, 0.0), "lower", 0, CANNOT_TELL),
        ((0.1, -0.1, 0.0), "equal", 0.5, REPRODUCED),
        ((0.1, -0.1, 0.0), "equal", 0.2, CANNOT_TELL),  # the interval reaches 0.25
        ((1.0, 1.01, 0.99), "equal", 0.5, NOT_REPRODUCED),
        ((-1.0, -1.01, -0.99), "equal", 0.5, NOT_REPRODUCED),
        ((0.5, 0.51, 0.49), "equal", 0.5, CANNOT_TELL),
    ],
)
def test_the_rule(values, sign, margin, word):
    assert judge(Sample(values), sign, margin).word == word


@pytest.mark.parametrize(
    ("sample", "reason"),
    [
        (Sample((1.0,)), "only 1 seed, and 3 are needed"),
        (Sample((1.0, 1.0)), "only 2 seeds, and 3 are needed"),
        (Sample((1.0, 1.0, 1.0), rates=1), "only one learning rate, and the question is about tuning"),
        (Sample((1.0, math.inf, 1.0)), "a run that is compared diverged"),
        (Sample((1.0, math.nan, 1.0)), "a run that is compared diverged"),
        (Sample((1.0, 1.0, 1.0), void="for a reason"), "for a reason"),
        (Sample(()), "only 0 seeds, and 3 are needed"),
    ],
)
def test_what_is_never_decided(sample, reason):
    for sign, margin in (("higher", 0), ("lower", 0), ("equal", 9)):
        found = judge(sample, sign, margin)
        assert (found.word, found.reason, found.decided) == (CANNOT_TELL, reason, False)


def test_enough_is_enough():
    assert judge(Sample((1.0, 1.1, 0.9)[:MINIMUM], rates=2), "higher").decided


@pytest.mark.parametrize(
    ("sign", "margin", "says"),
    [
        ("better", 0, "one of lower, higher, equal"),
        ("equal", 0, "a margin goes with"),
        ("lower", 1, "a margin goes with"),
    ],
)
def test_a_question_that_is_not_one(sign, margin, says):
    with pytest.raises(ValueError, match=says):
        judge(Sample((1.0,)), sign, margin)


def test_several_verdicts_are_as_good_as_the_worst():
    yes, no, open_ = (Verdict(word) for word in (REPRODUCED, NOT_REPRODUCED, CANNOT_TELL))
    assert together([yes, yes]).word == REPRODUCED
    assert together([yes, open_]).word == CANNOT_TELL
    assert together([yes, open_, no]).word == NOT_REPRODUCED
    assert together([]).word == CANNOT_TELL


# -- findings ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(evidence, "RESULTS", tmp_path)
    return tmp_path


def test_without_files_every_finding_says_how_to_make_them(folder):
    for finding in findings():
        assert finding.verdict.word == NOT_RUN and not finding.fault and not finding.ours
        assert finding.command in finding.verdict.reason and finding.sentence == "Not run here."


def test_a_finding_has_its_numbers_in_its_sentence(folder):
    made_up_runs.write(folder)
    for finding in findings():
        assert not finding.fault
        assert finding.ours in finding.sentence and finding.published in finding.sentence
        assert finding.machine == "a machine that nobody has"
    (found,) = [finding for finding in findings() if finding.id == "lm-q-kv"]
    losses = by_model(made_up_runs.sharing())
    change = 100 * math.expm1(losses["Q-K=V"].mean - losses["QKV"].mean)
    assert found.ours.startswith(f"+{change:.1f}% (")


def test_a_finding_is_plain_data(folder):
    made_up_runs.write(folder, identity=[run for run in made_up_runs.identity() if run["seed"] == 0])
    for finding in findings():
        data = json.loads(json.dumps(finding.as_dict(), allow_nan=False))
        assert data["verdict"]["word"] == finding.verdict.word
        assert not finding.verdict.numbers or fmean(n["mean"] for n in data["verdict"]["numbers"].values()) is not None


@pytest.mark.parametrize(
    "text", ["", "[1, 2]", "{", '{"runs": 3}', '{"runs": [{"model": "QKV"}]}', '{"runs": [3]}', "null"]
)
def test_a_file_that_is_not_as_agreed_is_a_fault_and_not_an_exception(folder, text):
    for question in QUESTIONS:
        (folder / f"{question.file}.json").write_text(text, "utf8")
    for finding in findings():
        assert finding.verdict.word in (CANNOT_TELL, NOT_RUN)
        assert finding.fault or "no stored runs" in finding.verdict.reason or "no run" in finding.verdict.reason


def test_a_file_without_one_of_the_models_is_not_run(folder):
    made_up_runs.write(folder, sharing=[run for run in made_up_runs.sharing() if run["model"] != "MQA"])
    words = {finding.id: finding.verdict.word for finding in findings()}
    assert words["lm-mqa"] == NOT_RUN and words["lm-q-kv"] == REPRODUCED


def test_a_sentence_about_all_variants_needs_all_of_them(folder):
    few = [run for run in made_up_runs.digits() if run["model"] not in ("Q=K-V", "identity")]
    made_up_runs.write(folder, digits=few)
    (found,) = findings("train-digits")
    assert (found.verdict.word, found.fault) == (NOT_RUN, "")
    assert found.verdict.reason == "there are no stored runs of Q=K-V, identity"


@pytest.mark.parametrize("model", ["QKV", "Q-K=V"])
@pytest.mark.parametrize("cell", RECALL_CELLS)
def test_recall_is_not_judged_before_it_is_finished(folder, cell, model):
    """Without its last cells the narrowest heads would be others."""
    here = [run for run in made_up_runs.recall() if (run["keys"], run["heads"], run["model"]) != (*cell, model)]
    made_up_runs.write(folder, recall=here)
    for claim in ("train-recall-demo", "kv-associative-recall"):
        for found in findings(claim):
            assert found.verdict.word == NOT_RUN
            assert found.verdict.reason.endswith(f"{model} with {cell[0]} keys and {cell[1]} heads")


def test_the_cells_of_recall_are_those_of_the_experiment():
    pytest.importorskip("torch")
    from qkvtheory.experiments.recall import SETTINGS

    assert tuple((keys, heads) for keys, _, heads, *_ in SETTINGS) == RECALL_CELLS


def moved_edges(edges):
    """The made-up grid with other edges: (model, weight decay) -> the largest stable rate."""
    return [
        run | {"diverged": run["rate"] > edges.get((run["model"], run["weight_decay"]), 0.03)}
        for run in made_up_runs.rates()
    ]


HALF, LOW = "identity, half scale", (0.03125, 0.0)


@pytest.mark.parametrize(
    ("edges", "word", "reason"),
    [
        ({("linear", decay): 0.01 for decay in LOW}, REPRODUCED, ""),
        ({("linear", decay): 0.01 for decay in (0.1, *LOW)}, CANNOT_TELL, ""),  # worse at every decay
        ({(HALF, decay): 0.01 for decay in LOW}, NOT_REPRODUCED, ""),
        ({(HALF, 0.1): 0.1}, CANNOT_TELL, "an edge lies beyond the largest rate tried"),
        ({("linear", 0.0): 0.0001}, CANNOT_TELL, "even the smallest rate diverged"),
    ],
)
def test_stability_at_low_decay_is_more_than_stability(folder, edges, word, reason):
    made_up_runs.write(folder, rates=moved_edges(edges))
    (found,) = findings("train-weight-decay")
    assert (found.verdict.word, found.verdict.reason) == (word, reason)


def test_a_nonlinear_query_is_compared_with_the_half_scale_too(folder):
    whole, half = ({(model, decay): 0.01 for decay in (0.1, *LOW)} for model in ("linear", "linear, half scale"))
    words = []
    for edges in (whole | half, whole):
        made_up_runs.write(folder, rates=moved_edges(edges))
        (found,) = [found for found in findings() if found.id == "nonlinear-stability"]
        words.append(found.verdict.word)
        assert list(found.verdict.numbers) == ["whole scale", "half scale"]
    assert words == [REPRODUCED, CANNOT_TELL]


def test_stored_results_are_read_in_one_place(folder):
    assert figures.stored is evidence.stored
    (folder / "other.json").write_text("[]")
    with pytest.raises(ValueError, match="should hold an object"):
        evidence.stored("other")
    (folder / "other.json").write_text("{")
    with pytest.raises(ValueError, match=r"is not JSON .* make it anew: python -m qkvtheory\.experiments\.other"):
        evidence.stored("other")
