"""Polynomial SAEs: SAELens' own SAEs with another decoder."""

from sae_lens_poly.architectures.poly_saes.shells import (
    PolyGatedSAE,
    PolyGatedSAEConfig,
    PolyGatedTrainingSAE,
    PolyGatedTrainingSAEConfig,
    PolyJumpReLUSAE,
    PolyJumpReLUSAEConfig,
    PolyJumpReLUTrainingSAE,
    PolyJumpReLUTrainingSAEConfig,
    PolyStandardSAE,
    PolyStandardSAEConfig,
    PolyStandardTrainingSAE,
    PolyStandardTrainingSAEConfig,
)
from sae_lens_poly.architectures.poly_saes.top_k_shells import (
    PolyBatchTopKTrainingSAE,
    PolyBatchTopKTrainingSAEConfig,
    PolyMatryoshkaBatchTopKTrainingSAE,
    PolyMatryoshkaBatchTopKTrainingSAEConfig,
    PolyTopKSAE,
    PolyTopKSAEConfig,
    PolyTopKTrainingSAE,
    PolyTopKTrainingSAEConfig,
)
from sae_lens_poly.architectures.polynomial_fields import PolynomialFields

__all__ = [
    "PolyBatchTopKTrainingSAE",
    "PolyBatchTopKTrainingSAEConfig",
    "PolyGatedSAE",
    "PolyGatedSAEConfig",
    "PolyGatedTrainingSAE",
    "PolyGatedTrainingSAEConfig",
    "PolyJumpReLUSAE",
    "PolyJumpReLUSAEConfig",
    "PolyJumpReLUTrainingSAE",
    "PolyJumpReLUTrainingSAEConfig",
    "PolyMatryoshkaBatchTopKTrainingSAE",
    "PolyMatryoshkaBatchTopKTrainingSAEConfig",
    "PolyStandardSAE",
    "PolyStandardSAEConfig",
    "PolyStandardTrainingSAE",
    "PolyStandardTrainingSAEConfig",
    "PolyTopKSAE",
    "PolyTopKSAEConfig",
    "PolyTopKTrainingSAE",
    "PolyTopKTrainingSAEConfig",
    "PolynomialFields",
]
