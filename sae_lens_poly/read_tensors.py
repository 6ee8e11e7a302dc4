"""Reading tensors from files that may not be what their names say; pickles are refused."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from sae_lens_poly.errors import InputError, first_line
from sae_lens_poly.read_files import AGAIN, damaged

#: Bytes of the header of a safetensors file at most: room for some 100,000 tensors.
MOST_HEADER = 8 * 2**20

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


def read_header(path: Path, remedy: str = AGAIN) -> dict[str, TensorHeader]:
    """Names, dtypes and shapes of the tensors in a safetensors file.

    Raises:
        InputError: If it is no safetensors file; a pickle is named as such.
    """
    try:
        with path.open("rb") as file:
            start = file.read(8)
        if not start.startswith(_PICKLES) and int.from_bytes(start, "little") > MOST_HEADER:
            raise damaged(path, f"its header claims more than {MOST_HEADER:,} bytes", remedy)
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
        raise damaged(path, first_line(error), remedy) from None
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read ({error.strerror})") from None


def require_tensors(path: Path, wanted: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    """Refuse a safetensors file that does not hold just these tensors.

    Args:
        path: The file.
        wanted: Name to kind, ``floating`` or a dtype of the format, and shape.

    Raises:
        InputError: Naming the first tensor that is missing, unexpected or of another kind.
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
        # The largest and the smallest are NaN where any number is.
        if tensor.is_floating_point() and not is_within(tensor, torch.inf):
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


def is_within(tensor: torch.Tensor, limit: float) -> bool:
    """Whether all numbers are below a limit in size, and none is NaN; needs no memory."""
    return tensor.numel() == 0 or all(abs(end.item()) < limit for end in tensor.aminmax())


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
