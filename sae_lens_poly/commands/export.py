"""``export``: saves the inference dictionary of a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sae_lens_poly.commands.parser import Parser
from sae_lens_poly.errors import InputError
from sae_lens_poly.paths import check_can_write, check_folder

DICTIONARY_FILES = ("cfg.json", "sae_weights.safetensors")


def export(flags: Sequence[str]) -> int:
    """Save the inference dictionary of a checkpoint.

    Returns:
        The exit status.

    Raises:
        InputError: If a folder is wrong.
    """
    parser = Parser("export")
    parser.add_argument("checkpoint", help="folder of a checkpoint (under checkpoint_path)")
    parser.add_argument("folder", help="where to save the inference dictionary")
    parser.add_argument("--dense", action="store_true", help="factored weights as dense ones")
    options = parser.parse_args(flags)
    remedy = "give the folder of a checkpoint"
    check_folder("checkpoint", options.checkpoint, DICTIONARY_FILES, remedy)
    check_can_write("folder", options.folder)
    if Path(options.folder).resolve() == Path(options.checkpoint).resolve():
        raise InputError(
            f"folder={options.folder!r} is a checkpoint, which an export would replace"
        )

    from sae_lens_poly.training.export import export_checkpoint

    export_checkpoint(options.checkpoint, options.folder, dense=options.dense or None)
    print(f"inference dictionary saved to {options.folder}")
    return 0
