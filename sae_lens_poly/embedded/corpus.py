"""The embedded text: the source of the Python standard library on this machine.

Nothing is downloaded. A module belongs to the held-out split when the SHA-256 of its dotted
name is a multiple of :data:`HELD_OUT_MODULUS`, so the split does not depend on the Python
version, on file order or on a random seed: a module that the embedded model was not trained
on stays unseen on every machine.
"""

from __future__ import annotations

import hashlib
import sysconfig
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from datasets import Dataset

Split = Literal["train", "held_out"]

#: One module in this many is held out (about 5% of the modules).
HELD_OUT_MODULUS = 20

_NOT_STANDARD_LIBRARY = {"site-packages", "dist-packages", "__pycache__"}


@dataclass(frozen=True)
class Module:
    """One source file of the standard library."""

    name: str
    """Dotted name, for example ``email.mime.text``."""
    path: Path
    text: str


def is_held_out(module_name: str, modulus: int = HELD_OUT_MODULUS) -> bool:
    """Whether the module of this dotted name belongs to the held-out split.

    Args:
        module_name: For example ``email.mime.text``.
        modulus: One module in this many is held out. With a divisor of :data:`HELD_OUT_MODULUS`
            it is a larger split, of which the held-out one is part.
    """
    digest = hashlib.sha256(module_name.encode()).hexdigest()
    return int(digest, 16) % modulus == 0


@cache
def stdlib_modules(split: Split) -> tuple[Module, ...]:
    """Return the modules of one split, in the order of their names.

    Files that are not valid UTF-8 (a few test fixtures) and empty files are left out.

    Raises:
        FileNotFoundError: If this Python has no standard library in source form.
    """
    root = Path(sysconfig.get_path("stdlib"))
    modules = []
    for path in root.rglob("*.py"):
        parts = path.relative_to(root).with_suffix("").parts
        if _NOT_STANDARD_LIBRARY.intersection(parts):
            continue
        name = ".".join(parts)
        if is_held_out(name) != (split == "held_out"):
            continue
        try:
            text = path.read_bytes().decode("utf-8")
        except UnicodeDecodeError:
            continue
        if text:
            modules.append(Module(name, path, text))
    if not modules:
        raise FileNotFoundError(
            f"no Python source was found under {root}: the embedded text is the standard "
            "library's own source, so use a Python that ships it, or pass --dataset_path"
        )
    return tuple(sorted(modules, key=lambda module: module.name))


def stdlib_dataset(split: Split) -> Dataset:
    """Return one split as a data set with columns ``text`` and ``module``, one row a module.

    Rows are in the order of a hash of the module name: neighbours in the alphabet share their
    subject, and SAELens reads a data set from the front.
    """
    modules = sorted(stdlib_modules(split), key=lambda m: hashlib.sha256(m.name.encode()).digest())
    return Dataset.from_dict(
        {"text": [m.text for m in modules], "module": [m.name for m in modules]}
    )
