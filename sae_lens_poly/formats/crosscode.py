"""oli-clive-griffin's crosscode: ``model.pt`` and ``model_cfg.yaml``, crosscoder or transcoder.

An acausal crosscoder reads and writes M models times P hook points, a cross-layer transcoder reads
one hook point and writes P. Weights that training saves have the scales of activations folded in,
``W_enc s_in``, ``W_dec / s_out``, ``b_dec / s_out``, but not the skip: that is done here.
"""

from __future__ import annotations

import json
from math import prod
from typing import Any

import torch
from typing_extensions import TypedDict

from sae_lens_poly.errors import InputError
from sae_lens_poly.formats.base import Format, ReadingOptions, refuse
from sae_lens_poly.formats.dictionary import Block, PublicDictionary
from sae_lens_poly.formats.files import Files
from sae_lens_poly.formats.scales import scale_block, unscale
from sae_lens_poly.formats.tensors import Sizes, TensorFile
from sae_lens_poly.read_files import check_json, damaged, read_yaml

_WEIGHTS, _CONFIG = "model.pt", "model_cfg.yaml"

_THRESHOLD, _SKIP, _FOLDED = "_activation_fn.log_threshold_L", "W_skip_DPD", "is_folded"
_SCALES_IN, _SCALES_OUT = "folded_scaling_factors_in_Xi", "folded_scaling_factors_out_Xo"

# The field of the config that says how many latents are kept, of activations that select.
_KEPT = {"TopkActivation": "k", "GroupMaxActivation": "k_groups"}
_RELU = ("ReLUActivation",)
_JUMP_RELU = ("AnthropicSTEJumpReLUActivation", "JumpReLUActivationFunction")


class _Activation(TypedDict):
    classname: str
    cfg: dict[str, Any]


class _Config(TypedDict, total=False):
    activation_fn: _Activation
    d_model: int
    n_latents: int
    n_models: int
    n_hookpoints: int
    n_layers_out: int


class Crosscode(Format, name="crosscode"):
    """Hook points: of a crosscoder those of the first model, then those of the next; of a
    transcoder the one that is read, then those that are written.

    Its TopK and group-max keep pre-activations below zero where they are among the highest.
    """

    takes_scales = True

    @staticmethod
    def recognises(files: Files) -> bool:
        return _WEIGHTS in files and _CONFIG in files

    @staticmethod
    def read(files: Files, options: ReadingOptions) -> PublicDictionary:
        path, sizes = files.path(_CONFIG), Sizes()
        config: _Config = check_json(json.dumps(read_yaml(path), default=str), _Config, path)
        across, out = _layout(config, path)
        transcodes = not across
        file = TensorFile(files.path(_WEIGHTS), sizes)
        reads, writes = " ".join(across), " ".join(out)
        W_enc = file.take("_W_enc_XiDiL", f"{reads} d F")
        W_dec = file.take("_W_dec_LXoDo", f"F {writes} d")
        for field, letter in (("d_model", "d"), ("n_latents", "F")):
            value = config.get(field, sizes[letter])
            if value != sizes[letter]:
                raise damaged(path, f"{field}={value}, and the weights have {sizes[letter]}")
        d_model, n_latents = sizes["d"], sizes["F"]
        n_read, n_written = prod(map(int, across)), prod(map(int, out))
        b_dec = torch.zeros(n_written, d_model, dtype=W_dec.dtype)
        if "_b_dec_XoDo" in file:
            b_dec = file.take("_b_dec_XoDo", f"{writes} d").reshape(n_written, d_model)
        block = Block(
            reads=tuple(range(n_read)),
            writes=tuple(range(transcodes, transcodes + n_written)),
            W_enc=W_enc.reshape(-1, n_latents),
            W_dec=W_dec.reshape(n_latents, -1),
            b_enc=file.take("b_enc_L", "F") if "b_enc_L" in file else torch.zeros(n_latents),
            threshold=_threshold(file, config, path),
        )
        skips = {}
        if _SKIP in file:
            skip = file.take(_SKIP, f"d {writes} d")
            skips = {(0, 1 + hook): skip[:, hook].contiguous() for hook in range(n_written)}
        s_in, s_out = (
            file.take(name, letters).flatten().double()
            for name, letters in ((_SCALES_IN, reads), (_SCALES_OUT, writes))
        )
        folded = bool(file.number(_FOLDED))
        file.close()
        if folded:
            if options.scales:
                raise InputError(f"scales={options.scales}: the weights have their scales in them")
            if skips and not bool((s_in > 0).all() and (s_out > 0).all()):
                raise damaged(file.path, "its scales are not positive")
        else:
            what = "what each hook point (the one that is read, those that are written)"
            given = options.scales_for(n_written + transcodes, what if transcodes else what[:20])
            s_in, s_out = (given[:1], given[1:]) if transcodes else (given, given)
            scale_block(block, s_in, s_out)
            b_dec = unscale(b_dec, s_out)
        skips = {
            (read, write): (skip.double() * s_in[0] / s_out[write - 1]).to(b_dec.dtype)
            for (read, write), skip in skips.items()
        }
        inputs = torch.zeros(int(transcodes), d_model, dtype=b_dec.dtype)
        k, n_groups = _selection(config, n_latents, path)
        return PublicDictionary(
            torch.cat([inputs, b_dec]), [block], k=k, n_groups=n_groups, signed=True, skips=skips
        )


def _layout(config: _Config, path: Any) -> tuple[list[str], list[str]]:
    """Sizes of what stands in front of d where activations are read, and where they are written.

    Raises:
        InputError: If the config is of neither kind.
    """
    counts = [config.get("n_models", 1), config.get("n_hookpoints", 1)]
    counts.append(config.get("n_layers_out", 1))
    if min(counts) < 1:
        raise damaged(path, "n_models, n_hookpoints and n_layers_out are from 1 on")
    if "n_models" in config and "n_hookpoints" in config:
        both = [str(config["n_models"]), str(config["n_hookpoints"])]
        return both, both
    if "n_layers_out" in config:
        return [], [str(config["n_layers_out"])]
    raise refuse(
        f"the model in {str(path)!r}",
        "it is no ModelHookpointAcausalCrosscoder and no CrossLayerTranscoder (it has neither "
        "n_models and n_hookpoints nor n_layers_out)",
        "only these two can be converted",
    )


def _threshold(file: TensorFile, config: _Config, path: Any) -> torch.Tensor | None:
    """Of JumpReLU, (F,)."""
    name = _activation(config, path)["classname"]
    if name in _JUMP_RELU:
        return file.take(_THRESHOLD, "F").exp()
    if name in _RELU or name in _KEPT:
        return None
    raise refuse(
        f"activation_fn={name!r} in {str(path)!r}",
        "which latents it keeps depends on the other tokens of a batch, and no threshold is stored",
        f"take one of {', '.join((*_RELU, *_JUMP_RELU, *_KEPT))}",
    )


def _selection(config: _Config, n_latents: int, path: Any) -> tuple[int | None, int]:
    """How many latents of a range are kept, and how many ranges there are."""
    activation = _activation(config, path)
    field = _KEPT.get(activation["classname"])
    if field is None:
        return None, 1
    k = activation["cfg"].get(field)
    grouped = field == "k_groups"
    if type(k) is not int or not 0 < k <= n_latents or (grouped and n_latents % k):
        raise damaged(path, f"{field}={k!r} with {n_latents} latents")
    return (1, k) if grouped else (k, 1)


def _activation(config: _Config, path: Any) -> _Activation:
    if "activation_fn" not in config:
        raise damaged(path, "it has no activation_fn")
    return config["activation_fn"]
