"""Which layers of a model have a recurrent state that can be reached, and how."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from sae_lens_poly.errors import InputError
from sae_lens_poly.recurrent_states.gated_deltanet import DeltaInputs, Scanned, scan

#: Model types of transformers with Gated DeltaNet layers.
SUPPORTED = ("qwen3_next", "qwen3_5", "qwen3_5_text", "olmo_hybrid")

#: Model types whose state is not reached, and why.
REFUSED = {
    "rwkv": "its kernel keeps a state of vectors, not of matrices",
    "mamba2": "its kernel does not hand out the state of each position: load it by TransformerLens",
    "falcon_h1": "its kernel does not hand out the state of each position",
    "kimi_linear": "its decay is a vector for each key, and the scan here has one number",
}

#: Layer number and inputs to what the layer's recurrence gives.
RunScan = Callable[[int, DeltaInputs, torch.Tensor | None], Scanned]

_KERNELS = ("torch_chunk_gated_delta_rule", "chunk_gated_delta_rule")


def delta_layers(model: nn.Module) -> dict[int, nn.Module]:
    """The layers of a transformers model with a Gated DeltaNet state, by number.

    Raises:
        InputError: If the state of this kind of model cannot be reached; it names the reason.
    """
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
            layers[int(name.split(".")[-2])] = module
    return layers


@contextmanager
def replaced_scan(
    model: nn.Module, layers: set[int], run: RunScan | None = None
) -> Generator[dict[int, tuple[DeltaInputs, Scanned]]]:
    """Let some layers run the recurrence position by position, for as long as the block lasts.

    transformers has its kernel as an attribute of the layer, or, from 5.15 on, as a function of
    the module that the layer's class is in; either is put back at the end. Kernels are called
    in one forward pass over a whole text; a text that is generated token by token takes another.

    Args:
        model: A transformers model.
        layers: Numbers of its layers.
        run: What they run in place of :func:`scan`.

    Yields:
        Inputs and results of these layers, filled in by a forward pass.

    Raises:
        InputError: If a layer has no state that can be reached.
    """
    known = delta_layers(model)
    if not layers <= set(known):
        raise InputError(
            f"layers {sorted(layers - set(known))} have no recurrent state: choose of {list(known)}"
        )
    seen: dict[int, tuple[DeltaInputs, Scanned]] = {}
    running: list[int] = []

    def kernel(original: Any) -> Any:
        def replacement(q: Any, k: Any, v: Any, *args: Any, **kwargs: Any) -> Any:
            if not running or running[-1] not in layers:
                return original(q, k, v, *args, **kwargs)
            g, beta = args[:2] if len(args) >= 2 else (kwargs["g"], kwargs["beta"])
            normalise = kwargs.get("use_qk_l2norm_in_kernel", False)
            inputs = DeltaInputs.of_kernel(q, k, v, g, beta, normalise)
            initial = kwargs.get("initial_state")
            number = running[-1]
            scanned = scan(inputs, initial) if run is None else run(number, inputs, initial)
            seen[number] = inputs, scanned
            last = scanned.states[:, -1] if kwargs.get("output_final_state") else None
            return scanned.out.to(q.dtype), last

        return replacement

    def left(*_: Any) -> None:
        running.pop()

    handles, put_back = [], []
    for number, layer in known.items():
        handles.append(layer.register_forward_pre_hook(lambda *_, n=number: running.append(n)))
        handles.append(layer.register_forward_hook(left))
    places = [layer for n, layer in known.items() if n in layers] + [
        sys.modules[type(layer).__module__] for n, layer in known.items() if n in layers
    ]
    try:
        for place in dict.fromkeys(places):
            for name in _KERNELS:
                if name in vars(place) and callable(vars(place)[name]):
                    put_back.append((place, name, vars(place)[name]))
                    setattr(place, name, kernel(vars(place)[name]))
        yield seen
    finally:
        for place, name, original in put_back:
            setattr(place, name, original)
        for handle in handles:
            handle.remove()
