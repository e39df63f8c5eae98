"""The labs: they run as stored, their exercises can be solved, and wrong answers are refused.

Each notebook is executed once. Wrong answers are tried in the same kernel, in cells put behind its own.
"""

from __future__ import annotations

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
LAB = ROOT / "notebooks" / "reparametrization.ipynb"
SECONDS = 60
MACHINE = re.compile(r"/(home|Users|root|tmp|work|mnt|var|content)/|[A-Z]:\\\\|localhost|127\.0\.0\.1|https?://")

# For every exercise of the lab, answers that are not the solution: plausible mistakes first, then nonsense.
WRONG = {
    1: ["lambda new, theta: new", "lambda new, theta: change_basis(new, theta)", "lambda new: new", "None"],
    2: ["'KV'", "'QKV'", "'K'", "''", "3"],
    3: ["1e5", "1e8", "1e12", "'far up'"],
    4: ["np.eye(d)", "W_K", "2 * W_Q", "W_Q.T", "np.zeros((3, 3))", "'W_Q'"],
    5: ["m", "m @ big_theta", "big_theta.inverse() @ m", "big_theta.inverse() @ m @ big_theta.inverse()", "np.eye(d)"],
    6: ["lambda new: new", "lambda new: replace(new, W_V=W_V)", "lambda new: replace(new, W_K=2 * new.W_K)", "1e-6"],
}
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
    done = once(path)
    if isinstance(done, CellExecutionError):
        raise done
    return done


@cache
def once(path: Path) -> Run | CellExecutionError:
    """Also a failure is remembered: every test that asks fails at once."""
    notebook = nbformat.read(path, 4)
    tries = [(f"wrong-{n}-{i}", n, answer) for n in WRONG for i, answer in enumerate(WRONG[n])] if path == LAB else []
    for name, n, answer in tries:
        notebook.cells.append(nbformat.v4.new_code_cell(PROBE.format(n, answer), id=name))
    start = time.perf_counter()
    try:
        NotebookClient(notebook, timeout=SECONDS, resources={"metadata": {"path": str(path.parent)}}).execute()
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


def lab_cell(name: str) -> Any:
    return next(cell for cell in nbformat.read(LAB, 4).cells if cell.id == name)


def perform(name: str, space: dict[str, Any]) -> dict[str, Any]:
    """Run one cell of the lab here, with IPython's magics turned into calls."""
    exec(TransformerManager().transform_cell(lab_cell(name).source), space)
    return space


each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def test_there_are_notebooks() -> None:
    assert LAB in NOTEBOOKS


@each
@pytest.mark.slow
def test_it_runs_from_top_to_bottom_in_time_and_in_silence(path: Path) -> None:
    done = run(path)
    assert done.seconds < SECONDS
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


# --- the exercises of the lab ---


def test_every_exercise_has_wrong_answers_here() -> None:
    named = {cell.id for cell in nbformat.read(LAB, 4).cells if re.fullmatch(r"exercise-\d+", cell.id)}
    assert named == {f"exercise-{n}" for n in WRONG}


@pytest.mark.slow
@pytest.mark.parametrize("n", WRONG)
def test_an_exercise_waits_and_can_be_solved(n: int) -> None:
    assert run(LAB).printed[f"exercise-{n}"].startswith("Not answered yet")
    assert run(LAB).printed[f"exercise-{n}-solution"] == "Right.\n"


@pytest.mark.slow
@pytest.mark.parametrize(("n", "i"), [(n, i) for n in WRONG for i in range(len(WRONG[n]))])
def test_a_wrong_answer_is_refused_with_a_hint(n: int, i: int) -> None:
    printed = run(LAB).printed[f"wrong-{n}-{i}"]
    assert printed.startswith("refused: Not yet. ") and "Right." not in printed, WRONG[n][i]


@pytest.mark.parametrize("n", WRONG)
def test_checks_and_solutions_are_folded(n: int) -> None:
    for part in ("check", "solution"):
        cell = lab_cell(f"exercise-{n}-{part}")
        assert "hide-cell" in cell.metadata.tags and cell.metadata.jupyter.source_hidden


# --- its set-up and its helpers ---


def test_the_set_up_asks_for_an_address_where_the_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "qkvtheory", None)
    with pytest.raises(AssertionError, match="REPOSITORY"):
        perform("setup-install", {})


def test_the_set_up_installs_from_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    import qkvtheory

    asked: list[tuple[str, str]] = []

    class Shell:
        def run_line_magic(self, magic: str, line: str) -> None:
            asked.append((magic, line))
            monkeypatch.setitem(sys.modules, "qkvtheory", qkvtheory)

    monkeypatch.setitem(sys.modules, "qkvtheory", None)
    source = lab_cell("setup-install").source.replace('REPOSITORY = ""', 'REPOSITORY = "ADDRESS"')
    exec(TransformerManager().transform_cell(source), {"get_ipython": Shell})
    ((magic, line),) = asked
    assert magic == "pip" and "qkvtheory[widgets,plots] @ git+{REPOSITORY}" in line


@pytest.fixture(scope="module")
def helpers() -> dict[str, Any]:
    space: dict[str, Any] = {}
    for name in ("setup-imports", "setup-tolerance", "own-load", "own-attention", "own-examine"):
        perform(name, space)
    return space


def test_files_are_read_and_pickles_are_not(helpers: dict[str, Any], tmp_path: Path) -> None:
    save_file = pytest.importorskip("safetensors.numpy").save_file
    weight, load = np.arange(6.0).reshape(2, 3), helpers["load"]
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
    perform("own-torch", {})
    assert "this cell is skipped" in capsys.readouterr().out
