"""What the defaults of crosscoders rest on: one setting changed at a time, on the embedded model.

    python benchmarks/crosscoder_settings.py

Six residual hook points of the embedded model, held in memory; SAELens' trainer; figures of the
exported dictionary on held-out modules. Each line is one run.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import time
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from factored_fields import factored
from sae_lens import TrainingSAE, TrainingSAEConfig
from sae_lens.config import SAETrainerConfig
from sae_lens.training.activations_store import ActivationsStore
from sae_lens.training.sae_trainer import SAETrainer
from sae_lens.util import get_special_token_ids

from sae_lens_poly import load_stacked_model
from sae_lens_poly.architectures.crosscoders.training_crosscoder import TrainingCrosscoder
from sae_lens_poly.evaluation.metrics import ExplainedVariance, LatentActivity
from sae_lens_poly.training.data import load_text
from sae_lens_poly.training.flags import build_config, fit_to_model

CP, RING = factored("cp", [128]), factored("tensor_ring", [4, 32, 4])
SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "another start at each hook point": {"same_hook_init": False},
    "independent encoder": {"encoder_init": "independent"},
    "decoder norm 1 at each hook point": {"init_norm_over": "hook"},
    "decoder norm 0.5": {"decoder_init_norm": 0.5},
    "decoder norm 1": {"decoder_init_norm": 1.0},
    "decoder norm 0.25": {"decoder_init_norm": 0.25},
    "decoder norm 0.1": {"decoder_init_norm": 0.1},
    "b_dec geometric median": {"b_dec_init": "geometric_median"},
    "b_dec zeros": {"b_dec_init": "zeros"},
    "scores without norms": {"score_by_decoder_norm": False},
    "no AuxK": {"aux_loss_coefficient": 0.0},
    "AuxK 1/32": {"aux_loss_coefficient": 1 / 32},
    "k_aux half the stack": {"k_aux": 384},
    "k annealed from 128 over 100 steps": {"k_start": 128, "k_anneal_steps": 100},
    "one scale for all hook points": {"normalize_hooks": False},
    "CP": CP,
    "CP, independent encoder": {**CP, "encoder_init": "independent"},
    "CP, another start at each hook point": {**CP, "same_hook_init": False},
    "CP, decoder norm 1": {**CP, "decoder_init_norm": 1.0},
    "CP of rank 384": factored("cp", [384]),
    "tensor ring": RING,
    "tensor ring, another start": {**RING, "same_hook_init": False},
    "tensor ring of ranks 4, 96, 4": factored("tensor_ring", [4, 96, 4]),
    "tensor ring, decoder norm 1": {**RING, "decoder_init_norm": 1.0},
}


class EmbeddedActivations:
    """Activations of the embedded model, training and held-out modules, in memory."""

    def __init__(self, n_train: int, n_held_out: int) -> None:
        self.model = load_stacked_model("stdlib-6l", "blocks.{0..5}.hook_resid_post")
        self.train = self._gather("train", n_train)
        self.held_out = self._gather("held_out", n_held_out)

    @torch.no_grad()
    def _gather(self, split: Any, n: int) -> torch.Tensor:
        cfg = fit_to_model(build_config([]), self.model.d_in, self.model.state_shape)
        store = ActivationsStore.from_config(self.model, cfg, load_text("stdlib", split))
        special = torch.tensor(list(get_special_token_ids(self.model.tokenizer)))
        parts: list[torch.Tensor] = []
        while sum(map(len, parts)) < n:
            tokens = store.get_batch_tokens()
            parts.append(self.model.gather(tokens)[~torch.isin(tokens, special)].half())
        return torch.cat(parts)[:n]

    def batches(self, size: int, seed: int) -> Iterator[torch.Tensor]:
        """Shuffled batches of training activations, without end."""
        generator = torch.Generator().manual_seed(seed)
        while True:
            for rows in torch.randperm(len(self.train), generator=generator).split(size):
                if len(rows) == size:
                    yield self.train[rows].float()


def train(
    data: EmbeddedActivations, fields: dict[str, Any], options: argparse.Namespace, seed: int
) -> TrainingCrosscoder:
    """Train a crosscoder with the settings of the command's default otherwise."""
    torch.manual_seed(seed)
    base = {
        "architecture": "crosscoder",
        "d_in": data.model.d_in,
        "n_hooks": data.model.n_hooks,
        "d_sae": 2048,
        "k": 32,
    }
    cfg = TrainingSAEConfig.from_dict({**base, **fields})
    sae = TrainingSAE.from_dict(cfg.to_dict())
    assert isinstance(sae, TrainingCrosscoder)
    n_steps = options.tokens // options.batch
    trainer_cfg = SAETrainerConfig(
        total_training_samples=n_steps * options.batch,
        lr=options.lr,
        lr_end=options.lr,
        lr_warm_up_steps=n_steps // 20,
        lr_decay_steps=n_steps // 4,
        train_batch_size_samples=options.batch,
        dead_feature_window=50,
        feature_sampling_window=10**6,
    )
    with contextlib.redirect_stderr(io.StringIO()):
        SAETrainer(trainer_cfg, sae, data.batches(options.batch, seed)).fit()
    return sae


@torch.no_grad()
def figures(sae: TrainingCrosscoder, held_out: torch.Tensor) -> dict[str, float]:
    """Figures of the exported dictionary on held-out modules."""
    exported = sae.to_inference()
    variance = ExplainedVariance(sae.hook_scales.scale)
    activity = LatentActivity(sae.cfg.d_sae)
    for x in held_out.float().split(4096):
        z = exported.encode(x)
        variance.update(sae.per_hook(x), sae.per_hook(exported.decode(z)))
        activity.update(z)
    per_hook, pooled = variance.compute()
    l0, n_dead = activity.compute()
    return {"pooled": pooled, "first": per_hook[0], "last": per_hook[-1], "L0": l0, "dead": n_dead}


def main() -> None:
    """Run every setting and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=int, default=400_000)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--only", help="settings whose name contains this")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    data = EmbeddedActivations(options.tokens + 10_000, 30_000)
    print(
        f"{options.tokens:,} tokens, batch {options.batch}, lr {options.lr:g}, 2,048 latents, k 32"
    )
    for name, fields in SETTINGS.items():
        if options.only and options.only not in name:
            continue
        for seed in range(options.seeds):
            started = time.perf_counter()
            measured = figures(train(data, fields, options, seed), data.held_out)
            print(
                f"{name:42} seed {seed}  explained variance {measured['pooled']:.4f}  "
                f"first {measured['first']:.3f}  last {measured['last']:.3f}  "
                f"L0 {measured['L0']:.1f}  dead {measured['dead']:4.0f}  "
                f"{time.perf_counter() - started:.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
