"""The labs: they run as stored, their exercises can be solved, and wrong answers are refused.

Each notebook is executed once. Wrong answers are tried in the same kernel, in cells put behind its own.
"""

from __future__ import annotations

import os
import re
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import yaml
from IPython.core.inputtransformer2 import TransformerManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SECONDS = 60
LIMITS = {"training-evidence": 120}  # it trains
MACHINE = re.compile(r"/(home|Users|root|tmp|work|mnt|var|content)/|[A-Z]:\\\\|localhost|127\.0\.0\.1|https?://")

# For every exercise of every lab, answers that are not the solution: plausible mistakes first, then nonsense.
WRONG: dict[str, dict[int, list[str]]] = {
    "reparametrization": {
        1: ["lambda new, theta: new", "lambda new, theta: change_basis(new, theta)", "lambda new: new", "None"],
        2: ["'KV'", "'QKV'", "'K'", "''", "3"],
        3: ["1e5", "1e8", "1e12", "'far up'"],
        4: ["np.eye(d)", "W_K", "2 * W_Q", "W_Q.T", "np.zeros((3, 3))", "'W_Q'"],
        5: ["m", "m @ big_theta", "big_theta.inverse() @ m", "big_theta.inverse() @ m @ big_theta.inverse()", "0"],
        6: ["lambda new: new", "lambda new: replace(new, W_V=W_V)", "lambda new: replace(new, W_K=2 * new.W_K)", "0"],
    },
    "degrees-of-freedom": {
        1: [
            "lambda H, g, w: 2 * H * w**2",
            "lambda H, g, w: g * w**2",
            "lambda H, g, w: 2 * g * w",
            "lambda H, g, w: (H + g) * w**2",
            "12",
        ],
        2: [
            "np.eye(4)",
            "np.diag([1.0, 2.0, 3.0, 4.0])",
            "np.kron(np.eye(2), [[0.6, 0.8], [-0.8, 0.6]])",
            "np.kron(np.eye(2), [[2.0, 1.0], [1.0, -2.0]])",
            "np.kron([[2.0, 1.0], [-1.0, 2.0]], np.eye(2))",
            "rng.normal(size=(4, 4))",
            "None",
        ],
        3: [
            "[None] * 5",
            "[net.blocks[0].attention.W_Q] * 5",
            "[q1, q2, q2, np.linalg.inv(back), np.linalg.inv(back)]",
            "[q1, q1, q2, q2, back]",
            "[q1, back, q2, back, back]",
            "3",
        ],
        4: [
            "lambda L, d, w: (L - 1) * (d**2 - d * w)",
            "lambda L, d, w: L * d**2 - d * (d - 1) // 2",
            "lambda L, d, w: L * d**2 - d * (d - 1) // 2 - L * d * w",
            "lambda L, d, w: L * d * (d - w) // 2",
            "lambda L, d, w: L * d**2",
            "7",
        ],
        5: [
            "np.eye(3)",
            "np.diag([1.0, 2.0, 3.0])",
            "np.linalg.qr(np.arange(9.0).reshape(3, 3) + np.eye(3))[0]",
            "np.zeros((3, 3))",
            "'a permutation'",
        ],
    },
    "skipless": {
        1: ["'QQ'", "'KQK'", "'XYZ'", "None"],
        2: [
            "lambda net: net",
            "lambda net: eliminate(net, 'K')",
            "lambda net: stacks.merge_outputs(eliminate(net, 'V'))",
            "lambda net: eliminate(net, ['K', 'V'])",
            "3",
        ],
        3: ["[None] * 7", "[np.eye(d)] * 7", "[w for x in weights for w in (x['W_Q'], x['W_O'])] + [None]", "None"],
        4: ["1.0", "1e9", "-5.0", "'big'"],
    },
    "attention-skip": {
        1: ["lambda net: net", "lambda net: eliminate(net, 'K')", "lambda net: eliminate(net)", "None"],
        2: [
            "[None] * 7",
            "[q for q in queries for _ in 'XY'] + [None]",
            "[None, *[q for q in inverses for _ in 'XY']]",
            "3",
        ],
        3: ["[{}, {}, {}]", "[{'mlp_skip': True}] * 3", "[{}]", "'two'"],
        4: ["lambda net: net", "lambda net: replace(net, readout=-net.readout)", "lambda net: model", "1"],
    },
    "every-skip": {
        1: ["old.blocks[0].attention.W_O", "old.blocks[0].attention.W_Q", "np.eye(d)", "np.zeros((d, d))", "'I'"],
        2: ["A0", "B0", "B1 @ A1 @ B0", "A0 @ B0 @ A1 @ B1", "A1 @ B1", "np.linalg.inv(B0 @ A1 @ B1)", "None"],
        3: [
            "old",
            "conjugate(old, query(old, 0))",
            "replace(old, blocks=[replace(block, mlp_skip=False) for block in old.blocks])",
            "replace(old, blocks=[replace(block, attention_skip=False) for block in old.blocks])",
            "3",
        ],
    },
    "shared-queries": {
        1: ["'Q'", "'QKV'", "'K'", "''", "3"],
        2: [
            "lambda A, theta: A",
            "lambda A, theta: A @ theta",
            "lambda A, theta: theta @ A",
            "lambda A, theta: A.T",
            "0",
        ],
        3: [
            "lambda p, q, h: True",
            "lambda p, q, h: np.allclose(p, q)",
            "lambda p, q, h: nearest_shared([p, q], 1)[2] < 1e-9",
            "lambda p, q, h: nearest_shared([p, q], h)[2] < 0.1",
            "True",
        ],
    },
    "where-it-stops": {
        1: [
            "np.eye(d)",
            "np.roll(np.eye(d), 1, axis=1)",
            "rotation()",
            "np.eye(d) + np.ones((d, d)) / d",
            "np.ones((d, d)) / d",
            "'mean'",
        ],
        2: [
            "['embedding', 'positions', 'W_O', 'W_down']",
            "['W_Q', 'W_K', 'W_V', 'W_up']",
            "['embedding', 'positions', 'readout', 'W_O', 'b_O', 'W_down', 'b_down']",
            "['W_O', 'b_O', 'W_down', 'b_down']",
            "3",
        ],
        3: [
            "np.eye(d)",
            "3 * rotation()",
            "matrix(d, d)",
            "np.where(own, matrix(d, d), 0) @ rotation()",
            "np.zeros((d, d))",
            "None",
        ],
        4: [
            "lambda d, w, L, both, rope: d * (d - 1) // 2",
            "lambda d, w, L, both, rope: d * (d - 1) // 2 * (1 if both else L)",
            "lambda d, w, L, both, rope: d * (d + w) // 2 * (1 if both else L)",
            "lambda d, w, L, both, rope: (d * (d - 1) if rope else d * (d + w)) // 2 * L",
            "lambda d, w, L, both, rope: d * d",
            "3",
        ],
        5: [
            "np.eye(6)",
            "np.diag([1, -1, 1, -1, 1, -1])",
            "np.eye(6)[[1, 2, 0, 4, 3, 5]]",
            "rotation(6)",
            "2 * np.eye(6) + np.diag([0.5] * 6)",
            "rotation(3)",
            "None",
        ],
    },
    "absorbing-skips": {
        1: [
            "np.vstack([2 * np.linalg.inv(small.W_up[:, :4]), small.W_down[4:]])",
            "np.vstack([-np.linalg.inv(small.W_up[:, :4]), small.W_down[4:]])",
            "np.vstack([-2 * small.W_up[:, :4], small.W_down[4:]])",
            "np.vstack([-2 * np.linalg.inv(small.W_up[:, :4]), 0 * small.W_down[4:]])",
            "small.W_down",
            "np.eye(4)",
            "None",
        ],
        2: ["lambda c, w: w / c", "lambda c, w: abs(c) * w", "lambda c, w: w", "lambda c, w: 0 * w", "3"],
        3: [
            "MLP(squared, np.ones((1, 4)), np.ones((4, 1)) / 4)",
            "MLP(squared, signs, np.abs(outputs), bias)",
            "MLP(squared, signs, outputs)",
            "MLP(squared, signs, 4 * outputs, bias)",
            "MLP(lambda z: z, np.ones((1, 4)), np.ones((4, 1)) / 4)",
            "MLP(relu, signs, outputs, bias)",
            "None",
        ],
        4: [
            "lambda d, r: d * d",
            "lambda d, r: d * d - 2 * d * r",
            "lambda d, r: d * d - 4 * d * d",
            "lambda d, r: 4 * d * r - d * d",
            "lambda d, r: d * d - 2 * r",
            "0",
        ],
        5: ["lambda c: 1 - c", "lambda c: np.arccos(c)", "lambda c: 1 - c**2", "lambda c: np.sqrt(1 - c)", "0.045"],
    },
    "queries-equal-keys": {
        1: ["np.zeros((4, 2))", "[[3, 0]] * 4", "np.eye(4)", "np.eye(3)", "'x'"],
        2: [
            "(np.eye(8), np.eye(8))",
            "symmetric.two_head_keys(np.arange(8)[::-1], 3.0)",
            "symmetric.two_head_keys((np.arange(8) + 4) % 8, 3.0)[::-1]",
            "None",
        ],
        3: [
            "np.full((3, 3), 1 / 3)",
            "softmax(np.eye(3))",
            "softmax(3 * np.roll(np.eye(3), 1, axis=1))",
            "np.roll(np.eye(3), 1, axis=1)",
            "[[0.1, 0.9], [0.9, 0.1]]",
            "'x'",
        ],
    },
    "restoring-direction": {
        1: [
            "lambda w, n: (1, separable_channels(n)[0, :, 5:] @ w[5:])",
            "lambda w, n: (w.sum(), separable_channels(n)[:, 0, :5] @ w[:5])",
            "lambda w, n: (w.sum(), separable_channels(n)[0] @ w[::-1])",
            "lambda w, n: (w.sum(), 0)",
            "lambda w, n: w",
            "3",
        ],
        2: [
            "(1, symmetric.keys_for_involution((np.arange(8) + 4) % 8, 6.0))",
            "(-1, symmetric.keys_for_involution(np.arange(8)[::-1], 6.0))",
            "(-1, symmetric.keys_for_involution((np.arange(8) + 4) % 8, 1.0))",
            "(-1, 6 * np.vstack([np.eye(4), -np.eye(4)]))",
            "(-1, np.zeros((8, 2)))",
            "None",
        ],
        3: ["lambda t: t**2", "lambda t: t**3", "lambda t: 0", "lambda t: 2 * (t == 1)", "lambda t: -abs(t)", "3"],
        4: [
            "symmetric.mean_asymmetry",
            "symmetric.asymmetry",
            "lambda S: symmetric.asymmetry(softmax(S))",
            "lambda S: 0",
            "lambda S: 1",
        ],
        5: ["np.full(10, 0.1)", "[1] + [0] * 9", "np.zeros(10)", "[0, 3] * 5", "[0, 1]", "'cos'"],
    },
    "kv-cache": {
        1: ["'Q-K=V'", "'GQA-4'", "'Q-MQA'", "'Q=K-V'", "'KV'", "None"],
        2: [
            "lambda H, g, d_h, tied: 2 * g * d_h",
            "lambda H, g, d_h, tied: g * d_h",
            "lambda H, g, d_h, tied: (1 if tied else 2) * H * d_h",
            "lambda H, g, d_h, tied: (1 if tied else 2) * g",
            "3",
        ],
        3: [
            "lambda K, W_K, W_V, b_K, b_V: K @ np.linalg.inv(W_K) @ W_V + b_V",
            "lambda K, W_K, W_V, b_K, b_V: (K - b_K) @ np.linalg.inv(W_K) @ W_V",
            "lambda K, W_K, W_V, b_K, b_V: (K - b_K) @ W_V @ np.linalg.inv(W_K) + b_V",
            "lambda K, W_K, W_V, b_K, b_V: (K - b_V) @ np.linalg.inv(W_K) @ W_V + b_K",
            "lambda K: K",
        ],
        4: [
            "lambda c, v, m: m // count.cache_bytes(c, v, 1)",
            "lambda c, v, m: (m - count.parameters(c, v).total) // count.cache_bytes(c, v, 1)",
            "lambda c, v, m: (m - 2 * count.parameters(c, v).total) // (2 * count.cache_per_token(c, v))",
            "lambda c, v, m: (m - 2 * count.parameters(c, v).total) // count.cache_bytes(c, v, 1) - 1",
            "7",
        ],
        5: [
            "[np.eye(8)] * 4",
            "[np.linalg.qr(k)[1] for k in heads]",
            "[np.diag(np.linalg.norm(k, axis=0)) for k in heads]",
            "[np.zeros((8, 8))] * 4",
            "[np.linalg.inv(np.linalg.qr(k)[1]) for k in heads[:3]]",
            "None",
        ],
    },
    "keys-equal-values": {
        1: [
            "([[1, 0], [-1, 0], [0, 5]], [1, 0])",
            "(np.zeros((3, 2)), [0, 0])",
            "([[1, 0], [0, 1], [-1, -2]], [0, 0])",
            "([[2, 0], [-2, 0]], [0, 0])",
            "None",
        ],
        2: [
            "lambda a: tying.tie_after(a, 'K')",
            "lambda a: tying.tie_after(a, 'average')",
            "lambda a: replace(a, W_Q=a.W_Q @ np.linalg.lstsq(a.W_V, a.W_K)[0], W_K=a.W_V)",
            "lambda a: a",
            "3",
        ],
        3: ["8", "16", "11", "3", "'wide'"],
        4: [
            "all_heads[0]",
            "gauge.turn_heads(all_heads[0], keys=np.linalg.lstsq(X @ all_heads[0].W_K, X @ all_heads[0].W_V)[0])",
            "tying.tie_after(all_heads[0], 'V')",
            "projected(all_heads[0])",
            "None",
        ],
    },
    "training-evidence": {
        1: ["lambda s: 0.5", "lambda s: 1 / s", "lambda s: (1 - 1 / s) / 2", "lambda s: 1 - 1 / s", "0.55"],
        2: [
            "lambda delta, s: 3",
            "lambda delta, s: max(3, int((1.96 * s / delta) ** 2) + 1)",
            "lambda delta, s: needed_seeds(delta, s) + 1",
            "lambda delta, s: 1000",
            "3",
        ],
        3: [
            "lambda ratio, f: ratio",
            "lambda ratio, f: ratio**f",
            "lambda ratio, f: (1 - f) * ratio",
            "lambda ratio, f: 1 + (1 - f) * (ratio - 1)",
            "0.98",
        ],
        4: [
            "{'variant': 'Q=K-V'}",
            "{'variant': '(Q=K-V)+', 'temperature': 1.0}",
            "{'variant': '(Q=K-V)+', 'temperature': 0.0}",
            "{'variant': 'QKV'}",
            "{'variant': 'Q=K-V', 'heads': 2}",
            "{'variant': 'Q=K-V', 'skips': 'both'}",
            "-1",
        ],
    },
    "nonlinear-queries": {
        1: ["lambda x: x", "lambda x: x + 5", "lambda x: x + np.tanh(x)", "lambda x: np.array([[3.0, 4.0]])", "None"],
        2: ["np.eye(d)", "np.linalg.inv(np.eye(d) + W_1 @ W_2)", "W_1 @ W_2", "np.eye(d) - W_1 @ W_2", "3"],
        3: [
            "query",
            "ResidualQuery(lambda z: z, target - np.eye(d), np.eye(d))",
            "ResidualQuery(gelu, np.hstack([np.eye(d), -np.eye(d)]), np.vstack([target, -target]))",
            "ResidualQuery(gelu, np.eye(d), target - np.eye(d))",
            "target",
        ],
        4: [
            "lambda d, H: d * d // H",
            "lambda d, H: d * (d - 1) // 2",
            "lambda d, H: d * (d // H + 1) // 2",
            "lambda d, H: (d // H) * (d // H - 1) // 2",
            "7",
        ],
        5: [
            "lambda d, sigma: 0.5",
            "lambda d, sigma: 1 / (sigma * np.sqrt(d))",
            "lambda d, sigma: sigma**2 * d",
            "lambda d, sigma: sigma",
            "'half'",
        ],
    },
}
EXERCISES = [(lab, n) for lab in WRONG for n in WRONG[lab]]
TRIES = [(lab, n, i) for lab, n in EXERCISES for i in range(len(WRONG[lab][n]))]
PROBE = """
try:
    check_{0}({1})
except AssertionError as refusal:
    print("refused:", refusal)
"""


