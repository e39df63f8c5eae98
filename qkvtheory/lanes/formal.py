"""The formal lane: Rocq accepts the theorem for all sizes, and the theorem is about this code.

For each claim four things are asked of Rocq: the proofs compile; ``Print Assumptions`` of the claim's lemma is closed
(no axiom, nothing admitted); what the Python constructions do to words equals the definitions that were proved
(``bridge``); and every wrong variant of the theorem in ``proofs/controls.toml`` is refused. A claim's lemma has the
claim's name.

Verdicts are kept under ``_build/proofs``, addressed by a hash of everything they depend on: the exact texts, the
versions of Rocq and MathComp. A changed text has another address, so an old verdict cannot be shown for it.

    from qkvtheory.lanes import formal
    formal.check(["reparam-lemma"])["reparam-lemma"].status     # "pass", "fail" or "not-run"
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path

from qkvtheory.lanes import bridge
from qkvtheory.lanes.lemmas import BRIDGES, CHAPTERS, COMPANIONS, LEMMAS

ROOT = Path(__file__).parents[2]
PROOFS, BUILD = ROOT / "proofs", ROOT / "_build" / "proofs"
OPTIONS = ("-q", "-w", "-notation-overridden,-ambiguous-paths")
HERE = ("-Q", ".", "QKV")
IMPORT = re.compile(r"From QKV Require(?: Import)? ([^.]*)\.")  # the one way in which texts name the proof files
PART = "(** ** "  # the heading of a part of a proof file; parts start outside sections
SAID = 25  # wrong variants between two lines of progress
TIMEOUT = 120  # seconds for one text; all of them take about one
TIMED_OUT = f"stopped after {TIMEOUT} seconds"
# Messages about the script rather than the theorem: a variant that ends in one of these tested nothing.
UNRELATED = re.compile(r"was not found|No assumption in|Syntax error|Cannot infer|" + TIMED_OUT)
INSTALL = "on Debian and Ubuntu: apt-get install coq libcoq-mathcomp-algebra"


class NotHere(RuntimeError):
    """Rocq, MathComp or the proofs are not on this machine. The message says what is missing."""


@dataclass(frozen=True)
class Verdict:
    """What Rocq said about one text."""

    accepted: bool
    output: str
    seconds: float


@dataclass(frozen=True)
class Control:
    """A wrong variant of a theorem: ``change`` holds (old, new) texts."""

    claim: str
    hypothesis: str
    what: str
    change: tuple[tuple[str, str], ...]

    def outcome(self, status: str, reason: str) -> dict[str, str]:
        return {"hypothesis": self.hypothesis, "what": self.what, "status": status, "reason": reason}


@dataclass(frozen=True)
class FormalResult:
    """The formal status of one claim. ``seconds``: Rocq's time for it when the verdict was reached, kept or not."""

    status: str
    lemma: str
    reason: str = ""
    seconds: float = 0.0
    controls: list[dict[str, str]] = field(default_factory=list)


def available() -> str | None:
    """Why the formal lane cannot run on this machine, or None if it can."""
    try:
        rocq()
        sources()
    except NotHere as missing:
        return str(missing)
    return None


def check(
    ids: Sequence[str],
    code: bridge.Code | None = None,
    texts: Mapping[str, str] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, FormalResult]:
    """The formal status of each claim.

    ``code``: the Python to compare with the proofs (default: the package). ``texts``: the proof files by name (default:
    those of ``proofs/``). ``say`` is told how far it is. Does not raise: what cannot run here is "not-run", with the
    reason.
    """
    here, reason = {claim: LEMMAS[claim] for claim in ids if claim in LEMMAS}, available()
    if reason is None:
        found = Session(texts).results(here, code, say)
    else:
        found = {claim: FormalResult("not-run", lemma, reason) for claim, (_, lemma) in here.items()}
    return {claim: found.get(claim) or FormalResult("not-run", "", "no lemma of this name in proofs/") for claim in ids}


