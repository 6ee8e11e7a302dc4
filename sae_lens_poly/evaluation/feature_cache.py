"""Features of a dictionary kept on disk, so that probing again does not encode again."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from sae_lens.constants import SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME
from scipy import sparse

from sae_lens_poly.dictionary_folder import require_files
from sae_lens_poly.errors import InputError
from sae_lens_poly.read_files import digest_file
from sae_lens_poly.read_tensors import require_unpacked
from sae_lens_poly.whole_files import whole_file

#: What is in a key: numbers, texts, lists and mappings of them.
Key = Mapping[str, Any]


def cached_features(folder: str | Path, key: Key, compute: Callable[[], Any]) -> Any:
    """Features from the folder, or computed and put there.

    Args:
        folder: Where the ``.npz`` files are; it is made if missing.
        key: Everything that the features depend on, as plain JSON: :func:`dictionary_hash`,
            :func:`text_hash`, the model, the hook points, the context size, and so on. The name of
            the file is its hash.
        compute: Called where the folder has no such file, or a damaged one. Returns a matrix,
            numpy or CSR.

    Raises:
        InputError: If the key is not plain JSON, or the file cannot be written.
    """
    try:
        text = json.dumps(key, sort_keys=True)
    except TypeError as error:
        raise InputError(
            f"key: {error}; use numbers, texts, lists and mappings, such as dictionary_hash(folder)"
        ) from error
    path = Path(folder) / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.npz"
    try:
        return _load(path)
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        features = compute()
    with whole_file(path) as unfinished:
        _save(unfinished, features)
    return features


def dictionary_hash(folder: str | Path) -> str:
    """SHA-256 of a saved dictionary's weights and config.

    Raises:
        InputError: If the folder has no weights.
    """
    # The weights that SAELens saves for a dictionary; sparsity.safetensors is not part of it.
    require_files(folder, "give the folder of a saved dictionary")
    digest = hashlib.sha256()
    for name in (SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME):
        digest_file(digest, Path(folder) / name)
    return digest.hexdigest()


def text_hash(texts: Iterable[str]) -> str:
    """SHA-256 of texts in their order."""
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def _load(path: Path) -> Any:
    require_unpacked(path)
    with np.load(path) as saved:
        if "features" in saved:
            return saved["features"]
    return sparse.load_npz(path)


def _save(path: Path, features: Any) -> None:
    with path.open("wb") as file:
        if sparse.issparse(features):
            sparse.save_npz(file, features.tocsr(), compressed=False)
        else:
            np.savez(file, features=features)
