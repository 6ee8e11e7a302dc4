"""Crosscoders: one sparse code that reads and reconstructs several hook points."""

from sae_lens_poly.architectures.crosscoders.config import (
    CrosscoderConfig,
    PolyCrosscoderConfig,
    TrainingCrosscoderConfig,
    TrainingPolyCrosscoderConfig,
)
from sae_lens_poly.architectures.crosscoders.crosscoder import Crosscoder
from sae_lens_poly.architectures.crosscoders.describe_weights import describe_weights
from sae_lens_poly.architectures.crosscoders.side_by_side import side_by_side
from sae_lens_poly.architectures.crosscoders.training_crosscoder import TrainingCrosscoder

__all__ = [
    "Crosscoder",
    "CrosscoderConfig",
    "PolyCrosscoderConfig",
    "TrainingCrosscoder",
    "TrainingCrosscoderConfig",
    "TrainingPolyCrosscoderConfig",
    "describe_weights",
    "side_by_side",
]
