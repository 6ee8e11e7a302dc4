"""What ``sae_lens_poly`` offers; importing it registers the architectures with SAELens."""

from sae_lens_poly.architectures.crosscoder import Crosscoder
from sae_lens_poly.architectures.crosscoder_config import (
    CrosscoderConfig,
    TrainingCrosscoderConfig,
)
from sae_lens_poly.architectures.describe_weights import describe_weights
from sae_lens_poly.architectures.poly_batchtopk_sae import (
    PolyBatchTopKTrainingSAE,
    PolyBatchTopKTrainingSAEConfig,
)
from sae_lens_poly.architectures.poly_crosscoder import (
    PolyCrosscoderConfig,
    TrainingPolyCrosscoderConfig,
)
from sae_lens_poly.architectures.poly_gated_sae import (
    PolyGatedSAE,
    PolyGatedSAEConfig,
    PolyGatedTrainingSAE,
    PolyGatedTrainingSAEConfig,
)
from sae_lens_poly.architectures.poly_jumprelu_sae import (
    PolyJumpReLUSAE,
    PolyJumpReLUSAEConfig,
    PolyJumpReLUTrainingSAE,
    PolyJumpReLUTrainingSAEConfig,
)
from sae_lens_poly.architectures.poly_matryoshka_batchtopk_sae import (
    PolyMatryoshkaBatchTopKTrainingSAE,
    PolyMatryoshkaBatchTopKTrainingSAEConfig,
)
from sae_lens_poly.architectures.poly_standard_sae import (
    PolyStandardSAE,
    PolyStandardSAEConfig,
    PolyStandardTrainingSAE,
    PolyStandardTrainingSAEConfig,
)
from sae_lens_poly.architectures.poly_topk_sae import (
    PolyTopKSAE,
    PolyTopKSAEConfig,
    PolyTopKTrainingSAE,
    PolyTopKTrainingSAEConfig,
)
from sae_lens_poly.architectures.polynomial_config import OFFICIAL_OPTIONS
from sae_lens_poly.architectures.training_crosscoder import TrainingCrosscoder
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
