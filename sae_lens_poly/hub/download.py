"""A dictionary on the hub as a folder in huggingface_hub's cache, checked.

``SAE.from_pretrained("user/repo", "path")`` needs none of this: SAELens downloads, and
huggingface_hub compares sizes (not hashes). What is added here is a revision, a check of the
files' hashes, and errors that say what is wrong.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from huggingface_hub import HfApi, constants, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from sae_lens.constants import SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME, SPARSITY_FILENAME
from sae_lens.loading.pretrained_sae_loaders import sae_lens_disk_loader
from safetensors.torch import load_file

from sae_lens_poly.dictionary_folder import check_dictionary
from sae_lens_poly.errors import InputError
from sae_lens_poly.read_files import digest_file


class HubError(InputError):
    """Something on the hub, or on the way to it, is not as it must be."""


class _NotReachedError(HubError):
    """A file is not in the cache, and the hub cannot be asked."""


#: Errors about a repository as a whole, which have an explanation of their own.
_OF_REPOSITORY = (HFValidationError, RepositoryNotFoundError, RevisionNotFoundError)


def fetch_dictionary(
    repo_id: str, path: str, revision: str | None = None, force_download: bool = False
) -> Path:
    """Download a dictionary into huggingface_hub's cache, unless it is there.

    All files are of one commit. Each is compared with the hash that the hub gives it; one that
    differs is removed from the cache, so that the next try downloads it again. (Where the cache
    cannot hold links, as on some Windows machines, hashes are not known and not compared.)

    Args:
        repo_id: ``"user/repo"``.
        path: Folder of the dictionary within the repository.
        revision: Branch, tag or commit; None: main.
        force_download: Whether to download also what the cache has.

    Returns:
        The folder in the cache. Do not write into it.

    Raises:
        HubError: If the repository, revision or a file is missing, the download fails, or what
            came is damaged.
    """
    path = path.strip("/")
    cfg = _fetch_required(repo_id, f"{path}/{SAE_CFG_FILENAME}", revision, force_download)
    commit = cfg.parents[len(PurePosixPath(path).parts)].name
    _fetch_required(repo_id, f"{path}/{SAE_WEIGHTS_FILENAME}", commit, force_download)
    # Not every dictionary has it. Where the hub cannot be asked, it is not there: as in SAELens.
    with suppress(_NotReachedError):
        fetch_file(repo_id, f"{path}/{SPARSITY_FILENAME}", commit, force_download)
    try:
        check_dictionary(cfg.parent)
    except InputError as error:
        raise HubError(f"{repo_id}:{path}: {error}") from None
    return cfg.parent


@dataclass(frozen=True)
class HubLoader:
    """A ``converter`` for ``SAE.from_pretrained`` with a revision, hashes compared, clear errors.

    ``SAE.from_pretrained("user/repo", "path", converter=HubLoader(revision="v1"))``
    """

    revision: str | None = None
    """Branch, tag or commit; None: main."""

    def __call__(
        self,
        repo_id: str,
        folder_name: str,
        device: str = "cpu",
        force_download: bool = False,
        cfg_overrides: dict[str, Any] | None = None,
    ) -> tuple[dict[str, Any], dict[str, torch.Tensor], torch.Tensor | None]:
        """Config, weights and, if it was saved, log sparsity, as SAELens' own loaders return them.

        Raises:
            HubError: As :func:`fetch_dictionary` does.
        """
        folder = fetch_dictionary(repo_id, folder_name, self.revision, force_download)
        cfg, weights = sae_lens_disk_loader(folder, device, cfg_overrides)
        sparsity = folder / SPARSITY_FILENAME
        found = load_file(sparsity, device)["sparsity"] if sparsity.is_file() else None
        return cfg, weights, found


def _fetch_required(repo_id: str, file: str, revision: str | None, force_download: bool) -> Path:
    found = fetch_file(repo_id, file, revision, force_download)
    if found is None:
        there_is = _what_there_is(repo_id, str(PurePosixPath(file).parent), revision)
        raise HubError(f"there is no {repo_id}:{file}; {there_is}")
    return found


def fetch_file(repo_id: str, file: str, revision: str | None, force_download: bool) -> Path | None:
    """One file, with its hash compared; None where the repository has no such file."""
    at = f"{repo_id}:{file}"
    try:
        found = Path(
            hf_hub_download(repo_id, file, revision=revision, force_download=force_download)
        )
    except LocalEntryNotFoundError as error:
        raise _NotReachedError(
            f"{at} is not in the cache ({constants.HF_HUB_CACHE}) and did not come from "
            f"{constants.ENDPOINT} ({_short(root_of(error))}): check the connection "
            "(HF_ENDPOINT, HF_HUB_OFFLINE) and try again"
        ) from error
    except EntryNotFoundError:
        return None
    except Exception as error:  # whatever the HTTP library of the day raises
        if isinstance(root_of(error), _OF_REPOSITORY):
            raise HubError(explain(error, repo_id, revision)) from None
        raise HubError(
            f"the download of {at} from {constants.ENDPOINT} failed "
            f"({explain(error, repo_id, revision)}): nothing of it was kept; try again"
        ) from error
    _check_hash(found, at)
    return found


def root_of(error: BaseException) -> BaseException:
    """What an error was raised for; one about a repository as a whole is not gone behind."""
    while not isinstance(error, _OF_REPOSITORY) and error.__cause__ is not None:
        error = error.__cause__
    return error


def explain(error: BaseException, repo_id: str, revision: str | None) -> str:
    """What huggingface_hub or its server says is wrong, and the remedy where it is known."""
    root = root_of(error)
    if isinstance(root, HFValidationError):
        return f"repo_id={repo_id!r} or a path is not a name that the hub allows: {_short(root)}"
    if isinstance(root, GatedRepoError):
        return (
            f"repo_id={repo_id!r} is gated: ask for access at {constants.ENDPOINT}/{repo_id}, and "
            "log in with 'hf auth login' (or set HF_TOKEN)"
        )
    if isinstance(root, RepositoryNotFoundError):
        return (
            f"repo_id={repo_id!r} is not at {constants.ENDPOINT}, or is private: check the name, "
            "or log in with 'hf auth login' (or set HF_TOKEN)"
        )
    if isinstance(root, RevisionNotFoundError):
        return f"{repo_id} has no revision={revision!r}: name one of its branches, tags or commits"
    said = " ".join(dict.fromkeys([_short(error), _short(root)]))
    response = getattr(root, "response", None)
    if getattr(response, "status_code", None) in (401, 403):
        return f"{said}; log in with 'hf auth login' (or set HF_TOKEN)"
    return said


def _what_there_is(repo_id: str, path: str, revision: str | None) -> str:
    """Files or folders that could have been meant."""
    try:
        files = HfApi().list_repo_files(repo_id, revision=revision)
    except Exception:  # only a help
        return "look the path up in the repository"
    inside = [file for file in files if file.startswith(f"{path}/")]
    if inside:
        return f"the folder has {', '.join(inside[:10])}"
    configs = [file for file in map(PurePosixPath, files) if file.name == SAE_CFG_FILENAME]
    folders = [str(file.parent) for file in configs]
    if not folders:
        return f"no folder of the repository has a {SAE_CFG_FILENAME}"
    return f"folders with a {SAE_CFG_FILENAME}: {', '.join(folders[:10])}"


def _check_hash(found: Path, at: str) -> None:
    """The cache's links name each file by the hash that the hub has of it."""
    if not found.is_symlink():
        return
    # One link only: the file behind it may itself be a link, to a store with other names.
    expected = found.readlink().name
    size = found.stat().st_size
    if len(expected) == 64:
        digest = hashlib.sha256()
    elif len(expected) == 40:
        digest = hashlib.sha1(b"blob %d\0" % size)  # as git does
    else:
        return
    digest_file(digest, found)
    if digest.hexdigest() == expected:
        return
    stored = found.resolve()
    for path in (found, found.parent / found.readlink(), stored):
        path.unlink(missing_ok=True)
    raise HubError(
        f"{at} is damaged (its hash is {digest.hexdigest()}, that of the hub {expected}): it was "
        "removed from the cache; try again"
    )


def refuse_remote_code(folder: Path) -> None:
    """Refuse a downloaded dictionary that asks for code of others to be run with its model.

    Raises:
        HubError: If its metadata say ``trust_remote_code``.
    """
    metadata = check_dictionary(folder).get("metadata") or {}
    if (metadata.get("model_from_pretrained_kwargs") or {}).get("trust_remote_code"):
        raise HubError(
            f"metadata.model_from_pretrained_kwargs of the dictionary has trust_remote_code, which "
            f"runs code that comes with the model {metadata.get('model_name')!r}: if you trust it, "
            "load the model yourself and give it to evaluate_saved(folder, model=...)"
        )


def _short(error: BaseException) -> str:
    """What the server says, or else all lines of the message, in one."""
    text = getattr(error, "server_message", None) or str(error) or type(error).__name__
    return " ".join(text.split())[:300]
