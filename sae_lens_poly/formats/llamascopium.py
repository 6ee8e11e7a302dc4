"""OpenMOSS' llamascopium (lm-saes): ``config.json`` and ``sae_weights.safetensors`` or ``.pt``.

The gate is ``act(pre N) / N`` with N the norm of a latent's decoder over all that it writes, or 1.
With scales ``s = sqrt(d) / stored norm`` of the hook points the weights for raw activations are
``W_E s_in`` and ``W_D / s_out``, and thresholds ``theta / N`` of N before that.
"""

from __future__ import annotations

from typing import Literal

import torch
from typing_extensions import TypedDict

from sae_lens_poly.errors import InputError
from sae_lens_poly.formats.base import Format, ReadingOptions, refuse
from sae_lens_poly.formats.dictionary import Block, PublicDictionary
from sae_lens_poly.formats.files import Files
from sae_lens_poly.formats.scales import scale_block, unscale
from sae_lens_poly.formats.tensors import Sizes, TensorFile
from sae_lens_poly.read_files import damaged, read_json

_CONFIG, _WEIGHTS = "config.json", ("sae_weights.safetensors", "sae_weights.pt")

_NORM, _THRESHOLD = "dataset_average_activation_norm", "activation_function.log_jumprelu_threshold"

_CONVERTED = "convert it with llamascopium's topk_to_jumprelu_conversion first"


class _Config(TypedDict, total=False):
    sae_type: str
    d_model: int
    expansion_factor: float
    use_decoder_bias: bool
    act_fn: str
    norm_activation: Literal["dataset-wise", "inference", "token-wise", "batch-wise"]
    sparsity_include_decoder_norm: bool
    hook_points: list[str]
    hook_points_in: list[str]
    hook_points_out: list[str]


class Llamascopium(Format, name="llamascopium"):
    """Hook points: those of the config, of a transcoder inputs and then outputs."""

    @staticmethod
    def recognises(files: Files) -> bool:
        return _CONFIG in files and (
            any(name in files for name in _WEIGHTS)
            or any(name.startswith("sae_weights.dcp/") for name in files.names)
        )

    @staticmethod
    def read(files: Files, options: ReadingOptions) -> PublicDictionary:
        config = read_json(files.path(_CONFIG), _Config)
        _check(config, files)
        sizes = Sizes()
        found = [name for name in _WEIGHTS if name in files]
        if not found:
            raise InputError(
                f"{files.at!r} has no {' or '.join(_WEIGHTS)}: checkpoints of several processes "
                "(sae_weights.dcp) have to be saved as safetensors with llamascopium first"
            )
        file = TensorFile(files.path(found[0]), sizes, within="sae")
        read = _crosscoder if config["sae_type"] == "crosscoder" else _transcoder
        dictionary = read(file, config, files)
        if sizes["d"] != config["d_model"]:
            why = f"d_model={config['d_model']}, and the weights have {sizes['d']}"
            raise damaged(files.path(_CONFIG), why)
        file.leave(*(name for name in file.shapes if name.startswith(f"{_NORM}.")))
        file.close()
        return dictionary


def _transcoder(file: TensorFile, config: _Config, files: Files) -> PublicDictionary:
    inputs, outputs = config.get("hook_points_in", []), config.get("hook_points_out", [])
    n = len(inputs)
    if n == 0 or len(outputs) != n:
        why = f"{n} hook_points_in and {len(outputs)} hook_points_out"
        raise damaged(files.path(_CONFIG), why)
    W_E, b_E = file.take("W_E", f"{n} d F"), file.take("b_E", f"{n} F")
    W_D = [file.take(f"W_D.{to}", f"{to + 1} F d") for to in range(n)]
    thresholds = file.take(_THRESHOLD, f"{n} F").exp() if config["act_fn"] == "jumprelu" else None
    reads, writes = (_scales(file, config, names) for names in (inputs, outputs))
    b_dec = torch.zeros(n, file.sizes["d"], dtype=b_E.dtype)
    if config.get("use_decoder_bias", True):
        b_dec = torch.stack([file.take(f"b_D.{to}", "d") for to in range(n)])
    blocks = []
    for i in range(n):
        rows = torch.cat([W_D[to][i] for to in range(i, n)], dim=1)
        threshold = None if thresholds is None else _over_norm(thresholds[i], rows, config)
        block = Block((i,), tuple(range(n + i, 2 * n)), W_E[i], rows, b_E[i], threshold)
        scale_block(block, reads[i : i + 1], writes[i:])
        blocks.append(block)
    b_dec = unscale(b_dec, writes)
    return PublicDictionary(
        torch.cat([torch.zeros_like(b_dec), b_dec]), blocks, [*inputs, *outputs]
    )


