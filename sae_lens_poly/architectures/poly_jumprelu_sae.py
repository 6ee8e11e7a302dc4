"""JumpReLU with a polynomial decoder; also what BatchTopK and Matryoshka are exported as."""

from dataclasses import dataclass

from sae_lens.saes.jumprelu_sae import (
    JumpReLUSAE,
    JumpReLUSAEConfig,
    JumpReLUTrainingSAE,
    JumpReLUTrainingSAEConfig,
)
from typing_extensions import override

from sae_lens_poly.architectures.official_polysae import OfficialPolySAEFiles
from sae_lens_poly.architectures.polynomial_config import (
    PolynomialConfig,
    PolynomialTrainingConfig,
)
from sae_lens_poly.architectures.polynomial_dictionary import (
    PolynomialDictionary,
    PolynomialTrainingDictionary,
)


@dataclass(kw_only=True)
class PolyJumpReLUSAEConfig(PolynomialConfig, JumpReLUSAEConfig):
    """SAELens' JumpReLUSAEConfig and the decoder's fields, :class:`PolynomialConfig`."""

    @override
    @classmethod
    def architecture(cls) -> str:
        return "poly_jumprelu"


class PolyJumpReLUSAE(OfficialPolySAEFiles, PolynomialDictionary, JumpReLUSAE):
    """An inference JumpReLU SAE with a polynomial decoder (PolySAE, Koromilas et al. 2026)."""


@dataclass(kw_only=True)
class TrainingFileConfig(PolyJumpReLUSAEConfig):
    """What a training file of PolySAE's code, for BatchTopK or Matryoshka, is loaded with.

    Args:
        rescale_acts_by_decoder_norm (bool): As in the file; loading folds it into the weights.
    """

    rescale_acts_by_decoder_norm: bool = False


@dataclass(kw_only=True)
class PolyJumpReLUTrainingSAEConfig(PolynomialTrainingConfig, JumpReLUTrainingSAEConfig):
    """SAELens' JumpReLUTrainingSAEConfig and the decoder's fields.

    See :class:`PolynomialConfig` and :class:`PolynomialTrainingConfig`.
    """

    @override
    @classmethod
    def architecture(cls) -> str:
        return "poly_jumprelu"


class PolyJumpReLUTrainingSAE(PolynomialTrainingDictionary, JumpReLUTrainingSAE):
    """A JumpReLU SAE with a polynomial decoder, in training."""
