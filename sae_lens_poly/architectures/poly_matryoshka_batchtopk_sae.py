"""Matryoshka BatchTopK with a polynomial decoder at every width."""

from collections.abc import Generator
from dataclasses import dataclass

import torch
from sae_lens.saes.matryoshka_batchtopk_sae import (
    MatryoshkaBatchTopKTrainingSAE,
    MatryoshkaBatchTopKTrainingSAEConfig,
)
from typing_extensions import override

from sae_lens_poly.architectures.poly_batchtopk_sae import (
    PolyBatchTopKTrainingSAE,
    PolyBatchTopKTrainingSAEConfig,
)
from sae_lens_poly.errors import InputError


@dataclass(kw_only=True)
class PolyMatryoshkaBatchTopKTrainingSAEConfig(
    PolyBatchTopKTrainingSAEConfig, MatryoshkaBatchTopKTrainingSAEConfig
):
    """SAELens' MatryoshkaBatchTopKTrainingSAEConfig and the decoder's fields.

    See :class:`PolynomialConfig` and :class:`PolynomialTrainingConfig`.
    """

    @override
    @classmethod
    def architecture(cls) -> str:
        return "poly_matryoshka_batchtopk"

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        widths = [*self.matryoshka_widths, self.d_sae]
        if widths[-2:] == [self.d_sae, self.d_sae]:
            widths.pop()
        if not self.matryoshka_widths or widths[0] < 1 or sorted(set(widths)) != widths:
            raise InputError(
                f"matryoshka_widths={self.matryoshka_widths} must be one or more widths, each "
                f"wider than the one before, up to d_sae={self.d_sae}"
            )
        if self.normalize_activations in ("constant_norm_rescale", "layer_norm"):
            raise InputError(
                f"normalize_activations={self.normalize_activations!r} can undo itself for one "
                "reconstruction a token, and Matryoshka makes several: set it to 'none', "
                "'expected_average_only_in' or 'covariance_whitening'"
            )


class PolyMatryoshkaBatchTopKTrainingSAE(PolyBatchTopKTrainingSAE, MatryoshkaBatchTopKTrainingSAE):
    """A Matryoshka BatchTopK SAE with a polynomial decoder, in training.

    The reconstruction at every width is the polynomial of the first latents.
    """

    cfg: PolyMatryoshkaBatchTopKTrainingSAEConfig

    @override
    def _iterable_decode(
        self, feature_acts: torch.Tensor, include_outer_loss: bool = False
    ) -> Generator[tuple[int, torch.Tensor], None, None]:
        widths = self.cfg.matryoshka_widths
        nested = self.nested_reconstructions(
            feature_acts, widths if include_outer_loss else widths[:-1]
        )
        for width, decoded in nested:
            yield width, self.run_time_activation_norm_fn_out(decoded)

    @override
    def calculate_matryoshka_aux_loss(
        self,
        sae_in: torch.Tensor,
        sae_out: torch.Tensor,
        feature_acts: torch.Tensor,
        hidden_pre: torch.Tensor,
        dead_neuron_mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """SAELens' AuxK per level: dead latents learn the residual of their own level."""
        if dead_neuron_mask is None or not dead_neuron_mask.any():
            return sae_out.new_zeros(())
        losses, start = [], 0
        for width, partial_out in self._iterable_decode(feature_acts, include_outer_loss=True):
            dead = torch.zeros_like(dead_neuron_mask)
            dead[start:width] = dead_neuron_mask[start:width]
            losses.append(self.calculate_topk_aux_loss(sae_in, partial_out, hidden_pre, dead))
            start = width
        return torch.stack(losses).sum()
