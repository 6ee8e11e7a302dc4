"""The fields of WriteSAE: a crosscoder whose decoder's latents are matrices of low rank."""

# No "from __future__ import annotations" here: SAELens' command line reads the types of fields.

from dataclasses import dataclass
from typing import Literal

from typing_extensions import override

from sae_lens_poly.architectures.crosscoders.config import (
    CrosscoderConfig,
    TrainingCrosscoderConfig,
)
from sae_lens_poly.constraints import Choice, Number, check_fields
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
            ``dense``: it reads every entry by a weight of its own. (The paper has both.)
    """

    d_k: int = 1
    rank: int = 1
    encoder: Literal["bilinear", "dense"] = "bilinear"
    sparsifier: str = "topk"
    apply_b_dec_to_input: bool = False

    @override
    @classmethod
    def architecture(cls) -> str:
        return "write_sae"

    @override
    def __post_init__(self) -> None:
        whole = Number(at_least=1, whole=True)
        check_fields(self, {"d_k": whole, "rank": whole, "encoder": Choice("bilinear", "dense")})
        matrix = [self.d_k, self.rank]
        bilinear = self.encoder == "bilinear"
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
