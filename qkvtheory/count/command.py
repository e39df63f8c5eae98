"""``python -m qkvtheory count``: the counts of a model, one row for each variant, for people and for machines."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from qkvtheory.count.config import Config, ConfigError, check_size, printable
from qkvtheory.count.formulas import (
    cache_bytes,
    cache_per_token,
    decode_macs,
    key_context,
    label,
    latent_sizes,
    macs,
    parameters,
    resolve,
    saved,
)
from qkvtheory.count.huggingface import load
from qkvtheory.count.presets import names, preset, source
from qkvtheory.variants import EXAMPLES, Variant

DTYPES = {"bf16": 2, "fp16": 2, "fp32": 4, "fp8": 1}  # bytes per number
CONTEXT = 2048  # where a configuration does not say what length it is for
EXAMPLE = "python -m qkvtheory count --preset three-projections-300m --variant QKV Q-K=V Q-GQA-4 Q-MQA --context 2048"


def options(parser: argparse.ArgumentParser) -> None:
    model = parser.add_mutually_exclusive_group()
    model.add_argument("--preset", metavar="NAME", help="a published model; 'list' names them")
    model.add_argument("--config", metavar="FILE", help="a Hugging Face config.json, or the folder it lies in")
    model.add_argument("--presets", action="store_true", help="list the published models and their sources")
    parser.add_argument(
        "--variant",
        nargs="+",
        action="extend",
        metavar="V",
        help=f"variants to compare (as published by default): {EXAMPLES}",
    )
    parser.add_argument("--context", type=int, metavar="N", help="tokens (what the model is made for by default)")
    parser.add_argument("--batch", type=int, default=1, metavar="B", help="texts in the cache (1 by default)")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--bytes-per-number", type=int, metavar="N", help="bytes of a number in the cache (2 by default)")
    size.add_argument("--dtype", choices=DTYPES, help="the same by its name")
    parser.add_argument(
        "--json", action="store_true", help="machine-readable: an object, or a list of them if there are several rows"
    )


def run(args: argparse.Namespace) -> None:
    """Print what was asked for. Raises ValueError, with a message for people, for input that cannot be counted; where
    this is some of the variants, the others are printed first.
    """
    if args.presets or args.preset == "list":
        return print_presets(args.json)
    config = chosen(args)
    context = args.context if args.context is not None else config.context or CONTEXT
    size = args.bytes_per_number if args.bytes_per_number is not None else DTYPES[args.dtype or "bf16"]
    for name, number in (("--context", context), ("--batch", args.batch), ("--bytes-per-number", size)):
        check_size(name, number)
    variants, refused = sorted_out(config, args.variant or [None])
    if variants:
        rows = [row(config, variant, context, args.batch, size) for variant in variants]
        notes = [*own_groups(config, args.variant or []), *remarks(config, variants, context)]
        if args.json:
            made = [{"preset": args.preset, "config": args.config, **r, "notes": notes} for r in rows]
            print(for_machines(made if len(made) > 1 else made[0]))
        else:
            heading = [f"{printable(config.name)}: {shape(config)}", *([source(args.preset)] if args.preset else [])]
            print("\n".join([*heading, "", *table(rows), "", *legend(rows), *(f"note: {note}" for note in notes)]))
    if refused:
        raise ValueError("\n       ".join(refused))
    return None


def sorted_out(config: Config, asked: Sequence[str | None]) -> tuple[list[Variant], list[str]]:
    """The variants that this model can take, and why it cannot take the others. Unknown names raise ValueError."""
    variants, refused = [], []
    for text in asked:
        try:
            variants.append(resolve(config, text))
        except ConfigError as reason:
            refused.append(str(reason))
    return variants, refused


def chosen(args: argparse.Namespace) -> Config:
    if args.preset:
        return preset(args.preset)
    if args.config is not None:
        return load(args.config)
    raise ValueError("which model? give --preset NAME or --config FILE; 'count --presets' names the presets")


def row(config: Config, variant: Variant, context: int, batch: int, size: int) -> dict[str, Any]:
    """All counts of one variant, by the names that ``--json`` gives them."""
    learned = parameters(config, variant)
    return {
        "model": config.name,
        "variant": label(config, variant),
        "context": context,
        "batch": batch,
        "bytes_per_number": size,
        "params_total": learned.total,
        **{f"params_{part}": number for part, number in learned.parts().items()},
        "macs": macs(config, variant, context).total,
        "macs_per_new_token": decode_macs(config, variant, context).total if config.decoder else None,
        "cache_numbers_per_token_and_layer": cache_per_token(config, variant),
        "cache_bytes_per_token": cache_bytes(config, variant, 1, 1, size),
        "cache_bytes": cache_bytes(config, variant, context, batch, size),
        "cache_saved": saved(config, variant),
    }


# -- for people --------------------------------------------------------------------------------------------------------


def shape(config: Config) -> str:
    sizes = {
        "L": config.layers,
        "d": config.width,
        "H": config.heads,
        "g": config.groups,
        "d_h": config.head_width,
        "m": config.hidden,
        "v": config.vocabulary,
    }
    words = ", ".join(f"{symbol} = {number}" for symbol, number in sizes.items())
    experts = config.experts
    return words + (f", {experts.active} of {experts.number} experts" if experts else "")


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Aligned columns under two lines of headings: names to the left, numbers to the right."""
    context = f"{rows[0]['context']:,} tokens"
    above = ["", "", "", "", "MACs", "MACs", "cache", "cache", "", ""]
    below = ["variant", "parameters", "attention", "share", context, "new token", "per token", context, "", "saved"]
    cells = [above, below, *(printed(r) for r in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(above))]
    return [
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]).rstrip()
        for line in cells
    ]


