"""TopK with a polynomial decoder."""

from dataclasses import dataclass

import torch
from sae_lens.saes.topk_sae import TopK, TopKSAE, TopKSAEConfig, TopKTrainingSAEConfig
from typing_extensions import override

from sae_lens_poly.architectures.official_polysae import OfficialPolySAEFiles
from sae_lens_poly.architectures.polynomial_config import (
    PolynomialConfig,
    PolynomialTrainingConfig,
)
from sae_lens_poly.architectures.polynomial_dictionary import PolynomialDictionary
from sae_lens_poly.architectures.polynomial_topk import PolynomialTopKDictionary, check_aux_k
from sae_lens_poly.architectures.selection import top_k


@dataclass(kw_only=True)
class PolyTopKSAEConfig(PolynomialConfig, TopKSAEConfig):
    """SAELens' TopKSAEConfig and the decoder's fields, :class:`PolynomialConfig`."""

    @override
    @classmethod
    def architecture(cls) -> str:
        return "poly_topk"


class PolyTopKSAE(OfficialPolySAEFiles, PolynomialDictionary, TopKSAE):
    """An inference TopK SAE with a polynomial decoder (PolySAE, Koromilas et al. 2026)."""


@dataclass(kw_only=True)
class PolyTopKTrainingSAEConfig(PolynomialTrainingConfig, TopKTrainingSAEConfig):
    """SAELens' TopKTrainingSAEConfig and the decoder's fields.

    See :class:`PolynomialConfig` and :class:`PolynomialTrainingConfig`. Sparse steps are the
    default here: they are faster than dense ones and give the same numbers.
    """

    use_sparse_activations: bool = True

    @override
    @classmethod
    def architecture(cls) -> str:
        return "poly_topk"

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        check_aux_k(self)


class PolyTopKTrainingSAE(PolynomialTopKDictionary):
    """A TopK SAE with a polynomial decoder, in training."""

    cfg: PolyTopKTrainingSAEConfig

    @override
    def get_activation_fn(self) -> TopK:
        return TopK(self.cfg.k, use_sparse_activations=False)

    @override
    def select(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return top_k(scores, self.cfg.k)
