"""Scores by the cosine between input and encoder vector (cosine-scored SAEs, arXiv 2606.15054).

``s_i = exp(b) |x|^a cos(x, w_i)`` of the centred input: a = 0 forgets how large the input is, a = 1
is the inner product with a vector of norm exp(b). The score itself is what is decoded.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from sae_lens_poly.architectures.encoders.encoder import EncoderScore, Places, at_places
from sae_lens_poly.architectures.encoders.input_power import FLOOR, InputPower
from sae_lens_poly.architectures.weights.base import Weights
from sae_lens_poly.architectures.world import World


def mean_sizes(x: torch.Tensor, weights: Weights, world: World | None) -> torch.Tensor:
    """Mean norm of what each latent reads of a batch (n, d_in), (d_sae,) or (1,)."""
    sizes = weights.read_norms(x).mean(dim=0)
    return sizes if world is None else world.mean(sizes)


class Cosine(EncoderScore, name="cosine"):
    """The cosine, with one learned blend ``power`` (a) and ``log_scale`` (b) for all latents.

    Lengths of encoder vectors have no effect; their gradient goes through the normalisation. A
    latent's input is what it reads: with masking what is seen of it, in causal and free structures
    the hook points of its group.
    """

    exports_as = "input_power"
    of_latents: ClassVar[tuple[str, ...] | None] = ()
    world: World | None = None

    def __init__(
        self,
        d_sae: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(d_sae)
        shape = self.blend_shape(d_sae)
        self.power = nn.Parameter(torch.zeros(shape, dtype=dtype, device=device))
        self.log_scale = nn.Parameter(torch.zeros(shape, dtype=dtype, device=device))

    @staticmethod
    def blend_shape(d_sae: int) -> tuple[int, ...]:
        """The shape of the blend."""
        return ()

    def forward(
        self, products: torch.Tensor, x: torch.Tensor, weights: Weights, at: Places | None = None
    ) -> torch.Tensor:
        sizes = at_places(weights.read_norms(x).clamp_min(FLOOR), at)
        lengths = at_places(weights.stack_norms().clamp_min(FLOOR), at)
        power = at_places(self.power, at)
        scale = at_places(self.log_scale.exp(), at)
        return scale * products / lengths * sizes.pow(power - 1)

    def start_(self, x: torch.Tensor, weights: Weights) -> None:
        """Start where the inner product starts, for a token of mean norm.

        With encoder vectors of norm 1 that is ``b = log mean |x|``, the paper's remedy for models
        whose activations are far from a norm of sqrt(d).
        """
        scale = mean_sizes(x, weights, self.world) * weights.stack_norms()
        self.log_scale.copy_((scale if self.log_scale.ndim else scale.mean()).log())

    def export_to_(self, score: EncoderScore, weights: Weights) -> None:
        """The same as a power of the input's norm, with ``exp(b) w_i / |w_i|`` for weights."""
        assert isinstance(score, InputPower)
        score.power.copy_(self.power.expand_as(score.power))
        weights.scale_latents_(self.log_scale.exp() / weights.stack_norms().clamp_min(FLOOR))


class CosinePerLatent(Cosine, name="cosine_per_latent"):
    """The cosine, with a learned blend for each latent."""

    of_latents = ("power", "log_scale")

    @staticmethod
    def blend_shape(d_sae: int) -> tuple[int, ...]:
        return (d_sae,)


class ReadByCosine(EncoderScore, name="read_by_cosine"):
    """Trained by the inner product, and exported as one that is read by the cosine.

    The control for :class:`Cosine`: what of an effect is due to reading alone. The exported
    dictionary has ``m <x, w_i> / |x|`` for ``<x, w_i>``, where m is the running mean of ``|x|``
    over training steps, so that a token of mean norm has the codes that it had. Thresholds stay
    what they were, and so does each encoder vector's length.
    """

    exports_as = "input_power"
    of_latents = ("mean_size",)
    uses_input = False
    world: World | None = None
    mean_size: torch.Tensor
    """Mean norm of what each latent reads, (d_sae,)."""
    n_seen: torch.Tensor
    """Number of batches in it, shape ()."""

    #: Over how many of the last batches the mean runs, about.
    MEMORY = 1000

    def __init__(
        self,
        d_sae: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(d_sae)
        self.register_buffer("mean_size", torch.ones(d_sae, dtype=dtype, device=device))
        self.register_buffer("n_seen", torch.zeros((), dtype=torch.long, device=device))

    def forward(
        self, products: torch.Tensor, x: torch.Tensor, weights: Weights, at: Places | None = None
    ) -> torch.Tensor:
        if self.training and at is None:
            self._observe_(x, weights)
        return products

    @torch.no_grad()
    def _observe_(self, x: torch.Tensor, weights: Weights) -> None:
        self.n_seen += 1
        sizes = mean_sizes(x.flatten(0, -2), weights, self.world)
        self.mean_size.lerp_(
            sizes.expand_as(self.mean_size), 1 / min(int(self.n_seen), self.MEMORY)
        )

    def export_to_(self, score: EncoderScore, weights: Weights) -> None:
        assert isinstance(score, InputPower)
        score.power.zero_()
        weights.scale_latents_(self.mean_size)
