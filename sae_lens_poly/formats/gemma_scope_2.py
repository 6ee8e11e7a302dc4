"""Gemma Scope 2: a file for each hook point, ``params_layer_0.safetensors`` and so on.

Both kinds have latents that read one hook point. Those of a crosscoder write the same hook points;
a cross-layer transcoder reads inputs of MLPs and writes outputs. Their files look alike, so that
the path tells them apart. They are computed with as in the published tutorial:
``f = relu(pre) [pre > threshold]``.
"""

from __future__ import annotations

import re
from pathlib import PurePath

import torch

from sae_lens_poly.errors import InputError
from sae_lens_poly.formats.base import Format, ReadingOptions
from sae_lens_poly.formats.dictionary import Block, PublicDictionary
from sae_lens_poly.formats.files import Files
from sae_lens_poly.formats.tensors import Sizes, TensorFile

_FILE, _SKIP = "params_layer_{}.safetensors", "affine_skip_connection"


def _kind(files: Files) -> str | None:
    """``clt`` or ``crosscoder``: what stands last in the path."""
    for part in reversed(PurePath(files.at.replace(":", "/")).parts):
        for kind in ("clt", "crosscoder"):
            if kind in part.lower():
                return kind
    return None


class GemmaScope2Crosscoder(Format, name="gemma_scope_2_crosscoder"):
    """Hook points: those of the files, in their order."""

    @staticmethod
    def recognises(files: Files) -> bool:
        if _FILE.format(0) not in files:
            return False
        kind = _kind(files)
        if kind is None:
            raise InputError(
                f"{files.at!r} does not say whether it is a crosscoder or a cross-layer "
                "transcoder: name it with --format gemma_scope_2_crosscoder or gemma_scope_2_clt"
            )
        return kind == "crosscoder"

    @staticmethod
    def read(files: Files, options: ReadingOptions) -> PublicDictionary:
        dictionary = _read(files, n_first_written=0)
        layers = re.search(r"layer((?:_\d+)+)_width", files.at)
        numbers = layers[1].strip("_").split("_") if layers else []
        if len(numbers) == len(dictionary.b_dec):
            dictionary.hook_names = [f"blocks.{number}.hook_resid_post" for number in numbers]
        return dictionary


class GemmaScope2CLT(Format, name="gemma_scope_2_clt"):
    """Hook points: the inputs of all MLPs, then their outputs."""

    @staticmethod
    def recognises(files: Files) -> bool:
        return _FILE.format(0) in files and _kind(files) == "clt"

    @staticmethod
    def read(files: Files, options: ReadingOptions) -> PublicDictionary:
        return _read(files, n_first_written=len(files.numbered(_FILE)))


def _read(files: Files, n_first_written: int) -> PublicDictionary:
    """All files, the outputs being the hook points from ``n_first_written`` on."""
    names, sizes = files.numbered(_FILE), Sizes()
    sizes["L"] = len(names)
    blocks, b_dec, skips = [], [], {}
    for layer, name in enumerate(names):
        file = TensorFile(files.path(name), sizes)
        W_dec = file.take("w_dec", "F L d")
        # Causality is in the numbers alone.
        written = [at for at in range(len(names)) if at >= layer or bool(W_dec[:, at].any())]
        blocks.append(
            Block(
                reads=(layer,),
                writes=tuple(n_first_written + at for at in written),
                W_enc=file.take("w_enc", "d F"),
                W_dec=_chosen(W_dec, written).flatten(1),
                b_enc=file.take("b_enc", "F"),
                threshold=file.take("threshold", "F"),
            )
        )
        b_dec.append(file.take("b_dec", "d"))
        if _SKIP in file:
            skips[layer, n_first_written + layer] = file.take(_SKIP, "d d")
        file.close()
    inputs = [torch.zeros_like(b_dec[0])] * n_first_written
    return PublicDictionary(torch.stack([*inputs, *b_dec]), blocks, skips=skips)


def _chosen(W_dec: torch.Tensor, written: list[int]) -> torch.Tensor:
    return W_dec if len(written) == W_dec.shape[1] else W_dec[:, written]
