"""A cache as one long shuffled stream of activations."""

from __future__ import annotations

from pathlib import Path

import torch

from sae_lens_poly.activations.description import contexts_there, read_description
from sae_lens_poly.activations.shards import open_shard, shard_path
from sae_lens_poly.activations.shuffle import Shuffled
from sae_lens_poly.activations.storage import unpack
from sae_lens_poly.errors import InputError


class CachedRows:
    """All tokens of a full cache, memory-mapped.

    Args:
        folder: Of the cache.
        hook_names: Which of its hook points are read, in this order; None: all.
        seed: Of the order; every epoch has one of its own.

    Raises:
        InputError: If shards are missing or damaged, or a hook point is not among those stored.
    """

    def __init__(
        self, folder: str | Path, hook_names: list[str] | None = None, seed: int = 0
    ) -> None:
        folder = Path(folder)
        self.description = described = read_description(folder)
        stored, wanted = described.hook_names, hook_names or described.hook_names
        for name in wanted:
            if name not in stored:
                raise InputError(
                    f"hook_name: {name!r} is not among the hook points of {str(folder)!r}, "
                    f"{', '.join(stored)}: name those"
                )
        self.at = None if wanted == stored else [stored.index(name) for name in wanted]
        n_contexts = contexts_there(folder, described.n_contexts)
        numbers = range(-(-n_contexts // described.contexts_per_shard))
        missing = [i for i in numbers if not shard_path(folder, i).is_file()]
        if missing or not n_contexts:
            raise InputError(
                f"{str(folder)!r} lacks {len(missing)} of its {len(numbers)} shards: run cache "
                "again with the flags that it was begun with, which makes those that are missing"
            )
        self.shards: list[dict[str, torch.Tensor]] = []
        sizes, last_n = [], -1
        self.sample = ""
        """Hashes of some of them."""
        for number in numbers:
            tensors, record = open_shard(
                shard_path(folder, number), described.storage, len(stored), described.d_model
            )
            self.shards.append(tensors)
            sizes.append(len(tensors["x"]))
            n_rows = record.get("n_rows", "")
            if n_rows.isdecimal() and int(n_rows) > last_n:
                last_n, self.sample = int(n_rows), record.get("sample", "")
        if last_n < 0 or not sum(sizes):
            raise InputError(f"{str(folder)!r} holds no tokens, or not which rows they are of")
        self.n_rows_read = last_n
        """Rows of the text that were begun."""
        self.ends = torch.tensor(sizes).cumsum(0)
        self.starts = self.ends - torch.tensor(sizes)
        self.seed = seed

    def __len__(self) -> int:
        return int(self.ends[-1])

    def batch(self, start: int, n: int) -> torch.Tensor:
        """Rows ``start`` to ``start + n`` of the stream, (n, d_in) in float32.

        The stream is one epoch after the other, each with every token once.
        """
        places = torch.arange(start, start + n)
        parts = []
        for epoch in range(start // len(self), (start + n - 1) // len(self) + 1):
            inside = places[places // len(self) == epoch] % len(self)
            order = Shuffled(len(self), self.seed + 1_000_003 * epoch)
            parts.append(self.numbered(order(inside)))
        return torch.cat(parts)

    def numbered(self, numbers: torch.Tensor) -> torch.Tensor:
        """Tokens of these numbers (n,) in the whole cache, in the order asked, (n, d_in)."""
        ordered, order = numbers.sort()  # as they lie in the files
        stops = torch.searchsorted(ordered, self.ends)
        n_of_shard = stops.diff(prepend=stops.new_zeros(1))
        rows = ordered - self.starts.repeat_interleave(n_of_shard)
        # A batch has a few tokens of each of hundreds of shards: little is done for one shard.
        parts = [
            (shard, of_shard)
            for shard, of_shard in zip(self.shards, rows.split(n_of_shard.tolist()), strict=True)
            if len(of_shard)
        ]
        stored = {
            name: torch.cat([shard[name].index_select(0, of_shard) for shard, of_shard in parts])
            for name in self.shards[0]
        }
        x = unpack(stored)
        x = x if self.at is None else x[:, self.at]
        return torch.empty(len(x), x[0].numel()).index_copy_(0, order, x.flatten(1))
