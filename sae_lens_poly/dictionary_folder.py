"""A saved inference dictionary: what its folder must hold, and loading it with clear errors."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from sae_lens.constants import (
    DTYPE_MAP,
    RUNNER_CFG_FILENAME,
    SAE_CFG_FILENAME,
    SAE_WEIGHTS_FILENAME,
    SPARSITY_FILENAME,
)
from sae_lens.saes.sae import SAE

from sae_lens_poly.architectures.crosscoders.file_format import file_name
from sae_lens_poly.errors import InputError, first_line
from sae_lens_poly.manifest import check_manifest
from sae_lens_poly.paths import RUN_FOLDER
from sae_lens_poly.read_files import damaged, read_object
from sae_lens_poly.read_tensors import TensorHeader, is_within, read_header, require_finite
from sae_lens_poly.saved_config import read_config
from sae_lens_poly.training.text_reading import complete_metadata
from sae_lens_poly.whole_files import finish_interrupted

# Tensors that no dictionary works without; a factored one has factors in their place.
_WEIGHTS = ("W_enc", "W_dec", "encoder_factors", "decoder_factors")

_LARGEST = 1e18

# Of the floating-point dtypes of the format; others have 8 or fewer.
_BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16}


def check_dictionary(folder: str | Path, training: bool = False) -> dict[str, Any]:
    """Check the files of a dictionary without loading its weights.

    Args:
        folder: The folder.
        training: Whether it is one of a dictionary in training, a checkpoint.

    Returns:
        Its config, as saved.

    Raises:
        InputError: If a file is missing, or is not what its name says or its manifest has, or the
            architecture is unknown.
    """
    folder = Path(folder)
    finish_interrupted(folder)
    require_files(folder, RUN_FOLDER)
    check_manifest(folder, digests=False)
    weights = folder / SAE_WEIGHTS_FILENAME
    config = read_config(folder / SAE_CFG_FILENAME, training, weights.stat().st_size)
    _check_dtypes(weights, read_header(weights), config.get("dtype", "float32"))
    sparsity = folder / SPARSITY_FILENAME
    if sparsity.is_file():
        read_header(sparsity)
    return config


def load_dictionary(folder: str | Path, device: str = "cpu") -> SAE[Any]:
    """Load a saved inference dictionary.

    Raises:
        InputError: If the folder holds none, or a damaged one, or there is no such device.
    """
    check_dictionary(folder)
    check_manifest(Path(folder))
    try:
        torch.empty(0, device=device)
    except Exception as error:
        raise InputError(
            f"device={device!r} cannot be used here ({first_line(error)[:200]})"
        ) from None
    try:
        sae = SAE.load_from_disk(folder, device=device)
    except Exception as error:
        raise InputError(
            f"the dictionary in {str(folder)!r} cannot be loaded ({first_line(error)[:200]}): its "
            "files are damaged or do not belong together; save or download it again"
        ) from error
    check_weights(sae, Path(folder))
    of_run = Path(folder) / RUNNER_CFG_FILENAME
    if of_run.is_file():
        complete_metadata(sae.cfg.metadata, read_object(of_run))
    return sae


def require_files(folder: str | Path, remedy: str) -> None:
    """Refuse a folder without the two files that every dictionary has.

    Raises:
        InputError: If one is missing; ``remedy`` says which folder to give.
    """
    for name in (SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME):
        if not (Path(folder) / name).is_file():
            raise InputError(f"{str(folder)!r} has no {name}: {remedy}")


def check_weights(sae: SAE[Any], folder: Path) -> None:
    """Refuse weights that nothing can be computed with.

    Raises:
        InputError: Naming a tensor with NaN, infinity or huge numbers, or of zeros alone.
    """
    path = folder / SAE_WEIGHTS_FILENAME
    state = {file_name(key): tensor for key, tensor in sae.state_dict().items()}
    require_finite(path, state.items())
    for name, tensor in state.items():
        if tensor.is_floating_point() and not is_within(tensor, _LARGEST):
            raise damaged(path, f"{name} has numbers above {_LARGEST:g}, whose squares overflow")
        if name.split(".")[0] in _WEIGHTS and not bool(tensor.any()):
            raise damaged(path, f"all numbers of {name} are 0")


def _check_dtypes(path: Path, header: dict[str, TensorHeader], dtype: Any) -> None:
    """Refuse tensors that SAELens would convert to the dictionary's dtype, and should not."""
    if dtype not in DTYPE_MAP:
        raise InputError(f"{str(path)!r}: dtype={dtype!r} in {SAE_CFG_FILENAME} is no dtype")
    n_bits = torch.finfo(DTYPE_MAP[dtype]).bits
    for name, tensor in header.items():
        narrow = tensor.is_floating and _BITS.get(tensor.dtype, 8) < n_bits
        if narrow or (not tensor.is_floating and math.prod(tensor.shape) > 1):
            raise damaged(
                path,
                f"{name} is {tensor.dtype}, and {SAE_CFG_FILENAME} says {dtype}",
                f"save or download it again, or set dtype in {SAE_CFG_FILENAME}",
            )