@dataclass(frozen=True)
class Run:
    """What executing a notebook printed, by cell id, and how long it took."""

    seconds: float
    printed: dict[str, str]
    errors: dict[str, str]


def run(path: Path) -> Run:
    if path.stem in LIMITS:
        pytest.importorskip("torch")
    done = once(path)
    if isinstance(done, CellExecutionError):
        raise done
    return done


@cache
def once(path: Path) -> Run | CellExecutionError:
    """Also a failure is remembered: every test that asks fails at once."""
    notebook = nbformat.read(path, 4)
    for lab, n, i in TRIES:
        if lab == path.stem:
            probe = PROBE.format(n, WRONG[lab][n][i])
            notebook.cells.append(nbformat.v4.new_code_cell(probe, id=f"wrong-{n}-{i}"))
    patience = 5 * LIMITS.get(path.stem, SECONDS)  # being late fails one test, and not all
    client = NotebookClient(notebook, timeout=patience, resources={"metadata": {"path": str(path.parent)}})
    start = time.perf_counter()
    try:
        client.execute(env=os.environ | {"OPENBLAS_NUM_THREADS": "1"})  # small matrices: more threads only wait
    except CellExecutionError as failure:
        return failure
    outputs = {cell.id: cell.outputs for cell in code_cells(notebook)}
    return Run(
        time.perf_counter() - start,
        {name: text(found) for name, found in outputs.items()},
        {name: out.text for name, found in outputs.items() for out in found if out.get("name") == "stderr"},
    )


