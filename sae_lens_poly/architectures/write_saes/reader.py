"""Reads the ``best.pt`` files of WriteSAE's code (arXiv 2605.12770)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sae_lens_poly.architectures.crosscoders.crosscoder import Crosscoder
from sae_lens_poly.architectures.write_saes.config import WriteSAEConfig
from sae_lens_poly.errors import InputError
from sae_lens_poly.read_files import damaged
from sae_lens_poly.read_tensors import read_torch

#: Our weights to their names: of the bilinear class, the tied one and the one with a dense encoder.
LAYOUTS: tuple[dict[str, str], ...] = (
    {
        "encoder_weights.left": "V_enc",
        "encoder_weights.right": "W_enc",
        "decoder_weights.left": "V_dec",
        "decoder_weights.right": "W_dec",
        "b_enc": "b_enc",
        "b_dec": "bias",
    },
    {
        "encoder_weights.left": "V_dec",
        "encoder_weights.right": "W_dec",
        "decoder_weights.left": "V_dec",
        "decoder_weights.right": "W_dec",
        "b_enc": "b_enc",
        "b_dec": "bias",
    },
    {
        "encoder_weights.W": "encoder.weight",
        "decoder_weights.left": "V",
        "decoder_weights.right": "W",
        "b_enc": "encoder.bias",
        "b_dec": "bias",
    },
)

_WANTED = "a dictionary of WriteSAE's code with model_state_dict and config"


@torch.no_grad()
def load_write_sae(path: str | Path, k: int | None = None) -> Crosscoder:
    """A dictionary for inference from a ``best.pt``, read without running anything in it.

    It keeps the k highest pre-activations of a state where they are positive. The states it takes
    are laid row by row, (..., d_k * d_v), as that code has them: keys are rows.

    Args:
        path: The file.
        k: Number of active latents; None: what the file's config says.

    Raises:
        InputError: If the file is damaged or of another layout, or says no k.
    """
    path = Path(path)
    content = read_torch(path)
    weights = content.get("model_state_dict") if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not all(map(torch.is_tensor, weights.values())):
        raise damaged(path, "no tensors under 'model_state_dict'", f"give {_WANTED}")
    names = next((each for each in LAYOUTS if {*each.values()} <= weights.keys()), None)
    if names is None:
        found = ", ".join(sorted(map(str, weights)))[:150]
        raise InputError(f"{str(path)!r} holds {found}, and that is not {_WANTED}")
    config = content.get("config")
    k = k if k is not None or not isinstance(config, dict) else config.get("k")
    if not isinstance(k, int) or isinstance(k, bool):
        raise InputError(f"{str(path)!r} does not say k: give the number of active latents")
    return _build(path, names, weights, k)


def _build(path: Path, names: dict[str, str], weights: dict[str, Any], k: int) -> Crosscoder:
    right = weights[names["decoder_weights.right"]]
    bias = weights["bias"]
    if bias.ndim != 2 or right.ndim not in (2, 3):
        raise damaged(path, f"bias of shape {tuple(bias.shape)}", f"give {_WANTED}")
    (d_k, d_v), d_sae = bias.shape, len(right)
    rank = right.shape[1] if right.ndim == 3 else 1  # older files have no rank dimension
    bilinear = "encoder_weights.left" in names
    cfg = WriteSAEConfig(
        d_in=d_k * d_v,
        d_sae=d_sae,
        d_k=d_k,
        rank=rank,
        select_k=k,
        apply_b_dec_to_input=False,
        encoder_weights="matrix" if bilinear else "dense",
        encoder_ranks=[d_k, rank] if bilinear else [],
        decoder_weights="matrix",
        decoder_ranks=[d_k, rank],
    )
    sae = Crosscoder(cfg)
    for mine, parameter in sae.named_parameters():
        if mine not in names:
            continue
        theirs = weights[names[mine]]
        if theirs.numel() != parameter.numel() or len(theirs) not in (d_sae, d_k):
            raise damaged(path, f"{names[mine]} has the shape {tuple(theirs.shape)}")
        if not torch.isfinite(theirs).all():
            raise damaged(path, f"{names[mine]} is not finite")
        parameter.copy_(theirs.reshape(parameter.shape))
    return sae
