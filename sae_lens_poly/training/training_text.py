"""The text of a training run: loaded, looked at before the run, and recorded in what it saves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from datasets import Dataset
from jinja2 import TemplateError
from sae_lens.config import HfDataset, LanguageModelSAERunnerConfig
from sae_lens.constants import SAE_CFG_FILENAME
from sae_lens.saes.sae import SAEMetadata
from sae_lens.training.activations_store import validate_pretokenized_dataset_tokenizer

from sae_lens_poly.distributed.own_text import share_of
from sae_lens_poly.distributed.process_mesh import ProcessMesh
from sae_lens_poly.embedded import EMBEDDED_DATASET_NAME
from sae_lens_poly.errors import InputError, first_line
from sae_lens_poly.models.stacked_hooks import StackedHooks
from sae_lens_poly.read_files import read_object
from sae_lens_poly.training.data import is_on_hub, load_text
from sae_lens_poly.training.rows import N_FIRST, Rows, first_rows
from sae_lens_poly.training.text_reading import TextReading
from sae_lens_poly.training.texts_read import (
    TextRead,
    place_of,
    read_by,
    record_text,
    texts_read,
)


@dataclass
class TrainingText:
    """What a run reads, and how."""

    dataset: Any
    """For SAELens' store."""
    reading: TextReading
    text: TextRead
    """Which text it is; nothing of it is read yet."""
    rows: Rows | None
    """Those that the store reads; None where it reads cached activations."""
    earlier: Sequence[TextRead] = field(default_factory=list)
    """What the dictionary was trained on before."""
    mesh: ProcessMesh | None = None
    """Who read the rest of it."""
    is_read_from_front: bool = True
    """Whether all of them together read its first rows, and none that come after."""

    @classmethod
    def of_run(
        cls,
        cfg: LanguageModelSAERunnerConfig[Any],
        model: StackedHooks,
        given: HfDataset | None = None,
    ) -> TrainingText:
        """Load the text of a run, and read its first rows and first context.

        Args:
            cfg: Of the run.
            model: With its hook points stacked.
            given: In place of ``cfg.dataset_path``.

        Raises:
            InputError: If the text cannot be loaded, or cannot be read in this way by this model.
        """
        path = cfg.dataset_path or ("" if given is not None else EMBEDDED_DATASET_NAME)
        reading = TextReading.of_run(cfg, model_dtype=model.dtype_name)
        text = TextRead(path, place_of(path))
        if cfg.use_cached_activations and given is None and not cfg.logger.log_to_wandb:
            # Nothing is read of a text then, but SAELens' store wants one.
            nothing = Dataset.from_dict({"tokens": [[0] * cfg.context_size]})
            return cls(nothing, reading, text, None)
        dataset = load_text(path, "train", cfg.streaming) if given is None else given
        name = f"dataset_path={path!r}" if path else "override_dataset"
        rows = Rows(dataset, name, reading, model)
        reading = TextReading.of_run(cfg, model_dtype=model.dtype_name, text_column=rows.column)
        if cfg.use_cached_activations:
            return cls(rows, reading, text, None)
        _look_at(Rows(dataset, name, reading, model), reading, model)
        if given is None and rows.is_tokenized and is_on_hub(path):
            # SAELens checks this itself only where it loads the data set, by its name.
            validate_pretokenized_dataset_tokenizer(path, model.tokenizer)
        tells = first_rows(Rows(dataset, name, reading, model))
        if given is not None and path == EMBEDDED_DATASET_NAME:
            embedded = Rows(load_text(path, "train"), name, TextReading(), model)
            path = path if tells == first_rows(embedded) else ""
        return cls(rows, reading, TextRead(path, place_of(path), None, tells), rows)

    def resume(self, checkpoint: Path) -> None:
        """Go on from a checkpoint, which has read a part of this text.

        Raises:
            InputError: If it was of another text.
        """
        metadata = read_object(checkpoint / SAE_CFG_FILENAME).get("metadata") or {}
        *earlier, last = texts_read(SAEMetadata(**metadata)) or [self.text]
        if last.first_rows not in (None, self.text.first_rows):
            raise InputError(
                f"resume_from_checkpoint={str(checkpoint)!r} is of a run on "
                f"{last.dataset_path!r}, whose first rows are not those of "
                f"dataset_path={self.text.dataset_path!r}: resume on the same text"
            )
        self.earlier = earlier

    def share(self, mesh: ProcessMesh) -> None:
        """Read the share of this process alone."""
        if self.rows is not None:
            dataset, self.is_read_from_front = share_of(
                self.rows.dataset, mesh.rank, mesh.n_processes
            )
            self.rows.dataset, self.mesh = dataset, mesh

    def record(self, metadata: SAEMetadata) -> None:
        """Enter what has been read into the metadata of the dictionary."""
        text = self.text if self.rows is None else read_by(self.rows, self.text)
        if self.mesh is not None:
            n_rows = self.mesh.most(text.n_rows or 0) * self.mesh.n_processes
            text = replace(text, n_rows=n_rows if self.is_read_from_front else None)
        metadata.dataset_path = text.dataset_path
        record_text(metadata, text, self.earlier)


def _look_at(rows: Rows, reading: TextReading, model: StackedHooks) -> None:
    """Read some rows, and run the model on the first context."""
    for _ in islice(rows, N_FIRST):
        pass
    try:
        store = reading.store(model, rows, batch_size=1)
        tokens = store.get_batch_tokens(raise_at_epoch_end=True)
    except StopIteration:
        raise InputError(
            f"{rows.name} has not one context of context_size={reading.context_size} tokens: lower "
            "it, or name longer text"
        ) from None
    except (ValueError, TypeError, KeyError, TemplateError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{rows.name} cannot be read ({first_line(error)[:200]})") from error
    least, most = int(tokens.min()), int(tokens.max())
    if model.d_vocab is not None and not 0 <= least <= most < model.d_vocab:
        raise InputError(
            f"{rows.name}: the tokenizer gives tokens up to {most}, and the model's vocabulary has "
            f"{model.d_vocab}: load the model with the tokenizer that it was trained with"
        )
    try:
        store.get_activations(tokens)
    except TypeError as error:
        raise InputError(
            f"model_kwargs={reading.model_kwargs!r} cannot be given to the model "
            f"({first_line(error)[:200]})"
        ) from error
