"""SAELens' training runner, with checks before it starts and a checkpoint when it is stopped."""

from __future__ import annotations

import copy
import io
import math
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext, redirect_stderr
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from sae_lens.config import HfDataset, LanguageModelSAERunnerConfig
from sae_lens.llm_sae_training_runner import LanguageModelSAETrainingRunner
from sae_lens.saes.sae import TrainingSAE
from sae_lens.training._interruption import InterruptedException
from sae_lens.training.activations_store import ActivationsStore
from sae_lens.training.prefetch import PrefetchingIterator
from sae_lens.training.sae_trainer import SAETrainer
from tqdm.auto import tqdm

from sae_lens_poly.activations.mixed_store import MixedStore
from sae_lens_poly.activations.reader import CachedRows
from sae_lens_poly.artifact_names import check_artifact_name
from sae_lens_poly.distributed.join import check_can_join, joined
from sae_lens_poly.distributed.own_text import OwnShare
from sae_lens_poly.distributed.process_mesh import ProcessMesh
from sae_lens_poly.distributed.shards import SharedLatents
from sae_lens_poly.distributed.start import check_can_distribute
from sae_lens_poly.errors import InputError, first_line
from sae_lens_poly.models.loading import load_model_of
from sae_lens_poly.models.stacked_hooks import StackedHooks
from sae_lens_poly.paths import check_can_write
from sae_lens_poly.training.cached_store import (
    CachedStore,
    is_cache,
    open_cache,
    text_of,
    without_cache,
)
from sae_lens_poly.training.checkpoint_files import check_against, find_checkpoint
from sae_lens_poly.training.checkpoint_writer import CheckpointWriter, size_of
from sae_lens_poly.training.checkpoints import (
    check_checkpoint,
    check_model,
    is_prolonged,
    prolong,
)
from sae_lens_poly.training.fine_tuning import (
    check_given,
    load_training_dictionary,
    with_terms,
)
from sae_lens_poly.training.finite_loss import DivergedRun, LossWatch
from sae_lens_poly.training.fused_adam import fuse_
from sae_lens_poly.training.old_moments import transpose_old_moments_
from sae_lens_poly.training.schedule import plan_again
from sae_lens_poly.training.settings import check_runner_config
from sae_lens_poly.training.texts_read import texts_read
from sae_lens_poly.training.training_text import TrainingText
from sae_lens_poly.whole_files import whole_folder

# What SAELens' store, a tokenizer or a chat template raise for a row that they cannot take.
_ERRORS_OF_TEXT = (ValueError, TypeError, KeyError, IndexError, TemplateError)

# Ways to normalise activations for which SAELens reads batches before the first step.
_ESTIMATED = ("expected_average_only_in", "covariance_whitening")


class StoppedRun(InterruptedException):
    """A run that a signal stopped, after saving all of its state to :attr:`checkpoint`."""

    def __init__(self, checkpoint: Path | None) -> None:
        super().__init__(f"stopped; state saved to {checkpoint}" if checkpoint else "stopped")
        self.checkpoint = checkpoint

    def __reduce__(self) -> tuple[Any, ...]:  # for its way out of a worker process
        return StoppedRun, (self.checkpoint,)


class UnreadableText(InputError):
    """Text that turned out to be unreadable in the middle of a run."""


