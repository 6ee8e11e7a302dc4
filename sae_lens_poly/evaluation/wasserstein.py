"""How far apart a latent's activations lie between two classes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

#: Sorting takes several copies of the samples.
_LATENTS_AT_A_TIME = 1024


@torch.no_grad()
def wasserstein_distances(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Wasserstein-1 distance between two samples of every latent, (d_sae,).

    ``integral |F_a(x) - F_b(x)| dx`` of the empirical distribution functions, for all latents at
    once; the samples may differ in size.

    Args:
        a: Activations of one class, (n_a, d_sae).
        b: Activations of the other, (n_b, d_sae).
    """
    pairs = zip(a.split(_LATENTS_AT_A_TIME, dim=1), b.split(_LATENTS_AT_A_TIME, dim=1), strict=True)
    return torch.cat([_distances(own_a, own_b) for own_a, own_b in pairs])


def _distances(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    values, order = torch.cat([a, b]).sort(dim=0)
    from_a = order < len(a)
    cdf_a = from_a.cumsum(dim=0) / len(a)
    cdf_b = (~from_a).cumsum(dim=0) / len(b)
    return ((cdf_a - cdf_b).abs()[:-1] * values.diff(dim=0)).sum(dim=0)


@dataclass(frozen=True)
class ClassSeparation:
    """Mean Wasserstein-1 distance over latents between two classes.

    Activations have a gauge freedom, z to c z with the decoder divided by c: the raw distance moves
    with it. The others do not.
    """

    as_published: float
    """Of raw activations, over all latents, dead ones included (PolySAE, Koromilas et al. 2026)."""
    by_decoder_norm: float
    """Of activations times their decoder norm, over live latents."""
    by_standard_deviation: float
    """Of activations divided by their standard deviation over both classes, over live latents."""
    n_live: int
    """Latents that were active in one of the samples."""


@torch.no_grad()
def class_separation(
    a: torch.Tensor, b: torch.Tensor, decoder_norms: torch.Tensor
) -> ClassSeparation:
    """Figures of two classes.

    Args:
        a: Activations of one class, (n_a, d_sae), for example means over the tokens of a text.
        b: Activations of the other, (n_b, d_sae).
        decoder_norms: Norm of each latent's linear decoder, (d_sae,).
    """
    distances = wasserstein_distances(a, b)
    both = torch.cat([a, b])
    live = (both != 0).any(dim=0)
    deviation = both.std(dim=0).clamp_min(1e-12)
    return ClassSeparation(
        as_published=distances.mean().item(),
        by_decoder_norm=(distances * decoder_norms)[live].mean().item(),
        by_standard_deviation=(distances / deviation)[live].mean().item(),
        n_live=int(live.sum()),
    )
