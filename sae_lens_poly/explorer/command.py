"""``python -m sae_lens_poly explore``."""

from __future__ import annotations

import socket
import sys
import webbrowser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sae_lens_poly.commands.parser import Parser
from sae_lens_poly.dictionary_folder import load_dictionary
from sae_lens_poly.errors import InputError
from sae_lens_poly.evaluation.feature_cache import dictionary_hash
from sae_lens_poly.evaluation.saved import model_of
from sae_lens_poly.explorer.collect import collect, settings_in
from sae_lens_poly.explorer.settings import CollectionSettings
from sae_lens_poly.explorer.site import EXPLANATIONS_FILENAME, write_site
from sae_lens_poly.explorer.write_data import DataWriter
from sae_lens_poly.hub import fetch_dictionary
from sae_lens_poly.hub.download import refuse_remote_code
from sae_lens_poly.hub.reference import HubReference
from sae_lens_poly.training.runner import StoppedRun

#: Settings that the command line has flags for, and their types.
_FLAGS: dict[str, type] = {
    "n_tokens": int,
    "batch_size_prompts": int,
    "n_top": int,
    "n_drawn": int,
    "dataset_path": str,
    "skip_rows": int,
    "seed": int,
}


def explore(flags: Sequence[str]) -> None:
    """Collect what the latents of a dictionary are active on, and show it in a browser."""
    parser = Parser(
        "explore",
        description="Collects once, which takes one pass over a text; started again after a stop, "
        "it continues where it was. Settings that are not given are those of the last collection. "
        "Then the pages are served on this machine.",
    )
    parser.add_argument("folder", help="a saved dictionary, or user/repo:path on the hub")
    parser.add_argument("--static", help="write a site into this folder instead of serving it")
    parser.add_argument("--port", type=int, default=8737, help="0: one that is free")
    parser.add_argument("--no_browser", action="store_true", help="only print the address")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--revision", help="branch, tag or commit on the hub; main by default")
    for name, kind in _FLAGS.items():
        parser.add_argument(f"--{name}", type=kind)
    options = parser.parse_args(flags)
    given = {name: getattr(options, name) for name in _FLAGS}
    given = {name: value for name, value in given.items() if value is not None}
    CollectionSettings(**given)  # raises where one is wrong, before anything is loaded
    if not 0 <= options.port < 2**16:
        raise InputError(f"port={options.port} must be from 0 to {2**16 - 1}")
    if not options.static:
        _check_server()
    folder, workplace = folders_of(options.folder, options.revision)
    settings = CollectionSettings(**(settings_in(workplace / "collected") | given))
    with can_be_stopped():
        writer = prepare(folder, workplace, settings, options.device)
    data, explanations = workplace / "data", workplace.parent / EXPLANATIONS_FILENAME
    if options.static:
        write_site(data, explanations, Path(options.static))
        print(
            f"site written to {options.static}; to look at it: python -m http.server -d "
            f"{options.static}"
        )
        return
    _serve(writer, data, explanations, options.port, not options.no_browser)


@contextmanager
def can_be_stopped() -> Iterator[None]:
    """Within it, Ctrl+C ends the command with a word on how to go on.

    Raises:
        StoppedRun: When that happens.
    """
    try:
        yield
    except KeyboardInterrupt:
        print("stopped; to go on, give the same command again", file=sys.stderr)
        raise StoppedRun(None) from None


def folders_of(dictionary: str, revision: str | None = None) -> tuple[Path, Path]:
    """Where a dictionary is, and where what is collected of it goes: beside it, or, for one on the
    hub, under ``explorations``.

    Raises:
        InputError: If a revision is given for a local folder.
    """
    reference = HubReference.of_flags(dictionary, revision)
    if reference is None:
        return Path(dictionary), Path(dictionary) / "explorer"
    folder = Path(fetch_dictionary(*reference, revision=revision))
    refuse_remote_code(folder)
    at = f"@{revision}" if revision else ""
    return folder, Path("explorations", reference.repo_id + at, reference.path, "explorer")


def prepare(
    folder: Path, workplace: Path, settings: CollectionSettings, device: str = "cpu"
) -> DataWriter:
    """Collect and write the data files, as far as they are not there.

    Args:
        folder: A saved dictionary.
        workplace: Where what is collected goes, and the data files.
        settings: How much is collected.
        device: Where the model and the dictionary run.
    """
    sae = load_dictionary(folder, device)
    model = model_of(sae, folder, device)
    of = dictionary_hash(folder)
    collected = collect(sae, model, workplace / "collected", settings, of)
    writer = DataWriter(sae, model, collected)
    writer.write(workplace / "data", folder, of)
    return writer


def _check_server() -> None:
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"the pages cannot be served ({error}): pip install 'sae-lens-poly[explorer]', or "
            "write a site with --static FOLDER"
        ) from None


def _serve(writer: DataWriter, data: Path, explanations: Path, port: int, opens: bool) -> None:
    import uvicorn

    from sae_lens_poly.explorer.server import make_app

    place = socket.socket()
    place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        place.bind(("127.0.0.1", port))
    except OSError as error:
        raise InputError(
            f"port={port} cannot be used ({error.strerror}): give another --port, or 0 for one "
            "that is free"
        ) from None
    address = f"http://127.0.0.1:{place.getsockname()[1]}/"
    print(f"explorer at {address} (Ctrl+C ends it)", flush=True)
    if opens:
        webbrowser.open_new(address)
    config = uvicorn.Config(make_app(writer, data, explanations), log_level="warning")
    uvicorn.Server(config).run(sockets=[place])
