"""The shards of a cache: claimed by one job each, and whole or not there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from sae_lens_poly.activations.storage import STORAGES
from sae_lens_poly.errors import InputError
from sae_lens_poly.read_files import damaged
from sae_lens_poly.read_tensors import read_header
from sae_lens_poly.whole_files import whole_file

try:
    import fcntl
except ImportError:  # Windows: there one job at a time
    fcntl = None  # type: ignore[assignment]

_AGAIN = "delete the file and run cache again with the same flags, which makes it"
_DTYPES = {"bfloat16": "BF16", "int8": "I8"}


def shard_path(folder: Path, number: int) -> Path:
    """Where a shard lies."""
    return folder / f"shard-{number:06d}.safetensors"


@contextmanager
def claimed(folder: Path, number: int) -> Iterator[bool]:
    """Whether this job has a shard to itself, until the end of the block.

    By a lock on a file, which the system takes back from a job that dies, however it does.
    """
    if fcntl is None:
        yield True
        return
    handle = os.open(folder / f".claim-{number:06d}", os.O_RDWR | os.O_CREAT)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(handle)


def write_shard(path: Path, tensors: dict[str, torch.Tensor], record: dict[str, str]) -> None:
    """Write a shard, whole, and what was read of the text up to its end.

    Raises:
        InputError: If it cannot be written.
    """
    with whole_file(path) as unfinished:
        save_file(tensors, unfinished, metadata=record)


def open_shard(
    path: Path, storage: str, n_hooks: int, d_model: int
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors of a shard, memory-mapped, and its record.

    Raises:
        InputError: If it is damaged, or holds something else.
    """
    header = read_header(path, _AGAIN)
    n = header["x"].shape[0] if "x" in header and header["x"].shape else 0
    wanted: dict[str, tuple[str, tuple[int, ...]]] = {
        "x": (_DTYPES[storage], (n, n_hooks, d_model))
    }
    if storage == "int8":
        wanted["scale"] = ("F32", (n, n_hooks))
    found = {name: (each.dtype, each.shape) for name, each in header.items()}
    if found != wanted:
        raise damaged(path, f"it holds {found} and not {wanted}", _AGAIN)
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in wanted}, dict(file.metadata() or {})


def check_storage(storage: str) -> None:
    """Refuse a storage that is none.

    Raises:
        InputError: Naming those that are.
    """
    if storage not in STORAGES:
        raise InputError(f"storage={storage!r} is unknown: choose {' or '.join(STORAGES)}")
