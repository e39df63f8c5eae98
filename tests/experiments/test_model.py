"""The trained model is the one the theorems are about: it equals the package in float64, and files bring it back."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest

from qkvtheory.experiments import relative_error
from qkvtheory.queries import QueryAttention

torch = pytest.importorskip("torch")

from qkvtheory.experiments import model as models  # noqa: E402 (it needs PyTorch)
from qkvtheory.experiments.model import Config, Model, load, parameters, save, to_network  # noqa: E402

VARIANTS = (
    *("QKV", "Q-K=V", "Q=K-V", "Q=K=V", "GQA-2", "MQA", "Q-GQA-2", "Q-MQA", "QV-Ka"),
    *("(QKV)+", "(Q-K=V)+", "(Q=K-V)+", "(Q=K=V)+", "(GQA-2)+", "(Q-MQA)+"),
)
SMALL = Config(vocab=7, context=9, layers=2, d=16, heads=4)
N = 6  # tokens, fewer than the context


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def drawn(config, seed=0):
    """In float64, all weights of the size that training gives them, gains and corrections too."""
    model = Model(config, seed).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator, dtype=p.dtype)
            p.copy_(1 + 0.3 * noise if "gain" in name else noise if name.endswith(".w") else noise / p.shape[0] ** 0.5)
    return model


def tokens_of(config, n=N, batch=2):
    rng = np.random.default_rng(1)
    if config.inputs:
        return torch.tensor(rng.normal(size=(batch, n, config.inputs)))
    return torch.tensor(rng.integers(config.vocab, size=(batch, n)))


def rows(config, tokens):
    """The tokens of one sequence as the package reads them."""
    return tokens.numpy() if config.inputs else np.eye(config.vocab)[tokens.numpy()]


def agrees(config):
    """The largest relative difference between the model and the package's network."""
    model, tokens = drawn(config), tokens_of(config)
    network = to_network(model, tokens.shape[1])
    found = np.stack([network(rows(config, row)) for row in tokens])
    return relative_error(model(tokens).detach().numpy(), found.mean(1) if config.pool else found)


# -- the package's own -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("causal", [True, False], ids=["decoder", "encoder"])
def test_every_variant_is_the_package_s(variant, causal):
    for norm, positions in itertools.product(models.CHOICES["norm"], models.CHOICES["positions"]):
        config = replace(SMALL, variant=variant, causal=causal, norm=norm, positions=positions)
        assert agrees(config) < 1e-12, config


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("skips", models.CHOICES["skips"])
def test_skips_qk_norm_and_scale(variant, skips):
    config = replace(SMALL, variant=variant, skips=skips, qk_norm=True, score_scale=0.5, tied=False, outputs=5)
    assert agrees(config) < 1e-12
    assert agrees(replace(config, positions="rope", mlp=1.5)) < 1e-12


@pytest.mark.parametrize("variant", ["QKV", "Q-K=V", "GQA-4"])
@pytest.mark.parametrize("query", ["identity", "bottleneck"])
def test_linear_queries_are_a_matrix(variant, query):
    assert agrees(replace(SMALL, variant=variant, query=query)) < 1e-12


@pytest.mark.parametrize("changes", [{"temperature": 0.7}, {"temperature": -2.0}, {"correction": "relative"}])
def test_the_correction_and_its_frozen_temperature(changes):
    assert agrees(replace(SMALL, variant="(Q=K=V)+", **changes)) < 1e-12


def test_numbers_in_and_one_answer_out():
    config = replace(SMALL, inputs=3, outputs=4, tied=False, pool=True, causal=False)
    assert agrees(config) < 1e-12


def test_the_comparison_can_fail():
    model, tokens = drawn(SMALL), tokens_of(SMALL)
    network = to_network(drawn(replace(SMALL, score_scale=0.999)), N)
    assert relative_error(model(tokens)[0].detach().numpy(), network(rows(SMALL, tokens[0]))) > 1e-6


@pytest.mark.parametrize("changes", [{}, {"variant": "Q-K=V"}, {"positions": "rope", "qk_norm": True}])
def test_the_nonlinear_query_is_the_published_one(changes):
    """The network holds the package's ``published_query``; no matrix W_Q is this query."""
    config = replace(SMALL, query="nonlinear", score_scale=0.5, **changes)
    assert agrees(config) < 1e-12
    model = drawn(config)
    assert isinstance(to_network(model, N).blocks[0].attention, QueryAttention)
    with pytest.raises(ValueError, match="a nonlinear query is not a matrix"):
        models.written_out(model.blocks[0].attention)