def text(outputs: list[Any]) -> str:
    shown = [out.text if out.output_type == "stream" else str(out.get("data")) for out in outputs]
    return "".join(shown)


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def stored(lab: str) -> Path:
    return ROOT / "notebooks" / f"{lab}.ipynb"


@cache
def cells(lab: str) -> dict[str, Any]:
    """The cells of a lab by id."""
    return {cell.id: cell for cell in nbformat.read(stored(lab), 4).cells}


def labs_with(name: str) -> list[str]:
    return [path.stem for path in NOTEBOOKS if name in cells(path.stem)]


def perform(lab: str, name: str, space: dict[str, Any]) -> None:
    """Run one cell of a lab here, with IPython's magics turned into calls."""
    exec(TransformerManager().transform_cell(cells(lab)[name].source), space)


each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
each_exercise = pytest.mark.parametrize(("lab", "n"), EXERCISES)


def test_there_are_notebooks() -> None:
    assert {path.stem for path in NOTEBOOKS} == WRONG.keys()


@each
@pytest.mark.slow
def test_it_runs_from_top_to_bottom_in_time_and_in_silence(path: Path) -> None:
    done = run(path)
    assert done.seconds < LIMITS.get(path.stem, SECONDS)
    assert not done.errors, "a line on stderr is an error in the book"


