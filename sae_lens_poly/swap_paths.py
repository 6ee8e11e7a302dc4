"""Two paths exchanged in one step, where the system can."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path


def exchange(first: Path, second: Path) -> bool:
    """Exchange two entries of a file system, files or folders, in one step.

    Returns:
        Whether they were exchanged. Some systems (Windows) and file systems (NFS) cannot.
    """
    library = ctypes.CDLL(None) if os.name == "posix" else None
    names = os.fsencode(first), os.fsencode(second)
    if sys.platform == "darwin" and hasattr(library, "renamex_np"):
        swap = 2  # RENAME_SWAP
        return library.renamex_np(*names, ctypes.c_uint(swap)) == 0
    if library is not None and hasattr(library, "renameat2"):
        here, swap = ctypes.c_int(-100), 2  # AT_FDCWD, RENAME_EXCHANGE
        return library.renameat2(here, names[0], here, names[1], ctypes.c_uint(swap)) == 0
    return False
