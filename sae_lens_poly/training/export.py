"""Inference dictionaries from checkpoints of a run."""

from __future__ import annotations

from pathlib import Path

from sae_lens import TrainingSAE
from sae_lens.constants import TRAINER_STATE_FILENAME

from sae_lens_poly.dictionary_folder import check_dictionary, check_weights, require_files
from sae_lens_poly.errors import InputError, first_line
from sae_lens_poly.manifest import check_manifest
from sae_lens_poly.training.checkpoint_writer import size_of
from sae_lens_poly.whole_files import require_writable, whole_folder


def export_checkpoint(
    checkpoint: str | Path, folder: str | Path, dense: bool | None = None, device: str = "cpu"
) -> None:
    """Save the inference dictionary of a checkpoint, as the end of a run does.

    Scales and thresholds are folded as they stood when the checkpoint was written. (A TopK whose k
    was being annealed is exported with the k that it ends at.)

    Args:
        checkpoint: Folder of a training dictionary: a checkpoint of SAELens' trainer.
        folder: Where to save the inference dictionary.
        dense: Whether factored weights are exported as dense ones; None: as its config says.
        device: Where to do it.

    Raises:
        InputError: If the checkpoint holds no training dictionary, or ``folder`` is a checkpoint
            or cannot be written. What it held is then whole.
    """
    if (Path(folder) / TRAINER_STATE_FILENAME).exists():
        raise InputError(
            f"{str(folder)!r} is a checkpoint, which an export would replace: give another folder"
        )
    require_writable(folder)
    checkpoint = Path(checkpoint)
    require_files(checkpoint, "give the folder of a checkpoint")
    check_manifest(checkpoint)
    check_dictionary(checkpoint, training=True)
    try:
        sae = TrainingSAE.load_from_disk(checkpoint, device=device)
    except Exception as error:
        raise InputError(
            f"{str(checkpoint)!r} cannot be loaded as a dictionary in training "
            f"({first_line(error)[:200]}): give a folder that a run wrote under its "
            "checkpoint_path, not its output_path"
        ) from error
    check_weights(sae, checkpoint)
    if dense is not None:
        if not hasattr(sae.cfg, "export_dense"):
            raise InputError(
                f"dense={dense} is for crosscoders, and this is {sae.cfg.architecture()!r}"
            )
        sae.cfg.export_dense = dense
    with whole_folder(folder, manifest=True, n_bytes=size_of(sae)) as unfinished:
        sae.save_inference_model(unfinished)