@each
@pytest.mark.slow
def test_no_output_names_this_machine(path: Path) -> None:
    for name, printed in run(path).printed.items():
        assert str(ROOT) not in printed and not re.search(r"/tmp/|/home/", printed), name


@each
def test_it_is_stored_without_outputs(path: Path) -> None:
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata.kernelspec.name == "python3"
    assert "widgets" not in notebook.metadata
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    for cell in code_cells(notebook):
        assert cell.outputs == [] and cell.execution_count is None, cell.id


@each
def test_it_is_a_page_of_the_book(path: Path) -> None:
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text("utf8"))
    chapters = [chapter for part in toc["parts"] for chapter in part["chapters"]]
    pages = [page["file"] for chapter in chapters for page in (chapter, *chapter.get("sections", ()))]
    assert f"notebooks/{path.stem}" in pages


@each
def test_it_names_no_machine_and_no_host(path: Path) -> None:
    assert not MACHINE.findall(path.read_text("utf8"))


@each
def test_its_cells_are_short(path: Path) -> None:
    for cell in code_cells(nbformat.read(path, 4)):
        folded = cell.metadata.get("jupyter", {}).get("source_hidden", False)
        assert len(cell.source.splitlines()) <= (25 if folded else 18), cell.id


@pytest.mark.pages
def test_the_page_shows_the_figure_without_a_kernel() -> None:
    page = ROOT / "_build" / "html" / "notebooks" / "reparametrization.html"
    if not page.exists():
        pytest.skip("there is no book yet: run make book first")
    html = page.read_text("utf8")
    assert html.count('data-widget="basis-change"') == 1
    assert "widget-view+json" not in html, "no kernel answers on a page: show the HTML the widget brings along"


