"""Text that a dictionary was not trained on."""

from __future__ import annotations

from dataclasses import dataclass, fields

from sae_lens.saes.sae import SAEMetadata

from sae_lens_poly.embedded import EMBEDDED_DATASET_NAME, EMBEDDED_MODEL_NAMES
from sae_lens_poly.errors import InputError
from sae_lens_poly.evaluation.settings import EvaluationSettings
from sae_lens_poly.models.stacked_hooks import StackedHooks
from sae_lens_poly.paths import exists
from sae_lens_poly.training.data import load_rows, load_text
from sae_lens_poly.training.rows import Rows, first_rows
from sae_lens_poly.training.text_reading import TextReading
from sae_lens_poly.training.texts_read import (
    TextRead,
    known_rows,
    n_rows_read,
    require_known,
    texts_read,
)


@dataclass(frozen=True)
class HeldOutText:
    """A text without its first rows."""

    path: str
    first_rows: str
    """What tells the whole text; see :func:`~sae_lens_poly.training.rows.first_rows`."""
    n_skipped: int
    """Rows that are left out at its front."""


def held_out_text(
    metadata: SAEMetadata,
    settings: EvaluationSettings,
    reading: TextReading,
    model: StackedHooks,
) -> tuple[HeldOutText, Rows]:
    """The text of an evaluation, and those of its rows that were not read in training.

    Args:
        metadata: Of the dictionary.
        settings: Which text, and how many of its rows are left out.
        reading: How text is read.
        model: By whom.

    Raises:
        InputError: If the text cannot be loaded, training has read it, or that is not known.
    """
    texts = texts_read(metadata)
    path = _path_of(metadata, texts, settings)
    name = f"dataset_path={path!r}"
    if path == EMBEDDED_DATASET_NAME:  # training reads other modules
        others = [text for text in texts if text.dataset_path != EMBEDDED_DATASET_NAME]
        known = known_rows(others)
        rows = Rows(load_text(path, "held_out"), name, reading, model, known=known)
        return HeldOutText(path, "", 0), rows
    tells = first_rows(Rows(load_rows(path, streaming=True), name, reading, model))
    if settings.skip_rows is None:
        require_known(texts, path, tells)
        n_skipped = n_rows_read(texts, path, tells)
        is_known = any(text.first_rows == tells for text in texts)
    else:
        n_skipped, is_known = settings.skip_rows, True
    held_out = HeldOutText(path, tells, n_skipped)
    check_skipped(held_out, texts)
    dataset = load_text(path, "held_out", skip_rows=n_skipped)
    return held_out, Rows(dataset, name, reading, model, n_skipped, known_rows(texts), is_known)


def check_skipped(text: HeldOutText, texts: list[TextRead]) -> None:
    """Refuse a text of which more rows were read than are left out.

    Raises:
        InputError: Saying how many were read.
    """
    n_read = n_rows_read(texts, text.path, text.first_rows)
    if text.path != EMBEDDED_DATASET_NAME and text.n_skipped < n_read:
        raise InputError(
            f"skip_rows={text.n_skipped}, and training read {n_read} rows of {text.path!r}: skip "
            "as many at least, or name another text"
        )


def check_reading(reading: TextReading, other: TextReading) -> None:
    """Refuse two dictionaries that were trained on other contexts of a text.

    Raises:
        InputError: Naming the first field in which they differ.
    """
    for each in (each for each in fields(reading) if each.compare):
        one, two = getattr(reading, each.name), getattr(other, each.name)
        if one != two:
            raise InputError(
                f"{each.name}={one!r} of the dictionary is {two!r} in the text that it would be "
                "evaluated on, which was drawn for another one: evaluate it by itself"
            )


def _path_of(metadata: SAEMetadata, texts: list[TextRead], settings: EvaluationSettings) -> str:
    if settings.dataset_path is not None:
        return settings.dataset_path
    path = metadata.dataset_path
    if path is None and metadata.model_name in EMBEDDED_MODEL_NAMES:
        return EMBEDDED_DATASET_NAME
    if not path:
        raise InputError(
            "the dictionary does not say which text it was trained on (metadata.dataset_path): "
            "name one with --dataset_path"
        )
    place = next((text.place for text in texts[::-1] if text.dataset_path == path), None)
    return place if place is not None and exists(place) else path
