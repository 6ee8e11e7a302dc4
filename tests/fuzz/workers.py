"""Cases in a few processes, each case bounded in time and memory."""

from __future__ import annotations

import multiprocessing
import random
import resource
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path

from tests.fuzz.targets import TARGETS, Bench, Outcome, prepare_process

SECONDS = 10
"""Of the processor, for a case."""
SECONDS_ON_THE_CLOCK = 120
MEGABYTES = 2048

HANG, MEMORY = "hang", "more than 2 GB"

Case = tuple[str, int, int]
"""Target, seed, number."""


def run_cases(cases: Sequence[Case], jobs: int) -> Iterator[tuple[Case, Outcome]]:
    """Outcomes of cases, as they come.

    The processes are forked from one in which everything is imported and loaded, so that a new one
    costs nothing.
    """
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare_process(folder)
        bench = Bench(folder / "whole")
        todo, workers = list(reversed(cases)), {}

        def start(number: int) -> None:
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_work, args=(bench, folder / str(number), theirs), daemon=True
            )
            process.start()
            theirs.close()
            workers[ours] = (number, process)
            give(ours)

        def give(pipe: Connection) -> None:
            number, process = workers.pop(pipe)
            if todo:
                workers[pipe] = (number, process)
                pipe.send(todo[-1])
                given[pipe] = (todo.pop(), time.monotonic())
            else:
                pipe.close()

        given: dict[Connection, tuple[Case, float]] = {}
        for number in range(jobs):
            start(number)
        while given:
            for pipe in wait(list(given), timeout=1):
                case, _ = given.pop(pipe)
                try:
                    outcome = pipe.recv()
                except EOFError:
                    number, process = workers.pop(pipe)
                    process.join()
                    yield case, Outcome(HANG, str(case), f"ended by signal {-process.exitcode}")
                    if todo:
                        start(number)
                    continue
                yield case, outcome
                give(pipe)
            for pipe, (case, since) in list(given.items()):
                if time.monotonic() - since > SECONDS_ON_THE_CLOCK:
                    workers[pipe][1].kill()


def _work(bench: Bench, folder: Path, pipe: Connection) -> None:
    prepare_process(folder)
    bench.folder = folder
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    while True:
        try:
            case: Case = pipe.recv()
        except EOFError:
            return
        target, seed, number = case
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        outcome = TARGETS[target](bench, random.Random(f"{target} {seed} {number}"))
        signal.setitimer(signal.ITIMER_PROF, 0)
        if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > MEGABYTES * 1024:
            outcome = Outcome(MEMORY, outcome.what, outcome.said)
        pipe.send(outcome)
