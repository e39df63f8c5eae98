"""The gauge counter: its cells are as many as the package counts, what they leave matters, and the page agrees."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from dataclasses import replace
from html import unescape

import numpy as np
import pytest

from qkvtheory import freedom, redundancy, widgets
from qkvtheory.widgets import bundle, gauge_counter, gauge_counter_picture, static_html

PART = {letter: part for part, letter in gauge_counter.LETTERS.items()}


def settings():
    """Every combination of all switches."""
    names = [name for name in gauge_counter.CHOICES if name != "show"]
    flags = itertools.product((False, True), repeat=len(gauge_counter.FLAGS))
    choices = itertools.product(*(gauge_counter.CHOICES[name] for name in names), flags, gauge_counter.LAYERS)
    for *chosen, on, layers in choices:
        given = dict(zip(names, chosen, strict=True)) | dict(zip(gauge_counter.FLAGS, on, strict=True))
        yield gauge_counter.check_state(**given, layers=layers)


STATES = list(settings())
ACCOUNTS = [gauge_counter.account(state) for state in STATES]


def account(**given):
    return gauge_counter.account(gauge_counter.check_state(**given))


def marked(found):
    return Counter(PART[cell.lower()] for sheet in found.sheets for cell in sheet.cells if cell != ".")


# --- the cells ---


def test_the_cells_are_as_many_as_the_package_counts_part_by_part():
    covered = [found for found in ACCOUNTS if not found.refused]
    assert len(STATES) == 10368 and len(covered) > 1000
    for found in covered:
        assert sum(len(sheet.cells) for sheet in found.sheets) == freedom.parameters(found.a) == found.parameters
        expected = freedom.redundancy(found.a)
        assert {part: marked(found)[part] for part in freedom.PARTS} == expected == found.parts, found.a


def test_what_no_formula_covers_has_no_number_and_no_mark():
    for state, found in zip(STATES, ACCOUNTS, strict=True):
        if found.refused:
            assert found.refused in gauge_counter.WORDS["uncovered"] and not marked(found), state
            assert "what they do not cover: " in gauge_counter.sentence(found)
    reasons = Counter(found.refused for found in ACCOUNTS)
    assert set(reasons) == {"", *gauge_counter.WORDS["uncovered"]}


CASES = [
    {}, {"topology": "TA"}, {"topology": "TM"}, {"topology": "T0"}, {"layers": 1, "topology": "T0", "biases": True},
    {"norm": "RMSNorm"}, {"norm": "RMSNorm", "topology": "T0"}, {"norm": "RMSNorm", "gains": True, "groups": "one"},
    {"norm": "RMSNorm", "topology": "TM", "activation": "SwiGLU", "layers": 1},
    {"norm": "LayerNorm"}, {"norm": "LayerNorm", "groups": "one", "topology": "TA", "layers": 1},
    {"norm": "LayerNorm", "positions": "RoPE"}, {"norm": "LayerNorm", "queries": "identity", "layers": 1},
    {"norm": "LayerNorm", "positions": "RoPE", "groups": "one", "topology": "TA", "layers": 1},
    {"positions": "RoPE", "norm": "RMSNorm", "gains": True, "activation": "SwiGLU", "groups": "one"},
    {"positions": "RoPE", "topology": "T0"}, {"positions": "RoPE", "biases": True}, {"groups": "one", "biases": True},
    {"tied": True}, {"tied": True, "norm": "RMSNorm", "positions": "RoPE"}, {"tied": True, "groups": "one"},
    {"queries": "shared"}, {"queries": "shared", "positions": "RoPE", "groups": "one"},
    {"queries": "identity"}, {"queries": "identity", "topology": "T0"}, {"queries": "identity", "groups": "one"},
    {"queries": "identity", "norm": "RMSNorm", "topology": "TA"}, {"queries": "identity", "positions": "RoPE"},
    {"activation": "SwiGLU", "topology": "TM"}, {"activation": "SwiGLU", "topology": "T0", "layers": 1},
]  # fmt: skip


@pytest.mark.parametrize("given", CASES, ids=lambda given: " ".join(map(str, given.values())) or "default")
def test_with_the_pale_cells_at_their_values_every_other_cell_matters(given):
    """Their Jacobian has full rank at a normal form: the cells take all freedom away, and cut nothing else off."""
    assert smallest(account(**given)) > 1e-11


def test_a_wrong_cell_leaves_freedom():
    """The scale of a unit and a basis of its state, both fixed where they meet: the count is right, the rank is not."""
    found = account(topology="TM", activation="SwiGLU")
    out, down = (next(s for s in found.sheets if (s.name, s.place) == (name, 1)) for name in ("W_O", "W_down"))
    assert out.cells[:8] == list("HhHhhHhH") and down.cells[:8] == ["."] * 8
    out.cells[:8], down.cells[:8] = down.cells[:8], out.cells[:8]
    assert smallest(found) < 1e-13


def test_behind_a_norm_an_embedding_alone_has_a_free_basis():
    """Why this is not covered: any invertible matrix instead of a rotation, 10 numbers more."""
    state = {"norm": "RMSNorm", "positions": "RoPE", "topology": "TM", "layers": 1}
    found = account(**state)
    assert found.refused == gauge_counter.WORDS["uncovered"][1]
    measured = redundancy.network_dimension(found.a).rank
    any_basis, rotations = (freedom.stream_symmetries(norm, 4) for norm in ("none", "RMSNorm"))
    assert found.parameters - measured == any_basis + rotations + freedom.layer_redundancy(found.a.layer)


def smallest(found):
    """The smallest singular value of the Jacobian of all cells that matter, over the largest."""
    weights, free = redundancy.drawn(redundancy.network_shapes(found.a), 1), {}
    gains = itertools.count()
    for sheet in filter(lambda sheet: sheet.cells, found.sheets):
        name = name_of(sheet, found.a, gains)
        cells = np.array(sheet.cells).reshape(weights[name].shape)
        free[name] = cells == "."
        weights[name] = np.where(free[name], weights[name], np.char.isupper(cells))
    count = -(-2 * found.parameters // (found.a.outputs * found.a.context))
    tokens = np.eye(found.a.vocab)[np.random.default_rng(2).integers(found.a.vocab, size=count * found.a.context)]
    functions = redundancy.ANALYTIC
    if found.a.queries == "own":  # W_Q = I holds in the basis of the network, not in that of the picture
        functions = replace(functions, norms={**functions.norms, "LayerNorm": last_direction_out})

    def function(point):
        given, start = {name: weight.astype(complex) for name, weight in weights.items()}, 0
        for name, mask in free.items():
            given[name][mask] = point[start : start + mask.sum()]
            start += mask.sum()
        return redundancy.built_network(found.a, given, count, functions)(tokens)

    point = np.concatenate([weights[name][mask] for name, mask in free.items()])
    values = redundancy.singular_values(redundancy.jacobian(function, [point]))
    assert len(values) == found.dimension
    return values[-1] / values[0]


def name_of(sheet, a, gains):
    if sheet.name == "γ":
        return f"gain^{next(gains)}"
    alone = sheet.name in ("E", "P", "D", "b_D") or (sheet.name == "W_Q" and a.queries == "shared")
    return sheet.name if alone else f"{sheet.name}^{sheet.place - 1}"


def last_direction_out(gain):
    """LayerNorm, turned so that the direction of all ones is the last."""

    def norm(z):
        z = z * np.array([1, 1, 1, 0])
        return z / np.sqrt((z * z).mean(axis=-1, keepdims=True) + redundancy.EPS) * (1 if gain is None else gain)

    return norm


def test_a_cell_is_fixed_once():
    sheet = gauge_counter.Sheet("E", 0, 2, 2)
    sheet.fix("stream", 0, 1, True)
    assert sheet.cells == [".", "S", ".", "."] and sheet.fixed == 1
    with pytest.raises(ValueError, match="E 0, 1 is fixed by S already"):
        sheet.fix("heads", 0, 1)


# --- the page computes the same ---


def test_the_page_computes_and_says_what_the_package_does_for_every_combination(node):
    script = """const w = await import(folder + 'gauge_counter.mjs');
    const result = data.states.map((state) => { const f = w.account(state);
      return [f.sheets.map((s) => [s.name, s.place, s.rows, s.columns, s.note, s.cells.join("")]), f.parts,
        f.parameters, f.redundant, f.refused, w.sentence(f, data.words), w.about(f, state.show, data.words)]; });"""
    shows = itertools.cycle(gauge_counter.CHOICES["show"])
    states = [{**state, "show": show} for state, show in zip(STATES, shows, strict=False)]
    words, none = gauge_counter.WORDS, ["", *gauge_counter.WORDS["uncovered"]]
    results = node(script, {"states": states, "words": words})
    for state, found, page in zip(states, ACCOUNTS, results, strict=True):
        sheets = [[s.name, s.place, s.rows, s.columns, s.note, "".join(s.cells)] for s in found.sheets]
        said = [gauge_counter.sentence(found), gauge_counter.about(found, state["show"])]
        counted = [found.parts, found.parameters, found.redundant, none.index(found.refused)]
        assert page == [sheets, *counted, *said], state


def test_the_bundle_is_one_module():
    code = bundle("gauge-counter")
    assert not re.search(r"^\s*import\b", code, re.M) and code.count("export default") == 1


# --- what is said ---

SAID = [
    ({}, "264 parameters, 52 of them redundant: the functions of this network fill 212 dimensions."),
    ({}, "W<sub>Q</sub> can be I in layer 1 only."),
    ({"layers": 1}, "W<sub>Q</sub> can be I in its one layer."),
    ({"topology": "T0"}, "264 parameters, 116 of them redundant"),
    ({"topology": "TM", "norm": "RMSNorm"}, "W<sub>Q</sub> can be triangular in every layer."),
    ({"norm": "LayerNorm"}, "104 of them redundant"),
    ({"tied": True}, "W<sub>Q</sub> can be triangular in layer 1 only."),
    ({"queries": "shared"}, "44 of them redundant"),
    ({"queries": "identity"}, "28 of them redundant: the functions of this network fill 204 dimensions."),
    ({"queries": "identity"}, "with W<sub>Q</sub> of their own they would fill 212."),
    ({"queries": "identity", "topology": "TA"}, "fill 180 dimensions. Every W<sub>Q</sub> is I; with"),
    ({"queries": "identity", "topology": "TA"}, "of their own they would fill 180."),
    ({"biases": True, "norm": "RMSNorm"}, "what they do not cover: biases with a norm. So no cell is marked"),
    (
        {"queries": "identity", "gains": True, "norm": "RMSNorm"},
        "what they do not cover: W<sub>Q</sub> = I with gains.",
    ),
]


@pytest.mark.parametrize(("given", "said"), SAID)
def test_the_sentence(given, said):
    assert said in unescape(re.search(r'data-part="live">(.*?)</p>', static_html("gauge-counter", **given))[1])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "Press a part to see its cells."),
        ({"show": "gains", "norm": "RMSNorm", "biases": True}, "There are no parts to show."),
        ({"show": "gains"}, "Nothing here is redundant by this part: gains."),
        ({"show": "stream"}, "The skips give all 5 hidden states one basis. Any invertible matrix"),
        ({"show": "stream", "topology": "TA", "norm": "LayerNorm"}, "3 bases for 5 hidden states. Only rotations"),
        ({"show": "stream", "tied": True}, "Rotations only: 6 numbers for a basis."),
        ({"show": "stream", "queries": "identity"}, "Where W<sub>Q</sub> has to stay I"),
        ({"show": "heads", "positions": "RoPE"}, "RoPE leaves a turn and a scale"),
        ({"show": "biases", "biases": True, "positions": "RoPE"}, "the keys are turned, so it matters"),
        ({"show": "activation", "activation": "SwiGLU"}, "in W<sub>up</sub> and back in W<sub>down</sub>"),
    ],
)
def test_what_a_part_is(given, said):
    state = gauge_counter.check_state(**given)
    assert said in gauge_counter.about(gauge_counter.account(state), state["show"])


# --- the still ---


def test_the_still_shows_every_cell_once():
    html = static_html("gauge-counter", style=False, topology="T0", norm="LayerNorm", show="stream", activation="ReLU")
    found = account(topology="T0", norm="LayerNorm", activation="ReLU")
    squares = {
        name: sum(d.count("h8v8") for d in re.findall(f'<path class="{name}" d="([^"]*)"', html))
        for name in ("full", "pale", "lit", "open")
    }
    assert squares["full"] == found.dimension and squares["lit"] == found.parts["stream"] and not squares["open"]
    assert sum(squares.values()) == found.parameters
    digits = "".join(re.findall(r'<path class="digit" d="([^"]*)"', html))
    ones = sum(cell.isupper() for sheet in found.sheets for cell in sheet.cells)
    assert (digits.count("v4"), digits.count("a1 2 0 1 0 2 0")) == (ones, found.redundant - ones)
    assert json.loads(unescape(re.search(r'data-words="(.*?)"', html)[1])) == gauge_counter.WORDS


def test_the_bars_lead_from_all_parameters_to_the_dimension():
    found = account(topology="TA", activation="ReLU")
    html = gauge_counter_picture.bars(found, "all")
    rows = re.findall(r'data-part="row ([\w ]+)" style="--from:([\d.]+)%;--w:([\d.]+)%"( hidden)?.*?<b>(\d+)</b>', html)
    assert [row[0] for row in rows] == ["parameters", *freedom.PARTS, "dimension"]
    end = 100.0
    for _, start, width, hidden, size in rows[1:-1]:
        assert float(start) + float(width) == pytest.approx(end, abs=0.02) and bool(hidden) is (size == "0")
        assert float(width) == pytest.approx(100 * int(size) / found.parameters, abs=0.01)
        end = float(start)
    assert end == float(rows[-1][2]) and int(rows[-1][4]) == found.dimension


def test_a_matrix_that_is_no_parameter_is_named():
    html = static_html("gauge-counter", style=False, queries="identity")
    assert html.count('<path class="ghost"') == 2 and html.count('<i class="sq">W<sub>Q</sub></i> = I</p>') == 2
    assert static_html("gauge-counter", style=False, queries="shared").count("</i> as in layer 1</p>") == 1
    assert '<i class="">D</i> = Eᵀ</p>' in static_html("gauge-counter", style=False, tied=True)
    assert "<i>W<sub>gate</sub></i>, <i" in static_html("gauge-counter", style=False, activation="SwiGLU")


def test_gains_wait_for_a_norm():
    html = static_html("gauge-counter", style=False, gains=True)
    assert 'title="a norm is needed first"' in html and "264 parameters" in html
    assert "284 parameters" in static_html("gauge-counter", style=False, gains=True, norm="RMSNorm")


BAD = [
    ({"topology": "T1"}, "topology must be one of T0, TA, TM, T2, not 'T1'"),
    ({"layers": 4}, "layers must be one of 1, 2, 3, not 4"),
    ({"layers": True}, "layers must be one of 1, 2, 3, not True"),
    ({"biases": 1}, "biases must be True or False, not 1"),
    ({"show": "keys"}, "show must be one of all, stream"),
    ({"width": 4}, "unknown: width; the state has topology"),
]


@pytest.mark.parametrize(("given", "message"), BAD)
def test_a_bad_state_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        static_html("gauge-counter", **given)


def test_in_a_notebook():
    pytest.importorskip("anywidget")
    from traitlets import TraitError

    figure = widgets.GaugeCounter(topology="TA")
    expected = {**gauge_counter.DEFAULT, "topology": "TA"}
    assert {key: getattr(figure, key) for key in gauge_counter.DEFAULT} == expected
    assert figure._esm == bundle("gauge-counter") and figure.still == gauge_counter.still(expected)
    with pytest.raises(TraitError, match="norm must be one of"):
        figure.norm = "BatchNorm"
    assert figure.norm == "none"
