"""The plans of the trainings, how they are kept, and that what is stored is what the scripts would make."""

import importlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

from qkvtheory import evidence
from qkvtheory.experiments import Missing, identity, pair_bound, runs
from qkvtheory.experiments.model import Config, Model, parameters
from qkvtheory.experiments.runs import Job, Plan
from qkvtheory.experiments.training import Log

NAMES = (
    "sharing", "identity", "rates", "synthetic", "pair_bound", "recall", "digits", "posthoc", "padding", "overfitting",
)  # fmt: skip
TUNED = ("sharing", "identity")
RESULTS = Path(__file__).resolve().parents[2] / "book" / "results"


def module(name):
    return importlib.import_module(f"qkvtheory.experiments.{name}")


def stored(name):
    return json.loads((RESULTS / f"{name}.json").read_text("utf8"))


def planned(name):
    """All jobs of a plan; the later stages follow what is stored of the earlier ones."""
    plan, rows = module(name).plan(), {"tuning": stored(name).get("tuning", []), "runs": stored(name)["runs"]}
    return [job for stage in plan.stages for job in stage(rows)]


# -- a plan that costs nothing -----------------------------------------------------------------------------------------


def counting(done, fail_at=None):
    """A plan of four runs that note their seed in ``done``; one of them may be interrupted."""

    def run(seed):
        if seed == fail_at:
            raise KeyboardInterrupt
        done.append(seed)
        return {"loss": 1.0 + seed}

    def jobs(rows):
        return [Job({"model": "m", "seed": seed}, lambda seed=seed: run(seed)) for seed in range(4)]

    return Plan("nothing", "Nothing at all.", {}, {}, (jobs,))


def test_a_run_that_was_stopped_goes_on_and_repeats_nothing(tmp_path, capsys):
    out, done = str(tmp_path / "nothing.json"), []
    with pytest.raises(KeyboardInterrupt):
        runs.measure(counting(done, fail_at=2), out)
    assert [row["seed"] for row in json.loads(Path(out).read_text())["runs"]] == [0, 1]
    found = runs.measure(counting(done), out)
    assert done == [0, 1, 2, 3]
    assert [row["loss"] for row in found["runs"]] == [1.0, 2.0, 3.0, 4.0]
    assert json.loads(Path(out).read_text())["runs"] == found["runs"]
    assert not list(tmp_path.glob("*.part"))
    assert "seed 3" in capsys.readouterr().out


def test_only_what_is_wanted_is_run(tmp_path):
    done = []
    runs.measure(counting(done), None, lambda key: key["seed"] in (1, 3))
    assert done == [1, 3]


@pytest.mark.parametrize("text", ["no json", "[]", '{"runs": 3}', '{"other": []}'])
def test_a_file_of_something_else_is_not_overwritten(tmp_path, text):
    out = tmp_path / "other.json"
    out.write_text(text)
    with pytest.raises(Missing, match="something else"):
        runs.measure(counting([]), str(out))
    assert out.read_text() == text


def test_rows_of_another_setting_are_not_taken_for_these(tmp_path):
    out = tmp_path / "nothing.json"
    runs.measure(counting([]), str(out))
    before = out.read_text()
    with pytest.raises(Missing, match="another setting"):
        runs.measure(replace(counting([]), setting={"steps": 5}), str(out))
    assert out.read_text() == before


def test_a_collapsed_run_has_diverged():
    assert Log([5.5, *[3.2] * 50, *[5.5] * 150]).diverged
    assert not Log([5.5, *[3.2] * 200]).diverged
    assert not Log([2.3] * 20).diverged  # too short to tell
    assert Log([5.5, 1.0, float("nan")]).diverged
    assert Log([5.5, 1.0, *[2.1] * 200]).diverged


def test_the_provenance_is_complete():
    found = runs.result(counting([]), {"tuning": [], "runs": []})["provenance"]
    assert set(evidence.PROVENANCE) <= set(found) and found["threads"] == 1
    assert found["command"] == "python -m qkvtheory.experiments.nothing --out book/results/nothing.json"


def test_every_model_runs_at_its_best_rate_and_tuning_is_taken_over():
    losses = {("a", 1.0): 2.0, ("a", 2.0): 1.0, ("b", 1.0): 1.5, ("b", 2.0): 0.1}
    tuning = [{"model": m, "rate": r, "seed": 0, "loss": x} for (m, r), x in losses.items()]
    tuning[3]["diverged"] = True

    def job(model, rate, seed):
        return Job({"model": model, "rate": rate, "seed": seed}, lambda: {"loss": -1.0})

    made = runs.tuned({"tuning": tuning}, job, ("a", "b", "never tried"), (0, 1))
    assert [(j.key["model"], j.key["rate"], j.key["seed"]) for j in made] == [
        ("a", 2.0, 0), ("b", 1.0, 0), ("a", 2.0, 1), ("b", 1.0, 1),
    ]  # fmt: skip
    assert [j.run()["loss"] for j in made] == [1.0, 1.5, -1.0, -1.0]


