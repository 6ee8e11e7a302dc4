"""The parser of all commands but ``train``, whose flags are SAELens'."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any, NoReturn

from sae_lens_poly.errors import InputError

#: How the commands are called in what is printed.
PROGRAM = "python -m sae_lens_poly"


class Parser(argparse.ArgumentParser):
    """argparse's parser: whole names only, and an :class:`InputError` for what is wrong."""

    def __init__(self, command: str, **options: Any) -> None:
        super().__init__(prog=f"{PROGRAM} {command}", allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Refuse, in place of argparse's usage and exit."""
        raise InputError(f"{message}; {self.prog} --help lists the flags")


def add_settings(parser: argparse.ArgumentParser, kind: type[Any]) -> None:
    """Give a command a flag for each field of a dataclass of settings."""
    for field in dataclasses.fields(kind):
        parser.add_argument(f"--{field.name}", type=type(field.default), default=field.default)


def given_settings(kind: type[Any], options: argparse.Namespace) -> Any:
    """The settings that :func:`add_settings` has made flags of.

    Raises:
        InputError: If one is out of its range.
    """
    return kind(**{field.name: getattr(options, field.name) for field in dataclasses.fields(kind)})
