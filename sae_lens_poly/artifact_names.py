"""Names of dictionaries that wandb takes for its artifacts."""

from __future__ import annotations

import hashlib
import re
import unicodedata

from sae_lens_poly.errors import InputError

# SAELens puts it behind a name for the second artifact of a checkpoint.
_SUFFIX = "_log_feature_sparsity"
_LONGEST = 128 - len(_SUFFIX)


def artifact_name(name: str) -> str:
    """A name that wandb takes, and that no other name becomes.

    Args:
        name: Any text. One that wandb takes as it is stays so.
    """
    plain = unicodedata.normalize("NFKD", name.replace("/", "__"))
    fit = re.sub(r"[^A-Za-z0-9_.-]+", "-", plain.encode("ascii", "ignore").decode())
    if fit == plain and len(fit) <= _LONGEST:
        return fit
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{fit[: _LONGEST - len(digest) - 1]}-{digest}"


def check_artifact_name(name: str) -> None:
    """Refuse a dictionary of a name that wandb does not take for artifacts of its checkpoints.

    Args:
        name: As ``get_name`` gives it.

    Raises:
        InputError: Saying what the name is made of.
    """
    name = name.replace("/", "__")
    if name != artifact_name(name):
        raise InputError(
            f"log_to_wandb=True: wandb takes names of at most {_LONGEST} letters (a to z), digits "
            f"and - _ . , and {name!r} is made of model_name, hook_name and d_sae: set "
            "log_to_wandb=False, or rename the model's folder"
        )
