"""Files and folders that are whole or not there, whatever stops the program.

What is written has another name until it is whole: ``.unfinished-NAME``, beside its place. Its
writer holds a lock on the folder around it, so that whoever has the lock knows that every
unfinished thing in there was left by a program that was stopped, and removes it.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from sae_lens_poly.errors import InputError, first_line
from sae_lens_poly.manifest import BELONGING, MANIFEST_FILENAME, write_manifest
from sae_lens_poly.paths import check_room
from sae_lens_poly.swap_paths import exchange

try:
    import fcntl
except ImportError:  # Windows: there writers must not meet
    fcntl = None  # type: ignore[assignment]

_UNFINISHED, _READY = ".unfinished-", ".ready-"

# Entries that an old folder may have for a new one to take its place with all of them.
_MOST_ENTRIES = 1000

_SECONDS_FOR_LOCK = 300


@contextmanager
def whole_folder(
    folder: str | Path, manifest: bool = False, n_bytes: int = 0, remedy: str = ""
) -> Iterator[Path]:
    """A folder to write into, which takes the place of ``folder`` when all is written.

    The exchange is one step: a program that is killed leaves the old folder or the new one. What
    else lies in the old folder is in the new one as well. Where a folder cannot be exchanged (a
    mount point, the working directory, a network file system) its files are moved in one by one,
    and :func:`finish_interrupted` moves the rest after a kill.

    Args:
        folder: What to replace; made where it is missing.
        manifest: Whether this is a dictionary or a checkpoint: it gets a manifest, and everything
            that belonged to an older one goes.
        n_bytes: About how much will be written.
        remedy: What to do where it cannot be written; for the message.

    Raises:
        InputError: If it cannot be written, or the disk has no room; the old folder is then whole.
    """
    folder = Path(folder).resolve()
    root = folder if _stays(folder) else folder.parent
    with _errors_of_writing(folder, remedy):
        root.mkdir(parents=True, exist_ok=True)
        with _locked(root):
            _finish(folder)
            check_room(root, n_bytes)
            unfinished = root / f"{_UNFINISHED}{folder.name}"
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            try:
                yield unfinished
                if manifest:
                    write_manifest(unfinished)
                _put(unfinished, folder)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)


@contextmanager
def whole_file(path: str | Path, remedy: str = "") -> Iterator[Path]:
    """A path to write to; what is written takes the place of ``path`` in one step.

    Raises:
        InputError: If it cannot be written; an older file is then whole.
    """
    path = Path(path)
    with _errors_of_writing(path, remedy):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path.parent):
            unfinished = path.with_name(_UNFINISHED + path.name)
            try:
                yield unfinished
                unfinished.replace(path)
            finally:
                unfinished.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file, whole, in UTF-8.

    Raises:
        InputError: If it cannot be written.
    """
    with whole_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write plain values, whole.

    Raises:
        InputError: If the file cannot be written.
    """
    write_text(path, json.dumps(value, indent=1))


def finish_interrupted(folder: Path) -> None:
    """Move in what :func:`whole_folder` had ready when it was stopped while it moved files."""
    folder = folder.resolve()
    for ready in _ready(folder):
        with suppress(OSError), _locked(ready.parent):
            _finish(folder)


def remove_unfinished(folder: Path) -> None:
    """Remove what programs that were stopped have left in a folder, unless one is at work there."""
    with suppress(InputError, OSError), _locked(folder, seconds=0):
        pass


@contextmanager
def sole_user(folder: Path) -> Iterator[None]:
    """Within it, no other program can become the sole user of a folder.

    Raises:
        InputError: If another one is.
    """
    with _errors_of_writing(folder, ""):
        folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder, seconds=0, clean=False):
        yield


@contextmanager
def _errors_of_writing(path: Path, remedy: str) -> Iterator[None]:
    """What can go wrong with a disk in one sentence: safetensors and torch have theirs."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        why = getattr(error, "strerror", None) or first_line(error)[:200]
        remedy = remedy or "free some space, make the folder writable, or name another one"
        raise InputError(f"{str(path)!r} cannot be written ({why}): {remedy}") from error


def _stays(folder: Path) -> bool:
    """Whether a folder keeps its place, so that new files have to be moved into it."""
    if not folder.is_dir():
        return False
    within = Path.cwd().is_relative_to(folder)
    return within or os.path.ismount(folder) or not os.access(folder.parent, os.W_OK)


def _put(unfinished: Path, folder: Path) -> None:
    """Let a written folder take the place of another."""
    if not folder.exists():
        unfinished.rename(folder)
        return
    written = set(os.listdir(unfinished))
    gone = BELONGING if MANIFEST_FILENAME in written else frozenset()
    if unfinished.parent == folder.parent and _linked(folder, unfinished, gone | written):
        if exchange(unfinished, folder):
            return  # what was the old one is removed as unfinished
        _remove_entries(unfinished, set(os.listdir(unfinished)) - written)
    ready = unfinished.with_name(f"{_READY}{folder.name}")
    unfinished.rename(ready)
    _move_in(ready, folder)


def _linked(old: Path, new: Path, without: frozenset[str] | set[str]) -> bool:
    """Put links to what the old folder has besides into the new one; False where that fails."""
    n_left = _MOST_ENTRIES

    def left_out(folder: str, names: list[str]) -> set[str]:
        nonlocal n_left
        out = set(without) if Path(folder) == old else set()
        n_left -= len(set(names) - out)
        if n_left < 0:
            raise OSError
        return out

    before = set(os.listdir(new))
    try:
        shutil.copytree(old, new, True, left_out, os.link, dirs_exist_ok=True)
    except OSError:  # too many, or links that the file system does not have
        _remove_entries(new, set(os.listdir(new)) - before)
        return False
    return True


def _move_in(ready: Path, folder: Path) -> None:
    """Move finished files into their folder, the manifest first: it tells what is not there yet."""
    names = sorted(os.listdir(ready), key=lambda name: name != MANIFEST_FILENAME)
    if MANIFEST_FILENAME in names:
        _remove_entries(folder, BELONGING - set(names))
    for name in names:
        (ready / name).replace(folder / name)
    ready.rmdir()


def _remove_entries(folder: Path, names: set[str] | frozenset[str]) -> None:
    for name in names:
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _ready(folder: Path) -> list[Path]:
    places = (root / f"{_READY}{folder.name}" for root in (folder.parent, folder))
    return [ready for ready in places if ready.is_dir()]


def _finish(folder: Path) -> None:
    for ready in _ready(folder):
        _move_in(ready, folder)


@contextmanager
def _locked(folder: Path, seconds: float = _SECONDS_FOR_LOCK, clean: bool = True) -> Iterator[None]:
    """Hold the lock of a folder, which the system takes back from a program that ends."""
    handle = os.open(folder, os.O_RDONLY) if fcntl is not None else None
    try:
        if handle is not None and _take(handle, folder, seconds) and clean:
            _remove_entries(folder, {path.name for path in folder.glob(f"{_UNFINISHED}*")})
        yield
    finally:
        if handle is not None:
            with suppress(OSError):  # a child process may hold the handle as well
                fcntl.flock(handle, fcntl.LOCK_UN)
            os.close(handle)


def _take(handle: int, folder: Path, seconds: float) -> bool:
    """Take a lock; False where the file system has none."""
    until = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= until:
                raise InputError(
                    f"another program is writing to {str(folder)!r}: wait for it, or name another "
                    "folder"
                ) from None
            time.sleep(0.05)
        except OSError:
            return False
