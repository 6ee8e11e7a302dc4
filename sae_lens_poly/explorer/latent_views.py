"""What the weights say of latents: profiles, directions, logits, neighbours, curves."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from sae_lens.saes.sae import SAE
from torch.nn.functional import normalize

from sae_lens_poly.architectures.crosscoders.crosscoder import Crosscoder
from sae_lens_poly.architectures.crosscoders.hook_scales import saved_scales
from sae_lens_poly.architectures.polynomial_dictionary import PolynomialDictionary
from sae_lens_poly.explorer.unembedding import Unembedding

N_CURVE_POINTS = 9


class LatentViews:
    """Views of a dictionary's latents, for any kind of dictionary over any number of hook points.

    Norms and cosines are in units in which all hook points have the same mean norm.

    Args:
        sae: An inference dictionary.
        n_hooks: Number of hook points that its input holds, end to end.
        unembeddings: Of each hook point's model.
    """

    def __init__(self, sae: SAE[Any], n_hooks: int, unembeddings: list[Unembedding | None]) -> None:
        self.sae, self.n_hooks, self.unembeddings = sae, n_hooks, unembeddings
        self.written = list(getattr(sae, "written_hooks", range(n_hooks)))
        self.scales = saved_scales(sae, n_hooks).to(sae.device)
        is_polynomial = isinstance(sae, PolynomialDictionary)
        self.is_curved = is_polynomial and sae.polynomial is not None

    @cached_property
    def directions(self) -> torch.Tensor:
        """The linear decoder at the written hook points, normalised units, (d_sae, L, d_model)."""
        if isinstance(self.sae, PolynomialDictionary):
            return self.normalised(self.sae.latent_directions().detach().float())
        return self.normalised(self.sae.W_dec.detach().float())

    def normalised(self, x: torch.Tensor) -> torch.Tensor:
        """(..., d_in) as (..., L, d_model) in normalised units."""
        per_hook = x.unflatten(-1, (self.n_hooks, -1)) * self.scales[:, None]
        return per_hook[..., self.written, :]

    @cached_property
    def decoder_norms(self) -> torch.Tensor:
        """Shape (d_sae, L)."""
        return self.directions.norm(dim=-1)

    @cached_property
    def encoder_norms(self) -> torch.Tensor:
        """Norms of what each latent reads at each hook point, (d_sae, n_hooks)."""
        W_enc = self.sae.W_enc.detach().float().T.unflatten(-1, (self.n_hooks, -1))
        return W_enc.norm(dim=-1) / self.scales

    @cached_property
    def _unit(self) -> torch.Tensor:
        return normalize(self.directions.flatten(1), dim=-1)

    @torch.no_grad()
    def cosines(self, latents: slice) -> torch.Tensor:
        """Of each latent's directions between written hook points, (n, L, L)."""
        unit = normalize(self.directions[latents], dim=-1)
        return unit @ unit.mT

    @torch.no_grad()
    def nearest(self, latents: slice, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines with the latents of nearest decoder, and their numbers, (n latents, n) both."""
        cosine = self._unit[latents] @ self._unit.T
        cosine[torch.arange(len(cosine)), torch.arange(len(self._unit))[latents]] = -2
        values, numbers = cosine.topk(min(n, len(self._unit) - 1))
        return values, numbers

    def cosine(self, i: int, j: int) -> float:
        """Of two latents' decoders, over all hook points."""
        return (self._unit[i] @ self._unit[j]).item()

    @torch.no_grad()
    def alone(self, latents: slice | torch.Tensor, activations: torch.Tensor) -> torch.Tensor:
        """What latents add to the reconstruction by themselves, raw units, (n, points, d_in).

        Args:
            latents: Which ones.
            activations: At which activations of each, (n, points).
        """
        activations = activations.to(self.sae.device, self.sae.dtype)
        if not self.is_curved:
            linear = self.directions[latents] / self.scales[self.written][:, None]
            return self._raw(activations[..., None, None] * linear[:, None])
        numbers = torch.arange(self.sae.cfg.d_sae, device=self.sae.device)[latents]
        n_rows = activations.numel()
        rows = torch.arange(n_rows, device=self.sae.device)
        # Sparse, so that this takes the time of these latents and not of all.
        where = torch.stack([rows, numbers.repeat_interleave(activations.shape[1])])
        size = (n_rows, self.sae.cfg.d_sae)
        z = torch.sparse_coo_tensor(
            where, activations.flatten(), size, is_coalesced=True, check_invariants=False
        )
        terms = self.sae.degree_terms(z)
        return sum(terms.values()).float().unflatten(0, activations.shape)

    def _raw(self, per_written_hook: torch.Tensor) -> torch.Tensor:
        """(..., L, d_model) as (..., d_in), zero at hook points that are not written."""
        shape = (*per_written_hook.shape[:-2], self.n_hooks, per_written_hook.shape[-1])
        whole = per_written_hook.new_zeros(shape)
        whole[..., self.written, :] = per_written_hook
        return whole.flatten(-2)

    @torch.no_grad()
    def curves(self, latents: slice, activations: torch.Tensor) -> dict[str, torch.Tensor]:
        """How far latents go along their linear direction, and away from it, (n, L, points) each.

        A linear decoder draws a ray: a straight line along, and nothing away.
        """
        y = self.normalised(self.alone(latents, activations)).transpose(1, 2)
        unit = normalize(self.directions[latents], dim=-1)[:, :, None]
        along = (y * unit).sum(dim=-1)
        return {"along": along, "across": (y - along[..., None] * unit).norm(dim=-1)}

    @torch.no_grad()
    def logits(
        self, added: torch.Tensor, n: int, hooks: list[int] | None = None
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """The tokens that additions to the residual stream raise and lower most, by hook point.

        Args:
            added: What is added to the stack, raw units, (n latents, d_in).
            n: Tokens at either end.
            hooks: Numbers among the written hook points; None: all.

        Returns:
            Changes (n latents, 2 n) and tokens, highest first, for each hook point; empty where
            the model has no unembedding.
        """
        found = []
        per_hook = added.unflatten(-1, (self.n_hooks, -1))
        for place in range(len(self.written)) if hooks is None else hooks:
            unembedding = self.unembeddings[self.written[place]]
            if unembedding is None:
                return []
            logits = unembedding.logits(per_hook[:, self.written[place]])
            high, raised = logits.topk(n)
            low, lowered = logits.topk(n, largest=False)
            found.append(
                (torch.cat([high, low.flip(1)], 1), torch.cat([raised, lowered.flip(1)], 1))
            )
        return found


def has_several_hooks(sae: SAE[Any]) -> bool:
    """Whether latents can be compared between hook points."""
    return isinstance(sae, Crosscoder) and sae.n_hooks > 1
