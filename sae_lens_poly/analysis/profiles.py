"""Over which hook points the latents of a crosscoder live, and how their directions turn.

Reporting of Lindsey et al. 2024 ("Sparse Crosscoders"): the profile of each latent's decoder norm
over layers, scaled to a maximum of 1, and cosines of its directions between layers. Only hook
points that the dictionary writes are looked at, L of them, in order.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import normalize

from sae_lens_poly.architectures.crosscoders.crosscoder import Crosscoder
from sae_lens_poly.architectures.crosscoders.hook_scales import saved_scales
from sae_lens_poly.errors import InputError
from sae_lens_poly.evaluation.coherence import decoder_coherence


@torch.no_grad()
def normalised_decoder_norms(sae: Crosscoder) -> torch.Tensor:
    """Norm of each latent's linear decoder at the written hook points, (d_sae, L).

    In units in which all hook points have the same mean norm: raw ones only show that the residual
    stream grows with depth.
    """
    norms = sae.decoder_norms().detach().cpu() * saved_scales(sae, sae.n_hooks)
    return norms[:, list(sae.written_hooks)]


@dataclass(frozen=True)
class DecoderProfile:
    """Where each latent lives; of latents whose decoder is zero everywhere, all is NaN."""

    profile: torch.Tensor
    """Decoder norm over hook points, maximum 1, (d_sae, L)."""
    centre: torch.Tensor
    """Centre of mass of the profile, from 0, the first written hook point, to L - 1, (d_sae,)."""
    n_effective: torch.Tensor
    """Effective number of hook points, sum of the profile over its maximum, 1 to L, (d_sae,)."""


def decoder_profile(sae: Crosscoder) -> DecoderProfile:
    """The decoder-norm profile of each latent over the written hook points."""
    return profile_of(normalised_decoder_norms(sae))


def profile_of(norms: torch.Tensor) -> DecoderProfile:
    """Profiles of decoder norms (d_sae, L), in units in which hook points compare."""
    norms = norms.where(norms.amax(dim=-1, keepdim=True) > 0, torch.nan)
    profile = norms / norms.amax(dim=-1, keepdim=True)
    numbers = torch.arange(norms.shape[-1], device=norms.device, dtype=norms.dtype)
    centre = (profile @ numbers) / profile.sum(dim=-1)
    return DecoderProfile(profile, centre, decoder_coherence(profile))


@dataclass(frozen=True)
class DirectionCosines:
    """Cosines of a latent's decoder directions between hook points that it writes both."""

    mean: torch.Tensor
    """Mean over latents, (L, L); NaN where no latent writes both."""
    neighbours: torch.Tensor
    """Of each latent between a written hook point and the next, (d_sae, L - 1); NaN where the
    latent writes one of them at most, or is left out."""


@torch.no_grad()
def direction_cosines(sae: Crosscoder, live: torch.Tensor | None = None) -> DirectionCosines:
    """How far the directions of latents turn from one hook point to another.

    Args:
        sae: An inference crosscoder.
        live: True for the latents that are looked at, (d_sae,), for example
            ``LatentActivity.n_active > 0``; None: all.

    Raises:
        InputError: If ``live`` is not one truth value for each latent.
    """
    if live is not None and (live.shape != (sae.cfg.d_sae,) or live.dtype != torch.bool):
        raise InputError(
            f"live has shape {tuple(live.shape)} and dtype {live.dtype}: give one truth value for "
            f"each of the {sae.cfg.d_sae} latents"
        )
    directions = sae.per_hook(sae.latent_directions().detach().cpu().float())
    directions = normalize(directions[:, list(sae.written_hooks)], dim=-1)
    if live is not None:
        directions = directions * live.cpu()[:, None, None]
    written = (directions != 0).any(dim=-1).float()
    mean = torch.einsum("fld,fmd->lm", directions, directions) / (written.T @ written)
    cosines = (directions[:, :-1] * directions[:, 1:]).sum(dim=-1)
    both = written[:, :-1] * written[:, 1:] > 0
    return DirectionCosines(mean, cosines.where(both, torch.nan))
