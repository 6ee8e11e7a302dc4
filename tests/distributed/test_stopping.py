"""A run that loses a process, is stopped, and ends with another number of processes."""

import json
import os
import re
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from tests.distributed.test_start import torchrun

N_STEPS, BATCH = 300, 128
FLAGS = ["--training_tokens", str(N_STEPS * BATCH), "--output_path", "output"]
FLAGS += ["--n_checkpoints", "15", "--save_final_checkpoint", "True"]
SHARED = ["--latent_shards", "2"]


def workers_of(run):
    """Process ids of the workers of a torchrun."""
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    return [
        int(pid)
        for pid in children
        if b"sae_lens_poly" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


def checkpoints(folder):
    with suppress(FileNotFoundError):  # of a folder that is being exchanged
        return {state.parent for state in folder.glob("checkpoints/*/[0-9]*/trainer_state.pt")}
    return set()


def wait_for_checkpoint(run, folder, after=()):
    """Wait until a run has saved one that was not there before."""
    end = time.monotonic() + 240
    while not checkpoints(folder) - set(after):
        assert run.poll() is None, run.communicate()[1][-3000:]
        assert time.monotonic() < end
        time.sleep(0.2)


def end_of(run):
    out, err = run.communicate(timeout=120)
    return out, "\n".join(line for line in err.splitlines() if "torch/distributed" not in line)


@pytest.mark.slow
def test_a_run_that_loses_a_process_and_is_stopped_ends_with_fewer(tmp_path):
    run = torchrun(4, tmp_path, *FLAGS, *SHARED)
    wait_for_checkpoint(run, tmp_path)
    os.kill(workers_of(run)[2], signal.SIGKILL)
    _, err = end_of(run)
    assert run.returncode != 0
    assert err.count("error: a process of this run has ended") == 1
    assert "/sae_lens_poly/" not in err  # no traceback of ours; torchrun has one of its own

    before = checkpoints(tmp_path)
    run = torchrun(4, tmp_path, *FLAGS, *SHARED, "--resume_from_checkpoint", "checkpoints")
    wait_for_checkpoint(run, tmp_path, before)
    os.kill(run.pid, signal.SIGTERM)
    _, err = end_of(run)
    (saved,) = re.findall(r"state saved to (\S+)", err)
    state = torch.load(tmp_path / saved / "trainer_state.pt", weights_only=True)
    assert 0 < state["n_training_steps"] < N_STEPS
    assert state["n_training_samples"] == state["n_training_steps"] * BATCH

    run = torchrun(2, tmp_path, *FLAGS, "--resume_from_checkpoint", saved)
    out, err = end_of(run)
    assert run.returncode == 0, err[-3000:]
    assert out.count("saved to output: ") == 1
    (final,) = tmp_path.glob("checkpoints/*/final_*")
    state = torch.load(final / "trainer_state.pt", weights_only=True)
    assert state["n_training_steps"] == N_STEPS
    assert state["n_training_samples"] == N_STEPS * BATCH
    figures = json.loads((tmp_path / "output" / "evaluation.json").read_text())
    assert figures
