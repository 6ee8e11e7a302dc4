"""The loss by which dead latents learn to reconstruct what the live ones leave."""

from __future__ import annotations

from collections.abc import Callable

import torch
from sae_lens.saes.topk_sae import calculate_topk_aux_acts


def aux_k_loss(
    residual: torch.Tensor,
    dead_scores: torch.Tensor,
    write: Callable[[torch.Tensor], torch.Tensor],
    k_aux: int,
) -> torch.Tensor:
    """AuxK (Gao et al. 2024, appendix A.2) by the linear term, without a bias, as SAELens has it.

    Only columns of dead latents are computed with: a dead latent costs what it always did, a
    live one nothing.

    Args:
        residual: Target minus reconstruction, (n, d_in); no gradient goes through it.
        dead_scores: What dead latents are ranked by, (n, n_dead), n_dead at least 1.
        write: The linear term (n, d_in) of scores (n, n_dead) that were kept.
        k_aux: How many of them a token may use. With fewer dead latents than that the loss
            is scaled down in proportion.
    """
    n_dead = dead_scores.shape[-1]
    every_one = torch.ones(n_dead, dtype=torch.bool, device=dead_scores.device)
    kept = calculate_topk_aux_acts(min(k_aux, n_dead), dead_scores, every_one)
    loss = (write(kept) - residual.detach()).pow(2).sum(dim=-1).mean()
    return min(n_dead / k_aux, 1.0) * loss
