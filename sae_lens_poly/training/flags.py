"""Flags of ``train``: SAELens' own, with the defaults of this package beneath.

They are read and checked (:func:`read_run`) before SAELens is imported, which takes seconds; then
they become a config (:func:`config_of`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sae_lens_poly.constraints import Constraint, Flag, read_value
from sae_lens_poly.embedded import (
    EMBEDDED_DATASET_NAME,
    EMBEDDED_MODEL_NAME,
    HYBRID_MODEL_NAME,
)
from sae_lens_poly.errors import InputError
from sae_lens_poly.hook_names import expand_hook_names
from sae_lens_poly.model_names import guess_model_class, split_model_names
from sae_lens_poly.training.flag_table import OF_COMMAND, FlagTable, flag_table
from sae_lens_poly.training.presets import PRESETS
from sae_lens_poly.training.settings import check_run

if TYPE_CHECKING:
    from sae_lens.config import LanguageModelSAERunnerConfig


#: What train takes where the user gives no flag: the embedded default (benchmarks/recipe.py).
RUN_DEFAULTS: dict[str, Any] = {
    "architecture": "poly_crosscoder",
    "model_name": EMBEDDED_MODEL_NAME,
    "dataset_path": EMBEDDED_DATASET_NAME,
    "hook_name": "blocks.{0..5}.hook_resid_post",
    "training_tokens": 500_000,
    "train_batch_size_tokens": 512,
    "context_size": 256,
    "store_batch_size_prompts": 16,
    "exclude_special_tokens": True,
    "is_dataset_tokenized": False,
    "d_sae": 2048,
    "lr": 0.002,
    "output_path": "output",
    "log_to_wandb": False,
    "verbose": False,
}

#: What takes the place of these for architectures that need another model.
DEFAULTS_OF: dict[str, dict[str, Any]] = {
    "write_sae": {
        "model_name": HYBRID_MODEL_NAME,
        "hook_name": "model.layers.2.linear_attn.state[head=1]",
        "training_tokens": 200_000,
        "d_sae": 512,
        "k": 16,
        "lr": 0.01,
    }
}

#: The hook point of the embedded default for architectures that take one.
SINGLE_HOOK_NAME = "blocks.3.hook_resid_post"

_ALIASES = {"sae": "architecture"}

#: What the buffer that activations are shuffled in holds, where it is not given. A small one costs
#: more than any setting of the dictionary does: what comes together comes from the same few texts.
BUFFER_TOKENS, BUFFER_BYTES = 2**18, 2**29


class Provisional(int):
    """A number that was not given, which the width of the model may lower."""


# A first reading of the flags happens before the model is known; checks that depend on the
# width wait for the second, which has the true one.
_UNKNOWN_WIDTH = 2**20
_UNKNOWN_ROWS = 2**10


def build_config(flags: Sequence[str]) -> LanguageModelSAERunnerConfig[Any]:
    """Flags to a config, with the defaults of this command beneath.

    ``d_in`` that was not given stays provisional until the model is known; see
    :func:`fit_to_model`.

    Raises:
        InputError: If the flags cannot be read or contradict each other.
    """
    return config_of(read_run(flags))


def read_run(flags: Sequence[str]) -> dict[str, Any]:
    """Read the flags of ``train``, put defaults beneath, and check all of it.

    Returns:
        Flag to value, ``architecture`` among them.

    Raises:
        InputError: Naming the first flag that is unknown, has no value or a wrong one, or stands
            against another.
    """
    words, table = split_words(flags), flag_table()
    architecture = _architecture(words, table)
    known = table.of(architecture)
    given = {}
    for name, values in words.items():
        if name.startswith("no") and isinstance(known.get(name[2:]), Flag) and not values:
            name, values = name[2:], ["False"]
        if name not in known:
            raise InputError(_unknown(name, architecture, table))
        given[name] = read_value(name, values, known[name])
    settings = with_defaults(given, architecture, known)
    check_run({**table.defaults, **settings, "several": "n_hooks" in known})
    return settings


def print_help(flags: Sequence[str]) -> None:
    """Print SAELens' help of the flags for an architecture, and what ``train`` sets beneath."""
    from sae_lens.llm_sae_training_runner import _parse_cfg_args as parse_sae_lens_flags

    from sae_lens_poly.registration import register

    register()
    table = flag_table()
    words = split_words([flag for flag in flags if flag not in ("-h", "--help")])
    architecture = _architecture(words, table)
    with contextlib.suppress(SystemExit):
        parse_sae_lens_flags(["--architecture", architecture, "--help"])
    print("\nWhere a flag is not given, train takes:")
    preset = {name: words[name][0] for name in ("preset",) if name in words}
    for name, value in with_defaults(preset, architecture, table.of(architecture)).items():
        if name not in ("d_in", "d_k", "preset"):  # the model's
            print(f"  --{name} {value}")


