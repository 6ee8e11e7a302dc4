"""Steps of llamascopium's trainer, in an environment that has it; peers.py starts this.

A step is one round of ``Trainer.fit``: forward, backward, clipping, its Adam, its schedule. What it
logs is left out (``skip_metrics_calculation``), and activations are not normalised.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time

import torch
from llamascopium.models.crosscoder import Crosscoder, CrosscoderConfig
from llamascopium.trainer import Trainer, TrainerConfig


class Stream:
    """Batches of random activations, which notes how long the trainer is away with each."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.seconds, self.is_begun = options, [], False

    def __iter__(self):
        n, options = self.options.batch, self.options
        batches = [
            {str(hook): torch.randn(n, options.d_model) for hook in range(options.n_hooks)}
            | {"tokens": torch.zeros(n, dtype=torch.long)}
            for _ in range(2)
        ]
        if not self.is_begun:  # the trainer looks at one batch before it starts, and at its mask
            self.is_begun = True
            yield {**batches[0], "mask": torch.ones(n)}
        for step in range(options.warm_up + options.steps):
            start = time.perf_counter()
            yield dict(batches[step % 2])
            self.seconds.append(time.perf_counter() - start)


def main() -> None:
    """Print the seconds of each step as JSON."""
    parser = argparse.ArgumentParser()
    for name in ("n_hooks", "d_model", "d_sae", "k", "batch", "steps", "warm_up"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    torch.manual_seed(0)
    cfg = CrosscoderConfig(
        hook_points=[str(hook) for hook in range(options.n_hooks)],
        d_model=options.d_model,
        expansion_factor=options.d_sae / options.d_model,
        act_fn="batchtopk",
        top_k=options.k,
        norm_activation="inference",
    )
    assert cfg.d_sae == options.d_sae, cfg.d_sae
    sae = Crosscoder(cfg)
    bound = options.d_model**-0.5
    sae.init_parameters(encoder_uniform_bound=bound, decoder_uniform_bound=bound)
    stream = Stream(options)
    with tempfile.TemporaryDirectory() as folder:
        trainer_cfg = TrainerConfig(
            l1_coefficient=None,
            amp_dtype=getattr(torch, options.dtype),
            k_warmup_steps=0,
            lr=3e-4,
            lr_scheduler_name="constant",
            clip_grad_norm=1.0,
            skip_metrics_calculation=True,
            n_checkpoints=0,
            total_training_tokens=10**9,
            exp_result_path=folder,
        )
        Trainer(trainer_cfg).fit(sae, stream)
    print(json.dumps({"seconds": stream.seconds[options.warm_up :]}))


if __name__ == "__main__":
    main()
