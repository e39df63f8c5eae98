"""The command line: ``python -m qkvtheory check | list | show | count | train | sweep | decode``.

Exit codes: 0 pass, 1 a check failed, 2 bad input.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from qkvtheory.count.config import printable
from qkvtheory.lanes.results import FAIL, NOT_RUN, PASS

OK, FAILED, BAD_INPUT = 0, 1, 2
LONGEST = 1500  # characters of a message; only what was typed can make it longer
BIBLIOGRAPHY = Path(__file__).parents[1] / "book" / "references.bib"
MARKS = {PASS: "pass", FAIL: "FAIL", NOT_RUN: "not run here"}
VERDICTS = {PASS: "pass", FAIL: "RED", NOT_RUN: "not run"}


class BadInput(Exception):
    """A user's mistake: what was wrong, what was expected, what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; never a traceback for bad input."""
    args = parser().parse_args(arguments)
    try:
        return args.run(args)
    except BadInput as mistake:
        print(f"error: {readable(str(mistake))}", file=sys.stderr)
        return BAD_INPUT
    except BrokenPipeError:
        sys.stderr.close()
        return OK


def readable(message: str) -> str:
    """A message that repeats what was typed: no control characters, and not a page long."""
    if len(message) > LONGEST:
        message = f"{message[: LONGEST // 2]} ... {message[-LONGEST // 2 :]}"
    return "\n".join(map(printable, message.split("\n")))


def parser() -> argparse.ArgumentParser:
    from qkvtheory.count import command as count_command
    from qkvtheory.experiments import decode as decode_command
    from qkvtheory.experiments import sweep as sweep_command
    from qkvtheory.experiments import train as train_command

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
        help="symbolic, exact, numeric, count, rank, experiment, formal (all by default)",
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
    count = add("count", run_count, "parameters, multiply-accumulates and KV cache of a model", count_command.EXAMPLE)
    count_command.options(count)
    train = add("train", run_train, "train a small model with any variant (needs PyTorch)", train_command.EXAMPLE)
    train_command.options(train)
    sweep = add("sweep", run_sweep, "train a grid of variants, rates, seeds, ...", sweep_command.EXAMPLE)
    sweep_command.options(sweep)
    decode = add("decode", run_decode, "go on with a text, or time decoding with real caches", decode_command.EXAMPLE)
    decode_command.options(decode)
    return top


# -- check -------------------------------------------------------------------------------------------------------------


def run_check(args: argparse.Namespace) -> int:
    from qkvtheory.lanes import report

    ids = known_ids(args.ids)
    lanes = known_lanes(args.lane or report.LANES)
    target = writable(args.json)
    news = partial(print, file=sys.stderr, flush=True)
    try:
        reports, seconds = report.timed_run(ids, lanes, print_report, news, workers=os.cpu_count() or 1)
    except report.SourcesChanged:
        return edited()
    if all(r.status == NOT_RUN for r in reports):
        lacking = f"none of these claims has the lane {' '.join(lanes)}; see 'python -m qkvtheory show {ids[0]}'"
        raise BadInput(next((lane.reason for r in reports for lane in r.lanes.values()), lacking))
    if report.edited_since_loaded():
        return edited()
    if target:
        report.write(target, reports, seconds)
    print(summary(reports, seconds))
    return FAILED if any(r.red for r in reports) else OK


def edited() -> int:
    print("error: the sources changed during the run, so it says nothing about them; run it again", file=sys.stderr)
    return FAILED


def summary(reports: Sequence[Any], seconds: float) -> str:
    """The last line: what ran and how it ended, and by name what did not run."""
    ran = [r for r in reports if r.status != NOT_RUN]
    idle = [r.claim.id for r in reports if r.status == NOT_RUN]
    red, controls = sum(r.red for r in ran), sum(len(r.controls) for r in ran)
    verdict = f"{red} RED" if red else "all green"
    line = f"{counted(len(ran), 'claim')}, {counted(controls, 'control')}, {seconds:.1f} s: {verdict}"
    return line + (f"\nnot run ({len(idle)}): {', '.join(idle)}" if idle else "")


def counted(number: int, what: str) -> str:
    """
    >>> counted(1, "claim"), counted(2, "hypothesis")
    ('1 claim', '2 hypotheses')
    """
    if number == 1:
        return f"1 {what}"
    return f"{number} {what[:-2]}es" if what.endswith("is") else f"{number} {what}s"


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
        controls = sum(1 for _ in controls_of(c))
        print(f"{'':28} {counted(len(c.hypotheses), 'hypothesis')}, {counted(controls, 'control')}; {sources}")
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


