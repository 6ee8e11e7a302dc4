"""Runs a function in several gloo processes."""

import os
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def in_processes(n_processes, function, *arguments, n_shards=1, kwargs=None):
    """What ``function(mesh, *arguments, **kwargs)`` returns in each of them."""
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(
            _run,
            (n_processes, n_shards, folder, function, arguments, kwargs or {}),
            n_processes,
            start_method="fork",
        )
        return [
            torch.load(Path(folder) / str(rank), weights_only=False) for rank in range(n_processes)
        ]


def _run(rank, n_processes, n_shards, folder, function, arguments, kwargs):
    from sae_lens_poly.distributed.process_mesh import ProcessMesh

    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    # They meet in a file: a port that was free a moment ago may by now be another test's.
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=n_processes
    )
    try:
        result = function(ProcessMesh(n_shards=n_shards), *arguments, **kwargs)
        torch.save(result, Path(folder) / str(rank))
    finally:
        dist.destroy_process_group()
