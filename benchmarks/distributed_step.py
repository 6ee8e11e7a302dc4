"""Times training steps of a crosscoder by one process and by two, and counts what they exchange.

    python benchmarks/distributed_step.py

Each arm is a run of torchrun by itself, with one thread for each process: one process; two with
half of the batch each; two with half of the latents each. A step is what SAELens' trainer does with
a batch that is at hand: forward, backward, gradients of all, its statistics, clipping, Adam. The
batch is the same for all arms, so that two processes on two idle cores would take half as long at
best. Bytes are what one process puts into collective operations in a step.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

import torch
from sae_lens import TrainingSAE, TrainingSAEConfig
from step_timing import add_sizes, make_trainer

import sae_lens_poly  # noqa: F401  (registers the architectures)
from sae_lens_poly.distributed.join import joined
from sae_lens_poly.distributed.scale import Run
from sae_lens_poly.distributed.shards import SharedLatents
from sae_lens_poly.distributed.start import processes_of_torchrun

#: Name to number of processes and of those that share the latents.
ARMS = {"1 process": (1, 1), "2 processes, data": (2, 1), "2 processes, latents": (2, 2)}


def print_arm(options: argparse.Namespace) -> None:
    """Time one arm, in each of its processes; the first prints seconds and bytes as JSON."""
    fields = {"architecture": "crosscoder", "n_hooks": options.n_hooks, "k": options.k}
    d_in = options.n_hooks * options.d_model
    torch.manual_seed(0)
    cfg = TrainingSAEConfig.from_dict({**fields, "d_in": d_in, "d_sae": options.d_sae})
    trainer = make_trainer(TrainingSAE.from_dict(cfg.to_dict()), options.batch)
    whole = torch.randn(options.batch, d_in)
    with processes_of_torchrun("cpu", options.n_shards) as mesh:
        if mesh is None:
            seconds, n_bytes = time_steps(trainer, whole, options), 0
        else:
            SharedLatents(trainer, mesh).divide_()
            own = mesh.own_rows(whole).chunk(mesh.n_shards)[mesh.shard]
            with joined(trainer, mesh):
                seconds = time_steps(trainer, own, options, mesh)
            n_bytes = mesh.bytes_exchanged // (options.warm_up + options.steps)
        if mesh is None or mesh.is_first:
            print(json.dumps({"seconds": seconds, "bytes": n_bytes}), flush=True)


def time_steps(trainer, own, options, mesh=None) -> list[float]:
    """Seconds of each step after those that warm up."""
    seconds = []
    for _ in range(options.warm_up + options.steps):
        start = time.perf_counter()
        trainer.step(own if mesh is None else mesh.gather_tokens(own))
        seconds.append(time.perf_counter() - start)
        trainer.n_training_steps += 1
    return seconds[options.warm_up :]


def main() -> None:
    """Run all arms in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_sizes(parser, d_model=256, d_sae=8192, k=32, batch=2048)
    parser.add_argument("--warm_up", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--n_shards", type=int, default=0, help="run one arm; torchrun starts it")
    options = parser.parse_args()
    if options.n_shards:
        print_arm(options)
        return
    sizes = f"{options.n_hooks} hook points of {options.d_model}, {options.d_sae:,} latents"
    print(f"{sizes}, k {options.k}, batch {options.batch:,}, float32, 1 thread a process")
    print(f"{'':22} {'ms a step':>10} {'(of 1)':>8} {'MB exchanged':>13} {'by formula':>11}")
    alone = None
    for name, (n_processes, n_shards) in ARMS.items():
        command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
        command += [str(n_processes), *sys.argv, "--n_shards", str(n_shards)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        run = subprocess.run(
            [sys.executable, *command], capture_output=True, text=True, env=environment
        )
        if run.returncode:
            raise SystemExit(run.stderr)
        found = json.loads(run.stdout.splitlines()[-1])
        median = statistics.median(found["seconds"])
        alone = alone or median
        formula = Run(
            *(options.n_hooks, options.d_model, options.d_sae, options.k, options.batch),
            *(n_processes, n_shards),
        )
        exchanged = formula.exchanged() if n_processes > 1 else 0
        print(
            f"{name:22} {1e3 * median:10.0f} {median / alone:8.2f} {found['bytes'] / 1e6:13.2f} "
            f"{exchanged / 1e6:11.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
