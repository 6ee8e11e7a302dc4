"""A model whose attention patterns, normalisation scales and MLP outputs are constants.

What is left of it is linear in the embedded tokens and in the outputs of the MLPs, so that one
gradient of a feature's pre-activation, or of a logit, is what every source does to it directly
(Ameisen et al. 2025, "Circuit Tracing").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from transformer_lens import HookedTransformer

from sae_lens_poly.circuits.replacement import (
    MLPReplacement,
    add_skips,
    write_layers,
)
from sae_lens_poly.errors import InputError

Hooks = list[tuple[str, Callable[..., Any]]]


@dataclass(frozen=True)
class CleanRun:
    """What the model does on a prompt of T tokens."""

    logits: torch.Tensor
    """At the last token, (d_vocab,)."""
    embedded: torch.Tensor
    """Embedded tokens, (T, d_model)."""
    codes: torch.Tensor
    """Of the replacement, (T, n_latents); 0 at positions that are left out."""
    outputs: torch.Tensor
    """Of the MLPs, (T, n_layers, d_model)."""
    errors: torch.Tensor
    """What the replacement misses of each of them, (T, n_layers, d_model): all of it for an MLP
    that it does not write; 0 at positions that are left out."""


@torch.no_grad()
def clean_run(
    model: HookedTransformer, replacement: MLPReplacement, tokens: torch.Tensor, n_left_out: int
) -> CleanRun:
    """Run the model on tokens (T,), without codes and errors at the first ``n_left_out``."""
    names = [*replacement.read_hooks, *mlp_outputs(model), "hook_embed"]
    logits, cache = model.run_with_cache(tokens[None], names_filter=names)
    x = torch.stack([cache[name][0] for name in replacement.read_hooks], dim=-2)
    codes = replacement.encode(x)
    codes[:n_left_out] = 0
    out = torch.stack([cache[name][0] for name in mlp_outputs(model)], dim=-2).float()
    errors, written = out.clone(), write_layers(replacement)
    errors[:, written] -= add_skips(replacement, replacement.decode(codes).to(x), x).float()
    errors[:n_left_out] = 0
    return CleanRun(logits[0, -1].float(), cache["hook_embed"][0].float(), codes, out, errors)


def mlp_outputs(model: HookedTransformer) -> list[str]:
    """The hook points of the MLP outputs, by layer."""
    return [f"blocks.{layer}.hook_mlp_out" for layer in range(model.cfg.n_layers)]


def frozen_names(model: HookedTransformer) -> list[str]:
    """The hook points of attention patterns and normalisation scales."""
    return [name for name in model.hook_dict if name.endswith(("hook_pattern", "hook_scale"))]


def check_fit(model: Any, replacement: MLPReplacement) -> None:
    """Refuse a model that the replacement does not fit.

    Raises:
        InputError: If it is no HookedTransformer, or lacks a hook point of the replacement.
    """
    if not isinstance(model, HookedTransformer):
        raise InputError(
            f"model: graphs need TransformerLens' HookedTransformer, and this is a "
            f"{type(model).__name__}: load it with model_class_name='HookedTransformer'"
        )
    for name in (*replacement.read_hooks, *replacement.write_hooks):
        if name not in model.hook_dict:
            raise InputError(f"hook_names: the model has no hook point {name!r} of the dictionary")


class FrozenRun:
    """The linear model of one prompt; gradients of several of its numbers are taken at a time.

    Args:
        model: A TransformerLens model.
        replacement: Whose read hook points targets are read at, and whose skips stay live.
        tokens: Shape (T,).
        batch_size: How many targets :meth:`gradients` takes at most; the prompt is run as often.
    """

    @torch.enable_grad()
    def __init__(
        self,
        model: HookedTransformer,
        replacement: MLPReplacement,
        tokens: torch.Tensor,
        batch_size: int,
    ) -> None:
        self.replacement = replacement
        self._read_at: dict[str, torch.Tensor] = {}
        self.sources: list[torch.Tensor] = []
        hooks: Hooks = [(name, _detach) for name in frozen_names(model)]
        hooks.append(("hook_embed", self._start))
        hooks += [(name, self._read) for name in replacement.read_hooks]
        hooks += [(name, self._cut) for name in mlp_outputs(model)]
        n_layers = model.cfg.n_layers
        with model.hooks(fwd_hooks=hooks):
            residual = model(tokens.expand(batch_size, -1), stop_at_layer=n_layers)
            unembedded = model.ln_final(residual)
        self.reads = [*(self._read_at[name] for name in replacement.read_hooks), unembedded]

    def _start(self, activation: torch.Tensor, hook: Any) -> torch.Tensor:
        self.sources.append(activation.detach().clone().requires_grad_(True))
        return self.sources[0]

    def _read(self, activation: torch.Tensor, hook: Any) -> None:
        self._read_at[hook.name] = activation

    def _cut(self, activation: torch.Tensor, hook: Any) -> torch.Tensor:
        """The same output with no way back through the MLP, but through the skips."""
        nothing = torch.zeros_like(activation, requires_grad=True)
        self.sources.append(nothing)
        out = activation.detach() + nothing
        for skip in self._skips_to(hook.name):
            out = out + skip - skip.detach()
        return out

    def _skips_to(self, hook_name: str) -> Iterator[torch.Tensor]:
        for (read, write), matrix in self.replacement.skips.items():
            if self.replacement.write_hooks[write] == hook_name:
                x = self._read_at[self.replacement.read_hooks[read]]
                yield x @ matrix.to(x)

    @torch.enable_grad()
    def gradients(
        self, reads: torch.Tensor, positions: torch.Tensor, vectors: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Gradients of ``x[read, position] . vector`` for n targets.

        Args:
            reads: Which read hook point each is at, (n,); after the last comes what is unembedded.
            positions: Shape (n,).
            vectors: Shape (n, d_model).

        Returns:
            With respect to the embedded tokens, (n, T, d_model), and to the MLP outputs,
            (n, T, n_layers, d_model).
        """
        total = torch.zeros((), device=vectors.device)
        for read in reads.unique().tolist():
            rows = (reads == read).nonzero().flatten()
            total = total + (self.reads[read][rows, positions[rows]] * vectors[rows]).sum()
        found = torch.autograd.grad(total, self.sources, retain_graph=True, materialize_grads=True)
        embedded, *outputs = (gradient[: len(reads)].float() for gradient in found)
        return embedded, torch.stack(outputs, dim=-2)


def _detach(activation: torch.Tensor, hook: Any) -> torch.Tensor:
    return activation.detach()
