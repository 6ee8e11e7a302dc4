"""Interrupt every file operation of every scenario, fill the disk, and count."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.kill_sweep.scenarios import SCENARIOS, Materials
from tests.kill_sweep.trials import BEFORE, CUT, FULL, HALF, WRONG, small_disk, sweep

HEAD = (BEFORE, HALF, CUT, FULL, WRONG)


def table(counts: dict[str, Counter[str]], on_disk: bool) -> str:
    """Trials by scenario."""
    width = max(map(len, counts))
    lines = [" " * width + "".join(f"  {heading}" for heading in HEAD)]
    for name, found in counts.items():
        cells = (f"  {found[heading]:>{len(heading)}}" for heading in HEAD)
        lines.append(name.ljust(width) + "".join(cells))
    disk = ", and on a disk of 8 MB" if on_disk else ""
    return "\n".join([*lines, "", f"disk full: by a limit on the size of files{disk}"])


def main() -> int:
    """Run all; status 1 where one went wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.kill_sweep", description=__doc__)
    parser.add_argument("--only", choices=list(SCENARIOS))
    parser.add_argument("--every", type=int, default=1, help="each so-many-th operation")
    parser.add_argument("--output", type=Path, help="where to write the table")
    options = parser.parse_args()
    os.environ["TQDM_DISABLE"] = "1"
    materials = Materials()
    names = [options.only] if options.only else list(SCENARIOS)
    counts: dict[str, Counter[str]] = {name: Counter() for name in names}
    on_disk = False
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            place = Path(folder, name.replace(" ", "-"))
            outcomes = list(sweep(SCENARIOS[name](materials, place / "run"), options.every))
            with small_disk(place / "disk", 8) as mounted:
                if mounted:
                    on_disk = True
                    scenario = SCENARIOS[name](materials, place / "disk" / "run")
                    outcomes += sweep(scenario, disk=place / "disk")
            for heading, wrong in outcomes:
                counts[name][heading] += 1
                if wrong:
                    print(f"{name}: {wrong}")
    text = table(counts, on_disk)
    print(text)
    if options.output:
        options.output.write_text(text + "\n", encoding="utf-8")
    return int(any(found[WRONG] for found in counts.values()))


if __name__ == "__main__":
    sys.exit(main())
