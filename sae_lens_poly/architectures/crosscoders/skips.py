"""Affine skips: what stands at a hook point, times a matrix, is added at another."""

from __future__ import annotations

import re
from typing import Any

import torch
from sae_lens.saes.sae import SAE

from sae_lens_poly.errors import InputError


def parse_skips(skips: str | None, n_hooks: int) -> list[tuple[int, int]]:
    """``"0>2;1>3"`` to [(0, 2), (1, 3)]: numbers of a hook point that is read and one written.

    Raises:
        InputError: If it says something else, or names a hook point that there is not.
    """
    pairs = []
    for part in (skips or "").split(";") if skips else ():
        match = re.fullmatch(r"\s*(\d{1,9})\s*>\s*(\d{1,9})\s*", part)
        if match is None or max(int(match[1]), int(match[2])) >= n_hooks:
            raise InputError(
                f"skips={skips!r}: {part.strip()!r} must be two numbers of hook points below "
                f"n_hooks={n_hooks}, as in '0>2'"
            )
        pairs.append((int(match[1]), int(match[2])))
    return pairs


def decode_from(sae: SAE[Any], feature_acts: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The reconstruction (..., d_in) from codes and, where the dictionary has skips, from ``x``.

    Args:
        sae: Any dictionary.
        feature_acts: Codes (..., d_sae) of ``x``.
        x: Activations (..., d_in).
    """
    if getattr(sae, "skips", None):
        return sae.decode_with_skips(feature_acts, x)
    return sae.decode(feature_acts)


def refuse_skips(sae: SAE[Any], what: str) -> None:
    """Refuse a dictionary with skips where only its codes are at hand.

    Raises:
        InputError: Saying what it cannot be used for.
    """
    if getattr(sae, "skips", None):
        raise InputError(
            f"skips={sae.cfg.skips!r}: {what} from codes alone, and this dictionary also adds what "
            "stands at hook points: use sae.decode_with_skips(codes, x)"
        )
