"""Planted features over six hook points: what factorisation, masking and polynomials find and cost.

    python benchmarks/planted_crosscoder.py

Of 480 features in 64 dimensions at each of 6 hook points, 16 active in a sample,

- 128 are persistent: one direction at all hook points;
- 128 rotate: their direction turns by 90 degrees from the first hook point to the last;
- 192 are local: they live at one hook point, 32 at each;
- 32 make 16 pairs, persistent too, the second of which also fires in a fifth of the samples in
  which the first does; where both are active, their product times a direction of the pair's own is
  added, of norm 0.7, at all hook points.

All kinds have the same norm over the stack: local features are sqrt(6) times as strong where they
live. Activations grow by 1.2 from one hook point to the next. Dense, CP and tensor ring, each with
and without masking, linear and with interactions, see the same samples, at equal steps, width, k.
Factored weights have 2 d numbers a latent, twice what fmxcoder's settings give. For each:
explained variance of the exported dictionary on new samples (and what a principal component
analysis with that rank reaches, which bounds it); how well features were recovered (mean cosine
over the stack of each feature and the latent that it was matched to, one to one, by the Hungarian
algorithm, as SAELens' MCC), by kind; dead latents; and functional coherence of the latents matched
to persistent and to local features, after the selection and before it. Everything runs through
SAELens' synthetic tools and trainer; --help lists the options.
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
from factored_fields import factored
from planted_pairs import PairedFeatures, run_two_at_a_time
from sae_lens import TrainingSAE, TrainingSAEConfig
from sae_lens.synthetic import ActivationGenerator, train_toy_sae
from scipy.optimize import linear_sum_assignment
from torch.nn.functional import normalize

from sae_lens_poly.analysis.interactions import strongest_pairs
from sae_lens_poly.architectures.crosscoders.training_crosscoder import TrainingCrosscoder
from sae_lens_poly.evaluation.coherence import FunctionalCoherence
from sae_lens_poly.evaluation.metrics import ExplainedVariance, LatentActivity

L, D, D_SAE, K = 6, 64, 512, 16
KINDS = {"persistent": 128, "rotating": 128, "local": 192, "paired": 32}
N_FEATURES = sum(KINDS.values())
PAIR_RATE, STRENGTH, GROWTH = 0.1, 0.7, 1.2

FORMS: dict[str, dict[str, Any]] = {
    "dense": {},
    "CP": factored("cp", [2 * D]),
    "tensor ring": factored("tensor_ring", [4, D // 2, 4]),
}
ARMS = [
    ", ".join(filter(None, arm))
    for arm in itertools.product(FORMS, ("", "masked"), ("", "interactions"))
]


class PlantedFeatures(PairedFeatures):
    """Features over a stack of hook points, some of them in pairs that interact."""

    def __init__(self, seed: int) -> None:
        super().__init__(N_FEATURES, L * D, initializer=None, seed=seed)
        generator = torch.Generator().manual_seed(seed + 1000)

        def directions(n: int) -> torch.Tensor:
            return normalize(torch.randn(n, D, generator=generator), dim=-1)

        everywhere = torch.ones(1, L, 1)
        angle = torch.linspace(0, torch.pi / 2, L)[None, :, None]
        start, end = directions(KINDS["rotating"]), directions(KINDS["rotating"])
        end = normalize(end - (end * start).sum(-1, keepdim=True) * start, dim=-1)
        at = torch.eye(L).repeat_interleave(KINDS["local"] // L, dim=0)[..., None]
        by_kind = {
            "persistent": directions(KINDS["persistent"])[:, None] * everywhere,
            "rotating": angle.cos() * start[:, None] + angle.sin() * end[:, None],
            "local": L**0.5 * directions(KINDS["local"])[:, None] * at,
            "paired": directions(KINDS["paired"])[:, None] * everywhere,
        }
        self.growth = (GROWTH ** torch.arange(L))[:, None]
        stacked = torch.cat([by_kind[kind] for kind in KINDS])
        self.feature_vectors.data = (stacked * self.growth).flatten(1)
        self.of_kind = dict(
            zip(KINDS, torch.arange(N_FEATURES).split(list(KINDS.values())), strict=True)
        )
        self.pairs = self.of_kind["paired"].view(-1, 2)
        pair_directions = directions(len(self.pairs))[:, None] * everywhere * self.growth
        self.pair_directions = STRENGTH * pair_directions.flatten(1)

    def generator(self) -> ActivationGenerator:
        """K features active in a sample, those of pairs more often than others."""
        n_paired = KINDS["paired"]
        rates = torch.full((N_FEATURES,), (K - n_paired * PAIR_RATE) / (N_FEATURES - n_paired))
        rates[self.of_kind["paired"]] = PAIR_RATE
        return ActivationGenerator(
            N_FEATURES, rates, std_firing_magnitudes=0.3, modify_activations=self.fire_together
        )


def config_fields(arm: str, options: argparse.Namespace) -> dict[str, Any]:
    """The fields of an arm's training config."""
    form, *extras = arm.split(", ")
    fields: dict[str, Any] = {
        "architecture": "poly_crosscoder" if "interactions" in extras else "crosscoder",
        "d_in": L * D,
        "n_hooks": L,
        "d_sae": D_SAE,
        "k": K,
        "mask_p": options.mask_p if "masked" in extras else 0.0,
        "score_by_decoder_norm": False,  # as fmxcoder has it, for all arms alike
    }
    if "interactions" in extras:
        fields |= {"rank_2": 32, "rank_3": 32}
    return fields | FORMS[form]


