"""BatchTopK."""

from __future__ import annotations

import torch

from sae_lens_poly.architectures.selection import batch_top_k
from sae_lens_poly.architectures.sparsifiers.base import score
from sae_lens_poly.architectures.sparsifiers.selecting import SelectingSparsifier


class BatchTopKSparsifier(SelectingSparsifier):
    """Keeps the ``k * n`` highest scores of a batch of n tokens (Bussmann et al. 2024).

    At inference a latent is active where its score exceeds a threshold: an exponential moving
    average of the smallest score that was kept. Until ``1 / threshold_lr`` batches have been seen
    it is their plain mean, so that it is not biased towards zero in a short run.

    Args:
        k: Mean number of active latents per token.
        threshold_lr: Weight of a new batch in the moving average.
        k_start: As :class:`SelectingSparsifier` has it.
        k_anneal_steps: Likewise.
    """

    observes_codes = True

    threshold: torch.Tensor
    """Threshold on the score, shape ()."""
    n_batches: torch.Tensor
    """Number of batches that the threshold has seen, shape ()."""

    def __init__(
        self,
        k: float,
        threshold_lr: float,
        k_start: float | None = None,
        k_anneal_steps: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(k, k_start, k_anneal_steps)
        self.threshold_lr = threshold_lr
        self.register_buffer("threshold", torch.zeros((), device=device))
        self.register_buffer("n_batches", torch.zeros((), dtype=torch.long, device=device))

    def select(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return batch_top_k(scores, int(self.k * len(scores)))

    @torch.no_grad()
    def update_(
        self,
        feature_acts: torch.Tensor,
        latent_norms: torch.Tensor | None = None,
        stands_for: int = 1,
    ) -> None:
        scores = score(feature_acts, latent_norms)
        scores = (scores.coalesce().values() if scores.is_sparse else scores).float()
        kept = scores[scores > 0]
        if kept.numel() == 0:
            return
        self.n_batches += stands_for
        weight = (stands_for / self.n_batches).clamp_min(min(1.0, stands_for * self.threshold_lr))
        self.threshold.lerp_(kept.min().to(self.threshold.dtype), weight.to(self.threshold.dtype))

    def latent_thresholds(
        self, d_sae: int, latent_norms: torch.Tensor | None = None
    ) -> torch.Tensor:
        """``tau / ||W_dec_j||``, or tau where scores are the pre-activations."""
        if latent_norms is None:
            return self.threshold.expand(d_sae).clone()
        return self.threshold / latent_norms.to(self.threshold.dtype).clamp_min(1e-12)
