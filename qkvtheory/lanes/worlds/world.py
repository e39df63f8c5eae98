"""What every world offers to a statement, and how two sides compare."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from qkvtheory.network import MLP, Attention, Block, Network


@dataclass(frozen=True)
class Comparison:
    """``count`` entries compared; ``size``: the largest difference, relative to the largest entry (floats,
    fractions).
    """

    equal: bool
    count: int
    size: float
    tolerance: float = 0.0


class World:
    """What every world offers. Sizes are the names "n", "d", "k", ...; hypotheses are the names "H1", "H2", ..."""

    lane = ""

    def matrix(self, name: str, rows: str, cols: str) -> Any:
        """Any matrix of this shape."""
        raise NotImplementedError

    def invertible(self, name: str, size: str, hypothesis: str = "H2") -> Any:
        """A square matrix, invertible because of ``hypothesis``."""
        raise NotImplementedError

    def orthogonal(self, name: str, size: str, hypothesis: str = "H1") -> Any:
        """A square matrix O with O O^T = I because of ``hypothesis``; never a rotation of one plane only."""
        raise NotImplementedError

    def fixing_ones(self, name: str, size: str, hypothesis: str = "H1", fixes: str = "H2") -> Any:
        """An orthogonal matrix that maps the all-ones row to itself, because of a second hypothesis."""
        raise NotImplementedError

    def full_row_rank(self, name: str, rows: str, cols: str, hypothesis: str = "H2") -> Any:
        raise NotImplementedError

    def singular(self, name: str, size: str) -> tuple[Any, Any]:
        """A singular matrix and a generalized inverse of it, for controls."""
        raise NotImplementedError

    def annihilator(self, name: str, rows: str, of: Any) -> Any:
        """A nonzero matrix Z with Z @ of = 0."""
        raise NotImplementedError

    def identity(self, size: str) -> Any:
        raise NotImplementedError

    def ones(self, size: str) -> Any:
        raise NotImplementedError

    def function(self, name: str, cols: str | None = None, rows: str | None = None) -> Callable[..., Any]:
        """An unknown function of matrices: opaque, a hash, or some nonlinear function."""
        raise NotImplementedError

    def core(self) -> Callable[[Any, Any, Any], Any]:
        """The attention core: unknown in words, the setting's heads in numbers."""
        raise NotImplementedError

    def softmax(self, scores: Any, law: str = "row-constants-invisible", rows: str = "rows sum to one") -> Any:
        """Row softmax; ``law`` and ``rows`` name the claims or hypotheses under which its two laws may be used."""
        raise NotImplementedError

    def exp(self, scores: Any, law: str = "H1") -> Any:
        """The entrywise exponential; ``law`` names the hypothesis under which exp(s + t) = exp(s) exp(t) may be
        used.
        """
        raise NotImplementedError

    def kernel(self, scores: Any) -> Any:
        """A positive function of each entry, about which nothing else is known: what may stand in place of exp."""
        raise NotImplementedError

    def diagonal(self, v: Any, hypothesis: str = "H1") -> Any:
        """diag(v) of a column of numbers that are positive because of ``hypothesis``."""
        raise NotImplementedError

    def symmetric(self, name: str, size: str, hypothesis: str = "H1") -> Any:
        """A square matrix of small whole numbers, or of floats, that is symmetric because of ``hypothesis``."""
        raise NotImplementedError

    def centering(self, size: str) -> Any:
        """C = I - 1 1^T / n: multiplied from the right it takes the mean off every row."""
        raise NotImplementedError

    def rotate(self, z: Any) -> Any:
        """Rotary positions on the rows of z: unknown in words, a real rotation in numbers."""
        raise NotImplementedError

    def integers(self, name: str, rows: str, cols: str) -> Any:
        """A matrix of small integers where exactness needs them; elsewhere any matrix."""
        return self.matrix(name, rows, cols)

    def head(self, q: Any, k: Any, v: Any) -> Any:
        """One softmax head without scale: softmax(q k^T) v."""
        return self.softmax(q @ k.mT) @ v

    def weight(self, name: str, rows: str, cols: str) -> Any:
        return self.matrix(name, rows, cols)

    has_biases = False

    def attention(
        self, *, memory: bool = False, square: bool = False, biases: bool = False, label: str = "", **given: Any
    ) -> Attention:
        """An attention sublayer with letters for weights; ``given`` replaces some. ``square``: all weights d x d."""
        source = "z" if memory else "d"
        p, k, v, o = ("d",) * 4 if square else ("p", "k", "v", "o")
        p = getattr(given.get("W_Q"), "cols", p)  # a letter knows its size, and its bias is as wide
        shapes = {"W_Q": ("d", p), "W_K": (source, k), "W_V": (source, v), "W_O": (o, "d")}
        rows = {"b_Q": ("1", p), "b_K": ("1", k), "b_V": ("1", v), "b_O": ("1", "d")}
        shapes |= rows if biases or self.has_biases else {}
        core = given.pop("core", None) or self.core()
        drawn = {name: self.weight(name + label, *shape) for name, shape in shapes.items() if name not in given}
        return Attention(core, **drawn, **given)

    def block(
        self,
        *,
        biases: bool = False,
        label: str = "",
        topology: tuple[Any, Any] = (True, False),
        hypothesis: str = "H2",
        parallel: bool = False,
        **given: Any,
    ) -> Block:
        """A block with a square W_Q that is invertible by ``hypothesis``; ``given`` replaces weights of the attention.

        ``topology``: the skip around attention and the one around the MLP. ``parallel``: both read the block's input.
        """
        given.setdefault("W_Q", self.invertible("W_Q" + label, "d", hypothesis))
        shapes = {"W_up": ("d", "hidden"), "W_down": ("hidden", "d")}
        shapes |= {"b_up": ("1", "hidden"), "b_down": ("1", "d")} if biases else {}
        mlp = MLP(self.function("phi"), **{name: self.weight(name + label, *s) for name, s in shapes.items()})
        attention = self.attention(biases=biases, label=label, **given)
        return Block(attention, mlp, *topology, parallel=parallel)

    def network(
        self,
        layers: int,
        topology: tuple[Any, Any] = (True, False),
        *,
        biases: bool = False,
        tied: bool = False,
        positions: bool = True,
        **options: Any,
    ) -> Network:
        """Embedding, positions, blocks, readout. ``options``: those of ``block``. ``tied``: the readout is E^T."""
        labels = [f"^{i}" for i in range(1, layers + 1)]
        blocks = [self.block(biases=biases, label=label, topology=topology, **options) for label in labels]
        table = self.matrix("P", "n", "d") if positions else None
        readout = None if tied else self.matrix("D", "d", "s")
        return Network(self.matrix("E", "vocab", "d"), blocks, readout, table)

    def tokens(self) -> Any:
        return self.matrix("T", "n", "vocab")

    def compare(self, left: Any, right: Any) -> Comparison:
        raise NotImplementedError

    def at_most(self, left: Any, right: Any) -> Comparison:
        """Is every entry on the left at most the one on the right? What it exceeds it by counts as the difference."""
        check_shapes(left, right)
        return self.compare(np.where(left <= right, right, left), right)  # what is no number is not at most anything


def check_shapes(left: Any, right: Any) -> None:
    """Two sides of an equation have one shape: arrays of different shapes would be stretched to fit. And entries."""
    if left.shape != right.shape:
        raise ValueError(f"the two sides have different shapes, {left.shape} and {right.shape}")
    if not left.size:
        raise ValueError(f"both sides are {left.shape} and have no entries, so there is nothing to compare")
