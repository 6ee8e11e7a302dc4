"""Which texts a dictionary was trained on, and how far: what held-out text is held out from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sae_lens.saes.sae import SAEMetadata

from sae_lens_poly.embedded import EMBEDDED_DATASET_NAME
from sae_lens_poly.errors import InputError
from sae_lens_poly.paths import exists
from sae_lens_poly.training.rows import Rows, hashes_of


@dataclass(frozen=True)
class TextRead:
    """One text that a dictionary was trained on; in its metadata under ``texts_read``."""

    dataset_path: str
    """As it was given; empty for a data set that was handed over and is not known by name."""
    place: str | None = None
    """Where it lay, if in a file or folder."""
    n_rows: int | None = None
    """Its first rows, that many, were read, the last perhaps in part; None: it is not known."""
    first_rows: str | None = None
    """See :func:`~sae_lens_poly.training.rows.first_rows`."""
    sample: str = ""
    """See :class:`~sae_lens_poly.training.rows.Sample`."""

    def is_called(self, path: str) -> bool:
        """Whether this text goes by that name."""
        if self.place is not None and exists(path):
            return str(Path(path).resolve()) == self.place
        if path == self.dataset_path or self.first_rows is not None or not exists(path):
            return path == self.dataset_path
        # Of a run that recorded a name only: the same file may have been called from elsewhere.
        return Path(path).name == Path(self.dataset_path).name


def texts_read(metadata: SAEMetadata) -> list[TextRead]:
    """The texts that a dictionary was trained on, as far as it says.

    SAELens' own runner records a name, and older versions of this package rows that were finished.

    Raises:
        InputError: If the record is damaged.
    """
    if metadata.texts_read is not None:
        try:
            return [TextRead(**text) for text in metadata.texts_read]
        except TypeError as error:
            raise InputError(
                f"metadata.texts_read of the dictionary is damaged ({error}): save or download it "
                "again"
            ) from None
    if metadata.dataset_path is None:
        return []
    finished = metadata.n_dataset_rows_read
    return [TextRead(metadata.dataset_path, n_rows=finished + 1 if finished else None)]


def record_text(metadata: SAEMetadata, text: TextRead, earlier: Sequence[TextRead] = ()) -> None:
    """Enter what was read into the metadata of a dictionary.

    Args:
        metadata: Of the dictionary.
        text: What this run has read.
        earlier: What the dictionary had been trained on before it.
    """
    metadata.texts_read = [asdict(each) for each in (*earlier, text)]
    metadata.n_dataset_rows_read = text.n_rows


def place_of(path: str) -> str | None:
    """The absolute path of a text in a file or folder."""
    is_local = path not in ("", EMBEDDED_DATASET_NAME) and exists(path)
    return str(Path(path).resolve()) if is_local else None


def n_rows_read(texts: Sequence[TextRead], path: str, first_rows: str) -> int:
    """How many rows at the front of a text are known to have been read.

    Args:
        texts: What the dictionary was trained on.
        path: Name of the text.
        first_rows: What tells it.
    """
    same = [
        text
        for text in texts
        if text.first_rows == first_rows or (text.first_rows is None and text.is_called(path))
    ]
    return max((text.n_rows for text in same if text.n_rows is not None), default=0)


def require_known(texts: Sequence[TextRead], path: str, first_rows: str) -> None:
    """Refuse a text that was read in training, if it is not known how far.

    Raises:
        InputError: Asking for the number of rows, or for other text.
    """
    for text in texts:
        if text.first_rows == first_rows or not text.is_called(path):
            continue
        if text.first_rows is not None:
            raise InputError(
                f"the dictionary was trained on {path!r}, and its first rows are not those that "
                f"training began with, so that what was read is not known: {_ASK}"
            )
        if text.n_rows is None:
            raise InputError(
                f"the dictionary was trained on {path!r}, and how many of its rows were read is "
                f"not recorded (as with SAELens' own runner, or cached activations): {_ASK}"
            )


_ASK = (
    "say how many rows to leave out with --skip_rows, or name text that it has not seen with "
    "--dataset_path"
)


def known_rows(texts: Sequence[TextRead]) -> set[bytes]:
    """Hashes of rows that the dictionary was trained on.

    Raises:
        InputError: If the record is damaged.
    """
    try:
        return set().union(*(hashes_of(text.sample) for text in texts))
    except ValueError as error:
        raise InputError(f"metadata.texts_read of the dictionary is damaged ({error})") from None


def read_by(rows: Rows, text: TextRead) -> TextRead:
    """The record of a text after its rows were read."""
    more: dict[str, Any] = {"n_rows": rows.n_read, "sample": rows.sample.to_text()}
    return TextRead(**{**asdict(text), **more})
