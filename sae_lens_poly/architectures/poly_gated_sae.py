"""Gated SAE with a polynomial decoder."""

from dataclasses import dataclass

from sae_lens.saes.gated_sae import (
    GatedSAE,
    GatedSAEConfig,
    GatedTrainingSAE,
    GatedTrainingSAEConfig,
)
from typing_extensions import override

from sae_lens_poly.architectures.polynomial_config import (
    PolynomialConfig,
    PolynomialTrainingConfig,
)
from sae_lens_poly.architectures.polynomial_dictionary import (
    PolynomialDictionary,
    PolynomialTrainingDictionary,
)


@dataclass(kw_only=True)
class PolyGatedSAEConfig(PolynomialConfig, GatedSAEConfig):
    """SAELens' GatedSAEConfig and the decoder's fields, :class:`PolynomialConfig`."""

    @override
    @classmethod
    def architecture(cls) -> str:
        return "poly_gated"


class PolyGatedSAE(PolynomialDictionary, GatedSAE):
    """An inference gated SAE with a polynomial decoder."""


@dataclass(kw_only=True)
class PolyGatedTrainingSAEConfig(PolynomialTrainingConfig, GatedTrainingSAEConfig):
    """SAELens' GatedTrainingSAEConfig and the decoder's fields.

    See :class:`PolynomialConfig` and :class:`PolynomialTrainingConfig`.
    """

    @override
    @classmethod
    def architecture(cls) -> str:
        return "poly_gated"


class PolyGatedTrainingSAE(PolynomialTrainingDictionary, GatedTrainingSAE):
    """A gated SAE with a polynomial decoder, in training."""
