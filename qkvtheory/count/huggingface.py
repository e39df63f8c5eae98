"""Read a Hugging Face ``config.json``: the keys of each family, as ``transformers`` reads them.

Only JSON is read, nothing is run, and every number is checked: a file from somewhere else can do no harm.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from qkvtheory.count.config import Config, ConfigError, Experts, Latent, check_size, shown

LARGEST_FILE = 4 * 2**20  # bytes; real ones have a few thousand
FILE = "config.json"


class Key(NamedTuple):
    """One number of a configuration: our name and symbol, the keys it is read from (the first found), its meaning."""

    field: str
    symbol: str
    names: tuple[str, ...]
    meaning: str


KEYS = {
    key.field: key
    for key in (
        Key("layers", "L", ("num_hidden_layers", "n_layer", "num_layers"), "layers"),
        Key("width", "d", ("hidden_size", "n_embd", "d_model"), "width of the stream"),
        Key("heads", "H", ("num_attention_heads", "n_head"), "query heads"),
        Key("groups", "g", ("num_key_value_heads", "num_kv_heads"), "key/value heads; H if absent"),
        Key("head_width", "d_h", ("head_dim",), "width of a head; d / H if absent"),
        Key("hidden", "m", ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size"), "hidden width of the MLP"),
        Key("vocabulary", "v", ("vocab_size",), "tokens in the vocabulary"),
        Key("context", "T", ("max_position_embeddings", "n_positions"), "positions; rows of a table if learned"),
        Key("window", "", ("sliding_window",), "tokens that a layer with a window sees"),
        Key("latent", "d_c", ("kv_lora_rank",), "MLA: latent of keys and values"),
        Key("rotary", "d_R", ("qk_rope_head_dim",), "MLA: rotary key that the heads share"),
        Key("query_latent", "", ("q_lora_rank",), "MLA: latent of queries; none if null"),
        Key("latent_key", "", ("qk_nope_head_dim",), "MLA: unrotated width of a head's key"),
        Key("latent_value", "", ("v_head_dim",), "MLA: width of a head's value"),
        Key("experts", "", ("num_local_experts", "num_experts", "n_routed_experts"), "experts of a layer"),
        Key("active", "", ("num_experts_per_tok",), "experts that a token uses"),
        Key("expert_width", "", ("moe_intermediate_size",), "hidden width of an expert"),
        Key("shared_experts", "", ("n_shared_experts",), "experts that every token uses"),
        Key("dense_layers", "", ("first_k_dense_replace",), "first layers without experts"),
        Key("embedding_width", "", ("word_embed_proj_dim",), "width of the embedding where it is not d"),
        Key("segments", "", ("type_vocab_size",), "token types"),
        Key("full_layers", "", ("max_window_layers",), "first layers without a window"),
    )
}
REQUIRED = object()
Choices = dict[str, Any]  # fields of Config


class Reader:
    """A configuration that is asked for one number or switch at a time; remembers which key gave what."""

    def __init__(self, data: Mapping[str, Any]):
        self.data = data
        self.used: dict[str, str] = {}

    def number(self, field: str, default: Any = REQUIRED, least: int = 1) -> Any:
        """The number for this field of KEYS; ``default`` where the key is absent or null."""
        names = KEYS[field].names
        name = next((n for n in names if self.data.get(n) is not None), None)
        self.used[field] = name or names[0]
        if name is None:
            if default is REQUIRED:
                here = [n for n in names if n in self.data]
                also = f" (also read: {', '.join(names[1:])})" if names[1:] else ""
                raise ConfigError(names[0], f"{'is null' if here else 'is missing'}; a count needs it{also}")
            return default
        check_size(name, self.data[name], least)
        return self.data[name]

    def given(self, field: str) -> bool:
        return any(name in self.data for name in KEYS[field].names)

    def flag(self, name: str, default: bool) -> bool:
        value = self.data.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise ConfigError(name, f"expected true or false, not {shown(value)}")
        return value

    def windows(self, layers: int, default: int, absent: int | None = None) -> Choices:
        """The window, and how many layers have one: as ``layer_types`` says, or else ``default`` of them.

        ``absent``: the window where the key is not there, as the family's class has it; null always means none.
        """
        window = self.number("window", None if self.given("window") else absent)
        kinds = self.data.get("layer_types")
        if window is None:
            return {}
        if kinds is None:
            return {"window": window, "windowed": default}
        if not isinstance(kinds, list) or len(kinds) != layers:
            raise ConfigError("layer_types", f"expected a list with one entry for each of {layers} layers")
        return {"window": window, "windowed": kinds.count("sliding_attention")}


# -- the families ------------------------------------------------------------------------------------------------------


GATED_RMS: Choices = {"gated": True, "norm": "rms"}
WINDOW = 4096  # of the classes that have one unless the file says otherwise


def attention_bias(r: Reader, default: bool = False) -> Choices:
    bias = r.flag("attention_bias", default)
    return {"qkv_bias": bias, "output_bias": bias}


def biases(on: bool) -> Choices:
    return {"qkv_bias": on, "output_bias": on, "mlp_bias": on}


def gpt2(r: Reader) -> Choices:
    if r.flag("add_cross_attention", False):
        raise ConfigError("add_cross_attention", "cross-attention is not counted; expected false")
    hidden = r.number("hidden", 4 * r.number("width"))
    return {**biases(True), "hidden": hidden, "positions": r.number("context"), "tied": True}


def gpt_neox(r: Reader) -> Choices:
    return {**attention_bias(r, True), "mlp_bias": True, "tied": False}


def opt(r: Reader) -> Choices:
    first = r.flag("do_layer_norm_before", True)
    last = first and not r.flag("_remove_final_layer_norm", False)
    embedding = r.number("embedding_width", r.number("width"))
    return {
        **biases(r.flag("enable_bias", True)),
        "positions": r.number("context") + 2,  # the first two rows are for padding
        "norm": "layer" if r.flag("layer_norm_elementwise_affine", True) else "plain",
        "other_norms": int(last),
        "embedding_width": None if embedding == r.number("width") else embedding,
        "tied": True,
    }


def bert(r: Reader) -> Choices:
    """The encoder with its head for masked words: a transform, and a readout with bias."""
    return {
        **biases(True),
        "positions": r.number("context"),
        "segments": r.number("segments"),
        "transform": True,
        "readout_bias": True,
        "decoder": r.flag("is_decoder", False),
        "tied": True,
    }


def llama(r: Reader) -> Choices:
    return {**GATED_RMS, **attention_bias(r), "mlp_bias": r.flag("mlp_bias", False), "tied": False}


def mistral(r: Reader) -> Choices:
    layers = r.number("layers")
    return {**GATED_RMS, **r.windows(layers, layers, WINDOW), "tied": False}


def phi3(r: Reader) -> Choices:
    layers = r.number("layers")
    return {**GATED_RMS, **r.windows(layers, layers), "tied": False}


def mixtral(r: Reader) -> Choices:
    number, active = r.number("experts"), r.number("active")
    return {**phi3(r), "experts": Experts(number, active, r.number("hidden"))}


def qwen_windows(r: Reader) -> Choices:
    if not r.flag("use_sliding_window", False):
        return {}
    layers = r.number("layers")
    return r.windows(layers, max(0, layers - r.number("full_layers", 28, least=0)), WINDOW)


def qwen2(r: Reader) -> Choices:
    return {**GATED_RMS, **qwen_windows(r), "qkv_bias": True, "tied": False}


def qwen3(r: Reader) -> Choices:
    head = r.number("head_width", 128)
    return {
        **GATED_RMS,
        **qwen_windows(r),
        **attention_bias(r),
        "head_width": head,
        "qk_norm": "head",
        "tied": False,
    }


def gemma(r: Reader) -> Choices:
    return {**GATED_RMS, **attention_bias(r), "head_width": r.number("head_width", 256), "tied": True}


def gemma2(r: Reader) -> Choices:
    """A window in the first layer and every second one after it; norms before and after each sublayer."""
    layers = r.number("layers")
    return {**gemma(r), **r.windows(layers, (layers + 1) // 2, WINDOW), "norms": 4}


def phi(r: Reader) -> Choices:
    """Attention and MLP side by side behind one norm; a readout with bias."""
    qk_norm = "head" if r.flag("qk_layernorm", False) else ""
    return {**biases(True), "norms": 1, "qk_norm": qk_norm, "readout_bias": True, "tied": False}


def olmo(r: Reader) -> Choices:
    return {**attention_bias(r), "gated": True, "norm": "plain", "tied": False}


def olmo2(r: Reader) -> Choices:
    return {**GATED_RMS, **attention_bias(r), "qk_norm": "all", "tied": False}


def falcon(r: Reader) -> Choices:
    new, heads = r.flag("new_decoder_architecture", False), r.number("heads")
    norms = r.data.get("num_ln_in_parallel_attn")
    check_size("num_ln_in_parallel_attn", norms := 1 + new if norms is None else norms)
    shared = 1 if r.flag("multi_query", True) else heads
    return {
        **biases(r.flag("bias", False)),
        "hidden": r.number("hidden", 4 * r.number("width")),
        "groups": r.number("groups", heads) if new else shared,
        "norms": 2 if norms == 2 or not r.flag("parallel_attn", True) else 1,
        "tied": True,
    }


def starcoder2(r: Reader) -> Choices:
    layers = r.number("layers")
    return {**biases(r.flag("use_bias", True)), **r.windows(layers, layers), "tied": True}


def deepseek(r: Reader) -> Choices:
    mixture, every = experts(r), r.data.get("moe_layer_freq", 1)
    if mixture and every != 1:
        raise ConfigError("moe_layer_freq", f"only 1 is counted (experts in every later layer), not {shown(every)}")
    return {**GATED_RMS, **attention_bias(r), **latent(r), "experts": mixture, "tied": False}


def latent(r: Reader) -> Choices:
    mla = Latent(
        latent=r.number("latent"),
        rotary=r.number("rotary"),
        key=r.number("latent_key"),
        value=r.number("latent_value"),
        query=r.number("query_latent", None),
        normed=True,
    )
    return {"head_width": mla.value, "groups": r.number("heads"), "mla": mla}


def experts(r: Reader, width: Any = REQUIRED) -> Experts | None:
    """Experts in every layer but the first few; ``width``: of each, if the file does not say."""
    number = r.number("experts", None)
    if number is None:
        return None
    width, layers = r.number("expert_width", width), r.number("layers")
    dense = r.number("dense_layers", 0, least=0)
    shared = r.number("shared_experts", 0, least=0)
    return Experts(number, r.number("active"), width, shared * width, min(dense, layers))


FAMILIES: dict[str, Callable[[Reader], Choices]] = {
    "gpt2": gpt2,
    "gpt_neox": gpt_neox,
    "opt": opt,
    "bert": bert,
    "llama": llama,
    "mistral": mistral,
    "mixtral": mixtral,
    "qwen2": qwen2,
    "qwen3": qwen3,
    "gemma": gemma,
    "gemma2": gemma2,
    "phi": phi,
    "phi3": phi3,
    "olmo": olmo,
    "olmo2": olmo2,
    "falcon": falcon,
    "starcoder2": starcoder2,
    "deepseek_v2": deepseek,
    "deepseek_v3": deepseek,
}
# Their classes have another default than one key/value head per query head, so a file must say how many there are.
SAY_GROUPS = ("mistral", "mixtral", "qwen2", "qwen3", "gemma", "gemma2", "starcoder2")


# -- a family we do not know -------------------------------------------------------------------------------------------


# Keys that change a count, by rules that differ among families: a note names those that are there and were not read.
MATTERS = (
    *("kv_lora_rank", "q_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "index_topk"),
    *("sliding_window", "use_sliding_window", "max_window_layers", "sliding_window_pattern", "layer_types"),
    *("attention_chunk_size", "full_attention_interval", "attn_layer_period", "attn_type_list"),
    *("linear_num_value_heads", "mamba_d_state", "ssm_cfg", "hybrid_override_pattern"),
    *("add_cross_attention", "cross_attention_layers", "num_kv_shared_layers", "attention_k_eq_v"),
    *("multi_query", "multi_query_attention", "multi_query_group_num", "n_head_kv", "attn_config", "ffn_config"),
    *("use_qk_norm", "qk_norm", "qk_layernorm", "bias", "use_bias", "qkv_bias", "use_qkv_bias"),
    *("n_shared_experts", "num_shared_experts", "shared_expert_intermediate_size", "shared_intermediate_size"),
    *("moe_num_experts", "moe_num_shared_experts", "moe_layer_start_index", "mlp_only_layers", "moe_layers"),
    *("first_k_dense_replace", "mlp_layer_types", "moe_layer_freq", "expert_layer_period"),
    *("decoder_sparse_step", "interleave_moe_layer_step", "hidden_size_per_layer_input"),
    *("word_embed_proj_dim", "type_vocab_size", "num_nextn_predict_layers"),
)
# Of these, the steps from one layer with experts to the next: 1 is every layer, as assumed.
STEPS = ("moe_layer_freq", "expert_layer_period", "decoder_sparse_step", "interleave_moe_layer_step")


def guess(r: Reader) -> Choices:
    """A family we do not know, by the keys that most have in common; ``notes`` says what was assumed or ignored."""
    rms = "rms_norm_eps" in r.data
    rotary = any(name in r.data for name in ("rope_theta", "rope_scaling", "rope_parameters", "alibi")) or rms
    mixture = experts(r, r.number("hidden", None) or REQUIRED)
    mla = latent(r) if r.number("latent", None) else {}
    windows, read = guessed_windows(r)
    made: Choices = {
        **attention_bias(r, not rms),
        **mla,
        **windows,
        "mlp_bias": r.flag("mlp_bias", not rms),
        "gated": rms,
        "norm": "rms" if rms else "layer",
        "positions": 0 if rotary else r.number("context", 0),
        "experts": mixture,
        "tied": True,
    }
    said = [
        "an MLP with a gate" if rms else "an MLP without a gate",
        f"two {'RMS norms' if rms else 'LayerNorms'} in a layer and one at the end",
        f"attention {'with' if made['qkv_bias'] else 'without'} biases",
        "no table of positions" if not made["positions"] else "a learned table of positions",
        *(["a norm on each latent"] if mla else []),
        *([f"experts in {after(mixture.dense_layers)}"] if mixture else []),
    ]
    note = f"model_type {shown(r.data.get('model_type'))} is not one that was checked; assumed: {', '.join(said)}"
    read |= set(r.used.values())
    ignored = ", ".join(key for key in MATTERS if key not in read and matters(key, r.data.get(key)))
    return {**made, "notes": (note + (f"; ignored: {ignored}" if ignored else ""),)}


def after(dense: int) -> str:
    return f"every layer after the first {dense}" if dense else "every layer"


def matters(key: str, value: Any) -> bool:
    return bool(value) and not (key in STEPS and value == 1)


def guessed_windows(r: Reader) -> tuple[Choices, set[str]]:
    """The windows, if it is clear which layers have one; and the keys that say so."""
    layers, every = r.number("layers"), r.data.get("sliding_window_pattern")
    kinds: Any = r.data.get("layer_types")
    keys = {"sliding_window", "use_sliding_window", "max_window_layers", "sliding_window_pattern"}
    listed = isinstance(kinds, list) and all(kind in ("full_attention", "sliding_attention") for kind in kinds)
    if not r.data.get("sliding_window") or not r.flag("use_sliding_window", True):
        return {}, keys | ({"layer_types"} if listed and "sliding_attention" not in kinds else set())
    if listed:
        return r.windows(layers, 0), keys | {"layer_types"}
    if kinds is None and type(every) is int and every > 0:  # as Gemma 3 and Cohere 2: every so many layers see all
        return r.windows(layers, layers - layers // every), keys
    return {}, set()


# -- reading -----------------------------------------------------------------------------------------------------------


def read(data: Any, name: str = "") -> Config:
    """The Config of a parsed ``config.json``.

    A ``model_type`` that is not in FAMILIES is read by the keys that most families share, and ``notes`` of the answer
    says what was assumed. Raises ConfigError, naming the key, for what is missing, of a wrong kind or does not fit.

    >>> read({"model_type": "gpt2", "n_layer": 2, "n_embd": 8, "n_head": 2, "n_positions": 16, "vocab_size": 50}).hidden
    32
    """
    if not isinstance(data, dict):
        raise ConfigError(FILE, f"expected a JSON object with the keys of a configuration, not {shown(data)}")
    notes: tuple[str, ...] = ()
    if isinstance(inner := data.get("text_config"), dict) and not Reader(data).given("layers"):
        data, notes = inner, ("only the language model in text_config is counted",)
    r = Reader(data)
    if r.flag("is_encoder_decoder", False):
        raise ConfigError("is_encoder_decoder", "models with an encoder and a decoder are not counted; expected false")
    kind = data.get("model_type", "")
    if not isinstance(kind, str):
        raise ConfigError("model_type", f"expected a name such as 'llama', not {shown(kind)}")
    if kind in SAY_GROUPS and not r.given("groups"):
        r.number("groups")
    try:
        return assembled(r, FAMILIES.get(kind, guess)(r), notes, name)
    except ConfigError as error:
        raise ConfigError(r.used.get(error.key, error.key), error.message) from None


def assembled(r: Reader, choices: Choices, notes: tuple[str, ...], name: str) -> Config:
    """What a family chose, and the sizes that all have in common."""
    made = {field: r.number(field) for field in ("layers", "width", "heads", "vocabulary")}
    made |= {"context": r.number("context", None), "name": name, **choices}
    if "hidden" not in made:
        made["hidden"] = r.number("hidden")
    if "groups" not in made:
        made["groups"] = r.number("groups", made["heads"])
    if "head_width" not in made:
        made["head_width"] = r.number("head_width", None) or split(r, made["width"], made["heads"])
    made["tied"] = r.flag("tie_word_embeddings", made["tied"])
    made["notes"] = notes + made.get("notes", ())
    return Config(**made)


def split(r: Reader, width: int, heads: int) -> int:
    if width % heads:
        raise ConfigError(r.used["heads"], f"{heads} heads do not divide {r.used['width']} = {width}; give head_dim")
    return width // heads


def load(path: str | Path) -> Config:
    """The Config of a ``config.json``, or of the folder it lies in. Raises ConfigError, naming file or key."""
    if not str(path):
        raise ConfigError("config", "no name is given; expected a config.json, or a folder that has one")
    try:
        file = found(Path(path))
        with file.open("rb") as opened:
            text = opened.read(LARGEST_FILE + 1)
        if len(text) > LARGEST_FILE:
            raise ConfigError(str(path), f"more than {LARGEST_FILE} bytes; a configuration has a few thousand")
        data = json.loads(text.decode("utf-8-sig"), object_pairs_hook=once)
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            str(path), f"is not JSON ({shown(str(error))}); expected a Hugging Face config.json"
        ) from None
    return read(data, file.absolute().parent.name if file.name == FILE else file.stem)


def found(path: Path) -> Path:
    """The file that is meant: this one, or the one in this folder."""
    if not path.is_dir():
        if not path.is_file():
            raise ConfigError(str(path), "there is no such file; expected a config.json, or a folder that has one")
        return path
    file = path / FILE
    if file.is_dir():
        raise ConfigError(str(path), f"the {FILE} in it is a folder; expected a file")
    if not file.is_file():
        near = difflib.get_close_matches(FILE, [p.name for p in path.glob("*.json") if p.is_file()], 1, 0.8)
        hint = f"; did you mean '{path / near[0]}'?" if near else ""
        raise ConfigError(str(path), f"the folder has no {FILE}{hint}")
    return file


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these keys and values. Raises ConfigError for a key that is there twice and says two things."""
    made: dict[str, Any] = {}
    for name, value in pairs:
        if made.setdefault(name, value) != value:
            raise ConfigError(shown(name), f"is there twice, as {shown(made[name])} and {shown(value)}; keep one")
    return made


def documented_keys() -> list[dict[str, str]]:
    """One row for each number that is read: field, symbol, keys and meaning; for a table on a page.

    >>> documented_keys()[0]
    {'field': 'layers', 'symbol': 'L', 'keys': 'num_hidden_layers, n_layer, num_layers', 'meaning': 'layers'}
    """
    return [
        {"field": k.field, "symbol": k.symbol, "keys": ", ".join(k.names), "meaning": k.meaning} for k in KEYS.values()
    ]
