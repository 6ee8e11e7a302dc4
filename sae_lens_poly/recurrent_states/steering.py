"""Writes that push a model's predictions towards a token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from sae_lens_poly.errors import InputError
from sae_lens_poly.recurrent_states.direct_path import output_projection
from sae_lens_poly.recurrent_states.interventions import Change, check_position
from sae_lens_poly.recurrent_states.reached_layers import delta_layers, scanned_layers


@torch.no_grad()
def steering_direction(model: Any, layer: int, head: int, token: int) -> torch.Tensor:
    """What a head's read-out would have to hold to raise a token's logit, (d_v,), of norm 1.

    ``W_O[head]^T W_U[token]`` (WriteSAE, arXiv 2605.12770): the direct path alone.

    Args:
        model: A transformers model.
        layer: Number of the layer.
        head: Of its value head.
        token: Number of the token.

    Raises:
        InputError: If the model's states cannot be reached, or there is no such layer, head or
            token.
    """
    layers = delta_layers(model)
    if layer not in layers:
        raise InputError(f"layer={layer} has no recurrent state: choose of {list(layers)}")
    unembedding = model.get_output_embeddings().weight
    module: Any = layers[layer]
    for name, value, n in (
        ("head", head, module.num_v_heads),
        ("token", token, len(unembedding)),
    ):
        if not 0 <= value < n:
            raise InputError(f"{name}={value} is not one of the model's {n}: 0 to {n - 1}")
    per_head = output_projection(module).weight.unflatten(1, (-1, module.head_v_dim))[:, head]
    direction = per_head.T @ unembedding[token]
    return direction / direction.norm().clamp_min(1e-12)


@torch.no_grad()
def steering_writes(
    model: Any,
    tokens: torch.Tensor,
    layer: int,
    head: int,
    positions: Sequence[int],
    direction: torch.Tensor,
    times: float,
) -> list[Change]:
    """Writes that are added at some positions, for :func:`changed_run`.

    Each is ``k w^T`` with the position's own key and the direction w, at ``times`` the norm of
    the write that is there. A head's keys and queries do not depend on its writes.

    Args:
        model: A transformers model.
        tokens: Shape (batch, pos).
        layer: Number of the layer.
        head: Of its value head.
        positions: Of the tokens, consecutive in the paper.
        direction: Shape (d_v,).
        times: In the paper 1.5, 3 and 6.

    Raises:
        InputError: If there is no such position.
    """
    for position in positions:
        check_position(position, tokens)
    inputs, _ = scanned_layers(model, tokens, [layer])[layer]
    w = direction.to(inputs.k)
    return [
        Change(
            layer,
            head,
            position,
            inputs.k[:, position, head, :, None] * w,
            scale="matched",
            adds=True,
            times=times,
        )
        for position in positions
    ]
