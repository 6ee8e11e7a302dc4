"""What is compared: the arms of a YAML file, at equal tokens, width and L0."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_lens_poly.constraints import Constraint, Flag, ListOf, Number, Text, read_value
from sae_lens_poly.embedded import EMBEDDED_DATASET_NAME
from sae_lens_poly.errors import InputError
from sae_lens_poly.evaluation.settings import EvaluationSettings, check_evaluation_text
from sae_lens_poly.hook_names import expand_hook_names
from sae_lens_poly.paths import exists
from sae_lens_poly.read_files import read_yaml
from sae_lens_poly.training.flags import (
    ANY_WIDTH,
    Provisional,
    config_of,
    contexts_in_buffer,
    read_run,
)
from sae_lens_poly.training.settings import CONSTRAINTS
from sae_lens_poly.training.text_reading import TEXT_FIELDS

if TYPE_CHECKING:
    from sae_lens.config import LanguageModelSAERunnerConfig

# How the model reads the text, which has to be the same in all arms too.
_TEXT_FIELDS = (*TEXT_FIELDS, "store_batch_size_prompts")

# What has to be the same in all arms, and stands beside them.
_SHARED_FIELDS = ("training_tokens", "d_sae", "k", "model_name", "hook_name", "dataset_path")

# Fields of a file beside its mappings.
_FIELDS: dict[str, Constraint] = {
    **{name: CONSTRAINTS.get(name, Text()) for name in _SHARED_FIELDS},
    "learning_rates": ListOf(CONSTRAINTS["lr"]),
    "record_gb": Number(at_least=0),
    "description": Text(may_be_empty=True),
}


@dataclass(frozen=True)
class Arm:
    """One kind of dictionary, trained once for each seed."""

    name: str
    flags: dict[str, Any]
    """Fields of the run and the dictionary, as ``train`` takes them as flags."""
    learning_rates: tuple[float, ...]
    """Those that it is tuned over."""
    separate: bool = False
    """Whether every hook point gets a dictionary of its own."""

    @property
    def folder_name(self) -> str:
        """The name, fit for a folder."""
        return re.sub(r"[^\w.]+", "-", self.name).strip("-")


@dataclass(frozen=True)
class Comparison:
    """A comparison as its YAML file describes it.

    The file's fields:

    - ``model_name``, ``hook_name``, ``dataset_path``, ``training_tokens``, ``d_sae``, ``k``: what
      all arms share.
    - ``run``: further flags of ``train`` for all arms (batch size, context size, ...).
    - ``learning_rates``: where there are several, each arm takes the one with the highest explained
      variance on other held-out text, mean of two seeds of their own. An arm may have others.
    - ``record_gb``: up to how much disk the activations may take that are computed once for all
      arms; a comparison that needs more computes them for each arm.
    - ``evaluation``: see :class:`~sae_lens_poly.evaluation.settings.EvaluationSettings`.
    - ``arms``: name to fields of the dictionary, for example ``{architecture: crosscoder,
      mask_p: 0.05}``. With ``separate: true`` every hook point gets a dictionary of its own, of the
      same width and k.
    """

    name: str
    arms: tuple[Arm, ...]
    training_tokens: int
    hook_name: str
    record_gb: float = 20.0
    evaluation: dict[str, Any] = field(default_factory=dict)
    description: str = ""

    def only(self, names: list[str] | None) -> Comparison:
        """The same with these arms alone (None: all).

        Raises:
            InputError: If there is none of a name, or it is named twice.
        """
        known = {arm.name: arm for arm in self.arms}
        for name in names or []:
            if (names or []).count(name) > 1:
                raise InputError(f"arms: {name!r} is named twice")
            if name not in known:
                raise InputError(f"arms: there is no {name!r}; there are {', '.join(known)}")
        return (
            self
            if names is None
            else dataclasses.replace(self, arms=tuple(known[name] for name in names))
        )


def presets() -> list[str]:
    """Names of the comparisons that come with the package."""
    folder = resources.files("sae_lens_poly.comparison") / "presets"
    return sorted(path.name.removesuffix(".yaml") for path in folder.iterdir())


def read_comparison(
    source: str,
    overrides: dict[str, Any] | None = None,
    evaluation: dict[str, Any] | None = None,
) -> Comparison:
    """Read a preset or a YAML file, and check all of it.

    Args:
        source: Name of a preset, or the path of a file.
        overrides: Fields of the file to replace.
        evaluation: Settings of its evaluation to replace.

    Raises:
        InputError: Naming what is missing, unknown, unequal or wrong.
    """
    comparison = comparison_of(source, overrides, evaluation)
    check_arms(comparison)
    return comparison


def comparison_of(
    source: str,
    overrides: dict[str, Any] | None = None,
    evaluation: dict[str, Any] | None = None,
) -> Comparison:
    """The part of :func:`read_comparison` that needs no SAELens: all but :func:`check_arms`."""
    if source in presets():
        file = resources.files("sae_lens_poly.comparison") / "presets" / f"{source}.yaml"
        content, name = read_yaml(Path(str(file))), source
    elif exists(source) and Path(source).is_file():
        content, name = read_yaml(Path(source)), Path(source).stem
    else:
        raise InputError(
            f"{source!r} is neither a file nor a preset: the presets are {', '.join(presets())}"
        )
    try:
        return _comparison(name, {**content, **(overrides or {})}, evaluation or {})
    except InputError as error:
        raise InputError(f"{name}: {error}") from error


def _comparison(name: str, content: dict[str, Any], evaluation: dict[str, Any]) -> Comparison:
    mappings = {key: content.pop(key, None) or {} for key in ("run", "evaluation", "arms")}
    for key, fields in mappings.items():
        if not isinstance(fields, dict):
            raise InputError(f"{key} is not a mapping of names to values")
    run, given_arms = mappings["run"], mappings["arms"]
    settings = {**mappings["evaluation"], **evaluation}
    for key in content:
        if key not in _FIELDS:
            known = ", ".join(sorted({*_FIELDS, *mappings}))
            raise InputError(f"unknown field {key!r}; there are {known}")
    for key in (*_SHARED_FIELDS, "learning_rates"):
        if content.get(key) in (None, [], ""):
            raise InputError(f"{key} is missing")
    if not given_arms:
        raise InputError("arms is missing")
    values = {key: read_value(key, _words(value), _FIELDS[key]) for key, value in content.items()}
    for key in set(run) & set(_SHARED_FIELDS):
        raise InputError(f"{key} stands under run, and belongs beside it")
    shared = {key: content[key] for key in _SHARED_FIELDS}
    arms = [
        _arm(str(arm), fields, {**shared, **run}, values["learning_rates"])
        for arm, fields in given_arms.items()
    ]
    folders = [arm.folder_name for arm in arms]
    for arm in arms:
        if folders.count(arm.folder_name) > 1:
            raise InputError(f"the arms have to differ in more than signs: {arm.name!r}")
    _check_evaluation(settings, arms, shared["dataset_path"])
    return Comparison(
        name=name,
        arms=tuple(arms),
        training_tokens=values["training_tokens"],
        hook_name=values["hook_name"],
        record_gb=values.get("record_gb", 20.0),
        evaluation=settings,
        description=values.get("description", ""),
    )


def _arm(name: str, fields: Any, common: dict[str, Any], rates: list[float]) -> Arm:
    """An arm from its fields in the file; its flags are read once for each learning rate."""
    if not isinstance(fields, dict):
        raise InputError(f"the arm {name!r} is not a mapping of names to values")
    for key in (*_SHARED_FIELDS, *_TEXT_FIELDS):
        if key in fields and key not in ("d_sae", "k"):
            raise InputError(
                f"the arm {name!r} sets {key}, which all arms share: set it beside arms"
            )
    if "architecture" not in fields:
        raise InputError(f"the arm {name!r} has no architecture")
    flags = {**common, **fields}
    separate = read_value("separate", _words(flags.pop("separate", False)), Flag())
    if (own := flags.pop("learning_rates", None)) is not None:
        rates = read_value("learning_rates", _words(own), _FIELDS["learning_rates"])
    if not rates:
        raise InputError(f"the arm {name!r} has no learning_rates")
    texts = [f"{rate:g}" for rate in rates]
    for text in texts:
        if texts.count(text) > 1:
            raise InputError(f"the arm {name!r} has learning_rates={text} twice: give it once")
    arm = Arm(name, flags, tuple(rates), separate)
    if not re.search(r"\w", arm.folder_name) or len(arm.folder_name) > 100:
        raise InputError(f"the arm {name[:100]!r} needs a name of 1 to 100 letters: it is a folder")
    for rate in rates:
        _settings_of_run(arm, rate, seed=0)
    return arm


def _check_evaluation(settings: dict[str, Any], arms: list[Arm], dataset_path: str) -> None:
    evaluation = EvaluationSettings.from_dict(settings)
    check_evaluation_text(evaluation)
    widest = max(evaluation.probe_ks, default=1)
    if widest > min(int(_words(arm.flags["d_sae"])[0]) for arm in arms):
        raise InputError(f"probe_ks has {widest}, which is more than d_sae")
    same_text = evaluation.dataset_path in (None, dataset_path)
    if same_text and dataset_path != EMBEDDED_DATASET_NAME and evaluation.skip_rows is None:
        raise InputError(
            f"dataset_path={dataset_path!r} has no held-out part: say under evaluation how many "
            "rows training may read (skip_rows), or name another dataset_path"
        )


def check_arms(comparison: Comparison) -> None:
    """Refuse arms whose dictionaries cannot be made.

    Raises:
        InputError: Naming the arm, and what is wrong with its fields.
    """
    for arm in comparison.arms:
        cfg = arm_config(arm, arm.learning_rates[0], seed=0)
        if arm.separate and not (
            cfg.sae.architecture() == "crosscoder" and cfg.sae.sparsifier != "topk"
        ):
            raise InputError(
                f"{comparison.name}: the arm {arm.name!r} is separate, and side by side go "
                "crosscoders with a linear decoder and thresholds: set architecture: crosscoder, "
                "and a sparsifier other than topk"
            )


def arm_config(arm: Arm, lr: float, seed: int, **more: Any) -> LanguageModelSAERunnerConfig[Any]:
    """The config of a run; of a ``separate`` arm, of the run at its first hook point.

    Raises:
        InputError: If the arm's fields cannot be read or contradict each other.
    """
    settings = _settings_of_run(arm, lr, seed, **more)
    try:
        return config_of(settings)
    except InputError as error:
        raise InputError(f"the arm {arm.name!r}: {error}") from error


def _settings_of_run(arm: Arm, lr: float, seed: int, **more: Any) -> dict[str, Any]:
    flags = {"checkpoint_path": None, "output_path": None, **arm.flags, "lr": lr, "seed": seed}
    if arm.separate:
        flags["hook_name"] = expand_hook_names(arm.flags["hook_name"])[0]
    try:
        settings = read_run(_as_flags({**flags, **more}))
    except InputError as error:
        raise InputError(f"the arm {arm.name!r}: {error}") from error
    if isinstance(settings["n_batches_in_buffer"], Provisional):
        # Arms of one hook point would get a larger buffer, and with it better mixed batches.
        settings["n_batches_in_buffer"] = contexts_in_buffer(settings, ANY_WIDTH)
    return settings


def _as_flags(fields: dict[str, Any]) -> list[str]:
    flags: list[str] = []
    for key, value in fields.items():
        words = _words(value)
        flags += [f"--{key}={words[0]}"] if len(words) == 1 else [f"--{key}", *words]
    return flags


def _words(value: Any) -> list[str]:
    """A value of a YAML file as words of a command line."""
    if isinstance(value, dict):
        return [json.dumps(value, default=str)]
    return [str(item) for item in (value if isinstance(value, list | tuple) else [value])]
