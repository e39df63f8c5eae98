"""What a claim is: a statement as a function of a world, its hypotheses, its sources, its controls, and its lanes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal, NamedTuple

from qkvtheory import words
from qkvtheory.lanes.settings import Setting, any_setting
from qkvtheory.lanes.worlds import World

Pairs = Sequence[tuple[Any, Any]]


class AtMost(NamedTuple):
    """A pair of which every entry on the left is at most the one on the right: for floats, up to the tolerance.

    For numbers only; in words nothing is larger than anything.
    """

    left: Any
    right: Any


Statement = Callable[[Any], Pairs]


@dataclass(frozen=True)
class Hypothesis:
    id: str
    name: str
    sentence: str


@dataclass(frozen=True)
class Source:
    """Where a statement comes from. ``key``: the bibliography; ``provenance``: "paper", "derived" (ours),
    "reported", ...
    """

    provenance: str
    key: str = ""
    version: str = ""
    name: str = ""
    note: str = ""


@dataclass(frozen=True)
class Control:
    """A wrong variant that every lane named here must reject.

    ``sides``: pairs of which at least one must differ. ``refused``: instead, running ``sides`` must raise
    HypothesisError for the hypothesis of this name, and for no other.
    ``witness``: pairs that must all be equal: the premises that make ``sides`` a counterexample.
    """

    hypothesis: str
    what: str
    sides: Statement | None = None
    lanes: tuple[str, ...] = ("symbolic", "exact", "numeric")
    witness: Statement | None = None
    refused: str = ""
    settings: Callable[[Setting], bool] | None = None


@dataclass(frozen=True)
class Claim:
    """One entry of the register. ``id`` is also the label in the book, the test id and (with underscores) the Rocq
    lemma.
    """

    id: str
    rank: Literal["theorem", "remark"]
    chapter: str
    title: str
    statement: str
    hypotheses: tuple[Hypothesis, ...]
    sources: tuple[Source, ...]
    sides: Statement
    controls: tuple[Control, ...]
    uses: tuple[str, ...] = ()
    lanes: tuple[str, ...] = ("symbolic", "exact", "numeric")
    special: Mapping[str, Statement] = field(default_factory=dict)
    settings: Callable[[Setting], bool] = any_setting
    constructions: tuple[str, ...] = ()
    kind: str = "identity"
    also: Statement | None = None
    deep: bool = False  # runs through layers: fractions would grow, so the exact lane computes modulo a prime

    def printed_in(self, lane: str) -> Statement:
        """The pairs a page prints; a lane may check the statement in a form of its own."""
        return self.special.get(lane, self.sides)

    def sides_in(self, lane: str) -> Statement:
        """The pairs a lane checks: the printed ones, and further instances of the same equation (``also``)."""
        printed, also = self.printed_in(lane), self.also
        return printed if also is None else lambda w: [*printed(w), *also(w)]

    def one_by_one(self, lane: str, world: World) -> Iterator[tuple[Any, Any]]:
        """The same pairs, none made before it is asked for."""
        yield from self.printed_in(lane)(world)
        yield from self.also(world) if self.also is not None else ()


@dataclass(frozen=True)
class Call:
    """A layer applied to its inputs: shown by name with its weights, computed by running the layer."""

    layer: Any
    inputs: tuple[Any, ...]
    name: str = "MHA"

    @property
    def value(self) -> Any:
        return self.layer(*self.inputs)

    def shown(self) -> words.Word:
        value = self.value
        return words.opaque(self.name, value.cols, value.rows, inputs=len(self.inputs))(
            *self.inputs, *weights_of(self.layer)
        )


def call(layer: Any, *inputs: Any, name: str = "MHA") -> Call:
    return Call(layer, inputs, name)


def value_of(side: Any) -> Any:
    return side.value if isinstance(side, Call) else side


def shown(side: Any) -> Any:
    return side.shown() if isinstance(side, Call) else side


def weights_of(layer: Any, kind: type = words.Word) -> list[Any]:
    """The matrices of this kind a layer holds, in the order of its fields, through nested layers and lists of
    layers.
    """
    found: list[Any] = []
    values = [getattr(layer, f.name) for f in fields(layer)] if is_dataclass(layer) else layer
    for value in values:
        if isinstance(value, kind):
            found.append(value)
        elif isinstance(value, list | tuple) or (is_dataclass(value) and not isinstance(value, type)):
            found += weights_of(value, kind)
    return found


def matrices(world: World, shapes: Mapping[str, str]) -> list[Any]:
    """Several plain matrices at once: ``{"X": "nd", "W_K": "dk"}`` (one letter a size)."""
    return [world.matrix(name, *sizes) for name, sizes in shapes.items()]
