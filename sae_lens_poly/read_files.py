"""Reading files that may not be what their names say: bounded, typed, and nothing is run.

Every file that this package reads is read through here. What is wrong with one is an
:class:`~sae_lens_poly.errors.InputError` that names the file, what is wrong and the remedy.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open

from sae_lens_poly.errors import InputError, first_line

if TYPE_CHECKING:
    from hashlib import _Hash

#: Bytes of a text file (JSON, YAML) at most. The largest that is written has some 100,000.
MOST_TEXT = 16 * 2**20

#: Bytes of the header of a safetensors file at most: room for some 100,000 tensors.
MOST_HEADER = 8 * 2**20

#: Values in a YAML file at most, each counted as often as it is referred to.
MOST_VALUES = 20_000

_AGAIN = "save or download it again"

# How files begin that torch.save and pickle write.
_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


@dataclass(frozen=True)
class TensorHeader:
    """What a safetensors file says about one of its tensors."""

    dtype: str
    """As the format names it: ``F32``, ``BF16``, ``I64``, ``BOOL``, ..."""
    shape: tuple[int, ...]

    @property
    def is_floating(self) -> bool:
        """Whether it holds floating-point numbers."""
        return self.dtype.startswith(("F", "BF"))


def damaged(path: Path, why: object, remedy: str = _AGAIN) -> InputError:
    """The error for a file that is not what its name says."""
    return InputError(f"{str(path)!r} is damaged ({str(why)[:200]}); {remedy}")


def read_text(path: Path, remedy: str = _AGAIN) -> str:
    """A text file in UTF-8.

    Raises:
        InputError: If it cannot be read, is larger than :data:`MOST_TEXT`, or not UTF-8.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_TEXT + 1)
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read ({error.strerror})") from None
    if len(content) > MOST_TEXT:
        raise damaged(path, f"more than {MOST_TEXT:,} bytes", remedy)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise damaged(path, f"not UTF-8: {error.reason} at byte {error.start}", remedy) from None


def read_json(path: Path, kind: Any, remedy: str = _AGAIN) -> Any:
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


def check_json(text: str, kind: Any, path: Path, remedy: str = _AGAIN) -> Any:
    """The same for text that was read."""
    try:
        return _adapter(kind).validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if not first["loc"]:
            raise damaged(path, f"not a JSON object: {first['msg']}", remedy) from None
        place = ".".join(map(str, first["loc"]))
        found = f"{place}: {first['msg']}, and is {first['input']!r:.60}"
        raise damaged(path, found, remedy) from None


@lru_cache(maxsize=256)
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def read_object(path: Path, remedy: str = _AGAIN) -> dict[str, Any]:
    """A JSON object in which all numbers are finite.

    Raises:
        InputError: If it is something else.
    """
    content = read_json(path, dict[str, Any], remedy)
    _count(content, path, math.inf, finite=True)
    return content


def read_yaml(path: Path) -> Any:
    """A YAML file of plain values, in which references do not multiply.

    Raises:
        InputError: If it is no YAML, or holds more than :data:`MOST_VALUES` values.
    """
    remedy = "see a preset for an example"
    text = read_text(path, remedy)
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{str(path)!r} is not YAML ({first_line(error)[:200]})") from None
    _count(content, path, MOST_VALUES, finite=False)
    return content


def _count(value: Any, path: Path, most: float, finite: bool) -> None:
    """Refuse a value of too many parts, or with numbers that are not finite."""
    n_left, unseen = most, [value]
    while unseen:
        n_left -= 1
        if n_left < 0:
            raise damaged(path, f"more than {most:,} values", "see a preset for an example")
        part = unseen.pop()
        if finite and isinstance(part, float) and not math.isfinite(part):
            raise damaged(path, f"{part} is no value")
        if isinstance(part, Mapping):
            unseen += part.values()
        elif isinstance(part, list | tuple | set):
            unseen += part


def read_header(path: Path) -> dict[str, TensorHeader]:
    """Names, dtypes and shapes of the tensors in a safetensors file.

    Raises:
        InputError: If it is no safetensors file; a pickle is named as such.
    """
    try:
        with path.open("rb") as file:
            start = file.read(8)
        if not start.startswith(_PICKLES) and int.from_bytes(start, "little") > MOST_HEADER:
            raise damaged(path, f"its header claims more than {MOST_HEADER:,} bytes")
        with safe_open(path, framework="pt") as tensors:
            slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118
            return {
                name: TensorHeader(part.get_dtype(), tuple(part.get_shape()))
                for name, part in slices.items()
            }
    except SafetensorError as error:
        if start.startswith(_PICKLES):
            raise InputError(
                f"{str(path)!r} is a pickle and not safetensors: loading it could run code, so it "
                "is refused; get the weights in safetensors"
            ) from None
        raise damaged(path, first_line(error)) from None
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read ({error.strerror})") from None


def require_tensors(path: Path, wanted: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    """Refuse a safetensors file that does not hold just these tensors.

    Args:
        path: The file.
        wanted: Name to kind, ``floating`` or a dtype of the format, and shape.

    Raises:
        InputError: Naming the first that is missing, too many or of another kind.
    """
    found = read_header(path)
    for name in sorted({*found, *wanted}):
        if name not in found:
            raise damaged(path, f"it has no {name}")
        if name not in wanted:
            raise damaged(path, f"it has {name!r}, which does not belong there")
        kind, shape = wanted[name]
        fits = found[name].is_floating if kind == "floating" else found[name].dtype == kind
        if not fits or found[name].shape != shape:
            raise damaged(
                path,
                f"{name} is {found[name].dtype} {found[name].shape}, and has to be {kind} {shape}",
            )


def require_finite(path: Path, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Refuse NaN and infinity.

    Raises:
        InputError: Naming the first tensor that has any.
    """
    for name, tensor in tensors:
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            n_bad = int((~tensor.isfinite()).sum())
            raise damaged(
                path,
                f"{name} has NaN or infinity, {n_bad} of {tensor.numel()} numbers",
                "take what was saved before the run diverged",
            )


def require_unpacked(path: Path) -> None:
    """Refuse a zip file with compressed entries: neither torch nor numpy wrote it.

    Raises:
        InputError: If there is one.
        zipfile.BadZipFile: If it is no zip file.
    """
    with zipfile.ZipFile(path) as file:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in file.infolist()):
            raise damaged(path, "it is compressed, so that it could hold any amount")


def read_torch(path: Path) -> Any:
    """A file that ``torch.save`` wrote, of tensors and plain values: nothing in it is run.

    Raises:
        InputError: If it is something else, or unpacks to more than it is large.
    """
    try:
        require_unpacked(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except Exception as error:  # whatever the unpickler meets
        raise damaged(path, first_line(error)) from None


def digest_file(digest: _Hash, path: Path) -> None:
    """Add a file's content to a digest, a block at a time."""
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
