"""Standard, gated and JumpReLU SAEs with a polynomial decoder."""

# No "from __future__ import annotations" here: SAELens' command line reads the types of fields.

from dataclasses import dataclass
from typing import Any

from sae_lens.saes.gated_sae import (
    GatedSAE,
    GatedSAEConfig,
    GatedTrainingSAE,
    GatedTrainingSAEConfig,
)
from sae_lens.saes.jumprelu_sae import (
    JumpReLUSAE,
    JumpReLUSAEConfig,
    JumpReLUTrainingSAE,
    JumpReLUTrainingSAEConfig,
)
from sae_lens.saes.sae import TrainStepInput, TrainStepOutput
from sae_lens.saes.standard_sae import (
    StandardSAE,
    StandardSAEConfig,
    StandardTrainingSAE,
    StandardTrainingSAEConfig,
)
from typing_extensions import override

from sae_lens_poly.architectures.official.reader import read_official
from sae_lens_poly.architectures.polynomial_dictionary import PolynomialDictionary, polynomial_step
from sae_lens_poly.architectures.polynomial_fields import PolynomialFields


class PolynomialTraining(PolynomialDictionary):
    """Goes in front of one of SAELens' training classes."""

    @override
    def training_forward_pass(self, step_input: TrainStepInput) -> TrainStepOutput:
        return polynomial_step(self, step_input, super().training_forward_pass)


@dataclass(kw_only=True)
class PolyStandardSAEConfig(PolynomialFields, StandardSAEConfig):
    """SAELens' StandardSAEConfig and the decoder's fields, :class:`PolynomialFields`."""

    @override
    @classmethod
    def architecture(cls) -> str:
        return "poly_standard"


class PolyStandardSAE(PolynomialDictionary, StandardSAE):
    """An inference standard SAE with a polynomial decoder."""


@dataclass(kw_only=True)
class PolyStandardTrainingSAEConfig(PolynomialFields, StandardTrainingSAEConfig):
    """SAELens' StandardTrainingSAEConfig and the decoder's fields, :class:`PolynomialFields`."""

    @override
    @classmethod
    def architecture(cls) -> str:
        return "poly_standard"


class PolyStandardTrainingSAE(PolynomialTraining, StandardTrainingSAE):
    """A standard SAE with a polynomial decoder, in training."""


@dataclass(kw_only=True)
class PolyGatedSAEConfig(PolynomialFields, GatedSAEConfig):
    """SAELens' GatedSAEConfig and the decoder's fields, :class:`PolynomialFields`."""

    @override
    @classmethod
    def architecture(cls) -> str:
        return "poly_gated"


class PolyGatedSAE(PolynomialDictionary, GatedSAE):
    """An inference gated SAE with a polynomial decoder."""


@dataclass(kw_only=True)
class PolyGatedTrainingSAEConfig(PolynomialFields, GatedTrainingSAEConfig):
    """SAELens' GatedTrainingSAEConfig and the decoder's fields, :class:`PolynomialFields`."""

    @override
    @classmethod
    def architecture(cls) -> str:
        return "poly_gated"


class PolyGatedTrainingSAE(PolynomialTraining, GatedTrainingSAE):
    """A gated SAE with a polynomial decoder, in training."""


@dataclass(kw_only=True)
class PolyJumpReLUSAEConfig(PolynomialFields, JumpReLUSAEConfig):
    """SAELens' JumpReLUSAEConfig and the decoder's fields, :class:`PolynomialFields`."""

    @override
    @classmethod
    def architecture(cls) -> str:
        return "poly_jumprelu"


class PolyJumpReLUSAE(PolynomialDictionary, JumpReLUSAE):
    """An inference JumpReLU SAE with a polynomial decoder.

    It also is what BatchTopK and Matryoshka are exported as, and reads PolySAE's own files.
    """

    @override
    def process_state_dict_for_loading(self, state_dict: dict[str, Any]) -> None:
        super().process_state_dict_for_loading(state_dict)
        read_official(self, state_dict)


@dataclass(kw_only=True)
class PolyJumpReLUTrainingSAEConfig(PolynomialFields, JumpReLUTrainingSAEConfig):
    """SAELens' JumpReLUTrainingSAEConfig and the decoder's fields, :class:`PolynomialFields`."""

    @override
    @classmethod
    def architecture(cls) -> str:
        return "poly_jumprelu"


class PolyJumpReLUTrainingSAE(PolynomialTraining, JumpReLUTrainingSAE):
    """A JumpReLU SAE with a polynomial decoder, in training."""
