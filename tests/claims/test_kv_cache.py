"""Chapter 13: every claim is green in every lane that runs anywhere, and every wrong variant is rejected."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from qkvtheory import HypothesisError, lossless, published, tying
from qkvtheory.attention import merge, split
from qkvtheory.claims.kv_cache import CLAIMS, cache, padding, tables
from qkvtheory.claims.kv_cache.common import TINY, config, kept, layer, one_token
from qkvtheory.claims.kv_cache.decoder import decoder
from qkvtheory.count import formulas
from qkvtheory.count.presets import preset
from qkvtheory.lanes.check import run_lane
from qkvtheory.lanes.counting import Counted, Tally, counted, macs
from tests.claims.chapter import test_claim, test_controls, test_mutants  # noqa: F401

CHAPTER = "kv-cache"
BY_ID = {claim.id: claim for claim in CLAIMS}


# -- what turns a claim red --------------------------------------------------------------------------------------------


def one_more(function):
    return lambda *arguments, **named: function(*arguments, **named) + 1


def rows_taken_for_normalized(self, core, q, stored):
    """The bias added once, as if every row of a map summed to one."""
    (keys,) = stored
    values = merge(core.maps(q, keys) @ keys @ split(self.W_KV, core.heads, "values"))
    return values if self.b_KV is None else values + self.b_KV


def with_a_wasted_product(self, core, q, stored, original=tying.Sublayer.mixed):
    """The right result, by one product more, with or without a correction."""
    return original(self, core, q, stored) + 0 * (q @ q.T @ q)


DAMAGE = (  # where, a name there, a wrong one in its place, and a claim that must notice in a lane
    (formulas, "cache_per_token", one_more(formulas.cache_per_token), "kv-cache-formula", "count"),
    (formulas, "cache_per_token", one_more(formulas.cache_per_token), "mla-cache", "count"),
    (formulas, "mlp", lambda *_: iter(()), "mac-formula", "count"),
    (formulas, "mlp", lambda *_: iter(()), "param-count-formula", "count"),
    (formulas, "norms", lambda *_: 0, "param-count-formula", "count"),
    (formulas, "projections", lambda *_: [], "projection-cost", "count"),
    (formulas, "projections", lambda *_: [], "projection-share", "count"),
    (formulas, "projections", lambda *_: [], "slim-op-count", "count"),
    (formulas, "tokens_kept", lambda config, context: context, "published-tables", "count"),
    (lossless, "values_from_keys", lambda a: (a.W_V, a.b_V), "slim-exact", "numeric"),
    (tying.Slim, "mixed", tying.Sublayer.mixed, "slim-op-count", "count"),
    (tying.Slim, "mixed", rows_taken_for_normalized, "slim-exact", "numeric"),
    (tying.Slim, "mixed", rows_taken_for_normalized, "slim-exact", "exact"),
    (tying.Sublayer, "mixed", with_a_wasted_product, "projection-cost", "count"),
    (tying.Slim, "stored", lambda self, x: 2 * (x @ self.W_K,), "kv-cache-formula", "count"),
    (tying.KeysAreValues, "stored", lambda self, x: (x, x), "cache-composition", "count"),
    (tying.Latent, "stored", lambda self, x: (x @ self.W_C,), "mla-cache", "count"),
    (tying.HalfTied, "stored", lambda self, x: 2 * (x @ self.W_Z,), "gta-cache", "count"),
    (tying.QueriesAreKeys, "queries", lambda self, x: x @ (self.W_Z + 0), "mac-formula", "count"),
    (tables, "QUESTIONS", 100_000, "published-tables", "count"),  # then chance is narrower than the difference
    (tables, "dominated", lambda points: {name: () for name in points}, "gqa-dominates-tying", "count"),
)


@pytest.mark.parametrize(
    ("where", "name", "wrong", "id", "lane"), DAMAGE, ids=[f"{name}-{id}" for _, name, _, id, _ in DAMAGE]
)
def test_a_damaged_function_of_the_package_turns_its_claims_red(where, name, wrong, id, lane, monkeypatch):
    """The claims check what users call, not copies of it."""
    assert run_lane(BY_ID[id], lane).status == "pass"
    monkeypatch.setattr(where, name, wrong)
    assert run_lane(BY_ID[id], lane).status == "fail"


def test_the_control_of_cache_composition_is_a_refusal_of_grouped_heads(monkeypatch):
    """Not of anything else, which would be a fault of the construction."""

    def refuse(_):
        raise HypothesisError("invertible", "W_K is singular")

    monkeypatch.setattr(lossless, "slim", refuse)
    with pytest.raises(HypothesisError, match="W_K is singular"):
        cache.slim_with_groups(None)


def test_weights_are_compared_in_both_tables(monkeypatch):
    """As if at 1.2B sharing heads cost weights."""
    weights = tables.weights
    sign = {1024: 1, 2048: -1}
    monkeypatch.setattr(tables, "weights", lambda model, v: sign[model.width] * weights(model, v))
    assert run_lane(BY_ID["gqa-dominates-tying"], "count").status == "fail"


MISPRINTS = (  # a table, its entry, a misprint, and the claim that reads it
    ("MACS", "QKV", 792_689_901_569, "mac-formula"),
    ("PARAMETERS", "Q=K=V", 263_550_977, "param-count-formula"),
    ("GIGABYTES", 32_000, "2.63", "published-tables"),
    ("MASKED", "QKV", "20.62", "published-tables"),
    ("GTA", "433M", ("12.985", "12.922", "12.979"), "gta-cache"),
)


@pytest.mark.parametrize(("table", "entry", "misprint", "id"), MISPRINTS, ids=[row[0] for row in MISPRINTS])
def test_a_misprint_in_a_table_is_noticed(table, entry, misprint, id, monkeypatch):
    monkeypatch.setitem(getattr(published, table), entry, misprint)
    assert run_lane(BY_ID[id], "count").status == "fail"


@pytest.mark.parametrize("field", ["perplexity", "change", "saved", "megabytes", "average"])
def test_a_misprint_in_a_row_is_noticed(field, monkeypatch):
    model = published.LANGUAGE["1.2B"]
    wrong = {"perplexity": "5.30", "change": "+3.46%", "saved": "88%", "megabytes": "187", "average": "33.1"}
    rows = [replace(row, **{field: wrong[field]}) if row.variant == "Q-MQA" else row for row in model.rows]
    monkeypatch.setitem(published.LANGUAGE, "1.2B", replace(model, rows=tuple(rows)))
    assert run_lane(BY_ID["published-tables"], "count").status == "fail"


def test_a_statement_with_a_control_in_its_place_is_red():
    for claim in CLAIMS:
        for control in claim.controls:
            if control.refused:
                continue
            for lane in set(control.lanes) & {"exact", "numeric", "count"} & set(claim.lanes):
                settings = control.settings or claim.settings
                special = {"count": control.sides} if lane == "count" else {}
                wrong = replace(
                    claim, sides=control.sides, special=special, also=None, constructions=(), settings=settings
                )
                assert run_lane(wrong, lane).status == "fail", (claim.id, control.what, lane)


# -- counting a run ----------------------------------------------------------------------------------------------------


def test_products_are_counted_by_hand():
    a, b, c = np.ones((2, 3)), np.ones((3, 4)), np.ones((5, 3, 4))
    assert macs(lambda x: x @ b, a) == 2 * 3 * 4
    assert macs(lambda x: b.T @ x.T, a) == 2 * 3 * 4
    assert macs(lambda x: x @ c, a) == 5 * 2 * 3 * 4  # one product for each of five
    assert macs(lambda x: c @ x.mean(0, keepdims=True).T[:1].repeat(4, 0), a) == 5 * 3 * 4
    assert macs(lambda x: x @ np.ones(3), a) == 2 * 3
    assert macs(lambda x: (2 * x + 1).sum() + np.exp(x).mean(), a) == 0


def test_what_numpy_makes_of_a_counted_array_is_counted():
    b = np.ones((3, 4))
    for change in (
        lambda x: np.where(x > 0, x, 0),
        lambda x: np.concatenate([x, x], axis=0),
        lambda x: np.concatenate([np.ones((1, 3)), x], axis=0)[1:],
        lambda x: np.reshape(x, (1, 2, 3)),
        lambda x: x - np.max(x, axis=-1, keepdims=True),
    ):
        assert macs(lambda x, change=change: change(x) @ b, np.ones((2, 3))) in (24, 48)


def test_a_product_formed_twice_is_counted_once_and_another_is_not():
    b = np.ones((3, 4))
    assert macs(lambda x: (x @ b, x @ b), np.ones((2, 3))) == 24
    assert macs(lambda x: (x @ b, x @ (b + 0)), np.ones((2, 3))) == 48
    assert macs(lambda x: [x @ (b * i) for i in range(5)], np.ones((2, 3))) == 5 * 24  # arrays that are gone by then


def test_counting_changes_no_number():
    x = np.random.default_rng(0).normal(size=(3, 16))
    for name in ("QKV", "GQA-2", "slim", "MLA", "(Q=K-V)+"):
        made = layer(name, 16, 4)
        y, cache = made.decode(counted(x, Tally()))
        assert isinstance(y, Counted) and np.array_equal(y, made.decode(x)[0])
        assert all(isinstance(a, Counted) for a in cache)


# -- what the counts are made with -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["300M", "1.2B"])
def test_the_shape_of_the_tables_is_the_shape_of_the_preset(name):
    shape, known = config(published.LANGUAGE[name]), preset(f"three-projections-{name.lower()}")
    for variant in ("QKV", "Q=K=V", "Q-GQA-4", "MLA"):
        assert formulas.parameters(shape, variant) == formulas.parameters(known, variant)
        assert formulas.macs(shape, variant) == formulas.macs(known, variant)
        assert formulas.cache_bytes(shape, variant) == formulas.cache_bytes(known, variant)


def test_the_decoder_runs_and_sees_no_later_token():
    made, x = decoder(TINY, "Q-GQA-2"), np.random.default_rng(0).normal(size=(5, TINY.d))
    out = made(x)
    assert out.shape == (5, TINY.vocabulary)
    assert np.allclose(out[:3], made(x[:3])) and not np.allclose(out[3:], made(x[:3] * 2)[-2:])


def test_a_token_is_decoded_from_what_the_others_left():
    """Decoding one token costs less than all of them, and grows with the context by what the formula says."""
    made = layer("QKV")
    assert [one_token(made, n + 1, 8) - one_token(made, n, 8) for n in (2, 7)] == [2 * 8, 2 * 8]
    assert kept(made, 8, n=2) == kept(made, 8, n=5) == 16


def test_slim_costs_more_the_more_heads_there_are():
    costs = [one_token(layer("slim", 8, heads), 20, 8) for heads in (1, 2, 4)]
    assert costs[0] == one_token(layer("QKV", 8, 1), 20, 8) < costs[1] < costs[2]


# -- padding and guessing ----------------------------------------------------------------------------------------------


def test_the_toy_text_is_padded_and_its_models_are_distributions():
    texts = padding.documents()
    assert Fraction(1, 10) < padding.trivial(texts) < Fraction(9, 10)
    for before in range(padding.LETTERS):
        letters = sum(Fraction(1, 2 ** padding.bigram(before, t)) for t in (*range(padding.LETTERS), padding.END))
        assert letters == 1
        assert 2 ** -padding.uniform(before, 0) * (padding.LETTERS + 1) <= 1
    assert padding.loss(padding.bigram, texts, True) < padding.loss(padding.uniform, texts, True)


def test_scoring_the_padding_flatters():
    texts = padding.documents()
    for model in (padding.uniform, padding.bigram):
        assert padding.loss(model, texts, False) < padding.loss(model, texts, True)
    assert padding.trivial(padding.packed(texts)) == 0


def test_intervals_of_a_guesser_hold_guessing_and_not_what_is_far():
    assert tables.guessing() == 35
    assert tables.holding(Fraction(40)) == 0
    low, high = tables.bootstrap_intervals().T
    assert (low < high).all() and abs(float((high - low).mean()) - 2 * 1.96 * 0.652) < 0.2
