"""Standard SAE with a polynomial decoder."""

from dataclasses import dataclass

from sae_lens.saes.standard_sae import (
    StandardSAE,
    StandardSAEConfig,
    StandardTrainingSAE,
    StandardTrainingSAEConfig,
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
class PolyStandardSAEConfig(PolynomialConfig, StandardSAEConfig):
    """SAELens' StandardSAEConfig and the decoder's fields, :class:`PolynomialConfig`."""

    @override
    @classmethod
    def architecture(cls) -> str:
        return "poly_standard"


class PolyStandardSAE(PolynomialDictionary, StandardSAE):
    """An inference standard SAE with a polynomial decoder."""


@dataclass(kw_only=True)
class PolyStandardTrainingSAEConfig(PolynomialTrainingConfig, StandardTrainingSAEConfig):
    """SAELens' StandardTrainingSAEConfig and the decoder's fields.

    See :class:`PolynomialConfig` and :class:`PolynomialTrainingConfig`.
    """

    @override
    @classmethod
    def architecture(cls) -> str:
        return "poly_standard"


class PolyStandardTrainingSAE(PolynomialTrainingDictionary, StandardTrainingSAE):
    """A standard SAE with a polynomial decoder, in training."""
