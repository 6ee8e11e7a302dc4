"""The recipe of the embedded models: Muon for matrices, Adam for the rest, and checkpoints."""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


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


def recipe_parser(
    description: str | None, steps: int, context_size: int, checkpoint: Path
) -> argparse.ArgumentParser:
    """The flags of the recipe, with the defaults of a model where models differ."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--context_size", type=int, default=context_size)
    parser.add_argument("--lr_matrices", type=float, default=0.02, help="Muon")
    parser.add_argument("--lr_others", type=float, default=0.004, help="Adam")
    parser.add_argument("--decay_fraction", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", type=Path, default=checkpoint)
    return parser


def train_by_recipe(
    model: nn.Module,
    matrices: list[nn.Parameter],
    logits_of: Callable[[torch.Tensor], torch.Tensor],
    documents: list[torch.Tensor],
    args: argparse.Namespace,
    checkpoint_every: int,
    at_checkpoint: Callable[[], None] = lambda: None,
) -> None:
    """Train a language model in place, from its last checkpoint if there is one.

    Args:
        model: Holds the parameters.
        matrices: Those that Muon trains.
        logits_of: From tokens (batch, pos) to logits (batch, pos, d_vocab).
        documents: Tokens of each, shape (n,).
        args: What :func:`recipe_parser` has read.
        checkpoint_every: Steps between checkpoints.
        at_checkpoint: What else is done at each of them.
    """
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
        logits = logits_of(tokens)[:, :-1]
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
        if (step + 1) % checkpoint_every == 0:
            args.checkpoint.parent.mkdir(parents=True, exist_ok=True)
            state = {
                "step": step + 1,
                "model": model.state_dict(),
                "parts": [part.state_dict() for part in parts],
            }
            torch.save(state, args.checkpoint)
            at_checkpoint()
