"""Decoding: a trained model goes on with a text, and the time and bytes of a token against the length of the context.

    python -m qkvtheory decode FOLDER --prompt "def " --tokens 80
    python -m qkvtheory decode --measure --shape small --out book/results/decode.json

A measurement takes models with random weights, since the arithmetic does not care, and caches that are full of random
numbers up to the last token. That token is then decoded again and again, all variants in turn, so that whatever else
the machine does hits all alike: seconds are medians over the rounds, ratios medians of the ratios within a round. On a
processor there is one thread and its own time is taken, which leaves out when others had the core. Slim attention is
the same function as QKV in exact arithmetic: its rounding is measured on the same weights, against float64.

PyTorch is imported only when something is run.
"""

from __future__ import annotations

import argparse
import codecs
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from qkvtheory import count
from qkvtheory.count.config import printable
from qkvtheory.experiments import Missing, provenance, relative_error, rounded, store

EXAMPLE = 'python -m qkvtheory decode runs/tiny --prompt "The " --tokens 80 --temperature 0.7'
VARIANTS = ("QKV", "slim", "Q-K=V", "GQA-4", "Q-GQA-4", "MQA", "Q-MQA")
ROTATED = (
    "QKV",
    "Q-K=V",
    "MQA",
    "Q-MQA",
)  # measured with rotary positions as well: keys turned when written, and when read
LONGEST = 200  # bytes of a continuation, where --tokens does not say
PROMPT_PIECE = 256  # tokens of a prompt that are read at a time
ROUNDS = 15
SMALLER = "take a smaller --batch, a shorter --context or fewer --variant"
SPARE = 0.85  # of the memory of a machine; the rest is for what is computed
ROUNDING = {"context": 256, "tokens": 8}  # where the rounding of slim attention is measured
PUBLISHED = {
    "source": "Kayyam, Madan Gopal and Lewis 2026 (2606.04032): the authors' slides",
    "model": "Q-K=V against QKV, 1.2B parameters, on an A100",
    "tokens_per_second": [1.044, 1.053],
    "peak_memory": [0.931, 0.935],
}


@dataclass(frozen=True)
class Shape:
    """A model to measure, and on what: ``batch`` texts of ``contexts`` tokens. Sizes, or a preset of ``count``."""

    batch: int
    contexts: tuple[int, ...]
    preset: str | None = None
    layers: int = 2
    d: int = 1024
    heads: int = 16
    vocab: int = 256

    def config(self) -> Any:
        """The shape as a Config without positions, which cost a step next to nothing."""
        from qkvtheory.experiments.model import Config

        plain = Config(self.vocab, max(self.contexts), self.layers, self.d, self.heads, positions="none")
        if self.preset is None:
            return plain
        c = count.preset(self.preset)
        mlp = c.hidden / c.width
        return replace(plain, vocab=c.vocabulary, layers=c.layers, d=c.width, heads=c.heads, mlp=mlp)


SHAPES = {
    "tiny": Shape(batch=2, contexts=(16, 32), layers=1, d=64, heads=4),
    "small": Shape(batch=4, contexts=(512, 1024, 2048, 4096, 8192, 16384, 32768)),
    "gpt3-small": Shape(batch=8, contexts=(512, 1024, 2048, 4096, 8192), preset="gpt-3-small"),
    "1.2b": Shape(batch=8, contexts=(512, 1024, 2048, 4096), preset="three-projections-1.2b"),
}


# -- the command -------------------------------------------------------------------------------------------------------


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", nargs="?", metavar="FOLDER", help="a trained model: what 'train --out' has written")
    parser.add_argument("--prompt", metavar="TEXT", help="how the text begins")
    parser.add_argument("--tokens", type=int, metavar="N", help=f"bytes to add (what fits, at most {LONGEST})")
    parser.add_argument(
        "--temperature", type=float, default=0.8, metavar="T", help="0 takes the likeliest byte each time (0.8)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the draws (0)")
    parser.add_argument("--measure", action="store_true", help="time and bytes of a token, on random weights")
    parser.add_argument("--shape", choices=SHAPES, default="small", help="of the measured models (small)")
    parser.add_argument(
        "--variant", nargs="+", action="extend", metavar="V", help=f"variants to measure ({', '.join(VARIANTS)})"
    )
    parser.add_argument("--context", type=int, nargs="+", action="extend", metavar="N", help="tokens in the cache")
    parser.add_argument("--batch", type=int, metavar="B", help="texts that are decoded at once")
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="R", help=f"repetitions ({ROUNDS})")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: a GPU if there is one")
    parser.add_argument("--out", metavar="FILE", help="write the measurement here; without it, print")


