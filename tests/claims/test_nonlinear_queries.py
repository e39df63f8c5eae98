"""The chapter on nonlinear queries: every claim is green in every lane, and every wrong variant is rejected."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qkvtheory import queries
from qkvtheory.claims.nonlinear_queries import (
    NONLINEAR_QUERY_DISPUTED,
    NONLINEAR_QUERY_FORM,
    NONLINEAR_QUERY_GAUGE,
    basis,
    disputed,
    form,
    linear,
)
from qkvtheory.lanes.check import run_lane
from qkvtheory.lanes.settings import FLOAT
from qkvtheory.lanes.worlds import Floats, Words
from tests.claims.chapter import test_claim, test_controls, test_mutants  # noqa: F401

CHAPTER = "nonlinear-queries"
REBASE = queries.rebase_query


def keys_left(attention, theta):
    return replace(REBASE(attention, theta), W_K=attention.W_K)


def key_bias_left(attention, theta):
    return replace(REBASE(attention, theta), b_K=attention.b_K)


def query_left(attention, theta):
    return replace(REBASE(attention, theta), query=attention.query)


@pytest.mark.parametrize("wrong", [keys_left, key_bias_left, query_left])
def test_a_wrong_change_of_basis_turns_the_claim_red(wrong, monkeypatch):
    monkeypatch.setattr(queries, "rebase_query", wrong)
    for lane in ("symbolic", "exact", "numeric"):
        assert run_lane(NONLINEAR_QUERY_GAUGE, lane).status == "fail"


def test_a_change_of_basis_that_changes_nothing_turns_the_claim_red(monkeypatch):
    monkeypatch.setattr(queries, "rebase_query", lambda attention, theta: attention)
    for lane in ("symbolic", "exact", "numeric"):
        assert run_lane(NONLINEAR_QUERY_GAUGE, lane).status == "fail"


def test_norms_are_passed_by_bases_that_are_not_trivial():
    w = Floats(next(s for s in FLOAT if s.name == "one head"))
    for theta in (basis.turns(w), basis.turns_that_fix_ones(w)):
        assert np.abs(theta - w.identity("d")).max() > 0.1
    assert np.abs(basis.turns(w) @ w.ones("d") - w.ones("d")).max() > 0.1


def test_a_wrong_size_is_red(monkeypatch):
    monkeypatch.setattr(queries, "query_parameters", lambda d, width=None, gains=True: d * d)
    assert run_lane(NONLINEAR_QUERY_FORM, "count").status == "fail"


def test_a_published_query_that_reads_a_layernorm_is_red(monkeypatch):
    make = queries.published_query
    monkeypatch.setattr(
        queries, "published_query", lambda *given: replace(make(*given), inner_norm=make(*given).outer_norm)
    )
    assert run_lane(NONLINEAR_QUERY_FORM, "numeric").status == "fail"


def test_the_additivity_of_a_nonlinear_query_is_broken_in_words_too():
    w = Words()
    (x, y), q = linear.two_tokens(w), linear.query(w)
    assert linear.not_additive(q, x, y) != 0 * x
    assert linear.not_additive(linear.linear_query(w, w.matrix("M", "d", "d")), x, y) == 0 * x


def test_third_differences_see_the_activation_and_not_the_identity():
    """A third difference of x + f(x) is that of f."""
    w = Floats(FLOAT[0])
    q, (x, step) = linear.query(w), linear.two_tokens(w)
    third = sum(c * q(x + k * step) for k, c in enumerate((-1, 3, -3, 1)))
    of_f = sum(c * q.added(x + k * step) for k, c in enumerate((-1, 3, -3, 1)))
    assert np.abs(third - of_f).max() < 1e-12 < 0.1 < np.abs(third).max()


@pytest.mark.parametrize(("table", "name", "value"), [
    (disputed.NONLINEAR_V3, "perplexity", "6.18%"),
    (disputed.NONLINEAR_V3, "loss", "2.04%"),
    (disputed.NONLINEAR_V1, "linear", "2.940"),
    (disputed.NONLINEAR_V1, "nonlinear", "2.991"),
    (disputed.TUNING, "nonlinear", {"1e-3": ("2.5",)}),
])  # fmt: skip
def test_a_misprinted_figure_is_red(table, name, value, monkeypatch):
    monkeypatch.setitem(table, name, value)
    assert run_lane(NONLINEAR_QUERY_DISPUTED, "count").status == "fail"


def test_the_ratio_of_the_norms_falls_as_the_width_grows():
    assert form.ratio(100) > form.ratio(768) > form.ratio(2500) == pytest.approx(1)
