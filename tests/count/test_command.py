"""``python -m qkvtheory count``: what people see, what machines read, and what is refused."""

from __future__ import annotations

import json
import re

import pytest

from qkvtheory import count
from qkvtheory.cli import main
from qkvtheory.count.command import EXAMPLE
from qkvtheory.count.presets import stored
from qkvtheory.variants import KINDS

SMALL = ["count", "--preset", "three-projections-300m"]


def printed(capsys, *arguments: str) -> str:
    assert main(list(arguments)) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def rows(capsys, *arguments: str):
    return json.loads(printed(capsys, *arguments, "--json"))


def test_one_variant_that_a_model_cannot_take_leaves_the_others(capsys):
    assert main(["count", "--preset", "llama-3-8b", "--variant", "GQA-4", "slim", "GQA-5", "--json"]) == 2
    captured = capsys.readouterr()
    assert json.loads(captured.out)["variant"] == "GQA-4"
    assert "slim needs a key head" in captured.err and "GQA-5 needs 5 groups" in captured.err


def test_names_without_groups_say_whose_groups_they_keep(capsys):
    out = printed(capsys, "count", "--preset", "llama-3-8b", "--variant", "QKV", "Q-K=V")
    assert "note: the model has 8 key/value heads, which such names keep: QKV is GQA-8, Q-K=V is Q-GQA-8" in out
    assert "keep:" not in printed(capsys, *SMALL, "--variant", "QKV", "Q-K=V")
    assert "keep:" not in printed(capsys, "count", "--preset", "llama-3-8b", "--variant", "MHA", "MQA")


def test_a_table_for_people(capsys):
    out = printed(capsys, *SMALL, "--variant", "QKV", "Q-K=V", "Q-GQA-4")
    assert re.search(
        r"^three-projections-300m: L = 20, d = 1024, H = 16, g = 16, d_h = 64, m = 4096, v = 50304$", out, re.M
    )
    assert re.search(
        r"^QKV +305,534,976 +83,968,000 +27\.5% +792,689,901,568 .* 81,920 B +167\.77 MB +160\.00 MiB +0%$", out, re.M
    )
    assert re.search(r"^Q-K=V +284,542,976 +62,976,000 .* 40,960 B +83\.89 MB +80\.00 MiB +50%$", out, re.M)
    assert re.search(r"^Q-GQA-4 .* 87\.5%$", out, re.M)
    assert "2,048 tokens" in out
    assert "1 MB = 1,000,000 bytes, 1 MiB = 1,048,576 bytes" in out
    assert count.source("three-projections-300m") in out
    table = [line for line in out.splitlines() if line.startswith("Q")]
    assert len({len(line) for line in table}) == 1, "the columns are aligned"


def test_one_row_is_an_object_and_several_are_a_list(capsys):
    one = rows(capsys, *SMALL)
    assert one["preset"] == one["model"] == "three-projections-300m"
    assert (one["variant"], one["context"], one["batch"], one["bytes_per_number"]) == ("QKV", 2048, 1, 2)
    assert (one["params_total"], one["params_attention"], one["macs"]) == (305534976, 83968000, 792689901568)
    assert (one["cache_bytes_per_token"], one["cache_bytes"]) == (81920, 2048 * 81920)
    parts = ("attention", "mlp", "embeddings", "norms", "readout")
    assert sum(one[f"params_{part}"] for part in parts) == one["params_total"]
    two = rows(capsys, *SMALL, "--variant", "Q-K=V", "--variant", "Q=K=V")
    assert [row["params_total"] for row in two] == [284542976, 263550976]
    assert {tuple(row) for row in two} == {tuple(one)}


def test_context_batch_and_bytes(capsys):
    base = rows(capsys, *SMALL)["cache_bytes"]
    assert rows(capsys, *SMALL, "--context", "4096")["cache_bytes"] == 2 * base
    assert rows(capsys, *SMALL, "--batch", "3")["cache_bytes"] == 3 * base
    assert rows(capsys, *SMALL, "--dtype", "fp8")["cache_bytes"] == base // 2
    assert rows(capsys, *SMALL, "--dtype", "fp32") == rows(capsys, *SMALL, "--bytes-per-number", "4")
    out = printed(capsys, *SMALL, "--batch", "3", "--dtype", "fp8", "--context", "4096")
    assert "cache: 3 texts, 1 byte per number" in out
    assert "note: the model has 2,048 learned positions, fewer than 4,096 tokens" in out


