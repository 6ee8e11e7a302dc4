"""Paths that a user gives, tried before anything slow is done with them."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from sae_lens_poly.embedded import EMBEDDED_DATASET_NAME
from sae_lens_poly.errors import InputError, first_line

#: Kinds of text files that can be read, and the loader of ``datasets`` for each.
TEXT_FILES = {
    ".json": "json",
    ".jsonl": "json",
    ".csv": "csv",
    ".parquet": "parquet",
    ".txt": "text",
}


#: The remedy where a dictionary is not.
RUN_FOLDER = "give the folder that a training run saved its dictionary to (its output_path)"

#: Files and folders that a folder of text may hold.
MOST_ENTRIES = 10_000

#: How often a folder is tried that is there and then is not, and the longest pause in seconds.
_TRIES, _PAUSE = 20, 0.02


def check_can_write(field: str, folder: str | Path, n_bytes: int = 0) -> None:
    """Refuse a folder that cannot be made or written to, or whose disk has no room.

    It is tried: what is missing of the path is made and a file in it, and taken away again. All
    processes of a run may do so at once, and one may take away what another has just made: then it
    is tried again (an empty folder may then stay).

    Args:
        field: What names the folder.
        folder: The folder.
        n_bytes: About how much will be written to it.

    Raises:
        InputError: Naming the field, the path and what the system says.
    """
    for tries_left in reversed(range(_TRIES)):
        try:
            _try_to_write(Path(folder), n_bytes)
            return
        except (OSError, ValueError) as error:
            if isinstance(error, (FileNotFoundError, FileExistsError)) and tries_left:
                # So that processes fall out of step; what the user has seeded is left alone.
                time.sleep(random.SystemRandom().uniform(0, _PAUSE))
                continue
            reason = error.strerror if isinstance(error, OSError) else first_line(error)
            raise InputError(
                f"{field}={str(folder)!r} cannot be written to as a folder ({reason}): give one "
                "that can be made and written to"
            ) from None


def _try_to_write(path: Path, n_bytes: int) -> None:
    made: list[Path] = []
    try:
        made = [part for part in (path, *path.parents) if not part.exists()]
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            check_room(path, n_bytes)
    finally:
        for part in made:
            with contextlib.suppress(OSError, ValueError):
                part.rmdir()


def check_room(folder: Path, n_bytes: int) -> None:
    """Raise an ``OSError`` where a disk has no room for so many bytes."""
    free = shutil.disk_usage(folder).free
    if free < n_bytes:
        needed = f"about {n_bytes / 1e6:,.1f} MB are needed and {free / 1e6:,.1f} MB are free"
        raise OSError(errno.ENOSPC, needed)


def check_text(field: str, name: str) -> None:
    """Refuse text that is named by a path, if nothing that can be read is there.

    Raises:
        InputError: Naming the field and the path.
    """
    is_path = exists(name) or looks_local(name) or _is_text(name)
    if name in ("", EMBEDDED_DATASET_NAME) or not is_path:
        return
    remedy = (
        f"give a file {', '.join(TEXT_FILES)} (also .gz), a folder that datasets.save_to_disk "
        "wrote, or the name of a data set on the hub"
    )
    check_there(field, name, remedy)
    path = Path(name)
    try:
        if path.is_file():
            path.open("rb").close()
            if not _is_text(name):
                raise InputError(f"{field}={name!r} is no file of a known kind: {remedy}")
            return
        names = [entry.name for folder in (path, path / "data") for entry in _entries(folder)]
    except OSError as error:
        raise InputError(f"{field}={name!r} cannot be read ({error.strerror}): {remedy}") from None
    # What has none may be a folder of anything, which would be searched to its last file.
    if Path.cwd().is_relative_to(path.resolve()) or not any(map(_is_text, names)):
        raise InputError(f"{field}={name!r} is not a folder of text: {remedy}")
    n_entries = 0
    for _, folders, files in os.walk(path):
        n_entries += len(folders) + len(files)
        if n_entries > MOST_ENTRIES:
            raise InputError(
                f"{field}={name!r} has more than {MOST_ENTRIES:,} files and folders, all of which "
                f"would be searched: {remedy}"
            )


def check_there(field: str, path: str | Path, remedy: str) -> None:
    """Refuse a path where there is nothing.

    Raises:
        InputError: Naming the field and the path, and ending in the remedy.
    """
    if not exists(path):
        raise InputError(f"{field}={str(path)!r} is not there: {remedy}")


def check_folder(field: str, path: str | Path, files: tuple[str, ...], remedy: str) -> None:
    """Refuse a path that is no folder, or one that lacks files.

    Raises:
        InputError: Naming the field, the path and the first file that is missing, and ending in
            the remedy.
    """
    check_there(field, path, remedy)
    if not Path(path).is_dir():
        raise InputError(f"{field}={str(path)!r} is not a folder: {remedy}")
    for name in files:
        if not exists(Path(path) / name):
            raise InputError(f"{field}={str(path)!r} has no {name}: {remedy}")


def looks_local(name: str) -> bool:
    """Whether a name can only be a path: neither ``name`` nor ``user/name``, as on the hub."""
    return (
        name.startswith((".", "~"))
        or Path(name).is_absolute()
        or "\\" in name
        or name.rstrip("/").count("/") > 1
    )


def exists(path: str | Path) -> bool:
    """Whether something is there; a path that the system cannot have is not."""
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False


def _is_text(name: str) -> bool:
    return name.removesuffix(".gz").endswith(tuple(TEXT_FILES))


def _entries(folder: Path) -> Iterator[Path]:
    return itertools.islice(folder.iterdir(), MOST_ENTRIES) if folder.is_dir() else iter(())
