"""What every sparsifier of a crosscoder does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from sae_lens.saes.sae import TrainCoefficientConfig, TrainStepInput

from sae_lens_poly.architectures.at_least_float32 import AtLeastFloat32
from sae_lens_poly.architectures.sparse_code import scale_latents


class Sparsifier(AtLeastFloat32, ABC):
    """Makes codes of pre-activations, in training; at inference there is a threshold, or a TopK.

    The score of a latent is its pre-activation, times the latent's decoder norm where the caller
    passes one (Minder et al. 2025, arXiv 2504.02922). What is decoded is the unscaled
    pre-activation in either case.
    """

    #: Whether :meth:`update_` learns something.
    observes_codes = False

    def prepare_(self, step: int) -> None:
        """Get ready for the training step of this number."""

    def retract_(self) -> None:
        """Return weights to what they may be, after a step of the optimiser."""

    @abstractmethod
    def forward(
        self, hidden_pre: torch.Tensor, latent_norms: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Codes (..., d_sae) from pre-activations of that shape and norms (d_sae,) if any."""

    def update_(
        self,
        feature_acts: torch.Tensor,
        latent_norms: torch.Tensor | None = None,
        stands_for: int = 1,
    ) -> None:
        """See the codes of a training batch, as :meth:`forward` returned them; dense or sparse.

        Args:
            feature_acts: Codes (..., d_sae).
            latent_norms: What scores are multiplied by, if anything, (d_sae,).
            stands_for: Number of batches that this one is shown in place of.
        """

    @abstractmethod
    def latent_thresholds(
        self, d_sae: int, latent_norms: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Thresholds (d_sae,) on the unscaled pre-activations, for an inference dictionary."""

    def coefficients(self) -> dict[str, float | TrainCoefficientConfig]:
        """Coefficients of its losses, for SAELens' schedule."""
        return {}

    def losses(
        self,
        step_input: TrainStepInput,
        feature_acts: torch.Tensor,
        hidden_pre: torch.Tensor,
        latent_norms: torch.Tensor | None,
        decoder_norms: Callable[[], torch.Tensor],
    ) -> dict[str, torch.Tensor]:
        """Its losses on a training batch.

        Args:
            step_input: Of the batch; for the coefficients and the dead latents.
            feature_acts: Codes (n, d_sae).
            hidden_pre: Pre-activations (n, d_sae).
            latent_norms: What scores are multiplied by, if anything, (d_sae,).
            decoder_norms: Computes the norm of each latent's decoder at each hook point,
                (d_sae, n_hooks), with gradients.
        """
        return {}


def score(hidden_pre: torch.Tensor, latent_norms: torch.Tensor | None) -> torch.Tensor:
    """What latents are ranked by, in the shape of ``hidden_pre``; sparse codes stay sparse."""
    if latent_norms is None:
        return hidden_pre
    return scale_latents(hidden_pre, latent_norms.to(hidden_pre.dtype))
