"""What a run that is resumed may change, and what it has to leave as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sae_lens.config import LanguageModelSAERunnerConfig
from sae_lens.constants import RUNNER_CFG_FILENAME, SAE_CFG_FILENAME
from sae_lens.saes.sae import TrainingSAE

from sae_lens_poly.errors import InputError, first_line
from sae_lens_poly.hook_names import expand_hook_names
from sae_lens_poly.model_names import split_model_names
from sae_lens_poly.paths import exists
from sae_lens_poly.read_files import damaged, read_object
from sae_lens_poly.training.checkpoint_files import check_checkpoint_files

# Fields of a dictionary that a resumed run may change: they do not change what is learned.
_FREE_OF_DICTIONARY = {"device", "metadata"}

#: Fields of SAELens' runner that a resumed run may change: where and how fast it runs, what it
#: writes and says. ``training_tokens`` may be raised; see :func:`is_prolonged`.
FREE = {
    *("device", "llm_device", "act_store_device", "prefetch_llm_batches"),
    *("compile_llm", "llm_compilation_mode", "compile_sae", "sae_compilation_mode"),
    *("n_checkpoints", "checkpoint_path", "save_final_checkpoint", "output_path"),
    *("resume_from_checkpoint", "from_pretrained_path", "logger", "verbose"),
    *("n_eval_batches", "eval_batch_size_prompts", "feature_sampling_window"),
    *("streaming", "dataset_trust_remote_code", "is_dataset_tokenized"),
    *("n_batches_for_norm_estimate", "dead_feature_threshold", "hook_eval"),
    *("sae_lens_version", "sae_lens_training_version", "tokens_per_buffer"),
    "sae",  # compared with the config of the checkpoint's dictionary
    "n_batches_in_buffer",  # which is filled again
    "dataset_path",  # compared by its first rows, where the checkpoint has recorded them
    "training_tokens",
}

# The settings that depend on how long a run is.
_OF_LENGTH = {"lr_warm_up_steps", "lr_decay_steps", "dead_feature_window"}


def check_checkpoint(folder: str | Path, cfg: LanguageModelSAERunnerConfig[Any]) -> None:
    """Refuse a checkpoint that is missing, damaged, or of another run.

    Raises:
        InputError: Naming the file or the field that differs, and the remedy.
    """
    folder = Path(folder)
    check_checkpoint_files(folder, cfg)
    of_file = read_object(folder / SAE_CFG_FILENAME)
    try:  # as its own class reads what older versions wrote
        kind = TrainingSAE.get_sae_config_class_for_architecture(of_file["architecture"])
        saved = kind.from_dict(dict(of_file)).to_dict()
    except (KeyError, TypeError, ValueError) as error:
        reason = first_line(error)
        raise damaged(folder / SAE_CFG_FILENAME, reason, "resume from another checkpoint") from None
    wanted = cfg.sae.to_dict()
    for key in sorted(wanted.keys() - _FREE_OF_DICTIONARY):
        if saved.get(key) != wanted[key]:
            raise _differs(folder, key, saved.get(key), wanted[key])
    of_run = _config_of_run(folder)
    new = json.loads(json.dumps(cfg.to_dict()))
    free = FREE | (_OF_LENGTH if is_prolonged(folder, cfg) else set())
    if cfg.lr_scheduler_name == "constant":
        free.add("lr_end")  # which it does not heed
    for key in sorted((new.keys() & of_run.keys()) - free):
        if _plainly(key, of_run[key]) != _plainly(key, new[key]):
            raise _differs(folder, key, of_run[key], new[key])
    had_text = bool((of_file.get("metadata") or {}).get("texts_read"))
    if not had_text and _place(of_run.get("dataset_path")) != _place(cfg.dataset_path):
        raise _differs(folder, "dataset_path", of_run.get("dataset_path"), cfg.dataset_path)


def is_prolonged(folder: str | Path, cfg: LanguageModelSAERunnerConfig[Any]) -> bool:
    """Whether a run is resumed for more tokens than it was planned for.

    Its schedule is then that of the longer run, but for the warm-up, which is that of the
    checkpoint.

    Raises:
        InputError: If it is resumed for fewer, or its schedule cannot be prolonged.
    """
    folder = Path(folder)
    of_run = _config_of_run(folder)
    planned = of_run.get("training_tokens", cfg.training_tokens)
    if cfg.training_tokens == planned:
        return False
    if cfg.training_tokens < planned:
        raise InputError(
            f"training_tokens={cfg.training_tokens} is less than the {planned} of the run that "
            f"resume_from_checkpoint={str(folder)!r} is of: a run can be resumed for as many, or "
            "for more"
        )
    had = of_run.get("lr_decay_steps", cfg.lr_decay_steps)
    if bool(had) != bool(cfg.lr_decay_steps):
        raise _differs(folder, "lr_decay_steps", had, cfg.lr_decay_steps)
    return True


def prolong(folder: str | Path, cfg: LanguageModelSAERunnerConfig[Any]) -> None:
    """Give a run that is resumed for longer the warm-up of its checkpoint, which is over."""
    cfg.lr_warm_up_steps = _config_of_run(Path(folder)).get(
        "lr_warm_up_steps", cfg.lr_warm_up_steps
    )


def check_model(folder: str | Path, hook_names: list[str], dtype_name: str) -> None:
    """Refuse a checkpoint of other hook points, or of a model in another dtype.

    Raises:
        InputError: Naming both.
    """
    metadata = read_object(Path(folder) / SAE_CFG_FILENAME).get("metadata") or {}
    for key, now in (("hook_names", hook_names), ("model_dtype", dtype_name)):
        if metadata.get(key) not in (None, now):
            raise _differs(Path(folder), key, metadata[key], now)


def _config_of_run(folder: Path) -> dict[str, Any]:
    """The config of the run that wrote a checkpoint."""
    path = folder / RUNNER_CFG_FILENAME
    if not path.is_file():
        raise InputError(
            f"resume_from_checkpoint={str(folder)!r} has no {RUNNER_CFG_FILENAME}, so that it is "
            "not known what run it is of: resume from another checkpoint"
        )
    return read_object(path)


def _plainly(key: str, value: Any) -> Any:
    """A value such that two ways to write the same are equal."""
    if key == "hook_name" and isinstance(value, str):
        return expand_hook_names(value)
    if key == "model_name" and isinstance(value, str):
        return [_place(name) for name in split_model_names(value)]
    if key == "cached_activations_path":
        return _place(value)
    return value


def _place(path: str | None) -> str | None:
    return str(Path(path).resolve()) if path and exists(path) else path


def _differs(folder: Path, key: str, saved: Any, wanted: Any) -> InputError:
    return InputError(
        f"resume_from_checkpoint={str(folder)!r} was written with {key}={saved!r}, and this run "
        f"has {key}={wanted!r}: resume with the settings of the checkpoint"
    )
