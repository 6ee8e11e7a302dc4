"""Which layers of a model have a recurrent state that can be reached, and how."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from sae_lens_poly.errors import InputError
from sae_lens_poly.recurrent_states.gated_deltanet import DeltaInputs, Scanned, scan
from sae_lens_poly.recurrent_states.layer_inputs import captured_modules, inputs_of

#: Model types of transformers with Gated DeltaNet layers.
SUPPORTED = (
    "qwen3_next",
    "qwen3_5",
    "qwen3_5_text",
    "qwen3_5_moe",
    "qwen3_5_moe_text",
    "olmo_hybrid",
)

#: Model types whose state is not reached, and why.
REFUSED = {
    "rwkv": "its kernel keeps a state of vectors, not of matrices",
    "mamba2": "its kernel does not hand out the state of each position",
    "falcon_h1": "its kernel does not hand out the state of each position",
    "kimi_linear": "its decay is a vector for each key, and the scan here has one number",
}

#: A layer's number, the inputs of its recurrence, and its own read-outs (batch, pos, n_heads, d_v)
#: to the read-outs that take their place; None: they stay.
AtLayer = Callable[[int, DeltaInputs, torch.Tensor], torch.Tensor | None]

# How far the read-outs of a layer may be from those of the scan here, in parts of their norm:
# kernels in bfloat16 are off by half a percent.
_SAME_READ_OUT = 0.05


def delta_layers(model: nn.Module) -> dict[int, nn.Module]:
    """The layers of a transformers model with a Gated DeltaNet state, by number.

    Raises:
        InputError: If the state of this kind of model cannot be reached; it names the reason.
    """
    return {number: layer for number, (_, layer) in named_delta_layers(model).items()}


def named_delta_layers(model: nn.Module) -> dict[int, tuple[str, nn.Module]]:
    """The same with the names of the modules."""
    kind = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
    if kind not in SUPPORTED:
        reason = REFUSED.get(kind, "it has no recurrent state of matrices that is known here")
        raise InputError(
            f"the recurrent state of model_type={kind!r} cannot be reached: {reason}. Known are "
            f"{', '.join(SUPPORTED)}"
        )
    layers = {}
    for name, module in model.named_modules():
        if name.endswith("linear_attn") and hasattr(module, "A_log"):
            layers[int(name.split(".")[-2])] = name, module
    return layers


def state_shape(layer: Any) -> tuple[int, int, int]:
    """Number of heads of a layer's state, and d_k and d_v of each."""
    return layer.num_v_heads, layer.head_k_dim, layer.head_v_dim


def reach_layer(
    number: int, layer: nn.Module, at_layer: AtLayer, wanted: Callable[[], bool] = lambda: True
) -> list[Any]:
    """Call a function in each forward pass, once the layer has its read-outs.

    By hooks of torch on the layer's modules: those on its projections see what the recurrence is
    made of, and one before its norm sees the read-outs, and may replace them. Nothing of
    transformers is replaced, whichever kernel a version has.

    Args:
        number: Of the layer.
        layer: As :func:`delta_layers` gives it.
        at_layer: The function.
        wanted: Whether a forward pass needs it.

    Returns:
        Handles, by which the hooks are removed.
    """
    seen: dict[str, torch.Tensor] = {}

    def after(name: str, module: nn.Module, args: Any, output: Any) -> None:
        if wanted():
            seen[name] = output[0] if isinstance(output, tuple) else output

    def before_norm(module: nn.Module, args: Any) -> Any:
        if not seen:
            return None
        inputs = inputs_of(layer, seen)
        seen.clear()
        own = args[0]
        new = at_layer(number, inputs, own.reshape(inputs.v.shape))
        return None if new is None else (new.to(own.dtype).reshape(own.shape), *args[1:])

    handles = [
        module.register_forward_hook(partial(after, name))
        for name, module in captured_modules(layer).items()
    ]
    norm = layer.o_norm if hasattr(layer, "o_norm") else layer.norm
    assert isinstance(norm, nn.Module)
    return [*handles, norm.register_forward_pre_hook(before_norm)]


@contextmanager
def reached(model: nn.Module, layers: Iterable[int], at_layer: AtLayer) -> Generator[None]:
    """Call a function at some layers of each forward pass, for as long as the block lasts.

    Args:
        model: A transformers model.
        layers: Numbers of its layers.
        at_layer: The function; see :func:`reach_layer`.

    Raises:
        InputError: If a layer has no state that can be reached.
    """
    known, asked = delta_layers(model), set(layers)
    if not asked <= set(known):
        raise InputError(
            f"layers {sorted(asked - set(known))} have no recurrent state: choose of {list(known)}"
        )
    handles: list[Any] = []
    try:
        for number in sorted(asked):
            handles += reach_layer(number, known[number], at_layer)
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def scanned_layers(
    model: nn.Module, tokens: torch.Tensor, layers: Iterable[int]
) -> dict[int, tuple[DeltaInputs, Scanned]]:
    """Inputs and results of the recurrence of some layers, in a run of the model on a text.

    Args:
        model: A transformers model.
        tokens: Shape (batch, pos).
        layers: Numbers of its layers.

    Raises:
        InputError: If a layer has no state that can be reached.
    """
    found: dict[int, tuple[DeltaInputs, Scanned]] = {}

    def look(number: int, inputs: DeltaInputs, own: torch.Tensor) -> None:
        found[number] = inputs, scan(inputs)
        check_read_out(number, found[number][1].out, own)

    with reached(model, layers, look):
        model(tokens, use_cache=False)
    return found


def check_read_out(number: int, mine: torch.Tensor, own: torch.Tensor) -> None:
    """Refuse a layer that does not compute what the scan here does.

    Raises:
        InputError: If the read-outs differ by more than kernels of low precision do.
    """
    own = own.to(mine.dtype)
    if (mine - own).norm() > _SAME_READ_OUT * own.norm():
        raise InputError(
            f"the read-out of layer {number} is not what its recurrence gives for this text: give "
            "the whole text in one run, without a cache; if it was, this version of transformers "
            "computes the layer in another way"
        )
