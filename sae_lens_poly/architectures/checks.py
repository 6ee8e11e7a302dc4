"""Checks that dictionaries of several kinds share."""

from __future__ import annotations

from typing import Any

import torch

from sae_lens_poly.errors import DivergedRun, InputError


def check_training_dtype(cfg: Any) -> None:
    """Refuse to train in float16.

    Raises:
        InputError: Naming the remedy.
    """
    if cfg.dtype in ("float16", "torch.float16"):
        raise InputError(
            "dtype='float16' ends at 65,504, and squared errors and powers do not: train in "
            "'bfloat16' or 'float32'"
        )


def check_matryoshka_widths(widths: list[int], d_sae: int) -> None:
    """Refuse widths that are not nested in each other.

    Raises:
        InputError: Naming the field, its value and the remedy.
    """
    whole = all(isinstance(width, int) and not isinstance(width, bool) for width in widths)
    if not whole or sorted(set(widths)) != widths or widths[:1] < [1] or widths[-1:] > [d_sae]:
        raise InputError(
            f"matryoshka_widths={widths} must be one or more widths, each wider than the one "
            f"before, up to d_sae={d_sae}"
        )


def check_batch(x: torch.Tensor) -> None:
    """Refuse a training batch that no step can be made from.

    Raises:
        InputError: If there are no tokens, or values that are not finite.
    """
    if x.numel() == 0:
        raise InputError(
            f"a training batch of shape {tuple(x.shape)} has no tokens: check the data set and "
            "train_batch_size_tokens"
        )
    finite = torch.isfinite(x)
    if not finite.all():
        n_bad = int((~finite).reshape(-1, x.shape[-1]).any(dim=-1).sum())
        raise InputError(
            f"{n_bad} of {x[..., 0].numel()} tokens in a training batch have NaN or infinite "
            "activations: load the model in a wider dtype, or filter the data set"
        )


def explain_loss(x: torch.Tensor, step: int) -> None:
    """Refuse to step from a loss that is not finite.

    Args:
        x: The batch.
        step: Number of the step, from 0.

    Raises:
        DivergedRun: Unless it is the activations, of which it is an :class:`InputError` then.
    """
    check_batch(x)
    raise DivergedRun(
        f"the loss is not finite at step {step}, though the activations are: the run has diverged; "
        "lower lr, lengthen lr_warm_up_steps, or resume from a checkpoint before it"
    )
