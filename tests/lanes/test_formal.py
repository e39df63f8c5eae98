"""The formal lane: proofs compile, the Python is what was proved, and what is wrong is refused."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import pytest

from qkvtheory import gauge, stacks, symmetric
from qkvtheory.claims.register import register
from qkvtheory.lanes import bridge, formal
from qkvtheory.lanes.mutants import home, mutants, planted
from qkvtheory.words import Word, symbol

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


def forgotten_inverse(attention, theta, phi=None):
    new = gauge.change_basis(attention, theta, phi)
    return replace(new, W_K=attention.W_K)


def basis_in_place_of_its_inverse(attention, theta, phi=None):
    return replace(gauge.change_basis(attention, theta, phi), W_V=theta @ attention.W_V)


def output_not_moved(block, enter, leave):
    new = gauge.rebase(block, enter, leave)
    return replace(new, attention=replace(new.attention, W_O=block.attention.W_O))


def other_basis_returned(attention, which):
    theta, new = gauge.reparametrize(attention, which)
    return theta @ theta, new


def other_core(attention, theta, phi=None):
    new = gauge.change_basis(attention, theta, phi)
    return replace(new, core=lambda q, k, v: attention.core(q, k, v + v))


def query_bias_moved(attention, theta, phi=None):
    new = gauge.change_basis(attention, theta, phi)
    return new if new.b_Q is None else replace(new, b_Q=new.b_Q + new.b_Q)


def bias_dropped(attention, which):
    theta, new = gauge.reparametrize(attention, which)
    return theta, replace(new, b_V=None)


def cross_bias_dropped(attention, which):
    theta, phi, new = gauge.reparametrize_cross(attention, which)
    return theta, phi, replace(new, b_V=None)


def other_cross_basis_returned(attention, which):
    theta, phi, new = gauge.reparametrize_cross(attention, which)
    return theta, phi @ phi, new


def merged_the_other_way(attention):
    return replace(gauge.merge_single_head(attention), W_K=attention.W_Q @ attention.W_K.mT)


def written_bias_left(block, enter, leave):
    new = gauge.rebase(block, enter, leave)
    return replace(new, attention=replace(new.attention, b_O=block.attention.b_O))


def reads_doubled(back, *weights):
    return tuple(2 * weight for weight in gauge.reads(back, *weights))


def reads_cut_short(back, *weights):
    return gauge.reads(back, *weights)[1:]


def carried_doubled(row, basis):
    return 2 * gauge.carried(row, basis)


def positions_left(row, basis):
    return row


def other_basis_selected(attention, which):
    theta, new = gauge.select_columns(attention, which)
    return 2 * theta, new


def columns_not_selected(attention, which):
    theta, _ = gauge.select_columns(attention, which)
    return theta, gauge.change_basis(attention, theta)


def first_columns_for_the_values(attention, which):
    theta, new = gauge.select_columns(attention, which)
    return theta, replace(new, W_V=new.W_K)


def embedding_left(network):
    return replace(stacks.eliminate_queries(network), embedding=network.embedding)


def every_block_leaves_in_its_own_basis(network):
    new = stacks.eliminate_queries(network)
    blocks = [gauge.rebase(b, b.attention.W_Q, b.attention.W_Q) for b in network.blocks]
    return replace(new, blocks=blocks)


def one_block_twice(network):
    new = stacks.eliminate_queries(network)
    return replace(new, blocks=[new.blocks[0], new.blocks[0]])


class PositionsForgotten(bridge.Code().Network):
    def __call__(self, tokens):
        return super().__call__(tokens) if self.positions is None else replace(self, positions=None)(tokens)


class KeysFromTheStream(bridge.Code().Attention):
    """Cross-attention that forgets its memory."""

    def __call__(self, x, memory=None):
        return super().__call__(x)


class OutputTwice(bridge.Code().Attention):
    def __call__(self, x, memory=None):
        y = super().__call__(x, memory)
        return y + y


class SkipAnyway(bridge.Code().Block):
    def __call__(self, x, memory=None):
        return x + super().__call__(x, memory)


class NoSkip(bridge.Code().Block):
    def __call__(self, x, memory=None):
        return self.mlp(self.attention(x))


class Serial(bridge.Code().Block):
    """A parallel block run one after the other."""

    def __call__(self, x, memory=None):
        return super().__call__(x, memory) if not self.parallel else replace(self, parallel=False)(x)


class NormAfterwards(bridge.Code().Block):
    """The norm of the MLP on what it wrote, not on what it reads."""

    def __call__(self, x, memory=None):
        y = replace(self, mlp_norm=None)(x, memory)
        return y if self.mlp_norm is None else self.mlp_norm(y)


class CrossFromTheStart(bridge.Code().Block):
    """Cross-attention that reads the stream before self-attention."""

    def __call__(self, x, memory=None):
        if self.cross is None:
            return super().__call__(x)
        y = x + self.attention(x) + self.cross(x, memory)
        return y + self.mlp(y)


class TiedWithoutTranspose(bridge.Code().Network):
    def __call__(self, tokens, memory=None):
        return self.stream(tokens, memory) @ (self.embedding if self.readout is None else self.readout)


def bases_shifted(network, bases):
    """Every state in the basis of the one before it."""
    return stacks.carry(network, [bases[0], *bases[:-1]])


def middle_forgotten(network, bases):
    return stacks.carry(network, [None if k % 2 else basis for k, basis in enumerate(bases)])


def biases_of_writes_left(network, bases):
    new = stacks.carry(network, bases)
    pairs = zip(network.blocks, new.blocks, strict=True)
    return replace(new, blocks=[replace(b, mlp=replace(b.mlp, b_down=a.mlp.b_down)) for a, b in pairs])


def norms_dropped(network, bases):
    new = stacks.carry(network, bases)
    return replace(new, blocks=[replace(b, attention_norm=None, mlp_norm=None) for b in new.blocks])


def readout_left(network, theta, memory=None):
    return replace(stacks.conjugate(network, theta, memory), readout=network.readout)


def memory_left(network, theta, memory=None):
    return stacks.conjugate(network, theta)


def keys_left(network, which, layers=None):
    """Keys that are read as before."""
    new = stacks.eliminate(network, which, layers)
    pairs = zip(network.blocks, new.blocks, strict=True)
    blocks = [replace(b, attention=replace(b.attention, W_K=a.attention.W_K)) for a, b in pairs]
    return replace(new, blocks=blocks)


def output_bias_lost(network):
    new = stacks.merge_outputs(network)
    return replace(new, blocks=[replace(b, mlp=replace(b.mlp, b_up=None)) for b in new.blocks])


def skip_left(network):
    new = stacks.remove_learned_skips(network)
    return replace(new, blocks=[replace(new.blocks[0], mlp_skip=False)])


def first_basis_left(network):
    return replace(stacks.remove_learned_skips(network), embedding=network.embedding)


def keys_turned_the_other_way(attention, shared):
    new = gauge.align_heads(attention, shared)
    return replace(new, W_K=attention.W_K @ (shared.inverse() @ attention.W_Q))


def third_projection_left(attention, which):
    theta, new = gauge.reparametrize(attention, which)
    return theta, replace(new, W_V=attention.W_V)


SKIPPING = ("run_block", "run_block_mlp_skip", "run_block_both_skips", "run_block_biased", "run_stage", "run_stack")
SKIPPING += ("run_learned",)
DAMAGED = {
    "change_basis": (bridge.Code(change_basis=forgotten_inverse), ("change_basis", "change_bases")),
    "theta for its inverse": (bridge.Code(change_basis=basis_in_place_of_its_inverse), ("change_basis",)),
    "core": (bridge.Code(change_basis=other_core), ("change_basis",)),
    "biases": (bridge.Code(change_basis=query_bias_moved), ("change_basis_biases",)),
    "reparametrize": (bridge.Code(reparametrize=other_basis_returned), ("eliminate_q", "eliminate_k", "eliminate_v")),
    "bias of an elimination": (
        bridge.Code(reparametrize=bias_dropped),
        ("eliminate_q_biases", "eliminate_k_biases", "eliminate_v_biases", "wide_query_biases"),
    ),
    "bias of a cross-elimination": (
        bridge.Code(reparametrize_cross=cross_bias_dropped),
        ("cross_qk_biases", "cross_qv_biases"),
    ),
    "biases with two bases": (bridge.Code(change_basis=query_bias_moved), ("change_bases_biases",)),
    "reads": (bridge.Code(reads=reads_doubled), ("reads",)),
    "a read missing": (bridge.Code(reads=reads_cut_short), ("reads",)),
    "carried": (bridge.Code(carried=carried_doubled), ("positions",)),
    "positions left": (bridge.Code(carried=positions_left), ("positions",)),
    "positions forgotten": (bridge.Code(Network=PositionsForgotten), ("run_network",)),
    "selected basis": (bridge.Code(select_columns=other_basis_selected), ("select_kv",)),
    "columns not selected": (bridge.Code(select_columns=columns_not_selected), ("select_k",)),
    "columns of others": (bridge.Code(select_columns=first_columns_for_the_values), ("select_k", "select_kv")),
    "embedding": (bridge.Code(eliminate_queries=embedding_left), ("eliminate_queries",)),
    "leaving basis": (bridge.Code(eliminate_queries=every_block_leaves_in_its_own_basis), ("eliminate_queries",)),
    "one block twice": (bridge.Code(eliminate_queries=one_block_twice), ("eliminate_queries_biases",)),
    "rebase": (bridge.Code(rebase=output_not_moved), ("rebase",)),
    "memory": (bridge.Code(Attention=KeysFromTheStream), ("cross",)),
    "skip": (bridge.Code(Block=NoSkip), SKIPPING),
    "skip that is not there": (bridge.Code(Block=SkipAnyway), ("run_block_no_skips",)),
    "output": (bridge.Code(Attention=OutputTwice), ("mha", "mha_biased")),
    "basis of a cross-elimination": (
        bridge.Code(reparametrize_cross=other_cross_basis_returned),
        ("cross_qk", "cross_qv"),
    ),
    "one head": (bridge.Code(merge_single_head=merged_the_other_way), ("merge_single_head",)),
    "bias of a write": (bridge.Code(rebase=written_bias_left), ("rebase_biases",)),
    "parallel": (bridge.Code(Block=Serial), ("run_stage",)),
    "norm": (bridge.Code(Block=NormAfterwards), ("run_stage",)),
    "cross-attention": (bridge.Code(Block=CrossFromTheStart), ("run_decoder",)),
    "memory of a decoder": (bridge.Code(Attention=KeysFromTheStream), ("run_decoder",)),
    "tied readout": (bridge.Code(Network=TiedWithoutTranspose), ("run_stack",)),
    "bases": (
        bridge.Code(carry=bases_shifted),
        ("carry_skipless", "carry_attention_skip", "carry_mlp_skip", "carry_parallel", "carry_norms"),
    ),
    "middle": (bridge.Code(carry=middle_forgotten), ("carry_skipless", "carry_norms")),
    "biases of a stack": (bridge.Code(carry=biases_of_writes_left), ("carry_skipless", "carry_parallel")),
    "norms of a stack": (bridge.Code(carry=norms_dropped), ("carry_norms",)),
    "readout": (bridge.Code(conjugate=readout_left), ("conjugate",)),
    "basis of the memory": (bridge.Code(conjugate=memory_left), ("conjugate_decoder",)),
    "keys left": (
        bridge.Code(eliminate=keys_left),
        (
            "eliminate_skipless",
            "eliminate_attention_skip",
            "eliminate_mlp_skip",
            "eliminate_parallel",
            "eliminate_keys",
            "eliminate_values",
            "eliminate_mixed",
            "eliminate_tied",
            "one_layer",
            "shared_queries",
        ),
    ),
    "output bias": (bridge.Code(merge_outputs=output_bias_lost), ("merge_outputs",)),
    "outputs not merged": (bridge.Code(merge_outputs=lambda network: network), ("merge_outputs",)),
    "a learned skip": (bridge.Code(remove_learned_skips=skip_left), ("learned_skips",)),
    "basis before a learned skip": (bridge.Code(remove_learned_skips=first_basis_left), ("learned_skips",)),
    "heads": (bridge.Code(align_heads=keys_turned_the_other_way), ("align_heads",)),
    "projections": (bridge.Code(reparametrize=third_projection_left), ("projections_left", "wide_query")),
}


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


def rewrites(claim) -> list[str]:
    """The constructions of a claim that rewrite layers; the measures in ``symmetric`` look at the entries of a map."""
    return [name for name in claim.constructions if home(name) is not symmetric]


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