def test_every_kind_of_variant_has_a_row(capsys):
    made = rows(capsys, *SMALL, "--variant", *KINDS, "(Q=K=V)+")
    assert [row["variant"] for row in made] == [*KINDS, "(Q=K=V)+"]
    notes = " ".join(made[0]["notes"])
    assert "MLA is counted with a latent of 256 (4 d_h) and a rotary key of 32 (d_h / 2)" in notes
    assert "QV-Ka is counted with a context of 64" in notes
    assert "10 channels and one bias" in notes


def test_notes_about_windows_encoders_and_unknown_families(capsys, tmp_path):
    assert "note: 21 of 42 layers keep the last 4,096 tokens only" in printed(capsys, "count", "--preset", "gemma-2-9b")
    out = printed(capsys, "count", "--preset", "bert-base")
    assert "note: an encoder reads all tokens at once and keeps no cache" in out
    assert re.search(r"^QKV .* - +0 B ", out, re.M)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**stored()["llama-3-8b"]["config"], "model_type": "later"}))
    assert "note: model_type 'later' is not one that was checked; assumed:" in printed(
        capsys, "count", "--config", str(path)
    )
    out = printed(capsys, "count", "--preset", "deepseek-v2", "--variant", "MLA", "MHA")
    assert re.search(r"^MLA .* 98\.2422%$", out, re.M)
    assert "note: QKV is counted with heads of width 128" in out


def test_a_window_is_noted_where_something_falls_out_of_it(capsys, tmp_path):
    for context, noted in ((4095, False), (4096, False), (4097, True)):
        out = printed(capsys, "count", "--preset", "mistral-7b", "--context", str(context))
        assert ("note: 32 of 32 layers keep the last 4,096 tokens only" in out) is noted


@pytest.mark.parametrize("name", ["\x1b[31mred", "\x9b2J", "turned\u202e", "two\nlines"])
def test_a_name_of_a_file_does_not_reach_the_terminal_as_it_is(name, capsys, tmp_path):
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps(stored()["llama-3-8b"]["config"]))
    out = printed(capsys, "count", "--config", str(path))
    assert all(c.isprintable() or c == "\n" for c in out)
    assert out.startswith(name.encode("unicode_escape").decode() + ": L = 32")
    out = printed(capsys, "count", "--config", str(path), "--json")
    assert all(c.isprintable() or c == "\n" for c in out)
    assert json.loads(out)["model"] == name


@pytest.mark.parametrize("name", count.names())
def test_a_preset_and_its_configuration_in_a_folder_count_the_same(name, capsys, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(stored()[name]["config"]))
    preset, file = rows(capsys, "count", "--preset", name), rows(capsys, "count", "--config", str(tmp_path))
    apart = ("preset", "config", "model")
    assert {k: v for k, v in preset.items() if k not in apart} == {k: v for k, v in file.items() if k not in apart}
    assert file["config"] == str(tmp_path)


def test_presets_are_listed_with_their_sources(capsys):
    out = printed(capsys, "count", "--presets")
    assert out == printed(capsys, "count", "--preset", "list")
    assert all(
        re.search(rf"^{re.escape(n)} +[\d,]+ parameters  {re.escape(count.source(n))}$", out, re.M)
        for n in count.names()
    )
    assert [row["preset"] for row in rows(capsys, "count", "--presets")] == list(count.names())


def test_the_example_in_the_help_runs(capsys):
    assert EXAMPLE.startswith("python -m qkvtheory count")
    assert "Q-MQA" in printed(capsys, *EXAMPLE.split()[3:])


