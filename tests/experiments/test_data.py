"""Texts to train on: where they come from, how they are split, and that a batch depends on seed and step only."""

import hashlib
import json
import math
import os
import pickle
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from qkvtheory.experiments import data
from qkvtheory.experiments.data import bits_per_byte, corpus, draw, draw_documents, lines, pieces, windows


def for_validation(content: bytes) -> bool:
    return int(hashlib.sha256(content).hexdigest(), 16) >> 248 < 26


def made_up(count=60):
    return {f"{i:02}.txt": f"Document {i} says {i * i}.".encode() for i in range(count)}


@pytest.fixture
def folder(tmp_path):
    for name, content in made_up().items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


@pytest.fixture
def token_folder(tmp_path):
    def write(train=range(1000), val=range(100), **files):
        for name, found in (("train", train), ("val", val)):
            if found is not None:
                np.array(found, "<u2").tofile(tmp_path / f"{name}.bin")
        for name, content in files.items():
            (tmp_path / name.replace("_", ".")).write_bytes(content)
        return tmp_path

    return write


# -- the text every Python carries -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built_in():
    return corpus()


def test_the_built_in_corpus_says_what_it_is(built_in):
    info = built_in.info
    assert json.loads(json.dumps(info)) == info
    assert info["python"] == ".".join(map(str, sys.version_info[:3]))
    assert built_in.vocab == 256 and built_in.train.dtype == built_in.val.dtype == np.uint8
    for part in ("train", "val"):
        found = getattr(built_in, part)
        assert info["bytes"][part] == found.size > 200_000
        assert info["sha256"][part] == hashlib.sha256(found.tobytes()).hexdigest()
        found.tobytes().decode("utf8")
        assert 0 not in found and not found.flags.writeable
    assert 0.05 < built_in.val.size / built_in.train.size < 0.25
    assert b'The "if" statement' in corpus("reference").train.tobytes() + corpus("reference").val.tobytes()


def test_it_is_the_same_in_another_process(built_in):
    code = "import json; from qkvtheory.experiments.data import corpus; print(json.dumps(corpus().info))"
    fresh = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(fresh.stdout) == built_in.info


def test_it_holds_the_library_and_nothing_of_this_machine(built_in):
    root = Path(os.__file__).parent
    text = built_in.train.tobytes() + b"\n" + built_in.val.tobytes()
    for name in ("os.py", "json/decoder.py", "asyncio/events.py"):
        assert (root / name).read_bytes().replace(b"\r\n", b"\n") in text
    for absent in root.glob("_sysconfigdata*.py"):
        assert absent.read_bytes() not in text
    assert b"class TestCase" in text  # unittest belongs to the library, its tests do not


def test_the_reference_is_a_part_of_it(built_in):
    """A topic lies on the same side in both, because the side depends on the topic only."""
    reference = corpus("reference")
    assert built_in.train.tobytes().startswith(reference.train.tobytes() + b"\n")
    assert built_in.val.tobytes().startswith(reference.val.tobytes() + b"\n")


def test_torch_is_not_needed():
    code = "import sys; sys.modules['torch'] = None; from qkvtheory.experiments import data, tasks; data.corpus()"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_python_without_documentation_or_sources(monkeypatch, tmp_path):
    monkeypatch.setattr(data.os, "__file__", str(tmp_path / "os.py"))
    with pytest.raises(FileNotFoundError, match=r"use corpus\('reference'\)"):
        corpus("python")
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(FileNotFoundError, match="give the path of a text"):
        corpus("reference")


def test_sources_that_are_left_out(monkeypatch, tmp_path):
    kept = ["a.py", "b/c.py"]
    out = [
        "test/a.py",
        "b/tests/a.py",
        "idlelib/idle_test/a.py",
        "site-packages/a.py",
        "dist-packages/x/a.py",
        "note.txt",
    ]
    out += ["pydoc_data/topics.py", "config-3.11/python-config.py", "_sysconfigdata__linux.py", "sitecustomize.py"]
    for name in kept + out:
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(f"# {name}\r\n".encode())
    (tmp_path / "latin.py").write_bytes("# ü".encode("latin1"))
    monkeypatch.setattr(data.os, "__file__", str(tmp_path / "os.py"))
    assert data.library() == [f"# {name}\n".encode() for name in kept]


