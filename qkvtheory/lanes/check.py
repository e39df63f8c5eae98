"""Run one claim in the symbolic, exact, numeric and count lanes: the statement, its controls, its mutants."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial

from qkvtheory import gauge
from qkvtheory.chains import Chain, Sides, broken_without, calculate
from qkvtheory.claims.model import Claim, Control, Pairs, Statement, shown, value_of
from qkvtheory.errors import HypothesisError
from qkvtheory.lanes.mutants import Mutant, mutants, planted
from qkvtheory.lanes.results import ACCEPTED, REJECTED, ControlResult, LaneResult
from qkvtheory.lanes.settings import EXACT, FLOAT, Setting
from qkvtheory.lanes.worlds import EVERYTHING, Comparison, Floats, Fractions, Hashes, Words, World
from qkvtheory.words import Word

HASH_SEEDS = (11, 12)
WRONG = (ValueError, ArithmeticError, TypeError, AttributeError, NameError, IndexError, StopIteration)
MARGIN = 1e3  # a rejected control differs by at least this many tolerances, and visibly
VISIBLE = 1e-6


def worlds(lane: str, allowed: Callable[[Setting], bool]) -> Iterator[World]:
    """The worlds in which a lane runs a statement that speaks about the allowed settings."""
    if lane == "symbolic":
        yield Words()
    elif lane == "exact":
        yield from (Fractions(s) for s in EXACT if allowed(s))
    elif lane == "numeric":
        yield from (Floats(s) for s in FLOAT if allowed(s))


def compare(world: World, pairs: Pairs) -> list[Comparison]:
    return [world.compare(value_of(left), value_of(right)) for left, right in pairs]


def run_lane(claim: Claim, lane: str) -> LaneResult:
    """The claim in one lane. Never raises for a false claim: it comes back red, with the reason."""
    start, result = time.perf_counter(), LaneResult()
    try:
        if lane == "count":
            check_counts(claim, result)
        else:
            check_statement(claim, lane, result)
            if result.status == "pass":
                check_mutants(claim, lane, result)
    except WRONG as error:
        result.fail(f"{type(error).__name__}: {error}")
    result.seconds = time.perf_counter() - start
    return result


def check_statement(claim: Claim, lane: str, result: LaneResult) -> None:
    statement = claim.sides_in(lane)
    for world in worlds(lane, claim.settings):
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
    for number in range(len(statement(Words()))):
        chain = calculation(claim, number)
        result.comparisons += len(chain.steps) - 1
        for hypothesis in {h for step in chain.steps for h in step.needs}:
            broken_without(partial(without, claim, hypothesis, number))
            result.comparisons += 1


def reevaluated(statement: Statement, allowed: Callable[[Setting], bool]) -> list[Comparison]:
    setting = next(s for s in EXACT if allowed(s))
    fields = [Hashes(setting, seed) for seed in HASH_SEEDS]
    return [seen for world in fields for seen in compare(world, statement(world))]


def calculation(claim: Claim, number: int = 0) -> Chain:
    """The proof of the claim's pair ``number``: the very steps that the symbolic lane checks and the page prints."""
    names = {h.id: h.sentence for h in claim.hypotheses}
    reasons = [*claim.uses, *names]

    def run(applied: frozenset[str]) -> Sides:
        left, right = claim.sides_in("symbolic")(Words(EVERYTHING, applied))[number]
        return Sides(value_of(left), value_of(right), shown(left), shown(right))

    return calculate(run, [(r, r) for r in reasons])


def without(claim: Claim, hypothesis: str, number: int, _: frozenset[str]) -> Sides:
    return sides_without(claim, hypothesis, number)


def sides_without(claim: Claim, hypothesis: str, number: int = 0) -> Sides:
    """Both sides with one hypothesis not declared at all."""
    others = frozenset({*claim.uses, *(h.id for h in claim.hypotheses)} - {hypothesis})
    left, right = claim.sides_in("symbolic")(Words(others, others))[number]
    return Sides(value_of(left), value_of(right), shown(left), shown(right))


# -- controls ----------------------------------------------------------------------------------------------------------


def run_control(claim: Claim, control: Control, lanes: tuple[str, ...]) -> ControlResult:
    result = ControlResult(control.hypothesis, control.what)
    for lane in control.lanes:
        if lane not in lanes:
            continue
        try:
            run_control_lane(claim, control, lane, result)
        except WRONG as error:
            result.lanes[lane] = ACCEPTED
            result.reason = f"the control itself failed: {type(error).__name__}: {error}"
    return result


def run_control_lane(claim: Claim, control: Control, lane: str, result: ControlResult) -> None:
    allowed = control.settings or claim.settings
    world = next(worlds(lane, allowed))
    if control.witness is not None:
        premises = control.witness(world)
        for (left, right), premise in zip(premises, compare(world, premises), strict=True):
            if not premise.equal:
                raise ValueError(
                    f"its premise fails: {describe(left)} differs from {describe(right)} by {premise.size:.1e}"
                )
    if control.refused:
        try:
            assert control.sides is not None
            control.sides(world)
            result.lanes[lane] = ACCEPTED
        except HypothesisError as refusal:
            result.lanes[lane], result.reason = REJECTED, str(refusal)
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


def differs(seen: Comparison, lane: str) -> bool:
    if lane != "numeric":
        return not seen.equal
    return seen.size > max(MARGIN * seen.tolerance, VISIBLE)


# -- mutants -----------------------------------------------------------------------------------------------------------


def check_mutants(claim: Claim, lane: str, result: LaneResult) -> None:
    """Every damaged construction that is not the same construction must be rejected in this lane."""
    made = killed = 0
    for name in claim.constructions:
        for mutant in mutants(name):
            if equivalent(claim, mutant):
                continue
            made += 1
            if survives(claim, mutant, lane):
                result.fail(f"mutant not noticed: {mutant}")
            else:
                killed += 1
    if claim.constructions and not made:
        result.fail("no mutant was made, so the check of the checks is empty")
    result.mutants = {"made": made, "killed": killed}


def equivalent(claim: Claim, mutant: Mutant) -> bool:
    """Does the mutant make the very same weights, for all sizes, wherever this claim uses it?"""
    statement = claim.sides_in("symbolic")
    before = printed(statement)
    try:
        with planted(mutant, gauge):
            return printed(statement) == before
    except (NameError, AttributeError):  # not a program on matrices at all
        return True
    except (HypothesisError, TypeError):
        return False


def printed(statement: Statement) -> list[Word]:
    return [form for pair in statement(Words()) for side in pair for form in (value_of(side), shown(side))]


def survives(claim: Claim, mutant: Mutant, lane: str) -> bool:
    world = next(worlds(lane, claim.settings))
    try:
        with planted(mutant, gauge):
            return not any(differs(seen, lane) for seen in compare(world, claim.sides_in(lane)(world)))
    except WRONG:
        return False


# -- counting ----------------------------------------------------------------------------------------------------------


def check_counts(claim: Claim, result: LaneResult) -> None:
    """Pairs of integers that must agree."""
    for predicted, counted in claim.special["count"](None):
        result.comparisons += 1
        if predicted != counted:
            result.fail(f"predicted {predicted}, counted {counted}")
    if not result.comparisons:
        result.fail("nothing was counted")


def is_zero(value: object) -> bool:
    return not (value != 0).any()  # type: ignore[attr-defined]


def describe(side: object) -> str:
    return side.brief() if isinstance(side, Word) else "the left side" if side is None else f"a {type(side).__name__}"


def where(world: World) -> str:
    return getattr(getattr(world, "setting", None), "name", "for all sizes")
