"""Training that starts at a dictionary which was trained before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sae_lens.config import LanguageModelSAERunnerConfig
from sae_lens.saes.sae import TrainingSAE

from sae_lens_poly.dictionary_folder import check_dictionary, check_weights
from sae_lens_poly.errors import InputError, first_line
from sae_lens_poly.hook_names import expand_hook_names

# What a run says for itself.
_OF_THIS_RUN = {"device", "metadata"}


def load_training_dictionary(folder: str | Path, device: str) -> TrainingSAE[Any]:
    """Load a dictionary in training.

    Raises:
        InputError: If the folder holds none.
    """
    check_dictionary(folder, training=True)
    try:
        sae = TrainingSAE.load_from_disk(folder, device=device)
    except Exception as error:
        raise InputError(
            f"{str(folder)!r} holds no dictionary in training, but one that was exported, or a "
            f"damaged one ({first_line(error)[:100]}): give a folder that a run wrote under its "
            "checkpoint_path, not its output_path"
        ) from error
    check_weights(sae, Path(folder))
    return sae


def check_given(
    sae: TrainingSAE[Any], cfg: LanguageModelSAERunnerConfig[Any], hook_names: list[str]
) -> None:
    """Refuse a dictionary that is not the one that the config describes.

    Args:
        sae: From ``from_pretrained_path``, or handed over.
        cfg: Config of the run that continues from it.
        hook_names: What it is trained on from here.

    Raises:
        InputError: Naming the first field that differs.
    """
    saved, wanted = sae.cfg.to_dict(), cfg.sae.to_dict()
    where = "override_sae" if cfg.from_pretrained_path is None else "from_pretrained_path"
    for key in sorted((saved.keys() | wanted.keys()) - _OF_THIS_RUN):
        if saved.get(key) != wanted.get(key):
            raise InputError(
                f"{where}: the dictionary has {key}={saved.get(key)!r}, and this run "
                f"{key}={wanted.get(key)!r}: give the settings that it was trained with"
            )
    metadata = sae.cfg.metadata
    names = metadata.hook_names or (
        expand_hook_names(metadata.hook_name) if metadata.hook_name else hook_names
    )
    if names != hook_names:
        raise InputError(
            f"{where}: the dictionary was trained at {names}, and this run is at {hook_names}: "
            "give the same hook points in the same order"
        )
