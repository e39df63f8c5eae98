"""make bench: what the design promises, measured; each time beside a peer in the same run, so that ratios travel.

python -m tests.bench [--only WORD ...] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tests.bench.lines import LINES, Row


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=[], help="lines whose name contains one of these words")
    parser.add_argument("--json", type=Path, help="write the rows here too")
    args = parser.parse_args()
    chosen = [line for line in LINES if not args.only or any(word in line.__name__ for word in args.only)]
    if not chosen:
        parser.error(f"no line matches {args.only}; there are {', '.join(line.__name__ for line in LINES)}")
    rows: list[Row] = []
    print(f"{'what':46} {'ours':>12} {'peer':>12} {'ratio':>8}  budget", flush=True)
    for line in chosen:
        for row in line():
            rows.append(row)
            print(row, flush=True)
    if args.json:
        args.json.write_text(json.dumps([row.as_dict() for row in rows], indent=1) + "\n", encoding="utf-8")
    return 0


sys.exit(main())
