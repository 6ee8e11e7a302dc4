"""What the settings of a training run may be: ranges as data, and the rules between them.

:func:`check_runner_config` checks a config, :func:`check_run` the settings of a command line before
the libraries that make a config of them are imported.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import typing
from collections.abc import Collection, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_lens_poly.constraints import (
    COUNT,
    COUNT_OR_0,
    AnyOf,
    Choice,
    Constraint,
    Flag,
    ListOf,
    Number,
    Registered,
    Text,
    check_value,
    constraint_of,
)
from sae_lens_poly.devices import check_device
from sae_lens_poly.errors import InputError
from sae_lens_poly.hook_names import expand_hook_names
from sae_lens_poly.model_names import check_model_names, split_model_names
from sae_lens_poly.paths import (
    check_can_write,
    check_folder,
    check_text,
    check_there,
    looks_local,
)

if TYPE_CHECKING:
    from sae_lens.config import LanguageModelSAERunnerConfig

_RATIO = Number(at_least=0, below=1)
_NOT_NEGATIVE = Number(at_least=0)
_POSITIVE = Number(above=0)
_DTYPE = Choice("float32", "float64", "bfloat16")  # in float16, Adam's epsilon is 0
_TORCH_COMPILE_MODE = Choice(
    "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs", None
)

#: Fields of SAELens' runner, its logging and its dictionaries whose type does not say it all.
#: Whether a number is whole, or may be None, is read from the type.
CONSTRAINTS: Mapping[str, Constraint] = {
    # the run
    "training_tokens": Number(at_least=1, at_most=2**53, whole=True),
    "train_batch_size_tokens": COUNT,
    "lr": _POSITIVE,
    "lr_end": _NOT_NEGATIVE,
    "lr_scheduler_name": Choice("constant", "cosineannealing", "cosineannealingwarmrestarts"),
    "lr_warm_up_steps": COUNT_OR_0,
    "lr_decay_steps": COUNT_OR_0,
    "n_restart_cycles": COUNT,
    "adam_beta1": _RATIO,
    "adam_beta2": _RATIO,
    "dead_feature_window": COUNT,
    "feature_sampling_window": COUNT,
    "dead_feature_threshold": _NOT_NEGATIVE,
    "seed": Number(at_least=0, at_most=2**32 - 1, whole=True),
    "n_batches_for_norm_estimate": COUNT,
    "n_checkpoints": COUNT_OR_0,
    # the model and its text
    "model_class_name": Choice("HookedTransformer", "HookedMamba", "AutoModelForCausalLM"),
    "hook_head_index": COUNT_OR_0,
    "dataset_path": Text(may_be_empty=True),
    "context_size": Number(at_least=2, at_most=2**31 - 1, whole=True),
    "n_batches_in_buffer": COUNT,
    "store_batch_size_prompts": COUNT,
    "activations_mixing_fraction": Number(at_least=0, at_most=1),
    "sequence_separator_token": AnyOf(Choice("bos", "eos", "sep", None), COUNT_OR_0),
    "exclude_special_tokens": AnyOf(Flag(), ListOf(COUNT_OR_0)),
    "prefetch_llm_batches": AnyOf(Flag(), Number(at_least=0, at_most=1024, whole=True)),
    "dtype": _DTYPE,
    "llm_compilation_mode": _TORCH_COMPILE_MODE,
    "sae_compilation_mode": _TORCH_COMPILE_MODE,
    # its evaluation and its log
    "n_eval_batches": COUNT,
    "eval_batch_size_prompts": COUNT,
    "wandb_log_frequency": COUNT,
    "eval_every_n_wandb_logs": COUNT,
    # SAELens' dictionaries
    "d_in": COUNT,
    "d_sae": COUNT,
    "k": _POSITIVE,
    "decoder_init_norm": _POSITIVE,
    "matryoshka_widths": ListOf(COUNT),
    "topk_threshold_lr": Number(above=0, at_most=1),
    "aux_loss_coefficient": _NOT_NEGATIVE,
    "l0_coefficient": _NOT_NEGATIVE,
    "l0_warm_up_steps": COUNT_OR_0,
    "l1_coefficient": _NOT_NEGATIVE,
    "l1_warm_up_steps": COUNT_OR_0,
    "lp_norm": _POSITIVE,
    "jumprelu_init_threshold": _POSITIVE,
    "jumprelu_bandwidth": _POSITIVE,
    "jumprelu_tanh_scale": _POSITIVE,
    "pre_act_loss_coefficient": _NOT_NEGATIVE,
    "target_l0": _POSITIVE,
    "residual_threshold": _NOT_NEGATIVE,
    "max_iterations": COUNT,
}

#: Fields that say where something came from or are no longer used: not for a user to set.
NOT_SETTINGS = {"metadata", "hook_eval", "sae_lens_version", "sae_lens_training_version"}


def constraints_of(config_class: type) -> dict[str, Constraint]:
    """What the fields of a config class may be.

    A class may declare them (in ``CONSTRAINTS`` and ``..._CONSTRAINTS``, inherited field by
    field); for other fields it is :data:`CONSTRAINTS`, or what the type says.
    """
    declared: dict[str, Constraint] = {}
    for base in reversed(config_class.__mro__):
        for name, value in vars(base).items():
            if name.endswith("CONSTRAINTS"):
                declared |= value
    hints, found = typing.get_type_hints(config_class), {}
    for field in dataclasses.fields(config_class):
        of_type = constraint_of(hints[field.name])
        if of_type is None or field.name in NOT_SETTINGS:
            continue
        constraint = declared.get(field.name, CONSTRAINTS.get(field.name, of_type))
        if isinstance(constraint, Number) and isinstance(of_type, Number):
            constraint = dataclasses.replace(constraint, whole=of_type.whole or constraint.whole)
        # A config may put a number in place of None, and declare what that is.
        if isinstance(constraint, Number | Flag) and isinstance(of_type, Number | Flag):
            constraint = dataclasses.replace(constraint, optional=of_type.optional)
        found[field.name] = constraint.now() if isinstance(constraint, Registered) else constraint
    return found


def check_runner_config(
    cfg: LanguageModelSAERunnerConfig[Any], overridden: Collection[str] = ()
) -> None:
    """Refuse a config that cannot work, before its model and its text are loaded.

    Numbers of numpy, paths and torch's dtypes become numbers and text in place first: a config is
    saved as JSON.

    Args:
        cfg: The config of a run.
        overridden: ``model_name`` and ``dataset_path`` where model and text are at hand already.

    Raises:
        InputError: Naming the first field that is wrong, its value and the remedy.
    """
    settings: dict[str, Any] = {"architecture": cfg.sae.architecture()}
    for part in (cfg.sae, cfg.logger, cfg):
        for field in dataclasses.fields(part):
            setattr(part, field.name, plain(getattr(part, field.name)))
        for name, constraint in constraints_of(type(part)).items():
            check_value(name, getattr(part, name), constraint)
        settings |= vars(part)
    settings["several"] = hasattr(cfg.sae, "n_hooks")
    check_run(settings, overridden)
    for name, value in cfg.to_dict().items():
        try:
            json.dumps(value)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{name}={value!r} cannot be saved as JSON ({error}): give numbers, text, lists "
                "and dicts of them"
            ) from None
    _check_memory(settings)


def plain(value: Any) -> Any:
    """A value as JSON has it: numpy's numbers as Python's, paths and torch's dtypes as text."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        inside = [plain(item) for item in value]
        return inside if isinstance(value, list) else tuple(inside)
    kind = type(value).__module__.split(".")[0]
    if kind == "numpy" and hasattr(value, "item"):
        return value.item()
    if kind == "torch" and type(value).__name__ in ("dtype", "device"):
        return str(value).removeprefix("torch.")
    return str(value) if isinstance(value, Path) else value