# -- Rocq on this machine ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rocq:
    """How to call the compiler, and a digest of its version and of MathComp's object file."""

    command: tuple[str, ...]
    identity: str


@cache
def rocq() -> Rocq:
    """The compiler and what identifies it. Raises NotHere."""
    if shutil.which("coqc"):
        command: tuple[str, ...] = ("coqc",)
    elif shutil.which("rocq"):
        command = ("rocq", "compile")
    else:
        raise NotHere(f"neither coqc nor rocq is installed ({INSTALL})")
    version = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False).stdout
    where = subprocess.run([command[0], "-where"], capture_output=True, text=True, check=False).stdout.strip()
    mathcomp = Path(where) / "user-contrib" / "mathcomp" / "algebra" / "all_algebra.vo"
    identity = digest(version, mathcomp.read_bytes().hex() if mathcomp.exists() else "")
    with tempfile.TemporaryDirectory() as folder:
        probe = run_in(Path(folder), command, "Probe", "From mathcomp Require Import all_ssreflect all_algebra.\n", ())
    if not probe.accepted:
        raise NotHere(f"MathComp (algebra) is not installed for {command[0]} ({INSTALL})")
    return Rocq(command, identity)


@cache
def sources() -> dict[str, str]:
    """The proof files, in the order in which they depend on each other. Raises NotHere."""
    missing = [stem for stem in CHAPTERS if not (PROOFS / f"{stem}.v").exists()]
    if missing:
        raise NotHere("the proofs are part of the book's repository, not of the installed package")
    return {stem: (PROOFS / f"{stem}.v").read_text(encoding="utf-8") for stem in CHAPTERS}


def run_in(folder: Path, command: Sequence[str], name: str, text: str, paths: Sequence[str]) -> Verdict:
    (folder / f"{name}.v").write_text(text, encoding="utf-8")
    start = time.perf_counter()
    try:
        call = [*command, *OPTIONS, *paths, f"{name}.v"]
        done = subprocess.run(call, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT, check=False)
        accepted, output = done.returncode == 0, done.stdout + done.stderr
    except subprocess.TimeoutExpired:
        accepted, output = False, TIMED_OUT
    return Verdict(accepted, output, time.perf_counter() - start)


