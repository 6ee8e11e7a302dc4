"""Steering a model by two latents and by what they add together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from sae_lens_poly.analysis.interactions import pair_terms
from sae_lens_poly.architectures.polynomial_dictionary import PolynomialDictionary
from sae_lens_poly.errors import InputError


@dataclass(frozen=True)
class InteractionDirection:
    """Directions (d_in,) of two latents i and j, in units of raw activations."""

    linear: torch.Tensor
    """``d_i + d_j``: both latents at activation 1, by the linear term."""
    pair: torch.Tensor
    """``B_ij``: what both at activation 1 add together in degree 2."""

    def at(self, strength: float, pair_strength: float | None = None) -> torch.Tensor:
        """Both latents at activation ``strength``: ``s (d_i + d_j) + s^2 B_ij``.

        Args:
            strength: Activation s of both latents.
            pair_strength: Factor of B_ij instead of ``s^2``; 0 steers without the interaction.
        """
        factor = strength**2 if pair_strength is None else pair_strength
        return strength * self.linear + factor * self.pair


@torch.no_grad()
def interaction_direction(sae: PolynomialDictionary, i: int, j: int) -> InteractionDirection:
    """The direction d_i + d_j and the pair term B_ij of latents i and j.

    Args:
        sae: An inference dictionary, whose weights are in units of raw activations.

    Raises:
        InputError: If the latents do not exist, are the same, or the decoder is linear; or if
            activations are normalised at run time, which leaves no fixed direction.
    """
    if sae.cfg.normalize_activations != "none":
        raise InputError(
            f"normalize_activations={sae.cfg.normalize_activations!r} is undone at run time, so "
            "that no direction in raw activations is fixed: steer by a dictionary with 'none' "
            "(an exported one, for the kinds that fold)"
        )
    pair = pair_terms(sae, torch.tensor([[i, j]]))[0]
    directions = sae.latent_directions()
    return InteractionDirection((directions[i] + directions[j]).float(), pair)


def add_to_residual(vector: torch.Tensor) -> Callable[..., torch.Tensor]:
    """A TransformerLens hook function that adds a vector (d_in,) at every position."""

    def hook_function(activations: torch.Tensor, hook: Any) -> torch.Tensor:
        return activations + vector.to(activations)

    return hook_function
