"""TopK, BatchTopK and Matryoshka BatchTopK SAEs with a polynomial decoder."""

# No "from __future__ import annotations" here: SAELens' command line reads the types of fields.

from dataclasses import dataclass
from typing import Any

import torch
from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
from sae_lens.saes.matryoshka_batchtopk_sae import (
    MatryoshkaBatchTopKTrainingSAE,
    MatryoshkaBatchTopKTrainingSAEConfig,
)
from sae_lens.saes.sae import SAEConfig
from sae_lens.saes.topk_sae import (
    TopK,
    TopKSAE,
    TopKSAEConfig,
    TopKTrainingSAE,
    TopKTrainingSAEConfig,
)
from typing_extensions import override

from sae_lens_poly.architectures.official.reader import read_official
from sae_lens_poly.architectures.poly_saes.shells import PolyJumpReLUSAEConfig
from sae_lens_poly.architectures.poly_saes.top_k import (
    PolynomialTopK,
    aux_k_of_levels,
    check_top_k,
    matryoshka_levels,
)
from sae_lens_poly.architectures.polynomial_dictionary import PolynomialDictionary
from sae_lens_poly.architectures.polynomial_fields import PolynomialFields
from sae_lens_poly.architectures.sparsifiers.batch_topk import k_of_batch
from sae_lens_poly.architectures.sparsifiers.top_k import top_k


@dataclass(kw_only=True)
class PolyTopKSAEConfig(PolynomialFields, TopKSAEConfig):
    """SAELens' TopKSAEConfig and the decoder's fields, :class:`PolynomialFields`."""

    @override
    @classmethod
    def architecture(cls) -> str:
        return "poly_topk"


class PolyTopKSAE(PolynomialDictionary, TopKSAE):
    """An inference TopK SAE with a polynomial decoder; it also reads PolySAE's own files."""

    @override
    def process_state_dict_for_loading(self, state_dict: dict[str, Any]) -> None:
        super().process_state_dict_for_loading(state_dict)
        read_official(self, state_dict)


@dataclass(kw_only=True)
class PolyTopKTrainingSAEConfig(PolynomialFields, TopKTrainingSAEConfig):
    """SAELens' TopKTrainingSAEConfig and the decoder's fields, :class:`PolynomialFields`.

    Sparse steps are the default here: they are faster than dense ones and give the same numbers.
    """

    use_sparse_activations: bool = True

    @override
    @classmethod
    def architecture(cls) -> str:
        return "poly_topk"

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        check_top_k(self)


class PolyTopKTrainingSAE(PolynomialTopK, TopKTrainingSAE):
    """A TopK SAE with a polynomial decoder, in training."""

    cfg: PolyTopKTrainingSAEConfig

    @override
    def get_activation_fn(self) -> TopK:
        return TopK(self.cfg.k, use_sparse_activations=False)

    @override
    def select(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return top_k(scores, self.cfg.k)


@dataclass(kw_only=True)
class PolyBatchTopKTrainingSAEConfig(PolynomialFields, BatchTopKTrainingSAEConfig):
    """SAELens' BatchTopKTrainingSAEConfig and the decoder's fields, :class:`PolynomialFields`."""

    use_sparse_activations: bool = True

    @override
    @classmethod
    def architecture(cls) -> str:
        return "poly_batchtopk"

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        check_top_k(self)

    @override
    def get_inference_config_class(self) -> type[SAEConfig]:
        return PolyJumpReLUSAEConfig


class PolyBatchTopKTrainingSAE(PolynomialTopK, BatchTopKTrainingSAE):
    """A BatchTopK SAE with a polynomial decoder, in training; exported as poly_jumprelu."""

    cfg: PolyBatchTopKTrainingSAEConfig

    @override
    def select(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return k_of_batch(scores, self.cfg.k, self)


@dataclass(kw_only=True)
class PolyMatryoshkaBatchTopKTrainingSAEConfig(
    PolynomialFields, MatryoshkaBatchTopKTrainingSAEConfig
):
    """SAELens' MatryoshkaBatchTopKTrainingSAEConfig and the decoder's fields.

    See :class:`PolynomialFields`.
    """

    use_sparse_activations: bool = True

    @override
    @classmethod
    def architecture(cls) -> str:
        return "poly_matryoshka_batchtopk"

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        check_top_k(self)

    @override
    def get_inference_config_class(self) -> type[SAEConfig]:
        return PolyJumpReLUSAEConfig


class PolyMatryoshkaBatchTopKTrainingSAE(PolynomialTopK, MatryoshkaBatchTopKTrainingSAE):
    """A Matryoshka BatchTopK SAE with a polynomial decoder, in training.

    The reconstruction at every width is the polynomial of the first latents. Exported as
    poly_jumprelu.
    """

    cfg: PolyMatryoshkaBatchTopKTrainingSAEConfig

    @override
    def select(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return k_of_batch(scores, self.cfg.k, self)

    _iterable_decode = matryoshka_levels
    calculate_matryoshka_aux_loss = aux_k_of_levels
