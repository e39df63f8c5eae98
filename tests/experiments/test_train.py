"""``train`` and ``sweep``: runs that go on, folders that are not overwritten, messages, several processes."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from qkvtheory.cli import main
from qkvtheory.experiments import folder, train

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")

from qkvtheory.experiments import tasks, trainer  # noqa: E402 (they need PyTorch)
from qkvtheory.experiments.model import Config, Model, load  # noqa: E402
from qkvtheory.experiments.training import Recipe, fit  # noqa: E402

ROOT = Path(__file__).parents[2]
SMALL = ["--layers", "1", "--width", "16", "--heads", "2", "--batch", "4", "--warmup", "2"]
TEXT = [*SMALL, "--context", "16", "--data", "reference", "--validation", "8"]
TASK = [*SMALL, "--task", "reverse", "--length", "6"]
SHORT = ["--steps", "12", "--every", "4", "--log-every", "3"]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trained(out, *options):
    return main(["train", *(options or (*TEXT, *SHORT)), "--out", str(out)])


def weights(out):
    return safetensors.load_file(out / "model.safetensors")


def same_weights(a, b):
    a, b = weights(a), weights(b)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def losses(out):
    return {line["step"]: line["loss"] for line in folder.read_log(out) if "event" not in line}


class Crash(Exception):
    """The machine stops."""


def crash_after(monkeypatch, step):
    """From this step on training stops without any farewell; undone by the function returned."""
    real = trainer.descend

    def descend(model, adam, recipe, now, *rest):
        if now == step:
            raise Crash
        return real(model, adam, recipe, now, *rest)

    monkeypatch.setattr(trainer, "descend", descend)
    return lambda: monkeypatch.setattr(trainer, "descend", real)


# -- a run -------------------------------------------------------------------------------------------------------------


def test_a_run_leaves_model_log_result_and_two_checkpoints(tmp_path, capsys):
    assert trained(tmp_path / "run", *TEXT, *SHORT, "--variant", "Q-K=V") == 0
    said, run = capsys.readouterr().out, tmp_path / "run"
    result = json.loads((run / "result.json").read_text())
    assert f"{result['bits_per_byte']:.4f} bits per byte" in said and f"{result['parameters']:,}" in said
    assert result["bits_per_byte"] == pytest.approx(result["loss"] / np.log(2))
    assert result["cache_bytes_per_token"] == 16 * 4, "one layer of 16 numbers of 4 bytes: keys are values"
    assert load(run).config.kind.name == "Q-K=V" and "W_Z" in str(weights(run).keys())
    assert [p.name for p in folder.checkpoints(run)] == ["00000008.safetensors", "00000012.safetensors"]
    first, *rest = folder.read_log(run)
    assert first["event"] == "started" and first["config"]["d"] == 16 and first["recipe"]["steps"] == 12
    assert {"command", "versions", "machine", "commit"} <= first["provenance"].keys()
    assert first["data"]["sha256"] and first["parameters"] == result["parameters"]
    lines = [line for line in rest if "event" not in line]
    assert [line["step"] for line in lines] == [3, 6, 9, 12]
    assert all({"loss", "rate", "gradient", "tokens_per_second"} <= line.keys() for line in lines)
    assert [line["step"] for line in rest if line.get("event") == "validated"] == [4, 8, 12]
    assert not list(run.rglob("*.part"))


def test_the_command_that_is_logged_is_the_run(tmp_path):
    assert trained(tmp_path / "a", *TEXT, *SHORT, "--untied", "--score-scale", "0.5", "--qk-norm") == 0
    command = folder.read_log(tmp_path / "a")[0]["provenance"]["command"].split()
    assert command[:4] == ["python", "-m", "qkvtheory", "train"]
    assert main([*command[3:-1], str(tmp_path / "b")]) == 0
    assert same_weights(tmp_path / "a", tmp_path / "b")


def test_the_loop_is_that_of_fit(tmp_path):
    """The command has the numbers of ``training.fit``, which the stored experiments use."""
    assert trained(tmp_path / "run", *TASK, *SHORT, "--log-every", "1", "--accumulate", "2") == 0
    task, recipe = tasks.Task("reverse", length=6), Recipe(steps=12, batch=4, warmup=2, rate=3e-3, accumulate=2)
    model = Model(Config(vocab=10, context=6, layers=1, d=16, heads=2, causal=False, tied=False))
    log = fit(model, lambda i: task.draw(4, 0, i), recipe)
    assert list(losses(tmp_path / "run").values()) == pytest.approx(log.losses, rel=1e-6)
    kept = weights(tmp_path / "run")
    assert all(torch.equal(p, kept[name]) for name, p in model.named_parameters())


def test_the_loss_of_a_preset_falls(tmp_path):
    assert trained(tmp_path / "run", "--preset", "tiny", *TEXT[:-4], "--data", "reference", "--steps", "60") == 0
    found = list(losses(tmp_path / "run").values())
    assert found[-1] < 0.8 * found[0]


def test_a_task_is_scored_by_symbols_and_sequences(tmp_path, capsys):
    assert trained(tmp_path / "run", *TASK, *SHORT) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert 0 <= result["solved"] <= result["accuracy"] <= 1 and "bits_per_byte" not in result
    assert "cache_bytes_per_token" not in result, "an encoder keeps no cache"
    assert "of the sequences right" in capsys.readouterr().out


def test_recall_sums_two_embeddings(tmp_path):
    assert trained(tmp_path / "run", *SMALL, *SHORT, "--task", "recall", "--keys", "8", "--length", "4") == 0


def test_token_files_are_not_scored_per_byte(tmp_path):
    rng, data = np.random.default_rng(0), tmp_path / "tokens"
    data.mkdir()
    (data / "meta.json").write_text('{"vocab_size": 50}')
    for name in ("train", "val"):
        rng.integers(50, size=400).astype("<u2").tofile(data / f"{name}.bin")
    options = [*SMALL, *SHORT, "--context", "16", "--data", str(data)]
    assert trained(tmp_path / "run", *options) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert "loss" in result and "bits_per_byte" not in result
    assert load(tmp_path / "run").config.vocab == 50


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_cache_is_counted_in_the_numbers_of_the_run(tmp_path, precision):
    assert trained(tmp_path / "run", *TEXT, *SHORT, "--precision", precision) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["cache_bytes_per_token"] == 2 * 16 * {"float32": 4, "bfloat16": 2}[precision]


# -- going on ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [TEXT, [*TASK, "--accumulate", "2"]], ids=["text", "task"])
@pytest.mark.parametrize("step", [5, 8, 11])
def test_a_crash_costs_nothing_but_time(tmp_path, monkeypatch, options, step):
    assert trained(tmp_path / "whole", *options, *SHORT) == 0
    restore = crash_after(monkeypatch, step)
    with pytest.raises(Crash):
        trained(tmp_path / "crashed", *options, *SHORT)
    restore()
    assert trained(tmp_path / "crashed", *options, *SHORT) == 0
    assert same_weights(tmp_path / "whole", tmp_path / "crashed")
    assert losses(tmp_path / "whole") == losses(tmp_path / "crashed")
    ends = [json.loads((tmp_path / name / "result.json").read_text())["loss"] for name in ("whole", "crashed")]
    assert ends[0] == ends[1]
    resumed = [line for line in folder.read_log(tmp_path / "crashed") if line.get("event") == "resumed"]
    assert [line["step"] for line in resumed] == [4 * (step // 4)]


def test_wrong_moments_would_be_seen(tmp_path, monkeypatch):
    """The comparison above can fail: a run that forgets AdamW's moments ends elsewhere."""
    assert trained(tmp_path / "whole") == 0
    restore = crash_after(monkeypatch, 6)
    with pytest.raises(Crash):
        trained(tmp_path / "crashed")
    restore()
    (path,) = folder.checkpoints(tmp_path / "crashed")
    tensors, state = folder.read_checkpoint(path)
    folder.write_checkpoint(
        tmp_path / "crashed", {n: t * (not n.startswith("first/")) for n, t in tensors.items()}, state
    )
    assert trained(tmp_path / "crashed") == 0
    assert not same_weights(tmp_path / "whole", tmp_path / "crashed")