def controls_of(claim: Any) -> Iterator[tuple[str, str]]:
    """Every control that ``check`` runs, with the hypothesis it drops: the claim's own, then those of its proof."""
    from qkvtheory.lanes import formal

    yield from ((control.hypothesis, control.what) for control in claim.controls)
    if claim.id in formal.LEMMAS and formal.PROOFS.exists():
        yield from ((c.hypothesis, f"{c.what} (formal lane)") for c in formal.controls() if c.claim == claim.id)


def run_show(args: argparse.Namespace) -> int:
    from qkvtheory.claims.register import register
    from qkvtheory.evidence import findings
    from qkvtheory.lanes.check import calculation
    from qkvtheory.lanes.report import lanes_of

    (id,) = known_ids([args.id])
    c = register()[id]
    print(f"{c.id} ({c.rank}, chapter {c.chapter})\n{plain(c.title)}\n")
    print(textwrap.fill(plain(c.statement), 110))
    for finding in findings(id):
        print("\n" + textwrap.fill(f"{plain(finding.question)} {finding.sentence}", 110, subsequent_indent="   "))
    headings = {h.id: f"{h.id} {h.name}: {h.sentence}" for h in c.hypotheses} | {"construction": "wrong constructions"}
    controls = list(controls_of(c))
    for hypothesis, heading in headings.items():
        mine = [what for dropped, what in controls if dropped == hypothesis]
        if mine or hypothesis != "construction":
            print("\n" + plain("\n   control: ".join([heading, *mine])))
    if "symbolic" in c.lanes:
        print("\ncalculation (symbolic lane)")
        for number, step in enumerate(calculation(c).steps):
            shown = str(step.shown).replace(r"^\prime", "'")
            print(f"   {'=' if number else ' '} {shown}{f'   [{step.reason}]' if step.reason else ''}")
    print(f"\nlanes: {', '.join(lanes_of(c))}; uses: {', '.join(c.uses) or 'nothing'}")
    for s in c.sources:
        print(f"source: {cited(s)}{f': {plain(s.note)}' if s.note else ''}")
    print_last(c.id)
    return OK


def cited(source: Any) -> str:
    """Who said it, when and where; the key of the bibliography stands for both where the book is not at hand."""
    if not source.key:
        return "ours"
    where = ", ".join(part for part in (source.version, source.name, source.provenance) if part)
    entry = f"{author_year(source.key)} ({source.key})".removeprefix(" ")
    return f"{entry}, {where}"


def author_year(key: str, bibliography: Path = BIBLIOGRAPHY) -> str:
    """Last names and year from the book's bibliography; empty if it is not here."""
    text = bibliography.read_text(encoding="utf-8") if bibliography.exists() else ""
    entry = next((e for e in text.split("\n@") if e.partition("{")[2].startswith(f"{key},")), "")
    author, year = (re.search(rf"{name} = {{(.+?)}},?\n", entry) for name in ("author", "year"))
    if not (author and year):
        return ""
    first, *others = [name.partition(",")[0] for name in author[1].split(" and ")]
    shown = [first, others[0] if len(others) == 1 else "others"] if others else [first]
    return f"{' and '.join(shown)} {year[1]}"


# -- TeX as plain letters ----------------------------------------------------------------------------------------------

TOKENS = re.compile(
    r"\\(?:operatorname|mathrm)\{\w+\}|GL|\\[A-Za-z]+|\\.|\d+|\S"
)  # a name of several letters is one token
SIGNS = {r"\mapsto": " -> ", r"\le": " <= ", r"\ge": " >= ", r"\ne": " != ", r"\mid": " | ", "=": " = ", "<": " < ",
         "+": " + ", r"\,": " ", ",": ", ", r"\times": " x "}  # fmt: skip
FRACTIONS = {r"\frac", r"\tfrac", r"\dfrac"}
SMALL = {r"\top": "T", r"\dots": "...", r"\tilde": "~", r"\mathbf": "", r"\mathcal": "", r"\mathbb": "", r"\big": "",
         r"\lVert": "|", r"\rVert": "|", r"\nabla": "grad", r"\varphi": "phi", r"\propto": " ~ "}  # fmt: skip


