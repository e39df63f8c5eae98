"""The asymmetry widget: its state, its still, and the arithmetic of the page against the package."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

from qkvtheory import widgets
from qkvtheory.attention import Heads
from qkvtheory.symmetric import cycle_affinity, is_reversible, pair_sums, stationary_law
from qkvtheory.widgets import asymmetry, bundle, static_html

BAD = [
    ({"tokens": [[1.0, 0.0]] * 2}, r"tokens must be 3 to 6 rows of 2 finite numbers, not of shape \(2, 2\)"),
    ({"tokens": [[1.0, 0.0]] * 7}, "tokens must be 3 to 6 rows"),
    (
        {"tokens": [[1.0, 0.0], [0.0, 1.0], [2.5, 0.0]]},
        "tokens must have entries from -2 to 2; the largest here is 2.5",
    ),
    ({"W_Q": [[1.0, 0.0], [0.0, -3.0]]}, "W_Q must have entries from -2 to 2; the largest here is 3"),
    ({"W_K": [[np.nan, 0.0], [0.0, 1.0]]}, "W_K .* NaN or infinity"),
    ({"mode": "k=v"}, "mode must be one of q=k, qkv, not 'k=v'"),
    ({"correction": "alibi"}, "correction must be one of none, key-bias, rope, linear, cubic, not 'alibi'"),
    ({"temperature": 3.5}, "temperature must be a number from -3 to 3, not 3.5"),
    ({"temperature": float("nan")}, "temperature must be a number"),
    ({"temperature": True}, "temperature must be a number"),
    ({"causal": 1}, "causal must be True or False, not 1"),
    ({"mask": True}, "unknown: mask; the state has tokens, mode"),
]


@pytest.mark.parametrize(("given", "message"), BAD)
def test_a_bad_state_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        static_html("asymmetry", **given)


# Zero is an eigenvalue of these maps several times, with fewer eigenvectors: rounding moves it by 1e-9, also off the
# real axis, and as it likes.
NEARLY_DEFECTIVE = [
    {
        "tokens": [[0.5, -0.5], [1.5, -0.5], [1.0, 1.0], [-2.0, -1.0], [0.0, 0.0]],
        "W_Q": [[2.0, 0.0], [-1.0, -2.0]], "W_K": [[1.0, 1.0], [1.0, 1.0]], "temperature": 3,
    },
    {
        "tokens": [[0.5, 1.5], [0.5, 0.5], [-1.5, 0.0], [2.0, -1.0], [-2.0, -0.5]],
        "W_Q": [[-1.0, 2.0], [1.0, -1.0]], "W_K": [[-2.0, 1.0], [-1.0, 2.0]], "temperature": 3,
    },
    {
        "tokens": [[1.0, -0.5], [-1.0, -1.0], [1.5, 2.0], [2.0, 2.0], [-1.0, 1.5]],
        "W_Q": [[0.0, 0.0], [-1.0, 1.0]], "W_K": [[0.0, -2.0], [1.0, 1.0]], "temperature": -3,
    },
]  # fmt: skip


@pytest.mark.parametrize("given", NEARLY_DEFECTIVE)
def test_rounding_is_never_taken_for_a_complex_eigenvalue(given):
    """The order of the tokens changes the rounding, and nothing else: the verdict must stay."""
    f = asymmetry.facts(asymmetry.check_state(mode="qkv", **given))
    orders = [np.random.default_rng(seed).permutation(5) for seed in range(40)]
    values = [np.linalg.eigvals(f.map[np.ix_(order, order)]) for order in orders]
    scattered = [max(abs(v.imag)) for v in values]
    assert max(scattered) > 64 * asymmetry.EPS64, "eps alone would not do"
    assert max(scattered) < f.blur and f.complex == 0


def states(count=150):
    """Random states of every kind, from 3 to 6 tokens; the last ones with equal tokens and at the limits."""
    rng = np.random.default_rng(5)
    kinds = itertools.cycle(itertools.product(asymmetry.MODES, asymmetry.CORRECTIONS, (False, False, True)))
    for seed, (mode, correction, causal) in zip(range(count), kinds, strict=False):
        given = {
            "tokens": np.clip(rng.normal(size=(3 + seed % 4, 2)), -2, 2).round(2).tolist(),
            "temperature": round(float(rng.uniform(-3, 3)), 1),
            "mode": mode, "correction": correction, "causal": causal,
        }  # fmt: skip
        if seed % 3:
            given |= {name: np.clip(rng.normal(size=(2, 2)), -1.2, 1.2).tolist() for name in ("W_Q", "W_K")}
        yield asymmetry.check_state(**given)
    yield asymmetry.check_state(tokens=[[1.0, 0.5]] * 4)
    yield asymmetry.check_state(tokens=[[0.0, 0.0]] * 6, mode="qkv")
    yield asymmetry.check_state(temperature=0)
    yield asymmetry.check_state(temperature=3, tokens=[[2.0, 2.0], [-2.0, -2.0], [2.0, -2.0], [-2.0, 2.0]], mode="qkv")
    # Maps of low rank that are not reversible: zero is a multiple eigenvalue, and QR steps scatter it.
    corners = [[2.0, -2.0], [-2.0, 2.0], [2.0, 2.0], [-2.0, -2.0], [2.0, -1.9], [-2.0, 1.9]]
    turned = {"W_Q": [[-2.0, 2.0], [-2.0, -2.0]], "W_K": [[2.0, 2.0], [-2.0, 2.0]], "mode": "qkv"}
    yield from (asymmetry.check_state(tokens=corners, temperature=t, **turned) for t in (-3, -1, 1, 3))
    yield from (asymmetry.check_state(mode="qkv", **given) for given in NEARLY_DEFECTIVE)
    for mode, temperature in itertools.product(asymmetry.MODES, (3, -3)):  # attention of 1e-236
        ends = {"W_Q": [[-2.0, -2.0], [-2.0, -2.0]], "W_K": [[2.0, 2.0], [2.0, 2.0]]}
        corners = [[2.0, 2.0], [-2.0, -2.0], [2.0, 1.9], [0.0, 0.0]]
        yield asymmetry.check_state(tokens=corners, mode=mode, temperature=temperature, **ends)


ALL = list(states())


def name_of(state):
    mask = "-causal" if state["causal"] else ""
    return f"{state['mode']}-{state['correction']}-{state['temperature']}-{len(state['tokens'])}{mask}"


# --- what the package knows, and the widget shows ---


@pytest.mark.parametrize("state", [s for s in ALL if not s["causal"]], ids=name_of)
def test_the_facts_are_those_of_the_package(state):
    f = asymmetry.facts(state)
    assert np.allclose(f.map.sum(axis=1), 1) and f.eigenvalues[0] == pytest.approx((1, 0), abs=1e-12)
    assert abs(f.strongest[1]) == pytest.approx(cycle_affinity(f.map), abs=1e-12)
    assert sum(f.largest[1:]) == pytest.approx(pair_sums(f.map).max(), abs=1e-15)
    assert f.reversible is is_reversible(f.map)
    law = stationary_law(f.map)
    assert np.allclose(f.flow, law[:, None] * f.map - (law[:, None] * f.map).T)
    assert np.abs(f.flow.sum(axis=1)).max() < 1e-12  # what flows in flows out


@pytest.mark.parametrize("state", [s for s in ALL if s["mode"] == "q=k" and not s["causal"]], ids=name_of)
def test_with_queries_equal_to_keys_the_theorems_hold(state):
    f = asymmetry.facts(state)
    assert f.reversible is (state["correction"] != "cubic")
    assert f.symmetric_scores is (state["correction"] in ("none", "rope"))
    if state["temperature"] >= 0:
        assert not any(asymmetry.crosses(a, b) for _, a, b in f.pairs)
        assert f.inside or state["correction"] == "cubic"


def test_what_queries_equal_to_keys_forbid_is_found_elsewhere():
    """The pictures can show what they are there for."""
    others = [asymmetry.facts(s) for s in ALL if s["mode"] == "qkv" and not s["causal"] and s["temperature"] > 0.3]
    below = [asymmetry.facts(s) for s in ALL if s["mode"] == "q=k" and not s["causal"] and s["temperature"] < -0.3]
    assert any(f.complex for f in others) and not any(f.complex for f in below if f.reversible)
    assert any(asymmetry.crosses(*f.largest[1:]) for f in others)
    assert any(asymmetry.crosses(*f.largest[1:]) for f in below)
    assert any(not f.inside and not f.complex for f in below)
    start = [asymmetry.facts(asymmetry.check_state(mode=mode)) for mode in asymmetry.MODES]
    assert [f.reversible for f in start] == [True, False] and [f.complex for f in start] == [0, 2]
    assert [asymmetry.crosses(*f.largest[1:]) for f in start] == [False, True]


def test_a_relative_bias_shows_the_odd_part_it_has():
    """Theory: the affinity of i, j, k is beta(j - i) + beta(k - j) - beta(k - i) with beta(t) = b(t) - b(-t)."""
    f = asymmetry.facts(asymmetry.check_state(correction="cubic"))
    for (i, j, k), size in f.cycles:
        beta = [2 * asymmetry.CUBIC * t**3 for t in (j - i, k - j, k - i)]
        assert size == pytest.approx(beta[0] + beta[1] - beta[2], abs=1e-12)
    assert all(size < 0 for _, size in f.cycles)


# --- the page computes the same ---

WIDGET = "const w = await import(folder + 'asymmetry.mjs'); const m = await import(folder + 'qkv.mjs');\n"


def test_the_page_computes_what_the_package_computes(node):
    script = """const result = data.map((state) => { const f = w.facts(state);
      return { ...f, cycles: f.cycles.map(([at, x]) => [at, Number.isNaN(x) ? null : x]),
               said: w.sentence(f), verdicts: w.verdicts(f) }; });"""
    for state, got in zip(ALL, node(WIDGET + script, ALL), strict=True):
        f = asymmetry.facts(state)
        size = 1 + np.abs(f.scores).max()
        for name in ("scores", "map", "skew"):
            assert np.abs(np.array(got[name]) - getattr(f, name)).max() <= 1e-12 * (size if name == "scores" else 1)
        assert [at for at, _ in got["cycles"]] == [list(at) for at, _ in f.cycles]
        if not state["causal"]:
            assert np.abs(np.array(got["flow"]) - f.flow).max() <= 1e-12
            differences = [abs(x - y) for (_, x), (_, y) in zip(got["cycles"], f.cycles, strict=True)]
            assert max(differences) <= 1e-12 * size
        else:
            assert all(x is None for _, x in got["cycles"]) and got["flow"] is None
        near = matched(got["eigenvalues"], [complex(*value) for value in f.eigenvalues])
        # Other maps may be next to one without a basis of eigenvectors, where eps moves an eigenvalue by more than eps.
        assert near <= (1e-12 if state["causal"] or f.reversible else 1e-14 * np.linalg.cond(np.linalg.eig(f.map)[1]))
        assert [pair[0] for pair in got["pairs"]] == [list(at) for at, _, _ in f.pairs]
        assert got["said"] == asymmetry.sentence(f), name_of(state)
        assert {k: tuple(v) for k, v in got["verdicts"].items()} == asymmetry.verdicts(f), name_of(state)


def matched(got, expected):
    """The largest distance between the two sets of eigenvalues, matched greedily."""
    left, worst = [complex(x, y) for x, y in got], 0.0
    for value in expected:
        nearest = min(left, key=lambda z: abs(z - value))
        worst = max(worst, abs(nearest - value))
        left.remove(nearest)
    assert left == []
    return worst


def test_eigenvalues_are_those_of_numpy(node):
    """An eigenvalue is known to eps times the norm times its own condition number, so that is what is asked for."""
    rng = np.random.default_rng(3)
    matrices = [rng.normal(size=(n, n)) for n in range(1, 9) for _ in range(40)]
    maps = [rng.exponential(size=(n, n)) ** 3 for n in range(2, 7) for _ in range(40)]
    matrices += [a / a.sum(axis=1, keepdims=True) for a in maps]
    matrices += [a + a.T for a in matrices[:200]]
    got = node(WIDGET + "const result = data.map(m.eigenvalues);", [a.tolist() for a in matrices])
    separated = 0
    for a, values in zip(matrices, got, strict=True):
        expected, vectors = np.linalg.eig(a)
        kappa = np.linalg.cond(vectors)
        norm = max(1.0, np.linalg.norm(a))
        assert matched(values, expected) <= 1e-14 * kappa * norm
        if kappa < 50:
            separated += 1
            assert matched(values, expected) <= 1e-12 * norm
        assert values == sorted(values, key=lambda v: (-np.floor(1e9 * v[0] + 0.5), v[1]))
    assert separated > 0.8 * len(matrices)


def test_eigenvalues_of_matrices_that_are_hard_for_qr_steps(node):
    shifts = [np.roll(np.eye(n), 1, axis=1) for n in range(2, 8)]
    blocks = [np.kron(np.eye(2), shifts[1]), np.zeros((4, 4)), np.full((6, 6), 1 / 6), np.diag([3.0, 3.0, 1.0])]
    swap = np.eye(6)[[1, 0, 3, 2, 5, 4]]
    matrices = [*shifts, *blocks, swap, 0.999 * shifts[4] + 0.001 / 6]
    got = node(WIDGET + "const result = data.map(m.eigenvalues);", [a.tolist() for a in matrices])
    for a, values in zip(matrices, got, strict=True):
        assert matched(values, np.linalg.eigvals(a)) <= 1e-12
    refused = node(
        WIDGET + "let result; try { m.eigenvalues([[NaN, 1, 1], [1, NaN, 1], [1, 1, 1]]); } catch (e) "
        "{ result = e.constructor.name; }", None,
    )  # fmt: skip
    assert refused == "RangeError"


def test_stationary_law_and_rotations(node):
    rng = np.random.default_rng(4)
    maps = [a / a.sum(axis=1, keepdims=True) for n in range(2, 7) for a in rng.exponential(size=(20, n, n)) ** 5]
    got = node(WIDGET + "const result = data.map(m.stationary);", [a.tolist() for a in maps])
    for a, law in zip(maps, got, strict=True):
        assert np.abs(np.array(law) / stationary_law(a) - 1).max() <= 1e-12
    q = rng.normal(size=(5, 2))
    turned = np.array(node(WIDGET + "const result = m.rope(data);", q.tolist()))
    assert np.abs(turned - asymmetry.rope(5, 2)(q[None])[0]).max() <= 1e-12


def test_the_bundle_is_one_module(node):
    code = bundle("asymmetry")
    assert not re.search(r"^\s*import\b", code, re.M) and code.count("export default") == 1
    script = """const { writeFileSync, mkdtempSync, rmSync } = await import("node:fs");
    const { tmpdir } = await import("node:os");
    const at = mkdtempSync(tmpdir() + "/w"); writeFileSync(at + "/b.mjs", data.code);
    const one = await import("file://" + at + "/b.mjs"), two = await import(folder + "asymmetry.mjs");
    rmSync(at, { recursive: true });
    const result = [one, two].map((m) => [Object.keys(m), m.facts(data.state)]);"""
    ours, theirs = node(script, {"code": code, "state": asymmetry.check_state(mode="qkv")})
    assert ours == theirs


# --- the still ---


def shown(html, part):
    cells = re.search(f'data-part="{part}">(.*?)</div>', html)[1]
    return [float(v.replace("−", "-")) for v in re.findall(r">([^<]+)</span>", cells)]


def test_the_still_shows_what_the_package_computes():
    state = asymmetry.check_state(mode="qkv", temperature=0.7)
    html = static_html("asymmetry", **state)
    assert '<i>s</i> = <b data-part="size">0.7</b>' in html and '<i>s</i> = <b data-part="term size">0.7</b>' in html
    assert ">temperature" not in html
    x = np.array(state["tokens"])
    core = Heads(1, scale=0.7 / np.sqrt(2))
    scores = core.scores(x @ np.array(state["W_Q"]), x @ np.array(state["W_K"]))[0]
    weights = np.exp(scores)
    assert np.allclose(shown(html, "scores"), scores.ravel(), atol=0.006)
    assert np.allclose(shown(html, "map"), (weights / weights.sum(axis=1, keepdims=True)).ravel(), atol=0.006)


def test_corrections_that_change_the_map_and_not_its_balance():
    """A key bias and a linear relative bias stay reversible, a cubic one does not; RoPE leaves the scores symmetric."""
    for correction, scores, cycles in (
        ("none", "yes", "yes"),
        ("key-bias", "no", "yes"),
        ("rope", "yes", "yes"),
        ("linear", "no", "yes"),
        ("cubic", "no", "no"),
    ):
        html = static_html("asymmetry", style=False, correction=correction)
        seen = dict(re.findall(r'data-part="tag (\w+)" data-state="(\w+)"', html))
        assert (seen["scores"], seen["cycles"]) == (scores, cycles), correction
        turns = set(re.findall(r'data-turn="(\w+)"', html))
        assert turns == ({"balanced"} if cycles == "yes" else {"back"})
        assert ('class="flow" data-part="flow 0 1" d=""' in html) is (cycles == "yes")


def test_a_causal_map_has_no_way_back():
    html = static_html("asymmetry", style=False, mode="qkv", correction="rope", causal=True)
    assert set(re.findall(r'data-turn="(\w+)"', html)) == {"none"}
    assert html.count('class="masked"') == 2 * 6  # scores and map, above the diagonal
    assert 'data-part="tag pairs" data-state="none"><b>– one-sided: the bound says nothing here</b>' in html
    assert set(re.findall(r'data-part="pair \d \d" data-state="(\w+)"', html)) == {"none"}
    assert "The map is not reversible: no round has a way back, and so no cycle affinity." in html
    assert "<td>none</td>" in html and "before the mask the scores are not symmetric" in html
    assert "before the mask the scores are symmetric" in static_html("asymmetry", correction="rope", causal=True)


def test_rounding_is_never_taken_for_a_direction():
    """Scores of thirty and more, at both ends of the scale: the verdicts of Q = K stay."""
    rng = np.random.default_rng(8)
    for seed in range(60):
        tokens = (2 * rng.uniform(-1, 1, size=(6, 2))).tolist()
        kind = ("none", "key-bias", "rope", "linear")[seed % 4]
        f = asymmetry.facts(
            asymmetry.check_state(
                tokens=tokens, correction=kind, temperature=(3, -3)[seed % 2], W_K=[[2.0, 1.0], [-1.0, 2.0]]
            )
        )
        assert f.reversible, (seed, f.strongest, f.tolerance)
        assert not f.complex
        assert 0 < f.tolerance < 1e-11


# --- in a notebook ---


@pytest.fixture
def figure():
    pytest.importorskip("anywidget")
    return widgets.Asymmetry(mode="qkv", temperature=-1)


def test_the_notebook_widget_holds_the_state(figure):
    expected = {**asymmetry.DEFAULT, "mode": "qkv", "temperature": -1.0}
    assert {key: getattr(figure, key) for key in asymmetry.DEFAULT} == expected
    assert figure.still == asymmetry.still(asymmetry.check_state(mode="qkv", temperature=-1))
    assert figure._esm == bundle("asymmetry")
    figure.correction = "rope"
    data, _ = figure._repr_mimebundle_()
    assert data["text/html"] == static_html("asymmetry", mode="qkv", temperature=-1, correction="rope")


@pytest.mark.parametrize(("given", "message"), BAD[:-1])
def test_the_notebook_widget_refuses_too(figure, given, message):
    from traitlets import TraitError

    with pytest.raises(TraitError, match=message):
        widgets.Asymmetry(**given)
    [(name, value)] = given.items()
    old = getattr(figure, name)
    if name in ("causal", "temperature") and isinstance(value, bool | int):
        return  # traitlets itself turns 1 into an error or into True
    with pytest.raises(TraitError):
        setattr(figure, name, value)
    assert getattr(figure, name) == old


def test_the_number_of_tokens_is_fixed(figure):
    from traitlets import TraitError

    with pytest.raises(TraitError, match="made for 4 tokens, not 5"):
        figure.tokens = [[1.0, 1.0]] * 5
