"""The lines of the benchmark. Every function is one line or a few; a peer is run in turn with ours, never apart."""

from __future__ import annotations

import gzip
import importlib.util
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from qkvtheory import Attention, Block, Heads, Network, reparametrize, tying, words
from qkvtheory.gauge import rebase
from qkvtheory.network import MLP
from qkvtheory.stacks import eliminate_queries

ROOT = Path(__file__).parents[2]
HTML = ROOT / "_build" / "html"


@dataclass(frozen=True)
class Row:
    """One measurement. ``ratio`` is ours / peer; figures carry their unit."""

    what: str
    ours: str
    peer: str = ""
    ratio: float | None = None
    budget: str = ""

    def __str__(self) -> str:
        ratio = "" if self.ratio is None else f"{self.ratio:8.3g}"
        return f"{self.what:46} {self.ours:>12} {self.peer:>12} {ratio:>8}  {self.budget}"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def timed(action: Callable[[], Any]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def in_turn(ours: Callable[[], Any], peer: Callable[[], Any], rounds: int = 5) -> tuple[float, float, float]:
    """Median seconds of each, and the median of the ratios taken pair by pair, after one round that does not count."""
    ours(), peer()
    pairs = [(timed(ours), timed(peer)) for _ in range(rounds)]
    a, b = (statistics.median(column) for column in zip(*pairs, strict=True))
    return a, b, statistics.median(x / y for x, y in pairs)


def ms(seconds: float) -> str:
    return f"{1e3 * seconds:.2f} ms" if seconds < 1 else f"{seconds:.2f} s"


# -- the package -------------------------------------------------------------------------------------------------------


def base_import() -> Iterator[Row]:
    """A new process that imports the package, against one that imports NumPy alone."""

    def run(module: str) -> Callable[[], Any]:
        return lambda: subprocess.run([sys.executable, "-c", f"import {module}"], check=True, cwd=ROOT)

    ours, peer, ratio = in_turn(run("qkvtheory"), run("numpy"))
    yield Row("import qkvtheory (peer: import numpy)", ms(ours), ms(peer), ratio, "0.2 s more")


def word_block(label: str = "") -> Block:
    def letter(name: str, rows: str, cols: str) -> words.Word:
        return words.symbol(name + label, rows, cols)

    core, act = words.opaque(f"g{label}", f"o{label}"), words.opaque(f"phi{label}", f"m{label}")
    W_Q = words.symbol(f"Q{label}", "d", "d", invertible=True)
    attention = Attention(core, W_Q, letter("K", "d", "k"), letter("V", "d", "v"), letter("O", f"o{label}", "d"))
    return Block(attention, MLP(act, letter("U", "d", "h"), letter("D", f"m{label}", "d")))


def induction_step() -> Iterator[Row]:
    """block'(x Theta) = block(x) Next, for all sizes: words against SymPy's expand and doit on the same step."""
    from tests.bench.sympy_peer import sympy_step

    block, x = word_block(), words.symbol("X", "n", "d")
    leave = words.symbol("N", "d", "d", invertible=True)

    def ours() -> None:
        assert rebase(block, block.attention.W_Q, leave)(x @ block.attention.W_Q) == block(x) @ leave

    a, b, ratio = in_turn(ours, sympy_step)
    yield Row("induction step (peer: SymPy expand, doit)", ms(a), ms(b), ratio, "under 0.2 s")


def unrolled() -> Iterator[Row]:
    """The real loop over 1000 blocks, both sides and their comparison."""
    network = Network(
        words.symbol("E", "v", "d"), [word_block(str(i)) for i in range(1000)], words.symbol("R", "d", "w")
    )
    tokens = words.symbol("T", "n", "v")

    def ours() -> None:
        assert eliminate_queries(network)(tokens) == network(tokens)

    yield Row(
        "unrolled attention-skip loop, L = 1000", ms(statistics.median(timed(ours) for _ in range(3))), budget="1 s"
    )


def elimination() -> Iterator[Row]:
    """W_Q eliminated from one layer of GPT-3-small shape, against bare LAPACK: one inverse plus two products."""
    d = 768
    rng = np.random.default_rng(0)
    W_Q, W_K, W_V, W_O = (rng.normal(size=(d, d)) / d**0.5 for _ in range(4))
    attention = Attention(Heads(12), W_Q, W_K, W_V, W_O)

    def bare() -> Any:
        back = np.linalg.inv(W_Q)
        return back @ W_K, back @ W_V

    a, b, ratio = in_turn(lambda: reparametrize(attention), bare, rounds=9)
    yield Row("eliminate W_Q, d = 768 (peer: bare LAPACK)", ms(a), ms(b), ratio, "1.3")
    tracemalloc.start()
    _, new = reparametrize(attention)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    both = sum(w.nbytes for w in (W_Q, W_K, W_V, W_O)) + sum(w.nbytes for w in (new.W_Q, new.W_K, new.W_V))
    yield Row(
        "  memory at its peak (peer: input + output)",
        f"{peak / 1e6:.0f} MB more",
        f"{both / 1e6:.0f} MB",
        peak / both,
        "1.1",
    )


def network_elimination(layers: int = 3, d: int = 768, hidden: int = 3072, vocabulary: int = 1000) -> Iterator[Row]:
    """All W_Q of a stack with skips around attention only, in GPT-3-small shapes but 3 layers and few tokens.

    The peer is bare LAPACK: for each layer one inverse and the five products that the theorem asks for. Memory is that
    of both networks at once against the most that was held on the way.
    """
    old = stack(layers, d, hidden, vocabulary)
    a, b, ratio = in_turn(lambda: eliminate_queries(old), lambda: bare_elimination(old))
    yield Row(f"eliminate all W_Q, d = {d}, L = {layers} (bare LAPACK)", ms(a), ms(b), ratio, "1.3")
    tracemalloc.start()
    new = eliminate_queries(old)
    before, more = held(old), tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    both = before + held(new)
    yield Row(
        "  memory at its peak (peer: input + output)",
        f"{(before + more) / 1e6:.0f} MB",
        f"{both / 1e6:.0f} MB",
        (before + more) / both,
        "1.1",
    )


def stack(layers: int, d: int, hidden: int, vocabulary: int) -> Network:
    """Random weights, skips around attention only, heads of width 64."""
    rng = np.random.default_rng(0)

    def draw(rows: int, cols: int) -> np.ndarray:
        return rng.normal(size=(rows, cols)) / rows**0.5

    def layer() -> Block:
        square = (draw(d, d) for _ in range(4))
        return Block(Attention(Heads(d // 64), *square), MLP(np.tanh, draw(d, hidden), draw(hidden, d)))

    return Network(draw(vocabulary, d), [layer() for _ in range(layers)], draw(d, vocabulary))


def bare_elimination(network: Network) -> list[np.ndarray]:
    """The matrices that change, in the order E, then W_K, W_V, W_O, W_up, W_down of every layer; nothing is checked."""
    bases = [block.attention.W_Q for block in network.blocks]
    made = [network.embedding @ bases[0]]
    for block, basis, following in zip(network.blocks, bases, [*bases[1:], None], strict=True):
        a, mlp, back = block.attention, block.mlp, np.linalg.inv(basis)
        made += [back @ a.W_K, back @ a.W_V, a.W_O @ basis, back @ mlp.W_up]
        made += [mlp.W_down if following is None else mlp.W_down @ following]
    return made


def held(network: Network) -> int:
    """Bytes of all matrices of a network."""
    layers = [part for block in network.blocks for part in (block.attention, block.mlp)]
    matrices = [m for part in (network, *layers) for m in vars(part).values() if isinstance(m, np.ndarray)]
    return sum(m.nbytes for m in matrices)


def cached_decoding(n: int = 512, d: int = 512, heads: int = 8) -> Iterator[Row]:
    """One more token after n, from the cache of each variant. The peer passes the whole text again, without a cache."""
    x = np.random.default_rng(0).normal(size=(n + 1, d))
    for name in ("QKV", "Q-K=V", "MQA", "slim"):
        layer = tying.build(name, d, heads)
        _, cache = layer.decode(x[:-1])
        whole = layer.attention(n + 1)
        a, b, ratio = in_turn(partial(layer.decode, x[-1:], cache), partial(whole, x), rounds=9)
        yield Row(f"decode a token after {n}, {name} (peer: all again)", ms(a), ms(b), ratio)


def decoding(contexts: tuple[int, ...] = (8192,), rounds: int = 5) -> Iterator[Row]:
    """A token after a long context, from real caches, one core: Q-K=V and MQA against QKV in the same rounds."""
    if importlib.util.find_spec("torch") is None:
        yield Row("decoding from real caches", "not run here", budget="needs torch")
        return
    from qkvtheory.experiments import decode

    rows = decode.measure(replace(decode.SHAPES["small"], contexts=contexts), ["Q-K=V", "MQA"], rounds)["runs"]
    for context in contexts:
        qkv, *others = (row for row in rows if row["context"] == context)
        for row in others:
            speeds = (f"{r['tokens_per_second']:.0f} tokens/s" for r in (row, qkv))
            seconds = 1 / row["ratio_to_qkv"]
            yield Row(f"decode at {context:,}: {row['model']} (peer: QKV; in time)", *speeds, seconds, "below 1")
    equal = sum(row["cache_bytes"] == row["formula_bytes"] for row in rows)
    yield Row("  caches whose bytes equal the formula", f"{equal}", f"{len(rows)}", equal / len(rows), "1")


def training(
    layers: int = 4, d: int = 128, heads: int = 4, n: int = 128, batch: int = 16, rounds: int = 5
) -> Iterator[Row]:
    """Training, forwards, backwards and AdamW, on one thread; the peer is Hugging Face's GPT-2 of this shape."""
    what = f"train L = {layers}, d = {d}, tokens/s (peer: HF GPT-2)"
    try:
        import torch
        import transformers  # noqa: F401
    except ImportError:
        yield Row(what, "not run here", budget="needs PyTorch and transformers")
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        ours, peer = our_model(layers, d, heads, n), hf_gpt2(layers, d, heads, n)
        a, b, ratio = in_turn(training_step(ours, n, batch), training_step(peer, n, batch), rounds)
    finally:
        torch.set_num_threads(threads)
    yield Row(what, *(f"{batch * n / seconds:,.0f}" for seconds in (a, b)), 1 / ratio, "1 or more")


def training_step(model: Any, n: int, batch: int) -> Callable[[], Any]:
    """The same tokens, optimizer and clipping for any model."""
    import torch

    from qkvtheory.experiments.training import Recipe, descend, optimizer

    x = torch.randint(256, (batch, n), generator=torch.Generator().manual_seed(0))
    recipe, loss = Recipe(), getattr(model, "loss", None) or (lambda x, y: model(input_ids=x, labels=y).loss)
    adam = optimizer(model, recipe)
    return lambda: descend(model, adam, recipe, 0, [(x, x)], "cpu", loss)


def our_model(layers: int, d: int, heads: int, n: int) -> Any:
    from qkvtheory.experiments.model import Config, Model

    return Model(Config(vocab=256, context=n, layers=layers, d=d, heads=heads))


def hf_gpt2(layers: int, d: int, heads: int, n: int) -> Any:
    """Random weights, no dropout; nothing is downloaded."""
    from transformers import GPT2Config, GPT2LMHeadModel

    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    tokens = {"vocab_size": 256, "bos_token_id": 0, "eos_token_id": 0}
    sizes = {"n_positions": n, "n_embd": d, "n_layer": layers, "n_head": heads}
    model = GPT2LMHeadModel(GPT2Config(**sizes, **tokens, **dropout)).train()
    model.loss_type = "ForCausalLM"  # what it falls back to with a warning
    return model


def all_claims() -> Iterator[Row]:
    """Every claim in every lane but the formal one, by the command a user types."""
    lanes = ("symbolic", "exact", "numeric", "count", "rank")
    command = [sys.executable, "-m", "qkvtheory", "check", "--lane", *lanes]
    seconds = timed(lambda: subprocess.run(command, check=True, capture_output=True))
    yield Row("all claims, all lanes but formal", ms(seconds), budget="20 s")


# -- the book ----------------------------------------------------------------------------------------------------------


def page_weight() -> Iterator[Row]:
    """What a reader downloads for a chapter, read to its end: the files the browser asked for, as gzip sends them."""
    from tests.bench.browser import visit

    if shutil.which("chromium") is None or not HTML.exists():
        yield Row("page weight", "not run here", budget="needs chromium and make book")
        return
    for page in ("book/part-1/reparametrization", "book/part-1/three-products", "book/noise-or-bug"):
        seen = visit(HTML, f"{page}.html")
        yield Row(f"{page}.html, gzip", f"{seen.kilobytes:.0f} kB", budget="220 kB without plotly")
        yield Row("  without plotly", f"{seen.without_plotly:.0f} kB", budget="220 kB")
        yield Row("  requests to other hosts; console messages", f"{seen.foreign}; {seen.messages}", budget="0; 0")
        yield Row("  layout shift", f"{seen.shift:.3f}", budget="0.02")


def book_builds() -> Iterator[Row]:
    """Cold build of the pages, then one with nothing changed; the peer is Jupyter Book's defaults on the same pages."""
    with tempfile.TemporaryDirectory() as folder:
        ours, peer = Path(folder, "ours"), Path(folder, "peer")
        for place in (ours, peer):
            shutil.copytree(ROOT, place, ignore=shutil.ignore_patterns("_build", ".venv", "node_modules", ".git"))
        (ours / "node_modules").symlink_to(ROOT / "node_modules")
        (ours / "_build").mkdir()
        shutil.copy(ROOT / "_build" / "claims.json", ours / "_build")
        defaults = "title: Query, Key, Value\nonly_build_toc_files: true\nexecute: {execute_notebooks: cache}\n"
        (peer / "_config.yml").write_text(defaults + "bibtex_bibfiles: [book/references.bib]\n")
        a, b = timed(lambda: build(ours)), timed(lambda: build(peer))
        yield Row("book, cold (peer: Jupyter Book's defaults)", ms(a), ms(b), a / b, "60 s")
        again, default_again = timed(lambda: build(ours)), timed(lambda: build(peer))
        yield Row("book, nothing changed", ms(again), ms(default_again), again / default_again, "3 s")
        page = Path("_build/html/book/part-1/reparametrization.html")
        yield Row("  a chapter's own HTML, gzip", *(f"{zipped(place / page):.0f} kB" for place in (ours, peer)))


def build(place: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(place)}
    command = [Path(sys.executable).with_name("jupyter-book"), "build", "."]
    subprocess.run(command, cwd=place, env=environment, capture_output=True, check=True)


def zipped(path: Path) -> float:
    return len(gzip.compress(path.read_bytes())) / 1e3


LINES = (
    base_import,
    induction_step,
    unrolled,
    elimination,
    network_elimination,
    cached_decoding,
    decoding,
    training,
    all_claims,
    page_weight,
    book_builds,
)
