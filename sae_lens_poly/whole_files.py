"""Files that are whole or not there, whatever stops the program, and what they hash to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hashlib import _Hash


def write_json(path: Path, value: Any) -> None:
    """Write plain values, under another name first."""
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(value, indent=1))
    unfinished.replace(path)


def digest_file(digest: _Hash, path: Path) -> None:
    """Add a file's content to a digest, a block at a time."""
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