def test_a_user_who_names_a_folder_that_is_not_there_is_told(tmp_path, capsys):
    code = runs.main(lambda: counting([]), ["--out", str(tmp_path / "none" / "x.json")])
    assert code == 2
    assert "cannot write" in capsys.readouterr().err


# -- the plans of the book ---------------------------------------------------------------------------------------------


def size(name, model):
    other = module(name)
    return parameters(Model(Config(**other.SHAPE | other.MODELS[model])))


def test_models_compared_at_equal_size_have_equal_size():
    assert size("sharing", "Q-K=V wide") == size("sharing", "QKV") == size("identity", "QKV")
    assert size("identity", "identity, larger MLP") == size("identity", "QKV")
    assert size("identity", "QKV, smaller MLP") == size("identity", "identity")
    assert size("identity", "identity") == size("identity", "QKV") - 2 * 64**2
    assert size("rates", "bottleneck") == size("rates", "linear")
    gains = 2 * 2 * 64  # of the two norms of each nonlinear query
    assert size("rates", "nonlinear") == size("rates", "linear") + gains


@pytest.mark.parametrize("name", NAMES)
def test_no_two_runs_of_a_plan_are_the_same(name):
    keys = [(job.tuning, tuple(sorted(job.key.items()))) for job in planned(name)]
    assert len(set(keys)) == len(keys) > 0


@pytest.mark.parametrize("name", NAMES)
def test_what_is_stored_is_what_the_script_would_make(name):
    """Every planned run is there, and no other; the setting and the published numbers are the script's."""
    found, plan = stored(name), module(name).plan()
    fresh = runs.result(plan, {"tuning": [], "runs": []})
    for part in ("what", "setting", "published"):
        assert found[part] == json.loads(json.dumps(fresh[part])), part
    assert set(evidence.PROVENANCE) <= set(found["provenance"]) and found["provenance"]["commit"]
    for part, tuning in (("tuning", True), ("runs", False)):
        jobs, rows = [job.key for job in planned(name) if job.tuning is tuning], found.get(part, [])
        assert len(rows) == len(jobs)
        assert all(any(runs.same(row, key) for row in rows) for key in jobs)


def test_models_carried_over_lose_nothing():
    carried = [row for row in stored("identity")["runs"] if row["model"] == identity.CARRIED]
    assert len(carried) == len(identity.SEEDS)
    assert all(row["change"] < 1e-9 and abs(row["loss"] - row["loss_before"]) < 1e-9 for row in carried)


@pytest.mark.slow
def test_carrying_over_is_done_by_the_package():
    """A few steps of training, and the same loss in float64 without any query matrix."""
    config = Config(**identity.SHAPE | identity.COVERED)
    row = identity.carry(config, replace(identity.RECIPE, steps=5, rate=8e-3))
    assert row["change"] < 1e-12
    assert row["parameters"] == parameters(Model(config)) - 2 * 64**2


@pytest.mark.parametrize("name", TUNED)
def test_stored_runs_are_at_the_best_rate(name):
    """Each model has one rate, the best that was tried for it."""
    found = stored(name)
    for model in {row["model"] for row in found["tuning"]}:
        rates = {row["rate"] for row in found["runs"] if row["model"] == model}
        assert rates == {runs.best_rate(found["tuning"], model=model)}


# -- one run, done again -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("model", "heads"), [("QKV", 1), ("Q=K-V", 1), ("Q=K-V", 2)])
def test_a_stored_run_can_be_done_again(model, heads):
    """On other machines sums are rounded in another order, so that numbers agree nearly."""
    key = {"task": "reverse", "skips": "none", "model": model, "heads": heads, "seed": 0}
    (old,) = [row for row in stored("pair_bound")["runs"] if runs.same(row, key)]
    new = pair_bound.job(**key).run()
    assert new["accuracy"] == pytest.approx(old["accuracy"], abs=0.06)
    assert new["largest_pair_mass"] == pytest.approx(old["largest_pair_mass"], abs=0.1)


def test_pair_mass_is_read_off_the_maps():
    config = replace(Config(**pair_bound.SHAPE | {"heads": 2}), variant="Q=K-V")
    tokens, _ = pair_bound.Task("reverse", length=8).test(5)
    found = pair_bound.maps(Model(config), tokens)
    assert found.shape == (5, 2, 8, 8)
    assert found.sum(-1) == pytest.approx(1, abs=1e-5)
    mass = pair_bound.pair_mass(found, pair_bound.PARTNERS["reverse"])
    assert mass[3, 1, 2] == pytest.approx(found[3, 1, 2, 5] + found[3, 1, 5, 2])
    assert mass.max() <= 1 + 1e-6  # queries are the keys: the claim pair-bound
