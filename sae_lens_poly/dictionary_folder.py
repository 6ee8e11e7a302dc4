"""A saved inference dictionary: what its folder must hold, and loading it with clear errors."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from sae_lens.constants import SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME, SPARSITY_FILENAME
from sae_lens.registry import get_sae_class
from sae_lens.saes.sae import SAE
from safetensors import SafetensorError, safe_open

from sae_lens_poly.errors import InputError, first_line

# How files begin that torch.save and pickle write.
_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def check_dictionary(folder: str | Path) -> dict[str, Any]:
    """Check the files of a dictionary without loading its weights.

    Returns:
        Its config, as saved.

    Raises:
        InputError: If a file is missing, or is not what its name says, or the architecture is
            unknown.
    """
    folder = Path(folder)
    require_files(
        folder, "give the folder that a training run saved its dictionary to (its output_path)"
    )
    config = _config(folder / SAE_CFG_FILENAME)
    for name in (SAE_WEIGHTS_FILENAME, SPARSITY_FILENAME):
        if (folder / name).is_file():
            _check_safetensors(folder / name)
    return config


def load_dictionary(folder: str | Path, device: str = "cpu") -> SAE[Any]:
    """Load a saved inference dictionary.

    Raises:
        InputError: If the folder holds none, or a damaged one, or there is no such device.
    """
    check_dictionary(folder)
    try:
        torch.empty(0, device=device)
    except Exception as error:
        raise InputError(
            f"device={device!r} cannot be used here ({first_line(error)[:200]})"
        ) from None
    try:
        return SAE.load_from_disk(folder, device=device)
    except Exception as error:
        raise InputError(
            f"the dictionary in {str(folder)!r} cannot be loaded ({first_line(error)[:200]}): its "
            "files are damaged or do not belong together; save or download it again"
        ) from error


def require_files(folder: str | Path, remedy: str) -> None:
    """Refuse a folder without the two files that every dictionary has.

    Raises:
        InputError: If one is missing; ``remedy`` says which folder to give.
    """
    for name in (SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME):
        if not (Path(folder) / name).is_file():
            raise InputError(f"{str(folder)!r} has no {name}: {remedy}")


def _config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        # What older versions of SAELens saved has no architecture and is a standard SAE.
        architecture = config.get("architecture", "standard")
    except (ValueError, AttributeError) as error:
        raise InputError(
            f"{str(path)!r} is damaged (not a JSON object: {error}); save or download it again"
        ) from None
    try:
        get_sae_class(architecture)
    except (KeyError, TypeError):
        raise InputError(
            f"{str(path)!r} names architecture={architecture!r}, which neither SAELens "
            f"{version('sae-lens')} nor sae_lens_poly {version('sae-lens-poly')} knows: upgrade "
            "them, or import the package that it comes from before it is loaded"
        ) from None
    return config


def _check_safetensors(path: Path) -> None:
    try:
        with safe_open(path, framework="pt"):
            return
    except SafetensorError as error:
        with path.open("rb") as file:
            start = file.read(4)
        if start.startswith(_PICKLES):
            raise InputError(
                f"{str(path)!r} is a pickle and not safetensors: loading it could run code, so it "
                "is refused; get the weights in safetensors"
            ) from None
        raise InputError(
            f"{str(path)!r} is damaged ({first_line(error)[:200]}); save or download it again"
        ) from None