def check_run(settings: Mapping[str, Any], overridden: Collection[str] = ()) -> None:
    """Refuse settings of a run that contradict each other or name what is not there.

    Args:
        settings: All fields of SAELens' runner config and of its logging, each in its range; those
            of the dictionary that are known; ``architecture``, and ``several``: whether a
            dictionary of that architecture takes several hook points.
        overridden: See :func:`check_runner_config`.

    Raises:
        InputError: Naming the field, its value and the remedy.
    """
    _check_hook_points(settings)
    _check_dictionary(settings)
    _check_schedule(settings)
    _check_text_settings(settings)
    for name in ("device", "llm_device", "act_store_device"):
        if settings[name] not in (None, "with_model"):
            check_device(name, settings[name])
    _check_log(settings)
    _check_paths(settings, overridden)


def _check_hook_points(settings: Mapping[str, Any]) -> None:
    check_model_names(settings["model_name"])
    n_models = len(split_model_names(settings["model_name"]))
    n_hooks = n_models * len(expand_hook_names(settings["hook_name"]))
    if n_hooks > 1 and not settings["several"]:
        raise InputError(
            f"architecture={settings['architecture']!r} is for one hook point, and "
            f"hook_name={settings['hook_name']!r} names {n_hooks} with "
            f"model_name={settings['model_name']!r}: name one, or train a crosscoder"
        )


def _check_dictionary(settings: Mapping[str, Any]) -> None:
    k, d_sae = settings.get("k"), settings["d_sae"]
    if k is not None and k > d_sae:
        raise InputError(f"k={k:g} is more than d_sae={d_sae}: lower k, or raise d_sae")
    sets = settings.get("reads"), settings.get("writes")
    if settings.get("structure") == "free" and sets == (None, None):
        raise InputError(
            "structure='free' reads and writes all hook points without reads or writes: give one "
            "of them, or take structure='acausal'"
        )


