"""The charts of trainings show the stored numbers, whatever is there of them, and say them in words."""

import importlib
import json
import math
import re
import xml.etree.ElementTree as ET
from itertools import pairwise
from statistics import fmean

import pytest

from qkvtheory import evidence
from qkvtheory.evidence import NoRuns, paired, summary
from qkvtheory.figures import FIGURES, intervals
from qkvtheory.figures.style import PALETTES

plotly = pytest.importorskip("plotly")
pytest.importorskip("matplotlib")
SEEDS = (0, 1, 2)
BUMPS = (0.0, 0.01, -0.02)  # so that differences have a spread


def rows(metric, values, seeds=SEEDS, **more):
    """Made-up runs: ``values`` by model, a little different for every seed."""
    return [
        {"model": model, "seed": seed, metric: x + BUMPS[seed] * (1 + i), **more}
        for seed in seeds
        for i, (model, x) in enumerate(values.items())
    ]


def sharing():
    printed = {"QKV": 5.0, "Q-K=V": 5.25, "GQA-4": 5.1}
    runs = rows("loss", {"QKV": 1.5, "Q-K=V": 1.6, "GQA-2": 1.52, "QV-Ka": 1.55})
    return {"published": {"perplexity": printed}, "runs": runs}


def identity():
    values = {"QKV": 1.5, "identity": 1.51, "identity, half scale": 1.49, "QKV, smaller MLP": 1.52}
    return {"published": {"change": [-0.004, 0.003]}, "runs": rows("loss", values)}


def rates():
    runs = []
    for rate in (0.01, 0.1):
        runs += rows("loss", {"linear": 2.0 + rate, "nonlinear": 1.9}, rate=rate, weight_decay=0.1)
        runs += rows("loss", {"linear": 2.1 + rate}, rate=rate, weight_decay=0.0)
    for run in runs:
        broke = run["rate"] == 0.1 and run["model"] == "linear" and run["weight_decay"] == 0.1 and run["seed"] != 1
        run |= {"diverged": broke, "loss": None if broke else run["loss"]}
    return {"published": {}, "runs": runs}


def synthetic():
    runs = []
    for task, s in (("reverse", -1.5), ("sub", 0.3)):
        runs += rows("accuracy", {"QKV": 0.9, "Q=K=V": 0.5}, task=task)
        runs += rows("accuracy", {"(Q=K=V)+": 0.6}, task=task, temperature=[s, 0.25])
    runs += rows("accuracy", {"(Q=K=V)+ frozen -1": 0.8}, task="reverse", temperature=[-1.0, -1.0])
    tables = {"QKV": [0.7, 1], "Q=K=V": [0.51, 1], "(Q=K=V)+": [0.58, 1]}
    return {"published": {"tasks": ["reverse", "sub"], "paper": tables, "rerun": tables}, "runs": runs}


def pair_bound():
    runs = []
    for skips in ("none", "both"):
        for task in ("reverse", "swap"):
            for model, masses, right in (("QKV", [1.9], 1.0), ("Q=K-V", [0.97], 0.5), ("Q=K-V", [0.4, 0.9], 1.0)):
                more = {"task": task, "skips": skips, "heads": len(masses), "mean_pair_mass": masses}
                runs.append({"model": model, "seed": 0, "accuracy": right, **more})
    return {"published": {"bound": 1.0}, "runs": runs}


def recall():
    runs = []
    for keys, d, heads, lost in ((32, 8, 4, 0.5), (32, 8, 1, 0.0)):
        runs += rows("accuracy", {"QKV": 0.95, "Q-K=V": 0.95 - lost}, keys=keys, d=d, heads=heads)
    return {"published": {"accuracy": {"QKV": [0.9995], "Q-K=V, 4 heads": [0.34, 0.37]}}, "runs": runs}


def digits():
    values = {"QKV": 0.97, "Q=K=V": 0.96, "identity": 0.965, "uniform attention": 0.9, "shuffled labels": 0.1}
    return {"published": {"mnist": {"QKV": 0.981, "Q=K=V": 0.978}}, "runs": rows("accuracy", values)}


def posthoc():
    values = {"untied": 1.5, "trained tied": 1.6, "tied afterwards, keys": 4.0, "tied afterwards, average": 3.0}
    return {"published": {}, "runs": rows("loss", values)}


