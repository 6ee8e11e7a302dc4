"""Scales of activations, taken into the weights: what a dictionary then reads and writes is raw."""

from __future__ import annotations

import torch

from sae_lens_poly.formats.dictionary import Block


def scale_block(block: Block, of_inputs: torch.Tensor, of_outputs: torch.Tensor) -> None:
    """Take scales into a block, in place: ``W_enc s`` and ``W_dec / s``.

    Args:
        block: Of weights that expect activations times a scale.
        of_inputs: The scale of every hook point that it reads, (n_reads,).
        of_outputs: Of every hook point that it writes, (n_writes,).
    """
    if not bool((of_inputs == 1).all()):
        d_model = len(block.W_enc) // len(of_inputs)
        block.W_enc = _wide(block.W_enc) * _repeated(of_inputs, d_model, block.W_enc)[:, None]
    if not bool((of_outputs == 1).all()):
        d_model = block.W_dec.shape[1] // len(of_outputs)
        block.W_dec = _wide(block.W_dec) / _repeated(of_outputs, d_model, block.W_dec)


def unscale(b_dec: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """``b_dec / s``, (n_hooks, d)."""
    if bool((scales == 1).all()):
        return b_dec
    return (b_dec.double() / scales[:, None]).to(_wide(b_dec).dtype)


def _repeated(scales: torch.Tensor, d_model: int, like: torch.Tensor) -> torch.Tensor:
    return scales.to(_wide(like).dtype).repeat_interleave(d_model)


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    """In float32 at least: a product in a narrower dtype is another weight."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
