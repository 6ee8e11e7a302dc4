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
from sae_lens_poly.distributed.shards import of_latents, share_latents_
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
    check_can_join(trainer.sae, mesh)
    sae, counts, gradients = trainer.sae, CountsOfAll(trainer, mesh), GradientsOfAll(trainer, mesh)
    set_world_(sae, mesh)
    hooks = [p.register_post_accumulate_grad_hook(gradients.average_) for p in sae.parameters()]
    hooks.append(trainer.optimizer.register_step_pre_hook(gradients.clip_))
    hooks.append(trainer.optimizer.register_step_post_hook(counts.add_up_))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        set_world_(sae, None)


def check_can_join(sae: Any, mesh: ProcessMesh) -> None:
    """Refuse a dictionary that several processes cannot train.

    Raises:
        InputError: Naming the field, its value and the remedy.
    """
    architecture = sae.cfg.architecture()
    if not hasattr(sae, "world") and architecture not in _LINEAR_IN_TOKENS:
        raise InputError(
            f"architecture={architecture!r} looks at a whole batch, which SAELens' class cannot do "
            f"over several processes: take 'poly_{architecture}', or train with one process"
        )
    if every := getattr(sae.cfg, "revive_every", 0):
        raise InputError(
            f"revive_every={every} draws from the batch of one process: set it to 0, or train with "
            "one process"
        )
    if mesh.n_shards > 1:
        list(of_latents(sae))


def set_world_(sae: Any, mesh: ProcessMesh | None) -> None:
    """Tell the parts of a dictionary in training who has the rest of the batch; None: nobody."""
    if not hasattr(sae, "world"):
        return
    for part in (*sae.modules(), getattr(sae, "masking", None)):
        if hasattr(part, "world"):
            part.world = mesh
    if mesh is None or mesh.n_shards > 1:
        share_latents_(sae, mesh)
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


class GradientsOfAll:
    """Averages gradients over the processes, as hooks of weights and of an optimiser.

    SAELens' trainer clips gradients by the norm of what it has, which is that of own latents where
    these are shared: how far that is from the norm of all is made good before the step.

    Args:
        trainer: Whose weights they are.
        mesh: The processes.
    """

    def __init__(self, trainer: SAETrainer[Any, Any], mesh: ProcessMesh) -> None:
        self.mesh = mesh
        self.weights = list(trainer.sae.parameters())
        self.sharded = {id(p) for p in of_latents(trainer.sae)} if mesh.n_shards > 1 else None
        # Squared norms: of own latents' weights, and of the others, which every shard has.
        self.own = self.others = torch.zeros((), device=mesh.device)

    def average_(self, weights: torch.nn.Parameter) -> None:
        """Replace the gradient of a part of the batch by that of all of it."""
        gradient = weights.grad
        assert gradient is not None
        is_sharded = self.sharded is None or id(weights) in self.sharded
        self.mesh.average_(gradient, is_sharded)
        if self.mesh.n_shards == 1:
            return
        square = gradient.pow(2).sum()
        if is_sharded:
            self.own = self.own + square
        else:
            self.others = self.others + square

    def clip_(self, *_: Any) -> None:
        """Clip by the norm over all shards what was clipped by that of one."""
        if self.mesh.n_shards == 1:
            return
        own, others = self.own, self.others
        clipped = _clipping((own + others).sqrt())
        wanted = _clipping((self.mesh.sum_of_shards(own) + others).sqrt())
        self.own = self.others = torch.zeros((), device=self.mesh.device)
        for weights in self.weights:
            if weights.grad is not None:
                weights.grad.mul_((wanted / clipped).to(weights.grad.dtype))


def _clipping(norm: torch.Tensor) -> torch.Tensor:
    """What SAELens' trainer multiplies gradients of a norm by: torch's rule, at most 1."""
    return (1 / (norm + 1e-6)).clamp_max(1.0)


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
