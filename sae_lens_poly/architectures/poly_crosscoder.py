"""Crosscoders whose decoder is a polynomial of the code."""

from dataclasses import dataclass

from typing_extensions import override

from sae_lens_poly.architectures.crosscoder_config import (
    CrosscoderConfig,
    TrainingCrosscoderConfig,
)
from sae_lens_poly.architectures.polynomial_config import (
    PolynomialConfig,
    PolynomialTrainingConfig,
)
from sae_lens_poly.errors import InputError


@dataclass(kw_only=True)
class PolyCrosscoderConfig(PolynomialConfig, CrosscoderConfig):
    """Configuration of an inference polynomial crosscoder; see :class:`PolynomialConfig`."""

    _DEFAULT_RANK = 64
    _DEGREES = (2, 3)

    @override
    @classmethod
    def architecture(cls) -> str:
        return "poly_crosscoder"


@dataclass(kw_only=True)
class TrainingPolyCrosscoderConfig(PolynomialTrainingConfig, TrainingCrosscoderConfig):
    """Configuration for training a polynomial crosscoder.

    The fields of :class:`TrainingCrosscoderConfig`, :class:`PolynomialConfig` and
    :class:`PolynomialTrainingConfig`. Interactions go through the codes by default: V costs
    little beside a decoder of several hook points.
    """

    _DEFAULT_RANK = 64
    _DEGREES = (2, 3)

    @override
    @classmethod
    def architecture(cls) -> str:
        return "poly_crosscoder"

    @override
    def check_polynomial(self) -> None:
        super().check_polynomial()
        if self.projection == "shared_u" and (
            self.is_factored or self.structure != "acausal" or self.encoder_init != "transposed"
        ):
            raise InputError(
                "projection='shared_u' is a factored linear term of its own, for all hook points, "
                f"and starts the encoder as its transpose: with {self.encoder_weights!r} and "
                f"{self.decoder_weights!r} weights, structure={self.structure!r} and "
                f"encoder_init={self.encoder_init!r} take projection='codes'"
            )
