"""One normalisation scale per hook point."""

from __future__ import annotations

from typing import Any

import torch
from sae_lens.saes.sae import SAE

from sae_lens_poly.architectures.kernels.at_least_float32 import (
    AtLeastFloat32,
    at_least_float32,
)
from sae_lens_poly.architectures.world import World


class HookScales(AtLeastFloat32):
    """Scales that bring the activations of every hook point to a mean norm of sqrt(d_model).

    Residual norms grow with depth; without a scale of its own for each hook point the loudest
    one would decide the loss. ``scale[l] = sqrt(d_model) / mean_t ||x_t^l||``, the convention
    of SAELens' ``expected_average_only_in`` and of the crosscoder replications, taken hook
    point by hook point. (The mean norm, not the root mean square: a few massive activations,
    as at BOS in GPT-2, would dominate the latter.)

    Args:
        n_hooks: Number of hook points L.
        d_model: Width of one hook point.
    """

    scale: torch.Tensor
    """Shape (n_hooks,); what raw activations are multiplied by. Ones until estimated."""
    estimated: torch.Tensor
    """Whether :attr:`scale` has been estimated, shape ()."""
    world: World | None = None

    def __init__(self, n_hooks: int, d_model: int, device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.n_hooks, self.d_model = n_hooks, d_model
        self.register_buffer("scale", torch.ones(n_hooks, device=device))
        self.register_buffer("estimated", torch.tensor(False, device=device))

    @torch.no_grad()
    def estimate_(self, x: torch.Tensor) -> None:
        """Set the scales from raw activations ``x`` of shape (..., n_hooks * d_model)."""
        norms = at_least_float32(x).unflatten(-1, (self.n_hooks, self.d_model)).norm(dim=-1)
        mean_norm = norms.reshape(-1, self.n_hooks).mean(dim=0)
        if self.world is not None:
            mean_norm = self.world.mean(mean_norm)
        self.scale.copy_(self.d_model**0.5 / mean_norm.clamp_min(1e-12))
        self.estimated.fill_(True)

    def normalise(self, x: torch.Tensor) -> torch.Tensor:
        """Raw activations to normalised ones, shape (..., d_in)."""
        return x * self.scale.repeat_interleave(self.d_model).to(x.dtype)

    def denormalise(self, x: torch.Tensor) -> torch.Tensor:
        """Normalised activations to raw ones, shape (..., d_in)."""
        return x / self.scale.repeat_interleave(self.d_model).to(x.dtype)


def saved_scales(sae: SAE[Any], n_hooks: int) -> torch.Tensor:
    """What a saved dictionary was trained with, (n_hooks,), on the CPU; ones where unknown."""
    return torch.tensor(sae.cfg.metadata.hook_scales or [1.0] * n_hooks)
