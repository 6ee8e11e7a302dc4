"""``upload``: puts a saved dictionary on the hub."""

from __future__ import annotations

from collections.abc import Sequence

from sae_lens_poly.commands.export import DICTIONARY_FILES
from sae_lens_poly.commands.parser import Parser
from sae_lens_poly.errors import InputError
from sae_lens_poly.hub.reference import HubReference
from sae_lens_poly.paths import check_folder


def upload(flags: Sequence[str]) -> int:
    """Upload a saved dictionary with its model card.

    Returns:
        The exit status.

    Raises:
        InputError: If the folder or the name on the hub is wrong, or the hub refuses.
    """
    parser = Parser("upload")
    parser.add_argument("folder", help="where a training run saved its dictionary")
    parser.add_argument("to", help="user/repo:path; the repository is made if it is missing")
    parser.add_argument("--revision", help="branch to commit to; main by default")
    parser.add_argument("--private", action="store_true", help="refuse to upload publicly")
    parser.add_argument("--license", help="for the model card, such as mit")
    parser.add_argument(
        "--not_evaluated", action="store_true", help="also if there are no figures for the card"
    )
    options = parser.parse_args(flags)
    reference = HubReference.parse(options.to)
    if reference is None:
        raise InputError(f"{options.to!r} is not of the form user/repo:path")
    remedy = "give the folder that a training run saved its dictionary to"
    check_folder("folder", options.folder, DICTIONARY_FILES, remedy)

    from sae_lens_poly.hub.upload import upload_dictionary

    url = upload_dictionary(
        options.folder,
        *reference,
        revision=options.revision,
        private=options.private or None,
        license=options.license,
        evaluated=not options.not_evaluated,
    )
    print(f"uploaded: {url}")
    print(f'SAE.from_pretrained("{reference.repo_id}", "{reference.path}") loads it')
    return 0
