"""TopK, BatchTopK and Matryoshka BatchTopK SAEs with a polynomial decoder."""

# No "from __future__ import annotations" here: SAELens' command line reads the types of fields.

from collections.abc import Generator
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

from sae_lens_poly.architectures.checks import check_matryoshka_widths
from sae_lens_poly.architectures.official.reader import read_official
from sae_lens_poly.architectures.poly_saes.shells import PolyJumpReLUSAEConfig
from sae_lens_poly.architectures.poly_saes.top_k import PolynomialTopK, check_aux_k
from sae_lens_poly.architectures.polynomial_dictionary import PolynomialDictionary
from sae_lens_poly.architectures.polynomial_fields import PolynomialFields
from sae_lens_poly.architectures.sparsifiers.batch_topk import batch_top_k
from sae_lens_poly.architectures.sparsifiers.top_k import top_k
from sae_lens_poly.constraints import Constraint, Number, check_fields
from sae_lens_poly.errors import InputError

#: What a BatchTopK's fields may be.
BATCH_TOP_K: dict[str, Constraint] = {
    "k": Number(above=0),
    "topk_threshold_lr": Number(above=0, at_most=1),
    "aux_loss_coefficient": Number(at_least=0),
}


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
        check_fields(self, {"k": Number(at_least=1, at_most=self.d_sae, whole=True)})
        check_aux_k(self)


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
        check_fields(self, BATCH_TOP_K)
        check_aux_k(self)

    @override
    def get_inference_config_class(self) -> type[SAEConfig]:
        return PolyJumpReLUSAEConfig


class PolyBatchTopKTrainingSAE(PolynomialTopK, BatchTopKTrainingSAE):
    """A BatchTopK SAE with a polynomial decoder, in training; exported as poly_jumprelu."""

    cfg: PolyBatchTopKTrainingSAEConfig

    @override
    def select(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return batch_top_k(scores, int(self.cfg.k * len(scores)))


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
        check_fields(self, BATCH_TOP_K)
        check_aux_k(self)
        widths = self.matryoshka_widths  # SAELens adds the whole width where it is not there
        if widths[-2:] == [self.d_sae, self.d_sae]:
            widths = widths[:-1]
        check_matryoshka_widths(widths, self.d_sae)
        if self.normalize_activations in ("constant_norm_rescale", "layer_norm"):
            raise InputError(
                f"normalize_activations={self.normalize_activations!r} can undo itself for one "
                "reconstruction a token, and Matryoshka makes several: set it to 'none', "
                "'expected_average_only_in' or 'covariance_whitening'"
            )

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
        return batch_top_k(scores, int(self.cfg.k * len(scores)))

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
