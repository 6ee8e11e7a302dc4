"""What the default decoder rests on: the linear one and candidates, seeds paired, at equal tokens.

    python benchmarks/default_decoder.py

The default run of ``train`` on the embedded model, with other decoders. Arms of one seed start from
the same dictionary and read the same batches. Explained variance, L0 and dead latents are those of
the exported dictionary on the held-out text that ``compare`` tunes on, which no table is reported
on; "ahead" is the difference to the linear decoder of the same seed. Seconds are those of one core
in training, with activations computed before.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import tempfile
import warnings
from statistics import mean, stdev
from typing import Any

import torch
from recipe import bench_of, run

from sae_lens_poly.comparison.compare import Bench
from sae_lens_poly.training.flags import RUN_DEFAULTS

LINEAR = {"poly_crosscoder": "crosscoder", "poly_topk": "topk"}
DECODERS: dict[str, dict[str, Any]] = {
    "degrees 2 and 3, rank 64": {"degree": 3, "rank_2": 64, "rank_3": 64, "terms_lr_scale": 1.0},
    "degree 2, rank 256, rate 16": {"degree": 2, "rank_2": 256, "terms_lr_scale": 16.0},
}


def run_all(bench: Bench, seeds: list[int]) -> None:
    """Every decoder of an architecture with every seed, a line each, and their means."""
    with contextlib.redirect_stderr(io.StringIO()):
        bench.record()
    explained: dict[str, list[float]] = {}
    for seed in seeds:
        for arm in bench.comparison.arms:
            value, l0, n_dead, seconds = run(bench, arm, RUN_DEFAULTS["lr"], seed)
            explained.setdefault(arm.name, []).append(value)
            print(
                f"{bench.comparison.name:17}{arm.name:29}{seed:6}{value:11.4f}"
                f"{value - explained['linear'][-1]:+9.4f}{l0:7.1f}{n_dead:6}{seconds:9.0f}",
                flush=True,
            )
    for name, values in explained.items():
        ahead = [value - other for value, other in zip(values, explained["linear"], strict=True)]
        error = stdev(ahead) / len(ahead) ** 0.5 if len(ahead) > 1 else float("nan")
        print(
            f"{bench.comparison.name:17}{name:29}{'mean':>6}{mean(values):11.4f}{mean(ahead):+9.4f}"
            f" +- {error:.4f}"
        )
    print(flush=True)


def main() -> None:
    """Run every decoder and print its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=RUN_DEFAULTS["training_tokens"])
    parser.add_argument("--architectures", nargs="+", choices=LINEAR, default=[*LINEAR])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1000, 1001, 1002])
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("sae_lens").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    print(f"{options.tokens:,} tokens, torch {torch.__version__}\n")
    print(
        f"{'':17}{'':29}{'seed':>6}{'explained':>11}{'ahead':>9}{'L0':>7}{'dead':>6}{'seconds':>9}"
    )
    for architecture in options.architectures:
        arms = {"linear": {"architecture": LINEAR[architecture]}, **DECODERS}
        with tempfile.TemporaryDirectory() as folder:
            bench = bench_of(architecture, arms, [RUN_DEFAULTS["lr"]], options.tokens, folder)
            run_all(bench, options.seeds)


if __name__ == "__main__":
    main()
