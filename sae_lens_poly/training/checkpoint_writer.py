"""Checkpoints of a running trainer: each is whole, and one that fails does not end the run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sae_lens import logger
from sae_lens.saes.sae import SAE
from sae_lens.training.sae_trainer import SAETrainer

from sae_lens_poly.distributed.shards import SharedLatents
from sae_lens_poly.errors import InputError
from sae_lens_poly.training.finite_loss import DivergedRun
from sae_lens_poly.whole_files import whole_folder


class CheckpointWriter:
    """Saves a trainer's checkpoints between steps, when all of its state is consistent.

    It takes over what SAELens' trainer does in the middle of a step, where the number of steps is
    one behind the weights, and where a full disk ends the run.

    Args:
        trainer: The trainer, of which the plan of checkpoints is taken.
        folder: Where checkpoints go; None: nowhere but to wandb, if it is used.
        resumed_from: The checkpoint that the run is resumed from, if so.
        before_saving: Called each time; raises ``DivergedRun`` if there is nothing worth saving.
        shared: The latents that processes of the run share, if there are several: the first one
            writes, with those of all.
    """

    def __init__(
        self,
        trainer: SAETrainer[Any, Any],
        folder: str | None,
        resumed_from: str | None = None,
        before_saving: Callable[[], None] = lambda: None,
        shared: SharedLatents | None = None,
    ) -> None:
        self.shared = shared
        self.trainer, self.folder, self.before_saving = trainer, folder, before_saving
        self.last_whole = Path(resumed_from) if resumed_from else None
        done = trainer.n_training_samples
        self._due_at = [n for n in trainer.checkpoint_thresholds if n >= done]
        self._final = trainer.cfg.save_final_checkpoint
        trainer.checkpoint_thresholds, trainer.cfg.save_final_checkpoint = [], False

    @property
    def is_between_windows(self) -> bool:
        """Whether the trainer has just reset its count of active latents and has no figure yet."""
        return self.trainer.n_training_steps > 0 and self.trainer.n_frac_active_samples == 0

    def save_if_due(self) -> None:
        """Save the next planned checkpoint if its time has come."""
        done = self.trainer.n_training_samples
        if self._due_at and done > self._due_at[0] and not self.is_between_windows:
            self._due_at = [n for n in self._due_at if n >= done]
            self._try_to_save(str(done))

    def finish(self) -> None:
        """Save what is due after the last step."""
        self.save_if_due()
        if self._final:
            self._try_to_save(f"final_{self.trainer.n_training_samples}")

    def save(self, name: str) -> Path | None:
        """Save a checkpoint; None where there is no folder for any.

        Raises:
            InputError: If it cannot be written. Older checkpoints are whole.
        """
        self.before_saving()
        if self.shared is None:
            return self._save(name)
        with self.shared.united():
            if self.shared.mesh.is_first:
                return self._save(name)
        self.last_whole = None if self.folder is None else Path(self.folder) / name
        return self.last_whole

    def _save(self, name: str) -> Path | None:
        if self.folder is None:
            self.trainer.save_checkpoint(name)
            return None
        checkpoint = Path(self.folder) / name
        last = f"; the last whole checkpoint is {self.last_whole}" if self.last_whole else ""
        remedy = f"free some space, or name another checkpoint_path{last}"
        size = 3 * size_of(self.trainer.sae)  # the weights, and Adam's two moments
        with whole_folder(checkpoint, manifest=True, n_bytes=size, remedy=remedy) as unfinished:
            self.trainer.save_checkpoint(unfinished.name, base_path=unfinished.parent)
        self.last_whole = checkpoint
        return checkpoint

    def rescue(self) -> str:
        """Keep a trained dictionary that could not be saved, as a checkpoint; where, in words."""
        try:
            # Without the other processes, which are not waited for here.
            checkpoint = self._save(f"final_{self.trainer.n_training_samples}")
        except InputError:
            checkpoint = None
        if checkpoint is not None:
            return f"it is kept in {checkpoint}, for 'python -m sae_lens_poly export'"
        return f"the last whole checkpoint is {self.last_whole or 'none'}"

    def _try_to_save(self, name: str) -> None:
        try:
            self.save(name)
        except DivergedRun:
            raise
        except InputError as error:
            logger.warning(f"no checkpoint at {name}, training continues: {error}")


def size_of(sae: SAE[Any]) -> int:
    """Bytes of the weights of a dictionary."""
    return sum(tensor.numel() * tensor.element_size() for tensor in sae.state_dict().values())