def run(args: argparse.Namespace) -> int:
    """Do what was asked for. Raises ValueError, OSError and Missing, with messages for people."""
    if args.measure == (args.folder is not None):
        raise ValueError(
            "give either the folder of a trained model, to go on with a text, or --measure, to measure random weights"
        )
    try:
        with_measure(args) if args.measure else with_model(args)
    except RuntimeError as error:
        if "memory" not in str(error).lower():
            raise
        instead = f"{SMALLER}; finished contexts are kept in --out" if args.measure else "try --device cpu"
        raise ValueError(f"out of memory ({str(error).splitlines()[0]}); {instead}") from None
    return 0


def on(device: str) -> str:
    """The device that is meant."""
    from qkvtheory.experiments.model import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("there is no GPU that PyTorch can use here; leave --device out, or say --device cpu")
    return device


# -- going on with a text ----------------------------------------------------------------------------------------------


def with_model(args: argparse.Namespace) -> None:
    from qkvtheory.experiments.data import SEEDS
    from qkvtheory.experiments.model import load

    if not args.prompt:
        raise ValueError('how does the text begin? give --prompt, for example --prompt "The "')
    if not 0 <= args.temperature < float("inf"):
        raise ValueError(f"--temperature must be 0 or a number above it, not {args.temperature}")
    if not 0 <= args.seed < SEEDS:
        raise ValueError(f"--seed must be a whole number from 0 to {SEEDS - 1}, not {args.seed}")
    device = on(args.device)
    try:
        model = load(args.folder)
    except FileNotFoundError as error:
        raise ValueError(str(error)) from None
    prompt = args.prompt.encode("utf8", "surrogateescape")
    tokens = fitting(model.config, len(prompt), args.tokens)
    print(printed(args.prompt), end="", flush=True)
    decoder = codecs.getincrementaldecoder("utf8")("replace")
    for byte in generate(model.to(device), prompt, tokens, args.temperature, args.seed):
        print(printed(decoder.decode(bytes([byte]))), end="", flush=True)
    print(printed(decoder.decode(b"", final=True)))


def fitting(config: Any, prompt: int, tokens: int | None) -> int:
    """How many bytes to add to a prompt of so many. Raises ValueError where the model has not that much context."""
    if config.vocab != 256 or config.classes != 256 or config.inputs:
        raise ValueError(f"the model reads {config.vocab} symbols; only models of bytes (256) can go on with a text")
    room = config.context - prompt
    if room < 1:
        raise ValueError(f"the prompt has {prompt} bytes; this model reads {config.context} at most: shorten --prompt")
    if tokens is not None and not 1 <= tokens <= room:
        raise ValueError(
            f"--tokens {tokens}: after a prompt of {prompt} bytes there is room for 1 to {room} in this model's "
            f"context of {config.context}"
        )
    return min(room, LONGEST) if tokens is None else tokens


def printed(text: str) -> str:
    """Text as a terminal may have it: line ends and tabs as they are, other controls written out.

    >>> printed("a\\tb\\x1b[2J\\n")
    'a\\tb\\\\x1b[2J\\n'
    """
    return "".join(c if c in "\n\t" else printable(c) for c in text)


def generate(model: Any, prompt: bytes, tokens: int, temperature: float, seed: int) -> Iterator[int]:
    """Bytes that follow, one by one: drawn from softmax(logits / temperature), or the likeliest at temperature 0."""
    from qkvtheory.experiments.caches import Decoder
    from qkvtheory.experiments.model import torch

    generator = torch.Generator().manual_seed(seed)
    device = model.embedding.device
    decoder = Decoder(model, len(prompt) + tokens)
    new = torch.tensor([list(prompt)], device=device)
    for _ in range(tokens):
        for piece in new.split(PROMPT_PIECE, dim=1):
            logits = decoder(piece)[0, -1].double().cpu()
        if not logits.isfinite().all():
            raise ValueError("what the model computes are no finite numbers; its weights are damaged")
        logits = logits - logits.max()  # at most 0: a temperature next to 0 makes no infinity of the likeliest
        chances = torch.softmax(logits / temperature, -1) if temperature else logits.argmax() == torch.arange(256)
        byte = int(torch.multinomial(chances.double(), 1, generator=generator))
        yield byte
        new = torch.tensor([[byte]], device=device)


# -- measuring ---------------------------------------------------------------------------------------------------------


def with_measure(args: argparse.Namespace) -> None:
    shape = SHAPES[args.shape]
    batch = shape.batch if args.batch is None else args.batch
    contexts = tuple(args.context or shape.contexts)
    for name, numbers in (("--batch", [batch]), ("--context", contexts), ("--rounds", [args.rounds])):
        if min(numbers) < 1:
            raise ValueError(f"{name} must be at least 1, not {min(numbers)}")
    if args.out:
        open(args.out, "a").close()  # what cannot be written is said before minutes of work
    shape = replace(shape, batch=batch, contexts=tuple(sorted(set(contexts))))
    said = partial(print, file=sys.stderr, flush=True)
    found = measure(shape, args.variant or VARIANTS, args.rounds, on(args.device), args.out, said, args.shape)
    store(found, args.out)


