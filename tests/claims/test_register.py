"""The register as a whole: what every claim must have, and what it refuses."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from qkvtheory.claims import register as registry
from qkvtheory.claims.register import CHAPTERS, left_out, register, validate
from qkvtheory.lanes import formal
from qkvtheory.lanes.mutants import home
from qkvtheory.lanes.report import LANES, lanes_of

CLAIMS = register()


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=lambda c: c.id)
def test_a_claim_is_complete(claim):
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", claim.id)
    assert claim.rank in ("theorem", "remark")
    assert claim.title and claim.statement and claim.hypotheses and claim.sources
    assert {h.id for h in claim.hypotheses} <= {c.hypothesis for c in claim.controls}
    assert len({h.id for h in claim.hypotheses}) == len(claim.hypotheses)
    assert set(claim.lanes) <= set(LANES)
    assert lanes_of(claim)
    assert set(claim.uses) <= set(CLAIMS)
    assert all(s.key or s.note or s.provenance for s in claim.sources)
    assert all(callable(getattr(home(name), name)) for name in claim.constructions)
    assert all(set(c.lanes) <= set(LANES) and (c.sides or c.witness) for c in claim.controls)


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=lambda c: c.id)
def test_no_backslash_of_a_formula_was_read_as_an_escape(claim):
    hypotheses = [text for h in claim.hypotheses for text in (h.name, h.sentence)]
    notes = [s.note for s in claim.sources]
    for text in (claim.title, claim.statement, *hypotheses, *notes, *(c.what for c in claim.controls)):
        assert text.isprintable(), text


def test_a_claim_uses_only_claims_without_going_round_in_circles():
    def below(id: str, path: tuple[str, ...] = ()) -> None:
        assert id not in path, f"{' uses '.join((*path, id))}"
        for use in CLAIMS[id].uses:
            below(use, (*path, id))

    for id in CLAIMS:
        below(id)


def test_the_results_a_reader_comes_for_are_theorems():
    theorems = {c.id for c in CLAIMS.values() if c.rank == "theorem"}
    assert theorems == {
        "reparam-lemma",
        "eliminate-q",
        "eliminate-k-or-v",
        "skipless-elimination",
        "attn-skip-elimination",
        "one-layer-free",
        "shared-wq-elimination",
        "rmsnorm-orthogonal-only",
        "detailed-balance",
        "pair-bound",
        "projections-left",
        "separable-plus-is-temperature",
        "kv-lossless-iff",
        "relu-absorption-iff",
    }


def test_the_constructions_of_gauge_are_checked_by_some_claim():
    checked = {name for claim in CLAIMS.values() for name in claim.constructions}
    promised = {
        "reads",
        "carried",
        "change_basis",
        "reparametrize",
        "reparametrize_cross",
        "merge_single_head",
        "rebase",
    }
    assert promised <= checked


def test_formal_lemmas_belong_to_claims():
    assert set(formal.LEMMAS) <= set(CLAIMS)


def test_what_is_left_out_has_a_reason_and_is_not_a_claim():
    for id, reason in left_out().items():
        assert reason
        assert id not in CLAIMS


LEMMA = CLAIMS["reparam-lemma"]


@pytest.mark.parametrize(("changes", "message"), [
    ({"uses": ("no-such-claim",)}, "uses unknown claims"),
    ({"controls": ()}, "no control drops"),
    ({"controls": (*LEMMA.controls, replace(LEMMA.controls[0], hypothesis="H9"))}, "hypotheses it does not have"),
])  # fmt: skip
def test_an_incomplete_claim_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        validate(replace(LEMMA, **changes), CLAIMS)


class Chapter:
    def __init__(self, *claims):
        self.CLAIMS, self.LEFT_OUT = claims, {}


@pytest.mark.parametrize(("chapter", "message"), [
    (Chapter(LEMMA, LEMMA), "two claims are called"),
    (Chapter(replace(LEMMA, chapter="elsewhere")), "says chapter elsewhere"),
])  # fmt: skip
def test_a_muddled_chapter_is_refused(chapter, message, monkeypatch):
    monkeypatch.setattr(registry, "CHAPTERS", {**CHAPTERS, "reparametrization": chapter})
    with pytest.raises(ValueError, match=message):
        register()
