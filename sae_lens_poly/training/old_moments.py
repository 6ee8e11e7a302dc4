"""Adam's state in checkpoints of version 0.1.0, whose encoders had latents as columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from sae_lens.constants import SAE_CFG_FILENAME
from sae_lens.saes.sae import TrainingSAE

from sae_lens_poly.architectures.weights import Dense, Grouped
from sae_lens_poly.errors import InputError
from sae_lens_poly.read_files import read_object

_MOMENTS = ("exp_avg", "exp_avg_sq")


def transpose_old_moments_(
    moments: dict[int, Any], sae: TrainingSAE[Any], checkpoint: str | Path
) -> None:
    """Lay the moments of a crosscoder's dense encoder as its weight lies today, in place.

    Args:
        moments: An optimiser's state by the number of the parameter.
        sae: The dictionary whose parameters they are.
        checkpoint: The folder that they come from.

    Raises:
        InputError: If the encoder is in blocks, of which that version had no state.
    """
    encoder = getattr(sae, "encoder_weights", None)
    if not isinstance(encoder, Dense | Grouped) or not is_of_0_1_0(Path(checkpoint)):
        return
    if isinstance(encoder, Grouped):
        raise InputError(
            f"resume_from_checkpoint={str(checkpoint)!r} is of version 0.1.0, which kept Adam's "
            "state of whole matrices where blocks are kept today: export it, or resume with "
            "sae-lens-poly 0.1.0"
        )
    (number,) = (i for i, weight in enumerate(sae.parameters()) if weight is encoder.W)
    entry = moments.get(number)
    if not isinstance(entry, dict):
        return
    for name in _MOMENTS:
        if isinstance(entry.get(name), torch.Tensor):
            entry[name] = entry[name].T.contiguous()


def is_of_0_1_0(checkpoint: Path) -> bool:
    """Whether a crosscoder's checkpoint is of version 0.1.0, by a field that it did not have."""
    return "encoder_score" not in read_object(checkpoint / SAE_CFG_FILENAME)