def test_a_finished_run_is_told_again_and_not_trained_again(tmp_path, monkeypatch, capsys):
    assert trained(tmp_path / "run") == 0
    before, said = (tmp_path / "run" / "log.jsonl").read_text(), capsys.readouterr().out
    monkeypatch.setattr(trainer, "descend", None)
    assert trained(tmp_path / "run") == 0
    assert (tmp_path / "run" / "log.jsonl").read_text() == before
    assert capsys.readouterr().out.strip() in said


def test_a_crash_at_the_very_end_is_mended(tmp_path, monkeypatch):
    assert trained(tmp_path / "whole") == 0
    real = trainer.save
    monkeypatch.setattr(trainer, "save", lambda model, out: (_ for _ in ()).throw(Crash))
    with pytest.raises(Crash):
        trained(tmp_path / "run")
    monkeypatch.setattr(trainer, "save", real)
    assert trained(tmp_path / "run") == 0
    assert same_weights(tmp_path / "whole", tmp_path / "run")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_writes_a_checkpoint_and_says_how_to_go_on(tmp_path, monkeypatch, capsys, number):
    assert trained(tmp_path / "whole") == 0
    real = trainer.descend

    def descend(model, adam, recipe, step, *rest):
        if step == 6:
            os.kill(os.getpid(), number)
        return real(model, adam, recipe, step, *rest)

    monkeypatch.setattr(trainer, "descend", descend)
    assert trained(tmp_path / "run") == 130
    said = capsys.readouterr().out
    assert "stopped after step 7 of 12" in said and "python -m qkvtheory train" in said
    assert folder.checkpoints(tmp_path / "run")[-1].name == "00000007.safetensors"
    monkeypatch.setattr(trainer, "descend", real)
    assert trained(tmp_path / "run") == 0
    assert same_weights(tmp_path / "whole", tmp_path / "run")
    assert losses(tmp_path / "whole") == losses(tmp_path / "run"), "also of the line that was half done"


