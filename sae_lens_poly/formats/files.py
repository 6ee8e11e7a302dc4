"""The files of somebody's dictionary, wherever they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from sae_lens_poly.errors import InputError
from sae_lens_poly.read_files import damaged

#: Files that a folder may hold.
MOST_FILES = 10_000

# Below the folder: some formats have a folder for each layer.
_DEEPEST = 2


class Files:
    """The files of a folder by their names in it, ``layers.0.mlp/cfg.json``.

    Args:
        at: What the folder is called in messages.
        names: Of the files, with ``/`` between folders.
        fetch: Gives the path of one on this machine.
    """

    def __init__(self, at: str, names: Sequence[str], fetch: Callable[[str], Path]) -> None:
        self.at, self.names, self._fetch = at, sorted(names), fetch

    @classmethod
    def of_folder(cls, folder: str | Path) -> Files:
        """Those of a folder on this machine.

        Raises:
            InputError: If there is no such folder, or it holds too many files.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise InputError(f"folder={str(folder)!r} is not a folder: give one with a dictionary")
        names: list[str] = []
        for pattern in ("/".join(["*"] * depth) for depth in range(1, _DEEPEST + 1)):
            for path in folder.glob(pattern):
                if path.is_file():
                    names.append(path.relative_to(folder).as_posix())
                if len(names) > MOST_FILES:
                    raise InputError(
                        f"folder={str(folder)!r} holds more than {MOST_FILES:,} files: give the "
                        "folder of one dictionary"
                    )
        return cls(str(folder), names, folder.joinpath)

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def path(self, name: str) -> Path:
        """A file on this machine.

        Raises:
            InputError: If the folder has no such file.
        """
        if name not in self.names:
            raise damaged(Path(self.at), f"it has no {name}")
        return self._fetch(name)

    def numbered(self, pattern: str) -> list[str]:
        """Names such as ``pattern.format(0)``, ``pattern.format(1)``, ... as many as there are.

        Raises:
            InputError: If a number is left out.
        """
        before, after = pattern.split("{}")
        found = {
            int(middle)
            for name in self.names
            if name.startswith(before)
            and name.endswith(after)
            and (middle := name[len(before) : len(name) - len(after)]).isdecimal()
            and len(middle) < 6
        }
        for number in range(len(found)):
            if number not in found:
                raise damaged(Path(self.at), f"it has no {pattern.format(number)}")
        return [pattern.format(number) for number in range(len(found))]

    def folder_of(self, name: str) -> Files | None:
        """The files beside the only one of this name, here or one folder below; None: no such.

        Raises:
            InputError: If several folders have one.
        """
        if name in self.names:
            return self
        found = [path for path in map(PurePosixPath, self.names) if path.name == name]
        if not found:
            return None
        if len(found) > 1:
            folders = ", ".join(str(path.parent) for path in found[:5])
            raise InputError(f"{self.at!r} has several dictionaries: give one of {folders}")
        return self.below(str(found[0].parent))

    def below(self, folder: str) -> Files:
        """The files of a folder in this one."""
        start = f"{folder}/"
        names = [name[len(start) :] for name in self.names if name.startswith(start)]
        return Files(f"{self.at}/{folder}", names, lambda name: self._fetch(start + name))
