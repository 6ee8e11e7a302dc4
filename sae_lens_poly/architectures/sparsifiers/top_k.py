"""TopK."""

from __future__ import annotations

from typing import Any

import torch

from sae_lens_poly.architectures.sparsifiers.base import (
    K_CONSTRAINTS,
    Sparsifier,
    annealed,
    check_k,
)
from sae_lens_poly.errors import InputError


class TopK(Sparsifier, name="topk"):
    """Keeps the k highest scores of every token where they are positive (Gao et al. 2024)."""

    CONSTRAINTS = K_CONSTRAINTS
    of_latents = ()
    selects = True
    at_inference = True

    def __init__(self, cfg: Any, d_sae: int, device: torch.device | str = "cpu") -> None:
        super().__init__(cfg, d_sae)
        self.cfg, self.k = cfg, cfg.k

    @classmethod
    def check(cls, cfg: Any) -> None:
        check_k(cfg)
        if cfg.k != round(cfg.k):
            raise InputError(f"k={cfg.k} must be a whole number with sparsifier='topk'")

    def prepare_(self, step: int) -> None:
        if self.cfg.k_start is not None:
            self.k = annealed(self.cfg, step)

    def select(
        self, hidden_pre: torch.Tensor, latent_norms: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        scores = hidden_pre if latent_norms is None else hidden_pre * latent_norms
        if self.world is not None and self.training:
            return self.world.top_k(scores, round(self.k))
        return top_k(scores, round(self.k))


@torch.no_grad()
def top_k(scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and columns of the k highest of each row of ``scores`` (n, d_sae), in order."""
    kept = torch.topk(scores, k, dim=-1, sorted=False).indices.sort(dim=-1).values
    rows = torch.arange(len(scores), device=scores.device).repeat_interleave(k)
    return rows, kept.flatten()