def measure(
    shape: Shape,
    variants: Sequence[str],
    rounds: int = ROUNDS,
    device: str = "cpu",
    out: str | None = None,
    news: Callable[[str], None] | None = None,
    name: str = "small",
) -> dict[str, Any]:
    """Seconds and bytes of a token, for every context and variant; QKV is always among them. With ``out``, what is
    measured is written after every context. Raises ValueError for variants that do not fit the shape, and where it
    would not fit in memory.
    """
    from qkvtheory.experiments.model import torch

    threads = torch.get_num_threads()
    if device == "cpu":
        torch.set_num_threads(1)
    try:
        config = shape.config()
        names = list(dict.fromkeys(["QKV", *(named(config, v) for v in variants)]))
        check_memory(shape, config, names, device)
        found = result(shape, config, name, rounds, device)
        found["slim"] = {"rounding": rounding(config, device)} if "slim" in names else {}
        models = made(config, names, device)
        turned = made(replace(config, positions="rope"), [v for v in ROTATED if v in names], device)
        for context in shape.contexts:
            for rows, these in (("runs", models), ("rope", turned)):
                found[rows] += measured(these, context, shape.batch, rounds, news if rows == "runs" else None)
            if out:
                store(found, out, quiet=True)
        return found
    finally:
        torch.set_num_threads(threads)


def named(config: Any, variant: str) -> str:
    """The name of a variant on this shape; ValueError where it does not fit."""
    kind = count.label(counted(config), variant)
    if kind.endswith("+"):
        raise ValueError(f"{kind} is not measured: its table of all pairs of positions outgrows any cache")
    if kind != "slim":
        replace(config, variant=kind)
    return kind


def counted(config: Any) -> count.Config:
    """The shape as ``qkvtheory.count`` wants it."""
    return count.Config(
        layers=config.layers, width=config.d, heads=config.heads, groups=config.heads, head_width=config.head_width,
        hidden=config.hidden, vocabulary=config.vocab, tied=config.tied,
    )  # fmt: skip


def precision(device: str) -> Any:
    from qkvtheory.experiments.model import torch

    return torch.bfloat16 if device == "cuda" else torch.float32


def made(config: Any, variants: Sequence[str], device: str) -> dict[str, Any]:
    """A model with random weights for each variant. Slim is the QKV model with another cache."""
    from qkvtheory.experiments.model import Model

    models = {v: Model(replace(config, variant=v)).to(device, precision(device)) for v in variants if v != "slim"}
    return {v: models.get(v, models["QKV"]) for v in variants}


def check_memory(shape: Shape, config: Any, variants: Sequence[str], device: str) -> None:
    """Refuse what will not fit, before the machine is brought down by it."""
    size, sizes = precision(device).itemsize, counted(config)
    caches = sum(count.cache_bytes(sizes, v, max(shape.contexts), shape.batch, size) for v in variants)
    needed = caches + size * sum(count.parameters(sizes, v).total for v in variants)
    there = memory(device)
    if there is not None and needed > SPARE * there:
        raise ValueError(
            f"the models and caches of {len(variants)} variants at once take {needed / 1e9:.1f} GB, and there are "
            f"{there / 1e9:.1f} GB of memory; {SMALLER}"
        )


def memory(device: str) -> int | None:
    """Bytes of memory: all of a machine's, or what is free on a GPU. None where nothing says."""
    import os

    from qkvtheory.experiments.model import torch

    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def measured(
    models: Mapping[str, Any], context: int, batch: int, rounds: int, news: Callable[[str], None] | None
) -> list[dict[str, Any]]:
    """A row for each variant: the last of ``context`` tokens, decoded in turn by all of them."""
    from qkvtheory.experiments.caches import Decoder

    if news:
        news(f"context {context}: {rounds} rounds of {', '.join(models)}")
    decoders = {name: Decoder(model, context, batch, slim=name == "slim") for name, model in models.items()}
    for decoder in decoders.values():
        fill(decoder)
    seconds: dict[str, list[float]] = {name: [] for name in decoders}
    for turn in range(-1, rounds):  # the first one does not count
        for name, decoder in decoders.items():
            took = step(decoder)
            if turn >= 0:
                seconds[name].append(took)
    rows = [row(name, decoder, context, batch, seconds[name], seconds["QKV"]) for name, decoder in decoders.items()]
    if news:
        news("\n".join(map(told, rows)))
    return rows


def told(r: Mapping[str, Any]) -> str:
    return (
        f"context {r['context']:>6}  {r['model']:8} {1e3 * r['seconds_per_step']:9.2f} ms a step  "
        f"{r['tokens_per_second']:9.1f} tokens/s  {r['ratio_to_qkv']:5.2f} x QKV  {r['cache_bytes'] / 1e6:9.1f} MB"
    )


