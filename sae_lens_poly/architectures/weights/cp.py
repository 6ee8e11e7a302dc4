"""Weights in the CP form."""

from __future__ import annotations

import torch

from sae_lens_poly.architectures.weights.factored import Factored


class CP(Factored, form="cp"):
    """``W[i, l, a] = gain sum_r A[a, r] B[i, r] C[l, r]``, one rank R.

    fmxcoder (Demou et al. 2026, arXiv 2605.09438), the variant of its appendix.
    """

    n_ranks = 1

    @staticmethod
    def shapes(
        n_hooks: int, d_model: int, d_sae: int, ranks: list[int]
    ) -> dict[str, tuple[int, ...]]:
        (R,) = ranks
        return {"activation": (d_model, R), "latent": (d_sae, R), "hook": (n_hooks, R)}

    def combine(self, hook: torch.Tensor) -> torch.Tensor:
        return torch.einsum("ar,lr->rla", self.activation, hook)

    @staticmethod
    def mode_ranks(ranks: list[int]) -> dict[str, int]:
        return dict.fromkeys(("activation", "latent", "hook"), ranks[0])
