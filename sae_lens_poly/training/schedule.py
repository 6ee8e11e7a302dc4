"""The learning rate of a run that is resumed for longer than it was planned."""

from __future__ import annotations

import warnings
from typing import Any

from sae_lens.training.optim import get_lr_scheduler
from sae_lens.training.sae_trainer import SAETrainer


def plan_again(trainer: SAETrainer[Any, Any]) -> None:
    """Give a trainer the schedule of its config, at the step that it has come to.

    A checkpoint brings the schedule that it was written with, which ends where that run was to end.

    Args:
        trainer: With the state of a checkpoint loaded.
    """
    cfg = trainer.cfg
    for group in trainer.optimizer.param_groups:
        group["lr"] = group["initial_lr"] = cfg.lr
    assert cfg.lr_end is not None
    with warnings.catch_warnings():  # of the optimiser, which took its steps in the other run
        warnings.simplefilter("ignore", UserWarning)
        trainer.lr_scheduler = get_lr_scheduler(
            cfg.lr_scheduler_name,
            lr=cfg.lr,
            optimizer=trainer.optimizer,
            warm_up_steps=cfg.lr_warm_up_steps,
            decay_steps=cfg.lr_decay_steps,
            training_steps=cfg.total_training_steps,
            lr_end=cfg.lr_end,
            num_cycles=cfg.n_restart_cycles,
        )
        for _ in range(trainer.n_training_steps):
            trainer.lr_scheduler.step()
