"""The trained-model widget: attention layers that were trained to reverse eight digits, run on the reader's own digits.

The weights come from ``qkvtheory.experiments.live`` and lie beside this file, in thousandths: Python and
``trained_model.mjs`` divide the same whole numbers and so compute with the very same weights. The forward pass below
is NumPy; the tests compare it with the page and with the PyTorch model it was trained as. The picture is drawn in
``trained_model_picture.py``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from qkvtheory.attention import Heads, softmax
from qkvtheory.positions import separable_channels
from qkvtheory.variants import parse
from qkvtheory.widgets.state import State, check_choice, complete
from qkvtheory.widgets.text import fixed, num

LENGTH, SYMBOLS = 8, 10
PAIRS = LENGTH // 2
SCALE = 1000  # weights are whole numbers of 1/SCALE
FILE = Path(__file__).with_suffix(".json")
DEFAULT: State = {"sequence": "31415926", "variant": "Q=K"}
CLAIMS = {  # a page links them below the picture
    "one head of Q=K": "pair-bound",
    "what it means for reversing": "reverse-swap-consequence",
    "why the sign of a temperature matters": "plus-pair-bound-sign",
}


def check_state(**given: Any) -> State:
    """The full state, with defaults for what was not given, as JSON values.

    ``sequence`` eight digits, a string. ``variant`` "QKV", "Q=K", "Q=K, 2 heads", "(Q=K)+" or "Q=K, skip".
    Raises ValueError naming what is wrong.

    >>> check_state(variant="QKV")
    {'sequence': '31415926', 'variant': 'QKV'}
    """
    state = complete(DEFAULT, given)
    sequence = state["sequence"]
    if not isinstance(sequence, str) or len(sequence) != LENGTH or not set(sequence) <= set("0123456789"):
        raise ValueError(f"sequence must be {LENGTH} digits in quotes, such as '31415926', not {sequence!r}")
    state["variant"] = check_choice("variant", state["variant"], tuple(m.name for m in models()))
    return state


# --- the models ---


def written(matrix: np.ndarray) -> list[str]:
    """A matrix of thousandths as text, a row a line; see ``read``.

    >>> written(np.array([[0.5, -1.25], [0.0, 2.0]]))
    ['500 -1250', '0 2000']
    """
    return [" ".join(map(str, row)) for row in np.rint(np.asarray(matrix, dtype=np.float64) * SCALE).astype(int)]


def read(rows: list[str]) -> np.ndarray:
    """
    >>> read(["500 -1250", "0 2000"]).tolist()
    [[0.5, -1.25], [0.0, 2.0]]
    """
    return np.array([[int(x) for x in row.split(" ")] for row in rows]) / SCALE


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained attention layer between embedding and readout.

    ``weights``: E (symbols x d), P (positions, n x d), W_Q and W_K or their common W_Z, W_V, W_O (d x d), D (d x
    symbols), and w (1 x 10) of the 2D correction where there is one. ``skip``: is there one around attention.
    ``runs``: for every seed what was measured on sequences that were not trained on.
    """

    name: str
    variant: str
    heads: int
    skip: bool
    weights: dict[str, np.ndarray]
    parameters: int
    shown: int
    runs: tuple[dict[str, float], ...]

    @property
    def temperature(self) -> float:
        """The factor on the scores: 1, or the sum of the weights of the correction."""
        return float(self.weights["w"].sum()) if "w" in self.weights else 1.0

    @property
    def key_bias(self) -> np.ndarray:
        """What the correction adds to the scores of each key, (n,). What it adds to a whole row, softmax ignores."""
        if "w" not in self.weights:
            return np.zeros(LENGTH)
        table = separable_channels(LENGTH, self.weights["w"].size)[0]
        table[:, : self.weights["w"].size // 2] = 0  # the channels of the row
        return table @ self.weights["w"][0]

    @property
    def bounded(self) -> bool:
        """Is A_ij + A_ji at most 1 (claims pair-bound, plus-pair-bound-sign)?"""
        return parse(self.variant).kind == "Q=K-V" and self.temperature >= 0

    def stream(self, sequence: str) -> np.ndarray:
        """Embedding and position of every digit, n x d."""
        return self.weights["E"][[int(c) for c in sequence]] + self.weights["P"]

    def maps_and_logits(self, sequence: str) -> tuple[np.ndarray, np.ndarray]:
        """(heads, n, n) and (n, symbols), float64."""
        w, x = self.weights, self.stream(sequence)
        core = Heads(self.heads, correction=lambda scores: self.temperature * scores + self.key_bias)
        q, k = x @ w.get("W_Q", w.get("W_Z")), x @ w.get("W_K", w.get("W_Z"))
        written = core(q, k, x @ w["W_V"]) @ w["W_O"]
        return core.maps(q, k), (x + written if self.skip else written) @ w["D"]

    @property
    def opposed(self) -> float | None:
        """The cosine between what two ways write for one and the same symbol, as the readout sees it: two heads, or one
        head and the skip. None for a single way.
        """
        w, width = self.weights, self.weights["W_V"].shape[1] // self.heads
        blocks = [slice(h * width, (h + 1) * width) for h in range(self.heads)]
        ways = [w["W_V"][:, b] @ w["W_O"][b] for b in blocks] + [np.eye(len(w["W_O"]))] * self.skip
        if len(ways) != 2:
            return None
        one, two = (centered(w["E"] @ way @ w["D"]) for way in ways)
        return float((one * two).sum() / np.linalg.norm(one) / np.linalg.norm(two))

    def seen(self, name: str) -> list[float]:
        """A measurement over all seeds."""
        return [run[name] for run in self.runs]


def centered(a: np.ndarray) -> np.ndarray:
    """Without what is common to all symbols, and to all logits: neither changes an answer."""
    a = a - a.mean(axis=0, keepdims=True)
    return a - a.mean(axis=1, keepdims=True)


@cache
def stored() -> dict[str, Any]:
    return json.loads(FILE.read_text("utf8"))


@cache
def models() -> tuple[Trained, ...]:
    """The forms, in the order of the page; the first call reads the file."""
    return tuple(
        Trained(**{**given, "weights": {k: read(rows) for k, rows in given["weights"].items()}})
        for given in stored()["models"]
    )


def find(name: str) -> Trained:
    return next(model for model in models() if model.name == name)


# --- what is true of a sequence ---


@dataclass(frozen=True)
class Facts:
    """Everything the picture shows. ``maps``: (heads, n, n). ``answer``: a symbol for each position, ``chances`` its
    probability. ``pairs``: for every head and every position i of the first half A_ij and A_ji, j its partner.
    """

    model: Trained
    sequence: str
    maps: np.ndarray
    answer: str
    chances: list[float]
    pairs: list[list[tuple[float, float]]]

    @property
    def wanted(self) -> str:
        return self.sequence[::-1]

    @property
    def right(self) -> list[bool]:
        return [a == b for a, b in zip(self.answer, self.wanted, strict=True)]

    @property
    def same(self) -> int:
        """The pairs of different symbols that get one and the same answer at both ends."""
        s, a = self.sequence, self.answer
        return sum(s[i] != s[-1 - i] and a[i] == a[-1 - i] for i in range(PAIRS))

    @property
    def largest(self) -> float:
        return max(a + b for head in self.pairs for a, b in head)


def facts(state: State) -> Facts:
    model, sequence = find(state["variant"]), state["sequence"]
    maps, logits = model.maps_and_logits(sequence)
    best = logits.argmax(axis=1)
    chances = softmax(logits)[np.arange(LENGTH), best].tolist()
    pairs = [[(float(a[i, -1 - i]), float(a[-1 - i, i])) for i in range(PAIRS)] for a in maps]
    return Facts(model, sequence, maps, "".join(map(str, best)), chances, pairs)


# --- the same text as trained_model.mjs ---


def sentence(f: Facts) -> str:
    limit = "it is never more than 1." if f.model.bounded else "nothing keeps it below 1."
    twice = f" In {f.same} of {PAIRS} pairs both ends get the same answer." if f.same else ""
    told = f"Largest sum of two partners: {num(f.largest)}; {limit}"
    return f"{f.model.name}: {sum(f.right)} of {LENGTH} symbols right.{twice} {told} {note(f.model)}"


@cache
def note(model: Trained) -> str:
    """Why it does what it does; the page gets this text with the weights."""
    seeds, negative = len(model.runs), sum(t < 0 for t in model.seen("temperature"))
    guess = fixed(100 * (1 + 1 / SYMBOLS) / 2, 0)
    opposed = num(model.opposed or 0)
    return {
        "QKV": "Its queries are its own, so each position can look at its partner alone.",
        "Q=K": "Each position gives half to itself and half to its partner, so both ends hear the same mixture and can "
        f"only guess one of the two symbols. That is right {guess} times in 100.",
        "Q=K, 2 heads": "One head mixes the pair, the other looks at its own position. For one symbol they write in "
        f"opposite directions (cosine {opposed}): mixture less own symbol leaves the partner's.",
        "(Q=K)+": f"That needs a temperature of at least 0, and training chose {num(model.temperature)}: opposite keys "
        f"attract. It became negative with {negative} of {seeds} seeds.",
        "Q=K, skip": "The map is that of one head. But the skip carries the own symbol past attention, in the opposite "
        f"direction (cosine {opposed}): mixture less own symbol. The bound is about mass, not about accuracy.",
    }[model.name]


def still(state: State) -> str:
    """The inside of the widget for a state of ``check_state``, as HTML."""
    from qkvtheory.widgets import trained_model_picture  # it needs the mathematics above

    return trained_model_picture.still(state)
