"""SAELens' training runner, with checks before it starts and a checkpoint when it is stopped."""

from __future__ import annotations

import dataclasses
import math
import signal
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sae_lens.config import HfDataset, LanguageModelSAERunnerConfig
from sae_lens.llm_sae_training_runner import LanguageModelSAETrainingRunner
from sae_lens.saes.sae import TrainingSAE
from sae_lens.training._interruption import InterruptedException
from sae_lens.training.activations_store import validate_pretokenized_dataset_tokenizer
from sae_lens.training.sae_trainer import SAETrainer
from tqdm.auto import tqdm

from sae_lens_poly.errors import InputError
from sae_lens_poly.models.loading import load_stacked_model
from sae_lens_poly.models.stacked_hooks import StackedHooks
from sae_lens_poly.training.checkpoint_files import check_against, find_checkpoint
from sae_lens_poly.training.checkpoint_writer import CheckpointWriter, size_of
from sae_lens_poly.training.checkpoints import check_checkpoint
from sae_lens_poly.training.data import is_on_hub, load_text
from sae_lens_poly.whole_files import require_writable, whole_folder


class StoppedRun(InterruptedException):
    """A run that a signal stopped, after saving all of its state to :attr:`checkpoint`."""

    def __init__(self, checkpoint: Path | None) -> None:
        super().__init__(f"stopped; state saved to {checkpoint}" if checkpoint else "stopped")
        self.checkpoint = checkpoint

    def __reduce__(self) -> tuple[Any, ...]:  # for its way out of a worker process
        return StoppedRun, (self.checkpoint,)


class TrainingRunner(LanguageModelSAETrainingRunner):
    """Trains a dictionary on one hook point or on several.

    A stock :class:`LanguageModelSAETrainingRunner` given ``override_model=StackedHooks(...)``
    trains the same dictionary. This subclass adds three things: it loads and stacks the model
    and checks the whole config first; it names the hook points in the saved metadata; and on
    SIGINT or SIGTERM it ends the step and saves a complete checkpoint (the stock runner, stopped
    in the middle of a step, saves neither weights nor optimiser).

    What a resumed run repeats: SAELens saves how many rows of the data set were read, not its
    shuffle buffer. A resumed run skips those rows and fills a new buffer, so activations that
    were still in the buffer when the run stopped are not trained on.

    Args:
        cfg: A stock config. ``hook_name`` may name several hook points.
        override_dataset: Instead of ``cfg.dataset_path``.
        override_model: Instead of ``cfg.model_name``.
        override_sae: Instead of a new dictionary from ``cfg.sae``.

    Raises:
        InputError: If the config cannot work, before anything is trained.
    """

    def __init__(
        self,
        cfg: LanguageModelSAERunnerConfig[Any],
        override_dataset: HfDataset | None = None,
        override_model: StackedHooks | None = None,
        override_sae: TrainingSAE[Any] | None = None,
    ) -> None:
        model = override_model or load_stacked_model(
            cfg.model_name,
            cfg.hook_name,
            cfg.model_class_name,
            cfg.llm_device or cfg.device,
            cfg.model_from_pretrained_kwargs,
        )
        check_stack(cfg, model)
        _make_numbers_plain(cfg)
        _make_numbers_plain(cfg.sae)
        if cfg.resume_from_checkpoint is not None:
            given = Path(cfg.resume_from_checkpoint)
            found = find_checkpoint(given, partial(check_checkpoint, cfg=cfg))
            cfg.resume_from_checkpoint = str(found)
        own_text = override_dataset is None and not cfg.use_cached_activations
        if own_text:
            override_dataset = load_text(cfg.dataset_path, "train", cfg.streaming)
        try:
            super().__init__(cfg, override_dataset, model, override_sae)
        except StopIteration as error:
            raise InputError(f"dataset_path={cfg.dataset_path!r} has no rows") from error
        if own_text and is_on_hub(cfg.dataset_path) and self.activations_store.is_dataset_tokenized:
            # SAELens checks this itself only where it loads the data set, by its name.
            validate_pretokenized_dataset_tokenizer(cfg.dataset_path, model.tokenizer)
        for field in ("output_path", "checkpoint_path"):
            if (folder := getattr(cfg, field)) is not None:
                remedy = f"free some space, or set another {field}"
                require_writable(folder, size_of(self.sae), remedy)
        if cfg.resume_from_checkpoint is not None:
            fresh = SAETrainer(cfg.to_sae_trainer_config(), self.sae, iter(()))
            check_against(Path(cfg.resume_from_checkpoint), fresh)

    def _set_sae_metadata(self) -> None:
        super()._set_sae_metadata()
        assert isinstance(self.model, StackedHooks)
        self.sae.cfg.metadata.hook_names = self.model.hook_names

    def run_trainer_with_interruption_handling(
        self, trainer: SAETrainer[TrainingSAE[Any], Any]
    ) -> TrainingSAE[Any]:
        cfg = self.cfg
        writer = CheckpointWriter(trainer, cfg.checkpoint_path, cfg.resume_from_checkpoint)
        self.checkpoints = writer
        boundary = StepBoundary(trainer, cfg, writer)
        trainer.data_provider = boundary
        evaluate = self.evaluator
        # SAELens' evaluator pauses the prefetching thread of the provider that it is handed.
        trainer.evaluator = lambda sae, _, scaler: evaluate(sae, boundary.batches, scaler)
        try:
            sae = trainer.fit()
            writer.finish()
            return sae
        except InterruptedException:
            raise StoppedRun(writer.save(str(trainer.n_training_samples))) from None
        finally:
            boundary.close()

    def save_final_sae(
        self,
        sae: TrainingSAE[Any],
        output_path: str,
        log_feature_sparsity: torch.Tensor | None = None,
    ) -> None:
        # Evaluation on a data set without a split of its own starts after these rows.
        sae.cfg.metadata.n_dataset_rows_read = self.activations_store.n_dataset_processed
        try:
            with whole_folder(output_path, manifest=True, n_bytes=size_of(sae)) as folder:
                super().save_final_sae(sae, str(folder), log_feature_sparsity)
        except InputError as error:
            raise InputError(f"{error}; {self.checkpoints.rescue()}") from None


