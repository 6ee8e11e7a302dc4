"""BatchTopK with a polynomial decoder; exported with a threshold, as poly_jumprelu."""

from dataclasses import dataclass

import torch
from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
from sae_lens.saes.sae import SAEConfig
from typing_extensions import override

from sae_lens_poly.architectures.poly_jumprelu_sae import PolyJumpReLUSAEConfig
from sae_lens_poly.architectures.polynomial_config import PolynomialTrainingConfig
from sae_lens_poly.architectures.polynomial_topk import PolynomialTopKDictionary, check_aux_k
from sae_lens_poly.architectures.selection import batch_top_k


@dataclass(kw_only=True)
class PolyBatchTopKTrainingSAEConfig(PolynomialTrainingConfig, BatchTopKTrainingSAEConfig):
    """SAELens' BatchTopKTrainingSAEConfig and the decoder's fields.

    See :class:`PolynomialConfig` and :class:`PolynomialTrainingConfig`.
    """

    use_sparse_activations: bool = True

    @override
    @classmethod
    def architecture(cls) -> str:
        return "poly_batchtopk"

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        check_aux_k(self)

    @override
    def get_inference_config_class(self) -> type[SAEConfig]:
        return PolyJumpReLUSAEConfig


class PolyBatchTopKTrainingSAE(PolynomialTopKDictionary, BatchTopKTrainingSAE):
    """A BatchTopK SAE with a polynomial decoder, in training."""

    cfg: PolyBatchTopKTrainingSAEConfig

    @override
    def select(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return batch_top_k(scores, int(self.cfg.k * len(scores)))

    @override
    def update_topk_threshold(self, acts_topk: torch.Tensor) -> None:
        active = acts_topk.coalesce().values() if acts_topk.is_sparse else acts_topk
        super().update_topk_threshold(active)