def padding():
    runs = []
    for scored, cost in (("real", 0.1), ("all", 0.12)):
        for run in rows("loss", {"QKV": 1.6, "Q-K=V": 1.6 + cost}, scored=scored, share_of_padding=0.4):
            runs.append(run | {"loss_with_padding": 0.6 * run["loss"]})
    return {"published": {}, "runs": runs}


def overfitting():
    values = {"QKV": 0.9, "Q-K=V": 0.8, "Q-K=V wide": 0.85, "QKV, more decay": 0.4}
    return {"published": {"gap": {"QKV": 0.8404, "Q-K=V": 0.6866}}, "runs": rows("gap", values)}


MADE = {made.__name__: made for made in (sharing, identity, rates, synthetic, pair_bound, recall, digits, posthoc,
                                         padding, overfitting)}  # fmt: skip


def module(name):
    return importlib.import_module(f"qkvtheory.figures.{name}")


def drawn(name, data):
    """Traces by name; of those in several panels, the first."""
    found = {}
    for trace in module(name).interactive(data)["data"]:
        found.setdefault(trace["name"], trace)
    return found


@pytest.mark.parametrize("name", MADE)
def test_both_forms_show_the_same_marks(name):
    data = MADE[name]()
    figure = module(name).interactive(data)
    json.dumps(figure, allow_nan=False)
    assert len(plotly.graph_objects.Figure(figure).data) == len(figure["data"])
    marks = sum(len(trace["x"]) for trace in figure["data"] if "markers" in trace["mode"])
    for theme in PALETTES:
        root = ET.fromstring(module(name).still(data, theme))
        clipped = "{http://www.w3.org/2000/svg}g[@clip-path]//{http://www.w3.org/2000/svg}use"
        assert len(root.findall(f".//{clipped}")) == marks
    assert 100 < len(module(name).alt(data)) < 700


@pytest.mark.parametrize("name", MADE)
def test_one_seed_is_enough_to_draw_and_gives_no_interval(name):
    data = MADE[name]()
    data["runs"] = [run for run in data["runs"] if run["seed"] == 0]
    figure = module(name).interactive(data)
    assert not any("error_x" in trace or "error_y" in trace for trace in figure["data"])
    assert any("markers" in trace["mode"] for trace in figure["data"])
    module(name).still(data, "light")
    assert not re.search("nan|None|inf", module(name).alt(data))


@pytest.mark.parametrize("name", MADE)
def test_without_runs_or_without_a_file_nothing_is_drawn(name, tmp_path, monkeypatch):
    with pytest.raises(NoRuns, match=rf"{name}\.json has no runs yet; run: python -m"):
        module(name).interactive(MADE[name]() | {"runs": []})
    monkeypatch.setattr(evidence, "RESULTS", tmp_path)
    with pytest.raises(NoRuns, match=f"qkvtheory.experiments.{name}"):
        FIGURES[name.replace("_", "-")]


def test_sharing_shows_changes_of_perplexity():
    data, traces = sharing(), drawn("sharing", sharing())
    pair = paired(data["runs"], "Q-K=V", "QKV")
    shown = traces["Q-K=V"]
    assert shown["x"] == [pytest.approx(math.expm1(fmean(pair.values)))]
    low, mean, high = pair.perplexity
    assert shown["error_x"]["array"] == [pytest.approx(high - mean)]
    assert shown["error_x"]["arrayminus"] == [pytest.approx(mean - low)]
    assert {math.expm1(x) for x in pair.values} <= set(traces["one seed"]["x"])
    assert traces["published"]["x"] == pytest.approx([0.05, 0.02])
    assert "GQA-4" in traces["published"]["text"][1]
    deviation = summary(run["loss"] for run in data["runs"] if run["model"] == "QKV").deviation
    assert max(traces["QKV itself"]["x"]) == pytest.approx(math.expm1(deviation))
    assert f"Q-K=V {intervals.percent(mean)} (published +5.0%)" in module("sharing").alt(data)


