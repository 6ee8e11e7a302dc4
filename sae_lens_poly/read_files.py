"""Reading files that may not be what their names say: bounded, typed, and nothing is run.

Every file that this package reads is read through here, or through
:mod:`~sae_lens_poly.read_tensors`. What is wrong with one is an
:class:`~sae_lens_poly.errors.InputError` that names the file, what is wrong and the remedy.
"""

from __future__ import annotations

import codecs
import gzip
import math
from collections import Counter
from collections.abc import Hashable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import TypeAdapter, ValidationError

from sae_lens_poly.errors import InputError, first_line

if TYPE_CHECKING:
    from hashlib import _Hash

#: Bytes of a JSON file at most. The largest that is written has some 100,000.
MOST_TEXT = 16 * 2**20

#: Bytes of a YAML file at most, whose parser needs a second for so many.
MOST_YAML = 2**16

#: Values in a YAML file at most, each counted as often as it is referred to.
MOST_VALUES = 10_000

AGAIN, _SEE_PRESET = "save or download it again", "see a preset for an example"


def damaged(path: Path, why: object, remedy: str = AGAIN) -> InputError:
    """The error for a file that is not what its name says."""
    return InputError(f"{str(path)!r} is damaged ({str(why)[:200]}); {remedy}")


def read_text(path: Path, remedy: str = AGAIN, most: int = MOST_TEXT) -> str:
    """A text file in UTF-8, of so many bytes at most.

    Raises:
        InputError: If it cannot be read, is larger, or not UTF-8.
    """
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read ({error.strerror})") from None
    if len(content) > most:
        raise damaged(path, f"more than {most:,} bytes", remedy)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise damaged(path, f"not UTF-8: {error.reason} at byte {error.start}", remedy) from None


def read_json(path: Path, kind: Any, remedy: str = AGAIN) -> Any:
    """A JSON file that holds a value of a type.

    Args:
        path: The file.
        kind: A type with annotations: ``dict[str, float]``, a dataclass, ... Numbers are not taken
            for text, nor text or true and false for numbers; further fields are left out.
        remedy: What to do about a damaged file.

    Raises:
        InputError: If it holds something else. The message names the place.
    """
    return check_json(read_text(path, remedy), kind, path, remedy)


def check_json(text: str, kind: Any, path: Path, remedy: str = AGAIN) -> Any:
    """The same for text that was read."""
    try:
        return _adapter(kind).validate_json(text, strict=True)
    except ValidationError as error:
        raise damaged(path, _first_fault(error), remedy) from None


def _first_fault(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    if not first["loc"]:
        return f"not a JSON object: {first['msg']}"
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}, and is {first['input']!r:.60}"


@lru_cache(maxsize=256)
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def read_object(path: Path, remedy: str = AGAIN) -> dict[str, Any]:
    """A JSON object in which all numbers are finite.

    Raises:
        InputError: If it is something else.
    """
    content = read_json(path, dict[str, Any], remedy)
    _count(content, path, math.inf, finite=True)
    return content


class _EachOnce(yaml.SafeLoader):
    """Refuses a field that stands twice in a mapping; YAML's loader takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for name, times in Counter(names).items():
            if times > 1 and name != "<<":
                raise yaml.constructor.ConstructorError(None, None, f"{name!r} stands twice")
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """The fields of a YAML file of plain values, in which references do not multiply.

    Raises:
        InputError: If it is no YAML or no mapping, is larger than :data:`MOST_YAML`, or holds more
            than :data:`MOST_VALUES` values.
    """
    text = read_text(path, _SEE_PRESET, MOST_YAML)
    try:
        content = yaml.load(text, _EachOnce)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{str(path)!r} cannot be read as YAML ({first_line(error)})") from None
    if not isinstance(content, dict):
        raise InputError(f"{str(path)!r} has no fields: {_SEE_PRESET}")
    _count(content, path, MOST_VALUES, finite=False)
    return content


def _count(value: Any, path: Path, most: float, finite: bool) -> None:
    """Refuse a value of too many parts, or with numbers that are not finite."""
    n_left, unseen = most, [value]
    while unseen:
        n_left -= 1
        if n_left < 0:
            raise damaged(path, f"more than {most:,} values", _SEE_PRESET)
        part = unseen.pop()
        if finite and isinstance(part, float) and not math.isfinite(part):
            raise damaged(path, f"{part} is no value")
        if isinstance(part, Mapping):
            unseen += part.values()
        elif isinstance(part, list | tuple | set):
            unseen += part


def require_json_rows(path: Path, field: str) -> None:
    """Refuse a JSON file that does not begin with a row, or not in UTF-8.

    pyarrow crashes on one that says null, and takes any bytes for text until they are looked at.

    Args:
        path: A ``.json`` or ``.jsonl``, or one of them in ``.gz``.
        field: What named it.

    Raises:
        InputError: If it begins otherwise.
        UnicodeDecodeError: If its first megabyte is in another encoding.
    """
    with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
        start = file.read(1 << 20).removeprefix(b"\xef\xbb\xbf").lstrip()
    codecs.getincrementaldecoder("utf-8")().decode(start)
    if not start.startswith((b"{", b"[")):
        raise InputError(
            f"{field}={str(path)!r} begins with {start[:20]!r}, which is no row: give one object "
            "a line, or a list of objects"
        )


def digest_file(digest: _Hash, path: Path) -> None:
    """Add a file's content to a digest, a block at a time."""
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
