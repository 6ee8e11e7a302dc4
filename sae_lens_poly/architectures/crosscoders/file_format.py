"""The names and layouts that a crosscoder's weights have in a file.

Dense weights are SAELens' ``W_enc`` (d_in, d_sae) and ``W_dec`` (d_sae, d_in). Blocks of latents
that read or write only some hook points are ``W_enc.0``, ``W_enc.1``, ... in the same layout; in
older files they are parts of one rectangle. Factors are ``encoder_factors.latent`` and so on.
"""

from __future__ import annotations

import re
from typing import Any

import torch

from sae_lens_poly.architectures.weights import Grouped, Weights

_MODULE_KEY = re.compile(r"(enc|dec)oder_weights\.(?:forms\.(\d+)\.)?(\w+)")
_FILE_KEY = re.compile(r"W_(enc|dec)(?:\.(\d+))?|(enc|dec)oder_factors\.(\w+)")


def file_name(key: str) -> str:
    """What a file calls a weight of a module; others have the same name in both."""
    match = _MODULE_KEY.fullmatch(key)
    if match is None:
        return key
    part, number, name = match.groups()
    if name != "W":
        return f"{part}oder_factors.{name}"
    return f"W_{part}" + (f".{number}" if number else "")


def to_file(state_dict: dict[str, Any]) -> None:
    """Give a crosscoder's weights the names and layouts of a file, in place."""
    for key in list(state_dict):
        name = file_name(key)
        if name != key:
            tensor = state_dict.pop(key)
            state_dict[name] = tensor.T.contiguous() if name.startswith("W_enc") else tensor


def from_file(state_dict: dict[str, Any], encoder: Weights, decoder: Weights) -> None:
    """The opposite: names and layouts of the modules, in place."""
    for key in list(state_dict):
        match = _FILE_KEY.fullmatch(key)
        if match is None:
            continue
        part, number, part_of_factor, factor = match.groups()
        part = part or part_of_factor
        weights = encoder if part == "enc" else decoder
        grouped = isinstance(weights, Grouped)
        tensor = state_dict.pop(key)
        if factor is not None:
            state_dict[f"{part}oder_weights.{'forms.0.' if grouped else ''}{factor}"] = tensor
        elif number is not None:
            block = tensor.T if part == "enc" else tensor
            state_dict[f"{part}oder_weights.forms.{number}.W"] = block
        else:
            rows = tensor.T if part == "enc" else tensor
            state_dict |= _dense(f"{part}oder_weights", rows, weights)


def _dense(prefix: str, rows: torch.Tensor, weights: Weights) -> dict[str, torch.Tensor]:
    """A matrix (d_sae, d_in), or the blocks of it that a grouped form stores."""
    if not isinstance(weights, Grouped):
        return {f"{prefix}.W": rows}
    return {
        f"{prefix}.forms.{number}.W": rows[group.latents, group.columns].clone()
        for number, group in enumerate(weights.groups)
    }
