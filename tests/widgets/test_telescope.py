"""The telescope: the page's arithmetic against the package's, for every setting; its state, its still, its numbers."""

from __future__ import annotations

import itertools
import json
import re
from html import unescape

import numpy as np
import pytest

from qkvtheory import widgets
from qkvtheory.stacks import eliminate_queries
from qkvtheory.widgets import bundle, static_html, telescope, telescope_picture

ON = [(False, False), (True, False), (True, True)]


def settings():
    """All switches, and all repairs of those that are on: 756 states."""
    mlp = [(False, "none"), *((True, repair) for repair in telescope.MLP_REPAIRS)]
    for attention, shared in itertools.product((True, False), repeat=2):
        for (skip, mend), norm, tied, singular in itertools.product(mlp, ON, ON, ON):
            yield telescope.check_state(
                attention_skip=attention, shared=shared, mlp_skip=skip, mlp_repair=mend,
                norm=norm[0], norm_repair=norm[1], tied=tied[0], tied_repair=tied[1],
                singular=singular[0], singular_repair=singular[1],
            )  # fmt: skip


STATES = list(settings())


def random_weights(seed):
    """Other weights, as far from singular as those of the figure, so that rounding stays rounding."""
    rng = np.random.default_rng(seed)

    def near(a):
        return (np.array(a) + 0.2 * rng.normal(size=np.shape(a))).tolist()

    weights = {name: near(a) for name, a in telescope.WEIGHTS.items() if name in "ED"}
    weights["layers"] = [{name: near(a) for name, a in layer.items()} for layer in telescope.WEIGHTS["layers"]]
    return {**weights, "singular": telescope.WEIGHTS["singular"]}


def look(state, weights):
    """What there is to compare: everything that is computed and everything that is said."""
    seen = telescope.view(state, weights)
    chosen = seen.plan
    return {
        "keys": list(chosen.keys), "causes": [list(c) for c in chosen.causes], "skips": list(chosen.skips),
        "spare": list(chosen.spare),
        "counts": [chosen.before, chosen.left, chosen.saved], "refused": chosen.refused, "first": seen.first,
        "wanted": [a.tolist() for a in seen.wanted], "got": [a if a is None else a.tolist() for a in seen.got],
        "errors": seen.errors, "sentence": telescope.sentence(state, seen),
        "tiles": telescope_picture.tiles(state, chosen), "happens": telescope_picture.happens(state, chosen),
        "legend": telescope_picture.legend(state, chosen), "zeros": telescope_picture.zeros(chosen),
        "void": telescope_picture.void(seen),
        "hints": [telescope_picture.hint(pressed, possible) for pressed in (False, True) for possible in (False, True)],
    }  # fmt: skip


SCRIPT = """const w = await import(folder + 'telescope.mjs');
const result = data.states.map((state) => {
  const seen = w.view(state, data.weights), p = seen.plan, none = Array(8).fill(null);
  return { keys: p.keys, causes: p.causes, skips: p.skips, spare: p.spare, counts: [p.before, p.left, p.saved],
    refused: p.refused, first: seen.first, wanted: seen.wanted, got: seen.got ?? none, errors: seen.errors ?? none,
    sentence: w.sentence(state, seen), tiles: w.tiles(state, p), happens: w.happens(state, p),
    legend: w.legend(state, p), zeros: w.zeros(p), void: w.voided(seen),
    hints: [false, true].flatMap((pressed) => [false, true].map((possible) => w.hint(pressed, possible))) };
});"""


