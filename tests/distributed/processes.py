"""Runs a function in several gloo processes."""

import os
import socket
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def in_processes(n_processes, function, *arguments, n_shards=1, kwargs=None):
    """What ``function(mesh, *arguments, **kwargs)`` returns in each of them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(
            _run,
            (n_processes, n_shards, port, folder, function, arguments, kwargs or {}),
            n_processes,
            start_method="fork",
        )
        return [
            torch.load(Path(folder) / str(rank), weights_only=False) for rank in range(n_processes)
        ]


def _run(rank, n_processes, n_shards, port, folder, function, arguments, kwargs):
    from sae_lens_poly.distributed.process_mesh import ProcessMesh

    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    dist.init_process_group("gloo", rank=rank, world_size=n_processes)
    try:
        result = function(ProcessMesh(n_shards=n_shards), *arguments, **kwargs)
        torch.save(result, Path(folder) / str(rank))
    finally:
        dist.destroy_process_group()
