"""circuit-tracer's transcoder sets: ``layer_{i}.safetensors``, a transcoder for each layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from sae_lens.saes.sae import SAE
from safetensors.torch import save_file

from sae_lens_poly.errors import InputError
from sae_lens_poly.formats.base import Format, ReadingOptions
from sae_lens_poly.formats.circuit_tracer_clt import (
    read_tracer_config,
    require_not_negative,
    tracer_hooks,
    write_tracer_config,
)
from sae_lens_poly.formats.dictionary import Block, PublicDictionary
from sae_lens_poly.formats.files import Files
from sae_lens_poly.formats.layers import layers_of
from sae_lens_poly.formats.tensors import Sizes, TensorFile
from sae_lens_poly.read_files import damaged

_KIND = "transcoder_set"
LAYER, THRESHOLD, SKIP = "layer_{}.safetensors", "activation_function.threshold", "W_skip"


class CircuitTracerSet(Format, name="circuit_tracer_set"):
    """Hook points: the inputs of all layers, then their outputs.

    Its TopK keeps the k highest pre-activations of a layer, those below zero among them.
    """

    @staticmethod
    def recognises(files: Files) -> bool:
        return LAYER.format(0) in files

    @staticmethod
    def read(files: Files, options: ReadingOptions) -> PublicDictionary:
        config = read_tracer_config(files, _KIND)
        names, sizes = files.numbered(LAYER), Sizes()
        n_layers, blocks, b_dec, skips = len(names), [], [], {}
        ks: set[int | None] = set()
        for i, name in enumerate(names):
            file = TensorFile(files.path(name), sizes)
            W_enc = file.take("W_enc", "F d").T
            blocks.append(
                Block(
                    reads=(i,),
                    writes=(n_layers + i,),
                    W_enc=W_enc,
                    W_dec=file.take("W_dec", "F d"),
                    b_enc=file.take("b_enc", "F"),
                    threshold=_threshold(file),
                )
            )
            b_dec.append(file.take("b_dec", "d"))
            if SKIP in file:  # y += x W_skip^T
                skips[i, n_layers + i] = file.take(SKIP, "d d").T.contiguous()
            ks.add(file.count("k") if "k" in file else config.get("k"))
            file.close()
        if len(ks) > 1:
            raise InputError(f"{files.at!r} has layers of different k, {ks}: ours have one k")
        k = ks.pop()
        if k is not None and not 0 < k <= sizes["F"]:
            raise damaged(files.path(names[0]), f"k={k} of {sizes['F']} latents")
        if k is not None and any(block.threshold is not None for block in blocks):
            raise damaged(files.path(names[0]), "it has both k and thresholds")
        inputs = [torch.zeros_like(b_dec[0])] * n_layers
        return PublicDictionary(
            torch.stack([*inputs, *b_dec]),
            blocks,
            tracer_hooks(config, n_layers),
            config.get("model_name"),
            k,
            n_layers,
            signed=True,
            skips=skips,
        )

    @staticmethod
    def write(sae: SAE[Any], folder: Path) -> None:
        """Latent ``i F + j`` of a dictionary whose latents stand layer by layer is j of layer i."""
        of = layers_of(sae, "a transcoder set of circuit-tracer")
        for i, layer in enumerate(of.layers):
            if bool(layer.W_dec[:, i + 1 :].any()):
                raise InputError(
                    f"latents of layer {i} write later layers, and those of a transcoder set "
                    "write their own: write circuit_tracer_clt"
                )
            tensors = {
                "W_enc": layer.W_enc,
                "W_dec": layer.W_dec[:, i],
                "b_enc": layer.b_enc,
                "b_dec": layer.b_dec,
                THRESHOLD: layer.threshold,
            }
            if layer.W_skip is not None:
                tensors[SKIP] = layer.W_skip.T
            contiguous = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
            save_file(contiguous, folder / LAYER.format(i))
        write_tracer_config(sae, of, _KIND, folder)


def _threshold(file: TensorFile) -> torch.Tensor | None:
    if THRESHOLD not in file:
        return None
    letters = "1 F" if len(file.shapes[THRESHOLD]) == 2 else "F"
    return require_not_negative(file.take(THRESHOLD, letters).flatten(), THRESHOLD)
