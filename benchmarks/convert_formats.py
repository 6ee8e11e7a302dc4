"""Dictionaries trained on the embedded model, in the files of other packages and converted back.

    python benchmarks/convert_formats.py

Six small dictionaries are trained with ``train``. Each is written, with its own weights, in the
formats that can say what it computes, then converted with ``convert`` and measured with
``evaluate``. Printed are the largest difference of codes and of reconstructions (as a share of the
largest number) on random tokens, and the explained variance and L0 of both on held-out modules,
read in contexts of the default length, as no other format says in which it was trained.
clt-training keeps the k highest of each layer, which no dictionary trained here does: only its own
figures stand there.
--help lists the options.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from sae_lens import SAE
from sae_lens.saes.sae import SAEMetadata
from safetensors.torch import save_file

import sae_lens_poly  # noqa: F401 (registers the architectures)
from sae_lens_poly.architectures.crosscoders.crosscoder import Crosscoder
from sae_lens_poly.cli import main as command
from sae_lens_poly.formats.layers import layers_of
from sae_lens_poly.models.loading import load_stacked_model

MODEL, LAYERS = "stdlib-6l", 6
RESIDUAL = "blocks.{1..3}.hook_resid_post"
INSIDE = f"blocks.{{0..{LAYERS - 1}}}.hook_resid_mid,blocks.{{0..{LAYERS - 1}}}.hook_mlp_out"


def _free(writes: Callable[[int], str]) -> list[str]:
    layers = range(LAYERS)
    reads = ";".join(map(str, layers))
    return ["--structure", "free", "--reads", reads, "--writes", ";".join(map(writes, layers))]


#: What is trained, by name.
TRAINED: dict[str, list[str]] = {
    # With one unit for all hook points, so that one threshold on the scaled code stays one.
    "crosscoder": ["--hook_name", RESIDUAL, "--normalize_hooks", "False"],
    "crosscoder, ReLU": ["--hook_name", RESIDUAL, "--sparsifier", "relu"],
    "crosscoder, causal": [
        *("--hook_name", "blocks.{0..2}.hook_resid_post", "--structure", "weakly_causal"),
    ],
    "CLT": ["--hook_name", INSIDE, *_free(lambda i: f"{LAYERS + i}..{2 * LAYERS - 1}")],
    "transcoders": ["--hook_name", INSIDE, *_free(lambda i: str(LAYERS + i))],
    "SAE, TopK": [
        *("--hook_name", "blocks.3.hook_resid_post", "--sparsifier", "topk"),
        *("--score_by_decoder_norm", "False"),
    ],
}


def gemma_scope_2(sae: Crosscoder, folder: Path) -> list[str]:
    of = layers_of(sae, "a dictionary of Gemma Scope 2").layers
    for i, layer in enumerate(of):
        tensors = {"w_enc": layer.W_enc.T, "w_dec": layer.W_dec, "b_enc": layer.b_enc}
        tensors |= {"b_dec": layer.b_dec, "threshold": layer.threshold}
        _save(tensors, folder / f"params_layer_{i}.safetensors")
    inside = len(of) < sae.n_hooks
    return ["--format", f"gemma_scope_2_{'clt' if inside else 'crosscoder'}"]


def ckkissane(sae: Crosscoder, folder: Path) -> list[str]:
    W_enc, W_dec, b_dec = _stacked(sae)
    torch.save(
        {"W_enc": W_enc, "W_dec": W_dec, "b_enc": sae.b_enc.data, "b_dec": b_dec},
        folder / "cc_weights.pt",
    )
    (folder / "cfg.json").write_text(json.dumps({"d_in": sae.d_model, "dict_size": sae.cfg.d_sae}))
    return ["--scales", *["1"] * sae.n_hooks]


def dictionary_learning(sae: Crosscoder, folder: Path) -> list[str]:
    W_enc, W_dec, b_dec = _stacked(sae)
    tau = sae.threshold * sae.decoder_norms().sum(dim=-1)
    assert (tau - tau.median()).abs().max() < 1e-4 * tau.median()
    tensors = {"encoder.weight": W_enc, "encoder.bias": sae.b_enc, "decoder.bias": b_dec}
    tensors |= {"decoder.weight": W_dec.transpose(0, 1), "threshold": tau.median()}
    tensors |= {"code_normalization_id": torch.tensor(1), "k": torch.tensor(16)}
    _save(tensors, folder / "model.safetensors")
    sizes = {"activation_dim": sae.d_model, "dict_size": sae.cfg.d_sae, "num_layers": sae.n_hooks}
    (folder / "config.json").write_text(json.dumps(sizes))
    return []


def crosscode(sae: Crosscoder, folder: Path) -> list[str]:
    W_enc, W_dec, b_dec = _stacked(sae)
    ones = torch.ones(1, sae.n_hooks)
    weights = {"_W_enc_XiDiL": W_enc[None], "_W_dec_LXoDo": W_dec[:, None], "is_folded": True}
    weights |= {"b_enc_L": sae.b_enc.data, "_b_dec_XoDo": b_dec[None]}
    weights |= {f"folded_scaling_factors_{side}": ones for side in ("in_Xi", "out_Xo")}
    weights["_activation_fn.log_threshold_L"] = sae.threshold.log()
    weights = {name: torch.as_tensor(value).clone() for name, value in weights.items()}
    torch.save(weights, folder / "model.pt")
    config = {"n_models": 1, "n_hookpoints": sae.n_hooks, "d_model": sae.d_model}
    activation = {"classname": "AnthropicSTEJumpReLUActivation", "cfg": {}}
    (folder / "model_cfg.yaml").write_text(yaml.safe_dump({**config, "activation_fn": activation}))
    return []


def llamascopium(sae: Crosscoder, folder: Path) -> list[str]:
    names = sae.cfg.metadata.hook_names
    config = {"d_model": sae.d_model, "norm_activation": "inference"}
    if sae.structure.is_full:
        W_enc, W_dec, b_dec = _stacked(sae)
        b_E = sae.b_enc.expand(sae.n_hooks, -1) / sae.n_hooks
        tensors = {"W_E": W_enc, "b_E": b_E, "W_D": W_dec.transpose(0, 1), "b_D": b_dec}
        config |= {"sae_type": "crosscoder", "act_fn": "relu", "hook_points": names}
    else:
        of = layers_of(sae, "a CLT of llamascopium").layers
        tensors = {"W_E": torch.stack([layer.W_enc.T for layer in of])}
        tensors["b_E"] = torch.stack([layer.b_enc for layer in of])
        log = "activation_function.log_jumprelu_threshold"
        tensors[log] = torch.stack([layer.threshold.log() for layer in of])
        for to, layer in enumerate(of):
            tensors[f"W_D.{to}"] = torch.stack([source.W_dec[:, to] for source in of[: to + 1]])
            tensors[f"b_D.{to}"] = layer.b_dec
        config |= {"sae_type": "clt", "act_fn": "jumprelu", "sparsity_include_decoder_norm": False}
        config |= {"hook_points_in": names[: len(of)], "hook_points_out": names[len(of) :]}
    _save(tensors, folder / "sae_weights.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return []


def clt_training(sae: Crosscoder, folder: Path) -> list[str]:
    of = layers_of(sae, "a CLT of clt-training").layers
    for i, layer in enumerate(of):
        tensors = {"encoder.weight": layer.W_enc, "encoder.bias": layer.b_enc}
        for t in range(len(of) - i):
            tensors[f"W_decs.{t}"] = layer.W_dec[:, i + t]
            tensors[f"b_decs.{t}"] = of[i + t].b_dec / (i + t + 1)  # every source adds its own
        at = folder / f"layers.{i}.mlp"
        at.mkdir()
        _save(tensors, at / "sae.safetensors")
        config = {"k": 3, "transcode": True, "n_targets": len(of) - i, "d_in": sae.d_model}
        (at / "cfg.json").write_text(json.dumps(config))
    return []


def sparsify(sae: Crosscoder, folder: Path) -> list[str]:
    W_enc, W_dec, b_dec = (tensor.squeeze() for tensor in _stacked(sae))
    b_enc = sae.b_enc
    if not sae.cfg.apply_b_dec_to_input:
        b_enc = b_enc + b_dec @ W_enc
    tensors = {"encoder.weight": W_enc.T, "encoder.bias": b_enc, "W_dec": W_dec, "b_dec": b_dec}
    _save(tensors, folder / "sae.safetensors")
    (folder / "cfg.json").write_text(json.dumps({"k": sae.cfg.select_k, "d_in": sae.d_model}))
    return []


def circuit_tracer(name: str) -> Callable[[Crosscoder, Path], list[str]]:
    def write(sae: Crosscoder, folder: Path) -> list[str]:
        ours = folder.with_name("ours")
        sae.save_model(ours)
        said(["convert", str(ours), str(folder), "--to", name])
        return []

    return write


#: What each is written as.
WRITTEN: list[tuple[str, str, Callable[[Crosscoder, Path], list[str]]]] = [
    ("crosscoder", "dictionary_learning", dictionary_learning),
    ("crosscoder", "crosscode", crosscode),
    ("crosscoder, ReLU", "ckkissane", ckkissane),
    ("crosscoder, ReLU", "llamascopium", llamascopium),
    ("crosscoder, causal", "gemma_scope_2_crosscoder", gemma_scope_2),
    ("CLT", "gemma_scope_2_clt", gemma_scope_2),
    ("CLT", "circuit_tracer_clt", circuit_tracer("circuit_tracer_clt")),
    ("CLT", "llamascopium", llamascopium),
    ("CLT", "clt_training", clt_training),
    ("transcoders", "circuit_tracer_set", circuit_tracer("circuit_tracer_set")),
    ("SAE, TopK", "sparsify", sparsify),
]


def _stacked(sae: Crosscoder) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """W_enc (n, d, F), with b_dec taken off the input by nobody; W_dec (F, n, d); b_dec (n, d)."""
    W_dec, b_dec = sae.W_dec_per_hook.data.clone(), sae.per_hook(sae.b_dec.data).clone()
    return sae.W_enc_per_hook.data.contiguous(), W_dec, b_dec


def _save(tensors: dict[str, torch.Tensor], path: Path) -> None:
    save_file({k: v.detach().contiguous().clone() for k, v in tensors.items()}, path)


def said(words: list[str]) -> str:
    """What a command prints.

    Raises:
        SystemExit: If it fails.
    """
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        status = command(words)
    if status:
        raise SystemExit(f"{' '.join(words)}: {out.getvalue()}")
    return out.getvalue()


def figures(folder: Path, more: list[str]) -> dict[str, Any]:
    """What ``evaluate`` finds, of the dictionary as a whole."""
    output = folder.with_name(f"{folder.name}-evaluation")
    few = ["--n_batches", "2", "--n_splice_batches", "1", "--n_coherence_tokens", "64"]
    few += ["--n_headroom_tokens", "0", "--output", str(output), "--probing"]
    said(["evaluate", str(folder), *few, *more])
    return json.loads((output / "evaluation.json").read_text())["pooled"]


@torch.no_grad()
def without_input_bias(sae: Crosscoder) -> Crosscoder:
    """The same function with nothing taken off the input, as most formats have it."""
    if sae.cfg.apply_b_dec_to_input:
        sae.b_enc -= sae.encoder_weights.read(sae.b_dec)
        sae.cfg.apply_b_dec_to_input = False
    return sae


def told_nothing(folder: Path) -> tuple[Crosscoder, dict[str, Any]]:
    """A dictionary and its figures, without what it knows about the reading of its text."""
    sae = SAE.load_from_disk(folder)
    known = {name: sae.cfg.metadata[name] for name in ("model_name", "hook_name", "hook_names")}
    sae.cfg.metadata = SAEMetadata(**known)
    plain = folder.with_name(f"{folder.name}-plain")
    sae.save_model(plain)
    return sae, figures(plain, [])


@torch.no_grad()
def compare(one: Crosscoder, other: Crosscoder) -> tuple[float, float]:
    """Largest differences of codes and reconstructions, as shares of the largest number.

    Reconstructions where latents write: of the other hook points ours has a mean, theirs has none.
    """
    model = load_stacked_model(MODEL, one.cfg.metadata.hook_name)
    tokens = torch.randint(4096, (4, 128), generator=torch.Generator().manual_seed(0))
    x = model.gather(tokens).flatten(0, -2)
    written = list(one.written_hooks)
    pairs = [(sae.encode(x), sae.per_hook(sae(x))[:, written]) for sae in (one, other)]
    codes, outputs = ((a - b).abs().max() / a.abs().max() for a, b in zip(*pairs, strict=True))
    return float(codes), float(outputs)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--training_tokens", type=int, default=100_000)
    parser.add_argument("--only", nargs="+", choices=TRAINED, default=list(TRAINED))
    options = parser.parse_args()
    print(
        f"{'dictionary':20}{'format':26}{'codes':>10}{'output':>10}{'EV ours':>10}"
        f"{'converted':>10}{'L0 ours':>10}{'converted':>10}"
    )
    worst = 0.0
    with tempfile.TemporaryDirectory() as here:
        ours: dict[str, tuple[Crosscoder, dict[str, Any]]] = {}
        for number, (kind, name, write) in enumerate(WRITTEN):
            if kind not in options.only:
                continue
            if kind not in ours:
                folder = Path(here, f"trained-{number}")
                sizes = ["--d_sae", "768", "--k", "16", "--output_path", str(folder)]
                tokens = ["--training_tokens", str(options.training_tokens)]
                said(["train", "--architecture", "crosscoder", *TRAINED[kind], *sizes, *tokens])
                ours[kind] = told_nothing(folder)
            sae, expected = ours[kind]
            sae = without_input_bias(sae).requires_grad_(False)
            (at := Path(here, f"{number}", name)).mkdir(parents=True)
            theirs, back = at / "theirs", at / "converted"
            theirs.mkdir()
            flags = [*write(sae, theirs), "--model_name", MODEL]
            flags += ["--hook_name", sae.cfg.metadata.hook_name]
            said(["convert", str(theirs), str(back), *flags])
            found, converted = figures(theirs, flags), SAE.load_from_disk(back)
            # clt-training keeps as many latents of every layer, so that these are other codes.
            differences = "         -         -"
            if name != "clt_training":
                of_codes, of_outputs = compare(sae, converted)
                worst = max(worst, of_codes, of_outputs)
                differences = f"{of_codes:10.1e}{of_outputs:10.1e}"
            print(
                f"{kind:20}{name:26}{differences}"
                f"{expected['explained_variance']:10.4f}{found['explained_variance']:10.4f}"
                f"{expected['l0']:10.2f}{found['l0']:10.2f}",
                flush=True,
            )
    print(f"largest difference: {worst:.1e}; wanted: at most 1e-5")
    return int(worst > 1e-5)


if __name__ == "__main__":
    sys.exit(main())
