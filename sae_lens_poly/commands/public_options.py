"""Flags for dictionaries of other packages: what their files do not say."""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path
from typing import Any

_HELP = {
    "format": "of the files; seen from them by default",
    "scales": "what activations of each hook point (or model) were multiplied with in training",
    "hook_name": "hook points, where the files do not name them",
    "model_name": "the model, where the files do not name it",
}


def is_public(folder: str) -> bool:
    """Whether a folder has weights and is no dictionary of this package, as names tell."""
    found = [path for depth in ("*", "*/*") for path in islice(Path(folder).glob(depth), 1000)]
    top = {path.name for path in found if path.parent == Path(folder)}
    ours = "sae_weights.safetensors" in top and "config.json" not in top
    return not ours and any(path.suffix in (".safetensors", ".pt") for path in found)


def add_public_flags(parser: argparse._ActionsContainer) -> None:
    """Give a command the fields of :class:`~sae_lens_poly.formats.base.ReadingOptions`."""
    for name, text in _HELP.items():
        more: dict[str, Any] = {"type": float, "nargs": "+"} if name == "scales" else {}
        parser.add_argument(f"--{name}", help=text, **more)
    parser.add_argument("--revision", help="branch, tag or commit on the hub; main by default")


def given_public_options(options: argparse.Namespace) -> dict[str, Any]:
    """What was given of them, without the revision."""
    given = {name: getattr(options, name) for name in _HELP}
    given["scales"] = tuple(given["scales"] or ())
    return {name: value for name, value in given.items() if value}
