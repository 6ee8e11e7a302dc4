"""Training that starts at a dictionary which was trained before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sae_lens.config import LanguageModelSAERunnerConfig
from sae_lens.saes.sae import TrainingSAE, TrainingSAEConfig

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


def with_terms(linear: TrainingSAE[Any], wanted: TrainingSAEConfig) -> TrainingSAE[Any]:
    """A polynomial dictionary that is a linear one at its start, number for number.

    Its terms above degree 1 write with zeros; their scale is taken from the first batch, as in
    every run. What the two configs share is the linear dictionary's: :func:`check_given` says
    where this run wants something else.

    Args:
        linear: A dictionary in training: ``crosscoder`` for ``poly_crosscoder``, and likewise for
            SAELens' SAEs. One of any other architecture is returned as it is.
        wanted: What the run trains.

    Raises:
        InputError: If the terms do not fit the linear dictionary.
    """
    saved, fields = linear.cfg.to_dict(), wanted.to_dict()
    if fields["architecture"] != f"poly_{saved['architecture']}":
        return linear
    shared = {key: saved[key] for key in saved.keys() & fields.keys() - {"architecture"}}
    polynomial = TrainingSAE.from_dict({**fields, **shared})
    polynomial.cfg.metadata = linear.cfg.metadata
    weights = linear.state_dict()
    polynomial.process_state_dict_for_loading(weights)
    missing, unknown = polynomial.load_state_dict(weights, strict=False)
    assert all(name.startswith("polynomial.") for name in missing), missing
    assert not unknown, unknown
    return polynomial


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
