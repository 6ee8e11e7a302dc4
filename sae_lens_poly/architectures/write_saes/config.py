"""The fields of WriteSAE: a crosscoder whose decoder's latents are matrices of low rank."""

# No "from __future__ import annotations" here: SAELens' command line reads the types of fields.

from dataclasses import dataclass
from typing import ClassVar, Literal

from typing_extensions import override

from sae_lens_poly.architectures.crosscoders.atom_upkeep import AtomUpkeep
from sae_lens_poly.architectures.crosscoders.config import (
    CrosscoderConfig,
    TrainingCrosscoderConfig,
)
from sae_lens_poly.architectures.crosscoders.start import stack_norm_of
from sae_lens_poly.constraints import Choice, Constraint, Number, check_fields
from sae_lens_poly.errors import InputError


@dataclass(kw_only=True)
class WriteSAEConfig(CrosscoderConfig):
    """Configuration of a WriteSAE at inference; see :class:`TrainingWriteSAEConfig`.

    Args:
        d_k (int): Number of rows of a state.
        rank (int): Rank of the matrices.
    """

    d_k: int = 1
    rank: int = 1

    @override
    @classmethod
    def architecture(cls) -> str:
        return "write_sae"


@dataclass(kw_only=True)
class TrainingWriteSAEConfig(TrainingCrosscoderConfig):
    """Configuration for training a WriteSAE (arXiv 2605.12770) on recurrent states.

    The fields of :class:`TrainingCrosscoderConfig`; ``d_in`` is ``d_k * d_v`` (times the number of
    cells, which are its hook points), and states lie row by row. ``encoder_weights``,
    ``decoder_weights`` and their ranks follow from these fields:

    Args:
        d_k (int): Number of rows of a state: the width of a key. The command line fills it in.
        rank (int): Rank r of a latent's matrix ``sum_r v_ir w_ir^T``.
        encoder (str): ``bilinear``: a latent reads ``sum_r V_ir^T S W_ir`` with vectors of its own.
            ``tied``: with those of its decoder, which are the same parameters while training.
            ``dense``: it reads every entry by a weight of its own. (The paper has all three.)
        aux_k (str): ``sae_lens``: AuxK as SAELens has it. ``write_sae``: as the authors' code does,
            where scores that are not positive write nothing, the bias is added although the
            residual is without it, and ``k_aux`` is 256.
        renormalise_every (int): Every so many steps, all atoms get the norm that they started
            with. 0: never.
        revive_every (int): Every so many steps, each dead latent gets the leading singular vectors
            of a state that is drawn in proportion to its error. 0: never.
    """

    d_k: int = 1
    rank: int = 1
    encoder: Literal["bilinear", "tied", "dense"] = "bilinear"
    aux_k: Literal["sae_lens", "write_sae"] = "sae_lens"
    renormalise_every: int = 0
    revive_every: int = 0
    sparsifier: str = "topk"
    apply_b_dec_to_input: bool = False

    #: What the fields may be.
    WRITE_SAE_CONSTRAINTS: ClassVar[dict[str, Constraint]] = {
        "d_k": Number(at_least=1, whole=True),
        "rank": Number(at_least=1, whole=True),
        "encoder": Choice("bilinear", "tied", "dense"),
        "aux_k": Choice("sae_lens", "write_sae"),
        "renormalise_every": Number(at_least=0, whole=True),
        "revive_every": Number(at_least=0, whole=True),
    }

    @override
    @classmethod
    def architecture(cls) -> str:
        return "write_sae"

    @property
    @override
    def ties_encoder(self) -> bool:
        return self.encoder == "tied"

    @property
    @override
    def aux_k_is_published(self) -> bool:
        return self.aux_k == "write_sae"

    @override
    def make_upkeep(self) -> AtomUpkeep | None:
        if not (self.renormalise_every or self.revive_every):
            return None
        return AtomUpkeep(self.renormalise_every, self.revive_every, stack_norm_of(self))

    @override
    def __post_init__(self) -> None:
        check_fields(self, self.WRITE_SAE_CONSTRAINTS)
        matrix = [self.d_k, self.rank]
        bilinear = self.encoder != "dense"
        forms = {"encoder": "matrix" if bilinear else "dense", "decoder": "matrix"}
        for part, form in forms.items():
            given = getattr(self, f"{part}_weights")
            if given not in ("dense", form):
                raise InputError(
                    f"{part}_weights={given!r} is not a choice of 'write_sae', whose {part} is "
                    f"{form!r}: leave it out, or take the architecture 'crosscoder'"
                )
        self.decoder_weights, self.decoder_ranks = forms["decoder"], matrix
        self.encoder_weights = forms["encoder"]
        self.encoder_ranks = list(matrix) if bilinear else []
        super().__post_init__()
