"""What the defaults of ``train`` rest on: batch size and learning rate, at equal tokens.

    python benchmarks/recipe.py

The default run of each architecture on the embedded model, with the schedule that ``train`` sets,
at other batch sizes and learning rates. Explained variance, L0 and dead latents are those of the
exported dictionary on the held-out text that ``compare`` tunes on, which no table is reported on.
Seconds are those of one core in training, with activations computed before. Each line is one run.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import tempfile
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sae_lens_poly.comparison.arms import Arm, Comparison
from sae_lens_poly.comparison.compare import Bench
from sae_lens_poly.comparison.train_arms import train_arm
from sae_lens_poly.dictionary_folder import load_dictionary
from sae_lens_poly.evaluation.metrics import ExplainedVariance, LatentActivity
from sae_lens_poly.evaluation.saved import load_evaluation_data
from sae_lens_poly.training.flags import RUN_DEFAULTS, SINGLE_HOOK_NAME

ARCHITECTURES = ("crosscoder", "poly_crosscoder", "poly_topk")
BATCHES = (512, 1024)
RATES = (1e-3, 2e-3, 4e-3)


def bench_of(
    architecture: str,
    settings: Mapping[str, dict[str, Any]],
    rates: list[float],
    tokens: int,
    folder: str,
) -> Bench:
    """The default run of ``train`` for an architecture, with other settings for each arm."""
    several = architecture.endswith("crosscoder")
    hook_name = RUN_DEFAULTS["hook_name"] if several else SINGLE_HOOK_NAME
    own = {"architecture": architecture, "hook_name": hook_name, "training_tokens": tokens}
    flags: dict[str, Any] = {**RUN_DEFAULTS, **own}
    for name in ("output_path", "lr"):
        del flags[name]
    arms = tuple(
        Arm(name, {**flags, **changes}, tuple(rates)) for name, changes in settings.items()
    )
    comparison = Comparison(architecture, arms, tokens, hook_name)
    return Bench(comparison, Path(folder))


@torch.no_grad()
def figures(bench: Bench, folder: Path) -> tuple[float, float, int]:
    """Explained variance, L0 and dead latents on the text to tune on."""
    sae = load_dictionary(folder)
    data = load_evaluation_data(sae, bench.stack, bench.settings, bench.settings.n_batches)
    variance, activity = ExplainedVariance(data.hook_scales), LatentActivity(sae.cfg.d_sae)
    stacked = (-1, bench.stack.n_hooks, bench.stack.d_model)
    for tokens in data.batches:
        x = bench.stack.gather(tokens)[data.keep(tokens)].to(sae.dtype)
        z = sae.encode(x)
        variance.update(x.view(stacked), sae.decode(z).view(stacked))
        activity.update(z)
    return variance.compute()[1], *activity.compute()


def run(bench: Bench, arm: Arm, lr: float, seed: int) -> tuple[float, float, int, float]:
    """Train an arm; its :func:`figures`, and the seconds of one core that it took."""
    folder = bench.tuning_folder(arm, lr, seed)
    started = time.process_time()
    with contextlib.redirect_stderr(io.StringIO()):
        train_arm(arm, lr, seed, folder, bench.stack)
    seconds = time.process_time() - started
    return *figures(bench, folder), seconds


def run_all(bench: Bench, seed: int) -> None:
    """Every recipe of an architecture, a line each."""
    with contextlib.redirect_stderr(io.StringIO()):
        bench.record()
    for arm in bench.comparison.arms:
        for lr in arm.learning_rates:
            explained, l0, n_dead, seconds = run(bench, arm, lr, seed)
            size = arm.flags["train_batch_size_tokens"]
            print(
                f"{bench.comparison.name:18}{size:6}{lr:8g}{explained:11.4f}{l0:7.1f}{n_dead:6}"
                f"{seconds:9.0f}",
                flush=True,
            )


def main() -> None:
    """Run every recipe and print its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=RUN_DEFAULTS["training_tokens"])
    parser.add_argument("--architectures", nargs="+", default=ARCHITECTURES)
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    parser.add_argument("--seed", type=int, default=1000)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("sae_lens").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    print(f"{options.tokens:,} tokens, seed {options.seed}, torch {torch.__version__}\n")
    print(f"{'':18}{'batch':>6}{'rate':>8}{'explained':>11}{'L0':>7}{'dead':>6}{'seconds':>9}")
    batches = {f"batch {size}": {"train_batch_size_tokens": size} for size in options.batches}
    for architecture in options.architectures:
        with tempfile.TemporaryDirectory() as folder:
            bench = bench_of(architecture, batches, options.rates, options.tokens, folder)
            run_all(bench, options.seed)


if __name__ == "__main__":
    main()
