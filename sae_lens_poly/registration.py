"""Makes SAELens know the architectures of this package."""

from __future__ import annotations

from typing import Any

from sae_lens.registry import SAE_CLASS_REGISTRY, SAE_TRAINING_CLASS_REGISTRY

from sae_lens_poly.architectures.crosscoder import Crosscoder
from sae_lens_poly.architectures.crosscoder_config import (
    CrosscoderConfig,
    TrainingCrosscoderConfig,
)
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
    TrainingFileConfig,
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
from sae_lens_poly.architectures.training_crosscoder import TrainingCrosscoder

#: Architecture to (inference class, its config, training class, its config). BatchTopK and
#: Matryoshka are exported as poly_jumprelu; their inference entry is for PolySAE's own files.
ARCHITECTURES: dict[str, tuple[Any, Any, Any, Any]] = {
    "crosscoder": (Crosscoder, CrosscoderConfig, TrainingCrosscoder, TrainingCrosscoderConfig),
    "poly_crosscoder": (
        Crosscoder,
        PolyCrosscoderConfig,
        TrainingCrosscoder,
        TrainingPolyCrosscoderConfig,
    ),
    "poly_topk": (
        PolyTopKSAE,
        PolyTopKSAEConfig,
        PolyTopKTrainingSAE,
        PolyTopKTrainingSAEConfig,
    ),
    "poly_batchtopk": (
        PolyJumpReLUSAE,
        TrainingFileConfig,
        PolyBatchTopKTrainingSAE,
        PolyBatchTopKTrainingSAEConfig,
    ),
    "poly_matryoshka_batchtopk": (
        PolyJumpReLUSAE,
        TrainingFileConfig,
        PolyMatryoshkaBatchTopKTrainingSAE,
        PolyMatryoshkaBatchTopKTrainingSAEConfig,
    ),
    "poly_jumprelu": (
        PolyJumpReLUSAE,
        PolyJumpReLUSAEConfig,
        PolyJumpReLUTrainingSAE,
        PolyJumpReLUTrainingSAEConfig,
    ),
    "poly_gated": (
        PolyGatedSAE,
        PolyGatedSAEConfig,
        PolyGatedTrainingSAE,
        PolyGatedTrainingSAEConfig,
    ),
    "poly_standard": (
        PolyStandardSAE,
        PolyStandardSAEConfig,
        PolyStandardTrainingSAE,
        PolyStandardTrainingSAEConfig,
    ),
}

#: Names in the files of PolySAE's code that are not ours, for loading only.
OFFICIAL_NAMES: dict[str, tuple[Any, Any]] = {
    "poly_matryoshka": (PolyJumpReLUSAE, TrainingFileConfig),
}


def register() -> None:
    """Enter the architectures into SAELens' registries.

    Calling it again, or after this package was reloaded, replaces our own entries.

    Raises:
        ValueError: If another package has taken one of the names.
    """
    for name, (sae, sae_config, training, training_config) in ARCHITECTURES.items():
        _enter(SAE_CLASS_REGISTRY, name, (sae, sae_config))
        _enter(SAE_TRAINING_CLASS_REGISTRY, name, (training, training_config))
    for name, classes in OFFICIAL_NAMES.items():
        _enter(SAE_CLASS_REGISTRY, name, classes)


def _enter(registry: dict[str, Any], name: str, classes: tuple[Any, Any]) -> None:
    # SAELens' register functions raise on a second call, so they cannot serve a reload.
    taken = registry.get(name)
    if taken is not None and not taken[0].__module__.startswith("sae_lens_poly."):
        raise ValueError(
            f"the architecture {name!r} is already registered with SAELens by "
            f"{taken[0].__module__}: import only one of the two packages"
        )
    registry[name] = classes
