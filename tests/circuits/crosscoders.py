"""Crosscoders that replace MLPs of tiny models, with random weights."""

import torch
from sae_lens import SAE

DECODERS = {
    "linear": {"architecture": "crosscoder"},
    "degree 2": {"architecture": "poly_crosscoder", "degree": 2},
    "degree 3": {"architecture": "poly_crosscoder", "degree": 3, "rank_2": 3, "rank_3": 5},
    "reconstruction": {"architecture": "poly_crosscoder", "projection": "reconstruction"},
    "no self-terms": {"architecture": "poly_crosscoder", "self_terms": False},
    "powers": {"architecture": "poly_crosscoder", "decoder": "powers"},
}


def names_of(n_layers, read="hook_resid_mid"):
    """Inputs of MLPs by layer, then their outputs."""
    return [f"blocks.{i}.{at}" for at in (read, "hook_mlp_out") for i in range(n_layers)]


def cross_layer(decoder="linear", n_layers=3, d_model=16, d_sae=60, dtype="float64", **fields):
    """Latents of a layer read its MLP's input, and write its output and those of later layers."""
    sae = SAE.from_dict(
        {
            "d_in": 2 * n_layers * d_model,
            "n_hooks": 2 * n_layers,
            "d_sae": d_sae,
            "dtype": dtype,
            "device": "cpu",
            "structure": "free",
            "reads": ";".join(str(i) for i in range(n_layers)),
            "writes": ";".join(f"{n_layers + i}..{2 * n_layers - 1}" for i in range(n_layers)),
            "metadata": {"hook_names": names_of(n_layers)},
            **DECODERS[decoder],
            **fields,
        }
    )
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(drawn * (50 if name.startswith("polynomial.C") else 0.5))
        sae.threshold.abs_()
    return sae.requires_grad_(False)
