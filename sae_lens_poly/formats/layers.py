"""A crosscoder of this package as latents of each layer, for formats with a file for each."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from sae_lens.saes.sae import SAE

from sae_lens_poly.architectures.crosscoders.crosscoder import Crosscoder
from sae_lens_poly.errors import InputError

_HOOK = re.compile(r"blocks\.(\d+)\.(\S+)")

_FIT = (
    "give each latent one hook point to read and those of the same or later layers to write "
    "(structure='weakly_causal', or 'free' with reads and writes)"
)


@dataclass
class Layer:
    """Latents that read one layer."""

    W_enc: torch.Tensor
    """Shape (F, d)."""
    b_enc: torch.Tensor
    """Shape (F,)."""
    threshold: torch.Tensor
    """Shape (F,)."""
    W_dec: torch.Tensor
    """What they write, (F, L, d); 0 in layers before theirs."""
    b_dec: torch.Tensor
    """Shape (d,)."""
    W_skip: torch.Tensor | None = None
    """What the activations are multiplied with to be added, (d, d); None: nothing."""


@dataclass
class Layers:
    """All layers, and what hook points of them are read and written."""

    layers: list[Layer]
    read: str
    """The name without its layer, ``hook_resid_mid``."""
    written: str


@torch.no_grad()
def layers_of(sae: SAE[Any], what: str) -> Layers:
    """Take a dictionary apart into the latents of each layer.

    Args:
        sae: A dictionary of this package.
        what: What it is to become, for the message.

    Raises:
        InputError: If it is no function of that form, with what to change.
    """
    if not isinstance(sae, Crosscoder) or sae.polynomial is not None:
        raise InputError(
            f"architecture={sae.cfg.architecture()!r}: {what} has linear decoders and inputs and "
            "outputs of layers: take an inference crosscoder (architecture 'crosscoder')"
        )
    cfg = sae.cfg
    if cfg.encoder_score != "inner_product":
        raise InputError(
            f"encoder_score={cfg.encoder_score!r}: {what} has pre-activations x W_enc + b_enc: "
            "take a crosscoder with 'inner_product'"
        )
    if cfg.select_k is not None:
        raise InputError(
            f"select_k={cfg.select_k}: {what} has a threshold for each latent, and this crosscoder "
            "keeps the highest of each token: train it with 'batchtopk' or 'jumprelu'"
        )
    names = list(cfg.metadata.hook_names or [])
    read, written = _read_and_written(sae, names, what)
    n_layers = len(read)
    shift = torch.zeros_like(sae.b_enc)
    if cfg.apply_b_dec_to_input:
        shift = sae.encoder_weights.read(sae.b_dec)
    layers = []
    for layer, hook in enumerate(read):
        latents = [
            torch.arange(group.start, group.stop, device=sae.device)
            for group in sae.structure.groups
            if group.reads == (hook,)
        ]
        chosen = torch.cat(latents)
        rows = sae.per_hook(sae.decoder_weights.vectors(chosen))
        layers.append(
            Layer(
                W_enc=sae.per_hook(sae.encoder_weights.vectors(chosen))[:, hook].contiguous(),
                b_enc=sae.b_enc[chosen] - shift[chosen],
                threshold=sae.threshold[chosen].clamp_min(0),
                W_dec=rows[:, written].contiguous(),
                b_dec=sae.per_hook(sae.b_dec)[written[layer]].clone(),
            )
        )
    counts = {len(layer.b_enc) for layer in layers}
    if len(counts) > 1:
        raise InputError(
            f"d_sae={cfg.d_sae}: layers have {min(counts)} to {max(counts)} latents, and {what} "
            f"has as many in each: take a multiple of {n_layers}"
        )
    for (source, target), matrix in zip(sae.skip_pairs, sae.skips, strict=True):
        if (
            source not in read
            or target not in written
            or read.index(source) != written.index(target)
        ):
            raise InputError(f"skips={cfg.skips!r}: {what} has skips within a layer alone")
        layers[read.index(source)].W_skip = matrix
    return Layers(layers, _kind(names, read), _kind(names, written))


def _read_and_written(sae: Crosscoder, names: list[str], what: str) -> tuple[list[int], list[int]]:
    """Numbers of the hook points that are read, layer by layer, and of those that are written."""
    groups = sae.structure.groups
    for group in groups:
        if len(group.reads) != 1:
            raise InputError(
                f"latent {group.start} reads {len(group.reads)} hook points, and one of {what} "
                f"reads one: {_FIT}"
            )
    read = sorted({group.reads[0] for group in groups})
    written = sorted({hook for group in groups for hook in group.writes})
    if names:
        layers = [_layer(name, what) for name in names]
        read.sort(key=layers.__getitem__)
        written.sort(key=layers.__getitem__)
        for hooks in (read, written):
            if [layers[hook] for hook in hooks] != list(range(len(hooks))):
                found = ", ".join(names[hook] for hook in hooks)
                raise InputError(
                    f"hook_names: {what} has all layers of a model from 0 on, and this crosscoder "
                    f"has {found}"
                )
    if len(read) != len(written):
        raise InputError(
            f"the crosscoder reads {len(read)} hook points and writes {len(written)}, and {what} "
            "reads and writes each layer once"
        )
    for group in groups:
        layer = read.index(group.reads[0])
        if min(written.index(hook) for hook in group.writes) < layer:
            raise InputError(
                f"latent {group.start} reads layer {layer} and writes one before it, which {what} "
                f"cannot: {_FIT}"
            )
    return read, written


def _layer(name: str, what: str) -> int:
    match = _HOOK.fullmatch(name)
    if match is None:
        raise InputError(
            f"hook point {name!r} belongs to no layer of a TransformerLens model, and those of "
            f"{what} do"
        )
    return int(match[1])


def _kind(names: list[str], hooks: list[int]) -> str:
    """The name that the hook points share, without their layers.

    Raises:
        InputError: If there are none, or they differ.
    """
    kinds = {match[2] for hook in hooks if names and (match := _HOOK.fullmatch(names[hook]))}
    if len(kinds) != 1:
        raise InputError(
            f"metadata.hook_names={names}: the hook points of all layers must have one name, as in "
            "'blocks.0.hook_resid_mid' and 'blocks.1.hook_resid_mid'"
        )
    return kinds.pop()
