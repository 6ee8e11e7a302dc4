"""Crosscoders of jkminder's dictionary_learning (Butanium, science-of-finetuning).

On the hub ``config.json`` and ``model.safetensors``; of a local run ``ae_final.pt``. The gate is
``relu(pre) N > tau`` with N made of decoder norms, and the unscaled code is decoded: as thresholds
``max(tau, 0) / N``. Newer ones read ``s (x - mu)``.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from typing_extensions import TypedDict

from sae_lens_poly.errors import InputError
from sae_lens_poly.formats.base import Format, ReadingOptions, refuse
from sae_lens_poly.formats.dictionary import Block, PublicDictionary
from sae_lens_poly.formats.files import Files
from sae_lens_poly.formats.tensors import Sizes, TensorFile
from sae_lens_poly.read_files import damaged, read_json

_HUB, _CONFIG = "model.safetensors", "config.json"
_LOCAL = re.compile(r"(ae|ae_\w+|model_final)\.pt")

_CROSSCODER, _SAE, _MIXED, _NONE, _DECOUPLED = 1, 2, 3, 4, 5

_MEAN, _STD, _SCALE, _RMS = (
    "activation_mean",
    "activation_std",
    "activation_global_scale",
    "target_rms",
)


class _Config(TypedDict, total=False):
    activation_dim: int
    dict_size: int
    num_layers: int
    code_normalization_alpha_sae: float
    code_normalization_alpha_cc: float


class DictionaryLearning(Format, name="dictionary_learning"):
    """Hook points: the layers (or models) of the stack, in order."""

    @staticmethod
    def recognises(files: Files) -> bool:
        if _HUB in files and _CONFIG in files:
            return "dict_size" in read_json(files.path(_CONFIG), _Config)
        return bool(_local(files))

    @staticmethod
    def read(files: Files, options: ReadingOptions) -> PublicDictionary:
        sizes, config = Sizes(), _Config()
        if _CONFIG in files:
            config = read_json(files.path(_CONFIG), _Config)
        file = TensorFile(_weights(files), sizes, prefix="_orig_mod.")
        W_enc, W_dec = file.take("encoder.weight", "L d F"), file.take("decoder.weight", "L F d")
        b_enc, b_dec = file.take("encoder.bias", "F"), file.take("decoder.bias", "L d")
        for field, letter in (("activation_dim", "d"), ("dict_size", "F"), ("num_layers", "L")):
            value = config.get(field)
            if value is not None and value != sizes[letter]:
                why = f"{field}={value}, and the weights have {sizes[letter]}"
                raise damaged(files.path(_CONFIG), why)
        norms = _norms(file, W_dec, config)
        threshold = None
        if "threshold" in file:
            # Of the norms before anything is folded into the decoder. 0 > tau holds for no tau.
            tau = file.take("threshold", "").double().clamp_min(0)
            threshold = torch.where(norms > 0, tau / norms, torch.inf)
        mean, scale = _normaliser(file)
        file.leave("k")
        file.close()
        if mean is not None:
            b_enc = b_enc.double() - scale * torch.einsum("ld,ldf->f", mean, W_enc.double())
            W_enc, W_dec = W_enc.double() * scale, W_dec.double() / (scale + 1e-8)
            b_dec = b_dec.double() / (scale + 1e-8) + mean
        every, dtype = tuple(range(sizes["L"])), torch.promote_types(b_dec.dtype, torch.float32)
        W_enc, rows = W_enc.flatten(0, 1), W_dec.transpose(0, 1).flatten(1)
        threshold = None if threshold is None else threshold.to(dtype)
        block = Block(every, every, W_enc.to(dtype), rows.to(dtype), b_enc.to(dtype), threshold)
        return PublicDictionary(b_dec.to(dtype), [block])


def _local(files: Files) -> list[str]:
    return [name for name in files.names if _LOCAL.fullmatch(name)]


def _weights(files: Files) -> Path:
    """The file of weights.

    Raises:
        InputError: If there is none, or there are several.
    """
    found = [_HUB] if _HUB in files else _local(files)
    if len(found) != 1:
        there = f"has {', '.join(found)}" if found else f"has neither {_HUB} nor ae_final.pt"
        raise InputError(f"{files.at!r} {there}: give a folder with one of them")
    return files.path(found[0])


def _norms(file: TensorFile, W_dec: torch.Tensor, config: _Config) -> torch.Tensor:
    """N of the gate, (F,)."""
    kind = _CROSSCODER
    if "code_normalization_id" in file:
        kind = file.count("code_normalization_id")
    per_layer = W_dec.norm(dim=-1, dtype=torch.float64)
    summed, stacked = per_layer.sum(dim=0), per_layer.norm(dim=0)
    if kind == _DECOUPLED:
        raise refuse(
            f"code_normalization=DECOUPLED in {str(file.path)!r}",
            "such a crosscoder has a code for each hook point, and ours have one for all",
            "take one with another code_normalization",
        )
    if kind == _MIXED:
        sae, cc = (config.get(f"code_normalization_alpha_{x}") for x in ("sae", "cc"))
        if not isinstance(sae, float) or not isinstance(cc, float):
            raise refuse(
                f"code_normalization=MIXED in {str(file.path)!r}",
                "its weights alpha_sae and alpha_cc stand in config.json alone",
                "put that file beside the weights",
            )
        return sae * stacked + cc * summed
    by_kind = {_CROSSCODER: summed, _SAE: stacked, _NONE: torch.ones_like(summed)}
    if kind not in by_kind:
        raise damaged(file.path, f"code_normalization_id={kind} is none of 1 to 5")
    return by_kind[kind]


def _normaliser(file: TensorFile) -> tuple[torch.Tensor | None, float]:
    """The mean (L, d) and the scale of the input; None and 1: it is raw."""
    if _MEAN not in file:
        file.leave(_RMS)
        return None, 1.0
    mean, std = (file.take_any(name, "L d").double() for name in (_MEAN, _STD))
    scale, rms = file.number(_SCALE), file.number(_RMS)
    if bool(mean.isnan().all() and std.isnan().all()):
        return None, 1.0
    if not bool(mean.isfinite().all() and std.isfinite().all()):
        raise damaged(file.path, f"{_MEAN} or {_STD} has NaN or infinity in part")
    wanted = float(rms / (std.square().sum() + 1e-8).sqrt())
    if not abs(scale / wanted - 1) < 1e-3:
        raise refuse(
            f"{_SCALE}={scale:g} in {str(file.path)!r}",
            f"{_STD} gives {wanted:g}, so that each dimension may have a scale of its own",
            "take a crosscoder whose input has one scale",
        )
    return mean, scale