# -- the split ---------------------------------------------------------------------------------------------------------


def test_the_split_of_a_made_up_corpus(folder):
    """Against a second computation, of the digest as a number; and written down, so that it cannot drift."""
    found, contents = corpus(folder), [content for _, content in sorted(made_up().items())]
    train, val = ([c for c in contents if for_validation(c) == side] for side in (False, True))
    assert found.train.tobytes() == b"\n".join(train) and found.val.tobytes() == b"\n".join(val)
    assert found.info["documents"] == {"train": len(train), "val": len(val)} and len(val) > 2
    assert found.info["sha256"]["val"] == "6fdf8de3f34d85737d3797e17adc62ea7a85dc4d0df2c1870e47e47dcbd282d5"


def test_no_document_is_on_both_sides_and_others_do_not_matter(folder):
    before = corpus(folder)
    (folder / "copy.txt").write_bytes(made_up()["07.txt"])
    (folder / "new.md").write_text("A new document.")
    after = corpus(folder)
    sides = [set(part.tobytes().split(b"\n")) for part in (after.train, after.val)]
    assert not sides[0] & sides[1]
    assert set(before.train.tobytes().split(b"\n")) <= sides[0] and set(before.val.tobytes().split(b"\n")) <= sides[1]


def test_about_one_document_in_ten_is_for_validation():
    count = 20_000
    train, val = data.split(str(i).encode() for i in range(count))
    expected = 26 / 256
    assert len(train) + len(val) == count
    assert abs(len(val) / count - expected) < 4 * math.sqrt(expected * (1 - expected) / count)


def test_a_single_file_is_cut_at_line_ends(tmp_path):
    text = "".join(f"Line {i} of a text, a little longer than the others: {'x' * (i % 70)}\n" for i in range(3000))
    (tmp_path / "book.txt").write_text(text)
    cut = pieces(text.encode())
    assert b"\n".join(cut) == text.encode()
    assert all(3900 < len(piece) <= 4096 for piece in cut[:-1])
    assert all(piece.startswith(b"Line") for piece in cut if piece)
    found = corpus(tmp_path / "book.txt")
    assert found.name == "book.txt" and found.info["kind"] == "text file"
    assert found.train.tobytes() == b"\n".join(p for p in cut if p and not for_validation(p))
    assert found.val.tobytes() == b"\n".join(p for p in cut if for_validation(p) and p)


@pytest.mark.parametrize(
    "text", [b"", b"\n\n\n\n\n\n", b"a\nb", b"12345678", b"\n1234567890", b"123456789\n", b"1234 67890 1"]
)
def test_pieces_lose_nothing_but_the_ends_of_lines_and_words(text):
    cut = pieces(text, 8)
    assert b"".join(text.split()) == b"".join(b"".join(cut).split())
    assert all(len(piece) <= 8 for piece in cut)


def test_a_line_without_end_is_cut_at_spaces_or_anywhere():
    assert pieces(b"one two three", 8) == [b"one two", b"three"]
    assert pieces(b"0123456789", 4) == [b"0123", b"4567", b"89"]


# -- folders and files of others ---------------------------------------------------------------------------------------


def test_a_folder_leaves_out_what_is_hidden_or_not_text(folder):
    before = corpus(folder)
    (folder / ".hidden").mkdir()
    for name, content in {
        ".secret.txt": b"hidden",
        ".hidden/a.txt": b"hidden too",
        "picture.png": b"not asked for",
        "latin.txt": "Größe".encode("latin1"),
        "zero.md": b"a\0b",
        "empty.rst": b"\n",
    }.items():
        (folder / name).write_bytes(content)
    after = corpus(folder)
    assert before.train.tobytes() == after.train.tobytes() and before.val.tobytes() == after.val.tobytes()
    assert (before.info["skipped"], after.info["skipped"]) == (0, 2)
    assert str(folder) not in json.dumps(after.info) and str(folder) != after.name


