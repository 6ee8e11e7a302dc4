"""Adam's step in one pass over memory, where torch would make a dozen."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import Adam


def fuse_(optimizer: Adam) -> None:
    """Have an optimiser on CPU step by torch's fused kernel, from its next step on.

    The same formula, up to rounding. On CPU torch takes it only when asked to, and SAELens' trainer
    does not ask: at the sizes of a crosscoder the step of a loop over tensors takes longer than
    forward and backward together. Elsewhere nothing is changed.

    Args:
        optimizer: SAELens' trainer's, new or with the state of a checkpoint.
    """
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    if not all(_can_be_fused(weight) for weight in weights):
        return
    for group in optimizer.param_groups:
        group["fused"] = True
    optimizer.register_step_pre_hook(_lay_out_alike_)


def _can_be_fused(weight: torch.Tensor) -> bool:
    """Whether the kernel can take a tensor: real numbers on CPU, without gaps in memory."""
    same_layout = torch.empty_like(weight, device="meta").stride() == weight.stride()
    return weight.device.type == "cpu" and weight.is_floating_point() and same_layout


def _lay_out_alike_(optimizer: Any, *_: Any) -> None:
    """Have gradients and moments lie in memory as their weights do.

    The kernel walks through memory, and takes it for granted. A gradient that autograd has made
    does; one that somebody has put in its place, or a moment of a checkpoint, may not.
    """
    for weight, state in optimizer.state.items():
        for name in ("exp_avg", "exp_avg_sq"):
            if name in state:
                state[name] = _as_it_lies(state[name], weight)
    for group in optimizer.param_groups:
        for weight in group["params"]:
            if weight.grad is not None:
                weight.grad = _as_it_lies(weight.grad, weight)


def _as_it_lies(tensor: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """A tensor with the strides of a weight."""
    if tensor.stride() == weight.stride():
        return tensor
    return torch.empty_like(weight).copy_(tensor)
