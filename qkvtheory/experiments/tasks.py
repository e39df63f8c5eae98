"""Small tasks to train on: generated sequences, associative recall, and the 8x8 digits of scikit-learn.

Five tasks ask for a symbol at each position of a sequence (Kayyam, Madan Gopal and Lewis 2026, arXiv 2606.04032):
reverse it, sort it, swap its halves, subtract each symbol from the largest, copy it. The first three must move symbols
between positions, the last two need no attention at all. Recall asks for the value that stands beside a given key.

>>> tokens, targets = Task("reverse", length=4).draw(batch=2, seed=0, step=0)
>>> bool((targets == tokens[:, ::-1]).all())
True
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from qkvtheory.experiments import Missing
from qkvtheory.experiments.data import generator

TASKS = ("reverse", "sort", "swap", "sub", "copy", "recall")
IGNORED = -100  # a target that is not scored, as PyTorch's cross-entropy has it

# The random numbers of the test sets. NumPy turns [seed, step], both below 2^32, into two words; a spawn key stands
# behind four words of filling, so its sequence of words is longer and no training seed and step can give the same.
TEST = np.random.SeedSequence(260604032, spawn_key=(1,))

RULES: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "reverse": lambda x, symbols: x[:, ::-1],
    "sort": lambda x, symbols: np.sort(x, axis=1),
    "swap": lambda x, symbols: np.roll(x, x.shape[1] // 2, axis=1),
    "sub": lambda x, symbols: symbols - 1 - x,
    "copy": lambda x, symbols: x,
}


@dataclass(frozen=True)
class Task:
    """A generated task: a name out of ``TASKS`` and its sizes.

    ``length`` is the number of symbols in a sequence, each drawn uniformly from ``symbols``. Recall has ``length``
    pairs instead, one of ``keys`` keys with one of ``values`` values, and one more token that asks. Raises ValueError
    for a task that does not exist or sizes that cannot be.

    >>> Task("sort").vocab, Task("sort").outputs, Task("sort").positions
    (10, 10, 16)
    >>> Task("recall", keys=32, values=8).vocab, Task("recall", keys=32, values=8).outputs, Task("recall").positions
    (41, 8, 17)
    """

    name: str
    length: int = 16
    symbols: int = 10
    keys: int = 64
    values: int = 64

    def __post_init__(self) -> None:
        if self.name not in TASKS:
            raise ValueError(f"there is no task {self.name!r}; choose one of {', '.join(TASKS)}")
        if self.length < 1 or min(self.symbols, self.values) < 2:
            raise ValueError(f"{self}: expected a length of at least 1, and at least 2 symbols and values")
        if self.name == "swap" and self.length % 2:
            raise ValueError(f"swap exchanges two halves, so its length must be even; got {self.length}")
        if self.name == "recall" and self.keys < self.length:
            raise ValueError(f"recall draws {self.length} different keys and has only {self.keys}; give more keys")

    @property
    def vocab(self) -> int:
        """Different inputs: the symbols; for recall keys, values and one for "no value", in this order."""
        return self.keys + self.values + 1 if self.name == "recall" else self.symbols

    @property
    def outputs(self) -> int:
        """Classes of an answer."""
        return self.values if self.name == "recall" else self.symbols

    @property
    def positions(self) -> int:
        """Tokens of a sequence."""
        return self.length + (self.name == "recall")

    def draw(self, batch: int, seed: int, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and targets, int64, the same for the same seed and step.

        Tokens and targets are (batch, length), numbers from 0 to symbols - 1. For recall tokens are
        (batch, length + 1, 2): two embeddings to be summed, a key and a value; at the last token a key and "no value".
        Its targets are (batch, length + 1): -100, which is not scored, except at the last token, where it is the number
        of the value beside that key, from 0 to values - 1.

        >>> tokens, targets = Task("recall", length=3, keys=4, values=2).draw(batch=1, seed=0, step=0)
        >>> tokens.shape, targets[0, :-1].tolist()
        ((1, 4, 2), [-100, -100, -100])
        """
        return self._drawn(batch, generator(seed, step))

    def test(self, size: int = 1000) -> tuple[np.ndarray, np.ndarray]:
        """The test set, as ``draw`` gives it: always the same, from a seed that no training can use (see ``TEST``)."""
        return self._drawn(size, np.random.default_rng(TEST))

    def _drawn(self, batch: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        if batch < 1:
            raise ValueError(f"{batch} sequences; expected at least 1")
        if self.name == "recall":
            return self._recall(batch, rng)
        tokens = rng.integers(self.symbols, size=(batch, self.length))
        return tokens, RULES[self.name](tokens, self.symbols).copy()

    def _recall(self, batch: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        shuffled = rng.permuted(np.tile(np.arange(self.keys), (batch, 1)), axis=1)
        keys, values = shuffled[:, : self.length], rng.integers(self.values, size=(batch, self.length))
        rows, asked = np.arange(batch), rng.integers(self.length, size=batch)
        tokens = np.full((batch, self.length + 1, 2), self.keys + self.values)  # "no value" where nothing else is put
        tokens[:, :-1, 0], tokens[:, :-1, 1], tokens[:, -1, 0] = keys, self.keys + values, keys[rows, asked]
        targets = np.full((batch, self.length + 1), IGNORED)
        targets[:, -1] = values[rows, asked]
        return tokens, targets


# -- scores ------------------------------------------------------------------------------------------------------------


def accuracy(predicted: Any, targets: Any) -> float:
    """The share of right classes among the scored targets, those that are not -100.

    >>> accuracy([[1, 2], [3, 0]], [[1, 2], [0, -100]])
    0.6666666666666666
    """
    right, scored = compared(predicted, targets)
    return float(right[scored].mean())


def solved(predicted: Any, targets: Any) -> float:
    """The share of rows in which every scored target is met.

    >>> solved([[1, 2], [3, 0]], [[1, 2], [0, -100]])
    0.5
    """
    right, scored = compared(predicted, targets)
    rows = scored.reshape(len(scored), -1).any(axis=1)  # a row without a question is no row to solve
    return float((right | ~scored).reshape(len(scored), -1).all(axis=1)[rows].mean())


def compared(predicted: Any, targets: Any) -> tuple[np.ndarray, np.ndarray]:
    predicted, targets = np.asarray(predicted), np.asarray(targets)
    if predicted.shape != targets.shape:
        raise ValueError(
            f"predictions of shape {predicted.shape} for targets of shape {targets.shape}; expected one class for each "
            f"target (of logits take the argmax over the last axis)"
        )
    scored = targets != IGNORED
    if not scored.any():
        raise ValueError("no target is scored: all are -100, or there are none")
    return predicted == targets, scored


# -- digits ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Digits:
    """Handwritten digits: inputs (n, 16, 4), float32 from 0 to 1, patches of 2x2 pixels; labels (n,), int64, 0 to 9."""

    train_inputs: np.ndarray
    train_labels: np.ndarray
    test_inputs: np.ndarray
    test_labels: np.ndarray


def digits(seed_of_split: int = 0) -> Digits:
    """The 1,797 images of 8x8 pixels that come with scikit-learn: 1,437 to train on, 360 to test, stratified by label.

    Raises Missing, with the command that installs it, where scikit-learn is not installed.

    >>> found = digits()
    >>> found.train_inputs.shape, found.test_inputs.shape, float(found.train_inputs.max())
    ((1437, 16, 4), (360, 16, 4), 1.0)
    """
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError:
        raise Missing("the digits come with scikit-learn; install it with: pip install scikit-learn") from None
    bundled = load_digits()
    inputs = patches(bundled.images.astype(np.float32) / 16)
    train, test, train_labels, test_labels = train_test_split(
        inputs, bundled.target.astype(np.int64), test_size=360, stratify=bundled.target, random_state=seed_of_split
    )
    return Digits(train, train_labels, test, test_labels)


def patches(images: np.ndarray, size: int = 2) -> np.ndarray:
    """Images (n, height, width) as tokens (n, patches, size^2): patches by rows, and the pixels of a patch by rows.

    >>> patches(np.arange(16).reshape(1, 4, 4)).tolist()
    [[[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]]
    """
    n, height, width = images.shape
    cut = images.reshape(n, height // size, size, width // size, size)
    return cut.swapaxes(2, 3).reshape(n, -1, size * size)


def epoch(n: int, batch: int, seed: int, epoch: int) -> Iterator[np.ndarray]:
    """The numbers 0 to n - 1 in an order that seed and epoch decide, ``batch`` at a time, fewer in the last one.

    >>> [len(rows) for rows in epoch(10, batch=4, seed=0, epoch=0)]
    [4, 4, 2]
    """
    if n < 1 or batch < 1:
        raise ValueError(f"n = {n} and batch = {batch}; expected at least 1 of both")
    order = generator(seed, epoch).permutation(n)
    return (order[i : i + batch] for i in range(0, n, batch))
