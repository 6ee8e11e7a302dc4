"""Products with a sparse code, which touch active latents only, in forward and backward.

A dictionary of 16,384 latents of which 64 are active spends most of a dense training step on
zeros. A code is a coalesced sparse COO tensor (n, d_sae), which is what SAELens' trainer takes for
``use_sparse_activations``; gradients reach it through its values.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import torch
import torch.nn.functional as F
from sae_lens.saes.sae import SAE
from torch.autograd.function import once_differentiable

from sae_lens_poly.errors import InputError

# One product is a CSR one, and torch announces that on first use. The tests pin its numbers.
warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")

#: Weights that sparse products take. Under autocast those are float32: products that touch active
#: latents only are bound by memory, and a narrower copy of the weights costs more than it saves.
SPARSE_DTYPES = (torch.bfloat16, torch.float32, torch.float64)

# Sums over each bag; no frame of Python's between a step and the kernel.
_weighted_sums = partial(F.embedding_bag, mode="sum", include_last_offset=True)

# What takes the place of torch's kernels, by the type of the device; see `use_triton`.
_other_weighted_sums: dict[str, Callable[..., torch.Tensor]] = {}
_other_entries: dict[str, Callable[..., torch.Tensor]] = {}


def use_triton(on: bool = True, device: str = "cuda") -> None:
    """Have products with a sparse code computed by Triton kernels instead of torch's.

    Off by default: they are tested under Triton's interpreter, and have not been timed on a GPU.

    Args:
        on: Whether to.
        device: The type of the devices on which to.

    Raises:
        InputError: If triton is not installed.
    """
    _other_weighted_sums.pop(device, None)
    _other_entries.pop(device, None)
    if not on:
        return
    from sae_lens_poly.architectures.kernels import triton_products  # which takes a while

    if triton_products.triton is None:
        raise InputError("use_triton: there is no triton here: pip install triton")
    _other_weighted_sums[device] = triton_products.weighted_sums
    _other_entries[device] = triton_products.entries_of_product


class ActivePattern:
    """Which latents are active for which token.

    Args:
        rows: Token of each active entry, ascending, (nnz,).
        cols: Latent of each active entry, (nnz,).
        shape: (n, d_sae).
    """

    def __init__(self, rows: torch.Tensor, cols: torch.Tensor, shape: tuple[int, int]) -> None:
        self.rows, self.cols, self.shape = rows, cols, shape
        self.row_starts = F.pad(torch.bincount(rows, minlength=shape[0]).cumsum(0), (1, 0))
        """Where each token's entries start, with the end, (n + 1,)."""

    @cached_property
    def by_latent(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The order of the entries by latent (nnz,), and where each latent's start (d_sae + 1,)."""
        counts = torch.bincount(self.cols, minlength=self.shape[1])
        return self.cols.argsort(stable=True), F.pad(counts.cumsum(0), (1, 0))

    def code(self, values: torch.Tensor) -> torch.Tensor:
        """The sparse tensor (n, d_sae) with these entries (nnz,); it keeps the pattern."""
        indices = torch.stack([self.rows, self.cols])
        z = torch.sparse_coo_tensor(
            indices, values, self.shape, is_coalesced=True, check_invariants=False
        )
        z.active_pattern = self  # type: ignore[attr-defined]
        return z

    def times(self, values: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
        """``Z @ dense`` for entries ``values`` (nnz,) and ``dense`` (d_sae, m): (n, m)."""
        return _other_weighted_sums.get(dense.device.type, _weighted_sums)(
            self.cols,
            dense,
            self.row_starts,
            per_sample_weights=values.to(dense.dtype),
        )

    def transposed_times(self, values: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
        """``Z^T @ dense`` for entries ``values`` (nnz,) and ``dense`` (n, m): (d_sae, m)."""
        order, starts = self.by_latent
        return _other_weighted_sums.get(dense.device.type, _weighted_sums)(
            self.rows[order],
            dense,
            starts,
            per_sample_weights=values[order].to(dense.dtype),
        )

    def entries_of_product(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """The entries (nnz,) of ``left @ right^T``, (n, m) and (d_sae, m), at the active places."""
        if right.device.type in _other_entries:
            return _other_entries[right.device.type](self.rows, self.cols, left, right)
        at_least_float32 = torch.promote_types(right.dtype, torch.float32)  # torch has no narrower
        left, right = left.to(at_least_float32), right.to(at_least_float32)
        zeros = torch.sparse_csr_tensor(
            self.row_starts,
            self.cols,
            left.new_zeros(len(self.cols)),
            self.shape,
            check_invariants=False,
        )
        return torch.sparse.sampled_addmm(zeros, left, right.T, beta=0.0).values()

    def within(self, latents: slice) -> tuple[torch.Tensor, ActivePattern]:
        """Which entries (nnz,) are of these latents, and their pattern among them alone."""
        start, stop, _ = latents.indices(self.shape[1])
        inside = (self.cols >= start) & (self.cols < stop)
        shape = (self.shape[0], stop - start)
        return inside, ActivePattern(self.rows[inside], self.cols[inside] - start, shape)


class _CodeTimesDense(torch.autograd.Function):
    """``Z @ dense``, differentiable in the entries of Z and in ``dense``."""

    @staticmethod
    def forward(
        ctx: Any, values: torch.Tensor, dense: torch.Tensor, pattern: ActivePattern
    ) -> torch.Tensor:
        ctx.pattern = pattern
        ctx.save_for_backward(values, dense)
        return _other_weighted_sums.get(dense.device.type, _weighted_sums)(
            pattern.cols,
            dense,
            pattern.row_starts,
            per_sample_weights=values.to(dense.dtype),
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad,) = grads
        values, dense = ctx.saved_tensors
        grad = grad.contiguous()
        wants_values, wants_dense, _ = ctx.needs_input_grad
        return (
            ctx.pattern.entries_of_product(grad, dense).to(values.dtype) if wants_values else None,
            ctx.pattern.transposed_times(values, grad) if wants_dense else None,
            None,
        )


class ActiveEntries(torch.autograd.Function):
    """Entries (nnz,) of ``x W^T`` that were computed already, with gradients in W, x and b_dec.

    ``apply(values, x, W, b_dec, seen, pattern)``: the entries; what W (d_sae, Q) is applied to,
    (n, Q), whose gradient is taken if it asks for one; what was subtracted from the input to get
    ``x``, (Q,), or None if nothing that needs a gradient here; 1 where a token's ``x`` has a part
    of the input and 0 where it has zeros instead, (n, n_parts), or None for all of it; where the
    entries lie.
    """

    @staticmethod
    def forward(
        ctx: Any,
        values: torch.Tensor,
        x: torch.Tensor,
        W: torch.Tensor,
        b_dec: torch.Tensor | None,
        seen: torch.Tensor | None,
        pattern: ActivePattern,
    ) -> torch.Tensor:
        """The entries as they are."""
        ctx.pattern, ctx.seen = pattern, seen
        ctx.save_for_backward(x, W)
        return values.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad,), pattern = grads, ctx.pattern
        x, W = ctx.saved_tensors
        grad_W = pattern.transposed_times(grad, x)
        grad_x = pattern.times(grad, W) if ctx.needs_input_grad[1] else None
        grad_b_dec = None
        if ctx.needs_input_grad[3]:
            # b_dec is the same for all tokens that see it: -sum_t seen_t * (grad_t W).
            summed = torch.promote_types(grad.dtype, torch.float32)  # over all tokens
            seen = grad.new_ones(len(x), 1) if ctx.seen is None else ctx.seen
            per_part = grad.new_zeros(len(W), seen.shape[1], dtype=summed)
            per_part.index_add_(0, pattern.cols, grad[:, None].to(summed) * seen[pattern.rows])
            parts = W.unflatten(1, (seen.shape[1], -1))
            grad_b_dec = -torch.einsum("fld,fl->ld", parts, per_part.to(W.dtype)).flatten()
        return None, grad_x, grad_W, grad_b_dec, None, None


def code_times(z: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
    """``z @ dense`` for a dense code (..., d_sae) or a sparse one (n, d_sae)."""
    if not z.is_sparse:
        return z @ dense
    z = z.coalesce()
    if z.ndim != 2 or dense.dtype not in SPARSE_DTYPES:
        return z.to_dense() @ dense
    pattern = getattr(z, "active_pattern", None) or pattern_of(z)
    return _CodeTimesDense.apply(z.values(), dense, pattern)


def pattern_of(z: torch.Tensor) -> ActivePattern:
    """The pattern of a coalesced code, which keeps it: several products share the sorting."""
    if getattr(z, "active_pattern", None) is None:
        rows, cols = z.indices()
        z.active_pattern = ActivePattern(rows, cols, (z.shape[0], z.shape[1]))  # type: ignore[attr-defined]
    return z.active_pattern  # type: ignore[attr-defined]


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


def latent_range(z: torch.Tensor, latents: slice) -> torch.Tensor:
    """The codes of some latents, (n, n_latents)."""
    if not z.is_sparse:
        return z[..., latents]
    z = z.coalesce()
    inside, pattern = pattern_of(z).within(latents)
    return pattern.code(z.values()[inside])


def _coo(indices: torch.Tensor, values: torch.Tensor, shape: Any) -> torch.Tensor:
    return torch.sparse_coo_tensor(
        indices, values, shape, is_coalesced=True, check_invariants=False
    )


def can_use_sparse_codes(sae: SAE[Any], x: torch.Tensor) -> bool:
    """Whether a step on ``x`` can go by :class:`ActiveEntries` instead of the dense product.

    Not under ``torch.compile`` (which takes no sparse tensors) or in float16, nor where a hook
    wants to see or change what the dense encoder computes.
    """
    return (
        not torch.compiler.is_compiling()
        and torch.is_grad_enabled()
        and x.ndim == 2
        and not x.requires_grad
        and sae.dtype in SPARSE_DTYPES
        and not sae.hook_sae_input.has_hooks()
        and not sae.hook_sae_acts_pre.has_hooks()
        and not sae.hook_sae_acts_post.has_hooks()
    )
