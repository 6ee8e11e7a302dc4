"""Products with a sparse code, which touch active latents only, in forward and backward.

A dictionary of 16,384 latents of which 64 are active spends most of a dense training step on
zeros. A code is kept here as a coalesced sparse COO tensor (n, d_sae), which is what SAELens'
trainer takes for ``use_sparse_activations``; gradients reach it through its values.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from sae_lens.saes.sae import SAE
from torch.autograd.function import once_differentiable

# One product is a CSR one, and torch announces that on first use. The tests pin its numbers.
warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")

#: What the sparse products are computed in; a narrower dtype takes the dense ones.
SPARSE_DTYPES = (torch.float32, torch.float64)


class ActivePattern:
    """Which latents are active for which token, by token and, when asked for, by latent.

    Args:
        rows: Token of each active entry, ascending, (nnz,).
        cols: Latent of each active entry, (nnz,).
        shape: (n, d_sae).
    """

    def __init__(self, rows: torch.Tensor, cols: torch.Tensor, shape: tuple[int, int]) -> None:
        self.rows, self.cols, self.shape = rows, cols, shape

    @cached_property
    def row_starts(self) -> torch.Tensor:
        """Where each token's entries start, with the end, (n + 1,)."""
        return _starts(self.rows, self.shape[0])

    @cached_property
    def by_latent(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The order of the entries by latent (nnz,), and where each latent's start (d_sae + 1,)."""
        return self.cols.argsort(stable=True), _starts(self.cols, self.shape[1])

    def times(self, values: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
        """``Z @ dense`` for entries ``values`` (nnz,) and ``dense`` (d_sae, m): (n, m)."""
        return _weighted_row_sums(self.cols, values, self.row_starts, dense)

    def transposed_times(self, values: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
        """``Z^T @ dense`` for entries ``values`` (nnz,) and ``dense`` (n, m): (d_sae, m)."""
        order, starts = self.by_latent
        return _weighted_row_sums(self.rows[order], values[order], starts, dense)

    def entries_of_product(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """The entries (nnz,) of ``left @ right^T``, (n, m) and (d_sae, m), at the active places."""
        zeros = torch.sparse_csr_tensor(
            self.row_starts,
            self.cols,
            left.new_zeros(len(self.cols)),
            self.shape,
            check_invariants=False,
        )
        return torch.sparse.sampled_addmm(zeros, left, right.T, beta=0.0).values()


def _starts(sorted_or_not: torch.Tensor, n: int) -> torch.Tensor:
    counts = torch.bincount(sorted_or_not, minlength=n)
    return F.pad(counts.cumsum(0), (1, 0))


def _weighted_row_sums(
    indices: torch.Tensor, weights: torch.Tensor, starts: torch.Tensor, table: torch.Tensor
) -> torch.Tensor:
    return F.embedding_bag(
        indices,
        table,
        starts,
        mode="sum",
        per_sample_weights=weights.to(table.dtype),
        include_last_offset=True,
    )


class _CodeTimesDense(torch.autograd.Function):
    """``Z @ dense``, differentiable in the entries of Z and in ``dense``."""

    @staticmethod
    def forward(
        ctx: Any, values: torch.Tensor, dense: torch.Tensor, pattern: ActivePattern
    ) -> torch.Tensor:
        ctx.pattern = pattern
        ctx.save_for_backward(values, dense)
        return pattern.times(values, dense)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad,) = grads
        values, dense = ctx.saved_tensors
        grad = grad.contiguous()
        wants_values, wants_dense, _ = ctx.needs_input_grad
        return (
            ctx.pattern.entries_of_product(grad, dense) if wants_values else None,
            ctx.pattern.transposed_times(values, grad) if wants_dense else None,
            None,
        )


class _ActivePreActivations(torch.autograd.Function):
    """Entries of ``sae_in W_enc + b_enc`` that were computed already, with their gradient.

    ``sae_in`` is ``seen * (x - b_dec)``, or comes with a gradient of its own.
    """

    @staticmethod
    def forward(
        ctx: Any,
        values: torch.Tensor,
        sae_in: torch.Tensor,
        W_enc: torch.Tensor,
        b_enc: torch.Tensor,
        b_dec: torch.Tensor | None,
        seen: torch.Tensor | None,
        pattern: ActivePattern,
    ) -> torch.Tensor:
        ctx.pattern, ctx.seen = pattern, seen
        ctx.save_for_backward(sae_in, W_enc)
        return values.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad,) = grads
        sae_in, W_enc = ctx.saved_tensors
        pattern: ActivePattern = ctx.pattern
        grad_W_enc = pattern.transposed_times(grad, sae_in).T
        grad_b_enc = grad.new_zeros(pattern.shape[1]).index_add_(0, pattern.cols, grad)
        grad_sae_in = pattern.times(grad, W_enc.T) if ctx.needs_input_grad[1] else None
        grad_b_dec = None
        if ctx.needs_input_grad[4]:
            grad_b_dec = -_times_b_enc_gradient(W_enc, grad, grad_b_enc, ctx.seen, pattern)
        return None, grad_sae_in, grad_W_enc, grad_b_enc, grad_b_dec, None, None


def _times_b_enc_gradient(
    W_enc: torch.Tensor,
    grad: torch.Tensor,
    grad_b_enc: torch.Tensor,
    seen: torch.Tensor | None,
    pattern: ActivePattern,
) -> torch.Tensor:
    """``sum_t seen_t * (W_enc grad_t)``, (d_in,): b_dec is the same for all tokens that see it."""
    if seen is None:
        return W_enc @ grad_b_enc
    per_part = grad.new_zeros(pattern.shape[1], seen.shape[1])
    per_part.index_add_(0, pattern.cols, grad[:, None] * seen[pattern.rows].to(grad.dtype))
    parts = W_enc.unflatten(0, (seen.shape[1], -1))
    return torch.einsum("ldf,fl->ld", parts, per_part).flatten()


def encode_sparsely(
    sae_in: torch.Tensor,
    hidden_pre: torch.Tensor,
    rows: torch.Tensor,
    cols: torch.Tensor,
    W_enc: torch.Tensor,
    b_enc: torch.Tensor,
    b_dec: torch.Tensor | None,
    seen: torch.Tensor | None = None,
) -> torch.Tensor:
    """The pre-activations of chosen entries, as a sparse tensor with gradients.

    Args:
        sae_in: What W_enc is applied to, (n, d_in). Its gradient is taken if it asks for one.
        hidden_pre: ``sae_in @ W_enc + b_enc``, (n, d_sae), computed without gradient.
        rows: Tokens of the entries, ascending, (nnz,).
        cols: Latents of the entries, ascending within a token, (nnz,).
        W_enc: Shape (d_in, d_sae).
        b_enc: Shape (d_sae,).
        b_dec: What was subtracted from the input to get ``sae_in``, (d_in,); None: nothing that
            needs a gradient here.
        seen: 1 where a token's ``sae_in`` has a part of the input, 0 where it has zeros instead,
            (n, n_parts), parts of equal width; None: all of it.
    """
    shape = (hidden_pre.shape[0], hidden_pre.shape[1])
    values = _ActivePreActivations.apply(
        hidden_pre[rows, cols], sae_in, W_enc, b_enc, b_dec, seen, ActivePattern(rows, cols, shape)
    )
    return _coo(torch.stack([rows, cols]), values, shape)


def code_times(z: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
    """``z @ dense`` for a dense code (..., d_sae) or a sparse one (n, d_sae)."""
    if not z.is_sparse:
        return z @ dense
    z = z.coalesce()
    if z.ndim != 2 or dense.dtype not in SPARSE_DTYPES or torch.is_autocast_enabled(z.device.type):
        return z.to_dense() @ dense
    rows, cols = z.indices()
    pattern = ActivePattern(rows, cols, (z.shape[0], z.shape[1]))
    return _CodeTimesDense.apply(z.values(), dense, pattern)


def map_active(z: torch.Tensor, fn: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """``fn`` of a code elementwise, where ``fn(0) = 0``; a sparse code stays sparse."""
    if not z.is_sparse:
        return fn(z)
    z = z.coalesce()
    return _coo(z.indices(), fn(z.values()), z.shape)


def power(z: torch.Tensor, degree: int) -> torch.Tensor:
    """A code elementwise to a power; a sparse code stays sparse."""
    return map_active(z, lambda active: active.pow(degree))


def scale_latents(z: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """``z * factor`` for a factor per latent, (d_sae,); a sparse code stays sparse."""
    if not z.is_sparse:
        return z * factor
    z = z.coalesce()
    return _coo(z.indices(), z.values() * factor[z.indices()[-1]], z.shape)


def latent_range(z: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    """The codes of the latents from ``start`` up to ``stop``, (n, stop - start)."""
    if not z.is_sparse:
        return z[..., start:stop]
    z = z.coalesce()
    inside = (z.indices()[-1] >= start) & (z.indices()[-1] < stop)
    rows, cols = z.indices()[:, inside]
    return _coo(torch.stack([rows, cols - start]), z.values()[inside], (len(z), stop - start))


def _coo(indices: torch.Tensor, values: torch.Tensor, shape: Any) -> torch.Tensor:
    return torch.sparse_coo_tensor(
        indices, values, shape, is_coalesced=True, check_invariants=False
    )


def can_use_sparse_codes(sae: SAE[Any], x: torch.Tensor) -> bool:
    """Whether a step on ``x`` can go by :func:`encode_sparsely` instead of the dense product.

    Not under ``torch.compile`` (which takes no sparse tensors), under autocast or in half
    precision, nor where a hook wants to see or change what the dense encoder computes.
    """
    return (
        not torch.compiler.is_compiling()
        and torch.is_grad_enabled()
        and x.ndim == 2
        and not x.requires_grad
        and sae.dtype in SPARSE_DTYPES
        and not torch.is_autocast_enabled(x.device.type)
        and not (sae.hook_sae_input.has_hooks() or sae.hook_sae_acts_pre.has_hooks())
    )
