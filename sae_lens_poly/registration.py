"""Makes SAELens know the architectures of this package."""

from __future__ import annotations

from typing import Any

from sae_lens.registry import SAE_CLASS_REGISTRY, SAE_TRAINING_CLASS_REGISTRY

from sae_lens_poly.architectures import crosscoders, poly_saes, write_saes
from sae_lens_poly.architectures.official import training as official

#: Architecture to (inference class, its config).
INFERENCE: dict[str, tuple[Any, Any]] = {
    "crosscoder": (crosscoders.Crosscoder, crosscoders.CrosscoderConfig),
    "poly_crosscoder": (crosscoders.Crosscoder, crosscoders.PolyCrosscoderConfig),
    "write_sae": (crosscoders.Crosscoder, write_saes.WriteSAEConfig),
    "poly_topk": (poly_saes.PolyTopKSAE, poly_saes.PolyTopKSAEConfig),
    "poly_jumprelu": (poly_saes.PolyJumpReLUSAE, poly_saes.PolyJumpReLUSAEConfig),
    "poly_gated": (poly_saes.PolyGatedSAE, poly_saes.PolyGatedSAEConfig),
    "poly_standard": (poly_saes.PolyStandardSAE, poly_saes.PolyStandardSAEConfig),
    # BatchTopK and Matryoshka are exported as poly_jumprelu; these read PolySAE's own files.
    "poly_batchtopk": (poly_saes.PolyJumpReLUSAE, official.TrainingFileConfig),
    "poly_matryoshka_batchtopk": (poly_saes.PolyJumpReLUSAE, official.TrainingFileConfig),
    "poly_matryoshka": (poly_saes.PolyJumpReLUSAE, official.TrainingFileConfig),
}

#: Architecture to (training class, its config).
TRAINING: dict[str, tuple[Any, Any]] = {
    "crosscoder": (crosscoders.TrainingCrosscoder, crosscoders.TrainingCrosscoderConfig),
    "poly_crosscoder": (crosscoders.TrainingCrosscoder, crosscoders.TrainingPolyCrosscoderConfig),
    "write_sae": (crosscoders.TrainingCrosscoder, write_saes.TrainingWriteSAEConfig),
    "poly_topk": (poly_saes.PolyTopKTrainingSAE, poly_saes.PolyTopKTrainingSAEConfig),
    "poly_batchtopk": (
        poly_saes.PolyBatchTopKTrainingSAE,
        poly_saes.PolyBatchTopKTrainingSAEConfig,
    ),
    "poly_matryoshka_batchtopk": (
        poly_saes.PolyMatryoshkaBatchTopKTrainingSAE,
        poly_saes.PolyMatryoshkaBatchTopKTrainingSAEConfig,
    ),
    "poly_jumprelu": (poly_saes.PolyJumpReLUTrainingSAE, poly_saes.PolyJumpReLUTrainingSAEConfig),
    "poly_gated": (poly_saes.PolyGatedTrainingSAE, poly_saes.PolyGatedTrainingSAEConfig),
    "poly_standard": (poly_saes.PolyStandardTrainingSAE, poly_saes.PolyStandardTrainingSAEConfig),
    "polysae_topk": (official.PolySAETopKTrainingSAE, official.PolySAETopKTrainingSAEConfig),
    "polysae_batchtopk": (
        official.PolySAEBatchTopKTrainingSAE,
        official.PolySAEBatchTopKTrainingSAEConfig,
    ),
    "polysae_matryoshka_batchtopk": (
        official.PolySAEMatryoshkaBatchTopKTrainingSAE,
        official.PolySAEMatryoshkaBatchTopKTrainingSAEConfig,
    ),
}


def register() -> None:
    """Enter the architectures into SAELens' registries.

    Calling it again, or after this package was reloaded, replaces our own entries.

    Raises:
        ValueError: If another package has taken one of the names.
    """
    for registry, entries in (
        (SAE_CLASS_REGISTRY, INFERENCE),
        (SAE_TRAINING_CLASS_REGISTRY, TRAINING),
    ):
        for name, classes in entries.items():
            _enter(registry, name, classes)


def _enter(registry: dict[str, Any], name: str, classes: tuple[Any, Any]) -> None:
    # SAELens' register functions raise on a second call, so they cannot serve a reload.
    taken = registry.get(name)
    if taken is not None and not taken[0].__module__.startswith("sae_lens_poly."):
        raise ValueError(
            f"the architecture {name!r} is already registered with SAELens by "
            f"{taken[0].__module__}: import only one of the two packages"
        )
    registry[name] = classes
