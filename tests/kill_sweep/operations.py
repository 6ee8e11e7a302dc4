"""A child process that is killed at one of its file operations, or that runs out of disk.

What writes from Python goes through ``open``; safetensors and torch write from native code, so that
their functions are counted as one operation each. Half-way means that half of the bytes are there;
renaming and the like has no half, and the child is killed after it.
"""

from __future__ import annotations

import builtins
import io
import logging
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from sae_lens_poly import InputError, whole_files

KILLED, REFUSED, FAILED = 77, 2, 1

#: After which a child is stuck.
SECONDS = 300

_ON_PATHS = ("rename", "replace", "remove", "unlink", "mkdir", "rmdir", "link", "symlink")


@dataclass(frozen=True)
class Ending:
    """How a child ended."""

    status: int
    """0, or one of the constants above, or minus the number of a signal."""
    said: str


@dataclass(frozen=True)
class Interruption:
    """When a child is stopped. Without any field: never."""

    at: int | None = None
    """Number of a file operation, from 0."""
    half: bool = False
    """Whether half of it is done; else it is killed before."""
    most_bytes: int | None = None
    """Largest file that it may write."""
    dies_of_it: bool = False
    """Whether it is killed in the middle of a larger one, and not told."""


NEVER = Interruption()


def run_child(act: Callable[[], None], watched: Path, interruption: Interruption) -> Ending:
    """Run something in a child process.

    Args:
        act: What to do.
        watched: Operations on files in this folder count.
        interruption: When to stop it.
    """
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        status = FAILED
        try:
            for stream in (1, 2):
                os.dup2(theirs, stream)
            sys.stdout = sys.stderr = os.fdopen(theirs, "w", buffering=1)
            logging.basicConfig(stream=sys.stderr, force=True)
            signal.alarm(SECONDS)
            # Of the threads that torch computes with, a fork has none, and would wait for them.
            torch.set_num_threads(1)
            _limit(interruption)
            counter = _Counter(watched.resolve(), interruption)
            counter.install()
            act()
            status = 0
            print(f"operations: {counter.n}")
        except InputError as error:
            print(f"error: {error}")
            status = REFUSED
        except BaseException:
            traceback.print_exc()
        finally:
            with suppress(BaseException):
                sys.stdout.flush()
            os._exit(status)
    os.close(theirs)
    with os.fdopen(ours, errors="replace") as said:
        text = said.read()
    return Ending(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text)


def count_operations(ending: Ending) -> int:
    """Of a child that was not stopped."""
    assert ending.status == 0, ending.said
    return int(ending.said.rsplit("operations: ", 1)[1])


def _limit(interruption: Interruption) -> None:
    if interruption.most_bytes is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL if interruption.dies_of_it else signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (interruption.most_bytes, -1))


class _Counter:
    def __init__(self, watched: Path, interruption: Interruption) -> None:
        self.watched, self.stop, self.n = watched, interruption, 0

    def install(self) -> None:
        """Wrap everything in this process that changes files."""
        for name in _ON_PATHS:
            setattr(os, name, self._on_path(getattr(os, name)))
        opened = self._open(io.open)
        builtins.open = io.open = opened  # type: ignore[assignment]
        safetensors.torch.serialize_file = self._native(safetensors.torch.serialize_file, 1)
        torch.save = self._native(torch.save, 1)
        whole_files.exchange = self._on_path(whole_files.exchange)

    def _is_watched(self, path: Any) -> bool:
        if isinstance(path, int):
            return False
        with suppress(TypeError, ValueError):
            return Path(os.path.abspath(os.fsdecode(path))).is_relative_to(self.watched)
        return False

    def _strikes(self) -> bool:
        """Count an operation; whether it is the one to stop at."""
        self.n += 1
        if self.n - 1 != self.stop.at:
            return False
        if not self.stop.half:
            os._exit(KILLED)
        return True

    def _on_path(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(path: Any, *args: Any, **kwargs: Any) -> Any:
            # A path within an open folder comes from removing a tree.
            counts = kwargs.get("dir_fd") is not None or self._is_watched(path)
            strikes = counts and self._strikes()
            result = function(path, *args, **kwargs)
            if strikes:
                os._exit(KILLED)
            return result

        return wrapped

    def _open(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            if not set(mode) & set("wax+") or not self._is_watched(file):
                return function(file, mode, *args, **kwargs)
            strikes = self._strikes()
            found = function(file, mode, *args, **kwargs)
            if strikes:
                close = found.close

                def die() -> None:
                    close()
                    if not os.path.isdir(file):  # of a temporary file without a name
                        os.truncate(file, os.path.getsize(file) // 2)
                    os._exit(KILLED)

                found.close = die
            return found

        return wrapped

    def _native(self, function: Callable[..., Any], place: int) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            path = args[place]
            if not self._is_watched(path):
                return function(*args, **kwargs)
            strikes = self._strikes()
            result = function(*args, **kwargs)
            if strikes:
                os.truncate(path, os.path.getsize(path) // 2)
                os._exit(KILLED)
            return result

        return wrapped
