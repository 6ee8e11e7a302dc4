"""The products of :mod:`~sae_lens_poly.architectures.kernels.sparse_code` as Triton kernels.

Sums are in float32, or in float64 for float64. Without triton they cannot be called.
"""

from __future__ import annotations

from typing import Any

import torch

try:
    import triton
    import triton.language as tl
except ImportError:  # `use_triton` says so
    triton = tl = None

_jit: Any = (lambda kernel: kernel) if triton is None else triton.jit

_BLOCK = 256


@_jit
def _weighted_sums(
    out: Any,
    index: Any,
    dense: Any,
    starts: Any,
    weights: Any,
    m: Any,
    sum_dtype: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """One bag, some of the columns."""
    bag = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * block + tl.arange(0, block)
    inside = columns < m
    total = tl.zeros((block,), dtype=sum_dtype)
    for entry in range(tl.load(starts + bag), tl.load(starts + bag + 1)):
        row = tl.load(index + entry)
        weight = tl.load(weights + entry).to(sum_dtype)
        total += weight * tl.load(dense + row * m + columns, mask=inside, other=0).to(sum_dtype)
    tl.store(out + bag * m + columns, total, mask=inside)


@_jit
def _entries_of_product(
    out: Any,
    rows: Any,
    cols: Any,
    left: Any,
    right: Any,
    m: Any,
    sum_dtype: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """One entry."""
    entry = tl.program_id(0).to(tl.int64)
    row, col = tl.load(rows + entry), tl.load(cols + entry)
    total = tl.zeros((block,), dtype=sum_dtype)
    for start in range(0, m, block):
        at = start + tl.arange(0, block)
        one = tl.load(left + row * m + at, mask=at < m, other=0).to(sum_dtype)
        other = tl.load(right + col * m + at, mask=at < m, other=0).to(sum_dtype)
        total += one * other
    tl.store(out + entry, tl.sum(total, axis=0))


def weighted_sums(
    index: torch.Tensor,
    dense: torch.Tensor,
    starts: torch.Tensor,
    per_sample_weights: torch.Tensor,
) -> torch.Tensor:
    """Weighted sums of rows of ``dense`` over bags, as ``embedding_bag`` makes them.

    Args:
        index: Row of each entry, (nnz,).
        dense: Shape (n_rows, m).
        starts: Where each bag's entries start, with the end, (n_bags + 1,).
        per_sample_weights: Of each entry, (nnz,).

    Returns:
        Shape (n_bags, m), in the dtype of ``dense``.
    """
    index, dense, starts = index.contiguous(), dense.contiguous(), starts.contiguous()
    n_bags, m = len(starts) - 1, dense.shape[1]
    out = dense.new_empty(n_bags, m)
    if out.numel():
        weights = per_sample_weights.contiguous()
        grid = (n_bags, triton.cdiv(m, _BLOCK))
        _weighted_sums[grid](out, index, dense, starts, weights, m, _sum_dtype(dense), block=_BLOCK)
    return out


def entries_of_product(
    rows: torch.Tensor, cols: torch.Tensor, left: torch.Tensor, right: torch.Tensor
) -> torch.Tensor:
    """The entries (nnz,) of ``left @ right^T`` at ``rows`` and ``cols``, in float32 or float64."""
    rows, cols = rows.contiguous(), cols.contiguous()
    left, right = left.contiguous(), right.contiguous()
    at_least_float32 = torch.promote_types(right.dtype, torch.float32)
    out = torch.empty(len(rows), dtype=at_least_float32, device=right.device)
    if len(rows):
        _entries_of_product[(len(rows),)](
            out, rows, cols, left, right, right.shape[1], _sum_dtype(right), block=_BLOCK
        )
    return out


def _sum_dtype(tensor: torch.Tensor) -> Any:
    return tl.float64 if tensor.dtype == torch.float64 else tl.float32
