"""Ctrl-C ends a comparison of several processes, whatever is still to be done."""

import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from sae_lens_poly.comparison.arms import Arm
from sae_lens_poly.comparison.compare import Bench, Task, _do_all


@dataclass(frozen=True)
class Slow(Task):
    """Says that it has begun, and has not ended while the test waits."""

    folder: Path = Path()

    def do(self, bench):
        (self.folder / f"begun {self.seed}").touch()
        time.sleep(120)


@pytest.fixture
def ctrl_c():
    """What a shell's background jobs ignore, and hand on to be ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.usefixtures("ctrl_c")
def test_no_run_begins_after_ctrl_c(tmp_path):
    arm = Arm(name="a", flags={}, learning_rates=(0.1,), separate=False)
    tasks = [Slow(arm, "train", 0.1, seed, tmp_path) for seed in range(5)]

    def interrupt():
        while len(list(tmp_path.iterdir())) < 2:
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)  # to this process only, as kill -INT does

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        _do_all(tasks, Bench(comparison=None, output=tmp_path), jobs=2, what="runs")
    assert len(list(tmp_path.iterdir())) == 2
