"""Reading a config.json: what is read, what is refused, and how a family that was not checked is treated."""

from __future__ import annotations

import json
import os
import re

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
