"""What is compared: the arms of a YAML file, at equal tokens, width and L0."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from sae_lens.config import LanguageModelSAERunnerConfig

from sae_lens_poly.errors import InputError
from sae_lens_poly.evaluation.settings import EvaluationSettings
from sae_lens_poly.hook_names import expand_hook_names
from sae_lens_poly.training.data import EMBEDDED_DATASET_NAME
from sae_lens_poly.training.flags import build_config

# How the model reads the text, which all arms share as well.
_TEXT_FIELDS = ("context_size", "prepend_bos", "seqpos_slice", "store_batch_size_prompts")

# What all arms share, named beside them in the file.
_SHARED_FIELDS = ("training_tokens", "d_sae", "k", "model_name", "hook_name", "dataset_path")


@dataclass(frozen=True)
class Arm:
    """One kind of dictionary, trained once for each seed."""

    name: str
    flags: dict[str, Any]
    """Fields of the run and the dictionary, as ``train`` takes them as flags."""
    learning_rates: tuple[float, ...]
    """The rates that it is tuned over."""
    separate: bool = False
    """Whether every hook point gets a separate dictionary."""

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
      variance on other held-out text, mean of two seeds that are used for nothing else. An arm may
      have a list that replaces it.
    - ``record_gb``: up to how much disk the activations may take that are computed once for all
      arms; a comparison that needs more computes them for each arm.
    - ``evaluation``: see :class:`~sae_lens_poly.evaluation.settings.EvaluationSettings`.
    - ``arms``: name to fields of the dictionary, for example ``{architecture: crosscoder,
      mask_p: 0.05}``. With ``separate: true`` every hook point gets a separate dictionary, of the
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
        """The same comparison with these arms alone (None: all).

        Raises:
            InputError: If there is no arm of a name.
        """
        known = {arm.name: arm for arm in self.arms}
        for name in names or []:
            if name not in known:
                raise InputError(f"arms: there is no {name!r}; there are {', '.join(known)}")
        return (
            self
            if names is None
            else dataclasses.replace(self, arms=tuple(known[name] for name in names))
        )


def presets() -> list[str]:
    """Names of the comparisons that ship with the package."""
    folder = resources.files("sae_lens_poly.comparison") / "presets"
    return sorted(path.name.removesuffix(".yaml") for path in folder.iterdir())


def read_comparison(
    source: str,
    overrides: dict[str, Any] | None = None,
    evaluation: dict[str, Any] | None = None,
) -> Comparison:
    """Read a preset or a YAML file.

    Args:
        source: Name of a preset, or the path of a file.
        overrides: Fields of the file to replace.
        evaluation: Settings of its evaluation to replace.

    Raises:
        InputError: Naming what is missing, unknown or unequal.
    """
    if source in presets():
        file = resources.files("sae_lens_poly.comparison") / "presets" / f"{source}.yaml"
        text, name = file.read_text(), source
    elif Path(source).is_file():
        text, name = Path(source).read_text(), Path(source).stem
    else:
        raise InputError(
            f"{source!r} is neither a file nor a preset: the presets are {', '.join(presets())}"
        )
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{source!r} is not YAML ({str(error).splitlines()[0]})") from error
    if not isinstance(content, dict):
        raise InputError(f"{source!r} has no fields: see a preset for an example")
    settings = {**(content.get("evaluation") or {}), **(evaluation or {})}
    return _comparison(name, {**content, **(overrides or {}), "evaluation": settings})


def _comparison(name: str, content: dict[str, Any]) -> Comparison:
    known = {
        *_SHARED_FIELDS,
        *("run", "learning_rates", "record_gb", "evaluation", "arms", "description"),
    }
    for key in content:
        if key not in known:
            raise InputError(f"{name}: unknown field {key!r}; there are {', '.join(sorted(known))}")
    for key in (*_SHARED_FIELDS, "arms", "learning_rates"):
        if not content.get(key):
            raise InputError(f"{name}: {key} is missing")
    run, settings = content.get("run") or {}, content["evaluation"]
    for where, fields in (("run", run), ("evaluation", settings), ("arms", content["arms"])):
        if not isinstance(fields, dict):
            raise InputError(f"{name}: {where} is not a mapping of names to values")
    for key in set(run) & set(_SHARED_FIELDS):
        raise InputError(f"{name}: {key} stands under run, and belongs beside it")
    shared = {key: content[key] for key in _SHARED_FIELDS}
    arms = []
    for arm_name, fields in content["arms"].items():
        fields = dict(fields or {})
        for key in (*_SHARED_FIELDS, *_TEXT_FIELDS):
            if key in fields and key not in ("d_sae", "k"):
                raise InputError(
                    f"{name}: the arm {arm_name!r} sets {key}, which all arms share: set it beside "
                    "arms"
                )
        if "architecture" not in fields:
            raise InputError(f"{name}: the arm {arm_name!r} has no architecture")
        separate = bool(fields.pop("separate", False))
        own_rates = fields.pop("learning_rates", None)
        rates = tuple(float(rate) for rate in _as_list(own_rates or content["learning_rates"]))
        flags = {**shared, **run, **fields}
        arms.append(Arm(str(arm_name), flags, rates, separate))
    folders = [arm.folder_name for arm in arms]
    for arm in arms:
        if folders.count(arm.folder_name) > 1:
            raise InputError(f"{name}: the arms have to differ in more than signs: {arm.name!r}")
    comparison = Comparison(
        name=name,
        arms=tuple(arms),
        training_tokens=int(content["training_tokens"]),
        hook_name=content["hook_name"],
        record_gb=float(content.get("record_gb", 20)),
        evaluation=settings,
        description=content.get("description", ""),
    )
    evaluation = EvaluationSettings.from_dict(settings)
    widest = max(evaluation.probe_ks, default=1)
    if widest > min(int(arm.flags["d_sae"]) for arm in arms):
        raise InputError(f"{name}: probe_ks has {widest}, which is more than d_sae")
    own_text = evaluation.dataset_path in (None, content["dataset_path"])
    own_text &= content["dataset_path"] != EMBEDDED_DATASET_NAME
    if own_text and evaluation.skip_rows is None:
        raise InputError(
            f"{name}: dataset_path={content['dataset_path']!r} has no held-out part: say under "
            "evaluation how many rows training may read (skip_rows), or name another dataset_path"
        )
    for arm in comparison.arms:  # before anything is trained
        cfg = arm_config(arm, arm.learning_rates[0], seed=0)
        if arm.separate and not (
            cfg.sae.architecture() == "crosscoder" and cfg.sae.sparsifier != "topk"
        ):
            raise InputError(
                f"{name}: the arm {arm.name!r} is separate, and side by side go crosscoders with a "
                "linear decoder and thresholds: set architecture: crosscoder, and a sparsifier "
                "other than topk"
            )
    return comparison


def arm_config(arm: Arm, lr: float, seed: int, **more: Any) -> LanguageModelSAERunnerConfig[Any]:
    """The config of a run; of a ``separate`` arm, of the run at its first hook point.

    Raises:
        InputError: If the arm's fields cannot be read or contradict each other.
    """
    flags = {**arm.flags, "lr": lr, "seed": seed, "checkpoint_path": None, **more}
    if arm.separate and "hook_name" not in more:
        flags["hook_name"] = expand_hook_names(arm.flags["hook_name"])[0]
    try:
        return build_config(_as_flags(flags))
    except InputError as error:
        raise InputError(f"the arm {arm.name!r}: {error}") from error


def _as_flags(fields: dict[str, Any]) -> list[str]:
    flags: list[str] = []
    for key, value in fields.items():
        if isinstance(value, list):
            flags += [f"--{key}", *map(str, value)]
        else:
            flags += [f"--{key}={value}"]
    return flags


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
