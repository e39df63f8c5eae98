"""The command line: ``python -m qkvtheory check | list | show``. Exit codes: 0 ok, 1 a check failed, 2 bad input."""

from __future__ import annotations

import argparse
import difflib
import json
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qkvtheory.lanes.results import FAIL, NOT_RUN, PASS

OK, FAILED, BAD_INPUT = 0, 1, 2
MARKS = {PASS: "ok", FAIL: "FAIL", NOT_RUN: "not run here"}
VERDICTS = {PASS: "ok", FAIL: "RED", NOT_RUN: "not run"}


class BadInput(Exception):
    """A user's mistake: what was wrong, what was expected, what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; never a traceback for bad input."""
    args = parser().parse_args(arguments)
    try:
        return args.run(args)
    except BadInput as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        return BAD_INPUT
    except BrokenPipeError:
        sys.stderr.close()
        return OK


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m qkvtheory", description="Check the claims of the book on this machine."
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="command")

    def add(name: str, run: Any, help: str, example: str) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name,
            help=help,
            description=help,
            epilog=f"example: {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(run=run)
        return command

    check = add(
        "check",
        run_check,
        "run checks; exit code 1 if anything is red",
        "python -m qkvtheory check reparam-lemma --lane symbolic",
    )
    check.add_argument("ids", nargs="*", metavar="ID", help="claims to check (all by default)")
    check.add_argument(
        "--lane",
        nargs="+",
        action="extend",
        metavar="L",
        help="symbolic, exact, numeric, count, formal (all by default)",
    )
    check.add_argument("--json", metavar="FILE", help="write the manifest here")
    listing = add(
        "list", run_list, "list the claims with source, hypotheses and lanes", "python -m qkvtheory list --json"
    )
    listing.add_argument("--json", action="store_true", help="machine-readable")
    show = add(
        "show", run_show, "one claim: statement, steps, lanes, last result", "python -m qkvtheory show eliminate-q"
    )
    show.add_argument("id", metavar="ID")
    return top


# -- check -------------------------------------------------------------------------------------------------------------


def run_check(args: argparse.Namespace) -> int:
    from qkvtheory.lanes import report

    ids = known_ids(args.ids)
    lanes = known_lanes(args.lane or report.LANES)
    target = writable(args.json)
    if "formal" in lanes:
        print("compiling the proofs, if a proof assistant is installed ...", file=sys.stderr, flush=True)
    reports, seconds = report.timed_run(ids, lanes, print_report)
    if all(r.status == NOT_RUN for r in reports):
        lacking = f"none of these claims has the lane {' '.join(lanes)}; see 'python -m qkvtheory show {ids[0]}'"
        raise BadInput(next((lane.reason for r in reports for lane in r.lanes.values()), lacking))
    if report.edited_since_loaded():
        print("error: the sources changed during the run, so it says nothing about them; run it again", file=sys.stderr)
        return FAILED
    if target:
        report.write(target, reports, seconds)
    print(summary(reports, seconds))
    return FAILED if any(r.red for r in reports) else OK


def summary(reports: Sequence[Any], seconds: float) -> str:
    """The last line: what ran and how it ended, and by name what did not run."""
    ran = [r for r in reports if r.status != NOT_RUN]
    idle = [r.claim.id for r in reports if r.status == NOT_RUN]
    red, controls = sum(r.red for r in ran), sum(len(r.controls) for r in ran)
    line = f"{len(ran)} claims, {controls} controls, {seconds:.1f} s: {f'{red} RED' if red else 'all green'}"
    return line + (f"\nnot run ({len(idle)}): {', '.join(idle)}" if idle else "")


def print_report(report: Any) -> None:
    lanes = "  ".join(f"{name} {MARKS[r.status]}" for name, r in report.lanes.items()) or "has none of these lanes"
    rejected = sum(c.status == "rejected" for c in report.controls)
    controls = f"  controls {rejected}/{len(report.controls)} rejected" if report.controls else ""
    print(f"{VERDICTS[report.status]:8}{report.claim.id:28} {lanes}{controls}", flush=True)
    for reason in report.reasons:
        print(textwrap.indent(textwrap.fill(reason, 110), "       "), flush=True)


