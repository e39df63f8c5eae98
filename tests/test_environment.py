"""The files that set a machine up agree with each other, and name no machine."""

import email
import json
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
UV = Path(sys.executable).with_name("uv")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))
NPM = json.loads((ROOT / "package.json").read_text("utf-8"))
NPM_LOCK = json.loads((ROOT / "package-lock.json").read_text("utf-8"))
# Put together here, so that this file does not contain what it forbids.
FORBIDDEN_FOLDERS = re.compile(r"(?<![\w.~-])/(?:" + "|".join(["work", "opt", "root"]) + r")/")
FORBIDDEN_HOSTS = re.compile(
    "|".join([r"pypi\." + "org", "python" + "hosted", r"npmjs\.(?:org|com)", r"download\.py" + "torch"])
)


def requirements(*extras: str) -> list[Requirement]:
    """The base requirements and those of the extras, with `qkvtheory[...]` followed."""
    lines = PROJECT["dependencies"] + [line for e in extras for line in PROJECT["optional-dependencies"][e]]
    found = [Requirement(line) for line in lines]
    inner = {extra for r in found if r.name == PROJECT["name"] for extra in r.extras} - set(extras)
    return requirements(*extras, *inner) if inner else [r for r in found if r.name != PROJECT["name"]]


def locked(path: str) -> dict[str, tuple[str, int]]:
    """Name -> (version, number of hashes) of a lock file."""
    blocks = re.split(r"\n(?=\S)", (ROOT / path).read_text("utf-8"))
    pins = (re.match(r"([\w.-]+)==(\S+)", block) for block in blocks)
    return {
        canonicalize_name(pin[1]): (pin[2], block.count("--hash=sha256:"))
        for pin, block in zip(pins, blocks, strict=True)
        if pin
    }


def offenses(text: str) -> list[str]:
    """The folders of a machine and the hosts of a registry that a text names."""
    return FORBIDDEN_FOLDERS.findall(text) + FORBIDDEN_HOSTS.findall(text)


def tracked() -> list[Path]:
    """Every file git has, or would have after `git add --all`."""
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [path for name in names.split("\0") if name and (path := ROOT / name).is_file()]


# --- conda ---------------------------------------------------------------------------------------------------------


def conda_entries() -> list[Requirement]:
    return [Requirement(entry) for entry in CONDA["dependencies"] if isinstance(entry, str)]


def pip_entries() -> list[str]:
    return [line for entry in CONDA["dependencies"] if isinstance(entry, dict) for line in entry["pip"]]


def test_conda_file_is_short_and_from_one_channel():
    assert CONDA["name"] == PROJECT["name"]
    assert CONDA["channels"] == ["conda-forge"]
    assert len(CONDA["dependencies"]) < 15
    assert {r.name for r in requirements()} <= {r.name for r in conda_entries()}


def test_conda_floors_are_those_of_pyproject():
    ours = {r.name: r.specifier for r in requirements("lab", "plots", "widgets")}
    ours["python"] = Requirement("python" + PROJECT["requires-python"]).specifier
    tools = {"make", "pip"}
    assert {r.name: r.specifier for r in conda_entries() if r.name not in tools}.items() <= ours.items()


def test_pip_section_of_the_conda_file_installs(tmp_path):
    """A full resolution, the package itself built. Needs the network, or a warm cache."""
    request = tmp_path / "pip.txt"
    request.write_text("\n".join(pip_entries()), "utf-8")
    command = [UV, "pip", "compile", "--quiet", "--no-header", request]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    resolved = {canonicalize_name(name) for name in re.findall(r"^([\w.-]+)==", done.stdout, re.M)}
    assert {canonicalize_name(r.name) for r in requirements("book", "lab")} <= resolved


# --- the locks -----------------------------------------------------------------------------------------------------


def test_every_requirement_of_book_and_test_is_locked_within_its_range():
    lock = locked("requirements/book.lock")
    for requirement in requirements("book", "test"):
        version, _ = lock[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement} is locked at {version}: run make lock"