# --- the exercises ---


@each
def test_every_exercise_has_wrong_answers_here(path: Path) -> None:
    named = {name for name in cells(path.stem) if re.fullmatch(r"exercise-\d+", name)}
    assert named == {f"exercise-{n}" for n in WRONG[path.stem]}


@pytest.mark.slow
@each_exercise
def test_an_exercise_waits_and_can_be_solved(lab: str, n: int) -> None:
    printed = run(stored(lab)).printed
    assert printed[f"exercise-{n}"].startswith("Not answered yet")
    assert set(printed[f"exercise-{n}-solution"].splitlines()) == {"Right."}


@pytest.mark.slow
@pytest.mark.parametrize(("lab", "n", "i"), TRIES)
def test_a_wrong_answer_is_refused_with_a_hint(lab: str, n: int, i: int) -> None:
    printed = run(stored(lab)).printed[f"wrong-{n}-{i}"]
    assert printed.startswith("refused: Not yet. ") and "Right." not in printed, WRONG[lab][n][i]


@each_exercise
def test_checks_and_solutions_are_folded(lab: str, n: int) -> None:
    for part in ("check", "solution"):
        cell = cells(lab)[f"exercise-{n}-{part}"]
        assert "hide-cell" in cell.metadata.tags and cell.metadata.jupyter.source_hidden


