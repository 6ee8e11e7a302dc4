"""Inference dictionaries from checkpoints of a run."""

from __future__ import annotations

from pathlib import Path

from sae_lens.constants import ACTIVATIONS_STORE_STATE_FILENAME, TRAINER_STATE_FILENAME
from safetensors.torch import load_file

from sae_lens_poly.dictionary_folder import require_files
from sae_lens_poly.errors import InputError
from sae_lens_poly.manifest import check_manifest
from sae_lens_poly.paths import check_can_write
from sae_lens_poly.read_tensors import require_tensors
from sae_lens_poly.training.checkpoint_files import STORE_STATE
from sae_lens_poly.training.checkpoint_writer import size_of
from sae_lens_poly.training.fine_tuning import load_training_dictionary
from sae_lens_poly.whole_files import whole_folder


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
    check_can_write("folder", folder)
    checkpoint = Path(checkpoint)
    require_files(checkpoint, "give the folder of a checkpoint")
    check_manifest(checkpoint)
    sae = load_training_dictionary(checkpoint, device)
    metadata, state = sae.cfg.metadata, checkpoint / ACTIVATIONS_STORE_STATE_FILENAME
    if metadata.texts_read is None and state.is_file():  # of SAELens' own runner
        require_tensors(state, STORE_STATE)
        metadata.n_dataset_rows_read = int(load_file(state)["n_dataset_processed"])
    if dense is not None:
        if not hasattr(sae.cfg, "export_dense"):
            raise InputError(
                f"dense={dense} is for crosscoders, and this is {sae.cfg.architecture()!r}"
            )
        sae.cfg.export_dense = dense
    with whole_folder(folder, manifest=True, n_bytes=size_of(sae)) as unfinished:
        sae.save_inference_model(unfinished)
