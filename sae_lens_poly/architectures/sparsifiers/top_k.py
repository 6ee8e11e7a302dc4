"""TopK."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from sae_lens_poly.architectures.sparsifiers.base import (
    K_CONSTRAINTS,
    Sparsifier,
    annealed,
    check_k,
)
from sae_lens_poly.errors import InputError


class TopK(Sparsifier, name="topk"):
    """Keeps the k highest scores of every token where they are positive (Gao et al. 2024).

    At inference ``select_groups`` of the config may split the latents into as many ranges of equal
    size, of each of which the k highest are kept: so does a transcoder for each layer, and with
    k = 1 group-max.
    """

    CONSTRAINTS = K_CONSTRAINTS
    of_latents = ()
    selects = True
    at_inference = True

    def __init__(self, cfg: Any, d_sae: int, device: torch.device | str = "cpu") -> None:
        super().__init__(cfg, d_sae)
        self.cfg, self.k = cfg, cfg.k
        self.n_groups = getattr(cfg, "select_groups", 1)

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
        return top_k(scores, round(self.k), self.n_groups)


class SignedTopK(Sparsifier, name="signed_topk"):
    """TopK without a ReLU: a pre-activation below zero is kept where it is among the k highest.

    That of circuit-tracer's transcoders and of crosscode, for inference.
    """

    CONSTRAINTS = K_CONSTRAINTS
    selects = True
    at_inference = True
    values: ClassVar[Any] = staticmethod(torch.positive)

    def __init__(self, cfg: Any, d_sae: int, device: torch.device | str = "cpu") -> None:
        super().__init__(cfg, d_sae)
        self.k, self.n_groups = cfg.k, getattr(cfg, "select_groups", 1)

    @classmethod
    def check(cls, cfg: Any) -> None:
        raise InputError(
            "sparsifier='signed_topk' is what dictionaries of other packages are read as: train "
            "with 'topk'"
        )

    def select(
        self, hidden_pre: torch.Tensor, latent_norms: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        scores = hidden_pre if latent_norms is None else hidden_pre * latent_norms
        return top_k(scores, round(self.k), self.n_groups)


@torch.no_grad()
def top_k(scores: torch.Tensor, k: int, n_groups: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and columns of the k highest of each row of ``scores`` (n, d_sae), in order.

    Args:
        scores: Of all latents.
        k: How many to keep, of each group.
        n_groups: Number of ranges of equal size that the latents are split into.
    """
    size = scores.shape[-1] // n_groups
    grouped = scores.reshape(-1, size)
    kept = torch.topk(grouped, k, dim=-1, sorted=False).indices.sort(dim=-1).values
    kept = kept.view(len(scores), n_groups, k)
    first = torch.arange(n_groups, device=scores.device)[:, None] * size
    rows = torch.arange(len(scores), device=scores.device).repeat_interleave(n_groups * k)
    return rows, (kept + first).flatten()
