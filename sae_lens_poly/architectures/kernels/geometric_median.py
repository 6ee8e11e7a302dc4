"""The geometric median of a batch of activations."""

from __future__ import annotations

import torch

from sae_lens_poly.architectures.world import World


@torch.no_grad()
def geometric_median(
    x: torch.Tensor,
    world: World | None = None,
    max_steps: int = 100,
    tolerance: float = 1e-6,
) -> torch.Tensor:
    """The point (d,) with the least sum of distances to the rows of ``x`` (n, d).

    Unlike the mean it hardly moves for a few tokens with massive activations. Weiszfeld's
    iteration, from the mean, until a step is shorter than ``tolerance`` times the mean distance.
    """
    x = x.cpu().double()  # not every device has float64
    median = x.mean(dim=0)
    if world is not None:
        median = world.mean(median)
    for _ in range(max_steps):
        distances = (x - median).norm(dim=-1).clamp_min(1e-12)
        weights = 1 / distances
        sum_of_rows, sum_of_weights, mean = weights @ x, weights.sum(), distances.mean()
        if world is not None:
            sum_of_rows, sum_of_weights = world.sum(sum_of_rows), world.sum(sum_of_weights)
            mean = world.mean(mean)
        new = sum_of_rows / sum_of_weights
        moved = (new - median).norm()
        median = new
        if moved <= tolerance * mean:
            break
    return median
