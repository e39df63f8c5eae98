"""The printed tables: complete, named as the house names variants, and consistent up to their own rounding."""

from __future__ import annotations

from fractions import Fraction

import pytest

from qkvtheory.published import CHOICES, LANGUAGE, MASKED, TASKS, Model, dominated, exact, interval
from qkvtheory.variants import parse

ROWS = [(model, row) for model in LANGUAGE.values() for row in model.rows]
name = pytest.mark.parametrize("model, row", ROWS, ids=[f"{m.name} {r.variant}" for m, r in ROWS])


def cached_heads(model: Model, variant: str) -> Fraction:
    """Heads' worth of numbers that a token leaves in the cache, keys and values counted apart."""
    kind = parse(variant)
    groups = kind.groups or model.heads
    return Fraction(groups if kind.kind in ("Q-K=V", "Q=K=V") else 2 * groups)


@name
def test_a_row_is_named_as_the_house_names_it_and_found_under_that_name(model, row):
    assert parse(row.variant).name == row.variant
    assert model.row(row.variant.lower()) is row


@name
def test_the_printed_change_lies_in_what_the_rounded_perplexities_allow(model, row):
    low, high = interval(row.perplexity)
    least, most = interval(model.rows[0].perplexity)
    if row.change is None:
        assert row.variant == "QKV"
        return
    below, above = interval(row.change)
    assert low / most - 1 <= above and below <= high / least - 1


@name
def test_the_printed_saving_is_the_counted_one_within_a_percent_point(model, row):
    counted = 1 - cached_heads(model, row.variant) / (2 * model.heads)
    if row.saved is not None:
        assert abs(exact(row.saved) - counted) <= Fraction(1, 100)


@pytest.mark.parametrize("variant, unit", [("QKV", 10**6), ("Q-K=V", 10**6), ("GQA-8", 2**20), ("Q-MQA", 2**20)])
def test_the_printed_megabytes_mix_two_units(variant, unit):
    model = LANGUAGE["1.2B"]
    size = 32768 * model.layers * 2 * cached_heads(model, variant) * (model.d // model.heads)
    printed = exact(model.row(variant).megabytes)
    other = {10**6: 2**20, 2**20: 10**6}[unit]
    assert abs(size / unit / printed - 1) < Fraction(2, 1000) < abs(size / other / printed - 1)


def test_the_printed_averages_are_the_averages_of_their_cells():
    rows = [row for _, row in ROWS if row.downstream]
    assert len(rows) == 3
    for row in rows:
        assert len(row.downstream) == len(TASKS) == len(CHOICES)
        mean = sum(map(exact, row.downstream)) / len(TASKS)
        assert abs(mean - exact(row.average)) <= Fraction(1, 100), row.variant


def test_the_masked_pair_is_two_percent_apart():
    assert round(float(exact(MASKED["Q-K=V"]) / exact(MASKED["QKV"]) - 1), 3) == 0.022


@pytest.mark.parametrize(
    "model, front", [("300M", ["QKV", "GQA-4", "MQA", "Q-MQA"]), ("1.2B", ["QKV", "GQA-8", "MQA", "Q-MQA"])]
)
def test_tying_is_beaten_by_head_sharing_alone(model, front):
    table = LANGUAGE[model]
    points = {r.variant: (exact(r.perplexity), cached_heads(table, r.variant)) for r in table.rows}
    beaten = dominated(points)
    assert [v for v, by in beaten.items() if not by] == front
    assert set(beaten["Q-K=V"]) == {front[1], "MQA"}


def test_equal_points_do_not_beat_each_other():
    assert dominated({"a": (1, 2), "b": (1, 2), "c": (1, 3), "d": (0, 4)}) == {
        "a": (),
        "b": (),
        "c": ("a", "b"),
        "d": (),
    }


def test_refusals():
    with pytest.raises(ValueError, match=r"the 1.2B table has no row Q=K-V; it has QKV, Q-K=V"):
        LANGUAGE["1.2B"].row("Q=K")
    for wrong in ("", "k", "five", "1.2.3", "%", "\u0663", "1" * 5000, "+-3", "1_0"):
        with pytest.raises(ValueError, match="expected a printed number"):
            exact(wrong)
    with pytest.raises(ValueError):
        dominated({"a": (1, 2), "b": (1,)})
