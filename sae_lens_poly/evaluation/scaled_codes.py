"""Feature activations in units in which latents compare: times the norm of their decoder."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sae_lens.saes.sae import SAE
from scipy import sparse

from sae_lens_poly.architectures.crosscoders.hook_scales import saved_scales
from sae_lens_poly.architectures.crosscoders.stacked_dictionary import StackedDictionary
from sae_lens_poly.architectures.polynomial_dictionary import PolynomialDictionary
from sae_lens_poly.errors import InputError
from sae_lens_poly.models.stacked_hooks import StackedHooks


@torch.no_grad()
def latent_norms(sae: SAE[Any]) -> torch.Tensor:
    """What feature activations are multiplied by, (d_sae,).

    The norm of each latent's linear decoder. A dictionary has a gauge freedom, z to c z with the
    decoder divided by c, latent by latent; in the product it cancels. (SAEBench asks for decoders
    of norm 1 instead.) Of a stack it is the norm over the stack in the space that the dictionary
    was trained in, each hook point times its scale: in raw units the loudest hook point would
    decide. Dictionaries whose activations are in units of decoders of norm 1 already
    (``rescale_acts_by_decoder_norm``) get ones.
    """
    if isinstance(sae, StackedDictionary):
        norms = sae.decoder_norms()
        return (norms * saved_scales(sae, sae.n_hooks).to(norms)).norm(dim=-1)
    if isinstance(sae, PolynomialDictionary):
        return sae.latent_directions().norm(dim=-1)
    if getattr(sae.cfg, "rescale_acts_by_decoder_norm", False):
        return torch.ones(sae.cfg.d_sae, device=sae.device)
    return sae.W_dec.norm(dim=-1)


@torch.no_grad()
def scaled_codes(sae: SAE[Any], x: torch.Tensor, norms: torch.Tensor | None = None) -> torch.Tensor:
    """``sae.encode(x)`` times :func:`latent_norms`, float32, (..., d_sae).

    Args:
        sae: An inference dictionary.
        x: Raw activations (..., d_in), hook points end to end.
        norms: ``latent_norms(sae)``, if it has been computed.
    """
    norms = latent_norms(sae) if norms is None else norms
    return sae.encode(x.to(sae.device, sae.dtype)).float() * norms.float()


@torch.no_grad()
def sparse_codes(sae: SAE[Any], x: torch.Tensor, batch_size: int = 2048) -> sparse.csr_matrix:
    """:func:`scaled_codes` of many rows as CSR, float32, (n, d_sae).

    Args:
        sae: An inference dictionary.
        x: Raw activations (n, d_in).
        batch_size: Rows that are dense at a time.
    """
    norms = latent_norms(sae)
    parts = [as_csr(scaled_codes(sae, batch, norms)) for batch in x.split(batch_size)]
    return sparse.vstack(parts, format="csr")


def as_csr(codes: torch.Tensor) -> sparse.csr_matrix:
    """Codes (n, d_sae) as CSR."""
    active = codes.nonzero().cpu().numpy()
    values = codes[codes != 0].cpu().numpy()
    starts = np.searchsorted(active[:, 0], np.arange(len(codes) + 1))
    return sparse.csr_matrix((values, active[:, 1], starts), shape=tuple(codes.shape))


def check_width(sae: SAE[Any], model: StackedHooks) -> None:
    """Refuse a dictionary that belongs to other hook points.

    Raises:
        InputError: If ``sae.cfg.d_in`` is not the width of the virtual hook point.
    """
    if sae.cfg.d_in != model.d_in:
        raise InputError(
            f"d_in={sae.cfg.d_in} of the dictionary is not the {model.d_in} of "
            f"hook_name={model.hook_name!r} ({model.n_hooks} hook points of {model.d_model}): "
            "stack the hook points that the dictionary was trained on"
        )
