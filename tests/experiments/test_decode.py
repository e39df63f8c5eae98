"""Decoding: the logits of the whole text whatever the cache, exactly the bytes of the formula, and clear refusals."""

import json
import re
import subprocess
import sys
from dataclasses import replace

import pytest

from qkvtheory import count, lossless, tying
from qkvtheory.cli import main
from qkvtheory.figures import stored

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from qkvtheory.experiments import decode  # noqa: E402
from qkvtheory.experiments.caches import Decoder, Layer, attend  # noqa: E402
from qkvtheory.experiments.model import Config, Model, save  # noqa: E402

VARIANTS = ("QKV", "Q-K=V", "Q=K-V", "Q=K=V", "QV-Ka", "GQA-2", "MQA", "Q-GQA-2", "Q-MQA", "(Q=K-V)+", "(Q-K=V)+")
POSITIONS = ("none", "learned", "rope")
SMALL = Config(vocab=11, context=9, layers=2, d=16, heads=4)
TIGHT = 1e-12
every_variant = pytest.mark.parametrize("variant", [*VARIANTS, "slim"])


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def made(variant="QKV", **given):
    """A model in float64 and the keyword that asks for a slim cache. Weights are larger than in training, so that maps
    are far from uniform."""
    slim = variant == "slim"
    model = Model(replace(SMALL, variant="QKV" if slim else variant, init=2.0, **given)).double()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "gain" in name or name.endswith(".w"):
                weight.add_(torch.linspace(-0.5, 0.5, weight.numel()))
    return model, {"slim": slim}


def text(batch=3, tokens=9):
    drawn = torch.randint(SMALL.vocab, (3, 9), generator=torch.Generator().manual_seed(0))
    return drawn[:batch, :tokens]


def off(found, expected):
    return float(((found - expected).abs().max() / expected.abs().max()).detach())


def decoded(decoder, tokens, chunks):
    assert sum(chunks) == tokens.shape[1]
    return torch.cat([decoder(piece) for piece in tokens.split(chunks, dim=1)], dim=1)


# -- the same logits ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunks", [[1] * 9, [5, 1, 2, 1], [9]], ids=["one by one", "mixed", "at once"])
@pytest.mark.parametrize("positions", POSITIONS)
@every_variant
def test_decoding_is_the_forward_pass(variant, positions, chunks):
    model, how = made(variant, positions=positions)
    tokens = text()
    assert off(decoded(Decoder(model, 9, batch=3, **how), tokens, chunks), model(tokens)) < TIGHT


@pytest.mark.parametrize("positions", ["none", "rope"])
@pytest.mark.parametrize("variant", ["QKV", "Q-K=V", "Q=K=V", "QV-Ka", "Q-GQA-2", "slim"])
def test_with_normalized_keys(variant, positions):
    model, how = made(variant, positions=positions, qk_norm=True)
    assert off(decoded(Decoder(model, 9, batch=3, **how), text(), [4, 1, 1, 3]), model(text())) < TIGHT


@pytest.mark.parametrize("given", [{"query": "nonlinear"}, {"query": "identity"}, {"score_scale": 0.5}], ids=str)
@pytest.mark.parametrize("variant", ["QKV", "Q-K=V"])
def test_with_other_queries_and_scales(variant, given):
    model, how = made(variant, **given)
    assert off(decoded(Decoder(model, 9, batch=3, **how), text(), [4, 1, 1, 3]), model(text())) < TIGHT


@pytest.mark.parametrize("variant", ["Q-K=V", "Q-GQA-2", "slim", "QV-Ka"])
def test_keys_that_are_turned_in_pieces(variant, monkeypatch):
    """Pieces of one token, of a few, and one piece give the same."""
    model, how = made(variant, positions="rope")
    for piece in (1, 1000, 2**30):
        monkeypatch.setattr("qkvtheory.experiments.caches.PIECE", piece)
        assert off(decoded(Decoder(model, 9, batch=3, **how), text(), [4, 1, 1, 3]), model(text())) < TIGHT


@every_variant
def test_a_cache_that_is_damaged_shows(variant):
    """Every array that is stored is read: one number of it moves the logits, and an unread tail does not."""
    model, how = made(variant)
    for array in range(len(Decoder(model, 9, batch=3, **how).layers[0].parts)):
        decoder = Decoder(model, 9, batch=3, **how)
        decoder(text(tokens=7))
        part = decoder.layers[0].parts[array]
        part[:, :, 7:] = 1e3
        expected = model(text(tokens=8))[:, 7:]
        assert off(decoder(text(tokens=8)[:, 7:]), expected) < TIGHT
        decoder.length = 7
        part[:, :, 3, 0] += 1.0
        assert off(decoder(text(tokens=8)[:, 7:]), expected) > 1e-6