@pytest.mark.parametrize("path", ["requirements/book.lock", "requirements/uv.lock"])
def test_every_pin_has_hashes_and_no_host(path):
    pins = locked(path)
    assert pins
    assert not [name for name, (_, hashes) in pins.items() if hashes == 0]
    assert "://" not in (ROOT / path).read_text("utf-8")


def test_the_lock_leaves_torch_and_gpu_libraries_out():
    assert not [name for name in locked("requirements/book.lock") if re.match(r"torch|nvidia|cuda|triton", name)]


def test_npm_files_agree():
    root = NPM_LOCK["packages"][""]
    for key in ("name", "version", "dependencies", "devDependencies"):
        assert root[key] == NPM[key]
    for name, version in (NPM["dependencies"] | NPM["devDependencies"]).items():
        assert NPM_LOCK["packages"][f"node_modules/{name}"]["version"] == version
    packages = [entry for name, entry in NPM_LOCK["packages"].items() if name]
    assert all(entry["integrity"].startswith("sha512-") for entry in packages)
    assert not [entry for entry in packages if "resolved" in entry]


# --- one version, one set of licenses ------------------------------------------------------------------------------


def test_one_version_everywhere():
    version = Version(PROJECT["version"])
    assert NPM["version"] == version.base_version
    assert str(yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))["version"]) == str(version)
    heading = "Unreleased" if version.is_prerelease else str(version)
    assert f"## [{heading}]" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_licenses_are_there_in_full():
    code, text = ((ROOT / name).read_text("utf-8") for name in ("LICENSE", "LICENSE-text"))
    assert "MIT License" in code and "WITHOUT WARRANTY OF ANY KIND" in code and "LICENSE-text" in code
    assert "https://creativecommons.org/licenses/by/4.0/legalcode" in text


# --- what is shipped -----------------------------------------------------------------------------------------------


def test_the_wheel_holds_the_package_and_nothing_else(tmp_path):
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        metadata = email.message_from_bytes(wheel.read(next(n for n in wheel.namelist() if n.endswith("/METADATA"))))
    package = {p.relative_to(ROOT).as_posix() for p in tracked() if p.is_relative_to(ROOT / "qkvtheory")}
    assert names == package, "the wheel is the package folder, .mjs and .css included"
    assert metadata["Version"] == PROJECT["version"]
    base = [Requirement(line) for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
    assert {r.name for r in base} == {"numpy", "sympy", "array-api-compat"}


def test_every_page_of_the_contents_exists():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8"))
    assert toc["format"] == "jb-book"

    def pages(node) -> list[str]:
        if isinstance(node, list):
            return [page for item in node for page in pages(item)]
        if isinstance(node, dict):
            here = [node[key] for key in ("root", "file") if key in node]
            return here + [page for value in node.values() for page in pages(value)]
        return []

    names = pages(toc)
    assert len(names) > 3 and len(set(names)) == len(names)
    missing = [n for n in names if not any((ROOT / (n + end)).is_file() for end in ("", ".md", ".ipynb"))]
    assert not missing


def test_the_examples_of_the_readme_run():
    """Pasted one after the other, as a reader would."""
    examples = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.S)
    assert [example.count("assert") for example in examples] == [2, 2, 1]
    done = subprocess.run([sys.executable, "-c", "\n".join(examples)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_file_names_a_machine_or_a_registry():
    found = {}
    for path in tracked():
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:  # a picture
            continue
        if hits := offenses(text):
            found[path.relative_to(ROOT).as_posix()] = hits
    assert not found


def test_the_search_for_machines_and_registries_finds_them():
    for name in ("work", "opt", "root"):
        assert offenses(f"see '/{name}/main'")
        assert not offenses(f"https://example.net/frame{name}/main")
    assert offenses("https://" + "pypi." + "org/simple")
    assert offenses("https://files.python" + "hosted.org/x.whl")
