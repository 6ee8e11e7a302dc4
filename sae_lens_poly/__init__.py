"""Polynomial SAEs and multi-layer crosscoders for SAELens.

Importing this package registers its architectures with SAELens. What it offers is listed in
:mod:`sae_lens_poly.public`.
"""

import sys
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

__version__ = version("sae-lens-poly")


def _starts_a_command() -> bool:
    """Whether this import is Python's way to ``python -m sae_lens_poly`` or ``sae-lens-poly``.

    Both import the package before they look at their flags, and SAELens takes seconds to import:
    then it waits until the flags have passed, so that a wrong one is answered at once. Whatever
    else imports this package gets all of it.
    """
    if sys.argv[:1] == ["-m"]:  # so it stands while Python looks for the module to run
        words = sys.orig_argv
        return words[words.index("-m") + 1 :][:1] == [__name__] if "-m" in words else False
    return bool(sys.argv) and Path(sys.argv[0]).stem == "sae-lens-poly"


if TYPE_CHECKING or not _starts_a_command():
    from sae_lens_poly.public import *  # noqa: F403
    from sae_lens_poly.public import __all__ as __all__
else:

    def __getattr__(name: str) -> Any:
        """For code that a command runs once its flags have passed."""
        if name.startswith("__") or find_spec(f"{__name__}.{name}"):  # a module loads itself
            raise AttributeError(name)
        return getattr(import_module(f"{__name__}.public"), name)
