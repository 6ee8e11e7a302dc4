"""Crosscoders whose decoder is a polynomial of the code."""

from dataclasses import dataclass

from typing_extensions import override

from sae_lens_poly.architectures.crosscoder import CrosscoderConfig, TrainingCrosscoderConfig
from sae_lens_poly.architectures.polynomial_config import (
    PolynomialConfig,
    PolynomialTrainingConfig,
)


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
