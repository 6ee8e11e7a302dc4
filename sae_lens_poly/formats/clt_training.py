"""EleutherAI's clt-training: a cross-layer transcoder as one folder for each layer.

``layers.{i}.mlp/cfg.json`` and ``sae.safetensors`` with ``W_decs.{t}`` for the t-th layer from its
own. Every source adds its own bias of the target, ``b_decs.{t}``, and its own skip.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch

from sae_lens_poly.errors import InputError
from sae_lens_poly.formats.base import Format, ReadingOptions, refuse
from sae_lens_poly.formats.dictionary import Block, PublicDictionary
from sae_lens_poly.formats.files import Files
from sae_lens_poly.formats.scales import scale_block, unscale
from sae_lens_poly.formats.sparsify import CONFIG, WEIGHTS, SparsifyConfig, n_targets, sparsify_k
from sae_lens_poly.formats.tensors import Sizes, TensorFile
from sae_lens_poly.read_files import damaged, read_json

_FOLDER = re.compile(r"(.*?)(\d{1,4})([^/]*)/sae\.safetensors")

# Options under which the decoders of layers are shared or combined in another way.
_PLAIN = {
    "divide_cross_layer": False,
    "coalesce_topk": "none",
    "per_source_tied": False,
    "secondary_target_tied": False,
}


class _Config(SparsifyConfig, total=False):
    normalize_io: bool
    divide_cross_layer: bool
    coalesce_topk: str
    per_source_tied: bool
    secondary_target_tied: bool


class CltTraining(Format, name="clt_training"):
    """Hook points: the inputs of all layers, then their outputs.

    Of every layer the k highest positive pre-activations are kept.
    """

    @staticmethod
    def recognises(files: Files) -> bool:
        return n_targets(files) > 0

    @staticmethod
    def read(files: Files, options: ReadingOptions) -> PublicDictionary:
        folders, sizes = _folders(files), Sizes()
        n_layers, kept = len(folders), set()
        layers = [
            _Layer(files.below(folder), sizes, n_layers - i) for i, folder in enumerate(folders)
        ]
        reads = torch.tensor([layer.scale("in_norm") for layer in layers], dtype=torch.float64)
        writes = torch.tensor([layer.scale("out_norm") for layer in layers], dtype=torch.float64)
        blocks, skips = [], {}
        b_dec = torch.zeros(n_layers, sizes["d"], dtype=torch.float64)
        for i, layer in enumerate(layers):
            block = Block(
                reads=(i,),
                writes=tuple(range(n_layers + i, 2 * n_layers)),
                W_enc=layer.file.take("encoder.weight", "F d").T,
                W_dec=torch.cat([layer.decoder(t) for t in range(n_layers - i)], dim=1),
                b_enc=layer.file.take("encoder.bias", "F"),
            )
            scale_block(block, reads[i : i + 1], writes[i:])
            blocks.append(block)
            for t in range(n_layers - i):
                b_dec[i + t] += layer.file.take(f"b_decs.{t}", "d").double()
                if f"W_skips.{t}" in layer.file:
                    skip = layer.file.take(f"W_skips.{t}", "d d").T
                    skips[i, n_layers + i + t] = (skip * (reads[i] / writes[i + t])).to(skip.dtype)
            kept.add(sparsify_k(layer.files, layer.config, sizes))
            layer.close()
        if len(kept) > 1:
            raise InputError(f"{files.at!r} has layers of different k, {kept}: ours have one k")
        k, n_groups = kept.pop()
        written = unscale(b_dec.to(blocks[0].b_enc.dtype), writes)
        return PublicDictionary(
            torch.cat([torch.zeros_like(written), written]),
            blocks,
            k=k,
            n_groups=n_groups * n_layers,
            skips=skips,
        )


def _folders(files: Files) -> list[str]:
    """Folders of the layers, ascending."""
    found = [match for name in files.names if (match := _FOLDER.fullmatch(name))]
    if not found:
        raise InputError(
            f"{files.at!r} has one layer of a cross-layer transcoder, or none: give the folder "
            "that has a folder for each"
        )
    found.sort(key=lambda match: int(match[2]))
    for number, match in enumerate(found):
        if int(match[2]) != number:
            raise damaged(Path(files.at), f"it has no {match[1]}{number}{match[3]}")
    return [f"{match[1]}{match[2]}{match[3]}" for match in found]


class _Layer:
    """What the folder of a layer holds, which writes ``n_targets`` layers."""

    def __init__(self, files: Files, sizes: Sizes, n_targets: int) -> None:
        self.files = files
        self.config = read_json(files.path(CONFIG), _Config)
        if self.config.get("n_targets") != n_targets:
            found = self.config.get("n_targets")
            raise damaged(files.path(CONFIG), f"n_targets={found}, and {n_targets} layers follow")
        for field, plain in _PLAIN.items():
            if self.config.get(field, plain) != plain:
                raise refuse(
                    f"{field}={self.config[field]!r} in {str(files.path(CONFIG))!r}",
                    "with it the decoders of several layers are shared or combined",
                    "only dictionaries without it can be converted",
                )
        self.file = TensorFile(files.path(WEIGHTS), sizes)
        self.file.fit("encoder.weight", "F d")

    def scale(self, name: str) -> float:
        """What activations are multiplied with, from the norm that is stored with normalize_io."""
        if not self.config.get("normalize_io", False):
            self.file.leave(name)
            return 1.0
        norm = self.file.number(name)
        if not 0 < norm < float("inf"):
            raise damaged(self.file.path, f"{name} is {norm}, and activations are divided by it")
        return float(self.file.sizes["d"] ** 0.5 / norm)

    def decoder(self, t: int) -> torch.Tensor:
        """What its latents write t layers on, with the scale for it folded in, (F, d)."""
        file, bias, scale = self.file, f"post_encs.{t}", f"post_enc_scales.{t}"
        if bias in file and bool(file.take(bias, "F").any()):
            raise refuse(
                f"{bias} in {str(file.path)!r}",
                "it is a bias on active codes for one target layer, which no linear decoder has",
                "only dictionaries where it is zero can be converted",
            )
        W_dec = file.take(f"W_decs.{t}", "F d")
        return W_dec * file.take(scale, "F")[:, None] if scale in file else W_dec

    def close(self) -> None:
        """Refuse tensors that were not asked for."""
        self.file.leave("W_dec", "b_dec", "W_skip")  # W_decs.0 and so on under another name
        self.file.close()