def close(got, expected, tolerance=1e-12):
    got, expected = np.array(got), np.array(expected)
    return got.shape == expected.shape and np.abs(got - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_the_page_computes_and_says_what_the_package_does_for_every_setting(node, seed):
    weights = telescope.WEIGHTS if seed is None else random_weights(seed)
    assert len(STATES) == 756
    for state, page in zip(STATES, node(SCRIPT, {"states": STATES, "weights": weights}), strict=True):
        ours = look(state, weights)
        for name in ("wanted", "got"):
            for here, there in zip(ours.pop(name), page.pop(name), strict=True):
                assert (here is None and there is None) or close(there, here), (state, name)
        for here, there in zip(ours.pop("errors"), page.pop("errors"), strict=True):
            assert here == there or abs(here - there) <= 1e-12 * max(1, here), state
        assert page == ours


@pytest.mark.parametrize("seed", [None, 2])
def test_the_first_place_that_breaks_is_the_first_cause(seed):
    """The reasons are found without computing, the errors without reasons: they must agree."""
    weights = telescope.WEIGHTS if seed is None else random_weights(seed)
    for state in STATES:
        seen = telescope.view(state, weights)
        if seen.plan.refused:
            assert state["singular"] and not state["singular_repair"] and seen.got == [None] * 8
            continue
        assert seen.first == (seen.plan.causes[0][1] if seen.plan.causes else 8), state
        if seen.first == 8:
            assert max(seen.errors) < 1e-12


def test_the_good_setting_is_the_theorem():
    state = telescope.check_state()
    old = telescope.original(state, telescope.WEIGHTS)
    new, chosen = eliminate_queries(old), telescope.plan(state)
    ours = telescope.rewritten(old, state, chosen)
    for block, same in zip(ours.blocks, new.blocks, strict=True):
        assert np.array_equal(block.attention.W_Q, np.eye(2))
        for name in ("W_K", "W_V", "W_O"):
            assert np.array_equal(getattr(block.attention, name), getattr(same.attention, name))
        assert np.array_equal(block.mlp.W_down, same.mlp.W_down)
    assert (chosen.left, chosen.saved, chosen.causes) == (0, 12, ())


# What is on -> query matrices left, parameters saved, first place that breaks (8: none).
COUNTS = [
    ({}, 0, 12, 8),
    ({"attention_skip": False}, 0, 12, 8),
    ({"attention_skip": False, "mlp_skip": True}, 0, 12, 8),
    ({"mlp_skip": True}, 0, 12, 2),
    ({"mlp_skip": True, "mlp_repair": "linear"}, 0, 0, 8),
    ({"mlp_skip": True, "mlp_repair": "spare units"}, 0, 12 - 3 * 16, 8),
    ({"mlp_skip": True, "mlp_repair": "spare units", "shared": True}, 0, 4, 8),
    ({"mlp_skip": True, "mlp_repair": "spare units", "attention_skip": False}, 0, 12, 8),
    ({"mlp_skip": True, "mlp_repair": "spare units", "norm": True, "norm_repair": True}, 3, 3 - 48, 2),
    ({"mlp_skip": True, "mlp_repair": "spare units", "tied": True, "tied_repair": True}, 1, 8 - 48, 8),
    ({"mlp_skip": True, "mlp_repair": "layer 2"}, 2, 4, 8),
    ({"mlp_skip": True, "shared": True}, 0, 4, 8),
    ({"shared": True, "tied": True, "tied_repair": True}, 1, 0, 8),
    ({"norm": True}, 0, 12, 1),
    ({"norm": True, "norm_repair": True}, 3, 3, 8),
    ({"norm": True, "norm_repair": True, "mlp_skip": True, "mlp_repair": "layer 3"}, 3, 1, 8),
    ({"norm": True, "norm_repair": True, "mlp_skip": True, "mlp_repair": "linear"}, 3, -9, 8),
    ({"tied": True}, 0, 12, 7),
    ({"tied": True, "tied_repair": True}, 1, 8, 8),
    ({"tied": True, "tied_repair": True, "mlp_skip": True, "mlp_repair": "linear"}, 1, -4, 8),
    ({"tied": True, "tied_repair": True, "mlp_skip": True, "mlp_repair": "layer 1"}, 3, 1, 8),
    ({"singular": True}, 3, 0, 8),
    ({"singular": True, "singular_repair": True}, 1, 12, 8),
    ({"singular": True, "mlp_skip": True, "mlp_repair": "layer 1"}, 2, 4, 8),
    ({"singular": True, "mlp_skip": True, "mlp_repair": "layer 2"}, 3, 0, 8),
    ({"singular": True, "norm": True, "norm_repair": True}, 3, 3, 8),
]


@pytest.mark.parametrize(("given", "left", "saved", "first"), COUNTS)
def test_counts(given, left, saved, first):
    seen = telescope.view(telescope.check_state(**given))
    assert (seen.plan.left, seen.plan.saved, seen.first) == (left, saved, first)


def test_the_counts_are_those_of_the_matrices():
    """Counted again from the rewritten weights: numbers that are not fixed as 0 or 1, equal matrices once."""
    for state in STATES:
        chosen = telescope.plan(state)
        if chosen.refused or chosen.causes:
            continue
        old = telescope.original(state, telescope.WEIGHTS)
        new = telescope.rewritten(old, state, chosen)
        queries = [block.attention.W_Q for block in new.blocks]
        stored = 0
        for i, q in enumerate(queries):
            if state["shared"] and any(np.allclose(q, other, atol=1e-12) for other in queries[:i]):
                continue
            stored += size(q)
        keys = sum(4 - size(block.attention.W_K) for block in new.blocks)
        skips = sum(4 for block in new.blocks if not isinstance(block.mlp_skip, bool))
        units = sum(w.size for block in new.blocks for w in (block.mlp.W_up, block.mlp.W_down)) - 3 * 16
        assert chosen.saved == (4 if state["shared"] else 12) - stored + keys - skips - units, state
        if telescope_picture.zeros(chosen):  # every saved number is such a zero
            triangular = set(chosen.W_Q) == {"T"} if state["shared"] else chosen.W_Q.count("T")
            assert chosen.saved == triangular + chosen.W_K.count("T") and "I" not in (*chosen.W_Q, *chosen.W_K), state


def size(a):
    """How many numbers of a 2 x 2 matrix are to be stored."""
    return 0 if np.array_equal(a, np.eye(2)) else 3 if abs(a[1, 0]) < 1e-12 else 4


def test_a_linear_skip_carries_one_basis_into_the_next():
    state = telescope.check_state(mlp_skip=True, mlp_repair="linear")
    old = telescope.original(state, telescope.WEIGHTS)
    new = telescope.rewritten(old, state, telescope.plan(state))
    bases = [*(block.attention.W_Q for block in old.blocks), np.eye(2)]
    for block, (a, b) in zip(new.blocks, itertools.pairwise(bases), strict=True):
        assert np.allclose(block.mlp_skip, np.linalg.inv(a) @ b, atol=1e-12)


def test_spare_units_do_the_same_with_the_skip_as_it_was():
    state = telescope.check_state(mlp_skip=True, mlp_repair="spare units")
    old = telescope.original(state, telescope.WEIGHTS)
    new = telescope.rewritten(old, state, telescope.plan(state))
    y, bases = np.random.default_rng(5).normal(size=(9, 2)), [block.attention.W_Q for block in old.blocks]
    for block, was, (a, b) in zip(new.blocks, old.blocks, itertools.pairwise([*bases, np.eye(2)]), strict=True):
        assert block.mlp_skip is True and block.mlp.W_up.shape == (2, 8)
        assert np.allclose(y @ a + block.mlp(y @ a), (y + was.mlp(y)) @ b, atol=1e-13)


def test_rotation_and_norm(node):
    cases = [telescope.WEIGHTS["singular"], *(np.random.default_rng(3).normal(size=(20, 2, 2))).tolist()]
    script = (
        "const m = await import(folder + 'qkv.mjs'); const result = data.map((a) => [m.rotation(a), m.rmsNorm(a)]);"
    )
    for a, (turn, norm) in zip(cases, node(script, cases), strict=True):
        a, turn = np.array(a), np.array(turn)
        assert close(turn, telescope.rotation(a)) and close(turn @ turn.T, np.eye(2)) and np.linalg.det(turn) > 0
        assert abs((turn.T @ a)[1, 0]) < 1e-15 * 10 and (turn.T @ a)[0, 0] > 0
        assert close(norm, a / np.sqrt((a * a).mean(axis=1, keepdims=True) + 1e-6))


SENTENCES = [
    ({}, "Every equality holds, and the logits are the same. W<sub>Q</sub> = I in every layer."),
    ({"mlp_skip": True}, "X₂ breaks first: the MLP skip brings Y₁Θ₁ where Y₁Θ₂ belongs. The error is Y₁(Θ₁ − Θ₂)."),
    ({"norm": True}, "Y₁ breaks first: lengths change with Θ₁, so N(X₁Θ₁) ≠ N(X₁)Θ₁."),
    ({"tied": True}, "Every equality of the states holds, but the tied readout breaks: X₄(EΘ₁)ᵀ ≠ X₄Eᵀ."),
    ({"norm": True, "mlp_skip": True, "tied": True}, "The MLP skip and the tie would break it too."),
    ({"singular": True}, "Refused: W<sub>Q</sub> of layer 2 is singular, it has no inverse, so nothing is rewritten."),
    ({"singular": True, "shared": True}, "Refused: the shared W<sub>Q</sub> is singular"),
    ({"singular": True, "singular_repair": True}, "W<sub>Q</sub> = I in layers 1 and 3. W<sub>K</sub> = I in layer 2."),
    ({"mlp_skip": True, "mlp_repair": "linear"}, "The linear skips cost 12 parameters."),
    ({"mlp_skip": True, "mlp_repair": "spare units"}, "in every layer. The spare units cost 48 parameters."),
    (
        {"mlp_skip": True, "mlp_repair": "spare units", "norm": True, "norm_repair": True},
        "X₂ breaks first: the spare units read N(Y₁), which does not give back Y₁.",
    ),
    (
        {"mlp_skip": True, "mlp_repair": "spare units", "norm": True},
        "The spare units would break it too.",
    ),
    ({"mlp_skip": True, "mlp_repair": "layer 3"}, "W<sub>Q</sub> = I in layer 3. One basis passes every skip."),
    ({"attention_skip": False, "mlp_skip": True}, "The MLP skip is harmless"),
    ({"norm": True, "norm_repair": True}, "W<sub>Q</sub> is triangular (◥) in every layer. Rotations keep lengths"),
    ({"tied": True, "tied_repair": True}, "W<sub>Q</sub> = I in layers 2 and 3. E stays, and so does its tie."),
]


@pytest.mark.parametrize(("given", "said"), SENTENCES)
def test_the_sentence(given, said):
    html = static_html("telescope", style=False, **given)
    assert said in unescape(re.search(r'data-part="live">(.*?)</p>', html)[1])


def test_the_still_marks_where_it_breaks():
    html = static_html("telescope", style=False, mlp_skip=True)
    assert re.findall(r'data-part="state \d" .*?data-state="(\w+)"', html) == ["holds"] * 2 + ["broken"] * 6
    assert (
        re.findall(r'data-part="arc \d" data-skip="(\w+)" data-bad="(\w+)"', html)
        == [
            ("identity", "false"),
            ("identity", "true"),
        ]
        * 3
    )
    assert html.count("breaks here:") == 1
    tile = re.search(r'data-part="tile W_down 0">(.*?)</span>', html)[1]
    assert re.sub("<.*?>", "", tile) == "WdownΘ₂"
    weights = json.loads(unescape(re.search(r'data-weights="(.*?)"', html)[1]))
    assert weights == telescope.WEIGHTS


def test_the_singular_matrix_is_singular_and_the_others_are_not():
    assert np.linalg.matrix_rank(telescope.WEIGHTS["singular"]) == 1
    for layer in telescope.WEIGHTS["layers"]:
        assert max(np.linalg.cond(layer["W_Q"]), np.linalg.cond(layer["W_K"])) < 5


BAD = [
    (
        {"mlp_repair": "glue"},
        "mlp_repair must be one of none, linear, spare units, layer 1, layer 2, layer 3, not 'glue'",
    ),
    ({"norm": 1}, "norm must be True or False, not 1"),
    ({"skip": True}, "unknown: skip; the state has attention_skip, mlp_skip"),
]


@pytest.mark.parametrize(("given", "message"), BAD)
def test_a_bad_state_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        static_html("telescope", **given)


def test_in_a_notebook():
    pytest.importorskip("anywidget")
    from traitlets import TraitError

    figure = widgets.Telescope(tied=True)
    assert {key: getattr(figure, key) for key in telescope.DEFAULT} == {**telescope.DEFAULT, "tied": True}
    assert figure._esm == bundle("telescope")
    with pytest.raises(TraitError, match="mlp_repair must be one of"):
        figure.mlp_repair = "glue"
    assert figure.mlp_repair == "none"
