"""Inner products times a power of the input's norm: what cosine scores are at inference."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from typing_extensions import Self

from sae_lens_poly.architectures.encoders.encoder import EncoderScore, Places, at_places
from sae_lens_poly.architectures.weights.base import Weights

#: What norms are kept from falling below, as in the code of arXiv 2606.15054.
FLOOR = 1e-8


class InputPower(EncoderScore, name="input_power"):
    """``|s x|^(a_i - 1) <x, w_i>``: a_i = 1 is the inner product.

    Lengths of encoder vectors count here, so that decoder norms and scales of hook points can be
    folded into them. The norm of the input stays in the units of training: s holds the scales of
    hook points that were folded.

    Args:
        d_sae: Number of latents.
        n_hooks: Number of hook points.
    """

    hook_scale: torch.Tensor
    """What each hook point of the input is multiplied by before its norm is taken, (n_hooks,)."""

    def __init__(
        self,
        d_sae: int,
        n_hooks: int = 1,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(d_sae)
        self.power = nn.Parameter(torch.ones(d_sae, dtype=dtype, device=device))
        self.register_buffer("hook_scale", torch.ones(n_hooks, dtype=dtype, device=device))

    @classmethod
    def from_config(cls, cfg: Any, dtype: torch.dtype, device: torch.device) -> Self:
        return cls(cfg.d_sae, cfg.n_hooks, dtype=dtype, device=device)

    def forward(
        self, products: torch.Tensor, x: torch.Tensor, weights: Weights, at: Places | None = None
    ) -> torch.Tensor:
        scaled = x * self.hook_scale.repeat_interleave(weights.d_model)
        sizes = at_places(weights.read_norms(scaled).clamp_min(FLOOR), at)
        return products * sizes.pow(at_places(self.power, at) - 1)

    @torch.no_grad()
    def scale_hooks_(self, factor: torch.Tensor) -> None:
        self.hook_scale.mul_(factor.to(self.hook_scale.dtype))
