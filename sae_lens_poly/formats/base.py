"""What a format is: a class in a file of its own that enters itself into a registry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from sae_lens.saes.sae import SAE

from sae_lens_poly.constraints import Constraint, ListOf, Number, Registered, Text, check_fields
from sae_lens_poly.errors import InputError
from sae_lens_poly.formats.dictionary import PublicDictionary
from sae_lens_poly.formats.files import Files

#: Format to its class, by the name that ``--format`` gives it.
FORMATS: dict[str, type[Format]] = {}


@dataclass(frozen=True)
class ReadingOptions:
    """What the files of a dictionary do not say.

    Args:
        format: Name of the format; None: seen from the files.
        scales: What the activations of each hook point (or model) were multiplied with before they
            reached the dictionary, if the files do not say.
        hook_name: Hook points, as ``train --hook_name``; None: as the files say.
        model_name: The model; None: as the files say.
    """

    CONSTRAINTS: ClassVar[dict[str, Constraint]] = {
        "format": Registered(lambda: [None, *FORMATS]),  # type: ignore[list-item]
        "scales": ListOf(Number(above=0)),
        "hook_name": Text(optional=True),
        "model_name": Text(optional=True),
    }

    format: str | None = None
    scales: tuple[float, ...] = ()
    hook_name: str | None = None
    model_name: str | None = None

    def __post_init__(self) -> None:
        check_fields(self, self.CONSTRAINTS)

    def scales_for(self, n: int, what: str) -> torch.Tensor:
        """The given scales as a tensor (n,).

        Args:
            n: How many there must be.
            what: What each is for, and what it is made of.

        Raises:
            InputError: If they were not given, or are fewer or more.
        """
        if len(self.scales) != n:
            given = f"{len(self.scales)} are given" if self.scales else "none are given"
            raise InputError(
                f"scales: the files do not say what {what} was multiplied with, and {given}: give "
                f"all {n}, or ones if the activations that you encode are scaled already"
            )
        return torch.tensor(self.scales, dtype=torch.float64)


class Format(ABC):
    """Reads the dictionaries of one package."""

    #: Whether its files may leave out what activations were multiplied with.
    takes_scales: ClassVar[bool] = False

    def __init_subclass__(cls, name: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if name is not None:
            FORMATS[name] = cls

    @staticmethod
    @abstractmethod
    def recognises(files: Files) -> bool:
        """Whether these are files of the format, as far as their names tell."""

    @staticmethod
    @abstractmethod
    def read(files: Files, options: ReadingOptions) -> PublicDictionary:
        """The dictionary.

        Raises:
            InputError: If a file is damaged, or the dictionary is not one of ours exactly; with the
                reason.
        """

    @staticmethod
    def write(sae: SAE[Any], folder: Path) -> None:
        """Write the files of a dictionary of this package into a folder.

        Raises:
            InputError: If the format is read only, or the dictionary is none of it, with what to
                change.
        """
        writers = [name for name, each in FORMATS.items() if each.write is not Format.write]
        raise InputError(f"only these formats are written: {', '.join(writers)}")


def refuse(what: str, why: str, remedy: str) -> InputError:
    """The error for a dictionary that has no exact counterpart."""
    return InputError(f"{what}: {why}; {remedy}")