def _architecture(words: Mapping[str, list[str]], table: FlagTable) -> str:
    """What is to be trained: as a flag says, else as the preset does, else the default."""
    beneath = RUN_DEFAULTS
    if "preset" in words:
        beneath = (
            beneath | PRESETS[read_value("preset", words["preset"], table.run["preset"])].FLAGS
        )
    named = words.get("architecture", [beneath["architecture"]])
    return read_value("architecture", named, table.run["architecture"])


def split_words(flags: Sequence[str]) -> dict[str, list[str]]:
    """The words of a command line by the flag that they stand after; the last of its name counts.

    Raises:
        InputError: If a word stands after no flag.
    """
    words: dict[str, list[str]] = {}
    values: list[str] | None = None
    for word in flags:
        if word.startswith("-") and not _is_number(word):
            name, with_value, value = word[1:].removeprefix("-").partition("=")
            if not name or name.startswith("-") or (word[1] != "-" and len(name) > 1):
                raise InputError(f"{word[:80]!r} is not a flag: write --name value")
            name = _ALIASES.get(name, name)
            words.pop(name, None)  # so that the order is that of the last
            words[name] = [value] if with_value else []
            values = None if with_value else words[name]
        elif values is None:
            raise InputError(f"{word[:80]!r} stands after no flag: write --name value")
        else:
            values.append(word)
    return words


