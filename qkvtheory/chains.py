"""Calculations: chains of equal expressions in which every step has a reason, and every reason is checked.

>>> from qkvtheory.words import symbol
>>> X, W = symbol("X", "n", "d"), symbol("W", "d", "p")
>>> Theta = symbol("Theta", "d", "d", invertible=True)
>>> chain = Chain(X @ Theta @ (Theta.inverse() @ W)).then(X @ W, "H2: Theta is invertible")
>>> len(chain.steps)
2
>>> chain.then(W, "wishful thinking")
Traceback (most recent call last):
    ...
qkvtheory.chains.BrokenStep: step 2 (wishful thinking) does not follow: X W is n x p, W is d x p
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qkvtheory.errors import HypothesisError
from qkvtheory.words import Word


class BrokenStep(ValueError):
    """Two neighboring expressions of a chain are not equal. ``step`` counts from 0; ``residual`` is what is left
    over.
    """

    def __init__(self, step: int, reason: str, message: str, residual: Word | None = None):
        super().__init__(f"step {step} ({reason}) does not follow: {message}")
        self.step, self.reason, self.residual = step, reason, residual


@dataclass(frozen=True)
class Step:
    """``shown`` equals the previous step's expression because of ``reason``; ``needs`` names the hypotheses it
    rests on.
    """

    shown: Word
    reason: str = ""
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Chain:
    """A calculation. ``then`` adds a step, or raises BrokenStep if the new expression is not equal to the last one."""

    start: Word
    steps: tuple[Step, ...] = ()

    def __post_init__(self) -> None:
        if not self.steps:
            object.__setattr__(self, "steps", (Step(self.start),))

    def then(self, expression: Word, reason: str, needs: Sequence[str] = ()) -> Chain:
        last, number = self.steps[-1].shown, len(self.steps)
        if last.shape != expression.shape:
            shapes = (f"{w.brief()} is {w.rows} x {w.cols}" for w in (last, expression))
            raise BrokenStep(number, reason, ", ".join(shapes))
        if last != expression:
            raise BrokenStep(number, reason, f"left over: {(last - expression).brief()}", last - expression)
        return self.named(expression, reason, needs)

    def named(self, expression: Word, reason: str, needs: Sequence[str] = ()) -> Chain:
        """A step that holds by definition: one side is a name for what the code computed as the other."""
        return Chain(self.start, (*self.steps, Step(expression, reason, tuple(needs))))


@dataclass(frozen=True)
class Sides:
    """Both sides of an equation as the code computes them, and the short forms under which a page shows them."""

    left: Word
    right: Word
    left_name: Word
    right_name: Word


def calculate(run: Callable[[frozenset[str]], Sides], reasons: Sequence[tuple[str, str]]) -> Chain:
    """The calculation from the left side to the right side, using one reason after another.

    ``run(applied)`` gives both sides with only the hypotheses in ``applied`` allowed to cancel anything; ``reasons``
    are
    pairs (hypothesis, wording). A step is kept where a reason changes the expression. Raises BrokenStep if the sides
    are
    not equal once every reason is used.
    """
    applied: set[str] = set()
    sides = run(frozenset())
    chain = Chain(sides.left_name)
    if sides.left != sides.left_name:
        chain = chain.named(sides.left, "definition")
    back: list[tuple[Word, str, str]] = []
    for hypothesis, wording in reasons:
        before, applied = sides, applied | {hypothesis}
        sides = run(frozenset(applied))
        if str(sides.left) != str(before.left):
            chain = chain.named(sides.left, wording, [hypothesis])
        if str(sides.right) != str(before.right):
            back.append((before.right, wording, hypothesis))
    if sides.left != sides.right:
        raise BrokenStep(
            len(chain.steps),
            "the two sides",
            f"left over: {(sides.left - sides.right).brief()}",
            sides.left - sides.right,
        )
    for expression, wording, hypothesis in reversed(back):
        chain = chain.named(expression, wording, [hypothesis])
    return chain if str(sides.right_name) == str(chain.steps[-1].shown) else chain.named(sides.right_name, "definition")


def broken_without(run: Callable[[], Sides]) -> str | Word:
    """What happens when a hypothesis is switched off: the refusal of the construction, or what is left over.

    ``run`` gives both sides with every other hypothesis allowed. Raises ValueError if the equation still holds: then
    the hypothesis was not needed.
    """
    try:
        sides = run()
    except HypothesisError as refusal:
        return str(refusal)
    if sides.left == sides.right:
        raise ValueError("the equation holds without this hypothesis")
    return sides.left - sides.right


def induction(start: tuple[Word, Word], steps: Sequence[tuple[Word, Word]]) -> int:
    """Induction over layers: the stream starts as claimed, and each kind of layer carries the claim one layer on.

    ``start``: the new stream before layer 1, and the old one in its basis. ``steps``: for each kind of layer, the new
    layer
    applied to (any x in the entering basis), and the old layer's output in the leaving basis. Since x is a letter about
    which nothing is known, equality at each step proves it for every depth. Returns the number of equalities checked.
    """
    for number, (new, old) in enumerate((start, *steps)):
        if new != old:
            raise BrokenStep(
                number, "base" if number == 0 else "induction step", f"left over: {(new - old).brief()}", new - old
            )
    return 1 + len(steps)
