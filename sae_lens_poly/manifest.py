"""Which files belong together: their sizes and digests, in a file beside them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from sae_lens.constants import (
    ACTIVATION_SCALER_CFG_FILENAME,
    ACTIVATION_WHITENING_FILENAME,
    ACTIVATIONS_STORE_STATE_FILENAME,
    RUNNER_CFG_FILENAME,
    SAE_CFG_FILENAME,
    SAE_WEIGHTS_FILENAME,
    SPARSITY_FILENAME,
    TRAINER_STATE_FILENAME,
)
from typing_extensions import TypedDict

from sae_lens_poly.read_files import damaged, digest_file, read_json

MANIFEST_FILENAME = "manifest.json"

EVALUATION_FILENAME, PICTURE_FILENAME = "evaluation.json", "evaluation.png"
#: Where codes of labelled examples are kept.
FEATURES_FOLDER = "features"

#: What belongs to a dictionary or a checkpoint, and not to another that takes its place.
BELONGING = frozenset(
    {
        *(SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME, SPARSITY_FILENAME, RUNNER_CFG_FILENAME),
        *(TRAINER_STATE_FILENAME, ACTIVATIONS_STORE_STATE_FILENAME),
        *(ACTIVATION_SCALER_CFG_FILENAME, ACTIVATION_WHITENING_FILENAME),
        *(MANIFEST_FILENAME, EVALUATION_FILENAME, PICTURE_FILENAME, FEATURES_FOLDER),
    }
)

_REMEDY = (
    "save or download it again; if you or another tool changed a file on purpose, delete "
    f"{MANIFEST_FILENAME}"
)


class _Entry(TypedDict):
    size: int
    sha256: str


class _Manifest(TypedDict):
    files: dict[str, _Entry]


def write_manifest(folder: Path) -> None:
    """Write down the files of a folder."""
    files = {
        path.name: {"size": path.stat().st_size, "sha256": _sha256(path)}
        for path in sorted(folder.iterdir())
        if path.is_file()
    }
    text = json.dumps({"files": files}, indent=1)
    (folder / MANIFEST_FILENAME).write_text(text, encoding="utf-8")


def check_manifest(folder: Path, digests: bool = True) -> None:
    """Refuse a folder whose files are not those that its manifest was written for.

    A folder without a manifest (of an older version, or of another tool) passes.

    Args:
        folder: The folder.
        digests: Whether the content is compared, and not only the sizes.

    Raises:
        InputError: Naming the first file that is missing or another.
    """
    path = folder / MANIFEST_FILENAME
    if not path.is_file():
        return
    for name, entry in read_json(path, _Manifest, _REMEDY)["files"].items():
        file = folder / Path(name).name
        if not file.is_file():
            raise damaged(folder, f"{name} is in {MANIFEST_FILENAME}, and is missing", _REMEDY)
        size = file.stat().st_size
        if size != entry["size"]:
            why = f"{name} has {size:,} bytes, and had {entry['size']:,} when it was saved"
            raise damaged(folder, why, _REMEDY)
        if digests and _sha256(file) != entry["sha256"]:
            raise damaged(folder, f"{name} is not what was saved", _REMEDY)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    digest_file(digest, path)
    return digest.hexdigest()