def test_a_variant_without_a_common_seed_is_left_out():
    data = sharing()
    data["runs"] = [run for run in data["runs"] if run["model"] != "QV-Ka" or run["seed"] > 5]
    assert "QV-Ka" not in drawn("sharing", data) and "QV-Ka" not in module("sharing").alt(data)


def test_a_mean_with_a_diverged_run_is_not_drawn():
    data = sharing()
    next(run for run in data["runs"] if run["model"] == "GQA-2").update(diverged=True, loss=None)
    traces = drawn("sharing", data)
    assert "GQA-2" not in traces and sum("GQA-2" in told for told in traces["one seed"]["text"]) == 2
    assert "GQA-2 diverged" in module("sharing").alt(data)


def test_identity_shows_relative_changes_and_published_parity():
    data, traces = identity(), drawn("identity", identity())
    ratios = [1.51 / 1.5, 1.53 / 1.51, 1.47 / 1.48]  # of the made-up losses, seed by seed
    assert traces["identity"]["x"] == [pytest.approx(fmean(ratios) - 1)]
    assert [min(traces["published"]["x"]), max(traces["published"]["x"])] == data["published"]["change"]
    assert "−0.40% to +0.30%" in module("identity").alt(data)


def test_models_without_norms_are_compared_with_their_own_original():
    data = identity()
    data["runs"] += rows("loss", {"without norms, QKV": 2.0, "without norms, identity": 2.1})
    below = [t for t in module("identity").interactive(data)["data"] if t["xaxis"] == "x2" and t["name"] == "identity"]
    ratios = [2.1 / 2.0, 2.12 / 2.01, 2.06 / 1.98]
    assert below[0]["x"] == [pytest.approx(fmean(ratios) - 1)]
    assert "without norms against QKV without norms: identity +4.8%" in module("identity").alt(data)


def test_rates_show_means_and_runs_that_diverged():
    data, traces = rates(), drawn("rates", rates())
    assert traces["nonlinear"]["y"] == pytest.approx([fmean(1.9 + 2 * bump for bump in BUMPS)] * 2)
    assert len(traces["linear"]["x"]) == 1, "no mean where a run diverged"
    assert len(traces["diverged"]["x"]) == 2 and len(traces[module("rates").LEFT]["x"]) == 1
    top = max(traces["diverged"]["y"])
    high = module("rates").interactive(data)["layout"]["yaxis"]["range"][1]
    assert 0 < high - top < 0.1 and top > max(run["loss"] or 0 for run in data["runs"])
    assert traces["linear, decay 0"]["line"]["dash"] == "dot" and traces["linear, decay 0"]["yaxis"] == "y2"
    alt = module("rates").alt(data)
    assert "(2 of 18)" in alt and "linear 2.007 at 0.01, stable up to 0.01" in alt


def test_synthetic_shows_accuracies_tables_and_temperatures():
    data = synthetic()
    figure = module("synthetic").interactive(data)
    above = {t["name"]: t for t in figure["data"] if t["yaxis"] == "y"}
    below = {t["name"]: t for t in figure["data"] if t["yaxis"] == "y2"}
    assert above["Q=K=V"]["y"] == pytest.approx([fmean(0.5 + 2 * bump for bump in BUMPS)] * 2)
    assert above["the paper"]["y"] == above["its re-run"]["y"] == [0.7, 0.51, 0.58, 1, 1, 1]
    assert above["its re-run"]["marker"]["symbol"].endswith("-open")
    assert len(above["(Q=K=V)+ frozen -1"]["y"]) == 1
    assert sorted(below["(Q=K=V)+"]["y"]) == [-1.5] * 3 + [0.25] * 6 + [0.3] * 3
    assert below["zero"]["y"] == [0.0, 0.0] and "(Q=K=V)+ frozen -1" not in below
    assert figure["layout"]["yaxis2"]["range"][0] < -1.5
    assert "REVERSE −1.50, SUB 0.25" in module("synthetic").alt(data)


def test_without_temperatures_there_is_one_panel():
    data = synthetic()
    data["runs"] = [run for run in data["runs"] if "temperature" not in run]
    assert "yaxis2" not in module("synthetic").interactive(data)["layout"]


