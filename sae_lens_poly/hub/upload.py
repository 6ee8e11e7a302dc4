"""A saved inference dictionary to the hub, in one commit with its model card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    constants,
    hf_hub_download,
)
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from sae_lens.constants import (
    RUNNER_CFG_FILENAME,
    SAE_CFG_FILENAME,
    SAE_WEIGHTS_FILENAME,
    SPARSITY_FILENAME,
)

from sae_lens_poly.dictionary_folder import check_dictionary
from sae_lens_poly.errors import InputError
from sae_lens_poly.evaluation.feature_cache import dictionary_hash
from sae_lens_poly.evaluation.saved import DICTIONARY_HASH
from sae_lens_poly.evaluation.saved_figures import read_evaluation
from sae_lens_poly.hub.download import HubError, explain
from sae_lens_poly.hub.model_card import dictionary_section, new_card, with_section
from sae_lens_poly.hub.reference import HubReference
from sae_lens_poly.manifest import EVALUATION_FILENAME, PICTURE_FILENAME, check_manifest
from sae_lens_poly.read_files import damaged, read_json, read_object

_CARD = "README.md"
_FILES = (
    *(SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME, SPARSITY_FILENAME, RUNNER_CFG_FILENAME),
    PICTURE_FILENAME,
)


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

    Everything is one commit on top of what the repository held when it was read: what fails leaves
    its files as they were. The card has a section for each dictionary with the import line, the
    evaluation, the picture and the training config; that of this one is replaced, the rest is left
    alone, and so is a card that somebody else wrote.

    Args:
        folder: As a training run saved it (its ``output_path``).
        repo_id: ``"user/repo"``; made if it does not exist.
        path: Folder within the repository, the second argument of ``SAE.from_pretrained``.
        revision: Branch to commit to, made if it does not exist; None: main.
        private: Whether the repository is private; None: as it is, or as the account has it.
        license: Identifier of a licence for the card's metadata, such as ``"mit"``.
        evaluated: Whether the folder must have figures for the card; False: it gets none.

    Returns:
        The URL of the commit.

    Raises:
        InputError: If the folder holds no inference dictionary, or no figures of it.
        HubError: If the hub refuses or fails, or ``private`` is not what the repository is.
    """
    folder, reference = Path(folder), HubReference.of(repo_id, path)
    config = check_dictionary(folder)
    check_manifest(folder)
    _check_inference(config, folder)
    evaluation = _evaluation(folder, evaluated)
    files = [name for name in _FILES if (folder / name).is_file()]
    if evaluation is None and PICTURE_FILENAME in files:  # it may show the figures of other weights
        files.remove(PICTURE_FILENAME)
    section = dictionary_section(
        reference,
        config,
        evaluation,
        _runner_config(folder / RUNNER_CFG_FILENAME),
        PICTURE_FILENAME if PICTURE_FILENAME in files else None,
    )
    api = HfApi()
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        there = api.model_info(repo_id, revision=revision)
        if private is not None and there.private != private:
            raise HubError(
                f"private={private}, and {repo_id} exists and is "
                f"{'private' if there.private else 'public'}: change its settings at "
                f"{constants.ENDPOINT}/{repo_id}, or leave private out"
            )
        held = {file.rfilename for file in there.siblings or []}
        card = _card_at(repo_id, there.sha) or new_card(reference, config)
        additions = [f"{reference.path}/{name}" for name in files]
        stale = {f"{reference.path}/{name}" for name in _FILES} & held - set(additions)
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            CommitOperationAdd(_CARD, with_section(card, reference, section, license).encode()),
            *(
                CommitOperationAdd(at, str(folder / name))
                for at, name in zip(additions, files, strict=True)
            ),
            *(CommitOperationDelete(at) for at in sorted(stale)),
        ]
        return api.create_commit(
            repo_id,
            operations,
            commit_message=f"Upload {reference.path}",
            revision=revision,
            parent_commit=there.sha,
        ).commit_url
    except InputError:
        raise
    except Exception as error:  # whatever the HTTP library of the day raises
        raise HubError(
            f"the upload to {reference} at {constants.ENDPOINT} failed "
            f"({explain(error, repo_id, revision)}): it is one commit, so all of its files are "
            "there or none; try again"
        ) from error


def _check_inference(config: dict[str, Any], folder: Path) -> None:
    if "decoder_init_norm" in config:  # a field of every training config of SAELens
        raise InputError(
            f"{str(folder)!r} holds a dictionary in training: save what is used with "
            f"'python -m sae_lens_poly export {folder} FOLDER', and upload that"
        )


def _evaluation(folder: Path, evaluated: bool) -> dict[str, Any] | None:
    """The figures of these weights."""
    remedy = (
        f"make it with 'python -m sae_lens_poly evaluate {folder}', or upload without figures "
        "(evaluated=False, --not_evaluated)"
    )
    if not evaluated:
        return None
    path = folder / EVALUATION_FILENAME
    if not path.is_file():
        raise InputError(f"{str(folder)!r} has no {EVALUATION_FILENAME} for the card: {remedy}")
    if read_json(path, dict[str, Any]).get(DICTIONARY_HASH) != dictionary_hash(folder):
        raise InputError(
            f"the {EVALUATION_FILENAME} in {str(folder)!r} is of other weights or an older "
            f"version: {remedy}"
        )
    return read_evaluation(path)


def _runner_config(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    content = read_object(path)
    if not isinstance(content.get("sae"), dict):
        raise damaged(path, "no config of a training run: it has no sae")
    return content


def _card_at(repo_id: str, commit: str | None) -> str | None:
    """The card that a commit has."""
    try:
        path = Path(hf_hub_download(repo_id, _CARD, revision=commit))
    except LocalEntryNotFoundError:  # not reached; it may have one
        raise
    except EntryNotFoundError:
        return None
    return path.read_text(encoding="utf-8-sig")
