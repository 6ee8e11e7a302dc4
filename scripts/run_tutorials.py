"""Execute the tutorial notebooks, and write their outputs back.

    python -m scripts.run_tutorials [--write] [NAME ...]

Without names all of tutorials/*.ipynb that are committed with outputs; with ``--write`` their files
are replaced by the executed ones. A cell that raises ends it with that cell's error.

Notebooks whose knobs are in a cell tagged "parameters" are for the reader's machine: they are
committed without outputs, and run here only with other parameters (tests/tutorials).
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

from tests.hub.server import HubServer

TUTORIALS = Path(__file__).resolve().parents[1] / "tutorials"
PARAMETERS = "parameters"


def environment(hub: HubServer, cache: Path) -> dict[str, str]:
    """What kernels are started with: a hub on this machine, and no progress bars."""
    return os.environ | {
        "TQDM_DISABLE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        # Plots go into the file, whatever backend the shell asks for.
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "HF_ENDPOINT": hub.url,
        "HF_HUB_CACHE": str(cache),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
    }


def read(path: Path) -> nbformat.NotebookNode:
    """A notebook from its file."""
    return nbformat.read(path, as_version=4)


def parameter_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """The cells tagged "parameters", as papermill reads them."""
    return [c for c in notebook.cells if PARAMETERS in c.metadata.get("tags", [])]


def execute(
    notebook: nbformat.NotebookNode,
    folder: str | Path,
    parameters: str | None = None,
    timeout_s: int = 600,
) -> nbformat.NotebookNode:
    """Run a notebook in place, in a kernel of the interpreter that this runs in.

    Args:
        notebook: Its outputs are replaced.
        folder: The working directory of the kernel.
        parameters: Source to run instead of that of the one cell tagged "parameters"; the
            notebook then holds it.
        timeout_s: The most that one cell may take.

    Raises:
        CellExecutionError: If a cell raises.
    """
    if parameters is not None:
        (cell,) = parameter_cells(notebook)
        cell.source = parameters
    # Without folders to search, "python3" is the ipykernel of sys.executable, not an installed one.
    manager = AsyncKernelManager(
        kernel_name="python3", kernel_spec_manager=KernelSpecManager(kernel_dirs=[])
    )
    client = NotebookClient(
        notebook,
        km=manager,
        timeout=timeout_s,
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    )
    hub = HubServer()
    hub.start()
    with tempfile.TemporaryDirectory() as cache:
        client.execute(env=environment(hub, Path(cache)))
    return notebook


def normalise(notebook: nbformat.NotebookNode) -> None:
    """Leave out what differs from one machine to the next."""
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python", "pygments_lexer": "ipython3"},
        }
    )
    for cell in notebook.cells:
        tags = cell.metadata.get("tags")
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})


def main() -> None:
    """Run the notebooks that are named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="file names, or what they start with")
    parser.add_argument("--write", action="store_true", help="write outputs into the files")
    options = parser.parse_args()
    for path in sorted(TUTORIALS.glob("*.ipynb")):
        if options.names and not any(path.name.startswith(name) for name in options.names):
            continue
        notebook = read(path)
        if parameter_cells(notebook):
            print(f"{path.name}: left out, for the reader's machine")
            continue
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            execute(notebook, folder)
        print(f"{path.name}: {time.perf_counter() - started:.0f} s")
        if options.write:
            normalise(notebook)
            nbformat.write(notebook, path)


if __name__ == "__main__":
    main()
