"""A folder that any web server can serve."""

from __future__ import annotations

import shutil
from pathlib import Path

from sae_lens_poly.errors import InputError
from sae_lens_poly.explorer.write_data import OVERVIEW
from sae_lens_poly.whole_files import write_json

#: The pages: built from web/ with npm, and committed.
ASSETS = Path(__file__).parent / "static"
EXPLANATIONS_FILENAME = "explanations.json"


def write_site(data: Path, explanations: Path, folder: Path) -> None:
    """Write pages and data into a folder; an older site in it is replaced.

    Args:
        data: Folder of the data files.
        explanations: File of explanations, which need not be there.
        folder: Where the site goes.

    Raises:
        InputError: If the folder holds something that is no such site.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not _is_site(folder)):
        raise InputError(
            f"static={str(folder)!r} exists and holds something else: name a new or empty folder"
        )
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ASSETS, folder)
    shutil.copytree(data, folder / "data")
    if explanations.is_file():
        shutil.copyfile(explanations, folder / "data" / EXPLANATIONS_FILENAME)
    mode = {"served": False, "explanations": explanations.is_file()}
    write_json(folder / "data" / "mode.json", mode)


def _is_site(folder: Path) -> bool:
    return (folder / "data" / OVERVIEW).is_file() and (folder / "index.html").is_file()
