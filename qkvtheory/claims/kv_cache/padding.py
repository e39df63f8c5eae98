"""A toy text of short documents, padded, and two models of it: what scoring the padding does to their difference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np

LETTERS, END, PAD = 4, 4, 5
LENGTH, DOCUMENTS = 24, 40
BITS = (1, 2, 3, 4, 4)  # of the next letter, by how far round the alphabet it is; the last is the end
Document = Sequence[int]
Model = Callable[[int, int], int]


def documents() -> list[list[int]]:
    """Drawn from the second model below, so that it predicts better than the first; each with one end, then padding.

    >>> all(len(d) == LENGTH and d.count(END) <= 1 for d in documents())
    True
    """
    rng, found = np.random.default_rng(3), []
    text: list[int]
    for _ in range(DOCUMENTS):
        text, last = [], 0
        while len(text) < LENGTH and last != END:
            step = int(rng.choice(len(BITS), p=[2.0**-bits for bits in BITS]))
            last = END if step == END else (last + step) % LETTERS
            text.append(last)
        found.append(text + [PAD] * (LENGTH - len(text)))
    return found


def uniform(before: int, token: int) -> int:
    """-log2 of the probability: 8 tokens alike, and padding for certain after the end."""
    return 0 if before in (END, PAD) else 3


def bigram(before: int, token: int) -> int:
    """The same with the probabilities that the text was drawn with."""
    if before in (END, PAD):
        return 0
    return BITS[END] if token == END else BITS[(token - before) % LETTERS]


def loss(model: Model, texts: Sequence[Document], masked: bool) -> Fraction:
    """Bits for each scored token: log2 of the perplexity. ``masked``: padding is not scored."""
    scored = [(b, t) for text in texts for b, t in zip([0, *text], text, strict=False) if not (masked and t == PAD)]
    return Fraction(sum(model(b, t) for b, t in scored), len(scored))


def trivial(texts: Sequence[Document]) -> Fraction:
    """The part of the tokens that is padding."""
    return Fraction(sum(t == PAD for text in texts for t in text), sum(map(len, texts)))


def packed(texts: Sequence[Document]) -> list[list[int]]:
    """The same letters in texts of full length, without ends and padding."""
    letters = [t for text in texts for t in text if t < LETTERS]
    return [letters[i : i + LENGTH] for i in range(0, len(letters) - LENGTH + 1, LENGTH)]
