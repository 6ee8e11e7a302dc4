"""ReLU with a penalty on the size of what is written."""

from __future__ import annotations

from collections.abc import Callable

import torch
from sae_lens.saes.sae import TrainCoefficientConfig, TrainStepInput

from sae_lens_poly.architectures.sparsifiers.base import Sparsifier


class ReLUSparsifier(Sparsifier):
    """ReLU, and an L1 penalty weighted by decoder norms (Lindsey et al. 2024).

    ``l1_of_norms``: ``sum_i f_i sum_l ||W_dec,i^l||``. ``l2_of_norms``:
    ``sum_i f_i sqrt(sum_l ||W_dec,i^l||^2)``, which has a better error at the same L0, but
    spreads latents over hook points, and in model diffing finds only shared ones.

    Args:
        penalty: ``l1_of_norms`` or ``l2_of_norms``.
        coefficient: Of the penalty.
        warm_up_steps: Over which the coefficient rises from 0.
    """

    def __init__(self, penalty: str, coefficient: float, warm_up_steps: int) -> None:
        super().__init__()
        self.p = {"l1_of_norms": 1, "l2_of_norms": 2}[penalty]
        self.coefficient = TrainCoefficientConfig(coefficient, warm_up_steps)

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