def digest(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def write_whole(path: Path, text: str) -> None:
    """Write a file so that no reader, and no interrupted run, sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as draft:
        draft.write(text)
    os.replace(draft.name, path)


# -- one version of the proof files ------------------------------------------------------------------------------------


class Session:
    """The questions asked about one version of the proof files, which lie compiled in a folder named by their hash."""

    def __init__(self, texts: Mapping[str, str] | None = None, build: Path = BUILD, workers: int = 2):
        self.rocq, self.texts, self.build, self.workers = rocq(), dict(texts or sources()), build, workers
        self.folder = build / digest(self.rocq.identity, *OPTIONS, *self.texts, *self.texts.values())

    def library(self) -> dict[str, Verdict]:
        """Compile the proof files, or find them compiled. A kept object file must still be the one that was written."""
        record = self.folder / "library.json"
        if record.exists():
            kept = json.loads(record.read_text(encoding="utf-8"))
            if all(file_digest(self.folder / f"{stem}.vo") == kept["objects"][stem] for stem in self.texts):
                return {stem: Verdict(**verdict) for stem, verdict in kept["verdicts"].items()}
            shutil.rmtree(self.folder)
        self.build.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=self.build, prefix="draft-"))
        verdicts = {stem: run_in(draft, self.rocq.command, stem, text, HERE) for stem, text in self.texts.items()}
        objects = {stem: file_digest(draft / f"{stem}.vo") for stem in self.texts}
        if all(verdict.accepted for verdict in verdicts.values()):  # a failure is not kept: it is there to be repaired
            kept = {"objects": objects, "verdicts": {stem: asdict(verdict) for stem, verdict in verdicts.items()}}
            write_whole(draft / "library.json", json.dumps(kept))
            if not self.folder.exists():
                draft.rename(self.folder)
        shutil.rmtree(draft, ignore_errors=True)
        return verdicts

    def behind(self, text: str) -> list[str]:
        """The proof files that a text imports, and those that they import: what the verdict on it depends on."""
        named = {stem for line in IMPORT.findall(text) for stem in line.split()}
        files = [(stem, self.texts[stem]) for stem in self.texts if stem in named]
        return [part for stem, file in files for part in (*self.behind(file), stem, file)]

    def ask(self, text: str) -> Verdict:
        """Rocq's verdict on a text that may import the proof files; kept under the hash of all it depends on."""
        key = digest(self.rocq.identity, *OPTIONS, *self.behind(text), text)
        kept = self.build / "verdicts" / f"{key}.json"
        if kept.exists():
            return Verdict(**json.loads(kept.read_text(encoding="utf-8")))
        self.build.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.build, prefix="draft-") as draft:
            paths = ("-Q", str(self.folder.resolve()), "QKV")
            verdict = run_in(Path(draft), self.rocq.command, "Question", text, paths)
        if TIMED_OUT not in verdict.output:
            write_whole(kept, json.dumps(asdict(verdict)))
        return verdict

    def assumptions(self, lemmas: Sequence[tuple[str, str]]) -> dict[str, str]:
        """For each lemma what it assumes: "" if it is closed under the global context."""
        lines = [f"From QKV Require {' '.join(dict.fromkeys(stem for stem, _ in lemmas))}."] if lemmas else []
        lines += [f"Print Assumptions QKV.{stem}.{name}." for stem, name in lemmas]
        verdict = self.ask("\n".join(lines) + "\n")
        answers = re.split(r"(?m)^(?=Closed under the global context|Axioms:|Section Variables:)", verdict.output)[1:]
        if not verdict.accepted or len(answers) != len(lemmas):
            return {name: first_error(verdict.output) for _, name in lemmas}
        closed = "Closed under the global context"
        return {
            name: "" if answer.strip() == closed else " ".join(answer.split())
            for (_, name), answer in zip(lemmas, answers, strict=True)
        }

    def bridges(self, names: Iterable[str], code: bridge.Code | None = None) -> dict[str, str]:
        """For each bridge why it was rejected: "" if Rocq found the Python equal to the proved definition."""
        texts, reasons = {}, {}
        for name in dict.fromkeys(names):
            try:
                texts[name] = bridge.printed(name, code)
            except Exception as error:  # whatever damaged Python raises
                reasons[name] = f"the Python does not run on these symbols: {type(error).__name__}: {error}"
        together = bridge.assembled(texts)
        write_whole(self.build / "Bridge.v", together)
        if self.ask(together).accepted:
            return reasons | dict.fromkeys(texts, "")
        with ThreadPoolExecutor(self.workers) as pool:
            alone = [bridge.assembled({name: text}) for name, text in texts.items()]
            verdicts = dict(zip(texts, pool.map(self.ask, alone), strict=True))
        return reasons | {name: "" if v.accepted else first_error(v.output) for name, v in verdicts.items()}

    def control(self, control: Control) -> tuple[dict[str, str], float]:
        """Run one wrong variant. Rejected: Rocq stops inside a proof, between the change and the theorem's end."""
        stem, _ = LEMMAS[control.claim]
        text, begin = self.texts[stem], len(self.texts[stem])
        for old, new in control.change:
            if text.count(old) != 1:
                return control.outcome("not-run", f"occurs {text.count(old)} times in {stem}.v: {old!r}"), 0.0
            begin = min(begin, text.index(old))
            text = text.replace(old, new)
        part = text.rindex(PART, 0, begin)  # what comes before the changed part is unchanged, hence already compiled
        prefix = text[: text.index(PART)] + f"From QKV Require Import {stem}.\n"
        verdict = self.ask(prefix + text[part:])
        if verdict.accepted:
            return control.outcome("accepted", "Rocq accepts this variant"), verdict.seconds
        error = error_position(prefix + text[part:], verdict.output) - len(prefix) + part
        end = max(text.index("Qed.", text.index(f" {name} ")) for name in lemmas_of(control.claim))
        in_proof = text.rfind("Proof.", 0, error + 1) > text.rfind("Qed.", 0, error)
        meant = begin <= error <= end and in_proof and not UNRELATED.search(verdict.output)
        return control.outcome("rejected" if meant else "not-run", first_error(verdict.output)), verdict.seconds

    def results(
        self,
        claims: Mapping[str, tuple[str, str]],
        code: bridge.Code | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> dict[str, FormalResult]:
        """Everything that is asked about the given claims (id to file and lemma)."""
        say("proofs: compiling (the first time takes minutes)")
        compiled = self.library()
        broken = [f"{stem}.v: {first_error(v.output)}" for stem, v in compiled.items() if not v.accepted]
        if broken:
            reason = f"the proofs do not compile: {'; '.join(broken)}"
            return {claim: FormalResult("fail", lemma, reason) for claim, (_, lemma) in claims.items()}
        assumed = self.assumptions([(stem, name) for claim, (stem, _) in claims.items() for name in lemmas_of(claim)])
        say("proofs: comparing them with the Python")
        bridged = self.bridges((name for claim in claims for name in BRIDGES.get(claim, ())), code)
        wrong = [control for control in controls() if control.claim in claims]
        with ThreadPoolExecutor(self.workers) as pool:
            tried = []
            for control, outcome in zip(wrong, pool.map(self.control, wrong), strict=True):
                tried.append((control, outcome))
                if len(tried) % SAID == 0:
                    say(f"proofs: {len(tried)} of {len(wrong)} wrong variants tried")
        found = {}
        for claim, (stem, lemma) in claims.items():
            mine = [outcome for control, outcome in tried if control.claim == claim]
            reasons = [f"{name} assumes: {assumed[name]}" for name in lemmas_of(claim) if assumed[name]]
            reasons += [f"the Python differs ({b}): {bridged[b]}" for b in BRIDGES.get(claim, ()) if bridged[b]]
            reasons += [f"control '{c['what']}': {c['reason']}" for c, _ in mine if c["status"] != "rejected"]
            reasons += [] if mine else ["proofs/controls.toml has no control for this claim"]
            seconds = compiled[stem].seconds / len(CHAPTERS[stem]) + sum(spent for _, spent in mine)
            status = "fail" if reasons else "pass"
            found[claim] = FormalResult(status, lemma, "; ".join(reasons), seconds, [shown for shown, _ in mine])
        return found


@cache
def controls() -> tuple[Control, ...]:
    """The wrong variants of ``proofs/controls.toml``."""
    tables = tomllib.loads((PROOFS / "controls.toml").read_text(encoding="utf-8")).get("control", [])
    return tuple(
        Control(table["claim"], table["hypothesis"], table["what"], tuple((old, new) for old, new in table["change"]))
        for table in tables
    )


def lemmas_of(claim: str) -> tuple[str, ...]:
    return (LEMMAS[claim][1], *COMPANIONS.get(claim, ()))


def file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def first_error(output: str) -> str:
    """Rocq's error message on one line, without the file name; never empty."""
    _, _, message = output.partition("Error:")
    return " ".join((message or output).split())[:300] or "Rocq gave no reason"


def error_position(text: str, output: str) -> int:
    """Where in ``text`` Rocq stopped; -1 if it does not say."""
    places = re.findall(r"line (\d+), characters (\d+)-\d+:\s*Error", output)
    if not places:
        return -1
    line, column = map(int, places[-1])
    return sum(len(row) for row in text.splitlines(keepends=True)[: line - 1]) + column