def test_setting_the_length_back_forgets():
    model, _ = made("Q-K=V")
    decoder, other = Decoder(model, 9, batch=3), text().flip(1)
    decoder(text())
    decoder.length = 4
    expected = model(torch.cat([text()[:, :4], other[:, 4:]], dim=1))[:, 4:]
    assert off(decoder(other[:, 4:]), expected) < TIGHT


def test_both_ways_to_attend_agree():
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(2, 3, n, 4, generator=generator, dtype=torch.float64) for n in (1, 7, 7))
    fused = attend(q, k, v, torch.zeros(1, 7, dtype=torch.float64))
    assert off(attend(q, k, v, None), fused) < TIGHT


# -- what is stored ----------------------------------------------------------------------------------------------------


def in_the_package(attention):
    """The sublayer of ``qkvtheory.tying`` with these weights."""
    weights = {name: w.detach().numpy() for name, w in attention.named_parameters()}
    core = tying.CausalHeads(attention.config.heads, attention.variant.groups)
    return tying.CLASSES[attention.variant.kind](core=core, **weights)


@pytest.mark.parametrize("variant", [v for v in VARIANTS if "+" not in v])
def test_the_cache_holds_the_arrays_of_the_package(variant):
    model, _ = made(variant)
    attention = model.blocks[0].attention
    x = torch.randn(1, 6, SMALL.d, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    layer, theirs = Layer(attention, 6, 1), in_the_package(attention)
    with torch.no_grad():
        outputs = [layer(x[:, :4], 0), layer(x[:, 4:5], 4), layer(x[:, 5:], 5)]
    y, cache = theirs.decode(x[0].numpy())
    assert off(torch.cat(outputs, dim=1)[0], torch.from_numpy(y)) < TIGHT
    assert len(layer.parts) == len(cache)
    for part, array in zip(layer.parts, cache, strict=True):
        assert off(part[0].transpose(0, 1).flatten(1), torch.from_numpy(array)) < TIGHT
    assert sum(part.nbytes for part in layer.parts) == tying.cache_bytes(cache)


def test_the_slim_cache_is_that_of_the_package():
    model, _ = made("slim")
    decoder = Decoder(model, 6, slim=True)
    x = torch.randn(1, 6, SMALL.d, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with torch.no_grad():
        y = decoder.layers[0](x, 0)
    theirs, (keys,) = lossless.slim(in_the_package(model.blocks[0].attention)).decode(x[0].numpy())
    assert off(y[0], torch.from_numpy(theirs)) < 1e-10  # both invert W_K
    (part,) = decoder.layers[0].parts
    assert off(part[0].transpose(0, 1).flatten(1), torch.from_numpy(keys)) < TIGHT


@pytest.mark.parametrize("variant", ["Q-K=V", "Q=K=V", "Q-MQA"])
def test_values_are_stored_without_rotation(variant):
    """Where keys are values, what is stored does not depend on the positions; where they are apart, it does."""

    def first_array(variant, positions):
        model, _ = made(variant, positions=positions)
        layer = Layer(model.blocks[0].attention, 6, 1)
        x = torch.randn(1, 6, SMALL.d, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        with torch.no_grad():
            layer(x, 0)
        return layer.parts[0]

    assert (first_array(variant, "rope") == first_array(variant, "none")).all()
    assert (first_array("QKV", "rope") != first_array("QKV", "none")).any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@every_variant
def test_bytes_are_those_of_the_formula(variant, dtype):
    model, how = made(variant)
    decoder = Decoder(model.to(dtype), 7, batch=5, **how)
    sizes = decode.counted(SMALL)
    assert decoder.nbytes == count.cache_bytes(sizes, variant, 7, 5, dtype.itemsize)
    held = sum(part.untyped_storage().nbytes() for layer in decoder.layers for part in layer.parts)
    assert held == decoder.nbytes, "what is allocated is what is counted"


def test_half_precision_reads_rotated_keys_as_well():
    model, _ = made("Q-K=V", positions="rope")
    exact = model(text())
    assert off(decoded(Decoder(model.bfloat16(), 9, batch=3), text(), [5, 1, 3]).double(), exact) < 0.1


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_a_cache_that_is_full():
    decoder = Decoder(made()[0], 5)
    decoder(text(1, 4))
    with pytest.raises(ValueError, match="the cache holds 4 of 5 tokens; 2 more were given, from 1 to 1 fit"):
        decoder(text(1, 2))
    with pytest.raises(ValueError, match="0 more were given"):
        decoder(text(1, 0))
    assert decoder.length == 4


@pytest.mark.parametrize(
    ("given", "how", "message"),
    [
        ({"causal": False}, {}, "reads a whole text at once"),
        ({}, {"capacity": 10}, "context is 9 tokens; a cache of 10"),
        ({"variant": "Q-K=V"}, {"slim": True}, "made from QKV, not from Q-K=V"),
        ({"query": "identity"}, {"slim": True}, "query='identity'"),
    ],
)
def test_models_that_cannot_be_decoded_so(given, how, message):
    with pytest.raises(ValueError, match=message):
        Decoder(Model(replace(SMALL, **given)), **({"capacity": 9} | how))


def test_singular_keys_have_no_slim_cache():
    model, _ = made()
    with torch.no_grad():
        model.blocks[1].attention.W_K.zero_()
    with pytest.raises(ValueError, match="W_K is singular"):
        Decoder(model, 9, slim=True)


# -- going on with a text ----------------------------------------------------------------------------------------------

BYTES = Config(context=40, layers=1, d=16, heads=2, variant="Q-K=V", init=4.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("model")
    save(Model(BYTES), place)
    return str(place)


def run(*arguments):
    return main(["decode", *map(str, arguments), "--device", "cpu"])


def greedy(model, prompt, tokens):
    """The likeliest bytes, by the forward pass on the whole text each time."""
    text = list(prompt)
    with torch.no_grad():
        for _ in range(tokens):
            text.append(int(model(torch.tensor([text]))[0, -1].argmax()))
    return text[len(prompt) :]


def test_temperature_zero_takes_the_likeliest_byte(monkeypatch):
    model = Model(BYTES)
    expected = greedy(model, b"how ", 12)
    assert list(decode.generate(model, b"how ", 12, 0.0, seed=0)) == expected
    for temperature in (1e-6, 1e-320, 5e-324):
        assert list(decode.generate(model, b"how ", 12, temperature, seed=0)) == expected
    monkeypatch.setattr(decode, "PROMPT_PIECE", 3)
    assert list(decode.generate(model, b"how ", 12, 0.0, seed=0)) == expected, "a prompt read in pieces"


def test_bytes_are_drawn_from_the_softmax():
    """Over many seeds the first byte is as frequent as its probability, at two temperatures."""
    model = Model(BYTES)
    with torch.no_grad():
        logits = model(torch.tensor([list(b"so ")]))[0, -1].double()
    for temperature in (0.5, 2.0):
        chance = torch.softmax(logits / temperature, -1)
        drawn = [next(decode.generate(model, b"so ", 1, temperature, seed)) for seed in range(400)]
        top = int(chance.argmax())
        spread = float((chance[top] * (1 - chance[top]) / 400) ** 0.5)
        assert abs(drawn.count(top) / 400 - float(chance[top])) < 4 * spread


def test_the_command_goes_on_with_a_text(folder, capsys):
    assert run(folder, "--prompt", "The ", "--tokens", 20, "--seed", 3) == 0
    first = capsys.readouterr().out
    expected = bytes(decode.generate(Model(BYTES), b"The ", 20, 0.8, 3)).decode("utf8", "replace")
    assert first == "The " + decode.printed(expected) + "\n"
    assert run(folder, "--prompt", "The ", "--tokens", 20, "--seed", 3) == 0
    assert capsys.readouterr().out == first
    assert run(folder, "--prompt", "The ", "--tokens", 20, "--seed", 4) == 0
    assert capsys.readouterr().out != first


def test_letters_of_several_bytes_and_controls(monkeypatch, folder, capsys):
    written = "é\x1b[2J\n€".encode()
    monkeypatch.setattr(decode, "generate", lambda *_: iter(written + b"\xe2"))
    assert run(folder, "--prompt", "né") == 0
    assert capsys.readouterr().out == "néé\\x1b[2J\n€\ufffd\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either the folder of a trained model"),
        (["FOLDER", "--measure"], "give either the folder of a trained model"),
        (["no/such/folder", "--prompt", "x"], "there is no config.json in no/such/folder"),
        (["FOLDER"], "how does the text begin"),
        (["FOLDER", "--prompt", ""], "how does the text begin"),
        (["FOLDER", "--prompt", "x" * 40], "the prompt has 40 bytes; this model reads 40 at most"),
        (["FOLDER", "--prompt", "é", "--tokens", "39"], "prompt of 2 bytes there is room for 1 to 38 in .* 40"),
        (["FOLDER", "--prompt", "x", "--tokens", "0"], "room for 1 to 39"),
        (["FOLDER", "--prompt", "x", "--temperature", "-1"], "--temperature must be 0 or a number above it"),
        (["FOLDER", "--prompt", "x", "--temperature", "nan"], "--temperature must be"),
        (["FOLDER", "--prompt", "x", "--seed", "-1"], "--seed must be a whole number from 0 to 4294967295, not -1"),
        (["FOLDER", "--prompt", "x", "--seed", str(2**70)], "--seed must be a whole number from 0 to 4294967295"),
        (["--measure", "--shape", "tiny", "--variant", "Q-KV"], "there is no variant called 'Q-KV'"),
        (["--measure", "--shape", "tiny", "--variant", "GQA-3"], "GQA-3 needs 3 groups"),
        (["--measure", "--shape", "tiny", "--variant", "MLA"], "MLA is not for training"),
        (["--measure", "--shape", "tiny", "--variant", "(QKV)+"], "outgrows any cache"),
        (["--measure", "--shape", "tiny", "--context", "0"], "--context must be at least 1, not 0"),
        (["--measure", "--shape", "tiny", "--batch", "-1"], "--batch must be at least 1, not -1"),
        (["--measure", "--shape", "tiny", "--rounds", "0"], "--rounds must be at least 1, not 0"),
        (["--measure", "--batch", "100000"], r"take [0-9.]+ GB, and there are [0-9.]+ GB of memory; take a smaller"),
        (["--measure", "--shape", "tiny", "--out", "no/such/place.json"], "no/such/place.json: No such file"),
    ],
)
def test_mistakes_end_with_a_reason(arguments, message, folder, capsys):
    assert run(*(folder if a == "FOLDER" else a for a in arguments)) == 2
    printed = capsys.readouterr()
    assert re.search(message, printed.err) and printed.err.startswith("error: ") and "Traceback" not in printed.err
    assert printed.out == ""


def test_a_model_that_reads_no_bytes(tmp_path, capsys):
    save(Model(SMALL), tmp_path)
    assert run(tmp_path, "--prompt", "x") == 2
    assert "the model reads 11 symbols; only models of bytes" in capsys.readouterr().err


def test_a_model_whose_weights_are_no_numbers(tmp_path, capsys):
    model = Model(BYTES)
    with torch.no_grad():
        model.embedding[0] = float("nan")
    save(model, tmp_path)
    assert run(tmp_path, "--prompt", "x") == 2
    assert "its weights are damaged" in capsys.readouterr().err


def test_without_a_gpu(folder, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["decode", folder, "--prompt", "x", "--device", "cuda"]) == 2
    assert "there is no GPU that PyTorch can use here" in capsys.readouterr().err
    assert decode.on("auto") == "cpu"


def test_out_of_memory_is_said_and_other_failures_are_not_hidden(folder, monkeypatch, capsys):
    def fails(message):
        def raising(*_):
            raise RuntimeError(message)

        monkeypatch.setattr(decode, "generate", raising)

    fails("CUDA out of memory. Tried to allocate 2.00 GiB\nmore lines")
    assert run(folder, "--prompt", "x") == 2
    printed = capsys.readouterr().err
    assert "out of memory (CUDA out of memory. Tried to allocate 2.00 GiB); try --device cpu" in printed
    fails("something else")
    with pytest.raises(RuntimeError, match="something else"):
        run(folder, "--prompt", "x")


def test_the_command_line_needs_no_torch_to_explain_itself():
    code = "import sys; sys.modules['torch'] = None\nfrom qkvtheory.cli import main\nmain(['decode', '--help'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "--temperature" in done.stdout
    code = code.replace("'--help'", "'--measure'").replace("main([", "sys.exit(main([").replace("])", "]))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2 and "pip install torch" in done.stderr and "Traceback" not in done.stderr


# -- measuring ---------------------------------------------------------------------------------------------------------

TINY = decode.SHAPES["tiny"]
FIELDS = {"model", "context", "tokens_per_second", "seconds_per_token", "cache_bytes", "formula_bytes", "ratio_to_qkv"}


def test_a_measurement_in_small(tmp_path, capsys):
    out = tmp_path / "decode.json"
    variants = ["Q-K=V", "GQA-2", "slim"]
    assert run("--measure", "--shape", "tiny", "--rounds", 3, "--variant", *variants, "--out", out) == 0
    data, printed = json.loads(out.read_text()), capsys.readouterr()
    assert [(r["context"], r["model"]) for r in data["runs"]] == [
        (n, v) for n in TINY.contexts for v in ["QKV", *variants]
    ]
    assert [(r["context"], r["model"]) for r in data["rope"]] == [
        (n, v) for n in TINY.contexts for v in decode.ROTATED[:2]
    ]
    for row in data["runs"] + data["rope"]:
        assert set(row) >= FIELDS and row["batch"] == TINY.batch and row["cache_bytes"] == row["formula_bytes"] > 0
        assert row["tokens_per_second"] * row["seconds_per_token"] == pytest.approx(1, rel=2e-3)
        low, high = row["seconds_range"]
        assert low <= row["seconds_per_step"] <= high
    assert "GQA-2" in printed.err and "wrote" in printed.out
    assert data["provenance"]["threads"] == 1 and data["setting"]["device"] == "cpu"
    assert data["slim"]["rounding"]["QKV"] < data["slim"]["rounding"]["slim"] < 0.1


def test_what_was_measured_before_a_failure_is_kept(tmp_path, monkeypatch):
    out, real = tmp_path / "decode.json", decode.measured

    def failing(models, context, *more):
        if context == TINY.contexts[-1]:
            raise RuntimeError("not enough memory: you tried to allocate 9 bytes")
        return real(models, context, *more)

    monkeypatch.setattr(decode, "measured", failing)
    assert run("--measure", "--shape", "tiny", "--rounds", 1, "--variant", "Q-K=V", "--out", out) == 2
    assert {row["context"] for row in json.loads(out.read_text())["runs"]} == {TINY.contexts[0]}


def test_a_step_reads_a_cache_that_is_full_but_for_its_token():
    model = Model(replace(SMALL, variant="Q-K=V"))
    decoder = Decoder(model, 9, batch=3)
    decode.fill(decoder)
    assert all((part.abs().amin(dim=-1) > 0).all() for layer in decoder.layers for part in layer.parts)
    before = decoder.layers[0].parts[0].clone()
    assert decode.step(decoder) > 0 and decoder.length == 9
    changed = (decoder.layers[0].parts[0] != before).any(dim=-1)
    assert changed[:, :, -1].all() and not changed[:, :, :-1].any()


def test_threads_are_given_back():
    torch.set_num_threads(2)
    decode.measure(TINY, ["Q-K=V"], rounds=1)
    assert torch.get_num_threads() == 2


def test_larger_shapes_are_those_of_the_papers():
    small, large = (decode.SHAPES[name].config() for name in ("gpt3-small", "1.2b"))
    assert (small.layers, small.d, small.heads, small.vocab) == (12, 768, 12, 50257)
    assert decode.counted(large).hidden == count.preset("three-projections-1.2b").hidden


# -- the stored run ----------------------------------------------------------------------------------------------------

DATA = stored("decode")


def test_the_stored_run_is_the_one_the_module_describes():
    shape, setting, runs = decode.SHAPES["small"], DATA["setting"], DATA["runs"]
    assert (setting["d"], setting["heads"], setting["layers"]) == (shape.d, shape.heads, shape.layers)
    assert [(r["context"], r["model"]) for r in runs] == [(n, v) for n in shape.contexts for v in decode.VARIANTS]
    sizes = decode.counted(shape.config())
    for row in runs:
        name, n = row["model"], row["context"]
        assert row["cache_bytes"] == row["formula_bytes"] == count.cache_bytes(sizes, name, n, shape.batch, 4)
        assert row["macs"] == count.decode_macs(sizes, name, n).total
    assert DATA["published"] == decode.PUBLISHED


def test_the_stored_run_has_provenance_and_nothing_private():
    provenance = DATA["provenance"]
    assert {"command", "date", "machine", "commit", "versions", "threads"} <= set(provenance)
    assert provenance["command"].startswith("python -m qkvtheory decode --measure")
    assert not re.search(r"(^|[\s\"'])/\w|\\\\|@|https?:", json.dumps(DATA)), "no path, address or name of a machine"


def test_half_a_cache_saves_time_and_slim_attention_costs_some():
    """At the longest context: less cache is faster, though never by as much, and slim attention is slower than QKV."""
    last = {r["model"]: r for r in DATA["runs"] if r["context"] == max(DATA["setting"]["contexts"])}
    order = ["QKV", "Q-K=V", "GQA-4", "Q-GQA-4", "MQA", "Q-MQA"]
    ratios = [last[name]["ratio_to_qkv"] for name in order]
    assert ratios == sorted(ratios) and ratios[0] == 1 and last["slim"]["ratio_to_qkv"] < 1
    for name in order[1:]:
        assert last[name]["ratio_to_qkv"] < last["QKV"]["cache_bytes"] / last[name]["cache_bytes"]
