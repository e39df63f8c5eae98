"""Text to train on, nothing downloaded: what every Python installation carries, any text of yours, or token files.

    corpus()                    the reference documentation and the standard library of this Python, about 12 MB
    corpus("reference")         the documentation only, about half a megabyte
    corpus("notes.txt")         a text file; a folder of text files goes as well
    corpus("data/openwebtext")  a folder with train.bin and val.bin: uint16 tokens as nanoGPT writes them, memory-mapped

A batch is a function of the seed and the step and of nothing else, so a run that is resumed needs no state, and all
variants of a model see the same text in the same order.

>>> text = corpus("reference")
>>> x, y = draw(text.train, batch=4, context=32, seed=0, step=7)
>>> x.shape, bool((x[:, 1:] == y[:, :-1]).all())
((4, 32), True)
"""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import os
import platform
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

BYTES = 256  # the vocabulary of text: every byte is a token
TOKENS = 50304  # the vocabulary of token files that do not say: GPT-2's 50257, rounded up to a multiple of 64
TOKEN = np.dtype("<u2")
VALIDATION = 26  # of 256 values of a first byte: 10.2% of the documents
PIECE = 4096  # bytes of a document cut out of a single file
SHORTEST = 8  # bytes of the shortest line worth learning
MEGABYTE = 2**20
SEEDS = 2**32  # seeds and steps are below it

# Files of these kinds are read from a folder; whatever does not decode as UTF-8 is left out.
TEXT = (
    *(".c", ".cpp", ".csv", ".h", ".htm", ".html", ".java", ".jl", ".js", ".json", ".md", ".mjs", ".org", ".py", ".rs"),
    *(".rst", ".sh", ".tex", ".text", ".toml", ".ts", ".txt", ".v", ".xml", ".yaml", ".yml"),
)
# In the standard library: tests, what others installed, a second copy of the documentation, what differs by machine.
NOT_LIBRARY = {"test", "tests", "idle_test", "site-packages", "dist-packages", "pydoc_data", "sitecustomize.py"}
OF_THE_MACHINE = ("_sysconfigdata", "config-")


@dataclass(frozen=True, eq=False)
class Corpus:
    """Text or tokens in two parts.

    ``train`` and ``val`` are read-only 1-d arrays, uint8 for text and memory-mapped uint16 for token files; ``vocab``
    is the number of different tokens there can be; ``info`` says where the text comes from, ready for JSON: kind,
    amounts and SHA-256 of both parts.
    """

    name: str
    train: np.ndarray
    val: np.ndarray
    vocab: int
    info: dict[str, Any]


def corpus(source: str | Path = "python", vocab: int | None = None) -> Corpus:
    """The corpus of a name ("python", "reference") or a path (a text file, a folder of texts, a folder of token files).

    ``vocab`` is for token files only: the size of their vocabulary, where neither meta.json says it nor 50304 is right.
    A folder of your own called "python" is "./python". Raises FileNotFoundError where something is missing, ValueError
    where a file is not what it should be.

    >>> text = corpus("reference")
    >>> text.vocab, text.train.dtype.name, text.info["kind"]
    (256, 'uint8', 'reference documentation of Python')
    >>> 0.02 < len(text.val) / len(text.train) < 0.4
    True
    """
    if source not in ("python", "reference"):
        return corpus_at(Path(source), vocab)
    bytes_only(vocab)
    documents, kind = topics(), "reference documentation of Python"
    if source == "python":
        documents, kind = documents + library(), "reference documentation and standard library of Python"
    return text_corpus(str(source), kind, documents, python=platform.python_version())


def corpus_at(path: Path, vocab: int | None = None) -> Corpus:
    if not path.exists():
        raise FileNotFoundError(
            f"there is no {path}; give a text file, a folder of text files, a folder with train.bin and val.bin, "
            f"or one of the names 'python' and 'reference'"
        )
    if any((path / name).exists() for name in ("train.bin", "val.bin")):
        return token_files(path, vocab)
    bytes_only(vocab)
    if not path.is_dir():
        return text_corpus(path.name, "text file", pieces(text_file(path)))
    documents, skipped = texts(path)
    return text_corpus(path.resolve().name, "folder of text files", documents, files=len(documents), skipped=skipped)


def bytes_only(vocab: int | None) -> None:
    if vocab not in (None, BYTES):
        raise ValueError(
            f"vocab = {vocab} is for token files; text is read as bytes, its vocabulary is {BYTES}: leave it out"
        )


# -- where text comes from ---------------------------------------------------------------------------------------------


def topics() -> list[bytes]:
    """The English reference documentation that ``help("TOPIC")`` shows, one document for each topic, sorted by name."""
    try:
        found: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    except ImportError:
        raise FileNotFoundError(
            "this Python carries no reference documentation (the module pydoc_data.topics); give the path of a text"
        ) from None
    return [unix(text.encode()) for _, text in sorted(found.items())]


