"""The loss by which dead latents learn to reconstruct what the live ones leave."""

from __future__ import annotations

import torch
from sae_lens.saes.topk_sae import calculate_topk_aux_acts


def aux_k_loss(
    residual: torch.Tensor,
    dead_hidden_pre: torch.Tensor,
    dead_directions: torch.Tensor,
    k_aux: int,
) -> torch.Tensor:
    """AuxK (Gao et al. 2024, appendix A.2) by the linear term, without a bias, as SAELens has it.

    Only columns of dead latents are computed with: a dead latent costs what it always did, a
    live one nothing.

    Args:
        residual: Target minus reconstruction, (n, d_in); no gradient goes through it.
        dead_hidden_pre: Pre-activations of the dead latents, (n, n_dead), n_dead at least 1.
        dead_directions: Their linear decoder, (n_dead, d_in).
        k_aux: How many of them a token may use. With fewer dead latents than that the loss
            is scaled down in proportion.
    """
    n_dead = dead_hidden_pre.shape[-1]
    every_one = torch.ones(n_dead, dtype=torch.bool, device=dead_hidden_pre.device)
    acts = calculate_topk_aux_acts(min(k_aux, n_dead), dead_hidden_pre, every_one)
    loss = (acts @ dead_directions - residual.detach()).pow(2).sum(dim=-1).mean()
    return min(n_dead / k_aux, 1.0) * loss
