"""Joins the processes that torchrun started, and parts from them whatever happens."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
import torch.distributed as dist
from sae_lens.config import LanguageModelSAERunnerConfig

from sae_lens_poly.distributed.one_voice import n_processes_of_torchrun, say
from sae_lens_poly.distributed.process_mesh import ProcessMesh
from sae_lens_poly.distributed.shards import check_can_shard
from sae_lens_poly.errors import InputError, first_line

# What errors of torch.distributed say when another process is gone.
_SIGNS_OF_LOSS = ("gloo", "NCCL", "Connection", "connection", "socket", "Broken pipe", "store")


@contextmanager
def processes_of_torchrun(device: str, n_shards: int = 1) -> Iterator[ProcessMesh | None]:
    """The processes of this run; None where there is one.

    Args:
        device: Which devices they compute on; ``cuda`` stands for a GPU each.
        n_shards: How many of them share the latents.

    Raises:
        InputError: If that does not divide how many there are.
    """
    n_processes = n_processes_of_torchrun()
    if n_processes % n_shards:
        raise InputError(
            f"latent_shards={n_shards} does not divide the number of processes, {n_processes}: "
            "start a multiple of it, torchrun --nproc-per-node N -m sae_lens_poly train"
        )
    if n_processes == 1:
        yield None
        return
    on_gpu = device.startswith("cuda")
    if on_gpu:
        torch.cuda.set_device(own_device(device))
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield ProcessMesh(own_device(device) if on_gpu else "cpu", n_shards)
    finally:
        with suppress(RuntimeError):  # of processes that are gone
            dist.destroy_process_group()


def own_device(device: str) -> str:
    """The device of this process: one GPU for each process of a machine."""
    if device != "cuda" or n_processes_of_torchrun() == 1:
        return device
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"


def check_can_distribute(cfg: LanguageModelSAERunnerConfig[Any], mesh: ProcessMesh) -> None:
    """Refuse settings that several processes cannot share.

    Raises:
        InputError: Naming the field, its value and the remedy.
    """
    n_processes, batch = mesh.n_processes, cfg.train_batch_size_tokens
    if mesh.n_shards > 1:
        check_can_shard(cfg.sae, mesh.n_shards)
        if cfg.logger.log_to_wandb:
            raise InputError(
                f"log_to_wandb=True with latent_shards={mesh.n_shards}: SAELens' trainer would log "
                "figures of one shard: set it to False, or leave latent_shards out"
            )
    if batch % n_processes:
        raise InputError(
            f"train_batch_size_tokens={batch} is that of all {n_processes} processes, which "
            f"each take an equal part: make it a multiple of {n_processes}"
        )
    if cfg.use_cached_activations:
        raise InputError(
            "use_cached_activations=True: SAELens' cache is read from its front to its end by one "
            "process: set it to False, or train with one process"
        )
    if cfg.compile_sae:
        raise InputError(
            "compile_sae=True cannot hold what processes exchange within a step: set it to False"
        )


@contextmanager
def one_message(mesh: ProcessMesh | None) -> Iterator[None]:
    """Within it, the first error of any process is printed, once, and ends the run.

    Processes that end because another one did are silent.

    Args:
        mesh: The processes; None: one, whose errors are left alone.

    Raises:
        SystemExit: With status 2 for wrong input, 1 where a process was lost.
    """
    if mesh is None:
        yield
        return
    try:
        yield
    except InputError as error:
        if _is_first_to_fail():
            say(f"error: {error}")
        raise SystemExit(2) from None
    except RuntimeError as error:
        if not is_loss(error):
            raise
        if _is_first_to_fail():
            why = first_line(error).rpartition("] ")[2][:200]
            say(
                f"error: a process of this run has ended ({why}): give the same flags and "
                "--resume_from_checkpoint with the checkpoint_path of this run, if it has saved one"
            )
        raise SystemExit(1) from None


def is_loss(error: RuntimeError) -> bool:
    """Whether an error says that another process is gone."""
    return isinstance(error, dist.DistError) or any(sign in str(error) for sign in _SIGNS_OF_LOSS)


def _is_first_to_fail() -> bool:
    """Whether no other process has had an error; asked of the store that torchrun keeps."""
    try:
        store = dist.distributed_c10d._get_default_store()
        return store.add("sae_lens_poly/failed", 1) == 1
    except (RuntimeError, ValueError):
        return True
