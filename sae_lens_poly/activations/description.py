"""What a folder of activations says of itself: ``cache.json``, on which all its jobs agree."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sae_lens_poly.errors import InputError
from sae_lens_poly.read_files import damaged, read_json
from sae_lens_poly.whole_files import write_json

DESCRIPTION_FILENAME, END_FILENAME = "cache.json", "end.json"
_REMEDY = "give another folder, or delete this one and fill it again"


@dataclass
class Description:
    """Of which model, hook points and text the activations are."""

    storage: str
    """``bfloat16`` or ``int8``."""
    model_name: str
    weights: str
    """What tells the weights of the model."""
    hook_names: list[str]
    d_model: int
    reading: dict[str, Any]
    """How the text is read, as in the metadata of a dictionary."""
    text: dict[str, Any]
    """Which text it is."""
    n_contexts: int
    """How many are wanted; the text may have fewer."""
    contexts_per_shard: int

    @property
    def n_shards(self) -> int:
        """How many shards hold so many contexts."""
        return -(-self.n_contexts // self.contexts_per_shard)

    def contexts_of(self, shard: int) -> int:
        """Contexts in a shard, at most."""
        return min(self.contexts_per_shard, self.n_contexts - shard * self.contexts_per_shard)

    def agree(self, folder: Path) -> None:
        """Write it, where there is none; else refuse another one.

        Raises:
            InputError: Naming the first field in which the two differ.
        """
        if not (folder / DESCRIPTION_FILENAME).exists():
            write_json(folder / DESCRIPTION_FILENAME, asdict(self))
        there, mine = asdict(read_description(folder)), asdict(self)
        for name, value in mine.items():
            if there[name] != value:
                raise InputError(
                    f"{str(folder)!r} holds activations with {name}={there[name]!r}, and these "
                    f"flags give {value!r}: give the same flags, or another folder"
                )


@dataclass
class _End:
    n_contexts: int


def read_description(folder: Path) -> Description:
    """Read ``cache.json``, with the number of contexts that the text turned out to have.

    Raises:
        InputError: If it is missing or damaged.
    """
    if not (folder / DESCRIPTION_FILENAME).is_file():
        raise InputError(f"{str(folder)!r} has no {DESCRIPTION_FILENAME}: {_REMEDY}")
    found: Description = read_json(folder / DESCRIPTION_FILENAME, Description, _REMEDY)
    sizes = (found.d_model, found.n_contexts, found.contexts_per_shard, len(found.hook_names))
    if found.storage not in ("bfloat16", "int8") or min(sizes) < 1:
        raise damaged(folder / DESCRIPTION_FILENAME, f"sizes {sizes} or its storage", _REMEDY)
    return found


def mark_end(folder: Path, n_contexts: int) -> None:
    """Say that the text had no more contexts than that."""
    write_json(folder / END_FILENAME, asdict(_End(n_contexts)))


def contexts_there(folder: Path, wanted: int) -> int:
    """Contexts that the cache has when it is full: those wanted, or all of a shorter text."""
    path = folder / END_FILENAME
    return min(wanted, read_json(path, _End, _REMEDY).n_contexts) if path.exists() else wanted
