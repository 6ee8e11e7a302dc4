"""Text to train and evaluate on: the embedded corpus, local files, or a hub data set."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from datasets import Dataset, IterableDataset, load_dataset, load_from_disk

from sae_lens_poly.embedded import EMBEDDED_DATASET_NAME
from sae_lens_poly.embedded.corpus import stdlib_dataset
from sae_lens_poly.errors import InputError, first_line
from sae_lens_poly.paths import TEXT_FILES, check_text
from sae_lens_poly.read_files import require_json_rows


def is_on_hub(dataset_path: str) -> bool:
    """Whether a data set of this name would be fetched from the hub."""
    return dataset_path not in ("", EMBEDDED_DATASET_NAME) and not Path(dataset_path).exists()


def load_text(
    dataset_path: str,
    split: Literal["train", "held_out"],
    streaming: bool = True,
    skip_rows: int = 0,
) -> Dataset | IterableDataset:
    """Load a data set for training, or the part of it that training did not see.

    Args:
        dataset_path: ``stdlib``; a file ``.json``, ``.jsonl``, ``.csv``, ``.parquet`` or ``.txt``
            (also ``.gz``); a folder written by ``datasets.save_to_disk``; or a hub data set.
        split: ``held_out`` leaves out what training used: for ``stdlib`` the held-out modules,
            for any other data set all but its first ``skip_rows`` rows.
        streaming: Whether a hub data set is streamed.
        skip_rows: How many rows training has read.

    Raises:
        InputError: If the data set cannot be found or read, or has no rows left.
    """
    if dataset_path in ("", EMBEDDED_DATASET_NAME):
        return stdlib_dataset(split)
    dataset = load_rows(dataset_path, streaming)
    if split == "train" or not skip_rows:
        return dataset
    if isinstance(dataset, Dataset) and skip_rows >= len(dataset):
        raise InputError(
            f"dataset_path={dataset_path!r}: training has read all of its {len(dataset)} rows, "
            "none is left for evaluation: name another data set with --dataset_path"
        )
    return dataset.skip(skip_rows)


def load_rows(dataset_path: str, streaming: bool) -> Dataset | IterableDataset:
    """All rows of a file, of a saved folder, or of the train split of a hub data set.

    Args:
        dataset_path: As :func:`load_text` takes it, but ``stdlib``.
        streaming: Whether a hub data set is streamed.

    Raises:
        InputError: If the data set cannot be found or read.
    """
    path = Path(dataset_path)
    name = dataset_path
    if path.is_dir():
        name = str(path.resolve())  # "text" and "json" mean something else to datasets
        check_text("dataset_path", dataset_path)
    elif name in TEXT_FILES.values():
        raise InputError(
            f"dataset_path={name!r} is a kind of file, and there is no folder of that name: give "
            "a file, a folder, or a data set of the hub"
        )
    suffix = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    try:
        if path.is_file() and suffix in TEXT_FILES:
            if TEXT_FILES[suffix] == "json":
                require_json_rows(path, "dataset_path")
            return load_dataset(TEXT_FILES[suffix], data_files=str(path), split="train")
        if (path / "dataset_info.json").is_file():
            return load_from_disk(str(path))
        return load_dataset(name, split="train", streaming=streaming)
    except InputError:
        raise
    except Exception as error:
        if _is_of_encoding(error):
            raise InputError(
                f"dataset_path={dataset_path!r} is not in UTF-8: convert it, for example with "
                "iconv -f LATIN1 -t UTF-8"
            ) from error
        raise InputError(
            f"dataset_path={dataset_path!r} cannot be loaded ({first_line(error)}): give "
            f"{EMBEDDED_DATASET_NAME!r}, a .jsonl, .csv, .parquet or .txt file, a folder written "
            "by datasets.save_to_disk, or a hub data set that can be reached"
        ) from error


def _is_of_encoding(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, UnicodeDecodeError):
        error = error.__cause__ or error.__context__
    return error is not None
