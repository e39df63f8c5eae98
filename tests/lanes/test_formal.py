"""The formal lane: proofs compile, the Python is what was proved, and what is wrong is refused."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import pytest

from qkvtheory import symmetric
from qkvtheory.claims.register import register
from qkvtheory.lanes import bridge, formal
from qkvtheory.lanes.mutants import home, mutants, planted
from qkvtheory.words import Word, symbol
from tests.lanes.damaged import DAMAGED, forgotten_inverse

REASON = formal.available()
pytestmark = pytest.mark.skipif(REASON is not None, reason=f"the formal lane cannot run here: {REASON}")


@pytest.fixture(scope="module")
def session() -> formal.Session:
    session = formal.Session()
    assert all(verdict.accepted for verdict in session.library().values())
    return session


@pytest.fixture
def scratch(tmp_path):
    """A session with the real proofs and a folder of its own."""
    return lambda **texts: formal.Session(formal.sources() | texts, build=tmp_path)


# -- what is true passes -----------------------------------------------------------------------------------------------


def test_every_lemma_is_closed(session):
    lemmas = [(stem, name) for claim, (stem, _) in formal.LEMMAS.items() for name in formal.lemmas_of(claim)]
    assert session.assumptions(lemmas) == {name: "" for _, name in lemmas}


def test_every_bridge_is_accepted(session):
    assert session.bridges(bridge.BRIDGES) == dict.fromkeys(bridge.BRIDGES, "")


def test_every_bridge_serves_a_claim_and_every_claim_names_real_bridges():
    used = {name for names in formal.BRIDGES.values() for name in names}
    assert used == set(bridge.BRIDGES)
    assert set(formal.BRIDGES) <= set(formal.LEMMAS)


def test_a_claim_passes_with_its_controls_rejected():
    result = formal.check(["reparam-lemma"])["reparam-lemma"]
    assert (result.status, result.reason, result.lemma) == ("pass", "", "reparam_lemma")
    assert len(result.controls) == 4
    assert {control["status"] for control in result.controls} == {"rejected"}


def test_every_claim_has_a_control_and_every_change_is_found():
    assert {control.claim for control in formal.controls()} == set(formal.LEMMAS)
    for control in formal.controls():
        text = formal.sources()[formal.LEMMAS[control.claim][0]]
        assert control.change
        for old, new in control.change:
            assert text.count(old) == 1, old
            assert old != new


def test_controls_name_hypotheses_of_their_claims():
    claims = register()
    for claim in formal.LEMMAS:
        named = {hypothesis.id for hypothesis in claims[claim].hypotheses}
        dropped = {control.hypothesis for control in formal.controls() if control.claim == claim}
        assert named <= dropped <= named | {"construction"}, claim


def test_unknown_claims_are_not_run_and_say_so():
    result = formal.check(["no-such-claim"])["no-such-claim"]
    assert result.status == "not-run"
    assert "no lemma" in result.reason


# -- damaged Python is rejected ----------------------------------------------------------------------------------------


def test_every_bridge_is_damaged_once():
    assert {name for _, names in DAMAGED.values() for name in names} >= set(bridge.BRIDGES)


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_python_is_rejected(session, name):
    code, names = DAMAGED[name]
    reasons = session.bridges(names, code)
    assert set(reasons) == set(names)
    assert all(reasons.values())


def in_place() -> bridge.Code:
    """The package's constructions as they stand now, with what is planted in them."""
    names = [f.name for f in fields(bridge.Code) if f.name[0].islower()]
    return bridge.Code(**{name: getattr(home(name), name) for name in names})


def printed(name: str) -> str:
    """A bridge before Rocq sees it: what the Python makes of the symbols."""
    try:
        return bridge.bridge_text((name,), in_place())
    except Exception as error:
        return f"does not run: {error}"


OF_NUMBERS = {"absorbing_set", "basis_units", "side_by_side", "triangular", "polar", "block_triangular"}


