"""Checks in an environment of its own that circuit-tracer reads what ``convert --to`` writes.

    python -m scripts.check_circuit_tracer

circuit-tracer 0.5.0 needs another transformers than this package, so that a virtual environment is
made for it in a temporary folder (or given with ``--python``). A cross-layer transcoder and a
transcoder set with skips, of random weights, are written; circuit-tracer loads both in float32 and
encodes and decodes activations, and the codes, active latents and reconstructions are compared with
this package's. --help lists the options.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

import torch
from sae_lens import SAE
from safetensors.torch import load_file, save_file

import sae_lens_poly  # noqa: F401 (registers the architectures)
from sae_lens_poly.formats.convert import write_public

PACKAGE = "circuit-tracer==0.5.0"
N_LAYERS, D_MODEL, N_LATENTS, N_TOKENS = 4, 16, 40, 50

PROGRAM = """
import sys
import torch
from safetensors.torch import load_file, save_file

kind, folder, given, results = sys.argv[1:]
x = load_file(given)["x"]
cpu = torch.device("cpu")
if kind == "circuit_tracer_clt":
    from circuit_tracer.transcoder.cross_layer_transcoder import load_clt

    loaded = load_clt(folder, device=cpu, dtype=torch.float32, lazy_decoder=False)
    codes, x_hat = loaded.encode(x), loaded(x)
else:
    from circuit_tracer.transcoder.single_layer_transcoder import load_transcoder_set

    paths = {i: f"{folder}/layer_{i}.safetensors" for i in range(len(x))}
    loaded = load_transcoder_set(paths, "", "hook_resid_mid", "hook_mlp_out", cpu)
    codes = torch.stack([loaded[i].encode(x[i]) for i in range(len(x))])
    x_hat = torch.stack([loaded[i](x[i]) for i in range(len(x))])
save_file({"codes": codes.detach().contiguous(), "x_hat": x_hat.detach().contiguous()}, results)
"""


def dictionary(kind: str) -> SAE[Any]:
    """Of random weights; a set has skips, and latents that write their own layer."""
    layers = range(N_LAYERS)
    last = 2 * N_LAYERS - 1
    within = kind == "circuit_tracer_set"
    fields: dict[str, Any] = {
        "architecture": "crosscoder",
        "d_in": 2 * N_LAYERS * D_MODEL,
        "n_hooks": 2 * N_LAYERS,
        "d_sae": N_LAYERS * N_LATENTS,
        "dtype": "float32",
        "device": "cpu",
        "structure": "free",
        "reads": ";".join(map(str, layers)),
        "writes": ";".join(f"{N_LAYERS + i}" + ("" if within else f"..{last}") for i in layers),
        "skips": ";".join(f"{i}>{N_LAYERS + i}" for i in layers) if within else None,
        "metadata": {
            "model_name": "tiny",
            "hook_names": [
                f"blocks.{i}.{at}" for at in ("hook_resid_mid", "hook_mlp_out") for i in layers
            ],
        },
    }
    sae = SAE.from_dict(fields).requires_grad_(False)
    for parameter in sae.parameters():
        parameter.copy_(torch.randn_like(parameter) * 0.3)
    sae.threshold.abs_()
    return sae


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", help=f"an interpreter with {PACKAGE}; one is made by default")
    python = parser.parse_args().python
    torch.manual_seed(0)
    worst = 0.0
    with tempfile.TemporaryDirectory() as here:
        if python is None:
            venv.create(Path(here, "venv"), with_pip=True)
            python = str(Path(here, "venv", "bin", "python"))
            subprocess.run([python, "-m", "pip", "install", "--quiet", PACKAGE], check=True)
        for kind in ("circuit_tracer_clt", "circuit_tracer_set"):
            sae, folder = dictionary(kind), Path(here, kind)
            write_public(sae, folder, kind)
            given, results = Path(here, "given.safetensors"), Path(here, f"{kind}.safetensors")
            x = torch.randn(N_LAYERS, N_TOKENS, D_MODEL)
            save_file({"x": x}, given)
            subprocess.run([python, "-c", PROGRAM, kind, folder, given, results], check=True)
            found = load_file(results)
            inputs = x.transpose(0, 1).flatten(1)
            stacked = torch.cat([inputs, torch.zeros_like(inputs)], dim=1)
            codes = sae.encode(stacked).unflatten(1, (N_LAYERS, N_LATENTS)).transpose(0, 1)
            x_hat = sae(stacked).unflatten(1, (2 * N_LAYERS, D_MODEL))[:, N_LAYERS:].transpose(0, 1)
            same = bool(((found["codes"] != 0) == (codes != 0)).all())
            errors = [
                float((found[name] - ours).abs().max() / ours.abs().max())
                for name, ours in (("codes", codes), ("x_hat", x_hat))
            ]
            worst = max(worst, *errors, 0 if same else float("inf"))
            active = "the same" if same else "OTHER"
            print(
                f"{kind}: {int((codes != 0).sum())} active codes, of {active} "
                f"latents; they differ by {errors[0]:.1e}, reconstructions by {errors[1]:.1e}"
            )
    return int(worst > 1e-5)


if __name__ == "__main__":
    sys.exit(main())