def fill(decoder: Any) -> None:
    """Random numbers for all tokens: what was never written would be read from one page of zeros."""
    for layer in decoder.layers:
        for part in layer.parts:
            part.normal_()


def step(decoder: Any) -> float:
    """Seconds to decode the last token that fits, for all texts at once: of the thread, or of the clock for a GPU."""
    from qkvtheory.experiments.model import torch

    weight = decoder.model.embedding
    tokens = torch.zeros(decoder.layers[0].parts[0].shape[0], 1, dtype=torch.long, device=weight.device)
    decoder.length = decoder.capacity - 1

    def now() -> float:
        if not weight.is_cuda:
            return time.thread_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    start = now()
    decoder(tokens)
    return now() - start


def row(
    name: str, decoder: Any, context: int, batch: int, seconds: Sequence[float], qkv: Sequence[float]
) -> dict[str, Any]:
    """One row of the result. ``seconds_per_step``: until every text of the batch has its next token."""
    from qkvtheory.experiments.model import parameters

    weight, sizes, middle = decoder.model.embedding, counted(decoder.model.config), statistics.median(seconds)
    ratios = [a / b for a, b in zip(qkv, seconds, strict=True)]
    return {
        "model": name,
        "context": context,
        "batch": batch,
        "tokens_per_second": rounded(batch / middle),
        "seconds_per_token": rounded(middle / batch),
        "seconds_per_step": rounded(middle),
        "seconds_range": [rounded(min(seconds)), rounded(max(seconds))],
        "ratio_to_qkv": rounded(statistics.median(ratios)),
        "cache_bytes": decoder.nbytes,
        "formula_bytes": count.cache_bytes(sizes, name, context, batch, weight.element_size()),
        "weight_bytes": parameters(decoder.model) * weight.element_size(),
        "macs": count.decode_macs(sizes, name, context).total,
    }


def rounding(config: Any, device: str) -> dict[str, Any]:
    """Relative errors of the logits of QKV and of slim attention, decoded in float32, against float64."""
    from qkvtheory.experiments.caches import Decoder
    from qkvtheory.experiments.model import Model, torch

    before, more = ROUNDING["context"], ROUNDING["tokens"]
    model: Any = Model(replace(config, variant="QKV", context=before + more)).to(device)
    tokens = torch.randint(config.vocab, (1, before + more), generator=torch.Generator().manual_seed(0)).to(device)
    logits = {}
    for name in ("QKV", "slim"):
        decoder = Decoder(model, before + more, slim=name == "slim")
        decoder(tokens[:, :before])
        logits[name] = torch.cat([decoder(t) for t in tokens[:, before:].split(1, dim=1)], dim=1).cpu()
    condition = max(float(torch.linalg.cond(b.attention.W_K.detach().double())) for b in model.blocks)
    with torch.no_grad():
        exact = model.double()(tokens)[:, before:].cpu()
    return ROUNDING | {
        "slim": rounded(relative_error(logits["slim"], exact)),
        "QKV": rounded(relative_error(logits["QKV"], exact)),
        "difference": rounded(relative_error(logits["slim"], logits["QKV"])),
        "cond": rounded(condition),
    }


def result(shape: Shape, config: Any, name: str, rounds: int, device: str) -> dict[str, Any]:
    """All of the result but what is measured."""
    from qkvtheory.experiments.model import torch
    from qkvtheory.experiments.runs import commit

    command = f"python -m qkvtheory decode --measure --shape {name} --out book/results/decode.json"
    where = {"machine": torch.cuda.get_device_name(), "threads": None} if device == "cuda" else {"threads": 1}
    return {
        "what": "Time and cache of a decoded token against the length of the context, for several variants.",
        "provenance": provenance(command, ("torch", "numpy"), commit=commit(), **where),
        "setting": {
            "shape": name, "layers": config.layers, "d": config.d, "heads": config.heads, "hidden": config.hidden,
            "vocab": config.vocab, "batch": shape.batch, "contexts": list(shape.contexts), "rounds": rounds,
            "dtype": str(precision(device)).removeprefix("torch."), "device": device,
            "clock": "time of the thread" if device == "cpu" else "time on the wall",
            "config": asdict(config),
        },
        "published": PUBLISHED,
        "runs": [],
        "rope": [],
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m qkvtheory.experiments.decode --out FILE`` is ``python -m qkvtheory decode --measure --out FILE``."""
    parser = argparse.ArgumentParser(prog="python -m qkvtheory.experiments.decode", description=__doc__)
    options(parser)
    args = parser.parse_args(arguments)
    args.measure = args.folder is None
    try:
        return run(args)
    except (ValueError, OSError, Missing) as reason:
        print(f"error: {reason}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