def printed(r: dict[str, Any]) -> list[str]:
    return [
        r["variant"],
        f"{r['params_total']:,}",
        f"{r['params_attention']:,}",
        f"{100 * r['params_attention'] / r['params_total']:.1f}%",
        f"{r['macs']:,}",
        "-" if r["macs_per_new_token"] is None else f"{r['macs_per_new_token']:,}",
        f"{r['cache_bytes_per_token']:,} B",
        f"{r['cache_bytes'] / 10**6:,.2f} MB",
        f"{r['cache_bytes'] / 2**20:,.2f} MiB",
        f"{100 * r['cache_saved']:.6g}%",
    ]


def legend(rows: Sequence[dict[str, Any]]) -> list[str]:
    r = rows[0]
    texts = "one text" if r["batch"] == 1 else f"{r['batch']:,} texts"
    numbers = "1 byte" if r["bytes_per_number"] == 1 else f"{r['bytes_per_number']} bytes"
    return [
        "share: attention, output projection included, among all parameters. MACs: one multiply-accumulate is two",
        "operations; scores of all pairs of tokens are counted. New token: the last one, the others being cached.",
        f"cache: {texts}, {numbers} per number, all layers; 1 MB = 1,000,000 bytes, 1 MiB = 1,048,576 bytes.",
        "saved: against three projections and one key/value head for each query head.",
    ]


def remarks(config: Config, variants: Sequence[Variant], context: int) -> Sequence[str]:
    """What a reader of the numbers must know about this model at this length."""
    said = list(config.notes)
    if config.positions and context > config.positions:
        said.append(f"the model has {config.positions:,} learned positions, fewer than {context:,} tokens")
    if config.windowed and context > (config.window or context):
        said.append(f"{config.windowed} of {config.layers} layers keep the last {config.window:,} tokens only")
    if not config.decoder:
        said.append("an encoder reads all tokens at once and keeps no cache")
    if config.mla is None and any(v.kind == "MLA" for v in variants):
        mla = latent_sizes(config)
        said.append(f"MLA is counted with a latent of {mla.latent} (4 d_h) and a rotary key of {mla.rotary} (d_h / 2)")
    if any(v.kind == "QV-Ka" for v in variants):
        said.append(f"QV-Ka is counted with a context of {key_context(config)} for all heads")
    if any(v.corrected for v in variants):
        said.append(f"(...)+ is counted with {config.channels} channels and one bias in each layer")
    if config.mla is not None and any(v.kind != "MLA" for v in variants):
        said.append(f"QKV is counted with heads of width {config.head_width}, as wide as the model's values")
    return said


def own_groups(config: Config, asked: Sequence[str]) -> Sequence[str]:
    """Where names without groups were given for a model that has its own: what they were taken for."""
    plain = [text for text in asked if text.upper() in ("QKV", "Q-K=V", "K=V")]
    if config.groups == config.heads or not plain:
        return []
    taken = ", ".join(f"{text} is {label(config, text)}" for text in plain)
    return [f"the model has {config.groups} key/value heads, which such names keep: {taken}; MHA is one per query head"]


def for_machines(made: Any) -> str:
    text = json.dumps(made, indent=1, ensure_ascii=False)
    return text if text.replace("\n", "").isprintable() else json.dumps(made, indent=1)


def print_presets(as_json: bool) -> None:
    rows = [{"preset": n, "params_total": parameters(preset(n)).total, "source": source(n)} for n in names()]
    if as_json:
        print(for_machines(rows))
        return
    for r in rows:
        print(f"{r['preset']:24}{r['params_total']:>16,} parameters  {r['source']}")
