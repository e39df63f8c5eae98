"""Run one claim in every lane but the formal one: the statement, its controls, its mutants."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import numpy as np

from qkvtheory.chains import Chain, Sides, broken_without, calculate
from qkvtheory.claims.model import AtMost, Call, Claim, Control, Pairs, Statement, shown, value_of, weights_of
from qkvtheory.errors import HypothesisError
from qkvtheory.lanes.evaluate import broken_steps
from qkvtheory.lanes.mutants import Mutant, mutants, planted
from qkvtheory.lanes.results import ACCEPTED, NOT_RUN, REJECTED, ControlResult, LaneResult
from qkvtheory.lanes.settings import EXACT, FLOAT, Setting
from qkvtheory.lanes.worlds import EVERYTHING, Comparison, Floats, Fractions, Hashes, Residues, Words, World
from qkvtheory.words import Word

HASH_SEEDS = (11, 12)
WRONG = (ValueError, ArithmeticError, TypeError, AttributeError, NameError, LookupError, RuntimeError, StopIteration)
KILLED, CRASHED, SURVIVED, SAME = "killed", "crashed", "survived", "the same construction"
COUNTED = ("count", "rank", "experiment")  # lanes that compare what is counted, or read from stored runs
MARGIN = 1e3  # a rejected control differs by at least this many tolerances, and visibly
VISIBLE = 1e-6


def worlds(lane: str, allowed: Callable[[Setting], bool], deep: bool = False) -> Iterator[World]:
    """The worlds in which a lane runs a statement that speaks about the allowed settings; ``deep`` as in a Claim."""
    if lane == "symbolic":
        yield Words()
    elif lane == "exact":
        yield from ((Residues if deep else Fractions)(s) for s in EXACT if allowed(s))
    elif lane == "numeric":
        yield from (Floats(s) for s in FLOAT if allowed(s))


def compare(world: World, pairs: Pairs) -> list[Comparison]:
    return [comparison(world, pair)(value_of(pair[0]), value_of(pair[1])) for pair in pairs]


def comparison(world: World, pair: tuple[Any, Any]) -> Callable[[Any, Any], Comparison]:
    return world.at_most if isinstance(pair, AtMost) else world.compare


def run_lane(claim: Claim, lane: str) -> LaneResult:
    """The claim in one lane. Never raises for a false claim: it comes back red, with the reason.

    A lane whose stored runs are not here is not run: that says nothing about the claim.
    """
    start, result = time.perf_counter(), LaneResult()
    try:
        if lane in COUNTED:
            check_counts(claim, lane, result)
        else:
            check_statement(claim, lane, result)
            if result.status == "pass":
                check_mutants(claim, lane, result)
    except FileNotFoundError as missing:
        result.status, result.reason = NOT_RUN, str(missing)
    except WRONG as error:
        result.fail(f"{type(error).__name__}: {error}")
    if lane == "exact" and claim.deep and result.status == "pass":
        result.reason = Residues.bound
    result.seconds = time.perf_counter() - start
    return result


def check_statement(claim: Claim, lane: str, result: LaneResult) -> None:
    statement = claim.sides_in(lane)
    for world in worlds(lane, claim.settings, claim.deep):
        for (left, right), seen in zip(pairs := statement(world), compare(world, pairs), strict=True):
            result.comparisons += seen.count
            if seen.size >= result.worst:
                result.worst, result.tolerance = seen.size, seen.tolerance
            if not seen.equal:
                result.fail(f"{where(world)}: {describe(left)} differs from {describe(right)} by {seen.size:.1e}")
            if (
                lane != "symbolic"
                and is_zero(value_of(right))
                and is_zero(value_of(left))
                and not claim.special.get("zero")
            ):
                result.fail(f"{where(world)}: both sides are zero, so the comparison says nothing")
        if lane == "symbolic":
            result.opaque = sorted({name for pair in pairs for side in pair for name in value_of(side).opaque()})
    if result.comparisons == 0:
        result.fail("nothing was compared")
    if lane == "symbolic":
        check_symbolic(claim, result)


def check_symbolic(claim: Claim, result: LaneResult) -> None:
    """The verdict once more at random points of a prime field, the calculation step by step, and every hypothesis
    in turn.
    """
    statement = claim.sides_in("symbolic")
    for seen in reevaluated(statement, claim.settings):
        result.comparisons += seen.count
        if not seen.equal:
            result.fail("the re-evaluation over a prime field disagrees with the normal form")
    runs, world = symbolic_runs(claim), Hashes(next(s for s in EXACT if claim.settings(s)), HASH_SEEDS[0])
    for number in range(len(statement(Words()))):
        chain = calculation(claim, number, runs)
        result.comparisons += len(chain.steps) - 1
        for step in broken_steps(chain, world):
            result.fail(f"step {step} of its calculation fails at a random point of a prime field")
        for hypothesis in {h for step in chain.steps for h in step.needs}:
            broken_without(partial(sides_without, claim, hypothesis, number, runs))
            result.comparisons += 1


def reevaluated(statement: Statement, allowed: Callable[[Setting], bool]) -> list[Comparison]:
    setting = next(s for s in EXACT if allowed(s))
    fields = [Hashes(setting, seed) for seed in HASH_SEEDS]
    return [seen for world in fields for seen in compare(world, statement(world))]


Runs = Callable[[frozenset[str], frozenset[str]], Pairs]


def symbolic_runs(claim: Claim) -> Runs:
    """The statement in words, run once for each choice of what is assumed and what may be applied."""
    return cache(lambda assumed, applied: claim.sides_in("symbolic")(Words(assumed, applied)))


def calculation(claim: Claim, number: int = 0, runs: Runs | None = None) -> Chain:
    """The proof of the claim's pair ``number``: the very steps that the symbolic lane checks and the page prints."""
    reasons, runs = [*claim.uses, *(h.id for h in claim.hypotheses)], runs or symbolic_runs(claim)

    def run(applied: frozenset[str]) -> Sides:
        left, right = runs(EVERYTHING, applied)[number]
        return Sides(value_of(left), value_of(right), shown(left), shown(right))

    return calculate(run, [(r, r) for r in reasons])


