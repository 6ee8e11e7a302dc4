"""How activations lie on disk: in bfloat16, or in 8 bits with scales."""

from __future__ import annotations

import torch

#: The largest code of 8 bits; -128 is not used, so that codes are symmetric.
_MOST = 127

#: Storage to bytes of a number.
STORAGES = {"bfloat16": 2, "int8": 1}


def bytes_per_token(storage: str, n_hooks: int, d_model: int) -> int:
    """Bytes that a token takes, its scales (float32, one a hook point) included."""
    scales = 4 * n_hooks if storage == "int8" else 0
    return n_hooks * d_model * STORAGES[storage] + scales


def pack(x: torch.Tensor, storage: str) -> dict[str, torch.Tensor]:
    """Tensors to store, from activations (n, n_hooks, d_model).

    In 8 bits, ``x = scale * code``: ``scale`` (n, n_hooks) is the largest size of an entry over
    127, so that an entry is off by at most half of it.
    """
    if storage == "bfloat16":
        return {"x": x.to(torch.bfloat16).contiguous()}
    x = x.float()
    scale = x.abs().amax(dim=-1) / _MOST
    codes = x / scale.clamp_min(torch.finfo(torch.float32).tiny)[..., None]
    return {"x": codes.round().clamp(-_MOST, _MOST).to(torch.int8), "scale": scale}


def unpack(stored: dict[str, torch.Tensor]) -> torch.Tensor:
    """What :func:`pack` was given, (n, n_hooks, d_model), in float32."""
    x = stored["x"].float()
    return x * stored["scale"][..., None] if "scale" in stored else x
