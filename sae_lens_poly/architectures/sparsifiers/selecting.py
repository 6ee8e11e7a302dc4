"""What TopK and BatchTopK share."""

from __future__ import annotations

from abc import abstractmethod

import torch

from sae_lens_poly.architectures.sparsifiers.base import Sparsifier, score


class SelectingSparsifier(Sparsifier):
    """Keeps the highest scores, where they are positive.

    Args:
        k: Number of active latents per token.
        k_start: What k is at the first step, if it is annealed; then it goes to ``k`` along a line.
        k_anneal_steps: Number of steps that takes.
    """

    def __init__(self, k: float, k_start: float | None = None, k_anneal_steps: int = 0) -> None:
        super().__init__()
        self.final_k, self.k_start, self.k_anneal_steps = k, k_start, k_anneal_steps
        self.k = k

    def prepare_(self, step: int) -> None:
        if self.k_start is None or step >= self.k_anneal_steps:
            self.k = self.final_k
        else:
            self.k = self.k_start + (self.final_k - self.k_start) * step / self.k_anneal_steps

    @abstractmethod
    def select(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows and columns of the entries of ``scores`` (n, d_sae) to keep, in order."""

    def forward(
        self, hidden_pre: torch.Tensor, latent_norms: torch.Tensor | None = None
    ) -> torch.Tensor:
        with torch.no_grad():
            scores = score(hidden_pre, latent_norms)
            active = torch.zeros_like(scores, dtype=torch.bool)
            rows = scores.reshape(-1, scores.shape[-1])
            active.view_as(rows)[self.select(rows)] = True
        return hidden_pre.relu() * active
