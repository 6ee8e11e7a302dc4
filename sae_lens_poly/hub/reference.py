"""``user/repo:path/to/dictionary``: how a dictionary on the hub is named in one word."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

_REFERENCE = re.compile(r"(?P<repo_id>[\w.-]+/[\w.-]+):(?P<path>[^:]+)")


class HubReference(NamedTuple):
    """A folder in a repository."""

    repo_id: str
    path: str

    @classmethod
    def parse(cls, text: str) -> HubReference | None:
        """None where the text names no such thing: then it is a local folder."""
        match = _REFERENCE.fullmatch(text)
        if match is None or Path(text).exists():
            return None
        return cls(match["repo_id"], match["path"].strip("/"))

    def __str__(self) -> str:
        return f"{self.repo_id}:{self.path}"
