"""TopK."""

from __future__ import annotations

import torch

from sae_lens_poly.architectures.selection import top_k
from sae_lens_poly.architectures.sparsifiers.selecting import SelectingSparsifier


class TopKSparsifier(SelectingSparsifier):
    """Keeps the k highest scores of every token (Gao et al. 2024), also at inference."""

    def select(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return top_k(scores, round(self.k))

    def latent_thresholds(
        self, d_sae: int, latent_norms: torch.Tensor | None = None
    ) -> torch.Tensor:
        raise NotImplementedError("a TopK has no thresholds: it is exported as a TopK")
