"""The fields of a polynomial decoder; they mean the same for SAEs and crosscoders."""

# No "from __future__ import annotations" here: SAELens' command line reads the types of fields.

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

import torch
from typing_extensions import override

from sae_lens_poly.architectures.interaction_terms import (
    CodeInteractions,
    ReconstructionInteractions,
)
from sae_lens_poly.architectures.polynomial_terms import CODE_LIMIT, PolynomialTerms
from sae_lens_poly.architectures.power_terms import PowerTerms
from sae_lens_poly.architectures.separate_u_terms import SeparateUTerms
from sae_lens_poly.architectures.shared_u_terms import SharedUTerms
from sae_lens_poly.errors import InputError

#: The options of PolySAE's published runs, for comparison: ``PolyTopKTrainingSAEConfig(...,
#: rescale_acts_by_decoder_norm=False, **OFFICIAL_OPTIONS)``. R1 is d_in.
OFFICIAL_OPTIONS: dict[str, Any] = {
    "projection": "shared_u",
    "init": "official",
    "retraction": "uncompensated",
    "code_limit": None,
    "self_terms": True,
}

_PROJECTIONS = {
    "codes": "interactions through the codes (V)",
    "reconstruction": "interactions through the linear reconstruction (P)",
    "shared_u": "PolySAE's form, linear term included; training only",
    "separate_u": "read from PolySAE's files; inference only",
}


@dataclass(kw_only=True)
class PolynomialConfig:
    """Fields of the decoder in training and at inference.

    The defaults are measured (benchmarks/results/polysae_toy.txt). All forms reconstruct planted
    linear features as TopK does. Where pairs of features add a direction of their own, all have a
    lower error than TopK, by 2% to 3%; but only terms through the codes explain the planted
    interactions (squared correlation 0.20; through the reconstruction 0.01, as a direction of
    activations that two latents lie in is shared with many others). Self-terms stay, as in the
    paper: without them the error is 1% lower and the interactions are explained half as well, for
    two more products. Ranks of 32 keep V at 2.3% of the parameters at GPT-2's size.

    Args:
        decoder (str): ``interactions`` for powers of projections of the code (products of
            latents), ``powers`` for elementwise powers of the code (a curve per latent).
        projection (str): What interactions go through: ``codes`` (V), ``reconstruction`` (P), or
            ``shared_u`` (PolySAE's own form; it trains, and is saved for inference as ``codes``).
        degree (int): 1, 2 or 3.
        rank_2 (int | None): Rank of the term of degree 2; None: 32 for SAEs, 64 for crosscoders,
            or the most there can be.
        rank_3 (int | None): Rank of the term of degree 3; None likewise.
        self_terms (bool): Whether powers of a single latent are kept beside the products.
        code_limit (float | None): Bound on what is raised to a power, in units of its root mean
            square on the first batch: on the norm of the projected code, or on each latent of
            ``powers``. None: none.
    """

    decoder: Literal["interactions", "powers"] = "interactions"
    projection: Literal["codes", "reconstruction", "shared_u", "separate_u"] = "codes"
    degree: int = 3
    rank_2: int | None = None
    rank_3: int | None = None
    self_terms: bool = True
    code_limit: float | None = CODE_LIMIT

    #: Set by subclasses: ranks that are not given, and degrees that the architecture takes.
    _DEFAULT_RANK: ClassVar[int] = 32
    _DEGREES: ClassVar[tuple[int, ...]] = (1, 2, 3)

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[misc]
        self.check_polynomial()

    def _fill_in_ranks(self) -> None:
        most = min(self._DEFAULT_RANK, self._rank_bound()[0])
        self.rank_2 = most if self.rank_2 is None else self.rank_2
        self.rank_3 = most if self.rank_3 is None else self.rank_3

    def ranks(self) -> dict[int, int]:
        """Degree to rank, for the degrees above 1 that are in use."""
        ranks = {2: self.rank_2, 3: self.rank_3}
        return {d: r for d, r in ranks.items() if r is not None and d <= self.degree}

    def check_polynomial(self) -> None:
        """Refuse decoders that cannot be built.

        Raises:
            InputError: Naming the field, its value and the remedy.
        """
        if self.decoder not in ("interactions", "powers"):
            raise InputError(
                f"decoder={self.decoder!r} is unknown: choose 'interactions' or 'powers'"
            )
        if self.projection not in _PROJECTIONS:
            choices = "; ".join(f"{name!r}, {what}" for name, what in _PROJECTIONS.items())
            raise InputError(f"projection={self.projection!r} is unknown: choose {choices}")
        if self.degree not in self._DEGREES:
            if self.degree == 1:
                raise InputError(
                    "degree=1 is not available: choose 2 or 3 "
                    "(for degree 1 take architecture='crosscoder')"
                )
            raise InputError(f"degree={self.degree} is not available: choose 1, 2 or 3")
        if self.decoder == "powers" and (
            self.projection in ("shared_u", "separate_u") or not self.self_terms
        ):
            raise InputError(
                f"decoder='powers' has only self-terms and no projection, but "
                f"projection={self.projection!r}, self_terms={self.self_terms}: take "
                "decoder='interactions', or leave both fields out"
            )
        if self.code_limit is not None and not self.code_limit > 0:
            raise InputError(f"code_limit={self.code_limit} must be above 0, or None for no bound")
        self._fill_in_ranks()
        bound, of = self._rank_bound()
        for degree, rank in self.ranks().items():
            if not 1 <= rank <= bound:
                raise InputError(
                    f"rank_{degree}={rank} must be at least 1 and at most {of} for the decoder "
                    f"{self._decoder_name()}: lower it"
                )

    def _decoder_name(self) -> str:
        if self.decoder == "powers":
            return "'powers'"
        return f"'interactions' with projection={self.projection!r}"

    def _rank_bound(self) -> tuple[int, str]:
        d_in, d_sae = self.d_in, self.d_sae  # type: ignore[attr-defined]
        if self.decoder == "interactions" and self.projection == "codes":
            return d_sae, f"d_sae={d_sae}"
        if self.decoder == "interactions" and self.projection == "reconstruction":
            return d_in, f"d_in={d_in}"
        return min(d_sae, d_in), f"min(d_sae, d_in)={min(d_sae, d_in)}"

    def make_polynomial_terms(self, W_dec: torch.Tensor) -> PolynomialTerms | None:
        """The module that computes the terms above degree 1; None where there are none.

        Args:
            W_dec: The linear decoder (d_sae, d_in), for its shape, dtype and device; the shared-U
                form starts at it.
        """
        d_sae, d_in = W_dec.shape
        options: dict[str, Any] = {"dtype": W_dec.dtype, "device": W_dec.device}
        if self.projection == "separate_u":
            return SeparateUTerms(d_in, d_sae, self.ranks(), **options)
        if self.projection == "shared_u":
            return SharedUTerms(
                d_in,
                d_sae,
                self.ranks(),
                rank_1=getattr(self, "rank_1", None) or min(d_in, d_sae),
                W_dec=W_dec.detach(),
                compensated=getattr(self, "retraction", None) != "uncompensated",
                **self._interaction_options(),
                **options,
            )
        if self.degree == 1:
            return None
        if self.decoder == "powers":
            return PowerTerms(d_in, d_sae, self.ranks(), code_limit=self.code_limit, **options)
        form = {"codes": CodeInteractions, "reconstruction": ReconstructionInteractions}
        return form[self.projection](
            d_in, d_sae, self.ranks(), **self._interaction_options(), **options
        )

    def _interaction_options(self) -> dict[str, Any]:
        return {
            "self_terms": self.self_terms,
            "code_limit": self.code_limit,
            "official_init": getattr(self, "init", None) == "official",
        }


