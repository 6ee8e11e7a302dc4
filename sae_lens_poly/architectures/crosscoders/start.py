"""The weights that the training of a crosscoder starts from."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sae_lens_poly.architectures.crosscoders.hook_structure import HookStructure, LatentGroup
from sae_lens_poly.architectures.weights import Dense, Factored, Grouped, MatrixAtoms, Weights


@torch.no_grad()
def start_weights_(cfg: Any, encoder: Weights, decoder: Weights, structure: HookStructure) -> None:
    """Draw the decoder, and the encoder as its transpose or by itself, at the norm of the config.

    Args:
        cfg: ``decoder_init_norm``, ``init_norm_over``, ``same_hook_init`` and ``encoder_init``.
        encoder: Changed in place.
        decoder: Changed in place.
        structure: Which latents read and write which hook points.
    """
    transposed = cfg.encoder_init == "transposed"
    factored = {id(weights): _factored(weights) for weights in (decoder, encoder)}
    forms = [form for form in factored.values() if form is not None]
    for form in forms:
        form.balance_(stack_norm_of(cfg))
    if transposed and len(forms) == 2:
        encoder.copy_from_(decoder)
        return
    for number, group in enumerate(structure.groups):
        rows = (
            forms[0].vectors(group.latents) if transposed and forms else _draw(cfg, group, decoder)
        )
        if factored[id(decoder)] is None:
            _take(_block(decoder, number), rows, group.writes, cfg)
        if factored[id(encoder)] is None:
            rows = rows if transposed else _draw(cfg, group, decoder)
            _take(_block(encoder, number), rows, group.reads, cfg)


def _factored(weights: Weights) -> Factored | MatrixAtoms | None:
    form = weights.forms[0] if isinstance(weights, Grouped) else weights
    return form if isinstance(form, (Factored, MatrixAtoms)) else None


def _block(weights: Weights, number: int) -> Dense:
    """The dense weights of a group of latents."""
    block = weights.forms[number] if isinstance(weights, Grouped) else weights
    assert isinstance(block, Dense)
    return block


def stack_norm_of(cfg: Any) -> float:
    """Norm of a latent's decoder over the stack at the start."""
    # Without a norm, what Kaiming's uniform draws have on average.
    norm = 2**0.5 if cfg.decoder_init_norm is None else cfg.decoder_init_norm
    over_each_hook = cfg.decoder_init_norm is not None and cfg.init_norm_over == "hook"
    return norm * cfg.n_hooks**0.5 if over_each_hook else norm


def _draw(cfg: Any, group: LatentGroup, like: Weights) -> torch.Tensor:
    """Vectors (n_latents, d_in) over the whole stack."""
    b = next(like.parameters())
    n_drawn = 1 if cfg.same_hook_init else like.n_hooks
    shape = (group.stop - group.start, n_drawn, like.d_model)
    drawn = torch.empty(shape, dtype=b.dtype, device=b.device)
    nn.init.kaiming_uniform_(drawn.flatten(1))
    return drawn.expand(-1, like.n_hooks, -1).flatten(1)


def _take(block: Dense, rows: torch.Tensor, hooks: tuple[int, ...], cfg: Any) -> None:
    """Put vectors into a block of weights, at its hook points and with the norm of the config."""
    per_hook = rows.unflatten(1, (cfg.n_hooks, -1))[:, list(hooks)]
    if cfg.decoder_init_norm is not None:
        over = -1 if cfg.init_norm_over == "hook" else (-2, -1)
        norms = torch.linalg.vector_norm(per_hook, dim=over, keepdim=True)
        per_hook = per_hook * (cfg.decoder_init_norm / norms.clamp_min(1e-12))
    block.W.copy_(per_hook.flatten(1))
