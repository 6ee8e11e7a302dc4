"""What the scripts that time training steps share."""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

import torch
from sae_lens.config import SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer


def add_sizes(
    parser: argparse.ArgumentParser,
    d_model: int = 768,
    d_sae: int = 16384,
    k: int = 64,
    batch: int = 1024,
) -> None:
    """Flags for the sizes of a crosscoder, with these defaults."""
    sizes = {"n_hooks": 8, "d_model": d_model, "d_sae": d_sae, "k": k, "batch": batch}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)


def add_ranks(parser: argparse.ArgumentParser) -> None:
    """Flags for the ranks of factored weights."""
    parser.add_argument("--cp_rank", type=int, default=768)
    parser.add_argument("--ring_ranks", type=int, nargs=3, default=[4, 192, 4])


def make_trainer(
    sae: Any, batch: int, autocast: bool = False, device: str = "cpu"
) -> SAETrainer[Any, Any]:
    """Stock SAELens' trainer, for steps of so many tokens."""
    cfg = SAETrainerConfig(
        total_training_samples=10**9,
        lr=3e-4,
        lr_end=3e-4,
        train_batch_size_samples=batch,
        dead_feature_window=10**6,
        feature_sampling_window=10**6,
        autocast=autocast,
        device=device,
    )
    return SAETrainer(cfg, sae, iter(()))


def print_steps(sae: Any, batch: int, d_in: int, warm_up: int, steps: int) -> None:
    """Time steps on random activations; print their seconds, peak memory, parameters, as JSON."""
    trainer = make_trainer(sae, batch)
    batches = [torch.randn(batch, d_in) for _ in range(2)]
    seconds = []
    for step in range(warm_up + steps):
        start = time.perf_counter()
        trainer.step(batches[step % 2])
        seconds.append(time.perf_counter() - start)
        trainer.n_training_steps += 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    n_parameters = sum(p.numel() for p in sae.parameters())
    print(json.dumps({"seconds": seconds[warm_up:], "peak_gib": peak, "parameters": n_parameters}))


def run_in_own_process(arm: str) -> dict[str, Any]:
    """What :func:`print_steps` says of an arm when this script runs with ``--only`` that arm."""
    run = subprocess.run([sys.executable, *sys.argv, "--only", arm], capture_output=True, text=True)
    if run.returncode:
        raise SystemExit(run.stderr)
    return json.loads(run.stdout.splitlines()[-1])
