"""The share of a run's text that one process reads."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from datasets.distributed import split_dataset_by_node
from sae_lens.constants import ACTIVATIONS_STORE_STATE_FILENAME
from safetensors.torch import load_file, save_file
from typing_extensions import override

from sae_lens_poly.activations.mixed_store import MixedStore


def share_of(dataset: Any, rank: int, n_processes: int) -> tuple[Any, bool]:
    """The rows of one process, and whether all of them together read the text from its front.

    They do where rows are dealt out in turn: n rows of every process are the first n times
    ``n_processes``, so that held-out text is what comes after. A stream of many files is dealt out
    by the file, since else every process would fetch all of it.

    Args:
        dataset: Of ``datasets``, in memory or streamed.
        rank: Number of the process.
        n_processes: Of the run.
    """
    if isinstance(dataset, Dataset):  # of which split_dataset_by_node would give a piece
        return dataset.shard(n_processes, rank, contiguous=False), True
    by_file = getattr(dataset, "num_shards", 1) % n_processes == 0
    return split_dataset_by_node(dataset, rank, n_processes), not by_file


class OwnShare(MixedStore):
    """The store over the share of one process.

    What it saves and loads is the number of rows that the whole run has read, so that a run is
    resumed by any number of processes.
    """

    n_processes: int = 1
    n_rows_of_all: int = 0

    @override
    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"n_dataset_processed": torch.tensor(self.n_rows_of_all)}

    @override
    def load_from_checkpoint(self, checkpoint_path: str | Path) -> None:
        path = Path(checkpoint_path) / ACTIVATIONS_STORE_STATE_FILENAME
        n_rows = -(-int(load_file(path)["n_dataset_processed"]) // self.n_processes)
        with tempfile.TemporaryDirectory() as folder:
            own = str(Path(folder) / path.name)
            save_file({"n_dataset_processed": torch.tensor(n_rows)}, own)
            self.load(own)