def test_pair_bound_shows_every_run_and_the_bound():
    data, traces = pair_bound(), drawn("pair_bound", pair_bound())
    assert traces["bound"]["x"] == [1.0, 1.0]
    assert traces["Q=K-V, 2 heads"]["x"] == [0.9, 0.9], "the head that sends most"
    assert traces["Q=K-V"]["y"] == [0.5, 0.5]
    shown = module("pair_bound").interactive(data)["data"]
    assert sum(len(t["x"]) for t in shown if t["mode"] == "markers") == len(data["runs"])
    assert "Without skips: QKV 1.90 and 1.00, Q=K-V 0.97 and 0.50" in module("pair_bound").alt(data)


def test_recall_shows_settings_and_what_is_published():
    data, traces = recall(), drawn("recall", recall())
    assert traces["Q-K=V"]["x"] == pytest.approx([0.45 + 2 * fmean(BUMPS), 0.95 + 2 * fmean(BUMPS)])
    assert traces["published"]["x"] == [0.9995, 0.34, 0.37]
    names = module("recall").interactive(data)["layout"]["yaxis"]["ticktext"]
    assert names[:2] == ["32 keys, 4 heads of 2", "32 keys, 1 head of 8"]
    assert "Q-K=V 0.34 to 0.37 (4 heads)" in module("recall").alt(data)


def test_digits_keep_the_controls_on_an_axis_of_their_own():
    figure = module("digits").interactive(digits())
    where = {t["name"]: t["xaxis"] for t in figure["data"]}
    assert where["uniform attention"] == where["shuffled labels"] == "x2" and where["QKV"] == where["identity"] == "x"
    assert drawn("digits", digits())["published"]["x"] == [0.981, 0.978]
    without = digits()
    without["runs"] = [run for run in without["runs"] if run["model"] in ("QKV", "Q=K=V")]
    assert "xaxis2" not in module("digits").interactive(without)["layout"]


def test_posthoc_and_overfitting_show_means():
    for name, metric in (("posthoc", "loss"), ("overfitting", "gap")):
        data = MADE[name]()
        traces = drawn(name, data)
        for model in {run["model"] for run in data["runs"]}:
            mean = fmean(run[metric] for run in data["runs"] if run["model"] == model)
            assert traces[model]["x"] == [pytest.approx(mean)]
            assert f"{model} {mean:.3f}" in module(name).alt(data)
    assert drawn("overfitting", overfitting())["published"]["x"] == [0.8404, 0.6866]


def test_padding_shrinks_as_its_share_predicts():
    data, traces = padding(), drawn("padding", padding())
    pair = paired([run for run in data["runs"] if run["scored"] == "all"], "Q-K=V", "QKV")
    assert traces["predicted"]["x"] == [pytest.approx(0.6 * fmean(pair.values))]
    assert traces[module("padding").HIDDEN]["x"] == pytest.approx(
        traces["predicted"]["x"]
    )  # so the made-up losses were chosen
    assert "f = 0.40" in module("padding").alt(data)


@pytest.mark.parametrize("name", MADE)
def test_the_words_follow_the_data(name):
    data = MADE[name]()
    before = module(name).alt(data)
    for run in data["runs"]:
        for metric in ("loss", "loss_with_padding", "gap", "accuracy"):
            if run.get(metric) is not None:
                run[metric] = 0.9 * run[metric] + 0.04 * (run["model"] != "QKV")
    assert module(name).alt(data) != before


def test_intervals_are_those_of_evidence():
    found = summary([1.0, 2.0, 3.0])
    assert intervals.ends(found) == (found.low, found.high)
    assert intervals.ends(summary([1.0, 2.0])) is None and intervals.ends(summary([1.0, 2.0, math.inf])) is None


def test_ticks_are_round_and_inside():
    for low, high in ((0, 1), (-0.31, 0.02), (1.49, 1.52), (0.0001, 0.0009)):
        found = intervals.ticks((low, high), str)
        assert 2 <= len(found) <= 6 and all(low <= x <= high for x in found)


def test_panels_do_not_meet():
    panel = module("digits").chart(digits()).panels[0]
    for n in (1, 2, 3):
        found = intervals.domains(intervals.Chart([panel] * n, 6.0))
        assert found[0][1] == 1 and all(low < high for low, high in found)
        assert all(above[0] > below[1] for above, below in pairwise(found))
