"""Checks of a checkpoint before a run resumes from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sae_lens.config import LanguageModelSAERunnerConfig
from sae_lens.constants import SAE_CFG_FILENAME

from sae_lens_poly.errors import InputError
from sae_lens_poly.read_files import read_object
from sae_lens_poly.training.checkpoint_files import check_checkpoint_files

# Fields that a resumed run may set anew: they do not change what is learned.
_FREE_FIELDS = {"device", "metadata"}


def check_checkpoint(folder: str | Path, cfg: LanguageModelSAERunnerConfig[Any]) -> None:
    """Refuse a checkpoint that is missing, damaged or of another dictionary.

    Raises:
        InputError: Naming the file or the field that differs, and the remedy.
    """
    folder = Path(folder)
    where = f"resume_from_checkpoint={str(folder)!r}"
    check_checkpoint_files(folder, cfg)
    saved = read_object(folder / SAE_CFG_FILENAME)
    wanted = cfg.sae.to_dict()
    for key in sorted(wanted.keys() - _FREE_FIELDS):
        if saved.get(key) != wanted[key]:
            raise InputError(
                f"{where} was written with {key}={saved.get(key)!r}, and this run has "
                f"{key}={wanted[key]!r}: resume with the settings of the checkpoint"
            )
