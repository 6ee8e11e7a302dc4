"""A naive dense crosscoder and a tensor ring in a plain loop, with and without gradient clipping.

    sae-lens-poly cache build/stdlib-cache --training_tokens 8000000
    python benchmarks/naive_starts.py
    python benchmarks/naive_starts.py --clip 1

Raw inputs, an encoder with a start of its own, decoder vectors of norm 1 at each hook point, no
AuxK, Adam at 2e-3 without warm-up or decay, 6,000 steps of 256 tokens: what stdlib-starts.yaml has
through SAELens' trainer, which clips gradients to a norm of 1. Here that, TopK or BatchTopK and the
number of distinct tokens can be chosen. The error is the share of the raw variance that is
unexplained (FVU), on the last two shards of the cache, which no arm trains on.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from sae_lens import TrainingSAE, TrainingSAEConfig
from sae_lens.saes.sae import TrainStepInput

from sae_lens_poly.activations.reader import CachedRows

D_SAE, K, BATCH = 512, 16, 256
ARMS: dict[str, dict[str, Any]] = {
    "dense": {},
    "tensor ring": {
        "encoder_weights": "tensor_ring",
        "decoder_weights": "tensor_ring",
        "encoder_ranks": [4, 32, 4],
        "decoder_ranks": [4, 32, 4],
    },
}


def train(arm: str, rows: CachedRows, n: int, options: argparse.Namespace) -> TrainingSAE[Any]:
    """An arm that was trained on the first ``n`` rows, over and over where steps take more."""
    torch.manual_seed(options.seed)
    n_hooks = len(rows.description.hook_names)
    fields = {
        "architecture": "crosscoder",
        "d_in": n_hooks * rows.description.d_model,
        "n_hooks": n_hooks,
        "d_sae": D_SAE,
        "k": K,
        "sparsifier": options.sparsifier,
        "normalize_hooks": False,
        "encoder_init": "independent",
        "decoder_init_norm": 1.0,
        "init_norm_over": "hook",
        "aux_loss_coefficient": 0.0,
        "b_dec_init": options.b_dec_init,
        **ARMS[arm],
    }
    sae = TrainingSAE.from_dict(TrainingSAEConfig.from_dict(fields).to_dict())
    sae.initialise_from_batch_(rows.numbered(torch.arange(8192)))
    optimizer = torch.optim.Adam(sae.parameters(), lr=2e-3)
    no_dead = torch.zeros(D_SAE, dtype=torch.bool)
    order, at = torch.randperm(n), 0
    for step in range(options.steps):
        if at + BATCH > n:
            order, at = torch.randperm(n), 0
        batch, at = rows.numbered(order[at : at + BATCH]), at + BATCH
        given = TrainStepInput(
            sae_in=batch,
            coefficients={},
            dead_neuron_mask=no_dead,
            n_training_steps=step,
            is_logging_step=False,
        )
        sae.training_forward_pass(given).loss.backward()
        if options.clip:
            torch.nn.utils.clip_grad_norm_(sae.parameters(), options.clip)
        optimizer.step()
        optimizer.zero_grad()
    return sae.eval()


@torch.no_grad()
def measured(sae: TrainingSAE[Any], x: torch.Tensor) -> tuple[float, int, float]:
    """FVU of raw activations (n, d_in), latents that never fire, and L0."""
    error = n_active = 0.0
    fired = torch.zeros(D_SAE, dtype=torch.bool)
    for batch in x.split(4096):
        z = sae.encode(batch)
        fired |= (z > 0).any(dim=0)
        n_active += (z > 0).sum().item()
        error += (batch - sae.decode(z)).double().pow(2).sum().item()
    variance = (x - x.mean(dim=0)).double().pow(2).sum().item()
    return error / variance, int((~fired).sum()), n_active / len(x)


def main() -> None:
    """Train both arms and print their errors."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cache", type=Path, default=Path("build/stdlib-cache"))
    parser.add_argument("--shards", type=int, default=94, help="of 16,320 tokens, to train on")
    parser.add_argument("--sparsifier", default="topk", choices=["topk", "batchtopk"])
    parser.add_argument("--b_dec_init", default="zeros", choices=["zeros", "mean"])
    parser.add_argument("--clip", type=float, default=0.0, help="norm of gradients; 0: not clipped")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    rows = CachedRows(options.cache)
    if not 0 < options.shards <= len(rows.ends) - 2:
        parser.error(
            f"--shards: {options.shards}, and the last 2 of {len(rows.ends)} are scored on"
        )
    n = int(rows.ends[options.shards - 1])
    other = rows.numbered(torch.arange(int(rows.starts[-2]), len(rows)))
    print(
        f"{options.sparsifier}, b_dec {options.b_dec_init}, clipped to {options.clip:g}, "
        f"{n:,} distinct tokens, seed {options.seed}, torch {torch.__version__}"
    )
    for arm in ARMS:
        fvu, n_dead, l0 = measured(train(arm, rows, n, options), other)
        print(f"{arm:14}FVU {fvu:.4f}   dead {n_dead:3d} of {D_SAE}   L0 {l0:.1f}")


if __name__ == "__main__":
    main()
