"""What the recurrence of a layer is made of, from the outputs of the layer's projections.

Layers of transformers differ in how they are projected: Qwen3.5 has one projection for queries,
keys and values, Qwen3-Next one for those and the gate, Olmo Hybrid one for each. After that all of
them do the same: a causal convolution, an activation, and beta and the decay of two numbers.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers.activations import ACT2FN

from sae_lens_poly.errors import InputError
from sae_lens_poly.recurrent_states.gated_deltanet import DeltaInputs

#: Names of a layer's modules whose outputs are needed, by the kind of its projections.
LAYOUTS: dict[str, tuple[str, ...]] = {
    "together": ("in_proj_qkv", "in_proj_b", "in_proj_a"),
    "with_gate": ("in_proj_qkvz", "in_proj_ba"),
    "apart": ("q_proj", "k_proj", "v_proj", "b_proj", "a_proj"),
    # Before transformers 5.15, each has a convolution of its own, whose output is activated.
    "convolved_apart": ("q_conv1d", "k_conv1d", "v_conv1d", "b_proj", "a_proj"),
}


def captured_modules(layer: nn.Module) -> dict[str, nn.Module]:
    """The modules of a layer whose outputs :func:`inputs_of` takes, by name."""
    return {name: getattr(layer, name) for name in LAYOUTS[_layout_of(layer)]}


def _layout_of(layer: nn.Module) -> str:
    for layout in ("convolved_apart", "together", "with_gate", "apart"):
        if all(hasattr(layer, name) for name in LAYOUTS[layout]):
            return layout
    raise InputError(
        f"the recurrent state of {type(layer).__name__} cannot be reached: its projections are "
        "not those that are known here"
    )


def inputs_of(layer: Any, seen: dict[str, torch.Tensor]) -> DeltaInputs:
    """Inputs of the recurrence.

    Args:
        layer: A Gated DeltaNet layer of transformers.
        seen: Outputs of :func:`captured_modules` in one forward pass, (batch, pos, width).
    """
    layout = _layout_of(layer)
    parts = [seen[name] for name in LAYOUTS[layout]]
    if layout == "with_gate":
        q, k, v, _, b, a = layer.fix_query_key_value_ordering(*parts)
        mixed = torch.cat([part.flatten(2) for part in (q, k, v)], dim=-1)
    else:
        *mixed_parts, b, a = parts
        mixed = torch.cat(mixed_parts, dim=-1)
    if layout != "convolved_apart":
        mixed = _convolve(layer, mixed)
    d_k, d_v = layer.head_k_dim, layer.head_v_dim
    widths = [layer.key_dim, layer.key_dim, mixed.shape[-1] - 2 * layer.key_dim]
    q, k, v = (
        part.unflatten(-1, (-1, width))
        for part, width in zip(mixed.split(widths, dim=-1), (d_k, d_k, d_v), strict=True)
    )
    beta = b.sigmoid() * (2 if getattr(layer, "allow_neg_eigval", False) else 1)
    g = -layer.A_log.float().exp() * F.softplus(a.float() + layer.dt_bias)
    return DeltaInputs.of_kernel(q, k, v, g, beta)


def _convolve(layer: Any, mixed: torch.Tensor) -> torch.Tensor:
    """The causal convolution over positions, activated, (batch, pos, width)."""
    conv, n_pos = layer.conv1d, mixed.shape[1]
    convolved = F.conv1d(
        mixed.transpose(1, 2).to(conv.weight.dtype),
        conv.weight,
        conv.bias,
        padding=conv.kernel_size[0] - 1,
        groups=conv.groups,
    )[..., :n_pos]
    return ACT2FN[layer.activation](convolved).to(mixed.dtype).transpose(1, 2)
