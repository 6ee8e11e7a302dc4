"""What a direction in the residual stream does to the logits, by the direct path."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sae_lens_poly.models.stacked_hooks import StackedHooks
from sae_lens_poly.models.stacked_models import StackedModels


@dataclass(frozen=True)
class Unembedding:
    """The last norm and the unembedding of a model, linearised.

    A vector d that is added to the residual stream adds ``gain * d / scale @ weight`` to the
    logits, as long as it is small against what the last norm divides by; later layers, which also
    read it, are left out (direct logit attribution).
    """

    weight: torch.Tensor
    """Shape (d_model, d_vocab)."""
    gain: torch.Tensor
    """What the last norm multiplies by, (d_model,)."""
    scale: float
    """What it divides by, mean over the text."""
    centres: bool
    """Whether it takes the mean off first (LayerNorm does, RMSNorm does not)."""

    def logits(self, directions: torch.Tensor) -> torch.Tensor:
        """Changes of the logits (..., d_vocab), mean 0, of directions (..., d_model)."""
        directions = directions.to(self.weight)
        if self.centres:
            directions = directions - directions.mean(dim=-1, keepdim=True)
        logits = (directions * self.gain / self.scale) @ self.weight
        return logits - logits.mean(dim=-1, keepdim=True)


def unembeddings(model: StackedHooks, tokens: torch.Tensor) -> list[Unembedding | None]:
    """That of the model which each hook point belongs to; None where a model has none.

    Args:
        model: A model, or several, with hook points stacked.
        tokens: Some text (batch, pos), to measure what the last norm divides by.
    """
    if not isinstance(model, StackedModels):
        return [_unembedding_of(model.model, tokens)] * model.n_hooks
    stacks: list[Any] = list(model.stacks)
    return [
        found
        for stack in stacks
        for found in [_unembedding_of(stack.model, tokens)] * stack.n_hooks
    ]


@torch.no_grad()
def _unembedding_of(model: Any, tokens: torch.Tensor) -> Unembedding | None:
    inner: Any = getattr(model, "model", None)  # Hugging Face, in SAELens' HookedProxyLM
    if hasattr(model, "W_U"):
        weight = model.W_U.detach().float()
    elif hasattr(inner, "get_output_embeddings") and inner.get_output_embeddings() is not None:
        weight = inner.get_output_embeddings().weight.detach().float().T
    else:
        return None
    d_model = len(weight)
    norm = getattr(model, "ln_final", None) or _last_norm(inner)
    if norm is None:
        return Unembedding(weight, weight.new_ones(d_model), 1.0, False)
    centres = "rms" not in type(norm).__name__.lower()
    scales = []

    def measure(_: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        x = arguments[0].float()
        x = x - x.mean(dim=-1, keepdim=True) if centres else x
        scales.append(x.square().mean(dim=-1).sqrt().mean())

    handle = norm.register_forward_pre_hook(measure)
    try:
        model(tokens)
    finally:
        handle.remove()
    # A vector of mean 0 and root mean square 1 comes out as the gain (and the bias), whatever
    # the norm calls its weight, and whether it adds 1 to it.
    signs = torch.ones(1, 1, d_model, device=weight.device)
    signs[..., 1::2] = -1
    dtype = next((p.dtype for p in norm.parameters()), torch.float32)
    up, down = (norm(sign * signs.to(dtype)).float() for sign in (1, -1))
    gain = ((up - down) / 2 * signs)[0, 0]
    return Unembedding(weight, gain, torch.stack(scales).mean().item(), centres)


def _last_norm(model: nn.Module | None) -> nn.Module | None:
    """The norm that belongs to no layer, such as ``model.norm`` or ``transformer.ln_f``."""
    if model is None:
        return None
    norms = [(name, m) for name, m in model.named_modules() if "norm" in type(m).__name__.lower()]
    outside = [(name, m) for name, m in norms if not any(p.isdigit() for p in name.split("."))]
    return min(outside, key=lambda entry: entry[0].count("."))[1] if outside else None
