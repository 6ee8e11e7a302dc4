"""Sparsifiers: which latents stay active in a batch, and by which threshold at inference."""

from __future__ import annotations

import torch
from sae_lens.saes.batchtopk_sae import BatchTopK

from sae_lens_poly.architectures.at_least_float32 import AtLeastFloat32


class BatchTopKSparsifier(AtLeastFloat32):
    """Keeps the ``k * n`` largest scores of a batch of n tokens (Bussmann et al. 2024).

    The score of a latent is its pre-activation, times the latent's decoder norm where the
    caller passes one (Minder et al. 2025, arXiv 2504.02922); what is kept is the unscaled
    pre-activation. At inference a latent is active where its score exceeds a threshold: an
    exponential moving average of the smallest score that was kept. Until ``1 / threshold_lr``
    batches have been seen it is their plain mean, so that it is not biased towards zero in a
    short run.

    Args:
        k: Mean number of active latents per token.
        threshold_lr: Weight of a new batch in the moving average.
    """

    threshold: torch.Tensor
    """Threshold on the score, shape ()."""
    n_batches: torch.Tensor
    """Number of batches that the threshold has seen, shape ()."""

    def __init__(self, k: float, threshold_lr: float, device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.threshold_lr = threshold_lr
        self.select = BatchTopK(k)
        self.register_buffer("threshold", torch.zeros((), device=device))
        self.register_buffer("n_batches", torch.zeros((), dtype=torch.long, device=device))

    def forward(
        self, hidden_pre: torch.Tensor, latent_norms: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Codes (..., d_sae) from pre-activations of that shape and norms (d_sae,) if any."""
        with torch.no_grad():
            active = self.select(score(hidden_pre, latent_norms)) > 0
        return hidden_pre * active

    @torch.no_grad()
    def update_threshold_(
        self, feature_acts: torch.Tensor, latent_norms: torch.Tensor | None = None
    ) -> None:
        """Let the threshold see a training batch of codes, as :meth:`forward` returned them."""
        scores = score(feature_acts, latent_norms).float()
        kept = scores[scores > 0]
        if kept.numel() == 0:
            return
        self.n_batches += 1
        weight = (1 / self.n_batches).clamp_min(self.threshold_lr)
        self.threshold.lerp_(kept.min().to(self.threshold.dtype), weight.to(self.threshold.dtype))

    def latent_thresholds(
        self, d_sae: int, latent_norms: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Thresholds (d_sae,) on the unscaled pre-activations: ``tau / ||W_dec_j||``."""
        if latent_norms is None:
            return self.threshold.expand(d_sae).clone()
        return self.threshold / latent_norms.to(self.threshold.dtype).clamp_min(1e-12)


def score(hidden_pre: torch.Tensor, latent_norms: torch.Tensor | None) -> torch.Tensor:
    """What latents are ranked by, in the shape of ``hidden_pre``."""
    return hidden_pre if latent_norms is None else hidden_pre * latent_norms.to(hidden_pre.dtype)
