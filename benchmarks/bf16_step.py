"""The step in bfloat16 beside float32's, and what it costs in explained variance.

    python benchmarks/bf16_step.py

Whole steps of SAELens' trainer, with ``autocast`` (float32 weights, products in bfloat16) and
without, in turn: one step of each a round. Then both train at equal tokens on activations of the
embedded model, three seeds; explained variance, L0 and dead latents are of tokens of the same text
that were not trained on.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from typing import Any

import torch
from sae_lens import TrainingSAE, TrainingSAEConfig
from sae_lens.training.sae_trainer import SAETrainer
from step_timing import add_sizes, make_trainer

from sae_lens_poly.activations.reader import CachedRows
from sae_lens_poly.models.loading import load_stacked_model
from sae_lens_poly.training.fill_cache import CacheFiller
from sae_lens_poly.training.flags import config_of, fit_to_model, read_run

ARMS = {"float32": False, "bfloat16": True}


def trainer_of(autocast: bool, batch: int, seed: int = 0, **fields: Any) -> SAETrainer[Any, Any]:
    """SAELens' trainer of a crosscoder, with or without ``autocast``."""
    torch.manual_seed(seed)
    cfg = TrainingSAEConfig.from_dict({"architecture": "crosscoder", **fields})
    return make_trainer(TrainingSAE.from_dict(cfg.to_dict()), batch, autocast=autocast)


def time_steps(options: argparse.Namespace) -> None:
    """Print the median step of both, and their ratio."""
    L, d = options.n_hooks, options.d_model
    print(
        f"L {L}, d_model {d}, {options.d_sae} latents, k {options.k}, batch {options.batch}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"{torch.backends.cpu.get_cpu_capability()}, "
        f"AMX {torch.cpu._is_amx_tile_supported()}"
    )
    sizes = {"d_in": L * d, "n_hooks": L, "d_sae": options.d_sae, "k": options.k}
    trainers = {arm: trainer_of(on, options.batch, **sizes) for arm, on in ARMS.items()}
    batches = [torch.randn(options.batch, L * d) for _ in range(2)]
    seconds: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for number in range(options.warm_up + options.rounds):
        for arm, trainer in trainers.items():
            start = time.perf_counter()
            trainer.step(batches[number % 2])
            trainer.n_training_steps += 1
            if number >= options.warm_up:
                seconds[arm].append(time.perf_counter() - start)
    medians = {arm: statistics.median(values) for arm, values in seconds.items()}
    for arm, values in seconds.items():
        print(f"  {arm:9} {medians[arm]:6.3f} s   ({min(values):.3f} to {max(values):.3f})")
    ratio = medians["bfloat16"] / medians["float32"]
    print(f"bfloat16's step is {ratio:.2f} of float32's (to be at most 0.6)")


@torch.no_grad()
def figures(sae: TrainingSAE[Any], x: torch.Tensor) -> tuple[float, float, int]:
    """Explained variance in normalised units, L0, and latents that no token activates."""
    z = sae.encode(x)
    normal = sae.hook_scales.normalise(x)
    error = normal - sae.hook_scales.normalise(sae.decode(z))
    explained = 1 - error.pow(2).sum() / (normal - normal.mean(dim=0)).pow(2).sum()
    active = z > 0
    return float(explained), float(active.sum(-1).float().mean()), int((~active.any(0)).sum())


def compare_accuracy(options: argparse.Namespace) -> None:
    """Print what both reach at equal tokens."""
    with tempfile.TemporaryDirectory() as folder:
        cfg = config_of(read_run(["--training_tokens", str(options.tokens + options.held_out)]))
        model = load_stacked_model(cfg.model_name, cfg.hook_name)
        filler = CacheFiller(fit_to_model(cfg, model.d_in, model.state_shape), model, folder)
        filler.begin()
        filler.fill()
        rows = CachedRows(folder)
        n_steps = (len(rows) - options.held_out) // 1024
        held_out = rows.batch(n_steps * 1024, options.held_out)
        print(
            f"\n{model.n_hooks} hook points of the embedded model, 1,024 latents, k 16, "
            f"{n_steps} steps of 1,024 tokens, {options.held_out:,} tokens held out"
        )
        print("           seed  explained variance      L0   dead")
        sizes = {"d_in": model.d_in, "n_hooks": model.n_hooks, "d_sae": 1024, "k": 16}
        for seed in range(options.seeds):
            for arm, on in ARMS.items():
                trainer = trainer_of(on, 1024, seed, sparsifier="topk", **sizes)
                for step in range(n_steps):
                    trainer.step(rows.batch(step * 1024, 1024))
                    trainer.n_training_steps += 1
                explained, l0, n_dead = figures(trainer.sae, held_out)
                print(f"  {arm:9} {seed:4}  {explained:18.4f}  {l0:6.2f}  {n_dead:5}", flush=True)


def main() -> None:
    """Time the steps, then compare what is reached."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_sizes(parser)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--warm_up", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=150_000)
    parser.add_argument("--held_out", type=int, default=8192)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    time_steps(options)
    compare_accuracy(options)


if __name__ == "__main__":
    main()
