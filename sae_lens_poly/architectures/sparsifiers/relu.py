"""ReLU with a penalty on the size of what is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from sae_lens.saes.sae import TrainCoefficientConfig, TrainStepInput

from sae_lens_poly.architectures.sparsifiers.base import NORMS, PENALTY, Sparsifier
from sae_lens_poly.constraints import Number


class ReLU(Sparsifier, name="relu"):
    """ReLU, and an L1 penalty weighted by decoder norms (Lindsey et al. 2024).

    ``l1_of_norms``: ``sum_i f_i sum_l ||W_dec,i^l||``. ``l2_of_norms``:
    ``sum_i f_i sqrt(sum_l ||W_dec,i^l||^2)``, which has a better error at the same L0, but
    spreads latents over hook points, and in model diffing finds only shared ones.
    """

    CONSTRAINTS: ClassVar = {
        "sparsity_penalty": PENALTY,
        "l1_coefficient": Number(at_least=0),
        "l1_warm_up_steps": Number(at_least=0, whole=True),
    }

    of_latents = ()
    penalises = True

    def __init__(self, cfg: Any, d_sae: int, device: torch.device | str = "cpu") -> None:
        super().__init__(cfg, d_sae)
        self.p = NORMS[cfg.sparsity_penalty]
        self.coefficient = TrainCoefficientConfig(cfg.l1_coefficient, cfg.l1_warm_up_steps)

    def forward(
        self, hidden_pre: torch.Tensor, latent_norms: torch.Tensor | None = None
    ) -> torch.Tensor:
        return hidden_pre.relu()

    def latent_thresholds(
        self, d_sae: int, latent_norms: torch.Tensor | None = None
    ) -> torch.Tensor:
        return torch.zeros(d_sae)

    def coefficients(self) -> dict[str, float | TrainCoefficientConfig]:
        return {"l1": self.coefficient}

    def losses(
        self,
        step_input: TrainStepInput,
        feature_acts: torch.Tensor,
        hidden_pre: torch.Tensor,
        latent_norms: torch.Tensor | None,
        decoder_norms: Callable[[], torch.Tensor],
    ) -> dict[str, torch.Tensor]:
        penalty = (feature_acts @ decoder_norms().norm(p=self.p, dim=-1)).mean()
        return {"l1_loss": step_input.coefficients["l1"] * penalty}