def known_ids(ids: Sequence[str]) -> list[str]:
    from qkvtheory.claims.register import register

    claims = register()
    for id in ids:
        if id not in claims:
            near = difflib.get_close_matches(id, claims, 1, 0.5)
            hint = f"did you mean '{near[0]}'?" if near else "'python -m qkvtheory list' names them all"
            raise BadInput(f"there is no claim called '{id}'; {hint}")
    return list(ids) or list(claims)


def known_lanes(lanes: Sequence[str]) -> tuple[str, ...]:
    from qkvtheory.lanes.report import LANES

    for lane in lanes:
        if lane not in LANES:
            raise BadInput(f"there is no lane called '{lane}'; expected one of {', '.join(LANES)}")
    return tuple(lanes)


def writable(path: str | None) -> Path | None:
    """Refuse a bad target before minutes of work, not after."""
    if path is None:
        return None
    target = Path(path)
    if target.is_dir():
        raise BadInput(f"--json needs a file, but '{path}' is a folder; try '{target / 'claims.json'}'")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.with_suffix(".part").touch()
        target.with_suffix(".part").unlink()
    except OSError as error:
        raise BadInput(f"cannot write '{path}': {error.strerror}; choose another place for --json") from error
    return target


# -- list and show -----------------------------------------------------------------------------------------------------


def run_list(args: argparse.Namespace) -> int:
    from qkvtheory.claims.register import register
    from qkvtheory.lanes.report import lanes_of

    claims = register().values()
    if args.json:
        rows = [listed(c, lanes_of(c)) for c in claims]
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return OK
    for c in claims:
        sources = ", ".join(dict.fromkeys(s.key or "ours" for s in c.sources))
        print(f"{c.id:28} {c.rank:8} {' '.join(lanes_of(c))}")
        print(f"{'':28} {len(c.hypotheses)} hypotheses, {len(c.controls)} controls; {sources}")
    return OK


def listed(claim: Any, lanes: Sequence[str]) -> dict[str, Any]:
    return {
        "id": claim.id,
        "rank": claim.rank,
        "chapter": claim.chapter,
        "title": claim.title,
        "uses": list(claim.uses),
        "lanes": list(lanes),
        "hypotheses": {h.id: h.sentence for h in claim.hypotheses},
        "sources": [s.key or s.provenance for s in claim.sources],
    }


def run_show(args: argparse.Namespace) -> int:
    from qkvtheory.claims.register import register
    from qkvtheory.lanes.check import calculation
    from qkvtheory.lanes.report import lanes_of

    (id,) = known_ids([args.id])
    c = register()[id]
    print(f"{c.id} ({c.rank}, chapter {c.chapter})\n{c.title}\n")
    print(textwrap.fill(c.statement, 110))
    for h in c.hypotheses:
        print(f"\n{h.id} {h.name}: {h.sentence}")
        for control in (k for k in c.controls if k.hypothesis == h.id):
            print(f"   control: {control.what}")
    print("\ncalculation (symbolic lane)")
    for number, step in enumerate(calculation(c).steps):
        print(f"   {'=' if number else ' '} {step.shown}{f'   [{step.reason}]' if step.reason else ''}")
    print(f"\nlanes: {', '.join(lanes_of(c))}; uses: {', '.join(c.uses) or 'nothing'}")
    for s in c.sources:
        cited = " ".join(part for part in (s.provenance, s.key, s.version, s.name) if part)
        print(f"source: {cited}{f' ({s.note})' if s.note else ''}")
    print_last(c.id)
    return OK


def print_last(id: str) -> None:
    """The result stored by the last build, and why not to trust it, if there is a reason."""
    from qkvtheory.lanes.report import doubts

    stored = Path("_build/claims.json")
    try:
        manifest = json.loads(stored.read_text(encoding="utf-8"))
        entry = next(c for c in manifest["claims"] if c["id"] == id)
        lanes = ", ".join(f"{lane} {result['status']}" for lane, result in entry["lanes"].items())
        time, wrong = manifest["meta"]["time"], doubts(manifest)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StopIteration):
        print(f"last result: none stored here; run 'python -m qkvtheory check {id}'")
        return
    stale = f" (run the check again: {'; '.join(wrong)})" if wrong else ""
    print(f"last result, {time}{stale}: {lanes}")
