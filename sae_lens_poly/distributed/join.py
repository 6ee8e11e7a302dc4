"""Puts a trainer among the processes of a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from sae_lens.saes.batchtopk_sae import BatchTopK
from sae_lens.training.sae_trainer import SAETrainer
from torch import nn

from sae_lens_poly.architectures.sparsifiers.batch_topk import k_of_batch
from sae_lens_poly.distributed.process_mesh import ProcessMesh
from sae_lens_poly.errors import InputError

#: SAELens' own dictionaries whose step is a mean over tokens and nothing else.
_LINEAR_IN_TOKENS = {"standard", "topk", "gated", "jumprelu"}


@contextmanager
def joined(trainer: SAETrainer[Any, Any], mesh: ProcessMesh) -> Iterator[None]:
    """Within it, a step of the trainer is that of one process with the parts of all.

    The trainer is SAELens', and its config that of the whole batch; it is given this process' part.
    Gradients are averaged as they are ready, before they are clipped; counts of active latents are
    added up after the optimiser's step.

    Raises:
        InputError: If the dictionary cannot be trained so.
    """
    sae, counts = trainer.sae, CountsOfAll(trainer, mesh)
    set_world_(sae, mesh)
    hooks: list[Any] = [
        weights.register_post_accumulate_grad_hook(lambda p: mesh.average_(p.grad))
        for weights in sae.parameters()
    ]
    hooks.append(trainer.optimizer.register_step_post_hook(counts.add_up_))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        set_world_(sae, None)


def set_world_(sae: Any, mesh: ProcessMesh | None) -> None:
    """Tell the parts of a dictionary in training who has the rest of the batch; None: nobody.

    Raises:
        InputError: If it has parts that cannot be told.
    """
    if not hasattr(sae, "world"):
        if sae.cfg.architecture() not in _LINEAR_IN_TOKENS:
            raise InputError(
                f"architecture={sae.cfg.architecture()!r} looks at a whole batch, which SAELens' "
                "class cannot do over several processes: take "
                f"'poly_{sae.cfg.architecture()}', or train with one process"
            )
        return
    for part in (*sae.modules(), getattr(sae, "masking", None)):
        if hasattr(part, "world"):
            part.world = mesh
    if isinstance(sae.activation_fn, BatchTopK | BatchTopKOfAll):
        own = sae.get_activation_fn()
        sae.activation_fn = own if mesh is None else BatchTopKOfAll(own.k, mesh)


class BatchTopKOfAll(nn.Module):
    """SAELens' BatchTopK over the batch of all processes.

    Args:
        k: Mean number of active latents a token.
        world: The processes.
    """

    def __init__(self, k: float, world: ProcessMesh) -> None:
        super().__init__()
        self.k, self.world = k, world

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        active = torch.zeros_like(x, dtype=torch.bool)
        rows = x.reshape(-1, x.shape[-1])
        active.view_as(rows)[k_of_batch(rows.detach(), self.k, self)] = True
        return x.relu() * active


class CountsOfAll:
    """Adds up what SAELens' trainer counts in a step, as the hook of an optimiser.

    Args:
        trainer: Whose config is that of the whole batch.
        mesh: The processes.
    """

    def __init__(self, trainer: SAETrainer[Any, Any], mesh: ProcessMesh) -> None:
        self.trainer, self.mesh = trainer, mesh
        self.before = trainer.act_freq_scores.clone()

    @torch.no_grad()
    def add_up_(self, *_: Any) -> None:
        """Number of tokens, how often each latent was active, and for how long it was not."""
        trainer, batch = self.trainer, self.trainer.cfg.train_batch_size_samples
        trainer.n_training_samples += batch - batch // self.mesh.n_data
        if trainer.n_frac_active_samples == batch:  # the first batch of a window
            self.before.zero_()
        fired = self.mesh.sum(trainer.act_freq_scores - self.before)
        self.before += fired
        trainer.act_freq_scores.copy_(self.before)
        trainer.n_forward_passes_since_fired[fired > 0] = 0