def rewrites(claim) -> list[str]:
    """The constructions of a claim that rewrite layers; the measures in ``symmetric`` look at the entries of a map, and
    ``OF_NUMBERS`` search among numbers, decompose them, or take single columns.
    """
    return [name for name in claim.constructions if home(name) is not symmetric and name not in OF_NUMBERS]


@pytest.mark.parametrize(
    "claim", [c for c in register().values() if c.id in formal.LEMMAS and rewrites(c)], ids=lambda c: c.id
)
def test_a_claim_has_bridges_over_every_construction_that_it_names(claim):
    """Damage inside ``gauge``, where other constructions find it, changes what the claim's bridges print."""
    sound = {name: printed(name) for name in formal.BRIDGES[claim.id]}
    assert not any(text.startswith("does not run") for text in sound.values())
    for construction in rewrites(claim):
        seen = []
        for mutant in mutants(construction):
            with planted(mutant):
                seen.append(any(printed(name) != text for name, text in sound.items()))
        assert sum(seen) >= len(seen) / 4, construction  # the others change what words do not have: scales, refusals


def test_a_rejected_bridge_makes_its_claim_red():
    code = bridge.Code(change_basis=forgotten_inverse)
    result = formal.check(["reparam-lemma"], code=code)["reparam-lemma"]
    assert result.status == "fail"
    assert "the Python differs (change_basis)" in result.reason


def test_a_rejection_always_has_a_reason():
    assert formal.first_error("")
    assert (
        formal.first_error('File "./A.v", line 1, characters 0-1:\nError:\nNo  applicable\ntactic.')
        == "No applicable tactic."
    )


def test_a_half_in_a_word_is_not_printed_as_an_integer():
    a = symbol("A", "d", "d", invertible=True)
    half = Word("d", "d", [(word, k / 2) for word, k in a.terms])
    with pytest.raises(ValueError, match="not an integer"):
        bridge.rocq(half, {"A": "A"})


# -- false theorems and open ones are rejected -------------------------------------------------------------------------


def test_a_false_theorem_does_not_compile(scratch):
    true = formal.sources()["Reparametrization"]
    false = true.replace("Theorem reparam_lemma a T X : T \\in unitmx ->", "Theorem reparam_lemma a T X : true ->")
    assert false != true
    results = scratch(Reparametrization=false).results({"reparam-lemma": formal.LEMMAS["reparam-lemma"]})
    assert results["reparam-lemma"].status == "fail"
    assert "do not compile: Reparametrization.v" in results["reparam-lemma"].reason


def test_an_admitted_theorem_is_red(scratch, monkeypatch):
    text = formal.sources()["ThreeProducts"]
    proof = "Proof. by rewrite trmx_mul !mulmxA. Qed."
    assert text.count(proof) == 1
    monkeypatch.setattr(formal, "controls", lambda: ())
    session = scratch(ThreeProducts=text.replace(proof, "Proof. Admitted."))
    result = session.results({"scores-bilinear": formal.LEMMAS["scores-bilinear"]})["scores-bilinear"]
    assert result.status == "fail"
    assert "scores_bilinear assumes: Axioms:" in result.reason


def variant(*change: tuple[str, str]) -> formal.Control:
    return formal.Control("scores-bilinear", "H1", "a test", change)


SIDE = "= X *m (WQ *m WK^T) *m Z^T."


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ((SIDE, "= X *m (WQ *m WK^T + WQ *m WK^T) *m Z^T."), "rejected"),
        (("comRingType) n m d dz p\n", "comUnitRingType) n m d dz p\n"), "accepted"),  # still true
        (("a text that is not there", ""), "not-run"),
        ((SIDE, "= X *m (WQ *m WK^T."), "not-run"),  # no statement at all
        ((SIDE, "= X *m (WQ *m WK) *m Z^T."), "not-run"),  # shapes that do not fit: nothing is stated
        ((SIDE, "= X *m (WQ *m WK^T *m W) *m Z^T."), "not-run"),  # an unknown name
        (("by rewrite trmx_mul !mulmxA.", "by rewrite no_such_lemma."), "not-run"),  # a script that is wrong in itself
    ],
)
def test_a_variant_counts_only_if_the_proof_itself_fails(session, change, status):
    outcome, _ = session.control(variant(change))
    assert outcome["status"] == status, outcome


