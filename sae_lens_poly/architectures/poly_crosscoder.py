"""Crosscoders whose decoder is a polynomial of the code."""

from dataclasses import dataclass

import torch
from typing_extensions import override

from sae_lens_poly.architectures.crosscoder import CrosscoderConfig, TrainingCrosscoderConfig
from sae_lens_poly.architectures.polynomial_terms import (
    InteractionTerms,
    PolynomialDecoder,
    PolynomialTerms,
    PowerTerms,
)
from sae_lens_poly.errors import InputError


@dataclass(kw_only=True)
class PolynomialTermsConfig:
    """The fields of a polynomial decoder; they mean the same in training and at inference.

    Args:
        decoder (str): ``interactions`` for powers of a shared projection of the code (products
            of latents), ``powers`` for elementwise powers of the code (a curve per latent).
        degree (int): 2 or 3.
        rank_2 (int): Rank of the term of degree 2.
        rank_3 (int): Rank of the term of degree 3.
    """

    decoder: PolynomialDecoder = "interactions"
    degree: int = 3
    rank_2: int = 64
    rank_3: int = 64

    def ranks(self) -> dict[int, int]:
        """Degree to rank, for the degrees above 1 that are in use."""
        return {2: self.rank_2, 3: self.rank_3} if self.degree == 3 else {2: self.rank_2}

    def check_polynomial(self, d_in: int, d_sae: int) -> None:
        """Refuse decoders that cannot be built.

        Raises:
            InputError: Naming the field, its value and the remedy.
        """
        if self.decoder not in ("interactions", "powers"):
            raise InputError(
                f"decoder={self.decoder!r} is unknown: choose 'interactions' or 'powers'"
            )
        if self.degree not in (2, 3):
            raise InputError(
                f"degree={self.degree} is not available: choose 2 or 3 "
                "(for degree 1 take architecture='crosscoder')"
            )
        bound, of = (
            (d_sae, f"d_sae={d_sae}")
            if self.decoder == "interactions"
            else (min(d_sae, d_in), f"min(d_sae, d_in)={min(d_sae, d_in)}")
        )
        for degree, rank in self.ranks().items():
            if not 1 <= rank <= bound:
                raise InputError(
                    f"rank_{degree}={rank} must be at least 1 and at most {of} for the decoder "
                    f"{self.decoder!r}: lower it"
                )

    def build_terms(
        self, d_in: int, d_sae: int, dtype: torch.dtype, device: torch.device
    ) -> PolynomialTerms:
        """The module that computes the terms above degree 1."""
        terms = {"interactions": InteractionTerms, "powers": PowerTerms}[self.decoder]
        return terms(d_in, d_sae, self.ranks(), dtype, device)


@dataclass(kw_only=True)
class PolyCrosscoderConfig(PolynomialTermsConfig, CrosscoderConfig):
    """Configuration of an inference polynomial crosscoder; see :class:`PolynomialTermsConfig`."""

    @override
    @classmethod
    def architecture(cls) -> str:
        return "poly_crosscoder"

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_polynomial(self.d_in, self.d_sae)

    @override
    def make_polynomial_terms(self, dtype: torch.dtype, device: torch.device) -> PolynomialTerms:
        return self.build_terms(self.d_in, self.d_sae, dtype, device)


@dataclass(kw_only=True)
class TrainingPolyCrosscoderConfig(PolynomialTermsConfig, TrainingCrosscoderConfig):
    """Configuration for training a polynomial crosscoder.

    The fields of :class:`TrainingCrosscoderConfig`, and:

    Args:
        decoder (str): ``interactions`` for powers of a shared projection of the code (products
            of latents), ``powers`` for elementwise powers of the code (a curve per latent).
        degree (int): 2 or 3.
        rank_2 (int): Rank of the term of degree 2.
        rank_3 (int): Rank of the term of degree 3.
    """

    @override
    @classmethod
    def architecture(cls) -> str:
        return "poly_crosscoder"

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_polynomial(self.d_in, self.d_sae)

    @override
    def make_polynomial_terms(self, dtype: torch.dtype, device: torch.device) -> PolynomialTerms:
        return self.build_terms(self.d_in, self.d_sae, dtype, device)
