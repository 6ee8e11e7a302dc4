"""Training on a cache of activations."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from sae_lens.constants import ACTIVATIONS_STORE_STATE_FILENAME
from sae_lens.training.activations_store import ActivationsStore
from safetensors.torch import load_file
from typing_extensions import override

from sae_lens_poly.activations.description import DESCRIPTION_FILENAME, Description
from sae_lens_poly.activations.reader import CachedRows
from sae_lens_poly.errors import InputError
from sae_lens_poly.models.recorded import fingerprint
from sae_lens_poly.models.stacked_hooks import StackedHooks
from sae_lens_poly.read_files import damaged
from sae_lens_poly.training.text_reading import TextReading
from sae_lens_poly.training.texts_read import TextRead

if TYPE_CHECKING:
    from sae_lens.config import LanguageModelSAERunnerConfig


def is_cache(cfg: LanguageModelSAERunnerConfig[Any]) -> bool:
    """Whether a run reads a cache of this package, and not one of SAELens' runner."""
    path = cfg.cached_activations_path
    return bool(
        cfg.use_cached_activations and path and (Path(path) / DESCRIPTION_FILENAME).exists()
    )


def open_cache(cfg: LanguageModelSAERunnerConfig[Any], model: StackedHooks) -> CachedRows:
    """The cache of a run, checked against its model and how it reads text.

    Raises:
        InputError: Naming the first thing in which the two differ.
    """
    assert cfg.cached_activations_path is not None
    rows = CachedRows(cfg.cached_activations_path, model.hook_names, cfg.seed)
    described = rows.description
    name = f"cached_activations_path={cfg.cached_activations_path!r}"
    mine = TextReading.of_run(cfg, model_dtype=model.dtype_name).plain()
    for field, value in mine.items():
        there = described.reading.get(field)
        if field != "text_column" and there != value:
            raise InputError(
                f"{name} was read with {field}={there!r}, and this run has {field}={value!r}: give "
                "the flags that the cache was made with"
            )
    if described.weights != fingerprint(model.model):
        raise InputError(
            f"{name} is of {described.model_name!r} with other weights: give the model that the "
            "cache was made with"
        )
    if cfg.prefetch_llm_batches:
        raise InputError(
            "prefetch_llm_batches=True reads ahead of a language model, and cached activations "
            "need none: leave it out"
        )
    return rows


def without_cache(cfg: LanguageModelSAERunnerConfig[Any]) -> LanguageModelSAERunnerConfig[Any]:
    """The same run for SAELens' own store, which has no part in reading the cache."""
    other = copy.copy(cfg)
    other.use_cached_activations, other.cached_activations_path = False, None
    return other


def text_of(rows: CachedRows) -> TextRead:
    """What was read of which text, for the record of a dictionary.

    Raises:
        InputError: If the cache does not say.
    """
    described: Description = rows.description
    try:
        text = TextRead(**described.text)
    except TypeError as error:
        raise damaged(Path(DESCRIPTION_FILENAME), error) from None
    return replace(text, n_rows=rows.n_rows_read, sample=rows.sample)


class CachedStore(ActivationsStore):
    """SAELens' store over a cache: batches of tokens in a shuffled order, each once an epoch.

    It saves how many tokens were handed out, from which a run is resumed exactly.
    """

    rows: CachedRows
    n_handed_out: int = 0

    @override
    def __next__(self) -> torch.Tensor:
        batch = self.rows.batch(self.n_handed_out, self.train_batch_size_tokens)
        self.n_handed_out += len(batch)
        return batch.to(self.device, self.dtype)

    @override
    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"n_dataset_processed": torch.tensor(self.n_handed_out)}

    @override
    def load_from_checkpoint(self, checkpoint_path: str | Path) -> None:
        path = Path(checkpoint_path) / ACTIVATIONS_STORE_STATE_FILENAME
        self.n_handed_out = int(load_file(path)["n_dataset_processed"])
