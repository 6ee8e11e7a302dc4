"""Times the arms of a step benchmark in two checkouts, in turn: before and after a change.

    python benchmarks/before_after.py BEFORE AFTER --script crosscoder_step --arms ABCDEFG

Each arm runs in a process of its own, first in one checkout and then in the other, the order
changing from round to round, so that a machine that slows down slows both. Printed are the median
of the steps of each, and the median over rounds of the ratio within a round with its range.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

_BOUND = 1.03
"""No arm is to be slower by more than this."""


def steps(checkout: Path, script: str, arm: str) -> list[float]:
    """Seconds of the steps of one arm in a process of its own."""
    run = subprocess.run(
        [sys.executable, f"benchmarks/{script}.py", "--only", arm],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout.resolve())},
        capture_output=True,
        text=True,
    )
    if run.returncode:
        raise SystemExit(run.stderr)
    return json.loads(run.stdout.splitlines()[-1])["seconds"]


def main() -> None:
    """Run all arms in both checkouts and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--script", default="crosscoder_step")
    parser.add_argument("--arms", default="ABCDEFG")
    parser.add_argument("--rounds", type=int, default=4)
    options = parser.parse_args()
    checkouts = [options.before, options.after]
    for arm in options.arms:
        seconds: list[list[list[float]]] = [[], []]
        for i in range(options.rounds):
            for side in (0, 1) if i % 2 == 0 else (1, 0):
                seconds[side].append(steps(checkouts[side], options.script, arm))
        before, after = ([statistics.median(run) for run in side] for side in seconds)
        ratios = [b / a for a, b in zip(before, after, strict=True)]
        ratio = statistics.median(ratios)
        print(
            f"  {arm}  before {statistics.median(before):6.3f} s  after "
            f"{statistics.median(after):6.3f} s  ratio {ratio:.3f} ({min(ratios):.3f} to "
            f"{max(ratios):.3f})  {'ok' if ratio <= _BOUND else f'above {_BOUND}'}",
            flush=True,
        )


if __name__ == "__main__":
    main()
