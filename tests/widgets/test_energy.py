"""The energy widget: its state, its still, and the arithmetic of the page against the package."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

from qkvtheory import energy as theory
from qkvtheory import widgets
from qkvtheory.widgets import bundle, energy, energy_picture, static_html

BAD = [
    ({"K": [[1.0, 0.0]] * 2}, r"K must be 3 to 6 rows of 2 finite numbers, not of shape \(2, 2\)"),
    ({"K": [[1.0, 0.0]] * 7}, "K must be 3 to 6 rows"),
    ({"K": [[1.0, 0.0, 0.0]] * 4}, r"not of shape \(4, 3\)"),
    ({"Q": []}, "Q must be 1 to 3 rows of 2 finite numbers"),
    ({"Q": [[1.0, 0.0], [2.5, 0.0]]}, "Q must have entries from -2 to 2; the largest here is 2.5"),
    ({"K": [[1.0, 0.0], [0.0, -3.0], [0.0, 0.0], [1.0, 1.0]]}, "K must have entries .* the largest here is 3"),
    ({"V": [[np.nan, 0.0]] * 4}, "V .* NaN or infinity"),
    ({"V": [["a", 0.0]] * 4}, "V must be 3 to 6 rows of 2 finite numbers"),
    ({"alpha": 0}, "alpha must be a number from 0.2 to 4.0, not 0"),
    ({"alpha": float("nan")}, "alpha must be a number"),
    ({"alpha": True}, "alpha must be a number"),
    ({"tied": 1}, "tied must be True or False, not 1"),
    ({"scale": 1.0}, "unknown: scale; the state has K, Q"),
]


@pytest.mark.parametrize(("given", "message"), BAD)
def test_a_bad_state_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        static_html("energy", **given)


def test_there_is_a_value_for_each_key():
    with pytest.raises(ValueError, match="V must have a row for each of the 4 keys, not 3 rows"):
        energy.check_state(V=[[1.0, 0.0]] * 3)
    for keys in ([[2.0, 2.0], [-2.0, 2.0], [0.0, -2.0]], [[0.0, 0.0]] * 6):
        state = energy.check_state(K=keys)
        assert len(state["V"]) == len(keys) and np.abs(state["V"]).max() <= 2
        assert energy.check_state(**state) == state
    assert energy.turned(energy.DEFAULT["K"]) == energy.DEFAULT["V"]


def states(count=120):
    """Random states of every kind, then equal keys, keys on a line, and the corners."""
    rng = np.random.default_rng(6)
    for seed in range(count):
        n, m = 3 + seed % 4, 1 + seed % 3
        rows = np.clip(rng.normal(size=(2 * n + m, 2)), -2, 2).round(2).tolist()
        alpha = round(float(rng.uniform(0.2, 4)), 1)
        given = {"K": rows[:n], "V": rows[n : 2 * n], "Q": rows[2 * n :], "alpha": alpha}
        yield energy.check_state(**given, tied=seed % 2 == 0)
    corners = [[2.0, 2.0], [-2.0, -2.0], [2.0, -2.0], [-2.0, 2.0]]
    for tied, alpha in itertools.product((True, False), (0.2, 2, 4)):
        yield energy.check_state(tied=tied, alpha=alpha)
        yield energy.check_state(K=[[1.0, 0.5]] * 4, Q=[[1.0, 0.5], [0.0, 0.0]], tied=tied, alpha=alpha)
        yield energy.check_state(K=[[0.0, 0.0]] * 3, Q=[[0.0, 0.0]], tied=tied, alpha=alpha)
        yield energy.check_state(K=[[-1.0, -0.5], [0.0, 0.0], [2.0, 1.0]], tied=tied, alpha=alpha)
        yield energy.check_state(K=corners, Q=[[2.0, -1.9], [0.3, 0.2]], tied=tied, alpha=alpha)


ALL = list(states())


def name_of(state):
    return f"{len(state['K'])}-{len(state['Q'])}-{state['alpha']}{'-tied' if state['tied'] else ''}"


# --- what the theory says, and the widget shows ---


@pytest.mark.parametrize("state", [s for s in ALL if s["tied"]], ids=name_of)
def test_with_keys_as_values_the_claims_hold(state):
    for d in energy.facts(state).descents:
        assert d.rises == [] and d.enough and d.symmetric
        assert (d.drops >= d.bounds - 1e-12).all() and min(d.eigenvalues) > -1e-12
        assert energy.verdicts(d)["first"][0] == energy.verdicts(d)["jacobian"][0] == "yes"
        assert d.eigenvalues == pytest.approx(sorted(np.linalg.eigvalsh(d.jacobian), reverse=True))


def test_what_the_hypothesis_forbids_is_found_without_it():
    """The pictures can show what they are there for."""
    others = [d for s in ALL if not s["tied"] for d in energy.facts(s).descents]
    assert sum(bool(d.rises) for d in others) > 30 and any(not d.rises for d in others)
    assert sum(not d.symmetric for d in others) > 60 and any(1 in d.rises for d in others)
    start = energy.facts(energy.check_state(tied=False)).descents
    assert all(d.rises and not d.enough and not d.symmetric for d in start)


@pytest.mark.parametrize("state", ALL, ids=name_of)
def test_every_read_out_lies_in_the_hull(state):
    f = energy.facts(state)
    corners = f.hull
    for d in f.descents:
        for point in d.path[1:]:
            for a, b in zip(corners, corners[1:] + corners[:1], strict=True):
                assert energy.turn(a, b, tuple(point)) > -1e-12
    assert {tuple(row) for row in f.values.tolist()} >= set(corners)


def test_the_facts_are_those_of_the_package():
    state = energy.check_state(tied=False)
    f = energy.facts(state)
    keys, values, q = (np.array(state[name]) for name in ("K", "V", "Q"))
    path = theory.descend(q, keys, values, 2.0, energy.STEPS)
    for i, d in enumerate(f.descents):
        np.testing.assert_allclose(d.path, path[:, i], atol=1e-12)
        np.testing.assert_allclose(d.energies, theory.energy(path[:, i], keys, 2.0), atol=1e-12)
        np.testing.assert_allclose(d.jacobian, theory.jacobian(q[i], keys, values, 2.0), atol=1e-13)


def test_a_query_at_rest_is_said_to_rest():
    state = energy.check_state(K=[[1.0, 0.5]] * 3, Q=[[1.0, 0.5], [0.0, 0.0]])
    f = energy.facts(state)
    assert [d.rests for d in f.descents] == [True, False]
    assert "Query 1 rests: reading again leaves it where it is." in energy.sentence(f)
    assert energy.verdicts(f.descents[0])["first"] == ("yes", "✓ at rest")


def test_values_that_are_the_keys_are_known_as_such():
    keys = energy.DEFAULT["K"]
    f = energy.facts(energy.check_state(V=keys, tied=False))
    assert "happens to be symmetric" in energy.sentence(f) and all(d.enough for d in f.descents)


# --- the page computes the same ---

WIDGET = "const w = await import(folder + 'energy.mjs');\n"


def growth(d, state):
    """How far the steps of a path may carry a rounding error of the first: the product of their stretchings."""
    keys = np.array(state["K"])
    values = keys if state["tied"] else np.array(state["V"])
    jacobians = theory.jacobian(d.path[:-1], keys, values, state["alpha"])
    return float(np.prod(1 + np.linalg.norm(jacobians, 2, axis=(1, 2))))


def test_the_page_computes_what_the_package_computes(node):
    script = """const result = data.map((state) => { const f = w.facts(state);
      return { ...f, said: w.sentence(f), verdicts: f.descents.map(w.verdicts) }; });"""
    plain = 0
    for state, got in zip(ALL, node(WIDGET + script, ALL), strict=True):
        f = energy.facts(state)
        assert [tuple(row) for row in got["hull"]] == f.hull
        for theirs, d in zip(got["descents"], f.descents, strict=True):
            limit = 1e-12 if growth(d, state) < 1000 else 1e-15 * growth(d, state)
            plain += limit == 1e-12
            for name in ("path", "energies", "drops", "bounds"):
                assert np.abs(np.array(theirs[name]) - getattr(d, name)).max() <= limit * 10, (name, name_of(state))
            assert np.abs(np.array(theirs["jacobian"]) - d.jacobian).max() <= 1e-12
            assert [theirs["rises"], theirs["enough"], theirs["rests"], theirs["symmetric"]] == [
                d.rises, d.enough, d.rests, d.symmetric,
            ]  # fmt: skip
        assert got["said"] == energy.sentence(f), name_of(state)
        assert [{k: tuple(v) for k, v in each.items()} for each in got["verdicts"]] == [
            energy.verdicts(d) for d in f.descents
        ]
    assert plain > 0.5 * sum(len(s["Q"]) for s in ALL)


def test_the_page_draws_the_same_landscape(node):
    """Tenths of a pixel: a rounding may tip one of a thousand numbers, by one."""
    some = ALL[::9]
    for state, got in zip(some, node(WIDGET + "const result = data.map(w.contours);", some), strict=True):
        assert got == energy_picture.contours(energy_picture.samples(state)), name_of(state)


def test_eigenvalues_of_symmetric_matrices(node):
    rng = np.random.default_rng(2)
    matrices = [a + a.T for a in rng.normal(size=(50, 2, 2))] + [np.eye(2), np.zeros((2, 2)), np.ones((2, 2))]
    got = node(WIDGET + "const result = data.map(w.eigenvalues2);", [a.tolist() for a in matrices])
    for a, values in zip(matrices, got, strict=True):
        assert np.abs(np.array(values) - np.linalg.eigvalsh(a)[::-1]).max() <= 1e-12


def test_the_bundle_is_one_module(node):
    code = bundle("energy")
    assert not re.search(r"^\s*import\b", code, re.M) and code.count("export default") == 1
    script = """const { writeFileSync, mkdtempSync, rmSync } = await import("node:fs");
    const { tmpdir } = await import("node:os");
    const at = mkdtempSync(tmpdir() + "/w"); writeFileSync(at + "/b.mjs", data.code);
    const one = await import("file://" + at + "/b.mjs"), two = await import(folder + "energy.mjs");
    rmSync(at, { recursive: true });
    const result = [one, two].map((m) => [Object.keys(m), m.facts(data.state)]);"""
    ours, theirs = node(script, {"code": code, "state": energy.check_state(tied=False)})
    assert ours == theirs


# --- the landscape ---


def inside(d, x, y):
    """Is a point, in pixels, within a region that is drawn as closed lines (nonzero winding)?"""
    winding = 0
    for start, steps in re.findall(r"M(-?\d+ -?\d+)l([^z]+)z", d):
        moves = np.array([start.split(), *np.array(steps.split()).reshape(-1, 2)], dtype=int)
        points = moves.cumsum(axis=0) / 10
        for (ax, ay), (bx, by) in zip(points, np.roll(points, -1, axis=0), strict=True):
            if (ay <= y) != (by <= y) and ax + (y - ay) / (by - ay) * (bx - ax) > x:
                winding += 1 if by > ay else -1
    return winding != 0


@pytest.mark.parametrize("state", ALL[:6], ids=name_of)
def test_the_ground_is_drawn_where_the_energy_is_below_the_level(state):
    mesh = energy_picture.samples(state)
    drawn = energy_picture.contours(mesh)
    rng = np.random.default_rng(0)
    seen = set()
    for x, y in rng.uniform(-150, 150, size=(40, 2)):
        e = theory.energy(np.array([x, -y]) / energy_picture.UNIT, np.array(state["K"]), state["alpha"]) - mesh.min()
        for level, d in zip(reversed(energy_picture.LEVELS), drawn, strict=True):
            if abs(e - level) > 0.05:  # linear interpolation between samples is not exact
                assert inside(d, x, y) is bool(e < level)
                seen.add(bool(e < level))
    assert seen == {True, False}


def test_a_region_with_a_hole_and_one_at_a_saddle():
    ring = np.pad(np.array([[0.0, 0.0, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 0.0]]), 1, constant_values=energy_picture.WALL)
    assert energy_picture.region(ring.tolist(), 1.0).count("M") == 2
    saddle = np.pad(np.array([[0.0, 9.0], [9.0, 0.0]]), 1, constant_values=energy_picture.WALL)
    assert energy_picture.region(saddle.tolist(), 1.0).count("M") == 2
    assert energy_picture.region(saddle.tolist(), -1.0) == ""


def test_names_in_the_chart_do_not_cover_each_other():
    assert energy_picture.spread([500, 500, 100]) == ["54.0", "66.0", "14.0"]
    assert energy_picture.spread([700, 650, 690]) == ["93.0", "69.0", "81.0"]


# --- the still ---


def shown(html, part):
    cells = re.search(f'data-part="{part}">(.*?)</div>', html)[1]
    return [float(v.replace("−", "-")) for v in re.findall(r">([^<]+)</span>", cells)]


def test_the_still_shows_what_the_package_computes():
    state = energy.check_state(alpha=1.3, tied=False)
    html = static_html("energy", style=False, **state)
    keys, values, q = (np.array(state[name]) for name in ("K", "V", "Q"))
    for i in (0, 1):
        expected = theory.jacobian(q[i], keys, values, 1.3)
        assert np.allclose(shown(html, f"jacobian {i}"), expected.ravel(), atol=0.006)
        track = re.search(f'data-part="track {i}" d="M([^"]+)"', html)[1].split("L")
        path = theory.descend(q[i], keys, values, 1.3, energy.STEPS) * energy_picture.UNIT * 10
        assert np.allclose([[int(v) for v in p.split()] for p in track], path * [1, -1], atol=0.51)
    assert (
        '<b data-part="size">1.3</b>' in html
        and '<b data-part="term size">1.3</b>' in html
        and 'data-tied="false"' in html
    )


@pytest.mark.parametrize("tied", [True, False])
def test_the_still_says_which_hypothesis_is_on(tied):
    html = static_html("energy", style=False, tied=tied)
    seen = re.findall(r'data-part="tag \w+ \d" data-state="(\w+)"', html)
    assert seen == ["yes" if tied else "no"] * 4
    assert ('data-part="tied" checked' in html) is tied
    for name in ("of", "term", "bars"):
        assert (f'data-part="{name} tied" hidden' in html) is not tied
        assert (f'data-part="{name} untied" hidden' in html) is tied
    assert ('data-part="climb 0" d=""' in html) is tied and ('data-part="bound 0" d=""' in html) is not tied
    assert ("no step raises the energy" in html) is tied and ("by up to" in html) is not tied


# --- in a notebook ---


@pytest.fixture
def figure():
    pytest.importorskip("anywidget")
    return widgets.Energy(tied=False, alpha=1)


def test_the_notebook_widget_holds_the_state(figure):
    expected = {**energy.DEFAULT, "tied": False, "alpha": 1.0}
    assert {key: getattr(figure, key) for key in energy.DEFAULT} == expected
    assert figure.still == energy.still(energy.check_state(tied=False, alpha=1))
    assert figure._esm == bundle("energy")
    figure.tied = True
    data, _ = figure._repr_mimebundle_()
    assert data["text/html"] == static_html("energy", alpha=1)


@pytest.mark.parametrize(("given", "message"), BAD[:-1])
def test_the_notebook_widget_refuses_too(figure, given, message):
    from traitlets import TraitError

    with pytest.raises(TraitError, match=message):
        widgets.Energy(**given)
    [(name, value)] = given.items()
    old = getattr(figure, name)
    if value is True or name == "tied":
        return  # traitlets itself turns True into 1.0, and 1 into an error or into True
    with pytest.raises(TraitError):
        setattr(figure, name, value)
    assert getattr(figure, name) == old


def test_the_number_of_points_is_fixed_and_need_not_be_the_default():
    pytest.importorskip("anywidget")
    from traitlets import TraitError

    six = widgets.Energy(K=[[1.0, float(i) / 4] for i in range(6)], Q=[[0.0, 0.0]])
    six.K = [[0.5, float(i) / 4] for i in range(6)]
    assert six.K[0] == [0.5, 0.0] and len(six.V) == 6
    with pytest.raises(TraitError, match="made for 6 K, not 5"):
        six.K = six.K[:5]
    with pytest.raises(TraitError, match="made for 1 Q, not 2"):
        six.Q = [[1.0, 1.0]] * 2