@dataclass(kw_only=True)
class PolynomialTrainingConfig(PolynomialConfig):
    """Fields of the decoder that matter to training only, beside those of the decoder.

    Args:
        rank_1 (int | None): Rank of the linear term with ``projection="shared_u"``; None: d_in.
        init (str): ``linear`` starts exactly at the linear dictionary (output factors zero);
            ``official`` as PolySAE's code does, without scaling what is raised to a power.
        retraction (str): Whether the retraction of ``shared_u`` leaves the linear term alone
            (``compensated``) or moves it, as PolySAE's code does (``uncompensated``).
    """

    rank_1: int | None = None
    init: Literal["linear", "official"] = "linear"
    retraction: Literal["compensated", "uncompensated"] = "compensated"

    @override
    def check_polynomial(self) -> None:
        super().check_polynomial()
        if self.dtype == "float16" and self.degree > 1:  # type: ignore[attr-defined]
            raise InputError(
                "dtype='float16' ends at 65,504, and what is raised to a power does not: train in "
                "'bfloat16' or 'float32'"
            )
        if self.projection == "separate_u":
            raise InputError(
                "projection='separate_u' is for inference with files of PolySAE's code: train "
                "with 'codes', 'reconstruction' or 'shared_u'"
            )
        if self.init not in ("linear", "official"):
            raise InputError(f"init={self.init!r} is unknown: choose 'linear' or 'official'")
        if self.init == "official" and self.decoder == "powers":
            raise InputError("init='official' is for decoder='interactions': take init='linear'")
        if self.retraction not in ("compensated", "uncompensated"):
            raise InputError(
                f"retraction={self.retraction!r} is unknown: choose 'compensated' or "
                "'uncompensated'"
            )
        if self.projection != "shared_u":
            if self.rank_1 is not None:
                raise InputError(
                    f"rank_1={self.rank_1} is for projection='shared_u', and this is "
                    f"{self.projection!r}, whose linear term is a full W_dec: leave rank_1 out"
                )
            if self.retraction == "uncompensated":
                raise InputError(
                    "retraction='uncompensated' is for projection='shared_u': with "
                    f"{self.projection!r} the retraction never touches the linear term"
                )
        elif self.rank_1 is not None:
            d_in, d_sae = self.d_in, self.d_sae  # type: ignore[attr-defined]
            least = max(self.ranks().values(), default=1)
            if not least <= self.rank_1 <= min(d_in, d_sae):
                raise InputError(
                    f"rank_1={self.rank_1} must be between the other ranks ({least}) and "
                    f"min(d_in, d_sae)={min(d_in, d_sae)}"
                )

    def get_inference_sae_cfg_dict(self) -> dict[str, Any]:
        cfg_dict = super().get_inference_sae_cfg_dict()  # type: ignore[misc]
        return {**cfg_dict, **self.inference_fields()}

    def inference_fields(self) -> dict[str, Any]:
        """What the decoder's fields are once exported."""
        kept = {field.name: getattr(self, field.name) for field in fields(PolynomialConfig)}
        return {**kept, "projection": "codes"} if self.projection == "shared_u" else kept