def test_folders_in_folders_are_read_in_the_order_of_their_paths(tmp_path):
    for i, (name, content) in enumerate(made_up().items()):
        (tmp_path / "ba"[i % 2]).mkdir(exist_ok=True)
        (tmp_path / "ba"[i % 2] / name).write_bytes(content)
    contents = list(made_up().values())
    ordered = contents[1::2] + contents[::2]
    assert corpus(tmp_path).train.tobytes() == b"\n".join(c for c in ordered if not for_validation(c))


def test_paths_that_are_no_corpus(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no .*missing; give a text file, a folder"):
        corpus(tmp_path / "missing")
    with pytest.raises(FileNotFoundError, match="there is no pyhton"):
        corpus("pyhton")
    with pytest.raises(ValueError, match="holds no text: 0 files"):
        corpus(tmp_path)
    file = tmp_path / "a.txt"
    file.write_bytes(b" \n")
    with pytest.raises(ValueError, match=r"a\.txt is empty"):
        corpus(file)
    with pytest.raises(ValueError, match="holds no text: 1 files"):
        corpus(tmp_path)
    for content in (b"\xff\xfe", b"PK\x03\x04\x00"):
        file.write_bytes(content)
        with pytest.raises(ValueError, match="not text in UTF-8; save it as UTF-8"):
            corpus(file)
    (tmp_path / "x.bin").write_bytes(b"\xff\xff")
    with pytest.raises(ValueError, match=r"folder that holds train\.bin and val\.bin"):
        corpus(tmp_path / "x.bin")
    with pytest.raises(ValueError, match="vocab = 300 is for token files"):
        corpus("reference", vocab=300)


@pytest.mark.parametrize("side", ["train", "val"])
def test_a_text_with_one_side_only(tmp_path, side):
    chosen = [c for c in made_up().values() if for_validation(c) == (side == "val")]
    (tmp_path / "short.txt").write_bytes(chosen[0])
    other = {"train": "validation", "val": "training"}[side]
    with pytest.raises(ValueError, match=f"no document fell to {other} .1 in all.*give more text"):
        corpus(tmp_path / "short.txt")


# -- token files -------------------------------------------------------------------------------------------------------


def test_token_files_are_mapped_and_not_read(token_folder):
    folder = token_folder(train=[], val=range(5000))
    with open(folder / "train.bin", "wb") as file:  # 600 MB that take no room on the disk
        file.truncate(600 * 2**20)
    tracemalloc.start()
    found = corpus(folder)
    x, _ = draw(found.train, 64, 512, seed=0, step=0, vocab=found.vocab)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(found.train, np.memmap) and found.train.mode == "r" and found.train.size == 300 * 2**20
    assert peak < 10 * 2**20
    assert type(x) is np.ndarray and not x.any()
    assert found.info["tokens"] == {"train": 300 * 2**20, "val": 5000}


def test_tokens_are_little_endian(token_folder):
    folder = token_folder(val=None, val_bin=b"\x01\x02\x03\x00")
    assert corpus(folder).val.tolist() == [513, 3]


def test_the_fingerprint_of_tokens(token_folder):
    folder = token_folder(train=np.arange(2**20) % 50000)
    content = (folder / "train.bin").read_bytes()
    expected = hashlib.sha256(b"2097152" + content[: 2**20] + content[-(2**20) :]).hexdigest()
    assert corpus(folder).info["sha256"]["train"] == expected
    small = b"200" + 2 * (folder / "val.bin").read_bytes()
    assert corpus(folder).info["sha256"]["val"] == hashlib.sha256(small).hexdigest()


def test_the_vocabulary_of_tokens(token_folder):
    assert corpus(token_folder()).vocab == 50304
    assert corpus(token_folder(), vocab=1000).vocab == 1000
    assert corpus(token_folder(meta_json=b'{"vocab_size": 1024}')).vocab == 1024
    assert corpus(token_folder(), vocab=2000).vocab == 2000
    for wrong in (b"{}", b"not json", b"[1]"):
        with pytest.raises(ValueError, match="does not say the size of the vocabulary"):
            corpus(token_folder(meta_json=wrong))
    for wrong in (b'{"vocab_size": 70000}', b'{"vocab_size": "many"}', b'{"vocab_size": 1}'):
        with pytest.raises(ValueError, match="expected a whole number from 2 to 65536"):
            corpus(token_folder(meta_json=wrong))


class Trap:
    """Unpickling it leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_pickle_is_never_opened(token_folder, tmp_path):
    trap = pickle.dumps(Trap(str(tmp_path / "sprung")))
    found = corpus(token_folder(meta_pkl=trap))
    assert found.vocab == 50304 and "meta.pkl was not opened" in found.info["vocabulary"]
    assert not (tmp_path / "sprung").exists()
    pickle.loads(trap)
    assert (tmp_path / "sprung").exists()  # the trap works


def test_token_files_that_are_wrong(token_folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds train\.bin but no val\.bin"):
        corpus(token_folder(val=None))
    token_folder(val=[])
    with pytest.raises(ValueError, match=r"val\.bin is empty"):
        corpus(tmp_path)
    (tmp_path / "val.bin").write_bytes(b"123")
    with pytest.raises(ValueError, match=r"has 3 bytes, an odd number"):
        corpus(tmp_path)
    token_folder()
    (tmp_path / "train.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds val\.bin but no train\.bin"):
        corpus(tmp_path)


def test_tokens_outside_the_vocabulary(token_folder):
    with pytest.raises(ValueError, match="token 999 in a vocabulary of 500"):
        corpus(token_folder(), vocab=500)
    hidden = np.zeros(2**21, "<u2")  # one large token in the middle, where only a draw can meet it
    hidden[2**20] = 600
    found = corpus(token_folder(train=hidden, val=range(100)), vocab=500)
    around = found.train[2**20 - 3 : 2**20 + 3]
    for batches in (lambda v: draw(around, 4, 5, 0, 0, v), lambda v: next(windows(around, 1, 5, vocab=v))):
        for vocab in (500, 600):
            with pytest.raises(ValueError, match=f"token 600 in a vocabulary of {vocab}"):
                batches(vocab)
        assert batches(601)[0].max() <= 600


# -- batches -----------------------------------------------------------------------------------------------------------


def test_a_batch_depends_on_seed_and_step_only():
    text = np.random.default_rng(0).integers(256, size=5000).astype(np.uint8)
    first = draw(text, 8, 32, seed=3, step=5)
    np.random.seed(1)
    draw(text, 8, 32, seed=3, step=6)
    again = draw(text, 8, 32, seed=3, step=5)
    assert all((a == b).all() and a.dtype == np.int64 and a.shape == (8, 32) for a, b in zip(first, again, strict=True))
    for seed, step in ((3, 6), (4, 5), (5, 3)):
        assert (draw(text, 8, 32, seed, step)[0] != first[0]).any()
    assert (first[0][:, 1:] == first[1][:, :-1]).all()


def test_windows_start_anywhere_with_equal_chance():
    """Every possible start occurs, the first and the last too, as often as the others."""
    text, context, batch, steps = np.arange(20), 4, 100, 100
    starts = np.concatenate([draw(text, batch, context, 0, step)[0][:, 0] for step in range(steps)])
    counts = np.bincount(starts, minlength=20)
    assert counts[16:].sum() == 0
    expected = batch * steps / 16
    assert ((counts[:16] - expected) ** 2 / expected).sum() < 37.7  # chi squared, 15 degrees of freedom, 0.1%
    x, y = draw(text, batch, context, 0, 0)
    assert (y == x + 1).all() and y.max() == 19


def test_windows_go_through_the_text_once():
    text = np.arange(103)
    found = list(windows(text, batch=4, context=10))
    assert [len(x) for x, _ in found] == [4, 4, 2]
    assert np.concatenate([y.ravel() for _, y in found]).tolist() == list(range(1, 101))
    assert all((y == x + 1).all() and x.dtype == np.int64 for x, y in found)
    assert sum(len(x) for x, _ in windows(text, 4, 10, limit=5)) == 5
    assert sum(len(x) for x, _ in windows(text, 4, 10, limit=99)) == 10
    for length, expected in ((11, 1), (20, 1), (21, 2)):  # the last token is a target only
        assert sum(len(x) for x, _ in windows(np.arange(length), 4, 10)) == expected


@pytest.mark.parametrize("batches", [lambda *a: draw(*a, seed=0, step=0), windows])
def test_what_cannot_be_drawn(batches):
    with pytest.raises(ValueError, match="10 tokens is too short for a context of 10: expected at least 11"):
        batches(np.arange(10), 2, 10)
    for sizes, name in (((0, 4), "batch"), ((2, 0), "context")):
        with pytest.raises(ValueError, match=f"{name} = 0; expected at least 1"):
            batches(np.arange(10), *sizes)


def test_seeds_and_limits_that_cannot_be():
    for wrong in ({"seed": -1, "step": 0}, {"seed": 0, "step": 2**32}):
        with pytest.raises(ValueError, match="expected a whole number from 0 to 4294967295"):
            draw(np.arange(10), 2, 4, **wrong)
    with pytest.raises(ValueError, match="limit = 0"):
        windows(np.arange(10), 2, 4, limit=0)


def test_bits_per_byte():
    assert bits_per_byte(math.log(2)) == 1
    assert bits_per_byte(2.0) == pytest.approx(2.885390)


# -- short documents ---------------------------------------------------------------------------------------------------


def test_lines_of_a_text():
    text = b"  eight bytes or more\r\n1234567\n12345678\n   \n" + b"x" * 30 + b"\n" + b"y" * 31
    found = [line.tobytes() for line in lines(np.frombuffer(text, np.uint8), 30)]
    assert found == [b"eight bytes or more", b"12345678", b"x" * 30]
    with pytest.raises(ValueError, match="expected an array of uint8, got uint16"):
        lines(np.arange(5, dtype=np.uint16), 30)


def test_lines_of_the_reference():
    found = corpus("reference")
    for part in (found.train, found.val):
        documents = lines(part, 64)
        assert len(documents) > 100 and {len(d) for d in documents} <= set(range(8, 65))


def test_documents_are_padded_and_only_bytes_are_real():
    documents = [np.frombuffer(text, np.uint8) for text in (b"01234567", b"a line of 16 byt", b"twelve bytes")]
    x, y, real = draw_documents(documents, batch=50, context=16, seed=1, step=2, pad=0)
    assert x.shape == y.shape == real.shape == (50, 16) and x.dtype == y.dtype == np.int64 and real.dtype == bool
    seen = set()
    for inputs, targets, scored in zip(x, y, real, strict=True):
        content = bytes([inputs[0], *targets[scored].tolist()])
        seen.add(content)
        assert bytes(inputs.tolist()) == content.ljust(16, b"\0")
        assert not targets[~scored].any() and (np.diff(scored.astype(int)) <= 0).all()
    assert seen == {d.tobytes() for d in documents}
    again = draw_documents(documents, batch=50, context=16, seed=1, step=2, pad=0)
    assert all((a == b).all() for a, b in zip((x, y, real), again, strict=True))
    other = draw_documents(documents, batch=50, context=16, seed=1, step=3, pad=0)
    assert (other[0] != x).any()


def test_a_byte_that_equals_the_padding_is_still_real():
    _, y, real = draw_documents([np.array([7, 7, 7])], 1, 5, 0, 0, pad=7)
    assert (y == 7).all() and real.tolist() == [[True, True, False, False, False]]


def test_documents_that_do_not_fit():
    short, long = np.arange(1), np.arange(9)
    for wrong in (short, long):
        with pytest.raises(ValueError, match=f"a document of {len(wrong)} tokens; expected 2 to 8, the context"):
            draw_documents([wrong], 1, 8, 0, 0, pad=0)
    with pytest.raises(ValueError, match="a batch of 4 from 0 documents"):
        draw_documents([], 4, 8, 0, 0, pad=0)
    with pytest.raises(ValueError, match="pad = -100; expected a token"):
        draw_documents([np.arange(4)], 1, 8, 0, 0, pad=-100)
