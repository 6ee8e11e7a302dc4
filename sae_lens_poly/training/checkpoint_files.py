"""The files of a checkpoint: what they must hold, and which checkpoint is the newest whole one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from sae_lens import logger
from sae_lens.config import LanguageModelSAERunnerConfig
from sae_lens.constants import (
    ACTIVATION_SCALER_CFG_FILENAME,
    ACTIVATION_WHITENING_FILENAME,
    ACTIVATIONS_STORE_STATE_FILENAME,
    RUNNER_CFG_FILENAME,
    SAE_CFG_FILENAME,
    SAE_WEIGHTS_FILENAME,
    TRAINER_STATE_FILENAME,
)
from sae_lens.training.sae_trainer import SAETrainer
from safetensors.torch import load_file
from typing_extensions import TypedDict

from sae_lens_poly.dictionary_folder import check_dictionary, check_weights
from sae_lens_poly.errors import InputError, first_line
from sae_lens_poly.manifest import check_manifest
from sae_lens_poly.read_files import damaged, read_json, read_object
from sae_lens_poly.read_tensors import read_torch, require_finite, require_tensors
from sae_lens_poly.training.old_moments import transpose_old_moments_
from sae_lens_poly.whole_files import remove_unfinished

_REMEDY = "resume from another checkpoint"

# How many processes, each with a buffer of its own, a run is taken to have had at most.
_MOST_PROCESSES = 1024

#: What every checkpoint has.
NEEDED = (
    SAE_CFG_FILENAME,
    SAE_WEIGHTS_FILENAME,
    TRAINER_STATE_FILENAME,
    ACTIVATION_SCALER_CFG_FILENAME,
    ACTIVATIONS_STORE_STATE_FILENAME,
)

#: Tensors of the state of an activations store, with dtype and shape.
STORE_STATE: dict[str, tuple[str, tuple[int, ...]]] = {"n_dataset_processed": ("I64", ())}


class _Scaler(TypedDict, total=False):
    scaling_factor: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None
    has_whitening: bool


def check_checkpoint_files(folder: Path, cfg: LanguageModelSAERunnerConfig[Any]) -> None:
    """Refuse a checkpoint with a file that is missing or is not what its name says.

    Every file that a resumed run reads is read, so that a damaged one ends the run before training
    starts rather than in the middle of it.

    Raises:
        InputError: Naming the file, what is wrong with it and the remedy.
    """
    where = f"resume_from_checkpoint={str(folder)!r}"
    if not folder.is_dir():
        raise InputError(f"{where} is not a folder: give the folder of one checkpoint")
    for name in NEEDED:
        if not (folder / name).is_file():
            raise InputError(f"{where} has no {name}: {_REMEDY}")
    check_manifest(folder)
    d_in = check_dictionary(folder, training=True)["d_in"]
    weights = folder / SAE_WEIGHTS_FILENAME
    require_finite(weights, load_file(weights).items())
    if (folder / RUNNER_CFG_FILENAME).is_file():
        read_object(folder / RUNNER_CFG_FILENAME, _REMEDY)
    scaler = read_json(folder / ACTIVATION_SCALER_CFG_FILENAME, _Scaler, _REMEDY)
    if "scaling_factor" not in scaler:
        raise damaged(folder / ACTIVATION_SCALER_CFG_FILENAME, "no scaling_factor", _REMEDY)
    whitening = folder / ACTIVATION_WHITENING_FILENAME
    if whitening.is_file() and scaler.get("has_whitening", True):
        shapes = {"mean": (d_in,), "matrix": (d_in, d_in), "inverse_matrix": (d_in, d_in)}
        require_tensors(whitening, {name: ("F64", shape) for name, shape in shapes.items()})
        require_finite(whitening, load_file(whitening).items())
    n_samples = _trainer_state(folder)["n_training_samples"]
    _check_store_state(folder / ACTIVATIONS_STORE_STATE_FILENAME, n_samples, cfg)


def _trainer_state(folder: Path) -> dict[str, Any]:
    """What ``SAETrainer.save_trainer_state`` wrote, as far as it is known without a trainer."""
    path = folder / TRAINER_STATE_FILENAME
    state = read_torch(path)
    kinds: dict[str, type | tuple[type, ...]] = {
        "optimizer": dict,
        "lr_scheduler": dict,
        "n_training_samples": int,
        "n_training_steps": int,
        "act_freq_scores": torch.Tensor,
        "n_forward_passes_since_fired": torch.Tensor,
        "n_frac_active_samples": (int, float),
        "started_fine_tuning": bool,
        "coefficient_schedulers": dict,
    }
    if not isinstance(state, dict):
        raise damaged(path, "no state of a trainer", _REMEDY)
    for name, kind in kinds.items():
        value = state.get(name)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise damaged(path, f"{name} is {type(value).__name__}", _REMEDY)
        if isinstance(value, int | float) and not 0 <= value < 2**62:
            raise damaged(path, f"{name}={value} is no number of samples or steps", _REMEDY)
    return state


def _check_store_state(path: Path, n_samples: int, cfg: LanguageModelSAERunnerConfig[Any]) -> None:
    """The number of rows that were read, which a resumed run skips one by one."""
    require_tensors(path, STORE_STATE)
    n_rows = int(load_file(path)["n_dataset_processed"])
    # Each row gives a token; some tokens are left out, and some wait in the buffers.
    n_tokens = n_samples + 2 * _MOST_PROCESSES * cfg.n_batches_in_buffer * cfg.context_size
    most = n_tokens * (1000 if cfg.disable_concat_sequences else 2)
    if not 0 <= n_rows <= most and not cfg.use_cached_activations:
        raise damaged(
            path, f"n_dataset_processed={n_rows:,} rows for {n_samples:,} tokens", _REMEDY
        )


def check_against(folder: Path, trainer: SAETrainer[Any, Any]) -> int:
    """Refuse a checkpoint whose weights or trainer state do not fit a new trainer.

    Args:
        folder: A checkpoint whose files passed :func:`check_checkpoint_files`.
        trainer: The trainer that is to go on from it; its dictionary gets the weights.

    Returns:
        How many tokens the checkpoint was trained on.

    Raises:
        InputError: Naming the file and the entry.
    """
    try:
        trainer.sae.load_weights_from_checkpoint(folder)
    except Exception as error:
        raise damaged(folder / SAE_WEIGHTS_FILENAME, first_line(error), _REMEDY) from error
    check_weights(trainer.sae, folder)
    path, state = folder / TRAINER_STATE_FILENAME, _trainer_state(folder)
    for name in ("act_freq_scores", "n_forward_passes_since_fired"):
        _check_like(state[name], getattr(trainer, name), name, path)
    moments = state["optimizer"].pop("state", None)
    fresh = trainer.optimizer.state_dict()
    fresh.pop("state")
    _check_like(state["optimizer"], fresh, "optimizer", path)
    parameters = list(trainer.sae.parameters())
    if not isinstance(moments, dict) or moments.keys() - set(range(len(parameters))):
        raise damaged(path, "optimizer.state is not that of these parameters", _REMEDY)
    transpose_old_moments_(moments, trainer.sae, folder)
    _check_moments(moments, parameters, path)
    _check_like(state["lr_scheduler"], trainer.lr_scheduler.state_dict(), "lr_scheduler", path)
    schedulers = {n: s.state_dict() for n, s in trainer.coefficient_schedulers.items()}
    if state["coefficient_schedulers"].keys() != schedulers.keys():
        raise damaged(path, "coefficient_schedulers of another architecture", _REMEDY)
    _check_like(state["coefficient_schedulers"], schedulers, "coefficient_schedulers", path)
    return int(state["n_training_samples"])


def _check_moments(found: dict[int, Any], parameters: list[torch.nn.Parameter], path: Path) -> None:
    """Adam's state: one entry for each parameter, none before the first step."""
    for number, entry in found.items():
        wanted = {"step": torch.zeros(())}
        wanted |= dict.fromkeys(("exp_avg", "exp_avg_sq"), parameters[number].data)
        if not isinstance(entry, dict) or wanted.keys() - entry.keys():
            raise damaged(path, f"optimizer.state.{number} is incomplete", _REMEDY)
        _check_like(entry, wanted, f"optimizer.state.{number}", path)


