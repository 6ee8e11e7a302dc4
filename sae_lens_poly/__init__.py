"""Polynomial SAEs and multi-layer crosscoders for SAELens.

Importing this package registers its architectures with SAELens.
"""

from sae_lens_poly.architectures.crosscoder import (
    Crosscoder,
    CrosscoderConfig,
    TrainingCrosscoder,
    TrainingCrosscoderConfig,
)
from sae_lens_poly.architectures.poly_crosscoder import (
    PolyCrosscoderConfig,
    TrainingPolyCrosscoderConfig,
)
from sae_lens_poly.errors import InputError
from sae_lens_poly.hook_names import expand_hook_names
from sae_lens_poly.models.loading import load_stacked_model
from sae_lens_poly.models.stacked_hooks import StackedHooks
from sae_lens_poly.registration import register
from sae_lens_poly.training.runner import StoppedRun, TrainingRunner

__all__ = [
    "Crosscoder",
    "CrosscoderConfig",
    "InputError",
    "PolyCrosscoderConfig",
    "StackedHooks",
    "StoppedRun",
    "TrainingCrosscoder",
    "TrainingCrosscoderConfig",
    "TrainingPolyCrosscoderConfig",
    "TrainingRunner",
    "expand_hook_names",
    "load_stacked_model",
    "register",
]

register()