def test_weights_have_the_names_and_shapes_of_the_package():
    names = dict(Model(replace(SMALL, variant="Q-GQA-2", tied=False)).named_parameters())
    assert {n.rpartition(".")[2] for n in names if ".attention." in n} == {"W_Q", "W_Z", "W_O"}
    assert names["blocks.0.attention.W_Z"].shape == (16, 8), "acts on the right: d x width of two groups"
    assert names["readout"].shape == (16, 7)


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameters_are_those_that_are_counted(variant):
    """As ``qkvtheory.count`` has them, but for its norms with a bias, and its corrections with one."""
    from qkvtheory.count import Config as Counted
    from qkvtheory.count import parameters as counted

    sizes = {"layers": 2, "width": 16, "heads": 4, "groups": 4, "head_width": 4, "hidden": 64, "vocabulary": 7}
    theirs = counted(Counted(**sizes, positions=9, norm="rms"), variant).total
    corrections = SMALL.layers * ("+" in variant)
    assert parameters(Model(replace(SMALL, variant=variant))) == theirs - corrections


# -- what training needs -----------------------------------------------------------------------------------------------


def test_variants_start_from_the_same_weights_where_they_share_them():
    a, b = (dict(Model(replace(SMALL, variant=v), seed=3).named_parameters()) for v in ("QKV", "Q-K=V"))
    shared = a.keys() & b.keys()
    assert "blocks.0.attention.W_Q" in shared and all(torch.equal(a[name], b[name]) for name in shared)
    other = dict(Model(SMALL, seed=4).named_parameters())
    assert not torch.equal(a["embedding"], other["embedding"])


def test_a_decoder_does_not_look_ahead_and_an_encoder_does():
    for causal in (True, False):
        model = drawn(replace(SMALL, causal=causal))
        tokens = tokens_of(SMALL)
        changed = tokens.clone()
        changed[:, -1] = (changed[:, -1] + 1) % SMALL.vocab
        same = torch.equal(model(tokens)[:, :-1], model(changed)[:, :-1])
        assert same == causal


def test_targets_of_minus_100_are_not_scored():
    model, tokens = drawn(SMALL), tokens_of(SMALL)
    targets = tokens.clone()
    targets[:, 2:] = -100
    expected = torch.nn.functional.cross_entropy(model(tokens)[:, :2].flatten(0, 1), tokens[:, :2].flatten())
    assert float(model.loss(tokens, targets).detach()) == pytest.approx(float(expected.detach()), rel=1e-12)


@pytest.mark.parametrize(
    ("variant", "query"), [*((v, "linear") for v in VARIANTS), ("QKV", "nonlinear"), ("Q-MQA", "bottleneck")]
)
def test_every_weight_has_a_gradient(variant, query):
    model = drawn(replace(SMALL, variant=variant, query=query, qk_norm=True))
    model.loss(tokens_of(SMALL), tokens_of(SMALL)).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0] == []


# -- refusals ----------------------------------------------------------------------------------------------------------