def library() -> list[bytes]:
    """The sources of the standard library, sorted by path, without tests and without what differs by machine."""
    root = Path(os.__file__).parent
    names = (p.relative_to(root) for p in root.rglob("*.py"))
    ours = (p for p in names if not NOT_LIBRARY & set(p.parts) and not p.parts[0].startswith(OF_THE_MACHINE))
    found = [unix((root / p).read_bytes()) for p in sorted(ours, key=Path.as_posix)]
    if not found:
        raise FileNotFoundError(
            "this Python carries no sources of its standard library (it may lie in a zip file); "
            "use corpus('reference') or give the path of a text"
        )
    return [text for text in found if is_text(text)]


def texts(folder: Path) -> tuple[list[bytes], int]:
    """All text files in and below a folder, sorted by path, and how many were left out for not being UTF-8 text."""
    names = sorted((p.relative_to(folder) for p in folder.rglob("*")), key=Path.as_posix)
    wanted = [p for p in names if p.suffix.lower() in TEXT and not any(part.startswith(".") for part in p.parts)]
    contents = [(folder / p).read_bytes() for p in wanted if (folder / p).is_file()]
    found = [content for content in contents if is_text(content)]
    if not any(content.strip() for content in found):
        raise ValueError(
            f"{folder} holds no text: {len(contents)} files end in one of {' '.join(TEXT)}, and none of them "
            f"is UTF-8 text with something in it; give another folder, or one with train.bin and val.bin"
        )
    return found, len(contents) - len(found)


def text_file(path: Path) -> bytes:
    content = path.read_bytes()
    if not content.strip():
        raise ValueError(f"{path} is empty; give a file with text in it")
    if not is_text(content):
        hint = " (for token files give the folder that holds train.bin and val.bin)" if path.suffix == ".bin" else ""
        raise ValueError(f"{path} is not text in UTF-8; save it as UTF-8, or give another file{hint}")
    return content


def pieces(text: bytes, size: int = PIECE) -> list[bytes]:
    r"""A text cut at line ends into pieces of at most ``size`` bytes; a longer line is cut at a space, else anywhere.

    The line end at a cut belongs to no piece, so joining neighbors by newlines gives the text back.

    >>> pieces(b"one\ntwo\nthree", 8)
    [b'one\ntwo', b'three']
    """
    found, start = [], 0
    while len(text) - start > size:
        ends = (text.rfind(mark, start + 1, start + size + 1) for mark in (b"\n", b" "))
        end = next((end for end in ends if end > 0), None)
        found.append(text[start : end or start + size])
        start = end + 1 if end else start + size
    return [*found, text[start:]]


def is_text(content: bytes) -> bool:
    """UTF-8 without zero bytes (which UTF-16 and most binary files have).

    >>> is_text("Ünïcode".encode()), is_text("Ünïcode".encode("latin1")), is_text(b"\\x00")
    (True, False, False)
    """
    try:
        content.decode("utf8")
    except UnicodeDecodeError:
        return False
    return b"\0" not in content


def unix(text: bytes) -> bytes:
    """Plain line ends, so that the same Python has the same corpus on every system."""
    return text.replace(b"\r\n", b"\n")


# -- two parts ---------------------------------------------------------------------------------------------------------


def split(documents: Iterable[bytes]) -> tuple[list[bytes], list[bytes]]:
    """Documents for training and documents for validation, about nine to one.

    A document is for validation when the first byte of the SHA-256 of its content is below 26. So the split depends on
    nothing but the text itself: no seed, no order, no number of documents can move a document to the other side, two
    copies of one document never come to lie on both sides, and adding documents leaves the others where they are.

    >>> [len(part) for part in split(str(i).encode() for i in range(1000))]
    [893, 107]
    """
    parts: tuple[list[bytes], list[bytes]] = ([], [])
    for document in documents:
        parts[hashlib.sha256(document).digest()[0] < VALIDATION].append(document)
    return parts


def text_corpus(name: str, kind: str, documents: Sequence[bytes], **more: Any) -> Corpus:
    """Split and join documents. Raises ValueError when one of the two parts would be empty."""
    parts = dict(zip(("train", "val"), split(d for d in documents if d.strip()), strict=True))
    for part, found in parts.items():
        if not found:
            raise ValueError(
                f"{name}: no document fell to {'training' if part == 'train' else 'validation'} "
                f"({sum(map(len, parts.values()))} in all; about one in ten is for validation; a document is a file of "
                f"a folder, or {PIECE} bytes of a single file); give more text"
            )
    joined = {part: b"\n".join(found) for part, found in parts.items()}
    info = {
        "kind": kind,
        "source": name,
        "documents": {part: len(found) for part, found in parts.items()},
        "bytes": {part: len(text) for part, text in joined.items()},
        "sha256": {part: hashlib.sha256(text).hexdigest() for part, text in joined.items()},
        **more,
    }
    train, val = (np.frombuffer(text, np.uint8) for text in joined.values())
    return Corpus(name, train, val, BYTES, info)


