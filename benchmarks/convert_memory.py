"""Peak memory of loading a large public dictionary, beside the size of its files.

    python benchmarks/convert_memory.py

A synthetic cross-layer transcoder in the files of Gemma Scope 2: 26 layers of 10,080 latents, width
64, as many latents as the one of a 1B model. Latents of a layer write zeros in the layers before
it, as the published ones do; ``--all_written`` has them write everywhere. Files are made, loaded
and converted in processes of their own; the peak of one is its ``ru_maxrss``, less that of a
process that imports the same and does no more. What is wanted is at most 1.5 times the size of the
files for loading. --help lists the options.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BOUND = 1.5


def make_files(folder: Path, n_layers: int, n_latents: int, d_model: int, everywhere: bool) -> None:
    """One file for each layer, in float32."""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(0)
    for layer in range(n_layers):
        w_dec = torch.randn(n_latents, n_layers, d_model, generator=generator)
        if not everywhere:
            w_dec[:, :layer] = 0
        tensors = {
            "w_enc": torch.randn(d_model, n_latents, generator=generator),
            "w_dec": w_dec,
            "b_enc": torch.randn(n_latents, generator=generator),
            "b_dec": torch.randn(d_model, generator=generator),
            "threshold": torch.rand(n_latents, generator=generator),
            "affine_skip_connection": torch.randn(d_model, d_model, generator=generator),
        }
        save_file(tensors, folder / f"params_layer_{layer}.safetensors")


def work(kind: str, folder: Path) -> None:
    """What one process does; its peak and seconds are printed."""
    import sae_lens_poly  # noqa: F401 (registers the architectures)
    from sae_lens_poly.formats.base import ReadingOptions
    from sae_lens_poly.formats.convert import convert_folder, load_public
    from sae_lens_poly.formats.files import Files

    start, options = time.perf_counter(), ReadingOptions(format="gemma_scope_2_clt")
    if kind == "load":
        load_public(Files.of_folder(folder), options)
    elif kind == "convert":
        convert_folder(Files.of_folder(folder), folder.parent / "converted", options)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(peak, time.perf_counter() - start)


def in_process(*flags: str) -> list[float]:
    """What this script prints when it is started with these flags."""
    command = [sys.executable, __file__, *flags]
    return [float(word) for word in subprocess.check_output(command, text=True).split()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=26)
    parser.add_argument("--latents", type=int, default=10_080, help="of each layer")
    parser.add_argument("--d_model", type=int, default=64)
    parser.add_argument("--all_written", action="store_true")
    parser.add_argument("--work", nargs=2, metavar=("KIND", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    sizes = (options.layers, options.latents, options.d_model)
    if options.work:
        kind, folder = options.work
        if kind == "make":
            make_files(Path(folder), *sizes, options.all_written)
        else:
            work(kind, Path(folder))
        return 0
    with tempfile.TemporaryDirectory() as here:
        folder = Path(here, "clt")
        folder.mkdir()
        same = [word for word in sys.argv[1:] if word != "--work"]
        in_process(*same, "--work", "make", str(folder))
        n_bytes = sum(path.stat().st_size for path in folder.iterdir())
        print(
            f"{sizes[0]} layers of {sizes[1]:,} latents, {sizes[0] * sizes[1]:,} in all, width "
            f"{sizes[2]}; files of {n_bytes / 1e6:,.0f} MB"
        )
        (baseline, _) = in_process("--work", "import", str(folder))
        print(f"import only: peak {baseline / 1e6:,.0f} MB")
        ratios = {}
        for kind in ("load", "convert"):
            peak, seconds = in_process("--work", kind, str(folder))
            ratios[kind] = (peak - baseline) / n_bytes
            print(
                f"{kind}: peak {peak / 1e6:,.0f} MB, less the baseline "
                f"{(peak - baseline) / 1e6:,.0f} MB, {ratios[kind]:.2f} times the files; "
                f"{seconds:.0f} s"
            )
        stored = Path(here, "converted", "sae_weights.safetensors").stat().st_size
        print(f"stored as blocks: {stored / 1e6:,.0f} MB, {stored / n_bytes:.2f} times the files")
    print(f"wanted of loading: at most {BOUND} times the files")
    return int(ratios["load"] > BOUND)


if __name__ == "__main__":
    sys.exit(main())
