"""Times whole training steps of TopK dictionaries: stock SAELens against poly_topk.

    python benchmarks/polysae_step.py

A step is what SAELens' trainer does with a batch: forward, backward, its statistics, clipping,
Adam; and, for poly_topk, the retraction. The arms run in turn, A B C A B C, each in a process of
its own, so that peak memory is that of one arm. Then the parameters of the published settings.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

import torch
from sae_lens import TrainingSAE, TrainingSAEConfig
from step_timing import print_steps, run_in_own_process

import sae_lens_poly

ARMS = {
    "A": ("stock topk, dense", {"architecture": "topk", "use_sparse_activations": False}),
    "B": ("stock topk, sparse", {"architecture": "topk", "use_sparse_activations": True}),
    "C": ("poly_topk, default", {"architecture": "poly_topk"}),
    "D": (
        "poly_topk, reconstruction",
        {"architecture": "poly_topk", "projection": "reconstruction"},
    ),
    "E": ("poly_topk, no self-terms", {"architecture": "poly_topk", "self_terms": False}),
    "F": (
        "poly_topk, published form (U retracted whole)",
        {"architecture": "polysae_topk", **sae_lens_poly.OFFICIAL_OPTIONS},
    ),
}

#: Model: d_in and the ranks of the published runs, all with 16,384 latents.
PUBLISHED = {
    "GPT-2": (768, 64, 64),
    "Pythia-410M": (1024, 128, 128),
    "Pythia-1.4B": (2048, 128, 128),
    "Gemma-2-2B": (2304, 128, 128),
}


def make(arm: str, options: argparse.Namespace) -> TrainingSAE[Any]:
    """The dictionary of an arm."""
    fields = {
        "d_in": options.d_in,
        "d_sae": options.d_sae,
        "k": options.k,
        "rescale_acts_by_decoder_norm": options.rescale,
        **ARMS[arm][1],
    }
    if fields["architecture"] != "topk":
        fields |= {"rank_2": options.rank_2, "rank_3": options.rank_3}
    torch.manual_seed(0)
    return TrainingSAE.from_dict(TrainingSAEConfig.from_dict(fields).to_dict())


def print_parameters() -> None:
    """Parameters beside those of a plain SAE, at the published settings."""
    print(
        "\nparameters above a plain SAE's, 16,384 latents; poly_topk's default has ranks (32, 32):"
    )
    for model, (d_in, rank_2, rank_3) in PUBLISHED.items():
        ranks = {"rank_2": rank_2, "rank_3": rank_3}
        forms: dict[str, dict[str, Any]] = {
            "default": {},
            f"codes ({rank_2}, {rank_3})": ranks,
            f"reconstruction ({rank_2}, {rank_3})": {"projection": "reconstruction", **ranks},
            f"published form ({d_in}, {rank_2}, {rank_3})": {
                "architecture": "polysae_topk",
                **sae_lens_poly.OFFICIAL_OPTIONS,
                **ranks,
            },
        }
        plain = count_parameters("topk", d_in)
        overheads = (
            f"{form} +{count_parameters('poly_topk', d_in, **fields) / plain - 1:.2%}"
            for form, fields in forms.items()
        )
        print(f"  {model:12} {'; '.join(overheads)}")


def count_parameters(architecture: str, d_in: int, **fields: Any) -> int:
    """Parameters of a dictionary of 16,384 latents."""
    cfg = TrainingSAEConfig.from_dict(
        {
            "architecture": architecture,
            "d_in": d_in,
            "d_sae": 16384,
            "k": 64,
            "device": "meta",
            "decoder_init_norm": None,
            **fields,
        }
    )
    sae = TrainingSAE.get_sae_class_for_architecture(cfg.architecture())(cfg)
    return sum(p.numel() for p in sae.parameters())


def main() -> None:
    """Run the arms in turn and print ratios."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--d_in", type=int, default=768)
    parser.add_argument("--d_sae", type=int, default=16384)
    parser.add_argument("--k", type=int, default=64)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--rank_2", type=int, default=64)
    parser.add_argument("--rank_3", type=int, default=64)
    parser.add_argument("--rescale", action="store_true", help="rescale_acts_by_decoder_norm")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--warm_up", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--arms", default="ABC", help=f"of {'; '.join(ARMS)}")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        sae = make(options.only, options)
        print_steps(sae, options.batch, options.d_in, options.warm_up, options.steps)
        return

    print(
        f"d_in {options.d_in}, d_sae {options.d_sae}, k {options.k}, batch {options.batch}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    seconds: dict[str, list[float]] = {arm: [] for arm in options.arms}
    peaks: dict[str, list[float]] = {arm: [] for arm in options.arms}
    for _ in range(options.rounds):
        for arm in options.arms:
            result = run_in_own_process(arm)
            seconds[arm] += result["seconds"]
            peaks[arm].append(result["peak_gib"])
            median = statistics.median(result["seconds"])
            print(f"  {arm} {ARMS[arm][0]:46} {median:6.3f} s  {result['peak_gib']:5.2f} GiB")
    medians = {arm: statistics.median(values) for arm, values in seconds.items()}
    print("\nmedian step and peak memory of the process, ratios to stock:")
    for arm, median in medians.items():
        ratios = "".join(
            f"  {median / medians[stock]:.2f} of {stock}"
            for stock in "AB"
            if stock in medians and stock != arm
        )
        print(f"  {arm} {ARMS[arm][0]:46} {median:6.3f} s  {max(peaks[arm]):5.2f} GiB{ratios}")
    print_parameters()


if __name__ == "__main__":
    main()
