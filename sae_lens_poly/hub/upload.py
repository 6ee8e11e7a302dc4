"""A saved inference dictionary to the hub, in one commit with its model card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi, constants, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from sae_lens.constants import (
    RUNNER_CFG_FILENAME,
    SAE_CFG_FILENAME,
    SAE_WEIGHTS_FILENAME,
    SPARSITY_FILENAME,
)

from sae_lens_poly.dictionary_folder import check_dictionary
from sae_lens_poly.errors import InputError
from sae_lens_poly.evaluation.saved import EVALUATION_FILENAME, PICTURE_FILENAME
from sae_lens_poly.hub.download import HubError, explain, root_of
from sae_lens_poly.hub.model_card import updated_card
from sae_lens_poly.hub.reference import HubReference

_CARD = "README.md"


def upload_dictionary(
    folder: str | Path,
    repo_id: str,
    path: str,
    revision: str | None = None,
    private: bool | None = None,
    license: str | None = None,
    evaluated: bool = True,
) -> str:
    """Upload a dictionary: weights, config, what SAELens saves beside them, and the model card.

    Everything is one commit: what fails leaves the repository as it was. The card has a section
    for each dictionary with the import line, the evaluation, the picture and the training config;
    that of this one is replaced, the rest is left alone.

    Args:
        folder: As a training run saved it (its ``output_path``).
        repo_id: ``"user/repo"``; made if it does not exist.
        path: Folder within the repository, the second argument of ``SAE.from_pretrained``.
        revision: Branch to commit to, made if it does not exist; None: main.
        private: Whether a repository that is made is private; None: as the account has it.
        license: Identifier of a licence for the card's metadata, such as ``"mit"``.
        evaluated: Whether the folder must have figures for the card.

    Returns:
        The URL of the commit.

    Raises:
        InputError: If the folder holds no inference dictionary, or no figures.
        HubError: If the hub refuses or fails.
    """
    folder, path = Path(folder), path.strip("/")
    if not path:
        raise InputError("path='' must name a folder: SAE.from_pretrained asks for one")
    config = check_dictionary(folder)
    _check_inference(config, folder)
    evaluation = _json(folder / EVALUATION_FILENAME)
    if evaluation is None and evaluated:
        raise InputError(
            f"{str(folder)!r} has no {EVALUATION_FILENAME} for the model card: make it with "
            f"'python -m sae_lens_poly evaluate {folder}', or upload without "
            "(evaluated=False, --not_evaluated)"
        )
    names = [SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME, SPARSITY_FILENAME, RUNNER_CFG_FILENAME]
    picture = PICTURE_FILENAME if (folder / PICTURE_FILENAME).is_file() else None
    files = {
        f"{path}/{name}": str(folder / name)
        for name in [*names, PICTURE_FILENAME]
        if (folder / name).is_file()
    }
    reference = HubReference(repo_id, path)
    api = HfApi()
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        card = updated_card(
            _card_there(repo_id, revision),
            reference,
            config,
            evaluation,
            _json(folder / RUNNER_CFG_FILENAME),
            picture,
            license,
        )
        additions = [
            CommitOperationAdd(_CARD, card.encode()),
            *(CommitOperationAdd(at, file) for at, file in files.items()),
        ]
        return api.create_commit(
            repo_id, additions, commit_message=f"Upload {path}", revision=revision
        ).commit_url
    except Exception as error:  # whatever the HTTP library of the day raises
        reason = explain(root_of(error), repo_id, revision)
        raise HubError(
            f"the upload to {reference} at {constants.ENDPOINT} failed ({reason}): it is one "
            "commit, so all of it is there or nothing; log in with 'hf auth login' (or set "
            "HF_TOKEN) if that is what is missing, and try again"
        ) from error


def _check_inference(config: dict[str, Any], folder: Path) -> None:
    if "decoder_init_norm" in config:  # a field of every training config of SAELens
        raise InputError(
            f"{str(folder)!r} holds a dictionary in training: save what is used with "
            f"'python -m sae_lens_poly export {folder} FOLDER', and upload that"
        )


def _json(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.is_file() else None


def _card_there(repo_id: str, revision: str | None) -> str | None:
    """The card that the repository has; always the newest, not the one in the cache."""
    try:
        return Path(hf_hub_download(repo_id, _CARD, revision=revision)).read_text()
    except LocalEntryNotFoundError:  # not reached; it may have one
        raise
    except EntryNotFoundError:
        return None
