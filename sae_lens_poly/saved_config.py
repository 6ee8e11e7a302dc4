"""The config of a saved dictionary, field by field what its class and its readers take."""

from __future__ import annotations

import dataclasses
import json
import typing
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

from packaging.version import InvalidVersion, Version
from pydantic import Field
from sae_lens.loading.pretrained_sae_loaders import handle_config_defaulting
from sae_lens.registry import get_sae_class, get_sae_training_class
from sae_lens.saes.sae import SAEConfig
from typing_extensions import TypedDict

from sae_lens_poly.errors import InputError
from sae_lens_poly.hook_names import expand_hook_names
from sae_lens_poly.read_files import check_json, damaged, read_object
from sae_lens_poly.registration import register

# One for each model.
_DTYPE = "(float32|float64|bfloat16|float16)"

_Finite = Annotated[float, Field(allow_inf_nan=False)]


class _TextRead(TypedDict):
    dataset_path: str
    place: str | None
    n_rows: Annotated[int, Field(ge=0)] | None
    first_rows: str | None
    sample: str


@dataclass
class SavedMetadata:
    """The metadata that this package reads; others may be there as well."""

    model_name: str | None = None
    model_class_name: str | None = None
    model_from_pretrained_kwargs: dict[str, Any] | None = None
    hook_name: str | None = None
    hook_names: list[str] | None = None
    hook_head_index: int | None = None
    hook_scales: list[_Finite] | None = None
    dataset_path: str | None = None
    n_dataset_rows_read: Annotated[int, Field(ge=0)] | None = None
    context_size: Annotated[int, Field(ge=1, le=2**24)] | None = None
    prepend_bos: bool | None = None
    exclude_special_tokens: bool | list[int] | None = None
    seqpos_slice: Annotated[list[int | None], Field(min_length=1, max_length=3)] | None = None
    sequence_separator_token: int | str | None = None
    disable_concat_sequences: bool | None = None
    use_chat_formatting: bool | None = None
    model_kwargs: dict[str, Any] | None = None
    autocast_lm: bool | None = None
    model_dtype: Annotated[str, Field(pattern=f"^{_DTYPE}(,{_DTYPE})*$")] | None = None
    text_column: str | None = None
    texts_read: list[_TextRead] | None = None
    sae_lens_version: str | None = None
    sae_lens_training_version: str | None = None
    training_architecture: str | None = None


def read_config(path: Path, training: bool = False, largest: int = 2**31) -> dict[str, Any]:
    """Read a ``cfg.json`` and check it.

    Args:
        path: The file.
        training: Whether it is of a dictionary in training.
        largest: What no width can be more than: the number of bytes of the weights.

    Returns:
        The config as saved.

    Raises:
        InputError: Naming the field that is not what it must be, or if the architecture is
            unknown.
    """
    saved = read_object(path)
    for where in (saved, saved.get("metadata")):
        if isinstance(where, dict):
            _check_version(where.get("sae_lens_version"), path)
    # What older versions of SAELens saved has no architecture and is a standard SAE.
    config_class = _config_class(path, saved.get("architecture", "standard"), training)
    try:
        config = handle_config_defaulting(dict(saved))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise damaged(path, f"not a config of SAELens: {error}") from None
    check_json(json.dumps(config), _fields_of(config_class), path)
    for field in ("d_in", "d_sae"):
        value = config.get(field)
        if not isinstance(value, int) or not 0 < value <= largest:
            raise damaged(path, f"{field}={value!r} cannot be the width of these weights")
    metadata = config.get("metadata", {})
    check_json(json.dumps(metadata), SavedMetadata, path)
    _check_hooks(metadata, path)
    return saved


def _check_version(value: Any, path: Path) -> None:
    try:
        if value is not None:
            Version(value)
    except (InvalidVersion, TypeError):
        raise damaged(path, f"sae_lens_version={value!r} is no version") from None


def _config_class(path: Path, architecture: Any, training: bool) -> Any:
    register()
    try:
        return (get_sae_training_class if training else get_sae_class)(architecture)[1]
    except (KeyError, TypeError):
        raise InputError(
            f"{str(path)!r} names architecture={architecture!r}, which neither SAELens "
            f"{version('sae-lens')} nor sae_lens_poly {version('sae-lens-poly')} knows: upgrade "
            "them, or import the package that it comes from before it is loaded"
        ) from None


@cache
def _fields_of(config_class: type[Any]) -> Any:
    """The fields of a config class with their annotations, as a type of JSON objects."""
    kinds = typing.get_type_hints(config_class)
    # SAELens checks the values of its common fields itself, and takes more than it annotates.
    common = {field.name for field in dataclasses.fields(SAEConfig)}
    return TypedDict(  # type: ignore[operator]
        config_class.__name__,
        {
            field.name: str
            if field.name in common and typing.get_origin(kinds[field.name]) is typing.Literal
            else kinds[field.name]
            for field in dataclasses.fields(config_class)
            if field.name != "metadata"
        },
        total=False,
    )


def _check_hooks(metadata: dict[str, Any], path: Path) -> None:
    """The hook points that are named have to be as many as there are scales."""
    pattern, names = metadata.get("hook_name"), metadata.get("hook_names")
    if pattern is not None:
        try:
            expand_hook_names(pattern)
        except InputError as error:
            raise damaged(path, error) from None
    scales = metadata.get("hook_scales")
    if names is not None and scales is not None and len(names) != len(scales):
        raise damaged(path, f"it has {len(names)} hook_names and {len(scales)} hook_scales")
