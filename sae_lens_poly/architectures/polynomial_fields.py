"""The fields of a polynomial decoder; they mean the same for SAEs and crosscoders."""

# No "from __future__ import annotations" here: SAELens' command line reads the types of fields.

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from sae_lens.saes.sae import TrainingSAEConfig

from sae_lens_poly.architectures.checks import check_training_dtype
from sae_lens_poly.architectures.decoders.drawing import drawing_aside
from sae_lens_poly.architectures.decoders.term import CODE_LIMIT, TERMS, Term
from sae_lens_poly.constraints import Constraint, Flag, Number, Registered, check_fields
from sae_lens_poly.errors import InputError

#: Architecture to the config of PolySAE's published form of it.
PUBLISHED: dict[str, Any] = {}


@dataclass(frozen=True)
class PolynomialDefaults:
    """What takes the place of fields that are not given."""

    degree: int = 3
    rank_2: int = 32
    rank_3: int = 32
    terms_lr_scale: float = 1.0
    """That of interactions of degree 2; all else has 1."""


@dataclass(kw_only=True)
class PolynomialFields:
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
        projection (str): What interactions go through: ``codes`` (V) or ``reconstruction`` (P).
        degree (int | None): 1, 2 or 3; None: 2 for crosscoders without a ``rank_3``, else 3.
        rank_2 (int | None): Rank of the term of degree 2; None: 32 for SAEs, 256 for crosscoders,
            or the most there can be.
        rank_3 (int | None): Rank of the term of degree 3; None: 32 for SAEs, 64 for crosscoders.
        self_terms (bool): Whether powers of a single latent are kept beside the products.
        code_limit (float | None): Bound on what is raised to a power, in units of its root mean
            square on the first batch: on the norm of the projected code, or on each latent of
            ``powers``. None: none.
        homogeneous (bool): Whether a term of degree i is divided by the (i - 1)th power of the
            size of the code on its token (the root mean square of what is raised to a power), so
            that terms grow in proportion to the code; there is no bound then, and pairs of
            latents have no strength of their own.
        terms_lr_scale (float | None): How many times as fast as by a scale of 1 the output factors
            of the terms above degree 1 learn. None: 16 for interactions of degree 2 in crosscoders,
            else 1 (benchmarks/heavy_tail.py); 1 for what was saved without it.
    """

    decoder: str = "interactions"
    projection: str = "codes"
    degree: int | None = None
    rank_2: int | None = None
    rank_3: int | None = None
    self_terms: bool = True
    code_limit: float | None = CODE_LIMIT
    homogeneous: bool = False
    terms_lr_scale: float | None = None

    #: What is not given, and the degrees that the architecture takes.
    DEFAULTS: ClassVar[PolynomialDefaults] = PolynomialDefaults()
    DEGREES: ClassVar[tuple[int, ...]] = (1, 2, 3)

    CONSTRAINTS: ClassVar[dict[str, Constraint]] = {
        "decoder": Registered(lambda: sorted({kind.split("/")[0] for kind in TERMS})),
        "degree": Number(at_least=1, at_most=3, whole=True, optional=True),
        "rank_2": Number(at_least=1, whole=True, optional=True),
        "rank_3": Number(at_least=1, whole=True, optional=True),
        "self_terms": Flag(),
        "code_limit": Number(above=0, optional=True),
        "homogeneous": Flag(),
        "terms_lr_scale": Number(above=0, optional=True),
    }

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any]) -> Any:
        """A config from what was saved, which in older files may be of PolySAE's published form."""
        if config_dict.get("projection") == "shared_u":
            published = PUBLISHED.get(config_dict["architecture"])
            if published is not None:
                return published.from_dict(
                    {**config_dict, "architecture": published.architecture()}
                )
            config_dict = {**config_dict, "projection": "codes"}  # as the weights will be
        degree = config_dict.get("degree")
        if degree is not None and "metadata" in config_dict:
            # Was saved, maybe with ranks of terms that are not there.
            above = {f"rank_{d}": None for d in (2, 3) if d > degree}
            config_dict = {"terms_lr_scale": 1.0, **config_dict, **above}
        return super().from_dict(config_dict)  # type: ignore[misc]

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[misc]
        self.check_polynomial()
        if isinstance(self, TrainingSAEConfig):
            check_training_dtype(self)
            if not TERMS[self.kind_of_term].trains:
                raise InputError(
                    f"projection={self.projection!r} is for inference with files of PolySAE's "
                    "code: train with 'codes' or 'reconstruction'"
                )

    def ranks(self) -> dict[int, int]:
        """Degree to rank, for the degrees above 1 that are in use."""
        ranks = {2: self.rank_2, 3: self.rank_3}
        return {d: r for d, r in ranks.items() if r is not None and d <= (self.degree or 0)}

    @property
    def kind_of_term(self) -> str:
        """The name of the decoder's class in :data:`TERMS`."""
        with_projection = f"{self.decoder}/{self.projection}"
        return with_projection if with_projection in TERMS else self.decoder

    def check_polynomial(self) -> None:
        """Refuse decoders that cannot be built, and fill in what was not given.

        Raises:
            InputError: Naming the field, its value and the remedy.
        """
        check_fields(self, PolynomialFields.CONSTRAINTS)
        cfg: Any = self
        if self.projection == "shared_u":
            raise InputError(
                "projection='shared_u' is PolySAE's published form, which has architectures of "
                "its own: take 'polysae_topk', 'polysae_batchtopk' or "
                "'polysae_matryoshka_batchtopk', or projection='codes'"
            )
        if self.kind_of_term not in TERMS:
            known = [kind.split("/")[1] for kind in TERMS if kind.startswith(self.decoder + "/")]
            raise InputError(
                f"projection={self.projection!r} is unknown: choose {', '.join(sorted(known))}"
            )
        if self.degree is None:
            self.degree = self.DEFAULTS.degree if self.rank_3 is None else 3
        if self.degree not in self.DEGREES:
            raise InputError(
                "degree=1 is not available: choose 2 or 3 (for degree 1 take "
                "architecture='crosscoder')"
            )
        if self.decoder == "powers" and not self.self_terms:
            raise InputError(
                "decoder='powers' has only self-terms, but self_terms=False: take "
                "decoder='interactions', or leave the field out"
            )
        if self.terms_lr_scale is None:
            # Without it, what is for inference was saved before the field was there.
            faster = isinstance(self, TrainingSAEConfig)
            faster &= self.decoder == "interactions" and self.degree == 2
            self.terms_lr_scale = self.DEFAULTS.terms_lr_scale if faster else 1.0
        most = TERMS[self.kind_of_term].most_rank(cfg.d_in, cfg.d_sae)
        for degree in (2, 3):
            rank = getattr(self, f"rank_{degree}")
            if degree > self.degree:
                if rank is not None and isinstance(self, TrainingSAEConfig):
                    raise InputError(
                        f"rank_{degree}={rank} is that of a term of degree {degree}, but "
                        f"degree={self.degree}: give degree={degree}, or leave rank_{degree} out"
                    )
            elif rank is None:
                rank = getattr(self.DEFAULTS, f"rank_{degree}")
                setattr(self, f"rank_{degree}", min(rank, most))
            elif rank > most:
                raise InputError(
                    f"rank_{degree}={rank} must be at most {most} for decoder={self.decoder!r} "
                    f"with projection={self.projection!r}, d_in={cfg.d_in} and "
                    f"d_sae={cfg.d_sae}: lower it"
                )

    def make_term(self, dtype: torch.dtype, device: torch.device) -> Term | None:
        """The module that computes the terms above degree 1; None where there are none."""
        if self.degree == 1:
            return None
        with drawing_aside(device):
            return TERMS[self.kind_of_term].from_config(self, dtype, device)
