"""How often, and how strongly, every latent is active, over a stream."""

from __future__ import annotations

import torch
from torch import nn

#: Bins of the histogram in each doubling of the activation, and the doublings that it spans.
BINS_PER_OCTAVE, FIRST_OCTAVE, LAST_OCTAVE = 12, -12, 14
N_BINS = BINS_PER_OCTAVE * (LAST_OCTAVE - FIRST_OCTAVE)


class LatentCounts(nn.Module):
    """Counts, sums and activation histograms of all latents.

    The bins of a histogram are logarithmic, so that no pass has to find the range first: bin b
    holds activations from ``2 ** (FIRST_OCTAVE + b / BINS_PER_OCTAVE)``. The first and the last
    take what lies beyond.

    Args:
        d_sae: Number of latents.
    """

    n_tokens: torch.Tensor
    """Tokens seen, shape ()."""
    n_active: torch.Tensor
    """Tokens on which each latent is active, (d_sae,)."""
    sums: torch.Tensor
    """Sum of activations, (d_sae,)."""
    maximum: torch.Tensor
    """Largest activation, (d_sae,)."""
    histogram: torch.Tensor
    """Shape (d_sae, N_BINS)."""

    def __init__(self, d_sae: int) -> None:
        super().__init__()
        self.register_buffer("n_tokens", torch.zeros((), dtype=torch.long))
        self.register_buffer("n_active", torch.zeros(d_sae, dtype=torch.long))
        self.register_buffer("sums", torch.zeros(d_sae, dtype=torch.float64))
        self.register_buffer("maximum", torch.zeros(d_sae))
        self.register_buffer("histogram", torch.zeros(d_sae, N_BINS, dtype=torch.int32))

    @torch.no_grad()
    def update(self, latents: torch.Tensor, values: torch.Tensor, n_tokens: int) -> None:
        """See the activations of some tokens.

        Args:
            latents: Which latent each activation is of, (n,).
            values: The activations, all above 0, (n,).
            n_tokens: How many tokens they are of.
        """
        d_sae = len(self.n_active)
        self.n_tokens += n_tokens
        self.n_active += torch.bincount(latents, minlength=d_sae)
        self.sums += torch.bincount(latents, values.double(), minlength=d_sae)
        self.maximum.scatter_reduce_(0, latents, values.float(), "amax")
        bins = ((values.float().log2() - FIRST_OCTAVE) * BINS_PER_OCTAVE).long()
        place = latents * N_BINS + bins.clamp_(0, N_BINS - 1)
        one = torch.ones((), dtype=torch.int32, device=place.device).expand_as(place)
        self.histogram.view(-1).scatter_add_(0, place, one)

    @property
    def density(self) -> torch.Tensor:
        """Share of tokens on which each latent is active, (d_sae,)."""
        return self.n_active / self.n_tokens.clamp_min(1)

    @property
    def typical(self) -> torch.Tensor:
        """Mean activation where active, (d_sae,); 0 for latents that never are."""
        return (self.sums / self.n_active.clamp_min(1)).float()