# --- their set-up and their helpers ---


@each
def test_the_set_up_asks_for_an_address_where_the_package_is_missing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "qkvtheory", None)
    with pytest.raises(AssertionError, match="REPOSITORY"):
        perform(path.stem, "setup-install", {})


@each
def test_the_set_up_installs_from_the_address(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import qkvtheory

    asked: list[tuple[str, str]] = []

    class Shell:
        def run_line_magic(self, magic: str, line: str) -> None:
            asked.append((magic, line))
            monkeypatch.setitem(sys.modules, "qkvtheory", qkvtheory)

    monkeypatch.setitem(sys.modules, "qkvtheory", None)
    source = cells(path.stem)["setup-install"].source.replace('REPOSITORY = ""', 'REPOSITORY = "ADDRESS"')
    exec(TransformerManager().transform_cell(source), {"get_ipython": Shell})
    ((magic, line),) = asked
    assert magic == "pip" and "qkvtheory[widgets,plots] @ git+{REPOSITORY}" in line


@pytest.fixture(scope="module")
def helpers() -> dict[str, Any]:
    space: dict[str, Any] = {}
    for name in ("setup-imports", "setup-tolerance", "own-load", "own-attention", "own-examine"):
        perform("reparametrization", name, space)
    return space


@pytest.mark.parametrize("lab", labs_with("own-load"))
def test_files_are_read_and_pickles_are_not(lab: str, tmp_path: Path) -> None:
    save_file = pytest.importorskip("safetensors.numpy").save_file
    space: dict[str, Any] = {}
    for name in ("setup-imports", "own-load"):
        perform(lab, name, space)
    weight, load = np.arange(6.0).reshape(2, 3), space["load"]
    np.save(tmp_path / "w.npy", weight)
    save_file({"q.weight": weight}, tmp_path / "w.safetensors")
    np.save(tmp_path / "pickled.npy", np.array([{}], dtype=object), allow_pickle=True)
    assert np.array_equal(load(tmp_path / "w.npy"), weight)
    assert np.array_equal(load(tmp_path / "w.safetensors", "q.weight"), weight)
    for file, said in (("pickled.npy", "allow_pickle"), ("w.pt", "only .npy"), ("w.safetensors", "q.weight")):
        with pytest.raises(ValueError, match=said):
            load(tmp_path / file)


@pytest.mark.parametrize(
    ("shapes", "heads", "said"),
    [
        ([(8, 8), (8, 8), (8, 8), (7, 8)], 2, "W_O has shape"),
        ([(8, 8), (8, 8), (7, 8), (8, 8)], 2, "W_V has shape"),
        ([(8, 8), (9, 8), (8, 8), (8, 8)], 2, "W_K has shape"),
        ([(8, 8), (8, 8), (8, 8), (8, 8)], 3, "whole numbers of heads"),
        ([(8, 8), (8, 6), (8, 8), (8, 8)], 2, "whole numbers of heads"),
        ([(8, 8), (8, 6), (8, 8), (8, 8)], 4, "must divide"),
        ([(8,), (8, 8), (8, 8), (8, 8)], 2, "W_Q must be a matrix"),
    ],
)
def test_weights_that_do_not_fit_are_refused(helpers: dict[str, Any], shapes: Any, heads: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        helpers["my_attention"](*map(np.ones, shapes), heads)


@pytest.mark.parametrize("bad", [np.full((8, 8), np.nan), np.ones((8, 8), dtype=int), np.array([["a"]])])
def test_weights_that_are_no_finite_floats_are_refused(helpers: dict[str, Any], bad: Any) -> None:
    with pytest.raises(ValueError, match="W_K must be a matrix of finite floats"):
        helpers["my_attention"](np.ones((8, 8)), bad, np.ones((8, 8)), np.ones((8, 8)), 2)


def test_grouped_keys_are_recognized_and_examined(helpers: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    grouped = helpers["my_attention"](*(rng.normal(size=s) for s in [(8, 8), (8, 4), (8, 6), (12, 8)]), heads=4)
    assert grouped.core.groups == 2
    helpers["examine"](grouped)
    printed = capsys.readouterr().out
    assert re.match("W_Q: cond .* measured", printed) and "W_K: refused" in printed and "W_V: refused" in printed


def test_the_torch_cell_says_so_where_torch_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    perform("reparametrization", "own-torch", {})
    assert "this cell is skipped" in capsys.readouterr().out