def _check_schedule(settings: Mapping[str, Any]) -> None:
    tokens, batch = settings["training_tokens"], settings["train_batch_size_tokens"]
    n_steps = tokens // batch
    if not n_steps:
        raise InputError(
            f"training_tokens={tokens} is less than one batch, train_batch_size_tokens={batch}: "
            "raise the one or lower the other"
        )
    warm_up, decay = settings["lr_warm_up_steps"], settings["lr_decay_steps"]
    between = n_steps - warm_up - decay
    cycles = settings["n_restart_cycles"]
    least = {"constant": 0, "cosineannealing": 1, "cosineannealingwarmrestarts": cycles}
    name = settings["lr_scheduler_name"]
    if between < least[name]:
        raise InputError(
            f"lr_warm_up_steps={warm_up} and lr_decay_steps={decay} leave {between} of the "
            f"run's {n_steps} steps, and lr_scheduler_name={name!r} needs {least[name]}: lower "
            "them, or raise training_tokens"
        )
    if name != "constant" and decay and settings["lr_end"] == 0:
        raise InputError(
            f"lr_decay_steps={decay} would decay from lr_end=0: set lr_decay_steps=0, or raise "
            "lr_end"
        )


def _check_text_settings(settings: Mapping[str, Any]) -> None:
    if settings["use_chat_formatting"] and settings["is_dataset_tokenized"]:
        raise InputError(
            "use_chat_formatting=True needs conversations, and is_dataset_tokenized=True says that "
            "there are tokens: set one of them to False"
        )
    context_size, seqpos = settings["context_size"], settings["seqpos_slice"]
    if not 1 <= len(seqpos) <= 3 or (len(seqpos) == 3 and (seqpos[2] or 1) < 2):
        raise InputError(f"seqpos_slice={seqpos} must be start, end and, if any, a step above 1")
    n_positions = len(range(context_size)[slice(*seqpos)])
    if not n_positions:
        raise InputError(
            f"seqpos_slice={seqpos} leaves none of the context_size={context_size} positions"
        )
    if settings["use_cached_activations"]:
        return
    buffer = settings["n_batches_in_buffer"] * n_positions
    if buffer < settings["train_batch_size_tokens"]:
        batch = settings["train_batch_size_tokens"]
        raise InputError(
            f"train_batch_size_tokens={batch} is more than the buffer holds, "
            f"n_batches_in_buffer * {n_positions} positions of a context = {buffer}: raise "
            "n_batches_in_buffer"
        )


def _check_log(settings: Mapping[str, Any]) -> None:
    """What wandb would refuse at the first checkpoint, when it is given SAELens' name."""
    if not settings["log_to_wandb"] or settings["several"]:
        return
    name = f"sae_{settings['model_name']}_{settings['hook_name']}_{settings['d_sae']}"
    name = f"{name}_log_feature_sparsity".replace("/", "__")
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,128}", name):
        raise InputError(
            f"log_to_wandb=True: wandb takes names of at most 128 letters (a to z), digits and "
            f"- _ . , and {name!r} is made of model_name, hook_name and d_sae: set "
            "log_to_wandb=False, or rename the model's folder"
        )


def _check_paths(settings: Mapping[str, Any], overridden: Collection[str]) -> None:
    if "model_name" not in overridden:
        for name in split_model_names(settings["model_name"]):
            if looks_local(name):
                remedy = "give a folder with a config.json, or the name of a model"
                check_folder("model_name", name, ("config.json",), remedy)
    if settings["model_class_name"] == "HookedMamba" and find_spec("mamba_lens") is None:
        raise InputError("model_class_name='HookedMamba' needs mamba-lens: pip install mamba-lens")
    if settings["use_cached_activations"]:
        path = settings["cached_activations_path"]
        if path is not None:  # None: where SAELens puts them
            check_there("cached_activations_path", path, "give a folder of cached activations")
    elif "dataset_path" not in overridden:
        check_text("dataset_path", settings["dataset_path"])
    for name, remedy in (
        ("resume_from_checkpoint", "give the folder of one checkpoint"),
        ("from_pretrained_path", "give the folder of a checkpoint"),
    ):
        if settings[name] is not None:
            check_folder(name, settings[name], (), remedy)
    for name in ("output_path", "checkpoint_path"):
        if settings[name] is not None:
            check_can_write(name, settings[name])


def _check_memory(settings: Mapping[str, Any]) -> None:
    """Refuse a buffer of activations that this machine cannot hold."""
    if settings["use_cached_activations"] or "SC_PHYS_PAGES" not in getattr(
        os, "sysconf_names", {}
    ):
        return
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    for name in ("n_batches_in_buffer", "store_batch_size_prompts"):
        needed = settings[name] * settings["context_size"] * settings["d_in"] * 4 / 1e9
        if needed > memory:
            raise InputError(
                f"{name}={settings[name]} takes {needed:,.0f} GB of activations "
                f"({name} * context_size * d_in), and this machine has {memory:,.0f} GB: lower it"
            )