REFUSALS = {
    "d": ({"d": 0}, "d must be at least 1"),
    "whole": ({"layers": 1.5}, "layers must be a whole number"),
    "heads": ({"heads": 3}, "does not split into 3 heads"),
    "norm": ({"norm": "batchnorm"}, "norm must be one of layernorm"),
    "query": ({"query": "cubic"}, "query must be one of"),
    "skips": ({"skips": "mlp"}, "skips must be one of"),
    "positions": ({"positions": "alibi"}, "positions must be one of"),
    "correction": ({"correction": "third"}, "correction must be one of"),
    "variant": ({"variant": "QKW"}, "did you mean"),
    "groups": ({"variant": "GQA-3"}, "do not divide 4 heads"),
    "slim": ({"variant": "slim"}, "made from a trained QKV layer"),
    "MLA": ({"variant": "MLA"}, "not for training"),
    "GTA": ({"variant": "GTA-2"}, "not for training"),
    "tied query": ({"variant": "Q=K-V", "query": "identity"}, "it is tied"),
    "readout": ({"outputs": 3}, "pass tied=False"),
    "inputs": ({"inputs": 3}, "pass tied=False"),
    "rope": ({"d": 12, "positions": "rope"}, "even head width, not 3"),
    "large": ({"d": 2**30}, "d must be at most"),
    "outputs": ({"outputs": "7", "tied": False}, "outputs must be a whole number"),
    "mlp text": ({"mlp": "4"}, "mlp must be a finite number, not '4'"),
    "mlp true": ({"mlp": True}, "mlp must be a finite number, not True"),
    "mlp below 0": ({"mlp": -1}, "mlp must be at least 0, not -1"),
    "mlp infinite": ({"mlp": float("inf")}, "mlp must be a finite number, not inf"),
    "mlp small": ({"mlp": 0.01}, "makes 0.16 hidden units"),
    "mlp large": ({"mlp": int(1e308)}, "hidden units; expected 1 to"),
    "score_scale": ({"score_scale": float("nan")}, "score_scale must be a finite number"),
    "init": ({"init": -1.0}, "init must be at least 0"),
    "temperature": ({"temperature": "a"}, "temperature must be a finite number, not 'a'"),
    "tied": ({"tied": 1}, "tied must be true or false, not 1"),
    "qk_norm": ({"qk_norm": None}, "qk_norm must be true or false"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_shape_that_means_nothing_is_refused(name):
    changes, expected = REFUSALS[name]
    with pytest.raises(ValueError, match=expected):
        replace(SMALL, **changes)


def test_a_model_without_an_mlp():
    model = Model(replace(SMALL, mlp=0))
    assert model.config.hidden == 0 and model(tokens_of(SMALL)).isfinite().all()


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_model_comes_back_from_its_files(tmp_path, variant):
    model = Model(replace(SMALL, variant=variant, qk_norm=True, tied=False, positions="rope"), seed=1)
    save(model, tmp_path / "new" / "folder")
    back = load(tmp_path / "new" / "folder")
    assert back.config == model.config
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), back.parameters(), strict=True))
    assert torch.equal(model(tokens_of(SMALL)), back(tokens_of(SMALL)))


@pytest.fixture
def saved(tmp_path):
    save(Model(SMALL), tmp_path)
    return tmp_path


def edit(folder, **changes):
    path = folder / models.CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def cut(folder, size):
    path = folder / models.WEIGHTS
    path.write_bytes(path.read_bytes()[:size])


DAMAGES = {
    "no config": (lambda f: (f / models.CONFIG).unlink(), FileNotFoundError, "no config.json"),
    "no weights": (lambda f: (f / models.WEIGHTS).unlink(), FileNotFoundError, "no model.safetensors"),
    "no JSON": (lambda f: (f / models.CONFIG).write_text("{"), ValueError, "is not JSON"),
    "no object": (lambda f: (f / models.CONFIG).write_text("[1]"), ValueError, "must hold an object"),
    "unknown": (lambda f: edit(f, depth=3), ValueError, "unknown fields depth"),
    "meaningless": (lambda f: edit(f, heads=3), ValueError, "does not split into 3 heads"),
    "type": (lambda f: edit(f, d="64"), ValueError, "d must be a whole number"),
    "no text": (lambda f: (f / models.CONFIG).write_bytes(b"\xff"), ValueError, "config.json is not JSON"),
    "nested": (lambda f: (f / models.CONFIG).write_text("[" * 100_000), ValueError, "config.json is not JSON"),
    "not a number": (lambda f: edit(f, init=float("nan")), ValueError, "config.json: init must be a finite number"),
    "cut": (lambda f: cut(f, 1000), ValueError, "may be cut short"),
    "empty": (lambda f: cut(f, 0), ValueError, "may be cut short"),
    "lacks": (lambda f: edit(f, layers=3), ValueError, "lacks blocks.2"),
    "has": (lambda f: edit(f, layers=1), ValueError, "has blocks.1"),
    "shape": (lambda f: edit(f, context=12), ValueError, r"positions is \(9, 16\) .* needs \(12, 16\)"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_files_that_do_not_fit_are_named(saved, name):
    damage, error, expected = DAMAGES[name]
    damage(saved)
    with pytest.raises(error, match=expected):
        load(saved)