def _check_like(found: Any, fresh: Any, name: str, path: Path) -> None:
    """Compare kinds and shapes with those of a state that has just been made."""
    if isinstance(fresh, torch.Tensor):
        if not isinstance(found, torch.Tensor) or found.shape != fresh.shape:
            shape = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
            raise damaged(path, f"{name} is {shape}, and has to be {tuple(fresh.shape)}", _REMEDY)
        if not found.is_floating_point():
            raise damaged(path, f"{name} is {found.dtype}", _REMEDY)
        require_finite(path, [(name, found)])
    elif isinstance(fresh, Mapping):
        if not isinstance(found, Mapping):
            raise damaged(path, f"{name} is {type(found).__name__}", _REMEDY)
        # Other versions of torch have other entries besides.
        for key in fresh.keys() & found.keys():
            _check_like(found[key], fresh[key], f"{name}.{key}", path)
    elif isinstance(fresh, list | tuple):
        if not isinstance(found, list | tuple) or len(found) != len(fresh):
            raise damaged(path, f"{name} is not of this run's settings", _REMEDY)
        for number, (one, other) in enumerate(zip(found, fresh, strict=True)):
            _check_like(one, other, f"{name}.{number}", path)
    elif fresh is not None and not _same_kind(found, fresh):
        raise damaged(path, f"{name}={found!r:.60} is no {type(fresh).__name__}", _REMEDY)