class TrainingRunner(LanguageModelSAETrainingRunner):
    """Trains a dictionary on one hook point or on several.

    A stock :class:`LanguageModelSAETrainingRunner` given ``override_model=StackedHooks(...)``
    trains the same kind of dictionary. This subclass adds four things: it loads and stacks the
    model and checks the whole config first; it names the hook points in the saved metadata; it
    reads by a :class:`MixedStore`, for which a large buffer is cheap; and on SIGINT or SIGTERM it
    ends the step and saves a complete checkpoint (the stock runner, stopped in the middle of a
    step, saves neither weights nor optimiser).

    What a resumed run repeats: SAELens saves how many rows of the data set were read, not its
    shuffle buffer. A resumed run skips those rows and fills a new buffer, so activations that
    were still in the buffer when the run stopped are not trained on.

    Args:
        cfg: A stock config. ``hook_name`` may name several hook points.
        override_dataset: Instead of ``cfg.dataset_path``.
        override_model: Instead of ``cfg.model_name``.
        override_sae: Instead of a new dictionary from ``cfg.sae``.
        mesh: The processes of the run, where it has several, in each of which this is called;
            ``cfg`` is that of all of them.

    Raises:
        InputError: If the config cannot work, before anything is trained.
    """

    def __init__(
        self,
        cfg: LanguageModelSAERunnerConfig[Any],
        override_dataset: HfDataset | None = None,
        override_model: StackedHooks | None = None,
        override_sae: TrainingSAE[Any] | None = None,
        mesh: ProcessMesh | None = None,
    ) -> None:
        self.mesh = mesh
        if mesh is not None:
            check_can_distribute(cfg, mesh)
        overridden = {"model_name"} if override_model is not None else set()
        overridden |= {"dataset_path"} if override_dataset is not None else set()
        check_runner_config(cfg, overridden)
        model = override_model or load_model_of(cfg)
        check_stack(cfg, model)
        text = TrainingText.of_run(cfg, model, override_dataset)
        cached = open_cache(cfg, model) if is_cache(cfg) else None
        if cached is not None:
            text.text = text_of(cached)
        self._text = text
        if mesh is not None and not mesh.is_first:
            mesh.wait()  # the first process cleans up after a run that was killed
        self._resume(cfg, model)
        if mesh is not None:
            if mesh.is_first:
                mesh.wait()
            text.share(mesh)
            cfg.checkpoint_path = mesh.first_text(cfg.checkpoint_path)
        if cfg.from_pretrained_path is not None and override_sae is None:
            override_sae = load_training_dictionary(cfg.from_pretrained_path, cfg.device)
            override_sae = with_terms(override_sae, cfg.sae)
        if override_sae is not None:
            check_given(override_sae, cfg, model.hook_names)
            if cfg.resume_from_checkpoint is None:
                text.earlier = texts_read(override_sae.cfg.metadata)
        try:
            stock = cfg if cached is None else without_cache(cfg)
            super().__init__(stock, text.dataset, model, override_sae)
        except (RuntimeError, MemoryError) as error:
            if "alloc" not in str(error):
                raise
            raise InputError(
                f"d_sae={cfg.sae.d_sae} latents for d_in={cfg.sae.d_in} do not fit "
                f"into memory ({first_line(error)[:200]}): lower d_sae"
            ) from error
        except (ValueError, FileNotFoundError, StopIteration) as error:
            if isinstance(error, InputError) or not cfg.use_cached_activations:
                raise
            raise InputError(
                f"cached_activations_path={cfg.cached_activations_path!r} cannot be used "
                f"({first_line(error)[:200]}): give what SAELens' CacheActivationsRunner wrote for "
                "these hook points and this context_size"
            ) from error
        self.cfg = cfg
        for field in ("output_path", "checkpoint_path"):
            if (folder := getattr(cfg, field)) is not None:
                check_can_write(field, folder, size_of(self.sae))
        if mesh is not None:
            check_can_join(self.sae, mesh)
            mesh.make_equal_(self.sae)
        self._set_sae_metadata()
        if cfg.logger.log_to_wandb:
            check_artifact_name(self.sae.get_name())
        n_trained = 0
        if cfg.resume_from_checkpoint is not None:
            fresh = SAETrainer(cfg.to_sae_trainer_config(), self.sae, iter(()))
            n_trained = check_against(Path(cfg.resume_from_checkpoint), fresh)
        self.activations_store = self.evaluator.activations_store = self._store(cached, n_trained)
        if cfg.resume_from_checkpoint is not None:
            # SAELens skips what was read after a prefetching thread has begun to read.
            self.activations_store.load_from_checkpoint(cfg.resume_from_checkpoint)

    def _store(self, cached: CachedRows | None, n_trained: int) -> ActivationsStore:
        """What the run reads from: its cache, its text, or the share of the text of a process.

        Args:
            n_trained: Tokens that a resumed run was trained on.
        """
        cfg, mesh = copy.copy(self.cfg), self.mesh
        if cached is not None:
            from_cache = CachedStore.from_config(
                self.model, without_cache(cfg), override_dataset=self._text.dataset
            )
            from_cache.rows = cached
            return from_cache
        n_batches = math.ceil((cfg.training_tokens - n_trained) / cfg.train_batch_size_tokens)
        if cfg.sae.normalize_activations in _ESTIMATED and not n_trained:
            n_batches += cfg.n_batches_for_norm_estimate
        if mesh is not None:
            cfg.train_batch_size_tokens //= mesh.n_processes
            # The buffers of all are the run's, so that text is mixed as by one process.
            cfg.n_batches_in_buffer = math.ceil(cfg.n_batches_in_buffer / mesh.n_processes)
        kind = MixedStore if mesh is None else OwnShare
        store = kind.from_config(self.model, cfg, override_dataset=self._text.dataset)
        store.n_tokens_wanted = n_batches * cfg.train_batch_size_tokens
        if isinstance(store, OwnShare) and mesh is not None:
            store.n_processes = mesh.n_processes
        return store

    def _resume(self, cfg: LanguageModelSAERunnerConfig[Any], model: StackedHooks) -> None:
        """Find the checkpoint to go on from, and refuse one of another run."""
        self._is_prolonged = False
        if cfg.resume_from_checkpoint is None:
            return
        given = Path(cfg.resume_from_checkpoint)
        found = find_checkpoint(given, partial(check_checkpoint, cfg=cfg))
        check_model(found, model.hook_names, model.dtype_name)
        self._text.resume(found)
        self._is_prolonged = is_prolonged(found, cfg)
        if self._is_prolonged:
            prolong(found, cfg)
        cfg.resume_from_checkpoint = str(found)

    def _set_sae_metadata(self) -> None:
        super()._set_sae_metadata()
        assert isinstance(self.model, StackedHooks)
        metadata = self.sae.cfg.metadata
        metadata.hook_names = self.model.hook_names
        self._text.reading.write_to(metadata)
        self._text.record(metadata)

    def run_trainer_with_interruption_handling(
        self, trainer: SAETrainer[TrainingSAE[Any], Any]
    ) -> TrainingSAE[Any]:
        cfg = self.cfg
        if cfg.resume_from_checkpoint is not None:
            moments = enumerate(map(trainer.optimizer.state.get, self.sae.parameters()))
            transpose_old_moments_(dict(moments), self.sae, cfg.resume_from_checkpoint)
        if self._is_prolonged:
            plan_again(trainer)
        fuse_(trainer.optimizer)
        watch = LossWatch(trainer)

        def before_saving() -> None:
            watch.check_weights()
            self._text.record(self.sae.cfg.metadata)
            if isinstance(self.activations_store, OwnShare) and self.mesh is not None:
                store = self.activations_store
                of_process = self.mesh.most(store.n_dataset_processed)
                store.n_rows_of_all = of_process * self.mesh.n_processes

        shared = None if self.mesh is None else SharedLatents(trainer, self.mesh)
        writer = CheckpointWriter(
            trainer, cfg.checkpoint_path, cfg.resume_from_checkpoint, before_saving, shared
        )
        self.checkpoints = writer
        if self.mesh is not None and shared is not None:
            estimate_on_all(trainer, self.mesh)
            shared.divide_()
        boundary = StepBoundary(trainer, cfg, writer, watch, self.mesh)
        trainer.data_provider = boundary
        evaluate = self.evaluator
        # SAELens' evaluator pauses the prefetching thread of the provider that it is handed.
        trainer.evaluator = lambda sae, _, scaler: evaluate(sae, boundary.batches, scaler)
        try:
            among = nullcontext() if self.mesh is None else joined(trainer, self.mesh)
            with watch.watching(self.sae), among:
                sae = trainer.fit()
            if shared is not None:
                shared.unite_()
                trainer.set_final_sae_metadata()  # of all latents
            boundary.stop_reading()
            writer.finish()
            return sae
        except InterruptedException:
            boundary.stop_reading()
            raise StoppedRun(writer.save(str(trainer.n_training_samples))) from None
        except DivergedRun as error:
            last = writer.last_whole
            raise DivergedRun(
                f"{error}; the last checkpoint is {last}" if last else error
            ) from None
        except UnreadableText as error:
            if not trainer.n_training_steps or cfg.checkpoint_path is None:
                raise
            checkpoint = writer.save(str(trainer.n_training_samples))
            raise UnreadableText(
                f"{error}. The state is saved: to go on, give the same flags and "
                f"--resume_from_checkpoint {checkpoint}"
            ) from error
        finally:
            boundary.close()

    def save_final_sae(
        self,
        sae: TrainingSAE[Any],
        output_path: str,
        log_feature_sparsity: torch.Tensor | None = None,
    ) -> None:
        self.checkpoints.before_saving()
        if self.mesh is not None and not self.mesh.is_first:
            return
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
        watch: LossWatch,
        mesh: ProcessMesh | None = None,
    ) -> None:
        self.batches, self.mesh = trainer.data_provider, mesh
        self.trainer, self.writer, self.watch = trainer, writer, watch
        self.signalled = False
        self.first_step, self.dataset_path = trainer.n_training_steps, cfg.dataset_path
        batch_size = cfg.train_batch_size_tokens
        # Given only where it is True: TQDM_DISABLE decides otherwise.
        silent = {"disable": True} if mesh is not None and not mesh.is_first else {}
        self.progress = tqdm(
            # whole batches: the last one goes past training_tokens
            total=math.ceil(cfg.training_tokens / batch_size) * batch_size,
            initial=trainer.n_training_samples,
            unit=" tokens",
            unit_scale=True,
            desc="training",
            leave=True,
            **silent,
        )
        # SAELens' trainer makes a bar of its own before it asks for a batch: this one shows more.
        self.no_second_bar = ExitStack()
        self.no_second_bar.enter_context(redirect_stderr(io.StringIO()))
        self.previous_handlers: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.previous_handlers[number] = signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: Any) -> None:
        self.signalled = True

    def __next__(self) -> torch.Tensor:
        self.no_second_bar.close()
        self.progress.update(self.trainer.n_training_samples - self.progress.n)
        if self.trainer.n_training_steps == self.first_step + 1:
            self.watch.check_scales()
        self.writer.save_if_due()
        signalled = self.signalled if self.mesh is None else self.mesh.any(self.signalled)
        if signalled and not self.writer.is_between_windows:
            raise InterruptedException
        batch, cause, said = None, None, None
        try:
            batch = next(self.batches)
        except _ERRORS_OF_TEXT as error:
            cause, said = error, first_line(error)[:400]
            if not isinstance(error, InputError):
                said = f"dataset_path={self.dataset_path!r} cannot be read any further ({said})"
        if self.mesh is not None:
            said = self.mesh.first_text(said)
        if said is not None:
            raise UnreadableText(said) from cause
        assert batch is not None
        return batch if self.mesh is None else self.mesh.gather_tokens(batch)

    def stop_reading(self) -> None:
        """Take no more text: rows that a prefetching thread then read would not be recorded."""
        if isinstance(self.batches, PrefetchingIterator):
            self.batches.close()

    def close(self) -> None:
        """End the progress bar and give the signals back."""
        self.no_second_bar.close()
        self.progress.update(self.trainer.n_training_samples - self.progress.n)
        self.progress.close()
        for number, handler in self.previous_handlers.items():
            signal.signal(number, handler)