# -- token files -------------------------------------------------------------------------------------------------------


def token_files(folder: Path, vocab: int | None = None) -> Corpus:
    """train.bin and val.bin of a folder: little-endian uint16 tokens without a header, mapped and not read.

    The SHA-256 is that of the size in bytes (decimal digits), the first and the last megabyte: it tells files apart
    without reading gigabytes. The same two megabytes are compared with the vocabulary here, all other tokens when they
    are drawn.
    """
    size, note = vocabulary(folder, vocab)
    maps = {part: tokens(folder / f"{part}.bin") for part in ("train", "val")}
    ends = {part: (data[: MEGABYTE // 2], data[-MEGABYTE // 2 :]) for part, data in maps.items()}
    for pair in ends.values():
        for end in pair:
            below(size, end)
    info = {
        "kind": "token files",
        "source": folder.resolve().name,
        "tokens": {part: len(data) for part, data in maps.items()},
        "sha256": {part: fingerprint(maps[part].nbytes, *pair) for part, pair in ends.items()},
        "sha256 of": "size in bytes, first and last megabyte",
        "vocabulary": note,
    }
    return Corpus(folder.resolve().name, maps["train"], maps["val"], size, info)


def tokens(path: Path) -> np.ndarray:
    if not path.is_file():
        other = "val.bin" if path.name == "train.bin" else "train.bin"
        raise FileNotFoundError(f"{path.parent} holds {other} but no {path.name}; both are needed, one for each part")
    size = path.stat().st_size
    if size == 0:
        raise ValueError(f"{path} is empty; expected uint16 tokens")
    if size % TOKEN.itemsize:
        raise ValueError(
            f"{path} has {size} bytes, an odd number; expected uint16 tokens, two bytes each: "
            f"write it again (numpy.array(tokens, dtype='uint16').tofile(path))"
        )
    return np.memmap(path, TOKEN, mode="r")


def vocabulary(folder: Path, vocab: int | None) -> tuple[int, str]:
    """The number of tokens and who says so. A meta.pkl is never opened: unpickling runs whatever its author wrote."""
    meta, limit = folder / "meta.json", 2 ** (8 * TOKEN.itemsize)
    if vocab is not None:
        size, note = vocab, "given"
    elif meta.is_file():
        try:
            size, note = json.loads(meta.read_text("utf8"))["vocab_size"], "from meta.json"
        except (ValueError, KeyError, TypeError):
            raise ValueError(f'{meta} does not say the size of the vocabulary; expected {{"vocab_size": n}}') from None
    else:
        size, note = TOKENS, "assumed: GPT-2's, rounded up"
        if (folder / "meta.pkl").exists():
            note += '; meta.pkl was not opened, say the size in meta.json: {"vocab_size": n}'
    if type(size) is not int or not 1 < size <= limit:
        raise ValueError(f"a vocabulary of {size!r} ({note}); expected a whole number from 2 to {limit}")
    return size, note


def fingerprint(size: int, *ends: np.ndarray) -> str:
    return hashlib.sha256(b"".join([str(size).encode(), *(end.tobytes() for end in ends)])).hexdigest()


def below(vocab: int, found: np.ndarray) -> None:
    """Raises ValueError when a token is not below the vocabulary."""
    if found.size and found.max() >= vocab:
        raise ValueError(
            f"token {found.max()} in a vocabulary of {vocab}; give its true size "
            f'(meta.json: {{"vocab_size": n}}, or vocab = n) or write the tokens again'
        )


# -- batches -----------------------------------------------------------------------------------------------------------


def generator(seed: int, step: int) -> np.random.Generator:
    """The random numbers of one step of one seed, both whole numbers from 0 to 2^32 - 1, else ValueError.

    >>> generator(0, 7).integers(100) == generator(0, 7).integers(100)
    np.True_
    """
    for name, value in (("seed", seed), ("step", step)):
        if not 0 <= value < SEEDS:
            raise ValueError(f"{name} = {value}; expected a whole number from 0 to {SEEDS - 1}")
    return np.random.default_rng([seed, step])


def draw(
    data: np.ndarray, batch: int, context: int, seed: int, step: int, vocab: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets (batch, context), int64: windows from anywhere, targets one token further.

    The same seed and step give the same batch. With ``vocab`` every token drawn is compared with it. Raises ValueError
    for a text that is too short or a token that is too large.

    >>> x, y = draw(np.arange(100, dtype=np.uint8), batch=2, context=4, seed=1, step=0)
    >>> x.dtype.name, bool((y == x + 1).all())
    ('int64', True)
    """
    long_enough(data, batch, context)
    starts = generator(seed, step).integers(len(data) - context, size=batch)
    return taken(data, starts, context, vocab)


def windows(
    data: np.ndarray, batch: int, context: int, limit: int | None = None, vocab: int | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Inputs and targets of windows one after the other, to validate on: every token is a target once at most.

    At most ``limit`` windows in all, ``batch`` at a time (fewer in the last batch); what does not fill a window at the
    end is left. Raises as ``draw`` does, before the first batch.

    >>> [x.tolist() for x, y in windows(np.arange(8), batch=2, context=2)]
    [[[0, 1], [2, 3]], [[4, 5]]]
    """
    long_enough(data, batch, context)
    if limit is not None and limit < 1:
        raise ValueError(f"limit = {limit}; expected at least one window, or None for all")
    count = (len(data) - 1) // context
    starts = context * np.arange(count if limit is None else min(count, limit))
    return (taken(data, starts[i : i + batch], context, vocab) for i in range(0, len(starts), batch))


def taken(data: np.ndarray, starts: np.ndarray, context: int, vocab: int | None) -> tuple[np.ndarray, np.ndarray]:
    # np.asarray of a memory map is a view; indexing then reads the pages of these windows and no others
    found = np.asarray(data)[starts[:, None] + np.arange(context + 1)]
    if vocab is not None:
        below(vocab, found)
    found = found.astype(np.int64)
    return found[:, :-1], found[:, 1:]


def long_enough(data: np.ndarray, batch: int, context: int) -> None:
    for name, value in (("batch", batch), ("context", context)):
        if value < 1:
            raise ValueError(f"{name} = {value}; expected at least 1")
    if len(data) <= context:
        raise ValueError(
            f"a text of {len(data)} tokens is too short for a context of {context}: expected at least {context + 1}, "
            f"the last is a target only; give a longer text or a shorter context"
        )


def bits_per_byte(nats: float) -> float:
    """A loss in nats per byte as bits per byte: 8 says nothing was learned.

    >>> bits_per_byte(math.log(256))
    8.0
    """
    return nats / math.log(2)


# -- short documents ---------------------------------------------------------------------------------------------------


def lines(data: np.ndarray, longest: int) -> list[np.ndarray]:
    r"""The lines of a text as short documents: without spaces around them, those of 8 to ``longest`` bytes.

    Some lines stand in many documents ("Changed in version 3.8: ..."): of the lines to validate on, a few are known.

    >>> [line.tobytes() for line in lines(np.frombuffer(b"a first line\n  short\n", np.uint8), 64)]
    [b'a first line']
    """
    if data.dtype != np.uint8:
        raise ValueError(f"lines are cut from bytes; expected an array of uint8, got {data.dtype}: give a text")
    stripped = (line.strip() for line in data.tobytes().split(b"\n"))
    return [np.frombuffer(line, np.uint8) for line in stripped if SHORTEST <= len(line) <= longest]


def draw_documents(
    documents: Sequence[np.ndarray], batch: int, context: int, seed: int, step: int, pad: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One document in each row, filled up with ``pad``: inputs and targets (batch, context), int64, and ``real``.

    ``real`` is (batch, context), boolean, True where the target is a byte of the document and False where it is
    filling. To leave filling out of the loss: ``np.where(real, y, -100)``. Zero is a good ``pad`` for text, which has
    no zero bytes. A pure function of seed and step, as ``draw``. Raises ValueError for a document of fewer than 2
    tokens or more than the context.

    >>> x, y, real = draw_documents([np.array([5, 6, 7])], batch=1, context=4, seed=0, step=0, pad=0)
    >>> x.tolist(), y.tolist(), real.tolist()
    ([[5, 6, 7, 0]], [[6, 7, 0, 0]], [[True, True, False, False]])
    """
    if batch < 1 or not len(documents):
        raise ValueError(f"a batch of {batch} from {len(documents)} documents; expected at least one of both")
    if pad < 0:
        raise ValueError(
            f"pad = {pad}; expected a token, 0 or more: it is an input too (set targets to -100 by `real`)"
        )
    chosen = [documents[i] for i in generator(seed, step).integers(len(documents), size=batch)]
    lengths = np.array([len(document) for document in chosen])
    if lengths.max() > context or lengths.min() < 2:
        wrong = lengths[(lengths > context) | (lengths < 2)][0]
        raise ValueError(f"a document of {wrong} tokens; expected 2 to {context}, the context")
    rows = np.full((batch, context + 1), pad, np.int64)
    for row, document in zip(rows, chosen, strict=True):
        row[: len(document)] = document
    return rows[:, :-1], rows[:, 1:], np.arange(1, context + 1) < lengths[:, None]
