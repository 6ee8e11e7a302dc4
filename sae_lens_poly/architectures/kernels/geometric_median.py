"""The geometric median of a batch of activations."""

from __future__ import annotations

import torch


@torch.no_grad()
def geometric_median(
    x: torch.Tensor, max_steps: int = 100, tolerance: float = 1e-6
) -> torch.Tensor:
    """The point (d,) with the least sum of distances to the rows of ``x`` (n, d).

    Unlike the mean it hardly moves for a few tokens with massive activations. Weiszfeld's
    iteration, from the mean, until a step is shorter than ``tolerance`` times the mean distance.
    """
    x = x.cpu().double()  # not every device has float64
    median = x.mean(dim=0)
    for _ in range(max_steps):
        distances = (x - median).norm(dim=-1).clamp_min(1e-12)
        weights = 1 / distances
        new = (weights @ x) / weights.sum()
        moved = (new - median).norm()
        median = new
        if moved <= tolerance * distances.mean():
            break
    return median
