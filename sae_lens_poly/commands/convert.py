"""``convert``: a dictionary of another package as one of this, or the other way round."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from sae_lens_poly.commands.export import DICTIONARY_FILES
from sae_lens_poly.commands.parser import Parser
from sae_lens_poly.commands.public_options import add_public_flags, given_public_options
from sae_lens_poly.errors import InputError
from sae_lens_poly.hub.reference import HubReference
from sae_lens_poly.paths import check_can_write, check_folder, check_there


def convert(flags: Sequence[str]) -> int:
    """Save a dictionary in another format.

    Returns:
        The exit status.

    Raises:
        InputError: If a flag is wrong, the files are damaged, or the dictionary cannot be
            converted exactly; with the reason.
    """
    parser = Parser(
        "convert",
        description="Reads dictionaries of other packages, or with --to writes them: see "
        "docs/formats.md for the formats.",
    )
    parser.add_argument("source", help="folder of a dictionary, or user/repo:path on the hub")
    parser.add_argument("folder", help="where to save the other")
    parser.add_argument(
        "--to", metavar="FORMAT", help="write this format, of a dictionary that this package saved"
    )
    add_public_flags(parser)
    options = parser.parse_args(flags)
    reference = HubReference.of_flags(options.source, options.revision)
    given = given_public_options(options)
    if options.to is not None and (reference is not None or set(given) - {"model_name"}):
        raise InputError(
            f"to={options.to!r} writes what this package saved: give its folder, and of the flags "
            "for reading --model_name at most"
        )
    if reference is None:
        remedy = "give the folder of a dictionary"
        if options.to is None:
            check_there("source", options.source, remedy)
        else:
            check_folder("source", options.source, DICTIONARY_FILES, remedy)
        if Path(options.folder).resolve() == Path(options.source).resolve():
            raise InputError(f"folder={options.folder!r} is what is read: name another")
    check_can_write("folder", options.folder)
    print(f"reading {options.source} ...", file=sys.stderr)

    from sae_lens_poly.registration import register

    register()
    if options.to is not None:
        _write(options.source, options.folder, options.to, options.model_name)
        print(f"dictionary in the format {options.to} saved to {options.folder}")
        return 0
    from sae_lens_poly.formats.base import ReadingOptions
    from sae_lens_poly.formats.convert import convert_folder, format_of
    from sae_lens_poly.formats.files import Files
    from sae_lens_poly.hub.public import public_files

    files = (
        Files.of_folder(options.source)
        if reference is None
        else public_files(*reference, revision=options.revision)
    )
    reading = ReadingOptions(**given)
    sae = convert_folder(files, options.folder, reading)
    print(
        f"{sae.cfg.d_sae:,} latents at {sae.cfg.n_hooks} hook points, of the format "
        f"{reading.format or format_of(files)}, saved to {options.folder}"
    )
    return 0


def _write(source: str, folder: str, name: str, model_name: str | None) -> None:
    from sae_lens_poly.dictionary_folder import load_dictionary
    from sae_lens_poly.formats.convert import write_public

    sae = load_dictionary(source)
    if model_name is not None:
        sae.cfg.metadata.model_name = model_name
    write_public(sae, folder, name)
