"""Fills a cache of activations: one of several jobs that do so side by side, or the only one."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from sae_lens.config import LanguageModelSAERunnerConfig
from tqdm.auto import tqdm

from sae_lens_poly.activations.description import Description, contexts_there, mark_end
from sae_lens_poly.activations.shards import check_storage, claimed, shard_path, write_shard
from sae_lens_poly.activations.storage import bytes_per_token, pack
from sae_lens_poly.errors import InputError
from sae_lens_poly.models.recorded import fingerprint
from sae_lens_poly.models.stacked_hooks import StackedHooks
from sae_lens_poly.paths import check_can_write
from sae_lens_poly.training.rows import Rows
from sae_lens_poly.training.text_reading import counted
from sae_lens_poly.training.training_text import TrainingText


class CacheFiller:
    """Writes the activations of a run's text to shards that other jobs do not write.

    Every job reads the whole text, which is cheap, and runs the model on the contexts of shards
    that it has claimed. A job that dies lets go of its claim, and whoever comes by next makes the
    shard; when a job ends, all shards are whole or claimed by a job at work.

    Args:
        cfg: A run whose activations are wanted: its model, hook points, text, and
            ``training_tokens`` positions of it.
        model: With the hook points stacked.
        folder: Of the cache; shared by the jobs.
        storage: ``bfloat16`` or ``int8``.
        tokens_per_shard: About how many positions a shard has.

    Raises:
        InputError: If the text cannot be read, the disk has no room, or the folder holds
            activations of something else.
    """

    def __init__(
        self,
        cfg: LanguageModelSAERunnerConfig[Any],
        model: StackedHooks,
        folder: str | Path,
        storage: str = "bfloat16",
        tokens_per_shard: int = 16_384,
    ) -> None:
        check_storage(storage)
        model.check_context_size(cfg.context_size)
        self.text = TrainingText.of_run(cfg, model)
        if not isinstance(self.text.dataset, Rows):
            raise InputError("use_cached_activations=True: a cache is made from text: leave it out")
        self.model, self.reading = model, self.text.reading
        self.batch_size = cfg.store_batch_size_prompts
        self.folder = Path(folder)
        n_positions = len(range(cfg.context_size)[self.reading.positions])
        self.description = Description(
            storage=storage,
            model_name=cfg.model_name,
            weights=fingerprint(model.model),
            hook_names=model.hook_names,
            d_model=model.d_model,
            reading=self.reading.plain(),
            text=asdict(self.text.text),
            n_contexts=-(-cfg.training_tokens // n_positions),
            contexts_per_shard=max(1, tokens_per_shard // n_positions),
        )
        per_token = bytes_per_token(storage, model.n_hooks, model.d_model)
        self.n_tokens = self.description.n_contexts * n_positions
        self.n_bytes = self.n_tokens * per_token
        self.n_bytes_left = self.n_bytes - sum(
            path.stat().st_size for path in self.folder.glob("shard-*.safetensors")
        )

    def size(self) -> str:
        """What the cache will take, as a sentence."""
        described = self.description
        return (
            f"{self.n_tokens:,} tokens at {len(described.hook_names)} hook points of width "
            f"{described.d_model} in {described.storage}: {self.n_bytes / 1e9:,.3f} GB in "
            f"{described.n_shards} shards"
        )

    def begin(self) -> None:
        """Make the folder, or join the jobs that fill it.

        Raises:
            InputError: If the disk is too small for what is missing, or another cache is there.
        """
        check_can_write("folder", self.folder, max(0, self.n_bytes_left))
        self.folder.mkdir(parents=True, exist_ok=True)
        self.description.agree(self.folder)

    def fill(self, on_shard: Callable[[int], None] = lambda number: None) -> int:
        """Make shards until none is left that is neither whole nor claimed by another job.

        Args:
            on_shard: Called with the number of each shard that was written.

        Returns:
            How many tokens this job has stored.
        """
        n_stored, n_before = 0, -1
        while n_stored > n_before:  # another job may have died behind this one
            n_before = n_stored
            n_stored += self._pass(on_shard)
        return n_stored

    def missing(self) -> list[int]:
        """Numbers of the shards that are not there."""
        n_contexts = contexts_there(self.folder, self.description.n_contexts)
        numbers = range(-(-n_contexts // self.description.contexts_per_shard))
        return [i for i in numbers if not shard_path(self.folder, i).is_file()]

    def _pass(self, on_shard: Callable[[int], None]) -> int:
        """Go through the text once, as far as shards are missing."""
        missing = self.missing()
        if not missing:
            return 0
        rows = self.text.dataset
        fresh = Rows(rows.dataset, rows.name, self.reading, self.model)
        contexts, n_stored = self._contexts(fresh), 0
        n_seen = 0
        progress = tqdm(total=len(missing), unit=" shards", desc="caching", file=sys.stderr)
        for number in range(missing[-1] + 1):
            with claimed(self.folder, number) as mine:
                wanted = mine and not shard_path(self.folder, number).is_file()
                tokens = list(islice(contexts, self.description.contexts_of(number)))
                n_seen += len(tokens)
                if wanted and tokens:
                    tensors = self._activations(torch.stack(tokens))
                    record = {"n_rows": str(fresh.n_read), "sample": fresh.sample.to_text()}
                    write_shard(shard_path(self.folder, number), tensors, record)
                    n_stored += len(tensors["x"])
                    progress.update()
                    on_shard(number)
            if len(tokens) < self.description.contexts_of(number):
                mark_end(self.folder, n_seen)
                break
        progress.close()
        return n_stored

    def _contexts(self, rows: Rows) -> Iterator[torch.Tensor]:
        """The contexts of the text, (context_size,) each, in its order, once."""
        store = self.reading.store(self.model, rows, self.batch_size)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            while True:
                try:
                    yield store.get_batch_tokens(1, raise_at_epoch_end=True)[0]
                except StopIteration:
                    return

    @torch.no_grad()
    def _activations(self, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        """What is stored of contexts (n, context_size): tokens that count, in their order."""
        model = self.model.with_run(self.reading.model_kwargs, self.reading.autocast_lm)
        excluded, parts = self.reading.excluded(model.tokenizer), []
        for batch in tokens.split(self.batch_size):
            x = model.gather(batch)[counted(batch, excluded, self.reading.positions)]
            x = x.unflatten(-1, (model.n_hooks, model.d_model))
            parts.append({k: v.cpu() for k, v in pack(x, self.description.storage).items()})
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
