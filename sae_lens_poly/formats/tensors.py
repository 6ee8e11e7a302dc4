"""Tensors of a file in somebody's format: each is asked for by name, with its sizes."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open

from sae_lens_poly.read_files import damaged
from sae_lens_poly.read_tensors import read_header, read_torch, require_finite

_REMEDY = "download it again, or name the format it has (--format)"


class Sizes(dict[str, int]):
    """Sizes by letter: the first tensor with an ``F`` says what F is, and all others must agree."""

    def fit(self, path: Path, name: str, shape: tuple[int, ...], letters: str) -> None:
        """Refuse a tensor of other sizes than those of ``letters``, such as ``"L d F"``.

        Raises:
            InputError: Naming the file, the tensor and the sizes.
        """
        wanted = letters.split()
        if len(wanted) == len(shape):
            for letter, size in zip(wanted, shape, strict=True):
                if not letter.isdecimal() and size:
                    self.setdefault(letter, size)
        if shape != tuple(self.get(letter, _number(letter)) for letter in wanted):
            known = [f"{x}={self[x]}" if x in self else x for x in wanted]
            raise damaged(path, f"{name} is {list(shape)}, and has to be [{', '.join(known)}]")


def _number(letter: str) -> int:
    return int(letter) if letter.isdecimal() else -1


class TensorFile:
    """A file of tensors, safetensors or what ``torch.save`` wrote; pickled code is refused.

    Of safetensors only what is asked for is read, so that a large dictionary is never there twice.

    Args:
        path: The file.
        sizes: Of all files of the dictionary.
        prefix: What all names begin with, and is left out.
        within: Where ``torch.save`` wrote a dictionary of this name with the tensors in it.

    Raises:
        InputError: If it is neither, or holds something else than tensors.
    """

    def __init__(self, path: Path, sizes: Sizes, prefix: str = "", within: str = "") -> None:
        self.path, self.sizes = path, sizes
        self._loaded: dict[str, torch.Tensor] | None = None
        shapes: dict[str, tuple[int, ...]]
        if path.suffix == ".safetensors":
            shapes = {name: of.shape for name, of in read_header(path).items()}
        else:
            self._loaded = _state_dict(path, within)
            shapes = {name: tuple(tensor.shape) for name, tensor in self._loaded.items()}
        self._own = {name.removeprefix(prefix): name for name in shapes}
        self.shapes = {name: shapes[own] for name, own in self._own.items()}
        self._unread = set(self.shapes)

    def __contains__(self, name: str) -> bool:
        return name in self.shapes

    def take(self, name: str, letters: str) -> torch.Tensor:
        """A tensor of floating-point numbers, all finite, with these sizes.

        Raises:
            InputError: If it is missing or something else.
        """
        tensor = self.take_any(name, letters)
        if not tensor.is_floating_point():
            raise damaged(self.path, f"{name} is {tensor.dtype}, and has to be numbers", _REMEDY)
        require_finite(self.path, [(name, tensor)])
        return tensor

    def take_any(self, name: str, letters: str) -> torch.Tensor:
        """A tensor of any kind, NaN included.

        Raises:
            InputError: If it is missing or has other sizes.
        """
        self.fit(name, letters)
        self._unread.discard(name)
        if self._loaded is not None:
            return self._loaded.pop(self._own[name])
        with safe_open(self.path, framework="pt") as tensors:
            tensor: torch.Tensor = tensors.get_tensor(self._own[name])
            return tensor.clone()  # out of the file that is mapped

    def fit(self, name: str, letters: str) -> None:
        """Refuse a tensor that is missing or has other sizes, without reading it.

        Raises:
            InputError: Naming it.
        """
        if name not in self.shapes:
            raise damaged(self.path, f"it has no {name}", _REMEDY)
        self.sizes.fit(self.path, name, self.shapes[name], letters)

    def number(self, name: str) -> float:
        """A tensor of one number.

        Raises:
            InputError: If it is missing or holds several.
        """
        letters = "1" if self.shapes.get(name) == (1,) else ""
        return float(self.take_any(name, letters).item())

    def count(self, name: str) -> int:
        """A tensor of one whole number from 1 on.

        Raises:
            InputError: If it is missing or something else.
        """
        number = self.number(name)
        if not 1 <= number < 2**31 or number != round(number):
            raise damaged(self.path, f"{name}={number:g} is no whole number from 1 on", _REMEDY)
        return round(number)

    def leave(self, *names: str) -> None:
        """Do without these; they say nothing about what is computed."""
        self._unread.difference_update(names)

    def close(self) -> None:
        """Refuse tensors that were not asked for: they could be part of the function.

        Raises:
            InputError: Naming one of them.
        """
        self._loaded = None
        if self._unread:
            unknown = min(self._unread)
            raise damaged(
                self.path, f"it has {unknown!r}, which this format does not have", _REMEDY
            )


def _state_dict(path: Path, within: str) -> dict[str, torch.Tensor]:
    content = read_torch(path)
    if isinstance(content, dict) and within in content:
        content = content[within]
    if not isinstance(content, dict) or not content:
        raise damaged(path, "it is no dictionary of tensors", _REMEDY)
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise damaged(path, f"{name!r:.60} is no tensor", _REMEDY)
    return dict(content)
