"""Dictionaries of other packages on the hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi

from sae_lens_poly.formats.base import ReadingOptions
from sae_lens_poly.formats.convert import read_public
from sae_lens_poly.formats.files import MOST_FILES, Files
from sae_lens_poly.hub.download import HubError, explain, fetch_file


def public_files(
    repo_id: str, path: str, revision: str | None = None, force_download: bool = False
) -> Files:
    """The files of a folder on the hub, each downloaded and compared with its hash when it is read.

    All are of one commit.

    Args:
        repo_id: ``"user/repo"``.
        path: Folder of the dictionary within the repository; empty: all of it.
        revision: Branch, tag or commit; None: main.
        force_download: Whether to download also what the cache has.

    Raises:
        HubError: If the repository, the revision or the folder is missing, or the hub cannot be
            reached.
    """
    try:
        about = HfApi().model_info(repo_id, revision=revision)
    except Exception as error:  # whatever the HTTP library of the day raises
        raise HubError(explain(error, repo_id, revision)) from None
    start = f"{path.strip('/')}/" if path.strip("/") else ""
    every = [sibling.rfilename for sibling in about.siblings or []]
    names = [name[len(start) :] for name in every if name.startswith(start)]
    if not names or len(names) > MOST_FILES:
        folders = sorted({name.rpartition("/")[0] for name in every if "/" in name})
        raise HubError(
            f"{repo_id}:{path} has {len(names):,} files: name the folder of one dictionary; the "
            f"repository has {', '.join(folders[:10]) or 'no folders'}"
        )

    def fetch(name: str) -> Path:
        found = fetch_file(repo_id, start + name, about.sha, force_download)
        if found is None:
            raise HubError(f"there is no {repo_id}:{start}{name} any more: try again")
        return found

    return Files(f"{repo_id}:{path}", names, fetch)


@dataclass(frozen=True)
class PublicHubFormat:
    """A ``converter`` for ``SAE.from_pretrained``, for dictionaries of other packages.

    ``SAE.from_pretrained("user/repo", "path", converter=PublicHubFormat())``
    """

    options: ReadingOptions | None = None
    revision: str | None = None
    """Branch, tag or commit; None: main."""

    def __call__(
        self,
        repo_id: str,
        folder_name: str,
        device: str = "cpu",
        force_download: bool = False,
        cfg_overrides: dict[str, Any] | None = None,
    ) -> tuple[dict[str, Any], dict[str, torch.Tensor], None]:
        """Config and weights, as SAELens' own loaders return them.

        Raises:
            HubError: As :func:`public_files` does.
            InputError: As :func:`~sae_lens_poly.formats.convert.read_public` does.
        """
        files = public_files(repo_id, folder_name, self.revision, force_download)
        return *read_public(files, self.options, device, cfg_overrides), None
