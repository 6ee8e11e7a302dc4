"""Planted features: what polynomial decoders cost where nothing interacts, and find where it does.

    python benchmarks/polysae_toy.py

Part 1: 1,024 linear features in 128 dimensions, 16 active in a sample. Fraction of variance
unexplained (FVU) of TopK, of poly_topk at order 1 and 3, and of PolySAE's published form.

Part 2: the same with planted interactions. Of 16 pairs of more frequent features (0.1 instead of
0.01) the second also fires in a fifth of the samples in which the first does, and where both are
active, ``z_i z_j`` times a direction of the pair's own is added, of norm 0.7. (Larger or more
frequent ones get a latent of their own from every arm; and 16 are what the default rank of 32 can
hold exactly, since a product is made of two squares.) For each decoder: FVU; the share of the
planted interactions that is left in its residual; how much of their energy its terms above degree
1 explain (R2 of the planted interaction by y_2 + y_3, both centred, and their squared
correlation); and the planted pairs among the strongest B_ij, as many as were planted and twice as
many, after latents were matched to features. B_ij depends on the units of latents; pairs are
ranked by ||B_ij|| at typical activations (root mean square over samples: what a pair adds), and,
beside it, at activations of 1, where latents that hardly ever fire weigh as much as others.

All arms see the same samples (equal seeds), tokens, width and k. Everything runs through SAELens'
synthetic tools and trainer; --help lists the options.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from planted_pairs import PairedFeatures, run_two_at_a_time
from sae_lens import TrainingSAE, TrainingSAEConfig
from sae_lens.synthetic import (
    ActivationGenerator,
    mean_correlation_coefficient,
    train_toy_sae,
)
from scipy.optimize import linear_sum_assignment

from sae_lens_poly import OFFICIAL_OPTIONS
from sae_lens_poly.analysis.interactions import strongest_pairs

D_IN, N_FEATURES, K = 128, 1024, 16
N_PAIRS, PAIR_RATE = 16, 0.1

_POLY = {"architecture": "poly_topk"}
_PUBLISHED = {"architecture": "polysae_topk", **OFFICIAL_OPTIONS, "rank_2": 64, "rank_3": 64}
ARMS: dict[str, dict[str, Any]] = {
    "topk": {"architecture": "topk"},
    "poly, order 1": {**_POLY, "degree": 1},
    "poly, order 3": _POLY,
    "poly, order 3, no self-terms": {**_POLY, "self_terms": False},
    "poly, order 3, reconstruction": {**_POLY, "projection": "reconstruction"},
    "official, order 1": {**_PUBLISHED, "degree": 1},
    "official, order 3": _PUBLISHED,
}
PARTS = {
    "linear": ["topk", "poly, order 1", "poly, order 3", "official, order 3"],
    "interactions": [
        "topk",
        "poly, order 3",
        "poly, order 3, no self-terms",
        "poly, order 3, reconstruction",
        "official, order 3",
    ],
}


class InteractingFeatures(PairedFeatures):
    """A feature dictionary in which pairs of the first features add a direction of their own."""

    def __init__(self, n_pairs: int, strength: float, seed: int) -> None:
        super().__init__(N_FEATURES, D_IN, initializer=None, seed=seed)
        generator = torch.Generator().manual_seed(seed + 1000)
        self.pairs = torch.arange(2 * n_pairs).view(n_pairs, 2)
        directions = torch.randn(n_pairs, D_IN, generator=generator)
        self.pair_directions = strength * torch.nn.functional.normalize(directions, dim=-1)


def firing_rates(interacting: bool) -> torch.Tensor:
    """K features active in a sample; where some interact, those are the frequent ones."""
    rates = torch.full((N_FEATURES,), K / N_FEATURES)
    if interacting:
        rates[:] = (K - 2 * N_PAIRS * PAIR_RATE) / (N_FEATURES - 2 * N_PAIRS)
        rates[: 2 * N_PAIRS] = PAIR_RATE
    return rates


def run_arm(part: str, arm: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train one arm and measure it."""
    torch.manual_seed(seed)
    features = InteractingFeatures(N_PAIRS if part == "interactions" else 0, options.strength, seed)
    generator = ActivationGenerator(
        N_FEATURES,
        firing_rates(part == "interactions"),
        std_firing_magnitudes=0.3,
        modify_activations=features.fire_together if part == "interactions" else None,
    )
    fields = {
        "d_in": D_IN,
        "d_sae": N_FEATURES,
        "k": K,
        "decoder_init_norm": options.decoder_init_norm,
        "rescale_acts_by_decoder_norm": options.rescale,
        **ARMS[arm],
    }
    sae = TrainingSAE.from_dict(TrainingSAEConfig.from_dict(fields).to_dict())
    torch.manual_seed(20_000 + seed)  # the same samples for all arms, whatever these have drawn
    started = time.perf_counter()
    train_toy_sae(
        sae,
        features,
        generator,
        training_samples=options.steps * options.batch,
        batch_size=options.batch,
        lr=options.lr,
        lr_decay_steps=options.steps // 5 if options.decay else 0,
    )
    seconds = time.perf_counter() - started
    sae.eval()
    torch.manual_seed(10_000 + seed)
    return {"seconds": seconds, **measure(sae, features, generator)}


