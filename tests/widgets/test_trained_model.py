"""The trained-model widget: the stored weights, what they do, the same on the page, and its still."""

from __future__ import annotations

import gzip
import json
import re

import numpy as np
import pytest

from qkvtheory import widgets
from qkvtheory.widgets import bundle, static_html, text, trained_model, trained_model_picture
from qkvtheory.widgets.trained_model import LENGTH, check_state, facts, find, models

NAMES = ("QKV", "Q=K", "Q=K, 2 heads", "(Q=K)+", "Q=K, skip")
BAD = [
    ({"sequence": "1234567"}, "sequence must be 8 digits in quotes, such as '31415926', not '1234567'"),
    ({"sequence": 31415926}, "sequence must be 8 digits in quotes"),
    ({"sequence": "1234567a"}, "not '1234567a'"),
    ({"sequence": "１２３４５６７８"}, "sequence must be 8 digits"),
    ({"variant": "Q-K=V"}, "variant must be one of QKV, Q=K, Q=K, 2 heads"),
    ({"heads": 2}, "unknown: heads; the state has sequence, variant"),
]


@pytest.mark.parametrize(("given", "message"), BAD)
def test_a_bad_state_is_refused(given, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        static_html("trained-model", **given)


def sequences(count=60, seed=5):
    rng = np.random.default_rng(seed)
    fixed = ["31415926", "00000000", "12344321", "01234567"]
    return fixed + ["".join(map(str, rng.integers(10, size=LENGTH))) for _ in range(count)]


ALL = [check_state(sequence=s, variant=name) for name in NAMES for s in sequences()]


# --- what was trained ---


def test_the_forms_are_trained_alike_and_measured_with_several_seeds():
    assert tuple(m.name for m in models()) == NAMES
    for m in models():
        assert len(m.runs) >= 5 and [run["seed"] for run in m.runs] == list(range(len(m.runs)))
        assert m.shown == 0, "the first seed, whatever came of it"
        assert m.parameters == sum(w.size for w in m.weights.values())
        assert all(np.array_equal(w, np.round(w, 3)) for w in m.weights.values())
    assert [m.heads for m in models()] == [1, 1, 2, 1, 1] and [m.skip for m in models()] == [False] * 4 + [True]
    assert {"command", "date", "machine", "versions"} <= set(trained_model.stored()["provenance"])


@pytest.mark.parametrize("name", NAMES)
def test_what_was_measured_is_found_again(name):
    """Ten thousand positions of new sequences: the accuracy, up to chance, and the sums of partners."""
    rng, model = np.random.default_rng(99), find(name)
    found = [facts({"sequence": "".join(map(str, s)), "variant": name}) for s in rng.integers(10, size=(1250, LENGTH))]
    accuracy = np.mean([f.right for f in found])
    assert abs(accuracy - model.runs[0]["accuracy"]) < 0.02
    sums = np.array([[[a + b for a, b in head] for head in f.pairs] for f in found]).mean(axis=(0, 2)).max()
    assert sums == pytest.approx(model.runs[0]["partners"], abs=0.005)


@pytest.mark.parametrize("name", NAMES)
def test_the_bound_holds_where_it_is_said_to(name):
    for f in (facts(s) for s in ALL if s["variant"] == name):
        np.testing.assert_allclose(f.maps.sum(axis=-1), 1)
        if f.model.bounded:
            everywhere = f.maps + f.maps.swapaxes(-1, -2)
            assert everywhere[:, ~np.eye(LENGTH, dtype=bool)].max() <= 1 + 1e-12
        else:
            assert f.largest > 1.9
    assert f.model.bounded is (name in ("Q=K", "Q=K, 2 heads", "Q=K, skip"))


def test_what_the_notes_say_is_so():
    single = [facts(s) for s in ALL if s["variant"] == "Q=K"]
    for f in single:
        own = np.diagonal(f.maps[0])
        across = np.array(f.pairs[0])
        assert np.abs(own - 0.5).max() < 0.1 and np.abs(across - 0.5).max() < 0.1
    assert np.mean([f.same for f in single]) > 3 and sum(sum(f.right) for f in single) < 0.65 * 8 * len(single)
    double = [facts(s).maps for s in ALL if s["variant"] == "Q=K, 2 heads"]
    own = np.mean([np.diagonal(a, axis1=1, axis2=2) for a in double], axis=(0, 2))
    assert 0.4 < min(own) < 0.6 and max(own) > 0.9, "one mixes, one looks at itself"
    for name in ("Q=K, 2 heads", "Q=K, skip"):
        assert find(name).opposed < -0.9 and all(x < -0.9 for x in find(name).seen("opposed"))
    assert find("Q=K").opposed is None
    corrected = find("(Q=K)+")
    assert corrected.temperature < 0 and all(t < 0 for t in corrected.seen("temperature"))
    assert f"with {len(corrected.runs)} of {len(corrected.runs)} seeds" in trained_model.note(corrected)


def test_a_mirrored_sequence_is_easy_for_all():
    for name in NAMES:
        f = facts(check_state(sequence="27188172", variant=name))
        assert all(f.right) and f.same == 0


# --- the same as PyTorch, and as the page ---


@pytest.mark.torch
@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_model_that_was_trained(name):
    """The network that the training code hands to the package, with the stored weights in it."""
    torch = pytest.importorskip("torch")
    from qkvtheory.experiments import live
    from qkvtheory.experiments.model import to_network

    form = next(given for given in live.FORMS if given[0] == name)
    model, m = live.encoder(*form[1:], seed=1).double(), find(name)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            short = key.rsplit(".", 1)[-1]
            if weight.numel():
                weight.copy_(torch.tensor(m.weights[live.NAMES.get(short, short)]).reshape(weight.shape))
    assert live.weights(model) == next(g["weights"] for g in trained_model.stored()["models"] if g["name"] == name)
    network = to_network(model, LENGTH)
    for s in sequences(20):
        tokens = [int(c) for c in s]
        maps, logits = m.maps_and_logits(s)
        expected = network(np.eye(10)[tokens])
        assert np.abs(logits - expected).max() <= 1e-12 * np.abs(expected).max()
        theirs = live.attention_maps(model, torch.tensor([tokens]))[0].detach().numpy()
        assert np.abs(maps - theirs).max() <= 1e-12


@pytest.mark.torch
def test_training_writes_what_the_widget_reads(tmp_path):
    pytest.importorskip("torch")
    from qkvtheory.experiments import live

    made = live.form("Q=K, 2 heads", "Q=K-V", 2, False, seeds=(0, 1), steps=3)
    again = live.form("Q=K, 2 heads", "Q=K-V", 2, False, seeds=(0,), steps=3)
    assert made["weights"] == again["weights"] and [r["seed"] for r in made["runs"]] == [0, 1]
    stored = next(g for g in trained_model.stored()["models"] if g["name"] == "Q=K, 2 heads")
    assert set(made) == set(stored) and set(made["runs"][0]) == set(stored["runs"][0])
    assert {k: len(v) for k, v in made["weights"].items()} == {k: len(v) for k, v in stored["weights"].items()}


WIDGET = "const w = await import(folder + 'trained_model.mjs'); const all = w.models(data.text);\n"


def test_the_page_reads_the_very_same_weights(node):
    got = node(WIDGET + "const result = all;", {"text": trained_model_picture.weights()})
    for theirs, m in zip(got, models(), strict=True):
        assert set(theirs["weights"]) == set(m.weights)
        assert all(np.array_equal(theirs["weights"][k], a) for k, a in m.weights.items())
        assert theirs["temperature"] == m.temperature and theirs["bias"] == m.key_bias.tolist()


def test_the_page_computes_what_the_package_computes(node):
    script = """const result = data.states.map(({ sequence, variant }) => {
      const f = w.facts(all.find((m) => m.name === variant), sequence);
      return { ...f, model: null, said: w.sentence(f) }; });"""
    got = node(WIDGET + script, {"text": trained_model_picture.weights(), "states": ALL})
    for theirs, state in zip(got, ALL, strict=True):
        f = facts(state)
        logits = f.model.maps_and_logits(state["sequence"])[1]
        assert np.abs(np.array(theirs["maps"]) - f.maps).max() <= 1e-12
        assert np.abs(np.array(theirs["logits"]) - logits).max() <= 1e-12 * np.abs(logits).max()
        assert np.abs(np.array(theirs["chances"]) - f.chances).max() <= 1e-12
        assert np.abs(np.array(theirs["pairs"]) - f.pairs).max() <= 1e-12
        for name in ("answer", "wanted", "right", "same"):
            assert theirs[name] == getattr(f, name), (name, state)
        assert theirs["said"] == trained_model.sentence(f), state


def test_the_bundle_is_one_module(node):
    code = bundle("trained-model")
    assert not re.search(r"^\s*import\b", code, re.M) and code.count("export default") == 1
    script = """const { writeFileSync, mkdtempSync, rmSync } = await import("node:fs");
    const { tmpdir } = await import("node:os");
    const at = mkdtempSync(tmpdir() + "/w"); writeFileSync(at + "/b.mjs", data.code);
    const one = await import("file://" + at + "/b.mjs"), two = await import(folder + "trained_model.mjs");
    rmSync(at, { recursive: true });
    const result = [one, two].map((m) => [Object.keys(m), m.facts(m.models(data.text)[2], "31415926").logits]);"""
    ours, theirs = node(script, {"code": code, "text": trained_model_picture.weights()})
    assert ours == theirs


# --- the still ---


@pytest.mark.parametrize("name", NAMES)
def test_the_still_shows_what_the_model_says(name):
    html = static_html("trained-model", style=False, sequence="27182818", variant=name)
    f = facts(check_state(sequence="27182818", variant=name))
    row = re.search(r'<tr data-part="answer">(.*?)</tr>', html)[1]
    assert re.findall(r'data-state="(\w+)">(\d) (.)<', row) == [
        ("yes" if ok else "no", a, "✓" if ok else "✗") for a, ok in zip(f.answer, f.right, strict=True)
    ]
    for h in range(f.model.heads):
        shown = re.search(f'data-part="map {h}"[^>]*>(.*?)</div>', html)[1]
        assert re.findall(r">([^<]+)</span>", shown) == [text.num(float(x)) for x in f.maps[h].ravel()]
        assert [i for i, m in enumerate(re.findall(r'class="(\w*)"', shown)) if m] == [7 * i for i in range(1, 9)]
    assert ('data-part="head 1" hidden' in html) is (f.model.heads == 1)
    assert re.findall(r'data-variant="([^"]+)" aria-pressed="true"', html) == [name]
    assert ("Dashed: 1, the bound" in html) is f.model.bounded
    assert trained_model.sentence(f) in html


def test_the_accuracies_shown_are_the_measured_ones():
    html = static_html("trained-model", style=False)
    shown = re.findall(r'data-variant="([^"]+)".*?<b>([\d.]+)%</b><span>([\d.]+)</span>', html)
    assert [name for name, *_ in shown] == list(NAMES)
    for name, accuracy, partners in shown:
        m = find(name)
        assert abs(float(accuracy) - 100 * np.mean(m.seen("accuracy"))) < 0.051
        assert abs(float(partners) - np.mean(m.seen("partners"))) < 0.0051
    assert f"Means over {len(find('Q=K').runs)} trainings" in html


def test_the_weights_travel_with_the_still_and_are_light():
    html = static_html("trained-model", style=False)
    inside = re.search(r'<script type="text/plain" data-part="weights">(.*?)</script>', html)[1]
    kept = {m["name"]: m["weights"] for m in json.loads(inside)}
    assert kept == {g["name"]: g["weights"] for g in trained_model.stored()["models"]}
    size = len(gzip.compress(html.encode(), 9))
    print(f"\nstill with weights, gzip: {size} bytes of 30000")
    assert size < 30_000


# --- in a notebook ---


def test_the_notebook_widget_holds_the_state():
    pytest.importorskip("anywidget")
    from traitlets import TraitError

    figure = widgets.TrainedModel(variant="QKV")
    assert (figure.sequence, figure.variant) == ("31415926", "QKV")
    assert figure.still == trained_model.still(check_state(variant="QKV")) and figure._esm == bundle("trained-model")
    figure.sequence = "11112222"
    data, _ = figure._repr_mimebundle_()
    assert data["text/html"] == static_html("trained-model", sequence="11112222", variant="QKV")
    for name, value in (("sequence", "123"), ("variant", "QK")):
        with pytest.raises(TraitError, match=f"{name} must be"):
            setattr(figure, name, value)
    assert (figure.sequence, figure.variant) == ("11112222", "QKV")