class StepBoundary(Iterator[torch.Tensor]):
    """Hands out the batches of a trainer, and is where a signal takes effect.

    The trainer asks for a batch between two steps, when all of its state is consistent; a
    signal that arrives in the middle of a step waits until then.
    """

    def __init__(
        self,
        trainer: SAETrainer[Any, Any],
        cfg: LanguageModelSAERunnerConfig[Any],
        writer: CheckpointWriter,
    ) -> None:
        self.batches = trainer.data_provider
        self.trainer, self.writer = trainer, writer
        self.signalled = False
        batch_size = cfg.train_batch_size_tokens
        self.progress = tqdm(
            # whole batches: the last one goes past training_tokens
            total=math.ceil(cfg.training_tokens / batch_size) * batch_size,
            initial=trainer.n_training_samples,
            unit=" tokens",
            unit_scale=True,
            desc="training",
            leave=True,
        )
        self.previous_handlers: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.previous_handlers[number] = signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: Any) -> None:
        self.signalled = True

    def __next__(self) -> torch.Tensor:
        self.progress.update(self.trainer.n_training_samples - self.progress.n)
        self.writer.save_if_due()
        if self.signalled and not self.writer.is_between_windows:
            raise InterruptedException
        return next(self.batches)

    def close(self) -> None:
        """End the progress bar and give the signals back."""
        self.progress.update(self.trainer.n_training_samples - self.progress.n)
        self.progress.close()
        for number, handler in self.previous_handlers.items():
            signal.signal(number, handler)


def check_stack(cfg: LanguageModelSAERunnerConfig[Any], model: StackedHooks) -> None:
    """Refuse a config whose widths are not those of the model's hook points.

    Raises:
        InputError: Naming the field, its value and the remedy.
    """
    n_hooks = getattr(cfg.sae, "n_hooks", None)
    if n_hooks is not None and n_hooks != model.n_hooks:
        raise InputError(
            f"n_hooks={n_hooks}, but hook_name={cfg.hook_name!r} names {model.n_hooks} hook "
            f"points: set n_hooks={model.n_hooks}"
        )
    if cfg.sae.d_in != model.d_in:
        raise InputError(
            f"d_in={cfg.sae.d_in}, but {model.n_hooks} hook points of width {model.d_model} make "
            f"{model.d_in}: set d_in={model.d_in}"
        )
    if not cfg.use_cached_activations:
        buffer = cfg.n_batches_in_buffer * cfg.context_size
        if buffer < cfg.train_batch_size_tokens:
            raise InputError(
                f"train_batch_size_tokens={cfg.train_batch_size_tokens} is more than the buffer "
                f"holds, n_batches_in_buffer * context_size = {buffer}: raise n_batches_in_buffer"
            )
    n_ctx = getattr(getattr(model, "cfg", None), "n_ctx", None)
    if n_ctx is not None and cfg.context_size > n_ctx:
        raise InputError(
            f"context_size={cfg.context_size} is more than the model's {n_ctx}: lower it"
        )
    if cfg.training_tokens < cfg.train_batch_size_tokens:
        raise InputError(
            f"training_tokens={cfg.training_tokens} is less than one batch, "
            f"train_batch_size_tokens={cfg.train_batch_size_tokens}: raise the one or lower the "
            "other"
        )


def _make_numbers_plain(cfg: Any) -> None:
    """Python's numbers for numpy's, which torch refuses to read back from a checkpoint."""
    for field in dataclasses.fields(cfg):
        value = getattr(cfg, field.name)
        if isinstance(value, np.generic):
            setattr(cfg, field.name, value.item())
