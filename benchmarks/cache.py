"""Activations on disk: two jobs fill them, one is killed; training on them and on the fly.

    python benchmarks/cache.py

On the embedded model. First ``cache`` stores activations in bfloat16: by one job, then by two at
once, of which one is killed when the first shard is there, and restarted; what they made is
compared with the first, bit by bit. Then 8 bits. Tokens a second are of whole commands, from
their start to their end. Then crosscoders train at equal tokens: "on the fly" reads the text, the
others what was stored, which is shuffled over the whole text. Explained variance is that of
``evaluate`` (all hook points, each in its scale), on modules that training leaves out; differences
are from "on the fly", seed by seed, ± their standard error.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from sae_lens_poly.activations.reader import CachedRows
from sae_lens_poly.dictionary_folder import load_dictionary
from sae_lens_poly.evaluation.metrics import ExplainedVariance
from sae_lens_poly.evaluation.saved import load_evaluation_data
from sae_lens_poly.evaluation.settings import EvaluationSettings
from sae_lens_poly.models.loading import load_stacked_model
from sae_lens_poly.models.stacked_hooks import StackedHooks
from sae_lens_poly.training.flags import config_of, fit_to_model, read_run
from sae_lens_poly.training.runner import TrainingRunner

ON_THE_FLY, STORED = "on the fly", ("bfloat16", "int8")


def flags(tokens: int, **more: Any) -> list[str]:
    """The flags of a run: a crosscoder of 1,024 latents."""
    given = {"architecture": "crosscoder", "d_sae": 1024, "k": 16, "training_tokens": tokens}
    return [str(word) for name, value in {**given, **more}.items() for word in (f"--{name}", value)]


def start(folder: Path, tokens: int, storage: str = "bfloat16") -> subprocess.Popen[bytes]:
    """Start a job that fills a folder."""
    job = [sys.executable, "-m", "sae_lens_poly", "cache", str(folder), "--storage", storage]
    job += ["--tokens_per_shard", "8192", *flags(tokens)]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(job, stdout=quiet, stderr=quiet, env=os.environ)


def wait(job: subprocess.Popen[bytes]) -> None:
    """Wait for a job that has to end well."""
    if job.wait():
        raise SystemExit(f"{job.args} ended with {job.returncode}")


def report(name: str, seconds: float, folder: Path) -> None:
    """Print tokens a second, and what a token takes on disk."""
    n, shards = len(CachedRows(folder)), list(folder.glob("shard-*"))
    size = sum(shard.stat().st_size for shard in shards) / n
    print(
        f"  {name:32} {n:8,} tokens in {len(shards)} shards {n / seconds:8,.0f} tokens/s "
        f"{size:6,.0f} bytes a token",
        flush=True,
    )


def fill_alone(folder: Path, tokens: int, storage: str) -> None:
    """Store the activations by one job."""
    begun = time.perf_counter()
    wait(start(folder, tokens, storage))
    report(f"{storage}, one job", time.perf_counter() - begun, folder)


def fill_by_two(folder: Path, tokens: int) -> None:
    """Store them by two jobs, one of which is killed and restarted."""
    begun = time.perf_counter()
    killed, other = start(folder, tokens), start(folder, tokens)
    while not any(folder.glob("shard-*")):
        time.sleep(0.1)
        if killed.poll() is not None:
            raise SystemExit(f"{killed.args} ended with {killed.returncode}")
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    n_whole = len(list(folder.glob("shard-*")))
    wait(restarted := start(folder, tokens))
    wait(other)
    report("bfloat16, two jobs, one killed", time.perf_counter() - begun, folder)
    print(
        f"    one was killed (status {killed.returncode}) when {n_whole} shard was there, and "
        f"started again (status {restarted.returncode})"
    )


def are_equal(folder: Path, other: Path) -> bool:
    """Whether two caches hold the same tokens, bit by bit, in the same shards."""
    names = sorted(path.name for path in folder.glob("shard-*"))
    if names != sorted(path.name for path in other.glob("shard-*")):
        return False
    return all(
        torch.equal(load_file(folder / name)["x"], load_file(other / name)["x"]) for name in names
    )


def train(model: StackedHooks, tokens: int, seed: int, folder: Path, arm: str, root: Path) -> float:
    """Train a dictionary into a folder; how many tokens a second."""
    more: dict[str, Any] = {"seed": seed, "output_path": folder}
    if arm in STORED:
        more |= {"use_cached_activations": True, "cached_activations_path": root / arm}
    cfg = fit_to_model(config_of(read_run(flags(tokens, **more))), model.d_in, model.state_shape)
    torch.manual_seed(seed)
    runner = TrainingRunner(cfg, override_model=model)
    begun = time.perf_counter()
    runner.run()
    return tokens / (time.perf_counter() - begun)


class HeldOut:
    """Activations that no dictionary was trained on.

    Args:
        folder: Of a dictionary; the text is the same for all.
        model: Its model.
    """

    @torch.no_grad()
    def __init__(self, folder: Path, model: StackedHooks) -> None:
        self.shape = (-1, model.n_hooks, model.d_model)
        data = load_evaluation_data(load_dictionary(folder), model, EvaluationSettings())
        self.hook_scales = data.hook_scales
        self.x = torch.cat([model.gather(tokens)[data.keep(tokens)] for tokens in data.batches])

    @torch.no_grad()
    def explained(self, folder: Path) -> float:
        """Explained variance of a dictionary, pooled over hook points."""
        sae, variance = load_dictionary(folder), ExplainedVariance(self.hook_scales)
        for x in self.x.split(4096):
            variance.update(x.view(self.shape), sae(x).view(self.shape))
        return variance.compute()[1]


def compare_training(model: StackedHooks, tokens: int, n_seeds: int, root: Path) -> None:
    """Print what each arm reaches, and how fast."""
    explained: dict[str, list[float]] = {arm: [] for arm in (ON_THE_FLY, *STORED)}
    held_out = None
    print(f"training, {tokens:,} tokens:")
    for seed in range(n_seeds):
        for arm in explained:
            folder = root / f"{arm} {seed}"
            speed = train(model, tokens, seed, folder, arm, root)
            held_out = held_out or HeldOut(folder, model)
            explained[arm].append(held_out.explained(folder))
            print(
                f"  {arm:12} seed {seed} {speed:8,.0f} tokens/s   explained variance "
                f"{explained[arm][-1]:.4f}",
                flush=True,
            )
    for arm, values in explained.items():
        gains = [value - other for value, other in zip(values, explained[ON_THE_FLY], strict=True)]
        print(
            f"  {arm:12} mean {statistics.mean(values):.4f}, standard deviation "
            f"{statistics.stdev(values):.4f}, difference {statistics.mean(gains):+.4f} ± "
            f"{statistics.stdev(gains) / len(gains) ** 0.5:.4f}"
        )


def main() -> None:
    """Store, compare, train."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=int, default=120_000)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    cfg = config_of(read_run(flags(options.tokens)))
    model = load_stacked_model(cfg.model_name, cfg.hook_name)
    print(
        f"{model.n_hooks} hook points of width {model.d_model}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}; storing:"
    )
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        fill_alone(root / "bfloat16", options.tokens, "bfloat16")
        fill_by_two(root / "by two", options.tokens)
        equal = are_equal(root / "by two", root / "bfloat16")
        print(f"    the same as by one job, bit by bit: {equal}")
        fill_alone(root / "int8", options.tokens, "int8")
        n = len(CachedRows(root / "bfloat16")) // 1024 * 1024  # special tokens are not stored
        compare_training(model, n, options.seeds, root)


if __name__ == "__main__":
    main()
