"""Flags of ``train``: SAELens' own, with the defaults of this package beneath."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
from collections.abc import Sequence
from typing import Any

from sae_lens.config import LanguageModelSAERunnerConfig
from sae_lens.llm_sae_training_runner import _parse_cfg_args as parse_sae_lens_flags

from sae_lens_poly.embedded.model import EMBEDDED_MODEL_NAME
from sae_lens_poly.errors import InputError
from sae_lens_poly.hook_names import expand_hook_names
from sae_lens_poly.models.loading import guess_model_class
from sae_lens_poly.registration import TRAINING
from sae_lens_poly.training.data import EMBEDDED_DATASET_NAME

#: What train takes where the user gives no flag: the embedded default.
RUN_DEFAULTS: dict[str, str] = {
    "architecture": "poly_crosscoder",
    "model_name": EMBEDDED_MODEL_NAME,
    "dataset_path": EMBEDDED_DATASET_NAME,
    "hook_name": "blocks.{0..5}.hook_resid_post",
    "training_tokens": "600000",
    "train_batch_size_tokens": "1024",
    "context_size": "256",
    "store_batch_size_prompts": "16",
    "n_batches_in_buffer": "128",
    "exclude_special_tokens": "True",
    "is_dataset_tokenized": "False",
    "lr": "0.001",
    "dead_feature_window": "50",
    "output_path": "output",
    "log_to_wandb": "False",
    "verbose": "False",
}

#: The same for fields that only some architectures have, and for this package's alone.
DICTIONARY_DEFAULTS: dict[str, str] = {"d_sae": "2048", "k": "32"}

#: The hook point of the embedded default for architectures that take one.
SINGLE_HOOK_NAME = "blocks.3.hook_resid_post"

# A first reading of the flags happens before the model is known; checks that depend on the
# width wait for the second, which has the true one.
_UNKNOWN_WIDTH = 2**20


def build_config(flags: Sequence[str]) -> LanguageModelSAERunnerConfig[Any]:
    """Flags to a config: SAELens' own parser, with the defaults of this command beneath.

    ``d_in`` and ``n_hooks`` that were not given stay provisional until the model is known; see
    :func:`fit_to_model`.

    Raises:
        InputError: If the flags cannot be read or contradict each other.
    """
    given = _names_of(flags)
    defaults = dict(RUN_DEFAULTS)
    architecture = _value_of(flags, "architecture", defaults["architecture"])
    fields: set[str] = set()
    if architecture in TRAINING:
        fields = {field.name for field in dataclasses.fields(TRAINING[architecture][1])}
        defaults |= {k: v for k, v in DICTIONARY_DEFAULTS.items() if k in fields}
    model_name = _value_of(flags, "model_name", defaults["model_name"])
    defaults["model_class_name"] = guess_model_class(model_name)
    if "n_hooks" not in fields:
        defaults["hook_name"] = SINGLE_HOOK_NAME
    n_hooks = len(expand_hook_names(_value_of(flags, "hook_name", defaults["hook_name"])))
    n_hooks *= len(model_name.split(","))
    defaults["d_in"] = str(n_hooks * _UNKNOWN_WIDTH)
    if "n_hooks" in fields:
        defaults["n_hooks"] = str(n_hooks)
    n_tokens, batch_size = (
        _number_of(flags, name, defaults[name])
        for name in ("training_tokens", "train_batch_size_tokens")
    )
    n_steps = n_tokens // batch_size
    defaults["lr_warm_up_steps"] = str(n_steps // 20)
    defaults["lr_decay_steps"] = str(n_steps // 4)
    # SAELens starts the decay at lr_end, by default a tenth of lr: an abrupt drop.
    defaults["lr_end"] = _value_of(flags, "lr", defaults["lr"])
    beneath = [f"--{name}={value}" for name, value in defaults.items() if name not in given]
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            return parse_sae_lens_flags([*beneath, *flags])
    except InputError:
        raise
    except (argparse.ArgumentError, ValueError, TypeError) as error:
        raise InputError(str(error)) from error
    except SystemExit as error:
        if not error.code:  # --help
            raise
        # The parser prints all of its usage, and in the last line what is wrong.
        said = printed.getvalue().strip().splitlines()[-1]
        raise InputError(f"{said.split('error: ')[-1]}; train --help lists the flags") from error


def _names_of(flags: Sequence[str]) -> set[str]:
    return {flag[2:].split("=")[0].split(".")[-1] for flag in flags if flag.startswith("--")}


def _value_of(flags: Sequence[str], name: str, default: str) -> str:
    for i, flag in enumerate(flags):
        if flag == f"--{name}" and i + 1 < len(flags):
            default = flags[i + 1]
        elif flag.startswith(f"--{name}="):
            default = flag.split("=", 1)[1]
    return default


def _number_of(flags: Sequence[str], name: str, default: str) -> int:
    value = _value_of(flags, name, default)
    if not value.isdecimal() or int(value) < 1:
        raise InputError(f"{name}={value} is not a positive whole number")
    return int(value)


def fit_to_model(
    cfg: LanguageModelSAERunnerConfig[Any], d_in: int
) -> LanguageModelSAERunnerConfig[Any]:
    """Put the true width into a config whose width was not given."""
    if cfg.sae.d_in % _UNKNOWN_WIDTH == 0:
        cfg.sae = dataclasses.replace(cfg.sae, d_in=d_in)
    return cfg
