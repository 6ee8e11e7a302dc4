"""Damage saved dictionaries, checkpoints, comparison files and command lines, and count."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

from tests.fuzz.mutations import CANARY
from tests.fuzz.targets import ACCEPTED, NOT_FINITE, REFUSED, TAKEN, TARGETS, TRACEBACK
from tests.fuzz.workers import HANG, MEMORY, run_cases

COUNTS = dict(zip(TARGETS, (440, 120, 120, 320), strict=True))
RIGHT = (REFUSED, ACCEPTED)
WRONG = (TAKEN, NOT_FINITE, TRACEBACK, HANG, MEMORY)


def table(counts: dict[str, Counter[str]], seed: int, executed: bool) -> str:
    """Outcomes by target."""
    head = ["", "cases", *RIGHT, *WRONG]
    rows = [
        [target, str(sum(found.values())), *(str(found[kind]) for kind in (*RIGHT, *WRONG))]
        for target, found in counts.items()
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (head, *rows)
    ]
    lines += ["", f"seed {seed}; code in a file was executed: {'yes' if executed else 'never'}"]
    return "\n".join(lines)


def main() -> int:
    """Run all cases; status 1 where one was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--share", type=float, default=1.0, help="of the cases of each target")
    parser.add_argument("--only", choices=list(TARGETS), help="one target")
    parser.add_argument("--number", type=int, help="one case of it")
    parser.add_argument("--all", action="store_true", help="print what was right as well")
    parser.add_argument("--output", type=Path, help="where to write the table")
    options = parser.parse_args()
    CANARY.unlink(missing_ok=True)
    numbers = {t: range(round(n * options.share)) for t, n in COUNTS.items()}
    if options.only:
        numbers = {options.only: numbers[options.only]}
        if options.number is not None:
            numbers[options.only] = range(options.number, options.number + 1)
    cases = [(target, options.seed, n) for target, which in numbers.items() for n in which]
    counts: dict[str, Counter[str]] = {target: Counter() for target in numbers}
    for (target, _, number), outcome in run_cases(cases, options.jobs):
        counts[target][outcome.kind] += 1
        if options.all or outcome.kind in WRONG:
            print(f"{target} {number}: {outcome.kind}: {outcome.what}\n    {outcome.said}")
    text = table(counts, options.seed, CANARY.exists())
    print(text)
    if options.output:
        options.output.write_text(text + "\n", encoding="utf-8")
    return int(CANARY.exists() or any(found[kind] for found in counts.values() for kind in WRONG))


if __name__ == "__main__":
    sys.exit(main())