def sides_without(claim: Claim, hypothesis: str, number: int = 0, runs: Runs | None = None) -> Sides:
    """Both sides with one hypothesis not declared at all."""
    others = frozenset({*claim.uses, *(h.id for h in claim.hypotheses)} - {hypothesis})
    left, right = (runs or symbolic_runs(claim))(others, others)[number]
    return Sides(value_of(left), value_of(right), shown(left), shown(right))


# -- controls ----------------------------------------------------------------------------------------------------------


def run_control(claim: Claim, control: Control, lanes: tuple[str, ...]) -> ControlResult:
    result = ControlResult(control.hypothesis, control.what)
    for lane in control.lanes:
        if lane not in lanes:
            continue
        try:
            run_control_lane(claim, control, lane, result)
        except FileNotFoundError as missing:
            result.lanes[lane], result.reason = NOT_RUN, str(missing)
        except WRONG as error:
            result.lanes[lane] = ACCEPTED
            result.reason = f"the control itself failed: {type(error).__name__}: {error}"
    return result


def run_control_lane(claim: Claim, control: Control, lane: str, result: ControlResult) -> None:
    if lane in COUNTED:
        assert control.sides is not None
        predicted = control.sides(None)
        result.lanes[lane] = REJECTED if any(number != counted for number, counted in predicted) else ACCEPTED
        return
    allowed = control.settings or claim.settings
    world = next(worlds(lane, allowed, claim.deep))
    if control.witness is not None:
        premises = control.witness(world)
        for (left, right), premise in zip(premises, compare(world, premises), strict=True):
            if not premise.equal:
                raise ValueError(
                    f"its premise fails: {describe(left)} differs from {describe(right)} by {premise.size:.1e}"
                )
    if control.refused:
        result.lanes[lane], result.reason = refusal(control, world)
        return
    if control.sides is None:
        result.lanes[lane] = REJECTED  # the witness alone contradicts the statement
        return
    seen = compare(world, control.sides(world))
    rejected = any(differs(c, lane) for c in seen)
    if lane == "symbolic":
        again = reevaluated(control.sides, allowed)
        if rejected == all(c.equal for c in again):
            raise ValueError("the re-evaluation over a prime field disagrees with the normal form")
    elif result.size is None or lane == "numeric":
        result.size = max(c.size for c in seen)
    result.lanes[lane] = REJECTED if rejected else ACCEPTED


def refusal(control: Control, world: World) -> tuple[str, str]:
    """Was the construction refused, and for the reason the control names?"""
    assert control.sides is not None
    try:
        control.sides(world)
    except HypothesisError as error:
        return (REJECTED if error.hypothesis == control.refused else ACCEPTED), str(error)
    return ACCEPTED, "it was not refused"


