"""Run claims in their lanes and write the manifest: the one file that pages and other tools read."""

from __future__ import annotations

import hashlib
import json
import platform
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import qkvtheory
from qkvtheory.chains import broken_without
from qkvtheory.claims.model import Claim, value_of
from qkvtheory.claims.register import left_out, register
from qkvtheory.errors import HypothesisError
from qkvtheory.evidence import findings
from qkvtheory.lanes import formal
from qkvtheory.lanes.check import WRONG, calculation, run_control, run_lane, sides_without
from qkvtheory.lanes.results import ACCEPTED, FAIL, NOT_RUN, PASS, ControlResult, LaneResult
from qkvtheory.lanes.worlds import Words
from qkvtheory.lanes.written import both_sides, equations
from qkvtheory.words import Letter, Word, latex_name

LANES = ("symbolic", "exact", "numeric", "count", "rank", "experiment", "formal")
PACKAGE = Path(qkvtheory.__file__).parent
PROOFS = PACKAGE.parent / "proofs"
UNCHECKED = {"figures", "widgets", "experiments"}  # parts of the package on which no verdict depends


class ClaimReport:
    """What happened to one claim."""

    def __init__(self, claim: Claim, lanes: dict[str, LaneResult], controls: list[ControlResult]):
        self.claim, self.lanes, self.controls = claim, lanes, controls

    @property
    def red(self) -> bool:
        return any(r.status == FAIL for r in self.lanes.values()) or any(c.status == ACCEPTED for c in self.controls)

    @property
    def status(self) -> str:
        """A claim of which nothing ran is never a pass."""
        if self.red:
            return FAIL
        return PASS if any(r.status == PASS for r in self.lanes.values()) else NOT_RUN

    @property
    def reasons(self) -> list[str]:
        lanes = [f"{name}: {r.reason}" for name, r in self.lanes.items() if r.status == FAIL]
        return lanes + [
            f"control accepted: {c.what}. {c.reason}".strip() for c in self.controls if c.status == ACCEPTED
        ]


def lanes_of(claim: Claim) -> tuple[str, ...]:
    """The lanes a claim has, in the order of LANES."""
    return tuple(lane for lane in LANES if lane in claim.lanes or (lane == "formal" and claim.id in formal.LEMMAS))


def run(
    ids: Sequence[str] = (),
    lanes: Iterable[str] = LANES,
    progress: Callable[[ClaimReport], None] = lambda report: None,
    say: Callable[[str], None] = lambda line: None,
    workers: int = 1,
) -> list[ClaimReport]:
    """Check the named claims (all of them by default). ``progress`` is called as each one is done, ``say`` with news
    of the formal lane, which comes first and takes longest. ``workers``: processes among which the claims are shared;
    more than one only where this module may be imported anew, so not in a script without a main guard. Raises
    SourcesChanged if these processes find other files than were read here.
    """
    claims = register()
    chosen, lanes = [claims[i] for i in ids or claims], tuple(lanes)
    wanted = [c.id for c in chosen if "formal" in lanes and c.id in formal.LEMMAS]
    proved = formal.check(wanted, say=say) if wanted else {}
    reports = []
    for claim, (results, controls) in zip(chosen, checked_in_turn(chosen, lanes, workers), strict=True):
        if claim.id in proved:
            results["formal"] = formal_result(proved[claim.id])
            controls += [formal_control(c) for c in proved[claim.id].controls]
        reports.append(ClaimReport(claim, results, controls))
        progress(reports[-1])
    return reports


Checked = tuple[dict[str, LaneResult], list[ControlResult]]
FEW = 8  # claims: starting a process would take longer than checking them
MOST = 8  # processes: more would wait for the longest claim
PRINTABLE = 100  # letters of a formula; longer ones are the difference of whole networks


class SourcesChanged(Exception):
    """The files on disk are no longer the ones that run here: what was found says nothing about them."""


