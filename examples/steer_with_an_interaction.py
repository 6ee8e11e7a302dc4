"""Steer the embedded language model with two latents and with what they add together.

    python examples/steer_with_an_interaction.py [FOLDER]

1. Trains a small poly_topk on the residual stream of the embedded model (a minute or two), or
   loads the dictionary in FOLDER, as ``python -m sae_lens_poly train --architecture poly_topk
   --output_path FOLDER`` saves it.
2. Ranks pairs of latents by what they add in degree 2, and takes the strongest one whose latents
   are active together somewhere in the text.
3. Adds to the residual stream, at every position of a prompt: nothing; s (d_i + d_j); and
   s (d_i + d_j) + s^2 B_ij. Prints how the prediction of the next token changes.
"""

from __future__ import annotations

import sys
import tempfile
from typing import Any

import torch
from sae_lens import SAE, LanguageModelSAERunnerConfig, LanguageModelSAETrainingRunner
from sae_lens.config import LoggingConfig

from sae_lens_poly import PolyTopKTrainingSAEConfig
from sae_lens_poly.analysis.interactions import (
    pair_strengths,
    strongest_pairs,
    typical_activations,
)
from sae_lens_poly.analysis.steering import add_to_residual, interaction_direction
from sae_lens_poly.embedded.corpus import stdlib_dataset
from sae_lens_poly.embedded.model import load_embedded_model

HOOK = "blocks.3.hook_resid_post"
PROMPT = "def read(path):\n    with open(path) as file:\n        return file."


def train(model: Any, tokens: int = 150_000) -> SAE[Any]:
    """A small polynomial SAE, by SAELens' runner."""
    with tempfile.TemporaryDirectory() as folder:
        cfg = LanguageModelSAERunnerConfig(
            sae=PolyTopKTrainingSAEConfig(d_in=model.cfg.d_model, d_sae=1024, k=32),
            model_name="embedded",
            hook_name=HOOK,
            dataset_path="stdlib",
            is_dataset_tokenized=False,
            exclude_special_tokens=True,
            training_tokens=tokens,
            train_batch_size_tokens=512,
            context_size=256,
            n_batches_in_buffer=32,
            store_batch_size_prompts=16,
            lr=1e-3,
            lr_end=1e-3,
            output_path=folder,
            checkpoint_path=None,
            logger=LoggingConfig(log_to_wandb=False),
            verbose=False,
        )
        LanguageModelSAETrainingRunner(cfg, stdlib_dataset("train"), model).run()
        return SAE.load_from_disk(folder)


@torch.no_grad()
def codes_of_text(sae: SAE[Any], model: Any, n_texts: int = 40) -> torch.Tensor:
    """Codes (n, d_sae) of the beginnings of held-out modules, BOS left out."""
    codes = []
    for text in stdlib_dataset("held_out")["text"][:n_texts]:
        tokens = model.to_tokens(text)[:, :256]
        _, cache = model.run_with_cache(tokens, names_filter=HOOK)
        codes.append(sae.encode(cache[HOOK][0, 1:]))
    return torch.cat(codes)


@torch.no_grad()
def main() -> None:
    """Train or load, choose a pair, steer."""
    model = load_embedded_model()
    if len(sys.argv) > 1:
        sae = SAE.load_from_disk(sys.argv[1])
    else:
        with torch.enable_grad():
            sae = train(model)

    z = codes_of_text(sae, model)
    top = strongest_pairs(sae, 50, scales=typical_activations([z]))
    together = ((z[:, top.pairs[:, 0]] > 0) & (z[:, top.pairs[:, 1]] > 0)).sum(dim=0)
    print("strongest pairs at typical activations, and on how many tokens both are active:")
    for (i, j), strength, n in list(zip(top.pairs.tolist(), top.strengths, together, strict=True))[
        :5
    ]:
        print(f"  {i:5} {j:5}  {strength:.4f}  {int(n)} of {len(z)}")
    if not together.any():
        raise SystemExit("none of the 50 strongest pairs is ever active together; train longer")
    i, j = top.pairs[together.nonzero()[0, 0]].tolist()
    size = pair_strengths(sae, torch.tensor([[i, j]]))[0]
    print(f"steering with {i} and {j}: ||B_ij|| = {size:.4f}")

    direction = interaction_direction(sae, i, j)
    both = z[(z[:, i] > 0) & (z[:, j] > 0)]
    strength = both[:, [i, j]].mean().item()
    print(f"typical activation of both: s = {strength:.2f}\nprompt: {PROMPT!r}")
    tokens = model.to_tokens(PROMPT)
    arms = {
        "unsteered": torch.zeros_like(direction.linear),
        "s (d_i + d_j)": direction.at(strength, pair_strength=0),
        "s (d_i + d_j) + s^2 B_ij": direction.at(strength),
    }
    for name, vector in arms.items():
        logits = model.run_with_hooks(tokens, fwd_hooks=[(HOOK, add_to_residual(vector))])
        probabilities = logits[0, -1].softmax(-1)
        best = probabilities.topk(5)
        shown = ", ".join(
            f"{model.to_string(token[None])!r} {p:.2f}"
            for token, p in zip(best.indices, best.values, strict=True)
        )
        print(f"  {name:26} added norm {vector.norm():7.2f}   {shown}")


if __name__ == "__main__":
    main()
