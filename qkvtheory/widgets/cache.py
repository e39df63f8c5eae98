"""The cache widget: what every variant of attention keeps in memory while a model writes, in bytes.

``count`` counts the numbers; here they become bytes, and bytes are integers: Python and ``cache.mjs`` agree to the
last digit. Perplexities are the published ones (``published.py``). The picture is drawn in ``cache_picture.py``.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import groupby

from qkvtheory import count, published
from qkvtheory.variants import Variant, parse
from qkvtheory.widgets.state import State, check_choice, complete
from qkvtheory.widgets.text import fixed, listed

DEFAULT: State = {
    "model": "three-projections-300m",
    "tokens": 32768,
    "batch": 1,
    "number": "bf16",
    "variant": "Q-K=V",
    "memory": 80,
}
BYTES = {"fp32": 4, "bf16": 2, "fp8": 1}
MEMORIES = (24, 80, 141)  # GB of an accelerator, decimal
TOKENS, BATCH = (1024, 2**20), (1, 256)
TOKEN_STOPS = tuple(sorted([1024 << k for k in range(11)] + [1536 << k for k in range(10)]))
BATCH_STOPS = tuple(1 << k for k in range(9))
KINDS = ("QKV", "Q=K-V", "slim", "Q-K=V", "Q=K=V", "MLA", "GTA")  # as they stand side by side where they tie
TABLES = {"three-projections-300m": "300M", "three-projections-1.2b": "1.2B"}


def check_state(**given: object) -> State:
    """The full state, with defaults for what was not given, as JSON values.

    ``model`` one of ``models()``; ``tokens`` 1024 to 1048576; ``batch`` 1 to 256; ``number`` "fp32", "bf16" or
    "fp8", of weights and cache; ``variant`` a name that ``variants.parse`` knows, of a kind in KINDS; ``memory`` of the
    accelerator, 24, 80 or 141 GB. Raises ValueError naming what is wrong.

    >>> check_state(variant="K=V+MQA")["variant"]
    'Q-MQA'
    """
    state = complete(DEFAULT, given)
    state["model"] = check_choice("model", state["model"], models())
    state["tokens"] = check_whole("tokens", state["tokens"], *TOKENS)
    state["batch"] = check_whole("batch", state["batch"], *BATCH)
    state["number"] = check_choice("number", state["number"], tuple(BYTES))
    state["variant"] = check_variant(state["variant"])
    if isinstance(state["memory"], bool) or state["memory"] not in MEMORIES:
        raise ValueError(f"memory must be one of {', '.join(map(str, MEMORIES))} (GB), not {state['memory']!r}")
    return state


def check_whole(name: str, value: object, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{name} must be a whole number from {low} to {high}, not {value!r}")
    return value


def check_variant(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"variant must be a name such as Q-K=V or GQA-4, not {value!r}")
    variant = parse(value)
    if variant.kind not in KINDS or variant.corrected:
        raise ValueError(f"variant must be of one of the kinds {', '.join(KINDS)}, not {value!r}")
    return variant.name


# --- the mathematics ---


@dataclass(frozen=True)
class Entry:
    """One variant of one model: the numbers that it caches per token and layer, and its parameters. ``perplexity`` as
    published, or ""; ``beaten``: the variants of the same table that only share heads, store no more and lose less.
    """

    name: str
    numbers: int
    weights: int
    perplexity: str = ""
    beaten: tuple[str, ...] = ()


@dataclass(frozen=True)
class Model:
    """A preset with its variants, the largest cache first. ``own`` is the variant it was released as."""

    name: str
    layers: int
    heads: int
    own: str
    entries: tuple[Entry, ...]

    @property
    def bars(self) -> list[list[Entry]]:
        """The variants, those with the same cache together."""
        return [list(same) for _, same in groupby(self.entries, lambda entry: entry.numbers)]

    def find(self, name: str) -> Entry | None:
        return next((entry for entry in self.entries if entry.name == name), None)


def variants(config: count.Config) -> list[Variant]:
    """Every variant that the picture shows: groups are divisors of the heads, and slim needs a square W_K."""
    heads, square = config.heads, config.query_width == config.width
    shared = [g for g in range(heads - 1, 0, -1) if heads % g == 0]
    single = [Variant(kind) for kind in KINDS if kind != "GTA" and (square or kind != "slim")]
    return single + [Variant(kind, g) for kind in ("QKV", "Q-K=V", "GTA") for g in shared]


@cache
def models() -> tuple[str, ...]:
    """The presets whose layers all cache every token, with keys and values that a variant can share."""
    return tuple(name for name in count.names() if plain(count.preset(name)))


def plain(config: count.Config) -> bool:
    return config.decoder and config.mla is None and not config.windowed


@cache
def model(name: str) -> Model:
    config = count.preset(name)
    whole = replace(config, groups=config.heads)  # the same shape with a key/value head for every query head
    table = measured(name)
    beaten = published.dominated({v: (published.exact(p), count.cache_per_token(whole, v)) for v, p in table.items()})
    entries = [
        Entry(
            v.name,
            count.cache_per_token(whole, v),
            count.parameters(whole, v).total,
            table.get(v.name, ""),
            tuple(other for other in beaten.get(v.name, ()) if shares_heads(other)),
        )
        for v in variants(whole)
    ]
    entries.sort(key=lambda entry: -entry.numbers)
    return Model(name, config.layers, config.heads, count.resolve(config).name, tuple(entries))


def measured(name: str) -> dict[str, str]:
    """The published perplexities of a model; empty for those that nobody trained with every variant."""
    return {row.variant: row.perplexity for row in published.LANGUAGE[TABLES[name]].rows} if name in TABLES else {}


def shares_heads(name: str) -> bool:
    """Head sharing alone: fewer key/value heads, keys and values apart."""
    variant = parse(name)
    return variant.kind == "QKV" and variant.groups is not None


@dataclass(frozen=True)
class Facts:
    """Everything the picture shows that depends on the state: bytes, exactly."""

    model: Model
    state: State
    chosen: Entry | None

    @property
    def memory(self) -> int:
        return int(self.state["memory"]) * 10**9

    def cache(self, entry: Entry) -> int:
        return self.per_token(entry) * int(self.state["tokens"])

    def per_token(self, entry: Entry) -> int:
        """Bytes that one more token of every sequence costs."""
        return entry.numbers * self.model.layers * int(self.state["batch"]) * BYTES[self.state["number"]]

    def weights(self, entry: Entry) -> int:
        return entry.weights * BYTES[self.state["number"]]

    def need(self, entry: Entry) -> int:
        return self.weights(entry) + self.cache(entry)

    def share(self, entry: Entry) -> str:
        return percent(entry.numbers, self.model.entries[0].numbers)


def facts(state: State) -> Facts:
    found = model(state["model"])
    return Facts(found, state, found.find(state["variant"]))


# --- the same text as cache.mjs ---


DECIMAL, BINARY = ("bytes", "kB", "MB", "GB", "TB", "PB"), ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")


def scaled(size: int, base: int, names: Sequence[str]) -> str:
    """Bytes in the largest unit that they fill, to three digits.

    >>> scaled(5905580032, 1000, DECIMAL), scaled(5905580032, 1024, BINARY)
    ('5.91 GB', '5.50 GiB')
    """
    at = 0
    while size >= base ** (at + 1):
        at += 1
    x = size / base**at
    return f"{fixed(x, 0 if at == 0 else digits(x))} {names[at]}"


def gb(size: int) -> str:
    return scaled(size, 1000, DECIMAL)


def gib(size: int) -> str:
    return scaled(size, 1024, BINARY)


def digits(x: float) -> int:
    return 2 if x < 9.995 else 1 if x < 99.95 else 0


def percent(part: int, whole: int) -> str:
    """
    >>> percent(1, 2), percent(1, 16), percent(1, 32)
    ('50%', '6.25%', '3.13%')
    """
    x = part / whole * 100
    text = fixed(x, digits(x))
    return f"{text.rstrip('0').rstrip('.') if '.' in text else grouped(int(text))}%"


def grouped(n: int) -> str:
    return f"{n:,}"


def mega(size: int, base: int) -> str:
    """MB (base 1000) or MiB (base 1024), to one decimal.

    >>> mega(5905580032, 1000), mega(5905580032, 1024)
    ('5,905.6', '5,632.0')
    """
    whole, _, rest = fixed(size / base**2, 1).partition(".")
    return f"{grouped(int(whole))}.{rest}"


def position(stops: Sequence[int], value: int) -> int:
    """Where a slider with these stops stands: at the last one that is not beyond the value."""
    return bisect(stops, value) - 1


def batched(batch: int) -> str:
    return "one sequence" if batch == 1 else f"{batch} sequences"


def about_model(found: Model) -> str:
    """Where this model starts from, and what head sharing alone would do."""
    if found.own != "QKV":
        return (
            f"As released this model is {found.own}, with {parse(found.own).groups} key/value for {found.heads} query "
            f"heads. Tying starts from there: Q-{found.own} halves its cache once more."
        )
    start = f"This model has {found.heads} key/value heads, one for each query head."
    half = found.entries[0].numbers // 2
    other = largest_shared(found, half)
    if other is None:
        return start
    compared = "caches as little as" if other.numbers == half else "caches less than"
    fewer = "" if other.name == "MQA" else ", and fewer groups cache less"
    return f"{start} {other.name} {compared} tying keys to values does{fewer}."


def largest_shared(found: Model, numbers: int) -> Entry | None:
    """The variant that only shares heads, with the largest cache that is no larger than this."""
    return next((e for e in found.entries if shares_heads(e.name) and e.numbers <= numbers), None)


def sentence(f: Facts) -> str:
    if f.chosen is None:
        return about_none(f.state["variant"], f.model.heads)
    said = (about_size(f, f.chosen), about_kind(f, f.chosen), about_loss(f.model, f.chosen), about_fit(f, f.chosen))
    return " ".join(filter(None, said))


def about_none(name: str, heads: int) -> str:
    start = f"There is no {name} of this model:"
    if name == "slim":
        return f"{start} values are computed from keys by an inverse, and the key projection is not square here."
    if parse(name).groups is None:
        return f"{start} the number of groups is missing."
    return f"{start} {parse(name).groups} groups do not make its {heads} query heads share."


def about_size(f: Facts, entry: Entry) -> str:
    size = f.cache(entry)
    return (
        f"{entry.name} caches {grouped(entry.numbers)} numbers per token and layer, {f.share(entry)} of QKV: "
        f"{grouped(size)} bytes for {batched(f.state['batch'])} of {grouped(f.state['tokens'])} tokens "
        f"({gb(size)}, which is {gib(size)})."
    )


NOTES = {
    "QKV": "It keeps a key and a value for every head.",
    "Q=K-V": "Queries are never cached: making them the keys saves nothing here.",
    "slim": "It is QKV with its values computed anew from the keys: the same function in exact arithmetic, for more "
    "operations, and with rounding that low precision may show.",
    "MLA": "The latent is four heads wide here, the rotary key half a head.",
    "GTA": "It keeps one vector per group for values and half of the keys, and half a rotary head for all.",
}


def about_kind(f: Facts, entry: Entry) -> str:
    variant = parse(entry.name)
    if variant.kind in NOTES and (variant.groups is None or variant.kind == "GTA"):
        return NOTES[variant.kind]
    if variant.kind == "QKV":
        return f"It keeps a key and a value for {variant.groups} of {f.model.heads} heads."
    other = largest_shared(f.model, entry.numbers)
    if other is None:
        return "Head sharing alone does not come down to this: tying halves what MQA leaves."
    as_much = "the same" if other.numbers == entry.numbers else "less"
    return (
        f"{other.name} stores {as_much} without tying{'' if other.name == 'MQA' else ', and fewer groups store less'}."
    )


def about_loss(found: Model, entry: Entry) -> str:
    if not entry.perplexity:
        return ""
    if not entry.beaten:
        return f"Its published perplexity is {entry.perplexity}."
    better = [f"{name} ({found.find(name).perplexity})" for name in entry.beaten]  # type: ignore[union-attr]
    verb = "stores no more and loses" if len(better) == 1 else "store no more and lose"
    return f"Its published perplexity is {entry.perplexity}; {listed(better)} {verb} less."


def about_fit(f: Facts, entry: Entry) -> str:
    need, weights = f.need(entry), f.weights(entry)
    if need > f.memory:
        room = max(0, f.memory - weights) // f.per_token(entry)
        each = " each" if f.state["batch"] > 1 else ""
        most = f"at most {grouped(room)} tokens{each} would" if room else "the weights leave no room"
        return f"With the weights ({gb(weights)}) it does not fit in {f.state['memory']} GB: {most}."
    return f"With the weights ({gb(weights)}) it takes {percent(need, f.memory)} of {f.state['memory']} GB."


def sizes(f: Facts, entry: Entry) -> tuple[str, str, str, str]:
    """What stands beside a bar: bytes in units of 1000 and of 1024, shares of QKV and of the memory."""
    size = f.cache(entry)
    return gb(size), gib(size), f.share(entry), percent(size, f.memory)


def lengths(f: Facts) -> tuple[str, str, str]:
    """In percent of the width of the picture: weights, cache, and the end of the memory."""
    if f.chosen is None:
        return "0.00", "0.00", "100.00"
    whole = max(f.memory, f.need(f.chosen))
    parts = (f.weights(f.chosen), f.cache(f.chosen), f.memory)
    return tuple(fixed(100 * (part / whole), 2) for part in parts)  # type: ignore[return-value]


def about_lengths(f: Facts) -> str:
    if f.chosen is None:
        return "Nothing to show."
    free = f.memory - f.need(f.chosen)
    rest = f"free: {gb(free)}" if free >= 0 else f"too much by {gb(-free)}"
    return (
        f"{f.chosen.name} of {f.model.name}: weights {gb(f.weights(f.chosen))}, cache {gb(f.cache(f.chosen))}; "
        f"{rest} of {f.state['memory']} GB (a GB is 10⁹ bytes)."
    )


def still(state: State) -> str:
    """The inside of the widget for a state of ``check_state``, as HTML."""
    from qkvtheory.widgets import cache_picture  # it needs the mathematics above

    return cache_picture.still(state)