@torch.no_grad()
def measure(
    sae: Any, features: InteractingFeatures, generator: ActivationGenerator, n_batches: int = 20
) -> dict[str, Any]:
    """FVU on new samples, feature recovery, and what was found of the interactions."""
    error = variance = left = energy = in_residual = 0.0
    joint_moments = torch.zeros(2, 2)
    squares, n_samples = torch.zeros(N_FEATURES), 0
    for _ in range(n_batches):
        planted = generator.sample(2048)
        x = features(planted)
        z = sae.encode(x)
        residual = x - sae.decode(z)
        error += residual.pow(2).sum().item()
        variance += (x - x.mean(dim=0)).pow(2).sum().item()
        squares, n_samples = squares + z.square().sum(dim=0), n_samples + len(z)
        interaction = features.interactions(planted)
        above = torch.zeros_like(x)
        if hasattr(sae, "degree_terms"):
            above = above + sum(y for d, y in sae.degree_terms(z).items() if d > 1)
        both = torch.stack([interaction - interaction.mean(0), above - above.mean(0)]).flatten(1)
        joint_moments += both @ both.T
        left += (both[0] - both[1]).pow(2).sum().item()
        energy += both[0].pow(2).sum().item()
        in_residual += (both[0] * residual.flatten()).sum().item()
    figures: dict[str, Any] = {
        "fvu": error / variance,
        "dead": int((squares == 0).sum()),
        "mcc": mean_correlation_coefficient(sae.W_dec, features.feature_vectors),
    }
    if len(features.pairs):
        figures["interactions' share of variance"] = energy / variance
        figures["left in residual"] = in_residual / energy
        cosines = torch.nn.functional.normalize(sae.W_dec, dim=-1) @ features.feature_vectors.T
        latents, matched = linear_sum_assignment(-cosines.numpy())
        latent_of = torch.empty(N_FEATURES, dtype=torch.long)
        latent_of[matched] = torch.from_numpy(latents)
        pair_cosines = cosines[latent_of[features.pairs], features.pairs]
        figures["cosine of the pairs' latents"] = pair_cosines.mean().item()
        polynomial = getattr(sae, "polynomial", None)
        if polynomial is not None:
            figures["interaction R2"] = 1 - left / energy
            squared_norms = joint_moments.diagonal().prod().item()
            figures["squared correlation"] = joint_moments[0, 1].item() ** 2 / squared_norms
            wanted = {frozenset(pair) for pair in latent_of[features.pairs].tolist()}
            typical = (squares / n_samples).sqrt()
            for times, (units, scales) in itertools.product(
                (1, 2), {"typical": typical, "unit": None}.items()
            ):
                top = strongest_pairs(sae, times * len(features.pairs), scales)
                found = {frozenset(pair) for pair in top.pairs.tolist()}
                name = f"pairs found in top {times}x at {units} activations"
                figures[name] = len(wanted & found) / len(wanted)
    return figures


def main() -> None:
    """Run the arms, two at a time, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--parts", nargs="*", default=list(PARTS))
    parser.add_argument("--arms", nargs="*", help="instead of those of the part")
    parser.add_argument("--decoder_init_norm", type=float, default=1.0)
    parser.add_argument("--rescale", type=lambda text: text == "True", default=True)
    parser.add_argument("--strength", type=float, default=0.7, help="norm of a pair's direction")
    parser.add_argument("--decay", type=lambda text: text == "True", default=True)
    parser.add_argument("--json", help="write all figures there")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        torch.set_num_threads(1)
        part, arm, seed = options.one
        print(json.dumps(run_arm(part, arm, int(seed), options)))
        return

    print(f"torch {torch.__version__}; {vars(options)}", flush=True)
    results: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for part in options.parts:
        arms = options.arms or PARTS[part]
        jobs = list(itertools.product(arms, options.seeds))

        runs = run_two_at_a_time([(part, arm, seed) for arm, seed in jobs])
        figures = dict(zip(jobs, runs, strict=True))
        results[part] = {arm: [figures[arm, seed] for seed in options.seeds] for arm in arms}
        print_part(part, results[part])
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1))


def print_part(part: str, figures: dict[str, list[dict[str, Any]]]) -> None:
    """One row an arm: the mean over seeds, and FVU of each seed."""
    first = next(iter(figures))
    names = list(dict.fromkeys(n for runs in figures.values() for run in runs for n in run))
    print(f"\n{part}: means over seeds; FVU of each seed, and of {first} = 1")
    for arm, runs in figures.items():
        means = {n: statistics.mean(r[n] for r in runs) for n in names if n in runs[0]}
        ratio = means["fvu"] / statistics.mean(run["fvu"] for run in figures[first])
        seeds = " ".join(f"{run['fvu']:.4f}" for run in runs)
        print(f"  {arm:32} FVU {means['fvu']:.4f} ({seeds})  {ratio:.3f}", flush=True)
        rest = "; ".join(f"{n} {v:.3g}" for n, v in means.items() if n != "fvu")
        print(f"  {'':32} {rest}", flush=True)


if __name__ == "__main__":
    main()
