"""Train the embedded language model from nothing: ``python -m sae_lens_poly.embedded.train_model``.

A six-layer transformer on the source of the Python standard library. It is trained as plain
PyTorch with fused attention (on two CPU cores about a third faster than stepping the
TransformerLens model itself) and then written out as the weights of the TransformerLens model
that :func:`sae_lens_poly.embedded.model.load_embedded_model` returns.

An interrupted run continues from its last checkpoint when it is started again.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn

from sae_lens_poly.embedded.corpus import stdlib_modules
from sae_lens_poly.embedded.model import (
    END_OF_TEXT,
    TOKENIZER_FOLDER,
    WEIGHTS_FILE,
    bits_per_byte,
    embedded_model_config,
    load_embedded_model,
)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE with ``END_OF_TEXT`` as token 0."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


class Block(nn.Module):
    """Pre-norm attention with rotary positions, then an MLP; all matrices two-dimensional."""

    def __init__(self, d_model: int, n_heads: int, d_mlp: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.ln1, self.ln2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.q, self.k, self.v, self.o = (nn.Linear(d_model, d_model) for _ in range(4))
        self.mlp_in, self.mlp_out = nn.Linear(d_model, d_mlp), nn.Linear(d_mlp, d_model)
        nn.init.zeros_(self.o.weight)
        nn.init.zeros_(self.mlp_out.weight)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        def heads(y: torch.Tensor) -> torch.Tensor:
            return y.view(*y.shape[:2], self.n_heads, -1).transpose(1, 2)

        def rotate(y: torch.Tensor) -> torch.Tensor:
            first, second = y.chunk(2, dim=-1)
            return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)

        h = self.ln1(x)
        mixed = F.scaled_dot_product_attention(
            rotate(heads(self.q(h))), rotate(heads(self.k(h))), heads(self.v(h)), is_causal=True
        )
        x = x + self.o(mixed.transpose(1, 2).flatten(2))
        return x + self.mlp_out(F.gelu(self.mlp_in(self.ln2(x)), approximate="tanh"))


class Transformer(nn.Module):
    """The embedded model as plain PyTorch: ``(batch, pos)`` tokens to logits."""

    cos: torch.Tensor
    sin: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        cfg = embedded_model_config()
        assert cfg.d_mlp is not None
        self.embed = nn.Embedding(cfg.d_vocab, cfg.d_model)
        nn.init.normal_(self.embed.weight, std=0.1)
        self.blocks = nn.ModuleList(
            Block(cfg.d_model, cfg.n_heads, cfg.d_mlp) for _ in range(cfg.n_layers)
        )
        self.ln_final = nn.LayerNorm(cfg.d_model)
        self.unembed = nn.Linear(cfg.d_model, cfg.d_vocab)
        nn.init.zeros_(self.unembed.weight)
        half = cfg.d_head // 2
        angles = torch.arange(cfg.n_ctx)[:, None] * cfg.rotary_base ** (-torch.arange(half) / half)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        n = tokens.shape[1]
        for block in self.blocks:
            x = block(x, self.cos[:n], self.sin[:n])
        return self.unembed(self.ln_final(x))


def to_transformer_lens_weights(model: Transformer) -> dict[str, torch.Tensor]:
    """The same function as a TransformerLens state dict (half precision)."""
    cfg = embedded_model_config()
    weights = {
        "embed.W_E": model.embed.weight,
        "ln_final.w": model.ln_final.weight,
        "ln_final.b": model.ln_final.bias,
        "unembed.W_U": model.unembed.weight.T,
        "unembed.b_U": model.unembed.bias,
    }
    for i, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        p = f"blocks.{i}"
        for name, layer in (("Q", block.q), ("K", block.k), ("V", block.v)):
            per_head = layer.weight.view(cfg.n_heads, cfg.d_head, cfg.d_model)
            weights[f"{p}.attn.W_{name}"] = per_head.transpose(1, 2)
            weights[f"{p}.attn.b_{name}"] = layer.bias.view(cfg.n_heads, cfg.d_head)
        weights[f"{p}.attn.W_O"] = block.o.weight.T.reshape(cfg.n_heads, cfg.d_head, cfg.d_model)
        weights[f"{p}.attn.b_O"] = block.o.bias
        weights[f"{p}.mlp.W_in"], weights[f"{p}.mlp.b_in"] = (
            block.mlp_in.weight.T,
            block.mlp_in.bias,
        )
        weights[f"{p}.mlp.W_out"] = block.mlp_out.weight.T
        weights[f"{p}.mlp.b_out"] = block.mlp_out.bias
        for name, norm in (("ln1", block.ln1), ("ln2", block.ln2)):
            weights[f"{p}.{name}.w"], weights[f"{p}.{name}.b"] = norm.weight, norm.bias
    return {k: w.detach().to(torch.float16).contiguous() for k, w in weights.items()}


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised by Newton-Schulz steps (Jordan et al., 2024).

    ``torch.optim.Muon`` iterates in bfloat16, which a CPU without bfloat16 units emulates many
    times slower than float32; here the iteration runs in the dtype of the gradient.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
                momentum.lerp_(p.grad, 0.05)
                update = orthogonalise(p.grad.lerp(momentum, 0.95))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-group["lr"] * max(1.0, p.shape[0] / p.shape[1]) ** 0.5)


def orthogonalise(matrix: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Push the singular values of a matrix towards 1 with the quintic Newton-Schulz iteration."""
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


