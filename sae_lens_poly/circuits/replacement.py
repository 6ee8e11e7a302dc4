"""What an attribution graph needs to know of a dictionary that stands in for MLPs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from sae_lens_poly.errors import InputError


@dataclass(frozen=True)
class Parts:
    """What the active latents of one token write, apart from the bias; all parts add up to it."""

    latents: torch.Tensor
    """Numbers of the active latents, ascending, (n,)."""
    alone: torch.Tensor
    """What each writes, (n, n_writes, d_model)."""
    pairs: torch.Tensor
    """Positions in ``latents`` of two that write something together, (m, 2); none where the
    decoder is linear."""
    together: torch.Tensor
    """What each pair writes that neither latent has alone, (m, n_writes, d_model)."""


class MLPReplacement(Protocol):
    """A transcoder for each MLP, or a cross-layer transcoder.

    Every latent reads one hook point in front of an MLP, and writes the outputs of that MLP and of
    later ones. Codes are pre-activations ``x W_enc + b_enc`` where they are not 0.
    """

    read_hooks: Sequence[str]
    """Hook points that latents read, as the model runs through them."""
    write_hooks: Sequence[str]
    """Hook points that they write: ``blocks.{layer}.hook_mlp_out``, ascending."""
    read_of: torch.Tensor
    """Which of ``read_hooks`` each latent reads, (n_latents,)."""
    skips: Mapping[tuple[int, int], torch.Tensor]
    """Number of a read and of a written hook point to a matrix M (d_model, d_model) by which
    ``x M`` is added there; empty without skip connections."""

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Codes (..., n_latents) of what stands at the read hook points, (..., n_reads, d_model).

        A latent's code depends on the hook point that it reads alone.
        """

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Reconstructions (..., n_writes, d_model), with the bias and without the skips."""

    def encoder_vectors(self, latents: torch.Tensor) -> torch.Tensor:
        """What these latents (n,) look for at the hook point that they read, (n, d_model)."""

    def parts(self, code: torch.Tensor) -> Parts:
        """What the active latents of one token, with codes (n_latents,), write."""


def layer_of(hook_name: str) -> int:
    """The layer of a hook point such as ``blocks.3.hook_mlp_out``.

    Raises:
        InputError: If it belongs to no layer.
    """
    match = re.match(r"blocks\.(\d+)\.", hook_name)
    if match is None:
        raise InputError(
            f"hook point {hook_name!r} belongs to no layer of a TransformerLens model: graphs need "
            "hook points such as 'blocks.3.hook_resid_mid'"
        )
    return int(match[1])


def read_layers(replacement: MLPReplacement) -> list[int]:
    """The layer of each hook point that latents read."""
    return [layer_of(name) for name in replacement.read_hooks]


def write_layers(replacement: MLPReplacement) -> list[int]:
    """The layer of each hook point that latents write."""
    return [layer_of(name) for name in replacement.write_hooks]


def add_skips(
    replacement: MLPReplacement, reconstruction: torch.Tensor, x: torch.Tensor
) -> torch.Tensor:
    """A reconstruction (..., n_writes, d_model) with the skips of ``x`` (..., n_reads, d_model)."""
    whole = reconstruction.clone()
    for (read, write), matrix in replacement.skips.items():
        whole[..., write, :] += x[..., read, :] @ matrix
    return whole


def layers_and_numbers(replacement: MLPReplacement) -> tuple[torch.Tensor, torch.Tensor]:
    """The layer of each latent and its number in that layer, (n_latents,) both."""
    read_of = replacement.read_of
    layers = torch.tensor(read_layers(replacement), device=read_of.device)[read_of]
    numbers = torch.empty_like(layers)
    for layer in layers.unique().tolist():
        chosen = layers == layer
        numbers[chosen] = torch.arange(int(chosen.sum()), device=layers.device)
    return layers, numbers