def run_arm(arm: str, seed: int, options: argparse.Namespace) -> dict[str, float]:
    """Train one arm and measure it."""
    torch.manual_seed(seed)
    features = PlantedFeatures(seed)
    generator = features.generator()
    cfg = TrainingSAEConfig.from_dict(config_fields(arm, options))
    sae = TrainingSAE.from_dict(cfg.to_dict())
    assert isinstance(sae, TrainingCrosscoder)
    torch.manual_seed(20_000 + seed)  # the same samples for all arms, whatever these have drawn
    started = time.perf_counter()
    train_toy_sae(
        sae,
        features,
        generator,
        training_samples=options.steps * options.batch,
        batch_size=options.batch,
        lr=options.lr,
        lr_decay_steps=options.steps // 5,
    )
    seconds = time.perf_counter() - started
    torch.manual_seed(10_000 + seed)
    return {"seconds": seconds, **measure(sae, features, generator)}


@torch.no_grad()
def measure(
    trained: TrainingCrosscoder,
    features: PlantedFeatures,
    generator: ActivationGenerator,
    n_batches: int = 10,
) -> dict[str, float]:
    """Figures of the exported dictionary on new samples."""
    sae = trained.to_inference()
    variance, activity = ExplainedVariance(trained.hook_scales.scale), LatentActivity(D_SAE)
    coherence = FunctionalCoherence(sae)
    squares = torch.zeros(D_SAE)
    for _ in range(n_batches):
        x = features(generator.sample(2048))
        z = sae.encode(x)
        variance.update(sae.per_hook(x), sae.per_hook(sae.decode(z)))
        activity.update(z)
        coherence.update(x)
        squares += z.square().mean(dim=0) / n_batches
    per_hook, pooled = variance.compute()
    l0, n_dead = activity.compute()

    # Directions in the space in which all hook points count alike.
    alike = (1 / features.growth).flatten().repeat_interleave(D)
    truth = normalize(features.feature_vectors * alike, dim=-1)
    cosines = normalize(sae.W_dec * alike, dim=-1) @ truth.T
    latents, matched = linear_sum_assignment(-cosines.abs().numpy())
    latent_of = torch.empty(N_FEATURES, dtype=torch.long)
    latent_of[matched] = torch.from_numpy(latents)
    figures = {"explained variance": pooled, "first": per_hook[0], "last": per_hook[-1]}
    for kind, members in features.of_kind.items():
        recovered = cosines[latent_of[members], members].abs().mean().item()
        figures[f"MCC {kind}"] = recovered
    figures |= {"L0": l0, "dead": float(n_dead)}
    measured = coherence.compute()
    for kind in ("persistent", "local"):
        mine = latent_of[features.of_kind[kind]]
        figures[f"coherence {kind}"] = measured.selected[mine].nanmean().item()
        figures[f"coherence {kind}, before"] = measured.pre_activation[mine].nanmean().item()
    figures["coherence all"], figures["coherence all, before"] = measured.mean()
    if sae.polynomial is not None:
        wanted = {frozenset(pair) for pair in latent_of[features.pairs].tolist()}
        top = strongest_pairs(sae, len(features.pairs), squares.sqrt())
        found = {frozenset(pair) for pair in top.pairs.tolist()}
        figures["pairs found"] = len(wanted & found) / len(wanted)
    return figures


@torch.no_grad()
def principal_component_bounds(ranks: list[int], seed: int) -> dict[int, float]:
    """Explained variance of principal components, with hook points brought to one scale."""
    features = PlantedFeatures(seed)
    x = features(features.generator().sample(20_000)) / features.growth.flatten().repeat_interleave(
        D
    )
    values = torch.linalg.svdvals((x - x.mean(dim=0)).double()).square()
    return {rank: (values[:rank].sum() / values.sum()).item() for rank in ranks}


def main() -> None:
    """Run the arms, two at a time, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--mask_p", type=float, default=0.1)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="*", default=ARMS)
    parser.add_argument("--json", help="write all figures there")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        torch.set_num_threads(1)
        arm, seed = options.one
        print(json.dumps(run_arm(arm, int(seed), options)))
        return

    print(f"torch {torch.__version__}; {vars(options)}", flush=True)
    bounds = principal_component_bounds([D, 2 * D, 3 * D], options.seeds[0])
    reached = ", ".join(f"{value:.3f} with {rank}" for rank, value in bounds.items())
    print(f"explained variance of principal components of the stack: {reached}", flush=True)

    jobs = list(itertools.product(options.arms, options.seeds))
    figures = dict(zip(jobs, run_two_at_a_time(jobs), strict=True))
    results = {arm: [figures[arm, seed] for seed in options.seeds] for arm in options.arms}
    print_table(results)
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1))


def print_table(results: dict[str, list[dict[str, float]]]) -> None:
    """Markdown: one row a figure, one column an arm; mean and standard deviation over seeds."""
    names = list(dict.fromkeys(name for runs in results.values() for name in runs[0]))
    print("\n| | " + " | ".join(results) + " |\n|---|" + "---|" * len(results))
    for name in names:
        cells = []
        for runs in results.values():
            values = [run[name] for run in runs if name in run]
            cell = f"{statistics.mean(values):.3f}" if values else ""
            if len(values) > 1:
                cell += f" ± {statistics.stdev(values):.3f}"
            cells.append(cell)
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