def checked_in_turn(claims: Sequence[Claim], lanes: tuple[str, ...], workers: int) -> Iterator[Checked]:
    """The results of each claim, in order. Claims hold functions and cannot be sent; their ids can."""
    workers = min(workers, MOST, -(-len(claims) // FEW))
    if workers < 2:
        yield from (checked(claim, lanes) for claim in claims)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(partial(checked_by_id, lanes=lanes, sources=LOADED), [claim.id for claim in claims])


def checked_by_id(id: str, lanes: tuple[str, ...], sources: str) -> Checked:
    """In another process, which has read the files anew: they must be the ones that the caller read."""
    if sources != LOADED:
        raise SourcesChanged
    return checked(register()[id], lanes)


def checked(claim: Claim, lanes: tuple[str, ...]) -> Checked:
    """One claim in these lanes but the formal one, with its controls."""
    here = tuple(lane for lane in lanes_of(claim) if lane in lanes)
    results = {lane: run_lane(claim, lane) for lane in here if lane != "formal"}
    controls = [c for c in (run_control(claim, control, here) for control in claim.controls) if c.lanes]
    return results, controls


def formal_result(proof: Any) -> LaneResult:
    done = proof.status != NOT_RUN
    return LaneResult(
        proof.status, comparisons=int(done), seconds=proof.seconds, reason=proof.reason or f"lemma {proof.lemma}"
    )


def formal_control(control: dict[str, Any]) -> ControlResult:
    return ControlResult(control["hypothesis"], control["what"], {"formal": control["status"]})


# -- the manifest ------------------------------------------------------------------------------------------------------


def manifest(reports: Sequence[ClaimReport], seconds: float) -> dict[str, Any]:
    """The manifest of the book: what was checked, how, and what came out."""
    meta = {
        "versions": versions(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "sources_sha256": LOADED,
        "seconds": round(seconds, 2),
    }
    claims = [claim_entry(r) for r in reports]
    skipped = [{"id": id, "reason": reason} for id, reason in left_out().items()]
    return {"meta": meta | {"digest": digest(claims)}, "claims": claims, "left_out": skipped}


def described(c: Claim) -> dict[str, Any]:
    """What a claim says, whatever its checks say: the fields of its entry that need no run."""
    return {
        "id": c.id,
        "rank": c.rank,
        "kind": c.kind,
        "title": c.title,
        "chapter": c.chapter,
        "statement": c.statement,
        "sources": [asdict(s) for s in c.sources],
        "hypotheses": [asdict(h) for h in c.hypotheses],
        "uses": list(c.uses),
        "command": f"python -m qkvtheory check {c.id}",
    }


def claim_entry(report: ClaimReport) -> dict[str, Any]:
    c = report.claim
    entry = described(c) | {
        "lanes": {name: result.as_dict() for name, result in report.lanes.items()},
        "controls": [control.as_dict() for control in report.controls],
        "status": report.status,
        "findings": [finding.as_dict() for finding in findings(c.id)],
    }
    try:
        return entry | {"equations": equations(c), "steps": proof_steps(c), "breaks": breaks(c)}
    except WRONG as error:  # a damaged construction: the page shows the claim red, and this in place of a proof
        return entry | {"equations": [], "steps": [], "breaks": {}, "broken": str(error)}


def proof_steps(claim: Claim, number: int = 0) -> list[dict[str, Any]]:
    """The calculation of one equation as the page prints it, from the left side as written to the right as written.

    A claim without a symbolic lane has none.
    """
    if "symbolic" not in claim.lanes:
        return []
    left, right = both_sides(claim)[number]
    steps: list[dict[str, Any]] = [{"latex": left, "reason": "", "needs": []}]
    for step in calculation(claim, number).steps:
        latex = step.shown.latex()
        if latex != steps[-1]["latex"]:
            steps.append({"latex": latex, "reason": reason(claim, step.reason), "needs": list(step.needs)})
    if right != steps[-1]["latex"]:
        steps.append({"latex": right, "reason": "factor again", "needs": []})
    return steps


def reason(claim: Claim, name: str) -> str:
    """A reason in words; another claim is named by its role, so that a page links it."""
    sentences = {h.id: f"{h.id}: {h.sentence}" for h in claim.hypotheses}
    wording = {"": "multiply out", "definition": "definition"}
    return sentences.get(name) or wording.get(name) or f"by {{claim}}`{name}`"


def breaks(claim: Claim) -> dict[str, dict[str, Any]]:
    """For each hypothesis: the step that fails without it, and what is left over or refused."""
    steps = proof_steps(claim)
    found = {}
    for hypothesis in claim.hypotheses:
        number = next((i for i, step in enumerate(steps) if hypothesis.id in step["needs"]), None)
        what = counterexample(claim, hypothesis.id) if number is None else left_over(claim, hypothesis.id)
        found[hypothesis.id] = {"step": number, **what}
    return found


def left_over(claim: Claim, hypothesis: str) -> dict[str, str]:
    rest = broken_without(lambda: sides_without(claim, hypothesis))
    if isinstance(rest, str):
        return {"message": in_formulas(rest), "latex": ""}
    return {"message": "The two sides then differ by", "latex": rest.latex()}


def counterexample(claim: Claim, hypothesis: str) -> dict[str, str]:
    """What the first control of this hypothesis leaves over, in symbols where it can be said."""
    control = next(c for c in claim.controls if c.hypothesis == hypothesis)
    if control.sides is None or "symbolic" not in control.lanes:
        return {"message": control.what, "latex": ""}
    try:
        sides = ((value_of(a), value_of(b)) for a, b in control.sides(Words()))
        rest = next(a - b for a, b in sides if a != b)
    except (HypothesisError, StopIteration) as refusal:
        return {"message": f"Take {control.what}: {in_formulas(str(refusal))}", "latex": ""}
    if written_size(rest, {}) > PRINTABLE:
        message = f"Take {control.what}. The two sides then differ, by more than a page can print."
        return {"message": message, "latex": ""}
    return {"message": f"Take {control.what}. The two sides then differ by", "latex": rest.latex()}


def written_size(word: Word, known: dict[Letter, int]) -> int:
    """How many letters it takes to write this out. Letters hold words again, and deep ones many times the same."""
    for letter in (letter for letters, _ in word.terms for letter in letters):
        if letter not in known:
            known[letter] = 1 + sum(written_size(argument, known) for argument in letter.args)
    return sum(known[letter] for letters, _ in word.terms for letter in letters)


def in_formulas(message: str) -> str:
    """A refusal for the page: the names of matrices become formulas."""
    names = r"\b((?:Theta|Phi|Lambda|Pi)(?:_\w+)?|[A-Z]_\w+(?:\^\w+)?|[GX])(?![\w^])"
    return re.sub(names, lambda name: f"${latex_name(name[1])}$", message)


def versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "qkvtheory": qkvtheory.__version__}
    for package in ("numpy", "sympy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def sources_sha256() -> str:
    """A hash of every source a verdict depends on: the package (without pictures and widgets), proofs and controls, and
    the stored results of trainings.
    """
    found = hashlib.sha256()
    files = [p for p in PACKAGE.rglob("*.py") if not UNCHECKED & set(p.relative_to(PACKAGE).parts)]
    files += [*PROOFS.glob("*.v"), *PROOFS.glob("controls.toml")]
    files += (PACKAGE.parent / "book" / "results").glob("*.json")
    for path in sorted(files):
        found.update(f"{path.relative_to(PACKAGE.parent).as_posix()}\n".encode())
        found.update(path.read_bytes())
    return found.hexdigest()


# The sources as they were when Python read them: a later edit is not what runs here, so no verdict may carry its hash.
LOADED = sources_sha256()


def edited_since_loaded() -> bool:
    """Are the files on disk no longer the ones that run here?"""
    return sources_sha256() != LOADED


def digest(claims: Sequence[Any]) -> str:
    """A hash of the entries of a manifest. Anyone can compute it: it guards against accidents, not against intent."""
    return hashlib.sha256(json.dumps(claims, sort_keys=True).encode()).hexdigest()


def doubts(stored: dict[str, Any]) -> list[str]:
    """Why a stored manifest does not speak about what is here: other sources, other versions, entries edited since."""
    meta, made, here = stored["meta"], stored["meta"].get("versions", {}), versions()
    found = [] if meta.get("sources_sha256") == sources_sha256() else ["the sources changed since it was made"]
    found += [
        f"it was made with {name} {made.get(name, 'of no known version')}, here is {here.get(name, 'none')}"
        for name in here | made
        if made.get(name) != here.get(name)
    ]
    if meta.get("digest") != digest(stored["claims"]):
        found.append("its entries were edited after it was made")
    return found


def write(path: Path, reports: Sequence[ClaimReport], seconds: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(manifest(reports, seconds), indent=1, ensure_ascii=False)
    temporary = path.with_suffix(".part")
    temporary.write_text(text + "\n", encoding="utf-8")
    temporary.replace(path)  # a reader never sees half a manifest


def timed_run(
    ids: Sequence[str],
    lanes: Iterable[str],
    progress: Callable[[ClaimReport], None],
    say: Callable[[str], None] = lambda line: None,
    workers: int = 1,
) -> tuple[list[ClaimReport], float]:
    start = time.perf_counter()
    reports = run(ids, lanes, progress, say, workers)
    return reports, time.perf_counter() - start