def with_defaults(
    given: Mapping[str, Any], architecture: str, known: Mapping[str, Constraint]
) -> dict[str, Any]:
    """Settings that were given and, for the others, the defaults of ``train``.

    The schedule fits the length of the run, and makes room for the part of it that is given:
    a twentieth of the steps warms up, a quarter decays.

    Args:
        given: Flag to value.
        architecture: Of the dictionary that is trained.
        known: The flags that it takes.
    """
    preset = PRESETS.get(given.get("preset", ""))
    settings = {**RUN_DEFAULTS, "architecture": architecture} | DEFAULTS_OF.get(architecture, {})
    if "n_hooks" not in known:
        settings["hook_name"] = SINGLE_HOOK_NAME
    if preset is not None:
        settings |= _of_preset(preset.FLAGS, given, architecture, known)
    settings |= given
    model_name = settings["model_name"]
    n_hooks = len(expand_hook_names(settings["hook_name"])) * len(split_model_names(model_name))
    n_steps = settings["training_tokens"] // settings["train_batch_size_tokens"]
    warm_up, decay = given.get("lr_warm_up_steps", 0), given.get("lr_decay_steps", 0)
    # A cosine that ends at 0 has nothing left to decay.
    anneals_to_0 = settings.get("lr_scheduler_name", "constant") != "constant"
    anneals_to_0 &= settings.get("lr_end") == 0
    beneath = {
        "model_class_name": guess_model_class(model_name),
        "d_in": n_hooks * _UNKNOWN_WIDTH * given.get("d_k", 1),
        "lr_warm_up_steps": max(0, min(n_steps // 20, (n_steps - decay) // 2)),
        "lr_decay_steps": 0
        if anneals_to_0
        else max(0, min(n_steps // 4, (n_steps - warm_up) // 2)),
        # SAELens' 1000 steps are more than a short run has.
        "dead_feature_window": min(1000, max(50, n_steps // 12)),
        "n_batches_in_buffer": Provisional(contexts_in_buffer(settings)),
    }
    if preset is not None:
        beneath |= preset.fitted(settings, n_steps)
    if "n_hooks" in known:
        beneath["n_hooks"] = n_hooks
    if "d_k" in known:
        beneath["d_k"] = _UNKNOWN_ROWS
    if "k" in known:
        beneath["k"] = min(32, settings["d_sae"])
    if given.get("n_hooks", n_hooks) != n_hooks:
        raise InputError(
            f"n_hooks={given['n_hooks']}, but hook_name={settings['hook_name']!r} names "
            f"{n_hooks} hook points with model_name={model_name!r}: leave n_hooks out"
        )
    return {**beneath, **settings}


def _of_preset(
    flags: Mapping[str, Any], given: Mapping[str, Any], architecture: str, known: Collection[str]
) -> dict[str, Any]:
    """What a preset sets, if the dictionary has such flags.

    Raises:
        InputError: If it has not.
    """
    for name in flags:
        if name not in known:
            raise InputError(
                f"preset={given['preset']!r} sets {name}, which architecture={architecture!r} has "
                f"not: leave architecture out, or take {flags['architecture']!r}"
            )
    return {**flags, "architecture": architecture}


def config_of(settings: Mapping[str, Any]) -> LanguageModelSAERunnerConfig[Any]:
    """What :func:`read_run` read, as SAELens' config.

    Raises:
        InputError: If SAELens or the dictionary's config refuses it.
    """
    from sae_lens.config import LanguageModelSAERunnerConfig, LoggingConfig
    from sae_lens.registry import get_sae_training_class

    from sae_lens_poly.registration import register

    register()
    of_run, of_log = (
        {field.name for field in dataclasses.fields(part)}
        for part in (LanguageModelSAERunnerConfig, LoggingConfig)
    )
    run: dict[str, Any] = {}
    log: dict[str, Any] = {}
    sae: dict[str, Any] = {}
    for name, value in settings.items():
        if name in OF_COMMAND:
            continue
        part = run if name in of_run else log if name in of_log else sae
        part[name.removeprefix("sae.")] = value
    config_class = get_sae_training_class(sae.pop("architecture"))[1]
    try:
        return LanguageModelSAERunnerConfig(
            sae=config_class(**sae), logger=LoggingConfig(**log), **run
        )
    except InputError:
        raise
    except (ValueError, TypeError) as error:
        raise InputError(str(error)) from error


#: A width for :func:`contexts_in_buffer` by which the buffer fits every model.
ANY_WIDTH = 2**20


def contexts_in_buffer(settings: Mapping[str, Any], d_in: int = 1) -> int:
    """Contexts that the buffer of a run holds: two batches at least, so that half can be mixed.

    Args:
        settings: Of the run.
        d_in: Width of its activations.
    """
    tokens = min(BUFFER_TOKENS, BUFFER_BYTES // (4 * d_in))
    two_batches = -(-2 * settings["train_batch_size_tokens"] // settings["context_size"])
    return max(128, two_batches, tokens // settings["context_size"])


def fit_to_model(
    cfg: LanguageModelSAERunnerConfig[Any],
    d_in: int,
    state_shape: tuple[int, int] | None = None,
) -> LanguageModelSAERunnerConfig[Any]:
    """Put the model's sizes into a config where they were not given.

    Args:
        cfg: What :func:`build_config` made, changed in place.
        d_in: Width of the activations.
        state_shape: Rows and columns of a recurrent state, where activations are such states.

    Raises:
        InputError: If latents are matrices and the model's activations are not.
    """
    sizes: dict[str, int] = {}
    if cfg.sae.d_in % _UNKNOWN_WIDTH == 0:
        sizes["d_in"] = d_in
    if getattr(cfg.sae, "d_k", None) == _UNKNOWN_ROWS:
        if state_shape is None:
            raise InputError(
                f"architecture={cfg.sae.architecture()!r} is for recurrent states of one shape, "
                f"and hook_name={cfg.hook_name!r} is not: take a model that has them, and name "
                "them like 'model.layers.{0..2}.linear_attn.state[head=3]'"
            )
        sizes["d_k"] = state_shape[0]
    cfg.sae = dataclasses.replace(cfg.sae, **sizes) if sizes else cfg.sae
    if isinstance(cfg.n_batches_in_buffer, Provisional):
        cfg.n_batches_in_buffer = contexts_in_buffer(vars(cfg), d_in)
    return cfg


def _unknown(name: str, architecture: str, table: FlagTable) -> str:
    others = [other for other, flags in table.dictionaries.items() if name in flags]
    if others:
        return f"--{name} is no flag of architecture={architecture!r}: {', '.join(others)} have it"
    known = table.of(architecture)
    last = name.rpartition(".")[2]
    near = [flag for flag in known if (name and flag.startswith(name)) or flag == last]
    near = near or difflib.get_close_matches(name[:80], known, n=1)
    hint = f"did you mean --{near[0]}?" if near else "train --help lists the flags"
    return f"--{name[:80]} is not a flag of train: {hint}"


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
