"""Put small faults into the code, one by one, and see that a test fails at each.

    python -m scripts.mutate [WORD ...]

The faults are those of ``mutants.yaml``; with words, only those whose file or code holds one.
Works on a copy of the checkout, and runs the quick tests that cover the file. Ends with status 1 if
any fault survives, which means that no test noticed it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("sae_lens_poly", "tests", "scripts", "pyproject.toml")


@dataclass(frozen=True)
class Mutant:
    """A piece of code that occurs once in a file, and what stands in its place."""

    tests: str
    file: str
    old: str
    new: str


def mutants() -> Iterator[Mutant]:
    """Those of the file."""
    for group in yaml.safe_load(Path(__file__).with_name("mutants.yaml").read_text()):
        tests = group.pop("tests")
        for file, faults in group.items():
            for old, new in faults:
                yield Mutant(tests, file, old, new)


def survives(mutant: Mutant, copy: Path) -> bool:
    """Whether the tests pass with the fault in place.

    Raises:
        SystemExit: If the code that it replaces does not occur once, or the tests do not run.
    """
    path = copy / "sae_lens_poly" / mutant.file
    text = path.read_text()
    if text.count(mutant.old) != 1:
        sys.exit(f"{mutant.file} holds {mutant.old!r} {text.count(mutant.old)} times, not once")
    path.write_text(text.replace(mutant.old, mutant.new))
    options = ("-x", "-q", "-p", "no:cacheprovider", "-m", "not slow")
    finished = subprocess.run(
        [sys.executable, "-m", "pytest", *options, mutant.tests],
        cwd=copy,
        env=os.environ | {"PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
        check=False,
    )
    path.write_text(text)
    if finished.returncode not in (0, 1):
        sys.exit(f"{mutant.tests} did not run:\n{finished.stdout}{finished.stderr}")
    return finished.returncode == 0


def main() -> int:
    """Run the mutants that are named, and say which survive."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="run only mutants whose file or code holds one")
    words = parser.parse_args().words
    chosen = [m for m in mutants() if not words or any(w in m.file + m.old for w in words)]
    survivors = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in COPIED:
            if (ROOT / name).is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(ROOT / name, copy / name, ignore=ignored)
            else:
                shutil.copy(ROOT / name, copy)
        for mutant in chosen:
            alive = survives(mutant, copy)
            survivors += alive
            fate = "SURVIVES" if alive else "killed"
            print(f"{fate:8}  {mutant.file}: {mutant.old!r} -> {mutant.new!r}", flush=True)
    print(f"{len(chosen)} mutants, {survivors} survived")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
