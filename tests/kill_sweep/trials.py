"""A scenario interrupted in all ways."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.kill_sweep.operations import KILLED, NEVER, Ending, Interruption, count_operations
from tests.kill_sweep.scenarios import Scenario

BEFORE, HALF, CUT, FULL = "killed before", "killed half-way", "cut by the system", "disk full"
WRONG = "wrong"

#: Bytes of the largest file that may be written, or that are free.
SIZES = (0, 50, 500, 3_000, 20_000, 60_000, 90_000)


@dataclass(frozen=True)
class Trial:
    """One interruption."""

    heading: str
    interruption: Interruption = NEVER
    n_free: int | None = None
    """Bytes that are free on the disk."""


def sweep(
    scenario: Scenario,
    every: int = 1,
    sizes: tuple[int, ...] = SIZES,
    disk: Path | None = None,
) -> Iterator[tuple[str, str]]:
    """Interrupt a scenario, each time from the same state.

    Args:
        scenario: What to interrupt.
        every: Take each so-many-th operation only.
        sizes: Limits in bytes.
        disk: A small disk that the scenario lies on: it is filled, and nothing else is tried.

    Yields:
        Heading of the table, and what was wrong, if so.
    """
    scenario.prepare()
    scenario.save_state()
    scenario.reset()
    old = scenario.snapshot()
    n_operations = count_operations(scenario.run(NEVER))
    new = scenario.snapshot()
    assert old != new
    assert not scenario.strays()
    trials = [Trial(FULL, n_free=n) for n in sizes]
    if disk is None:
        trials = [
            *(Trial(BEFORE, Interruption(at=n)) for n in range(0, n_operations, every)),
            *(Trial(HALF, Interruption(at=n, half=True)) for n in range(0, n_operations, every)),
            *(Trial(CUT, Interruption(most_bytes=n, dies_of_it=True)) for n in sizes),
            *(Trial(FULL, Interruption(most_bytes=n)) for n in sizes),
        ]
    for trial in trials:
        scenario.reset()
        with _filled(disk, trial.n_free):
            ending = scenario.run(trial.interruption)
        try:
            _check_ending(ending, trial, scenario)
            scenario.check(ending, old, new)
        except Exception as error:
            yield WRONG, f"{trial}: {type(error).__name__}: {error}"
        else:
            yield trial.heading, ""


def _check_ending(ending: Ending, trial: Trial, scenario: Scenario) -> None:
    if trial.heading == FULL:
        assert "Traceback" not in ending.said, ending.said
        errors = [line for line in ending.said.splitlines() if line.startswith("error: ")]
        assert len(errors) == (1 if ending.status else 0), ending.said
        assert not scenario.strays()
    elif trial.heading != CUT:
        assert ending.status in (0, KILLED), ending.said


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[bool]:
    """Within it, a folder is a disk of so many MB; False where none can be mounted."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        mounted = False
    try:
        yield mounted
    finally:
        if mounted:
            # Lazily: weights that are still looked at are mapped files.
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def _filled(disk: Path | None, n_free: int | None) -> Iterator[None]:
    """Within it, a disk has so many bytes left."""
    if disk is None or n_free is None:
        yield
        return
    filler = disk / "filler"
    filler.write_bytes(bytes(max(0, shutil.disk_usage(disk).free - n_free)))
    try:
        yield
    finally:
        filler.unlink()
