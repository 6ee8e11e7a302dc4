"""Train the embedded hybrid model from nothing: ``python -m scripts.train_hybrid_model``.

On the text of the embedded model, with its tokenizer and its optimisers. Products are in bfloat16,
weights in float32; they are saved in half precision.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from sae_lens.load_model import HookedProxyLM
from torch import nn
from transformers import AutoModelForCausalLM

from sae_lens_poly.embedded.corpus import stdlib_modules
from sae_lens_poly.embedded.hybrid import HYBRID_FOLDER, hybrid_model_config, load_hybrid_model
from sae_lens_poly.embedded.model import bits_per_byte, load_embedded_model, load_embedded_tokenizer
from sae_lens_poly.embedded.train_model import Muon, learning_rate_factor, windows
from sae_lens_poly.models.hugging_face import HuggingFaceModel


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--context_size", type=int, default=512)
    parser.add_argument("--lr_matrices", type=float, default=0.02, help="Muon")
    parser.add_argument("--lr_others", type=float, default=0.004, help="Adam")
    parser.add_argument("--decay_fraction", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=HYBRID_FOLDER)
    parser.add_argument("--no_figures", action="store_true", help="leave bits per byte out")
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    tokenizer = load_embedded_tokenizer()
    documents = [
        torch.tensor([0, *ids])
        for ids in tokenizer([m.text for m in stdlib_modules("train")])["input_ids"]
    ]
    model = AutoModelForCausalLM.from_config(hybrid_model_config())
    for name, module in model.named_modules():
        if name.endswith(("out_proj", "o_proj", "down_proj", "lm_head")):
            nn.init.zeros_(module.weight)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f}M parameters", flush=True)

    matrices = [p for n, p in model.model.layers.named_parameters() if p.ndim == 2]
    ids = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in ids]
    optimizers = [
        Muon(matrices, lr=args.lr_matrices, weight_decay=0.02),
        torch.optim.Adam(others, lr=args.lr_others, betas=(0.9, 0.95)),
    ]
    schedulers = [
        torch.optim.lr_scheduler.LambdaLR(
            o, lambda s: learning_rate_factor(s, args.steps, 50, args.decay_fraction)
        )
        for o in optimizers
    ]

    start, running = time.time(), None
    batches = windows(documents, args.batch_size, args.context_size, args.seed)
    for step, tokens in zip(range(args.steps), batches, strict=False):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(tokens, use_cache=False).logits[:, :-1]
        loss = F.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for part in [*optimizers, *schedulers]:
            part.step()
        model.zero_grad()
        running = loss.item() if running is None else 0.98 * running + 0.02 * loss.item()
        if (step + 1) % 50 == 0:
            rate = (step + 1) * tokens.numel() / (time.time() - start)
            print(f"step {step + 1} loss {running:.3f} {rate:.0f} tokens/s", flush=True)

    model.to(torch.float16).save_pretrained(args.output)
    if not args.no_figures:
        hybrid = HuggingFaceModel.of(HookedProxyLM(load_hybrid_model(), tokenizer, hook_names=[]))
        for name, each in (("hybrid", hybrid), ("stdlib-6l", load_embedded_model())):
            figures = bits_per_byte(each, context=512)
            print(f"{name}: {figures.model:.3f} bits per byte of held-out modules", flush=True)


if __name__ == "__main__":
    main()