def test_a_second_signal_stops_at_once():
    with trainer.Interruption() as interruption:
        os.kill(os.getpid(), signal.SIGINT)
        assert interruption.asked == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)


@pytest.mark.slow
def test_a_killed_process_goes_on(tmp_path):
    options = ["train", *TEXT, "--steps", "200", "--every", "20", "--log-every", "10", "--out"]
    command = [sys.executable, "-m", "qkvtheory", *options, str(tmp_path / "killed")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    while len(folder.checkpoints(tmp_path / "killed")) < 2:
        assert process.poll() is None, "it must be killed in the middle"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "result.json").exists()
    assert main([*options, str(tmp_path / "killed")]) == 0
    assert main([*options, str(tmp_path / "whole")]) == 0
    assert same_weights(tmp_path / "whole", tmp_path / "killed")
    assert losses(tmp_path / "whole") == losses(tmp_path / "killed")


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def crashed(tmp_path, monkeypatch, capsys):
    """A run with checkpoints at 4 and 8, and no more."""
    restore = crash_after(monkeypatch, 9)
    with pytest.raises(Crash):
        trained(tmp_path / "run")
    restore()
    capsys.readouterr()
    return tmp_path / "run"


@pytest.mark.parametrize("left", [0, 7, 200, -1])
def test_a_checkpoint_that_is_cut_short_is_named_and_the_one_before_takes_over(crashed, capsys, left):
    last = folder.checkpoints(crashed)[-1]
    last.write_bytes(last.read_bytes()[:left])
    assert trained(crashed) == 2
    said = capsys.readouterr().err
    assert str(last) in said and "Delete it" in said and "00000004.safetensors" in said and "Traceback" not in said
    last.unlink()
    assert trained(crashed) == 0
    assert [line["step"] for line in folder.read_log(crashed) if line.get("event") == "resumed"] == [4]


@pytest.mark.parametrize("change", ["lacks", "shape", "no state", "state"])
def test_a_checkpoint_that_does_not_fit_is_refused(crashed, capsys, change):
    last = folder.checkpoints(crashed)[-1]
    tensors, state = folder.read_checkpoint(last)
    if change == "lacks":
        del tensors["first/embedding"]
    if change == "shape":
        tensors["weight/embedding"] = torch.zeros(3, 3)
    if change == "state":
        del state["losses"]
    safetensors.save_file(tensors, last, None if change == "no state" else {"state": json.dumps(state)})
    assert trained(crashed) == 2
    assert str(last) in capsys.readouterr().err


def test_nothing_of_a_checkpoint_is_unpickled():
    sources = [p.read_text() for p in Path(train.__file__).parent.glob("*.py")]
    assert not any(re.search(r"torch\.load\(|import pickle|pickle\.load", text) for text in sources)


def test_a_crash_while_writing_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    tensors = {"a": torch.zeros(4)}
    folder.write_checkpoint(tmp_path, tensors, {"step": 1})

    def half(path, write):
        path.with_name(path.name + ".part").write_bytes(b"half")
        raise Crash

    real = folder.write_whole
    monkeypatch.setattr(folder, "write_whole", half)
    with pytest.raises(Crash):
        folder.write_checkpoint(tmp_path, tensors, {"step": 2})
    monkeypatch.setattr(folder, "write_whole", real)
    assert [p.name for p in folder.checkpoints(tmp_path)] == ["00000001.safetensors"]
    folder.write_checkpoint(tmp_path, tensors, {"step": 3})
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2, "the half file is cleared away"


