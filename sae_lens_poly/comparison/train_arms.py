"""Trains the arms of a comparison: each run once, whatever interrupts it."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import torch
from typing_extensions import TypedDict

from sae_lens_poly.architectures.crosscoders.crosscoder import Crosscoder
from sae_lens_poly.architectures.crosscoders.side_by_side import side_by_side
from sae_lens_poly.comparison.arms import Arm, arm_config
from sae_lens_poly.dictionary_folder import load_dictionary
from sae_lens_poly.errors import InputError
from sae_lens_poly.models.stacked_hooks import StackedHooks
from sae_lens_poly.read_files import read_json
from sae_lens_poly.training.checkpoint_files import newest_whole
from sae_lens_poly.training.checkpoints import check_checkpoint
from sae_lens_poly.training.flags import fit_to_model
from sae_lens_poly.training.runner import TrainingRunner
from sae_lens_poly.whole_files import whole_folder, write_json

RUN_FILENAME = "arm.json"


class _Run(TypedDict):
    arm: str
    separate: bool
    flags: dict[str, Any]


def train_arm(
    arm: Arm, lr: float, seed: int, folder: Path, stack: StackedHooks, device: str = "cpu"
) -> None:
    """Train one arm with one seed and save its dictionary to ``folder``.

    A dictionary that is there already is left alone; a run that was stopped continues from the
    checkpoint that it saved.

    Args:
        arm: What to train.
        lr: Its learning rate.
        seed: For its weights, its order of activations and its masking.
        folder: Where the dictionary will be; while it is unfinished it is beside that.
        stack: The model with all hook points of the comparison.
        device: Where to train; where the model is.

    Raises:
        InputError: If ``folder`` holds a dictionary of other settings.
        StoppedRun: If a signal stopped the run, after its state was saved.
    """
    settings: dict[str, Any] = {
        "arm": arm.name,
        "separate": arm.separate,
        "flags": {**arm.flags, "lr": lr, "seed": seed},
    }
    unfinished = folder.with_name(folder.name + ".unfinished")
    for place in (folder, unfinished):
        _check_settings(place, settings)
    if folder.is_dir():
        return
    if not (unfinished / RUN_FILENAME).is_file():
        write_json(unfinished / RUN_FILENAME, settings)
    if arm.separate:
        folders = [unfinished / "hook_points" / str(i) for i in range(stack.n_hooks)]
        for own, name in zip(folders, stack.hook_names, strict=True):
            if not own.is_dir():
                half = own.with_name(own.name + ".unfinished")
                _train(arm, lr, seed, half, stack.narrowed(name), device)
                half.replace(own)
        parts = [load_dictionary(own) for own in folders]
        assert all(isinstance(part, Crosscoder) for part in parts)
        with whole_folder(unfinished, manifest=True) as whole:
            side_by_side(parts).save_model(whole)
    else:
        _train(arm, lr, seed, unfinished, stack, device)
    unfinished.replace(folder)
    shutil.rmtree(folder / "hook_points", ignore_errors=True)


def _check_settings(folder: Path, settings: dict[str, Any]) -> None:
    path = folder / RUN_FILENAME
    if not path.is_file():
        return
    there = read_json(path, _Run, f"give another --output, or delete {folder}")
    if there == settings:
        return
    old, new = {**there, **there["flags"]}, {**settings, **settings["flags"]}
    for key in sorted({*old, *new} - {"flags"}):
        if old.get(key) != new.get(key):
            raise InputError(
                f"{str(folder)!r} holds a run with {key}={old.get(key)!r}, and this comparison has "
                f"{key}={new.get(key)!r}: give another --output, or delete that folder"
            )


def _train(arm: Arm, lr: float, seed: int, folder: Path, stack: StackedHooks, device: str) -> None:
    checkpoints = folder / "checkpoints"
    cfg = arm_config(
        arm,
        lr,
        seed,
        hook_name=stack.hook_name,
        device=device,
        output_path=str(folder),
        checkpoint_path=str(checkpoints),
    )
    cfg = fit_to_model(cfg, stack.d_in, stack.state_shape)
    if hasattr(cfg.sae, "mask_seed"):
        cfg.sae.mask_seed = seed
    # Where the run was killed before its first checkpoint was whole: from the start.
    found = next(newest_whole(checkpoints, partial(check_checkpoint, cfg=cfg)), None)
    cfg.resume_from_checkpoint = None if found is None else str(found)
    torch.manual_seed(seed)
    TrainingRunner(cfg, override_model=stack).run()
    shutil.rmtree(checkpoints, ignore_errors=True)