@pytest.mark.parametrize(("arguments", "message"), [
    ([], "which model? give --preset NAME or --config FILE; 'count --presets' names the presets"),
    (["--preset", "lama-3-8b"], "there is no preset called 'lama-3-8b'; did you mean 'llama-3-8b'?"),
    (["--preset", "LLAMA-3-8B"], "did you mean 'llama-3-8b'?"),
    (["--preset", "?"], "expected one of three-projections-300m"),
    (["--preset", ""], "which model?"),
    (["--preset", "gpt2", "--variant", "KV"], "'KV' means Q=K-V in some places"),
    (["--preset", "gpt2", "--variant", "GQA-5"], "num_key_value_heads: GQA-5 needs 5 groups"),
    (["--preset", "llama-3-8b", "--variant", "slim"], "num_key_value_heads: slim needs a key head"),
    (["--preset", "llama-3-8b", "--variant", "Q=K-V"], "num_key_value_heads: Q=K-V needs a key head"),
    (["--preset", "gemma-7b", "--variant", "slim"], "head_dim: slim rebuilds values by the inverse of W_K"),
    (["--preset", "deepseek-v2", "--variant", "GQA-4"], "kv_lora_rank: this model has latent attention"),
    (["--preset", "gpt2", "--variant", "QKV", "QQ"], "there is no variant called 'QQ'"),
    (["--preset", "gpt2", "--context", "0"], "--context: expected a number from 1"),
    (["--preset", "gpt2", "--context", "1" + "0" * 100], "--context: expected a number from 1"),
    (["--preset", "gpt2", "--batch", "-1"], "--batch: expected a number from 1"),
    (["--preset", "gpt2", "--bytes-per-number", "0"], "--bytes-per-number: expected a number from 1"),
    (["--config", "no/such.json"], "no/such.json: there is no such file"),
    (["--config", ""], "error: config: no name is given; expected a config.json"),
    (["--config", "."], "error: .: the folder has no config.json"),
    (["--config", "\x1b[31m\x9b.json"], r"error: \x1b[31m\x9b.json: there is no such file"),
    (["--config", "a" * 10**4], "aaaa ... aaaa"),
    (["--preset", "\x1b[2J"], r"there is no preset called '\x1b[2J'"),
    (["--preset", "gpt2", "--variant", "Q\x1b[2J"], r"there is no variant called 'Q\x1b[2J'"),
    (["--preset", "gpt2", "--variant", "+" * 1500], "no variant"),
    (["--preset", "gpt2", "--variant", "(" * 1500], "no variant"),
    (["--preset", "gpt2", "--variant", "(" * 1500 + "Q=K" + ")+" * 1500], "no variant"),
    (["--preset", "gpt2", "--variant", "GQA-" + "9" * 5000], "no variant"),
    (["--preset", "gpt2", "--variant", "MHA" + "+" * 10**5], "no variant"),
    (["--preset", "gpt2", "--variant", "+"], "no variant called '+'"),
    (["--preset", "gpt2", "--variant", "()+"], "no variant called '()+'"),
    (["--preset", "gpt2", "--variant", ""], "no variant called ''"),
])  # fmt: skip
def test_bad_input_exits_with_two_and_says_what_to_do(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["count", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert message in captured.err
    assert captured.out == ""
    assert len(captured.err) < 2000
    assert all(c.isprintable() or c == "\n" for c in captured.err)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"model_type": "llama"}', '{"hidden_size": NaN}', "[" * 10**5])
def test_a_bad_file_exits_with_two(content, capsys, tmp_path):
    (tmp_path / "config.json").write_text(content)
    assert main(["count", "--config", str(tmp_path / "config.json")]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert len(captured.err) < 500


@pytest.mark.parametrize("arguments", [
    ["--preset", "gpt2", "--config", "config.json"],
    ["--preset", "gpt2", "--presets"],
    ["--preset", "gpt2", "--dtype", "fp8", "--bytes-per-number", "1"],
    ["--preset", "gpt2", "--dtype", "int3"],
    ["--preset", "gpt2", "--context", "many"],
    ["--preset", "gpt2", "--variant"],
])  # fmt: skip
def test_what_the_parser_refuses(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        main(["count", *arguments])
    assert end.value.code == 2
    assert "usage:" in capsys.readouterr().err