def plain(text: str) -> str:
    r"""A text with TeX between dollars in plain letters, as the calculations write them.

    >>> plain(r"**If** $\tilde W_K=W_Q^{-1}W_K$, then $ZW_Q^{\top}\ne0$")
    'If ~W_K = W_Q^-1 W_K, then Z W_Q^T != 0'
    >>> plain(r"$W_Q^{(l)}$, $\tfrac12(M+M^{\top})$, $\frac{d(d-1)}2$, $\mathrm{MHA}(X)$, $A_{i\sigma(i)}$")
    'W_Q^(l), 1/2(M + M^T), (d(d-1))/2, MHA(X), A_(i sigma(i))'
    >>> plain("see {claim}`train-digits`")
    'see train-digits'
    """
    text = re.sub(r"\{claim\}`([\w-]+)`", r"\1", text)
    text = re.sub(r"\\begin\{pmatrix\}(.*?)\\end\{pmatrix\}", rows_in_brackets, text)
    words = [re.sub(r"\*+(\S.*?\S|\S)\*+", r"\1", part) for part in text.split("$")]
    words[1::2] = [plain_formula(TOKENS.findall(part)) for part in text.split("$")[1::2]]
    return "".join(words)


def rows_in_brackets(matrix: re.Match[str]) -> str:
    """1&2\\\\3&4 as [1, 2; 3, 4]."""
    return "[" + "; ".join(row.replace("&", ",") for row in matrix[1].split("\\\\")) + "]"


def plain_formula(tokens: list[str]) -> str:
    """One formula, or one group in braces; consumes its tokens. Neighboring letters are a product: W X, not WX."""
    written = ""
    while tokens and (token := tokens.pop(0)) != "}":
        script = written[-1:] in ("^", "_")
        if token == "{":
            shown = plain_formula(tokens)
            names = re.search(r"[A-Za-z]{2}", shown)
            shown = shown.replace(" ", "") if written[-1:] == "_" and not names else shown
            shown = f"({shown})" if script and not re.fullmatch(r"-?\w+|\(.*\)", shown) else shown
        elif token in FRACTIONS:
            shown = "/".join(argument(tokens) for _ in range(2))
        else:
            name = re.sub(r"\\(?:operatorname|mathrm)\{(\w+)\}", r"\1", token).removeprefix("\\")
            shown = token if script and token in "+-" else SIGNS.get(token, SMALL.get(token, name))
        apart = not script and re.match(r"[A-Za-z0-9~]", shown) and re.search(r"[A-Za-z0-9)]$", written)
        written += f" {shown}" if apart else shown
    return re.sub(r" +", " ", written).strip().replace(" ,", ",")


def argument(tokens: list[str]) -> str:
    """The next argument of a fraction: a group, or one digit or letter."""
    token = tokens.pop(0)
    if token == "{":
        shown = plain_formula(tokens)
        return shown if re.fullmatch(r"\w+", shown) else f"({shown})"
    if len(token) > 1 and token.isdigit():  # \\tfrac12 is 1/2
        tokens.insert(0, token[1:])
    return token[0] if token.isdigit() else token.removeprefix("\\")


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


# -- count -------------------------------------------------------------------------------------------------------------


def run_count(args: argparse.Namespace) -> int:
    from qkvtheory.count import command

    try:
        command.run(args)
    except ValueError as mistake:
        raise BadInput(str(mistake)) from mistake
    return OK


# -- train, sweep and decode -------------------------------------------------------------------------------------------


def run_train(args: argparse.Namespace) -> int:
    from qkvtheory.experiments import train

    return trained(train.run, args)


def run_sweep(args: argparse.Namespace) -> int:
    from qkvtheory.experiments import sweep

    return trained(sweep.run, args)


def run_decode(args: argparse.Namespace) -> int:
    from qkvtheory.experiments import decode

    return trained(decode.run, args)


def trained(run: Any, args: argparse.Namespace) -> int:
    """Whatever is missing or cannot be read or written is the user's to mend."""
    from qkvtheory.experiments import Missing

    try:
        return run(args)
    except OSError as error:
        named = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
        stays = "; what was written before stays" if os.path.exists(args.out or "") else ""
        raise BadInput(f"{named}{stays}") from error
    except (Missing, ValueError) as mistake:
        raise BadInput(str(mistake)) from mistake