def test_an_accepted_control_makes_its_claim_red(session, monkeypatch):
    harmless = variant(("comRingType) n m d dz p\n", "comUnitRingType) n m d dz p\n"))
    monkeypatch.setattr(formal, "controls", lambda: (harmless,))
    result = session.results({"scores-bilinear": formal.LEMMAS["scores-bilinear"]})["scores-bilinear"]
    assert result.status == "fail"
    assert "Rocq accepts this variant" in result.reason


@pytest.mark.parametrize("text", ["", "control = []"], ids=["empty", "no table"])
def test_without_controls_no_claim_passes(session, monkeypatch, tmp_path, text):
    (tmp_path / "controls.toml").write_text(text)
    monkeypatch.setattr(formal, "PROOFS", tmp_path)
    monkeypatch.setattr(formal, "controls", formal.controls.__wrapped__)
    result = session.results({"scores-bilinear": formal.LEMMAS["scores-bilinear"]})["scores-bilinear"]
    assert result.status == "fail"
    assert "has no control for this claim" in result.reason


# -- nothing stale is shown --------------------------------------------------------------------------------------------


TINY = "Lemma tiny : True. Proof. exact I. Qed.\n"


@pytest.fixture
def tiny(tmp_path):
    return lambda text=TINY: formal.Session({"Tiny": text}, build=tmp_path)


def test_kept_verdicts_are_not_shown_for_other_texts(tiny):
    assert tiny().library()["Tiny"].accepted
    question = "From QKV Require Import Tiny.\nLemma again : True. Proof. exact tiny. Qed.\n"
    assert tiny().ask(question).accepted
    changed = tiny(TINY.replace("tiny", "other"))
    assert changed.library()["Tiny"].accepted
    assert not changed.ask(question).accepted, "the same question about other proofs has another answer"
    assert tiny().ask(question).accepted


def test_a_verdict_depends_on_the_files_behind_its_text_and_no_others(tmp_path):
    again = "From QKV Require Import Tiny.\n" + TINY.replace("tiny", "again")
    session = formal.Session({"Tiny": TINY, "Again": again, "Other": TINY}, build=tmp_path)
    assert session.behind("From QKV Require Import Again.\n") == ["Tiny", TINY, "Again", again]
    assert session.behind("From QKV Require Again Other.\n") == ["Tiny", TINY, "Again", again, "Other", TINY]
    assert session.behind(TINY) == []


def test_proof_files_name_each_other_in_the_one_way_that_is_looked_for():
    before = set()
    for stem, text in formal.sources().items():
        lines = [line for line in text.splitlines() if "Require" in line and "mathcomp" not in line]
        assert all(formal.IMPORT.fullmatch(line) for line in lines), stem
        assert {name for line in lines for name in formal.IMPORT.findall(line)[0].split()} <= before, stem
        before.add(stem)


def test_a_failure_is_not_kept(tiny):
    broken = tiny(TINY.replace("True", "False"))
    assert not broken.library()["Tiny"].accepted
    assert not broken.folder.exists()


def test_a_changed_object_file_is_compiled_again(tiny):
    session = tiny()
    session.library()
    target = session.folder / "Tiny.vo"
    damaged = target.read_bytes() + b"x"
    target.write_bytes(damaged)
    session.library()
    kept = json.loads((session.folder / "library.json").read_text())["objects"]["Tiny"]
    assert formal.file_digest(target) == kept
    assert target.read_bytes() != damaged


def test_another_version_of_rocq_has_other_addresses(tiny, monkeypatch):
    here = tiny().folder
    other = replace(formal.rocq(), identity="another version")
    monkeypatch.setattr(formal, "rocq", lambda: other)
    assert tiny().folder != here
