"""What ``sae_lens_poly`` offers; importing it registers the architectures with SAELens."""

from sae_lens_poly.architectures.crosscoders import (
    Crosscoder,
    CrosscoderConfig,
    PolyCrosscoderConfig,
    TrainingCrosscoder,
    TrainingCrosscoderConfig,
    TrainingPolyCrosscoderConfig,
    describe_weights,
)
from sae_lens_poly.architectures.official.training import (
    OFFICIAL_OPTIONS,
    PolySAEBatchTopKTrainingSAEConfig,
    PolySAEMatryoshkaBatchTopKTrainingSAEConfig,
    PolySAETopKTrainingSAEConfig,
)
from sae_lens_poly.architectures.poly_saes import (
    PolyBatchTopKTrainingSAE,
    PolyBatchTopKTrainingSAEConfig,
    PolyGatedSAE,
    PolyGatedSAEConfig,
    PolyGatedTrainingSAE,
    PolyGatedTrainingSAEConfig,
    PolyJumpReLUSAE,
    PolyJumpReLUSAEConfig,
    PolyJumpReLUTrainingSAE,
    PolyJumpReLUTrainingSAEConfig,
    PolyMatryoshkaBatchTopKTrainingSAE,
    PolyMatryoshkaBatchTopKTrainingSAEConfig,
    PolyStandardSAE,
    PolyStandardSAEConfig,
    PolyStandardTrainingSAE,
    PolyStandardTrainingSAEConfig,
    PolyTopKSAE,
    PolyTopKSAEConfig,
    PolyTopKTrainingSAE,
    PolyTopKTrainingSAEConfig,
)
from sae_lens_poly.errors import InputError
from sae_lens_poly.hook_names import expand_hook_names
from sae_lens_poly.models.attached import AttachedCrosscoder
from sae_lens_poly.models.loading import load_stacked_model
from sae_lens_poly.models.stacked_hooks import StackedHooks
from sae_lens_poly.models.stacked_models import StackedModels
from sae_lens_poly.registration import register
from sae_lens_poly.training.export import export_checkpoint
from sae_lens_poly.training.runner import StoppedRun, TrainingRunner

__all__ = [
    "OFFICIAL_OPTIONS",
    "AttachedCrosscoder",
    "Crosscoder",
    "CrosscoderConfig",
    "InputError",
    "PolyBatchTopKTrainingSAE",
    "PolyBatchTopKTrainingSAEConfig",
    "PolyCrosscoderConfig",
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
    "PolySAEBatchTopKTrainingSAEConfig",
    "PolySAEMatryoshkaBatchTopKTrainingSAEConfig",
    "PolySAETopKTrainingSAEConfig",
    "PolyStandardSAE",
    "PolyStandardSAEConfig",
    "PolyStandardTrainingSAE",
    "PolyStandardTrainingSAEConfig",
    "PolyTopKSAE",
    "PolyTopKSAEConfig",
    "PolyTopKTrainingSAE",
    "PolyTopKTrainingSAEConfig",
    "StackedHooks",
    "StackedModels",
    "StoppedRun",
    "TrainingCrosscoder",
    "TrainingCrosscoderConfig",
    "TrainingPolyCrosscoderConfig",
    "TrainingRunner",
    "describe_weights",
    "expand_hook_names",
    "export_checkpoint",
    "load_stacked_model",
    "register",
]

register()
