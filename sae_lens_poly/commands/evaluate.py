"""``evaluate``: prints all figures of a saved dictionary."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sae_lens_poly.commands.export import DICTIONARY_FILES
from sae_lens_poly.commands.parser import Parser
from sae_lens_poly.devices import check_device
from sae_lens_poly.errors import InputError
from sae_lens_poly.evaluation.settings import add_evaluation_flags, given_evaluation_settings
from sae_lens_poly.hub.reference import HubReference
from sae_lens_poly.paths import check_can_write, check_folder


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
    parser.add_argument("--revision", help="branch, tag or commit on the hub; main by default")
    parser.add_argument(
        "--output",
        help="where to save figures and picture; beside the weights by default, and in "
        "evaluations/user/repo/path for a dictionary on the hub",
    )
    options = parser.parse_args(flags)
    folder, output = options.folder, options.output
    given = given_evaluation_settings(options)
    reference = HubReference.parse(folder)
    if reference is not None:
        at = f"@{options.revision}" if options.revision else ""
        output = output or str(Path("evaluations", reference.repo_id + at, reference.path))
    elif options.revision is not None:
        raise InputError(
            f"revision={options.revision!r} is for dictionaries on the hub, and "
            f"{options.folder!r} is not of the form user/repo:path"
        )
    else:
        remedy = "give the folder that a training run saved its dictionary to (its output_path)"
        check_folder("folder", folder, DICTIONARY_FILES, remedy)
    check_can_write("output", output or folder)
    check_device("device", options.device)
    print(f"loading {options.folder} ...", file=sys.stderr)

    from sae_lens_poly.evaluation.headroom import HEADROOM_TOKENS
    from sae_lens_poly.evaluation.report import print_evaluation
    from sae_lens_poly.evaluation.saved import evaluate_saved, settings_for
    from sae_lens_poly.hub.download import fetch_dictionary, refuse_remote_code
    from sae_lens_poly.registration import register

    register()
    if reference is not None:
        folder = fetch_dictionary(*reference, revision=options.revision)
        refuse_remote_code(folder)
    settings = settings_for(folder, output, **given)
    if not settings.n_headroom_tokens and "n_headroom_tokens" not in given:
        settings = replace(settings, n_headroom_tokens=HEADROOM_TOKENS)
    evaluation = evaluate_saved(folder, settings, options.device, output=output)
    print_evaluation(evaluation, f"dictionary in {options.folder}")
    if output is not None:
        print(f"written to {output}")
    return 0
