"""From somebody's files to a crosscoder of this package: which format they have, and reading it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sae_lens.constants import DTYPE_MAP
from sae_lens.saes.sae import SAE

from sae_lens_poly.errors import InputError
from sae_lens_poly.formats.base import FORMATS, ReadingOptions
from sae_lens_poly.formats.files import Files
from sae_lens_poly.whole_files import whole_folder

#: A config and weights, as SAELens' loaders return them.
Loaded = tuple[dict[str, Any], dict[str, torch.Tensor]]


def format_of(files: Files) -> str | None:
    """The format that files have, as far as their names tell; None: none that is known.

    Raises:
        InputError: If they could be of several dictionaries.
    """
    return next((name for name, each in FORMATS.items() if each.recognises(files)), None)


def read_public(
    files: Files,
    options: ReadingOptions | None = None,
    device: str = "cpu",
    cfg_overrides: dict[str, Any] | None = None,
) -> Loaded:
    """Config and weights of a public dictionary.

    Args:
        files: Its files.
        options: What they do not say.
        device: Where the weights go.
        cfg_overrides: Fields of the config that are set; SAELens gives the dtype here.

    Raises:
        InputError: If the format is not known, a file is damaged, or the dictionary cannot be
            converted exactly.
    """
    options = options or ReadingOptions()
    name = options.format or format_of(files)
    if name is None:
        raise InputError(
            f"{files.at!r} is in no format that is known ({', '.join(FORMATS)}): name it with "
            f"--format if its files have other names; it holds {', '.join(files.names[:5])}"
        )
    if options.scales and not FORMATS[name].takes_scales:
        raise InputError(
            f"scales={options.scales}: a dictionary of the format {name} reads what its files say, "
            "and is given no scales: leave them out"
        )
    dictionary = FORMATS[name].read(files, options)
    cfg, state = dictionary.to_sae_lens(options.hook_name, options.model_name)
    cfg |= {"device": device, **(cfg_overrides or {})}
    dtype = cfg["dtype"]
    if isinstance(dtype, str):
        if dtype not in DTYPE_MAP:
            raise InputError(f"dtype={dtype!r} is none of {', '.join(DTYPE_MAP)}")
        dtype = DTYPE_MAP[dtype]
    for key in list(state):  # one by one: two copies of a large dictionary have no room
        state[key] = state.pop(key).to(device, dtype)
    return cfg, state


@dataclass(frozen=True)
class PublicFormat:
    """A ``converter`` for ``SAE.load_from_disk``.

    ``SAE.load_from_disk(folder, converter=PublicFormat())``
    """

    options: ReadingOptions | None = None

    def __call__(
        self,
        path: str | Path,
        device: str | None = None,
        cfg_overrides: dict[str, Any] | None = None,
    ) -> Loaded:
        """Config and weights.

        Raises:
            InputError: As :func:`read_public` does.
        """
        return read_public(Files.of_folder(path), self.options, device or "cpu", cfg_overrides)


def load_public(
    files: Files,
    options: ReadingOptions | None = None,
    device: str = "cpu",
    dtype: str | None = None,
) -> SAE[Any]:
    """The crosscoder that the files hold; ``dtype=None`` takes theirs.

    Raises:
        InputError: As :func:`read_public` does.
    """

    def converter(path: Any, device: Any, cfg_overrides: Any) -> Loaded:
        return read_public(files, options, device, cfg_overrides)

    return SAE.load_from_disk(files.at, device=device, dtype=dtype, converter=converter)


def convert_folder(
    files: Files, folder: str | Path, options: ReadingOptions | None = None
) -> SAE[Any]:
    """Save the crosscoder that the files hold, whole or not at all.

    Raises:
        InputError: As :func:`read_public` does, or if ``folder`` cannot be written.
    """
    sae = load_public(files, options)
    with whole_folder(folder, manifest=True, n_bytes=_n_bytes(sae)) as unfinished:
        sae.save_model(unfinished)
    return sae


def write_public(sae: SAE[Any], folder: str | Path, name: str) -> None:
    """Save a dictionary of this package in another's format, whole or not at all.

    Args:
        sae: The dictionary.
        folder: Where; made where it is missing.
        name: Of the format.

    Raises:
        InputError: If the format is not known or only read, the dictionary is none of it, or
            ``folder`` cannot be written.
    """
    if name not in FORMATS:
        raise InputError(f"format={name!r} is none of {', '.join(FORMATS)}")
    with whole_folder(folder, n_bytes=_n_bytes(sae)) as unfinished:
        FORMATS[name].write(sae, unfinished)


def _n_bytes(sae: SAE[Any]) -> int:
    return sum(tensor.nbytes for tensor in sae.state_dict().values())