def _crosscoder(file: TensorFile, config: _Config, files: Files) -> PublicDictionary:
    if config["act_fn"] != "relu":
        raise refuse(
            f"act_fn={config['act_fn']!r} of a crosscoder in {str(files.path(_CONFIG))!r}",
            "it decides at each hook point for itself which latents are active, and a crosscoder "
            "of this package has one code for all",
            "only crosscoders with 'relu' can be converted",
        )
    names = config.get("hook_points", [])
    if not names:
        raise damaged(files.path(_CONFIG), "it has no hook_points")
    W_E, W_D = file.take("W_E", f"{len(names)} d F"), file.take("W_D", f"{len(names)} F d")
    b_E, every = file.take("b_E", f"{len(names)} F"), tuple(range(len(names)))
    b_dec = torch.zeros(len(names), file.sizes["d"], dtype=b_E.dtype)
    if config.get("use_decoder_bias", True):
        b_dec = file.take("b_D", f"{len(names)} d")
    rows = W_D.transpose(0, 1).flatten(1)
    block = Block(every, every, W_E.flatten(0, 1), rows, b_E.sum(dim=0))
    scales = _scales(file, config, names)
    scale_block(block, scales, scales)
    return PublicDictionary(unscale(b_dec, scales), [block], names)


def _over_norm(threshold: torch.Tensor, rows: torch.Tensor, config: _Config) -> torch.Tensor:
    """``theta / N`` with N of the decoder before scales are taken into it."""
    if not config.get("sparsity_include_decoder_norm", True):
        return threshold
    norms = rows.norm(dim=-1, dtype=torch.float64)
    # act(0) / 0 of a latent that writes nothing: it is never active.
    return torch.where(norms > 0, threshold / norms, torch.inf).to(threshold.dtype)


def _scales(file: TensorFile, config: _Config, names: list[str]) -> torch.Tensor:
    """What activations of hook points are multiplied with, (n,)."""
    if config.get("norm_activation", "dataset-wise") == "inference":
        return torch.ones(len(names), dtype=torch.float64)
    norms = torch.tensor([file.number(f"{_NORM}.{name}") for name in names], dtype=torch.float64)
    if not bool(((norms > 0) & norms.isfinite()).all()):
        raise damaged(file.path, f"{_NORM} is {norms.tolist()}, and activations are divided by it")
    return file.sizes["d"] ** 0.5 / norms


def _check(config: _Config, files: Files) -> None:
    """Refuse what is no linear function of a code that depends on one token alone.

    Raises:
        InputError: Saying why.
    """
    at = f"in {str(files.path(_CONFIG))!r}"
    for field in ("sae_type", "d_model", "act_fn"):
        if field not in config:
            raise damaged(files.path(_CONFIG), f"it has no {field}")
    if config["sae_type"] not in ("clt", "crosscoder"):
        raise refuse(
            f"sae_type={config['sae_type']!r} {at}",
            "it has one hook point, or is no dictionary of hook points",
            "only 'clt' and 'crosscoder' can be converted",
        )
    norm = config.get("norm_activation", "dataset-wise")
    if norm not in ("dataset-wise", "inference"):
        raise refuse(
            f"norm_activation={norm!r} {at}",
            "it divides every token or batch by a norm of its own, which no weights do",
            "only 'dataset-wise' and 'inference' can be converted",
        )
    config["act_fn"] = config["act_fn"].lower()
    if config["act_fn"] not in ("relu", "jumprelu"):
        raise refuse(
            f"act_fn={config['act_fn']!r} {at}",
            "which latents it keeps depends on other layers or tokens",
            _CONVERTED,
        )
