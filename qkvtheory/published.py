"""Numbers that others have printed, as they printed them: data to recompute and to read, not to copy into prose.

Source of ``LANGUAGE`` and all that is in it: Kayyam, Madan Gopal and Lewis 2026 (arXiv 2606.04032, v1 of 1 June 2026).
The paper's abstract prints 3.1 %, 50 %, 87.5 % and 96.9 %; the rest comes from the slides in the authors' repository
(validation perplexity, change, cache saved, megabytes), from that repository and summaries of the paper (training
perplexity and speed), and from summaries alone (downstream cells). One run per variant, about 10B tokens of SlimPajama,
context 2048; set-ups in ``Model``. With padding masked the authors' model card has another pair, ``MASKED``.

- ``LANGUAGE``: "300M" and "1.2B", each a ``Model`` with its shape and ``rows``; ``model.row("MQA")`` is one ``Row``.
- a ``Row`` holds strings as printed and names its variant as ``variants.parse`` does; ``exact(text)`` is such a string
  as a Fraction (percentages as shares), ``interval(text)`` all numbers that are printed so.
- ``PARAMETERS``, ``MACS``, ``GIGABYTES``, ``LARGEST_RATIO``, ``VISION``: single figures from the same places; ``GTA``
  and ``DEEPSEEK_SAVED`` are of other papers.
- ``dominated(points)``: which of several points (perplexity, cache) another one beats.

>>> LANGUAGE["300M"].row("Q-K=V").perplexity, LANGUAGE["1.2B"].row("K=V+GQA-8").saved
('5.27', '88%')
>>> exact("+3.1%"), [float(x) for x in interval("5.27")]
(Fraction(31, 1000), [5.265, 5.275])
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from qkvtheory.variants import parse

SOURCE = "arXiv 2606.04032v1"
LONGEST = 64  # characters of a printed number


@dataclass(frozen=True)
class Row:
    """One variant of a table, as printed; None where the table prints nothing.

    ``perplexity`` on the validation tokens, its ``change`` against QKV, the cache ``saved``; ``train_perplexity``;
    ``speed`` in training tokens per second; ``megabytes`` of cache at 32,768 tokens, which mixes MB (QKV and Q-K=V)
    and MiB (the rest); ``downstream`` accuracies in percent on TASKS and ``average`` over them.
    """

    variant: str
    perplexity: str
    change: str | None
    saved: str | None
    train_perplexity: str | None = None
    speed: str | None = None
    megabytes: str | None = None
    downstream: tuple[str, ...] | None = None
    average: str | None = None


@dataclass(frozen=True)
class Model:
    """A decoder of ``layers`` layers of ``heads`` heads, ``d`` wide, with an MLP ``mlp`` wide, biases, tied embeddings
    and learned positions; ``rows`` are its trained variants, QKV first.
    """

    name: str
    layers: int
    d: int
    heads: int
    mlp: int
    rows: tuple[Row, ...]
    vocabulary: int = 50304
    context: int = 2048

    def row(self, variant: str) -> Row:
        """The row of a variant, under any name that ``variants.parse`` knows. Raises ValueError if there is none.

        >>> LANGUAGE["300M"].row("mqa").saved
        '93.8%'
        """
        name = parse(variant).name
        for row in self.rows:
            if row.variant == name:
                return row
        raise ValueError(
            f"the {self.name} table has no row {name}; it has {', '.join(row.variant for row in self.rows)}"
        )


TASKS = ("ARC-C", "ARC-E", "HellaSwag", "PIQA", "WinoGrande")
CHOICES = (4, 4, 4, 2, 2)  # answers to choose from in TASKS: guessing gets one in so many

LANGUAGE: dict[str, Model] = {
    "300M": Model(
        *("300M", 20, 1024, 16, 4096),
        rows=(
            Row("QKV", "5.11", None, "0", "5.64", "423k"),
            Row("Q-K=V", "5.27", "+3.1%", "50%", "5.58", "427k"),
            Row("Q=K-V", "5.36", "+4.9%", "0", "5.66", "440k"),
            Row("Q=K=V", "6.41", "+25.4%", "50%", "7.23", "460k"),
            Row("GQA-4", "5.15", "+0.7%", "75%", "5.58", "435k"),
            Row("MQA", "5.19", "+1.5%", "93.8%", "5.59", "448k"),
            Row("Q-GQA-4", "5.32", "+3.9%", "87.5%", "5.64", "442k"),
            Row("Q-MQA", "5.36", "+4.8%", "96.9%", "5.66", "455k"),
        ),
    ),
    "1.2B": Model(
        *("1.2B", 22, 2048, 32, 8192),
        rows=(
            Row("QKV", "5.004", None, None, None, None, "5900", ("19.03", "30.01", "26.15", "56.64", "50.20"), "36.40"),
            Row(
                *("Q-K=V", "5.128", "+2.48%", "50%", None, None, "2950"),
                *(("18.94", "28.62", "26.14", "56.37", "49.88"), "35.99"),
            ),
            Row("GQA-8", "5.030", "+0.52%", "76%", None, None, "1408", None, "35.86"),
            Row("MQA", "5.057", "+1.06%", "97%", None, None, "176"),
            Row(
                *("Q-GQA-8", "5.158", "+3.08%", "88%", None, None, None),
                *(("19.97", "29.97", "26.13", "56.47", "51.07"), "36.72"),
            ),
            Row("Q-MQA", "5.212", "+4.16%", "98.5%", None, None, "88", None, "34.38"),
        ),
    ),
}
# FineWeb-Edu, tokens of padding not scored, from the authors' model card: perplexity of QKV and of Q-K=V.
MASKED = {"QKV": "20.82", "Q-K=V": "21.28"}
# What the authors' code prints for the 300M shape: parameters, and multiply-accumulates for one text of 2048 tokens.
PARAMETERS = {"QKV": 305_534_976, "Q-K=V": 284_542_976, "Q=K=V": 263_550_976}
MACS = {"QKV": 792_689_901_568, "Q-K=V": 749_740_228_608, "Q=K=V": 706_790_555_648}
# Gigabytes of cache that QKV needs at 300M, by tokens; and how much more QKV needs than Q-MQA at 1.2B (slides).
GIGABYTES = {32_000: "2.62", 128_000: "10.49"}
LARGEST_RATIO = "67"
# Accuracy on the vision tasks of the paper, keys equal to values: the cells, and the mean printed beside them.
VISION, VISION_MEAN = (".976", ".883", ".659", ".358", ".949"), ".767"

# Perplexities by model size of GTA-4, GQA-4 and three projections with all heads (2505.21487); and the part of the
# cache that DeepSeek-V2 saves against an earlier model of another shape (2405.04434).
GTA = {
    "183M": ("16.607", "16.578", "16.715"),
    "433M": ("12.785", "12.922", "12.979"),
    "876M": ("11.232", "11.340", "11.501"),
    "1.47B": ("10.129", "10.202", "10.311"),
}
DEEPSEEK_SAVED = "93.3%"
# Token accuracy, in percent, of a small translation model by variant and positions, one run each; the width of the
# context of QV-Ka is in widths of a head (2603.15665, as reported).
TRANSLATION = {
    ("QKV", "sinusoidal"): "70.5911",
    ("QV", "sinusoidal"): "70.0756",
    ("QKV", "relative"): "70.7305",
    ("QV", "relative"): "70.5188",
    ("QV-Ka, context 1", "relative"): "70.4998",
    ("QV-Ka, context 2", "relative"): "70.6919",
}


def exact(text: str) -> Fraction:
    """A printed number as a Fraction; a percentage as a share. Raises ValueError if the text is no such number.

    >>> exact("93.8%"), exact("423k"), exact("5.30")
    (Fraction(469, 500), Fraction(423000, 1), Fraction(53, 10))
    """
    digits, unit = split(text)
    return Fraction(digits) * unit


def interval(text: str) -> tuple[Fraction, Fraction]:
    """The smallest and the largest number that round to what is printed: half a unit of the last digit each way.

    >>> [float(x) for x in interval("+3.9%")]
    [0.0385, 0.0395]
    """
    digits, unit = split(text)
    half = Fraction(1, 2 * 10 ** len(digits.partition(".")[2])) * unit
    return exact(text) - half, exact(text) + half


def split(text: str) -> tuple[str, Fraction]:
    """The digits of a printed number, and what its last sign multiplies them by."""
    unit = {"%": Fraction(1, 100), "k": Fraction(1000)}.get(text[-1:], Fraction(1))
    digits = text if unit == 1 else text[:-1]
    if len(digits) > LONGEST or not re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)", digits):
        raise ValueError(f"expected a printed number such as 5.27, +3.1% or 423k, not {text[: LONGEST + 1]!r}")
    return digits, unit


def dominated(points: Mapping[str, Sequence[Fraction | int]]) -> dict[str, tuple[str, ...]]:
    """For each point, the names of those that beat it: nowhere larger, and somewhere smaller. Points beaten by none
    (an empty tuple) are the Pareto front of costs.

    >>> dominated({"QKV": (511, 16), "K=V": (527, 8), "MQA": (519, 1)})
    {'QKV': (), 'K=V': ('MQA',), 'MQA': ()}
    """

    def beats(one: Sequence[Fraction | int], other: Sequence[Fraction | int]) -> bool:
        return all(a <= b for a, b in zip(one, other, strict=True)) and any(
            a < b for a, b in zip(one, other, strict=True)
        )

    return {name: tuple(n for n, p in points.items() if beats(p, point)) for name, point in points.items()}
