"""circuit-tracer's cross-layer transcoders (``mntss/clt-*``): two files for each layer.

``W_enc_{i}.safetensors`` and ``W_dec_{i}.safetensors``, which latents of layer i write layers i to
L - 1 with; ``config.yaml`` names the hook points.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import yaml
from sae_lens.saes.sae import SAE
from safetensors.torch import save_file
from typing_extensions import TypedDict

from sae_lens_poly.errors import InputError
from sae_lens_poly.formats.base import Format, ReadingOptions, refuse
from sae_lens_poly.formats.dictionary import Block, PublicDictionary
from sae_lens_poly.formats.files import Files
from sae_lens_poly.formats.layers import Layers, layers_of
from sae_lens_poly.formats.tensors import Sizes, TensorFile
from sae_lens_poly.read_files import check_json, damaged, read_yaml

CONFIG, _KIND = "config.yaml", "cross_layer_transcoder"
_ENCODER, _DECODER = "W_enc_{}.safetensors", "W_dec_{}.safetensors"


class TracerConfig(TypedDict, total=False):
    """What ``config.yaml`` says; further fields are of no matter here."""

    model_name: str
    model_kind: str
    feature_input_hook: str
    feature_output_hook: str
    activation: str
    k: int


def read_tracer_config(files: Files, kind: str) -> TracerConfig:
    """The fields of ``config.yaml``, if there is one.

    Raises:
        InputError: If they are of another kind of dictionary.
    """
    if CONFIG not in files:
        return {}
    path = files.path(CONFIG)
    config: TracerConfig = check_json(json.dumps(read_yaml(path), default=str), TracerConfig, path)
    if config.get("model_kind", kind) != kind:
        raise damaged(path, f"model_kind={config['model_kind']!r}, and the files are a {kind}")
    return config


def tracer_hooks(config: TracerConfig, n_layers: int) -> list[str]:
    """Inputs of all layers, then outputs, as TransformerLens names them."""
    read = config.get("feature_input_hook", "hook_resid_mid")
    write = config.get("feature_output_hook", "hook_mlp_out")
    return [f"blocks.{layer}.{name}" for name in (read, write) for layer in range(n_layers)]


def require_not_negative(threshold: torch.Tensor, what: str) -> torch.Tensor:
    """Refuse thresholds below zero, which let negative pre-activations pass where there is no ReLU.

    Raises:
        InputError: Saying how many there are.
    """
    n_negative = int((threshold < 0).sum())
    if n_negative:
        raise refuse(
            what,
            f"{n_negative} thresholds are below 0, which let negative codes pass",
            "a crosscoder of this package has none, so it cannot be converted",
        )
    return threshold


class CircuitTracerCLT(Format, name="circuit_tracer_clt"):
    """Hook points: the inputs of all layers, then their outputs."""

    @staticmethod
    def recognises(files: Files) -> bool:
        return _ENCODER.format(0) in files

    @staticmethod
    def read(files: Files, options: ReadingOptions) -> PublicDictionary:
        config = read_tracer_config(files, _KIND)
        n_layers, sizes = len(files.numbered(_ENCODER)), Sizes()
        n_decoders = len(files.numbered(_DECODER))
        if n_decoders > n_layers:
            raise damaged(
                files.path(_DECODER.format(0)).parent, f"it has no {_ENCODER.format(n_layers)}"
            )
        blocks, b_dec = [], []
        for i in range(n_layers):
            encoder = TensorFile(files.path(_ENCODER.format(i)), sizes)
            decoder = TensorFile(files.path(_DECODER.format(i)), sizes)
            threshold = None
            if f"threshold_{i}" in encoder:
                threshold = encoder.take(f"threshold_{i}", "F")
                require_not_negative(threshold, f"threshold_{i}")
            blocks.append(
                Block(
                    reads=(i,),
                    writes=tuple(range(n_layers + i, 2 * n_layers)),
                    W_enc=encoder.take(f"W_enc_{i}", "F d").T,
                    W_dec=decoder.take(f"W_dec_{i}", f"F {n_layers - i} d").flatten(1),
                    b_enc=encoder.take(f"b_enc_{i}", "F"),
                    threshold=threshold,
                )
            )
            b_dec.append(encoder.take(f"b_dec_{i}", "d"))
            encoder.close()
            decoder.close()
        inputs = [torch.zeros_like(b_dec[0])] * n_layers
        return PublicDictionary(
            torch.stack([*inputs, *b_dec]),
            blocks,
            tracer_hooks(config, n_layers),
            config.get("model_name"),
        )

    @staticmethod
    def write(sae: SAE[Any], folder: Path) -> None:
        """Latent ``i F + j`` of a dictionary whose latents stand layer by layer is j of layer i.

        Thresholds are always written, so that no reader takes it for one with a ReLU.
        """
        of = layers_of(sae, "a cross-layer transcoder of circuit-tracer")
        for i, layer in enumerate(of.layers):
            if layer.W_skip is not None:
                raise InputError(
                    f"skips={sae.cfg.skips!r}: circuit-tracer reads no skip of a cross-layer "
                    "transcoder: train without, or write circuit_tracer_set if it fits"
                )
            encoder = {"W_enc": layer.W_enc, "b_enc": layer.b_enc, "b_dec": layer.b_dec}
            encoder["threshold"] = layer.threshold
            save_file(_named(encoder, i), folder / _ENCODER.format(i))
            decoder = {"W_dec": layer.W_dec[:, i:].contiguous()}
            save_file(_named(decoder, i), folder / _DECODER.format(i))
        write_tracer_config(sae, of, _KIND, folder)


def write_tracer_config(sae: SAE[Any], of: Layers, kind: str, folder: Path) -> None:
    """Write ``config.yaml`` with what circuit-tracer's loaders read.

    Raises:
        InputError: If the dictionary does not say of which model it is.
    """
    model_name = sae.cfg.metadata.model_name
    if not model_name:
        raise InputError(
            "metadata.model_name is not known, and circuit-tracer loads the model by it: give "
            "--model_name"
        )
    config = {
        "model_name": model_name,
        "model_kind": kind,
        "feature_input_hook": of.read,
        "feature_output_hook": of.written,
    }
    (folder / CONFIG).write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


def _named(tensors: dict[str, torch.Tensor], layer: int) -> dict[str, torch.Tensor]:
    return {f"{name}_{layer}": tensor.detach().cpu() for name, tensor in tensors.items()}