def _same_kind(found: Any, fresh: Any) -> bool:
    if isinstance(fresh, bool) or not isinstance(fresh, int | float):
        return isinstance(found, type(fresh))
    is_number = isinstance(found, int | float) and not isinstance(found, bool)
    return is_number and math.isfinite(found)


def find_checkpoint(folder: Path, check: Callable[[Path], None]) -> Path:
    """The checkpoint to resume from: the folder, or the newest whole one of those in it.

    What a run that was killed had left half-written there is removed.

    Args:
        folder: A checkpoint, or a folder of them.
        check: Raises ``InputError`` for one that cannot be resumed from.

    Raises:
        InputError: If there is none.
    """
    if any((folder / name).exists() for name in NEEDED):
        try:
            check(folder)
        except InputError as error:
            other = next(newest_whole(folder.parent, check), None)
            if other is None:
                raise
            raise InputError(f"{error}; the newest whole one beside it is {other}") from None
        return folder
    passed_over: list[str] = []
    found = next(newest_whole(folder, check, passed_over), None)
    if found is None:
        why = passed_over[0] if passed_over else f"no folder in it has a {TRAINER_STATE_FILENAME}"
        raise InputError(
            f"resume_from_checkpoint={str(folder)!r} is no checkpoint, and holds none that this "
            f"run can be resumed from ({why}): give a folder that a run wrote to its "
            "checkpoint_path"
        )
    logger.warning(f"resuming from {found}, the newest whole checkpoint in {folder}")
    for why in passed_over:
        logger.warning(f"passed over: {why}")
    return found


def newest_whole(
    folder: Path, check: Callable[[Path], None], passed_over: list[str] | None = None
) -> Iterator[Path]:
    """Checkpoints in a folder, or in folders in it, that pass a check, the newest first.

    Args:
        folder: As a run's ``checkpoint_path``, with or without the name that SAELens appends.
        check: Raises ``InputError``.
        passed_over: Gets what is wrong with the others.
    """
    for unfinished in (*folder.glob(".unfinished-*"), *folder.glob("*/.unfinished-*")):
        remove_unfinished(unfinished.parent)
    places = (f"*/{TRAINER_STATE_FILENAME}", f"*/*/{TRAINER_STATE_FILENAME}")
    states = [state for place in places for state in folder.glob(place)]
    states = [state for state in states if not state.parent.name.startswith(".")]
    for state in sorted(states, key=lambda state: state.stat().st_mtime_ns, reverse=True):
        try:
            check(state.parent)
        except InputError as error:
            if passed_over is not None:
                passed_over.append(str(error))
        else:
            yield state.parent
