"""Checks of a checkpoint before a run resumes from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from sae_lens.config import LanguageModelSAERunnerConfig
from sae_lens.constants import (
    ACTIVATION_SCALER_CFG_FILENAME,
    ACTIVATIONS_STORE_STATE_FILENAME,
    SAE_CFG_FILENAME,
    SAE_WEIGHTS_FILENAME,
    TRAINER_STATE_FILENAME,
)
from safetensors import safe_open

from sae_lens_poly.errors import InputError

# Fields that a resumed run may set anew: they do not change what is learned.
_FREE_FIELDS = {"device", "metadata"}


def check_checkpoint(folder: str | Path, cfg: LanguageModelSAERunnerConfig[Any]) -> None:
    """Refuse a checkpoint that is missing, damaged or of another dictionary.

    Every file that the resume will read is opened, so that a damaged one ends the run before
    training starts rather than in the middle of it.

    Raises:
        InputError: Naming the file or the field that differs, and the remedy.
    """
    folder = Path(folder)
    where = f"resume_from_checkpoint={str(folder)!r}"
    if not folder.is_dir():
        raise InputError(f"{where} is not a folder: give the folder of one checkpoint")
    for name in (
        SAE_CFG_FILENAME,
        SAE_WEIGHTS_FILENAME,
        TRAINER_STATE_FILENAME,
        ACTIVATION_SCALER_CFG_FILENAME,
        ACTIVATIONS_STORE_STATE_FILENAME,
    ):
        path = folder / name
        if not path.is_file():
            raise InputError(f"{where} has no {name}: resume from another checkpoint")
        try:
            _open(path)
        except Exception as error:
            raise InputError(
                f"{where}: {name} is damaged ({str(error).splitlines()[0][:120]}): resume from "
                "another checkpoint"
            ) from error

    saved = json.loads((folder / SAE_CFG_FILENAME).read_text())
    wanted = cfg.sae.to_dict()
    for key in sorted(wanted.keys() - _FREE_FIELDS):
        if saved.get(key) != wanted[key]:
            raise InputError(
                f"{where} was written with {key}={saved.get(key)!r}, and this run has "
                f"{key}={wanted[key]!r}: resume with the settings of the checkpoint"
            )


def _open(path: Path) -> None:
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 (safe_open has no __iter__)
                file.get_tensor(key)
    elif path.suffix == ".pt":
        torch.load(path, map_location="cpu")
    else:
        json.loads(path.read_text())
