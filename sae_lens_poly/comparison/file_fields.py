"""The fields of a comparison file, and what they may be."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import Field
from typing_extensions import TypedDict

from sae_lens_poly.errors import InputError
from sae_lens_poly.evaluation.settings import EvaluationSettings
from sae_lens_poly.read_files import wrong_with

_Count = Annotated[int, Field(ge=1)]
# YAML takes 1e-3, which has no point, for text.
_Rates = float | str | list[float | str]


class _Arm(TypedDict, total=False):
    architecture: str
    separate: bool
    learning_rates: _Rates


class _File(TypedDict, total=False):
    model_name: str
    hook_name: str
    dataset_path: str
    training_tokens: _Count
    d_sae: _Count
    k: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    learning_rates: _Rates
    record_gb: Annotated[float, Field(ge=0)]
    description: str
    run: dict[str, Any] | None
    evaluation: EvaluationSettings | None
    arms: dict[str, _Arm | None]


def check_kinds(name: str, content: dict[str, Any]) -> None:
    """Refuse a file with a field of another kind, such as text for a number.

    Args:
        name: Of the comparison.
        content: Its fields.

    Raises:
        InputError: Naming the field, its value and what it must be.
    """
    try:
        text = json.dumps(content, default=str)
    except TypeError as error:
        raise InputError(f"{name}: {error}; names of fields and arms are text") from None
    if wrong := wrong_with(text, _File):
        raise InputError(f"{name}: {wrong}")


def as_rates(name: str, given: Any) -> tuple[float, ...]:
    """Learning rates, one or a list.

    Raises:
        InputError: If one is no number.
    """
    try:
        return tuple(float(rate) for rate in (given if isinstance(given, list) else [given]))
    except ValueError as error:
        raise InputError(f"{name}: learning_rates={given!r}: {error}") from None
