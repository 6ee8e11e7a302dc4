"""Weights in the tensor ring form."""

from __future__ import annotations

import torch

from sae_lens_poly.architectures.weights.factored import Factored


class TensorRing(Factored, form="tensor_ring"):
    """``W[i, l, a] = gain Tr(A[a] B[i] C[l])``, A[a] (R1, R2), B[i] (R2, R3), C[l] (R3, R1).

    fmxcoder (Demou et al. 2026, arXiv 2605.09438), its main form; the order of the bonds is ours.
    """

    n_ranks = 3

    @staticmethod
    def shapes(
        n_hooks: int, d_model: int, d_sae: int, ranks: list[int]
    ) -> dict[str, tuple[int, ...]]:
        R1, R2, R3 = ranks
        return {
            "activation": (d_model, R1, R2),
            "latent": (d_sae, R2 * R3),
            "hook": (n_hooks, R3, R1),
        }

    def combine(self, hook: torch.Tensor) -> torch.Tensor:
        return torch.einsum("apq,lrp->qrla", self.activation, hook).flatten(0, 1)

    @staticmethod
    def mode_ranks(ranks: list[int]) -> dict[str, int]:
        R1, R2, R3 = ranks
        return {"activation": R1 * R2, "latent": R2 * R3, "hook": R3 * R1}
