"""The rows of a text as SAELens' store reads them: checked, counted, and remembered in part."""

from __future__ import annotations

import base64
import hashlib
import heapq
import json
from collections.abc import Collection, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset, DatasetDict, IterableDatasetDict

from sae_lens_poly.errors import InputError, first_line
from sae_lens_poly.training.text_reading import TextReading

if TYPE_CHECKING:
    from sae_lens.config import HfDataset

    from sae_lens_poly.models.stacked_hooks import StackedHooks

# Columns in the order in which SAELens looks for them.
_TOKENS = ("tokens", "input_ids")
_TEXTS = ("text", "problem")
_CONVERSATIONS = ("conversation", "conversations", "messages", "text")

#: Rows that are looked at before a run, and that tell a text when it is met again.
N_FIRST = 64
_N_TELLING = 8

#: Rows whose hashes are remembered, of all that were read.
N_SAMPLE = 512


class Rows:
    """The one column of a data set that is read.

    Rows without text (none, or empty) are left out. What was handed out is counted, in rows of the
    data set: a row that is begun counts, and so does one that a prefetching thread has taken.

    Args:
        dataset: The data set.
        name: What it is called in messages, ``dataset_path='...'``.
        reading: How its text is read.
        model: By whom.
        n_skipped: Rows that the data set had before its first one.
        known: Hashes of rows that must not be handed out, as :func:`hash_row` gives them.
        leave_out_known: Whether these are left out; else one of them is an error.

    Raises:
        InputError: If there is no row, or no column that can be read; while it is iterated, if a
            row cannot be read.
    """

    def __init__(
        self,
        dataset: HfDataset,
        name: str,
        reading: TextReading,
        model: StackedHooks,
        n_skipped: int = 0,
        known: Collection[bytes] = (),
        leave_out_known: bool = False,
    ) -> None:
        if isinstance(dataset, DatasetDict | IterableDatasetDict):
            raise InputError(f"{name} has splits, {', '.join(map(str, dataset))}: name one of them")
        self.name, self.reading, self.model = name, reading, model
        self.n_skipped, self.known, self.leave_out_known = n_skipped, known, leave_out_known
        self.column = _column_of(dataset, name, reading)
        self.is_tokenized = self.column in _TOKENS and not reading.use_chat_formatting
        self.dataset = dataset
        if isinstance(dataset, Dataset):  # whole rows of other columns are not read
            kind = "numpy" if self.is_tokenized else None
            self.dataset = dataset.with_format(kind, columns=[self.column])
        self.n_read = 0
        """Rows that were begun, of any epoch the most."""
        self.sample = Sample()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for number, row in enumerate(self.dataset):
            value = row[self.column]
            self.n_read = max(self.n_read, number + 1)
            if value is None or (hasattr(value, "__len__") and len(value) == 0):
                continue
            if self.is_tokenized:
                value = _as_array(value)
            self._check(value, self.n_skipped + number)
            digest = hash_row(value)
            if digest in self.known:
                if self.leave_out_known:
                    continue
                raise InputError(
                    f"{self.name}: its row {self.n_skipped + number} is one that the dictionary "
                    "was trained on, so that it seems to be the same text in another order: name "
                    "other text with --dataset_path, or say how many rows to leave out with "
                    "--skip_rows"
                )
            self.sample.add(digest)
            yield {self.column: value}

    def _check(self, value: Any, number: int) -> None:
        wrong = (
            self._wrong_with_tokens(value)
            if self.is_tokenized
            else _wrong_with_conversation(value)
            if self.reading.use_chat_formatting
            else None
            if isinstance(value, str)
            else f"is {type(value).__name__} and not text"
        )
        if wrong is not None:
            raise InputError(
                f"{self.name}: row {number} of the column {self.column!r} {wrong}: take such rows "
                "out, or name other text"
            )

    def _wrong_with_tokens(self, value: np.ndarray[Any, Any]) -> str | None:
        size, d_vocab = self.reading.context_size, self.model.d_vocab
        if value.ndim != 1 or value.dtype.kind not in "iu":
            return f"holds no token ids, but {value.dtype} of shape {value.shape}"
        if len(value) < size:
            return f"has {len(value)} tokens, fewer than context_size={size}"
        least, most = value[:size].min(), value[:size].max()
        if least < 0:
            return f"has the token {least}, and ids begin at 0"
        if d_vocab is not None and most >= d_vocab:
            return f"has the token {most}, and the model's vocabulary has {d_vocab}"
        return None


def _as_array(value: Any) -> np.ndarray[Any, Any]:
    try:
        return np.asarray(value)
    except ValueError:  # lists of unequal length
        return np.asarray(value, dtype=object)


def _column_of(dataset: Any, name: str, reading: TextReading) -> str:
    try:
        first = next(iter(dataset), None)
    except Exception as error:
        raise InputError(f"{name} cannot be read ({first_line(error)[:200]})") from error
    if first is None:
        raise InputError(f"{name} has no rows: name other text with --dataset_path")
    known = _CONVERSATIONS if reading.use_chat_formatting else (*_TOKENS, *_TEXTS)
    for column in filter(None, (reading.text_column, *known)):
        if column in first:
            return column
    raise InputError(
        f"{name} has no column {' or '.join(map(repr, known))}, but "
        f"{', '.join(map(repr, first))}: rename the one that holds the text"
    )


def _wrong_with_conversation(value: Any) -> str | None:
    if isinstance(value, str):  # taken for what a user says
        return None
    if not isinstance(value, list):
        return f"is {type(value).__name__} and not a conversation"
    for turn in value:
        if not isinstance(turn, dict) or not {"role", "content"} <= turn.keys():
            return "has a turn without role and content"
    return None


def hash_row(value: Any) -> bytes:
    """A hash of one row: of its text, its tokens or its conversation."""
    if isinstance(value, np.ndarray):
        content = value.astype(np.int64).tobytes()
    else:
        text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
        content = text.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(content, digest_size=8).digest()


def first_rows(rows: Rows) -> str:
    """What tells a text when it is met again: a hash of its first rows, in their order."""
    whole = hashlib.blake2b(digest_size=16)
    for row in islice(rows, _N_TELLING):
        whole.update(hash_row(row[rows.column]))
    return whole.hexdigest()


class Sample:
    """Hashes of some rows, the same whatever their order: the smallest :data:`N_SAMPLE`."""

    def __init__(self) -> None:
        self._largest_first: list[int] = []
        self._held: set[int] = set()

    def add(self, digest: bytes) -> None:
        """Look at one more row."""
        value = int.from_bytes(digest, "big")
        if value in self._held:
            return
        if len(self._largest_first) < N_SAMPLE:
            heapq.heappush(self._largest_first, -value)
        elif value < -self._largest_first[0]:
            self._held.discard(-heapq.heapreplace(self._largest_first, -value))
        else:
            return
        self._held.add(value)

    def to_text(self) -> str:
        """All of them in base64."""
        held = b"".join(value.to_bytes(8, "big") for value in sorted(self._held))
        return base64.b64encode(held).decode("ascii")


def hashes_of(text: str) -> set[bytes]:
    """The hashes in what :meth:`Sample.to_text` gave.

    Raises:
        ValueError: If it is no base64.
    """
    held = base64.b64decode(text, validate=True)
    return {held[i : i + 8] for i in range(0, len(held) - 7, 8)}