def learning_rate_factor(step: int, steps: int, warm_up: int, decay_fraction: float) -> float:
    """Linear warm-up, constant, linear decay to zero over the last part of the run."""
    return min(1.0, (step + 1) / warm_up, (steps - step) / (decay_fraction * steps))


def windows(
    documents: list[torch.Tensor], batch_size: int, context_size: int, seed: int
) -> Iterator[torch.Tensor]:
    """Endless batches (batch_size, context_size): passes over shuffled documents, end to end."""
    for epoch in itertools.count():
        generator = torch.Generator().manual_seed(seed + epoch)
        order = torch.randperm(len(documents), generator=generator).tolist()
        stream = torch.cat([documents[i] for i in order])
        offset = int(torch.randint(context_size, (1,), generator=generator))
        n = (len(stream) - offset) // context_size
        rows = stream[offset : offset + n * context_size].view(n, context_size)
        rows = rows[torch.randperm(n, generator=generator)]
        yield from rows[: n - n % batch_size].split(batch_size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--context_size", type=int, default=512)
    parser.add_argument("--vocab_size", type=int, default=4096)
    parser.add_argument("--lr_matrices", type=float, default=0.02, help="Muon")
    parser.add_argument("--lr_others", type=float, default=0.004, help="Adam")
    parser.add_argument("--decay_fraction", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", type=Path, default=Path("build/embedded_model.pt"))
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    modules = stdlib_modules("train")
    tokenizer = train_tokenizer((m.text for m in modules), args.vocab_size)
    tokenizer.save(str(TOKENIZER_FOLDER / "tokenizer.json"), pretty=False)
    documents = [
        torch.tensor([0, *encoding.ids])
        for encoding in tokenizer.encode_batch([m.text for m in modules])
    ]
    print(f"{len(documents)} modules, {sum(map(len, documents)) / 1e6:.2f}M tokens", flush=True)

    model = Transformer()
    matrices = [p for n, p in model.blocks.named_parameters() if p.ndim == 2]
    ids = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in ids]
    optimizers: list[torch.optim.Optimizer] = [
        Muon(matrices, lr=args.lr_matrices, weight_decay=0.02),
        torch.optim.Adam(others, lr=args.lr_others, betas=(0.9, 0.95)),
    ]
    schedulers = [
        torch.optim.lr_scheduler.LambdaLR(
            o, lambda s: learning_rate_factor(s, args.steps, 100, args.decay_fraction)
        )
        for o in optimizers
    ]
    parts: list[Any] = [*optimizers, *schedulers]

    first_step = 0
    if args.checkpoint.exists():
        state = torch.load(args.checkpoint)
        first_step = state["step"]
        model.load_state_dict(state["model"])
        for part, saved in zip(parts, state["parts"], strict=True):
            part.load_state_dict(saved)
        print(f"going on from step {first_step} of {args.checkpoint}", flush=True)

    start, running = time.time(), None
    for step, tokens in enumerate(
        windows(documents, args.batch_size, args.context_size, args.seed)
    ):
        if step < first_step:
            continue
        if step == args.steps:
            break
        logits = model(tokens)[:, :-1]
        loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for part in parts:
            part.step()
        model.zero_grad()
        running = loss.item() if running is None else 0.99 * running + 0.01 * loss.item()
        if (step + 1) % 100 == 0:
            rate = (step + 1 - first_step) * tokens.numel() / (time.time() - start)
            print(f"step {step + 1} loss {running:.3f} {rate:.0f} tokens/s", flush=True)
        if (step + 1) % 500 == 0:
            args.checkpoint.parent.mkdir(parents=True, exist_ok=True)
            state = {
                "step": step + 1,
                "model": model.state_dict(),
                "parts": [part.state_dict() for part in parts],
            }
            torch.save(state, args.checkpoint)

    save_file(to_transformer_lens_weights(model), WEIGHTS_FILE)
    figures = bits_per_byte(load_embedded_model())
    print(f"held-out modules: {figures.model:.3f} bits per byte; xz -9: {figures.xz:.3f}")


if __name__ == "__main__":
    main()
