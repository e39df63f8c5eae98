"""The tester is tested: false theorems, empty ones, accepted controls and damaged constructions are all red."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from qkvtheory import gauge
from qkvtheory.claims.model import Claim, Control, Hypothesis, Source, call
from qkvtheory.claims.register import register
from qkvtheory.lanes import check, report
from qkvtheory.lanes.check import calculation, run_control, run_lane, sides_without
from qkvtheory.lanes.settings import plain_scores, square_keys

LANES = ("symbolic", "exact", "numeric")


def claim(sides: Any, **fields: Any) -> Claim:
    """A claim about nothing but its sides."""
    hypothesis, source = Hypothesis("H2", "invertible", "Theta is invertible"), Source("derived")
    control = Control("H2", "none", lambda w: [(w.matrix("A", "n", "n"), w.matrix("B", "n", "n"))])
    given = {"hypotheses": (hypothesis,), "sources": (source,), "controls": (control,), **fields}
    return Claim("false", "remark", "reparametrization", "false", "false", sides=sides, **given)


def wrong_basis(edit: Any) -> Any:
    def sides(w: Any) -> Any:
        x, theta, a = w.matrix("X", "n", "d"), w.invertible("Theta", "d"), w.attention(square=True)
        return [(edit(a, theta, gauge.inverse(theta))(x @ theta), a(x))]

    return sides


def reading(a: Any, change: Any) -> Any:
    return replace(a, W_Q=change(a.W_Q), W_K=change(a.W_K), W_V=change(a.W_V))


FALSE = {
    "theta on the wrong side": wrong_basis(lambda a, theta, back: reading(a, lambda weight: weight @ back)),
    "theta in place of its inverse": wrong_basis(lambda a, theta, back: reading(a, lambda weight: theta @ weight)),
    "the transpose of the inverse": wrong_basis(lambda a, theta, back: reading(a, lambda weight: back.mT @ weight)),
    "W_K forgotten": wrong_basis(lambda a, theta, back: replace(reading(a, lambda w: back @ w), W_K=a.W_K)),
    "W_V forgotten": wrong_basis(lambda a, theta, back: replace(reading(a, lambda w: back @ w), W_V=a.W_V)),
    "W_O changed": wrong_basis(lambda a, theta, back: replace(gauge.change_basis(a, theta), W_O=a.W_O @ theta)),
    "matrices commute": lambda w: [
        (w.matrix("A", "d", "d") @ w.matrix("B", "d", "d"), w.matrix("B", "d", "d") @ w.matrix("A", "d", "d"))
    ],
    "matrices are symmetric": lambda w: [(w.matrix("A", "d", "d"), w.matrix("A", "d", "d").mT)],
    "softmax ignores column constants": lambda w: [
        (w.softmax(s := w.integers("S", "n", "n")), w.softmax(s + w.ones("n") @ w.integers("c", "n", "1").mT))
    ],
    "a singular matrix times its generalized inverse is the identity": lambda w: [
        (w.singular("S", "d")[0] @ w.singular("S", "d")[1], w.identity("d"))
    ],
    "one true and one false equation": lambda w: [
        (w.matrix("A", "d", "d"), w.matrix("A", "d", "d")), (w.matrix("A", "d", "d"), w.matrix("B", "d", "d"))
    ],
}  # fmt: skip


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("sides", FALSE.values(), ids=FALSE)
def test_a_false_theorem_is_red(sides, lane):
    result = run_lane(claim(sides, settings=plain_scores), lane)
    assert result.status == "fail"
    assert result.reason


@pytest.mark.parametrize("lane", LANES)
def test_a_true_theorem_is_green(lane):
    right = wrong_basis(lambda a, theta, back: reading(a, lambda weight: back @ weight))
    result = run_lane(claim(right, settings=plain_scores), lane)
    assert (result.status, result.reason) == ("pass", "")
    assert result.comparisons > 0


@pytest.mark.parametrize("lane", ["exact", "numeric"])
def test_sides_of_different_shapes_are_red(lane):
    """A row of ones is no square of ones, though it would be stretched to one."""
    stretched = claim(lambda w: [(w.ones("n") @ w.ones("n").mT, w.ones("n").mT)])
    assert "different shapes" in run_lane(stretched, lane).reason


VACUOUS = {
    "nothing compared": lambda w: [],
    "zero equals zero": lambda w: [
        (w.matrix("A", "d", "d") - w.matrix("A", "d", "d"), w.identity("d") - w.identity("d"))
    ],
}


@pytest.mark.parametrize("lane", ["exact", "numeric"])
@pytest.mark.parametrize("sides", VACUOUS.values(), ids=VACUOUS)
def test_a_vacuous_claim_is_red(sides, lane):
    assert run_lane(claim(sides), lane).status == "fail"


def test_nothing_compared_is_red_in_words_and_in_counting():
    assert "nothing was compared" in run_lane(claim(lambda w: []), "symbolic").reason
    assert run_lane(claim(None, special={"count": lambda _: []}), "count").status == "fail"
    assert run_lane(claim(None, special={"count": lambda _: [(3, 4)]}), "count").reason == "predicted 3, counted 4"
    assert run_lane(claim(None, special={"count": lambda _: [(3, 3)]}), "count").status == "pass"


def test_no_setting_is_red():
    for lane in ("exact", "numeric"):
        assert run_lane(claim(FALSE["matrices commute"], settings=lambda s: False), lane).status == "fail"


@pytest.mark.parametrize("lane", LANES)
def test_a_claim_that_raises_is_red_and_says_why(lane):
    def sides(w: Any) -> Any:
        return [(gauge.inverse(w.singular("S", "d")[0]), w.identity("d"))]

    result = run_lane(claim(sides), lane)
    assert result.status == "fail"
    assert "HypothesisError: hypothesis 'invertible' fails" in result.reason


# -- controls ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lane", LANES)
def test_a_control_that_holds_is_accepted_and_makes_the_claim_red(lane):
    true = lambda w: [(w.matrix("A", "n", "n"), w.matrix("A", "n", "n"))]  # noqa: E731
    c = claim(FALSE["matrices commute"])
    result = run_control(c, Control("H2", "nothing wrong", true), (lane,))
    assert result.status == "accepted"
    assert report.ClaimReport(c, {}, [result]).red
    assert any("nothing wrong" in reason for reason in report.ClaimReport(c, {}, [result]).reasons)


@pytest.mark.parametrize("lane", LANES)
def test_a_refusal_that_does_not_come_is_accepted(lane):
    control = Control(
        "H2", "asked for", lambda w: [(gauge.inverse(w.invertible("A", "d")), None)], refused="invertible"
    )
    assert run_control(claim(None), control, (lane,)).status == "accepted"


@pytest.mark.parametrize("lane", LANES)
def test_a_refusal_for_another_reason_is_accepted(lane):
    """A shape error is no evidence that a singular matrix is refused."""
    control = Control(
        "H2", "asked for", lambda w: [(gauge.inverse(w.matrix("A", "n", "d")), None)], refused="invertible"
    )
    assert run_control(claim(None), control, (lane,)).status == "accepted"


def test_a_control_whose_premise_fails_proves_nothing():
    different = FALSE["matrices commute"]
    result = run_control(claim(None), Control("H2", "bad premise", different, witness=different), ("numeric",))
    assert result.status == "accepted"
    assert "its premise fails" in result.reason


def test_a_control_in_no_lane_is_not_run():
    control = Control("H2", "elsewhere", FALSE["matrices commute"], lanes=("exact",))
    assert run_control(claim(None), control, ("numeric",)).status == "not-run"


def test_a_tiny_difference_does_not_reject():
    """A control in floats must differ visibly, not by rounding."""
    control = Control("H2", "rounding", lambda w: [(w.matrix("A", "n", "n") * (1 + 1e-9), w.matrix("A", "n", "n"))])
    assert run_control(claim(None), control, ("numeric",)).status == "accepted"


# -- the calculation and its hypotheses --------------------------------------------------------------------------------


def test_the_calculation_of_the_lemma_uses_its_hypotheses():
    lemma = register()["reparam-lemma"]
    chain = calculation(lemma)
    assert "H2" in {h for step in chain.steps for h in step.needs}
    assert len(chain.steps) >= 3
    with pytest.raises(ValueError, match="nothing declares Theta invertible"):
        sides_without(lemma, "H2")


# -- a damaged construction turns its claims red -----------------------------------------------------------------------


def wrong_reads(back: Any, *weights: Any) -> tuple[Any, ...]:
    return (back @ weights[0], *weights[1:])


def wrong_change_basis(attention: Any, theta: Any, phi: Any = None) -> Any:
    return replace(attention, W_Q=gauge.inverse(theta) @ attention.W_Q)


DAMAGED = {"reads": wrong_reads, "change_basis": wrong_change_basis}


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_construction_is_red_in_every_claim_that_uses_it(name, lane, monkeypatch):
    monkeypatch.setattr(gauge, name, DAMAGED[name])
    monkeypatch.setattr(check, "check_mutants", lambda *_: None)  # the statement itself must notice
    users = [
        c for c in register().values() if name in c.constructions and lane in c.lanes and c.id != "single-head-merge"
    ]
    assert len(users) >= 2
    for user in users:
        assert run_lane(user, lane).status == "fail", user.id


def test_a_check_that_notices_nothing_is_red():
    """A claim that names a construction which its statement does not use lets every mutant live, or makes none."""
    c = claim(lambda w: [(w.matrix("A", "n", "n"), w.matrix("A", "n", "n"))], constructions=("change_basis",))
    assert run_lane(c, "symbolic").status == "fail"


@pytest.mark.parametrize("lane", LANES)
def test_a_statement_that_compares_a_construction_with_itself_is_red(lane):
    """True whatever the construction does, so its mutants live, and that is noticed."""

    def sides(w: Any) -> Any:
        x, theta, a = w.matrix("X", "n", "d"), w.invertible("Theta", "d"), w.attention()
        return [(gauge.change_basis(a, theta)(x @ theta), gauge.change_basis(a, theta)(x @ theta))]

    assert run_lane(claim(sides), lane).status == "pass"
    result = run_lane(claim(sides, constructions=("change_basis",)), lane)
    assert result.status == "fail"
    assert "mutant not noticed: change_basis" in result.reason
    assert result.mutants["survived"] > 0


def test_only_settings_a_claim_allows_are_run():
    seen = [w.setting for w in check.worlds("numeric", square_keys)]
    assert seen
    assert all(s.kv_heads == s.heads for s in seen)


def test_call_shows_a_layer_by_its_name():
    pair = register()["reparam-lemma"].sides(next(check.worlds("symbolic", square_keys)))[0]
    assert str(pair[1].shown()).startswith("MHA(X")
    assert pair[1].value == call(pair[1].layer, *pair[1].inputs).value