def test_a_half_line_in_the_log_is_no_harm(tmp_path):
    folder.append(tmp_path, {"step": 1})
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"step": 2, "lo')
    folder.append(tmp_path, {"event": "resumed", "step": 1})
    folder.append(tmp_path, {"step": 2})
    assert [line["step"] for line in folder.read_log(tmp_path)] == [1, 1, 2]


def test_steps_that_were_done_again_count_once(tmp_path):
    for line in ({"step": 1}, {"step": 2, "loss": 5}, {"event": "resumed", "step": 1}, {"step": 2, "loss": 5}):
        folder.append(tmp_path, line)
    assert [line["step"] for line in folder.read_log(tmp_path) if "event" not in line] == [1, 2]


@pytest.mark.parametrize("change", [["--seed", "1"], ["--rate", "0.01"], ["--variant", "MQA"], ["--data", "own"]])
def test_another_run_in_the_folder_is_not_touched(crashed, capsys, tmp_path, change):
    if change[1] == "own":
        change[1] = str(tmp_path / "own.txt")
        Path(change[1]).write_text("".join(f"Line {i} of a text.\n" for i in range(9000)))
    before = {p: p.read_bytes() for p in crashed.rglob("*") if p.is_file()}
    assert trained(crashed, *TEXT, *SHORT, *change) == 2
    said = capsys.readouterr().err
    assert "holds another run; nothing was changed" in said and "--fresh" in said
    assert {p: p.read_bytes() for p in crashed.rglob("*") if p.is_file()} == before


def test_what_only_says_how_a_run_is_watched_may_change(crashed):
    assert trained(crashed, *TEXT, "--steps", "12", "--every", "6", "--log-every", "2", "--validation", "4") == 0


def test_fresh_removes_the_run_and_nothing_else(crashed):
    (crashed / "notes.txt").write_text("mine")
    assert trained(crashed, *TEXT, *SHORT, "--seed", "1", "--fresh") == 0
    assert (crashed / "notes.txt").read_text() == "mine"
    assert folder.read_log(crashed)[0]["recipe"]["seed"] == 1
    assert [p.name for p in folder.checkpoints(crashed)] == ["00000008.safetensors", "00000012.safetensors"]


