"""The flags of ``train``: which there are, what each may be, and SAELens' defaults.

They are the fields of SAELens' runner config and of the dictionaries' configs. Importing those
takes seconds, so they are also recorded in ``flags.json``, and a wrong flag is refused without.
``python -m scripts.write_flags`` writes the record; a test compares it with the classes.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sae_lens_poly import constraints
from sae_lens_poly.constraints import Choice, Constraint, Number
from sae_lens_poly.training.presets import PRESETS

RECORD = Path(__file__).with_name("flags.json")

#: Flags of this package's ``train`` alone, which no config of SAELens has.
OF_COMMAND: dict[str, Constraint] = {
    "latent_shards": Number(at_least=1, whole=True),
    "preset": Choice(*PRESETS),
}


@dataclass(frozen=True)
class FlagTable:
    """Flags by name, without their dashes."""

    run: dict[str, Constraint]
    """Those of the run, whatever is trained; ``architecture`` among them."""
    dictionaries: dict[str, dict[str, Constraint]]
    """Architecture to the flags of its config. What the run has a name for begins with ``sae.``."""
    defaults: dict[str, Any] = field(default_factory=dict)
    """SAELens' defaults of the run."""

    def of(self, architecture: str) -> dict[str, Constraint]:
        """All flags with which a dictionary of an architecture is trained."""
        return {**self.run, **self.dictionaries[architecture]}

    def to_json(self) -> str:
        """One line a flag: those of the run, then those of dictionaries with their architectures.

        A flag that differs between architectures has several lines.
        """
        lines: dict[str, list[str]] = {}
        for architecture, flags in self.dictionaries.items():
            for name, constraint in flags.items():
                what = json.dumps([name, _to_plain(constraint)])
                lines.setdefault(what, []).append(architecture)
        run = [json.dumps([name, _to_plain(what)]) for name, what in self.run.items()]
        dictionaries = [json.dumps([*json.loads(what), names]) for what, names in lines.items()]
        return (
            f'{{"sae_lens": {json.dumps(version("sae-lens"))},\n'
            f'"defaults": {json.dumps(self.defaults)},\n'
            '"run": [\n' + ",\n".join(run) + "],\n"
            '"dictionaries": [\n' + ",\n".join(dictionaries) + "]}\n"
        )

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> FlagTable:
        """The table that :meth:`to_json` wrote."""
        dictionaries: dict[str, dict[str, Constraint]] = {}
        for name, what, architectures in content["dictionaries"]:
            for architecture in architectures:
                dictionaries.setdefault(architecture, {})[name] = _from_plain(what)
        run = {name: _from_plain(what) for name, what in content["run"]}
        return cls(run, dictionaries, content["defaults"])


def flag_table() -> FlagTable:
    """The flags; from the record unless the classes are imported, or SAELens is another."""
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    if "sae_lens_poly.registration" in sys.modules or record["sae_lens"] != version("sae-lens"):
        return flags_of_classes()
    return FlagTable.from_json(record)


def flags_of_classes() -> FlagTable:
    """The flags, from the classes themselves."""
    from sae_lens.config import LanguageModelSAERunnerConfig, LoggingConfig
    from sae_lens.registry import SAE_TRAINING_CLASS_REGISTRY

    from sae_lens_poly.registration import register
    from sae_lens_poly.training.settings import constraints_of

    register()
    run = {**constraints_of(LanguageModelSAERunnerConfig), **constraints_of(LoggingConfig)}
    defaults = {
        field.name: field.default
        for config_class in (LanguageModelSAERunnerConfig, LoggingConfig)
        for field in dataclasses.fields(config_class)
        if field.name in run and field.default is not dataclasses.MISSING
    }
    dictionaries = {
        architecture: {
            f"sae.{name}" if name in run else name: constraint
            for name, constraint in constraints_of(config_class).items()
        }
        for architecture, (_, config_class) in SAE_TRAINING_CLASS_REGISTRY.items()
    }
    run["architecture"] = Choice(*dictionaries)
    run |= OF_COMMAND
    return FlagTable(run, dictionaries, defaults)


def _to_plain(value: Any) -> Any:
    """A constraint as its class and what differs from that class' defaults."""
    if isinstance(value, tuple):
        return [_to_plain(item) for item in value]
    if not dataclasses.is_dataclass(value):
        return value
    inside = {
        field.name: _to_plain(getattr(value, field.name))
        for field in dataclasses.fields(value)
        if getattr(value, field.name) != field.default
    }
    return {"is": type(value).__name__, **inside}


def _from_plain(what: Any) -> Any:
    if isinstance(what, list):
        return [_from_plain(item) for item in what]
    if not isinstance(what, dict):
        return what
    fields = {key: _from_plain(value) for key, value in what.items() if key != "is"}
    several = [item for key in ("choices", "parts") for item in fields.pop(key, [])]
    return getattr(constraints, what["is"])(*several, **fields)