def estimate_on_all(trainer: SAETrainer[Any, Any], mesh: ProcessMesh) -> None:
    """SAELens' estimates for ``normalize_activations``, from the batches of all processes."""
    cfg, scaler, how = trainer.cfg, trainer.activation_scaler, trainer.sae.cfg.normalize_activations
    whole = (mesh.gather_all(batch) for batch in trainer.data_provider)
    if how == "expected_average_only_in" and scaler.scaling_factor is None:
        scaler.estimate_scaling_factor(trainer.sae.cfg.d_in, whole, cfg.n_batches_for_norm_estimate)
    elif how == "covariance_whitening" and scaler.whitening is None:
        scaler.estimate_whitening(trainer.sae.cfg.d_in, whole, cfg.n_batches_for_norm_estimate)


def check_stack(cfg: LanguageModelSAERunnerConfig[Any], model: StackedHooks) -> None:
    """Refuse a config that cannot work with a model; see :func:`check_runner_config`.

    Raises:
        InputError: Naming the field, its value and the remedy.
    """
    check_runner_config(cfg, ("model_name", "dataset_path"))
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
    shape, d_k = model.state_shape, getattr(cfg.sae, "d_k", None)
    if shape is not None and d_k not in (None, shape[0]):
        raise InputError(
            f"d_k={d_k}, but the states at {cfg.hook_name!r} are {shape[0]} x {shape[1]}: set "
            f"d_k={shape[0]}"
        )
    if cfg.hook_head_index is not None:
        raise InputError(
            f"hook_head_index={cfg.hook_head_index}: hook points are trained on as a whole: leave "
            "it out, or train with SAELens' own runner and model"
        )
    model.check_context_size(cfg.context_size)