@pytest.mark.parametrize("fresh", [[], ["--fresh"]])
def test_a_folder_with_other_files_is_refused(tmp_path, capsys, fresh):
    (tmp_path / "thesis.tex").write_text("years of work")
    assert trained(tmp_path, *TEXT, *SHORT, *fresh) == 2
    assert "thesis.tex" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_is_no_folder(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert trained(tmp_path / "file") == 2
    assert "is a file" in capsys.readouterr().err


def test_a_run_that_was_edited_is_refused(crashed, capsys):
    (crashed / "run.json").write_text("{")
    assert trained(crashed) == 2
    assert "run.json is not JSON" in capsys.readouterr().err


# -- mistakes ----------------------------------------------------------------------------------------------------------

MISTAKES = {
    "preset": (["--preset", "tyni"], "did you mean 'tiny'?"),
    "variant": (["--variant", "Q-K=W"], "did you mean"),
    "untrainable": (["--variant", "MLA"], "not for training"),
    "task": (["--task", "revers"], "did you mean 'reverse'?"),
    "missing file": (["--data", "no/such/file.txt"], "no/such/file.txt"),
    "heads": (["--heads", "3"], "does not split into 3 heads"),
    "query": (["--query", "linaer"], "query must be one of"),
    "precision": (["--precision", "fp8"], "precision must be one of"),
    "device": (["--device", "tpu"], "device must be"),
    "steps": (["--steps", "0"], "steps must be at least 1"),
    "every": (["--every", "0"], "every must be at least 1"),
    "validation": (["--validation", "0"], "validation must be at least 1"),
    "task and data": (["--task", "sort", "--data", "python"], "leave one of them out"),
    "task option": (["--length", "5"], "give --task"),
    "vocabulary of text": (["--vocab", "300"], "300"),
    "context": (["--context", "10000000"], "too short for a context"),
    "seed": (["--seed", "-1"], "seed"),
    "rate": (["--rate", "inf"], "rate must be a finite number, not inf"),
    "no rate": (["--rate", "0"], "rate must be above 0"),
    "clip": (["--clip", "nan"], "clip must be a finite number, not nan"),
    "decay": (["--weight-decay", "nan"], "weight_decay must be a finite number, not nan"),
    "decay below 0": (["--weight-decay", "-1"], "weight_decay must be at least 0, not -1"),
    "final": (["--final", "-3"], "final must be at least 0"),
    "warmup": (["--warmup", "-5"], "warmup must be at least 0"),
    "beta1": (["--beta1", "1.5"], "beta1 must be below 1, not 1.5"),
    "beta2": (["--beta2", "-0.1"], "beta2 must be at least 0"),
    "mlp": (["--mlp", "-1"], "mlp must be at least 0"),
    "infinite mlp": (["--mlp", "inf"], "mlp must be a finite number"),
    "zero byte": (["--data", "a\0b"], "without zero bytes"),
    "tied task": (["--task", "recall", "--tied"], "tied"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_explained_before_anything_is_written(tmp_path, capsys, name):
    options, expected = MISTAKES[name]
    data = [] if "task" in name else ["--data", "reference"]
    assert trained(tmp_path / "run", *data, *options) == 2
    said = capsys.readouterr().err
    assert expected in said and said.startswith("error: ") and "Traceback" not in said
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_no_gpu(tmp_path, capsys):
    assert trained(tmp_path / "run", *TEXT, "--device", "cuda") == 2
    said = capsys.readouterr().err
    assert "there is no GPU" in said and "--device cpu" in said


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=["gpu", "python", "processor"],
)
def test_out_of_memory_says_what_to_change_and_keeps_the_checkpoint(tmp_path, monkeypatch, capsys, error):
    real = trainer.descend

    def descend(model, adam, recipe, step, *rest):
        if step == 6:
            raise error
        return real(model, adam, recipe, step, *rest)

    monkeypatch.setattr(trainer, "descend", descend)
    assert trained(tmp_path / "run") == 2
    said = capsys.readouterr().err
    assert "out of memory" in said and "--batch 2 --accumulate 2" in said
    assert [p.name for p in folder.checkpoints(tmp_path / "run")] == ["00000004.safetensors"]


def test_other_errors_are_not_taken_for_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "descend", lambda *a: (_ for _ in ()).throw(RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        trained(tmp_path / "run")


def test_a_run_that_diverges_says_so_and_keeps_what_was_good(tmp_path, monkeypatch, capsys):
    real = trainer.descend

    def descend(model, adam, recipe, step, *rest):
        shares, length = real(model, adam, recipe, step, *rest)
        return [share * float("nan") for share in shares] if step == 6 else shares, length

    monkeypatch.setattr(trainer, "descend", descend)
    assert trained(tmp_path / "run") == 1
    assert "lower --rate" in capsys.readouterr().out
    assert [p.name for p in folder.checkpoints(tmp_path / "run")] == ["00000004.safetensors"]
    assert folder.read_log(tmp_path / "run")[-1]["event"] == "diverged"


@pytest.mark.parametrize("steps", ["4", "12"], ids=["first validation", "last validation"])
def test_a_validation_that_is_no_number_ends_the_run_before_a_checkpoint(tmp_path, monkeypatch, steps):
    real = trainer.descend

    def descend(model, adam, recipe, step, *rest):
        found = real(model, adam, recipe, step, *rest)
        if step + 1 == int(steps):
            with torch.no_grad():
                model.embedding.fill_(float("nan"))
        return found

    monkeypatch.setattr(trainer, "descend", descend)
    assert trained(tmp_path / "run", *TEXT, *SHORT[2:], "--steps", steps) == 1
    assert folder.read_log(tmp_path / "run")[-1] == {"event": "diverged", "step": int(steps)}
    kept = folder.checkpoints(tmp_path / "run")
    assert all(t.isfinite().all() for path in kept for t in folder.read_checkpoint(path)[0].values())
    assert [p.stem for p in kept] == ([] if steps == "4" else ["00000004", "00000008"])
    assert not (tmp_path / "run" / "result.json").exists() and "NaN" not in (tmp_path / "run" / "log.jsonl").read_text()


def test_a_gradient_that_is_no_number_ends_the_run(tmp_path, monkeypatch):
    real = trainer.descend
    monkeypatch.setattr(trainer, "descend", lambda *a: (real(*a)[0], torch.tensor(float("inf"))))
    assert trained(tmp_path / "run") == 1
    assert "Infinity" not in (tmp_path / "run" / "log.jsonl").read_text()


def test_the_end_stores_no_result_that_is_no_number(tmp_path, monkeypatch):
    """Also where the last checkpoint, from elsewhere, holds none."""
    real = trainer.save
    monkeypatch.setattr(trainer, "save", lambda model, out: (_ for _ in ()).throw(Crash))
    with pytest.raises(Crash):
        trained(tmp_path / "run")
    monkeypatch.setattr(trainer, "save", real)
    tensors, state = folder.read_checkpoint(folder.checkpoints(tmp_path / "run")[-1])
    folder.write_checkpoint(tmp_path / "run", {name: t * float("nan") for name, t in tensors.items()}, state)
    assert trained(tmp_path / "run") == 1
    assert not (tmp_path / "run" / "result.json").exists() and not (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("finite", [True, False])
def test_all_processes_take_the_word_of_the_first(tmp_path, monkeypatch, rank, finite):
    """Each of two processes broadcasts once for a validation, and goes on or ends as the first says."""
    heard = []
    monkeypatch.setattr(trainer.Team, "heard", lambda self, number, device: heard.append(number) or int(not finite))
    source = trainer.Source(None, lambda *_: {"loss": 1.0 if finite else float("nan")}, {}, {})
    made = trainer.Plan(Config(context=8, layers=1, d=16, heads=2), Recipe(batch=4), source)
    run = trainer.Run(made, tmp_path, torch.device("cpu"), trainer.Team(rank, 2), "", True, "")
    if finite:
        assert run.measured() == ({} if rank else {"loss": 1.0})
    else:
        with pytest.raises(trainer.Followed if rank else trainer.Diverged):
            run.measured()
    assert heard == [int(not finite and rank == 0)]


def test_a_model_without_an_mlp_is_trained_to_the_end(tmp_path):
    assert trained(tmp_path / "run", *TEXT, *SHORT, "--mlp", "0") == 0
    assert json.loads((tmp_path / "run" / "result.json").read_text())["cache_bytes_per_token"] == 2 * 16 * 4


@pytest.mark.parametrize("out", ["", "a\0b"])
@pytest.mark.parametrize("command", ["train", "sweep"])
def test_a_folder_needs_a_name(tmp_path, monkeypatch, capsys, command, out):
    monkeypatch.chdir(tmp_path)
    (tmp_path.parent / "grid.json").write_text(json.dumps(GRID))
    given = [*TEXT, *SHORT] if command == "train" else ["../grid.json"]
    assert main([command, *given, "--out", out]) == 2
    said = capsys.readouterr().err
    assert "no name of a folder" in said and "codec" not in said and not list(tmp_path.iterdir())


def test_what_was_written_is_mentioned_where_something_was(tmp_path, monkeypatch, capsys):
    options = [*TEXT[:-4], "--data", str(tmp_path / "none.txt"), "--out", str(tmp_path / "run")]
    for there in (False, True):
        if there:
            (tmp_path / "run").mkdir()
        assert main(["train", *options]) == 2
        assert ("what was written before stays" in capsys.readouterr().err) == there


def test_without_torch_the_options_are_there_and_a_run_says_what_to_install(tmp_path):
    """In a process of its own: PyTorch is loaded here already."""
    code = (
        "import sys; sys.modules['torch'] = None\nfrom qkvtheory.cli import main\n"
        "print(main(['train', '--out', sys.argv[1]]), main(['sweep', sys.argv[2], '--out', sys.argv[1]]))"
    )
    grid = tmp_path / "grid.json"
    grid.write_text('{"preset": "tiny"}')
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "run"), str(grid)], cwd=ROOT, capture_output=True, text=True
    )
    assert run.stdout.split() == ["2", "2"] and run.stderr.count("pip install torch") == 2
    assert not (tmp_path / "run").exists()


# -- options -----------------------------------------------------------------------------------------------------------


def test_every_field_of_config_and_recipe_is_a_setting():
    by_data = {"outputs", "inputs", "pool"}  # a task knows them
    assert set(train.MODEL) == {f.name for f in fields(Config)} - by_data
    assert set(train.RECIPE) == {f.name for f in fields(Recipe)}
    assert set(train.TASK) == {f.name for f in fields(tasks.Task)} - {"name"}
    for group, of in ((train.MODEL, Config), (train.RECIPE, Recipe), (train.TASK, tasks.Task)):
        kinds = {f.name: f.type for f in fields(of)}
        assert all(kinds[name].startswith(kind.__name__) for name, (kind, _) in group.items())


@pytest.mark.parametrize("preset", train.PRESETS)
def test_presets_are_settings(preset):
    train.check(train.PRESETS[preset])
    trainer.Recipe(**{name: value for name, value in train.PRESETS[preset].items() if name in train.RECIPE})


def test_the_large_preset_is_the_published_shape():
    from qkvtheory.count import preset

    ours, theirs = train.PRESETS["gpt2"], preset("gpt2")
    assert (ours["layers"], ours["d"], ours["heads"]) == (theirs.layers, theirs.width, theirs.heads)
    assert ours["context"] == theirs.context
    assert ours["batch"] * ours["accumulate"] * ours["context"] == 491_520, "tokens of a step, as nanoGPT has them"


def test_what_is_given_wins_over_the_preset():
    made = train.plan({"preset": "small", "data": "reference", "layers": 3, "rate": 0.5})
    assert (made.config.layers, made.config.d, made.recipe.rate, made.recipe.steps) == (3, 128, 0.5, 4000)


def test_validation_windows_lie_all_over_the_text():
    starts = trainer.spread(10_001, 100, 10)
    assert starts[0] == 0 and starts[-1] == 9_900 and min(np.diff(starts)) >= 100
    assert len(trainer.spread(301, 100, 10)) == 3


def test_flops_are_those_of_nanogpt():
    """Its estimate for GPT-2: 6 N + 12 L H Q T with N without the table of positions."""
    model = Model(Config(vocab=64, context=8, layers=2, d=16, heads=4))
    n = sum(p.numel() for name, p in model.named_parameters() if name != "positions")
    assert trainer.flops_per_token(model) == 6 * n + 12 * 2 * 4 * 4 * 8


# -- several processes -------------------------------------------------------------------------------------------------


def together(out, *options):
    """The same command under torchrun, two gloo processes with one thread each."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "qkvtheory"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [*launch, "train", *options, "--out", str(out)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
@pytest.mark.parametrize("options", [TEXT, [*TASK, "--accumulate", "2"]], ids=["text", "accumulated task"])
def test_two_processes_match_one(tmp_path, options):
    assert trained(tmp_path / "one", *options, *SHORT) == 0
    run = together(tmp_path / "two", *options, *SHORT)
    assert run.returncode == 0, run.stderr
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 2e-6
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-6)
    started = [line for line in folder.read_log(tmp_path / "two") if line.get("event") == "started"]
    assert len(started) == 1 and started[0]["provenance"]["processes"] == 2, "only the first process writes"
    assert started[0]["provenance"]["command"].startswith("torchrun --nproc_per_node=2 -m qkvtheory train ")


@pytest.mark.slow
def test_two_processes_go_on_where_one_was(crashed, tmp_path):
    whole = tmp_path / "whole"
    assert trained(whole) == 0
    run = together(crashed, *TEXT, *SHORT)
    assert run.returncode == 0, run.stderr
    one, two = weights(whole), weights(crashed)
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 2e-6


def test_a_batch_is_shared_by_rows():
    x, y = np.arange(8).reshape(4, 2), np.arange(4)
    shares = [trainer.Team(rank, 2).share((x, y)) for rank in (0, 1)]
    assert [y.tolist() for _, y in shares] == [[0, 1], [2, 3]]
    assert np.array_equal(np.concatenate([x for x, _ in shares]), x)


def test_a_batch_that_cannot_be_shared(tmp_path):
    with pytest.raises(ValueError, match="does not split among 3 processes"):
        made = train.plan({"data": "reference", "batch": 4})
        trainer.Run(made, tmp_path / "run", torch.device("cpu"), trainer.Team(0, 3), "", True, "")


# -- sweeps ------------------------------------------------------------------------------------------------------------

GRID = {
    **{"layers": 1, "d": 16, "heads": 2, "context": 16, "data": "reference", "validation": 8, "warmup": 2},
    **{"batch": 4, "steps": 6, "every": 3, "variant": ["QKV", "(Q=K-V)+"], "seeds": [0, 1]},
}


def swept(tmp_path, grid, name="grid.json"):
    text = json.dumps(grid) if isinstance(grid, dict) else grid
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return main(["sweep", str(tmp_path / name), "--out", str(tmp_path / "sweep")])


def test_a_sweep_trains_every_point_and_sums_up(tmp_path, capsys):
    assert swept(tmp_path, GRID) == 0
    said = capsys.readouterr().out
    names = [f"variant-{v}_seed-{s}" for v in GRID["variant"] for s in (0, 1)]
    assert all(f"[{i}/4] {name}: loss" in said for i, name in enumerate(names, 1))
    summary = json.loads((tmp_path / "sweep" / "summary.json").read_text())
    assert [row["run"] for row in summary["runs"]] == names
    for group in summary["groups"]:
        found = [r["loss"] for r in summary["runs"] if r["variant"] == group["variant"]]
        assert group["loss"] == {"mean": pytest.approx(np.mean(found)), "spread": pytest.approx(np.std(found, ddof=1))}
        assert group["runs"] == 2 and f"{group['loss']['mean']:.4f} +- {group['loss']['spread']:.4f}" in said
    single = tmp_path / "single"
    options = [f"--{k}={v}" for k, v in GRID.items() if not isinstance(v, list)]
    assert main(["train", *options, "--variant", "QKV", "--seed", "1", "--out", str(single)]) == 0
    assert same_weights(single, tmp_path / "sweep" / names[1]), "a run of a sweep is the run of train"


def test_a_sweep_goes_on_and_may_grow(tmp_path, monkeypatch):
    assert swept(tmp_path, GRID | {"variant": ["QKV"]}) == 0
    trained_again = []
    real = trainer.Run.steps
    monkeypatch.setattr(trainer.Run, "steps", lambda self, show: (trained_again.append(self.name), real(self, show)))
    assert swept(tmp_path, GRID | {"variant": ["QKV", "MQA"]}) == 0
    assert trained_again == ["variant-MQA_seed-0", "variant-MQA_seed-1"]


def test_a_failed_run_is_recorded_and_the_others_go_on(tmp_path, capsys):
    assert swept(tmp_path, GRID | {"variant": ["MLA", "QKV"], "seeds": [0]}) == 1
    said = capsys.readouterr().out
    assert "[1/2] variant-MLA_seed-0: FAILED: the variant MLA is not for training" in said
    summary = json.loads((tmp_path / "sweep" / "summary.json").read_text())
    assert "not for training" in summary["runs"][0]["reason"] and summary["runs"][1]["loss"] > 0
    assert [group["failed"] for group in summary["groups"]] == [1, 0]


def test_sizes_that_mean_nothing_fail_alone(tmp_path):
    assert swept(tmp_path, GRID | {"variant": "QKV", "seeds": [0], "mlp": [-1, float("inf"), 10**400, 1e300, 4]}) == 1
    runs = json.loads((tmp_path / "sweep" / "summary.json").read_text())["runs"]
    assert ["mlp" in row.get("reason", "") for row in runs] == [True, True, True, True, False]
    assert runs[-1]["loss"] > 0


def test_a_sweep_that_is_stopped_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    real = trainer.descend

    def descend(model, adam, recipe, step, *rest):
        if step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return real(model, adam, recipe, step, *rest)

    monkeypatch.setattr(trainer, "descend", descend)
    assert swept(tmp_path, GRID) == 130
    assert "the same command goes on" in capsys.readouterr().out
    monkeypatch.setattr(trainer, "descend", real)
    assert swept(tmp_path, GRID) == 0


def test_a_grid_in_toml(tmp_path):
    lines = [f"{name} = {json.dumps(value)}" for name, value in (GRID | {"variant": ["QKV"], "seeds": [0]}).items()]
    assert swept(tmp_path, "\n".join(lines), "grid.toml") == 0
    assert (tmp_path / "sweep" / "variant-QKV_seed-0" / "result.json").is_file()


BAD_GRIDS = {
    "unknown key": ({"preset": "tiny", "varint": ["QKV"]}, "did you mean 'variant'?"),
    "type": ({"layers": ["two"]}, "layers must be a whole number, not 'two'"),
    "boolean": ({"layers": True}, "layers must be a whole number, not True"),
    "empty list": ({"variant": []}, 'the list of "variant" is empty'),
    "twice": ({"seed": [0], "seeds": [1]}, "mean the same"),
    "same name": ({"seed": [0, 0]}, "two runs would be called seed-0"),
    "not JSON": ("{", "is not JSON"),
    "no text": (b"\xff", "grid.json is not JSON: 'utf-8' codec"),
    "nested": ("[" * 100_000, "grid.json is not JSON"),
    "no object": ("[]", "must hold settings"),
    "preset": ({"preset": ["tinny"]}, "did you mean 'tiny'?"),
}


@pytest.mark.parametrize("name", BAD_GRIDS)
def test_a_bad_grid_is_refused_before_any_run(tmp_path, capsys, name):
    grid, expected = BAD_GRIDS[name]
    assert swept(tmp_path, grid) == 2
    said = capsys.readouterr().err
    assert expected in said and "Traceback" not in said
    assert not (tmp_path / "sweep").exists()


def test_a_missing_grid_and_a_foreign_folder(tmp_path, capsys):
    assert main(["sweep", str(tmp_path / "none.json"), "--out", str(tmp_path / "sweep")]) == 2
    said = capsys.readouterr().err
    assert "there is no grid file" in said and "written before" not in said
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "mine").touch()
    assert swept(tmp_path, GRID) == 2
    assert "holds no sweep" in capsys.readouterr().err


def test_help_names_every_setting(capsys):
    parser = argparse.ArgumentParser()
    train.options(parser)
    text = parser.format_help()
    assert all(train.flag(name) in text for name in train.SETTINGS)
