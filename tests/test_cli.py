"""The commands: exit codes, messages for bad input, machine-readable output."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from qkvtheory import cli, gauge
from qkvtheory.claims.register import register
from qkvtheory.cli import main
from qkvtheory.lanes import formal
from qkvtheory.lanes.report import PACKAGE

FAST = ["--lane", "symbolic"]


def test_a_green_claim_exits_with_zero(capsys):
    assert main(["check", "r-products", "reparam-lemma", "--lane", "symbolic", "exact"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^pass +reparam-lemma +symbolic pass +exact pass", out, re.M)
    assert "all green" in out


@pytest.mark.parametrize("lanes", [["--lane", "symbolic", "--lane", "exact"], ["--lane", "symbolic", "exact"]])
def test_lanes_add_up(lanes, capsys):
    assert main(["check", "r-products", *lanes]) == 0
    assert "symbolic pass  exact pass" in capsys.readouterr().out


def test_a_claim_without_the_lane_is_not_run(capsys, tmp_path):
    target = tmp_path / "claims.json"
    assert main(["check", "reparam-lemma", "gqa-only-q", "--lane", "count", "--json", str(target)]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^not run +reparam-lemma +has none of these lanes$", out, re.M)
    assert re.search(r"^pass +gqa-only-q +count pass", out, re.M)
    assert re.search(r"^1 claim, 0 controls, .*: all green\nnot run \(1\): reparam-lemma$", out, re.M)
    assert [c["status"] for c in json.loads(target.read_text())["claims"]] == ["not-run", "pass"]


def test_a_run_without_a_proof_assistant_is_not_green(monkeypatch, capsys):
    monkeypatch.setattr("qkvtheory.lanes.formal.available", lambda: "no proof assistant here")
    assert main(["check", "reparam-lemma", "--lane", "formal"]) == 2
    captured = capsys.readouterr()
    assert "error: no proof assistant here" in captured.err
    assert "green" not in captured.out


def test_sources_that_change_during_a_run_give_no_verdict(monkeypatch, tmp_path, capsys):
    target = tmp_path / "claims.json"
    monkeypatch.setattr("qkvtheory.lanes.report.sources_sha256", lambda: "edited")
    assert main(["check", "r-products", *FAST, "--json", str(target)]) == 1
    captured = capsys.readouterr()
    assert "the sources changed during the run" in captured.err
    assert "green" not in captured.out
    assert not target.exists()


def test_a_red_claim_exits_with_one(monkeypatch, capsys):
    monkeypatch.setattr(gauge, "reads", lambda back, *weights: weights)
    assert main(["check", "reparam-lemma", *FAST]) == 1
    out = capsys.readouterr().out
    assert re.search(r"RED +reparam-lemma +symbolic FAIL", out)
    assert "1 RED" in out


def test_the_manifest_is_written_even_when_red(monkeypatch, tmp_path):
    monkeypatch.setattr(gauge, "reads", lambda back, *weights: weights)
    target = tmp_path / "new" / "claims.json"
    assert main(["check", "r-products", "--lane", "exact", "--json", str(target)]) == 1
    (claim,) = json.loads(target.read_text())["claims"]
    assert claim["lanes"]["exact"]["status"] == "fail"
    assert claim["status"] == "fail"


@pytest.mark.parametrize(("arguments", "message"), [
    (["check", "reparam-lema"], "there is no claim called 'reparam-lema'; did you mean 'reparam-lemma'?"),
    (["check", "zzzz"], "'python -m qkvtheory list' names them all"),
    (["check", "--lane", "magic"], "there is no lane called 'magic'; expected one of symbolic, exact, numeric"),
    (["check", "r-products", "--lane", "count"], "none of these claims has the lane count"),
    (["check", "\x1b[31m"], r"there is no claim called '\x1b[31m'"),
    (["check", "z" * 10**5], "zzz ... zzz"),
    (["show", "reparam-lema"], "did you mean 'reparam-lemma'?"),
])  # fmt: skip
def test_bad_input_exits_with_two_and_says_what_to_do(arguments, message, capsys):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.startswith("error: ")
    assert "Traceback" not in captured.err


def test_a_folder_for_a_file_is_refused_before_any_work(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("qkvtheory.lanes.report.run", lambda *_: pytest.fail("no work may be done"))
    assert main(["check", "r-products", *FAST, "--json", str(tmp_path)]) == 2
    assert "is a folder" in capsys.readouterr().err
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert main(["check", "r-products", *FAST, "--json", str(blocked / "claims.json")]) == 2
    assert "cannot write" in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the administrator may write anywhere")
def test_a_place_without_permission_is_refused(tmp_path, capsys):
    tmp_path.chmod(0o500)
    assert main(["check", "r-products", *FAST, "--json", str(tmp_path / "claims.json")]) == 2
    assert "cannot write" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [[], ["frobnicate"], ["show"], ["check", "--lane"], ["check", "--json"], ["list", "extra"]]
)
def test_no_or_unknown_commands_exit_with_two(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["check", "list", "show", "count"])
def test_help_shows_an_example(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    assert f"example: python -m qkvtheory {command}" in capsys.readouterr().out


def test_list(capsys):
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert all(id in out for id in register())


def test_list_for_machines(capsys):
    assert main(["list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["id"] for row in rows] == list(register())
    assert {"rank", "chapter", "title", "uses", "lanes", "hypotheses", "sources"} <= set(rows[0])


@pytest.mark.parametrize("id", ["reparam-lemma", "pattern-rank-threshold"])
def test_list_show_and_check_count_the_same_controls(id, capsys, monkeypatch, tmp_path):
    """The manifest of a whole run is the measure: whatever check ran, list counts and show names."""
    ran = [control.what for control in register()[id].controls]
    ran += [control.what for control in formal.controls() if control.claim == id]
    assert main(["list"]) == 0
    listed = re.search(rf"^{id} .*\n +\d hypotheses, (\d+) controls;", capsys.readouterr().out, re.M)
    assert listed and int(listed[1]) == len(ran)
    assert main(["show", id]) == 0
    shown = re.findall(r"^   control: (.*?)(?: \(formal lane\))?$", capsys.readouterr().out, re.M)
    assert sorted(shown) == sorted(cli.plain(what) for what in ran)
    if formal.available() is None:
        target = tmp_path / "claims.json"
        assert main(["check", id, "--json", str(target)]) == 0
        (claim,) = json.loads(target.read_text())["claims"]
        assert [control["what"] for control in claim["controls"]] == ran


def test_without_the_proofs_only_the_claims_own_controls_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(formal, "PROOFS", tmp_path / "none")
    claim = register()["reparam-lemma"]
    assert [what for _, what in cli.controls_of(claim)] == [control.what for control in claim.controls]


@pytest.mark.parametrize("id", register())
def test_show_prints_plain_letters(id, capsys):
    assert main(["show", id]) == 0
    out = capsys.readouterr().out
    assert not re.search(r"[$\\{}]|\*\*| _", out.partition("last result")[0])


@pytest.mark.parametrize(("tex", "letters"), [
    (r"$\tilde W_K=W_Q^{-1}W_K$", "~W_K = W_Q^-1 W_K"),
    (r"$S_{ij}=\alpha\,x_iR_{i-j}W_K^{h\top}$", "S_ij = alpha x_i R_(i-j) W_K^(h T)"),
    (r"$\operatorname{softmax}(S+r\mathbf1^{\top})$", "softmax(S + r 1^T)"),
    (r"$F(XW_1,\dots,XW_r)$", "F(X W_1, ..., X W_r)"),
    (r"a $GL(d)$, **and** *one* of $X\mapsto X\Theta$", "a GL(d), and one of X -> X Theta"),
    (r"$2gd_h\le d$, $e^{s+t}$", "2 g d_h <= d, e^(s + t)"),
    ("no formula, 2 * 3 * 4", "no formula, 2 * 3 * 4"),
])  # fmt: skip
def test_tex_in_plain_letters(tex, letters):
    assert cli.plain(tex) == letters


def test_sources_are_named_by_author_and_year(capsys, tmp_path):
    assert cli.author_year("karbevski2025kv") == "Karbevski and Mijoski 2025"
    assert cli.author_year("graef2024kv") == "Graef 2024"
    assert cli.author_year("bhojanapalli2020lowrank") == "Bhojanapalli and others 2020"
    assert cli.author_year("graef") == cli.author_year("graef2024kv", tmp_path / "none.bib") == ""
    source = register()["gqa-only-q"].sources[0]
    assert cli.cited(source) == "Karbevski 2026 (karbevski2026nonlinear), reported"


def test_one_is_singular():
    assert cli.counted(1, "hypothesis") == "1 hypothesis"
    assert cli.counted(0, "hypothesis") == "0 hypotheses"
    assert cli.counted(1, "control") == "1 control"
    assert cli.counted(10, "control") == "10 controls"


def test_show_prints_statement_hypotheses_controls_and_steps(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["show", "reparam-lemma"]) == 0
    out = capsys.readouterr().out
    for expected in ("Reparametrization Lemma", "H2", "control:", "calculation", "lanes: symbolic", "source:"):
        assert expected in out
    assert re.search(r"^ +(= )?MHA\(X Theta; ", out, re.M) or "MHA(X Theta" in out
    assert "none stored here" in out


def test_show_survives_a_broken_manifest(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "_build").mkdir()
    for text in (
        "{",
        "[]",
        '{"meta": 1, "claims": [{"id": "reparam-lemma", "lanes": {}}]}',
        '{"claims": [{"id": "reparam-lemma"}]}',
        '{"meta": {}, "claims": []}',
    ):
        (tmp_path / "_build/claims.json").write_text(text)
        assert main(["show", "reparam-lemma"]) == 0
        assert "last result" in capsys.readouterr().out


def test_a_closed_pipe_is_no_error(monkeypatch):
    def closed(args):
        raise BrokenPipeError

    monkeypatch.setattr(cli, "run_list", closed)
    monkeypatch.setattr(sys, "stderr", open(os.devnull, "w"))  # noqa: SIM115
    assert main(["list"]) == 0


# -- an edited copy of the package -------------------------------------------------------------------------------------


def check_in(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "qkvtheory",
        "check",
        "reparam-lemma",
        "eliminate-q",
        "where-theta-goes",
        *arguments,
    ]
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUTF8": "1"}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("copy")
    shutil.copytree(PACKAGE, root / "qkvtheory", ignore=shutil.ignore_patterns("__pycache__"))
    return root


READS = "reads(back_memory, attention.W_K, attention.W_V)"
EDITS = {
    "the other side": ("tuple(back @ weight for", "tuple(weight @ back for"),
    "a weight not read": (f"W_K, W_V = {READS}", "W_K, W_V = attention.W_K, attention.W_V"),
    "values for keys": (READS, "reads(back_memory, attention.W_V, attention.W_K)"),
    "one minus sign": ("tuple(back @ weight for", "tuple(-1 * back @ weight for"),
    "the inverse forgotten": ('back = inverse(theta, "theta")', "back = theta"),
}  # fmt: skip


def test_the_unedited_copy_is_green(copy):
    done = check_in(copy, "--lane", "symbolic", "exact", "numeric")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("old", "new"), EDITS.values(), ids=EDITS)
def test_an_edit_of_the_construction_turns_every_lane_red(copy, old, new):
    path = copy / "qkvtheory" / "gauge.py"
    text = path.read_text()
    assert text.count(old) == 1, f"the construction has changed: {old}"
    path.write_text(text.replace(old, new))
    try:
        done = check_in(copy, "--lane", "symbolic", "exact", "numeric")
    finally:
        path.write_text(text)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "reparam-lemma" in line and "symbolic" in line]
    assert line.count("FAIL") == 3, line
