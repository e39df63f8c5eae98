"""Reading a config.json: what is read, what is refused, and how a family that was not checked is treated."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qkvtheory import count
from qkvtheory.count import ConfigError, huggingface
from qkvtheory.count.presets import stored

LLAMA = stored()["llama-3-8b"]["config"]
GPT2 = stored()["gpt2"]["config"]
DEEPSEEK = stored()["deepseek-v2"]["config"]
MIXTRAL = stored()["mixtral-8x7b"]["config"]


def without(config: dict, *keys: str) -> dict:
    return {name: value for name, value in config.items() if name not in keys}


# -- what is read ------------------------------------------------------------------------------------------------------


def test_sizes_in_the_terms_of_the_field():
    config = count.read(LLAMA)
    assert (config.layers, config.width, config.heads, config.groups, config.head_width) == (32, 4096, 32, 8, 128)
    assert (config.hidden, config.vocabulary, config.gated, config.tied) == (14336, 128256, True, False)
    assert count.read(DEEPSEEK).mla == count.Latent(512, 64, 128, 128, query=1536, normed=True)
    assert count.read(MIXTRAL).experts == count.Experts(8, 2, 14336)


def test_latent_attention_has_no_groups_whatever_the_file_says():
    config = count.read({**DEEPSEEK, "num_key_value_heads": 1})
    assert config == count.read(DEEPSEEK)
    assert count.saved(config) == count.saved(count.preset("deepseek-v2"))


def test_null_is_as_good_as_absent():
    assert count.read({**GPT2, "n_inner": None}) == count.read(GPT2)
    assert count.read({**LLAMA, "head_dim": None}) == count.read(LLAMA)
    assert count.read({**LLAMA, "num_key_value_heads": None}).groups == 32


def test_a_key_by_its_other_name_says_the_same():
    renamed = {"num_hidden_layers": 12, "hidden_size": 768, "num_attention_heads": 12, "max_position_embeddings": 1024}
    assert count.read({**without(GPT2, "n_layer", "n_embd", "n_head", "n_positions"), **renamed}) == count.read(GPT2)


def test_a_text_model_inside_another():
    config = count.read({"model_type": "llava", "text_config": LLAMA, "vision_config": {}})
    assert count.parameters(config) == count.parameters(count.read(LLAMA))
    assert config.notes == ("only the language model in text_config is counted",)


def test_a_family_that_was_not_checked_is_read_by_the_common_keys():
    config = count.read({**without(LLAMA, "model_type"), "model_type": "new"})
    assert count.parameters(config) == count.parameters(count.read(LLAMA))
    assert "model_type 'new' is not one that was checked; assumed: an MLP with a gate, two RMS norms" in config.notes[0]
    plain = count.read({**GPT2, "model_type": "newer", "n_inner": 3072})
    assert count.parameters(plain) == count.parameters(count.read(GPT2))
    assert "a learned table of positions" in plain.notes[0]
    experts = count.read({**MIXTRAL, "model_type": "newest"})
    assert count.parameters(experts) == count.parameters(count.read(MIXTRAL))
    assert "experts in every layer" in experts.notes[0]


KIMI = {**stored()["deepseek-v3"]["config"], "model_type": "kimi_k2"}
WINDOWED = {**LLAMA, "model_type": "new", "sliding_window": 1024}
SOME = ["sliding_attention"] * 20 + ["full_attention"] * 12


def test_latents_and_experts_are_read_in_a_family_that_was_not_checked():
    guessed, known = count.read(KIMI), count.preset("deepseek-v3")
    assert count.parameters(guessed) == count.parameters(known)
    assert count.cache_bytes(guessed) == count.cache_bytes(known)
    assert "experts in every layer after the first 3" in guessed.notes[0]
    assert "a norm on each latent" in guessed.notes[0]
    assert "ignored" not in guessed.notes[0]
    with pytest.raises(ConfigError, match="qk_rope_head_dim: is missing"):
        count.read(without(KIMI, "qk_rope_head_dim"))


@pytest.mark.parametrize(("changes", "windowed"), [
    ({"layer_types": SOME}, 20),
    ({"layer_types": SOME, "use_sliding_window": True}, 20),
    ({"sliding_window_pattern": 6}, 27),
    ({"sliding_window_pattern": 4}, 24),
    ({"sliding_window_pattern": 4, "layer_types": SOME}, 20),
    ({"use_sliding_window": False, "max_window_layers": 28}, 0),
    ({"sliding_window": None, "max_window_layers": 28}, 0),
    ({"sliding_window": None, "layer_types": ["full_attention"] * 32}, 0),
])  # fmt: skip
def test_windows_are_read_in_a_family_that_was_not_checked(changes, windowed):
    config = count.read({**WINDOWED, **changes})
    assert (config.window, config.windowed) == ((1024, windowed) if windowed else (None, 0))
    assert "ignored" not in config.notes[0]


@pytest.mark.parametrize(("changes", "ignored"), [
    ({}, "sliding_window"),
    ({"use_sliding_window": True, "max_window_layers": 28}, "sliding_window, use_sliding_window, max_window_layers"),
    ({"sliding_window_pattern": "LLLG"}, "sliding_window, sliding_window_pattern"),
    ({"sliding_window_pattern": True}, "sliding_window, sliding_window_pattern"),
    ({"layer_types": [*SOME[1:], "linear_attention"]}, "sliding_window, layer_types"),
    ({"sliding_window": None, "layer_types": SOME}, "layer_types"),
    ({"sliding_window": None, "layer_types": ["linear_attention"] * 32}, "layer_types"),
    ({"sliding_window": None, "q_lora_rank": 8, "qk_rope_head_dim": 4}, "q_lora_rank, qk_rope_head_dim"),
    ({"sliding_window": None, "n_shared_experts": 1, "decoder_sparse_step": 1}, "n_shared_experts"),
    ({"sliding_window": None, "decoder_sparse_step": 2, "mlp_only_layers": []}, "decoder_sparse_step"),
    ({"sliding_window": None, "multi_query": True}, "multi_query"),
])  # fmt: skip
def test_what_is_ignored_in_a_family_that_was_not_checked_is_said(changes, ignored):
    config = count.read({**WINDOWED, **changes})
    assert config.notes[0].endswith(f"; ignored: {ignored}")
    assert (config.window, config.windowed) == (None, 0)


@pytest.mark.parametrize("family", ["mistral", "mixtral", "qwen2", "qwen3", "gemma2", "phi3", "starcoder2"])
@pytest.mark.parametrize("used", [{}, {"use_sliding_window": True}, {"use_sliding_window": False}])
def test_a_window_that_the_file_does_not_give_is_the_one_of_the_class(family, used):
    transformers = pytest.importorskip("transformers")
    data = {**MIXTRAL, **used, "model_type": family, "num_hidden_layers": 30}
    del data["sliding_window"]
    theirs = transformers.AutoConfig.for_model(**data, pad_token_id=0)
    kinds = getattr(theirs, "layer_types", None) or ["sliding_attention"] * 30
    windowed = kinds.count("sliding_attention") if theirs.sliding_window else 0
    ours = count.read(data)
    assert (ours.window, ours.windowed) == ((theirs.sliding_window, windowed) if windowed else (ours.window, 0))
    assert count.read({**data, "sliding_window": None}).windowed == 0
    assert count.read({**data, "sliding_window": None}).window is None


def test_first_layers_without_a_window_are_28_unless_the_file_says_otherwise():
    windows = {**LLAMA, "model_type": "qwen2", "use_sliding_window": True}
    assert [count.read({**windows, "num_hidden_layers": n}).windowed for n in (32, 28, 20)] == [4, 0, 0]
    assert count.read({**windows, "max_window_layers": 0}).windowed == 32


def test_more_dense_layers_than_layers_are_all_of_them():
    every = count.read({**DEEPSEEK, "first_k_dense_replace": 60})
    assert every.experts.dense_layers == every.layers == 60
    assert count.read({**DEEPSEEK, "first_k_dense_replace": 61}) == every


def test_every_key_is_documented():
    rows = count.documented_keys()
    assert {row["symbol"] for row in rows} >= {"L", "d", "H", "g", "d_h", "m", "v"}
    read = {name for row in rows for name in row["keys"].split(", ")}
    sizes = {name for entry in stored().values() for name, value in entry["config"].items() if type(value) is int}
    assert sizes - read == {"moe_layer_freq"}


def test_files_and_folders(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("\ufeff" + json.dumps(LLAMA), encoding="utf-8")
    by_folder, by_file = count.load(folder), count.load(str(folder / "config.json"))
    assert by_folder == by_file
    assert by_folder.name == "model"


# -- what is refused ---------------------------------------------------------------------------------------------------


REFUSED = {
    "a size missing": (without(LLAMA, "hidden_size"), "hidden_size: is missing; a count needs it (also read: n_embd"),
    "a size null": ({**LLAMA, "vocab_size": None}, "vocab_size: is null"),
    "no MLP": (without(LLAMA, "intermediate_size"), "intermediate_size: is missing"),
    "a word": ({**LLAMA, "num_attention_heads": "32"}, "num_attention_heads: expected a whole number, not '32'"),
    "a fraction": ({**LLAMA, "hidden_size": 4096.0}, "hidden_size: expected a whole number, not 4096.0"),
    "a switch": ({**LLAMA, "hidden_size": True}, "hidden_size: expected a whole number, not True"),
    "a list": ({**LLAMA, "num_hidden_layers": [32]}, "num_hidden_layers: expected a whole number, not [32]"),
    "zero": ({**LLAMA, "num_hidden_layers": 0}, "num_hidden_layers: expected a number from 1"),
    "negative": ({**GPT2, "n_layer": -12}, "n_layer: expected a number from 1"),
    "enormous": ({**LLAMA, "hidden_size": 10**400}, "hidden_size: expected a number from 1"),
    "its own name": ({**GPT2, "n_embd": "x"}, "n_embd: expected a whole number"),
    "a switch that is a number": ({**LLAMA, "attention_bias": 1}, "attention_bias: expected true or false, not 1"),
    "a tie that is a word": ({**LLAMA, "tie_word_embeddings": "no"}, "tie_word_embeddings: expected true or false"),
    "groups": ({**LLAMA, "num_key_value_heads": 5}, "num_key_value_heads: 5 key/value heads do not divide 32"),
    "more groups than heads": ({**LLAMA, "num_key_value_heads": 64}, "num_key_value_heads: 64 key/value heads"),
    "heads": ({**LLAMA, "num_attention_heads": 24}, "num_attention_heads: 24 heads do not divide hidden_size = 4096"),
    "groups that a family must say": (
        without(stored()["mistral-7b"]["config"], "num_key_value_heads"),
        "num_key_value_heads: is missing",
    ),
    "an encoder-decoder": ({**LLAMA, "is_encoder_decoder": True}, "is_encoder_decoder: models with an encoder"),
    "cross-attention": ({**GPT2, "add_cross_attention": True}, "add_cross_attention: cross-attention is not counted"),
    "a model_type of another kind": ({**LLAMA, "model_type": ["llama"]}, "model_type: expected a name"),
    "no latent": (without(DEEPSEEK, "kv_lora_rank"), "kv_lora_rank: is missing"),
    "more experts than there are": ({**MIXTRAL, "num_experts_per_tok": 9}, "num_experts_per_tok: a token cannot use 9"),
    "experts now and then": ({**DEEPSEEK, "moe_layer_freq": 2}, "moe_layer_freq: only 1 is counted"),
    "layer types": (
        {**stored()["gemma-2-9b"]["config"], "layer_types": ["full_attention"]},
        "layer_types: expected a list with one entry for each of 42 layers",
    ),
    "norms of falcon": (
        {"model_type": "falcon", **without(LLAMA, "model_type"), "num_ln_in_parallel_attn": "two"},
        "num_ln_in_parallel_attn: expected a whole number",
    ),
    "no norm in falcon": (
        {"model_type": "falcon", **without(LLAMA, "model_type"), "num_ln_in_parallel_attn": 0},
        "num_ln_in_parallel_attn: expected a number from 1",
    ),
    "another architecture": ({"model_type": "mamba", "d_model": 8, "n_layer": 2}, "num_attention_heads: is missing"),
    "not an object": ([1, 2], "config.json: expected a JSON object with the keys of a configuration, not [1, 2]"),
}


@pytest.mark.parametrize(("data", "message"), REFUSED.values(), ids=REFUSED)
def test_a_bad_key_is_named(data, message):
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
        count.read(data)


FILES = {
    "not JSON": (b"{'hidden_size': 1}", "is not JSON"),
    "empty": (b"", "is not JSON"),
    "not text": (b"\xff\xfe\x00\x01", "is not JSON"),
    "too deep": (b"[" * 100_000, "is not JSON"),
    "a number of a million digits": (b'{"hidden_size": 1' + b"0" * 10**6 + b"}", "is not JSON"),
    "no object": (b"42", "expected a JSON object"),
    "twice": (b'{"n_layer": 2, "n_layer": 3}', "'n_layer': is there twice, as 2 and 3; keep one"),
    "twice inside": (b'{"a": {"b": 1, "b": null}}', "'b': is there twice"),
    "too large": (b" " * (huggingface.LARGEST_FILE + 1), "bytes; a configuration has a few thousand"),
}


@pytest.mark.parametrize(("content", "message"), FILES.values(), ids=FILES)
def test_a_bad_file_is_refused(content, message, tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        count.load(path)


def test_a_place_without_a_configuration_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="there is no such file"):
        count.load(tmp_path / "none.json")
    with pytest.raises(ConfigError, match=r"the folder has no config\.json$"):
        count.load(tmp_path)
    (tmp_path / "confg.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"did you mean '.*confg\.json'"):
        count.load(tmp_path)
    with pytest.raises(ConfigError, match="config: no name is given"):
        count.load("")


def test_what_is_no_configuration_is_not_suggested(tmp_path):
    for name in ("container_info.json", "generation_config.json", "tokenizer_config.json"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "configs.json").mkdir()
    with pytest.raises(ConfigError, match=r"the folder has no config\.json$"):
        count.load(tmp_path)
    (tmp_path / "config.json").mkdir()
    with pytest.raises(ConfigError, match=r"the config\.json in it is a folder; expected a file$"):
        count.load(tmp_path)


def test_a_name_that_no_system_takes_is_refused():
    with pytest.raises(ConfigError, match=r"cannot be read|there is no such file"):
        count.load("a" * 10**4)


def test_the_folder_we_are_in_has_a_name(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    monkeypatch.chdir(tmp_path)
    assert count.load(".").name == count.load("config.json").name == tmp_path.name


def test_a_key_that_says_the_same_twice_is_no_matter(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA)[:-1] + ', "hidden_size": 4096}')
    assert replace(count.load(tmp_path), name="") == count.read(LLAMA)


@pytest.mark.skipif(os.name != "posix", reason="named pipes as POSIX has them")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(ConfigError, match="there is no such file"):
        count.load(tmp_path / "config.json")


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 100) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)
KEYS = sorted({name for key in huggingface.KEYS.values() for name in key.names} | {"layer_types", "attention_bias"})


@settings(deadline=None, max_examples=300)
@given(
    st.sampled_from([*huggingface.FAMILIES, "unknown"]),
    st.dictionaries(st.sampled_from(KEYS), st.integers(1, 64) | anything, max_size=6),
    st.booleans(),
)
def test_any_object_is_counted_or_refused_by_a_key(family, changes, whole):
    base = {name: 8 for name in KEYS if name not in ("layer_types", "attention_bias", "first_k_dense_replace")}
    try:
        config = count.read({**(base if whole else {}), **changes, "model_type": family})
    except ConfigError as refused:
        assert refused.key
        return
    assert count.parameters(config).total > 0
    assert count.cache_bytes(config, context=10) >= 0
