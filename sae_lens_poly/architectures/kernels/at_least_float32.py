"""Modules that do not follow the dictionary into half precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


def at_least_float32(x: torch.Tensor) -> torch.Tensor:
    """A tensor in float32, or in the wider dtype that it has."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class AtLeastFloat32(nn.Module):
    """A module whose own tensors stay in float32 when the dictionary is cast to a narrower dtype.

    For running estimates (steps of 1% of a value round away in bfloat16) and for orthonormal
    projections (QR has no half-precision kernel, and a rounded one is orthonormal to 1e-2 only).
    Moves between devices, and casts to float64, are followed.
    """

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> AtLeastFloat32:
        def keep_precision(tensor: torch.Tensor) -> torch.Tensor:
            moved = fn(tensor)
            if not moved.is_floating_point() or moved.dtype.itemsize >= 4:
                return moved
            return tensor.to(moved.device)

        return super()._apply(keep_precision, recurse)
