"""Stops a run at its first loss that is not finite."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from sae_lens.saes.sae import TrainingSAE, TrainStepInput, TrainStepOutput
from sae_lens.training.sae_trainer import SAETrainer

from sae_lens_poly.errors import DivergedRun, InputError

# Steps between two looks at losses on a device that computes ahead of the program.
_STEPS_UNSEEN = 50

# A scale of a hook point above it is that of activations which were all zero.
_LARGEST_SCALE = 1e9


class LossWatch:
    """Looks at every loss before it is learned from.

    On a CPU a run ends in the step itself, before the weights change. A GPU is not waited for in
    each step: losses are looked at there every few steps, and before anything is saved.
    """

    def __init__(self, trainer: SAETrainer[Any, Any]) -> None:
        self.trainer = trainer
        self._first_bad: torch.Tensor | None = None

    @contextmanager
    def watching(self, sae: TrainingSAE[Any]) -> Iterator[None]:
        """Within it, the losses of a dictionary in training are looked at."""
        forward, is_compiled = sae.training_forward_pass, "training_forward_pass" in vars(sae)

        def watched(step_input: TrainStepInput) -> TrainStepOutput:
            try:
                output = forward(step_input=step_input)
            except DivergedRun as error:  # our dictionaries see it themselves, without a trainer
                step = self.trainer.n_training_steps
                raise self._diverged(f"the loss is not finite at step {step:,}") from error
            self._look_at(output.loss.detach())
            return output

        # As SAELens itself puts the compiled function in place of the method.
        sae.training_forward_pass = watched
        try:
            yield
        finally:
            del sae.training_forward_pass
            if is_compiled:
                sae.training_forward_pass = forward

    def _look_at(self, loss: torch.Tensor) -> None:
        step = self.trainer.n_training_steps
        now = torch.where(loss.isfinite(), math.inf, float(step))
        self._first_bad = now if self._first_bad is None else self._first_bad.minimum(now)
        if loss.device.type == "cpu" or step % _STEPS_UNSEEN == 0:
            self.check()

    def check(self) -> None:
        """Refuse to go on after a loss that was not finite.

        Raises:
            DivergedRun: Naming the step and what to change.
        """
        step = math.inf if self._first_bad is None else self._first_bad.item()
        if math.isfinite(step):
            raise self._diverged(f"the loss is not finite at step {int(step):,}")

    def check_weights(self) -> None:
        """Refuse weights that are not finite, or scales of hook points without activations.

        Raises:
            DivergedRun: Naming the weights.
        """
        self.check()
        self.check_scales()
        sae = self.trainer.sae
        for name, weights in sae.state_dict().items():
            if weights.is_floating_point() and not weights.isfinite().all():
                step = self.trainer.n_training_steps
                raise self._diverged(f"{name} has NaN or infinity after step {step:,}")

    def check_scales(self) -> None:
        """Refuse a hook point whose activations in the first batch are all zero.

        Raises:
            InputError: Naming it.
        """
        scales = getattr(self.trainer.sae, "hook_scales", None)
        if scales is None:
            return
        for hook, scale in enumerate(scales.scale.tolist()):
            if not scale < _LARGEST_SCALE:
                names = self.trainer.sae.cfg.metadata.hook_names
                raise InputError(
                    f"hook_name: activations at {names[hook] if names else f'hook point {hook}'} "
                    f"are all but zero (their scale would be {scale:.0e}): leave it out"
                )

    def _diverged(self, what: str) -> DivergedRun:
        cfg = self.trainer.cfg
        remedy = f"lower lr={cfg.lr:g}, or raise lr_warm_up_steps={cfg.lr_warm_up_steps}"
        if self.trainer.sae.cfg.dtype == "float16":
            remedy = "train with dtype='float32' or 'bfloat16'; float16 ends at 65,504"
        return DivergedRun(f"{what}: {remedy}")
