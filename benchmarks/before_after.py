"""Times the arms of a step benchmark in two checkouts, step by step in turn: before and after.

    python benchmarks/before_after.py BEFORE AFTER --script crosscoder_step --arms ABCDEFG

For each arm both checkouts are loaded, each in a process of its own, and then take one step in
turn, the order changing from pair to pair, so that a machine that slows down slows both. Printed
are the median step of each, and the median of the ratios within a pair with the range that holds
it with 95% probability (a bootstrap over pairs).
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
from pathlib import Path

_BOUND = 1.03
"""No arm is to be slower by more than this."""

_WORKER = """
import importlib, sys, time
import torch
script, arm = sys.argv[2:]
sys.path.insert(0, "benchmarks")
import step_timing

def wait_for_steps(sae, batch, d_in, warm_up, steps):
    trainer = step_timing.make_trainer(sae, batch)
    batches = [torch.randn(batch, d_in) for _ in range(2)]
    for line in sys.stdin:
        start = time.perf_counter()
        trainer.step(batches[trainer.n_training_steps % 2])
        print(time.perf_counter() - start, flush=True)
        trainer.n_training_steps += 1

module = importlib.import_module(script)
module.print_steps = wait_for_steps
sys.argv = [script, "--only", arm]
module.main()
"""
"""Runs in either checkout, of which the older one may know nothing of this script."""


class Arm:
    """One arm of a checkout, in a process that takes a step when it is told."""

    def __init__(self, checkout: Path, script: str, arm: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _WORKER, "-", script, arm],
            cwd=checkout,
            env={**os.environ, "PYTHONPATH": str(checkout.resolve())},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def step(self) -> float:
        """Seconds of the next step."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.process.args!r} ended: run it by itself to see why")
        return float(line)

    def end(self) -> None:
        """Let go of its memory."""
        self.process.communicate()


def steps_in_turn(before: Arm, after: Arm, pairs: int, warm_up: int) -> list[tuple[float, float]]:
    """Seconds of both, pair by pair."""
    measured = []
    for i in range(warm_up + pairs):
        if i % 2:
            b, a = after.step(), before.step()
        else:
            a, b = before.step(), after.step()
        measured.append((a, b))
    return measured[warm_up:]


def interval(ratios: list[float], repeats: int = 2000) -> tuple[float, float]:
    """Bounds of the median with 95% probability."""
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(repeats))
    return medians[int(0.025 * repeats)], medians[int(0.975 * repeats)]


def main() -> None:
    """Run all arms in both checkouts and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--script", default="crosscoder_step")
    parser.add_argument("--arms", default="ABCDEFG")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--warm_up", type=int, default=2)
    options = parser.parse_args()
    for name, checkout in (("before", options.before), ("after", options.after)):
        commit = subprocess.run(
            ["git", "-C", str(checkout), "log", "-1", "--format=%h %cs"],
            capture_output=True,
            text=True,
        )
        print(f"{name}: {commit.stdout.strip()}", flush=True)
    print(f"{options.script}, {options.pairs} pairs of steps", flush=True)
    for letter in options.arms:
        arms = [
            Arm(checkout, options.script, letter) for checkout in (options.before, options.after)
        ]
        pairs = steps_in_turn(arms[0], arms[1], options.pairs, options.warm_up)
        for arm in arms:
            arm.end()
        ratios = [b / a for a, b in pairs]
        ratio, (low, high) = statistics.median(ratios), interval(ratios)
        print(
            f"  {letter}  before {statistics.median(a for a, _ in pairs):6.3f} s  after "
            f"{statistics.median(b for _, b in pairs):6.3f} s  ratio {ratio:.3f} "
            f"({low:.3f} to {high:.3f})  {'ok' if ratio <= _BOUND else f'above {_BOUND}'}",
            flush=True,
        )


if __name__ == "__main__":
    main()