def differs(seen: Comparison, lane: str) -> bool:
    if lane != "numeric":
        return not seen.equal
    return seen.size > max(MARGIN * seen.tolerance, VISIBLE)


# -- mutants -----------------------------------------------------------------------------------------------------------


def check_mutants(claim: Claim, lane: str, result: LaneResult) -> None:
    """Every damaged construction that makes other weights or other values here must be rejected here."""
    new_world = world_for_mutants(claim, lane)
    before, count = observed(claim, lane, new_world()), Counter[str]()
    for mutant in (m for name in claim.constructions for m in mutants(name)):
        outcome = fate(claim, mutant, lane, before, new_world)
        count[outcome] += 1
        if outcome == SURVIVED:
            result.fail(f"mutant not noticed: {mutant}")
    if claim.constructions and not count[KILLED]:
        result.fail("no mutant was rejected, so the check of the checks is empty")
    result.mutants = {outcome: count[outcome] for outcome in (KILLED, CRASHED, SURVIVED)}


def world_for_mutants(claim: Claim, lane: str) -> Callable[[], World]:
    """How to make the world in which mutants are tried: the lane's first, and residues for fractions where they do.

    Residues do not grow. They do not do where the statement needs an order, or powers of two.
    """

    def first(deep: bool) -> World:
        return next(worlds(lane, claim.settings, deep))

    if lane == "exact" and not claim.deep and claim.constructions:
        try:
            world = first(True)
            seen = compare(world, claim.sides_in(lane)(world))
            return partial(first, all(c.equal for c in seen))
        except WRONG:
            pass
    return partial(first, claim.deep)


def fate(claim: Claim, mutant: Mutant, lane: str, before: list[Any], new_world: Callable[[], World]) -> str:
    """What becomes of a mutant in this lane; SAME if it makes the same weights and values, and so is none here."""
    world, seen = new_world(), []
    try:
        with planted(mutant):
            for pair in claim.one_by_one(lane, world):
                values = [value_of(side) for side in pair]
                if differs(comparison(world, pair)(*values), lane):
                    return KILLED
                seen.append((pair, values))
            made = everything(lane, seen)
    except WRONG:
        return CRASHED
    return SAME if same(lane, made, before) else SURVIVED


def observed(claim: Claim, lane: str, world: World) -> list[Any]:
    """Everything the constructions made in this world."""
    pairs = claim.sides_in(lane)(world)
    return everything(lane, [(pair, [value_of(side) for side in pair]) for pair in pairs])


def everything(lane: str, seen: list[tuple[tuple[Any, Any], list[Any]]]) -> list[Any]:
    """The values of the pairs, and the weights of the layers that made them."""
    kind = Word if lane == "symbolic" else np.ndarray
    calls = [side for pair, _ in seen for side in pair if isinstance(side, Call)]
    weights = [w for side in calls for w in weights_of(side.layer, kind)]
    return [value for _, values in seen for value in values] + weights


def same(lane: str, a: list[Any], b: list[Any]) -> bool:
    """The same matrices; for floats, up to rounding."""
    if lane == "symbolic":
        return a == b
    equal = close if lane == "numeric" else np.array_equal
    return len(a) == len(b) and all(x.shape == y.shape and equal(x, y) for x, y in zip(a, b, strict=True))


def close(x: np.ndarray, y: np.ndarray) -> bool:
    return bool(np.abs(1.0 * x - y).max() <= VISIBLE * np.abs(1.0 * y).max())


# -- counting ----------------------------------------------------------------------------------------------------------


def check_counts(claim: Claim, lane: str, result: LaneResult) -> None:
    """Pairs that must agree: integers counted, ranks measured, or sentences about stored runs and the runs."""
    for predicted, counted in claim.special[lane](None):
        result.comparisons += 1
        if predicted != counted:
            result.fail(f"predicted {predicted}, counted {counted}")
    if not result.comparisons:
        result.fail("nothing was counted")


def is_zero(value: object) -> bool:
    return not (value != 0).any()  # type: ignore[attr-defined]


def describe(side: object) -> str:
    """A side of an equation, for the line that says it fails."""
    if isinstance(side, Call):
        return f"{side.name}(...)"
    return side.brief() if isinstance(side, Word) else "the matrix it should be"


def where(world: World) -> str:
    return getattr(getattr(world, "setting", None), "name", "for all sizes")
