"""The parser of all commands but ``train``, whose flags are SAELens'."""

from __future__ import annotations

import argparse
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
