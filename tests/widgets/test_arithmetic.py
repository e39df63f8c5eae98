"""The arithmetic of the pages (qkv.mjs, basis_change.mjs) against NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest

from qkvtheory import energy
from qkvtheory.attention import Heads, causal
from qkvtheory.widgets import basis_change, bundle, cache, text

IMPORT = "const m = await import(folder + 'qkv.mjs');\n"
WIDGET = "const w = await import(folder + 'basis_change.mjs'); const m = await import(folder + 'qkv.mjs');\n"
CACHE = "const c = await import(folder + 'cache.mjs');\n"


def close(got, expected, tolerance=1e-12):
    got, expected = np.array(got, dtype=float), np.asarray(expected, dtype=float)
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= tolerance * np.abs(expected).max()


def random(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape) for shape in shapes]


def lists(*arrays):
    return [a.tolist() for a in arrays]


@pytest.mark.parametrize("sizes", [(1, 1, 1), (3, 2, 2), (4, 2, 5), (7, 16, 3)])
def test_products(node, sizes):
    n, d, p = sizes
    a, b = random(n, (n, d), (d, p))
    product, flipped, largest = node(
        IMPORT + "const [a, b] = data; const result = [m.matmul(a, b), m.transpose(a), m.maxAbs(a)];", lists(a, b)
    )
    close(product, a @ b)
    assert np.array_equal(flipped, a.T) and largest == np.abs(a).max()


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_inverse(node, size):
    matrices = []
    for seed in range(8):
        u, _, v = np.linalg.svd(*random(seed, (size, size)))
        matrices.append(u @ np.diag(np.geomspace(1, 50, size)) @ v)
    for got, a in zip(
        node(IMPORT + "const result = data.map((a) => m.inverse(a));", lists(*matrices)), matrices, strict=True
    ):
        close(got, np.linalg.inv(a))


def test_inverse_pivots_and_refuses(node):
    script = (
        "const result = data.map((a) => { try { return m.inverse(a); } catch (e) { return e.constructor.name; } });"
    )
    got = node(IMPORT + script, [[[0, 2], [1, 0]], [[1, 2], [2, 4]], [[0, 0], [0, 0]]])
    assert got == [[[0, 1], [0.5, 0]], "RangeError", "RangeError"]


def test_condition_number(node):
    matrices = [a for seed in range(30) if np.linalg.cond(a := random(seed, (2, 2))[0]) < 100]
    assert len(matrices) > 20
    got = node(IMPORT + "const result = data.map(m.cond2);", lists(*matrices, np.ones((2, 2))))
    close(got[:-1], [np.linalg.cond(a) for a in matrices])
    close([basis_change.cond2(a) for a in matrices], [np.linalg.cond(a) for a in matrices])
    assert got[-1] == "Infinity" and basis_change.cond2(np.ones((2, 2))) == math.inf


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("sizes", [(3, 2), (4, 2), (9, 8)])
def test_attention(node, sizes, mask):
    n, d = sizes
    q, k, v = random(n, (n, d), (n, d), (n, d))
    keep = causal(n) if mask else None
    core = Heads(1, mask=keep)
    got = node(IMPORT + "const [q, k, v, mask] = data; const result = m.attention(q, k, v, mask);",
               [*lists(q, k, v), keep.tolist() if mask else None])  # fmt: skip
    close(got["scores"], core.scores(q, k)[0])
    close(got["pattern"], core.maps(q, k)[0])
    close(got["output"], core(q, k, v))


def test_softmax_of_large_scores_and_of_a_row_without_entries(node):
    got = node(IMPORT + "const result = m.softmaxRows([[1e4, 0], [5, 6]], [[true, true], [false, false]]);", None)
    assert got == [[1, 0], [0, 0]]


def single_matmul(a, b):
    """float32, every sum from left to right: the order of qkv.mjs."""
    total = a[:, :1] * b[:1]
    for k in range(1, a.shape[1]):
        total = total + a[:, k : k + 1] * b[k : k + 1]
    return total


def single_inverse(a):
    rows = np.concatenate([a, np.eye(len(a), dtype=a.dtype)], axis=1)
    for c in range(len(a)):
        p = c + int(np.abs(rows[c:, c]).argmax())
        rows[[c, p]] = rows[[p, c]]
        rows[c] = rows[c] / rows[c, c]
        for i in range(len(a)):
            if i != c:
                rows[i] = rows[i] - rows[i, c] * rows[c]
    return rows[:, len(a) :]


def test_float32_is_numpy_float32_bit_for_bit(node):
    script = """const f = m.float32, result = data.map(([x, t, q, k]) => {
      const y = m.matmul(x, t, f), back = m.inverse(t, f);
      return m.scores(m.matmul(y, m.matmul(back, q, f), f), m.matmul(y, m.matmul(back, k, f), f), f); });"""
    cases = []
    for seed in range(40):
        cases.append([a.astype(np.float32) for a in random(seed, (4, 2), (2, 2), (2, 2), (2, 2))])
        cases.append([a.astype(np.float32) for a in random(seed, (4, 5), (5, 5), (5, 3), (5, 3))])
    for got, (x, t, q, k) in zip(node(IMPORT + script, [lists(*case) for case in cases]), cases, strict=True):
        y, back = single_matmul(x, t), single_inverse(t)
        q, k = single_matmul(y, single_matmul(back, q)), single_matmul(y, single_matmul(back, k))
        expected = single_matmul(q, k.T) / np.sqrt(np.float32(k.shape[1]))
        assert expected.dtype == np.float32
        assert np.array_equal(np.array(got), expected.astype(np.float64))


STATES = [
    {},
    {"forget_k": True},
    {"forget_v": True},
    {"forget_k": True, "forget_v": True, "squeeze": 3.0},
    {
        "tokens": [[1.2, 0.4], [-0.5, 1.1], [-0.9, -0.8], [0.3, 0.2]],
        "theta": [[-0.3, 0.6], [-1.1, 0.25]],
        "squeeze": 1.5,
    },
]


@pytest.mark.parametrize("given", STATES)
def test_the_page_computes_what_the_package_computes(node, given):
    state = basis_change.check_state(**given)
    theta = basis_change.squeezed(np.array(state["theta"]), state["squeeze"])
    cond = basis_change.cond2(theta)
    got = node(
        WIDGET
        + """const theta = w.squeezed(data.theta, data.squeeze), cond = m.cond2(theta);
        const a = w.after(data, theta), b = w.before(data);
        const names = ["scores", "pattern", "output"];
        const result = { theta, cond, a, b, verdicts: names.map((k) => w.verdict(a[k], b[k], cond)),
          e32: w.error(data, theta, m.float32), e64: w.error(data, theta, m.float64) };""",
        state,
    )
    close(got["theta"], theta)
    close(got["cond"], cond, 1e-15 * cond + 1e-12)
    reference, after = basis_change.run(*basis_change.before(state)), basis_change.after(state, theta)
    for name in ("W_Q", "W_K", "W_V", "scores", "pattern", "output"):
        close(got["b"][name], reference[name])
        close(got["a"][name], after[name], 1e-12 + 1e-15 * cond)
    assert got["verdicts"] == [basis_change.verdict(after[n], reference[n], cond) for n in basis_change.NAMES]
    forgot = state["forget_k"] or state["forget_v"]
    assert got["verdicts"] == ["moves" if state["forget_k"] else "stays"] * 2 + ["moves" if forgot else "stays"]
    assert (got["e64"] > 0.1) is forgot and (got["e64"] < 64 * basis_change.EPS64 * cond) is not forgot
    assert (got["e32"] > 0.1) is forgot and (got["e32"] < 64 * basis_change.EPS32 * cond) is not forgot


def test_near_singular_is_not_judged(node):
    state = basis_change.check_state(squeeze=10)
    script = """const t = w.squeezed(data.theta, data.squeeze), c = m.cond2(t);
        const a = w.after(data, t), b = w.before(data);
        const result = [c, w.verdict(a.scores, b.scores, c), w.error(data, t, m.float32)];"""
    cond, judged, single = node(WIDGET + script, state)
    assert cond > 1e9 and judged == "blurred"
    assert single == "Infinity" or single > 0.01


def test_squeeze_never_loses_theta_altogether(node):
    state = basis_change.check_state(theta=[[1.0, 0.5], [1.0, 0.5 + 1e-9]], squeeze=12)
    cond = node(WIDGET + "const result = m.cond2(w.squeezed(data.theta, data.squeeze));", state)
    assert 1e11 < cond < 1e14
    assert 1e11 < basis_change.cond2(basis_change.squeezed(np.array(state["theta"]), 12)) < 1e14


def test_numbers_are_written_alike(node):
    rng = np.random.default_rng(1)
    values = [0.0, 0.125, -0.125, 0.005, -0.004, 99.994, 99.996, 9999.4, 9999.6, -1.5e12, 1e-16, 0.1, 999.0, 1000.0]
    values += (rng.normal(size=200) * 10.0 ** rng.integers(-17, 14, size=200)).tolist()
    values += [9.994, 9.996, 99.94, 99.96, -12.345]
    script = "const read = (x) => w.reading(Math.abs(x), 32), all = [...data, Infinity];"
    script += "const result = [data.map(m.num), data.map((x) => m.sci(Math.abs(x))), all.map(read)];"
    numbers, powers, readings = node(WIDGET + script, values)
    assert readings == [basis_change.reading(abs(x), "32") for x in [*values, math.inf]]
    assert "no inverse in float32" in readings[-1] and readings[:-1] == powers
    assert max(map(len, numbers)) == 5
    assert numbers == [text.num(x) for x in values]
    assert powers == [text.sci(abs(x)) for x in values]


def test_the_bundle_is_the_same_module(node):
    script = """const { writeFileSync, mkdtempSync, rmSync } = await import("node:fs");
    const { tmpdir } = await import("node:os");
    const at = mkdtempSync(tmpdir() + "/w"); writeFileSync(at + "/b.mjs", data.code);
    const one = await import("file://" + at + "/b.mjs"), two = await import(folder + "basis_change.mjs");
    rmSync(at, { recursive: true });
    const keys = [one, two, one.default].map((m) => Object.keys(m));
    const result = [...keys, ...[one, two].map((m) => m.after(data.state, data.state.theta))];"""
    ours, theirs, face, one, two = node(script, {"code": bundle("basis-change"), "state": basis_change.check_state()})
    assert ours == theirs and face == ["render"] and one == two


# --- reading: a query among keys ---


@pytest.mark.parametrize("sizes", [(1, 2), (4, 2), (6, 2), (5, 7)])
def test_read_out_energy_and_jacobian(node, sizes):
    n, d = sizes
    script = """const result = data.map(([q, keys, values, scale]) => [m.readOut(q, keys, values, scale),
      m.energy(q, keys, scale), m.jacobian(q, keys, values, scale)]);"""
    cases = []
    for seed in range(20):
        q, keys, values = random(seed, (d,), (n, d), (n, d))
        cases.append((q, keys, values if seed % 2 else keys, 0.2 + 0.2 * seed))
    for (read, e, jacobian), case in zip(
        node(IMPORT + script, [[*lists(*case[:3]), case[3]] for case in cases]), cases, strict=True
    ):
        q, keys, values, scale = case
        close(read, energy.read_out(q, keys, values, scale))
        assert abs(e - energy.energy(q, keys, scale)) <= 1e-12 * (1 + abs(e))
        expected = energy.jacobian(q, keys, values, scale)
        assert np.abs(np.array(jacobian) - expected).max() <= 1e-12 * (1 + np.abs(expected).max())


def test_reading_again_and_again(node):
    script = "const result = data.map(([q, keys, values]) => m.descend(q, keys, values, 1, 6));"
    cases = [random(seed, (3,), (5, 3), (5, 3)) for seed in range(20)]
    for got, (q, keys, values) in zip(node(IMPORT + script, [lists(*case) for case in cases]), cases, strict=True):
        assert len(got) == 7
        close(got, energy.descend(q, keys, values, 1.0, 6))


def test_the_energy_of_large_scores(node):
    got = node(IMPORT + "const result = [m.energy([300, 0], data, 4), ...m.readOut([300, 0], data, data, 4)];",
               [[5, 1], [-5, 0]])  # fmt: skip
    assert got == [300**2 / 2 - 1500, 5, 1]


# --- cache.mjs: bytes are integers, and so is every digit of what is written ---


def byte_sizes():
    rng = np.random.default_rng(11)
    ends = [base**k + by for base in (1000, 1024) for k in range(1, 6) for by in (-1, 0, 1)]
    ties = [995, 9995, 99950, 999500, 10**6 + 5 * 10**3, 5 * 2**17, 125 * 2**20, 2**53 - 1]
    return [0, 1, *ends, *ties, *(int(2 ** rng.uniform(0, 53)) for _ in range(400))]


def test_sizes_and_shares_are_written_as_in_python(node):
    script = """const result = data.map(([n, m]) =>
      [c.gb(n), c.gib(n), c.mega(n, 1000), c.mega(n, 1024), c.grouped(n), c.percent(n, m)]);"""
    sizes = byte_sizes()
    pairs = [[n, m] for n, m in zip(sizes, [*reversed(sizes[1:]), 7], strict=True) if m]
    for (n, m), got in zip(pairs, node(CACHE + script, pairs), strict=True):
        whole = [cache.gb(n), cache.gib(n), cache.mega(n, 1000), cache.mega(n, 1024), cache.grouped(n)]
        assert got == [*whole, cache.percent(n, m)], (n, m)


def test_sliders_stop_where_they_stop_in_python(node):
    stops = node(CACHE + "const result = [c.TOKEN_STOPS, c.BATCH_STOPS];", None)
    assert stops == [list(cache.TOKEN_STOPS), list(cache.BATCH_STOPS)]
    assert (cache.TOKEN_STOPS[0], cache.TOKEN_STOPS[-1]) == cache.TOKENS
    assert (cache.BATCH_STOPS[0], cache.BATCH_STOPS[-1]) == cache.BATCH
    assert tuple(sorted(set(cache.TOKEN_STOPS))) == cache.TOKEN_STOPS
    assert [cache.position(cache.BATCH_STOPS, n) for n in (1, 2, 3, 255, 256)] == [0, 1, 1, 7, 8]
