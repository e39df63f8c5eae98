"""An MLP trained to absorb a skip: the stored run is that of today's code, and its set-up is what the page says."""

import json

import pytest

from qkvtheory.experiments import absorb
from qkvtheory.figures import stored

torch = pytest.importorskip("torch")
DATA = stored("absorb")
every_run = pytest.mark.parametrize("run", DATA["runs"], ids=lambda r: f"h={r['h']}")


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_the_stored_runs_are_those_the_module_plans():
    assert [absorb.key(run) for run in DATA["runs"]] == [absorb.key(vars(run)) for run in absorb.RUNS]
    assert DATA["published"] == absorb.PUBLISHED
    assert DATA["predicted"] == [{"h": run.h} | absorb.predicted(run.h) for run in absorb.RUNS]
    assert DATA["setting"]["batch"] == absorb.BATCH and DATA["setting"]["hidden"] == absorb.TIMES


def test_the_stored_baselines_are_reproduced(one_thread):
    found, kept = absorb.train(absorb.Run(64, 2, 2e-3)), DATA["runs"][0]
    assert kept["h"] == 64
    for name in ("linear", "affine"):
        assert found[name]["error"] == pytest.approx(kept[name]["error"], rel=1e-3)
        assert found[name]["cosine"] == pytest.approx(kept[name]["cosine"], abs=1e-4)


@every_run
def test_the_baselines_are_the_predicted_ones(run):
    expected = absorb.predicted(run["h"])
    for name in ("linear", "affine"):
        assert run[name]["error"] == pytest.approx(expected[name], rel=0.07)
        cosine = (1 - run[name]["error"] ** 2) ** 0.5
        assert run[name]["cosine"] == pytest.approx(cosine, abs=1e-3)


@every_run
def test_the_error_falls_all_the_way_and_the_curve_ends_at_the_student(run):
    errors = [point["error"] for point in run["curve"]]
    assert errors[-1] == run["student"]["error"] == min(errors)
    assert [point["step"] for point in run["curve"]][-1] == run["steps"]


def test_other_bases_change_nothing_for_the_maps(one_thread, monkeypatch):
    """Rotations before and after: the same errors of the best maps as with the plain identity skip."""
    generator = torch.Generator().manual_seed(0)
    turned = absorb.drawn(16, generator, "cpu", skip=True)
    x, test = torch.randn(4096, 16, generator=generator), torch.randn(4096, 16, generator=generator)
    back = torch.linalg.qr(torch.randn(16, 16, generator=generator))[0]
    other = absorb.Half(back.T @ turned.A, back.T @ turned.U, turned.b, turned.V, turned.c)
    here, there = absorb.least_squares(turned, x, test), absorb.least_squares(other, x @ back, test @ back)
    for name in here:
        assert here[name]["error"] == pytest.approx(there[name]["error"], rel=1e-3)


def test_the_teacher_is_an_mlp_beside_a_rotation_and_the_student_has_none():
    generator = torch.Generator().manual_seed(0)
    teacher, student = (absorb.drawn(8, generator, "cpu", skip) for skip in (True, False))
    assert torch.allclose(teacher.A @ teacher.A.T, torch.eye(8), atol=1e-5) and student.A is None
    x = torch.randn(5, 8, generator=generator)
    plain = absorb.Half(None, teacher.U, teacher.b, teacher.V, teacher.c)
    assert torch.allclose(teacher(x), x @ teacher.A + plain(x), atol=1e-6)


def test_a_student_learns(one_thread):
    run = absorb.train(absorb.Run(8, 300, 1e-2))
    assert run["student"]["error"] < 0.5 * run["curve"][0]["error"]


def test_the_last_point_is_the_last_step(one_thread):
    curve = absorb.train(absorb.Run(8, 47, 1e-3))["curve"]
    assert [point["step"] for point in curve][-2:] == [46, 47]


def test_a_finished_run_is_kept_and_not_repeated(tmp_path, monkeypatch):
    out = tmp_path / "absorb.json"
    runs = [absorb.Run(8, 4, 1e-3), absorb.Run(8, 4, 2e-3)]
    first = absorb.measure(runs[:1], out=str(out), show=False)
    assert json.loads(out.read_text())["runs"] == first["runs"]
    trained = []
    monkeypatch.setattr(absorb, "train", lambda run, *_: trained.append(run) or (first["runs"][0] | vars(run)))
    absorb.measure(runs, out=str(out), show=False)
    assert trained == runs[1:] and len(json.loads(out.read_text())["runs"]) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--widths", "65"], "no run is planned for"), (["--steps", "1"], "at least 2")],
)
def test_bad_arguments_are_refused_with_the_reason(arguments, message, capsys):
    with pytest.raises(SystemExit) as refusal:
        absorb.main(arguments)
    assert refusal.value.code == 2 and message in capsys.readouterr().err


def test_a_file_of_something_else_is_left_alone(tmp_path, capsys):
    out = tmp_path / "other.json"
    out.write_text("[1, 2]")
    assert absorb.main(["--widths", "64", "--steps", "2", "--out", str(out)]) == 2
    assert "something else" in capsys.readouterr().err and out.read_text() == "[1, 2]"
