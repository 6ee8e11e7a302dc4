"""``evaluate``: prints all figures of a saved dictionary."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_lens_poly.commands.export import DICTIONARY_FILES
from sae_lens_poly.commands.parser import Parser
from sae_lens_poly.commands.public_options import (
    add_public_flags,
    given_public_options,
    is_public,
)
from sae_lens_poly.devices import check_device
from sae_lens_poly.errors import InputError
from sae_lens_poly.evaluation.settings import add_evaluation_flags, given_evaluation_settings
from sae_lens_poly.hub.reference import HubReference
from sae_lens_poly.paths import RUN_FOLDER, check_can_write, check_folder

if TYPE_CHECKING:
    from sae_lens_poly.formats.files import Files


def evaluate(flags: Sequence[str]) -> int:
    """Print all figures of a saved dictionary.

    Returns:
        The exit status.

    Raises:
        InputError: If a flag is wrong, or the dictionary, its model or its text cannot be loaded.
    """
    parser = Parser(
        "evaluate",
        description="Settings that are not given are those of the last evaluation, so that the "
        "figures are the same.",
    )
    parser.add_argument(
        "folder", help="where a training run saved its dictionary; or user/repo:path on the hub"
    )
    add_evaluation_flags(parser)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--output",
        help="where to save figures and picture; beside the weights by default, and in "
        "evaluations/ for a dictionary on the hub or of another package",
    )
    add_public_flags(parser.add_argument_group("dictionaries of other packages"))
    options = parser.parse_args(flags)
    folder, output = options.folder, options.output
    given, reading = given_evaluation_settings(options), given_public_options(options)
    reference = HubReference.of_flags(folder, options.revision)
    public = reference is None and (bool(reading) or is_public(folder))
    if reference is not None:
        at = f"@{options.revision}" if options.revision else ""
        output = output or str(Path("evaluations", reference.repo_id + at, reference.path))
    else:
        check_folder("folder", folder, () if public else DICTIONARY_FILES, RUN_FOLDER)
        if public:
            output = output or str(Path("evaluations", Path(folder).resolve().name))
    check_can_write("output", output or folder)
    check_device("device", options.device)
    print(f"loading {options.folder} ...", file=sys.stderr)

    from sae_lens_poly.evaluation.headroom import HEADROOM_TOKENS
    from sae_lens_poly.evaluation.report import print_evaluation
    from sae_lens_poly.evaluation.saved import evaluate_saved, settings_for
    from sae_lens_poly.registration import register

    register()
    with tempfile.TemporaryDirectory(prefix="converted-") as converted:
        if reference is not None:
            folder = _from_hub(reference, options.revision, reading, converted)
        elif public:
            from sae_lens_poly.formats.files import Files

            folder = _converted(Files.of_folder(folder), reading, converted)
        settings = settings_for(folder, output, **given)
        if not settings.n_headroom_tokens and "n_headroom_tokens" not in given:
            settings = replace(settings, n_headroom_tokens=HEADROOM_TOKENS)
        evaluation = evaluate_saved(folder, settings, options.device, output=output)
    print_evaluation(evaluation, f"dictionary in {options.folder}")
    if output is not None:
        print(f"written to {output}")
    return 0


def _from_hub(
    reference: HubReference, revision: str | None, reading: dict[str, Any], into: str
) -> Path:
    """The folder of a dictionary on the hub, converted where it is of another package."""
    from sae_lens_poly.formats.convert import format_of
    from sae_lens_poly.hub.download import HubError, fetch_dictionary, refuse_remote_code
    from sae_lens_poly.hub.public import public_files

    if not reading:
        try:
            folder = fetch_dictionary(*reference, revision=revision)
        except HubError as error:
            files = None
            with suppress(InputError):
                files = public_files(*reference, revision=revision)
            if files is None or format_of(files) is None:
                raise error from None
            return _converted(files, reading, into)
        refuse_remote_code(folder)
        return folder
    return _converted(public_files(*reference, revision=revision), reading, into)


def _converted(files: Files, reading: dict[str, Any], into: str) -> Path:
    """The folder of a dictionary of this package, made of another's files.

    Raises:
        InputError: If they cannot be converted, or do not say which model they are of.
    """
    from sae_lens_poly.formats.base import ReadingOptions
    from sae_lens_poly.formats.convert import convert_folder

    metadata = convert_folder(files, into, ReadingOptions(**reading)).cfg.metadata
    for field in ("model_name", "hook_name"):
        if not metadata[field]:
            raise InputError(
                f"the files in {files.at!r} do not say of which model and hook points they are: "
                f"give --{field}"
            )
    return Path(into)
