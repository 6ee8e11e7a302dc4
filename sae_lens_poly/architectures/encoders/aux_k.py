"""The loss by which dead latents learn to reconstruct what the live ones leave."""

from __future__ import annotations

from collections.abc import Callable

import torch
from sae_lens.saes.topk_sae import calculate_topk_aux_acts

from sae_lens_poly.architectures.world import World


def aux_k_loss(
    residual: torch.Tensor,
    dead_scores: torch.Tensor,
    write: Callable[[torch.Tensor], torch.Tensor],
    k_aux: int,
    world: World | None = None,
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
        world: Who has the other latents, of which some may be dead where none of these is.
    """
    n_dead = dead_scores.shape[-1]
    if world is None:
        every_one = torch.ones(n_dead, dtype=torch.bool, device=dead_scores.device)
        written = write(calculate_topk_aux_acts(min(k_aux, n_dead), dead_scores, every_one))
    else:
        n_dead = int(world.across(torch.tensor(n_dead, device=dead_scores.device)))
        kept = torch.zeros_like(dead_scores, dtype=torch.bool)
        kept[world.top_k(dead_scores.detach(), min(k_aux, n_dead))] = True
        written = world.across(write(dead_scores * kept))
    loss = (written - residual.detach()).pow(2).sum(dim=-1).mean()
    return min(n_dead / k_aux, 1.0) * loss


def aux_k_of_write_sae(
    residual: torch.Tensor,
    dead_scores: torch.Tensor,
    write: Callable[[torch.Tensor], torch.Tensor],
    k_aux: int,
) -> torch.Tensor:
    """The same as WriteSAE's code has it (arXiv 2605.12770).

    Scores that are not positive write nothing, few dead latents do not scale the loss down, and
    ``write`` adds the bias, although the residual is without it.

    Args:
        residual: As above.
        dead_scores: As above.
        write: The linear term and the bias (n, d_in) of scores (n, n_dead) that were kept.
        k_aux: How many of them a token may use.
    """
    scores = dead_scores.relu()
    top = scores.topk(min(k_aux, scores.shape[-1]), dim=-1, sorted=False)
    kept = torch.zeros_like(scores).scatter(-1, top.indices, top.values)
    return (write(kept) - residual.detach()).pow(2).sum(dim=-1).mean()
