"""``user/repo:path/to/dictionary``: how a dictionary on the hub is named in one word."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from sae_lens_poly.errors import InputError

_REPO_ID = re.compile(r"[\w.-]+/[\w.-]+")
# What needs no quoting in links, shells and Markdown.
_PATH = re.compile(r"[\w.=+-]+(/[\w.=+-]+)*")


class HubReference(NamedTuple):
    """A folder in a repository."""

    repo_id: str
    path: str

    @classmethod
    def parse(cls, text: str) -> HubReference | None:
        """None where the text names no such thing: then it is a local folder."""
        repo_id, colon, path = text.partition(":")
        if not colon or Path(text).exists() or not _REPO_ID.fullmatch(repo_id):
            return None
        return cls.of(repo_id, path)

    @classmethod
    def of(cls, repo_id: str, path: str) -> HubReference:
        """The same from its parts.

        Raises:
            InputError: If they cannot name a folder in a repository.
        """
        if not _REPO_ID.fullmatch(repo_id):
            raise InputError(f"repo_id={repo_id!r} is not a name of the form user/repo")
        plain = path.rstrip("/")
        if not _PATH.fullmatch(plain) or {".", ".."} & set(plain.split("/")):
            raise InputError(
                f"path={path!r} must name a folder in the repository, as in 'layers/all': letters, "
                "digits and . _ - = + between slashes"
            )
        return cls(repo_id, plain)

    @classmethod
    def of_flags(cls, text: str, revision: str | None) -> HubReference | None:
        """What ``text`` names, as :meth:`parse` says, for a command that also takes a revision.

        Raises:
            InputError: If a revision is given for a local folder, or as :meth:`of` does.
        """
        reference = cls.parse(text)
        if reference is None and revision is not None:
            raise InputError(
                f"revision={revision!r} is for dictionaries on the hub, and {text!r} is not of the "
                "form user/repo:path"
            )
        return reference

    def __str__(self) -> str:
        return f"{self.repo_id}:{self.path}"
