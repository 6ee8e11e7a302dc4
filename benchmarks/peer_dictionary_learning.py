"""Steps of dictionary_learning's trainer, in an environment that has it; peers.py starts this.

It has no crosscoder. The same function of the same sizes is its BatchTopK SAE of hook points end
to end, scored without decoder norms, which it keeps at 1. A step is ``BatchTopKTrainer.update``:
forward, backward, the gradient's part along the decoder removed, clipping, its Adam, its schedule,
the decoder brought back to norm 1.
"""

from __future__ import annotations

import argparse
import json
import time

import torch
from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer


def main() -> None:
    """Print the seconds of each step as JSON."""
    parser = argparse.ArgumentParser()
    for name in ("n_hooks", "d_model", "d_sae", "k", "batch", "steps", "warm_up"):
        parser.add_argument(f"--{name}", type=int)
    options = parser.parse_args()
    d_in = options.n_hooks * options.d_model
    trainer = BatchTopKTrainer(
        steps=10**6,
        activation_dim=d_in,
        dict_size=options.d_sae,
        k=options.k,
        layer=0,
        lm_name="",
        lr=3e-4,
        seed=0,
        device="cpu",
    )
    batches = [torch.randn(options.batch, d_in) for _ in range(2)]
    seconds = []
    for step in range(options.warm_up + options.steps):
        start = time.perf_counter()
        trainer.update(step, batches[step % 2])
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"seconds": seconds[options.warm_up :]}))


if __name__ == "__main__":
    main()
